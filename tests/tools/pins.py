# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the pins that ship with the collection out of the locks of a bundle, one file for each documented target.

    python -m tests.tools.pins BUNDLE [TARGET ...]

Pins are written of targets whose lock has the entry that ships, whatever was left out of it. What builds took is not in a lock; it is asked
of the index once more, at the cut-off.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._definition import definition
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, read_json
from ansible_collections.rlinf.offline.plugins.module_utils._shipped import Shipped
from tests.support.catalog import shipped

PINS = Path(__file__).resolve().parents[2] / "roles" / "download" / "files" / "pins"


def build_names(lock: Mapping[str, Any]) -> set[str]:
    """Return what the builds of a lock's packages ask for, and what builds a project that asks for nothing."""
    asked = [line for package in (*lock["packages"], *lock["build"]) for line in package["source"].get("build_requires", ())]
    return {
        "setuptools",
        "wheel",
        *(canonicalize_name(Requirement(line).name) for line in asked),
        *(item["name"] for item in lock["build"]),
    }


def newest(names: Iterable[str], lock: Mapping[str, Any]) -> dict[str, str]:
    """Return the newest versions of packages, and of what they require, at a lock's cut-off."""
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory(prefix="rlinf-pins-") as scratch:
        listed = Path(scratch, "build.in")
        listed.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
        options = ["--quiet", "--no-config", "--no-annotate", "--no-header", "--exclude-newer", lock["cut_off"]]
        options += ["--python-version", lock["python"], "--python-platform", lock["platform"]]
        said = subprocess.run([uv, "pip", "compile", *options, listed], check=True, capture_output=True, text=True, cwd=scratch).stdout
    return dict(line.split("==") for line in said.split())


def write(bundle: Path, wanted: Iterable[str]) -> list[str]:
    """Write the pins of the locks in *bundle*; return what was done with each target."""
    catalog = Catalog.parse(shipped())
    names = set(wanted)
    said = []
    for path in sorted(bundle.glob("targets/*/*/lock.json")):
        lock = read_json(path, LockError)
        target = catalog.targets.get(lock["target"])
        if names and lock["target"] not in names:
            continue
        if target is None or definition(target, catalog) != lock["definition"] or not lock["cut_off"]:
            said.append(f"{lock['target']}: not written, its entry is not the one that ships")
            continue
        PINS.mkdir(parents=True, exist_ok=True)
        (PINS / f"{target.name}.json").write_bytes(json_bytes(Shipped.of_lock(lock, newest(build_names(lock), lock)).json))
        said.append(f"{target.name}: {len(lock['pins'])} packages")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle that was downloaded with upload times")
    parser.add_argument("target", nargs="*", help="which targets; all if none is named")
    options = parser.parse_args()
    said = write(options.bundle, options.target)
    print("\n".join(said) or f"{options.bundle} has no lock")
    return 0 if said else 1


if __name__ == "__main__":
    sys.exit(main())
