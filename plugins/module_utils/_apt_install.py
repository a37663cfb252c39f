# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages on a node, out of the bundle's repository alone; the node's own sources, lists, holds and pins stay as they are.

Standard library only.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._apt import PACKAGES, RECORD, check_names, unmet
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, exclusive, read_json, remove, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import SYSTEM_STATE, Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._process import run

# Inst libfoo [1.0] (1.1 Debian:12 [amd64]); the version in brackets is the one that is there
_INST = re.compile(r"Inst (?P<package>\S+) (?:\[(?P<old>[^\]]+)\] )?\((?P<new>\S+)")
_REMV = re.compile(r"Remv (?P<package>\S+)")
# whatever is wanted of it (a hold, for one), it is installed, and nothing is wrong with it: dpkg-query(1)
_INSTALLED = re.compile(r".i ")
# deb-control(5); each of them is one line
_RESOLVED_BY = frozenset(
    {
        *("Package", "Status", "Version", "Architecture", "Multi-Arch", "Essential", "Protected", "Priority", "Section", "Provides"),
        *("Depends", "Pre-Depends", "Conflicts", "Breaks", "Replaces", "Recommends"),
    }
)
# no package asks anything, and none restarts services
_QUIET = {
    "DEBIAN_FRONTEND": "noninteractive",
    "NEEDRESTART_SUSPEND": "1",
    "UCF_FORCE_CONFFOLD": "1",
    "APT_LISTCHANGES_FRONTEND": "none",
}


def pending(state: Path = SYSTEM_STATE) -> Path:
    """Return the file that is there while a transaction of ours goes on, and after one that was cut off."""
    return state / "pending"


@dataclass(frozen=True)
class Plan:
    """What installing would do.

    :param missing: of the packages asked for, those that are not there.
    :param installs: package -> version, what apt would install.
    :param files: vendor files that are absent.
    :param bytes: of the package files.
    """

    missing: tuple[str, ...]
    installs: Mapping[str, str]
    files: tuple[str, ...]
    bytes: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.missing or self.files)


