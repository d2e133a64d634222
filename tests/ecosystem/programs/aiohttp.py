"""aiohttp, client and server.

TLS, uploads, WebSockets, sendfile, a client that goes away, a server that comes back on its port.
"""

import asyncio
import hashlib
from pathlib import Path

import aiohttp
from aiohttp import web

from ecosystem import kit

PACKAGES = ["aiohttp>=3.10"]
QUICK = True

FILE = kit.payload(3 << 20, "file")
UPLOAD = kit.payload(8 << 20, "upload")
left = asyncio.Event()


async def number(request):
    return web.Response(body=kit.payload(1000 * int(request.match_info["number"]), request.match_info["number"]))


async def digest(request):
    sha = hashlib.sha256()
    async for chunk in request.content.iter_any():
        sha.update(chunk)
    return web.Response(text=sha.hexdigest())


async def echo(request):
    socket = web.WebSocketResponse(max_msg_size=1 << 20)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


async def forever(request):
    try:
        await asyncio.sleep(3600)
    finally:
        left.set()


async def serve(port, ssl=None):
    app = web.Application(client_max_size=1 << 25)
    app.add_routes([web.get("/number/{number}", number), web.post("/digest", digest), web.get("/echo", echo),
                    web.get("/forever", forever), web.static("/static", Path.cwd())])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=ssl).start()
    return runner


async def get_number(session, url, wanted):
    async with session.get(f"{url}/number/{wanted}") as response:
        assert await response.read() == kit.payload(1000 * wanted, str(wanted))


async def talk(session, url, wanted):
    async with session.ws_connect(f"{url}/echo", max_msg_size=1 << 20) as socket:
        for size in (0, 1, 125, 126, 65536, 300_000):
            message = kit.payload(size, wanted)
            await socket.send_bytes(message)
            assert await socket.receive_bytes() == message


async def use(session, url):
    await kit.in_waves(300, 100, lambda wanted: get_number(session, url, wanted))

    async def pieces():
        for start in range(0, len(UPLOAD), 100_000):
            yield UPLOAD[start:start + 100_000]

    async with session.post(f"{url}/digest", data=pieces()) as response:
        assert await response.text() == hashlib.sha256(UPLOAD).hexdigest()
    await kit.in_waves(40, 40, lambda wanted: talk(session, url, wanted))
    async with session.get(f"{url}/static/file") as response:
        assert await response.read() == FILE

    left.clear()
    try:
        async with asyncio.timeout(0.2):
            await session.get(f"{url}/forever")
    except TimeoutError:
        await asyncio.wait_for(left.wait(), 10)
    else:
        raise AssertionError("there is no answer")


async def main():
    Path("file").write_bytes(FILE)
    server_tls, client_tls = kit.tls()
    for scheme, ssl in (("http", None), ("https", server_tls)):
        port = kit.free_port()
        url = f"{scheme}://127.0.0.1:{port}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_tls)) as session:
            runner = await serve(port, ssl)
            await use(session, url)
            # The connections that the session keeps are dead now; the server is another on the same port.
            await runner.cleanup()
            try:
                await get_number(session, url, 1)
            except aiohttp.ClientError:
                pass
            else:
                raise AssertionError("the server is gone")
            runner = await serve(port, ssl)
            await get_number(session, url, 1)
        await runner.cleanup()
