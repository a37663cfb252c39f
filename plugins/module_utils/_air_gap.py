# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the steps that made a node what it is tried to reach anything: their records (:mod:`_egress`), judged together. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._egress import ATTEMPTS, FORMAT, PART, Peer, going_on, read_part
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AirGapError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._generations import Generations
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Node
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit

INSTALLS = "rlinf_venv"
"""The module whose step makes an environment."""
NAMED = 5
"""Attempts that a message names; the record has all of them."""


@dataclass(frozen=True)
class Proof:
    """What the records say.

    :param document: the whole of it, for a security review: the same as long as the records are the same.
    :param problems: why it proves nothing, or the contrary; sentences.
    :param warnings: what it does not say.
    """

    document: dict[str, Any]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document["attempts"]
        return found

    def lines(self) -> list[str]:
        """Return a few lines for people."""
        steps = self.document["steps"]
        peers = sorted({peer for step in steps for peer in step.get("passed", {})})
        calls = sum(sum(step.get("programs", {}).values()) for step in steps)
        return [
            f"steps: {len(steps)}, which started or looked for programs {calls} times",
            f"attempts to reach the network: {_count(self.attempts)}",
            f"reached on the node itself: {', '.join(peers) or 'nothing'}",
        ]


def digests(node: Node, targets: list[str], existing: Path | None) -> dict[str, str]:
    """Return what each target's current environment was made from, by target; empty where there is none.

    :param existing: the environment that the targets were installed into, instead of ones of their own.
    """
    if existing:
        return {name: str(_content(existing / "rlinf" / f"{name}.json").get("digest", "")) for name in targets}
    current = {name: Generations(node.venvs, name, node.venvs / name).current() for name in targets}
    return {name: found.digest if found else "" for name, found in current.items()}


def _content(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path, AirGapError, dict)
    except FileNotFoundError:
        return {}
    return found


_REMEDY = "Look at it, remove it, and install anew."
_PROCESS = {"program": str, "pid": int, "command": str}
_ATTEMPT = {**_PROCESS, "call": str, "family": str, "address": str, "port": (int, type(None)), "count": int}
_STEP = {"step?": str, "attempts": [_ATTEMPT], "left?": [_PROCESS], "recorded?": bool, "canary?": bool}


def judge(node: Node, environments: Mapping[str, str]) -> Proof:
    """Judge the records of a node.

    :param environments: target -> what its current environment was made from, each of which must have been made under the filter.
    :raises AirGapError: a record is damaged.
    """
    files = sorted(node.air_gap.glob("*.json"))
    steps = [{**read_json(path, AirGapError, _STEP, _REMEDY), "file": path.name} for path in files]
    parts = sorted(node.air_gap.glob(f"*{PART}"))
    steps += [_cut_off(path) for path in parts]
    attempts = [{"step": step.get("step", ""), **found} for step in steps for found in step["attempts"]]
    made = {name: _made(steps, name, digest) for name, digest in environments.items()}
    document = {
        "format": FORMAT,
        "attempts": attempts,
        "environments": made,
        "steps": sorted(steps, key=lambda step: str(step.get("started"))),
    }
    looked_at = [path for path in files if path.name.endswith(ATTEMPTS)]
    problems = [*_tried(attempts, looked_at), *(_unseen(step, node.air_gap) for step in steps), *_unrecorded(node, made)]
    warnings = [
        f"{step.get('step', '')}: the network was out of reach, but what was tried is not known ({step.get('problem', '')})"
        for step in steps
        if step.get("recorded") is False
    ]
    return Proof(document, tuple(problem for problem in problems if problem), tuple(warnings))


def _cut_off(part: Path) -> dict[str, Any]:
    """Return the record of a step that has not ended, or was killed."""
    lines = read_part(part)
    header = lines[0] if lines else {}
    found: dict[str, list[dict[str, Any]]] = {"attempts": [], "left": []}
    for line in lines[1:]:
        found["attempts"] += [line["attempt"]] if "attempt" in line else []
        found["left"] += line.get("left", [])
    step = {**header, **found}
    if said := misfit(step, _STEP):
        raise AirGapError(f"{part} is damaged: {said}. {_REMEDY}")
    return {**step, "file": part.name, "going_on": going_on(part)}


def _made(steps: list[dict[str, Any]], target: str, digest: str) -> dict[str, Any]:
    """Return which step made the environment of a target."""
    of = {"module": INSTALLS, "target": target, "digest": digest, "changed": True}
    found = next((step for step in steps if digest and {key: step.get(key) for key in of} == of), None)
    return {"digest": digest, "made_by": found["file"] if found else None}


def _tried(attempts: list[dict[str, Any]], files: list[Path]) -> list[str]:
    if not attempts:
        return []
    told = "; ".join(
        f"step {found.get('step', '')}: {found['program']} (process {found['pid']}, {found['command']}) "
        f"by {found['call']} to {Peer(found['family'], found['address'], found['port'])}"
        + (f", {found['count']} times" if found["count"] > 1 else "")
        for found in attempts[:NAMED]
    )
    more = f"; and {len(attempts) - NAMED} more" if len(attempts) > NAMED else ""
    remove = f" and when they have been looked at remove {', '.join(map(str, files))}," if files else ""
    return [
        f"Attempts to reach the network were refused, {_count(attempts)} in all: {told}{more}. Mend what makes them,{remove} and install anew."
    ]


def _count(attempts: list[dict[str, Any]]) -> int:
    return sum(found["count"] for found in attempts)


def _unseen(step: Mapping[str, Any], folder: Path) -> str:
    """Return why a step was not seen to its end, or nothing."""
    if step.get("going_on"):
        return f"Step {step.get('step')} goes on. Wait for it to end and run again."
    if step.get("left"):
        left = ", ".join(f"{found['program']} (process {found['pid']}, {found['command']})" for found in step["left"])
        return f"Step {step.get('step', '')} has left running: {left}. What they try fails, but nobody sees it: end them, and install anew."
    if "ended" not in step:
        return f"Step {step.get('step', '')} was cut off. Run install again; if this stays, look at {folder / step['file']} and remove it."
    if step.get("recorded") and not step.get("canary"):
        return f"Step {step.get('step', '')}: the try of an address that nobody has was not noticed, so nothing is proven. Remove {folder / step['file']}."
    return ""


def _unrecorded(node: Node, made: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{name}: its environment was not made with rlinf_air_gap, so nothing is known of what that tried. Install it anew with it: "
        f"into another place (-e rlinf_prefix=DIRECTORY, rlinf_bundle_dir as here), or here when {node.venvs / name} and what it leads to are removed."
        for name, found in made.items()
        if found["made_by"] is None
    ]
