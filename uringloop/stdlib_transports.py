"""The stdlib's proactor transports on Linux; mirrors asyncio/proactor_events.py.

The transports are the stdlib's own, unmodified.  Where their assumptions hold on Windows only, the
smallest subclass overrides the one method, under a number of the list below.  These classes are the
reference tier: they stay, and faster ones are tested against them.

Must not be in here: io_uring.  All these classes know is a proactor's methods.
"""
# T1: A cancelled receive takes nothing from the socket here, so pause_reading() cancels it: what
#     arrives after the pause stays in the socket, for whoever reads it next (another owner of the
#     connection, start_tls).
# T2: Reading that was scheduled twice (by the constructor and by a pause and resume in
#     connection_made) starts once; and it is not started again while an end of the stream that
#     arrived during a pause is still to be told. Behind one that was told it is: the protocol may be
#     another (start_tls) and has to hear of it.
# T3: An exception of data_received() closes the transport, as on the selector loop. What was kept
#     during a pause is handed on as bytes, as all other data is.
# T4: A closing transport does not shut its socket down: that fails with ENOTCONN for a connection
#     that was reset and for each unconnected datagram socket, and it would cut off other owners of
#     the connection (dup(), fork()). Instead operations in flight, which would keep the file open,
#     are ended first.
# T5: Datagrams: reading and sending go on after an error, an empty datagram is a datagram, closing
#     sends what is queued and then ends. A socket that is connected is sent to, not addressed, and
#     the sender is who the kernel says it is. A datagram is sent at once if there is room for it, and
#     is not lost when the transport is aborted behind it; one that waits for room counts as queued.
# T6: One bad accept does not end the server: when descriptors or memory run out it pauses and tries
#     again; a client that is gone, or a protocol factory that raises, costs that connection only.
# T7: The sock_* methods call the socket's own method and use the proactor to wait, as the selector
#     loop does: a cancelled one has taken nothing, even when the task is cancelled in the very
#     tick in which its data came, and wrong arguments raise what they raise there. sock_sendall
#     hands the buffer to the proactor whole, and returns None; what fits is out before it first
#     waits, so that the socket may be closed behind it.
# T8: sock_connect resolves host names and takes every address family, as the selector loop does.
# T9: Sending a file goes by what was really sent: a file that shrinks ends it, the file's position
#     is right after an error, and a first error means that there is no native sendfile. Each block is
#     sent by the selector loop's own function, so that all of it is as on this Python, and detectors
#     of blocking calls (blockbuster), which know it by its file and name, do not tell of it.
# T10: TLS and plain connections are made on the transports of this file.
# T11: A transport that closes with data still to send takes what its protocol has left to say until
#     the last byte is out, as on the selector loop: TLS answers the peer's close_notify then.
# T12: A loop that is made or closed does not set or unset the wake-up descriptor of signals, which may
#     be another's, and which not every thread may set.
# T13: Where asyncio hands a connection a context (from Python 3.15 on), all that the loop calls for
#     that connection runs in this one, as on the selector loop; the stdlib's proactor ignores it.
# T14: resume_writing() is called when the buffer has shrunk to its low-water mark, and not only when
#     it is empty: one that others keep writing to would hold a paused writer for ever.
# T15: A BufferedProtocol that pauses, closes or changes the protocol in buffer_updated() is given no
#     more of what was received with one call; a pause keeps it, and the next protocol is given it.
# T16: Small writes leave at the end of the tick, all at once, those of one transport as one. They leave
#     before that when a transport is aborted, the run ends or the loop closes: on the selector loop
#     they were out by then. What is written between the end of a send and its callback leaves at once.
# T17: A transport that is collected, and not closed, leaves its server, where it does so on this
#     Python's selector loop.
# T18: Writing to a transport whose loop is closed raises RuntimeError, which says so.
# T19: A file that waits for what was written before it is not sent when the transport is aborted:
#     the stdlib's tells its sender then that all is out. Who sends one gets a ConnectionError, also
#     when the abort comes in the middle.
import collections
import contextlib
import errno
import functools
import inspect
import io
import os
import select
import socket
import warnings
from asyncio import (
    base_events, constants, exceptions, proactor_events, protocols, sslproto, trsock, unix_events)
