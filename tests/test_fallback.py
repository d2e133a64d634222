"""fallback=True: asyncio's own loop where io_uring can't be had, with one warning; and never unasked."""

import asyncio
import errno
import os
import pathlib
import subprocess
import sys
import textwrap
import warnings

import pytest

import uringloop
from blocked import ALL_CAPS, INSTALL_FILTER, limits, made_up_proc
from uringloop.unavailable import explain

ROOT = pathlib.Path(uringloop.__file__).parents[1]
POLICIES = sys.version_info < (3, 16)


@pytest.fixture
def blocked(monkeypatch):
    """blocked(error) has no ring be made any more."""

    def block(error):
        def refuse(*args, **kwargs):
            raise error

        monkeypatch.setattr(uringloop, "IouringProactorEventLoop", refuse)

    return block


CAUSES = {
    "seccomp": lambda path: explain(errno.EPERM, proc=made_up_proc(path, seccomp=2)),
    "sysctl": lambda path: explain(errno.EPERM, proc=made_up_proc(path, disabled=2, caps=ALL_CAPS)),
    "kernel": lambda path: explain(errno.EINVAL, proc=made_up_proc(path), release="5.10.0"),
    "memlock": lambda path: explain(errno.ENOMEM, proc=made_up_proc(path), getrlimit=limits(MEMLOCK=65536)),
    "restriction": lambda path: explain(errno.EACCES, stage="IORING_OP_POLL_ADD", proc=made_up_proc(path)),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_fallback_is_the_stdlibs_loop_and_one_warning(cause, blocked, tmp_path):
    error = CAUSES[cause](tmp_path)
    assert error.cause == cause
    blocked(error)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop = uringloop.new_event_loop(fallback=True)
    with_line = warning_line(told)
    assert type(loop) is asyncio.SelectorEventLoop
    loop.close()
    assert f"({cause})" in str(told[0].message) and str(error) in str(told[0].message)
    assert "uringloop.new_event_loop(fallback=True)" in with_line


def warning_line(told):
    """Return the line of the program that the only warning is of."""
    [warning] = told
    assert warning.category is RuntimeWarning
    assert warning.filename == __file__
    return pathlib.Path(warning.filename).read_text().splitlines()[warning.lineno - 1]


@pytest.mark.parametrize("fallback", [{}, {"fallback": False}], ids=["unasked", "False"])
def test_no_fallback_unasked(fallback, blocked, tmp_path):
    blocked(CAUSES["sysctl"](tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(uringloop.IouringUnavailableError):
            uringloop.new_event_loop(**fallback)
        main = nothing()
        with pytest.raises(uringloop.IouringUnavailableError):
            uringloop.run(main, **fallback)
        main.close()


async def nothing():
    pass


async def kind_of_loop():
    return type(asyncio.get_running_loop())


def test_run_falls_back(blocked, tmp_path):
    blocked(CAUSES["sysctl"](tmp_path))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kind = uringloop.run(kind_of_loop(), fallback=True)
    assert kind is asyncio.SelectorEventLoop
    assert "uringloop.run(kind_of_loop(), fallback=True)" in warning_line(told)


def test_nothing_is_said_where_io_uring_can_be_had():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert uringloop.run(kind_of_loop(), fallback=True) is uringloop.IouringProactorEventLoop
        loop = uringloop.new_event_loop(fallback=True)
        loop.close()


def test_fallback_where_warnings_are_errors_leaves_no_loop(blocked, tmp_path):
    blocked(CAUSES["sysctl"](tmp_path))
    with warnings.catch_warnings():
        # (A loop left open would be a ResourceWarning, and so an error of this test.)
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="sysctl"):
            uringloop.new_event_loop(fallback=True)


@pytest.mark.parametrize("wrong", [{"spin_us": -1}, {"transports": "wooden"}, {"sq_entries": 0}], ids=str)
def test_fallback_hides_no_wrong_argument(wrong):
    with pytest.raises(ValueError):
        uringloop.new_event_loop(fallback=True, **wrong)


@pytest.mark.parametrize("wrong", ["no", "", 0, 1, None], ids=repr)
def test_fallback_that_is_no_bool(wrong):
    async def main():
        pass

    with pytest.raises(TypeError, match="fallback must be True or False"):
        uringloop.new_event_loop(fallback=wrong)
    if sys.version_info < (3, 16):
        with pytest.raises(TypeError, match="fallback must be True or False"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            uringloop.IouringProactorEventLoopPolicy(fallback=wrong)
    coroutine = main()
    with pytest.raises(TypeError, match="fallback must be True or False"):
        uringloop.run(coroutine, fallback=wrong)
    coroutine.close()


def test_fallback_passes_the_other_arguments_on():
    loop = uringloop.new_event_loop("stdlib", sq_entries=8, fallback=True)
    try:
        assert loop._tier.__name__ == "uringloop.stdlib_transports"
        assert loop._proactor._ring.entries[0] == 8
    finally:
        loop.close()


# -- under a real filter --

BODIES = {
    "new_event_loop": """
        loop = uringloop.new_event_loop(fallback=True)
        print(type(loop).__name__, loop.run_until_complete(asyncio.sleep(0, "slept")))
        loop.close()
        """,
    "run": """
        async def main():
            return type(asyncio.get_running_loop()).__name__ + " " + await asyncio.sleep(0, "slept")
        print(uringloop.run(main(), fallback=True))
        """,
    "policy": """
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        asyncio.set_event_loop_policy(uringloop.IouringProactorEventLoopPolicy(fallback=True))
        async def main():
            return type(asyncio.get_running_loop()).__name__ + " " + await asyncio.sleep(0, "slept")
        print(asyncio.run(main()))
        """,
}


def run_under_filter(number, body):
    before = "import asyncio, uringloop, warnings\n" + INSTALL_FILTER.format(errno=number, first=425, last=427)
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", before + textwrap.dedent(body)],
        cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("how", [how for how in BODIES if how != "policy" or POLICIES])
def test_fallback_under_a_seccomp_filter(how, number):
    done = run_under_filter(number, BODIES[how])
    assert (done.returncode, done.stdout) == (0, "_UnixSelectorEventLoop slept\n"), done.stderr
    [line] = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert "RuntimeWarning: uringloop falls back to asyncio's selector loop (seccomp)" in line


@pytest.mark.parametrize("how", [how for how in BODIES if how != "policy" or POLICIES])
def test_no_fallback_unasked_under_a_seccomp_filter(how):
    done = run_under_filter(errno.EPERM, BODIES[how].replace(", fallback=True", "").replace("fallback=True", ""))
    assert (done.returncode, done.stdout) == (1, "")
    assert "IouringUnavailableError" in done.stderr and "seccomp filter refuses it" in done.stderr
    assert "falls back" not in done.stderr


@pytest.mark.skipif(not POLICIES, reason="Python 3.16 has no policies")
def test_policy_falls_back_only_where_it_must():
    program = """
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        policy = uringloop.IouringProactorEventLoopPolicy(fallback=True)
        loop = policy.new_event_loop()
        print(type(loop).__name__)
        loop.close()"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import uringloop, warnings\n" + textwrap.dedent(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "IouringProactorEventLoop\n", "")
