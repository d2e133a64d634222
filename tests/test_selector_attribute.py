"""`loop._selector`, which is private to CPython and used all the same: by virtual clocks, by who looks for readers."""

import asyncio
import contextlib
import functools
import os
import time
from unittest import mock

import pytest


@contextlib.contextmanager
def replaced(loop, select):
    """As looptime does it."""
    loop._selector.select = select
    try:
        yield
    finally:
        del loop._selector.select


def patched(loop, select):
    """As aiotools does it."""
    return mock.patch.object(loop._selector, "select", new=select)


@pytest.mark.parametrize("way", [replaced, patched])
def test_virtual_clock(loop, way):
    """A day passes at once.  (Not an `async def` test: its time limit would pass as well.)"""
    select, now = loop._selector.select, loop.time()

    def skip(timeout=None):
        nonlocal now
        if timeout is None:
            return select(None)
        now += max(0, timeout)
        return select(0)

    async def hours():
        began = loop.time()
        await asyncio.gather(*[asyncio.sleep(3600 * hour) for hour in range(25)])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(1000), 10)
        return loop.time() - began

    loop.time = lambda: now
    with way(loop, skip):
        assert loop.run_until_complete(hours()) == pytest.approx(86410, abs=1)
    del loop.time
    # It is the class's own again.
    assert loop._selector.select == select
    began = time.monotonic()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert time.monotonic() - began >= 0.01


async def test_select_can_be_counted(loop, pair):
    """What completes comes through the function that was put there."""
    near, far = pair
    counted = []

    def count(select, timeout=None):
        events = select(timeout)
        counted.append(len(events))
        return events

    with replaced(loop, functools.partial(count, loop._selector.select)):
        task = loop.create_task(loop.sock_recv(near, 10))
        await asyncio.sleep(0)
        far.send(b"x")
        assert await task == b"x"
    assert any(counted)


async def test_attributes_can_be_added(loop):
    loop._selector.of_a_program = 42
    assert loop._selector.of_a_program == 42
    del loop._selector.of_a_program


async def test_readers_and_writers_can_be_seen(loop, pair):
    near, far = pair
    loop.add_reader(near, print)
    loop.add_writer(far.fileno(), print)
    assert {near.fileno(), far.fileno()} <= set(loop._selector.get_map())
    assert loop._selector.get_key(near.fileno()).fileobj is near
    loop.remove_reader(near)
    loop.remove_writer(far.fileno())
    assert not {near.fileno(), far.fileno()} & set(loop._selector.get_map())


@pytest.mark.uringloop_only  # it is no selector
@pytest.mark.parametrize("name", ["register", "unregister", "modify"])
async def test_what_would_change_a_selector_is_missing(loop, name):
    assert not hasattr(loop._selector, name)
    with pytest.raises(AttributeError, match=r"no selector; use the loop's add_reader\(\), add_writer\(\)"):
        getattr(loop._selector, name)
    number = os.eventfd(0)
    loop.add_reader(number, print)
    with pytest.raises(TypeError):
        del loop._selector.get_map()[number]
    loop.remove_reader(number)
    os.close(number)
