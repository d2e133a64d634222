"""The loop's core, base_events.pyx: what it does in C must not be told from what the stdlib does in Python.

Bodies on both loops have the selector loop as their oracle. The rest is about what only ours has: slots that
are filled without a constructor, Handles that are used again, wake-ups that are not sent.
"""

import asyncio
import collections
import contextvars
import gc
import inspect
import logging
import threading
import time
import weakref
from asyncio import base_events, events
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import uringloop
from support import turns

variable = contextvars.ContextVar("variable", default=None)


@pytest.fixture
def ours(make_ours):
    return make_ours()


@pytest.fixture
def make_ours():
    """Makes loops of ours, of a subclass's if one is given, which are closed after the test."""
    made = []

    def make(cls=uringloop.IouringProactorEventLoop):
        made.append(cls())
        return made[-1]

    yield make
    for loop in made:
        loop.close()


def nothing(*args):
    pass


def run_ready(loop):
    """Run what is ready, and what that makes ready, until nothing is."""
    while loop._ready:
        loop._run_once()


# -- Handles --


HANDLE_SLOTS = [name for name in events.Handle.__slots__ if name != "__weakref__"]


def slots(handle, names):
    return {name: getattr(handle, name) for name in names}


@pytest.mark.parametrize("args", [(), (1,), (1, "two", None), tuple(range(20))])
@pytest.mark.parametrize("again", [False, True], ids=["new", "used again"])
@pytest.mark.uringloop_only
def test_handle_is_filled_as_by_the_constructor(loop, args, again):
    context = contextvars.copy_context()
    if again:
        loop.call_soon(nothing, "earlier")
        run_ready(loop)
    handle = loop.call_soon(nothing, *args, context=context)
    assert type(handle) is asyncio.Handle
    expected = events.Handle(nothing, args, loop, context)
    assert slots(handle, HANDLE_SLOTS) == slots(expected, HANDLE_SLOTS)
    assert repr(handle) == repr(expected)
    assert gc.is_tracked(handle)


@pytest.mark.parametrize("args", [(), (1,), (1, "two", None)])
@pytest.mark.parametrize("again", [False, True], ids=["new", "used again"])
@pytest.mark.uringloop_only
def test_timer_handle_is_filled_as_by_the_constructor(loop, args, again):
    context = contextvars.copy_context()
    if again:
        loop.call_at(0, nothing, "earlier")
        loop._run_once()
    when = loop.time() + 1000
    handle = loop.call_at(when, nothing, *args, context=context)
    expected = events.TimerHandle(when, nothing, args, loop, context)
    expected._scheduled = True
    names = [*HANDLE_SLOTS, *events.TimerHandle.__slots__]
    assert isinstance(handle, asyncio.TimerHandle)
    assert slots(handle, names) == slots(expected, names)
    assert repr(handle) == repr(expected)
    assert handle == expected and hash(handle) == hash(expected) and not handle < expected
    handle.cancel()
    with mock.patch.object(loop, "_timer_handle_cancelled"):
        expected.cancel()
    # Of a cancelled one only this is another's to change.
    assert slots(handle, names) == slots(expected, names)


@pytest.mark.parametrize("keep", ["reference", "weak reference"])
@pytest.mark.parametrize("timed", [False, True], ids=["soon", "timed"])
@pytest.mark.uringloop_only
def test_handle_that_somebody_has_is_not_used_again(loop, keep, timed):
    def schedule(name):
        return loop.call_at(0, nothing, name) if timed else loop.call_soon(nothing, name)

    handle = schedule("first")
    kept = handle if keep == "reference" else weakref.ref(handle)
    del handle
    loop._run_once()
    others = [schedule(f"other {i}") for i in range(3000)]
    if keep == "reference":
        assert all(other is not kept for other in others)
        assert kept._args == ("first",) and kept._callback is nothing and not kept.cancelled()
    else:
        assert kept() is None
    loop._run_once()


