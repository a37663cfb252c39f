# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_branch_sync: a fork and its upstream as real repositories behind a real server, with and without a checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _branches
from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from tests.support.kills import killed_at
from tests.support.origins import Origin, git
from tests.support.upstream import Fault, Upstream
from tests.unit.conftest import ModuleFailed

ROOT = Path(__file__).resolve().parents[2]
THEIRS, FORK = "github.com/RLinf/RLinf.git", "github.com/me/RLinf.git"
GITHUB = "https://github.com/"
RELEASE = "release/v0.1"
ME = {"name": "Maintainer", "email": "maintainer@example.invalid"}
RunModule = Callable[..., dict[str, Any]]
TreeHash = Callable[..., dict[str, tuple[str, ...]]]


@dataclass
class Site:
    """An upstream, a fork of it whose work branches are behind, and who maintains it."""

    server: Upstream
    theirs: Origin
    fork: Origin
    home: Path
    cache: Path
    run: RunModule
    branches: dict[str, str] = field(default_factory=lambda: {"work": RELEASE, "other": RELEASE})

    @property
    def rewrites(self) -> dict[str, str]:
        return {GITHUB: f"{self.server.url}/git/github.com/"}

    def arguments(self, **args: Any) -> dict[str, Any]:
        branches = [{"name": name, "base": base} for name, base in self.branches.items()]
        given = {"origin": self.fork.url, "upstream": self.theirs.url, "cache_dir": str(self.cache), "branches": branches}
        return {**given, "url_rewrites": self.rewrites, "timeout": 20, **args}

    def sync(self, *, check: bool = False, **args: Any) -> dict[str, Any]:
        return self.run("rlinf_branch_sync", self.arguments(**args), check=check, diff=True, env={"HOME": str(self.home)})

    def fails(self, *, check: bool = False, **args: Any) -> dict[str, Any]:
        with pytest.raises(ModuleFailed) as failed:
            self.sync(check=check, **args)
        return failed.value.result

    def tips(self) -> dict[str, str]:
        """The commits of the fork's branches."""
        return refs(self.fork.bare, "refs/heads")

    def checkout(self, place: Path) -> Path:
        """Return a clone of the fork, as a user has one: with the remotes, and a branch for each of the fork's."""
        git("clone", "--quiet", self.fork.bare, place, cwd=place.parent)
        git("remote", "set-url", "origin", self.fork.url, cwd=place)
        for name in self.tips():
            git("branch", "--quiet", "--force", name, f"origin/{name}", cwd=place) if name != "main" else None
        return place


def refs(place: Path, prefix: str) -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", prefix, cwd=place)
    return {name.removeprefix(f"{prefix}/"): commit for name, commit in (line.split(" ") for line in listed.splitlines())}


def states(result: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["state"] for item in result["results"]}


