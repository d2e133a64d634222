"""Run other people's programs on uringloop, and on asyncio's selector loop as the oracle.

    python tests/ecosystem                              # what is installed
    python tests/ecosystem --install                    # install what is missing first
    python tests/ecosystem --only aiohttp redis         # some
    python tests/ecosystem --quick                      # the part that is in .ci/run
    python tests/ecosystem --json 3.13.json             # keep the results ...
    python tests/ecosystem --table 3.12.json 3.13.json  # ... and write the table of docs/using.md from them

--install calls pip for the Python that runs this, and apt-get for the servers (as root, or with sudo).  A program whose
package or server is missing is reported as skipped.  The exit status is 0 when nothing has failed.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

# The checkout itself must not be on the path: there the sources of uringloop lie, built or not.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from ecosystem import install, runner, servers, table  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python tests/ecosystem", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(runner.PROGRAMS), help="only these")
    parser.add_argument("--quick", action="store_true", help="only those that take seconds and no server")
    parser.add_argument("--loops", nargs="+", metavar="LOOP", default=["selector", "uringloop"], choices=runner.LOOPS,
                        help=f"which loops, of {', '.join(runner.LOOPS)}")
    parser.add_argument("--install", action="store_true", help="install what is missing, by pip and apt-get")
    parser.add_argument("--required", action="store_true", help="what is skipped has failed")
    parser.add_argument("--json", metavar="FILE", help="write the results to a file")
    parser.add_argument("--table", nargs="+", metavar="FILE", help="run nothing: write docs/using.md's table from results")
    parser.add_argument("--list", action="store_true", help="run nothing: print the programs")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.table:
        table.write(arguments.table)
        return 0
    programs = [runner.PROGRAMS[name] for name in arguments.only or runner.PROGRAMS]
    programs = [program for program in programs if program.quick or not arguments.quick]
    if arguments.list:
        for program in programs:
            print(f"{program.name:18} {program.title}")
        return 0
    if arguments.install:
        install.install(programs)
    # So that a run that is ended from outside ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = []
    with servers.Servers() as running:
        for program in programs:
            for loop in arguments.loops:
                results.append(result := runner.run(program, loop, running))
                print(result, flush=True)
                # After each: a run that is cut off has told what it knows.
                if arguments.json:
                    Path(arguments.json).write_text(json.dumps([vars(result) for result in results], indent=1) + "\n")
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in runner.OUTCOMES}
    print("\necosystem: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["failed"] or arguments.required and counts["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
