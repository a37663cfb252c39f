# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requirement and pyproject files of a checkout, led to a bundle's mirrors and wheels, and back."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ansible_collections.rlinf.offline.plugins.module_utils import _git
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import check_ref
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, CatalogError, PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._journal import (
    LOCK,
    MAIN,
    REFUSED,
    REMOVED,
    REPO,
    REQUIREMENTS,
    RESTORED,
    UNTOUCHED,
    Change,
    Entry,
    Journal,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import URLS, read_record
from ansible_collections.rlinf.offline.plugins.module_utils._references import (
    GIT,
    WHEEL,
    Nearby,
    Reference,
    decode,
    decode_toml,
    in_pyproject,
    in_requirements,
    near_pyproject,
    near_requirements,
    rewrite_pyproject,
    rewrite_requirements,
)
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, redact, without_userinfo
from ansible_collections.rlinf.offline.plugins.module_utils._worktrees import unused

PREFIX = "[local-deps]"
GREEN, YELLOW, CYAN = "green", "yellow", "cyan"
DOWNLOAD = "Add what is missing to rlinf_catalog and run the playbook rlinf.offline.download, then push."


@dataclass(frozen=True)
class Message:
    """A line for the user; *kind* is ``local_repo``, ``local_wheel``, ``remote_repo``, ``remote_url``, ``remote_wheel`` or ``restore``."""

    colour: str
    text: str
    kind: str


@dataclass(frozen=True)
class Found:
    """A reference in a file: what it is replaced by, or why it is left as it is. Credentials in the URLs are masked."""

    file: str
    line: int
    kind: str
    url: str
    replacement: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What patching would do.

    :ivar messages: what there is to say of each file, in order.
    :ivar references: every reference found.
    :ivar changes: the files that would be written or put aside, with their content before and after.
    :ivar roots: the checkouts that these are in.
    """

    project: Path
    bundle_url: str
    messages: tuple[Message, ...]
    references: tuple[Found, ...]
    changes: tuple[Change, ...]
    roots: tuple[Path, ...]

    @property
    def fallbacks(self) -> tuple[Found, ...]:
        """The references of which the bundle has no copy."""
        return tuple(found for found in self.references if found.replacement is None)

    @property
    def diff(self) -> list[dict[str, str]]:
        """Each file before and after, as Ansible shows it."""
        return [_diff(self.project, change.path, change.before, change.after) for change in self.changes if change.before is not None]


@dataclass(frozen=True)
class Result:
    """What patching or restoring did, or would do in check mode; *results* has an item for each file concerned."""

    changed: bool
    messages: tuple[Message, ...]
    results: tuple[dict[str, Any], ...]
    references: tuple[Found, ...]
    diff: list[dict[str, str]]

    @property
    def json(self) -> dict[str, Any]:
        """The result of a module, without the diff."""
        return {
            "changed": self.changed,
            "messages": [asdict(message) for message in self.messages],
            "results": list(self.results),
            "counts": _counts(self.results),
            "references": [asdict(found) for found in self.references],
        }


def plan(
    project_dir: Path,
    bundle_dir: Path,
    *,
    worktrees: Iterable[Path] = (),
    state_dir: Path | None = None,
    files: Collection[str] | None = None,
) -> Plan:
    """Find every reference of a checkout, and what of it the bundle has. Nothing is written.

    :param worktrees: further checkouts whose pyproject.toml is patched too.
    :param state_dir: where the journals are; files that are patched at the moment are then judged by their originals.
    :param files: if given, only these, relative to the project, and what they lead to are looked at (and the pyproject.toml of the worktrees).
    :raises BundleError: the bundle holds nothing that could be used.
    :raises PatchError: there is no such checkout, or a file cannot be understood.
    """
    project = project_dir.resolve()
    originals = Journal(state_dir, project).originals() if state_dir else {}
    messages: dict[Message, None] = {}
    references: list[Found] = []
    changes: list[Change] = []
    roots: dict[Path, None] = {}
    with _git.session() as git:
        local = _Local(Bundle(Path(os.path.abspath(bundle_dir))), git)
        for file in _files_of(project, worktrees, files, originals):
            with _named(file.path):
                found, after = _patched(file.before, file.toml, local)
            name = _name(project, file.path)
            references += [_found(name, reference, answer) for reference, answer in found]
            messages.update(dict.fromkeys(_message(name, reference, answer) for reference, answer in found))
            if after != file.before:
                changes.append(Change(file.path, file.kind, file.before, after))
                roots[file.root] = None
    for root in roots:
        lock = root / "uv.lock"
        if not lock.is_symlink():
            changes.append(Change(lock, LOCK, originals[lock] if lock in originals else _content(lock), None))
    return Plan(project, local.url, tuple(messages), tuple(references), tuple(changes), tuple(roots))


def patch(
    project_dir: Path,
    bundle_dir: Path,
    state_dir: Path,
    *,
    worktrees: Sequence[Path] = (),
    strict: bool = False,
    check: bool = False,
) -> Result:
    """Lead the references of a checkout to the bundle. What an earlier run left is restored first, unless it is just that.

    :param state_dir: where the journals are.
    :param strict: a reference of which the bundle has no copy is an error, before anything is written.
    :param check: only say what would be done.
    :raises BundleError: the bundle holds nothing that could be used.
    :raises PatchError: with *strict*, what is missing; or what cannot be patched safely.
    """
    journal = Journal(state_dir, project_dir.resolve())
    with _held(journal, check, worktrees):
        wanted = plan(project_dir, bundle_dir, worktrees=worktrees, state_dir=state_dir)
        if strict and wanted.fallbacks:
            raise PatchError(_missing(wanted), **_told(wanted.messages, wanted.references))
        if journal.holds(wanted.changes):
            return _patch_result(wanted, wanted.messages, False, "already patched")
        journal.check_free(wanted.changes)
        left_over = _together([_restore(journal, check)], check)
        if wanted.changes and not check:
            try:
                journal.apply(wanted.changes, _excludes(wanted), wanted.bundle_url)
            except (OSError, PatchError):
                journal.restore()
                raise
        changed = bool(wanted.changes) or left_over.changed
        return _patch_result(wanted, (*left_over.messages, *wanted.messages), changed, "led to the bundle")


def restore(project_dir: Path | None, state_dir: Path, *, purge: bool = False, check: bool = False) -> Result:
    """Give every patched file of a checkout its bytes, mode and time back.

    :param project_dir: the checkout; None for every checkout that has a journal.
    :param state_dir: where the journals are.
    :param purge: also remove the ``*.patched`` files that patching left, and what it wrote into lists of ignored files.
    :param check: only say what would be done.
    :raises PatchError: a file was edited meanwhile; it is named, the others are restored.
    """
    journals = [Journal(state_dir, project_dir.resolve())] if project_dir else Journal.every(state_dir)
    parts = []
    for journal in journals:
        with _held(journal, check):
            parts.append(_restore(journal, check, purge=purge, whole_names=project_dir is None))
    return _together(parts, check)


@contextlib.contextmanager
def _held(journal: Journal, check: bool, worktrees: Iterable[Path] = ()) -> Iterator[None]:
    """Hold the journal, and the checkouts that it is of; a check holds nothing."""
    if check:
        yield
        return
    with journal.held(), unused(journal.state_dir, [journal.project, *worktrees]):
        yield


def _patch_result(plan: Plan, messages: tuple[Message, ...], changed: bool, reason: str) -> Result:
    concerned = [change for change in plan.changes if change.before is not None]
    results = tuple(
        _item(plan.project, change.path, changed, "aside" if change.after is None else "patched", reason) for change in concerned
    )
    return Result(changed, messages, results, plan.references, plan.diff if changed else [])


def _restore(journal: Journal, check: bool, *, purge: bool = False, whole_names: bool = False) -> Result:
    """Restore what one journal names; what is refused is among the results.

    :param whole_names: name files by their whole paths.
    """
    base = Path(os.sep, "nowhere") if whole_names else journal.project
    before = {entry.path: _content(entry.path) for entry in journal.read().files}
    originals = journal.originals()
    known = purge and journal.file.exists()
    outcomes = journal.restore(write=not check)
    restored = [outcome.entry for outcome in outcomes if outcome.state == RESTORED]
    results = [
        _item(base, outcome.entry.path, outcome.state == RESTORED, outcome.state, outcome.reason)
        for outcome in outcomes
        if outcome.entry.original is not None or outcome.state != UNTOUCHED
    ]
    if purge:
        # in check mode, with what restoring would leave
        going = journal.leftovers() + [entry.used for entry in restored if check and entry.path.exists()]
        results += [_item(base, path, True, REMOVED, "what was used while it was patched") for path in dict.fromkeys(going)]
        if not check:
            journal.purge()
    messages = tuple(_restoring(base, entry) for entry in restored if entry.original is not None)
    diff = [_diff(base, entry.path, before[entry.path], originals[entry.path]) for entry in restored]
    changed = known or any(outcome.state != REFUSED for outcome in outcomes)
    return Result(changed, messages, tuple(results), (), diff)


def _together(parts: Sequence[Result], check: bool) -> Result:
    """Return what was done in several checkouts.

    :raises PatchError: something was refused.
    """
    results = [item for part in parts for item in part.results]
    messages = tuple(message for part in parts for message in part.messages)
    changed = any(part.changed for part in parts)
    refused = [item for item in results if item["state"] == REFUSED]
    if refused:
        named = "\n".join(item["reason"] for item in refused)
        others = "the others would be" if check else "the others are as they were"
        patched = sum(item["state"] != REMOVED for item in results)
        raise PatchError(
            f"{len(refused)} of {patched} patched files cannot be restored, {others}.\n{named}",
            changed=changed,
            results=results,
            counts=_counts(results),
            **_told(messages, ()),
        )
    return Result(changed, messages, tuple(results), (), [part for whole in parts for part in whole.diff])


def _counts(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many files there are in each state."""
    return dict(Counter(item["state"] for item in results))


@dataclass(frozen=True)
class _Answer:
    """What the bundle has for a reference.

    :ivar kind: that of the message.
    :ivar path: the mirror or wheel; None if there is none to be used.
    :ivar base: what the reference's base becomes.
    """

    kind: str
    reason: str
    path: Path | None = None
    base: str | None = None


class _Local:
    """What a bundle has of that for which requirements ask.

    :raises BundleError: it has nothing.
    """

    def __init__(self, bundle: Bundle, git: _git.Git) -> None:
        self.bundle = bundle
        self.git = git
        self.url = f"{_url(bundle.root)}/"
        self._mirrors = dict(_mirrors(bundle.repos))
        self._known: dict[tuple[Path, str], bool] = {}
        self._wheels: dict[str, dict[str, str]] = {}
        for url, record in read_record(bundle, "urls.json", URLS).items():
            self._wheels.setdefault(_filename(url), {})[unquote(url)] = record["sha256"]
        if not self._mirrors and not any(bundle.wheels.glob("*.whl")):
            raise BundleError(
                f"No local repositories found: {bundle.root} is {'empty' if bundle.root.is_dir() else 'missing'}. "
                "Run the playbook rlinf.offline.download on the bastion, and rlinf.offline.push for this node; or correct bundle_dir."
            )

    def answer(self, reference: Reference) -> _Answer:
        """Return what there is for a reference."""
        if reference.variables:
            kind = "remote_wheel" if reference.kind == WHEEL else "remote_url"
            return _Answer(kind, f"what it names is known only when {', '.join(reference.variables)} is filled in")
        if reference.kind == GIT:
            return self._repository(reference)
        if reference.kind == WHEEL:
            return self._wheel(reference)
        return _Answer("remote_url", "a bundle has no copies of such")

    def _repository(self, reference: Reference) -> _Answer:
        if reference.repository is None:
            return _Answer("remote_url", "the URL does not tell host, owner and name of a repository")
        mirror = self._mirrors.get(reference.repository.key)
        if mirror is None:
            return _Answer("remote_repo", f"the bundle has no mirror {reference.repository.mirror}")
        if not self._has(mirror, reference.ref):
            asked = "a commit at HEAD" if reference.ref is None else f"a branch, tag or commit {reference.ref!r}"
            return _Answer("remote_url", f"the bundle's mirror {reference.repository.mirror} does not have {asked}")
        prefix = "git+" if reference.url[:4].lower() == "git+" else ""
        return _Answer("local_repo", "", mirror, prefix + _url(mirror))

    def _has(self, mirror: Path, ref: str | None) -> bool:
        name = "HEAD" if ref is None else ref
        if (mirror, name) not in self._known:
            try:
                revision = f"{check_ref(name, str(mirror))}^{{commit}}"
            except CatalogError:
                return False
            found = self.git.at(git_dir=mirror).test("rev-parse", "--verify", "--quiet", revision)
            self._known[mirror, name] = found is not None
        return self._known[mirror, name]

    def _wheel(self, reference: Reference) -> _Answer:
        path = self.bundle.wheels / reference.filename
        if not path.is_file() or not path.stat().st_size:
            return _Answer("remote_wheel", "it is not among the bundle's wheels")
        seen = self._wheels.get(path.name, {})
        if not seen and not self._listed(path):
            return _Answer("remote_wheel", "the bundle's manifest does not list the wheel of this name")
        digest = seen.get(unquote(without_userinfo(reference.base)))
        if seen and digest is None:
            return _Answer("remote_wheel", f"the bundle's wheel of this name is that of {redact(min(seen))}")
        if reference.digests:
            digest = digest or sha256_file(path)
            if digest not in reference.digests:
                return _Answer("remote_wheel", f"the bundle's wheel of this name has another digest, {digest}")
        return _Answer("local_wheel", "", path, _url(path))

    def _listed(self, path: Path) -> bool:
        """Return whether the manifest lists a file; a bundle that was never sealed lists none, and holds what somebody has put there."""
        return not self.bundle.manifest.is_file() or str(path.relative_to(self.bundle.root)) in read_manifest(self.bundle)["files"]


def _url(path: Path) -> str:
    """Return the ``file`` URL of an absolute path; what an installer would take for a ref, fragment or variable is percent-encoded."""
    return f"file://{quote(str(path), safe='/+~')}"


def _filename(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _mirrors(repos: Path) -> Iterator[tuple[str, Path]]:
    """Yield the key and path of every mirror (``<host>/<owner>/<name>.git``) of a bundle."""
    for folder, names, _files in os.walk(repos):
        for name in [name for name in names if name.endswith(".git") or name.startswith(".")]:
            names.remove(name)
            path = Path(folder, name)
            if name.endswith(".git") and (path / "HEAD").is_file():
                with contextlib.suppress(CatalogError):
                    yield RepositoryId.parse(f"https://{path.relative_to(repos)}").key, path


@dataclass(frozen=True)
class _File:
    """A file to be looked at: of which kind, in which checkout, and what it holds when it is not patched."""

    path: Path
    kind: str
    root: Path
    before: bytes

    @property
    def toml(self) -> bool:
        return self.path.suffix == ".toml"

    def nearby(self) -> Nearby:
        """Return what it leads to.

        :raises PatchError: it cannot be understood.
        """
        with _named(self.path):
            return near_pyproject(decode_toml(self.before).text) if self.toml else near_requirements(decode(self.before).text)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except PatchError as error:
        raise PatchError(f"{path}: {error} Nothing was changed.") from None


def _files_of(
    project: Path, worktrees: Iterable[Path], files: Collection[str] | None, originals: Mapping[Path, bytes | None]
) -> list[_File]:
    """Return the files to be looked at, each once. What they lead to in their own checkout is among them; a link out of it is not followed."""
    waiting = list(_candidates(project, worktrees, files))
    found: dict[Path, _File] = {}
    # what is waiting grows while it is gone through
    for path, kind, root in waiting:
        real = path.resolve()
        if real.is_file() and real.is_relative_to(root) and real not in found:
            file = found[real] = _File(real, kind, root, originals.get(real) or real.read_bytes())
            waiting += [(further, REQUIREMENTS if further.suffix != ".toml" else REPO, root) for further in _further(file)]
    return sorted(found.values(), key=lambda file: (file.kind != REQUIREMENTS, file.kind != MAIN, file.path))


def _candidates(project: Path, worktrees: Iterable[Path], files: Collection[str] | None) -> Iterator[tuple[Path, str, Path]]:
    """Yield the files that are looked at in any case, with kind and checkout."""
    main = project / "pyproject.toml"
    if not (project / "requirements").is_dir() and not main.is_file():
        raise PatchError(f"{project} has neither requirements/ nor pyproject.toml. Give the project's checkout as project_dir.")
    texts = (Path(folder, name) for folder, _ignored, names in os.walk(project / "requirements") for name in names)
    for path, kind in [(main, MAIN), *((path, REQUIREMENTS) for path in texts if path.suffix == ".txt")]:
        if files is None or path.relative_to(project).as_posix() in files:
            yield path, kind, project
    for worktree in worktrees:
        if not worktree.is_dir():
            raise PatchError(f"{worktree} is not there. Correct worktrees, or put the checkout there first.")
        yield worktree.resolve() / "pyproject.toml", REPO, worktree.resolve()


def _further(file: _File) -> Iterator[Path]:
    """Yield the files that a file leads to."""
    folder, near = file.path.parent, file.nearby()
    yield from (folder / name for name in near.files)
    yield from (folder / name / "pyproject.toml" for name in near.folders)
    left_out = {path for pattern in near.left_out for path in _glob(folder, pattern)}
    members = dict.fromkeys(path for pattern in near.members for path in _glob(folder, pattern))
    yield from (path / "pyproject.toml" for path in members if path not in left_out)


def _glob(folder: Path, pattern: str) -> list[Path]:
    # one that is none matches nothing; uv itself will say so
    with contextlib.suppress(ValueError, NotImplementedError):
        return sorted(folder.glob(pattern))
    return []


def _patched(before: bytes, toml: bool, local: _Local) -> tuple[list[tuple[Reference, _Answer]], bytes]:
    """Return the references of a file with their answers, and its patched content."""
    source = decode_toml(before) if toml else decode(before)
    found = [(reference, local.answer(reference)) for reference in (in_pyproject if toml else in_requirements)(source.text)]
    replacements = [(reference, answer.base) for reference, answer in found if answer.base is not None]
    if not replacements:
        return found, before
    return found, source.encode((rewrite_pyproject if toml else rewrite_requirements)(source.text, replacements))


def _excludes(plan: Plan) -> list[Path]:
    """Return the lists of ignored files of the checkouts that are patched; a worktree has that of its repository."""
    found: dict[Path, None] = {}
    with _git.session() as git:
        for root in plan.roots:
            name = git.at(tree=root).test("rev-parse", "--git-path", "info/exclude")
            path = Path(os.path.abspath(root / name)) if name else None
            if path and not path.is_symlink() and path.parent.parent.is_dir():
                found[path] = None
    return list(found)


def _found(name: str, reference: Reference, answer: _Answer) -> Found:
    replacement = None if answer.base is None else reference.rewritten(answer.base)
    return Found(name, reference.line, reference.kind, redact(reference.url), replacement, redact(answer.reason))


def _message(name: str, reference: Reference, answer: _Answer) -> Message:
    repository = reference.repository.name if reference.repository else ""
    url = redact(reference.url)
    colour, said = {
        "local_repo": (GREEN, f"using local repo {repository} -> {answer.path}"),
        "local_wheel": (GREEN, f"using local wheel {answer.path}"),
        "remote_repo": (YELLOW, f"remote fallback for repo {repository} (not referenced)"),
        "remote_url": (YELLOW, f"remote fallback for {url}"),
        "remote_wheel": (YELLOW, f"remote wheel fallback {url}"),
    }[answer.kind]
    return Message(colour, f"{PREFIX} {said} in {name}", answer.kind)


def _restoring(project: Path, entry: Entry) -> Message:
    name = _name(project, entry.path)
    return Message(CYAN, f"{PREFIX} restoring {entry.kind} backup {name}.backup -> {name}", "restore")


def _missing(plan: Plan) -> str:
    lines = "\n".join(f"{found.file}:{found.line}: {found.url}: {found.reason}" for found in plan.fallbacks)
    return f"The bundle has no copy of {len(plan.fallbacks)} references, and strict forbids the network:\n{lines}\n{DOWNLOAD} Nothing was changed."


def _told(messages: Iterable[Message], references: Iterable[Found]) -> dict[str, Any]:
    return {"messages": [asdict(message) for message in messages], "references": [asdict(found) for found in references]}


def _item(project: Path, path: Path, changed: bool, state: str, reason: str) -> dict[str, Any]:
    return {"name": _name(project, path), "changed": changed, "state": state, "reason": reason}


def _name(project: Path, path: Path) -> str:
    """Return how messages name a file: relative to the project, or whole if it is elsewhere."""
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _diff(project: Path, path: Path, before: bytes | None, after: bytes | None) -> dict[str, str]:
    name = _name(project, path)
    texts = {side: redact(decode(content or b"").text) for side, content in (("before", before), ("after", after))}
    return {"before_header": name, "after_header": name, **texts}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
