"""What `sock_*` methods return, what they wait by, and the methods of sockets that they stand for.

What they do with their data and when is in test_sock_methods.py, their arguments in test_hostile_arguments.py,
callbacks of the future in test_done_callbacks.py.
"""

import array
import asyncio
import contextlib
import contextvars
import errno
import gc
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref

import pytest

from loop_factories import expression_of
from support import drain, fill, turns, until, waits

CALLS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 10),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(10)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"data"),
}
RECEIVES = [name for name in CALLS if name != "sock_sendall"]


@pytest.fixture(params=CALLS)
def waiting(request, loop, pair):
    """[coroutine, sock, end]: of a call that is to wait, and what ends its wait."""
    a, b = pair
    if request.param == "sock_sendall":
        fill(a)

        def end():
            drain(b)
    else:
        def end():
            b.send(b"x")
    return [CALLS[request.param](loop, a), a, end]


# -- who waits again --


async def wait_once(loop, a, b):
    """Have a receive on `a` wait, and be over."""
    task = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    b.send(b"first")
    assert await task == b"first"


def put_file_under(sock, stack):
    """Give a socket object's number another connection by dup2(2); return that one's other end."""
    fresh, other = (stack.enter_context(end) for end in socket.socketpair())
    fresh.setblocking(False)
    other.setblocking(False)
    os.dup2(fresh.fileno(), sock.fileno())
    return other


def enters_of(loop):
    """How often a loop of ours has entered the kernel; 0 for the selector loop, which is not asked."""
    return loop.stats()["enters"] if hasattr(loop, "stats") else 0


async def test_file_that_dup2_puts_under_a_number(loop, pair, stack):
    a, b = pair
    await wait_once(loop, a, b)
    other = put_file_under(a, stack)
    second = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    other.send(b"second")
    assert await asyncio.wait_for(second, 10) == b"second"


@pytest.mark.parametrize("lives_on", [False, True])
async def test_file_that_dup2_has_taken_a_number_from_may_live_on(loop, pair, stack, lives_on):
    a, b = pair
    await wait_once(loop, a, b)
    if lives_on:
        stack.enter_context(a.dup())
        b.send(b"for nobody")
    other = put_file_under(a, stack)
    second = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    # (The file that lives on has it looked for in vain in each turn, for as long.)
    begins = loop.time()
    while loop.time() < begins + 0.5:
        await asyncio.sleep(0.01)
    before = enters_of(loop)
    await asyncio.sleep(0.2)
    assert enters_of(loop) < before + 20
    other.send(b"second")
    assert await asyncio.wait_for(second, 10) == b"second"


async def test_a_busy_loop_finds_the_file_that_dup2_has_put_there(loop, pair, stack):
    a, b = pair
    await wait_once(loop, a, b)
    other = put_file_under(a, stack)
    second = loop.create_task(loop.sock_recv(a, 10))
    other.send(b"second")
    ends = loop.time() + 10
    while not second.done() and loop.time() < ends:
        await asyncio.sleep(0.01)
    assert second.done() and await second == b"second"


async def test_what_comes_while_nobody_waits(loop, pair):
    a, b = pair
    for times in range(3):
        task = loop.create_task(loop.sock_recv(a, 10))
        await turns(2)
        b.send(b"x")
        assert await task == b"x"
        b.send(b"late")
        await turns(3)
        assert await loop.sock_recv(a, 10) == b"late"
        assert await loop.sock_recv(a, 0) == b""
    b.close()
    assert await loop.sock_recv(a, 10) == b""
    assert await loop.sock_recv(a, 10) == b""


async def test_writer_that_finds_the_file_which_dup2_has_put_there(loop, pair, stack):
    a, b = pair
    await wait_once(loop, a, b)
    other = put_file_under(a, stack)
    # It has not asked, and the writer, who does, has the same file.
    reader = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    fill(a)
    writer = loop.create_task(loop.sock_sendall(a, b"data"))
    await turns(2)
    assert not reader.done() and not writer.done()
    other.send(b"second")
    assert await asyncio.wait_for(reader, 10) == b"second"
    drain(other)
    await asyncio.wait_for(writer, 10)


