"""What a `sock_*` call does: it is tried at once, and waits where there is nothing yet, or no room.

Mirrors nothing: the methods themselves are in `stdlib_transports`, coroutines in Python, and each is a loop
of two things that are here, an attempt and a wait.

    while type(data := recv(loop, sock, n)) is Wait:
        await data

An attempt checks its socket and makes the system call.  On a plain socket.socket it makes it itself; what is
out of the ordinary (a class of the user's, a patched method, an unusual argument, debug mode) goes through the
socket's own method, which complains in its own words.

A wait is what a future of the selector loop would be, in one object: the owner of the operation in the
readiness set, what the task waits for, and what stands in the loop's `_ready` when the socket is ready.
What only a real future can do, it has one made for: from then on that is what it is.

Must not be in here: io_uring, and transports.
"""
import itertools
import os
import select
from asyncio import futures

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int64_t, uint64_t

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EBADF, ECANCELED, EINTR

cdef extern from "<poll.h>":
    enum: POLLIN

cdef extern from "<sys/socket.h>" nogil:
    enum: SOCK_STREAM
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int c_MSG_DONTWAIT "MSG_DONTWAIT"

from ._interpreter cimport PyContext_CopyCurrent
from ._overlapped cimport Completion, Ring, fileno, is_lost, is_readable, number_of, os_error
from ._overlapped import PLAIN_SOCKET
from ._sockaddr cimport has_plain_addresses, kind_of, sockaddr_storage
from .base_events cimport BaseEventLoop, Methods, ReadyOwner, run_callback
from .transport_registry cimport Transports

# What an attempt returns that has to be made again.
MUST_WAIT = object()
cdef object _MUST_WAIT = MUST_WAIT

cdef object _PlainSocket = PLAIN_SOCKET
# How many buffers one sendmsg(2) takes.
cdef object _iov_max = os.sysconf('SC_IOV_MAX')
cdef object _Future = futures.Future
# More than this a socket's own method sends: it lets other threads run meanwhile.
cdef Py_ssize_t _LARGE = 1024 * 1024
# The methods that are gone past below, and by transports.
cdef tuple _NAMES = ('recv', 'recv_into', 'recvfrom', 'recvfrom_into', 'send', 'sendto', 'getsockname', 'getpeername')
cdef Methods _socket_methods = Methods(_PlainSocket, *_NAMES)


cdef bint has_stdlib_methods(object sock) except -1:
    if type(sock) is _PlainSocket:
        return _socket_methods.are_the_stdlibs()
    if _PlainSocket is None or not isinstance(sock, _PlainSocket):
        return False
    own = getattr(sock, '__dict__', None)
    for name in (*_NAMES, '__getattribute__'):
        if getattr(type(sock), name, None) is not getattr(_PlainSocket, name) or own and name in own:
            return False
    return _socket_methods.are_the_stdlibs()


# -- attempts --

cdef inline bint _is_plain(object sock) except -1:
    """Tell whether the methods of a socket are the stdlib's."""
    return type(sock) is _PlainSocket and _socket_methods.are_the_stdlibs()


cdef inline bint _may_go_past(BaseEventLoop loop, object sock) except -1:
    """Check a call's socket as the selector loop does; tell whether its method need not be called."""
    cdef bint is_plain = _is_plain(sock)
    if not (is_plain and loop.is_usual()):
        loop._check_sock(sock)
    return is_plain


cdef bint _may_block(object sock) except -1:
    """Tell whether it is a blocking socket; what has no timeout is none, and has methods of its own."""
    gettimeout = getattr(sock, 'gettimeout', None)
    return gettimeout is not None and gettimeout() != 0


def check_ready(sock, events):
    """Raise BlockingIOError for a blocking socket that is not ready: its method would stop the loop.

    It was ready when the loop looked, but somebody else may have been faster.
    """
    # (A closed one says by itself what it is.)
    if _may_block(sock) and (fd := sock.fileno()) >= 0:
        poller = select.poll()
        poller.register(fd, events)
        if not poller.poll(0):
            raise BlockingIOError


cdef object _attempt(object sock, events, str name, tuple args):
    try:
        check_ready(sock, events)
        return getattr(sock, name)(*args)
    except (BlockingIOError, InterruptedError):
        return _MUST_WAIT


def attempt(BaseEventLoop loop not None, sock, events, name, *args):
    """Call a socket's method if it need not wait for `events`; return its result or MUST_WAIT."""
    _may_go_past(loop, sock)
    return _attempt(sock, events, name, args)