from asyncio.log import logger

# Server._detach() takes the transport from Python 3.13 on.
_DETACH_TAKES_TRANSPORT = 'transport' in inspect.signature(base_events.Server._detach).parameters

# The base class's method, called by name: super() would search all bases at every read.
_read_data_received = proactor_events._ProactorReadPipeTransport._data_received

# accept(2): errors of one connection, or of the network below it; the next may be well.
_ACCEPT_GOES_ON = frozenset((
    errno.ECONNABORTED, errno.EPROTO, errno.ENOTCONN, errno.EPERM, errno.ENETDOWN,
    errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.ENETUNREACH,
    errno.ETIMEDOUT))
_ACCEPT_PAUSES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class _ClosingMixin:
    """The end of a transport, on Linux."""

    # stdlib: _ProactorBasePipeTransport.__del__
    def __del__(self, _warn=warnings.warn):
        if self._sock is not None:
            super().__del__(_warn)
            # differs[T17]
            if _DETACH_TAKES_TRANSPORT and self._server is not None:
                self._server._detach(self)

    # stdlib: _ProactorBasePipeTransport._force_close
    def _force_close(self, exc):
        # differs[T16]
        if self._write_fut is not None and self._loop._proactor is not None:
            self._loop._proactor._submit()
        # differs[T19]
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionError("Connection is closed by peer"))
        super()._force_close(exc)

    # stdlib: _ProactorBasePipeTransport._call_connection_lost
    def _call_connection_lost(self, exc):
        if self._called_connection_lost:
            return
        try:
            self._protocol.connection_lost(exc)
        finally:
            # differs[T4]
            proactor = self._loop._proactor
            if proactor is not None:
                proactor._settle(self._sock)
            self._sock.close()
            self._sock = None
            server = self._server
            if server is not None:
                if _DETACH_TAKES_TRANSPORT:
                    server._detach(self)
                else:
                    server._detach()
                self._server = None
            self._called_connection_lost = True


class _ReadingMixin(_ClosingMixin):
    """Reading from a stream, on Linux."""

    # The end of the stream has come during a pause and is not yet told.
    _eof_kept = False
    # differs[T13]: None for whatever context it is that asks.
    _context = None

    # stdlib: _ProactorReadPipeTransport.pause_reading
    def pause_reading(self):
        if self._closing or self._paused:
            return
        super().pause_reading()
        # differs[T1]
        fut = self._read_fut
        if fut is not None and not fut.done():
            fut.remove_done_callback(self._loop_reading)
            fut.cancel()
            self._read_fut = None

    # stdlib: _ProactorReadPipeTransport.resume_reading
    def resume_reading(self):
        if self._closing or not self._paused:
            return

        self._paused = False
        length = self._pending_data_length
        self._pending_data_length = -1
        # differs[T2]
        if self._read_fut is None and not self._eof_kept:
            self._loop.call_soon(self._start_reading)

        if length > -1:
            # differs[T3]
            self._loop.call_soon(self._data_received, bytes(self._data[:length]), length,
                                 context=self._context)

        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    # stdlib: _ProactorReadPipeTransport._data_received
    def _data_received(self, data, length):
        # differs[T2]
        self._eof_kept = length == 0 and self._paused
        # differs[T3]
        try:
            if length > 0 and not self._paused and (
                    isinstance(self._protocol, protocols.BufferedProtocol)):
                self._feed_buffered(data)
            else:
                _read_data_received(self, data, length)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, 'Fatal error: protocol.data_received() call failed.')

    # -- ours: no counterpart in the stdlib's class --

    def _feed_buffered(self, data):
        """differs[T15]: fill the protocol's buffers as long as it wants, and is the protocol."""
        protocol = self._protocol
        try:
            while True:
                call = 'get_buffer'
                buffer = protocol.get_buffer(len(data))
                if not len(buffer):
                    raise RuntimeError('get_buffer() returned an empty buffer')
                # An array of any shape and type.
                view = memoryview(buffer).cast('B')
                size = min(len(view), len(data))
                view[:size] = data[:size]
                call = 'buffer_updated'
                protocol.buffer_updated(size)
                data = data[size:]
                if not data or self._closing:
                    return
                if self._paused or self._protocol is not protocol:
                    break
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, f'Fatal error: protocol.{call}() call failed.')
            return
        # The stdlib's keeps what arrives during a pause where it was received.
        self._data[:len(data)] = data
        self._data_received(data, len(data))

    def _start_reading(self):
        # differs[T2]: the constructor's start may have come first.
        if self._read_fut is None:
            self._loop_reading()


