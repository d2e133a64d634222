"""Not part of the package: this leads `import uringloop` to it from the directory above a checkout.

A checkout is a directory named uringloop. Without this file, Python would take it for an empty namespace package
there, which has neither `run` nor an error that tells why.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

# A checkout of another name is imported by nobody but those who read directories (test runners, say).
if __name__ == "uringloop":
    spec = PathFinder.find_spec(__name__, [os.path.dirname(os.path.abspath(__file__))])
    # The import system returns what it finds here at the import's end (importlib._bootstrap._load_unlocked).
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
