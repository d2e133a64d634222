# The layout of the TLS layer.
from cpython.object cimport PyObject


cdef class _SSLProtocolTransport:
    cdef readonly object _loop
    cdef readonly SSLProtocol _ssl_protocol
    cdef object __weakref__
    cdef dict __dict__                       # of what the program sets
    cdef public bint _closed

    cdef int _drop(self) except -1
    cdef SSLProtocol _reach(self, str name)


cdef class SSLProtocol:
    cdef readonly object _loop
    cdef readonly object _transport          # of the connection; None before it is made and when it is lost
    cdef readonly object _incoming           # MemoryBIO: what has been received, and OpenSSL has not read
    cdef readonly object _outgoing           # MemoryBIO: what OpenSSL has written, and has not been sent
    cdef object _ssl_object
    cdef readonly object _app_protocol
    cdef object _app_protocol_get_buffer
    cdef object _app_protocol_buffer_updated
    cdef readonly SSLProtocol _app_tls       # the protocol, if it is one of these: TLS in TLS
    cdef readonly _SSLProtocolTransport _app_transport
    cdef readonly object _write_backlog
    cdef public object _write_buffer_size
    cdef dict _names                         # what get_extra_info() knows
    cdef readonly object _waiter
    cdef readonly object _sslcontext
    cdef readonly object _server_hostname
    cdef readonly object _ssl_handshake_timeout
    cdef readonly object _ssl_shutdown_timeout
    cdef readonly object _handshake_timeout_handle
    cdef readonly object _shutdown_timeout_handle
    cdef readonly object _handshake_start_time
    cdef readonly object _incoming_high_water
    cdef readonly object _incoming_low_water
    cdef readonly object _outgoing_high_water
    cdef readonly object _outgoing_low_water
    cdef object _ssl_buffer                  # of who receives by get_buffer(); made when it is asked for
    cdef object __weakref__
    cdef dict __dict__                       # of what the program sets

    # What stands in _incoming, by the headers of its records.
    cdef Py_ssize_t _partial                 # how much of the last one has come, which is not whole
    cdef Py_ssize_t _length                  # of that one, once its header has come
    cdef Py_ssize_t _single                  # of the one that is whole, where there is no other
    cdef unsigned char _header[5]
    cdef int _version                        # the last byte of the version in each header, once that is known
    cdef int _first_kind                     # of records, in this version
    cdef bytes _received                     # what has come, and _decrypt() is to give to OpenSSL; None: nothing
    cdef Py_ssize_t _whole                   # how much of that are whole records
    cdef Py_ssize_t _seen                    # how much of it there was when OpenSSL was asked; -1: it has more
    cdef bint _clean                         # there is nothing but _single and _partial
    cdef bint _eager                         # what comes are no records: OpenSSL is to say so
    cdef bint _inner                         # OpenSSL may hold bytes that it has decrypted
    cdef bint _usual                         # _ssl_object is an ssl.SSLObject, and of no class of the program's
    cdef bint _ended                         # the last read found the peer's close_notify
    cdef bint _is_over_tls                   # the transport below is one over TLS, too
    cdef bint _output_due                    # OpenSSL may have written since _outgoing was sent
    cdef bint _is_shared                     # the program has the ssl_object, and may do so at any time

    cdef int _state_now
    cdef int _app_state_now
    cdef public Py_ssize_t _conn_lost
    cdef readonly bint _server_side
    cdef readonly bint _app_transport_created
    cdef readonly bint _app_protocol_is_buffer
    cdef readonly bint _ssl_writing_paused
    cdef readonly bint _app_reading_paused
    cdef readonly bint _ssl_reading_paused
    cdef readonly bint _app_writing_paused
    cdef readonly bint _eof_received
    cdef bint _idle_is_full                  # the high-water mark of writing is 0: so much is always there
    cdef bint _idle_is_stopped               # the same of reading

    # What a transport in C calls in the place of buffer_updated().
    cdef int bytes_received(self, bytes data) except -1

    cdef int _switch_to(self, int state) except -1
    cdef int _end_interrupted(self) except -1
    cdef int _feed(self, object data, const unsigned char* start, Py_ssize_t size) except -1
    cdef Py_ssize_t _measure(self, const unsigned char* start, Py_ssize_t size) noexcept
    cdef int _advance(self) except -1
    cdef int _handshake(self) except -1
    cdef int _flush(self) except -1
    cdef int _shut_down(self) except -1
    cdef int _write(self, data) except -1
    cdef int _encrypt(self) except -1
    cdef int _encrypt_as_written(self) except -1
    cdef object _take_first(self)
    cdef int _send(self) except -1
    cdef int _hand_on(self) except -1
    cdef int _read(self) except -1
    cdef int _read_into_buffer(self) except -1
    cdef int _read_bytes(self) except -1
    cdef Py_ssize_t _length_of(self, const unsigned char* header) noexcept
    cdef int _know_headers(self) except -1
    cdef int _be_eager(self) noexcept
    cdef int _share(self) noexcept
    cdef int _ask_openssl(self) noexcept
    cdef Py_ssize_t _count_whole(self) except? -1
    cdef Py_ssize_t _count_unread(self) except -1
    cdef object _decrypt(self)
    cdef object _decrypt_received(self)
    cdef object _decrypt_records(self, Py_ssize_t size)
    cdef Py_ssize_t _take_into(self, PyObject* data, Py_ssize_t done, Py_ssize_t size, bint* kept) except? -1
    cdef object _decrypt_all(self)
    cdef object _take(self, Py_ssize_t size, buffer)
    cdef int _control_writing(self) except -1
    cdef int _control_reading(self) except -1
    cdef int _tell_handler(self, message, exc) except -1
