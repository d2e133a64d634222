"""websockets, client and server.

A hundred connections, TLS, compression, fragments, a slow reader, a server that hangs up and is found again.
"""

import asyncio

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from ecosystem import kit

PACKAGES = ["websockets>=14"]
QUICK = True


async def echo(socket):
    async for message in socket:
        if message == "hang up":
            await socket.close(1011)
        elif message == "abort":
            socket.transport.abort()
        else:
            await socket.send(message)


async def talk(url, number, **options):
    async with connect(url, max_size=1 << 22, **options) as socket:
        for size in (0, 1, 125, 126, 65535, 65536, 200_000):
            message = kit.payload(size, number)
            await socket.send(message)
            assert await socket.recv() == message
        # One message in fragments.
        await socket.send(["a" * 1000, "b" * 100_000, "c"])
        assert await socket.recv() == "a" * 1000 + "b" * 100_000 + "c"
        await (await socket.ping())


async def main():
    server_tls, client_tls = kit.tls()
    async with (serve(echo, "127.0.0.1", 0, max_size=1 << 22) as plain,
                serve(echo, "127.0.0.1", 0, ssl=server_tls, max_size=1 << 22) as secure):
        urls = [f"ws://127.0.0.1:{plain.sockets[0].getsockname()[1]}", f"wss://127.0.0.1:{secure.sockets[0].getsockname()[1]}"]
        await kit.in_waves(100, 100, lambda number: talk(urls[0], number))
        await kit.in_waves(10, 10, lambda number: talk(urls[1], number, ssl=client_tls, compression=None))

        # More is on the way than buffers hold before the first is read.
        async with connect(urls[0], compression=None, max_size=1 << 22) as socket:
            async with asyncio.TaskGroup() as group:
                group.create_task(send_all(socket, 60))
                await asyncio.sleep(0.3)
                for number in range(60):
                    assert await socket.recv() == kit.payload(200_000, number)

        # `async for` reconnects whenever the server ends the connection, in whatever way.
        ways = ["hang up", "abort", "hang up", "abort"]
        async for socket in connect(urls[0]):
            try:
                await socket.send(ways.pop() if ways else "all is well")
                assert await socket.recv() == "all is well"
            except websockets.ConnectionClosedError:
                continue
            await socket.close()
            break
        assert not ways


async def send_all(socket, count):
    for number in range(count):
        await socket.send(kit.payload(200_000, number))
