"""The sock_* methods on our socket, closing it, and what the peer does."""

import contextlib
import os
import socket

from hypothesis import strategies as st
from support import reset, tcp_pair

from random_steps.links import MOST
from random_steps.operations import BROKEN, Operation
from random_steps.steps import CANCEL, FAMILY, LIMIT, NUMBER, SIZE, TURNS, step


# -- more connections --


@step(family=FAMILY, loop=st.integers(0, 2))
def another_pair(world, family, loop):
    if len(world.links) >= 8:
        return False
    world.links.add_pair(family, world.loop(loop))


@step(family=FAMILY, loop=st.integers(0, 2), other=st.integers(0, 2))
def another_pair_between_loops(world, family, loop, other):
    if len(world.links) >= 8:
        return False
    world.links.add_mates(family, world.loop(loop), world.loop(other))


# -- sock_* methods on our socket --


@step(weight=3, number=NUMBER, into=st.booleans(), size=SIZE, limit=LIMIT, cancel=CANCEL)
def receive(world, number, into, size, limit, cancel):
    link = world.links.choose(number, lambda l: l.plain and not (l.receive and l.receive.busy))
    if link is None:
        return False

    async def work(operation):
        if into:
            operation.buffer = bytearray(size)
            count = await link.loop.sock_recv_into(link.ours, operation.buffer)
            assert not any(operation.buffer[count : count + 1000])
            data, operation.buffer = bytes(operation.buffer[:count]), None
        else:
            data = await link.loop.sock_recv(link.ours, size)
        assert not operation.closed, "bytes of a socket that was closed"
        if data:
            link.down.take(data)
        else:
            link.down.take_end()

    link.receive = Operation(world, "receive", work, link.loop, link, cancel=cancel, limit=limit)


@step(weight=2, number=NUMBER, size=SIZE, limit=LIMIT, cancel=CANCEL)
def sendall(world, number, size, limit, cancel):
    link = world.links.choose(number, lambda l: l.plain and not (l.send and l.send.busy))
    if link is None:
        return False
    data = world.data(size)
    # Where it is sure to fail nothing is sure to arrive.
    segment = link.up.add(data, cut=link.up.ended or link.up.broken)
    if link.peer_closed:
        link.down.broken = True

    async def work(operation):
        assert await link.loop.sock_sendall(link.ours, bytearray(data)) is None
        assert not link.up.ended or link.up.broken or operation.closed, "sent after the end"

    link.send = Operation(world, "sendall", work, link.loop, link, cancel=cancel, limit=limit, segment=segment,
                          expected=(BrokenPipeError,) if link.up.ended else ())


@step(number=NUMBER, which=st.sampled_from(["receive", "send"]), cancel=TURNS)
def cancel(world, number, which, cancel):
    def suits(link):
        operation = getattr(link, which)
        return operation is not None and operation.pending

    link = world.links.choose(number, suits)
    if link is None:
        return False
    world.soon(link.loop, cancel, getattr(link, which).cancel)


@step(number=NUMBER)
def shut_down_ours(world, number):
    link = world.links.choose(
        number, lambda l: l.plain and not l.up.ended and not (l.send and not l.send.task.done()))
    if link is None:
        return False
    link.up.ended = True
    with contextlib.suppress(OSError):
        link.ours.shutdown(socket.SHUT_WR)


@step(number=NUMBER, reuse=st.sampled_from([None, "tcp", "unix"]), cancel_first=st.booleans(), later=TURNS)
def close_ours(world, number, reuse, cancel_first, later):
    link = world.links.choose(number, lambda l: l.plain)
    if link is None:
        return False

    def close():
        if not link.plain:
            return
        if cancel_first or world.oracle:
            for operation in link.busy():
                operation.cancel()
        link.disturb()
        for operation in (link.receive, link.send):
            if operation is not None and not operation.task.done():
                operation.closed = True
                operation.cut()
        fd = link.ours.fileno()
        link.closed = True
        link.leave()
        link.ours.close()
        if reuse is not None and len(world.links) < MOST:
            mine, theirs = tcp_pair() if reuse == "tcp" else socket.socketpair()
            if mine.fileno() != fd and theirs.fileno() != fd:
                os.dup2(mine.fileno(), fd)
                mine.close()
                mine = socket.socket(fileno=fd)
            elif theirs.fileno() == fd:
                mine, theirs = theirs, mine
            world.links.add(link.loop, mine, theirs, f"heir-{reuse}")

    if world.oracle:
        for operation in link.busy():
            operation.cancel()
        world.let_endings_pass()
        if link.busy() or not link.plain:
            return False
        later = 0
    world.soon(link.loop, later, close)


@step(number=NUMBER, what=st.sampled_from(["receive", "sendall", "add_reader", "add_writer"]))
def use_closed(world, number, what):
    """What a closed socket is refused with."""
    link = world.links.choose(number, lambda l: l.closed and not l.transport)
    if link is None:
        return False
    loop = link.loop

    async def work(operation):
        try:
            if what == "receive":
                await loop.sock_recv(link.ours, 100)
            elif what == "sendall":
                await loop.sock_sendall(link.ours, b"to nobody")
            else:
                getattr(loop, what)(link.ours, world.findings.append, AssertionError("called of a closed socket"))
        except (OSError, ValueError):
            raise
        else:
            # A callback that was never removed is replaced, and never called.
            assert what[4:] in link.forgotten, f"{what} works on a closed socket"

    Operation(world, f"{what} closed", work, loop, link, expected=(OSError, ValueError))


# -- the peer --


@step(weight=2, number=NUMBER, size=SIZE)
def peer_sends(world, number, size):
    link = world.links.choose(number, lambda l: not l.mate and not l.peer_closed and not l.down.ended)
    if link is None:
        return False
    if link.closed or (link.protocol and link.protocol.leaving):
        link.up.broken = True
    data = world.data(size)
    try:
        count = link.peer.send(data)
    except BlockingIOError:
        return
    except BROKEN:
        assert link.broken
        return
    link.down.add(data[:count])


@step(weight=2, number=NUMBER, size=SIZE)
def peer_receives(world, number, size):
    link = world.links.choose(number, lambda l: not l.mate and not l.peer_closed)
    if link is None:
        return False
    try:
        data = link.peer.recv(size)
    except BlockingIOError:
        return
    except BROKEN:
        assert link.broken
        return
    if data:
        link.up.take(data)
    else:
        link.up.take_end()


@step(number=NUMBER, how=st.sampled_from(["half-close", "half-close", "close", "reset"]))
def peer_leaves(world, number, how):
    link = world.links.choose(
        number, lambda l: not l.mate and not l.peer_closed and not (how == "half-close" and l.down.ended))
    if link is None:
        return False
    link.disturb()
    link.down.ended = True
    if how == "half-close":
        with contextlib.suppress(OSError):
            link.peer.shutdown(socket.SHUT_WR)
        return
    link.peer_gone = True
    link.reader_leaves(link.peer, link.up, link.down)
    if how == "reset" or link.transport or (link.send and not link.send.task.done()):
        # What is sent to a closed socket resets the connection.
        link.down.broken = True
    if how == "reset" and link.peer.family == socket.AF_INET:
        reset(link.peer)
    else:
        link.peer.close()
