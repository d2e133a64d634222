"""Seeing inside a loop: stats(), operations(), dump(), and the signal."""

import asyncio
import collections
import contextlib
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import types

import pytest

import uringloop
from simulation import Simulation, simulated_proactor
from support import tcp_pair
from uringloop import observability

pytestmark = pytest.mark.uringloop_only
ROOT = pathlib.Path(uringloop.__file__).parents[1]


def of_kind(loop, kind):
    return loop.stats()["operations"].get(kind, {"count": 0})["count"]


async def until(condition):
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come true")


# -- stats() --


async def test_stats_is_plain_data(loop):
    stats = loop.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert set(stats) == {
        "running", "blocked", "busy", "turns", "callbacks", "ready", "timers", "enters", "submissions", "completions",
        "cq_overflows", "replaced_rings", "stale_keys", "states", "operations", "buffers"}
    documented = (ROOT / "docs/observability.md").read_text()
    assert [name for name in [*stats, *stats["buffers"], *stats["states"]] if f"`{name}`" not in documented] == []


async def test_stats_counts_operations_by_kind_and_age(loop):
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        before = of_kind(loop, "poll")
        receiving = [asyncio.ensure_future(loop.sock_recv(left, 1)) for _ in range(2)]
        await until(lambda: of_kind(loop, "poll") == before + 2)
        counted = loop.stats()["operations"]["poll"]
        assert sum(counted["ages"].values()) == counted["count"] == before + 2
        assert counted["oldest"] >= 0
        for future in receiving:
            future.cancel()
        await asyncio.wait(receiving)
        await until(lambda: of_kind(loop, "poll") == before)


async def test_stats_counts_turns_callbacks_and_what_is_scheduled(loop):
    before = loop.stats()
    ran = []
    for number in range(10):
        loop.call_soon(ran.append, number)
    cancelled = loop.call_soon(ran.append, None)
    cancelled.cancel()
    timer = loop.call_later(1000, print)
    now = loop.stats()
    assert now["ready"] == before["ready"] + 11
    assert now["timers"] == before["timers"] + 1
    await until(lambda: len(ran) == 10)
    timer.cancel()
    after = loop.stats()
    assert after["turns"] > before["turns"]
    assert after["callbacks"] >= before["callbacks"] + 10


def test_stats_counts_callbacks_exactly(loop):
    async def main():
        before = loop.stats()["callbacks"]
        future = loop.create_future()
        for _ in range(100):
            loop.call_soon(lambda: None)
        for handle in [loop.call_soon(lambda: None) for _ in range(50)]:
            handle.cancel()
        loop.call_soon(future.set_result, None)
        await future
        return loop.stats()["callbacks"] - before

    # With the one that sets the result, and the one that wakes this task up.
    assert loop.run_until_complete(main()) == 102


def test_stats_tells_blocked_from_busy(loop):
    assert loop.stats()["running"] == 0
    loop.run_until_complete(asyncio.sleep(0.05))
    stats = loop.stats()
    assert 0.04 <= stats["blocked"] <= stats["running"]
    assert stats["busy"] == pytest.approx(stats["running"] - stats["blocked"])
    # Between runs nothing goes on.
    assert loop.stats()["running"] == stats["running"]

    async def compute():
        end = loop.time() + 0.05
        while loop.time() < end:
            pass

    loop.run_until_complete(compute())
    after = loop.stats()
    assert after["busy"] - stats["busy"] >= 0.05


def test_stats_of_a_loop_that_sleeps_by_another_thread(loop_factory):
    """The sleep that is under way counts."""
    loop = loop_factory()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        first = loop.stats()["blocked"]
        # (It has yet to come to it, maybe.)
        while (second := loop.stats()["blocked"]) <= first or second == 0:
            pass
        assert loop.stats()["running"] >= second
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_stats_counts_what_is_not_out(loop):
    reader, writer, peer = await full_connection(loop)
    with peer:
        await until(lambda: loop.stats()["operations"].get("poll") or loop.stats()["buffers"]["sends"])
        assert loop.stats()["buffers"]["receive"] == 262144
        writer.transport.abort()


