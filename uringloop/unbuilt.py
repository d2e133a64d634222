"""What an import of a source tree without its extension modules leads to.

Python looks in the current directory first. So in a fresh clone, and in the directory above it, `import uringloop`
finds the sources, even where a built uringloop is installed. That one is then meant, and takes their place.
Where there is none, the ImportError says what to do.

Nothing of this is run by a uringloop that is built.
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

_NAME = "uringloop"
_BUILT = "uring_events"


def give_way():
    """Put an installed uringloop in the place of the one being imported; raise ImportError where there is none."""
    spec = _find_installed()
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
    tree = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for entry in sys.path:
        spec = PathFinder.find_spec(_NAME, [entry])
        if spec is None or spec.origin is None:     # None: a directory of that name, and no package
            continue
        if os.path.realpath(spec.origin).startswith(tree + os.sep):
            continue
        # Another unbuilt tree would lead back to this one.
        if PathFinder.find_spec(f"{_NAME}.{_BUILT}", spec.submodule_search_locations):
            return spec
    return None
