"""psycopg 3, which waits by add_reader and refuses Windows' proactor loop.

Concurrent connections, pipelines, COPY, notifications, cancellation, a backend that is killed.
"""

import asyncio
import os

import psycopg

from ecosystem import kit

PACKAGES = ["psycopg[binary]>=3.1"]
SERVERS = ["postgresql"]

URL = os.environ["ECOSYSTEM_POSTGRESQL"]


async def connect(**options):
    return await psycopg.AsyncConnection.connect(URL, autocommit=True, **options)


async def one(number):
    async with await connect(sslmode="require" if number % 4 == 0 else "disable") as connection:
        for turn in range(10):
            cursor = await connection.execute("SELECT %s::int, %s::bytea", (turn, kit.payload(3000, number)))
            assert await cursor.fetchone() == (turn, kit.payload(3000, number))
        async with connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", (turn,)) for turn in range(50)]
            assert [(await cursor.fetchone())[0] for cursor in cursors] == list(range(50))


async def copy():
    async with await connect() as connection:
        await connection.execute("CREATE TABLE copied (number int, data bytea)")
        cursor = connection.cursor()
        async with cursor.copy("COPY copied FROM STDIN") as to:
            for number in range(1000):
                await to.write_row((number, kit.payload(4000, number)))
        received = []
        async with cursor.copy("COPY (SELECT * FROM copied ORDER BY number) TO STDOUT") as out:
            out.set_types(["int4", "bytea"])
            async for row in out.rows():
                received.append(row)
        assert received == [(number, kit.payload(4000, number)) for number in range(1000)]
        await connection.execute("DROP TABLE copied")


async def cancelled(number):
    async with await connect() as connection:
        try:
            async with asyncio.timeout(0.1):
                await connection.execute("SELECT pg_sleep(100)")
        except TimeoutError:
            cursor = await connection.execute("SELECT %s::int", (number,))
            assert await cursor.fetchone() == (number,)
        else:
            raise AssertionError


async def notifications():
    async with await connect() as listener, await connect() as speaker:
        await listener.execute("LISTEN numbers")
        for number in range(50):
            await speaker.execute("SELECT pg_notify('numbers', %s)", (str(number),))
        assert [notify.payload async for notify in listener.notifies(stop_after=50)] == [str(number) for number in range(50)]
        assert [notify async for notify in listener.notifies(timeout=0.1)] == []


async def killed():
    async with await connect() as victim, await connect() as other:
        waiting = asyncio.create_task(victim.execute("SELECT pg_sleep(100)"))
        await asyncio.sleep(0.1)
        await other.execute("SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
        result, = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(result, psycopg.OperationalError), result


async def main():
    await kit.in_waves(100, 30, one)
    await copy()
    await kit.in_waves(20, 10, cancelled)
    await notifications()
    await killed()
    await kit.in_waves(10, 10, one)
