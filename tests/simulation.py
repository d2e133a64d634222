"""Event loops on the simulated kernel: real sockets and pipes, an io_uring full of faults from a seed.

    proactor, kernel = simulated_proactor(seed=7)
    loop = uringloop.IouringProactorEventLoop(proactor)
    ...
    loop.close()
    assert kernel.problems() == []

The simulated kernel is tests/cpp/simulated_kernel.hpp over the process's own files; the module is built by
tests/cpp/build.py when it is first wanted. Faults are drawn in the order of the calls: the same seed and the same
calls have the same ones.
"""

import atexit
import functools
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import loop_factories  # noqa: F401: it sets the default tier
import uringloop

ROOT = Path(__file__).resolve().parent.parent

# Of a thousand, at most; these change nothing that a program may see but the time that it takes.
HARMLESS = {
    "short_transfer": 600,
    "zero_transfer": 200,
    "spurious": 200,
    "hold_back": 600,
    "reorder": 900,
    "late_cancel": 900,
    "failed_enter": 200,
    "short_submit": 300,
    "interrupted": 200,
    "overflow": 200,
    "more": 100,
    "stray": 200,
    "stale_flag": 300,
}
# These are errors of the operation, or of making or moving the loop.
VISIBLE = {"no_buffers": 100, "failed_set_up": 300, "dropped": 50}


@functools.cache
def module():
    """Return the extension module, built for the Python that runs this."""
    variant = "sanitized-module" if os.environ.get("URINGLOOP_SANITIZE") else "module"
    directory = ROOT / "build/cpp-tests" / f"{variant}-{sys.implementation.cache_tag}{sys.abiflags}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    if not os.access(directory, os.W_OK):
        directory = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    command = [sys.executable, ROOT / "tests/cpp/build.py", variant, directory]
    # A sanitizer's runtime is for this process, not for the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"the simulated kernel can't be built:\n{done.stdout}")
    spec = importlib.util.spec_from_file_location("simulated_kernel", done.stdout.splitlines()[-1])
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Simulation:
    """A simulated kernel as a test sees it; `kernel` has the rest: fail(), force_result(), post() ..."""

    def __init__(self, seed):
        self.seed = seed
        self.kernel = module().Kernel(seed)

    def __repr__(self):
        chances = {name: often for name, often in self.kernel.chances.items() if often}
        return f"<Simulation seed={self.seed} chances={chances}>"

    @property
    def violations(self):
        """What no program may do (memory changed under a request, a sleep for ever ...), in words."""
        return self.kernel.violations

    @property
    def taken(self):
        """{fault: how often it has struck}"""
        return self.kernel.taken

    @property
    def requests(self):
        """Requests in flight in the kernel, those of closed rings included."""
        return self.kernel.requests

    def problems(self):
        """Return what is wrong now that the proactor is closed, in words."""
        self.kernel.end_closed_rings()
        left = {"requests": self.requests, "rings": len(self.kernel.rings), "mappings": self.kernel.mappings}
        return self.violations + [f"{count} {what} left" for what, count in left.items() if count]


def drawn_chances(seed):
    """{fault: of a thousand}: about half of the harmless faults, more or less often."""
    draw = random.Random(seed)
    return {name: draw.randrange(most) if draw.random() < 0.5 else 0 for name, most in HARMLESS.items()}


def simulated_proactor(seed, faults=True, rung=None, cls=uringloop.IouringProactor, refused=()):
    """Return (IouringProactor, Simulation).

    faults: True for harmless ones of all kinds, drawn from the seed, and queues of any size; False for none; or
    {name: of a thousand}, the names being those of the kernel's `chances`.
    rung: of the set-up ladder, see IouringProactor; None: drawn from the seed.
    cls: of the proactor.
    refused: opcodes that the kernel knows and does not allow.
    """
    simulation = Simulation(seed)
    kernel = simulation.kernel
    for opcode in refused:
        kernel.refuse(opcode)
    if rung is None:
        rung = kernel.below(3)
    if faults is True:
        entries = 1 << kernel.below(10)
        kernel.set_limit("largest_sq", entries)
        kernel.set_limit("largest_cq", entries << kernel.below(3))
        kernel.set_limit("busy_on_overflow", kernel.below(2))
        faults = drawn_chances(seed)
    proactor = cls(rung, kernel=kernel.capsule)
    for name, often in (faults or {}).items():
        kernel.set_chance(name, often)
    return proactor, simulation
