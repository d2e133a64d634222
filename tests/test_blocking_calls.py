"""Detectors of blocking calls find none in our Python code that they do not find in asyncio's, on both loops.

They put functions of their own into the place of those that may block, and look through the calling frames for what is
allowed to: asyncio's own functions, by the ends of their files' names and by their names (blockbuster, which aiohttp's
tests run under).
"""

import asyncio
import builtins
import io
import os
import signal
import socket
import sys
import time

import pytest

from support import close, read_all, some_bytes, turns, until

# Functions of `os` that look at files, and where asyncio may call them.
FILES = {
    "stat": {("asyncio/unix_events.py", "create_unix_server"), ("asyncio/unix_events.py", "_stop_serving")},
    "unlink": {("asyncio/unix_events.py", "_stop_serving")},
    "sendfile": {("asyncio/base_events.py", "sendfile"), ("asyncio/unix_events.py", "_sock_sendfile_native_impl")},
    **dict.fromkeys(("statvfs", "rename", "remove", "rmdir", "link", "symlink", "listdir", "access", "getcwd", "mkdir",
                     "replace", "readlink", "scandir"), frozenset()),
}
# Those that may be called on what does not block.
DESCRIPTORS = {
    "read": {("asyncio/base_events.py", "subprocess_exec"), ("asyncio/base_events.py", "subprocess_shell")},
    "write": frozenset(),
}
SOCKET_METHODS = ("connect", "accept", "send", "sendall", "sendto", "recv", "recv_into", "recvfrom", "recvfrom_into",
                  "recvmsg")


def callers():
    frame = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back


@pytest.fixture
def blocking(loop, monkeypatch):
    """The names of the calls that a detector tells of; each of them raises RuntimeError."""
    found = []

    def watch(owner, name, allowed=frozenset(), may_not_block=lambda *args: False):
        function = getattr(owner, name)

        def watched(*args, **kwargs):
            if asyncio._get_running_loop() is loop and not may_not_block(*args) and not any(
                    file.endswith(end) and caller == of for file, caller in callers() for end, of in allowed):
                found.append(f"{getattr(owner, '__name__', owner)}.{name}")
                raise RuntimeError(f"a blocking call of {name}()")
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    for name, allowed in FILES.items():
        watch(os, name, allowed)
    for name, allowed in DESCRIPTORS.items():
        watch(os, name, allowed, lambda fd, *_: not os.get_blocking(fd))
    for name in SOCKET_METHODS:
        watch(socket.socket, name, may_not_block=lambda sock, *_: sock.gettimeout() == 0)
    watch(time, "sleep")
    for owner in (builtins, io):
        # Of a path it may take long; of a number it only makes an object.
        watch(owner, "open", may_not_block=lambda file, *_: isinstance(file, int))
    yield found
    monkeypatch.undo()
    assert found == []


async def serve(reader, writer):
    writer.write(await reader.read())
    await close(writer)


async def exchange(reader, writer):
    data = some_bytes(300_000)
    writer.write(data)
    if writer.can_write_eof():
        writer.write_eof()
        assert await reader.read() == data
    await close(writer)


async def test_tcp_server(blocking):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await exchange(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    await close(server)


async def test_tls_server(blocking, tls):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls[0])
    await exchange(*await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=tls[1], server_hostname="localhost"))
    await close(server)


async def test_unix_server(blocking, tmp_path):
    path = str(tmp_path / "socket")
    server = await asyncio.start_unix_server(serve, path)
    await exchange(*await asyncio.open_unix_connection(path))
    await close(server)


async def test_unix_server_on_a_socket(blocking, tmp_path):
    path = str(tmp_path / "socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await asyncio.start_unix_server(serve, sock=sock)
    await exchange(*await asyncio.open_unix_connection(path))
    await close(server)


async def test_subprocesses(blocking):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1)
    assert (await process.communicate(b"data"))[0] == b"data"
    process = await asyncio.create_subprocess_shell("exit 3")
    assert await process.wait() == 3
    process = await asyncio.create_subprocess_exec("sleep", "100")
    process.kill()
    assert await process.wait() == -signal.SIGKILL


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(some_bytes(3_000_000))
    with open(tmp_path / "file", "rb") as file:
        yield file


async def test_sock_sendfile(file, loop, pair, blocking):
    ours, peer = pair
    receiving = loop.create_task(read_all(loop, peer))
    assert await loop.sock_sendfile(ours, file, fallback=False) == 3_000_000
    ours.close()
    assert await receiving == some_bytes(3_000_000)


async def test_sendfile_on_a_transport(file, loop, pair, blocking):
    ours, peer = pair
    receiving = loop.create_task(read_all(loop, peer))
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    assert await loop.sendfile(transport, file, fallback=False) == 3_000_000
    transport.close()
    assert await receiving == some_bytes(3_000_000)


async def test_signals(loop, blocking):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: seen)
    assert loop.remove_signal_handler(signal.SIGUSR1)


async def test_datagrams(loop, blocking):
    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(data)

    received = []
    transport, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(Receiver, remote_addr=transport.get_extra_info("sockname"))
    sender.sendto(b"data")
    await until(lambda: received)
    sender.close()
    transport.close()
    await turns(3)


async def test_readers_and_writers(loop, pair, blocking):
    near, far = pair
    terminal, other_end = os.openpty()
    called = []
    for fd in (near, terminal):
        loop.add_reader(fd, called.append, "reader")
        loop.add_writer(fd, called.append, "writer")
    far.send(b"x")
    await until(lambda: {"reader", "writer"} <= set(called))
    for fd in (near, terminal):
        loop.remove_reader(fd)
        loop.remove_writer(fd)
    os.close(terminal)
    os.close(other_end)


async def test_pipes(loop, blocking):
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), open(reading, "rb", 0))
    sink, _ = await loop.connect_write_pipe(asyncio.Protocol, open(writing, "wb", 0))
    sink.write(b"data")
    sink.close()
    assert await reader.read() == b"data"
    source.close()
    await turns(3)


async def test_socket_methods(loop, blocking):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        accepted, _ = await accepting
        with accepted:
            receiving = loop.create_task(read_all(loop, accepted))
            data = some_bytes(5_000_000)
            await loop.sock_sendall(client, data)
            client.shutdown(socket.SHUT_WR)
            assert await receiving == data
