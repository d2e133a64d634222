"""Random sequences of steps on several sockets, against a model of the bytes; on each loop and rung.

One step is one rule; between two steps the loop turns as often as the step says, and never sleeps,
so that an example is the same each time.  The model knows each direction of a connection as a
`Stream`: what was sent, in order.  What must hold, whatever is cancelled, closed or reset, and when:

 - each byte that arrives is the next of its stream: none lost, none twice, none of another connection;
 - a cancelled receive has taken nothing and written nothing, a cancelled accept took no connection;
 - errors are of the selector loop's type, and a socket that is closed beside a pending operation ends
   it with OSError(EBADF), where the selector loop waits for ever; its number's next owner has its own;
 - in the end all tasks are done, nothing is in flight, there are as many descriptors and io_uring
   mappings as before, and the loop's exception handler was not called.

On the selector loop, the oracle, two things are left out: closing beside a pending operation, and
cancelling in the very tick in which the data came, which loses them there.

    URINGLOOP_EXAMPLES=5000 python -m pytest tests/test_state_machine.py      50 a loop when left out
    URINGLOOP_SEED=...                                                        the seed that was printed

A failure prints the steps of a small example, as a program, and the seed.
"""

import asyncio
import collections
import contextlib
import errno
import fcntl
import functools
import os
import random
import socket
import struct
import termios
import threading
import time

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import uringloop
from support import reset, some_bytes, tcp_pair, turns
from uringloop import _overlapped

EXAMPLES = int(os.environ.get("URINGLOOP_EXAMPLES", 50))
SEED = int(os.environ.get("URINGLOOP_SEED", random.randrange(1 << 32)))
STEPS = 60

FACTORIES = {
    "selector": asyncio.SelectorEventLoop,
    **{
        f"rung{rung}": lambda rung=rung: uringloop.IouringProactorEventLoop(uringloop.IouringProactor(rung=rung))
        for rung in range(3)
    },
}

# How long the end of an example may take; nothing in it should wait.
PATIENCE = 20.0

NOISE = some_bytes(2_000_000)

# What a connection may end with once one side has left it.
BROKEN = (ConnectionResetError, BrokenPipeError)


class Counts:
    """Of one run of the machine."""

    def __init__(self):
        self.examples = self.steps = self.cancels = self.with_cancel = 0
        self.operations = collections.Counter()

    def __str__(self):
        average = self.steps / max(1, self.examples)
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.operations.items()))
        return (
            f"{self.examples} examples of {average:.1f} steps, {self.with_cancel} with a cancel between "
            f"submission and completion ({self.cancels} cancels); {outcomes}"
        )


# -- the model --


class Stream:
    """One direction of a connection: the segments that were sent, and where the reader may be.

    How much of a cancelled send went out is known by what follows it only: it is `cut`, and the
    reader's place is a set.
    """

    def __init__(self):
        self.segments = []
        self.places = {(0, 0)}
        self.ended = False  # the writer has said that there is no more
        self.broken = False  # the rest may be lost, and errors are to be expected

    def add(self, data, cut=False):
        segment = [memoryview(data), cut]
        if data:
            self.segments.append(segment)
        return segment

    def take(self, data):
        assert data
        data = memoryview(data)
        places, todo, seen = set(), [(*place, 0) for place in self.places], set()
        while todo:
            place = index, offset, position = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            if position == len(data):
                places.add((index, offset))
                continue
            if index == len(self.segments):
                continue
            segment, cut = self.segments[index]
            size = min(len(segment) - offset, len(data) - position)
            same = common_prefix(segment[offset : offset + size], data[position : position + size])
            if same == size:
                whole = offset + size == len(segment)
                todo.append((index + 1, 0, position + size) if whole else (index, offset + size, position + size))
            if cut:
                # The next segment begins like the rest of this one by chance only.
                todo += [(index + 1, 0, position + n) for n in range(max(0, same - 4), same + 1)]
        assert places, f"{len(data)} bytes that are not next in the stream: at {sorted(self.places)[:4]} of {self}"
        self.places = places

    def complete(self):
        return any(all(cut for _, cut in self.segments[index:]) for index, _ in self.places)

    def take_end(self):
        assert self.broken or (self.ended and self.complete()), f"a false end: at {sorted(self.places)[:4]} of {self}"

    def __str__(self):
        segments = [f"{len(segment)}{'?' if cut else ''}" for segment, cut in self.segments]
        return f"[{' '.join(segments)}]{' ended' * self.ended}{' broken' * self.broken}"


