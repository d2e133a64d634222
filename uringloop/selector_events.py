"""Readiness of file descriptors; mirrors the readers and writers of asyncio/selector_events.py.

The loop is a BaseSelectorEventLoop too: who asks for one gets what it promises, a loop with readers.
That base stands behind BaseProactorEventLoop, so what both define is the proactor's.  What is used of
the selector's touches no selector: `add_reader` and the like, on the four methods below.

A reader is a wait that the proactor repeats, in an epoll set: level-triggered, one callback a turn while
the descriptor is ready, and forgotten when its file is closed, as on a selector.

Must not be in here: transports, and anything of io_uring but the proactor's `_poll_repeatedly`.
"""
# S1: A callback that is added again starts a new wait: its descriptor may have been closed and
#     given to another file since.
# S2: No selector is made: the proactor waits, and its loop makes and closes the self-pipe. So the
#     stdlib's __init__ and close are passed over.
# S3: A transport whose socket its user has closed has lost its number: whoever has that now may use it. A
#     client that was accepted on it would be dropped without a word.
import errno
import functools
import os
import select
import selectors
from asyncio import base_events, events
from asyncio.selector_events import BaseSelectorEventLoop

from .transport_registry import Transports


class _Key:
    """One descriptor that is waited for, as selectors.SelectorKey."""

    __slots__ = ('fileobj', 'fd', 'handles', 'waits')

    def __init__(self, fileobj, fd):
        self.fileobj = fileobj
        self.fd = fd
        self.handles = {}        # select.POLLIN, select.POLLOUT -> Handle
        self.waits = {}          # the same -> what ends the wait by its end()

    def is_fileno_of(self, fileobj):
        """Tell whether the object has this descriptor still."""
        try:
            return selectors._fileobj_to_fd(fileobj) == self.fd
        except ValueError:
            return False

    @property
    def events(self):
        return (selectors.EVENT_READ if select.POLLIN in self.handles else 0) | (
            selectors.EVENT_WRITE if select.POLLOUT in self.handles else 0)


# stdlib: BaseSelectorEventLoop
class _ReadinessEventLoop(BaseSelectorEventLoop):
    """Readers and writers for a loop that has a proactor; a base behind BaseProactorEventLoop."""

    # stdlib: BaseSelectorEventLoop.__init__
    def __init__(self):
        # differs[S2]
        base_events.BaseEventLoop.__init__(self)
        self._keys = {}
        # Descriptor -> transport: those belong to nobody else.
        self._transports = Transports()

    # stdlib: BaseSelectorEventLoop.close
    def close(self):
        # differs[S2]
        self._keys.clear()
        base_events.BaseEventLoop.close(self)

    # stdlib: BaseSelectorEventLoop._ensure_fd_no_transport
    def _ensure_fd_no_transport(self, fd):
        try:
            super()._ensure_fd_no_transport(fd)
        except RuntimeError:
            # differs[S3]
            transport = self._transports.get(fd if isinstance(fd, int) else fd.fileno())
            sock = getattr(transport, '_sock', None)
            if sock is None or sock.fileno() != -1:
                raise

    # stdlib: BaseSelectorEventLoop._add_reader
    def _add_reader(self, fd, callback, *args, context=None):
        return self._add_wait(fd, select.POLLIN, callback, args, context)

    # stdlib: BaseSelectorEventLoop._remove_reader
    def _remove_reader(self, fd):
        return self._remove_wait(fd, select.POLLIN)

    # stdlib: BaseSelectorEventLoop._add_writer
    def _add_writer(self, fd, callback, *args, context=None):
        return self._add_wait(fd, select.POLLOUT, callback, args, context)

    # stdlib: BaseSelectorEventLoop._remove_writer
    def _remove_writer(self, fd):
        return self._remove_wait(fd, select.POLLOUT)

    # -- ours: no counterpart in the stdlib's class --

    def _find_key(self, fileobj):
        # As selectors' _fileobj_lookup: a closed object has lost its number, and is found by itself.
        try:
            return self._keys.get(selectors._fileobj_to_fd(fileobj))
        except ValueError:
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key
            raise

    def _get_key(self, fd):
        return self._keys[fd]

    def _add_wait(self, fileobj, event, callback, args, context):
        self._check_closed()
        handle = events.Handle(callback, args, self, context)
        try:
            fd = selectors._fileobj_to_fd(fileobj)
        except ValueError:
            return self._replace_callback(self._find_key(fileobj), event, handle)
        key = self._keys.get(fd)
        if key is None:
            key = _Key(fileobj, fd)
        elif key.fileobj is not fileobj and not key.is_fileno_of(key.fileobj):
            # Left behind by the number's last owner.
            key.fileobj = fileobj
        # differs[S1]
        self._end_wait(key, event)
        try:
            key.waits[event] = self._proactor._poll_repeatedly(
                key.fd, event, functools.partial(self._ready_callback, key, event))
        except BaseException:
            if not key.handles:
                self._keys.pop(key.fd, None)
            raise
        key.handles[event] = handle
        self._keys[key.fd] = key
        return handle

    def _replace_callback(self, key, event, handle):
        """Add the callback of a closed object: as on a selector, a wait for its file is all that it can join."""
        if event not in key.handles:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        key.handles[event].cancel()
        key.handles[event] = handle
        return handle

    def _ready_callback(self, key, event):
        """Have the callback called in this tick; false when nobody waits any more."""
        handle = key.handles.get(event)
        if handle is None:
            return False
        if handle._cancelled:
            self._remove_wait(key.fd, event)
            return False
        self._add_callback(handle)
        return True

    def _end_wait(self, key, event):
        wait = key.waits.pop(event, None)
        if wait is not None:
            wait.end()
        handle = key.handles.pop(event, None)
        if handle is not None:
            handle.cancel()
        return handle is not None

    def _remove_wait(self, fileobj, event):
        if self.is_closed():
            return False
        key = self._find_key(fileobj)
        if key is None:
            return False
        removed = self._end_wait(key, event)
        if not key.handles:
            del self._keys[key.fd]
        return removed
