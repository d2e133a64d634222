"""loop.sock_*: what they do, what is left after a cancel, and what a closed socket does to them.

Moments of a cancel: `unsubmitted` is in the very tick in which the operation began, `in flight` some
turns later, `as it completes` in the tick in which its data came, and `close` with the loop.
"""

import asyncio
import errno
import fcntl
import gc
import os
import random
import socket
import threading
import weakref

import pytest

from support import Recorder, drain, fill, needs_ipv6, read_all, read_exactly, reset, some_bytes, tcp_pair, turns


@pytest.fixture
def datagrams(stack):
    """Two bound UDP sockets, non-blocking."""
    sockets = []
    for _ in range(2):
        sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


@pytest.fixture
def listener(stack):
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    sock.setblocking(False)
    return sock


@pytest.fixture
def client(stack):
    sock = stack.enter_context(socket.socket())
    sock.setblocking(False)
    return sock


# -- receiving --


@pytest.mark.parametrize("waits", [False, True])
async def test_sock_recv(loop, pair, waits):
    a, b = pair
    if waits:
        task = asyncio.create_task(loop.sock_recv(a, 100))
        await turns(3)
        assert not task.done()
        b.send(b"hello")
        assert await task == b"hello"
    else:
        b.send(b"hello")
        assert await loop.sock_recv(a, 3) == b"hel"
        assert await loop.sock_recv(a, 100) == b"lo"
    b.close()
    assert await loop.sock_recv(a, 100) == b""


@pytest.mark.parametrize("waits", [False, True])
async def test_sock_recv_into(loop, pair, waits):
    a, b = pair
    buffer = bytearray(8)
    if waits:
        task = asyncio.create_task(loop.sock_recv_into(a, memoryview(buffer)[2:6]))
        await turns(3)
        b.send(b"hello")
        assert await task == 4
    else:
        b.send(b"hello")
        assert await loop.sock_recv_into(a, memoryview(buffer)[2:6]) == 4
    assert buffer == b"\0\0hell\0\0"
    b.close()
    assert await loop.sock_recv_into(a, buffer) == 1
    assert await loop.sock_recv_into(a, buffer) == 0


async def test_sock_recv_takes_a_large_buffer(loop, pair):
    a, b = pair
    data = some_bytes(150_000)
    task = asyncio.create_task(loop.sock_recv(a, 1 << 24))
    await turns(3)
    b.send(data[:1])
    assert await task == data[:1]
    await loop.sock_sendall(b, data[1:])
    assert await read_exactly(loop, a, len(data) - 1) == data[1:]


@pytest.mark.parametrize("waits", [False, True])
async def test_sock_recvfrom(loop, datagrams, waits):
    a, b = datagrams
    task = asyncio.create_task(loop.sock_recvfrom(a, 3))
    if waits:
        await turns(3)
    b.sendto(b"hello", a.getsockname())
    assert await task == (b"hel", b.getsockname())
    b.sendto(b"", a.getsockname())
    assert await loop.sock_recvfrom(a, 100) == (b"", b.getsockname())


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("nbytes, expected", [(0, b"hello\0\0\0"), (3, b"hel\0\0\0\0\0"), (8, b"hello\0\0\0")])
async def test_sock_recvfrom_into(loop, datagrams, nbytes, expected, waits):
    a, b = datagrams
    buffer = bytearray(8)
    task = asyncio.create_task(loop.sock_recvfrom_into(a, buffer, nbytes))
    if waits:
        await turns(3)
    b.sendto(b"hello", a.getsockname())
    assert await task == (len(expected.rstrip(b"\0")), b.getsockname())
    assert buffer == expected


async def test_sock_recvfrom_into_more_than_the_buffer(loop, datagrams):
    with pytest.raises(ValueError):
        await loop.sock_recvfrom_into(datagrams[0], bytearray(8), 9)


