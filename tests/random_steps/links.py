"""Connections: what is known of each, and where the bytes are when the steps are over."""

import fcntl
import socket
import struct
import termios
import time

from support import tcp_pair

from random_steps.model import Stream
from random_steps.operations import BROKEN
from random_steps.parts import Things

MOST = 12


class Link:
    """A connection: `ours` is the loop's; `peer` is worked on by plain calls.

    Instead of the peer there may be a `mate`: the link that has the other socket, on whatever loop.
    """

    def __init__(self, loop, ours=None, peer=None, name=None, mate=None):
        self.loop = loop
        self.mate = mate
        self.up, self.down = (mate.down, mate.up) if mate else (Stream(), Stream())
        self.receive = self.send = self.transport = self.protocol = None
        self.reader = self.writer = None  # the callbacks of add_reader, add_writer
        self.forgotten = ()  # of these, those that were not removed when their socket was closed
        self.closed = self.peer_gone = self.wrote_eof = self.aborted = False
        self.raced = False  # from here on it depends on who was faster
        self.history = []
        self.adopt(ours, peer, name)

    def adopt(self, ours, peer, name):
        self.ours, self.peer, self.name = ours, peer, name
        for sock in filter(None, (ours, peer)):
            sock.setblocking(False)
            # A send is short sooner.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    def __repr__(self):
        return f"<{self.name} up={self.up} down={self.down}>"

    @property
    def peer_closed(self):
        mate = self.mate
        if mate is None:
            return self.peer_gone
        # A transport that closes reads no more: what comes then resets the connection.
        return mate.closed or (mate.protocol is not None and mate.protocol.leaving)

    @property
    def broken(self):
        return self.up.broken or self.down.broken

    def lose(self):
        self.up.lose()
        self.down.lose()

    @property
    def plain(self):
        """It is there for sock_* calls."""
        return not self.closed and not self.transport and not self.reader and not self.writer

    def busy(self):
        return [operation for operation in (self.receive, self.send) if operation is not None and operation.busy]

    def disturb(self):
        """One side is about to leave: what comes of it depends on how far the other has read."""
        links = [link for link in (self, self.mate) if link is not None]
        under_way = any(link.under_way() for link in links)
        # What a StreamReader holds by then is how much its loop received at a time.
        held = [len(getattr(link.protocol, "fed", b"")) for link in links]
        for link in links:
            link.history.append((unread(self.ours), unread(self.mate.ours if self.mate else self.peer), *held))
            link.raced |= under_way

    def under_way(self):
        """Something is still to be read or written there."""
        unfinished = any(op is not None and not op.task.done() for op in (self.receive, self.send))
        writing = self.transport is not None and not self.protocol.lost and self.transport.get_write_buffer_size()
        return bool(unfinished or writing)

    def leave(self):
        """Our side is about to be closed."""
        self.up.ended = True
        self.reader_leaves(self.ours, self.down, self.up)
        mate = self.mate
        if mate and (mate.transport or mate.writer or (mate.send and not mate.send.task.done())):
            # What is sent to a closed socket resets the connection.
            self.up.broken = True

    def reader_leaves(self, sock, here, there):
        """sock is closed: what it has not read makes a reset of the end."""
        if unread(sock):
            there.broken = True
        here.broken = True


def unread(sock):
    try:
        return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    except (OSError, ValueError):
        return 0


class Links(Things):
    """All connections of a world."""

    sends = ()

    def add(self, loop, ours, peer, name, mate=None):
        for sock in filter(None, (ours, peer)):
            self.world.stack.enter_context(sock)
        link = Link(loop, ours, peer, f"{name}-{self.world.step}", mate)
        self.append(link)
        return link

    def unborn(self, loop):
        """A link that will know its sockets when it is accepted."""
        return Link(loop)

    def add_pair(self, family, loop):
        return self.add(loop, *(tcp_pair() if family == "tcp" else socket.socketpair()), family)

    def add_mates(self, family, loop, other):
        a, b = tcp_pair() if family == "tcp" else socket.socketpair()
        link = self.add(loop, a, None, f"mate-{family}")
        link.mate = self.add(other, b, None, f"mate-of-{family}", link)

    # -- the end --

    def let_go(self):
        for link in self:
            if link.transport and not link.protocol.leaving:
                link.protocol.read_on()
        # What is being sent to those who still read arrives whole.
        self.sends = [link.send for link in self if link.send and link.send.name == "sendall" and link.send.pending]

    def delivered(self):
        for link in self:
            self.drain_peer(link)
            if link.mate:
                self.take_rest(link)
        return all(operation.task.done() for operation in self.sends) and all(map(self.up_is_whole, self))

    def close(self):
        # On the selector loop a receive that is about to end with a value is not cancelled but awaited.
        self.world.until(lambda: all(map(self.down_is_whole, self)), f"what has arrived: {self}")
        for link in self:
            if link.transport and not link.protocol.lost:
                link.protocol.close()

    def has_closed(self):
        for link in self:
            self.drain_peer(link)
            if link.mate:
                self.take_rest(link)
        for link in self.transports():
            # Accepted since.
            link.protocol.close()
        return not self.transports() and all(
            link.mate or self.drain_peer(link) for link in self if link.closed and not link.peer_closed
        )

    def transports(self):
        return [link for link in self if link.transport and not link.protocol.lost]

    def abort(self):
        for link in self.transports():
            if link.aborted:
                continue
            link.aborted = True
            link.disturb()
            link.up.broken = link.down.broken = link.protocol.leaving = True
            link.transport.abort()

    def has_aborted(self):
        # Those that were accepted since.
        self.abort()
        return not self.transports()

    def rest(self):
        """The loops are closed: what is in the sockets completes the streams."""
        give_up = time.monotonic() + self.world.patience
        for whole in (self.down_is_whole, self.up_is_whole):
            while not all(map(whole, self)):
                for link in self:
                    self.drain_peer(link)
                assert time.monotonic() < give_up, f"bytes were lost: {self}"

    def drain_peer(self, link):
        """Read what has arrived at the peer; true at the end of the stream."""
        if link.peer_closed or link.mate:
            return link.peer_closed
        try:
            while data := link.peer.recv(1 << 20):
                link.up.take(data)
        except BlockingIOError:
            return False
        except BROKEN:
            assert link.broken, f"a reset of {link}"
            return True
        link.up.take_end()
        return True

    def up_is_whole(self, link):
        return link.up.broken or link.peer_closed or link.up.complete()

    def down_is_whole(self, link):
        if link.closed or link.down.broken or link.down.complete():
            return True
        self.take_rest(link)
        return link.down.complete()

    def take_rest(self, link):
        if link.closed or link.transport:
            return
        try:
            if data := link.ours.recv(1 << 20):
                link.down.take(data)
            else:
                link.down.take_end()
        except BlockingIOError:
            pass
        except BROKEN:
            assert link.broken, f"a reset of {link}"

    def clean_up(self):
        for link in self:
            if link.transport is not None and link.transport._sock is not None:
                link.transport._sock = None
