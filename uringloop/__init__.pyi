# Types of the public names; mypy's stubtest holds them to what is there.
import asyncio
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar, overload

from .observability import (
    Operation as Operation,
    dump as dump,
    dump_on_signal as dump_on_signal,
    operations as operations,
)
from .unavailable import IouringUnavailableError as IouringUnavailableError
from .uring_events import (
    IouringProactor as IouringProactor,
    IouringProactorEventLoop as IouringProactorEventLoop,
    IouringProactorEventLoopPolicy as IouringProactorEventLoopPolicy,
    _Transports,
)

_T = TypeVar("_T")

__version__: str
__all__ = (
    "IouringProactor",
    "IouringProactorEventLoop",
    "IouringProactorEventLoopPolicy",
    "IouringUnavailableError",
    "Operation",
    "dump",
    "dump_on_signal",
    "new_event_loop",
    "operations",
    "run",
)

@overload
def new_event_loop(
    transports: _Transports | None = None,
    *,
    spin_us: int | None = None,
    sq_entries: int | None = None,
    cq_entries: int | None = None,
    receive_buffer: int | None = None,
    fallback: Literal[False] = False,
) -> IouringProactorEventLoop: ...
@overload
def new_event_loop(
    transports: _Transports | None = None,
    *,
    spin_us: int | None = None,
    sq_entries: int | None = None,
    cq_entries: int | None = None,
    receive_buffer: int | None = None,
    fallback: bool,
) -> asyncio.AbstractEventLoop: ...
def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    transports: _Transports | None = None,
    fallback: bool = False,
) -> _T: ...
