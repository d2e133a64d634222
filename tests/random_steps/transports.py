"""Transports on the same sockets: protocols, buffered protocols and streams."""

import asyncio

from hypothesis import strategies as st

from random_steps.lines import RAISED
from random_steps.operations import BROKEN, Operation
from random_steps.parts import FlowControlled
from random_steps.steps import CANCEL, LIMIT, NUMBER, SIZE, step


class Peer(FlowControlled, asyncio.Protocol):
    """The protocol of a transport on `link.ours`: what it is told must fit the model."""

    def __init__(self, world, link):
        self.world, self.link = world, link
        self.step = world.step
        self.made = self.lost = self.robbed = False
        self.leaving = False

    def connection_made(self, transport):
        self.made = True
        self.link.transport = transport

    def data_received(self, data):
        with self.world.watched():
            self.check_may_be_told()
            self.link.down.take(data)
        self.after_told()

    def eof_received(self):
        with self.world.watched():
            self.check_may_be_told()
            self.link.down.take_end()
        self.after_told()
        return True

    def check_may_be_told(self):
        assert self.made and not self.leaving and not self.lost
        transport = self.link.transport
        assert transport.is_reading(), "told while it is closing" if transport.is_closing() else "told while paused"

    def after_told(self):
        self.world.told(self.link)

    def pause_writing(self):
        super().pause_writing()
        with self.world.watched():
            transport = self.link.transport
            assert transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]

    def resume_writing(self):
        super().resume_writing()
        with self.world.watched():
            transport = self.link.transport
            assert transport.get_write_buffer_size() <= transport.get_write_buffer_limits()[0]

    def connection_lost(self, exc):
        link = self.link
        with self.world.watched():
            assert self.made and not self.lost
            if isinstance(exc, RAISED) or (self.robbed and isinstance(exc, OSError)):
                link.up.broken = link.down.broken = True
            else:
                assert exc is None or (link.broken and type(exc) in BROKEN), f"{exc!r} of {link}"
            assert exc is not None or self.leaving or link.broken
        self.lost = link.closed = True
        self.world.record("connection_lost", link, type(exc).__name__, self.step)
        link.down.broken = True
        link.up.ended = True

    def read_on(self):
        """The steps are over: whatever comes is read."""
        self.link.transport.resume_reading()

    def close(self):
        if not self.leaving:
            self.leaving = True
            self.link.disturb()
            self.link.leave()
        self.link.transport.close()


class BufferedPeer(Peer, asyncio.BufferedProtocol):
    """The same, with a buffer of its own that is smaller than what comes."""

    def get_buffer(self, sizehint):
        self.buffer = bytearray(3000)
        return self.buffer

    def buffer_updated(self, nbytes):
        with self.world.watched():
            assert nbytes > 0
        self.data_received(bytes(self.buffer[:nbytes]))


class StreamPeer(Peer):
    """A StreamReader and a StreamWriter: what the transport gave is kept until somebody reads it."""

    def __init__(self, world, link):
        super().__init__(world, link)
        self.reader = asyncio.StreamReader(limit=2000, loop=link.loop)
        self.inner = asyncio.StreamReaderProtocol(self.reader, loop=link.loop)
        self.fed = bytearray()

    def connection_made(self, transport):
        super().connection_made(transport)
        self.inner.connection_made(transport)
        self.writer = asyncio.StreamWriter(transport, self.inner, self.reader, self.link.loop)

    def data_received(self, data):
        super().data_received(data)
        self.fed += data
        self.inner.data_received(data)

    def eof_received(self):
        super().eof_received()
        return self.inner.eof_received()

    def pause_writing(self):
        super().pause_writing()
        self.inner.pause_writing()

    def resume_writing(self):
        super().resume_writing()
        self.inner.resume_writing()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.inner.connection_lost(exc)
        # Nobody else may ask for it.
        self.inner._closed.exception()

    def take(self, data):
        assert data == self.fed[: len(data)], "a StreamReader's bytes"
        del self.fed[: len(data)]

    def read_on(self):
        self.reader._limit = 1 << 30
        self.reader._paused = False
        super().read_on()


KINDS = {"protocol": Peer, "buffered": BufferedPeer, "streams": StreamPeer}


