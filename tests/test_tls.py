"""TLS by the stdlib's sslproto: wherever ssl= is taken, start_tls, timeouts, ends, on both loops."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import struct

import pytest

from support import (
    CERTIFICATE,
    Buffered,
    Echo,
    Recorder,
    certificate_contexts,
    check_protocol_changes,
    close,
    closed,
    read_all,
    reset,
    some_bytes,
    turns,
    until,
)

LOCALHOST = {"server_hostname": "localhost"}


@pytest.fixture
def contexts():
    """(server's, client's): fresh ones, to be changed."""
    return certificate_contexts()


@pytest.fixture
def connected(loop, pair):
    """`(client transport, protocol), (server ...) = await connected(...)`: TLS on both ends of a pair."""

    async def connected(contexts, client=Recorder, server=Recorder, client_options=None, **options):
        ours, theirs = pair
        accepting = asyncio.create_task(loop.connect_accepted_socket(server, theirs, ssl=contexts[0], **options))
        connecting = asyncio.create_task(loop.create_connection(
            client, sock=ours, ssl=contexts[1], **LOCALHOST, **(client_options or options)))
        await asyncio.wait([accepting, connecting])
        return connecting, accepting

    return connected


async def both(connected, *arguments, **options):
    connecting, accepting = await connected(*arguments, **options)
    return connecting.result(), accepting.result()


def tls_of(transport):
    return transport.get_extra_info("ssl_object")


# -- wherever it is taken --


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("way", ["streams", "protocols", "sock="])
async def test_server_and_client(loop, tls, tmp_path, unix, way, stack):
    data = some_bytes(300_000)

    async def echo(reader, writer):
        writer.write(await reader.readexactly(len(data)))
        await writer.drain()
        await close(writer)

    path = str(tmp_path / "socket")
    if way == "streams":
        server = await (asyncio.start_unix_server(echo, path, ssl=tls[0]) if unix
                        else asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls[0]))
        address = server.sockets[0].getsockname()
        reader, writer = await (asyncio.open_unix_connection(path, ssl=tls[1], **LOCALHOST) if unix
                                else asyncio.open_connection(*address, ssl=tls[1], **LOCALHOST))
        writer.write(data)
        assert await reader.read() == data
        await close(writer, server)
        return
    server = await (loop.create_unix_server(Echo, path, ssl=tls[0]) if unix
                    else loop.create_server(Echo, "127.0.0.1", 0, ssl=tls[0]))
    address = server.sockets[0].getsockname()
    connect = loop.create_unix_connection if unix else loop.create_connection
    if way == "sock=":
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        transport, protocol = await connect(Recorder, sock=sock, ssl=tls[1], **LOCALHOST)
    else:
        transport, protocol = await connect(Recorder, *([path] if unix else address), ssl=tls[1], **LOCALHOST)
    assert isinstance(transport, asyncio.Transport)
    transport.write(data)
    assert await protocol.received(len(data)) == data
    assert transport.get_extra_info("cipher") and transport.get_extra_info("compression") is None
    assert transport.get_extra_info("sslcontext") is tls[1]
    assert transport.get_extra_info("peername") == address
    await closed((transport, protocol))
    await close(server)


async def test_ssl_is_true(loop, tls, monkeypatch):
    """A default context: it trusts the system's certificates, so ours is refused."""
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=tls[0])
    with pytest.raises(ssl.SSLCertVerificationError):
        await loop.create_connection(Recorder, *server.sockets[0].getsockname(), ssl=True, **LOCALHOST)
    await turns(3)
    await close(server)


async def test_wrong_host_name(loop, tls):
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=tls[0])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=tls[1], server_hostname="example.org")
    await turns(3)
    await close(server)


async def test_sizes_around_a_record(connected, tls):
    (client, received), (server, _) = await both(connected, tls, server=Echo)
    sizes = [1, 16383, 16384, 16385, 65536, 100_000]
    data = some_bytes(sum(sizes))
    start = 0
    for size in sizes:
        client.write(data[start:start + size])
        start += size
    client.writelines([b"", b"the", memoryview(b" end")])
    assert await received.received(len(data) + 7) == data + b"the end"
    client.close()
    await received.lost
    server.close()
    await turns(3)


