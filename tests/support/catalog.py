# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue that ships with the collection, as Ansible holds it where no variable is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import extended, filled

DATA = Path(__file__).resolve().parents[2] / "roles" / "common" / "vars" / "main.yml"


def shipped(isaac_sim_index: str = "") -> dict[str, Any]:
    """Return it, with what targets take over from others filled in."""
    data = yaml.safe_load(DATA.read_text(encoding="utf-8"))["__rlinf_shipped_catalog"]
    return extended(filled(data, {"isaac_sim_index": isaac_sim_index}))
