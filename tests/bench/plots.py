# SPDX-License-Identifier: GPL-3.0-or-later
"""The plots of docs/benchmarks.md, out of the figures that the benchmarks have left in docs/figures.

    python -m tests.bench.plots

Equal figures give equal bytes: no date, and fixed names for what SVG refers to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.memory import MOST
from tests.bench.page import FIGURES

OURS = ("ours", "rlinf_", "swarm", "rsync, all at once")
"""What the names of our ways begin with."""
PLOTS = FIGURES.parent / "plots"
matplotlib.rcParams.update(
    {"svg.hashsalt": "rlinf.offline", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)
Rows = Sequence[Mapping[str, Any]]


def push(axes: Axes, rows: Rows) -> None:
    """How many copies' time each way takes, by the number of nodes."""
    if len({row["nodes"] for row in rows}) == 1:
        _bars(axes, [row["way"] for row in rows], [row["transfer"] for row in rows])
        axes.set_xlabel(f"transfer to {rows[0]['nodes']} nodes / one copy")
        return
    for way in dict.fromkeys(row["way"] for row in rows):
        points = [(row["nodes"], row["transfer"]) for row in rows if row["way"] == way]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=way)
    axes.set(xlabel="nodes", ylabel="transfer / one copy", xscale="log", yscale="log")
    ticks = sorted({row["nodes"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    heights = [1, 2, 4, 8, 16]
    axes.set_yticks(heights, [str(height) for height in heights])
    axes.legend(frameon=False)


def site(axes: Axes, rows: Rows) -> None:
    """Seconds of both runs of both playbooks, by the number of nodes."""
    for way, style in (("ours, first", "C0--"), ("ours, again", "C0-"), ("plain, first", "C1--"), ("plain, again", "C1-")):
        axes.plot([row["nodes"] for row in rows], [row[way] for row in rows], style, marker="o", markersize=3, label=way)
    axes.set(xlabel="nodes", ylabel="seconds", ylim=(0, None), xticks=[row["nodes"] for row in rows])
    axes.legend(frameon=False)


def download(axes: Axes, rows: Rows) -> None:
    """Seconds of ours and of git and wget."""
    _bars(
        axes,
        [f"{way}, {row['run']}" for row in rows for way in ("ours", "git and wget")],
        [row[way] for row in rows for way in ("ours", "git and wget")],
    )
    axes.set_xlabel("seconds")


def verify(axes: Axes, rows: Rows) -> None:
    """Bytes hashed per second."""
    _bars(axes, [row["way"] for row in rows], [row["megabytes per second"] for row in rows])
    axes.set_xlabel("MB per second")


def memory(axes: Axes, rows: Rows) -> None:
    """The peak of each module in the worse of the cases."""
    peaks: dict[str, float] = {}
    for row in rows:
        peaks[row["module"]] = max(row["megabytes"], peaks.get(row["module"], 0))
    _bars(axes, [*peaks], [*peaks.values()])
    axes.axvline(MOST, color="C3", linewidth=1)
    axes.set_xlabel(f"MB at the peak, in the worse case; the line is at {MOST}")


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    bars = axes.barh(names, values, color=["C0" if name.startswith(OURS) else "C1" for name in names])
    axes.bar_label(bars, fmt="%.3g", padding=2)
    axes.invert_yaxis()


KINDS: Mapping[str, Callable[[Axes, Rows], None]] = {"push": push, "site": site, "download": download, "verify": verify, "memory": memory}


def draw(name: str) -> Path:
    """Draw the plot of what a benchmark has left, and return its path."""
    rows = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
    kind = KINDS[name.partition("-")[0]]
    figure = Figure(figsize=(7, 3 if len(rows) <= 8 else 4.5), layout="constrained")
    kind(figure.subplots(), rows)
    PLOTS.mkdir(exist_ok=True)
    path = PLOTS / f"{name}.svg"
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib ends some lines with a space
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text(encoding="utf-8").splitlines()), encoding="utf-8")
    return path


def drawable() -> list[str]:
    """Return the names of the figures that a plot says something of."""
    return sorted(path.stem for path in FIGURES.glob("*.json") if path.stem.partition("-")[0] in KINDS)


def main() -> int:
    for name in drawable():
        print(draw(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
