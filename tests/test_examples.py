"""The examples run as a reader runs them: in a process of their own, by their documented command."""

import asyncio
import collections
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

# Servers end by Ctrl-C, which a process ignores from its start where who starts it does.
pytestmark = pytest.mark.usefixtures("ctrl_c")

needs_policies = pytest.mark.skipif(
    not hasattr(asyncio, "set_event_loop_policy"), reason="asyncio has no policies any more")
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


def command_of(name, arguments=(), wrapper=()):
    warned = ["-W", "error::ResourceWarning"]
    if "policy" in arguments:
        # Asking for the policy warns from 3.14 on, which is not what is tested.
        warned += ["-W", "ignore::DeprecationWarning"]
    return [*wrapper, sys.executable, "-X", "dev", *warned, str(EXAMPLES / name), *arguments]


def run_example(arguments, *, name="echo.py", wrapper=()):
    command = command_of(name, arguments, wrapper)
    # From the project's directory, where a reader types the command.
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def told(stderr):
    """What an example says on stderr, but for what slow_callback_duration tells of a busy machine."""
    return [line for line in stderr.splitlines() if not re.match(r"Executing .* took ", line)]


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
    # No ResourceWarning, and no exception that nobody caught.
    assert told(result.stderr) == []


def test_echo_with_an_unknown_way():
    result = run_example(["walker"])
    assert result.returncode == 1
    assert result.stderr.startswith("usage: ")
    assert result.stdout == ""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_echo_waits_in_io_uring(free_port, tmp_path):
    """The epoll set of the user's descriptors is asked what is ready, and never waited for: the ring polls it."""
    trace = tmp_path / "trace"
    result = run_example([], wrapper=["strace", "-f", "-o", str(trace)])
    assert result.returncode == 0, result.stderr
    check_lines(result.stdout)
    # "1234  io_uring_enter(3, ...) = 1": the call follows the thread's number.
    calls = re.findall(r"^\d+ +(\w+)\((.*)\) += ", trace.read_text(), re.MULTILINE)
    loop_begins = [name for name, _ in calls].index("io_uring_setup")
    calls = calls[loop_begins:]
    assert "io_uring_enter" in [name for name, _ in calls]
    assert [name for name, _ in calls if re.match("p?poll|p?select", name)] == []
    waits = [arguments for name, arguments in calls if re.match("epoll_p?wait", name)]
    assert [arguments for arguments in waits if not re.search(r", \d+, 0$", arguments)] == []


# -- the other examples: first the server with its clients, which comes to an end by itself --


def demonstrate(name):
    """Run an example without arguments; return its lines, free ports written as PORT."""
    result = run_example([], name=name)
    assert result.returncode == 0, result.stderr
    assert told(result.stderr) == []
    return re.sub(r"(?<='127\.0\.0\.1', )\d+", "PORT", result.stdout).splitlines()


