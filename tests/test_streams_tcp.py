"""Stream sockets through transports: protocols, streams, flow control, every way of closing, TLS.

A `pair` is two connected sockets, TCP and unix; the transport is made on one, the other is the peer.
"""

import array
import asyncio
import contextlib
import contextvars
import ctypes
import errno
import fcntl
import os
import socket

import pytest

from support import (
    Buffered,
    Echo,
    Recorder,
    check_protocol_changes,
    close,
    closed,
    drain,
    fill,
    needs_ipv6,
    read_all,
    read_exactly,
    reset,
    some_bytes,
    tcp_pair,
    turns,
    until,
)

# -- what a connection says about itself --


async def test_streams_echo(loop):
    async def serve(reader, writer):
        peers.append(writer.get_extra_info("peername"))
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        await close(writer)

    peers = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for word in (b"hello\n", b"world\n"):
        writer.write(word)
        assert await reader.readline() == word.upper()
    assert peers == [writer.get_extra_info("sockname")]
    writer.write_eof()
    assert await reader.read() == b""
    await close(writer, server)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_peername_and_sockname(loop, host):
    accepted = loop.create_future()

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(self)

    server = await loop.create_server(Protocol, host, 0)
    client, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname()[:2])
    there = (await accepted).transport
    assert there.get_extra_info("peername") == client.get_extra_info("sockname")
    assert there.get_extra_info("sockname") == client.get_extra_info("peername")
    assert there.get_extra_info("peername")[1] != 0
    client.close()
    assert await accepted.result().lost is None
    await close(server)