@dataclass(frozen=True)
class Installer:
    """Installs packages on this machine.

    :param files: path -> text, small configuration files that are put in place where nothing is there.
    :param upgrade: packages that may be upgraded where what is missing needs newer ones.
    :param timeout: seconds to wait for another package manager to end.
    :param state: a directory for apt's lists of that one transaction; it is removed afterwards.
    """

    bundle: Bundle
    packages: tuple[str, ...]
    files: Mapping[str, str]
    upgrade: frozenset[str] = frozenset()
    timeout: int = 120
    state: Path = SYSTEM_STATE

    def missing(self) -> tuple[str, ...]:
        """Return the packages that are not installed.

        :raises AptError: one is no name of a package.
        """
        check_names(self.packages)
        return tuple(sorted(set(self.packages) - installed()))

    def absent(self) -> tuple[str, ...]:
        """Return the configuration files that are not there."""
        return tuple(path for path in self.files if not Path(path).exists())

    def offered(self) -> frozenset[str]:
        """Return the packages that the bundle was made with for this release; none where it has nothing for it."""
        folder = self.bundle.apt(release_name(), dpkg_architecture())
        return frozenset(read_json(folder / RECORD, AptError, PACKAGES)["packages"]) if (folder / RECORD).is_file() else frozenset()

    def plan(self) -> Plan:
        """Return what is missing and what installing it would do; nothing is changed outside of *state*.

        :raises AptError: the bundle has nothing for this release, a file of it is missing, or apt would upgrade or remove something.
        """
        missing, absent = self.missing(), self.absent()
        if not missing:
            return Plan(missing, {}, absent)
        folder, record = self._repository()
        unknown = sorted(set(missing) - set(record["packages"]))
        if unknown:
            raise AptError(
                f"The bundle was made without {', '.join(unknown)} for {record['release']}. Name them in rlinf_system_packages and run download, then push."
            )
        installs = self._simulate(missing, folder)
        sizes = {file["package"]: file["size"] for file in record["files"]}
        return Plan(missing, installs, absent, sum(sizes.get(name, 0) for name in installs))

    def apply(self, plan: Plan) -> tuple[str, ...]:
        """Do what :meth:`plan` has found; return the configuration files that were put in place, a package not having brought them."""
        if plan.missing:
            folder, record = self._repository()
            self._verify(folder, record, plan.installs)
            self._pending.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._pending, b"")
            self._apt(folder, "installing the system packages", "install", "-y", *plan.missing)
            remove(self.state)
            left = self.missing()
            if left:
                raise AptError(f"apt ended without an error, and {', '.join(left)} is not installed. Look at /var/log/apt/term.log.")
        absent = self.absent()
        for path in absent:
            place = Path(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, self.files[path].encode())
        return absent

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other runs off: one would take this one's transaction for one that was cut off, and *state* away from under apt.

        :raises OfflineError: another process is at it.
        """
        return exclusive(self.state.with_name(f"{self.state.name}.lock"), "Installing system packages out of a bundle")

    @property
    def _pending(self) -> Path:
        return pending(self.state)

    def resume(self) -> None:
        """Let dpkg finish what it was doing when a former run was cut off: apt refuses to begin anything before that.

        Of what others have left half done it keeps its hands off.
        """
        if self._pending.exists():
            finish = ["dpkg", "--force-confold", "--configure", "-a"]
            run(finish, what="finishing what a run that was cut off has begun", env=_QUIET)
            remove(self.state)

    def _repository(self) -> tuple[Path, dict[str, Any]]:
        name, architecture = release_name(), dpkg_architecture()
        folder = self.bundle.apt(name, architecture)
        if not (folder / RECORD).is_file():
            there = sorted(str(path.parent.relative_to(self.bundle.root / "apt")) for path in self.bundle.root.glob(f"apt/*/*/{RECORD}"))
            raise AptError(
                f"The bundle has no system packages for {name}/{architecture}; it has {', '.join(there) or 'none at all'}. "
                f"Name {name} in rlinf_releases and run download, or install on the node yourself: {' '.join(self.packages)}."
            )
        return folder, dict(read_json(folder / RECORD, AptError, PACKAGES))

    def _verify(self, folder: Path, record: Mapping[str, Any], installs: Iterable[str]) -> None:
        """Hash the files that will be installed.

        :raises AptError: one is missing or damaged; each is named.
        """
        wanted = set(installs)
        wrong = []
        for file in record["files"]:
            if file["package"] in wanted:
                place = folder / file["filename"]
                if not place.is_file():
                    wrong.append(f"{file['filename']} is missing")
                elif sha256_file(place) != file["sha256"]:
                    wrong.append(f"{file['filename']} is damaged or replaced")
        if wrong:
            raise AptError(f"{folder}: {'; '.join(wrong)}. Nothing was installed. Run push again.")

    def _simulate(self, missing: Sequence[str], folder: Path) -> dict[str, str]:
        """Return what apt would install.

        :raises AptError: it would upgrade or remove something, or cannot install at all.
        """
        said = self._apt(folder, "planning the system packages", "install", "-s", *missing)
        upgrades, installs = {}, {}
        for found in filter(None, map(_INST.match, said.splitlines())):
            name = found["package"].partition(":")[0]
            if found["old"] and name not in self.upgrade:
                upgrades[name] = f"{name} {found['old']} -> {found['new']}"
            else:
                installs[name] = found["new"]
        removals = [found["package"] for found in map(_REMV.match, said.splitlines()) if found]
        if upgrades or removals:
            parts = [f"upgrade {', '.join(upgrades.values())}"] if upgrades else []
            parts += [f"remove {', '.join(removals)}"] if removals else []
            ways = [f"ask for it (rlinf_system_packages_upgrade: [{', '.join(upgrades)}])"] if upgrades and not removals else []
            ways += ["bring the node up to date by other means", "leave its packages to yourself (rlinf_system_packages_state: checked)"]
            raise AptError(
                f"Installing {', '.join(missing)} would {' and '.join(parts)}, which was not asked for. Nothing was changed. "
                f"Either {', or '.join(ways)}."
            )
        return installs

    def _apt(self, folder: Path, what: str, *arguments: str) -> str:
        """Run apt-get with the bundle's repository as its only source, in lists and caches of its own."""
        scratch = self.state / "apt"
        remove(scratch)
        for name in ("lists/partial", "archives/partial", "parts"):
            (scratch / name).mkdir(parents=True)
        sources = scratch / "sources.list"
        # every file was verified against the manifest and is again before it is installed
        sources.write_text(f"deb [trusted=yes] file:{quoted(folder)} ./\n", encoding="utf-8")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": scratch / "parts",
            "Dir::State::lists": scratch / "lists",
            "Dir::Cache": scratch,
            "Dir::Cache::archives": scratch / "archives",
            # the bundle may be readable by root alone
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::http::Proxy": "false",
            "DPkg::Lock::Timeout": self.timeout,
            "Dpkg::Use-Pty": "0",
            "Dpkg::Options::": "--force-confold",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        try:
            for step in (["-qq", "update"], ["-q", *arguments]):
                done = run(["apt-get", *options, *step], what=what, env=_QUIET, check=False)
                if done.status:
                    raise AptError(f"{what}: {reasons(done.stdout, done.stderr)}")
            return done.stdout
        finally:
            remove(scratch if self._pending.exists() else self.state)


