"""StreamReaders that a transport feeds: the same things happen, in the same order, whoever appends to the buffer.

A native transport receives into a reader's buffer itself, where nobody can see whether feed_data() is called.
Each test runs on the selector loop as well.
"""

import asyncio
import contextlib
import contextvars
import gc
import math
import socket
import sys
from asyncio import futures, streams

import pytest

from support import Recorder, close, reset, some_bytes, tcp_pair, turns, until


@pytest.fixture
def open_streams(pair):
    """`reader, writer, peer = await open_streams()`: streams on a socket, and the socket at its other end."""

    async def open_streams(**options):
        reader, writer = await asyncio.open_connection(sock=pair[0], **options)
        return reader, writer, pair[1]

    return open_streams


def feeds_itself(loop):
    return getattr(loop, "_tier", None) is not None and type(loop).__module__.startswith("uringloop") \
        and loop._tier.__name__ == "uringloop.proactor_events"


@contextlib.contextmanager
def calls_seen():
    """The names of the stdlib's functions of streams that are called meanwhile."""
    seen = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename == streams.__file__:
            seen.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(None)


# -- what is usual --


async def test_reader_is_fed_without_a_call(loop, open_streams):
    reader, writer, peer = await open_streams()
    with calls_seen() as seen:
        peer.send(b"data")
        assert await reader.read(100) == b"data"
    names = {"data_received", "_stream_reader", "feed_data", "_wakeup_waiter"}
    assert names.isdisjoint(seen) if feeds_itself(loop) else names.issubset(seen)
    await close(writer)


@pytest.mark.parametrize("is_debugged", [False, True])
async def test_each_way_to_read(loop, open_streams, is_debugged):
    loop.set_debug(is_debugged)
    reader, writer, peer = await open_streams()
    peer.send(b"one")
    assert await reader.read(2) == b"on"
    assert await reader.read(2) == b"e"
    waiting = asyncio.ensure_future(reader.readexactly(5))
    await turns(2)
    peer.send(b"tw")
    await turns(3)
    assert not waiting.done() and reader._buffer == b"tw"
    peer.send(b"o..three\nfour")
    assert await waiting == b"two.."
    assert await reader.readline() == b"three\n"
    assert await reader.read(100) == b"four"
    waiting = asyncio.ensure_future(reader.readuntil(b"ve"))
    await turns(2)
    peer.send(b"fiv")
    await turns(3)
    peer.send(b"esix")
    assert await waiting == b"five"
    peer.shutdown(socket.SHUT_WR)
    assert await reader.read() == b"six"
    assert reader.at_eof()
    await close(writer)


async def test_pieces_of_all_sizes(loop, open_streams):
    reader, writer, peer = await open_streams(limit=1 << 20)
    data = some_bytes(3_000_000)

    async def send():
        start, size = 0, 1
        while start < len(data):
            await loop.sock_sendall(peer, data[start : start + size])
            start, size = start + size, size * 3 % 300_007
            await turns(start % 3)
        peer.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    found, size = bytearray(), 5
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            found += await reader.read(1000)
            found += await reader.readexactly(size)
            size = size * 7 % 200_003
    found += await reader.read()
    await sending
    # (What readexactly() has read at the end of the stream is in its exception.)
    assert data.startswith(found) and len(data) - len(found) < 200_003
    await close(writer)


@pytest.mark.parametrize("size", [1, 1000, 5000, 70_000])
async def test_what_stands_in_the_buffer_stays(loop, open_streams, size):
    reader, writer, peer = await open_streams(limit=1 << 20)
    data = some_bytes(size * 20)
    for i in range(20):
        peer.sendall(data[i * size : (i + 1) * size])
        await until(lambda: len(reader._buffer) == (i + 1) * size)
        assert data.startswith(reader._buffer)
    assert await reader.readexactly(len(data)) == data and not reader._buffer
    await close(writer)


async def test_task_is_woken_in_its_turn_and_context(loop, open_streams):
    variable = contextvars.ContextVar("variable", default="none")
    reader, writer, peer = await open_streams()
    events = []

    async def read():
        variable.set("reader's")
        events.append(await reader.read(10))
        events.append(variable.get())

    reading = asyncio.create_task(read())
    await turns(2)
    waiter = reader._waiter
    waiter.add_done_callback(lambda _: events.append("done"))
    variable.set("test's")
    peer.send(b"data")
    await until(waiter.done)
    # Who reads is woken up by a callback of the future, not within the transport.
    assert not events and reader._waiter is None
    await reading
    await turns(1)
    assert events == [b"data", "reader's", "done"]
    await close(writer)


