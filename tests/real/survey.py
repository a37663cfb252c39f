# SPDX-License-Identifier: GPL-3.0-or-later
"""What a survey saves: the bytes that are downloaded for Debian 12 with and without one, for nodes that lack three of the packages.

    python -m tests.real.survey [--record PAGE]

apt resolves for real, from the mirror that this machine's own apt uses. The nodes' state is a minimal system's, and of the packages asked for and
what they need everything but the three and what only they need, as the mirror's signed lists describe it.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._apt import renamed
from ansible_collections.rlinf.offline.plugins.module_utils._apt_resolve import Deb, Root, Source, located
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._survey import Survey, surveyed_states
from tests.real.page import PAGE, write_section
from tests.real.run import ROOT

RELEASE, ARCHITECTURE = "debian-12", "amd64"
LACKING = ("libglfw3-dev", "mesa-utils", "unzip")


def load(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))


def packages(catalog: dict[str, Any]) -> list[str]:
    """Return every package that the built-in targets and the default of rlinf_system_packages ask for, as the release calls them."""
    further = load("roles/common/defaults/main.yml")["rlinf_system_packages"]
    named = {name for target in catalog["targets"].values() for name in target.get("system_packages") or ()}
    return renamed({*further, *named}, catalog["releases"][RELEASE].get("renames") or {})


def installed(stanzas: list[str]) -> str:
    """Return entries of a Packages file as dpkg's state says of what is installed."""
    return "".join(re.sub(r"(?m)^(Package: .*)$", r"\1\nStatus: install ok installed", stanza.strip()) + "\n\n" for stanza in stanzas)


def total(debs: list[Deb]) -> str:
    return f"{len(debs)} | {sum(deb.size for deb in debs):,}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=PAGE, help="the page that gets the figures")
    options = parser.parse_args()
    catalog = load("roles/common/vars/main.yml")["__rlinf_shipped_catalog"]
    release, wanted = catalog["releases"][RELEASE], packages(catalog)
    sources = [
        Source(mirror, tuple(suites), tuple(release["components"]), release["keyring"], "") for mirror, suites in release["suites"].items()
    ]
    with tempfile.TemporaryDirectory(prefix="rlinf-survey-") as folder:
        root = Root(Path(folder, "apt"), ARCHITECTURE, located(sources), Network())
        root.prepare()
        minimal = root.minimal_state()
        without = root.lacking(wanted, minimal)
        there = root.lacking([name for name in wanted if name not in LACKING], minimal)
        state = minimal + "\n" + installed(root.stanzas(there))
        path = Path(folder, "rlinf-survey.json")
        node = {"system": {"release": RELEASE, "architecture": ARCHITECTURE, "state": state}}
        path.write_bytes(Survey({}, {}).with_nodes({"gpu01": node}).content)
        (found,) = surveyed_states(path, RELEASE, ARCHITECTURE)
        with_one = root.lacking(wanted, found)
    rows = [
        f"## What a survey saves, {datetime.date.today():%Y-%m-%d}",
        "",
        f"`python -m tests.real.survey`: {RELEASE}, {len(wanted)} packages asked for, nodes that lack {', '.join(LACKING)} of them.",
        "Sizes as the mirror's signed lists say them. The nodes' state is a minimal system's with all that the others of the packages need:",
        "the best case, as after an earlier installation.",
        "",
        "| download | package files | bytes |",
        "|---|---:|---:|",
        f"| without a survey | {total(without)} |",
        f"| with it | {total(with_one)} |",
    ]
    print("\n".join(rows))
    write_section("What a survey saves", "\n".join(rows), options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
