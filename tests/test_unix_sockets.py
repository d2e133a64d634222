"""Unix sockets: streams, servers and datagrams by every kind of name, on the selector loop and on ours."""

import asyncio
import errno
import inspect
import os
import pathlib
import socket

import pytest

from support import Echo, Recorder, close, closed, some_bytes, turns, until

CLEANS_UP = "cleanup_socket" in inspect.signature(asyncio.SelectorEventLoop.create_unix_server).parameters


@pytest.fixture(params=["str", "bytes", "PathLike", "abstract", "abstract bytes"])
def name(request, tmp_path):
    """A name in one of its forms."""
    path = tmp_path / "socket"
    abstract = f"\0uringloop-{os.getpid()}-{tmp_path.name}"
    return {"str": str(path), "bytes": os.fsencode(path), "PathLike": path,
            "abstract": abstract, "abstract bytes": abstract.encode()}[request.param]


def told(name):
    """The name as the socket module tells it."""
    if isinstance(name, pathlib.Path):
        return str(name)
    if isinstance(name, str) and name.startswith("\0"):
        return name.encode()
    return os.fsdecode(name) if isinstance(name, bytes) and not name.startswith(b"\0") else name


async def echo(reader, writer):
    writer.write(await reader.read())
    await close(writer)


# -- streams --


async def test_server_and_client(loop, name):
    server = await asyncio.start_unix_server(echo, name)
    assert server.sockets[0].getsockname() == told(name)
    reader, writer = await asyncio.open_unix_connection(name)
    assert writer.get_extra_info("peername") == told(name)
    assert writer.get_extra_info("sockname") == ""
    assert writer.get_extra_info("socket").family == socket.AF_UNIX
    data = some_bytes(500_000)
    writer.write(data)
    writer.write_eof()
    assert await reader.read() == data
    await close(writer, server)


async def test_peername_of_the_accepted(loop, tmp_path, stack):
    """The client's own name, if it has bound one."""
    made = []

    class Protocol(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append((transport.get_extra_info("peername"), transport.get_extra_info("sockname")))

    server = await loop.create_unix_server(Protocol, tmp_path / "server")
    for own in (None, str(tmp_path / "client"), "\0" + str(tmp_path)):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        if own:
            client.bind(own)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=None if own is None else connected(
            client, str(tmp_path / "server")), path=str(tmp_path / "server") if own is None else None)
        transport.write(b"x")
        await protocol.received(1)
        transport.close()
        await protocol.lost
    await close(server)
    assert made == [(peer, str(tmp_path / "server")) for peer in ("", str(tmp_path / "client"),
                                                                  b"\0" + os.fsencode(tmp_path))]


def connected(sock, path):
    sock.connect(path)
    return sock


async def test_tls(loop, tls, name):
    server = await asyncio.start_unix_server(echo, name, ssl=tls[0])
    with pytest.raises(ValueError, match="server_hostname"):
        await asyncio.open_unix_connection(name, ssl=tls[1])
    transport, protocol = await loop.create_unix_connection(
        Recorder, name, ssl=tls[1], server_hostname="localhost")
    assert transport.get_extra_info("cipher")
    transport.close()
    await protocol.lost
    await close(server)


async def test_on_given_sockets(loop, tmp_path):
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    server = await loop.create_unix_server(Echo, sock=listener)
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    await loop.sock_connect(client, path)
    transport, protocol = await loop.create_unix_connection(Recorder, sock=client)
    transport.write(b"given")
    assert await protocol.received(5) == b"given"
    transport.close()
    await protocol.lost
    await close(server)


async def test_sock_methods(loop, stack, name):
    listener, client = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
    for sock in (listener, client):
        sock.setblocking(False)
    listener.bind(os.fspath(name))
    listener.listen()
    await loop.sock_connect(client, os.fspath(name))
    accepted, address = await loop.sock_accept(listener)
    stack.enter_context(accepted)
    assert address == ""
    await loop.sock_sendall(client, b"hello")
    assert await loop.sock_recv(accepted, 100) == b"hello"


