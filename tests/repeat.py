#!/usr/bin/env python3
"""Run the tests again and again in one process, and see that nothing grows.

    python tests/repeat.py                             # the whole suite, five times
    python tests/repeat.py tests/test_servers.py -k tcp   # arguments go to pytest
    python tests/repeat.py --times 8 ...

After each time it prints how many descriptors, Python threads and memory mappings the process has, and how many blocks
Python's allocator gave out (and, on a debug build, how many references there are), all after a collection.  The exit
status is 0 only when all tests passed each time, and from the third time to the last descriptors, threads and mappings
are equal, and blocks (and references) agree within a thousandth.  The first two fill caches.
"""

import argparse
import collections
import gc
import os
import re
import signal
import sys
import threading
from pathlib import Path

from hypothesis.strategies._internal.utils import clear_strategy_cache

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# What would differ from time to time for reasons that are no leak.
ENVIRONMENT = {
    # glibc gives a thread that finds its arena taken another one, which is a mapping.
    "MALLOC_ARENA_MAX": "1",
    # And maps large blocks one by one, or not, as its threshold has it, which follows what was freed.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    # And keeps some of the stacks of threads that have ended.
    "GLIBC_TUNABLES": "glibc.pthread.stack_cache_size=0",
    # Sets and dicts of strings have another order, and so another history of sizes, in each process.
    "PYTHONHASHSEED": "0",
    # The same random programs each time.
    "URINGLOOP_SEED": "1",
}


def normalize():
    """Start once more in the right environment, which is read when a process starts."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)


# Mebibytes of Python's arenas: more than a run takes for a time.
RESERVE = 128


def reserve():
    """Return objects, at least one in each of so many arenas, which have 1 MiB each.

    Python gives an arena back when its last block goes, and when that is depends on which block is where.  None of
    these can go; what a run takes for a time it finds in them.
    """
    # With what a debug build puts around each block it must still be small enough for an arena, which is 512 bytes.
    size = 256
    blocks = [bytes(size - sys.getsizeof(b"")) for _ in range(RESERVE * 2**20 // size)]
    return blocks[:: 2**19 // size]


def mappings():
    """{what is mapped: how many lines of /proc/self/maps}"""
    kinds = collections.Counter()
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split(maxsplit=5)
            kinds[words[5].strip() if len(words) > 5 else "anonymous"] += 1
    return kinds


def census():
    # It has room for the last 1024, of which one time brings 156: full it would be the seventh time.
    clear_strategy_cache()
    # conftest.py freezes what it found after the collection of tests: by now some of it is garbage.
    gc.unfreeze()
    while gc.collect():
        pass
    maps = mappings()
    counts = {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "mappings": maps.total(),
        "of io_uring": sum(count for name, count in maps.items() if "io_uring" in name),
        "blocks": sys.getallocatedblocks(),
    }
    if hasattr(sys, "gettotalrefcount"):
        counts["references"] = sys.gettotalrefcount()
    return counts, maps


def compare(rows):
    """What has grown, or shrunk, in words."""
    problems = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        allowed = min(values) // 1000 if name in ("blocks", "references") else 0
        if max(values) - min(values) > allowed:
            problems.append(f"{name}: {values}")
    return problems


def main():
    parser = argparse.ArgumentParser(
        description="Run the tests again and again in one process.", allow_abbrev=False,
        usage="%(prog)s [-h] [--times TIMES] [argument of pytest ...]")
    parser.add_argument("--times", type=int, default=5, help="default: 5")
    arguments, others = parser.parse_known_args()
    if arguments.times < 4:
        parser.error("--times: at least 4, of which the first two fill caches")
    normalize()

    import pytest

    if not any(re.search(r"\.py|^tests", other) for other in others):
        others.append(str(TESTS))
    # A shell's background job starts with it ignored, and so would what the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows, failures, maps_before, reserved = [], [], None, None
    for number in range(1, arguments.times + 1):
        status = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"),
                              "--rootdir", str(ROOT), *others])
        if status != 0:
            failures.append(f"time {number}: pytest ended with {status}")
        reserved = reserved or reserve()
        counts, maps = census()
        rows.append(counts)
        print(f"repeat: time {number}: {', '.join(f'{count} {name}' for name, count in counts.items())}", flush=True)
        if maps_before is not None and maps != maps_before:
            more, less = maps - maps_before, maps_before - maps
            print(f"repeat: mappings that came: {dict(more)}, that went: {dict(less)}", flush=True)
        maps_before = maps
    failures += [f"not equal from the third time on: {problem}" for problem in compare(rows[2:])]
    if failures:
        raise SystemExit("repeat: " + "\nrepeat: ".join(failures))
    print("repeat: nothing grows")


if __name__ == "__main__":
    main()
