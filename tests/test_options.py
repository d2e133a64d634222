"""What a proactor can be told: how long a turn spins, the sizes of the ring's queues, the buffer of its receives."""

import asyncio
import contextlib
import gc
import inspect
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

import simulation
import uringloop
from support import Recorder, closed, some_bytes, turns

OPTIONS = {
    "spin_us": (0, 1000),
    "sq_entries": (1, 32768),
    "cq_entries": (1, 65536),
    "receive_buffer": (4096, 16 * 1024 * 1024),
}
MAKERS = {
    "proactor": uringloop.IouringProactor,
    "class": uringloop.IouringProactorEventLoop,
    "function": uringloop.new_event_loop,
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


# -- the arguments --


@each_maker
@pytest.mark.parametrize("name", OPTIONS)
def test_out_of_range(make, name):
    least, most = OPTIONS[name]
    for value in (least - 1, most + 1, -(2**70), 2**70):
        with pytest.raises(ValueError, match=f"^{name} must be from {least} to {most}, not {value}$"):
            make(**{name: value})


@each_maker
@pytest.mark.parametrize("name", OPTIONS)
def test_no_number(make, name):
    for value in ("1", 4096.0, [], b"1"):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            make(**{name: value})


@each_maker
def test_unknown_name(make):
    with pytest.raises(TypeError, match="'spin'"):
        make(spin=1)
    # What was refused complains of nothing when it is collected.
    gc.collect()


@each_maker
@pytest.mark.parametrize("options", [
    {"spin_us": 0}, {"spin_us": 1000}, {"sq_entries": 1}, {"sq_entries": 2048}, {"sq_entries": 3000}, {"cq_entries": 1},
    {"sq_entries": 700, "cq_entries": 1000}, {"receive_buffer": 4096}, {"receive_buffer": 16 * 1024 * 1024},
    dict.fromkeys(OPTIONS), {"spin_us": 5, "sq_entries": 8, "cq_entries": 16, "receive_buffer": 5000},
], ids=str)
def test_in_range(make, options):
    with contextlib.closing(make(**options)):
        pass


def test_options_have_the_same_names_everywhere():
    # (An extension type has no signature of its own; mirror.py has its parameters.)
    for make in (uringloop.IouringProactorEventLoop, uringloop.new_event_loop):
        parameters = inspect.signature(make).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("transports", "fallback")}
        assert found == dict.fromkeys(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_beside_a_proactor(name):
    with contextlib.closing(uringloop.IouringProactor()) as proactor:
        with pytest.raises(ValueError, match="give them to the IouringProactor"):
            uringloop.IouringProactorEventLoop(proactor, **{name: OPTIONS[name][0]})


# -- all of them at work --

EXTREMES = [
    {"spin_us": 1000}, {"sq_entries": 1, "cq_entries": 1}, {"sq_entries": 32768}, {"cq_entries": 65536},
    {"receive_buffer": 4096}, {"receive_buffer": 16 * 1024 * 1024},
    {"spin_us": 50, "sq_entries": 1, "cq_entries": 2, "receive_buffer": 5000},
]


@pytest.mark.parametrize("options", EXTREMES, ids=str)
def test_much_of_everything(options):
    """More at once than the smallest queues and buffers hold."""
    data = some_bytes(300_000)

    async def serve(reader, writer):
        writer.write(await reader.readexactly(len(data)))
        writer.close()
        await writer.wait_closed()

    async def one(address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(data)
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(one(server.sockets[0].getsockname()))
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.001)
        assert await asyncio.to_thread(lambda: 1) == 1

    with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(**options)) as runner:
        runner.run(main())


# -- the queues --


@contextlib.contextmanager
def simulated(**options):
    """(proactor, kernel) on a simulated kernel without faults."""
    proactor, kernel = simulation.simulated_proactor(
        1, faults=False, cls=lambda *args, **kwargs: uringloop.IouringProactor(*args, **kwargs, **options))
    try:
        yield proactor, kernel
    finally:
        proactor.close()
    assert kernel.problems() == []


