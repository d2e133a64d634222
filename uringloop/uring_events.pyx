"""Proactor and event loop on io_uring; mirrors asyncio/windows_events.py.

Read it beside the stdlib's file: `IouringProactor` is its `IocpProactor`, method by method, and
`IouringProactorEventLoop` its `ProactorEventLoop`.  Each start method has the stdlib's five beats:
check the object, make an `Overlapped`, start it, name the function that turns its completion into
a value, register.  A completion comes back through `select`, `_poll` and that function to the
future.  The stdlib's own transports run on that; ours, of `stdlib_transports`, ask for readiness.

What must not be in here: io_uring itself (that is `_overlapped` and cpp/), and what the stdlib's
transports get wrong on Linux (that is `stdlib_transports`).

Differences from the stdlib, numbered; a line `# differs[Dn]` stands where each applies.
"""
# D1: The stdlib's `_cache` maps an OVERLAPPED's address to (future, ov, obj, callback). Here the
#     operation itself names the three, and stands in the ring's list of slots from its start to
#     its final completion: the key of an operation is a slot and a generation, never an address.
# D2: Winsock's errors of an aborted operation became ConnectionResetError there. Linux reports
#     ECONNRESET itself, so a completion's errno is passed on as it is.
# D3: A receive takes nothing from the socket before its result is asked for, so cancelling it can
#     lose no data; the readiness it waited for may be stale by then (another reader was faster),
#     in which case the operation goes on waiting.
# D4: Whether an object is a socket is decided by its descriptor and not by its class: an
#     asyncio.TransportSocket is one.
# D5: The kernel makes the accepted socket, at the moment in which it is taken: none is made in
#     advance, so there is none to close when the future is cancelled, and a connection that
#     nobody took stays in the backlog.
# D6: Connecting starts with the socket's own connect(), which knows every address family and every
#     wrong argument, and needs no local bind; the ring then waits until it is established.
# D7: A datagram to an address that is not plain (a host name, a scope name, an unusual family) is
#     sent by the socket's own sendto(), which resolves it or says what is wrong with it; on a socket of
#     an unusual family (netlink, packet) one is received by its own recvfrom(), which tells the address.
# D8: An unreachable port is ECONNREFUSED on Linux, and an error to the caller as on the selector
#     loop; Windows answers with an empty result.
# D9: `recvfrom_into` takes `nbytes` before `flags`: asyncio's sock_recvfrom_into passes nbytes in
#     third place.
# D10: A wait handle is a file descriptor to be polled (a pidfd, an eventfd), an int or an object
#     with fileno(). Its timeout is a timer of the loop. That a wait has ended is told by its own
#     final completion, so no event is made for it.
# D11: Objects need no registration with the port.
# D12: Closing cannot wait for ever: what the kernel does not give back within five seconds, or when it
#     lets nobody in any more (a seccomp filter that came later), is left to it, together with its buffer.
# D13: A connection that is closed with an operation in flight stays open in the kernel as long as
#     that operation. So the cancel is submitted, and seen to end, first.
# D14: The self-pipe is read for signals only. Threads wake the ring through an eventfd of its own,
#     which costs half as much. They give the GIL up for it, as for the selector loop's self-pipe.
# D15: Windows has one loop a process for the wake-up descriptor of signals. Here a loop has it while it
#     runs or has signal handlers, and gives it back to the loop, or to the program, that had it before;
#     not where `threading` sees the main thread, but where the interpreter lets it be set.
# D16: Cancelling needs no care for operations that completed in the meantime: nothing has to be
#     unregistered, the table drops a cancelled operation with its final completion.
# D17: `concurrency` says how many threads may run on a completion port; a ring has one. What can
#     be chosen here is the rung of the set-up ladder, what a ring trades for its memory and CPU
#     and, in tests, the kernel.
# D18: A socket that its user closes beside a pending operation ends it with OSError(EBADF), before
#     the loop sleeps, or, where more than 32 operations wait, some ten milliseconds later. The selector
#     loop waits for ever, and may read from the descriptor number's next owner. The file itself is
#     closed at once, unless the socket was given to a transport: then it is when this is found out.
# D19: A nested run_forever() raises RuntimeError before anything is changed; on 3.13.0 its
#     clean-up would undo the set-up of the run around it.
# D20: The self-pipe is read from the loop's beginning to its end, and not in its runs only: who drives
#     a loop by _run_once() gets his signals, too.
# D21: The only callback of a future needs no Handle when its operation completes: it has been made
#     ready when it was added. As soon as there is a second one, both are the stdlib's future's; and
#     where call_soon() or Handles are not the stdlib's own, or in debug mode, it is left to them.
# D22: The functions that finish an operation are not inner ones, but stand before the class and are
#     bound by partial(): an inner function of Cython's never gives back its reference to its type,
#     so that each operation would leave one behind in sys.gettotalrefcount().
# D23: A proactor that the interpreter's exit collects may find the names of this module taken away.
#     The ring ends what is in flight itself, and nobody is left to be told.
# D24: What is started in a tick begins at its end. What is to be sent is sent before that when the run
#     ends, the process forks, or the loop closes, in whatever thread: no later tick may come. What
#     another thread writes is sent before its write() returns: the loop's may be busy until it has an answer.
# D25: Programs reach for `loop._selector`. select() can be replaced on the instance, as a virtual clock
#     does; get_key() and get_map() tell of readers and writers; what would change a selector behind
#     the loop's back is missing, and says what to call instead.
# D26: A sleep that a timer ends is as long as is asked for, to the nanosecond, but such sleeps do not
#     end more often than every 0.4 milliseconds: timers that are due by then fire together, as they do
#     where the selector loop sleeps in whole milliseconds. None fires early.
# D27: Closing a proactor with thousands of receives in flight does not cancel them one by one: the
#     kernel would search for each. The ring's end ends them all.
# D28: A transport's readiness has no future and no chain of callbacks, which one that is interrupted would
#     end: its operation names a Handle of the loop, and is queued again before this is made ready. A small
#     send names one for the case that it fails; that it ends well is told to nobody.
# D29: A result that somebody else gives the future ends the operation, as it ends the wait on the
#     selector loop.
# D30: Windows has one kind of transports. Here a loop is told which tier of them it is to make (`tiers`);
#     its own class is the same on each.
import math
import os
import select
import socket
import time
import weakref
from asyncio import base_events, events, futures
from asyncio.log import logger
from functools import partial
from types import MappingProxyType

from cpython.object cimport PyObject
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject* cls, object args, PyObject* kwargs)
        int (*tp_init)(object self, object args, object kwargs) except -1
        object (*tp_descr_get)(object self, object instance, PyObject* owner)
        int (*tp_descr_set)(object self, object instance, object value) except -1
    PyTypeObject* Py_TYPE(object)

cdef extern from "<poll.h>":
    enum: POLLIN
    enum: POLLOUT

cdef extern from "<errno.h>":
    int EBADF, ECANCELED

from ._interpreter cimport Finalizer, PyContext_CopyCurrent, drop_dict, run_finalizer
from ._overlapped cimport Kind, Overlapped, Ring, fileno, is_socket, owns_buffer
from ._sockaddr cimport family_of, has_plain_addresses
from .base_events cimport BaseEventLoop, ReadyHandle, Selector, handle_of, run_callback, speed_up
from .sock_calls cimport has_stdlib_methods
from .base_events import SlottedEventLoop
from . import observability, selector_events, sock_calls, stdlib_transports, tiers, unix_events
from .fallback import is_wanted, or_stdlib

__all__ = (
    'IouringProactorEventLoop', 'IouringProactor', 'IouringProactorEventLoopPolicy',
)

# absent: NULL: an Overlapped is made for a ring
# The longest time that _poll() waits, in nanoseconds.
cdef int64_t INFINITE = 0x7fffffffffffffff
# The shortest time between the ends of two sleeps that a timer ends, in nanoseconds. A thousand timers within a
# millisecond take 0.6 times the CPU of as many sleeps as there can be, and fire as soon.
cdef int64_t TIMER_INTERVAL = 400_000
# So many receives in flight are ended one by one; more, by the ring's end.
cdef int MANY = 4096
# absent: ERROR_CONNECTION_REFUSED: errors are errno
# absent: ERROR_CONNECTION_ABORTED: errors are errno
# absent: CONNECT_PIPE_INIT_DELAY: Windows named pipes
# absent: CONNECT_PIPE_MAX_DELAY: Windows named pipes

# How long close() waits for the kernel to let go of what was cancelled, in seconds.
_CLOSE_PATIENCE = 5.0


cdef object _Handle = events.Handle
cdef object _Future = futures.Future
cdef object _future_set_result = futures.Future.set_result
# nest_asyncio puts asyncio's own future in Python into its place, which can do without the short cuts below.
cdef bint _has_c_futures = hasattr(futures.Future, '_callbacks')


# ours: as _OverlappedFuture(ov, loop=loop), at a third of the price: there are two of them a message.
# kwargs is {'loop': loop}.
cdef object _new_overlapped_future(Overlapped ov, dict kwargs):
    cdef PyTypeObject* cls = <PyTypeObject*> _OverlappedFuture
    if not _has_c_futures:
        f = _OverlappedFuture(ov, **kwargs)
        ov.traced = bool(f._source_traceback)
        return f
    f = cls.tp_new(cls, (), NULL)
    (<PyTypeObject*> _Future).tp_init(f, (), kwargs)
    traceback = f._source_traceback
    if traceback:
        ov.traced = True
        del traceback[-1]
    _set_overlapped(f, ov)
    return f


# ours: f.set_result(value), in line for the kind of future that it nearly always is.
cdef int _set_result(object f, Overlapped ov, object value, bint is_plain) except -1:
    if type(f) is not _OverlappedFuture:
        f.set_result(value)
        return 0
    _future_set_result(f, value)
    _set_overlapped(f, None)
    return _schedule(ov, is_plain)


# ours: f.done(), as above: whatever makes such a future done takes its operation away.
cdef bint _is_done(object f, Overlapped ov) except -1:
    if type(f) is not _OverlappedFuture:
        return f.done()
    return _get_overlapped(f) is not ov


# ours: f._ov of an _OverlappedFuture, straight through the slot's descriptor.
cdef inline object _get_overlapped(object f):
    return Py_TYPE(_overlapped_slot).tp_descr_get(_overlapped_slot, f, NULL)


cdef inline int _set_overlapped(object f, object ov) except -1:
    return Py_TYPE(_overlapped_slot).tp_descr_set(_overlapped_slot, f, ov)


cdef object _get_callbacks = getattr(futures.Future, '_callbacks', None)
# What ov.done_handle is when the future has had several callbacks.
cdef object _IN_LIST = object()


# ours: whether callbacks of this loop go the stdlib's own way, of which nothing is to be seen; differs[D21]
cdef bint _is_plain(object loop) except -1:
    return isinstance(loop, BaseEventLoop) and (<BaseEventLoop> loop).has_plain_callbacks()


# ours: have the only done-callback run, once the future is done; differs[D21]
cdef int _schedule(Overlapped ov, bint is_plain) except -1:
    cdef _DoneHandle handle
    if ov.done_handle is None or ov.done_handle is _IN_LIST:
        return 0
    handle = ov.done_handle
    ov.done_handle = None
    if is_plain:
        (<BaseEventLoop> handle._loop).add_ready(handle)
    else:
        handle._loop.call_soon(handle._callback, handle._future, context=handle._context)
    return 0


# ours: the only done-callback needs no Handle; differs[D21]
cdef class _DoneHandle(ReadyHandle):
    """The only done-callback of an operation's future, ready to be run by the loop.

    Nobody has a reference to cancel it by.
    """

    cdef readonly object _callback
    cdef readonly object _context
    cdef object _future
    cdef object _loop

    @property
    def _args(self):
        return (self._future,)

    def __repr__(self):
        return repr(handle_of(self._loop, self._callback, self._future, self._context))

    cdef int run(self) except -1:
        return run_callback(self._loop, self._callback, self._future, self._context)


