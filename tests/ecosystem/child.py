"""Runs one program in this process: python -m ecosystem.child NAME.  The loop's name is in ECOSYSTEM_LOOP.

A main() that is a coroutine function is run on the loop.  Any other one brings a loop up itself, by what the library
has for that.  Both fail when the loop's exception handler was called, or when something was raised where nobody looks.
"""

import asyncio
import gc
import importlib
import inspect
import sys
import warnings

from ecosystem import kit


async def watched(main):
    errors = []
    loop = asyncio.get_running_loop()

    def handler(loop, context):
        errors.append(context)
        loop.default_exception_handler(context)

    loop.set_exception_handler(handler)
    kit.check_loop()
    await main()
    # What was closed last may still have something to say.
    await asyncio.sleep(0.01)
    assert not errors, errors


def main():
    unraisable = []
    warnings.filterwarnings("error", category=ResourceWarning)
    program = importlib.import_module(f"ecosystem.programs.{sys.argv[1]}")

    def unraisable_hook(unraisable_now):
        unraisable.append(str(unraisable_now))
        sys.__unraisablehook__(unraisable_now)

    sys.unraisablehook = unraisable_hook
    if inspect.iscoroutinefunction(program.main):
        with asyncio.Runner(loop_factory=kit.new_event_loop) as runner:
            runner.run(watched(program.main))
    else:
        program.main()
    gc.collect()
    assert not unraisable, unraisable


if __name__ == "__main__":
    main()
