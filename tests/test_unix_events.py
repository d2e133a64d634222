"""Signals, subprocesses, pipes and Unix sockets, on the selector loop and on ours."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

from support import Recorder, close, some_bytes, turns, until

CAT = (sys.executable, "-c",
       "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)")


# -- subprocesses --


async def test_large_data_through_a_subprocess(loop):
    process = await asyncio.create_subprocess_exec(
        *CAT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    data = some_bytes(5_000_000)
    out, _ = await process.communicate(data)
    assert out == data
    assert process.returncode == 0
    # The transport ends when both pipes have.
    await turns(3)


async def test_many_subprocesses(loop):
    async def one(number):
        process = await asyncio.create_subprocess_shell(f"exit {number}")
        return await process.wait()

    assert await asyncio.gather(*(one(number) for number in range(20))) == list(range(20))
    await turns(5)


async def test_kill(loop):
    process = await asyncio.create_subprocess_exec("sleep", "60")
    waiters = [asyncio.ensure_future(process.wait()) for _ in range(3)]
    await turns(2)
    process.kill()
    assert await asyncio.gather(*waiters) == [-signal.SIGKILL] * 3
    await turns(5)


# -- pipes --


async def test_pipe_transports(loop):
    read_end, write_end = os.pipe()
    reader, _ = await loop.connect_read_pipe(Recorder, open(read_end, "rb", 0))
    writer, written = await loop.connect_write_pipe(Recorder, open(write_end, "wb", 0))
    data = some_bytes(1_000_000)
    protocol = reader.get_protocol() if hasattr(reader, "get_protocol") else reader._protocol
    writer.write(data)
    assert await protocol.received(len(data)) == data
    writer.close()
    assert await written.lost is None
    assert await protocol.lost is None


async def test_write_pipe_learns_that_its_reader_is_gone(loop):
    read_end, write_end = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Recorder, open(write_end, "wb", 0))
    os.close(read_end)
    await protocol.lost
    assert transport.is_closing()


async def test_write_pipe_does_not_read_its_socket(loop):
    """What the peer of a socketpair sends is not the write transport's to take."""
    ours, theirs = socket.socketpair()
    other = ours.dup()
    transport, protocol = await loop.connect_write_pipe(Recorder, ours)
    transport.write(b"out")
    assert await loop.run_in_executor(None, theirs.recv, 10) == b"out"
    transport.close()
    await protocol.lost
    theirs.close()
    other.close()


async def test_read_pipe_that_fails_is_closed(loop):
    """EIO of a terminal whose other end is gone."""
    master, slave = os.openpty()
    transport, protocol = await loop.connect_read_pipe(Recorder, open(master, "rb", 0))
    os.close(slave)
    await protocol.lost


async def test_regular_file_is_no_pipe(loop, tmp_path):
    with open(tmp_path / "file", "w+b", 0) as file:
        with pytest.raises(ValueError):
            await loop.connect_read_pipe(asyncio.Protocol, file)
        with pytest.raises(ValueError):
            await loop.connect_write_pipe(asyncio.BaseProtocol, file)


# -- Unix sockets --


@pytest.mark.parametrize("kind", ["str", "bytes", "PathLike", "abstract"])
async def test_unix_server(loop, tmp_path, kind):
    path = tmp_path / "socket"
    address = {"str": str(path), "bytes": os.fsencode(path), "PathLike": path,
               "abstract": f"\0uringloop-{os.getpid()}-{id(path)}"}[kind]

    async def echo(reader, writer):
        writer.write(await reader.read())
        await close(writer)

    server = await asyncio.start_unix_server(echo, address)
    reader, writer = await asyncio.open_unix_connection(address)
    writer.write(b"over a path")
    writer.write_eof()
    assert await reader.read() == b"over a path"
    await close(writer, server)


async def test_unix_server_takes_the_place_of_a_stale_socket(loop, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = await loop.create_unix_server(asyncio.Protocol, path)
    with pytest.raises(OSError):
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
    await close(server)