# stdlib: _OverlappedFuture
class _OverlappedFuture(futures.Future):
    """The future of one operation; cancelling it cancels the operation."""

    __slots__ = ('_ov',)

    # stdlib: _OverlappedFuture.__init__
    def __init__(self, ov, *, loop=None):
        super().__init__(loop=loop)
        if self._source_traceback:
            del self._source_traceback[-1]
        self._ov = ov

    # absent: _OverlappedFuture._repr_info: a future's repr() no longer calls it

    # stdlib: _OverlappedFuture._cancel_overlapped
    def _cancel_overlapped(self):
        if self._ov is None:
            return
        try:
            self._ov.cancel()
        except OSError as exc:
            context = {
                'message': 'Cancelling an overlapped future failed',
                'exception': exc,
                'future': self,
            }
            if self._source_traceback:
                context['source_traceback'] = self._source_traceback
            self._loop.call_exception_handler(context)
        self._ov = None

    # stdlib: _OverlappedFuture.cancel
    def cancel(self, msg=None):
        ov = self._ov
        self._cancel_overlapped()
        cancelled = super().cancel(msg=msg)
        # differs[D21]
        if ov is not None:
            _schedule(ov, _is_plain(self._loop))
        return cancelled

    # stdlib: _OverlappedFuture.set_exception
    def set_exception(self, exception):
        ov = self._ov
        super().set_exception(exception)
        self._cancel_overlapped()
        # differs[D21]
        if ov is not None:
            _schedule(ov, _is_plain(self._loop))

    # stdlib: _OverlappedFuture.set_result
    def set_result(self, result):
        ov = self._ov
        super().set_result(result)
        # differs[D29]
        self._cancel_overlapped()
        # differs[D21]
        if ov is not None:
            _schedule(ov, _is_plain(self._loop))

    # -- ours: no counterpart in the stdlib's class --

    # differs[D21]: the first callback, nearly always the only one. While there is an operation,
    # the future is pending; a traceback tells of debug mode.
    def add_done_callback(self, fn, *, context=None):
        cdef Overlapped ov = _get_overlapped(self)
        cdef _DoneHandle handle
        if ov is None or ov.traced or not _has_c_futures:
            super().add_done_callback(fn, context=context)
        elif ov.done_handle is None:
            handle = _DoneHandle.__new__(_DoneHandle)
            handle._callback = fn
            handle._context = PyContext_CopyCurrent() if context is None else context
            handle._future = self
            handle._loop = self._loop
            ov.done_handle = handle
        else:
            if ov.done_handle is not _IN_LIST:
                handle = ov.done_handle
                ov.done_handle = _IN_LIST
                super().add_done_callback(handle._callback, context=handle._context)
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn):
        cdef Overlapped ov = _get_overlapped(self)
        first = None if ov is None else ov.done_handle
        if first is None or first is _IN_LIST:
            return super().remove_done_callback(fn)
        # The comparison may be anybody's, and do anything.
        if (first._callback is fn or first._callback == fn) and ov.done_handle is first:
            ov.done_handle = None
            return 1
        return super().remove_done_callback(fn)

    if _has_c_futures:
        @property
        def _callbacks(self):
            """What repr() tells, in pairs of a callback and its context; None for none."""
            cdef Overlapped ov = _get_overlapped(self)
            first = None if ov is None else ov.done_handle
            if first is None or first is _IN_LIST:
                return _get_callbacks.__get__(self)
            return [(first._callback, first._context)]


cdef object _overlapped_slot = _OverlappedFuture.__dict__['_ov']


# stdlib: _BaseWaitHandleFuture
class _BaseWaitHandleFuture(futures.Future):
    """The future of a wait for a handle: a file descriptor that can be polled."""

    # stdlib: _BaseWaitHandleFuture.__init__
    def __init__(self, ov, handle, wait_handle, *, loop=None):
        super().__init__(loop=loop)
        if self._source_traceback:
            del self._source_traceback[-1]
        self._ov = ov
        self._handle = handle
        # differs[D10]: the timer of the wait's timeout, or None.
        self._wait_handle = wait_handle
        self._registered = True

    # stdlib: _BaseWaitHandleFuture._poll
    def _poll(self):
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        return bool(poller.poll(0))

    # absent: _BaseWaitHandleFuture._repr_info: a future's repr() no longer calls it

    # stdlib: _BaseWaitHandleFuture._unregister_wait_cb
    def _unregister_wait_cb(self, fut):
        self._ov = None

    # stdlib: _BaseWaitHandleFuture._unregister_wait
    def _unregister_wait(self):
        if not self._registered:
            return
        self._registered = False

        wait_handle = self._wait_handle
        self._wait_handle = None
        if wait_handle is not None:
            wait_handle.cancel()
        self._unregister_wait_cb(None)

    # stdlib: _BaseWaitHandleFuture.cancel
    def cancel(self, msg=None):
        self._unregister_wait()
        return super().cancel(msg=msg)

    # stdlib: _BaseWaitHandleFuture.set_exception
    def set_exception(self, exception):
        self._unregister_wait()
        super().set_exception(exception)

    # stdlib: _BaseWaitHandleFuture.set_result
    def set_result(self, result):
        self._unregister_wait()
        super().set_result(result)


# stdlib: _WaitCancelFuture
class _WaitCancelFuture(_BaseWaitHandleFuture):
    """The future of the end of a wait that was cancelled."""

    # stdlib: _WaitCancelFuture.__init__
    def __init__(self, ov, event, wait_handle, *, loop=None):
        super().__init__(ov, event, wait_handle, loop=loop)
        self._done_callback = None

    # stdlib: _WaitCancelFuture.cancel
    def cancel(self):
        raise RuntimeError("_WaitCancelFuture must not be cancelled")

    # stdlib: _WaitCancelFuture.set_result
    def set_result(self, result):
        super().set_result(result)
        if self._done_callback is not None:
            self._done_callback(self)

    # stdlib: _WaitCancelFuture.set_exception
    def set_exception(self, exception):
        super().set_exception(exception)
        if self._done_callback is not None:
            self._done_callback(self)


# stdlib: _WaitHandleFuture
class _WaitHandleFuture(_BaseWaitHandleFuture):
    """The future of a wait for a handle, which cancelling ends in the kernel as well."""

    # stdlib: _WaitHandleFuture.__init__
    def __init__(self, ov, handle, wait_handle, proactor, *, loop=None):
        super().__init__(ov, handle, wait_handle, loop=loop)
        self._proactor = proactor
        self._unregister_proactor = True
        # differs[D10]: the event of the wait's end is the operation itself.
        self._event = ov
        self._event_fut = None

    # stdlib: _WaitHandleFuture._unregister_wait_cb
    def _unregister_wait_cb(self, fut):
        self._event = None
        self._event_fut = None
        self._proactor = None
        super()._unregister_wait_cb(fut)

    # stdlib: _WaitHandleFuture._unregister_wait
    def _unregister_wait(self):
        if not self._registered:
            return
        self._registered = False

        wait_handle = self._wait_handle
        self._wait_handle = None
        if wait_handle is not None:
            wait_handle.cancel()
        if self._event.pending:
            # differs[D10]: cancelled, the poll still has its final completion to come.
            self._event_fut = self._proactor._wait_cancel(self._event, self._unregister_wait_cb)
        else:
            self._unregister_wait_cb(None)


