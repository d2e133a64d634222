"""Threads by the dozen, spawned processes, and ends of the interpreter with a loop left open, on both loops."""

import asyncio
import multiprocessing
import subprocess
import sys
import textwrap
import threading

import pytest

from child_of_test import echo_in_a_child
from loop_factories import expression_of
from support import turns, until


def run(code, loop_factory, *options):
    """Run code in a new interpreter, where `make` makes a loop; return what it has written, after its end."""
    # Silent as by default, but for debug builds.
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", *options, "-c", "import asyncio, os, sys, threading, uringloop\n"
         f"make = {expression_of(loop_factory)}\n{textwrap.dedent(code)}"],
        capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# -- threads --


async def test_call_soon_threadsafe_flood(loop):
    """Each call comes once, those of one thread in order, while the loop has work of its own."""
    threads, calls = 4, 5000
    seen = [[] for _ in range(threads)]

    def flood(index):
        for number in range(calls):
            loop.call_soon_threadsafe(seen[index].append, number)

    floods = [threading.Thread(target=flood, args=(index,)) for index in range(threads)]
    for thread in floods:
        thread.start()
    await until(lambda: sum(map(len, seen)) == threads * calls)
    for thread in floods:
        thread.join()
    await turns(2)
    assert seen == [list(range(calls))] * threads


def test_flood_of_a_loop_that_sleeps(loop):
    """Each wakes it, and none is forgotten."""

    def flood():
        for number in range(2000):
            done = threading.Event()
            loop.call_soon_threadsafe(done.set)
            assert done.wait(20)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=flood)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


# -- processes --


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
async def test_multiprocessing(loop, loop_factory, method):
    """A child's loop talks to the parent's, which goes on meanwhile."""

    async def serve(reader, writer):
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=echo_in_a_child, args=(expression_of(loop_factory), theirs))
    if method == "fork":
        process.start()
    else:
        await loop.run_in_executor(None, process.start)
    # A child that ends early is an EOFError, and not waited for.
    theirs.close()
    ours.send(server.sockets[0].getsockname())
    arrived = asyncio.Event()
    loop.add_reader(ours.fileno(), arrived.set)
    await arrived.wait()
    loop.remove_reader(ours.fileno())
    assert ours.recv() == b"FROM A CHILD"
    await loop.run_in_executor(None, process.join)
    assert process.exitcode == 0
    process.close()
    ours.close()
    server.close()
    await server.wait_closed()
    if method == "forkserver":
        multiprocessing.forkserver._forkserver._stop()
    if method != "fork":
        multiprocessing.resource_tracker._resource_tracker._stop()


# -- the end of the interpreter --


@pytest.mark.parametrize("state", ["never run", "has run", "running"])
def test_os_exit(loop_factory, state):
    out, err = run(f"""
        loop = make()
        def leave():
            print("leaving", flush=True)
            os._exit(0)
        state = {state!r}
        if state == "has run":
            loop.run_until_complete(asyncio.sleep(0))
        if state == "running":
            loop.call_soon(leave)
            loop.run_forever()
        leave()
        """, loop_factory)
    assert (out, err) == ("leaving\n", "")


@pytest.mark.parametrize("state", ["never run", "has run", "with operations", "in a thread", "in a cycle", "current",
                                   "kept with operations"])
def test_loop_left_open(loop_factory, state):
    """No crash, no hang, nothing on stderr but what a ResourceWarning says."""
    out, err = run(f"""
        import socket
        loop = make()
        state = {state!r}
        if state != "never run":
            loop.run_until_complete(asyncio.sleep(0))
        if state == "current":
            asyncio.set_event_loop(loop)
        if state == "kept with operations":
            sys.keep = loop
        if state.endswith("with operations"):
            a, b = socket.socketpair()
            a.setblocking(False)
            loop.add_reader(b, print)
            task = loop.create_task(loop.sock_recv(a, 1))
            loop.run_until_complete(asyncio.sleep(0))
            task._log_destroy_pending = False
        if state == "in a thread":
            other = make()
            started = threading.Event()
            other.call_soon(started.set)
            threading.Thread(target=other.run_forever, daemon=True).start()
            started.wait()
        if state == "in a cycle":
            loop.me = loop
            del loop
        print("the end")
        """, loop_factory)
    assert out == "the end\n" and err == ""


def test_exit_inside_a_callback(loop_factory):
    out, err = run("""
        loop = make()
        loop.call_soon(sys.exit)
        loop.run_forever()
        """, loop_factory)
    assert err == ""


def test_atexit_may_still_use_a_loop(loop_factory):
    out, err = run("""
        import atexit
        def last():
            with asyncio.Runner(loop_factory=make) as runner:
                runner.run(asyncio.sleep(0.001))
            print("ran")
        atexit.register(last)
        """, loop_factory, "-W", "error")
    assert (out, err) == ("ran\n", "")
