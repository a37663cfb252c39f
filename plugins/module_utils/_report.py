# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown to people at the end of a playbook. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import size_text

KEY_PACKAGES = ("torch", "torchvision", "torchaudio", "transformers", "flash-attn", "apex", "ray", "vllm", "sglang", "transformer-engine")
"""Packages whose version is always shown; those from git or a prebuilt wheel are, too."""
NONE = "none"


def states(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for what each state of a module's results holds: ``present: 3 (12.5 MB)``, what is not as it should be by name."""
    found = list(results)
    counts = Counter(str(result["state"]) for result in found)
    lines = []
    for state, count in sorted(counts.items()):
        members = [result for result in found if result["state"] == state]
        size = sum(result.get("bytes") or 0 for result in members)
        names = (
            ": " + ", ".join(str(result["name"]) for result in members)
            if state in ("absent", "incomplete", "failed", "refused", "unverified")
            else ""
        )
        lines.append(f"{state}: {count}" + (f" ({size_text(size)})" if size else "") + names)
    return lines or [NONE]


def bundle_table(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what a check of the bundle found as the lines of a table, and what a download would fetch in all."""
    found = list(results)
    cells = [("what", "name", "state", "to fetch", "found")]
    for result in found:
        size = "unknown" if result["bytes"] is None else size_text(result["bytes"]) if result["bytes"] else "-"
        cells.append((result["kind"], result["name"], result["state"], size, str(result["reason"]).partition("\n")[0]))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = ["  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]) for row in cells]
    counts = Counter(str(result["state"]) for result in found)
    unknown = sum(result["bytes"] is None for result in found)
    size = size_text(sum(result["bytes"] or 0 for result in found))
    more = f", and {unknown} things whose size only fetching tells" if unknown else ""
    summary = ", ".join(f"{counts[state]} {state}" for state in ("present", "missing", "damaged"))
    return [*lines, f"{summary}; a download would fetch {size}{more}."]


def branches(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each branch of a fork: ``work (pushed): 1234567 -> 89abcde, 2 commits rebased onto main``."""
    lines = []
    for result in results:
        moved = f"{result['old_commit'][:12] or 'new'} -> {result['commit'][:12]}, " if result["state"] in ("pushed", "outdated") else ""
        local = f"; in the checkout: {result['local']}" if result["local"] else ""
        reason = str(result["reason"]).partition("\n")[0].removeprefix(f"branch {result['name']}: ")
        lines.append(f"{result['name']} ({result['state']}): {moved}{reason}{local}")
    return lines or [NONE]


def gpus(computed: Mapping[str, Any]) -> str:
    """Return what PyTorch did on the GPUs of a node, in words; *computed* is what verifying found."""
    if computed.get("state") != "computed":
        reasons = {"no GPU": "no GPU on this node", "no torch": "the target has no PyTorch", "ignored": "not asked (rlinf_gpu_check)"}
        without = f"torch {computed.get('torch')} is built without CUDA"
        return f"nothing computed: {reasons.get(computed.get('state', 'ignored'), without)}"
    devices = Counter(f"{device['name']} ({device['compute']})" for device in computed["devices"])
    counted = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in devices.items())
    return f"torch {computed['torch']} for CUDA {computed['cuda']} computed rightly on {counted}"


def sources(placed: Mapping[str, Any], verified: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a target came from.

    :param placed: what ``rlinf_target`` found in place.
    :param verified: what ``rlinf_venv`` verified.
    """
    results, packages = placed.get("results", []), verified.get("installed", [])
    by_kind = {kind: [result for result in results if result["kind"] == kind] for kind in ("worktree", "asset")}
    git, wheels, index, built, fetched, editables = (
        [package for package in packages if _origin(package["source"]) == origin]
        for origin in ("git", "wheels", "index", "built", "remote", "editable")
    )
    remote = [f"{result['kind']} {result['name']}" for result in results if result["state"] == "remote fallback"]
    remote += [f"package {_named(package)} from {package['source']}" for package in fetched]
    shown = {package["name"] for package in [*git, *wheels, *built]} | {
        package["name"] for package in packages if package["name"] in KEY_PACKAGES
    }
    return {
        "local repositories": [f"{result['name']} -> {result['path']} ({result['state']})" for result in by_kind["worktree"]] or [NONE],
        "local repositories, installed from a commit": [_named(package) for package in git] or [NONE],
        "local repositories, installed editable": [f"{package['name']} -> {package['source']}" for package in editables] or [NONE],
        "local wheels": [f"{_named(package)} -> {package['source']}" for package in wheels] or [NONE],
        "packages of the index, out of the bundle": len(index),
        "built on a node": [f"{_named(package)} -> {package['source']}" for package in built] or [NONE],
        "remote fallbacks": remote or [NONE],
        "assets": [f"{result['name']} -> {result['path']} ({result['state']})" for result in by_kind["asset"]] or [NONE],
        "downloaded": NONE,
        "GPUs": gpus(verified.get("gpu", {})),
        "versions": {package["name"]: package["version"] or package["source"] for package in packages if package["name"] in shown},
    }


def _origin(source: str) -> str:
    if source.startswith("wheelhouse/git/"):
        return "git"
    if source.startswith(("wheels/", "wheelhouse/overlay/")):
        return "wheels"
    if source.startswith(("http://", "https://")):
        return "remote"
    if source.startswith("wheelhouse/built/") or (source.endswith(".whl") and source.startswith("/")):
        return "built"
    return "index" if source.startswith("wheelhouse/") else "editable"


def _named(package: Mapping[str, Any]) -> str:
    return f"{package['name']} {package['version']}"
