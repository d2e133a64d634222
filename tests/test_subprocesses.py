"""Subprocesses: exec and shell, their pipes, and how an exit is noticed, on the selector loop and on ours."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from asyncio import unix_events
from subprocess import DEVNULL, PIPE, STDOUT

import pytest

from support import some_bytes, turns, until

# The figures that these are meant for are 100,000,000 bytes and 2,000 processes.
LARGE = int(os.environ.get("URINGLOOP_SUBPROCESS_BYTES", 20_000_000))
PROCESSES = int(os.environ.get("URINGLOOP_SUBPROCESSES", 200))
BATCH = 50

WATCHERS = [name for name in ("PidfdChildWatcher", "ThreadedChildWatcher", "SafeChildWatcher", "FastChildWatcher",
                              "MultiLoopChildWatcher") if hasattr(unix_events, name)]


@pytest.fixture(autouse=True)
def nobody_left(loop):
    """No child, running or dead, and no thread; what ends with the test's last turns has ended."""
    threads = threading.active_count()
    yield
    loop.run_until_complete(turns(5))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert threading.active_count() == threads


def python(code, *arguments):
    # Silent as by default, but for debug builds.
    silent = "-W", "ignore::ResourceWarning"
    return sys.executable, "-S", *silent, "-c", "import os, signal, sys, time\n" + code, *arguments


async def start(*arguments, **options):
    return await asyncio.create_subprocess_exec(*arguments, **options)


async def ended(process):
    """Its transport has told all: wait() returns at the exit, which may be before the pipes' end."""
    await process.wait()
    await until(lambda: process._transport._loop is None)


# -- data --


