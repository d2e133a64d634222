#!/usr/bin/env python3
"""Run test modules on an extension that is built with AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/sanitizers.py                                  # all that are suited
    python tests/sanitizers.py test_sock_methods.py -k closed   # some; options go to pytest
    python tests/sanitizers.py --directory /tmp/sanitized       # keep the build for the next time

The interpreter is the one that this is started with; it needs pytest, the test's other requirements and g++ with its
sanitizers.  The sources are copied and built in a temporary directory: the checkout, and what is installed, stay as
they are.  The exit status is 0 only when every test passed and no sanitizer has said anything.

Python itself is not instrumented.  So its allocator is malloc here, which ASan replaces: otherwise a buffer of a
dead bytes object would be a living part of an arena.  Leaks are not looked for, since an interpreter that ends leaves
thousands; that operations and buffers are given back is what conftest.py checks.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SOURCES = ("cpp", "uringloop", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "LICENSE.liburing")
NOT_SOURCES = ("*.so", "__pycache__", "_overlapped.cpp", "_sockaddr.cpp", "uring_events.cpp")

# libstdc++ as well: ASan looks for its __cxa_throw when it starts, and Python itself does not bring it.
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")

# Modules that the default leaves out, and why.
UNSUITED = {
    "test_conformance.py": "CPython's tests, which check memory use and timing",
    "test_cpp.py": "builds with sanitizers of its own",
    "test_mirror.py": "reads sources",
    "test_side_by_side.py": "reads sources",
    "test_side_by_side_html.py": "reads sources",
    "test_setup.py": "runs compilers",
    "test_examples.py": "installs and starts programs of its own",
}

OPTIONS = {
    "ASAN_OPTIONS": {
        "detect_leaks": 0,
        "halt_on_error": 1,
        # A length of 2**62 is a MemoryError, and no error of the program.
        "allocator_may_return_null": 1,
        # Freed memory is kept from being used again up to so much: tests free some of 2 GiB.
        "quarantine_size_mb": 64,
        "detect_stack_use_after_return": 1,
    },
    "UBSAN_OPTIONS": {"halt_on_error": 1, "print_stacktrace": 1},
}

# What a report begins with. A failed allocation is a warning of ASan's, and no report.
SIGNS = ("ERROR: AddressSanitizer", "runtime error: ", "AddressSanitizer: CHECK failed")


def fail(text):
    print(f"sanitizers: {text}", file=sys.stderr)
    raise SystemExit(1)


def runtimes():
    """The paths of the sanitizers' runtimes, as LD_PRELOAD takes them."""
    if shutil.which("g++") is None:
        fail("there is no g++, whose sanitizers are used: apt install g++")
    found = []
    for name in RUNTIMES:
        path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        # g++ gives back the bare name of what it has not.
        if not os.path.isabs(path):
            fail(f"g++ has no {name}: apt install libgcc-{gcc_version()}-dev libstdc++-{gcc_version()}-dev")
        found.append(os.path.realpath(path))
    return ":".join(found)


def gcc_version():
    return subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True).stdout.strip().partition(".")[0]


def copy_sources(source):
    """Copy to `source` what a build needs."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            # copytree keeps times: what has not changed is not compiled again.
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*NOT_SOURCES), dirs_exist_ok=True)
        else:
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)


def install(source, target, **environment):
    """Build what is in `source`, and install it in `target`, a place for PYTHONPATH."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--upgrade", "--target", str(target), str(source)]
    if all(importlib.util.find_spec(name) for name in ("setuptools", "Cython")):
        command.insert(4, "--no-build-isolation")
    if subprocess.run(command, env=os.environ | environment).returncode != 0:
        fail("the build failed")


def build(directory):
    """Build the package with sanitizers in `directory`, and return its place for PYTHONPATH."""
    copy_sources(directory / "source")
    print("sanitizers: building, which takes a minute or two", flush=True)
    # Python's own flags have -fwrapv, with which no signed overflow is an error.
    flags = {name: f"{os.environ.get(name, '')} -fno-wrapv" for name in ("CFLAGS", "CXXFLAGS")}
    install(directory / "source", directory / "package", URINGLOOP_SANITIZE="address,undefined", **flags)
    return directory / "package"


def environment(package):
    options = {name: ":".join(f"{key}={value}" for key, value in values.items()) for name, values in OPTIONS.items()}
    return os.environ | options | {
        "LD_PRELOAD": runtimes(),
        "PYTHONMALLOC": "malloc",
        # For what tests build themselves: the simulated kernel.
        "URINGLOOP_SANITIZE": "address,undefined",
        "PYTHONPATH": str(package),
        # Neither the current directory nor that of a script comes before the package.
        "PYTHONSAFEPATH": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def check(package, env):
    """See that Python starts, and that it is the sanitized extension that tests will import."""
    program = "import uringloop._overlapped as module; print(module.__file__)"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"the sanitized extension can't be imported:\n{done.stderr}")
    if not done.stdout.startswith(str(package)):
        fail(f"Python imports {done.stdout.strip()} and not what was built in {package}")


def run(command, env, directory):
    """Run a command whose stderr is passed on; return its status and the number of reports in there."""
    reports = 0
    with subprocess.Popen(
        command, env=env, cwd=directory, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        for line in process.stderr:
            sys.stderr.write(line)
            reports += any(sign in line for sign in SIGNS)
    return process.returncode, reports


def find_module(name):
    """The path of a test module that is named from here, from the checkout or by its file name alone."""
    if name.startswith("-") or not name.endswith(".py"):
        return None
    for path in (Path(name), ROOT / name, TESTS / name):
        if path.exists():
            return path.resolve()
    fail(f"there is no {name}")


def main():
    parser = argparse.ArgumentParser(
        description="Run test modules on an extension built with sanitizers.", allow_abbrev=False,
        usage="%(prog)s [-h] [--directory DIRECTORY] [MODULE ...] [option of pytest ...]",
        epilog="Without a module: all that are suited.")
    parser.add_argument("--directory", type=Path, help="where to build, and to leave it; default: a temporary one")
    # The others in their order: only pytest knows which of its options has a value.
    arguments, others = parser.parse_known_args()
    if importlib.util.find_spec("pytest") is None:
        fail(f"{sys.executable} has no pytest: pip install -e '.[test]'")
    others = [find_module(name) or name for name in others]
    if not any(isinstance(other, Path) for other in others):
        others += [path for path in sorted(TESTS.glob("test_*.py")) if path.name not in UNSUITED]

    with tempfile.TemporaryDirectory(prefix="uringloop-sanitized-") as temporary:
        directory = (arguments.directory or Path(temporary)).resolve()
        # Each Python has extensions of its own.
        directory /= sys.implementation.cache_tag
        package = build(directory)
        env = environment(package)
        check(package, env)
        # --capture=sys: a report goes to descriptor 2, and would end with the process in pytest's file for it.
        command = [sys.executable, "-m", "pytest", "--capture=sys", "-p", "no:cacheprovider", "-o", "timeout=600",
                   "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, *others]
        status, reports = run(command, env, temporary)
    if reports:
        fail(f"{reports} report(s) of a sanitizer, above")
    if status != 0:
        fail(f"no sanitizer has said anything, but pytest ended with {status}")
    print("sanitizers: all passed, and no report")


if __name__ == "__main__":
    main()
