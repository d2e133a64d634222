"""`python -m uringloop doctor`: does io_uring work here, and if not, what stops it and what is to be changed.

`examine` finds out, `text_of` puts it into words. Why a ring can't be had is told by `unavailable`; here it is
tried: a loop is made and sends itself a message, since a kernel may hand out a ring and then not serve it.

No counterpart in the stdlib.
"""

import asyncio
import errno
import os
import platform
import resource
import socket
import textwrap

from . import IouringProactor, IouringProactorEventLoop, IouringUnavailableError, __version__
from .unavailable import MINIMUM_KERNEL, System, explain

# linux/io_uring.h. {bit: (name, the Linux that brought it)}
_SETUP_FLAGS = {
    3: ("CQSIZE", "5.5"), 7: ("SUBMIT_ALL", "5.18"), 8: ("COOP_TASKRUN", "5.19"), 9: ("TASKRUN_FLAG", "5.19"),
    12: ("SINGLE_ISSUER", "6.0"), 13: ("DEFER_TASKRUN", "6.1"),
}
# Of the kernel's features those that are used, and those without which there is no loop.
_FEATURES = {
    0: ("SINGLE_MMAP", "5.4"), 1: ("NODROP", "5.5"), 8: ("EXT_ARG", "5.11"), 17: ("NO_IOWAIT", "6.15"),
}
_OPERATIONS = ("POLL_ADD", "ASYNC_CANCEL", "SEND", "SENDMSG", "WRITE")
_WAYS_AROUND = {
    "SEND": "send(2)", "SENDMSG": "sendto(2)", "WRITE": "write(2)", "ASYNC_CANCEL": "POLL_REMOVE",
}
_RUNGS = (
    "the best: SINGLE_ISSUER and DEFER_TASKRUN, Linux 6.1",
    "the second: COOP_TASKRUN, Linux 5.19",
    "the lowest: no flags but those of every rung",
)
_NAMES = {
    "seccomp": "a seccomp filter stops it",
    "sysctl": "the setting kernel.io_uring_disabled stops it",
    "kernel": "the kernel is too old, or built without it",
    "memlock": "the limit of locked memory stops it",
    "memory": "there is no memory for it",
    "files": "the limit of open files stops it",
    "system-files": "the system's limit of open files stops it",
    "security-module": "a security module or a sandbox stops it",
    "restriction": "an operation that it needs is refused",
    "descriptor": "the ring's descriptor is not its own any more",
    "refused": "the kernel refuses to be entered",
    "unknown": "it is not known what stops it",
}
_PATIENCE = 10.0  # seconds that a message to oneself may take
_WIDTH = 100


def examine(*, kernel=None, proc="/proc", release=None, getrlimit=resource.getrlimit):
    """Find out whether a loop on io_uring can be made here and runs.

    kernel: for tests, a capsule of system calls, see IouringProactor.
    proc, release, getrlimit: where to look, as for unavailable.explain().

    Returns a dict of what JSON knows. "works" is True or False; "cause", "call", "errno" and "explanation" are None
    where it works, else as the attributes and the text of an IouringUnavailableError. Of the ring, where there is
    one: "rung" (0 to 2), "setup_flags", "features", "operations", "refused", "memory_per_loop" (bytes). Of the
    system: "kernel", "seccomp", "io_uring_disabled", "io_uring_group", "memlock" (bytes), each None where the system
    does not say it or there is no limit. "notes": sentences about what could be better.
    """
    system = System(proc, release, getrlimit)
    found = {
        "works": False, "cause": None, "call": None, "errno": None, "explanation": None,
        "rung": None, "setup_flags": None, "features": None, "operations": None, "refused": None,
        "memory_per_loop": None,
        "kernel": system.release(),
        "seccomp": {"0": "off", "1": "strict", "2": "filter"}.get(system.status("Seccomp")),
        "io_uring_disabled": system.number("sys/kernel/io_uring_disabled"),
        "io_uring_group": system.number("sys/kernel/io_uring_group"),
        "memlock": system.limit(resource.RLIMIT_MEMLOCK),
        "memlock_counts": not system.capable_of_locking(),
        "notes": [],
        "uringloop": __version__, "python": platform.python_version(),
    }
    try:
        _try_loop(kernel, found)
    except IouringUnavailableError as exc:
        told = explain(exc.errno, stage=exc.call, memory_needed=exc.memory_needed,
                       proc=proc, release=release, getrlimit=getrlimit)
        found.update(cause=told.cause, call=told.call, errno=errno.errorcode.get(told.errno, str(told.errno)),
                     explanation=told.strerror)
    except Exception as exc:
        found.update(cause="unknown", explanation=f"a loop could be made, and did not work: {exc!r}. Please report it.")
    else:
        found["works"] = True
        found["notes"] = _notes(found)
    return found


