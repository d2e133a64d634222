"""TLS record by record: however the stream is cut, whatever is wrong with it, and what is called when.

The other end is a Peer: an ssl.SSLObject of the test's own, whose bytes go into a socket when the test says so.
What is here runs on asyncio's sslproto as well, which stands behind two of the loops; tests/test_tls.py has the rest.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import random
import shutil
import socket
import ssl
import subprocess
import sys
import weakref
from asyncio import sslproto as stdlib_sslproto

import pytest

from support import CERTIFICATE, Buffered, Recorder, certificate_contexts, closed, read_all, reset, some_bytes, turns, until

RECORD = 16384
HEADER = 5


class Peer:
    """The other end: `await Peer.connect(...)`, with the loop's transport and protocol as attributes."""

    def __init__(self, loop, sock, context, server_side):
        self.loop, self.sock = loop, sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side,
                                    server_hostname=None if server_side else "localhost")
        # What has been received, and not decrypted.
        self.raw = bytearray()

    @classmethod
    async def connect(cls, loop, pair, contexts, factory=Recorder, *, client=False, handshake=True, **options):
        """client: the loop's end is the client."""
        ours, theirs = pair
        self = cls(loop, theirs, contexts[0 if client else 1], client)
        if client:
            connecting = asyncio.create_task(loop.create_connection(
                factory, sock=ours, ssl=contexts[1], server_hostname="localhost", **options))
        else:
            connecting = asyncio.create_task(loop.connect_accepted_socket(factory, ours, ssl=contexts[0], **options))
        self.connecting = connecting
        if handshake:
            await self.handshake()
            self.transport, self.protocol = await connecting
        return self

    async def handshake(self, behind=b""):
        """behind: is sent together with the last message."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self.receive()
            else:
                self.outgoing.write(behind)
                await self.flush()
                return

    async def flush(self):
        await self.loop.sock_sendall(self.sock, self.outgoing.read())

    async def receive(self):
        block = await self.loop.sock_recv(self.sock, 65536)
        self.raw += block
        self.incoming.write(block)
        if not block:
            self.incoming.write_eof()
        return block

    def encrypted(self, *pieces):
        """Each piece as a record of its own, or as many as it needs."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[self.tls.write(view):]
        return self.outgoing.read()

    async def send(self, data):
        """Bytes as they are."""
        await self.loop.sock_sendall(self.sock, data)

    async def write(self, *pieces):
        await self.send(self.encrypted(*pieces))

    async def read(self, size):
        data = bytearray()
        while len(data) < size:
            try:
                data += self.tls.read(size - len(data))
            except ssl.SSLWantReadError:
                assert await self.receive(), "the stream has ended"
        return bytes(data)

    async def end(self):
        """Answer the other end's close_notify, and read to the end."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            await self.flush()
            self.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            return await read_all(self.loop, self.sock)


async def over(peer):
    """Close the loop's end, and see it end well."""
    peer.transport.close()
    await peer.end()
    assert await peer.protocol.lost is None


def records(data):
    """The sizes of the records that the bytes are made of, without their headers."""
    sizes = []
    while data:
        size = int.from_bytes(data[3:5], "big")
        assert len(data) >= HEADER + size
        sizes.append(size)
        data = data[HEADER + size:]
    return sizes


def in_pieces(data, rng, largest):
    pieces = []
    while data:
        size = rng.randint(1, largest)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


class Unsliced(Buffered):
    """Gives its bytearray itself: whoever takes a slice of it has a copy.  Changes its size when it may."""

    def __init__(self, size=1000):
        super().__init__(size)
        self.buffer = bytearray(size)

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.buffer.append(0)
        self.buffer.pop()


KINDS = {
    "data_received": Recorder,
    "buffer of 1": lambda: Buffered(1),
    "buffer of 1000": lambda: Buffered(1000),
    "buffer of a record": lambda: Buffered(RECORD),
    "buffer of 200000": lambda: Buffered(200_000),
}


@pytest.fixture
def is_native(loop):
    return getattr(getattr(loop, "_tier", None), "__name__", "") == "uringloop.proactor_events"


# -- however it is cut --


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
async def test_stream_cut_anywhere(loop, pair, tls, kind, client):
    rng = random.Random(kind)
    peer = await Peer.connect(loop, pair, tls, KINDS[kind], client=client)
    total = 3000 if kind == "buffer of 1" else 400_000
    data = some_bytes(total)
    for largest in (100, 1500, 40_000):
        del peer.protocol.data[:]
        stream = peer.encrypted(*in_pieces(data, rng, largest))
        for piece in in_pieces(stream, rng, rng.choice([1000, 70_000])):
            await peer.send(piece)
            await turns(rng.randint(0, 2))
        await until(lambda: len(peer.protocol.data) >= total)
        assert peer.protocol.data == data
    await over(peer)


async def test_every_place_to_cut(loop, pair, tls):
    """Within headers, and between them, of small records."""
    peer = await Peer.connect(loop, pair, tls)
    for place in range(1, 3 * (HEADER + 30)):
        del peer.protocol.data[:]
        stream = peer.encrypted(b"one", b"two", b"three")
        await peer.send(stream[:place])
        await turns(3)
        await peer.send(stream[place:])
        assert await peer.protocol.received(11) == b"onetwothree"
    await over(peer)


async def test_one_record_then_many(loop, pair, tls):
    """Small and large by turns: what is known of the one does not hold for the other."""
    peer = await Peer.connect(loop, pair, tls)
    sent = bytearray()
    for number, size in enumerate([1, 100_000, 1, RECORD, RECORD + 1, 5, 5, 300_000, 2] * 3):
        data = some_bytes(size, number)
        sent += data
        await peer.write(data)
        assert await peer.protocol.received(len(sent)) == sent
        peer.transport.write(data)
        assert await peer.read(size) == data
    await over(peer)


async def test_records_that_arrive_together_are_told_together(loop, pair, tls, is_native):
    told = []

    class Counting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            told.append(len(data))

    peer = await Peer.connect(loop, pair, tls, Counting)
    await peer.write(*[bytes(100)] * 20)
    await peer.protocol.received(2000)
    assert told == [2000]
    await over(peer)


@pytest.mark.parametrize("together", [False, True])
async def test_tickets_in_front_of_data(loop, pair, tls, together):
    """Records without data: the client gets two of them behind the handshake, with or without data behind them."""
    peer = await Peer.connect(loop, pair, tls, client=True, handshake=False)
    while True:
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            await peer.flush()
            await peer.receive()
        else:
            break
    tickets = peer.outgoing.read()
    assert len(records(tickets)) >= 2
    peer.transport, peer.protocol = await peer.connecting
    stream = tickets + peer.encrypted(b"data")
    if together:
        await peer.send(stream)
    else:
        for place in range(0, len(stream), 7):
            await peer.send(stream[place:place + 7])
            await turns(1)
    assert await peer.protocol.received(4) == b"data"
    await peer.write(b"more")
    assert await peer.protocol.received(8) == b"datamore"
    await over(peer)


