# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a target's steps to pins: what upstream's installer would install, without installing it.

Upstream's install is a sequence, not a set: the steps together have no solution. Each step is resolved on its own with the pins
so far as preferences, as an installer prefers what is there, and its pins override the merged set.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock, _pyproject
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import INSTALLING, Step, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError, ProcessError
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform, best_wheel, supported_tags

_COMMIT = re.compile(r"(?P<url>.+)@(?P<commit>[0-9a-f]{40})\Z")
_UNSOLVABLE = re.compile(r"No solution found|conflicting URLs")
# how uv names the repository that git could not fetch
_FETCH = re.compile(r"git fetch [^\n]*?'(?P<url>(?:https?|ssh)://[^']+)'")
# a repository tells so of a commit that it has not
_LACKING = re.compile(_FETCH.pattern + r" '\+(?P<commit>[0-9a-f]{40}):.*?not our ref (?P=commit)", re.DOTALL)


class MissingMirror(LockError):
    """Resolving needs a repository that the bundle has no mirror of yet, or a *commit* that the mirror lacks since no branch or tag holds it."""

    def __init__(self, url: str, step: str, commit: str | None = None) -> None:
        what = (
            f"the commit {commit} of {url}, which its mirror lacks"
            if commit
            else f"the repository {url}, which the bundle has no mirror of"
        )
        super().__init__(f"step {step} needs {what}. Run the download playbook.")
        self.url, self.commit = url, commit


class NoSolution(LockError):
    """The requirements of a step contradict each other, or what is to be kept beside them."""


@dataclass(frozen=True)
class Pin:
    """One package of a lock, as a requirement that names exactly one version, commit or file."""

    name: str
    requirement: str

    @classmethod
    def parse(cls, line: str) -> Pin:
        """:raises LockError: the line is no requirement."""
        try:
            return cls(canonicalize_name(Requirement(line).name), line)
        except InvalidRequirement as error:
            raise LockError(f"uv gave a pin that cannot be read: {line!r} ({error}). Please report this.") from None

    @property
    def url(self) -> str | None:
        return Requirement(self.requirement).url

    @property
    def version(self) -> str | None:
        """The version of a package from an index; None for one from git or a file."""
        specifiers = list(Requirement(self.requirement).specifier)
        return specifiers[0].version if specifiers else None

    @property
    def git(self) -> tuple[str, str, str | None] | None:
        """URL, commit and subdirectory of a package from git."""
        url = self.url
        if not url or not url.startswith("git+"):
            return None
        plain, _ignored, fragment = url.removeprefix("git+").partition("#")
        found = _COMMIT.match(plain)
        if not found:
            raise LockError(f"{self.name}: uv gave {url} without a commit. Please report this.")
        subdirectory = next((part.partition("=")[2] for part in fragment.split("&") if part.startswith("subdirectory=")), None)
        return found["url"], found["commit"], subdirectory

    @property
    def short(self) -> str:
        """What messages and ``lock.json`` show: the version, the URL, or the name of a prebuilt wheel; never a path of this machine."""
        url = self.url or ""
        return self.version or (f"wheels/{unquote(url.rpartition('/')[2])}" if url.startswith("file://") else url)


@dataclass(frozen=True)
class Editable:
    """A package of a working copy: the root of the repository, or a subdirectory."""

    repository: str
    package: str
    subdirectory: str | None


@dataclass(frozen=True)
class Overlay:
    """Files of *donor* below *path* (in its wheel) that are copied over the package *name*."""

    name: str
    donor: str
    path: str


@dataclass(frozen=True)
class Resolution:
    """The pins of each step in order, and of all of them together; what is installed editable, and what is copied over packages."""

    steps: tuple[tuple[str, Mapping[str, str]], ...]
    pins: Mapping[str, Pin]
    editables: tuple[Editable, ...] = ()
    overlays: tuple[Overlay, ...] = ()

    @property
    def lines(self) -> list[str]:
        return [self.pins[name].requirement for name in sorted(self.pins)]

    @property
    def public_lines(self) -> list[str]:
        """The closure as requirement lines that name no path of this machine."""
        pins = (self.pins[name] for name in sorted(self.pins))
        return [f"{pin.name} @ {pin.short}" if (pin.url or "").startswith("file://") else pin.requirement for pin in pins]