class _WritingMixin(_ClosingMixin):
    """Writing to a stream, on Linux."""

    # stdlib: _ProactorBasePipeTransport.close
    def close(self):
        if self._closing:
            return
        flushing = bool(self._buffer) or self._write_fut is not None
        super().close()
        if flushing:
            # differs[T11]: the stdlib counts the connection as lost from here on.
            self._conn_lost -= 1

    # stdlib: _FlowControlMixin._maybe_pause_protocol
    def _maybe_pause_protocol(self):
        # This is called behind each send that was started, and behind what was written meanwhile.
        if self._buffer:
            self._write_along()
        # differs[T14]
        if self._protocol_paused:
            self._maybe_resume_protocol()
        else:
            super()._maybe_pause_protocol()

    # stdlib: _ProactorBasePipeTransport._call_connection_lost
    def _call_connection_lost(self, exc):
        # differs[T11]: what was written during the flush is under way; its end comes back here.
        if exc is None and (self._write_fut is not None or self._buffer):
            return
        super()._call_connection_lost(exc)

    # -- ours: no counterpart in the stdlib's class --

    def _write_along(self):
        """differs[T16]: let what is buffered leave with the send that was started in this tick."""
        buffer, sending = self._buffer, self._write_fut
        if not sending.done():
            if self._loop._proactor._extend_send(sending, buffer):
                self._pending_write += len(buffer)
                self._buffer = None
        elif not sending.cancelled() and sending.exception() is None:
            # That one is out, and its callback, which sends the rest, is about to be called.
            try:
                del buffer[:self._sock.send(buffer)]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                self._fatal_error(exc, 'Fatal write error on pipe transport')
            else:
                if not buffer:
                    self._buffer = None


# stdlib: _ProactorDatagramTransport
class _ProactorDatagramTransport(_ClosingMixin, proactor_events._ProactorDatagramTransport):
    """Transport for datagrams.  differs[T5] throughout."""

    # stdlib: _ProactorDatagramTransport.__init__
    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        # What each queued datagram counts; the size of a header depends on the Python.
        self._sizes = collections.deque()
        # What the one counts that waits for room, which is no longer in the queue.
        self._waiting_size = 0
        self._queueing = False
        super().__init__(loop, sock, protocol, address, waiter, extra)

    # stdlib: _ProactorDatagramTransport.sendto
    def sendto(self, data, addr=None):
        if self._sock is None or self._buffer is None:
            return                        # aborted, or closed: there is nowhere to send to
        before = self._buffer_size
        queued = len(self._buffer)
        # The stdlib's method checks and queues; what it would do at once is done below.
        self._queueing = True
        try:
            super().sendto(data, addr)
        finally:
            self._queueing = False
        if len(self._buffer) > queued:
            self._sizes.append(self._buffer_size - before)
        if self._write_fut is None:
            self._loop_writing()
        self._maybe_pause_protocol()

    # stdlib: _ProactorDatagramTransport._loop_writing
    def _loop_writing(self, fut=None):
        if self._queueing or fut is not self._write_fut or self._buffer is None:
            return
        self._write_fut = None
        if fut is not None:
            self._buffer_size -= self._waiting_size
            try:
                fut.result()
            except OSError as exc:
                self._tell_error(exc)
            except exceptions.CancelledError:
                return
            except Exception as exc:
                self._fatal_error(exc, 'Fatal write error on datagram transport')
                return
        # error_received() may have closed, aborted or sent.
        while self._write_fut is None and self._buffer:
            data, addr = self._buffer.popleft()
            size = self._sizes.popleft()
            self._buffer_size -= size
            try:
                self._write_fut = self._send(data, addr)
            except OSError as exc:
                self._tell_error(exc)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, 'Fatal write error on datagram transport')
                return
            else:
                if self._write_fut is not None:
                    self._buffer_size += size
                    self._waiting_size = size
                    self._write_fut.add_done_callback(self._loop_writing)
        self._maybe_resume_protocol()
        if self._closing and self._write_fut is None and not self._buffer:
            self._loop.call_soon(self._call_connection_lost, None)

    # stdlib: _ProactorDatagramTransport._loop_reading
    def _loop_reading(self, fut=None):
        if self._conn_lost or fut is not self._read_fut:
            return
        self._read_fut = None
        received = error = None
        if fut is not None:
            try:
                received = fut.result()
            except OSError as exc:
                error = exc
            except exceptions.CancelledError:
                return
        try:
            self._read_fut = self._loop._proactor.recvfrom(self._sock, self.max_size)
        except OSError as exc:
            # It can't even be started: the socket is gone.
            error = error or exc
        else:
            self._read_fut.add_done_callback(self._loop_reading)
        if error is not None:
            self._protocol.error_received(error)
        elif received is not None:
            self._protocol.datagram_received(*received)

    # stdlib: _FlowControlMixin._maybe_pause_protocol
    def _maybe_pause_protocol(self):
        # What is being queued may leave at once.
        if not self._queueing:
            super()._maybe_pause_protocol()

    # -- ours: no counterpart in the stdlib's class --

    def _send(self, data, addr):
        """Send a datagram at once, or return the future of sending it when there is room."""
        connected = self._address is not None or self._extra.get('peername')
        try:
            if connected:
                self._sock.send(data)
            else:
                self._sock.sendto(data, addr)
            return None
        except (BlockingIOError, InterruptedError):
            pass
        if connected:
            return self._loop._proactor.send(self._sock, data)
        return self._loop._proactor.sendto(self._sock, data, addr=addr)

    def _tell_error(self, exc):
        try:
            self._protocol.error_received(exc)
        except BaseException:
            # What is queued, and the end after it, do not depend on what the protocol does.
            self._loop.call_soon(self._loop_writing)
            raise