@pytest.mark.parametrize("call, error, message", [
    (lambda loop, path, sock: loop.create_unix_server(Echo), ValueError, "path was not specified, and no sock specified"),
    (lambda loop, path, sock: loop.create_unix_server(Echo, path, ssl=True), TypeError, "ssl argument must be an SSLContext"),
    (lambda loop, path, sock: loop.create_unix_server(Echo, path, sock=sock), ValueError,
     "path and sock can not be specified at the same time"),
    (lambda loop, path, sock: loop.create_unix_server(Echo, sock=sock), ValueError,
     "A UNIX Domain Stream Socket was expected"),
    (lambda loop, path, sock: loop.create_unix_server(Echo, path, ssl_handshake_timeout=1), ValueError,
     "ssl_handshake_timeout is only meaningful with ssl"),
    (lambda loop, path, sock: loop.create_unix_connection(Echo), ValueError, "no path and sock were specified"),
    (lambda loop, path, sock: loop.create_unix_connection(Echo, path, server_hostname="x"), ValueError,
     "server_hostname is only meaningful with ssl"),
    (lambda loop, path, sock: loop.create_unix_connection(Echo, sock=sock), ValueError,
     "A UNIX Domain Stream Socket was expected"),
    (lambda loop, path, sock: loop.create_unix_connection(Echo, path, sock=sock), ValueError,
     "path and sock can not be specified at the same time"),
])
async def test_arguments_are_refused(loop, tmp_path, stack, call, error, message):
    sock = stack.enter_context(socket.socket())
    with pytest.raises(error, match=message):
        await call(loop, str(tmp_path / "socket"), sock)


