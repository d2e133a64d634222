"""Closes by the user: of what a loop has been given, with and without telling it, and the number's next owner.

On the selector loop a file is gone when close() returns, whatever waits for it: its peer sees the end at once, and what
waits is told nothing more, nor of the number's next owner.  Here the file of a transport is gone when the loop has found
that out: before it sleeps, or by and by in ticks that never sleep.

On the selector loop the forgotten reader of a number makes its next owner deaf.  So there it is removed before the heir
has anything to do with the loop; here as well, on every second occasion.
"""

import contextlib
import os
import select
import socket

from hypothesis import strategies as st
from support import tcp_pair

from random_steps.links import MOST
from random_steps.pipes import close_now
from random_steps.readiness import Reader, add_callback
from random_steps.steps import FAMILY, NUMBER, step
from random_steps.transports import has_transport

HEIR = st.sampled_from([None, "tcp", "unix"])


def is_open(file):
    return file.fileno() >= 0 if isinstance(file, socket.socket) else not file.closed


def sees_the_end(sock, patience=100):
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    # Nothing is to be done for it any more; the time is the network's.
    return bool(poll.poll(patience))


@contextlib.contextmanager
def next_owner(world, loop, family, number):
    """The number's: a pair of sockets, one with this number and something to read, or nobody.

    The loop is given it at the end.  Until then nobody else gets the number on the oracle.
    """
    if family is None or len(world.links) >= MOST:
        if world.oracle:
            take_number(os.open(os.devnull, os.O_RDONLY), number)
        yield
        if world.oracle:
            os.close(number)
        return
    mine, theirs = tcp_pair() if family == "tcp" else socket.socketpair()
    if theirs.fileno() == number:
        mine, theirs = theirs, mine
    if mine.fileno() != number:
        take_number(mine.detach(), number)
        mine = socket.socket(fileno=number)
    data = world.data(500)
    theirs.send(data)
    yield
    link = world.links.add(loop, mine, theirs, f"next-owner-{family}")
    link.down.add(data)


def take_number(fd, number):
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)


def leave(link):
    link.disturb()
    link.leave()
    link.closed = True
    # What had come and was not read is gone.
    link.up.broken = link.down.broken = True


def check_peer_sees_the_end(world, link):
    """Behind all that was sent."""
    if link.mate or link.peer_closed or sees_the_end(link.peer):
        return
    world.links.drain_peer(link)
    assert sees_the_end(link.peer), f"the peer does not see the end: {link}"


def wait_until_peer_sees_the_end(world, link):
    """The same, of a transport's socket."""

    def seen():
        world.links.drain_peer(link)
        return sees_the_end(link.peer, 0)

    if not link.mate and not link.peer_closed:
        world.until(seen, f"the end at the peer of {link}")


@step(weight=3, number=NUMBER, removal=st.sampled_from(["object", "number", None, "number afterwards"]), heir=HEIR)
def close_under_callbacks(world, number, removal, heir):
    """Of a socket with a reader or a writer; one is added where there is none."""

    def choose():
        return world.links.choose(number, lambda l: l.reader or l.writer)

    link = choose()
    if link is None:
        if add_callback(world, number, Reader, 100, 99) is False:
            return False
        link = choose()
    # What is forgotten here the oracle is made to remove.
    link.raced |= removal is None
    loop, sock, fd = link.loop, link.ours, link.ours.fileno()
    kinds = [kind for kind in ("reader", "writer") if getattr(link, kind)]
    for kind in kinds:
        setattr(link, kind, None)
        if removal in ("object", "number"):
            assert getattr(loop, f"remove_{kind}")(sock if removal == "object" else fd) is True
    leave(link)
    sock.close()
    if removal in ("object", "number"):
        check_peer_sees_the_end(world, link)
    elif removal is None:
        link.forgotten = kinds
    else:
        forget(world, loop, fd)
        check_peer_sees_the_end(world, link)
    with next_owner(world, loop, heir, fd):
        if removal is None:
            world.turn(2)
            if not world.moved:
                check_peer_sees_the_end(world, link)
            if world.oracle:
                forget(world, loop, fd)


def forget(world, loop, fd):
    for remove in (loop.remove_reader, loop.remove_writer):
        # The selector loop's raises where a number has both, and has forgotten them then.
        with contextlib.suppress(*[OSError] * world.oracle):
            remove(fd)


