"""Whole loops on the simulated kernel: its faults change no byte, and are all met over the seeds.

`simulation.py` says how such a loop is made. Every program here runs on some seeds, each with its own faults, sizes
of the queues and rung; what is left when the loop is closed, and what no program may do, fails the test.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import threading

import pytest

import simulation
import uringloop
from support import certificate_contexts, full_fifo, read_all, read_exactly, some_bytes, tcp_pair, turns, until
from uringloop import _overlapped, tiers

SEEDS = range(1, 9)
# <linux/io_uring.h>
COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN = 1 << 8, 1 << 12, 1 << 13
TIME_LIMIT = 60

# {fault: how often it has struck} in all the tests before.
TAKEN = dict.fromkeys(simulation.HARMLESS | simulation.VISIBLE, 0)


@contextlib.contextmanager
def simulated_loop(seed, faults=True, rung=None, transports=None):
    """A loop on a simulated kernel; closed at the end, when nothing may be left or have gone wrong."""
    proactor, kernel = simulation.simulated_proactor(seed, faults, rung)
    loop = uringloop.IouringProactorEventLoop(proactor, transports=transports)
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    try:
        yield loop, kernel
    finally:
        loop.close()
    assert contexts == []
    assert kernel.problems() == []
    for name, times in kernel.taken.items():
        TAKEN[name] += times


def run(seed, program, *arguments, faults=True):
    """Run `await program(*arguments)` on a loop of that seed, wound up as asyncio.Runner does it."""

    async def limited():
        async with asyncio.timeout(TIME_LIMIT):
            return await program(*arguments)

    with simulated_loop(seed, faults) as (loop, kernel):
        try:
            return loop.run_until_complete(limited())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())


# -- the programs --


async def echo(seed, ssl=None, connect_ssl=None):
    """Connections at once, each sending its own bytes while it reads them back."""

    async def serve(reader, writer):
        while block := await reader.read(70_000):
            writer.write(block)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def client(number):
        data = some_bytes(random.Random(seed * 100 + number).randrange(1, 200_000), number)
        reader, writer = await asyncio.open_connection(*address, ssl=connect_ssl, server_hostname=hostname)

        async def send():
            for start in range(0, len(data), 5000):
                writer.write(data[start:start + 5000])
                await writer.drain()
            if connect_ssl is None:
                writer.write_eof()

        sending = asyncio.create_task(send())
        assert await reader.readexactly(len(data)) == data
        await sending
        if connect_ssl is None:
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    address = server.sockets[0].getsockname()
    hostname = "localhost" if connect_ssl else None
    await asyncio.gather(*(client(number) for number in range(6)))
    server.close()
    await server.wait_closed()


async def sock_methods(seed):
    """sock_connect, sock_accept, sock_sendall, sock_recv, sock_recv_into, both ways at once."""
    loop = asyncio.get_running_loop()

    async def one_way(sender, receiver, data):
        async def receive():
            got = bytearray()
            buffer = bytearray(3000)
            while len(got) < len(data):
                if random.Random(len(got)).random() < 0.5:
                    got += await loop.sock_recv(receiver, 4000)
                else:
                    got += buffer[:await loop.sock_recv_into(receiver, buffer)]
            return bytes(got)

        receiving = asyncio.create_task(receive())
        await loop.sock_sendall(sender, data)
        assert await receiving == data

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as a:
        listener.setblocking(False)
        a.setblocking(False)
        (b, _), _ = await asyncio.gather(loop.sock_accept(listener), loop.sock_connect(a, listener.getsockname()))
        with b:
            await asyncio.gather(one_way(a, b, some_bytes(300_000, seed)), one_way(b, a, some_bytes(100_000, -seed)))


async def cancelled_receives(seed):
    """Receives that are cancelled at any moment lose no byte."""
    loop = asyncio.get_running_loop()
    draw = random.Random(seed)
    data = some_bytes(100_000, seed)
    a, b = tcp_pair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        got = bytearray()

        async def send():
            for start in range(0, len(data), 1000):
                await loop.sock_sendall(a, data[start:start + 1000])
                for _ in range(draw.randrange(4)):
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        while len(got) < len(data):
            # The user's wait is in the readiness set, a transport's in the ring.
            receive = asyncio.ensure_future(
                loop.sock_recv(b, 100) if draw.random() < 0.5 else loop._proactor.recv(b, 100))
            for _ in range(draw.randrange(5)):
                await asyncio.sleep(0)
            if draw.random() < 0.5:
                receive.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got += await receive
        await sending
        assert bytes(got) == data


async def unix_echo(seed):
    """One who asks and one who answers, over a socket pair, where nothing arrives by itself."""
    loop = asyncio.get_running_loop()
    draw = random.Random(seed)
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        # More operations than a slab of the table has: slots are used again.
        for number in range(100):
            data = some_bytes(draw.randrange(1, 5000), number)
            for sender, receiver in ((a, b), (b, a)):
                got, _ = await asyncio.gather(read_exactly(loop, receiver, len(data)),
                                              loop.sock_sendall(sender, data))
                assert got == data


async def datagrams(seed):
    """A datagram comes whole or not at all, and on loopback it comes."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        for sock in (a, b):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        for number in range(30):
            data = some_bytes(random.Random(seed * 100 + number).randrange(2000), number)
            await loop.sock_sendto(a, data, b.getsockname())
            assert await loop.sock_recvfrom(b, 4000) == (data, a.getsockname())


