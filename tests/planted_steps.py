#!/usr/bin/env python3
"""Let the state machine run on selector loops with a defect each, and say how many examples find it.

    python tests/planted_steps.py                       # all of random_steps/defects.py
    python tests/planted_steps.py NotCancelled          # some
    python tests/planted_steps.py --examples 5000       # look for longer

The exit status is 0 only when all were found.
"""

import argparse
import random
import sys
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from random_steps.counts import Counts
from random_steps.defects import DEFECTS, Defective
from random_steps.machine import Machine
from random_steps.world import World


def find(defect, examples, first_seed):
    """Return (number of examples, what was found or None)."""
    counts = [Counts()]

    @seed(first_seed)
    def make_machine():
        return Machine([Defective(defect)], counts)

    try:
        run_state_machine_as_test(make_machine, settings=settings(
            max_examples=examples, stateful_step_count=80, deadline=None, database=None, phases=[Phase.generate],
            report_multiple_bugs=False, suppress_health_check=list(HealthCheck)))
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        return counts[0].examples, exc
    return counts[0].examples, None


def main():
    parser = argparse.ArgumentParser(description="Does the state machine find planted defects?")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a class of random_steps/defects.py; default: all")
    parser.add_argument("--examples", type=int, default=1000, help="the most that are run for one defect")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"--seed {arguments.seed}")
    World.patience = 2.0
    missed = []
    for defect in DEFECTS:
        if arguments.names and defect.__name__ not in arguments.names:
            continue
        started = time.monotonic()
        count, found = find(defect, arguments.examples, arguments.seed)
        took = time.monotonic() - started
        what = "NOT FOUND" if found is None else f"{type(found).__name__}: {str(found).splitlines()[:1]}"
        print(f"{defect.__name__}: {count} examples, {took:.1f} s: {what}", flush=True)
        if found is None:
            missed.append(defect.__name__)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
