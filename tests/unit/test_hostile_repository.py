# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories made to run something or to write elsewhere: real ones, mirrored and checked out by real git; no marker is ever made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout, _git, _lfs, _mirror, _worktrees
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, GitError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._submodules import check_submodules, read_submodules
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from ansible_collections.rlinf.offline.plugins.module_utils._uv import isolated_environment
from tests.support.origins import Origin, git
from tests.support.upstream import Upstream

GITHUB = "https://github.com/"


@dataclass
class Trap:
    """An upstream, a bundle, and a program that leaves a marker when it runs."""

    root: Path
    upstream: Upstream

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.root / "bundle")

    @property
    def program(self) -> Path:
        place = self.root / "program"
        if not place.exists():
            place.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.root}/marker\ncat\n')
            place.chmod(0o755)
        return place

    @property
    def network(self) -> Network:
        return Network(Rewrites({GITHUB: f"{self.upstream.url}/git/github.com/"}), timeout=20, backoff=0.001)

    def origin(self, name: str = "owner/name") -> Origin:
        made = Origin(self.upstream.root, f"github.com/{name}.git")
        made.commit(file="one\n")
        return made

    def use(self, origin: Origin) -> Path:
        """Mirror it with its submodules and make a working copy, as download and install do."""
        result = _mirror.mirror_one(self.bundle, Repository("it", origin.url, submodules=True), self.network)
        tree = self.root / "node" / "tree"
        tree.parent.mkdir(exist_ok=True)
        _checkout.checkout(self.bundle.repos / result.mirror, result.commit, tree, origin_url=origin.url, submodules=True)
        _checkout.worktree_state(tree)
        return tree

    def sprung(self) -> bool:
        return (self.root / "marker").exists() or (self.root / "escaped").exists()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    (tmp_path / "upstream" / "git").mkdir(parents=True)
    with Upstream(tmp_path / "upstream") as upstream:
        yield Trap(tmp_path, upstream)


def blob(origin: Origin, text: str) -> str:
    (origin.tree.parent / "blob").write_text(text)
    return origin.git("hash-object", "-w", "--no-filters", origin.tree.parent / "blob")


