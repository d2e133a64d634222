"""Native transports; mirrors asyncio/proactor_events.py.

The fast tier.  A transport is the owner of its operations: when a completion says that there is
something to read it stands in the loop's `_ready`, as a Handle of the selector loop does, and is run
there in its place.  It reads with recv(2) and calls its protocol, without a future, a Handle or a
callback in between.  What it does, and when, is what the transports of `stdlib_transports` do, which
are the reference: the differences from the stdlib that are numbered there hold here as well, and stand
where they apply by their number alone (T1; D1 is one of `uring_events`).

Must not be in here: io_uring itself.  All these classes know is the ring's methods.

Differences from the stdlib beyond those, numbered; a line `# differs[Nn]` stands where each applies.
"""
# N1: The stdlib's class for sockets has two bases, one that reads and one that writes. A class of C has one
#     base only, so here the one that writes stands on the one that reads.
# N2: asyncio.Transport has a slot, which no class of C can inherit. isinstance() is true by __class__.
# N3: The names of a socket, and the object that get_extra_info('socket') gives, are made when somebody
#     asks for them. They are those that it had when the transport was made.
# N5: Up to sixteen datagrams are received in one turn, as long as the transport reads: on a busy socket a
#     turn for each would cost more than the datagram.
import _socket
import _weakref
import collections
import operator
import socket
import warnings
import weakref
from asyncio import (
    base_events, constants, events, futures, proactor_events, protocols, streams, transports, trsock,
)
from asyncio.log import logger

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer, Py_buffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.limits cimport INT_MAX
from libc.string cimport memcpy

from ._interpreter cimport (
    Finalizer, PyBytes_AS_STRING_raw, PyBytes_FromStringAndSize_raw, PyContext_CopyCurrent, Py_XDECREF_raw,
    _PyBytes_Resize, drop_dict, raise_pending, run_finalizer, steal,
)
from ._overlapped cimport (
    Completion, Ring, fileno, is_plain_tcp, is_readable, number_of, os_error, socket_of,
)
from ._overlapped import PLAIN_SOCKET
from ._sockaddr cimport family_of, format_address, has_plain_addresses, sockaddr_storage
from . import stdlib_transports
from .base_events cimport BaseEventLoop, Methods, ReadyHandle, handle_of, report_callback, run_callback
from .sock_calls cimport has_stdlib_methods, send_pieces
from .sslproto cimport SSLProtocol
from .sslproto import connection_class as _ssl_protocol_class
from .streams cimport reader_of, tell_reader
from .transport_registry cimport Clients, Transports
from .stdlib_transports import DETACH_TAKES_TRANSPORT, GATHER_ALL, GATHER_ONE, HEADER_SIZE

cdef extern from "<errno.h>":
    int errno, EAGAIN, EBADF, EINTR, ENOMEM

cdef extern from "<poll.h>":
    enum: POLLIN
    enum: POLLOUT
    enum: POLLERR
    enum: POLLHUP
    enum: POLLRDHUP
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout) nogil

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        pass
    int getsockname(int fd, sockaddr* address, unsigned* length)
    int getpeername(int fd, sockaddr* address, unsigned* length)
    int accept4(int fd, sockaddr* address, unsigned* length, int flags)
    int setsockopt(int fd, int level, int option, const void* value, unsigned length)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL
    enum: SOCK_NONBLOCK
    enum: SOCK_CLOEXEC

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "Python.h":
    object PyBytes_FromObject(object data)
    int PyByteArray_Resize(object array, Py_ssize_t size) except -1
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    int enter_context "PyContext_Enter"(object context) noexcept
    int exit_context "PyContext_Exit"(object context) noexcept
    int PySys_Audit(const char* event, const char* format, ...) noexcept
    PyObject* call_method "PyObject_CallMethodOneArg"(object obj, object name, object argument) noexcept
    Py_ssize_t Py_REFCNT(object)

cdef extern from *:
    """
    // Has anybody a weak reference to an object of a class in C that allows them, or had one?
    static inline int had_weakrefs(PyObject* obj) {
        return *(PyObject**)((char*)obj + Py_TYPE(obj)->tp_weaklistoffset) != NULL;
    }
    """
    bint had_weakrefs(object) noexcept

# From this size on a read goes straight into the object that the protocol gets, up to that size: above, with
# what an object has besides, glibc maps and unmaps memory for each.
cdef int _LARGE = 4096
cdef Py_ssize_t _LARGEST = 120 * 1024
cdef int _MARGIN = 64
# So much at once beside others whose messages are small and wait meanwhile, of which the last came so many turns ago at most.
cdef Py_ssize_t _LARGEST_BESIDE = 32 * 1024
cdef uint64_t _BESIDE_TURNS = 256
cdef object _PlainSocket = PLAIN_SOCKET
# At the interpreter's end a transport may outlive the names of this module.
cdef object _warn = warnings.warn
# How it is closed: by two methods in Python and one in C.
cdef Methods _closing_methods = Methods(_PlainSocket, 'close', '_real_close')
cdef object _close_in_c = _socket.socket.close
# Of which sockets asyncio sets TCP_NODELAY.
cdef object _NODELAY = {(int(family), int(socket.SOCK_STREAM), int(socket.IPPROTO_TCP))
                        for family in (socket.AF_INET, socket.AF_INET6)}
cdef object _BufferedProtocol = protocols.BufferedProtocol
cdef object _StreamReaderProtocol = streams.StreamReaderProtocol
cdef bint _detach_takes_transport = DETACH_TAKES_TRANSPORT
cdef object _Server = base_events.Server
cdef Methods _server_methods = Methods(_Server, '_attach', '_detach')
cdef Py_ssize_t _gather_one = GATHER_ONE
cdef Py_ssize_t _gather_all = GATHER_ALL
# An accept4(2) that finds nobody has made a file by then, and takes ten times as long as poll(2). So it is asked
# first whether somebody waits, behind each of the first connections of a turn. (Where so many came at once, to
# find out by the last one costs less.)
cdef int _ASKED = 8
# What a multishot poll is to tell of. Where there is one of _ENDS, something comes behind what a read has got, though it
# asked for more: an end, an error. (Bytes behind an urgent one as well, but what is told with POLLPRI is told of every packet.)
cdef int _ENDS = POLLRDHUP | POLLHUP | POLLERR
cdef int _EVENTS = POLLIN | POLLRDHUP
# Who has got so many bytes in one read is told of too many packets for each by a poll that the kernel keeps.
cdef int _BULK = 32 * 1024
# Of the transports' max_size, where the program sets no other.
cdef int _MAX_SIZE = 256 * 1024
cdef object _HIGH_WATER = 64 * 1024
cdef object _LOW_WATER = 16 * 1024
cdef object _MSG_DONTWAIT = int(socket.MSG_DONTWAIT)
cdef object _stdlib_sendto = proactor_events._ProactorDatagramTransport.sendto
# How many datagrams one turn receives; differs[N5]
cdef int _DATAGRAMS = 16
cdef object _LOG_THRESHOLD = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


# ours: whether nobody would see if callbacks came into the loop's _ready without call_soon() and Handles
cdef bint _is_plain(loop) except -1:
    return (<BaseEventLoop> loop).is_usual() and (<BaseEventLoop> loop).has_plain_callbacks()


cdef bint _get_writable(buf, Py_buffer* view) except -1:
    """Get a buffer to receive into; false where it is none, of which recv_into() says why."""
    try:
        PyObject_GetBuffer(buf, view, PyBUF_WRITABLE)
    except BaseException:
        return False
    return True


# What a transport does once a message. Each has a second name, by which it is called where an exception, which is left
# set, is a result below zero, or NULL: a try costs as much as the rest of a step, as it keeps what is being handled.
# (And each return that is saved behind a system call, after which the processor foresees none, is worth some more.)
cdef int _read_of "read_of"(_ProactorBasePipeTransport transport) except -1:
    return transport._read()


cdef int _flush_of "flush_of"(_ProactorBasePipeTransport transport) except -1:
    transport._flush()
    return 0


cdef int _drop_of(_ProactorBasePipeTransport transport) except -1:
    return transport._drop()