@pytest.mark.parametrize("options, locked", [
    ({}, 20480),
    ({"sq_entries": 512, "cq_entries": 2048}, 69632),
    # One page for each: 1,024 bytes and 4 and 16 a place; 64 a place.
    ({"sq_entries": 1, "cq_entries": 1}, 8192),
    ({"cq_entries": 64}, 4096 + 4096),
    ({"sq_entries": 33}, 12288 + 4096),
    ({"sq_entries": 4096}, (1024 + 4096 * 4 + 8192 * 16 + 4095) // 4096 * 4096 + 4096 * 64),
])
@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to become an ordinary user with a limit of its own")
def test_locked_memory_that_a_ring_asks_for(options, locked):
    """What an error says of it, for the sizes that the kernel makes of those that were asked for."""
    code = f"""if True:
        import os, resource, uringloop
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            uringloop.new_event_loop(**{options}).close()
        except uringloop.IouringUnavailableError as error:
            print(str(error).partition("one ring needs ")[2].partition(" bytes")[0])
        else:
            print("not counted")
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if done.stdout == "not counted\n":
        pytest.skip("this kernel does not count rings against RLIMIT_MEMLOCK")
    assert done.stdout == f"{locked}\n"


def mapped():
    """Bytes of io_uring's mappings in this process."""
    total = 0
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if "io_uring" in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def test_queues_are_of_the_size_that_was_asked_for():
    sizes = {}
    for entries in (None, 1, 100, 4096):
        with contextlib.closing(uringloop.IouringProactor(sq_entries=entries)):
            sizes[entries] = mapped()
    assert sizes[100] == sizes[None]
    assert sizes[1] < sizes[None] < sizes[4096]
    assert mapped() == 0


def test_a_fresh_ring_is_as_large():
    """A loop that runs in another thread gets one."""
    with contextlib.closing(uringloop.new_event_loop(sq_entries=4096)) as loop:
        loop.run_until_complete(turns(1))
        before = mapped()
        thread = threading.Thread(target=loop.run_until_complete, args=(turns(1),))
        thread.start()
        thread.join()
        assert mapped() == before > 4096 * 64


# -- the buffer --


@pytest.mark.parametrize("size, largest", [(4096, 4096), (100_000, 100_000), (None, 262_144), (1 << 24, 262_144)])
def test_data_received_is_given_what_the_buffer_holds(size, largest):
    class Sizes(Recorder):
        most = 0

        def data_received(self, data):
            self.most = max(self.most, len(data))
            super().data_received(data)

    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        with b:
            for sock in (a, b):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
                sock.setblocking(False)
            data = some_bytes(600_000)
            sent = b.send(data)
            transport, protocol = await loop.create_connection(Sizes, sock=a)
            assert await protocol.received(sent) == data[:sent]
            transport.close()
            await protocol.lost
        assert protocol.most == min(largest, sent)

    with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(receive_buffer=size)) as runner:
        runner.run(main())


@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_sizes_around_that_of_the_buffer(size):
    """Datagrams come whole, whatever the buffer; so does what the sock_* calls ask for."""

    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with a, b:
            for sock in (a, b):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
                sock.setblocking(False)
            for length in (1, 4095, 4096, 4097, 60_000):
                data = some_bytes(length)
                for receive in (lambda: loop.sock_recv(a, 1 << 17), lambda: loop._proactor.recv(a, 1 << 17)):
                    b.send(data)
                    assert await receive() == data
                for receive in (lambda: loop.sock_recvfrom(a, 1 << 17), lambda: loop._proactor.recvfrom(a, 1 << 17)):
                    b.send(data)
                    assert (await receive())[0] == data
            transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=a)
            data = some_bytes(60_000)
            b.send(data)
            assert await protocol.got == data
            await closed((transport, protocol))

    class Datagrams(asyncio.DatagramProtocol):
        def __init__(self):
            self.got, self.lost = (asyncio.get_running_loop().create_future() for _ in range(2))

        def datagram_received(self, data, addr):
            self.got.set_result(data)

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(receive_buffer=size)) as runner:
        runner.run(main())


