"""Build the extension modules; everything that is not a build step stands in pyproject.toml.

Two kinds of source, compiled apart, because they obey different rules:

* `cpp/*.cpp` is written by hand: with `URINGLOOP_WERROR=1` every warning in it is an error.
* the C++ that Cython generates from `uringloop/*.pyx` is nobody's to tidy: it gets no warning flags.

So the core is compiled to objects first, and the objects are linked into `uringloop._overlapped`, the
one module that touches `cpp/`. Objects and generated sources lie under `build/`, a directory for each
Python, so that several Pythons can build the same checkout in place, one beside the other.

Environment:

    URINGLOOP_WERROR=1                     -Wall -Wextra -Werror for cpp/
    URINGLOOP_SANITIZE=address,undefined   everything with these sanitizers
    URINGLOOP_STATIC_LIBURING=1            liburing.a as a part of the module, as wheels have it
    CXX, CFLAGS, CXXFLAGS, LDFLAGS         as every build takes them

The modules have no debug information, which would make them seven times as large. A `-g` in CFLAGS or
CXXFLAGS keeps it (`CFLAGS=-g pip install .`), and so do sanitizers and `build_ext --debug`.

A free-threaded Python is refused: see FREE_THREADED.
"""

import concurrent.futures
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LINKS_CORE = "uringloop._overlapped"
LIBURING_MINIMUM = "2.3"  # Debian 12's
# Compilers at a time, where `build_ext --parallel` says nothing else: each takes up to half a gigabyte.
MOST_COMPILERS = 4

# Why no module declares that it does without the GIL (Py_mod_gil). Built all the same, the first import would switch
# the GIL on for the whole process, which is not what anybody takes a free-threaded Python for.
FREE_THREADED = (
    "uringloop can't be built for a free-threaded Python yet (this one has Py_GIL_DISABLED). Its modules rely on the GIL "
    "where threads meet: what they found out about asyncio's classes and names, and whether anybody has patched them, is "
    "kept in variables that all loops share; call_soon_threadsafe(), stats() and close() in one thread touch the ready "
    "queue, the ring and the table of operations that another thread works on; and what is dropped may end in any thread. "
    "Use the usual build of Python, without the `t` in its name."
)

DIRECTIVES = {
    "language_level": "3",
    # Signatures come from binding=True, as inspect.signature wants them: a second copy in the
    # docstring would only stand in the way of side-by-side reading.
    "embedsignature": False,
    "binding": True,
    # What is in flight can't be pickled, and nothing of it is to look as if it could.
    "auto_pickle": False,
}


class Refusal(SystemExit):
    """Why nothing can be built; printed as its one paragraph, without a traceback."""

    def __init__(self, text):
        super().__init__("\n" + textwrap.fill(text, 96, break_long_words=False, break_on_hyphens=False) + "\n")


class MissingRequirement(Refusal):
    """A build requirement is not there."""

    def __init__(self, what, package):
        text = (
            f"uringloop can't be built: {what}. On Debian and Ubuntu `apt install {package}` brings it; "
            "everything that the build needs is brought by "
            "`apt install g++ liburing-dev pkg-config`, and Python's own headers."
        )
        super().__init__(text)


def cxx_command():
    """Return the C++ compiler as a list: $CXX, or the one that built this Python, or g++."""
    for command in (os.environ.get("CXX"), sysconfig.get_config_var("CXX"), "g++"):
        words = shlex.split(command or "")
        # A Python from elsewhere may name a compiler that only its builder had.
        if words and (shutil.which(words[0]) or command == os.environ.get("CXX")):
            return words
    return ["g++"]


def pkg_config(*arguments):
    command = os.environ.get("PKG_CONFIG", "pkg-config")
    if shutil.which(command) is None:
        raise MissingRequirement(f"there is no `{command}`, which finds liburing", "pkg-config")
    return subprocess.run([command, *arguments], capture_output=True, text=True)


def liburing(what):
    """Return pkg-config's flags of liburing as a list; `what` is --cflags or --libs."""
    return shlex.split(pkg_config(what, "liburing").stdout)