# absent: PipeServer: Windows named pipes
# absent: _WindowsSelectorEventLoop: the stdlib's selector loop is there already


# stdlib: ProactorEventLoop
class IouringProactorEventLoop(SlottedEventLoop,
                               unix_events._UnixEventLoopMixin,
                               stdlib_transports.BaseProactorEventLoop,
                               selector_events._ReadinessEventLoop):
    """Event loop on io_uring.

    proactor: an IouringProactor; one is made when it is left out.
    transports: of what its transports are made: "native", in Cython, or "stdlib", the stdlib's own proactor
    transports, kept to the selector loop's contract. None: the default, which is "native".
    spin_us, sq_entries, cq_entries, receive_buffer: as for IouringProactor; not beside a proactor, which has its own.
    Raises IouringUnavailableError where io_uring can't be had, ValueError for other `transports` and for numbers
    out of range.

    Source: asyncio.AbstractEventLoop.
    """

    # stdlib: ProactorEventLoop.__init__
    def __init__(self, proactor=None, *, transports=None, spin_us=None, sq_entries=None, cq_entries=None,
                 receive_buffer=None):
        # differs[D30]
        self._tier = tiers.module_of(transports)
        self._gathers_writes = False
        made = proactor is None
        if made:
            proactor = IouringProactor(spin_us=spin_us, sq_entries=sq_entries, cq_entries=cq_entries,
                                       receive_buffer=receive_buffer)
        # (No generator: Cython's keep a reference to their type.)
        elif [option for option in (spin_us, sq_entries, cq_entries, receive_buffer) if option is not None]:
            raise ValueError('spin_us, sq_entries, cq_entries and receive_buffer are for a proactor that is made here: '
                             'give them to the IouringProactor')
        try:
            super().__init__(proactor)
        except BaseException:
            self._closed = True
            if made:
                proactor.close()
            raise
        observability.LOOPS.add(self)

    # The run's set-up and clean-up are one method in 3.12 and two hooks from 3.13 on.
    if hasattr(base_events.BaseEventLoop, '_run_forever_setup'):
        # stdlib: ProactorEventLoop._run_forever_setup
        def _run_forever_setup(self):
            self._proactor._bind_thread()
            # differs[D15], differs[D20]
            self._want_signals(True)
            self._gathers_writes = True
            self._note_run(True)
            super()._run_forever_setup()

        # stdlib: ProactorEventLoop._run_forever_cleanup
        def _run_forever_cleanup(self):
            super()._run_forever_cleanup()
            self._gathers_writes = False
            self._note_run(False)
            # differs[D24]
            self._proactor._submit()
            self._want_signals()

        def run_forever(self):
            # differs[D19]
            self._check_closed()
            self._check_running()
            super().run_forever()
    else:
        # stdlib: ProactorEventLoop.run_forever
        def run_forever(self):
            # differs[D19]
            self._check_closed()
            self._check_running()
            try:
                self._proactor._bind_thread()
                # differs[D15], differs[D20]
                self._want_signals(True)
                self._gathers_writes = True
                self._note_run(True)
                super().run_forever()
            finally:
                self._gathers_writes = False
                self._note_run(False)
                # differs[D24]
                self._proactor._submit()
                self._want_signals()

    # absent: ProactorEventLoop.create_pipe_connection: Windows named pipes
    # absent: ProactorEventLoop.start_serving_pipe: Windows named pipes
    # absent: ProactorEventLoop._make_subprocess_transport: unix_events has Unix's

    # -- ours: no counterpart in the stdlib's class --

    def stats(self):
        """Return what the loop does and has done, as a dict of numbers, strings and dicts.

        For any thread, at any time; a walk through the operations, 50 ns each, and no system call. The keys are
        documented in docs/observability.md. Times are seconds, sizes bytes.
        """
        return observability.stats_of(self, _numbers_of(self))

    def _note_run(self, begins):
        (<BaseEventLoop> self).note_run(begins)


speed_up(IouringProactorEventLoop)


# ours: the core's numbers: (turns, callbacks run, seconds of runs)
cdef object _numbers_of(BaseEventLoop loop):
    return loop._turns, loop._callbacks_run, loop.time_run()


# ours: what is queued when the process forks would be out on the selector loop; differs[D24]
def _submit_before_fork():
    # A loop that does not run has nothing queued, and one of another thread is that thread's.
    loop = events._get_running_loop()
    if isinstance(loop, IouringProactorEventLoop) and loop._proactor is not None:
        loop._proactor._submit()


os.register_at_fork(before=_submit_before_fork)


# ours: for the datagrams of D7
def finish_sendto(conn, buf, flags, addr, trans, key, ov):
    ov.getresult()
    return conn.sendto(buf, flags, addr)


# ours: for the datagrams of D7
def finish_recvfrom(receive, trans, key, ov):
    ov.getresult()
    return receive()


# ours: inner function of IocpProactor.accept
def finish_accept(listener, trans, key, ov):
    ov.getresult()
    sock_calls.check_ready(listener, select.POLLIN)
    conn, address = listener.accept()
    conn.setblocking(False)
    return conn, address


# ours: inner function of IocpProactor.connect
def finish_connect(conn, address, trans, key, ov):
    ov.getresult()
    error = conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error != 0:
        raise OSError(error, f'Connect call failed {address}')
    return conn


# ours: inner function of IocpProactor._wait_cancel
def finish_wait_cancel(trans, key, ov):
    return True


# ours: inner function of IocpProactor._wait_for_handle
def finish_wait_for_handle(f, trans, key, ov):
    ov.getresult()
    # Also what a timeout comes to: the state of the handle decides.
    return f._poll()


# ours: what the timeout of RegisterWaitForSingleObject does
def timed_out(f):
    if not f.done():
        try:
            ready = f._poll()
        except Exception as exc:
            # The handle was closed meanwhile.
            f.set_exception(exc)
        else:
            f.set_result(ready)


cdef int _close_at_last(proactor) except -1:
    proactor.close()
    return 0


cdef Finalizer _finalizer = <Finalizer> _close_at_last


