"""Trio in its guest mode, with the loop as its host.

Trio's servers answer asyncio's clients and the other way round, in one thread; what either cancels the other sees.
"""

import asyncio
from functools import partial

import trio

from ecosystem import kit

PACKAGES = ["trio>=0.26"]

BIG = kit.payload(2 << 20)


async def trio_side(listening, stop):
    async def serve(stream):
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        listening.set_result(listener.socket.getsockname()[1])
        # A client of the loop's server.
        port = await trio_wait(stop["server"])
        for number in range(50):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"%d\n" % number)
                assert await stream.receive_some() == b"%d\n" % number
        with trio.move_on_after(0.05) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        await trio.to_thread.run_sync(sum, range(1000))
        await trio_wait(stop["done"])
        nursery.cancel_scope.cancel()
    return "trio is done"


async def trio_wait(future):
    """Wait in Trio for a future of the loop's, which is of the same thread."""
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    if not future.done():
        future.add_done_callback(lambda future: token.run_sync_soon(trio.lowlevel.reschedule, task))
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return future.result()


async def talk(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()


async def main():
    loop = asyncio.get_running_loop()
    listening, ended = loop.create_future(), loop.create_future()
    stop = {"server": loop.create_future(), "done": loop.create_future()}
    host = asyncio.current_task()

    def done(outcome):
        ended.set_result(outcome)
        if not stop["done"].done():
            host.cancel(repr(outcome))

    trio.lowlevel.start_guest_run(trio_side, listening, stop, run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                                  run_sync_soon_not_threadsafe=loop.call_soon, host_uses_signal_set_wakeup_fd=True,
                                  done_callback=done)
    port = await listening

    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        stop["server"].set_result(server.sockets[0].getsockname()[1])
        await kit.in_waves(200, 50, lambda number: talk(port, b"%d" % number * 100))
        await talk(port, BIG)
        stop["done"].set_result(None)
        assert (await ended).unwrap() == "trio is done"
