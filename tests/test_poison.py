"""Whoever has released a buffer may do with its memory what he likes: it is poisoned at that moment.

A page is readable while somebody exports it and at no other time. Else it is protected, so that the kernel would answer
EFAULT, or full of canaries, which would arrive somewhere, or have changed in the end; or, of an mmap, it is unmapped.
tests/cpp/test_proactor_poison.cpp does the same to the C++ core.
"""

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import socket

import pytest

import simulation
import uringloop
from support import drain, fill, read_exactly, some_bytes, turns

CANARY = b"!"
SIZE = 3 * mmap.PAGESIZE
# A cancel, a close, ... after so many turns of the loop.
MOMENTS = range(6)
# Turns after which what should have ended never will.
PATIENCE = 2000
RUNGS = [0, 1, 2]
# None is the running kernel. On a simulated one memory is not protected: the process itself would look at it.
KERNELS = [(rung, None, poison) for rung in RUNGS for poison in ("canary", "protection", "unmapped")]
KERNELS += [(seed % 3, seed, "canary") for seed in range(1, 7)]

_libc = ctypes.CDLL(None, use_errno=True)


def some_data(seed):
    """Bytes among which there is no canary, and nothing of what a pipe is filled with."""
    return some_bytes(SIZE, seed).replace(CANARY, b"?").replace(b"\0", b"0")


def protect(memory, protection):
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), protection) == 0


class Canary:
    """A buffer whose memory has its content while it is exported, and canaries else."""

    def __init__(self, data):
        self.memory = mmap.mmap(-1, SIZE)
        self.content = bytes(data)
        self.exports = 0
        self.poison()

    def __len__(self):
        return SIZE

    def poison(self):
        self.memory[:] = CANARY * SIZE

    def heal(self):
        assert self.memory[:] == CANARY * SIZE
        self.memory[:] = self.content

    def __buffer__(self, flags):
        if not self.exports:
            self.heal()
        self.exports += 1
        return memoryview(self.memory)

    def __release_buffer__(self, view):
        view.release()
        self.exports -= 1
        if not self.exports:
            self.content = self.memory[:]
            self.poison()

    def is_free(self):
        return not self.exports

    def finish(self):
        """What is in it; the canaries have not been touched."""
        assert self.is_free()
        self.heal()
        content = self.memory[:]
        self.memory.close()
        return content


class Protected(Canary):
    """A buffer whose memory is there while it is exported, and at no other time."""

    def __init__(self, data):
        super().__init__(data)
        self.heal()
        self.memory[:] = data
        self.poison()

    def poison(self):
        protect(self.memory, 0)

    def heal(self):
        protect(self.memory, mmap.PROT_READ | mmap.PROT_WRITE)


class Unmapped(mmap.mmap):
    """An mmap as it is: nobody tells it of its release, so it asks, and is gone at once."""

    def __new__(cls, data):
        self = super().__new__(cls, -1, SIZE)
        self[:] = data
        self.content = None
        return self

    def is_free(self):
        if not self.closed:
            content = self[:]
            try:
                self.close()
            except BufferError:
                return False
            self.content = content
        return True

    def finish(self):
        assert self.is_free()
        return self.content


BUFFERS = {"canary": Canary, "protection": Protected, "unmapped": Unmapped}


# -- what is done to a buffer --


class Ends:
    """`ours` is the loop's, `theirs` is worked on by plain calls."""

    def __init__(self, stack, tmp_path, kind):
        if kind == "fifo":
            # The same names each time: some Pythons keep the parts of a path for good.
            path = tmp_path / f"fifo{len(os.listdir(tmp_path))}"
            os.mkfifo(path)
            theirs = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            ours = os.open(path, os.O_WRONLY)
        elif kind == "pipe":
            theirs, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        else:
            theirs, ours = socket.socketpair(socket.AF_UNIX, kind)
            if kind == socket.SOCK_DGRAM:
                theirs.bind("")  # a name of the kernel's choice
        if kind in ("fifo", "pipe"):
            theirs, ours = open(theirs, "rb", 0), open(ours, "wb", 0)
        for end in (stack.enter_context(theirs), stack.enter_context(ours)):
            os.set_blocking(end.fileno(), False)
        self.ours, self.theirs, self.kind = ours, theirs, kind

    def fill(self):
        """Leave no room, so that a send has to wait; bytes that are not of any buffer."""
        fill(self.ours, 65536 if self.kind == socket.SOCK_STREAM else 4096)
        if self.kind == "fifo":
            # What waits for room waits in the kernel, which has the buffer.
            os.set_blocking(self.ours.fileno(), True)

    def take(self):
        return drain(self.theirs)


