"""TLS; mirrors asyncio/sslproto.py.

One protocol for the transport below, one transport for the protocol above, and between them an
ssl.SSLObject on two ssl.MemoryBIOs: as in the stdlib, of which this has the states, the timeouts and the
messages.  What is faster is how OpenSSL is called.  What arrives comes in records, each with its length
in the five bytes in front, so it is known when there is a whole one, and how much it can hold at most.
OpenSSL is asked for that, and no call of it finds nothing (which ends in an exception, at the price of
the decryption of half a kilobyte), or takes memory for more than there is.

Must not be in here: io_uring, sockets, and anything of the ssl module that is not public.

Differences from the stdlib, numbered; a line `# differs[Pn]` stands where each applies.
"""
# P1: asyncio's classes are not the bases of these, which are in C: isinstance() is true by __class__.
# P2: OpenSSL is only asked for what is there. Where nothing is, a BufferedProtocol's get_buffer() is not called.
# P3: What of several records has arrived is decrypted behind one another into one object.
# P4: A BufferedProtocol's buffer is filled by several records, whatever its kind: the stdlib takes slices of it,
#     which of a bytearray are copies.
# P5: What waits is encrypted together, up to a record's size.
# P6: What is long is encrypted and handed on to the transport in parts, for whose sizes glibc maps and unmaps no
#     memory.
# P7: No buffer is there to receive into until somebody asks for it: a native transport does not.
# P8: Where somebody has patched the stdlib's classes, these are not used; see `connection_class`.
# P9: An interrupt, in the protocol or in ssl.SSLObject, whose methods are Python, leaves nothing undone: the next turn
#     goes on reading, and who waits for the handshake is told. What SSLObject has written by then is not written
#     again. What it has read is lost, so the connection ends there, where the stdlib goes on behind the hole.
import collections
import inspect
import warnings
from asyncio import constants, exceptions, protocols, sslproto, streams
from asyncio.log import logger

try:
    import ssl
except ImportError:
    ssl = None

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_WRITE
from cpython.object cimport PyObject

from ._interpreter cimport (
    Finalizer, PyBytes_AS_STRING_raw, PyBytes_FromStringAndSize_raw, Py_XDECREF_raw, _PyBytes_Resize,
    drop_dict, run_finalizer,
)
from .streams cimport reader_of, tell_reader

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char* data, Py_ssize_t size, int flags)

    ctypedef struct _PyManagedBufferObject:
        Py_ssize_t exports

    ctypedef struct PyMemoryViewObject:
        _PyManagedBufferObject* mbuf

if ssl is not None:
    SSLAgainErrors = sslproto.SSLAgainErrors
    _SSLObject = ssl.SSLObject
else:
    SSLAgainErrors = ()
    _SSLObject = None

cdef object _Again = SSLAgainErrors
cdef object _UsualSSLObject = _SSLObject
# At the interpreter's end a transport may outlive the names of this module.
cdef object _warn = warnings.warn
cdef dict _ssl_object_attributes = dict(vars(_SSLObject)) if _SSLObject is not None else {}
cdef object _StreamReaderProtocol = streams.StreamReaderProtocol

# What a record holds at most, and what it is at most with the rest of it (RFC 8446, 5.2; before TLS 1.3 there may
# be more, but OpenSSL makes none and says by itself what it takes).
cdef int _RECORD = 16384
cdef int _LONGEST_RECORD = 16384 + 256
# Its header, and the kinds that there are.
cdef int _HEADER = 5
cdef int _FIRST_KIND = 20
cdef int _LAST_KIND = 23
# Behind the handshake, by what SSLObject.version() says: the last byte of the version in a header, and the first of
# the kinds. (From TLS 1.3 on all are application data, from outside.)
cdef dict _HEADERS = {'TLSv1': (1, _FIRST_KIND), 'TLSv1.1': (2, _FIRST_KIND), 'TLSv1.2': (3, _FIRST_KIND),
                      'TLSv1.3': (3, _LAST_KIND)}
cdef int _ANY = -1
# How much get_buffer() offers, and how much is handed on at once, in whole records: below what glibc maps memory for.
cdef Py_ssize_t _BUFFER = 112 * 1024
cdef Py_ssize_t _PART = 6 * 16384

# SSLProtocol._abort() hands on the exception from Python 3.13 on.
cdef bint _abort_takes_exc = 'exc' in inspect.signature(sslproto.SSLProtocol._abort).parameters
# A transport whose connection is ending below says so from later releases of 3.13 on.
cdef bint _asks_below = hasattr(sslproto.SSLProtocol, '_is_transport_closing')

# absent: SSLProtocolState: the stdlib's own, so that one is equal to the other
SSLProtocolState = sslproto.SSLProtocolState

# absent: AppProtocolState: the stdlib's own, likewise
AppProtocolState = sslproto.AppProtocolState

cdef enum:
    UNWRAPPED
    DO_HANDSHAKE
    WRAPPED
    FLUSHING
    SHUTDOWN

cdef enum:
    STATE_INIT
    STATE_CON_MADE
    STATE_EOF
    STATE_CON_LOST

# In the order of the numbers above.
cdef list _STATES = [SSLProtocolState.UNWRAPPED, SSLProtocolState.DO_HANDSHAKE, SSLProtocolState.WRAPPED,
                     SSLProtocolState.FLUSHING, SSLProtocolState.SHUTDOWN]
cdef list _APP_STATES = [AppProtocolState.STATE_INIT, AppProtocolState.STATE_CON_MADE,
                         AppProtocolState.STATE_EOF, AppProtocolState.STATE_CON_LOST]


# ours: bytes to be filled
cdef PyObject* _new_bytes(Py_ssize_t size) except NULL:
    cdef PyObject* data = PyBytes_FromStringAndSize_raw(NULL, size)
    if data is NULL:
        raise MemoryError
    return data


# ours: what has been done of them, None if nothing has; kept: somebody else has their memory, too
cdef object _finish_bytes(PyObject* data, Py_ssize_t done, Py_ssize_t size, bint kept):
    if kept:
        # It is his for good, and never freed.
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING_raw(data), done) if done else None
    if not done:
        Py_XDECREF_raw(data)
        return None
    if done < size:
        _PyBytes_Resize(&data, done)
    whole = <object> data
    Py_XDECREF_raw(data)
    return whole


# stdlib: _create_transport_context
def _create_transport_context(server_side, server_hostname):
    if server_side:
        raise ValueError('Server side SSL needs a valid SSLContext')

    # ssl=True: the default, which is safe.
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context