async def sendfile(seed, path):
    loop = asyncio.get_running_loop()
    data = some_bytes(300_000, seed)
    path.write_bytes(data)
    a, b = tcp_pair()
    with a, b, open(path, "rb") as file:
        a.setblocking(False)
        b.setblocking(False)
        receiving = asyncio.create_task(read_exactly(loop, b, len(data)))
        assert await loop.sock_sendfile(a, file) == len(data)
        assert await receiving == data


async def pipes(seed):
    """A subprocess: cat, all through its pipes."""
    data = some_bytes(150_000, seed)
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(data)
    assert output == data
    assert process.returncode == 0


async def threads(seed):
    """Threads wake the loop while it sleeps: each call arrives, in its thread's order."""
    loop = asyncio.get_running_loop()
    results = await asyncio.gather(*(asyncio.to_thread(lambda number=number: number) for number in range(20)))
    assert results == list(range(20))

    got, done = [], asyncio.Event()

    def call():
        for number in range(100):
            loop.call_soon_threadsafe(got.append, number)
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=call)
    thread.start()
    await done.wait()
    thread.join()
    assert got == list(range(100))


async def timers(seed):
    """A sleep ends, whatever the waits in the kernel say."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    for _ in range(10):
        await asyncio.sleep(0.002)
    assert loop.time() - before >= 0.02
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await loop.create_future()


# -- the tests --


@pytest.mark.parametrize("program", [echo, sock_methods, cancelled_receives, unix_echo, datagrams, pipes, threads, timers],
                         ids=lambda program: program.__name__)
@pytest.mark.parametrize("seed", SEEDS)
def test_program(seed, program):
    run(seed, program, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_sendfile(seed, tmp_path):
    run(seed, sendfile, seed, tmp_path / "file")


@pytest.mark.parametrize("seed", SEEDS)
def test_tls(seed):
    run(seed, echo, seed, *certificate_contexts())


@pytest.mark.parametrize("rung, flags", [(0, SINGLE_ISSUER | DEFER_TASKRUN), (1, COOP_TASKRUN), (2, 0)])
def test_each_rung_without_faults(rung, flags):
    with simulated_loop(1, faults=False, rung=rung) as (loop, kernel):
        loop.run_until_complete(echo(1))
        assert [ring & (SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN) for ring in kernel.kernel.rings] == [flags]
    assert set(kernel.taken.values()) == {0}


def test_same_seed_has_the_same_faults():
    def programs(seed):
        with simulated_loop(seed) as (loop, kernel):
            # No timers: how many turns are taken until one is due depends on the machine.
            loop.run_until_complete(unix_echo(seed))
            return kernel.kernel.chances, kernel.taken

    first, again, other = programs(7), programs(7), programs(8)
    assert first == again != other


def test_signal_ends_a_sleep():
    with simulated_loop(1) as (loop, kernel):
        seen = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, seen.set_result, None)
        timer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        timer.start()
        loop.run_until_complete(seen)
        timer.join()
        assert loop.remove_signal_handler(signal.SIGUSR1)


# In a process of its own: with the GIL held for good, nobody could tell.
STALLED = """
import asyncio, os, signal, socket, sys, threading
sys.path.insert(0, os.getcwd())
import simulation, uringloop

