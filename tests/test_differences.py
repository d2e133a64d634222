"""docs/differences.md: where a program can tell our loop from the selector loop.

Each test is on both, so that a number whose difference is gone (there, in a later Python, or here) fails.
"""

import asyncio
import contextlib
import contextvars
import errno
import inspect
import re
import socket
from asyncio import selector_events
from pathlib import Path

import pytest

from support import Buffered, Recorder, closed, turns, until

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "differences.md"


@pytest.fixture
def ours(loop):
    return hasattr(loop, "_proactor")


def clients(stack, server, count):
    address = server.sockets[0].getsockname()
    return [stack.enter_context(socket.create_connection(address)) for _ in range(count)]


def test_each_number_has_a_test():
    numbers = re.findall(r"^\| (B\d+) \|", DOCUMENT.read_text(), re.MULTILINE)
    tests = {name.split("_")[1].upper() for name in globals() if re.match(r"test_b\d", name)}
    # A number whose difference has ceased is not given again.
    assert numbers == sorted(set(numbers), key=lambda number: int(number[1:]))
    assert tests == set(numbers)


async def test_b1_small_writes_leave_at_the_end_of_the_tick(connect, pair, ours):
    a, b = pair
    transport, protocol = await connect(a)
    transport.write(b"small")
    if ours:
        with pytest.raises(BlockingIOError):
            b.recv(10)
        await turns(2)
    assert b.recv(10) == b"small"
    transport.write(bytes(16384))
    assert len(b.recv(1 << 20)) == 16384
    await closed((transport, protocol))


async def test_b2_socket_that_is_closed_beside_a_pending_call(loop, pair, ours):
    a, _ = pair
    task = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    if not ours:
        # The test's own end wants it out of the selector.
        task.add_done_callback(lambda _, fd=a.fileno(): loop.remove_reader(fd))
    a.close()
    await turns(10)
    assert task.done() == ours
    if ours:
        with pytest.raises(OSError) as caught:
            await task
        assert caught.value.errno == errno.EBADF
    else:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_b3_remove_reader_beside_a_waiting_call(loop, pair, ours):
    a, b = pair
    task = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    assert loop.remove_reader(a) == (not ours)
    b.send(b"data")
    await turns(10)
    assert task.done() == ours
    if ours:
        assert await task == b"data"
    task.cancel()


variable = contextvars.ContextVar("variable", default=None)