async def test_low_water_mark_is_for_waits_only(loop, stack):
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    b = stack.enter_context(socket.create_connection(listener.getsockname()))
    a = stack.enter_context(listener.accept()[0])
    a.setblocking(False)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    task = loop.create_task(loop.sock_recv(a, 100))
    await turns(2)
    b.send(b"enough")
    assert await task == b"enough"
    b.send(b"few")
    assert await asyncio.wait_for(loop.sock_recv(a, 100), 10) == b"few"


async def test_urgent_byte_ends_a_read(loop, stack):
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    b = stack.enter_context(socket.create_connection(listener.getsockname()))
    a = stack.enter_context(listener.accept()[0])
    a.setblocking(False)
    task = loop.create_task(loop.sock_recv(a, 100))
    await turns(2)
    b.send(b"before")
    assert await task == b"before"
    # The read in the middle gets less than it asked for, and yet there is more.
    b.send(b"one")
    b.send(b"!", socket.MSG_OOB)
    b.send(b"two")
    got = b""
    while len(got) < 6:
        got += await asyncio.wait_for(loop.sock_recv(a, 100), 10)
    assert got == b"onetwo"


# -- coroutines --


async def test_they_are_coroutines(loop, pair):
    a, b = pair
    for name in [*CALLS, "sock_sendto", "sock_connect", "sock_accept"]:
        assert inspect.iscoroutinefunction(getattr(loop, name)), name
    coroutine = loop.sock_recv(a, 10)
    assert asyncio.iscoroutine(coroutine) and inspect.iscoroutine(coroutine)
    assert coroutine.cr_code.co_name == "sock_recv"
    b.send(b"x")
    assert await coroutine == b"x"


async def test_nothing_is_done_before_it_is_awaited(loop, pair):
    a, b = pair
    b.send(b"data")
    coroutine = loop.sock_recv(a, 10)
    sending = loop.sock_sendall(a, b"data")
    await turns(3)
    assert drain(a) == b"data" and drain(b) == b""
    b.send(b"more")
    assert await coroutine == b"more"
    await sending
    assert drain(b) == b"data"


@pytest.mark.parametrize("name", CALLS)
async def test_never_awaited(loop, pair, name):
    a, _ = pair
    with pytest.warns(RuntimeWarning, match=f"{name}' was never awaited"):
        CALLS[name](loop, a)
        gc.collect()


async def test_at_once_what_need_not_wait(loop, pair):
    """As on the selector loop: not even a turn goes by."""
    a, b = pair
    for call, value in ((loop.sock_sendall(b, b"data"), None), (loop.sock_recv(a, 10), b"data"),
                        (loop.sock_sendall(b, b"data"), None), (loop.sock_recv_into(a, bytearray(10)), 4)):
        with pytest.raises(StopIteration) as end:
            call.send(None)
        assert end.value.value == value


async def test_stack_of_a_task_that_waits(loop, waiting):
    coroutine, _, end = waiting
    task = loop.create_task(coroutine)
    await turns(3)
    [frame] = task.get_stack()
    assert frame.f_code.co_name == coroutine.__name__
    end()
    await task


# -- a wait ends with what waits --


@pytest.mark.parametrize("how", ["close", "throw", "drop"])
async def test_coroutine_that_is_ended_while_it_waits(loop, waiting, how):
    coroutine, sock, end = waiting
    coroutine.send(None)
    assert len(waits(loop)) == hasattr(loop, "_proactor")
    if how == "close":
        coroutine.close()
    elif how == "throw":
        with pytest.raises(ZeroDivisionError):
            coroutine.throw(ZeroDivisionError())
    else:
        waiting.clear()
        del coroutine
        gc.collect()
    assert waits(loop) == []
    if not hasattr(loop, "_proactor"):
        # It goes on looking.
        loop.remove_reader(sock)
        loop.remove_writer(sock)
    end()
    await turns(3)