async def test_sock_recv_from_a_reset_peer(loop, stack):
    a, b = tcp_pair()
    stack.enter_context(a).setblocking(False)
    task = asyncio.create_task(loop.sock_recv(a, 100))
    await turns(3)
    reset(b)
    with pytest.raises(ConnectionResetError):
        await task


# -- sending --


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_sock_sendall_20_megabytes(loop, pair, kind):
    a, b = pair
    data = some_bytes(20_000_000)
    reading = asyncio.create_task(read_all(loop, b))
    assert await loop.sock_sendall(a, kind(data)) is None
    a.shutdown(socket.SHUT_WR)
    assert await reading == data


async def test_sock_sendall_nothing(loop, pair):
    assert await loop.sock_sendall(pair[0], b"") is None


async def test_sock_sendall_to_a_closed_peer(loop, pair):
    a, b = pair
    filled = fill(a)
    task = asyncio.create_task(loop.sock_sendall(a, bytes(1_000_000)))
    await turns(3)
    assert not task.done() and filled
    b.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await task


async def test_sock_sendto(loop, datagrams):
    a, b = datagrams
    assert await loop.sock_sendto(a, b"hello", b.getsockname()) == 5
    assert await loop.sock_sendto(a, b"", b.getsockname()) == 0
    assert b.recvfrom(100) == (b"hello", a.getsockname())
    assert b.recvfrom(100) == (b"", a.getsockname())


async def test_sock_sendto_fails(loop, datagrams):
    a, b = datagrams
    with pytest.raises(OSError) as caught:
        await loop.sock_sendto(a, bytes(70_000), b.getsockname())
    assert caught.value.errno == errno.EMSGSIZE


async def test_both_directions_at_once(loop, pair):
    async def through(sock):
        reading = asyncio.create_task(read_all(loop, sock))
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)
        assert await reading == data

    data = some_bytes(5_000_000)
    await asyncio.gather(through(pair[0]), through(pair[1]))


# -- connecting and accepting --


async def test_sock_connect_and_accept(loop, client, listener, stack):
    accepting = asyncio.create_task(loop.sock_accept(listener))
    await turns(3)
    assert await loop.sock_connect(client, listener.getsockname()) is None
    conn, address = await accepting
    stack.enter_context(conn)
    assert address == client.getsockname() == conn.getpeername()
    assert not conn.getblocking()
    assert fcntl.fcntl(conn, fcntl.F_GETFL) & os.O_NONBLOCK
    assert not conn.get_inheritable()
    await loop.sock_sendall(client, b"hello")
    assert await loop.sock_recv(conn, 100) == b"hello"


@pytest.mark.parametrize("backlog", [1, 20])
async def test_sock_accept_what_waits_already(loop, stack, listener, backlog):
    clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(backlog)]
    accepted = [await loop.sock_accept(listener) for _ in clients]
    for conn, _ in accepted:
        stack.enter_context(conn)
    assert {address for _, address in accepted} == {sock.getsockname() for sock in clients}


async def test_sock_connect_to_a_host_name(loop, client, listener, monkeypatch):
    """Resolved by the loop, in a thread: the socket's own connect() would stop all others meanwhile."""
    asked = []
    getaddrinfo = loop.getaddrinfo

    def noted(host, *args, **kwargs):
        asked.append(host)
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", noted)
    await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
    assert client.getpeername() == listener.getsockname()
    assert asked == ["localhost"]


@needs_ipv6
@pytest.mark.parametrize("length", [2, 3, 4])
async def test_sock_connect_ipv6(loop, stack, length):
    listener = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
    sock = stack.enter_context(socket.socket(socket.AF_INET6))
    sock.setblocking(False)
    await loop.sock_connect(sock, listener.getsockname()[:length])
    assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize("kind", ["str", "bytes", "abstract"])
