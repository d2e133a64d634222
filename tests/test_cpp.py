"""The C++ tests, each case an item: cpp/ without Python, plain and with sanitizers.

The program of a variant is built when its first case runs. To look into a failure by hand:

    build/cpp-tests/plain/tests --test-case="..." --no-breaks
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "tests/cpp").glob("test_*.cpp"))
VARIANTS = ["plain", "sanitized"]
THREADS = "test_threads.cpp"
# A report ends the program.
OPTIONS = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
# GCC's ThreadSanitizer knows some layouts of the address space only: chance must have no hand in it.
FIXED_ADDRESSES = ["setarch", "-R"]
# Of one case; the longest takes half a minute of CPU, on a machine that others use as well.
TIME_LIMIT = 600

# A build may be part of it, which takes two minutes of both cores.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.any_python("there is none in it")]


def cases_in(source):
    return re.findall(r'^TEST_CASE\("(.+)"\) \{', source.read_text(), re.MULTILINE)


CASES = [(source.name, name) for source in SOURCES for name in cases_in(source)]


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """program("plain"): the path of the built program."""
    built = {}

    def program(variant):
        if variant not in built:
            directory = ROOT / "build/cpp-tests"
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError:
                directory = None
            if directory is None or not os.access(directory, os.W_OK):
                directory = tmp_path_factory.mktemp("cpp-tests")
            done = subprocess.run(
                [sys.executable, ROOT / "tests/cpp/build.py", variant, directory / variant],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            # Once: a compiler that failed will fail again.
            built[variant] = done.stdout.splitlines()[-1] if done.returncode == 0 else done.stdout
            built[variant, "failed"] = done.returncode != 0
        if built[variant, "failed"]:
            pytest.fail(built[variant], pytrace=False)
        return built[variant]

    return program


def run(command):
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            env=OPTIONS,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        pytest.fail(f"not done after {TIME_LIMIT} s\n{output}", pytrace=False)
    return done


def run_case(program, source, name):
    done = run(
        [
            *program,
            "--no-breaks",
            "--no-colors",
            f"--source-file=*/{source}",
            # A comma would end the pattern.
            f"--test-case={name.replace(',', '?')}",
        ]
    )
    if "FATAL: ThreadSanitizer: unexpected memory mapping" in done.stdout:
        pytest.skip("ThreadSanitizer can't run in this address space; allow `setarch -R`, or vm.mmap_rnd_bits=28")
    if done.returncode != 0 or not re.search(r"test cases:\s+1 \|\s+1 passed", done.stdout):
        pytest.fail(done.stdout, pytrace=False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source, name", CASES, ids=[f"{Path(source).stem}-{name}" for source, name in CASES])
def test_case(program, variant, source, name):
    run_case([program(variant)], source, name)


@pytest.mark.parametrize("name", [name for source, name in CASES if source == THREADS])
def test_case_under_thread_sanitizer(program, name):
    may = shutil.which("setarch") and run([*FIXED_ADDRESSES, "true"]).returncode == 0
    run_case([*(FIXED_ADDRESSES if may else []), program("threads")], THREADS, name)


def test_every_case_is_an_item(program):
    done = run([program("plain"), "--list-test-cases", "--no-colors"])
    total = re.search(r"unskipped test cases passing the current filters: (\d+)", done.stdout)
    assert int(total[1]) == len(CASES)


def test_nothing_of_liburing_is_linked(program):
    """kernel.hpp: its shared library makes no system call here."""
    done = run(["ldd", program("plain")])
    assert done.returncode == 0
    assert "liburing" not in done.stdout
