"""Contexts of connections, from Python 3.15 on: all callbacks of one run in one, whoever acts on it.

Our loop takes `context=` on every Python; the selector loop is the oracle where it takes it, too.
"""

import asyncio
import contextvars
import inspect
import socket
from asyncio import selector_events

import pytest

from support import fill, read_exactly, until

STDLIB_HAS_THEM = "context" in inspect.signature(
    selector_events.BaseSelectorEventLoop._make_socket_transport).parameters

variable = contextvars.ContextVar("variable", default="nobody")


@pytest.fixture(autouse=True)
def takes_context(loop):
    if "context" not in inspect.signature(loop._make_socket_transport).parameters:
        pytest.skip("this Python's selector loop hands no context on")


class Chain(asyncio.Protocol):
    """Each callback notes who set the variable last, and sets it to its own name."""

    def __init__(self):
        self.seen = []
        self.lost = asyncio.get_running_loop().create_future()
        self.pass_on("factory")

    def pass_on(self, name):
        self.seen.append((name, variable.get()))
        variable.set(name)

    def connection_made(self, transport):
        self.transport = transport
        self.pass_on("connection_made")

    def data_received(self, data):
        self.pass_on(data.decode())

    def eof_received(self):
        self.pass_on("eof_received")

    def resume_writing(self):
        self.pass_on("resume_writing")

    def connection_lost(self, exc):
        self.pass_on("connection_lost")
        self.lost.set_result(exc)

    async def saw(self, name):
        await until(lambda: name in dict(self.seen))


class BufferedChain(Chain, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(self.buffer[:nbytes])


def transport_on(loop, sock, factory=Chain):
    context = contextvars.copy_context()
    protocol = context.run(factory)
    return loop._make_socket_transport(sock, protocol, context=context), protocol


@pytest.mark.parametrize("factory", [Chain, BufferedChain])
async def test_callbacks_of_a_connection_share_a_context(loop, pair, factory):
    ours, peer = pair
    transport, protocol = transport_on(loop, ours, factory)
    variable.set("somebody else")
    await protocol.saw("connection_made")

    peer.send(b"first")
    await protocol.saw("first")
    # Reading goes on from here, and this context must not show.
    transport.pause_reading()
    peer.send(b"second")
    await asyncio.sleep(0)
    transport.resume_reading()
    await protocol.saw("second")

    size = fill(ours)
    transport.set_write_buffer_limits(high=10)
    transport.write(bytes(100))
    await read_exactly(loop, peer, size + 100)
    await protocol.saw("resume_writing")

    peer.close()
    await protocol.lost
    assert protocol.seen == [
        ("factory", "nobody"), ("connection_made", "factory"), ("first", "connection_made"),
        ("second", "first"), ("resume_writing", "second"), ("eof_received", "resume_writing"),
        ("connection_lost", "eof_received")]
    assert variable.get() == "somebody else"


async def test_failed_connection_made_is_told_in_the_context_and_by_its_name(loop, pair):
    class Failing(Chain):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    told = []
    loop.set_exception_handler(lambda _, context: told.append((context["message"], repr(context["handle"]), variable.get())))
    transport, protocol = transport_on(loop, pair[0], Failing)
    await protocol.saw("connection_made")
    await until(lambda: told)
    [(message, handle, value)] = told
    assert message.startswith("Exception in callback test_failed_") and "Failing.connection_made(" in message
    assert handle.startswith("<Handle test_failed_") and "Failing.connection_made(" in handle
    assert value == "connection_made"
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_connection_lost_has_the_context_not_that_of_who_ends_it(loop, pair, end):
    transport, protocol = transport_on(loop, pair[0])
    variable.set("somebody else")
    await protocol.saw("connection_made")
    getattr(transport, end)()
    await protocol.lost
    assert protocol.seen[-1] == ("connection_lost", "connection_made")


async def test_what_arrived_before_a_pause_is_handed_on_in_the_context(loop, pair):
    # Arrived in the very tick of the pause; on the proactor it is kept, and handed on by the resume.
    ours, peer = pair
    transport, protocol = transport_on(loop, ours)
    variable.set("somebody else")
    await protocol.saw("connection_made")
    await asyncio.sleep(0)
    peer.send(b"kept")
    transport.pause_reading()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(protocol.seen) == 2
    transport.resume_reading()
    await protocol.saw("kept")
    assert protocol.seen[-1] == ("kept", "connection_made")
    transport.close()
    await protocol.lost


async def test_a_task_of_the_connections_context_may_write_and_close(loop, pair):
    # The context is entered then, and cannot be a second time.
    ours, peer = pair
    context = contextvars.copy_context()
    protocol = context.run(Chain)
    transport = loop._make_socket_transport(ours, protocol, context=context)

    async def acts():
        await protocol.saw("connection_made")
        transport.write(b"hello")
        transport.pause_reading()
        transport.resume_reading()
        transport.close()

    await loop.create_task(acts(), context=context)
    assert await read_exactly(loop, peer, 5) == b"hello"
    assert await protocol.lost is None


# -- servers --


@pytest.mark.skipif(not STDLIB_HAS_THEM, reason="this Python's servers hand no context on")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_connections_start_from_their_servers_context(loop, tls, secure):
    protocols = []

    def factory():
        protocols.append(Chain())
        return protocols[-1]

    variable.set("server")
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls[0] if secure else None)
    variable.set("client")
    for _ in range(2):
        _, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=tls[1] if secure else None,
            server_hostname="localhost" if secure else None)
        writer.write(b"data")
        await until(lambda: protocols)
        await protocols[-1].saw("data")
        writer.close()
        await writer.wait_closed()
        await protocols[-1].lost
    server.close()
    await server.wait_closed()
    for protocol in protocols:
        assert protocol.seen[:3] == [
            ("factory", "server"), ("connection_made", "factory"), ("data", "connection_made")]
        assert protocol.seen[-1][0] == "connection_lost"
    assert len(protocols) == 2


@pytest.mark.uringloop_only  # the selector loop's _start_serving takes the context of a later Python only
async def test_start_serving_copies_the_context_for_each_connection(loop, stack):
    protocols = []

    def factory():
        protocols.append(Chain())
        return protocols[-1]

    context = contextvars.copy_context()
    context.run(variable.set, "server")
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setblocking(False)
    loop._start_serving(factory, listener, context=context)
    for count in (1, 2):
        peer = stack.enter_context(socket.create_connection(listener.getsockname()))
        await until(lambda: len(protocols) == count)
        peer.close()
        await protocols[-1].lost
        assert protocols[-1].seen[:2] == [("factory", "server"), ("connection_made", "factory")]
    assert context.run(variable.get) == "server"
    loop._stop_serving(listener)
