"""Datagram endpoints: empty datagrams, errors that end nothing, a queue that is always sent."""

import array
import asyncio
import contextlib
import errno
import socket
import struct
import subprocess
import sys

import pytest

from loop_factories import expression_of
from support import closed, needs_ipv6, some_bytes, turns, until


class Recorder(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = []
        self.errors = []
        self.calls = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.received.append((data, addr))

    def error_received(self, exc):
        self.errors.append(exc)

    def pause_writing(self):
        self.calls.append("pause_writing")

    def resume_writing(self):
        self.calls.append("resume_writing")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.fixture
def endpoint(loop):
    """`transport, protocol = await endpoint(...)`, on 127.0.0.1 unless told otherwise."""

    async def endpoint(factory=Recorder, **kwargs):
        if not kwargs:
            kwargs = {"local_addr": ("127.0.0.1", 0)}
        return await loop.create_datagram_endpoint(factory, **kwargs)

    return endpoint


@pytest.fixture
def peer(stack):
    """A UDP socket, non-blocking."""
    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@pytest.fixture
def narrow(stack, tmp_path):
    """A unix datagram socket that is connected to one whose queue is soon full; (socket, peer)"""
    sockets = []
    for name in ("ours", "theirs"):
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sock.bind(str(tmp_path / name))
        sock.setblocking(False)
        sockets.append(sock)
    ours, theirs = sockets
    ours.connect(theirs.getsockname())
    return ours, theirs


def nobody_s_address():
    """Of a host of its own: the port of who sends there may be the same, and it would hear itself."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.3.2.1", 0))
        return sock.getsockname()


def address_of(transport):
    return transport.get_extra_info("sockname")


async def test_send_and_receive(endpoint):
    a, b = await endpoint(), await endpoint()
    a[0].sendto(b"there", address_of(b[0]))
    await until(lambda: b[1].received)
    b[0].sendto(b"and back", b[1].received[0][1])
    await until(lambda: a[1].received)
    assert b[1].received == [(b"there", address_of(a[0]))]
    assert a[1].received == [(b"and back", address_of(b[0]))]
    await closed(a, b)


async def test_send_from_connection_made(endpoint, peer):
    class Protocol(Recorder):
        def connection_made(self, transport):
            transport.sendto(b"first", peer.getsockname())

    a = await endpoint(Protocol)
    await turns(3)
    assert peer.recvfrom(100) == (b"first", address_of(a[0]))
    await closed(a)


async def test_connected(endpoint, peer):
    a = await endpoint(remote_addr=peer.getsockname())
    assert a[0].get_extra_info("peername") == peer.getsockname()
    a[0].sendto(b"one")
    a[0].sendto(b"two", peer.getsockname())
    with pytest.raises(ValueError):
        a[0].sendto(b"three", ("127.0.0.1", 1))
    await turns(3)
    assert [peer.recv(100), peer.recv(100)] == [b"one", b"two"]
    peer.sendto(b"answer", address_of(a[0]))
    await until(lambda: a[1].received)
    assert a[1].received == [(b"answer", peer.getsockname())]
    await closed(a)


async def test_sendto_refuses_what_is_no_bytes(endpoint):
    a = await endpoint()
    for wrong, name in (("text", "str"), (1, "int"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"data argument must be a bytes-like object, not '{name}'"):
            a[0].sendto(wrong, ("127.0.0.1", 1))
    await closed(a)
    with pytest.raises(TypeError, match="data argument must be a bytes-like object, not 'str'"):
        a[0].sendto("text", ("127.0.0.1", 1))


async def test_items_wider_than_a_byte(endpoint, narrow):
    """They leave at once, and are counted in bytes where they don't."""
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    data = array.array("d", [1.0] * 128)
    for _ in range(3):
        a[0].sendto(memoryview(data))
        assert theirs.recv(2000) == data.tobytes()
        assert a[0].get_write_buffer_size() == 0
    while not a[1].calls:
        a[0].sendto(memoryview(data))
    assert a[1].calls == ["pause_writing"]
    a[0].abort()
    await a[1].lost


def test_sending_is_audited(loop_factory):
    """As socket.sendto() does it; PEP 578. (A hook stays: so in a process of its own.)"""
    code = f"""
import asyncio, sys, uringloop
seen = []
sys.addaudithook(lambda name, args: seen.append(args) if name == 'socket.sendto' else None)
async def main():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=('127.0.0.1', 0))
    transport.sendto(b'data', ('127.0.0.1', 9))
    transport.close()
with asyncio.Runner(loop_factory={expression_of(loop_factory)}) as runner:
    runner.run(main())
(sock, address), = seen
assert address == ('127.0.0.1', 9), address
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


async def test_sendto_copies_what_is_mutable(loop, endpoint, narrow):
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    data = bytearray(b"as it was")
    for _ in range(100):
        a[0].sendto(data)
    data[:] = b"otherwise"
    a[0].close()
    assert await receive(loop, theirs, 100) == [b"as it was"] * 100
    await a[1].lost


@needs_ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_more_peers_than_it_remembers(loop, endpoint, stack, host):
    transport, protocol = await endpoint(local_addr=(host, 0))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    peers = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(700)]
    for peer in peers:
        peer.bind((host, 0))
    # Each is asked twice, the second time by an address that is known, or was, and one that is equal to it.
    for _ in range(2):
        for start in range(0, len(peers), 50):
            some = peers[start:start + 50]
            protocol.received.clear()
            for peer in some:
                peer.sendto(b"data", transport.get_extra_info("sockname"))
            await until(lambda: len(protocol.received) == len(some))
            for peer, (data, addr) in zip(some, protocol.received, strict=True):
                assert (data, addr) == (b"data", peer.getsockname())
                transport.sendto(b"one", addr)
                transport.sendto(b"two", tuple(list(addr)))
                assert peer.recvfrom(10) == (b"one", transport.get_extra_info("sockname"))
                assert peer.recv(10) == b"two"
    await closed((transport, protocol))


async def test_ipv6(endpoint):
    a = await endpoint(local_addr=("::1", 0))
    b = await endpoint(remote_addr=address_of(a[0])[:2])
    b[0].sendto(b"there")
    await until(lambda: a[1].received)
    data, address = a[1].received[0]
    assert (data, address) == (b"there", address_of(b[0])) and len(address) == 4
    a[0].sendto(b"and back", address)
    a[0].sendto(b"twice", address[:2])
    await until(lambda: len(b[1].received) == 2)
    assert [data for data, _ in b[1].received] == [b"and back", b"twice"]
    await closed(a, b)


def link_local():
    """(address, interface, its number) of a link-local address of this machine, or None."""
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as table:
        for address, index, _, scope, flags, interface in map(str.split, table):
            tentative = int(flags, 16) & 0x48  # or a duplicate
            if scope == "20" and not tentative:
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)), interface, int(index, 16)
    return None


@pytest.mark.skipif(link_local() is None, reason="no interface has a link-local address")
@pytest.mark.parametrize("connected", [False, True])
async def test_ipv6_scope_ids(loop, endpoint, stack, connected):
    """The scope id is kept both ways, and may be said by a name. (Nothing leaves the machine.)"""
    host, interface, scope = link_local()
    sockets = [stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for _ in range(2)]
    for sock in sockets:
        sock.bind((host, 0, 0, scope))
        sock.setblocking(False)
    ours, theirs = (sock.getsockname() for sock in sockets)
    assert ours[3] == theirs[3] == scope
    if connected:
        sockets[0].connect(theirs)
    a, b = [await endpoint(sock=sock) for sock in sockets]
    assert address_of(a[0]) == ours and address_of(b[0]) == theirs
    assert a[0].get_extra_info("peername") == (theirs if connected else None)
    if connected:
        a[0].sendto(b"1")
        a[0].sendto(b"2", theirs)
    else:
        a[0].sendto(b"1", theirs)
        a[0].sendto(b"2", (f"{host}%{interface}", theirs[1]))
    await until(lambda: len(b[1].received) == 2)
    assert b[1].received == [(b"1", ours), (b"2", ours)]
    b[0].sendto(b"answer", b[1].received[0][1])
    await until(lambda: a[1].received)
    assert a[1].received == [(b"answer", theirs)]
    assert a[1].errors == b[1].errors == []
    await closed(a, b)


@pytest.mark.skipif(link_local() is None, reason="no interface has a link-local address")
async def test_ipv6_scope_in_the_arguments(endpoint):
    host, interface, scope = link_local()
    a = await endpoint(local_addr=(f"{host}%{interface}", 0))
    assert address_of(a[0])[0::3] == (host, scope)
    b = await endpoint(remote_addr=(f"{host}%{interface}", address_of(a[0])[1]))
    assert b[0].get_extra_info("peername") == address_of(a[0])
    b[0].sendto(b"there")
    await until(lambda: a[1].received)
    assert a[1].received == [(b"there", address_of(b[0]))]
    await closed(a, b)


@needs_ipv6
async def test_ipv6_addresses_of_four(endpoint):
    """Of an address that is not link-local the kernel forgets scope and flow."""
    a, b = await endpoint(local_addr=("::1", 0)), await endpoint(local_addr=("::1", 0))
    for flow, scope in ((0, 0), (0, 1), (7, 0)):
        a[0].sendto(b"x", (*address_of(b[0])[:2], flow, scope))
    await until(lambda: len(b[1].received) == 3)
    assert b[1].received == [(b"x", address_of(a[0]))] * 3
    assert address_of(a[0])[2:] == (0, 0)
    await closed(a, b)


async def test_sendto_a_host_name(endpoint, peer):
    a = await endpoint()
    a[0].sendto(b"x", ("localhost", peer.getsockname()[1]))
    await turns(3)
    assert peer.recvfrom(10) == (b"x", address_of(a[0]))
    await closed(a)


@pytest.mark.parametrize("allowed", [False, True])
async def test_broadcast(endpoint, allowed):
    """To everybody in 127/8, if it is allowed."""
    a = await endpoint(local_addr=("0.0.0.0", 0))
    b = await endpoint(local_addr=("127.0.0.1", 0), allow_broadcast=allowed)
    b[0].sendto(b"everybody", ("127.255.255.255", address_of(a[0])[1]))
    b[0].sendto(b"one", ("127.0.0.1", address_of(a[0])[1]))
    if allowed:
        await until(lambda: len(a[1].received) == 2)
        assert a[1].received[0] == (b"everybody", address_of(b[0])) and b[1].errors == []
    else:
        await until(lambda: a[1].received)
        assert [type(exc) for exc in b[1].errors] == [PermissionError]
    assert a[1].received[-1] == (b"one", address_of(b[0]))
    await closed(a, b)


GROUP = "239.255.17.34"
IP_MULTICAST_ALL = 49


async def test_multicast(endpoint, stack):
    """Two members of a group on the loopback device, one of which leaves it, and somebody from outside."""
    membership = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
    port = 0
    members = []
    for _ in range(2):
        sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((GROUP, port))
        port = sock.getsockname()[1]
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock.setblocking(False)
        members.append(await endpoint(sock=sock))
    outside = await endpoint()
    stays, leaves = members
    for transport, _ in (stays, outside):
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    outside[0].sendto(b"to both", (GROUP, port))
    await until(lambda: stays[1].received and leaves[1].received)
    leaves[0].get_extra_info("socket").setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)
    outside[0].sendto(b"one left", (GROUP, port))
    await until(lambda: len(stays[1].received) == 2)
    stays[0].sendto(b"to itself", (GROUP, port))
    await until(lambda: len(stays[1].received) == 3)
    await turns(3)
    assert stays[1].received[:2] == [(b"to both", address_of(outside[0])), (b"one left", address_of(outside[0]))]
    assert stays[1].received[2][0] == b"to itself"
    assert leaves[1].received == [(b"to both", address_of(outside[0]))]
    await closed(*members, outside)


async def test_reuse_port(endpoint):
    first = await endpoint(local_addr=("127.0.0.1", 0), reuse_port=True)
    second = await endpoint(local_addr=address_of(first[0]), reuse_port=True)
    assert address_of(first[0]) == address_of(second[0])
    with pytest.raises(OSError) as refused:
        await endpoint(local_addr=address_of(first[0]))
    assert refused.value.errno == errno.EADDRINUSE
    await closed(first, second)


async def test_large_and_many(endpoint):
    a, b = await endpoint(), await endpoint()
    b[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
    sizes = [65_507, 1, 40_000, 1500]
    for number in range(100):
        for size in sizes:
            a[0].sendto(some_bytes(size, seed=number), address_of(b[0]))
        await until(lambda: len(b[1].received) == 4 * (number + 1))
    assert [data for data, _ in b[1].received] == [
        some_bytes(size, seed=number) for number in range(100) for size in sizes
    ]
    await closed(a, b)


# -- empty datagrams --


@pytest.mark.parametrize("connected", [False, True])
async def test_empty_datagram_is_received(endpoint, peer, connected):
    a = await (endpoint(remote_addr=peer.getsockname()) if connected else endpoint())
    for data in (b"before", b"", b"", b"after"):
        peer.sendto(data, address_of(a[0]))
    await until(lambda: len(a[1].received) == 4)
    assert a[1].received == [(data, peer.getsockname()) for data in (b"before", b"", b"", b"after")]
    await closed(a)


@pytest.mark.parametrize("connected", [False, True])
async def test_empty_datagram_is_sent(loop, endpoint, peer, connected):
    a = await (endpoint(remote_addr=peer.getsockname()) if connected else endpoint())
    for data in (b"before", b"", b"after"):
        a[0].sendto(data, None if connected else peer.getsockname())
    received = [await loop.sock_recv(peer, 100), await loop.sock_recv(peer, 100)]
    if received[1] == b"":  # 3.12's transports drop it
        received.append(await loop.sock_recv(peer, 100))
    assert received in ([b"before", b"", b"after"], [b"before", b"after"])
    await closed(a)


# -- errors --


async def test_port_unreachable_then_reading_goes_on(loop, endpoint, stack):
    address = nobody_s_address()
    a = await endpoint(local_addr=("127.0.0.1", 0), remote_addr=address)
    for number in range(1, 4):
        a[0].sendto(b"nobody there")
        await until(lambda: len(a[1].errors) >= number)
    assert all(isinstance(exc, ConnectionRefusedError) for exc in a[1].errors)
    peer = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    peer.bind(address)
    peer.sendto(b"now I am", address_of(a[0]))
    await until(lambda: a[1].received)
    assert a[1].received == [(b"now I am", address)]
    a[0].sendto(b"good")
    peer.setblocking(False)
    assert await loop.sock_recv(peer, 100) == b"good"
    await closed(a)


IP_RECVERR = getattr(socket, "IP_RECVERR", 11)


async def test_port_unreachable_unconnected(endpoint, peer):
    """Errors of an unconnected socket come to who asks for them, and to nobody else."""
    address = nobody_s_address()
    a, deaf = await endpoint(), await endpoint()
    a[0].get_extra_info("socket").setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    for number in range(1, 4):
        a[0].sendto(b"nobody there", address)
        deaf[0].sendto(b"nobody there", address)
        await until(lambda: len(a[1].errors) >= number)
    assert all(isinstance(exc, ConnectionRefusedError) for exc in a[1].errors)
    for transport, protocol in (a, deaf):
        transport.sendto(b"still there", peer.getsockname())
        peer.sendto(b"good", address_of(transport))
        await until(lambda: protocol.received)
        assert protocol.received == [(b"good", peer.getsockname())]
    assert deaf[1].errors == []
    await closed(a, deaf)


async def test_port_unreachable_in_the_middle_of_what_is_sent(endpoint):
    """Each send may be told of the one before; what follows is sent all the same."""
    a = await endpoint(local_addr=("127.0.0.1", 0), remote_addr=nobody_s_address())
    for number in range(20):
        a[0].sendto(b"%d" % number)
    await until(lambda: a[1].errors)
    a[0].close()
    assert await a[1].lost is None
    assert all(isinstance(exc, ConnectionRefusedError) for exc in a[1].errors)


async def test_failed_send_does_not_stop_the_queue(endpoint, peer):
    a = await endpoint()
    there = peer.getsockname()
    for data in (b"1", bytes(70_000), b"2", bytes(70_000), bytes(70_000), b"3"):
        a[0].sendto(data, there)
    await until(lambda: len(a[1].errors) == 3)
    assert {exc.errno for exc in a[1].errors} == {errno.EMSGSIZE}
    a[0].sendto(b"4", there)
    await turns(10)
    assert [peer.recv(100) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
    await closed(a)


async def test_failed_send_as_the_last_one(endpoint, peer):
    a = await endpoint()
    a[0].sendto(b"1", peer.getsockname())
    a[0].sendto(bytes(70_000), peer.getsockname())
    await closed(a)
    assert peer.recv(100) == b"1"


async def test_send_from_error_received(endpoint, peer):
    class Protocol(Recorder):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.sendto(b"instead", peer.getsockname())

    a = await endpoint(Protocol)
    a[0].sendto(bytes(70_000), peer.getsockname())
    a[0].sendto(b"next", peer.getsockname())
    await turns(10)
    assert {peer.recv(100), peer.recv(100)} == {b"instead", b"next"}
    await closed(a)


async def test_close_from_error_received(endpoint, peer):
    class Protocol(Recorder):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.close()

    a = await endpoint(Protocol)
    a[0].sendto(bytes(70_000), peer.getsockname())
    assert await a[1].lost is None


async def test_datagram_received_raises(endpoint, errors, peer):
    class Bug(Exception):
        pass

    class Protocol(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise Bug

    a = await endpoint(Protocol)
    peer.sendto(b"one", address_of(a[0]))
    await until(lambda: len(a[1].received) == 1)
    peer.sendto(b"two", address_of(a[0]))
    await until(lambda: len(errors) == 2)
    assert [data for data, _ in a[1].received] == [b"one", b"two"]
    assert all(isinstance(context["exception"], Bug) for context in errors)
    errors.clear()
    await closed(a)


# -- the queue --


async def receive(loop, sock, count):
    return [await loop.sock_recv(sock, 1 << 20) for _ in range(count)]


async def test_close_sends_the_queue(loop, endpoint, narrow):
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    sent = [b"%d" % number for number in range(300)]
    for data in sent:
        a[0].sendto(data)
    await turns(3)
    assert a[0].get_write_buffer_size() > 0
    a[0].close()
    await turns(10)
    assert a[0].is_closing() and not a[1].lost.done()
    assert await receive(loop, theirs, 300) == sent
    assert await a[1].lost is None
    assert ours.fileno() == -1


async def test_close_sends_the_queue_past_errors(loop, endpoint, narrow):
    """Some of the queue can't be sent: the rest is, and then it ends."""
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sent = [b"%d" % number for number in range(60)]
    for number, data in enumerate(sent):
        a[0].sendto(data)
        if number % 10 == 9:
            a[0].sendto(bytes(500_000))
    a[0].close()
    assert await receive(loop, theirs, 60) == sent
    assert await a[1].lost is None
    assert [exc.errno for exc in a[1].errors] == [errno.EMSGSIZE] * 6


@pytest.mark.parametrize("connected", [True, False])
async def test_abort_behind_sends(loop, endpoint, peer, connected):
    """What could go was out before it."""
    if connected:
        transport, protocol = await endpoint(remote_addr=peer.getsockname())
    else:
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
    for data in (b"last", b"few", b"words"):
        transport.sendto(data, None if connected else peer.getsockname())
    transport.abort()
    assert await protocol.lost is None
    assert [peer.recv(100) for _ in range(3)] == [b"last", b"few", b"words"]


async def test_error_received_raises(loop, endpoint, peer):
    """To whom it is told depends on the loop; the queue goes on, and ends."""
    class Protocol(Recorder):
        def error_received(self, exc):
            super().error_received(exc)
            raise ZeroDivisionError

    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    transport, protocol = await endpoint(Protocol)
    for data in (bytes(70_000), b"first", b"second"):
        try:
            transport.sendto(data, peer.getsockname())
        except ZeroDivisionError as exc:
            told.append(exc)
    await closed((transport, protocol))
    assert [exc.errno for exc in protocol.errors] == [errno.EMSGSIZE]
    assert [type(exc) for exc in told] == [ZeroDivisionError]
    assert [await loop.sock_recv(peer, 100) for _ in range(2)] == [b"first", b"second"]


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_end_in_pause_writing(endpoint, peer, narrow, how):
    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            getattr(self.transport, how)()

    ours, theirs = narrow
    transport, protocol = await endpoint(Protocol, sock=ours)
    transport.set_write_buffer_limits(0)
    while not protocol.calls:
        transport.sendto(b"x")
        await asyncio.sleep(0)
    theirs.close()
    await protocol.lost


def test_interrupt_in_pause_writing(loop_factory, narrow):
    """Nothing is lost, and what is queued is counted right."""
    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            if len(self.calls) == 1:
                raise KeyboardInterrupt

    ours, theirs = narrow
    with contextlib.closing(loop_factory()) as loop:
        async def make():
            return await loop.create_datagram_endpoint(Protocol, sock=ours)

        transport, protocol = loop.run_until_complete(make())
        transport.set_write_buffer_limits(0)
        sent = 0
        with pytest.raises(KeyboardInterrupt):
            while sent < 100_000:
                sent += 1
                transport.sendto(b"x")
        received = []

        async def receive(count):
            while len(received) < count:
                received.append(await loop.sock_recv(theirs, 10))

        loop.run_until_complete(receive(sent))
        transport.sendto(b"A")
        transport.sendto(b"B")
        loop.run_until_complete(receive(sent + 2))
        assert received[-2:] == [b"A", b"B"]
        if hasattr(loop, "_proactor"):
            # The selector loop of some Pythons counts a header that it does not take off.
            assert transport.get_write_buffer_size() == 0
        transport.close()
        loop.run_until_complete(protocol.lost)


async def test_abort_drops_the_queue(endpoint, narrow):
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    for number in range(300):
        a[0].sendto(b"%d" % number)
    await turns(3)
    a[0].abort()
    assert await a[1].lost is None
    assert ours.fileno() == -1
    with pytest.raises(BlockingIOError):
        for _ in range(300):
            theirs.recv(100)


@pytest.mark.parametrize("where", ["behind it", "in connection_lost()"])
async def test_sendto_behind_abort_resumes_nobody(endpoint, narrow, where):
    class Sending(Recorder):
        def connection_lost(self, exc):
            self.calls.append("connection_lost")
            if where == "in connection_lost()":
                self.transport.sendto(b"x")
            super().connection_lost(exc)

    transport, protocol = await endpoint(Sending, sock=narrow[0])
    for _ in range(100):
        transport.sendto(bytes(3000))
    transport.abort()
    if where == "behind it":
        transport.sendto(b"x")
    await protocol.lost
    assert protocol.calls == ["pause_writing", "connection_lost"]


async def test_sendto_in_connection_lost_behind_a_queue(loop, endpoint, narrow):
    """It is sent at once, or error_received() is called, as for any other."""
    ours, theirs = narrow

    class Sending(Recorder):
        def connection_lost(self, exc):
            self.transport.sendto(b"last")
            super().connection_lost(exc)

    transport, protocol = await endpoint(Sending, sock=ours)
    while not transport.get_write_buffer_size():
        transport.sendto(b"one")
    transport.close()
    received = []
    while not protocol.lost.done():
        with contextlib.suppress(BlockingIOError):
            received.append(theirs.recv(100))
        await asyncio.sleep(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(theirs.recv(100))
    assert received[-2:] == [b"one", b"last"]


async def test_flow_control(loop, endpoint, narrow):
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    a[0].set_write_buffer_limits(high=20_000, low=5_000)
    sent = [some_bytes(1000, seed=number) for number in range(100)]
    for data in sent:
        a[0].sendto(data)
    await turns(3)
    assert a[1].calls == ["pause_writing"]
    queued = a[0].get_write_buffer_size()
    assert 20_000 < queued < 102_000
    received = await receive(loop, theirs, 100)
    await turns(3)
    assert received == sent
    assert a[1].calls == ["pause_writing", "resume_writing"]
    await closed(a)


async def test_writing_is_paused_as_long_as_one_waits(loop, endpoint, narrow):
    """And not by those that leave at once."""
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    a[0].set_write_buffer_limits(high=0)
    sent = 0
    while not a[1].calls:
        assert a[0].get_write_buffer_size() == 0
        a[0].sendto(bytes(1000))
        sent += 1
    await turns(5)
    assert sent > 1
    assert a[0].get_write_buffer_size() >= 1000
    assert a[1].calls == ["pause_writing"]
    await receive(loop, theirs, sent)
    await turns(5)
    if hasattr(loop, "_proactor"):
        # The selector loop of some Pythons counts a header that it does not take off.
        assert a[1].calls == ["pause_writing", "resume_writing"]
    await closed(a)


async def test_flow_control_after_a_failed_send(loop, endpoint, narrow):
    """The last of the queue can't be sent: writing is resumed all the same."""
    ours, theirs = narrow
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    a = await endpoint(sock=ours)
    a[0].set_write_buffer_limits(high=20_000)
    for _ in range(50):
        a[0].sendto(bytes(1000))
    a[0].sendto(bytes(500_000))
    assert a[1].calls == ["pause_writing"]
    await receive(loop, theirs, 50)
    await until(lambda: a[1].errors and a[1].calls == ["pause_writing", "resume_writing"])
    assert [exc.errno for exc in a[1].errors] == [errno.EMSGSIZE]
    await closed(a)


@pytest.mark.uringloop_only  # 3.13's selector loop forgets to take the headers off
async def test_write_buffer_size_returns_to_zero(loop, endpoint, narrow):
    ours, theirs = narrow
    a = await endpoint(sock=ours)
    for number in range(100):
        a[0].sendto(bytes(1 + number))
    await turns(3)
    assert a[0].get_write_buffer_size() > 0
    await receive(loop, theirs, 100)
    await turns(3)
    assert a[0].get_write_buffer_size() == 0
    await closed(a)


async def test_queue_to_a_full_receiver_that_is_addressed(loop, endpoint, narrow, stack, tmp_path):
    """Unconnected, the socket polls as writable all the time."""
    _, theirs = narrow
    ours = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    ours.bind(str(tmp_path / "third"))
    ours.setblocking(False)
    a = await endpoint(sock=ours)
    sent = [b"%d" % number for number in range(100)]
    for data in sent:
        a[0].sendto(data, theirs.getsockname())
    await turns(500)
    assert await receive(loop, theirs, 100) == sent
    assert a[1].errors == []
    await closed(a)


# -- the end --


async def test_close_frees_the_port_at_once(endpoint, stack):
    a = await endpoint()
    address = address_of(a[0])
    await turns(3)
    await closed(a)
    stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).bind(address)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_connection_lost_comes_once(endpoint, peer, how):
    a = await endpoint()
    a[0].sendto(b"x", peer.getsockname())
    for _ in range(3):
        getattr(a[0], how)()
        a[0].abort()
    assert await a[1].lost is None
    await turns(5)
    a[0].close()
    a[0].abort()
    await turns(5)


async def test_nothing_is_received_after_close(endpoint, peer):
    a = await endpoint()
    peer.sendto(b"too late", address_of(a[0]))
    await closed(a)
    assert a[1].received == []


async def test_pause_and_resume_reading(endpoint, peer):
    """What comes during a pause waits in the socket, and comes in order behind it."""

    class Pausing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"pause":
                self.transport.pause_reading()

    a = transport, protocol = await endpoint(Pausing)
    expected = []
    assert transport.is_reading()
    for _ in range(2):
        transport.pause_reading()
        assert not transport.is_reading()
    peer.sendto(b"0", address_of(transport))
    await turns(5)
    assert protocol.received == []
    for _ in range(2):
        transport.resume_reading()
        assert transport.is_reading()
    for data in (b"1", b"pause", b"2", b"3"):
        peer.sendto(data, address_of(transport))
    await until(lambda: not transport.is_reading())
    await turns(5)
    expected = [(data, peer.getsockname()) for data in (b"0", b"1", b"pause")]
    assert protocol.received == expected
    transport.resume_reading()
    expected += [(data, peer.getsockname()) for data in (b"2", b"3")]
    await until(lambda: len(protocol.received) == len(expected))
    assert protocol.received == expected
    await closed(a)


async def test_pause_by_another_endpoint_in_the_same_tick(endpoint, peer):
    """Who is paused is told nothing, and another owner of the socket may take what has come."""
    endpoints = []

    class Pausing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            for transport, protocol in endpoints:
                if protocol is not self:
                    transport.pause_reading()

    endpoints += [await endpoint(Pausing), await endpoint(Pausing)]
    await turns(3)
    for transport, _ in endpoints:
        peer.sendto(b"data", address_of(transport))
    await until(lambda: any(protocol.received for _, protocol in endpoints))
    await turns(5)
    assert sorted(len(protocol.received) for _, protocol in endpoints) == [0, 1]
    for transport, protocol in endpoints:
        transport.resume_reading()
        await until(lambda: protocol.received)
    await closed(*endpoints)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_pause_and_resume_behind_the_end(endpoint, peer, end):
    a = transport, protocol = await endpoint()
    transport.pause_reading()
    peer.sendto(b"too late", address_of(transport))
    getattr(transport, end)()
    for _ in range(2):
        transport.resume_reading()
        assert not transport.is_reading()
        transport.pause_reading()
        await turns(5)
    assert await protocol.lost is None and protocol.received == []
    assert transport.get_protocol() is None
    await closed(a)


@pytest.mark.parametrize("calls", [["pause"], ["pause", "resume"], ["pause", "resume"] * 3 + ["pause"]])
async def test_pause_and_resume_in_connection_made(endpoint, peer, calls):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            peer.sendto(b"data", address_of(transport))
            for call in calls:
                getattr(transport, f"{call}_reading")()

    a = transport, protocol = await endpoint(Protocol)
    await turns(10)
    if calls[-1] == "pause":
        assert protocol.received == []
        transport.resume_reading()
    await until(lambda: protocol.received)
    await turns(3)
    assert protocol.received == [(b"data", peer.getsockname())]
    await closed(a)


async def test_handle_of_a_callback_that_failed(endpoint, peer, errors):
    class Failing(Recorder):
        def datagram_received(self, data, addr):
            raise ZeroDivisionError

    a = await endpoint(Failing)
    peer.sendto(b"data", address_of(a[0]))
    await until(lambda: errors)
    assert isinstance(errors.pop()["handle"], asyncio.Handle)
    await closed(a)


async def test_closed_from_datagram_received(endpoint, peer):
    class Protocol(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.close()

    a = await endpoint(Protocol)
    peer.sendto(b"one", address_of(a[0]))
    peer.sendto(b"two", address_of(a[0]))
    assert await a[1].lost is None
    assert a[1].received == [(b"one", peer.getsockname())]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_blocked_message_arrives_once(loop, stack, kind):
    """Linux's unix sockets take the bytes of a message before they find that there is no room."""
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    for sock in (a, b):
        stack.enter_context(sock).setblocking(False)
    filled = 0
    with pytest.raises(BlockingIOError):
        while True:
            a.send(b"filling")
            filled += 1
    sending = asyncio.create_task(loop.sock_sendall(a, b"the message"))
    await turns(5)
    assert not sending.done()
    assert await receive(loop, b, filled) == [b"filling"] * filled
    await sending
    await loop.sock_sendall(a, b"the next")
    assert await receive(loop, b, 2) == [b"the message", b"the next"]


# -- sockets of other families --

# To rtnetlink(7): a message of 20 bytes, RTM_GETLINK, NLM_F_REQUEST and NLM_F_DUMP, for any family.
GET_LINKS = struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, socket.AF_UNSPEC)


@pytest.fixture
def netlink(stack):
    sock = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0))
    sock.bind((0, 0))
    return sock