async def test_peername_of_a_given_socket(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    assert transport.get_extra_info("peername") == theirs.getsockname()
    assert transport.get_extra_info("socket").fileno() == ours.fileno()
    transport.close()
    await protocol.lost


async def test_accepted_socket_is_nonblocking_and_closed_at_exec(loop):
    accepted = loop.create_future()

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(self)

    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    client, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    there = await accepted
    fd = there.transport.get_extra_info("socket").fileno()
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    assert not os.get_inheritable(fd)
    assert there.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()
    await there.lost
    await close(server)


# -- data --


async def test_callbacks_in_order(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    assert not transport.is_closing() and transport.is_reading()
    theirs.send(b"one")
    await protocol.received(3)
    theirs.send(b"two")
    theirs.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.data == b"onetwo"
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert transport.is_closing() and not transport.is_reading()
    assert ours.fileno() == -1


async def test_write_pieces_of_all_sizes(loop, connect, pair):
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    data = some_bytes(2_000_000)
    transport, protocol = await connect(ours)
    reading = asyncio.create_task(read_all(loop, theirs))
    start, size = 0, 1
    while start < len(data):
        transport.write(data[start : start + size])
        start, size = start + size, size * 3 % 100_003
        if start % 5 == 0:
            await turns(1)
    transport.write_eof()
    assert await reading == data
    transport.close()
    await protocol.lost


@pytest.mark.uringloop_only  # the selector loop sends what the buffer has become
async def test_write_copies_what_is_mutable(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    data = bytearray(b"x" * 3_000_000)
    transport.write(data)
    transport.write(memoryview(data))
    transport.write(data)
    data[:] = bytes(len(data))
    del data[:]  # not exported any more either
    transport.close()
    assert await read_all(loop, theirs) == b"x" * 9_000_000
    await protocol.lost


async def test_writelines(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.writelines([b"a", bytearray(b"bc"), memoryview(b"def"), b""])
    transport.writelines(memoryview(bytes([letter])) for letter in b"ghi")
    transport.close()
    assert await read_all(loop, theirs) == b"abcdefghi"
    await protocol.lost


async def test_write_refuses_what_is_no_bytes(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    for wrong in ("text", 1, None):
        with pytest.raises(TypeError):
            transport.write(wrong)
    transport.close()
    await protocol.lost


class PlainBuffered(Buffered):
    """Its buffer is a bytearray and no view of one."""

    def get_buffer(self, sizehint):
        return self.buffer.obj

    def eof_received(self):
        self.data += b"EOF"


async def test_buffered_protocol(loop, connect, pair):
    ours, theirs = pair
    _, protocol = await connect(ours, PlainBuffered)
    data = some_bytes(1_000_000)
    await loop.sock_sendall(theirs, data)
    theirs.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.data == data + b"EOF"


@pytest.mark.parametrize("buffer", [
    array.array("B", bytes(400)),
    array.array("I", bytes(400)),
    memoryview(bytearray(400)).cast("B", (20, 20)),
    (ctypes.c_uint16 * 200)(),
], ids=["array", "array of integers", "two dimensions", "ctypes"])
async def test_buffered_protocol_with_an_array(loop, connect, pair, buffer):
    """A buffer is so many bytes, whatever it says that it is made of."""
    ours, theirs = pair

    class Array(Buffered):
        def get_buffer(self, sizehint):
            return buffer

        def buffer_updated(self, count):
            self.data += memoryview(buffer).cast("B")[:count]
            self.updates.append(count)

    _, protocol = await connect(ours, Array)
    data = some_bytes(1000)
    theirs.send(data)
    await until(lambda: len(protocol.data) == 1000)
    assert protocol.data == data
    assert protocol.updates == [400, 400, 200]
    theirs.close()
    assert await protocol.lost is None


class Small(Buffered):
    """Does something with the transport when it has been given the first four bytes."""

    def __init__(self, action):
        super().__init__(4)
        self.action = action

    def buffer_updated(self, count):
        super().buffer_updated(count)
        if len(self.updates) == 1:
            self.action(self.transport)


async def test_protocol_set_in_buffer_updated(loop, connect, pair):
    """What is left of one receive is the new protocol's."""
    ours, theirs = pair
    second = Recorder()
    second.calls.append("connection_made")
    transport, first = await connect(ours, lambda: Small(lambda transport: transport.set_protocol(second)))
    theirs.send(b"HEADbody")
    assert await second.received(4) == b"body"
    assert first.data == b"HEAD"
    transport.close()
    assert await second.lost is None


async def test_pause_in_buffer_updated(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Small(lambda transport: transport.pause_reading()))
    theirs.send(b"HEADbody and tail")
    await until(lambda: protocol.data)
    await turns(10)
    assert protocol.data == b"HEAD"
    theirs.send(b", the end")
    transport.resume_reading()
    await until(lambda: len(protocol.data) == 26)
    assert protocol.data == b"HEADbody and tail, the end"
    transport.close()
    assert await protocol.lost is None


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_end_in_buffer_updated(loop, connect, pair, how):
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Small(lambda transport: getattr(transport, how)()))
    theirs.send(b"HEADbody")
    assert await protocol.lost is None
    assert protocol.data == b"HEAD"


async def test_set_protocol_between_kinds(loop, connect, pair):
    ours, theirs = pair
    transport, first = await connect(ours)
    await check_protocol_changes(transport, first, theirs.send, buffered=PlainBuffered)


# -- flow control --


async def test_flow_control(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.set_write_buffer_limits(high=100_000, low=50_000)
    assert transport.get_write_buffer_limits() == (50_000, 100_000)
    data = some_bytes(8_000_000)
    transport.write(data)
    transport.write(data)
    assert protocol.calls == ["connection_made", "pause_writing"]
    assert len(data) < transport.get_write_buffer_size() <= 2 * len(data)
    await turns(10)
    assert protocol.calls == ["connection_made", "pause_writing"]
    reading = asyncio.create_task(read_all(loop, theirs))
    await until(lambda: protocol.calls[-1] == "resume_writing")
    assert transport.get_write_buffer_size() <= 50_000
    transport.write_eof()
    assert await reading == data + data
    assert transport.get_write_buffer_size() == 0
    assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
    transport.close()
    await protocol.lost


async def test_flow_control_beside_others_that_write(loop, connect, pair):
    """Who waits for room is told of it, though in each tick somebody adds a little."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    reading = asyncio.create_task(read_all(loop, theirs))
    transport.write(bytes(8_000_000))
    assert protocol.calls[-1] == "pause_writing"
    written = 0
    while protocol.calls[-1] == "pause_writing" and written < 100_000:
        transport.write(b"a little")
        written += 1
        await asyncio.sleep(0)
    assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
    assert written < 100_000
    transport.close()
    assert await reading == bytes(8_000_000) + b"a little" * written
    await protocol.lost


async def test_drain_waits_for_the_peer(loop, pair):
    ours, theirs = pair
    reader, writer = await asyncio.open_connection(sock=ours)
    data = some_bytes(8_000_000)
    writer.write(data)
    writer.write(data)
    draining = asyncio.create_task(writer.drain())
    await turns(10)
    assert not draining.done()
    reading = asyncio.create_task(read_all(loop, theirs))
    await draining
    await close(writer)
    assert await reading == data + data


async def test_stream_reader_pauses_the_transport(loop, pair):
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    reader, writer = await asyncio.open_connection(sock=ours, limit=1000)
    data = some_bytes(3_000_000)
    sending = asyncio.create_task(loop.sock_sendall(theirs, data))
    await until(lambda: not writer.transport.is_reading())
    await turns(10)
    assert not sending.done()
    assert await reader.readexactly(len(data)) == data
    await sending
    await close(writer)


# -- pause and resume reading --


async def test_pause_reading_delivers_nothing(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    await turns(3)
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    theirs.send(b"one ")
    await turns(10)
    theirs.send(b"two")
    await turns(10)
    assert protocol.data == b""
    transport.resume_reading()
    transport.resume_reading()
    assert await protocol.received(7) == b"one two"
    transport.close()
    await protocol.lost


async def test_pause_reading_leaves_the_bytes_in_the_socket(loop, connect, pair, stack):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    await turns(3)
    transport.pause_reading()
    await turns(3)
    other = stack.enter_context(ours.dup())
    theirs.send(b"for the other")
    await turns(10)
    assert other.recv(100) == b"for the other"
    transport.resume_reading()
    theirs.send(b"for the transport")
    assert await protocol.received(17) == b"for the transport"
    transport.close()
    await protocol.lost


async def test_resumed_reading_begins_in_the_next_turn(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.pause_reading()
    theirs.send(b"data")
    await turns(3)
    transport.resume_reading()
    # This task is called before what the turn has found.
    await turns(2)
    assert protocol.data == b"data"
    await closed((transport, protocol))


async def test_what_a_buffered_protocol_has_no_room_for_stays_in_the_socket(connect, pair):
    class Header(Buffered):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Header(4))
    theirs.send(b"headbody")
    await until(lambda: protocol.updates)
    assert ours.recv(10, socket.MSG_PEEK) == b"body"
    transport.resume_reading()
    await until(lambda: protocol.data == b"headbody")
    assert protocol.updates == [4, 4]
    await closed((transport, protocol))


async def test_context_variable_that_data_received_sets(connect, pair):
    """The next call sees it."""
    variable = contextvars.ContextVar("variable", default=None)

    class Remembering(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.calls.append(variable.get())
            variable.set(data)

    ours, theirs = pair
    transport, protocol = await connect(ours, Remembering)
    for number in (1, 2):
        theirs.send(str(number).encode())
        await protocol.received(number)
    assert protocol.calls == ["connection_made", "data_received", None, "data_received", b"1"]
    await closed((transport, protocol))


async def test_pause_reading_as_the_bytes_arrive(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    sent = bytearray()
    for number in range(200):
        transport.pause_reading()
        sent += b"%d " % number
        theirs.send(b"%d " % number)
        if number % 3 == 0:
            await turns(1)
        transport.resume_reading()
        await turns(number % 4)
    assert await protocol.received(len(sent)) == sent
    transport.close()
    await protocol.lost


@pytest.mark.parametrize(
    "calls",
    [["pause"], ["pause", "resume"], ["resume", "pause"], ["pause", "resume", "pause"], ["pause", "resume"] * 3],
    ids=" ".join,
)
async def test_pause_and_resume_in_connection_made(loop, connect, pair, calls):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            for call in calls:
                getattr(transport, f"{call}_reading")()

    ours, theirs = pair
    data = some_bytes(500_000)
    sending = asyncio.create_task(loop.sock_sendall(theirs, data))
    transport, protocol = await connect(ours, Protocol)
    await turns(10)
    if calls[-1] == "pause":
        assert protocol.data == b""
        transport.resume_reading()
    assert await protocol.received(len(data)) == data
    await sending
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("count", [2, 3, 6, 7])
async def test_pause_and_resume_in_one_iteration(loop, connect, pair, count):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    await turns(3)
    sent = bytearray()
    for round in range(5):
        theirs.send(b"round %d " % round)
        sent += b"round %d " % round
        for number in range(count):
            (transport.resume_reading if number % 2 else transport.pause_reading)()
        await turns(3)
        transport.resume_reading()
    assert await protocol.received(len(sent)) == sent
    transport.close()
    await protocol.lost


async def test_pause_in_data_received(loop, connect, pair):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            loop.call_soon(self.transport.resume_reading)

    ours, theirs = pair
    data = some_bytes(2_000_000)
    sending = asyncio.create_task(loop.sock_sendall(theirs, data))
    transport, protocol = await connect(ours, Protocol)
    assert await protocol.received(len(data)) == data
    await sending
    transport.close()
    await protocol.lost


async def test_end_of_stream_during_a_pause(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Recorder(keep_open=True))
    transport.pause_reading()
    theirs.send(b"last words")
    theirs.shutdown(socket.SHUT_WR)
    await turns(10)
    assert protocol.calls == ["connection_made"]
    transport.resume_reading()
    await until(lambda: protocol.calls[-1] == "eof_received")
    assert protocol.data == b"last words"
    transport.close()
    await protocol.lost


async def test_end_is_told_again_when_reading_is_resumed(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Recorder(keep_open=True))
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: protocol.calls.count("eof_received") == 1)
    await turns(5)
    assert protocol.calls.count("eof_received") == 1
    transport.pause_reading()
    transport.resume_reading()
    await turns(10)
    assert protocol.calls.count("eof_received") == 2
    second = Recorder()
    transport.pause_reading()
    transport.set_protocol(second)
    transport.resume_reading()
    assert await second.lost is None


async def test_end_during_a_pause_is_told_once(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Recorder(keep_open=True))
    theirs.shutdown(socket.SHUT_WR)
    await turns(1)
    # It has come in this turn, and is told only behind this task.
    transport.pause_reading()
    await turns(1)
    assert "eof_received" not in protocol.calls
    transport.resume_reading()
    transport.pause_reading()
    transport.resume_reading()
    await turns(10)
    assert protocol.calls.count("eof_received") == 1
    await closed((transport, protocol))


# -- closing --


async def test_write_eof_leaves_the_other_direction(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    assert transport.can_write_eof()
    data = some_bytes(3_000_000)
    transport.write(data)
    transport.write_eof()
    transport.write_eof()
    with pytest.raises(RuntimeError):
        transport.write(b"more")
    assert await read_all(loop, theirs) == data
    theirs.send(b"answer")
    assert await protocol.received(6) == b"answer"
    theirs.close()
    assert await protocol.lost is None
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_eof_received_may_keep_it_open(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Recorder(keep_open=True))
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: protocol.calls[-1] == "eof_received")
    await turns(5)
    assert not transport.is_closing()
    data = some_bytes(3_000_000)
    transport.write(data)
    transport.close()
    assert await read_all(loop, theirs) == data
    assert await protocol.lost is None


async def test_eof_received_closes_after_what_is_written(loop, connect, pair):
    class Protocol(Recorder):
        def eof_received(self):
            self.transport.write(data)

    ours, theirs = pair
    data = some_bytes(3_000_000)
    _, protocol = await connect(ours, Protocol)
    theirs.shutdown(socket.SHUT_WR)
    assert await read_all(loop, theirs) == data
    assert await protocol.lost is None


async def test_close_sends_all_first(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    data = some_bytes(8_000_000)
    for start in range(0, len(data), 1_000_000):
        transport.write(data[start : start + 1_000_000])
    transport.close()
    await turns(10)
    assert not protocol.lost.done()
    assert await read_all(loop, theirs) == data
    assert await protocol.lost is None


async def test_write_while_close_still_sends(loop, connect, pair):
    """What a protocol has left to say goes out behind the rest; TLS says farewell this way."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    data = some_bytes(8_000_000)
    transport.write(data)
    transport.close()
    await turns(3)
    transport.write(b"and")
    await turns(3)
    transport.write(b" farewell")
    assert await read_all(loop, theirs) == data + b"and farewell"
    assert await protocol.lost is None
    assert protocol.calls.count("connection_lost") == 1


async def test_close_ends_the_receive_in_flight(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    await turns(3)
    transport.close()
    assert await loop.sock_recv(theirs, 1) == b""
    assert await protocol.lost is None
    assert ours.fileno() == -1
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_close_leaves_the_other_owner_connected(loop, connect, pair, stack):
    ours, theirs = pair
    other = stack.enter_context(ours.dup())
    transport, protocol = await connect(ours)
    await turns(3)
    transport.close()
    await protocol.lost
    other.send(b"still here")
    assert await loop.sock_recv(theirs, 100) == b"still here"
    theirs.send(b"so am I")
    assert await loop.sock_recv(other, 100) == b"so am I"


WRITES = {
    "one": [b"last words"],
    "two": [b"one ", b"two"],
    "many": [b"%d " % number for number in range(100)],
    "large": [b"one ", bytearray(some_bytes(50_000)), memoryview(b"three")],
}


@pytest.fixture(params=list(WRITES))
def writes(request):
    return WRITES[request.param]


@pytest.mark.parametrize("when", ["at once", "call_soon", "a turn later"])
async def test_abort_behind_writes(loop, connect, pair, writes, when):
    """What fitted was out before it."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    for data in writes:
        transport.write(data)
    if when == "at once":
        transport.abort()
    elif when == "call_soon":
        loop.call_soon(transport.abort)
    else:
        await turns(1)
        transport.abort()
    assert await read_all(loop, theirs) == b"".join(writes)
    assert await protocol.lost is None


async def test_abort_behind_a_write_of_the_next_turn(loop, connect, pair):
    """The first is out, and its callback still to come."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.write(b"one ")
    await turns(1)
    transport.write(b"two ")
    transport.write(b"three")
    transport.abort()
    assert await read_all(loop, theirs) == b"one two three"
    assert await protocol.lost is None


async def test_reset_before_a_write_of_the_next_turn(loop, connect, stack):
    """What the socket says of it, it says once."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    transport, protocol = await connect(stack.enter_context(ours))
    transport.write(b"one")
    await turns(1)
    reset(theirs)
    transport.write(b"two")
    transport.write(b"three")
    assert type(await protocol.lost) is ConnectionResetError


async def test_data_received_raises_behind_writes(loop, connect, pair, writes, errors):
    class Protocol(Recorder):
        def data_received(self, data):
            for data in writes:
                self.transport.write(data)
            raise ZeroDivisionError

    ours, theirs = pair
    transport, protocol = await connect(ours, Protocol)
    theirs.send(b"x")
    assert isinstance(await protocol.lost, ZeroDivisionError)
    assert await read_all(loop, theirs) == b"".join(writes)
    errors.clear()


@pytest.mark.parametrize("end", ["stop", "SystemExit", "a turn before"])
def test_run_ends_behind_writes(loop, pair, writes, end):
    """The loop never runs again."""
    def write():
        for data in writes:
            transport.write(data)
        if end == "SystemExit":
            raise SystemExit
        loop.stop()

    async def start():
        return await loop.create_connection(Recorder, sock=ours)

    ours, theirs = pair
    transport, _ = loop.run_until_complete(start())
    before = b""
    if end == "a turn before":
        before = b"before "
        loop.call_soon(transport.write, before)
    loop.call_soon(loop.call_soon, write)
    with pytest.raises(SystemExit) if end == "SystemExit" else contextlib.nullcontext():
        loop.run_forever()
    loop.close()
    assert drain(theirs) == before + b"".join(writes)
    ours.close()
    transport._sock = None


async def test_what_was_written_may_change(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    buffers = [bytearray(some_bytes(2000, seed)) for seed in range(5)]
    expected = b"".join(buffers)
    for buffer in buffers:
        transport.write(buffer)
        buffer[:] = bytes(2000)
    assert transport.get_write_buffer_size() in (0, 10_000)
    assert await read_exactly(loop, theirs, 10_000) == expected
    await closed((transport, protocol))


async def test_debug_begins_with_operations_pending(loop, connect, pair):
    """The next failure is reported in full."""
    class Protocol(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError

    ours, theirs = pair
    reports = []
    loop.set_exception_handler(lambda loop, context: (loop.default_exception_handler(context), reports.append(context)))
    transport, protocol = await connect(ours, Protocol)
    await turns(2)
    loop.set_debug(True)
    theirs.send(b"x")
    assert isinstance(await protocol.lost, ZeroDivisionError)
    loop.set_debug(False)
    assert [context["message"] for context in reports] == ["Fatal error: protocol.data_received() call failed."]


async def test_abort_drops_what_is_not_sent(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    filled = fill(ours)
    transport.write(bytes(8_000_000))
    await turns(3)
    transport.abort()
    assert await protocol.lost is None
    assert ours.fileno() == -1
    received = await read_all(loop, theirs)
    assert len(received) < filled + 8_000_000


async def test_connection_lost_comes_once(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    theirs.send(b"x")
    theirs.close()
    transport.write(bytes(1_000_000))
    transport.close()
    transport.abort()
    transport.close()
    transport.abort()
    # The selector loop has tried to send already.
    assert isinstance(await protocol.lost, (type(None), BrokenPipeError, ConnectionResetError))
    await turns(10)
    assert protocol.calls.count("connection_lost") == 1
    transport.close()
    transport.abort()
    transport.write(b"after the end")
    await turns(3)


async def test_reset_by_peer(loop, connect, stack):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    transport, protocol = await connect(ours)
    await turns(3)
    reset(theirs)
    assert isinstance(await protocol.lost, ConnectionResetError)
    assert protocol.calls == ["connection_made", "connection_lost"]
    assert transport.is_closing() and ours.fileno() == -1


async def test_reset_by_peer_during_a_write(loop, connect):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    transport, protocol = await connect(ours)
    fill(ours)
    transport.write(bytes(1_000_000))
    transport.pause_reading()
    await turns(3)
    reset(theirs)
    assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
    await turns(3)
    assert ours.fileno() == -1


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_close_after_a_reset(loop, connect, how):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    transport, protocol = await connect(ours)
    transport.pause_reading()
    await turns(3)
    reset(theirs)
    getattr(transport, how)()
    assert await protocol.lost is None
    assert ours.fileno() == -1


async def test_write_after_the_end_is_logged(loop, connect, caplog, pair):
    transport, protocol = await connect(pair[0])
    transport.abort()
    await protocol.lost
    for _ in range(10):
        transport.write(b"x")
    assert "socket.send() raised exception" in caplog.text


# -- exceptions of protocols --


class Bug(Exception):
    pass


class RaisesInData(Recorder):
    def data_received(self, data):
        raise Bug


class RaisesInEof(Recorder):
    def eof_received(self):
        raise Bug


class RaisesInBuffer(PlainBuffered):
    def buffer_updated(self, count):
        raise Bug


class RaisesInGetBuffer(PlainBuffered):
    def get_buffer(self, sizehint):
        raise Bug


@pytest.mark.parametrize("factory", [RaisesInData, RaisesInEof, RaisesInBuffer, RaisesInGetBuffer])
async def test_protocol_raises(loop, connect, errors, pair, factory):
    ours, theirs = pair
    _, protocol = await connect(ours, factory)
    if factory is not RaisesInEof:
        theirs.send(b"x")
        await turns(2)
        theirs.send(b"y")
    theirs.shutdown(socket.SHUT_WR)
    assert isinstance(await protocol.lost, Bug)
    assert [type(context["exception"]) for context in errors] == [Bug]
    errors.clear()
    assert ours.fileno() == -1


async def test_get_buffer_returns_an_empty_one(loop, connect, errors, pair):
    ours, theirs = pair
    _, protocol = await connect(ours, lambda: PlainBuffered(size=0))
    theirs.send(b"x")
    assert isinstance(await protocol.lost, RuntimeError)
    assert "empty buffer" in str(errors.pop()["exception"])


async def test_connection_lost_raises(loop, connect, errors, pair):
    class Protocol(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise Bug

    ours, theirs = pair
    transport, protocol = await connect(ours, Protocol)
    transport.close()
    await protocol.lost
    await turns(2)
    assert isinstance(errors.pop()["exception"], Bug)
    assert ours.fileno() == -1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("turn", [0, 11, 29])
def test_interrupt_in_the_middle_of_a_batch(loop, stack, interrupt, turn):
    """All of 30 connections have data; one protocol's exception leaves the loop."""

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            started.append(self)
            if len(started) == turn + 1:
                raise interrupt

    async def make():
        for _ in range(30):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            peers.append(stack.enter_context(theirs))
            _, protocol = await loop.create_connection(Protocol, sock=ours)
            protocols.append(protocol)
        await turns(3)

    async def all_received(data):
        for protocol in protocols:
            assert await protocol.received(len(data)) == data

    async def end():
        for protocol in protocols:
            protocol.transport.close()
            await protocol.lost

    peers, protocols, started = [], [], []
    loop.run_until_complete(make())
    for peer in peers:
        peer.send(b"first")
    with pytest.raises(interrupt):
        loop.run_forever()
    assert len(started) == turn + 1
    loop.run_until_complete(all_received(b"first"))
    for peer in peers:
        peer.send(b" second")
    loop.run_until_complete(all_received(b"first second"))
    loop.run_until_complete(end())


# -- 20 MB to a slow reader --


@pytest.mark.parametrize("over", ["tcp", "tls"])
async def test_20_megabytes_to_a_slow_reader(loop, stack, tls, over):
    data = some_bytes(20_000_000)

    async def serve(reader, writer):
        writer.write(data)
        writer.close()

    # Small kernel buffers: most sends are short.
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.setblocking(False)
    server_tls, client_tls = tls if over == "tls" else (None, None)
    server = await asyncio.start_server(serve, sock=listener, ssl=server_tls)
    await loop.sock_connect(client, listener.getsockname())
    reader, writer = await asyncio.open_connection(
        sock=client, ssl=client_tls, server_hostname="localhost" if client_tls else None, limit=4096
    )
    received = bytearray()
    while block := await reader.read(50_000):
        received += block
        await turns(len(received) % 3)
    assert received == data
    await close(writer, server)


# -- TLS, through the stdlib's sslproto --


async def test_tls_echo(loop, tls):
    server_tls, client_tls = tls
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_tls)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=client_tls, server_hostname="localhost"
    )
    data = some_bytes(1_000_000)
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    assert writer.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
    assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
    assert not writer.can_write_eof()
    await close(writer, server)


async def test_start_tls(loop, tls):
    server_tls, client_tls = tls

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go on\n")
        await writer.start_tls(server_tls)
        writer.write((await reader.readline()).upper())
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go on\n"
    await writer.start_tls(client_tls, server_hostname="localhost")
    writer.write(b"secret\n")
    assert await reader.read() == b"SECRET\n"
    await close(writer, server)


async def test_tls_peer_vanishes(loop, tls):
    server_tls, client_tls = tls
    accepted = loop.create_future()

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(self)

    server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=server_tls)
    client, protocol = await loop.create_connection(
        Recorder, *server.sockets[0].getsockname(), ssl=client_tls, server_hostname="localhost"
    )
    there = await accepted
    client.abort()
    assert await protocol.lost is None
    assert await there.lost is None or there.lost.result().errno == errno.ECONNRESET
    await close(server)


async def test_tls_client_to_a_plain_port(loop, tls, stack):
    """A handshake that fails ends in an error, and leaves nothing."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setblocking(False)
    connecting = asyncio.create_task(
        loop.create_connection(Recorder, *listener.getsockname(), ssl=tls[1], server_hostname="localhost")
    )
    peer, _ = await loop.sock_accept(listener)
    stack.enter_context(peer)
    assert await loop.sock_recv(peer, 1 << 20)  # ClientHello
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(OSError):
        await connecting
    drain(peer)
