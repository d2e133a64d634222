"""The traps of a proactor on Linux that no other module has a test for.

TRAPS.md is the table of all of them: for each the test, or why there is none.
"""

import asyncio
import errno
import gc
import os
import re
import socket
import ssl
import threading
import warnings
import weakref
from pathlib import Path

import pytest

import uringloop
from support import Echo, Recorder, drain, fill, read_all, read_exactly, some_bytes, tcp_pair, turns, until

def test_table_names_what_exists():
    """Each name in TRAPS.md's second column: a test, a case of tests/cpp/, or a module."""
    here = Path(__file__).parent
    modules = {path.stem.removeprefix("test_"): path.read_text() for path in here.glob("test_*.py")}
    core = "".join(path.read_text() for path in here.glob("cpp/test_*.cpp"))
    files = {path.stem for path in here.glob("cpp/*.cpp")}
    missing, names = [], 0
    for line in (here / "TRAPS.md").read_text().splitlines():
        module = None
        for name in re.findall(r"`([^`]+)`", line.rpartition(" | ")[2]):
            if "..." in name:  # what its neighbours begin or end with
                continue
            names += 1
            if "::" in name:
                module, name = name.split("::")
            if ": " in name:
                found = f'TEST_CASE("{name}")' in core
            else:
                found = name in modules or name in files or f"def test_{name}(" in modules.get(module, "")
            if line.startswith("|") and not found:
                missing.append((module, name))
    assert missing == [] and names > 100


# -- a descriptor's number has a new owner --


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_number_of_a_transport_closed_in_the_same_tick(loop, connect, pair, stack, how):
    """What was written, but not submitted, must not go to the number's next owner."""
    ours, theirs = pair
    mine, peer = (stack.enter_context(sock) for sock in socket.socketpair())
    for sock in (mine, peer):
        sock.setblocking(False)
    transport, protocol = await connect(ours)
    await turns(3)
    fd = ours.fileno()
    data = some_bytes(3_000_000)
    transport.write(data)
    getattr(transport, how)()
    if how == "close":
        assert await read_all(loop, theirs) == data
    await protocol.lost
    await until(lambda: ours.fileno() == -1)
    os.dup2(mine.fileno(), fd)
    owner = stack.enter_context(socket.socket(fileno=fd))
    await turns(5)
    peer.send(b"for the new owner")
    assert await loop.sock_recv(owner, 100) == b"for the new owner"
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    if how == "abort":
        assert data.startswith(await read_all(loop, theirs))


async def test_transports_on_the_same_number_one_after_the_other(loop, connect):
    for number in range(50):
        ours, theirs = socket.socketpair()
        with theirs:
            for sock in (ours, theirs):
                sock.setblocking(False)
            transport, protocol = await connect(ours)
            transport.write(b"to %d" % number)
            if number % 2:
                theirs.send(b"from %d" % number)
                await protocol.received(len(b"from %d" % number))
            transport.close()
            assert await protocol.lost is None
            assert await read_all(loop, theirs) == b"to %d" % number
            assert protocol.data == (b"from %d" % number if number % 2 else b"")


@pytest.mark.uringloop_only
async def test_number_reused_while_another_socket_is_asked_for_its_own(loop, stack):
    """Asked before a submission, a socket's fileno() ends the next operation of the queue: the rest is asked as well."""

    class Asked:
        def fileno(self):
            if ending:
                ending.pop().cancel()
            return first.fileno()

    def a_pair():
        pair = socket.socketpair()
        for sock in pair:
            stack.enter_context(sock).setblocking(False)
        return pair

    ending = []
    (first, _), (second, _), (third, theirs), (mine, peer) = (a_pair() for _ in range(4))
    sends = [loop._proactor.send(sock, b"for %d" % number) for number, sock in enumerate((Asked(), second, third))]
    fd = third.fileno()
    third.close()
    os.dup2(mine.fileno(), fd)
    owner = stack.enter_context(socket.socket(fileno=fd))
    ending.append(sends[1])
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert outcomes[0] == 5 and isinstance(outcomes[1], asyncio.CancelledError)
    assert isinstance(outcomes[2], OSError) and outcomes[2].errno == errno.EBADF
    for sock in (peer, owner):
        with pytest.raises(BlockingIOError):
            sock.recv(1)


