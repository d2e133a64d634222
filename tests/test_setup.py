"""setup.py: what is missing is said in one paragraph with the package to install, before any compiler runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def build(tmp_path):
    """Run `setup.py build_ext` in a copy, with only the named programs on PATH."""
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("cpp", "uringloop"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    programs = tmp_path / "bin"
    programs.mkdir()

    def run(*names, **environment):
        for name in names:
            (programs / name).symlink_to(shutil.which(name))
        kept = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC", "PKG_CONFIG")}
        return subprocess.run(
            [sys.executable, "setup.py", "build_ext"],
            cwd=source,
            env={**kept, "PATH": str(programs), **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )

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


def test_import_of_an_unbuilt_tree_says_so(tmp_path):
    shutil.copytree(
        ROOT / "uringloop", tmp_path / "uringloop", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    result = subprocess.run(
        # Isolated from the editable install, whose finder would have the built one.
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, ''); import uringloop"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install -e ." in last
