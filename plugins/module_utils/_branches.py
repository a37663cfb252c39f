# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fork and its upstream: branches that follow upstream untouched, and work branches that are rebased onto them.

Everything is tried in a scratch repository, which borrows the objects of the user's checkout and is thrown away. Only what succeeded is
pushed, and only branches of the checkout that hold nothing else are moved then: its HEAD, index, files and stashes are never touched.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import check_ref
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, GitError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import at_home, exclusive, remove, rename
from ansible_collections.rlinf.offline.plugins.module_utils._git import Git, committer, failure, session
from ansible_collections.rlinf.offline.plugins.module_utils._mirror import remote_refs
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, check_url, without_userinfo

NAMED = 10
"""How many commits or files a message names; the counts are always whole."""
_IDENTITY = re.compile(r"(?P<name>[^<>\n]+?) <(?P<email>[^<>\s]+)>\Z")


@dataclass(frozen=True)
class Branch:
    """A work branch, and the branch of upstream that it is based on."""

    name: str
    base: str


@dataclass(frozen=True)
class Fork:
    """A fork: where it and its upstream are, the branches that *follow* upstream, and those that are worked on."""

    origin: str
    upstream: str
    follow: tuple[str, ...]
    branches: tuple[Branch, ...]

    def check(self) -> None:
        """:raises CatalogError: a URL or a name cannot be used, or a branch is named twice or based on one that follows nothing."""
        for url, what in ((self.origin, "the fork"), (self.upstream, "upstream")):
            check_url(url, what)
            RepositoryId.parse(url)
        if RepositoryId.parse(self.origin).key == RepositoryId.parse(self.upstream).key:
            raise CatalogError(f"The fork and its upstream are the same, {without_userinfo(self.origin)}. Correct rlinf_fork_url.")
        names = [*self.follow, *(branch.name for branch in self.branches)]
        for name in names:
            check_ref(name, "a branch of the fork")
            if names.count(name) > 1:
                raise CatalogError(f"The branch {name} is named more than once among those that follow upstream and those of work.")
        for branch in self.branches:
            if branch.base not in self.follow:
                raise CatalogError(f"The branch {branch.name} is based on {branch.base}, which is not among those that follow upstream.")


@dataclass(frozen=True)
class BranchResult:
    """What became of one branch.

    *state*: ``current``, ``pushed``, ``outdated`` (check mode: it would be pushed), ``conflict`` or ``failed``. *old_commit*, *commit*: of
    the fork, empty where there is none. *commits*: what was rebased, the oldest first, as ``<commit> <subject>``. *files*: those in
    conflict. *local*: what became of the branch of that name in the checkout, if something did.
    """

    name: str
    base: str
    changed: bool
    state: str
    reason: str
    old_commit: str = ""
    commit: str = ""
    commits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    problem: str = ""
    local: str = ""
    bytes: int = 0
    seconds: float = 0.0

    @property
    def json(self) -> dict[str, Any]:
        return {**asdict(self), "commits": list(self.commits), "files": list(self.files), "seconds": round(self.seconds, 2)}


def identity(text: str, checkout: Path | None) -> tuple[str, str]:
    """Return the name and address that rebased commits get as their committer's.

    :param text: as ``Name <address>``; if empty, what the user's git knows.
    :raises GitError: *text* is not of that form, or git knows none.
    """
    given = _IDENTITY.match(text)
    if text and not given:
        raise GitError(f"rlinf_fork_committer: {text!r} is not of the form 'Name <address>'. Correct it.", problem="identity")
    found = (given["name"], given["email"]) if given else committer(checkout)
    if not found:
        raise GitError(
            "git does not know who rebases: set user.name and user.email (git config --global), or give rlinf_fork_committer, 'Name <address>'.",
            problem="identity",
        )
    return found