async def test_exec(loop):
    process = await start("sh", "-c", "cat; echo error >&2; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.pid > 0 and process.returncode is None
    assert await process.communicate(b"hello\n") == (b"hello\n", b"error\n")
    assert process.returncode == 3
    assert await process.wait() == 3
    assert repr(process) == f"<Process {process.pid}>"


async def test_shell(loop):
    process = await asyncio.create_subprocess_shell("read a; echo $a$a; exit 4", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"x\n") == (b"xx\n", None)
    assert process.returncode == 4


@pytest.mark.parametrize("size", [0, 1, 100_000, LARGE])
async def test_bytes_through_cat(loop, size):
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    data = some_bytes(size)
    out, _ = await process.communicate(data)
    assert out == data and process.returncode == 0


async def test_three_pipes_large_and_at_once(loop):
    """Each full again and again, in an order that only the child knows."""
    process = await start(*python(
        "i, o, e = (open(fd, mode, 0) for fd, mode in ((0, 'rb'), (1, 'wb'), (2, 'wb')))\n"
        "while data := i.read(300_000):\n"
        "    for out in (e, o):\n"
        "        rest = memoryview(data)\n"
        "        while rest: rest = rest[out.write(rest):]\n"), stdin=PIPE, stdout=PIPE, stderr=PIPE)
    data = some_bytes(3_000_000)
    assert await process.communicate(data) == (data, data)


async def test_reader_and_writer_of_the_pipes(loop):
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    for number in range(100):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain()
        assert await process.stdout.readline() == b"%d\n" % number
    process.stdin.close()
    await process.stdin.wait_closed()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


async def test_reading_pauses(loop):
    """Nobody reads: the child is held up at its pipe, and nothing is lost."""
    process = await start(*python("os.write(2, b'x'); sys.stdout.buffer.write(bytes(2_000_000))"),
                          stdout=PIPE, stderr=PIPE, limit=1000)
    await process.stderr.readexactly(1)
    await until(lambda: process.stdout._paused)
    assert len(process.stdout._buffer) < 1_000_000
    assert len(await process.stdout.read()) == 2_000_000
    assert await process.wait() == 0


async def test_stderr_to_stdout(loop):
    process = await start("sh", "-c", "echo 1; echo 2 >&2", stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    assert await process.communicate() == (b"1\n2\n", None)


async def test_files_and_descriptors(loop, tmp_path):
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        process = await start("cat", stdin=stdin, stdout=stdout.fileno())
        assert await process.wait() == 0
    assert (tmp_path / "out").read_bytes() == b"from a file"


async def test_child_that_reads_nothing(loop):
    """communicate() takes a broken pipe for what it is."""
    process = await start("true", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(bytes(1_000_000)) == (b"", None)
    assert process.returncode == 0
    await turns(3)


async def test_drain_to_a_child_that_is_gone(loop):
    process = await start("true", stdin=PIPE)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            process.stdin.write(bytes(65536))
            await process.stdin.drain()
            await asyncio.sleep(0)
    assert await process.wait() == 0


async def test_pipe_outlives_the_process(loop):
    """A grandchild holds it: the end of the stream comes later than the exit."""
    process = await start(*python(
        "if os.fork() == 0:\n"
        "    os.read(0, 1); os.write(1, b'late'); os._exit(0)\n"
        "os._exit(5)"), stdin=PIPE, stdout=PIPE)
    await until(lambda: process.returncode is not None)
    assert process.returncode == 5
    process.stdin.write(b"x")
    assert await process.stdout.read() == b"late"
    assert await process.wait() == 5


# -- options --


async def test_options_of_the_child(loop, tmp_path):
    process = await start(
        *python("print(os.getcwd(), os.environ['A'], os.getsid(0) == os.getpid(), os.getenv('HOME'), sep='|')"),
        stdout=PIPE, cwd=tmp_path, env={"A": "b"}, start_new_session=True)
    out, _ = await process.communicate()
    assert out.decode().strip() == f"{tmp_path}|b|True|None"


async def test_process_group(loop):
    process = await start(*python("print(os.getpgid(0) == os.getpid()); sys.stdout.flush(); time.sleep(60)"),
                          stdout=PIPE, process_group=0)
    assert await process.stdout.readline() == b"True\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert await process.wait() == -signal.SIGTERM
    await turns(3)


async def test_preexec_fn(loop):
    process = await start(*python("print(os.umask(0))"), stdout=PIPE, preexec_fn=lambda: os.umask(0o123))
    out, _ = await process.communicate()
    assert int(out) == 0o123


async def test_preexec_fn_that_raises(loop):
    def raises():
        raise ZeroDivisionError

    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        await start("true", preexec_fn=raises, stdin=PIPE, stdout=PIPE)


async def test_pass_fds(loop):
    """The child has this descriptor and no other: none of the ring, the self-pipe or a connection."""
    r, w = os.pipe()
    process = await start(*python("print(os.listdir('/proc/self/fd')); os.write(int(sys.argv[1]), b'inherited')",
                                  str(w)), stdout=PIPE, pass_fds=(w,))
    out, _ = await process.communicate()
    os.close(w)
    assert os.read(r, 100) == b"inherited"
    os.close(r)
    # The last is the listing's own.
    listed = {int(number) for number in eval(out)}
    assert {0, 1, 2, w} < listed and len(listed) == 5


async def test_descriptors_close_at_exec(loop):
    """Also for a child that is not told to close what it inherits."""
    process = await start("ls", "-l", "/proc/self/fd", stdout=PIPE, close_fds=False)
    out, _ = await process.communicate()
    self_pipe = os.readlink(f"/proc/self/fd/{loop._csock.fileno()}")
    for own in ("io_uring", "eventpoll", "eventfd", self_pipe):
        assert own not in out.decode()


@pytest.mark.parametrize("options", [{"text": True}, {"universal_newlines": True}, {"bufsize": 1},
                                     {"encoding": "ascii"}, {"errors": "strict"}], ids=str)
async def test_text_is_refused(loop, options):
    with pytest.raises(ValueError):
        await start("true", **options)


@pytest.mark.parametrize("program, error", [("/does/not/exist", FileNotFoundError), ("/", PermissionError)])
async def test_program_that_cannot_run(loop, program, error):
    with pytest.raises(error):
        await start(program, stdin=PIPE, stdout=PIPE)


async def test_exec_and_shell_refuse_the_other_s_arguments(loop):
    protocol = asyncio.SubprocessProtocol
    with pytest.raises(ValueError):
        await loop.subprocess_shell(protocol, ["list"])
    with pytest.raises(ValueError):
        await loop.subprocess_shell(protocol, "true", shell=False)
    with pytest.raises(TypeError):
        await loop.subprocess_exec(protocol, 1)
    with pytest.raises(ValueError):
        await loop.subprocess_exec(protocol, "true", shell=True)


# -- the end --


async def test_wait_from_several_tasks(loop):
    process = await start("cat", stdin=PIPE)
    waiters = [asyncio.create_task(process.wait()) for _ in range(10)]
    await turns(2)
    waiters[3].cancel()
    process.stdin.close()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [result for result in results if result == 0] == [0] * 9
    assert isinstance(results[3], asyncio.CancelledError)
    assert await process.wait() == 0


@pytest.mark.parametrize("how, status", [("kill", -signal.SIGKILL), ("terminate", -signal.SIGTERM),
                                         ("send_signal", -signal.SIGHUP)])
async def test_signals_to_the_child(loop, how, status):
    process = await start("sleep", "60")
    getattr(process, how)(*([signal.SIGHUP] if how == "send_signal" else []))
    assert await process.wait() == status
    await turns(3)
    with contextlib.suppress(ProcessLookupError):
        getattr(process, how)(*([signal.SIGHUP] if how == "send_signal" else []))


async def test_stop_and_continue(loop):
    """Neither is an exit."""
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    process.send_signal(signal.SIGSTOP)
    process.stdin.write(b"x")
    await turns(10)
    assert process.returncode is None
    process.send_signal(signal.SIGCONT)
    assert await process.stdout.readexactly(1) == b"x"
    process.stdin.close()
    assert await process.wait() == 0


async def test_timeout_then_kill(loop):
    process = await start("sleep", "60", stdout=PIPE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.communicate(), 0.01)
    process.kill()
    assert await process.communicate() == (b"", None)
    assert process.returncode == -signal.SIGKILL


async def test_cancelled_while_it_starts(loop):
    for count in range(1, 6):
        task = asyncio.create_task(start("sleep", "60", stdin=PIPE, stdout=PIPE))
        await turns(count)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            continue
        process.kill()
        await process.wait()
    await turns(5)


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls = []
        self.data = {1: bytearray(), 2: bytearray()}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.calls.append("connection_made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(("pipe_connection_lost", fd))

    def process_exited(self):
        self.calls.append("process_exited")

    def connection_lost(self, exc):
        self.calls.append("connection_lost")
        self.lost.set_result(exc)


async def test_protocol(loop):
    transport, protocol = await loop.subprocess_exec(Recorder, "sh", "-c", "cat; cat >&2 </dev/null; exit 7")
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert transport.get_pid() == transport.get_extra_info("subprocess").pid
    assert transport.get_returncode() is None and transport.get_pipe_transport(7) is None
    assert "running stdin=" in repr(transport)
    transport.get_pipe_transport(0).write(b"through the protocol")
    transport.get_pipe_transport(0).close()
    assert await protocol.lost is None
    assert protocol.data == {1: b"through the protocol", 2: b""}
    assert transport.get_returncode() == 7
    assert protocol.calls[0] == "connection_made" and protocol.calls[-1] == "connection_lost"
    assert sorted(map(str, protocol.calls[1:-1])) == sorted(
        ["process_exited", *(str(("pipe_connection_lost", fd)) for fd in range(3))])
    transport.close()


async def test_close_of_the_transport_kills(loop):
    transport, protocol = await loop.subprocess_exec(Recorder, "cat")
    transport.close()
    assert transport.is_closing()
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGKILL


async def test_exit_status_that_somebody_else_took(loop, caplog):
    """os.waitpid() of the program's own was faster: 255, and a warning, as the watchers have it."""
    process = await start("cat", stdin=PIPE)
    process.kill()
    os.waitpid(process.pid, 0)
    assert await process.wait() == 255
    assert str(process.pid) in caplog.text and "255" in caplog.text


def test_exit_while_the_loop_does_not_run(loop):
    process = loop.run_until_complete(start("sleep", "60"))
    # Not by the end of its input: that takes turns of the loop, in which it may end.
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert loop.run_until_complete(process.wait()) == -signal.SIGKILL


async def test_debug_mode(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    caplog.set_level("DEBUG", "asyncio")
    process = await asyncio.create_subprocess_shell("exit 3", stdin=PIPE, stdout=PIPE)
    assert await process.wait() == 3
    await turns(3)
    assert f"pid={process.pid}" in caplog.text and "exited with return code 3" in caplog.text


# -- who notices the exit --


@pytest.mark.skipif(not unix_events.can_use_pidfd(), reason="no pidfd")
async def test_no_thread_waits_for_a_child(loop, monkeypatch):
    def refused(*_):
        raise AssertionError("a thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    processes = [await start("cat", stdin=PIPE) for _ in range(5)]
    for process in processes:
        process.stdin.close()
        assert await process.wait() == 0


@pytest.fixture
def set_watcher(loop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_child_watcher()
        made = []

        def set_watcher(name):
            watcher = getattr(unix_events, name)()
            made.append(watcher)
            watcher.attach_loop(loop)
            asyncio.set_child_watcher(watcher)

        yield set_watcher
        asyncio.set_child_watcher(before)
        for watcher in made:
            watcher.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.mark.skipif(not WATCHERS, reason="this Python has no child watchers to set")
@pytest.mark.parametrize("name", WATCHERS)
def test_each_watcher(loop, set_watcher, name):
    async def one(number):
        process = await asyncio.create_subprocess_shell(f"read line; exit {number}", stdin=PIPE)
        process.stdin.close()
        return await process.wait()

    async def main():
        if name == "MultiLoopChildWatcher":
            # One at a time, and ended when the watcher knows it: its signal handler may interrupt its own
            # waitpid() of a child, and then takes that for lost, on any loop.
            return [await one(number) for number in range(10)]
        return await asyncio.gather(*(one(number) for number in range(10)))

    set_watcher(name)
    assert loop.run_until_complete(main()) == list(range(10))
    loop.run_until_complete(until(lambda: threading.active_count() == 1))


def test_in_a_loop_of_another_thread(loop, loop_factory):
    async def main():
        process = await start("cat", stdin=PIPE, stdout=PIPE)
        results.append(await process.communicate(b"from a thread"))
        await turns(3)

    def run():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    results = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [(b"from a thread", None)]


async def test_handler_of_sigchld_beside_it(loop):
    """The program's own, which takes no exit status."""
    seen = []
    loop.add_signal_handler(signal.SIGCHLD, seen.append, 1)
    process = await start("true")
    assert await process.wait() == 0
    await until(lambda: seen)
    loop.remove_signal_handler(signal.SIGCHLD)


# -- many --


async def test_many_in_batches(loop):
    """nobody_left and nothing_left see what they leave: no zombie, no thread, no descriptor."""

    async def one(number):
        data = b"%d" % number
        process = await start("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(data)
        return out == data and process.returncode == 0

    for first in range(0, PROCESSES, BATCH):
        assert all(await asyncio.gather(*(one(number) for number in range(first, first + BATCH))))
