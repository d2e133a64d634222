"""Sockets of the program's own classes: what their methods do to the bytes is done, as on the selector loop."""

import asyncio
import os
import socket

import pytest

from support import Buffered, Recorder, closed, some_bytes, turns, until


def flip(data):
    return bytes(data).translate(bytes(255 - byte for byte in range(256)))


class Flipping(socket.socket):
    """Whose peer sees each byte turned round, and which sees the peer's so."""

    def recv(self, size, flags=0):
        return flip(super().recv(size, flags))

    def recv_into(self, buffer, nbytes=0, flags=0):
        data = self.recv(nbytes or len(buffer), flags)
        buffer[:len(data)] = data
        return len(data)

    # (As those who write a socket's methods anew: no flags.)
    def recvfrom(self, size):
        data, address = super().recvfrom(size)
        return flip(data), address

    def send(self, data, flags=0):
        return super().send(flip(data), flags)

    def sendmsg(self, pieces, *rest):
        return super().sendmsg([flip(piece) for piece in pieces], *rest)

    def sendto(self, data, address):
        return super().sendto(flip(data), address)

    def accept(self):
        sock, address = super().accept()
        return Flipping(fileno=sock.detach()), address


@pytest.fixture
def flipping(stack):
    """(our end, the peer's, which does not block)"""
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    theirs.setblocking(False)
    return stack.enter_context(Flipping(fileno=ours.detach())), theirs


async def receive(loop, sock, size):
    data = bytearray()
    while len(data) < size:
        data += await loop.sock_recv(sock, 65536)
    return bytes(data)


@pytest.mark.parametrize("size", [5, 70_000, 1_500_000])
@pytest.mark.parametrize("factory", [Recorder, lambda: Buffered(50_000)], ids=["protocol", "buffered"])
async def test_bytes_go_through_its_methods(loop, connect, flipping, factory, size):
    ours, theirs = flipping
    transport, protocol = await connect(ours, factory)
    data = some_bytes(size)
    # Small ones and large ones, gathered and not, and what finds no room.
    transport.write(data[:3])
    transport.writelines([data[3:4], bytearray(data[4:])])
    assert await receive(loop, theirs, size) == flip(data)
    sending = loop.create_task(loop.sock_sendall(theirs, data))
    await until(lambda: protocol.data == flip(data))
    await sending
    transport.write(b"last")
    transport.close()
    assert await receive(loop, theirs, 4) == flip(b"last")
    await protocol.lost


async def test_streams(loop, flipping):
    ours, theirs = flipping
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(b"line\n")
    await writer.drain()
    assert await receive(loop, theirs, 5) == flip(b"line\n")
    theirs.send(flip(b"answer\n"))
    assert await reader.readline() == b"answer\n"
    writer.close()
    await writer.wait_closed()


async def test_methods_of_the_object(connect, stack):
    """Which a socket.socket itself can't have, and one of a subclass can."""
    class Subclass(socket.socket):
        pass

    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    sock = stack.enter_context(Subclass(fileno=ours.detach()))
    sock.recv = lambda size: flip(socket.socket.recv(sock, size))
    transport, protocol = await connect(sock)
    theirs.send(flip(b"data"))
    await until(lambda: protocol.data == b"data")
    transport.close()
    await protocol.lost
    sock.recv = None


@pytest.mark.parametrize("name", ["recv", "send"])
async def test_method_of_the_class_replaced(connect, pair, monkeypatch, name):
    """socket.socket's own, by a test or a tracer, before the connection is made."""
    calls = []
    method = getattr(socket.SocketType, name)
    monkeypatch.setattr(socket.socket, name, lambda self, *args: calls.append(args) or method(self, *args), raising=False)
    transport, protocol = await connect(pair[0])
    transport.write(b"data")
    pair[1].send(b"data")
    await until(lambda: protocol.data == b"data")
    assert calls
    transport.close()
    await protocol.lost


async def test_names_that_it_tells(connect, stack):
    class Behind(socket.socket):
        def getpeername(self):
            return "somewhere", 80

    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    transport, protocol = await connect(stack.enter_context(Behind(fileno=ours.detach())))
    assert transport.get_extra_info("peername") == ("somewhere", 80)
    transport.close()
    await protocol.lost


async def test_accepted_ones(loop, stack):
    sock = stack.enter_context(Flipping(socket.AF_INET, socket.SOCK_STREAM))
    sock.bind(("127.0.0.1", 0))
    protocols = []
    server = await loop.create_server(lambda: protocols.append(Recorder()) or protocols[-1], sock=sock)
    client = stack.enter_context(socket.create_connection(sock.getsockname()))
    client.send(flip(b"data"))
    await until(lambda: protocols and protocols[0].data == b"data")
    server.close()
    await closed((protocols[0].transport, protocols[0]))


async def test_over_tls(loop, pair, stack, tls):
    calls = set()

    class Counting(socket.socket):
        def recv(self, *args):
            calls.add("recv")
            return super().recv(*args)

        def recv_into(self, *args):
            calls.add("recv_into")
            return super().recv_into(*args)

        def send(self, *args):
            calls.add("send")
            return super().send(*args)

    accepting = loop.create_task(loop.connect_accepted_socket(Recorder, pair[1], ssl=tls[0]))
    sock = stack.enter_context(Counting(fileno=pair[0].detach()))
    ours = await loop.create_connection(Recorder, sock=sock, ssl=tls[1], server_hostname="localhost")
    theirs = await accepting
    theirs[0].write(b"data")
    ours[0].write(b"data")
    await until(lambda: ours[1].data == theirs[1].data == b"data")
    # asyncio's SSLProtocol is a BufferedProtocol.
    assert calls == {"recv_into", "send"}
    await closed(ours, theirs)


