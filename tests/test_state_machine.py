"""Random sequences of steps on sockets, pipes and signals, against a model of the bytes.

Each sequence is run four times: on the selector loop, the oracle, on ours, on ours with the other tier of
transports, and on ours on a simulated kernel whose faults are drawn from the same seed.  Between two steps the loops turn as often as the step
says, and never sleep, so that an example is the same each time.  The steps and the model are in
random_steps/.  What must hold, whatever is cancelled, closed or reset, and when:

 - each byte that arrives is the next of its stream: none lost, none twice, none of another connection;
 - a cancelled receive has taken nothing and written nothing, a cancelled accept took no connection;
 - operations end as on the selector loop, with exceptions of the same type, where no race decides it;
   but a socket that is closed beside a pending operation ends it with OSError(EBADF), where the selector
   loop waits for ever, and its number's next owner has its own;
 - of the signals that were sent one at least is seen after the last;
 - a transport that closes or is paused, be it by a neighbour in the same tick, is told nothing; a reader
   is called for what is there when the tick begins;
 - what a signal's handler raises, at any line of the loop's Python code, costs the piece in hand at most:
   random_steps/lines.py has the rule;
 - whatever the user closes, under a call, a reader, a transport or a server, its peer sees the end and
   the number's next owner has its own: random_steps/closes.py;
 - in the end all tasks are done, nothing is in flight, there are as many descriptors and io_uring
   mappings as before, the loop's exception handler was not called, and the simulated kernel has seen
   nothing that no program may do.

On the selector loop, the oracle, two things are left out: closing beside a pending operation, and
cancelling in the very tick in which the data came, which loses them there.

    URINGLOOP_EXAMPLES=5000 python -m pytest tests/test_state_machine.py      30 a rung when left out
    URINGLOOP_SEED=...                                                        the seed that was printed; one that is
                                                                              always the same without EXAMPLES
    URINGLOOP_WITHOUT="interrupt take_beside"                                 steps that are left out
    URINGLOOP_SHRINK=0, URINGLOOP_PATIENCE=2                                  for a look at many failures
    python tests/planted_steps.py                                             does it find planted defects?

A failure prints the steps of a small example, as a program, and the seed. After a crash the seed is in
.pytest_cache/v/uringloop/seed.
"""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from random_steps.counts import Counts
from random_steps.defects import DEFECTS
from random_steps.kinds import Real, Selector, Simulated
from random_steps.machine import Machine
from uringloop import tiers

EXAMPLES = int(os.environ.get("URINGLOOP_EXAMPLES", 30))
# Without a number of examples it is a test among others: what fails is the fault of the change at hand, and not of the
# seed. A search draws one; workers of one parallel run have the same.
SEED = int(os.environ.get("URINGLOOP_SEED", 0) or (
    random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(1 << 32)
    if "URINGLOOP_EXAMPLES" in os.environ else 20261129))
STEPS = 80
SHRINK = os.environ.get("URINGLOOP_SHRINK", "1") == "1"


@pytest.fixture(autouse=True, scope="module")
def kept_seed(request):
    """For the case that the process dies of what it tries."""
    if (cache := getattr(request.config, "cache", None)) is not None:
        cache.set("uringloop/seed", SEED)


# The selector loop's own: it drops a coroutine that was never awaited. To warn of that fails where it is collected
# in a function without builtins, which namedtuple() makes.
@pytest.mark.filterwarnings("ignore:.*_accept_connection2:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120 + EXAMPLES)
@pytest.mark.parametrize("rung", range(3), ids="rung{}".format)
def test_random_steps(rung, capsys):
    others = [Real(rung, tier) for tier in tiers.MODULES if tier != tiers.DEFAULT]
    check((Selector(), Real(rung), *others, Simulated(rung)), SEED + rung, capsys)


@pytest.mark.any_python("it tries the steps, and no loop of ours")
@pytest.mark.parametrize("defect", [defect.__name__ for defect in DEFECTS])
def test_planted_defect_is_found(defect):
    # In a process of its own, for what a failure leaves behind. By hand it takes any seed; this one finds each soon.
    first_seed = {"ReadsInAChain": "2"}.get(defect, "5")
    done = subprocess.run([sys.executable, "-W", "ignore", Path(__file__).with_name("planted_steps.py"), defect,
                           "--seed", first_seed, "--examples", "500"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{defect}: " in done.stdout


@pytest.mark.any_python("it tries the steps, and no loop of ours")
@pytest.mark.timeout(120 + EXAMPLES)
def test_random_steps_on_two_selector_loops(capsys):
    """That the model is true of the oracle, and that an example is the same each time."""
    check((Selector(), Selector()), SEED + 3, capsys)


def check(kinds, first_seed, capsys):
    all_counts = [Counts() for _ in kinds]

    # Other sequences on each. (Not a class for each: hypothesis keeps all classes of machines for good.)
    @seed(first_seed)
    def make_machine():
        return Machine(kinds, all_counts)

    try:
        run_state_machine_as_test(
            make_machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=True,
                phases=[Phase.generate] + [Phase.shrink] * SHRINK,
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.normal,
            ),
        )
    finally:
        # A failure shows it, and so does a run of a length that was asked for.
        with capsys.disabled() if "URINGLOOP_EXAMPLES" in os.environ else contextlib.nullcontext():
            print(f"\nURINGLOOP_SEED={SEED}")
            for kind, counts in zip(kinds, all_counts, strict=True):
                print(f"{kind.name}: {counts}")
                if EXAMPLES >= 500:
                    print(f"{kind.name}: {counts.shares()}")
    # Hypothesis varies what it has just tried, and leaves steps out for whole runs: few examples are no sample.
    if EXAMPLES >= 500:
        for kind, counts in zip(kinds, all_counts, strict=True):
            assert kind.oracle or counts.with_cancel >= EXAMPLES // 10
            assert counts.steps >= 25 * counts.examples