@pytest.mark.uringloop_only
def test_cancelled_timer_that_somebody_has_is_not_used_again(loop):
    kept = [loop.call_later(1000, nothing, i) for i in range(0, 400, 2)]
    for handle in [loop.call_later(1000, nothing, i) for i in range(1, 400, 2)]:
        handle.cancel()
    del handle
    for handle in kept:
        handle.cancel()
    loop.call_soon(nothing)
    loop._run_once()
    assert loop._scheduled == []
    fresh = [loop.call_later(1000, nothing) for _ in range(400)]
    assert not {id(handle) for handle in kept} & {id(handle) for handle in fresh}
    assert all(handle.cancelled() and not handle._scheduled for handle in kept)


@pytest.mark.uringloop_only
def test_handle_that_has_run_holds_nothing(loop):
    class Held:
        def __call__(self, argument):
            pass

    callback, argument, value = Held(), Held(), Held()
    context = contextvars.copy_context()
    context.run(variable.set, value)
    references = [weakref.ref(thing) for thing in (callback, argument, value)]
    loop.call_soon(callback, argument, context=context)
    loop.call_at(0, callback, argument, context=context)
    loop._run_once()
    del callback, argument, value, context
    assert [reference() for reference in references] == [None] * 3


@pytest.mark.uringloop_only
def test_handle_that_is_freed_in_its_own_release(loop):
    """What a Handle held may schedule others when it goes."""
    class Restless:
        def __call__(self):
            pass

        def __del__(self):
            if not loop.is_closed():
                seen.append(loop.call_soon(nothing, "from __del__"))

    seen = []
    for _ in range(10):
        loop.call_soon(Restless())
    loop._run_once()
    assert [handle._args for handle in seen] == [("from __del__",)] * 10
    assert len(set(map(id, seen))) == 10
    run_ready(loop)


class OtherHandle(events.Handle):
    __slots__ = ()

    def _run(self):
        seen.append("OtherHandle")
        super()._run()


class OtherTimerHandle(events.TimerHandle):
    __slots__ = ()

    def _run(self):
        seen.append("OtherTimerHandle")
        super()._run()


seen = []


async def test_other_class_of_handles(loop):
    """The class is looked up when a Handle is made, by whatever makes it."""
    seen.clear()
    with mock.patch("asyncio.events.Handle", OtherHandle):
        assert type(loop.call_soon(nothing)) is OtherHandle
        # (From CPython 3.14 on it makes one of a class of its own, which had its base before.)
        assert type(loop.call_soon_threadsafe(nothing)) is getattr(events, "_ThreadSafeHandle", OtherHandle)
        await turns(1)
    with mock.patch("asyncio.events.TimerHandle", OtherTimerHandle):
        assert type(loop.call_at(0, nothing)) is OtherTimerHandle
        assert type(loop.call_later(0, nothing)) is OtherTimerHandle
        await turns(3)
    assert seen.count("OtherHandle") >= 2 and seen.count("OtherTimerHandle") == 2
    assert type(loop.call_soon(nothing)) is events.Handle


async def test_patched_run(loop):
    ran = []
    run = events.Handle._run

    def patched(self):
        ran.append(self._args)
        run(self)

    loop.call_soon(nothing, "made before")
    with mock.patch.object(events.Handle, "_run", patched):
        loop.call_soon(nothing, "made meanwhile")
        loop.call_at(0, nothing, "timed")
        await turns(3)
    loop.call_soon(nothing, "made after")
    await turns(2)
    assert {("made before",), ("made meanwhile",), ("timed",)} <= set(ran)
    assert ("made after",) not in ran


async def test_patched_run_sees_transports(loop, connect, pair):
    """Profilers wrap it, to find out what is slow."""
    ours, theirs = pair
    run, ran = events.Handle._run, []

    def patched(self):
        ran.append(repr(self))
        run(self)

    with mock.patch.object(events.Handle, "_run", patched):
        transport, protocol = await connect(ours)
        theirs.send(b"data")
        assert await protocol.received(4) == b"data"
    assert any("_read_ready" in name for name in ran)
    transport.abort()


