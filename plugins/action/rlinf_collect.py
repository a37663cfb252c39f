# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect what a node built from sources into the bundle on the machine that runs ansible-playbook."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import DOWNLOAD
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive, fsync_file, remove, rename, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.plugin_utils.working import Working

# <sha256 of the source>/[torch-2.6.0/]<wheel>: what a node says is not trusted to be a path of this machine
_BUILT = re.compile(r"(?P<source>[0-9a-f]{64})/(torch-[A-Za-z0-9.+!]+/)?[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl")


class ActionModule(Working):
    """Documented in plugins/modules/rlinf_collect.py."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {"src": {"type": "path", "required": True}, "bundle_dir": {"type": "path", "required": True}}
    PLACE = "bundle_dir"

    def work(self, arguments: dict[str, Any]) -> dict[str, Any]:
        results = self._collect(arguments["src"], Bundle(Path(arguments["bundle_dir"]).absolute()))
        brought = [result["name"] for result in results if result["changed"]]
        answer: dict[str, Any] = {"changed": bool(brought), "results": results}
        if self._task.diff and brought:
            answer["diff"] = {"before": "", "after": "".join(f"{name}\n" for name in brought)}
        return answer

    def _collect(self, source: str, bundle: Bundle) -> list[dict[str, Any]]:
        if not bundle.manifest.is_file():
            raise BundleError(f"There is no bundle at {bundle.root}. {DOWNLOAD}, or correct rlinf_bundle_dir of the bastion.")
        found = self._ask("ansible.builtin.find", {"paths": [source], "patterns": ["*.whl"], "recurse": True})["files"]
        return [self._one(source, file["path"], bundle) for file in sorted(found, key=lambda file: str(file["path"]))]

    def _one(self, source: str, path: str, bundle: Bundle) -> dict[str, Any]:
        """Bring one wheel, unless the bundle has it: several nodes may have built the same, and one of them serves all."""
        start, name = time.monotonic(), path.removeprefix(source.rstrip("/") + "/")
        known = _BUILT.fullmatch(name)
        result = {"name": name, "changed": False, "bytes": 0, "seconds": 0.0}
        if not known or not (bundle.wheelhouse / "source" / known["source"]).is_dir():
            return {**result, "state": "left", "reason": "the bundle has no such source"}
        place = bundle.built / name
        if place.is_file():
            return {**result, "state": "present", "reason": "the bundle has it"}
        status = self._ask("ansible.builtin.stat", {"path": path, "checksum_algorithm": "sha256"})["stat"]
        if not self._task.check_mode:
            with exclusive(bundle.cache / "collect" / f"{self._host}.lock", f"Collecting from {self._host} into {bundle.root}"):
                self._fetch(path, place, status["checksum"])
        seconds = round(time.monotonic() - start, 1)
        return {**result, "changed": True, "state": "collected", "reason": "built there", "bytes": status["size"], "seconds": seconds}

    def _fetch(self, path: str, place: Path, sha256: str) -> None:
        """Copy a file of the node beside its place, hash it, and give it its name.

        :raises BundleError: it did not arrive as it left.
        """
        part = place.with_name(f"{place.name}.{self._host}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection.fetch_file(path, str(part))
            if sha256_file(part) != sha256:
                raise BundleError(f"{path} of {self._host} did not arrive as it is there. Run again.")
            fsync_file(part)
            rename(part, place)
        finally:
            remove(part)

    @property
    def _host(self) -> str:
        return re.sub(r"[^A-Za-z0-9.-]", "_", str(self.variables.get("inventory_hostname", "node")))

    def _ask(self, module: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a module that only looks.

        :raises BundleError: it failed.
        """
        said: dict[str, Any] = self._execute_module(module_name=module, module_args=arguments, task_vars=self.variables)
        if said.get("failed"):
            raise BundleError(f"{module} on {self._host}: {said.get('msg')}. Mend this and run again.")
        return said