async def test_timeout(loop, waiting):
    coroutine, _, end = waiting
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(coroutine, 0.01)
    assert waits(loop) == []
    end()


@pytest.mark.uringloop_only  # the selector loop's last one takes the place of the others
async def test_several_wait_for_one_socket(loop, pair):
    a, b = pair
    tasks = [loop.create_task(CALLS[name](loop, a)) for name in RECEIVES * 5]
    await turns(3)
    for task in (tasks.pop(2), tasks.pop(5)):
        task.cancel()
    while tasks:
        b.send(b"x")
        await tasks.pop(0)
        await turns(3)
        assert not any(task.done() for task in tasks)
    assert waits(loop) == []


def test_loop_that_is_closed_beside_one(loop_factory, waiting_tasks=10):
    loop = loop_factory()
    pairs = [socket.socketpair() for _ in range(waiting_tasks)]
    for near, _ in pairs:
        near.setblocking(False)
    coroutines = [loop.sock_recv(near, 10) for near, _ in pairs]
    futures = [coroutine.send(None) for coroutine in coroutines]
    ring = loop._proactor._ring if hasattr(loop, "_proactor") else ()
    loop.close()
    assert len(ring) == 0
    for coroutine in coroutines:
        coroutine.close()
    alive = weakref.ref(loop)
    del loop, ring, futures, coroutines
    gc.collect()
    assert alive() is None
    for near, far in pairs:
        near.close()
        far.close()


async def test_begun_in_another_thread(loop, pair):
    a, b = pair
    coroutine = loop.sock_recv(a, 10)
    future = []
    thread = threading.Thread(target=lambda: future.append(coroutine.send(None)))
    thread.start()
    thread.join()
    future[0]._asyncio_future_blocking = False
    b.send(b"x")
    await until(future[0].done)
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    assert end.value.value == b"x"


@pytest.mark.uringloop_only
async def test_begun_in_a_forked_child(loop, pair):
    a, _ = pair
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            loop.sock_recv(a, 10).send(None)
        except RuntimeError as exc:
            os.write(write_end, str(exc).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as told:
        assert b"belongs to the process that made it" in told.read()
    os.waitpid(child, 0)


# -- the future --


async def test_it_is_a_future(loop, waiting):
    coroutine, _, end = waiting
    future = coroutine.send(None)
    assert asyncio.isfuture(future) and isinstance(future, asyncio.Future)
    assert asyncio.ensure_future(future) is future and not asyncio.iscoroutine(future)
    assert future.get_loop() is loop and future._loop is loop
    assert weakref.ref(future)() is future
    assert not future.done() and not future.cancelled() and future._state == "PENDING"
    with pytest.raises(asyncio.InvalidStateError):
        future.result()
    with pytest.raises(AttributeError):
        future.nothing_of_the_kind
    future._asyncio_future_blocking = False
    others = [loop.create_task(asyncio.wait_for(future, None)), loop.create_task(asyncio.wait({future}))]
    await turns(3)
    end()
    await others[0]
    await others[1]
    assert future.done() and future.exception() is None and future.result() == future.result()
    with contextlib.suppress(StopIteration):
        coroutine.send(None)


async def test_coroutine_that_is_stepped_before_its_time(loop, waiting):
    coroutine, _, end = waiting
    future = coroutine.send(None)
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        coroutine.send(None)
    assert waits(loop) == []
    if not hasattr(loop, "_proactor"):
        future.cancel()
    end()


async def test_stepped_again_when_a_task_would_step_it(loop, waiting):
    coroutine, _, end = waiting
    future = coroutine.send(None)
    future._asyncio_future_blocking = False
    assert coroutine.send(42) is future and future._asyncio_future_blocking
    future._asyncio_future_blocking = False
    end()
    await until(future.done)
    with contextlib.suppress(StopIteration):
        coroutine.send(None)


@pytest.mark.uringloop_only
async def test_error_of_a_wait(loop, pair):
    a, _ = pair
    coroutines = [loop.sock_recv(a, 10) for _ in range(2)]
    futures = [coroutine.send(None) for coroutine in coroutines]
    for future in futures:
        future._asyncio_future_blocking = False
    loop.call_soon(a.close)
    await until(futures[1].done)
    assert futures[0].exception().errno == errno.EBADF
    for coroutine in coroutines:
        with pytest.raises(OSError) as error:
            coroutine.send(None)
        assert error.value.errno == errno.EBADF
    with pytest.raises(OSError):
        futures[1].result()


async def test_debug_mode_that_begins_while_it_waits(loop, waiting):
    coroutine, _, end = waiting
    task = loop.create_task(coroutine)
    await turns(3)
    loop.set_debug(True)
    end()
    await task
    loop.set_debug(False)


async def test_wakes_in_the_context_of_its_task(loop, pair):
    variable = contextvars.ContextVar("variable")

    async def receive(number):
        variable.set(number)
        assert await loop.sock_recv(a, 1) == b"x"
        return variable.get()

    a, b = pair
    tasks = []
    for number in range(3):
        tasks.append(loop.create_task(receive(number)))
        await turns(2)
        b.send(b"x")
        assert await tasks[-1] == number


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="from Python 3.12 on")
async def test_eager_tasks(loop, pair):
    a, b = pair
    loop.set_task_factory(asyncio.eager_task_factory)
    b.send(b"x")
    task = loop.create_task(loop.sock_recv(a, 10))
    assert task.done() and task.result() == b"x"
    task = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    b.send(b"y")
    assert await task == b"y"


