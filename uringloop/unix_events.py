"""What asyncio/unix_events.py adds to the selector loop, as a base of ours.

Signals, subprocesses, pipes and Unix stream sockets.  They stand on readers, writers and the
self-pipe, which the loop has; so most of it is the stdlib's own function, borrowed as it is, and its
pipe transports and child watchers run unmodified.

Must not be in here: anything of io_uring.
"""
# U1: A loop has the wake-up descriptor for signals while it runs, as it needs it for Ctrl-C, and while
#     it has signal handlers. It gives it back to whom it had it from (wakeup_fds).
# U2: A loop that is closed in another thread leaves its signals' handlers where they are: only the
#     main thread may change them. What signals are still written to stays open until a loop of the
#     main thread takes it over: the number must not become another file's.
# U3: The self-pipe is a pipe: it holds 65,536 signals between two turns. A socketpair holds fewer than
#     300, and the number that does not fit is lost, though it be the first of its kind.
# U4: A Unix server's path is cleaned up by the stdlib's own function, whose super() is made ours.
#     Detectors of blocking calls (blockbuster) know by file and function where asyncio may block, and a
#     function of ours that does the same they would tell of.
import os
import select
import sys
import types
import warnings
from asyncio import events, unix_events
from asyncio.unix_events import _UnixSelectorEventLoop

from . import wakeup_fds


# stdlib: _UnixSelectorEventLoop
class _UnixEventLoopMixin:
    """Unix's own for a loop with a self-pipe, sock_connect, _create_connection_transport, ..."""

    # stdlib: _UnixSelectorEventLoop.__init__
    def __init__(self, *args, **kwargs):
        self._signal_handlers = {}
        super().__init__(*args, **kwargs)
        # From 3.13 on: the inode of a listening socket's file, to know it again at clean-up.
        self._unix_server_sockets = {}
        # From 3.14 on a loop has the watcher that the policy had before.
        if not hasattr(events, 'get_child_watcher'):
            self._watcher = (unix_events._PidfdChildWatcher() if unix_events.can_use_pidfd()
                             else unix_events._ThreadedChildWatcher())

    # stdlib: _UnixSelectorEventLoop.close
    def close(self):
        if not self.is_running() and not self.is_closed():
            self._remove_signal_handlers()
        super().close()

    # stdlib: _UnixSelectorEventLoop._process_self_data
    def _process_self_data(self, data):
        _UnixSelectorEventLoop._process_self_data(self, data)
        # differs[U1]
        others = bytes(number for number in data if number not in self._signal_handlers)
        if others:
            wakeup_fds.pass_on(self._signal_file, others)

    # stdlib: _UnixSelectorEventLoop.add_signal_handler
    def add_signal_handler(self, sig, callback, *args):
        # differs[U1]
        taken = self._has_self_pipe() and wakeup_fds.take(self._signal_file)
        try:
            _UnixSelectorEventLoop.add_signal_handler(self, sig, callback, *args)
        finally:
            if taken:
                # After an error it was unset there.
                wakeup_fds.take_again(self._signal_file)
                self._want_signals()

    _handle_signal = _UnixSelectorEventLoop._handle_signal

    # stdlib: _UnixSelectorEventLoop.remove_signal_handler
    def remove_signal_handler(self, sig):
        # differs[U1]
        taken = (self._has_self_pipe() and self._signal_file.is_taken
                 and wakeup_fds.take(self._signal_file))
        try:
            return _UnixSelectorEventLoop.remove_signal_handler(self, sig)
        finally:
            if taken:
                # With the last handler it was unset there.
                wakeup_fds.take_again(self._signal_file)
                self._want_signals()

    _check_signal = _UnixSelectorEventLoop._check_signal
    _make_read_pipe_transport = _UnixSelectorEventLoop._make_read_pipe_transport
    _make_write_pipe_transport = _UnixSelectorEventLoop._make_write_pipe_transport
    _make_subprocess_transport = _UnixSelectorEventLoop._make_subprocess_transport
    if hasattr(_UnixSelectorEventLoop, '_child_watcher_callback'):
        _child_watcher_callback = _UnixSelectorEventLoop._child_watcher_callback
    create_unix_connection = _UnixSelectorEventLoop.create_unix_connection
    create_unix_server = _UnixSelectorEventLoop.create_unix_server

    # stdlib: _UnixSelectorEventLoop._stop_serving
    def _stop_serving(self, sock):
        # differs[U4]
        _stop_serving(self, sock)

    # -- ours: no counterpart in the stdlib's class --

    # stdlib: BaseProactorEventLoop._close_self_pipe
    def _close_self_pipe(self):
        # differs[U2]
        if self._signal_file.is_taken and self._has_self_pipe():
            ends = self._ssock, self._csock
            wakeup_fds.leave(self._signal_file, *ends)
            self._ssock, self._csock = (open(os.dup(end.fileno()), end.mode, 0) for end in ends)
        # (There is none when an interrupt has left a first close() behind halfway.)
        if self._ssock is not None:
            super()._close_self_pipe()

    # stdlib: BaseProactorEventLoop._make_self_pipe
    def _make_self_pipe(self):
        # differs[U3]
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ssock, self._csock = (open(fd, mode, 0) for fd, mode in zip(ends, ('rb', 'wb')))
        self._signal_file = wakeup_fds.WakeupFile(self._csock.fileno())
        self._internal_fds += 1
        # What _close_self_pipe() cancels.
        self._self_reading_future = self._proactor._poll_repeatedly(
            self._ssock.fileno(), select.POLLIN, self._read_from_self)

    # stdlib: BaseSelectorEventLoop._read_from_self
    def _read_from_self(self):
        # The proactor loop throws away what it reads; here each byte is a signal's number.
        if not self._ssock.closed and (data := self._ssock.read(4096)):
            self._process_self_data(data)
        return True

    def _has_self_pipe(self):
        # Of a loop that nobody closes the collector may have closed it before.
        return self._csock is not None and not self._csock.closed

    def _want_signals(self, starting=False):
        """differs[U1]: have the wake-up descriptor, or give it back."""
        if self._csock is None:
            return
        if self._csock.closed:
            # Of a loop that nobody closes the collector may have closed it before.
            wakeup_fds.give_up(self._signal_file)
        elif starting or self._signal_handlers or self._thread_id is not None:
            wakeup_fds.take(self._signal_file)
        elif wakeup_fds.give_back(self._signal_file):
            # What has arrived since is another's.
            while data := self._ssock.read(4096):
                self._process_self_data(data)

    def _remove_signal_handlers(self):
        if sys.is_finalizing():
            if self._signal_handlers:
                warnings.warn(f"Closing the loop {self!r} "
                              f"on interpreter shutdown "
                              f"stage, skipping signal handlers removal",
                              ResourceWarning,
                              source=self)
        else:
            try:
                for sig in list(self._signal_handlers):
                    self.remove_signal_handler(sig)
            except ValueError:
                # differs[U2]: not the main thread
                pass
        self._signal_handlers.clear()
        self._want_signals()


# ours: differs[U4]
def _borrow_stop_serving():
    """Return the stdlib's function for the class above; where there is none, the one of the next base."""
    function = vars(_UnixSelectorEventLoop).get('_stop_serving')
    if function is None:
        return lambda loop, sock: super(_UnixEventLoopMixin, loop)._stop_serving(sock)
    # What it takes from around it is __class__, which super() looks at.
    return types.FunctionType(function.__code__, vars(unix_events), function.__name__,
                              closure=(types.CellType(_UnixEventLoopMixin),))


_stop_serving = _borrow_stop_serving()
