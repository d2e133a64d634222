"""The examples run as a reader runs them: in a process of their own, by their documented command."""

import collections
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ECHO = ROOT / "examples" / "echo.py"

needs_policies = pytest.mark.skipif(sys.version_info >= (3, 16), reason="asyncio has no policies any more")
WAYS = [
    pytest.param([], id="default"),
    pytest.param(["runner"], id="runner"),
    pytest.param(["run"], id="run"),
    pytest.param(["policy"], id="policy", marks=needs_policies),
]


@pytest.fixture
def free_port():
    """Wait until 8888 can be had: the example's port is everybody's favourite, another test run's too."""
    for _ in range(300):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", 8888))
                return
            except OSError:
                pass
        time.sleep(0.1)  # what is waited for is another program's end
    pytest.fail("port 8888 stays in use by another program")


def run_example(arguments, *, wrapper=()):
    warned = ["-W", "error::ResourceWarning"]
    if "policy" in arguments:
        # Asking for the policy warns from 3.14 on, which is not what is tested.
        warned += ["-W", "ignore::DeprecationWarning"]
    command = [*wrapper, sys.executable, "-X", "dev", *warned, str(ECHO), *arguments]
    # From the project's directory, where a reader types the command.
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def check_lines(stdout):
    lines = stdout.splitlines()
    port = re.fullmatch(r"Connection from \('127\.0\.0\.1', (\d+)\)", lines[2]).group(1)
    assert 0 < int(port) < 65536 and int(port) != 8888
    assert lines == [
        "Serving on ('127.0.0.1', 8888)",
        "Send: 'Hello, World!'",
        f"Connection from ('127.0.0.1', {port})",
        "Received: Hello, World!",
        "Received: 'Hello, World!'",
        "Closing connection",
        f"Connection with ('127.0.0.1', {port}) closed",
    ]


@pytest.mark.parametrize("arguments", WAYS)
def test_echo(free_port, arguments):
    result = run_example(arguments)
    assert result.returncode == 0, result.stderr
    check_lines(result.stdout)
    # Nothing that slow_callback_duration could tell of a busy machine, and no ResourceWarning.
    told = [line for line in result.stderr.splitlines() if not re.match(r"Executing .* took ", line)]
    assert told == []


def test_echo_with_an_unknown_way():
    result = run_example(["walker"])
    assert result.returncode == 1
    assert result.stderr.startswith("usage: ")
    assert result.stdout == ""


def traced_calls(trace):
    # "1234  io_uring_enter(3, ...": the call follows the thread's number.
    return re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_echo_makes_no_epoll_call(free_port, tmp_path):
    # `import asyncio` alone makes one: its import of selectors tries whether epoll exists, and closes it at
    # once (selectors._can_use). That one, before there is a loop, is all there may be.
    alone, trace = tmp_path / "alone", tmp_path / "trace"
    subprocess.run(["strace", "-f", "-o", alone, sys.executable, "-X", "dev", "-c", "import asyncio"], check=True)
    result = run_example([], wrapper=["strace", "-f", "-o", str(trace)])
    assert result.returncode == 0, result.stderr
    check_lines(result.stdout)
    calls = traced_calls(trace)
    loop_begins = calls.index("io_uring_setup")
    assert "io_uring_enter" in calls[loop_begins:]
    assert [call for call in calls[loop_begins:] if re.match("epoll_|p?poll|p?select", call)] == []

    def count(calls):
        return collections.Counter(call for call in calls if call.startswith("epoll_"))

    assert count(calls) == count(traced_calls(alone))
    assert set(count(calls)) <= {"epoll_create", "epoll_create1"}


def test_readme_commands_name_scripts_that_exist():
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks[:2] == ["bash examples/quickstart.sh\n", "bash tests/run.sh\n"]
    for block in blocks[:2]:
        assert (ROOT / block.split()[1]).is_file()
