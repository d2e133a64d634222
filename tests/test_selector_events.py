"""Readers and writers: as many callbacks, and the same answers, as on the selector loop."""

import asyncio
import contextlib
import ctypes
import errno
import itertools
import os
import select
import socket
import struct
import subprocess
import tty
from asyncio.selector_events import BaseSelectorEventLoop

import pytest

import uringloop
from support import Recorder, fill, some_bytes, turns, until


@pytest.fixture
def calls():
    return []


async def test_reader_is_called_once_a_turn_while_ready(loop, pair, calls):
    ours, theirs = pair
    theirs.send(b"abc")
    loop.add_reader(ours, lambda: calls.append(ours.recv(1)))
    await until(lambda: len(calls) == 3)
    await turns(5)
    assert calls == [b"a", b"b", b"c"]
    theirs.send(b"d")
    await until(lambda: len(calls) == 4)
    assert loop.remove_reader(ours) is True
    theirs.send(b"e")
    await turns(5)
    assert calls == [b"a", b"b", b"c", b"d"]
    assert loop.remove_reader(ours) is False


async def test_level_triggered(loop, pair, calls):
    """What is not read is told again, turn after turn."""
    ours, theirs = pair
    theirs.send(b"abc")
    loop.add_reader(ours.fileno(), calls.append, 1)
    await until(lambda: len(calls) >= 20)
    loop.remove_reader(ours.fileno())
    count = len(calls)
    await turns(5)
    assert len(calls) == count


async def test_reader_and_writer_of_one_descriptor(loop, pair, calls):
    ours, theirs = pair
    loop.add_reader(ours, lambda: calls.append(ours.recv(100)))
    loop.add_writer(ours, calls.append, "writable")
    await until(lambda: calls)
    assert loop.remove_writer(ours) is True
    await turns(3)
    calls.clear()
    theirs.send(b"x")
    await until(lambda: calls)
    assert calls == [b"x"]
    assert loop.remove_writer(ours) is False
    assert loop.remove_reader(ours) is True


async def test_added_again_the_new_callback_counts(loop, pair, calls):
    ours, theirs = pair
    loop.add_reader(ours, calls.append, "old")
    loop.add_reader(ours, lambda: calls.append(ours.recv(100)))
    theirs.send(b"x")
    await until(lambda: calls)
    await turns(3)
    assert calls == [b"x"]
    loop.remove_reader(ours)


async def test_callback_that_removes_itself(loop, pair, calls):
    ours, theirs = pair

    def once():
        calls.append(loop.remove_reader(ours))

    loop.add_reader(ours, once)
    theirs.send(b"x")
    await turns(6)
    assert calls == [True]


# -- as many callbacks, and which --


@pytest.mark.parametrize("events", ["r", "w", "rw"])
async def test_callbacks_are_as_many_as_turns(loop, pair, calls, events):
    """One in each turn from the next one on, the same number on both loops."""
    ours, theirs = pair
    theirs.send(b"x")
    if "r" in events:
        loop.add_reader(ours, calls.append, "r")
    if "w" in events:
        loop.add_writer(ours, calls.append, "w")
    await turns(10)
    for event in events:
        assert calls.count(event) == 9
    for turn in range(9):
        assert sorted(calls[turn * len(events):(turn + 1) * len(events)]) == sorted(events)
    assert loop.remove_reader(ours) is ("r" in events)
    assert loop.remove_writer(ours) is ("w" in events)
    await turns(3)
    assert len(calls) == 9 * len(events)


async def test_replaced_between_two_calls(loop, pair, calls):
    ours, theirs = pair
    theirs.send(b"x")
    loop.add_reader(ours, calls.append, "old")
    await turns(5)
    loop.add_reader(ours.fileno(), calls.append, "new")
    await turns(5)
    assert calls == ["old"] * 4 + ["new"] * 4
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False


@pytest.mark.parametrize("how", ["remove", "replace"])
async def test_another_s_callback_is_undone_in_the_same_turn(loop, pair, calls, stack, how):
    """Both are ready: who comes second is not called any more."""
    ours, theirs = pair
    other, peer = (stack.enter_context(sock) for sock in socket.socketpair())
    theirs.send(b"x")
    peer.send(b"x")

    def first():
        loop.remove_reader(ours)
        if how == "remove":
            calls.append(loop.remove_reader(other))
        else:
            loop.add_reader(other, calls.append, "new")

    loop.add_reader(ours, first)
    loop.add_reader(other, calls.append, "old")
    await turns(5)
    assert calls == ([True] if how == "remove" else ["new"] * 3)
    assert loop.remove_reader(other) is (how == "replace")


