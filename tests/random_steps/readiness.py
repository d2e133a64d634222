"""Readers and writers on the sockets of connections."""

import contextlib

from hypothesis import strategies as st

from random_steps.operations import BROKEN
from random_steps.parts import Part
from random_steps.steps import NUMBER, SMALL, step


class Callback:
    """What add_reader or add_writer calls; it takes itself away after some calls, or never."""

    def __init__(self, world, link, size, calls):
        self.world, self.link, self.size, self.calls = world, link, size, calls

    def __call__(self, token):
        with self.world.watched():
            assert token is self.link
            assert self is getattr(self.link, self.kind), f"a removed {self.kind} was called"
            self.work(self.size)
            self.calls -= 1
            if self.calls <= 0:
                self.remove()
        self.world.told(self.link)

    def add(self):
        setattr(self.link, self.kind, self)
        getattr(self.link.loop, f"add_{self.kind}")(self.link.ours, self, self.link)

    def remove(self):
        setattr(self.link, self.kind, None)
        # By number and by object it is the same.
        assert getattr(self.link.loop, f"remove_{self.kind}")(self.link.ours.fileno()) is True
        assert getattr(self.link.loop, f"remove_{self.kind}")(self.link.ours) is False


class Reader(Callback):
    kind = "reader"
    robbed = None  # the run of the loop in which another callback took what it was to read

    def work(self, size):
        link = self.link
        try:
            data = link.ours.recv(size)
        except BlockingIOError:
            # What is told is true when the tick begins; what an interrupt has left in the queue may be told again.
            world = self.world
            assert self.robbed == world.runs or world.interrupted_in == world.step, "called without anything to read"
            return
        except BROKEN:
            assert link.broken
            self.calls = 0
            return
        if data:
            link.down.take(data)
        else:
            link.down.take_end()
            self.calls = 0


class Writer(Callback):
    kind = "writer"

    def work(self, size):
        link = self.link
        data = self.world.data(size)
        if link.peer_closed:
            link.down.broken = True
        try:
            count = link.ours.send(data)
        except BlockingIOError:
            return
        except BROKEN:
            assert link.broken or link.up.ended
            self.calls = 0
            return
        link.up.add(data[:count], cut=link.up.broken)


class Callbacks(Part):
    """The part that readers and writers have in the end of a world."""

    def all(self):
        return [callback for link in self.world.links for callback in (link.reader, link.writer) if callback]

    def let_go(self):
        for callback in self.all():
            if isinstance(callback, Writer):
                callback.remove()
            else:
                callback.calls, callback.size = 1 << 30, 1 << 20

    def delivered(self):
        return all(callback.link.down.complete() or callback.link.broken for callback in self.all())

    def close(self):
        for callback in self.all():
            callback.remove()

    # At an abrupt end they stay: a loop may be closed with readers on it.


@step(weight=2, number=NUMBER, kind=st.sampled_from([Reader, Writer]), size=SMALL, calls=st.sampled_from([1, 2, 5, 99]))
def add_callback(world, number, kind, size, calls):
    def suits(link):
        # The selector loop has one reader a descriptor, and a sock_* call makes itself that.
        unfinished = [op for op in (link.receive, link.send) if op is not None and not op.task.done()]
        return not link.closed and not link.transport and not unfinished

    link = world.links.choose(number, suits)
    if link is None:
        return False
    world.let_endings_pass()
    if not suits(link):
        return False
    # In place of the one that is there.
    kind(world, link, size, calls).add()


@step(number=NUMBER, kind=st.sampled_from(["reader", "writer"]))
def remove_callback(world, number, kind):
    link = world.links.choose(number, lambda l: getattr(l, kind) is not None)
    if link is None:
        return False
    getattr(link, kind).remove()


@step(number=NUMBER, kind=st.sampled_from(["reader", "writer"]))
def callback_on_a_transport(world, number, kind):
    """Its descriptor is refused."""
    link = world.links.choose(number, lambda l: l.transport is not None and not l.transport.is_closing())
    if link is None:
        return False
    for method, arguments in ((f"add_{kind}", (print,)), (f"remove_{kind}", ())):
        try:
            getattr(link.loop, method)(link.ours, *arguments)
        except RuntimeError as exc:
            assert "is used by transport" in str(exc)
        else:
            raise AssertionError(f"{method} on a transport's descriptor")


@step(number=NUMBER, size=SMALL)
def take_beside(world, number, size):
    """Read, by a plain call, what a reader waits for and has just come."""
    link = world.links.choose(number, lambda l: l.reader is not None)
    if link is None:
        return False
    if not world.turning and not link.mate and not link.peer_closed and not link.down.ended:
        with contextlib.suppress(BlockingIOError, *BROKEN):
            data = world.data(size)
            link.down.add(data[: link.peer.send(data)])
    # One that is about to be called in this tick will find nothing.
    link.reader.robbed = world.runs if world.turning else None
    try:
        data = link.ours.recv(1 << 20)
    except (BlockingIOError, *BROKEN):
        return False
    if data:
        link.down.take(data)
    else:
        link.down.take_end()
