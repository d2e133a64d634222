"""An exception at any line of a transport, as a signal's handler raises one, leaves its endpoint working.

A trace function raises in the place of the handler: once at each line that the loop's transports and servers run in a
scenario, each time on a fresh loop.  Afterwards the endpoint still works, or it has been closed and its protocol told.
Native transports have few such lines, or none: in them a signal's handler runs where they call Python, and a real one
raises there as often as a timer can have it.
"""

import asyncio
import contextlib
import inspect
import os
import signal
import socket
import sys
import time
from asyncio import base_events, events, proactor_events, selector_events

import pytest

import uringloop
from random_steps.lines import Interrupted, Lines
from support import Buffered, Recorder, some_bytes, turns
from uringloop import stdlib_transports

FILES = {stdlib_transports.__file__, selector_events.__file__, proactor_events.__file__}
# What runs between a completion and the transport: code -> the name of the Handle in it, and of whose it is.
HANDLES = {base_events.BaseEventLoop._run_once.__code__: "handle", events.Handle._run.__code__: "self"}
CALLBACKS = {"_read_ready", "_write_ready", "_write_sendmsg", "_sendto_ready", "accept"}


class Interrupt(KeyboardInterrupt):
    pass


class Failure(Exception):
    """What the handler of another signal raises."""


def is_of_a_transport(handle):
    return getattr(getattr(handle, "_callback", None), "__name__", None) in CALLBACKS


class Tracer:
    """Raises `exception` at the line `at`, once; remembers the lines seen."""

    def __init__(self, exception=None, at=None):
        self.exception = exception
        self.at = at
        self.lines = {}
        self.hit = False
        # How many lines a scenario has at least.
        self.least = 0

    def __call__(self, frame, event, arg):
        code = frame.f_code
        return self.line if code.co_filename in FILES or code in HANDLES else None

    def line(self, frame, event, arg):
        name = HANDLES.get(frame.f_code)
        if event == "line" and (name is None or is_of_a_transport(frame.f_locals.get(name))):
            line = frame.f_code.co_name, frame.f_lineno
            self.lines[line] = True
            if line == self.at and not self.hit:
                self.hit = True
                raise self.exception
        return self.line


class Scenario:
    """An endpoint, something that happens to it while lines are traced, and the question whether it still works."""

    def __init__(self, loop):
        self.loop = loop
        self.told = []
        loop.set_exception_handler(lambda _, context: self.told.append(context["message"]))

    def run(self, count=10):
        self.loop.run_until_complete(turns(count))

    def pair(self, stack, protocol=Recorder):
        near, self.far = socket.socketpair()
        stack.enter_context(self.far)
        for sock in near, self.far:
            sock.setblocking(False)

        async def connect():
            return await self.loop.create_connection(protocol, sock=near)

        self.transport, self.protocol = self.loop.run_until_complete(connect())

    def is_closed(self):
        return self.protocol.lost.done()

    def received(self):
        with contextlib.suppress(BlockingIOError):
            return self.far.recv(1 << 24)
        return b""

    def end(self):
        self.transport.abort()


class Receiving(Scenario):
    def start(self, stack):
        self.pair(stack)

    def happen(self):
        self.far.send(b"first")
        self.run()

    def works(self):
        self.far.send(b"second")
        self.run()
        return self.protocol.data.endswith(b"second")


class ReceivingBuffered(Receiving):
    def start(self, stack):
        self.pair(stack, Buffered)


class Resumed(Receiving):
    """A pause in one run, the end of it in the next."""

    def happen(self):
        self.transport.pause_reading()
        self.far.send(b"first")
        self.run()
        self.loop.call_soon(self.resume)
        self.run()

    def resume(self):
        # Who was interrupted in the middle asks again.
        try:
            self.transport.resume_reading()
        except (Interrupt, Failure):
            self.transport.pause_reading()
            self.transport.resume_reading()
            raise

    def works(self):
        if self.transport.is_reading():
            return super().works()
        return not self.transport.is_reading()


class Ending(Scenario):
    """The peer's end is told, and closes the transport."""

    def start(self, stack):
        self.pair(stack)

    def happen(self):
        self.far.shutdown(socket.SHUT_WR)
        self.run()

    def works(self):
        self.run()
        return self.protocol.calls.count("connection_lost") == 1


class Writing(Scenario):
    data = b"first"

    def start(self, stack):
        self.pair(stack)

    def happen(self):
        self.loop.call_soon(self.transport.write, self.data)
        self.run()

    def works(self):
        if self.transport.is_closing():
            return self.is_closed()
        self.transport.write(b"second")
        received = b""
        for _ in range(100):
            self.run()
            received += self.received()
        return received.endswith(b"second")


