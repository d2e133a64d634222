"""Sockets that their user closes under a transport: the peer learns of it, and the protocol of nothing."""

import asyncio
import contextlib
import errno
import os
import socket

import pytest

from support import Buffered, Recorder, closed, tcp_pair, turns, until

PAIRS = {"tcp": tcp_pair, "unix": socket.socketpair}


@contextlib.asynccontextmanager
async def crowd(loop, stack):
    """Other transports, so that a turn does not come to look at each."""
    endpoints = []
    for _ in range(20):
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        protocol = Recorder()
        endpoints.append((loop._make_socket_transport(ours, protocol), protocol))
    await turns(5)
    yield
    await closed(*endpoints)


@pytest.mark.parametrize("protocol_type", [Recorder, Buffered], ids=["protocol", "buffered"])
@pytest.mark.parametrize("family", PAIRS)
async def test_what_comes_to_a_stream_socket_that_is_closed(loop, stack, family, protocol_type):
    ours, theirs = PAIRS[family]()
    stack.enter_context(theirs)
    protocol = protocol_type()
    transport = loop._make_socket_transport(ours, protocol)
    async with crowd(loop, stack):
        ours.close()
        with contextlib.suppress(BrokenPipeError):
            theirs.send(b"to nobody")
        await turns(50)
    assert not protocol.lost.done() and not protocol.data
    transport.close()
    assert await protocol.lost is None


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("family", PAIRS)
async def test_writing_to_a_stream_socket_that_is_closed(loop, stack, family, size):
    """It is the protocol that is told."""
    ours, theirs = PAIRS[family]()
    stack.enter_context(theirs)
    protocol = Recorder()
    transport = loop._make_socket_transport(ours, protocol)
    await turns(5)
    ours.close()
    transport.write(bytes(size))
    assert transport.is_closing() and not protocol.lost.done()
    transport.write(bytes(size))
    assert (await protocol.lost).errno == errno.EBADF


@pytest.mark.parametrize("family", ["udp", "unix"])
async def test_what_comes_to_a_datagram_socket_that_is_closed(loop, stack, family):
    ours, theirs = (stack.enter_context(socket.socket(socket.AF_INET if family == "udp" else socket.AF_UNIX,
                                                      socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0) if family == "udp" else "")
    address = ours.getsockname()
    told = []

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            told.append(data)

        def error_received(self, exc):
            told.append(exc)

        def connection_lost(self, exc):
            lost.set_result(exc)

    lost = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(Protocol, sock=ours)
    async with crowd(loop, stack):
        ours.close()
        with contextlib.suppress(ConnectionRefusedError):
            theirs.sendto(b"to nobody", address)
        await turns(50)
    assert told == []
    transport.close()
    assert await lost is None


@pytest.mark.uringloop_only
@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("debug", [False, True])
async def test_client_that_is_accepted_on_the_number_of_a_closed_socket(loop, stack, debug, end):
    """docs/differences.md, B8: it is served, beside the end of the transport that had the number."""
    loop.set_debug(debug)
    ours, theirs = socket.socketpair()
    stack.enter_context(theirs)
    old = Recorder()
    transport = loop._make_socket_transport(ours, old)
    accepted = []
    async with await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "127.0.0.1", 0) as server:
        client = stack.enter_context(socket.create_connection(server.sockets[0].getsockname()))
        number = ours.fileno()
        occupy_below(number, stack)
        ours.close()
        await until(lambda: accepted and accepted[0].transport)
        new = accepted[0]
        assert new.transport.get_extra_info("socket").fileno() == number
        client.send(b"one")
        await until(lambda: new.data == b"one")
        getattr(transport, end)()
        assert await old.lost is None
        # It is refused to others as long as its second owner has it.
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(number, print)
        client.send(b"two")
        await until(lambda: new.data == b"onetwo")
        new.transport.write(b"answer")
        await turns(2)
        assert client.recv(10) == b"answer"
        await closed((new.transport, new))


@pytest.mark.uringloop_only
def test_interrupt_of_the_factory_for_a_client_on_such_a_number(loop, stack):
    """The client sees the end."""

    def factory():
        raise KeyboardInterrupt

    ours, theirs = socket.socketpair()
    stack.enter_context(theirs)

    async def begin():
        protocol = Recorder()
        return (loop._make_socket_transport(ours, protocol), protocol), await loop.create_server(factory, "127.0.0.1", 0)

    old, server = loop.run_until_complete(begin())
    client = stack.enter_context(socket.create_connection(server.sockets[0].getsockname()))
    occupy_below(ours.fileno(), stack)
    ours.close()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(10))
    client.settimeout(5)
    assert client.recv(1) == b""
    server.close()
    loop.run_until_complete(closed(old))


def occupy_below(number, stack):
    """See that no number below this one is free."""
    while (fd := os.open(os.devnull, os.O_RDONLY)) < number:
        stack.callback(os.close, fd)
    os.close(fd)
