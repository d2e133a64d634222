"""tests/environment.sh and tests/run.sh: what a newcomer's machine lacks, and what a second run leaves alone."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_python("shell scripts")

ROOT = Path(__file__).resolve().parents[1]
# What the scripts call; no Python, no sudo and no apt among them.
TOOLS = ("bash", "sh", "env", "dirname", "grep", "sort", "tail", "head", "cat", "timeout", "awk", "sha256sum", "stat", "rm",
         "mkdir")


class Machine:
    """A copy of the scripts, with these programs only on PATH; programs can be replaced by scripts."""

    def __init__(self, directory):
        self.checkout, self.programs, self.home = (directory / name for name in ("checkout", "bin", "home"))
        for made in (self.checkout / "tests", self.programs, self.home):
            made.mkdir(parents=True)
        for name in ("environment.sh", "run.sh"):
            shutil.copy(ROOT / "tests" / name, self.checkout / "tests")
        for name in TOOLS:
            (self.programs / name).symlink_to(shutil.which(name))

    def program(self, name, body):
        path = self.programs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def bash(self, script, **environment):
        environment = {"PATH": str(self.programs), "HOME": str(self.home), **environment}
        return subprocess.run([shutil.which("bash"), "-euo", "pipefail", "-c", script], cwd=self.checkout, env=environment,
                              capture_output=True, text=True, timeout=60)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# -- a machine without a Python that is new enough --


@pytest.fixture
def debian12(machine):
    """The function `no_python(user)` returns the command that the message names; it logs what is called."""
    log = machine.home / "log"
    for name in ("apt-get", "git"):
        machine.program(name, f'echo "{name} $*" >>{log}; test "$FAILS" != {name}')
    machine.program("apt-cache", "echo '  Candidate: 3.11.2-1+b1'")
    machine.program("dpkg", "exit 1")

    def no_python(user, sudo=True):
        machine.program("id", f"echo {0 if user == 'root' else 1000}")
        if sudo:
            machine.program("sudo", 'exec "$@"')
        machine.program("su", 'exec sh "$@"')
        # What /usr/bin and other directories of this machine have does not count.
        result = machine.bash("source tests/environment.sh; list_pythons() { :; }; choose_python")
        assert result.returncode == 1 and "Debian 12's own is 3.11" in result.stderr
        assert "takes some minutes" in result.stderr
        [command] = [line for line in result.stderr.splitlines() if line.startswith("    ")]
        return command.strip()

    def run(command, fails=""):
        log.write_text("")
        status = machine.bash(command, FAILS=fails).returncode
        return status, log.read_text().splitlines()

    no_python.run, no_python.log = run, log
    return no_python


def test_root_is_told_no_sudo(debian12):
    assert debian12("root", sudo=False).startswith("apt-get update && ")
    assert debian12("somebody").startswith("sudo ")


def test_user_without_sudo_is_told_su(debian12):
    assert debian12("somebody", sudo=False).startswith("su -c ")


@pytest.mark.parametrize("user, sudo", [("root", False), ("somebody", True), ("somebody", False)])
def test_command_for_a_python_stops_where_a_step_fails(debian12, machine, user, sudo):
    command = debian12(user, sudo)
    pyenv = machine.home / ".pyenv" / "bin" / "pyenv"
    # What the clone brings.
    machine.program("git", f'echo "git $*" >>{debian12.log}; test "$FAILS" != git || exit 1; mkdir -p {pyenv.parent}; '
                    f'printf "#!/bin/sh\\necho pyenv \\$* >>{debian12.log}\\n" >{pyenv}; {shutil.which("chmod")} +x {pyenv}')
    status, called = debian12.run(command, fails="apt-get")
    assert status != 0 and called == ["apt-get update"]
    status, called = debian12.run(command, fails="git")
    assert status != 0 and [line.split()[0] for line in called] == ["apt-get", "apt-get", "git"]
    status, called = debian12.run(command)
    assert status == 0 and called[-1] == "pyenv install 3.13"
    # A pyenv that is there is not fetched again.
    assert "git clone" not in debian12(user, sudo)


# -- packages --


@pytest.mark.parametrize("python, packages", [
    ("/usr/bin/python3.99", "libpython3.99-testsuite"),
    ("/home/somebody/.pyenv/versions/3.99.0/bin/python3.99", ""),
])
def test_debian_s_own_python_gets_its_tests(machine, python, packages):
    result = machine.bash(f"source tests/environment.sh; python={python}; apt_install() {{ echo \"$*\"; }}; "
                          "install_debian_packages testsuite")
    assert (result.returncode, result.stdout.strip()) == (0, packages), result.stderr


def test_run_sh_asks_for_them():
    assert "testsuite" in (ROOT / "tests" / "run.sh").read_text().split("install_debian_packages ")[1].split("\n")[0].split()


# -- what a second run leaves alone --


@pytest.fixture
def builds(machine):
    """`builds(**environment)`: build, by a pip that only makes a module, and tell whether it was called."""
    for name, text in {"setup.py": "", "pyproject.toml": "", "uringloop/__init__.py": "", "uringloop/a.pyx": "",
                       "uringloop/a.pxd": "", "cpp/a.cpp": "", "cpp/a.hpp": ""}.items():
        path = machine.checkout / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (machine.checkout / ".venv").mkdir()
    machine.program("g++", "echo g++ 1")
    machine.program("pkg-config", "echo 2.3")

    def builds(importable=True, **environment):
        result = machine.bash(f"""
            source tests/environment.sh
            venv_python={shlex.quote(sys.executable)}
            suffix=$("$venv_python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
            venv_pip() {{ echo "pip $*"; echo built >>uringloop/a$suffix; [ -z "${{FAILS:-}}" ]; }}
            venv_has_uringloop() {{ {"true" if importable else "false"}; }}
            build_uringloop""", **environment)
        assert (result.returncode == 0) == ("FAILS" not in environment), result.stderr
        assert result.stderr == ""
        return "pip install --editable ." in result.stdout

    builds.module = lambda: next((machine.checkout / "uringloop").glob("a*.so"))
    return builds


def test_nothing_is_built_twice(builds):
    assert [builds() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("name", ["setup.py", "pyproject.toml", "uringloop/a.pyx", "uringloop/a.pxd", "cpp/a.cpp", "cpp/a.hpp"])
def test_what_has_changed_is_built(builds, machine, name):
    builds()
    (machine.checkout / name).write_text("# changed")
    assert [builds(), builds()] == [True, False]


def test_a_file_that_comes_or_goes_is_a_change(builds, machine):
    builds()
    (machine.checkout / "cpp" / "b.cpp").write_text("")
    assert [builds(), builds()] == [True, False]
    (machine.checkout / "cpp" / "b.cpp").unlink()
    assert builds()


@pytest.mark.parametrize("name", ["CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "URINGLOOP_WERROR", "URINGLOOP_SANITIZE"])
def test_other_flags_are_a_change(builds, name):
    builds()
    value = "g++" if name == "CXX" else "-g"
    assert [builds(**{name: value}), builds(**{name: value}), builds()] == [True, False, True]


def test_other_tools_are_a_change(builds, machine):
    builds()
    machine.program("g++", "echo g++ 2")
    assert [builds(), builds()] == [True, False]
    machine.program("pkg-config", "echo 2.4")
    assert builds()


def test_modules_of_another_build_are_replaced(builds):
    builds()
    builds.module().write_text("other")
    assert builds()
    builds.module().unlink()
    assert builds()


def test_a_build_that_failed_is_tried_again(builds):
    assert builds(FAILS="1")
    assert [builds(), builds()] == [True, False]


def test_an_environment_without_it_gets_it(builds):
    builds()
    assert builds(importable=False)


# -- arguments --


def run_last_lines(machine, python, arguments, **environment):
    """Run run.sh's last lines as they are, with this Python as .venv's; what comes before is another test's."""
    last = (ROOT / "tests" / "run.sh").read_text().partition('say "tests"\n')[2]
    assert last
    return machine.bash(f"say() {{ :; }}\nvenv_python={shlex.quote(python)}\nset -- {shlex.join(arguments)}\n{last}",
                        **environment)


@pytest.mark.parametrize("arguments, collected", [
    (["tests/test_one.py"], {"test_one"}),
    (["tests/test_one.py::test_one"], {"test_one"}),
    (["-k", "two"], {"test_two"}),
    (["-q"], {"test_one", "test_two"}),
    ([], {"test_one", "test_two"}),
])
def test_run_sh_runs_the_files_that_are_named(machine, arguments, collected):
    for name in ("one", "two"):
        (machine.checkout / "tests" / f"test_{name}.py").write_text(f"def test_{name}(): pass\n")
    shutil.copy(ROOT / "pyproject.toml", machine.checkout)
    result = run_last_lines(machine, sys.executable, ["--collect-only", "-p", "no:cacheprovider", *arguments],
                            PYTHONDONTWRITEBYTECODE="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {name for name in ("test_one", "test_two") if name + "\n" in result.stdout.replace(">", "")} == collected


PARALLEL = "-m pytest -n logical --dist worksteal"


@pytest.mark.parametrize("arguments, runs", [
    ("", [f": {PARALLEL}", "1: -m pytest -n 0"]),
    ("-k echo", [f": {PARALLEL} -k echo", "1: -m pytest -k echo -n 0"]),
    # The caller's number is behind ours, and counts.
    ("-n 4", [f": {PARALLEL} -n 4", "1: -m pytest -n 4 -n 0"]),
    ("-n 0", [": -m pytest -n 0"]),
    ("-n0 -q", [": -m pytest -n0 -q"]),
    ("tests/run.sh", [": -m pytest tests/run.sh"]),
    ("-q tests/run.sh::test_one", [": -m pytest -q tests/run.sh::test_one"]),
])
def test_run_sh_runs_all_tests_on_all_cores(machine, arguments, runs):
    machine.program("python", 'echo "$URINGLOOP_ALONE: $*"')
    result = run_last_lines(machine, "python", arguments.split())
    assert (result.returncode, result.stderr, result.stdout.splitlines()) == (0, "", runs)


@pytest.mark.parametrize("together, alone, status", [(0, 0, 0), (1, 0, 1), (0, 1, 1), (0, 5, 0), (1, 5, 1), (5, 5, 5)])
def test_run_sh_fails_when_either_part_does(machine, together, alone, status):
    machine.program("python", f'[ "$URINGLOOP_ALONE" ] && exit {alone}; exit {together}')
    result = run_last_lines(machine, "python", [])
    assert (result.returncode, result.stderr) == (status, "")
