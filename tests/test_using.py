"""docs/using.md: its lines and programs as printed.  Those of libraries that are not installed are skipped.

The programs themselves are in tests/ecosystem/.
"""

import asyncio
import configparser
import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ecosystem import runner

PAGE = Path(__file__).resolve().parents[1] / "docs" / "using.md"
TEXT = PAGE.read_text()
LINES = dict(re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", TEXT, re.MULTILINE))
OURS = "IouringProactorEventLoop"
PATH = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
ENVIRONMENT = {**os.environ, "PATH": PATH, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
ENVIRONMENT.pop("PYTEST_ADDOPTS", None)

# An application of ASGI's, which answers with the name of its loop.
APP = f"""
import asyncio
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("not supported")
    body = type(asyncio.get_running_loop()).__name__.encode()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}})
    await send({{"type": "http.response.body", "body": body}})
"""
MAIN = """
import asyncio, sys, uringloop
async def main():
    print(type(asyncio.get_running_loop()).__name__)
"""
TEST = """
import asyncio, pytest
@pytest.mark.{mark}
async def test_loop():
    assert type(asyncio.get_running_loop()).__name__ == "{ours}"
"""

# What stands around a line.  A module that it needs; the program, which prints the loop's name, with LINE in it.
PROGRAMS = {
    "asyncio": ("asyncio", MAIN + "LINE"),
    "asyncio, shorter": ("asyncio", MAIN + "LINE"),
    "what calls `asyncio.run()` itself": ("asyncio", MAIN + "LINE\nasyncio.run(main())"),
    "AnyIO": ("anyio", MAIN + "import anyio\nLINE"),
    "unittest": ("unittest", MAIN + """
import unittest
LINE
class TestLoop(OnUringloop):
    async def test_loop(self):
        await main()
unittest.main()
"""),
    "Tornado": ("tornado", MAIN.replace("asyncio.get_running_loop()", "tornado.ioloop.IOLoop.current().asyncio_loop")
                + "import tornado.ioloop\nLINE"),
    "Twisted": ("twisted", MAIN + "from twisted.internet import asyncioreactor\nLINE\nfrom twisted.internet import reactor\n"
                "reactor.callLater(0, lambda: asyncio.ensure_future(main()).add_done_callback(lambda _: reactor.stop()))\n"
                "reactor.run()"),
    "nest_asyncio": ("nest_asyncio", MAIN + "import nest_asyncio\nLINE\nloop.run_until_complete(main())\nloop.close()"),
    "nest_asyncio2": ("nest_asyncio2", MAIN + "import nest_asyncio2\nLINE\nloop.run_until_complete(main())\nloop.close()"),
    "Dask's distributed": ("distributed", MAIN + """LINE
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
        async def where(dask_scheduler):
            await main()
        client.run_on_scheduler(where)
        assert client.submit(sum, [1, 2]).result() == 3
"""),
}
# A module that it needs; files; the command.  PORT is where it serves.
SERVERS = {
    "uvicorn": ("uvicorn", {"app.py": APP}, "LINE --port PORT"),
    "uvicorn, in a program": ("uvicorn", {"app.py": APP, "serve.py": "import functools, uvicorn\n"
                              "uvicorn.run = functools.partial(uvicorn.run, port=PORT)\nLINE"}, "python serve.py"),
    "gunicorn": ("uvicorn_worker", {"app.py": APP + "from uvicorn_worker import UvicornWorker\nLINE"},
                 "gunicorn app:app -k app.Worker -b 127.0.0.1:PORT"),
    "hypercorn": ("hypercorn", {"app.py": APP, "serve.py": "import hypercorn.asyncio, hypercorn.config, uringloop\n"
                  "from app import app\nconfig = hypercorn.config.Config()\nconfig.bind = ['127.0.0.1:PORT']\nLINE"},
                  "python serve.py"),
    "granian": ("granian", {"app.py": APP, "serve.py": "import functools, signal, granian.server.embed, uringloop\n"
                "from app import app\n"
                "granian.server.embed.Server = functools.partial(granian.server.embed.Server, port=PORT)\nLINE"},
                "python serve.py"),
    "aiohttp's server": ("aiohttp", {"serve.py": """
import asyncio, functools, uringloop
from aiohttp import web
async def which(request):
    return web.Response(text=type(asyncio.get_running_loop()).__name__)
app = web.Application()
app.router.add_get("/", which)
web.run_app = functools.partial(web.run_app, host="127.0.0.1", port=PORT)
LINE"""}, "python serve.py"),
}
# A module that it needs; the mark of its tests.
PLUGINS = {"AnyIO's pytest plugin": ("anyio", "anyio"), "pytest-asyncio": ("pytest_asyncio", "asyncio")}

pytestmark = pytest.mark.usefixtures("ctrl_c")


def need(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def block_named(name):
    [text] = re.findall(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return text


def run(directory, *command):
    return subprocess.run(command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def ask(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def serving(directory, command, port, stop=signal.SIGINT):
    """Run a server until the end of the block."""
    log = directory / "log"
    with open(log, "w") as file, subprocess.Popen(shlex.split(command), cwd=directory, env=ENVIRONMENT, stdout=file,
                                                  stderr=file) as process:
        try:
            for _ in range(600):
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield process
            process.send_signal(stop)
            process.wait(30)
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.kill()


def test_each_line_has_a_test():
    assert set(LINES) == {*PROGRAMS, *SERVERS, *PLUGINS}


@pytest.mark.parametrize("name", PROGRAMS)
def test_line_in_a_program(tmp_path, name):
    module, program = PROGRAMS[name]
    need(module)
    if "policy" in LINES[name] and not hasattr(asyncio, "set_event_loop_policy"):
        pytest.skip("asyncio has no policies any more")
    if name == "unittest" and sys.version_info < (3, 13):
        pytest.skip("a test case has no loop_factory yet")
    (tmp_path / "program.py").write_text(program.replace("LINE", LINES[name]))
    done = run(tmp_path, "python", "program.py")
    assert (done.stdout, done.returncode) == (f"{OURS}\n", 0), done.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_line_of_a_server(tmp_path, name):
    module, files, command = SERVERS[name]
    need(module)
    port = free_port()
    for file, content in files.items():
        (tmp_path / file).write_text(content.replace("LINE", LINES[name]).replace("PORT", str(port)))
    # gunicorn takes Ctrl-C for an end without grace, and waits half a minute for uvicorn's worker to agree.
    stop = signal.SIGTERM if name == "gunicorn" else signal.SIGINT
    with serving(tmp_path, command.replace("LINE", LINES[name]).replace("PORT", str(port)), port, stop):
        assert ask(port) == OURS


@pytest.mark.parametrize("name", PLUGINS)
def test_line_in_conftest(tmp_path, name):
    module, mark = PLUGINS[name]
    need(module)
    (tmp_path / "conftest.py").write_text(f"import pytest, uringloop\n{LINES[name]}\n")
    (tmp_path / "test_it.py").write_text(TEST.format(mark=mark, ours=OURS))
    done = run(tmp_path, "python", "-m", "pytest", "-q", *(["-p", "no:asyncio"] if mark == "anyio" else []), "test_it.py")
    assert "1 passed" in done.stdout, done.stdout


def test_service_of_your_own(tmp_path):
    need("fastapi")
    need("uvicorn")
    (tmp_path / "app.py").write_text(block_named("app.py"))
    [command] = [block for block in blocks("sh") if "--port 8000" in block]
    port = free_port()
    with serving(tmp_path, command.replace(".venv/bin/", "").replace("8000", str(port)), port):
        assert json.loads(ask(port)) == {"loop": OURS}
        assert f"`{json.dumps({'loop': OURS}, separators=(',', ':'))}`" in TEXT


def test_aiohttp_service_of_your_own(tmp_path):
    need("aiohttp")
    port = free_port()
    (tmp_path / "service.py").write_text(block_named("service.py").replace("8080", str(port)))
    [command] = [block for block in blocks("sh") if block.endswith(" service.py\n")]
    with serving(tmp_path, command.replace(".venv/bin/", ""), port):
        answer = ask(port)
        assert json.loads(answer) == {"loop": OURS}
        assert f"`{answer}`" in TEXT


def test_table_has_each_program():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|(?: [^|]+ \|)+$", TEXT.partition("written by `python tests/ecosystem")[2], re.MULTILINE)
    assert rows[1:] == [program.title for program in runner.PROGRAMS.values()]


def test_how_to_see_it(tmp_path):
    [line] = [block for block in blocks("python") if block.startswith("print(")]
    [command] = [block for block in blocks("sh") if "/proc/PID" in block]
    (tmp_path / "program.py").write_text(
        "import asyncio, os, subprocess, uringloop\nasync def main():\n    " + line
        + f"    print(subprocess.run({command!r}.replace('PID', str(os.getpid())), shell=True, capture_output=True, text=True).stdout)\n"
        "uringloop.run(main())\n")
    done = run(tmp_path, "python", "program.py")
    assert done.stdout.startswith(f"<{OURS} ") and "anon_inode:[io_uring]" in done.stdout, done.stdout + done.stderr


def test_several_processes(tmp_path):
    port = free_port()
    (tmp_path / "workers.py").write_text(block_named("workers.py").replace("8888", str(port)))
    with serving(tmp_path, "python workers.py", port):
        seen = set()
        for _ in range(2000):
            with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile() as file:
                pid, kind = file.read().split()
                seen.add(pid)
                assert kind == OURS
            if len(seen) == 2:
                break
        assert len(seen) == 2


def test_a_loop_per_thread(tmp_path):
    (tmp_path / "threads.py").write_text(block_named("threads.py"))
    done = run(tmp_path, "python", "-W", "error::ResourceWarning", "threads.py")
    assert (done.stdout, done.stderr) == ("four threads, four loops\n", "")


def test_files_for_machines():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(block_named("uringloop.service"))
    # The command is the one that is tested, in another directory.
    assert unit["Service"]["ExecStart"].endswith(LINES["uvicorn"] + " --port 8000")
    assert (PAGE.parent / "seccomp.json").exists() and "seccomp=docs/seccomp.json" in TEXT
    need("yaml")
    import yaml
    [pod] = blocks("yaml")
    profile = yaml.safe_load(pod)["spec"]["securityContext"]["seccompProfile"]
    assert profile == {"type": "Localhost", "localhostProfile": "uringloop.json"}
    assert f"/var/lib/kubelet/seccomp/{profile['localhostProfile']}" in TEXT
