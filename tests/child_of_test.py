"""What test_processes runs in a process of its own.

A child that is spawned finds it by this name, since `tests` is on pytest's pythonpath; the name that pytest gives a
test module means something in pytest's process only.
"""

import asyncio

import uringloop  # noqa: F401: in `factory`


def echo_in_a_child(factory, connection):
    """Send b"from a child" to the address that comes, and what is answered back.

    factory: of the loop, as loop_factories.expression_of() has it.
    """

    async def main():
        reader, writer = await asyncio.open_connection(*connection.recv())
        writer.write(b"from a child")
        writer.write_eof()
        connection.send(await reader.read())
        writer.close()
        await writer.wait_closed()

    with asyncio.Runner(loop_factory=eval(factory)) as runner:
        runner.run(main())
