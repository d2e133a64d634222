"""Deeds to a neighbour: what one thing is told by its loop makes it act on another that is ready in the same tick.

What must hold then is what the protocols and callbacks of all things check anyway: a transport that is closing or
paused is told nothing, a removed reader is not called, a cancelled operation has taken nothing.  Which of several
ready things is told first is the loop's affair.
"""

import contextlib
import functools

from hypothesis import strategies as st

from random_steps.connections import peer_connects
from random_steps.datagrams import close_datagram_transport, peer_sends_datagram, send_datagram
from random_steps.datagrams import use_datagram_transport
from random_steps.links import MOST
from random_steps.pipes import use_pipe, write_to_pipe
from random_steps.readiness import remove_callback, take_beside
from random_steps.servers import client_connects, close_server
from random_steps.sock_methods import cancel, peer_leaves, peer_sends, receive, sendall
from random_steps.steps import NUMBER, SMALL, step
from random_steps.transports import KINDS, has_transport, make_transport, use_transport


def on_transport(what):
    return lambda world, number, size: use_transport(world, number, what, size)


def on_pipe(end, what):
    return lambda world, number, size: use_pipe(world, number, end, what)


# What may be done to a neighbour: function(world, number, size); names of one kind stand together.
DEEDS = {
    **{what: on_transport(what) for what in ("close", "abort", "pause", "resume", "write", "writelines", "eof")},
    **{f"{what} reading pipe": on_pipe("reader", what) for what in ("close", "pause", "resume")},
    **{f"{what} writing pipe": on_pipe("writer", what) for what in ("close", "abort", "eof")},
    "write to pipe": lambda world, number, size: write_to_pipe(world, number, size),
    "close datagrams": lambda world, number, size: close_datagram_transport(world, number, "close"),
    "abort datagrams": lambda world, number, size: close_datagram_transport(world, number, "abort"),
    "pause datagrams": lambda world, number, size: use_datagram_transport(world, number, "pause"),
    "resume datagrams": lambda world, number, size: use_datagram_transport(world, number, "resume"),
    "send datagram": lambda world, number, size: send_datagram(world, number, size, None, None),
    "cancel receive": lambda world, number, size: cancel(world, number, "receive", 0),
    "cancel send": lambda world, number, size: cancel(world, number, "send", 0),
    "receive": lambda world, number, size: receive(world, number, False, size, None, None),
    "sendall": lambda world, number, size: sendall(world, number, size, None, None),
    "remove reader": lambda world, number, size: remove_callback(world, number, "reader"),
    "remove writer": lambda world, number, size: remove_callback(world, number, "writer"),
    "take beside": lambda world, number, size: take_beside(world, number, size),
    "close server": lambda world, number, size: close_server(world, number),
}

DEED = st.tuples(NUMBER, st.sampled_from(sorted(DEEDS)), NUMBER, SMALL)


def told_things(world):
    """What is told something when input comes: connections, pipes, datagrams and servers."""
    return [*world.links, *world.pipes, *world.couples, *world.servers]


def feed(world, ends):
    """Give everything something to read, and to some the end."""
    for number, link in enumerate(list(world.links)):
        if not link.mate and not link.peer_closed and not link.down.ended:
            peer_sends(world, number, 100 + number)
            if number in ends:
                peer_leaves(world, number, "half-close")
    for number, couple in enumerate(world.couples):
        if not couple.peer_closed and not couple.closed:
            peer_sends_datagram(world, number, 10 + number)
    for number, pipe in enumerate(world.pipes):
        if pipe.writer is None and not pipe.stream.ended:
            write_to_pipe(world, number, 10)
    for number in range(len(world.servers)):
        client_connects(world, number)
    for family in ("tcp", "unix"):
        accepting = world.listeners.accepting.get(family)
        if accepting and accepting.busy:
            peer_connects(world, family)


def open_some(world, kinds):
    """See that so many transports of one loop can receive."""
    reading = [link for link in world.links
               if has_transport(link) and not link.mate and link.loop is world.loops[0]
               and link.transport.is_reading() and not link.peer_closed and not link.down.ended]
    for kind in kinds[len(reading) :]:
        if len(world.links) < MOST:
            world.links.add_pair("tcp" if len(world.links) % 2 else "unix", world.loops[0])
            make_transport(world, len(world.links) - 1, kind, False)
    world.turn(2)


def do(world, name, number, size):
    done = DEEDS[name](world, number, size) is not False
    world.counts.count_deed(name, done)


@step(weight=4, deeds=st.lists(DEED, min_size=1, max_size=4), ends=st.sets(NUMBER, max_size=2),
      kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=3, max_size=3), turns=st.integers(1, 3))
def neighbours(world, deeds, ends, kinds):
    """Arm some things with a deed each, and give all something to read, in one tick."""
    open_some(world, kinds)
    things = told_things(world)
    for who, name, number, size in deeds:
        world.deeds[things[who % len(things)]] = functools.partial(do, world, name, number, size)
    feed(world, ends)