async def test_netlink(endpoint, netlink):
    """The sender of a netlink message is told, as the socket's own recvfrom() tells it: 0 is the kernel."""
    transport, protocol = await endpoint(sock=netlink)
    transport.sendto(GET_LINKS, (0, 0))
    await until(lambda: protocol.received)
    data, addr = protocol.received[0]
    assert addr == (0, 0)
    assert struct.unpack_from("=I", data)[0] >= 16
    await closed((transport, protocol))


@pytest.mark.uringloop_only
async def test_netlink_into_a_buffer(loop, netlink):
    buffer = bytearray(65536)
    receiving = loop._proactor.recvfrom_into(netlink, buffer)
    await turns(2)
    assert not receiving.done()
    netlink.sendto(GET_LINKS, (0, 0))
    count, addr = await receiving
    assert count >= 16 and addr == (0, 0)


async def test_packet(endpoint, stack):
    # For local experiments (IEEE 802): nobody else's packets come in between, however many the tests beside this one send.
    kind = 0x88B5
    try:
        sock, sender = (stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind)))
                        for _ in range(2))
    except PermissionError:
        pytest.skip("packet sockets are root's")
    sock.bind(("lo", 0))
    transport, protocol = await endpoint(sock=sock)
    sender.sendto(b"datagram", ("lo", kind, 0, 0, bytes(6)))
    await until(lambda: protocol.received)
    [(data, addr)] = protocol.received
    assert data.startswith(b"datagram")
    assert addr[:2] == ("lo", kind)
    transport.abort()
    await protocol.lost