def tree_of(origin: Origin, *entries: str) -> str:
    """Write a tree object as it is, without git's own checks; entries are ``mode sha name``."""
    raw = b"".join(
        f"{mode} {name}".encode() + b"\0" + bytes.fromhex(digest) for mode, digest, name in (entry.split(" ", 2) for entry in entries)
    )
    command = ["git", "hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    return subprocess.run(command, input=raw, cwd=origin.tree, check=True, capture_output=True).stdout.decode().strip()


def commit_tree(origin: Origin, *entries: str) -> None:
    origin.git("reset", "--quiet", "--soft", origin.git("commit-tree", "-m", "x", tree_of(origin, *entries)))
    origin.git("config", "--local", "receive.fsckObjects", "false")
    origin.publish()


def as_submodule(origin: Origin, *, name: str = "sub", path: str = "sub", url: str = f"{GITHUB}owner/sub.git", more: str = "") -> None:
    """Commit a .gitmodules as it is written here, and pin the first commit of the origin itself."""
    text = f'[submodule "{name}"]\n\tpath = {path}\n\turl = {url}\n{more}'
    commit_tree(origin, f"100644 {blob(origin, text)} .gitmodules", f"160000 {origin.head} sub")


# -- what a repository may hold


def hooks_and_filters(trap: Trap, origin: Origin) -> None:
    (origin.tree / "hooks").mkdir()
    for name in ("hooks/post-checkout", "hooks/post-merge", ".husky-post-checkout"):
        (origin.tree / name).write_text(f"#!/bin/sh\ntouch {trap.root}/marker\n")
        (origin.tree / name).chmod(0o755)
    attributes = "* filter=evil diff=evil merge=evil\n"
    settings = (
        f'[filter "evil"]\n\tsmudge = {trap.program}\n\tclean = {trap.program}\n[core]\n\thooksPath = hooks\n\tfsmonitor = {trap.program}\n'
    )
    origin.commit(**{".gitattributes": attributes, ".gitconfig": settings, "config": settings})
    # the published repository's own hooks and settings stay where they are
    (origin.bare / "hooks" / "post-checkout").write_text(f"#!/bin/sh\ntouch {trap.root}/marker\n")
    (origin.bare / "hooks" / "post-checkout").chmod(0o755)


def test_hooks_and_filters_in_a_repository_do_not_run(trap: Trap) -> None:
    origin = trap.origin()
    hooks_and_filters(trap, origin)
    tree = trap.use(origin)
    assert (tree / "config").is_file() and not trap.sprung()
    assert not [line for line in git("config", "--local", "--list", cwd=tree).splitlines() if "evil" in line or "hookspath" in line]


@pytest.mark.parametrize(
    "entries",
    [
        ["40000 {tree} .GIT"],
        ["40000 {tree} .git"],
        ["40000 {tree} git~1"],
        ["40000 {tree} .g\u200cit"],
        ["120000 {link} .git"],
        ["40000 {tree} .."],
        ["100644 {link} a/b"],
        ["120000 {link} .gitmodules"],
        ["120000 {link} A", "40000 {tree} A"],
    ],
)
def test_a_tree_that_writes_into_gits_own_folder_is_refused(trap: Trap, entries: list[str]) -> None:
    origin = trap.origin()
    link = blob(origin, str(trap.root / "escaped"))
    inner = tree_of(origin, f"100644 {blob(origin, f'[core]{chr(10)}fsmonitor = {trap.program}')} config")
    commit_tree(origin, *(entry.format(tree=inner, link=link) for entry in entries))
    with pytest.raises(GitError) as refused:
        trap.use(origin)
    assert refused.value.details["problem"] in ("refused", "damaged"), refused.value
    assert not trap.sprung() and not list(trap.bundle.repos.rglob("*.git"))


SUBMODULES = [
    {"name": "../x"},
    {"name": "../../hooks"},
    {"name": "-udate"},
    {"name": "a/../../b"},
    {"url": "-u./payload"},
    {"url": "--upload-pack=touch"},
    {"url": "ext::sh -c touch% x"},
    {"url": "ext::touch"},
    {"url": '"https://github.com/a/b\\n--upload-pack=x"'},
    {"url": "file:///etc"},
    {"url": "/etc"},
    {"url": "./-x/../../../../../../etc"},
    {"url": "http://elsewhere.example/a/b.git"},
    {"url": "https://user:word@github.com/a/b.git"},
    {"url": "https://github.com%00@elsewhere.example/a/b.git"},
    {"url": "ssh://-oProxyCommand=touch/a/b"},
    {"url": "https://github.com/$(touch)/b.git"},
    {"more": "\tupdate = !touch x\n"},
]


@pytest.mark.parametrize("entry", SUBMODULES, ids=lambda entry: repr(entry)[:60])
def test_a_hostile_submodule_is_refused(trap: Trap, entry: dict[str, str]) -> None:
    origin = trap.origin()
    trap.origin("owner/sub")
    as_submodule(origin, **entry)
    with pytest.raises((CatalogError, GitError)) as refused:
        trap.use(origin)
    assert refused.value.details.get("problem", "refused") == "refused" or "too far" in str(refused.value), refused.value
    assert not trap.sprung()


@pytest.mark.parametrize("path", ["-u./x", "../x", ".git/modules/x", ".GIT/hooks", "git~1/x", ".git. /x", "sub\r", "C:/x", "a\\b", "/x"])
def test_a_path_that_is_no_place_for_a_submodule_is_refused(path: str) -> None:
    """By the reader alone: git itself lets no such tree in, as far as it knows of it."""

    class Store(_git.Git):
        """A stand-in for a store whose tree holds a path that git never lets in."""

        def read(self, *_arguments: object, about: str) -> str:
            return f"160000 commit {'1' * 40}\t{path}\0"

        def test(self, *_arguments: object) -> str:
            return f"submodule.sub.path\n{path}\0submodule.sub.url\n{GITHUB}a/b\0"

    with pytest.raises(CatalogError, match="submodule"):
        assert not read_submodules(Store({}), "1" * 40, f"{GITHUB}owner/name.git"), path


def test_a_submodule_below_a_link_is_refused(trap: Trap) -> None:
    origin = trap.origin()
    inner = tree_of(origin, f"160000 {origin.head} sub")
    text = f'[submodule "a/sub"]\n\tpath = a/sub\n\turl = {GITHUB}owner/sub.git\n'
    commit_tree(origin, f"100644 {blob(origin, text)} .gitmodules", f"120000 {blob(origin, '.git')} A", f"40000 {inner} a")
    with pytest.raises(CatalogError, match="below a link"):
        trap.use(origin)


# -- what a working copy on a node may have been turned into


def spring(trap: Trap, tree: Path, evil: str) -> None:
    """Set all that the settings and hooks of a working copy can set to run something; *evil* names its drivers."""
    program = str(trap.program)
    names = ["core.fsmonitor", "core.sshCommand", "core.editor", "core.pager", "core.gitProxy", "core.askPass", "credential.helper"]
    names += ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.external", "diff.evil.command", "diff.evil.textconv"]
    names += [
        "filter.lfs.clean",
        "filter.lfs.process",
        "filter.lfs.smudge",
        "merge.evil.driver",
        "gpg.program",
        "uploadpack.packObjectsHook",
    ]
    for name in names:
        git("config", "--local", name.replace("evil", evil), program, cwd=tree)
    git("config", "--local", f"filter.{evil}.required", "true", cwd=tree)
    git("config", "--local", "core.hooksPath", trap.root / "hooks", cwd=tree)
    git("config", "--local", "submodule.sub.update", f"!{program}", cwd=tree)
    folder = Path(git("rev-parse", "--absolute-git-dir", cwd=tree))
    (folder / "info").mkdir(exist_ok=True)
    (folder / "info" / "attributes").write_text(f"* filter={evil} diff={evil} merge={evil}\n*.bin filter=lfs\n")
    for hooks in (folder / "hooks", trap.root / "hooks"):
        hooks.mkdir(exist_ok=True)
        for name in ("post-checkout", "pre-commit", "reference-transaction", "post-index-change", "fsmonitor-watchman", "post-merge"):
            (hooks / name).write_text(f"#!/bin/sh\ntouch {trap.root}/marker\n")
            (hooks / name).chmod(0o755)


def with_submodule(trap: Trap) -> Origin:
    inner, outer = trap.origin("owner/sub"), trap.origin()
    outer.submodule("sub", inner.url, inner.head)
    outer.commit(**{"a.bin": "x"})
    return outer


def changed(tree: Path) -> None:
    """Let git look into the files: their times tell it nothing."""
    for path in (tree / "file", tree / "a.bin", tree / "sub" / "file"):
        path.write_text(path.read_text())
        os.utime(path, (1, 1))


def test_settings_and_hooks_of_a_working_copy_and_its_submodules_run_nothing(trap: Trap) -> None:
    origin = with_submodule(trap)
    tree = trap.use(origin)
    mirror = trap.bundle.repos / "github.com" / "owner" / "name.git"
    spring(trap, tree, "evil")
    spring(trap, tree / "sub", "other")
    changed(tree)
    assert _checkout.worktree_state(tree).clean
    with _git.session(repos=trap.bundle.repos) as session:
        copy = session.at(tree=tree)
        copy.read("submodule", "status", "--recursive", about="x")
        copy.write("fetch", "--quiet", "--", mirror, "+refs/heads/*:refs/remotes/origin/*", about="x")
        (tree / "file").write_text("edited\n")
        (tree / "sub" / "file").write_text("edited\n")
        copy.write("reset", "--quiet", "--hard", "HEAD", about="x")
        copy.write("checkout", "--quiet", "--force", "--detach", "HEAD", "--", about="x")
        copy.write("submodule", "--quiet", "update", "--init", "--recursive", "--force", "--checkout", about="x")
    assert _checkout.worktree_state(tree).clean
    assert (tree / "sub" / "file").read_text() == "one\n"
    assert not trap.sprung(), (trap.root / "marker").read_text()


def test_helpers_and_programs_of_a_working_copy_do_not_meet_a_remote(trap: Trap) -> None:
    origin = with_submodule(trap)
    tree = trap.use(origin)
    spring(trap, tree, "evil")
    trap.upstream.require_login("/git/", "me", "word")
    with _git.session(url=origin.url, network=trap.network) as session, pytest.raises(GitError) as refused:
        session.at(tree=tree).ask("ls-remote", "--", origin.url, about="x")
    assert refused.value.details["problem"] == "credentials"
    with _git.session(url="ssh://git@127.0.0.1:1/a/b") as session, pytest.raises(GitError):
        session.at(tree=tree).run(["ls-remote", "--", "ssh://git@127.0.0.1:1/a/b"], about="x")
    assert not trap.sprung(), (trap.root / "marker").read_text()


def test_alternates_of_a_mirror_bring_nothing_from_elsewhere(trap: Trap) -> None:
    """A working copy holds its own objects, whatever else a mirror names."""
    origin, secret = trap.origin(), trap.origin("owner/secret")
    result = _mirror.mirror_one(trap.bundle, Repository("it", origin.url), trap.network)
    place = trap.bundle.repos / result.mirror
    (place / "objects" / "info").mkdir(exist_ok=True)
    (place / "objects" / "info" / "alternates").write_text(f"{secret.bare}/objects\n")
    _checkout.checkout(place, result.commit, trap.root / "tree", origin_url=origin.url)
    assert git("fsck", "--strict", cwd=trap.root / "tree") == ""
    assert (trap.root / "tree" / "file").read_text() == "one\n"


# -- the gate itself


@pytest.mark.parametrize("word", ["ext::sh", "https://me:word@host/a/b", "::x"])
def test_git_is_given_no_login_and_no_transport(word: str) -> None:
    with _git.session() as session, pytest.raises(GitError, match="nothing that git may be given") as refused:
        session.ask("ls-remote", "--", word, about="x")
    assert "word@" not in str(refused.value)


def test_a_killed_run_leaves_no_login(trap: Trap, tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from ansible_collections.rlinf.offline.plugins.module_utils import _git\n"
        "with _git.session(url='https://me:s3cret@github.com/a/b') as s: os.kill(os.getpid(), signal.SIGKILL)"
    )
    aside = tmp_path / "aside"
    aside.mkdir()
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(aside)}, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in aside.rglob("*") if path.is_file()]
    assert left and not [path for path in left if b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("git version 2.25.1", "CVE-2022-24765"),
        ("git version 2.34.0", "CVE-2024-32002"),
        ("no git", "too old"),
        ("git version 2.34.1", ""),
        ("git version 2.39.5", ""),
        ("git version 2.43.0", ""),
        ("git version 2.43.7", ""),
        ("git version 2.50.1", ""),
        ("git version 2.52.0 (Apple Git-155)", ""),
        ("git version 3.0.0-rc1", ""),
        ("git version 2.40.0", "2.50.1 has not"),
        ("git version 2.46.2", "2.46.4 has not"),
        ("git version 2.50.0", "2.50.1 has not"),
    ],
)
def test_the_age_of_git(said: str, verdict: str) -> None:
    told: Callable[[], str | None] = lambda: _git.doubt(_git.version_of(said))  # noqa: E731
    if verdict.startswith("CVE") or verdict == "too old":
        with pytest.raises(GitError, match=verdict):
            told()
    else:
        assert verdict in (told() or "") and bool(told()) == bool(verdict)


