"""Making connections and serving them: every keyword of create_connection and create_server, on both loops."""

import asyncio
import contextvars
import inspect
import os
import socket
import struct

import pytest

from support import Echo, Recorder, close, needs_ipv6, some_bytes, tcp_pair, turns, until

HAS_KEEP_ALIVE = "keep_alive" in inspect.signature(asyncio.SelectorEventLoop.create_server).parameters
CLOSES_CLIENTS = hasattr(asyncio.base_events.Server, "close_clients")


@pytest.fixture
def resolve(loop, monkeypatch):
    """`resolve(host=[(address, port)])`: what loop.getaddrinfo() answers."""

    def resolve(**table):
        async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
            return [(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "",
                     (address, number, 0, 0) if ":" in address else (address, number))
                    for address, number in table[host]]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    return resolve


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def port_of(server):
    return server.sockets[0].getsockname()[1]


async def end(transport, protocol):
    transport.close()
    await protocol.lost


# -- create_connection --


async def test_next_address_is_tried(loop, resolve):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    resolve(somewhere=[("127.0.0.1", free_port()), ("127.0.0.2", free_port()), ("127.0.0.1", port_of(server))])
    transport, protocol = await loop.create_connection(Recorder, "somewhere", 1)
    assert transport.get_extra_info("peername") == ("127.0.0.1", port_of(server))
    await end(transport, protocol)
    await close(server)


@pytest.mark.parametrize("delay", [None, 0.01])
async def test_all_errors(loop, resolve, delay):
    ports = [free_port(), free_port()]
    resolve(nowhere=[("127.0.0.1", ports[0]), ("127.0.0.2", ports[1])])
    with pytest.raises(ExceptionGroup) as group:
        await loop.create_connection(Recorder, "nowhere", 1, all_errors=True, happy_eyeballs_delay=delay)
    assert [type(exc) for exc in group.value.exceptions] == [ConnectionRefusedError] * 2
    with pytest.raises(OSError) as caught:
        await loop.create_connection(Recorder, "nowhere", 1, happy_eyeballs_delay=delay)
    assert all(str(port) in str(caught.value) for port in ports)


@pytest.fixture
def hole(stack):
    """A listening socket that does not answer: its backlog is full."""
    hole = stack.enter_context(socket.socket())
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    for _ in range(2):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(hole.getsockname())
    return hole


async def test_errors_of_one_address(loop, resolve):
    """It is the error itself, unless all are asked for."""
    resolve(nowhere=[("127.0.0.1", free_port())])
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, "nowhere", 1)
    with pytest.raises(ExceptionGroup, match="create_connection failed") as group:
        await loop.create_connection(Recorder, "nowhere", 1, all_errors=True)
    assert [type(exc) for exc in group.value.exceptions] == [ConnectionRefusedError]


async def test_same_error_of_all_addresses(loop, resolve):
    """One of them is told."""
    address = ("127.0.0.1", free_port())
    resolve(nowhere=[address, address])
    with pytest.raises(ConnectionRefusedError, match=f"Connect call failed .*{address[1]}"):
        await loop.create_connection(Recorder, "nowhere", 1)


async def test_no_address(loop, resolve):
    resolve(nowhere=[])
    with pytest.raises(OSError, match="getaddrinfo.* returned empty list"):
        await loop.create_connection(Recorder, "nowhere", 1)
    with pytest.raises(OSError, match="getaddrinfo.* returned empty list"):
        await loop.create_server(Echo, "nowhere", 1)


async def test_happy_eyeballs_goes_on_at_once_after_an_error(loop, resolve):
    """The delay is for addresses that do not answer."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    resolve(somewhere=[("127.0.0.1", free_port()), server.sockets[0].getsockname()])
    transport, protocol = await loop.create_connection(Recorder, "somewhere", 1, happy_eyeballs_delay=1000)
    assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
    await end(transport, protocol)
    await close(server)


@pytest.mark.parametrize("delay", [None, 0.001])
async def test_cancelled_between_addresses(loop, resolve, hole, monkeypatch, delay):
    """No attempt is left behind."""
    attempts = []
    sock_connect = loop.sock_connect

    async def counted(sock, address):
        attempts.append(sock)
        await sock_connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", counted)
    resolve(somewhere=[hole.getsockname()] * 3)
    connecting = asyncio.create_task(
        loop.create_connection(Recorder, "somewhere", 1, happy_eyeballs_delay=delay))
    await until(lambda: len(attempts) == (1 if delay is None else 3))
    await turns(3)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert all(sock.fileno() == -1 for sock in attempts)


@pytest.mark.parametrize("interleave", [None, 1, 2])
async def test_happy_eyeballs(loop, resolve, hole, interleave):
    """The first address does not answer. The second is tried without waiting for it."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    resolve(somewhere=[hole.getsockname(), server.sockets[0].getsockname()])
    options = {} if interleave is None else {"interleave": interleave}
    transport, protocol = await loop.create_connection(
        Recorder, "somewhere", 1, happy_eyeballs_delay=0.01, **options)
    assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
    transport.write(b"x")
    assert await protocol.received(1) == b"x"
    await end(transport, protocol)
    await close(server)


