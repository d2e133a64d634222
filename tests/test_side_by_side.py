"""`python -m uringloop side-by-side`: what it prints, and its exit status."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uringloop import __main__
from uringloop.__main__ import main
from uringloop.side_by_side import mirror, pairing, two_columns

HAS_HOOKS = hasattr(asyncio.BaseEventLoop, "_run_forever_setup")


@pytest.fixture(autouse=True)
def no_columns(monkeypatch):
    """What is said of the terminal's width (by pytest-xdist to its workers, for one) is not for this output."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run(capsys):
    """Run the command in this process: its status, output and errors."""
    def run(*arguments):
        try:
            status = main(["side-by-side", *arguments])
        except SystemExit as exc:
            status = exc.code
        output, errors = capsys.readouterr()
        return status, output, errors
    return run


def spawn(*arguments, **options):
    """Start the command in a process of its own, away from any checkout."""
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run([sys.executable, "-m", "uringloop", *arguments], capture_output=True,
                          text=True, timeout=60, env=environment, **options)


def columns(output, width):
    """Split the rows of two columns: [(left, right), ...], the text below them dropped."""
    column = (width - 3) // 2
    rows = []
    for line in output.split("\n"):
        if line[column:column + 3].rstrip() == " |":
            rows.append((line[:column].rstrip(), line[column + 3:]))
    return rows


# -- a method --


def test_method_shows_both_sources(run):
    status, output, errors = run("recv", "--width", "200")
    assert (status, errors) == (0, "")
    rows = columns(output, 200)
    assert rows[0] == ("IocpProactor.recv", "IouringProactor.recv")
    assert rows[1][0].startswith("asyncio/windows_events.py:")
    assert rows[1][1].startswith("uringloop/uring_events.pyx:")
    # The headers stand on one line.
    header = "def recv(self, conn, nbytes, flags=0):"
    assert (header, header) in rows
    source = Path(asyncio.__file__).with_name("windows_events.py").read_text(encoding="utf-8")
    theirs = [row[0].strip() for row in rows[2:]]
    assert "\n".join(theirs).strip() in "\n".join(line.strip() for line in source.split("\n"))
    assert any("ov.prep_recv(fd, nbytes, flags)" in row[1] for row in rows)


def test_method_shows_its_differences_and_no_others(run):
    _, output, _ = run("IocpProactor.recvfrom_into", "--width", "120")
    below = output[output.index("Differences:"):]
    listed = pairing.our_source("uring_events.pyx").module.differences
    entry = pairing.find("recvfrom_into")
    words = " ".join(below.split())
    for number, reason in listed.items():
        assert (f"{number} {reason}" in words) == (number in entry.numbers())
    assert entry.numbers()
    assert f"IocpProactor.recvfrom_into({mirror.CHANGED['IocpProactor.recvfrom_into'][0]})" in words


def test_method_without_differences_says_so(run):
    _, output, _ = run("IocpProactor.set_loop")
    assert "No numbered differences." in output


def test_method_of_inherited_transports(run):
    status, output, _ = run("sock_recv")
    assert status == 0
    assert columns(output, 160)[0][0] == "BaseProactorEventLoop.sock_recv"
    assert "asyncio/proactor_events.py:" in output and "uringloop/stdlib_transports.py:" in output
    assert "\n  T" in output


@pytest.mark.parametrize("name", [
    "recv_into", "recv_into()", "IocpProactor.recv_into", "IouringProactor.recv_into",
    "proactor.recv_into", "PROACTOR.RECV_INTO", "asyncio.windows_events.IocpProactor.recv_into",
    "uringloop.IouringProactor.recv_into", "uring_events.recv_into", "recvinto", "Iocp.recv_into"])
def test_name_may_be_loose(name):
    entry = pairing.find(name)
    assert (entry.stdlib, entry.ours) == ("IocpProactor.recv_into", "IouringProactor.recv_into")


@pytest.mark.parametrize(("name", "ours"), [
    ("IocpProactor", "IouringProactor"), ("iocp", "IouringProactor"),
    ("_register_with_iocp", "IouringProactor._register_with_ring"),
    ("_register_with_ring", "IouringProactor._register_with_ring"),
    ("WSARecv", "Overlapped.prep_recv"), ("prep_recv", "Overlapped.prep_recv"),
    ("WindowsProactorEventLoopPolicy", "IouringProactorEventLoopPolicy"),
    ("IouringProactorEventLoopPolicy", "IouringProactorEventLoopPolicy")])
