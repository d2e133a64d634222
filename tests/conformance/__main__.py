"""Run CPython's own asyncio tests, those of the installed Python, on uringloop.

    python tests/conformance                            # all
    python tests/conformance --module test_events       # some
    python tests/conformance --readme                   # all, and write the README's table for this Python

Every test has to pass but those in deviations.toml, which have to fail.  Whatever else does not pass is run on asyncio's
selector loop as well: what fails there too is the machine's or the test's, what is skipped there too may be skipped.

The exit status is 0 when all is as expected, 1 when something is not, and 77 where Python was installed without its
tests.
"""

import argparse
import asyncio
import os
import sys

import aim
import report
import supervisor

NO_TESTS = 77


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="python tests/conformance", description="Run CPython's own asyncio tests on uringloop.")
    parser.add_argument("--module", nargs="+", help="only these")
    parser.add_argument("--loop", choices=("uringloop", "stdlib"), default="uringloop")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many modules at a time")
    parser.add_argument("--limit", type=float, default=90, metavar="SECONDS", help="what a test may take")
    parser.add_argument("--deviations", default=report.DEVIATIONS, metavar="FILE", help="another table of them")
    parser.add_argument("--readme", action="store_true", help="write the README's table for this Python")
    parser.add_argument("--check-readme", action="store_true", help="run nothing, and see whether the README is as "
                        "it would be written, and has all modules of this Python")
    parser.add_argument("--list", action="store_true", help="run nothing, and print the names of the modules")
    arguments = parser.parse_args()
    if arguments.readme and (arguments.module or arguments.loop != "uringloop"):
        parser.error("--readme is for a whole run on uringloop")
    return arguments


def check_readme():
    difference = report.readme_difference() + report.check_modules(aim.modules())
    print(*difference, sep="\n")
    return 1 if difference else 0


class Run:
    def __init__(self, arguments):
        self._arguments = arguments
        self._deviations = report.Deviations(arguments.deviations)
        self.rows, self.problems, self.notes = {}, [], []

    async def run(self, names):
        """Run the modules on the loop under test."""
        modules = [self._module(name, self._arguments.loop) for name in names]
        await supervisor.run_all(modules, self._arguments.jobs, self._report)

    def _module(self, name, loop, only=None):
        return supervisor.Module(name, loop, self._arguments.limit, only, self._deviations.numbers)

    async def _report(self, module):
        stdlib = {}
        only = report.suspects(module, self._deviations)
        if only and aim.runs_on(module.name, "stdlib"):
            stdlib = (await self._module(module.name, "stdlib", only).run()).outcomes
        row, problems, notes = report.judge(module, stdlib, self._deviations)
        self.rows[module.name] = row
        self.problems += problems
        self.notes += notes
        print(report.line(module.name, row, problems, module.seconds), flush=True)


def main():
    arguments = parse_arguments()
    if arguments.check_readme:
        return check_readme()
    names = aim.modules()
    if arguments.list and names:
        print(*names, sep="\n")
        return 0
    if not names:
        print(f"conformance: {sys.executable} was installed without its own tests ({aim.PACKAGE}); those of Debian's "
              "Python are in the package libpython{}.{}-testsuite".format(*sys.version_info))
        return NO_TESTS
    run = Run(arguments)
    asyncio.run(run.run(arguments.module or names))
    if arguments.readme and not run.problems:
        report.store(run.rows)
    elif arguments.loop == "uringloop" and arguments.deviations == report.DEVIATIONS:
        run.problems += report.check_stored(run.rows)
        if arguments.module is None:
            run.problems += report.check_modules(run.rows)

    for note in run.notes:
        print(f"\nfails on any loop here: {note}")
    for problem in run.problems:
        print(f"\nNOT AS EXPECTED: {problem}")
    passed = sum(row.passed for row in run.rows.values())
    print(f"\nconformance: {passed} passed, {len(run.problems)} not as expected")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main())
