"""Signal handlers, Ctrl-C and the wake-up descriptor, on the selector loop and on ours."""

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from support import some_bytes, turns, until

# How many signals the storms send; the figures that they are meant for are 2,000 and 20,000.
PACED = int(os.environ.get("URINGLOOP_PACED_SIGNALS", 2000))
UNPACED = int(os.environ.get("URINGLOOP_UNPACED_SIGNALS", 20_000))

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)


@pytest.fixture(autouse=True)
def dispositions(ctrl_c):
    """Every signal is handled afterwards as it was before."""
    # (Who is started by nohup(1), or in the background of a script, ignores some.)
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def loops(loop_factory):
    """`a, b = loops(2)`: loops that are closed after the test, if it has not closed them."""
    with contextlib.ExitStack() as stack:
        yield lambda count: [stack.enter_context(contextlib.closing(loop_factory())) for _ in range(count)]


def kill(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


def child(code, *arguments, **options):
    """A process that may send us signals: its `parent` is this one."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import os, signal, sys, time; parent = os.getppid()\n{code}", *arguments],
        **options)


# -- a handler is called --


async def test_once_for_each_signal(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "usr1")
    for count in range(1, 51):
        kill()
        await until(lambda: len(seen) == count)
    await turns(5)
    assert seen == ["usr1"] * 50
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


async def test_right_after_it_was_added(loop, seen):
    """Not one moment in which the signal would end the process."""
    for _ in range(20):
        loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        kill()
        await until(lambda: seen)
        loop.remove_signal_handler(signal.SIGUSR1)
        seen.clear()


def test_before_the_first_run(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    kill()
    loop.run_until_complete(until(lambda: seen))
    loop.remove_signal_handler(signal.SIGUSR1)


def test_between_two_runs(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.run_until_complete(asyncio.sleep(0))
    kill()
    loop.run_until_complete(until(lambda: seen))
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize("sender", ["another process", "a thread", "a timer"])
def test_while_the_loop_sleeps(loop, seen, sender):
    """Blocked in the kernel, with nothing else to wake it."""

    def stop():
        seen.append(sender)
        loop.stop()

    number = signal.SIGALRM if sender == "a timer" else signal.SIGUSR1
    loop.add_signal_handler(number, stop)
    for count in (1, 2):
        with contextlib.ExitStack() as stack:
            if sender == "another process":
                process = stack.enter_context(
                    child("sys.stdin.read(1); os.kill(parent, signal.SIGUSR1)", stdin=subprocess.PIPE))
                loop.call_soon(process.communicate, b"x")
            elif sender == "a thread":
                timer = threading.Timer(0.01, kill)
                loop.call_soon(timer.start)
                stack.callback(timer.join)
            else:
                loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.01)
            loop.run_forever()
        assert seen == [sender] * count
    loop.remove_signal_handler(number)


async def test_several_signals_at_once(loop, seen):
    for number in SIGNALS:
        loop.add_signal_handler(number, seen.append, number)
    for number in SIGNALS:
        kill(number)
    await until(lambda: len(seen) == len(SIGNALS))
    assert sorted(seen) == sorted(SIGNALS)
    for number in SIGNALS:
        assert loop.remove_signal_handler(number) is True


async def test_sent_to_another_thread(loop, seen):
    """Whichever thread the kernel chose, the loop's is the one that calls."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(threading.current_thread()))
    for count in range(1, 11):
        signal.pthread_kill(thread.ident, signal.SIGUSR1)
        await until(lambda: len(seen) == count)
    loop.remove_signal_handler(signal.SIGUSR1)
    done.set()
    thread.join()
    assert seen == [threading.main_thread()] * 10


async def test_context_is_the_adders(loop, seen):
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("when added")
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get()))
    variable.set("later")
    kill()
    await until(lambda: seen)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == ["when added"]


async def test_debug_mode(loop, seen):
    loop.set_debug(True)
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    kill()
    await until(lambda: seen)
    loop.remove_signal_handler(signal.SIGUSR1)


# -- adding and removing --


async def test_added_again_the_new_one_is_called(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "old")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "new")
    kill()
    await until(lambda: seen)
    await turns(3)
    assert seen == ["new"]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