# -- the socket's methods --


@pytest.mark.parametrize("name", CALLS)
async def test_method_that_somebody_has_patched(loop, pair, name, monkeypatch):
    """As tools do that record what a program receives."""
    method = name.removeprefix("sock_").replace("sendall", "send")
    original, seen = getattr(socket.socket, method), []

    def patched(sock, *args):
        seen.append(sock)
        return original(sock, *args)

    a, b = pair
    for calls in (0, 1, 1):
        if calls != len(seen):
            monkeypatch.setattr(socket.socket, method, patched)
        os.write(b.fileno(), b"data")
        await CALLS[name](loop, a)
        monkeypatch.undo()
        assert seen == [a] * calls


class Counting(socket.socket):
    """Its methods are called; one of them waits once more than it need."""

    calls = 0

    def recv(self, *args):
        self.calls += 1
        if self.calls == 2:
            raise BlockingIOError
        return super().recv(*args)


async def test_methods_of_a_subclass(loop, pair, stack):
    a, b = pair
    sock = stack.enter_context(Counting(fileno=a.detach()))
    sock.setblocking(False)
    task = loop.create_task(loop.sock_recv(sock, 10))
    await turns(3)
    b.send(b"data")
    assert await task == b"data"
    assert sock.calls == 3


@pytest.mark.parametrize("data", [
    b"", b"12345678", bytearray(b"12345678"), memoryview(b"12345678"), memoryview(b"12345678")[::2],
    memoryview(b"12345678").cast("I"), memoryview(b"12345678").cast("B", (2, 4)), array.array("I", [1, 2])],
    ids=["empty", "bytes", "bytearray", "memoryview", "strided", "ints", "square", "array"])
@pytest.mark.uringloop_only  # the selector loop counts an array's items, and waits for room that is there
async def test_send_what_its_method_takes(loop, pair, data):
    a, b = pair
    near, far = socket.socketpair()
    with near, far:
        try:
            near.send(data)
        except BufferError as exc:
            with pytest.raises(BufferError) as error:
                await loop.sock_sendall(a, data)
            assert str(error.value) == str(exc)
            return
        await loop.sock_sendall(a, data)
        assert drain(b) == (far.recv(100) if len(data) else b"")