async def test_patched_constructor_and_cancel(loop):
    made, cancelled = [], []
    construct, cancel = events.Handle.__init__, events.TimerHandle.cancel

    def patched(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        made.append(self)

    handle = loop.call_later(1000, nothing)
    with mock.patch.object(events.Handle, "__init__", patched):
        assert loop.call_soon(nothing) in made
        timer = loop.call_later(1000, nothing)
        assert made[-1] is timer
        timer.cancel()
    with mock.patch.object(events.TimerHandle, "cancel", lambda self: cancelled.append(self) or cancel(self)):
        handle.cancel()
    assert len(cancelled) == 1 and handle.cancelled()
    count = len(made)
    loop.call_soon(nothing)
    assert len(made) == count


async def test_handles_made_by_others(loop):
    """What a program puts into the loop's queues itself is run as the stdlib runs it."""
    ran = []

    class Mine:
        _cancelled = False

        def _run(self):
            ran.append("mine")

    loop._ready.append(events.Handle(ran.append, ["a list of arguments"], loop))
    loop._ready.append(Mine())
    loop._add_callback(events.Handle(ran.append, ("added",), loop))
    cancelled = events.Handle(ran.append, ("cancelled",), loop)
    cancelled.cancel()
    loop._add_callback(cancelled)
    loop._ready.append(cancelled)
    await turns(2)
    assert ran == ["a list of arguments", "mine", "added"]


# -- methods that somebody has overridden --


def counted(name, counts):
    def method(self, *args, **kwargs):
        counts[name] += 1
        return getattr(uringloop.IouringProactorEventLoop, name)(self, *args, **kwargs)

    return method


OVERRIDDEN = {
    "call_soon": lambda loop: loop.create_future().set_result(None) or loop.create_task(turns(1)),
    "_call_soon": lambda loop: loop.call_soon(nothing),
    "_check_closed": lambda loop: loop.call_soon(nothing),
    "get_debug": lambda loop: loop.call_soon(nothing),
    "call_at": lambda loop: loop.call_later(1000, nothing).cancel(),
    "time": lambda loop: loop.call_later(1000, nothing).cancel(),
    "_timer_handle_cancelled": lambda loop: loop.call_later(1000, nothing).cancel(),
    "_write_to_self": lambda loop: loop.call_soon_threadsafe(nothing),
    "_process_events": lambda loop: loop.call_soon(nothing) and loop._run_once(),
}


@pytest.mark.parametrize("where", ["subclass", "instance", "class, later"])
@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_method_is_asked(make_ours, name, where):
    counts = collections.Counter()

    class Subclass(uringloop.IouringProactorEventLoop):
        pass

    loop = make_ours(Subclass)
    loop.call_soon(nothing)
    run_ready(loop)
    method = counted(name, counts)
    if where == "subclass":
        loop = make_ours(type("Overriding", (Subclass,), {name: method}))
    elif where == "instance":
        setattr(loop, name, method.__get__(loop))
    else:
        setattr(Subclass, name, method)
    counts.clear()
    OVERRIDDEN[name](loop)
    assert counts[name] >= 1
    if where == "class, later":
        delattr(Subclass, name)
        counts.clear()
        OVERRIDDEN[name](loop)
        assert not counts
    run_ready(loop)


@pytest.mark.parametrize("name", ["call_soon", "call_at", "_call_soon", "time", "_run_once"])
def test_patched_method_of_the_stdlib_is_asked(ours, name):
    """Instrumentation patches asyncio.BaseEventLoop, from which the loop derives."""
    counts = collections.Counter()
    original = getattr(base_events.BaseEventLoop, name)

    def method(self, *args, **kwargs):
        counts[name] += 1
        return original(self, *args, **kwargs)

    with mock.patch.object(base_events.BaseEventLoop, name, method):
        ours.call_soon(nothing)
        ours.call_later(1000, nothing).cancel()
        ours._run_once()
    assert counts[name] >= 1
    counts.clear()
    ours.call_soon(nothing)
    ours._run_once()
    assert not counts


@pytest.mark.parametrize("name", ["call_soon", "call_later", "call_at", "create_future", "create_task"])
def test_hot_methods_are_the_class_s_own(name):
    """CPython calls a method in C straight where the object is of the very class that it was made for."""
    assert vars(uringloop.IouringProactorEventLoop)[name].__objclass__ is uringloop.IouringProactorEventLoop


def test_patched_method_of_the_loop_s_class_is_asked(ours):
    counts = collections.Counter()
    original = uringloop.IouringProactorEventLoop.call_at

    def call_at(self, *args, **kwargs):
        counts["call_at"] += 1
        return original(self, *args, **kwargs)

    with mock.patch.object(uringloop.IouringProactorEventLoop, "call_at", call_at):
        ours.call_later(1000, nothing).cancel()
    assert counts == {"call_at": 1}
    ours.call_later(1000, nothing).cancel()
    assert counts == {"call_at": 1}


def test_handle_that_was_shown_is_not_used_again(ours):
    handle = ours.call_soon(nothing)
    handle.cancel()
    handle._repr = "as it was"
    del handle
    ours._run_once()
    assert ours.call_soon(nothing)._repr is None
    ours._run_once()


def test_dropped_timer_may_replace_the_selector(ours):
    """What is dropped out of the heap runs a finalizer, behind the check that all is as usual."""
    selector = ours._selector
    calls = []

    class Other:
        def select(self, timeout):
            calls.append(timeout)
            ours._selector = selector
            return []

    class Finalized:
        def __del__(self):
            ours._selector = Other()

    context = contextvars.copy_context()
    context.run(contextvars.ContextVar("held").set, Finalized())
    ours.call_later(1000, nothing, context=context).cancel()
    del context
    ours.call_soon(nothing)
    ours._run_once()
    assert calls == [0]


def test_other_clock_is_asked(ours):
    with mock.patch("time.monotonic", return_value=123.0):
        handle = ours.call_later(1, nothing)
        assert ours.time() == 123.0 and handle.when() == 124.0
    handle.cancel()


def test_other_modules_are_asked(ours):
    """Tests put mocks into asyncio.base_events, too, from where the stdlib's loop has its modules."""
    ours.set_debug(False)
    with mock.patch("asyncio.base_events.time") as other:
        other.monotonic.return_value = 123.0
        handle = ours.call_later(1, nothing)
        assert ours.time() == 123.0 and handle.when() == 124.0
    handle.cancel()
    with mock.patch("asyncio.base_events.futures") as other:
        assert ours.create_future() is other.Future.return_value
    with mock.patch("asyncio.base_events.tasks") as other:
        assert ours.create_task(None) is other.Task.return_value
    with mock.patch("asyncio.base_events.events") as other:
        assert ours.call_soon(nothing) is other.Handle.return_value
        assert ours._ready.pop() is other.Handle.return_value
    assert type(ours.create_future()) is asyncio.Future and type(ours.call_soon(nothing)) is asyncio.Handle
    ours._run_once()


def test_time_is_the_systems(ours):
    before = time.monotonic()
    assert before <= ours.time() <= time.monotonic()


def test_create_task_takes_what_the_stdlibs_takes(loop_factory):
    """From 3.14 on that is any keyword, such as `eager_start`, and a factory gets them all."""
    loop = loop_factory()
    stdlib = inspect.signature(base_events.BaseEventLoop.create_task)
    assert [*inspect.signature(loop.create_task).parameters.values()] == [*stdlib.parameters.values()][1:]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in stdlib.parameters.values())
    if takes_all:
        seen = []
        loop.set_task_factory(lambda loop, coro, **keywords: seen.append(keywords) or asyncio.Task(coro, loop=loop))
        loop.run_until_complete(loop.create_task(turns(1), eager_start=False))
        assert seen == [{"eager_start": False}]
        loop.set_task_factory(None)
        loop.run_until_complete(loop.create_task(turns(1), eager_start=False, name="named"))
    coro = turns(1)
    with pytest.raises(TypeError):
        loop.create_task(coro, unknown=1)
    coro.close()
    loop.close()


