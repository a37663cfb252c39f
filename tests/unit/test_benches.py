# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench of memory knows every module, without running it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.bench import memory

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"


def test_every_module_is_measured_or_named_with_a_reason() -> None:
    source = Path(memory.__file__).read_text(encoding="utf-8")
    measured = set(re.findall(r'(?:run_module|run_action|_measured)\(\s*case, "(rlinf_\w+)"', source))
    assert measured.isdisjoint(memory.NOT_MEASURED) and all(memory.NOT_MEASURED.values())
    assert measured | set(memory.NOT_MEASURED) == {path.stem for path in MODULES.glob("rlinf_*.py")}
