# SPDX-License-Identifier: GPL-3.0-or-later
"""Mirrors of real repositories over smart HTTP: whole or not there, frozen, complete with submodules and LFS objects."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout, _mirror
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, GitError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import redirect_config
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from tests.support.origins import Origin, git
from tests.support.upstream import Fault, Upstream

GITHUB = "https://github.com/"
TreeHash = Callable[..., dict[str, tuple[str, ...]]]


def network(rewrites: dict[str, str]) -> Network:
    return Network(Rewrites(rewrites), timeout=20, jobs=4, backoff=0.001)


@dataclass(frozen=True)
class Site:
    """An upstream, and a bundle that is made from it."""

    upstream: Upstream
    bundle: Bundle

    @property
    def network(self) -> Network:
        return network({GITHUB: f"{self.upstream.url}/git/github.com/"})

    def origin(self, name: str = "owner/name", branch: str = "main") -> Origin:
        made = Origin(self.upstream.root, f"github.com/{name}.git", branch)
        made.commit(file="one\n")
        return made

    def mirror(self, origin: Origin, **options: Any) -> _mirror.MirrorResult:
        entry = {key: options.pop(key) for key in ("version", "submodules", "lfs") if key in options}
        return _mirror.mirror_one(self.bundle, Repository("it", origin.url, **entry), options.pop("network", self.network), **options)

    def place(self, origin: Origin) -> Path:
        return self.bundle.repos / origin.bare.relative_to(self.upstream.root / "git")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "upstream" / "git").mkdir(parents=True)
    with Upstream(tmp_path / "upstream") as upstream:
        yield Site(upstream, Bundle(tmp_path / "bundle"))


def assert_whole(place: Path, commit: str) -> None:
    """A mirror is what any git can clone and gets this commit from, without the network."""
    git("fsck", "--strict", "--no-dangling", cwd=place)
    assert git("rev-parse", "HEAD", cwd=place) == commit
    assert (place / "HEAD").read_text() == f"{commit}\n"
    assert not (place / "objects" / "info" / "alternates").exists()
    assert not (place / "shallow").exists()


# -- a new mirror


@pytest.mark.parametrize("branch", ["main", "master", "trunk"])
def test_the_default_branch_is_the_remotes_own(site: Site, tmp_path: Path, branch: str) -> None:
    origin = site.origin(branch=branch)
    result = site.mirror(origin)
    assert (result.commit, result.default_branch, result.changed, result.state) == (origin.head, branch, True, "mirrored")
    assert_whole(site.place(origin), origin.head)
    git("clone", "--quiet", f"file://{site.place(origin)}", "copy", cwd=tmp_path)
    assert git("rev-parse", "HEAD", cwd=tmp_path / "copy") == origin.head


def test_a_mirror_holds_branches_and_tags_and_nothing_else(site: Site) -> None:
    origin = site.origin()
    origin.git("tag", "-a", "-m", "first", "v1")
    origin.git("branch", "release/v0.1")
    origin.git("update-ref", "refs/pull/1/head", origin.head)
    origin.publish()
    site.mirror(origin)
    place = site.place(origin)
    assert git("for-each-ref", "--format=%(refname)", cwd=place).split() == [
        "refs/heads/main",
        "refs/heads/release/v0.1",
        f"refs/rlinf/frozen/{origin.head}",
        "refs/tags/v1",
    ]
    assert sorted(path.name for path in place.iterdir()) == ["HEAD", "config", "objects", "packed-refs", "refs"]
    assert len(list(place.glob("objects/pack/*.pack"))) == 1


def test_a_mirror_names_neither_credential_nor_rewrite_nor_this_machine(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    site.upstream.require_login("/git/", "x-token", "s3cret")
    authority = site.upstream.url.partition("://")[2]
    result = site.mirror(origin, network=network({GITHUB: f"http://x-token:s3cret@{authority}/git/github.com/"}))
    assert result.url == origin.url
    told = json.dumps(result.json)
    for path in site.bundle.root.rglob("*"):
        told += path.read_bytes().decode("latin-1") if path.is_file() else ""
    assert not [secret for secret in ("s3cret", "x-token", authority, str(tmp_path)) if secret in told]
    assert json.loads((site.bundle.records / "repositories.json").read_text()) == {
        "github.com/owner/name.git": {"url": origin.url, "version": None, "commit": origin.head, "default_branch": "main", "cut_off": None}
    }


def test_a_copy_of_the_files_alone_is_a_repository(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    site.mirror(origin)
    for path in site.place(origin).rglob("*"):
        if path.is_file():
            target = tmp_path / "copy.git" / path.relative_to(site.place(origin))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    assert_whole(tmp_path / "copy.git", origin.head)


# -- versions


def test_each_kind_of_version(site: Site) -> None:
    origin = site.origin()
    first = origin.head
    origin.git("tag", "-a", "-m", "first", "v1")
    origin.git("branch", "release/v0.1")
    origin.commit(file="two\n")
    for version in ("v1", "release/v0.1", first, first[:9]):
        result = site.mirror(origin, version=version)
        assert (result.commit, result.version) == (first, version)
        assert_whole(site.place(origin), first)


def test_a_branch_goes_before_a_tag_of_the_same_name(site: Site) -> None:
    origin = site.origin()
    origin.git("tag", "same")
    origin.git("checkout", "--quiet", "-b", "same")
    origin.commit(file="two\n")
    assert site.mirror(origin, version="same").commit == origin.git("rev-parse", "refs/heads/same")


def test_a_commit_that_no_branch_holds(site: Site) -> None:
    origin = site.origin()
    origin.git("checkout", "--quiet", "--detach")
    lonely = origin.commit(file="lonely\n")
    origin.git("update-ref", "refs/pull/7/head", lonely)
    origin.publish()
    assert site.mirror(origin, version=lonely).commit == lonely
    assert_whole(site.place(origin), lonely)


CUT_OFFS = {
    "2025-03-09": None,
    "2025-03-10": 0,
    "2025-03-10T11:59:59Z": None,
    "2025-03-10T13:00:00+01:00": 0,
    "2025-04-01": 1,
    "2025-12-31T00:00:00": 2,
}


@pytest.mark.parametrize(("cut_off", "expected"), CUT_OFFS.items())
def test_the_cut_off_takes_the_last_commit_of_the_default_branch(site: Site, cut_off: str, expected: int | None) -> None:
    origin = Origin(site.upstream.root, "github.com/owner/name.git", "trunk")
    commits = [origin.commit(f"2025-{month}-10T12:00:00+00:00") for month in ("03", "04")]
    # merged in May, though written in April: it was not on the default branch by then
    origin.git("checkout", "--quiet", "-b", "side", commits[0])
    origin.commit("2025-03-20T12:00:00+00:00", side="x")
    origin.git("checkout", "--quiet", "trunk")
    env = ("-c", "user.name=x", "-c", "user.email=x@y")
    os.environ["GIT_COMMITTER_DATE"] = "2025-05-10T12:00:00+00:00"
    try:
        origin.git(*env, "merge", "--quiet", "--no-ff", "-m", "merge", "side")
    finally:
        del os.environ["GIT_COMMITTER_DATE"]
    commits.append(origin.head)
    origin.publish()
    if expected is None:
        with pytest.raises(GitError, match=f"trunk has no commit up to {cut_off[:10]}"):
            site.mirror(origin, cut_off=cut_off)
        assert not site.place(origin).exists()
    else:
        # in April the newest is that of April, not the one of a side branch
        assert site.mirror(origin, cut_off=cut_off).commit == (commits[0] if cut_off == "2025-04-01" else commits[expected])


def test_the_cut_off_is_for_entries_without_a_version(site: Site) -> None:
    origin = site.origin()
    result = site.mirror(origin, version="main", cut_off="1999-01-01")
    assert (result.commit, result.cut_off) == (origin.head, None)


def test_a_cut_off_that_is_none(site: Site) -> None:
    with pytest.raises(CatalogError, match="neither a date"):
        site.mirror(site.origin(), cut_off="last week")


# -- again


def test_again_nothing_is_written(site: Site, tree_hash: TreeHash) -> None:
    origin = site.origin()
    origin.git("tag", "-a", "-m", "first", "v1")
    origin.publish()
    site.mirror(origin)
    before = tree_hash(site.bundle.root, mtimes=True)
    result = site.mirror(origin)
    assert (result.changed, result.reason, result.old_commit) == (False, "up to date", origin.head)
    assert tree_hash(site.bundle.root, mtimes=True) == before


def test_a_mirror_is_always_fetched_and_its_commit_stays(site: Site) -> None:
    origin = site.origin()
    old = origin.head
    site.mirror(origin)
    origin.git("branch", "other")
    new = origin.commit(file="two\n")
    result = site.mirror(origin)
    assert (result.changed, result.commit, result.reason) == (True, old, "2 branches or tags differ upstream")
    assert_whole(site.place(origin), old)
    assert git("rev-parse", "refs/heads/main", cwd=site.place(origin)) == new
    assert len(list(site.place(origin).glob("objects/pack/*.pack"))) == 1
    assert site.mirror(origin).changed is False


def test_the_commit_moves_when_it_may(site: Site) -> None:
    origin = site.origin()
    old = origin.head
    site.mirror(origin)
    new = origin.commit(file="two\n")
    result = site.mirror(origin, move=True)
    assert (result.changed, result.old_commit, result.commit) == (True, old, new)
    assert_whole(site.place(origin), new)
    assert site.mirror(origin).commit == new
    assert site.mirror(origin, move=True).changed is False


def test_the_commit_moves_when_the_entry_changes(site: Site) -> None:
    origin = site.origin()
    first = origin.head
    site.mirror(origin)
    second = origin.commit("2025-02-01T00:00:00+00:00", file="two\n")
    assert site.mirror(origin, version="main").commit == second
    assert site.mirror(origin, cut_off="2025-01-15").commit == first
    assert site.mirror(origin, cut_off="2025-02-15").commit == second


def test_another_way_to_write_the_url_moves_nothing(site: Site) -> None:
    origin = site.origin()
    first = origin.head
    site.mirror(origin)
    origin.commit(file="two\n")
    result = _mirror.mirror_one(site.bundle, Repository("it", origin.url.removesuffix(".git")), site.network)
    assert result.commit == first
    assert git("config", "remote.origin.url", cwd=site.place(origin)) == origin.url.removesuffix(".git")


def test_history_rewritten_upstream_loses_no_frozen_commit(site: Site) -> None:
    origin = site.origin()
    kept = origin.commit(file="kept\n")
    origin.git("branch", "topic")
    origin.git("tag", "v1")
    origin.publish()
    site.mirror(origin)
    origin.git("reset", "--quiet", "--hard", "HEAD~1")
    new = origin.commit(file="rewritten\n")
    # a branch in the place of another, and a tag that moves
    origin.git("branch", "-D", "topic")
    origin.git("branch", "topic/inner")
    origin.git("tag", "--force", "v1")
    origin.publish()
    git("gc", "--quiet", "--prune=now", cwd=origin.bare)
    result = site.mirror(origin)
    assert (result.commit, result.changed) == (kept, True)
    assert_whole(site.place(origin), kept)
    assert git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags", cwd=site.place(origin)).split() == [
        *("refs/heads/main", "refs/heads/topic/inner", "refs/tags/v1"),
    ]
    moved = site.mirror(origin, move=True)
    assert (moved.old_commit, moved.commit) == (kept, new)
    git("cat-file", "-e", f"{kept}^{{tree}}", cwd=site.place(origin))


def test_a_frozen_commit_that_nobody_has_any_more(site: Site) -> None:
    origin = site.origin()
    origin.commit(file="kept\n")
    site.mirror(origin)
    shutil.rmtree(site.place(origin))
    origin.git("reset", "--quiet", "--hard", "HEAD~1")
    origin.commit(file="rewritten\n")
    git("gc", "--quiet", "--prune=now", cwd=origin.bare)
    with pytest.raises(GitError, match="frozen but gone upstream"):
        site.mirror(origin)
    assert not site.place(origin).exists()
    assert site.mirror(origin, move=True).commit == origin.head


# -- errors


def error_of(run: Callable[[], object]) -> GitError:
    with pytest.raises(GitError) as caught:
        run()
    return caught.value


def test_failures_are_different_errors(site: Site, tmp_path: Path) -> None:
    origin, private = site.origin(), site.origin("owner/private")
    site.upstream.require_login("/git/github.com/owner/private", "me", "secret")
    foreign = site.bundle.repos / "github.com" / "owner" / "foreign.git"
    foreign.mkdir(parents=True)
    (foreign / "mine").write_text("work")
    with Upstream(tmp_path / "gone") as gone:
        closed = gone.url

    def problem(url: str, version: str | None = None, reached: Network = site.network) -> str:
        error = error_of(lambda: _mirror.mirror_one(site.bundle, Repository("it", url, version), reached))
        assert "repository it" in str(error)
        return str(error.details["problem"])

    assert problem(origin.url, "no-such-branch") == "ref"
    assert problem(origin.url, "0" * 40) == "ref"
    assert problem(origin.url, "0123456") == "ref"
    assert problem(origin.url, reached=network({GITHUB: f"{closed}/"})) == "unreachable"
    assert problem(private.url) == "credentials"
    assert problem(f"{GITHUB}owner/missing.git") == "repository"
    assert problem(f"{GITHUB}owner/foreign.git") == "foreign"
    assert [path.name for path in (site.bundle.repos / "github.com" / "owner").iterdir()] == ["foreign.git"]
    assert not site.place(origin).exists()


def test_a_missing_version_names_what_is_near(site: Site) -> None:
    origin = site.origin()
    origin.git("branch", "release/v0.1")
    origin.publish()
    assert "Did you mean release/v0.1?" in str(error_of(lambda: site.mirror(origin, version="release/v0.11")))


def test_a_repository_without_a_commit(site: Site) -> None:
    assert "is empty" in str(error_of(lambda: site.mirror(Origin(site.upstream.root, "github.com/owner/empty.git"))))


@pytest.mark.parametrize("kind", ["file", "empty", "link", "other mirror", "flat clone"])
def test_something_else_in_the_place_is_left_alone(site: Site, tmp_path: Path, tree_hash: TreeHash, kind: str) -> None:
    origin, place = site.origin(), site.place(site.origin("owner/second"))
    place = site.place(origin)
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine")
    elif kind == "empty":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "flat clone":
        git("clone", "--quiet", origin.bare, place, cwd=tmp_path)
    else:
        git("clone", "--quiet", "--bare", origin.bare, place, cwd=tmp_path)
        git("remote", "set-url", "origin", f"{GITHUB}fork/name.git", cwd=place)
    before = tree_hash(site.bundle.root, mtimes=True)
    error = error_of(lambda: site.mirror(origin))
    assert error.details["problem"] == "foreign"
    assert str(place) in str(error)
    assert tree_hash(site.bundle.root, mtimes=True) == before


def test_a_damaged_mirror_is_told_or_mended(site: Site) -> None:
    origin = site.origin()
    site.mirror(origin)
    for path in site.place(origin).glob("objects/pack/*"):
        path.unlink()
    assert error_of(lambda: site.mirror(origin)).details["problem"] == "damaged"
    commit = origin.commit(file="two\n")
    assert site.mirror(origin, move=True).commit == commit
    assert_whole(site.place(origin), commit)


@pytest.mark.parametrize(
    "url", ["ext::sh -c id", "file:///srv/x/y", "--upload-pack=id", "git://github.com/a/b", "https://github.com/$(id)/b"]
)
def test_a_url_that_is_not_allowed_is_not_given_to_git(site: Site, url: str) -> None:
    with pytest.raises(CatalogError):
        _mirror.mirror_one(site.bundle, Repository("it", url), Network())


def test_broken_connections_leave_nothing_under_the_name(site: Site) -> None:
    origin = site.origin()
    noise = random.Random(1)
    origin.commit(big=noise.randbytes(200_000).hex())
    for cut in (0, 100, 5_000, 100_000):
        site.upstream.always("*/git-upload-pack", Fault(cut=cut))
        assert error_of(lambda: site.mirror(origin)).details["problem"] == "unreachable"
        assert not site.place(origin).exists()
    site.upstream.always("*/git-upload-pack", None)
    site.mirror(origin)
    assert_whole(site.place(origin), origin.head)


def test_a_connection_that_breaks_is_tried_again(site: Site) -> None:
    origin = site.origin()
    origin.commit(big=random.Random(1).randbytes(200_000).hex())
    site.upstream.script("*/info/refs", Fault(status=503), Fault(cut=10))
    site.upstream.script("*/git-upload-pack", Fault(), Fault(), Fault(cut=5_000), Fault(status=502))
    assert site.mirror(origin).commit == origin.head
    assert_whole(site.place(origin), origin.head)
    assert [path.name for path in site.place(origin).glob("objects/pack/*") if not path.name.startswith("pack-")] == []
    assert site.mirror(origin).changed is False


def test_a_broken_update_leaves_the_mirror_as_it_was(site: Site) -> None:
    origin = site.origin()
    old = origin.head
    site.mirror(origin)
    origin.commit(big=random.Random(1).randbytes(200_000).hex())
    site.upstream.always("*/git-upload-pack", Fault(cut=5_000))
    error_of(lambda: site.mirror(origin))
    site.upstream.always("*/git-upload-pack", None)
    assert_whole(site.place(origin), old)
    assert git("rev-parse", "refs/heads/main", cwd=site.place(origin)) == old


def test_a_remote_that_falls_silent_is_given_up(site: Site) -> None:
    origin = site.origin()
    site.upstream.script("*/git-upload-pack", Fault(), Fault(), Fault(stall=10))
    assert error_of(lambda: site.mirror(origin, network=dataclasses.replace(site.network, timeout=1))).details["problem"] == "unreachable"
    assert not site.place(origin).exists()


# -- killed


# started once: for each number on stdin a child runs to that checkpoint and dies there, or comes to its end
VICTIM = """
import os, sys
from pathlib import Path
from ansible_collections.rlinf.offline.plugins.module_utils import _checkout, _mirror
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.environ["RLINF_FAULT_AT"] = line.strip()
        {run}
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Victim:
    """A process that runs a line of Python over and over, killed at one checkpoint after the other."""

    def __init__(self, run: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", VICTIM.format(run=run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ends(self, number: int) -> bool:
        """Run to the checkpoint of this number; return whether there was none any more."""
        assert self.process.stdin and self.process.stdout
        print(number, file=self.process.stdin, flush=True)
        status = int(self.process.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status == 0

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.communicate()


def mirroring(site: Site, origin: Origin, move: bool) -> Victim:
    repository = f"Repository('it', {origin.url!r}, submodules=True)"
    reached = f"Network(Rewrites({site.network.rewrites.prefixes!r}), timeout=20)"
    return Victim(f"_mirror.mirror_one(Bundle(Path({str(site.bundle.root)!r})), {repository}, {reached}, move={move})")


def test_killed_at_every_step_of_a_first_run(site: Site) -> None:
    inner = site.origin("owner/inner")
    origin = site.origin()
    origin.submodule("inner", "../inner.git", inner.head)
    origin.commit()
    with mirroring(site, origin, move=False) as victim:
        for number in itertools.count(1):
            ended = victim.ends(number)
            for one in (origin, inner):
                if site.place(one).exists():
                    assert_whole(site.place(one), one.head)
            mirrors = {str(path.relative_to(site.bundle.repos)) for path in site.bundle.repos.glob("*/*/*.git")}
            assert set(_mirror.read_records(site.bundle)) <= mirrors
            if ended:
                break
            # from what was left behind to a whole, now and then
            if number % 6 == 0:
                assert site.mirror(origin, submodules=True).submodules
                assert_whole(site.place(origin), origin.head)
                assert_whole(site.place(inner), inner.head)
            shutil.rmtree(site.bundle.root, ignore_errors=True)
    assert number > 20
    assert site.mirror(origin, submodules=True).changed is False


def test_killed_at_every_step_of_an_update(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    old = origin.head
    site.mirror(origin, submodules=True)
    new = origin.commit(file="two\n")
    origin.git("branch", "other")
    origin.publish()
    shutil.copytree(site.bundle.root, tmp_path / "before")
    with mirroring(site, origin, move=True) as victim:
        for number in itertools.count(1):
            if victim.ends(number):
                break
            head = git("rev-parse", "HEAD", cwd=site.place(origin))
            assert head in (old, new)
            assert_whole(site.place(origin), head)
            # run again, it ends as if it had not been killed
            assert site.mirror(origin, submodules=True, move=True).commit == new
            assert_whole(site.place(origin), new)
            assert site.mirror(origin, submodules=True).changed is False
            shutil.rmtree(site.bundle.root)
            shutil.copytree(tmp_path / "before", site.bundle.root)
    assert number > 5


def test_what_a_killed_git_leaves_behind_is_swept_away(site: Site) -> None:
    origin = site.origin()
    site.mirror(origin)
    place = site.place(origin)
    left = [
        place / "HEAD.lock",
        place / "packed-refs.lock",
        place / "refs" / "heads" / "main.lock",
        place / "objects" / "pack" / "tmp_pack_abc",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    new = origin.commit(file="two\n")
    assert site.mirror(origin, move=True).commit == new
    assert not [path for path in left if path.exists()]


# -- many


def test_one_that_fails_does_not_stop_the_others(site: Site) -> None:
    origins = [site.origin(f"owner/r{number}") for number in range(4)]
    repositories = [Repository(f"r{number}", origin.url) for number, origin in enumerate(origins)]
    repositories.insert(2, Repository("missing", f"{GITHUB}owner/missing.git"))
    outcomes = _mirror.mirror_all(site.bundle, repositories, site.network)
    assert [outcome.json["state"] for outcome in outcomes] == ["mirrored", "mirrored", "failed", "mirrored", "mirrored"]
    assert len(_mirror.read_records(site.bundle)) == 4


@pytest.mark.parametrize("other", ["https://github.com/Owner/NAME", "git@github.com:owner/name.git"])
def test_one_repository_has_one_entry(site: Site, other: str) -> None:
    with pytest.raises(CatalogError, match="a and b are the same"):
        _mirror.mirror_all(site.bundle, [Repository("a", f"{GITHUB}owner/name.git"), Repository("b", other, "v2")], Network())


# -- private ones


def test_a_private_repository_by_ssh(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ssh, which runs what git asks of the host on this machine."""
    origin = site.origin()
    (tmp_path / "bin").mkdir()
    script = (
        "#!/bin/sh\n"
        f'echo "$*" >> "{tmp_path}/arguments"\n'
        "for last; do :; done\n"
        f'exec sh -c "$(echo "$last" | sed "s#\'/*#\'{site.upstream.root}/git/github.com/#")"\n'
    )
    (tmp_path / "bin/ssh").write_text(script)
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for url in ("git@github.com:owner/name.git", "ssh://git@github.com/owner/name.git"):
        result = _mirror.mirror_one(site.bundle, Repository("it", url), Network(timeout=20))
        assert (result.commit, result.url) == (origin.head, url)
        assert_whole(site.place(origin), origin.head)
    told = (tmp_path / "arguments").read_text()
    assert "-o BatchMode=yes" in told and "git@github.com" in told


# -- submodules


@pytest.fixture
def family(site: Site) -> tuple[Origin, Origin, Origin]:
    """A repository with a submodule by relative URL, which has one by absolute URL that is pinned to no branch's commit."""
    inner = site.origin("other/inner")
    inner.git("checkout", "--quiet", "--detach")
    lonely = inner.commit(file="lonely\n")
    inner.git("update-ref", "refs/pull/1/head", lonely)
    inner.publish()
    middle = site.origin("owner/middle", "trunk")
    middle.submodule("third_party/inner", inner.url, lonely)
    middle.commit()
    outer = site.origin("owner/outer")
    outer.submodule("middle", "../middle.git", middle.head)
    outer.commit()
    return outer, middle, inner


def test_submodules_are_mirrored_at_their_commits(site: Site, family: tuple[Origin, Origin, Origin], tree_hash: TreeHash) -> None:
    outer, middle, inner = family
    result = site.mirror(outer, submodules=True)
    assert [(item.path, item.url, item.mirror, item.commit) for item in result.submodules] == [
        ("middle", middle.url, "github.com/owner/middle.git", middle.head),
    ]
    assert_whole(site.place(middle), middle.head)
    assert_whole(site.place(inner), inner.head)
    before = tree_hash(site.bundle.root, mtimes=True)
    assert site.mirror(outer, submodules=True).changed is False
    assert tree_hash(site.bundle.root, mtimes=True) == before


def test_a_working_copy_with_submodules_needs_no_network(site: Site, family: tuple[Origin, Origin, Origin], tmp_path: Path) -> None:
    outer, middle, _inner = family
    result = site.mirror(outer, submodules=True)
    site.upstream.always("*", Fault(status=500))
    tree = tmp_path / "tree"
    _checkout.checkout(site.place(outer), result.commit, tree, origin_url=outer.url, submodules=True)
    assert (tree / "middle" / "third_party" / "inner" / "file").read_text() == "lonely\n"
    assert git("config", "remote.origin.url", cwd=tree / "middle") == middle.url
    assert _checkout.worktree_state(tree).clean


def test_a_submodule_that_moves_is_followed_and_an_own_entry_keeps_its_head(site: Site, family: tuple[Origin, Origin, Origin]) -> None:
    outer, middle, _inner = family
    pinned = middle.head
    site.mirror(middle, version=middle.git("rev-parse", "HEAD~1"))
    site.mirror(outer, submodules=True)
    assert_whole(site.place(middle), middle.git("rev-parse", "HEAD~1"))
    git("cat-file", "-e", pinned, cwd=site.place(middle))
    newer = middle.commit(more="x")
    outer.submodule("middle", "../middle.git", newer)
    outer.commit()
    assert site.mirror(outer, submodules=True, move=True).submodules[0].commit == newer
    git("rev-parse", "--verify", f"refs/rlinf/frozen/{newer}", cwd=site.place(middle))


def test_a_submodule_that_cannot_be_had_is_named(site: Site) -> None:
    origin = site.origin()
    origin.submodule("libs/gone", f"{GITHUB}owner/gone.git", "1" * 40)
    origin.commit()
    error = error_of(lambda: site.mirror(origin, submodules=True))
    assert "submodule libs/gone: " in str(error)
    assert error.details["problem"] == "repository"


@pytest.mark.parametrize("url", ["ext::sh -c id", "file:///etc/x", "/etc/x/y", "--upload-pack=id"])
def test_a_submodule_goes_through_the_same_gate(site: Site, url: str) -> None:
    origin = site.origin()
    origin.submodule("evil", url, "1" * 40)
    origin.commit()
    with pytest.raises((CatalogError, GitError)) as refused:
        site.mirror(origin, submodules=True)
    assert refused.value.details.get("problem", "refused") == "refused"


def test_two_at_a_time_may_have_the_same_submodule(site: Site) -> None:
    shared = site.origin("owner/shared")
    users = [site.origin(f"owner/user{number}") for number in range(3)]
    for user in users:
        user.submodule("shared", shared.url, shared.head)
        user.commit()
    repositories = [Repository(user.bare.name, user.url, submodules=True) for user in users]
    outcomes = _mirror.mirror_all(site.bundle, [*repositories, Repository("shared", shared.url)], site.network)
    assert all(outcome.json["state"] == "mirrored" for outcome in outcomes), outcomes
    assert_whole(site.place(shared), shared.head)
    assert _mirror.read_records(site.bundle)["github.com/owner/shared.git"]["version"] in (None, shared.head)


# -- LFS


@pytest.fixture
def with_lfs(site: Site) -> Origin:
    """A repository whose ``big.bin`` is an LFS object, which lies in the bare repository as it does where git-lfs is used over files."""
    content = b"large\n" * 1000
    digest = hashlib.sha256(content).hexdigest()
    origin = site.origin()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n"
    origin.commit(**{".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "big.bin": pointer})
    place = origin.bare / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    return origin


def test_lfs_objects_are_brought_where_asked_for(
    site: Site, with_lfs: Origin, tmp_path: Path, tree_hash: TreeHash, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = network({GITHUB: f"file://{site.upstream.root}/git/github.com/"})
    plain = site.mirror(with_lfs, network=files)
    assert not (site.place(with_lfs) / "lfs").exists()
    before = tree_hash(site.bundle.root, mtimes=True)
    assert site.mirror(with_lfs, network=files, lfs=True, check=True).changed
    assert tree_hash(site.bundle.root, mtimes=True) == before
    assert site.mirror(with_lfs, network=files, lfs=True).changed
    assert_whole(site.place(with_lfs), plain.commit)
    before = tree_hash(site.bundle.root, mtimes=True)
    assert site.mirror(with_lfs, network=files, lfs=True).changed is False
    assert tree_hash(site.bundle.root, mtimes=True) == before
    shutil.rmtree(with_lfs.bare)
    monkeypatch.setenv(TRACE, str(tmp_path / "trace"))
    _checkout.checkout(site.place(with_lfs), plain.commit, tmp_path / "tree", origin_url=with_lfs.url, lfs=True)
    assert " copy LFS object " in (tmp_path / "trace").read_text()
    assert (tmp_path / "tree" / "big.bin").read_bytes() == b"large\n" * 1000
    assert _checkout.worktree_state(tmp_path / "tree").clean


def test_lfs_objects_come_over_http_with_the_login_of_the_mirror(site: Site, with_lfs: Origin) -> None:
    site.upstream.require_login("/git/", "x-token", "s3cret")
    authority = site.upstream.url.partition("://")[2]
    reached = network({GITHUB: f"http://x-token:s3cret@{authority}/git/github.com/"})
    site.upstream.script("*/lfs/objects/??/*", Fault(cut=100), Fault(status=503))
    result = site.mirror(with_lfs, network=reached, lfs=True)
    assert_whole(site.place(with_lfs), result.commit)
    [kept] = (path for path in (site.place(with_lfs) / "lfs").rglob("*") if path.is_file())
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.name
    asked = [request.path for request in site.upstream.requests("*/lfs/*") if request.status == 200]
    assert any(path.endswith("/batch") for path in asked) and any(path.endswith(kept.name) for path in asked)
    assert not [path for path in site.bundle.root.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    site.upstream.forget()
    assert site.mirror(with_lfs, network=reached, lfs=True).changed is False
    assert site.upstream.requests("*/lfs/*") == []


def test_an_lfs_object_that_the_server_lacks_is_named(site: Site, with_lfs: Origin) -> None:
    shutil.rmtree(with_lfs.bare / "lfs")
    error = error_of(lambda: site.mirror(with_lfs, lfs=True))
    assert "not there" in str(error) or "could not be had" in str(error)
    assert not site.place(with_lfs).exists()


@pytest.mark.parametrize("body", [b"", b"<html>log in</html>", b"001e# service=git-upload-pack\n0000"], ids=["nothing", "web page", "cut"])
def test_an_answer_that_is_not_gits_is_told(site: Site, body: bytes) -> None:
    origin = site.origin()
    site.upstream.always("*/info/refs", Fault(body=body, headers={"Content-Type": "text/html" if body[:1] == b"<" else "text/plain"}))
    error = error_of(lambda: site.mirror(origin))
    assert error.details["problem"] in ("repository", "unreachable"), error
    assert not site.place(origin).exists()


def test_without_git_lfs_it_is_said(site: Site, with_lfs: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a PATH with git alone, and a git that looks for its parts nowhere else
    (tmp_path / "bin").mkdir()
    for program in ("git", "env", "sh"):
        found = shutil.which(program)
        assert found
        (tmp_path / "bin" / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "Install git-lfs" in str(error_of(lambda: site.mirror(with_lfs, lfs=True)))


# -- a commit that locking finds


def test_a_commit_is_brought_when_it_is_asked_for(site: Site) -> None:
    origin = site.origin()
    head = origin.head
    origin.git("checkout", "--quiet", "--detach")
    lonely = origin.commit(file="lonely\n")
    origin.git("update-ref", "refs/pull/7/head", lonely)
    origin.publish()
    site.mirror(origin)
    assert _mirror.ensure_commit(site.bundle, origin.url, lonely, site.network) == lonely
    assert_whole(site.place(origin), head)
    site.upstream.forget()
    assert _mirror.ensure_commit(site.bundle, origin.url, lonely, site.network) == lonely
    assert _mirror.ensure_commit(site.bundle, origin.url, "main", site.network) == head
    assert not site.upstream.requests()
    assert _mirror.ensure_commit(site.bundle, origin.url, "refs/pull/7/head", site.network) == lonely
    assert git("rev-parse", "refs/pull/7/head", cwd=site.place(origin)) == lonely
    assert error_of(lambda: _mirror.ensure_commit(site.bundle, origin.url, "2" * 40, site.network)).details["problem"] == "ref"
    assert site.mirror(origin).changed is False


def test_a_commit_of_a_repository_without_a_mirror(site: Site) -> None:
    origin = site.origin()
    assert _mirror.ensure_commit(site.bundle, origin.url, "main", site.network) == origin.head
    assert_whole(site.place(origin), origin.head)


# -- working copies


def test_a_working_copy_shares_nothing_with_the_bundle(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    old = origin.head
    site.mirror(origin)
    new = origin.commit(file="two\n")
    result = site.mirror(origin)
    tree = tmp_path / "tree"
    _checkout.checkout(site.place(origin), result.commit, tree, origin_url="https://token@github.com/owner/name.git")
    assert all(path.stat().st_nlink == 1 for path in tree.rglob("*") if path.is_file())
    shutil.rmtree(site.bundle.root)
    git("fsck", cwd=tree)
    assert git("rev-parse", "HEAD", "origin/main", cwd=tree).split() == [old, new]
    assert git("config", "remote.origin.url", cwd=tree) == origin.url
    assert _checkout.worktree_state(tree) == _checkout.WorktreeState(old, True, ())


def test_a_working_copy_of_a_branch_follows_it(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    origin.git("checkout", "--quiet", "-b", "release/v0.1")
    origin.commit(file="two\n")
    result = site.mirror(origin, version="release/v0.1")
    _checkout.checkout(site.place(origin), result.commit, tmp_path / "tree", origin_url=origin.url, branch="release/v0.1")
    assert git("status", "--short", "--branch", cwd=tmp_path / "tree") == "## release/v0.1...origin/release/v0.1"


def test_a_working_copy_of_a_commit_that_no_branch_holds(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    frozen = origin.commit(file="two\n")
    site.mirror(origin)
    origin.git("reset", "--quiet", "--hard", "HEAD~1")
    origin.commit(file="three\n")
    site.mirror(origin)
    _checkout.checkout(site.place(origin), frozen, tmp_path / "tree", origin_url=origin.url)
    assert (tmp_path / "tree" / "file").read_text() == "two\n"
    git("fsck", cwd=tmp_path / "tree")


def test_a_working_copy_out_of_a_read_only_bundle_of_another_user(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    commit = site.mirror(origin).commit
    for path in (site.bundle.root, *site.bundle.root.rglob("*")):
        os.chown(path, 12345, 12345)
    _checkout.checkout(site.place(origin), commit, tmp_path / "tree", origin_url=origin.url)
    assert (tmp_path / "tree").stat().st_uid == os.geteuid()
    config = tmp_path / "gitconfig"
    config.write_text(redirect_config(site.bundle.repos))
    git("fetch", "--quiet", cwd=tmp_path / "tree", env={"GIT_CONFIG_GLOBAL": str(config), "GIT_ALLOW_PROTOCOL": "file"})


def test_a_working_copy_takes_no_place_that_is_taken(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    commit = site.mirror(origin).commit
    (tmp_path / "tree").mkdir()
    error = error_of(lambda: _checkout.checkout(site.place(origin), commit, tmp_path / "tree", origin_url=origin.url))
    assert "is there already" in str(error)
    error = error_of(lambda: _checkout.checkout(site.place(origin), "3" * 40, tmp_path / "new", origin_url=origin.url))
    assert not (tmp_path / "new").exists()
    error = error_of(
        lambda: _checkout.checkout(
            site.bundle.repos / "github.com/owner/gone.git", commit, tmp_path / "new", origin_url=f"{GITHUB}owner/gone.git"
        )
    )
    assert "Run the download playbook" in str(error)


def test_a_working_copy_is_there_whole_or_not_at_all(site: Site, tmp_path: Path) -> None:
    origin = site.origin()
    commit = site.mirror(origin).commit
    tree = tmp_path / "tree"
    arguments = f"Path({str(site.place(origin))!r}), {commit!r}, Path({str(tree)!r})"
    with Victim(f"_checkout.checkout({arguments}, origin_url={origin.url!r}, branch='main')") as victim:
        for number in itertools.count(1):
            ended = victim.ends(number)
            if tree.exists():
                assert _checkout.worktree_state(tree).clean
                shutil.rmtree(tree)
            if ended:
                break
    assert number > 5


def test_the_state_of_a_working_copy_names_what_differs(site: Site, tmp_path: Path, tree_hash: TreeHash) -> None:
    origin = site.origin()
    origin.commit(**{".gitignore": "*.log\n", "gone": "x", "same": "x"})
    commit = site.mirror(origin).commit
    tree = tmp_path / "tree"
    _checkout.checkout(site.place(origin), commit, tree, origin_url=origin.url)
    (tree / "file").write_text("edited\n")
    (tree / "gone").unlink()
    (tree / "new file ü").write_text("x")
    (tree / "ignored.log").write_text("x")
    os.utime(tree / "same")
    before = tree_hash(tree, mtimes=True)
    assert _checkout.worktree_state(tree) == _checkout.WorktreeState(commit, False, ("file", "gone", "new file ü"), ("file", "gone"))
    assert tree_hash(tree, mtimes=True) == before
    error_of(lambda: _checkout.worktree_state(tmp_path))


def test_the_time_of_a_commit(site: Site) -> None:
    origin = Origin(site.upstream.root, "github.com/owner/name.git")
    commit = origin.commit("2025-01-01T00:00:00+00:00")
    site.mirror(origin)
    assert _checkout.commit_time(site.place(origin), commit) == 1735689600
    error_of(lambda: _checkout.commit_time(site.place(origin), "4" * 40))
