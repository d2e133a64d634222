"""A loop that is busy with itself: scheduling, threads, subprocesses, its own start. Run in a peer's own process.

Each benchmark is a batch of a fixed number of operations, which the measurement repeats until its time is over.
"""

import asyncio
import threading
import time


async def call_soon(loop):
    """A hundred callbacks, each of which schedules itself again."""
    left, done = 10000, loop.create_future()

    def again():
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(again)
        elif left == 0:
            done.set_result(None)

    for _ in range(100):
        loop.call_soon(again)
    await done
    return 10000


async def cancelled_timers(loop):
    """Timers as time limits are: nearly none is ever due."""
    for _ in range(20):
        for handle in [loop.call_later(30 + i, print) for i in range(50)]:
            handle.cancel()
        await asyncio.sleep(0)
    return 1000


async def timers(loop):
    """Timers that are due, within a millisecond."""
    left, done = 1000, loop.create_future()

    def due():
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    now = loop.time()
    for i in range(1000):
        loop.call_at(now + i * 1e-6, due)
    await done
    return 1000


async def sleep0(loop):
    async def worker():
        for _ in range(100):
            await asyncio.sleep(0)

    await asyncio.gather(*(worker() for _ in range(100)))
    return 10000


async def tasks(loop):
    async def nothing():
        pass

    for _ in range(1000):
        await loop.create_task(nothing())
    return 1000


async def threadsafe(loop):
    """Another thread wakes the sleeping loop, and waits until that was seen."""
    done, seen = loop.create_future(), threading.Semaphore(0)

    def waker():
        for _ in range(200):
            loop.call_soon_threadsafe(seen.release)
            seen.acquire()
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=waker)
    thread.start()
    await done
    thread.join()
    return 200


async def executor(loop):
    for _ in range(200):
        await loop.run_in_executor(None, int)
    return 200


async def spawn(loop):
    """The CPU time is the loop's process's alone, without its children's."""
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()
    return 1


BATCHES = {f.__name__: f for f in (call_soon, cancelled_timers, timers, sleep0, tasks, threadsafe, executor, spawn)}


async def measure_batches(loop, operation, seconds, warm_up):
    limit = time.perf_counter() + warm_up
    while time.perf_counter() < limit:
        await operation(loop)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < start + seconds:
        count += await operation(loop)
    return result(count, start, cpu)


def measure_starts(make_loop, seconds):
    """Loops that are made, run once and closed."""
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < start + seconds:
        loop = make_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        count += 1
    return result(count, start, cpu)


def result(count, start, cpu):
    return {"messages": count, "seconds": time.perf_counter() - start, "server_cpu": time.process_time() - cpu}


def measure(make_loop, kind, seconds, warm_up):
    """Repeat a batch for some seconds after a warm-up; return operations, time and CPU time, in seconds."""
    if kind == "start_loop":
        measure_starts(make_loop, warm_up)
        return measure_starts(make_loop, seconds)
    loop = make_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(measure_batches(loop, BATCHES[kind], seconds, warm_up))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