async def test_handle_that_is_cancelled(loop, pair, calls):
    """As the child watchers and others do with what _add_reader() gives them."""
    ours, theirs = pair
    theirs.send(b"x")
    loop._add_reader(ours, calls.append, 1).cancel()
    await turns(5)
    assert calls == []
    assert loop.remove_reader(ours) is False


async def test_results(loop, pair):
    """Each of the two is counted for itself, by number or by object."""
    ours, _ = pair
    number = ours.fileno()
    assert loop.remove_reader(ours) is False and loop.remove_writer(number) is False
    assert loop.add_reader(ours, print) is None and loop.add_writer(number, print) is None
    assert loop.remove_reader(number) is True
    assert loop.remove_reader(ours) is False
    assert loop.remove_writer(ours) is True
    assert loop.remove_writer(number) is False
    assert loop.add_writer(ours, print) is None
    assert loop.remove_reader(number) is False
    assert loop.remove_writer(number) is True


async def test_object_with_a_descriptor(loop, pair, calls):
    """Whatever has a fileno(); it need not be hashable."""

    class Object:
        __hash__ = None

        def fileno(self):
            return pair[0].fileno()

    pair[1].send(b"abc")
    loop.add_reader(Object(), lambda: calls.append(pair[0].recv(1)))
    await until(lambda: len(calls) == 3)
    assert loop.remove_writer(Object()) is False
    assert loop.remove_reader(Object()) is True


# -- kinds of descriptors --


async def ready_again(loop, calls, fd, take, make_ready):
    """What `take` reads when fd is ready, twice; in between it is not."""
    loop.add_reader(fd, lambda: calls.append(take()))
    for _ in range(2):
        await turns(3)
        assert calls == []
        make_ready()
        await until(lambda: calls)
        taken, = calls
        calls.clear()
    assert loop.remove_reader(fd) is True
    os.close(fd)
    return taken


@pytest.mark.parametrize("kind", ["eventfd", "pipe", "inotify", "epoll", "timerfd", "terminal"])
async def test_kinds(loop, calls, tmp_path, kind, stack):
    if kind == "eventfd":
        fd = os.eventfd(0)
        taken = await ready_again(loop, calls, fd, lambda: os.eventfd_read(fd), lambda: os.eventfd_write(fd, 7))
        assert taken == 7
    elif kind == "pipe":
        fd, end = os.pipe()
        taken = await ready_again(loop, calls, fd, lambda: os.read(fd, 10), lambda: os.write(end, b"x"))
        os.close(end)
        assert taken == b"x"
    elif kind == "inotify":
        libc = ctypes.CDLL(None)
        fd = libc.inotify_init1(os.O_NONBLOCK)
        libc.inotify_add_watch(fd, os.fsencode(tmp_path), 0x100)  # IN_CREATE
        numbers = itertools.count()
        taken = await ready_again(
            loop, calls, fd, lambda: os.read(fd, 4096), lambda: (tmp_path / f"new{next(numbers)}").touch())
        assert b"new1" in taken
    elif kind == "epoll":
        a, b = (stack.enter_context(sock) for sock in socket.socketpair())
        epoll = stack.enter_context(select.epoll())
        epoll.register(a, select.EPOLLIN)

        def take():
            events = epoll.poll(0)
            a.recv(10)
            return events

        number = a.fileno()
        taken = await ready_again(loop, calls, os.dup(epoll.fileno()), take, lambda: b.send(b"x"))
        assert taken == [(number, select.EPOLLIN)]
    elif kind == "timerfd":
        libc = ctypes.CDLL(None)
        fd = libc.timerfd_create(1, os.O_NONBLOCK)  # CLOCK_MONOTONIC
        one_shot = struct.pack("4l", 0, 0, 0, 1_000_000)
        taken = await ready_again(
            loop, calls, fd, lambda: os.read(fd, 8), lambda: libc.timerfd_settime(fd, 0, one_shot, None))
        assert taken == struct.pack("Q", 1)
    else:
        master, fd = os.openpty()
        tty.setraw(fd)
        taken = await ready_again(loop, calls, fd, lambda: os.read(fd, 10), lambda: os.write(master, b"x"))
        os.close(master)
        assert taken == b"x"


