"""Pipe transports, on pipes and on sockets, on one end or on both."""

import asyncio
import contextlib
import fcntl
import os
import socket

from hypothesis import strategies as st

from random_steps.lines import RAISED
from random_steps.model import Stream
from random_steps.operations import BROKEN, Operation
from random_steps.parts import FlowControlled, Things
from random_steps.steps import CANCEL, NUMBER, SIZE, step

F_SETPIPE_SZ = 1031


class Pipe:
    """`reader` and `writer` are a PipeProtocol each, or None where plain calls work on the file."""

    def __init__(self, name, files):
        self.name = name
        self.stream = Stream()
        self.reads, self.writes = files
        self.reader = self.writer = None
        self.raced = False
        self.history = []

    @property
    def broken(self):
        return self.stream.broken

    def __repr__(self):
        return f"<{self.name} {self.stream}>"

    def lose(self):
        self.stream.lose()

    def disturb(self):
        """One end is about to be closed."""
        for protocol in filter(None, (self.reader, self.writer)):
            if not protocol.made or protocol.unsent():
                self.raced = True


class PipeProtocol(FlowControlled, asyncio.Protocol):
    def __init__(self, world, pipe):
        self.world, self.pipe = world, pipe
        self.step = world.step
        self.transport = None
        self.made = self.lost = self.leaving = self.ended = False

    def connection_made(self, transport):
        self.transport = transport
        self.made = True

    def data_received(self, data):
        with self.world.watched():
            assert not self.leaving and not self.ended and self.transport.is_reading()
            self.pipe.stream.take(data)
        self.world.told(self.pipe)

    def eof_received(self):
        self.ended = True
        with self.world.watched():
            self.pipe.stream.take_end()
        self.world.told(self.pipe)

    def connection_lost(self, exc):
        pipe = self.pipe
        with self.world.watched():
            assert self.made and not self.lost
            if isinstance(exc, RAISED) or (self.leaving and isinstance(exc, OSError)):
                pipe.stream.broken = True
            else:
                assert exc is None or (pipe.stream.broken and type(exc) in BROKEN), f"{exc!r} of {pipe}"
            assert exc is not None or self.leaving or self.ended or pipe.stream.broken
        self.lost = True
        if self is pipe.reader:
            pipe.stream.broken = True
        else:
            pipe.stream.ended = True
        self.world.record("pipe lost", pipe, type(exc).__name__, self.step)

    def unsent(self):
        return self is self.pipe.writer and self.made and not self.lost and self.transport.get_write_buffer_size()


class Pipes(Things):
    """All pipes of a world."""

    def add(self, medium):
        if medium == "socket":
            a, b = socket.socketpair()
            for sock in (a, b):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            files = a, b
        else:
            reads, writes = os.pipe()
            fcntl.fcntl(writes, F_SETPIPE_SZ, 4096)
            files = open(reads, "rb", 0), open(writes, "wb", 0)
        for file in files:
            os.set_blocking(file.fileno(), False)
            self.world.stack.enter_context(file)
        pipe = Pipe(f"{medium}-{self.world.step}", files)
        self.append(pipe)
        return pipe

    def protocols(self):
        return [protocol for pipe in self for protocol in (pipe.reader, pipe.writer) if protocol is not None]

    # -- the end --

    def let_go(self):
        for pipe in self:
            if pipe.reader and pipe.reader.transport and not pipe.reader.lost:
                pipe.reader.transport.resume_reading()

    def delivered(self):
        for pipe in self:
            if not pipe.reader:
                self.read(pipe, 1 << 20)
        return all(pipe.stream.broken or pipe.stream.complete() for pipe in self if reads_on(pipe))

    def read(self, pipe, size):
        if pipe.stream.broken:
            return False
        with contextlib.suppress(BlockingIOError):
            data = os.read(pipe.reads.fileno(), size)
            if data:
                pipe.stream.take(data)
            else:
                pipe.stream.take_end()
            return True
        return False

    def close(self):
        for pipe in self:
            for protocol in filter(None, (pipe.reader, pipe.writer)):
                if protocol.made and not protocol.lost:
                    protocol.leaving = True
                    pipe.stream.broken |= protocol is pipe.reader
                    pipe.stream.ended = True
                    protocol.transport.close()

    def has_closed(self):
        self.delivered()
        return all(protocol.lost or not protocol.transport for protocol in self.protocols())

    def abort(self):
        for pipe in self:
            for protocol in filter(None, (pipe.reader, pipe.writer)):
                if protocol.made and not protocol.lost:
                    protocol.leaving = True
                    pipe.stream.broken = True
                    close_now(protocol)

    def has_aborted(self):
        # Those that were being made have been closed again.
        return all(protocol.lost or not protocol.transport for protocol in self.protocols())

    def clean_up(self):
        for protocol in self.protocols():
            if protocol.transport is not None and not protocol.lost:
                protocol.transport._pipe = None


