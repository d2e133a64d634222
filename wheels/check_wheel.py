#!/usr/bin/env python3
"""Look into wheels: what must be in them is there, and nothing else is.

    python wheels/check_wheel.py WHEEL...                        what each holds
    python wheels/check_wheel.py WHEEL --quick-start ECHO.PY     ... and what it does in a bare environment

It is made for wheels with liburing inside (URINGLOOP_STATIC_LIBURING=1). `--quick-start` installs the wheel, without any
index, into a fresh environment of the Python that this is started with, and runs the README's Quick Start there: nothing on
PATH but that environment, no Cython, no compiler and no liburing. As root these are hidden in a mount namespace, if they are
on the machine. Otherwise it is only looked at that the process has no liburing mapped.

The exit status is 0 if all is as it should be.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path.stem for path in (ROOT / "uringloop").glob("*.pyx"))
SOURCES = {str(path.relative_to(ROOT)) for pattern in ("*.py", "*.pyi", "*.pyx", "*.pxd", "*.toml", "py.typed")
           for path in (ROOT / "uringloop").rglob(pattern)}
# Shared libraries that no system for which the wheel is named lacks, and those that auditwheel brings along (with a
# hash in the name).
NEEDED = re.compile(r"lib(c|m|pthread|dl|rt|stdc\+\+|gcc_s)(-[0-9a-f]{8})?\.so\.[0-9.]+|libc\.musl-\w+\.so\.1|ld-linux\S+")
BROUGHT = re.compile(r"uringloop\.libs/lib(stdc\+\+|gcc_s)-[0-9a-f]{8}\.so\.[0-9.]+")
# What builds something, and what is found at run time where liburing is installed.
HIDDEN = ("/usr/bin/*gcc*", "/usr/bin/*g++*", "/usr/bin/cc", "/usr/bin/c++", "/usr/bin/clang*", "/usr/bin/ld",
          "/usr/bin/pkg-config", "/usr/lib/*/liburing.so*", "/usr/lib*/liburing.so*", "/usr/local/lib/liburing.so*")


def needed(library):
    """Return the names of the libraries that the dynamic linker is to load for it."""
    done = subprocess.run(["readelf", "--wide", "--dynamic", library], capture_output=True, text=True, check=True)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)


def exported(library):
    """Return the names that the library defines for others."""
    done = subprocess.run(["readelf", "--wide", "--dyn-syms", library], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[7] for row in rows if len(row) > 7 and row[0][:-1].isdigit() and row[6] != "UND"}


def complaints(wheel):
    """Yield a sentence for each thing that is wrong."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        libraries = {name for name in names if re.fullmatch(r"uringloop/\w+\.\S+\.so", name)}
        for module in MODULES:
            if not any(name.startswith(f"uringloop/{module}.") for name in libraries):
                yield f"uringloop.{module} is not there"
        for name in sorted(SOURCES - names):
            yield f"{name} is not there"
        rest = {name for name in names - SOURCES - libraries if not re.match(r"uringloop-[^/]+\.dist-info/", name)}
        for name in sorted(rest):
            if not BROUGHT.fullmatch(name):
                yield f"{name} should not be there"
        for name in ("LICENSE", "LICENSE.liburing"):
            if not any(found.endswith(f".dist-info/licenses/{name}") for found in names):
                yield f"{name} is not there"
        for name in sorted(libraries):
            path = archive.extract(name, scratch)
            for library in needed(path):
                if not NEEDED.fullmatch(library):
                    yield f"{name} needs {library}"
            for function in sorted(symbol for symbol in exported(path) if "io_uring_" in symbol):
                yield f"{name} exports {function}"


def bare(python, *arguments):
    """Return a command that runs Python with nothing else on PATH, and as little as possible on the machine."""
    command = ["env", "-i", f"PATH={Path(python).parent}", str(python), *map(str, arguments)]
    if os.geteuid() == 0 and shutil.which("unshare") and not subprocess.run(["unshare", "-m", "true"]).returncode:
        hide = f'for found in {" ".join(HIDDEN)}; do [ ! -f "$found" ] || mount --bind /dev/null "$found" || exit; done'
        command = ["unshare", "-m", "sh", "-c", f"{hide}; exec {shlex.join(command)}"]
    return command


BARE = r"""
import ctypes.util, importlib.util, os, shutil, sys
import uringloop
assert os.path.realpath(uringloop.__file__).startswith(os.path.realpath(sys.prefix) + os.sep), uringloop.__file__
found = [name for name in ("cc", "gcc", "g++", "ld", "pkg-config") if shutil.which(name)]
found += [name for name in ("Cython", "setuptools") if importlib.util.find_spec(name)]
assert not found, found
uringloop.new_event_loop().close()
with open("/proc/self/maps") as maps:
    assert "liburing" not in maps.read().replace(sys.prefix, "")
if HIDES:
    try:
        ctypes.CDLL("liburing.so.2")
    except OSError:
        pass
    else:
        raise AssertionError("liburing.so.2 is there all the same")
"""


def run_quick_start(wheel, program):
    """Raise CalledProcessError unless the program runs where only the wheel has been installed."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = Path(scratch) / "bare"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = environment / "bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel],
                       check=True)
        check = bare(python, "-c", "")
        hides = check[0] == "unshare"
        subprocess.run(bare(python, "-c", BARE.replace("HIDES", str(hides))), cwd=scratch, check=True)
        subprocess.run(bare(python, "-m", "uringloop", "doctor"), cwd=scratch, check=True)
        subprocess.run(bare(python, "-W", "error::ResourceWarning", Path(program).resolve()), cwd=scratch, check=True,
                       timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", metavar="WHEEL", type=Path)
    parser.add_argument("--quick-start", metavar="ECHO.PY", type=Path)
    options = parser.parse_args()
    status = 0
    for wheel in options.wheels:
        found = list(complaints(wheel))
        for sentence in found:
            print(f"{wheel.name}: {sentence}", file=sys.stderr)
        status |= bool(found)
        if not found:
            print(f"{wheel.name}: as it should be")
            if options.quick_start:
                run_quick_start(wheel.resolve(), options.quick_start)
    return status


if __name__ == "__main__":
    sys.exit(main())
