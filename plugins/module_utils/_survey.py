# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes are and have, in one file that is carried to the bastion, so that only what some node lacks is downloaded.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, read_json, sha256_bytes

FORMAT = 1
# what is another figure at every look
_FLEETING = ("free_bytes", "free_inodes")


@dataclass(frozen=True)
class Survey:
    """What the file holds.

    :param nodes: host -> its ``release``, its ``architecture`` in Debian's words, the digest of the state of its ``packages``, and ``node``,
        all that ``rlinf_node_info`` says.
    :param states: digest -> dpkg's state: nodes that are alike share one.
    """

    nodes: Mapping[str, Mapping[str, Any]]
    states: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Survey:
        """:raises AptError: the file is none of playbook survey's."""
        found = read_json(path, AptError)
        whole = (
            isinstance(found, dict)
            and found.get("format") == FORMAT
            and isinstance(found.get("nodes"), dict)
            and isinstance(found.get("states"), dict)
            and all(map(_is_node, found["nodes"].values()))
        )
        if not whole:
            raise AptError(f"{path} is not what rlinf.offline.survey of this version writes. Run it again, or correct rlinf_survey_file.")
        survey = cls(found["nodes"], found["states"])
        for digest in sorted({node["packages"] for node in survey.nodes.values() if node["packages"]}):
            state = survey.states.get(digest)
            if not isinstance(state, str) or sha256_bytes(state.encode()) != digest:
                raise AptError(f"{path}: the package state {digest[:12]} is missing or was changed. Run rlinf.offline.survey again.")
        return survey

    def with_nodes(self, found: Mapping[str, Mapping[str, Any]]) -> Survey:
        """Return the survey with these nodes seen anew; the others stay as they were seen last.

        :param found: host -> what ``rlinf_node_info`` says of it.
        """
        nodes, states = dict(self.nodes), dict(self.states)
        for host, node in found.items():
            system = dict(node["system"])
            state = system.pop("state", None)
            digest = sha256_bytes(state.encode()) if state else None
            entry = {"release": system.get("release"), "architecture": system.get("architecture"), "packages": digest}
            entry["node"] = {**node, "system": system}
            if host not in nodes or _lasting(nodes[host]) != _lasting(entry):
                nodes[host] = entry
            if digest:
                states[digest] = state
        used = {node.get("packages") for node in nodes.values()}
        return Survey(nodes, {digest: state for digest, state in states.items() if digest in used})

    @property
    def content(self) -> bytes:
        """The file."""
        return json_bytes({"format": FORMAT, "nodes": dict(sorted(self.nodes.items())), "states": dict(sorted(self.states.items()))})

    def lines(self) -> list[str]:
        """A line for each node, for people."""
        return [f"{host}: {_summary(node)}" for host, node in sorted(self.nodes.items())]


def surveyed_releases(path: Path, architecture: str) -> list[str]:
    """Return the releases that the nodes of a survey run, sorted; nodes without dpkg count for none.

    :raises AptError: the file is none of playbook survey's.
    """
    return sorted(
        {node["release"] for node in Survey.read(path).nodes.values() if node.get("packages") and node["architecture"] == architecture}
    )


def surveyed_states(path: Path, release: str, architecture: str) -> list[str]:
    """Return the package states of a survey's nodes that run *release*, each once.

    :raises AptError: the file is none of playbook survey's.
    """
    survey = Survey.read(path)
    alike = [node for node in survey.nodes.values() if (node.get("release"), node.get("architecture")) == (release, architecture)]
    return [survey.states[digest] for digest in sorted({node["packages"] for node in alike if node.get("packages")})]


def _is_node(entry: Any) -> bool:
    """Whether an entry has what others rely on."""
    texts = ("release", "architecture", "packages")
    return (
        isinstance(entry, dict)
        and all(key in entry and isinstance(entry[key], (str, type(None))) for key in texts)
        and isinstance(entry.get("node"), dict)
        and (entry["packages"] is None or isinstance(entry["release"], str))
    )


def _lasting(value: Any) -> Any:
    """Return what was said of a node without the figures that change from one look to the next."""
    if isinstance(value, Mapping):
        return {key: _lasting(item) for key, item in value.items() if key not in _FLEETING}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _summary(node: Mapping[str, Any]) -> str:
    said = node["node"]
    gpus, pythons = said.get("gpus") or {}, said.get("pythons") or []
    parts = [
        f"{node['release'] or 'no release'} {node['architecture'] or said.get('architecture')}",
        f"glibc {said.get('glibc')}",
        f"{len(gpus.get('devices') or ())} GPUs, driver {gpus.get('driver') or 'none'}",
        "Python " + (", ".join(str(python.get("version")) for python in pythons if python.get("version")) or "not of a wanted version"),
        f"package state {node['packages'][:12]}" if node.get("packages") else "no dpkg",
    ]
    return "; ".join(parts)
