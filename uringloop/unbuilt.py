"""What an import of a source tree without its extension modules leads to.

Python looks in the current directory first. So in a fresh clone, and in the directory above it, `import uringloop`
finds the sources, even where a built uringloop is installed. That one is then meant, and takes their place.
Where there is none, the ImportError says what to do.

Nothing of this is run by a uringloop that is built.
"""

import importlib.util
import sys
from importlib.machinery import PathFinder

_NAME = "uringloop"
# As in pyproject.toml.
_LEAST_PYTHON = 3, 12
EXTENSION_MODULES = tuple(f"{_NAME}.{name}" for name in (
    "uring_events", "proactor_events", "sslproto", "sock_calls", "transport_registry", "base_events", "streams",
    "_overlapped", "_sockaddr"))


def give_way():
    """Put an installed uringloop in the place of the one being imported; raise ImportError where there is none."""
    spec = _find_installed()
    if spec is None and getattr(sys, "frozen", False):
        raise ImportError(
            "uringloop's extension modules are not in this frozen program: the tool that makes it is to take all of "
            "uringloop's modules (PyInstaller: --collect-submodules uringloop)") from None
    if spec is None and sys.version_info < _LEAST_PYTHON:
        raise ImportError(
            f"uringloop needs Python {'.'.join(map(str, _LEAST_PYTHON))} or later, and this is "
            f"{sys.version_info.major}.{sys.version_info.minor}: run this, and `pip install .` in uringloop's source tree, by a "
            "later one") from None
    if spec is None:
        raise ImportError(
            "this is uringloop's source tree, and its extension modules are not built for this "
            "Python: run `pip install .` in it, or `pip install -e .` to work on it") from None
    for name in [name for name in sys.modules if name.startswith(_NAME + ".")]:
        del sys.modules[name]
    module = importlib.util.module_from_spec(spec)
    # The import system returns what it finds here at the import's end (importlib._bootstrap._load_unlocked).
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)


def _find_installed():
    for entry in sys.path:
        spec = PathFinder.find_spec(_NAME, [entry])
        # Not a directory of that name which is no package (no origin), nor a tree that is not built, this one
        # among them: it would lead back here.
        if spec is not None and spec.origin is not None and all(
                PathFinder.find_spec(name, spec.submodule_search_locations) for name in EXTENSION_MODULES):
            return spec
    return None
