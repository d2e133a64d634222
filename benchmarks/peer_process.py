"""What runs in the process of an event loop: python peer_process.py MODULE:FUNCTION ARGUMENTS WHAT ...

MODULE:FUNCTION makes the loop, with ARGUMENTS, an object in JSON. WHAT is one of
  version                 print the peer's version, once a loop was made
  once                    make a loop, run it, close it
  serve KIND FILES        serve; prints "READY port", or "UNSUPPORTED why"
  micro KIND SECONDS WARM_UP    print what was measured, in JSON

The package is not imported here, and its directory is on sys.path only while the one module is: a peer sees what its
users see.
"""

import asyncio
import functools
import importlib
import json
import os
import platform
import sys

directory = os.path.dirname(os.path.abspath(__file__))
if sys.path[0] == directory:  # not under PYTHONSAFEPATH
    del sys.path[0]


def import_beside(name):
    sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(directory)


def main(factory, arguments, what, *rest):
    module, _, function = factory.partition(":")
    module = importlib.import_module(module)
    make_loop = functools.partial(getattr(module, function), **json.loads(arguments))
    if what == "serve":
        import_beside("servers").serve(make_loop, *rest)
    elif what == "micro":
        kind, seconds, warm_up = rest
        print(json.dumps(import_beside("micro").measure(make_loop, kind, float(seconds), float(warm_up))))
    else:
        loop = make_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        if what == "version":
            print(getattr(module, "__version__", platform.python_version()))


main(*sys.argv[1:])