# -- the user's checkout -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkout:
    """A repository of the user, as it is found.

    *remote*: the name that it has for the fork. *heads*: its branches; *tracked*: where it last saw those of the fork; *in_use*: the
    branches that some working copy stands on, with its path.
    """

    git: Git
    path: Path
    objects: Path
    remote: str
    heads: Mapping[str, str]
    tracked: Mapping[str, str]
    in_use: Mapping[str, str]

    @classmethod
    def open(cls, git: Git, path: Path, origin: str) -> Checkout:
        """Look at the checkout at *path*.

        :raises GitError: it is no repository, not one of the fork *origin*, or lacks a part of its history.
        """
        about = f"the checkout {path}"
        store = git.at(tree=path)
        common = store.test("rev-parse", "--path-format=absolute", "--git-common-dir") if path.is_dir() else None
        if common is None:
            raise GitError(f"{about}: there is no git repository. Correct rlinf_fork_checkout, or leave it empty.", problem="repository")
        if store.test("rev-parse", "--is-shallow-repository") != "false" or store.test("config", "--get", "extensions.partialClone"):
            remedy = "Bring it (git fetch --unshallow), or leave rlinf_fork_checkout empty."
            raise GitError(f"{about} lacks a part of its history. {remedy}", problem="shallow")
        remote = _remote_of(store, origin, about)
        return cls(
            git=store,
            path=path,
            objects=Path(common, "objects"),
            remote=remote,
            heads=_listed(store, "refs/heads/"),
            tracked=_listed(store, f"refs/remotes/{remote}/"),
            in_use=_in_use(store, Path(common), about),
        )

    def holds_nothing_else(self, name: str, commit: str, source: str, scratch: Git) -> bool:
        """Return whether every commit of a branch is in *commit* in some form, or was published in the fork."""
        mine = self.heads[name]
        if mine in (source, self.tracked.get(name)) or _is_ancestor(scratch, mine, commit):
            return True
        return not scratch.read("rev-list", "--cherry-pick", "--right-only", "--no-merges", f"{commit}...{mine}", about=name)

    def take(self, scratch: Path, name: str, commit: str) -> None:
        """Move a branch, and what the checkout knows of the fork's, in one transaction. git refuses a branch that someone stands on."""
        spec = [f"+{commit}:refs/remotes/{self.remote}/{name}", f"+{commit}:refs/heads/{name}"]
        options = ("--quiet", "--atomic", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
        self.git.write("fetch", *options, "--", scratch, *spec, about=f"branch {name} of the checkout {self.path}")


def _remote_of(store: Git, origin: str, about: str) -> str:
    """Return the name that a repository has for a remote.

    :raises GitError: it has none for it.
    """
    for line in (store.test("config", "--get-regexp", r"^remote\..*\.url$") or "").splitlines():
        key, _ignored, url = line.partition(" ")
        with contextlib.suppress(CatalogError):
            if RepositoryId.parse(url).key == RepositoryId.parse(origin).key:
                return key.removeprefix("remote.").removesuffix(".url")
    remedy = "Correct rlinf_fork_checkout or rlinf_fork_url, or leave the former empty."
    raise GitError(f"{about} has no remote for the fork {without_userinfo(origin)}. {remedy}", problem="foreign")


def _in_use(store: Git, common: Path, about: str) -> dict[str, str]:
    """Return the branches that are checked out or in the middle of a rebase, with the working copy that stands on each."""
    found, path = {}, ""
    for line in store.read("worktree", "list", "--porcelain", about=about).splitlines():
        key, _ignored, value = line.partition(" ")
        if key == "worktree":
            path = value
        elif key == "branch":
            found[value.removeprefix("refs/heads/")] = path
    for state in ("rebase-merge", "rebase-apply"):
        for place in (common / state, *common.glob(f"worktrees/*/{state}")):
            with contextlib.suppress(OSError):
                head = (place / "head-name").read_text(encoding="utf-8").strip()
                found.setdefault(head.removeprefix("refs/heads/"), f"{place.parent} (in the middle of a rebase)")
    return found


# -- the work ------------------------------------------------------------------------------------------------------------------


def sync(
    fork: Fork, *, checkout: Path | None, cache: Path, network: Network, who: Callable[[], tuple[str, str]], check: bool = False
) -> list[BranchResult]:
    """Bring a fork up to date with its upstream; return what became of each branch, in their order. None stops another.

    :param checkout: a checkout of the fork, or a bare clone; without it a bare one is kept under *cache*.
    :param cache: a directory of our own, where the scratch repository lies, too.
    :param who: gives name and address of the committer; called only if something has to be rebased.
    :param check: try everything in the scratch repository, and change nothing.
    :raises CatalogError: a URL or a name cannot be used.
    :raises GitError: fork, upstream or checkout cannot be had.
    """
    fork.check()
    url = without_userinfo(fork.origin)
    kept = cache / RepositoryId.parse(fork.origin).mirror
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch(cache, check=check))
        local = stack.enter_context(session(url=scratch.as_uri()))
        origin = stack.enter_context(session(url=fork.origin, network=network))
        upstream = stack.enter_context(session(url=fork.upstream, network=network))
        found = Checkout.open(local, checkout, fork.origin) if checkout else None
        local.write("init", "--quiet", "--template=", "--", scratch, about="the scratch repository")
        store = found.objects if found else kept / "objects"
        if store.is_dir():
            (scratch / ".git/objects/info").mkdir(parents=True, exist_ok=True)
            (scratch / ".git/objects/info/alternates").write_text(f"{store}\n", encoding="utf-8")
        names = [*fork.follow, *(branch.name for branch in fork.branches)]
        theirs = _fetched(upstream, scratch, "upstream", without_userinfo(fork.upstream), fork.follow)
        ours = _fetched(origin, scratch, "origin", url, names)
        work = _Sync(fork, local.at(tree=scratch), origin.at(tree=scratch), scratch, found, ours, theirs, who, check)
        results = work.run()
        if not found and not check:
            _keep(local, scratch, kept)
    return results