@dataclass(frozen=True)
class Resolver:
    """Resolves one target in scratch checkouts.

    :param environment: for uv: index, cut-off, redirected git, online or offline.
    :param python: the interpreter that builds metadata, of the nodes' minor version.
    :param checkouts: scratch checkouts by repository; the project's must have the target's static metadata (:func:`add_metadata`).
    :param commits: URL and frozen commit by repository.
    :param wheels: the prebuilt wheels of the catalogue that are in the bundle, by name.
    :param constraints: requirement lines that hold for a step, by its number in the target's trace; they name all of its packages.
    """

    uv: Uv
    bundle: Bundle
    target: Target
    python: Path
    platform: Platform
    torch_backend: str
    checkouts: Mapping[str, Path]
    commits: Mapping[str, tuple[str, str]]
    wheels: Mapping[str, Path]
    leave_out: frozenset[str]
    scratch: Path
    constraints: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def resolve(self, done: dict[int, dict[str, Pin]] | None = None) -> Resolution:
        """Resolve every step in its order.

        :param done: what earlier, interrupted calls found, by the step's number; filled in on the way.
        :raises MissingMirror: a repository is needed that the bundle lacks.
        :raises LockError: a step has no solution; it is named, with uv's explanation.
        """
        pins: dict[str, Pin] = {}
        editables: list[Editable] = []
        overlays: list[Overlay] = []
        steps: list[tuple[str, Mapping[str, str]]] = []
        found = {} if done is None else done
        for number, step in enumerate(self.target.trace):
            before = dict(pins)
            if step.kind == "uninstall":
                for name in step.value:
                    pins.pop(canonicalize_name(name), None)
            elif step.kind == "overlay":
                overlays.append(self._overlay(step, pins))
            elif step.kind in INSTALLING and self._wanted(step):
                if number not in found:
                    copies = [self._copy(editable) for editable in editables]
                    there = [*(pin.requirement for pin in pins.values() if pin.url), *copies]
                    solved = self._step(number, step, pins, there)
                    found[number] = {name: pin for name, pin in solved.items() if pin.requirement not in copies}
                pins.update(found[number])
            else:
                continue
            if step.kind == "editable":
                editables.append(Editable(step.value, self._editable_name(step), step.options.get("subdirectory")))
                pins.pop(editables[-1].package, None)
            changed = {
                name: pins[name].short if name in pins else "" for name in sorted({*before, *pins}) if before.get(name) != pins.get(name)
            }
            self._check_overlaid(step, overlays, changed)
            steps.append((step.label, changed))
        return Resolution(tuple(steps), pins, tuple(editables), tuple(overlays))

    def _wanted(self, step: Step) -> bool:
        return step.kind != "wheels" or any(name not in self.leave_out for name in step.value)

    def _overlay(self, step: Step, pins: Mapping[str, Pin]) -> Overlay:
        overlay = Overlay(canonicalize_name(step.value), canonicalize_name(step.options["from"]), step.options["path"])
        for name in (overlay.name, overlay.donor):
            if name not in pins:
                raise LockError(
                    f"target {self.target.name}: step {step.label}: no earlier step installs {name}. Correct the name, or the order."
                )
        return overlay

    def _check_overlaid(self, step: Step, overlays: Sequence[Overlay], changed: Mapping[str, str]) -> None:
        """Refuse a step that installs another version of what an earlier one laid files over, which would take them away again."""
        moved = sorted({name for overlay in overlays for name in (overlay.name, overlay.donor)} & set(changed))
        if moved:
            raise LockError(
                f"target {self.target.name}: step {step.label} brings another {moved[0]} after its overlay was made. Put the overlay after it."
            )

    def _copy(self, editable: Editable) -> str:
        """Return the working copy that is installed editable as a requirement."""
        return f"{editable.package} @ {(self.checkouts[editable.repository] / (editable.subdirectory or '')).as_uri()}"

    def _step(self, number: int, step: Step, pins: Mapping[str, Pin], there: Sequence[str]) -> dict[str, Pin]:
        self._fresh_scratch()
        constraints = list(self.constraints.get(number, ()))
        if step.kind == "uv_sync" and not constraints:
            return self._compile(step, [*self._sync(step), "--no-deps"], {}, [])
        # with all of its packages known the project need not be locked, which would ask for those of every extra and platform
        inputs = self._inputs(step)
        return (
            self._compile(step, inputs, {}, constraints) if step.kind == "uv_sync" else self._solve(step, inputs, pins, constraints, there)
        )

    def _solve(
        self, step: Step, inputs: Sequence[str | Path], pins: Mapping[str, Pin], constraints: Sequence[str], there: Sequence[str]
    ) -> dict[str, Pin]:
        """Resolve a step with what is *there* and no index has, or has otherwise: commits, prebuilt wheels, working copies.

        An installer leaves each of them alone as long as its version would do, and so they are constraints; those that would not do, are none.
        """
        with contextlib.suppress(NoSolution):
            return self._compile(step, inputs, pins, [*constraints, *there])
        kept: list[str] = []
        for line in there:
            with contextlib.suppress(NoSolution):
                self._compile(step, inputs, pins, [*constraints, *kept, line])
                kept.append(line)
        return self._compile(step, inputs, pins, [*constraints, *kept])

    def _compile(
        self, step: Step, inputs: Sequence[str | Path], preferred: Mapping[str, Pin], constraints: Sequence[str]
    ) -> dict[str, Pin]:
        output, listed = self.scratch / "pins.txt", self.scratch / "constraints.txt"
        output.write_text("".join(f"{pin.requirement}\n" for pin in preferred.values()), encoding="utf-8")
        listed.write_text("".join(f"{line}\n" for line in constraints), encoding="utf-8")
        # the checkout's [tool.uv] settings, its overrides above all, apply only to what runs in it
        cwd = self.scratch if step.options.get("project_settings") is False else self.checkouts[self.target.project]
        options: list[str | Path] = ["--constraint", listed, *(["--no-deps"] if step.options.get("dependencies") is False else [])]
        if self.torch_backend != "pypi" and step.kind != "uv_sync":
            options += ["--torch-backend", self.torch_backend]
        self._uv(step, ["pip", "compile", *self._common(), *options, *inputs, "--output-file", output], cwd, step.options.get("env") or {})
        lines = (line.strip() for line in output.read_text(encoding="utf-8").splitlines())
        found = [Pin.parse(line) for line in lines if line and not line.startswith(("#", "-"))]
        return {pin.name: pin for pin in found}

    def _fresh_scratch(self) -> None:
        """Empty the scratch directory, which has settings of its own, so that uv looks for none in the directories above it."""
        remove(self.scratch)
        self.scratch.mkdir(parents=True)
        write_settings(self.scratch, self.target)

    def _common(self) -> list[str | Path]:
        return [
            *("--quiet", "--no-annotate", "--no-header", "--python", self.python),
            *("--python-version", self.target.python, "--python-platform", str(self.platform)),
        ]

    def _sync(self, step: Step) -> list[str | Path]:
        """Lock the project for every platform and export the extras; the caller narrows that to the nodes' platform."""
        project = self.checkouts[self.target.project]
        (project / "uv.lock").unlink(missing_ok=True)
        exported = self.scratch / "sync.txt"
        extras = [part for extra in step.value for part in ("--extra", extra)]
        try:
            self._uv(step, ["lock", "--quiet", "--python", self.python], project)
            common = ["--frozen", "--no-hashes", "--no-emit-project", "--no-annotate", "--no-header"]
            self._uv(step, ["export", "--quiet", *common, *extras, "--python", self.python, "--output-file", exported], project)
        finally:
            (project / "uv.lock").unlink(missing_ok=True)
        return [exported]

    def _inputs(self, step: Step) -> list[str | Path]:
        if step.kind == "uv_sync":
            return self._project_inputs(step)
        listed = self.scratch / "step.in"
        files: list[Path] = []
        if step.kind == "requirements":
            project = self.checkouts[self.target.project]
            files = [project / item for item in step.value if item.endswith(".txt")]
            for path in files:
                if not path.is_file():
                    raise LockError(
                        f"target {self.target.name}: step {step.label}: {self.target.project} has no file {path.relative_to(project)} at this version."
                    )
            lines = [item for item in step.value if not item.endswith(".txt")]
        elif step.kind == "wheels":
            lines = [self._wheel(step, name) for name in step.value if name not in self.leave_out]
        elif step.kind == "package":
            url, commit = self.commits[step.value]
            subdirectory = step.options.get("subdirectory")
            lines = [f"git+{url}@{commit}{f'#subdirectory={subdirectory}' if subdirectory else ''}"]
        else:
            lines = [f"-e {self._folder(step)}"]
        listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return [*files, listed]

    def _project_inputs(self, step: Step) -> list[str | Path]:
        """Return the project with its extras, and the dependency groups that ``uv sync`` installs unasked."""
        pyproject = self.checkouts[self.target.project] / "pyproject.toml"
        data = _pyproject.parse(pyproject.read_bytes(), f"{self.target.project}: {pyproject}").unwrap()
        there = data.get("dependency-groups", {})
        wanted = data.get("tool", {}).get("uv", {}).get("default-groups", ["dev"])
        groups = [name for name in there if wanted == "all" or name in wanted]
        extras = [part for extra in step.value for part in ("--extra", extra)]
        return [pyproject, *extras, *(part for name in groups for part in ("--group", name))]

    def _folder(self, step: Step) -> Path:
        """Return the directory that an editable step installs."""
        folder = self.checkouts[step.value] / str(step.options.get("subdirectory") or "")
        if not folder.is_dir():
            raise LockError(f"target {self.target.name}: step {step.label}: {step.value} has no such directory at this version.")
        return folder

    def _wheel(self, step: Step, name: str) -> str:
        """Return a prebuilt wheel as a requirement.

        :raises LockError: it is not for the nodes' Python and platform.
        """
        wheel = self.wheels[name]
        if not best_wheel([wheel.name], supported_tags(self.target.python, self.platform)):
            raise LockError(
                f"target {self.target.name}: step {step.label}: {wheel.name} does not fit CPython {self.target.python} on {self.platform}. "
                "If every node has the glibc that it names, set rlinf_platform to that; else name a wheel that fits."
            )
        return f"{wheel.name.split('-', 1)[0]} @ {wheel.as_uri()}"

    def _editable_name(self, step: Step) -> str:
        """Return the distribution name of an editable repository, which only its metadata tells."""
        self._fresh_scratch()
        output = self.scratch / "pylock.editable.toml"
        (listed,) = self._inputs(step)
        self._uv(
            step, ["pip", "compile", *self._common(), "--no-deps", "--format", "pylock.toml", listed, "--output-file", output], self.scratch
        )
        return str(canonicalize_name(_pylock.read(output)["packages"][0]["name"]))

    def _uv(self, step: Step, arguments: list[str | Path], cwd: Path, extra: Mapping[str, str] | None = None) -> None:
        try:
            self.uv.run(arguments, what=f"target {self.target.name}: step {step.label}", cwd=cwd, env=extra or {})
        except ProcessError as error:
            url = missing_repository(str(error), self.bundle)
            if url:
                raise MissingMirror(url, step.label) from None
            if lacking := _LACKING.search(str(error)):
                raise MissingMirror(lacking["url"], step.label, lacking["commit"]) from None
            shipped = (
                "\nThe pins that ship with the collection were its constraints; set rlinf_pins_dir to '' to do without."
                if self.constraints
                else ""
            )
            kind = NoSolution if _UNSOLVABLE.search(str(error)) else LockError
            raise kind(f"target {self.target.name}: step {step.label} cannot be resolved. {error}{shipped}") from None


