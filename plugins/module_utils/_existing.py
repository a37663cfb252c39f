# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A target in an environment that somebody else made: conda, or a plain virtual environment.

There is no place to build aside, so what changes is known, and shown, beforehand, package by package; nothing else there is touched. What
was done is written down in ``rlinf/<target>.json`` of the environment, last: a run that was cut off is begun again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._activation import (
    check_exports,
    giving_back,
    setting,
    with_exports,
    without_exports,
)
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, judge, stored_lock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ProcessError, VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, exclusive, read_json, remove, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._gpu_check import IGNORED
from ansible_collections.rlinf.offline.plugins.module_utils._install import (
    MADE_OF,
    Installer,
    Wanted,
    compare,
    description,
    difference,
    refuse_damaged,
)
from ansible_collections.rlinf.offline.plugins.module_utils._installed import (
    Distribution,
    cores,
    damaged_files,
    distributions,
    normalize,
    site_packages,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import environment_lock
from ansible_collections.rlinf.offline.plugins.module_utils._process import run
from ansible_collections.rlinf.offline.plugins.module_utils._supply import Supply
from ansible_collections.rlinf.offline.plugins.module_utils._venv import locked, sources

OWN = "or leave rlinf_venv_mode at own, and an environment of its own is made"
_RECORD = {**MADE_OF, "former?": {str: (str, type(None))}, "fingerprints?": {str: [int]}}
_ASK = (
    "import json, os, sys, sysconfig; print(json.dumps({'own': sys.prefix != sys.base_prefix, 'packages': sysconfig.get_path('purelib'),"
    "'managed': os.path.exists(os.path.join(sysconfig.get_path('stdlib'), 'EXTERNALLY-MANAGED'))}))"
)


@dataclass(frozen=True)
class Plan:
    """What would be done; before and after are what a diff shows.

    :param install: packages that come, or take the place of what is there under their names.
    :param exports: files of activation that change: path -> text before and after, None where there is none.
    :param former: the versions that were there of the packages that come.
    """

    digest: str
    reason: str
    install: tuple[str, ...]
    exports: Mapping[Path, tuple[str | None, str | None]]
    before: str
    after: str
    changed: bool
    former: Mapping[str, str | None]
    warnings: tuple[str, ...] = ()
    supply: Supply | None = None


@dataclass(frozen=True)
class Existing:
    """An environment that exists, and a target that is, or shall be, in it."""

    installer: Installer
    path: Path

    @property
    def target(self) -> str:
        return self.installer.target

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def conda(self) -> bool:
        return (self.path / "conda-meta").is_dir()

    @property
    def folder(self) -> Path:
        """What is remembered of every target in it."""
        return self.path / "rlinf"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.target}.json"

    @property
    def lock_path(self) -> Path:
        return self.folder / f"pylock.{self.target.replace('.', '_')}.toml"

    @cached_property
    def known(self) -> dict[str, Any] | None:
        """What is written down of the target, if it is in this environment."""
        try:
            found: dict[str, Any] = read_json(self.record, VenvError, _RECORD)
        except FileNotFoundError:
            return None
        return found

    def check(self) -> None:
        """Refuse a Python that is not to be touched.

        :raises VenvError: it is no environment, the system's own, one of ours, or not this user's to change.
        """
        try:
            said = json.loads(run([self.python, "-I", "-c", _ASK], what=f"asking {self.python} where its packages are", timeout=60).stdout)
        except (ProcessError, ValueError):
            raise VenvError(
                f"{self.path} is no environment: {self.python} cannot be run as a Python. Correct rlinf_venv_path, {OWN}."
            ) from None
        if said["managed"] and not said["own"]:
            raise VenvError(
                f"{self.path} is the Python of the system (EXTERNALLY-MANAGED), whose packages its own installer looks after. "
                f"Make an environment ({self.python} -m venv DIRECTORY) and name it by rlinf_venv_path, {OWN}."
            )
        if not self.conda and not (self.path / "pyvenv.cfg").is_file():
            raise VenvError(
                f"{self.path} is neither a virtual environment (it has no pyvenv.cfg) nor a conda environment (no conda-meta). "
                f"Name one by rlinf_venv_path, {OWN}."
            )
        if self.path.resolve().parent == self.installer.node.venvs.resolve():
            raise VenvError(f"{self.path} was made by this collection and is built anew when it changes. Set rlinf_venv_mode to own.")
        sealed = [place for place in (self.path, self.path / "bin", Path(said["packages"])) if not os.access(place, os.W_OK)]
        if sealed:
            raise VenvError(f"{sealed[0]} cannot be written by this user. Run as the owner of the environment (ansible_user), {OWN}.")

    # -- the plan --------------------------------------------------------------------------------------------------------------

    def plan(self, wanted: Wanted) -> Plan:
        """Find out what is to be done; nothing is changed.

        :raises VenvError: the lock does not fit, its files cannot be had, another target of this environment needs other packages, or the
            environment is not to be touched.
        """
        check_exports(wanted.exports)
        self.check()
        known, digest, stamp = self.known, wanted.digest, wanted.stamp(self.target)
        self._refuse_rivals(stamp["packages"])
        there = self._installed(wanted.lock)
        finished = known is not None and not known.get("unfinished") and known["digest"] == digest
        install = self._to_install(wanted.lock, there, known if finished else None)
        exports = self._exports(wanted.exports)
        found = None
        if install or not finished:
            judge(wanted.lock, wanted.interpreter, [self.installer.bundle.wheels, self.installer.bundle.index])
            found = self.installer.supply(wanted)
            install = self._to_install(found.stored, there, known if finished else None)
        lines = {name: _shown(package) for name, package in there.items() if name in install} | {
            name: stamp["packages"][name]["shown"] for name in there if name not in install
        }
        before = {**stamp, **{key: known[key] for key in ("exports", "scripts") if known}}
        before |= {} if known else {"exports": {}, "scripts": []}
        replaced = [name for name in install if name in there]
        return Plan(
            digest=digest,
            reason=self._reason(finished, install, exports),
            install=install,
            exports=exports,
            before=description({**before, "packages": {name: {"shown": line} for name, line in lines.items()}}),
            after=description(stamp),
            changed=bool(install or exports or not finished),
            former={name: there[name].version if name in there else None for name in install},
            warnings=tuple(self._conda_warning(there, replaced)),
            supply=found,
        )

    def _installed(self, lock: EffectiveLock) -> dict[str, Distribution]:
        """Return what is there under the names of the lock's packages.

        :raises VenvError: something is there in a form that no installer can take away again.
        """
        names = {package.name for package in lock.packages}
        there = distributions(self.path, names)
        eggs = {normalize(entry.name.split("-")[0].removesuffix(".egg")): entry for entry in site_packages(self.path).glob("*.egg*")}
        old = [f"{name} ({entry.name})" for name, entry in eggs.items() if name in names and name not in there and "egg-info" in entry.name]
        if old:
            raise VenvError(f"{self.path} holds {', '.join(old)}, which only what installed it can take away. Do that, and run again.")
        return there

    def _to_install(self, lock: EffectiveLock, there: Mapping[str, Distribution], known: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Return the packages that are not there as the lock says.

        :param known: what is written down, if it is of this lock: what is unchanged since is right.
        """
        built = known.get("fingerprints", {}) if known else {}
        wrong = set(known.get("damaged", ())) if known else set()
        wrong |= {package.name for package in lock.packages if package.name not in there}
        unsure = {name for name, package in there.items() if package.fingerprint() != built.get(name)} - wrong
        wrong |= {package.name for package in lock.packages if package.name in unsure and difference(package, there[package.name])}
        # what only looks right, such as a package that conda installed and wrote into, is replaced, too
        removes = known["removes"] if known else ()
        wrong |= damaged_files(self.path, lock.wheels, cores(), removes=removes, only=unsure - wrong).keys() if unsure - wrong else set()
        return tuple(package.name for package in lock.packages if package.name in wrong)

    def _reason(self, finished: bool, install: Sequence[str], exports: Mapping[Path, Any]) -> str:
        if self.known is None:
            return "not there yet"
        if self.known.get("unfinished"):
            return "a run that was cut off is finished"
        if not finished:
            return "other packages, interpreter, exports or scripts"
        if install:
            return f"changed by hand: {', '.join(install)}"
        return "its exports are missing or were changed" if exports else "up to date"

    def _refuse_rivals(self, packages: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse what would be undone by, and would undo, another target in the same environment."""
        for record in sorted(self.folder.glob("*.json")):
            if record == self.record:
                continue
            other = read_json(record, VenvError, _RECORD)
            rivals = [
                name
                for name, package in packages.items()
                if name in other["packages"] and other["packages"][name]["shown"] != package["shown"]
            ]
            if rivals:
                raise VenvError(
                    f"{self.path} holds {other['target']}, which needs {', '.join(other['packages'][name]['shown'] for name in rivals)}; "
                    f"{self.target} needs {', '.join(packages[name]['shown'] for name in rivals)}. Give each an environment of its own by "
                    f"rlinf_venv_path, {OWN}, or take {other['target']} out with state withdrawn."
                )

    def _conda_warning(self, there: Mapping[str, Distribution], replaced: Sequence[str]) -> list[str]:
        ours = [name for name in replaced if _installer_of(there[name]) == "conda"]
        return [f"{self.path}: conda installed {', '.join(ours)}, and will not know that it was replaced."] if ours else []

    # -- exports ---------------------------------------------------------------------------------------------------------------

    def _exports(self, exports: Mapping[str, Any]) -> dict[Path, tuple[str | None, str | None]]:
        """Return the files of activation that are not as they should be, with the text before and after; None where there is none.

        conda sources what is in ``etc/conda/activate.d`` and ``deactivate.d``; a virtual environment has ``bin/activate``.
        """
        if self.conda:
            folder, name = self.path / "etc" / "conda", f"rlinf-{self.target}.sh"
            texts: dict[Path, str | None] = {
                folder / "activate.d" / name: setting(self.target, exports) if exports else None,
                folder / "deactivate.d" / name: giving_back(self.target, exports) if exports else None,
            }
        else:
            script = self.path / "bin" / "activate"
            now = _text(script) or ""
            if exports and not now:
                raise VenvError(f"There is no {script}, which would set the exports of {self.target}. Make the environment anew, {OWN}.")
            texts = {script: (with_exports(now, self.target, exports) if exports else without_exports(now, self.target)) or None}
        return {path: (_text(path), text) for path, text in texts.items() if text != _text(path)}

    @staticmethod
    def _write(exports: Mapping[Path, tuple[str | None, str | None]]) -> None:
        for path, (_before, text) in exports.items():
            if text is None:
                remove(path)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            status = path.stat() if path.exists() else None
            atomic_write(path, text.encode("utf-8", "surrogateescape"), mode=status.st_mode & 0o7777 if status else 0o644)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(self.folder / ".lock", f"The environment {self.path}")

    # -- doing it --------------------------------------------------------------------------------------------------------------

    def apply(self, wanted: Wanted) -> Plan:
        """Bring about what :meth:`plan` says, and return it.

        :raises OfflineError: another process works on this environment, uv or a script failed, or what is there then is not what was wanted.
        """
        # the environment, which other prefixes may share, and the working copies that the target is built from
        node_lock = environment_lock(self.installer.node.state, self.target)
        with exclusive(node_lock, f"The environment {self.target}"), self._alone():
            self.installer.wait()
            fresh = replace(self)
            plan = fresh.plan(wanted)
            if plan.supply is not None:
                fresh._install(wanted, plan, plan.supply)
            else:
                self._write(plan.exports)
            return plan

    def _install(self, wanted: Wanted, plan: Plan, found: Supply) -> None:
        known = self.known or {}
        stamp = wanted.stamp(self.target) | {"former": {**plan.former, **known.get("former", {})}}
        # whatever is cut off from here on is begun again, scripts included
        write_json(self.record, {**stamp, **known, "unfinished": True})
        installer, work = self.installer, self.folder / f".{self.target}"
        remove(work)
        work.mkdir()
        found = installer.build_sources(wanted, found, work)
        if plan.install:
            installer.add(wanted, found, plan.install, self.path, work)
        self._write(plan.exports)
        names = {package.name for package in wanted.lock.packages}
        installer.scripts(wanted, found, self.path, work, names=names)
        installer.check(found, self.path, removes=wanted.removes, names=names)
        installer.try_imports(wanted.imports, self.path, wanted.exports)
        remove(work)
        atomic_write(self.lock_path, found.stored.render())
        remote = {package.name: found.policy.place for package in found.remote if package.name in plan.install}
        kept = {name: place for name, place in known.get("remote", {}).items() if name in names and name not in plan.install}
        prints = {name: package.fingerprint() for name, package in distributions(self.path, names).items()}
        write_json(self.record, {**stamp, "remote": {**kept, **remote}, "fingerprints": prints})

    def verify(self, lock: EffectiveLock | None, imports: Sequence[str], *, mark: bool, gpu: str = IGNORED) -> dict[str, Any]:
        """Hash every file of the target's packages again, import its modules, and let its PyTorch compute on this node's GPUs.

        :param lock: the lock it should be of; that of its installation if not given.
        :param mark: whether damage is written down, so that the next install mends it.
        :param gpu: whether it has to (see :func:`~_gpu_check.check`).
        :returns: the packages with where they came from, what the GPUs did, and the digest, for the module's result.
        :raises VenvError: it is not there, is of another lock, a file is damaged, or a GPU does not compute.
        """
        known = self.known
        if known is None or known.get("unfinished"):
            raise VenvError(f"{self.target} is not, or not wholly, in {self.path}. Run the playbook install for it.")
        own = stored_lock(self.lock_path)
        if lock is not None and lock.identity != locked(known):
            raise VenvError(f"{self.target} in {self.path} is of another lock than the bundle's. Run the playbook install for it.")
        damaged = damaged_files(self.path, own.wheels, cores(), removes=known["removes"], only=set(known["packages"]))
        if damaged and mark:
            with self._alone():
                # it may have been installed anew, or taken out, since it was looked at
                if replace(self).known == known:
                    write_json(self.record, {**known, "damaged": sorted(damaged)})
        refuse_damaged(damaged, self.path)
        compare(own, self.path, exact=False)
        self.installer.try_imports(imports, self.path, known["exports"])
        computed = self.installer.try_gpus(gpu, own, self.path, known["exports"])
        return {"packages": sources(own, known, self.installer.bundle), "gpu": computed, "digest": known["digest"]}

    def withdraw(self, *, check: bool) -> Plan:
        """Take the exports of the target out of the environment again, and what is written down of it; its packages stay.

        :param check: only say what would be done.
        """
        known = self.known
        exports = self._exports({}) if self.path.is_dir() else {}
        changed = bool(known is not None or exports)
        if changed and not check:
            with self._alone():
                exports = self._exports({})
                self._write(exports)
                remove(self.lock_path)
                remove(self.record)
                if not any(self.folder.glob("*.json")):
                    remove(self.folder)
        before = description(known) if known else ""
        reason = f"its packages stay in {self.path}" if changed else "it is not there"
        return Plan(known["digest"] if known else "", reason, (), exports, before, "", changed, {})


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else None


def _installer_of(package: Distribution) -> str:
    try:
        return (package.info / "INSTALLER").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _shown(package: Distribution) -> str:
    """Return the line of a package that is not as a lock says."""
    by = _installer_of(package)
    return f"{package.name}=={package.version} (of another origin{f', installed by {by}' if by else ''})"
