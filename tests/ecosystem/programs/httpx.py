"""httpx, with HTTP/1.1 and HTTP/2.

Against a server of hypercorn's in this process: hundreds of requests over TLS, streams both ways, a pool that is full,
timeouts, and cancelled requests.
"""

import asyncio

import httpx
import hypercorn.asyncio
import hypercorn.config

from ecosystem import kit

PACKAGES = ["httpx[http2]>=0.27", "hypercorn>=0.17"]
QUICK = True


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"http", scope["http_version"].encode())]})
    if scope["path"] == "/never":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while (message := await receive())["type"] == "http.request":
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        if not message["more_body"]:
            break
    await send({"type": "http.response.body", "body": b""})


async def use(client, version):
    async def one(number):
        body = kit.payload(200 * number, number)
        response = await client.post("/", content=body)
        assert response.headers["http"] == version
        assert response.content == body

    await kit.in_waves(300, 60, one)
    big = kit.payload(4 << 20)

    async def pieces():
        for start in range(0, len(big), 50_000):
            yield big[start:start + 50_000]

    received = bytearray()
    async with client.stream("POST", "/", content=pieces()) as response:
        async for piece in response.aiter_bytes():
            received += piece
    assert received == big

    async def never(number):
        if number % 2:
            task = asyncio.create_task(client.get("/never"))
            await asyncio.sleep(0.05)
            task.cancel()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        else:
            try:
                await client.get("/never", timeout=0.1)
            except httpx.ReadTimeout:
                return
            raise AssertionError("there is no answer")

    await kit.in_waves(20, 20, never)
    await kit.in_waves(20, 20, one)


async def main():
    port, stop = kit.free_port(), asyncio.Event()
    config = hypercorn.config.Config()
    config.bind, config.certfile, config.keyfile = [f"127.0.0.1:{port}"], str(kit.CERTIFICATE), str(kit.CERTIFICATE)
    config.graceful_timeout, config.loglevel = 1, "WARNING"
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    while not kit.listens(port):
        await asyncio.sleep(0.02)
    _, context = kit.tls()
    for version in ("1.1", "2"):
        limits = httpx.Limits(max_connections=30)
        async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context, http2=version == "2", limits=limits,
                                     timeout=30) as client:
            await use(client, version)
    stop.set()
    await serving
