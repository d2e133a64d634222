"""Native transports: what their protocols, their buffers and their users may do to them at any time.

Each test runs on the selector loop, on native transports and on the reference tier, and asks the same of all.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import errno
import gc
import inspect
import logging
import os
import socket
import sys
import threading
import time
import weakref

import pytest

import uringloop
from support import Buffered, Recorder, closed, drain, fill, reset, tcp_pair, turns, until
from uringloop import proactor_events, sslproto


class BytesOf(bytes):
    """Says of itself that it is shorter or longer than it is."""

    told = 1 << 20

    def __len__(self):
        return self.told

    def __bool__(self):
        return True


class ByteArrayOf(bytearray):
    told = 1 << 20

    def __len__(self):
        return self.told

    def __bool__(self):
        return True


class AsOther(bytes):
    """Whose bytes() are others than those of its buffer."""

    def __bytes__(self):
        return b"other"


def streams_of():
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    protocol.reader = reader
    return protocol


def received_by(protocol):
    return bytes(protocol.reader._buffer) if hasattr(protocol, "reader") else bytes(protocol.data)


def stack_of_tcp(stack):
    ours, theirs = tcp_pair()
    for sock in (ours, theirs):
        stack.enter_context(sock)
        sock.setblocking(False)
    return ours, theirs


# -- what is written --


@pytest.mark.uringloop_only  # the selector loop believes what len() says of what it has sent
@pytest.mark.parametrize("told", [1 << 20, 10_000, 1])
@pytest.mark.parametrize("make", [BytesOf, ByteArrayOf], ids=["bytes", "bytearray"])
@pytest.mark.parametrize("gathered", [False, True], ids=["first", "gathered"])
async def test_write_of_what_tells_a_wrong_length(loop, connect, pair, monkeypatch, make, told, gathered):
    """Never more is read than there is."""
    monkeypatch.setattr(make, "told", told)
    transport, protocol = await connect(pair[0])
    if gathered:
        transport.write(b"one")
    transport.write(make(b"two"))
    await turns(3)
    transport.write(b"three")
    received = b""
    while not received.endswith(b"three"):
        received += await loop.sock_recv(pair[1], 1 << 22)
    assert received == (b"one" if gathered else b"") + b"twothree"
    transport.abort()
    await protocol.lost


async def test_write_of_bytes_that_give_others(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    for data in (AsOther(b"one"), b"two", AsOther(b"three"), AsOther(b"four")):
        transport.write(data)
    transport.close()
    assert await protocol.lost is None
    assert drain(pair[1]) == b"onetwothreefour"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is new in 3.12")
@pytest.mark.uringloop_only  # the selector loop calls it twice
@pytest.mark.parametrize("base", [bytes, bytearray])
@pytest.mark.parametrize("act", ["write", "flush", "abort"])
async def test_write_of_what_writes_itself(loop, connect, pair, base, act):
    """The buffer of a class of the program's is a method in Python."""
    class Writing(base):
        calls = 0

        def __buffer__(self, flags):
            Writing.calls += 1
            if Writing.calls == 1:
                transport.write(b"inner" * 100)
                if act == "flush":
                    assert transport.get_write_buffer_size() == 0
                elif act == "abort":
                    transport.abort()
            return memoryview(b"outer")

    transport, protocol = await connect(pair[0])
    transport.write(b"first")
    transport.write(Writing(b"outer"))
    transport.write(b"last")
    transport.close()
    assert await protocol.lost is None
    received = drain(pair[1])
    # (What is written at an abort may go out.)
    assert received.removesuffix(b"outer" if act == "abort" else b"outerlast") == b"first" + b"inner" * 100


