"""redis-py's asyncio client.

Hundreds of concurrent commands, pipelines, publish and subscribe, blocking pops that are cancelled, connections that the
server kills.
"""

import asyncio
import os

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ecosystem import kit

PACKAGES = ["redis>=5"]
SERVERS = ["redis"]

URL = os.environ["ECOSYSTEM_REDIS"]


async def commands(client):
    async def one(number):
        value = kit.payload(5000, number)
        await client.set(f"key {number}", value)
        assert await client.get(f"key {number}") == value

    await kit.in_waves(500, 200, one)
    big = kit.payload(8 << 20)
    await client.set("big", big)
    assert await client.get("big") == big
    async with client.pipeline(transaction=True) as pipeline:
        for number in range(2000):
            pipeline.incrby("sum", number)
        assert (await pipeline.execute())[-1] == sum(range(2000))


async def subscriptions(client):
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("channel")
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        publishing = asyncio.create_task(kit.in_waves(300, 20, lambda number: client.publish("channel", number)))
        heard = []
        async for message in pubsub.listen():
            heard.append(int(message["data"]))
            if len(heard) == 300:
                break
        await publishing
        assert sorted(heard) == list(range(300))
        assert await pubsub.get_message(timeout=0.1) is None


async def cancelled(client):
    """A pop that was given up takes nothing from the list."""
    async def pop(number):
        try:
            async with asyncio.timeout(0.05):
                await client.blpop("nothing", timeout=100)
        except TimeoutError:
            return
        raise AssertionError

    await kit.in_waves(20, 10, pop)
    waiting = [asyncio.create_task(client.blpop("list", timeout=10)) for _ in range(10)]
    for number in range(10):
        await client.rpush("list", number)
    assert sorted(int(value) for _, value in await asyncio.gather(*waiting)) == list(range(10))


async def killed(client):
    async with redis.asyncio.from_url(URL) as other:
        await other.client_kill_filter(_type="normal", skipme=True)
    await kit.in_waves(50, 50, lambda number: client.set("again", number))


async def main():
    # Any of the pool's connections may be one that the server has killed: tried as often as it has connections.
    retry = Retry(NoBackoff(), 300)
    async with redis.asyncio.from_url(URL, max_connections=300, retry=retry) as client:
        await client.flushall()
        for part in (commands, subscriptions, cancelled, killed):
            await part(client)
