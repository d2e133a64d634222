"""`python -m uringloop doctor`, under real seccomp filters, and on a simulated kernel with a made-up /proc."""

import errno
import json
import os
import pathlib
import subprocess
import sys
from functools import partial

import pytest

import uringloop
from blocked import ALL_CAPS, INSTALL_FILTER, NO_CAPS, limits, made_up_proc
from simulation import Simulation
from uringloop import __main__, doctor

pytestmark = pytest.mark.any_python("it looks at the machine, and not at the interpreter")

ROOT = pathlib.Path(uringloop.__file__).parents[1]
THREE = {"first": 425, "last": 427}
# linux/io_uring.h
POLL_ADD, ASYNC_CANCEL, SENDMSG, POLL_REMOVE, WRITE, SEND = 6, 14, 9, 7, 23, 26


@pytest.fixture
def make_proc(tmp_path):
    return partial(made_up_proc, tmp_path)


def run_doctor(*arguments, before=""):
    """Run the command itself, in a process that `before` has prepared."""
    program = f"import os, sys\n{before}\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return subprocess.run(
        [sys.executable, "-c", program, "-W", "error", "-m", "uringloop", "doctor", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60)


def examine(kernel, **where):
    found = doctor.examine(kernel=kernel.capsule, **where)
    # Whatever it found can be printed and read back.
    assert json.loads(json.dumps(found)) == found
    text = doctor.text_of(found)
    assert text.endswith("\n") and not [line for line in text.splitlines() if len(line) > 120]
    assert ("io_uring works here" in text) == found["works"]
    return found, " ".join(text.split())


# -- the command, on the running kernel --


def test_doctor_where_io_uring_works():
    done = run_doctor()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("io_uring works here")
    for word in ("kernel ", "rung 0 of 0 to 2", "operations", "bytes of locked memory", "seccomp", "sysctl"):
        assert word in done.stdout

    done = run_doctor("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["works"] is True
    assert found["cause"] is found["call"] is found["errno"] is found["explanation"] is None
    assert found["rung"] in (0, 1, 2)
    assert {"SUBMIT_ALL", "CQSIZE"} <= set(found["setup_flags"])
    assert found["operations"] == ["POLL_ADD", "ASYNC_CANCEL", "SEND", "SENDMSG", "WRITE"] and found["refused"] == []
    assert found["memory_per_loop"] == 20480
    assert found["kernel"] == os.uname().release


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_doctor_under_a_seccomp_filter(number):
    before = INSTALL_FILTER.format(errno=number, **THREE)
    done = run_doctor(before=before)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("io_uring does not work here: a seccomp filter stops it.")
    text = " ".join(done.stdout.split())
    for word in ("io_uring_setup failed", "docs/seccomp.json", "fallback=True", "a filter is active"):
        assert word in text

    done = run_doctor("--json", before=before)
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert (found["works"], found["cause"], found["call"]) == (False, "seccomp", "io_uring_setup")
    assert found["errno"] == errno.errorcode[number]
    assert found["seccomp"] == "filter"
    assert "seccomp filter refuses it" in found["explanation"]
    assert found["rung"] is None


@pytest.mark.parametrize("call", [426, 427])
def test_doctor_under_a_filter_of_one_call(call):
    done = run_doctor("--json", before=INSTALL_FILTER.format(errno=errno.EPERM, first=call, last=call))
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["cause"], found["call"]) == ("seccomp", {426: "io_uring_enter", 427: "io_uring_register"}[call])


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to become an ordinary user with a limit of its own")
def test_doctor_without_memlock():
    program = """if True:
        import os, resource, sys
        from uringloop import __main__, doctor
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        sys.exit(__main__.main(["doctor", "--json"]))"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    if found["works"]:
        pytest.skip("this kernel does not count rings against RLIMIT_MEMLOCK")
    assert (done.returncode, found["cause"], found["errno"], found["memlock"]) == (1, "memlock", "ENOMEM", 0)


def test_doctor_prints_what_examine_found(monkeypatch, capsys):
    found = doctor.examine()
    monkeypatch.setattr(doctor, "examine", lambda: found)
    assert __main__.main(["doctor"]) == 0
    assert capsys.readouterr().out == doctor.text_of(found)
    assert __main__.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


# -- a kernel and a /proc that are made up --


def test_examine_where_the_sysctl_stops_it(make_proc):
    machine = Simulation(1)
    machine.kernel.set_limit("setup_error", errno.EPERM)
    found, text = examine(machine.kernel, proc=make_proc(disabled=2, caps=ALL_CAPS))
    assert (found["works"], found["cause"], found["errno"]) == (False, "sysctl", "EPERM")
    assert (found["io_uring_disabled"], found["io_uring_group"]) == (2, -1)
    assert "the setting kernel.io_uring_disabled stops it" in text
    assert "sysctl kernel.io_uring_disabled=0" in text


def test_examine_where_the_group_stops_it(make_proc):
    machine = Simulation(1)
    machine.kernel.set_limit("setup_error", errno.EPERM)
    found, text = examine(machine.kernel, proc=make_proc(disabled=1, group=4711))
    assert found["cause"] == "sysctl"
    assert "kernel.io_uring_group is 4711 and this process is not in that group" in text
    assert "kernel.io_uring_disabled = 1, kernel.io_uring_group = 4711" in text


def test_examine_tells_seccomp_from_the_sysctl(make_proc):
    machine = Simulation(1)
    machine.kernel.set_limit("setup_error", errno.EPERM)
    found, _ = examine(machine.kernel, proc=make_proc(disabled=0, seccomp=2))
    assert (found["cause"], found["seccomp"]) == ("seccomp", "filter")


def test_examine_an_old_kernel(make_proc):
    machine = Simulation(1)
    machine.kernel.set_limit("setup_error", errno.EINVAL)
    found, text = examine(machine.kernel, proc=make_proc(disabled=None), release="5.10.0-28-amd64")
    assert (found["cause"], found["kernel"]) == ("kernel", "5.10.0-28-amd64")
    assert "Linux 5.19 or newer is needed, found 5.10.0-28-amd64" in text
    assert "kernel.io_uring_disabled is not there" in text


def test_examine_memlock(make_proc):
    machine = Simulation(1)
    machine.kernel.set_limit("setup_error", errno.ENOMEM)
    found, text = examine(machine.kernel, proc=make_proc(caps=NO_CAPS), getrlimit=limits(MEMLOCK=16384))
    assert (found["cause"], found["memlock"]) == ("memlock", 16384)
    assert "RLIMIT_MEMLOCK allows 16384 bytes" in text and "one ring needs 20480 bytes" in text


@pytest.mark.parametrize("name, opcode, way", [
    ("SEND", SEND, "send(2)"), ("SENDMSG", SENDMSG, "sendto(2)"), ("WRITE", WRITE, "write(2)"),
    ("ASYNC_CANCEL", ASYNC_CANCEL, "POLL_REMOVE")])
def test_examine_a_refused_operation(make_proc, name, opcode, way):
    machine = Simulation(1)
    machine.kernel.refuse(opcode)
    found, text = examine(machine.kernel, proc=make_proc())
    assert found["works"] is True
    assert found["refused"] == [name] and name not in found["operations"]
    assert f"{name} is refused or unknown: {way} is used in its place" in text
    assert machine.problems() == []


def test_examine_where_polls_are_refused(make_proc):
    machine = Simulation(1)
    machine.kernel.refuse(POLL_ADD)
    found, text = examine(machine.kernel, proc=make_proc())
    assert (found["cause"], found["call"], found["errno"]) == ("restriction", "IORING_OP_POLL_ADD", "EACCES")
    assert "an operation that it needs is refused" in text
    assert machine.problems() == []


def test_examine_where_polls_are_refused_later(make_proc):
    """A ring that can be had and then not used: the loop's run says so, and the loop can be closed."""
    machine = Simulation(1)
    # The probe's poll is on no file, and the forced result for the first that is.
    machine.kernel.force_result(POLL_ADD, -errno.EACCES)
    found, _ = examine(machine.kernel, proc=make_proc())
    assert (found["cause"], found["call"]) == ("restriction", "IORING_OP_POLL_ADD")
    assert machine.problems() == []


