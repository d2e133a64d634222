"""The register of steps, and the strategies that several of them draw their arguments from.

A step is a function `name(world, **arguments)`.  What it answers is False when there is nothing there
that it could do.  Nothing in it depends on the loop but what the loop does.
"""

import collections

from hypothesis import strategies as st

STEPS = {}

Step = collections.namedtuple("Step", "function weight strategies")

NUMBER = st.integers(0, 7)
FAMILY = st.sampled_from(["tcp", "unix"])
# How often the loops turn after a step, or before something that it put off.
TURNS = st.integers(0, 3)
CANCEL = st.sampled_from([None, None, None, 0, 1, 2, 3])
LIMIT = st.sampled_from([None, None, None, None, "timeout", "wait_for"])
SMALL = st.integers(1, 5000)
SIZE = st.one_of(SMALL, SMALL, st.integers(10_000, 70_000), st.integers(300_000, 700_000))


def step(*, weight=1, turns=TURNS, **strategies):
    """Register a step: the higher its weight, the more often."""

    def register(function):
        STEPS[function.__name__] = Step(function, weight, {**strategies, "turns": turns})
        return function

    return register
