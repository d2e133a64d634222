from asyncio import AbstractEventLoop
from collections.abc import Callable
from signal import Handlers, Signals
from types import FrameType
from typing import Any, NamedTuple, Protocol, TypeAlias, TypedDict, type_check_only
from weakref import WeakSet

__all__ = ("Operation", "dump", "dump_on_signal", "operations")

VARIABLE: str
LOOPS: WeakSet[AbstractEventLoop]

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_File: TypeAlias = int | _HasFileno

class Operation(NamedTuple):
    kind: str
    state: str
    fd: int
    peer: Any
    age: float
    done: int
    size: int
    owner: object

@type_check_only
class OperationsOfKind(TypedDict):
    count: int
    oldest: float
    ages: dict[str, int]

@type_check_only
class Buffers(TypedDict):
    sends: int
    unsent: int
    abandoned: int
    receive: int

# What loop.stats() returns.
@type_check_only
class Stats(TypedDict):
    running: float
    blocked: float
    busy: float
    turns: int
    callbacks: int
    ready: int
    timers: int
    enters: int
    submissions: int
    completions: int
    cq_overflows: int
    replaced_rings: int
    stale_keys: int
    states: dict[str, int]
    operations: dict[str, OperationsOfKind]
    buffers: Buffers

def stats_of(loop: Any, numbers: tuple[int, int, float]) -> Stats: ...
def operations(loop: AbstractEventLoop) -> list[Operation]: ...
def dump(loop: AbstractEventLoop | None = None, file: _File | None = None) -> None: ...
def dump_on_signal(
    signum: int | Signals = ..., file: _File | None = None
) -> Callable[[int, FrameType | None], Any] | int | Handlers | None: ...
def obey_environment() -> None: ...
