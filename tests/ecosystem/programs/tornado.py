"""Tornado, server and client, on the current loop.

Hundreds of requests, streams, WebSockets, TLS, add_handler on a raw descriptor, a client that goes away.
"""

import asyncio
import os

import tornado.httpclient
import tornado.httpserver
import tornado.ioloop
import tornado.netutil
import tornado.web
import tornado.websocket

from ecosystem import kit

PACKAGES = ["tornado>=6.4"]

UPLOAD = kit.payload(5 << 20)


class Echo(tornado.web.RequestHandler):
    def post(self):
        self.write(self.request.body)


@tornado.web.stream_request_body
class Count(tornado.web.RequestHandler):
    def prepare(self):
        self.size = 0

    async def data_received(self, chunk):
        await asyncio.sleep(0)
        self.size += len(chunk)

    async def put(self):
        for _ in range(20):
            self.write(bytes(100_000))
            await self.flush()
        self.write(b"%d" % self.size)


class Never(tornado.web.RequestHandler):
    left = asyncio.Event()

    async def get(self):
        await self.left.wait()

    def on_connection_close(self):
        self.left.set()


class Socket(tornado.websocket.WebSocketHandler):
    def on_message(self, message):
        return self.write_message(message, binary=isinstance(message, bytes))


async def use(scheme, port, **options):
    url = f"{scheme}://127.0.0.1:{port}"
    client = tornado.httpclient.AsyncHTTPClient(force_instance=True, max_clients=100)

    async def one(number):
        body = kit.payload(500 * number, number)
        assert (await client.fetch(f"{url}/echo", method="POST", body=body, **options)).body == body

    await kit.in_waves(300, 100, one)
    answer = await client.fetch(f"{url}/count", method="PUT", body=UPLOAD, **options)
    assert answer.body == bytes(2_000_000) + b"%d" % len(UPLOAD)
    try:
        await client.fetch(f"{url}/never", request_timeout=0.2, **options)
    except tornado.httpclient.HTTPClientError as error:
        assert error.code == 599
    await asyncio.wait_for(Never.left.wait(), 10)
    Never.left.clear()

    async def talk(number):
        request = tornado.httpclient.HTTPRequest(f"ws{url[4:]}/socket", **options)
        socket = await tornado.websocket.websocket_connect(request)
        for size in (0, 1, 200, 70_000, 300_000):
            await socket.write_message(kit.payload(size, number), binary=True)
            assert await socket.read_message() == kit.payload(size, number)
        socket.close()
        assert await socket.read_message() is None

    await kit.in_waves(30, 30, talk)
    client.close()


async def handlers():
    """Tornado's own names for add_reader and add_writer."""
    loop, (reader, writer) = tornado.ioloop.IOLoop.current(), os.pipe()
    heard, done = [], asyncio.Event()

    def readable(fd, events):
        heard.append(os.read(fd, 1))
        if len(heard) == 100:
            loop.remove_handler(fd)
            done.set()

    loop.add_handler(reader, readable, loop.READ)
    for _ in range(100):
        os.write(writer, b"x")
    await done.wait()
    os.close(reader)
    os.close(writer)
    fired = asyncio.Event()
    ticks = tornado.ioloop.PeriodicCallback(fired.set, 5)
    ticks.start()
    await fired.wait()
    ticks.stop()


async def main():
    assert type(tornado.ioloop.IOLoop.current().asyncio_loop) is type(asyncio.get_running_loop())
    server_tls, client_tls = kit.tls()
    app = tornado.web.Application([("/echo", Echo), ("/count", Count), ("/never", Never), ("/socket", Socket)])
    for scheme, ssl, options in (("http", None, {}), ("https", server_tls, {"ssl_options": client_tls})):
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        server = tornado.httpserver.HTTPServer(app, ssl_options=ssl)
        server.add_sockets(sockets)
        await use(scheme, sockets[0].getsockname()[1], **options)
        server.stop()
        await server.close_all_connections()
    await handlers()