# stdlib: add_flowcontrol_defaults
def add_flowcontrol_defaults(high, low, kb):
    if high is None:
        high = kb * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError('high (%r) must be >= low (%r) must be >= 0' % (high, low))
    return high, low


# ours: what isinstance() finds; differs[P1]
class _SSLTransport(sslproto._SSLProtocolTransport):
    """What a transport over TLS is to isinstance()."""


# ours: the same of the protocol
class _SSLProtocol(sslproto.SSLProtocol):
    """What the protocol below it is to isinstance()."""


cdef int _drop_of(_SSLProtocolTransport transport) except -1:
    return transport._drop()


cdef Finalizer _finalizer = <Finalizer> _drop_of


# stdlib: _SSLProtocolTransport
cdef class _SSLProtocolTransport:
    """Transport for what goes through TLS.  differs[P1]"""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __cinit__(self):
        drop_dict(self)

    def __dealloc__(self):
        drop_dict(self)

    # stdlib: _SSLProtocolTransport.__init__
    def __init__(self, loop, ssl_protocol):
        self._loop = loop
        self._ssl_protocol = ssl_protocol
        self._closed = False

    # stdlib: _SSLProtocolTransport.get_extra_info
    def get_extra_info(self, name, default=None):
        """Return what is known of the connection by this name.  Source: asyncio.BaseTransport."""
        return self._reach('_get_extra_info')._get_extra_info(name, default)

    # stdlib: _SSLProtocolTransport.set_protocol
    def set_protocol(self, protocol):
        self._reach('_set_app_protocol')._set_app_protocol(protocol)

    # stdlib: _SSLProtocolTransport.get_protocol
    def get_protocol(self):
        return self._reach('_app_protocol')._app_protocol

    # stdlib: _SSLProtocolTransport.is_closing
    def is_closing(self):
        if self._closed or not _asks_below:
            return self._closed
        return self._reach('_is_transport_closing')._is_transport_closing()

    # stdlib: _SSLProtocolTransport.close
    def close(self):
        """Close behind what has been written; connection_lost() comes then.  Source: asyncio.BaseTransport."""
        if not self._closed:
            self._closed = True
            self._reach('_start_shutdown')._start_shutdown()
        else:
            # Whoever closes twice has no more use for it: nothing is left of the cycle.
            self._ssl_protocol = None

    # stdlib: _SSLProtocolTransport.__del__
    def __del__(self):
        run_finalizer(_finalizer, self)

    cdef int _drop(self) except -1:
        if not self._closed:
            self._closed = True
            _warn("unclosed transport <asyncio._SSLProtocolTransport object>", ResourceWarning)
        return 0

    # stdlib: _SSLProtocolTransport.is_reading
    def is_reading(self):
        return not self._reach('_app_reading_paused')._app_reading_paused

    # stdlib: _SSLProtocolTransport.pause_reading
    def pause_reading(self):
        """Tell the protocol of no data until resume_reading().  Source: asyncio.ReadTransport."""
        self._reach('_pause_reading')._pause_reading()

    # stdlib: _SSLProtocolTransport.resume_reading
    def resume_reading(self):
        """Tell the protocol of data again.  Source: asyncio.ReadTransport."""
        self._reach('_resume_reading')._resume_reading()

    # stdlib: _SSLProtocolTransport.set_write_buffer_limits
    def set_write_buffer_limits(self, high=None, low=None):
        """Set the numbers of bytes at which the protocol is told to pause writing, and to resume.

        Raises ValueError unless high >= low >= 0.  Source: asyncio.WriteTransport.
        """
        ssl_protocol = self._reach('_set_write_buffer_limits')
        ssl_protocol._set_write_buffer_limits(high, low)
        ssl_protocol._control_app_writing()

    # stdlib: _SSLProtocolTransport.get_write_buffer_limits
    def get_write_buffer_limits(self):
        ssl_protocol = self._reach('_outgoing_low_water')
        return (ssl_protocol._outgoing_low_water, ssl_protocol._outgoing_high_water)

    # stdlib: _SSLProtocolTransport.get_write_buffer_size
    def get_write_buffer_size(self):
        """Return the number of bytes that the transport below has not been given yet."""
        return self._reach('_get_write_buffer_size')._get_write_buffer_size()

    # stdlib: _SSLProtocolTransport.set_read_buffer_limits
    def set_read_buffer_limits(self, high=None, low=None):
        """Set the numbers of received bytes at which the transport below pauses reading, and resumes.

        They count while the protocol has paused reading.  Raises ValueError unless high >= low >= 0.
        """
        ssl_protocol = self._reach('_set_read_buffer_limits')
        ssl_protocol._set_read_buffer_limits(high, low)
        ssl_protocol._control_ssl_reading()

    # stdlib: _SSLProtocolTransport.get_read_buffer_limits
    def get_read_buffer_limits(self):
        ssl_protocol = self._reach('_incoming_low_water')
        return (ssl_protocol._incoming_low_water, ssl_protocol._incoming_high_water)

    # stdlib: _SSLProtocolTransport.get_read_buffer_size
    def get_read_buffer_size(self):
        """Return the number of bytes that were received and not read."""
        return self._reach('_get_read_buffer_size')._get_read_buffer_size()

    # stdlib: _SSLProtocolTransport._protocol_paused
    @property
    def _protocol_paused(self):
        # Who sends a file through this transport asks it.
        return self._reach('_app_writing_paused')._app_writing_paused

    # stdlib: _SSLProtocolTransport.write
    def write(self, data):
        """Encrypt and send data, behind what was written before.  Source: asyncio.WriteTransport."""
        if type(data) is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, "
                            f"got {type(data).__name__}")
        if not data:
            return
        if self._ssl_protocol is None:
            self._reach('_write_appdata')
        self._ssl_protocol._write(data)

    # stdlib: _SSLProtocolTransport.writelines
    def writelines(self, list_of_data):
        """Encrypt and send the pieces behind one another.  Source: asyncio.WriteTransport."""
        self._reach('_write_appdata')._write_appdata(list_of_data)

    # stdlib: _SSLProtocolTransport.write_eof
    def write_eof(self):
        """Raise NotImplementedError: no side of a TLS connection ends alone."""
        raise NotImplementedError

    # stdlib: _SSLProtocolTransport.can_write_eof
    def can_write_eof(self):
        return False

    # stdlib: _SSLProtocolTransport.abort
    def abort(self):
        """Close at once; what has not been sent is lost.  Source: asyncio.WriteTransport."""
        self._force_close(None)

    # stdlib: _SSLProtocolTransport._force_close
    def _force_close(self, exc):
        self._closed = True
        if self._ssl_protocol is not None:
            self._ssl_protocol._abort(exc)

    # stdlib: _SSLProtocolTransport._test__append_write_backlog
    def _test__append_write_backlog(self, data):
        # CPython's test_ssl calls it.
        ssl_protocol = self._reach('_write_backlog')
        ssl_protocol._write_backlog.append(data)
        ssl_protocol._write_buffer_size += len(data)

    # -- ours: no counterpart in the stdlib's class --

    @property
    def __class__(self):
        # differs[P1]
        return _SSLTransport

    cdef SSLProtocol _reach(self, str name):
        """Return the protocol; behind a second close() raise what asking None for `name` raises."""
        if self._ssl_protocol is None:
            getattr(None, name)
        return self._ssl_protocol


