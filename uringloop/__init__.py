"""uringloop: an event loop for asyncio on io_uring.

    import asyncio
    import uringloop

    with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
        runner.run(main())

Importing this package touches neither io_uring nor asyncio's policies, nor signals, unless the environment asks for it
(URINGLOOP_DUMP_ON_SIGNAL).
"""

from functools import partial

from .fallback import is_wanted, or_stdlib
from .unavailable import IouringUnavailableError

try:
    from .uring_events import IouringProactor, IouringProactorEventLoop
    from . import observability
    from .observability import Operation, dump, dump_on_signal, operations
except ModuleNotFoundError as exc:
    from . import unbuilt
    if exc.name not in unbuilt.EXTENSION_MODULES:
        raise
    unbuilt.give_way()
else:
    observability.obey_environment()

# The one place where it stands: pyproject.toml takes it from here.
__version__ = '0.2.0'

__all__ = (
    'IouringProactor',
    'IouringProactorEventLoop',
    'IouringProactorEventLoopPolicy',
    'IouringUnavailableError',
    'Operation',
    'dump',
    'dump_on_signal',
    'new_event_loop',
    'operations',
    'run',
)


def new_event_loop(transports=None, *, spin_us=None, sq_entries=None, cq_entries=None, receive_buffer=None,
                   fallback=False):
    """Return a new event loop on io_uring.

    For asyncio.run(..., loop_factory=...) and asyncio.Runner(loop_factory=...).
    transports: as for IouringProactorEventLoop.
    spin_us, sq_entries, cq_entries, receive_buffer: as for IouringProactor.
    fallback: True: where io_uring can't be had, return asyncio's selector loop, to which the other arguments mean
    nothing, and tell of it by one RuntimeWarning, which names the cause.
    Raises IouringUnavailableError where io_uring can't be had, ValueError or TypeError for an argument that is wrong.

    Source: asyncio.new_event_loop.
    """
    factory = partial(IouringProactorEventLoop, transports=transports, spin_us=spin_us, sq_entries=sq_entries,
                      cq_entries=cq_entries, receive_buffer=receive_buffer)
    return or_stdlib(factory) if is_wanted(fallback) else factory()


def run(main, *, debug=None, transports=None, fallback=False):
    """Run a coroutine on a new event loop on io_uring, and return its result.

    main: a coroutine.
    debug: True or False for the loop's debug mode; None leaves it to PYTHONASYNCIODEBUG.
    transports, fallback: as for new_event_loop().
    Raises what the coroutine raises, RuntimeError when a loop runs already in this thread, and what
    new_event_loop() raises.

    Source: asyncio.run.
    """
    import asyncio
    from asyncio import events
    if events._get_running_loop() is not None:
        raise RuntimeError("uringloop.run() cannot be called from a running event loop")
    factory = partial(new_event_loop, transports, fallback=fallback)
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)


def __getattr__(name):
    # Policies are deprecated from Python 3.14 on and gone in 3.16.
    if name == 'IouringProactorEventLoopPolicy':
        from . import uring_events
        return uring_events.IouringProactorEventLoopPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _name_modules():
    """Never called: what the modules in C import stands here as well, where PyInstaller, Nuitka and cx_Freeze can read it."""
    from . import (  # noqa: F401
        _overlapped, _sockaddr, base_events, fallback, observability, proactor_events, selector_events, sock_calls, sslproto,
        stdlib_transports, streams, tiers, transport_registry, unavailable, unix_events, uring_events, wakeup_fds,
    )
