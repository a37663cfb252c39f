# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark leaves in the repository: its figures as data, a section of docs/benchmarks.md, and a plot where there is one to draw."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.real.page import PAGE, write_section

FIGURES = PAGE.parent / "figures"


def recorded(name: str) -> list[dict[str, Any]]:
    """Return the figures that are recorded of a benchmark, none if there are none."""
    path = FIGURES / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


def record(name: str, title: str, rows: Sequence[Any], text: str | None) -> None:
    """Write a section, its figures and its plot, if there is a text.

    :param name: of the files below docs/figures.
    :param title: the heading of the section.
    """
    if text is None:
        return
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    # in a process of its own: what draws takes more memory than what is measured
    subprocess.run([sys.executable, "-m", "tests.bench.plots"], check=True)
    plot = f"\n![{title}](plots/{name}.svg)\n" if (FIGURES.parent / "plots" / f"{name}.svg").is_file() else ""
    write_section(title, f"## {title}\n\n{text}\n{plot}", PAGE)
