"""Build the C++ tests: cpp/*.cpp and tests/cpp/*.cpp into one program; or the simulated kernel as a module.

    python tests/cpp/build.py plain|sanitized DIRECTORY             the program
    python tests/cpp/build.py threads DIRECTORY                     of test_threads.cpp alone, with ThreadSanitizer
    python tests/cpp/build.py module|sanitized-module DIRECTORY     the module, for the Python that runs this

Objects and the product lie in DIRECTORY; what is newer than all that it was made of stays. The last
line of output is the product's path. $CXX chooses the compiler; -luring is not there on purpose:
cpp/kernel.hpp says that nothing of the shared library is needed.
"""

import concurrent.futures
import fcntl
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parent.parent / "cpp"
JOBS = 2
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-g", "-pthread", f"-I{CORE}"]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# Of the core it has a copy of kernel.cpp only, which nobody else sees.
MODULE = ["-fPIC", "-fvisibility=hidden", f"-I{HERE}", f"-I{sysconfig.get_path('include')}"]
VARIANTS = {
    "plain": [],
    "sanitized": SANITIZED,
    "threads": ["-fsanitize=thread", "-fno-omit-frame-pointer"],
    "module": MODULE,
    "sanitized-module": MODULE + SANITIZED,
}
# Test cases are compiled more often than they run; the optimizer takes four times as long for them.
UNOPTIMIZED = {"test_proactor.cpp", "test_proactor_real.cpp", "test_ring.cpp", "test_operation_table.cpp"}


def is_current(target, dependencies):
    """True when `target` is newer than all that its dependency file names."""
    try:
        words = dependencies.read_text().replace("\\\n", " ").split()
        made = target.stat().st_mtime
        return all(Path(word).stat().st_mtime < made for word in words[1:])
    except OSError:
        return False


def compile_source(source, directory, command):
    """Return the object, and what the compiler said if it failed."""
    target = directory / (source.stem + ".o")
    dependencies = target.with_suffix(".d")
    if is_current(target, dependencies):
        return target, None
    optimize = "-O0" if source.name in UNOPTIMIZED else "-O1"
    temporary = target.with_suffix(".new")
    done = subprocess.run(
        [*command, optimize, "-MMD", "-MF", dependencies, "-MT", target, "-c", source, "-o", temporary],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return target, done.stderr
    temporary.replace(target)
    return target, done.stderr or None


def build(variant, directory):
    """Return the product's path; SystemExit with the compiler's words."""
    cflags = subprocess.run(["pkg-config", "--cflags", "liburing"], capture_output=True, text=True)
    if cflags.returncode != 0:
        raise SystemExit(f"{cflags.stderr}\n`apt install liburing-dev pkg-config` brings liburing")
    command = [*shlex.split(os.environ.get("CXX", "g++")), *FLAGS, *shlex.split(cflags.stdout), *VARIANTS[variant]]
    if "module" in variant:
        sources = [CORE / "kernel.cpp", *sorted(HERE.glob("simulated_*.cpp")), *sorted(HERE.glob("module/*.cpp"))]
        name, link = "simulated_kernel" + sysconfig.get_config_var("EXT_SUFFIX"), ["-shared"]
    else:
        tests = [HERE / "main.cpp", HERE / "test_threads.cpp"] if variant == "threads" else sorted(HERE.glob("*.cpp"))
        sources = [*sorted(CORE.glob("*.cpp")), *tests]
        name, link = "tests", []
    product = directory / name
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        # Another Python's test run may build the same.
        fcntl.flock(lock, fcntl.LOCK_EX)
        remember_command(directory, command, product)
        with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
            # The longest first, so that the last one to end is a short one.
            sources.sort(key=lambda source: -source.stat().st_size)
            results = list(pool.map(lambda source: compile_source(source, directory, command), sources))
        errors = [text for target, text in results if text]
        if errors:
            hint = "\n`apt install doctest-dev` brings doctest" if "doctest.h: No such" in errors[0] else ""
            raise SystemExit("\n".join(errors) + hint)
        objects = [target for target, text in results]
        if not product.exists() or any(each.stat().st_mtime > product.stat().st_mtime for each in objects):
            temporary = directory / "product.new"
            done = subprocess.run([*command, *objects, *link, "-o", temporary], capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(done.stderr)
            temporary.replace(product)
    return product


def remember_command(directory, command, product):
    """Forget all objects that another command made."""
    made_by = directory / "command"
    text = shlex.join(command)
    if not made_by.exists() or made_by.read_text() != text:
        for name in [*directory.glob("*.o"), product]:
            name.unlink(missing_ok=True)
        made_by.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in VARIANTS:
        raise SystemExit(__doc__)
    print(build(sys.argv[1], Path(sys.argv[2])))