async def full_connection(loop):
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    writer.write(bytes(10_000_000))
    return reader, writer, right


def test_stats_of_a_send_in_flight():
    """It waits for room on the simulated kernel: its buffer is the kernel's until then."""
    proactor, machine = simulated_proactor(1, faults=False, rung=0)
    loop = uringloop.IouringProactorEventLoop(proactor)
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                left.send(bytes(65536))

        async def main():
            future = proactor.send(left, b"x" * 1000)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            stats = loop.stats()
            [sending] = [each for each in uringloop.operations(loop) if each.kind == "send"]
            future.cancel()
            await asyncio.wait([future])
            return stats, sending

        stats, sending = loop.run_until_complete(main())
    loop.close()
    assert stats["buffers"]["sends"] == 1 and stats["buffers"]["unsent"] == 1000
    assert (sending.fd, sending.done, sending.size) == (sending.fd, 0, 1000)
    assert machine.problems() == []


def test_stats_counts_enters_and_overflows_of_the_kernel():
    machine = Simulation(1)
    proactor = uringloop.IouringProactor(0, machine.kernel.capsule, sq_entries=16, cq_entries=16)
    loop = uringloop.IouringProactorEventLoop(proactor)
    left, right = socket.socketpair()

    async def main():
        # More than the queues hold are submitted before one is read.
        await asyncio.gather(*[proactor.send(left, b"x") for _ in range(60)])

    try:
        with left, right:
            probed = machine.kernel.calls("enter")
            loop.run_until_complete(main())
            stats = loop.stats()
            assert stats["enters"] == machine.kernel.calls("enter") - probed
            assert stats["cq_overflows"] == 1
            assert 60 <= stats["completions"] <= stats["submissions"]
    finally:
        loop.close()
    assert machine.problems() == []


def test_stats_of_a_closed_loop(loop):
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    stats = loop.stats()
    assert stats["turns"] > 0 and stats["operations"] == {} and stats["ready"] == 0
    assert uringloop.operations(loop) == []
    assert json.loads(json.dumps(stats)) == stats


# -- operations() --


async def test_operations_tells_fd_peer_and_who_waits(loop):
    ours, theirs = tcp_pair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        reading = asyncio.ensure_future(reader.read(1))
        fd = ours.fileno()
        await until(lambda: [each for each in uringloop.operations(loop) if each.fd == fd and each.age > 0])
        [found] = [each for each in uringloop.operations(loop) if each.fd == fd]
        assert isinstance(found, uringloop.Operation)
        assert (found.kind, found.state) == ("poll", "in flight")
        assert found.peer == theirs.getsockname()
        assert (found.done, found.size) == (0, 0)
        reading.cancel()
        writer.close()
        await writer.wait_closed()
        assert [each for each in uringloop.operations(loop) if each.fd == fd] == []


async def test_operations_of_sock_calls_and_pipes(loop):
    left, right = socket.socketpair()
    read_end, write_end = os.pipe()
    with left, right:
        left.setblocking(False)
        future = asyncio.ensure_future(loop.sock_recv(left, 1))
        loop.add_reader(read_end, print)
        await until(lambda: {left.fileno(), read_end} <= {each.fd for each in uringloop.operations(loop)})
        found = {each.fd: each for each in uringloop.operations(loop)}
        assert (found[left.fileno()].kind, found[left.fileno()].state) == ("poll", "waiting")
        assert asyncio.isfuture(found[left.fileno()].owner)
        assert found[read_end].peer is None and found[read_end].state == "waiting"
        loop.remove_reader(read_end)
        future.cancel()
        await asyncio.wait([future])
    os.close(read_end)
    os.close(write_end)


async def test_operations_has_the_oldest_first(loop):
    pairs = [socket.socketpair() for _ in range(3)]
    futures = []
    for left, _ in pairs:
        left.setblocking(False)
        futures.append(asyncio.ensure_future(loop.sock_recv(left, 1)))
        await asyncio.sleep(0.002)
    wanted = [left.fileno() for left, _ in pairs]
    found = [each for each in uringloop.operations(loop) if each.fd in wanted]
    assert [each.fd for each in found] == wanted
    assert [each.age for each in found] == sorted((each.age for each in found), reverse=True)
    for future in futures:
        future.cancel()
    await asyncio.wait(futures)
    for pair in pairs:
        for end in pair:
            end.close()