cdef inline object _got(int64_t got):
    """Return MUST_WAIT for -EAGAIN; raise what another negative number says."""
    if got == -EAGAIN or got == -EINTR:
        return _MUST_WAIT
    raise os_error(got)


cdef inline Py_ssize_t _size_of(object number) except? -1:
    """Return an int as it is; -1 for what is no plain one, or is too large: the socket's method knows what it is."""
    cdef int overflow = 0
    if type(number) is not int:
        return -1
    return PyLong_AsLongLongAndOverflow(number, &overflow)


cdef int64_t _receive(Ring ring, object sock, int fd, void* into, Py_ssize_t size) except? -1:
    """recv(2), unless it is known to find nothing: the number of bytes or -errno."""
    cdef int64_t got
    if ring.is_drained(fd, sock):
        return -EAGAIN
    got = ring.receive(fd, into, size)
    if 0 < got < size:
        ring.note_drained(fd)
    return got


def recv(BaseEventLoop loop not None, sock, n):
    """Return what sock.recv(n) does, or the Wait for it."""
    cdef Ring ring
    cdef int64_t got
    cdef Py_ssize_t size
    cdef int fd
    if _may_go_past(loop, sock):
        ring = loop.find_ring()
        size = _size_of(n)
        if 0 < size <= ring._scratch_size:
            fd = fileno(sock)
            got = _receive(ring, sock, fd, ring._scratch, size)
            return PyBytes_FromStringAndSize(<char*> ring._scratch, got) if got >= 0 else _got_nothing(loop, sock, got)
    return _or_wait(loop, sock, _attempt(sock, POLLIN, 'recv', (n,)))


def recv_into(BaseEventLoop loop not None, sock, buf):
    """Return what sock.recv_into(buf) does, or the Wait for it."""
    cdef Py_buffer view
    cdef Ring ring
    cdef int64_t got
    cdef int fd
    if _may_go_past(loop, sock) and _get_buffer(buf, &view, PyBUF_WRITABLE):
        try:
            if view.len:
                ring = loop.find_ring()
                fd = fileno(sock)
                got = _receive(ring, sock, fd, view.buf, view.len)
                return got if got >= 0 else _got_nothing(loop, sock, got)
        finally:
            PyBuffer_Release(&view)
    return _or_wait(loop, sock, _attempt(sock, POLLIN, 'recv_into', (buf,)))


cdef object _got_nothing(BaseEventLoop loop, object sock, int64_t got):
    _got(got)
    return _wait(loop, sock, POLLIN)


cdef object _or_wait(BaseEventLoop loop, object sock, object result):
    return _wait(loop, sock, POLLIN) if result is _MUST_WAIT else result


cdef bint _get_buffer(object data, Py_buffer* view, int flags) except -1:
    """Get at the bytes of an object of the usual kinds; false for one whose method has something to say."""
    if type(data) is not bytes and type(data) is not bytearray and type(data) is not memoryview:
        return False
    try:
        PyObject_GetBuffer(data, view, flags)
    except (BufferError, TypeError, ValueError):
        return False
    return True


def recvfrom(BaseEventLoop loop not None, sock, bufsize):
    """Return what sock.recvfrom(bufsize) does, or MUST_WAIT."""
    cdef Ring ring
    cdef sockaddr_storage address
    cdef unsigned length = 0
    cdef int64_t got
    cdef Py_ssize_t size
    cdef int fd
    if _may_go_past(loop, sock):
        ring = loop.find_ring()
        size = _size_of(bufsize)
        if 0 < size <= ring._scratch_size and has_plain_addresses(sock):
            fd = fileno(sock)
            got = ring.receive_from(fd, ring._scratch, size, &address, &length)
            if got < 0:
                return _got(got)
            data = PyBytes_FromStringAndSize(<char*> ring._scratch, got)
            return data, ring.addresses().format(&address, length)
    return _attempt(sock, select.POLLIN, 'recvfrom', (bufsize,))


