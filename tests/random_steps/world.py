"""The loops of one example and everything on them: playing the steps, and the end."""

import asyncio
import contextlib
import os
import random
import threading
import time

from support import some_bytes, turns
from uringloop import _overlapped

from random_steps.connections import Listeners
from random_steps.datagrams import Couples
from random_steps.lines import RAISED
from random_steps.links import Links
from random_steps.operations import Record, history
from random_steps.pipes import Pipes
from random_steps.readiness import Callbacks
from random_steps.servers import Servers
from random_steps.signals import Signals

NOISE = some_bytes(2_000_000)


class World:
    """kind: of its loops; seed: of the data, and of the faults; abrupt: the loops are closed with all under way."""

    # How long the end of an example may take, in seconds; nothing in it should wait.
    patience = float(os.environ.get("URINGLOOP_PATIENCE", 20))

    def __init__(self, kind, counts, seed=0, abrupt=False):
        self.kind, self.counts, self.abrupt = kind, counts, abrupt
        self.oracle = kind.oracle
        self.descriptors, self.mappings = open_descriptors(), ring_mappings()
        self.kept = len(_overlapped._kept_for_good)
        self.findings, self.errors, self.operations = [], [], []
        self.records = {}  # (step, what) -> Record
        self.calls_due = []  # from other threads
        self.cancels = 0
        self.moved = False  # from thread to thread
        self.turning = False  # a callback is what asks
        self.places, self.interrupted_in = [], None  # lines, and the last step, that were interrupted
        self.runs = 0  # of all loops
        self.step = -1
        self.random = random.Random(seed)
        self.stack = contextlib.ExitStack()
        self.loops = []
        self.add_loop()
        self.links = Links(self)
        self.listeners = Listeners(self)
        self.pipes = Pipes(self)
        self.couples = Couples(self)
        self.callbacks = Callbacks(self)
        self.signals = Signals(self)
        self.servers = Servers(self)
        self.deeds = {}  # what a thing does to its neighbours as soon as it is told something
        self.parts = [self.signals, self.callbacks, self.servers, self.links, self.listeners, self.pipes, self.couples]

    def add_loop(self):
        loop = self.kind.make_loop(self.random.getrandbits(32))
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.loops.append(loop)

    def loop(self, number):
        return self.loops[number % len(self.loops)]

    def data(self, size):
        start = self.random.randrange(len(NOISE) - size)
        return NOISE[start : start + size]

    @contextlib.contextmanager
    def watched(self):
        """An error in a callback is a finding and not the loop's affair."""
        try:
            yield
        except Exception as exc:
            self.findings.append(exc)

    def record(self, what, thing, outcome, step):
        """Of a call that a protocol got."""
        certain = not thing.raced and not (self.kind.late and thing.broken)
        self.records[step, what] = Record(outcome, certain, history(thing))

    def told(self, thing):
        """A thing has been told something by its loop: it does what it was to do then."""
        deed = self.deeds.pop(thing, None)
        if deed is not None:
            with self.watched():
                deed()

    # -- the steps --

    def play(self, program):
        """Run the steps: (function, arguments, number of turns after it)."""
        for self.step, (function, arguments, count) in enumerate(program):
            try:
                done = function(self, **arguments) is not False
                self.counts.count_step(function.__name__, done)
                self.turn(count)
            except BaseException as exc:
                exc.add_note(f"in step {self.step}: {function.__name__}{arguments}, on {self.kind.name}")
                exc.add_note(f"interrupted: {self.places}")
                raise

    def soon(self, loop, ticks, function):
        """Call the function now, or in one of the next ticks, among its first callbacks."""
        if ticks == 0:
            function()
        else:
            loop.call_soon(self.soon, loop, ticks - 1, function)

    def let_endings_pass(self):
        if self.oracle and not self.turning:
            # There, a cancelled operation takes its reader away some callbacks later, whosoever it is by then.
            self.turn(4)

    def turn(self, count=1, one_run=False, loops=None):
        """Let the loops turn, in turn."""
        loops = self.loops if loops is None else loops
        self.turning = True
        try:
            if one_run:
                for loop in loops:
                    self.runs += 1
                    loop.run_until_complete(turns(count))
                count = 0
            for _ in range(count):
                for loop in loops:
                    self.runs += 1
                    loop.call_soon(loop.stop)
                    loop.run_forever()
        finally:
            self.turning = False
        self.forgive()
        if self.findings:
            raise self.findings[0]
        assert not self.errors, self.errors

    def forgive(self):
        """Forget what the exception handler was told of an interrupt."""
        self.errors[:] = [context for context in self.errors if not isinstance(context.get("exception"), RAISED)]

    def turn_elsewhere(self, count):
        def run():
            with self.watched():
                self.turn(count)

        self.moved = True
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        self.turn(0)

    # -- the end --

    def until(self, condition, what):
        """Turn until the condition holds; `what`: it in words, or a function that returns them."""
        give_up = time.monotonic() + self.patience
        while not condition():
            # In longer runs than the steps': each begins to read the self-pipe anew, and completions may be late.
            self.turn(10, one_run=True)
            assert time.monotonic() < give_up, f"waited in vain for {what() if callable(what) else what}"

    def end(self):
        """See everything end, and that nothing of it is left."""
        try:
            self.wind_up()
        except BaseException as exc:
            exc.add_note(f"at the end, on {self.kind.name}")
            exc.add_note(f"interrupted: {self.places}")
            raise

    def wind_up(self):
        self.turn(5)
        self.deeds.clear()
        closed = [operation for operation in self.operations if operation.closed]
        # Of a request whose thread has ended the kernel tells in its own time.
        assert self.moved or self.kind.late or all(operation.task.done() for operation in closed), (
            "pending after the close of its socket")
        self.until(lambda: all(operation.task.done() for operation in closed), "operations on closed sockets")
        if self.abrupt:
            self.end_abruptly()
        else:
            self.end_in_order()
        buffers = [operation.buffer for operation in self.operations
                   if operation.cancelled and operation.buffer and not operation.doubtful]
        assert not any(map(any, buffers)), "a cancelled receive wrote into its buffer"
        self.close_loops()
        for loop in self.loops:
            proactor = getattr(loop, "_proactor", None)
            assert proactor is None or proactor._cache == {}
        # A loop that moved could not see the end of a send that was cancelled: its buffer stays.
        assert self.moved or len(_overlapped._kept_for_good) == self.kept

    def end_in_order(self):
        for part in self.parts:
            part.let_go()
        self.until_all("delivered")
        for operation in self.operations:
            operation.cancel()
        self.until(lambda: all(operation.task.done() for operation in self.operations), "cancelled tasks")
        for part in self.parts:
            part.close()
        self.until_all("has_closed")
        self.turn(5)
        for loop in self.loops:
            if (proactor := getattr(loop, "_proactor", None)) is not None:
                self.until(lambda proactor=proactor: not waited_for(proactor), f"operations: {proactor}")
            assert not asyncio.all_tasks(loop)

    def end_abruptly(self):
        """The loops are closed with everything under way but the transports, which must be told."""
        for part in self.parts:
            part.abort()
        self.until_all("has_aborted")
        for operation in self.operations:
            if not operation.task.done():
                operation.cancelled = True
                operation.task._log_destroy_pending = False
                operation.cut()
        self.close_loops()
        for part in self.parts:
            part.rest()

    def until_all(self, name):
        """Turn until the method of this name is true of all parts."""

        def unfinished():
            # (Each is asked: it does something for it.)
            return {type(part).__name__: part for part in self.parts if not getattr(part, name)()}

        self.until(lambda: not unfinished(), lambda: f"{name}() of {unfinished()} beside {self.what_there_is()}")

    def what_there_is(self):
        return [*self.links, *self.pipes, *self.couples, *self.signals.due]

    def close_loops(self):
        # In any order.
        for loop in self.random.sample(self.loops, len(self.loops)):
            loop.close()

    def clean_up(self):
        """After a success there is nothing left to do here."""
        for operation in self.operations:
            operation.task._log_destroy_pending = False
        self.close_loops()
        for part in self.parts:
            part.clean_up()
        self.stack.close()
        # By now the sockets are at their ends, and the rings are gone.
        del _overlapped._kept_for_good[self.kept :]

    def check_nothing_is_left(self):
        assert not self.errors, self.errors
        assert not self.findings, self.findings
        descriptors = open_descriptors()
        assert descriptors == self.descriptors, descriptors.items() ^ self.descriptors.items()
        assert ring_mappings() == self.mappings


def waited_for(proactor):
    return [ov for future, ov, *_ in proactor._cache.values() if future is not None and not future.cancelled()]


def open_descriptors():
    """{number: what it is}"""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
    return descriptors


def ring_mappings():
    with open("/proc/self/maps") as maps:
        return sum("io_uring" in line for line in maps)