async def test_operations_asks_no_peer_of_a_socket_that_is_closed(loop):
    """Its number may be another's."""
    left, right = socket.socketpair()
    left.setblocking(False)
    future = asyncio.ensure_future(loop.sock_recv(left, 1))
    fd = left.fileno()
    await until(lambda: fd in {each.fd for each in uringloop.operations(loop)})
    listener = socket.create_server(("127.0.0.1", 0))
    left.close()
    with right, listener, socket.create_connection(listener.getsockname()) as other:
        assert other.fileno() == fd
        [found] = [each for each in uringloop.operations(loop) if each.fd == fd]
        assert found.peer is None
        with pytest.raises(OSError):
            await future


@pytest.mark.parametrize("other", [asyncio.SelectorEventLoop, object, lambda: None], ids=["selector", "object", "None"])
def test_operations_of_something_else(other):
    loop = other()
    with pytest.raises(TypeError, match="wants a loop of uringloop's"):
        uringloop.operations(loop)
    if hasattr(loop, "close"):
        loop.close()


# -- dump() --


def dumped(*arguments, **keywords):
    with tempfile.TemporaryFile() as file:
        uringloop.dump(*arguments, file=file, **keywords)
        file.seek(0)
        return file.read().decode()


async def test_dump_has_stats_and_operations(loop):
    ours, theirs = tcp_pair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        reading = asyncio.ensure_future(reader.read(1))
        await until(lambda: ours.fileno() in {each.fd for each in uringloop.operations(loop)})
        text = dumped(loop)
        assert text.startswith(f"uringloop: 1 loop in process {os.getpid()}, ")
        assert "in thread MainThread" in text
        assert re.search(r"running for \d+\.\d+ s: blocked", text)
        assert re.search(rf"poll +in flight +{ours.fileno()} +\d+\.\d+ s  peer {re.escape(str(theirs.getsockname()))}", text)
        assert repr(loop) in dumped()
        reading.cancel()
        writer.close()
        await writer.wait_closed()


async def test_dump_survives_what_is_in_it(loop):
    class Rude:
        def __call__(self):
            pass

        def __repr__(self):
            raise ZeroDivisionError("rude")

    read_end, write_end = os.pipe()
    future = loop._proactor._poll_repeatedly(read_end, 1, Rude())
    assert "<Rude, whose repr() raises ZeroDivisionError>" in dumped(loop)
    future.end()
    os.close(read_end)
    os.close(write_end)
    broken = types.SimpleNamespace()
    assert "AttributeError on the way" in dumped(broken)


def test_dump_into_nothing(loop):
    read_end, write_end = os.pipe()
    os.close(read_end)
    uringloop.dump(loop, file=write_end)
    os.close(write_end)
    uringloop.dump(loop, file=write_end)


@pytest.mark.parametrize("file, error", [
    ("a name", AttributeError), (io.StringIO(), OSError), (object(), AttributeError)])
def test_dump_on_signal_refuses_at_once_what_is_no_file(file, error):
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(error):
        uringloop.dump_on_signal(signal.SIGUSR2, file)
    assert signal.getsignal(signal.SIGUSR2) == before


def test_dump_on_signal_into_a_file_that_is_closed_meanwhile(tmp_path):
    with open(tmp_path / "dump", "w") as file:
        before = uringloop.dump_on_signal(signal.SIGUSR2, file)
    try:
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (tmp_path / "dump").read_text() == ""


def test_dump_forgets_loops_that_are_gone(loop_factory):
    loop = loop_factory()
    assert loop in observability.LOOPS
    loop.close()
    count = len(observability.LOOPS)
    del loop
    assert len(observability.LOOPS) == count - 1