async def test_sock_connect_unix(loop, stack, tmp_path, kind):
    path = {"str": str(tmp_path / "s"), "bytes": bytes(tmp_path / "s"), "abstract": f"\0{tmp_path}"}[kind]
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    for each in (listener, sock):
        each.setblocking(False)
    listener.bind(path)
    listener.listen()
    await loop.sock_connect(sock, path)
    conn, _ = await loop.sock_accept(listener)
    stack.enter_context(conn)
    await loop.sock_sendall(conn, b"hello")
    assert await loop.sock_recv(sock, 100) == b"hello"


async def test_sock_connect_refused(loop, client, listener):
    address = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await loop.sock_connect(client, address)


async def test_sock_connect_a_datagram_socket(loop, datagrams):
    a, b = datagrams
    await loop.sock_connect(a, b.getsockname())
    assert a.getpeername() == b.getsockname()


async def test_sock_connect_cancelled_while_the_backlog_is_full(loop, stack):
    # The kernel drops the handshakes that the backlog has no place for.
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    clients = [stack.enter_context(socket.socket()) for _ in range(4)]
    for sock in clients:
        sock.setblocking(False)
    tasks = [asyncio.create_task(loop.sock_connect(sock, listener.getsockname())) for sock in clients]
    await turns(10)
    assert not all(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)


# -- cancelled receives: nobody's bytes are lost --


def receive_by(name, loop, sock):
    """Start sock_<name>; return (task, function that gives the bytes it got)."""
    buffer = bytearray(100)
    coroutine = {
        "recv": lambda: loop.sock_recv(sock, 100),
        "recv_into": lambda: loop.sock_recv_into(sock, buffer),
        "recvfrom": lambda: loop.sock_recvfrom(sock, 100),
        "recvfrom_into": lambda: loop.sock_recvfrom_into(sock, buffer),
    }[name]()
    task = loop.create_task(coroutine)

    def received():
        result = task.result()
        return {
            "recv": lambda: result,
            "recv_into": lambda: bytes(buffer[:result]),
            "recvfrom": lambda: result[0],
            "recvfrom_into": lambda: bytes(buffer[: result[0]]),
        }[name]()

    return task, received


RECEIVES = ["recv", "recv_into", "recvfrom", "recvfrom_into"]


@pytest.mark.parametrize("name", RECEIVES)
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_cancelled_receive_takes_nothing(loop, pair, name, moment):
    a, b = pair
    for reader in RECEIVES + ["socket"]:
        task, _ = receive_by(name, loop, a)
        if moment == "unsubmitted":
            loop.call_soon(task.cancel)
        else:
            await turns(3)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        b.send(b"hello")
        if reader == "socket":
            await turns(5)
            assert a.recv(100) == b"hello"
        else:
            task, received = receive_by(reader, loop, a)
            await task
            assert received() == b"hello"


@pytest.mark.parametrize("name", RECEIVES)
async def test_receive_cancelled_before_it_starts(loop, pair, name):
    a, b = pair
    b.send(b"hello")
    task, _ = receive_by(name, loop, a)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert a.recv(100) == b"hello"


MOMENTS = [(before, after) for before in range(4) for after in range(4)]


@pytest.mark.uringloop_only  # the selector loop may have taken the bytes, and drops them
@pytest.mark.parametrize("name", RECEIVES)
async def test_receive_cancelled_around_an_arrival(loop, pair, name):
    """Whichever wins, the bytes are either the cancelled task's or the next reader's."""
    a, b = pair
    got, cancelled = bytearray(), 0
    for number, (before, after) in enumerate(MOMENTS * 10):
        task, received = receive_by(name, loop, a)
        await turns(before)
        b.send(bytes([number]))
        await turns(after)
        task.cancel()
        await asyncio.wait([task])
        cancelled += task.cancelled()
        if not task.cancelled():
            got += received()
    got += drain(a)
    assert got == bytes(range(len(MOMENTS) * 10))
    assert 0 < cancelled < len(MOMENTS) * 10


