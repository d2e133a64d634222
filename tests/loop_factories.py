"""The loops that tests run on, by name: asyncio's selector loop, the oracle, and ours, on each tier of transports.

    URINGLOOP_TEST_TRANSPORTS=stdlib python -m pytest ...

makes another tier the default one, for all loops of a process that has imported this: those of the tests, of
random_loops.py and of tests/conformance.

The polls of TCP are multishot ones here however few they are, which is the harder case. URINGLOOP_TEST_MULTISHOT_FROM names
another number of operations in flight from which on they are; "default" leaves it as it is.
"""

import asyncio
import os

import uringloop
from uringloop import _overlapped, tiers

if name := os.environ.get("URINGLOOP_TEST_TRANSPORTS"):
    tiers.module_of(name)
    tiers.DEFAULT = name
if (number := os.environ.get("URINGLOOP_TEST_MULTISHOT_FROM", "0")) != "default":
    _overlapped.MULTISHOT_FROM = int(number)


def factory_of(tier):
    def new_event_loop():
        return uringloop.new_event_loop(tier)

    new_event_loop.tier = tier
    return new_event_loop


ORACLE = "selector"
LOOPS = {
    ORACLE: asyncio.SelectorEventLoop,
    "uringloop": uringloop.new_event_loop,
    **{f"uringloop-{tier}": factory_of(tier) for tier in tiers.MODULES if tier != tiers.DEFAULT},
}
OURS = [name for name in LOOPS if name != ORACLE]
NATIVE = next(name for name in OURS if getattr(LOOPS[name], "tier", tiers.DEFAULT) == "native")


def expression_of(factory, package="uringloop"):
    """Return Python code for one of LOOPS, for a process of its own that has imported asyncio and the package."""
    if factory is asyncio.SelectorEventLoop:
        return "asyncio.SelectorEventLoop"
    return f"(lambda: {package}.new_event_loop({getattr(factory, 'tier', tiers.DEFAULT)!r}))"
