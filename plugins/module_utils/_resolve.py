# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a target's steps to pins: what upstream's installer would install, without installing it.

Upstream's install is a sequence, not a set: the steps together have no solution. Each step is resolved on its own with the pins
so far as preferences, as an installer prefers what is there, and its pins override the merged set.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Step, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError, ProcessError
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv

_COMMIT = re.compile(r"(?P<url>.+)@(?P<commit>[0-9a-f]{40})\Z")
# how uv names the repository that git could not fetch
_FETCH = re.compile(r"git fetch [^\n]*?'(?P<url>(?:https?|ssh)://[^']+)'")


class MissingMirror(LockError):
    """Resolving needs a repository that the bundle has no mirror of yet; ``url`` names it."""

    def __init__(self, url: str, step: str) -> None:
        super().__init__(f"step {step} needs the repository {url}, which the bundle has no mirror of. Run the download playbook.")
        self.url = url


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
class Resolution:
    """The pins of each step in order, and of all of them together; the packages of the editable steps by repository."""

    steps: tuple[tuple[str, Mapping[str, str]], ...]
    pins: Mapping[str, Pin]
    editables: Mapping[str, str]

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
    :param wheels: the prebuilt wheels of the catalogue that are in the bundle, by name.
    """

    uv: Uv
    bundle: Bundle
    target: Target
    python: Path
    platform: str
    torch_backend: str
    checkouts: Mapping[str, Path]
    wheels: Mapping[str, Path]
    leave_out: frozenset[str]
    scratch: Path

    def resolve(self, done: dict[int, dict[str, Pin]] | None = None) -> Resolution:
        """Resolve every step in its order.

        :param done: what earlier, interrupted calls found, by the step's number; filled in on the way.
        :raises MissingMirror: a repository is needed that the bundle lacks.
        :raises LockError: a step has no solution; it is named, with uv's explanation.
        """
        pins: dict[str, Pin] = {}
        editables: dict[str, str] = {}
        steps: list[tuple[str, Mapping[str, str]]] = []
        found = {} if done is None else done
        for number, step in enumerate(self.target.steps):
            if step.kind == "worktree" or (step.kind == "wheel" and step.value in self.leave_out):
                continue
            before = dict(pins)
            if step.kind == "uninstall":
                for name in step.value:
                    pins.pop(canonicalize_name(name), None)
            else:
                if number not in found:
                    found[number] = self._step(step, pins)
                pins.update(found[number])
            if step.kind == "editable":
                name = self._editable_name(step)
                editables[step.value] = name
                pins.pop(name, None)
            changed = {
                name: pins[name].short if name in pins else "" for name in sorted({*before, *pins}) if before.get(name) != pins.get(name)
            }
            steps.append((step.label, changed))
        return Resolution(tuple(steps), pins, editables)

    def _step(self, step: Step, pins: Mapping[str, Pin]) -> dict[str, Pin]:
        remove(self.scratch)
        self.scratch.mkdir(parents=True)
        output = self.scratch / "pins.txt"
        inputs = self._sync(step, output) if step.kind == "uv_sync" else self._inputs(step)
        if step.kind != "uv_sync":
            output.write_text("".join(f"{pin.requirement}\n" for pin in pins.values()), encoding="utf-8")
        # the checkout's [tool.uv] settings, its overrides above all, apply only to what runs in it
        cwd = self.scratch if step.options.get("project_settings") is False else self.checkouts[self.target.project]
        options = ["--no-deps"] if step.kind == "uv_sync" or step.options.get("dependencies") is False else []
        if self.torch_backend != "pypi" and step.kind != "uv_sync":
            options += ["--torch-backend", self.torch_backend]
        self._uv(step, ["pip", "compile", *self._common(), *options, *inputs, "--output-file", output], cwd, step.options.get("env") or {})
        lines = (line.strip() for line in output.read_text(encoding="utf-8").splitlines())
        found = [Pin.parse(line) for line in lines if line and not line.startswith(("#", "-"))]
        return {pin.name: pin for pin in found}

    def _common(self) -> list[str | Path]:
        return [
            *("--quiet", "--no-annotate", "--no-header", "--python", self.python),
            *("--python-version", self.target.python, "--python-platform", self.platform),
        ]

    def _sync(self, step: Step, output: Path) -> list[str | Path]:
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
        listed = self.scratch / "step.in"
        if step.kind == "editable":
            listed.write_text(f"-e {self.checkouts[step.value]}\n", encoding="utf-8")
        elif step.kind == "wheel":
            wheel = self.wheels[step.value]
            name = wheel.name.split("-", 1)[0]
            listed.write_text(f"{name} @ {wheel.as_uri()}\n", encoding="utf-8")
        else:
            project = self.checkouts[self.target.project]
            files = [item for item in step.value if item.endswith(".txt")]
            for name in files:
                if not (project / name).is_file():
                    raise LockError(
                        f"target {self.target.name}: step {step.label}: {self.target.project} has no file {name} at this version."
                    )
            listed.write_text("".join(f"{item}\n" for item in step.value if item not in files), encoding="utf-8")
            return [*(project / name for name in files), listed]
        return [listed]

    def _editable_name(self, step: Step) -> str:
        """Return the distribution name of an editable repository, which only its metadata tells."""
        remove(self.scratch)
        self.scratch.mkdir(parents=True)
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
            raise LockError(f"target {self.target.name}: step {step.label} cannot be resolved. {error}") from None


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
