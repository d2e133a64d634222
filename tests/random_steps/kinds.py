"""The loops that a sequence of steps is run on."""

import asyncio

import uringloop
from simulation import simulated_proactor


class Selector:
    """The oracle."""

    name = "selector"
    oracle = True
    # Completions come in their own time, not with the tick.
    late = False

    def make_loop(self, seed):
        return asyncio.SelectorEventLoop()

    def finish(self):
        """Called when the loops of an example are closed; return the number of faults that they had."""
        return 0


class Real(Selector):
    """Ours, on the running kernel, one rung of the ladder and a tier of transports: the default one, or by its name."""

    oracle = False

    def __init__(self, rung, transports=None):
        self.name = f"rung {rung}" if transports is None else f"rung {rung}, {transports}"
        self.rung = rung
        self.transports = transports

    def make_loop(self, seed):
        return uringloop.IouringProactorEventLoop(uringloop.IouringProactor(rung=self.rung),
                                                  transports=self.transports)


class Simulated(Real):
    """Ours, on a simulated kernel whose faults are drawn from the seed."""

    late = True

    def __init__(self, rung):
        super().__init__(rung)
        self.name = f"simulated, rung {rung}"
        self.simulations = []

    def make_loop(self, seed):
        proactor, simulation = simulated_proactor(seed, rung=self.rung)
        self.simulations.append(simulation)
        return uringloop.IouringProactorEventLoop(proactor)

    def finish(self):
        simulations, self.simulations = self.simulations, []
        problems = [problem for simulation in simulations for problem in simulation.problems()]
        assert not problems, problems
        return sum(sum(simulation.taken.values()) for simulation in simulations)