async def test_handler_that_removes_itself(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(loop.remove_signal_handler(signal.SIGUSR1)))
    kill()
    await until(lambda: seen)
    assert seen == [True]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


async def test_removed_while_the_signal_is_on_its_way(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    kill(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGUSR1)
    kill(signal.SIGUSR2)
    await until(lambda: seen)
    await turns(3)
    loop.remove_signal_handler(signal.SIGUSR2)
    assert seen == [2]


async def test_default_action_comes_back(loop):
    loop.add_signal_handler(signal.SIGINT, print)
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert loop.remove_signal_handler(signal.SIGINT) is True
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_close_removes_the_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(signal.SIGUSR1, print)


@pytest.mark.parametrize("number, error, message", [
    (signal.SIGKILL, RuntimeError, "sig 9 cannot be caught"),
    (signal.SIGSTOP, RuntimeError, "sig 19 cannot be caught"),
    (0, ValueError, "invalid signal number 0"),
    (-1, ValueError, "invalid signal number -1"),
    (1000, ValueError, "invalid signal number 1000"),
    ("SIGINT", TypeError, "sig must be an int, not 'SIGINT'"),
    (None, TypeError, "sig must be an int, not None"),
], ids=str)
def test_number_is_refused(loop, number, error, message):
    with pytest.raises(error, match=message):
        loop.add_signal_handler(number, print)
    if error is not RuntimeError:
        with pytest.raises(error, match=message):
            loop.remove_signal_handler(number)


def test_coroutines_are_refused(loop):
    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    made = coroutine()
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, made)
    made.close()


def test_only_in_the_main_thread(loop_factory):
    def run():
        with contextlib.closing(loop_factory()) as loop:
            try:
                loop.add_signal_handler(signal.SIGUSR1, print)
            except RuntimeError as exc:
                messages.append(str(exc))
            loop.run_until_complete(turns(2))

    messages = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert messages == ["set_wakeup_fd only works in main thread of the main interpreter"]


@pytest.mark.uringloop_only  # the selector loop raises ValueError out of close(), and is closed all the same
def test_closed_in_another_thread(loop, loops, seen, stack):
    """It can't give the signals back. Nobody gets its number, until a loop in the main thread has taken them over."""
    first, = loops(1)
    first.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    loop.add_signal_handler(signal.SIGUSR1, print)
    number = wakeup_fd()
    thread = threading.Thread(target=loop.close)
    thread.start()
    thread.join()
    assert loop.is_closed() and not loop._signal_handlers
    strangers = [stack.enter_context(sock) for _ in range(10) for sock in socket.socketpair()]
    assert number not in {sock.fileno() for sock in strangers}
    kill(signal.SIGUSR1)
    kill(signal.SIGUSR2)
    check_silent(strangers)
    first.run_until_complete(until(lambda: seen))
    first.close()
    with pytest.raises(OSError):
        os.fstat(number)
    assert wakeup_fd() == -1
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


# -- a handler that raises --


async def test_handler_that_raises(loop, errors, seen):
    def handler():
        seen.append(1)
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, handler)
    for count in (1, 2, 3):
        kill()
        await until(lambda: len(seen) == count)
    await turns(2)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError] * 3
    errors.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_handler_that_ends_the_run(loop, error, pair):
    """The loop, and what is pending on it, can be used afterwards."""

    def handler():
        raise error

    ours, theirs = pair
    pending = loop.create_task(loop.sock_recv(ours, 10))
    loop.add_signal_handler(signal.SIGUSR1, handler)
    for _ in range(3):
        timer = threading.Timer(0.01, kill)
        loop.call_soon(timer.start)
        with pytest.raises(error):
            loop.run_forever()
        timer.join()
    loop.remove_signal_handler(signal.SIGUSR1)
    theirs.send(b"later")
    assert loop.run_until_complete(pending) == b"later"


# -- Ctrl-C --


@pytest.mark.parametrize("before", ["no handler", "a handler that was removed", "one that could not be added"])
def test_ctrl_c_while_blocked_in_the_kernel(loop, seen, before):
    if before == "a handler that was removed":
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.remove_signal_handler(signal.SIGUSR1)
    elif before == "one that could not be added":
        with pytest.raises(RuntimeError):
            loop.add_signal_handler(signal.SIGKILL, print)
    if hasattr(loop, "_proactor"):
        loop.call_soon(lambda: seen.append(wakeup_fd() == loop._csock.fileno()))
    with child("sys.stdin.read(1); os.kill(parent, signal.SIGINT)", stdin=subprocess.PIPE) as process:
        loop.call_soon(process.stdin.write, b"x")
        loop.call_soon(process.stdin.flush)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    assert all(seen) and wakeup_fd() == -1


