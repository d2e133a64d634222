"""The stdlib's proactor transports on Linux; mirrors asyncio/proactor_events.py.

The stdlib's own transports run on the proactor as they are.  But they assume Windows' semantics, and
a chain of futures; programs on Linux hold a loop to the contract of selector_events.py's.  So each class
here is a subclass that overrides what breaks that contract, under a number of the list below, and keeps
the stdlib's names.  These classes are the reference tier: they stay, and faster ones are tested against
them.

Must not be in here: io_uring.  All these classes know is a proactor's methods.
"""
# T1: Reading is level-triggered, as on the selector loop: one operation waits as long as the transport
#     reads, is queued again before anybody is told that data is there, and takes nothing. So what comes
#     during a pause stays in the socket, a close() or pause in the same tick leaves nothing to tell, and
#     a callback that an interrupt has lost comes again.
# T2: Reading may be started twice (by the constructor, and by a pause and resume in connection_made): the
#     later start counts, with its context.
# T3: No transport has a buffer to receive into, and none of a closed one keeps its protocol alive: data
#     goes through one buffer a loop, or straight into that of a BufferedProtocol. An exception of the
#     protocol's method closes the transport, as on the selector loop.
# T4: A closing transport does not shut its socket down: that fails with ENOTCONN for a connection
#     that was reset and for each unconnected datagram socket, and it would cut off other owners of
#     the connection (dup(), fork()). Instead operations in flight, which would keep the file open,
#     are ended first.
# T5: Datagrams: reading and sending go on after an error, an empty datagram is a datagram, closing
#     sends what is queued and then ends. A socket that is connected is sent to, not addressed, and
#     the sender is who the kernel says it is. A datagram is sent at once if there is room for it, and
#     is not lost when the transport is aborted behind it; one that waits for room counts as queued.
#     Reading can be paused, as the selector loop's transports can.
# T6: One bad accept does not end the server: when descriptors or memory run out it pauses and tries
#     again; a client that is gone, or a protocol factory that raises, costs that connection only. All
#     that wait are accepted in one tick, up to the backlog.
# T7: The sock_* methods do at once what the socket's own method does, and wait where it would, as the selector
#     loop does (sock_calls): a cancelled one has taken nothing, even when the task is cancelled in the very
#     tick in which its data came, and wrong arguments raise what they raise there. Where a stream was found
#     empty they do not look again before the set of readiness has told of it, in the next turn at the earliest.
# T8: sock_connect resolves host names and takes every address family, as the selector loop does.
# T9: Sending a file goes by what was really sent: a file that shrinks ends it, the file's position
#     is right after an error, and a first error means that there is no native sendfile. Each block is
#     sent by the selector loop's own function, so that all of it is as on this Python, and detectors
#     of blocking calls (blockbuster), which know it by its file and name, do not tell of it.
# T10: TLS and plain connections are made on the transports of this file.
# T11: A transport that closes with data that has found no room takes what its protocol has left to say
#     until the last byte is out, as on the selector loop: TLS answers the peer's close_notify then. Where
#     all has found room, what is written behind close() is dropped, as there.
# T12: A loop that is made or closed does not set or unset the wake-up descriptor of signals, which may
#     be another's, and which not every thread may set.
# T13: Where asyncio hands a connection a context (from Python 3.15 on), all that the loop calls for
#     that connection runs in this one, as on the selector loop; the stdlib's proactor ignores it.
# T14: get_write_buffer_size() is what has found no room in the socket: it shrinks as the peer reads, and
#     at the low-water mark resume_writing() is called. Who asks has sent what was gathered (T16).
# T15: A transport is told what its socket is told by what it finds there, and who is told is its protocol
#     at that moment: nothing is received in advance.
# T16: Small writes leave at the end of the tick, all at once, those of one transport as one. They leave
#     before that when one is large, the buffer's size is asked for or would pass a limit, the transport
#     closes or is aborted, the process forks, the run ends or the loop closes: on the selector loop they
#     were out by then. A loop that does not run gathers nothing.
# T17: A transport that is collected, and not closed, leaves its server, where it does so on this
#     Python's selector loop.
# T18: Writing to a transport whose loop is closed sends what there is room for, and raises RuntimeError
#     when some is left, as on the selector loop.
# T19: A file that waits for what was written before it is not sent when the transport is aborted:
#     the stdlib's tells its sender then that all is out. Who sends one gets a ConnectionError, also
#     when the abort comes in the middle.
# T20: start_tls() is the stdlib's own, whatever that does on this Python, but makes the protocol of the
#     loop's tier.
import collections
import contextlib
import contextvars
import errno
import inspect
import io
import os
import socket
import types
import warnings
from asyncio import (
    base_events, constants, events, exceptions, proactor_events, protocols, sslproto, trsock, unix_events)
from asyncio.log import logger
from select import POLLIN, POLLOUT

from . import sock_calls
from .sock_calls import MUST_WAIT, Wait, wait