def test_examine_what_nobody_knows(make_proc):
    machine = Simulation(1)
    machine.kernel.fail("eventfd", errno.EIO)
    found, text = examine(machine.kernel, proc=make_proc())
    assert (found["works"], found["cause"]) == (False, "unknown")
    assert "please report it" in text


def test_examine_notes_what_could_be_better(make_proc):
    machine = Simulation(1)
    found, text = examine(machine.kernel, proc=make_proc(disabled=1), getrlimit=limits(MEMLOCK=200_000))
    assert found["works"] is True
    assert "is enough for 9 loops of this user" in text
    assert "kernel.io_uring_disabled is 1: other users" in text


def test_examine_promises_no_fallback_where_there_is_none():
    """fallback=True is for rings that can't be had, not for loops that do not work."""
    found = doctor.examine()
    failed = found | {"works": False, "cause": "unknown", "explanation": "a loop could be made, and did not work"}
    assert "fallback=True" not in doctor.text_of(failed)
    assert "fallback=True" in doctor.text_of(failed | {"call": "io_uring_setup"})


# -- where its output goes --

COMMANDS = [["doctor"], ["doctor", "--json"], ["side-by-side", "recv"]]


def run_command(arguments, redirection):
    program = f'exec "$0" -W error -m uringloop {" ".join(arguments)} {redirection}'
    return subprocess.run(["sh", "-c", program, sys.executable], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_with_a_closed_output(arguments):
    """Its exit status is wanted, and nothing else."""
    done = run_command(arguments, ">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_with_an_output_that_is_full(arguments):
    done = run_command(arguments, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == (f"python -m uringloop {arguments[0]}: the output can't be written: "
                           f"{OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))}\n")


def test_progress_is_not_taken_for_the_result():
    done = run_command(["bench", "--json", "--seconds", "0.01", "--rounds", "1"], "2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout)


@pytest.mark.parametrize("cause", doctor._NAMES)
def test_every_cause_has_words(cause):
    found = doctor.examine()
    text = doctor.text_of(found | {"works": False, "cause": cause, "explanation": "why"})
    assert text.startswith("io_uring does not work here: ") and "why" in text


def test_no_cause_without_words():
    documented = uringloop.IouringUnavailableError.__doc__
    assert {cause for cause in doctor._NAMES if f'"{cause}"' not in documented} == set()
