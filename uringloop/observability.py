"""Seeing inside a loop: what it does, what is in flight, and a dump of both for who can't ask the program.

`loop.stats()` is numbers for a monitor, `operations(loop)` a list for a person; `dump()` writes both, and
`dump_on_signal()` has a signal do so. The counters are kept in cpp/, `_overlapped` and `base_events`, and are always on;
here they are only put together. No counterpart in the stdlib.
"""

import os
import signal
import threading
import time
import warnings
import weakref
from collections import namedtuple

from . import _overlapped

__all__ = ("Operation", "dump", "dump_on_signal", "operations")

# All loops of this process that are not gone.
LOOPS = weakref.WeakSet()

VARIABLE = "URINGLOOP_DUMP_ON_SIGNAL"

# Of a loop with more operations a dump shows the oldest.
_MOST_SHOWN = 200
_WIDEST = 160

# What the counts by age are called, by _overlapped.AGES.
_AGES = ("1ms", "10ms", "100ms", "1s", "10s", "1min", "older")


class Operation(namedtuple("Operation", "kind state fd peer age done size owner")):
    """An operation in flight, as operations() found it.

    kind: what it is, "poll", "accept", "connect", "send" ... (a receive waits as a poll, and is then made at once)
    state: "queued" (the kernel has not got it), "in flight", "waiting" (in the epoll set, for a descriptor of the user's),
    "completed" (nobody has been told) or "taken"
    fd: the descriptor; peer: the address of its peer, None where there is none.
    age: seconds since the kernel got it, or since it went on waiting; 0.0 of a queued one.
    done, size: bytes of a send that are out, and all; else 0.
    owner: who is told: a transport, a future, a Handle, a function, or None.
    """

    __slots__ = ()


def stats_of(loop, numbers):
    """Return what loop.stats() does; numbers: (turns, callbacks, seconds of runs)."""
    turns, callbacks, running = numbers
    ring = _ring_of(loop)
    # A loop that is closed has no ring.
    counters = ring.counters() if ring is not None else dict.fromkeys(_COUNTERS, 0)
    kinds, states, sends, unsent = ring.count_operations() if ring is not None else ({}, {}, 0, 0)
    blocked = counters.pop("blocked")
    abandoned = counters.pop("abandoned_buffers")
    return {
        "running": running,
        "blocked": blocked,
        # Whoever drives a loop by other means than a run has it sleep outside of one.
        "busy": max(0.0, running - blocked),
        "turns": turns,
        "callbacks": callbacks,
        "ready": len(loop._ready),
        "timers": len(loop._scheduled),
        **counters,
        "states": {name.replace(" ", "_"): count for name, count in states.items()},
        "operations": {
            kind: {"count": count, "oldest": oldest, "ages": dict(zip(_AGES, ages))}
            for kind, (count, oldest, ages) in kinds.items()},
        "buffers": {
            "sends": sends, "unsent": unsent, "abandoned": abandoned,
            "receive": ring.receive_buffer if ring is not None else 0},
    }


_COUNTERS = ("enters", "submissions", "completions", "cq_overflows", "replaced_rings", "stale_keys",
             "abandoned_buffers", "blocked")


def _ring_of(loop):
    proactor = loop._proactor
    return None if proactor is None else proactor._ring


def operations(loop):
    """Return what is in flight on a loop, as a list of Operation, the oldest first.

    loop: one of uringloop's, running or not; in any thread. What the loop has for itself (the pipe that signals are
    written to) is listed as well.
    Raises TypeError for other loops.

    Source: getpeername(2).
    """
    from .uring_events import IouringProactorEventLoop
    if not isinstance(loop, IouringProactorEventLoop):
        raise TypeError(f"operations() wants a loop of uringloop's, not {type(loop).__name__}")
    ring = _ring_of(loop)
    if ring is None:
        return []
    return [Operation(*found[:-1], _teller(found[-1])) for found in ring.list_operations()]


def _teller(owner):
    """Return who is told of the end of an operation."""
    if isinstance(owner, _overlapped.Overlapped):
        return owner.callback if owner.future is None else owner.future
    return owner


def dump(loop=None, file=None):
    """Write the stats and the operations of a loop, or of all loops of this process, for a person to read.

    file: a descriptor, or an object with fileno(); None: standard error. It is written to by write(2), past any buffer.
    What can't be written (nobody reads, no space) is lost.
    """
    # As bytes, and at once: this may run in the midst of somebody's print().
    fd = _descriptor_of(file)
    data = "".join(_lines_of(_loops() if loop is None else [loop])).encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data):]
    except OSError:
        pass


