"""Servers: one bad connection costs that connection, one bad moment a pause; closing closes."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
from asyncio import constants

import pytest

from support import Echo, Recorder, close, closed, needs_ipv6, read_exactly, reset, turns, until


@pytest.fixture
def client(loop, stack):
    """`sock = await client(address)`: a connected socket, non-blocking."""

    async def client(address):
        sock = stack.enter_context(socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET))
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        return sock

    return client


async def echoes(loop, sock, data=b"hello"):
    await loop.sock_sendall(sock, data)
    return await read_exactly(loop, sock, len(data)) == data


def address_of(server):
    return server.sockets[0].getsockname()


# -- resources run out --


@contextlib.contextmanager
def no_descriptor_left():
    """Nothing more can be opened."""
    lowest_free = os.dup(0)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_descriptors_then_on(loop, client, errors, monkeypatch):
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.01)
    # So often does the selector loop try again at once.
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1)
    first = await client(address_of(server))
    assert await echoes(loop, first)
    with no_descriptor_left(), pytest.raises(OSError) as caught:
        os.dup(0)
    assert caught.value.errno == errno.EMFILE
    waiting = [socket.socket() for _ in range(2)]
    with no_descriptor_left():
        for sock in waiting:
            sock.connect(address_of(server))
        # Several retries.
        await until(lambda: len(errors) >= 3)
        assert await echoes(loop, first, b"the old one works")
    for context in errors:
        assert context["exception"].errno == errno.EMFILE
        assert "out of system resource" in context["message"]
    errors.clear()
    for sock in waiting:
        sock.setblocking(False)
        assert await echoes(loop, sock)
        sock.close()
    assert await echoes(loop, await client(address_of(server)))
    server.close()


async def test_out_of_descriptors_pauses(loop, errors, monkeypatch, stack):
    """It is told once and not tried turn after turn; the client waits in the backlog."""
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 1000)
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1)
    waiting = stack.enter_context(socket.socket())
    with no_descriptor_left():
        waiting.connect(address_of(server))
        await until(lambda: errors)
        count = len(errors)
        await turns(50)
    assert len(errors) == count <= 2  # later selector loops accept once more than the backlog
    assert {context["exception"].errno for context in errors} == {errno.EMFILE}
    assert errors[0]["socket"].getsockname() == address_of(server)
    errors.clear()
    await turns(50)
    waiting.setblocking(False)
    waiting.send(b"x")
    with pytest.raises(BlockingIOError):
        waiting.recv(1)
    server.close()


@pytest.mark.uringloop_only  # the selector loop serves on a closed socket, and says ValueError
async def test_close_while_accept_pauses(loop, errors, monkeypatch, stack):
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.01)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = address_of(server)
    waiting = stack.enter_context(socket.socket())
    with no_descriptor_left():
        waiting.connect(address)
        await until(lambda: errors)
        server.close()
    errors.clear()
    await asyncio.sleep(0.05)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(ConnectionResetError):
        waiting.recv(1)


# -- one bad connection --


@pytest.mark.uringloop_only  # the selector loop leaves the connection to the garbage collector
@pytest.mark.parametrize("debug", [False, True])
async def test_protocol_factory_raises(loop, client, errors, debug):
    def factory():
        made.append(None)
        if len(made) % 2:
            raise RuntimeError("a bug")
        return Echo()

    made = []
    loop.set_debug(debug)
    server = await loop.create_server(factory, "127.0.0.1", 0)
    for _ in range(3):
        bad = await client(address_of(server))
        assert await loop.sock_recv(bad, 1) == b""
        assert await echoes(loop, await client(address_of(server)))
    assert len(made) == 6
    assert [str(context["exception"]) for context in errors] == (["a bug"] * 3 if debug else [])
    errors.clear()
    server.close()


@pytest.mark.uringloop_only  # as above
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_protocol_factory_interrupts(loop, client, errors, interrupt):
    """It leaves the loop; afterwards the server serves on."""

    def factory():
        made.append(None)
        if len(made) == 2:
            raise interrupt
        return Echo()

    async def start():
        return await loop.create_server(factory, "127.0.0.1", 0)

    async def connect_and_sleep():
        clients.append(await client(address_of(server)))
        await loop.create_future()

    async def others():
        for sock in (clients[0], clients[2]):
            assert await echoes(loop, sock)
        assert await loop.sock_recv(clients[1], 1) == b""

    made, clients = [], []
    server = loop.run_until_complete(start())
    tasks = [loop.create_task(connect_and_sleep()) for _ in range(3)]
    with pytest.raises(interrupt):
        loop.run_forever()
    loop.run_until_complete(others())
    for task in tasks:
        task.cancel()
    server.close()


async def test_client_is_gone_before_it_is_accepted(loop, client):
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    await server.start_serving()
    for _ in range(5):
        for leave in (reset, socket.socket.close):
            sock = socket.socket()
            sock.connect(address_of(server))
            leave(sock)
        assert await echoes(loop, await client(address_of(server)))
    server.close()


async def test_failed_tls_handshake(loop, client, errors, tls):
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=tls[0])
    plain = await client(address_of(server))
    await loop.sock_sendall(plain, b"GET / HTTP/1.0\r\n\r\n" * 100)
    try:
        while await loop.sock_recv(plain, 1000):  # an alert, then the end
            pass
    except ConnectionResetError:
        pass
    reader, writer = await asyncio.open_connection(*address_of(server), ssl=tls[1], server_hostname="localhost")
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    await close(writer)
    server.close()


# -- closing --


async def test_close_then_bind_again_at_once(loop, client):
    port = 0
    for _ in range(10):
        server = await loop.create_server(Echo, "127.0.0.1", port)
        port = address_of(server)[1]
        sock = await client(address_of(server))
        assert await echoes(loop, sock)
        sock.close()
        await turns(3)
        server.close()
        assert not server.is_serving() and list(server.sockets) == []


async def test_close_then_bind_again_without_an_option(loop, stack):
    """Nothing keeps the port: not even a listener without SO_REUSEADDR is refused."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = address_of(server)
    await turns(3)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    stack.enter_context(socket.socket()).bind(address)


