"""CPython's own asyncio tests on this loop, by tests/conformance; and that what runs them can tell a failure."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFORMANCE = Path(__file__).with_name("conformance")
NO_TESTS = 77
# Debian's package with the tests of its own Python.
PACKAGE = "libpython{}.{}-testsuite".format(*sys.version_info)
# Of one module; the longest takes half a minute on a quiet core.
TIME_LIMIT = 600


def conformance(*arguments, path=None, limit=TIME_LIMIT):
    """Run the script, and return its exit status and output."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run([sys.executable, CONFORMANCE, *arguments], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=limit)
    return done.returncode, done.stdout


LISTED, NAMES = conformance("--list")
needs_tests = pytest.mark.skipif(
    LISTED == NO_TESTS and os.environ.get("URINGLOOP_CONFORMANCE") != "required",
    reason=f"this Python was installed without its own tests; those of Debian's are in {PACKAGE}",
)


# A module an item, so that the workers of a parallel run share them.
@needs_tests
@pytest.mark.timeout(TIME_LIMIT + 30)
@pytest.mark.parametrize("module", NAMES.split() if LISTED == 0 else ["none"])
def test_cpython_s_own_tests(module):
    status, output = conformance("--module", module)
    assert status == 0, output


def test_readme_has_the_table_that_would_be_written():
    assert conformance("--check-readme") == (0, "\n")


# -- that it can fail --


@pytest.fixture
def probe(tmp_path):
    """`status, output = probe("body of a TestCase")`: run it as one of CPython's modules is run."""

    def probe(body, deviations="", limit=2):
        (tmp_path / "probe.py").write_text(
            "import asyncio, os, sys, time, unittest\n"
            "is_ours = asyncio.SelectorEventLoop.__module__.startswith('uringloop')\n"
            "class Case(unittest.TestCase):\n" + textwrap.indent(textwrap.dedent(body), "    "))
        (tmp_path / "table.toml").write_text(
            f'[C1]\nreason = "none"\ntests = [{deviations}]\n')
        return conformance("--module", "probe", "--limit", str(limit), "--deviations", tmp_path / "table.toml",
                           path=tmp_path)

    return probe


@needs_tests
def test_all_loops_are_the_one_under_test(probe):
    status, output = probe("""
        def test_default(self):
            async def main():
                return type(asyncio.get_running_loop())
            self.assertIs(asyncio.run(main()), asyncio.SelectorEventLoop)
            self.assertIs(getattr(asyncio, "EventLoop", asyncio.SelectorEventLoop), asyncio.SelectorEventLoop)
            self.assertTrue(is_ours)
        def test_proactor(self):
            asyncio.ProactorEventLoop().close()
    """)
    assert status == 0 and "2 passed" in output, output


@needs_tests
@pytest.mark.parametrize("ending, word", [
    ("self.fail()", "fail"),
    ("1 / 0", "fail"),
    ("time.sleep(1000)", "hang"),
    ("os._exit(3)", "crash"),
    ("os.kill(os.getpid(), 11)", "crash"),
    ("self.skipTest('')", "skip"),
])
def test_what_only_this_loop_does_is_a_failure(probe, ending, word):
    """And costs that test only."""
    status, output = probe(f"""
        def test_1(self):
            pass
        def test_2(self):
            if is_ours:
                {ending}
        def test_3(self):
            pass
    """)
    assert status == 1, output
    assert f"NOT AS EXPECTED: probe.Case.test_2: {word}; on the selector loop: pass" in output
    assert "2 passed, 1 NOT AS EXPECTED" in output


@needs_tests
@pytest.mark.parametrize("ending", ["self.fail()", "time.sleep(1000)", "os._exit(3)"])
def test_what_the_selector_loop_does_as_well_is_none(probe, ending):
    status, output = probe(f"""
        def test_1(self):
            {ending}
        def test_2(self):
            self.skipTest("")
    """)
    assert status == 0, output
    assert "0 passed, 1 skipped, 1 fail here on any loop" in output


@needs_tests
def test_a_skip_excuses_no_failure(probe):
    status, output = probe("""
        def test_1(self):
            self.assertFalse(is_ours)
            self.skipTest("")
    """)
    assert status == 1 and "on the selector loop: skip" in output, output


@needs_tests
def test_deviation_fails_and_one_that_passes_is_reported(probe):
    body = """
        def test_1(self):
            self.fail()
        def test_2(self):
            time.sleep(1000)
        def test_3(self):
            pass
    """
    status, output = probe(body, '"probe.Case.test_1", "probe.Case.test_2", "probe.Case.test_of_another_python"')
    assert status == 0 and "1 passed, C1 x 2" in output, output
    status, output = probe(body, '"probe.Case.test_1", "probe.Case.test_2", "probe.Case.test_3"')
    assert status == 1 and "test_3: is deviation C1 and passes" in output, output


@needs_tests
@pytest.mark.parametrize("body, text", [
    ("raise SystemExit(3)", "probe (module): crash"),
    ("""
    @classmethod
    def setUpClass(cls):
        raise OSError
    def test_1(self):
        pass
    """, "probe.Case.test_1: lost"),
    ("""
    def test_1(self):
        import atexit
        atexit.register(os._exit, 3)
    """, "probe (exit): crash: exit status 3"),
])
def test_a_module_that_fails_outside_its_tests_is_never_excused(probe, body, text):
    status, output = probe(body)
    assert status == 1 and text.replace(": exit status", "; on the selector loop: not run\nexit status") in output, output


def test_a_python_without_its_tests_is_told(tmp_path):
    """As Debian installs it; a `test` without test_asyncio hides the real one."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "__init__.py").write_text("")
    status, output = conformance(path=tmp_path)
    assert status == NO_TESTS and PACKAGE in output, output