async def test_data_and_the_end_of_the_stream_in_one_turn(loop, open_streams):
    reader, writer, peer = await open_streams()
    peer.send(b"data")
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: reader._eof)
    assert await reader.read() == b"data"
    assert not writer.is_closing()
    writer.write(b"answer")
    await writer.drain()
    assert await loop.sock_recv(peer, 100) == b"answer"
    await close(writer)


@pytest.mark.parametrize("size", [10, 50_000])
async def test_reset_behind_data(loop, stack, size):
    ours, theirs = tcp_pair()
    stack.enter_context(ours).setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    for _ in range(3):
        theirs.sendall(bytes(size))
        assert await reader.readexactly(size) == bytes(size)
    theirs.sendall(bytes(size))
    await until(lambda: len(reader._buffer) == size)
    reset(theirs)
    await until(lambda: reader.exception() is not None)
    assert type(reader.exception()) is ConnectionResetError
    assert len(reader._buffer) == size
    with pytest.raises(ConnectionResetError):
        await reader.read(10)
    with pytest.raises(ConnectionResetError):
        await close(writer)


# -- flow control --


@pytest.mark.parametrize("size", [20, 21, 8000])
async def test_transport_is_paused_above_twice_the_limit(loop, open_streams, size):
    reader, writer, peer = await open_streams(limit=10)
    peer.send(bytes(size))
    await until(lambda: len(reader._buffer) == size)
    assert reader._paused == (size > 20)
    assert writer.transport.is_reading() == (size <= 20)
    peer.send(b"more")
    await turns(5)
    assert len(reader._buffer) == size + 4 * (size <= 20)
    assert await reader.readexactly(size) == bytes(size)
    # Who waits has the transport resume.
    assert await reader.readexactly(4) == b"more"
    assert writer.transport.is_reading()
    await close(writer)


@pytest.mark.parametrize("limit", [1 << 70, sys.maxsize, math.inf, 3.5, True], ids=str)
async def test_limit_of_any_kind(loop, open_streams, limit):
    reader, writer, peer = await open_streams(limit=limit)
    peer.send(bytes(8))
    await until(lambda: len(reader._buffer) == 8)
    assert reader._paused == (limit < 4)
    await close(writer)


async def test_limit_that_the_program_changes(loop, open_streams, errors):
    reader, writer, peer = await open_streams()
    reader._limit = 1
    peer.send(b"abc")
    await until(lambda: reader._buffer)
    assert reader._paused
    reader._limit = 1 << 16
    assert await reader.read(3) == b"abc"
    reader._limit = "none"
    waiting = asyncio.create_task(reader.readexactly(3))
    await turns(2)
    peer.send(b"def")
    # The limit is looked at last.
    assert await waiting == b"def"
    context = errors.pop()
    assert context["message"] == "Fatal error: protocol.data_received() call failed."
    assert type(context["exception"]) is TypeError
    with pytest.raises(TypeError):
        await close(writer)


class Unpausable:
    """A transport to a reader, not to the loop."""

    def __init__(self, error):
        self.error = error

    def pause_reading(self):
        raise self.error


async def test_transport_that_cannot_be_paused(loop, open_streams):
    reader, writer, peer = await open_streams(limit=1)
    reader._transport = Unpausable(NotImplementedError())
    peer.send(b"abc")
    await until(lambda: reader._buffer)
    assert reader._transport is None and not reader._paused
    peer.send(b"def")
    await until(lambda: len(reader._buffer) == 6)
    await close(writer)


async def test_error_of_pause_reading_ends_the_connection(loop, open_streams, errors):
    reader, writer, peer = await open_streams(limit=1)
    error = reader._transport = Unpausable(ValueError("no"))
    peer.send(b"abc")
    await until(lambda: reader.exception())
    assert reader.exception() is error.error and not reader._paused
    context = errors.pop()
    assert context["exception"] is error.error
    assert context["message"] == "Fatal error: protocol.data_received() call failed."
    assert context["transport"] is writer.transport
    with pytest.raises(ValueError):
        await close(writer)