async def test_close_in_the_tick_it_started(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = address_of(server)
    server.close()
    await turns(3)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


@pytest.mark.uringloop_only  # the selector loop forgets one that it accepted in the same tick
@pytest.mark.parametrize("turn", [0, 1, 2, 3, 5, 20])
async def test_close_while_clients_connect(loop, stack, turn):
    """Each client is either served or refused; nothing is left of it."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = address_of(server)
    socks = []
    for _ in range(5):
        sock = stack.enter_context(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(address)
        socks.append(sock)
    await turns(turn)
    server.close()
    served = 0
    for sock in socks:
        try:
            await loop.sock_sendall(sock, b"x")
            served += await loop.sock_recv(sock, 1) == b"x"
        except (ConnectionResetError, BrokenPipeError):
            pass
        sock.close()
    if turn == 20:
        assert served == 5
    await server.wait_closed()


async def test_clients_that_wait_when_the_first_closes_the_server(loop, stack):
    """All of them have been accepted by then, and are served."""
    protocols = []

    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            protocols.append(self)
            server.close()

    server = await loop.create_server(Closing, "127.0.0.1", 0)
    *_, last = [stack.enter_context(socket.create_connection(address_of(server))) for _ in range(3)]
    await until(lambda: len(protocols) == 3)
    await closed(*((protocol.transport, protocol) for protocol in protocols))
    await server.wait_closed()
    assert last.recv(1) == b""


async def test_connections_outlive_their_server(loop, client):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    sock = await client(address_of(server))
    assert await echoes(loop, sock)
    server.close()
    await turns(3)
    assert await echoes(loop, sock)


async def test_serve_forever(loop, client):
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    serving = asyncio.create_task(server.serve_forever())
    await until(server.is_serving)
    address = address_of(server)
    sock = await client(address)
    assert await echoes(loop, sock)
    sock.close()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


@pytest.mark.skipif(not hasattr(asyncio.Server, "close_clients"), reason="from Python 3.13 on")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_close_clients(loop, client, how):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    socks = [await client(address_of(server)) for _ in range(3)]
    for sock in socks:
        assert await echoes(loop, sock)
    server.close()
    getattr(server, how)()
    await server.wait_closed()
    for sock in socks:
        assert await loop.sock_recv(sock, 1) == b""


async def test_close_from_a_protocol(loop, client):
    class Protocol(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            server.close()

    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    address = address_of(server)
    assert await echoes(loop, await client(address))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


# -- several --


@needs_ipv6
async def test_several_addresses(loop, client):
    server = await loop.create_server(Echo, ["127.0.0.1", "::1"], 0)
    addresses = [sock.getsockname() for sock in server.sockets]
    assert len(addresses) == 2
    for address in addresses:
        assert await echoes(loop, await client(address))
    server.close()


async def test_on_a_given_socket(loop, stack, tmp_path):
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "listener"))
    server = await loop.create_server(Echo, sock=listener)
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.setblocking(False)
    await loop.sock_connect(sock, str(tmp_path / "listener"))
    assert await echoes(loop, sock)
    server.close()


async def test_unix_server(loop, stack, tmp_path):
    path = str(tmp_path / "listener")
    server = await loop.create_unix_server(Echo, path)
    transport, protocol = await loop.create_unix_connection(Recorder, path)
    transport.write(b"hello")
    assert await protocol.received(5) == b"hello"
    transport.close()
    await protocol.lost
    await close(server)


async def test_many_connections_in_one_tick(loop, stack):
    """All wait in the backlog when the server starts."""
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=100, start_serving=False)
    await server.start_serving()
    socks = [stack.enter_context(socket.create_connection(address_of(server))) for _ in range(80)]
    for number, sock in enumerate(socks):
        sock.setblocking(False)
        assert await echoes(loop, sock, b"%d" % number)
    server.close()


@pytest.fixture
def many_files():
    """Room for 1,000 connections, both ends."""
    needed = 2500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"the hard limit of open files is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_1000_connections_at_once(loop, many_files):
    """Each gets its own bytes back, in several rounds."""

    async def talk(number):
        reader, writer = await asyncio.open_connection(*address_of(server))
        connected.append(number)
        await until_all.wait()
        for round in range(5):
            data = b"%d of connection %d\n" % (round, number) * 20
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        await close(writer)

    class Protocol(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.append(transport)
            if len(accepted) == 1000:
                until_all.set()

    connected, accepted = [], []
    until_all = asyncio.Event()
    server = await loop.create_server(Protocol, "127.0.0.1", 0, backlog=1000)
    await asyncio.gather(*map(talk, range(1000)))
    assert len({transport.get_extra_info("peername") for transport in accepted}) == 1000
    await close(server)


# -- the socket of a connection --

async def test_accepted_socket_is_as_accept_makes_it(loop, client):
    accepted = []
    server = await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "127.0.0.1", 0)
    listener = server.sockets[0]
    sock = await client(address_of(server))
    await until(lambda: accepted and accepted[0].transport is not None)
    conn = accepted[0].transport.get_extra_info("socket")._sock
    assert type(conn) is socket.socket
    assert (conn.family, conn.type, conn.proto) == (listener.family, listener.type, listener.proto)
    assert conn.gettimeout() == 0 and not conn.getblocking() and not os.get_inheritable(conn.fileno())
    assert conn.getpeername() == sock.getsockname()
    # It tells its errors, too.
    with pytest.raises(BlockingIOError):
        conn.recv(1)
    with pytest.raises(OSError):
        conn.setsockopt(socket.SOL_SOCKET, -1, 1)
    with conn.dup() as other:
        assert other.gettimeout() == 0
    accepted[0].transport.close()
    await accepted[0].lost
    await turns(2)
    assert conn.fileno() == -1 and conn._closed
    await close(server)


@pytest.mark.parametrize("count", [1, 2, 9, 12])
async def test_all_who_wait_are_accepted_in_one_tick(loop, stack, count):
    accepted = []
    server = await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "127.0.0.1", 0)
    for _ in range(count):
        stack.enter_context(socket.create_connection(address_of(server)))
    await until(lambda: accepted)
    assert len(accepted) == count
    await until(lambda: all(protocol.transport is not None for protocol in accepted))
    for protocol in accepted:
        protocol.transport.abort()
        await protocol.lost
    await close(server)
