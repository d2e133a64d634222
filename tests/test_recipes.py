"""docs/recipes.md: its programs and commands as printed, with the libraries that they are about.

Where these are not installed the tests are skipped, unless URINGLOOP_RECIPES=required.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
OURS = "<IouringProactorEventLoop running=True closed=False debug=False>\n"
ASYNCIO_S = "<_UnixSelectorEventLoop running=True closed=False debug=False>\n"


def needs(module):
    missing = os.environ.get("URINGLOOP_RECIPES") != "required" and importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


class Section:
    """The files and commands of a section, its files written to a directory."""

    def __init__(self, title, directory):
        [text] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", RECIPES.read_text(), re.MULTILINE | re.DOTALL)
        self.directory = directory
        # "... `app.py` ...:" and, behind a blank line, what is in it.
        self.files = dict(re.findall(r"`(\w+\.py)`[^\n`]*:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        self.commands = re.findall(r"^```sh\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
        for name, content in self.files.items():
            (directory / name).write_text(content)
        # The programs of the environment that runs this.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
        self.environment.pop("PYTEST_ADDOPTS", None)

    def run(self, command):
        return subprocess.run(["sh", "-c", command], cwd=self.directory, env=self.environment, capture_output=True,
                              text=True, timeout=60)

    @contextlib.contextmanager
    def serving(self, command, port):
        """Run a server's command until the end of the block, where Ctrl-C ends it."""
        wait_for(lambda: not listens(port), f"port {port} is another program's")
        log = self.directory / "log"
        with open(log, "w") as file, subprocess.Popen(
                shlex.split(command), cwd=self.directory, env=self.environment, stdout=file, stderr=file) as process:
            try:
                wait_for(lambda: process.poll() is not None or listens(port), "the server does not listen")
                assert process.poll() is None, log.read_text()
                yield
                process.send_signal(signal.SIGINT)
                process.wait(30)
            finally:
                process.kill()
        assert "Traceback" not in log.read_text(), log.read_text()


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, otherwise):
    """What is waited for is another program's beginning or end."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(otherwise)


def get(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        return answer.read().decode()


pytestmark = pytest.mark.usefixtures("ctrl_c")


def test_which_loop(tmp_path):
    section = Section("Which loop is running?", tmp_path)
    text = RECIPES.read_text()
    assert f"```text\n{OURS}{ASYNCIO_S}```" in text
    [line] = re.findall(r"^```python\n(print.*\n)```$", text, re.MULTILINE)
    assert f"    {line}" in section.files["which.py"]
    [command] = section.commands
    done = section.run(command)
    assert (done.stdout, done.stderr) == (OURS, "")
    # On asyncio's own loop, the line's second answer.
    (tmp_path / "which.py").write_text(section.files["which.py"].replace("uringloop.run", "asyncio.run"))
    assert section.run(command).stdout == ASYNCIO_S


@needs("uvicorn")
def test_uvicorn(tmp_path):
    section = Section("uvicorn", tmp_path)
    [command] = section.commands
    with section.serving(command, 8000):
        assert get(8000) == OURS
    with section.serving(f"{command} --workers 2", 8000):
        assert get(8000) == OURS


@needs("uvicorn")
def test_uvicorn_in_a_program(tmp_path):
    section = Section("uvicorn", tmp_path)
    [call] = re.findall(r"^uvicorn\.run\(.*\)$", RECIPES.read_text(), re.MULTILINE)
    (tmp_path / "program.py").write_text(f"import uvicorn\n\n{call}\n")
    with section.serving("python program.py", 8000):
        assert get(8000) == OURS


@needs("uvicorn")
@pytest.mark.skipif(not hasattr(asyncio, "set_event_loop_policy"), reason="asyncio has no policies any more")
def test_uvicorn_takes_no_notice_of_the_policy(tmp_path):
    """Otherwise the warning can go."""
    section = Section("uvicorn", tmp_path)
    (tmp_path / "program.py").write_text(
        "import asyncio, uringloop, uvicorn\n"
        "asyncio.set_event_loop_policy(uringloop.IouringProactorEventLoopPolicy())\n"
        "uvicorn.run('app:app')\n")
    section.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"
    with section.serving("python program.py", 8000):
        assert get(8000) != OURS


@needs("aiohttp")
def test_aiohttp(tmp_path):
    section = Section("aiohttp", tmp_path)
    server, client = section.commands
    with section.serving(server, 8080):
        assert get(8080) == OURS
        done = section.run(client)
        assert (done.stdout, done.stderr) == (OURS, "")


@needs("aiohttp")
def test_aiohttp_s_client_is_on_our_loop(tmp_path):
    section = Section("aiohttp", tmp_path)
    server, client = section.commands
    program = section.files["client.py"]
    (tmp_path / "client.py").write_text(program.replace("async with aiohttp", "import asyncio\n    "
                                                        "print(asyncio.get_running_loop())\n    async with aiohttp"))
    with section.serving(server, 8080):
        assert section.run(client).stdout == OURS * 2


@needs("pytest_asyncio")
@pytest.mark.parametrize("entry, count", [(None, "1 passed"), ('"asyncio": asyncio.SelectorEventLoop', "1 failed, 1 passed")])
def test_pytest_asyncio(tmp_path, entry, count):
    section = Section("pytest-asyncio", tmp_path)
    [command] = section.commands
    if entry is not None:
        # The second loop that the text speaks of: the test, which asks for ours, fails there.
        assert f"`{entry}`" in RECIPES.read_text()
        (tmp_path / "conftest.py").write_text(
            "import asyncio\n" + section.files["conftest.py"].replace("new_event_loop}", f"new_event_loop, {entry}}}"))
    done = section.run(command)
    assert count in done.stdout and (done.returncode == 0) == (entry is None), done.stdout


def test_the_libraries_are_those_of_the_extra():
    with open(RECIPES.parents[1] / "pyproject.toml", "rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["recipes"]
    [printed] = re.findall(r"^pip install (.*)$", RECIPES.read_text(), re.MULTILINE)
    assert sorted(shlex.split(printed)) == sorted(extra)