async def test_paused_by_the_program(loop, open_streams):
    reader, writer, peer = await open_streams()
    writer.transport.pause_reading()
    peer.send(b"data")
    await turns(5)
    assert not reader._buffer
    writer.transport.resume_reading()
    assert await reader.read(10) == b"data"
    await close(writer)


# -- who waits --


@pytest.mark.parametrize("is_first", [True, False])
async def test_waiter_that_is_cancelled(loop, open_streams, is_first):
    reader, writer, peer = await open_streams()
    reading = asyncio.create_task(reader.read(10))
    await turns(2)
    waiter = reader._waiter
    if is_first:
        waiter.cancel()
        peer.send(b"data")
        # (The task has not been run: the waiter is still there.)
        assert reader._waiter is waiter
    else:
        peer.send(b"data")
        await until(waiter.done)
        assert reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await reader.read(10) == b"data"
    await close(writer)


async def test_cancelled_waiter_that_nobody_has_taken_away(loop, open_streams):
    reader, writer, peer = await open_streams()
    reader._waiter = loop.create_future()
    reader._waiter.cancel()
    peer.send(b"data")
    await until(lambda: reader._buffer)
    assert reader._waiter is None
    assert await reader.read(10) == b"data"
    await close(writer)


async def test_waiter_that_is_done_already(loop, open_streams, errors):
    reader, writer, peer = await open_streams()
    reader._waiter = loop.create_future()
    reader._waiter.set_result(None)
    peer.send(b"data")
    await until(lambda: reader.exception())
    assert type(reader.exception()) is asyncio.InvalidStateError
    assert reader._waiter is None and reader._buffer == b"data"
    assert errors.pop()["message"] == "Fatal error: protocol.data_received() call failed."
    with pytest.raises(asyncio.InvalidStateError):
        await close(writer)


async def test_waiter_in_python(loop, open_streams):
    reader, writer, peer = await open_streams()
    waiter = reader._waiter = futures._PyFuture(loop=loop)
    peer.send(b"data")
    await waiter
    assert reader._waiter is None
    assert await reader.read(10) == b"data"
    await close(writer)


# -- readers and protocols that are not the stdlib's own, or not as they were --


class OwnReader(asyncio.StreamReader):
    def feed_data(self, data):
        self.__dict__.setdefault("seen", []).append(data)
        super().feed_data(data)


class OwnProtocol(asyncio.StreamReaderProtocol):
    def data_received(self, data):
        self.__dict__.setdefault("seen", []).append(data)
        super().data_received(data)


@pytest.mark.parametrize("reader_class, protocol_class", [
    (OwnReader, asyncio.StreamReaderProtocol), (asyncio.StreamReader, OwnProtocol)])
@pytest.mark.parametrize("by", ["constructor", "__class__"])
async def test_subclass_is_called(loop, pair, reader_class, protocol_class, by):
    if by == "constructor":
        reader = reader_class(loop=loop)
        protocol = protocol_class(reader, loop=loop)
    else:
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=pair[0])
    if by == "__class__":
        pair[1].send(b"before")
        assert await reader.read(100) == b"before"
        reader.__class__, protocol.__class__ = reader_class, protocol_class
    own = reader if reader_class is OwnReader else protocol
    pair[1].send(b"data")
    assert await reader.read(100) == b"data"
    assert own.seen == [b"data"]
    transport.close()
    await protocol._closed


PATCHES = {
    "reader": lambda reader, protocol: (reader, "feed_data"),
    "reader's waking": lambda reader, protocol: (reader, "_wakeup_waiter"),
    "protocol": lambda reader, protocol: (protocol, "data_received"),
    "class of readers": lambda reader, protocol: (asyncio.StreamReader, "feed_data"),
    "class of readers, waking": lambda reader, protocol: (asyncio.StreamReader, "_wakeup_waiter"),
    "class of protocols": lambda reader, protocol: (asyncio.StreamReaderProtocol, "data_received"),
}