how, error, rung = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
simulated = simulation.Simulation(1)
simulated.kernel.set_limit("largest_sq", 4)
proactor = uringloop.IouringProactor(rung, kernel=simulated.kernel.capsule)
loop = uringloop.IouringProactorEventLoop(proactor)
pairs = [socket.socketpair() for _ in range(20)]

async def program():
    for a, b in pairs:
        a.setblocking(False)
    # As transports receive: by the ring.
    receives = [proactor.recv(a, 1) for a, b in pairs]
    simulated.kernel.set_limit("submit_error", error)
    if how == "timer":
        await asyncio.sleep(0.01)
    elif how == "thread":
        # It gives the GIL away and wants it back, and wakes the loop.
        assert await loop.run_in_executor(None, lambda: [os.stat("/").st_dev for _ in range(1000)])
    elif how == "signal":
        # (A shell's background job ignores it from the start.)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            await loop.create_future()
        finally:
            timer.join()
    simulated.kernel.set_limit("submit_error", 0)
    for a, b in pairs:
        b.send(b"x")
    assert await asyncio.gather(*receives) == 20 * [b"x"]

try:
    loop.run_until_complete(program())
except KeyboardInterrupt:
    assert how == "signal"
    simulated.kernel.set_limit("submit_error", 0)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    # (On a busy machine it may have come before the task waited, and so have ended it.)
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
loop.close()
for a, b in pairs:
    a.close()
    b.close()
