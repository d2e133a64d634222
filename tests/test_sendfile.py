"""Sending files: loop.sendfile and loop.sock_sendfile, whole and in part, and where the file stands afterwards."""

import asyncio
import contextlib
import errno
import inspect
import io
import mmap
import os
import socket
import threading
import zlib
from asyncio import unix_events

import pytest

from support import Recorder, closed, fill, read_all, read_exactly, some_bytes, tcp_pair, turns, until

# Whether the file's position is set even if nothing was sent: a later micro release of 3.13 began to, and dropped
# the helper's parameter.
POSITION_ALWAYS_SET = "total_sent" not in inspect.signature(
    unix_events._UnixSelectorEventLoop._sock_sendfile_update_filepos).parameters

LARGE = 256 * 1024 * 1024
SMALL = 100_000


@pytest.fixture
def large_file(tmp_path):
    """256 MB that take no room on the disk: holes, and a mark here and there."""
    with open(tmp_path / "large", "w+b") as file:
        file.truncate(LARGE)
        for mark in (0, 1 << 20, LARGE // 2 - 3, LARGE - 4):
            os.pwrite(file.fileno(), b"mark", mark)
        yield file


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        file.write(some_bytes(SMALL))
        file.flush()
        file.seek(0)
        yield file


@pytest.fixture
def plain(loop, connect, pair):
    """`transport, protocol, peer = await plain()`: a transport and the socket at its other end."""

    async def plain():
        return *await connect(pair[0]), pair[1]

    return plain


@pytest.fixture
def over_tls(loop, pair, tls):
    """`transport, protocol, (server's transport, protocol) = await over_tls()`"""

    async def over_tls():
        accepting = asyncio.create_task(loop.connect_accepted_socket(Recorder, pair[1], ssl=tls[0]))
        transport, protocol = await loop.create_connection(
            Recorder, sock=pair[0], ssl=tls[1], server_hostname="localhost")
        return transport, protocol, await accepting

    return over_tls


def stands(file, offset, sent, start=0):
    """Where the file is left: behind what was sent, and where it was when that is nothing."""
    return file.tell() == (offset + sent if sent or POSITION_ALWAYS_SET else start)


# -- whole --


class Receiver(threading.Thread):
    """Reads a blocking socket to its end; knows how many bytes came, and their checksum."""

    def __init__(self, sock):
        super().__init__()
        self.sock = sock
        self.size = self.checksum = 0

    def run(self):
        buffer = bytearray(1 << 20)
        while count := self.sock.recv_into(buffer):
            self.size += count
            self.checksum = zlib.crc32(memoryview(buffer)[:count], self.checksum)


def checksum_of(file):
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        return zlib.crc32(content)


async def test_sock_sendfile_256_megabytes(loop, stack, large_file):
    a, b = tcp_pair()
    stack.enter_context(b)
    with a:
        a.setblocking(False)
        receiver = Receiver(b)
        receiver.start()
        assert await loop.sock_sendfile(a, large_file, fallback=False) == LARGE
        assert large_file.tell() == LARGE
    await loop.run_in_executor(None, receiver.join)
    assert (receiver.size, receiver.checksum) == (LARGE, checksum_of(large_file))


async def test_sendfile_256_megabytes(loop, stack, connect, large_file):
    a, b = tcp_pair()
    stack.enter_context(b)
    a.setblocking(False)
    transport, protocol = await connect(a)
    receiver = Receiver(b)
    receiver.start()
    assert await loop.sendfile(transport, large_file, fallback=False) == LARGE
    assert large_file.tell() == LARGE
    transport.close()
    await protocol.lost
    await loop.run_in_executor(None, receiver.join)
    assert (receiver.size, receiver.checksum) == (LARGE, checksum_of(large_file))


# -- in part --

PARTS = pytest.mark.parametrize(
    "offset, count, sent",
    [
        (0, None, SMALL),
        (10, 500, 500),
        (0, SMALL, SMALL),
        (99_990, None, 10),
        (99_990, 500, 10),
        (SMALL, None, 0),
        (200_000, 5, 0),
        (0, 1 << 40, SMALL),
    ],
)


@PARTS
@pytest.mark.parametrize("fallback", [False, True])
async def test_sock_sendfile_part(loop, pair, file, offset, count, sent, fallback):
    a, b = pair
    reading = asyncio.create_task(read_all(loop, b))
    file.seek(7)
    assert await loop.sock_sendfile(a, file, offset, count, fallback=fallback) == sent
    assert stands(file, offset, sent, start=7)
    a.shutdown(socket.SHUT_WR)
    assert await reading == some_bytes(SMALL)[offset : offset + sent]


@PARTS
@pytest.mark.parametrize("fallback", [False, True])
async def test_sendfile_part(loop, plain, file, offset, count, sent, fallback):
    transport, protocol, peer = await plain()
    reading = asyncio.create_task(read_all(loop, peer))
    file.seek(7)
    assert await loop.sendfile(transport, file, offset, count, fallback=fallback) == sent
    assert stands(file, offset, sent, start=7)
    transport.close()
    assert await reading == some_bytes(SMALL)[offset : offset + sent]
    assert await protocol.lost is None


async def test_empty_file(loop, plain, stack, tmp_path):
    a, b = (stack.enter_context(sock) for sock in socket.socketpair())
    a.setblocking(False)
    transport, protocol, peer = await plain()
    with open(tmp_path / "empty", "w+b") as empty:
        for fallback in (False, True):
            assert await loop.sock_sendfile(a, empty, fallback=fallback) == 0
            assert await loop.sock_sendfile(a, empty, 5, 10, fallback=fallback) == 0
            assert await loop.sendfile(transport, empty, fallback=fallback) == 0
    transport.close()
    assert await read_all(loop, peer) == b"" and await protocol.lost is None


@pytest.mark.parametrize("offset, count, error, message", [
    (0, 0, ValueError, "count must be a positive integer"),
    (0, -1, ValueError, "count must be a positive integer"),
    (0, 1.0, TypeError, "count must be a positive integer"),
    (-1, None, ValueError, "offset must be a non-negative integer"),
    (0.0, None, TypeError, "offset must be a non-negative integer"),
])
async def test_part_that_is_none(loop, plain, pair, file, offset, count, error, message):
    with pytest.raises(error, match=message):
        await loop.sock_sendfile(pair[0], file, offset, count)
    transport, protocol, peer = await plain()
    with pytest.raises(error, match=message):
        await loop.sendfile(transport, file, offset, count)
    assert transport.is_reading() and file.tell() == 0
    transport.write(b"goes on")
    transport.close()
    assert await read_all(loop, peer) == b"goes on" and await protocol.lost is None


# -- where it is not to be had --


async def test_no_file_at_all(loop, plain, stack):
    """What has no descriptor is read and sent; where that is not wanted it is an error, and nothing is read."""
    data = some_bytes(50_000)
    a, b = (stack.enter_context(sock) for sock in socket.socketpair())
    for sock in (a, b):
        sock.setblocking(False)
    transport, protocol, peer = await plain()
    for method, over, end in ((loop.sock_sendfile, a, b), (loop.sendfile, transport, peer)):
        content = io.BytesIO(data)
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
            await method(over, content, 10, fallback=False)
        assert content.tell() == 0
        reading = asyncio.create_task(read_exactly(loop, end, 49_990 + 100 + 10))
        assert await method(over, content, 10) == 49_990
        assert content.tell() == 50_000
        assert await method(over, content, 20, 100) == 100
        assert content.tell() == 120
        assert await method(over, content, 49_990, 100) == 10
        assert content.tell() == 50_000
        assert await method(over, content, 60_000) == 0
        assert await reading == data[10:] + data[20:120] + data[49_990:]
    await closed((transport, protocol))


async def test_system_call_fails(loop, plain, file, monkeypatch):
    """At its first call: then it is not to be had, and the file is read instead."""

    def sendfile(*args):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    transport, protocol, peer = await plain()
    monkeypatch.setattr(os, "sendfile", sendfile)
    with pytest.raises(asyncio.SendfileNotAvailableError, match="os.sendfile call failed"):
        await loop.sendfile(transport, file, 5, 10, fallback=False)
    assert stands(file, 5, 0)
    assert await loop.sendfile(transport, file, 5, 10) == 10
    assert file.tell() == 15
    transport.close()
    assert await read_all(loop, peer) == some_bytes(SMALL)[5:15]
    assert await protocol.lost is None


async def test_tls_falls_back(loop, over_tls, file):
    """The kernel can't encrypt: it is never native over TLS."""
    transport, protocol, there = await over_tls()
    with pytest.raises(RuntimeError, match="fallback is disabled and native sendfile is not supported"):
        await loop.sendfile(transport, file, fallback=False)
    assert file.tell() == 0
    transport.write(b"before")
    assert await loop.sendfile(transport, file) == SMALL
    assert file.tell() == SMALL
    assert await loop.sendfile(transport, file, 10, 100) == 100
    assert file.tell() == 110
    assert await loop.sendfile(transport, io.BytesIO(b"no file")) == 7
    transport.write(b"after")
    transport.close()
    assert await there[1].lost is None and await protocol.lost is None
    data = some_bytes(SMALL)
    assert there[1].data == b"before" + data + data[10:110] + b"no file" + b"after"


async def test_other_transports_are_refused(loop, file):
    reading, writing = (open(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb")))
    received = await loop.connect_read_pipe(Recorder, reading)
    sending = await loop.connect_write_pipe(Recorder, writing)
    datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    for transport in (received[0], sending[0], datagrams):
        with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
            await loop.sendfile(transport, file)
    datagrams.close()
    await closed(sending, received)
    assert file.tell() == 0


async def test_closing_transport_is_refused(loop, plain, file):
    transport, protocol, peer = await plain()
    transport.close()
    with pytest.raises(RuntimeError, match="Transport is closing"):
        await loop.sendfile(transport, file)
    assert await protocol.lost is None


async def test_sockets_that_are_refused(loop, pair, tls, stack, file):
    datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    datagrams.setblocking(False)
    with pytest.raises(ValueError, match="only SOCK_STREAM type sockets are supported"):
        await loop.sock_sendfile(datagrams, file)
    secure = stack.enter_context(tls[1].wrap_socket(
        pair[0], server_hostname="localhost", do_handshake_on_connect=False))
    with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
        await loop.sock_sendfile(secure, file)
    pair[1].setblocking(True)
    loop.set_debug(True)
    with pytest.raises(ValueError, match="the socket must be non-blocking"):
        await loop.sock_sendfile(pair[1], file)


async def test_text_is_refused(loop, plain, tmp_path):
    transport, protocol, peer = await plain()
    with open(tmp_path / "text", "w+") as text:
        for method, over in ((loop.sock_sendfile, peer), (loop.sendfile, transport)):
            with pytest.raises(ValueError, match="file should be opened in binary mode"):
                await method(over, text)
    await closed((transport, protocol))


@pytest.mark.parametrize("count", [10, None])
async def test_socket_of_a_transport_is_refused(loop, plain, file, large_file, count):
    """It belongs to the transport; what need not wait may have gone out already."""
    transport, protocol, peer = await plain()
    for sent in (file, large_file):
        with pytest.raises(RuntimeError, match="File descriptor .* is used by transport"):
            await loop.sock_sendfile(transport._sock, sent, 0, count)
    reading = asyncio.create_task(read_all(loop, peer))
    assert await loop.sendfile(transport, file, 0, 5) == 5
    await closed((transport, protocol))
    assert (await reading).endswith(some_bytes(SMALL)[:5])


# -- beside what else a transport does --


async def test_sendfile_comes_after_what_is_written(loop, plain, file):
    transport, protocol, peer = await plain()
    data = some_bytes(3_000_000, seed=1)
    transport.write(data)
    sending = asyncio.create_task(loop.sendfile(transport, file, 5, 1000))
    assert await read_exactly(loop, peer, len(data)) == data
    assert await sending == 1000
    transport.write(b"and on")
    transport.close()
    assert await read_all(loop, peer) == some_bytes(SMALL)[5:1005] + b"and on"
    await protocol.lost


async def test_sendfile_leaves_reading_as_it_was(loop, plain, file):
    transport, protocol, peer = await plain()
    peer.send(b"meanwhile")
    assert await loop.sendfile(transport, file, 0, 1000) == 1000
    assert transport.is_reading()
    assert await protocol.received(9) == b"meanwhile"
    transport.pause_reading()
    assert await loop.sendfile(transport, file, 0, 10) == 10
    assert not transport.is_reading()
    transport.close()
    assert len(await read_all(loop, peer)) == 1010
    await protocol.lost


async def check_goes_on(loop, sending, transport, protocol, peer):
    """The 5,000,000 zeros that are on their way arrive, and what is written behind them."""
    reading = asyncio.create_task(read_all(loop, peer))
    assert await sending == 5_000_000
    transport.write(b"behind")
    transport.close()
    assert await protocol.lost is None
    received = await reading
    assert len(received) == 5_000_006 and received.endswith(b"\0behind")


async def test_write_is_refused_meanwhile(loop, plain, large_file):
    transport, protocol, peer = await plain()
    sending = asyncio.create_task(loop.sendfile(transport, large_file, 0, 5_000_000))
    await turns(5)
    for write in (transport.write, lambda data: transport.writelines([data])):
        with pytest.raises(RuntimeError, match="unable to write.*; sendfile is in progress"):
            write(b"in between")
    await check_goes_on(loop, sending, transport, protocol, peer)


async def test_second_sendfile_is_refused_meanwhile(loop, plain, file, large_file):
    """By what each loop happens to trip over, and the first one goes on."""
    transport, protocol, peer = await plain()
    sending = asyncio.create_task(loop.sendfile(transport, large_file, 0, 5_000_000))
    await turns(5)
    with pytest.raises((KeyError, RuntimeError)):
        await loop.sendfile(transport, file)
    assert file.tell() == 0
    await check_goes_on(loop, sending, transport, protocol, peer)


# -- what happens in the middle --


@pytest.mark.uringloop_only  # the selector loop leaves the position at 0
async def test_sock_sendfile_cancelled(loop, pair, large_file):
    a, b = pair
    task = asyncio.create_task(loop.sock_sendfile(a, large_file, fallback=False))
    await turns(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    a.shutdown(socket.SHUT_WR)
    received = len(await read_all(loop, b))
    assert 0 < received == large_file.tell() < LARGE


async def test_sendfile_cancelled(loop, plain, large_file):
    """The transport goes on behind what was sent."""
    transport, protocol, peer = await plain()
    task = asyncio.create_task(loop.sendfile(transport, large_file))
    await turns(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    position = large_file.tell()
    assert transport.is_reading() and not transport.is_closing()
    transport.write(b"and on")
    peer.send(b"answer")
    assert await protocol.received(6) == b"answer"
    transport.close()
    received = await read_all(loop, peer)
    assert received.startswith(b"mark\0") and received.endswith(b"\0and on")
    if hasattr(loop, "_proactor"):
        assert position == len(received) - 6
    assert await protocol.lost is None


async def test_fallback_cancelled(loop, pair):
    a, b = pair
    filled = fill(a)
    data = some_bytes(1_000_000)
    task = asyncio.create_task(loop.sock_sendfile(a, io.BytesIO(data)))
    await turns(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    a.shutdown(socket.SHUT_WR)
    received = (await read_all(loop, b))[filled:]
    assert received == data[:len(received)]


async def test_sock_sendfile_to_a_peer_that_leaves(loop, pair, large_file):
    a, b = pair
    task = asyncio.create_task(loop.sock_sendfile(a, large_file, fallback=False))
    await turns(10)
    b.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await task
    assert 0 < large_file.tell() < LARGE


@pytest.mark.parametrize("fallback", [False, True])
async def test_sendfile_to_a_peer_that_leaves(loop, plain, large_file, fallback):
    """In the middle it is an error, and no reason to fall back."""
    transport, protocol, peer = await plain()
    task = asyncio.create_task(loop.sendfile(transport, large_file, fallback=fallback))
    await turns(10)
    peer.close()
    with pytest.raises(ConnectionError):
        await task
    assert 0 < large_file.tell() < LARGE
    transport.close()
    lost = await protocol.lost
    assert lost is None or isinstance(lost, ConnectionError)


async def test_fallback_to_a_peer_that_leaves(loop, plain):
    transport, protocol, peer = await plain()
    content = io.BytesIO(bytes(20_000_000))
    task = asyncio.create_task(loop.sendfile(transport, content))
    assert await loop.sock_recv(peer, 1000)
    peer.close()
    with pytest.raises(ConnectionError):
        await task
    assert 0 < content.tell() < 20_000_000
    assert isinstance(await protocol.lost, ConnectionError)


async def test_tls_peer_that_leaves(loop, over_tls, large_file):
    """The stdlib's TLS drops what is written after the end; a file ends all the same."""
    transport, protocol, (server, there) = await over_tls()
    task = asyncio.create_task(loop.sendfile(transport, large_file, 0, 2_000_000))
    await until(lambda: there.data)
    server.abort()
    with contextlib.suppress(ConnectionError):
        assert await task == 2_000_000
    assert 0 < large_file.tell() <= 2_000_000
    transport.abort()
    await protocol.lost
    await there.lost


@pytest.mark.parametrize("count", [None, LARGE])
async def test_sock_sendfile_of_a_file_that_shrinks(loop, pair, large_file, count):
    a, b = pair
    sending = asyncio.create_task(loop.sock_sendfile(a, large_file, 0, count, fallback=False))
    await turns(3)
    large_file.truncate(1_000_000)
    reading = asyncio.create_task(read_all(loop, b))
    sent = await sending
    assert large_file.tell() == sent < LARGE
    a.shutdown(socket.SHUT_WR)
    assert len(await reading) == sent


async def test_sendfile_of_a_file_that_shrinks(loop, plain, large_file):
    """It ends where the file ends then; the connection goes on."""
    transport, protocol, peer = await plain()
    sending = asyncio.create_task(loop.sendfile(transport, large_file, 0, LARGE))
    await turns(10)
    large_file.truncate(1000)
    reading = asyncio.create_task(read_all(loop, peer))
    sent = await sending
    assert 0 < sent == large_file.tell() < LARGE
    transport.write(b"and on")
    transport.close()
    received = await reading
    assert len(received) == sent + 6 and received.endswith(b"\0and on")
    assert await protocol.lost is None


async def test_fallback_of_a_file_that_shrinks(loop, over_tls, pair, large_file):
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    transport, protocol, (server, there) = await over_tls()
    server.pause_reading()
    sending = asyncio.create_task(loop.sendfile(transport, large_file, 0, LARGE))
    await until(lambda: transport.get_write_buffer_size())
    large_file.truncate(1000)
    server.resume_reading()
    sent = await sending
    assert 0 < sent == large_file.tell() < LARGE
    transport.write(b"and on")
    transport.close()
    assert await there.lost is None and await protocol.lost is None
    assert len(there.data) == sent + 6 and there.data.endswith(b"\0and on")


async def test_file_that_grows(loop, pair, file):
    """Without a count it is sent up to where it ends by then."""
    a, b = pair
    filled = fill(a)
    sending = asyncio.create_task(loop.sock_sendfile(a, file))
    await turns(5)
    os.pwrite(file.fileno(), b"more", SMALL)
    reading = asyncio.create_task(read_all(loop, b))
    assert await sending == SMALL + 4 == file.tell()
    a.shutdown(socket.SHUT_WR)
    assert (await reading)[filled:] == some_bytes(SMALL) + b"more"


@pytest.mark.uringloop_only  # on the selector loop it waits for ever
async def test_abort_beside_sendfile(loop, plain, large_file):
    transport, protocol, peer = await plain()
    task = asyncio.create_task(loop.sendfile(transport, large_file))
    await turns(10)
    transport.abort()
    with pytest.raises(ConnectionError, match="^Connection is closed by peer$"):
        await task
    assert await protocol.lost is None
    assert len(await read_all(loop, peer)) == large_file.tell() < LARGE


async def test_abort_before_the_file_s_turn(loop, plain, file):
    """Nothing of the file follows writes that are cut off."""
    transport, protocol, peer = await plain()
    transport.write(b"w" * 10_000_000)
    task = asyncio.create_task(loop.sendfile(transport, file))
    await turns(3)
    # The peer makes room, and in the same callback comes the abort.
    received = peer.recv(100_000)
    transport.abort()
    with pytest.raises(ConnectionError, match="^Connection is closed by peer$"):
        await task
    assert await protocol.lost is None
    received += await read_all(loop, peer)
    assert received == b"w" * len(received)
    assert file.tell() == 0
