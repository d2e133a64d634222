"""What is left of a closed connection: nothing that waits for the garbage collector, and little of what is kept."""

import asyncio
import gc
import socket
import weakref

import pytest

from support import Recorder, close, closed, tcp_pair, turns, until


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Kept(Recorder):
    """Knows its transport, as protocols do, and is known to `alive`."""

    def __init__(self, alive):
        super().__init__()
        alive.add(self)

    def connection_made(self, transport):
        super().connection_made(transport)

    def data_received(self, data):
        self.transport.write(data)


class KeptBuffered(asyncio.BufferedProtocol):
    def __init__(self, alive):
        self.lost = asyncio.get_running_loop().create_future()
        self.buffer = bytearray(100)
        alive.add(self)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(self.buffer[:count])

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def by_close(transport, peer):
    transport.close()


def by_abort(transport, peer):
    transport.abort()


def by_end(transport, peer):
    peer.shutdown(socket.SHUT_WR)


def by_pause(transport, peer):
    transport.pause_reading()
    transport.close()


def by_error(transport, peer):
    def fail(data):
        raise ZeroDivisionError

    transport.get_protocol().data_received = transport.get_protocol().buffer_updated = fail
    peer.send(b"data")


def with_data_left(transport, peer):
    transport.write(bytes(4_000_000))
    transport.abort()


@pytest.mark.parametrize("how", [by_close, by_abort, by_end, by_pause, by_error, with_data_left])
@pytest.mark.parametrize("kind", [Kept, KeptBuffered])
async def test_protocol_is_freed_at_once(loop, connect, pair, stack, no_collector, errors, kind, how):
    """The program has let go of both: reference counts free them."""
    alive = weakref.WeakSet()
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: kind(alive))
    theirs.send(b"data")
    await turns(5)
    assert theirs.recv(10) == b"data"
    how(transport, theirs)
    lost = protocol.lost
    del transport, protocol
    await asyncio.wait([lost])
    del lost
    await turns(3)
    errors.clear()
    assert not alive


async def test_transport_is_freed_at_once(loop, connect, no_collector):
    """On ours that, too, after abort(); with it goes its socket object."""
    left = []
    for how in (by_close, by_end, by_pause):
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        transport, protocol = await connect(ours)
        left += [weakref.ref(transport), weakref.ref(ours)]
        how(transport, theirs)
        await protocol.lost
        theirs.close()
        del transport, protocol, ours, theirs
        await turns(3)
    assert [ref() for ref in left] == [None] * len(left)


async def test_server_and_its_connections_are_freed_at_once(loop, no_collector):
    alive = weakref.WeakSet()
    server = await loop.create_server(lambda: Kept(alive), "127.0.0.1", 0)
    for _ in range(5):
        client, protocol = await loop.create_connection(
            lambda: Kept(alive), *server.sockets[0].getsockname())
        await until(lambda: len(alive) == 2)
        await closed((client, protocol))
        del client, protocol
        await until(lambda: not alive)
    left = weakref.ref(server)
    await close(server)
    del server
    await turns(3)
    assert left() is None


async def test_datagram_endpoint_is_freed_at_once(loop, no_collector):
    alive = weakref.WeakSet()

    class Protocol(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = []
            alive.add(self)

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.received.append(data)

    for how in ("close", "abort"):
        transport, protocol = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
        transport.sendto(b"data", transport.get_extra_info("sockname"))
        await until(lambda: protocol.received)
        getattr(transport, how)()
        await turns(3)
        assert transport.get_protocol() is None
        del transport, protocol
        assert not alive


async def test_connections_hold_no_buffer(loop, connect, stack):
    """Idle or closed, none has room of its own for what it receives."""
    transports = []
    for _ in range(20):
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        ours.setblocking(False)
        transport, protocol = await connect(ours)
        theirs.send(b"data")
        await protocol.received(4)
        transports.append((transport, protocol))
    for transport, _ in transports:
        # What a transport of C refers to, only the collector knows.
        values = vars(transport).values() if hasattr(transport, "__dict__") else gc.get_referents(transport)
        assert not any(isinstance(value, (bytes, bytearray)) and len(value) > 100 for value in values)
    await closed(*transports)


@pytest.mark.parametrize("holder", ["variable", "weak reference", "protocol"])
async def test_names_of_a_closed_connection(loop, stack, holder):
    accepted = []
    server = await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    sock = stack.enter_context(socket.create_connection(address))
    await until(lambda: accepted and accepted[0].transport is not None)
    protocol = accepted[0] if holder == "protocol" else accepted.pop()
    transport = protocol.transport
    protocol.transport.close()
    if holder == "protocol":
        del transport
    elif holder == "weak reference":
        transport = weakref.ref(transport)
        lost = protocol.lost
        del protocol
        await lost
        await turns(3)
        # The program may have no reference at all: then nothing is kept for it.
        assert transport() is None or transport().get_extra_info("sockname") == address
        await close(server)
        return
    await protocol.lost
    await turns(3)
    kept = protocol.transport if holder == "protocol" else transport
    assert kept.get_extra_info("sockname") == address
    assert kept.get_extra_info("peername") == sock.getsockname()
    assert kept.get_extra_info("socket").fileno() == -1
    await close(server)


async def test_patched_close_of_a_socket_is_called(loop, stack, monkeypatch):
    calls = []
    real_close = socket.socket._real_close

    def close_it(sock, *args):
        calls.append(sock)
        real_close(sock, *args)

    accepted = []
    server = await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "127.0.0.1", 0)
    for count in range(2):
        stack.enter_context(socket.create_connection(server.sockets[0].getsockname()))
        await until(lambda: len(accepted) > count and accepted[count].transport is not None)
        if count:
            monkeypatch.setattr(socket.socket, "_real_close", close_it)
        accepted[count].transport.close()
        await accepted[count].lost
        await turns(3)
        assert len(calls) == count
    monkeypatch.undo()
    await close(server)
