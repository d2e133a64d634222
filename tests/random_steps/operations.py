"""A task that runs one of the loop's methods, and the record of how it ended."""

import asyncio
import collections
import errno
import select

from uringloop.sock_calls import Wait

from random_steps.lines import RAISED

# What a connection may end with once one side has left it.
BROKEN = (ConnectionResetError, BrokenPipeError)

# In seconds: over in the next tick.
NO_TIME = 1e-9

# How an operation ended: "done", "cancelled", or an exception's name. `certain`: no race decided it.
# `history`: what had been done to the thing that it worked on.
Record = collections.namedtuple("Record", "outcome certain history")


class Operation:
    """thing: the link, pipe, ... that it works on; it is given the operation's record.

    cancel: after how many ticks; limit: the kind of timeout around it; expected: exceptions that
    are no finding; segment: of the stream, when it sends; listener: when it accepts.
    """

    # On the selector loop what came would be lost with the task, and is with a cancelled accept's event.
    takes = frozenset(["receive", "accept", "receive datagram"])

    def __init__(self, world, name, work, loop, thing=None, *, cancel=None, limit=None, expected=(), segment=None,
                 listener=None):
        self.world = world
        self.name = name
        self.loop = loop
        self.thing = thing
        self.expected = expected
        self.segment = segment
        self.listener = listener
        self.step = world.step
        self.history = history(thing)
        self.cancelled = False  # asked to
        self.closed = False  # our socket was closed beside it
        self.limited = False  # it ends itself, soon
        self.doubtful = False  # an interrupt may have cost it what it had come to
        self.buffer = None
        if limit is not None and cancel == 0:
            # On each loop or on none it takes its first step, which may be told of a broken connection.
            cancel = None
        if limit is not None and world.oracle and name in self.takes:
            # The same moment, but where it loses data.
            limit, cancel = None, 1
        if limit is not None:
            self.cancelled = self.limited = True
            self.cut()
        self.task = loop.create_task(self.run(work, limit))
        world.operations.append(self)
        if cancel is not None:
            world.soon(loop, cancel, self.cancel)

    @property
    def pending(self):
        return not self.task.done() and not self.cancelled

    @property
    def busy(self):
        """Pending, or with the end of its time to come."""
        return not self.task.done() and (self.limited or not self.cancelled)

    async def run(self, work, limit):
        try:
            if limit == "wait_for":
                await asyncio.wait_for(work(self), NO_TIME)
            elif limit == "timeout":
                async with asyncio.timeout(NO_TIME):
                    await work(self)
            else:
                await work(self)
            outcome = "done"
        except (asyncio.CancelledError, TimeoutError) as exc:
            outcome = "cancelled"
            if not self.cancelled:
                self.world.findings.append(exc)
        except BaseException as exc:
            outcome = type(exc).__name__
            if not self.may_fail_with(exc):
                exc.add_note(f"{self.name}, closed={self.closed}, {self.thing}")
                self.world.findings.append(exc)
        self.world.counts.operations[f"{self.name} {outcome}"] += 1
        thing = self.thing
        certain = not self.cancelled and not self.closed and not self.doubtful
        if thing is not None:
            # When a broken connection is seen to be one is a matter of time.
            certain = certain and not thing.raced and not (self.world.kind.late and thing.broken)
        self.world.records[self.step, self.name] = Record(outcome, certain, self.history)
        if thing is not None:
            self.world.told(thing)

    def may_fail_with(self, exc):
        if self.closed and type(exc) is OSError and exc.errno == errno.EBADF:
            return True
        if type(exc) in self.expected or isinstance(exc, RAISED):
            return True
        return self.thing is not None and self.thing.broken and type(exc) in BROKEN

    def cancel(self):
        if self.task.done():
            return
        waiter = self.task._fut_waiter
        if self.world.oracle and self.name in self.takes and waiter is not None and self.has_come(waiter):
            return  # what came would be lost there
        if in_kernel(waiter):
            self.world.cancels += 1
        self.cut()
        self.cancelled = True
        if self.thing is not None and self.segment is not None:
            self.thing.raced = True
        self.task.cancel()

    def has_come(self, waiter):
        # An accept that is cancelled beside its event accepts all the same.
        return waiter.done() or (self.listener is not None and select.select([self.listener], [], [], 0)[0])

    def cut(self):
        """What it sends may be sent in part."""
        if self.segment is not None:
            self.segment[1] = True


def history(thing):
    return () if thing is None else (thing.name, *thing.history)


def in_kernel(waiter):
    """Tell whether the operation of this future has been submitted and is not seen to be complete."""
    if type(waiter) is Wait:
        # In the readiness set, which the kernel has from its start on.
        return not waiter.done()
    ov = getattr(waiter, "_ov", None)
    return ov is not None and ov.pending and "in flight" in repr(ov)