@pytest.mark.parametrize("target", PATCHES)
async def test_patch_is_called_as_long_as_it_is_there(loop, open_streams, target):
    reader, writer, peer = await open_streams()
    peer.send(b"before")
    assert await reader.read(100) == b"before"
    place, name = PATCHES[target](reader, writer.transport.get_protocol())
    seen = []
    original = getattr(place, name)

    def patched(*args):
        seen.append(args)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, patched)
        for _ in range(3):
            peer.send(b"data")
            assert await reader.read(100) == b"data"
    assert len(seen) == 3
    if "waking" not in target:
        assert [args[-1] for args in seen] == [b"data"] * 3 and type(seen[0][-1]) is bytes
    del seen[:]
    peer.send(b"after")
    assert await reader.read(100) == b"after"
    assert not seen
    await close(writer)


async def test_patch_of_the_class_that_calls_no_original(loop, open_streams, monkeypatch):
    reader, writer, peer = await open_streams()
    fed = []
    monkeypatch.setattr(asyncio.StreamReader, "feed_data", lambda self, data: fed.append(data))
    peer.send(b"data")
    await until(lambda: fed)
    assert fed == [b"data"] and not reader._buffer
    monkeypatch.undo()
    await close(writer)


async def test_property_of_the_reader_is_asked(loop, open_streams, monkeypatch):
    reader, writer, peer = await open_streams()
    other = asyncio.StreamReader(loop=loop)
    monkeypatch.setattr(asyncio.StreamReaderProtocol, "_stream_reader", property(lambda self: other))
    peer.send(b"data")
    assert await other.read(100) == b"data"
    assert not reader._buffer
    monkeypatch.undo()
    await close(writer)


async def test_other_code_of_a_method_is_run(loop, open_streams):
    reader, writer, peer = await open_streams()
    function = asyncio.StreamReader.feed_data
    code = function.__code__

    def other(self, data):
        self._buffer.extend(data.upper())
        self._wakeup_waiter()

    function.__code__ = other.__code__
    try:
        peer.send(b"data")
        assert await reader.read(100) == b"DATA"
    finally:
        function.__code__ = code
    peer.send(b"data")
    assert await reader.read(100) == b"data"
    await close(writer)


@pytest.mark.parametrize("name", ["_buffer", "_waiter", "_eof", "_limit", "_transport", "_paused"])
async def test_attribute_of_the_class_is_asked(loop, open_streams, monkeypatch, name):
    """One that stands in front of the instance's own."""
    reader, writer, peer = await open_streams()
    with calls_seen() as seen:
        monkeypatch.setattr(asyncio.StreamReader, name, property(
            lambda self: vars(self)[name], lambda self, value: vars(self).__setitem__(name, value)), raising=False)
        peer.send(b"data")
        assert await reader.read(100) == b"data"
        monkeypatch.undo()
    assert "feed_data" in seen
    await close(writer)


# -- readers that can't be fed, or not as usual --


@pytest.mark.parametrize("standing", [b"", b"standing", bytes(50_000)], ids=len)
@pytest.mark.parametrize("size", [4, 60_000])
async def test_buffer_that_somebody_looks_at(loop, open_streams, errors, standing, size):
    """It can't be resized: the connection ends, and what stood in it is unchanged."""
    reader, writer, peer = await open_streams()
    peer.sendall(bytes(size))
    assert await reader.readexactly(size) == bytes(size)
    reader._buffer += standing
    view = memoryview(reader._buffer)
    peer.sendall(b"x" * size)
    await until(lambda: reader.exception())
    assert type(reader.exception()) is BufferError
    assert view == standing and reader._buffer == standing
    context = errors.pop()
    assert context["message"] == "Fatal error: protocol.data_received() call failed."
    assert type(context["exception"]) is BufferError
    view.release()
    with pytest.raises(BufferError):
        await close(writer)


async def test_buffer_that_somebody_has_looked_at(loop, open_streams):
    reader, writer, peer = await open_streams()
    with memoryview(reader._buffer):
        await turns(2)
    peer.send(b"data")
    assert await reader.read(100) == b"data"
    await close(writer)


async def test_buffer_that_somebody_has_replaced(loop, open_streams):
    class Own(bytearray):
        def extend(self, data):
            super().extend(data.upper())

    reader, writer, peer = await open_streams()
    reader._buffer = bytearray(b"other ")
    peer.send(b"data")
    await until(lambda: len(reader._buffer) == 10)
    assert await reader.read(100) == b"other data"
    reader._buffer = Own()
    peer.send(b"data")
    await until(lambda: len(reader._buffer) == 4)
    assert await reader.read(100) == b"DATA"
    await close(writer)