def recvfrom_into(BaseEventLoop loop not None, sock, buf, nbytes):
    """Return what sock.recvfrom_into(buf, nbytes) does, or MUST_WAIT."""
    cdef sockaddr_storage address
    cdef unsigned length = 0
    cdef Py_buffer view
    cdef Ring ring
    cdef int64_t got
    cdef Py_ssize_t size
    cdef int fd
    if _may_go_past(loop, sock) and has_plain_addresses(sock) and _get_buffer(buf, &view, PyBUF_WRITABLE):
        try:
            size = _size_of(nbytes)
            if 0 < size <= view.len:
                fd = fileno(sock)
                ring = loop.find_ring()
                got = ring.receive_from(fd, view.buf, size, &address, &length)
                return (got, ring.addresses().format(&address, length)) if got >= 0 else _got(got)
        finally:
            PyBuffer_Release(&view)
    return _attempt(sock, select.POLLIN, 'recvfrom_into', (buf, nbytes))


cpdef int send_pieces(object sock, object buffer) except -1:
    """Send of a deque what there is room for, and take that out of it.

    In C: an interrupt must not come between the two. Raises what the socket's sendmsg() does.
    """
    sent = sock.sendmsg(itertools.islice(buffer, _iov_max))
    while sent:
        size = len(buffer[0])
        if size > sent:
            buffer[0] = memoryview(buffer[0])[sent:]
            break
        sent -= size
        buffer.popleft()
    return 0


cdef object _send(object sock, const void* start, Py_ssize_t size):
    # Not by the ring: as the socket's own method, it lets a program die of SIGPIPE that wants to.
    cdef int64_t sent = c_send(fileno(sock), start, size, c_MSG_DONTWAIT)
    if sent == size:
        return None
    if sent < 0:
        _got(-errno)
        sent = 0
    return sent


