"""Hostile arguments: what the selector loop makes of them, ours makes of them too.

A case is one call of a public method of a loop or a transport with an argument that no caller should pass.  It
runs on a fresh selector loop, the oracle, and on a fresh loop of ours, and the two outcomes must be the same: the
value, the exception's type (and errno), what the protocol and the exception handler were told, or that the call
was still waiting when the case's time was over.  What differs on purpose stands in DEVIATIONS.  After each case
the loop must still echo, hold no operation of the case, and close.

The proactor's own methods have no oracle.  There an argument that is wrong must raise a plain Python exception, at
once or by the future, and leave no operation behind.

`python tests/test_hostile_arguments.py [TEXT]` prints the outcomes of the cases with TEXT in their names.
"""

import array
import asyncio
import concurrent.futures
import contextlib
import errno
import functools
import gc
import inspect
import io
import mmap
import os
import select
import signal
import socket
import ssl
import sys
import tempfile
import warnings

import pytest

import uringloop
from loop_factories import LOOPS, ORACLE, OURS
from support import certificate_contexts, drain, fill, tcp_pair, turns
from uringloop import IouringProactor, _overlapped

# How long a case may wait after its turns, in seconds.  Where the two loops disagree and one was still waiting, the
# case is run again with the longer time, so that a slow machine is not taken for a difference.
PATIENCE = 0.05
MORE_PATIENCE = 3

TURNS = 20

PAGE = mmap.PAGESIZE
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # from Python 3.13 on


# -- the differences --

LIES = {"2**31": 2**31, "2**70": 2**70, "-1": -1, "a str": "seven", "None": None, "raising": ZeroDivisionError()}
WITH_SOCK = ("create_connection", "create_unix_connection", "connect_accepted_socket")
WAITING_CALLS = ("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_accept",
                 "sock_sendfile")


def both(name):
    """A case of a socket with nothing to read, and the same with something."""
    return name, f"{name}, ready"


# Number: (reason, {case: (the selector loop's outcome, ours)}).
DEVIATIONS = {
    "H1": (
        "A socket that is closed beside a waiting call ends it with OSError(EBADF), where the selector loop waits for "
        "ever: D18 in uring_events.pyx.",
        {f"{method}: socket closed{what} while it waits": ("pending", "OSError EBADF")
         for method in WAITING_CALLS for what in ("", " and its number taken by another")}
        | {"sock_connect: socket closed while it waits": ("pending", "OSError EBADF")},
    ),
    "H2": (
        "A negative descriptor that comes to the ring is OSError(EBADF); selectors say ValueError.",
        {f"{method}: fileno() -1": ("ValueError", "OSError EBADF") for method in WAITING_CALLS if "recv" in method}
        | {name: ("(a transport, Witness); handler: ValueError", "(a transport, Witness); handler: OSError EBADF")
           for method in WITH_SOCK for name in both(f"{method}: fileno() -1")},
    ),
    "H3": (
        "With two things wrong another is told first: the socket's own method is called before its fileno().",
        {name: ("ZeroDivisionError", "FileNotFoundError ENOENT") for name in both("sock_connect: fileno() raising")}
        | {name: ("ZeroDivisionError", "OSError EINVAL") for name in both("sock_accept: fileno() raising")},
    ),
    "H4": (
        "Of a TransportSocket the proactor's transports need a descriptor, the selector's recv() too.",
        {f"{method}: TransportSocket": (
            "(a transport, Witness); handler: AttributeError, AttributeError",
            "(a transport, Witness); handler: AttributeError") for method in WITH_SOCK},
    ),
    "H5": (
        "The selector loop takes the number of items for the number of bytes, and waits for ever to send the rest.",
        {"sock_sendall: array of ints": ("pending", "12")},
    ),
    "H6": (
        "A protocol factory that fails costs its connection, which the selector loop leaves open: T6 in "
        "stdlib_transports.py.",
        {f"create_{kind}: factory that gives {what}": ("pending", outcome)
         for kind, outcome in {"server": "b''", "unix_server": "ConnectionResetError ECONNRESET"}.items()
         for what in ("None", "no protocol")},
    ),
    "H7": (
        "The stdlib's proactor transports copy what they are given before they send, and join what writelines() is "
        "given: what can be copied can be sent, and what can't is told to the caller.",
        {
            "transport.write: non-contiguous memoryview": (
                "(None, True, ('lost BufferError'), b''); handler: BufferError",
                r"(None, False, (), b'\x00\x00\x00\x00')"),
            "transport.writelines: non-contiguous memoryview among others": (
                "(None, True, ('lost BufferError'), b''); handler: BufferError", "(TypeError, False, (), b'')"),
        }
        | {f"transport.sendto: non-contiguous memoryview{how}": (
            "(None, True, ('lost BufferError'), ()); handler: BufferError",
            r"(None, False, (), (b'\x00\x00\x00\x00'))") for how in ("", ", connected")},
    ),
    "H8": (
        "The selector loop of Python 3.12 hands sendfile(2) any count, that of 3.13 no more than there is.",
        {f"{method}: count {count}": ("OverflowError", outcome)
         for count in ("2**63", "2**70")
         for name, outcome in {"sock_sendfile": "10", "sendfile": "(10, b'0123456789')"}.items()
         for method in (name, f"{name}(fallback=False)")},
    ),
    "H9": (
        "A datagram that can't be copied is told to the caller; the selector loop of Python 3.12 does so, too.",
        {f"transport.sendto: released memoryview{how}": (
            "(None, True, ('lost ValueError'), ()); handler: ValueError", "(ValueError, False, (), ())")
         for how in ("", ", connected")},
    ),
    "H10": (
        "The selector loop of later Pythons skips what is false among writelines()' buffers: None, a number 0.",
        {
            "transport.writelines: None for a buffer among others": (
                "(None, False, (), b'1234')", "(TypeError, False, (), b'')"),
            "transport.writelines: non-contiguous memoryview": ("(None, False, (), b'')", "(TypeError, False, (), b'')"),
            "transport.writelines: bytearray": ("(None, False, (), b'')", "(TypeError, False, (), b'')"),
        },
    ),
    "H11": (
        "When the file's position can't be set at the end, the selector loop's callback fails and its future is never "
        "done; later Pythons set it even if nothing was sent.",
        {"sock_sendfile: closed file, waiting": ("pending; handler: OSError EBADF", "OSError EBADF")},
    ),
    "H12": (
        "b''.join(), with which the stdlib's proactor transports join, now raises ValueError for a released memoryview "
        "on Python 3.12 and now returns b'', without any loop, too; the selector loop's way always raises.",
        {"transport.writelines: released memoryview": ("(ValueError, False, (), b'')", "(None, False, (), b'')")},
    ),
}

# The outcomes of these may also be the same.
NOT_ON_ALL_PYTHONS = {"H8", "H9", "H10", "H11", "H12"}


# -- outcomes --


def describe(value):
    """One line for a value or an exception; what changes from run to run is left out."""
    match value:
        case OSError(errno=int(number)) if not isinstance(value, socket.gaierror):
            return f"{type(value).__name__} {errno.errorcode.get(number, number)}"
        case BaseException():
            return type(value).__name__
        case None | bool() | int() | float() | str():
            return repr(value)
        case bytes():
            return repr(value) if len(value) < 40 else f"{len(value)} bytes"
        case [*items]:
            return f"({', '.join(map(describe, items))})"
        case asyncio.BaseTransport():
            return "a transport"
        case socket.socket():
            return "a socket"
        case asyncio.Handle():
            return "a handle"
        case _:
            return type(value).__name__


class Witness(asyncio.Protocol, asyncio.DatagramProtocol):
    """Remembers what it was told."""

    def __init__(self):
        self.told = []
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.told.append(f"data {describe(data)}")

    def datagram_received(self, data, addr):
        self.told.append(f"datagram {describe(data)}")

    def error_received(self, exc):
        self.told.append(f"error {describe(exc)}")

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, exc):
        self.told.append(f"lost {describe(exc)}")


class InlineExecutor(concurrent.futures.ThreadPoolExecutor):
    """Works at once: a case must not depend on when a thread gets its turn."""

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


