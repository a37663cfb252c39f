# SPDX-License-Identifier: GPL-3.0-or-later
"""What says that it needs the standard library only can be imported where there is nothing else, with all that it imports of the collection."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
UTILS = TOP / "plugins" / "module_utils"
PACKAGE = "ansible_collections.rlinf.offline.plugins.module_utils."
LISTED = re.search(r"^Standard library only, since they run on a bare node: `([^`]+)`", (TOP / "docs/architecture.md").read_text(), re.M)
ALLOWED = "ansible.module_utils."  # Ansible brings it along with each module
BARE = LISTED[1].split() if LISTED else []


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield what runs when a module is imported: no body of a function, nothing for type checkers alone."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from statements(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def imported(file: Path) -> Iterator[str]:
    """Yield the names of the modules that importing a file imports."""
    for node in statements(ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = f"{node.module}." == PACKAGE
            yield from ((f"{PACKAGE}{alias.name}" for alias in node.names) if within else (node.module,))


def test_the_list_is_there() -> None:
    assert BARE and len(set(BARE)) == len(BARE)


@pytest.mark.parametrize("name", BARE)
def test_a_bare_node_can_import(name: str) -> None:
    seen, left, foreign = set(), [name], []
    while left:
        now = left.pop()
        seen.add(now)
        for module in imported(UTILS / f"{now}.py"):
            if module.startswith(PACKAGE):
                left += {module.removeprefix(PACKAGE)} - seen
            elif not module.startswith(ALLOWED) and module.split(".")[0] not in sys.stdlib_module_names:
                foreign.append(f"{now} imports {module}")
    assert not foreign