# stdlib: _ProactorDuplexPipeTransport
class _ProactorDuplexPipeTransport(_ReadingMixin, _WritingMixin,
                                   proactor_events._ProactorDuplexPipeTransport):
    """Transport for duplex pipes."""


# stdlib: _ProactorSocketTransport
class _ProactorSocketTransport(_ReadingMixin, _WritingMixin,
                               proactor_events._ProactorSocketTransport):
    """Transport for connected sockets."""

    # -- ours: no counterpart in the stdlib's class --

    @property
    def _read_ready_cb(self):
        """What a readable socket leads to; None when the connection is lost.

        The selector loop's transport has it by this name, and CPython's test_ssl asks it.
        """
        return None if self._called_connection_lost else self._loop_reading


class _OneContextSocketTransport(_ProactorSocketTransport):
    """The same in a context of its own.  differs[T13] throughout.

    What the loop calls enters the context; what the program calls, such as write(), does not.
    """

    # ours: the context is an argument
    def __init__(self, loop, sock, protocol, waiter, extra, server, context):
        self._context = context
        super().__init__(loop, sock, _Introduction(protocol, context), waiter, extra, server)
        self.set_protocol(protocol)

    # stdlib: _ProactorBasePipeTransport._call_connection_lost
    def _call_connection_lost(self, exc):
        self._context.run(super()._call_connection_lost, exc)

    # stdlib: _ProactorReadPipeTransport._loop_reading
    def _loop_reading(self, fut=None):
        self._context.run(super()._loop_reading, fut)

    # stdlib: _ProactorBaseWritePipeTransport._loop_writing
    def _loop_writing(self, f=None, data=None):
        if f is None:
            # write() itself.
            super()._loop_writing(f, data)
        else:
            self._context.run(super()._loop_writing, f, data)


class _Introduction:
    """Stands for a protocol in the constructor, which has its connection_made() called later."""

    def __init__(self, protocol, context):
        self._protocol = protocol
        self._context = context

    @property
    def connection_made(self):
        # Looked up when the constructor asks: what is no protocol is found out there.
        return functools.partial(self._context.run, self._protocol.connection_made)


# ours: of a blocking socket, BlockingIOError in place of a call that blocks: it was ready when the loop
# looked, but somebody else may have been faster.
def check_ready(sock, events):
    # (A closed one says by itself what it is.)
    if sock.gettimeout() != 0 and (fd := sock.fileno()) >= 0:
        poller = select.poll()
        poller.register(fd, events)
        if not poller.poll(0):
            raise BlockingIOError