def by_the_loop(method, *arguments):
    def start(loop, ends, buffer):
        return loop.create_task(getattr(loop, method)(ends.ours, buffer, *arguments))

    start.__name__ = method
    return start


def by_the_proactor(method):
    def start(loop, ends, buffer):
        return getattr(loop._proactor, method)(ends.ours, buffer)

    start.__name__ = f"proactor.{method}"
    return start


def sendto(loop, ends, buffer):
    return loop._proactor.sendto(ends.ours, buffer, 0, ends.theirs.getsockname())


SENDS = [
    (by_the_loop("sock_sendall"), socket.SOCK_STREAM),
    (by_the_proactor("send"), socket.SOCK_STREAM),
    (by_the_proactor("send"), socket.SOCK_DGRAM),
    (sendto, socket.SOCK_DGRAM),
    (by_the_proactor("send"), "pipe"),
    (by_the_proactor("send"), "fifo"),
]
RECEIVES = [
    (by_the_loop("sock_recv_into"), socket.SOCK_STREAM),
    (by_the_loop("sock_recvfrom_into"), socket.SOCK_DGRAM),
    (by_the_proactor("recv_into"), socket.SOCK_STREAM),
    (by_the_proactor("recvfrom_into"), socket.SOCK_DGRAM),
]


def name_of(case):
    start, kind = case
    return f"{start.__name__}-{getattr(kind, 'name', kind)}"


# -- how it ends --


def cancel(loop, ends, operation):
    operation.cancel()


def close(loop, ends, operation):
    # As transports do; what the user does is noticed by the operations that look out for it.
    loop._proactor._settle(ends.ours)
    ends.ours.close()


def leave(loop, ends, operation):
    ends.theirs.close()


def nothing(loop, ends, operation):
    pass


ENDINGS = [cancel, close, leave, nothing]
EXPECTED = {
    cancel: (),
    close: (errno.EBADF, errno.ECANCELED),
    leave: (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED),
    nothing: (),
}


@pytest.fixture(params=KERNELS, ids=lambda p: f"rung{p[0]}-{'real' if p[1] is None else f'seed{p[1]}'}-{p[2]}")
def world(request):
    """(loop, class of the buffers)"""
    rung, seed, poison = request.param
    kernel = None
    if seed is None:
        proactor = uringloop.IouringProactor(rung)
    else:
        proactor, kernel = simulation.simulated_proactor(seed, rung=rung)
    loop = uringloop.IouringProactorEventLoop(proactor)
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    yield loop, BUFFERS[poison]
    loop.close()
    assert contexts == []
    assert kernel is None or kernel.problems() == []


async def freed(buffer):
    for _ in range(PATIENCE):
        if buffer.is_free():
            return
        await asyncio.sleep(0)
    raise AssertionError("never released")


def check_outcome(outcome, ending):
    if isinstance(outcome, asyncio.CancelledError):
        assert ending in (cancel, close)
    elif isinstance(outcome, BaseException):
        assert isinstance(outcome, OSError) and outcome.errno in EXPECTED[ending], outcome
    return not isinstance(outcome, BaseException)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("case", SENDS, ids=name_of)