def test_ctrl_c_with_a_handler_of_its_own(loop, seen):
    def stop():
        seen.append("handled")
        loop.stop()

    loop.add_signal_handler(signal.SIGINT, stop)
    timer = threading.Timer(0.01, kill, (signal.SIGINT,))
    loop.call_soon(timer.start)
    loop.run_forever()
    timer.join()
    loop.remove_signal_handler(signal.SIGINT)
    assert seen == ["handled"]


# -- several loops --


def wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def test_loops_one_after_the_other(loops, seen):
    for count in range(1, 4):
        with contextlib.closing(loops(1)[0]) as loop:
            loop.add_signal_handler(signal.SIGUSR1, seen.append, count)
            kill()
            loop.run_until_complete(until(lambda: len(seen) == count))
    assert seen == [1, 2, 3]
    assert wakeup_fd() == -1


@pytest.mark.parametrize("first_to_close", [0, 1])
def test_another_loop_is_made_beside_handlers(loop_factory, seen, first_to_close):
    """It must not take the signals away."""
    several = [loop_factory()]
    several[0].add_signal_handler(signal.SIGUSR1, seen.append, 1)
    several.append(loop_factory())

    async def main():
        kill()
        await until(lambda: seen)

    several[0].run_until_complete(main())
    several.pop(first_to_close).close()
    if first_to_close == 1:
        seen.clear()
        several[0].run_until_complete(main())
    several.pop().close()
    assert wakeup_fd() == -1


def test_signal_of_a_loop_beside_one_that_is_made(loops, seen):
    first, = loops(1)
    first.add_signal_handler(signal.SIGUSR1, seen.append, 1)

    async def main():
        second, = loops(1)
        kill()
        await until(lambda: seen)
        second.close()
        kill()
        await until(lambda: len(seen) == 2)

    first.run_until_complete(main())


def test_signal_of_a_loop_while_another_runs(loops, seen):
    """It is kept until its loop runs again."""
    first, second = loops(2)
    first.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    second.call_soon(kill)
    second.run_until_complete(turns(3))
    assert seen == []
    first.run_until_complete(until(lambda: seen))
    # Also one that comes in the very last moment.
    second.call_soon(second.stop)
    second.call_soon(kill)
    second.run_forever()
    first.run_until_complete(until(lambda: len(seen) == 2))
    assert seen == [1, 1]


@pytest.mark.uringloop_only  # the selector loop leaves it where it is
def test_program_s_own_wakeup_fd(loops, stack):
    """It hears what no loop has a handler for, and has it back afterwards."""
    mine, other_end = (stack.enter_context(sock) for sock in socket.socketpair())
    mine.setblocking(False)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.set_wakeup_fd(mine.fileno())
    try:
        loop, = loops(1)
        assert wakeup_fd() == mine.fileno()
        loop.call_soon(kill, signal.SIGUSR2)
        loop.run_until_complete(turns(3))
        assert other_end.recv(10) == bytes([signal.SIGUSR2])
        assert wakeup_fd() == mine.fileno()
        loop.close()
        assert wakeup_fd() == mine.fileno()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)


