"""The choice of the transports' tier: names, the default, and that a loop makes all its transports of one."""

import asyncio
import contextlib
import os
import pickle
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

import loop_factories
import uringloop
from support import Recorder, close, tcp_pair, until
from uringloop import stdlib_transports, tiers

ASKED = ("_make_socket_transport", "_ProactorDatagramTransport", "_ProactorDuplexPipeTransport", "_Acceptor")
ASKED_FOR_TLS = "_ssl_protocol_class"


@pytest.fixture
def made(monkeypatch):
    """A tier `noted`, the stdlib's; what was made of it, by name."""
    made = []
    module = types.ModuleType("uringloop.noted_transports")
    for name in (*ASKED, ASKED_FOR_TLS):
        def make(*args, name=name, **kwargs):
            made.append(name)
            return getattr(stdlib_transports, name)(*args, **kwargs)

        setattr(module, name, make)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(tiers.MODULES, "noted", "noted_transports")
    return made


async def use_all():
    """Make each kind of transport."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.read()
    await close(writer, server)
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    transport.close()
    a, b = socket.socketpair()
    with b:
        a.setblocking(False)
        protocol = Recorder()
        loop._make_duplex_pipe_transport(a, protocol).close()
        await until(protocol.lost.done)


@pytest.mark.parametrize("make", [
    lambda: uringloop.new_event_loop("noted"),
    lambda: uringloop.new_event_loop(transports="noted"),
    lambda: uringloop.IouringProactorEventLoop(transports="noted"),
    lambda: uringloop.IouringProactorEventLoop(uringloop.IouringProactor(), transports="noted"),
], ids=["new_event_loop", "by keyword", "class", "class and proactor"])
def test_all_transports_are_the_tiers(made, make):
    with contextlib.closing(make()) as loop:
        assert type(loop) is uringloop.IouringProactorEventLoop
        loop.run_until_complete(use_all())
    assert set(made) == set(ASKED)
    made.clear()
    with contextlib.closing(uringloop.new_event_loop()) as loop:
        loop.run_until_complete(use_all())
    assert made == []


def test_tls_is_on_the_tiers_transports(made, tls):
    async def main():
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=tls[0])
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=tls[1],
                                                       server_hostname="localhost")
        await reader.read()
        await close(writer, server)

    uringloop.run(main(), transports="noted")
    assert made.count("_make_socket_transport") == made.count(ASKED_FOR_TLS) == 2


def test_start_tls_is_on_the_tier_s_protocol(made, tls):
    async def main():
        async def serve(reader, writer):
            await writer.start_tls(tls[0])
            await close(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await writer.start_tls(tls[1], server_hostname="localhost")
        await reader.read()
        await close(writer, server)

    uringloop.run(main(), transports="noted")
    assert made.count(ASKED_FOR_TLS) == 2


def test_run(made):
    uringloop.run(use_all(), transports="noted")
    assert set(made) == set(ASKED)


def test_default_is_asked_for_when_the_loop_is_made(made, monkeypatch):
    monkeypatch.setattr(tiers, "DEFAULT", "noted")
    with contextlib.closing(uringloop.new_event_loop(None)) as loop:
        loop.run_until_complete(use_all())
    assert set(made) == set(ASKED)


@pytest.mark.parametrize("name", tiers.MODULES)
def test_each_tier_has_what_a_loop_asks_for(name):
    assert tiers.DEFAULT in tiers.MODULES
    for asked in ASKED:
        assert callable(getattr(tiers.module_of(name), asked))


@pytest.mark.parametrize("name", ["", "Stdlib", "stdlib_transports", b"stdlib", 1, [], ("stdlib",)])
@pytest.mark.parametrize("make", [uringloop.new_event_loop, uringloop.IouringProactorEventLoop], ids=["function", "class"])
def test_other_names_are_refused(make, name):
    with pytest.raises(ValueError, match="^transports must be '") as caught:
        make(transports=name)
    assert all(repr(choice) in str(caught.value) for choice in tiers.MODULES)
    assert repr(name) in str(caught.value)


def test_run_refuses_other_names():
    main = asyncio.sleep(0)
    with contextlib.closing(main), pytest.raises(ValueError, match="transports must be"):
        uringloop.run(main, transports="none")


def test_name_of_the_class_is_one(made):
    with contextlib.closing(uringloop.new_event_loop("noted")) as loop:
        assert pickle.loads(pickle.dumps(type(loop))) is uringloop.IouringProactorEventLoop


# -- the tests' own choice --


def test_every_tier_is_among_the_tests_loops():
    names = {name for name in loop_factories.LOOPS if name != loop_factories.ORACLE}
    assert names == {"uringloop"} | {f"uringloop-{tier}" for tier in tiers.MODULES if tier != tiers.DEFAULT}


@pytest.mark.parametrize("name", loop_factories.LOOPS)
def test_expression_makes_such_a_loop(name):
    factory = eval(loop_factories.expression_of(loop_factories.LOOPS[name]))
    with contextlib.closing(factory()) as loop, contextlib.closing(loop_factories.LOOPS[name]()) as other:
        assert type(loop) is type(other)
        assert getattr(loop, "_tier", None) is getattr(other, "_tier", None)


def test_factory_of_a_tier(made):
    factory = loop_factories.factory_of("noted")
    with contextlib.closing(factory()) as loop:
        assert loop._tier.__name__ == "uringloop.noted_transports"
    assert "'noted'" in loop_factories.expression_of(factory)


@pytest.mark.parametrize("name, status", [(None, 0), ("", 0), *((name, 0) for name in tiers.MODULES), ("none", 1)])
@pytest.mark.parametrize("code", [
    "import conftest", "import simulation", "import random_loops", "import random_steps.kinds",
    "sys.path.append('conformance'); import aim; aim.Loops('uringloop')",
])
def test_default_of_the_tests_is_read_from_the_environment(name, status, code):
    environment = {key: value for key, value in os.environ.items() if key != "URINGLOOP_TEST_TRANSPORTS"}
    if name is not None:
        environment["URINGLOOP_TEST_TRANSPORTS"] = name
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from uringloop import tiers; before = tiers.DEFAULT; {code}\n"
         "print(before, tiers.DEFAULT)"],
        env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    if status:
        assert "transports must be" in done.stderr
    else:
        before, default = done.stdout.split()
        assert default == (name or before)