cdef PyObject* _receive_of "receive_of"(_ProactorReadPipeTransport transport) except NULL:
    """Return what has arrived, at most max_size bytes; None if nothing has."""
    cdef PyObject* data = NULL
    cdef int64_t got, more
    cdef Py_ssize_t size
    cdef Py_ssize_t limit
    if not transport._plain:
        received = transport._receive_its_way()
        Py_INCREF(received)
        return <PyObject*> received
    if transport._read_error:
        error, transport._read_error = transport._read_error, 0
        raise os_error(-error)
    # The user may have closed the socket since.
    if transport._is_lost():
        raise os_error(-EBADF)
    limit = transport._limit_read(min(<Py_ssize_t> transport._max_size, transport.ring._scratch_size))
    if transport._expected < _LARGE:
        # Through one buffer: an object of the true size is made afterwards.
        got = transport.ring.receive(transport._fd, transport.ring._scratch, limit)
        transport._note_read(got, limit)
        if got == -EAGAIN:
            return <PyObject*> None       # (which is immortal)
        if got < 0:
            raise os_error(got)
        transport._expect(got)
        return PyBytes_FromStringAndSize_raw(<char*> transport.ring._scratch, got)

    # Straight into an object that is as large as the last ones and a little larger: one that comes out full
    # tells that there is more.
    size = min(transport._expected + _MARGIN, min(_LARGEST, limit))
    data = PyBytes_FromStringAndSize_raw(NULL, size)
    if data is NULL:
        raise MemoryError
    got = transport.ring.receive(transport._fd, PyBytes_AS_STRING_raw(data), size)
    transport._note_read(got, size)
    if got < 0:
        Py_XDECREF_raw(data)
        if got == -EAGAIN:
            return <PyObject*> None       # (which is immortal)
        raise os_error(got)
    more = 0
    if got == size and size < _LARGEST and size < limit:
        more = transport.ring.receive(transport._fd, transport.ring._scratch, limit - size)
        transport._note_read(more, limit - size)
    if more < 0 and more != -EAGAIN:
        # An error is told by the socket once, and behind it comes the end of the stream: the next read tells it.
        transport._read_error = <int> -more
        transport.ring.ask_again(transport._read_key)
    if more > 0:
        _PyBytes_Resize(&data, got + more)
        if data is NULL:
            raise MemoryError
        memcpy(PyBytes_AS_STRING_raw(data) + got, transport.ring._scratch, more)
        got += more
    elif got < size:
        _PyBytes_Resize(&data, got)
        if data is NULL:
            raise MemoryError
    transport._expect(got)
    return data


cdef int _decrypt_of "decrypt_of"(SSLProtocol tls, data) except -1:
    return tls.bytes_received(data)


cdef int _fill_of "fill_of"(_ProactorReadPipeTransport transport, buffer) except -1:
    return transport._receive_into(buffer)


cdef int _tell_of "tell_of"(reader, buffer) except -1:
    return tell_reader(reader, buffer)


cdef extern from *:
    int _try_to_read "read_of"(_ProactorBasePipeTransport) noexcept
    int _try_to_flush "flush_of"(_ProactorBasePipeTransport) noexcept
    PyObject* _try_to_receive "receive_of"(_ProactorReadPipeTransport) noexcept
    int _try_to_decrypt "decrypt_of"(SSLProtocol, object) noexcept
    int _try_to_fill "fill_of"(_ProactorReadPipeTransport, object) noexcept
    int _try_to_tell "tell_of"(object, object) noexcept

cdef Finalizer _finalizer = <Finalizer> _drop_of
cdef object _ANY_SIZE = -1


# ours: what isinstance() finds; differs[N2]
class _Transport(transports._FlowControlMixin, transports.Transport):
    """What a native transport is to isinstance()."""


# ours: the same of one for datagrams
class _DatagramTransport(transports._FlowControlMixin, transports.DatagramTransport):
    """What a native transport for datagrams is to isinstance()."""


# ours: getsockname(2) or getpeername(2), to be put into words later
cdef bytes _name_of(int fd, bint peer):
    cdef sockaddr_storage address
    cdef unsigned length = sizeof(address)
    cdef int result
    if peer:
        result = getpeername(fd, <sockaddr*> &address, &length)
    else:
        result = getsockname(fd, <sockaddr*> &address, &length)
    if result < 0:
        return None
    return PyBytes_FromStringAndSize(<char*> &address, min(length, <unsigned> sizeof(address)))


cdef object _in_words(bytes name):
    cdef sockaddr_storage* address
    if name is None:
        return None
    address = <sockaddr_storage*> PyBytes_AS_STRING(name)
    if PyBytes_GET_SIZE(name) == sizeof(address.ss_family):
        # Of a Unix socket without a name.
        return ''
    return format_address(address, <unsigned> PyBytes_GET_SIZE(name))


# ours: _set_socket_extra, of a dict
cdef object _ask_for_names(dict extra, sock):
    """As the stdlib's, of a socket that has to be asked itself."""
    extra['socket'] = trsock.TransportSocket(sock)
    try:
        extra['sockname'] = sock.getsockname()
    except OSError:
        extra['sockname'] = None
    if 'peername' not in extra:
        try:
            extra['peername'] = sock.getpeername()
        except OSError:
            extra['peername'] = None


# ours: sock.close(), of a socket of Python's own class by what it comes to in C
cdef int _close_socket(sock) except -1:
    if type(sock) is not _PlainSocket or not _closing_methods.are_the_stdlibs():
        sock.close()
        return 0
    sock._closed = True
    if sock._io_refs <= 0:
        _close_in_c(sock)
    return 0


# ours: Server._attach() and _detach(), by what they come to as long as they are the stdlib's
cdef bint _is_plain_server(server) except -1:
    return type(server) is _Server and _detach_takes_transport and _server_methods.are_the_stdlibs()


cdef int _attach(server, _ProactorBasePipeTransport transport) except -1:
    if not _detach_takes_transport:
        server._attach()
        return 0
    if _is_plain_server(server):
        clients = server._clients
        if type(clients) is Clients and server._sockets is not None:
            return (<Clients> clients).join(transport)
    server._attach(transport)
    return 0


cdef int _detach(server, _ProactorBasePipeTransport transport, Clients clients) except -1:
    """clients: of which it was one, if of any."""
    if not _detach_takes_transport:
        server._detach()
    # (Who waits for the server's end is woken by the last one.)
    elif clients is None or clients.is_empty() or not _is_plain_server(server):
        server._detach(transport)
    return 0