@step(number=NUMBER, kind=st.sampled_from(sorted(KINDS)), pause=st.booleans())
def make_transport(world, number, kind, pause):
    link = world.links.choose(number, lambda l: l.plain and not l.busy())
    if link is None:
        return False
    world.let_endings_pass()
    if not link.plain or link.busy():
        return False
    if link.peer_closed:
        link.down.broken = True
    link.protocol = KINDS[kind](world, link)
    # At once, as servers make one: no sock_* call must come between.
    link.transport = link.loop._make_socket_transport(link.ours, link.protocol)
    if pause:
        link.transport.pause_reading()


def has_transport(link):
    return link.transport is not None and not link.protocol.lost and link.protocol.made


USES = ["write", "write", "writelines", "pause", "resume", "eof", "limits", "set_protocol", "close", "abort"]


@step(weight=3, number=NUMBER, what=st.sampled_from(USES), size=SIZE)
def use_transport(world, number, what, size):
    link = world.links.choose(number, has_transport)
    if link is None:
        return False
    transport, protocol = link.transport, link.protocol
    if what in ("write", "writelines"):
        if protocol.leaving and what == "writelines":
            return False  # the selector loop's has lost its way of writing by then
        if world.oracle and transport.is_closing():
            # Its writelines() would leave a writer behind, on a number that is somebody else's next.
            what = "write"
        write(world, link, what, size)
    elif what == "pause":
        transport.pause_reading()
    elif what == "resume":
        transport.resume_reading()
    elif what == "eof" and not protocol.leaving and not link.up.ended:
        link.up.ended = link.wrote_eof = True
        try:
            transport.write_eof()
        except OSError:
            assert link.broken
    elif what == "limits":
        transport.set_write_buffer_limits(size)
        assert transport.get_write_buffer_limits() == (size // 4, size)
    elif what == "set_protocol" and type(protocol) is Peer:
        # The same, by another object.
        other = Peer(world, link)
        vars(other).update(vars(protocol))
        link.protocol = other
        transport.set_protocol(other)
        assert transport.get_protocol() is other
    elif what == "close":
        protocol.close()
    elif what == "abort":
        link.disturb()
        protocol.leaving = link.up.ended = link.up.broken = link.down.broken = True
        transport.abort()
    else:
        return False


def write(world, link, what, size):
    transport, protocol = link.transport, link.protocol
    if link.peer_closed:
        link.down.broken = True
        # Whether this hears of it first, or the reading, is a matter of turns, and so is the error.
        link.raced = True
    if link.up.ended and not link.wrote_eof and not protocol.leaving:
        # By the socket's own shutdown().
        link.up.broken = True
    data = bytearray(world.data(size))
    if link.wrote_eof:
        try:
            getattr(transport, what)(data if what == "write" else [data])
        except RuntimeError:
            return
        raise AssertionError(f"{what} after write_eof")
    # A closing transport takes more as long as it is not through with what it had.
    link.up.add(bytes(data), cut=link.up.broken or protocol.leaving)
    if what == "write":
        transport.write(data)
    else:
        transport.writelines([data[: size // 3], memoryview(data)[size // 3 :]])
    if not world.oracle:
        # A proactor transport has its own copy; the selector loop's, from 3.12 on, has none.
        data[:] = bytes(size)


@step(weight=2, number=NUMBER, exactly=st.booleans(), size=SIZE, limit=LIMIT, cancel=CANCEL)
def read_stream(world, number, exactly, size, limit, cancel):
    link = world.links.choose(number, lambda l: has_stream(l) and not (l.receive and l.receive.busy))
    if link is None:
        return False
    protocol = link.protocol

    async def work(operation):
        try:
            data = await (protocol.reader.readexactly if exactly else protocol.reader.read)(size)
        except asyncio.IncompleteReadError as exc:
            assert protocol.reader.at_eof()
            protocol.take(exc.partial)
            raise
        protocol.take(data)
        assert data or protocol.reader.at_eof()

    link.receive = Operation(world, "read", work, link.loop, link, cancel=cancel, limit=limit,
                             expected=(asyncio.IncompleteReadError,))


@step(number=NUMBER, limit=LIMIT, cancel=CANCEL)
def drain_stream(world, number, limit, cancel):
    link = world.links.choose(number, lambda l: has_stream(l) and not (l.send and l.send.busy))
    if link is None:
        return False
    protocol = link.protocol

    async def work(operation):
        try:
            await protocol.writer.drain()
        except ConnectionResetError:
            # Also of a connection that we left ourselves.
            assert protocol.lost
            raise

    link.send = Operation(world, "drain", work, link.loop, link, cancel=cancel, limit=limit,
                          expected=(ConnectionResetError,))


def has_stream(link):
    return isinstance(link.protocol, StreamPeer) and link.protocol.made
