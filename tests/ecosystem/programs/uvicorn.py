"""uvicorn.

By its command, with --loop, in one process and with workers, on both of its HTTP parsers; WebSockets; Ctrl-C.
"""

import asyncio
import hashlib
import signal

import httpx
import websockets

from ecosystem import kit
from ecosystem.kit import LOOP_KIND, loop_kind

PACKAGES = ["uvicorn>=0.36", "httptools>=0.6", "websockets>=14", "httpx>=0.27"]
QUICK = True


async def app(scope, receive, send):
    """Answer with the loop's kind and the digest of what came, then a body of the size that was asked for."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        return
    sha = hashlib.sha256()
    while True:
        message = await receive()
        sha.update(message.get("body", b""))
        if not message.get("more_body"):
            break
    headers = [(b"loop", loop_kind().encode()), (b"digest", sha.hexdigest().encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(int(scope["query_string"])):
        await send({"type": "http.response.body", "body": bytes(50_000), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def use(port):
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30) as client:

        async def one(number):
            body = kit.payload(1000 * number, number)
            response = await client.post(f"/?{number % 10}", content=body)
            assert response.headers["loop"] == LOOP_KIND, response.headers
            assert response.headers["digest"] == hashlib.sha256(body).hexdigest()
            assert len(response.content) == 50_000 * (number % 10)

        await kit.in_waves(100, 50, one)

    async def talk(number):
        async with websockets.connect(f"ws://127.0.0.1:{port}/", compression=None) as socket:
            for size in (1, 1000, 200_000):
                await socket.send(kit.payload(size, number))
                assert await socket.recv() == kit.payload(size, number)

    await kit.in_waves(20, 20, talk)


def main():
    for options in (["--http", "h11"], ["--http", "httptools"], ["--workers", "2"]):
        port = kit.free_port()
        command = ["-m", "uvicorn", "ecosystem.programs.uvicorn:app", "--loop", kit.SPEC, "--port", port, "--log-level", "warning"]
        with kit.child(*command, *options, port=port, stop=signal.SIGINT, ok=(0, -signal.SIGINT)):
            asyncio.run(use(port), loop_factory=kit.new_event_loop)