class Remembering(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.calls.append(variable.get())
        variable.set(data)


async def test_b4_context_variable_that_data_received_sets(connect, pair, ours):
    a, b = pair
    transport, protocol = await connect(a, Remembering)
    b.send(b"1")
    await protocol.received(1)
    b.send(b"2")
    await protocol.received(2)
    context_of_its_own = "context" in inspect.signature(
        selector_events.BaseSelectorEventLoop._make_socket_transport).parameters
    assert protocol.calls == ["connection_made", "data_received", None, "data_received",
                              b"1" if context_of_its_own or not ours else None]
    await closed((transport, protocol))


async def test_b5_protocol_factory_and_the_current_task(loop, stack, ours):
    tasks, protocols = [], []

    def factory():
        tasks.append(asyncio.current_task())
        protocols.append(Recorder())
        return protocols[-1]

    async with await loop.create_server(factory, "127.0.0.1", 0) as server:
        clients(stack, server, 1)
        await until(lambda: protocols and protocols[0].transport)
        await closed((protocols[0].transport, protocols[0]))
    assert [task is None for task in tasks] == [ours]


async def test_b6_clients_that_wait_when_the_first_closes_the_server(loop, stack, ours):
    protocols = []

    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            protocols.append(self)
            server.close()

    server = await loop.create_server(Closing, "127.0.0.1", 0)
    *_, last = clients(stack, server, 3)
    await until(lambda: len(protocols) == (1 if ours else 3))
    await turns(10)
    assert len(protocols) == (1 if ours else 3)
    await closed(*((protocol.transport, protocol) for protocol in protocols))
    await server.wait_closed()
    if ours:
        with pytest.raises(ConnectionResetError):
            last.recv(1)
    else:
        assert last.recv(1) == b""


async def test_b8_write_behind_write_eof(connect, pair, ours):
    transport, protocol = await connect(pair[0])
    transport.write_eof()
    message = "write_eof() already called" if ours else "Cannot call write() after write_eof()"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        transport.write(b"data")
    await closed((transport, protocol))


def test_b9_keyboard_interrupt_out_of_eof_received(loop, pair, ours):
    class Interrupted(Recorder):
        def eof_received(self):
            super().eof_received()
            if self.calls.count("eof_received") == 1:
                raise KeyboardInterrupt

    async def start():
        return await loop.create_connection(Interrupted, sock=a)

    a, b = pair
    transport, protocol = loop.run_until_complete(start())
    b.shutdown(socket.SHUT_WR)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_until_complete(turns(10))
    assert protocol.calls.count("eof_received") == (1 if ours else 2)
    transport.close()
    loop.run_until_complete(turns(3))


def test_b10_write_on_a_closed_loop(loop, pair, ours):
    async def start():
        return await loop.create_connection(Recorder, sock=a)

    a, b = pair
    transport, _ = loop.run_until_complete(start())
    loop.close()
    if ours:
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            transport.write(b"data")
        with pytest.raises(BlockingIOError):
            b.recv(10)
    else:
        transport.write(b"data")
        assert b.recv(10) == b"data"
    # It can't be closed any more, on either loop.
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        transport.close()
    transport._sock = None


def test_b10_datagram_on_a_closed_loop(loop, stack, ours):
    async def start():
        return await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))

    receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    transport, _ = loop.run_until_complete(start())
    loop.close()
    if ours:
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            transport.sendto(b"data", receiver.getsockname())
    else:
        transport.sendto(b"data", receiver.getsockname())
        assert receiver.recv(10) == b"data"
    transport._sock.close()
    transport._sock = None


async def test_b11_what_waits_for_the_end_of_the_tick_counts(connect, pair, ours):
    a, b = pair
    transport, protocol = await connect(a)
    transport.set_write_buffer_limits(0)
    transport.write(b"small")
    assert transport.get_write_buffer_size() == (5 if ours else 0)
    await turns(3)
    assert transport.get_write_buffer_size() == 0
    assert protocol.calls[1:] == (["pause_writing", "resume_writing"] if ours else [])
    transport.write(bytes(16384))
    assert transport.get_write_buffer_size() == 0
    await closed((transport, protocol))


async def test_b12_resumed_reading_begins_a_turn_later(connect, pair, ours):
    a, b = pair
    transport, protocol = await connect(a)
    transport.pause_reading()
    b.send(b"data")
    await turns(3)
    transport.resume_reading()
    # This task is called before what the selector has found in its turn.
    await turns(2)
    assert protocol.data == (b"" if ours else b"data")
    await turns(1)
    assert protocol.data == b"data"
    await closed((transport, protocol))


async def test_b13_failed_handshake_of_a_server_in_debug_mode(loop, tls, stack, errors, ours):
    loop.set_debug(True)
    async with await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=tls[0]) as server:
        [client] = clients(stack, server, 1)
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        client.setblocking(False)
        await loop.sock_recv(client, 1)
        await turns(3)
    assert [error["message"] for error in errors] == (
        [] if ours else ["Error on transport creation for incoming connection"])
    errors.clear()


async def test_b14_what_a_buffered_protocol_has_no_room_for(connect, pair, ours):
    a, b = pair

    class Header(Buffered):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    transport, protocol = await connect(a, lambda: Header(4))
    b.send(b"headbody")
    await until(lambda: protocol.updates)
    if ours:
        with pytest.raises(BlockingIOError):
            a.recv(10, socket.MSG_PEEK)
    else:
        assert a.recv(10, socket.MSG_PEEK) == b"body"
    transport.resume_reading()
    await until(lambda: protocol.data == b"headbody")
    assert protocol.updates == [4, 4]
    await closed((transport, protocol))
