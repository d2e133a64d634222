"""aiomysql, a pure client, with MariaDB.

A pool, transactions, cursors that stream, megabytes in one value, queries that are given up.
"""

import asyncio
import os
import urllib.parse

import aiomysql

from ecosystem import kit

PACKAGES = ["aiomysql>=0.2"]
SERVERS = ["mariadb"]
TIMEOUT = 25

URL = urllib.parse.urlsplit(os.environ["ECOSYSTEM_MARIADB"])
SERVER = {"host": URL.hostname, "port": URL.port, "user": "root"}


async def query(pool, text, *arguments):
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(text, arguments)
        return await cursor.fetchall()


async def main():
    async with aiomysql.create_pool(**SERVER, minsize=5, maxsize=20, autocommit=True) as pool:
        await query(pool, "CREATE OR REPLACE DATABASE it")
        await query(pool, "CREATE TABLE it.numbers (number INT PRIMARY KEY, data LONGBLOB) ENGINE=InnoDB")

        async def one(number):
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await connection.begin()
                await cursor.execute("INSERT INTO it.numbers VALUES (%s, %s)", (number, kit.payload(2000, number)))
                if number % 10 == 0:
                    await connection.rollback()
                else:
                    await connection.commit()

        await kit.in_waves(300, 50, one)
        async with pool.acquire() as connection, connection.cursor(aiomysql.SSCursor) as cursor:
            await cursor.execute("SELECT number, data FROM it.numbers ORDER BY number")
            seen = []
            while row := await cursor.fetchone():
                assert row[1] == kit.payload(2000, row[0])
                seen.append(row[0])
            assert seen == [number for number in range(300) if number % 10]
        big = kit.payload(6 << 20)
        assert await query(pool, "SELECT %s", big) == ((big,),)

        async def given_up(number):
            # Not from the pool, which waits for ever for a connection whose query was cancelled.
            connection = await aiomysql.connect(**SERVER)
            try:
                await asyncio.wait_for(connection.query("SELECT SLEEP(2)"), 0.1)
            except TimeoutError:
                return
            finally:
                connection.close()
            raise AssertionError

        await kit.in_waves(10, 5, given_up)
        assert await kit.in_waves(50, 20, lambda number: query(pool, "SELECT %s", number)) == [((number,),) for number in range(50)]
