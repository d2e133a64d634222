"""The stdlib's loop in the place of one on io_uring, for those who ask for it.

No counterpart in the stdlib. Nobody gets another loop than he named without a word: it is the caller who
says `fallback=True`, and each loop that falls back says so, once, and why.
"""

import asyncio
import os
import warnings

from .unavailable import IouringUnavailableError

# The warning is of the line that wanted a loop, whatever of asyncio or of this package stands in between.
_PASSED_OVER = (os.path.dirname(__file__) + os.sep, os.path.dirname(asyncio.__file__) + os.sep)


def is_wanted(fallback):
    """Return True or False as it is; TypeError for anything else: 'no', out of a configuration, would be a yes."""
    if not isinstance(fallback, bool):
        raise TypeError(f"fallback must be True or False, not {fallback!r}")
    return fallback


def or_stdlib(factory):
    """Return factory()'s loop, or a new asyncio.SelectorEventLoop where io_uring can't be had.

    Of the second it tells by one RuntimeWarning, which names the cause. Raises what factory() raises for other
    reasons, and what the stdlib's loop raises.
    """
    try:
        return factory()
    except IouringUnavailableError as exc:
        loop = asyncio.SelectorEventLoop()
        try:
            warnings.warn(
                f"uringloop falls back to asyncio's selector loop ({exc.cause}): {exc}",
                RuntimeWarning, skip_file_prefixes=_PASSED_OVER)
        except BaseException:
            # Warnings are errors here.
            loop.close()
            raise
        return loop
