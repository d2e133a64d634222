"""The Quick Start: an echo server and its client in one program, on io_uring.

    python examples/echo.py [runner | run | policy]

The argument chooses how the loop gets its place; all three run the same code, which is plain asyncio.
"""

import asyncio
import sys

import uringloop


async def client(host, port):
    message = "Hello, World!"
    print(f"Send: {message!r}")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(message.encode())
    answer = await reader.readexactly(len(message))
    print(f"Received: {answer.decode()!r}")
    print("Closing connection")
    writer.close()
    await writer.wait_closed()


async def main():
    served = asyncio.Event()

    async def echo(reader, writer):
        peer = writer.get_extra_info("peername")
        print(f"Connection from {peer}")
        while data := await reader.read(4096):
            print(f"Received: {data.decode()}")
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        print(f"Connection with {peer} closed")
        served.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 8888)
    async with server:
        print(f"Serving on {server.sockets[0].getsockname()}")
        await client("127.0.0.1", 8888)
        await served.wait()


def run_by_runner():
    with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
        runner.run(main())


def run_by_run():
    uringloop.run(main())


def run_by_policy():
    # For Python 3.12 and 3.13; deprecated from 3.14 on, gone in 3.16.
    asyncio.set_event_loop_policy(uringloop.IouringProactorEventLoopPolicy())
    asyncio.run(main())


WAYS = {"runner": run_by_runner, "run": run_by_run, "policy": run_by_policy}

if __name__ == "__main__":
    way = sys.argv[1] if len(sys.argv) > 1 else "runner"
    if way not in WAYS:
        sys.exit(f"usage: {sys.argv[0]} [{' | '.join(WAYS)}]")
    WAYS[way]()