@pytest.mark.parametrize("place", [0, 3, 1000, RECORD + 100])
async def test_tickets_in_front_of_long_data(loop, pair, tls, place):
    """Records without data, and whole ones behind them, which come in one piece but for a beginning."""
    peer = await Peer.connect(loop, pair, tls, client=True, handshake=False)
    while True:
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            await peer.flush()
            await peer.receive()
        else:
            break
    tickets = peer.outgoing.read()
    peer.transport, peer.protocol = await peer.connecting
    data = some_bytes(70_000)
    stream = tickets + peer.encrypted(data)
    if place:
        await peer.send(stream[:place])
        await turns(3)
    await peer.send(stream[place:])
    assert await peer.protocol.received(len(data)) == data
    await over(peer)


@pytest.mark.parametrize("left", [1, 4, 5, 100])
async def test_long_records_and_a_beginning(loop, pair, tls, left):
    """What comes last is not whole; its rest comes with several others."""
    peer = await Peer.connect(loop, pair, tls)
    data = some_bytes(60_000)
    streams = [peer.encrypted(data[:30_000]), peer.encrypted(data[30_000:])]
    await peer.send(streams[0] + streams[1][:left])
    assert await peer.protocol.received(30_000) == data[:30_000]
    await peer.send(streams[1][left:])
    assert await peer.protocol.received(60_000) == data
    await over(peer)


