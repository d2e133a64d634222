"""Wheels: liburing inside, what is in them, what they are not made for, and the workflows that make them."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import uringloop

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

with open(ROOT / "pyproject.toml", "rb") as file:
    PROJECT = tomllib.load(file)

needs_readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="there is no readelf: apt install binutils")


def pkg_config(*arguments):
    if shutil.which("pkg-config") is None:
        pytest.skip("there is no pkg-config")
    return subprocess.run(["pkg-config", *arguments], capture_output=True, text=True).stdout.strip()


@pytest.fixture
def check_wheel():
    """wheels/check_wheel.py as a module."""
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "wheels/check_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- setup.py --


@pytest.fixture
def setup_py(tmp_path):
    """Run `setup.py build_ext --inplace` for a small module in the place of the one that links the core."""
    pytest.importorskip("setuptools")
    pytest.importorskip("Cython")
    source = tmp_path / "source"
    for name in ("cpp", "uringloop"):
        (source / name).mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "LICENSE.liburing"):
        shutil.copy(ROOT / name, source)
    (source / "uringloop/__init__.py").write_text('__version__ = "0"\n')
    (source / "uringloop/_overlapped.pyx").write_text(
        'cdef extern from "probe.hpp":\n    int probe()\n\ndef call():\n    return probe()\n')
    (source / "cpp/probe.hpp").write_text("int probe();\n")
    # A version is not needed: what is called is in every liburing, and no inline function.
    (source / "cpp/probe.cpp").write_text(
        '#include "probe.hpp"\n#include <liburing.h>\n'
        "int probe() { io_uring_free_probe(nullptr); return 42; }\n")

    def run(before="", **environment):
        program = f"import runpy, sys, sysconfig\nsys.argv = ['setup.py', 'build_ext', '--inplace']\n{before}\n" \
                  "runpy.run_path('setup.py', run_name='__main__')"
        left_out = ("CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "URINGLOOP_SANITIZE", "URINGLOOP_STATIC_LIBURING")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        return subprocess.run([sys.executable, "-c", program], cwd=source, env=kept | environment, capture_output=True,
                              text=True, timeout=100)

    run.module = source / f"uringloop/_overlapped{SUFFIX}"
    return run


def call(module):
    """The probe's result, in a process that has nothing else of liburing."""
    program = ("import importlib.util, sys; spec = importlib.util.spec_from_file_location('_overlapped', sys.argv[1]); "
               "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); print(module.call())")
    return subprocess.run([sys.executable, "-I", "-c", program, module], capture_output=True, text=True).stdout


@needs_readelf
def test_liburing_is_linked_statically_if_asked_for(setup_py, check_wheel):
    archive = Path(pkg_config("--variable=libdir", "liburing")) / "liburing.a"
    if not archive.exists():
        pytest.skip(f"there is no {archive}")
    # One after the other in one tree: what was built in the one way is not up to date for the other.
    for static in ("0", "1", ""):
        done = setup_py(URINGLOOP_STATIC_LIBURING=static)
        assert done.returncode == 0, done.stderr
        has_liburing = [name for name in check_wheel.needed(setup_py.module) if "uring" in name]
        assert bool(has_liburing) == (static != "1"), has_liburing
        assert call(setup_py.module) == "42\n"
        if static == "1":
            assert "io_uring_free_probe" not in check_wheel.exported(setup_py.module)


def test_no_liburing_to_link_statically(setup_py, tmp_path):
    (tmp_path / "liburing.pc").write_text(
        f"libdir={tmp_path}\nName: liburing\nVersion: 2.13\nDescription: shared only\nLibs: -L${{libdir}} -luring\n")
    pkg_config("--version")
    done = setup_py(URINGLOOP_STATIC_LIBURING="1", PKG_CONFIG_PATH=str(tmp_path))
    assert done.returncode == 1
    message = " ".join(done.stderr.split())
    assert message.startswith(
        f"uringloop can't be built: URINGLOOP_STATIC_LIBURING is set and there is no {tmp_path}/liburing.a. ")
    assert "Traceback" not in message and not setup_py.module.exists()


FREE_THREADED = """
original = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else original(name)
"""


def test_a_free_threaded_python_is_refused(setup_py):
    done = setup_py(before=FREE_THREADED)
    assert done.returncode == 1
    message = " ".join(done.stderr.split())
    assert message.startswith("uringloop can't be built for a free-threaded Python yet")
    # The reason, and what to do.
    assert "rely on the GIL" in message and "Use the usual build of Python" in message
    assert "Traceback" not in message and not setup_py.module.exists()


# -- what is in a wheel --