async def test_pidfd(loop, calls):
    """Ready from the process's end on, for ever."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    fd = os.pidfd_open(process.pid)
    loop.add_reader(fd, calls.append, 1)
    await turns(5)
    assert calls == []
    process.stdin.close()
    await until(lambda: len(calls) >= 3)
    assert loop.remove_reader(fd) is True
    os.close(fd)
    assert process.wait() == 0


async def test_full_pipe_becomes_writable(loop, calls):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fill(writing)
    loop.add_writer(writing, calls.append, 1)
    await turns(5)
    assert calls == []
    os.read(reading, 65536)
    await until(lambda: calls)
    assert loop.remove_writer(writing) is True
    os.close(reading)
    os.close(writing)


async def test_writer_is_told_of_a_reader_that_leaves(loop, calls):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fill(writing)
    loop.add_writer(writing, calls.append, 1)
    os.close(reading)
    await until(lambda: calls)
    assert loop.remove_writer(writing) is True
    os.close(writing)


async def test_pipe_hang_up(loop, calls):
    read_end, write_end = os.pipe()
    loop.add_reader(read_end, lambda: calls.append(os.read(read_end, 10)))
    os.close(write_end)
    await until(lambda: calls)
    loop.remove_reader(read_end)
    os.close(read_end)
    assert calls[0] == b""


async def test_closed_object_can_be_removed(loop, pair):
    ours, _ = pair
    loop.add_reader(ours, print)
    ours.close()
    assert loop.remove_writer(ours) is False
    assert loop.remove_reader(ours) is True
    with pytest.raises(ValueError):
        loop.remove_reader(ours)


@pytest.mark.parametrize("both", [False, True])
async def test_closed_number_can_be_removed(loop, calls, both):
    reading, writing = os.pipe()
    loop.add_reader(reading, calls.append, 1)
    await turns(3)
    os.close(reading)
    if both:
        assert loop.remove_writer(reading) is False
    assert loop.remove_reader(reading) is True
    assert loop.remove_reader(reading) is False
    await turns(3)
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    os.close(writing)
    assert calls == []


@pytest.mark.uringloop_only  # the selector loop asks epoll, which says EBADF
async def test_closed_number_of_a_reader_and_a_writer_can_be_removed(loop, pair):
    fd = pair[0].detach()
    loop.add_reader(fd, print)
    loop.add_writer(fd, bool)
    await turns(3)
    os.close(fd)
    assert loop.remove_reader(fd) is True
    assert loop.remove_writer(fd) is True
    assert loop.remove_writer(fd) is False


@pytest.mark.parametrize("closed_after", [0, 3])
async def test_closed_without_being_removed(loop, pair, calls, closed_after, errors):
    """The peer sees it closed, and nothing is called or logged."""
    ours, theirs = pair
    loop.add_reader(ours, calls.append, 1)
    await turns(closed_after)
    ours.close()
    await turns(3)
    assert theirs.recv(1) == b""
    assert calls == []


async def test_closed_number_that_is_never_removed(loop, calls, errors):
    reading, writing = os.pipe()
    loop.add_reader(reading, calls.append, 1)
    os.close(reading)
    await turns(3)
    os.close(writing)
    await turns(3)
    assert calls == []


@pytest.mark.uringloop_only  # the selector loop counts on epoll to know the number: nothing is ever called
async def test_object_on_a_reused_number(loop, calls, stack):
    """An object that was closed without being removed: its number's next owner has its own callback."""
    a, b = socket.socketpair()
    loop.add_reader(a, calls.append, "old")
    await turns(3)
    a.close()
    c, d = (stack.enter_context(sock) for sock in socket.socketpair())
    stack.enter_context(b)
    d.send(b"x")
    await turns(5)
    assert calls == []
    loop.add_reader(c, lambda: calls.append(c.recv(10)))
    await until(lambda: calls)
    assert calls == [b"x"]
    assert loop.remove_reader(c) is True


@pytest.fixture
def heir(loop, calls, stack):
    """An object that was closed without being removed, and a pair of sockets, the first with its number."""
    a, b = socket.socketpair()
    fd = a.fileno()
    loop.add_reader(a, calls.append, "old")
    a.close()
    c, d = (stack.enter_context(sock) for sock in socket.socketpair())
    stack.enter_context(b)
    assert c.fileno() == fd
    return a, c, d