def _descriptor_of(file):
    return 2 if file is None else file if isinstance(file, int) else file.fileno()


def _loops():
    while True:
        try:
            return list(LOOPS)
        except RuntimeError:
            # Another thread has made or dropped one in this moment.
            continue


def _lines_of(loops):
    yield (f"uringloop: {len(loops)} loop{'s' * (len(loops) != 1)} in process {os.getpid()}, "
           f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    for loop in loops:
        try:
            yield from _lines_of_loop(loop)
        except Exception as exc:
            # A subclass's own methods may do anything.
            yield f"  ({type(exc).__name__} on the way: {_safe(repr, exc)})\n"


def _lines_of_loop(loop):
    yield f"\n{_safe(repr, loop)}{_thread_of(loop)}\n"
    stats = loop.stats()
    yield (f"  running for {stats['running']:.3f} s: blocked {stats['blocked']:.3f}, busy {stats['busy']:.3f}; "
           f"{stats['turns']} turns, {stats['callbacks']} callbacks; {stats['ready']} ready, {stats['timers']} timers\n")
    yield (f"  {stats['enters']} enters, {stats['submissions']} submissions, {stats['completions']} completions; "
           f"{stats['cq_overflows']} CQ overflows, {stats['replaced_rings']} rings replaced\n")
    buffers = stats["buffers"]
    yield f"  {buffers['sends']} sends with {buffers['unsent']} bytes not out; {buffers['abandoned']} buffers abandoned\n"
    found = operations(loop)
    for kind, counted in sorted(stats["operations"].items()):
        ages = ", ".join(f"{count} {'older' if name == 'older' else 'below ' + name}"
                         for name, count in counted["ages"].items() if count)
        yield f"  {counted['count']} of {kind}, the oldest {counted['oldest']:.3f} s: {ages}\n"
    if not found:
        yield "  no operations\n"
        return
    yield f"  {'kind':<9} {'state':<9} {'fd':>5} {'age':>12}  what\n"
    for operation in found[:_MOST_SHOWN]:
        what = [] if operation.peer is None or operation.peer == "" else [f"peer {operation.peer}"]
        if operation.size:
            what.append(f"{operation.done} of {operation.size} bytes")
        what.append(_safe(repr, operation.owner))
        line = (f"  {operation.kind:<9} {operation.state:<9} {operation.fd:>5} {operation.age:>10.3f} s  "
                f"{'; '.join(what)}")
        yield (line if len(line) <= _WIDEST else line[:_WIDEST - 3] + "...") + "\n"
    if len(found) > _MOST_SHOWN:
        yield f"  ... and {len(found) - _MOST_SHOWN} younger ones\n"


def _thread_of(loop):
    for thread in threading.enumerate():
        if thread.ident is not None and thread.ident == loop._thread_id:
            return f" in thread {thread.name}"
    return ""


def _safe(function, obj):
    try:
        return function(obj)
    except Exception as exc:
        return f"<{type(obj).__name__}, whose repr() raises {type(exc).__name__}>"


def dump_on_signal(signum=signal.SIGUSR1, file=None):
    """Have a signal dump() all loops of this process; return the handler that it had before, as signal.signal() does.

    signum: of the signal. file: as for dump().
    It works wherever Python code, or a loop's sleep, can be interrupted; for what hangs inside of a library in C there is
    faulthandler.register(). The same is had without a change of the program by the environment variable
    URINGLOOP_DUMP_ON_SIGNAL, SIGUSR1 say, when uringloop is imported in the main thread.
    A file that has been closed by then gets nothing.
    Raises ValueError in another thread than the main one and for a closed file, and for a signal that can't be handled
    OSError.

    Source: signal(7), signal.signal.
    """

    def tell(number, frame):
        try:
            fd = _descriptor_of(file)
        except ValueError:
            # It was closed meanwhile: no reason to interrupt the program.
            return
        dump(file=fd)

    # What is no file is told now.
    _descriptor_of(file)
    return signal.signal(signum, tell)


def obey_environment():
    """Do what URINGLOOP_DUMP_ON_SIGNAL asks for; what can't be done is a RuntimeWarning."""
    name = os.environ.get(VARIABLE)
    if not name:
        return
    try:
        dump_on_signal(signal.Signals[name.upper()])
    except (KeyError, ValueError, OSError) as exc:
        why = "no signal is called so" if isinstance(exc, KeyError) else str(exc)
        warnings.warn(f"{VARIABLE}={name}: {why}", RuntimeWarning, stacklevel=3)
