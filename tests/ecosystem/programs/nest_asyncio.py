"""nest_asyncio, which replaces a loop's methods and runs it within itself.

It is not developed any more, and does not know Python 3.14: there timeouts find no task, on any loop.
"""

import asyncio

from ecosystem import kit

PACKAGES = ["nest_asyncio>=1.6"]


async def fetch(port, number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"%d\n" % number)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line)


def nested(loop, port, depth):
    """A function that is no coroutine, called by one, and runs the loop itself."""
    async def deeper():
        await asyncio.sleep(0)
        return nested(loop, port, depth - 1)

    found = loop.run_until_complete(asyncio.gather(*(fetch(port, number) for number in range(20))))
    assert found == list(range(20))
    return loop.run_until_complete(deeper()) + 1 if depth else 0


async def outer(loop):
    kit.check_loop()

    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert nested(loop, port, 20) == 20
        try:
            loop.run_until_complete(asyncio.wait_for(asyncio.sleep(3600), 0.05))
        except TimeoutError:
            pass
        # A task that goes on while the loop is run within itself.
        task = asyncio.create_task(asyncio.sleep(0.05, "slept"))
        loop.run_until_complete(asyncio.sleep(0.1))
        assert task.done() and task.result() == "slept"


def use(apply):
    loop = kit.new_event_loop()
    asyncio.set_event_loop(loop)
    apply(loop)
    loop.run_until_complete(outer(loop))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def main():
    # Here: nest_asyncio2's program is made of this one, and needs only its own.
    import nest_asyncio
    use(nest_asyncio.apply)
