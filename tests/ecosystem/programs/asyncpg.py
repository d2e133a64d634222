"""asyncpg.

A pool, transactions, COPY both ways, LISTEN and NOTIFY, TLS, a query that is cancelled, a backend that is killed.
"""

import asyncio
import io
import os

import asyncpg

from ecosystem import kit

PACKAGES = ["asyncpg>=0.29"]
SERVERS = ["postgresql"]

URL = os.environ["ECOSYSTEM_POSTGRESQL"]


async def use(pool):
    async def one(number):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO numbers VALUES ($1, $2)", number, kit.payload(1000, number))
            return await connection.fetchval("SELECT data FROM numbers WHERE number = $1", number)

    await pool.execute("CREATE TABLE numbers (number int PRIMARY KEY, data bytea)")
    results = await kit.in_waves(300, 100, one)
    assert results == [kit.payload(1000, number) for number in range(300)]

    async with pool.acquire() as connection:
        rows = [(number, kit.payload(4000, number)) for number in range(1000, 2000)]
        await connection.copy_records_to_table("numbers", records=rows)
        out = io.BytesIO()
        await connection.copy_from_query("SELECT data FROM numbers WHERE number >= 1000 ORDER BY number", output=out, format="binary")
        assert all(data in out.getvalue() for _, data in rows[::100]) and len(out.getvalue()) > 4_000_000
        async with connection.transaction():
            count = 0
            async for record in connection.cursor("SELECT * FROM numbers ORDER BY number", prefetch=50):
                count += 1
            assert count == 1300

    # A query that is given up is cancelled in the server; its connection goes on.
    async def cancelled(number):
        async with pool.acquire() as connection:
            try:
                async with asyncio.timeout(0.1):
                    await connection.execute("SELECT pg_sleep(100)")
            except TimeoutError:
                assert await connection.fetchval("SELECT $1::int", number) == number
            else:
                raise AssertionError

    await kit.in_waves(20, 10, cancelled)
    await pool.execute("DROP TABLE numbers")


async def notifications():
    heard = asyncio.Queue()
    listener, speaker = await asyncpg.connect(URL), await asyncpg.connect(URL)
    await listener.add_listener("numbers", lambda *args: heard.put_nowait(args[-1]))
    for number in range(100):
        await speaker.execute("SELECT pg_notify('numbers', $1)", str(number))
    assert [await heard.get() for _ in range(100)] == [str(number) for number in range(100)]
    await listener.close()
    await speaker.close()


async def killed(pool):
    async with pool.acquire() as connection:
        pid = connection.get_server_pid()
        waiting = asyncio.create_task(connection.execute("SELECT pg_sleep(100)"))
        async with pool.acquire() as other:
            while not await other.fetchval("SELECT pg_terminate_backend($1)", pid):
                pass
        result, = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(result, (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)), result
    assert await kit.in_waves(20, 20, lambda number: pool.fetchval("SELECT $1::int", number)) == list(range(20))


async def main():
    _, tls = kit.tls()
    for ssl in (False, tls):
        async with asyncpg.create_pool(URL, min_size=5, max_size=10, ssl=ssl) as pool:
            assert await pool.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is bool(ssl)
            await use(pool)
            await killed(pool)
    await notifications()