def test_renamed_is_found_by_both_names(name, ours):
    assert pairing.find(name).ours == ours


def test_absent_method_says_why(run):
    status, output, _ = run("accept_pipe")
    assert status == 0
    assert columns(output, 160)[0] == ("IocpProactor.accept_pipe", "not here")
    reason = mirror.ABSENT["IocpProactor.accept_pipe"]
    assert f"IocpProactor.accept_pipe: absent: {reason}" in output
    assert "ConnectNamedPipe" in output


def test_absent_class_shows_the_stdlibs(run):
    status, output, _ = run("PipeServer")
    assert status == 0
    assert "def _get_unconnected_pipe(self):" in output
    assert output.count("(absent: ") == 1


def test_own_method_has_no_counterpart(run):
    status, output, _ = run("IouringProactor._wake")
    assert status == 0
    assert columns(output, 160)[0] == ("not in the stdlib", "IouringProactor._wake")
    assert "ours: no counterpart in the stdlib" in output


def test_c_function_shows_ours_alone(run):
    status, output, _ = run("Overlapped.WSASend")
    assert status == 0
    assert mirror.C_SOURCE in output and " prep_send(" in output


def test_run_hooks_are_those_of_this_python(run):
    assert run("ProactorEventLoop._run_forever_setup")[0] == 0
    entry = pairing.find("_run_forever_setup" if HAS_HOOKS else "run_forever")
    assert entry.left is not None and entry.right is not None
    assert [e.ours for e in pairing.every_entry()].count(
        "IouringProactorEventLoop.run_forever") == 1


# -- a class --


def test_class_is_aligned_by_method(run):
    status, output, _ = run("IouringProactor", "--width", "180")
    assert status == 0
    rows = columns(output, 180)
    assert rows[0] == ("class IocpProactor", "class IouringProactor")
    assert ("class IocpProactor:", "cdef class IouringProactor(Selector):") in rows
    for name in ("recv", "send", "connect", "close", "_poll"):
        [row] = [(left, right) for left, right in rows if left.startswith(f"def {name}(")]
        assert row[1].startswith(f"def {name}(")
    [row] = [(left, right) for left, right in rows if left.startswith("def accept_pipe(")]
    assert row[1].startswith("(absent: ")
    assert any(left.startswith("(ours") and "_wake" in right for left, right in rows)
    assert "\nDifferences:\n" in output and "\n  D2 " in output


def test_class_shows_every_line_of_both(run):
    """Wide enough, nothing is wrapped, and nothing of either source is left out."""
    entry = pairing.find("IocpProactor")
    _, output, _ = run("IocpProactor", "--width", "400")
    rows = columns(output, 400)
    for number, side in enumerate(("left", "right")):
        shown = [" ".join(row[number].split()) for row in rows]
        item, source = getattr(entry, side), getattr(entry, f"{side}_source")
        for member in item.members:
            for line in source.module.text_of(member):
                line = " ".join(line.split())
                assert line in shown or line.startswith("# stdlib:"), line


def test_policy_is_found_where_it_is_made(run):
    status, output, _ = run("IouringProactorEventLoopPolicy")
    assert status == 0
    assert "_loop_factory = ProactorEventLoop" in output
    assert "class IouringProactorEventLoopPolicy(base):" in output


# -- no name --


def test_table_lists_what_mirrors_what(run):
    status, output, errors = run()
    assert (status, errors) == (0, "")
    lines = [line.split() for line in output.split("\n")]
    assert ["class", "IocpProactor", "class", "IouringProactor"] in lines
    assert ["set_loop", "set_loop"] in lines
    assert ["_register_with_iocp", "_register_with_ring"] in lines
    assert ["Overlapped.WSARecv", "Overlapped.prep_recv"] in lines
    words = " ".join(output.split())
    assert "class PipeServer absent: Windows named pipes" in words
    assert "IouringProactor.recvfrom_into(self, conn, buf, nbytes=0, flags=0)" in words
    assert "missing" not in words.split()
    # What is only ours is no row of it.
    assert "_wake" not in words.split()


def test_table_has_the_numbers_of_each_method(run):
    _, output, _ = run()
    numbers = pairing.find("IocpProactor.close").numbers()
    assert numbers
    rows = [line.split() for line in output.split("\n")]
    assert ["close", "close", *numbers] in rows


# -- wrong names and arguments --


