"""The loops themselves: their ticks, more than one of them, threads."""

import threading

from hypothesis import strategies as st

from random_steps.steps import step


@step(weight=2, turns=st.just(0), count=st.integers(1, 5), one_run=st.booleans())
def turn(world, count, one_run):
    world.turn(count, one_run)


@step(turns=st.just(0), count=st.integers(1, 3), loop=st.integers(0, 2))
def turn_one_loop(world, count, loop):
    world.turn(count, loops=[world.loop(loop)])


@step(turns=st.just(0), count=st.integers(1, 3))
def turn_in_another_thread(world, count):
    world.turn_elsewhere(count)


@step()
def another_loop(world):
    if len(world.loops) >= 3:
        return False
    world.add_loop()


@step(loop=st.integers(0, 2), calls=st.integers(1, 3))
def call_from_a_thread(world, loop, calls):
    loop = world.loop(loop)
    due = world.calls_due

    def call():
        for number in range(calls):
            due.append(call_number := (len(due), number))
            loop.call_soon_threadsafe(due.remove, call_number)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    world.turn(2, loops=[loop])
    assert not due, "call_soon_threadsafe"