def test_a_file_named_like_a_pathspec_takes_no_other_with_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    git("init", "-q", cwd=tree)
    for name in (":(top)", "mine"):
        (tree / name).write_text("upstream's\n")
    git("--literal-pathspecs", "add", ".", cwd=tree)
    git("commit", "-q", "-m", "x", cwd=tree)
    (tree / _worktrees.NOTE).write_text("{}")
    _worktrees.begin_script(tree)
    (tree / ":(top)").write_text("a script's\n")
    _worktrees.end_script(tree)
    (tree / "mine").write_text("my edit\n")
    _worktrees.undo_scripts(tree)
    assert [(tree / name).read_text() for name in (":(top)", "mine")] == ["upstream's\n", "my edit\n"]


def test_a_name_of_two_lines_is_no_lfs_object(trap: Trap) -> None:
    origin, digest = trap.origin(), "0123456789abcdef" * 4
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 1\n"
    (origin.tree / "a\n" / "etc").mkdir(parents=True)
    origin.commit(**{".gitattributes": "* filter=lfs\n", "a\n/etc/passwd - b": pointer})
    result = _mirror.mirror_one(trap.bundle, Repository("it", origin.url), trap.network)
    with _git.session() as store:
        found = _lfs.objects(store.at(git_dir=trap.bundle.repos / result.mirror), result.commit, "it")
    assert found == [digest]