def one(result: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [item for item in result["results"] if item["name"] == name]
    return dict(found)


def log(place: Path, what: str) -> list[str]:
    return git("log", "--format=%s|%an|%cn", what, cwd=place).splitlines()


def commit_on(origin: Origin, branch: str, subject: str, **files: str) -> str:
    origin.git("checkout", "--quiet", branch)
    return commit(origin, subject, **files)


def merge(site: Site, subject: str, **files: str) -> None:
    """Merge upstream's release into the work branch, with *files* in the merge commit itself."""
    site.fork.git("checkout", "--quiet", "work")
    site.fork.git("fetch", "--quiet", site.theirs.bare, RELEASE)
    site.fork.git("merge", "--quiet", "--no-ff", "--no-commit", "-X", "ours", "FETCH_HEAD")
    commit(site.fork, subject, **files)
    commit_on(site.theirs, RELEASE, "upstream: more", more="1\n")


def commit(origin: Origin, subject: str, **files: str) -> str:
    for name, text in files.items():
        (origin.tree / name).write_text(text, encoding="utf-8")
    origin.git("add", "--all")
    origin.git("commit", "--quiet", "--allow-empty", "--message", subject)
    origin.publish()
    return origin.head


LINES = "".join(f"{number}\n" for number in range(1, 21))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream and fork, made once and copied for each test."""
    place = tmp_path_factory.mktemp("made")
    root = place / "upstream"
    (root / "git").mkdir(parents=True)
    (place / "home").mkdir()
    (place / "home/.gitconfig").write_text(f"[user]\n name = {ME['name']}\n email = {ME['email']}\n", encoding="utf-8")
    theirs = Origin(root, THEIRS)
    theirs.commit(**{"install.sh": LINES})
    theirs.git("branch", RELEASE)
    theirs.publish()
    fork = Origin(root, FORK)
    fork.git("fetch", "--quiet", theirs.bare, "+refs/heads/*:refs/heads/*", "--update-head-ok")
    for name, text in (("work", LINES.replace("2\n", "two\n", 1)), ("other", f"{LINES}21\n")):
        fork.git("checkout", "--quiet", "--force", "-b", name, RELEASE)
        commit_on(fork, name, f"{name}: one", **{"install.sh": text})
        commit_on(fork, name, f"{name}: two", **{f"{name}.txt": "two\n"})
    commit_on(theirs, "main", "upstream: main", README="main\n")
    commit_on(theirs, RELEASE, "upstream: release", **{"install.sh": LINES.replace("10\n", "ten\n")})
    return place


@pytest.fixture
def site(made: Path, tmp_path: Path, run_module: RunModule) -> Iterator[Site]:
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    root = tmp_path / "upstream"
    with Upstream(root) as server:
        yield Site(server, Origin.copied(root, THEIRS), Origin.copied(root, FORK), tmp_path / "home", tmp_path / "cache", run_module)


def test_quad(
    site: Site, tmp_path: Path, tree_hash: TreeHash, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before, old = tree_hash(tmp_path), site.tips()
    planned = site.sync(check=True)
    assert tree_hash(tmp_path) == before
    assert states(planned) == {"main": "outdated", RELEASE: "outdated", "work": "outdated", "other": "outdated"}

    trace = tmp_path_factory.mktemp("trace") / "trace"
    with monkeypatch.context() as traced:
        traced.setenv(TRACE, str(trace))
        done = site.sync()
    assert "git rebase " in trace.read_text()
    assert states(done) == {"main": "pushed", RELEASE: "pushed", "work": "pushed", "other": "pushed"}
    # the plan is what happens, to the commit
    assert [item["commit"] for item in planned["results"]] == [item["commit"] for item in done["results"]]
    assert planned["diff"] == done["diff"]
    new = site.tips()
    assert new == {item["name"]: item["commit"] for item in done["results"]}
    assert {name: new[name] for name in ("main", RELEASE)} == refs(site.theirs.bare, "refs/heads")
    assert log(site.fork.bare, f"{RELEASE}..work") == ["work: two|Upstream|Maintainer", "work: one|Upstream|Maintainer"]
    assert git("show", "work:install.sh", cwd=site.fork.bare) == LINES.replace("2\n", "two\n", 1).replace("10\n", "ten\n").rstrip()
    work = one(done, "work")
    assert (work["old_commit"], work["reason"]) == (old["work"], f"2 commits rebased onto {RELEASE} ({new[RELEASE][:12]})")
    assert [line.split(" ", 1)[1] for line in work["commits"]] == ["work: one", "work: two"]
    assert one(done, "main")["reason"] == "1 commit behind upstream"
    assert done["diff"][2] == {
        "before_header": f"work ({site.fork.url})",
        "after_header": f"work ({site.fork.url})",
        "before": f"{old['work']}\n",
        "after": "".join(f"{line}\n" for line in (new["work"], *(f"  {line}" for line in work["commits"]))),
    }

    before = tree_hash(tmp_path)
    for check in (True, False):
        again = site.sync(check=check)
        assert (again["changed"], again["diff"], set(states(again).values())) == (False, [], {"current"})
    assert tree_hash(tmp_path) == before


def test_a_second_run_fetches_only_what_is_new(site: Site) -> None:
    site.sync()
    site.server.forget()
    site.sync(check=True)
    # what the remotes have is asked for, and nothing of it is fetched: a fetch sends what it wants in a second request
    assert len(site.server.requests("*/git-upload-pack")) == 4
    assert sorted(path.name for path in site.cache.iterdir()) == [".lock", "github.com"]


def test_a_conflict_stops_that_branch_alone(site: Site, tmp_path: Path, tree_hash: TreeHash) -> None:
    commit_on(site.fork, "other", "other: mine", **{"install.sh": LINES.replace("10\n", "mine\n"), "a b.txt": ""})
    old = site.tips()
    before = tree_hash(tmp_path / "upstream")
    planned = site.fails(check=True)
    assert tree_hash(tmp_path / "upstream") == before
    for result, state in ((planned, "outdated"), (site.fails(), "pushed")):
        assert states(result) == {"main": state, RELEASE: state, "work": state, "other": "conflict"}
        other = one(result, "other")
        assert (other["files"], other["problem"], other["changed"]) == (["install.sh"], "conflict", False)
        assert result["msg"].startswith("1 of 4 branches could not be brought up to date:\nbranch other: rebasing its 3 commits onto")
        assert "'other: mine'" not in result["msg"] and "other: mine' in install.sh. The branch was left as it was." in result["msg"]
    assert site.tips()["other"] == old["other"]
    assert site.tips()["work"] != old["work"]
    # run again: the conflict is still told, the rest is done
    assert states(site.fails()) == {"main": "current", RELEASE: "current", "work": "current", "other": "conflict"}


def test_the_branch_after_a_conflict_is_rebased_on_its_own(site: Site) -> None:
    commit_on(site.fork, "work", "work: mine", **{"install.sh": LINES.replace("10\n", "mine\n"), "other.txt": "in the way\n"})
    assert states(site.fails())["other"] == "pushed"
    assert git("ls-tree", "--name-only", "other", cwd=site.fork.bare).splitlines() == ["install.sh", "other.txt"]


def test_a_branch_that_diverged_from_upstream_is_not_forced(site: Site) -> None:
    commit_on(site.fork, RELEASE, "fork: own", own="1\n")
    old = site.tips()
    result = site.fails()
    assert states(result) == {"main": "pushed", RELEASE: "failed", "work": "failed", "other": "failed"}
    assert "has diverged by 1 commit that upstream has not" in one(result, RELEASE)["reason"]
    assert "fork: own). Nothing was forced." in one(result, RELEASE)["reason"]
    assert [one(result, name)["problem"] for name in (RELEASE, "work", "other")] == ["diverged", "base", "base"]
    assert {**site.tips(), "main": ""} == {**old, "main": ""}


def test_a_branch_that_the_fork_lacks_is_made_or_named(site: Site) -> None:
    git("update-ref", "-d", f"refs/heads/{RELEASE}", cwd=site.fork.bare)
    site.branches |= {"wrk": RELEASE}
    result = site.fails()
    assert one(result, RELEASE)["reason"] == "not in the fork yet"
    assert site.tips()[RELEASE] == refs(site.theirs.bare, "refs/heads")[RELEASE]
    assert one(result, "wrk")["reason"] == f"branch wrk: the fork ({site.fork.url}) has no branch wrk. Did you mean work?"
    assert one(result, "work")["state"] == "pushed"
    missing = site.fails(follow=["main", RELEASE, "release/v9"], branches=[])
    assert "release/v9: upstream" in missing["msg"] and "Did you mean release/v0.1?" in missing["msg"]


def test_empty_and_finished_work(site: Site) -> None:
    site.fork.git("branch", "empty", f"{RELEASE}")
    picked = commit_on(site.fork, "other", "other: three", third="3\n")
    site.theirs.git("checkout", "--quiet", RELEASE)
    site.theirs.git("fetch", "--quiet", site.fork.bare, "work", picked)
    site.theirs.git("cherry-pick", *site.fork.git("rev-list", "--reverse", f"{RELEASE}..work").splitlines())
    site.theirs.git("cherry-pick", picked)
    site.theirs.publish()
    site.branches |= {"empty": RELEASE}
    result = site.sync()
    release = site.tips()[RELEASE]
    onto = f"{RELEASE} ({release[:12]})"
    assert one(result, "empty")["reason"] == f"no commit of its own, moved to {onto}"
    assert one(result, "work")["reason"] == f"all it holds (2 commits) is in {onto} already"
    assert one(result, "other")["reason"] == f"2 commits rebased onto {onto}, 1 in it already"
    assert site.tips()["work"] == site.tips()["empty"] == release
    assert not site.sync()["changed"]


def test_merge_commits_that_hold_nothing_of_their_own_are_left_out(site: Site) -> None:
    merge(site, "work: merge")
    assert one(site.sync(), "work")["state"] == "pushed"
    assert git("log", "--format=%s", f"{RELEASE}..work", cwd=site.fork.bare).splitlines() == ["work: two", "work: one"]
    assert git("show", "work:more", cwd=site.fork.bare) == "1"


def test_what_a_merge_commit_alone_holds_is_not_lost(site: Site) -> None:
    merge(site, "work: merge", settled="here\n")
    old = site.tips()["work"]
    work = one(site.fails(), "work")
    assert (work["problem"], work["state"], site.tips()["work"]) == ("merges", "failed", old)
    assert "it holds merge commits (1)" in work["reason"]


def test_a_conflict_that_a_merge_commit_settled_is_told_again(site: Site) -> None:
    commit_on(site.fork, "work", "work: three", **{"install.sh": LINES.replace("10\n", "mine\n")})
    merge(site, "work: merge", **{"install.sh": LINES.replace("10\n", "ten and mine\n")})
    assert one(site.fails(), "work")["files"] == ["install.sh"]


def test_who_pushes_meanwhile_is_not_overwritten(site: Site) -> None:
    theirs: list[str] = []

    def push() -> None:
        if not theirs:
            theirs.append(commit_on(site.fork, "work", "somebody else's", late="1\n"))

    site.server.always("/git/github.com/me/RLinf.git/info/refs", Fault(before=push))
    # the first question is what the fork has; the commit is to come after that
    site.server.script("/git/github.com/me/RLinf.git/info/refs", Fault(), Fault())
    result = site.fails()
    work = one(result, "work")
    assert (work["state"], work["problem"]) == ("failed", "moved")
    assert "somebody has pushed to it meanwhile. Nothing was overwritten" in work["reason"]
    assert site.tips()["work"] == theirs[0]
    again = one(site.sync(), "work")
    assert [line.split(" ", 1)[1] for line in again["commits"]] == ["work: one", "work: two", "somebody else's"]


def test_a_push_that_the_host_declines(site: Site) -> None:
    hook = site.fork.bare / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/work ] || { echo protected; exit 1; }\n', encoding="utf-8")
    hook.chmod(0o755)
    result = site.fails()
    assert states(result) == {"main": "pushed", RELEASE: "pushed", "work": "failed", "other": "pushed"}
    assert one(result, "work")["problem"] == "declined"


@pytest.mark.parametrize("check", [True, False])
def test_who_may_read_and_not_push_is_told_so_by_a_dry_run_too(site: Site, check: bool) -> None:
    site.server.script("/git/github.com/me/RLinf.git/info/refs", Fault(), Fault())
    site.server.always("/git/github.com/me/RLinf.git/info/refs", Fault(status=403))
    result = site.fails(check=check)
    assert [item["problem"] for item in result["results"]] == ["credentials", "credentials", "base", "base"]
    assert "branch main: pushing it to the fork: it was refused for lack of credentials" in result["msg"]


def test_a_token_in_a_url_lets_in_and_never_comes_out(site: Site) -> None:
    site.server.require_login("/git/github.com/me/", "me", "t0ken")
    assert "for lack of credentials" in site.fails()["msg"]
    authority = site.server.url.partition("://")[2]
    done = site.sync(url_rewrites={GITHUB: f"http://me:t0ken@{authority}/git/github.com/"})
    assert set(states(done).values()) == {"pushed"}
    assert "t0ken" not in json.dumps(done)
    assert not [path for path in site.cache.rglob("*") if path.is_file() and b"t0ken" in path.read_bytes()]


def test_without_network(site: Site, tmp_path: Path, tree_hash: TreeHash) -> None:
    site.server.stop()
    before = tree_hash(tmp_path)
    assert "could not be reached" in site.fails(check=True, timeout=1)["msg"]
    assert "could not be reached" in site.fails(timeout=1)["msg"]
    assert {path for path in tree_hash(tmp_path) if path not in before} == {"cache", "cache/.lock"}


def test_who_rebases_must_be_known(site: Site) -> None:
    (site.home / ".gitconfig").unlink()
    result = site.fails()
    assert states(result) == {"main": "pushed", RELEASE: "pushed", "work": "failed", "other": "failed"}
    assert "set user.name and user.email (git config --global), or give rlinf_fork_committer" in result["msg"]
    assert "is not of the form" in site.fails(committer="nobody")["msg"]
    site.sync(committer="Some Body <some@example.invalid>")
    assert log(site.fork.bare, "work")[0] == "work: two|Upstream|Some Body"


# -- with a checkout -----------------------------------------------------------------------------------------------------------------


def test_a_checkout_is_not_touched_where_somebody_works(site: Site, tmp_path: Path, tree_hash: TreeHash) -> None:
    place = site.checkout(tmp_path / "checkout")
    git("checkout", "--quiet", "work", cwd=place)
    (place / "stashed").write_text("1\n", encoding="utf-8")
    git("stash", "--quiet", "--include-untracked", cwd=place)
    (place / "install.sh").write_text("edited\n", encoding="utf-8")
    (place / "new").write_text("new\n", encoding="utf-8")
    git("add", "new", cwd=place)
    for hook in ("pre-push", "pre-rebase", "post-checkout", "reference-transaction", "post-rewrite"):
        (place / ".git/hooks").mkdir(exist_ok=True)
        (place / f".git/hooks/{hook}").write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\nexit 1\n", encoding="utf-8")
        (place / f".git/hooks/{hook}").chmod(0o755)
    old = refs(place, "refs/heads")
    before = tree_hash(tmp_path)
    planned = site.sync(check=True, checkout=str(place))
    assert tree_hash(tmp_path) == before

    def kept() -> dict[str, Any]:
        mine = {name: value for name, value in tree_hash(place).items() if not name.startswith(".git")}
        files = {name: (place / ".git" / name).read_bytes() for name in ("HEAD", "index", "config", "logs/HEAD", "refs/stash")}
        return {**mine, **files}

    before_run = kept()
    done = site.sync(checkout=str(place))
    assert kept() == before_run
    assert not (tmp_path / "hook-ran").exists()
    assert [item["local"] for item in planned["results"]] == [item["local"] for item in done["results"]]
    assert one(done, "work")["local"] == f"checked out in {place} and left as it is. Run git pull --rebase there."
    assert f"branch work: {one(done, 'work')['local']}" in json.dumps(done["warnings"])
    now, fork = refs(place, "refs/heads"), site.tips()
    assert now == {**fork, "work": old["work"]}
    assert {name: one(done, name)["local"] for name in ("main", RELEASE, "other")} == dict.fromkeys(
        ("main", RELEASE, "other"), "moved along"
    )

    before = tree_hash(tmp_path)
    for check in (True, False):
        assert site.sync(check=check, checkout=str(place))["changed"] is False
    assert tree_hash(tmp_path) == before


def test_a_branch_of_the_checkout_that_is_ahead_is_taken_along(site: Site, tmp_path: Path) -> None:
    place = site.checkout(tmp_path / "checkout")
    git("checkout", "--quiet", "work", cwd=place)
    git("commit", "--quiet", "--allow-empty", "--message", "not pushed yet", cwd=place)
    (place / "third").write_text("3\n", encoding="utf-8")
    git("add", "third", cwd=place)
    git("commit", "--quiet", "--message", "nor this", cwd=place)
    git("checkout", "--quiet", "main", cwd=place)
    done = one(site.sync(checkout=str(place)), "work")
    assert done["reason"].startswith("2 commits of the checkout that the fork has not; 4 commits rebased onto")
    assert done["local"] == "moved along"
    assert site.tips()["work"] == refs(place, "refs/heads")["work"] == done["commit"]


def test_work_in_the_checkout_that_is_nowhere_else_stays(site: Site, tmp_path: Path) -> None:
    place = site.checkout(tmp_path / "checkout")
    git("checkout", "--quiet", "-B", "work", RELEASE, cwd=place)
    (place / "mine").write_text("3\n", encoding="utf-8")
    git("add", "mine", cwd=place)
    git("commit", "--quiet", "--message", "started over", cwd=place)
    mine = git("rev-parse", "HEAD", cwd=place)
    git("checkout", "--quiet", "main", cwd=place)
    done = one(site.sync(checkout=str(place)), "work")
    assert "has commits of its own, and was left as it is" in done["local"]
    assert refs(place, "refs/heads")["work"] == mine
    assert site.tips()["work"] == done["commit"]


def test_a_bare_clone_serves_as_well(site: Site, tmp_path: Path) -> None:
    place = tmp_path / "clone.git"
    git("clone", "--quiet", "--bare", site.fork.bare, place, cwd=tmp_path)
    git("remote", "set-url", "origin", "git@github.com:Me/rlinf.git", cwd=place)
    site.sync(checkout=str(place))
    # HEAD of a bare clone names a branch, which git lets nobody else move
    assert {**refs(place, "refs/heads"), "main": ""} == {**site.tips(), "main": ""}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda site, place: place.mkdir(), "there is no git repository. Correct rlinf_fork_checkout"),
        (lambda site, place: None, "there is no git repository"),
        (
            lambda site, place: git("clone", "--quiet", "--depth=1", site.fork.bare.as_uri(), place, cwd=place.parent),
            "lacks a part of its history. Bring it (git fetch --unshallow)",
        ),
        (lambda site, place: git("clone", "--quiet", site.theirs.bare, place, cwd=place.parent), "has no remote for the fork"),
    ],
    ids=["a folder", "nothing", "shallow", "another repository"],
)
def test_a_checkout_that_does_not_serve(site: Site, tmp_path: Path, make: Callable[[Site, Path], object], words: str) -> None:
    make(site, tmp_path / "checkout")
    assert words in site.fails(checkout=str(tmp_path / "checkout"))["msg"]


# -- killed --------------------------------------------------------------------------------------------------------------------------


def test_killed_anywhere_the_next_run_comes_to_the_same(site: Site, tmp_path: Path) -> None:
    place = site.checkout(tmp_path / "checkout")
    fork = _branches.Fork(site.fork.url, site.theirs.url, (RELEASE,), (_branches.Branch("work", RELEASE),))
    network = Network(Rewrites({GITHUB: f"{(site.server.root / 'git/github.com').as_uri()}/"}), timeout=20)

    def work(*, check: bool = False) -> list[_branches.BranchResult]:
        return _branches.sync(fork, checkout=place, cache=site.cache, network=network, who=lambda: (ME["name"], ME["email"]), check=check)

    def moved() -> tuple[str, ...]:
        now = {"fork": site.tips(), "checkout": refs(place, "refs/heads")}
        return tuple(f"{where} {name}" for where, found in now.items() for name in wanted if found[name] != old[name])

    old, wanted = site.tips(), {result.name: result.commit for result in work(check=True)}
    number, seen = 0, set()
    while killed_at(number := number + 1, work):
        # the scratch repository is thrown away whatever it holds, so that going on from each state once proves it for all
        state = moved(), (site.cache / "scratch").exists()
        if state not in seen:
            assert {result.name: result.commit for result in work() if not result.problem} == wanted
            assert refs(place, "refs/heads")["work"] == wanted["work"] == site.tips()["work"]
            assert sorted(path.name for path in site.cache.iterdir()) == [".lock"]
        seen.add(state)
        for name in wanted if moved() else ():
            git("update-ref", f"refs/heads/{name}", old[name], cwd=site.fork.bare)
            git("fetch", "--quiet", site.fork.bare, f"+{name}:refs/heads/{name}", f"+{name}:refs/remotes/origin/{name}", cwd=place)
    # killed before the push, between it and the checkout's branch, and after that
    assert {("fork work" in state, "checkout work" in state) for state, _scratch in seen} == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"origin": "https://github.com/rlinf/rlinf"}, "are the same"),
        ({"origin": "ext::sh -c id"}, "not allowed"),
        ({"follow": ["main", "--upload-pack=id"]}, "is not the name of a branch"),
        ({"branches": [{"name": "main", "base": "main"}]}, "named more than once"),
        ({"branches": [{"name": "x", "base": "y"}]}, "is based on y, which is not among those"),
    ],
)
def test_arguments_that_cannot_be_used(site: Site, args: dict[str, Any], words: str) -> None:
    assert words in site.fails(**args)["msg"]
    assert os.listdir(site.cache) if site.cache.exists() else True


# -- as a user runs it ---------------------------------------------------------------------------------------------------------------


def test_the_playbook_shows_the_plan_and_what_was_done(site: Site, tmp_path: Path) -> None:
    given = {
        "rlinf_fork_url": site.fork.url,
        "rlinf_fork_branches": [{"name": name, "base": RELEASE} for name in site.branches],
        "rlinf_bundle_dir": str(tmp_path / "bundle"),
        "rlinf_prefix": str(tmp_path / "prefix"),
        "rlinf_url_rewrites": site.rewrites,
    }

    def play(*options: str, status: int = 0, **more: Any) -> str:
        argv = [
            Path(sys.executable).parent / "ansible-playbook",
            "rlinf.offline.sync_branches",
            "-e",
            json.dumps({**given, **more}),
            *options,
        ]
        env = {**os.environ, "HOME": str(site.home), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    assert "Give its URL in rlinf_fork_url" in play(rlinf_fork_url="", status=2)
    old = site.tips()
    planned = play("--check", "--diff")
    assert f"-{old['work']}" in planned and "work: two" in planned
    assert site.tips() == old and not (tmp_path / "bundle").exists()
    commit_on(site.fork, "other", "other: mine", **{"install.sh": LINES.replace("10\n", "mine\n")})
    said = play(status=2)
    assert f"work (pushed): {old['work'][:12]} -> {site.tips()['work'][:12]}, 2 commits rebased onto {RELEASE}" in said
    assert "other (conflict): rebasing its 3 commits onto" in said
