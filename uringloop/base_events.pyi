# Types of the compiled module: what a program meets of it, as bases of public classes.
import asyncio.base_events
from asyncio import Task, events
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from typing_extensions import disjoint_base

from ._overlapped import Owner

_T = TypeVar("_T")

# In front of the stdlib's: its methods are those of this name there.
@disjoint_base
class BaseEventLoop(asyncio.base_events.BaseEventLoop):
    # Others, such as 3.14's eager_start, it passes on.
    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, _T], *, name: str | None = None, context: Context | None = None
    ) -> Task[_T]: ...

class SlottedEventLoop(BaseEventLoop):
    slow_callback_duration: float

class TimerHandle(events.TimerHandle): ...

@disjoint_base
class Selector: ...

class ReadyOwner(Owner): ...

@disjoint_base
class ReadyHandle: ...

@disjoint_base
class Methods:
    def __new__(cls, of: object, /, *names: str) -> Methods: ...

# What Cython puts there.
__test__: dict[str, str]
__pyx_capi__: dict[str, object]
