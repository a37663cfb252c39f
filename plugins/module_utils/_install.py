# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing what a lock says into an environment, and the proof that it is there: sources, packages, scripts, files, imports."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from ansible_collections.rlinf.offline.plugins.module_utils import _gpu_check
from ansible_collections.rlinf.offline.plugins.module_utils._activation import activated, shown_exports
from ansible_collections.rlinf.offline.plugins.module_utils._built import Builder
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, Package
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, remove, sha256_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._installed import (
    Distribution,
    cores,
    damaged_files,
    differs_from_wheel,
    distributions,
    metadata_version,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._process import failure, run, wait_for
from ansible_collections.rlinf.offline.plugins.module_utils._scripts import Script, Stage
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit
from ansible_collections.rlinf.offline.plugins.module_utils._supply import Policy, Supply, supply
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Interpreter, Uv, isolated_environment

SHOWN = 5
"""How many damaged files or packages a message names."""
# imports each module in turn and says which failed; a failing import may raise anything, or exit
_IMPORTER = (
    "import importlib, json, sys\nfailed = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: importlib.import_module(name)\n"
    "    except BaseException as error: failed[name] = f'{type(error).__name__}: {error}'\n"
    "print('\\nfailed imports: ' + json.dumps(failed), flush=True)\n"
)


MADE_OF = {
    "target": str,
    "digest": str,
    "python": {"version": str, "executable": str},
    "exports": {str: (str, {"prepend": str})},
    "scripts": [{"name": str, "argv": [str]}],
    "removes": [str],
    "packages": {str: {"shown": str}},
    "remote?": {str: str},
    "damaged?": [str],
}
"""What is read of what was written down of an environment (:meth:`Wanted.stamp`), in the words of :mod:`._shape`."""
_DIRECT_URL = {"url?": str, "dir_info?": dict}


@dataclass(frozen=True)
class Wanted:
    """What an environment shall be.

    :param exports: variable -> text, or ``{"prepend": path}``.
    :param imports: modules that must be importable in it.
    :param exact: whether a package that someone added makes it another environment.
    :param scripts: what is run in it before it is finished.
    :param policy: what else than the bundle may be used for it.
    """

    lock: EffectiveLock
    interpreter: Interpreter
    exports: Mapping[str, Any] = field(default_factory=dict)
    imports: Sequence[str] = ()
    exact: bool = True
    scripts: tuple[Script, ...] = ()
    policy: Policy = field(default_factory=Policy)

    @property
    def digest(self) -> str:
        """The SHA-256 of lock, interpreter, exports and scripts: equal digests are equal environments."""
        python = {"version": self.interpreter.version, "executable": str(self.interpreter.executable)}
        scripts = [script.identity for script in self.scripts]
        made_of = {"format": 1, "python": python, "exports": dict(self.exports), "scripts": scripts, "packages": self.lock.identity}
        return sha256_bytes(json_bytes(made_of))

    @property
    def removes(self) -> tuple[str, ...]:
        """What scripts may delete, globs below site-packages."""
        return tuple(pattern for script in self.scripts for pattern in script.removes)

    def stamp(self, target: str) -> dict[str, Any]:
        """Return what is written down of an environment made of this."""
        return {
            "format": 1,
            "target": target,
            "digest": self.digest,
            "python": {"version": self.interpreter.version, "executable": str(self.interpreter.executable)},
            "exports": dict(self.exports),
            "scripts": [script.identity for script in self.scripts],
            "removes": list(self.removes),
            "skipped": list(self.lock.skipped),
            "packages": {package.name: {**package.identity, "shown": package.shown} for package in self.lock.packages},
        }


@dataclass(frozen=True)
class Installer:
    """Installs into environments of one target, with uv.

    :param target: names the target in messages and logs.
    """

    node: Node
    bundle: Bundle
    target: str
    uv: Uv

    def builder(self, wanted: Wanted) -> Builder:
        return Builder(self.node, self.bundle, self.target, wanted.lock, wanted.interpreter)

    def supply(self, wanted: Wanted) -> Supply:
        """Find out where everything comes from.

        :raises VenvError: something is missing and cannot be had.
        """
        return supply(wanted.lock, wanted.policy, self.builder(wanted), scripts=bool(wanted.scripts))

    def wait(self) -> None:
        """Wait for programs that outlived a module which was killed: they still write into what it built."""
        for log in sorted(self.node.log(self.target, "x").parent.glob("*.log")):
            wait_for(log)

    # -- installing ------------------------------------------------------------------------------------------------------------

    def make(self, place: Path, interpreter: Path) -> None:
        """Make an empty environment."""
        place.parent.mkdir(parents=True, exist_ok=True)
        self.uv.run(
            ["venv", "--no-project", "--prompt", self.target, "--python", interpreter, place],
            what=f"making an environment for {self.target}",
        )

    def build_sources(self, wanted: Wanted, found: Supply, work: Path) -> Supply:
        """Build the sources of which there is no wheel, in a throw-away environment, and return where everything comes from then.

        :param work: a folder for what is made on the way.
        """
        if not found.to_build:
            return found
        builder, environment = self.builder(wanted), work / "env"
        remove(environment)
        self.make(environment, wanted.interpreter.executable)
        stage = self.stage(wanted, found, environment, work)
        local = found.local(editables=False)
        installed = {package.name for package in (*local.packages, *found.remote)}
        lacking = [package for package in found.lock.build if package.name not in installed]
        here = [package for package in lacking if package.present]
        with_build = replace(
            found, lock=replace(found.lock, packages=(*local.packages, *here)), remote=tuple({*found.remote, *lacking} - {*here})
        )
        self._sync(with_build, environment, stage, work)
        wheels = dict(found.wheels)
        for package in found.to_build:
            wheels[package.name] = builder.build(package, environment, self.uv, stage.wheels, work)
        remove(environment)
        return replace(found, wheels=wheels, to_build=())

    def stage(self, wanted: Wanted, found: Supply, place: Path, work: Path) -> Stage:
        """Return what builds and scripts find, its folder of wheels filled."""
        stage = Stage(place, wanted.exports, self.uv, work)
        stage.set([*found.wheels.values(), *found.local_build])
        return stage

    def packages(self, wanted: Wanted, found: Supply, place: Path, work: Path) -> None:
        """Have exactly the packages of the lock in an environment."""
        self._sync(found, place, self.stage(wanted, found, place, work), work, copy=bool(wanted.scripts))

    def _sync(self, found: Supply, place: Path, stage: Stage, work: Path, *, copy: bool = False) -> None:
        lock = work / "pylock.local.toml"
        lock.write_bytes(found.local().render())
        self._uv_pip("sync", found, place, stage, ["--allow-empty-requirements", lock], copy=copy)
        self._from_index(found, found.remote, place, work, copy=copy)

    def add(self, wanted: Wanted, found: Supply, names: Collection[str], place: Path, work: Path) -> None:
        """Have these packages of the lock in an environment, whatever is there under their names; nothing else is touched."""
        lock = work / "pylock.local.toml"
        local = found.local(names)
        lock.write_bytes(local.render())
        stage = self.stage(wanted, found, place, work)
        if local.packages:
            self._uv_pip("install", found, place, stage, ["--no-deps", "--reinstall", "--requirements", lock], copy=True)
        self._from_index(found, [package for package in found.remote if package.name in names], place, work, copy=True, again=True)

    def _uv_pip(self, command: str, found: Supply, place: Path, stage: Stage, arguments: list[str | Path], *, copy: bool) -> None:
        """Install files of this node; what building editables needs, and the bundle lacks, comes from the index."""
        index: list[str | Path] = ["--no-index"]
        env: dict[str, str] = {}
        uv = self.uv
        if found.remote_build:
            constraints = stage.work / "build.txt"
            constraints.write_text("".join(f"{package.requirement}\n" for package in found.remote_build), encoding="utf-8")
            index, env, uv = ["--build-constraints", constraints], found.policy.environment, self._connected
        uv.run(
            [
                *("pip", command, "--python", place / "bin" / "python", *index, "--find-links", stage.wheels),
                *(["--link-mode", "copy"] if copy else []),
                *arguments,
            ],
            what=f"installing the packages of {self.target}",
            cwd=stage.work,
            env=env,
            log=self.node.log(self.target, "packages"),
        )

    def _from_index(self, found: Supply, packages: Sequence[Package], place: Path, work: Path, *, copy: bool, again: bool = False) -> None:
        """Install files that an index serves, by the SHA-256 of the lock.

        :param again: even where these versions are there.
        """
        if not packages:
            return
        listed = work / "remote.txt"
        listed.write_text("".join(f"{package.requirement}\n" for package in packages), encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--no-build", *(["--reinstall"] if again else [])]
        options += ["--link-mode", "copy"] if copy else []
        self._connected.run(
            ["pip", "install", "--python", place / "bin" / "python", *options, "--requirements", listed],
            what=f"installing {len(packages)} packages of {self.target} from {found.policy.shown}",
            cwd=work,
            env=found.policy.environment,
            log=self.node.log(self.target, "index"),
        )

    @property
    def _connected(self) -> Uv:
        """uv, free to ask an index: the settings of the node, which forbid it, are not read."""
        return Uv(self.uv.path, isolated_environment(self.node.cache))

    def scripts(self, wanted: Wanted, found: Supply, place: Path, work: Path, *, names: Collection[str] | None = None) -> None:
        """Run the scripts, and see after each that it left what the lock says.

        :param names: look at these packages alone; any others may be there.

        :raises OfflineError: one failed, or left something else; it is named.
        """
        stage = self.stage(wanted, found, place, work)
        for number, script in enumerate(wanted.scripts, 1):
            log = self.node.log(self.target, f"script-{number}-{script.name}")
            stage.run(script, log)
            try:
                self.check(found, place, removes=wanted.removes, names=names)
            except OfflineError as error:
                raise VenvError(
                    f"script {script.name} left the environment other than the lock says: {error} All that it said is in {log}.",
                    **error.details,
                ) from None

    # -- proving ---------------------------------------------------------------------------------------------------------------

    def check(self, found: Supply, place: Path, *, removes: Sequence[str] = (), names: Collection[str] | None = None) -> None:
        """Hash what is installed, and compare it with the lock.

        :param names: look at these packages alone; any others may be there.
        :raises VenvError: a file is damaged, or a package is not what the lock says.
        """
        refuse_damaged(damaged_files(place, found.wheels, cores(), removes=removes, only=names), place)
        compare(found.stored, place, exact=names is None)

    def try_imports(self, imports: Sequence[str], place: Path, exports: Mapping[str, Any]) -> None:
        """Import modules in the environment, as a job would see it.

        :raises VenvError: one cannot be imported; each is named with its error.
        """
        if not imports:
            return
        python = place / "bin" / "python"
        done = run([python, "-c", _IMPORTER, *imports], what=f"importing in {place}", cwd=place, env=activated(place, exports), check=False)
        if done.status:
            raise VenvError(failure(done, f"{self.target}: importing {', '.join(imports)}") + " The former environment stays in use.")
        failed = json.loads(done.stdout.rpartition("\nfailed imports: ")[2].splitlines()[0])
        if failed:
            named = "; ".join(f"{name} ({error})" for name, error in failed.items())
            raise VenvError(
                f"{self.target}: these modules cannot be imported in {place}: {named}. See that the target's lock, exports and repositories are right."
            )

    def try_gpus(self, mode: str, own: EffectiveLock, place: Path, exports: Mapping[str, Any]) -> dict[str, Any]:
        """Let PyTorch of the environment compute on every GPU, as a job would, and return what came of it.

        :param own: what was installed.
        :raises VenvError: see :func:`~_gpu_check.check`.
        """
        has_torch = any(package.name == "torch" for package in own.packages)
        return _gpu_check.check(mode, self.target, place, exports, has_torch=has_torch).json


def compare(lock: EffectiveLock, place: Path, *, exact: bool) -> None:
    """Compare the installed set with the lock by name, version and, where the wheel is on this node, content.

    :raises VenvError: a package is missing, too much, of another version, or not from the lock's file.
    """
    names = {package.name for package in lock.packages}
    installed = distributions(place, None if exact else names)
    wrong = [f"{name} is there, but not in the lock" for name in installed.keys() - names]
    for package in lock.packages:
        found = installed.get(package.name)
        wrong += [f"{package.name} is missing"] if found is None else filter(None, [difference(package, found)])
    if wrong:
        raise VenvError(f"{place} is not what the lock says: {'; '.join(sorted(wrong)[:SHOWN])}. Install again to have it built anew.")


def difference(package: Package, found: Distribution) -> str:
    """Say how an installed package is not what a lock says; empty if it is.

    What came from an index left no wheel to compare with: its METADATA then tells the version, and its RECORD the content.
    """
    if package.kind == "editable":
        return _wrong_editable(package, found.info)
    if not _same_version(found.version, package.version or ""):
        return f"{package.name} is {found.version}, the lock says {package.version}"
    if package.kind != "sdist" and package.path.is_file():
        # a script that builds a working copy once more may do so with another version of a tool, which the metadata then names
        other = differs_from_wheel(found, package.path, metadata="dir_info" not in _direct_url(found.info))
        return f"{package.name} is not from {package.path.name}: {other} differs" if other else ""
    told = metadata_version(found)
    return "" if _same_version(told, package.version or "") else f"{package.name} says that it is {told}, the lock says {package.version}"


def _same_version(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def _wrong_editable(package: Package, info: Path) -> str:
    """Say what is wrong with an editable install."""
    url = _direct_url(info)
    if url.get("dir_info", {}).get("editable") and url.get("url") in (package.path.as_uri(), package.path.resolve().as_uri()):
        return ""
    return f"{package.name} is not the editable at {package.path}"


def _direct_url(info: Path) -> dict[str, Any]:
    """Return what ``direct_url.json`` says of where a package came from (PEP 610); nothing if it came from an index."""
    try:
        found: dict[str, Any] = json.loads((info / "direct_url.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return {} if misfit(found, _DIRECT_URL) else found


def refuse_damaged(damaged: Mapping[str, Sequence[str]], place: Path) -> None:
    """:raises VenvError: there is damage; packages and files are named."""
    if damaged:
        shown = "; ".join(f"{name}: {', '.join(files[:SHOWN])}" for name, files in sorted(damaged.items())[:SHOWN])
        raise VenvError(
            f"{place} holds damaged files of {len(damaged)} packages ({shown}). Run the playbook install: it is installed anew.",
            damaged=sorted(damaged),
        )


# -- describing ----------------------------------------------------------------------------------------------------------------


def description(stamp: Mapping[str, Any] | None) -> str:
    """Return what a diff shows of a stamp: interpreter, exports, scripts, packages, a line each."""
    if stamp is None:
        return ""
    exports = [f"export {name}={json.dumps(value)}" for name, value in sorted(shown_exports(stamp["exports"]).items())]
    scripts = [f"script {script['name']}: {' '.join(script['argv'])}" for script in stamp["scripts"]]
    packages = [package["shown"] for _name, package in sorted(stamp["packages"].items())]
    return "\n".join([f"python {stamp['python']['version']} {stamp['python']['executable']}", *exports, *scripts, *packages, ""])


def package_changes(before: str, after: str) -> dict[str, list[dict[str, str]]]:
    """Return the packages that come, go and change between two descriptions, each with its lines before and after."""

    def packages(text: str) -> dict[str, str]:
        lines = [line for line in text.splitlines() if not line.startswith(("python ", "export ", "script "))]
        return {line.partition("==")[0].partition(" @ ")[0]: line for line in lines}

    old, new = packages(before), packages(after)
    return {
        "added": [{"name": name, "after": new[name]} for name in new if name not in old],
        "removed": [{"name": name, "before": old[name]} for name in old if name not in new],
        "changed": [{"name": name, "before": old[name], "after": new[name]} for name in new if name in old and old[name] != new[name]],
    }