@step(weight=3, number=NUMBER, then=st.sampled_from(["close", "abort"]), heir=HEIR)
def close_under_transport(world, number, then, heir):
    """Of the socket that a transport was given."""
    link = world.links.choose(number, lambda l: has_transport(l) and not l.protocol.leaving
                              and isinstance(l.ours, socket.socket) and l.ours.fileno() >= 0)
    if link is None:
        return False
    protocol, fd = link.protocol, link.ours.fileno()
    if world.oracle and link.transport.get_write_buffer_size():
        # Its close() would raise: the descriptor of the reader and writer can't be changed any more.
        link.raced = True
        return False
    if link.transport.get_write_buffer_size():
        # There is never room for that again.
        then = "abort"
    leave(link)
    link.raced = protocol.robbed = True
    link.ours.close()
    with next_owner(world, link.loop, heir, fd):
        wait_until_peer_sees_the_end(world, link)
        if not protocol.lost:
            protocol.leaving = True
            getattr(link.transport, then)()
        world.until(lambda: protocol.lost, f"the end of a transport whose socket is closed: {link}")


@step(weight=3, number=NUMBER, then=st.sampled_from(["close", "abort"]), heir=HEIR)
def close_under_datagrams(world, number, then, heir):
    """Of the socket that a datagram transport was given: its address is nobody's any more."""
    couple = world.couples.choose(number, lambda c: c.transport and not c.protocol.leaving
                                  and c.ours.fileno() >= 0)
    if couple is None:
        return False
    protocol, fd = couple.protocol, couple.ours.fileno()
    couple.raced = True
    if world.oracle and couple.transport.get_write_buffer_size():
        # As above.
        return False
    world.couples.drain_peer(couple)
    couple.closed = couple.up.broken = couple.down.broken = protocol.leaving = True
    couple.ours.close()
    with next_owner(world, couple.loop, heir, fd):
        if not couple.peer_closed:
            world.until(lambda: is_refused(couple.peer), f"the end at the peer of {couple}")
            couple.peer_closed = True
            couple.peer.close()
        getattr(couple.transport, then)()
        world.until(lambda: protocol.lost, f"the end of a transport whose socket is closed: {couple}")


def is_refused(sock):
    """Tell whether datagrams to whom it is connected to come back."""
    try:
        # That the first of two UDP datagrams went nowhere is told to the second.
        for _ in range(2):
            sock.send(b"to nobody")
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    except BlockingIOError:
        pass
    return False


@step(weight=3, number=NUMBER)
def close_under_server(world, number):
    """Of the socket that a server was given: nothing keeps listening."""
    served = world.servers.choose(number, lambda s: s.serving)
    if served is None:
        return False
    fd = served.sock.fileno()
    served.closed = True
    served.sock.close()
    if world.oracle:
        # Its server would raise.
        forget(world, served.loop, fd)
    world.turn(2)
    client = world.listeners.new_socket(served.family)
    client.settimeout(5)
    try:
        client.connect(served.address)
    except ConnectionRefusedError:
        pass
    else:
        # The port may be the client's own by now, which then has connected to itself.
        assert world.moved or client.getsockname() == served.address, "something keeps listening"
    if not world.oracle:
        served.server.close()


@step(weight=3, number=NUMBER, end=st.sampled_from(["reader", "writer"]))
def close_under_pipe(world, number, end):
    """Of the file that a pipe's transport was given."""

    def suits(pipe):
        protocol = getattr(pipe, end)
        return protocol is not None and protocol.made and not protocol.lost and not protocol.leaving

    pipe = world.pipes.choose(number, suits)
    if pipe is None:
        return False
    protocol = getattr(pipe, end)
    if world.oracle and protocol.unsent():
        # Its abort() would raise: the descriptor of the reader and writer can't be changed any more.
        pipe.raced = True
        return False
    pipe.raced = pipe.stream.broken = pipe.stream.ended = protocol.leaving = True
    file, other = (pipe.reads, pipe.writes) if end == "reader" else (pipe.writes, pipe.reads)
    alone = (pipe.writer if end == "reader" else pipe.reader) is None and is_open(other)
    fd = file.fileno()
    file.close()
    with next_owner(world, protocol.transport._loop, None, fd):
        world.turn(2)
        if alone and not world.moved:
            assert sees_the_end(other), f"the other end does not see the end: {pipe}"
        if not protocol.lost:
            close_now(protocol)
        world.until(lambda: protocol.lost, f"the end of a pipe whose file is closed: {pipe}")