# stdlib: IocpProactor
cdef class IouringProactor(Selector):
    """Proactor on io_uring.

    rung: where on the ladder of set-up flags to begin, 0 (best) to 2 (Linux 5.19); None: what the
    running kernel was found to take.
    kernel: for tests, a capsule of system calls, see _overlapped.Ring.
    spin_us: microseconds, 0 (the default) to 1,000: how long a turn that has nothing to do looks for completions
    before it sleeps. What comes within that time is told sooner; a core is busy as long.
    sq_entries: how many operations one enter submits, 1 to 32,768, default 128; rounded up to a power of two.
    With more in a tick there are more enters.
    cq_entries: how many completions the kernel's queue holds, sq_entries to 65,536, default 512, or twice
    sq_entries where that is more; rounded up. More wait in the kernel's own memory. Locked memory: 64 bytes a
    submission and 16 a completion.
    receive_buffer: bytes, 4,096 to 16,777,216, default 262,144: what receives go through, in ordinary memory. A
    stream's data_received() is given as much at most, and no more than 262,144; a sock_recv() of more
    has a buffer of its own.
    Raises IouringUnavailableError where io_uring can't be had, ValueError for numbers out of these ranges.

    Source: io_uring(7), io_uring_setup(2), io_uring_enter(2).
    """

    cdef object _loop
    cdef BaseEventLoop _core    # the same where it has the core in C, or None
    cdef dict _future_kwargs    # for the futures of operations
    cdef readonly list _results
    cdef readonly Ring _ring
    cdef readonly object _stopped_serving
    cdef int64_t _timer_due     # when the next sleep may end by a timer
    cdef object __weakref__
    cdef dict __dict__          # for a select() of somebody else's, D25

    def __cinit__(self):
        drop_dict(self)
        self.is_own = type(self) is IouringProactor

    def __dealloc__(self):
        drop_dict(self)

    # stdlib: IocpProactor.__init__
    def __init__(self, rung=None, kernel=None, *, spin_us=None, sq_entries=None, cq_entries=None,
                 receive_buffer=None):
        if self._ring is not None:
            # Somebody may be waiting in it.
            raise RuntimeError('IouringProactor is already initialized')
        # differs[D17]
        self._loop = None
        self._future_kwargs = {}
        self._results = []
        self._stopped_serving = None
        # differs[D1]: no _cache and no _unregistered; differs[D11]: no _registered.
        self._ring = Ring(rung, kernel, spin_us=spin_us, sq_entries=sq_entries, cq_entries=cq_entries,
                          receive_buffer=receive_buffer)
        self.ring = self._ring

    # stdlib: IocpProactor._check_closed
    def _check_closed(self):
        self._check_open()

    cdef int _check_open(self) except -1:
        if not self._made_ring()._proactor.is_open():
            raise RuntimeError('IouringProactor is closed')
        return 0

    cdef Ring _made_ring(self):
        if self._ring is None:
            # A method of None would be called, and not refused.
            raise RuntimeError('IouringProactor.__init__() was not called')
        return self._ring

    # stdlib: IocpProactor.__repr__
    def __repr__(self):
        operations = self._ring.overlapped() if self._ring is not None else []
        info = ['overlapped#=%s' % len(operations),
                'result#=%s' % len(self._results or ())]
        # No generator: Cython 3.3.1's keep a reference to their type each.
        info.extend([repr(ov) for ov in operations[:8]])
        if len(operations) > 8:
            info.append('...')
        if self._ring is None or self._ring.closed:
            info.append('closed')
        return '<%s %s>' % (self.__class__.__name__, " ".join(info))

    # stdlib: IocpProactor.set_loop
    def set_loop(self, loop):
        self._loop = loop
        self._core = loop if isinstance(loop, BaseEventLoop) else None
        self._future_kwargs = {'loop': loop}

    # stdlib: IocpProactor.select
    def select(self, timeout=None):
        # differs[D25]
        cdef unsigned told = self._made_ring()._told
        if not self._results:
            self._poll(timeout)
        tmp = self._results
        self._results = []
        try:
            # For who counts: what has told its owner without a future is an event as well.
            tmp.extend([None] * (self._ring._told - told))
            return tmp
        finally:
            # An exception's traceback would keep the futures alive.
            tmp = None

    # stdlib: IocpProactor._result
    def _result(self, value):
        fut = self._loop.create_future()
        fut.set_result(value)
        return fut

    # stdlib: IocpProactor.finish_socket_func
    @staticmethod
    def finish_socket_func(trans, key, ov):
        # differs[D2]
        return ov.getresult()

    # Only from 3.13 on is there a stdlib's to mirror.
    # stdlib: IocpProactor._finish_recvfrom
    @classmethod
    def _finish_recvfrom(cls, trans, key, ov, *, empty_result):
        # differs[D8]
        return cls.finish_socket_func(trans, key, ov)

    # stdlib: IocpProactor.recv
    def recv(self, conn, nbytes, flags=0):
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        # differs[D3], differs[D4]
        if nbytes == 0:
            ov.finish(b'')
        elif is_socket(conn, fd):
            ov.prep_recv(fd, nbytes, flags)
        else:
            ov.prep_read(fd, nbytes)

        return self._future_of(ov, conn, _finish_socket_func)

    # stdlib: IocpProactor.recv_into
    def recv_into(self, conn, buf, flags=0):
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        # differs[D3], differs[D4]
        if is_socket(conn, fd):
            ov.prep_recv_into(fd, buf, flags)
        else:
            ov.prep_read_into(fd, buf)

        return self._future_of(ov, conn, _finish_socket_func)

    # stdlib: IocpProactor.recvfrom
    def recvfrom(self, conn, nbytes, flags=0):
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        # differs[D7]
        if not has_plain_addresses(conn):
            ov.prep_wait(fd, POLLIN)
            return self._future_of(ov, conn, partial(
                finish_recvfrom, partial(conn.recvfrom, nbytes, flags | socket.MSG_DONTWAIT)))
        ov.prep_recvfrom(fd, nbytes, flags)

        # differs[D8]: nothing is made of an error, so _finish_recvfrom would add nothing.
        return self._future_of(ov, conn, _finish_socket_func)

    # stdlib: IocpProactor.recvfrom_into
    def recvfrom_into(self, conn, buf, nbytes=0, flags=0):
        # differs[D9]
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        # differs[D7]
        if not has_plain_addresses(conn):
            ov.prep_wait(fd, POLLIN)
            return self._future_of(ov, conn, partial(
                finish_recvfrom, partial(conn.recvfrom_into, buf, nbytes, flags | socket.MSG_DONTWAIT)))
        ov.prep_recvfrom_into(fd, buf, nbytes, flags)

        return self._future_of(ov, conn, _finish_socket_func)

    # stdlib: IocpProactor.sendto
    def sendto(self, conn, buf, flags=0, addr=None):
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        if ov.prep_sendto(fd, family_of(conn), buf, flags, addr):
            return self._future_of(ov, conn, _finish_socket_func)

        # differs[D7]
        try:
            ov.finish(conn.sendto(buf, flags, addr))
        except (BlockingIOError, InterruptedError):
            ov.prep_wait(fd, POLLOUT)

        # differs[D22]
        return self._future_of(ov, conn, partial(finish_sendto, conn, buf, flags, addr)
                               if ov.pending else _finish_socket_func)

    # stdlib: IocpProactor.send
    def send(self, conn, buf, flags=0):
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        # differs[D4]
        if is_socket(conn, fd):
            ov.prep_send(fd, buf, flags)
        else:
            ov.prep_write(fd, buf)

        return self._future_of(ov, conn, _finish_socket_func)

    # stdlib: IocpProactor.accept
    def accept(self, listener):
        fd = self._fd_of(listener)
        ov = Overlapped(self._ring)
        # differs[D5]
        ov.prep_accept(fd)

        # differs[D22]
        return self._future_of(ov, listener, partial(finish_accept, listener))

    # stdlib: IocpProactor.connect
    def connect(self, conn, address):
        # differs[D6]
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        try:
            conn.connect(address)
        except (BlockingIOError, InterruptedError):
            ov.prep_connect(fd)
        else:
            return self._result(None if conn.type == socket.SOCK_DGRAM else conn)

        # differs[D22]
        return self._future_of(ov, conn, partial(finish_connect, conn, address))

    # stdlib: IocpProactor.sendfile
    def sendfile(self, sock, file, offset, count):
        fd = self._fd_of(sock)
        ov = Overlapped(self._ring)
        ov.prep_sendfile(fd, file.fileno(), offset, count)

        return self._future_of(ov, sock, _finish_socket_func)

    # absent: IocpProactor.accept_pipe: Windows named pipes
    # absent: IocpProactor.connect_pipe: Windows named pipes

    # stdlib: IocpProactor.wait_for_handle
    def wait_for_handle(self, handle, timeout=None):
        """Return a future of a file descriptor becoming readable.

        handle: a descriptor that can be polled (a pidfd, an eventfd), or an object with fileno().
        timeout: seconds, None for no limit.
        Its result is True when the handle is readable, False when the time was over first.

        Source: poll(2), pidfd_open(2), eventfd(2).
        """
        return self._wait_for_handle(handle, timeout, False)

    # stdlib: IocpProactor._wait_cancel
    def _wait_cancel(self, Overlapped event not None, done_callback):
        # differs[D10]: `event` is the operation that is to end.
        f = _WaitCancelFuture(event, event.obj, None, loop=self._loop)
        # The end may come in close(), when the loop runs no callbacks.
        f._done_callback = done_callback
        event.cancel()
        # differs[D22]
        event.own(f, event.obj, finish_wait_cancel)
        return f

    # stdlib: IocpProactor._wait_for_handle
    def _wait_for_handle(self, handle, timeout, _is_cancel):
        self._check_closed()

        fd = fileno(handle)
        ov = Overlapped(self._ring)
        # differs[D10]: _is_cancel would wait for an event of the wait's end.
        f = _WaitHandleFuture(ov, handle, None, self, loop=self._loop)
        if f._source_traceback:
            del f._source_traceback[-1]

        if timeout is not None:
            # differs[D10]: before the start, and refusing what is no time as the stdlib does.
            math.ceil(timeout)
            f._wait_handle = self._loop.call_later(timeout, timed_out, f)
        ov.prep_wait(fd, POLLIN)
        # differs[D22]
        ov.own(f, handle, partial(finish_wait_for_handle, f))
        return f

    # stdlib: IocpProactor._register_with_iocp
    def _register_with_ring(self, obj):
        return self._fd_of(obj)

    cdef int _fd_of(self, obj) except -1:
        # differs[D11]
        cdef int fd = fileno(obj)
        self._check_open()
        return fd

    # stdlib: IocpProactor._register
    def _register(self, Overlapped ov not None, obj, callback):
        return self._future_of(ov, obj, callback)

    cdef object _future_of(self, Overlapped ov, obj, callback):
        self._check_open()

        try:
            f = _new_overlapped_future(ov, self._future_kwargs)
        except BaseException:
            # Without a loop there is nobody who could wait for it.
            ov.cancel()
            raise
        if ov.traced and f._source_traceback:
            del f._source_traceback[-1]
        if not ov.pending:
            # It could be answered without the kernel.
            try:
                value = callback(None, None, ov)
            except OSError as e:
                f.set_exception(e)
            else:
                f.set_result(value)
            return f

        # differs[D1], differs[D18]
        ov.own(f, obj, callback)
        return f

    # stdlib: IocpProactor._unregister
    def _unregister(self, Overlapped ov not None):
        """Ask an operation to end whose future has been cancelled."""
        self._check_closed()
        # differs[D16]
        ov.cancel()

    # absent: IocpProactor._get_accept_socket: the kernel makes the accepted socket

    # stdlib: IocpProactor._poll
    def _poll(self, timeout=None):
        cdef int64_t ns
        if timeout is None:
            ns = -1
        elif timeout < 0:
            raise ValueError("negative timeout")
        else:
            # Rounded away from zero, to wait at least that long.
            wanted = math.ceil(timeout * 1e9)
            if wanted >= INFINITE:
                raise ValueError("timeout too big")
            ns = wanted
        self._poll_ns(ns)

    cdef int _poll_ns(self, int64_t ns) except -1:
        cdef Ring ring = self._made_ring()
        cdef Overlapped ov
        cdef int64_t now, woken
        if ring.has_small_sends() and ring.send_gathered():
            ns = 0
        if not ring._doubtful.empty():
            ring._ask()
        if not ring._readable.empty():
            # (Of this turn, or of one that was interrupted.)
            ns = 0
        if ns != 0 and self._core is not None and not self._core.may_sleep():
            ns = 0
        if ns > 0:
            # differs[D26]
            now = ring._proactor.now()
            ns = max(ns, self._timer_due - now)
            ring._wait(ns)
            woken = ring._proactor.now()
            if woken - now >= ns:
                self._timer_due = woken + TIMER_INTERVAL
        else:
            ring._wait(ns)
        ov = ring._next() if ring.has_completions() else None
        if ov is None:
            # All were native transports'.
            if not ring._readable.empty():
                ring._tell_again()
            return 0
        # Once a turn: no callback of the loop's runs in between.
        cdef bint is_plain = _is_plain(self._loop)
        while ov is not None:
            f, obj, callback = ov.future, ov.obj, ov.callback
            stay = False
            try:
                if f is None:
                    if type(callback) is _Handle:
                        # differs[D28]
                        stay = self._make_ready(ov, callback)
                    elif callback is not None and not ov.error:
                        # Of _poll_repeatedly(). Whatever comes of the call, the wait goes on.
                        # (One that was cancelled meanwhile does not.)
                        stay = ov._again()
                        if stay and not callback():
                            ov.cancel()
                elif self._stopped_serving is not None and id(obj) in self._stopped_serving:
                    f.cancel()
                # A cancelled future has asked its operation to end; what else is done has been
                # given a result by somebody else.
                elif not _is_done(f, ov):
                    try:
                        # What finish_socket_func comes to, which nearly all operations have.
                        value = (ov._getresult() if callback is _finish_socket_func
                                 else callback(None, None, ov))
                    # The callback may have run anything (a socket's fileno(), a finalizer), and
                    # that may have cancelled the future.
                    except (BlockingIOError, InterruptedError) as e:
                        # differs[D3]
                        stay = not f.done() and ov._again()
                        if not stay and not f.done():
                            f.set_exception(e)
                            self._results.append(f)
                    except Exception as e:
                        if not f.done():
                            f.set_exception(e)
                            self._results.append(f)
                    except BaseException:
                        # A signal's handler raised in Python code of the callback, such as
                        # socket.accept(). Nothing has come of it: the operation goes on.
                        stay = not f.done() and ov._again()
                        raise
                    else:
                        if not _is_done(f, ov):
                            _set_result(f, ov, value, is_plain)
                            self._results.append(f)
            finally:
                f = obj = callback = None
                if not stay:
                    ov._leave()
            ov = ring._next()
        ring._tell_again()

    # stdlib: IocpProactor._stop_serving
    def _stop_serving(self, obj):
        # obj is about to be closed, in BaseProactorEventLoop._stop_serving(). Nothing holds it open.
        self._made_ring()
        if self._stopped_serving is None:
            # By id(): a socket of the user's own class need not be hashable.
            self._stopped_serving = weakref.WeakValueDictionary()
        self._stopped_serving[id(obj)] = obj

    # stdlib: IocpProactor.close
    def close(self):
        if self._ring is None or self._ring.closed:
            # already closed
            return

        if _CLOSE_PATIENCE is None:
            # differs[D23]
            self._ring.close()
            return

        # differs[D24]
        self._submit()
        if self._ring.in_flight > MANY:
            # differs[D27]
            self._ring.leave_polls()

        # Cancel remaining registered operations.
        for ov in self._ring.overlapped():
            fut = ov.future
            if fut is None:
                ov.cancel()
            elif fut.cancelled():
                # Nothing to do with cancelled futures
                pass
            elif isinstance(fut, _WaitCancelFuture):
                # _WaitCancelFuture must not be cancelled
                pass
            else:
                try:
                    fut.cancel()
                except OSError as exc:
                    if self._loop is not None:
                        context = {
                            'message': 'Cancelling a future failed',
                            'exception': exc,
                            'future': fut,
                        }
                        if fut._source_traceback:
                            context['source_traceback'] = fut._source_traceback
                        self._loop.call_exception_handler(context)

        # What native transports have in flight has no future.
        self._ring.cancel_all()

        # Wait until the kernel has let go of every buffer. A child after a fork has nothing in the
        # kernel, and a thread that may not enter the ring gets nothing from it.
        msg_update = 1.0
        start_time = time.monotonic()
        next_msg = start_time + msg_update
        give_up = start_time + _CLOSE_PATIENCE
        while len(self._ring) and self._ring.bound_here:
            now = time.monotonic()
            if now >= give_up:
                # differs[D12]
                break
            if next_msg <= now:
                logger.debug('%r is running after closing for %.1f seconds',
                             self, now - start_time)
                next_msg = now + msg_update

            # handle a few events, or timeout
            try:
                self._poll(min(msg_update, give_up - now))
            except OSError as exc:
                # differs[D12]
                logger.debug('%r leaves operations to the kernel: %s', self, exc)
                break

        self._ring.close()
        self._results = []

    # stdlib: IocpProactor.__del__
    def __del__(self):
        run_finalizer(_finalizer, self)

    # -- ours: no counterpart in the stdlib's class --

    cdef int select_ns(self, int64_t timeout_ns) except -1:
        if not self._results:
            self._poll_ns(timeout_ns)
        if self._results:
            self._results = []
        return 0

    cdef bint is_idle(self) noexcept:
        return self._ring is not None and not self._results and self._ring.is_idle()

    cdef int wake(self) except -1:
        # differs[D14]
        self._made_ring()._wake()
        return 0

    @property
    def _cache(self):
        """What is in flight, as the stdlib's _cache has it: {address: (f, ov, obj, callback)}."""
        if self._ring is None:
            return {}
        return {ov.address: (ov.future, ov, ov.obj, ov.callback)
                for ov in self._ring.overlapped() if ov.future is not None}

    def _bind_thread(self):
        """Make the calling thread the one that waits; see uring::Proactor::bind_thread()."""
        self._check_closed()
        self._ring.bind()

    def _submit(self):
        """Send what was given to be sent in this tick now, as far as there is room; in any thread."""
        self._made_ring()._send_queued()

    def _wake(self):
        """End the sleep of the thread in select(); for any thread."""
        self.wake()

    def _settle(self, obj):
        """differs[D13]: see what is in flight on obj end, before obj is closed."""
        if self._ring is not None:
            self._ring.settle(obj)

    def _forget(self, fd):
        """Leave nothing behind of waits on fd that are over: it is a transport's now."""
        # (What is no number is complained of by whoever works on it.)
        if isinstance(fd, int) and 0 <= fd <= INT_MAX:
            self._made_ring().forget(fd)

    def _run_when_ready(self, conn, events, handle, listening=False):
        """Have the handle run in each tick in which `events` hold on conn.  differs[D28]

        listening: nothing may hold conn open.
        Returns the Overlapped; cancelling the handle ends the calls, cancelling both the operation.
        """
        fd = self._fd_of(conn)
        ov = Overlapped(self._ring)
        if listening:
            ov.prep_wait(fd, events, Kind.kPoll, True)
        else:
            ov.prep_poll(fd, events)
        ov.own(None, conn, handle)
        return ov

    cdef bint _make_ready(self, Overlapped ov, object handle) except -1:
        """Have a handle of the loop run; tell whether its operation goes on."""
        if owns_buffer(ov._kind):
            if ov.error and ov.error != ECANCELED:
                self._loop._ready.append(handle)
            return False
        # With the file closed it is, as on a selector, never ready again. (The ring has held it open. What
        # has to be asked in Python is not asked: an interrupt could come there.)
        if (handle._cancelled or ov.error == EBADF or ov.error == ECANCELED
                or (ov._plain and ov._lost())):
            return False
        # Queued again first: the handle may be lost to an interrupt, its wait never.
        stay = ov._again()
        self._loop._ready.append(handle)
        return stay

    def _receive(self, conn, nbytes):
        """Return what has arrived on conn, as its recv() does, at most nbytes and as many as the buffer holds."""
        cdef Overlapped ov
        if not has_stdlib_methods(conn) and hasattr(conn, 'recv'):
            return conn.recv(nbytes)
        ov = Overlapped(self._ring)
        ov._fd = fileno(conn)
        ov._kind = Kind.kReceive if is_socket(conn, ov._fd) else Kind.kRead
        ov._size = min(<int64_t> nbytes, self._ring._scratch_size)
        return ov._receive()

    def _receive_from(self, conn, nbytes):
        """Return a datagram that has arrived on conn, as its recvfrom() does."""
        cdef Overlapped ov
        if not has_stdlib_methods(conn):
            return conn.recvfrom(nbytes)
        # differs[D7]
        if not has_plain_addresses(conn):
            return conn.recvfrom(nbytes, socket.MSG_DONTWAIT)
        ov = Overlapped(self._ring)
        ov._fd = fileno(conn)
        ov._kind = Kind.kReceiveFrom
        ov._size = nbytes
        return ov._receive_from()

    def _send_soon(self, conn, data, failed):
        """Send all of data with the tick's other sends; have the handle `failed` run if that fails.

        Returns the Overlapped; None in a forked child, which has no ring to send it by, and where conn's own send() is to.
        """
        fd = self._fd_of(conn)
        if self._ring._is_forked() or not has_stdlib_methods(conn) and hasattr(conn, 'send'):
            return None
        ov = Overlapped(self._ring)
        if is_socket(conn, fd):
            ov.prep_send(fd, data, 0)
        else:
            ov.prep_write(fd, data)
        if ov.pending:
            ov.own(None, conn, failed)
            if self._ring.is_elsewhere():
                # differs[D24]
                self._ring.send_queued()
        elif ov.error:
            self._loop._ready.append(failed)
        return ov

    def _extend_send(self, Overlapped ov not None, data, limit):
        """Send data along, up to limit bytes in all; False if the kernel may have the send already."""
        extended = ov.extend(data, limit)
        if extended and self._ring.is_elsewhere():
            # differs[D24]
            self._ring.send_queued()
        return extended

    def _poll_socket(self, sock, events):
        """Return a future of `events` on a user's socket.  It takes nothing from the socket."""
        fd = self._fd_of(sock)
        ov = Overlapped(self._ring)
        ov.prep_wait(fd, events)
        return self._future_of(ov, sock, _finish_socket_func)

    def get_key(self, fd):
        """differs[D25]: tell for which events fd is waited for, as a selector would."""
        return self._loop._get_key(fd)

    def get_map(self):
        """differs[D25]: return {fd: key} of readers and writers; what transports wait for is not in it."""
        return MappingProxyType(self._loop._keys)

    @property
    def register(self):
        raise _is_no_selector('register')

    @property
    def unregister(self):
        raise _is_no_selector('unregister')

    @property
    def modify(self):
        raise _is_no_selector('modify')

    def _poll_repeatedly(self, fd, events, on_ready):
        """Call on_ready() in each turn in which `events` hold on fd, until it answers false.

        Returns what ends the calls by its cancel() or end().
        """
        self._check_closed()
        ov = Overlapped(self._ring)
        ov.prep_wait(fd, events, Kind.kPoll, True)
        ov.own(None, None, on_ready)
        return ov


