"""What of this package mirrors what of the standard library, as data.

The mirror test holds our sources to this table, and `python -m uringloop side-by-side` prints it.
It owns the names, the absences and the changed parameters, each with its reason; the reasons of
differences inside a body stand in the numbered list at the head of each source. No name here is
bound to a version of Python: what the installed `asyncio` has is what counts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModulePair:
    """Two source files; whole: ours has every class and method, in the same order."""

    stdlib: str
    ours: str
    whole: bool


MODULES = (
    ModulePair("asyncio/windows_events.py", "uring_events.pyx", whole=True),
    ModulePair("asyncio/base_events.py", "base_events.pyx", whole=False),
    ModulePair("asyncio/proactor_events.py", "proactor_events.pyx", whole=False),
    ModulePair("asyncio/proactor_events.py", "stdlib_transports.py", whole=False),
    ModulePair("asyncio/sslproto.py", "sslproto.pyx", whole=True),
    ModulePair("asyncio/unix_events.py", "unix_events.py", whole=False),
    ModulePair("asyncio/selector_events.py", "selector_events.py", whole=False),
)

# Where `# stdlib: Class.method` is looked for besides its own pair: what the loop inherits, and its
# Handles, which stand beside the loop in ours.
INHERITED = ("base_events", "events", "futures", "transports")

# Two names of the stdlib for one of ours: the underscored one came with the end of policies.
CLASSES = {
    "ProactorEventLoop": "IouringProactorEventLoop",
    "IocpProactor": "IouringProactor",
    "WindowsProactorEventLoopPolicy": "IouringProactorEventLoopPolicy",
    "_WindowsProactorEventLoopPolicy": "IouringProactorEventLoopPolicy",
    "_UnixSelectorEventLoop": "_UnixEventLoopMixin",
    "BaseSelectorEventLoop": "_ReadinessEventLoop",
}

ATTRIBUTES = {
    "_iocp": "_ring",
    "_register_with_iocp": "_register_with_ring",
}

# Classes that a function makes at first use, since their base warns, or is gone: the function
# stands in their place.
LAZY = {
    "IouringProactorEventLoopPolicy": "_make_policy",
}

_NAMED_PIPES = "Windows named pipes; unix sockets take their place"
_ERRNO = "errors are errno's"
_SELECTOR = "asyncio's own selector loop is there for that"
_NO_EVENT = "a wait's own final completion tells its end"
_REPR = "a future's repr() no longer calls it"
_WAIT = "a wait is a poll on the ring, and cancelled as any operation is"
_SUBPROCESS = "subprocesses are as in asyncio/unix_events.py, not as on Windows"

_STATES = "the stdlib's own are used: one is equal to the other"

ABSENT = {
    "NULL": "an operation is made for a ring",
    "ERROR_CONNECTION_REFUSED": _ERRNO,
    "ERROR_CONNECTION_ABORTED": _ERRNO,
    "CONNECT_PIPE_INIT_DELAY": _NAMED_PIPES,
    "CONNECT_PIPE_MAX_DELAY": _NAMED_PIPES,
    "_OverlappedFuture._repr_info": _REPR,
    "_BaseWaitHandleFuture._repr_info": _REPR,
    "PipeServer": _NAMED_PIPES,
    "_WindowsSelectorEventLoop": _SELECTOR,
    "ProactorEventLoop.create_pipe_connection": _NAMED_PIPES,
    "ProactorEventLoop.start_serving_pipe": _NAMED_PIPES,
    "ProactorEventLoop._make_subprocess_transport": _SUBPROCESS,
    "IocpProactor.accept_pipe": _NAMED_PIPES,
    "IocpProactor.connect_pipe": _NAMED_PIPES,
    "IocpProactor._get_accept_socket": "the kernel makes the accepted socket",
    "_WindowsSubprocessTransport": _SUBPROCESS,
    "SelectorEventLoop": _SELECTOR,
    "WindowsSelectorEventLoopPolicy": _SELECTOR,
    "_WindowsSelectorEventLoopPolicy": _SELECTOR,
    "DefaultEventLoopPolicy": "asyncio's own is not replaced",
    "_DefaultEventLoopPolicy": "asyncio's own is not replaced",
    "EventLoop": "asyncio's own is not replaced",
    "SSLProtocolState": _STATES,
    "AppProtocolState": _STATES,
}

_MIXIN = "ours is a base beside the proactor loop, whose arguments it hands on"

_IN_CONTEXT = "self, loop, sock, protocol, waiter=None, extra=None, server=None, context=None"
_CONTEXT = "the connection's own context, which asyncio hands on from 3.15 on"
_OPTIONS = "spin_us=None, sq_entries=None, cq_entries=None, receive_buffer=None"

# Our parameters where they are others than the stdlib's.
CHANGED = {
    "ProactorEventLoop.__init__": (
        f"self, proactor=None, *, transports=None, {_OPTIONS}",
        "there is more than one tier of transports to choose from, and the proactor that is made has options",
    ),
    "IocpProactor.__init__": (
        f"self, rung=None, kernel=None, *, {_OPTIONS}",
        "a ring is entered by one thread, so there is no concurrency to set; what can be chosen is"
        " the rung of the set-up ladder, what a ring trades for its memory and CPU and, in tests, the kernel",
    ),
    "IocpProactor.recvfrom_into": (
        "self, conn, buf, nbytes=0, flags=0",
        "BaseProactorEventLoop.sock_recvfrom_into passes nbytes third, where IocpProactor's has"
        " flags: a length would be taken for flags",
    ),
    "_ProactorBasePipeTransport.__init__": (_IN_CONTEXT, _CONTEXT),
    "_ProactorSocketTransport.__init__": (_IN_CONTEXT, _CONTEXT),
    "SSLProtocol._abort": ("self, exc=None", "the stdlib's has it from 3.13 on, and always then"),
    "_SSLProtocolTransport.__del__": ("self", "what calls that of a class of C gives it no more"),
    "_UnixSelectorEventLoop.__init__": ("self, *args, **kwargs", _MIXIN),
    "BaseSelectorEventLoop.__init__": ("self", "no selector is made: the proactor is what waits"),
}

_LATER = "in the stdlib from 3.15 on"

# Parameters that ours has always, and the stdlib from some Python on.
LATER_PARAMETERS = {
    "BaseProactorEventLoop._make_socket_transport": {"context": _LATER},
    "BaseProactorEventLoop._make_ssl_transport": {"context": _LATER},
    "BaseProactorEventLoop._start_serving": {"context": _LATER},
    "BaseSelectorEventLoop._add_reader": {"context": _LATER},
    "BaseSelectorEventLoop._add_writer": {"context": _LATER},
}

# Parameters that the stdlib has on some Pythons, where ours takes what any of them does and hands it on.
EARLIER_PARAMETERS = {
    "BaseEventLoop.create_task": (
        "self, coro, *, name=None, context=None",               # until early releases of 3.13
        "self, coro, *, name=None, context=None, **kwargs",     # late releases of 3.13
    ),
}

# Ours has them always, or under a condition; an installed asyncio may have them or not.
SOME_PYTHONS = {
    "ProactorEventLoop.run_forever": "until 3.12",
    "ProactorEventLoop._run_forever_setup": "from 3.13 on",
    "ProactorEventLoop._run_forever_cleanup": "from 3.13 on",
    "IocpProactor._finish_recvfrom": "from 3.13 on",
    "_UnixSelectorEventLoop._stop_serving": "from 3.13 on",
    "SSLProtocol._is_transport_closing": "from late releases of 3.13 on",
}

# Hooks of Cython, which no Python class has, and of the import system.
HOOKS = ("__cinit__", "__dealloc__", "__getattr__")

# Modules/overlapped.c of CPython and _overlapped.pyx: names only, C sources are not installed.
C_SOURCE = "Modules/overlapped.c"
C_OURS = "_overlapped.pyx"
C_NAMES = {
    "CreateIoCompletionPort": "Ring",
    "GetQueuedCompletionStatus": "Ring.wait",
    "PostQueuedCompletionStatus": "Ring.wake",
    "RegisterWaitWithQueue": "Overlapped.prep_poll",
    "Overlapped": "Overlapped",
    "Overlapped.getresult": "Overlapped.getresult",
    "Overlapped.cancel": "Overlapped.cancel",
    "Overlapped.ReadFile": "Overlapped.prep_read",
    "Overlapped.ReadFileInto": "Overlapped.prep_read_into",
    "Overlapped.WSARecv": "Overlapped.prep_recv",
    "Overlapped.WSARecvInto": "Overlapped.prep_recv_into",
    "Overlapped.WSARecvFrom": "Overlapped.prep_recvfrom",
    "Overlapped.WSARecvFromInto": "Overlapped.prep_recvfrom_into",
    "Overlapped.WriteFile": "Overlapped.prep_write",
    "Overlapped.WSASend": "Overlapped.prep_send",
    "Overlapped.AcceptEx": "Overlapped.prep_accept",
    "Overlapped.ConnectEx": "Overlapped.prep_connect",
    "Overlapped.TransmitFile": "Overlapped.prep_sendfile",
    "Overlapped.WSASendTo": "Overlapped.prep_sendto",
    "Overlapped.error": "Overlapped.error",
    "Overlapped.address": "Overlapped.address",
    "Overlapped.pending": "Overlapped.pending",
}
C_ABSENT = {
    "FormatMessage": "os.strerror has the texts",
    "BindLocal": "connect(2) binds by itself",
    "WSAConnect": "socket.connect of a datagram socket returns at once",
    "ConnectPipe": _NAMED_PIPES,
    "UnregisterWait": _WAIT,
    "UnregisterWaitEx": _WAIT,
    "CreateEvent": _NO_EVENT,
    "SetEvent": _NO_EVENT,
    "ResetEvent": _NO_EVENT,
    "Overlapped.DisconnectEx": "asyncio never calls it",
    "Overlapped.ConnectNamedPipe": _NAMED_PIPES,
    "Overlapped.event": "a completion is told by the ring alone",
}


def our_name(stdlib_name):
    """Return what `IocpProactor.recv` or `PipeServer` is called here, absent or not."""
    owner, dot, member = stdlib_name.rpartition(".")
    if not dot:
        return CLASSES.get(member, member)
    return f"{CLASSES.get(owner, owner)}.{ATTRIBUTES.get(member, member)}"


def absence(stdlib_name):
    """Return why a class, a method, or the class of a method has no place here; None if it has."""
    return ABSENT.get(stdlib_name) or ABSENT.get(stdlib_name.rpartition(".")[0])