def reads_on(pipe):
    return pipe.reader is None or (pipe.reader.made and not pipe.reader.lost)


def close_now(protocol):
    transport = protocol.transport
    transport.abort() if hasattr(transport, "abort") else transport.close()


@step(medium=st.sampled_from(["pipe", "pipe", "socket"]), ends=st.sampled_from(["read", "write", "both"]),
      loop=st.integers(0, 2), other=st.integers(0, 2), cancel=CANCEL)
def open_pipe(world, medium, ends, loop, other, cancel):
    if len(world.pipes) >= 4:
        return False
    pipe = world.pipes.add(medium)

    def connect(method, end, loop):
        protocol = PipeProtocol(world, pipe)
        setattr(pipe, end, protocol)
        file = pipe.reads if end == "reader" else pipe.writes

        async def work(operation):
            try:
                transport, same = await getattr(loop, method)(lambda: protocol, file)
            except asyncio.CancelledError:
                # It is closed again, and has or has not been told of the connection.
                protocol.leaving = protocol.made = True
                pipe.raced = True
                if end == "reader":
                    pipe.stream.broken = True
                else:
                    pipe.stream.ended = True
                raise
            assert transport is protocol.transport and same is protocol

        Operation(world, method, work, loop, pipe, cancel=cancel)

    if ends != "write":
        connect("connect_read_pipe", "reader", world.loop(loop))
    if ends != "read":
        connect("connect_write_pipe", "writer", world.loop(other))


@step(weight=2, number=NUMBER, size=SIZE)
def write_to_pipe(world, number, size):
    pipe = world.pipes.choose(
        number, lambda p: not p.stream.ended and (p.writer is None or (p.writer.made and not p.writer.leaving)))
    if pipe is None:
        return False
    data = world.data(size)
    if pipe.writer is not None:
        pipe.stream.add(data, cut=pipe.stream.broken)
        pipe.writer.transport.write(bytearray(data))
        return
    try:
        count = os.write(pipe.writes.fileno(), data)
    except BlockingIOError:
        return
    except BROKEN:
        assert pipe.stream.broken
        return
    pipe.stream.add(data[:count])


@step(weight=2, number=NUMBER, size=SIZE)
def read_from_pipe(world, number, size):
    pipe = world.pipes.choose(number, lambda p: p.reader is None and not p.stream.broken)
    return pipe is not None and world.pipes.read(pipe, size)


@step(weight=3, number=NUMBER, end=st.sampled_from(["reader", "writer"]),
      what=st.sampled_from(["pause", "pause", "resume", "resume", "close", "abort", "eof"]))
def use_pipe(world, number, end, what):
    def suits(pipe):
        protocol = getattr(pipe, end)
        return protocol is not None and protocol.made and not protocol.lost and not protocol.leaving

    pipe = world.pipes.choose(number, suits)
    if pipe is None:
        return False
    protocol = getattr(pipe, end)
    transport = protocol.transport
    if what in ("pause", "resume"):
        if end == "writer":
            return False
        getattr(transport, f"{what}_reading")()
        return
    if transport.is_closing():
        return False
    pipe.disturb()
    if end == "reader":
        pipe.stream.broken = True
        protocol.leaving = True
        transport.close()
        return
    pipe.stream.ended = True
    protocol.leaving = True
    if what == "abort":
        pipe.stream.broken = True
    {"close": transport.close, "eof": transport.write_eof, "abort": transport.abort}[what]()


@step(number=NUMBER)
def other_end_of_pipe_leaves(world, number):
    pipe = world.pipes.choose(number, lambda p: (p.reader is None and not p.stream.broken)
                              or (p.writer is None and not p.stream.ended))
    if pipe is None:
        return False
    pipe.disturb()
    if pipe.reader is None:
        pipe.stream.broken = True
        pipe.reads.close()
    else:
        pipe.stream.ended = True
        pipe.writes.close()