async def test_closed_object_gets_nothing_of_its_number_s_next_owner(loop, calls, heir):
    a, c, d = heir
    loop.add_reader(a, calls.append, "new")
    d.send(b"x")
    await turns(5)
    with pytest.raises(OSError):
        loop.add_writer(a, calls.append, "writable")
    await turns(5)
    assert calls == []


@pytest.mark.uringloop_only  # the selector loop knows the number still, and epoll does not
async def test_closed_object_takes_nothing_from_its_number_s_next_owner(loop, calls, heir):
    a, c, d = heir
    loop.add_reader(c, lambda: calls.append(c.recv(10)))
    with pytest.raises(ValueError):
        loop.remove_reader(a)
    d.send(b"x")
    await until(lambda: calls)
    assert calls == [b"x"]
    assert loop.remove_reader(c) is True


async def test_descriptor_number_that_was_reused(loop, calls):
    """Added again, the callback is for the number's new owner."""
    a, b = socket.socketpair()
    fd = a.fileno()
    loop.add_reader(fd, calls.append, "old")
    loop.remove_reader(fd)
    a.close()
    c, d = socket.socketpair()
    assert c.fileno() == fd
    loop.add_reader(fd, lambda: calls.append(c.recv(10)))
    b.close()
    await turns(5)
    assert calls == []
    d.send(b"x")
    await until(lambda: calls)
    loop.remove_reader(fd)
    c.close()
    d.close()
    assert calls == [b"x"]


async def test_descriptor_of_a_transport_is_refused(loop, connect, pair):
    ours, _ = pair
    fd = ours.fileno()
    transport, protocol = await connect(ours)
    for method, args in (("add_reader", (print,)), ("add_writer", (print,)),
                         ("remove_reader", ()), ("remove_writer", ())):
        with pytest.raises(RuntimeError, match="File descriptor .* is used by transport"):
            getattr(loop, method)(fd, *args)
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("kind", ["datagram", "tls", "accepted"])
async def test_descriptor_of_any_transport_is_refused(loop, connect, pair, tls, kind):
    """Until it closes: from then on it is anybody's."""
    if kind == "datagram":
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    elif kind == "accepted":
        transport, _ = await loop.connect_accepted_socket(Recorder, pair[0])
    else:
        accepting = asyncio.create_task(loop.connect_accepted_socket(Recorder, pair[1], ssl=tls[0]))
        transport, _ = await loop.create_connection(Recorder, sock=pair[0], ssl=tls[1], server_hostname="localhost")
        server, there = await accepting
    sock = transport.get_extra_info("socket")
    for fileobj in (sock, sock.fileno()):
        for method, args in (("add_reader", (print,)), ("add_writer", (print,)),
                             ("remove_reader", ()), ("remove_writer", ())):
            with pytest.raises(RuntimeError) as refused:
                getattr(loop, method)(fileobj, *args)
            assert str(refused.value).startswith(f"File descriptor {fileobj!r} is used by transport <")
    fd = sock.fileno()
    transport.abort()
    assert loop.remove_writer(fd) is False
    await turns(3)
    if kind == "tls":
        await there.lost


CANT_BE_POLLED = ["/dev/null", "/dev/zero", "/proc/self/status", "/", "file"]


@pytest.mark.parametrize("path", CANT_BE_POLLED)
@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
async def test_what_can_t_be_polled_is_refused(loop, tmp_path, path, method):
    """The ring would call it ready for ever; epoll refuses it."""
    if path == "file":
        path = tmp_path / "file"
        path.touch()
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(PermissionError):
        getattr(loop, method)(fd, print)
    assert loop.remove_reader(fd) is False and loop.remove_writer(fd) is False
    os.close(fd)


async def test_file_that_can_be_polled(loop, calls):
    """By its type it is a regular one."""
    fd = os.open("/proc/self/mounts", os.O_RDONLY)
    loop.add_reader(fd, calls.append, 1)
    await until(lambda: len(calls) >= 3)
    assert loop.remove_reader(fd) is True
    os.close(fd)