@pytest.mark.uringloop_only  # as above
@pytest.mark.parametrize("name", RECEIVES)
@pytest.mark.parametrize("first", ["canceller", "cancelled"])
async def test_receive_cancelled_as_it_completes(loop, pair, stack, name, first):
    """Data for two tasks comes in one tick, and the one cancels the other."""
    a, b = pair
    mine, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
    mine.setblocking(False)
    got = bytearray()
    for number in range(20):

        async def cancel_the_other():
            await loop.sock_recv(mine, 1)
            task.cancel()

        if first == "canceller":
            canceller = asyncio.create_task(cancel_the_other())
            task, received = receive_by(name, loop, a)
        else:
            task, received = receive_by(name, loop, a)
            canceller = asyncio.create_task(cancel_the_other())
        await turns(3)
        for sock in (b, theirs) if number % 2 else (theirs, b):
            sock.send(bytes([number]))
        await canceller
        await asyncio.wait([task])
        if not task.cancelled():
            got += received()
    got += drain(a)
    assert got == bytes(range(20))


@pytest.mark.uringloop_only  # as above
async def test_wait_for_sock_recv_races_with_arrivals(loop, pair):
    a, b = pair
    data = some_bytes(3000)
    random_pause = random.Random(0)

    def send():
        for start in range(0, len(data), 5):
            b.send(data[start : start + 5])
            pauses.wait(random_pause.random() / 2000)

    pauses = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    got = bytearray()
    timeouts = 0
    while len(got) < len(data):
        try:
            got += await asyncio.wait_for(loop.sock_recv(a, 7), random_pause.random() / 2000)
        except TimeoutError:
            timeouts += 1
    sender.join()
    assert got == data
    assert timeouts


@pytest.mark.uringloop_only
@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "recvfrom_into"])
def test_proactor_receive_at_close(loop_factory, pair, name):
    a, b = pair
    loop = loop_factory()
    proactor = loop._proactor
    arguments = {"recv": (10,), "recvfrom": (10,)}.get(name) or (bytearray(10),)
    queued = getattr(proactor, name)(a, *arguments)
    loop.run_until_complete(turns(2))
    in_flight = getattr(proactor, name)(a, *arguments)
    b.send(b"hello")
    loop.close()
    assert queued.done() and in_flight.cancelled()
    assert proactor._cache == {}
    if queued.cancelled():
        assert drain(a) == b"hello"


@pytest.mark.uringloop_only
@pytest.mark.parametrize("name", ["recv", "recv_into"])
async def test_proactor_receive_cancelled(loop, pair, name):
    """At the proactor, where each moment can be hit exactly."""
    a, b = pair
    proactor = loop._proactor

    def start():
        return proactor.recv(a, 10) if name == "recv" else proactor.recv_into(a, bytearray(10))

    start().cancel()  # unsubmitted
    b.send(b"1")
    future = start()
    future.cancel()  # unsubmitted, its data there
    await turns(2)
    assert drain(a) == b"1"
    future = start()
    await turns(2)
    b.send(b"2")
    future.cancel()  # completed in the kernel, not seen
    await turns(2)
    assert drain(a) == b"2"
    future = start()
    await turns(2)
    b.send(b"3")
    assert await future in (b"3", 1)
    assert not future.cancel()
    await turns(2)
    assert not any(obj is a for _, _, obj, _ in proactor._cache.values())


# -- cancelled sends, accepts, connects --


@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_cancelled_sendall_sent_a_beginning(loop, pair, moment):
    a, b = pair
    data = bytearray(some_bytes(8_000_000))
    task = asyncio.create_task(loop.sock_sendall(a, data))
    if moment == "unsubmitted":
        loop.call_soon(task.cancel)
    else:
        await turns(5)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The next one comes behind it, never between.
    sending = asyncio.create_task(loop.sock_sendall(a, b"the next"))
    received = await read_exactly(loop, b, 8)
    while not sending.done():
        received += await loop.sock_recv(b, 1 << 20)
    received += drain(b)
    assert received.endswith(b"the next")
    assert data.startswith(received[:-8]) and len(received) < len(data)


