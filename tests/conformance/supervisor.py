"""Runs worker.py on one module after another, and survives what the tests do to their process.

Each module has a process of its own, and each test a time limit.  A test that hangs, or takes its process down, costs
that test only: a new process goes on with the rest.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
# Seconds until a new process has imported its module, and until one that has run all tests is gone.
START_LIMIT = 120
EXIT_LIMIT = 20
# Seconds for a test that is known to fail, and that may do so by a hang.
FAILING_LIMIT = 5
# What is kept of a process's output, from its end.
OUTPUT = 4000


@dataclasses.dataclass
class Outcome:
    """status: pass, skip, fail, hang, crash or lost (never run).

    Beside the tests, `MODULE (module)` and `MODULE (exit)` tell of a process that ended with no test to blame.
    """

    status: str
    detail: str = ""
    made_loop: bool = False


class Worker:
    """A process, its output in a file, and the socket on which it tells what happens."""

    def __init__(self, directory):
        self._socket, theirs = socket.socketpair()
        self._output = tempfile.TemporaryFile()
        self._ended = False
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONASYNCIODEBUG", None)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "default", WORKER, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=directory,
                env=environment, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
                start_new_session=True)

    async def connect(self, order):
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=1 << 26)
        self._writer.write(json.dumps(order).encode() + b"\n")

    async def event(self, limit):
        """The next one; None when the process has ended without a further one. May raise TimeoutError."""
        gone = False
        async with asyncio.timeout(limit):
            while not self._ended:
                try:
                    async with asyncio.timeout(1):
                        line = await self._reader.readuntil(b"\n")
                except TimeoutError:
                    # Its own children may hold the socket's other end. What it has said last is read first.
                    self._ended = gone
                    gone = self.process.poll() is not None
                except (asyncio.IncompleteReadError, ConnectionResetError):
                    self._ended = True
                else:
                    return json.loads(line)
        return None

    async def wait(self, limit):
        """The exit status; None when it has not ended by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self.process.poll() is None:
                    await asyncio.sleep(0.02)
        return self.process.returncode

    async def abort(self):
        """End a process that hangs, in a way that leaves tracebacks in its output."""
        self.process.send_signal(signal.SIGABRT)
        await self.wait(5)

    def output(self):
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - OUTPUT))
        return self._output.read().decode(errors="replace")

    def close(self):
        # Its session was made for it: whatever it has started goes along.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._writer.close()
        self._output.close()


class Module:
    """One module's run on one loop; `outcomes` has every test of its `plan` when run() is over."""

    def __init__(self, name, loop, limit, only=None, failing=()):
        """failing: tests known to fail, which are not waited for so long."""
        self.name = name
        self.outcomes = {}
        self._order = {"module": name, "loop": loop, "only": only}
        self._limit = limit
        self._failing = failing
        self.plan = []
        self.seconds = 0.0
        self._current = None

    async def run(self):
        started = time.monotonic()
        goes_on = True
        while goes_on:
            before = len(self.outcomes)
            with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
                worker = Worker(directory)
                try:
                    await worker.connect({**self._order, "done": list(self.outcomes)})
                    complete = await self._watch(worker)
                finally:
                    worker.close()
            goes_on = not complete and len(self.outcomes) > before
        for test in self.plan:
            self.outcomes.setdefault(test, Outcome("lost", "its class, its module or its process failed"))
        self.seconds = time.monotonic() - started
        return self

    async def _watch(self, worker):
        """Follow a worker to its end; true when it has run all that was left."""
        self._current = None
        while True:
            try:
                event = await worker.event(self._limit_now())
            except TimeoutError:
                await worker.abort()
                self._blame("hang", worker.output())
                return False
            if event is None:
                self._blame("crash", f"exit status {await worker.wait(EXIT_LIMIT)}\n{worker.output()}")
                return False
            if event["event"] == "done":
                status = await worker.wait(EXIT_LIMIT)
                if status is None:
                    await worker.abort()
                if status != 0:
                    self.outcomes[f"{self.name} (exit)"] = Outcome(
                        "hang" if status is None else "crash", f"exit status {status}\n{worker.output()}")
                return True
            self._take(**event)

    def _limit_now(self):
        if self._current is None:
            return START_LIMIT
        return min(self._limit, FAILING_LIMIT) if self._current in self._failing else self._limit

    def _take(self, event, test=None, tests=None, **outcome):
        if event == "plan":
            self.plan = self.plan or tests
        elif event == "start":
            self._current = test
        else:
            self.outcomes[test] = Outcome(**outcome)
            self._current = None

    def _blame(self, status, detail):
        """The test that ran is why the process has ended; without one, the module."""
        name = self._current or f"{self.name} (module)"
        self.outcomes.setdefault(name, Outcome(status, detail, made_loop=self._current is not None))


async def run_all(modules, jobs, report):
    """Run some modules at a time, and have each reported as it ends."""
    room = asyncio.Semaphore(jobs)

    async def run(module):
        async with room:
            await report(await module.run())

    async with asyncio.TaskGroup() as group:
        for module in modules:
            group.create_task(run(module))
