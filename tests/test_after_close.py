"""What a transport does once it is closed, or paused, by whomever: nothing is received, nothing more is written."""

import asyncio
import socket

import pytest

from support import Buffered, Recorder, closed, fill, read_all, reset, some_bytes, tcp_pair, turns, until


@pytest.fixture
def two_pairs(pair, stack):
    """Two pairs of connected sockets of one kind: ((ours, theirs), (ours, theirs))."""
    other = tcp_pair() if pair[0].family == socket.AF_INET else socket.socketpair()
    for sock in other:
        stack.enter_context(sock).setblocking(False)
    return pair, other


class Telling:
    """Calls `told` with the name of each method in which something is received."""

    keep_open = False

    def __init__(self, told):
        self.told = told
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    def data_received(self, data):
        self.told(self, "data_received")

    def eof_received(self):
        self.told(self, "eof_received")
        return self.keep_open

    def get_buffer(self, sizehint):
        self.told(self, "get_buffer")
        return bytearray(100)

    def buffer_updated(self, count):
        self.told(self, "buffer_updated")


class PlainTelling(Telling, asyncio.Protocol):
    pass


class BufferedTelling(Telling, asyncio.BufferedProtocol):
    pass


@pytest.mark.parametrize("end", [False, True], ids=["data", "end"])
@pytest.mark.parametrize("kind", [PlainTelling, BufferedTelling])
@pytest.mark.parametrize("how", ["close", "abort", "pause_reading"])
async def test_neighbour_that_is_ready_in_the_same_tick(connect, two_pairs, how, kind, end):
    """Whichever is told first closes or pauses the other one, which is told nothing."""

    def told(protocol, method):
        calls.append((protocol, method))
        other = protocols[protocol is protocols[0]]
        if len({protocol for protocol, _ in calls}) == 1:
            getattr(other.transport, how)()

    calls, protocols = [], []
    for ours, _ in two_pairs:
        _, protocol = await connect(ours, lambda: kind(told))
        protocol.keep_open = True
        protocols.append(protocol)
    await turns(3)
    for _, theirs in two_pairs:
        if end:
            theirs.shutdown(socket.SHUT_WR)
        else:
            theirs.send(b"data")
    await until(lambda: calls)
    await turns(5)
    first = calls[0][0]
    assert {protocol for protocol, _ in calls} == {first}
    second = protocols[first is protocols[0]]
    if how == "pause_reading":
        second.transport.resume_reading()
        await until(lambda: calls[-1][0] is second)
        second.transport.close()
    assert await second.lost is None
    first.transport.close()
    assert await first.lost is None


async def test_data_of_a_pause_waits_in_the_socket(connect, pair):
    """Who takes over the socket finds it there, also when the pause came in the tick of the data."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    await turns(3)
    theirs.send(b"data")
    transport.pause_reading()
    await turns(5)
    assert protocol.data == b""
    assert ours.recv(10) == b"data"
    await closed((transport, protocol))


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_what_a_pause_kept_is_not_received_behind_close(connect, pair, how):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.pause_reading()
    theirs.send(b"data")
    theirs.shutdown(socket.SHUT_WR)
    await turns(5)
    transport.resume_reading()
    getattr(transport, how)()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_datagram_behind_close(loop, stack, how):
    """Of two endpoints that are ready in one tick the first closes the other."""

    class Closing(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            calls.append(data)
            for transport in transports:
                getattr(transport, how)()

    calls, transports = [], []
    sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for _ in range(2):
        transport, _ = await loop.create_datagram_endpoint(Closing, local_addr=("127.0.0.1", 0))
        transports.append(transport)
    await turns(3)
    for transport in transports:
        sender.sendto(b"data", transport.get_extra_info("sockname"))
    await until(lambda: calls)
    await turns(5)
    assert calls == [b"data"]


# -- writing --


@pytest.mark.parametrize("size", [3, 20_000])
@pytest.mark.parametrize("ticks", [0, 3])
async def test_write_behind_close_is_dropped(loop, connect, pair, size, ticks):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    data = some_bytes(size)
    transport.write(data)
    await turns(ticks)
    transport.close()
    transport.write(b"too late")
    assert await read_all(loop, theirs) == data
    assert await protocol.lost is None


async def test_write_behind_close_that_has_data_left(loop, connect, pair):
    """As long as what was written before has found no room, what comes behind close() follows it."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    data = some_bytes(4_000_000)
    transport.write(data)
    transport.close()
    transport.write(b"farewell")
    assert await read_all(loop, theirs) == data + b"farewell"
    assert await protocol.lost is None


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_writes_behind_the_end_are_counted(connect, pair, caplog, how):
    transport, protocol = await connect(pair[0])
    getattr(transport, how)()
    for _ in range(8):
        transport.write(b"too late")
    assert [record.getMessage() for record in caplog.records] == ["socket.send() raised exception."] * 4
    assert await protocol.lost is None
    transport.write(b"later still")
    assert transport.get_write_buffer_size() == 0


async def test_connection_lost_comes_as_soon_as_with_nothing_written(connect, pair):
    transport, protocol = await connect(pair[0])
    transport.write(b"small")
    transport.close()
    assert not protocol.lost.done()
    await turns(1)
    assert protocol.lost.done()


async def test_abort_sends_what_there_is_room_for(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.write(b"small")
    transport.abort()
    assert theirs.recv(10) == b"small"
    assert await protocol.lost is None


async def test_small_write_is_out_when_write_eof_returns(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.write(b"small")
    transport.write_eof()
    assert theirs.recv(10) == b"small"
    assert theirs.recv(10) == b""
    with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
        transport.write(b"more")
    await closed((transport, protocol))


@pytest.mark.parametrize("data", [b"small", bytes(20_000)])
async def test_write_eof_when_the_peer_is_gone(connect, data):
    """The write() before it has failed: no end is written, and what comes after is dropped."""
    ours, theirs = tcp_pair()
    transport, protocol = await connect(ours)
    transport.pause_reading()
    reset(theirs)
    transport.write(data)
    transport.write_eof()
    assert transport.is_closing()
    transport.write(b"more")
    transport.write_eof()
    assert isinstance(await protocol.lost, ConnectionResetError)


async def test_small_write_behind_a_full_socket_and_close(loop, connect, pair):
    """The kernel has the small send, and no room for it."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    filled = fill(ours)
    transport.write(b"small")
    await turns(3)
    transport.write(b", more")
    transport.close()
    transport.write(b", last")
    received = await read_all(loop, theirs)
    assert received[filled:] == b"small, more, last"
    assert await protocol.lost is None


async def test_write_out_of_resume_writing_behind_close(loop, connect, pair):
    """TLS says its last words there."""

    class Last(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.write(b"last")

    ours, theirs = pair
    transport, protocol = await connect(ours, Last)
    data = some_bytes(4_000_000)
    transport.write(data)
    assert protocol.calls[-1] == "pause_writing"
    transport.close()
    assert await read_all(loop, theirs) == data + b"last"
    assert await protocol.lost is None


async def test_what_a_closed_transport_answers(connect, pair):
    transport, protocol = await connect(pair[0], Buffered)
    await closed((transport, protocol))
    assert transport.get_protocol() is None
    assert transport.is_closing() and not transport.is_reading()
    for call in (transport.close, transport.abort, transport.pause_reading, transport.resume_reading,
                 transport.write_eof):
        call()
    assert "closed" in repr(transport)
