"""Whose a descriptor is, and whether its file is still wanted: nothing is told that is over, and closed is closed."""

import asyncio
import contextlib
import multiprocessing
import os
import pty
import resource
import socket
import subprocess
import sys
import textwrap

import pytest

from support import fill, tcp_pair, turns, until

# -- kinds of descriptors: (what is waited for, what makes it readable) --


def stream(stack):
    return open_all(stack, *socket.socketpair())


def tcp(stack):
    return open_all(stack, *tcp_pair())


def datagram(stack):
    return open_all(stack, *socket.socketpair(type=socket.SOCK_DGRAM))


def packets(stack):
    return open_all(stack, *socket.socketpair(type=socket.SOCK_SEQPACKET))


def pipe(stack):
    reader, writer = os.pipe2(os.O_NONBLOCK)
    return open_all(stack, open(reader, "rb", 0), open(writer, "wb", 0))


def fifo(stack):
    name = f"fifo{os.getpid()}"
    stack.enter_context(contextlib.chdir(stack.directory))
    os.mkfifo(name)
    reader = open(os.open(name, os.O_RDONLY | os.O_NONBLOCK), "rb", 0)
    writer = open(os.open(name, os.O_WRONLY | os.O_NONBLOCK), "wb", 0)
    os.unlink(name)
    return open_all(stack, reader, writer)


def terminal(stack):
    leader, follower = pty.openpty()
    reader, writer = open_all(stack, open(leader, "r+b", 0, closefd=True), open(follower, "wb", 0))
    os.set_blocking(reader.fileno(), False)
    return reader, writer


def counter(stack):
    number = os.eventfd(0, os.EFD_NONBLOCK)
    file = stack.enter_context(open(number, "r+b", 0, closefd=True))
    return file, file


def open_all(stack, *ends):
    for end in ends:
        stack.enter_context(end)
        if isinstance(end, socket.socket):
            end.setblocking(False)
    return ends


def write(end, data=b"x" * 8):
    (end.send if isinstance(end, socket.socket) else end.write)(data)


def take(end):
    return os.read(end.fileno(), 100)


KINDS = [stream, tcp, datagram, packets, pipe, fifo, terminal, counter]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def stack(tmp_path):
    with contextlib.ExitStack() as stack:
        stack.directory = tmp_path
        yield stack


# -- what is told is true when it is told --


@each_kind
async def test_reader_whose_bytes_are_taken_before_the_loop_looks(loop, stack, kind):
    ours, theirs = kind(stack)
    calls = []
    loop.add_reader(ours, calls.append, None)
    await turns(3)
    for _ in range(5):
        write(theirs)
        take(ours)
        await turns(3)
    assert not calls
    write(theirs)
    await until(lambda: calls)
    loop.remove_reader(ours)


@each_kind
async def test_reader_beside_a_callback_that_reads_all(loop, stack, kind):
    """A neighbour of the same turn may have been told, too; but not a turn later."""
    ours, theirs = kind(stack)
    calls = []

    def read():
        calls.append(take(ours))

    loop.add_reader(ours, read)
    for count in range(1, 6):
        write(theirs)
        await until(lambda: len(calls) == count)
        await turns(3)
        assert len(calls) == count
    loop.remove_reader(ours)


@pytest.mark.parametrize("kind", [stream, tcp, pipe], ids=lambda kind: kind.__name__)
async def test_writer_whose_room_is_taken_before_the_loop_looks(loop, stack, kind):
    ours, theirs = kind(stack)
    if kind is pipe:
        ours, theirs = theirs, ours
        os.set_blocking(theirs.fileno(), False)
    fill(ours)
    calls = []
    loop.add_writer(ours, calls.append, None)
    await turns(3)
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            while os.read(theirs.fileno(), 1 << 20):
                pass
        fill(ours)
        await turns(3)
    assert not calls
    loop.remove_writer(ours)


