"""The loop itself: threads, processes, Ctrl-C, closing in every state, and loops by the hundred."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import multiprocessing
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
import weakref

import pytest

import uringloop
from support import Echo, close, drain, read_exactly, some_bytes, turns

in_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def make(loop_factory):
    """`loop = make()`: loops that are closed after the test if it has not closed them."""
    loops = []

    def make():
        loops.append(loop_factory())
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


def in_thread(function, *args):
    """Call a function in a new thread; return its result or raise its exception."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *args).result()


async def exchange(loop):
    """Some of everything: bytes, a datagram, a timer, a thread, a server."""
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        data = some_bytes(500_000)
        sending = asyncio.create_task(loop.sock_sendall(a, data))
        assert await read_exactly(loop, b, len(data)) == data
        await sending
    server = await asyncio.start_server(lambda r, w: serve(r, w), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    await close(writer, server)
    await asyncio.sleep(0.0001)
    assert await loop.run_in_executor(None, lambda: 42) == 42
    return "done"


async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
    await close(writer)


def rings_mapped():
    return pathlib.Path("/proc/self/maps").read_text().count("io_uring")


# -- closing --


def check_closed(loop):
    assert loop.is_closed() and not loop.is_running()
    for use in (
        loop.run_forever,
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            use()
    loop.close()


def test_close_never_run(make):
    loop = make()
    loop.close()
    check_closed(loop)


def test_close_after_a_run(make):
    loop = make()
    assert loop.run_until_complete(exchange(loop)) == "done"
    loop.close()
    check_closed(loop)
    assert "closed=True" in repr(loop)


def test_close_with_callbacks_pending(make):
    loop = make()
    loop.call_soon(pytest.fail)
    loop.call_later(0, pytest.fail)
    loop.close()
    check_closed(loop)


def test_close_while_running(make):
    async def main():
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()
        await turns(3)
        return "still running"

    loop = make()
    assert loop.run_until_complete(main()) == "still running"


def test_close_from_another_thread(make):
    loop = make()
    loop.run_until_complete(exchange(loop))
    in_thread(loop.close)
    check_closed(loop)


@pytest.mark.filterwarnings("ignore:coroutine.*never awaited:RuntimeWarning")
@pytest.mark.parametrize("where", ["here", "in another thread"])
def test_close_with_tasks_pending(make, pair, where):
    """The tasks are forgotten; nothing of the loop holds the sockets or reads from them."""

    async def start():
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        return sock, [
            loop.create_task(loop.sock_recv(a, 10)),
            loop.create_task(loop.sock_sendall(b, bytes(5_000_000))),
            loop.create_task(loop.sock_accept(sock)),
            loop.create_task(asyncio.sleep(1000)),
        ]

    a, b = pair
    loop = make()
    said = []
    loop.set_exception_handler(lambda _, context: said.append(context["message"]))
    listener, tasks = loop.run_until_complete(start())
    loop.run_until_complete(turns(3))
    # One that was never submitted.
    tasks.append(loop.create_task(loop.sock_recv(a, 10)))
    if where == "here":
        loop.close()
    else:
        in_thread(loop.close)
    check_closed(loop)
    address = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address).close()
        # What another thread's ring had in flight is ended by the kernel in its own time.
        while where != "here":
            socket.create_connection(address).close()
    assert not all(task.done() for task in tasks)
    assert len(drain(a)) < 5_000_000
    b.send(b"mine")
    assert a.recv(100) == b"mine"
    del tasks
    gc.collect()
    assert set(said) <= {"Task was destroyed but it is pending!"}


@pytest.mark.parametrize("moment", ["in the last callback", "between runs", "before SystemExit"])
def test_what_is_written_last(make, pair, moment):
    """It is out, though the loop takes no turn any more."""
    ours, theirs = pair
    loop = make()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))

    def last():
        transport.write(b"last words")
        if moment == "before SystemExit":
            raise SystemExit
        loop.stop()

    if moment == "between runs":
        transport.write(b"last words")
    else:
        loop.call_soon(last)
        with contextlib.suppress(SystemExit):
            loop.run_forever()
        assert theirs.recv(100) == b"last words"
    loop.close()
    if moment == "between runs":
        assert theirs.recv(100) == b"last words"
    transport._sock.close()
    transport._sock = None