@pytest.mark.parametrize("buffer", [
    bytearray(8), bytearray(0), b"12345678", memoryview(bytearray(8)), memoryview(b"12345678"),
    memoryview(bytearray(8))[::2], memoryview(bytearray(8)).cast("I"), array.array("I", [1, 2]), None],
    ids=["bytearray", "empty", "bytes", "memoryview", "read-only", "strided", "ints", "array", "None"])
@pytest.mark.parametrize("name", ["sock_recv_into", "sock_recvfrom_into"])
async def test_receive_into_what_its_method_takes(loop, pair, name, buffer):
    a, b = pair
    b.send(b"data")

    size = [len(buffer)] if name == "sock_recvfrom_into" and buffer else []
    try:
        expected = getattr(a, name.removeprefix("sock_"))(buffer, *size)
    except (TypeError, BufferError) as exc:
        with pytest.raises(type(exc)):
            await getattr(loop, name)(a, buffer)
        assert drain(a) == b"data"
    else:
        drain(a)
        b.send(b"data")
        assert await getattr(loop, name)(a, buffer) == expected
        drain(a)


@pytest.mark.parametrize("how", [
    "await loop.sock_sendall(a, b'data')",
    "(await asyncio.open_connection(sock=a))[1].write(b'data')",
    "(await asyncio.open_connection(sock=a))[1].write(bytes(100_000))",
    "(await asyncio.open_connection(sock=a))[1].writelines([bytes(100_000), b'data'])",
], ids=["sock_sendall", "small write", "large write", "writelines"])
def test_program_that_lets_sigpipe_kill_it(loop_factory, how):
    code = f"""if True:
        import asyncio, signal, socket, uringloop
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        async def main():
            loop = asyncio.get_running_loop()
            a, b = socket.socketpair()
            a.setblocking(False)
            b.close()
            {how}
            await asyncio.sleep(0.1)

        {expression_of(loop_factory)}().run_until_complete(main())
    """
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == -signal.SIGPIPE, done.stderr


# -- what is no socket.socket --


class Wrapper:
    """A file's number and three methods are all that the selector loop asks for, outside of debug mode."""

    def __init__(self, sock):
        self._sock = sock

    def fileno(self):
        return self._sock.fileno()

    def recv(self, size):
        return self._sock.recv(size)

    def recv_into(self, buf):
        return self._sock.recv_into(buf)

    def send(self, data):
        return self._sock.send(data)


class Narrow(socket.socket):
    """Its methods know of no flags."""

    def recv(self, size):
        return super().recv(size)

    def recv_into(self, buf):
        return super().recv_into(buf)

    def send(self, data):
        return super().send(data)


@pytest.mark.parametrize("kind", [Wrapper, Narrow])
async def test_methods_without_flags_and_timeout(loop, pair, kind):
    loop.set_debug(False)
    a, b = pair
    sock = Wrapper(a) if kind is Wrapper else Narrow(fileno=os.dup(a.fileno()))
    if kind is Narrow:
        sock.setblocking(False)
    try:
        b.send(b"at once")
        assert await loop.sock_recv(sock, 10) == b"at once"
        buffer = bytearray(10)
        for call, result in ((loop.sock_recv(sock, 10), b"later"), (loop.sock_recv_into(sock, buffer), 5)):
            receiving = loop.create_task(call)
            await turns(3)
            b.send(b"later")
            assert await receiving == result
        data = bytes(1_000_000)
        sending = loop.create_task(loop.sock_sendall(sock, data))
        received = 0
        while received < len(data):
            received += len(await loop.sock_recv(b, 1_000_000))
        await sending
    finally:
        if kind is Narrow:
            sock.close()


async def test_nothing_is_received_of_a_closed_socket_into_nothing(loop, pair):
    """As socket.recv_into(), which makes no system call for it."""
    a, _ = pair
    loop.set_debug(False)
    a.close()
    assert await loop.sock_recv_into(a, bytearray()) == 0