@pytest.mark.parametrize("name, args", [
    ("call_soon", (nothing, 1)), ("call_soon_threadsafe", (nothing, 1)),
    ("call_later", (1000, nothing, 1)), ("call_at", (1e9, nothing, 1)),
])
def test_signatures_and_wrong_arguments(loop_factory, name, args):
    loop = loop_factory()
    method = getattr(loop, name)
    stdlib = inspect.signature(getattr(base_events.BaseEventLoop, name))
    assert [*inspect.signature(method).parameters.values()] == [*stdlib.parameters.values()][1:]
    with pytest.raises(TypeError):
        method()
    with pytest.raises(TypeError):
        method(*args, callback=nothing)
    with pytest.raises(TypeError):
        method(*args, unknown=1)
    method(*args, context=None).cancel()
    if name == "call_soon":
        method(callback=nothing)
    if name in ("call_later", "call_at"):
        for wrong in (None, "soon"):
            with pytest.raises(TypeError):
                method(wrong, nothing)
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        method(*args)


# -- timers --


class Steps:
    """The same steps on our loop and on the oracle; each timer is known by its number."""

    def __init__(self, loop):
        self.loop = loop
        self.timers = []
        self.ran = []

    def push(self, when):
        number = len(self.timers)
        self.timers.append(self.loop.call_at(when, self.ran.append, number))

    def cancel(self, number):
        if self.timers:
            self.timers[number % len(self.timers)].cancel()

    def cancel_most(self, _):
        for timer in self.timers[:len(self.timers) * 3 // 4]:
            timer.cancel()

    def turn(self, _):
        self.loop.call_soon(nothing)
        self.loop._run_once()

    def state(self):
        numbers = {id(timer): number for number, timer in enumerate(self.timers)}
        return ([numbers[id(timer)] for timer in self.loop._scheduled], self.ran, self.loop._timer_cancelled_count,
                [(timer._scheduled, timer.cancelled()) for timer in self.timers])


# Some are due at once, some never; many are equal, and some are no floats.
WHENS = st.one_of(st.integers(0, 3), st.integers(0, 5).map(float), st.integers(0, 5).map(lambda n: 1e9 + n),
                  st.just(10**9), st.just(float("nan")), st.just(float("inf")))
STEPS = st.lists(st.one_of(
    st.tuples(st.just("push"), WHENS), st.tuples(st.just("push"), WHENS), st.tuples(st.just("push"), WHENS),
    st.tuples(st.just("cancel"), st.integers(0, 1000)), st.tuples(st.just("turn"), st.none()),
), max_size=60)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=STEPS, many=st.booleans(), order=st.randoms(use_true_random=False))
def test_heap_is_heapqs(steps, many, order):
    """After every step the list is, place by place, what the stdlib's heapq makes of it."""
    if many:
        whens = [1e9 + order.randrange(30) for _ in range(150)]
        steps = [("push", when) for when in whens] + [("cancel_most", None), ("turn", None), *steps]
    loops = [asyncio.SelectorEventLoop(), uringloop.new_event_loop()]
    try:
        oracle, ours = map(Steps, loops)
        for name, argument in steps:
            getattr(oracle, name)(argument)
            getattr(ours, name)(argument)
            assert ours.state() == oracle.state()
    finally:
        for loop in loops:
            loop.close()