# ours: two Handles of call_soon()
cdef class _Beginning(ReadyHandle):
    """Stands in the loop's _ready twice: the protocol's connection_made() is called, then reading begins."""

    cdef _ProactorBasePipeTransport _transport
    cdef object _made            # connection_made(), until it is called
    cdef object _context         # of that call
    cdef object _read_context

    cdef int run(self) except -1:
        cdef _ProactorBasePipeTransport transport = self._transport
        if self._made is not None:
            made, self._made = self._made, None
            return run_callback(transport._loop, made, transport, self._context)
        try:
            transport._begin_reading(self._read_context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            report_callback(events.Handle(transport._loop_reading, (), transport._loop, self._read_context), exc)
        return 0

    @property
    def _callback(self):
        return self._transport._loop_reading if self._made is None else self._made

    @property
    def _args(self):
        return () if self._made is None else (self._transport,)

    def __repr__(self):
        return repr(events.Handle(self._callback, self._args, self._transport._loop, self._context))


# ours: a Handle of call_soon()
cdef class _Ending(ReadyHandle):
    """Stands in the loop's _ready, to call _call_connection_lost()."""

    cdef _ProactorBasePipeTransport _transport
    cdef object _loop
    cdef object _exc
    cdef object _context

    cdef int run(self) except -1:
        # The last reference, if nobody else has one.
        transport, self._transport = self._transport, None
        try:
            PyContext_Enter(self._context)
            try:
                (<_ProactorBasePipeTransport> transport)._lose_connection(self._exc)
            finally:
                PyContext_Exit(self._context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            report_callback(handle_of(self._loop, transport._call_connection_lost, self._exc, self._context), exc)
        return 0

    @property
    def _callback(self):
        return None if self._transport is None else self._transport._call_connection_lost

    @property
    def _args(self):
        return (self._exc,)

    def __repr__(self):
        return repr(handle_of(self._loop, self._callback, self._exc, self._context))


# stdlib: _ProactorBasePipeTransport
cdef class _ProactorBasePipeTransport:
    """Base class of native transports."""

    def __cinit__(self):
        drop_dict(self)
        self._max_size = _MAX_SIZE

    def __dealloc__(self):
        drop_dict(self)

    # stdlib: _ProactorBasePipeTransport.__init__
    def __init__(self, loop, sock, protocol, waiter=None,
                 extra=None, server=None, context=None):
        if not isinstance(loop, BaseEventLoop):
            raise TypeError(f"a native transport's loop must be an IouringProactorEventLoop, not {type(loop).__name__}")
        self.ring = loop._proactor._ring
        self._set_up(loop, sock, protocol, waiter, extra, server, context, 0, False)

    cdef int _set_up(self, loop, sock, protocol, waiter, extra, server, context, int family, bint is_tcp) except -1:
        """The rest of the constructor.  family, is_tcp: of a socket of which they are known; else 0, False."""
        cdef _Beginning beginning
        self._loop = loop
        self._sock = sock
        try:
            self._fd = fileno(sock)
        except (OSError, OverflowError, TypeError):
            # Whoever works on it complains of it, as on the reference tier.
            self._fd = -1
        self._plain = self._fd >= 0 and is_readable(sock) and number_of(sock) == self._fd and has_stdlib_methods(sock)
        self._is_tcp = self._plain and (is_tcp or not family and is_plain_tcp(self._fd))
        self._context = context
        self._high_water = _HIGH_WATER
        self._low_water = _LOW_WATER
        if type(extra) is bytes:
            # Of _Acceptor: the peer's raw address.
            self._peer = extra
            extra = None
        self._extra_given = extra
        # differs[N3]
        if family and self._plain:
            self._family = family
        elif self._plain and has_plain_addresses(sock):
            self._family = family_of(sock)
        if not self._family:
            self._extra_dict = {} if extra is None else extra
            self._extra_given = None
            _ask_for_names(self._extra_dict, sock)
        elif self._peer is not None:
            pass
        elif extra is None or 'peername' not in extra:
            self._peer = _name_of(self._fd, True)
        self.set_protocol(protocol)
        self._server = server
        if server is not None:
            _attach(server, self)
        if _is_plain(loop):
            beginning = _Beginning.__new__(_Beginning)
            beginning._transport = self
            beginning._made = protocol.connection_made
            if context is None:
                # Nothing that connection_made() sets in its own is seen by what is read.
                beginning._context = PyContext_CopyCurrent()
                beginning._read_context = PyContext_CopyCurrent()
            else:
                beginning._context = beginning._read_context = context
            (<BaseEventLoop> loop).add_ready(beginning)
            (<BaseEventLoop> loop).add_ready(beginning)
        else:
            loop.call_soon(protocol.connection_made, self, context=context)
            loop.call_soon(self._loop_reading, context=context)
        if waiter is not None:
            # Once connection_made() has been called, and reading has begun.
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None, context=context)
        return 0

    # stdlib: _ProactorBasePipeTransport.__repr__
    def __repr__(self):
        info = [type(self).__name__]
        if self._sock is None:
            info.append('closed')
            info.append(f'fd={self._fd}')
        else:
            if self._closing:
                info.append('closing')
            info.append(f'fd={self._sock.fileno()}')
            info.append('read=polling' if self._read_key else 'read=idle')
            state = 'idle' if self._write_handle is None else 'polling'
            info.append(f'write=<{state}, bufsize={self._count_unsent()}>')
        return '<{}>'.format(' '.join(info))

    # stdlib: _ProactorBasePipeTransport.set_protocol
    def set_protocol(self, protocol):
        self._protocol = protocol

    # stdlib: _ProactorBasePipeTransport.get_protocol
    def get_protocol(self):
        return self._protocol

    # stdlib: _ProactorBasePipeTransport.is_closing
    def is_closing(self):
        return self._closing

    # stdlib: _ProactorBasePipeTransport.close
    def close(self):
        if self._closing:
            return
        # A closed loop refuses what follows; a second close() is nothing then.
        self._closing = self._loop._closed
        # T11
        if self._flush() and not self._conn_lost:
            # Scheduled first: a second close(), behind one that was interrupted, does no harm.
            self._end_soon(None)
            self._conn_lost += 1
        self._closing = True
        self._stop_reading()

    # ours: _ProactorBasePipeTransport.__del__, which a class of C calls without an argument
    def __del__(self):
        run_finalizer(_finalizer, self)

    cdef int _drop(self) except -1:
        self.leave()
        if self._sock is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._sock.close()
            # T17
            if _detach_takes_transport and self._server is not None:
                self._server._detach(self)
        return 0

    # stdlib: _ProactorBasePipeTransport._fatal_error
    def _fatal_error(self, exc, message='Fatal error on pipe transport'):
        try:
            if isinstance(exc, OSError):
                if self._loop._debug:
                    logger.debug("%r: %s", self, message, exc_info=True)
            else:
                self._tell_handler(message, exc)
        finally:
            self._force_close(exc)

    # stdlib: _ProactorBasePipeTransport._force_close
    def _force_close(self, exc):
        if self._conn_lost:
            return
        # T16
        self._flush()
        if self._conn_lost:
            return
        self._stop_writing()
        self._drop_unsent()
        # T19
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._conn_lost += self._loop.is_closed()
        self._end_soon(exc)
        self._conn_lost += 1
        self._closing = True
        self._stop_reading()

    # stdlib: _ProactorBasePipeTransport._call_connection_lost
    def _call_connection_lost(self, exc):
        self._lose_connection(exc)

    cdef int _lose_connection(self, exc) except -1:
        if self._called_connection_lost:
            return 0
        try:
            self._protocol.connection_lost(exc)
        finally:
            # A close() that was interrupted has not come to it, and may be called again.
            self._called_connection_lost = self._closing = True
            self._conn_lost = max(self._conn_lost, 1)
            self._stop_reading()
            server, self._server = self._server, None
            # T3
            self._protocol = None
            self._loop = None
            clients = self._clients
            self.leave()
            self._drop_unsent()
            # differs[N3]
            if not self._is_forgotten():
                self._keep_names()
            sock, self._sock = self._sock, None
            # An interrupt in what is called here, which is Python, keeps none of the rest from happening.
            try:
                # T4
                if not self._plain:
                    self.ring.settle(sock)
                elif number_of(sock) >= 0:
                    self.ring._settle(number_of(sock))
                _close_socket(sock)
                self._stop_writing()
            finally:
                if server is not None:
                    _detach(server, self, clients)
        return 0

    # stdlib: _ProactorBasePipeTransport.get_write_buffer_size
    def get_write_buffer_size(self):
        return self._count_unsent()

    # -- what the stdlib's classes have from transports.py --

    # stdlib: _FlowControlMixin._maybe_pause_protocol
    def _maybe_pause_protocol(self):
        self._pause_if_full()

    cdef int _pause_if_full(self) except -1:
        # (Who asks for the size has sent what was gathered.)
        if self._protocol_paused or self.get_write_buffer_size() <= self._high_water:
            return 0
        self._protocol_paused = True
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._tell_handler('protocol.pause_writing() failed', exc)
        return 0

    # stdlib: _FlowControlMixin._maybe_resume_protocol
    def _maybe_resume_protocol(self):
        self._resume_if_drained()

    cdef int _resume_if_drained(self) except -1:
        if not self._protocol_paused or self.get_write_buffer_size() > self._low_water:
            return 0
        self._protocol_paused = False
        try:
            self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._tell_handler('protocol.resume_writing() failed', exc)
        return 0

    # stdlib: _FlowControlMixin.get_write_buffer_limits
    def get_write_buffer_limits(self):
        return (self._low_water, self._high_water)

    # stdlib: _FlowControlMixin._set_write_buffer_limits
    def _set_write_buffer_limits(self, high=None, low=None):
        if high is None:
            high = 4 * low if low is not None else _HIGH_WATER
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f'high ({high!r}) must be >= low ({low!r}) must be >= 0')
        self._high_water = high
        self._low_water = low

    # stdlib: _FlowControlMixin.set_write_buffer_limits
    def set_write_buffer_limits(self, high=None, low=None):
        """Set the numbers of bytes at which the protocol is told to pause writing, and to resume.

        Raises ValueError unless high >= low >= 0.  Source: asyncio.WriteTransport.
        """
        self._set_write_buffer_limits(high=high, low=low)
        self._pause_if_full()

    # stdlib: BaseTransport.get_extra_info
    def get_extra_info(self, name, default=None):
        """Return what is known of the connection by this name.  Source: asyncio.BaseTransport."""
        return self._make_extra().get(name, default)

    # -- ours: no counterpart in the stdlib's class --

    cdef int _tell_handler(self, message, exc) except -1:
        self._loop.call_exception_handler({
            'message': message,
            'exception': exc,
            'transport': self,
            'protocol': self._protocol,
        })
        return 0

    @property
    def __class__(self):
        # differs[N2]
        return _Transport

    @property
    def max_size(self):
        """The most bytes that one read brings. It may be set: TypeError for what is no integer, ValueError for one below 1."""
        return self._max_size

    @max_size.setter
    def max_size(self, value):
        size = operator.index(value)
        if size < 1:
            raise ValueError(f'max_size must be a positive number of bytes, not {value!r}')
        self._max_size = min(size, INT_MAX)

    @property
    def _sock_fd(self):
        # As the selector loop's transports have it: it stays when the transport is closed.
        return self._fd

    @property
    def _extra(self):
        return self._make_extra()

    cdef dict _make_extra(self):
        # differs[N3]
        cdef dict extra
        if self._extra_dict is not None:
            return self._extra_dict
        extra = {} if self._extra_given is None else self._extra_given
        self._extra_given = None
        self._extra_dict = extra
        sock = self._closed_sock if self._sock is None else self._sock
        if sock is not None:
            extra['socket'] = trsock.TransportSocket(sock)
        # (Whoever has the number of a closed one now is a stranger.)
        extra['sockname'] = _in_words(self._own if self._is_lost() else _name_of(self._fd, False))
        if 'peername' not in extra:
            extra['peername'] = _in_words(self._peer)
        return extra

    cdef bint _is_forgotten(self) except -1:
        """True when nobody but the _Ending that is run has a reference to it any more: what for should it keep a name?"""
        return Py_REFCNT(self) == 1 and not (had_weakrefs(self) and _weakref.getweakrefcount(self))

    cdef int _end_soon(self, exc) except -1:
        """Have _call_connection_lost() called, as by call_soon()."""
        cdef _Ending ending
        loop = self._loop
        if not _is_plain(loop):
            loop.call_soon(self._call_connection_lost, exc, context=self._context)
            return 0
        ending = _Ending.__new__(_Ending)
        ending._transport = self
        ending._loop = loop
        ending._exc = exc
        ending._context = PyContext_CopyCurrent() if self._context is None else self._context
        (<BaseEventLoop> loop).add_ready(ending)
        return 0

    cdef int _begin_reading(self, context) except -1:
        """Do what _loop_reading() does, in a context of its own or (None) the one that is entered."""
        if not self._paused and not self._closing:
            self._start_reading(context)
        return 0

    cdef int _keep_names(self) except -1:
        if self._extra_dict is not None:
            return 0
        self._closed_sock = self._sock
        if not self._is_lost():
            self._own = _name_of(self._fd, False)
        return 0

    cdef bint _lost(self):
        return self._is_lost()

    # Reading is level-triggered, as on the selector loop: one poll is queued again before anybody is told.
    # (The ring has held the file open, so what has to be asked in Python is asked when it is read.)
    cdef bint complete(self, const Completion* completion) except -1:
        if completion.key != self._read_key:
            self.ring.dismiss(completion.key)
        elif (completion.error or self._sock is None or (self._plain and self._is_lost())
                or not self.ring.again(completion.key, self._in_bulk)):
            # A file that is closed is never ready again.
            self._read_key = 0
            self.ring.dismiss(completion.key)
        elif self._read_handle is not None:
            self._loop.add_ready(self._read_handle)
        else:
            if completion.result & _ENDS:
                self._ends = True
            self._kept = completion.kept
            self._enter_doubt(completion.key)
            # Whatever became of the last time: an interrupt may have come before it was run.
            self._due = True
            self._loop.add_ready(self)
        return False

    cdef int run(self) except -1:
        return self._run_reading()

    @cython.final
    cdef int _run_reading(self) except -1:
        if not self._due:
            return 0
        self._due = False
        if not self._kept:
            return self._run_in(self._read_context, False)
        # Until a read has found the end of what there is; whatever keeps it from that, it comes again.
        self._more = True
        try:
            self._run_in(self._read_context, False)
        finally:
            if self._more and self._read_key:
                self.ring.ask_again(self._read_key)
        return 0

    @cython.final
    cdef int _note_read(self, int64_t got, int64_t size) noexcept:
        """A read that has asked for so much has got so much, or -errno."""
        if got == -EAGAIN or 0 < got < size and not self._ends:
            self._more = False
        if got > _BULK:
            self._in_bulk = True
        return 0

    @cython.final
    cdef int _enter_doubt(self, uint64_t key) except -1:
        """It is told to read, by a poll that may not tell it again: the ring looks whether that was all."""
        if self._kept and not self._doubted:
            self._doubted = True
            self.ring.doubt(key)
        return 0

    cdef int tell_again(self, uint64_t key) except -1:
        if key != self._read_key:
            return 0
        # Reading may go on for longer than the doubt in which it began.
        self._enter_doubt(key)
        # (Not if it was told in this turn already.)
        if not self._due:
            self._due = True
            self._loop.add_ready(self)
        return 0

    cdef int end_doubt(self) except -1:
        # (That it stands in _ready may be over, without it.)
        self._doubted = self._due = False
        return 0

    @cython.final
    cdef int _run_in(self, context, bint flush) except -1:
        """Read, or tell of a send that has failed, as a Handle would run it."""
        cdef int failed
        loop = self._loop
        # (Which fails where the program drives the loop out of a callback of this very transport.)
        failed = enter_context(context)
        if not failed:
            failed = _try_to_flush(self) if flush else _try_to_read(self)
            failed |= exit_context(context)
        if not failed:
            return 0
        try:
            raise_pending()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            # As a Handle tells it.
            handle = events.Handle(self._flush_failed if flush else self._read_ready, (), loop, context)
            report_callback(handle, exc)
        return 0

    cdef int _fail(self, message) except -1:
        """End the connection for the exception that is set."""
        try:
            raise_pending()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, message)
        return 0

    @property
    def _callback(self):
        return self._read_ready

    @property
    def _args(self):
        return ()

    def _read_ready(self):
        self._read()

    def _flush_failed(self):
        self._flush()

    cdef int _read(self) except -1:
        raise NotImplementedError

    cdef int _pause(self) except -1:
        if self._closing or self._paused:
            return 0
        self._paused = True
        self._stop_reading()
        if self._loop._debug:
            logger.debug("%r pauses reading", self)
        return 0

    cdef int _resume(self) except -1:
        if self._closing or not self._paused:
            return 0
        self._paused = False
        self._start_reading()
        if self._loop._debug:
            logger.debug("%r resumes reading", self)
        return 0

    cdef int _start_reading(self, context=None) except -1:
        # T18
        self._check_loop()
        # T2
        self._stop_reading()
        # As a Handle takes it.
        if context is None:
            context = PyContext_CopyCurrent() if self._context is None else self._context
        self._read_context = context
        if self._loop._debug or not self._loop.has_plain_handles():
            # So that it is told when it is slow, and to whoever has changed what a Handle does.
            self._read_handle = events.Handle(self._read_ready, (), self._loop, self._read_context)
        if self._fd < 0:
            # It says what is wrong with it.
            fileno(self._sock)
        if self._is_lost():
            raise os_error(-EBADF)
        self._doubted = False
        # (In debug mode a Handle is run, of which nobody knows whether it was.)
        self._read_key = self.ring.start_poll(
            self, self._fd, _EVENTS if self._is_tcp and self._read_handle is None else 0)
        return 0

    cdef int _stop_reading(self) except -1:
        cdef uint64_t key = self._read_key
        handle, self._read_handle = self._read_handle, None
        self._due = False
        self._read_context = None
        if key:
            self._read_key = 0
            self.ring.cancel(key)
        if handle is not None:
            # Last: it is Python, and may be interrupted.
            handle.cancel()
        return 0

    cdef int _check_loop(self) except -1:
        """Refuse a closed loop.  (Of one that is open no Python code is asked, in which an interrupt could come.)"""
        if self._loop._closed:
            self._loop._check_closed()
        return 0

    cdef int _start_writing(self) except -1:
        if self._write_handle is None:
            # T18
            self._check_loop()
            if self._is_lost():
                # The user has closed the socket since there was no room.
                self._drop_unsent()
                self._fatal_error(os_error(-EBADF), 'Fatal write error on socket transport')
                return 0
            handle = events.Handle(self._write_ready, (), self._loop, self._context)
            self._write_wait = self._loop._proactor._run_when_ready(self._sock, POLLOUT, handle)
            self._write_handle = handle
        return 0

    cdef int _stop_writing(self) except -1:
        handle, self._write_handle = self._write_handle, None
        wait, self._write_wait = self._write_wait, None
        if handle is not None:
            wait.cancel()
            # Last, as above.
            handle.cancel()
        return 0

    def _write_ready(self):
        raise NotImplementedError

    cdef bint _flush(self) except -1:
        """Send what was gathered now; true if nothing is left to send."""
        return True

    cdef int _send_regardless(self) noexcept:
        """Send what was gathered, whatever comes of it: a read has taken the error that the socket tells once."""
        return 0

    cdef int _drop_unsent(self) except -1:
        return 0

    cdef object _count_unsent(self):
        return 0


