"""Signal handlers: of signals that are sent at least one is seen after the last."""

import collections
import os
import signal
import threading

from hypothesis import strategies as st

from random_steps.parts import Part
from random_steps.steps import step

NUMBERS = [signal.SIGUSR1, signal.SIGUSR2]
SIGNAL = st.sampled_from(NUMBERS)


def send_by_kill(number):
    os.kill(os.getpid(), number)


def send_from_a_thread(number):
    thread = threading.Thread(target=os.kill, args=(os.getpid(), number))
    thread.start()
    thread.join()


SENDERS = {"kill": send_by_kill, "raise": signal.raise_signal, "thread": send_from_a_thread}


class Signals(Part):
    """The signals of the first loop: those that have a handler, and those whose call is still to come."""

    def __init__(self, world):
        super().__init__(world)
        self.handled = set()
        self.due = set()
        self.sent = collections.Counter()

    def add(self, number):
        self.handled.add(number)
        self.world.loops[0].add_signal_handler(number, self.called, number)

    def called(self, number):
        with self.world.watched():
            self.sent[number] -= 1
            assert self.sent[number] >= 0, "more calls than signals"
        self.due.discard(number)

    def send(self, number, how):
        self.sent[number] += 1
        self.due.add(number)
        SENDERS[how](number)

    def remove(self, number):
        assert self.world.loops[0].remove_signal_handler(number) is (number in self.handled)
        self.handled.discard(number)
        self.due.discard(number)

    def send_all(self):
        for number in self.handled:
            self.send(number, "kill")

    def lose(self):
        """The byte of a signal may be lost; the next is not."""
        self.due.clear()

    # -- the end --

    def delivered(self):
        return not self.due

    def close(self):
        for number in list(self.handled):
            self.remove(number)

    def rest(self):
        """A loop that closes takes its handlers away."""
        for number in self.handled:
            assert signal.getsignal(number) == signal.SIG_DFL


@step(number=SIGNAL)
def add_signal_handler(world, number):
    world.signals.add(number)


@step(weight=2, number=SIGNAL, how=st.sampled_from(sorted(SENDERS)), in_callback=st.booleans())
def send_signal(world, number, how, in_callback):
    signals = world.signals
    if number not in signals.handled:
        return False
    if in_callback:
        # It may have lost its handler by then.
        world.soon(world.loops[0], 1, lambda: number in signals.handled and signals.send(number, how))
    else:
        signals.send(number, how)


@step(number=SIGNAL)
def remove_signal_handler(world, number):
    world.signals.remove(number)
