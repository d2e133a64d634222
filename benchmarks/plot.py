"""A report as a picture: each workload a line, each loop a mark, how far its rounds lie apart as a bar.

It needs matplotlib, and nothing else here does. The background is transparent, and no colour is near black or white,
so the picture can be read on a light page and on a dark one.
"""

from .peers import BASE
from .table import ratio

INK = "#808080"
FAINT = "#80808055"
# Colours that a colour-blind reader tells apart, by Okabe and Ito; each loop has a mark of its own besides.
STYLES = [
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
    ("#8A6FC7", "X"), ("#A08030", "*"),
]  # fmt: skip


def lines_of(report):
    """Return the workloads that can be drawn, (name, {peer: (median, low, high)}), in the order of the report."""
    lines = []
    for name, entry in report["workloads"].items():
        cells = {}
        for peer, cell in entry["peers"].items():
            if peer != BASE and cell["status"] == "ok" and cell["ratio"] and cell["rounds_valid"]:
                cells[peer] = (cell["ratio"], cell["ratio_low"], cell["ratio_high"])
        if cells:
            lines.append((name, cells))
    return lines


def caption(report):
    machine, settings = report["machine"], report["settings"]
    versions = ", ".join(f"{name} {peer['version']}".rstrip() for name, peer in report["peers"].items())
    return (
        f"{machine['cpu']}, Linux {machine['kernel']}, Python {report['python']}; {versions}\n"
        f"server and load on a core each; medians of {settings['rounds']} rounds of {settings['seconds']} s, "
        f"bars from the lowest to the highest; {report['when'][:10]}"
    )


def draw(report, stem):
    """Write stem.svg and stem.png.

    report: what `python -m benchmarks --json` has written.
    stem: a path without an extension.
    Returns the two paths.  Raises ImportError without matplotlib, ValueError where nothing in the report is valid.
    """
    lines = lines_of(report)
    if not lines:
        raise ValueError("the report has no workload with a valid round and a ratio")
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    peers = [peer for peer in report["peers"] if any(peer in cells for _, cells in lines)]
    # Text stays text in the SVG, in the reader's own font; the ids are the same each time.
    with plt.rc_context({
        "svg.fonttype": "none", "svg.hashsalt": "uringloop", "font.family": "sans-serif", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT,
    }):  # fmt: skip
        figure, axes = plt.subplots(figsize=(8, 1.4 + 0.2 * len(lines) + 0.08 * len(lines) * len(peers)))
        step = 0.7 / max(1, len(peers))
        for i, peer in enumerate(peers):
            color, mark = STYLES[i % len(STYLES)]
            places = [y + (i - (len(peers) - 1) / 2) * step for y, (_, cells) in enumerate(lines) if peer in cells]
            found = [cells[peer] for _, cells in lines if peer in cells]
            spread = [[median - low for median, low, _ in found], [high - median for median, _, high in found]]
            axes.errorbar(
                [median for median, _, _ in found], places, xerr=spread, fmt=mark, color=color, ecolor=color,
                elinewidth=0.8, alpha=0.95, markersize=5, label=peer,
            )  # fmt: skip
            if i == 0:
                for (median, _, _), place in zip(found, places):
                    axes.annotate(ratio(median), (median, place), (0, 4), textcoords="offset points", ha="center", fontsize=7)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlabel(f"what {BASE} takes over what the loop takes: right of 1 is less than {BASE}")
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(6, len(peers)), frameon=False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.text(0.01, 0.005, caption(report), fontsize=6.5, va="bottom")
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        paths = [f"{stem}.svg", f"{stem}.png"]
        figure.savefig(paths[0], transparent=True, metadata={"Date": None})
        figure.savefig(paths[1], transparent=True, dpi=160)
        plt.close(figure)
    return paths
