"""Where Python is embedded: the main thread is not the one that `threading` takes for it, or there is none.

A loop can be made and run there, on both loops; signal handlers are refused where the interpreter refuses them.
"""

import subprocess
import sys
import textwrap

import pytest

from loop_factories import expression_of

WORK = """
import sys
sys.path[:] = {path!r}
import asyncio, contextlib, signal
loop_factory = {loop_factory}

async def exchange():
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    server.close()
    process = await asyncio.create_subprocess_exec(sys.executable, "-Sc", "print('there')", stdout=-1)
    return (await process.communicate())[0].decode().strip()

with contextlib.closing(loop_factory()) as loop:
    print(loop.run_until_complete(exchange()))
    try:
        loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(signal.SIGUSR1))
    except RuntimeError as error:
        print("refused:", error)
    else:
        seen = []
        signal.raise_signal(signal.SIGUSR1)
        while not seen:
            loop.run_until_complete(asyncio.sleep(0))
        print("a signal")
    print(loop.remove_signal_handler(signal.SIGUSR1))
    asyncio.run(asyncio.sleep(0), loop_factory=loop_factory)
    print(signal.SIGUSR1 in loop._signal_handlers)
"""

FOREIGN_THREAD = """
import _thread, sys
assert "threading" not in sys.modules
ended = _thread.allocate_lock()
ended.acquire()

def work():
    try:
        {there}
    finally:
        ended.release()
_thread.start_new_thread(work, ())
ended.acquire()
{here}
"""

SUB_INTERPRETER = """
try:
    import _interpreters as interpreters
    made = interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=False)
run = getattr(interpreters, "exec", None) or interpreters.run_string
error = run(made, {work!r})
if error is not None:
    print(error.formatted)
interpreters.destroy(made)
"""

REFUSED = "refused: set_wakeup_fd only works in main thread of the main interpreter"


GREEN = """
import socket
true_socket = socket.socket

class Green:
    'A socket that is none, as those of gevent and eventlet.'
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        self._sock = true_socket(family, type, proto, fileno)
    def __getattr__(self, name):
        return getattr(self.__dict__['_sock'], name)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self._sock.close()
    def accept(self):
        fd, address = self._sock._accept()
        return Green(fileno=fd), address

socket.socket = socket.SocketType = Green
"""


def test_another_library_s_sockets(loop_factory):
    """Put into the place of socket.socket before anything is imported."""
    name = expression_of(loop_factory, "__import__('uringloop')")
    work = GREEN + WORK.format(path=sys.path, loop_factory=name)
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[0] == "there", done.stderr
    assert done.returncode == 0, done.stderr


TRACED = """
import functools, socket
called = set()

def trace(name):
    method = getattr(socket.socket, name)
    @functools.wraps(method)
    def traced(*args, **kwargs):
        called.add(name)
        return method(*args, **kwargs)
    setattr(socket.socket, name, traced)

trace("recv")
trace("close")

import asyncio, uringloop

class Protocol(asyncio.Protocol):
    def connection_lost(self, exc):
        lost.set_result(exc)

async def main():
    global lost
    loop = asyncio.get_running_loop()
    lost = loop.create_future()
    ours, theirs = socket.socketpair()
    for sock in ours, theirs:
        sock.setblocking(False)
    theirs.send(b"data")
    assert await loop.sock_recv(ours, 10) == b"data"
    transport, _ = await loop.create_connection(Protocol, sock=ours)
    called.discard("close")
    transport.close()
    await lost
    assert ours.fileno() < 0
    print(sorted(called))
    theirs.close()
with asyncio.Runner(loop_factory={loop_factory}) as runner:
    runner.run(main())
"""


def test_sockets_that_are_traced(loop_factory):
    """By functions in the place of their methods, from before anything is imported."""
    work = TRACED.format(loop_factory=expression_of(loop_factory, "uringloop"))
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "['close', 'recv']", done.stderr


@pytest.mark.parametrize("where, signals", [
    ("in the thread that imports threading", REFUSED),
    ("in the main thread when another has imported threading", "a signal"),
    ("in a sub-interpreter", REFUSED),
])
def test_loop_runs(loop_factory, where, signals):
    name = expression_of(loop_factory, "__import__('uringloop')")
    work = WORK.format(path=sys.path, loop_factory=name)
    execute = f"exec({work!r}, dict(__name__='work'))"
    code = {
        "in the thread that imports threading": FOREIGN_THREAD.format(there=execute, here=""),
        "in the main thread when another has imported threading":
            FOREIGN_THREAD.format(there="import threading", here=execute),
        "in a sub-interpreter": SUB_INTERPRETER.format(work=work),
    }[where]
    # -S: what site imports may import threading.
    done = subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(code)], capture_output=True, text=True,
                          timeout=30)
    # A thread that threading does not know ends with a message on some Pythons; so does the other loop's run.
    assert done.stdout.splitlines() == ["there", signals, str(signals == "a signal"), "False"], done.stderr
