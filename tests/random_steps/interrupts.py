"""Exceptions of signals' handlers at any line of the loop's Python code; lines.py has the rule for which.

The program catches them and runs the loop again.  What must hold then, on each loop:

 - what was interrupted has lost no more than the piece that it was about to hand on, or has sent one twice;
 - an ordinary exception may end the connection instead, which is told so, or be told to the exception handler;
 - all goes on: what is sent afterwards arrives, both ways, clients are accepted, signals and threads are heard.
"""

import warnings

from hypothesis import strategies as st

from random_steps.lines import RAISED, Failed, Interrupted, Lines
from random_steps.neighbours import feed
from random_steps.readiness import Callback
from random_steps.steps import NUMBER, step
from random_steps.transports import has_transport, use_transport


def known_ids(world):
    """{id of a transport, socket or protocol: the thing whose it is}"""
    known = {}
    for thing in [*world.links, *world.couples]:
        for value in (thing.transport, thing.ours, thing.protocol, thing.receive, thing.send, thing):
            known[id(value)] = thing
    for pipe in world.pipes:
        for protocol in filter(None, (pipe.reader, pipe.writer)):
            known[id(protocol.transport)] = known[id(protocol)] = pipe
    for served in world.servers:
        known[id(served.sock)] = known[id(served.server)] = served
    known.pop(id(None), None)
    return known


def lose(world, hit, known):
    """The piece in hand may be missing, of what was interrupted; of everything where that can't be told."""
    things = {known[number] for number in hit.ids & known.keys()} or set(known.values())
    for thing in things:
        thing.lose()
        thing.raced = True
    for operation in world.operations:
        operation.doubtful |= operation.thing is None or operation.thing in things
    for served in world.servers:
        served.doubtful |= served.clients.keys()
    world.listeners.lose()
    world.signals.lose()


def write_to_all(world):
    """Both ways: what a transport writes behind an interrupt arrives, too."""
    for number, link in enumerate(list(world.links)):
        if has_transport(link) and not link.protocol.leaving and not link.wrote_eof:
            use_transport(world, number, "write", 50)


@step(weight=2, nth=st.integers(1, 80), exception=st.sampled_from([Interrupted, Interrupted, Failed]),
      ends=st.sets(NUMBER, max_size=1), writes=st.lists(st.tuples(NUMBER, st.integers(1000, 500_000)), max_size=2),
      count=st.integers(1, 4), turns=st.integers(1, 3))
def interrupt(world, nth, exception, ends, writes, count):
    # What begins is through with that.
    world.turn(4)
    for number, size in writes:
        use_transport(world, number, "write", size)
    feed(world, ends)
    world.signals.send_all()
    known = known_ids(world)
    transports = {id(thing.transport): thing for thing in [*world.links, *world.couples]}
    transports |= {id(protocol.transport): protocol for protocol in world.pipes.protocols()}

    def is_known(transport):
        return id(transport) in transports and not transport.is_closing()

    hits = []

    def on_hit(hit):
        hits.append(hit)
        world.interrupted_in = world.step
        world.counts.hits[hit.place] += 1
        world.places.append(f"step {world.step}: {exception.__name__} at {hit.place}")
        lose(world, hit, known)

    with warnings.catch_warnings():
        # Of an accepted connection that nobody has taken over.
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        with Lines(nth, exception, on_hit, world.oracle, is_known, Callback):
            try:
                world.turn(count)
            except RAISED as exc:
                exc.__traceback__ = None
        if not hits:
            return False
        world.turn(2)
    # What comes now is sure to arrive.
    feed(world, ())
    write_to_all(world)
    world.signals.send_all()