class WritingTheEnd(Scenario):
    def start(self, stack):
        self.pair(stack)

    def happen(self):
        self.loop.call_soon(self.transport.write, b"first")
        self.loop.call_soon(self.transport.write_eof)
        self.run()

    def works(self):
        self.transport.write_eof()
        self.run()
        received = []
        while not received or received[-1]:
            received.append(self.far.recv(100))
        return True


class Closing(Scenario):
    def start(self, stack):
        self.pair(stack)

    def happen(self):
        self.loop.call_soon(self.transport.write, b"first")
        self.loop.call_soon(self.transport.close)
        self.run()

    def is_closed(self):
        return False

    def works(self):
        # Whether or not it has come to the end.
        self.transport.close()
        self.run()
        return self.protocol.calls.count("connection_lost") == 1


class WritingMuch(Writing):
    """More than there is room for; the peer reads while lines are traced."""

    data = some_bytes(2_000_000)

    def start(self, stack):
        super().start(stack)
        self.transport.write(self.data)

    def happen(self):
        for _ in range(5):
            self.received()
            self.run()

    def works(self):
        return super().works() and "resume_writing" in self.protocol.calls or self.is_closed()


class Datagrams(Scenario):
    def start(self, stack):
        scenario = self
        self.data = []

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                scenario.data.append(data)

            def connection_lost(self, exc):
                scenario.data.append(exc)

        async def connect():
            return await self.loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))

        self.transport, _ = self.loop.run_until_complete(connect())
        self.far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.far.connect(self.transport.get_extra_info("sockname"))
        self.far.setblocking(False)

    def is_closed(self):
        return self.transport.is_closing()

    def happen(self):
        self.far.send(b"first")
        self.loop.call_soon(self.transport.sendto, b"one", self.far.getsockname())
        self.run()

    def works(self):
        self.far.send(b"second")
        self.transport.sendto(b"two", self.far.getsockname())
        self.run()
        answers = [self.received(), self.received()]
        return self.data[-1] == b"second" and b"two" in answers


class Accepting(Scenario):
    def start(self, stack):
        self.stack = stack
        self.transports = []
        scenario = self

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                scenario.transports.append(transport)

        async def serve():
            return await self.loop.create_server(Protocol, "127.0.0.1", 0)

        self.server = self.loop.run_until_complete(serve())
        self.address = self.server.sockets[0].getsockname()

    def is_closed(self):
        return False

    def happen(self):
        self.client()
        self.run()

    def client(self):
        self.stack.enter_context(socket.create_connection(self.address))

    def works(self):
        before = len(self.transports)
        self.client()
        self.run()
        # The number of one that was closed is no transport's.
        for sock in socket.socketpair() + socket.socketpair():
            self.stack.enter_context(sock)
            self.loop.add_reader(sock, int)
            self.loop.remove_reader(sock)
        return len(self.transports) > before

    def end(self):
        for transport in self.transports:
            transport.abort()
        self.server.close()


