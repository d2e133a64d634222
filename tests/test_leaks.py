"""Nothing grows: a mixed workload, again and again, takes no more memory the fifth time than the third."""

import asyncio
import gc
import socket
import sys

import pytest

from support import Recorder, close, some_bytes, turns


async def receive_in_all_ways(loop):
    """Completed, cancelled before and after submission, closed: a hundred each."""
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        buffer = bytearray(10)
        for number in range(100):
            task = loop.create_task(loop.sock_recv(a, 10))
            await turns(number % 3)
            b.send(b"x")
            await task
            task = loop.create_task(loop.sock_recv_into(a, buffer))
            await turns(number % 3)
            task.cancel()
            await asyncio.wait([task])
    for _ in range(100):
        a, b = socket.socketpair()
        with b:
            a.setblocking(False)
            task = loop.create_task(loop.sock_recv(a, 10))
            await turns(1)
            if isinstance(loop, asyncio.SelectorEventLoop):
                task.cancel()  # which would wait for ever
                await turns(1)
            a.close()
            await asyncio.wait([task])
            task.cancelled() or task.exception()


async def send_and_give_up(loop):
    for _ in range(50):
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            task = loop.create_task(loop.sock_sendall(a, bytes(1_000_000)))
            await turns(2)
            task.cancel()
            await asyncio.wait([task])


async def connections(loop, server_tls, client_tls, count):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
    for number in range(count):
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_tls, server_hostname="localhost" if client_tls else None
        )
        writer.write(b"%d\n" % number)
        assert await reader.readline() == b"%d\n" % number
        if number % 2:
            writer.transport.abort()
        await close(writer)
    await close(server)
    await turns(5)


async def datagrams(loop):
    class Protocol(asyncio.DatagramProtocol):
        def __init__(self):
            self.lost = loop.create_future()
            self.count = 0

        def datagram_received(self, data, addr):
            self.count += 1

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    for _ in range(10):
        a, protocol = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
        for _ in range(10):
            a.sendto(b"to myself", a.get_extra_info("sockname"))
        while protocol.count < 10:
            await turns(1)
        a.close()
        await protocol.lost


async def bulk(loop):
    for _ in range(5):
        a, b = socket.socketpair()
        for sock in (a, b):
            sock.setblocking(False)
        sender, first = await loop.create_connection(Recorder, sock=a)
        receiver, second = await loop.create_connection(Recorder, sock=b)
        data = some_bytes(1_000_000)
        sender.write(data)
        sender.close()
        await first.lost
        await second.lost
        assert second.data == data


async def workload(tls):
    loop = asyncio.get_running_loop()
    await receive_in_all_ways(loop)
    await send_and_give_up(loop)
    await connections(loop, None, None, 50)
    await connections(loop, *tls, 5)
    await datagrams(loop)
    await bulk(loop)
    await asyncio.gather(*(asyncio.to_thread(int) for _ in range(50)))
    for _ in range(500):
        await asyncio.sleep(0.00001)


@pytest.mark.parametrize("loops", ["a loop for each", "one loop"])
def test_repeated_workload(loop_factory, tls, loops):
    blocks = []
    runner = asyncio.Runner(loop_factory=loop_factory)
    for _ in range(5):
        runner.run(workload(tls))
        if loops == "a loop for each":
            runner.close()
            runner = asyncio.Runner(loop_factory=loop_factory)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    runner.close()
    assert blocks[4] - blocks[2] <= blocks[2] / 1000, blocks


def test_types_of_cython(loop_factory):
    """An object that goes gives back the reference to its type; it is seen nowhere but in the type's count."""
    def counts():
        gc.collect()
        return {kind: sys.getrefcount(kind) for kind in object.__subclasses__()
                if kind.__module__.startswith(("_cython", "uringloop"))}

    async def use(loop):
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            b.setblocking(False)
            waiting = loop.create_task(loop.sock_recv(a, 10))
            await turns(1)
            if hasattr(loop, "_proactor"):
                assert "Overlapped" in repr(loop._proactor)
            await loop.sock_sendall(b, b"x")
            await waiting

    before = {}
    for time in range(3):
        for _ in range(50):
            loop = loop_factory()
            loop.run_until_complete(use(loop))
            loop.close()
        after = counts()
        grown = {kind: after[kind] - before[kind] for kind in before if after[kind] > before[kind] + 5}
        before = after
    assert not grown