# stdlib: _ProactorReadPipeTransport
cdef class _ProactorReadPipeTransport(_ProactorBasePipeTransport):
    """Reading from a stream, as the selector loop's transport does it.  T15 throughout."""

    # stdlib: _ProactorReadPipeTransport.is_reading
    def is_reading(self):
        return not self._paused and not self._closing

    # stdlib: _ProactorReadPipeTransport.pause_reading
    def pause_reading(self):
        self._pause()

    # stdlib: _ProactorReadPipeTransport.resume_reading
    def resume_reading(self):
        self._resume()

    # stdlib: _ProactorReadPipeTransport._eof_received
    def _eof_received(self):
        if self._loop._debug:
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal error: protocol.eof_received() call failed.')
            return
        if not keep_open:
            self.close()
        # The connection stays open, to be written to; the end would be told in each tick.
        if not self._closing:
            self._stop_reading()

    # stdlib: _ProactorReadPipeTransport._loop_reading
    def _loop_reading(self, fut=None):
        self._begin_reading(None)

    # -- ours: no counterpart in the stdlib's class --

    def set_protocol(self, protocol):
        self._protocol = protocol
        self._tls = protocol if type(protocol) is SSLProtocol else None
        self._buffered = self._tls is None and isinstance(protocol, _BufferedProtocol)

    cdef int _read(self) except -1:
        cdef PyObject* buffer = NULL
        cdef PyObject* received
        if self._conn_lost or self._closing:
            # The close() was interrupted.
            self._stop_reading()
            return 0
        if self._buffered and not self._read_error:
            return self._read_into_protocol()
        if type(self._protocol) is _StreamReaderProtocol and self._plain and not self._read_error:
            reader = reader_of(self._protocol, &buffer)
            if reader is not None:
                return self._read_into_reader(reader, <object> buffer)
        received = _try_to_receive(self)
        if received is NULL:
            return self._reading_failed(0)
        data = steal(received)
        if data is None:
            return 0
        if not PyBytes_GET_SIZE(data) if type(data) is bytes else not data:
            self._eof_received()
            return 0
        # (Which may end with another protocol in its place.)
        tls = self._tls
        if tls is not None:
            if _try_to_decrypt(tls, data) < 0:
                return self._fail('Fatal error: protocol.buffer_updated() call failed.')
            return 0
        received = call_method(self._protocol, 'data_received', data)
        if received is NULL:
            return self._fail('Fatal error: protocol.data_received() call failed.')
        steal(received)
        return 0

    cdef object _receive_its_way(self):
        """Receive by the methods of a socket of the program's own: by that which the selector loop's transport would call."""
        if self._tls is None:
            received = self._loop._proactor._receive(self._sock, self._max_size)
            # (As any other false one it is an end there; here None says that there was nothing.)
            return b'' if received is None else received
        buffer = bytearray(self._max_size)
        got = self._sock.recv_into(memoryview(buffer))
        return bytes(buffer[:got])

    cdef int _reading_failed(self, int64_t got) except -1:
        """End the connection for -errno, or (0) the exception that is set, unless it says that there was nothing to read."""
        try:
            if got:
                raise os_error(got)
            raise_pending()
        except (BlockingIOError, InterruptedError):
            return 0
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._send_regardless()
            self._fatal_error(exc, 'Fatal read error on socket transport')
        return 0

    @cython.final
    cdef Py_ssize_t _limit_read(self, Py_ssize_t size) noexcept:
        """Return how many bytes a read may bring: of a bulk fewer, beside others whose messages are small and wait for it."""
        loop = self._loop
        if (self._expected >= _LARGE and loop._brief_reader is not NULL and loop._brief_reader != <void*> self
                and loop._turns - loop._brief_turn < _BESIDE_TURNS):
            return min(size, _LARGEST_BESIDE)
        return size

    @cython.final
    cdef int _expect(self, int64_t got) noexcept:
        """Go by what a read has brought. Up at once, down slowly: a short one among large ones changes nothing."""
        if self._expected < _LARGE:
            self._expected = <int> got
            if got < _LARGE:
                self._loop._brief_reader = <void*> self
                self._loop._brief_turn = self._loop._turns
        else:
            self._expected = <int> (got if got > self._expected else (3 * self._expected + got) // 4)
        return 0

    @cython.final
    cdef int _read_into_reader(self, reader, buffer) except -1:
        """Receive into a StreamReader's buffer, behind what is there, and have it told."""
        cdef Py_ssize_t place = PyByteArray_GET_SIZE(buffer)
        cdef int got = _try_to_fill(self, buffer)
        if got < 0:
            return self._reading_failed(0)
        if not got:
            return 0
        if PyByteArray_GET_SIZE(buffer) == place:
            self._eof_received()
            return 0
        if _try_to_tell(reader, buffer) < 0:
            return self._fail('Fatal error: protocol.data_received() call failed.')
        return 0

    @cython.final
    cdef bint _receive_into(self, buffer) except -1:
        """Add to a bytearray what has arrived, at most max_size bytes; false if nothing has."""
        cdef Py_ssize_t place = PyByteArray_GET_SIZE(buffer)
        cdef Py_ssize_t limit = self._limit_read(min(<Py_ssize_t> self._max_size, self.ring._scratch_size))
        cdef Py_ssize_t size = 0
        cdef int64_t got = 0
        cdef int64_t more = 0
        if self._is_lost():
            raise os_error(-EBADF)
        # As _receive(): what is large goes straight to where it shall stand.
        if self._expected >= _LARGE:
            size = min(self._expected + _MARGIN, min(_LARGEST, limit))
            PyByteArray_Resize(buffer, place + size)
            got = self.ring.receive(self._fd, PyByteArray_AS_STRING(buffer) + place, size)
            self._note_read(got, size)
            if got < size:
                PyByteArray_Resize(buffer, place + max(got, 0))
        if got == size and size < _LARGEST and size < limit:
            more = self.ring.receive(self._fd, self.ring._scratch, limit - size)
            self._note_read(more, limit - size)
            if size == 0:
                got = more
        if got == -EAGAIN:
            return False
        if got < 0:
            raise os_error(got)
        if size and more < 0 and more != -EAGAIN:
            # (As there.)
            self._read_error = <int> -more
            self.ring.ask_again(self._read_key)
        if more > 0:
            PyByteArray_Resize(buffer, place + size + more)
            memcpy(PyByteArray_AS_STRING(buffer) + place + size, self.ring._scratch, more)
            got = size + more
        self._expect(got)
        return True

    @cython.final
    cdef int _read_into_protocol(self) except -1:
        cdef Py_buffer view
        cdef PyObject* result = call_method(self._protocol, 'get_buffer', _ANY_SIZE)
        cdef int64_t got
        if result is NULL:
            return self._fail('Fatal error: protocol.get_buffer() call failed.')
        buf = steal(result)
        # (What it has offered may be of a connection that it has ended for good.)
        if type(buf) is bytearray and self._plain and PyByteArray_GET_SIZE(buf) and self._sock is not None:
            got = self._receive_at(PyByteArray_AS_STRING(buf), PyByteArray_GET_SIZE(buf))
        elif not self._has_room(buf) or self._sock is None:
            return 0
        elif self._plain and _get_writable(buf, &view):
            got = self._receive_at(view.buf, view.len)
            PyBuffer_Release(&view)
        else:
            try:
                # It says itself what is wrong with the buffer.
                got = self._sock.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                self._more = False
                return 0
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, 'Fatal read error on socket transport')
                return 0
        if got == -EAGAIN:
            return 0
        if got < 0:
            return self._reading_failed(got)
        if got == 0:
            self._eof_received()
            return 0
        result = call_method(self._protocol, 'buffer_updated', got)
        if result is NULL:
            return self._fail('Fatal error: protocol.buffer_updated() call failed.')
        steal(result)
        return 0

    cdef bint _has_room(self, buf) except -1:
        """Tell whether get_buffer() has returned something to receive into; end the connection if not."""
        try:
            if not len(buf):
                raise RuntimeError('get_buffer() returned an empty buffer')
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal error: protocol.get_buffer() call failed.')
            return False
        return True

    @cython.final
    cdef int64_t _receive_at(self, void* start, Py_ssize_t size):
        cdef int64_t got = -EBADF
        # (A buffer may have a method in Python, which may do anything.)
        if not self._is_lost():
            size = self._limit_read(size)
            got = self.ring.receive(self._fd, start, size)
        self._note_read(got, size)
        if got > 0:
            self._expect(got)
        return got