def _dependency_metadata(target: Target) -> list[dict[str, Any]]:
    return [{key.replace("_", "-"): value for key, value in entry.items()} for entry in target.metadata]


def write_settings(folder: Path, target: Target) -> None:
    """Write settings for what runs in *folder*: the target's static metadata and nothing else.

    They are in a ``pyproject.toml`` that is no project's: uv looks for that in all directories above before it reads a ``uv.toml``, and a
    bundle may lie inside a checkout of the project.
    """
    settings = {"managed": False, "dependency-metadata": _dependency_metadata(target)}
    (folder / "pyproject.toml").write_text(tomlkit.dumps({"tool": {"uv": settings}}), encoding="utf-8")


def add_metadata(project: Path, target: Target) -> None:
    """Add the target's static metadata to the settings that a scratch checkout of the project has (``[tool.uv]``)."""
    metadata = _dependency_metadata(target)
    if not metadata:
        return
    pyproject = project / "pyproject.toml"
    document = _pyproject.parse(pyproject.read_bytes(), str(pyproject))
    settings: Any = document.setdefault("tool", {}).setdefault("uv", {})
    settings["dependency-metadata"] = [*settings.get("dependency-metadata", []), *metadata]
    pyproject.write_text(tomlkit.dumps(document), encoding="utf-8")


def missing_repository(said: str, bundle: Bundle) -> str | None:
    """Return the URL of a repository that uv's git asked for and the bundle lacks, from what uv said."""
    for found in _FETCH.finditer(said):
        url = found["url"]
        if not (bundle.repos / RepositoryId.parse(url).mirror).is_dir():
            return url
    # a submodule: git names the path that it was redirected to
    for path in re.findall(re.escape(f"{bundle.repos}/") + r"([^\s']+)", said):
        if not (bundle.repos / f"{path.removesuffix('.git')}.git").is_dir():
            return f"https://{path}"
    return None


def drop_git_cache(cache: Path) -> None:
    """Remove what uv remembers of git repositories, so that a resolution really asks the mirrors."""
    for folder in cache.glob("git-v*"):
        shutil.rmtree(folder)
