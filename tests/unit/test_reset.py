# SPDX-License-Identifier: GPL-3.0-or-later
"""Working copies of ours come back to their commit; what is committed is never lost, what is not ours never touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout
from ansible_collections.rlinf.offline.plugins.module_utils._errors import TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._files import write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._reset import made_here, reset_all
from ansible_collections.rlinf.offline.plugins.module_utils._worktrees import NOTE
from tests.support.origins import git


class Site:
    """A bundle with one mirror, and a node with a working copy of it that is ours."""

    def __init__(self, root: Path) -> None:
        self.bundle, self.node = Bundle(root / "bundle"), Node(root / "prefix")
        self.seed, self.tree = root / "seed", self.node.src / "RLinf"
        git("init", "--quiet", "--initial-branch=main", self.seed, cwd=root)
        (self.seed / "a.txt").write_text("one\n", encoding="utf-8")
        git("add", "--all", cwd=self.seed)
        git("commit", "--quiet", "--message", "first", cwd=self.seed)

    def make(self) -> Site:
        """Mirror what the seed holds, and make the working copy."""
        mirror = self.bundle.repos / "github.com/RLinf/RLinf.git"
        git("clone", "--quiet", "--bare", self.seed, mirror, cwd=self.seed)
        self.commit = git("rev-parse", "HEAD", cwd=self.seed)
        self.node.src.mkdir(parents=True)
        _checkout.checkout(mirror, self.commit, self.tree, origin_url="https://github.com/RLinf/RLinf.git")
        write_json(self.tree / NOTE, {"format": 1, "repository": "github.com/rlinf/rlinf", "commit": self.commit})
        return self

    def commit_here(self, name: str, folder: Path | None = None) -> str:
        folder = folder or self.tree
        (folder / name).write_text(name, encoding="utf-8")
        git("add", name, cwd=folder)
        git("commit", "--quiet", "--message", name, cwd=folder)
        return git("rev-parse", "HEAD", cwd=folder)

    def reset(self, *, check: bool = False) -> dict[str, Any]:
        """Reset, after seeing that the same was foreseen; return the item of the working copy."""
        foreseen = reset_all(self.node, self.bundle, check=True)[1] if not check else []
        results = reset_all(self.node, self.bundle, check=check)[1]
        assert check or [{**item, "seconds": 0} for item in foreseen] == [{**item, "seconds": 0} for item in results]
        return next(item for item in results if item["name"] == "RLinf")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path).make()


def test_a_commit_that_no_branch_holds_gets_one(site: Site) -> None:
    site.commit_here("one.txt")
    head = site.commit_here("two.txt")
    said = site.reset()
    assert said["reason"] == f"2 commits that no branch held, kept in RLinf as the branch rlinf-kept-{head[:12]}, HEAD at {head[:12]}"
    assert git("rev-parse", "HEAD", cwd=site.tree) == site.commit
    assert git("rev-parse", f"rlinf-kept-{head[:12]}", cwd=site.tree) == head
    # the branch is the user's now, and stays
    assert site.reset()["reason"] == "2 commits on branches of its own, which stay" and not site.reset()["changed"]


def test_a_branch_of_the_users_stays(site: Site) -> None:
    git("switch", "--quiet", "--create", "work", cwd=site.tree)
    head = site.commit_here("one.txt")
    (site.tree / "one.txt").write_text("edited", encoding="utf-8")
    assert site.reset()["reason"] == f"1 edited (one.txt), HEAD at {head[:12]}, 1 commit on branches of its own, which stay"
    assert git("rev-parse", "work", cwd=site.tree) == head and git("rev-parse", "HEAD", cwd=site.tree) == site.commit
    assert "rlinf-kept" not in git("branch", cwd=site.tree)


def test_a_stash_stays(site: Site) -> None:
    (site.tree / "a.txt").write_text("edited", encoding="utf-8")
    git("stash", "--quiet", cwd=site.tree)
    (site.tree / "added.txt").touch()
    assert site.reset()["changed"] and git("stash", "list", cwd=site.tree)


def test_a_repository_in_it_is_refused_and_the_others_go_on(site: Site) -> None:
    other = site.node.src / "LIBERO"
    git("clone", "--quiet", "--no-local", site.seed, other, cwd=site.seed)
    write_json(other / NOTE, {"format": 1, "repository": "github.com/rlinf/libero", "commit": site.commit})
    git("checkout", "--quiet", "--detach", cwd=other)
    mine = other / "deep/mine"
    git("clone", "--quiet", "--no-local", site.seed, mine, cwd=site.seed)
    site.commit_here("unpushed.txt", mine)
    (other / "a.txt").write_text("edited", encoding="utf-8")
    (site.tree / "a.txt").write_text("edited", encoding="utf-8")
    with pytest.raises(
        TargetError, match=r"(?s)^1 working copies .*LIBERO has repositories in it that are not ours: deep/mine/\. Move"
    ) as caught:
        reset_all(site.node, site.bundle)
    assert {item["name"]: item["state"] for item in caught.value.details["results"]} == {"LIBERO": "refused", "RLinf": "clean"}
    assert (mine / "unpushed.txt").exists() and (other / "a.txt").read_text() == "edited"
    assert (site.tree / "a.txt").read_text() == "one\n"


def test_a_commit_in_a_submodule_gets_a_branch(tmp_path: Path) -> None:
    site = Site(tmp_path)
    library = tmp_path / "library"
    git("clone", "--quiet", site.seed, library, cwd=tmp_path)
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library, "deps/a library", cwd=site.seed)
    git("commit", "--quiet", "--message", "with a submodule", cwd=site.seed)
    site.make()
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", cwd=site.tree)
    folder = site.tree / "deps/a library"
    before = git("rev-parse", "HEAD", cwd=folder)
    git("checkout", "--quiet", "--detach", cwd=folder)
    head = site.commit_here("mine.txt", folder)
    assert f"1 commit that no branch held, kept in a library as the branch rlinf-kept-{head[:12]}" in site.reset()["reason"]
    assert git("rev-parse", "HEAD", cwd=folder) == before and git("rev-parse", f"rlinf-kept-{head[:12]}", cwd=folder) == head
    assert git("status", "--porcelain", cwd=site.tree) == ""


def test_what_a_killed_run_was_making_goes_and_nothing_else(site: Site) -> None:
    for name in (".LIBERO.new", "..LIBERO.new.part", ".mine", "mine.new"):
        (site.node.src / name).mkdir()
        (site.node.src / name / "file").touch()
    results = reset_all(site.node, site.bundle)[1]
    assert {item["name"]: item["state"] for item in results} == {"..LIBERO.new.part": "removed", ".LIBERO.new": "removed", "RLinf": "clean"}
    assert sorted(path.name for path in site.node.src.iterdir()) == [".mine", "RLinf", "mine.new"]


def test_what_is_not_ours_is_not_looked_at(site: Site) -> None:
    (site.tree / NOTE).unlink()
    (site.tree / "a.txt").write_text("edited", encoding="utf-8")
    (site.node.src / "link").symlink_to(site.tree)
    assert list(made_here(site.node)) == [] and reset_all(site.node, site.bundle)[1] == []
    assert (site.tree / "a.txt").read_text() == "edited"
