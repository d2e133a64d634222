"""Medians and ratios over rounds. A round is a dict of one measurement's figures, or None where there is none."""

import statistics

MEDIANS = (
    "cpu_us", "rate", "p50_us", "p90_us", "p99_us", "p999_us", "max_us", "late_p99_us", "p99_alone_us", "p99_factor", "rss",
)  # fmt: skip


def usable(rounds):
    """The numbers of the rounds that count: the valid ones, or, where there is none, all that have figures."""
    measured = [i for i, round_ in enumerate(rounds) if round_]
    return [i for i in measured if not rounds[i]["invalid"]] or measured


def medians(rounds):
    """The median of each figure over the usable rounds."""
    used = [rounds[i] for i in usable(rounds)]
    return {
        key: statistics.median(round_[key] for round_ in used)
        for key in MEDIANS if used and all(key in round_ for round_ in used)
    }  # fmt: skip


def ratios(rounds, base_rounds, figure):
    """The base's figure over this one's, round by round: of rounds usable for both, or else of all that both have.

    Pairs are of the same round, so that what disturbs a whole round disturbs both of its sides.
    """
    common = set(usable(rounds)) & set(usable(base_rounds))
    if not common:
        common = {i for i in range(min(len(rounds), len(base_rounds))) if rounds[i] and base_rounds[i]}
    return [
        base_rounds[i][figure] / rounds[i][figure]
        for i in sorted(common) if rounds[i].get(figure, 0) > 0 and figure in base_rounds[i]
    ]  # fmt: skip


def summarize(cell, base_rounds, figure):
    """Add to a cell, a dict with `rounds`, what the table shows of them."""
    rounds = cell["rounds"]
    cell["median"] = medians(rounds)
    found = ratios(rounds, base_rounds, figure) if base_rounds else []
    cell["ratio"] = statistics.median(found) if found else None
    cell["ratio_low"], cell["ratio_high"] = (min(found), max(found)) if found else (None, None)
    measured = [round_ for round_ in rounds if round_]
    cell["rounds_measured"] = len(measured)
    cell["rounds_valid"] = sum(not round_["invalid"] for round_ in measured)
    cell["invalid"] = sorted({reason.partition(":")[0] for round_ in measured for reason in round_["invalid"]})