@pytest.mark.uringloop_only  # a selector loop that closes takes the wake-up descriptor from all others
@pytest.mark.parametrize("closing", [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)])
@pytest.mark.parametrize("adding", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_loops_beside_each_other(loops, seen, adding, closing):
    """The one that is left hears its signal, whoever had the descriptor before."""
    several = loops(3)
    for index in adding:
        several[index].add_signal_handler(SIGNALS[index], seen.append, index)
        several[index].run_until_complete(turns(1))
    for index in closing:
        several[index].close()
    left, = {0, 1, 2} - set(closing)
    assert wakeup_fd() == several[left]._csock.fileno()
    timer = threading.Timer(0.01, kill, (SIGNALS[left],))
    several[left].call_soon(timer.start)
    several[left].run_until_complete(until(lambda: seen))
    timer.join()
    assert seen == [left]


# -- numbers that have become another file's --


@pytest.fixture
def usr2():
    """SIGUSR2 is handled, and by no loop."""
    signal.signal(signal.SIGUSR2, lambda *_: None)
    yield
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


@pytest.fixture
def reuse(stack):
    """`strangers = reuse(number)`: non-blocking sockets, one of which has got the number."""

    def reuse(number):
        sockets = []
        while number not in {sock.fileno() for sock in sockets}:
            sockets += [stack.enter_context(sock) for sock in socket.socketpair()]
        for sock in sockets:
            sock.setblocking(False)
        return sockets

    return reuse


def check_silent(sockets):
    for sock in sockets:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(10)


@pytest.mark.parametrize("handlers", ["with handlers", "without handlers"])
def test_loop_that_had_the_signals_is_closed_while_another_runs(loops, usr2, reuse, handlers):
    loop, = loops(1)
    earlier = asyncio.SelectorEventLoop()
    earlier.add_signal_handler(signal.SIGUSR1, print)
    number = wakeup_fd()
    if handlers == "with handlers":
        loop.add_signal_handler(signal.SIGHUP, print)

    async def main():
        earlier.close()
        strangers = reuse(number)
        kill(signal.SIGUSR2)
        await turns(3)
        return strangers

    strangers = loop.run_until_complete(main())
    kill(signal.SIGUSR2)
    if handlers == "with handlers":
        loop.remove_signal_handler(signal.SIGHUP)
    kill(signal.SIGUSR2)
    loop.close()
    kill(signal.SIGUSR2)
    check_silent(strangers)
    assert wakeup_fd() == -1


def test_loop_that_has_no_more_handlers_gets_no_signals_back(loops, usr2, reuse):
    """As it has no handlers when it closes, it unsets nothing then."""
    loop, = loops(1)
    other = asyncio.SelectorEventLoop()
    other.add_signal_handler(signal.SIGUSR1, print)
    number = wakeup_fd()

    async def main():
        other.remove_signal_handler(signal.SIGUSR1)

    loop.run_until_complete(main())
    other.close()
    strangers = reuse(number)
    kill(signal.SIGUSR2)
    check_silent(strangers)
    assert wakeup_fd() == -1


@pytest.mark.uringloop_only  # the selector loop has nothing to do with it
@pytest.mark.parametrize("number_is", ["closed", "a stranger's"])
@pytest.mark.parametrize("when", ["before the run", "in the run"])
def test_program_s_own_is_closed_and_never_unset(loops, usr2, stack, number_is, when):
    loop, = loops(1)
    mine, other_end = socket.socketpair()
    mine.setblocking(False)
    number = mine.fileno()
    stack.enter_context(other_end)
    strangers = []

    async def main():
        if when == "in the run":
            signal.set_wakeup_fd(number)
            # The loop has them again, and knows whose they were.
            loop.add_signal_handler(signal.SIGUSR1, print)
        mine.close()
        if number_is == "a stranger's":
            for sock in socket.socketpair():
                strangers.append(stack.enter_context(sock))
            assert number in {sock.fileno() for sock in strangers}
        kill(signal.SIGUSR2)
        await turns(3)
        if when == "in the run":
            loop.remove_signal_handler(signal.SIGUSR1)

    if when == "before the run":
        signal.set_wakeup_fd(number)
    loop.run_until_complete(main())
    kill(signal.SIGUSR2)
    check_silent(strangers)
    assert wakeup_fd() == -1


@pytest.mark.uringloop_only  # the selector loop leaves the closed number set
def test_program_sets_its_own_in_the_run_and_closes_it(loops):
    loop, = loops(1)

    async def main():
        mine, other_end = socket.socketpair()
        mine.setblocking(False)
        signal.set_wakeup_fd(mine.fileno())
        mine.close()
        other_end.close()

    loop.run_until_complete(main())
    assert wakeup_fd() == -1


@pytest.mark.uringloop_only  # what a selector loop has set stays set
def test_number_of_a_loop_that_was_interrupted_while_it_took_the_signals(loops, usr2, reuse, monkeypatch):
    """An interrupt that comes behind the very call of signal.set_wakeup_fd()."""
    loop, = loops(1)
    set_wakeup_fd = signal.set_wakeup_fd

    def interrupted(number):
        monkeypatch.undo()
        set_wakeup_fd(number)
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "set_wakeup_fd", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    number = loop._csock.fileno()
    loop.close()
    strangers = reuse(number)
    kill(signal.SIGUSR2)
    check_silent(strangers)
    assert wakeup_fd() == -1


@pytest.mark.uringloop_only  # of a selector loop's the number stays set
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("number_is", ["closed", "a stranger's"])
def test_pipe_is_collected_before_its_loop(loops, usr2, reuse, number_is):
    """As with a loop that nobody closes: by the time it is, the number may be another file's."""
    loop, = loops(1)
    loop.add_signal_handler(signal.SIGUSR1, print)
    number = wakeup_fd()
    loop._csock.close()
    strangers = reuse(number) if number_is == "a stranger's" else []
    loop.close()
    kill(signal.SIGUSR2)
    check_silent(strangers)
    assert wakeup_fd() == -1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("way", ["closes the loop", "ends the run"])
def test_forked_child_leaves_the_parent_its_signals(loops, seen, way):
    """Neither reads the child what was written for its parent, nor are its own written there."""
    loop, = loops(1)
    if way == "closes the loop" and not hasattr(loop, "_proactor"):
        pytest.skip("a selector loop takes its descriptors out of the parent's epoll set")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)

    # (No task: from 3.14 on asyncio has another exception take SystemExit's place there, in a child, on any loop.)
    def fork():
        kill(signal.SIGUSR1)
        if os.fork() == 0:
            raise SystemExit
        os.wait()

    loop.call_soon(fork)
    loop.call_soon(loop.stop)
    try:
        loop.run_forever()
    except SystemExit:
        try:
            if way == "closes the loop":
                loop.close()
            signal.signal(signal.SIGUSR2, lambda *_: None)
            kill(signal.SIGUSR2)
        finally:
            os._exit(0)
    loop.run_until_complete(turns(5))
    assert seen == [1]