# ours: one of the two classes
def _make_socket_transport(loop, sock, protocol, waiter, extra, server, context):
    if context is None:
        return _ProactorSocketTransport(loop, sock, protocol, waiter, extra, server)
    return _OneContextSocketTransport(loop, sock, protocol, waiter, extra, server, context)


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


# ours: _loop_writing() of the transports of a closed loop
def _refuse_to_write(f=None, data=None):
    raise RuntimeError('Event loop is closed')


# stdlib: BaseProactorEventLoop
class BaseProactorEventLoop(proactor_events.BaseProactorEventLoop):
    """The stdlib's proactor loop, with the transports above."""

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
        return self._adopt(sock, _make_socket_transport(
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
        ssl_protocol = sslproto.SSLProtocol(
            self, protocol, sslcontext, waiter,
            server_side, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout)
        self._adopt(rawsock, _make_socket_transport(
            self, rawsock, ssl_protocol, None, extra, server, context))
        return ssl_protocol._app_transport

    # stdlib: BaseProactorEventLoop._make_datagram_transport
    def _make_datagram_transport(self, sock, protocol,
                                 address=None, waiter=None, extra=None):
        # differs[T5]
        return self._adopt(sock, _ProactorDatagramTransport(
            self, sock, protocol, address, waiter, extra))

    # stdlib: BaseProactorEventLoop._make_duplex_pipe_transport
    def _make_duplex_pipe_transport(self, sock, protocol, waiter=None,
                                    extra=None):
        return self._adopt(sock, _ProactorDuplexPipeTransport(
            self, sock, protocol, waiter, extra))

    # stdlib: BaseProactorEventLoop.close
    def close(self):
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return

        # differs[T12]
        self._stop_accept_futures()
        # differs[T18]: here, and not in each write().
        for transport in list(self._transports.values()):
            transport._loop_writing = _refuse_to_write
        self._close_self_pipe()
        self._proactor.close()
        self._proactor = None
        self._selector = None

        super(proactor_events.BaseProactorEventLoop, self).close()

    # stdlib: BaseProactorEventLoop.sock_recv
    async def sock_recv(self, sock, n):
        # differs[T7], here and in the methods below.
        self._check_sock(sock)
        return await self._sock_call(sock, select.POLLIN, 'recv', n)

    # stdlib: BaseProactorEventLoop.sock_recv_into
    async def sock_recv_into(self, sock, buf):
        self._check_sock(sock)
        return await self._sock_call(sock, select.POLLIN, 'recv_into', buf)

    # stdlib: BaseProactorEventLoop.sock_recvfrom
    async def sock_recvfrom(self, sock, bufsize):
        self._check_sock(sock)
        return await self._sock_call(sock, select.POLLIN, 'recvfrom', bufsize)

    # stdlib: BaseProactorEventLoop.sock_recvfrom_into
    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        self._check_sock(sock)
        if not nbytes:
            nbytes = len(buf)

        return await self._sock_call(sock, select.POLLIN, 'recvfrom_into', buf, nbytes)

    # stdlib: BaseProactorEventLoop.sock_sendall
    async def sock_sendall(self, sock, data):
        self._check_sock(sock)
        send = sock.send  # what is no socket says so here, as on the selector loop
        sent = 0
        with contextlib.suppress(BlockingIOError, InterruptedError):
            sent = send(data, socket.MSG_DONTWAIT)
        if type(data) is bytes and sent == len(data):
            return
        # Given back at the end, whatever keeps this frame (a traceback).
        with memoryview(data) as whole, whole.cast('B') as view:
            while sent < len(view):
                with view[sent:] as rest:
                    sent += await self._sock_call(sock, select.POLLOUT, 'send', rest, socket.MSG_DONTWAIT)

    # stdlib: BaseProactorEventLoop.sock_sendto
    async def sock_sendto(self, sock, data, address):
        self._check_sock(sock)
        return await self._sock_call(sock, select.POLLOUT, 'sendto', data, address)

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
        await self._proactor._poll_socket(sock, select.POLLOUT)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error != 0:
            raise OSError(error, f'Connect call failed {address}')

    # stdlib: BaseProactorEventLoop.sock_accept
    async def sock_accept(self, sock):
        self._check_sock(sock)
        conn, address = await self._sock_call(sock, select.POLLIN, 'accept')
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
                    await self._proactor._poll_socket(sock, select.POLLOUT)
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

        def stopped():
            return self.is_closed() or sock.fileno() == -1 or (
                id(sock) in self._proactor._stopped_serving)

        def connect(conn, addr, context=None):
            protocol = None
            try:
                protocol = protocol_factory()
                if sslcontext is not None:
                    self._make_ssl_transport(
                        conn, protocol, sslcontext, server_side=True,
                        extra={'peername': addr}, server=server,
                        ssl_handshake_timeout=ssl_handshake_timeout,
                        ssl_shutdown_timeout=ssl_shutdown_timeout,
                        context=context)
                else:
                    self._make_socket_transport(
                        conn, protocol,
                        extra={'peername': addr}, server=server,
                        context=context)
            except (SystemExit, KeyboardInterrupt):
                conn.close()
                raise
            except BaseException as exc:
                conn.close()
                if self._debug:
                    context = {
                        'message': 'Error on transport creation for incoming connection',
                        'exception': exc,
                    }
                    if protocol is not None:
                        context['protocol'] = protocol
                    self.call_exception_handler(context)

        def failed(exc):
            """Tell what to do after a failed accept: True to go on."""
            if exc.errno in _ACCEPT_GOES_ON:
                return True
            if exc.errno in _ACCEPT_PAUSES:
                self.call_exception_handler({
                    'message': 'socket.accept() out of system resource',
                    'exception': exc,
                    'socket': trsock.TransportSocket(sock),
                })
                self.call_later(constants.ACCEPT_RETRY_DELAY, loop)
            elif sock.fileno() != -1:
                self.call_exception_handler({
                    'message': 'Accept failed on a socket',
                    'exception': exc,
                    'socket': trsock.TransportSocket(sock),
                })
                sock.close()
            elif self._debug:
                logger.debug("Accept failed on socket %r",
                             sock, exc_info=True)
            return False

        def loop(f=None):
            accepted = None
            try:
                if f is not None:
                    accepted = f.result()
            except OSError as exc:
                if not failed(exc):
                    return
            except exceptions.CancelledError:
                sock.close()
                return
            if f is not None and stopped():
                if accepted is not None:
                    accepted[0].close()
                return
            if accepted is not None and self._debug:
                logger.debug("%r got a new connection from %r: %r",
                             server, accepted[1], accepted[0])
            try:
                # The next accept first: whatever the protocol factory raises, it is under way.
                if not stopped():
                    f = self._proactor.accept(sock)
                    self._accept_futures[sock.fileno()] = f
                    f.add_done_callback(loop)
            except OSError as exc:
                failed(exc)
            finally:
                if accepted is not None and context is None:
                    connect(*accepted)
                elif accepted is not None:
                    # differs[T13]
                    connection_context = context.copy()
                    connection_context.run(connect, *accepted, connection_context)

        self.call_soon(loop)

    # -- ours: no counterpart in the stdlib's class --

    def _adopt(self, sock, transport):
        # The classes' __slots__ keep the instance's values out of line, in a dict that shares its
        # keys: of all kinds the one whose lookups CPython 3.13 does not specialize. In a dict of
        # its own they are, some thirty a message.
        transport.__dict__ = {**transport.__dict__}
        # A reader that was forgotten would take the transport's bytes.
        if sock.fileno() in self._keys:
            self._remove_reader(sock.fileno())
        # Readers and writers of this descriptor are refused (_ensure_fd_no_transport).
        self._transports[sock.fileno()] = transport
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

    async def _sock_call(self, sock, events, name, *args):
        """Call a socket's method until it need not wait; the proactor waits for `events`."""
        while True:
            try:
                # A blocking socket must not block the loop: it is asked first.
                check_ready(sock, events)
                return getattr(sock, name)(*args)
            except (BlockingIOError, InterruptedError):
                pass
            self._ensure_fd_no_transport(sock.fileno())
            await self._proactor._poll_socket(sock, events)
