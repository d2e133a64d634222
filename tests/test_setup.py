"""setup.py: what is missing is said in one paragraph with the package to install, before any compiler runs.

And what is built, and what an import finds where nothing is.
"""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import uringloop
from uringloop import unbuilt
from uringloop.__main__ import main as commands

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def build(tmp_path):
    """Run `setup.py build_ext` in a copy, with only the named programs on PATH."""
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "LICENSE.liburing"):
        shutil.copy(ROOT / name, source)
    for name in ("cpp", "uringloop"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    programs = tmp_path / "bin"
    programs.mkdir()

    left_out = ("CXX", "CC", "PKG_CONFIG", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "URINGLOOP_SANITIZE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}

    def run(*names, **environment):
        for name in names:
            (programs / name).symlink_to(shutil.which(name))
        return subprocess.run(
            [sys.executable, "setup.py", "build_ext"],
            cwd=source,
            env={**kept, "PATH": str(programs), **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )

    run.source, run.environment = source, kept
    return run


def check_paragraph(result, what, package):
    assert result.returncode == 1
    message = " ".join(result.stderr.split())
    assert message.startswith("uringloop can't be built: ")
    assert what in message
    assert f"`apt install {package}`" in message
    assert "`apt install g++ liburing-dev pkg-config`" in message
    assert "Traceback" not in result.stderr


def test_build_without_a_compiler(build):
    check_paragraph(build("pkg-config"), "there is no C++ compiler", "g++")


def test_build_without_pkg_config(build):
    check_paragraph(build("g++"), "there is no `pkg-config`", "pkg-config")


def test_build_without_liburing(build, tmp_path):
    result = build("g++", "pkg-config", PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    check_paragraph(result, "pkg-config finds no liburing", "liburing-dev")


def test_build_with_an_old_liburing(build, tmp_path):
    (tmp_path / "liburing.pc").write_text("Name: liburing\nVersion: 2.0\nDescription: old\nLibs: -luring\n")
    result = build("g++", "pkg-config", PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    check_paragraph(result, "liburing 2.3 or newer is needed, found 2.0", "liburing-dev")


@pytest.mark.parametrize("flags, debug", [
    ({}, False), ({"CFLAGS": "-O1 -g"}, True), ({"CFLAGS": "-g -g0"}, False), ({"CXXFLAGS": "-ggdb"}, True)])
def test_modules_have_no_debug_information_unless_it_is_asked_for(build, flags, debug):
    """Python's own flags ask for it on most systems; only the caller's count."""
    # The smallest module alone, which needs nothing of the core: all of them take long.
    for source in (build.source / "cpp").glob("*.cpp"):
        source.unlink()
    program = """if True:
        import runpy, sys, setuptools
        sys.argv = ["setup.py", "build_ext"]
        original = setuptools.setup
        def setup(ext_modules, **rest):
            original(ext_modules=[e for e in ext_modules if e.name == "uringloop._sockaddr"], **rest)
        setuptools.setup = setup
        runpy.run_path("setup.py", run_name="__main__")"""
    done = subprocess.run([sys.executable, "-c", program], cwd=build.source, env=build.environment | flags,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    [module] = (build.source / "build").glob("lib*/uringloop/_sockaddr*.so")
    data = module.read_bytes()
    assert [name in data for name in (b".debug_info", b".debug_line")] == [debug, debug]
    # The names of functions stay, for profilers.
    assert b".symtab" in data


def test_version_stands_in_one_place():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "uringloop.__version__"}
    assert importlib.metadata.version("uringloop") == uringloop.__version__


# -- the import of sources that are not built --


def copy_tree(target):
    """The checkout as it is cloned, at `target`."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "__init__.py", target)
    shutil.copytree(ROOT / "uringloop", target / "uringloop", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return target


def import_in(directory, *path, program="print(uringloop.__file__, uringloop.run.__name__)"):
    """Import it in a directory, with more directories behind it on sys.path."""
    # Isolated from the editable install, whose finder would have the built one.
    begin = f"import sys; sys.path[:0] = ['', *{list(map(str, path))!r}]; import uringloop; "
    return subprocess.run([sys.executable, "-I", "-S", "-c", begin + program], cwd=directory, capture_output=True,
                          text=True, timeout=60)


def test_version_of_the_command(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        commands(["--version"])
    assert capsys.readouterr().out == f"uringloop {uringloop.__version__}\n"


@pytest.fixture(params=["site", "home/uringloop/.venv/lib"])
def installed(request, tmp_path):
    """A directory where a built uringloop is: elsewhere, or in an environment in the checkout."""
    shutil.copytree(ROOT / "uringloop", tmp_path / request.param / "uringloop")
    return tmp_path / request.param


@pytest.mark.parametrize("where", ["", ".."], ids=["in the checkout", "above it"])
def test_import_of_an_unbuilt_tree_says_so(tmp_path, where):
    tree = copy_tree(tmp_path / "home" / "uringloop")
    result = import_in(tree / where)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install ." in last and "pip install -e ." in last
    # One error, not two.
    assert "During handling" not in result.stderr


def test_import_by_an_old_python_says_so(tmp_path):
    """Not what to install: a Debian 12's `python3` is one."""
    tree = copy_tree(tmp_path / "uringloop")
    program = ("import sys, collections; version = collections.namedtuple('V', 'major minor micro')(3, 11, 2); "
               "sys.version_info = version; sys.path.insert(0, ''); import uringloop")
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], cwd=tree, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert f"uringloop needs Python {least} or later, and this is 3.11: " in result.stderr.splitlines()[-1]


def test_import_in_a_frozen_program_says_so(tmp_path):
    tree = copy_tree(tmp_path / "uringloop")
    program = "import sys; sys.path.insert(0, ''); sys.frozen = True; import uringloop"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], cwd=tree, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "--collect-submodules uringloop" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("where", ["", ".."], ids=["in the checkout", "above it"])
def test_an_installed_one_takes_the_place_of_an_unbuilt_tree(tmp_path, installed, where):
    """As behind `pip install .`, where the reader stands."""
    tree = copy_tree(tmp_path / "home" / "uringloop")
    result = import_in(tree / where, installed)
    assert (result.stdout, result.stderr) == (f"{installed}/uringloop/__init__.py run\n", "")
    # No module of the tree is left.
    result = import_in(tree / where, installed, program=(
        "print({m.__file__ for n, m in sys.modules.items() if n.startswith('uringloop') and "
        f"not m.__file__.startswith({str(installed)!r})}})"))
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_a_built_tree_is_imported_from_above_it(tmp_path):
    tree = copy_tree(tmp_path / "home" / "uringloop")
    for module in (ROOT / "uringloop").glob("*.so"):
        shutil.copy(module, tree / "uringloop")
    result = import_in(tree.parent)
    assert (result.stdout, result.stderr) == (f"{tree}/uringloop/__init__.py run\n", "")


def test_two_unbuilt_trees_do_not_lead_to_each_other(tmp_path):
    first, second = (copy_tree(tmp_path / name / "uringloop") for name in ("first", "second"))
    for directory, other in ((first, second), (first.parent, second.parent), (first, second.parent)):
        result = import_in(directory, other)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith("ImportError: ")


def test_half_built_tree_says_so(tmp_path):
    tree = copy_tree(tmp_path / "home" / "uringloop")
    for module in (ROOT / "uringloop").glob("uring_events*.so"):
        shutil.copy(module, tree / "uringloop")
    for directory in (tree, tree.parent):
        result = import_in(directory)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith("ImportError: ")


def test_commands_run_from_an_unbuilt_tree(tmp_path, installed):
    """`python -m uringloop`, the README's command behind `pip install .`."""
    tree = copy_tree(tmp_path / "home" / "uringloop")
    for directory in (tree, tree.parent):
        result = subprocess.run([sys.executable, "-S", "-m", "uringloop", "side-by-side", "recv"], cwd=directory,
                                env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert "def recv" in result.stdout


def test_all_extension_modules_are_known_where_none_is_built():
    assert set(unbuilt.EXTENSION_MODULES) == {f"uringloop.{source.stem}" for source in (ROOT / "uringloop").glob("*.pyx")}


def test_freezers_find_all_modules():
    """What the modules in C import can't be read off them: it stands in __init__.py as well."""
    package = ROOT / "uringloop"
    named = set()
    for node in ast.walk(ast.parse((package / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            named |= {node.module} if node.module else {alias.name for alias in node.names}
    modules = {source.stem for source in [*package.glob("*.py"), *package.glob("*.pyx")]}
    # (The commands are programs of their own, and a frozen one is built.)
    assert named >= modules - {"__init__", "__main__", "bench", "doctor", "unbuilt"}


METHOD = re.compile(r"(?P<final>    @cython\.final\n)?    cdef (?:[^(=\n]*[ *])(?P<name>\w+)\([^\n]*(?P<colon>:?)")


@pytest.mark.any_python("it reads sources")
def test_final_methods_are_final_where_they_are_defined():
    """Of a decorator in a .pxd alone Cython makes nothing: each call goes through the class's table."""
    missing = []
    for declared in (ROOT / "uringloop").glob("*.pxd"):
        defined = declared.with_suffix(".pyx").read_text() if declared.with_suffix(".pyx").exists() else ""
        final_there = {found["name"] for found in METHOD.finditer(defined) if found["final"]}
        for found in METHOD.finditer(declared.read_text()):
            if found["final"] and "inline" not in found[0] and found["name"] not in final_there:
                missing.append(f"{declared.stem}: {found['name']}")
    assert not missing
