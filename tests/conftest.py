"""One body, two loops: fixtures that run a test on asyncio's selector loop, the oracle, and on ours.

An `async def` test takes the fixture `loop` and runs on it.  Whatever a test does, afterwards these
must hold: no operation in flight, no buffer given up to the kernel, no descriptor more or less than
before, no call of the loop's exception handler that the test did not ask for (it takes those out of
`errors`), and no ResourceWarning (pyproject.toml makes them errors).
"""

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import socket

import pytest

from loop_factories import LOOPS, NATIVE, OURS
from support import Recorder, certificate_contexts, tcp_pair, turns, waits
from uringloop import _overlapped

# Files with tests of many seconds.
LONG = {"test_cpp.py", "test_conformance.py", "test_doctor.py", "test_environment.py", "test_setup.py", "test_simulation.py",
        "test_state_machine.py"}
# What a test may take; pytest-timeout's limit is for loops that no longer turn.
TIME_LIMIT = 30


def pytest_configure(config):
    config.addinivalue_line("markers", "uringloop_only: the selector loop does something else, or nothing")
    config.addinivalue_line("markers", "native_only(reason): neither the selector loop nor the reference tier can do it")
    config.addinivalue_line("markers", "alone(reason): not sound beside other tests; tests/run.sh runs it after the others")
    config.addinivalue_line("markers", "any_python(reason): the same on each Python; left out where URINGLOOP_ANY_PYTHON=done")


def pytest_collection_modifyitems(config, items):
    """`alone` tests are skipped in pytest-xdist's workers, and all others where URINGLOOP_ALONE is set."""
    if os.environ.get("URINGLOOP_ANY_PYTHON") == "done":
        done = [item for item in items if item.get_closest_marker("any_python")]
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item not in set(done)]
    if hasattr(config, "workerinput"):
        # The longest first: what is short goes round between the workers in the end.
        items.sort(key=lambda item: item.path.name not in LONG)
    alone = [item for item in items if item.get_closest_marker("alone")]
    if os.environ.get("URINGLOOP_ALONE"):
        config.hook.pytest_deselected(items=[item for item in items if item not in alone])
        items[:] = alone
    elif hasattr(config, "workerinput"):
        for item in alone:
            item.add_marker(pytest.mark.skip(reason="not beside other tests: URINGLOOP_ALONE=1 pytest runs it"))


def pytest_generate_tests(metafunc):
    if "loop_factory" in metafunc.fixturenames:
        names = list(LOOPS)
        if metafunc.definition.get_closest_marker("native_only"):
            names = [NATIVE]
        elif metafunc.definition.get_closest_marker("uringloop_only"):
            names = OURS
        metafunc.parametrize("loop_factory", names, indirect=True)


def pytest_collection_finish():
    # The collections after each test need not look at what pytest itself is made of.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run an `async def` test on its `loop`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    loop = pyfuncitem.funcargs["loop"]
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def limited():
        async with asyncio.timeout(TIME_LIMIT):
            await pyfuncitem.obj(**arguments)

    loop.run_until_complete(limited())
    return True


@pytest.fixture
def loop_factory(request):
    """Makes a new loop of the kind under test."""
    return LOOPS[request.param]


@pytest.fixture
def errors():
    """What the exception handler of `loop` was called with; the test removes what it expects."""
    contexts = []
    yield contexts
    gc.collect()
    assert not contexts


@pytest.fixture
def loop(loop_factory, errors):
    """A fresh loop, closed after the test as asyncio.Runner closes one."""
    loop = loop_factory()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    yield loop
    if loop.is_closed():
        return
    try:
        loop.run_until_complete(wind_up())
        assert in_flight(loop) == []
    finally:
        proactor = getattr(loop, "_proactor", None)
        loop.close()
        if proactor is not None:
            assert proactor._cache == {}


async def wind_up():
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
    # What was cancelled last is in flight until its final completion.
    await turns(5)


def in_flight(loop):
    """The operations that somebody waits for; always empty on the selector loop."""
    proactor = getattr(loop, "_proactor", None)
    if proactor is None:
        return []
    operations = [ov for future, ov, obj, callback in proactor._cache.values()
                  if future is not None and not future.cancelled()]
    return operations + waits(loop)


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test: descriptors and buffers as before."""
    files, kept = open_files(), len(_overlapped._kept_for_good)
    yield
    gc.collect()
    assert open_files() == files
    assert len(_overlapped._kept_for_good) == kept


def open_files():
    """{descriptor: what it is}"""
    files = {}
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            files[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return files


@pytest.fixture
def stack():
    """A contextlib.ExitStack: `stack.enter_context(sock)` closes the socket after the test."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(params=["tcp", "unix"])
def pair(request, stack):
    """Two connected stream sockets, non-blocking."""
    sockets = tcp_pair() if request.param == "tcp" else socket.socketpair()
    for sock in sockets:
        stack.enter_context(sock).setblocking(False)
    return sockets


@pytest.fixture
def ctrl_c():
    """Python's own handler of SIGINT, which a shell's background job starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def connect(loop):
    """`transport, protocol = await connect(sock)`: a transport on a connected socket."""

    async def connect(sock, factory=Recorder):
        return await loop.create_connection(factory, sock=sock)

    return connect


@pytest.fixture(scope="session")
def tls():
    """(server's context, client's context)"""
    return certificate_contexts()
