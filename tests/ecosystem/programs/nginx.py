"""nginx as a peer.

aiohttp's client fetches files from it; nginx closes each connection after a hundred requests.  As a proxy it stands before
a server on the loop, and passes uploads and hundreds of requests on.
"""

import hashlib
import io
import os
from pathlib import Path

import aiohttp
from aiohttp import web

from ecosystem import kit

PACKAGES = ["aiohttp>=3.10"]
SERVERS = ["nginx"]

DIRECTORY, URL = os.environ["ECOSYSTEM_NGINX"].split()
FILE = kit.payload(20 << 20)


async def digest(request):
    sha = hashlib.sha256()
    async for chunk in request.content.iter_any():
        sha.update(chunk)
    return web.Response(text=sha.hexdigest())


async def main():
    for name, content in (("big", FILE), ("small", FILE[:1000])):
        Path(DIRECTORY, name).write_bytes(content)
        os.chmod(Path(DIRECTORY, name), 0o644)
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.post("/digest", digest), web.static("/static", DIRECTORY)])
    runner = web.AppRunner(app)
    await runner.setup()
    port = kit.free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()

    async with aiohttp.ClientSession() as session:
        async def get(path, content):
            async with session.get(f"{URL}/{path}") as response:
                assert response.status == 200, response
                assert await response.read() == content

        async def post(number):
            body = FILE[:20_000 * number]
            async with session.post(f"{URL}/proxy/{port}/digest", data=io.BytesIO(body)) as response:
                assert await response.text() == hashlib.sha256(body).hexdigest()

        async def given_up(number):
            async with session.get(f"{URL}/proxy/{port}/static/big") as response:
                await response.content.readexactly(100_000)

        await kit.in_waves(1500, 50, lambda number: get("small", FILE[:1000]))
        await kit.in_waves(4, 2, lambda number: get("big", FILE))
        await kit.in_waves(200, 50, post)
        await kit.in_waves(4, 2, lambda number: get(f"proxy/{port}/static/big", FILE))
        await kit.in_waves(20, 10, given_up)
        await kit.in_waves(50, 50, lambda number: get(f"proxy/{port}/static/small", FILE[:1000]))
    await runner.cleanup()
