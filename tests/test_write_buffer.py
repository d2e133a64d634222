"""get_write_buffer_size() and what goes by it, and when what is small leaves: as on the selector loop."""

import asyncio
import os
import socket
import threading

import pytest

from support import (
    Buffered, Recorder, closed, drain, fill, read_all, read_exactly, reset, some_bytes, tcp_pair, turns, until,
)


@pytest.fixture
def pair(pair):
    """With room for so much, and not for as much as TCP finds good."""
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
    return pair


# -- its size, pause_writing() and resume_writing() --


async def test_size_shrinks_while_one_write_goes_out(loop, connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    data = some_bytes(8_000_000)
    transport.write(data)
    sizes = [transport.get_write_buffer_size()]
    received = bytearray()
    while len(received) < len(data):
        received += await loop.sock_recv(theirs, 1 << 20)
        # What has found room is out of the buffer, whether or not the peer has read it.
        assert transport.get_write_buffer_size() <= len(data) - len(received)
        if transport.get_write_buffer_size() != sizes[-1]:
            sizes.append(transport.get_write_buffer_size())
    assert received == data
    assert len(sizes) > 5 and sizes == sorted(sizes, reverse=True) and sizes[-1] == 0
    await closed((transport, protocol))


@pytest.mark.parametrize("pieces", [1, 40])
async def test_resume_writing_at_the_low_water_mark(loop, connect, pair, pieces):
    """The peer reads until it is called, and no further."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.set_write_buffer_limits(high=6_000_000, low=4_000_000)
    for _ in range(pieces):
        transport.write(bytes(12_000_000 // pieces))
    assert protocol.calls[-1] == "pause_writing"
    while protocol.calls[-1] != "resume_writing":
        assert transport.get_write_buffer_size() > 4_000_000
        await loop.sock_recv(theirs, 100_000)
    assert 3_000_000 < transport.get_write_buffer_size() <= 4_000_000
    transport.abort()
    assert await protocol.lost is None


def count_turns(loop, monkeypatch):
    """Return a function that tells how many turns the loop has taken."""
    if hasattr(loop, "stats"):
        return lambda: loop.stats()["turns"]
    count = 0
    select = loop._selector.select

    def counting(timeout=None):
        nonlocal count
        count += 1
        return select(timeout)

    monkeypatch.setattr(loop._selector, "select", counting)
    return lambda: count


@pytest.mark.parametrize("when", ["before the write", "behind the write", "while it does not read", "while it closes"])
@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_peer_that_has_ended_and_does_not_read(loop, connect, pair, monkeypatch, when, size):
    """The loop sleeps until there is room, and all arrives."""
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Recorder(keep_open=True))
    if when == "before the write":
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: protocol.calls[-1] == "eof_received")
    before = fill(ours)
    data = some_bytes(size)
    transport.write(data)
    if when == "while it does not read":
        transport.pause_reading()
    if when == "while it closes":
        transport.close()
    if when != "before the write":
        theirs.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.05)
    turns_taken = count_turns(loop, monkeypatch)
    first = turns_taken()
    await asyncio.sleep(0.2)
    assert turns_taken() - first < 20
    assert await read_exactly(loop, theirs, before + size) == bytes(before) + data
    if when == "while it closes":
        assert await protocol.lost is None
    else:
        assert not protocol.lost.done() and transport.get_write_buffer_size() == 0
        transport.abort()


async def test_reader_comes_before_the_writer(loop, connect, pair):
    """Of one transport, in one turn, whichever was ready first."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    fill(ours)
    transport.write(bytes(100_000))
    await turns(5)
    assert protocol.calls[-1] == "pause_writing"
    # There is room first, and then something to read, before the loop looks again.
    while drain(theirs):
        pass
    theirs.send(b"x")
    await until(lambda: "resume_writing" in protocol.calls)
    assert protocol.calls[-2:] == ["data_received", "resume_writing"]
    transport.abort()


async def test_no_pause_for_what_there_is_room_for(connect, pair):
    transport, protocol = await connect(pair[0])
    transport.set_write_buffer_limits(0)
    for size in (5, 1, 16383, 16384, 50_000):
        transport.write(bytes(size))
        assert transport.get_write_buffer_size() == 0
        assert len(drain(pair[1])) == size
        await turns(3)
    assert protocol.calls == ["connection_made"]
    await closed((transport, protocol))


async def test_small_writes_to_a_full_socket(loop, connect, pair):
    """The first of them is with the kernel, which has no room for it."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    filled = fill(ours)
    transport.set_write_buffer_limits(high=10_000, low=5_000)
    size = 0
    for _ in range(8):
        transport.write(bytes(2_000))
        size += 2_000
        await turns(3)
        assert transport.get_write_buffer_size() == size
    assert protocol.calls.count("pause_writing") == 1
    await read_exactly(loop, theirs, filled + size)
    await until(lambda: protocol.calls[-1] == "resume_writing")
    assert transport.get_write_buffer_size() == 0
    await closed((transport, protocol))


async def test_drain_ends_when_the_peer_has_read_a_part(loop, pair):
    ours, theirs = pair
    _, writer = await asyncio.open_connection(sock=ours)
    writer.transport.set_write_buffer_limits(high=6_000_000, low=4_000_000)
    writer.write(bytes(10_000_000))
    draining = asyncio.create_task(writer.drain())
    await read_exactly(loop, theirs, 7_000_000)
    await draining
    writer.transport.abort()


async def test_writes_of_all_sizes_keep_their_order(loop, connect, pair):
    """Gathered, extended, sent at once, and waiting for room: whatever a write is, it follows the one before."""
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    transport, protocol = await connect(ours)
    data = some_bytes(3_000_000)
    reading = asyncio.create_task(read_all(loop, theirs))
    start, number = 0, 0
    while start < len(data):
        number += 1
        size = (1, 700, 16_383, 16_384, 3, 70_000, 9_000, 60_000, 10)[number % 9]
        transport.write(bytearray(data[start:start + size]))
        start += size
        if number % 4 == 0:
            await turns(number % 3)
        if number % 7 == 0:
            transport.get_write_buffer_size()
    transport.close()
    assert await reading == data
    assert await protocol.lost is None


async def test_repr_sends_nothing(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.write(b"small")
    assert "read=polling write=<idle, bufsize=" in repr(transport)
    assert drain(theirs) in (b"", b"small")
    await closed((transport, protocol))


# -- when what is small leaves --


@pytest.mark.parametrize("size", [4, 20_000])
def test_write_between_two_runs(loop, connect, pair, size):
    ours, theirs = pair
    transport, protocol = loop.run_until_complete(connect(ours))
    transport.write(bytes(size))
    assert len(drain(theirs)) == size
    transport.write(b"a")
    transport.write(b"b")
    assert drain(theirs) == b"ab"
    loop.run_until_complete(closed((transport, protocol)))


def test_datagram_between_two_runs(loop, stack):
    async def start():
        return await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))

    receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    transport, _ = loop.run_until_complete(start())
    transport.sendto(b"data", receiver.getsockname())
    assert receiver.recv(10) == b"data"
    transport.close()
    loop.run_until_complete(turns(3))


def test_write_before_the_first_run(loop_factory, pair):
    ours, theirs = pair
    loop = loop_factory()
    transport = loop._make_socket_transport(ours, asyncio.Protocol())
    transport.write(b"early")
    assert drain(theirs) == b"early"
    transport.close()
    loop.run_until_complete(turns(3))
    loop.close()


def test_write_on_a_loop_that_is_driven_from_outside(loop, connect, pair):
    """A driver that calls _run_once() has no end of a run, though the loop says that it runs."""
    ours, theirs = pair
    transport, protocol = loop.run_until_complete(connect(ours))
    received = []

    def write():
        transport.write(b"data")
        received.append(drain(theirs))

    loop.call_soon(write)
    loop._thread_id = threading.get_ident()
    try:
        loop._run_once()
    finally:
        loop._thread_id = None
    assert received == [b"data"]
    loop.run_until_complete(closed((transport, protocol)))


async def test_write_is_out_before_a_fork(connect, pair):
    """The child closes its copies and ends; what it inherits is not its affair."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.write(b"before")
    child = os.fork()
    if not child:
        data = drain(theirs) if ours.fileno() >= 0 else b""
        os._exit(data != b"before")
    assert os.waitpid(child, 0)[1] == 0
    await closed((transport, protocol))


async def test_forked_child_writes(connect, pair):
    """On the parent's connection, which both have."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.write(b"parent, ")
    child = os.fork()
    if not child:
        status = 1
        try:
            transport.write(b"child, ")
            transport.write(b"child, ")
            transport.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert drain(theirs) == b"parent, child, child, "
    await closed((transport, protocol))


@pytest.mark.parametrize("size", [1, 100_000])
def test_write_in_another_thread(loop, connect, pair, size):
    """No thread but the loop's may; but many do, and nothing else wakes the loop."""
    ours, theirs = pair
    transport, protocol = loop.run_until_complete(connect(ours))
    theirs.settimeout(30)

    def write():
        for _ in range(50):
            transport.write(bytes(size))
            received = 0
            while received < size:
                received += len(theirs.recv(1 << 20))

    loop.run_until_complete(loop.run_in_executor(None, write))
    loop.run_until_complete(closed((transport, protocol)))


async def test_write_in_another_thread_while_the_loop_is_busy(connect, pair):
    """It is out when write() returns; the loop's thread waits for the other one."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    for before in b"", b"with ":
        transport.write(before)
        thread = threading.Thread(target=transport.write, args=(b"data",))
        thread.start()
        thread.join()
        assert drain(theirs) == before + b"data"
    await closed((transport, protocol))


def test_resume_reading_in_another_thread(loop, connect, pair):
    ours, theirs = pair
    came = threading.Event()

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            came.set()

    transport, protocol = loop.run_until_complete(connect(ours, Protocol))

    def resume():
        for _ in range(50):
            came.clear()
            transport.pause_reading()
            theirs.send(b"x")
            transport.resume_reading()
            assert came.wait(30)

    loop.run_until_complete(loop.run_in_executor(None, resume))
    loop.run_until_complete(closed((transport, protocol)))


async def test_many_write_in_two_turns_and_abort(connect, stack):
    """What each has written in the first is known to be out in the second."""
    # More than the completions that the loop reads in one turn.
    connections = []
    for _ in range(300):
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        connections.append((*await connect(ours), theirs))
    await turns(3)
    for transport, _, _ in connections:
        transport.write(b"one, ")
    await turns(1)
    for transport, _, _ in connections:
        assert transport.get_write_buffer_size() == 0
        transport.write(b"two")
        transport.abort()
    for _, protocol, theirs in connections:
        assert await protocol.lost is None
        assert theirs.recv(100) == b"one, two"


def test_write_on_a_closed_loop(loop, connect, pair):
    """What there is room for is sent; the rest has nobody to send it."""
    ours, theirs = pair
    transport, _ = loop.run_until_complete(connect(ours))
    loop.close()
    transport.write(b"data")
    assert drain(theirs) == b"data"
    fill(ours)
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        transport.write(b"data")
    # It can't be closed any more, which is told once.
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        transport.close()
    transport.close()
    transport._sock = None


def test_datagram_on_a_closed_loop(loop, stack):
    async def start():
        return await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))

    receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    transport, _ = loop.run_until_complete(start())
    loop.close()
    transport.sendto(b"data", receiver.getsockname())
    assert receiver.recv(10) == b"data"
    transport._sock.close()
    transport._sock = None


class Refusing(Recorder):
    def pause_writing(self):
        raise AssertionError("nothing is too much")


async def test_limits_that_are_raised_let_more_be_gathered(connect, pair):
    ours, theirs = pair
    transport, protocol = await connect(ours, Refusing)
    transport.set_write_buffer_limits(high=10_000_000)
    for _ in range(45):
        transport.write(bytes(2_000))
    await turns(3)
    assert len(drain(theirs)) == 90_000
    await closed((transport, protocol))


class WritesWhenAsked(Buffered):
    def get_buffer(self, sizehint):
        self.transport.write(b"x")
        return super().get_buffer(sizehint)

    def eof_received(self):
        pass


@pytest.mark.parametrize("factory", [Recorder, WritesWhenAsked, "streams"])
@pytest.mark.parametrize("writes", [1, 3])
async def test_reset_that_is_found_before_what_was_written_leaves(loop, connect, stack, factory, writes):
    """The socket tells of it once, to the write or to the read; connection_lost() hears of that, and no broken pipe."""

    class Streams(asyncio.StreamReaderProtocol):
        def __init__(self):
            self.lost = loop.create_future()
            super().__init__(asyncio.StreamReader())

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    ours, theirs = tcp_pair()
    stack.enter_context(ours).setblocking(False)
    transport, protocol = await connect(ours, Streams if factory == "streams" else factory)
    # (What wrote before decides whether the first of them is gathered.)
    for _ in range(2):
        transport.write(b"a")
        transport.write(b"b")
        await turns(3)
    reset(theirs)
    for _ in range(writes):
        loop.call_soon(transport.write, b"x")
    assert isinstance(await protocol.lost, ConnectionResetError)