async def test_blocking_connection_of_multiprocessing_does_not_stop_the_loop(loop, stack):
    ours, theirs = (stack.enter_context(end) for end in multiprocessing.Pipe())
    received = []
    loop.add_reader(ours, lambda: received.append(ours.recv()))
    await turns(3)
    theirs.send("taken")
    assert ours.recv() == "taken"
    await turns(5)
    theirs.send("told")
    await until(lambda: received)
    assert received == ["told"]
    loop.remove_reader(ours)


@pytest.mark.uringloop_only
@pytest.mark.parametrize("method", ["sock_recv", "sock_accept"])
async def test_blocking_socket_in_a_sock_method_does_not_stop_the_loop(loop, stack, method):
    """Two wait, and one finds nothing: the selector loop knows one waiter a descriptor."""
    if method == "sock_accept":
        ours = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        waiting = [asyncio.ensure_future(loop.sock_accept(ours)) for _ in range(2)]
        await turns(3)
        stack.enter_context(socket.create_connection(ours.getsockname()))
    else:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours), stack.enter_context(theirs)
        waiting = [asyncio.ensure_future(loop.sock_recv(ours, 10)) for _ in range(2)]
        await turns(3)
        theirs.send(b"x")
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await turns(5)
    assert len(done) == len(pending) == 1
    result = done.pop().result()
    if method == "sock_accept":
        result[0].close()
    pending.pop().cancel()
    await turns(2)


async def test_out_of_band_data_that_was_taken(loop, stack):
    ours, theirs = tcp(stack)
    calls = []
    loop.add_reader(ours, calls.append, None)
    await turns(3)
    theirs.send(b"!", socket.MSG_OOB)
    ours.recv(1, socket.MSG_OOB)
    await turns(5)
    assert not calls
    loop.remove_reader(ours)


# -- what can't be polled, and what can at the limit of descriptors --


async def test_reader_of_a_terminal_at_the_limit_of_descriptors(loop, stack):
    ours, theirs = terminal(stack)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        held, calls = [], []
        with pytest.raises(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        loop.add_reader(ours, calls.append, None)
        write(theirs)
        await until(lambda: calls)
        loop.remove_reader(ours)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)


# -- close means closed --


def listener(stack):
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=False))
    sock.setblocking(False)
    return sock


def bind_again(address, type=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, type) as sock:
        sock.bind(address)
        if type == socket.SOCK_STREAM:
            sock.listen()


def forget_reader(loop, sock):
    loop.add_reader(sock, print)
    return lambda: loop.remove_reader(sock)


def forget_writer(loop, sock):
    loop.add_writer(sock, print)
    return lambda: loop.remove_writer(sock)


def cancel_accept(loop, sock):
    return cancel(loop.create_task(loop.sock_accept(sock)))


def cancel_receive(loop, sock):
    return cancel(loop.create_task(loop.sock_recv(sock, 10)))


def cancel_receive_from(loop, sock):
    return cancel(loop.create_task(loop.sock_recvfrom(sock, 10)))


def cancel_send(loop, sock):
    return cancel(loop.create_task(loop.sock_sendall(sock, bytes(10_000_000))))


def cancel(task):
    async def ended():
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def end():
        task.cancel()
        return ended()

    return end


ENDS = [forget_reader, forget_writer, cancel_accept]
each_end = pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
moments = pytest.mark.parametrize("moment", [0, 1, 5])


@each_end
@moments
async def test_listener_closed_behind_a_wait_that_ended(loop, stack, end, moment):
    sock = listener(stack)
    address = sock.getsockname()
    finish = end(loop, sock)
    await turns(moment)
    ending = finish()
    if asyncio.iscoroutine(ending):
        await ending
    sock.close()
    # In the same callback.
    bind_again(address)


@pytest.mark.parametrize("end", [forget_reader, forget_writer, cancel_receive, cancel_receive_from, cancel_send],
                         ids=lambda end: end.__name__)
@moments
async def test_stream_closed_behind_a_wait_that_ended(loop, stack, end, moment):
    ours, theirs = stream(stack)
    finish = end(loop, ours)
    await turns(moment)
    ending = finish()
    if asyncio.iscoroutine(ending):
        await ending
    ours.close()
    with contextlib.suppress(ConnectionResetError):
        while theirs.recv(1 << 20):
            pass


