# SPDX-License-Identifier: GPL-3.0-or-later
"""The plots of the benchmarks: equal figures give equal bytes, and the page shows every one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import page, plots

ROWS = {
    "push-1": [{"nodes": nodes, "way": way, "transfer": nodes} for way in ("swarm", "rsync, all at once") for nodes in (1, 16)],
    "push-2": [{"nodes": 16, "way": way, "transfer": 16} for way in ("swarm", "rsync, all at once")],
    "site": [{"nodes": 4, "ours, first": 4, "ours, again": 1, "plain, first": 8, "plain, again": 5}],
    "download": [{"run": "first", "ours": 1, "git and wget": 6}, {"run": "again", "ours": 1, "git and wget": 2}],
    "verify": [{"way": "rlinf_bundle, verified", "megabytes per second": 3000}],
    "memory": [{"case": "a", "module": "rlinf_bundle sealed", "megabytes": 100.5}],
}


def test_equal_figures_are_drawn_equally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(plots, "PLOTS", tmp_path / "plots")
    plots.FIGURES.mkdir()
    for name, rows in ROWS.items():
        (plots.FIGURES / f"{name}.json").write_text(json.dumps(rows))
        drawn = plots.draw(name).read_bytes()
        assert drawn == plots.draw(name).read_bytes()
        assert len(drawn) < 100_000 and str(tmp_path).encode() not in drawn
    assert {name.partition("-")[0] for name in ROWS} == set(plots.KINDS)


def test_every_figure_is_shown() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert plots.drawable()
    for name in plots.drawable():
        assert f"(plots/{name}.svg)" in text
        assert (plots.PLOTS / f"{name}.svg").is_file()