# stdlib: _ProactorBaseWritePipeTransport
cdef class _ProactorBaseWritePipeTransport(_ProactorReadPipeTransport):
    """Writing to a stream.  T16, differs[N1] throughout.

    What is small is gathered and leaves at the end of the tick (_gathered).  What is not, or has a
    consequence, is sent at once, and what there is no room for waits until there is (_buffer).
    """

    _start_tls_compatible = True

    def __cinit__(self):
        self._gather_limit = _gather_all

    # stdlib: _ProactorBaseWritePipeTransport.write
    def write(self, data):
        """Send data some time, behind what was written before.  Source: asyncio.WriteTransport."""
        cdef Py_ssize_t size
        if type(data) is not bytes and type(data) is not bytearray and type(data) is not memoryview:
            if not isinstance(data, (bytes, bytearray)):
                raise TypeError(f'data argument must be a bytes-like object, '
                                f'not {type(data).__name__!r}')
            # Now: methods of the program's class may do anything, to this transport as well. (And what its
            # len() says is not what C may read.)
            _ProactorBaseWritePipeTransport.write(self, PyBytes_FromObject(data) if data else b'')
            return
        if self._eof_written:
            raise RuntimeError('Cannot call write() after write_eof()')
        if self._empty_waiter is not None:
            raise RuntimeError('unable to write; sendfile is in progress')
        if type(data) is bytes:
            size = PyBytes_GET_SIZE(data)
        elif type(data) is bytearray:
            size = PyByteArray_GET_SIZE(data)
        else:
            size = data.nbytes if data else 0
        if not size:
            return

        if self._conn_lost:
            if self._conn_lost >= _LOG_THRESHOLD:
                logger.warning('socket.send() raised exception.')
            self._conn_lost += 1
            return

        if self._buffer:
            # The program may change what it has written.
            self._buffer.append(PyBytes_FromObject(data))
            self._start_writing()
            self._pause_if_full()
            return
        if self._send_error:
            self._flush()
            return
        if self._gathered is not None:
            if self._gather(data, size):
                return
            if not self._flush():
                if not self._conn_lost:
                    self._buffer.append(PyBytes_FromObject(data))
                    self._pause_if_full()
                return
            if self._conn_lost:
                return
        elif (size <= _gather_one and size <= self._gather_limit and not self._closing
                and self._plain and self._loop._gathers_writes and not self.ring.is_elsewhere()
                and not self.ring._is_forked() and self.ring.pays_to_gather() and not self._is_lost()):
            if type(data) is bytes:
                self._begin_gathering(data)
            else:
                self._begin_gathering(PyBytes_FromObject(data))
            return
        self._send(data, size)
        if self._buffer:
            self._pause_if_full()

    # stdlib: WriteTransport.writelines
    def writelines(self, list_of_data):
        """Send the pieces behind one another, as one write.  Source: asyncio.WriteTransport."""
        if self._eof_written:
            raise RuntimeError('Cannot call writelines() after write_eof()')
        if self._empty_waiter is not None:
            raise RuntimeError('unable to writelines; sendfile is in progress')
        if list_of_data:
            # (Not by a write() of the program's.)
            _ProactorBaseWritePipeTransport.write(self, stdlib_transports.join_pieces(list_of_data))

    # stdlib: _ProactorBaseWritePipeTransport.can_write_eof
    def can_write_eof(self):
        return True

    # stdlib: _ProactorBaseWritePipeTransport.write_eof
    def write_eof(self):
        self.close()

    # stdlib: _ProactorBaseWritePipeTransport.abort
    def abort(self):
        """Close at once; what has not been sent is lost.  Source: asyncio.WriteTransport."""
        self._force_close(None)

    # stdlib: _ProactorBaseWritePipeTransport._make_empty_waiter
    def _make_empty_waiter(self):
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        if self._flush() and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    # stdlib: _ProactorBaseWritePipeTransport._reset_empty_waiter
    def _reset_empty_waiter(self):
        self._empty_waiter = None

    # -- ours: no counterpart in the stdlib's class --

    def get_write_buffer_size(self):
        """Return the number of bytes that have found no room yet.  Source: asyncio.WriteTransport."""
        # T14
        if self._gathered is not None or self._send_error:
            self._flush()
        return self._count_unsent()

    def _set_write_buffer_limits(self, high=None, low=None):
        _ProactorBasePipeTransport._set_write_buffer_limits(self, high, low)
        # (Any number will do for a limit.)
        self._gather_limit = _gather_all if self._high_water >= _gather_all else int(self._high_water)

    cdef int run(self) except -1:
        if (self._send_error or self._buffer and self._write_handle is None) and not self._conn_lost:
            try:
                self._run_in(self._write_context if self._context is None else self._context, True)
            except:
                # An interrupt: nobody else would have it wait for room.
                if self._loop is not None:
                    self._loop.add_ready(self)
                raise
        return self._run_reading()

    @cython.final
    cdef int _begin_gathering(self, bytes data) except -1:
        """Have data leave with the tick."""
        if self._context is None:
            # As a Handle of the selector loop has it: who is told of a failure is told in there.
            self._write_context = PyContext_CopyCurrent()
        self.ring.send_soon(self)
        self._gathered = data
        return 0

    @cython.final
    cdef bint _gather(self, data, Py_ssize_t size) except -1:
        """Add to what leaves with the tick; false if it would be too much."""
        cdef object gathered = self._gathered
        cdef Py_ssize_t place
        cdef bint first = type(gathered) is bytes
        place = PyBytes_GET_SIZE(gathered) if first else PyByteArray_GET_SIZE(gathered)
        if place + size > self._gather_limit or self.ring.is_elsewhere():
            return False
        if type(data) is not bytes:
            data = PyBytes_FromObject(data)
        # This may fail: then nothing was added.
        if first:
            whole = PyByteArray_FromStringAndSize(NULL, place + size)
            memcpy(PyByteArray_AS_STRING(whole), PyBytes_AS_STRING(gathered), place)
            self._gathered = gathered = whole
        else:
            PyByteArray_Resize(gathered, place + size)
        memcpy(PyByteArray_AS_STRING(gathered) + place, PyBytes_AS_STRING(data), size)
        self.ring.pays_to_gather()
        return True

    cdef bint send_gathered(self) except -1:
        cdef int64_t sent
        cdef Py_ssize_t size = 0
        cdef const char* start
        data = self._gathered
        if data is None:
            return False                  # somebody has sent it before
        if type(data) is bytes:
            start, size = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        else:
            start, size = PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data)
        # The user may have closed the socket since.
        sent = -EBADF if self._is_lost() else self.ring.send(self._fd, start, size)
        self._gathered = None
        if sent == size:
            return False
        # What is to be done now may run Python code: run() does it.
        if sent >= 0 or sent == -EAGAIN:
            try:
                self._buffer = collections.deque((memoryview(data)[max(sent, 0):],))
            except MemoryError:
                sent = -ENOMEM
        if sent < 0 and sent != -EAGAIN:
            self._send_error = <int> -sent
        self._loop.add_ready(self)
        return True

    cdef int _send_regardless(self) noexcept:
        if self._gathered is not None and not self.ring._is_forked() and not self._is_lost():
            # (No SIGPIPE: it is a send that the selector loop has made before.)
            if type(self._gathered) is bytes:
                c_send(self._fd, PyBytes_AS_STRING(self._gathered), PyBytes_GET_SIZE(self._gathered),
                       MSG_DONTWAIT | MSG_NOSIGNAL)
            else:
                c_send(self._fd, PyByteArray_AS_STRING(self._gathered), PyByteArray_GET_SIZE(self._gathered),
                       MSG_DONTWAIT | MSG_NOSIGNAL)
        self._gathered = None
        return 0

    cdef object _count_unsent(self):
        size = 0 if self._gathered is None else len(self._gathered)
        if self._buffer:
            size += sum(map(len, self._buffer))
        return size

    cdef bint _flush(self) except -1:
        data, self._gathered = self._gathered, None
        # (In a forked child it is the parent's.)
        if data is not None and not self.ring._is_forked():
            self._send(data, len(data))
        if self._send_error:
            error = os_error(-self._send_error)
            self._send_error = 0
            self._fatal_error(error, 'Fatal write error on socket transport')
        if self._buffer:
            self._start_writing()
            return False
        return True

    @cython.final
    cdef int _send(self, data, Py_ssize_t size) except -1:
        """Send what there is room for; the rest waits for some."""
        cdef int64_t sent
        if type(data) is bytes and self._plain and not self._is_lost():
            sent = self.ring.send(self._fd, PyBytes_AS_STRING(data), size)
            if sent < 0 and sent != -EAGAIN:
                self._fatal_error(os_error(sent), 'Fatal write error on socket transport')
                return 0
        else:
            sent = self._send_unusual(data)
            if self._conn_lost:
                return 0
        if sent < 0:
            sent = 0
        if sent < size:
            # The program may change what it has written.
            rest = memoryview(data if type(data) is bytes else bytes(data))[sent:]
            if self._buffer:
                self._buffer.appendleft(rest)
            else:
                self._buffer = collections.deque((rest,))
            try:
                # Last: who is interrupted here has lost nothing.
                self._start_writing()
            except RuntimeError:
                # T18
                self._buffer = None
                raise
        return 0

    cdef int64_t _send_unusual(self, data) except? -2:
        """The same of other data than bytes, or by the socket itself: the number of bytes, or -EAGAIN."""
        cdef Py_buffer view
        cdef int64_t sent
        try:
            if not self._plain or self._is_lost():
                return self._sock.send(data)
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            sent = self.ring.send(self._fd, view.buf, view.len)
            PyBuffer_Release(&view)
            if sent < 0:
                raise os_error(sent)
            return sent
        except (BlockingIOError, InterruptedError):
            pass
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal write error on socket transport')
        return -EAGAIN

    def _write_ready(self):
        """Send what waited for room, as the selector loop's transport does."""
        if self._conn_lost:
            return
        if self._gathered is not None or self._send_error:
            # What stands behind one that has failed is not sent.
            self._flush()
            if self._conn_lost:
                return
        if self._buffer:
            self._send_buffer()
            if self._conn_lost:
                return
        self._resume_if_drained()  # It may write.
        if self._buffer or self._conn_lost:
            return
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._closing:
            self._lose_connection(None)
            return
        if self._eof_written:
            self._sock.shutdown(socket.SHUT_WR)
        # Last: whatever an interrupt has left undone above comes again.
        self._buffer = None
        self._stop_writing()

    cdef int _send_buffer(self) except -1:
        """Send of the buffer what there is room for."""
        buffer = self._buffer
        try:
            send_pieces(self._sock, buffer)
        except (BlockingIOError, InterruptedError):
            return 0
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._buffer = None
            self._fatal_error(exc, 'Fatal write error on socket transport')
        return 0

    cdef int _drop_unsent(self) except -1:
        self._gathered = None
        self._send_error = 0
        self._write_context = None
        self._buffer = None
        return 0