async def test_closed_descriptors_are_refused(loop, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        pass
    for fileobj in (file, "1", None, object(), 1.5):
        for method, args in (("add_reader", (print,)), ("add_writer", (print,)),
                             ("remove_reader", ()), ("remove_writer", ())):
            with pytest.raises(ValueError, match="Invalid file object"):
                getattr(loop, method)(fileobj, *args)
    for method in (loop.add_reader, loop.add_writer):
        with pytest.raises(OSError) as refused:
            method(1_000_000, print)
        assert refused.value.errno == errno.EBADF
    assert loop.remove_reader(1_000_000) is False and loop.remove_writer(1_000_000) is False


def test_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_reader(0, print)
    assert loop.remove_reader(0) is False


async def test_callback_that_raises_is_called_again(loop, errors, pair, calls):
    ours, theirs = pair

    def reader():
        calls.append(ours.recv(1))
        raise ZeroDivisionError

    theirs.send(b"ab")
    loop.add_reader(ours, reader)
    await until(lambda: len(calls) == 2)
    loop.remove_reader(ours)
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError] * 2
    errors.clear()


async def test_large_transfer_by_readers_and_writers(loop, pair):
    ours, theirs = pair
    data = some_bytes(3_000_000)
    rest = memoryview(data)
    received = bytearray()

    def write():
        nonlocal rest
        rest = rest[ours.send(rest):]
        if not rest:
            loop.remove_writer(ours)

    loop.add_writer(ours, write)
    loop.add_reader(theirs, lambda: received.extend(theirs.recv(50_000)))
    await until(lambda: len(received) == len(data))
    loop.remove_reader(theirs)
    assert received == data


def test_is_a_selector_loop_but_for_the_selector():
    """Of what asyncio's loops have in common, only readers and writers are the selector loop's own."""
    cls = uringloop.IouringProactorEventLoop
    assert issubclass(cls, BaseSelectorEventLoop)
    public = {name for name in vars(BaseSelectorEventLoop) if hasattr(asyncio.BaseEventLoop, name)}
    inherited = {name for name in public if getattr(cls, name) is vars(BaseSelectorEventLoop)[name]}
    assert inherited - {"__module__", "__doc__"} == {"add_reader", "remove_reader", "add_writer", "remove_writer"}


@pytest.mark.uringloop_only("an object that is closed without being removed is noticed")
async def test_idle_objects_are_looked_at_now_and_then(loop, pair):
    """Hundreds of readers do not cost each turn hundreds of looks; one that is closed is found all the same."""
    looks = 0

    class Reader:
        def __init__(self, sock):
            self.sock = sock

        def fileno(self):
            nonlocal looks
            looks += 1
            return self.sock.fileno()

    count, round_trips = 300, 300
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(count)]
        readers = [Reader(one) for one, _ in pairs]
        for reader in readers:
            loop.add_reader(reader, print)
        ours, theirs = pair
        looks = 0
        start = loop.time()
        for _ in range(round_trips):
            receiving = asyncio.ensure_future(loop.sock_recv(ours, 1))
            await turns(1)
            # From another thread, so that the loop sleeps.
            await loop.run_in_executor(None, theirs.send, b"x")
            await receiving
        # Ten milliseconds lie between two looks at all, of which a slow machine makes the more, and the
        # turns that do not look at all look at 64.
        full_looks = (loop.time() - start) / 0.01 + 2
        assert looks < count * full_looks + 64 * 5 * round_trips
        closed, peer = pairs[count // 2]
        peer.setblocking(False)
        closed.close()
        async with asyncio.timeout(30):
            assert await loop.sock_recv(peer, 1) == b""
        for reader in readers:
            loop.remove_reader(reader)


async def test_reader_that_was_forgotten_gives_way_to_a_transport(loop, connect, pair, calls):
    ours, theirs = pair
    loop.add_reader(ours, calls.append, 1)
    transport, protocol = await connect(ours)
    calls.clear()
    theirs.send(b"data")
    await until(lambda: protocol.data == b"data")
    await turns(3)
    assert not calls
    transport.close()
    assert await protocol.lost is None


@pytest.mark.uringloop_only  # there are no operations on the selector loop
async def test_added_and_removed_many_times_in_one_turn(loop, pair):
    """Nothing is left of those: the next would cost more than the one before."""
    before = repr(loop._proactor).split()[1]
    assert before.startswith("overlapped#=")
    for add, remove in (loop.add_reader, loop.remove_reader), (loop.add_writer, loop.remove_writer):
        for _ in range(3):
            add(pair[0], int)
            add(pair[0], int)
            remove(pair[0])
    assert repr(loop._proactor).split()[1] == before