async def test_cancelled_timers_are_cleaned_up(loop):
    others = len(loop._scheduled)
    count = 3 * base_events._MIN_SCHEDULED_TIMER_HANDLES
    timers = [loop.call_later(1000 + i, nothing) for i in range(count)]
    for timer in timers[-count * 2 // 5:]:
        timer.cancel()
    await turns(1)
    # Fewer than half, and none of them at the head.
    assert len(loop._scheduled) == others + count
    assert loop._timer_cancelled_count == count * 2 // 5
    for timer in timers[-count * 3 // 5:]:
        timer.cancel()
    await turns(1)
    assert len(loop._scheduled) == others + count * 2 // 5
    assert loop._timer_cancelled_count == 0
    assert all(timer._scheduled != timer.cancelled() for timer in timers)
    # At the head they go at once.
    timers[0].cancel()
    assert loop._timer_cancelled_count == 1 and timers[0]._scheduled
    await turns(1)
    assert loop._timer_cancelled_count == (1 if others else 0)


@pytest.mark.uringloop_only
async def test_timers_that_others_have_put_there(loop):
    ran = []

    class Comparable(events.TimerHandle):
        def __lt__(self, other):
            ran.append("compared")
            return super().__lt__(other)

    for when in (0.5, 0.25):
        handle = Comparable(when, ran.append, (when,), loop)
        handle._scheduled = True
        loop._scheduled.append(handle)
    loop._scheduled.sort()
    ran.clear()
    loop.call_at(0.125, ran.append, 0.125)
    await turns(3)
    assert [item for item in ran if item != "compared"] == [0.125, 0.25, 0.5]
    assert "compared" in ran


# -- turns --


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("debug", [False, True])
def test_interrupt_in_a_callback_loses_no_other(loop, interrupt, debug):
    def interrupted():
        ran.append("interrupt")
        raise interrupt

    ran = []
    loop.set_debug(debug)
    loop.call_soon(ran.append, 1)
    loop.call_soon(interrupted)
    loop.call_soon(ran.append, 2)
    loop.call_soon(loop.stop)
    with pytest.raises(interrupt):
        loop.run_forever()
    assert ran == [1, "interrupt"]
    loop.run_forever()
    assert ran == [1, "interrupt", 2]


@pytest.mark.parametrize("debug", [False, True])
async def test_exception_is_reported(loop, errors, debug):
    def wrong(*args):
        raise LookupError(*args)

    def cancels_itself():
        handle.cancel()
        raise LookupError

    loop.set_debug(debug)
    handles = [loop.call_soon(wrong, 1), loop.call_at(0, wrong, 2)]
    await turns(2)
    assert [str(context["exception"]) for context in errors] == ["1", "2"]
    assert [context["handle"] for context in errors] == handles
    assert all(context["message"].startswith("Exception in callback test_exception_is_reported.<locals>.wrong(")
               for context in errors)
    assert all(("source_traceback" in context) == debug for context in errors)
    errors.clear()
    handle = loop.call_soon(cancels_itself)
    await turns(2)
    assert [context["message"] for context in errors] == ["Exception in callback None()"]
    errors.clear()
    context = contextvars.copy_context()
    context.run(loop._ready.append, events.Handle(nothing, (), loop, context))
    await asyncio.sleep(0)
    assert errors == []


def test_context_that_is_entered_already(loop, caplog):
    context = contextvars.copy_context()
    loop.call_soon(nothing, context=context)
    context.run(loop._run_once)
    # (The exception handler is to be called in it, too.)
    assert "already entered" in caplog.text and "Exception in callback nothing()" in caplog.text


async def test_contexts_of_callbacks(loop):
    found = []
    variable.set("outer")
    loop.call_soon(lambda: (found.append(variable.get()), variable.set("inner")))
    loop.call_soon(lambda: found.append(variable.get()))
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    loop.call_soon(lambda: (found.append(variable.get()), variable.set("left behind")), context=context)
    loop.call_at(0, lambda: found.append(variable.get()), context=context)
    await turns(3)
    assert found == ["outer", "outer", "given", "left behind"]
    assert variable.get() == "outer"


async def test_many_arguments(loop):
    found = []
    for count in (0, 1, 5, 6, 7, 8, 30):
        loop.call_soon(lambda *args: found.append(args), *range(count))
        loop.call_soon(found.append, tuple(range(count)))
    await turns(2)
    assert found == [tuple(range(count)) for count in (0, 1, 5, 6, 7, 8, 30) for _ in range(2)]


async def test_debug_mode_that_begins_in_a_turn(loop, caplog):
    """From the next callback on it holds, and tells of slow ones."""
    handles = []
    loop.slow_callback_duration = 0
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.call_soon(loop.set_debug, True)
        handle = loop.call_soon(lambda: handles.append(loop._current_handle))
        await turns(2)
        loop.set_debug(False)
    assert handles == [handle]
    assert any("Executing <Handle" in message for message in caplog.messages)


async def test_ready_that_is_another_deque(loop):
    """Whoever replaces the queue finds his own used."""
    class Mine(collections.deque):
        pass

    ran = []
    loop._ready = Mine(loop._ready)
    loop.call_soon(ran.append, 1)
    assert len(loop._ready) >= 1
    await turns(2)
    loop._ready = collections.deque(loop._ready)
    loop.call_soon(ran.append, 2)
    await turns(2)
    assert ran == [1, 2]


def test_replaced_selector(ours):
    with mock.patch.object(ours, "_selector") as selector, mock.patch.object(ours, "_process_events") as process:
        selector.select.return_value = ["event"]
        ours.call_soon(nothing)
        ours._run_once()
        selector.select.assert_called_once_with(0)
        process.assert_called_once_with(["event"])
    assert ours._selector is ours._proactor


def test_replaced_select(ours):
    calls = []
    select = ours._selector.select
    ours._selector.select = lambda timeout: calls.append(timeout) or select(0)
    ours.call_soon(nothing)
    ours._run_once()
    timer = ours.call_later(1000, nothing)
    ours._run_once()
    timer.cancel()
    del ours._selector.select
    assert calls[0] == 0 and 900 < calls[1] <= 1000


def test_attributes_are_slots(ours):
    """Without a __dict__ the loop's methods are found faster; deleted attributes are gone, as a mock expects."""
    ours.run_until_complete(turns(2))
    assert vars(ours) == {}
    for name in ("_ready", "_debug", "_selector", "_thread_id"):
        value = getattr(ours, name)
        delattr(ours, name)
        assert not hasattr(ours, name)
        setattr(ours, name, value)
    ours.attribute = 1
    assert vars(ours) == {"attribute": 1}
    ours.run_until_complete(turns(2))


def test_base_alone_is_no_loop():
    from uringloop.base_events import BaseEventLoop

    with pytest.raises(TypeError):
        BaseEventLoop()


async def test_futures_and_tasks(loop):
    async def body():
        return variable.get()

    context = contextvars.copy_context()
    context.run(variable.set, "of the context")
    future = loop.create_future()
    assert type(future) is asyncio.Future and future.get_loop() is loop
    future.set_result(1)
    assert await future == 1
    task = loop.create_task(body(), name="named", context=context)
    assert type(task) is asyncio.Task and task.get_name() == "named" and await task == "of the context"
    assert (await loop.create_task(coro=body())) is None
    with pytest.raises(TypeError):
        loop.create_task()
    with pytest.raises(TypeError):
        loop.create_task(None)
    made = []
    loop.set_task_factory(lambda loop, coro, **kwargs: made.append(coro) or asyncio.Task(coro, loop=loop, **kwargs))
    await loop.create_task(body())
    assert len(made) == 1
    loop.set_task_factory(None)
    class Mine(asyncio.Future):
        pass

    with mock.patch("asyncio.futures.Future", Mine):
        assert type(loop.create_future()) is Mine


# -- other threads --


@pytest.mark.uringloop_only
async def test_wake_up_that_was_not_sent(loop):
    """A callback that drives the loop by itself sleeps only when nothing has been added since it looked."""
    def sleeps():
        # While callbacks run, this sends no wake-up.
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(ran.append, True))
        thread.start()
        thread.join()
        loop._selector.select(None)
        woken.append(True)

    ran, woken = [], []
    loop.call_soon(sleeps)
    await turns(3)
    assert ran == woken == [True]


@pytest.mark.skipif(not hasattr(events, "_ThreadSafeHandle"), reason="this Python's Handles know of no other threads")
@pytest.mark.parametrize("method", ["cancel", "cancelled"])
async def test_handle_of_another_thread_waits_for_its_callback(loop, method):
    def callback():
        began.set()
        # (While it waits, the other thread is within the method.)
        goes_on.wait(0.2)
        ended.append(True)

    def other():
        handle = loop.call_soon_threadsafe(callback)
        began.wait()
        told.append((getattr(handle, method)(), list(ended)))
        loop.call_soon_threadsafe(done.set_result, None)

    began, goes_on = threading.Event(), threading.Event()
    ended, told = [], []
    done = loop.create_future()
    thread = threading.Thread(target=other)
    thread.start()
    await done
    thread.join()
    assert told == [(None if method == "cancel" else False, [True])]
    handle = loop.call_soon_threadsafe(ended.append, "never")
    assert type(handle) is events._ThreadSafeHandle
    handle.cancel()
    await turns(2)
    assert ended == [True]


async def test_many_threads_and_a_loop_that_sleeps_between(loop):
    def call(number):
        for i in range(300):
            event = threading.Event()
            loop.call_soon_threadsafe(lambda i=i, event=event: (ran.append((number, i)), event.set()))
            event.wait()
        loop.call_soon_threadsafe(left.discard, number)
        loop.call_soon_threadsafe(lambda: left or done.done() or done.set_result(None))

    ran, left, done = [], set(range(4)), loop.create_future()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    await done
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [i for who, i in ran if who == number] == list(range(300))