async def test_cancelled_sendall_gives_the_buffer_back(loop, pair):
    a, b = pair
    data = bytearray(8_000_000)
    task = asyncio.create_task(loop.sock_sendall(a, data))
    await turns(3)
    with pytest.raises(BufferError):
        data.append(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await turns(3)
    data.append(0)


@pytest.mark.uringloop_only
async def test_cancelled_send_keeps_the_buffer_until_it_ends(loop, pair):
    """The kernel may read it until then, whoever has forgotten it."""

    class Buffer(bytearray):
        pass

    a, b = pair
    buffer = Buffer(8_000_000)
    alive = weakref.ref(buffer)
    future = loop._proactor.send(a, buffer)
    await turns(3)
    future.cancel()
    del buffer, future
    gc.collect()
    assert alive() is not None
    await turns(3)
    assert alive() is None


@pytest.mark.uringloop_only
def test_proactor_send_at_close(loop_factory, pair):
    a, b = pair
    loop = loop_factory()
    buffer = bytearray(8_000_000)
    in_flight = loop._proactor.send(a, buffer)
    loop.run_until_complete(turns(2))
    queued = loop._proactor.send(a, buffer)
    with pytest.raises(BufferError):
        buffer.append(0)
    loop.close()
    assert in_flight.cancelled() and queued.cancelled()
    buffer.append(0)


@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_cancelled_accept_then_accept(loop, listener, stack, moment):
    for _ in range(5):
        task = asyncio.create_task(loop.sock_accept(listener))
        if moment == "unsubmitted":
            loop.call_soon(task.cancel)
        else:
            await turns(3)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        conn, address = await loop.sock_accept(listener)
        stack.enter_context(conn)
        assert address == client.getsockname()


@pytest.mark.uringloop_only  # the selector loop may have accepted, and drops the connection
async def test_accept_cancelled_around_an_arrival(loop, listener, stack):
    addresses, got, cancelled = [], [], 0
    for before, after in MOMENTS * 3:
        task = asyncio.create_task(loop.sock_accept(listener))
        await turns(before)
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        addresses.append(client.getsockname())
        await turns(after)
        task.cancel()
        await asyncio.wait([task])
        cancelled += task.cancelled()
        if not task.cancelled():
            got.append(task.result())
    assert 0 < cancelled < len(addresses)
    while len(got) < len(addresses):
        got.append(await loop.sock_accept(listener))
    for conn, _ in got:
        stack.enter_context(conn)
    assert [address for _, address in got] == addresses


# -- the user closes the socket beside a pending operation: ours only, the selector loop waits for ever --


def ended(task):
    """The task ended as an operation on a closed socket ends."""
    return isinstance(task.exception(), OSError) and task.exception().errno == errno.EBADF


@pytest.mark.uringloop_only
@pytest.mark.parametrize("name", RECEIVES)
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_socket_closed_beside_a_receive(loop, pair, name, moment):
    a, b = pair
    task, _ = receive_by(name, loop, a)
    if moment == "in flight":
        await turns(3)
        a.close()
    else:
        loop.call_soon(a.close)
    await asyncio.wait([task])
    assert ended(task)
    assert await loop.sock_recv(b, 100) == b""


@pytest.mark.uringloop_only
async def test_socket_closed_beside_a_receive_while_the_loop_sleeps(loop, pair):
    """Nothing else is going on that would wake the loop: closing happens in its last callback."""
    a, b = pair
    task = asyncio.create_task(loop.sock_recv(a, 100))
    await turns(3)
    loop.call_soon(a.close)
    await asyncio.wait([task])
    assert ended(task)


@pytest.mark.uringloop_only
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_socket_closed_beside_a_sendall(loop, pair, moment):
    a, b = pair
    data = some_bytes(8_000_000)
    task = asyncio.create_task(loop.sock_sendall(a, data))
    if moment == "in flight":
        await turns(3)
        a.close()
    else:
        loop.call_soon(a.close)
    await asyncio.wait([task])
    assert ended(task)
    received = await read_all(loop, b)
    assert data.startswith(received)
    assert len(received) < len(data)
    assert received or moment == "unsubmitted"


@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_socket_closed_behind_a_sendall(loop, pair, size):
    """What fits is out before the next callback."""
    a, b = pair
    data = some_bytes(size)
    task = asyncio.create_task(loop.sock_sendall(a, data))
    loop.call_soon(a.close)
    await task
    assert await read_all(loop, b) == data


@pytest.mark.uringloop_only
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_socket_closed_beside_an_accept(loop, listener, moment):
    address = listener.getsockname()
    task = asyncio.create_task(loop.sock_accept(listener))
    if moment == "in flight":
        await turns(3)
        listener.close()
    else:
        loop.call_soon(listener.close)
    await asyncio.wait([task])
    assert ended(task)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    socket.create_server(address).close()


@pytest.mark.uringloop_only
async def test_socket_closed_beside_several(loop, stack):
    """Many sockets, all closed in one callback."""
    pairs = [socket.socketpair() for _ in range(200)]
    for a, b in pairs:
        stack.enter_context(a).setblocking(False)
        stack.enter_context(b).setblocking(False)
    tasks = [asyncio.create_task(loop.sock_recv(a, 1)) for a, _ in pairs]
    await turns(3)
    for a, _ in pairs:
        a.close()
    await asyncio.wait(tasks)
    assert all(map(ended, tasks))
    for _, b in pairs:
        assert await loop.sock_recv(b, 1) == b""


@pytest.mark.uringloop_only
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
@pytest.mark.parametrize("name", ["recv", "recv_into"])
async def test_number_reused_beside_a_receive(loop, pair, stack, moment, name):
    a, b = pair
    mine, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
    theirs.send(b"for the next owner")
    task, _ = receive_by(name, loop, a)
    next_owner = loop.create_future()

    def close_and_reuse():
        fd = a.fileno()
        a.close()
        os.dup2(mine.fileno(), fd)
        mine.close()
        next_owner.set_result(stack.enter_context(socket.socket(fileno=fd)))

    if moment == "in flight":
        await turns(3)
        close_and_reuse()
    else:
        loop.call_soon(close_and_reuse)
    owner = await next_owner
    owner.setblocking(False)
    reading = asyncio.create_task(loop.sock_recv(owner, 100))
    await asyncio.wait([task])
    assert ended(task)
    assert await reading == b"for the next owner"
    assert await loop.sock_recv(b, 100) == b""
    reading = asyncio.create_task(loop.sock_recv(owner, 100))
    await turns(3)
    theirs.send(b"more")
    assert await reading == b"more"


@pytest.mark.uringloop_only
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_number_reused_beside_a_sendall(loop, pair, stack, moment):
    a, b = pair
    mine, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
    theirs.setblocking(False)
    data = some_bytes(8_000_000)
    task = asyncio.create_task(loop.sock_sendall(a, data))
    next_owner = loop.create_future()

    def close_and_reuse():
        fd = a.fileno()
        a.close()
        os.dup2(mine.fileno(), fd)
        mine.close()
        next_owner.set_result(stack.enter_context(socket.socket(fileno=fd)))

    if moment == "in flight":
        await turns(3)
        close_and_reuse()
    else:
        loop.call_soon(close_and_reuse)
    owner = await next_owner
    owner.setblocking(False)
    await loop.sock_sendall(owner, b"mine alone")
    await asyncio.wait([task])
    assert ended(task)
    await turns(5)
    assert drain(theirs) == b"mine alone"
    assert data.startswith(await read_all(loop, b))


@pytest.mark.uringloop_only
@pytest.mark.parametrize("moment", ["unsubmitted", "in flight"])
async def test_number_reused_beside_an_accept(loop, listener, stack, moment):
    task = asyncio.create_task(loop.sock_accept(listener))
    other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    other.setblocking(False)

    def close_and_reuse():
        fd = listener.fileno()
        listener.close()
        os.dup2(other.fileno(), fd)
        other.close()
        next_owner.set_result(stack.enter_context(socket.socket(fileno=fd)))

    next_owner = loop.create_future()
    if moment == "in flight":
        await turns(3)
        close_and_reuse()
    else:
        loop.call_soon(close_and_reuse)
    owner = await next_owner
    client = stack.enter_context(socket.create_connection(owner.getsockname()))
    await asyncio.wait([task])
    assert ended(task)
    conn, address = await loop.sock_accept(owner)
    stack.enter_context(conn)
    assert address == client.getsockname()


@pytest.mark.uringloop_only
async def test_transport_made_on_a_reused_number(loop, pair, connect):
    """The number's next owner is a transport, and the last one's operation is still pending."""
    a, b = pair
    task = asyncio.create_task(loop.sock_recv(a, 100))
    await turns(3)
    fd = a.fileno()
    mine, theirs = socket.socketpair()
    with theirs:
        a.close()
        os.dup2(mine.fileno(), fd)
        mine.close()
        owner = socket.socket(fileno=fd)
        owner.setblocking(False)
        transport, protocol = await connect(owner)
        theirs.send(b"for the transport")
        assert await protocol.received(17) == b"for the transport"
        assert ended(task)
        transport.close()
        await protocol.lost


# -- several at once --


async def test_many_receives_in_one_tick(loop, stack):
    """More operations than the submission queue has room for."""
    pairs = [socket.socketpair() for _ in range(1500)]
    for a, b in pairs:
        stack.enter_context(a).setblocking(False)
        stack.enter_context(b).setblocking(False)
    tasks = [asyncio.create_task(loop.sock_recv(a, 100)) for a, _ in pairs]
    await turns(3)
    for number, (_, b) in enumerate(pairs):
        b.send(b"%d" % number)
    assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(len(pairs))]


