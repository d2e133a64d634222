"""pyzmq's asyncio sockets, which wait by add_reader and refuse Windows' proactor loop.

Requests over a router, a pipeline of many megabytes, publish and subscribe, polls and receives that are cancelled, a peer
that is gone and comes back.
"""

import asyncio

import zmq
import zmq.asyncio

from ecosystem import kit

PACKAGES = ["pyzmq>=25"]


async def requests(context):
    with context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        async def serve():
            while True:
                await router.send_multipart(await router.recv_multipart())

        async def one(number):
            with context.socket(zmq.DEALER) as dealer:
                dealer.connect(f"tcp://127.0.0.1:{port}")
                for turn in range(20):
                    message = [b"%d" % turn, kit.payload(100 * number, number)]
                    await dealer.send_multipart(message)
                    assert await dealer.recv_multipart() == message

        serving = asyncio.create_task(serve())
        await kit.in_waves(100, 50, one)
        serving.cancel()


async def pipeline(context):
    with context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")

        async def send():
            for number in range(200):
                await push.send(kit.payload(200_000, number % 20), copy=number % 2 == 0)

        sending = asyncio.create_task(send())
        for number in range(200):
            assert await pull.recv() == kit.payload(200_000, number % 20)
        await sending


async def subscriptions(context):
    with context.socket(zmq.XPUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        sockets = [context.socket(zmq.SUB) for _ in range(20)]
        for socket in sockets:
            socket.connect(f"tcp://127.0.0.1:{port}")
            socket.subscribe(b"")
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        await publisher.recv()

        async def listen(socket):
            # Those who come late miss the first ones.
            last = -1
            while last < 999:
                number = int(await socket.recv())
                assert last < number
                last = number
            socket.close()

        listening = [asyncio.create_task(listen(socket)) for socket in sockets]
        await asyncio.sleep(0.3)
        for number in range(1000):
            await publisher.send(b"%d" % number)
        await asyncio.gather(*listening)


async def cancelled(context):
    with context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://pair")
        other.connect("inproc://pair")
        for number in range(100):
            try:
                async with asyncio.timeout(0.002):
                    await (one.recv() if number % 2 else one.poll())
            except TimeoutError:
                pass
            else:
                raise AssertionError
            await other.send(b"%d" % number)
            assert await one.poll(1000)
            assert await one.recv() == b"%d" % number


async def bind(socket, port):
    """zmq's own thread lets go of a port some time after its socket was closed."""
    while True:
        try:
            return socket.bind(f"tcp://127.0.0.1:{port}")
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            await asyncio.sleep(0.01)


async def reconnected(context):
    """A request that nobody answers may be lost with the connection: it is sent again, until somebody does."""
    port = kit.free_port()
    with context.socket(zmq.DEALER) as client:
        client.connect(f"tcp://127.0.0.1:{port}")
        for number in range(3):
            with context.socket(zmq.DEALER) as server:
                await bind(server, port)
                while not await server.poll(100):
                    await client.send(b"%d" % number)
                await server.send(await server.recv())
                assert int(await client.recv()) <= number
                server.unbind(f"tcp://127.0.0.1:{port}")


async def main():
    with zmq.asyncio.Context() as context:
        context.linger = 0
        for part in (requests, pipeline, subscriptions, cancelled, reconnected):
            await asyncio.wait_for(part(context), 20)
