"""Pipe transports: on pipes, FIFOs, terminals and sockets, on the selector loop and on ours."""

import asyncio
import contextlib
import gc
import os
import pty
import re
import socket
import termios
import tty

import pytest

from support import Recorder, fill, some_bytes, turns, until

KINDS = ["pipe", "fifo", "pty", "socket"]


@pytest.fixture
def ends(stack, tmp_path):
    """`reading, writing = ends(kind)`: two file objects, not buffered; the test closes what no transport has."""

    def ends(kind):
        if kind == "socket":
            reading, writing = socket.socketpair()
        elif kind == "fifo":
            path = tmp_path / "fifo"
            os.mkfifo(path)
            read_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            reading, writing = open(read_fd, "rb", 0), open(path, "wb", 0)
        else:
            if kind == "pty":
                read_fd, write_fd = os.openpty()
                tty.setraw(write_fd, termios.TCSANOW)
            else:
                read_fd, write_fd = os.pipe()
            reading, writing = open(read_fd, "rb", 0), open(write_fd, "wb", 0)
        stack.callback(reading.close)
        stack.callback(writing.close)
        return reading, writing

    return ends


def put(end, data):
    return os.write(end.fileno(), data)


async def take(end):
    """Read once, from a file that is not to block."""
    os.set_blocking(end.fileno(), False)
    while True:
        await turns(1)
        with contextlib.suppress(BlockingIOError):
            return os.read(end.fileno(), 65536)


# -- both ways --


@pytest.mark.parametrize("kind", KINDS)
async def test_from_transport_to_transport(loop, ends, kind):
    reading, writing = ends(kind)
    reader, received = await loop.connect_read_pipe(Recorder, reading)
    writer, sent = await loop.connect_write_pipe(Recorder, writing)
    assert reader.get_extra_info("pipe") is reading and writer.get_extra_info("pipe") is writing
    assert isinstance(reader, asyncio.ReadTransport) and isinstance(writer, asyncio.WriteTransport)
    data = some_bytes(1_000_000 if kind != "pty" else 50_000)
    writer.write(data[:10])
    writer.write(bytearray(data[10:5000]))
    writer.write(memoryview(data)[5000:])
    assert await received.received(len(data)) == data
    assert writer.get_write_buffer_size() == 0
    writer.close()
    assert writer.is_closing()
    assert await sent.lost is None
    # A terminal whose other end is closed says EIO, which is no error to tell of.
    ended = await received.lost
    assert ended is None or kind == "pty"
    assert received.calls == ["connection_made", "data_received", "eof_received", "connection_lost"] or kind == "pty"
    assert reading.fileno() == -1 if kind == "socket" else reading.closed
    assert writing.fileno() == -1 if kind == "socket" else writing.closed


async def test_streams_on_a_pipe(loop, ends):
    reading, writing = ends("pipe")
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), reading)
    write_transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, writing)
    writer = asyncio.StreamWriter(write_transport, protocol, None, loop)
    data = some_bytes(500_000)

    async def write():
        for start in range(0, len(data), 10_000):
            writer.write(data[start:start + 10_000])
            await writer.drain()
        writer.close()

    writing_task = asyncio.create_task(write())
    assert await reader.read() == data
    await writing_task
    await turns(3)


async def test_terminal_of_its_own(loop, stack):
    """Both directions of one terminal at once, each by a transport; what a child of pty.fork() says."""
    pid, master = pty.fork()
    if pid == 0:
        os.execlp("sh", "sh", "-c", "stty -echo; echo ready; read line; echo got $line")
    reader, received = await loop.connect_read_pipe(Recorder, open(os.dup(master), "rb", 0))
    writer, sent = await loop.connect_write_pipe(Recorder, open(master, "wb", 0))
    await until(lambda: b"ready\r\n" in received.data)
    writer.write(b"a line\n")
    await until(lambda: b"got a line\r\n" in received.data)
    await received.lost
    writer.close()
    await sent.lost
    assert os.waitpid(pid, 0)[1] == 0