def test_udp_echo():
    lines = demonstrate("udp_echo.py")
    assert lines[0] == "Serving on ('127.0.0.1', PORT)"
    received = collections.Counter(line for line in lines if line.startswith("Received: "))
    # At least: who waits too long for an answer asks again.
    for size, count in ((17, 1), (4, 1), (1404, 1), (8, 10)):
        assert received[f"Received: {size} bytes from ('127.0.0.1', PORT)"] >= count
    assert [line for line in lines[1:] if line not in received] == [
        "Answer 0: 13 bytes, the same",
        "Answer 1: 0 bytes, the same",
        "Answer 2: 1400 bytes, the same",
        "At once: 10 answers",
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_echo():
    lines = demonstrate("tls_echo.py")
    server = [
        "Connection from ('127.0.0.1', PORT), TLSv1.3",
        "Received: Hello, World!",
        "Connection with ('127.0.0.1', PORT) closed",
    ]
    client = [
        "Without the certificate: self-signed certificate",
        "Send: 'Hello, World!'",
        "Received: 'Hello, World!'",
    ]
    assert lines[0] == "Serving on ('127.0.0.1', PORT)"
    # Which side is the first to be told of the handshake's end is left open.
    assert [line for line in lines[1:] if line in server] == server
    assert [line for line in lines[1:] if line not in server] == client


def test_chat_server():
    lines = demonstrate("chat_server.py")
    said = [line for line in lines if not line.startswith("    ")]
    assert said == [
        "Serving on ('127.0.0.1', PORT)",
        "* Ann has come", "* Ben has come", "* Cid has come",
        "Ann: Hello, World!", "Ben: Hello, Ann!",
        "* Cid has left", "* Ben has left", "* Ann has left",
    ]
    read = {name: [line.partition(" reads: ")[2] for line in lines if line.startswith(f"    {name} reads: ")]
            for name in ("Ann", "Ben", "Cid")}
    assert read == {
        "Ann": ["Welcome, Ann. Here: nobody else", "* Ben has come", "* Cid has come", "Ben: Hello, Ann!",
                "* Cid has left", "* Ben has left"],
        "Ben": ["Welcome, Ben. Here: Ann", "* Cid has come", "Ann: Hello, World!", "* Cid has left"],
        "Cid": ["Welcome, Cid. Here: Ann, Ben", "Ann: Hello, World!", "Ben: Hello, Ann!"],
    }


def test_file_server():
    lines = demonstrate("file_server.py")
    answers = [line.strip() for line in lines if line.startswith("    ")]
    listed = re.fullmatch(r"HTTP/1\.0 200 OK, (\d+) bytes", answers.pop(0))
    assert int(listed[1]) > 100
    assert answers == [
        "HTTP/1.0 200 OK, 14 bytes",
        "HTTP/1.0 200 OK, 0 bytes",
        f"HTTP/1.0 200 OK, {3 * 1024 * 1024} bytes",
        "the body is the file",
        *["HTTP/1.0 404 Not Found, 14 bytes"] * 4,
        "HTTP/1.0 501 Not Implemented, 20 bytes",
    ]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_file_server_sends_files_in_the_kernel(tmp_path):
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-e", "trace=sendfile", "-o", str(trace)]
    result = run_example([], name="file_server.py", wrapper=strace)
    assert result.returncode == 0, result.stderr
    sent = re.findall(r"sendfile\(.*= (\d+)$", trace.read_text(), re.MULTILINE)
    assert sum(map(int, sent)) == 14 + 3 * 1024 * 1024


# -- then the server alone, until Ctrl-C --


@contextlib.contextmanager
def served(name, *arguments):
    """Start an example as a server, on any free port; Ctrl-C at the end, which has to be a quiet one."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command_of(name, ["0", *arguments]), cwd=ROOT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            first = process.stdout.readline()
            port = re.fullmatch(r"Serving on \('127\.0\.0\.1', (\d+)\)\n", first)
            assert port, process.stderr.read() if process.poll() is not None else first
            yield "127.0.0.1", int(port[1])
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert stdout.endswith("Stopped\n")
    assert told(stderr) == []
    assert process.returncode == 0


def connect(address, kind=socket.SOCK_STREAM):
    sock = socket.socket(type=kind)
    sock.settimeout(30)
    sock.connect(address)
    return sock


def test_udp_echo_serves():
    with served("udp_echo.py") as address, connect(address, socket.SOCK_DGRAM) as sock:
        sock.send(b"one")
        assert sock.recv(100) == b"one"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_echo_serves():
    """Its certificate is new and nobody else has it, so this client doesn't verify it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with served("tls_echo.py") as address, context.wrap_socket(connect(address)) as sock:
        sock.sendall(b"one")
        assert sock.recv(100) == b"one"
        # A client that talks no TLS ends its own connection only.
        with connect(address) as other:
            other.sendall(b"no hello at all\n")
            while other.recv(100):
                pass
        sock.sendall(b"two")
        assert sock.recv(100) == b"two"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["serving", "openssl"])