def test_send(world, stack, tmp_path, case, ending):
    loop, make_buffer = world
    start, kind = case

    async def program(moment, full):
        data = some_data(moment)
        ends = Ends(stack, tmp_path, kind)
        if full:
            ends.fill()
        buffer = make_buffer(data)
        operation = start(loop, ends, buffer)
        await turns(moment)
        arrived = b""
        ending(loop, ends, operation)
        if ending is cancel:
            buffer.is_free()
        # In that moment there is room: who believes that it still has the buffer uses it.
        if ending is not leave:
            arrived += ends.take()
        for _ in range(PATIENCE):
            if operation.done():
                break
            await asyncio.sleep(0)
            if ending is not leave:
                arrived += ends.take()
        outcome, = await asyncio.gather(operation, return_exceptions=True)
        whole = check_outcome(outcome, ending)
        await freed(buffer)
        await turns(5)
        if ending is not leave:
            arrived = (arrived + ends.take()).lstrip(b"\0")
            assert CANARY not in arrived
            assert data.startswith(arrived)
            assert not whole or arrived == data
        assert buffer.finish() == data
        for end in (ends.ours, ends.theirs):
            end.close()

    for moment in MOMENTS:
        for full in (False, True):
            loop.run_until_complete(program(moment, full))


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("case", RECEIVES, ids=name_of)
def test_receive(world, stack, tmp_path, case, ending):
    loop, make_buffer = world
    start, kind = case

    async def program(moment):
        data = some_data(moment)[:1000]
        ends = Ends(stack, tmp_path, kind)
        buffer = make_buffer(bytes(SIZE))
        operation = start(loop, ends, buffer)
        await turns(moment)
        ending(loop, ends, operation)
        if ending is cancel:
            buffer.is_free()
        if ending is not leave:
            with contextlib.suppress(BrokenPipeError, ConnectionRefusedError):
                ends.theirs.send(data)
        if ending is leave and kind == socket.SOCK_DGRAM:
            # A datagram socket is not told that its peer has gone.
            operation.cancel()
        outcome, = await asyncio.gather(operation, return_exceptions=True)
        got = 0
        if isinstance(outcome, asyncio.CancelledError) and ending is leave:
            pass
        elif check_outcome(outcome, ending):
            got = outcome[0] if isinstance(outcome, tuple) else outcome
            assert got == (0 if ending is leave else len(data))
        await freed(buffer)
        await turns(5)
        content = buffer.finish()
        assert content == data[:got] + bytes(SIZE - got)
        if ending is cancel and not got:
            # It has taken nothing: the next one has it.
            # (A simulated kernel may give it in pieces.)
            assert await read_exactly(loop, ends.ours, len(data)) == data
        for end in (ends.ours, ends.theirs):
            end.close()

    for moment in MOMENTS:
        loop.run_until_complete(program(moment))


def test_buffered_protocol(world, stack, tmp_path):
    """A transport's reads go into the protocol's buffer, and stop with the transport."""
    loop, make_buffer = world

    class Protocol(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer, self.got = make_buffer(bytes(SIZE)), 0
            self.lost = loop.create_future()

        def get_buffer(self, sizehint):
            return memoryview(self.buffer)

        def buffer_updated(self, count):
            self.got += count

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def program(moment, method):
        ends = Ends(stack, tmp_path, socket.SOCK_STREAM)
        transport, protocol = await loop.connect_accepted_socket(Protocol, ends.ours)
        await turns(moment)
        ends.theirs.send(b"some data")
        await turns(moment)
        getattr(transport, method)()
        with contextlib.suppress(BrokenPipeError):
            ends.theirs.send(b"more data")
        assert await protocol.lost is None
        await freed(protocol.buffer)
        await turns(5)
        assert protocol.buffer.finish()[:protocol.got] in (b"", b"some data", b"more data", b"some datamore data")
        ends.theirs.close()
        return protocol.got

    # With the more turns the surer.
    for method in ("close", "abort"):
        got = [loop.run_until_complete(program(moment, method)) for moment in (*MOMENTS, 100)]
        assert got[-1] > 0


@pytest.mark.parametrize("moment", MOMENTS)
def test_loop_closed_over_them(world, stack, tmp_path, moment):
    """What is in flight when the loop closes has been let go of when close() returns."""
    loop, make_buffer = world
    data = some_data(moment)
    sends = [(start, Ends(stack, tmp_path, kind)) for start, kind in SENDS]
    receives = [(start, Ends(stack, tmp_path, kind)) for start, kind in RECEIVES]
    for start, ends in sends:
        ends.fill()
    buffers = [make_buffer(data) for _ in sends + receives]
    operations = [start(loop, ends, buffer) for (start, ends), buffer in zip(sends + receives, buffers)]
    loop.run_until_complete(turns(moment))
    for operation in operations:
        if isinstance(operation, asyncio.Task):
            operation.cancel()
            operation._log_destroy_pending = False
    # Of a task that was cancelled the operation is still there.
    loop.run_until_complete(turns(1))
    loop.close()
    for (start, ends), buffer in zip(sends, buffers):
        assert buffer.is_free()
        arrived = ends.take()
        assert CANARY not in arrived and set(arrived) <= {0}
    for start, ends in receives:
        ends.theirs.send(b"too late")
    del operations
    for buffer in buffers:
        assert buffer.is_free() and buffer.finish() == data