async def test_wrong_record_among_long_ones(loop, pair, tls):
    """Nothing of it is told, nor of what comes behind it."""
    peer = await Peer.connect(loop, pair, tls)
    data = some_bytes(3 * RECORD)
    stream = bytearray(peer.encrypted(data))
    stream[len(stream) // 2] ^= 1
    await peer.send(stream)
    assert isinstance(await peer.protocol.lost, ssl.SSLError)
    assert data[:RECORD].startswith(peer.protocol.data)


async def test_close_notify_among_long_records(loop, pair, tls):
    """What comes behind it is nothing."""
    peer = await Peer.connect(loop, pair, tls)
    data = some_bytes(3 * RECORD)
    stream = peer.encrypted(data)
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.unwrap()
    await peer.send(stream + peer.outgoing.read() + stream)
    await peer.protocol.received(len(data))
    with contextlib.suppress(OSError):
        await read_all(loop, peer.sock)
    await peer.protocol.lost
    assert peer.protocol.data == data


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which can ask for new keys")
async def test_new_keys(loop, stack, contexts, tls):
    """openssl s_client asks for a KeyUpdate, in the middle, and gets one."""
    connected = loop.create_future()

    class Echo(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            connected.set_result(self)

        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data)

    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=contexts[0])
    port = server.sockets[0].getsockname()[1]
    client = stack.enter_context(subprocess.Popen(
        ["openssl", "s_client", "-tls1_3", "-connect", f"127.0.0.1:{port}"], bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    stack.callback(client.kill)
    protocol = await connected

    async def said(stream, word):
        text = b""
        while word not in text:
            text += await loop.run_in_executor(None, stream.read, 1000)

    for number in range(3):
        line = b"line %d\n" % number
        client.stdin.write(line)
        await until(lambda: line in protocol.data)
        await said(client.stdout, line)
        client.stdin.write(b"K\n")
        await said(client.stderr, b"KEYUPDATE")
    assert protocol.data == b"line 0\nline 1\nline 2\n"
    protocol.transport.close()
    assert await protocol.lost is None
    server.close()
    await server.wait_closed()


@pytest.fixture
def contexts():
    return certificate_contexts()


@pytest.mark.parametrize("size", [1, 1000, 200_000])
async def test_random_sizes_both_ways(loop, pair, tls, size):
    ours, theirs = pair
    rng = random.Random(size)
    accepting = asyncio.create_task(loop.connect_accepted_socket(Recorder, theirs, ssl=tls[0]))
    ends = [await loop.create_connection(Recorder, sock=ours, ssl=tls[1], server_hostname="localhost"),
            await accepting]
    sent = [bytearray(), bytearray()]
    for number in range(100):
        for (transport, _), data in zip(ends, sent):
            piece = some_bytes(rng.randint(1, size), number)
            data += piece
            if rng.random() < 0.3:
                transport.writelines(in_pieces(piece, rng, max(1, size // 3)))
            else:
                transport.write(rng.choice([bytes, bytearray, memoryview])(piece))
        if rng.random() < 0.3:
            await turns(rng.randint(0, 3))
    for (_, protocol), data in zip(ends, reversed(sent)):
        assert await protocol.received(len(data)) == data
    await closed(*ends)


async def test_tls_in_tls_cut_anywhere(loop, pair, tls):
    ours, theirs = pair
    rng = random.Random(1)
    accepting = asyncio.create_task(loop.connect_accepted_socket(Recorder, theirs, ssl=tls[0]))
    client, _ = await loop.create_connection(Recorder, sock=ours, ssl=tls[1], server_hostname="localhost")
    server, _ = await accepting
    protocols = [Recorder(), Recorder()]
    for protocol in protocols:
        protocol.calls.append("connection_made")
    accepting = asyncio.create_task(loop.start_tls(server, protocols[1], tls[0], server_side=True))
    transports = [await loop.start_tls(client, protocols[0], tls[1], server_hostname="localhost"), await accepting]
    sent = [bytearray(), bytearray()]
    for number in range(60):
        for transport, data in zip(transports, sent):
            piece = some_bytes(rng.choice([1, 100, 5000, 20_000, 100_000]), number)
            data += piece
            transport.write(piece)
        await turns(rng.randint(0, 2))
    for protocol, data in zip(protocols, reversed(sent)):
        assert await protocol.received(len(data)) == data
    transports[0].close()
    assert await protocols[0].lost is None and await protocols[1].lost is None
    await turns(5)


async def test_long_write_over_tls_in_tls_and_the_peer_ends(loop, pair, tls):
    """The transport that is itself over TLS is given it in one piece, which leaves whole behind the peer's end."""
    outer = await Peer.connect(loop, pair, tls)
    protocol = Recorder()
    protocol.calls.append("connection_made")
    starting = asyncio.create_task(loop.start_tls(outer.transport, protocol, tls[0], server_side=True))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = tls[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            inner.do_handshake()
        except ssl.SSLWantReadError:
            await outer.write(outgoing.read())
            incoming.write(await outer.read(1))
            incoming.write(outer.tls.read(65536))
        else:
            await outer.write(outgoing.read())
            break
    transport = await starting
    transport.write(bytes(3_000_000))
    transport.write(b"end")
    assert "pause_writing" not in protocol.calls
    assert transport.get_write_buffer_size() == 0
    outer.sock.shutdown(socket.SHUT_WR)
    await until(lambda: "eof_received" in protocol.calls)
    raw = await read_all(loop, outer.sock)
    assert sum(records(raw)) > 3_000_000
    assert await protocol.lost is None


# -- what is wrong with it --


WRONG = {
    "no such kind": b"\x63\x03\x03\x00\x10",
    "no such version": b"\x17\x02\x03\x00\x10",
    "too long": b"\x17\x03\x03\xff\xff",
    "plain text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an alert in plain": b"\x15\x03\x03\x00\x02\x02\x28",
    "never encrypted": b"\x17\x03\x03\x00\x20" + bytes(32),
    "a record without anything": b"\x17\x03\x03\x00\x00",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("behind", ["", "a record", "half a header"])
async def test_malformed_record(loop, pair, tls, wrong, behind):
    """OpenSSL says what is wrong, at once: nothing more of it need come."""
    peer = await Peer.connect(loop, pair, tls)
    if behind == "a record":
        await peer.write(b"fine")
        await peer.protocol.received(4)
    if behind == "half a header":
        await peer.send(WRONG[wrong][:3])
        await turns(5)
        assert peer.protocol.calls == ["connection_made"]
        await peer.send(WRONG[wrong][3:])
    else:
        await peer.send(WRONG[wrong])
    lost = await peer.protocol.lost
    assert isinstance(lost, ssl.SSLError)
    assert peer.protocol.data == (b"fine" if behind == "a record" else b"")


# Of a record that this version of TLS does not have. The rest never comes.
WRONG_HEADERS = {
    "another version's": ("TLSv1_2", b"\x17\x03\x01\x00\x20"),
    "too long": ("TLSv1_2", b"\x17\x03\x03\x44\x01"),
    "too long for this one": ("TLSv1_3", b"\x17\x03\x03\x41\x01"),
    "no such version": ("TLSv1_3", b"\x17\x03\x09\x00\x20"),
    "a handshake in plain": ("TLSv1_3", b"\x16\x03\x03\x00\x20"),
    "a change of ciphers": ("TLSv1_3", b"\x14\x03\x03\x00\x20"),
    "an alert in plain": ("TLSv1_3", b"\x15\x03\x03\x00\x02"),
}


@pytest.mark.parametrize("behind", ["", "the end", "with the handshake"])
@pytest.mark.parametrize("wrong", WRONG_HEADERS)
async def test_malformed_header(loop, pair, tls, wrong, behind):
    """OpenSSL knows it by the header alone, and it is not taken for the stream's end."""
    version, header = WRONG_HEADERS[wrong]
    for context in tls:
        context.maximum_version = ssl.TLSVersion[version]
    if behind == "with the handshake":
        peer = await Peer.connect(loop, pair, tls, handshake=False)
        await peer.handshake(header)
        peer.transport, peer.protocol = await peer.connecting
        assert isinstance(await peer.protocol.lost, ssl.SSLError)
        return
    peer = await Peer.connect(loop, pair, tls)
    await peer.write(b"fine")
    await peer.protocol.received(4)
    await peer.send(header)
    if behind == "the end":
        peer.sock.shutdown(socket.SHUT_WR)
    assert isinstance(await peer.protocol.lost, ssl.SSLError)
    assert peer.protocol.data == b"fine"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_part_of_a_record_is_not_counted(loop, pair, tls, version):
    """The stdlib's OpenSSL has taken it: it is in no buffer of asyncio's."""
    for context in tls:
        context.maximum_version = ssl.TLSVersion[version]
    peer = await Peer.connect(loop, pair, tls)
    record = peer.encrypted(b"a" * 300)
    await peer.send(record[:100])
    await turns(5)
    assert peer.transport.get_read_buffer_size() == 0
    await peer.send(record[100:])
    assert await peer.protocol.received(300) == b"a" * 300
    await over(peer)


@pytest.mark.parametrize("wrong", ["too long", "plain text"])
async def test_malformed_handshake(loop, pair, tls, wrong):
    peer = await Peer.connect(loop, pair, tls, handshake=False)
    await peer.send(WRONG[wrong])
    with pytest.raises(ssl.SSLError):
        await peer.connecting


async def test_truncated(loop, pair, tls):
    """The end comes within a record: what was whole has been told."""
    peer = await Peer.connect(loop, pair, tls)
    await peer.send(peer.encrypted(b"whole", b"half a record")[:-3])
    peer.sock.shutdown(socket.SHUT_WR)
    assert await peer.protocol.lost is None
    assert peer.protocol.data == b"whole"
    assert peer.protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


@pytest.mark.parametrize("kind", [Recorder, Buffered])
async def test_data_and_close_notify_together(loop, pair, tls, kind):
    peer = await Peer.connect(loop, pair, tls, kind)
    stream = peer.encrypted(b"one", b"two")
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.unwrap()
    await peer.send(stream + peer.outgoing.read())
    assert await peer.protocol.lost is None
    assert peer.protocol.data == b"onetwo"


# -- what is called when --


async def test_pause_with_records_left(loop, pair, tls):
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    peer = await Peer.connect(loop, pair, tls, Pausing)
    await peer.write(b"first")
    await peer.protocol.received(5)
    # One after the other: neither is read before the next has come.
    await peer.write(b"second")
    await until(lambda: peer.transport.get_read_buffer_size() == HEADER + 17 + 6)
    await peer.write(b"third")
    await until(lambda: peer.transport.get_read_buffer_size() == 2 * (HEADER + 17) + 11)
    assert not peer.transport.is_reading() and peer.protocol.data == b"first"
    peer.transport.resume_reading()
    assert await peer.protocol.received(16) == b"firstsecondthird"
    await peer.write(b"fourth")
    await turns(5)
    assert len(peer.protocol.data) == 16
    peer.transport.resume_reading()
    assert await peer.protocol.received(22) == b"firstsecondthirdfourth"
    peer.transport.resume_reading()
    await turns(2)
    await over(peer)


async def test_pause_with_bytes_decrypted(loop, pair, tls):
    """The buffer holds less than the record: the rest waits within OpenSSL, for another kind of protocol as well."""

    class Pausing(Buffered):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    peer = await Peer.connect(loop, pair, tls, lambda: Pausing(10))
    await peer.write(b"0123456789abcdefghijklmno")
    await until(lambda: len(peer.protocol.data) == 10)
    await turns(5)
    assert peer.protocol.data == b"0123456789"
    peer.transport.resume_reading()
    await turns(5)
    assert peer.protocol.data == b"0123456789abcdefghij"
    second = Recorder()
    second.connection_made(peer.transport)
    peer.transport.set_protocol(second)
    peer.transport.resume_reading()
    assert await second.received(5) == b"klmno"
    peer.protocol = second
    await over(peer)


async def test_read_buffer_limits(loop, pair, tls):
    """While the protocol has paused, the transport below reads up to the limit, and no more."""
    peer = await Peer.connect(loop, pair, tls)
    assert peer.transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
    peer.transport.set_read_buffer_limits(high=50_000, low=10_000)
    assert peer.transport.get_read_buffer_limits() == (10_000, 50_000)
    with pytest.raises(ValueError, match="must be >= low"):
        peer.transport.set_read_buffer_limits(high=1, low=2)
    below = peer.transport._ssl_protocol._transport
    peer.transport.pause_reading()
    data = some_bytes(1_000_000)
    sending = asyncio.create_task(peer.write(data))
    await until(lambda: not below.is_reading())
    size = peer.transport.get_read_buffer_size()
    await turns(5)
    assert 50_000 <= size == peer.transport.get_read_buffer_size() < 400_000
    peer.transport.resume_reading()
    assert await peer.protocol.received(len(data)) == data
    assert below.is_reading()
    await sending
    # Below what a record takes, of which one half must not keep the other from coming.
    peer.transport.set_read_buffer_limits(high=10, low=5)
    stream = peer.encrypted(b"in two parts")
    await peer.send(stream[:20])
    await turns(5)
    await peer.send(stream[20:])
    assert await peer.protocol.received(len(data) + 12) == data + b"in two parts"
    await over(peer)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_end_in_data_received(loop, pair, tls, how):
    """What was written before is sent; what comes behind is told to nobody."""

    class Ending(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"good")
            self.transport.write(b"bye")
            getattr(self.transport, how)()

    peer = await Peer.connect(loop, pair, tls, Ending)
    await peer.write(b"end")
    assert await peer.read(7) == b"goodbye"
    with contextlib.suppress(OSError):
        await peer.write(b"too late")
    await peer.end()
    lost = await peer.protocol.lost
    assert lost is None or isinstance(lost, OSError)
    assert peer.protocol.data == b"end"


async def test_write_in_connection_made(loop, pair, tls):
    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"welcome")
            transport.writelines([b", ", b"who", bytearray(b"ever"), memoryview(b" you are")])

    peer = await Peer.connect(loop, pair, tls, Greeting)
    assert await peer.read(24) == b"welcome, whoever you are"
    await over(peer)


async def test_attributes_of_the_program(loop, pair, tls):
    """As those set them who put a write() of their own below TLS, or in front of it, to see what goes out."""
    peer = await Peer.connect(loop, pair, tls)
    below = peer.transport._ssl_protocol._transport
    for one in (peer.transport, peer.transport._ssl_protocol, below):
        one.of_the_program = 1
        assert vars(one)["of_the_program"] == 1
        del one.of_the_program
        assert not hasattr(one, "of_the_program")
    # Behind the tickets.
    peer.transport.write(b"x")
    assert await peer.read(1) == b"x"
    del peer.raw[:]
    seen = []
    sent = below.write
    below.write = lambda data: seen.append(bytes(data)) or sent(data)
    peer.transport.write(b"data")
    assert await peer.read(4) == b"data"
    assert b"".join(seen) == peer.raw
    await over(peer)


async def test_small_pieces_are_one_record(loop, pair, tls, is_native):
    peer = await Peer.connect(loop, pair, tls)
    pieces = [b"x" * 100] * 50 + [b""] + [b"y" * 20_000, b"z" * 10, bytearray(b"z" * 10)]
    # Behind the tickets.
    peer.transport.write(b"x")
    assert await peer.read(1) == b"x"
    del peer.raw[:]
    peer.transport.writelines(pieces)
    assert await peer.read(25_020) == b"".join(pieces)
    # 256 bits of a tag at most, and the kind.
    sizes = [size - 17 for size in records(peer.raw)]
    assert sum(sizes) == 25_020
    if is_native:
        assert sizes == [5000, RECORD, 20_000 - RECORD, 20]
    await over(peer)


async def test_written_bytes_are_those_of_that_moment(loop, pair, tls):
    peer = await Peer.connect(loop, pair, tls)
    data = bytearray(some_bytes(3_000_000))
    before = bytes(data)
    peer.transport.write(data)
    data[:] = bytes(len(data))
    data.clear()
    assert await peer.read(len(before)) == before
    await over(peer)


async def test_memoryview_of_numbers(loop, pair, tls):
    peer = await Peer.connect(loop, pair, tls)
    data = some_bytes(400_000)
    peer.transport.write(memoryview(data).cast("I"))
    peer.transport.write(b"end")
    assert await peer.read(400_003) == data + b"end"
    assert peer.transport.get_write_buffer_size() == 0
    await over(peer)


async def test_buffer_that_is_no_memoryview(loop, pair, tls, is_native):
    if not is_native:
        pytest.skip("the stdlib's sslproto takes slices of it, which are copies")
    peer = await Peer.connect(loop, pair, tls, lambda: Unsliced(1000))
    data = some_bytes(20_000)
    await peer.write(*[data[start:start + 300] for start in range(0, 20_000, 300)])
    await until(lambda: len(peer.protocol.data) >= 20_000)
    assert peer.protocol.data == data
    await over(peer)


@pytest.mark.parametrize("end", ["close_notify", "shutdown"])
@pytest.mark.parametrize("write", ["write", "writelines", "write in data_received"])
async def test_long_write_and_the_peer_ends(loop, pair, tls, write, end):
    """What is written while the transport below has room is its own from then on: it is all sent behind an end."""
    data = some_bytes(8_000_000)

    class Answering(Recorder):
        def data_received(self, block):
            super().data_received(block)
            self.transport.write(data)

    peer = await Peer.connect(loop, pair, tls, Answering if write == "write in data_received" else Recorder)
    if write == "write":
        peer.transport.write(data)
    elif write == "writelines":
        peer.transport.writelines([data[:3_000_000], b"", memoryview(data)[3_000_000:]])
    else:
        await peer.write(b"?")
        await peer.protocol.received(1)
    assert peer.transport.get_write_buffer_size() == 0
    assert "pause_writing" not in peer.protocol.calls
    if end == "close_notify":
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.flush()
    else:
        peer.sock.shutdown(socket.SHUT_WR)
    await until(lambda: "eof_received" in peer.protocol.calls)
    await turns(10)
    # (SSLObject.read() refuses once it has sent its own close_notify: this end reads what comes by its records.)
    raw = await read_all(loop, peer.sock)
    assert sum(records(raw)) > len(data)
    assert await peer.protocol.lost is None


async def test_zero_is_a_limit(loop, pair, tls):
    """pause_writing() comes whether or not anything waits, as on the stdlib's."""
    peer = await Peer.connect(loop, pair, tls)
    peer.transport.set_write_buffer_limits(high=0)
    peer.transport.write(b"one")
    peer.transport.write(b"two")
    assert await peer.read(6) == b"onetwo"
    assert peer.protocol.calls == ["connection_made", "pause_writing", "resume_writing", "pause_writing"]
    peer.transport.set_write_buffer_limits()
    await over(peer)


async def test_limits_set_in_connection_made(loop, pair, tls):
    """What the handshake has left to send counts."""

    class Limited(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=10)

    peer = await Peer.connect(loop, pair, tls, Limited)
    assert peer.protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
    await over(peer)


@pytest.mark.parametrize("kind", ["data_received", "buffer of 1000"])
async def test_program_reads_a_part_itself(loop, pair, tls, kind):
    """By the ssl_object, during a pause: the rest of the record is the protocol's."""
    peer = await Peer.connect(loop, pair, tls, KINDS[kind])
    peer.transport.pause_reading()
    await peer.write(b"first", b"second")
    mine = peer.transport.get_extra_info("ssl_object")
    taken = b""
    while len(taken) < 8:
        with contextlib.suppress(ssl.SSLWantReadError):
            taken += mine.read(8 - len(taken))
        await asyncio.sleep(0)
    peer.transport.resume_reading()
    await until(lambda: len(peer.protocol.data) >= 3)
    assert (taken, bytes(peer.protocol.data)) == (b"firstsec", b"ond")
    await over(peer)


@pytest.mark.parametrize("when", ["resume_reading", "part of a record comes"])
async def test_program_writes_itself(loop, pair, tls, when):
    """By the ssl_object: it leaves as soon as asyncio looks."""
    peer = await Peer.connect(loop, pair, tls)
    peer.transport.get_extra_info("ssl_object").write(b"by itself")
    if when == "resume_reading":
        peer.transport.pause_reading()
        peer.transport.resume_reading()
    else:
        await peer.send(peer.encrypted(b"a" * 100)[:20])
    assert await peer.read(9) == b"by itself"
    assert peer.transport.get_write_buffer_size() == 0
    peer.transport.abort()


class WritesItself(Recorder):
    """Answers by the transport, and then by the ssl_object, which nobody is told of."""

    def answer(self):
        self.transport.write(b"by asyncio, ")
        self.transport.writelines([])
        self.transport.get_extra_info("ssl_object").write(b"by itself")

    def data_received(self, data):
        super().data_received(data)
        self.answer()


class WritesItselfAtOnce(WritesItself):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.answer()

    data_received = Recorder.data_received


class WritesItselfBuffered(Buffered):
    def buffer_updated(self, count):
        super().buffer_updated(count)
        WritesItself.answer(self)


@pytest.mark.parametrize("factory", [WritesItself, WritesItselfAtOnce, WritesItselfBuffered])
@pytest.mark.parametrize("paused", [False, True])
async def test_program_writes_itself_in_a_callback(loop, pair, tls, factory, paused):
    peer = await Peer.connect(loop, pair, tls, factory)
    if paused:
        peer.transport.pause_reading()
    await peer.send(peer.encrypted(b"question"))
    if paused:
        await turns(3)
        peer.transport.resume_reading()
    assert await peer.read(21) == b"by asyncio, by itself"
    assert peer.transport.get_write_buffer_size() == 0
    peer.transport.abort()
    await peer.protocol.lost


async def test_callback_that_is_handed_the_ssl_object(loop, pair, contexts):
    """Set when the connection is made already, and the handshake is not."""
    class Answering(Recorder):
        def data_received(self, data):
            self.transport.write(b"by asyncio, ")
            objects[0].write(b"by itself")

    objects = []
    server, client = contexts
    accepting = loop.create_task(loop.connect_accepted_socket(Answering, pair[1], ssl=server))
    await turns(3)
    server.sni_callback = lambda sslobject, name, context: objects.append(sslobject)
    transport, protocol = await loop.create_connection(Recorder, sock=pair[0], ssl=client, server_hostname="localhost")
    transport.write(b"question")
    await until(lambda: protocol.data == b"by asyncio, by itself")
    await closed(await accepting, (transport, protocol))


async def test_unwrap_in_eof_received(loop, pair, tls):
    class Unwrapping(Recorder):
        def eof_received(self):
            self.transport.get_extra_info("ssl_object").unwrap()

    accepting = loop.create_task(loop.connect_accepted_socket(Unwrapping, pair[1], ssl=tls[0]))
    transport, protocol = await loop.create_connection(Recorder, sock=pair[0], ssl=tls[1], server_hostname="localhost")
    _, unwrapping = await accepting
    transport.close()
    assert isinstance(await unwrapping.lost, ssl.SSLZeroReturnError)
    assert await protocol.lost is None


@pytest.mark.skipif(not ssl.HAS_TLSv1_3, reason="an OpenSSL without TLS 1.3")
@pytest.mark.parametrize("when", ["connection_made", "resume_reading"])
async def test_certificate_asked_for_after_the_handshake(loop, pair, contexts, when):
    """What is asked of OpenSSL leaves with the next look that asyncio takes, though nothing has come."""
    class Asking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if when == "connection_made":
                transport.get_extra_info("ssl_object").verify_client_post_handshake()

    server, client = contexts
    for context in contexts:
        context.post_handshake_auth = True
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.load_verify_locations(CERTIFICATE)
    server.verify_mode = ssl.CERT_OPTIONAL
    client.load_cert_chain(CERTIFICATE)
    there = loop.create_task(loop.create_connection(Recorder, sock=pair[0], ssl=client, server_hostname="localhost"))
    transport, protocol = await loop.connect_accepted_socket(Asking, pair[1], ssl=server)
    ends = await there
    if when == "resume_reading":
        transport.pause_reading()
        await turns(3)
        transport.get_extra_info("ssl_object").verify_client_post_handshake()
        transport.resume_reading()

    def has_come():
        try:
            return transport.get_extra_info("ssl_object").getpeercert(True)
        except ValueError:
            # The answer is on its way.
            return None

    await until(has_come)
    await closed((transport, protocol), ends)


async def test_program_writes_itself_beyond_the_limit(loop, pair, tls):
    peer = await Peer.connect(loop, pair, tls)
    peer.transport.get_extra_info("ssl_object").write(b"by itself")
    assert "pause_writing" not in peer.protocol.calls
    peer.transport.set_write_buffer_limits(5, 1)
    assert peer.protocol.calls[-1] == "pause_writing"
    peer.transport.abort()


@pytest.mark.parametrize("write, data, error", [
    ("write", memoryview(bytes(100))[::2], BufferError),
    ("writelines", ["abc"], TypeError),
    ("writelines", [None], TypeError),
])
async def test_what_is_no_bytes(loop, pair, tls, errors, write, data, error):
    """The ssl module says what is wrong with it, when its turn comes."""
    peer = await Peer.connect(loop, pair, tls)
    with contextlib.suppress(TypeError):
        getattr(peer.transport, write)(data)
    peer.transport.write(b"behind it")
    lost = await peer.protocol.lost
    assert type(lost) is error
    assert "cast" not in str(lost) and "len()" not in str(lost)
    # (The stdlib's sslproto comes to it a second time.)
    assert {type(context["exception"]) for context in errors} == {error}
    errors.clear()


@pytest.mark.parametrize("where", ["data_received", "buffer_updated", "get_buffer", "eof_received", "pause_writing"])
async def test_exception_of_the_protocol(loop, pair, tls, errors, where):
    """It is told to the exception handler, and ends the connection if it came out of reading."""

    class Raising(Buffered if "buffer" in where else Recorder):
        pass

    def fail(*_):
        raise ZeroDivisionError

    setattr(Raising, where, fail)
    # (The stdlib's calls get_buffer() behind the handshake already.)
    peer = await Peer.connect(loop, pair, tls, Raising, handshake=False)
    with contextlib.suppress(OSError):
        await peer.handshake()
    peer.transport, peer.protocol = await peer.connecting
    if where == "pause_writing":
        peer.transport.set_write_buffer_limits(high=0)
    elif where == "eof_received":
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.flush()
    elif where != "get_buffer" or not errors:
        with contextlib.suppress(OSError):
            await peer.write(b"data")
    await until(lambda: errors)
    messages = {"eof_received": "Error calling eof_received()", "pause_writing": "protocol.pause_writing() failed"}
    assert errors[0]["message"] == messages.get(where, "Fatal error on SSL protocol")
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    assert isinstance(errors[0]["protocol"], stdlib_sslproto.SSLProtocol)
    del errors[:]
    if where == "pause_writing":
        await over(peer)
    else:
        assert isinstance(await peer.protocol.lost, ZeroDivisionError)
    del errors[:]


async def test_sslobject_class(loop, pair, contexts):
    """A class of the program's is called for everything."""
    called = []

    class Mine(ssl.SSLObject):
        def read(self, *arguments):
            called.append("read")
            return super().read(*arguments)

        def write(self, data):
            called.append("write")
            return super().write(data)

    contexts[0].sslobject_class = Mine
    peer = await Peer.connect(loop, pair, contexts)
    data = some_bytes(100_000)
    await peer.write(data)
    assert await peer.protocol.received(len(data)) == data
    peer.transport.write(data)
    assert await peer.read(len(data)) == data
    assert isinstance(peer.transport.get_extra_info("ssl_object"), Mine) and {"read", "write"} <= set(called)
    await over(peer)


@pytest.mark.parametrize("most", [1, 100, RECORD + 1])
async def test_sslobject_that_writes_a_part(loop, pair, contexts, most):
    """It says how much it took: the rest is given to it again, and nothing twice."""
    given = []

    class Sparing(ssl.SSLObject):
        def write(self, data):
            given.append(data)
            return super().write(data[:most])

    contexts[0].sslobject_class = Sparing
    peer = await Peer.connect(loop, pair, contexts)
    data = some_bytes(20 * most)
    for piece in (data[:3], data[3:2 * most + 5], data[2 * most + 5:]):
        peer.transport.write(piece)
        assert peer.transport.get_write_buffer_size() == 0
    assert await peer.read(len(data)) == data
    # Each as it was written, and in its own type.
    del given[:]
    peer.transport.writelines([b"a", b"", bytearray(b"b"), memoryview(b"c")])
    assert given == [b"a", b"", b"b", b"c"]
    assert [type(piece) for piece in given] == [bytes, bytes, bytearray, memoryview]
    assert await peer.read(3) == b"abc"
    await over(peer)


async def test_patched_sslobject(loop, pair, tls, monkeypatch):
    """Who changes ssl.SSLObject's methods has them called as asyncio's sslproto calls them."""
    called = []
    read, write = ssl.SSLObject.read, ssl.SSLObject.write

    def patched_read(self, len=1024):
        called.append("read")
        return read(self, len)

    def patched_write(self, data):
        called.append(type(data))
        return write(self, data)

    monkeypatch.setattr(ssl.SSLObject, "read", patched_read)
    monkeypatch.setattr(ssl.SSLObject, "write", patched_write)
    peer = await Peer.connect(loop, pair, tls)
    data = some_bytes(100_000)
    await peer.write(data)
    assert await peer.protocol.received(len(data)) == data
    assert "read" in called
    del called[:]
    peer.transport.write(data)
    assert called == [bytes]
    assert await peer.read(len(data)) == data
    monkeypatch.undo()
    await over(peer)


@pytest.mark.parametrize("by", ["slice", "ctypes"])
async def test_who_keeps_the_buffer_of_a_read(loop, pair, tls, monkeypatch, by):
    """A patch that comes behind the connection is given a buffer, and may look into it ever after."""
    class Keeping(Recorder):
        told = None

        def data_received(self, data):
            super().data_received(data)
            self.told = data

    peer = await Peer.connect(loop, pair, tls, Keeping)
    read = ssl.SSLObject.read
    kept = []

    def patched(self, size, buffer=None):
        if buffer is None or self is peer.tls:
            return read(self, size)
        kept.append(buffer[:] if by == "slice" else (ctypes.c_char * len(buffer)).from_buffer(buffer))
        return read(self, size, buffer)

    monkeypatch.setattr(ssl.SSLObject, "read", patched)
    peer.transport.pause_reading()
    await peer.write(b"one", b"two")
    await until(lambda: peer.transport.get_read_buffer_size() >= 2 * (HEADER + 3 + 17))
    peer.transport.resume_reading()
    assert await peer.protocol.received(6) == b"onetwo"
    for view in kept[:1]:
        assert bytes(view)[:3] == b"one"
        view[:3] = b"xxx"
    assert peer.protocol.told == b"onetwo"
    peer.protocol.told = None
    others = [bytes(size) for size in range(200) for _ in range(50)]
    for view in kept[:1]:
        view[:3] = b"yyy"
        assert bytes(view)[:3] == b"yyy"
    assert not any(map(any, others))
    await over(peer)


class Interrupt(KeyboardInterrupt):
    """What a signal's handler raises."""


@contextlib.contextmanager
def interrupted(peer, method, when, number=1):
    """Have the loop's ssl.SSLObject raise once, where it is called for the `number`th time: a signal's moment.

    The object tells whether it has.
    """
    calls = 0
    raised = []

    def interrupt(frame, event, arg):
        nonlocal calls
        if frame.f_code is not code or frame.f_locals["self"] is peer.tls:
            return None
        calls += 1
        if calls != number:
            return None
        if when == "before":
            raised.append(when)
            raise Interrupt
        return at_return

    def at_return(frame, event, arg):
        if event == "return":
            raised.append(when)
            raise Interrupt
        return at_return

    code = getattr(ssl.SSLObject, method).__code__
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        yield raised
    finally:
        sys.settrace(before)


def run_interrupted(loop, coroutine):
    """Run it to its end, however often the loop is interrupted; return how often that was."""
    task = loop.create_task(coroutine)
    count = 0
    while not task.done():
        try:
            loop.run_until_complete(task)
        except Interrupt:
            count += 1
    task.result()
    return count


@pytest.mark.parametrize("kind", ["data_received", "buffer of 1000"])
def test_interrupt_before_a_read(loop, pair, tls, kind, is_native):
    """The record is not lost, and none comes one record late from then on."""

    async def body():
        peer = await Peer.connect(loop, pair, tls, KINDS[kind])
        await peer.write(b"first")
        await until(lambda: len(peer.protocol.data) >= 5)
        with interrupted(peer, "read", "before") as raised:
            await peer.write(b"second")
            await until(lambda: raised)
            await turns(3)
        if is_native:
            # It needs no other record to bring it.
            assert peer.protocol.data == b"firstsecond"
        await peer.write(b"third")
        await until(lambda: len(peer.protocol.data) >= 16)
        assert peer.protocol.data == b"firstsecondthird"
        await peer.write(b"fourth")
        await until(lambda: len(peer.protocol.data) >= 22)
        await over(peer)

    assert run_interrupted(loop, body()) == 1


def test_interrupt_before_a_read_of_long_records(loop, pair, tls, is_native):
    """All of them are there, also those that OpenSSL had not been given."""

    async def body():
        peer = await Peer.connect(loop, pair, tls)
        data = some_bytes(3 * RECORD + 1000)
        with interrupted(peer, "read", "before") as raised:
            await peer.write(data)
            await until(lambda: raised)
            await turns(3)
        if is_native:
            assert peer.protocol.data == data
        await peer.write(b"more")
        await until(lambda: len(peer.protocol.data) >= len(data) + 4)
        assert peer.protocol.data == data + b"more"
        await over(peer)

    assert run_interrupted(loop, body()) == 1


@pytest.mark.parametrize(("when", "number"), [("behind", 1), ("before", 2), ("behind", 3)])
def test_interrupt_among_reads_of_long_records(loop, pair, tls, when, number, is_native):
    """What has been read is gone, so nobody is told what comes behind it."""
    if not is_native:
        pytest.skip("the stdlib's sslproto goes on behind the hole")

    async def body():
        peer = await Peer.connect(loop, pair, tls)
        with interrupted(peer, "read", when, number) as raised:
            await peer.write(some_bytes(3 * RECORD + 1000))
            await until(lambda: raised)
        assert isinstance(await peer.protocol.lost, ConnectionAbortedError)
        assert not peer.protocol.data

    assert run_interrupted(loop, body()) == 1


@pytest.mark.parametrize("kind", ["data_received", "buffer of 1000", "buffer of 200000"])
@pytest.mark.parametrize("number", [1, 2])
def test_interrupt_behind_a_read(loop, pair, tls, kind, number, is_native):
    """What it has read is gone: nobody is told what comes behind it."""
    if not is_native:
        pytest.skip("the stdlib's sslproto goes on behind the hole")

    async def body():
        peer = await Peer.connect(loop, pair, tls, KINDS[kind])
        await peer.write(b"first")
        await until(lambda: len(peer.protocol.data) >= 5)
        stream = peer.encrypted(*[b"second"] * number)
        with interrupted(peer, "read", "behind", number) as raised:
            await peer.send(stream)
            await until(lambda: raised)
        with contextlib.suppress(OSError):
            await peer.write(b"third")
        assert isinstance(await peer.protocol.lost, ConnectionAbortedError)
        assert peer.protocol.data == b"first"

    assert run_interrupted(loop, body()) == 1


def test_interrupt_behind_a_read_of_what_is_decrypted(loop, pair, tls, is_native):
    """The rest of a record, with another one behind it, which nobody touches."""
    if not is_native:
        pytest.skip("the stdlib's sslproto goes on behind the hole")

    async def body():
        peer = await Peer.connect(loop, pair, tls, lambda: Buffered(10))
        with interrupted(peer, "read", "behind", 2) as raised:
            await peer.write(bytes(range(30)), b"another")
            await until(lambda: raised)
        assert isinstance(await peer.protocol.lost, ConnectionAbortedError)
        assert peer.protocol.data == bytes(range(10))

    assert run_interrupted(loop, body()) == 1


def test_interrupt_between_a_read_and_the_protocol(loop, pair, tls, is_native):
    """OpenSSL is asked whether it holds more, with two records in the protocol's buffer that it has not been told of."""
    if not is_native:
        pytest.skip("the stdlib's sslproto asks nothing there")

    async def body():
        peer = await Peer.connect(loop, pair, tls, lambda: Buffered(1000))
        with interrupted(peer, "pending", "before") as raised:
            await peer.write(b"one", b"two")
            await until(lambda: raised)
        assert isinstance(await peer.protocol.lost, ConnectionAbortedError)
        assert not peer.protocol.data

    assert run_interrupted(loop, body()) == 1


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("pieces", [[b"second"], [b"second", b"and more"], [some_bytes(300_000)]],
                         ids=["one", "two", "long"])
async def test_interrupt_in_a_write(loop, pair, tls, when, pieces, is_native):
    """What is written is sent once, along with what comes behind it."""
    if not is_native and when == "behind":
        pytest.skip("the stdlib's sslproto sends it twice")
    peer = await Peer.connect(loop, pair, tls)
    peer.transport.write(b"first")
    # (The second part of what is long.)
    with interrupted(peer, "write", when, 2 if is_native and len(pieces[0]) > 100 else 1), pytest.raises(Interrupt):
        if len(pieces) == 1:
            peer.transport.write(pieces[0])
        else:
            peer.transport.writelines(pieces)
    data = b"".join([b"first", *pieces, b"third"])
    if is_native:
        # Nothing else need bring it.
        assert await peer.read(len(data) - 5) == data[:-5]
    peer.transport.write(b"third")
    assert await peer.read(5 if is_native else len(data)) == (b"third" if is_native else data)
    assert peer.transport.get_write_buffer_size() == 0
    peer.transport.write(b"end")
    assert await peer.read(3) == b"end"
    await over(peer)


@pytest.mark.parametrize("method", ["getpeercert", "cipher", "compression"])
def test_interrupt_behind_the_handshake(loop, pair, tls, method, is_native):
    """Who waits for the connection is told that there is none."""
    if not is_native:
        pytest.skip("the stdlib's sslproto leaves him waiting")

    async def body():
        peer = await Peer.connect(loop, pair, tls, handshake=False)
        with interrupted(peer, method, "behind") as raised:
            await peer.handshake()
            await until(lambda: raised)
        with pytest.raises(ConnectionAbortedError):
            await peer.connecting

    assert run_interrupted(loop, body()) == 1


@pytest.mark.parametrize("kind", [Recorder, Buffered])
def test_interrupt_out_of_connection_made(loop, pair, tls, kind, is_native):
    """The connection is there all the same, with what came along with the handshake."""
    if not is_native:
        pytest.skip("the stdlib's sslproto leaves who connects waiting")

    class Interrupting(kind):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise Interrupt

    async def body():
        peer = await Peer.connect(loop, pair, tls, Interrupting, handshake=False)
        while True:
            try:
                peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                await peer.flush()
                await peer.receive()
            else:
                break
        await peer.write(b"early")
        peer.transport, peer.protocol = await peer.connecting
        await until(lambda: peer.protocol.data == b"early")
        await over(peer)

    assert run_interrupted(loop, body()) == 1


@pytest.mark.parametrize("where", ["data_received", "eof_received"])
def test_interrupt_beside_the_peer_s_end(loop, pair, tls, where, is_native):
    """The end is told, and the connection ends."""
    if not is_native:
        pytest.skip("the stdlib's sslproto waits for the end of the stream below")

    class Interrupting(Recorder):
        pass

    def interrupt(self, *arguments):
        getattr(Recorder, where)(self, *arguments)
        raise Interrupt

    setattr(Interrupting, where, interrupt)

    async def body():
        peer = await Peer.connect(loop, pair, tls, Interrupting)
        stream = peer.encrypted(b"last")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.send(stream + peer.outgoing.read())
        assert await peer.protocol.lost is None
        assert peer.protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]

    assert run_interrupted(loop, body()) == 1


def test_interrupt_out_of_data_received_while_the_transport_below_has_paused(loop, pair, tls, is_native):
    """It is resumed all the same."""
    if not is_native:
        pytest.skip("the stdlib's sslproto reads no more")

    class Interrupting(Recorder):
        interrupts = 1

        def data_received(self, data):
            super().data_received(data)
            if len(self.data) > 1 and self.interrupts:
                self.interrupts -= 1
                raise Interrupt

    async def body():
        peer = await Peer.connect(loop, pair, tls, Interrupting)
        peer.transport.set_read_buffer_limits(high=50_000, low=10_000)
        below = peer.transport._ssl_protocol._transport
        peer.transport.pause_reading()
        data = some_bytes(1_000_000)
        sending = asyncio.create_task(peer.write(data))
        await until(lambda: not below.is_reading())
        peer.transport.resume_reading()
        assert await peer.protocol.received(len(data)) == data
        await sending
        await over(peer)

    assert run_interrupted(loop, body()) == 1


# -- what it is --


async def test_classes_and_attributes(loop, pair, tls):
    peer = await Peer.connect(loop, pair, tls)
    transport, below = peer.transport, peer.transport._ssl_protocol
    assert isinstance(transport, stdlib_sslproto._SSLProtocolTransport) and isinstance(transport, asyncio.Transport)
    assert isinstance(below, stdlib_sslproto.SSLProtocol) and isinstance(below, asyncio.BufferedProtocol)
    assert below._state is stdlib_sslproto.SSLProtocolState.WRAPPED
    assert below._app_state is stdlib_sslproto.AppProtocolState.STATE_CON_MADE
    assert below._app_transport is transport and below._app_protocol is peer.protocol
    assert below._sslobj is transport.get_extra_info("ssl_object")
    assert transport.get_extra_info("no such thing", 1) == 1
    assert transport.get_extra_info("socket").fileno() == pair[0].fileno()
    with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
        transport.write("text")
    assert not transport.can_write_eof() and not transport.is_closing()
    assert weakref.ref(transport)() is transport and weakref.ref(below)() is below
    await over(peer)


METHODS = [("get_extra_info", "x"), ("set_protocol", None), ("get_protocol",), ("is_reading",), ("pause_reading",),
           ("resume_reading",), ("set_write_buffer_limits",), ("get_write_buffer_limits",),
           ("get_write_buffer_size",), ("set_read_buffer_limits",), ("get_read_buffer_limits",),
           ("get_read_buffer_size",), ("write", b"x"), ("writelines", [b"x"]),
           ("_test__append_write_backlog", b"x")]


async def test_after_a_second_close(loop, pair, tls):
    """The transport has let go of its protocol: what asks that says so, as in the stdlib."""
    peer = await Peer.connect(loop, pair, tls)
    peer.transport.close()
    peer.transport.close()
    assert peer.transport.is_closing()
    for name, *arguments in METHODS:
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute"):
            getattr(peer.transport, name)(*arguments)
    peer.transport.write(b"")
    peer.transport.close()
    peer.transport.abort()
    await peer.end()
    assert await peer.protocol.lost is None


async def test_after_the_end(loop, pair, tls, caplog):
    peer = await Peer.connect(loop, pair, tls)
    peer.transport.abort()
    await peer.protocol.lost
    for _ in range(7):
        peer.transport.write(b"x")
    assert caplog.messages.count("SSL connection is closed") >= 1
    assert peer.transport.get_extra_info("peername", "none") == "none"
    assert peer.transport.get_protocol() is None
    peer.transport.abort()
    peer.transport.close()


async def test_unclosed_transport(loop, pair, tls):
    peer = await Peer.connect(loop, pair, tls)
    below = peer.transport._ssl_protocol
    transport = type(peer.transport)(loop, below)
    with pytest.warns(ResourceWarning, match="unclosed transport <asyncio._SSLProtocolTransport object>"):
        del transport
        gc.collect()
    await over(peer)


async def test_debug_mode_logs(loop, pair, tls, caplog):
    loop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")
    peer = await Peer.connect(loop, pair, tls)
    await peer.write(b"data")
    assert await peer.protocol.received(4) == b"data"
    peer.sock.shutdown(socket.SHUT_WR)
    await peer.protocol.lost
    text = caplog.text
    assert "starts SSL handshake" in text and "SSL handshake took" in text and "received EOF" in text
    loop.set_debug(False)


@pytest.mark.parametrize("change", ["method", "class"])
async def test_patched_stdlib(loop, pair, tls, monkeypatch, change):
    """Who changes asyncio's class means the connections of this loop, too."""
    called = []

    def connection_made(self, transport):
        called.append(self)
        original(self, transport)

    original = stdlib_sslproto.SSLProtocol.connection_made
    if change == "method":
        monkeypatch.setattr(stdlib_sslproto.SSLProtocol, "connection_made", connection_made)
    else:
        monkeypatch.setattr(stdlib_sslproto, "SSLProtocol",
                            type("SSLProtocol", (stdlib_sslproto.SSLProtocol,), {"connection_made": connection_made}))
    peer = await Peer.connect(loop, pair, tls)
    await peer.write(b"data")
    assert await peer.protocol.received(4) == b"data"
    assert len(called) == 1
    monkeypatch.undo()
    await over(peer)


# -- that nothing stays behind --


async def test_dropped_at_random_moments(loop, tls):
    """Two thousand, by either end, at any moment of the handshake, of a transfer and of the end: no object is left."""
    rng = random.Random(7)
    alive = weakref.WeakSet()
    lost = []

    class Mortal(Recorder):
        def __init__(self):
            super().__init__()
            alive.add(self)

        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(some_bytes(rng.choice([1, 50_000, 500_000])))

        def connection_lost(self, exc):
            super().connection_lost(exc)
            lost.append(exc)

    server = await loop.create_server(Mortal, "127.0.0.1", 0, ssl=tls[0])
    address = server.sockets[0].getsockname()

    async def one():
        how = rng.choice(["cancel", "abort", "close", "reset", "forget"])
        if how == "reset":
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, b"\x16\x03\x01\x02\x00"[:rng.randint(0, 5)])
                await turns(rng.randint(0, 5))
                reset(sock)
            return
        connecting = asyncio.create_task(loop.create_connection(
            Mortal, *address, ssl=tls[1], server_hostname="localhost"))
        if how == "cancel":
            await turns(rng.randint(0, 12))
            connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            transport, protocol = await connecting
            await turns(rng.randint(0, 10))
            transport.close() if how == "close" else transport.abort()
            await protocol.lost

    for _ in range(200):
        await asyncio.gather(*(one() for _ in range(10)))
    server.close()
    await server.wait_closed()
    await until(lambda: all(protocol.lost.done() or not protocol.transport for protocol in alive))
    await turns(10)
    gc.collect()
    assert not alive, list(alive)