async def test_pause_reading(connected, tls):
    (client, sent), (server, received) = await both(connected, tls)
    server.pause_reading()
    data = some_bytes(5_000_000)
    client.write(data)
    await turns(20)
    assert len(received.data) == 0 and not server.is_reading()
    server.resume_reading()
    assert await received.received(len(data)) == data
    await closed((client, sent), (server, received))


@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_buffered_protocol(connected, tls, size):
    """Records are handed out in pieces of the buffer's size, or as they are."""
    (client, sent), (server, received) = await both(connected, tls, server=lambda: Buffered(size))
    data = some_bytes(5000 if size == 1 else 500_000)
    client.write(data)
    await until(lambda: len(received.data) >= len(data))
    assert received.data == data and max(received.updates) <= size
    server.write(b"answer")
    assert await sent.received(6) == b"answer"
    client.close()
    assert await received.lost is None and await sent.lost is None


async def test_set_protocol_between_kinds(connected, tls):
    (client, sent), (server, first) = await both(connected, tls)
    await check_protocol_changes(server, first, client.write, (client, sent))


async def test_flow_control(connected, tls):
    (client, sent), (server, received) = await both(connected, tls)
    client.set_write_buffer_limits(high=100_000, low=10_000)
    assert client.get_write_buffer_limits() == (10_000, 100_000)
    server.pause_reading()
    data = some_bytes(5_000_000)
    for start in range(0, len(data), 50_000):
        client.write(data[start:start + 50_000])
    assert sent.calls == ["connection_made", "pause_writing"] and client.get_write_buffer_size() > 100_000
    server.resume_reading()
    assert await received.received(len(data)) == data
    await until(lambda: client.get_write_buffer_size() == 0)
    assert sent.calls == ["connection_made", "pause_writing", "resume_writing"]
    await closed((client, sent), (server, received))


# -- what the handshake agrees on --


async def test_sni_callback(connected, contexts):
    """The server chooses its context by the name that the client asks for."""
    names = []
    other = certificate_contexts()[0]

    def choose(ssl_object, name, context):
        names.append(name)
        ssl_object.context = other

    contexts[0].sni_callback = choose
    client, server = await both(connected, contexts)
    assert names == ["localhost"]
    assert tls_of(server[0]).context is other
    await closed(client, server)


async def test_sni_callback_that_refuses(connected, contexts):
    contexts[0].sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    connecting, accepting = await connected(contexts)
    with pytest.raises(OSError):
        connecting.result()
    with pytest.raises(OSError):
        accepting.result()


@pytest.mark.parametrize("offered, chosen", [(["h2", "http/1.1"], "http/1.1"), (["h3"], None)])
async def test_alpn(connected, contexts, offered, chosen):
    contexts[0].set_alpn_protocols(["http/1.1", "http/1.0"])
    contexts[1].set_alpn_protocols(offered)
    client, server = await both(connected, contexts)
    assert [tls_of(transport).selected_alpn_protocol() for transport, _ in (client, server)] == [chosen] * 2
    await closed(client, server)


async def test_client_certificate(connected, contexts):
    contexts[0].verify_mode = ssl.CERT_REQUIRED
    contexts[0].load_verify_locations(CERTIFICATE)
    contexts[1].load_cert_chain(CERTIFICATE)
    client, server = await both(connected, contexts)
    for transport, _ in (client, server):
        assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
    await closed(client, server)