def is_asked_for(name):
    """Whether an environment variable that is 1 or 0 is set."""
    return os.environ.get(name, "") not in ("", "0")


def static_liburing():
    """Return the path of liburing.a, of the liburing that pkg-config finds."""
    archive = Path(pkg_config("--variable=libdir", "liburing").stdout.strip()) / "liburing.a"
    if not archive.exists():
        raise MissingRequirement(f"URINGLOOP_STATIC_LIBURING is set and there is no {archive}", "liburing-dev")
    return str(archive)


def check_requirements():
    """Raise Refusal for a Python that is not supported, or the first thing that the compiler would stumble over."""
    if not sys.platform.startswith("linux"):
        raise Refusal("uringloop can't be built: io_uring exists on Linux only.")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise Refusal(FREE_THREADED)
    compiler = cxx_command()
    if shutil.which(compiler[0]) is None:
        raise MissingRequirement(f"there is no C++ compiler (looked for `{compiler[0]}`)", "g++")
    if pkg_config("--exists", "liburing").returncode != 0:
        raise MissingRequirement("pkg-config finds no liburing with its headers", "liburing-dev")
    if pkg_config(f"--atleast-version={LIBURING_MINIMUM}", "liburing").returncode != 0:
        found = pkg_config("--modversion", "liburing").stdout.strip()
        raise MissingRequirement(f"liburing {LIBURING_MINIMUM} or newer is needed, found {found}", "liburing-dev")
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        version = "python{}.{}".format(*sys.version_info)
        raise MissingRequirement(
            f"the headers of {version} are missing ({headers / 'Python.h'})", f"{version}-dev"
        )


def wants_debug_information():
    """Whether the caller's flags ask for it; Python's own, which say -g on most systems, do not count."""
    words = shlex.split(os.environ.get("CFLAGS", "")) + shlex.split(os.environ.get("CXXFLAGS", ""))
    asking = [word for word in words if word.startswith("-g")]
    return bool(asking) and asking[-1] != "-g0"