async def test_nobody_listens(loop, tmp_path, stack):
    path = str(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(path)
    stale = stack.enter_context(socket.socket(socket.AF_UNIX))
    stale.bind(path)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(path)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection("\0" + path)
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(tmp_path / "file")
    with pytest.raises(OSError, match="too long"):
        await asyncio.open_unix_connection("x" * 200)


async def test_backlog_is_full(loop, tmp_path, stack):
    """A Unix socket says EAGAIN then, which is no state to wait in: both loops wait all the same."""
    path = str(tmp_path / "socket")
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
    for client in clients:
        client.setblocking(False)
    await loop.sock_connect(clients[0], path)
    with pytest.raises((BlockingIOError, OSError)) as caught:
        async with asyncio.timeout(0.05):
            await loop.sock_connect(clients[1], path)
            clients[1].getpeername()  # so far the selector loop comes, too
    assert isinstance(caught.value, TimeoutError) or caught.value.errno in (errno.ENOTCONN, errno.EAGAIN)


# -- the socket's file --


async def test_server_takes_the_place_of_a_stale_socket(loop, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = await asyncio.start_unix_server(echo, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write_eof()
    assert await reader.read() == b""
    await close(writer, server)


async def test_other_files_stay(loop, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"Address '.*file' is already in use") as caught:
        await loop.create_unix_server(Echo, tmp_path / "file")
    assert caught.value.errno == errno.EADDRINUSE
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_server(Echo, tmp_path / "missing" / "socket")
    server = await loop.create_unix_server(Echo, f"\0{tmp_path}")
    with pytest.raises(OSError, match="already in use"):
        await loop.create_unix_server(Echo, f"\0{tmp_path}")
    await close(server)


@pytest.mark.skipif(not CLEANS_UP, reason="comes with Python 3.13")
async def test_cleanup_socket(loop, tmp_path):
    path = tmp_path / "socket"
    for cleanup in ({}, {"cleanup_socket": True}):
        server = await loop.create_unix_server(Echo, path, **cleanup)
        assert path.is_socket()
        await close(server)
        assert not path.exists()
    server = await loop.create_unix_server(Echo, path, cleanup_socket=False)
    await close(server)
    assert path.is_socket()


@pytest.mark.skipif(not CLEANS_UP, reason="comes with Python 3.13")
async def test_cleanup_of_a_given_socket(loop, tmp_path):
    path = tmp_path / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    await close(await loop.create_unix_server(Echo, sock=listener))
    assert not path.exists()


@pytest.mark.skipif(not CLEANS_UP, reason="comes with Python 3.13")
async def test_cleanup_leaves_what_has_taken_its_place(loop, tmp_path, stack):
    path = tmp_path / "socket"
    first = await loop.create_unix_server(Echo, path)
    path.unlink()
    second = await loop.create_unix_server(Echo, path)
    await close(first)
    assert path.is_socket()
    await close(second)
    assert not path.exists()


@pytest.mark.skipif(not CLEANS_UP, reason="comes with Python 3.13")
async def test_cleanup_of_what_is_gone(loop, tmp_path, caplog):
    path = tmp_path / "socket"
    server = await loop.create_unix_server(Echo, path)
    path.unlink()
    await close(server)
    assert "clean up" not in caplog.text


@pytest.mark.skipif(not CLEANS_UP, reason="comes with Python 3.13")
async def test_cleanup_that_fails_is_logged(loop, tmp_path, caplog, monkeypatch):
    def refuses(path, **_):
        raise PermissionError(errno.EPERM, "not yours")

    path = tmp_path / "socket"
    server = await loop.create_unix_server(Echo, path)
    monkeypatch.setattr(os, "unlink", refuses)
    await close(server)
    monkeypatch.undo()
    assert "Unable to clean up listening UNIX socket" in caplog.text


async def test_abstract_name_is_free_at_once(loop, tmp_path):
    for _ in range(3):
        await close(await loop.create_unix_server(Echo, f"\0{tmp_path}"))


# -- datagrams --


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = []
        self.errors = []
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.received.append((data, addr))

    def error_received(self, exc):
        self.errors.append(exc)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_datagrams(loop, tmp_path, kind):
    prefix = "\0" if kind == "abstract" else ""
    names = [prefix + str(tmp_path / number) for number in "ab"]
    told_names = [told(name) for name in names]
    a = await loop.create_datagram_endpoint(Datagrams, local_addr=names[0], family=socket.AF_UNIX)
    b = await loop.create_datagram_endpoint(
        Datagrams, local_addr=names[1], remote_addr=names[0], family=socket.AF_UNIX)
    b[0].sendto(b"to a")
    b[0].sendto(b"")
    b[0].sendto(some_bytes(100_000))
    await until(lambda: len(a[1].received) >= 2 + b[0].get_write_buffer_size())
    await until(lambda: (some_bytes(100_000), told_names[1]) in a[1].received)
    assert a[1].received[0] == (b"to a", told_names[1])
    a[0].sendto(b"to b", names[1])
    await until(lambda: b[1].received)
    assert b[1].received == [(b"to b", told_names[0])]
    await closed(a, b)


async def test_datagram_of_nobody(loop, tmp_path):
    """A sender without a name; no receiver, or one that has left."""
    path = str(tmp_path / "socket")
    a = await loop.create_datagram_endpoint(Datagrams, local_addr=path, family=socket.AF_UNIX)
    b = await loop.create_datagram_endpoint(Datagrams, family=socket.AF_UNIX)
    b[0].sendto(b"anonymous", path)
    await until(lambda: a[1].received)
    assert a[1].received == [(b"anonymous", None)]
    b[0].sendto(b"x", str(tmp_path / "nobody"))
    await until(lambda: b[1].errors)
    assert type(b[1].errors.pop()) is FileNotFoundError
    await closed(a)
    b[0].sendto(b"x", path)
    await until(lambda: b[1].errors)
    assert type(b[1].errors[0]) is ConnectionRefusedError
    await closed(b)


async def test_datagram_path_that_is_taken(loop, tmp_path):
    """A stale socket makes room, a living one's file goes the same way, other files stay."""
    path = str(tmp_path / "socket")
    for _ in range(2):
        await closed(await loop.create_datagram_endpoint(Datagrams, local_addr=path, family=socket.AF_UNIX))
        assert os.path.exists(path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        await loop.create_datagram_endpoint(
            Datagrams, local_addr=str(tmp_path / "file"), family=socket.AF_UNIX)
    with pytest.raises(TypeError):
        await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0), family=socket.AF_UNIX)
    await turns(1)