@pytest.mark.parametrize("name", ["_stream_reader_wr", "_eof", "_buffer", "_waiter", "_limit", "_transport", "_paused"])
async def test_attribute_that_is_missing(loop, open_streams, name):
    reader, writer, peer = await open_streams(limit=1)
    place = vars(writer.transport.get_protocol() if name == "_stream_reader_wr" else reader)
    told = []

    def handler(loop, context):
        told.append(context)
        # What is called when the connection is lost needs it, too.
        place[name] = value

    loop.set_exception_handler(handler)
    value = place.pop(name)
    peer.send(b"data")
    await until(lambda: told)
    assert [context["message"] for context in told] == ["Fatal error: protocol.data_received() call failed."]
    assert type(told[0]["exception"]) is AttributeError and name in str(told[0]["exception"])
    if name == "_buffer":
        assert not reader._buffer
    elif name in ("_waiter", "_limit"):
        # Behind the data.
        assert reader._buffer == b"data"
    with pytest.raises(AttributeError):
        await close(writer)


@pytest.mark.skipif(sys.flags.optimize, reason="there are no assertions")
async def test_data_behind_feed_eof(loop, open_streams, errors):
    reader, writer, peer = await open_streams()
    reader.feed_eof()
    peer.send(b"data")
    await until(lambda: reader.exception())
    assert type(reader.exception()) is AssertionError and not reader._buffer
    assert str(errors.pop()["exception"]) == "feed_data after feed_eof"
    with pytest.raises(AssertionError):
        await close(writer)


async def test_reader_that_is_gone(loop, open_streams):
    reader, writer, peer = await open_streams()
    transport, protocol = writer.transport, writer.transport.get_protocol()
    peer.send(b"data")
    assert await reader.read(100) == b"data"
    del reader, writer._reader
    gc.collect()
    assert protocol._stream_reader is None
    peer.send(b"lost")
    await turns(5)
    assert not transport.is_closing()
    await close(writer)


async def test_exception_that_the_program_has_set(loop, open_streams):
    reader, writer, peer = await open_streams()
    reader.set_exception(ZeroDivisionError())
    peer.send(b"data")
    await until(lambda: reader._buffer)
    with pytest.raises(ZeroDivisionError):
        await reader.read(10)
    with pytest.raises(ZeroDivisionError):
        await writer.drain()
    await close(writer)


async def test_protocols_that_change(loop, open_streams):
    reader, writer, peer = await open_streams()
    transport = writer.transport
    streams_protocol = transport.get_protocol()
    peer.send(b"one")
    assert await reader.read(100) == b"one"
    recorder = Recorder()
    recorder.connection_made(transport)
    transport.set_protocol(recorder)
    peer.send(b"two")
    assert await recorder.received(3) == b"two"
    assert not reader._buffer
    transport.set_protocol(streams_protocol)
    peer.send(b"three")
    assert await reader.read(100) == b"three"
    other = asyncio.StreamReader(loop=loop)
    transport.set_protocol(asyncio.StreamReaderProtocol(other, loop=loop))
    peer.send(b"four")
    assert await other.read(100) == b"four"
    assert not reader._buffer
    transport.set_protocol(streams_protocol)
    await close(writer)


async def test_closed_with_data_pending(loop, open_streams):
    reader, writer, peer = await open_streams()
    peer.send(b"data")
    await until(lambda: reader._buffer)
    peer.send(b"never read")
    writer.close()
    await writer.wait_closed()
    assert reader._buffer == b"data"
    assert await reader.read() == b"data"
    assert reader.at_eof()


async def test_server_and_tls_feed_their_readers(loop, tls):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            if line == b"tls\n":
                await writer.drain()
                await writer.start_tls(tls[0])
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for line in (b"one\n", b"tls\n"):
        writer.write(line)
        assert await reader.readline() == line.upper()
    await writer.start_tls(tls[1], server_hostname="localhost")
    writer.write(b"two\n")
    assert await reader.readline() == b"TWO\n"
    await close(writer, server)