def test_closed_between_two_runs(loop, stack):
    sock, (ours, theirs) = listener(stack), stream(stack)
    address = sock.getsockname()

    async def add():
        loop.add_reader(sock, print)
        loop.add_reader(ours, print)

    loop.run_until_complete(add())
    for closing in (sock, ours):
        loop.remove_reader(closing)
        closing.close()
    bind_again(address)
    assert theirs.recv(1) == b""


def test_closed_before_the_first_run(loop_factory, stack):
    loop = loop_factory()
    try:
        ours, theirs = stream(stack)
        loop.add_reader(ours, print)
        loop.remove_reader(ours)
        ours.close()
        assert theirs.recv(1) == b""
    finally:
        loop.close()


async def test_closed_beside_a_call_that_still_waits(loop, stack):
    """Nobody tells a loop of it; but nothing of it is held."""
    ours, theirs = stream(stack)
    waiting = loop.create_task(loop.sock_recv(ours, 10))
    await turns(3)
    ours.close()
    assert theirs.recv(1) == b""
    waiting.cancel()
    await asyncio.wait([waiting])


@pytest.mark.parametrize("count", [0, 30, 300])
async def test_server_closed_among_ready_connections(loop, stack, count):
    pairs = [stream(stack) for _ in range(count)]
    for ours, _ in pairs:
        loop.add_reader(ours, ours.recv, 0)
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await turns(3)
    for _, theirs in pairs:
        theirs.send(b"x")
    server.close()
    bind_again(address)
    for ours, _ in pairs:
        loop.remove_reader(ours)
    await server.wait_closed()


@pytest.mark.parametrize("count", [100, 300])
async def test_transport_closed_among_busy_ones(loop, stack, count):
    """Each close is seen by the peer in the callback that connection_lost() is."""
    ends = []

    class Closing(asyncio.Protocol):
        def connection_lost(self, exc):
            ends.append(None)

    pairs = [stream(stack) for _ in range(count)]
    transports = [(await loop.create_connection(Closing, sock=ours))[0] for ours, _ in pairs]
    await turns(3)
    for _, theirs in pairs:
        theirs.send(b"x")
    for transport in transports[:40]:
        transport.abort()
    await until(lambda: len(ends) == 40)
    await turns(1)
    for _, theirs in pairs[:40]:
        with contextlib.suppress(ConnectionResetError):
            assert theirs.recv(10) == b""
    for transport in transports[40:]:
        transport.close()
    await until(lambda: len(ends) == count)


# -- a number's next owner --


@pytest.mark.parametrize("moment", [0, 3])
async def test_forgotten_reader_of_a_number_is_not_called_for_its_next_owner(loop, stack, moment):
    (ours, _), (other, theirs) = stream(stack), stream(stack)
    calls = []
    number = ours.fileno()
    loop.add_reader(number, calls.append, "forgotten")
    await turns(moment)
    ours.close()
    os.dup2(other.fileno(), number)
    heir = stack.enter_context(socket.socket(fileno=number))
    theirs.send(b"x")
    await turns(5)
    assert not calls
    assert heir.recv(10) == b"x"
    loop.remove_reader(number)


async def test_forgotten_reader_is_not_moved_when_the_writer_ends(loop, stack):
    (ours, peer), (other, theirs) = stream(stack), stream(stack)
    calls = []
    number = ours.fileno()
    loop.add_reader(number, calls.append, "forgotten")
    loop.add_writer(number, lambda: None)
    await turns(3)
    ours.close()
    os.dup2(other.fileno(), number)
    stack.enter_context(socket.socket(fileno=number))
    # The selector loop says that the file is gone.
    with contextlib.suppress(FileNotFoundError):
        loop.remove_writer(number)
    theirs.send(b"x")
    await turns(5)
    assert not calls
    with contextlib.suppress(FileNotFoundError):
        loop.remove_reader(number)