@needs_ipv6
@pytest.mark.parametrize("options, order", [
    ({}, ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2"]),
    ({"interleave": 1}, ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]),
    ({"interleave": 2}, ["::1", "::2", "127.0.0.1", "::3", "127.0.0.2"]),
    ({"happy_eyeballs_delay": 1000}, ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]),
    ({"happy_eyeballs_delay": 1000, "interleave": 0}, ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2"]),
])
async def test_order_of_the_families(loop, resolve, monkeypatch, options, order):
    """So many of the first family, then alternately."""
    tried = []

    async def connect(exceptions, info, local_addr_infos=None):
        tried.append(info[4][0])
        error = OSError("refused")
        exceptions.append([error])
        raise error

    resolve(somewhere=[("::1", 1), ("::2", 1), ("::3", 1), ("127.0.0.1", 1), ("127.0.0.2", 1)])
    monkeypatch.setattr(loop, "_connect_sock", connect)
    with pytest.raises(OSError, match="refused"):
        await loop.create_connection(Recorder, "somewhere", 1, **options)
    assert tried == order


@needs_ipv6
async def test_family_that_is_asked_for(loop):
    server = await loop.create_server(Echo, ["127.0.0.1", "::1"], 0)
    for sock in server.sockets:
        transport, protocol = await loop.create_connection(
            Recorder, sock.getsockname()[0], sock.getsockname()[1], family=sock.family, proto=socket.IPPROTO_TCP)
        assert transport.get_extra_info("socket").family == sock.family
        await end(transport, protocol)
        other = socket.AF_INET if sock.family == socket.AF_INET6 else socket.AF_INET6
        with pytest.raises(socket.gaierror):
            await loop.create_connection(Recorder, *sock.getsockname()[:2], family=other)
    await close(server)


