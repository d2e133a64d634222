#!/usr/bin/env python3
"""Plant defects one by one, and see that the simulator finds each.

    python tests/planted.py                          # all of tests/planted/
    python tests/planted.py short-send-dropped       # some
    python tests/planted.py --programs 50000         # look for longer

A defect is a patch of cpp/ or uringloop/, one that somebody could make in good faith.  Nothing here was written for
it: it has to be found by random programs on the simulated kernel.  For one of cpp/ those are the C++ ones, in
tests/cpp/test_proactor_random.cpp; for one of uringloop/ those of tests/random_loops.py.  Seeds go from 1 on, so that
the seed that fails is the number of programs that it took.  Without a patch the same programs must pass.

The checkout stays as it is: patches are applied to a copy.  The exit status is 0 only when all were found.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sanitizers

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PATCHES = TESTS / "planted"

# Of one run, in seconds: a defect may keep a program from ever ending.
PATIENCE = 120


def fail(text):
    print(f"planted: {text}", file=sys.stderr)
    raise SystemExit(1)


def changes(patch):
    """{file, relative to the checkout: [(old text, new text), ...]} of a unified diff."""
    files, old, new = {}, None, None
    for line in patch.read_text().splitlines(keepends=True):
        if line.startswith("--- a/"):
            old = None
        elif line.startswith("+++ b/"):
            hunks = files[line[6:].strip()] = []
        elif line.startswith("@@"):
            old, new = [], []
            hunks.append((old, new))
        elif old is not None:
            if line[0] in " -":
                old.append(line[1:])
            if line[0] in " +":
                new.append(line[1:])
    return {name: [("".join(old), "".join(new)) for old, new in hunks] for name, hunks in files.items()}


def patched(patch):
    """{file: its text with the patch}; ValueError when the patch does not apply, at one place each."""
    texts = {}
    for name, hunks in changes(patch).items():
        text = (ROOT / name).read_text()
        for old, new in hunks:
            if text.count(old) != 1:
                raise ValueError(f"{patch.name}: in {name} there are {text.count(old)} places for\n{old}")
            text = text.replace(old, new)
        texts[name] = text
    return texts


class CppPrograms:
    """tests/cpp/test_proactor_random.cpp, with a copy of cpp/."""

    default = 10000

    def __init__(self, directory):
        self.directory = directory
        shutil.copytree(ROOT / "cpp", directory / "cpp")
        shutil.copytree(TESTS / "cpp", directory / "tests/cpp")
        # Compiling the other tests would take most of the time.
        for path in (directory / "tests/cpp").glob("test_*.cpp"):
            if path.name != "test_proactor_random.cpp":
                path.unlink()

    def build(self):
        run_or_fail([sys.executable, self.directory / "tests/cpp/build.py", "plain", self.directory / "build"])

    def run(self, count):
        return run([self.directory / "build/tests", "--no-breaks", "--no-colors", "--no-version"],
                   os.environ | {"URINGLOOP_SEEDS": str(count)})


class LoopPrograms:
    """tests/random_loops.py, on a package that is built from a copy of the sources."""

    default = 1000

    def __init__(self, directory):
        self.directory = directory
        sanitizers.copy_sources(directory)
        self.target = directory / "package"

    def build(self):
        sanitizers.install(self.directory, self.target)

    def run(self, count):
        return run([sys.executable, TESTS / "random_loops.py", "--programs", str(count)],
                   os.environ | {"PYTHONPATH": str(self.target)})


def run_or_fail(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        fail(f"the build failed:\n{done.stdout}")


def run(command, environment):
    """Run programs; None when all pass, else (the seed that failed, what was wrong)."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              env=environment, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        fail(f"the programs had not ended after {PATIENCE} s\n{(error.stdout or b'').decode(errors='replace')}")
    if done.returncode == 0:
        return None
    # A report of the programs' own, or doctest's of a crash.
    found = re.search(r"ERROR: seed (\d+): (.*)", done.stdout) or re.search(
        r"(?s)FATAL ERROR: (?=.*?seed := (\d+))([^\n]*)", done.stdout)
    if found is None:
        fail(f"failed in a way that is not understood:\n{done.stdout}")
    return int(found[1]), found[2]


def plant(programs, patches, count):
    """Return the names of the patches that `programs` do not find."""
    missed = []
    count = count or programs.default
    programs.build()
    if wrong := programs.run(count):
        fail(f"without any patch, seed {wrong[0]}: {wrong[1]}")
    print(f"nothing planted: {count} of {type(programs).__name__} pass", flush=True)
    for patch in patches:
        try:
            texts = patched(patch)
        except ValueError as error:
            fail(error)
        for name, text in texts.items():
            (programs.directory / name).write_text(text)
        programs.build()
        started = time.monotonic()
        wrong = programs.run(count)
        if wrong is None:
            missed.append(patch.stem)
            print(f"{patch.stem}: NOT FOUND by {count} programs", flush=True)
        else:
            print(f"{patch.stem}: seed {wrong[0]}, {time.monotonic() - started:.1f} s: {wrong[1]}", flush=True)
        for name in texts:
            # With the old time it would seem older than the patched one's object.
            (programs.directory / name).write_text((ROOT / name).read_text())
    return missed


def main():
    parser = argparse.ArgumentParser(description="Plant defects, and see that the simulator finds each.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a patch in tests/planted/; default: all")
    parser.add_argument("--programs", type=int, help="the most that are run for one defect")
    arguments = parser.parse_args()
    patches = [PATCHES / f"{Path(name).name.removesuffix('.patch')}.patch" for name in arguments.names]
    patches = patches or sorted(PATCHES.glob("*.patch"))
    for patch in patches:
        if not patch.exists():
            fail(f"there is no {patch}")
    of_loops = [patch for patch in patches if any(name.startswith("uringloop/") for name in changes(patch))]

    missed = []
    for kind, its_patches in (
        (CppPrograms, [patch for patch in patches if patch not in of_loops]),
        (LoopPrograms, of_loops),
    ):
        if its_patches:
            with tempfile.TemporaryDirectory(prefix="uringloop-planted-") as temporary:
                missed += plant(kind(Path(temporary)), its_patches, arguments.programs)
    if missed:
        fail(f"not found: {', '.join(missed)}")
    print(f"{len(patches)} of {len(patches)} found")


if __name__ == "__main__":
    main()
