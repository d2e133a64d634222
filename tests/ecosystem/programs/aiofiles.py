"""aiofiles: hundreds of files at once, by the loop's executor.
"""

import asyncio

import aiofiles
import aiofiles.os
import aiofiles.tempfile

from ecosystem import kit

PACKAGES = ["aiofiles>=24"]


async def one(number):
    name, data = f"file {number}", kit.payload(50_000, number)
    async with aiofiles.open(name, "wb") as file:
        for start in range(0, len(data), 10_000):
            await file.write(data[start:start + 10_000])
    assert (await aiofiles.os.stat(name)).st_size == len(data)
    async with aiofiles.open(name, "rb") as file:
        await file.seek(20_000)
        assert await file.read() == data[20_000:]
    await aiofiles.os.rename(name, f"{name} again")
    await aiofiles.os.remove(f"{name} again")


async def main():
    await kit.in_waves(300, 100, one)
    async with aiofiles.tempfile.NamedTemporaryFile("w+") as file:
        await file.writelines(f"{number}\n" for number in range(10_000))
        await file.seek(0)
        assert [int(line) async for line in file] == list(range(10_000))
    # A reader that is given up in the middle.
    async with aiofiles.open("/dev/zero", "rb") as file:
        try:
            async with asyncio.timeout(0.05):
                while await file.read(1000):
                    pass
        except TimeoutError:
            pass