class World:
    """What a case may use; all that it made is closed at the case's end."""

    def __init__(self, factory):
        self.stack = contextlib.ExitStack()
        self.loop = factory()
        self.is_ours = isinstance(self.loop, uringloop.IouringProactorEventLoop)
        self.contexts = []
        self.loop.set_exception_handler(lambda _, context: self.contexts.append(context))
        self.loop.set_default_executor(InlineExecutor())
        self.leftovers = []

    def keep(self, sock, blocking=False):
        self.stack.callback(sock.close)
        sock.setblocking(blocking)
        return sock

    def pair(self):
        a, b = socket.socketpair()
        return self.keep(a), self.keep(b)

    def tcp_pair(self):
        a, b = tcp_pair()
        return self.keep(a), self.keep(b)

    def one(self, data=b""):
        """A connected stream socket to which its peer has sent `data`."""
        a, b = self.pair()
        b.send(data)
        return a

    def full(self):
        """A connected stream socket that takes no more data."""
        a, _ = self.pair()
        fill(a)
        return a

    def datagram(self, data=None):
        """A connected datagram socket to which its peer has sent `data`."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.keep(a), self.keep(b)
        if data is not None:
            b.send(data)
        return a

    def udp(self):
        sock = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        return sock

    def tcp(self):
        return self.keep(socket.socket())

    def unix(self):
        return self.keep(socket.socket(socket.AF_UNIX))

    def descriptor(self, number):
        self.stack.callback(os.close, number)
        return number

    def pipe(self, mode):
        """The end of a pipe, of which the other stays open."""
        r, w = os.pipe()
        self.descriptor(w if mode == "rb" else r)
        return self.stack.enter_context(open(r if mode == "rb" else w, mode, buffering=0))

    def listener(self):
        return self.keep(socket.create_server(("127.0.0.1", 0)))

    def directory(self):
        return self.stack.enter_context(tempfile.TemporaryDirectory())

    def file(self, mode="rb", content=b"0123456789"):
        path = os.path.join(self.directory(), "file")
        with open(path, "wb") as file:
            file.write(content)
        return self.stack.enter_context(open(path, mode))

    def debug(self, value):
        self.loop.set_debug(True)
        return value

    async def transport(self, sock=None, protocol=None):
        sock = sock or self.one()
        transport, protocol = await self.loop.create_connection(lambda: protocol or Witness(), sock=sock)
        self.leftovers.append(transport.abort)
        return transport, protocol

    async def datagram_transport(self, **kwargs):
        transport, protocol = await self.loop.create_datagram_endpoint(Witness, **kwargs)
        self.leftovers.append(transport.abort)
        return transport, protocol

    def leave(self, value):
        """See to it that what a create_* method returned is closed."""
        for item in value if isinstance(value, tuple) else [value]:
            if isinstance(item, asyncio.BaseTransport):
                self.leftovers.append(getattr(item, "abort", item.close))
            elif isinstance(item, socket.socket):
                self.stack.callback(item.close)
            elif isinstance(item, asyncio.AbstractServer):
                self.leftovers.append(item.close)
            elif isinstance(item, asyncio.Handle):
                self.leftovers.append(item.cancel)
        return value

    # -- one case --

    def operations(self):
        proactor = getattr(self.loop, "_proactor", None)
        return 0 if proactor is None else len(proactor._cache)

    async def finished(self, body, patience):
        """(True, outcome) of `await body(self)`, or (False, "pending")."""

        async def case():
            result = body(self)
            return self.leave(await result if inspect.isawaitable(result) else result)

        task = self.loop.create_task(case())
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if task.done():
                break
        else:
            await asyncio.wait([task], timeout=patience)
        await turns(3)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=MORE_PATIENCE)
            assert task.done(), "the case can't be cancelled"
            return "pending"
        return describe(task.exception() or task.result())

    async def echo(self):
        a, b = self.pair()
        await self.loop.sock_sendall(a, b"still here")
        assert await self.loop.sock_recv(b, 100) == b"still here"

    async def wind_up(self):
        for leftover in self.leftovers:
            try:
                leftover()
            except Exception:
                if self.is_ours:
                    raise
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await turns(10)

    async def whole(self, body, patience):
        await turns(2)
        before = self.operations()
        outcome = await self.finished(body, patience)
        await self.echo()
        await self.wind_up()
        assert self.operations() == before
        return outcome


def outcome_of(body, factory, patience=PATIENCE):
    """Run a case on a fresh loop."""
    world = World(factory)
    with warnings.catch_warnings():
        # Coroutines that nobody awaits.
        warnings.simplefilter("ignore")
        try:
            if getattr(body, "outside", False):
                outcome = outside(world, body)
                if not world.loop.is_closed():
                    world.loop.run_until_complete(world.echo())
                    world.loop.run_until_complete(world.wind_up())
            else:
                outcome = world.loop.run_until_complete(world.whole(body, patience))
        except (ArithmeticError, TypeError) as exc:
            outcome = f"the loop ends with {describe(exc)}"
            del world.contexts[:]
            world.contexts = []
        finally:
            world.loop.close()
            world.stack.close()
        del world.loop
        gc.collect(0)
    handled = [describe(context.get("exception") or context.get("message")) for context in world.contexts]
    world.contexts.clear()
    return f"{outcome}; handler: {', '.join(handled)}" if handled else outcome


def outside(world, body):
    try:
        return describe(world.leave(body(world)))
    except Exception as exc:
        return describe(exc)


@functools.cache
def oracle_s_outcome(name):
    return outcome_of(CASES[name], LOOPS[ORACLE])


def outcomes(name, loop_name):
    """(the selector loop's outcome, that of our loop of this name)"""
    factories = LOOPS[ORACLE], LOOPS[loop_name]
    found = [oracle_s_outcome(name), outcome_of(CASES[name], LOOPS[loop_name])]
    if found[0] != found[1] and tuple(found) != EXPECTED.get(name, ())[1:] and "pending" in found:
        found = [outcome_of(CASES[name], factory, MORE_PATIENCE) for factory in factories]
    return tuple(found)


# -- hostile things: {what it is: lambda world: the thing} --


class Liar(socket.socket):
    """A sound socket whose fileno() does not tell the truth."""

    def fileno(self):
        if isinstance(self.answer, Exception):
            # A fresh one: with LIES's own, the traceback, and all that its frames hold, would stay for good.
            raise type(self.answer)
        return self.answer


def liar(answer, data=b""):
    def make(world):
        sock = world.keep(Liar(fileno=world.one(data).detach()))
        sock.answer = answer
        return sock

    return make


class Duck:
    """Has a true fileno() and nothing else."""

    def __init__(self, sock):
        self.fileno = sock.fileno


def closed(world):
    sock = world.one(b"data")
    sock.close()
    return sock


def detached(world):
    sock = world.one(b"data")
    os.close(sock.detach())
    return sock


def ssl_socket(world):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return world.keep(context.wrap_socket(world.one(), do_handshake_on_connect=False))


async def used(world):
    """A socket that a transport works on."""
    sock = world.one()
    await world.transport(sock)
    return sock


SOCKETS = {
    "None for a socket": lambda w: None,
    "str for a socket": lambda w: "7",
    "int for a socket": lambda w: w.one(b"data").fileno(),
    "object() for a socket": lambda w: object(),
    "an object with fileno() only": lambda w: Duck(w.one(b"data")),
    "TransportSocket": lambda w: asyncio.trsock.TransportSocket(w.one(b"data")),
    "closed socket": closed,
    "detached socket": detached,
    "SSLSocket": ssl_socket,
    "blocking socket in debug mode": lambda w: w.debug(w.keep(w.one(b"data"), blocking=True)),
    "connected socket": lambda w: w.one(b"data"),
    "socket of a transport": used,
    "unconnected TCP socket": lambda w: w.tcp(),
    "unconnected unix socket": lambda w: w.unix(),
    "listening socket": lambda w: w.listener(),
    "datagram socket": lambda w: w.datagram(b"data"),
    **{f"fileno() {name}": liar(answer) for name, answer in LIES.items()},
    **{f"fileno() {name}, ready": liar(answer, b"data") for name, answer in LIES.items()},
}


def released(data):
    view = memoryview(data)
    view.release()
    return view


def huge(world):
    """2 GiB of which no page is there; unmapped when nobody refers to them."""
    return mmap.mmap(-1, 2**31, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)


def closed_mmap(world):
    view = mmap.mmap(-1, PAGE)
    view.close()
    return view


BAD_BUFFERS = {
    "None for a buffer": lambda w: None,
    "str for a buffer": lambda w: "data",
    "int for a buffer": lambda w: 4,
    "list for a buffer": lambda w: [1, 2, 3],
    "object() for a buffer": lambda w: object(),
    "non-contiguous memoryview": lambda w: memoryview(bytearray(8))[::2],
    "released memoryview": lambda w: released(bytearray(4)),
    "closed mmap": closed_mmap,
}

BAD_TARGETS = {
    **BAD_BUFFERS,
    "bytes": lambda w: b"1234",
    "read-only memoryview": lambda w: memoryview(b"1234"),
}

# Strange, and in order.
TARGETS = {
    "empty bytearray": lambda w: bytearray(),
    "array of doubles": lambda w: array.array("d", [0, 0]),
    "memoryview of two dimensions": lambda w: memoryview(bytearray(4)).cast("B", (2, 2)),
    "2 GiB mmap": huge,
}

SOURCES = {
    "empty bytes": lambda w: b"",
    "read-only memoryview": lambda w: memoryview(b"1234"),
    "bytearray": lambda w: bytearray(4),
    "2 GiB mmap": huge,
    "2 GiB memoryview": lambda w: w.stack.enter_context(memoryview(huge(w))),
}


class Index:
    """An integer by __index__ alone."""

    def __index__(self):
        return 4


BAD_SIZES = {
    "length None": None,
    "length a str": "4",
    "length a float": 4.0,
    "length -1": -1,
    "length 2**63": 2**63,
    "length -2**70": -(2**70),
}

SIZES = {
    "length 0": 0,
    "length True": True,
    "length 2**31": 2**31,
    "length by __index__": Index(),
}

# For IPv4.  None of them makes a name server wonder.
BAD_ADDRESSES = {
    "address None": None,
    "address an int": 80,
    "address a path": "/nowhere/socket",
    "address bytes": b"/nowhere/socket",
    "address ()": (),
    "address of one": ("127.0.0.1",),
    "address of five": ("127.0.0.1", 80, 0, 0, 0),
    "port None": ("127.0.0.1", None),
    "port 70000": ("127.0.0.1", 70000),
    "port -1": ("127.0.0.1", -1),
    "port 2**70": ("127.0.0.1", 2**70),
    "port a float": ("127.0.0.1", 80.5),
    "port a service of no one": ("127.0.0.1", "no such service"),
    "host with NUL": ("127.0.0.1\0.example", 80),
    "host an int": (127, 80),
    "host with a label of 64": (f"{'a' * 64}.example", 80),
    "host a surrogate": ("\ud800", 80),
    "IPv6 host": ("::1", 0),
    "IPv6 host with a scope": ("fe80::1%lo", 80),
}


class File:
    """Not quite a file."""

    mode = "rb"

    def __init__(self, answer, content=None):
        self.answer = answer
        self.content = content

    def fileno(self):
        if isinstance(self.answer, Exception):
            # A fresh one: with LIES's own, the traceback, and all that its frames hold, would stay for good.
            raise type(self.answer)
        return self.answer

    def read(self, size=-1):
        if self.content is None:
            raise ZeroDivisionError
        data, self.content = self.content[:size], self.content[size:]
        return data

    def seek(self, offset, whence=0):
        return offset


def closed_file(world):
    file = world.file()
    file.close()
    return file


def pipe_file(world):
    r, w = os.pipe()
    os.write(w, b"data")
    os.close(w)
    return world.stack.enter_context(open(r, "rb"))


FILES = {
    "None for a file": lambda w: None,
    "int for a file": lambda w: w.file().fileno(),
    "path for a file": lambda w: w.file().name,
    "text file": lambda w: w.file("r"),
    "file open for writing": lambda w: w.file("wb"),
    "closed file": closed_file,
    "empty file": lambda w: w.file(content=b""),
    "BytesIO": lambda w: io.BytesIO(b"data"),
    "closed BytesIO": lambda w: (b := io.BytesIO(b"data"), b.close())[0],
    "StringIO": lambda w: io.StringIO("data"),
    "pipe for a file": pipe_file,
    "socket for a file": lambda w: w.one(b"data"),
    **{f"file's fileno() {name}": lambda w, answer=answer: File(answer) for name, answer in LIES.items()},
    "file whose read() gives a str": lambda w: File(io.UnsupportedOperation(), "data"),
    "file whose read() raises": lambda w: File(io.UnsupportedOperation()),
}

OFFSETS = {
    "offset -1": -1,
    "offset None": None,
    "offset a str": "0",
    "offset a float": 0.5,
    "offset behind the end": 1000,
    "offset 2**63 - 1": 2**63 - 1,
    "offset 2**63": 2**63,
    "offset 2**70": 2**70,
}

COUNTS = {
    "count 0": 0,
    "count -1": -1,
    "count a str": "4",
    "count a float": 4.5,
    "count 2**31": 2**31,
    "count 2**63": 2**63,
    "count 2**70": 2**70,
}


class NotAProtocol:
    """Has none of the methods."""


FACTORIES = {
    "factory None": None,
    "factory an int": 5,
    "factory that gives None": lambda: None,
    "factory that gives no protocol": NotAProtocol,
    "factory that raises": lambda: 1 / 0,
    "factory that wants an argument": lambda argument: None,
}


async def coroutine_function():
    pass


CALLABLES = {
    "None for a callback": lambda w: None,
    "int for a callback": lambda w: 5,
    "str for a callback": lambda w: "callback",
    "a coroutine function": lambda w: coroutine_function,
    "a coroutine": lambda w: w.stack.enter_context(contextlib.closing(coroutine_function())),
    "a callback that wants an argument": lambda w: lambda argument: None,
    "a callback that raises": lambda w: lambda: 1 / 0,
}

TIMES = {
    "None": None,
    "a str": "1",
    "NaN": float("nan"),
    "infinite": float("inf"),
    "-1": -1,
    "-infinite": float("-inf"),
    "1e300": 1e300,
    "10**400": 10**400,
    "complex": 1j,
}


# -- the table --

# "method: what is hostile": a function of the world; what it returns is awaited if it can be.
CASES = {}


def case(name):
    def add(body):
        assert name not in CASES, name
        CASES[name] = body
        return body

    return add


def outside_case(name):
    """A case that runs while the loop does not."""

    def add(body):
        body.outside = True
        return case(name)(body)

    return add


async def thing_in(world, thing):
    made = thing(world)
    return await made if inspect.iscoroutinefunction(thing) else made


def each(method, things, call):
    """`call(world, thing)` for each of the hostile things."""
    for what, thing in things.items():

        async def body(world, thing=thing):
            result = call(world, await thing_in(world, thing))
            return await result if inspect.isawaitable(result) else result

        case(f"{method}: {what}")(body)


def constants(things):
    return {what: lambda w, thing=thing: thing for what, thing in things.items()}


# -- sock_*: the socket --

NOWHERE = ("127.0.0.1", 9)

SOCKET_CALLS = {
    "sock_recv": lambda w, s: w.loop.sock_recv(s, 10),
    "sock_recv_into": lambda w, s: w.loop.sock_recv_into(s, bytearray(10)),
    "sock_recvfrom": lambda w, s: w.loop.sock_recvfrom(s, 10),
    "sock_recvfrom_into": lambda w, s: w.loop.sock_recvfrom_into(s, bytearray(10)),
    "sock_sendall": lambda w, s: w.loop.sock_sendall(s, b"data"),
    "sock_sendto": lambda w, s: w.loop.sock_sendto(s, b"data", "/nowhere/socket"),
    "sock_connect": lambda w, s: w.loop.sock_connect(s, "/nowhere/socket"),
    "sock_accept": lambda w, s: w.loop.sock_accept(s),
    "sock_sendfile": lambda w, s: w.loop.sock_sendfile(s, w.file()),
    "create_connection": lambda w, s: w.loop.create_connection(Witness, sock=s),
    "create_server": lambda w, s: w.loop.create_server(Witness, sock=s),
    "create_datagram_endpoint": lambda w, s: w.loop.create_datagram_endpoint(Witness, sock=s),
    "create_unix_connection": lambda w, s: w.loop.create_unix_connection(Witness, sock=s),
    "create_unix_server": lambda w, s: w.loop.create_unix_server(Witness, sock=s),
    "connect_accepted_socket": lambda w, s: w.loop.connect_accepted_socket(Witness, s),
}

for method, call in SOCKET_CALLS.items():
    each(method, SOCKETS, call)


# -- sock_*: a call that waits, and what happens to its arguments meanwhile --


def full_datagram(world):
    a = world.datagram()
    with contextlib.suppress(BlockingIOError):
        while True:
            a.send(bytes(1000))
    return a


async def stuck_connect(world):
    """(socket, address): connecting waits, for the listener's backlog is full."""
    listener = world.keep(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        sock = world.tcp()
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
    return world.tcp(), listener.getsockname()


WAITING = {
    "sock_recv": (lambda w: w.one(), lambda w, s: w.loop.sock_recv(s, 10)),
    "sock_recv_into": (lambda w: w.one(), lambda w, s: w.loop.sock_recv_into(s, bytearray(10))),
    "sock_recvfrom": (lambda w: w.datagram(), lambda w, s: w.loop.sock_recvfrom(s, 10)),
    "sock_recvfrom_into": (lambda w: w.datagram(), lambda w, s: w.loop.sock_recvfrom_into(s, bytearray(10))),
    "sock_sendall": (lambda w: w.full(), lambda w, s: w.loop.sock_sendall(s, b"data")),
    "sock_accept": (lambda w: w.listener(), lambda w, s: w.loop.sock_accept(s)),
    "sock_sendfile": (lambda w: w.full(), lambda w, s: w.loop.sock_sendfile(s, w.file())),
}

for method, (make, call) in WAITING.items():

    @case(f"{method}: socket closed while it waits")
    async def _(w, make=make, call=call):
        sock = make(w)
        task = w.loop.create_task(call(w, sock))
        await turns(3)
        sock.close()
        return await task

    @case(f"{method}: socket closed and its number taken by another while it waits")
    async def _(w, make=make, call=call):
        sock = make(w)
        task = w.loop.create_task(call(w, sock))
        await turns(3)
        number = sock.fileno()
        sock.close()
        a, b = w.pair()
        assert number in (a.fileno(), b.fileno())
        a.send(b"for b"), b.send(b"for a")
        await turns(3)
        return drain(b), drain(a), await task

    @case(f"{method}: two at once")
    async def _(w, make=make, call=call):
        sock = make(w)
        tasks = [w.loop.create_task(call(w, sock)) for _ in range(2)]
        return await asyncio.gather(*tasks)

    @case(f"{method}: cancelled before its first step")
    async def _(w, make=make, call=call):
        task = w.loop.create_task(call(w, make(w)))
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    @case(f"{method}: cancelled while it waits")
    async def _(w, make=make, call=call):
        task = w.loop.create_task(call(w, make(w)))
        await turns(3)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()


@case("sock_connect: socket closed while it waits")
async def _(w):
    sock, address = await stuck_connect(w)
    task = w.loop.create_task(w.loop.sock_connect(sock, address))
    await turns(3)
    sock.close()
    return await task


@case("sock_connect: backlog full")
async def _(w):
    return await w.loop.sock_connect(*await stuck_connect(w))


@case("sock_connect: unix backlog full")
async def _(w):
    path = os.path.join(w.directory(), "socket")
    listener = w.unix()
    listener.bind(path)
    listener.listen(0)
    w.unix().connect(path)
    return await w.loop.sock_connect(w.unix(), path)


@case("sock_connect: twice")
async def _(w):
    sock, address = w.tcp(), w.listener().getsockname()
    await w.loop.sock_connect(sock, address)
    return await w.loop.sock_connect(sock, address)


@case("sock_connect: nobody listens")
async def _(w):
    sock = w.listener()
    address = sock.getsockname()
    sock.close()
    return await w.loop.sock_connect(w.tcp(), address)


INTO_CALLS = {
    "sock_recv_into": lambda w, s, buffer: w.loop.sock_recv_into(s, buffer),
    "sock_recvfrom_into": lambda w, s, buffer: w.loop.sock_recvfrom_into(s, buffer, len(buffer)),
}

for method, call in INTO_CALLS.items():

    async def data_comes(w, buffer, change, call=call):
        """The buffer is changed while the call waits; then data comes."""
        a, b = w.pair()
        task = w.loop.create_task(call(w, a, buffer))
        await turns(3)
        changed = None
        try:
            change()
        except Exception as exc:
            changed = exc
        b.send(b"12345678")
        await asyncio.wait([task])
        left = bytes(buffer[:20]) if not isinstance(buffer, memoryview) and buffer else None
        return changed, task.exception() or task.result(), left, drain(a)

    @case(f"{method}: bytearray grown while it waits")
    async def _(w, data_comes=data_comes):
        buffer = bytearray(4)
        return await data_comes(w, buffer, lambda: buffer.extend(bytes(100000)))

    @case(f"{method}: bytearray shrunk while it waits")
    async def _(w, data_comes=data_comes):
        buffer = bytearray(100000)
        return await data_comes(w, buffer, lambda: buffer.__delitem__(slice(2, None)))

    @case(f"{method}: bytearray emptied while it waits")
    async def _(w, data_comes=data_comes):
        buffer = bytearray(4)
        return await data_comes(w, buffer, buffer.clear)

    @case(f"{method}: memoryview released while it waits")
    async def _(w, data_comes=data_comes):
        buffer = memoryview(bytearray(4))
        return await data_comes(w, buffer, buffer.release)

    @case(f"{method}: array shrunk while it waits")
    async def _(w, data_comes=data_comes):
        buffer = array.array("B", bytes(1000))
        return await data_comes(w, buffer, lambda: buffer.__delitem__(slice(2, None)))

    @case(f"{method}: bytearray shrunk before the first step")
    async def _(w, call=call):
        buffer = bytearray(1000)
        task = w.loop.create_task(call(w, w.one(b"12345678"), buffer))
        del buffer[3:]
        return await task, bytes(buffer)

    @case(f"{method}: bytearray resized afterwards")
    async def _(w, call=call):
        buffer = bytearray(4)
        received = await call(w, w.one(b"1234"), buffer)
        buffer.extend(b"5")
        return received, bytes(buffer)


async def while_sending(w, buffer, change):
    """The buffer is changed while sock_sendall waits."""
    task = w.loop.create_task(w.loop.sock_sendall(w.full(), buffer))
    await turns(3)
    try:
        change()
    except Exception as exc:
        return exc
    return await task


@case("sock_sendall: bytearray resized while it waits")
async def _(w):
    buffer = bytearray(100)
    return await while_sending(w, buffer, buffer.clear)


@case("sock_sendall: memoryview released while it waits")
async def _(w):
    buffer = memoryview(bytearray(100))
    return await while_sending(w, buffer, buffer.release)


@case("sock_sendall: mmap closed while it waits")
async def _(w):
    buffer = huge(w)
    return await while_sending(w, buffer, buffer.close)


@case("sock_sendall: bytearray resized before the first step")
async def _(w):
    a, b = w.pair()
    buffer = bytearray(b"12345678")
    task = w.loop.create_task(w.loop.sock_sendall(a, buffer))
    del buffer[4:]
    return await task, drain(b)


@case("sock_sendall: bytearray resized behind the first step")
async def _(w):
    a, b = w.pair()
    buffer = bytearray(b"12345678")
    task = w.loop.create_task(w.loop.sock_sendall(a, buffer))
    await turns(1)
    try:
        del buffer[4:]
    except BufferError as exc:
        return exc, await task
    return await task, drain(b)


@case("sock_sendall: bytearray resized afterwards")
async def _(w):
    a, b = w.pair()
    buffer = bytearray(b"12345678")
    await w.loop.sock_sendall(a, buffer)
    buffer.clear()
    return drain(b)


@case("sock_sendall: array of ints")
async def _(w):
    a, b = w.pair()
    await w.loop.sock_sendall(a, array.array("i", [1, 2, 3]))
    return len(drain(b))


@case("sock_sendall: peer closed")
async def _(w):
    a, b = w.pair()
    b.close()
    return await w.loop.sock_sendall(a, b"data")


@case("sock_sendall: 2 GiB, and the peer closes")
async def _(w):
    a, b = w.pair()
    task = w.loop.create_task(w.loop.sock_sendall(a, huge(w)))
    await turns(3)
    b.close()
    return await task


@case("sock_sendall: datagram too long")
async def _(w):
    return await w.loop.sock_sendall(w.datagram(), bytes(16 << 20))


@case("sock_sendall: empty datagram")
async def _(w):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    w.keep(a), w.keep(b)
    return await w.loop.sock_sendall(a, b""), b.recv(10)


# -- sock_*: buffer, length, address --

each("sock_recv_into", {**BAD_TARGETS, **TARGETS}, lambda w, b: w.loop.sock_recv_into(w.one(b"data"), b))
each("sock_recvfrom_into", {**BAD_TARGETS, **TARGETS}, lambda w, b: w.loop.sock_recvfrom_into(w.datagram(b"data"), b))
each("sock_sendall", {**BAD_BUFFERS, **SOURCES}, lambda w, b: w.loop.sock_sendall(w.one(), b))
each("sock_sendto", {**BAD_BUFFERS, **SOURCES}, lambda w, b: w.loop.sock_sendto(w.udp(), b, w.udp().getsockname()))

ANY_SIZES = constants({**BAD_SIZES, "length 2**62": 2**62, **SIZES})
each("sock_recv", ANY_SIZES, lambda w, n: w.loop.sock_recv(w.one(b"data"), n))
each("sock_recvfrom", ANY_SIZES, lambda w, n: w.loop.sock_recvfrom(w.datagram(b"data"), n))
each(
    "sock_recvfrom_into",
    {**ANY_SIZES, "length beyond the buffer": lambda w: 11},
    lambda w, n: w.loop.sock_recvfrom_into(w.datagram(b"data"), bytearray(10), n),
)


@case("sock_recv: 2 GiB, waiting")
async def _(w):
    a, b = w.pair()
    task = w.loop.create_task(w.loop.sock_recv(a, 2**31))
    await turns(3)
    b.send(b"data")
    return await task


ADDRESSES = constants(BAD_ADDRESSES)
each("sock_connect", ADDRESSES, lambda w, a: w.loop.sock_connect(w.tcp(), a))
each("sock_sendto", ADDRESSES, lambda w, a: w.loop.sock_sendto(w.udp(), b"data", a))

PATHS = constants(
    {
        "path None": None,
        "path an int": 5,
        "path an IPv4 address": NOWHERE,
        "path empty": "",
        "path with NUL": "/tmp/a\0b",
        "path too long": "/tmp/" + "a" * 200,
        "path bytes": b"/nowhere/socket",
        "path of nobody": "/nowhere/socket",
        "path a directory": "/tmp",
        "path abstract, of nobody": "\0no such name",
        "path a surrogate": "/tmp/\ud800",
        "path a float": 0.5,
    }
)
each("sock_connect", PATHS, lambda w, p: w.loop.sock_connect(w.unix(), p))
each("sock_sendto", PATHS, lambda w, p: w.loop.sock_sendto(
    w.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)), b"data", p))