print(*simulated.problems(), "done")
"""


@pytest.mark.parametrize("rung", [0, 1, 2])
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EBUSY], ids=errno.errorcode.get)
@pytest.mark.parametrize("how", ["timer", "thread", "signal"])
def test_kernel_that_takes_nothing_stops_nobody_else(how, error, rung):
    """More is queued than the SQ holds: timers, threads and signals go on, and the sockets do when they can."""
    simulation.module()
    child = subprocess.run([sys.executable, "-c", STALLED, how, str(error), str(rung)],
                           cwd=simulation.ROOT / "tests", capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout.strip(), child.stderr) == (0, "done", "")


def test_request_holds_its_file():
    """Closed beside an operation of the ring, a socket stays open in the kernel until that ends."""
    with simulated_loop(1, faults=False) as (loop, kernel):

        async def program():
            a, b = tcp_pair()
            a.setblocking(False)
            await turns(2)
            before = kernel.requests
            receiving = loop._proactor.recv(a, 1)
            await until(lambda: kernel.requests > before)
            with b:
                a.close()
                b.setblocking(False)
                with pytest.raises(BlockingIOError):
                    b.recv(1)
                with pytest.raises(OSError) as caught:
                    await receiving
                assert caught.value.errno == errno.EBADF
                assert await loop.sock_recv(b, 1) == b""

        loop.run_until_complete(program())


@pytest.mark.parametrize("seed", SEEDS)
def test_send_without_buffers_fails_and_tells_nothing_else(seed):
    """Whatever a send raises, what arrives is a beginning of what was to be sent."""
    data = some_bytes(200_000, seed)

    async def program():
        loop = asyncio.get_running_loop()
        failed = 0
        for _ in range(20):
            a, b = socket.socketpair()
            with a, b:
                a.setblocking(False)
                b.setblocking(False)
                receiving = asyncio.create_task(read_all(loop, b))
                try:
                    await loop._proactor.send(a, data)
                except OSError as exc:
                    assert exc.errno == errno.ENOBUFS
                    failed += 1
                    a.close()
                    assert data.startswith(await receiving)
                else:
                    a.close()
                    assert await receiving == data
        return failed

    faults = simulation.drawn_chances(seed) | {"short_transfer": 500, "no_buffers": 20}
    with simulated_loop(seed, faults) as (loop, kernel):
        failed = loop.run_until_complete(program())
        assert failed == kernel.taken["no_buffers"]


@pytest.mark.parametrize("transports", tiers.MODULES)
@pytest.mark.parametrize("seed", SEEDS)
def test_dropped_completions_end_what_is_in_doubt(seed, transports):
    """A kernel without memory loses completions: a connection goes on as if nothing had been, or ends with an error.

    The native tier's streams send without the ring: of them nothing is in doubt.
    """
    data = some_bytes(20_000, seed)

    async def program():
        loop = asyncio.get_running_loop()
        ended = 0
        for _ in range(60):
            a, b = socket.socketpair()
            with b:
                b.setblocking(False)
                receiving = asyncio.create_task(read_all(loop, b))
                reader, writer = await asyncio.open_connection(sock=a)
                try:
                    for start in range(0, len(data), 4000):
                        # (Two: one alone may leave at once, and is not in doubt.)
                        writer.write(data[start:start + 2000])
                        writer.write(data[start + 2000:start + 4000])
                        await turns(1)
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
                except OSError as exc:
                    # Streams say it in words of their own where drain() sees the end come.
                    assert exc.errno == errno.EBADR or isinstance(exc, ConnectionResetError)
                    ended += 1
                    assert data.startswith(await receiving)
                else:
                    assert await receiving == data
        return ended

    faults = simulation.drawn_chances(seed) | {"dropped": 100}
    kept = len(_overlapped._kept_for_good)
    with simulated_loop(seed, faults, transports=transports) as (loop, kernel):
        ended = loop.run_until_complete(asyncio.wait_for(program(), TIME_LIMIT))
        assert bool(ended) == (transports == "stdlib")
        assert kernel.taken["dropped"] > ended
    # The kernel may read them still, for all that is known.
    assert len(_overlapped._kept_for_good) == kept + ended
    del _overlapped._kept_for_good[kept:]


def in_thread(function, *arguments):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


@pytest.mark.parametrize("seed", SEEDS)
def test_loop_moves_from_thread_to_thread(seed):
    """What is in flight goes along, though its thread has ended; a ring that can't be had changes nothing."""
    data = some_bytes(60_000, seed)
    draw = random.Random(seed)
    faults = simulation.drawn_chances(seed) | {"failed_set_up": 200}
    with simulated_loop(seed, faults, rung=seed % 3) as (loop, kernel):
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            b.setblocking(False)
            got = bytearray()

            async def receive():
                while len(got) < len(data):
                    got.extend(await (loop.sock_recv(b, 500) if len(got) % 2 else loop._proactor.recv(b, 500)))

            def run_for_some_turns():
                try:
                    loop.run_until_complete(turns(draw.randrange(1, 6)))
                except OSError as exc:
                    assert exc.errno in (errno.ENOMEM, errno.EMFILE)

            sending = loop._proactor.send(a, data)
            receiving = loop.create_task(receive())
            while not (sending.done() and receiving.done()):
                in_thread(run_for_some_turns)
            assert sending.exception() is None and receiving.exception() is None
            assert bytes(got) == data