class BuildExt(build_ext):
    """Cythonize, compile cpp/ once with its own flags, then build the extensions as usual."""

    def run(self):
        check_requirements()
        self.prepare()
        super().run()

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = min(len(os.sched_getaffinity(0)), MOST_COMPILERS)

    def prepare(self):
        # Here: an sdist and the metadata need no Cython.
        import Cython
        from Cython.Build import cythonize

        base = Path(self.get_finalized_command("build").build_base)
        self.work = base / sys.implementation.cache_tag
        # The abiflags keep a debug or free-threaded build apart from the usual one of that version.
        self.work = self.work.with_name(self.work.name + getattr(sys, "abiflags", ""))
        self.work.mkdir(parents=True, exist_ok=True)
        if self.inplace:
            # An editable install gets temporary directories, where nothing is ever up to date.
            self.build_temp = str(self.work / "temp")
            self.build_lib = str(self.work / "lib")

        sanitize = os.environ.get("URINGLOOP_SANITIZE", "")
        werror = is_asked_for("URINGLOOP_WERROR")
        # (-fno-plt: a call of the interpreter is one jump, not two.)
        self.both = ["-std=c++17", "-O2", "-fno-plt", "-fvisibility=hidden"]
        self.core = ["-Wall", "-Wextra", "-Werror"] if werror else []
        self.link = []
        self.liburing = liburing("--libs")
        if is_asked_for("URINGLOOP_STATIC_LIBURING"):
            # Its functions stay the module's own: another liburing in the process must not take their place.
            self.liburing = [static_liburing(), "-Wl,--exclude-libs,liburing.a"]
        if sanitize:
            self.both += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
            self.both += ["-g", "-UNDEBUG"]  # asserts as well
            self.link += [f"-fsanitize={sanitize}"]
        elif not (self.debug or wants_debug_information()):
            # Behind Python's own flags, which it overrides.
            self.both += ["-g0"]
            self.link += ["-Wl,--strip-debug"]

        # What was built with other tools or flags is not up to date, whatever its time says. Two notes, because
        # the core's objects and the modules' lie in different directories.
        environment = [os.environ.get(name, "") for name in ("CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS")]
        versions = [sys.version, Cython.__version__, pkg_config("--modversion", "liburing").stdout.strip()]
        self.flags = "\n".join([
            *versions, str(DIRECTIVES), *cxx_command(), *self.both, *self.core, *self.link, *self.liburing, *environment])
        self.core_note = self.work / "flags"
        self.temp_note = Path(self.build_temp) / "flags"
        self.core_is_stale = bool(self.force) or not self.is_noted(self.core_note)
        if not self.is_noted(self.temp_note):
            self.force = True

        for extension in self.extensions:
            extension.extra_compile_args += self.both + liburing("--cflags")
            extension.extra_link_args += self.link
        modules = cythonize(
            self.extensions,
            build_dir=str(self.work / "cython"),
            compiler_directives=DIRECTIVES,
            force=bool(self.force) or self.declarations_are_newer(),
            quiet=not self.verbose,
        )
        # cythonize returns copies, which lack what setuptools put on the originals.
        for original, made in zip(sorted(self.extensions, key=lambda e: e.name), sorted(modules, key=lambda e: e.name)):
            original.sources = made.sources
            original.depends = sorted({*original.depends, *made.depends})

    def declarations_are_newer(self):
        """Whether a .pxd has changed since anything was generated: cythonize follows no relative cimport."""
        generated = [path.stat().st_mtime for path in (self.work / "cython").glob("uringloop/*.cpp")]
        return any(path.stat().st_mtime > min(generated, default=0) for path in Path("uringloop").glob("*.pxd"))

    def is_noted(self, note):
        return note.exists() and note.read_text() == self.flags

    def build_extensions(self):
        # Older setuptools compile C++ with the C compiler's command, which needs not be g++'s sibling.
        compiler = cxx_command()
        self.compiler.set_executables(
            compiler_so=[*compiler, *self.compiler.compiler_so[1:]],
            compiler_so_cxx=[*compiler, *getattr(self.compiler, "compiler_so_cxx", self.compiler.compiler_so)[1:]],
        )
        # No note while objects of both kinds may lie side by side: an interrupted build starts anew.
        for note in (self.core_note, self.temp_note):
            note.unlink(missing_ok=True)
        objects = self.build_core()
        for extension in self.extensions:
            if extension.name == LINKS_CORE:
                extension.extra_objects += objects
                extension.extra_link_args += self.liburing
                # (A liburing.a is newer than the module when it was built anew.)
                extension.depends += objects + [word for word in self.liburing if word.endswith(".a") and word[0] == "/"]
        super().build_extensions()
        for note in (self.core_note, self.temp_note):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(self.flags)

    def build_core(self):
        """Compile each cpp/*.cpp that is older than itself or any header; return the objects."""
        sources = sorted(Path("cpp").glob("*.cpp"))
        newest_header = max((h.stat().st_mtime for h in Path("cpp").glob("*.hpp")), default=0)
        flags = self.both + self.core + liburing("--cflags")

        def compile_source(source):
            target = self.work / source.with_suffix(".o")
            newest = max(source.stat().st_mtime, newest_header)
            if self.core_is_stale or not target.exists() or target.stat().st_mtime < newest:
                self.compiler.compile([str(source)], output_dir=str(self.work), include_dirs=["cpp"], extra_postargs=flags)
            return str(target)

        with concurrent.futures.ThreadPoolExecutor(max(1, self.parallel)) as pool:
            return list(pool.map(compile_source, sources))


def extensions():
    headers = sorted(str(path) for path in Path("cpp").glob("*.hpp"))
    return [
        Extension(
            f"uringloop.{path.stem}",
            [str(path)],
            language="c++",
            include_dirs=["cpp"],
            depends=headers,
        )
        for path in sorted(Path("uringloop").glob("*.pyx"))
    ]


os.chdir(ROOT)
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