def test_closed_loop_is_refused(make, pair):
    loop = make()
    loop.close()
    for name, *arguments in (("sock_recv", 1), ("sock_recv_into", bytearray(1)), ("sock_sendall", bytes(10_000_000))):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            getattr(loop, name)(pair[0], *arguments).send(None)


def test_closed_loop_lets_readers_go(make, pair):
    class Callback:
        def __call__(self):
            pass

    loop = make()
    callback = Callback()
    loop.add_reader(pair[0], callback)
    there = weakref.ref(callback)
    loop.close()
    del callback
    gc.collect()
    assert there() is None


def test_close_gives_the_files_back_at_once(make):
    """When close() returns, no operation holds a file any more: ports are free, peers see the end."""
    for _ in range(20):
        loop = make()
        loop.set_exception_handler(lambda _, context: None)
        pairs = [socket.socketpair() for _ in range(50)]
        with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:
            for sock in [listener, *(sock for pair in pairs for sock in pair)]:
                stack.enter_context(sock).setblocking(False)
            address = listener.getsockname()
            tasks = [loop.create_task(loop.sock_recv(a, 10)) for a, _ in pairs]
            tasks.append(loop.create_task(loop.sock_accept(listener)))
            loop.run_until_complete(turns(3))
            for sock in [listener, *(a for a, _ in pairs)]:
                sock.close()
            loop.close()
            assert [b.recv(1) for _, b in pairs] == [b""] * 50
            with socket.socket() as again:
                again.bind(address)
        del tasks


def test_forgotten_without_close(loop_factory):
    """A ResourceWarning, and it closes itself: no descriptor, no mapping, no object is left."""
    rings = rings_mapped()
    loop = loop_factory()
    loop.run_until_complete(exchange(loop))
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        loop.set_exception_handler(lambda _, context: None)
        task = loop.create_task(loop.sock_recv(a, 10))
        loop.run_until_complete(turns(3))
        alive = weakref.ref(loop)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del loop, task
            gc.collect()
        assert any(
            issubclass(each.category, ResourceWarning) and "unclosed event loop" in str(each.message) for each in caught
        )
        # The warning names its source.
        caught.clear()
        gc.collect()
        assert alive() is None
        assert rings_mapped() == rings


# -- running --


@pytest.mark.uringloop_only  # on 3.13.0 the selector loop forgets that it is running
def test_nested_run_forever(make):
    async def main():
        for other in (loop.run_forever, lambda: run(loop), lambda: run(second)):
            with pytest.raises(RuntimeError):
                other()
            # The outer run goes on, in all its parts.
            assert await exchange(loop) == "done"
        threading.Timer(0, loop.call_soon_threadsafe, (woken.set,)).start()
        await woken.wait()

    def run(which):
        coroutine = asyncio.sleep(0)
        try:
            which.run_until_complete(coroutine)
        finally:
            coroutine.close()

    woken = asyncio.Event()
    loop, second = make(), make()
    loop.run_until_complete(main())
    assert second.run_until_complete(exchange(second)) == "done"
    assert loop.run_until_complete(exchange(loop)) == "done"


def test_run_from_two_threads_at_once(make):
    async def main():
        with pytest.raises(RuntimeError, match="already running"):
            await asyncio.to_thread(loop.run_forever)
        return await exchange(loop)

    loop = make()
    assert loop.run_until_complete(main()) == "done"


def test_stop(make):
    loop = make()
    loop.stop()
    loop.run_forever()  # one turn
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == [1]
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        loop.run_until_complete(future)