def _try_loop(kernel, found):
    proactor = IouringProactor(kernel=kernel)
    ring = proactor._ring
    try:
        found.update(
            rung=ring.rung,
            setup_flags=[name for bit, (name, _) in _SETUP_FLAGS.items() if ring.setup_flags >> bit & 1],
            features=[name for bit, (name, _) in _FEATURES.items() if ring.kernel_features >> bit & 1],
            operations=[name for name in _OPERATIONS if name not in ring.refused],
            refused=list(ring.refused),
            memory_per_loop=ring.memory_needed,
        )
        loop = IouringProactorEventLoop(proactor)
    except BaseException:
        proactor.close()
        raise
    # What a loop that fails leaves behind is no news.
    loop.set_exception_handler(lambda *_: None)
    try:
        # First without anything that would be left open where the ring does not serve its loop.
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.run_until_complete(_send_to_oneself())
    finally:
        loop.close()


async def _send_to_oneself():
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(sock=ours)
            writer.write(b"to oneself")
            received = await asyncio.get_running_loop().sock_recv(theirs, 100)
            await asyncio.get_running_loop().sock_sendall(theirs, received)
            answer = await reader.readexactly(len(b"to oneself"))
            writer.close()
            await writer.wait_closed()
    if answer != b"to oneself":
        raise RuntimeError(f"{answer!r} has come back")


def _notes(found):
    notes = []
    if found["rung"]:
        notes.append(f"Rung {found['rung']} costs more CPU than rung 0, which a kernel from Linux 6.1 on has.")
    for name in found["refused"]:
        notes.append(f"{name} is refused or unknown: {_WAYS_AROUND[name]} is used in its place, at the cost of a system call.")
    limit = found["memlock"]
    if limit is not None and found["memlock_counts"] and limit < 16 * found["memory_per_loop"]:
        notes.append(
            f"RLIMIT_MEMLOCK is enough for {limit // found['memory_per_loop']} loops of this user, all processes "
            "together: `ulimit -l`, LimitMEMLOCK= or `docker run --ulimit memlock=BYTES` raises it.")
    if found["io_uring_disabled"] == 1:
        notes.append("kernel.io_uring_disabled is 1: other users of this machine may be refused.")
    return notes


def text_of(found):
    """Put what examine() returned into words; the text ends with a newline."""
    if found["works"]:
        lines = ["io_uring works here: a loop was made, and has run."]
    else:
        lines = [f"io_uring does not work here: {_NAMES[found['cause']]}.", ""]
        lines += textwrap.wrap(found["explanation"], _WIDTH, break_on_hyphens=False, break_long_words=False)
    if found["call"] is not None:
        # (A loop that could be made is what fallback=True gives, whether or not it works.)
        lines += ["", *textwrap.wrap(
            "Until then: uringloop.run(main(), fallback=True) and uringloop.new_event_loop(fallback=True) run on asyncio's "
            "own loop here, and say so by a RuntimeWarning.", _WIDTH, break_on_hyphens=False)]
    lines.append("")
    for name, value in _facts(found):
        lines += textwrap.wrap(value, _WIDTH, initial_indent=f"  {name:<12}", subsequent_indent=14 * " ",
                               break_on_hyphens=False, break_long_words=False)
    if found["notes"]:
        lines.append("")
        for note in found["notes"]:
            lines += textwrap.wrap(note, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _facts(found):
    yield "kernel", f"Linux {found['kernel']} ({'.'.join(map(str, MINIMUM_KERNEL))} or newer is needed)"
    if found["rung"] is not None:
        yield "set-up", f"rung {found['rung']} of 0 to 2, {_RUNGS[found['rung']]}; flags: {' '.join(found['setup_flags'])}"
        yield "features", " ".join(
            name if name in found["features"] else f"(not {name}: Linux {since})" for name, since in _FEATURES.values())
        refused = [f"{name}: {_WAYS_AROUND[name]}" for name in found["refused"]]
        yield "operations", " ".join(found["operations"]) + (f"; in other ways: {', '.join(refused)}" if refused else "")
        limit = found["memlock"]
        counted = ("unlimited" if limit is None else f"{limit:,} bytes") + (
            "" if found["memlock_counts"] else ", and not counted: this process may lock memory")
        yield "memory", f"{found['memory_per_loop']:,} bytes of locked memory a loop; RLIMIT_MEMLOCK: {counted}"
    yield "seccomp", {"off": "no filter", "strict": "strict mode", "filter": "a filter is active",
                      None: "unknown"}[found["seccomp"]]
    if found["io_uring_disabled"] is None:
        yield "sysctl", "kernel.io_uring_disabled is not there (it came with Linux 6.6)"
    else:
        yield "sysctl", (f"kernel.io_uring_disabled = {found['io_uring_disabled']}, "
                         f"kernel.io_uring_group = {found['io_uring_group']}")
    yield "versions", f"uringloop {found['uringloop']}, Python {found['python']}, {os.uname().machine}"
