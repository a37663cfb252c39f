# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook restore, as a user runs it, over a node whose files were patched, edited and added to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout
from ansible_collections.rlinf.offline.plugins.module_utils._files import write_json
from ansible_collections.rlinf.offline.plugins.module_utils._patch import patch
from ansible_collections.rlinf.offline.plugins.module_utils._worktrees import NOTE
from tests.support.checkouts import PYPROJECT, REQUIREMENTS, make_bundle, make_checkout, snapshot, status
from tests.support.origins import git
from tests.support.playbooks import FOR_PROGRAMS, play


class Node:
    """A node with two working copies of ours, one of them patched, and a checkout of the user's that is patched too."""

    def __init__(self, root: Path) -> None:
        self.root, self.bundle, self.prefix = root, root / "bundle", root / "prefix"
        make_bundle(self.bundle)
        self.state = self.prefix / "state"
        source = make_checkout(root / "source", {**REQUIREMENTS, "pyproject.toml": PYPROJECT, "uv.lock": "a lock\n"})
        self.commit = git("rev-parse", "HEAD", cwd=source)
        git("clone", "--quiet", "--bare", source, self.bundle / "repos/github.com/RLinf/RLinf.git", cwd=root)
        self.ours, self.other = self.working_copy("RLinf"), self.working_copy("Other")
        self.users = make_checkout(root / "mine", {**REQUIREMENTS, "pyproject.toml": PYPROJECT, "uv.lock": "a lock\n"})
        self.inventory = root / "inventory.yml"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        host |= {"rlinf_prefix": str(self.prefix), "rlinf_bundle_dir": str(self.bundle)}
        self.inventory.write_text(yaml.safe_dump({"rlinf_nodes": {"hosts": {"gpu01": host}}}), encoding="utf-8")

    def working_copy(self, name: str) -> Path:
        place = self.prefix / "src" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        mirror = self.bundle / "repos/github.com/RLinf/RLinf.git"
        _checkout.checkout(mirror, self.commit, place, origin_url="https://github.com/RLinf/RLinf.git")
        write_json(place / NOTE, {"format": 1, "repository": "github.com/rlinf/rlinf", "commit": self.commit})
        return place

    def restore(self, *extra: str) -> tuple[int, dict[str, Any], str]:
        """Run the playbook; return its status, what it reported, and the message of the task that failed, if one did."""
        said = play(self.inventory, "rlinf.offline.restore", *extra, env=FOR_PROGRAMS)
        assert said.output, said.errors
        results = said.results("gpu01")
        report = results["Say what was restored, or would be"]["msg"]
        return said.status, report, "\n".join(str(result["msg"]) for result in results.values() if result.get("failed"))


CONFIRMED = ("-e", "rlinf_restore_confirm=true")


def test_restore_from_looking_to_clean(tmp_path: Path) -> None:
    node = Node(tmp_path)
    clean = {place: snapshot(place) for place in (node.ours, node.other, node.users)}
    patch(node.ours, node.bundle, node.state)
    patch(node.users, node.bundle, node.state, worktrees=[node.other])
    assert all(status(place) for place in clean)

    # somebody works in all of them
    (node.ours / "pyproject.toml").write_text("edited while it was patched", encoding="utf-8")
    (node.other / "added.txt").write_text("added", encoding="utf-8")
    (node.other / "mine.txt").write_text("mine", encoding="utf-8")
    git("add", "mine.txt", cwd=node.other)
    git("commit", "--quiet", "--message", "mine", "mine.txt", cwd=node.other)
    head = git("rev-parse", "HEAD", cwd=node.other)
    kept = f"1 commit that no branch held, kept in Other as the branch rlinf-kept-{head[:12]}"
    mine = node.users / "requirements/embodied/models/openvla.txt"
    mine.write_text(f"{mine.read_text()}\nmine==1\n", encoding="utf-8")
    (node.users / "notes.txt").write_text("not ours", encoding="utf-8")
    dirty = {place: snapshot(place) for place in clean}

    # it asks first
    code, said, error = node.restore()
    assert {place: snapshot(place) for place in clean} == dirty
    assert said["counts"] == {
        "repositories clean": 0,
        "repositories reset": 2,
        "files restored": 12,
        "files removed": 9,
        "files refused": 2,
    }
    assert f"{node.other}: 2 patched (pyproject.toml, uv.lock), 1 added (added.txt), {kept}, HEAD at {head[:12]}" in said["working copies"]
    assert any(line.startswith(f"{node.ours}: 1 edited (pyproject.toml), 5 patched") for line in said["working copies"])
    assert f"{mine}: refused" in said["patched files"]
    assert code == 2 and "Nothing was changed" in error

    # what only the user has edited is refused, and everything else is clean
    code, said, error = node.restore(*CONFIRMED)
    assert said["counts"] == {
        "repositories clean": 2,
        "repositories reset": 2,
        "files restored": 12,
        "files removed": 9,
        "files refused": 1,
    }
    assert code == 2 and f"1 of 2 patched files cannot be restored, the others are as they were.\n{mine} was edited since" in error
    assert {name: what[0] & 0o777 for name, what in snapshot(node.ours).items()} == {
        name: what[0] & 0o777 for name, what in clean[node.ours].items()
    }
    assert status(node.ours) == status(node.other) == "" and git("rev-parse", "HEAD", cwd=node.other) == node.commit
    assert git("rev-parse", f"rlinf-kept-{head[:12]}", cwd=node.other) == head
    assert not list(node.users.rglob("*.patched")) and (node.users / "notes.txt").exists()
    assert sorted(status(node.users).splitlines()) == [f" M {mine.relative_to(node.users)}", "?? notes.txt"]

    # the user decides, and then nothing is left to do
    mine.with_name(f"{mine.name}.backup").rename(mine)
    code, said, error = node.restore(*CONFIRMED)
    assert (code, error) == (0, "") and said["counts"]["files refused"] == 0
    (node.users / "notes.txt").unlink()
    assert snapshot(node.users) == clean[node.users]
    assert not list(node.state.glob("journals/*/"))
    code, said, error = node.restore()
    assert (code, error) == (0, "") and said["counts"]["repositories clean"] == 2