def test_operations_stay_pending_between_runs(make, pair):
    a, b = pair
    loop = make()
    task = loop.create_task(loop.sock_recv(a, 100))
    loop.run_until_complete(turns(3))
    b.send(b"between")
    assert loop.run_until_complete(task) == b"between"


def test_timers_in_order(make):
    async def main():
        for number, delay in enumerate([0.02, 0, 0.01, 0.03, -1, 0.001]):
            loop.call_later(delay, seen.append, number)
        cancelled = loop.call_later(0.005, seen.append, "cancelled")
        cancelled.cancel()
        start = loop.time()
        await asyncio.sleep(0.04)
        assert loop.time() >= start + 0.04 - 1e-6

    seen = []
    loop = make()
    loop.run_until_complete(main())
    assert seen in ([4, 1, 5, 2, 0, 3], [1, 4, 5, 2, 0, 3])


# -- threads --


def test_one_loop_in_three_threads(make, pair, stack):
    """Run in two threads, one after the other, with operations pending across; closed in a third."""
    a, b = pair
    c, d = (stack.enter_context(sock) for sock in socket.socketpair())
    c.setblocking(False)
    loop = make()
    data = some_bytes(3_000_000)

    def first():
        tasks.append(loop.create_task(loop.sock_recv(a, 100)))
        tasks.append(loop.create_task(loop.sock_recv(c, 100)))
        tasks.append(loop.create_task(loop.sock_sendall(a, data)))
        loop.run_until_complete(turns(5))

    def second():
        d.send(b"in the second thread")
        assert loop.run_until_complete(tasks[1]) == b"in the second thread"
        assert loop.run_until_complete(read_exactly(loop, b, len(data))) == data
        loop.run_until_complete(tasks[2])
        assert loop.run_until_complete(exchange(loop)) == "done"

    tasks = []
    in_thread(first)
    b.send(b"between the threads")
    in_thread(second)
    assert loop.run_until_complete(tasks[0]) == b"between the threads"
    in_thread(loop.close)
    check_closed(loop)


def test_a_server_moves_between_threads(make, stack):
    async def start():
        return await loop.create_server(Echo, "127.0.0.1", 0)

    async def talk():
        async with asyncio.timeout(30):
            await loop.sock_sendall(client, b"hello")
            return await read_exactly(loop, client, 5)

    loop = make()
    server = in_thread(loop.run_until_complete, start())
    client = stack.enter_context(socket.create_connection(server.sockets[0].getsockname()))
    client.setblocking(False)
    for _ in range(5):
        assert in_thread(loop.run_until_complete, talk()) == b"hello"
    assert loop.run_until_complete(talk()) == b"hello"
    server.close()
    client.close()
    loop.run_until_complete(turns(5))


@pytest.mark.parametrize("threads", ["ended", "alive"])
def test_keeps_moving_between_threads(make, stack, threads):
    """What one thread began the next ones see done, be the first at work, asleep or gone."""
    loop = make()
    pairs = [socket.socketpair() for _ in range(30)]
    for pair in pairs:
        for sock in pair:
            stack.enter_context(sock).setblocking(False)
    pools = [stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)) for _ in range(3)]
    silent = loop.create_task(loop.sock_recv(pairs[0][0], 100))
    receives = []

    async def move(number):
        receives.append(loop.create_task(loop.sock_recv(pairs[number][0], 100)))
        await turns(2)
        if number > 5:
            # Begun five threads ago.
            await loop.sock_sendall(pairs[number - 5][1], b"%d" % (number - 5))
            assert await receives[number - 6] == b"%d" % (number - 5)

    for number in range(1, len(pairs)):
        run = functools.partial(loop.run_until_complete, move(number))
        if threads == "ended":
            in_thread(run)
        else:
            pools[number % 3].submit(run).result()
    assert not silent.done()
    pairs[0][1].send(b"at last")
    assert loop.run_until_complete(silent) == b"at last"
    for number in range(len(pairs) - 5, len(pairs)):
        pairs[number][1].send(b"x")
    assert loop.run_until_complete(asyncio.gather(*receives[-5:])) == 5 * [b"x"]