async def test_reader_goes_on_when_its_object_gives_the_descriptor_away(loop, stack):
    ours, theirs = stream(stack)
    calls = []
    loop.add_reader(ours, calls.append, None)
    await turns(3)
    number = ours.detach()
    heir = stack.enter_context(socket.socket(fileno=number))
    theirs.send(b"x")
    await until(lambda: len(calls) > 2)
    assert loop.remove_reader(number) is True
    assert heir.recv(10) == b"x"


async def test_reader_whose_fileno_raises_once(loop, stack):
    ours, theirs = stream(stack)
    calls = []

    class Moody:
        raising = False

        def fileno(self):
            if self.raising:
                self.raising = False
                raise OSError("not now")
            return ours.fileno()

    moody = Moody()
    loop.add_reader(moody, calls.append, None)
    await turns(3)
    moody.raising = True
    theirs.send(b"x")
    await until(lambda: len(calls) > 2)
    moody.raising = False
    assert loop.remove_reader(moody) is True


@pytest.mark.uringloop_only
async def test_closed_file_that_a_child_still_has_keeps_the_loop_asleep(loop, stack):
    """The selector loop is woken by it for ever: its set can't be rid of it."""
    ours, theirs = stream(stack)
    number = ours.fileno()
    loop.add_reader(number, print)
    await turns(3)
    duplicate = os.dup(number)
    ours.close()
    loop.remove_reader(number)
    theirs.send(b"x")
    await turns(3)
    select, sleeps = loop._selector.select, []

    def count(timeout):
        sleeps.append(timeout)
        return select(timeout)

    loop._selector.select = count
    await asyncio.sleep(0.02)
    del loop._selector.select
    os.close(duplicate)
    assert len(sleeps) < 10


# -- processes --

SERVER = """
    import asyncio, sys
    import uringloop

    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        print(*server.sockets[0].getsockname(), flush=True)
        print("up", flush=True)
        await asyncio.sleep(60)

    make = uringloop.new_event_loop if sys.argv[1] == "uringloop" else asyncio.SelectorEventLoop
    asyncio.run(main()) if make is asyncio.SelectorEventLoop else uringloop.run(main())
"""


@contextlib.contextmanager
def server_process(loop_name):
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", textwrap.dedent(SERVER), loop_name],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            host, port = process.stdout.readline().split()
            assert process.stdout.readline() == "up\n"
            yield process, (host, int(port))
        finally:
            process.kill()


@pytest.mark.parametrize("loop_name", ["selector", "uringloop"])
def test_port_of_a_killed_server_is_free(loop_name):
    for _ in range(3):
        with server_process(loop_name) as (process, address):
            process.kill()
            process.wait()
            bind_again(address)


def test_killed_server_with_a_child_of_a_fork(stack):
    """The child has inherited the ring: were it to keep it, the connection would go on as long as it lives."""
    program = textwrap.dedent("""
        import os, socket, sys
        import uringloop
        from uringloop import _overlapped

        loop = uringloop.new_event_loop()
        a, b = socket.socketpair()
        a.setblocking(False)
        future = loop._proactor.recv(a, 10)
        loop.call_soon(loop.stop)
        loop.run_forever()
        before = set(os.listdir("/proc/self/fd"))
        kinds = {name: os.readlink(f"/proc/self/fd/{name}") for name in before if os.path.exists(f"/proc/self/fd/{name}")}
        ours = {name for name, kind in kinds.items() if kind.startswith("anon_inode:")}
        assert len(ours) == 3, kinds
        pid = os.fork()
        if pid == 0:
            left = [name for name in ours if os.path.exists(f"/proc/self/fd/{name}")]
            os._exit(len(left))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        loop.call_soon(loop.stop)
        loop.run_forever()
        b.send(b"x")
        print(loop.run_until_complete(future))
        loop.close()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "b'x'"], done.stderr


# -- timers --


async def test_no_timer_fires_early(loop):
    late = []
    for _ in range(50):
        for delay in (0.0001, 0.0005, 0.0011):
            due = loop.time() + delay
            fired = loop.create_future()
            loop.call_at(due, lambda: fired.set_result(loop.time()))
            late.append(await fired - due)
    assert min(late) >= 0
