# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a fleet: nodes by targets, where everything comes from, what the bundle holds. As data, and as one HTML page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import entry_bytes, manifest_digest, mirror_of, read_manifest, size_text
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_locks
from ansible_collections.rlinf.offline.plugins.module_utils._sbom import listed

FORMAT = 1
STATES = ("unreachable", "damaged", "missing", "other lock", "installed", "not asked for")
"""What a target can be on a node, the worst first."""
KEY_PACKAGES = ("torch",)
"""Those whose versions are told of each target on each node, beside Python's."""
SHOWN = 24
"""How many of the largest files of the bundle are drawn."""


def fleet(nodes: Mapping[str, Mapping[str, Any]], packages: Mapping[str, Mapping[str, Any]], bundle: Bundle) -> dict[str, Any]:
    """Return the report as data; equal nodes and bundles give equal reports.

    :param nodes: host -> ``wanted`` (targets), ``node`` (what ``rlinf_report_info`` says of it, None if it did not answer) and ``problem``.
        The packages of a target are a key of *packages* (see :func:`._report_info.share_packages`).
    :param bundle: that of this machine, which nodes are compared with; it need not be there.
    :raises BundleError: it is there, and damaged.
    """
    locks = _locks(bundle)
    rows = [_row(host, nodes[host], packages, locks) for host in nodes]
    rows.sort(key=lambda row: (STATES.index(row["worst"]), row["host"]))
    cells = Counter(cell["state"] for row in rows for cell in row["targets"].values())
    manifest = read_manifest(bundle) if bundle.manifest.is_file() else None
    return {
        "format": FORMAT,
        "nodes": rows,
        "targets": sorted({name for row in rows for name in row["targets"]}),
        "counts": {state: cells[state] for state in STATES},
        "durations": _durations(rows),
        "bundle": _content(bundle, manifest) if manifest else None,
        "dependencies": _dependencies(bundle, manifest["files"] if manifest else {}),
        "worktrees": _spread(rows, lambda cell: ((name, commit or "", "") for name, commit in cell["worktrees"].items())),
        "remote": _spread(rows, lambda cell: ((name, version, place) for name, (version, place) in cell["remote"].items())),
    }


def _locks(bundle: Bundle) -> dict[str, list[dict[str, Any]]]:
    """Return the locks of each target that a bundle holds, with their ``digest``."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, lock in read_locks(bundle):
        found.setdefault(path.parent.name, []).append({**lock, "digest": sha256_file(path)})
    return found


def _row(
    host: str, said: Mapping[str, Any], packages: Mapping[str, Any], locks: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    node, wanted = said.get("node"), list(said.get("wanted", ()))
    there = {
        name: found | {"packages": packages.get(found.get("packages"), {})} for name, found in (node["targets"] if node else {}).items()
    }
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
    about: dict[str, Any] = {"python": "", "digest": "", "created": None, "seconds": None, "lock": "", "commit": ""}
    about |= {"versions": {}, "worktrees": {}, "remote": {}}
    if not answered:
        return {**about, "state": "unreachable", "reason": "no answer"}
    if found is None:
        return {**about, "state": "missing", "reason": "no environment"}
    if "problem" in found:
        return {**about, "state": "damaged", "reason": found["problem"]}
    packages = found["packages"]
    about |= {key: found[key] for key in ("python", "digest", "created", "seconds", "commit", "worktrees")}
    about["versions"] = {key: packages[key]["version"] for key in KEY_PACKAGES if key in packages}
    about["remote"] = {key: [packages.get(key, {}).get("version") or "", place] for key, place in found["remote"].items()}
    compared = [
        (_difference(found, lock), lock.get("project", {}).get("commit") != found["commit"], lock["digest"]) for lock in locks.get(name, ())
    ]
    difference, _other, digest = min(compared, key=lambda one: (len(one[0]), one[1:]), default=([], True, ""))
    if digest and not difference:
        about["lock"] = digest
    state = "installed" if wanted else "not asked for"
    if found["damaged"]:
        return {**about, "state": "damaged", "reason": "damaged: " + _first(found["damaged"])}
    if difference:
        return {**about, "state": "other lock" if wanted else state, "reason": "differs in " + _first(difference)}
    said = ", as the lock says" if digest else "; this machine's bundle has no lock to compare with"
    return {**about, "state": state, "reason": f"{len(packages)} packages{said}"}


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _difference(found: Mapping[str, Any], lock: Mapping[str, Any]) -> list[str]:
    """Return the packages that an environment has otherwise than a lock; what a node builds is compared by name."""
    built = {package["name"] for package in lock["packages"] if package["kind"] == "source"}
    asked = {package["name"]: package["sha256"] for package in lock["packages"] if package["name"] not in found["skipped"]}
    there = {name: package["sha256"] for name, package in found["packages"].items() if package["kind"] != "editable"}
    either = sorted({*asked, *there})
    return [name for name in either if (name in asked) != (name in there) or (name not in built and asked.get(name) != there.get(name))]


def _content(bundle: Bundle, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the bundle holds by size."""
    sizes = {path: entry_bytes(entry) for path, entry in manifest["files"].items()}
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
        "largest": [{"path": path, "name": mirror_of(path) or path.rpartition("/")[2], "bytes": size} for path, size in largest if size],
    }


