"""Sockets that their user closes under a transport: the peer learns of it, and the protocol of nothing."""

import asyncio
import contextlib
import errno
import socket

import pytest

from support import Buffered, Recorder, closed, tcp_pair, turns

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