# -- the spin --


def enters(spin_us, use):
    """How often the kernel is entered by use(proactor)."""
    with simulated(spin_us=spin_us) as (proactor, kernel):
        proactor.select(0)
        before = kernel.kernel.calls("enter")
        use(proactor)
        return kernel.kernel.calls("enter") - before


def test_spin_enters_again_and_again_before_it_sleeps():
    def sleep(proactor):
        proactor.select(0.01)

    # One sleep, and perhaps what a clock that is read twice adds.
    assert enters(None, sleep) == enters(0, sleep) <= 2
    assert enters(1000, sleep) > 3


def test_turn_that_has_something_or_may_not_sleep_does_not_spin():
    def poll(proactor):
        proactor.select(0)

    assert enters(1000, poll) == enters(0, poll)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        def ready(proactor):
            proactor._wake()
            proactor.select(0)
            proactor.select(0)

        assert enters(1000, ready) == enters(0, ready), sock


@pytest.fixture
def spinning():
    with contextlib.closing(uringloop.new_event_loop(spin_us=1000)) as loop:
        yield loop


def test_wake_ends_a_spin(spinning):
    """And other threads run meanwhile: this one is what wakes it, each time."""
    count = 0

    def call():
        nonlocal count
        for _ in range(500):
            done = threading.Event()
            spinning.call_soon_threadsafe(done.set)
            assert done.wait(20)
            count += 1
        spinning.call_soon_threadsafe(spinning.stop)

    thread = threading.Thread(target=call)
    spinning.call_soon(thread.start)
    spinning.run_forever()
    thread.join()
    assert count == 500


def test_signals_are_handled(spinning):
    numbers = []
    spinning.add_signal_handler(signal.SIGUSR1, numbers.append, 1)

    async def main():
        for count in range(1, 100):
            spinning.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            while len(numbers) < count:
                await asyncio.sleep(0.0001)

    spinning.run_until_complete(asyncio.wait_for(main(), 30))
    spinning.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize("spin_us", [0, 1000])
def test_signal_s_exception_ends_a_proactor_s_sleep(spin_us):
    """Also one that comes in the middle of the spin, and wakes nothing."""

    class Signal(Exception):
        pass

    def handler(number, frame):
        raise Signal

    def interrupt(delay, done):
        done.wait(delay)
        while not done.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            # Nobody's wake-up descriptor is told: one that comes just before the sleep is too late, on any loop. That
            # must not end the test, but were it the rule, the test's time would be over.
            done.wait(20)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with contextlib.closing(uringloop.IouringProactor(spin_us=spin_us)) as proactor:
            for delay in (0.0002, 0.0004, 0.0006) * 5 + (0.005,):
                done = threading.Event()
                thread = threading.Thread(target=interrupt, args=(delay, done))
                with pytest.raises(Signal):
                    thread.start()
                    proactor.select(1000)
                done.set()
                thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_timers_fire_no_earlier(spinning):
    async def main():
        for delay in (0.0001, 0.0005, 0.001, 0.0015, 0.004):
            due = spinning.time() + delay
            await asyncio.sleep(delay)
            assert spinning.time() >= due - spinning._clock_resolution

    spinning.run_until_complete(main())


def test_closed_while_it_spins(spinning):
    """Closing a proactor under its loop ends the run with an error, as when it sleeps."""
    thread = threading.Thread(target=spinning._proactor.close)
    spinning.call_soon(thread.start)
    with pytest.raises(RuntimeError, match="closed"):
        spinning.run_forever()
    thread.join()
