"""Done-callbacks of the future that a `sock_*` call waits for, driven by hand, on both loops.

Ours keeps a future's only callback out of the standard library's list; nobody is to notice.
"""

import asyncio
import contextlib
import contextvars
import random
import socket
import subprocess
import sys
from asyncio import events

import pytest

from loop_factories import expression_of
from support import turns, until

variable = contextvars.ContextVar("variable", default="none")


class Named:
    """A callback; those of one name are equal."""

    def __init__(self, name, log):
        self.name = name
        self._log = log

    def __call__(self, future):
        self._log.append((self.name, variable.get(), future.done()))

    def __eq__(self, other):
        return isinstance(other, Named) and self.name == other.name

    __hash__ = None


def shown(future):
    # The selector loop adds one of its own.
    return [callback for callback, _ in future._callbacks or [] if isinstance(callback, Named)]


@pytest.fixture
def waiting(loop, stack):
    """`future, send = waiting()`: what a sock_recv() waits for, and what ends its wait."""
    coroutines = []

    def waiting():
        near, far = (stack.enter_context(sock) for sock in socket.socketpair())
        near.setblocking(False)
        coroutines.append(loop.sock_recv(near, 10))
        future = coroutines[-1].send(None)
        future._asyncio_future_blocking = False  # as each task does
        return future, lambda: far.send(b"x")

    yield waiting
    for coroutine in coroutines:
        coroutine.close()


async def ended(future):
    await until(future.done)
    await turns(3)


END = {
    "its operation": lambda future, send: send(),
    "set_result": lambda future, send: future.set_result(None),
    "set_exception": lambda future, send: future.set_exception(ZeroDivisionError()),
    "cancel": lambda future, send: future.cancel("enough"),
}


@pytest.mark.parametrize("end", END)
async def test_as_a_plain_future(loop, waiting, end):
    """Callbacks are added and removed at random: the same are called, in the same order and context."""
    steps = random.Random(end)
    for _ in range(50):
        (future, send), plain = waiting(), loop.create_future()
        logs = [], []
        for _ in range(steps.randrange(1, 8)):
            name, context, add = steps.choice("ABC"), None, steps.random() < 0.7
            if steps.random() < 0.3:
                context = contextvars.copy_context()
                context.run(variable.set, "given")
            for target, log in zip((future, plain), logs):
                if add:
                    target.add_done_callback(Named(name, log), context=context)
                else:
                    log.append(target.remove_done_callback(Named(name, log)))
            assert shown(future) == shown(plain)
        END[end](future, send)
        await until(future.done)
        plain.set_result(None)
        await turns(3)
        assert logs[0] == logs[1]
        assert not shown(future) and future.remove_done_callback(Named("A", [])) == 0
        if end == "set_exception":
            assert type(future.exception()) is ZeroDivisionError


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("refused", [42, StopIteration, None, asyncio.Future])
async def test_exception_that_is_refused(waiting, count, refused):
    """Nothing has happened: the operation goes on, and its end calls the callbacks."""
    future, send = waiting()
    log = []
    for _ in range(count):
        future.add_done_callback(Named("A", log))
    try:
        future.set_exception(refused)
    except TypeError:
        pass
    else:
        # From some Python on it is taken, as another exception.
        assert refused is StopIteration and isinstance(future.exception(), (StopIteration, RuntimeError))
        await ended(future)
        assert log == [("A", "none", True)] * count
        return
    await turns(3)
    assert log == [] and not future.done()
    send()
    await ended(future)
    assert log == [("A", "none", True)] * count


@pytest.mark.parametrize("first, expected", [("set_result", False), ("set_exception", False), ("cancel", True)])
async def test_done_only_once(waiting, first, expected):
    future, send = waiting()
    log = []
    future.add_done_callback(Named("A", log))
    END[first](future, send)
    for again in (lambda: future.set_result(1), lambda: future.set_exception(ValueError())):
        with pytest.raises(asyncio.InvalidStateError):
            again()
    assert future.cancel() is False
    send()
    await ended(future)
    assert log == [("A", "none", True)]
    assert future.cancelled() is expected
    if not expected:
        future.exception()


