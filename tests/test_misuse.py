"""A proactor that is misused raises exceptions; nothing that Python code can do with it crashes the process."""

import subprocess
import sys
import textwrap

import pytest

import uringloop

PRELUDE = """
import signal
import uringloop
from unittest import mock
from uringloop import uring_events

def attempt(function, *arguments):
    try:
        return function(*arguments)
    except BaseException as error:
        return error

class Unmade(uringloop.IouringProactor):
    def __init__(self):
        pass

SENSELESS = ((), (None,), (None, None), (None, None, None), (mock.MagicMock(), None), (None, object(), print),
             (-1, -1, -1), (object(),) * 3)

def call_all(made):
    for name in dir(made):
        if name.startswith("__") and name != "__repr__":
            continue
        method = attempt(getattr, made, name)
        # A wait without a timeout may rightly have no end.
        for arguments in ((0,), (-1,), ("x",)) if name in ("select", "_poll") else SENSELESS:
            if callable(method):
                attempt(method, *arguments)
"""


def run(code):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PRELUDE + textwrap.dedent(code)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"
    return done.stdout.split()


def test_every_method_of_one_that_was_not_made():
    assert run("call_all(Unmade()); print('alive')") == ["alive"]


def test_every_method_with_senseless_arguments():
    assert run("""
        made = uringloop.IouringProactor()
        call_all(made)
        loop = uringloop.new_event_loop()
        proactor = loop._proactor
        call_all(proactor)
        attempt(loop.close)
        call_all(proactor)
        print("alive")
    """) == ["alive"]


def test_every_class_of_futures_with_senseless_arguments():
    assert run("""
        loop = uringloop.new_event_loop()
        for cls in (uring_events._OverlappedFuture, uring_events._WaitHandleFuture, uring_events._WaitCancelFuture,
                    uring_events._BaseWaitHandleFuture):
            for count in range(5):
                for argument in (None, object(), mock.MagicMock()):
                    future = attempt(lambda: cls(*[argument] * count, loop=loop))
                    call_all(future)
            call_all(cls.__new__(cls))
        loop.run_until_complete(uring_events.base_events.tasks.sleep(0))
        attempt(loop.close)
        print("alive")
    """) == ["alive"]


def test_made_again():
    assert run("""
        made = uringloop.IouringProactor()
        print(type(attempt(made.__init__)).__name__)
        signal.signal(signal.SIGALRM, lambda *_: print(type(attempt(made.__init__)).__name__))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        made.select(0.1)
        print(made.select(0))
        made.close()
        print(type(attempt(made.__init__)).__name__)
    """) == ["RuntimeError", "RuntimeError", "[]", "RuntimeError"]


@pytest.mark.parametrize("use", [
    lambda proactor: proactor.select(0), lambda proactor: proactor.recv(0, 1), lambda proactor: proactor.send(0, b"x"),
    lambda proactor: proactor.wait_for_handle(0), lambda proactor: proactor._bind_thread(),
    lambda proactor: proactor._submit(), lambda proactor: proactor._wake(),
    lambda proactor: proactor._stop_serving(proactor),
])
def test_one_that_was_not_made_says_so(use):
    class Unmade(uringloop.IouringProactor):
        def __init__(self):
            pass

    proactor = Unmade()
    with pytest.raises(RuntimeError, match="__init__.. was not called"):
        use(proactor)
    assert "closed" in repr(proactor)
    proactor.close()


@pytest.mark.parametrize("method, arguments", [
    ("_wait_cancel", (None, None)), ("_wait_cancel", (object(), None)), ("_register", (None, None, print)),
    ("_register", (object(), None, print)), ("_unregister", (None,)), ("_unregister", (object(),)),
])
def test_what_is_no_operation_is_refused(method, arguments):
    loop = uringloop.new_event_loop()
    with pytest.raises(TypeError):
        getattr(loop._proactor, method)(*arguments)
    loop.close()