def test_tls_echo_leaves_no_key_behind(tmp_path, number, when):
    """Whatever ends it, also while its key is made: by an openssl that stays once that is written."""
    programs, files, fifo = tmp_path / "bin", tmp_path / "tmp", tmp_path / "fifo"
    programs.mkdir()
    files.mkdir()
    os.mkfifo(fifo)
    output = subprocess.DEVNULL
    told = os.open(fifo, os.O_RDWR)
    if when == "serving":
        output = told
    else:
        stays = programs / "openssl"
        stays.write_text(f'#!/bin/sh\n{shutil.which("openssl")} "$@"\necho key >{fifo}\nexec sleep 60\n')
        stays.chmod(0o755)
    environment = {**os.environ, "TMPDIR": str(files), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                   "PYTHONUNBUFFERED": "1"}
    # A session of its own: what it has started ends with it.
    with subprocess.Popen(command_of("tls_echo.py", ["0"]), cwd=ROOT, env=environment, stdout=output,
                          stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            assert os.read(told, 1)
            process.send_signal(number)
            process.wait(30)
        finally:
            os.close(told)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert list(files.iterdir()) == []


def test_chat_server_serves():
    """Clients that stay, that go without a word, that take another's name, that never end a line."""
    # The stack's sockets are closed after the server's end.
    with contextlib.ExitStack() as stack, served("chat_server.py") as address:
        ann, ben = (stack.enter_context(connect(address)) for _ in range(2))
        a, b = (stack.enter_context(sock.makefile("rb")) for sock in (ann, ben))
        assert a.readline() == b.readline() == b"What is your name?\n"
        ann.sendall(b"Ann\n")
        assert a.readline() == b"Welcome, Ann. Here: nobody else\n"
        ben.sendall(b"\nAnn\r\nBen\r\n")
        assert b.readline() == b"That name is taken. Another?\n"
        assert b.readline() == b"Welcome, Ben. Here: Ann\n"
        assert a.readline() == b"* Ben has come\n"
        ben.sendall("\x1b[2J gr\u00fc\u00dfe \n".encode() + b"\xff\n")
        assert a.readline().decode() == "Ben: [2J gr\u00fc\u00dfe\n"
        assert a.readline().decode() == "Ben: \ufffd\n"
        # No name, and gone.
        connect(address).close()
        with connect(address) as reset:
            reset.sendall(b"Cid\n")
            assert a.readline() == b"* Cid has come\n"
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert a.readline() == b"* Cid has left\n"
        ben.sendall(b"x" * 100_000)
        assert a.readline() == b"* Ben has left\n"
        ben.shutdown(socket.SHUT_WR)
        # Ann stays, and the server ends nevertheless.


def ask(address, request):
    with connect(address) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


@pytest.fixture
def tree(tmp_path):
    """A directory to be served, and beside it what must not be."""
    root = tmp_path / "served"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "served-not").mkdir()
    (root / "a <b>&.txt").write_bytes(b"odd\n")
    (root / "sub" / "page.html").write_bytes(b"<p>page\n")
    (root / "empty").write_bytes(b"")
    (root / "inside").symlink_to("sub/page.html")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("..")
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff")).write_bytes(b"not UTF-8\n")
    (tmp_path / "secret").write_bytes(b"secret\n")
    (tmp_path / "served-not" / "secret").write_bytes(b"secret\n")
    return root