async def test_client_certificate_is_missing(connected, contexts):
    """With TLS 1.3 the client hears of it after its handshake."""
    contexts[0].verify_mode = ssl.CERT_REQUIRED
    contexts[0].load_verify_locations(CERTIFICATE)
    connecting, accepting = await connected(contexts)
    with pytest.raises(OSError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        accepting.result()
    transport, protocol = connecting.result()
    await protocol.lost


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions(connected, contexts, version):
    contexts[1].minimum_version = contexts[1].maximum_version = version
    client, server = await both(connected, contexts)
    assert tls_of(client[0]).version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    client[0].write(b"x")
    assert await server[1].received(1) == b"x"
    await closed(client, server)


async def test_no_version_in_common(connected, contexts):
    contexts[0].minimum_version = ssl.TLSVersion.TLSv1_3
    contexts[1].maximum_version = ssl.TLSVersion.TLSv1_2
    connecting, accepting = await connected(contexts)
    for task in (connecting, accepting):
        with pytest.raises(OSError):
            task.result()


# -- start_tls --


class Upgrading(Recorder):
    """Plain until a line, after which it reads nothing more: that is TLS."""

    def __init__(self):
        super().__init__()
        self.asked = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        super().data_received(data)
        if self.data == b"STARTTLS\n":
            self.transport.pause_reading()
            self.asked.set_result(None)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
async def test_start_tls_with_the_client_hello_there_already(loop, pair, tls, waits):
    """The client does not wait for an answer: its ClientHello is behind the line, or in the same segment."""
    ours, theirs = pair
    client, plain = await loop.create_connection(Recorder, sock=ours)
    server, upgrading = await loop.create_connection(Upgrading, sock=theirs)
    client.write(b"STARTTLS\n")
    if waits:
        await upgrading.asked
    protocol, there = Recorder(), Recorder()
    client_side = asyncio.create_task(loop.start_tls(client, protocol, tls[1], **LOCALHOST))
    await upgrading.asked
    await turns(5 if waits else 1)
    secure_there = await loop.start_tls(server, there, tls[0], server_side=True)
    secure = await client_side
    there.transport, protocol.transport = secure_there, secure
    for recorder in (there, protocol):
        recorder.calls.append("connection_made")  # that it was told before, in plain
    secure.write(b"secret")
    assert await there.received(6) == b"secret"
    secure_there.write(b"answer")
    assert await protocol.received(6) == b"answer"
    await closed((secure, protocol), (secure_there, there))
    assert plain.data == b"" and upgrading.data == b"STARTTLS\n"


async def test_start_tls_behind_what_is_still_to_be_written(loop, pair, tls, errors):
    """Megabytes in plain are under way on both sides; the handshake comes after them."""
    ours, theirs = pair
    size = 3_000_000
    client, plain = await loop.create_connection(Recorder, sock=ours)
    server, there_plain = await loop.create_connection(Recorder, sock=theirs)
    client.write(some_bytes(size, 1))
    client_protocol, server_protocol = Recorder(), Recorder()

    async def serve():
        assert await there_plain.received(size) == some_bytes(size, 1)
        server.write(some_bytes(size, 2))
        return await loop.start_tls(server, server_protocol, tls[0], server_side=True)

    serving = asyncio.create_task(serve())
    assert await plain.received(size) == some_bytes(size, 2)
    secure = await loop.start_tls(client, client_protocol, tls[1], **LOCALHOST)
    secure_there = await serving
    client_protocol.calls.append("connection_made")
    server_protocol.calls.append("connection_made")
    secure.write(b"secret")
    assert await server_protocol.received(6) == b"secret"
    await closed((secure, client_protocol), (secure_there, server_protocol))
    # The pause was told to the protocol before: sslproto hears of its end alone, and asserts.
    assert {context["message"] for context in errors} <= {"protocol.resume_writing() failed"}
    errors.clear()


async def test_start_tls_with_bytes_in_the_client_s_reader(loop, tls):
    """What came in plain and is not read yet stays in front of what comes by TLS."""

    async def serve(reader, writer):
        writer.write(b"welcome\nand more\n")
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go on\n")
        await writer.start_tls(tls[0])
        writer.write(b"secret\n")
        assert await reader.readline() == b"answer\n"
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    await until(lambda: len(reader._buffer) == 23)
    await writer.start_tls(tls[1], **LOCALHOST)
    assert await reader.readline() == b"welcome\n"
    writer.write(b"answer\n")
    assert await reader.read() == b"and more\ngo on\nsecret\n"
    await close(writer, server)


READER_GIVES_BACK = "_incoming" in asyncio.BaseEventLoop.start_tls.__code__.co_names


@pytest.mark.skipif(not READER_GIVES_BACK, reason="this Python's StreamReader keeps the handshake's bytes")
async def test_start_tls_with_the_client_hello_in_the_server_s_reader(loop, tls):
    """The client does not wait for an answer."""

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        await until(lambda: len(reader._buffer) > 100)
        await writer.start_tls(tls[0])
        writer.write((await reader.readline()).upper())
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    await writer.start_tls(tls[1], **LOCALHOST)
    writer.write(b"secret\n")
    assert await reader.read() == b"SECRET\n"
    await close(writer, server)


@pytest.mark.parametrize("kind", [Recorder, Buffered])
async def test_start_tls_the_other_way_round(loop, pair, tls, kind):
    """Who connected is the server of TLS; to either kind of protocol."""
    ours, theirs = pair
    (plain, _), (plain_there, _) = [await loop.create_connection(Recorder, sock=sock) for sock in pair]
    protocol, there = kind(), kind()
    accepting = asyncio.create_task(loop.start_tls(plain, protocol, tls[0], server_side=True))
    secure_there = await loop.start_tls(plain_there, there, tls[1], **LOCALHOST)
    secure = await accepting
    if kind is Recorder:
        for recorder in (protocol, there):
            recorder.calls.append("connection_made")  # that it was told before, in plain
    data = some_bytes(100_000)
    for transport in (secure, secure_there):
        assert transport.get_protocol() in (protocol, there)
        transport.write(data)
    await until(lambda: protocol.data == data and there.data == data)
    await closed((secure, protocol), (secure_there, there))


@pytest.mark.parametrize("over", ["protocol", "writer"])
async def test_tls_in_tls(loop, tls, over):
    """A second handshake inside the first connection."""
    data = some_bytes(200_000)

    async def serve(reader, writer):
        assert await reader.readexactly(9) == b"STARTTLS\n"
        writer.write(b"go on\n")
        await writer.start_tls(tls[0])
        assert isinstance(writer.get_extra_info("ssl_object"), ssl.SSLObject)
        writer.write(await reader.readexactly(len(data)))
        await writer.drain()
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls[0])
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=tls[1], **LOCALHOST)
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go on\n"
    if over == "writer":
        await writer.start_tls(tls[1], **LOCALHOST)
        writer.write(data)
        assert await reader.read() == data
        await close(writer, server)
    else:
        protocol = Recorder()
        protocol.calls.append("connection_made")
        transport = await loop.start_tls(writer.transport, protocol, tls[1], **LOCALHOST)
        transport.write(data)
        assert await protocol.received(len(data)) == data
        transport.close()
        assert await protocol.lost is None
        await close(server)
    await turns(5)


