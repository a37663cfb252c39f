# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle with locks made in code, the prefix of a node, and rlinf_venv called for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._effective import effective_lock
from ansible_collections.rlinf.offline.plugins.module_utils._install import Installer, Wanted
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._pylock import LocalFile, write
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_python, find_uv, offline_environment
from tests.support.wheels import sha256

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
Run = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Site:
    """A bundle and a prefix, and how the module is called for them."""

    bundle: Path
    prefix: Path
    run_module: Run

    @property
    def index(self) -> Path:
        return self.bundle / "wheelhouse" / "index"

    @property
    def link(self) -> Path:
        return self.prefix / "venvs" / "openvla"

    def lock(self, *files: Path, archives: tuple[Path, ...] = (), name: str = "openvla", python: str = PYTHON) -> Path:
        """Write a lock as the bastion does: paths relative to itself. A file that is no wheel is a source, which a node builds."""
        path = self.bundle / "targets" / ("0" * 40) / name / f"pylock.{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = []
        for file in (*files, *archives):
            project, version = file.name.removesuffix(".tar.gz").split("-")[:2]
            kind = "archive" if file in archives else "wheels" if file.suffix == ".whl" else "sdist"
            entries.append(LocalFile(project, version, os.path.relpath(file, path.parent), file.stat().st_size, sha256(file), kind))
        write(path, python, entries)
        return path

    def tell(self, lock: Path, served: Iterable[Path] = (), build: Iterable[Path] = (), **more: Any) -> None:
        """Write what the bastion says of a lock beside it: which files an index serves, and what building needs."""

        def entry(path: Path) -> dict[str, Any]:
            name, version = path.name.split("-")[:2]
            found = {
                "name": name,
                "version": version,
                "path": str(path.relative_to(self.bundle)),
                "served": path in served,
                "kind": "index",
            }
            return {**found, "size": path.stat().st_size, "sha256": sha256(path)}

        told = {"python": "3.11", "packages": [entry(path) for path in served], "build": [entry(path) for path in build], **more}
        lock.with_name("lock.json").write_text(json.dumps(told))

    def __call__(
        self,
        lock: Path | None = None,
        *,
        target: str = "openvla",
        check: bool = False,
        env: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        given = {"prefix": str(self.prefix), "bundle_dir": str(self.bundle), "target": target, "python": sys.executable, **arguments}
        if lock is not None:
            given["lock"] = str(lock)
        return self.run_module("rlinf_venv", given, check=check, diff=True, env=env)

    def imports(self, statement: str) -> str:
        """Run a statement in the current environment, as a job does, and return what it prints."""
        return subprocess.run([self.link / "bin" / "python", "-c", statement], check=True, capture_output=True, text=True).stdout.strip()

    def generations(self) -> list[str]:
        return sorted(path.name for path in (self.prefix / "venvs").iterdir() if not path.is_symlink())

    @property
    def installer(self) -> Installer:
        """What the module installs with, for work in this process."""
        node = Node(self.prefix)
        return Installer(node, Bundle(self.bundle), "openvla", Uv(find_uv(), offline_environment(node.cache)))

    def wanted(self, lock: Path, python: Path | None = None, **more: Any) -> Wanted:
        """Return what the module would want of this lock."""
        interpreter = find_python(str(python or sys.executable), self.installer.uv)
        return Wanted(effective_lock(Bundle(self.bundle), lock, ()), interpreter, **more)