@pytest.fixture
def make_wheel(tmp_path):
    """Make an archive of what is named here, as an installed package holds it."""
    package = Path(uringloop.__file__).parent
    left_out = {"__pycache__"}

    def make(without=(), **more):
        path = tmp_path / "uringloop-0-cp3-cp3-linux.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for source in sorted(package.rglob("*")):
                name = str(source.relative_to(package.parent))
                kept = source.suffix in (".py", ".pyi", ".pyx", ".pxd", ".toml", ".typed") or name.endswith(SUFFIX)
                if (kept or source.name == "py.typed") and not left_out & set(source.parts) and name not in without:
                    archive.write(source, name)
            for name in ("LICENSE", "LICENSE.liburing"):
                archive.write(ROOT / name, f"uringloop-0.dist-info/licenses/{name}")
            for name, data in more.items():
                archive.writestr(name, data)
        return path

    return make


@needs_readelf
def test_what_is_wrong_in_a_wheel_is_found(make_wheel, check_wheel):
    complaints = check_wheel.complaints
    # This checkout's own build, which needs the liburing that is installed, unless it was built as wheels are.
    assert set(complaints(make_wheel())) <= {f"uringloop/_overlapped{SUFFIX} needs liburing.so.2"}
    for name in ("uringloop/py.typed", "uringloop/__init__.pyi"):
        assert f"{name} is not there" in complaints(make_wheel(without=[name]))
    assert "uringloop.streams is not there" in complaints(make_wheel(without=[f"uringloop/streams{SUFFIX}"]))
    for name in ("uringloop/_overlapped.cpp", "uringloop/core.hpp", "tests/conftest.py", "uringloop.libs/liburing.so.2"):
        assert f"{name} should not be there" in complaints(make_wheel(**{name: b""}))


# -- how wheels are made --


def test_the_pythons_are_those_that_are_supported():
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    supported = re.findall(r"Python :: (3\.\d+)", classifiers)
    assert PROJECT["tool"]["cibuildwheel"]["build"] == [f"cp{version.replace('.', '')}-*" for version in supported]


def test_a_liburing_of_another_checksum_is_refused(tmp_path):
    tarball = tmp_path / "liburing.tar.gz"
    tarball.write_bytes(b"not it")
    done = subprocess.run(["bash", ROOT / "wheels/build_liburing.sh", tmp_path / "prefix", tarball], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1
    assert "its SHA-256 is not " in done.stderr
    assert not (tmp_path / "prefix/lib").exists()


def need_to_lint(module):
    if importlib.util.find_spec(module) is None and os.environ.get("URINGLOOP_LINT") != "required":
        pytest.skip(f"{module} is not installed: pip install '.[lint]'")


def test_cibuildwheel_takes_its_options():
    """As its own schema has them."""
    need_to_lint("cibuildwheel")
    need_to_lint("check_jsonschema")
    # Imported here: only those who lint have them.
    import cibuildwheel
    import jsonschema

    schema = json.loads((Path(cibuildwheel.__file__).parent / "resources/cibuildwheel.schema.json").read_text())
    jsonschema.validate(PROJECT["tool"]["cibuildwheel"], schema)


def test_cibuildwheel_builds_what_is_meant():
    need_to_lint("cibuildwheel")
    for processor in ("x86_64", "aarch64"):
        done = subprocess.run([sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--archs", processor,
                               "--print-build-identifiers", ROOT], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) == {f"cp3{minor}-{libc}linux_{processor}" for minor in range(12, 16)
                                            for libc in ("many", "musl")}


def lint(program, *arguments):
    path = Path(sysconfig.get_path("scripts"), program)
    if not path.exists() and os.environ.get("URINGLOOP_LINT") != "required":
        pytest.skip(f"{program} is not installed: pip install '.[lint]'")
    done = subprocess.run([path, *arguments, *WORKFLOWS], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["sanitizers", "tests", "wheels"]


def test_workflows_are_what_github_takes():
    lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows")


def test_workflows_are_safe():
    lint("zizmor", "--offline", "--no-progress")


def test_workflows_name_files_that_are_there():
    """A script or a test that is renamed takes its workflow along."""
    for workflow in WORKFLOWS:
        named = re.findall(r"\b(?:tests|examples|wheels|docs)/\w+\.(?:sh|py|json)\b", workflow.read_text())
        assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_the_workflow_has_the_cibuildwheel_that_is_tested():
    [required] = [text for text in PROJECT["project"]["optional-dependencies"]["lint"] if text.startswith("cibuildwheel")]
    assert f" {required}\n" in (ROOT / ".github/workflows/wheels.yml").read_text()
