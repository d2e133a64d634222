"""granian, whose server of Rust runs on the loop that embeds it.

Its threads call the loop from outside.
"""

import asyncio

import httpx
from granian.server.embed import Server

from ecosystem import kit
from ecosystem.kit import LOOP_KIND, loop_kind

PACKAGES = ["granian>=2.3", "httpx>=0.27"]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"loop", loop_kind().encode())]})
    await send({"type": "http.response.body", "body": body})


async def main():
    port = kit.free_port()
    server = Server(app, address="127.0.0.1", port=port, interface="asginl", log_enabled=False)
    serving = asyncio.create_task(server.serve())
    while not kit.listens(port):
        await asyncio.sleep(0.05)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        async def one(number):
            body = kit.payload(5000 * (number % 100), number)
            response = await client.post("/", content=body)
            assert (response.headers["loop"], response.content) == (LOOP_KIND, body)

        async def given_up(number):
            try:
                await client.post("/slow", content=b"x", timeout=0.1)
            except httpx.ReadTimeout:
                return
            raise AssertionError

        await kit.in_waves(300, 50, one)
        await kit.in_waves(10, 10, given_up)
        await kit.in_waves(50, 50, one)
    server.stop()
    await serving
