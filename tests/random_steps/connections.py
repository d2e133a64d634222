"""Connecting and accepting."""

import collections
import os
import socket

import pytest
from hypothesis import strategies as st

from random_steps.links import MOST
from random_steps.operations import Operation
from random_steps.parts import Part
from random_steps.steps import CANCEL, FAMILY, LIMIT, step


class Listeners(Part):
    """For each family one whose connections the first loop accepts, and one that is worked on by plain calls."""

    def __init__(self, world):
        super().__init__(world)
        self.ours, self.plain, self.waiting, self.accepting = {}, {}, {}, {}
        self.lossy = False  # an interrupt may have cost one its connection
        self.accepted = {}  # by plain calls, and not asked for yet: (family, address) -> connection
        for family in ("tcp", "unix"):
            self.ours[family] = self.listen(family)
            self.ours[family].setblocking(False)
            self.plain[family] = self.listen(family)
            # It may have ended at once in spite of a full backlog of a Unix socket.
            self.plain[family].settimeout(5)
            self.waiting[family] = collections.deque()

    def accept(self, family, address):
        """The connection from this address to the plain listener.

        There may be others: their tasks were cancelled, or have not run yet.
        """
        while (family, address) not in self.accepted:
            conn, peer = self.plain[family].accept()
            self.accepted[family, peer] = self.world.stack.enter_context(conn)
        return self.accepted.pop((family, address))

    def lose(self):
        self.lossy = True

    def take(self, family, address):
        """The peer of an accepted connection: the first that waits."""
        waiting = self.waiting[family]
        while self.lossy and waiting and waiting[0].getsockname() != address:
            waiting.popleft()
        peer = waiting.popleft()
        assert address == peer.getsockname()
        return peer

    def listen(self, family):
        if family == "tcp":
            return self.world.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sock = self.world.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind("")  # a name of the kernel's choice
        sock.listen()
        return sock

    def new_socket(self, family):
        sock = self.world.stack.enter_context(socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX))
        # So that an accepted one can be told from others.
        sock.bind(("127.0.0.1", 0) if family == "tcp" else "")
        return sock

    # -- the end --

    def close(self):
        self.rest()

    def rest(self):
        """Connections that no task took are still to be accepted, in their order."""
        for family, waiting in self.waiting.items():
            while waiting and not self.lossy:
                conn, address = self.ours[family].accept()
                conn.close()
                self.take(family, address)
            if self.lossy:
                return
            with pytest.raises(BlockingIOError):
                self.ours[family].accept()


@step(family=FAMILY, limit=LIMIT, cancel=CANCEL)
def accept(world, family, limit, cancel):
    listeners = world.listeners
    accepting = listeners.accepting.get(family)
    if accepting and accepting.busy:
        return False
    listener = listeners.ours[family]
    loop = world.loops[0]

    async def work(operation):
        conn, address = await loop.sock_accept(listener)
        world.stack.enter_context(conn)
        assert not operation.closed
        assert not conn.getblocking() and not conn.get_inheritable()
        peer = listeners.take(family, address)
        assert address == conn.getpeername()
        if len(world.links) < MOST:
            world.links.add(loop, conn, peer, f"accepted-{family}")
        else:
            conn.close()

    listeners.accepting[family] = Operation(world, "accept", work, loop, cancel=cancel, limit=limit,
                                            listener=listener)


@step(family=FAMILY)
def peer_connects(world, family):
    waiting = world.listeners.waiting[family]
    if len(waiting) >= 10:
        return False
    sock = world.listeners.new_socket(family)
    sock.connect(world.listeners.ours[family].getsockname())
    waiting.append(sock)


@step(family=FAMILY, reuse=st.booleans())
def close_listener(world, family, reuse):
    listeners = world.listeners
    operation = listeners.accepting.get(family)
    if operation and not operation.task.done():
        if world.oracle:
            operation.cancel()
            world.let_endings_pass()
            if not operation.task.done():
                return
        else:
            operation.closed = True
    old = listeners.ours[family]
    fd = old.fileno()
    old.close()
    listeners.waiting[family].clear()
    new = listeners.listen(family)
    if reuse and new.fileno() != fd:
        os.dup2(new.fileno(), fd)
        new.close()
        new = world.stack.enter_context(socket.socket(fileno=fd))
    new.setblocking(False)
    listeners.ours[family] = new


@step(family=FAMILY, loop=st.integers(0, 2), refused=st.booleans(), limit=LIMIT, cancel=CANCEL)
def connect(world, family, loop, refused, limit, cancel):
    loop = world.loop(loop)
    listener = world.listeners.plain[family]
    sock = world.listeners.new_socket(family)
    sock.setblocking(False)
    if refused:
        # Bound, and it stays so: nobody else listens at this address, however late the connection is tried.
        address = world.listeners.new_socket(family).getsockname()
    else:
        address = listener.getsockname()

    async def work(operation):
        try:
            assert await loop.sock_connect(sock, address) is None
        except BaseException:
            sock.close()
            raise
        assert not refused
        conn = world.listeners.accept(family, sock.getsockname())
        if len(world.links) < MOST:
            world.links.add(loop, sock, conn, f"connected-{family}")
        else:
            sock.close()
            conn.close()

    Operation(world, "connect", work, loop, cancel=cancel, limit=limit,
              expected=(ConnectionRefusedError,) if refused else ())