# -- sending files --

for fallback in (True, False):
    how = "sock_sendfile" if fallback else "sock_sendfile(fallback=False)"
    options = {"fallback": fallback}

    each(how, FILES, lambda w, f, options=options: w.loop.sock_sendfile(w.one(), f, **options))
    each(how, constants(OFFSETS), lambda w, n, options=options: w.loop.sock_sendfile(w.one(), w.file(), n, **options))
    each(how, constants(COUNTS), lambda w, n, options=options: w.loop.sock_sendfile(w.one(), w.file(), 0, n, **options))

    async def send_file(w, file, *arguments, options=options):
        a, b = w.pair()
        transport, _ = await w.transport(a)
        sent = await w.loop.sendfile(transport, file, *arguments, **options)
        await turns(3)
        return sent, drain(b)

    how = how[5:]
    each(how, FILES, send_file)
    each(how, constants(OFFSETS), lambda w, n, send_file=send_file: send_file(w, w.file(), n))
    each(how, constants(COUNTS), lambda w, n, send_file=send_file: send_file(w, w.file(), 0, n))

each("sock_sendfile", {"fallback None": lambda w: None},
     lambda w, f: w.loop.sock_sendfile(w.one(), w.file(), fallback=f))


@case("sock_sendfile: closed file, waiting")
async def _(w):
    a, b = w.pair()
    fill(a)
    file = w.file()
    task = w.loop.create_task(w.loop.sock_sendfile(a, file))
    await turns(3)
    file.close()
    drain(b)
    return await task


