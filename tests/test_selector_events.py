"""Readers and writers: as many callbacks, and the same answers, as on the selector loop."""

import asyncio
import os
import socket
from asyncio.selector_events import BaseSelectorEventLoop

import pytest

import uringloop
from support import some_bytes, turns, until


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


async def test_regular_files_and_closed_descriptors_are_refused(loop, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, print)
    with pytest.raises(ValueError):
        loop.add_reader(file, print)
    with pytest.raises(OSError):
        loop.add_reader(1_000_000, print)
    assert loop.remove_reader(1_000_000) is False


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