def _dependencies(bundle: Bundle, files: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return everything that the bundle carries, by name, as its bill of materials says, with its ``bytes``; a directory's are its files'.

    :param files: those of the manifest.
    """
    found = listed(bundle)
    sizes = dict.fromkeys((str(entry["path"]) for entry in found), 0)
    for path, file in files.items():
        whole = next((place for place in (path, *map(str, PurePosixPath(path).parents)) if place in sizes), None)
        if whole is not None:
            sizes[whole] += entry_bytes(file)
    return sorted(
        ({**entry, "bytes": sizes[entry["path"]]} for entry in found),
        key=lambda entry: (entry["name"].lower(), entry["version"], entry["path"]),
    )


def _durations(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how many seconds building the environment of each target took on the nodes, and on which it took the longest."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        for target, cell in row["targets"].items():
            if cell["seconds"] is not None:
                found.setdefault(target, []).append((cell["seconds"], row["host"]))
    return [
        {
            "target": target,
            "nodes": len(took),
            "shortest": min(took)[0],
            "median": statistics.median(seconds for seconds, _host in took),
            "longest": max(took)[0],
            "slowest": max(took)[1],
        }
        for target, took in sorted(found.items())
    ]


def _spread(rows: Iterable[Mapping[str, Any]], told: Callable[[Mapping[str, Any]], Iterable[tuple[str, str, str]]]) -> list[dict[str, Any]]:
    """Return what cells tell alike, once, with the targets and nodes that have it.

    :param told: gives a name, a version and an origin of each thing that a cell has.
    """
    found: dict[tuple[str, str, str], tuple[set[str], set[str]]] = {}
    for row in rows:
        for target, cell in row["targets"].items():
            for thing in told(cell):
                targets, nodes = found.setdefault(thing, (set(), set()))
                targets.add(target)
                nodes.add(row["host"])
    return [
        {"name": name, "version": version, "origin": origin, "targets": sorted(targets), "nodes": sorted(nodes)}
        for (name, version, origin), (targets, nodes) in sorted(found.items())
    ]


def page(report: Mapping[str, Any], template: Path, date: str) -> bytes:
    """Return the report as one HTML page that needs nothing else; all that is filled in is escaped.

    :param template: a Jinja2 template; it gets ``report``, ``date``, ``states`` and the filter ``size``.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["size"] = size_text
    made = environment.from_string(template.read_text(encoding="utf-8")).render(report=report, date=date, states=STATES)
    return (made.strip() + "\n").encode("utf-8", errors="replace")