@pytest.mark.uringloop_only
async def test_number_reused_beside_a_receive_of_the_proactor(loop, pair, stack):
    """Nobody watches its socket: it ends when the next owner of the number comes to the proactor."""
    a, b = pair
    mine, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
    forgotten = loop._proactor.recv(a, 10)
    await turns(3)
    fd = a.fileno()
    a.close()
    os.dup2(mine.fileno(), fd)
    owner = stack.enter_context(socket.socket(fileno=fd))
    future = loop._proactor.recv(owner, 10)
    with pytest.raises(OSError) as caught:
        await forgotten
    assert caught.value.errno == errno.EBADF
    assert await loop.sock_recv(b, 1) == b""
    theirs.send(b"x")
    assert await future == b"x"


# -- more at once than the queues hold --


@pytest.mark.uringloop_only
async def test_more_operations_than_the_queues_hold(loop, pair):
    """5,000 receives that look at the same byte: the submission queue is full ten times, the completion
    queue overflows twice, and no one is forgotten."""
    a, b = pair
    futures = [loop._proactor.recv(a, 10, socket.MSG_PEEK) for _ in range(5000)]
    await turns(3)
    b.send(b"x")
    assert await asyncio.gather(*futures) == [b"x"] * 5000
    assert a.recv(10) == b"x"


@pytest.mark.uringloop_only
async def test_more_cancels_than_the_queues_hold(loop, pair):
    a, b = pair
    futures = [loop._proactor.recv(a, 10) for _ in range(5000)]
    await turns(3)
    for future in futures:
        future.cancel()
    assert all(future.cancelled() for future in futures)
    await until(lambda: not any(obj is a for _, _, obj, _ in loop._proactor._cache.values()))
    b.send(b"x")
    await turns(3)
    assert a.recv(10) == b"x"


@pytest.mark.uringloop_only
async def test_receives_on_one_socket_share_its_bytes(loop, pair):
    """Readiness for one wakes all; those that come too late go on waiting."""
    a, b = pair
    futures = [loop._proactor.recv(a, 1) for _ in range(10)]
    await turns(3)
    b.send(b"01234")
    await until(lambda: sum(future.done() for future in futures) == 5)
    await turns(3)
    assert sum(future.done() for future in futures) == 5
    b.send(b"56789")
    assert sorted(await asyncio.gather(*futures)) == [b"%d" % number for number in range(10)]


async def test_busy_connection_does_not_starve_another(loop, connect):
    """However much one peer has sent, the other's byte comes after 256 KiB of it at the latest."""
    order = []

    class Protocol(Recorder):
        def data_received(self, data):
            order.append((self, len(data)))

    busy, busy_peer = tcp_pair()
    quiet, quiet_peer = tcp_pair()
    with busy_peer, quiet_peer:
        for sock in (busy, quiet, busy_peer):
            sock.setblocking(False)
        transports = [await connect(sock, Protocol) for sock in (busy, quiet)]
        for transport, _ in transports:
            transport.pause_reading()
        await turns(2)
        sent = fill(busy_peer)
        quiet_peer.send(b"x")
        for transport, _ in transports:
            transport.resume_reading()
        await until(lambda: sum(size for _, size in order) == sent + 1)
        before = 0
        for protocol, size in order:
            if protocol is transports[1][1]:
                break
            before += size
        assert before <= 256 * 1024 < sent
        for transport, protocol in transports:
            transport.close()
            await protocol.lost