async def test_message_of_a_cancel(waiting):
    future, _ = waiting()
    assert future.cancel(msg="enough") is True
    with pytest.raises(asyncio.CancelledError, match="enough"):
        future.result()


async def test_repr_shows_them(loop, waiting):
    def first(future):
        pass

    def second(future):
        pass

    future, send = waiting()
    future.add_done_callback(first)
    assert "cb=[" in repr(future) and "first" in repr(future)
    future.add_done_callback(second)
    assert "second" in repr(future)
    send()
    await ended(future)
    assert "cb=" not in repr(future)


async def test_repr_of_a_task_that_waits(loop, stack):
    near, far = (stack.enter_context(sock) for sock in socket.socketpair())
    near.setblocking(False)
    task = loop.create_task(loop.sock_recv(near, 10))
    await turns(2)
    assert "wait_for=" in repr(task) and "cb=[" in repr(task).partition("wait_for=")[2]
    far.send(b"x")
    assert await task == b"x"


# -- whose call_soon() and whose Handles it is --


async def wake_a_task(loop, watch):
    """Whether watch(), which begins to note callbacks and returns where, sees a sock_recv()'s task woken."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        task = loop.create_task(loop.sock_recv(near, 10))
        await turns(3)
        seen = watch()
        far.send(b"x")
        assert await task == b"x"
        return any(getattr(callback, "__self__", None) is task for callback in seen)


def test_call_soon_of_a_subclass(loop_factory):
    usual = loop_factory()
    usual.close()
    seen = []

    class Counting(type(usual)):
        def call_soon(self, callback, *args, context=None):
            seen.append(callback)
            return super().call_soon(callback, *args, context=context)

    with contextlib.closing(Counting()) as loop:
        assert loop.run_until_complete(wake_a_task(loop, lambda: seen))


async def test_call_soon_of_an_instance(loop):
    """Put there while the operation is under way."""

    def watch():
        seen, call_soon = [], loop.call_soon
        loop.call_soon = lambda callback, *args, context=None: (
            seen.append(callback), call_soon(callback, *args, context=context))[1]
        return seen

    assert await wake_a_task(loop, watch)
    del loop.call_soon


async def test_handles_are_watched(loop, monkeypatch):
    """Profilers put a function of their own in the place of Handle._run()."""

    def watch():
        seen, run = [], events.Handle._run
        monkeypatch.setattr(events.Handle, "_run", lambda handle: (seen.append(handle._callback), run(handle))[1])
        return seen

    assert await wake_a_task(loop, watch)


async def test_handle_of_a_callback_that_failed(loop, waiting, errors):
    def failing(future):
        raise ZeroDivisionError

    future, send = waiting()
    future.add_done_callback(failing)
    send()
    await until(lambda: errors)
    context = errors.pop()
    assert type(context["exception"]) is ZeroDivisionError
    assert isinstance(context["handle"], asyncio.Handle) and "failing" in repr(context["handle"])
    assert context["message"].startswith("Exception in callback ") and "failing(" in context["message"]
    await ended(future)


# -- futures in Python --

PYTHON_FUTURES = """
import asyncio
asyncio.Future = asyncio.futures.Future = asyncio.futures._PyFuture
asyncio.Task = asyncio.tasks.Task = asyncio.tasks._PyTask
import contextlib, socket, sys, uringloop

async def main(loop):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        coroutine = loop.sock_recv(near, 10)
        future = coroutine.send(None)
        future._asyncio_future_blocking = False
        log = []
        for name in "ABC":
            future.add_done_callback(lambda _, name=name: log.append(name))
        far.send(b"x")
        while len(log) < 3:
            await asyncio.sleep(0)
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        receiving = loop.create_task(loop.sock_recv(near, 10))
        await asyncio.sleep(0)
        far.send(b"data")
        print(log, await receiving)

for debug in (False, True):
    with contextlib.closing({factory}()) as loop:
        loop.set_debug(debug)
        loop.run_until_complete(main(loop))
"""


def test_futures_in_python(loop_factory):
    """nest_asyncio puts them into the place of C's, and a notebook imports us behind it."""
    code = PYTHON_FUTURES.replace("{factory}", expression_of(loop_factory))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["['A', 'B', 'C'] b'data'"] * 2, done.stderr