async def closing_transport(w):
    transport, _ = await w.transport()
    transport.close()
    return transport


async def lost_transport(w):
    transport, protocol = await w.transport()
    transport.abort()
    await turns(3)
    return transport


TRANSPORTS = {
    "None for a transport": lambda w: None,
    "int for a transport": lambda w: 5,
    "socket for a transport": lambda w: w.one(),
    "transport that closes": closing_transport,
    "transport that is closed": lost_transport,
    "datagram transport": lambda w: w.datagram_transport(local_addr=("127.0.0.1", 0)),
    "transport that does nothing": lambda w: asyncio.Transport(),
}

for what, make in TRANSPORTS.items():

    async def made_of(w, make=make):
        transport = make(w)
        transport = await transport if inspect.isawaitable(transport) else transport
        return transport[0] if isinstance(transport, tuple) else transport

    @case(f"sendfile: {what}")
    async def _(w, made_of=made_of):
        return await w.loop.sendfile(await made_of(w), w.file())

    @case(f"start_tls: {what}")
    async def _(w, made_of=made_of):
        return await w.loop.start_tls(await made_of(w), Witness(), certificate_contexts()[1], server_hostname="")


async def start_tls(w, context=None, protocol=None, **options):
    transport, plain = await w.transport()
    context = certificate_contexts()[1] if context is None else context
    options.setdefault("server_hostname", "localhost")
    return await w.loop.start_tls(transport, protocol or plain, context, **options)


CONTEXTS = constants({"ssl True": True, "ssl an int": 5, "ssl an object()": object(), "ssl a str": "ssl"})
each("start_tls", CONTEXTS, start_tls)
each("start_tls", {"ssl a context of a server": lambda w: certificate_contexts()[0]}, start_tls)
HOSTNAMES = constants({
    "server_hostname an int": 5, "server_hostname with NUL": "a\0b", "server_hostname a label of 64": "a" * 64,
})
each("start_tls", HOSTNAMES, lambda w, name: start_tls(w, server_hostname=name))
TIMEOUTS = constants({"0": 0, "-1": -1, "a str": "1"})
each("start_tls", {f"ssl_handshake_timeout {k}": v for k, v in TIMEOUTS.items()},
     lambda w, t: start_tls(w, ssl_handshake_timeout=t))
each("start_tls", {f"ssl_shutdown_timeout {k}": v for k, v in TIMEOUTS.items()},
     lambda w, t: start_tls(w, ssl_shutdown_timeout=t))
each("start_tls", {"peer that is no TLS server": lambda w: None}, lambda w, _: garbled_tls(w))


async def garbled_tls(w):
    a, b = w.pair()
    b.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    transport, protocol = await w.transport(a)
    transport.pause_reading()
    return await w.loop.start_tls(transport, protocol, certificate_contexts()[1], server_hostname="localhost")


# -- connections and servers --

each("create_connection", ADDRESSES | {"host empty": lambda w: ("", 80)},
     lambda w, a: w.loop.create_connection(Witness, *a))
each("create_connection", {f"local_addr's {k}": v for k, v in ADDRESSES.items() if k != "address None"},
     lambda w, a: w.loop.create_connection(Witness, *w.listener().getsockname(), local_addr=a))
each("create_connection", constants(FACTORIES),
     lambda w, f: protocol_of(w, w.loop.create_connection(f, sock=w.one(b"data"))))
each("create_connection", CONTEXTS,
     lambda w, c: w.loop.create_connection(Witness, sock=w.one(), ssl=c, server_hostname="x"))
each("create_connection", HOSTNAMES, lambda w, name: w.loop.create_connection(
    Witness, sock=w.one(), ssl=certificate_contexts()[1], server_hostname=name))

OPTIONS = {
    "host and socket": dict(host="127.0.0.1", port=80, sock=True),
    "neither host nor socket": dict(),
    "server_hostname without ssl": dict(host="127.0.0.1", port=80, server_hostname="localhost"),
    "ssl without a host": dict(ssl=True, sock=True),
    "ssl_handshake_timeout without ssl": dict(host="127.0.0.1", port=80, ssl_handshake_timeout=1),
    "ssl_shutdown_timeout without ssl": dict(host="127.0.0.1", port=80, ssl_shutdown_timeout=1),
    "family a str": dict(host="127.0.0.1", port=80, family="inet"),
    "family 1000": dict(host="127.0.0.1", port=80, family=1000),
    "family that is another": dict(host="127.0.0.1", port=80, family=socket.AF_INET6),
    "proto -1": dict(host="127.0.0.1", port=80, proto=-1),
    "flags a str": dict(host="127.0.0.1", port=80, flags="x"),
    "happy_eyeballs_delay a str": dict(host="127.0.0.1", port=80, happy_eyeballs_delay="x"),
    "interleave a str": dict(host="127.0.0.1", port=80, interleave="x"),
    "an argument of another name": dict(host="127.0.0.1", port=80, reuse_port=True),
}