# stdlib: SSLProtocol
cdef class SSLProtocol:
    """The protocol of a transport below, whose bytes are TLS.  differs[P1]"""

    # The most that OpenSSL is asked for where nothing is known of what is there.
    max_size = 256 * 1024

    def __cinit__(self):
        drop_dict(self)

    def __dealloc__(self):
        drop_dict(self)

    # stdlib: SSLProtocol.__init__
    def __init__(self, loop, app_protocol, sslcontext, waiter,
                 server_side=False, server_hostname=None,
                 call_connection_made=True,
                 ssl_handshake_timeout=None,
                 ssl_shutdown_timeout=None):
        if ssl is None:
            raise RuntimeError("stdlib ssl module not available")

        # differs[P7]
        if ssl_handshake_timeout is None:
            ssl_handshake_timeout = constants.SSL_HANDSHAKE_TIMEOUT
        elif ssl_handshake_timeout <= 0:
            raise ValueError(
                f"ssl_handshake_timeout should be a positive number, "
                f"got {ssl_handshake_timeout}")
        if ssl_shutdown_timeout is None:
            ssl_shutdown_timeout = constants.SSL_SHUTDOWN_TIMEOUT
        elif ssl_shutdown_timeout <= 0:
            raise ValueError(
                f"ssl_shutdown_timeout should be a positive number, "
                f"got {ssl_shutdown_timeout}")

        if not sslcontext:
            sslcontext = _create_transport_context(server_side, server_hostname)

        self._server_side = bool(server_side)
        if server_hostname and not server_side:
            self._server_hostname = server_hostname
        self._sslcontext = sslcontext
        # More of it comes with the handshake.
        self._names = {'sslcontext': sslcontext}

        self._write_backlog = collections.deque()
        self._write_buffer_size = 0

        self._waiter = waiter
        self._loop = loop
        self._set_app_protocol(app_protocol)
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._version, self._first_kind = _ANY, _FIRST_KIND
        self._state_now = UNWRAPPED
        self._app_state_now = STATE_INIT if call_connection_made else STATE_CON_MADE
        self._sslobj = sslcontext.wrap_bio(
            self._incoming, self._outgoing,
            server_side=self._server_side,
            server_hostname=self._server_hostname)

        self._set_read_buffer_limits()
        self._set_write_buffer_limits()
        self._get_app_transport()

    # stdlib: SSLProtocol._set_app_protocol
    def _set_app_protocol(self, app_protocol):
        self._app_protocol = app_protocol
        # A look that costs little first.
        if (hasattr(app_protocol, 'get_buffer') and
                isinstance(app_protocol, protocols.BufferedProtocol)):
            self._app_protocol_get_buffer = app_protocol.get_buffer
            self._app_protocol_buffer_updated = app_protocol.buffer_updated
            self._app_protocol_is_buffer = True
        else:
            self._app_protocol_is_buffer = False
        self._app_tls = app_protocol if type(app_protocol) is SSLProtocol else None

    # stdlib: SSLProtocol._wakeup_waiter
    def _wakeup_waiter(self, exc=None):
        if self._waiter is None:
            return
        if not self._waiter.cancelled():
            if exc is not None:
                self._waiter.set_exception(exc)
            else:
                self._waiter.set_result(None)
        self._waiter = None

    # stdlib: SSLProtocol._get_app_transport
    def _get_app_transport(self):
        if self._app_transport is None:
            if self._app_transport_created:
                raise RuntimeError('Creating _SSLProtocolTransport twice')
            self._app_transport = _SSLProtocolTransport(self._loop, self)
            self._app_transport_created = True
        return self._app_transport

    # stdlib: SSLProtocol._is_transport_closing
    def _is_transport_closing(self):
        return self._transport is not None and self._transport.is_closing()

    # stdlib: SSLProtocol.connection_made
    def connection_made(self, transport):
        """Begin the handshake.  Source: asyncio.BaseProtocol."""
        self._transport = transport
        self._is_over_tls = isinstance(transport, sslproto._SSLProtocolTransport)
        self._start_handshake()

    # stdlib: SSLProtocol.connection_lost
    def connection_lost(self, exc):
        """Tell the protocol above, and end what waits.  Source: asyncio.BaseProtocol."""
        self._write_backlog.clear()
        self._outgoing.read()
        self._conn_lost += 1

        # There is nothing left to close.
        if self._app_transport is not None:
            self._app_transport._closed = True

        if self._state_now != DO_HANDSHAKE:
            if self._app_state_now == STATE_CON_MADE or self._app_state_now == STATE_EOF:
                self._app_state_now = STATE_CON_LOST
                self._loop.call_soon(self._app_protocol.connection_lost, exc)
        self._state_now = UNWRAPPED
        self._transport = None
        self._app_transport = None
        self._app_protocol = None
        self._app_tls = None
        self._wakeup_waiter(exc)

        if self._shutdown_timeout_handle:
            self._shutdown_timeout_handle.cancel()
            self._shutdown_timeout_handle = None
        if self._handshake_timeout_handle:
            self._handshake_timeout_handle.cancel()
            self._handshake_timeout_handle = None

    # stdlib: SSLProtocol.get_buffer
    def get_buffer(self, n):
        """Return what to receive into, whatever n is.  Source: asyncio.BufferedProtocol."""
        # differs[P7]
        if self._ssl_buffer is None:
            self._ssl_buffer = bytearray(_BUFFER)
        return memoryview(self._ssl_buffer)

    # stdlib: SSLProtocol.buffer_updated
    def buffer_updated(self, nbytes):
        """Take nbytes out of the buffer.  Source: asyncio.BufferedProtocol."""
        cdef Py_ssize_t size
        with self.get_buffer(-1) as view, view[:nbytes] as received:
            size = len(received)
            self._feed(received, <unsigned char*> PyByteArray_AS_STRING(self._ssl_buffer), size)
        self._advance()

    # stdlib: SSLProtocol.eof_received
    def eof_received(self):
        """Take notice of the stream's end; true: the transport stays open.  Source: asyncio.Protocol."""
        self._eof_received = True
        try:
            if self._loop.get_debug():
                logger.debug("%r received EOF", self)

            if self._state_now == DO_HANDSHAKE:
                self._on_handshake_complete(ConnectionResetError)

            elif self._state_now == WRAPPED:
                self._switch_to(FLUSHING)
                if self._app_reading_paused:
                    return True
                else:
                    self._flush()

            elif self._state_now == FLUSHING:
                self._encrypt()
                self._switch_to(SHUTDOWN)
                self._shut_down()

            elif self._state_now == SHUTDOWN:
                self._shut_down()

        except Exception:
            self._transport.close()
            raise

    # stdlib: SSLProtocol._get_extra_info
    def _get_extra_info(self, name, default=None):
        if name == 'ssl_object':
            self._share()
        if name in self._names:
            return self._names[name]
        elif self._transport is not None:
            return self._transport.get_extra_info(name, default)
        else:
            return default

    # stdlib: SSLProtocol._set_state
    def _set_state(self, new_state):
        self._switch_to(_STATES.index(new_state))

    # stdlib: SSLProtocol._start_handshake
    def _start_handshake(self):
        if self._loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self._handshake_start_time = self._loop.time()
        else:
            self._handshake_start_time = None

        self._switch_to(DO_HANDSHAKE)

        self._handshake_timeout_handle = \
            self._loop.call_later(self._ssl_handshake_timeout,
                                  self._check_handshake_timeout)

        if self._incoming.pending:
            # start_tls() has put it there: what of the handshake came in plain.
            self.bytes_received(self._incoming.read())
        else:
            self._handshake()

    # stdlib: SSLProtocol._check_handshake_timeout
    def _check_handshake_timeout(self):
        if self._state_now == DO_HANDSHAKE:
            msg = (
                f"SSL handshake is taking longer than "
                f"{self._ssl_handshake_timeout} seconds: "
                f"aborting the connection"
            )
            self._fatal_error(ConnectionAbortedError(msg))

    # stdlib: SSLProtocol._do_handshake
    def _do_handshake(self):
        self._handshake()

    # stdlib: SSLProtocol._on_handshake_complete
    def _on_handshake_complete(self, handshake_exc):
        if self._handshake_timeout_handle is not None:
            self._handshake_timeout_handle.cancel()
            self._handshake_timeout_handle = None

        sslobj = self._ssl_object
        try:
            if handshake_exc is None:
                self._switch_to(WRAPPED)
            else:
                raise handshake_exc

            peercert = sslobj.getpeercert()
            self._know_headers()
            # To callbacks of these names it is handed.
            if (not self._usual or getattr(self._sslcontext, 'sni_callback', None) is not None
                    or getattr(self._sslcontext, '_msg_callback', None) is not None):
                self._is_shared = True
        except Exception as exc:
            # (No cycle with its own traceback.)
            handshake_exc = None
            self._switch_to(UNWRAPPED)
            if isinstance(exc, ssl.CertificateError):
                msg = 'SSL handshake failed on verifying the certificate'
            else:
                msg = 'SSL handshake failed'
            self._fatal_error(exc, msg)
            self._wakeup_waiter(exc)
            return
        except (KeyboardInterrupt, SystemExit):
            # differs[P9]: (what else it is, the transport below ends the connection for.)
            self._end_interrupted()
            raise

        if self._loop.get_debug():
            dt = self._loop.time() - self._handshake_start_time
            logger.debug("%r: SSL handshake took %.1f ms", self, dt * 1e3)

        known = False
        try:
            self._names.update(peercert=peercert,
                               cipher=sslobj.cipher(),
                               compression=sslobj.compression(),
                               ssl_object=sslobj)
            known = True
            if self._app_state_now == STATE_INIT:
                self._app_state_now = STATE_CON_MADE
                self._app_protocol.connection_made(self._get_app_transport())
        except (KeyboardInterrupt, SystemExit):
            # differs[P9]
            if known:
                self._wakeup_waiter()
                self._loop.call_soon(self._do_read)
            else:
                self._end_interrupted()
            raise
        self._wakeup_waiter()
        self._ask_openssl()
        self._read()

    # stdlib: SSLProtocol._start_shutdown
    def _start_shutdown(self):
        if self._state_now in (FLUSHING, SHUTDOWN, UNWRAPPED):
            return
        if self._app_transport is not None:
            self._app_transport._closed = True
        if self._state_now == DO_HANDSHAKE:
            self._abort(None)
        else:
            self._switch_to(FLUSHING)
            self._shutdown_timeout_handle = self._loop.call_later(
                self._ssl_shutdown_timeout,
                self._check_shutdown_timeout
            )
            self._flush()

    # stdlib: SSLProtocol._check_shutdown_timeout
    def _check_shutdown_timeout(self):
        if self._state_now in (FLUSHING, SHUTDOWN):
            self._transport._force_close(
                exceptions.TimeoutError('SSL shutdown timed out'))

    # stdlib: SSLProtocol._do_flush
    def _do_flush(self):
        self._flush()

    # stdlib: SSLProtocol._do_shutdown
    def _do_shutdown(self):
        self._shut_down()

    # stdlib: SSLProtocol._on_shutdown_complete
    def _on_shutdown_complete(self, shutdown_exc):
        if self._shutdown_timeout_handle is not None:
            self._shutdown_timeout_handle.cancel()
            self._shutdown_timeout_handle = None

        if shutdown_exc:
            self._fatal_error(shutdown_exc)
        else:
            self._loop.call_soon(self._transport.close)

    # stdlib: SSLProtocol._abort
    def _abort(self, exc=None):
        self._switch_to(UNWRAPPED)
        if self._transport is not None:
            if _abort_takes_exc:
                self._transport._force_close(exc)
            else:
                self._transport.abort()

    # stdlib: SSLProtocol._write_appdata
    def _write_appdata(self, list_of_data):
        if self._state_now in (FLUSHING, SHUTDOWN, UNWRAPPED):
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning('SSL connection is closed')
            self._conn_lost += 1
            return

        for data in list_of_data:
            self._write_backlog.append(data)
            self._write_buffer_size += len(data)

        try:
            if self._state_now == WRAPPED:
                self._encrypt()

        except Exception as ex:
            self._fatal_error(ex, 'Fatal error on SSL protocol')

    # stdlib: SSLProtocol._do_write
    def _do_write(self):
        self._encrypt()

    # stdlib: SSLProtocol._process_outgoing
    def _process_outgoing(self):
        self._send()
        self._control_writing()

    # stdlib: SSLProtocol._do_read
    def _do_read(self):
        self._read()

    # stdlib: SSLProtocol._do_read__buffered
    def _do_read__buffered(self):
        self._read_into_buffer()

    # stdlib: SSLProtocol._do_read__copied
    def _do_read__copied(self):
        self._read_bytes()

    # stdlib: SSLProtocol._call_eof_received
    def _call_eof_received(self):
        try:
            if self._app_state_now == STATE_CON_MADE:
                self._app_state_now = STATE_EOF
                keep_open = self._app_protocol.eof_received()
                if keep_open:
                    logger.warning('returning true from eof_received() '
                                   'has no effect when using ssl')
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as ex:
            self._fatal_error(ex, 'Error calling eof_received()')

    # stdlib: SSLProtocol._control_app_writing
    def _control_app_writing(self):
        # (The program may have written by the ssl_object.)
        self._output_due = True
        self._control_writing()

    # stdlib: SSLProtocol._get_write_buffer_size
    def _get_write_buffer_size(self):
        return self._outgoing.pending + self._write_buffer_size

    # stdlib: SSLProtocol._set_write_buffer_limits
    def _set_write_buffer_limits(self, high=None, low=None):
        high, low = add_flowcontrol_defaults(
            high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        self._outgoing_high_water = high
        self._outgoing_low_water = low
        self._idle_is_full = not high > 0

    # stdlib: SSLProtocol._pause_reading
    def _pause_reading(self):
        self._app_reading_paused = True

    # stdlib: SSLProtocol._resume_reading
    def _resume_reading(self):
        if self._app_reading_paused:
            self._app_reading_paused = False
            self._loop.call_soon(self._resume)

    # stdlib: SSLProtocol._control_ssl_reading
    def _control_ssl_reading(self):
        self._control_reading()

    # stdlib: SSLProtocol._set_read_buffer_limits
    def _set_read_buffer_limits(self, high=None, low=None):
        high, low = add_flowcontrol_defaults(
            high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self._incoming_high_water = high
        self._incoming_low_water = low
        self._idle_is_stopped = not high > 0

    # stdlib: SSLProtocol._get_read_buffer_size
    def _get_read_buffer_size(self):
        return self._count_unread()

    # stdlib: SSLProtocol.pause_writing
    def pause_writing(self):
        """Keep what is encrypted: the transport below is full.  Source: asyncio.BaseProtocol."""
        assert not self._ssl_writing_paused
        self._ssl_writing_paused = True

    # stdlib: SSLProtocol.resume_writing
    def resume_writing(self):
        """Send what was kept.  Source: asyncio.BaseProtocol."""
        assert self._ssl_writing_paused
        self._ssl_writing_paused = False
        self._process_outgoing()

    # stdlib: SSLProtocol._fatal_error
    def _fatal_error(self, exc, message='Fatal error on transport'):
        if self._transport:
            self._transport._force_close(exc)

        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        elif not isinstance(exc, exceptions.CancelledError):
            self._loop.call_exception_handler({
                'message': message,
                'exception': exc,
                'transport': self._transport,
                'protocol': self,
            })

    # -- ours: no counterpart in the stdlib's class --

    @property
    def __class__(self):
        # differs[P1]
        return _SSLProtocol

    @property
    def _state(self):
        return _STATES[self._state_now]

    @property
    def _app_state(self):
        return _APP_STATES[self._app_state_now]

    @property
    def _extra(self):
        self._share()
        return self._names

    @property
    def _sslobj(self):
        self._share()
        return self._ssl_object

    @_sslobj.setter
    def _sslobj(self, sslobj):
        self._ssl_object = sslobj
        # Of another class, the context's sslobject_class, nothing is known but that it has the methods. The same
        # holds where somebody has put others into ssl.SSLObject: they expect the stdlib's calls.
        self._usual = type(sslobj) is _UsualSSLObject and vars(_UsualSSLObject) == _ssl_object_attributes

    cdef int _switch_to(self, int state) except -1:
        # From each to the next, and from any to the first.
        if state != UNWRAPPED and state != self._state_now + 1:
            raise RuntimeError(
                'cannot switch state from {} to {}'.format(
                    _STATES[self._state_now], _STATES[state]))
        self._state_now = state
        return 0

    cdef int _end_interrupted(self) except -1:
        self._switch_to(UNWRAPPED)
        if self._transport is not None:
            self._transport._force_close(ConnectionAbortedError('TLS was interrupted'))
        return 0

    # Incoming: records

    cdef int bytes_received(self, bytes data) except -1:
        cdef const unsigned char* start = <unsigned char*> PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t whole = 0
        # Where several records come, and _decrypt() is next, it gives them to OpenSSL itself.
        if (size > _RECORD and self._clean and not self._single and not self._inner and self._usual
                and self._state_now == WRAPPED and not self._app_reading_paused
                and (not self._app_protocol_is_buffer or self._app_tls is not None)):
            whole = self._measure(start, size)
        if whole:
            self._received = data
            self._whole = whole
        else:
            self._feed(data, start, size)
        return self._advance()

    cdef Py_ssize_t _length_of(self, const unsigned char* header) noexcept:
        """Return the length of a record with this header; 0: it is for OpenSSL to say what is wrong with it."""
        cdef Py_ssize_t length = _HEADER + 256 * header[3] + header[4]
        if not self._first_kind <= header[0] <= _LAST_KIND or length > _HEADER + _LONGEST_RECORD \
                or header[1] != 3 or self._version != _ANY and header[2] != self._version:
            return 0
        return length

    cdef int _know_headers(self) except -1:
        """From here on it is known what records are like."""
        if self._usual:
            self._version, self._first_kind = _HEADERS.get(self._ssl_object.version(), (_ANY, _FIRST_KIND))
            if self._partial >= _HEADER and not self._length_of(self._header):
                self._be_eager()
        return 0

    cdef int _be_eager(self) noexcept:
        """Have OpenSSL look at whatever comes: it says what is wrong, or understands it."""
        self._eager = True
        self._clean = False
        self._partial = 0
        return 0

    cdef Py_ssize_t _measure(self, const unsigned char* start, Py_ssize_t size) noexcept:
        """Return where the last whole record of these bytes ends; 0 if there is none, or their headers do not tell."""
        cdef Py_ssize_t place = 0
        cdef Py_ssize_t length
        if self._partial:
            if self._partial < _HEADER or self._length - self._partial > size:
                return 0
            place = self._length - self._partial
        while size - place >= _HEADER:
            length = self._length_of(start + place)
            if not length:
                return 0
            if length > size - place:
                break
            place += length
        return place

    cdef int _feed(self, object data, const unsigned char* start, Py_ssize_t size) except -1:
        """Give data, which lies at `start`, to OpenSSL's BIO, and go by the headers in it."""
        cdef Py_ssize_t place = 0
        cdef Py_ssize_t last = 0
        cdef Py_ssize_t step
        cdef int whole = 0
        if self._single:
            # Not read yet.
            self._single = 0
            self._clean = False
        self._incoming.write(data)
        if self._eager:
            return 0
        while place < size:
            while self._partial < _HEADER and place < size:
                self._header[self._partial] = start[place]
                self._partial += 1
                place += 1
                if self._partial == _HEADER:
                    self._length = self._length_of(self._header)
                    if not self._length:
                        self._be_eager()
                        return 0
            if self._partial < _HEADER:
                break
            step = self._length - self._partial
            if step > size - place:
                self._partial += size - place
                break
            place += step
            last = self._length
            self._partial = 0
            whole += 1
        if self._clean:
            if whole == 1:
                self._single = last
            elif whole:
                self._clean = False
            else:
                # (The program may have written by the ssl_object, and OpenSSL is not asked.)
                self._output_due = True
        return 0

    cdef int _advance(self) except -1:
        if self._state_now == WRAPPED:
            self._read()
        elif self._state_now == DO_HANDSHAKE:
            self._handshake()
        elif self._state_now == FLUSHING:
            self._flush()
        elif self._state_now == SHUTDOWN:
            self._shut_down()
        return 0

    def _resume(self):
        """Go on where resume_reading() was called."""
        # (The program may have written by the ssl_object.)
        self._output_due = True
        self._ask_openssl()
        if self._state_now != DO_HANDSHAKE:
            self._advance()

    cdef int _share(self) noexcept:
        """The program has the ssl_object from here on, and may write by it at any time."""
        self._is_shared = self._output_due = True
        return 0

    cdef int _ask_openssl(self) noexcept:
        """Have the next read reach OpenSSL whatever has come: the program may have asked something of it that it then sends."""
        if self._is_shared:
            self._clean = False
            self._inner = True
        return 0

    cdef Py_ssize_t _count_whole(self) except? -1:
        """Return how many bytes of whole records there are, an upper limit of what they hold."""
        cdef Py_ssize_t pending
        cdef bint holds = self._seen < 0
        if self._clean:
            self._seen = self._single + self._partial
            return self._single
        pending = self._incoming.pending
        # (What OpenSSL has decrypted leaves it without a trace in _incoming.)
        self._seen = -1 if self._inner else pending
        # (Of the one that is not whole OpenSSL may have taken a part, behind a record without data.)
        if pending > self._partial:
            return pending - self._partial
        # (Of a record that the program has begun to read itself, by the ssl_object, nobody has told this.)
        try:
            pending = self._ssl_object.pending()
        except BaseException:
            # differs[P9]: who asks has read something, and loses it.
            if holds:
                self._end_interrupted()
            raise
        if self._inner or pending:
            self._seen = -1
            return _RECORD
        self._clean = True
        return 0

    cdef int _read(self) except -1:
        if self._state_now != WRAPPED and self._state_now != FLUSHING:
            return 0
        self._seen = 0
        try:
            if not self._app_reading_paused:
                if self._app_protocol_is_buffer and self._app_tls is None:
                    self._read_into_buffer()
                else:
                    self._read_bytes()
                if self._write_backlog:
                    self._encrypt()
                else:
                    # (Not if what was written meanwhile has taken it along.)
                    if self._output_due:
                        self._send()
                    self._control_writing()
            self._control_reading()
        except Exception as ex:
            self._fatal_error(ex, 'Fatal error on SSL protocol')
        except (KeyboardInterrupt, SystemExit):
            # differs[P9]: OpenSSL is asked again, for the peer's close_notify as well.
            self._clean = False
            if not self._inner:
                self._inner = True
                self._loop.call_soon(self._do_read)
            raise
        return 0

    cdef int _read_into_buffer(self) except -1:
        cdef Py_ssize_t count = 1
        cdef Py_ssize_t offset = 0
        cdef Py_ssize_t wants
        cdef bint known = self._usual and not self._eager
        cdef bint single = False
        # differs[P2]
        if known and not self._count_whole():
            return 0
        buf = self._app_protocol_get_buffer(self._count_unread())
        wants = len(buf)
        view = None
        if known:
            single = self._clean
            self._single = 0
            self._clean = False
        else:
            self._seen = self._incoming.pending
        self._inner = False
        self._output_due = True
        try:
            count = self._take(wants, buf)
            if count > 0:
                offset = count
                while offset < wants:
                    self._inner = False
                    self._seen = -1
                    if known:
                        # What was one record is read, if there was room for it.
                        self._clean = single
                        if single or not self._count_whole():
                            break
                    # differs[P4]
                    if view is None:
                        view = memoryview(buf).cast('B')
                    self._seen = -1
                    with view[offset:wants] as rest:
                        count = self._take(wants - offset, rest)
                    if count > 0:
                        offset += count
                    else:
                        break
                else:
                    self._inner = True
                    self._loop.call_soon(self._do_read)
        except _Again:
            self._inner = False
        finally:
            # The protocol may change the size of its buffer.
            if view is not None:
                view.release()
        if offset > 0:
            self._app_protocol_buffer_updated(offset)
        if not count:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef int _read_bytes(self) except -1:
        cdef PyObject* buffer = NULL
        cdef bint ended
        data = self._decrypt()
        ended = self._ended
        if data is not None:
            if self._app_tls is not None:
                self._app_tls.bytes_received(data)
            elif type(self._app_protocol) is not _StreamReaderProtocol:
                self._app_protocol.data_received(data)
            else:
                reader = reader_of(self._app_protocol, &buffer)
                if reader is None:
                    self._app_protocol.data_received(data)
                else:
                    waiting = <object> buffer
                    waiting += data
                    tell_reader(reader, waiting)
        if ended:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef object _decrypt(self):
        """Return what has come and is whole, None if nothing is; _ended tells whether the peer has ended it."""
        cdef Py_ssize_t size = self._single
        cdef Py_ssize_t count
        self._ended = False
        data = None
        if self._received is not None:
            data = self._decrypt_received()
            if self._clean or self._ended:
                return data
        elif not self._usual or self._eager:
            self._output_due = True
            return self._decrypt_all()
        if size and not self._inner:
            self._single = 0
            self._seen = size + self._partial
            self._output_due = True
            # (Until it is read: an interrupt may leave it where it is.)
            self._clean = False
            try:
                data = self._take(size, None)
            except _Again:
                # A ticket, or the like.
                return None
            count = len(data)
            if 0 < count < size:
                self._clean = True
                return data
            if not count:
                self._ended = True
                return None
            # It was compressed: there may be more.
            self._inner = True
        else:
            self._single = 0
            self._clean = self._clean and not size and not self._inner
        size = self._count_whole()
        while size:
            self._output_due = True
            if data is not None:
                self._seen = -1
            # differs[P3]
            more = self._decrypt_records(size)
            if data is None:
                data = more
            elif more is not None:
                data += more
            if not self._inner:
                break
            self._seen = -1
            size = self._count_whole()
        return data

    cdef object _decrypt_received(self):
        """Return what is in the whole records of _received, None if nothing is; _clean: nothing else is there.

        OpenSSL is given one, and it is read, before the next: so little of a connection's BIO is ever used, and has to
        come into the processor's cache, that many connections take turns with less of it.
        """
        cdef bytes received = self._received
        cdef const unsigned char* start = <unsigned char*> PyBytes_AS_STRING(received)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(received)
        cdef Py_ssize_t room = self._partial + self._whole
        cdef PyObject* data = NULL
        cdef Py_ssize_t place = 0
        cdef Py_ssize_t length
        cdef Py_ssize_t step
        cdef Py_ssize_t count
        cdef Py_ssize_t done = 0
        cdef bint kept = False
        self._received = None
        self._output_due = True
        # (As in _decrypt().)
        self._clean = False
        view = memoryview(received)
        try:
            data = _new_bytes(room)
            while place < self._whole:
                length = self._length if self._partial else self._length_of(start + place)
                step = length - self._partial
                self._incoming.write(view[place:place + step])
                place += step
                self._partial = 0
                self._seen = -1 if done else length
                try:
                    count = self._take_into(data, done, room, &kept)
                except _Again:
                    # A ticket, or the like.
                    continue
                if count <= 0:
                    self._ended = True
                    break
                done += count
                if done == room:
                    # It was compressed: there may be more.
                    self._inner = True
                    break
            else:
                self._clean = True
        except BaseException:
            if not kept:
                Py_XDECREF_raw(data)
            raise
        finally:
            if place < size:
                self._feed(view[place:], start + place, size - place)
        return _finish_bytes(data, done, room, kept)

    cdef object _decrypt_records(self, Py_ssize_t size):
        """Return what is in so many bytes of records, None if nothing is; _inner: there may be more."""
        cdef PyObject* data = _new_bytes(size)
        cdef Py_ssize_t count
        cdef Py_ssize_t done = 0
        cdef bint kept = False
        self._inner = False
        try:
            while True:
                count = self._take_into(data, done, size, &kept)
                if count <= 0:
                    self._ended = True
                    break
                done += count
                self._seen = -1
                if done == size:
                    self._inner = True
                    break
                if <Py_ssize_t> self._incoming.pending <= self._partial:
                    self._clean = True
                    break
        except _Again:
            pass
        except BaseException:
            if not kept:
                Py_XDECREF_raw(data)
            raise
        return _finish_bytes(data, done, size, kept)

    cdef Py_ssize_t _take_into(self, PyObject* data, Py_ssize_t done, Py_ssize_t size, bint* kept) except? -1:
        """Read into a new bytes object, behind what is done; kept: somebody else has its memory, too."""
        view = PyMemoryView_FromMemory(PyBytes_AS_STRING_raw(data) + done, size - done, PyBUF_WRITE)
        try:
            return self._take(size - done, view)
        finally:
            # Nobody has it any more when the object is the protocol's: a read() that somebody has put in the
            # place of SSLObject's may have kept a slice, or what else looks into it.
            if (<PyMemoryViewObject*> <PyObject*> view).mbuf.exports > 1:
                kept[0] = True
            try:
                view.release()
            except BufferError:
                kept[0] = True

    cdef object _decrypt_all(self):
        """The same, of an object of the program's, and where no headers tell: until there is no more."""
        parts = []
        self._inner = False
        self._seen = self._incoming.pending
        try:
            while True:
                data = self._take(self.max_size, None)
                self._seen = -1
                if not data:
                    self._ended = True
                    break
                parts.append(data)
        except _Again:
            pass
        if len(parts) > 1:
            return b''.join(parts)
        return parts[0] if parts else None

    cdef object _take(self, Py_ssize_t size, buffer):
        """Read from OpenSSL; _seen: what was in _incoming, -1 if what an interrupt stops may be more than that."""
        try:
            if buffer is None:
                return self._ssl_object.read(size)
            return self._ssl_object.read(size, buffer)
        except Exception:
            raise
        except BaseException:
            # differs[P9]
            if self._seen != <Py_ssize_t> self._incoming.pending:
                self._end_interrupted()
            raise

    cdef Py_ssize_t _count_unread(self) except -1:
        """Return how many bytes wait to be read, without those of a record that is not whole.

        (Where reading goes on, the stdlib's OpenSSL has taken them.)
        """
        return max(<Py_ssize_t> self._incoming.pending - self._partial, 0)

    cdef int _control_reading(self) except -1:
        if self._clean and not self._single and not self._ssl_reading_paused and not self._idle_is_stopped:
            return 0
        # (The last record must become whole, however low the limit is.)
        size = self._count_unread()
        if size >= self._incoming_high_water and not self._ssl_reading_paused:
            self._ssl_reading_paused = True
            self._transport.pause_reading()
        elif size <= self._incoming_low_water and self._ssl_reading_paused:
            self._ssl_reading_paused = False
            self._transport.resume_reading()
        return 0

    # Outgoing

    cdef int _write(self, data) except -1:
        cdef Py_ssize_t count
        cdef Py_ssize_t size
        # The rule; all else goes the long way.
        if (type(data) is not bytes or PyBytes_GET_SIZE(data) > _RECORD or self._state_now != WRAPPED
                or self._write_backlog or not self._usual):
            self._write_appdata((data,))
            return 0
        size = PyBytes_GET_SIZE(data)
        # (What is there is known without a look where all has been sent.)
        pending = self._outgoing.pending if self._output_due or self._ssl_writing_paused else 0
        try:
            try:
                count = self._ssl_object.write(data)
            except _Again:
                count = 0
            except BaseException:
                # differs[P9]: an interrupt; it is written later, unless it has been.
                if self._outgoing.pending == pending:
                    self._write_backlog.append(data)
                    self._write_buffer_size += size
                self._output_due = True
                self._loop.call_soon(self._do_read)
                raise
            if count < size:
                self._write_backlog.append(data[count:])
                self._write_buffer_size += size - count
            self._process_outgoing()
        except Exception as ex:
            self._fatal_error(ex, 'Fatal error on SSL protocol')
        return 0

    cdef int _encrypt(self) except -1:
        """Encrypt what waits, and send it."""
        cdef Py_ssize_t done
        cdef Py_ssize_t size
        cdef Py_ssize_t unsent = 0
        # Whether the transport below is full is asked once: what was written together is handed on together, also
        # the parts behind the one that fills it. It is the transport that sends what it has before it closes.
        cdef bint full = self._ssl_writing_paused
        # TLS below keeps what comes when it is full, and loses that if the peer ends: it is handed all in one piece.
        cdef bint over_tls = self._is_over_tls
        cdef Py_ssize_t pending
        backlog = self._write_backlog
        self._output_due = True
        try:
            if not self._usual:
                self._encrypt_as_written()
            while backlog:
                # differs[P5]
                data = self._take_first()
                try:
                    view = memoryview(data).cast('B')
                except Exception:
                    # It is no bytes: OpenSSL's module says so.
                    self._ssl_object.write(data)
                    raise
                if not len(data):
                    # Of which no record is made.
                    view.release()
                    del backlog[0]
                    continue
                done = 0
                size = len(view)
                try:
                    while done < size:
                        # differs[P6]
                        part = view if size <= _PART and not done else view[done:done + _PART]
                        pending = self._outgoing.pending
                        try:
                            count = self._ssl_object.write(part)
                        except _Again:
                            raise
                        except BaseException:
                            # differs[P9]
                            if <Py_ssize_t> self._outgoing.pending > pending:
                                done += len(part)
                            self._loop.call_soon(self._do_read)
                            raise
                        done += count
                        unsent += count
                        if unsent >= _PART and not full and not over_tls:
                            self._hand_on()
                            unsent = 0
                finally:
                    if done >= size:
                        del backlog[0]
                        self._write_buffer_size -= len(data)
                    elif done:
                        # (A copy: it is the program's, which may change it.)
                        backlog[0] = bytes(view[done:])
                        self._write_buffer_size -= len(data) - len(backlog[0])
                    part = None
                    view.release()
        except _Again:
            pass
        if not full:
            self._hand_on()
        self._control_writing()
        return 0

    cdef int _encrypt_as_written(self) except -1:
        """The same, with an object of the program's: piece by piece, of which it may take a part."""
        backlog = self._write_backlog
        while backlog:
            data = backlog[0]
            count = self._ssl_object.write(data)
            size = len(data)
            if count < size:
                backlog[0] = data[count:]
                self._write_buffer_size -= count
            else:
                del backlog[0]
                self._write_buffer_size -= size
        return 0

    cdef object _take_first(self):
        """Return the first of what waits, joined with those behind it that fit into the same record."""
        cdef Py_ssize_t size = 0
        backlog = self._write_backlog
        first = backlog[0]
        if len(backlog) == 1:
            return first
        pieces = []
        for piece in backlog:
            if type(piece) is not bytes and type(piece) is not bytearray:
                break
            size += len(piece)
            if size > _RECORD:
                break
            pieces.append(piece)
        if len(pieces) < 2:
            return first
        first = b''.join(pieces)
        for _ in range(len(pieces)):
            backlog.popleft()
        backlog.appendleft(first)
        return first

    cdef int _send(self) except -1:
        if not self._ssl_writing_paused:
            self._hand_on()
        return 0

    cdef int _hand_on(self) except -1:
        self._output_due = self._is_shared
        data = self._outgoing.read()
        if data:
            self._transport.write(data)
        return 0

    cdef int _control_writing(self) except -1:
        if not self._app_writing_paused and not self._ssl_writing_paused and not self._idle_is_full and (
                not self._write_backlog and not self._output_due):
            # What was written has been sent.
            return 0
        size = self._get_write_buffer_size()
        if size >= self._outgoing_high_water and not self._app_writing_paused:
            self._app_writing_paused = True
            try:
                self._app_protocol.pause_writing()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                self._tell_handler('protocol.pause_writing() failed', exc)
        elif size <= self._outgoing_low_water and self._app_writing_paused:
            self._app_writing_paused = False
            try:
                self._app_protocol.resume_writing()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                self._tell_handler('protocol.resume_writing() failed', exc)
        return 0

    cdef int _tell_handler(self, message, exc) except -1:
        self._loop.call_exception_handler({
            'message': message,
            'exception': exc,
            'transport': self._app_transport,
            'protocol': self,
        })
        return 0

    # The states

    cdef int _handshake(self) except -1:
        self._output_due = True
        try:
            self._ssl_object.do_handshake()
        except _Again:
            self._process_outgoing()
        except ssl.SSLError as exc:
            self._on_handshake_complete(exc)
        else:
            self._on_handshake_complete(None)
        return 0

    cdef int _flush(self) except -1:
        self._ask_openssl()
        self._read()
        self._switch_to(SHUTDOWN)
        self._shut_down()
        return 0

    cdef int _shut_down(self) except -1:
        try:
            if not self._eof_received:
                self._ssl_object.unwrap()
        except _Again:
            self._process_outgoing()
        except ssl.SSLError as exc:
            self._on_shutdown_complete(exc)
        else:
            self._process_outgoing()
            self._call_eof_received()
            self._on_shutdown_complete(None)
        return 0


# ours: what the loop makes for a connection over TLS
cdef dict _protocol_attributes = dict(vars(sslproto.SSLProtocol))
cdef dict _transport_attributes = dict(vars(sslproto._SSLProtocolTransport))
cdef object _stdlib_protocol = sslproto.SSLProtocol
cdef object _stdlib_transport = sslproto._SSLProtocolTransport


# ours: differs[P8]
def connection_class():
    """Return SSLProtocol; the stdlib's, if somebody has put another in its place or has changed its methods."""
    if (sslproto.SSLProtocol is _stdlib_protocol and sslproto._SSLProtocolTransport is _stdlib_transport
            and sslproto.ssl is ssl and vars(_stdlib_protocol) == _protocol_attributes
            and vars(_stdlib_transport) == _transport_attributes):
        return SSLProtocol
    return sslproto.SSLProtocol
