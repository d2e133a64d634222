"""Who has the descriptor that signals are written to.

`signal.set_wakeup_fd` knows one, and `BaseProactorEventLoop` sets it when a loop is made and clears
it when one is closed: with two loops, closing the second would make the first deaf to signals.
Here each loop remembers from whom it took the descriptor, and gives it back.  A loop that has signal
handlers keeps it, and a new one comes behind it: to make a loop for another thread must not cost the
program its signals.  Only the main thread may set it (signal.set_wakeup_fd), so elsewhere nothing is done.

Source: signal.set_wakeup_fd in the Python library reference.
"""

import contextlib
import os
import signal
import threading
import weakref

_NOBODY = -1

# Descriptor of a living loop -> who had the wake-up before it.
_previous = {}
# The same descriptor -> the loop.
_loops = weakref.WeakValueDictionary()


def _in_main_thread():
    return threading.current_thread() is threading.main_thread()


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _set(fd):
    """Set the wake-up descriptor; nobody where it no longer serves."""
    try:
        signal.set_wakeup_fd(fd)
    except (ValueError, OSError):
        signal.set_wakeup_fd(_NOBODY)


@contextlib.contextmanager
def making(loop):
    """Around the stdlib's `__init__`, which sets the loop's own descriptor."""
    if not _in_main_thread():
        yield
        return
    # The only way to ask.
    before = signal.set_wakeup_fd(_NOBODY)
    try:
        yield
    except BaseException:
        _set(before)
        raise
    fd = loop._csock.fileno()
    owner = _loops.get(before)
    if owner is not None and owner._signal_handlers:
        _previous[fd] = _previous[before]
        _previous[before] = fd
        _set(before)
    else:
        _previous[fd] = before if _is_open(before) else _NOBODY
    _loops[fd] = loop


@contextlib.contextmanager
def closing(loop):
    """Around the stdlib's `close`, which clears whatever is set."""
    csock = loop._csock
    fd = csock.fileno() if csock is not None else _NOBODY
    heir = _previous.pop(fd, _NOBODY)
    _loops.pop(fd, None)
    # Whoever would have given it back to this loop gives it to the one before.
    for other, before in _previous.items():
        if before == fd:
            _previous[other] = heir
    if not _in_main_thread():
        yield
        return
    current = signal.set_wakeup_fd(_NOBODY)
    try:
        yield
    finally:
        _set(heir if current == fd else current)