# Server._detach() takes the transport from Python 3.13 on.
DETACH_TAKES_TRANSPORT = 'transport' in inspect.signature(base_events.Server._detach).parameters

# Up to this size a write waits for the end of the tick, and with others up to the second. Larger
# ones gain nothing by it.
GATHER_ONE = 16383
GATHER_ALL = 65536


# ours: what each queued datagram counts besides its length, which depends on the Python
def _find_header_size():
    probe = types.SimpleNamespace(_address=None, _conn_lost=0, _buffer=[], _buffer_size=0,
                                  _write_fut=True, _maybe_pause_protocol=bool,
                                  # From late releases of 3.13 on; before, a number in sendto() itself.
                                  _header_size=getattr(proactor_events._ProactorDatagramTransport, '_header_size', 0))
    proactor_events._ProactorDatagramTransport.sendto(probe, b'1')
    return probe._buffer_size - 1


HEADER_SIZE = _find_header_size()

# accept(2): errors of one connection, or of the network below it; the next may be well.
_ACCEPT_GOES_ON = frozenset((
    errno.ECONNABORTED, errno.EPROTO, errno.ENOTCONN, errno.EPERM, errno.ENETDOWN,
    errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.ENETUNREACH,
    errno.ETIMEDOUT))
_ACCEPT_PAUSES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class _ClosingMixin:
    """The end of a transport, and what it waits for until then."""

    # differs[T13]: None for whatever context it is that asks.
    _context = None
    # Of a transport whose constructor was interrupted, which its protocol may abort.
    _empty_waiter = None
    # The number of its descriptor, by the name that the selector loop's transports have for it; it stays.
    _sock_fd = -1
    # The Handle that is run when the socket is readable, or writable, and its operation.
    _read_handle = _read_wait = None
    _write_handle = _write_wait = None

    # stdlib: _ProactorBasePipeTransport.__repr__
    def __repr__(self):
        info = [self.__class__.__name__]
        if self._sock is None:
            info.append('closed')
            info.append(f'fd={self._sock_fd}')
        else:
            if self._closing:
                info.append('closing')
            info.append(f'fd={self._sock.fileno()}')
            info.append('read=idle' if self._read_handle is None else 'read=polling')
            state = 'idle' if self._write_handle is None else 'polling'
            info.append(f'write=<{state}, bufsize={self._count_unsent()}>')
        return '<{}>'.format(' '.join(info))

    # stdlib: _ProactorBasePipeTransport.close
    def close(self):
        if self._closing:
            return
        # A closed loop refuses what follows; a second close() is nothing then.
        self._closing = self._loop.is_closed()
        # differs[T11]
        if self._flush() and not self._conn_lost:
            # Scheduled first: a second close(), behind one that was interrupted, does no harm.
            self._loop.call_soon(self._call_connection_lost, None, context=self._context)
            self._conn_lost += 1
        self._closing = True
        self._stop_reading()

    # stdlib: _ProactorBasePipeTransport.__del__
    def __del__(self, _warn=warnings.warn):
        if self._sock is not None:
            super().__del__(_warn)
            # differs[T17]
            if DETACH_TAKES_TRANSPORT and self._server is not None:
                self._server._detach(self)

    # stdlib: _ProactorBasePipeTransport._force_close
    def _force_close(self, exc):
        if self._conn_lost:
            return
        # differs[T16]
        self._flush()
        if self._conn_lost:
            return
        self._stop_writing()
        self._drop_unsent()
        # differs[T19]
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._conn_lost += self._loop.is_closed()
        self._loop.call_soon(self._call_connection_lost, exc, context=self._context)
        self._conn_lost += 1
        self._closing = True
        self._stop_reading()

    # stdlib: _ProactorBasePipeTransport._call_connection_lost
    def _call_connection_lost(self, exc):
        if self._called_connection_lost:
            return
        try:
            self._protocol.connection_lost(exc)
        finally:
            # A close() that was interrupted has not come to it, and may be called again.
            self._called_connection_lost = self._closing = True
            self._conn_lost += 1
            # differs[T4]
            proactor = self._loop._proactor
            if proactor is not None:
                proactor._settle(self._sock)
            self._sock.close()
            self._sock = None
            # differs[T3]
            self._protocol = None
            self._loop = None
            server = self._server
            if server is not None:
                if DETACH_TAKES_TRANSPORT:
                    server._detach(self)
                else:
                    server._detach()
                self._server = None
            self._stop_writing()
            self._drop_unsent()

    # stdlib: _ProactorReadPipeTransport.is_reading
    def is_reading(self):
        return not self._paused and not self._closing

    # stdlib: _ProactorReadPipeTransport.pause_reading
    def pause_reading(self):
        if self._closing or self._paused:
            return
        self._paused = True
        self._stop_reading()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    # stdlib: _ProactorReadPipeTransport.resume_reading
    def resume_reading(self):
        if self._closing or not self._paused:
            return
        self._paused = False
        self._loop_reading()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    # stdlib: _ProactorReadPipeTransport._loop_reading
    def _loop_reading(self, fut=None):
        if self._paused or self._closing:
            return
        # differs[T2]
        self._stop_reading()
        # differs[T1]
        self._read_handle, self._read_wait = self._run_when(POLLIN, self._read_ready)

    # -- ours: no counterpart in the stdlib's class --

    def _run_when(self, events_, callback):
        """Call back in each tick in which the socket is ready; return what _stop_x() cancels."""
        loop = self._loop
        # differs[T18]
        loop._check_closed()
        handle = events.Handle(callback, (), loop, self._context)
        return handle, loop._proactor._run_when_ready(self._sock, events_, handle)

    def _stop_reading(self):
        if self._read_handle is not None:
            self._read_handle.cancel()
            self._read_wait.cancel()
            self._read_handle = self._read_wait = None

    def _start_writing(self):
        # (Cancelled: an interrupt came into _stop_writing().)
        if self._write_handle is None or self._write_handle._cancelled:
            self._write_handle, self._write_wait = self._run_when(POLLOUT, self._write_ready)

    def _stop_writing(self):
        if self._write_handle is not None:
            self._write_handle.cancel()
            self._write_wait.cancel()
            self._write_handle = self._write_wait = None