# stdlib: _ProactorDatagramTransport
cdef class _ProactorDatagramTransport(_ProactorBasePipeTransport):
    """Transport for datagrams.  T5 throughout."""

    # What the stdlib's sendto() looks at: nothing is ever left to it.
    _write_fut = True
    _header_size = HEADER_SIZE

    # stdlib: _ProactorDatagramTransport.__init__
    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        self._address = address
        self._buffer = collections.deque()
        _ProactorBasePipeTransport.__init__(self, loop, sock, protocol, waiter, extra)
        # (Of a name that the program has given, the socket need not know.)
        self._connected = bool(address is not None or _in_words(self._peer)
                               or (extra and extra.get('peername'))
                               or (self._extra_dict is not None and self._extra_dict.get('peername')))

    # stdlib: _ProactorDatagramTransport.get_write_buffer_size
    def get_write_buffer_size(self):
        """Return the number of bytes that have found no room yet.  Source: asyncio.DatagramTransport."""
        return self._buffer_size

    # stdlib: _ProactorDatagramTransport.abort
    def abort(self):
        """Close at once; what has not been sent is lost.  Source: asyncio.DatagramTransport."""
        self._force_close(None)

    # stdlib: _ProactorDatagramTransport.sendto
    def sendto(self, data, addr=None):
        """Send a datagram, to addr or to the one peer.  Source: asyncio.DatagramTransport."""
        if type(data) is not bytes:
            data = stdlib_transports.check_datagram(data)
        if self._sock is None:
            return                        # closed: there is nowhere to send to
        # What is the rule, in short; all else is asked of the stdlib's method.
        if (data and not self._conn_lost and not self._buffer
                and self._address is None and self._plain and not self._is_lost()
                and self._send_now(data, addr)):
            return
        # It checks and queues; what it would do at once is done below.
        _stdlib_sendto(self, data, addr)
        if not self._flush():
            self._pause_if_full()

    # stdlib: _ProactorDatagramTransport._loop_reading
    def _loop_reading(self, fut=None):
        self._begin_reading(None)

    # -- ours: no counterpart in the stdlib's class --

    @property
    def __class__(self):
        # differs[N2]
        return _DatagramTransport

    # What asyncio.Transport has besides, which the stdlib's is one of.

    def write(self, data):
        raise NotImplementedError

    def writelines(self, list_of_data):
        self.write(b''.join(list_of_data))

    def write_eof(self):
        raise NotImplementedError

    def can_write_eof(self):
        raise NotImplementedError

    def _maybe_pause_protocol(self):
        # The stdlib's sendto() would: what is being queued may leave at once.
        pass

    def is_reading(self):
        return not self._paused and not self._closing

    def pause_reading(self):
        self._pause()

    def resume_reading(self):
        self._resume()

    cdef bint _send_now(self, data, addr) except -1:
        """Send one of bytes; false where there is no room for it, or its address is no plain one."""
        cdef sockaddr_storage address
        cdef unsigned length = 0
        cdef int64_t sent
        if not self._connected:
            length = self.ring.addresses().parse(self._family, addr, &address)
            if not length:
                return False
            # As socket.sendto() does.
            if PySys_Audit("socket.sendto", "OO", <PyObject*> self._sock, <PyObject*> addr) < 0:
                self._fail('Fatal write error on datagram transport')
                return True
            # (Which may have run anything.)
            if self._conn_lost or self._is_lost():
                return False
        sent = self.ring.sendto(self._fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &address, length)
        if sent == -EAGAIN:
            return False
        if sent < 0:
            # Once told, an error of an earlier one is gone from the socket.
            self._protocol.error_received(os_error(sent))
        return True

    cdef int _read(self) except -1:
        # (What the method of a socket of the program's own does when it is called in vain is not known.)
        cdef int count = _DATAGRAMS if self._plain else 1
        # differs[N5]
        while count and not self._conn_lost and not self._closing and not self._paused:
            count -= 1
            if not self._read_one():
                return 0
        if self._conn_lost or self._closing:
            # The close() was interrupted.
            self._stop_reading()
        return 0

    cdef int _read_one(self) except -1:
        """Receive a datagram; false if there was none."""
        cdef sockaddr_storage address
        cdef unsigned length = 0
        cdef int64_t got
        try:
            if not self._plain:
                data, addr = self._sock.recvfrom(self._max_size)
            # D7; and a datagram that the buffer does not hold would be cut off.
            elif not self._family or self.ring._scratch_size < self._max_size:
                data, addr = self._sock.recvfrom(self._max_size, _MSG_DONTWAIT)
            else:
                got = -EBADF if self._is_lost() else self.ring.receive_from(
                    self._fd, self.ring._scratch, self._max_size, &address, &length)
                if got == -EAGAIN:
                    return False
                if got < 0:
                    raise os_error(got)
                data = PyBytes_FromStringAndSize(<char*> self.ring._scratch, got)
                addr = self.ring.addresses().format(&address, length)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self._protocol.error_received(exc)
            return not self._lost()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal read error on datagram transport')
            return False
        self._protocol.datagram_received(data, addr)
        return True

    def _write_ready(self):
        """Send what is queued, as long as there is room."""
        # error_received() may have closed, aborted or sent.
        while self._buffer:
            # Out of the queue first: one that is interrupted is not sent again.
            data, addr = self._buffer.popleft()
            self._buffer_size -= len(data) + HEADER_SIZE
            error = None
            try:
                if self._connected:
                    self._sock.send(data)
                else:
                    self._sock.sendto(data, addr)
            except (BlockingIOError, InterruptedError):
                self._buffer.appendleft((data, addr))
                self._buffer_size += len(data) + HEADER_SIZE
                self._start_writing()
                break
            except OSError as exc:
                error = exc
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, 'Fatal write error on datagram transport')
                return
            if error is not None:
                if self._buffer:
                    # What is queued does not depend on what the protocol does.
                    self._start_writing()
                try:
                    self._protocol.error_received(error)
                finally:
                    error = None
        # (What an abort() has dropped is no reason to go on writing.)
        if self._loop is None or self._conn_lost:
            return
        self._resume_if_drained()
        if not self._buffer and self._write_handle is not None:
            try:
                self._stop_writing()
            finally:
                # Last, since what connection_lost() sends is sent at once.
                if self._closing:
                    self._lose_connection(None)

    cdef object _count_unsent(self):
        return self._buffer_size

    cdef bint _flush(self) except -1:
        if self._buffer and self._write_handle is None:
            self._write_ready()
        return not self._buffer

    cdef int _drop_unsent(self) except -1:
        self._buffer.clear()
        self._buffer_size = 0
        return 0