# -- an exception in the middle of a batch --


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_while_a_connection_is_accepted(loop, stack, interrupt):
    """A signal's handler may raise in the Python code of socket.accept(): the server lives on."""

    class Listener(socket.socket):
        raises = True

        def accept(self):
            if self.raises:
                self.raises = False
                raise interrupt
            return super().accept()

    async def start():
        return await loop.create_server(Echo, sock=listener)

    async def echo():
        await loop.sock_sendall(client, b"hello")
        return await read_exactly(loop, client, 5)

    listener = stack.enter_context(Listener())
    listener.bind(("127.0.0.1", 0))
    server = loop.run_until_complete(start())
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    client.setblocking(False)
    with pytest.raises(interrupt):
        loop.run_forever()
    assert loop.run_until_complete(asyncio.wait_for(echo(), 10)) == b"hello"
    server.close()


def test_interrupt_between_many_completions(loop, stack):
    """Again and again, with more of them than are read in a turn: every byte still comes to its task."""

    pairs = [socket.socketpair() for _ in range(300)]
    for sock in [sock for pair in pairs for sock in pair]:
        stack.enter_context(sock).setblocking(False)
    tasks = [loop.create_task(loop.sock_recv(a, 10)) for a, _ in pairs]
    loop.run_until_complete(turns(3))
    for number, (_, b) in enumerate(pairs):
        b.send(b"%d" % number)

    def interrupt():
        raise KeyboardInterrupt

    for _ in range(5):
        loop.call_soon(interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    for number, task in enumerate(tasks):
        assert loop.run_until_complete(asyncio.wait_for(task, 10)) == b"%d" % number


# -- what others expect of the classes --


async def test_transports_are_what_they_claim(loop, connect, pair):
    transport, protocol = await connect(pair[0])
    assert isinstance(transport, asyncio.Transport)
    assert weakref.ref(transport)() is transport
    datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    assert isinstance(datagrams, asyncio.DatagramTransport)
    assert weakref.ref(datagrams)() is datagrams
    assert transport._read_ready_cb is not None
    transport.close()
    datagrams.close()
    await protocol.lost
    assert transport._read_ready_cb is None
    assert "closed" in repr(transport)
    await turns(3)


async def test_forgotten_transport_warns_and_closes(loop, pair):
    """Paused, so that no operation refers to it."""
    ours, theirs = pair
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    transport.pause_reading()
    await turns(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, _
        gc.collect()
    assert any("unclosed transport" in str(each.message) for each in caught)
    assert ours.fileno() == -1
    assert await loop.sock_recv(theirs, 1) == b""


async def test_attributes_can_be_replaced_on_the_instance(loop):
    """Debuggers, tests and other libraries do it."""
    for name in ("call_soon", "getaddrinfo", "sock_connect", "_sendfile_native", "_run_once", "_add_reader"):
        setattr(loop, name, getattr(loop, name))
        assert name in vars(loop)
        delattr(loop, name)


@pytest.mark.uringloop_only
def test_run_once_is_looked_up_on_the_instance(loop):
    calls = []
    original = loop._run_once
    loop._run_once = lambda: (calls.append(1), original())
    loop.run_until_complete(turns(3))
    del loop._run_once
    assert len(calls) >= 3


@pytest.mark.uringloop_only
async def test_tasks_are_the_standard_ones(loop):
    task = loop.create_task(turns(1))
    assert type(task) is asyncio.Task
    await task
    assert type(loop.create_future()) is asyncio.Future


async def test_sock_methods_refuse_a_tls_socket(loop, stack):
    a, b = tcp_pair()
    stack.enter_context(b)
    wrapped = stack.enter_context(ssl.create_default_context().wrap_socket(
        a, server_hostname="localhost", do_handshake_on_connect=False))
    wrapped.setblocking(False)
    for call in (loop.sock_recv(wrapped, 1), loop.sock_sendall(wrapped, b"x"), loop.sock_accept(wrapped)):
        with pytest.raises(TypeError):
            await call


@pytest.mark.uringloop_only
async def test_proactor_takes_a_transport_socket(loop, connect, pair):
    """It is no socket.socket: the descriptor decides what it is."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    transport.pause_reading()
    sock = transport.get_extra_info("socket")
    theirs.send(b"hello")
    assert await loop._proactor.recv(sock, 100) == b"hello"
    assert await loop._proactor.send(sock, b"back") == 4
    assert theirs.recv(100) == b"back"
    transport.close()
    await protocol.lost


@pytest.mark.uringloop_only
async def test_proactor_recvfrom_into_takes_nbytes_third(loop, stack):
    a, b = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (a, b):
        sock.bind(("127.0.0.1", 0))
    buffer = bytearray(8)
    future = loop._proactor.recvfrom_into(a, buffer, 3)
    b.sendto(b"hello", a.getsockname())
    assert await future == (3, b.getsockname())
    assert buffer == b"hel\0\0\0\0\0"
    future = loop._proactor.recvfrom_into(a, buffer, 0, socket.MSG_PEEK)
    b.sendto(b"again", a.getsockname())
    assert (await future)[0] == 5
    assert a.recv(100) == b"again"
    with pytest.raises(ValueError):
        loop._proactor.recvfrom_into(a, buffer, 9)


@pytest.mark.uringloop_only
async def test_proactor_refuses_no_address_at_once(loop, stack):
    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    sock.setblocking(False)
    with pytest.raises(TypeError):
        loop._proactor.connect(sock, None)
    with pytest.raises(TypeError):
        loop._proactor.sendto(sock, b"abc", addr=None)


@pytest.mark.uringloop_only
async def test_wait_for_handle(loop, stack):
    """A pollable descriptor: ready, too late, cancelled, and never after the loop's end."""
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    stack.callback(os.close, fd)
    waiting = loop._proactor.wait_for_handle(fd)
    timed = loop._proactor.wait_for_handle(fd, 0.001)
    cancelled = loop._proactor.wait_for_handle(fd)
    await turns(3)
    cancelled.cancel()
    assert await timed is False
    assert not waiting.done()
    os.eventfd_write(fd, 1)
    assert await waiting is True
    assert await loop._proactor.wait_for_handle(fd, 1000) is True
    assert cancelled.cancelled()


@pytest.mark.parametrize("full", [False, True])
async def test_sock_sendall_on_a_transport_s_socket(loop, connect, pair, full):
    """What fits may go out beside the transport; to wait for room is refused."""
    ours, theirs = pair
    transport, protocol = await connect(ours)
    if full:
        fill(ours)
        with pytest.raises(RuntimeError, match="File descriptor .* is used by transport"):
            await loop.sock_sendall(ours, bytes(10_000_000))
    else:
        await loop.sock_sendall(ours, b"fits")
        assert theirs.recv(10) == b"fits"
    drain(theirs)
    transport.close()
    await protocol.lost


@pytest.mark.uringloop_only
async def test_proactor_repr_says_what_is_in_flight(loop, pair):
    a, b = pair
    before = repr(loop._proactor)
    future = loop._proactor.recv(a, 10)
    assert "queued" in repr(loop._proactor)
    await turns(2)
    text = repr(loop._proactor)
    assert f"fd={a.fileno()}" in text and "in flight for" in text and text != before
    b.send(b"x")
    await future
    assert f"fd={a.fileno()} " not in repr(loop._proactor)


def test_close_while_another_thread_wakes(loop_factory):
    """call_soon_threadsafe beside close: an error at most, never a crash or a foreign descriptor."""
    for _ in range(30):
        loop = loop_factory()
        loop.run_until_complete(turns(1))
        go = threading.Event()

        def call():
            go.set()
            try:
                while True:
                    loop.call_soon_threadsafe(int)
            except RuntimeError as exc:
                assert "closed" in str(exc)

        thread = threading.Thread(target=call)
        thread.start()
        go.wait()
        loop.close()
        thread.join()


@pytest.mark.uringloop_only
async def test_names_of_windows_are_not_taken(loop):
    """Libraries look for asyncio.ProactorEventLoop and refuse its instances."""
    assert not hasattr(asyncio, "ProactorEventLoop")
    assert not any(cls.__name__ == "ProactorEventLoop" for cls in type(loop).__mro__)
    assert "ProactorEventLoop" not in dir(uringloop)
