"""What test_windows_events imports and Linux has not, so that its tests of a proactor loop run.

A waitable event of Windows is an eventfd here, which is readable when it is signalled.  Named pipes are left out:
their tests fail, and are in the table of deviations.
"""

import contextlib
import os
import select
import sys
import types
import unittest.mock


class PipeHandle:
    """One end of a pipe, closed at most once."""

    def __init__(self, fd):
        self._fd = fd

    def fileno(self):
        return self._fd

    def close(self):
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def wait_for_single_object(handle, milliseconds):
    return 0 if select.select([handle], [], [], milliseconds / 1000)[0] else 258  # WAIT_TIMEOUT


def shim_modules(loops):
    overlapped = types.ModuleType("_overlapped")
    overlapped.CreateEvent = lambda security, manual, initial, name: os.eventfd(int(initial), os.EFD_NONBLOCK)
    overlapped.SetEvent = lambda handle: os.eventfd_write(handle, 1)

    winapi = types.ModuleType("_winapi")
    winapi.CloseHandle = os.close
    winapi.WaitForSingleObject = wait_for_single_object
    winapi.WAIT_OBJECT_0 = 0

    windows_events = types.ModuleType("asyncio.windows_events")
    windows_events.ProactorEventLoop = loops.factory
    # Under this name from Python 3.14 on; asyncio's own __getattr__ gives it the other, with a warning.
    windows_events._WindowsProactorEventLoopPolicy = loops.policy

    windows_utils = types.ModuleType("asyncio.windows_utils")
    windows_utils.PipeHandle = PipeHandle
    windows_utils.pipe = lambda **kinds: os.pipe()

    return {module.__name__: module for module in (overlapped, winapi, windows_events, windows_utils)}


def name_policy(policy):
    """Give asyncio its WindowsProactorEventLoopPolicy, in the way that its other policies are had."""
    import asyncio

    lazy = getattr(asyncio, "__getattr__", None)
    if lazy is None:
        asyncio.WindowsProactorEventLoopPolicy = policy
        return

    def __getattr__(name):
        platform = "win32" if name.startswith("Windows") else sys.platform
        with unittest.mock.patch.object(sys, "platform", platform):
            return lazy(name)

    asyncio.__getattr__ = __getattr__


@contextlib.contextmanager
def installed(loops):
    """Have the module's imports succeed; it looks at sys.platform only then."""
    import asyncio
    import test.test_asyncio.utils  # noqa: F401: before the platform is another

    modules = shim_modules(loops)
    asyncio.windows_events = modules["asyncio.windows_events"]
    asyncio.windows_utils = modules["asyncio.windows_utils"]
    name_policy(loops.policy)
    with (
        unittest.mock.patch.dict(sys.modules, modules),
        unittest.mock.patch.object(sys, "platform", "win32"),
    ):
        yield