# stdlib: _ProactorSocketTransport
cdef class _ProactorSocketTransport(_ProactorBaseWritePipeTransport):
    """Transport for connected sockets."""

    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    # stdlib: _ProactorSocketTransport.__init__
    def __init__(self, loop, sock, protocol, waiter=None,
                 extra=None, server=None, context=None):
        _ProactorBasePipeTransport.__init__(self, loop, sock, protocol, waiter, extra, server, context)
        if self._peer is None or extra is not self._peer:
            # (_Acceptor does it itself.)
            base_events._set_nodelay(sock)

    # stdlib: _ProactorSocketTransport.can_write_eof
    def can_write_eof(self):
        return True

    # stdlib: _ProactorSocketTransport.write_eof
    def write_eof(self):
        if self._closing or self._eof_written:
            return
        # Marked behind it: one that is interrupted in the middle can be called again.
        flushed = self._flush()
        if self._closing:
            return                        # on the selector loop the write() before had failed
        self._eof_written = True
        if flushed and not self._conn_lost:
            self._sock.shutdown(socket.SHUT_WR)

    # -- ours: no counterpart in the stdlib's class --

    @property
    def _read_ready_cb(self):
        """What a readable socket leads to; None when the connection is lost.

        The selector loop's transport has it by this name, and CPython's test_ssl asks it.
        """
        return None if self._called_connection_lost else self._read_ready