@pytest.mark.parametrize("side", [0, 1], ids=["server", "client"])
async def test_start_tls_behind_the_peer_s_end(loop, pair, tls, connect, side):
    """The end was told to the protocol before; the handshake hears of it, and does not wait for its timeout."""
    ours, theirs = pair
    transport, protocol = await connect(ours, lambda: Recorder(keep_open=True))
    theirs.send(b"go on")
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: "eof_received" in protocol.calls)
    with pytest.raises(ConnectionResetError):
        await loop.start_tls(transport, protocol, tls[side],
                             server_side=not side, server_hostname="localhost" if side else None)
    await turns(2)
    assert ours.fileno() == -1


async def test_start_tls_is_refused(loop, pair, tls, connect):
    ours, theirs = pair
    transport, protocol = await connect(ours)
    with pytest.raises(TypeError, match="sslcontext is expected to be an instance of ssl.SSLContext, got None"):
        await loop.start_tls(transport, protocol, None)
    reading, writing = (open(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb")))
    pipe, received = await loop.connect_read_pipe(Recorder, reading)
    with pytest.raises(TypeError, match="is not supported by start_tls"):
        await loop.start_tls(pipe, protocol, tls[1])
    pipe.close()
    await received.lost
    writing.close()
    transport.close()
    await protocol.lost


# -- time limits --


@pytest.mark.parametrize("side", ["client", "server", "start_tls"])
async def test_handshake_takes_too_long(loop, pair, tls, side):
    """The other end says nothing."""
    ours, theirs = pair
    with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than 0.03 seconds"):
        if side == "client":
            await loop.create_connection(Recorder, sock=ours, ssl=tls[1], **LOCALHOST, ssl_handshake_timeout=0.03)
        elif side == "server":
            await loop.connect_accepted_socket(Recorder, ours, ssl=tls[0], ssl_handshake_timeout=0.03)
        else:
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            await loop.start_tls(transport, protocol, tls[1], **LOCALHOST, ssl_handshake_timeout=0.03)
    await turns(3)
    assert await ended(loop, theirs)


async def ended(loop, sock):
    with contextlib.suppress(ConnectionResetError):
        await read_all(loop, sock)
    return True


async def test_server_closes_a_client_that_says_nothing(loop, tls, stack):
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=tls[0], ssl_handshake_timeout=0.03)
    silent = stack.enter_context(socket.create_connection(server.sockets[0].getsockname()))
    silent.setblocking(False)
    assert await ended(loop, silent)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=tls[1], **LOCALHOST)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    await close(writer, server)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("option", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_limit_that_is_none(loop, tls, pair, option):
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"{option} should be a positive number"):
            await loop.create_connection(Recorder, sock=pair[0].dup(), ssl=tls[1], **LOCALHOST, **{option: value})
    with pytest.raises(ValueError, match=f"{option} is only meaningful with ssl"):
        await loop.create_connection(Recorder, sock=pair[0], **{option: 1})
    gc.collect()


