# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the README of each role, and the list of variables in docs/variables.md, out of meta/argument_specs.yml.

    python -m tests.tools.role_readmes [--check]

With --check nothing is written; the exit status is 1 if something differs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MADE = "<!-- Made from meta/argument_specs.yml by `make docs`: change it there. -->"
_MARKUP = re.compile(r"\b[BCIMOPV]\(((?:[^()\\]|\\.)*)\)")


def plain(text: str) -> str:
    """Return Ansible's markup as Markdown: ``C(x)``, ``V(x)`` and ``O(x)`` as code."""
    return _MARKUP.sub(lambda found: f"`{found[1]}`", text).replace("|", "\\|")


def sentences(value: str | list[str]) -> list[str]:
    return [plain(item) for item in ([value] if isinstance(value, str) else value)]


def table(options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return options as a table, in their order."""
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        default = (
            "**required**" if option.get("required") else f"`{json.dumps(option.get('default'), ensure_ascii=False)}`".replace("|", "\\|")
        )
        choices = f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}." if "choices" in option else ""
        kind = option["type"] if option["type"] != "raw" else "any"
        rows.append(f"| `{name}` | {kind} | {default} | {' '.join(sentences(option['description']))}{choices} |")
    return "\n".join(rows)


def spec(role: Path) -> dict[str, Any]:
    """Return the argument spec of a role's entry point."""
    (found,) = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"].values()
    return dict(found)


def readme(role: Path) -> str:
    """Return the README of a role."""
    main = spec(role)
    parts = [f"# rlinf.offline.{role.name}", MADE, plain(main["short_description"]) + ".", "\n".join(sentences(main["description"]))]
    options = main.get("options", {})
    if role.name == "common":
        parts.append("All variables: [docs/variables.md](../../docs/variables.md).")
    elif options:
        parts.append(f"## Variables\n\n{table(options)}")
    if role.name != "common":
        parts.append("The variables of the collection: [docs/variables.md](../../docs/variables.md).")
        parts.append(f"## Example\n\n```yaml\n{example(role.name, options)}```")
    return "\n\n".join(parts) + "\n"


def example(role: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a play that uses a role, with what it requires."""
    needed: dict[str, Any] = {name: "openvla" for name, option in options.items() if option.get("required")}
    play = {
        "hosts": "rlinf_bastion" if role in ("download", "sync_branches") else "rlinf_nodes",
        "gather_facts": False,
        "roles": [{"role": f"rlinf.offline.{role}", **({"vars": needed} if needed else {})}],
    }
    return yaml.safe_dump([play], sort_keys=False)


def variables() -> str:
    """Return docs/variables.md."""
    main = spec(ROOT / "roles" / "common")
    made = MADE.replace("meta/", "roles/common/meta/")
    return f"# Variables\n\n{made}\n\n{plain(main['description'][0])}\n\n{table(main['options'])}\n"


def pages() -> dict[Path, str]:
    """Return every page that is made, by path."""
    roles = sorted(path.parents[1] for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
    return {**{role / "README.md": readme(role) for role in roles}, ROOT / "docs" / "variables.md": variables()}


def main() -> int:
    stale = {path: text for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is not what argument_specs.yml says: make docs")
        else:
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