# -- futures of somebody else's --


@pytest.mark.parametrize("where", ["the loop", "the module"])
async def test_what_a_task_waits_for_is_made_by_create_future(loop, pair, monkeypatch, where):
    a, b = pair

    class Mine(asyncio.Future):
        pass

    if where == "the loop":
        loop.create_future = lambda: Mine(loop=loop)
    else:
        monkeypatch.setattr(asyncio.futures, "Future", Mine)
    receiving = loop.create_task(loop.sock_recv(a, 10))
    await turns(3)
    assert type(receiving._fut_waiter) is Mine
    b.send(b"data")
    assert await receiving == b"data"


# -- exceptions that are thrown in --


@pytest.mark.filterwarnings("ignore:the .* signature of throw:DeprecationWarning")
async def test_three_arguments_of_throw(loop, pair):
    a, _ = pair

    def thrown(*args):
        coroutine = loop.sock_recv(a, 10)
        coroutine.send(None)
        with pytest.raises(KeyError) as caught:
            coroutine.throw(*args)
        return caught

    given = KeyError("given")
    assert thrown(KeyError, ("two", 2)).value.args == ("two", 2)
    assert thrown(KeyError, "one").value.args == ("one",)
    assert thrown(KeyError).value.args == ()
    assert thrown(KeyError, given).value is given and thrown(given).value is given
    try:
        raise_one()
    except ZeroDivisionError as exc:
        traceback = exc.__traceback__
    assert thrown(KeyError, given, traceback).traceback[-1].name == "raise_one"


def raise_one():
    1 / 0


# -- a proactor that is none --

NO_RING = """
import asyncio, socket, uringloop
class Hollow(uringloop.IouringProactor):
    def __init__(self):
        pass
loop = uringloop.new_event_loop()
whole, loop._proactor = loop._proactor, Hollow()
a, b = socket.socketpair()
a.setblocking(False)
for call in (loop.sock_recv(a, 5), loop.sock_recv_into(a, bytearray(5)), loop.sock_recvfrom(a, 5),
             loop.sock_recvfrom_into(a, bytearray(5)), loop.sock_accept(a)):
    try:
        call.send(None)
    except (RuntimeError, OSError) as exc:
        print(type(exc).__name__, exc)
loop._proactor = whole
loop.close()
a.close()
b.close()
"""


def test_proactor_whose_constructor_was_not_called():
    child = subprocess.run([sys.executable, "-c", NO_RING], capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("RuntimeError the proactor has no ring") == 4


def test_reset_that_a_read_finds_first_raises_no_sigpipe(loop_factory):
    code = f"""if True:
        import asyncio, signal, socket, struct, time, uringloop
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        class Protocol(asyncio.Protocol):
            def connection_lost(self, exc):
                lost.set_result(exc)

        async def main():
            global lost
            loop = asyncio.get_running_loop()
            lost = loop.create_future()
            listener = socket.create_server(("127.0.0.1", 0))
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
            ours.setblocking(False)
            transport, _ = await loop.create_connection(Protocol, sock=ours)
            await asyncio.sleep(0.01)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            # It is told, and what follows runs before it is read.
            time.sleep(0.01)
            loop.call_soon(lambda: (transport.write(b"x"), transport.write(b"y")))
            assert isinstance(await lost, ConnectionResetError)

        {expression_of(loop_factory)}().run_until_complete(main())
    """
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_wait_that_the_loops_close_ends_is_not_told_as_an_exception(loop_factory, pair, caplog):
    """That the task was destroyed is; asyncio's future would wait for ever."""
    loop = loop_factory()
    task = loop.create_task(loop.sock_recv(pair[0], 5))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    repr(task)
    del task
    gc.collect()
    assert [record.getMessage().partition("\n")[0] for record in caplog.records] == ["Task was destroyed but it is pending!"]