@pytest.mark.parametrize(("path", "url"), [("sub", "file:///home/me/private.git"), ("sub\r", f"{GITHUB}owner/sub.git")])
def test_a_commit_that_uv_would_check_out_has_its_submodules_judged_though_none_are_mirrored(trap: Trap, path: str, url: str) -> None:
    origin = trap.origin()
    text = f'[submodule "sub"]\n\tpath = "{path}"\n\turl = {url}\n'
    commit_tree(origin, f"100644 {blob(origin, text)} .gitmodules", f"160000 {origin.head} {path}")
    origin.git("config", "fetch.fsckObjects", "false")
    result = _mirror.mirror_one(trap.bundle, Repository("it", origin.url), trap.network)
    with pytest.raises(CatalogError, match="submodule"):
        check_submodules(trap.bundle.repos, [(origin.url, result.commit)])


def test_git_that_uv_calls_runs_nothing_that_a_repository_names(trap: Trap, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    git("init", "-q", cwd=tree)
    git("config", "core.fsmonitor", str(trap.program), cwd=tree)
    git("config", "core.hooksPath", "hooks", cwd=tree)
    (tree / "hooks").mkdir()
    (tree / "hooks" / "post-checkout").symlink_to(trap.program)
    env = {"PATH": os.environ["PATH"], **isolated_environment(tmp_path / "cache")}
    user = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["add", "."], [*user, "commit", "-q", "-m", "x"], ["checkout", "-q", "--detach"], ["status"]):
        subprocess.run(["git", *arguments], cwd=tree, env=env, check=True, capture_output=True)
    assert not trap.sprung()