def with_options(method):
    def call(w, options):
        options = dict(options)
        if options.get("sock"):
            options["sock"] = w.one()
        return getattr(w.loop, method)(Witness, **options)

    return call


each("create_connection", constants(OPTIONS), with_options("create_connection"))

SERVER_ADDRESSES = {k: v for k, v in ADDRESSES.items() if k not in ("address None", "port None")}
each("create_server", SERVER_ADDRESSES, lambda w, a: w.loop.create_server(Witness, *a))
SERVER_OPTIONS = {
    "host and socket": dict(host="127.0.0.1", port=0, sock=True),
    "neither host nor socket": dict(),
    "ssl True": dict(host="127.0.0.1", port=0, ssl=True),
    "ssl an object()": dict(host="127.0.0.1", port=0, ssl=object()),
    "ssl_handshake_timeout without ssl": dict(host="127.0.0.1", port=0, ssl_handshake_timeout=1),
    "ssl_shutdown_timeout without ssl": dict(host="127.0.0.1", port=0, ssl_shutdown_timeout=1),
    "hosts with a bad one among them": dict(host=["127.0.0.1", "a\0b"], port=0),
    "hosts of none": dict(host=[], port=0),
    "backlog a str": dict(host="127.0.0.1", port=0, backlog="x"),
    "backlog None": dict(host="127.0.0.1", port=0, backlog=None),
    "backlog -1": dict(host="127.0.0.1", port=0, backlog=-1),
    "backlog 2**31": dict(host="127.0.0.1", port=0, backlog=2**31),
    "family a str": dict(host="127.0.0.1", port=0, family="inet"),
    "family that is another": dict(host="127.0.0.1", port=0, family=socket.AF_INET6),
    "flags a str": dict(host="127.0.0.1", port=0, flags="x"),
    "address of nobody here": dict(host="192.0.2.1", port=0),
}
each("create_server", constants(SERVER_OPTIONS), with_options("create_server"))


async def protocol_of(w, connecting):
    """The outcome of a connection, and what becomes of it in the next turns."""
    transport, protocol = w.leave(await connecting)
    await turns(5)
    return type(protocol).__name__, transport.is_closing()


async def serve(w, server):
    """What a client of a server with a hostile factory sees."""
    server = w.leave(await server)
    client = w.keep(socket.socket(server.sockets[0].family))
    await w.loop.sock_connect(client, server.sockets[0].getsockname())
    await w.loop.sock_sendall(client, b"data")
    return await w.loop.sock_recv(client, 10)


each("create_server", constants(FACTORIES), lambda w, f: serve(w, w.loop.create_server(f, "127.0.0.1", 0)))
each("create_unix_server", constants(FACTORIES),
     lambda w, f: serve(w, w.loop.create_unix_server(f, os.path.join(w.directory(), "socket"))))
each("create_unix_connection", constants(FACTORIES),
     lambda w, f: protocol_of(w, w.loop.create_unix_connection(f, sock=w.one(b"data"))))
each("connect_accepted_socket", constants(FACTORIES),
     lambda w, f: protocol_of(w, w.loop.connect_accepted_socket(f, w.one(b"data"))))
each("create_datagram_endpoint", constants(FACTORIES),
     lambda w, f: protocol_of(w, w.loop.create_datagram_endpoint(f, sock=w.datagram(b"data"))))

UNIX_PATHS = {k: v for k, v in PATHS.items() if k not in ("path an IPv4 address",)}
each("create_unix_connection", UNIX_PATHS, lambda w, p: w.loop.create_unix_connection(Witness, p))
each("create_unix_server", UNIX_PATHS, lambda w, p: w.loop.create_unix_server(Witness, p))
UNIX_OPTIONS = {
    "path and socket": dict(path="/nowhere/socket", sock=True),
    "neither path nor socket": dict(),
    "ssl an object()": dict(path="/nowhere/socket", ssl=object()),
    "ssl_handshake_timeout without ssl": dict(path="/nowhere/socket", ssl_handshake_timeout=1),
    "ssl_shutdown_timeout without ssl": dict(path="/nowhere/socket", ssl_shutdown_timeout=1),
}
each("create_unix_connection", constants(UNIX_OPTIONS | {
    "ssl without server_hostname": dict(path="/nowhere/socket", ssl=True),
    "server_hostname without ssl": dict(path="/nowhere/socket", server_hostname="localhost"),
}), with_options("create_unix_connection"))
each("create_unix_server", constants(UNIX_OPTIONS | {
    "ssl True": dict(path="/nowhere/socket", ssl=True),
}), with_options("create_unix_server"))
each("create_unix_server", {"backlog a str": lambda w: "x"},
     lambda w, b: w.loop.create_unix_server(Witness, os.path.join(w.directory(), "socket"), backlog=b))

each("connect_accepted_socket", CONTEXTS, lambda w, c: w.loop.connect_accepted_socket(Witness, w.one(), ssl=c))
each("connect_accepted_socket", {"ssl_handshake_timeout without ssl": lambda w: 1},
     lambda w, t: w.loop.connect_accepted_socket(Witness, w.one(), ssl_handshake_timeout=t))

ENDPOINT_ADDRESSES = {k: v for k, v in ADDRESSES.items() if k != "address None"}
each("create_datagram_endpoint", {f"local_addr's {k}": v for k, v in ENDPOINT_ADDRESSES.items()},
     lambda w, a: w.loop.create_datagram_endpoint(Witness, local_addr=a))
each("create_datagram_endpoint", {f"remote_addr's {k}": v for k, v in ENDPOINT_ADDRESSES.items()},
     lambda w, a: w.loop.create_datagram_endpoint(Witness, remote_addr=a))
ENDPOINT_OPTIONS = {
    "no address": dict(),
    "addresses of two families": dict(local_addr=("127.0.0.1", 0), remote_addr=("::1", 9)),
    "an address and a socket": dict(local_addr=("127.0.0.1", 0), sock=True),
    "unix address of IPv4": dict(local_addr=("127.0.0.1", 0), family=socket.AF_UNIX),
    "unix address with NUL": dict(local_addr="/tmp/a\0b", family=socket.AF_UNIX),
    "unix address of nobody": dict(remote_addr="/nowhere/socket", family=socket.AF_UNIX),
    "family 1000": dict(local_addr=("127.0.0.1", 0), family=1000),
    "proto a str": dict(local_addr=("127.0.0.1", 0), proto="udp"),
    "address of nobody here": dict(local_addr=("192.0.2.1", 0)),
}
each("create_datagram_endpoint", constants(ENDPOINT_OPTIONS), with_options("create_datagram_endpoint"))


# -- transports --


async def settled(w, transport, protocol, peer, result=None):
    """What came of a call of a transport's method."""
    await turns(5)
    received = b""
    # Closed, or reset: what the transport had not read goes with it.
    with contextlib.suppress(OSError):
        received = drain(peer)
    return result, transport.is_closing(), protocol.told, received


def on_transport(name):
    """A case that calls something of a stream transport."""

    def add(body):
        @case(name)
        async def _(w):
            a, b = w.pair()
            transport, protocol = await w.transport(a)
            result = None
            try:
                result = body(w, transport, b)
                result = await result if inspect.isawaitable(result) else result
            except Exception as exc:
                result = exc
            return await settled(w, transport, protocol, b, result)

        return body

    return add


# Transports may copy what they are given.
SMALL_SOURCES = {what: make for what, make in SOURCES.items() if not what.startswith("2 GiB")}

on_transport("transport.write: 2 GiB mmap")(lambda w, t, peer: t.write(huge(w)))
for what, make in {**BAD_BUFFERS, **SMALL_SOURCES}.items():
    on_transport(f"transport.write: {what}")(lambda w, t, peer, make=make: t.write(make(w)))
    on_transport(f"transport.writelines: {what} among others")(
        lambda w, t, peer, make=make: t.writelines([b"12", make(w), b"34"]))
    on_transport(f"transport.writelines: {what}")(lambda w, t, peer, make=make: t.writelines(make(w)))


@on_transport("transport.write: behind write_eof")
def _(w, t, peer):
    t.write_eof()
    t.write(b"data")


@on_transport("transport.writelines: behind write_eof")
def _(w, t, peer):
    t.write_eof()
    t.writelines([b"data"])


@on_transport("transport.write: behind close")
def _(w, t, peer):
    t.close()
    t.write(b"data")


@on_transport("transport.write: behind abort")
async def _(w, t, peer):
    t.abort()
    await turns(3)
    t.write(b"data")


@on_transport("transport.write: peer closed")
async def _(w, t, peer):
    peer.close()
    t.write(b"data")
    await turns(3)
    t.write(b"data")


@on_transport("transport.write: bytearray resized afterwards")
def _(w, t, peer):
    buffer = bytearray(b"data")
    t.write(buffer)
    buffer.clear()


@on_transport("transport.write: bytearray changed while it waits")
async def _(w, t, peer):
    """Nothing that was not written may arrive: neither what the buffer held later nor less."""
    size = 4 << 20
    buffer = bytearray(size)
    t.write(buffer)
    await turns(2)
    with contextlib.suppress(BufferError):
        buffer.clear()
    received = 0
    for _ in range(1000):
        received += len(drain(peer))
        await turns(1)
        if received == size:
            break
    return received


@on_transport("transport.write_eof: twice")
def _(w, t, peer):
    t.write_eof()
    t.write_eof()


@on_transport("transport.write_eof: behind close")
def _(w, t, peer):
    t.close()
    t.write_eof()


@on_transport("transport.write_eof: an argument")
def _(w, t, peer):
    t.write_eof(1)


@on_transport("transport.close: twice")
def _(w, t, peer):
    t.close()
    t.close()


@on_transport("transport.abort: twice and behind close")
def _(w, t, peer):
    t.close()
    t.abort()
    t.abort()


@on_transport("transport.get_extra_info: name that is no key")
def _(w, t, peer):
    t.get_extra_info([])


@on_transport("transport.get_extra_info: name of nothing")
def _(w, t, peer):
    return t.get_extra_info(None), t.get_extra_info("nothing", 5)


