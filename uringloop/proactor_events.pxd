# The layout of native transports.
cimport cython
from libc.stdint cimport int64_t, uint64_t

from ._overlapped cimport Completion, is_lost
from .base_events cimport BaseEventLoop
from .sslproto cimport SSLProtocol
from .transport_registry cimport Registered


cdef class _ProactorBasePipeTransport(Registered):
    cdef readonly BaseEventLoop _loop
    cdef public object _sock
    cdef object __weakref__
    cdef dict __dict__           # of what the program sets
    cdef readonly object _protocol
    cdef object _extra_given     # what the constructor got; None once the dict is made
    cdef object _extra_dict
    cdef bytes _peer             # the peer's raw address, of a socket whose names nobody has asked for
    cdef bytes _own              # the same of its own, once it is closed
    cdef object _closed_sock     # what it was on, as long as nobody has asked
    cdef readonly object _server
    cdef object _context         # of the connection, where asyncio hands it one
    cdef object _high_water
    cdef object _low_water
    cdef readonly object _buffer # a deque of what has found no room, or None
    cdef readonly object _empty_waiter
    cdef object _write_handle    # the Handle that is run when there is room, and its operation
    cdef object _write_wait
    cdef object _write_context   # of the first that was gathered: who is told of a failure is told in it
    cdef object _read_context    # what the protocol is called in
    cdef object _read_handle     # in debug mode, what is run in this transport's place
    cdef uint64_t _read_key      # of the poll; 0: not reading
    cdef public Py_ssize_t _conn_lost
    cdef int _fd
    cdef int _max_size
    cdef int _family             # of a socket whose names and addresses need not be asked of it; else 0
    cdef readonly bint _closing
    cdef readonly bint _called_connection_lost
    cdef readonly bint _protocol_paused
    cdef readonly bint _paused
    cdef bint _due               # it stands in the loop's _ready, and has something to read
    cdef bint _is_tcp            # a read that gets less than it asked for has got all there is
    cdef bint _kept              # the kernel has kept the poll that has told: it does not tell the same again
    cdef bint _in_bulk           # a read has got more than what comes in a few packets
    cdef bint _more              # there may be something to read of which the poll tells no more
    cdef bint _doubted           # the ring knows that it has to look again
    cdef bint _ends              # the poll has told of an end or an error, which comes behind what there is to read

    @cython.final
    cdef inline bint _is_lost(self) except -1:
        """True when the user has closed the socket: whoever has its number now is a stranger."""
        return is_lost(self._sock, self._fd, self._plain)

    cdef int _drop(self) except -1
    cdef int _tell_handler(self, message, exc) except -1
    cdef int _pause(self) except -1
    cdef int _resume(self) except -1
    cdef int _set_up(self, loop, sock, protocol, waiter, extra, server, context, int family, bint is_tcp) except -1
    cdef bint _is_forgotten(self) except -1
    cdef int _end_soon(self, exc) except -1
    cdef int _begin_reading(self, context) except -1
    cdef int _start_reading(self, context=*) except -1
    @cython.final
    cdef int _enter_doubt(self, uint64_t key) except -1
    @cython.final
    cdef int _note_read(self, int64_t got, int64_t size) noexcept
    cdef int _stop_reading(self) except -1
    cdef int _check_loop(self) except -1
    cdef int _start_writing(self) except -1
    cdef int _stop_writing(self) except -1
    cdef int _read(self) except -1
    @cython.final
    cdef int _run_reading(self) except -1
    @cython.final
    cdef int _run_in(self, context, bint flush) except -1
    cdef int _fail(self, message) except -1
    cdef bint _flush(self) except -1
    cdef int _send_regardless(self) noexcept
    cdef int _drop_unsent(self) except -1
    cdef object _count_unsent(self)
    cdef int _pause_if_full(self) except -1
    cdef int _resume_if_drained(self) except -1
    cdef dict _make_extra(self)
    cdef int _keep_names(self) except -1
    cdef int _lose_connection(self, exc) except -1


cdef class _ProactorReadPipeTransport(_ProactorBasePipeTransport):
    cdef SSLProtocol _tls        # the protocol, if it is the one of TLS in C
    cdef bint _buffered          # the protocol is a BufferedProtocol of another kind
    cdef int _expected           # how many bytes a read brings, going by the last ones
    cdef int _read_error         # errno of a read behind another one, until the next tells it

    @cython.final
    cdef Py_ssize_t _limit_read(self, Py_ssize_t size) noexcept
    @cython.final
    cdef int _expect(self, int64_t got) noexcept
    @cython.final
    cdef int _read_into_reader(self, reader, buffer) except -1
    @cython.final
    cdef bint _receive_into(self, buffer) except -1
    @cython.final
    cdef int _read_into_protocol(self) except -1
    cdef object _receive_its_way(self)
    cdef int _reading_failed(self, int64_t got) except -1
    cdef bint _has_room(self, buf) except -1
    @cython.final
    cdef int64_t _receive_at(self, void* start, Py_ssize_t size)


cdef class _ProactorBaseWritePipeTransport(_ProactorReadPipeTransport):
    cdef object _gathered        # bytes, or a bytearray of several writes, that leave with the tick; or None
    cdef int _send_error         # errno of one that failed, until that is told
    cdef readonly bint _eof_written
    cdef Py_ssize_t _gather_limit

    @cython.final
    cdef int _begin_gathering(self, bytes data) except -1
    @cython.final
    cdef bint _gather(self, data, Py_ssize_t size) except -1
    @cython.final
    cdef int _send(self, data, Py_ssize_t size) except -1
    cdef int64_t _send_unusual(self, data) except? -2
    cdef int _send_buffer(self) except -1


cdef class _ProactorSocketTransport(_ProactorBaseWritePipeTransport):
    pass


cdef class _ProactorDatagramTransport(_ProactorBasePipeTransport):
    cdef readonly object _address
    cdef public Py_ssize_t _buffer_size
    cdef bint _connected         # to one peer: datagrams are sent, not addressed

    cdef bint _send_now(self, data, addr) except -1
    cdef int _read_one(self) except -1
