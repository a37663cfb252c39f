# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue that ships with the collection, as Ansible holds it where no variable is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import extended

DATA = Path(__file__).resolve().parents[2] / "roles" / "common" / "vars" / "main.yml"


def shipped(isaac_sim_index: str = "") -> dict[str, Any]:
    """Return it, with what targets take over from others filled in."""
    text = DATA.read_text(encoding="utf-8").replace("{{ __rlinf_isaac_sim_index }}", isaac_sim_index)
    return extended(yaml.safe_load(text)["__rlinf_catalog"])