async def test_shutdown_takes_too_long(loop, connected, tls):
    """The peer does not answer close_notify: it does not read."""
    (client, lost), (server, there) = await both(connected, tls, client_options={"ssl_shutdown_timeout": 0.03})
    server.pause_reading()
    await turns(2)
    client.close()
    assert isinstance(await lost.lost, TimeoutError)
    server.abort()
    await there.lost


async def test_shutdown_of_a_server_takes_too_long(loop, tls, stack):
    """What it still has to send is not taken."""
    made = loop.create_future()
    server = await loop.create_server(
        lambda: made.set_result(Recorder()) or made.result(), "127.0.0.1", 0, ssl=tls[0], ssl_shutdown_timeout=0.03)
    client, protocol = await loop.create_connection(
        Recorder, *server.sockets[0].getsockname(), ssl=tls[1], **LOCALHOST)
    there = await made
    await until(lambda: there.transport)
    client.pause_reading()
    there.transport.write(some_bytes(20_000_000))
    there.transport.close()
    assert isinstance(await there.lost, TimeoutError)
    client.abort()
    await protocol.lost
    await close(server)


# -- ends --


async def test_close_sends_all_first(loop, connected, tls):
    """Twenty megabytes are still to be encrypted and sent."""
    (client, sent), (server, received) = await both(connected, tls)
    data = some_bytes(20_000_000)
    client.write(data)
    client.close()
    client.close()
    assert client.is_closing()
    assert await received.lost is None
    assert len(received.data) == len(data) and received.data == data
    assert await sent.lost is None


async def test_close_sends_all_to_a_slow_reader(loop, pair, tls):
    """So slow that the rest is sent long after close()."""
    ours, theirs = pair
    reader = asyncio.StreamReader(limit=4096)
    data = some_bytes(100_000_000)

    class Sends(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(data)
            transport.close()

    accepting = asyncio.create_task(loop.connect_accepted_socket(Sends, theirs, ssl=tls[0]))
    _, protocol = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader), sock=ours, ssl=tls[1], **LOCALHOST)
    _, sent = await accepting
    received = bytearray()
    while block := await reader.read(20_000):
        received += block
        await turns(2)
    assert received == data
    assert await sent.lost is None
    await turns(3)


@pytest.mark.parametrize("how", ["abort", "reset", "close"])
async def test_peer_leaves_beside_close(loop, pair, tls, connected, how, errors):
    """Much is still to be sent when close() is called, and it never can be."""
    (client, sent), (server, received) = await both(connected, tls)
    client.write(some_bytes(20_000_000))
    client.close()
    await until(lambda: received.data)
    if how == "reset":
        server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "close":
        server.close()
    else:
        server.abort()
    lost = await sent.lost
    assert lost is None or isinstance(lost, OSError)
    assert sent.calls[-1] == "connection_lost"
    await received.lost
    assert len(received.data) < 20_000_000