def test_made_in_a_thread_that_has_ended(loop_factory):
    loop = in_thread(loop_factory)
    try:
        assert loop.run_until_complete(exchange(loop)) == "done"
    finally:
        loop.close()


def test_eight_loops_in_eight_threads(loop_factory):
    def run(number):
        together.wait()
        loop = loop_factory()
        try:
            return [loop.run_until_complete(exchange(loop)) for _ in range(5)]
        finally:
            loop.close()

    together = threading.Barrier(8)
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        assert list(executor.map(run, range(8))) == [["done"] * 5] * 8


def test_200_loops_one_after_the_other(loop_factory):
    rings = rings_mapped()
    for number in range(200):
        loop = loop_factory()
        assert loop.run_until_complete(exchange(loop) if number % 20 == 0 else asyncio.sleep(0, "done")) == "done"
        loop.close()
    del loop
    assert rings_mapped() == rings


def test_call_soon_threadsafe_while_the_loop_sleeps(make):
    """Each call wakes a loop that has nothing else to do."""

    def call():
        for number in range(200):
            called.clear()
            loop.call_soon_threadsafe(lambda number=number: (seen.append(number), called.set()))
            assert called.wait(30)
        loop.call_soon_threadsafe(loop.stop)

    seen = []
    called = threading.Event()
    loop = make()
    thread = threading.Thread(target=call)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert seen == list(range(200))


def test_thread_that_calls_all_the_time_leaves_the_loop_its_turns(make, request):
    """With nobody forced to give the GIL up, a call has to do it by itself."""

    def call():
        for _ in range(500_000):
            if called:
                break
            loop.call_soon_threadsafe(called.append, True)
        loop.call_soon_threadsafe(loop.stop)
        in_time.append(bool(called))

    called = []
    in_time = []
    request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1000)
    loop = make()
    thread = threading.Thread(target=call)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert in_time == [True]


def test_call_soon_threadsafe_from_many_threads(make):
    def call(number):
        for _ in range(500):
            loop.call_soon_threadsafe(count, number)

    def count(number):
        counts[number] += 1
        if sum(counts) == 8 * 500:
            loop.stop()

    counts = [0] * 8
    loop = make()
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        loop.call_soon(lambda: [executor.submit(call, number) for number in range(8)])
        loop.run_forever()
    assert counts == [500] * 8


def test_call_soon_threadsafe_before_and_between_runs(make):
    loop = make()
    seen = []
    in_thread(loop.call_soon_threadsafe, seen.append, 1)
    loop.run_until_complete(turns(2))
    for _ in range(1000):  # more than a socket has room for
        in_this_run = loop.call_soon_threadsafe(seen.append, 2)
    in_this_run.cancel()
    loop.run_until_complete(turns(2))
    assert seen == [1] + [2] * 999


def test_run_coroutine_threadsafe(make):
    loop = make()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(exchange(loop), loop).result(30) == "done"
    forever = asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)
    forever.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        forever.result(30)
    asyncio.run_coroutine_threadsafe(turns(3), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


async def test_executors(loop):
    variable = contextvars.ContextVar("variable")
    variable.set("here")
    results = await asyncio.gather(*(asyncio.to_thread(pow, number, 2) for number in range(50)))
    assert results == [number**2 for number in range(50)]
    assert await asyncio.to_thread(variable.get) == "here"
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        assert await loop.run_in_executor(executor, threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, lambda: 1 / 0)
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError):
        await loop.run_in_executor(None, print)


# -- debug mode --


