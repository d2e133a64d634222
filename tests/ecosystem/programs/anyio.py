"""AnyIO: anyio.run() by its backend_options, and its pytest plugin.

Task groups, cancel scopes, TCP and TLS streams, UDP, UNIX sockets, processes, worker threads, signals.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_process
from anyio.streams.tls import TLSListener, TLSStream

from ecosystem import kit

PACKAGES = ["anyio>=4.8", "pytest>=8"]
QUICK = True

BIG = kit.payload(4 << 20)

TESTS = """
import anyio, pytest
from ecosystem import kit

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": kit.new_event_loop}

@pytest.fixture
async def listener():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        yield listener

@pytest.mark.anyio
async def test_which_loop(listener):
    kit.check_loop()
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: stream.aclose())
        async with await anyio.connect_tcp("127.0.0.1", listener.extra(anyio.abc.SocketAttribute.local_port)) as stream:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        group.cancel_scope.cancel()

@pytest.mark.anyio
@pytest.mark.parametrize("number", range(50))
async def test_scopes(number):
    with anyio.move_on_after(0.001 * (number % 3)) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
"""


async def echo(stream):
    async with stream:
        async for piece in stream:
            await stream.send(piece)


async def there_and_back(stream):
    """Send and receive at the same time what no buffer holds."""
    received = bytearray()
    async with stream, anyio.create_task_group() as group:
        group.start_soon(stream.send, BIG)
        while len(received) < len(BIG):
            received += await stream.receive()
    assert received == BIG


async def streams():
    server_tls, client_tls = kit.tls()
    async with (await anyio.create_tcp_listener(local_host="127.0.0.1") as plain,
                await anyio.create_tcp_listener(local_host="127.0.0.1") as below,
                await anyio.create_unix_listener("socket") as unix, anyio.create_task_group() as group):
        secure = TLSListener(below, server_tls, standard_compatible=False)
        for listener in (plain, secure, unix):
            group.start_soon(listener.serve, echo)
        port = [listener.extra(anyio.abc.SocketAttribute.local_port) for listener in (plain, below)]

        async def tls_stream():
            stream = await anyio.connect_tcp("127.0.0.1", port[1])
            return await TLSStream.wrap(stream, hostname="localhost", ssl_context=client_tls, standard_compatible=False)

        async def small(number):
            async with await anyio.connect_tcp("127.0.0.1", port[0]) as stream:
                for _ in range(10):
                    await stream.send(b"%d" % number)
                    assert await stream.receive() == b"%d" % number

        await there_and_back(await anyio.connect_tcp("127.0.0.1", port[0]))
        await there_and_back(await anyio.connect_unix("socket"))
        await there_and_back(await tls_stream())
        async with anyio.create_task_group() as clients:
            for number in range(200):
                clients.start_soon(small, number)
        # A receive that was given up takes nothing with it.
        async with await anyio.connect_tcp("127.0.0.1", port[0]) as stream:
            for number in range(50):
                with anyio.move_on_after(0.001):
                    await stream.receive()
                await stream.send(b"%d" % number)
                assert await stream.receive() == b"%d" % number
        group.cancel_scope.cancel()


async def datagrams():
    async with (await anyio.create_udp_socket(local_host="127.0.0.1") as one,
                await anyio.create_udp_socket(local_host="127.0.0.1") as other):
        for number in range(200):
            await one.sendto(b"%d" % number, *other.extra(anyio.abc.SocketAttribute.local_address))
            assert (await other.receive())[0] == b"%d" % number


async def processes():
    done = await anyio.run_process([sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read()[::-1])"],
                                   input=b"x" * 300_000 + b"y")
    assert done.stdout == b"y" + b"x" * 300_000
    with anyio.move_on_after(0.2) as scope:
        await anyio.run_process([sys.executable, "-c", "import time; time.sleep(3600)"])
    assert scope.cancelled_caught
    assert await anyio.to_process.run_sync(sum, [1, 2, 3]) == 6


async def threads():
    async def answer():
        await anyio.sleep(0)
        return 42

    def ask():
        return anyio.from_thread.run(answer)

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(anyio.to_thread.run_sync, ask)
    assert await anyio.to_thread.run_sync(ask) == 42


async def signals():
    with anyio.open_signal_receiver(signal.SIGUSR1) as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        async for number in received:
            assert number == signal.SIGUSR1
            break


async def everything():
    kit.check_loop()
    for part in (streams, datagrams, processes, threads, signals):
        with anyio.fail_after(20):
            await part()


def main():
    anyio.run(everything, backend_options={"loop_factory": kit.new_event_loop})
    with anyio.from_thread.start_blocking_portal("asyncio", {"loop_factory": kit.new_event_loop}) as portal:
        portal.call(datagrams)
    Path("test_it.py").write_text(TESTS)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", "test_it.py"],
                          capture_output=True, text=True)
    assert "51 passed" in done.stdout, done.stdout