@pytest.mark.parametrize("connected", [False, True])
async def test_datagrams(loop, stack, connected):
    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.append(data)

        def connection_lost(self, exc):
            lost.set_result(exc)

    received, lost = [], loop.create_future()
    peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind(("127.0.0.1", 0))
    peer.setblocking(False)
    sock = stack.enter_context(Flipping(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    if connected:
        sock.connect(peer.getsockname())
    transport, _ = await loop.create_datagram_endpoint(Protocol, sock=sock)
    transport.sendto(b"data", None if connected else peer.getsockname())
    assert await loop.sock_recv(peer, 100) == flip(b"data")
    peer.sendto(flip(b"answer"), sock.getsockname())
    await until(lambda: received == [b"answer"])
    transport.close()
    await lost


async def test_blocking_datagrams(loop, stack):
    """Whose method would wait: it is called where something is there, and no further."""
    class Subclass(socket.socket):
        def recvfrom(self, size):
            return super().recvfrom(size)

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.append(data)

    received = []
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    sock = stack.enter_context(Subclass(fileno=ours.detach()))
    transport, _ = await loop.create_datagram_endpoint(Protocol, sock=sock)
    sock.setblocking(True)
    theirs.send(b"data")
    await until(lambda: received == [b"data"])
    transport.abort()
    await turns(2)


async def test_nothing_received_is_an_end(connect, stack):
    class Ending(socket.socket):
        def recv(self, size):
            super().recv(size)
            return None

    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    transport, protocol = await connect(stack.enter_context(Ending(fileno=ours.detach())))
    theirs.send(b"data")
    assert await protocol.lost is None
    assert protocol.data == b""


@pytest.mark.parametrize("sent", [b"x", 1000, None], ids=repr)
async def test_number_of_bytes_sent_that_is_none(connect, stack, errors, sent):
    """It ends the connection, and is not asked for again and again."""
    class Wrong(socket.socket):
        def send(self, data, flags=0):
            raise BlockingIOError

        def sendmsg(self, *args):
            return sent

    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    transport, protocol = await connect(stack.enter_context(Wrong(fileno=ours.detach())))
    transport.write(b"abc")
    if sent is None:
        # (Nothing sent: it waits for room.)
        await turns(5)
        transport.abort()
    assert isinstance(await protocol.lost, (TypeError, IndexError, type(None)))
    errors.clear()


async def test_what_is_no_socket_at_all(connect, stack):
    """A test's own object, whose descriptor is only there to be waited for."""
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    os.set_blocking(reading, False)
    sent = []

    class Answering:
        family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

        def fileno(self):
            return reading

        def send(self, data):
            sent.append(bytes(data))
            return os.write(writing, b"answer") and len(data)

        def recv(self, size):
            return os.read(reading, size)

        def getpeername(self):
            return "nowhere", 80

        getsockname = getpeername

        def setblocking(self, blocking):
            pass

        setsockopt = shutdown = close = gettimeout = lambda self, *args: 0

    transport, protocol = await connect(Answering())
    transport.write(b"question")
    await until(lambda: protocol.data == b"answer")
    assert sent == [b"question"]
    transport.close()
    await protocol.lost


# -- max_size --


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_max_size(loop, stack, kind):
    class Protocol(Recorder):
        def data_received(self, data):
            pieces.append(data)

        def datagram_received(self, data, address):
            pieces.append(data)

    pieces = []
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, kind))
    make = loop.create_connection if kind == socket.SOCK_STREAM else loop.create_datagram_endpoint
    transport, protocol = await make(Protocol, sock=ours)
    assert transport.max_size == 256 * 1024
    transport.max_size = 10
    assert transport.max_size == 10
    theirs.send(b"x" * 35)
    expected = [b"x" * 10] * 3 + [b"x" * 5] if kind == socket.SOCK_STREAM else [b"x" * 10]
    await until(lambda: pieces == expected)
    transport.close()
    await protocol.lost


@pytest.mark.native_only("the stdlib's transports say it when they read")
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), ("10", TypeError), (None, TypeError),
                                              (1.5, TypeError)])
async def test_max_size_that_is_none(connect, pair, value, error):
    transport, protocol = await connect(pair[0])
    with pytest.raises(error):
        transport.max_size = value
    assert transport.max_size == 256 * 1024
    transport.max_size = 1 << 40
    assert transport.max_size >= 256 * 1024
    transport.close()
    await protocol.lost


# -- the number --


async def test_number_stays(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    number = pair[0].fileno()
    assert transport._sock_fd == number
    transport.close()
    await protocol.lost
    assert transport._sock_fd == number
    assert repr(transport).endswith(f"closed fd={number}>")


async def test_datagram_transport_refuses_a_streams_methods(loop, stack):
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    for call in (lambda: transport.write(b""), lambda: transport.writelines([b""]), transport.write_eof,
                 transport.can_write_eof):
        with pytest.raises(NotImplementedError):
            call()
    transport.close()
    await asyncio.sleep(0)
