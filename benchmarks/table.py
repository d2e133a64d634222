"""The report as text. It needs nothing but the report, so that a file of it can be shown again."""

from .peers import BASE
from .workloads import FIGURES

WORDS = {"cpu_us": "CPU µs/{unit}", "p99_us": "p99 µs", "p99_factor": "p99, times", "rss": "RSS bytes/{unit}"}


def number(x):
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def ratio(x):
    return "" if x is None else f"{x:.2f}"


def align(rows):
    """Columns of text: the first and the last to the left, those between to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(cell.ljust(widths[i]) if i in (0, last) else cell.rjust(widths[i]) for i, cell in enumerate(row)).rstrip()
        for row in rows
    )


def note(cell):
    """What has to be known of a cell beside its figures."""
    words = []
    if cell["status"] != "ok":
        words.append(f"{cell['status']}: {cell['detail']}"[:90])
    if cell["invalid"]:
        valid, measured = cell["rounds_valid"], cell["rounds_measured"]
        words.append(f"{'INVALID' if not valid else f'{valid} of {measured} rounds valid'}: {', '.join(cell['invalid'])}")
    if cell["client_limited"]:
        words.append("rate limited by the client")
    return "; ".join(words)


def workload_table(entry):
    workload = entry["workload"]
    figure, unit = workload["figure"], workload["unit"]
    latency = any("p50_us" in cell["median"] for cell in entry["peers"].values())
    extra = [("CPU µs/msg", "cpu_us")] if figure == "p99_us" else []
    extra += [(f"{unit}/s", "rate")] if figure in ("cpu_us", "p99_us") else []
    extra += [("p99 µs alone", "p99_alone_us")] if figure == "p99_factor" else []
    extra += [("p50 µs", "p50_us"), ("p99 µs", "p99_us"), ("p99.9 µs", "p999_us")] if latency else []
    extra = [pair for pair in extra if pair[1] != figure]
    rows = [("", WORDS[figure].format(unit=unit), f"{BASE}/this", "low", "high", *(head for head, _ in extra), "")]
    for name, cell in entry["peers"].items():
        if cell["status"] == "absent":
            continue
        median = cell["median"]
        rows.append((
            name, number(median.get(figure)), ratio(cell["ratio"]), ratio(cell["ratio_low"]), ratio(cell["ratio_high"]),
            *(number(median.get(key)) for _, key in extra), note(cell),
        ))  # fmt: skip
    return f"{workload['name']}\n{align(rows)}"


def summary_table(report):
    """Workloads down, peers across: the ratios alone. A ? has no valid round, a word is a failure."""
    names = list(report["peers"])
    rows = [(f"{BASE}/this", "of", *names, "")]
    for name, entry in report["workloads"].items():
        row = []
        for peer in names:
            cell = entry["peers"].get(peer)
            if cell is None or cell["status"] == "absent":
                row.append("")
            elif cell["ratio"] is None:
                row.append("no ratio" if cell["status"] == "ok" else cell["status"])
            else:
                row.append(ratio(cell["ratio"]) + ("" if cell["rounds_valid"] else "?"))
        rows.append((name, FIGURES[entry["workload"]["figure"]], *row, ""))
    return align(rows)


def invalid_lines(report):
    """What made measurements invalid, and how many of them."""
    found, measured = {}, 0
    for entry in report["workloads"].values():
        for cell in entry["peers"].values():
            measured += cell["rounds_measured"]
            for round_ in filter(None, cell["rounds"]):
                for reason in round_["invalid"]:
                    word = reason.partition(":")[0]
                    found[word] = found.get(word, 0) + 1
    return [f"invalid: {word}, {count} of {measured} measurements" for word, count in sorted(found.items())]


def text(report):
    settings = report["settings"]
    head = [f"{name} {peer['version']}".rstrip() for name, peer in report["peers"].items()]
    lines = [
        f"Linux {report['machine']['kernel']}, {report['machine']['cpu']}, Python {report['python']}",
        f"server on core {settings['cores'][0]}, load on core {settings['cores'][1]}; "
        f"{settings['rounds']} rounds of {settings['seconds']} s",
        "peers: " + ", ".join(head),
    ]
    lines += [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    tables = [workload_table(entry) for entry in report["workloads"].values()]
    tail = [f"above 1: less than {BASE} takes; the median over rounds", summary_table(report)]
    notes = invalid_lines(report) + ([report["stopped"]] if "stopped" in report else [])
    return "\n\n".join(["\n".join(lines), *tables, "\n".join(tail), *(["\n".join(notes)] if notes else [])])