class _ReadingMixin(_ClosingMixin):
    """Reading from a stream, as the selector loop's transport does it.  differs[T15] throughout."""

    # The most that one data_received() is given: the selector loop's.
    max_size = 256 * 1024

    # -- ours: no counterpart in the stdlib's class --

    def _read_ready(self):
        if self._conn_lost or self._closing:
            # The close() was interrupted.
            self._stop_reading()
            return
        if isinstance(self._protocol, protocols.BufferedProtocol):
            self._read_ready__get_buffer()
            return
        try:
            data = self._loop._proactor._receive(self._sock, self.max_size)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._send_regardless()
            self._fatal_error(exc, 'Fatal read error on socket transport')
            return

        if not data:
            if not self._has_failed():
                self._eof_received()
            return

        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal error: protocol.data_received() call failed.')

    def _read_ready__get_buffer(self):
        try:
            buf = self._protocol.get_buffer(-1)
            if not len(buf):
                raise RuntimeError('get_buffer() returned an empty buffer')
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal error: protocol.get_buffer() call failed.')
            return

        try:
            nbytes = self._sock.recv_into(buf)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._send_regardless()
            self._fatal_error(exc, 'Fatal read error on socket transport')
            return

        if not nbytes:
            if not self._has_failed():
                self._eof_received()
            return

        try:
            self._protocol.buffer_updated(nbytes)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal error: protocol.buffer_updated() call failed.')

    # stdlib: _ProactorReadPipeTransport._eof_received
    def _eof_received(self):
        super()._eof_received()
        # The connection stays open, to be written to; the end would be told in each tick.
        if not self._closing:
            self._stop_reading()


class _NoBufferMixin(proactor_events._ProactorReadPipeTransport):
    """Stands behind the stdlib's class, whose buffer to receive into is not used."""

    # stdlib: _ProactorReadPipeTransport.__init__
    def __init__(self, loop, sock, protocol, waiter=None,
                 extra=None, server=None, buffer_size=65536):
        # differs[T3]
        super().__init__(loop, sock, protocol, waiter, extra, server, buffer_size=0)


# ours: the bytes that a socket's method would send, whatever bytes() says of an object of the program's
def _copy(data):
    return data if type(data) is bytes else bytes(memoryview(data))


# ours: what writelines() takes
def join_pieces(pieces):
    """Return them as one; for what is no bytes TypeError, as the selector loop's transport has it."""
    if type(pieces) is not list and type(pieces) is not tuple:
        pieces = list(pieces)
    try:
        return b''.join(pieces)
    except TypeError:
        pass
    return b''.join([memoryview(piece) for piece in pieces])