def common_prefix(a, b):
    """The number of bytes at the beginning that two buffers of one length have in common."""
    if a == b:
        return len(a)
    low, high = 0, len(a)
    while high - low > 1:
        middle = (low + high) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle
    return low


class Operation:
    """A task that runs one of the loop's sock_* methods."""

    def __init__(self, world, name, work, link=None, expected=()):
        self.world = world
        self.name = name
        self.link = link
        self.expected = expected
        self.cancelled = False  # asked to
        self.closed = False  # our socket was closed beside it
        self.limited = False  # it ends itself, soon
        self.buffer = None
        self.segment = None
        self.task = world.loop.create_task(self.run(work))
        world.operations.append(self)

    @property
    def pending(self):
        return not self.task.done() and not self.cancelled

    async def run(self, work):
        try:
            await work(self)
            outcome = "done"
        except (asyncio.CancelledError, TimeoutError) as exc:
            outcome = "cancelled"
            if not self.cancelled:
                self.world.findings.append(exc)
        except OSError as exc:
            outcome = "failed"
            if not self.may_fail_with(exc):
                exc.add_note(f"{self.name}, closed={self.closed}, link={self.link}")
                self.world.findings.append(exc)
        except BaseException as exc:
            outcome = "failed"
            exc.add_note(f"{self.name}, closed={self.closed}, link={self.link}")
            self.world.findings.append(exc)
        self.world.counts.operations[f"{self.name} {outcome}"] += 1

    def may_fail_with(self, exc):
        if self.closed and type(exc) is OSError and exc.errno == errno.EBADF:
            return True
        if type(exc) in self.expected:
            return True
        broken = self.link is not None and (self.link.up.broken or self.link.down.broken)
        return broken and type(exc) in BROKEN

    def cancel(self):
        if self.task.done():
            return
        waiter = self.task._fut_waiter
        if self.world.oracle and self.name != "sendall" and waiter is not None and waiter.done():
            return  # what came would be lost there
        if in_kernel(waiter):
            self.world.cancels += 1
        if self.segment is not None:
            self.segment[1] = True
        self.cancelled = True
        self.task.cancel()


def in_kernel(waiter):
    """Tell whether the operation of this future has been submitted and is not seen to be complete."""
    ov = getattr(waiter, "_ov", None)
    return ov is not None and ov.pending and "in flight" in repr(ov)


class Link:
    """A connection: `ours` is the loop's, `peer` is worked on by plain calls."""

    def __init__(self, ours, peer, name):
        self.ours, self.peer, self.name = ours, peer, name
        self.up, self.down = Stream(), Stream()
        self.receive = self.send = self.transport = self.protocol = None
        self.closed = self.peer_closed = self.wrote_eof = False
        for sock in (ours, peer):
            sock.setblocking(False)
            # A send is short sooner.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    def __repr__(self):
        return f"<{self.name} up={self.up} down={self.down}>"

    def busy(self):
        operations = [operation for operation in (self.receive, self.send) if operation is not None]
        return [each for each in operations if each.pending or (each.limited and not each.task.done())]

    def reader_leaves(self, sock, here, there):
        """sock is closed: what it has not read makes a reset of the end."""
        if unread(sock):
            there.broken = True
        here.broken = True


def unread(sock):
    try:
        return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    except OSError:
        return 0


class Peer(asyncio.Protocol):
    """The protocol of a transport on `link.ours`."""

    def __init__(self, world, link):
        self.world, self.link = world, link
        self.made = self.lost = False
        self.leaving = False
        self.writable = True

    def connection_made(self, transport):
        self.made = True
        self.link.transport = transport

    def data_received(self, data):
        with self.world.watched():
            assert not self.leaving and not self.lost
            self.link.down.take(data)

    def eof_received(self):
        with self.world.watched():
            assert not self.leaving
            self.link.down.take_end()
        return True

    def pause_writing(self):
        with self.world.watched():
            assert self.writable
        self.writable = False

    def resume_writing(self):
        with self.world.watched():
            assert not self.writable
        self.writable = True

    def connection_lost(self, exc):
        link = self.link
        broken = link.up.broken or link.down.broken
        with self.world.watched():
            assert self.made and not self.lost
            assert exc is None or (broken and type(exc) in BROKEN), f"{exc!r} of {link}"
            assert exc is not None or self.leaving or broken
        self.lost = link.closed = True
        link.down.broken = True
        link.up.ended = True


