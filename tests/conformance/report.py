"""What the outcomes mean, and how they are told: a line a module, the failures, the README's table."""

import collections
import dataclasses
import difflib
import json
import platform
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
DEVIATIONS = HERE / "deviations.toml"
RESULTS = HERE / "results.json"
README = HERE.parent.parent / "README.md"
BEGIN = "<!-- written by `python tests/conformance --readme` -->\n"
END = "<!-- end of what was written -->\n"


class Deviations:
    """The table of tests that fail by design."""

    def __init__(self, path=DEVIATIONS):
        with open(path, "rb") as file:
            table = tomllib.load(file)
        self.reasons = {number: entry["reason"] for number, entry in table.items()}
        self.numbers = {test: number for number, entry in table.items() for test in entry["tests"]}


@dataclasses.dataclass
class Row:
    """A module's numbers."""

    passed: int = 0
    made_loop: int = 0     # of those that passed
    skipped: int = 0       # on the selector loop as well
    machine: int = 0       # failed on the selector loop as well
    deviations: dict = dataclasses.field(default_factory=dict)

    @property
    def total(self):
        return self.passed + self.skipped + self.machine + sum(self.deviations.values())


def suspects(module, deviations):
    """The tests that the stdlib's own loop has to be asked about."""
    return [test for test in module.plan if module.outcomes[test].status != "pass" and test not in deviations.numbers]


def judge(module, stdlib, deviations):
    """Return (Row, problems, notes); stdlib has the outcomes of the suspects there, as far as there are any."""
    row, problems, notes = Row(), [], []
    numbers = collections.Counter()
    for test, outcome in module.outcomes.items():
        number = deviations.numbers.get(test)
        # A process that fails without a test to blame is never excused.
        other = stdlib.get(test) if test in module.plan else None
        both_skip = other is not None and other.status == outcome.status == "skip"
        if number and outcome.status == "pass":
            problems.append(f"{test}: is deviation {number} and passes: take it out of {DEVIATIONS.name}")
        elif outcome.status == "pass":
            row.passed += 1
            row.made_loop += outcome.made_loop
        elif number:
            numbers[number] += 1
        elif both_skip:
            row.skipped += 1
        elif other is not None and other.status not in ("pass", "skip") and outcome.status != "skip":
            row.machine += 1
            notes.append(f"{test}: {outcome.status}, and {other.status} on the selector loop")
        else:
            there = "not run" if other is None else other.status
            problems.append(f"{test}: {outcome.status}; on the selector loop: {there}\n{outcome.detail.rstrip()}")
    row.deviations = dict(sorted(numbers.items()))
    return row, problems, notes


def line(name, row, problems, seconds):
    text = f"{name:38}{row.passed:6} passed"
    text += f", {row.skipped} skipped" if row.skipped else ""
    text += f", {row.machine} fail here on any loop" if row.machine else ""
    text += "".join(f", {number} x {count}" for number, count in row.deviations.items())
    text += f", {len(problems)} NOT AS EXPECTED" if problems else ""
    return f"{text}  ({seconds:.0f} s)"


def python_version():
    return platform.python_version()


def read_results():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def check_stored(rows):
    """Hold a run to what the README says of this Python; what a machine lacks does not count."""
    stored = read_results().get(python_version(), {})
    return [
        f"{name}: the README's table has other deviations: {stored[name]['deviations']}; run this with --readme"
        for name, row in sorted(rows.items())
        if name in stored and stored[name]["deviations"] != row.deviations
    ]


def check_modules(names):
    """Hold the names of this Python's modules to those in the README; no names: it was installed without tests."""
    stored = read_results().get(python_version())
    if stored is None or not names:
        return []
    problems = [f"{name}: not in the README's table for this Python" for name in set(names) - set(stored)]
    problems += [f"{name}: in the README's table, and not here" for name in set(stored) - set(names)]
    return [f"{problem}; run this with --readme" for problem in sorted(problems)]


def store(rows):
    """Write this Python's numbers, and the README's section from all of them."""
    results = read_results()
    results[python_version()] = {name: dataclasses.asdict(row) for name, row in sorted(rows.items())}
    ordered = {version: results[version] for version in sorted(results, key=_key)}
    RESULTS.write_text(_as_json(ordered))
    README.write_text(_readme_with(section(ordered, Deviations())))


def _as_json(results):
    """A line a module, so that a change of one is a change of one line."""
    versions = []
    for version, modules in results.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in modules.items())
        versions.append(f" {json.dumps(version)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(versions) + "\n}\n"


def _key(version):
    return [int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")]


def _readme_with(text):
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{README} has lost its markers"
    return before + begin + text + end + after


def readme_difference():
    """The lines by which the README is not what would be written; none when all is well."""
    new = _readme_with(section(read_results(), Deviations()))
    return list(difflib.unified_diff(README.read_text().splitlines(), new.splitlines(), "README.md", "as written",
                                     lineterm="", n=1))


def section(results, deviations):
    """The README's table and the list of deviations, as Markdown."""
    rows = {version: {name: Row(**row) for name, row in modules.items()} for version, modules in results.items()}
    names = sorted({name for modules in rows.values() for name in modules}, key=lambda name: ("." in name, name))
    lines = ["| passed, of all | " + " | ".join(rows) + " |", "|---" + "|---:" * len(rows) + "|"]
    for name in names:
        cells = [_cell(modules.get(name)) for modules in rows.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    totals = [_total(modules.values()) for modules in rows.values()]
    lines += [
        "| **all** | " + " | ".join(f"**{_cell(total)}**" for total in totals) + " |",
        "| ... of these ran a loop | " + " | ".join(str(total.made_loop) for total in totals) + " |",
        "| skipped, as on the selector loop | " + " | ".join(str(total.skipped) for total in totals) + " |",
        "| failed on the selector loop as well | " + " | ".join(str(total.machine) for total in totals) + " |",
    ]
    for number, reason in deviations.reasons.items():
        counts = [str(total.deviations.get(number, 0)) for total in totals]
        lines.append(f"| deviation {number} | " + " | ".join(counts) + " |")
    lines += ["", *(f"- {number}: {reason}" for number, reason in deviations.reasons.items()), ""]
    return "\n".join(lines)


def _cell(row):
    if row is None:
        return "-"
    return str(row.passed) if row.passed == row.total else f"{row.passed} of {row.total}"


def _total(rows):
    total, deviations = Row(), collections.Counter()
    for row in rows:
        total.passed += row.passed
        total.made_loop += row.made_loop
        total.skipped += row.skipped
        total.machine += row.machine
        deviations.update(row.deviations)
    total.deviations = dict(deviations)
    return total
