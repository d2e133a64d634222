"""docs/differences.md: where a program can tell our loop from the selector loop.

Each test is on both, so that a number whose difference is gone (there, in a later Python, or here) fails.
"""

import asyncio
import contextlib
import errno
import os
import re
import selectors
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from loop_factories import expression_of
from support import Buffered, Recorder, closed, tcp_pair, turns, until
from uringloop import _overlapped

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "differences.md"


class CountingBuffers(Buffered):
    calls = 0

    def get_buffer(self, sizehint):
        self.calls += 1
        return super().get_buffer(sizehint)


@pytest.fixture
def ours(loop):
    return hasattr(loop, "_proactor")


@pytest.fixture
def native(loop):
    return hasattr(loop, "_tier") and loop._tier.__name__ == "uringloop.proactor_events"


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


async def test_b1_small_write_that_is_alone_leaves_at_once(connect, pair, native):
    a, b = pair
    transport, protocol = await connect(a)
    transport.write(b"first")
    await turns(2)
    assert b.recv(10) == b"first"
    transport.write(b"lone")
    if native:
        assert b.recv(10) == b"lone"
    transport.write(b"next ")
    transport.write(b"two")
    await turns(2)
    b.recv(100)
    # The tick before had three.
    transport.write(b"gathered")
    if native:
        with pytest.raises(BlockingIOError):
            b.recv(100)
    await turns(2)
    assert b.recv(10) == b"gathered"
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


async def test_b4_protocol_factory_and_the_current_task(loop, stack, ours):
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


async def test_b5_failed_handshake_of_a_server_in_debug_mode(loop, tls, stack, errors, ours):
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


async def tls_pair(loop, pair, tls, client=Recorder, server=Recorder):
    """((transport, protocol) of the client, of the server)"""
    accepting = loop.create_task(loop.connect_accepted_socket(server, pair[1], ssl=tls[0]))
    there = await loop.create_connection(client, sock=pair[0], ssl=tls[1], server_hostname="localhost")
    return there, await accepting


async def test_b7_datagrams_of_one_turn(loop, stack, native):
    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(turn)

    received = []
    turn = 0
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for _ in range(20):
        peer.sendto(b"data", transport.get_extra_info("sockname"))
    while len(received) < 20:
        turn += 1
        await turns(1)
    most = max(map(received.count, received))
    assert most == (16 if native else 1)
    transport.close()
    await turns(2)


async def test_b8_next_owner_of_a_closed_socket_s_number(loop, connect, pair, stack, ours):
    old = await connect(pair[0])
    fd = pair[0].fileno()
    pair[0].close()
    heir, peer = pair_of_number(fd, stack)
    with contextlib.nullcontext() if ours else pytest.raises(RuntimeError, match="is used by transport"):
        new = await connect(heir)
    await closed(old)
    if ours:
        peer.send(b"data")
        await until(lambda: new[1].data == b"data")
        await closed(new)


def pair_of_number(fd, stack):
    """Return a connected socket whose descriptor is fd, and its peer."""
    ends = [stack.enter_context(end) for end in socket.socketpair()]
    if ends[1].fileno() == fd:
        ends.reverse()
    if ends[0].fileno() != fd:
        os.dup2(ends[0].fileno(), fd)
        ends[0] = stack.enter_context(socket.socket(fileno=fd))
    ends[0].setblocking(False)
    return ends


async def test_b9_buffer_that_is_a_bytearray_over_tls(loop, pair, tls, native):
    class Bare(Buffered):
        def __init__(self):
            super().__init__()
            self.buffer = bytearray(1000)

    (client, sent), (server, received) = await tls_pair(loop, pair, tls, server=Bare)
    server.pause_reading()
    client.write(b"one")
    client.write(b"two")
    # Two records, which are there together.
    await until(lambda: server.get_read_buffer_size() == 2 * (5 + 3 + 17))
    server.resume_reading()
    await until(lambda: received.data)
    assert received.data == (b"onetwo" if native else b"one\0\0\0")
    await closed((client, sent), (server, received))


async def test_b10_get_buffer_where_there_is_no_data(loop, pair, tls, native):
    (client, sent), (server, received) = await tls_pair(loop, pair, tls, server=CountingBuffers)
    await turns(5)
    assert received.calls == (0 if native else 1)
    await closed((client, sent), (server, received))