async def test_write_of_a_wide_format(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    wide = (ctypes.c_uint32 * 100)(*range(100))
    for _ in range(3):
        transport.write(memoryview(wide))
    transport.write(memoryview(bytes(24)).cast("I", (2, 3)))
    transport.close()
    assert await protocol.lost is None
    assert drain(pair[1]) == 3 * bytes(wide) + bytes(24)


async def test_write_of_a_scalar_is_refused(loop, connect, pair):
    """It has no length, and so no truth."""
    transport, protocol = await connect(pair[0])
    for before in (b"", b"before"):
        transport.write(before)
        with pytest.raises(TypeError, match="0-dim"):
            transport.write(memoryview(ctypes.c_int(5)))
    transport.close()
    await protocol.lost
    assert drain(pair[1]) == b"before"


@pytest.mark.uringloop_only  # the selector loop refuses the first as well, and ends
async def test_write_of_every_second_byte_behind_another(loop, connect, pair):
    """Not contiguous: it is copied. What was gathered before is not lost by it."""
    transport, protocol = await connect(pair[0])
    transport.write(b"first")
    transport.write(memoryview(b"s.e.c.o.n.d.")[::2])
    transport.write(b"third")
    transport.close()
    assert await protocol.lost is None
    assert drain(pair[1]) == b"firstsecondthird"


@pytest.mark.uringloop_only  # as above
async def test_write_of_every_second_byte_behind_what_waits(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    fill(pair[0])
    transport.write(bytes(100_000))
    transport.write(memoryview(b"s.e.c.o.n.d.")[::2])
    transport.close()
    received = b""
    while block := await loop.sock_recv(pair[1], 1 << 20):
        received += block
    assert received.endswith(b"\0second")
    await protocol.lost


async def test_gathering_goes_on_behind_a_write_that_was_refused(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    transport.write(b"first")
    released = memoryview(b"released")
    released.release()
    for data in (released, "text", None, 1):
        with pytest.raises((TypeError, ValueError)):
            transport.write(data)
    transport.write(b"second")
    transport.close()
    await protocol.lost
    assert drain(pair[1]) == b"firstsecond"


@pytest.mark.parametrize("high", [100.5, 0.0, 1e300, True])
async def test_limit_that_is_no_int(loop, connect, pair, high):
    transport, protocol = await connect(pair[0])
    transport.set_write_buffer_limits(high)
    assert transport.get_write_buffer_limits()[1] == high
    transport.write(bytes(60))
    transport.write(bytes(60))
    await turns(3)
    assert drain(pair[1]) == bytes(120)
    transport.close()
    await protocol.lost


# -- an abort with a send in flight --


async def with_a_send_in_flight(transport, ours):
    """What was small has found no room when the tick ended."""
    fill(ours)
    # (The last of it may take some more.)
    fill(ours, 1)
    transport.write(b"waits")
    await turns(3)


async def test_nothing_is_unsent_after_an_abort(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    await with_a_send_in_flight(transport, pair[0])
    assert transport.get_write_buffer_size() == 5
    transport.abort()
    assert transport.get_write_buffer_size() == 0
    assert "bufsize=0" in repr(transport)
    transport.write(b"more")
    assert transport.get_write_buffer_size() == 0
    await protocol.lost
    assert transport.get_write_buffer_size() == 0
    await turns(3)


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_peer_resets_under_a_send_in_flight(loop, connect, stack, how):
    """Its end may come when the transport has none that could be told."""
    ours, theirs = (stack.enter_context(sock) for sock in tcp_pair())
    ours.setblocking(False)
    transport, protocol = await connect(ours)
    await with_a_send_in_flight(transport, ours)
    reset(theirs)
    getattr(transport, how)()
    await protocol.lost
    await turns(5)


async def test_set_write_buffer_limits_after_an_abort(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    await with_a_send_in_flight(transport, pair[0])
    transport.abort()
    transport.set_write_buffer_limits(0)
    assert "pause_writing" not in protocol.calls
    await protocol.lost


@pytest.mark.uringloop_only  # the selector loop gathers nothing
async def test_interrupt_while_what_was_gathered_is_sent(loop, connect, pair, monkeypatch):
    """It is sent later."""
    transport, protocol = await connect(pair[0])
    filled = fill(pair[0])
    filled += fill(pair[0], 1)
    right = loop._proactor._run_when_ready

    def interrupted(*args):
        monkeypatch.setattr(loop._proactor, "_run_when_ready", right)
        raise KeyboardInterrupt

    transport.write(b"gathered")
    monkeypatch.setattr(loop._proactor, "_run_when_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transport.get_write_buffer_size()
    transport.write(b"later")
    transport.close()
    received = b""
    while block := await loop.sock_recv(pair[1], 1 << 20):
        received += block
    assert received[filled:] == b"gatheredlater"
    await protocol.lost


@pytest.mark.parametrize("debug", [False, True])
def test_interrupt_while_writing_stops(loop, pair, debug):
    """In the cancel() of its Handle. The next write waits for room as well."""
    loop.set_debug(debug)
    ours, theirs = pair
    transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
    filled = fill(ours)
    transport.write(b"first" * 1000)
    interrupted = False

    def get_debug():
        nonlocal interrupted
        if not interrupted and sys._getframe(1).f_code is asyncio.Handle.cancel.__code__:
            interrupted = True
            raise KeyboardInterrupt
        return loop._debug

    loop.get_debug = get_debug
    received = b""
    for _ in range(100):
        received += drain(theirs)
        loop.call_soon(loop.stop)
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_forever()
    del loop.get_debug
    assert interrupted
    assert received[filled:] == b"first" * 1000
    filled = fill(ours)
    transport.write(b"second" * 1000)
    received = b""
    for _ in range(100):
        received += drain(theirs)
        loop.run_until_complete(turns(1))
    assert received[filled:] == b"second" * 1000
    transport.close()
    loop.run_until_complete(protocol.lost)


# -- what is read --


@pytest.mark.parametrize("size", [5000, 5063, 5064, 5065, 5128, 9000])
@pytest.mark.parametrize("paused", [False, True])
async def test_reset_behind_data(loop, connect, stack, size, paused):
    """It is told as an error, however the data before it was read."""
    ours, theirs = (stack.enter_context(sock) for sock in tcp_pair())
    ours.setblocking(False)
    transport, protocol = await connect(ours)
    theirs.send(bytes(5000))
    await protocol.received(5000)
    transport.pause_reading()
    theirs.sendall(bytes(size))
    reset(theirs)
    if paused:
        right = protocol.data_received

        def data_received(data):
            right(data)
            transport.pause_reading()
            loop.call_soon(transport.resume_reading)

        protocol.data_received = data_received
    transport.resume_reading()
    assert isinstance(await protocol.lost, ConnectionResetError)
    assert len(protocol.data) == 5000 + size
    assert "eof_received" not in protocol.calls


# -- servers --


@pytest.mark.uringloop_only  # the selector loop has its exception handler told
async def test_listening_socket_is_closed_in_the_tick_of_its_client(loop):
    """By its user, in a callback that is before the server's."""
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    sock = server.sockets[0]._sock
    acceptor = loop._accept_futures[sock.fileno()]
    sock.close()
    acceptor.accept()
    server.close()
    await server.wait_closed()


# -- contexts --

VARIABLE = contextvars.ContextVar("VARIABLE", default=None)


async def test_failed_write_is_told_in_the_writers_context(loop, stack):
    seen = []

    class Protocol(Recorder):
        def connection_lost(self, exc):
            seen.append(VARIABLE.get())
            super().connection_lost(exc)

    ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
    ours.setblocking(False)
    transport, protocol = await loop.create_connection(Protocol, sock=ours)
    transport.pause_reading()
    theirs.close()
    context = contextvars.copy_context()
    context.run(VARIABLE.set, "writer")
    context.run(transport.write, b"data")
    assert isinstance(await protocol.lost, BrokenPipeError)
    # From CPython 3.15 on a connection has a context of its own.
    has_its_own = "context" in inspect.signature(asyncio.SelectorEventLoop._make_socket_transport).parameters
    assert seen == [None if has_its_own else "writer"]


async def connect_without_context(loop, sock, factory):
    """As create_connection(), which gives each connection a context of its own from CPython 3.15 on."""
    protocol, waiter = factory(), loop.create_future()
    transport = loop._make_socket_transport(sock, protocol, waiter)
    await waiter
    return transport, protocol


async def test_paused_transport_keeps_no_context(loop, stack):
    class Value:
        pass

    ours, _ = (stack.enter_context(sock) for sock in socket.socketpair())
    ours.setblocking(False)
    value = Value()
    alive = weakref.ref(value)

    async def connect():
        VARIABLE.set(value)
        transport, protocol = await connect_without_context(loop, ours, Recorder)
        await turns(3)
        transport.pause_reading()
        return transport, protocol

    transport, protocol = await loop.create_task(connect())
    del value
    await turns(3)
    gc.collect()
    assert alive() is None
    transport.close()
    await protocol.lost


# -- names --


def give_number(stack, sock, number):
    """The socket has this number, too, which is nobody's."""
    if sock.fileno() != number:
        os.dup2(sock.fileno(), number)
        stack.callback(os.close, number)



async def test_socket_is_known_after_the_end(loop, connect, pair):
    """Also when nobody has asked before."""
    transport, protocol = await connect(pair[0])
    transport.close()
    await protocol.lost
    assert transport.get_extra_info("socket").fileno() == -1
    assert transport.get_extra_info("nothing", "default") == "default"


@pytest.mark.uringloop_only  # the selector loop's transport never hears of it
async def test_name_of_a_closed_socket_is_no_strangers(loop, connect, stack):
    ours, theirs = (stack.enter_context(sock) for sock in tcp_pair())
    ours.setblocking(False)
    name = ours.getsockname()
    transport, protocol = await connect(ours)
    number = ours.fileno()
    ours.close()
    stranger = stack.enter_context(socket.socket(socket.AF_UNIX))
    stranger.bind("")
    give_number(stack, stranger, number)
    assert transport.get_extra_info("sockname") in (None, name)
    transport.abort()
    await protocol.lost


# -- buffers of protocols --


class Refusing:
    def __len__(self):
        return 8

    def __buffer__(self, flags):
        raise ValueError("of another kind than those that a buffer refuses with")


@pytest.mark.parametrize("buffer", [b"read-only", memoryview(bytearray(8))[::2], memoryview(b"read-only"), Refusing()],
                         ids=["bytes", "not contiguous", "read-only view", "refusing"])
async def test_buffer_that_cannot_be_received_into(loop, pair, errors, buffer):
    class Protocol(Buffered):
        def get_buffer(self, sizehint):
            return buffer

    transport, protocol = await loop.create_connection(Protocol, sock=pair[0])
    pair[1].send(b"data")
    exc = await protocol.lost
    assert type(exc) is TypeError and str(exc).startswith("recv_into() argument 1 must be read-write bytes-like object")
    assert errors.pop()["message"] == "Fatal read error on socket transport"


async def test_buffer_is_given_back_before_it_is_updated(loop, pair):
    """The protocol may resize it, also out of get_buffer()."""
    class Protocol(Buffered):
        def __init__(self):
            super().__init__()
            self.buffer = bytearray(2)

        def get_buffer(self, sizehint):
            self.buffer *= 2
            return self.buffer

        def buffer_updated(self, count):
            self.data += self.buffer[:count]
            self.buffer.clear()
            self.buffer += bytes(3)

        def eof_received(self):
            self.buffer.clear()

    transport, protocol = await loop.create_connection(Protocol, sock=pair[0])
    pair[1].send(b"what is longer than that")
    pair[1].shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.data == b"what is longer than that"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is new in 3.12")
async def test_buffer_closes_the_socket(loop, pair, stack, errors):
    """Whoever has its number next keeps its bytes."""
    near, far = (stack.enter_context(sock) for sock in socket.socketpair())
    far.send(b"a stranger's")

    class Evil:
        def __len__(self):
            return 100

        def __buffer__(self, flags):
            if pair[0].fileno() >= 0:
                number = pair[0].fileno()
                pair[0].close()
                give_number(stack, near, number)
            return memoryview(bytearray(100))

    class Protocol(Buffered):
        def get_buffer(self, sizehint):
            return Evil()

    transport, protocol = await loop.create_connection(Protocol, sock=pair[0])
    pair[1].send(b"data")
    assert (await protocol.lost).errno == errno.EBADF
    assert near.recv(100, socket.MSG_DONTWAIT) == b"a stranger's"


async def test_socket_is_closed_between_no_room_and_the_wait_for_it(loop, connect, pair, errors):
    """What was gathered has found no room; before the transport is run, the user closes its socket."""
    if type(loop) is asyncio.SelectorEventLoop:
        pytest.skip("it is never told, and an abort() trips over the number")
    ours, theirs = pair
    transport, protocol = await connect(ours)
    # (Where there was more than one in a tick, the next ones are gathered.)
    transport.write(b"one")
    transport.write(b"two")
    await turns(2)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    transport.write(b"first")
    loop.call_soon(ours.close)
    loop.call_soon(transport.write, b"second")
    assert (await protocol.lost).errno == errno.EBADF
    assert not errors


@pytest.mark.parametrize("pieces, message", [
    (["text"], "memoryview: a bytes-like object is required, not 'str'"),
    ([b"bytes", 1], "memoryview: a bytes-like object is required, not 'int'"),
    (5, "'int' object is not iterable"),
])
async def test_writelines_refuses_what_is_no_bytes(loop, connect, pair, pieces, message):
    """And nothing of it is sent."""
    if sys.version_info >= (3, 15) and not hasattr(loop, "_proactor"):
        pytest.skip("the selector loop's sends what stands before it")
    ours, theirs = pair
    transport, protocol = await connect(ours)
    with pytest.raises(TypeError, match=message):
        transport.writelines(pieces)
    transport.writelines(None)
    transport.writelines(piece for piece in (b"one", bytearray(b"two"), memoryview(b"three")))
    transport.close()
    await protocol.lost
    assert drain(theirs) == b"onetwothree"


@pytest.mark.parametrize("pieces", [None, [], [b"data"], ["text"]])
async def test_writelines_after_write_eof(connect, pair, pieces):
    transport, protocol = await connect(pair[0])
    transport.write_eof()
    with pytest.raises(RuntimeError, match="Cannot call writelines\\(\\) after write_eof\\(\\)"):
        transport.writelines(pieces)
    transport.abort()
    await protocol.lost


class Wrapper:
    """Not a socket.socket, but it works like one."""

    def __init__(self, sock):
        self.sock = sock
        self.calls = set()

    def __getattr__(self, name):
        method = getattr(self.sock, name)
        if not callable(method):
            return method

        def call(*args):
            self.calls.add(name)
            return method(*args)

        return call


@pytest.mark.parametrize("make", [Recorder, Buffered])
async def test_socket_of_the_users_class(loop, pair, make):
    protocol = make()
    wrapper = Wrapper(pair[0])
    waiter = loop.create_future()
    transport = loop._make_socket_transport(wrapper, protocol, waiter)
    await waiter
    pair[1].send(b"data")
    await until(lambda: protocol.data == b"data")
    transport.write(b"one")
    transport.write(b"two")
    await turns(3)
    transport.write(bytes(100_000))
    transport.close()
    assert await protocol.lost is None
    assert drain(pair[1]) == b"onetwo" + bytes(100_000)
    assert "close" in wrapper.calls


async def test_socket_whose_fileno_fails_at_the_end(loop, pair):
    """It is closed all the same, and its server is told."""
    class Late(Wrapper):
        broken = False

        def fileno(self):
            if self.broken:
                raise RuntimeError("fileno")
            return self.sock.fileno()

    protocol = Recorder()
    wrapper = Late(pair[0])
    waiter = loop.create_future()
    transport = loop._make_socket_transport(wrapper, protocol, waiter)
    await waiter
    transport.pause_reading()
    transport.abort()
    wrapper.broken = type(loop) is uringloop.IouringProactorEventLoop
    assert await protocol.lost is None
    await turns(2)
    assert pair[0].fileno() == -1


@pytest.mark.uringloop_only  # the selector loop's server waits for ever
def test_interrupt_while_the_socket_is_closed(loop):
    """Its server hears of the end all the same."""
    if loop._tier.__name__ == "uringloop.stdlib_transports":
        return

    class Closing(Wrapper):
        def close(self):
            self.sock.close()
            raise KeyboardInterrupt

    async def main():
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        waiter = loop.create_future()
        transport = loop._make_socket_transport(Closing(ours), Recorder(), waiter, server=server)
        await waiter
        theirs.close()
        server.close()
        return transport, loop.create_task(server.wait_closed())

    transport, closed = loop.run_until_complete(main())
    loop.call_soon(transport.abort)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_until_complete(asyncio.wait_for(closed, 5))
    assert "closed" in repr(transport)


class Counting(Wrapper):
    """Whose number is another each time."""

    def fileno(self):
        self.count = getattr(self, "count", 100) + 1
        return self.count


@pytest.mark.uringloop_only
async def test_socket_with_other_numbers(loop, errors, stack):
    """Nothing is left at the number that it had when its transport was made."""
    for _ in range(10):
        ours, _ = (stack.enter_context(sock) for sock in socket.socketpair())
        transport = loop._make_socket_transport(Counting(ours), Recorder())
        await turns(3)
        transport.abort()
        await turns(3)
        del transport
    gc.collect()
    errors.clear()
    assert [*loop._transports.values()] == []


# -- datagrams --


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.calls = []
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.calls.append(data)

    def error_received(self, exc):
        self.calls.append(type(exc))

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def test_datagram_transport_is_one(loop):
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    assert isinstance(transport, asyncio.DatagramTransport)
    transport.close()
    await protocol.lost


async def test_error_of_a_datagram_is_told_by_the_next(loop, stack):
    """Nobody listens at the peer: the second sendto() has the first one's error, and sends nothing."""
    nobody = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    nobody.bind(("127.0.0.1", 0))
    address = nobody.getsockname()
    transport, protocol = await loop.create_datagram_endpoint(
        Datagrams, sock=stack.enter_context(connected_to(address)))
    nobody.close()
    transport.sendto(b"one")
    transport.sendto(b"two")
    assert protocol.calls == [ConnectionRefusedError]
    transport.sendto(b"three")
    transport.sendto(b"four")
    assert protocol.calls == 2 * [ConnectionRefusedError]
    transport.abort()
    await protocol.lost


def connected_to(address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(address)
    return sock


async def test_too_long_a_datagram(loop, stack):
    peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind(("127.0.0.1", 0))
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    transport.sendto(bytes(70_000), peer.getsockname())
    transport.sendto(b"short", peer.getsockname())
    assert protocol.calls == [OSError]
    assert peer.recv(100_000, socket.MSG_DONTWAIT) == b"short"
    transport.close()
    await protocol.lost


async def test_sendto_after_an_abort(loop, stack, caplog):
    """It is counted, and logged from the fifth on."""
    peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind(("127.0.0.1", 0))
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=peer.getsockname())
    transport.abort()
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            transport.sendto(b"late")
    assert len(caplog.messages) in (3, 4)
    await protocol.lost


async def test_unix_datagrams_to_a_peer_without_a_name(loop, errors, stack):
    ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    ours.setblocking(False)
    theirs.setblocking(False)
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=ours)
    theirs.send(b"in")
    await until(lambda: protocol.calls)
    assert protocol.calls == [b"in"]
    transport.sendto(b"out")
    outcome = protocol.lost if transport.is_closing() else None
    if outcome is None:
        assert drain(theirs) == b"out"
        transport.close()
    exc = await protocol.lost
    assert (outcome is None) == (exc is None)
    errors.clear()
    # As on the selector loop.
    assert isinstance(exc, TypeError)


@pytest.mark.parametrize("what", ["close", "abort", "pause_reading"])
async def test_datagram_received_ends_the_reading(loop, what):
    """Of those that came together, one is told."""
    class Protocol(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            getattr(transport, what)()

    transport, protocol = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
    if what == "pause_reading" and not hasattr(transport, what):
        transport.abort()
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for number in range(5):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await turns(8)
    assert protocol.calls == [b"0"]
    transport.abort()
    await protocol.lost


async def test_datagram_received_raises(loop, errors):
    """Each is told, and each failure."""
    class Protocol(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise ZeroDivisionError

    transport, protocol = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for number in range(5):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await until(lambda: len(protocol.calls) == 5)
    await turns(2)
    assert [type(error["exception"]) for error in errors] == 5 * [ZeroDivisionError]
    errors.clear()
    transport.close()
    await protocol.lost


# -- what a protocol does in its callbacks --


def swap(transport, protocol, loop):
    other = Recorder()
    other.connection_made(transport)
    other.lost = protocol.lost
    transport.set_protocol(other)


ACTS = {
    "close": lambda transport, protocol, loop: transport.close(),
    "abort": lambda transport, protocol, loop: transport.abort(),
    "pause": lambda transport, protocol, loop: transport.pause_reading(),
    "pause and resume": lambda transport, protocol, loop: (transport.pause_reading(), transport.resume_reading()),
    "write": lambda transport, protocol, loop: transport.write(b"answer"),
    "write and abort": lambda transport, protocol, loop: (transport.write(b"answer"), transport.abort()),
    "write_eof": lambda transport, protocol, loop: transport.write_eof(),
    "raise": lambda transport, protocol, loop: 1 / 0,
    "swap": swap,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("where", ["data_received", "eof_received", "connection_made", "get_buffer", "buffer_updated"])
def test_callback_acts(where, act):
    """All loops tell the same calls, in the same order, and the peer sees the same."""
    from loop_factories import LOOPS

    seen = {}
    for name, factory in LOOPS.items():
        with contextlib.closing(factory()) as loop:
            errors = []
            loop.set_exception_handler(lambda _, context, errors=errors: errors.append(
                (context["message"].split("<")[0], type(context.get("exception")))))
            seen[name] = loop.run_until_complete(play(where, ACTS[act])) + (errors,)
    first, *others = seen.values()
    assert all(other == first for other in others), seen


async def play(where, act):
    loop = asyncio.get_running_loop()
    calls = []

    def method(name):
        def call(self, *args):
            calls.append((name, bytes(args[0]) if name == "data_received" else None))
            if name == "connection_made":
                self.transport = args[0]
            if name == where and calls.count((name, calls[-1][1])) == 1:
                act(self.transport, self, loop)
            if name == "get_buffer":
                return buffer
            if name == "connection_lost":
                self.lost.set_result(type(args[0]))
            return None

        return call

    buffer = bytearray(4)
    buffered = where in ("get_buffer", "buffer_updated")
    names = ["connection_made", "eof_received", "pause_writing", "resume_writing", "connection_lost"]
    names += ["get_buffer", "buffer_updated"] if buffered else ["data_received"]
    kind = type("Protocol", (asyncio.BufferedProtocol if buffered else asyncio.Protocol,),
                {name: method(name) for name in names})
    protocol = kind()
    protocol.lost = loop.create_future()
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        theirs.send(b"abcdef")
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        await turns(5)
        with contextlib.suppress(BrokenPipeError):
            theirs.send(b"ghi")
            theirs.shutdown(socket.SHUT_WR)
        await turns(5)
        try:
            received = drain(theirs)
        except ConnectionResetError:
            received = None  # with bytes that ours had not read
        closing = transport.is_closing()
        if not transport.is_closing():
            transport.abort()
        await protocol.lost
        await turns(2)
        return calls, received, closing


async def test_loop_is_run_out_of_a_callback(loop, connect, pair, errors):
    """As nest_asyncio runs it: no data is lost, and nothing is left behind."""
    class Nested(Recorder):
        depth = 0
        running = False

        def data_received(self, data):
            super().data_received(data)
            if self.depth < 2:
                self.depth += 1
                pair[1].send(b"more")
                self.running = True
                for _ in range(3):
                    run_once_nested(loop)
                self.running = False

    transport, protocol = await connect(pair[0], Nested)
    pair[1].send(b"first")
    # Not out of the nested run: from CPython 3.15 on connection_lost() has the callback's context, too, which is
    # entered by then. No loop calls it a second time.
    await until(lambda: len(protocol.data) >= 9 and not protocol.running)
    transport.abort()
    await protocol.lost
    # The context of the callback is entered already.
    assert {type(error["exception"]) for error in errors} <= {RuntimeError}
    errors.clear()


def run_once_nested(loop):
    task = asyncio.current_task()
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    try:
        loop.call_soon(int)
        loop._run_once()
    finally:
        if task is not None:
            asyncio.tasks._enter_task(loop, task)


async def test_abort_and_end_out_of_a_nested_run(loop, pair, errors):
    """The connection is lost while its data_received() runs, which fails then."""
    # (In a context of its own it can't be: what is entered can't be entered again.)
    class Nested(Recorder):
        def data_received(self, data):
            transport.abort()
            for _ in range(3):
                run_once_nested(loop)
            assert self.lost.done()
            raise ZeroDivisionError

    transport, protocol = await connect_without_context(loop, pair[0], Nested)
    pair[1].send(b"first")
    await protocol.lost
    await turns(3)
    assert errors
    errors.clear()


# -- what is told by a poll that goes on --


@pytest.mark.parametrize("protocol", [Recorder, Buffered, streams_of], ids=["protocol", "buffered", "streams"])
async def test_bytes_behind_an_urgent_one(loop, connect, stack, protocol):
    """A read stops in front of them, though it has asked for more."""
    ours, theirs = stack_of_tcp(stack)
    transport, protocol = await loop.create_connection(protocol, sock=ours)
    theirs.send(b"before")
    await until(lambda: received_by(protocol) == b"before")
    # Nothing comes behind it that would be told.
    theirs.send(b"one")
    theirs.send(b"!", socket.MSG_OOB)
    theirs.send(b"two")
    await until(lambda: received_by(protocol) == b"beforeonetwo")
    transport.close()


async def test_end_that_comes_with_the_last_bytes(loop, connect, stack):
    for size in (1, 4000, 5000, 200_000):
        ours, theirs = stack_of_tcp(stack)
        transport, protocol = await connect(ours)
        theirs.sendall(b"x")
        await until(lambda protocol=protocol: protocol.data)
        theirs.sendall(bytes(size))
        theirs.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert len(protocol.data) == 1 + size


async def test_buffer_that_is_just_large_enough(loop, stack, errors):
    """Nobody asks for a buffer when there is nothing to put into it."""
    ours, theirs = stack_of_tcp(stack)
    asked = []

    class Exact(Buffered):
        def get_buffer(self, sizehint):
            asked.append(len(self.data))
            return self.buffer[len(self.data):]

        def buffer_updated(self, count):
            self.data += bytes(count)

    transport, protocol = await loop.create_connection(lambda: Exact(100), sock=ours)
    theirs.send(bytes(60))
    await until(lambda: len(protocol.data) == 60)
    theirs.send(bytes(40))
    await until(lambda: len(protocol.data) == 100)
    await asyncio.sleep(0.4)
    assert asked == [0, 60]
    assert errors == []
    transport.abort()
    await protocol.lost


async def test_a_flood_is_read_once_a_tick(loop, connect, stack):
    ours, theirs = stack_of_tcp(stack)
    transport, protocol = await connect(ours)
    reads = 0

    def data_received(data):
        nonlocal reads
        reads += 1
        # Of what it has made room for, more comes at once.
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(bytes(65536))

    protocol.data_received = data_received
    theirs.send(b"x")
    most = 0
    for _ in range(300):
        before = reads
        await asyncio.sleep(0)
        most = max(most, reads - before)
    assert reads > 50
    assert most == 1
    transport.abort()
    await protocol.lost


async def test_more_to_read_waits_for_its_turn(loop, connect, stack):
    """What a callback of this tick schedules runs before the next read."""
    ours, theirs = stack_of_tcp(stack)
    transport, protocol = await connect(ours)
    transport.pause_reading()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    with contextlib.suppress(BlockingIOError):
        while True:
            theirs.send(bytes(65536))
    order = []

    def data_received(data):
        if not order:
            loop.call_soon(lambda: loop.call_soon(order.append, "scheduled"))
        order.append("read")

    protocol.data_received = data_received
    transport.resume_reading()
    await until(lambda: order.count("read") > 3)
    # (In the next tick, and in the one behind it.)
    assert order.index("scheduled") <= 3
    transport.abort()
    await protocol.lost


async def test_low_water_mark_holds(loop, connect, stack):
    ours, theirs = stack_of_tcp(stack)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    transport, protocol = await connect(ours)
    theirs.send(bytes(100))
    await until(lambda: len(protocol.data) == 100)
    theirs.send(bytes(50))
    await asyncio.sleep(0.4)
    assert len(protocol.data) == 100
    theirs.send(bytes(50))
    await until(lambda: len(protocol.data) == 200)
    transport.abort()
    await protocol.lost


@pytest.mark.native_only("the reference's polls are armed again before anybody is told")
async def test_what_was_told_is_told_again(loop, connect, stack):
    """An interrupt may come between the transport's place in _ready and its read."""
    ours, theirs = stack_of_tcp(stack)
    transport, protocol = await connect(ours)
    loop.call_soon(theirs.send, b"abc")
    lost = False
    while not lost:
        await asyncio.sleep(0)
        if protocol.data:
            protocol.data.clear()
            theirs.send(b"abc")
        for ready in list(loop._ready):
            if ready is transport:
                loop._ready.remove(ready)
                lost = True
    assert not protocol.data
    await until(lambda: protocol.data == b"abc")
    transport.close()
    await protocol.lost


@pytest.mark.uringloop_only
async def test_idle_connection_does_not_wake_the_loop(loop, connect, stack):
    ours, theirs = stack_of_tcp(stack)
    transport, protocol = await connect(ours)
    theirs.send(b"abc")
    await until(lambda: protocol.data == b"abc")
    # It has looked once more.
    await asyncio.sleep(0.3)
    before = loop._proactor._ring.counters()["enters"]
    await asyncio.sleep(0.3)
    assert loop._proactor._ring.counters()["enters"] - before < 10
    transport.close()
    await protocol.lost


# -- attributes of the program's --


async def test_attributes_of_the_program(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    with pytest.raises(AttributeError):
        transport.of_the_program
    transport.of_the_program = [transport]
    assert transport.of_the_program[0] is transport and vars(transport)["of_the_program"]
    del transport.of_the_program
    with pytest.raises(AttributeError):
        del transport.of_the_program
    written = []
    transport.write = written.append
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    writer.write(b"data")
    assert written == [b"data"]
    # Of what is written otherwise it is not told.
    transport.writelines([b"pieces"])
    assert written == [b"data"]
    await until(lambda: drain(pair[1]) == b"pieces")
    transport.close()
    await protocol.lost


async def test_attributes_of_a_transport_that_is_gone(connect, pair):
    transport, protocol = await connect(pair[0])
    transport.of_the_program = "is kept"
    attributes = vars(transport)
    transport.close()
    await protocol.lost
    del transport, protocol
    await turns(2)
    gc.collect()
    assert attributes["of_the_program"] == "is kept"


@pytest.mark.native_only("those of the stdlib are in Python")
def test_long_chain_of_attributes(loop):
    """It is freed from its end, however long it is, and not down the stack."""
    for cls in (proactor_events._ProactorSocketTransport, sslproto._SSLProtocolTransport, sslproto.SSLProtocol):
        chain = None
        for _ in range(200_000):
            link = cls.__new__(cls)
            with contextlib.suppress(AttributeError):
                link._closed = True
            link.next = chain
            chain = link
        del link
        chain = None


async def test_attributes_make_no_cycle_that_stays(loop, connect, pair):
    class Mark:
        pass

    transport, protocol = await connect(pair[0])
    transport.mark = mark = Mark()
    mark.transport = transport
    gone = weakref.ref(mark)
    transport.close()
    await protocol.lost
    del mark, transport, protocol
    await turns(2)
    gc.collect()
    assert gone() is None


# -- threads, forks, closed loops --


@pytest.mark.native_only("the stdlib's transports are in Python, where a thread may stop at any place: they lose a write, or trip")
def test_writes_of_a_thread_while_the_loop_sends(loop, pair):
    """Calls from two threads at a time, as one program does it with call_soon_threadsafe() left out: nothing breaks."""
    ours, theirs = pair
    data = bytearray()
    transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
    stop = threading.Event()

    def write():
        try:
            for _ in range(2000):
                transport.write(b"x" * 7)
        finally:
            stop.set()

    async def main():
        thread = threading.Thread(target=write)
        thread.start()
        while not stop.is_set():
            transport.write(b"y" * 7)
            data.extend(drain(theirs))
            await asyncio.sleep(0)
        thread.join()
        transport.close()
        while not protocol.lost.done():
            data.extend(drain(theirs))
            await asyncio.sleep(0)
        data.extend(drain(theirs))

    loop.run_until_complete(main())
    assert data.count(b"x") == 14000 and data.count(b"y") % 7 == 0 and not data.strip(b"xy")


def test_fork_of_another_thread_while_something_is_gathered(loop, pair):
    """It leaves once: the child has a copy of what its parent is about to send."""
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        transport.write(b"once")
        pids = []

        def fork():
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    transport.close()
                    with contextlib.suppress(Exception):
                        loop._proactor._submit()
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        assert os.waitpid(pids[0], 0)[1] == 0
        await turns(3)
        assert theirs.recv(100) == b"once"
        transport.close()
        await protocol.lost

    loop.run_until_complete(main())


@pytest.mark.uringloop_only
def test_write_in_a_forked_child(loop, pair):
    """It goes out at once, as on the selector loop: the child has no ring."""
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                transport.write(b"the child's")
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert drain(theirs) == b"the child's"
        transport.close()
        await protocol.lost

    loop.run_until_complete(main())


def test_loop_is_closed_under_a_send_in_flight(loop_factory, errors, pair):
    loop = loop_factory()
    with contextlib.closing(loop):
        async def main():
            transport, _ = await loop.create_connection(Recorder, sock=pair[0])
            await with_a_send_in_flight(transport, pair[0])
            return transport

        transport = loop.run_until_complete(main())
        pair[1].close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.abort()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport
        gc.collect()


def test_loop_is_dropped_under_a_send_in_flight(loop_factory, errors, pair):
    """No close(): the collector takes all apart, in any order."""
    def run():
        loop = loop_factory()

        async def main():
            transport, _ = await loop.create_connection(Recorder, sock=pair[0])
            await with_a_send_in_flight(transport, pair[0])

        loop.run_until_complete(main())
        pair[1].close()

    with pytest.warns(ResourceWarning):
        run()
        gc.collect()


class Slow(Buffered):
    """It takes half a second for 40,000 bytes."""

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        if nbytes > 1:
            time.sleep(0.0025)


# The kernel keeps the poll that has told of them: whether that was all has to be asked until reading ends, however long it goes on.
async def until_kept(protocol, peer):
    for count in range(1, 7):
        peer.send(b"_")
        await until(lambda: len(protocol.data) == count)


async def test_urgent_byte_behind_half_a_second_of_reading(loop, stack):
    ours, theirs = (stack.enter_context(sock) for sock in tcp_pair())
    # (A short read ends where the urgent byte is.)
    transport, protocol = await loop.create_connection(lambda: Slow(199), sock=ours)
    await until_kept(protocol, theirs)
    theirs.send(bytes(40_000))
    theirs.send(b"!", socket.MSG_OOB)
    theirs.send(b"behind")
    await until(lambda: protocol.data.endswith(b"behind"))
    transport.close()
    await protocol.lost


def test_interrupt_behind_half_a_second_of_reading(loop, stack):
    ours, theirs = (stack.enter_context(sock) for sock in tcp_pair())

    async def connect():
        transport, protocol = await loop.create_connection(lambda: Slow(199), sock=ours)
        await until_kept(protocol, theirs)
        return transport, protocol

    transport, protocol = loop.run_until_complete(connect())
    theirs.send(bytes(40_000))
    loop.run_until_complete(asyncio.sleep(0.4))
    # What an interrupt in the midst of the stdlib's _run_once() does.
    while not loop._ready:
        loop._process_events(loop._selector.select(0))
    loop._ready.clear()
    loop.run_until_complete(until(lambda: len(protocol.data) == 40_006))
    loop.run_until_complete(closed((transport, protocol)))
