"""Servers, on listening sockets of their own or given ones, and their clients."""

import gc
import socket

from hypothesis import strategies as st

from random_steps.links import MOST
from random_steps.operations import BROKEN, Operation
from random_steps.parts import Things
from random_steps.steps import FAMILY, NUMBER, step
from random_steps.transports import KINDS


class Served:
    """A server; `clients` are connected and not accepted yet: {address: (socket, step)}."""

    def __init__(self, loop, family, sock, kind):
        self.loop, self.family, self.sock, self.kind = loop, family, sock, kind
        self.name = f"server-{family}"
        self.address = sock.getsockname()
        self.server = None
        self.clients = {}
        self.doubtful = set()  # an interrupt may have cost these their connection
        self.closed = self.raced = self.broken = False
        self.history = []

    def __repr__(self):
        return f"<{self.name} clients={list(self.clients)} {'closed' * self.closed}>"

    def lose(self):
        pass

    @property
    def serving(self):
        return self.server is not None and not self.closed


class Servers(Things):
    """All servers of a world."""

    def add(self, loop, family, kind):
        sock = self.world.listeners.listen(family)
        served = Served(loop, family, sock, kind)
        self.append(served)
        return served

    def connect(self, served):
        """A client connects."""
        sock = self.world.listeners.new_socket(served.family)
        sock.connect(served.address)
        sock.setblocking(False)
        address = sock.getsockname()
        # Several may come in one step.
        served.clients[address] = sock, (self.world.step, len(served.clients))

    def make_protocol(self, served):
        """What is served: a protocol of the kind, which learns of its link when it is made."""
        world = self.world

        class Accepted(KINDS[served.kind]):
            def connection_made(self, transport):
                with world.watched():
                    address = transport.get_extra_info("peername")
                    peer, self.step = served.clients.pop(address)
                    link = self.link
                    link.adopt(transport.get_extra_info("socket"), peer, f"{served.name}-{self.step}")
                    link.protocol = self
                    world.links.append(link)
                super().connection_made(transport)
                world.told(served)

        return Accepted(world, self.world.links.unborn(served.loop))

    # -- the end --

    def delivered(self):
        return not any(served.clients.keys() - served.doubtful for served in self if served.serving)

    def close(self):
        for served in self:
            close(self.world, served)

    def abort(self):
        self.close()

    def has_closed(self):
        """Those who were not accepted see the end.

        What the selector loop has accepted, and does not serve any more, it leaves to the garbage collector.
        So does each loop with what an interrupt has made it forget.
        """
        for served in self:
            for address, (sock, _) in list(served.clients.items()):
                try:
                    assert sock.recv(1) == b""
                except BlockingIOError:
                    if self.world.oracle or address in served.doubtful:
                        gc.collect()
                    return False
                except BROKEN:
                    pass
                del served.clients[address]
        return True

    has_aborted = has_closed


def close(world, served):
    if not served.serving:
        return
    served.closed = True
    served.server.close()
    if world.oracle:
        # What it has accepted by then it refuses, and some Pythons' then raise where nobody looks.
        served.server._wakeup = lambda: None
    # Nobody listens there any more: the address is free.
    sock = socket.socket(socket.AF_INET if served.family == "tcp" else socket.AF_UNIX)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(served.address)
        sock.listen()


@step(weight=2, family=FAMILY, loop=st.integers(0, 2), kind=st.sampled_from(sorted(KINDS)))
def open_server(world, family, loop, kind):
    if len(world.servers) >= 3:
        return False
    served = world.servers.add(world.loop(loop), family, kind)

    async def work(operation):
        method = served.loop.create_server if family == "tcp" else served.loop.create_unix_server
        served.server = await method(lambda: world.servers.make_protocol(served), sock=served.sock)

    Operation(world, "create_server", work, served.loop, served)


@step(number=NUMBER)
def client_connects(world, number):
    served = world.servers.choose(number, lambda s: s.serving)
    if served is None or len(world.links) + sum(len(served.clients) for served in world.servers) >= MOST:
        return False
    world.servers.connect(served)


@step(weight=2, number=NUMBER)
def close_server(world, number):
    served = world.servers.choose(number, lambda s: s.serving)
    if served is None:
        return False
    close(world, served)