async def test_character_device(loop):
    writer, sent = await loop.connect_write_pipe(Recorder, open(os.devnull, "wb", 0))
    writer.write(some_bytes(100_000))
    writer.close()
    assert await sent.lost is None


# -- reading --


@pytest.mark.parametrize("kind", KINDS)
async def test_pause_and_resume_reading(loop, ends, kind):
    reading, writing = ends(kind)
    transport, protocol = await loop.connect_read_pipe(Recorder, reading)
    put(writing, b"a")
    assert await protocol.received(1) == b"a"
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    put(writing, b"b")
    await turns(5)
    assert protocol.data == b"a"
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    assert await protocol.received(2) == b"ab"
    transport.close()
    await protocol.lost


async def test_pause_in_connection_made(loop, ends):
    class Pauses(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    reading, writing = ends("pipe")
    put(writing, b"early")
    transport, protocol = await loop.connect_read_pipe(Pauses, reading)
    await turns(5)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(5) == b"early"
    transport.close()
    await protocol.lost


async def test_end_comes_after_the_data(loop, ends):
    reading, writing = ends("pipe")
    put(writing, bytes(60_000))
    writing.close()
    transport, protocol = await loop.connect_read_pipe(Recorder, reading)
    assert await protocol.lost is None
    assert len(protocol.data) == 60_000
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_read_error_closes(loop, ends, errors, stack):
    """ECONNRESET of a socket, whose peer left with bytes unread."""
    a, b = socket.socketpair()
    transport, protocol = await loop.connect_read_pipe(Recorder, a)
    a.send(b"unread")
    b.close()
    assert isinstance(await protocol.lost, ConnectionResetError)
    assert [context["message"] for context in errors] == ["Fatal read error on pipe transport"]
    errors.clear()


async def test_terminal_that_hangs_up(loop):
    """EIO is an end, and nothing to log."""
    master, slave = os.openpty()
    transport, protocol = await loop.connect_read_pipe(Recorder, open(master, "rb", 0))
    os.close(slave)
    assert isinstance(await protocol.lost, OSError)


async def test_protocol_raises(loop, ends, errors):
    class Raises(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError

    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_read_pipe(Raises, reading)
    for count in (1, 2):
        put(writing, b"x")
        await until(lambda: len(errors) == count)
    # As on the selector loop, it goes on reading.
    assert not transport.is_closing()
    transport.close()
    await protocol.lost
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError] * 2
    errors.clear()


# -- writing --


async def test_flow_control(loop, ends):
    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    transport.set_write_buffer_limits(high=1000, low=100)
    assert transport.get_write_buffer_limits() == (100, 1000)
    size = 200_000
    transport.write(bytes(size))
    assert protocol.calls == ["connection_made", "pause_writing"]
    assert 0 < transport.get_write_buffer_size() < size
    got = 0
    while got < size:
        got += len(await take(reading))
    await until(lambda: protocol.calls[-1] == "resume_writing")
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_close_writes_all_first(loop, ends, end):
    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    assert transport.can_write_eof()
    data = some_bytes(300_000)
    transport.write(data)
    getattr(transport, end)()
    getattr(transport, end)()
    transport.write(b"too late")
    got = bytearray()
    while block := await take(reading):
        got += block
    assert got == data
    assert await protocol.lost is None


async def test_abort_drops_what_is_not_written(loop, ends):
    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    transport.write(bytes(300_000))
    transport.abort()
    assert await protocol.lost is None
    got = 0
    while block := os.read(reading.fileno(), 65536):
        got += len(block)
    assert 0 < got < 300_000


async def test_write_after_the_end_is_logged(loop, ends, caplog):
    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    reading.close()
    await protocol.lost
    for _ in range(8):
        transport.write(b"x")
    assert "pipe closed by peer or os.write(pipe, data) raised exception." in caplog.text


# -- a reader that goes away --


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
@pytest.mark.parametrize("state", ["idle", "writing"])
async def test_reader_goes_away(loop, ends, kind, state):
    """Noticed at once, by no write."""
    reading, writing = ends(kind)
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    if state == "writing":
        transport.write(bytes(1_000_000))
        assert transport.get_write_buffer_size() > 0
    await turns(3)
    assert not transport.is_closing()
    reading.close()
    lost = await protocol.lost
    assert lost is None if state == "idle" else isinstance(lost, OSError)
    assert transport.is_closing()


async def test_terminal_s_other_end_goes_away(loop, ends):
    """It may be opened again: a terminal that is written is not watched."""
    writing, other_end = ends("pty")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    other_end.close()
    await turns(5)
    assert not transport.is_closing()
    transport.close()
    assert await protocol.lost is None


async def test_reader_goes_away_while_the_loop_sleeps(loop, ends):
    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    loop.call_later(0.01, reading.close)
    assert await protocol.lost is None


async def test_write_to_a_reader_that_is_gone(loop, ends):
    reading, writing = ends("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writing)
    reading.close()
    transport.write(b"x")
    assert isinstance(await protocol.lost, BrokenPipeError)


async def test_socket_s_bytes_are_not_the_write_transport_s(loop, ends):
    """What the peer sends stays; to a socket that is written, it means the end."""
    theirs, ours = ends("socket")
    other = ours.dup()
    transport, protocol = await loop.connect_write_pipe(Recorder, ours)
    transport.write(b"out")
    await until(lambda: not transport.get_write_buffer_size())
    assert theirs.recv(10) == b"out"
    theirs.send(b"in")
    assert await protocol.lost is None
    assert other.recv(10) == b"in"
    other.close()


# -- what is refused --


@pytest.mark.parametrize("kind", ["regular file", "directory", "block of memory"])
async def test_no_pipe(loop, tmp_path, kind):
    if kind == "directory":
        fd = os.open(tmp_path, os.O_RDONLY)
    elif kind == "block of memory":
        fd = os.memfd_create("memory")
    else:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    class File:
        def fileno(self):
            return fd

        def close(self):
            os.close(fd)

    file = File()
    with pytest.raises(ValueError, match="^Pipe transport is for pipes/sockets only.$"):
        await loop.connect_read_pipe(asyncio.Protocol, file)
    with pytest.raises(ValueError, match="^Pipe transport is only for pipes, sockets and character devices$"):
        await loop.connect_write_pipe(asyncio.BaseProtocol, file)
    # It is still the caller's.
    os.fstat(fd)
    file.close()


# -- what they say of themselves --


async def test_repr(loop, ends):
    def shown(transport):
        return re.sub(r"fd=\d+", "fd=N", repr(transport))

    reading, writing = ends("pipe")
    reader, received = await loop.connect_read_pipe(Recorder, reading)
    writer, sent = await loop.connect_write_pipe(Recorder, writing)
    await turns(2)
    assert shown(reader) == "<_UnixReadPipeTransport fd=N polling>"
    assert shown(writer) == "<_UnixWritePipeTransport fd=N idle bufsize=0>"
    reader.pause_reading()
    assert shown(reader) == "<_UnixReadPipeTransport fd=N idle>"
    writer.write(bytes(65536))
    writer.write(b"more")
    assert shown(writer) == "<_UnixWritePipeTransport fd=N polling bufsize=4>"
    writer.abort()
    reader.close()
    assert shown(reader) == "<_UnixReadPipeTransport closing fd=N idle>"
    await received.lost
    await sent.lost
    await turns(1)
    assert shown(reader) == "<_UnixReadPipeTransport closed fd=N closed>"
    assert shown(writer) == "<_UnixWritePipeTransport closed fd=N closed>"


async def test_debug_mode(loop, ends, caplog):
    loop.set_debug(True)
    caplog.set_level("DEBUG", "asyncio")
    reading, writing = ends("pipe")
    reader, received = await loop.connect_read_pipe(Recorder, reading)
    reader.pause_reading()
    reader.resume_reading()
    writing.close()
    await received.lost
    for told in ("pauses reading", "resumes reading", "was closed by peer"):
        assert told in caplog.text


@pytest.mark.filterwarnings("always::ResourceWarning")
async def test_forgotten_transport_warns_and_closes(loop, ends):
    reading, writing = ends("pipe")
    reader, _ = await loop.connect_read_pipe(asyncio.Protocol, reading)
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writing)
    await turns(2)
    loop.remove_reader(reading.fileno())
    loop.remove_reader(writing.fileno())
    await turns(2)
    with pytest.warns(ResourceWarning) as caught:
        del reader, writer, _
        gc.collect()
    assert sorted(str(warning.message).split(" fd")[0] for warning in caught) == [
        "unclosed transport <_UnixReadPipeTransport", "unclosed transport <_UnixWritePipeTransport"]
    assert reading.closed and writing.closed


async def test_set_protocol(loop, ends):
    reading, writing = ends("pipe")
    transport, first = await loop.connect_read_pipe(Recorder, reading)
    second = Recorder()
    second.calls.append("connection_made")
    assert transport.get_protocol() is first
    transport.set_protocol(second)
    put(writing, b"for the second")
    assert await second.received(14) == b"for the second"
    assert first.data == b""
    transport.close()
    await second.lost


async def test_full_socket(loop, ends):
    theirs, ours = ends("socket")
    ours.setblocking(False)
    filled = fill(ours)
    transport, protocol = await loop.connect_write_pipe(Recorder, ours)
    transport.write(b"the rest")
    theirs.setblocking(False)
    got = bytearray()

    def read():
        got.extend(theirs.recv(65536))

    loop.add_reader(theirs, read)
    await until(lambda: len(got) == filled + 8)
    loop.remove_reader(theirs)
    assert got.endswith(b"the rest")
    transport.close()
    await protocol.lost


# -- the proactor's own writes --


@pytest.mark.uringloop_only
@pytest.mark.parametrize("kind", ["pipe", "fifo"])
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])
async def test_write_that_waits_for_room_is_cancelled(loop, ends, kind, blocking):
    """A cancel ends it, however the file is set: not a byte goes out afterwards, and none twice."""
    reading, writing = ends(kind)
    os.set_blocking(reading.fileno(), False)
    os.set_blocking(writing.fileno(), False)
    filled = 0
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += put(writing, bytes(size))
    os.set_blocking(writing.fileno(), blocking)
    data = some_bytes(500_000)
    buffer = bytearray(data)
    first = loop._proactor.send(writing, buffer)
    await turns(5)
    assert not first.done()
    with pytest.raises(BufferError):
        buffer.append(0)
    first.cancel()
    # Nobody reads: it is the cancel that ends it.
    await until(lambda: not loop._proactor._cache)
    buffer[:] = bytes(len(buffer))
    buffer.append(0)
    second = loop._proactor.send(writing, data)
    got = bytearray()
    while len(got) < filled + len(data):
        with contextlib.suppress(BlockingIOError):
            got += os.read(reading.fileno(), 10_000)
        await turns(1)
    assert await second == len(data)
    assert got == bytes(filled) + data
    with pytest.raises(BlockingIOError):
        os.read(reading.fileno(), 1)


@pytest.mark.uringloop_only
async def test_write_of_the_proactor_to_what_is_always_ready(loop, tmp_path):
    """Such a file has no use for a poll, and need not be in the loop's way for ever."""
    with open(tmp_path / "file", "wb", 0) as file:
        assert await loop._proactor.send(file, b"some text") == 9
    assert (tmp_path / "file").read_bytes() == b"some text"