@contextlib.contextmanager
def _scratch(cache: Path, *, check: bool) -> Iterator[Path]:
    """Give an empty directory while the body runs; what a run that was killed has left of it is removed."""
    if check:
        with tempfile.TemporaryDirectory(prefix="rlinf-branches-") as name:
            yield Path(name).resolve()
        return
    with exclusive(cache / ".lock", f"the cache of branches {cache}"):
        place = cache / "scratch"
        remove(place)
        try:
            yield place
        finally:
            remove(place)


def _fetched(git: Git, scratch: Path, remote: str, url: str, names: Sequence[str]) -> _Known:
    """Bring branches of a remote, and return the commits of those that it has."""
    about = f"{'the fork' if remote == 'origin' else remote} ({url})"
    refs = remote_refs(git, url, about)
    specs = [f"+refs/heads/{name}:refs/remotes/{remote}/{name}" for name in names if f"refs/heads/{name}" in refs.objects]
    tree = git.at(tree=scratch)
    if specs:
        options = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--progress")
        tree.fetch("fetch", *options, "--", url, *specs, about=about)
    return _Known(_listed(tree, f"refs/remotes/{remote}/"), refs.names, about)


class _Known(dict[str, str]):
    """The commits of a remote's branches, by name; asking :meth:`commit` for one that is not there is an error."""

    def __init__(self, commits: Mapping[str, str], names: Sequence[str], about: str) -> None:
        super().__init__(commits)
        self.names = names
        self.about = about

    def commit(self, name: str) -> str:
        """:raises GitError: there is no such branch; near names are told."""
        if name in self:
            return self[name]
        near = difflib.get_close_matches(name, self.names, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Correct its name, or take it out of the list."
        raise GitError(f"{self.about} has no branch {name}. {hint}", problem="ref")


def _keep(git: Git, scratch: Path, kept: Path) -> None:
    """Keep what was fetched and pushed, so that the next run need not fetch it again."""
    about = f"the cache {kept}"
    if not kept.is_dir():
        part = kept.with_name(f"{kept.name}.part")
        remove(part)
        part.parent.mkdir(parents=True, exist_ok=True)
        git.write("init", "--quiet", "--bare", "--template=", "--", part, about=about)
        rename(part, kept)
    store = git.at(git_dir=kept)
    if _listed(store, "refs/") != _listed(git.at(tree=scratch), "refs/"):
        store.write("fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--", scratch, "+refs/*:refs/*", about=about)


@dataclass(frozen=True)
class _Sync:
    """The branches of a fork on their way.

    *git*: of the scratch repository, without network; *remote*: the same, as it reaches the fork.
    """

    fork: Fork
    git: Git
    remote: Git
    scratch: Path
    checkout: Checkout | None
    ours: _Known
    theirs: _Known
    who: Callable[[], tuple[str, str]]
    check: bool

    def run(self) -> list[BranchResult]:
        """Bring one branch after the other."""
        results = {name: self._one(Branch(name, ""), self.follow) for name in self.fork.follow}
        for branch in self.fork.branches:
            if results[branch.base].problem:
                reason = f"branch {branch.name}: its base {branch.base} could not follow upstream. See there."
                results[branch.name] = BranchResult(branch.name, branch.base, False, "failed", reason, problem="base")
            else:
                results[branch.name] = self._one(branch, self.rebase)
        return list(results.values())

    def _one(self, branch: Branch, work: Callable[[Branch], BranchResult]) -> BranchResult:
        start = time.monotonic()
        try:
            result = work(branch)
        except OfflineError as error:
            problem = error.details.get("problem", "other")
            state, reason = "conflict" if problem == "conflict" else "failed", f"branch {branch.name}: {error}"
            result = BranchResult(branch.name, branch.base, False, state, reason, problem=problem)
            result = replace(result, old_commit=self.ours.get(branch.name, ""), files=error.details.get("files", ()))
        return replace(result, seconds=time.monotonic() - start)

    # -- the two kinds of branches

    def follow(self, branch: Branch) -> BranchResult:
        """Bring a branch to where upstream's is, by fast-forward alone."""
        theirs, ours = self.theirs.commit(branch.name), self.ours.get(branch.name, "")
        if ours and not _is_ancestor(self.git, ours, theirs):
            more = self._commits(theirs, ours)
            raise GitError(
                f"the fork's has diverged by {_number(len(more))} that upstream has not ({_some(more)}). Nothing was forced. "
                "Move what is wanted of it to a branch of its own, and set this one back to upstream's.",
                problem="diverged",
            )
        behind = f"{_number(self._count(f'{ours}..{theirs}'))} behind upstream" if ours else "not in the fork yet"
        return self._bring(branch, ours, theirs, theirs, behind, ())

    def rebase(self, branch: Branch) -> BranchResult:
        """Bring a work branch onto its base."""
        base = self.theirs.commit(branch.base)
        ours, source = self.ours.get(branch.name, ""), self._source(branch.name)
        unpublished = self._count(f"{ours}..{source}") if ours else self._count(f"{base}..{source}")
        reasons = [f"{_number(unpublished)} of the checkout that the fork has not"] if source != ours else []
        if _is_ancestor(self.git, base, source):
            commit, commits = source, tuple[str, ...]()
        else:
            commits = self._commits(base, source)
            commit = self._rebased(base, source, branch.base, commits)
            present = self._count("--no-merges", f"{base}..{source}") - len(commits)
            onto = f"{branch.base} ({base[:12]})"
            if commits:
                reasons += [f"{_number(len(commits))} rebased onto {onto}" + (f", {present} in it already" if present else "")]
            else:
                reasons += [
                    f"all it holds ({_number(present)}) is in {onto} already" if present else f"no commit of its own, moved to {onto}"
                ]
        return self._bring(branch, ours, source, commit, "; ".join(reasons), commits)

    def _source(self, name: str) -> str:
        """Return the commit that is rebased: the fork's, or the checkout's where that is ahead of it."""
        mine = self.checkout.heads.get(name) if self.checkout else None
        if mine and (name not in self.ours or _is_ancestor(self.git, self.ours[name], mine)):
            return mine
        return self.ours.commit(name)

    # -- rebasing, in the scratch repository

    def _rebased(self, base: str, source: str, onto: str, commits: Sequence[str]) -> str:
        """Return the commit that rebasing *source* gives.

        Its date is the newest of those that it is made from, so that a dry run and what follows it give the same commits.

        :raises GitError: it conflicts, or would lose what a merge commit holds.
        """
        name, email = self.who()
        dates = self.git.read("show", "--no-patch", "--format=%ct", base, source, about="the commits' dates").split()
        env = {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": email, "GIT_COMMITTER_DATE": f"{max(map(int, dates))} +0000"}
        tree = replace(self.git, env={**self.git.env, **env})
        merges = self._count("--merges", f"{base}..{source}")
        merged = self._merged_tree(tree, base, source) if merges else ""
        self._put(source)
        done = tree.attempt("rebase", "--quiet", "--merge", "--empty=drop", "--no-autostash", base)
        if done.status:
            raise self._conflict(done.stderr or done.stdout, onto, commits)
        commit = self.git.read("rev-parse", "HEAD", about="the rebased branch")
        if merges and self.git.read("rev-parse", f"{commit}^{{tree}}", about="the rebased branch") != merged:
            raise GitError(
                f"it holds merge commits ({merges}), and a rebase, which leaves them out, would lose what was settled in them. "
                f"Rebase it by hand (git rebase {onto}) and push it.",
                problem="merges",
            )
        return commit

    def _merged_tree(self, tree: Git, base: str, source: str) -> str:
        """Return the tree of a merge: what a rebase has to come to if merge commits hold nothing of their own; empty if it conflicts."""
        self._put(source)
        done = tree.attempt("merge", "--quiet", "--no-ff", "--no-commit", base)
        return "" if done.status else self.git.read("write-tree", about="a merge")

    def _conflict(self, said: str, onto: str, commits: Sequence[str]) -> GitError:
        unmerged = self.git.read("diff", "--name-only", "--diff-filter=U", "-z", about="the conflict").split("\0")
        files = tuple(sorted(filter(None, unmerged)))
        if not files:
            return failure("rebasing it failed", said, "rebase")
        at = self.git.test("show", "--no-patch", "--format=%h %s", "REBASE_HEAD") or "a commit"
        return GitError(
            f"rebasing its {_number(len(commits))} onto {onto} conflicts at {at!r} in {_some(files)}. The branch was left as it was. "
            f"Rebase it by hand (git rebase {onto}) and push it with --force-with-lease.",
            problem="conflict",
            files=files,
        )

    def _put(self, commit: str) -> None:
        """Put the scratch repository to a commit, whatever was going on in it."""
        for state in ("rebase-merge", "MERGE_HEAD", "MERGE_MODE", "MERGE_MSG"):
            remove(self.scratch / ".git" / state)
        self.git.write("checkout", "--quiet", "--force", "--detach", commit, "--", about="the scratch repository")
        self.git.write("clean", "-ffdxq", about="the scratch repository")

    # -- the writes

    def _bring(self, branch: Branch, ours: str, source: str, commit: str, reason: str, commits: Sequence[str]) -> BranchResult:
        """Push a branch unless the fork has it, and let the checkout's follow where it can."""
        name, outdated = branch.name, ours != commit
        moves, local = self._local(name, commit, source)
        if outdated:
            self._push(name, ours, commit)
        if moves and self.checkout and not self.check:
            self.git.write("update-ref", f"refs/rlinf/{name}", commit, about=name)
            self.checkout.take(self.scratch, name, commit)
        return BranchResult(
            name=name,
            base=branch.base,
            changed=outdated or moves,
            state=("outdated" if self.check else "pushed") if outdated else "current",
            reason=reason if outdated else "up to date",
            old_commit=ours,
            commit=commit,
            commits=tuple(commits),
            local=local,
        )

    def _push(self, name: str, ours: str, commit: str) -> None:
        """Push one branch; in check mode, ask whether it could be pushed.

        :raises GitError: the fork refuses it, or has another commit than *ours* there by now.
        """
        about = "pushing it to the fork"
        forced = not ours or not _is_ancestor(self.git, ours, commit)
        options = [f"--force-with-lease=refs/heads/{name}:{ours}"] if forced else []
        options += ["--dry-run"] if self.check else []
        url = without_userinfo(self.fork.origin)
        self.remote.fetch("push", "--no-verify", "--progress", *options, "--", url, f"{commit}:refs/heads/{name}", about=about)
        if not self.check:
            self.git.write("update-ref", f"refs/remotes/origin/{name}", commit, about=name)

    def _local(self, name: str, commit: str, source: str) -> tuple[bool, str]:
        """Return whether the checkout's branch of that name is moved, and what is to be said of it."""
        if self.checkout is None or self.checkout.heads.get(name) in (None, commit):
            return False, ""
        if name in self.checkout.in_use:
            return False, f"checked out in {self.checkout.in_use[name]} and left as it is. Run git pull --rebase there."
        if self.checkout.holds_nothing_else(name, commit, source, self.git):
            return True, "moved along"
        return False, f"the branch in {self.checkout.path} has commits of its own, and was left as it is. Run git pull --rebase on it."

    # -- reading

    def _commits(self, base: str, tip: str) -> tuple[str, ...]:
        """Return the commits of *tip* that *base* has in no form, the oldest first, without merges."""
        options = ("--reverse", "--no-merges", "--cherry-pick", "--right-only", "--format=%h %s")
        return tuple(self.git.read("log", *options, f"{base}...{tip}", "--", about="the commits").splitlines())

    def _count(self, *what: str) -> int:
        return int(self.git.read("rev-list", "--count", *what, "--", about="the commits"))


def _listed(git: Git, prefix: str) -> dict[str, str]:
    """Return the commits of refs by what follows *prefix* in their names."""
    text = git.read("for-each-ref", "--format=%(objectname) %(refname)", prefix.rstrip("/"), about="the branches")
    lines = [line.split(" ", 1) for line in text.splitlines()]
    return {name.removeprefix(prefix): commit for commit, name in lines}


def _is_ancestor(git: Git, old: str, new: str) -> bool:
    return git.test("merge-base", "--is-ancestor", old, new) is not None


def _number(count: int) -> str:
    return f"{count} commit" if count == 1 else f"{count} commits"


def _some(items: Sequence[str]) -> str:
    """Return the first of many, for a message."""
    return ", ".join(items[:NAMED]) + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


def run(params: Mapping[str, Any], network: Network, *, check: bool, diff: bool) -> dict[str, Any]:
    """Do the work of the module with its arguments and return its result.

    :raises OfflineError: at the end, if some branch failed; each is named, and the results are among the details.
    """
    branches = tuple(Branch(item["name"], item["base"]) for item in params["branches"])
    fork = Fork(params["origin"], params["upstream"], tuple(params["follow"]), branches)
    checkout = at_home(params["checkout"]).resolve() if params["checkout"] else None
    who = _once(lambda: identity(params["committer"] or "", checkout))
    results = sync(fork, checkout=checkout, cache=at_home(params["cache_dir"]), network=network, who=who, check=check)
    answer: dict[str, Any] = {"changed": any(result.changed for result in results), "results": [result.json for result in results]}
    if diff:
        answer["diff"] = [_difference(result, without_userinfo(fork.origin)) for result in results if result.changed]
    errors = [result.reason for result in results if result.problem]
    if errors:
        raise OfflineError("\n".join([f"{len(errors)} of {len(results)} branches could not be brought up to date:", *errors]), **answer)
    return {**answer, "warnings": [f"branch {result.name}: {result.local}" for result in results if "left as it is" in result.local]}


def _once(work: Callable[[], tuple[str, str]]) -> Callable[[], tuple[str, str]]:
    known: list[tuple[str, str]] = []

    def answer() -> tuple[str, str]:
        if not known:
            known.append(work())
        return known[0]

    return answer


def _difference(result: BranchResult, url: str) -> dict[str, str]:
    """Return the old and the new commit of a branch, and what is rebased, as a diff."""
    header = f"{result.name} ({url})"
    before = f"{result.old_commit}\n" if result.old_commit else ""
    after = "".join(f"{line}\n" for line in (result.commit, *(f"  {commit}" for commit in result.commits)))
    return {"before_header": header, "after_header": header, "before": before, "after": after}
