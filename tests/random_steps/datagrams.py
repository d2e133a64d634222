"""Datagrams: transports and sock_* methods; each arrives whole, in order, the empty ones as well."""

import asyncio
import contextlib
import inspect
import socket
from asyncio.selector_events import _SelectorDatagramTransport

from hypothesis import strategies as st

from random_steps.lines import RAISED
from random_steps.model import Datagrams
from random_steps.operations import Operation
from random_steps.parts import FlowControlled, Things
from random_steps.steps import CANCEL, LIMIT, NUMBER, TURNS, step

# What the kernel holds for a receiver is limited, and UDP drops the rest.
MOST_WAITING = 6

LENGTH = st.one_of(st.just(0), st.integers(1, 100), st.integers(100, 8000))

# CPython 3.12's transports, and ours there, drop an empty datagram.
SENDS_EMPTY = "if not data:" not in inspect.getsource(_SelectorDatagramTransport.sendto)

# Of a peer that is gone.
UNREACHABLE = {
    "udp": (ConnectionRefusedError,),
    "unix": (ConnectionRefusedError, ConnectionResetError, OSError),
}


class Couple:
    """Two datagram sockets; ours is the loop's, and sends to the peer only."""

    def __init__(self, loop, family, connected, name):
        self.loop, self.family, self.connected, self.name = loop, family, connected, name
        self.ours, self.peer = (new_socket(family) for _ in range(2))
        self.up, self.down = Datagrams(), Datagrams()
        self.address = self.peer.getsockname()
        if connected:
            self.ours.connect(self.address)
        self.receive = self.send = self.transport = self.protocol = None
        self.closed = self.peer_closed = self.opening = False
        self.raced = False
        self.history = []

    def __repr__(self):
        return f"<{self.name} up={self.up} down={self.down}>"

    @property
    def broken(self):
        return self.up.broken or self.down.broken

    @property
    def plain(self):
        return not self.closed and not self.protocol

    def lose(self):
        self.up.lose()
        self.down.lose()

    def may_fail_with(self, exc):
        return self.peer_closed and type(exc) in UNREACHABLE[self.family]


def new_socket(family):
    if family == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind("")
    sock.setblocking(False)
    return sock


class DatagramPeer(FlowControlled, asyncio.DatagramProtocol):
    def __init__(self, world, couple):
        self.world, self.couple = world, couple
        self.step = world.step
        self.transport = None
        self.made = self.lost = self.leaving = self.paused = False

    def connection_made(self, transport):
        self.made = True
        self.transport = self.couple.transport = transport

    def datagram_received(self, data, addr):
        couple = self.couple
        with self.world.watched():
            assert self.made and not self.lost and not self.leaving and not self.paused
            assert addr == couple.address
            couple.down.take(data, 1 << 16)
        self.world.told(couple)

    def error_received(self, exc):
        with self.world.watched():
            assert not self.lost
            assert self.couple.may_fail_with(exc), f"{exc!r} of {self.couple}"
        self.world.counts.operations[f"error_received {type(exc).__name__}"] += 1
        self.world.told(self.couple)

    def connection_lost(self, exc):
        couple = self.couple
        with self.world.watched():
            assert self.made and not self.lost
            if isinstance(exc, RAISED):
                couple.up.broken = couple.down.broken = self.leaving = True
            else:
                assert exc is None and self.leaving
        self.lost = couple.closed = True
        self.world.record("datagrams lost", couple, type(exc).__name__, self.step)


class Couples(Things):
    def drain_peer(self, couple):
        if couple.peer_closed:
            return
        with contextlib.suppress(BlockingIOError):
            while True:
                couple.up.take(couple.peer.recv(1 << 16), 1 << 16)

    # -- the end --

    def let_go(self):
        for couple in self:
            if couple.transport and couple.protocol.paused and not couple.protocol.leaving:
                couple.protocol.paused = False
                couple.transport.resume_reading()

    def delivered(self):
        for couple in self:
            self.drain_peer(couple)
        return all(couple.up.complete() for couple in self) and all(
            couple.down.complete() for couple in self if couple.transport and not couple.protocol.leaving)

    def close(self):
        self.take_rest()
        for couple in self:
            if couple.transport and not couple.protocol.lost:
                couple.protocol.leaving = True
                couple.transport.close()

    def take_rest(self):
        for couple in self:
            if couple.closed or couple.transport:
                continue
            with contextlib.suppress(BlockingIOError):
                while not couple.down.complete():
                    # The error of a datagram that went nowhere comes first.
                    try:
                        couple.down.take(couple.ours.recv(1 << 16), 1 << 16)
                    except BlockingIOError:
                        raise
                    except OSError as exc:
                        assert couple.may_fail_with(exc)
            assert couple.down.complete(), f"datagrams were lost: {couple}"

    def has_closed(self):
        for couple in self:
            self.drain_peer(couple)
        return all(couple.protocol.lost for couple in self if couple.transport)

    def abort(self):
        for couple in self:
            if couple.transport and not couple.protocol.lost:
                couple.protocol.leaving = couple.up.broken = couple.down.broken = True
                couple.transport.abort()

    def has_aborted(self):
        return all(couple.protocol.lost for couple in self if couple.transport)

    def rest(self):
        self.take_rest()
        for couple in self:
            self.drain_peer(couple)
            assert couple.up.complete(), f"datagrams were lost: {couple}"

    def clean_up(self):
        for couple in self:
            if couple.transport is not None and couple.transport._sock is not None:
                couple.transport._sock = None


@step(family=st.sampled_from(["udp", "unix"]), connected=st.booleans(), loop=st.integers(0, 2))
def open_datagrams(world, family, connected, loop):
    if len(world.couples) >= 4:
        return False
    couple = Couple(world.loop(loop), family, connected, f"{family}-{world.step}")
    for sock in (couple.ours, couple.peer):
        world.stack.enter_context(sock)
    # The peer answers to us alone.
    couple.peer.connect(couple.ours.getsockname())
    world.couples.append(couple)


