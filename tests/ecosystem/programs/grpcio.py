"""grpcio's asyncio, client and server.

Calls and streams both ways, deadlines, cancellation, a server that is gone and comes back.
"""

import asyncio

import grpc

from ecosystem import kit

PACKAGES = ["grpcio>=1.60"]

SIZES = [("grpc.max_receive_message_length", -1)]
ended = asyncio.Event()


async def echo(request, context):
    return request


async def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


async def talk(requests, context):
    async for request in requests:
        yield request[::-1]


async def never(request, context):
    try:
        await asyncio.sleep(3600)
    finally:
        ended.set()


async def serve(port):
    server = grpc.aio.server(options=SIZES)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("it", {
        "echo": grpc.unary_unary_rpc_method_handler(echo),
        "count": grpc.unary_stream_rpc_method_handler(count),
        "talk": grpc.stream_stream_rpc_method_handler(talk),
        "never": grpc.unary_unary_rpc_method_handler(never),
    }),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    await server.start()
    return server


async def main():
    port = kit.free_port()
    server = await serve(port)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SIZES) as channel:
        async def one(number):
            message = kit.payload(100 * number, number)
            assert await channel.unary_unary("/it/echo")(message, timeout=20) == message

        await kit.in_waves(300, 100, one)
        big = kit.payload(8 << 20)
        assert await channel.unary_unary("/it/echo")(big) == big
        assert [int(number) async for number in channel.unary_stream("/it/count")(b"1000")] == list(range(1000))

        async def chat(number):
            call = channel.stream_stream("/it/talk")()
            for turn in range(20):
                await call.write(kit.payload(2000, number))
                assert await call.read() == kit.payload(2000, number)[::-1]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

        await kit.in_waves(30, 30, chat)
        try:
            await channel.unary_unary("/it/never")(b"", timeout=0.1)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            raise AssertionError
        await asyncio.wait_for(ended.wait(), 10)
        ended.clear()
        call = channel.unary_unary("/it/never")(b"")
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.wait_for(ended.wait(), 10)

        await server.stop(None)
        server = await serve(port)
        assert await channel.unary_unary("/it/echo")(b"again", wait_for_ready=True, timeout=20) == b"again"
    await server.stop(None)