def test_dump_of_many_shows_the_oldest(loop, monkeypatch):
    monkeypatch.setattr(observability, "_MOST_SHOWN", 1)
    read_end, write_end = os.pipe()
    loop.add_reader(read_end, print)
    count = len(uringloop.operations(loop))
    assert f"... and {count - 1} younger ones" in dumped(loop)
    loop.remove_reader(read_end)
    os.close(read_end)
    os.close(write_end)


# -- the signal --


def run_child(program, **environment):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True,
        timeout=60, env=os.environ | environment)


HANGS = """
    import asyncio, os, signal, sys, threading, uringloop
    {before}
    async def main():
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        # It hangs, and somebody sends the signal.
        loop.call_later(0.1, os.kill, os.getpid(), signal.{signal})
        loop.call_later(0.3, reader.feed_eof)
        await reader.read()
        writer.close()
        # (A handler that the runner cancels makes a noise on CPython 3.12.1.)
        await served.wait()
    async def serve(reader, writer):
        await reader.read()
        writer.close()
        served.set()
    served = asyncio.Event()
    with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
        loop = runner.get_loop()
        server = runner.run(asyncio.start_server(serve, "127.0.0.1", 0))
        runner.run(main())
        server.close()
    print("done")
    """


def check_dump(done):
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert done.stderr.count("uringloop: 1 loop in process") == 1
    assert "running=True" in done.stderr and "in thread MainThread" in done.stderr
    assert re.search(r"poll +in flight .* peer \('127.0.0.1', \d+\)", done.stderr)


def test_dump_on_signal():
    check_dump(run_child(HANGS.format(before="assert uringloop.dump_on_signal() == signal.SIG_DFL", signal="SIGUSR1")))


def test_dump_on_another_signal_into_a_file(tmp_path):
    path = tmp_path / "dump"
    before = f"file = open({str(path)!r}, 'wb'); uringloop.dump_on_signal(signal.SIGUSR2, file)"
    done = run_child(HANGS.format(before=before, signal="SIGUSR2") + "\n    file.close()\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert path.read_text().startswith("uringloop: 1 loop in process")


def test_dump_by_the_environment():
    check_dump(run_child(HANGS.format(before="", signal="SIGUSR1"), URINGLOOP_DUMP_ON_SIGNAL="SIGUSR1"))


def test_no_dump_unasked():
    done = run_child(HANGS.format(before="", signal="SIGUSR1"))
    assert done.returncode == -signal.SIGUSR1


@pytest.mark.parametrize("name, why", [("SIGNONE", "no signal is called so"), ("SIGKILL", "Invalid argument")])
def test_environment_that_asks_for_what_cannot_be(name, why):
    done = run_child("import uringloop", URINGLOOP_DUMP_ON_SIGNAL=name)
    assert done.returncode == 0
    [line] = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert f"RuntimeWarning: URINGLOOP_DUMP_ON_SIGNAL={name}: " in line and why in line


def test_environment_in_another_thread():
    program = """
        import threading
        def use():
            import uringloop
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()"""
    done = run_child(program, URINGLOOP_DUMP_ON_SIGNAL="SIGUSR1")
    assert done.returncode == 0
    assert done.stderr.count("RuntimeWarning: URINGLOOP_DUMP_ON_SIGNAL=SIGUSR1: signal only works in main thread") == 1


def test_a_dump_in_the_midst_of_a_callback_that_does_not_end():
    program = """
        import os, signal, sys, uringloop
        uringloop.dump_on_signal()
        async def main():
            os.kill(os.getpid(), signal.SIGUSR1)
            # Python's own stderr in the same moment is no obstacle.
            sys.stderr.write("x" * 10)
            for _ in range(100_000):
                pass
        uringloop.run(main())"""
    done = run_child(program)
    assert done.returncode == 0 and "uringloop: 1 loop in process" in done.stderr


def test_names():
    assert {"Operation", "dump", "dump_on_signal", "operations"} <= set(uringloop.__all__)
    assert issubclass(uringloop.Operation, tuple) and isinstance(uringloop.Operation._fields, tuple)
    assert collections.Counter(uringloop.__all__).most_common(1)[0][1] == 1
