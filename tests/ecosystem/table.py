"""The table of docs/using.md: the programs and their versions, and how they did on which Python."""

import json
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "using.md"
BEGIN = "<!-- written by `python tests/ecosystem --table` -->\n"
END = "<!-- end of what was written -->\n"


def make(results):
    """Return the table's lines for results of any number of runs, as runner.Result has them."""
    pythons = sorted({result["python"] for result in results}, key=lambda python: [int(n) for n in python.split(".")])
    lines = [f"| program | versions | {' | '.join(pythons)} |", f"|---|---|{'---|' * len(pythons)}"]
    for name in dict.fromkeys(result["program"] for result in results):
        mine = [result for result in results if result["program"] == name]
        versions = {}
        for result in mine:
            for package, version in result["versions"].items():
                versions.setdefault(package, []).append(version)
        told = ", ".join(f"{package} {' and '.join(dict.fromkeys(filter(None, found)))}" for package, found in versions.items())
        cells = [_cell([result for result in mine if result["python"] == python]) for python in pythons]
        lines.append(f"| {mine[0]['title']} | {told} | {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


def _cell(results):
    """What the results of one program on one Python come to."""
    ours = {result["outcome"] for result in results if result["loop"] != "selector"}
    oracle = {result["outcome"] for result in results if result["loop"] == "selector"}
    if "failed" in oracle:
        return "fails on any loop" if "failed" in ours else "passes; the selector loop fails"
    if "failed" in ours:
        return "**fails**"
    if "skipped" in ours:
        # What can't be had there is named.
        return next(result["reason"] for result in results if result["outcome"] == "skipped")
    return "passes" if ours else "not tried"


def write(files):
    """Write the table of the results in the files between its two marks."""
    results = [result for file in files for result in json.loads(Path(file).read_text())]
    text = PAGE.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no place for the table")
    PAGE.write_text(before + begin + make(results) + end + after)
