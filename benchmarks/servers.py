"""The servers, written as their users would: run in a peer's own process (peer_process.py)."""

import asyncio
import os
import socket
import ssl
import sys
import traceback

# As c/load_bulk.c has them.
CHUNK = bytes((i * 7 + (i >> 8) * 13) & 255 for i in range(64 * 1024))
READ_SIZE = 256 * 1024
SOCK_READ_SIZE = 64 * 1024
BODY = b"Hello, world!"
HOST = "127.0.0.1"
BACKLOG = 4096


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class EchoOnce(Echo):
    def data_received(self, data):
        self.transport.write(data)
        self.transport.close()


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


class Sink(Echo):
    """Counts what comes, and says at its end how much that was."""

    total = 0

    def data_received(self, data):
        self.total += len(data)

    def eof_received(self):
        self.transport.write(self.total.to_bytes(8, "little"))


class Source(Echo):
    """Sends as many bytes as it is asked for, no faster than they leave."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.loop = asyncio.get_running_loop()
        self.may_write = asyncio.Event()
        self.may_write.set()

    def pause_writing(self):
        self.may_write.clear()

    def resume_writing(self):
        self.may_write.set()

    def connection_lost(self, exc):
        self.may_write.set()

    def data_received(self, data):
        self.task = self.loop.create_task(self.send(int.from_bytes(data, "little")))

    async def send(self, left):
        while left and not self.transport.is_closing():
            part = CHUNK[:left]
            self.transport.write(part)
            left -= len(part)
            await self.may_write.wait()


class SendFile(Source):
    path = None

    async def send(self, left):
        try:
            with open(self.path, "rb") as file:
                await self.loop.sendfile(self.transport, file, 0, left)
        except (NotImplementedError, RuntimeError) as exc:
            print(f"UNSUPPORTED sendfile: {exc!r}", file=sys.stderr, flush=True)
            self.transport.abort()


async def stream_echo(reader, writer):
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def sock_echo(loop, connection):
    with connection:
        try:
            while data := await loop.sock_recv(connection, SOCK_READ_SIZE):
                await loop.sock_sendall(connection, data)
        except ConnectionError:
            pass


async def sock_accept(loop, listener):
    tasks = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(sock_echo(loop, connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def asgi_hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})


def listening_socket():
    # The protocol's number is said, since asyncio sets TCP_NODELAY only where it is.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((HOST, 0))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


# Each returns a port, and what has to stay alive.


async def start_protocol(protocol, **options):
    server = await asyncio.get_running_loop().create_server(protocol, HOST, 0, backlog=BACKLOG, **options)
    return server.sockets[0].getsockname()[1], server


async def start_tls(files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(files, "certificate.pem"))
    return await start_protocol(Echo, ssl=context)


async def start_sendfile(files):
    SendFile.path = os.path.join(files, "file")
    return await start_protocol(SendFile)


async def start_udp():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(DatagramEcho, local_addr=(HOST, 0))
    return transport.get_extra_info("sockname")[1], transport


async def start_streams():
    server = await asyncio.start_server(stream_echo, HOST, 0, backlog=BACKLOG)
    return server.sockets[0].getsockname()[1], server


async def start_sock():
    listener = listening_socket()
    loop = asyncio.get_running_loop()
    return listener.getsockname()[1], loop.create_task(sock_accept(loop, listener))


async def start_uvicorn():
    import httptools
    import uvicorn

    del httptools  # without it uvicorn would not say clearly what is missing

    listener = listening_socket()
    config = uvicorn.Config(
        asgi_hello, http="httptools", ws="none", lifespan="off", access_log=False, log_level="warning"
    )
    server = uvicorn.Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.005)
    return listener.getsockname()[1], task


async def start_aiohttp():
    from aiohttp import web

    async def hello(request):
        return web.Response(body=BODY)

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listener = listening_socket()
    await web.SockSite(runner, listener).start()
    return listener.getsockname()[1], runner


SERVERS = {
    "echo": lambda files: start_protocol(Echo),
    "churn": lambda files: start_protocol(EchoOnce),
    "sink": lambda files: start_protocol(Sink),
    "source": lambda files: start_protocol(Source),
    "sendfile": start_sendfile,
    "tls": start_tls,
    "udp": lambda files: start_udp(),
    "streams": lambda files: start_streams(),
    "sock": lambda files: start_sock(),
    "uvicorn": lambda files: start_uvicorn(),
    "aiohttp": lambda files: start_aiohttp(),
}


async def run(kind, files):
    try:
        port, alive = await SERVERS[kind](files)
    except (ImportError, NotImplementedError) as exc:
        traceback.print_exc()
        print(f"UNSUPPORTED {exc!r}", flush=True)
        return
    print(f"READY {port}", flush=True)
    if isinstance(alive, asyncio.Task):
        await alive
    await asyncio.get_running_loop().create_future()


def serve(make_loop, kind, files):
    loop = make_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(run(kind, files))
