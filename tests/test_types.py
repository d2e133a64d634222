"""The stubs: what they say is there, all that is public is in them, and a wheel has them.

Where mypy is not installed, what needs it is skipped, unless URINGLOOP_TYPES=required.
"""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import uringloop

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(uringloop.__file__).parent
COMPILED = {source.stem for source in (ROOT / "uringloop").glob("*.pyx")}

needs_mypy = pytest.mark.skipif(
    os.environ.get("URINGLOOP_TYPES") != "required" and importlib.util.find_spec("mypy") is None,
    reason="mypy is not installed: pip install mypy")


def run_module(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
                          timeout=110)


@needs_mypy
def test_stubs_are_what_is_there(tmp_path):
    done = run_module("mypy.stubtest", "uringloop")
    assert done.returncode == 0, done.stdout
    assert "Success: no issues found" in done.stdout


def check(tmp_path, program):
    """Return mypy's exit status and what it says of a user's program."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    done = run_module("mypy", "--strict", "--follow-imports=silent", "--no-error-summary", f"--cache-dir={tmp_path / 'cache'}", path)
    return done.returncode, done.stdout


@needs_mypy
def test_a_program_is_checked(tmp_path):
    program = """
        import asyncio
        from typing import assert_type
        import uringloop

        async def main() -> int:
            return 1

        assert_type(uringloop.run(main(), debug=True, transports="stdlib", fallback=True), int)
        loop = uringloop.new_event_loop("native", spin_us=50)
        assert_type(loop, uringloop.IouringProactorEventLoop)
        assert_type(loop.run_until_complete(main()), int)
        assert_type(uringloop.new_event_loop(fallback=True), asyncio.AbstractEventLoop)
        with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
            assert_type(runner.run(main()), int)
        asyncio.set_event_loop_policy(uringloop.IouringProactorEventLoopPolicy(fallback=True))
        proactor = uringloop.IouringProactor(0, sq_entries=8)
        uringloop.IouringProactorEventLoop(proactor)
        try:
            pass
        except uringloop.IouringUnavailableError as error:
            assert_type(error.cause, str)
            assert_type(error.call, str)
            assert_type(error.memory_needed, int | None)
        version: str = uringloop.__version__
        stats = loop.stats()
        assert_type(stats["busy"], float)
        assert_type(stats["operations"]["poll"]["ages"]["1ms"], int)
        for operation in uringloop.operations(loop):
            assert_type(operation.fd, int)
        uringloop.dump(loop, 2)
        uringloop.dump_on_signal()
        """
    assert check(tmp_path, program) == (0, "")


@needs_mypy
@pytest.mark.parametrize("call", [
    "uringloop.run(main)", "uringloop.new_event_loop('wooden')", "uringloop.new_event_loop(spin_us='1')",
    "uringloop.IouringProactor(kernel=None, rung=7)", "uringloop.nothing()"])
def test_a_wrong_call_is_told(tmp_path, call):
    status, said = check(tmp_path, f"import uringloop\nasync def main() -> None: ...\n{call}\n")
    assert status == 1 and said.startswith(str(tmp_path)), said


def test_every_compiled_module_has_a_stub():
    assert COMPILED <= {stub.stem for stub in PACKAGE.glob("*.pyi")}
    assert (PACKAGE / "py.typed").exists()


def test_every_public_name_is_in_the_stub():
    stub = (PACKAGE / "__init__.pyi").read_text()
    assert [name for name in uringloop.__all__ if f"def {name}(" not in stub and f" {name} as {name}," not in stub
            and f" {name} as {name}\n" not in stub] == []


def test_the_installed_package_has_the_stubs(tmp_path):
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path / "lib"],
        cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    package = tmp_path / "lib/uringloop"
    installed = {str(path.relative_to(package)) for path in package.rglob("*.pyi")}
    assert installed == {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.pyi")}
    assert (package / "py.typed").exists()