async def test_local_addr(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    port = free_port()
    transport, protocol = await loop.create_connection(
        Recorder, "127.0.0.1", port_of(server), local_addr=("127.0.0.3", port))
    assert transport.get_extra_info("sockname") == ("127.0.0.3", port)
    with pytest.raises(OSError, match="error while attempting to bind on address"):
        await loop.create_connection(
            Recorder, "127.0.0.1", port_of(server), local_addr=("127.0.0.3", port))
    await end(transport, protocol)
    await close(server)


@needs_ipv6
async def test_local_addr_of_another_family(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    with pytest.raises(OSError, match="no matching local address|error while attempting to bind"):
        await loop.create_connection(Recorder, "127.0.0.1", port_of(server), local_addr=("::1", 0))
    await close(server)


@pytest.mark.parametrize("options, message", [
    ({"host": "127.0.0.1", "port": 1, "sock": True}, "host/port and sock can not be specified at the same time"),
    ({}, "host and port was not specified and no sock specified"),
    ({"server_hostname": "x", "host": "x"}, "server_hostname is only meaningful with ssl"),
    ({"ssl": True, "sock": True}, "You must set server_hostname when using ssl without a host"),
])
async def test_arguments_are_refused(loop, stack, options, message):
    if "sock" in options:
        options = options | {"sock": stack.enter_context(socket.socket())}
    with pytest.raises(ValueError, match=message):
        await loop.create_connection(Recorder, **options)


async def test_datagram_socket_is_refused(loop, stack):
    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    with pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.create_connection(Recorder, sock=sock)
    with pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.create_server(Echo, sock=sock)
    with pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.connect_accepted_socket(Recorder, sock)


async def test_socket_of_a_transport_is_refused(loop, pair):
    ours, _ = pair
    transport, protocol = await loop.create_connection(Recorder, sock=ours)
    with pytest.raises(RuntimeError, match="File descriptor .* is used by transport"):
        await loop.create_connection(Recorder, sock=ours)
    await end(transport, protocol)


# -- create_server --


@needs_ipv6
async def test_dual_stack(loop):
    """No host means both families, on one port each; the IPv6 one takes no IPv4."""
    server = await loop.create_server(Echo, None, 0)
    families = {sock.family: sock for sock in server.sockets}
    assert set(families) == {socket.AF_INET, socket.AF_INET6}
    assert families[socket.AF_INET6].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        transport, protocol = await loop.create_connection(Recorder, host, families[family].getsockname()[1])
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        await end(transport, protocol)
    await close(server)


@needs_ipv6
async def test_dual_stack_on_a_given_socket(loop):
    """One socket for both; IPv4 comes as mapped addresses."""
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    made = []

    class Server(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(transport.get_extra_info("peername")[0])

    server = await loop.create_server(Server, sock=listener)
    for host, name in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
        transport, protocol = await loop.create_connection(Recorder, host, port_of(server))
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        assert made.pop() == name
        await end(transport, protocol)
    await close(server)


async def test_address_that_is_not_here(loop, resolve):
    """Later Pythons do without it, earlier ones do not start."""
    resolve(somewhere=[("127.0.0.1", 0), ("192.0.2.1", 0)])
    if "EADDRNOTAVAIL" in asyncio.BaseEventLoop.create_server.__code__.co_names:
        server = await loop.create_server(Echo, "somewhere", 0)
        assert [sock.getsockname()[0] for sock in server.sockets] == ["127.0.0.1"]
        await close(server)
        resolve(somewhere=[("192.0.2.1", 0)])
        message = "could not bind on any address out of"
    else:
        message = "error while attempting to bind on address"
    with pytest.raises(OSError, match=message):
        await loop.create_server(Echo, "somewhere", 0)


async def test_reuse_port(loop):
    first = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
    second = await loop.create_server(Echo, "127.0.0.1", port_of(first), reuse_port=True)
    with pytest.raises(OSError, match="error while attempting to bind on address"):
        await loop.create_server(Echo, "127.0.0.1", port_of(first))
    assert first.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    await close(first, second)


async def test_reuse_address(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == (os.name == "posix")
    other = await loop.create_server(Echo, "127.0.0.1", 0, reuse_address=False)
    assert not other.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    await close(server, other)


@pytest.mark.skipif(not HAS_KEEP_ALIVE, reason="comes with Python 3.13")
async def test_keep_alive(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, keep_alive=True)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    other = await loop.create_server(Echo, "127.0.0.1", 0)
    assert not other.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await close(server, other)


@pytest.mark.parametrize("options, backlog", [({}, 100), ({"backlog": 1}, 1), ({"backlog": 77}, 77)])
async def test_backlog_is_the_kernel_s(loop, options, backlog):
    server = await loop.create_server(Echo, "127.0.0.1", 0, **options)
    info = server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    # tcp_info of a listening socket: what it may hold stands in tcpi_sacked.
    assert struct.unpack_from("=I", info, 28) == (backlog,)
    await close(server)


async def test_backlog(loop):
    """All of it is accepted, however many wait at once."""
    made = []

    class Counted(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(transport)

    for backlog in (10, 1000):
        server = await loop.create_server(Counted, "127.0.0.1", 0, backlog=backlog)
        connections = await asyncio.gather(*(
            loop.create_connection(Recorder, "127.0.0.1", port_of(server)) for _ in range(10)))
        await until(lambda: len(made) == 10)
        for connection in connections:
            await end(*connection)
        made.clear()
        await close(server)


async def test_start_serving(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, "127.0.0.1", port_of(server))
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving() and server.get_loop() is loop
    await end(*await loop.create_connection(Recorder, "127.0.0.1", port_of(server)))
    await close(server)
    assert not server.is_serving() and server.sockets == ()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_wait_closed_waits_for_the_connections(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port_of(server))
    transport.write(b"x")
    await protocol.received(1)
    waiting = [asyncio.create_task(server.wait_closed()) for _ in range(2)]
    await turns(3)
    server.close()
    await turns(3)
    assert not any(task.done() for task in waiting)
    await end(transport, protocol)
    await asyncio.gather(*waiting)


async def test_serve_forever_only_once(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    serving = asyncio.create_task(server.serve_forever())
    await turns(2)
    with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
        await server.serve_forever()
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await server.wait_closed()


async def test_async_with(loop):
    """It ends with the last connection, and after it waits no longer."""
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port_of(server))
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        loop.call_soon(transport.close)
    assert not server.is_serving()
    assert await protocol.lost is None
    await server.wait_closed()


@pytest.mark.parametrize("served", [False, True])
async def test_closed_before_it_serves(loop, served):
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    address = server.sockets[0].getsockname()
    if served:
        starting = asyncio.create_task(server.start_serving())
        await asyncio.sleep(0)
    server.close()
    if served:
        await starting
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, *address)


@pytest.mark.skipif(not CLOSES_CLIENTS, reason="comes with Python 3.13")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_close_clients_sends_what_is_written(loop, tls, secure):
    """close_clients() flushes, and the server goes on."""
    data = some_bytes(5_000_000)

    class Sends(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(data)
            sending.append(transport)

    sending = []
    server = await loop.create_server(Sends, "127.0.0.1", 0, ssl=tls[0] if secure else None)
    options = {"ssl": tls[1], "server_hostname": "localhost"} if secure else {}
    for round in range(2):
        transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port_of(server), **options)
        await until(lambda: len(sending) > round)
        server.close_clients()
        assert await protocol.received(len(data)) == data
        assert await protocol.lost is None
    await close(server)


@pytest.mark.skipif(not CLOSES_CLIENTS, reason="comes with Python 3.13")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_abort_clients_drops_what_is_written(loop, tls, secure):
    class Sends(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(bytes(50_000_000))
            sending.append(transport)

    sending = []
    server = await loop.create_server(Sends, "127.0.0.1", 0, ssl=tls[0] if secure else None)
    options = {"ssl": tls[1], "server_hostname": "localhost"} if secure else {}
    transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port_of(server), **options)
    await until(lambda: sending)
    server.close()
    server.abort_clients()
    await server.wait_closed()
    lost = await protocol.lost
    assert lost is None or isinstance(lost, OSError)
    assert len(protocol.data) < 50_000_000


@pytest.mark.skipif(not CLOSES_CLIENTS, reason="comes with Python 3.13")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_end_of_the_clients(loop, how):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    connections = [await loop.create_connection(Recorder, "127.0.0.1", port_of(server)) for _ in range(5)]
    for transport, protocol in connections:
        transport.write(b"x")
        await protocol.received(1)
    server.close()
    getattr(server, how)()
    await server.wait_closed()
    for _, protocol in connections:
        lost = await protocol.lost
        assert lost is None or (how == "abort_clients" and isinstance(lost, ConnectionResetError))


@pytest.mark.parametrize("options, error, message", [
    ({"ssl": True}, TypeError, "ssl argument must be an SSLContext or None"),
    ({"host": "127.0.0.1", "port": 0, "sock": True}, ValueError, "host/port and sock can not be specified"),
    ({}, ValueError, "Neither host/port nor sock were specified"),
    ({"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1}, ValueError, "only meaningful with ssl"),
])
async def test_server_s_arguments_are_refused(loop, stack, options, error, message):
    if "sock" in options:
        options = options | {"sock": stack.enter_context(socket.socket())}
    with pytest.raises(error, match=message):
        await loop.create_server(Echo, **options)


# -- contexts --


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_factory_of_each_connection_has_a_context_of_its_own(loop, tls, secure):
    variable = contextvars.ContextVar("variable", default="nobody")
    seen = []

    class Telling(Recorder):
        def __init__(self):
            super().__init__()
            seen.append(("factory", variable.get()))
            variable.set("factory")

        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(("made", variable.get()))
            variable.set("made")
            transport.close()

    server = await loop.create_server(Telling, "127.0.0.1", 0, ssl=tls[0] if secure else None)
    for count in (1, 2, 3):
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", port_of(server), ssl=tls[1] if secure else None,
            server_hostname="localhost" if secure else None)
        await until(lambda: len(seen) == 2 * count)
        await end(transport, protocol)
    assert seen == [("factory", "nobody"), ("made", "factory")] * 3
    await close(server)


# -- ends --


async def test_reset_behind_data_is_no_end(loop, stack):
    """Whether it is a read that finds it or what was gathered: a stream that was cut off does not read as whole."""
    for _ in range(20):
        ours, theirs = (stack.enter_context(end) for end in tcp_pair())
        reader, writer = await asyncio.open_connection(sock=ours)
        # What its peer has not read makes a reset of its close().
        writer.write(bytes(100_000))
        await asyncio.sleep(0.005)
        theirs.send(b"data")
        await asyncio.sleep(0)
        theirs.close()
        writer.write(b"more")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
