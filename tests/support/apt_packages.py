# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages of the tests' own that a bundle holds for this machine's release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.apt_archive import Archive, Key
from tests.support.upstream import Upstream

KEPT = "find /etc/apt /var/lib/apt/lists /var/cache/apt -type f -printf '%p %s %T@ %C@\\n' | sort"
"""A shell command that says what must be as before, whatever is installed."""
SELECTIONS = "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'"
"""One that says what is installed."""


class Packages:
    """A bundle, and an archive that it takes packages from for this machine's own release and state; a context manager.

    :param work: a directory for all of it.
    :param call: makes a call of a module, which has to succeed.
    """

    def __init__(self, work: Path, call: Callable[[str, dict[str, Any]], object]) -> None:
        self.folder, self.bundle, self._call = work / "packages", work / "bundle", call
        self.folder.mkdir()
        self.key = Key.make(work)
        self.archive = Archive(work / "served" / "debian", self.key)
        values = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line)
        self.release = "-".join(values[key].strip('"') for key in ("ID", "VERSION_ID"))
        self.server = Upstream(work / "served")

    def __enter__(self) -> Packages:
        self.server.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.server.stop()

    def bring(self, *packages: str, debs: list[Path]) -> None:
        """Publish these files, and have the bundle hold what these packages need."""
        self.archive.publish("suite", debs)
        source = {"mirror": "debian", "url": f"{self.server.url}/debian"}
        source |= {"suites": ["suite"], "components": ["main"], "keyring": str(self.key.keyring)}
        release = {"name": self.release, "sources": [source], "packages": list(packages), "states": ["/var/lib/dpkg/status"]}
        self._call("rlinf_apt_cache", {"bundle_dir": str(self.bundle), "releases": [release]})

    def arguments(self, *packages: str, **more: Any) -> dict[str, Any]:
        """Return the arguments of rlinf_apt_install for these packages."""
        return {"bundle_dir": str(self.bundle), "packages": list(packages), **more}