LIMITS = {
    "high -1": dict(high=-1),
    "low above high": dict(high=1, low=2),
    "low -1": dict(low=-1),
    "high a str": dict(high="1"),
    "low a str": dict(low="1"),
    "high NaN": dict(high=float("nan")),
    "high 2**70": dict(high=2**70),
    "high 0": dict(high=0),
}
for what, limits in LIMITS.items():

    @on_transport(f"transport.set_write_buffer_limits: {what}")
    def _(w, t, peer, limits=limits):
        t.set_write_buffer_limits(**limits)
        return t.get_write_buffer_limits()

    @case(f"transport.set_write_buffer_limits: {what}, of datagrams")
    async def _(w, limits=limits):
        transport, protocol = await w.datagram_transport(local_addr=("127.0.0.1", 0))
        transport.set_write_buffer_limits(**limits)
        return transport.get_write_buffer_limits()


@on_transport("transport.pause_reading: twice, and resumed twice")
async def _(w, t, peer):
    t.pause_reading()
    t.pause_reading()
    peer.send(b"data")
    await turns(3)
    t.resume_reading()
    t.resume_reading()


@on_transport("transport.pause_reading: behind close")
def _(w, t, peer):
    t.close()
    t.pause_reading()
    t.resume_reading()
    return t.is_reading()


for what, protocol in {"None": None, "an int": 5, "no protocol": NotAProtocol()}.items():

    @on_transport(f"transport.set_protocol: {what}")
    async def _(w, t, peer, protocol=protocol):
        t.set_protocol(protocol)
        peer.send(b"data")


