"""The programs, and how one is run: in a process of its own, for each loop.

A program is a module of `programs/`.  It is read without being imported, since what it imports may not be installed:

    its docstring   what it does; the first line is its title
    PACKAGES        what pip has to install
    SERVERS         which of servers.py's it needs
    QUICK           whether it is in the part that .ci/run runs
    TIMEOUT         how many seconds it may take; a minute unless it says so

Its main() does the work, and raises when a result is wrong.  See child.py.
"""

import ast
import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOOPS = ["selector", "uringloop", "uringloop-stdlib"]
OUTCOMES = ["passed", "failed", "skipped"]


class Program:
    """A module of programs/, as it describes itself."""

    SAID = {"PACKAGES", "SERVERS", "QUICK", "TIMEOUT"}

    def __init__(self, path):
        tree = ast.parse(path.read_text())
        said = {
            name: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and (name := ast.unparse(node.targets[0])) in self.SAID
        }
        self.name = path.stem
        self.title = ast.get_docstring(tree).partition("\n")[0].removesuffix(".")
        self.packages = said["PACKAGES"]
        self.servers = said.get("SERVERS", [])
        self.quick = said.get("QUICK", False)
        self.timeout = said.get("TIMEOUT", 60)

    def versions(self):
        """The versions of its packages; None for one that is not installed."""
        found = {}
        for requirement in self.packages:
            name = re.match(r"[\w.-]+", requirement)[0]
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        return found


PROGRAMS = {path.stem: Program(path) for path in sorted((HERE / "programs").glob("*.py"))}


@dataclasses.dataclass
class Result:
    program: str
    title: str
    loop: str
    python: str
    versions: dict
    outcome: str
    reason: str
    seconds: float

    def __str__(self):
        line = f"{self.outcome:8} {self.program:18} {self.loop:17} {self.seconds:5.1f} s"
        return f"{line}  {self.reason}" if self.reason else line


def missing(program, servers):
    """Say what of a program is not installed; an empty string if nothing."""
    names = [name for name, version in program.versions().items() if version is None]
    names += [name for name in program.servers if not servers.has(name)]
    return f"not installed: {', '.join(names)}" if names else ""


def run(program, loop, servers):
    """Run a program on a loop and return its Result.  Nothing that it has started lives on."""
    outcome, reason, started = "skipped", missing(program, servers), time.monotonic()
    if not reason:
        environment = {
            **os.environ,
            **{f"ECOSYSTEM_{name.upper()}": servers.address(name) for name in program.servers},
            "ECOSYSTEM_LOOP": loop,
            # For the program's own children, too: a server finds its application and the loop's factory here.
            "PYTHONPATH": str(HERE.parent),
            "PYTHONUNBUFFERED": "1",
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
        }
        for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTHONASYNCIODEBUG"):
            environment.pop(name, None)
        with tempfile.TemporaryDirectory(prefix="ecosystem-") as directory:
            # What a program keeps at home is nobody else's.
            environment["HOME"] = directory
            outcome, reason = _run(program, directory, environment)
    return Result(program.name, program.title, loop, platform.python_version(), program.versions(), outcome, reason,
                  round(time.monotonic() - started, 1))


def _run(program, directory, environment):
    command = [sys.executable, "-X", "faulthandler", "-m", "ecosystem.child", program.name]
    log = Path(directory) / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                   stderr=file, start_new_session=True)
    try:
        status = process.wait(program.timeout)
    except subprocess.TimeoutExpired:
        # faulthandler's stacks go to the log.
        process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        status = f"no end after {program.timeout} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status == 0:
        return "passed", ""
    return "failed", f"{status}\n{log.read_text(errors='replace')[-6000:]}"