@step(number=NUMBER)
def make_datagram_transport(world, number):
    def suits(couple):
        # A connected one whose peer is gone may not know any more to whom it was.
        unfinished = any(op and not op.task.done() for op in (couple.receive, couple.send))
        return couple.plain and not unfinished and not (couple.connected and couple.peer_closed)

    couple = world.couples.choose(number, suits)
    if couple is None:
        return False
    world.let_endings_pass()
    couple.protocol = DatagramPeer(world, couple)

    async def work(operation):
        transport, protocol = await couple.loop.create_datagram_endpoint(lambda: couple.protocol, sock=couple.ours)
        assert transport is couple.transport and protocol is couple.protocol

    Operation(world, "create_datagram_endpoint", work, couple.loop, couple)


@step(weight=2, number=NUMBER, length=LENGTH, limit=LIMIT, cancel=CANCEL)
def send_datagram(world, number, length, limit, cancel):
    couple = world.couples.choose(
        number, lambda c: len(c.up.waiting) < MOST_WAITING and not c.closed and not (c.send and c.send.busy)
        and (c.plain or (c.transport and not c.protocol.leaving)))
    if couple is None:
        return False
    data = bytearray(world.data(length))
    if couple.protocol and not data and not SENDS_EMPTY:
        couple.transport.sendto(data, None if couple.connected else couple.address)
        return
    datagram = couple.up.add(data)
    datagram[1] = couple.peer_closed
    if couple.protocol:
        couple.transport.sendto(data, None if couple.connected else couple.address)
        data[:] = bytes(length)
        return

    async def work(operation):
        try:
            if couple.connected:
                assert await couple.loop.sock_sendall(couple.ours, data) is None
            else:
                assert await couple.loop.sock_sendto(couple.ours, data, couple.address) == length
        except OSError as exc:
            assert couple.may_fail_with(exc), f"{exc!r} of {couple}"
            datagram[1] = True
            raise

    couple.send = Operation(world, "send datagram", work, couple.loop, couple, cancel=cancel, limit=limit,
                            segment=datagram, expected=UNREACHABLE[couple.family])


@step(weight=2, number=NUMBER, size=st.sampled_from([1, 50, 10_000]),
      method=st.sampled_from(["sock_recvfrom", "sock_recvfrom_into", "sock_recv"]), limit=LIMIT, cancel=CANCEL)
def receive_datagram(world, number, size, method, limit, cancel):
    couple = world.couples.choose(number, lambda c: c.plain and not (c.receive and c.receive.busy))
    if couple is None:
        return False
    loop = couple.loop

    async def work(operation):
        address = couple.address
        try:
            if method == "sock_recvfrom":
                data, address = await loop.sock_recvfrom(couple.ours, size)
            elif method == "sock_recv":
                data = await loop.sock_recv(couple.ours, size)
            else:
                buffer = operation.buffer = bytearray(size)
                count, address = await loop.sock_recvfrom_into(couple.ours, buffer)
                data, operation.buffer = bytes(buffer[:count]), None
        except OSError as exc:
            assert couple.may_fail_with(exc), f"{exc!r} of {couple}"
            raise
        assert address == couple.address
        couple.down.take(data, size)

    couple.receive = Operation(world, "receive datagram", work, loop, couple, cancel=cancel, limit=limit,
                               expected=UNREACHABLE[couple.family])


@step(number=NUMBER, which=st.sampled_from(["receive", "send"]), cancel=TURNS)
def cancel_datagram(world, number, which, cancel):
    couple = world.couples.choose(number, lambda c: getattr(c, which) is not None and getattr(c, which).pending)
    if couple is None:
        return False
    world.soon(couple.loop, cancel, getattr(couple, which).cancel)


@step(weight=2, number=NUMBER, length=LENGTH)
def peer_sends_datagram(world, number, length):
    couple = world.couples.choose(
        number, lambda c: not c.peer_closed and not c.closed and len(c.down.waiting) < MOST_WAITING)
    if couple is None:
        return False
    data = world.data(length)
    try:
        couple.peer.send(data)
    except BlockingIOError:
        return
    couple.down.add(data)


@step(number=NUMBER)
def peer_receives_datagrams(world, number):
    couple = world.couples.choose(number, lambda c: not c.peer_closed and c.up.waiting)
    if couple is None:
        return False
    world.couples.drain_peer(couple)


@step(number=NUMBER)
def peer_of_datagrams_leaves(world, number):
    couple = world.couples.choose(number, lambda c: not c.peer_closed)
    if couple is None:
        return False
    if couple.send and not couple.send.task.done():
        couple.raced = True
    couple.peer_closed = couple.up.broken = True
    if couple.family == "unix" and couple.connected:
        # The kernel disconnects it at the next send, and throws away what it had received.
        couple.down.broken = True
    couple.peer.close()


@step(number=NUMBER, how=st.sampled_from(["close", "abort"]))
def close_datagram_transport(world, number, how):
    couple = world.couples.choose(number, lambda c: c.transport and not c.protocol.leaving)
    if couple is None:
        return False
    couple.protocol.leaving = couple.down.broken = True
    if how == "abort":
        couple.up.broken = True
    getattr(couple.transport, how)()


@step(number=NUMBER, what=st.sampled_from(["pause", "resume"]))
def use_datagram_transport(world, number, what):
    couple = world.couples.choose(number, lambda c: c.transport and not c.protocol.leaving)
    if couple is None:
        return False
    couple.protocol.paused = what == "pause"
    getattr(couple.transport, f"{what}_reading")()