# ours: inner functions of BaseProactorEventLoop._start_serving
class _Acceptor(stdlib_transports._Acceptor):
    """The same, by fewer steps for each connection: the socket object is made here, and not asked for anything."""

    __slots__ = ('_listener',)

    def start(self):
        sock = self._sock
        # Of a class of the user's, its own accept() is called.
        self._listener = _listener_of(self, sock) if type(sock) is _PlainSocket else None
        # Its connections keep their places in it themselves.
        if type(getattr(self._server, '_clients', None)) is weakref.WeakSet and not self._server._clients:
            self._server._clients = Clients()
        super().start()

    def accept(self):
        cdef sockaddr_storage address
        cdef unsigned length
        cdef pollfd waiting
        cdef int fd
        cdef int one = 1
        cdef int count = 0
        cdef _Listener of = self._listener
        if of is None or self._sslcontext is not None or self._loop._debug:
            super().accept()
            return
        sock, listening, server_context = self._sock, self._fd, self._context
        cdef dict accepting = self._loop._accept_futures
        # As the later of the selector loop's: a backlog of 0 is one client, too.
        for _ in range(self._backlog + 1):
            if accepting.get(listening) is not self:
                return                    # is_stopped(), maybe in this tick
            if 0 < count <= _ASKED:
                waiting.fd = number_of(sock)
                waiting.events = POLLIN
                if poll(&waiting, 1, 0) == 0:
                    return
            count += 1
            length = sizeof(address)
            fd = accept4(number_of(sock), <sockaddr*> &address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EAGAIN or errno == EINTR or not self.failed(os_error(-errno)):
                    return
                continue
            try:
                conn = socket_of(of.family, of.kind, of.proto, fd)
            except BaseException:
                close(fd)
                raise
            if of.nodelay:
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            addr = PyBytes_FromStringAndSize(<char*> &address, min(length, <unsigned> sizeof(address)))
            if server_context is None:
                # (As there.)
                context = PyContext_CopyCurrent()
                enter_context(context)
                try:
                    of.connect(self, conn, addr, None)
                finally:
                    exit_context(context)
            else:
                # From CPython 3.15 on every server has one.
                context = server_context.copy()
                context.run(self.connect, conn, addr, context)

    def connect(self, conn, addr, context):
        if type(addr) is bytes:
            (<_Listener> self._listener).connect(self, conn, addr, context)
        else:
            super().connect(conn, addr, context)


# ours: what is known of one listening socket, and of whom its connections are
cdef class _Listener:
    cdef BaseEventLoop loop
    cdef object protocol_factory
    cdef object server
    cdef dict keys
    cdef Transports transports
    cdef int family, kind, proto
    cdef int plain_family        # 0: its addresses have to be asked of the socket
    cdef bint nodelay
    cdef bint is_tcp

    cdef int connect(self, acceptor, conn, bytes addr, context) except -1:
        cdef _ProactorSocketTransport transport
        cdef int number
        try:
            protocol = self.protocol_factory()
            number = number_of(conn)
            if self.transports.find(number) is not None:
                # One that is closing, or whose socket the user has closed. Is it?
                self.loop._ensure_fd_no_transport(conn)
            # As _adopt(), but no interrupt comes between the transport and its place.
            if self.keys and number in self.keys:
                self.loop._remove_reader(number)
            transport = _ProactorSocketTransport.__new__(_ProactorSocketTransport)
            transport.ring = self.loop.find_ring()
            transport.ring._forget(number)
            transport._set_up(self.loop, conn, protocol, None, addr, self.server, context, self.plain_family, self.is_tcp)
            self.transports[number] = transport
        except (SystemExit, KeyboardInterrupt):
            # A transport that is whole has begun to read: it goes on.
            if not acceptor.is_served(conn):
                conn.close()
            raise
        except BaseException:
            # In debug mode, in which it is told, the reference's accept() is called.
            conn.close()
        return 0


cdef _Listener _listener_of(acceptor, sock):
    cdef _Listener made = _Listener.__new__(_Listener)
    made.loop = acceptor._loop
    made.protocol_factory = acceptor._protocol_factory
    made.server = acceptor._server
    made.keys = made.loop._keys
    made.transports = made.loop._transports
    made.family, made.kind, made.proto = family_of(sock), int(sock.type), sock.proto
    made.plain_family = made.family if has_plain_addresses(sock) else 0
    made.nodelay = (made.family, made.kind, made.proto) in _NODELAY
    made.is_tcp = is_plain_tcp(number_of(sock))
    return made


# ours: what a tier of transports has besides, see `tiers`
_ProactorDuplexPipeTransport = stdlib_transports._ProactorDuplexPipeTransport


# ours: as the function of stdlib_transports
def _make_socket_transport(loop, sock, protocol, waiter, extra, server, context):
    return _ProactorSocketTransport(loop, sock, protocol, waiter, extra, server, context)
