"""The commands of the package: `python -m uringloop COMMAND`.

Each command has its own module; here are only the arguments, the exit status and the output.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from . import __version__
from .side_by_side import html_page, pairing, two_columns

# For output into a file or a pipe: two columns of code without much wrapping.
_WIDTH_ELSEWHERE = 160
_MINIMAL_WIDTH = 40


def main(argv=None):
    """Run the command that `argv` names (default: the process's) and return the exit status.

    0: done; 1: io_uring does not work here, what is to be read is not installed, the reader of the output has gone, or
    a file can't be written;
    2: wrong arguments, or a name that is unknown or not clear.
    """
    with contextlib.ExitStack() as stack:
        # Closed ones are None (`>&-`): who wants the exit status alone gets it, and nothing lands in the other.
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            if getattr(sys, name) is None:
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        arguments = _parser().parse_args(argv)
        try:
            status = arguments.run(arguments)
            sys.stdout.flush()
        except OSError as exc:
            # `| head` has seen enough, or there is no space. The interpreter flushes once more at its end: into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(exc, BrokenPipeError):
                print(f"{arguments.parser.prog}: the output can't be written: {exc}", file=sys.stderr)
            status = 1
    return status


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m uringloop",
        description="Commands around uringloop, an io_uring proactor event loop for asyncio.")
    parser.add_argument("--version", action="version", version=f"uringloop {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    reading = commands.add_parser(
        "side-by-side",
        help="show asyncio's Windows proactor beside ours",
        description="Print the standard library's source of a class or method beside ours, with "
                    "the numbered differences and their reasons under it. Without a name, print "
                    "the table of what mirrors what.",
        epilog="examples: side-by-side recv | side-by-side IocpProactor | "
               "side-by-side proactor.close --width 200")
    reading.add_argument(
        "name", nargs="?", metavar="NAME",
        help="a class or a method, by the stdlib's name or ours: IocpProactor, recv, "
             "IouringProactor.recv, proactor.recv")
    form = reading.add_mutually_exclusive_group()
    form.add_argument(
        "--html", metavar="FILE", type=Path,
        help="write a page for the browser instead: of NAME, or of all that is mirrored")
    form.add_argument(
        "--width", type=_width, metavar="N",
        help="columns of the output (default: the terminal's, or "
             f"{_WIDTH_ELSEWHERE} where there is none)")
    reading.set_defaults(run=_side_by_side, parser=reading)
    measuring = commands.add_parser(
        "bench",
        help="run a short benchmark beside the loops that are installed",
        description="Measure a small echo server on each loop that is installed (asyncio's, uvloop's and ours), and draw "
                    "what its messages cost. It takes about half a minute, and wants the machine for itself.")
    measuring.add_argument("--seconds", type=_seconds, default=0.5, metavar="S", help="of each measurement (default: 0.5)")
    measuring.add_argument("--rounds", type=_count, default=3, metavar="N", help="of each, medians are shown (default: 3)")
    measuring.add_argument("--svg", type=Path, metavar="FILE", help="draw into a file as well")
    measuring.add_argument("--json", action="store_true", help="for programs: the figures as JSON, and no drawing")
    measuring.set_defaults(run=_bench, parser=measuring)
    examining = commands.add_parser(
        "doctor",
        help="say whether io_uring works here, or what stops it",
        description="Say whether io_uring works here and, if not, what stops it and what to change. "
                    "Exit status: 0 if it works, 1 if not.")
    examining.add_argument("--json", action="store_true", help="for programs: what was found as JSON")
    examining.set_defaults(run=_doctor, parser=examining)
    return parser


def _doctor(arguments):
    # Here: it makes a loop, for which other commands have no use.
    from . import doctor
    found = doctor.examine()
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if arguments.json else doctor.text_of(found))
    return 0 if found["works"] else 1


def _bench(arguments):
    from . import bench
    try:
        results = bench.measure(seconds=arguments.seconds, rounds=arguments.rounds,
                                progress=lambda text: print(text, file=sys.stderr))
    except bench.Failed as exc:
        print(f"{arguments.parser.prog}: {exc}", file=sys.stderr)
        return 1
    if arguments.svg is not None:
        try:
            arguments.svg.write_text(bench.svg(results), encoding="utf-8")
        except OSError as exc:
            print(f"{arguments.parser.prog}: {exc}", file=sys.stderr)
            return 1
    sys.stdout.write(json.dumps(results, indent=2) + "\n" if arguments.json
                     else bench.chart(results, sys.stdout.encoding or "utf-8"))
    return 0


def _seconds(text):
    seconds = float(text)
    if not 0 < seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 60")
    return seconds


def _count(text):
    count = int(text)
    if not 0 < count <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 100")
    return count


def _width(text):
    width = int(text)
    if width < _MINIMAL_WIDTH:
        raise argparse.ArgumentTypeError(f"{width} is too narrow, at least {_MINIMAL_WIDTH} it is")
    return width


def _side_by_side(arguments):
    width = arguments.width
    if width is None:
        width = max(_MINIMAL_WIDTH,
                    shutil.get_terminal_size((_WIDTH_ELSEWHERE, 24)).columns)
    try:
        if arguments.html is not None:
            text = html_page.page(arguments.name)
        else:
            text = two_columns.show(arguments.name, width)
    except pairing.NameNotFound as exc:
        print(f"{arguments.parser.prog}: {exc}", file=sys.stderr)
        return 2
    except FileNotFoundError as exc:
        print(f"{arguments.parser.prog}: {exc}", file=sys.stderr)
        return 1
    if arguments.html is not None:
        try:
            arguments.html.write_text(text, encoding="utf-8")
        except OSError as exc:
            print(f"{arguments.parser.prog}: {exc}", file=sys.stderr)
            return 1
        print(f"wrote {arguments.html}, {len(text.encode()) // 1000} kB: open it in a browser")
        return 0
    encoding = sys.stdout.encoding or "utf-8"
    # By lines: without a buffer (python -u), Python drops the rest of a write cut short.
    sys.stdout.writelines(text.encode(encoding, "replace").decode(encoding).splitlines(True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
