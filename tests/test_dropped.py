"""Proactors and loops that nobody closes, with operations in flight: no buffer goes before the kernel lets go of it.

What is dropped ends as with close(): the proactor's, as `IocpProactor` does it, and below it the ring's own.
"""

import asyncio
import concurrent.futures
import gc
import socket
import subprocess
import sys
import weakref

import pytest

import simulation
import uringloop
from support import CERTIFICATE, drain, fill, full_fifo, some_bytes, turns
from uringloop import _overlapped


class Careless(uringloop.IouringProactor):
    """Its close() does nothing: all is left to the ring."""

    def close(self):
        pass


# None is the running kernel.
SEEDS = [None, 1, 2, 3]


@pytest.fixture(params=SEEDS, ids=lambda seed: "real" if seed is None else f"seed {seed}")
def make(request):
    """`make(class, rung)`: a proactor; on a simulated kernel nothing may have gone wrong when the test ends."""
    kernels = []

    def make(cls, rung):
        if request.param is None:
            return cls(rung)
        proactor, kernel = simulation.simulated_proactor(
            request.param, simulation.drawn_chances(request.param), rung, cls)
        kernels.append(kernel)
        return proactor

    yield make
    for kernel in kernels:
        assert kernel.problems() == []


@pytest.fixture
def fifo(stack, tmp_path):
    return stack.enter_context(full_fifo(tmp_path / "fifo"))


class World:
    """A proactor with one operation of each kind in flight."""

    def __init__(self, proactor, loop, sock, writer):
        self.proactor = proactor
        proactor.set_loop(loop)
        self.buffers = [bytearray(some_bytes(5000, number)) for number in range(3)]
        self.futures = [
            proactor.send(writer, self.buffers[0]),
            proactor.send(sock, self.buffers[1]),
            proactor.recv_into(sock, self.buffers[2]),
        ]
        # Enough for the worst of the faults.
        for _ in range(100):
            proactor.select(0)
        assert not any(future.done() for future in self.futures)
        assert proactor.__repr__().count("in flight") == 3

    def are_free(self):
        """Tell of the two that are sent from whether they are given back; change them if so."""
        free = []
        for buffer in self.buffers[:2]:
            try:
                buffer.append(0)
            except BufferError:
                free.append(False)
            else:
                buffer[:] = b"!" * len(buffer)
                free.append(True)
        return free


@pytest.fixture
def world(make, loops, fifo, stack):
    a, b = (stack.enter_context(sock) for sock in socket.socketpair())
    for sock in (a, b):
        sock.setblocking(False)
    fill(a)
    return lambda cls, rung: World(make(cls, rung), loops, a, fifo[1])


@pytest.fixture
def loops(stack):
    """A loop for the futures; it is never run."""
    loop = asyncio.SelectorEventLoop()
    stack.callback(loop.close)
    return loop


@pytest.mark.parametrize("rung", [0, 1, 2])
@pytest.mark.parametrize("cls", [uringloop.IouringProactor, Careless])
@pytest.mark.parametrize("futures", ["forgotten", "remembered"])
def test_proactor_dropped(world, fifo, cls, rung, futures):
    w = world(cls, rung)
    assert w.are_free() == [False, False]
    gone = weakref.ref(w.proactor)
    operation = w.futures[0]
    if futures == "forgotten":
        del operation
    del w.futures, w.proactor
    gc.collect()
    assert gone() is None
    if futures == "remembered" and cls is Careless:
        # The future has its operation, and that its ring: nothing was dropped but the proactor.
        assert w.are_free() == [False, False]
        assert not operation.done()
        del operation
        gc.collect()
    assert w.are_free() == [True, True]
    assert drain(fifo[0]).count(0) == 65536


@pytest.mark.parametrize("cls", [uringloop.IouringProactor, Careless])
def test_proactor_dropped_by_another_thread(world, fifo, cls):
    """One that may not enter the ring, and so can't see the kernel let go: the buffer stays for good."""
    kept = _overlapped._kept_for_good
    before = len(kept)
    w = world(cls, 0)

    def drop():
        del w.futures, w.proactor
        gc.collect()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(drop).result()
    # The send waits by a poll, which reads no memory.
    assert w.are_free() == [False, True]
    assert len(kept) == before + 1
    assert drain(fifo[0]).count(0) == 65536
    # As if the kernel had told: this test's buffers live on.
    del kept[before:]
    assert w.are_free() == [True, True]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("rung", [0, 1, 2])
def test_loop_dropped(make, fifo, stack, rung):
    reader, writer = fifo
    a, b = (stack.enter_context(sock) for sock in socket.socketpair())
    for sock in (a, b):
        sock.setblocking(False)
    proactor = make(uringloop.IouringProactor, rung)
    loop = uringloop.IouringProactorEventLoop(proactor)
    loop.set_exception_handler(lambda loop, context: None)
    buffers = [bytearray(some_bytes(1_000_000, number)) for number in range(2)]
    sending = loop.create_task(loop.sock_sendall(a, buffers[0]))
    writing = proactor.send(writer, buffers[1])
    loop.run_until_complete(turns(100))
    for buffer in buffers:
        with pytest.raises(BufferError):
            buffer.append(0)
    gone = weakref.ref(loop)
    del loop, proactor, sending, writing
    gc.collect()
    gc.collect()
    assert gone() is None
    for buffer in buffers:
        buffer.append(0)
    assert drain(reader).count(0) == 65536


LEFT_OPEN = """
import asyncio, signal, socket, ssl, sys
import uringloop

signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(3))
tier, certificate = sys.argv[1:]
context = None
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(certificate)

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        made.append(self)
        if len(made) == 3:
            signal.raise_signal(signal.SIGUSR1)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=context)
    address = server.sockets[0].getsockname()
    if context is None:
        clients.extend(socket.create_connection(address) for _ in range(3))
    else:
        for _ in range(3):
            await loop.create_connection(asyncio.Protocol, *address, ssl=trusting, server_hostname="localhost")
    await loop.create_future()

made, clients = [], []

def serve():
    loop = uringloop.new_event_loop(transports=tier)
    # By which it outlives the modules' names.
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main())

serve()
"""


@pytest.mark.parametrize("certificate", ["", str(CERTIFICATE)], ids=["tcp", "tls"])
@pytest.mark.parametrize("tier", ["native", "stdlib"])
def test_left_open_at_the_interpreters_end(tier, certificate):
    """Where a signal's handler ends a program in the midst of its connections, their finalizers find nothing to print to."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LEFT_OPEN, tier, certificate],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
