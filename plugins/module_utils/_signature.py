# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signing a manifest, and judging who signed it, by ssh-keygen (ssh-keygen(1), sections ``-Y`` and ALLOWED SIGNERS). Standard library only."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._process import Completed, run

NAMESPACE = "rlinf.offline"
"""What a signature is for: one that the same key made for anything else does not count."""
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/=]+")
_SIGN = "signing the bundle"
_JUDGE = "judging the bundle's signature"


@dataclass(frozen=True)
class Signer:
    """Who signed: a name of the allowed signers, and the fingerprint of the key."""

    principal: str
    fingerprint: str


def sign(data: bytes, key: Path) -> bytes:
    """Return the signature of *data*.

    :param key: a private key without passphrase, or the public half of one that an agent holds (``SSH_AUTH_SOCK``).
    :raises BundleError: the key cannot be used.
    """
    with _files(message=data) as (folder, message):
        done = _keygen(["-Y", "sign", "-q", "-f", key, "-n", NAMESPACE, message], _SIGN)
        signature = folder / f"{message.name}.sig"
        if done.status or not signature.is_file():
            raise BundleError(
                f"The bundle could not be signed with {key}: {_said(done)} Give a private key without passphrase in rlinf_signing_key, "
                "or the public half of one that ssh-agent holds."
            )
        return signature.read_bytes()


def fingerprint_of(key: Path) -> str:
    """Return the fingerprint of a key, or of the public half beside it.

    :raises BundleError: it is not there, or no key.
    """
    if not key.is_file():
        raise BundleError(f"The signing key {key} is not there. Make one with ssh-keygen -t ed25519, or correct rlinf_signing_key.")
    done = _keygen(["-l", "-f", key], _SIGN)
    found = _FINGERPRINT.search(done.stdout)
    if done.status or not found:
        raise BundleError(f"{key} is no key that ssh-keygen reads: {_said(done)} Correct rlinf_signing_key.")
    return found[0]


def made_by(data: bytes, signature: bytes) -> str | None:
    """Return the fingerprint of the key that made a signature, whoever's it is; None if it is not one of *data*."""
    with _files(message=data, signature=signature) as (_folder, message, signed):
        done = _keygen(["-Y", "check-novalidate", "-n", NAMESPACE, "-s", signed], _JUDGE, stdin=message)
    found = _FINGERPRINT.search(done.stdout + done.stderr)
    return found[0] if found and not done.status else None


def judge(data: bytes, signature: bytes | None, signers: str, what: Path) -> Signer:
    """Return who of the trusted *signers* signed *data*.

    :param signature: None if there is none.
    :param signers: lines as ssh-keygen(1) describes under ALLOWED SIGNERS.
    :param what: the path of what is judged, for the error; that of the signature has ``.sig`` at its end.
    :raises BundleError: it is unsigned, was changed since, or was signed by somebody else.
    """
    remedy = (
        "Get the bundle anew from where it was made, seal it there with rlinf_signing_key, or name who made it in rlinf_trusted_signers."
    )
    if signature is None:
        raise BundleError(
            f"{what} is not signed, and only what a trusted signer has signed is accepted: {what.name}.sig is not there. {remedy}"
        )
    with _files(message=data, signature=signature, signers=signers.encode()) as (_folder, message, signed, allowed):
        found = _keygen(["-Y", "find-principals", "-s", signed, "-f", allowed], _JUDGE)
        principals = found.stdout.split()
        if not found.status:
            for principal in principals:
                arguments: list[str | Path] = ["-Y", "verify", "-f", allowed, "-I", principal, "-n", NAMESPACE, "-s", signed]
                done = _keygen(arguments, _JUDGE, stdin=message)
                fingerprint = _FINGERPRINT.search(done.stdout)
                if not done.status and fingerprint:
                    return Signer(principal, fingerprint[0])
    maker = made_by(data, signature)
    if maker is None:
        raise BundleError(f"{what} is not what was signed: it or {what.name}.sig was changed or damaged. {remedy}")
    raise BundleError(f"{what} is signed by the key {maker}, which none of the trusted signers has, or no longer. {remedy}")