class Buffered(asyncio.BufferedProtocol):
    """Receives into what it was told to hand out."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.told = []

    def get_buffer(self, sizehint):
        if isinstance(self.buffer, Exception):
            raise self.buffer
        return self.buffer

    def buffer_updated(self, nbytes):
        self.told.append(f"{nbytes} bytes")

    def connection_lost(self, exc):
        self.told.append(f"lost {describe(exc)}")


for what, make in {**BAD_TARGETS, **TARGETS, "an exception": lambda w: ZeroDivisionError()}.items():

    @case(f"BufferedProtocol.get_buffer: {what}")
    async def _(w, make=make):
        a, b = w.pair()
        transport, protocol = await w.transport(a, Buffered(make(w)))
        b.send(b"data")
        return await settled(w, transport, protocol, b)


def on_datagrams(name, connected=False):
    """A case that calls something of a datagram transport."""

    def add(body):
        @case(name)
        async def _(w):
            peer = w.udp()
            where = {"remote_addr": peer.getsockname()} if connected else {"local_addr": ("127.0.0.1", 0)}
            transport, protocol = await w.datagram_transport(**where)
            result = None
            try:
                result = body(w, transport, peer.getsockname())
            except Exception as exc:
                result = exc
            await turns(5)
            received = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    received.append(peer.recv(1 << 16))
            return result, transport.is_closing(), protocol.told, received

        return body

    return add


for what, make in {**BAD_BUFFERS, **SMALL_SOURCES}.items():
    on_datagrams(f"transport.sendto: {what}")(lambda w, t, peer, make=make: t.sendto(make(w), peer))
    on_datagrams(f"transport.sendto: {what}, connected", True)(lambda w, t, peer, make=make: t.sendto(make(w)))
for what, address in BAD_ADDRESSES.items():
    on_datagrams(f"transport.sendto: {what}")(lambda w, t, peer, address=address: t.sendto(b"data", address))
    on_datagrams(f"transport.sendto: {what}, connected", True)(
        lambda w, t, peer, address=address: t.sendto(b"data", address))
for size in (65507, 65508, 1 << 20):
    on_datagrams(f"transport.sendto: datagram of {size}")(lambda w, t, peer, size=size: t.sendto(bytes(size), peer))


@on_datagrams("transport.sendto: good ones around a bad one")
def _(w, t, peer):
    t.sendto(b"first", peer)
    t.sendto(b"second", ("127.0.0.1", 0))
    t.sendto(b"third", peer)


@on_datagrams("transport.sendto: behind close")
def _(w, t, peer):
    t.close()
    t.sendto(b"data", peer)


@on_datagrams("transport.sendto: behind abort", True)
def _(w, t, peer):
    t.abort()
    t.sendto(b"data")


# -- readers, writers, signals, pipes, subprocesses --

DESCRIPTORS = SOCKETS | {
    "-1 for a descriptor": lambda w: -1,
    "2**31 - 1 for a descriptor": lambda w: 2**31 - 1,
    "2**31 for a descriptor": lambda w: 2**31,
    "2**70 for a descriptor": lambda w: 2**70,
    "a float for a descriptor": lambda w: 1.5,
    "True for a descriptor": lambda w: True,
    "pipe": pipe_file,
    "regular file": lambda w: w.file(),
    "directory": lambda w: w.descriptor(os.open("/", os.O_RDONLY)),
    "epoll": lambda w: w.stack.enter_context(contextlib.closing(select.epoll())),
}


def readiness(kind):
    async def body(w, descriptor):
        called = []
        getattr(w.loop, f"add_{kind}")(descriptor, called.append, 1)
        await turns(5)
        return bool(called), getattr(w.loop, f"remove_{kind}")(descriptor)

    return body


for kind in ("reader", "writer"):
    each(f"add_{kind}", DESCRIPTORS, readiness(kind))
    each(f"remove_{kind}", DESCRIPTORS, lambda w, d, kind=kind: getattr(w.loop, f"remove_{kind}")(d))

    async def with_callback(w, callback, kind=kind):
        sock = w.one(b"data")
        getattr(w.loop, f"add_{kind}")(sock, callback)
        await turns(2)
        return getattr(w.loop, f"remove_{kind}")(sock)

    # It is called once a turn: how often is left out.
    each(f"add_{kind}", {what: CALLABLES[what] for what in ("a coroutine function", "a coroutine")}, with_callback)

    @case(f"add_{kind}: socket closed afterwards")
    async def _(w, kind=kind):
        called = []
        sock = w.one()
        getattr(w.loop, f"add_{kind}")(sock, called.append, 1)
        sock.close()
        await turns(3)
        return getattr(w.loop, f"remove_{kind}")(sock)


SIGNALS = constants({
    "signal None": None, "signal a str": "SIGUSR1", "signal a float": 10.0, "signal 0": 0, "signal -1": -1,
    "signal 1000": 1000, "signal 2**70": 2**70, "signal SIGKILL": signal.SIGKILL,
})
each("add_signal_handler", SIGNALS, lambda w, s: w.loop.add_signal_handler(s, print))
each("add_signal_handler", {what: CALLABLES[what] for what in ("a coroutine function", "a coroutine")},
     lambda w, f: w.loop.add_signal_handler(signal.SIGUSR1, f))
each("remove_signal_handler", SIGNALS | {"signal that has none": lambda w: signal.SIGUSR1},
     lambda w, s: w.loop.remove_signal_handler(s))

PIPES = {what: make for what, make in FILES.items() if what not in ("socket for a file", "pipe for a file")} | {
    "datagram socket": lambda w: w.datagram(),
    "listening socket": lambda w: w.listener(),
    "closed socket": closed,
    "a pipe's reading end": lambda w: w.pipe("rb"),
    "a pipe's writing end": lambda w: w.pipe("wb"),
}
each("connect_read_pipe", PIPES, lambda w, p: w.loop.connect_read_pipe(Witness, p))
each("connect_write_pipe", PIPES, lambda w, p: w.loop.connect_write_pipe(Witness, p))
each("connect_read_pipe", constants(FACTORIES), lambda w, f: protocol_of(w, w.loop.connect_read_pipe(f, pipe_file(w))))

PROGRAMS = constants({
    "program None": None, "program an int": 5, "program empty": "", "program with NUL": "/bin/a\0b",
    "program of nobody": "/nowhere/program", "program a directory": "/", "program a surrogate": "/\ud800",
})
each("subprocess_exec", PROGRAMS, lambda w, p: w.loop.subprocess_exec(asyncio.SubprocessProtocol, p))
each("subprocess_shell", {what: PROGRAMS[what] for what in ("program None", "program an int", "program with NUL")},
     lambda w, p: w.loop.subprocess_shell(asyncio.SubprocessProtocol, p))
PROCESS_OPTIONS = constants({
    "universal_newlines": dict(universal_newlines=True), "shell": dict(shell=True), "bufsize 1": dict(bufsize=1),
    "text": dict(text=True), "encoding": dict(encoding="ascii"), "errors": dict(errors="strict"),
    "an argument of another name": dict(nothing=1), "cwd of nobody": dict(cwd="/nowhere/directory"),
    "env a str": dict(env="x"), "stdin a str": dict(stdin="x"), "pass_fds of nobody": dict(pass_fds=[2**31 - 1]),
})
each("subprocess_exec", PROCESS_OPTIONS,
     lambda w, options: w.loop.subprocess_exec(asyncio.SubprocessProtocol, "/bin/true", **options))
each("subprocess_exec", constants(FACTORIES | {"factory that gives no protocol": int}),
     lambda w, f: w.loop.subprocess_exec(f, "/nowhere/program"))


# -- callbacks, times, awaitables --

for debug in (False, True):
    when = " in debug mode" if debug else ""
    for method, call in {
        "call_soon": lambda w, f: w.loop.call_soon(f),
        "call_soon_threadsafe": lambda w, f: w.loop.call_soon_threadsafe(f),
        "call_later": lambda w, f: w.loop.call_later(0, f),
        "call_at": lambda w, f: w.loop.call_at(0, f),
        "run_in_executor": lambda w, f: w.loop.run_in_executor(None, f),
    }.items():

        async def body(w, f, call=call, debug=debug):
            w.loop.set_debug(debug)
            result = call(w, f)
            await turns(3)
            return await result if inspect.isawaitable(result) else result

        each(method, {f"{what}{when}": make for what, make in CALLABLES.items()}, body)

for method in ("call_later", "call_at"):

    async def body(w, time, method=method):
        called = []
        handle = getattr(w.loop, method)(time, called.append, 1)
        await turns(3)
        # A time that can't be compared must not meet the loop when it has nothing else to do.
        handle.cancel()
        return called

    each(method, constants({f"time {what}": time for what, time in TIMES.items()}), body)

for method in ("call_soon", "call_soon_threadsafe"):
    each(method, {"context an int": lambda w: 5}, lambda w, c, method=method: getattr(w.loop, method)(print, context=c))

each("run_in_executor", constants({"executor an int": 5, "executor an object()": object()}),
     lambda w, e: w.loop.run_in_executor(e, print))

SETTINGS = {
    "set_exception_handler": {"an int": 5, "a str": "x"},
    "set_task_factory": {"an int": 5, "a str": "x"},
    "set_default_executor": {"None": None, "an int": 5, "a class": concurrent.futures.ThreadPoolExecutor},
    "create_task": {"None": None, "an int": 5, "a function": print, "a coroutine function": coroutine_function},
    "shutdown_default_executor": {"timeout a str": "x", "timeout -1": -1},
}
for method, arguments in SETTINGS.items():
    each(method, constants(arguments), lambda w, argument, method=method: getattr(w.loop, method)(argument))

each("getaddrinfo", {k: v for k, v in ADDRESSES.items() if k.startswith(("port", "host"))},
     lambda w, a: w.loop.getaddrinfo(*a, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
each("getnameinfo", {k: v for k, v in ADDRESSES.items() if not k.startswith("IPv6")},
     lambda w, a: w.loop.getnameinfo(a, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV))


@case("run_until_complete: nested")
def _(w):
    w.loop.run_until_complete(w.loop.create_future())


@case("close: while the loop runs")
def _(w):
    w.loop.close()


def other_loops_future(w):
    other = asyncio.SelectorEventLoop()
    w.stack.callback(other.close)
    return other.create_future()


AWAITABLES = {
    "None": lambda w: None,
    "an int": lambda w: 5,
    "a list": lambda w: [],
    "object()": lambda w: object(),
    "a function": lambda w: print,
    "a coroutine function": lambda w: coroutine_function,
    "a generator": lambda w: (x for x in ()),
    "a future of another loop": other_loops_future,
    "a concurrent future": lambda w: concurrent.futures.Future(),
}
for what, make in AWAITABLES.items():
    outside_case(f"run_until_complete: {what}")(lambda w, make=make: w.loop.run_until_complete(make(w)))


@outside_case("run_until_complete: a coroutine that stops the loop")
def _(w):
    async def stops():
        w.loop.stop()
        await asyncio.sleep(3600)

    return w.loop.run_until_complete(stops())


@outside_case("run_until_complete: a coroutine that raises SystemExit")
def _(w):
    async def exits():
        raise SystemExit(5)

    try:
        w.loop.run_until_complete(exits())
    except SystemExit as exc:
        return exc.code


CLOSED_CALLS = {
    "call_soon": lambda w: w.loop.call_soon(print),
    "call_soon_threadsafe": lambda w: w.loop.call_soon_threadsafe(print),
    "call_later": lambda w: w.loop.call_later(0, print),
    "call_at": lambda w: w.loop.call_at(0, print),
    "run_in_executor": lambda w: w.loop.run_in_executor(None, print),
    "run_forever": lambda w: w.loop.run_forever(),
    "run_until_complete": lambda w: w.loop.run_until_complete(w.loop.create_future()),
    "create_task": lambda w: w.loop.create_task(w.stack.enter_context(contextlib.closing(coroutine_function()))),
    "set_default_executor": lambda w: w.loop.set_default_executor(InlineExecutor()),
    "close": lambda w: w.loop.close(),
    "stop": lambda w: w.loop.stop(),
}
for method, call in CLOSED_CALLS.items():

    @outside_case(f"{method}: on a closed loop")
    def _(w, call=call):
        w.loop.close()
        return call(w)


# -- the tests --

# What the table leaves out, and why.
EXEMPT = {
    **dict.fromkeys(
        ("get_debug", "get_exception_handler", "get_task_factory", "is_closed", "is_running", "time", "create_future",
         "shutdown_asyncgens", "set_debug"),
        "takes no argument that could be wrong"),
    **dict.fromkeys(("call_exception_handler", "default_exception_handler"), "the stdlib's own, of both loops"),
}


def test_every_public_method_is_in_the_table():
    methods = {name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_")}
    in_table = {name.partition(":")[0].partition("(")[0] for name in CASES}
    assert methods - in_table == EXEMPT.keys()
    assert {name for name in in_table if name in EXEMPT} == set()


def expected():
    """{case: (number, the selector loop's outcome, ours)}"""
    table = {}
    for number, (_, cases) in DEVIATIONS.items():
        for name, (selector, ours) in cases.items():
            assert name not in table, name
            table[name] = number, selector, ours
    return table


EXPECTED = expected()


def test_each_deviation_names_a_case():
    assert EXPECTED.keys() <= CASES.keys()


# Both loops leave a transport to its finalizer when its making or closing failed.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("loop_name", OURS)
@pytest.mark.parametrize("name", CASES)
def test_outcome_is_the_selector_loops(name, loop_name):
    selector, ours = outcomes(name, loop_name)
    if name in EXPECTED:
        number, *wanted = EXPECTED[name]
        if number not in NOT_ON_ALL_PYTHONS or selector != ours:
            assert [selector, ours] == wanted, f"deviation {number} is another, or none any more"
    else:
        assert ours == selector


# -- the proactor's own methods --

PLAIN = (ArithmeticError, AttributeError, BufferError, MemoryError, OSError, RuntimeError, TypeError, ValueError)

# name: (call(world, proactor), may it do without raising)
PROACTOR_CASES = {}


def proactor_each(method, things, call, sound=False):
    for what, thing in things.items():
        name = f"{method}: {what}"
        assert name not in PROACTOR_CASES, name
        PROACTOR_CASES[name] = functools.partial(proactor_body, thing, call), sound


async def proactor_body(thing, call, w):
    result = call(w, w.loop._proactor, await thing_in(w, thing))
    return await result if inspect.isawaitable(result) else result


# To the proactor an int is a descriptor, good or bad.
BAD_SOCKETS = {
    what: make
    for what, make in SOCKETS.items()
    if what.startswith(("None", "str", "object", "closed", "detached", "fileno() "))
} | constants({"-1 for a socket": -1, "-2**31 for a socket": -(2**31), "2**31 for a socket": 2**31,
               "2**31 - 1 for a socket": 2**31 - 1, "2**70 for a socket": 2**70, "a float for a socket": 1.5})
ODD_SOCKETS = {what: make for what, make in SOCKETS.items() if what not in BAD_SOCKETS} | {
    "pipe": pipe_file,
    "regular file": lambda w: w.file(),
    "file open for writing": lambda w: w.file("wb"),
    "epoll": lambda w: w.stack.enter_context(contextlib.closing(select.epoll())),
}

CONN_CALLS = {
    "recv": lambda w, p, s: p.recv(s, 10),
    "recv_into": lambda w, p, s: p.recv_into(s, bytearray(10)),
    "recvfrom": lambda w, p, s: p.recvfrom(s, 10),
    "recvfrom_into": lambda w, p, s: p.recvfrom_into(s, bytearray(10)),
    "send": lambda w, p, s: p.send(s, b"data"),
    "sendto": lambda w, p, s: p.sendto(s, b"data", 0, NOWHERE),
    "accept": lambda w, p, s: p.accept(s),
    "connect": lambda w, p, s: p.connect(s, "/nowhere/socket"),
    "sendfile": lambda w, p, s: p.sendfile(s, w.file(), 0, 10),
}
for method, call in CONN_CALLS.items():
    proactor_each(method, BAD_SOCKETS, call)
    proactor_each(method, ODD_SOCKETS, call, sound=True)

proactor_each("recv_into", BAD_TARGETS, lambda w, p, b: p.recv_into(w.one(b"data"), b))
proactor_each("recv_into", TARGETS, lambda w, p, b: p.recv_into(w.one(b"data"), b), sound=True)
proactor_each("recv_into, waiting", TARGETS, lambda w, p, b: p.recv_into(w.one(), b), sound=True)
proactor_each("recvfrom_into", BAD_TARGETS, lambda w, p, b: p.recvfrom_into(w.datagram(b"data"), b))
proactor_each("recvfrom_into", TARGETS, lambda w, p, b: p.recvfrom_into(w.datagram(b"data"), b), sound=True)
for method, make in {"send": lambda w: w.one(), "send, waiting": lambda w: w.full()}.items():
    proactor_each(method, BAD_BUFFERS, lambda w, p, b, make=make: p.send(make(w), b))
    proactor_each(method, SOURCES, lambda w, p, b, make=make: p.send(make(w), b), sound=True)
proactor_each("sendto", BAD_BUFFERS, lambda w, p, b: p.sendto(w.udp(), b, 0, NOWHERE))
proactor_each("sendto", SOURCES, lambda w, p, b: p.sendto(w.udp(), b, 0, NOWHERE), sound=True)
proactor_each("sendto", ADDRESSES, lambda w, p, a: p.sendto(w.udp(), b"data", 0, a))
proactor_each("connect", ADDRESSES, lambda w, p, a: p.connect(w.tcp(), a))
proactor_each("connect", {k: v for k, v in PATHS.items()}, lambda w, p, a: p.connect(w.unix(), a))

# A length of 2**62 is a MemoryError only when there is something to receive.
for method, make in {"recv": lambda w: w.one(b"data"), "recvfrom": lambda w: w.datagram(b"data")}.items():
    proactor_each(method, constants(BAD_SIZES | {"length 2**62": 2**62}),
                  lambda w, p, n, method=method, make=make: getattr(p, method)(make(w), n))
    proactor_each(method, constants(SIZES), lambda w, p, n, method=method, make=make: getattr(p, method)(make(w), n),
                  sound=True)
proactor_each("recvfrom_into", constants(BAD_SIZES | {"length beyond the buffer": 11}),
              lambda w, p, n: p.recvfrom_into(w.datagram(b"data"), bytearray(10), n))

BAD_FLAGS = constants({"flags None": None, "flags a str": "0", "flags 2**32": 2**32, "flags 2**70": 2**70})
# To the kernel each bit means something, or nothing.
ODD_FLAGS = constants({"flags -1": -1, "flags 2**31 - 1": 2**31 - 1, "flags MSG_WAITALL": socket.MSG_WAITALL,
                       "flags MSG_OOB": socket.MSG_OOB, "flags MSG_ERRQUEUE": socket.MSG_ERRQUEUE,
                       "flags MSG_TRUNC": socket.MSG_TRUNC, "flags MSG_PEEK": socket.MSG_PEEK})
FLAG_CALLS = {
    "recv": lambda w, p, f: p.recv(w.tcp_pair()[0], 10, f),
    "recv with data": lambda w, p, f: p.recv(w.one(b"data"), 2, f),
    "recv_into": lambda w, p, f: p.recv_into(w.one(b"data"), bytearray(2), f),
    "recvfrom": lambda w, p, f: p.recvfrom(w.datagram(b"data"), 2, f),
    "recvfrom_into": lambda w, p, f: p.recvfrom_into(w.datagram(b"data"), bytearray(2), 0, f),
    "send": lambda w, p, f: p.send(w.one(), b"data", f),
    "sendto": lambda w, p, f: p.sendto(w.udp(), b"data", f, NOWHERE),
}
for method, call in FLAG_CALLS.items():
    proactor_each(method, BAD_FLAGS, call)
    proactor_each(method, ODD_FLAGS, call, sound=True)

SOUND_FILES = ("text file", "empty file", "pipe for a file")
proactor_each("sendfile of a file", {what: make for what, make in FILES.items() if what not in SOUND_FILES},
              lambda w, p, f: p.sendfile(w.one(), f, 0, 10))
proactor_each("sendfile of a file", {what: FILES[what] for what in SOUND_FILES},
              lambda w, p, f: p.sendfile(w.one(), f, 0, 10), sound=True)
SOUND_OFFSETS = ("offset behind the end", "offset 2**63 - 1")
proactor_each("sendfile", constants({k: v for k, v in OFFSETS.items() if k not in SOUND_OFFSETS}),
              lambda w, p, n: p.sendfile(w.one(), w.file(), n, 10))
proactor_each("sendfile", constants({k: OFFSETS[k] for k in SOUND_OFFSETS}),
              lambda w, p, n: p.sendfile(w.one(), w.file(), n, 10), sound=True)
SOUND_COUNTS = ("count 0", "count 2**31", "count 2**63")
proactor_each("sendfile", constants({k: v for k, v in COUNTS.items() if k not in SOUND_COUNTS} | {"count None": None}),
              lambda w, p, n: p.sendfile(w.one(), w.file(), 0, n))
proactor_each("sendfile", constants({k: COUNTS[k] for k in SOUND_COUNTS} | {"count 2**64 - 1": 2**64 - 1}),
              lambda w, p, n: p.sendfile(w.one(), w.file(), 5, n), sound=True)

proactor_each("wait_for_handle", BAD_SOCKETS, lambda w, p, h: p.wait_for_handle(h))
proactor_each("wait_for_handle with a timeout", BAD_SOCKETS, lambda w, p, h: p.wait_for_handle(h, 60))
proactor_each("wait_for_handle", ODD_SOCKETS, lambda w, p, h: p.wait_for_handle(h), sound=True)
SOUND_TIMES = ("None", "-1", "1e300")
proactor_each("wait_for_handle", constants({f"timeout {k}": v for k, v in TIMES.items() if k not in SOUND_TIMES}),
              lambda w, p, t: p.wait_for_handle(w.one(), t))
proactor_each("wait_for_handle", constants({f"timeout {k}": TIMES[k] for k in SOUND_TIMES}),
              lambda w, p, t: p.wait_for_handle(w.one(), t), sound=True)

# None is a time without end.
BAD_TIMEOUTS = {f"timeout {what}": time for what, time in TIMES.items() if what != "None"}
proactor_each("select", constants(BAD_TIMEOUTS | {"timeout 2**63": 2**63, "timeout -2**70": -(2**70)}),
              lambda w, p, t: p.select(t))
proactor_each("select", constants({"timeout 0": 0, "timeout 1e-12": 1e-12, "timeout False": False}),
              lambda w, p, t: p.select(t), sound=True)


@pytest.fixture
def world():
    world = World(uringloop.new_event_loop)
    yield world
    world.loop.close()
    world.stack.close()
    world.contexts.clear()


async def on_proactor(world, call):
    """The outcome of a call, after which the table must be as it was."""
    await turns(2)
    before = world.operations()
    outcome = None
    try:
        future = call(world)
        if inspect.iscoroutine(future):
            future = world.loop.create_task(future)
        await asyncio.wait([future], timeout=PATIENCE)
        if not future.done():
            future.cancel()
            await asyncio.wait([future], timeout=MORE_PATIENCE)
        if not future.cancelled():
            outcome = future.exception() or world.leave(future.result())
    except Exception as exc:
        outcome = exc
    await turns(5)
    await world.echo()
    await world.wind_up()
    assert world.operations() == before
    return outcome


@pytest.mark.parametrize("name", PROACTOR_CASES)
def test_proactor(world, name):
    call, sound = PROACTOR_CASES[name]
    outcome = world.loop.run_until_complete(on_proactor(world, call))
    if isinstance(outcome, BaseException):
        assert isinstance(outcome, PLAIN) and not isinstance(outcome, SystemError)
    else:
        assert sound, f"no exception but {outcome!r}"
    assert not world.contexts


def test_proactor_without_a_loop_leaves_nothing_behind(world):
    a, b = world.pair()

    def without_a_loop():
        with contextlib.closing(IouringProactor()) as proactor:
            for call in (lambda: proactor.recv(a, 10), lambda: proactor.send(a, b"data"), lambda: proactor.accept(a),
                         lambda: proactor.recvfrom(a, 10), lambda: proactor.wait_for_handle(a)):
                with pytest.raises(RuntimeError):
                    call()
            proactor.select(0)
            return proactor._cache

    # In a thread of its own nobody can make one.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert executor.submit(without_a_loop).result() == {}


def test_proactor_after_close_raises(world):
    proactor = world.loop._proactor
    world.loop.close()
    for call in CONN_CALLS.values():
        with pytest.raises(RuntimeError):
            call(world, proactor, world.one(b"data"))
    with pytest.raises(RuntimeError):
        proactor.wait_for_handle(world.one())
    with pytest.raises(RuntimeError):
        proactor.select(0)
    assert proactor._cache == {}


# -- objects whose fileno() does more than answer --


class Trickster(socket.socket):
    """Calls `trick` once, after `delay` calls of fileno()."""

    trick = None
    delay = 0

    def fileno(self):
        number = super().fileno()
        if self.trick is not None:
            if self.delay == 0:
                trick, self.trick = self.trick, None
                trick()
            else:
                self.delay -= 1
        return number


def cancel_all(world):
    for future, *_ in world.loop._proactor._cache.values():
        future.cancel()


TRICKS = {
    "closes itself": lambda w, sock, future: sock.close(),
    "raises": lambda w, sock, future: 1 / 0,
    "cancels its operation": lambda w, sock, future: future and future.cancel(),
    "cancels all": lambda w, sock, future: cancel_all(w),
    "starts another": lambda w, sock, future: w.loop._proactor.recv(w.one(), 10),
    "starts many others": lambda w, sock, future: [w.loop._proactor.recv(w.one(), 10) for _ in range(300)],
    "turns the proactor": lambda w, sock, future: w.loop._proactor.select(0),
    "collects garbage": lambda w, sock, future: gc.collect(),
}


@pytest.mark.parametrize("delay", range(6))
@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("method", ["recv", "recv_into", "recvfrom", "recvfrom_into", "send", "sendfile", "accept",
                                    "wait_for_handle"])
def test_fileno_that_does_more(world, method, trick, delay):
    """The table is walked while such a fileno() changes it."""
    calls = CONN_CALLS | {"wait_for_handle": lambda w, p, s: p.wait_for_handle(s)}

    async def body():
        neighbours = [world.loop._proactor.recv(world.one(), 10) for _ in range(3)]
        sock = world.keep(Trickster(fileno=world.one(b"data").detach()))
        future = None
        sock.delay = delay
        sock.trick = lambda: TRICKS[trick](world, sock, future)
        with contextlib.suppress(*PLAIN):
            future = calls[method](world, world.loop._proactor, sock)
            await turns(5)
        del sock.trick
        cancel_all(world)
        await asyncio.wait(neighbours)
        await turns(5)
        await world.echo()
        await world.wind_up()
        assert world.operations() == 0

    world.loop.run_until_complete(body())


async def closed_meanwhile(world):
    sock = world.one()
    future = world.loop._proactor.wait_for_handle(sock, 0.01)
    sock.close()
    with pytest.raises(PLAIN):
        await future


def test_wait_for_handle_that_is_closed_meanwhile(world):
    world.loop.run_until_complete(closed_meanwhile(world))
    assert not world.contexts


# -- buffers under a pending operation --


@pytest.mark.parametrize("method", ["send", "sendto"])
def test_buffer_of_a_pending_send_can_not_be_resized(world, method):
    async def body():
        buffer = bytearray(1 << 20)
        if method == "send":
            a, b = world.pair()
            future = world.loop._proactor.send(a, buffer)
        else:
            future = world.loop._proactor.sendto(world.udp(), buffer, 0, NOWHERE)
        with pytest.raises(BufferError):
            buffer.extend(b"x")
        await turns(1)
        if method == "send":
            with pytest.raises(BufferError):
                buffer.clear()
        future.cancel()
        # Free with the final completion, not with the cancelling.
        await turns(5)
        buffer.clear()
        assert _overlapped._kept_for_good == []

    world.loop.run_until_complete(body())


@pytest.mark.parametrize("change", ["grown", "shrunk", "emptied"])
@pytest.mark.parametrize("method", ["recv_into", "recvfrom_into"])
def test_buffer_of_a_pending_receive_may_be_resized(world, method, change):
    """What is received goes where the buffer is then, and not beyond its end."""

    async def body():
        a, b = world.pair()
        buffer = bytearray(1000)
        future = getattr(world.loop._proactor, method)(a, buffer)
        await turns(2)
        if change == "grown":
            buffer.extend(bytes(1 << 20))
        else:
            del buffer[0 if change == "emptied" else 3 :]
        b.send(b"12345678")
        received = await future
        received = received[0] if method == "recvfrom_into" else received
        assert received == min(8, len(buffer))
        assert buffer[:received] == b"12345678"[:received]
        assert drain(a) == b"12345678"[received:]

    world.loop.run_until_complete(body())


def test_recvfrom_into_of_a_buffer_shrunk_below_nbytes(world):
    async def body():
        a, b = world.pair()
        buffer = bytearray(1000)
        future = world.loop._proactor.recvfrom_into(a, buffer, 500)
        await turns(2)
        del buffer[3:]
        b.send(b"12345678")
        with pytest.raises(ValueError):
            await future
        assert drain(a) == b"12345678"

    world.loop.run_until_complete(body())


def main(text=""):
    width = max(len(name) for name in CASES if text in name)
    for name in CASES:
        if text in name:
            try:
                selector, ours = outcomes(name, OURS[0])
            except BaseException as exc:
                selector, ours = "", f"BROKEN {exc!r}"
            number = EXPECTED[name][0] if name in EXPECTED else "!!"
            difference = "" if selector == ours else f" | {number} ours: {ours}"
            print(f"{name:{width}}  {selector}{difference}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