class World:
    """A loop and everything on it."""

    def __init__(self, factory, oracle, counts):
        self.counts = counts
        self.oracle = oracle
        self.descriptors, self.mappings = open_descriptors(), ring_mappings()
        self.findings, self.errors, self.links, self.operations = [], [], [], []
        self.waiting = {}
        self.listeners, self.plain_listeners = {}, {}
        self.accepting = {}
        self.cancels = 0
        self.abrupt = False
        self.moved = False  # from thread to thread
        self.kept = len(_overlapped._kept_for_good)
        self.failed = False
        self.random = random.Random(0)
        self.stack = contextlib.ExitStack()
        self.loop = factory()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        for family in ("tcp", "unix"):
            self.listeners[family] = self.listen(family)
            self.listeners[family].setblocking(False)
            self.plain_listeners[family] = self.listen(family)
            self.waiting[family] = collections.deque()

    def listen(self, family):
        if family == "tcp":
            return self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind("")  # a name of the kernel's choice
        sock.listen()
        return sock

    def new_socket(self, family):
        sock = self.stack.enter_context(socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX))
        # So that an accepted one can be told from others.
        sock.bind(("127.0.0.1", 0) if family == "tcp" else "")
        return sock

    @contextlib.contextmanager
    def watched(self):
        """An error in a callback is a finding and not the loop's affair."""
        try:
            yield
        except Exception as exc:
            self.findings.append(exc)

    def data(self, size):
        start = self.random.randrange(len(NOISE) - size)
        return NOISE[start : start + size]

    def add_link(self, ours, peer, name):
        for sock in (ours, peer):
            self.stack.enter_context(sock)
        link = Link(ours, peer, f"{name}{len(self.links)}")
        self.links.append(link)
        return link

    def soon(self, ticks, function):
        """Call the function now, or in one of the next ticks, among its first callbacks."""
        if ticks == 0:
            function()
        else:
            self.loop.call_soon(self.soon, ticks - 1, function)

    def turn(self, count=1, one_run=False):
        if one_run:
            self.loop.run_until_complete(turns(count))
            count = 0
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        if self.findings:
            raise self.findings[0]
        assert not self.errors, self.errors

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
        give_up = time.monotonic() + PATIENCE
        while not condition():
            self.turn()
            assert time.monotonic() < give_up, f"waited in vain for {what}"

    def end(self):
        loop = self.loop
        closed = [operation for operation in self.operations if operation.closed]
        self.turn(5)
        # Not a matter of ticks: of a request whose thread has ended the kernel tells in its own time.
        self.until(lambda: all(operation.task.done() for operation in closed), "operations on closed sockets")
        if self.abrupt:
            self.end_abruptly()
        else:
            self.end_in_order()
        buffers = [operation.buffer for operation in self.operations if operation.cancelled and operation.buffer]
        assert not any(map(any, buffers)), "a cancelled receive wrote into its buffer"
        loop.close()
        proactor = getattr(loop, "_proactor", None)
        if proactor is not None:
            assert proactor._cache == {}
        # A loop that moved could not see the end of a send that was cancelled: its buffer stays.
        kept = _overlapped._kept_for_good
        assert self.moved or len(kept) == self.kept
        # By now the sockets are at their ends, and the ring is gone.
        del kept[self.kept :]

    def end_in_order(self):
        for link in self.links:
            if link.transport and not link.protocol.leaving:
                link.transport.resume_reading()
        # What is being sent to those who still read arrives whole.
        sends = [operation for operation in self.operations if operation.name == "sendall" and operation.pending]

        def sent():
            for link in self.links:
                self.drain_peer(link)
            return all(operation.task.done() for operation in sends) and all(map(self.up_is_whole, self.links))

        self.until(sent, f"what was sent: {self.links}")
        for operation in self.operations:
            operation.cancel()
        self.until(lambda: all(operation.task.done() for operation in self.operations), "cancelled tasks")
        # On the selector loop one that is about to end with a value is not cancelled but awaited.
        self.until(lambda: all(map(self.down_is_whole, self.links)), f"what has arrived: {self.links}")
        self.accept_the_rest()
        self.close_transports()
        self.turn(5)
        proactor = getattr(self.loop, "_proactor", None)
        if proactor is not None:
            left = [ov for future, ov, *_ in proactor._cache.values() if future is not None and not future.cancelled()]
            assert left == []
        for link in self.links:
            if link.closed and not link.peer_closed:
                self.until(lambda link=link: self.drain_peer(link), f"the peer to see the end: {link}")
        assert not asyncio.all_tasks(self.loop)

    def end_abruptly(self):
        """The loop is closed with everything under way."""
        for link in self.links:
            if link.transport and not link.protocol.lost:
                link.up.broken = link.down.broken = link.protocol.leaving = True
                link.transport.abort()
        self.until(lambda: not any(l.transport and not l.protocol.lost for l in self.links), "aborted transports")
        for operation in self.operations:
            if not operation.task.done():
                operation.cancelled = True
                operation.task._log_destroy_pending = False
                if operation.segment is not None:
                    operation.segment[1] = True
        self.loop.close()
        give_up = time.monotonic() + PATIENCE
        for whole in (self.down_is_whole, self.up_is_whole):
            while not all(map(whole, self.links)):
                for link in self.links:
                    self.drain_peer(link)
                assert time.monotonic() < give_up, f"bytes were lost: {self.links}"
        self.accept_the_rest()

    def drain_peer(self, link):
        """Read what has arrived at the peer; true at the end of the stream."""
        if link.peer_closed:
            return True
        try:
            while data := link.peer.recv(1 << 20):
                link.up.take(data)
        except BlockingIOError:
            return False
        except BROKEN:
            assert link.up.broken or link.down.broken, f"a reset of {link}"
            return True
        link.up.take_end()
        return True

    def up_is_whole(self, link):
        return link.up.broken or link.peer_closed or link.up.complete()

    def down_is_whole(self, link):
        if link.closed or link.down.broken or link.down.complete():
            return True
        if link.transport is None:
            with contextlib.suppress(BlockingIOError):
                if data := link.ours.recv(1 << 20):
                    link.down.take(data)
                else:
                    link.down.take_end()
        return link.down.complete()

    def accept_the_rest(self):
        """Connections that no task took are still to be accepted, in their order."""
        for family, waiting in self.waiting.items():
            while waiting:
                conn, address = self.listeners[family].accept()
                conn.close()
                assert address == waiting.popleft().getsockname()
            with pytest.raises(BlockingIOError):
                self.listeners[family].accept()

    def close_transports(self):
        for link in self.links:
            if link.transport and not link.protocol.lost:
                self.close_transport(link)
        def lost():
            for link in self.links:
                self.drain_peer(link)
            return not any(link.transport and not link.protocol.lost for link in self.links)

        self.until(lost, "connection_lost")

    def close_transport(self, link):
        if not link.protocol.leaving:
            link.protocol.leaving = link.up.ended = True
            link.reader_leaves(link.ours, link.down, link.up)
        link.transport.close()

    def clean_up(self):
        for operation in self.operations:
            operation.task._log_destroy_pending = False
        if not self.loop.is_closed():
            self.loop.close()
        for link in self.links:
            if link.transport is not None and link.transport._sock is not None:
                link.transport._sock = None
        self.stack.close()


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def ring_mappings():
    with open("/proc/self/maps") as maps:
        return sum("io_uring" in line for line in maps)