def signer_of(bundle: Bundle, data: bytes, signers: str) -> Signer:
    """Return who of the trusted *signers* signed the manifest that consists of these bytes.

    :raises BundleError: nobody of them.
    """
    signature = bundle.signature.read_bytes() if bundle.signature.exists() else None
    return judge(data, signature, signers, bundle.manifest)


@dataclass(frozen=True)
class Trust:
    """Whose bundles are accepted on this machine.

    :param signers: lines as ssh-keygen(1) describes under ALLOWED SIGNERS.
    :param accepted: where the last accepted serial is noted.
    :param downgrade: whether one that is older than that is accepted.
    """

    signers: str
    accepted: Path
    downgrade: bool = False

    @classmethod
    def of(cls, signers: str, stamp: Path | None, downgrade: bool) -> Trust | None:
        """Return whose bundles are accepted, or None if anybody's are.

        :param stamp: where this machine notes what it verified; the serial is noted beside it.
        :raises BundleError: there are signers, and no stamp.
        """
        if not signers.strip():
            return None
        if stamp is None:
            raise BundleError("trusted_signers needs a stamp, beside which the last accepted serial is noted. Give one.")
        return cls(signers, stamp.parent / "accepted.json", downgrade)

    def judge(self, bundle: Bundle, data: bytes) -> Signer:
        """Return who signed the manifest that consists of these bytes.

        :raises BundleError: nobody whom this machine trusts.
        """
        return signer_of(bundle, data, self.signers)

    def check_serial(self, bundle: Bundle, serial: int, digest: str) -> None:
        """:raises BundleError: it is older than the one accepted last, or another one of the same serial."""
        if self.downgrade or not self.accepted.is_file():
            return
        last = read_json(self.accepted, BundleError)
        if not isinstance(last, dict) or not isinstance(last.get("serial"), int) or not isinstance(last.get("manifest"), str):
            raise BundleError(
                f"{self.accepted}, which says what bundle was accepted here last, is damaged. Remove it if {bundle.root} is the newest "
                "bundle there is, and run again."
            )
        kind = (
            "is older than"
            if serial < last["serial"]
            else "is another than"
            if serial == last["serial"] and digest != last["manifest"]
            else ""
        )
        if kind:
            raise BundleError(
                f"The bundle {bundle.root}, serial {serial}, {kind} the one that was accepted here last, serial {last['serial']}. "
                "Push the newest one, or set rlinf_allow_downgrade if you mean it."
            )

    def has_accepted(self, serial: int, digest: str) -> bool:
        """Return whether this bundle is the one that was noted last."""
        return self.accepted.is_file() and read_json(self.accepted, BundleError) == {"serial": serial, "manifest": digest}

    def accept(self, serial: int, digest: str) -> None:
        """Note a bundle that was verified."""
        if not self.has_accepted(serial, digest):
            self.accepted.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.accepted, {"serial": serial, "manifest": digest})


def _keygen(arguments: Sequence[str | Path], what: str, stdin: Path | None = None) -> Completed:
    # never a question: neither by a terminal nor by a window
    return run(["ssh-keygen", *arguments], what=what, check=False, stdin=stdin, env={"SSH_ASKPASS_REQUIRE": "never"}, timeout=60)


def _said(done: Completed) -> str:
    return (done.stderr or done.stdout).strip().rstrip(".") + "."


@contextmanager
def _files(**contents: bytes) -> Iterator[tuple[Path, ...]]:
    """Yield a directory and files with these contents in it, that nobody else reads, for as long as the body runs."""
    with tempfile.TemporaryDirectory(prefix="rlinf-signature-") as name:
        folder = Path(name)
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        yield (folder, *(folder / file for file in contents))
