"""The machine that draws the steps, runs them on each kind of loop and compares the runs."""

import gc
import os
import warnings

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

# What registers steps.
from random_steps import (  # noqa: F401
    closes, connections, datagrams, interrupts, loops, neighbours, pipes, readiness, servers, signals, sock_methods,
    transports)
from random_steps.steps import STEPS
from random_steps.world import World, open_descriptors

# Names of steps that are left out, to look behind what they find.
WITHOUT = os.environ.get("URINGLOOP_WITHOUT", "").split()

# What there may be at the beginning, for the steps to work on: the steps that make it.
THINGS = {
    "tcp": [("another_pair", {"family": "tcp", "loop": 0})],
    "unix": [("another_pair", {"family": "unix", "loop": 1})],
    "mates": [("another_pair_between_loops", {"family": "tcp", "loop": 0, "other": 1})],
    "loop": [("another_loop", {})],
    "signals": [("add_signal_handler", {"number": number}) for number in signals.NUMBERS],
    **{
        kind: [("another_pair", {"family": family, "loop": 0}),
               ("make_transport", {"number": -1, "kind": kind, "pause": False})]
        for kind, family in (("protocol", "tcp"), ("buffered", "unix"), ("streams", "tcp"))
    },
    **{
        f"{ends} pipe": [
            ("open_pipe", {"medium": medium, "ends": ends, "loop": 0, "other": 1, "cancel": None})]
        for ends, medium in (("read", "pipe"), ("write", "pipe"), ("both", "socket"))
    },
    **{f"{family} server": [("open_server", {"family": family, "loop": 0, "kind": kind})]
       for family, kind in (("tcp", "protocol"), ("unix", "buffered"))},
    "udp": [("open_datagrams", {"family": "udp", "connected": False, "loop": 0})],
    "datagram transport": [("open_datagrams", {"family": "udp", "connected": True, "loop": 1}),
                           ("make_datagram_transport", {"number": -1})],
    "unix datagram transport": [("open_datagrams", {"family": "unix", "connected": False, "loop": 0}),
                                ("make_datagram_transport", {"number": -1})],
}


def begin(world, things):
    for thing in things:
        for name, arguments in THINGS[thing]:
            STEPS[name].function(world, **arguments)


# After so many sequences of a kind what is alive is set aside.
SET_ASIDE = 100


def run(kind, counts, seed, abrupt, program):
    """Run the steps on loops of a kind; return the world, over."""
    if counts.examples % SET_ASIDE == 0:
        # Hypothesis keeps more and more: to go through all of it for a socket that the oracle has dropped, below, takes
        # fifteen times as long as all the rest.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    world = World(kind, counts, seed, abrupt)
    interrupted = any(function is interrupts.interrupt for function, _, _ in program)
    with warnings.catch_warnings():
        if kind.oracle or interrupted:
            # Behind server.close() the oracle drops what it has accepted, and any loop does when it is interrupted.
            warnings.simplefilter("ignore", ResourceWarning)
        try:
            world.play(program)
            world.end()
        finally:
            counts.examples += 1
            counts.cancels += world.cancels
            counts.with_cancel += world.cancels > 0
            world.clean_up()
        if (kind.oracle or interrupted) and open_descriptors() != world.descriptors:
            gc.collect()
    counts.faults += kind.finish()
    world.check_nothing_is_left()
    return world


def compare(oracle, other, counts):
    """Operations end alike, where no race decides how."""
    for key, record in oracle.records.items():
        same = other.records.get(key)
        if same is None or not record.certain or not same.certain or record.history != same.history:
            continue
        counts.compared += 1
        assert same.outcome == record.outcome, (
            f"{key[1]} of step {key[0]}: {same.outcome} on {other.kind.name}, {record.outcome} on the selector loop")


class Machine(RuleBasedStateMachine):
    """kinds: what each sequence is run on, the oracle first; counts: one for each."""

    def __init__(self, kinds, counts):
        super().__init__()
        self.kinds, self.counts = kinds, counts
        self.program = []

    @initialize(seed=st.integers(0, (1 << 32) - 1), abrupt=st.booleans(),
                things=st.lists(st.sampled_from(list(THINGS)), min_size=1, max_size=6))
    def begin(self, seed, abrupt, things):
        self.seed, self.abrupt = seed, abrupt
        self.program.append((begin, {"things": things}, 2))

    def teardown(self):
        # Not when drawing it came to nothing.
        if not self.program:
            return
        worlds = [run(kind, counts, self.seed, self.abrupt, self.program)
                  for kind, counts in zip(self.kinds, self.counts, strict=True)]
        for world, counts in zip(worlds[1:], self.counts[1:], strict=True):
            compare(worlds[0], world, counts)


def add_rules():
    """More of what matters most: the more names, the more often."""
    for name, step in sorted(STEPS.items()):
        if name in WITHOUT:
            continue
        for number in range(step.weight):
            rule_name = f"{name}_{number + 1}" if number else name
            setattr(Machine, rule_name, recorder(rule_name, step))


def recorder(name, step):
    def record(self, turns, **arguments):
        self.program.append((step.function, arguments, turns))

    record.__name__ = record.__qualname__ = name
    return rule(**step.strategies)(record)


add_rules()