def play(loop_factory, scenario, tracer):
    """Return what is wrong with the endpoint, or None."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(contextlib.closing(loop_factory()))
        one = scenario(loop)
        if getattr(loop, "_tier", stdlib_transports) is stdlib_transports:
            tracer.least = 3
        one.start(stack)
        one.run()
        sys.settrace(tracer)
        try:
            one.happen()
        except (Interrupt, Failure):
            pass
        finally:
            sys.settrace(None)
        wrong = None
        one.run()
        if not one.is_closed() and not one.works():
            wrong = one.told or "nothing told"
        one.end()
        one.run(5)
        return wrong


def check_all_lines(loop_factory, scenario, exception, spared=()):
    tracer = Tracer()
    assert play(loop_factory, scenario, tracer) is None
    assert len(tracer.lines) >= tracer.least
    wrong = {}
    for line in tracer.lines:
        if line[0] in spared:
            continue
        one = Tracer(exception, line)
        result = play(loop_factory, scenario, one)
        # A line may come in one run and not in another.
        if result is not None and one.hit:
            wrong[line] = result
    assert not wrong


@pytest.mark.parametrize("exception", [Interrupt, Failure])
@pytest.mark.parametrize("scenario", [Receiving, ReceivingBuffered, Resumed, Writing, WritingMuch, Datagrams],
                         ids=lambda scenario: scenario.__name__)
def test_interrupt_at_any_line(loop_factory, scenario, exception):
    if scenario is WritingMuch and sys.version_info >= (3, 15) and loop_factory is asyncio.SelectorEventLoop:
        pytest.skip("the selector loop's loses count of its buffer")
    check_all_lines(loop_factory, scenario, exception)


@pytest.mark.uringloop_only  # the selector loop's transport never ends when its close() is interrupted
@pytest.mark.parametrize("exception", [Interrupt, Failure])
def test_interrupt_while_the_end_is_told(loop_factory, exception):
    # Who is interrupted there has ended already.
    check_all_lines(loop_factory, Ending, exception, spared=["_call_connection_lost", "_stop_writing", "_drop_unsent"])


@pytest.mark.parametrize("exception", [Interrupt, Failure])
def test_interrupted_write_eof_can_be_called_again(loop_factory, exception):
    # Once it is marked, it is done.
    check_all_lines(loop_factory, WritingTheEnd, exception, spared=["write_eof"])


@pytest.mark.uringloop_only  # as above
@pytest.mark.parametrize("exception", [Interrupt, Failure])
def test_interrupted_close_can_be_called_again(loop_factory, exception):
    check_all_lines(loop_factory, Closing, exception, spared=["_call_connection_lost", "_stop_writing", "_drop_unsent"])


@pytest.mark.uringloop_only  # the selector loop's server keeps the accepted socket open
# The one of which an interrupt has let go is collected without having been closed.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("exception", [Interrupt, Failure])
def test_interrupt_while_a_client_is_accepted(loop_factory, exception):
    check_all_lines(loop_factory, Accepting, exception)


def test_interrupt_out_of_eof_received(loop, pair):
    """The end is told again."""

    class Interrupted(Recorder):
        def eof_received(self):
            super().eof_received()
            if self.calls.count("eof_received") == 1:
                raise Interrupt

    async def start():
        return await loop.create_connection(Interrupted, sock=pair[0])

    _, protocol = loop.run_until_complete(start())
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(Interrupt):
        loop.run_forever()
    loop.run_until_complete(protocol.lost)
    assert protocol.calls.count("eof_received") == 2


class Told(Accepting):
    """Whoever is told of a connection has one."""

    def is_closed(self):
        return False

    def works(self):
        return super().works() and all(
            transport.get_extra_info("socket").fileno() >= 0 for transport in self.transports)


@pytest.mark.uringloop_only
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("exception", [Interrupt, Failure])
def test_interrupted_accept_tells_of_no_closed_socket(loop_factory, exception):
    """On native transports. The stdlib's constructors are Python, and have told of it before they are through."""
    with contextlib.closing(loop_factory()) as loop:
        if loop._tier is stdlib_transports:
            return
    check_all_lines(loop_factory, Told, exception)


class Flow(asyncio.Protocol):
    """Sends back what it gets, and remembers whether it was told of an end."""

    def __init__(self, received):
        self.received = received
        self.lost = []
        # A function of C: one of Python is interrupted before it remembers anything.
        self.connection_lost = self.lost.append

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received.append(len(data))
        self.transport.write(data)


class BufferedFlow(Flow, asyncio.BufferedProtocol):
    def __init__(self, received):
        super().__init__(received)
        self.buffer = bytearray(5000)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data_received(bytes(self.buffer[:count]))


class DatagramFlow(Flow, asyncio.DatagramProtocol):
    def datagram_received(self, data, addr):
        self.received.append(len(data))
        self.transport.sendto(data, addr)


def find_turn():
    lines, first = inspect.getsourcelines(base_events.BaseEventLoop.run_forever)
    return first + [line.strip() for line in lines].index("self._run_once()")


# Where run_forever() takes its turns; its beginning and its end are left alone.
TURN = find_turn()


class Ticks:
    """A signal's handler that raises whenever a timer says so, but in what the loop's _run_once() calls only."""

    interval = 0.0003

    def __init__(self, exception):
        self.exception = exception
        self.count = 0
        self.armed = False

    def __call__(self, number, frame):
        while self.armed and frame is not None:
            if frame.f_code is base_events.BaseEventLoop.run_forever.__code__ and frame.f_lineno == TURN:
                self.count += 1
                raise self.exception
            frame = frame.f_back

    def unraisable(self, told):
        self.armed = False
        self.ignored.append(str(told.object))

    def __enter__(self):
        # Of a finalizer, say. (pytest's own hook would be interrupted as well.)
        self.ignored = []
        self.hook = sys.unraisablehook
        sys.unraisablehook = self.unraisable
        self.before = signal.signal(signal.SIGALRM, self)
        signal.setitimer(signal.ITIMER_REAL, self.interval, self.interval)
        return self

    def __exit__(self, *_):
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        sys.unraisablehook = self.hook


