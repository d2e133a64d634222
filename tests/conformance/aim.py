"""Which of CPython's test modules are run, and how each is aimed at the loop under test.

Nothing of the modules is copied.  asyncio's names for its loops are replaced before a module is imported: whatever
it asks for, the selector loop, the proactor loop or the default, it gets the loop under test.  A class that is new
in a later Python thus takes part without being named here.
"""

import contextlib
import functools
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

import windows_shims

PACKAGE = "test.test_asyncio"

# Tests of coroutines, generators and mocks that run on whatever asyncio.run() gives.
ELSEWHERE = (
    "test.test_asyncgen",
    "test.test_contextlib_async",
    "test.test_unittest.test_async_case",
    "test.test_unittest.testmock.testasync",
)

# They would pass whatever the loop.
NOT_RUN = {
    "test_protocols": "runs no loop",
    "test_selector_events": "the selector loop's own insides, with mocks",
    "test_tools": "reads the memory of another process, and runs no loop",
    "test_transports": "runs no loop",
    "test_windows_utils": "Windows' own pipes and processes",
}

# Started first, so that none of them is what the end waits for.
LONG = ("test_subprocess", "test_tasks", "test_ssl", "test_free_threading", "test_windows_events", "test_events",
        "test_taskgroups", "test_sslproto")

# The same tests for one selector after the other: one class stands for all, and makes the loop without a selector.
SELECTOR_CLASS = "SelectEventLoopTests"
# Once the names of the loops are replaced, these repeat another class's tests.
TWINS = ("KqueueEventLoopTests", "EPollEventLoopTests", "PollEventLoopTests", "ProactorEventLoopTests",
         "ProactorStartServerTests", "ProactorStartTLSTests", "BufferedProtocolProactorTests")

# Skipped off Windows by their decorator: for want of a proactor loop.
UNSKIPPED = ("ProactorEventLoopUnixSockSendfileTests",)

WINDOWS = "test_windows_events"


def modules():
    """The names of the modules to run, long ones first; none when Python was installed without its tests."""
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError:
        return []
    names = [info.name for info in pkgutil.iter_modules(package.__path__) if info.name.startswith("test_")]
    names = [name for name in names if name not in NOT_RUN]
    names += [name for name in ELSEWHERE if importlib.util.find_spec(name) is not None]
    return sorted(names, key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))


def runs_on(module, loop):
    """Whether a module has tests for this loop: those of Windows are for proactor loops."""
    return loop != "stdlib" or module != WINDOWS


class Loops:
    """The loop under test, `uringloop` or `stdlib`, in the place of asyncio's."""

    def __init__(self, name):
        import asyncio

        self.made = 0
        self.is_stdlib = name == "stdlib"
        self.factory = asyncio.SelectorEventLoop
        if self.is_stdlib:
            return
        import uringloop

        # What is in there must hide nothing: the last place, and for one import only.
        sys.path.append(str(Path(__file__).parents[1]))
        import loop_factories  # noqa: F401: it sets the default tier
        sys.path.pop()

        self.factory = uringloop.IouringProactorEventLoop
        self.policy = uringloop.IouringProactorEventLoopPolicy
        self._count()
        for name in ("SelectorEventLoop", "ProactorEventLoop", "EventLoop"):
            # asyncio.EventLoop came with 3.13.
            if hasattr(asyncio, name) or name == "ProactorEventLoop":
                setattr(asyncio, name, self.factory)
        # What set_event_loop_policy(None) leads to, which every module calls at its end.
        if hasattr(asyncio.unix_events, "_DefaultEventLoopPolicy"):
            asyncio.unix_events._DefaultEventLoopPolicy = self.policy
        else:
            asyncio.DefaultEventLoopPolicy = self.policy

    def _count(self):
        original = self.factory.__init__

        @functools.wraps(original)
        def __init__(loop, *args, **kwargs):
            self.made += 1
            original(loop, *args, **kwargs)

        self.factory.__init__ = __init__


def full_name(name):
    """`test_events` is one of asyncio's; what is not there is a module in its own right."""
    in_package = f"{PACKAGE}.{name}"
    return in_package if "." not in name and importlib.util.find_spec(in_package) else name


def load(name, loops):
    """Import a test module, and return it aimed at the loop."""
    shims = windows_shims.installed(loops) if name == WINDOWS else contextlib.nullcontext()
    # test_ssl has tests for those who allow so much.
    importlib.import_module("test.support").real_max_memuse = 4 << 30
    with shims:
        module = importlib.import_module(full_name(name))
    for twin in TWINS:
        if isinstance(getattr(module, twin, None), type):
            delattr(module, twin)
    one = getattr(module, SELECTOR_CLASS, None)
    if one is not None:
        one.create_event_loop = lambda self: loops.factory()
    if not loops.is_stdlib:
        for name in UNSKIPPED:
            if hasattr(module, name):
                getattr(module, name).__unittest_skip__ = False
    return module
