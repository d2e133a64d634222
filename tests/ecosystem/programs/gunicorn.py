"""gunicorn, with uvicorn's worker.

Two workers on our loop by a class of one line; a worker that is killed is replaced; HUP starts others while requests run.
"""

import asyncio
import os
import signal

import httpx
from uvicorn_worker import UvicornWorker

from ecosystem import kit
from ecosystem.kit import LOOP_KIND, loop_kind

PACKAGES = ["gunicorn>=22", "uvicorn-worker>=0.3", "httpx>=0.27"]


class Worker(UvicornWorker):
    CONFIG_KWARGS = {"loop": kit.SPEC, "http": "auto"}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    body = f"{loop_kind()} {os.getpid()} {size}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def use(port, parent):
    pids = set()

    async def one(number):
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for attempt in range(20):
                try:
                    response = await client.post(f"http://127.0.0.1:{port}/", content=bytes(1000 * number))
                except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                    # Sent to a worker that is gone.
                    await asyncio.sleep(0.1)
                    continue
                kind, pid, size = response.text.split()
                assert (kind, int(size)) == (LOOP_KIND, 1000 * number), response.text
                pids.add(int(pid))
                return
            raise AssertionError("no worker answers")

    async def until(condition):
        async with asyncio.timeout(20):
            while not condition():
                await kit.in_waves(20, 10, one)

    await kit.in_waves(200, 20, one)
    await until(lambda: len(pids) == 2)
    first = set(pids)
    os.kill(min(first), signal.SIGKILL)
    await until(lambda: len(pids) == 3)
    os.kill(parent, signal.SIGHUP)
    await until(lambda: len(pids - first) >= 3)


def main():
    port = kit.free_port()
    command = ["-m", "gunicorn", "ecosystem.programs.gunicorn:app", "-k", "ecosystem.programs.gunicorn.Worker", "-w", "2",
               "-b", f"127.0.0.1:{port}", "--graceful-timeout", "5"]
    with kit.child(*command, port=port) as process:
        asyncio.run(use(port, process.pid), loop_factory=kit.new_event_loop)