async def test_both_close_at_once(connected, tls):
    """Who is still sent to after its own close_notify may say so."""
    client, server = await both(connected, tls)
    for transport, _ in (client, server):
        transport.write(some_bytes(100_000))
        transport.close()
    for _, protocol in (client, server):
        lost = await protocol.lost
        assert lost is None or "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" in str(lost)


@pytest.mark.parametrize("moment", ["handshake", "idle", "writing"])
@pytest.mark.parametrize("how", ["reset", "end without close_notify", "half a record", "garbage"])
async def test_abrupt_end(loop, stack, tls, errors, moment, how):
    """connection_lost() comes once, or the handshake fails; nothing stays behind."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = socket.create_connection(listener.getsockname())
    client.setblocking(False)
    raw, _ = listener.accept()
    raw.setblocking(False)
    connecting = asyncio.create_task(loop.create_connection(Recorder, sock=client, ssl=tls[1], **LOCALHOST))
    if moment == "handshake":
        await loop.sock_recv(raw, 100)
    else:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = tls[0].wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tunnel.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(raw, outgoing.read())
                incoming.write(await loop.sock_recv(raw, 65536))
            else:
                await loop.sock_sendall(raw, outgoing.read())
                break
        transport, protocol = await connecting
        if moment == "writing":
            transport.write(some_bytes(10_000_000))
            await turns(3)
    if how == "reset":
        reset(raw)
    elif how in ("garbage", "half a record"):
        await loop.sock_sendall(raw, b"neither a record nor an alert" * 10 if how == "garbage"
                                else b"\x17\x03\x03\x40\x00the beginning")
        raw.shutdown(socket.SHUT_WR)
        if moment == "writing":
            reset(raw)
    else:
        raw.shutdown(socket.SHUT_WR)
        if moment == "writing":
            reset(raw)
    if moment == "handshake":
        with pytest.raises(OSError):
            await connecting
    else:
        lost = await protocol.lost
        assert lost is None or isinstance(lost, OSError)
        assert protocol.calls.count("connection_lost") == 1 and protocol.calls.count("eof_received") <= 1
        assert transport.is_closing()
    raw.close()
    # A garbled record is told of, as on the selector loop.
    assert len(errors) <= 1
    errors.clear()


async def test_eof_received_may_not_keep_it_open(connected, tls, caplog):
    """There is no half-closed TLS."""
    (client, lost), (server, there) = await both(connected, tls, client=lambda: Recorder(keep_open=True))
    server.close()
    assert await lost.lost is None and await there.lost is None
    assert "returning true from eof_received() has no effect when using ssl" in caplog.text
    with pytest.raises(NotImplementedError):
        client.write_eof()


async def test_abort(connected, tls):
    (client, lost), (server, there) = await both(connected, tls)
    client.write(some_bytes(1_000_000))
    client.abort()
    assert await lost.lost is None
    await there.lost
    assert len(there.data) < 1_000_000 or bytes(there.data) == some_bytes(1_000_000)


@pytest.mark.parametrize("turn", range(1, 12, 2))
async def test_cancelled_handshake(loop, pair, tls, turn):
    ours, theirs = pair
    tasks = [asyncio.create_task(loop.connect_accepted_socket(Recorder, theirs, ssl=tls[0])),
             asyncio.create_task(loop.create_connection(Recorder, sock=ours, ssl=tls[1], **LOCALHOST))]
    await turns(turn)
    tasks[1].cancel()
    for task in tasks:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            transport, protocol = await task
            transport.abort()
            await protocol.lost
    await turns(3)


async def test_write_after_close_is_dropped(connected, tls):
    client, server = await both(connected, tls)
    client[0].close()
    client[0].write(b"too late")
    assert await server[1].lost is None
    assert server[1].data == b""
    assert await client[1].lost is None


async def test_program_that_drives_ssl_objects_itself(loop):
    """OpenSSL's users ask errno what a failed call was: it must not be the end of the loop's sleep."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    incoming.write_eof()
    for _ in range(3):
        await asyncio.sleep(0.01)
        # (Of which kind differs by CPython's release.)
        with pytest.raises(ssl.SSLError):
            client.do_handshake()
