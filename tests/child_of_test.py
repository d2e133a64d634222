"""What test_processes runs in a process of its own.

A child that is spawned finds it by this name, since `tests` is on pytest's pythonpath; the name that pytest gives a
test module means something in pytest's process only.
"""

import asyncio

import uringloop


def echo_in_a_child(factory_name, connection):
    """Send b"from a child" to the address that comes, and what is answered back."""

    async def main():
        reader, writer = await asyncio.open_connection(*connection.recv())
        writer.write(b"from a child")
        writer.write_eof()
        connection.send(await reader.read())
        writer.close()
        await writer.wait_closed()

    factory = uringloop.new_event_loop if factory_name == "uringloop.new_event_loop" else asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