def test_unknown_name_gives_suggestions(run):
    status, output, errors = run("recvv")
    assert (status, output) == (2, "")
    assert "'recvv'" in errors and "did you mean: IocpProactor.recv" in errors


def test_unknown_name_without_a_suggestion(run):
    status, output, errors = run("qqqq")
    assert (status, output) == (2, "")
    assert "nothing here is called 'qqqq'\n" in errors
    assert "lists all names" in errors


def test_ambiguous_name_gives_all(run):
    status, output, errors = run("set_result")
    assert (status, output) == (2, "")
    for name in ("_OverlappedFuture", "_BaseWaitHandleFuture", "_WaitCancelFuture"):
        assert f"{name}.set_result" in errors


@pytest.mark.parametrize("width", ["39", "-1", "wide", ""])
def test_wrong_width_is_refused(run, width):
    status, output, errors = run("recv", "--width", width)
    assert (status, output) == (2, "")
    assert "--width" in errors


def test_missing_sources_are_told(run, monkeypatch):
    pairing.entries.cache_clear()
    monkeypatch.setattr(pairing, "our_source", lambda name: None)
    try:
        status, output, errors = run("recv")
    finally:
        pairing.entries.cache_clear()
    assert (status, output) == (1, "")
    assert "uringloop/uring_events.pyx is not installed" in errors


# -- the width --


@pytest.mark.parametrize("name", [None, "recv", "IocpProactor", "PipeServer", "WSARecv",
                                  "IocpProactor.close"])
@pytest.mark.parametrize("width", [40, 41, 80, 133, 300])
def test_no_row_is_wider(name, width):
    for line in two_columns.show(name, width).split("\n"):
        # The names of the table are not broken: copied, they must be what the command takes.
        words = line.partition("(")[0].split()
        assert len(line) <= width or name is None and len(words) <= 4, line


def test_width_is_the_terminals(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    _, output, _ = run("recv")
    assert len(output.split("\n")[2]) == 89
    monkeypatch.setenv("COLUMNS", "3")
    _, output, _ = run("recv")
    assert len(output.split("\n")[2]) == __main__._MINIMAL_WIDTH - 1


@pytest.mark.parametrize(("line", "width", "parts"), [
    ("short", 20, ["short"]),
    ("", 20, [""]),
    ("    call(first, second)", 20, ["    call(first, \\", "          second)"]),
    ("# a comment of many words", 16, ["# a comment of", "# many words"]),
    ("  # a comment of many words", 18, ["  # a comment of", "  # many words"]),
    ("value = some.attribute.of", 20, ["value = some. \\", "        attribute.of"]),
    ("a_name_without_any_end", 16, ["a_name_without \\", "        _any_end"]),
])
def test_wrap(line, width, parts):
    assert two_columns.wrap(line, width) == parts


# -- as a command --


def test_command_method(tmp_path):
    done = spawn("side-by-side", "IocpProactor.send", "--width", "140", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == two_columns.show("IocpProactor.send", 140)


def test_command_class_and_table(tmp_path):
    for name in ((), ("IouringProactorEventLoop",)):
        done = spawn("side-by-side", *name, cwd=tmp_path, env={"COLUMNS": "120"})
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == two_columns.show(*name or [None], width=120)


def test_command_wrong_name(tmp_path):
    done = spawn("side-by-side", "recvv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m uringloop side-by-side: ")
    assert "Traceback" not in done.stderr


def test_command_help(tmp_path):
    done = spawn("--help", cwd=tmp_path)
    assert done.returncode == 0 and "side-by-side" in done.stdout
    done = spawn("side-by-side", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--width" in done.stdout and "NAME" in done.stdout
    done = spawn(cwd=tmp_path)
    assert done.returncode == 2 and "usage: python -m uringloop" in done.stderr


def test_command_in_ascii(tmp_path):
    done = spawn("side-by-side", "IocpProactor", cwd=tmp_path,
                 env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_command_whose_reader_goes_is_quiet(tmp_path, unbuffered):
    # More than a pipe holds, so that it is still writing when the reader goes.
    with subprocess.Popen(
            [sys.executable, "-m", "uringloop", "side-by-side", "IocpProactor", "--width", "4000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered}) as process:
        assert process.stdout.readline().startswith("class IocpProactor")
        process.stdout.close()
        assert process.stderr.read() == ""
        process.wait(60)
    assert process.returncode == 1
