"""Rounds: each takes every peer through every workload, one after the other, so that what the machine does over time meets
all of them alike."""

import time

from . import figures
from .measure import Failure, limited_by_client
from .peers import BASE

# Once is an accident. These are answers: they are not asked for again.
FAILURES = 2
FINAL = {"absent", "unsupported"}


def new_cell():
    return {"status": "ok", "detail": "", "rounds": [], "client_limited": False}


def may_be_measured(cell):
    return cell["status"] not in FINAL and cell.get("failures", 0) < FAILURES


def measure_into(cell, number, measure, peer, workload, repeats):
    """Measure once, and up to `repeats` times more as long as what else the machine did makes it invalid."""
    best = None
    for _ in range(1 + repeats):
        try:
            result = measure(peer, workload)
        except Failure as exc:
            cell["status"], cell["detail"] = exc.status, exc.detail
            cell["failures"] = cell.get("failures", 0) + 1
            break
        if best is None or result["foreign"] + result["stolen"] < best["foreign"] + best["stolen"]:
            best = result
        if not any(reason.startswith(("foreign", "steal")) for reason in result["invalid"]):
            best = result
            break
    cell["rounds"] += [None] * (number - len(cell["rounds"])) + [best]
    if best and not workload.rate and limited_by_client(best):
        cell["client_limited"] = True


def run(report, workloads, peers, measure, *, rounds, repeats, limit, progress, save):
    """Fill report["workloads"].

    limit: seconds after which nothing new is begun, or None. What is expected to end behind it is not begun either.
    progress(done, total, text): called before each measurement. save(): called after each workload of a round.
    """
    start, done, total = time.monotonic(), 0, rounds * len(workloads) * len(peers)
    longest = {}
    for number in range(rounds):
        for workload in workloads:
            entry = report["workloads"].setdefault(workload.name, {"workload": vars(workload).copy(), "peers": {}})
            cells = entry["peers"]
            # Not always the same one first: caches and the clock's speed are left by the one before.
            turn = number % len(peers)
            try:
                for peer in peers[turn:] + peers[:turn]:
                    progress(done, total, f"{workload.name}, {peer.name}, round {number + 1}")
                    done += 1
                    cell = cells.setdefault(peer.name, new_cell())
                    if not may_be_measured(cell):
                        continue
                    began = time.monotonic()
                    expected = longest.get((workload.name, peer.name), longest.get(workload.name, 1))
                    if limit is not None and began + expected > start + limit:
                        report["stopped"] = f"the time was over in round {number + 1}"
                        continue
                    measure_into(cell, number, measure, peer, workload, repeats)
                    took = time.monotonic() - began
                    for key in (workload.name, (workload.name, peer.name)):
                        longest[key] = max(longest.get(key, 0), took)
            finally:  # interrupted, it still has what was measured
                for cell in cells.values():
                    base = cells.get(BASE)
                    figures.summarize(cell, base and base["rounds"], workload.figure)
            # As the peers were named, whoever came first.
            entry["peers"] = {peer.name: cells[peer.name] for peer in peers if peer.name in cells}
            save()
    progress(total, total, "")