@pytest.fixture(scope="module")
def file_server():
    spec = importlib.util.spec_from_file_location("file_server", EXAMPLES / "file_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_file_server_serves(tree):
    with served("file_server.py", str(tree)) as address:
        def get(target, method="GET"):
            head, body = ask(address, f"{method} {target} HTTP/1.0\r\n\r\n".encode())
            assert f"Content-Length: {len(body)}" in head or method == "HEAD"
            return head[0].partition(" ")[2], body

        assert get("/a%20%3Cb%3E%26.txt") == ("200 OK", b"odd\n")
        for target in ("/sub/page.html?query", "/inside", "/./sub//page.html", "/sub/../inside"):
            assert get(target) == ("200 OK", b"<p>page\n")
        assert get("/empty") == ("200 OK", b"")
        assert get("/%ff") == ("200 OK", b"not UTF-8\n")
        assert get("/inside", "HEAD") == get("/", "HEAD") == ("200 OK", b"")
        assert get("/nothing", "HEAD") == ("404 Not Found", b"")
        head, _ = ask(address, b"GET /sub/page.html HTTP/1.0\r\n\r\n")
        assert "Content-Type: text/html" in head

        status, page = get("/")
        assert status == "200 OK"
        links = dict(re.findall(r'<a href="(.*)">(.*)</a>', page.decode()))
        assert links["/a%20%3Cb%3E%26.txt"] == "a &lt;b&gt;&amp;.txt"
        assert get(get("/sub")[1].decode().split('href="')[1].split('"')[0]) == ("200 OK", b"<p>page\n")
        assert get("/sub/") == get("/sub")
        unserved = {link for link in links if get(link)[0] == "404 Not Found"}
        assert unserved == {"/outside", "/up/", "/circle", "/pipe"}
        assert {get(link)[0] for link in links.keys() - unserved} == {"200 OK"}


@pytest.mark.parametrize("target", [
    "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/%2e%2e%2fsecret", "/sub/../../secret", "//../secret",
    "/../served-not/secret", "/up/secret", "/up", "/outside", "/./../secret", "/sub/%2e%2e/%2e%2e/secret",
    "{root}/../secret", "{outer}/secret", "/{outer}/secret", "/%2F{outer}/secret", "/..%00/secret", "/%00",
    "/circle", "/pipe", "/nothing", "/" + "x" * 5000, "/..", "/%", "/%zz", "/%2",
    "/..\\secret", "/~root", "/etc/passwd",
])
def test_file_server_gives_nothing_from_outside(tree, file_server, target):
    # In this process: what is looked up is all that matters here.
    with pytest.raises(file_server.Refused) as caught:
        file_server.look_up(tree, target.format(root=tree, outer=tree.parent))
    assert caught.value.status == 404


def test_file_server_refuses(tree):
    # The stack's sockets are closed after the server's end.
    with contextlib.ExitStack() as stack, served("file_server.py", str(tree)) as address:
        for request, status in (
                (b"GET /inside", "400 Bad Request"),
                (b"GET inside HTTP/1.0", "400 Bad Request"),
                (b"GET http://localhost/inside HTTP/1.0", "400 Bad Request"),
                (b"GET /a <b>&.txt HTTP/1.0", "400 Bad Request"),
                (b"\x16\x03\x01", "400 Bad Request"),
                (b"PUT /inside HTTP/1.0", "501 Not Implemented")):
            assert ask(address, request + b"\r\n\r\n")[0][0] == f"HTTP/1.0 {status}"
        # A head without an end, a client that goes without a word, and one in the middle of its file.
        with contextlib.suppress(ConnectionError):
            ask(address, b"GET /inside HTTP/1.0\r\nX: " + b"x" * 200_000)
        connect(address).close()
        with connect(address) as sock:
            sock.sendall(b"GET /inside HT")
        (tree / "big").write_bytes(bytes(20_000_000))
        with connect(address) as sock:
            sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            assert sock.recv(100)
        assert ask(address, b"GET /empty HTTP/1.0\r\n\r\n")[0][0] == "HTTP/1.0 200 OK"
        # One that takes the beginning and stays, and one that has yet to say a word, do not delay the end.
        staying = stack.enter_context(connect(address))
        staying.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        assert staying.recv(100)
        stack.enter_context(connect(address))


def test_readme_commands_name_scripts_that_exist():
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks[:2] == ["bash examples/quickstart.sh\n", "bash tests/run.sh\n"]
    for block in blocks[:2]:
        assert (ROOT / block.split()[1]).is_file()
