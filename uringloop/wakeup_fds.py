"""Who has the descriptor that signals' numbers are written to.

`signal.set_wakeup_fd` knows one. A loop wants it while it runs, so that Ctrl-C ends its sleep, and
as long as it has signal handlers. Whoever had it before gets it back afterwards: another loop, or
the program. Only the main thread may set it (signal.set_wakeup_fd), so elsewhere nothing is done.

A signal that came for another loop's handler while this one had the descriptor is passed on.

Nowhere is the descriptor unset to be asked for: a signal that came then would be lost.

Source: signal.set_wakeup_fd in the Python library reference.
"""

import contextlib
import os
import signal
import threading

_NOBODY = -1

# Those who want it; the last has it. Descriptors of loops, and of others who had it before a loop.
_wanted = []

# The child of a fork begins with no loop, and with the descriptor unset (asyncio.events.on_fork).
os.register_at_fork(after_in_child=_wanted.clear)

# Descriptors of loops that were closed in a thread that could not give them back: the number may
# be another's by now.
_orphaned = set()


def _in_main_thread():
    return threading.current_thread() is threading.main_thread()


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _discard(fd):
    if fd in _wanted:
        _wanted.remove(fd)


def _set_last():
    """Give it to the last who wants it; return who had it."""
    while _wanted:
        try:
            return signal.set_wakeup_fd(_wanted[-1])
        except (ValueError, OSError):
            # Closed meanwhile, or no longer what it was.
            _wanted.pop()
    return signal.set_wakeup_fd(_NOBODY)


def take(fd):
    """Have signals written to fd."""
    if not _in_main_thread():
        return
    before = signal.set_wakeup_fd(fd)
    _discard(fd)
    if before not in (_NOBODY, fd) and before not in _orphaned and _is_open(before):
        _discard(before)
        _wanted.append(before)
    _wanted.append(fd)
    _orphaned.clear()


def give_back(fd):
    """End what take() began, in whatever order loops do so."""
    had = fd in _wanted
    _discard(fd)
    if not had:
        return
    if not _in_main_thread():
        _orphaned.add(fd)
        return
    before = _set_last()
    if before not in (_NOBODY, fd):
        # Somebody else's it was, and stays.
        signal.set_wakeup_fd(before)


def pass_on(fd, numbers):
    """Write signals' numbers to whom they would have gone without fd."""
    below = _wanted[:_wanted.index(fd)] if fd in _wanted else _wanted
    if below:
        # Full, or closed: then they are lost, as with the module's own writes.
        with contextlib.suppress(OSError):
            os.write(below[-1], numbers)