def test_moves_cost_two_rings_at_most():
    """From the second move on the ring is one that any thread may enter."""
    with simulated_loop(1, faults=False, rung=0) as (loop, kernel):

        def flags():
            (ring,) = kernel.kernel.rings
            return ring & (SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN)

        loop.run_until_complete(turns(1))
        in_thread(loop.run_until_complete, turns(1))
        assert flags() == SINGLE_ISSUER | DEFER_TASKRUN
        loop.run_until_complete(turns(1))
        assert flags() == COOP_TASKRUN
        kernel.kernel.set_limit("setup_error", errno.EPERM)
        for _ in range(10):
            in_thread(loop.run_until_complete, echo(1))
        assert flags() == COOP_TASKRUN
        kernel.kernel.set_limit("setup_error", 0)


@pytest.mark.parametrize("what", ["made", "moved", "closed"])
def test_other_threads_run_while_a_ring_waits_for_memory(what):
    """The memory comes when another thread has had the GIL, and not before."""
    simulated = simulation.Simulation(1)
    kernel = simulated.kernel
    proactors = []

    def make():
        proactors.append(uringloop.IouringProactor(0, kernel=kernel.capsule))

    if what != "made":
        make()
        loop = uringloop.IouringProactorEventLoop(proactors[0])
        loop.run_until_complete(turns(1))
        loop.call_soon(loop.stop)
    # The probe's ring is not mapped, and not waited for.
    kernel.set_limit("mmap_error", errno.ENOMEM)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make if what == "made" else loop.run_forever)
        while not kernel.slept and not waiting.done():
            os.stat("/")
        if what == "closed":
            proactors[0].close()
            with pytest.raises(RuntimeError, match="closed"):
                waiting.result()
        kernel.set_limit("mmap_error", 0)
        if what != "closed":
            waiting.result()
    if what == "made":
        proactors[0].close()
    else:
        loop.close()
    assert simulated.problems() == []


def test_changed_buffer_is_a_violation(tmp_path):
    """What the kernel is to send must stay as it is until its last word: the check can fail."""
    proactor, kernel = simulation.simulated_proactor(1, faults=False)
    loop = uringloop.IouringProactorEventLoop(proactor)

    async def program():
        with full_fifo(tmp_path / "fifo") as (reader, writer):
            data = bytearray(100)
            writing = proactor.send(writer, data)
            await turns(3)
            assert not writing.done()
            data[0] = 1
            os.read(reader.fileno(), 1 << 20)
            assert await writing == 100

    try:
        loop.run_until_complete(program())
    finally:
        loop.close()
    assert kernel.problems() == ["memory of a request in flight was changed"]


@pytest.mark.parametrize("call", ["setup", "mmap", "epoll_create", "eventfd"])
def test_failing_set_up_leaves_nothing(call):
    kernel = simulation.Simulation(1)
    kernel.kernel.fail(call, errno.EMFILE)
    with pytest.raises(OSError) as caught:
        uringloop.IouringProactor(kernel=kernel.kernel.capsule)
    assert caught.value.errno == errno.EMFILE
    assert kernel.problems() == []


@pytest.mark.parametrize("bad, error", [
    (1, TypeError),
    ("uring::Kernel", TypeError),
    (socket.CAPI, ValueError),
])
def test_what_is_no_kernel_is_refused(bad, error):
    with pytest.raises(error):
        uringloop.IouringProactor(kernel=bad)
    with pytest.raises(error):
        _overlapped.Ring(kernel=bad)


def test_every_fault_was_met():
    """By the tests before this one; alone, it runs some programs itself."""
    for seed in range(100, 160):
        if all(TAKEN.values()):
            break
        run(seed, echo, seed)
        run(seed, unix_echo, seed)
        run(seed, cancelled_receives, seed)
        test_send_without_buffers_fails_and_tells_nothing_else(seed)
        test_loop_moves_from_thread_to_thread(seed)
        test_dropped_completions_end_what_is_in_doubt(seed, "stdlib")
    assert [name for name, times in TAKEN.items() if not times] == []