class Unhashable(socket.socket):
    """As of a class that defines __eq__."""

    __hash__ = None


async def test_socket_that_can_t_be_hashed(loop, stack):
    """Also when a server has been stopped: the sockets of servers are remembered."""
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    listening = server.sockets
    await turns(3)
    server.close()
    a, b = (stack.enter_context(Unhashable(fileno=sock.detach())) for sock in socket.socketpair())
    for sock in (a, b):
        sock.setblocking(False)
    receiving = asyncio.create_task(loop.sock_recv(a, 10))
    await turns(3)
    await loop.sock_sendall(b, b"x")
    assert await receiving == b"x"
    transport, protocol = await loop.create_connection(Recorder, sock=a)
    await loop.sock_sendall(b, b"more")
    assert await protocol.received(4) == b"more"
    transport.close()
    assert await protocol.lost is None
    assert len(listening) == 1


async def test_sock_methods_after_a_transport(loop, connect, pair):
    """What a transport left unread is the next reader's."""
    a, b = pair
    other = a.dup()
    with other:
        transport, protocol = await connect(a)
        b.send(b"one")
        await protocol.received(3)
        transport.pause_reading()
        b.send(b"two")
        await turns(5)
        transport.close()
        await protocol.lost
        assert await loop.sock_recv(other, 100) == b"two"


async def test_sock_sendall_of_all_sizes(loop, pair):
    a, b = pair
    for size in (1, 10_000, 300_000, 5, 1_000_000):
        data = some_bytes(size, seed=size)
        sending = asyncio.create_task(loop.sock_sendall(a, data))
        assert await read_exactly(loop, b, size) == data
        await sending