def test_debug_mode(make):
    async def main():
        def call():
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                loop.call_soon(print)
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                loop.call_later(1, print)

        await asyncio.to_thread(call)
        return await exchange(loop)

    loop = make()
    loop.set_debug(True)
    assert loop.run_until_complete(main()) == "done"


async def test_debug_mode_refuses_blocking_sockets(loop, pair):
    a, b = pair
    a.setblocking(True)
    loop.set_debug(True)
    for call in (
        loop.sock_recv(a, 1),
        loop.sock_recv_into(a, bytearray(1)),
        loop.sock_recvfrom(a, 1),
        loop.sock_recvfrom_into(a, bytearray(1)),
        loop.sock_sendall(a, b"x"),
        loop.sock_sendto(a, b"x", ("127.0.0.1", 1)),
        loop.sock_accept(a),
        loop.sock_connect(a, ("127.0.0.1", 1)),
    ):
        with pytest.raises(ValueError, match="must be non-blocking"):
            await call
    loop.set_debug(False)


@pytest.mark.uringloop_only
@pytest.mark.parametrize("rung", [0, 1, 2])
@pytest.mark.parametrize("who", ["a thread", "a signal handler"])
def test_proactor_closed_under_a_sleeping_loop(rung, who):
    """Nobody may do that. The run ends with an error, and the process lives on."""
    proactor = uringloop.IouringProactor(rung)
    loop = uringloop.IouringProactorEventLoop(proactor)
    asleep = threading.Event()

    def close_proactor():
        asleep.wait()
        # Asleep, or about to be.
        if who == "a thread":
            proactor.close()
        else:
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, frame: proactor.close())
    thread = threading.Thread(target=close_proactor)
    thread.start()
    try:
        loop.call_soon(asleep.set)
        # Where any thread may enter the ring, the one that closes it may be in there first.
        with pytest.raises(RuntimeError, match="closed|another thread"):
            loop.run_forever()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
        loop.close()


# -- Ctrl-C --


@pytest.mark.parametrize("how", ["os.kill", "a thread"])
def test_interrupt_while_the_loop_sleeps(make, pair, how, ctrl_c):
    """KeyboardInterrupt comes out; the loop, and what is pending on it, can be used afterwards."""

    def interrupt():
        if how == "a thread":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    a, b = pair
    loop = make()
    pending = loop.create_task(loop.sock_recv(a, 100))
    for _ in range(3):
        thread = threading.Timer(0.01, interrupt)
        loop.call_soon(thread.start)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        thread.join()
        assert not loop.is_running()
    b.send(b"afterwards")
    assert loop.run_until_complete(pending) == b"afterwards"
    assert loop.run_until_complete(exchange(loop)) == "done"


def test_interrupt_of_a_loop_that_another_thread_made(loop_factory, ctrl_c):
    """Nobody has told the signal module of its descriptor: the sleep itself is interrupted."""
    loop = in_thread(loop_factory)
    with contextlib.closing(loop):
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        loop.call_soon(timer.start)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        timer.join()


def test_signal_handler_runs_while_the_loop_sleeps(make):
    """A handler that raises nothing: the sleep goes on, or the loop turns; no error comes of it."""

    def handler(number, frame):
        seen.append(number)
        loop.call_soon_threadsafe(loop.stop)

    seen = []
    loop = make()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        loop.call_soon(timer.start)
        loop.run_forever()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_runner_turns_ctrl_c_into_a_cancel(loop_factory, ctrl_c):
    async def main():
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    seen = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
        assert seen == ["cancelled"]
        assert runner.run(exchange(runner.get_loop())) == "done"


def wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


