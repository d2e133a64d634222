"""What is compared: event loops, each in an interpreter, and servers in C."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# Every ratio is to this one.
BASE = "uvloop"

# Both receive into 256 KiB, which glibc maps and unmaps for each message unless its thresholds are above that. With this
# they are in their strongest form.
LARGE_THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": "8000000", "MALLOC_TRIM_THRESHOLD_": "16000000"}

# What would make a loop another one than its users have.
CLEARED = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONMALLOC", "PYTHONPATH", *LARGE_THRESHOLDS)


@dataclass(frozen=True)
class Peer:
    """An event loop, or, with a program, a server in C."""

    name: str
    factory: str = ""  # module:function
    arguments: dict = field(default_factory=dict)  # of the factory
    environment: dict = field(default_factory=dict)
    python: str = sys.executable
    path: str = ""  # a directory that comes first on sys.path
    program: str = ""
    kinds: tuple = ()  # which servers the program can be

    def command(self, what, *arguments):
        """The arguments of the process in which the peer does `what` (see peer_process.py)."""
        return [self.python, str(HERE / "peer_process.py"), self.factory, json.dumps(self.arguments), what, *arguments]

    def variables(self):
        """The process's environment."""
        cleared = {name: value for name, value in os.environ.items() if name not in CLEARED}
        return cleared | self.environment | ({"PYTHONPATH": self.path} if self.path else {})

    def version(self):
        """Make a loop and close it; return the peer's version, or raise LookupError with why there is none."""
        try:
            done = subprocess.run(self.command("version"), env=self.variables(), capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise LookupError(str(exc)) from None
        if done.returncode:
            raise LookupError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
        return done.stdout.strip()


KNOWN = {
    peer.name: peer
    for peer in (
        Peer("ours", "uringloop:new_event_loop", path=str(ROOT)),
        Peer("ours-stdlib", "uringloop:new_event_loop", {"transports": "stdlib"}, path=str(ROOT)),
        Peer("asyncio", "asyncio:SelectorEventLoop"),
        Peer("asyncio-malloc", "asyncio:SelectorEventLoop", environment=LARGE_THRESHOLDS),
        Peer("uvloop", "uvloop:new_event_loop"),
        Peer("uvloop-malloc", "uvloop:new_event_loop", environment=LARGE_THRESHOLDS),
        Peer("c-epoll", program="epoll_server", kinds=("echo", "churn", "udp", "sink", "source")),
        Peer("c-uring", program="uring_server", kinds=("echo", "churn", "udp")),
    )
}


def parse(specification):
    """A peer out of NAME=WHERE[,MODULE:FUNCTION].

    WHERE is an interpreter, or a checkout of this project, built in place: its own interpreter, .venv/bin/python, is
    taken where there is one. MODULE:FUNCTION makes the loop; by default it is uringloop:new_event_loop.
    Raises ValueError where there is no such thing.
    """
    name, equals, rest = specification.partition("=")
    where, _, factory = rest.partition(",")
    if not name or not equals or not os.path.exists(where):
        raise ValueError(f"{specification!r} is not NAME=WHERE[,MODULE:FUNCTION], with a WHERE that exists")
    factory = factory or "uringloop:new_event_loop"
    if not os.path.isdir(where):
        return Peer(name, factory, python=os.path.abspath(where))
    own = Path(where).absolute() / ".venv" / "bin" / "python"
    return Peer(name, factory, python=str(own) if own.exists() else sys.executable, path=os.path.abspath(where))


def missing_why(peer, c_parts):
    """Why a peer can't take part, or None, and its version."""
    if peer.program:
        why = c_parts.failed.get(peer.program)
        return why, "" if why else "C"
    try:
        return None, peer.version()
    except LookupError as exc:
        why = str(exc)
        if peer.arguments.get("transports") and "TypeError" in why:
            why = "this uringloop has no transports argument"
        return why, ""