# -- the steps --

LINK = st.integers(0, 7)
FAMILY = st.sampled_from(["tcp", "unix"])
TURNS = st.integers(0, 3)
CANCEL = st.sampled_from([None, None, None, 0, 1, 2, 3])
SMALL = st.integers(1, 5000)
SIZE = st.one_of(SMALL, SMALL, st.integers(10_000, 70_000), st.integers(300_000, 700_000))


def step(function):
    """A rule: after it the loop turns, and findings are looked for."""

    @functools.wraps(function)
    def run(self, turns, **arguments):
        world = self.world
        try:
            # False: there is nothing there that it could do.
            if function(self, **arguments) is not False:
                world.counts.steps += 1
            world.turn(turns)
        except BaseException:
            world.failed = True
            raise

    return run


class Machine(RuleBasedStateMachine):
    factory = oracle = counts = None

    def __init__(self):
        super().__init__()
        self.world = World(self.factory, self.oracle, self.counts)

    @initialize(abrupt=st.booleans(), families=st.lists(FAMILY, min_size=1, max_size=3))
    def begin(self, abrupt, families):
        self.world.abrupt = abrupt
        for family in families:
            self.connect_pair(family)

    def connect_pair(self, family):
        return self.world.add_link(*(tcp_pair() if family == "tcp" else socket.socketpair()), family)

    def link(self, number):
        return self.world.links[number % len(self.world.links)]

    def start(self, name, work, cancel, link=None, expected=(), segment=None):
        operation = Operation(self.world, name, work, link, expected)
        operation.segment = segment
        if cancel is not None:
            self.world.soon(cancel, operation.cancel)
        return operation

    def let_endings_pass(self):
        if self.world.oracle:
            # There, a cancelled operation takes its reader away some callbacks later, whosoever it is by then.
            self.world.turn(4)

    @rule(family=FAMILY, turns=TURNS)
    @step
    def another_pair(self, family):
        if len(self.world.links) >= 8:
            return False
        self.connect_pair(family)

    @rule(count=st.integers(1, 5), one_run=st.booleans(), turns=st.just(0))
    @step
    def turn(self, count, one_run):
        self.world.turn(count, one_run)

    @rule(count=st.integers(1, 3), turns=st.just(0))
    @step
    def turn_in_another_thread(self, count):
        self.world.turn_elsewhere(count)

    # -- our socket --

    @rule(number=LINK, into=st.booleans(), size=SIZE, timeout=st.sampled_from([None, None, "timeout", "wait_for"]),
          cancel=CANCEL, turns=TURNS)
    @step
    def receive(self, number, into, size, timeout, cancel):
        link = self.link(number)
        if link.closed or link.transport or (link.receive and link.receive.pending):
            return False
        loop = self.world.loop

        async def receive(operation):
            if into:
                operation.buffer = bytearray(size)
                count = await loop.sock_recv_into(link.ours, operation.buffer)
                assert not any(operation.buffer[count : count + 1000])
                data, operation.buffer = bytes(operation.buffer[:count]), None
            else:
                data = await loop.sock_recv(link.ours, size)
            assert not operation.closed, "bytes of a socket that was closed"
            if data:
                link.down.take(data)
            else:
                link.down.take_end()

        async def limited(operation):
            if timeout == "wait_for":
                await asyncio.wait_for(receive(operation), 0)
            else:
                async with asyncio.timeout(0):
                    await receive(operation)

        if self.world.oracle and timeout is not None:
            # The same moment, but where it loses data.
            timeout, cancel = None, 1
        link.receive = self.start("receive", receive if timeout is None else limited, cancel, link)
        if timeout is not None:
            link.receive.cancelled = link.receive.limited = True

    @rule(number=LINK, size=SIZE, cancel=CANCEL, turns=TURNS)
    @step
    def sendall(self, number, size, cancel):
        link = self.link(number)
        if link.closed or link.transport or (link.send and link.send.pending):
            return False
        data = self.world.data(size)
        # Where it is sure to fail nothing is sure to arrive.
        segment = link.up.add(data, cut=link.up.ended or link.up.broken)
        if link.peer_closed:
            link.down.broken = True

        async def sendall(operation):
            assert await self.world.loop.sock_sendall(link.ours, bytearray(data)) is None
            assert not link.up.ended or link.up.broken or operation.closed, "sent after the end"

        link.send = self.start("sendall", sendall, cancel, link,
                               expected=(BrokenPipeError,) if link.up.ended else (), segment=segment)

    @rule(number=LINK, which=st.sampled_from(["receive", "send"]), cancel=TURNS, turns=TURNS)
    @step
    def cancel(self, number, which, cancel):
        operation = getattr(self.link(number), which)
        if operation is None or operation.task.done():
            return False
        self.world.soon(cancel, operation.cancel)

    @rule(number=LINK, turns=TURNS)
    @step
    def shut_down_ours(self, number):
        link = self.link(number)
        if link.closed or link.transport or (link.send and not link.send.task.done()):
            return False
        link.up.ended = True
        with contextlib.suppress(OSError):
            link.ours.shutdown(socket.SHUT_WR)

    @rule(number=LINK, reuse=st.sampled_from([None, "tcp", "unix"]), cancel_first=st.booleans(),
          later=TURNS, turns=TURNS)
    @step
    def close_ours(self, number, reuse, cancel_first, later):
        link = self.link(number)

        def close():
            if link.closed or link.transport:
                return
            if cancel_first or self.world.oracle:
                for operation in link.busy():
                    operation.cancel()
            for operation in (link.receive, link.send):
                if operation is not None and not operation.task.done():
                    operation.closed = True
                    if operation.segment is not None:
                        operation.segment[1] = True
            fd = link.ours.fileno()
            link.closed = link.up.ended = True
            link.reader_leaves(link.ours, link.down, link.up)
            link.ours.close()
            if reuse is not None and len(self.world.links) < 12:
                mine, theirs = tcp_pair() if reuse == "tcp" else socket.socketpair()
                if mine.fileno() != fd and theirs.fileno() != fd:
                    os.dup2(mine.fileno(), fd)
                    mine.close()
                    mine = socket.socket(fileno=fd)
                elif theirs.fileno() == fd:
                    mine, theirs = theirs, mine
                self.world.add_link(mine, theirs, f"heir-{reuse}")

        if self.world.oracle:
            for operation in link.busy():
                operation.cancel()
            self.let_endings_pass()
            if link.busy():
                return False
            later = 0
        self.world.soon(later, close)

    # -- the peer --

    @rule(number=LINK, size=SIZE, turns=TURNS)
    @step
    def peer_sends(self, number, size):
        link = self.link(number)
        if link.peer_closed or link.down.ended:
            return False
        if link.closed or (link.protocol and link.protocol.leaving):
            link.up.broken = True
        data = self.world.data(size)
        try:
            count = link.peer.send(data)
        except BlockingIOError:
            return
        except BROKEN:
            assert link.up.broken or link.down.broken
            return
        link.down.add(data[:count])

    @rule(number=LINK, size=SIZE, turns=TURNS)
    @step
    def peer_receives(self, number, size):
        link = self.link(number)
        if link.peer_closed:
            return False
        try:
            data = link.peer.recv(size)
        except BlockingIOError:
            return
        except BROKEN:
            assert link.up.broken or link.down.broken
            return
        if data:
            link.up.take(data)
        else:
            link.up.take_end()

    @rule(number=LINK, how=st.sampled_from(["half-close", "half-close", "close", "reset"]), turns=TURNS)
    @step
    def peer_leaves(self, number, how):
        link = self.link(number)
        if link.peer_closed:
            return False
        link.down.ended = True
        if how == "half-close":
            with contextlib.suppress(OSError):
                link.peer.shutdown(socket.SHUT_WR)
            return
        link.peer_closed = True
        link.reader_leaves(link.peer, link.up, link.down)
        if how == "reset" or link.transport or (link.send and not link.send.task.done()):
            # What is sent to a closed socket resets the connection.
            link.down.broken = True
        if how == "reset" and link.peer.family == socket.AF_INET:
            reset(link.peer)
        else:
            link.peer.close()

    # More of what matters most: the more names, the more often.
    receive_2 = receive_3 = receive
    sendall_2 = sendall
    peer_sends_2 = peer_sends
    peer_receives_2 = peer_receives

    # -- connections --

    @rule(family=FAMILY, cancel=CANCEL, turns=TURNS)
    @step
    def accept(self, family, cancel):
        world = self.world
        accepting = world.accepting.get(family)
        if accepting and accepting.pending:
            return False
        listener = world.listeners[family]

        async def accept(operation):
            conn, address = await world.loop.sock_accept(listener)
            world.stack.enter_context(conn)
            assert not operation.closed
            assert not conn.getblocking() and not conn.get_inheritable()
            peer = world.waiting[family].popleft()
            assert address == peer.getsockname() == conn.getpeername()
            if len(world.links) < 12:
                world.add_link(conn, peer, f"accepted-{family}")
            else:
                conn.close()

        world.accepting[family] = self.start("accept", accept, cancel)

    @rule(family=FAMILY, turns=TURNS)
    @step
    def peer_connects(self, family):
        if len(self.world.waiting[family]) >= 10:
            return False
        sock = self.world.new_socket(family)
        sock.connect(self.world.listeners[family].getsockname())
        self.world.waiting[family].append(sock)

    @rule(family=FAMILY, reuse=st.booleans(), turns=TURNS)
    @step
    def close_listener(self, family, reuse):
        world = self.world
        operation = world.accepting.get(family)
        if operation and not operation.task.done():
            if world.oracle:
                operation.cancel()
                self.let_endings_pass()
                if not operation.task.done():
                    return
            else:
                operation.closed = True
        old = world.listeners[family]
        fd = old.fileno()
        old.close()
        world.waiting[family].clear()
        new = world.listen(family)
        if reuse and new.fileno() != fd:
            os.dup2(new.fileno(), fd)
            new.close()
            new = world.stack.enter_context(socket.socket(fileno=fd))
        new.setblocking(False)
        world.listeners[family] = new

    @rule(family=FAMILY, refused=st.booleans(), cancel=CANCEL, turns=TURNS)
    @step
    def connect(self, family, refused, cancel):
        world = self.world
        sock = world.new_socket(family)
        sock.setblocking(False)
        if refused:
            with socket.socket(sock.family) as unused:
                unused.bind(("127.0.0.1", 0) if family == "tcp" else "")
                address = unused.getsockname()
        else:
            address = world.plain_listeners[family].getsockname()

        async def connect(operation):
            try:
                assert await world.loop.sock_connect(sock, address) is None
            except BaseException:
                sock.close()
                raise
            assert not refused
            name = sock.getsockname()
            # Before it are those whose tasks were cancelled.
            while True:
                conn, address_of_peer = world.plain_listeners[family].accept()
                if address_of_peer == name:
                    break
                conn.close()
            if len(world.links) < 12:
                world.add_link(sock, conn, f"connected-{family}")
            else:
                sock.close()
                conn.close()

        # It may have ended at once in spite of a full backlog of a Unix socket.
        world.plain_listeners[family].settimeout(5)
        self.start("connect", connect, cancel, expected=(ConnectionRefusedError,) if refused else ())

    # -- transports --

    @rule(number=LINK, pause=st.booleans(), turns=TURNS)
    @step
    def make_transport(self, number, pause):
        world, link = self.world, self.link(number)
        if link.closed or link.transport or link.protocol or link.busy():
            return False
        self.let_endings_pass()
        if link.peer_closed:
            link.down.broken = True
        link.protocol = Peer(world, link)
        # At once, as servers make one: no sock_* call must come between.
        transport = world.loop._make_socket_transport(link.ours, link.protocol)
        link.transport = transport
        if pause:
            transport.pause_reading()

    @rule(number=LINK, what=st.sampled_from(["write", "write", "pause", "resume", "eof", "close", "abort"]),
          size=SIZE, turns=TURNS)
    @step
    def use_transport(self, number, what, size):
        link = self.link(number)
        transport, protocol = link.transport, link.protocol
        if transport is None or protocol.lost or not protocol.made:
            return False
        if what == "write" and not protocol.leaving and not link.up.ended:
            if link.peer_closed:
                link.down.broken = True
            data = bytearray(self.world.data(size))
            link.up.add(bytes(data), cut=link.up.broken)
            transport.write(data)
            if not self.world.oracle:
                # A proactor transport has its own copy; the selector loop's, from 3.12 on, has none.
                data[:] = bytes(size)
        elif what == "pause":
            transport.pause_reading()
        elif what == "resume":
            transport.resume_reading()
        elif what == "eof" and not protocol.leaving and not link.up.ended:
            link.up.ended = True
            try:
                transport.write_eof()
            except OSError:
                assert link.up.broken or link.down.broken
        elif what == "close":
            self.world.close_transport(link)
        elif what == "abort":
            protocol.leaving = link.up.ended = link.up.broken = link.down.broken = True
            transport.abort()

    # -- the end --

    def teardown(self):
        world, counts = self.world, self.counts
        counts.examples += 1
        counts.cancels += world.cancels
        counts.with_cancel += world.cancels > 0
        try:
            if not world.failed:
                world.end()
        finally:
            world.clean_up()
            del _overlapped._kept_for_good[world.kept :]
        if not world.failed:
            assert not world.errors, world.errors
            assert not world.findings, world.findings
            assert open_descriptors() == world.descriptors
            assert ring_mappings() == world.mappings


@pytest.mark.timeout(120 + EXAMPLES)
@pytest.mark.parametrize("name", FACTORIES)
def test_random_steps(name, capsys):
    counts = Counts()

    @seed(SEED)
    class TheMachine(Machine):
        factory = staticmethod(FACTORIES[name])
        oracle = name == "selector"

    TheMachine.counts = counts
    try:
        run_state_machine_as_test(
            TheMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=True,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.normal,
            ),
        )
    finally:
        with capsys.disabled():
            print(f"\n{name}: {counts}; URINGLOOP_SEED={SEED}")
    assert name == "selector" or EXAMPLES < 50 or counts.with_cancel >= EXAMPLES // 10