cdef object _finish_socket_func = IouringProactor.finish_socket_func


# ours: hasattr() is to be false of what can't be done; differs[D25]
cdef object _is_no_selector(name):
    return AttributeError(
        f"'IouringProactor' object has no attribute '{name}': it is no selector; use the loop's add_reader(), "
        "add_writer(), remove_reader() and remove_writer()")


# absent: _WindowsSubprocessTransport: unix_events has Unix's
# absent: SelectorEventLoop: the stdlib's
# absent: WindowsSelectorEventLoopPolicy: the stdlib's selector loop has its own policy


# stdlib: WindowsProactorEventLoopPolicy
def _make_policy():
    """Make the policy class.

    Policies are deprecated from Python 3.14 on and gone in 3.16: their base is looked up when
    somebody asks for the class, and not when this module is imported.
    """
    from asyncio import unix_events as stdlib_unix_events
    # The Unix policy and not its base: on 3.12 and 3.13 the child watchers come with it.
    base = getattr(stdlib_unix_events, '_UnixDefaultEventLoopPolicy', None)
    if base is None:
        raise AttributeError(
            'this Python has no event loop policies: use uringloop.run() or '
            'asyncio.Runner(loop_factory=uringloop.new_event_loop)')

    class IouringProactorEventLoopPolicy(base):
        """Event loop policy whose loops run on io_uring.

        fallback: as for uringloop.new_event_loop().
        Raises TypeError for one that is neither True nor False.
        """
        _loop_factory = IouringProactorEventLoop

        def __init__(self, *, fallback=False):
            super().__init__()
            if is_wanted(fallback):
                self._loop_factory = partial(or_stdlib, IouringProactorEventLoop)

    IouringProactorEventLoopPolicy.__qualname__ = 'IouringProactorEventLoopPolicy'
    return IouringProactorEventLoopPolicy


def __getattr__(name):
    if name == 'IouringProactorEventLoopPolicy':
        policy = globals()[name] = _make_policy()
        return policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# absent: DefaultEventLoopPolicy: the default is the program's to choose
# absent: EventLoop: the stdlib's
