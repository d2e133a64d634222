"""Dask's distributed: a scheduler and two workers in processes of their own.

Two gigabytes go from one worker to the other and back, 64 MiB at a time.  One worker is killed in the middle,
and another one comes: what was lost is computed again.
"""

import asyncio
import contextlib
import os
import signal
import sys
import zlib

from distributed import Client, Scheduler, Worker

from ecosystem import kit

PACKAGES = ["distributed>=2024.8"]
TIMEOUT = 90

SIZE = 16 << 20
ROUNDS = 128


def make(number):
    return kit.payload(1 << 10, number) * (SIZE >> 10)


def check(data):
    from ecosystem.kit import LOOP
    return zlib.crc32(data), len(data), LOOP


async def loop_of(dask_worker=None):
    return type(asyncio.get_running_loop()).__name__


async def scheduler(port):
    async with Scheduler(host="127.0.0.1", port=port, dashboard=False) as scheduler:
        await scheduler.finished()


async def worker(port, name):
    async with Worker(f"tcp://127.0.0.1:{port}", name=name, nthreads=1, memory_limit="600MB", local_directory=os.getcwd()) as worker:
        await worker.finished()


def start(what, *arguments):
    """One of the above in a process of its own.  The survivors of a kill log what they have lost with its traceback."""
    return kit.child("-m", "ecosystem.programs.distributed", what, *arguments, ok=(0, -signal.SIGTERM, -signal.SIGKILL), tracebacks=True)


async def use(port, kill):
    wanted = [zlib.crc32(make(number)) for number in range(8)]
    async with Client(f"tcp://127.0.0.1:{port}", asynchronous=True) as client:
        await client.wait_for_workers(2, timeout=30)
        assert set((await client.run(loop_of)).values()) == {kit.LOOP_KIND}
        for start in range(0, ROUNDS, 4):
            # Made by one, checked by the other: each crosses the wire.  From the kill on, whoever is there takes it.
            loose = start >= ROUNDS // 2
            here, there = ("one", "other") if start % 8 else ("other", "one")
            made = client.map(make, [number % 8 for number in range(start, start + 4)], pure=False, workers=[here],
                              allow_other_workers=loose, key=[f"make-{number}" for number in range(start, start + 4)])
            checked = client.map(check, made, pure=False, workers=[there], allow_other_workers=loose,
                                 key=[f"check-{number}" for number in range(start, start + 4)])
            if start == ROUNDS // 2:
                await asyncio.wait([asyncio.ensure_future(future._state.wait()) for future in made[:1]], timeout=20)
                kill()
            found = await client.gather(checked)
            assert found == [(wanted[number % 8], SIZE, kit.LOOP) for number in range(start, start + 4)], found
            del made, checked
        await client.wait_for_workers(2, timeout=30)


def main():
    port = kit.free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(start("scheduler", port))
        workers = [stack.enter_context(start("worker", port, name)) for name in ("one", "other")]

        def kill():
            workers[1].kill()
            stack.enter_context(start("worker", port, "other"))

        asyncio.run(use(port, kill), loop_factory=kit.new_event_loop)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    asyncio.run({"scheduler": scheduler, "worker": worker}[what](int(arguments[0]), *arguments[1:]), loop_factory=kit.new_event_loop)
