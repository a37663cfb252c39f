# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the figures, docs/benchmarks.md: each program that measures writes its own section and leaves the others."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def write_section(heading: str, text: str, page: Path = PAGE) -> None:
    """Put a section in the place of the one that has its heading, or at the end.

    :param heading: its beginning, up to a comma: ``make real`` finds ``## make real, 2026-11-23``.
    :param text: the whole section, with its ``## `` heading.
    """
    old = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    parts = re.split(r"(?m)^(?=## )", old)
    mine = [number for number, part in enumerate(parts) if part.startswith(f"## {heading}")]
    for number in reversed(mine[1:]):
        del parts[number]
    section = text.strip() + "\n"
    if mine:
        parts[mine[0]] = section
    else:
        parts.append(section)
    page.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
