"""Twisted, on its asyncio reactor, which is given the loop.

A line server and two hundred clients, an HTTP server and client, threads, child processes, Deferreds that are cancelled,
and coroutines of asyncio's in between.
"""

import asyncio
import sys

from ecosystem import kit

PACKAGES = ["Twisted>=24.3"]


async def echo(reactor):
    from twisted.internet import defer, endpoints, protocol
    from twisted.protocols import basic

    class Server(basic.LineReceiver):
        MAX_LENGTH = 1 << 20

        def lineReceived(self, line):
            self.sendLine(line[::-1])

    class Client(basic.LineReceiver):
        MAX_LENGTH = 1 << 20

        def connectionMade(self):
            self.lines = defer.DeferredQueue()

        def lineReceived(self, line):
            self.lines.put(line)

    port = await endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(protocol.Factory.forProtocol(Server))

    async def one(number):
        point = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        client = await point.connect(protocol.Factory.forProtocol(Client))
        for size in (1, 1000, 300_000 if number % 20 == 0 else 3000):
            line = b"%d" % (number % 10) * size
            client.sendLine(line)
            assert await client.lines.get() == line[::-1]
        client.transport.loseConnection()

    await defer.gatherResults([defer.ensureDeferred(one(number)) for number in range(200)])
    await port.stopListening()


async def http(reactor):
    from twisted.internet import defer, endpoints
    from twisted.web import client, resource, server

    class Page(resource.Resource):
        isLeaf = True

        def render_GET(self, request):
            size = int(request.path[1:])
            reactor.callLater(0.001, lambda: (request.write(kit.payload(size, size)), request.finish()))
            return server.NOT_DONE_YET

    port = await endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(server.Site(Page()))
    pool = client.HTTPConnectionPool(reactor)
    agent = client.Agent(reactor, pool=pool)

    async def one(size):
        response = await agent.request(b"GET", f"http://127.0.0.1:{port.getHost().port}/{size}".encode())
        assert await client.readBody(response) == kit.payload(size, size)

    await defer.gatherResults([defer.ensureDeferred(one(5000 * number)) for number in range(100)])
    await pool.closeCachedConnections()
    await port.stopListening()


async def the_rest(reactor):
    from twisted.internet import defer, threads, utils

    sums = await defer.gatherResults([threads.deferToThread(sum, range(number)) for number in range(100)])
    assert sums == [sum(range(number)) for number in range(100)]
    out = await utils.getProcessOutput(sys.executable, ["-c", "print('x' * 100000)"])
    assert out == b"x" * 100_000 + b"\n"
    waiting = defer.Deferred()
    reactor.callLater(0.01, waiting.cancel)
    try:
        await waiting
    except defer.CancelledError:
        pass
    else:
        raise AssertionError
    assert await defer.Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01, "slept"))) == "slept"


def main():
    from twisted.internet import asyncioreactor
    loop = kit.new_event_loop()
    asyncioreactor.install(loop)
    from twisted.internet import task

    async def everything(reactor):
        # Called before the reactor runs.
        await task.deferLater(reactor, 0)
        kit.check_loop()
        assert asyncio.get_running_loop() is loop
        for part in (echo, http, the_rest):
            await part(reactor)

    # It exits when all is done, with 0 or with the traceback.
    try:
        task.react(lambda reactor: everything(reactor))
    except SystemExit as exit:
        if exit.code:
            raise
    loop.close()
