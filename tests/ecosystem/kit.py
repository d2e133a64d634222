"""What the programs share: the loop under test, by name and by factory, free ports, servers as children, payloads."""

import asyncio
import contextlib
import functools
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import uringloop

LOOP = os.environ["ECOSYSTEM_LOOP"]
# A key and a certificate for localhost and 127.0.0.1.
CERTIFICATE = Path(__file__).resolve().parents[1] / "certificate.pem"
# "module:name" of a loop's factory, as server programs take it.
SPEC = {
    "selector": "asyncio:SelectorEventLoop",
    "uringloop": "uringloop:new_event_loop",
    "uringloop-stdlib": "ecosystem.kit:new_event_loop",
}[LOOP]


def new_event_loop():
    """Make a loop of the kind under test."""
    if LOOP == "selector":
        return asyncio.SelectorEventLoop()
    return uringloop.new_event_loop("stdlib" if LOOP == "uringloop-stdlib" else None)


def check_loop():
    """Raise unless the running loop is of the kind under test."""
    loop = asyncio.get_running_loop()
    wanted = asyncio.SelectorEventLoop if LOOP == "selector" else uringloop.IouringProactorEventLoop
    assert isinstance(loop, wanted), (LOOP, loop)
    # Libraries take a proactor for a sign of Windows.
    assert isinstance(loop, asyncio.SelectorEventLoop.__mro__[1])


def loop_kind():
    """The class of the running loop, for an answer over the wire."""
    return type(asyncio.get_running_loop()).__name__


LOOP_KIND = "_UnixSelectorEventLoop" if LOOP == "selector" else "IouringProactorEventLoop"


def free_port():
    """A port of the loopback interface that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@functools.lru_cache(100)
def payload(size, seed=0):
    """Bytes that nobody would send by mistake."""
    return random.Random(seed).randbytes(size)


def tls():
    """(server's context, client's context)"""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    return server, ssl.create_default_context(cafile=str(CERTIFICATE))


async def in_waves(count, at_once, call):
    """Await call(0) to call(count - 1), no more than at_once at a time; return the results in order."""
    limit = asyncio.Semaphore(at_once)

    async def one(number):
        async with limit:
            return await call(number)

    return await asyncio.gather(*map(one, range(count)))


@contextlib.contextmanager
def child(*command, port=None, stop=signal.SIGTERM, ok=(0, -signal.SIGTERM), tracebacks=False):
    """Run `python COMMAND` beside this; wait until it listens on the port, and end it by a signal.

    Its end has to be clean: its status is among `ok`, its output has no traceback in it unless they are expected.
    """
    with open(f"child-{time.monotonic_ns()}", "w+") as log:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)

        def output():
            log.seek(0)
            return log.read()

        try:
            deadline = time.monotonic() + 30
            while port is not None and not listens(port):
                assert process.poll() is None and time.monotonic() < deadline, output()
                time.sleep(0.02)
            yield process
            process.send_signal(stop)
            status = process.wait(20)
        except BaseException:
            print(output(), file=sys.stderr)
            raise
        finally:
            process.kill()
            process.wait()
        assert status in ok and (tracebacks or "Traceback" not in output()), f"{status}\n{output()}"


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def get(url):
    """The body of a page, by the standard library's own client."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()