def reasons(stdout: str, stderr: str) -> str:
    """Return what apt says of a failure: its errors, and the unmet dependencies that it lists before."""
    errors = [line for line in stderr.splitlines() if line.startswith(("E: ", "dpkg: error"))] or stderr.splitlines()[-5:]
    problems = unmet(stdout)
    advice = "; 'dpkg --audit' says whether a package was left half-installed" if "dpkg" in stderr else ""
    lines = [*errors, *(["unmet dependencies:", problems] if problems else [])]
    return (
        "\n".join(lines)
        + f"\nThe bundle's packages were chosen for another state than this node's{advice}. Survey it (rlinf.offline.survey) and run download."
    )


def installed() -> set[str]:
    """Return the names of the packages that are installed for this system's own architecture, and what they provide.

    :raises AptError: this system has no dpkg.
    """
    if not shutil.which("dpkg-query"):
        raise AptError(
            "This node has no dpkg: system packages come for Debian and Ubuntu. "
            "Set rlinf_system_packages_state: ignored and install what it needs yourself."
        )
    wanted = "${db:Status-Abbrev}|${Architecture}|${Package}|${Provides}\\n"
    said = run(["dpkg-query", "-W", "-f", wanted], what="asking dpkg what is installed").stdout
    native = {dpkg_architecture(), "all"}
    names: set[str] = set()
    for line in said.splitlines():
        status, architecture, package, provides = line.split("|", 3)
        if _INSTALLED.match(status) and architecture in native:
            names.add(package)
            names.update(re.split(r"[ (:]", item.strip(), maxsplit=1)[0] for item in provides.split(",") if item.strip())
    return names


def package_state(status: Path = Path("/var/lib/dpkg/status")) -> str:
    """Return what dpkg says of every package, without what only people read: apt resolves by it on another machine.

    :raises OSError: there is no such file.
    """
    stanzas = []
    for stanza in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        lines = [line for line in stanza.splitlines() if line.partition(":")[0] in _RESOLVED_BY]
        if lines:
            stanzas.append("".join(f"{line}\n" for line in lines))
    return "\n".join(sorted(stanzas))


def release_name(os_release: Path = Path("/etc/os-release")) -> str:
    """Return how this system's release is called in a bundle: ``ubuntu-22.04`` (os-release(5): ``ID``, ``VERSION_ID``)."""
    values = dict(line.split("=", 1) for line in os_release.read_text(encoding="utf-8").splitlines() if "=" in line)
    parts = (values.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID"))
    return "-".join(part for part in parts if part)


def dpkg_architecture() -> str:
    """Return this system's architecture in Debian's words."""
    return run(["dpkg", "--print-architecture"], what="asking dpkg for the architecture").stdout.strip()


def quoted(path: Path) -> str:
    """Return a path as sources.list(5) wants it."""
    return str(path).replace("%", "%25").replace(" ", "%20").replace("[", "%5b").replace("]", "%5d")
