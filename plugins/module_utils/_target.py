# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a target needs on a node beside its environment: worktrees, assets, links, files, exports, as one plan."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout, _patch, _worktrees
from ansible_collections.rlinf.offline.plugins.module_utils._actions import Action, diff, perform
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import DOWNLOAD, read_manifest
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset, Catalog, Step, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._files import at_home, exclusive, read_json, remove, sha256_file, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._placement import AssetStore, Links, plan_file
from ansible_collections.rlinf.offline.plugins.module_utils._records import LOCK, read_lock
from ansible_collections.rlinf.offline.plugins.module_utils._reset import reset_all
from ansible_collections.rlinf.offline.plugins.module_utils._scripts import VENV

FORMAT = 1
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?:\[([^\[\]{}]*)\])?\}")
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """A target on a node, and how the operator wants it.

    :param home: the home that links are made in.
    :param assets_dir: where assets lie; the bundle's own ``assets/`` to use them there.
    :param project_dir: the user's checkout of the project, used as it is; without it one is made.
    :param repo_paths: the user's checkouts of other repositories, by name.
    :param leave_out: assets (and wheels) that are not wanted.
    :param strict: whether what the bundle lacks is an error.
    :param allow_drift: whether requirement files, and working copies of ours, may differ from the bundle's.
    """

    node: Node
    bundle: Bundle
    catalog: Catalog
    target: Target
    home: Path
    assets_dir: Path
    project_dir: Path | None = None
    repo_paths: Mapping[str, Path] = field(default_factory=dict)
    leave_out: frozenset[str] = frozenset()
    strict: bool = True
    allow_drift: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Wanted:
        """Return what the arguments of a module (``_module.TARGET`` and the places) ask for; their paths are made absolute.

        :raises CatalogError: the catalogue is no such, or lacks the target or what is left out.
        """
        node, catalog = Node(Path(params["prefix"]).absolute()), Catalog.parse(params["catalog"])
        target = catalog.select([params["target"]])[0]
        catalog.closure([target.name], params["leave_out"])
        return cls(
            node=node,
            bundle=Bundle(Path(params["bundle_dir"]).absolute()),
            catalog=catalog,
            target=target,
            home=Path(params["home"] or Path.home()).absolute(),
            assets_dir=Path(params["assets_dir"] or node.assets).absolute(),
            project_dir=Path(params["project_dir"]).absolute() if params["project_dir"] else None,
            repo_paths={name: at_home(path) for name, path in params["repo_paths"].items() if path},
            leave_out=frozenset(params["leave_out"]),
            strict=params["strict"],
            allow_drift=params["allow_drift"],
        )

    def existing(self, name: str) -> Path | None:
        """Return the user's own checkout of a repository, if one is named."""
        return self.project_dir if name == self.target.project and self.project_dir else self.repo_paths.get(name)

    def place(self, name: str) -> Path:
        """Return where the working copy of a repository is or will be."""
        return self.existing(name) or self.node.src / name

    @property
    def project(self) -> Path:
        return self.place(self.target.project)

    @property
    def assets(self) -> list[Asset]:
        return [self.catalog.assets[name] for name in self.target.assets if name not in self.leave_out]


@dataclass(frozen=True)
class Plan:
    """What is to be done for a target, and what comes out of it.

    :param lock: the pylock that the environment is made from.
    :param commit: the commit of the project that it was locked for.
    :param exports: variable -> text, or ``{"prepend": path}``.
    :param editables: mappings of ``package`` and ``path``.
    :param scripts: what is run in the environment, as mappings of ``name``, ``cwd``, ``argv``, ``env`` and ``removes``.
    :param messages: what patching the requirement files says.
    :param drift: requirement files that are not those that the lock was made from.
    :param state: what the node remembers of the target, and *former*, what it remembered.
    """

    trees: Sequence[Action]
    others: Sequence[Action]
    lock: Path
    commit: str
    exports: Mapping[str, Any]
    editables: Sequence[Mapping[str, str]]
    scripts: Sequence[Mapping[str, Any]]
    drift: Sequence[str]
    state: Mapping[str, Any]
    former: Mapping[str, Any]
    messages: Sequence[Any] = ()
    warnings: Sequence[str] = ()
    results: Sequence[Mapping[str, Any]] = ()

    @property
    def actions(self) -> list[Action]:
        return [*self.trees, *self.others]

    @property
    def changed(self) -> bool:
        return any(action.changed for action in self.actions) or self.state != self.former

    @property
    def diff(self) -> Mapping[str, str]:
        return diff(self.actions)

    @property
    def sources(self) -> dict[str, int]:
        """How many worktrees and assets come from where; *remote* counts the references without a local copy too."""
        origin = {"existing": "existing", "remote fallback": "remote"}
        found = [origin.get(action.state, "bundle") for action in self.actions if action.kind in ("worktree", "asset", "reference")]
        return {name: found.count(name) for name in ("bundle", "existing", "remote")}