# -- many --


@pytest.mark.uringloop_only  # the selector loop warns of a full buffer, and loses the second signal
async def test_more_between_two_turns_than_a_socket_holds(loop, seen):
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    for _ in range(20_000):
        kill(signal.SIGUSR1)
    kill(signal.SIGUSR2)
    await until(lambda: 2 in seen)
    assert seen.count(1) == 20_000 and seen.count(2) == 1
    loop.remove_signal_handler(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGUSR2)


async def test_each_acknowledged(loop, seen):
    """Another process sends a signal, and the next when it has heard of the last."""
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    process = child(
        "for _ in range(int(sys.argv[1])):\n"
        "    os.kill(parent, signal.SIGUSR1)\n"
        "    sys.stdin.buffer.read(1)\n", str(PACED), stdin=subprocess.PIPE, bufsize=0)
    with process:
        for count in range(1, PACED + 1):
            await until(lambda: len(seen) == count)
            process.stdin.write(b"x")
        await until(lambda: process.poll() is not None)
    await turns(5)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert len(seen) == PACED and process.returncode == 0


async def test_storm_beside_connections(loop, seen):
    """Signals without a pause, while connections echo: one call after the last, and every byte."""
    connections = 64

    async def serve(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def converse(number):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        data = some_bytes(1024, number)
        rounds = 0
        while rounds < 3 or not over:
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            rounds += 1
        writer.close()
        await writer.wait_closed()

    over = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    if not hasattr(loop, "_proactor"):
        # Its buffer is small, and the module warns when it is full.
        signal.set_wakeup_fd(loop._csock.fileno(), warn_on_full_buffer=False)
    process = child(
        "for _ in range(int(sys.argv[1])):\n"
        "    os.kill(parent, signal.SIGUSR1)\n", str(UNPACED))
    with process:
        clients = asyncio.gather(*(converse(number) for number in range(connections)))
        await until(lambda: process.poll() is not None)
        # What was there when the last was sent has been counted by now, or comes on top.
        kill()
        count = len(seen)
        await until(lambda: len(seen) > count)
        over.append(True)
        await clients
    assert process.returncode == 0
    server.close()
    await server.wait_closed()
    loop.remove_signal_handler(signal.SIGUSR1)
