# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a fleet: nodes by targets, where each package comes from, what the bundle holds. As data, and as one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import manifest_digest, read_manifest, size_text
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_locks
from ansible_collections.rlinf.offline.plugins.module_utils._urls import without_userinfo

FORMAT = 1
STATES = ("unreachable", "damaged", "missing", "other lock", "installed", "not asked for")
"""What a target can be on a node, the worst first."""
SHOWN = 24
"""How many of the largest files of the bundle are drawn."""


def fleet(nodes: Mapping[str, Mapping[str, Any]], bundle: Bundle) -> dict[str, Any]:
    """Return the report as data; equal nodes and bundles give equal reports.

    :param nodes: host -> ``wanted`` (targets), ``node`` (what ``rlinf_report_info`` says of it, None if it did not answer) and ``problem``.
    :param bundle: that of this machine, which nodes are compared with; it need not be there.
    :raises BundleError: it is there, and damaged.
    """
    locks = _locks(bundle)
    rows = [_row(host, nodes[host], locks) for host in nodes]
    rows.sort(key=lambda row: (STATES.index(row["worst"]), row["host"]))
    cells = Counter(cell["state"] for row in rows for cell in row["targets"].values())
    return {
        "format": FORMAT,
        "nodes": rows,
        "targets": sorted({name for row in rows for name in row["targets"]}),
        "counts": {state: cells[state] for state in STATES},
        "bundle": _content(bundle),
        "packages": _packages(locks),
    }


def _locks(bundle: Bundle) -> dict[str, list[dict[str, Any]]]:
    """Return the locks of each target that a bundle holds, with their ``digest``."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, lock in read_locks(bundle):
        found.setdefault(path.parent.name, []).append({**lock, "digest": sha256_file(path)})
    return found


def _row(host: str, said: Mapping[str, Any], locks: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    node, wanted = said.get("node"), list(said.get("wanted", ()))
    there: Mapping[str, Any] = node["targets"] if node else {}
    targets = {name: _cell(name, there.get(name), name in wanted, bool(node), locks) for name in sorted({*wanted, *there})}
    worst = min((STATES.index(cell["state"]) for cell in targets.values()), default=len(STATES) - 1)
    gpus = node["gpus"] if node else {}
    return {
        "host": host,
        "worst": STATES[worst] if node else "unreachable",
        "problem": str(said.get("problem") or "no answer") if not node else "",
        "targets": targets,
        "system": (node["distribution"].get("name") or "") if node else "",
        "driver": gpus.get("driver") or "",
        "cuda": gpus.get("cuda") or "",
        "gpus": [device["name"] for device in gpus.get("devices") or ()],
        "bundle": {key: node["bundle"].get(key) if node else None for key in ("serial", "digest", "verified")},
    }


def _cell(
    name: str, found: Mapping[str, Any] | None, wanted: bool, answered: bool, locks: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return what a target is on a node, and why."""
    nothing = {"python": "", "digest": "", "lock": "", "created": None, "seconds": None}
    if not answered:
        return {"state": "unreachable", "reason": "no answer", **nothing}
    if found is None:
        return {"state": "missing", "reason": "no environment", **nothing}
    if "problem" in found:
        return {"state": "damaged", "reason": found["problem"], **nothing}
    about = {key: found[key] for key in ("python", "digest", "created", "seconds")} | {"lock": ""}
    if found["damaged"]:
        return {**about, "state": "damaged", "reason": "damaged: " + ", ".join(found["damaged"])}
    compared = [(lock, _difference(found, lock)) for lock in locks.get(name, ())]
    same = next((lock for lock, difference in compared if not difference), None)
    state = "installed" if wanted else "not asked for"
    if same:
        return {**about, "state": state, "reason": f"{len(found['packages'])} packages, as the lock says", "lock": same["digest"]}
    if not compared:
        return {**about, "state": state, "reason": f"{len(found['packages'])} packages; this machine's bundle has no lock to compare with"}
    difference = min((difference for _lock, difference in compared), key=len)
    more = f" and {len(difference) - 5} more" if len(difference) > 5 else ""
    return {**about, "state": "other lock" if wanted else state, "reason": "differs in " + ", ".join(difference[:5]) + more}


def _difference(found: Mapping[str, Any], lock: Mapping[str, Any]) -> list[str]:
    """Return the packages that an environment has otherwise than a lock; what a node builds is compared by name."""
    built = {package["name"] for package in lock["packages"] if package["kind"] == "source"}
    asked = {package["name"]: package["sha256"] for package in lock["packages"] if package["name"] not in found["skipped"]}
    there = {name: package["sha256"] for name, package in found["packages"].items() if package["kind"] != "editable"}
    either = sorted({*asked, *there})
    return [name for name in either if (name in asked) != (name in there) or (name not in built and asked.get(name) != there.get(name))]


def _content(bundle: Bundle) -> dict[str, Any] | None:
    """Return what the bundle holds by size, or None if this machine has none that is sealed."""
    if not bundle.manifest.is_file():
        return None
    manifest = read_manifest(bundle)
    sizes = {path: int(entry.get("size") or 0) for path, entry in manifest["files"].items()}
    folders: Counter[str] = Counter()
    for path, size in sizes.items():
        folders[path.partition("/")[0]] += size
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    return {
        "serial": manifest.get("serial"),
        "digest": manifest_digest(bundle),
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "folders": [{"name": name, "bytes": size} for name, size in sorted(folders.items(), key=lambda item: (-item[1], item[0])) if size],
        "largest": [{"path": path, "bytes": size} for path, size in largest if size],
    }


def _packages(locks: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return every package of the bundle's locks with where it came from, its URL without credentials, and the targets that have it."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for target, several in locks.items():
        for package in (package for lock in several for package in lock["packages"]):
            key = (str(package["name"]), str(package["version"]), str(package["sha256"]))
            entry = found.setdefault(
                key,
                {
                    "name": key[0],
                    "version": key[1],
                    "sha256": key[2],
                    "kind": package["kind"],
                    "origin": _origin(package.get("source")),
                    "path": package.get("path") or "",
                    "bytes": int(package.get("size") or 0),
                    "targets": [],
                },
            )
            if target not in entry["targets"]:
                entry["targets"].append(target)
    return [found[key] for key in sorted(found)]


def _origin(source: Any) -> str:
    if not isinstance(source, Mapping) or not source.get("url"):
        return ""
    commit = f" @ {str(source['commit'])[:12]}" if source.get("commit") else ""
    return without_userinfo(str(source["url"])) + commit


def page(report: Mapping[str, Any], template: Path, date: str) -> bytes:
    """Return the report as one HTML page that needs nothing else; all that is filled in is escaped.

    :param template: a Jinja2 template; it gets ``report``, ``date``, ``states`` and the filter ``size``.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["size"] = size_text
    made = environment.from_string(template.read_text(encoding="utf-8")).render(report=report, date=date, states=STATES)
    return (made.strip() + "\n").encode("utf-8", errors="replace")
