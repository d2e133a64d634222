"""pytest-asyncio, by its hook for loops.

Tests, async fixtures of each scope, and loops that live as long as a module.
"""

import subprocess
import sys
from pathlib import Path

from ecosystem import kit

PACKAGES = ["pytest-asyncio>=1.4"]
QUICK = True

CONFTEST = """
from ecosystem import kit

def pytest_asyncio_loop_factories(config, item):
    return {"it": kit.new_event_loop}
"""

TESTS = """
import asyncio
import pytest
import pytest_asyncio
from ecosystem import kit

pytestmark = pytest.mark.asyncio(loop_scope="module")

@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()

@pytest_asyncio.fixture(loop_scope="module")
async def connection(server):
    reader, writer = await asyncio.open_connection(*server)
    yield reader, writer
    writer.close()
    await writer.wait_closed()

@pytest.mark.parametrize("number", range(100))
async def test_echo(connection, number):
    kit.check_loop()
    reader, writer = connection
    writer.write(b"%d\\n" % number)
    assert await reader.readline() == b"%d\\n" % number

@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("number", range(50))
async def test_a_loop_of_its_own(number):
    kit.check_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

@pytest.mark.asyncio(loop_scope="function")
async def test_subprocess():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert await process.communicate(b"x" * 1_000_000) == (b"x" * 1_000_000, None)
"""


def main():
    Path("conftest.py").write_text(CONFTEST)
    Path("test_it.py").write_text(TESTS)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider",
                           "-o", "asyncio_default_fixture_loop_scope=function", "test_it.py"],
                          capture_output=True, text=True)
    assert "151 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr
