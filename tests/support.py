"""What several test modules use: sockets, protocols that record, and ways to let a loop turn."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
import struct
from pathlib import Path

import pytest

from uringloop import sock_calls

CERTIFICATE = Path(__file__).with_name("certificate.pem")


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on the loopback device")


# -- sockets --


def tcp_pair():
    """Two connected TCP sockets that hold about 2 MB, however far the machine lets such buffers grow."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
    for sock in (a, b):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return a, b


def reset(sock):
    """Close a TCP socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fill(end, size=65536):
    """Write until the non-blocking socket or pipe, an object or a number, takes no more; return the number of bytes.

    size: of a write; one of datagrams must fit into one.
    """
    number = end if isinstance(end, int) else end.fileno()
    total = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            total += os.write(number, bytes(size))
    return total


def drain(end):
    """Read what has arrived at a non-blocking socket or pipe."""
    data = bytearray()
    with contextlib.suppress(BlockingIOError):
        while block := os.read(end.fileno(), 1 << 20):
            data += block
    return bytes(data)


@contextlib.contextmanager
def full_fifo(path):
    """(reader, writer) of a FIFO whose writes wait in the kernel, which has their buffer by then.

    A FIFO knows no RWF_NOWAIT, and its writer is not O_NONBLOCK.
    """
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as reader, open(path, "wb", 0) as writer:
        os.set_blocking(writer.fileno(), False)
        fill(writer, 4096)
        os.set_blocking(writer.fileno(), True)
        yield reader, writer


async def read_all(loop, sock):
    """Read a socket to the end of the stream."""
    data = bytearray()
    while block := await loop.sock_recv(sock, 1 << 20):
        data += block
    return bytes(data)


async def read_exactly(loop, sock, size):
    data = bytearray()
    while len(data) < size:
        block = await loop.sock_recv(sock, size - len(data))
        assert block, f"the stream ended after {len(data)} of {size} bytes"
        data += block
    return bytes(data)


def some_bytes(size, seed=0):
    """Bytes of which no part resembles another."""
    return random.Random(seed).randbytes(size)


# -- turns of the loop, in place of time --


async def turns(count):
    """Let the loop turn; whatever is ready in the kernel by then has been seen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    """Let the loop turn until condition() is true; the test's time limit is the limit."""
    while not condition():
        await asyncio.sleep(0)


def waits(loop):
    """What `sock_*` calls wait by; always empty on the selector loop."""
    proactor = getattr(loop, "_proactor", None)
    return [] if proactor is None else [owner for owner in proactor._ring.owners() if type(owner) is sock_calls.Wait]


# -- protocols --


async def closed(*endpoints):
    """Close them, each a transport and its protocol, and see every connection end without an error."""
    for transport, _ in endpoints:
        transport.close()
    for _, protocol in endpoints:
        assert await protocol.lost is None


class Recorder(asyncio.Protocol):
    """Remembers what it was told; `lost` is the future of connection_lost's argument.

    keep_open: what eof_received() returns.
    """

    def __init__(self, keep_open=False):
        self.keep_open = keep_open
        self.transport = None
        self.data = bytearray()
        self.calls = []
        # Set twice, it raises: connection_lost() comes once.
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("connection_made")

    def data_received(self, data):
        assert type(data) is bytes and data
        self.data += data
        if self.calls[-1] != "data_received":
            self.calls.append("data_received")

    def eof_received(self):
        self.calls.append("eof_received")
        return self.keep_open

    def pause_writing(self):
        self.calls.append("pause_writing")

    def resume_writing(self):
        self.calls.append("resume_writing")

    def connection_lost(self, exc):
        self.calls.append("connection_lost")
        self.lost.set_result(exc)

    async def received(self, size):
        await until(lambda: len(self.data) >= size)
        return bytes(self.data)


class Buffered(asyncio.BufferedProtocol):
    """Receives in pieces of at most `size` bytes, into one buffer."""

    def __init__(self, size=1000):
        self.transport = None
        # sslproto fills slices of it; one of a bytearray would be a copy.
        self.buffer = memoryview(bytearray(size))
        self.data = bytearray()
        self.updates = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data += self.buffer[:count]
        self.updates.append(count)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def check_protocol_changes(transport, first, write, *peers, buffered=Buffered):
    """Give the transport of `first` a `buffered` and then another Recorder: each gets what is written in its time.

    write: on the other side; peers: (transport, protocol) of what is closed along.
    """
    write(b"first")
    await first.received(5)
    second = buffered()
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    write(b"second")
    await until(lambda: second.data == b"second")
    third = Recorder()
    third.connection_made(transport)
    transport.set_protocol(third)
    write(b"third")
    assert await third.received(5) == b"third"
    await closed(*peers, (transport, third))
    assert first.data == b"first" and second.data == b"second"


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def close(*closables):
    """Close StreamWriters and Servers, and see their connections end."""
    for closable in closables:
        closable.close()
    for closable in closables:
        await closable.wait_closed()


# -- TLS --


def certificate_contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    return server, ssl.create_default_context(cafile=CERTIFICATE)