@pytest.mark.uringloop_only  # interrupted at the wrong place, the selector loop calls a writer for ever
# Who is interrupted at its end has ended all the same.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("exception", [Interrupt, Failure])
def test_signals_raise_all_the_time(loop_factory, stack, exception):
    """Where the interpreter lets a handler run, which is in the protocols, the loop and what transports call of them."""
    loop = stack.enter_context(contextlib.closing(loop_factory()))
    loop.set_exception_handler(lambda *_: None)
    received = []
    ends = []

    async def make():
        for kind in (Flow, BufferedFlow, Flow, BufferedFlow):
            near, far = socket.socketpair()
            near.setblocking(False)
            transport, protocol = await loop.create_connection(lambda kind=kind: kind(received), sock=near)
            ends.append((transport, protocol, stack.enter_context(far)))
        for _ in range(2):
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: DatagramFlow(received), local_addr=("127.0.0.1", 0))
            far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            far.connect(transport.get_extra_info("sockname"))
            ends.append((transport, protocol, far))

    def turn(count=1):
        for _ in range(count):
            loop.call_soon(loop.stop)
            loop.run_forever()

    def put(size):
        for transport, _, far in ends:
            # (Or its transport has ended.)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                far.send(bytes(min(size, 8000) if hasattr(transport, "sendto") else size))

    def take():
        for _, _, far in ends:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while far.recv(1 << 20):
                    pass

    loop.run_until_complete(make())
    for _, _, far in ends:
        far.setblocking(False)
    give_up = time.monotonic() + 5
    with Ticks(exception) as ticks:
        round_ = 0
        while ticks.count < 400 and time.monotonic() < give_up:
            round_ += 1
            put((100, 3000, 100_000)[round_ % 3])
            ticks.armed = True
            try:
                turn(3)
            except exception:
                pass
            finally:
                ticks.armed = False
            if loop._stopping:
                loop._stopping = False
            if round_ % 4 == 0:
                take()
    assert ticks.count and received
    # No interrupt is lost in a function that can't raise.
    assert not [name for name in ticks.ignored if "uringloop" in name]
    take()
    for _ in range(100):
        turn()
        take()
    in_python = loop._tier is stdlib_transports
    for transport, protocol, far in ends:
        if transport.is_closing():
            # (The reference tells it in Python: it may have been interrupted at the first line of that.)
            assert protocol.lost or in_python, transport
            continue
        received.clear()
        far.send(b"last")
        turn(5)
        assert received == [4], transport
        answer = far.recv(100)
        while in_python and answer != b"last":
            # (What was queued when an interrupt came there leaves with the next.)
            answer = far.recv(1 << 20)
        assert answer == b"last", transport
        transport.abort()
    turn(3)
    assert in_python or all(protocol.lost for _, protocol, _ in ends)


@pytest.mark.uringloop_only
def test_lines_of_a_pipe_s_transport_that_count(loop, errors):
    """The state machine interrupts asyncio's own transport nowhere where that leaves it with nothing to write."""
    for nth in range(1, 200):
        hits = []
        reader, writer = os.pipe()
        with open(reader, "rb", 0) as reads:
            transport, _ = loop.run_until_complete(
                loop.connect_write_pipe(asyncio.BaseProtocol, open(writer, "wb", 0)))
            os.set_blocking(reader, False)
            transport.write(bytes(100_000))
            total = len(reads.read(100_000))
            with contextlib.suppress(Interrupted), Lines(nth, Interrupted, hits.append, False, lambda _: True, ()):
                loop.run_until_complete(turns(3))
            for _ in range(3):
                loop.run_until_complete(turns(3))
                total += len(reads.read(100_000) or b"")
            # The piece in hand may come twice.
            assert total == 100_000 or (hits and total > 100_000)
            assert not errors, hits[0].place
            transport.close()
            loop.run_until_complete(turns(3))
        if not hits:
            break
    assert nth > 5


def test_close_again_after_an_interrupt():
    """The first close() has closed the self-pipe, and then waited for the kernel."""

    class InterruptedProactor(uringloop.IouringProactor):
        interrupts = 1

        def close(self):
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            super().close()

    loop = uringloop.IouringProactorEventLoop(InterruptedProactor())
    with pytest.raises(KeyboardInterrupt):
        loop.close()
    assert not loop.is_closed()
    loop.close()
    assert loop.is_closed()
