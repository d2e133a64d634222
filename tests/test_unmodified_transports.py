"""The proactor is what `asyncio.proactor_events` expects: the stdlib's own classes run on it, none of ours between.

The loop of these tests is the stdlib's BaseProactorEventLoop. What ProactorEventLoop adds on Windows, reading of the
self-pipe as long as it runs, stands here, since asyncio.windows_events can't be imported elsewhere.

One thing these classes get wrong on Linux shows in each test: they shut a socket down before they close it, which fails
with ENOTCONN where the peer is gone, or where there is none, and then they don't close it.
"""

import asyncio
import contextlib
import errno
import signal
import socket
from asyncio import proactor_events

import pytest

import uringloop
from support import some_bytes, turns


class StdlibLoop(proactor_events.BaseProactorEventLoop):
    def run_forever(self):
        self._proactor._bind_thread()
        self.call_soon(self._loop_self_reading)
        try:
            super().run_forever()
        finally:
            if self._self_reading_future is not None:
                self._self_reading_future.cancel()
                self._self_reading_future = None


transports = []


def note(transport):
    transports.append(transport)
    return transport


@pytest.fixture
def loop():
    before = signal.set_wakeup_fd(-1)
    loop = StdlibLoop(uringloop.IouringProactor())
    failures = []
    loop.set_exception_handler(lambda loop, context: failures.append(context))
    yield loop
    loop.run_until_complete(turns(5))
    for transport in transports:
        transport._conn_lost += 1
        for future in (transport._read_fut, transport._write_fut):
            if future is not None:
                future.cancel()
        if transport._sock is not None:
            transport._sock.close()
            transport._sock = None
    transports.clear()
    loop.run_until_complete(turns(5))
    loop.close()
    signal.set_wakeup_fd(before)
    assert {getattr(context["exception"], "errno", context) for context in failures} <= {errno.ENOTCONN}


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = note(transport)

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class Echo(Recorder):
    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        self.transport.close()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_stream_echo(loop, size):
    async def program():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(Recorder, *address)
        assert type(transport) is proactor_events._ProactorSocketTransport
        data = some_bytes(size)
        transport.write(data)
        transport.write_eof()
        assert await protocol.lost is None
        assert protocol.data == data
        server.close()

    loop.run_until_complete(program())


def test_pause_and_resume(loop):
    async def program():
        a, b = socket.socketpair()
        with b:
            transport, protocol = await loop.create_connection(Recorder, sock=a)
            b.send(b"one")
            while protocol.data != b"one":
                await asyncio.sleep(0)
            transport.pause_reading()
            b.send(b"two")
            await turns(5)
            assert protocol.data == b"one"
            transport.resume_reading()
            while protocol.data != b"onetwo":
                await asyncio.sleep(0)
            transport.close()
            await protocol.lost

    loop.run_until_complete(program())


def test_datagrams(loop):
    class Datagrams(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            note(transport)

        def datagram_received(self, data, addr):
            self.received.set_result((data, addr))

    async def program():
        one, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        assert type(one) is proactor_events._ProactorDatagramTransport
        two, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        one.sendto(b"data", two.get_extra_info("sockname"))
        assert await protocol.received == (b"data", one.get_extra_info("sockname"))

    loop.run_until_complete(program())


def test_sock_methods(loop):
    async def program():
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.setblocking(False)
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            accepted, address = await accepting
            stack.enter_context(accepted)
            assert address == client.getsockname()
            data = some_bytes(300_000)
            sending = asyncio.ensure_future(loop.sock_sendall(client, data))
            got = b""
            while len(got) < len(data):
                got += await loop.sock_recv(accepted, 50_000)
            await sending
            assert got == data

    loop.run_until_complete(program())


def test_call_from_another_thread(loop):
    async def program():
        return await asyncio.to_thread(lambda: 5)

    assert loop.run_until_complete(program()) == 5
    loop.run_until_complete(loop.shutdown_default_executor())