# -- the plan ------------------------------------------------------------------------------------------------------------------


def plan(wanted: Wanted) -> Plan:
    """Return what is to be done so that the target's files are in place; nothing is written.

    :raises BundleError: there is no sealed bundle.
    :raises TargetError: something is missing, in the way, or differs; everything that is gets named.
    """
    return _Planner(wanted, read_manifest(wanted.bundle)).plan()


class _Planner:
    """Looks at everything, and gathers what is wrong, so that all of it is named before anything changes."""

    def __init__(self, wanted: Wanted, manifest: Mapping[str, Any]) -> None:
        self.wanted, self.manifest, self.target = wanted, manifest, wanted.target
        self.former = _read_state(wanted.node.target_state(wanted.target.name))
        self.text = Placeholders.of(wanted)
        self.problems: list[str] = []
        # what lies in our own directory is ours; in another, only what we remember
        ours = None if wanted.assets_dir == wanted.node.assets else self.former.get("assets", [])
        self.store = AssetStore(wanted.bundle, manifest["files"], wanted.assets_dir, ours)

    def plan(self) -> Plan:
        wanted, target = self.wanted, self.target
        trees = self._each(self._tree, target.worktrees)
        found = self._try(lambda: find_lock(wanted, self.manifest))
        self._raise_problems()
        folder, lock = cast("tuple[Path, dict[str, Any]]", found)
        # one that will be made, or moved, is as the lock's
        drift = [] if trees[0].changed else drifted(wanted.project, lock["files"])
        if drift and not wanted.allow_drift:
            self.problems.append(_drift_text(wanted, drift))
        patching = None if any(tree.changed for tree in trees) else self._try(self._patching)
        others = [*self._each(self._asset, wanted.assets), *self._links(), *self._each(self._file, target.files.items())]
        others += [self._fallback(found) for found in patching.fallbacks] if patching else []
        exports = self._try(lambda: expand_exports(target.exports, self.text))
        scripts = self._try(lambda: [self._script(step) for step in target.steps if step.kind == "script"])
        self._raise_problems()
        state = self._state(lock, trees, others)
        others += self._obsolete(state)
        warnings = [action.warning for action in [*trees, *others] if action.warning]
        return Plan(
            trees=trees,
            others=others,
            lock=folder / f"pylock.{target.name}.toml",
            commit=lock["project"]["commit"],
            exports=exports or {},
            editables=[
                {"package": item["package"], "path": str(wanted.place(item["repository"]) / (item["subdirectory"] or ""))}
                for item in lock["editables"]
            ],
            scripts=scripts or [],
            drift=drift,
            state=state,
            former=self.former,
            messages=[asdict(message) for message in patching.messages] if patching else [],
            warnings=[*warnings, *([_drift_text(wanted, drift)] if drift else [])],
        )

    def _try(self, question: Callable[[], T]) -> T | None:
        """Return the answer, or None if it is a problem."""
        try:
            return question()
        except OfflineError as error:
            self.problems.append(str(error))
            return None

    def _each(self, question: Callable[[T], Action], items: Any) -> list[Action]:
        answers = (self._try(partial(question, item)) for item in items)
        return [action for action in answers if action is not None]

    def _raise_problems(self) -> None:
        if self.problems:
            raise TargetError("\n".join([f"target {self.target.name} cannot be put in place:", *(f"- {text}" for text in self.problems)]))

    def _tree(self, name: str) -> Action:
        wanted, repository = self.wanted, self.wanted.catalog.repositories[name]
        existing = wanted.existing(name)
        if existing:
            if not existing.is_dir():
                raise TargetError(
                    f"{existing}, which is given as the checkout of {name}, is not there. Correct rlinf_root or rlinf_repo_paths."
                )
            return Action("worktree", name, existing, "existing", "your own checkout, used as it is")
        known = self.manifest["repositories"].get(repository.id.mirror)
        if known is None:
            raise TargetError(f"the bundle has no mirror of {name} (repos/{repository.id.mirror}). {DOWNLOAD} and push again.")
        return _worktrees.plan(
            _worktrees.Worktree(wanted.bundle, repository, known["commit"], wanted.place(name)), allow_drift=wanted.allow_drift
        )

    def _asset(self, asset: Asset) -> Action:
        if self.wanted.strict or self.store.expected(asset.dest):
            return self.store.plan(asset)
        warning = f"asset {asset.name} is not in the bundle: programs will look for it at {asset.url}."
        return Action("asset", asset.name, self.wanted.assets_dir / asset.dest, "remote fallback", "not in the bundle", warning=warning)

    def _links(self) -> list[Action]:
        there = {asset.dest for asset in self.wanted.assets if self.store.expected(asset.dest)}
        links = Links(self.wanted.assets_dir, there, self.former.get("links", {}))

        def one(item: tuple[str, str]) -> list[Action]:
            path, text = item
            return list(links.plan(self.wanted.home / path, Path(os.path.normpath(self.text.expand(text, f"links: {path}")))))

        return [action for item in self.target.links.items() for action in self._try(partial(one, item)) or []]

    def _file(self, item: tuple[str, str]) -> Action:
        path, text = item
        return plan_file(Path(self.text.expand(path, "files")), self.text.expand(text, f"files: {path}"), self.wanted.node.prefix)

    def _script(self, step: Step) -> dict[str, Any]:
        """Return a script with its placeholders filled in; ``{venv}`` is known only to who builds the environment."""
        text, options = self.text.with_venv, step.options
        return {
            "name": step.value,
            "cwd": str(self.wanted.place(step.value)),
            "argv": [text.expand(part, step.label) for part in options["run"]],
            "env": {name: text.expand(value, f"{step.label}: env: {name}") for name, value in options.get("env", {}).items()},
            "removes": list(options.get("removes", ())),
        }

    def _patching(self) -> _patch.Plan:
        """Return what patching would say of the files that this target is installed from.

        :raises TargetError: with *strict*, a reference of which the bundle has no copy.
        """
        wanted, names = self.wanted, self.target.worktrees[1:]
        listed = [item for step in self.target.trace if step.kind == "requirements" for item in step.value if item.endswith(".txt")]
        worktrees = [wanted.place(name) for name in names]
        files = {"pyproject.toml", *listed}
        found = _patch.plan(wanted.project, wanted.bundle.root, worktrees=worktrees, state_dir=wanted.node.state, files=files)
        if wanted.strict and found.fallbacks:
            said = "; ".join(f"{item.file}:{item.line}: {item.url}: {item.reason}" for item in found.fallbacks)
            raise TargetError(f"the bundle has no copy of {said}. {DOWNLOAD} with it in rlinf_catalog, and push again.")
        return found

    def _fallback(self, found: _patch.Found) -> Action:
        warning = f"{found.url} in {found.file} is not in the bundle: {found.reason}."
        return Action("reference", found.url, self.wanted.project / found.file, "remote fallback", found.reason, warning=warning)

    def _state(self, lock: Mapping[str, Any], trees: Sequence[Action], others: Sequence[Action]) -> dict[str, Any]:
        """Return what the node shall remember; of the user's own checkouts only where they are, since they move as the user works."""
        kept = {
            kind: {str(action.path): action.after for action in others if action.kind == kind and action.state == "present"}
            for kind in ("link", "file")
        }
        return {
            "format": FORMAT,
            "target": self.target.name,
            "commit": lock["project"]["commit"],
            "worktrees": {action.name: {"path": str(action.path), "commit": action.after or None} for action in trees},
            "assets_dir": str(self.wanted.assets_dir),
            "assets": sorted(asset.dest for asset in self.wanted.assets if self.store.expected(asset.dest)),
            "links": kept["link"],
            "files": kept["file"],
        }

    def _obsolete(self, state: Mapping[str, Any]) -> Iterator[Action]:
        """Yield the removal of links and files that we made, that are as we made them, and that no target asks for any more."""
        folder = self.wanted.node.target_state("").parent
        states = [state, *(_read_state(path) for path in sorted(folder.glob("*.json")) if path.stem != self.target.name)]
        for kind, look in (("link", _read_link), ("file", _read_digest)):
            asked = {path for known in states for path in known.get(f"{kind}s", {})}
            for path, value in self.former.get(f"{kind}s", {}).items():
                if path not in asked and look(path) == value:
                    yield Action(kind, path, Path(path), "removed", "no longer asked for", partial(remove, Path(path)), before=value)


