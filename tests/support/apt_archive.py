# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small archive of Debian packages in the form of Debian's and Ubuntu's own: pool, suites, components, a signed InRelease."""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Key:
    """A key that signs archives: where gpg keeps it, and the file of its public half that apt takes."""

    home: Path
    keyring: Path

    @classmethod
    def make(cls, folder: Path, name: str = "archive") -> Key:
        """Make a key below *folder*."""
        home = folder / f"gnupg-{name}"
        home.mkdir(parents=True, mode=0o700)
        key = cls(home, folder / f"{name}.gpg")
        key._gpg("--quick-generate-key", f"{name} <{name}@archive.invalid>", "ed25519", "sign", "never")
        key._gpg("--output", str(key.keyring), "--export")
        return key

    def sign(self, release: Path) -> None:
        """Write the InRelease of a Release file."""
        signed = release.with_name("InRelease")
        signed.unlink(missing_ok=True)
        self._gpg("--digest-algo", "SHA512", "--output", str(signed), "--clearsign", str(release))

    def _gpg(self, *arguments: str) -> None:
        options = ["--homedir", str(self.home), "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""]
        env = {"PATH": os.environ["PATH"]}
        try:
            subprocess.run(["gpg", *options, *arguments], check=True, capture_output=True, env=env)
        finally:
            # the agent that gpg has started goes on otherwise
            subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=True, capture_output=True, env=env)


def build_deb(
    folder: Path, name: str, version: str, fields: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> Path:
    """Build a package with dpkg-deb; *fields* are added to its control file, *files* are paths below / and their texts."""
    tree = folder / f"tree-{name}-{version.replace(':', '-')}"
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": "Nobody <nobody@archive.invalid>",
        "Priority": "optional",
        "Section": "misc",
        "Description": name,
        **(fields or {}),
    }
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    for path, text in (files or {f"usr/share/{name}/version": version}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(0o755 if text.startswith("#!") else 0o644)
    place = folder / f"{name}_{version.partition(':')[2] or version}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, place], check=True, capture_output=True)
    return place


@dataclass(frozen=True)
class Archive:
    """An archive below *root*, which some server serves."""

    root: Path
    key: Key

    def publish(
        self,
        suite: str,
        debs: Sequence[Path],
        *,
        component: str = "main",
        architecture: str = "amd64",
        valid_for: datetime.timedelta | None = None,
    ) -> None:
        """Publish packages as a component of a suite, and sign that.

        :param valid_for: how long from now its Release is valid (a negative one has expired); None: for ever.
        """
        stanzas = []
        for deb in debs:
            place = self.root / "pool" / deb.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(deb.read_bytes())
            control = subprocess.run(["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True).stdout.strip()
            digest = hashlib.sha256(place.read_bytes()).hexdigest()
            stanzas.append(f"{control}\nFilename: pool/{deb.name}\nSize: {place.stat().st_size}\nSHA256: {digest}\n")
        folder = self.root / "dists" / suite
        packages = folder / component / f"binary-{architecture}" / "Packages"
        packages.parent.mkdir(parents=True, exist_ok=True)
        packages.write_text("".join(f"{stanza}\n" for stanza in stanzas))
        self._release(folder, suite, architecture, valid_for)

    def _release(self, folder: Path, suite: str, architecture: str, valid_for: datetime.timedelta | None) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        lists = sorted(folder.glob("*/binary-*/Packages"))
        lines = [
            f"Suite: {suite}",
            f"Codename: {suite}",
            f"Date: {email.utils.format_datetime(now - datetime.timedelta(days=30), usegmt=True)}",
            *([f"Valid-Until: {email.utils.format_datetime(now + valid_for, usegmt=True)}"] if valid_for else []),
            f"Architectures: {architecture}",
            f"Components: {' '.join(path.parts[-3] for path in lists)}",
            "SHA256:",
            *(f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.relative_to(folder)}" for path in lists),
        ]
        release = folder / "Release"
        release.write_text("".join(f"{line}\n" for line in lines))
        self.key.sign(release)