def test_b11_interrupt_within_sslobject(loop, pair, tls, native, monkeypatch):
    class Interrupt(KeyboardInterrupt):
        pass

    def interrupt(transport, method):
        """Let SSLObject's method do its work, and raise then, once: as a signal's handler."""
        def interrupted(self, *arguments):
            result = original(self, *arguments)
            if self is sslobject and not raised:
                raised.append(method)
                raise Interrupt
            return result

        sslobject, original, raised = transport.get_extra_info("ssl_object"), getattr(ssl.SSLObject, method), []
        monkeypatch.setattr(ssl.SSLObject, method, interrupted)
        return raised

    async def twice():
        interrupt(client, "write")
        with pytest.raises(Interrupt):
            client.write(b"once.")
        client.write(b"End")
        await received.received(8 if native else 13)

    async def hole():
        raised = interrupt(server, "read")
        client.write(b"lost")
        await until(lambda: raised)

    async def behind():
        client.write(b"behind")
        if native:
            assert isinstance(await received.lost, ConnectionAbortedError)
            await sent.lost
        else:
            await received.received(19)
            await closed((client, sent), (server, received))

    (client, sent), (server, received) = loop.run_until_complete(tls_pair(loop, pair, tls))
    loop.run_until_complete(twice())
    task = loop.create_task(hole())
    with pytest.raises(Interrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
    loop.run_until_complete(behind())
    assert received.data == (b"once.End" if native else b"once.once.Endbehind")


async def test_b12_stream_that_was_read_empty(loop, pair, ours):
    a, b = pair
    b.send(b"12345")
    assert await loop.sock_recv(a, 3) == b"123"
    # More than it got: there may be more.
    assert await loop.sock_recv(a, 2) == b"45"
    first = loop.create_task(loop.sock_recv(a, 10))
    await turns(2)
    b.send(b"first")
    assert await first == b"first"
    order = []
    b.send(b"second")
    loop.call_soon(order.append, "callback")
    assert await loop.sock_recv(a, 10) == b"second"
    order.append("received")
    await turns(1)
    assert order == (["callback", "received"] if ours else ["received", "callback"])


async def test_b13_bytes_behind_an_urgent_one(loop, connect, stack, native):
    ours, theirs = (stack.enter_context(sock) for sock in tcp_pair())
    ours.setblocking(False)
    transport, protocol = await connect(ours)
    # Until the kernel keeps the poll.
    for count in range(1, 6):
        theirs.send(b"_")
        await until(lambda: len(protocol.data) == count)
    theirs.send(b"one")
    theirs.send(b"!", socket.MSG_OOB)
    theirs.send(b"two")
    await turns(20)
    assert protocol.data == (b"_____one" if native else b"_____onetwo")
    await until(lambda: protocol.data == b"_____onetwo")
    transport.close()
    await protocol.lost


async def test_b14_several_calls_on_one_socket(loop, pair, ours):
    a, b = pair
    calls = [loop.create_task(loop.sock_recv(a, 1)) for _ in range(3)]
    await turns(2)
    b.send(b"123")
    await turns(20)
    assert [call.done() for call in calls] == ([True, True, True] if ours else [False, False, True])
    if ours:
        assert [call.result() for call in calls] == [b"1", b"2", b"3"]
    for call in calls:
        call.cancel()


async def test_b15_detached_socket(loop, connect, pair, ours):
    transport, protocol = await connect(pair[0])
    with socket.socket(fileno=pair[0].detach()) as heir:
        pair[1].send(b"data")
        await turns(20)
        assert protocol.lost.done() == transport.is_closing() == (not ours)
        if not ours:
            assert protocol.lost.result().errno == errno.EBADF
        assert heir.recv(10) == b"data"
        transport.abort()
        await protocol.lost


async def test_b16_a_descriptor_that_is_made_another_files(loop, connect, stack, ours):
    sock, peer, other, others_peer = (stack.enter_context(sock) for _ in range(2) for sock in tcp_pair())
    sock.setblocking(False)
    peer.settimeout(0.05)
    transport, protocol = await connect(sock)
    os.dup2(other.fileno(), sock.fileno())
    await turns(5)
    with pytest.raises(TimeoutError) if ours else contextlib.nullcontext():
        assert peer.recv(1) == b""
    others_peer.send(b"for the other")
    await turns(20)
    assert protocol.data == b""
    with contextlib.suppress(ConnectionError):
        peer.send(b"its own")
    await turns(20)
    assert protocol.data == (b"for the other" if ours else b"")
    transport.abort()
    await protocol.lost


async def test_b17_get_buffer_for_an_urgent_byte(connect, stack, ours, native):
    sock, peer = (stack.enter_context(end) for end in tcp_pair())
    sock.setblocking(False)
    transport, protocol = await connect(sock, CountingBuffers)
    await turns(3)
    peer.send(b"!", socket.MSG_OOB)
    await asyncio.sleep(0.05)
    # (A poll that the kernel keeps is asked again before it tells.)
    kept = native and not _overlapped.MULTISHOT_FROM
    assert protocol.calls == (1 if ours and not kept else 0)
    assert protocol.data == b""
    peer.send(b"data")
    await until(lambda: protocol.data == b"data")
    transport.close()
    await protocol.lost


class Pieces(Recorder):
    def __init__(self):
        super().__init__()
        self.sizes = []

    def data_received(self, data):
        self.sizes.append(len(data))
        super().data_received(data)


def bulk_pair(stack):
    """(our end, which does not block, and the peer's, which takes a bulk at once)"""
    sock, peer = (stack.enter_context(end) for end in socket.socketpair())
    sock.setblocking(False)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    return sock, peer


async def test_b18_pieces_of_a_bulk(connect, stack, native):
    sock, peer = bulk_pair(stack)
    transport, protocol = await connect(sock, Pieces)
    for count in (1, 2, 3):
        # (What a read makes room for goes by what the last ones have found.)
        protocol.sizes.clear()
        peer.send(bytes(200_000))
        await until(lambda: len(protocol.data) == count * 200_000)
    assert protocol.sizes == ([122_880, 77_120] if native else [200_000])
    transport.close()
    await protocol.lost


async def largest_of(protocol, peer):
    """Send 200 KB; return the size of the largest piece that comes."""
    before = len(protocol.data)
    sizes = protocol.sizes if isinstance(protocol, Pieces) else protocol.updates
    sizes.clear()
    peer.send(bytes(200_000))
    await until(lambda: len(protocol.data) == before + 200_000)
    return max(sizes)


@pytest.mark.parametrize("factory", [Pieces, lambda: Buffered(250_000)], ids=["protocol", "buffered"])
async def test_b18_pieces_of_a_bulk_beside_small_messages(connect, stack, native, factory):
    sock, peer = bulk_pair(stack)
    small, its_peer = bulk_pair(stack)
    transport, protocol = await connect(sock, factory)
    other, told = await connect(small)
    # A small message of its own does not make a bulk wait.
    peer.send(b"x")
    await until(lambda: protocol.data == b"x")
    for _ in range(3):
        assert await largest_of(protocol, peer) > 32768
    its_peer.send(b"x")
    await until(lambda: told.data == b"x")
    assert (await largest_of(protocol, peer) > 32768) != native
    # It is over some time behind the last of them.
    await turns(256)
    assert await largest_of(protocol, peer) > 32768
    # A short piece of what is itself a bulk does not count.
    its_peer.send(bytes(200_000))
    await until(lambda: len(told.data) == 200_001)
    its_peer.send(b"x")
    await until(lambda: len(told.data) == 200_002)
    assert await largest_of(protocol, peer) > 32768
    for end in (transport, other):
        end.close()
    await asyncio.gather(protocol.lost, told.lost)


def test_b19_a_selector_that_is_put_in_the_place_of_asyncios(loop_factory, monkeypatch):
    waits = []

    class Counting(selectors.DefaultSelector):
        def select(self, timeout=None):
            waits.append(timeout)
            return super().select(timeout)

    monkeypatch.setattr(selectors, "DefaultSelector", Counting)
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    assert bool(waits) == (not hasattr(loop, "_proactor"))
    loop.close()


async def test_b20_class_of_a_transport(connect, pair, native, monkeypatch):
    transport, protocol = await connect(pair[0])
    monkeypatch.setattr(asyncio.Transport, "get_extra_info", lambda self, name, default=None: "patched")
    assert isinstance(transport, asyncio.Transport)
    assert issubclass(type(transport), asyncio.Transport) == (not native)
    assert (transport.get_extra_info("compression") == "patched") == (not native)
    transport.close()
    await protocol.lost


async def test_b21_method_of_a_socket_replaced(connect, stack, native, monkeypatch):
    calls = []

    def counted(self, *args):
        calls.append(self)
        return socket.SocketType.recv(self, *args)

    for made_before in (True, False):
        calls.clear()
        sock, peer = bulk_pair(stack)
        if made_before:
            transport, protocol = await connect(sock)
        monkeypatch.setattr(socket.socket, "recv", counted, raising=False)
        if not made_before:
            transport, protocol = await connect(sock)
        peer.send(b"data")
        await until(lambda: protocol.data == b"data")
        assert bool(calls) == (not native or not made_before)
        monkeypatch.undo()
        transport.close()
        await protocol.lost


def test_b22_sigpipe(loop_factory):
    code = f"""if True:
        import asyncio, signal, socket, uringloop
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        async def main():
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            theirs.close()
            transport.write(b"x")
            transport.write(b"y")
            await asyncio.sleep(0.1)

        {expression_of(loop_factory)}().run_until_complete(main())
    """
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30)
    in_python = getattr(loop_factory, "tier", None) == "stdlib"
    assert done.returncode == (0 if in_python else -signal.SIGPIPE), done.stderr