_LOCK = {
    **LOCK,
    "project": {"commit": str},
    "editables": [{"package": str, "repository": str, "subdirectory": (str, type(None))}],
    "files": {str: str},
}


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_json(path, TargetError, _worktrees.STATE)
    except FileNotFoundError:
        return {}
    return state


def _read_link(path: str) -> str:
    return os.readlink(path) if os.path.islink(path) else ""


def _read_digest(path: str) -> str:
    return sha256_file(Path(path)) if os.path.isfile(path) else ""


def find_lock(wanted: Wanted, manifest: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the target's lock, and what it says: that of the checkout's own commit if there is one, else of the bundle's.

    :raises TargetError: the bundle has none; those that it has are named.
    """
    project, name = wanted.catalog.repositories[wanted.target.project], wanted.target.name
    frozen = manifest["repositories"].get(project.id.mirror, {}).get("commit")
    own = wanted.existing(wanted.target.project)
    head = _checkout.worktree_state(own).commit if own and (own / ".git").exists() else None
    for commit in dict.fromkeys((head, frozen)):
        folder = wanted.bundle.target(commit, name) if commit else None
        if folder and (folder / "lock.json").is_file():
            return folder, read_lock(folder / "lock.json", TargetError, _LOCK)
    there = sorted(f"{path.parent.name} at {path.parent.parent.name[:12]}" for path in wanted.bundle.targets.glob("*/*/lock.json"))
    raise TargetError(
        f"the bundle has no lock of {name} for {wanted.target.project} at {(frozen or head or 'any commit')[:12]}; it has {', '.join(there) or 'none'}. "
        f"{DOWNLOAD} with {name} in rlinf_targets (and rlinf_update, to lock it anew), and push again."
    )


def drifted(project: Path, files: Mapping[str, str]) -> list[str]:
    """Return which of the files that a lock was made from (path -> SHA-256) are others, or not there, in a checkout."""
    return sorted(path for path, digest in files.items() if not (project / path).is_file() or sha256_file(project / path) != digest)


def _drift_text(wanted: Wanted, drift: Sequence[str]) -> str:
    remedy = (
        "It is installed all the same (rlinf_allow_drift)."
        if wanted.allow_drift
        else "Bring them back, bundle that commit, or set rlinf_allow_drift."
    )
    return f"these files of {wanted.project} are not those that {wanted.target.name} was locked from: {', '.join(drift)}. {remedy}"


# -- placeholders --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placeholders:
    """The names that a target's links, files, exports and scripts may use: ``{assets}``, ``{repo[LIBERO]}`` and so on.

    Only a name in braces is a placeholder, and an unknown one is an error. Any other brace, and ``$``, stands for itself: no shell sees it.
    """

    values: Mapping[str, str]
    repositories: Mapping[str, str]

    @classmethod
    def of(cls, wanted: Wanted) -> Placeholders:
        """Return the values for a target on a node."""
        node = wanted.node
        places = {"src": node.src, "assets": wanted.assets_dir, "state": node.state, "prefix": node.prefix, "home": wanted.home}
        places |= {"bundle": wanted.bundle.root, "wheels": wanted.bundle.wheels}
        repositories = {name: str(wanted.place(name)) for name in wanted.target.worktrees}
        return cls({name: str(path) for name, path in places.items()}, repositories)

    @property
    def with_venv(self) -> Placeholders:
        """The names that a script may use: ``{venv}`` is one, and stays."""
        return replace(self, values={**self.values, "venv": VENV})

    def expand(self, text: str, where: str) -> str:
        """Return *text* with every placeholder replaced.

        :param where: which entry it is of, for the message.
        :raises TargetError: a placeholder is unknown; those that there are get named.
        """

        def value(found: re.Match[str]) -> str:
            name, item = found[1], found[2]
            known = self.repositories.get(item) if name == "repo" and item is not None else self.values.get(name) if item is None else None
            if known is None:
                names = [f"{{{known}}}" for known in self.values] + [f"{{repo[{known}]}}" for known in self.repositories]
                raise TargetError(f"{where}: {found[0]} is no placeholder. There are {', '.join(names)}.")
            return known

        return _PLACEHOLDER.sub(value, text)


def expand_exports(exports: Mapping[str, Any], text: Placeholders) -> dict[str, Any]:
    """Return the exports with their placeholders replaced: text, or ``{"prepend": path}``.

    :raises TargetError: a value is neither.
    """
    expanded: dict[str, Any] = {}
    for name, value in exports.items():
        if isinstance(value, str):
            expanded[name] = text.expand(value, f"exports: {name}")
        elif isinstance(value, Mapping) and set(value) == {"prepend"} and isinstance(value["prepend"], str):
            expanded[name] = {"prepend": text.expand(value["prepend"], f"exports: {name}")}
        else:
            raise TargetError(f"exports: {name} must be text (in quotes), or a mapping with the single key 'prepend' and a path.")
    return expanded


# -- doing it ------------------------------------------------------------------------------------------------------------------


def put_in_place(wanted: Wanted, *, check: bool = False) -> Plan:
    """Have the target's files in place, and return what was planned with its ``results``.

    :param check: only say what would be done.
    :raises OfflineError: as :func:`plan`; or a working copy could not be made.
    """
    with _alone(wanted.node, check):
        first = plan(wanted)
        moving = [tree.path for tree in first.trees if tree.changed and tree.before and not check]
        with _worktrees.unused(wanted.node.state, moving):
            results = perform(first.trees, check=check)
        # what is in a working copy can be judged now that it is there
        last = plan(wanted) if not check and any(action.changed for action in first.trees) else first
        results += perform(last.others, check=check)
        path = wanted.node.target_state(wanted.target.name)
        if not check and last.state != last.former:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, last.state)
    return replace(last, trees=first.trees, results=results)


def placed(wanted: Wanted, *, check: bool = False) -> dict[str, Any]:
    """Have the target's files in place, and return what a module says of it, its ``diff`` included.

    :param check: only say what would be done; before the bundle was pushed, that (``after_push``) and where things will be.
    :raises OfflineError: as :func:`put_in_place`.
    """
    answer: dict[str, Any] = {
        "project_dir": str(wanted.project),
        "worktrees": {name: str(wanted.place(name)) for name in wanted.target.worktrees},
        "assets_dir": str(wanted.assets_dir),
        "imports": list(wanted.target.imports),
    }
    if check and not wanted.bundle.root.exists():
        # who comes after this finds what is needed to go on in check mode
        lock = wanted.bundle.targets / "not pushed yet" / wanted.target.name / f"pylock.{wanted.target.name}.toml"
        nothing: dict[str, Any] = {"results": [], "commit": "", "exports": {}, "editables": [], "scripts": []}
        nothing |= {"messages": [], "drift": [], "sources": {}, "warnings": [], "diff": diff([])}
        return {**answer, **nothing, "changed": True, "lock": str(lock), "after_push": True}
    done = put_in_place(wanted, check=check)
    names = ("changed", "results", "commit", "exports", "editables", "scripts", "messages", "drift", "sources", "warnings", "diff")
    return {**answer, **{name: getattr(done, name) for name in names}, "lock": str(done.lock)}


def reset(node: Node, bundle: Bundle, *, check: bool = False) -> tuple[list[Action], list[dict[str, Any]]]:
    """Put every working copy that we made back to what it was made as; return the plan and its results.

    :param check: only say what would be lost.
    :raises TargetError: one could not be put back.
    """
    with _alone(node, check):
        return reset_all(node, bundle, check=check)


def _alone(node: Node, check: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if check else exclusive(node.state / "targets" / ".lock", f"what is in place under {node.prefix}")
