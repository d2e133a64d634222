"""Operations that the kernel refuses one by one: what needs one goes another way, and the program sees nothing of it.

In C++, and on rings of the running kernel that are restricted, tests/cpp/test_refused.cpp tests the same.
"""

import asyncio
import errno
import os
import socket

import pytest

import uringloop
from simulation import simulated_proactor
from uringloop import tiers

# linux/io_uring.h
POLL_ADD, SENDMSG, ASYNC_CANCEL, WRITE, SEND = 6, 9, 14, 23, 26


@pytest.fixture(params=list(tiers.MODULES))
def run(request):
    """run(main, prepare=..., **arguments of simulated_proactor) runs a coroutine on a simulated kernel."""

    def run(main, prepare=lambda kernel: None, **arguments):
        proactor, machine = simulated_proactor(1, faults=False, **arguments)
        prepare(machine.kernel)
        loop = uringloop.IouringProactorEventLoop(proactor, transports=request.param)
        try:
            loop.run_until_complete(asyncio.wait_for(main(machine.kernel), 30))
        finally:
            loop.close()
        assert machine.problems() == []
        return proactor

    return run


async def echo_and_more(kernel):
    """Streams, datagrams and a pipe, more than there is room for at once, and a cancel."""
    loop = asyncio.get_running_loop()

    async def serve(reader, writer):
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for size in (10, 3_000_000):
        data = os.urandom(size)
        writer.write(data)
        assert await reader.readexactly(size) == data
    writer.close()
    server.close()
    await server.wait_closed()

    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recv(right, 100))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        await loop.sock_sendall(left, b"datagram")
        assert await loop.sock_recv(right, 100) == b"datagram"

    read_end, write_end = os.pipe()
    pipe, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(write_end, "wb", 0))
    reader = asyncio.StreamReader(limit=2**22)
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0))
    data = os.urandom(300_000)
    pipe.write(data)
    pipe.close()
    assert await reader.read(-1) == data
    source.close()


@pytest.mark.parametrize("rung", [0, 1, 2])
@pytest.mark.parametrize("refused", [(), (SEND,), (SENDMSG,), (WRITE,), (ASYNC_CANCEL,), (SEND, SENDMSG, WRITE, ASYNC_CANCEL)],
                         ids=str)
def test_a_loop_works_without_operations(run, refused, rung):
    proactor = run(echo_and_more, refused=refused, rung=rung)
    names = {SEND: "SEND", SENDMSG: "SENDMSG", WRITE: "WRITE", ASYNC_CANCEL: "ASYNC_CANCEL"}
    assert set(proactor._ring.refused) == {names[opcode] for opcode in refused}


# (The native tier's streams send without the ring.)
@pytest.mark.parametrize("run", ["stdlib"], indirect=True)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_a_refusal_in_a_completion_is_of_that_operation_only(run, number):
    async def main(kernel):
        left, right = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=left)
        with right:
            right.setblocking(False)
            before = kernel.calls("send")
            kernel.force_result(SEND, -number)
            for expected in (1, 1, 1):
                # (Two: one alone may leave at once.)
                writer.write(b"ab")
                writer.write(b"c")
                assert await asyncio.get_running_loop().sock_recv(right, 100) == b"abc"
                assert kernel.calls("send") - before == expected
            writer.close()
            await writer.wait_closed()

    run(main)


def test_what_the_call_is_refused_as_well_is_the_programs_error(run):
    """As a firewall's EPERM."""

    async def main(kernel):
        left, right = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=left)
        with right:
            kernel.force_result(SEND, -errno.EPERM)
            kernel.fail("send", errno.EPERM)
            writer.write(b"abc")
            with pytest.raises(PermissionError):
                await reader.read()
            writer.close()
            with pytest.raises(PermissionError):
                await writer.wait_closed()
            right.setblocking(False)
            assert right.recv(100) == b""

    run(main)


def test_a_loop_that_may_not_poll_any_more_raises_and_can_be_closed(run):
    async def main(kernel):
        await asyncio.sleep(3600)

    with pytest.raises(uringloop.IouringUnavailableError, match="IORING_OP_POLL_ADD failed") as raised:
        run(main, lambda kernel: kernel.force_result(POLL_ADD, -errno.EACCES))
    assert raised.value.cause == "restriction"