@pytest.mark.uringloop_only  # a selector loop takes it with its first signal handler
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_wakeup_fd_goes_back_to_whom_it_was(make, stack, order):
    mine, _ = (stack.enter_context(sock) for sock in socket.socketpair())
    mine.setblocking(False)
    signal.set_wakeup_fd(mine.fileno())
    try:
        loops = [make() for _ in range(3)]
        assert wakeup_fd() == mine.fileno()
        for number, loop in zip((signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP), loops):
            loop.add_signal_handler(number, print)
        wanted = [loop._csock.fileno() for loop in loops]
        for index in order:
            assert wakeup_fd() == wanted[-1]
            wanted.remove(loops[index]._csock.fileno())
            loops[index].close()
        assert wakeup_fd() == mine.fileno()
    finally:
        signal.set_wakeup_fd(-1)


def test_interrupt_after_another_loop_has_closed(make, ctrl_c):
    """Its end must not make the first one deaf."""
    loop, second = make(), make()
    second.run_until_complete(turns(1))
    second.close()
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
    loop.call_soon(timer.start)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    timer.join()


# -- processes --


def in_child(function):
    """Call a function in a forked child; assert that it returned."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(30)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@in_fork
def test_fork_child_runs_a_fresh_loop(make, loop_factory, pair):
    def child():
        assert rings_mapped() == 0  # the parent's queues are not the child's
        fresh = loop_factory()
        assert fresh.run_until_complete(exchange(fresh)) == "done"
        fresh.close()

    a, b = pair
    loop = make()
    pending = loop.create_task(loop.sock_recv(a, 100))
    loop.run_until_complete(turns(3))
    for _ in range(3):
        in_child(child)
    b.send(b"for the parent")
    assert loop.run_until_complete(pending) == b"for the parent"
    assert loop.run_until_complete(exchange(loop)) == "done"


@in_fork
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("how", ["close", "forget", "close first"])
def test_fork_child_ends_the_inherited_loop(make, loop_factory, pair, how):
    """The parent's loop notices nothing: neither its receive nor its send is touched."""

    def child():
        if how == "close first":
            loop.close()
        fresh = loop_factory()
        assert fresh.run_until_complete(exchange(fresh)) == "done"
        fresh.close()
        loop.set_exception_handler(lambda _, context: None)
        if how == "close":
            loop.close()
            loop.close()
        elif how == "forget":
            inherited.clear()
            gc.collect()

    a, b = pair
    loop = make()
    inherited = [loop]
    data = some_bytes(3_000_000)
    receiving = loop.create_task(loop.sock_recv(a, 100))
    sending = loop.create_task(loop.sock_sendall(a, data))
    loop.run_until_complete(turns(3))
    in_child(child)
    b.send(b"for the parent")
    assert loop.run_until_complete(receiving) == b"for the parent"
    assert loop.run_until_complete(read_exactly(loop, b, len(data))) == data
    loop.run_until_complete(sending)


@pytest.mark.uringloop_only
@in_fork
def test_fork_child_may_not_run_the_inherited_loop(make):
    def child():
        with pytest.raises(RuntimeError, match="fork"):
            loop.run_until_complete(asyncio.Future(loop=loop))

    loop = make()
    loop.run_until_complete(turns(1))
    in_child(child)
    assert loop.run_until_complete(exchange(loop)) == "done"


@in_fork
def test_fork_inside_a_running_loop(make, loop_factory):
    async def main():
        def child():
            assert asyncio._get_running_loop() is None
            fresh = loop_factory()
            assert fresh.run_until_complete(exchange(fresh)) == "done"
            fresh.close()

        await turns(3)
        in_child(child)
        return await exchange(loop)

    loop = make()
    assert loop.run_until_complete(main()) == "done"


@in_fork
def test_multiprocessing_fork(make, loop_factory):
    def target():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(exchange(runner.get_loop())) == "done"

    async def main():
        processes = [multiprocessing.get_context("fork").Process(target=target) for _ in range(3)]
        for process in processes:
            process.start()
        assert await exchange(loop) == "done"
        for process in processes:
            await asyncio.to_thread(process.join)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.close()
        return codes

    loop = make()
    assert loop.run_until_complete(main()) == [0, 0, 0]


# -- an ordinary user's limits --


@pytest.mark.uringloop_only
@in_fork
def test_locked_memory_of_an_ordinary_user(loop_factory):
    """8 MiB, Debian's usual limit: 64 loops live at once, and 200 one after the other."""

    def child():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(*[65534] * 3)
            os.setresuid(*[65534] * 3)
        loops = [loop_factory() for _ in range(64)]
        for loop in loops:
            loop.run_until_complete(asyncio.sleep(0))
        for loop in loops:
            loop.close()
        for _ in range(200):
            loop = loop_factory()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    in_child(child)


@pytest.mark.uringloop_only
@pytest.mark.parametrize("rung", [0, 1, 2])
def test_each_rung_of_the_ladder(rung, stack):
    """What an older kernel gets: everything works, in one thread and in several."""
    loop = uringloop.IouringProactorEventLoop(uringloop.IouringProactor(rung))
    with contextlib.closing(loop):
        a, b = (stack.enter_context(sock) for sock in socket.socketpair())
        a.setblocking(False)
        assert loop.run_until_complete(exchange(loop)) == "done"
        pending = loop.create_task(loop.sock_recv(a, 100))
        loop.run_until_complete(turns(3))
        assert in_thread(loop.run_until_complete, exchange(loop)) == "done"
        b.send(b"across")
        assert in_thread(loop.run_until_complete, pending) == b"across"
        cancelled = loop.create_task(loop.sock_recv(a, 100))
        loop.run_until_complete(turns(3))
        cancelled.cancel()
        loop.run_until_complete(asyncio.wait([cancelled]))
        closed = loop.create_task(loop.sock_recv(a, 100))
        loop.run_until_complete(turns(3))
        a.close()
        with pytest.raises(OSError):
            loop.run_until_complete(closed)


# -- the public face --


@pytest.mark.uringloop_only
def test_run(loop_factory):
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, uringloop.IouringProactorEventLoop)
        assert await exchange(loop) == "done"
        with pytest.raises(RuntimeError, match="running event loop"):
            uringloop.run(main)
        return loop.get_debug()

    assert uringloop.run(main()) is False
    assert uringloop.run(main(), debug=True) is True


@pytest.mark.uringloop_only
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(asyncio, "set_event_loop_policy"), reason="asyncio has no policies any more")
def test_policy(loop_factory):
    async def main():
        return type(asyncio.get_running_loop())

    asyncio.set_event_loop_policy(uringloop.IouringProactorEventLoopPolicy())
    try:
        assert asyncio.run(main()) is uringloop.IouringProactorEventLoop
    finally:
        asyncio.set_event_loop_policy(None)


def test_policy_on_a_python_without_policies(monkeypatch):
    monkeypatch.delattr(asyncio.unix_events, "_UnixDefaultEventLoopPolicy", raising=False)
    # An earlier use is remembered.
    monkeypatch.delitem(vars(uringloop.uring_events), "IouringProactorEventLoopPolicy", raising=False)
    assert not hasattr(uringloop, "IouringProactorEventLoopPolicy")
    with pytest.raises(AttributeError, match="no event loop policies: use uringloop.run"):
        uringloop.IouringProactorEventLoopPolicy


def test_import_touches_nothing():
    """Neither a ring nor a policy; -W error says so from Python 3.14 on."""
    code = """if True:
        import asyncio, os, pathlib
        before = os.listdir("/proc/self/fd")
        import uringloop
        assert os.listdir("/proc/self/fd") == before
        assert "io_uring" not in pathlib.Path("/proc/self/maps").read_text()
        assert getattr(asyncio.events, "_event_loop_policy", None) is None
        # Libraries look for this name and take its owner for Windows.
        assert not hasattr(asyncio, "ProactorEventLoop") and not hasattr(uringloop, "ProactorEventLoop")
    """
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd="/", capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
