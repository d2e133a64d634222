"""Event loops side by side: python -m benchmarks [--quick]. See README.md beside this."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

from . import c_parts, machine, measure, peers, plot, progress, rounds, table, workloads

QUICK_LIMIT = 110  # seconds: with what is compiled at first use it ends in two minutes


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one workload of each sort, in two minutes")
    parser.add_argument("--only", default="", metavar="NAMES", help="workloads, by their names' beginnings: tcp-1k,sock")
    parser.add_argument("--peers", default="", metavar="NAMES", help=f"which of {', '.join(peers.KNOWN)}; all by default")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=WHERE[,MODULE:FUNCTION]",
        help="one more loop: WHERE is an interpreter or a checkout of this project",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=None, help="5; with --quick as many as there is time for, up to 3")
    parser.add_argument("--seconds", type=float, default=None, help="of each measurement: 2, with --quick 0.25")
    parser.add_argument("--warm-up", type=float, default=None, help="seconds before it: 0.3, with --quick 0.1")
    parser.add_argument("--repeats", type=int, default=None, help="of what foreign load spoiled: 2, with --quick 0")
    parser.add_argument("--limit", type=float, default=None, help="seconds after which nothing new is begun")
    parser.add_argument("--json", metavar="FILE", help="write the report there, after each workload")
    parser.add_argument("--show", metavar="FILE", help="print the tables of a report, measure nothing")
    parser.add_argument("--plot", metavar="STEM", help="draw the report of --show: STEM.svg and STEM.png, by matplotlib")
    parser.add_argument("--build", metavar="DIRECTORY", help="where C programs are compiled: build/benchmarks")
    parser.add_argument("--list", action="store_true", help="print the workloads' names, measure nothing")
    args = parser.parse_args(arguments)
    if args.plot and not args.show:
        parser.error("--plot draws a report that is there: --show FILE --plot STEM")
    for name, usual, quick in (
        ("rounds", 5, 3), ("seconds", 2.0, 0.25), ("warm_up", 0.3, 0.1), ("repeats", 2, 0), ("limit", None, QUICK_LIMIT),
    ):  # fmt: skip
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else usual)
    try:
        args.workloads = workloads.choose(list(filter(None, args.only.split(","))), args.quick)
        known = peers.KNOWN | {peer.name: peer for peer in map(peers.parse, args.peer)}
        args.chosen = [known[name] for name in args.peers.split(",")] if args.peers else list(known.values())
    except KeyError as exc:
        parser.error(f"no peer is named {exc}")
    except ValueError as exc:
        parser.error(str(exc))
    if args.peers:  # whoever was described is meant
        args.chosen += [known[name] for name in known if name not in peers.KNOWN and known[name] not in args.chosen]
    return args


def commit():
    """Which sources these are, where git knows."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=peers.ROOT, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def write(report, path):
    with open(path + ".part", "w") as file:
        json.dump(report, file, indent=1)
    os.replace(path + ".part", path)


def main(arguments=None):
    args = parse_arguments(arguments)
    if args.list:
        print("\n".join(workload.name for workload in args.workloads))
        return
    if args.show:
        with open(args.show) as file:
            report = json.load(file)
        if args.plot:
            print("\n".join(plot.draw(report, args.plot)))
        else:
            print(table.text(report))
        return
    started = time.monotonic()
    machine.raise_descriptor_limit()
    parts = c_parts.CParts(args.build)
    if c_parts.LOAD in parts.failed:
        sys.exit(f"the load generator can't be compiled: {parts.failed[c_parts.LOAD]}")
    try:
        cores = machine.choose_cores()
    except OSError as exc:
        sys.exit(str(exc))
    report = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "python": platform.python_version(),
        "machine": machine.describe(),
        "settings": {name: getattr(args, name) for name in ("quick", "rounds", "seconds", "warm_up", "repeats", "limit")},
        "peers": {},
        "left_out": {},
        "workloads": {},
    }
    report["settings"]["cores"] = cores
    taking_part = []
    for peer in args.chosen:
        why, version = peers.missing_why(peer, parts)
        if why:
            report["left_out"][peer.name] = why
            print(f"left out: {peer.name}: {why}", file=sys.stderr)
        else:
            report["peers"][peer.name] = {
                "version": version, "factory": peer.factory, "arguments": peer.arguments, "environment": peer.environment,
                "python": peer.python, "path": peer.path,
            }  # fmt: skip
            taking_part.append(peer)
    if not taking_part:
        sys.exit("no peer is left")
    chosen = args.workloads
    if not parts.tls:
        report["left_out"]["tls-*"] = "the load generator was compiled without OpenSSL"
        chosen = [workload for workload in chosen if not workload.tls]
    limit = args.limit and max(1, args.limit - (time.monotonic() - started))
    try:
        rounds.run(
            report, chosen, taking_part, measure.Measurement(parts, cores, args.seconds, args.warm_up),
            rounds=args.rounds, repeats=args.repeats, limit=limit, progress=progress.Bar(limit),
            save=lambda: write(report, args.json) if args.json else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(file=sys.stderr)
        report["stopped"] = "interrupted"
    if args.json:
        write(report, args.json)
    print(table.text(report))


if __name__ == "__main__":
    main()