class _WritingMixin(_ClosingMixin):
    """Writing to a stream, on Linux.  differs[T16] throughout.

    What is small is gathered and leaves at the end of the tick (_gathered).  What is not, or has a
    consequence, is sent at once, and what there is no room for waits until there is (_buffer).
    """

    # The Overlapped of what was gathered last, and the Handle of its failure.
    _gathered = _failed_handle = None

    # stdlib: _ProactorBasePipeTransport.get_write_buffer_size
    def get_write_buffer_size(self):
        # differs[T14]
        if self._gathered is not None:
            self._flush()
        return self._count_unsent()

    # stdlib: _ProactorBaseWritePipeTransport.write
    def write(self, data):
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f'data argument must be a bytes-like object, '
                            f'not {type(data).__name__!r}')
        if self._eof_written:
            raise RuntimeError('Cannot call write() after write_eof()')
        if self._empty_waiter is not None:
            raise RuntimeError('unable to write; sendfile is in progress')
        if not data:
            return

        if self._conn_lost:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning('socket.send() raised exception.')
            self._conn_lost += 1
            return

        loop = self._loop
        if self._buffer:
            # The program may change what it has written.
            self._buffer.append(_copy(data))
            self._start_writing()
            self._maybe_pause_protocol()
            return
        gathered = self._gathered
        if gathered is not None:
            if gathered.pending:
                if type(data) is not bytes:
                    data = _copy(data)
                limit = self._high_water
                if loop._proactor._extend_send(
                        gathered, data, int(limit) if limit < GATHER_ALL else GATHER_ALL):
                    return
                if not self._flush():
                    if not self._conn_lost:
                        self._buffer.append(data)
                        self._maybe_pause_protocol()
                    return
            elif gathered.error:
                self._gathering_failed()
                return
        size = data.nbytes if type(data) is memoryview else len(data)
        if size <= GATHER_ONE and size <= self._high_water and (
                loop._gathers_writes and not self._closing):
            if type(data) is not bytes:
                data = _copy(data)
            if self._failed_handle is None:
                self._failed_handle = events.Handle(
                    self._gathering_failed, (), loop, self._context)
            try:
                self._gathered = loop._proactor._send_soon(self._sock, data, self._failed_handle)
            except OSError:
                # It is closed, which ends the transport below, as each error of sending does.
                self._gathered = None
            if self._gathered is not None:
                return
        self._send(data)
        if self._buffer:
            self._maybe_pause_protocol()

    # stdlib: WriteTransport.writelines
    def writelines(self, list_of_data):
        if self._eof_written:
            raise RuntimeError('Cannot call writelines() after write_eof()')
        if self._empty_waiter is not None:
            raise RuntimeError('unable to writelines; sendfile is in progress')
        if list_of_data:
            # (Not by a write() of the program's.)
            _WritingMixin.write(self, join_pieces(list_of_data))

    # stdlib: _ProactorBaseWritePipeTransport._make_empty_waiter
    def _make_empty_waiter(self):
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        if self._flush() and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    # -- ours: no counterpart in the stdlib's class --

    def _count_unsent(self):
        size = sum(map(len, self._buffer)) if self._buffer else 0
        return size if self._gathered is None else size + self._gathered.unsent

    def _flush(self):
        """Send what was gathered now; true if nothing is left to send."""
        gathered = self._gathered
        if gathered is not None:
            if gathered.pending:
                if self._buffer is None:
                    self._buffer = collections.deque()
                if gathered.take_back(self._buffer.appendleft):
                    self._gathered = None
                    if self._write_handle is None:
                        self._send_buffer()
                elif gathered.unsent:
                    # In flight: the kernel found no room when the last tick ended.
                    self._start_writing()
                    return False
            elif gathered.error:
                self._gathered = None
                self._fatal_error(OSError(gathered.error, os.strerror(gathered.error)),
                                  'Fatal write error on socket transport')
            self._gathered = None
        if self._buffer:
            self._start_writing()
            return False
        return True

    def _send(self, data):
        """Send what there is room for; the rest waits for some."""
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal write error on socket transport')
            return
        if sent < (data.nbytes if type(data) is memoryview else len(data)):
            # The program may change what it has written.
            rest = memoryview(_copy(data))[sent:]
            self._start_writing()
            if self._buffer:
                self._buffer.appendleft(rest)
            else:
                self._buffer = collections.deque((rest,))

    def _write_ready(self):
        """Send what waited for room, as the selector loop's transport does."""
        if self._conn_lost:
            return
        gathered = self._gathered
        if gathered is not None:
            if gathered.pending and gathered.unsent:
                self._maybe_resume_protocol()
                return
            self._flush()
            if self._conn_lost:
                return
        if self._buffer:
            self._send_buffer()
            if self._conn_lost:
                return
        self._maybe_resume_protocol()  # It may write.
        if self._buffer or self._conn_lost:
            return
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._closing:
            self._call_connection_lost(None)
            return
        if self._eof_written:
            self._sock.shutdown(socket.SHUT_WR)
        # Last: whatever an interrupt has left undone above comes again.
        self._buffer = None
        self._stop_writing()

    def _send_buffer(self):
        """Send of the buffer what there is room for."""
        buffer = self._buffer
        try:
            sock_calls.send_pieces(self._sock, buffer)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._buffer = None
            self._fatal_error(exc, 'Fatal write error on socket transport')

    def _gathering_failed(self):
        gathered = self._gathered
        if gathered is not None and not gathered.pending and not self._conn_lost:
            self._flush()

    def _has_failed(self):
        """True if what was gathered has met an error, which ends the connection."""
        # The socket tells it once, and the end of the stream from then on.
        if self._gathered is not None and self._gathered.error:
            self._gathering_failed()
        return self._conn_lost

    def _send_regardless(self):
        gathered, rest = self._gathered, collections.deque()
        if gathered is not None and gathered.pending and gathered.take_back(rest.appendleft):
            self._gathered = None
            with contextlib.suppress(OSError):
                # (No SIGPIPE: it is a send that the selector loop has made before.)
                self._sock.sendmsg(rest, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _drop_unsent(self):
        if self._gathered is not None:
            self._gathered.cancel()
            self._gathered = None
        if self._failed_handle is not None:
            self._failed_handle.cancel()
            self._failed_handle = None
        self._buffer = None


# ours: what sendto() takes
def check_datagram(data):
    """Return data as bytes; for what is none TypeError, as the selector loop's transport has it."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f'data argument must be a bytes-like object, not {type(data).__name__!r}')
    # (The stdlib's sendto() counts the items of a memoryview.)
    return _copy(data)


# stdlib: _ProactorDatagramTransport
class _ProactorDatagramTransport(_ClosingMixin, proactor_events._ProactorDatagramTransport):
    """Transport for datagrams.  differs[T5] throughout."""

    _paused = False

    # stdlib: _ProactorDatagramTransport.__init__
    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        self._queueing = False
        super().__init__(loop, sock, protocol, address, waiter, extra)

    # stdlib: _ProactorDatagramTransport.sendto
    def sendto(self, data, addr=None):
        data = check_datagram(data)
        if self._sock is None:
            return                        # closed: there is nowhere to send to
        # The stdlib's method checks and queues; what it would do at once is done below.
        self._queueing = True
        try:
            super().sendto(data, addr)
        finally:
            self._queueing = False
        if self._flush():
            return
        self._maybe_pause_protocol()

    # stdlib: _ProactorDatagramTransport._loop_writing
    def _loop_writing(self, fut=None):
        # The stdlib's sendto() would have one sent.
        pass

    # stdlib: _FlowControlMixin._maybe_pause_protocol
    def _maybe_pause_protocol(self):
        # What is being queued may leave at once.
        if not self._queueing:
            super()._maybe_pause_protocol()

    # -- ours: no counterpart in the stdlib's class --

    def _read_ready(self):
        if self._conn_lost or self._closing:
            # The close() was interrupted.
            self._stop_reading()
            return
        try:
            data, addr = self._loop._proactor._receive_from(self._sock, self.max_size)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal read error on datagram transport')
        else:
            self._protocol.datagram_received(data, addr)

    def _write_ready(self):
        """Send what is queued, as long as there is room."""
        # error_received() may have closed, aborted or sent.
        while self._buffer:
            # Out of the queue first: one that is interrupted is not sent again.
            data, addr = self._buffer.popleft()
            self._buffer_size -= len(data) + HEADER_SIZE
            error = None
            try:
                self._send(data, addr)
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
        self._maybe_resume_protocol()
        if not self._buffer and self._write_handle is not None:
            try:
                self._stop_writing()
            finally:
                # Last, since what connection_lost() sends is sent at once.
                if self._closing:
                    self._call_connection_lost(None)

    def _send(self, data, addr):
        if self._address is not None or self._extra.get('peername'):
            self._sock.send(data)
        else:
            self._sock.sendto(data, addr)

    def _count_unsent(self):
        return self._buffer_size

    def _flush(self):
        """Send what is queued; true if nothing is left."""
        if self._buffer and self._write_handle is None:
            self._write_ready()
        return not self._buffer

    def _drop_unsent(self):
        self._buffer.clear()
        self._buffer_size = 0


# stdlib: _ProactorDuplexPipeTransport
class _ProactorDuplexPipeTransport(_ReadingMixin, _WritingMixin,
                                   proactor_events._ProactorDuplexPipeTransport,
                                   _NoBufferMixin):
    """Transport for duplex pipes."""


# stdlib: _ProactorSocketTransport
class _ProactorSocketTransport(_ReadingMixin, _WritingMixin,
                               proactor_events._ProactorSocketTransport,
                               _NoBufferMixin):
    """Transport for connected sockets."""

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


class _OneContextSocketTransport(_ProactorSocketTransport):
    """The same in a context of its own.  differs[T13]

    What the loop calls enters the context; what the program calls, such as write(), does not.
    """

    # ours: the context is an argument
    def __init__(self, loop, sock, protocol, waiter, extra, server, context):
        self._context = context
        super().__init__(_LoopOfConstructor(loop, context), sock, protocol, waiter, extra, server)
        self._loop = loop


class _LoopOfConstructor:
    """Stands for the loop in the stdlib's constructor, whose call_soon() gives no context."""

    def __init__(self, loop, context):
        self._loop = loop
        self._context = context

    def call_soon(self, callback, *args, context=None):
        return self._loop.call_soon(callback, *args, context=self._context if context is None else context)

    # All else, also when the constructor was interrupted and leaves this behind.
    def __getattr__(self, name):
        return getattr(self._loop, name)


# ours: one of the two classes
def _make_socket_transport(loop, sock, protocol, waiter, extra, server, context):
    if context is None:
        return _ProactorSocketTransport(loop, sock, protocol, waiter, extra, server)
    return _OneContextSocketTransport(loop, sock, protocol, waiter, extra, server, context)


# ours: of what class the protocol of a connection over TLS is
def _ssl_protocol_class():
    return sslproto.SSLProtocol


# ours: the names that the stdlib's start_tls() finds; differs[T20]
class _StartTlsNames(dict):

    def __missing__(self, name):
        # As they are now: somebody may have put something else there.
        return vars(base_events)[name]

    @staticmethod
    def SSLProtocol(loop, *args, **kwargs):
        return loop._tier._ssl_protocol_class()(loop, *args, **kwargs)


_start_tls = types.FunctionType(
    base_events.BaseEventLoop.start_tls.__code__,
    _StartTlsNames(__name__=base_events.__name__, __package__=base_events.__package__,
                   __spec__=base_events.__spec__, sslproto=_StartTlsNames))
_start_tls.__kwdefaults__ = base_events.BaseEventLoop.start_tls.__kwdefaults__


# ours: differs[T9]
class _Sendfile:
    """What _sock_sendfile_native_impl() takes for its loop: it calls nothing back, and says how it would be called."""

    _sock_sendfile_native_impl = unix_events._UnixSelectorEventLoop._sock_sendfile_native_impl
    _sock_sendfile_update_filepos = unix_events._UnixSelectorEventLoop._sock_sendfile_update_filepos

    def add_writer(self, fd, callback, *args):
        self.next_step = args

    def remove_writer(self, fd):
        pass

    def _sock_add_cancellation_callback(self, fut, sock):
        pass


# ours: inner functions of BaseProactorEventLoop._start_serving
class _Acceptor:
    """Accepts the connections of one listening socket.  differs[T6] throughout.

    A class, since inner functions that name each other are a cycle.
    """

    __slots__ = ('_loop', '_protocol_factory', '_sock', '_fd', '_sslcontext', '_server', '_backlog',
                 '_timeouts', '_context', '_handle', '_wait')

    def __init__(self, loop, protocol_factory, sock, sslcontext, server, backlog,
                 ssl_handshake_timeout, ssl_shutdown_timeout, context):
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._sock = sock
        self._fd = sock.fileno()
        self._sslcontext = sslcontext
        self._server = server
        self._backlog = backlog
        self._timeouts = {'ssl_handshake_timeout': ssl_handshake_timeout,
                          'ssl_shutdown_timeout': ssl_shutdown_timeout}
        self._context = context
        self._handle = self._wait = None

    def start(self):
        """Have accept() called in each tick in which a client waits."""
        loop = self._loop
        # The loop cancels what it finds here when it stops serving.
        loop._accept_futures[self._fd] = self
        self._handle = events.Handle(self.accept, (), loop)
        self._wait = loop._proactor._run_when_ready(self._sock, POLLIN, self._handle, True)

    def cancel(self):
        if self._handle is not None:
            self._handle.cancel()
            self._wait.cancel()
            self._handle = self._wait = None

    def is_stopped(self):
        return self._loop._accept_futures.get(self._fd) is not self

    def accept(self):
        loop = self._loop
        # As the later of the selector loop's: a backlog of 0 is one client, too.
        for _ in range(self._backlog + 1):
            if self.is_stopped():
                return                    # maybe in this tick
            try:
                conn, addr = self._sock.accept()
                conn.setblocking(False)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if self.failed(exc):
                    continue
                return
            if loop._debug:
                logger.debug("%r got a new connection from %r: %r",
                             self._server, addr, conn)
            if self._context is None:
                # What the factory sets is for this connection: the selector loop has a task for each.
                contextvars.copy_context().run(self.connect, conn, addr, None)
            else:
                # differs[T13]
                context = self._context.copy()
                context.run(self.connect, conn, addr, context)

    def connect(self, conn, addr, context):
        loop = self._loop
        protocol = None
        try:
            protocol = self._protocol_factory()
            if self._sslcontext is not None:
                loop._make_ssl_transport(
                    conn, protocol, self._sslcontext, server_side=True,
                    extra={'peername': addr}, server=self._server,
                    context=context, **self._timeouts)
            else:
                loop._make_socket_transport(
                    conn, protocol,
                    extra={'peername': addr}, server=self._server,
                    context=context)
        except (SystemExit, KeyboardInterrupt):
            # A transport that is whole has begun to read: it goes on.
            if not self.is_served(conn):
                conn.close()
            raise
        except BaseException as exc:
            conn.close()
            if loop._debug:
                context = {
                    'message': 'Error on transport creation for incoming connection',
                    'exception': exc,
                }
                if protocol is not None:
                    context['protocol'] = protocol
                loop.call_exception_handler(context)

    def is_served(self, conn):
        """Tell whether there is a transport on this connection; its number may have been another's."""
        return getattr(self._loop._transports.get(conn.fileno()), '_sock', None) is conn

    def failed(self, exc):
        """Tell what to do after a failed accept: True to go on."""
        if exc.errno in _ACCEPT_GOES_ON:
            return True
        loop, sock = self._loop, self._sock
        if exc.errno in _ACCEPT_PAUSES:
            loop.call_exception_handler({
                'message': 'socket.accept() out of system resource',
                'exception': exc,
                'socket': trsock.TransportSocket(sock),
            })
            self.cancel()
            loop.call_later(constants.ACCEPT_RETRY_DELAY, self.retry)
        elif sock.fileno() != -1:
            loop.call_exception_handler({
                'message': 'Accept failed on a socket',
                'exception': exc,
                'socket': trsock.TransportSocket(sock),
            })
            self.cancel()
            sock.close()
        elif loop._debug:
            logger.debug("Accept failed on socket %r",
                         sock, exc_info=True)
        return False

    def retry(self):
        if not self.is_stopped():
            self.start()


# stdlib: BaseProactorEventLoop
class BaseProactorEventLoop(proactor_events.BaseProactorEventLoop):
    """The stdlib's proactor loop, with the transports above or those of another tier."""

    # differs[T16]: true in a run, at whose end nothing is left. Another driver of the loop has no such end.
    _gathers_writes = False

    # Of which module the transports are; see `tiers`.
    _tier = None

    # stdlib: BaseProactorEventLoop.__init__
    def __init__(self, proactor):
        # differs[T12]
        super(proactor_events.BaseProactorEventLoop, self).__init__()
        logger.debug('Using proactor: %s', proactor.__class__.__name__)
        self._proactor = proactor
        self._selector = proactor
        self._self_reading_future = None
        self._accept_futures = {}
        proactor.set_loop(self)
        self._make_self_pipe()

    # stdlib: BaseProactorEventLoop._make_socket_transport
    def _make_socket_transport(self, sock, protocol, waiter=None,
                               extra=None, server=None, context=None):
        # differs[T10]
        self._ensure_fd_no_transport(sock)
        return self._adopt(sock, self._tier._make_socket_transport(
            self, sock, protocol, waiter, extra, server, context))

    # stdlib: BaseProactorEventLoop._make_ssl_transport
    def _make_ssl_transport(
            self, rawsock, protocol, sslcontext, waiter=None,
            *, server_side=False, server_hostname=None,
            extra=None, server=None,
            ssl_handshake_timeout=None,
            ssl_shutdown_timeout=None, context=None):
        # differs[T10]
        self._ensure_fd_no_transport(rawsock)
        ssl_protocol = self._tier._ssl_protocol_class()(
            self, protocol, sslcontext, waiter,
            server_side, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout)
        self._adopt(rawsock, self._tier._make_socket_transport(
            self, rawsock, ssl_protocol, None, extra, server, context))
        return ssl_protocol._app_transport

    # stdlib: BaseEventLoop.start_tls
    async def start_tls(self, transport, protocol, sslcontext, *,
                        server_side=False,
                        server_hostname=None,
                        ssl_handshake_timeout=None,
                        ssl_shutdown_timeout=None):
        # differs[T20]
        return await _start_tls(
            self, transport, protocol, sslcontext,
            server_side=server_side, server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout)

    # stdlib: BaseProactorEventLoop._make_datagram_transport
    def _make_datagram_transport(self, sock, protocol,
                                 address=None, waiter=None, extra=None):
        # differs[T5]
        return self._adopt(sock, self._tier._ProactorDatagramTransport(
            self, sock, protocol, address, waiter, extra))

    # stdlib: BaseProactorEventLoop._make_duplex_pipe_transport
    def _make_duplex_pipe_transport(self, sock, protocol, waiter=None,
                                    extra=None):
        return self._adopt(sock, self._tier._ProactorDuplexPipeTransport(
            self, sock, protocol, waiter, extra))

    # stdlib: BaseProactorEventLoop.close
    def close(self):
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return

        # differs[T12]
        self._stop_accept_futures()
        self._close_self_pipe()
        self._proactor.close()
        self._proactor = None
        self._selector = None

        super(proactor_events.BaseProactorEventLoop, self).close()

    # stdlib: BaseProactorEventLoop.sock_recv
    async def sock_recv(self, sock, n):
        # differs[T7], here and in the methods below: each attempt checks its socket.
        while type(data := sock_calls.recv(self, sock, n)) is Wait:
            await data
        return data

    # stdlib: BaseProactorEventLoop.sock_recv_into
    async def sock_recv_into(self, sock, buf):
        while type(received := sock_calls.recv_into(self, sock, buf)) is Wait:
            await received
        return received

    # stdlib: BaseProactorEventLoop.sock_recvfrom
    async def sock_recvfrom(self, sock, bufsize):
        while (received := sock_calls.recvfrom(self, sock, bufsize)) is MUST_WAIT:
            await wait(self, sock, POLLIN)
        return received

    # stdlib: BaseProactorEventLoop.sock_recvfrom_into
    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        self._check_sock(sock)
        if not nbytes:
            nbytes = len(buf)

        while (received := sock_calls.recvfrom_into(self, sock, buf, nbytes)) is MUST_WAIT:
            await wait(self, sock, POLLIN)
        return received

    # stdlib: BaseProactorEventLoop.sock_sendall
    async def sock_sendall(self, sock, data):
        sent = sock_calls.send(self, sock, data)
        if sent is not None:
            await self._sock_send_rest(sock, data, sent)

    # stdlib: BaseProactorEventLoop.sock_sendto
    async def sock_sendto(self, sock, data, address):
        while (sent := sock_calls.attempt(self, sock, POLLOUT, 'sendto', data, address)) is MUST_WAIT:
            await wait(self, sock, POLLOUT)
        return sent

    # stdlib: BaseProactorEventLoop.sock_connect
    async def sock_connect(self, sock, address):
        self._check_sock(sock)
        # differs[T8]
        if sock.family == socket.AF_INET or (
                base_events._HAS_IPv6 and sock.family == socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            _, _, _, _, address = resolved[0]

        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            pass
        await wait(self, sock, POLLOUT)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error != 0:
            raise OSError(error, f'Connect call failed {address}')

    # stdlib: BaseProactorEventLoop.sock_accept
    async def sock_accept(self, sock):
        while (accepted := sock_calls.attempt(self, sock, POLLIN, 'accept')) is MUST_WAIT:
            await wait(self, sock, POLLIN)
        conn, address = accepted
        conn.setblocking(False)
        return conn, address

    # stdlib: BaseProactorEventLoop._sock_sendfile_native
    async def _sock_sendfile_native(self, sock, file, offset, count):
        # Where unix_events asks for it: who takes it away there (a test) means this loop, too.
        if not hasattr(unix_events.os, 'sendfile'):
            raise exceptions.SendfileNotAvailableError("os.sendfile() is not available")
        try:
            fileno = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise exceptions.SendfileNotAvailableError("not a regular file")
        try:
            fsize = os.fstat(fileno).st_size
        except OSError:
            raise exceptions.SendfileNotAvailableError("not a regular file")
        if not (count or fsize):
            return 0  # empty file

        # differs[T9]
        fut = self.create_future()
        sending = _Sendfile()
        step = fut, None, sock, fileno, offset, count, count or fsize, 0
        try:
            while True:
                sending._sock_sendfile_native_impl(*step)
                if fut.done():
                    return fut.result()
                step = sending.next_step
                self._ensure_may_sendfile(sock.fileno())
                if count and step[-1] >= count:
                    continue
                # Also after a success: others have their turn between two blocks.
                try:
                    await self._proactor._poll_socket(sock, POLLOUT)
                except OSError as exc:
                    if exc.errno != errno.ECANCELED:
                        raise
                    # differs[T19]: it is the transport's own end that cancels a wait on its socket.
                    raise ConnectionError("Connection is closed by peer") from exc
        finally:
            if not fut.done():
                # It sets the file's position then.
                fut.cancel()
                sending._sock_sendfile_native_impl(*step)

    # stdlib: BaseProactorEventLoop._start_serving
    def _start_serving(self, protocol_factory, sock,
                       sslcontext=None, server=None, backlog=100,
                       ssl_handshake_timeout=None,
                       ssl_shutdown_timeout=None, context=None):
        # differs[T6]
        if not isinstance(sock.fileno(), int):
            # At once and to the caller, as the selector loop says it.
            raise ValueError(f"Invalid file object: {sock!r}")

        self._tier._Acceptor(self, protocol_factory, sock, sslcontext, server, backlog,
                             ssl_handshake_timeout, ssl_shutdown_timeout, context).start()

    # -- ours: no counterpart in the stdlib's class --

    def _adopt(self, sock, transport):
        number = sock.fileno()
        # The classes' __slots__ keep the instance's values out of line, in a dict that shares its
        # keys: of all kinds the one whose lookups CPython 3.13 does not specialize. In a dict of
        # its own they are, some thirty a message. (A native transport has none before it is asked for.)
        if isinstance(transport, _ClosingMixin):
            transport.__dict__ = {**transport.__dict__, '_sock_fd': number}
        # A reader that was forgotten would take the transport's bytes.
        if number in self._keys:
            self._remove_reader(number)
        # Nor is the set to go on looking at it, which sock_connect() or sock_accept() have waited in.
        self._proactor._forget(number)
        # Readers and writers of this descriptor are refused (_ensure_fd_no_transport).
        self._transports[number] = transport
        return transport

    def _ensure_may_sendfile(self, fd):
        # The selector loop's transport is not in the dict while it sends a file of its own.
        transport = self._transports.get(fd)
        if transport is None or transport._empty_waiter is None:
            self._ensure_fd_no_transport(fd)

    def _check_sock(self, sock):
        # As the selector loop, before each operation on a user's socket.
        self._check_closed()
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    # Apart from sock_sendall(), whose frame is smaller without it.
    async def _sock_send_rest(self, sock, data, sent):
        # Given back at the end, whatever keeps this frame (a traceback).
        with memoryview(data) as whole, whole.cast('B') as view:
            while sent < len(view):
                await wait(self, sock, POLLOUT)
                with view[sent:] as rest:
                    more = sock_calls.send(self, sock, rest)
                    sent += len(rest) if more is None else more