def send(BaseEventLoop loop not None, sock, data):
    """Send what there is room for; return how many bytes that was, or None if it was all of data."""
    cdef Py_buffer view
    cdef Py_ssize_t size
    cdef int64_t sent
    if _may_go_past(loop, sock):
        if type(data) is bytes:
            size = PyBytes_GET_SIZE(data)
            if size <= _LARGE:
                return _send(sock, PyBytes_AS_STRING(data), size)
        elif _get_buffer(data, &view, PyBUF_SIMPLE):
            try:
                if view.len <= _LARGE:
                    return _send(sock, view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
    # What is no socket says so here, as on the selector loop.
    try:
        # (A send() of the user's need not know of flags.)
        sent = sock.send(data, c_MSG_DONTWAIT) if _may_block(sock) else sock.send(data)
    except (BlockingIOError, InterruptedError):
        sent = 0
    return None if type(data) is bytes and sent == len(<bytes> data) else sent


# -- waiting --

cdef enum:
    NEW
    WAITING
    DONE


def wait(BaseEventLoop loop not None, sock, unsigned events):
    """Return what is to be awaited, once, until `events` (POLLIN, POLLOUT) hold on a socket that is no transport's.

    It waits from its await on.  Raises OSError (EBADF) when the socket is closed meanwhile.
    """
    return _wait(loop, sock, events)


cdef Wait _wait(BaseEventLoop loop, object sock, unsigned events):
    cdef Wait made = Wait.__new__(Wait)
    made._loop = loop
    made._sock = sock
    made._events = events
    return made


@cython.final
cdef class Wait(ReadyOwner):
    """The future of one wait, and its only callback as long as there is one, which needs no Handle.

    Source: asyncio.Future.
    """

    cdef readonly BaseEventLoop _loop
    cdef object _sock
    # Done-callback and context of the task that waits.
    cdef readonly object _callback
    cdef readonly object _context
    # What this is when more is asked of it, or else None.
    cdef object _future
    cdef uint64_t _key           # of the operation; 0: none is under way
    cdef int _fd
    cdef int _error
    cdef unsigned _events
    cdef int _state
    cdef bint _gives_future      # of a loop that is to see all callbacks
    cdef public bint _asyncio_future_blocking
    cdef object __weakref__

    # -- what the coroutine awaits --

    def __await__(self):
        # Whoever else awaits it, awaits a future.
        return self if self._state == NEW else self._made_future().__await__()

    def __iter__(self):
        return self.__await__()

    def __next__(self):
        if self._state == NEW:
            self._start()
        elif self._gives_future or self._future is not None:
            if self._future.done():
                self._end()
                self._future.result()
                raise StopIteration
        elif self._state == DONE:
            if self._error:
                raise os_error(-self._error)
            raise StopIteration
        given = self._future if self._gives_future else self
        # As a future: who steps the coroutine before its time gets it once more, if he has taken it as a task does.
        if given._asyncio_future_blocking:
            self._end()
            raise RuntimeError("await wasn't used with future")
        given._asyncio_future_blocking = True
        return given

    def _send(self, value):
        return self.__next__()

    def throw(self, exception, value=None, traceback=None):
        """Source: PEP 342."""
        self._end()
        if not isinstance(exception, type):
            value = exception
        elif not isinstance(value, exception):
            value = exception() if value is None else exception(*value if isinstance(value, tuple) else (value,))
        raise value if traceback is None else value.with_traceback(traceback)

    def close(self):
        """Source: PEP 342."""
        self._end()

    cdef int _start(self) except -1:
        cdef BaseEventLoop loop = self._loop
        cdef Ring ring
        transports = loop._transports
        if type(self._sock) is not _PlainSocket or type(transports) is not Transports:
            # A class of the user's may say what it likes.
            loop._ensure_fd_no_transport(self._sock.fileno())
        self._fd = fileno(self._sock)
        if type(transports) is Transports and transports and (<Transports> transports).find(self._fd) is not None:
            loop._ensure_fd_no_transport(self._fd)
        if not loop.has_plain_waits():
            self._future = loop.create_future()
            self._gives_future = True
        ring = loop.find_ring()
        self._plain = is_readable(self._sock) and number_of(self._sock) == self._fd
        self.ring = ring
        self._key = ring.start_wait(self, self._fd, self._events, self._stream())
        self._state = WAITING
        return 0

    cdef object _stream(self):
        """Return the socket if it will most likely wait for the same again."""
        if self._events == POLLIN and type(self._sock) is _PlainSocket and kind_of(self._sock) == SOCK_STREAM:
            return self._sock
        return None

    cdef int _end(self) except -1:
        cdef uint64_t key = self._key
        self._state = DONE
        if key:
            self._key = 0
            self.ring.end(key)
        return 0

    # -- the operation --

    cdef bint _lost(self):
        return is_lost(self._sock, self._fd, self._plain)

    cdef bint complete(self, const Completion* completion) except -1:
        if completion.key == self._key:
            self._key = 0
            self._error = -completion.error
            self._state = DONE
            if self._loop is not None:
                self._loop.add_ready(self)
        self.ring.dismiss(completion.key)
        return False

    # -- what the loop runs --

    cdef int run(self) except -1:
        if self._future is not None and not self._future.done():
            self._settle()
        callback, self._callback = self._callback, None
        context, self._context = self._context, None
        if callback is None:
            return 0
        if not self._loop.has_plain_callbacks():
            self._loop.call_soon(callback, self, context=context)
            return 0
        return run_callback(self._loop, callback, self, context)

    @property
    def _args(self):
        return (self,)

    # -- the future --

    @property
    def __class__(self):
        return _Future

    def get_loop(self):
        return self._loop

    def done(self):
        return self._state == DONE if self._future is None else self._future.done()

    def cancelled(self):
        return self._future is not None and self._future.cancelled()

    def result(self):
        if self._future is None and self._state == DONE and not self._error:
            return None
        return self._made_future().result()

    def add_done_callback(self, fn, *, context=None):
        if self._future is None and self._state == WAITING and self._callback is None:
            self._context = PyContext_CopyCurrent() if context is None else context
            self._callback = fn
        else:
            self._made_future().add_done_callback(fn, context=context)

    def cancel(self, msg=None):
        if self._future is None and self._state == DONE:
            return False
        if not self._made_future().cancel(msg=msg):
            return False
        self._end()
        return True

    def set_result(self, result):
        self._made_future().set_result(result)
        self._end()

    def set_exception(self, exception):
        self._made_future().set_exception(exception)
        self._end()

    def __getattr__(self, name):
        # A class that has it, and throw() and close(), passes for one of coroutines.
        if name == 'send':
            return self._send
        if not hasattr(_Future, name):
            raise AttributeError(f"'Future' object has no attribute {name!r}")
        return getattr(self._made_future(), name)

    def __repr__(self):
        return repr(self._made_future())

    cdef object _made_future(self):
        if self._future is None:
            future = self._loop.create_future()
            if self._state != DONE and self._callback is not None:
                future.add_done_callback(self._callback, context=self._context)
                self._callback = self._context = None
            self._future = future
            if self._state == DONE:
                self._settle()
        return self._future

    cdef int _settle(self) except -1:
        if self._error:
            self._future.set_exception(os_error(-self._error))
            if self._error == ECANCELED:
                # Of the loop's close(), behind which the selector loop's future would wait for ever: nobody is to be
                # told that he has not looked.
                self._future.exception()
        else:
            self._future.set_result(None)
        return 0
