# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a bundle: sealing, verifying and pruning by it. Standard library only.

A bundle is what lies in its known folders (:attr:`Bundle.folders`); anything else at its top is none of its business.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    exclusive,
    json_bytes,
    of_many,
    parse_json,
    read_json,
    remove,
    sha256_bytes,
    sha256_file,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._push import is_unfinished
from ansible_collections.rlinf.offline.plugins.module_utils._records import ASSETS, URLS, read_locks, read_record
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Signer, Trust, fingerprint_of, made_by, sign, signer_of
from ansible_collections.rlinf.offline.plugins.module_utils._urls import without_userinfo

FORMAT = 1
NAMED = 20
"""How many files a message or a result names of each kind; the counts are always whole."""
SHOWN = 1000
"""How many files a diff shows."""
DOWNLOAD = "Run the playbook rlinf.offline.download on the bastion"
# what a write that was cut off leaves behind: a partial download, a temporary file of _files
_LEFT_OVER = re.compile(r".+\.part|\..+\.\d+\.tmp")
_OLD = re.compile(r"\.(?P<name>.+)\.old")
_REPOSITORIES = {str: {"url": str, "version?": (str, type(None)), "commit": str, "default_branch?": (str, type(None))}}
# for the files see _wrong_entry
_MANIFEST = {
    "format": int,
    "serial": int,
    "created?": str,
    "files": dict,
    "repositories": {str: {"commit": str}},
}
_PACKAGE = {"path": str, "source?": {f"{key}?": (str, type(None)) for key in ("url", "commit", "subdirectory")}}
# the newer last
_NOTED = ("former", "files")
_STAMP = {"bundle": str, "manifest": str, "serial": int, "files": dict, "former": dict}
_FILE = (int, int, str, type(None))
_LINK = (type(None), type(None), type(None), str)
# a name that leads nowhere, or out of where it is
_STRAY = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Found:
    """One file or link that lies in a bundle: its size in bytes, its times of modification and of change, and where it leads if it is a link."""

    size: int
    mtime_ns: int
    ctime_ns: int
    link: str | None = None

    @property
    def stat(self) -> tuple[int, int]:
        return self.size, self.mtime_ns

    def noted(self, sha256: str) -> list[int | str]:
        """Return what a stamp notes of a file with this content. Who may write it sets any modification time, but not when that was done."""
        return [self.size, self.mtime_ns, self.ctime_ns, sha256]


@dataclass(frozen=True)
class Difference:
    """What one list of files has over another: path -> bytes."""

    added: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    modified: Mapping[str, int] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        kinds = (("added", self.added), ("removed", self.removed), ("modified", self.modified))
        return {name: {"count": len(paths), "bytes": sum(paths.values()), "first": sorted(paths)[:NAMED]} for name, paths in kinds}


@dataclass(frozen=True)
class Outcome:
    """What sealing, verifying or pruning came to; *before* and *after* are texts for a diff, *extra* files outside the manifest by bytes."""

    changed: bool
    reason: str
    serial: int
    digest: str
    files: int
    bytes: int
    difference: Difference = field(default_factory=Difference)
    hashed: int = 0
    left_over: Sequence[str] = ()
    extra: Mapping[str, int] = field(default_factory=dict)
    before: str = ""
    after: str = ""

    def said(self, state: str, seconds: float) -> dict[str, Any]:
        """Return it as a module's result; left-overs are a warning, since nobody else would mention them.

        :param state: what was asked for.
        """
        found: dict[str, Any] = {
            "state": state,
            **{key: getattr(self, key) for key in ("changed", "reason", "serial", "digest", "files", "bytes", "hashed")},
            "changes": self.difference.json,
            "left_over": list(self.left_over),
            "extra": Difference(removed=self.extra).json["removed"],
            "seconds": round(seconds, 3),
        }
        if self.left_over and state in ("sealed", "verified"):
            first = ", ".join(self.left_over[:3])
            found["warnings"] = [
                f"{len(self.left_over)} left over from writes that were cut off ({first}): resumed by the next download, or removed by state pruned."
            ]
        return found


# -- reading -------------------------------------------------------------------------------------------------------------------


def scan(bundle: Bundle) -> tuple[dict[str, Found], list[str]]:
    """Return the files and links in the bundle's folders by relative path, and what cut-off writes left behind.

    :raises BundleError: a link leads out of its folder, or something is neither file, directory nor link.
    """
    found: dict[str, Found] = {}
    left_over: list[str] = []
    for folder in bundle.folders:
        for path in _walk(folder, left_over, bundle.root):
            name = str(path.relative_to(bundle.root))
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                found[name] = Found(0, status.st_mtime_ns, status.st_ctime_ns, _link(path, folder))
            elif stat.S_ISREG(status.st_mode):
                found[name] = Found(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            else:
                raise BundleError(f"{path} is neither a file, a directory nor a link, and cannot be in a bundle. Remove it and run again.")
    for name in found:
        if not _is_text(name):
            raise BundleError(f"{name!r} in {bundle.root} is not valid UTF-8, and cannot be in a bundle. Rename it and run again.")
    return found, sorted(left_over)


def _walk(folder: Path, left_over: list[str], root: Path) -> Iterator[Path]:
    """Yield everything below *folder* that is no directory, apart from what cut-off writes left."""

    def unreadable(error: OSError) -> None:
        raise error

    for top, directories, names in os.walk(folder, onerror=unreadable if folder.is_dir() else None):
        siblings = {*directories, *names}
        for name in [*directories, *names]:
            path = Path(top, name)
            old = _OLD.fullmatch(name)
            if _LEFT_OVER.fullmatch(name) or (old and old["name"] in siblings):
                left_over.append(str(path.relative_to(root)))
                if name in directories:
                    directories.remove(name)
            elif name in names or path.is_symlink():
                yield path


def _link(path: Path, folder: Path) -> str:
    """Return where a link leads, if that is inside *folder*: otherwise the bundle could not be carried."""
    target = os.readlink(path)
    if os.path.isabs(target) or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise BundleError(
            f"{path} is a link to {target}, which leads out of {folder.name}/: a bundle must be whole wherever it is carried. Put a copy there instead."
        )
    return target


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_present(bundle: Bundle) -> None:
    """:raises BundleError: there is no bundle there, or it was never sealed."""
    if not bundle.root.is_dir():
        raise BundleError(
            f"There is no bundle: {bundle.root} is not there. {DOWNLOAD}, then rlinf.offline.push, or correct rlinf_bundle_dir."
        )
    if not bundle.manifest.is_file():
        empty = not any(folder.is_dir() for folder in bundle.folders)
        state = "is empty" if empty else "has no manifest (bundle.json): it is incomplete"
        raise BundleError(f"The bundle {bundle.root} {state}. {DOWNLOAD}, then rlinf.offline.push, or correct rlinf_bundle_dir.")


def read_manifest(bundle: Bundle) -> dict[str, Any]:
    """Return the manifest of a sealed bundle.

    :raises BundleError: there is no bundle, or its manifest is damaged or of a newer format.
    """
    check_present(bundle)
    return _shaped(bundle, read_json(bundle.manifest, BundleError))


def _shaped(bundle: Bundle, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest that was read.

    :raises BundleError: it is none, or of a newer format.
    """
    if isinstance(manifest, dict) and manifest.get("format", FORMAT) != FORMAT:
        raise BundleError(
            f"{bundle.manifest} has format {manifest['format']}, and this collection reads {FORMAT}. Use one version of it everywhere."
        )
    if wrong := misfit(manifest, _MANIFEST) or _wrong_entry(manifest["files"]):
        raise BundleError(f"{bundle.manifest} is no manifest of a bundle: {wrong}. {DOWNLOAD}, then rlinf.offline.push.")
    origins_seen: dict[str, str] = {}
    for entry in manifest["files"].values():
        # a hundred thousand files of one archive have one origin: its text is kept once
        if origin := entry.get("origin"):
            entry["origin"] = origins_seen.setdefault(origin, origin)
    return manifest


def _wrong_entry(files: Mapping[str, Any]) -> str:
    """Return which of a manifest's entries is none, in words, or nothing. There may be hundreds of thousands, for which shapes are slow."""
    for path, entry in files.items():
        if _STRAY.search(path):
            return f"{path!r} is no path in it"
        if not isinstance(entry, dict) or not isinstance(entry.get("origin"), (str, type(None))):
            return f"files.{path} is no entry"
        # the types are exact in JSON, and true is no number
        kinds = type(entry.get("size")), type(entry.get("mtime_ns")), type(entry.get("sha256")), type(entry.get("link"))
        if kinds not in (_FILE, _LINK):
            return f"files.{path} has neither size, mtime_ns and sha256 nor a link"
    return ""


def manifest_digest(bundle: Bundle) -> str:
    """Return the SHA-256 of the manifest: the identity of everything in the bundle."""
    return sha256_file(bundle.manifest)


def signature_digest(bundle: Bundle) -> str | None:
    """Return the SHA-256 of the manifest's signature, none if it is unsigned."""
    return sha256_file(bundle.signature) if bundle.signature.is_file() else None


def hash_files(root: Path, paths: Sequence[str], jobs: int) -> Iterator[tuple[str, str]]:
    """Return each path with the SHA-256 of that file below *root*, *jobs* of them hashed at a time."""
    return of_many(lambda path: sha256_file(root / path), paths, jobs)


def entry_bytes(entry: Mapping[str, Any]) -> int:
    """Return the size of what an entry of a manifest stands for; a link has none."""
    return int(entry.get("size", 0))


def _same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("size", "sha256", "link"))


def difference(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> Difference:
    """Return what changed between the ``files`` of two manifests, by content."""
    return Difference(
        added={path: entry_bytes(entry) for path, entry in after.items() if path not in before},
        removed={path: entry_bytes(entry) for path, entry in before.items() if path not in after},
        modified={path: entry_bytes(entry) for path, entry in after.items() if path in before and not _same_content(entry, before[path])},
    )


# -- sealing -------------------------------------------------------------------------------------------------------------------


def seal(bundle: Bundle, *, key: Path | None = None, full: bool = False, jobs: int = 4, check: bool = False) -> Outcome:
    """Write the manifest of what is in the bundle. Its serial and date change only when something else in it does.

    A file whose size and modification time are those of the former manifest is not read again. One that was only touched gets its former
    time back, so that neither the manifest nor a push is moved by it.

    :param key: what the manifest is signed with; without one, a signature of another manifest is removed.
    :param full: hash everything.
    :param jobs: how many files are hashed at a time.
    :param check: only say what would happen.
    :raises BundleError: the bundle is empty, or holds something that cannot be carried, or it cannot be signed.
    """
    if not bundle.root.is_dir():
        raise BundleError(f"There is no bundle: {bundle.root} is not there. {DOWNLOAD}, or correct rlinf_bundle_dir.")
    fingerprint = fingerprint_of(key) if key else None
    with contextlib.nullcontext() if check else exclusive(bundle.lock_file, f"the bundle {bundle.root}"):
        outcome, data = _seal(bundle, full, jobs, check)
        signed = _signed(bundle, data, key, fingerprint, check)
    return outcome if not signed else replace(outcome, changed=True, reason=f"{outcome.reason}; {signed}")


def _signed(bundle: Bundle, data: bytes, key: Path | None, fingerprint: str | None, check: bool) -> str:
    """Have a signature of the manifest by this key, or none of another manifest; return what was done for it."""
    there = bundle.signature.read_bytes() if bundle.signature.exists() else None
    maker = made_by(data, there) if there is not None else None
    if key:
        if maker == fingerprint:
            return ""
        if not check:
            atomic_write(bundle.signature, sign(data, key))
        return f"signed by {fingerprint}"
    if there is None or maker:
        return ""
    if not check:
        remove(bundle.signature)
    return "the signature was of another manifest, and is removed"


def _seal(bundle: Bundle, full: bool, jobs: int, check: bool) -> tuple[Outcome, bytes]:
    former: dict[str, Any] = read_manifest(bundle) if bundle.manifest.exists() else {"serial": 0, "files": {}}
    found, left_over = scan(bundle)
    if not found:
        raise BundleError(f"The bundle {bundle.root} is empty. {DOWNLOAD}, or correct rlinf_bundle_dir.")
    files, hashed = _entries(bundle, found, former["files"], full, jobs)
    touched = [
        path
        for path, entry in files.items()
        if path in former["files"] and _same_content(entry, former["files"][path]) and "link" not in entry
    ]
    for path in touched:
        files[path]["mtime_ns"] = former["files"][path]["mtime_ns"]
    body = {"format": FORMAT, "tools": _tools(bundle), "files": files, "repositories": _repositories(bundle)}
    changes = difference(former["files"], files)
    same = {key: former.get(key) for key in body} == body
    manifest = {**body, "serial": former["serial"], "created": former.get("created")}
    if not same:
        manifest |= {"serial": former["serial"] + 1, "created": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    data = json_bytes(manifest)
    if not check:
        for path in touched:
            if found[path].mtime_ns != files[path]["mtime_ns"]:
                checkpoint(f"touch {path}")
                os.utime(bundle.root / path, ns=(found[path].mtime_ns, files[path]["mtime_ns"]))
        if not same:
            atomic_write(bundle.manifest, data)
    before, after = _diff_texts(former["files"], files, changes)
    outcome = Outcome(
        changed=not same,
        reason="sealed before, nothing has changed" if same else "sealed for the first time" if not former["serial"] else _summary(changes),
        serial=manifest["serial"],
        digest=sha256_bytes(data),
        files=len(files),
        bytes=sum(map(entry_bytes, files.values())),
        difference=changes,
        hashed=hashed,
        left_over=left_over,
        before=before,
        after=after,
    )
    return outcome, data


def _entries(
    bundle: Bundle, found: Mapping[str, Found], former: Mapping[str, Any], full: bool, jobs: int
) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the manifest's entry of every file, and how many files were read for it."""
    files: dict[str, dict[str, Any]] = {}
    origin = origins(bundle)

    def enter(path: str, **content: Any) -> None:
        entry, known = {**content, "origin": origin(path, content.get("sha256"))}, former.get(path)
        # what is the same is kept once
        files[path] = known if known == entry else entry

    to_hash = []
    for path, file in found.items():
        known = former.get(path, {})
        if file.link is not None:
            enter(path, link=file.link)
        elif not full and (known.get("size"), known.get("mtime_ns")) == file.stat:
            enter(path, size=file.size, sha256=known["sha256"], mtime_ns=file.mtime_ns)
        else:
            to_hash.append(path)
    for path, digest in hash_files(bundle.root, to_hash, jobs):
        enter(path, size=found[path].size, sha256=digest, mtime_ns=found[path].mtime_ns)
    return files, len(to_hash)


def origins(bundle: Bundle) -> Callable[[str, str | None], str | None]:
    """Return a function from a file's path and digest to the URL it came from, or None where nothing recorded it.

    A wheel built here has the URL of what it was built from: an sdist, or ``git+<url>@<commit>`` (as pip writes it).
    """
    by_digest = {entry["sha256"]: without_userinfo(url) for url, entry in sorted(read_record(bundle, "urls.json", URLS).items())}
    by_path: dict[str, str] = {}
    for _path, lock in read_locks(bundle, {"packages": [_PACKAGE], "build?": [_PACKAGE]}):
        for package in [*lock["packages"], *lock.get("build", [])]:
            url, commit, subdirectory = (package.get("source", {}).get(key) for key in ("url", "commit", "subdirectory"))
            if url:
                pinned = f"git+{without_userinfo(url)}@{commit}" + (f"#subdirectory={subdirectory}" if subdirectory else "")
                by_path[package["path"]] = pinned if commit else without_userinfo(url)
    mirrors = {
        mirror: without_userinfo(record["url"]) for mirror, record in read_record(bundle, "repositories.json", _REPOSITORIES).items()
    }
    unpacked = {
        f"{bundle.assets.name}/{dest}": without_userinfo(record["url"])
        for dest, record in read_record(bundle, "assets.json", ASSETS).items()
    }

    def origin(path: str, digest: str | None) -> str | None:
        asset = next((unpacked[str(parent)] for parent in PurePosixPath(path).parents if str(parent) in unpacked), None)
        return mirrors.get(mirror_of(path) or "") or by_path.get(path) or asset or by_digest.get(digest or "")

    return origin


def mirror_of(path: str) -> str | None:
    """Return the mirror (``host/owner/name.git``) that a path of the bundle lies in, if it lies in one."""
    top, *parts = PurePosixPath(path).parts
    if top != "repos":
        return None
    for number, part in enumerate(parts, 1):
        if part.endswith(".git"):
            return "/".join(parts[:number])
    return None


def _repositories(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of every mirror: where it comes from and which commit is frozen."""
    records = read_record(bundle, "repositories.json", _REPOSITORIES)
    found = {}
    for mirror, record in records.items():
        if (bundle.repos / mirror).is_dir():
            kept = {key: record.get(key) for key in ("url", "version", "commit", "default_branch")}
            found[mirror] = {**kept, "url": without_userinfo(record["url"])}
    return found


def _tools(bundle: Bundle) -> dict[str, str]:
    """Return the versions of the wheels under ``tools/``, by their file names (PEP 427)."""
    versions: dict[str, list[str]] = {}
    for wheel in sorted(bundle.tools.rglob("*.whl")):
        parts = wheel.name.split("-")
        # what somebody has put there under a name of their own says nothing of a version
        if len(parts) >= 5:
            versions.setdefault(parts[0], []).append(parts[1])
    return {name: ", ".join(sorted(set(found))) for name, found in versions.items()}


def size_text(count: int) -> str:
    """Return bytes for people: ``4.2 GB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def _summary(changes: Difference) -> str:
    kinds = (("added", changes.added), ("removed", changes.removed), ("changed", changes.modified))
    said = [f"{len(paths)} {kind} ({size_text(sum(paths.values()))})" for kind, paths in kinds if paths]
    return "files: " + ", ".join(said) if said else "what is recorded of the files has changed"


def _diff_texts(before: Mapping[str, Any], after: Mapping[str, Any], changes: Difference) -> tuple[str, str]:
    """Return the two sides of a diff: the first files that differ, a line each, with counts and bytes of all at the top."""

    def side(files: Mapping[str, Any], paths: Iterable[str]) -> str:
        lines = [f"files: {len(files)}, {size_text(sum(map(entry_bytes, files.values())))}"]
        for path in sorted(paths)[:SHOWN]:
            entry = files[path]
            lines.append(f"{path} -> {entry['link']}" if "link" in entry else f"{path} {entry['size']} sha256:{entry['sha256']}")
        return "".join(f"{line}\n" for line in lines)

    if not (changes.added or changes.removed or changes.modified):
        return "", ""
    return side(before, [*changes.removed, *changes.modified]), side(after, [*changes.added, *changes.modified])


# -- verifying -----------------------------------------------------------------------------------------------------------------


def verify(
    bundle: Bundle,
    *,
    stamp: Path | None = None,
    targets: Sequence[str] = (),
    release: str = "",
    trust: Trust | None = None,
    full: bool = False,
    jobs: int = 4,
    check: bool = False,
    read: bool = True,
) -> Outcome:
    """Compare every file with the manifest: presence, size, SHA-256; nothing may be missing, damaged or added.

    A file that the stamp has seen with the same content, and that nobody has written or touched since, is not read again. With a stamp, files
    that the manifest does not list may stay where files are only ever taken by name: they are said.

    :param stamp: where this machine notes what it verified; outside the bundle, which may be read-only. It is written on success.
    :param targets: those of this machine, for which alone everything must be there; all if none is named.
    :param release: its release and architecture, as :func:`._closure.files_for` takes them.
    :param trust: who must have signed the manifest. Nothing of it is read before that is known.
    :param full: hash everything, whatever the stamp says.
    :param jobs: how many files are hashed at a time.
    :param check: verify, but do not write the stamp.
    :param read: whether files are read; if not, those count as damaged that would have to be.
    :raises BundleError: there is no bundle, nobody trusted has signed it, it is older than one before, or it is not what the manifest says; the
        first files of each kind are named.
    """
    manifest, digest, signer = _judged(bundle, trust)
    wanted = frozenset(files_for(bundle, manifest["files"], targets, release)) if targets else None
    if stamp is not None and stamp.absolute().is_relative_to(bundle.root.absolute()):
        raise BundleError(f"The stamp {stamp} lies in the bundle, which nodes never write into. Give a path outside of it.")
    files = manifest["files"]
    known = read_stamp(stamp, bundle, files)
    found, left_over = scan(bundle)
    noted = {} if full else known.get("files", {})
    files = {path: entry for path, entry in files.items() if path in found or wanted is None or path in wanted}
    seen = {path for path in files if path in noted and path in found and noted[path] == found[path].noted(files[path].get("sha256", ""))}
    missing, damaged, to_hash = differences(bundle, files, found, seen, jobs if read else 0)
    extra = {path: file.size for path, file in found.items() if path not in manifest["files"]}
    wrong = [path for path in extra if stamp is None or not _by_name(bundle, path)]
    if missing or damaged or wrong:
        raise _misfit(bundle, {"missing": missing, "damaged": damaged, "extra": wrong})
    if bundle.arriving.exists() and not check:
        # what a swarm had not brought to its end is all there now; of a bundle that may not be written, nothing of ours is
        with contextlib.suppress(OSError):
            remove(bundle.arriving)
        # files that it shared with the bundle have other times for it
        found, left_over = scan(bundle)
    former = _former(known, found, extra)
    new = {
        "format": FORMAT,
        "bundle": str(bundle.root.resolve()),
        "manifest": digest,
        "serial": manifest["serial"],
        "signed_by": [signer.principal, signer.fingerprint] if signer else None,
        "files": {path: found[path].noted(entry["sha256"]) for path, entry in files.items() if "link" not in entry},
        "former": former,
    }
    changed = stamp is not None and new != known and _lasting(new) != _lasting(known)
    if stamp is not None and new != known and not check:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_json(stamp, new)
    if trust and not check:
        trust.accept(manifest["serial"], digest)
    return Outcome(
        changed=changed,
        reason=f"verified, {len(to_hash)} of {len(files)} files read" if to_hash else "verified before, no file has changed since",
        serial=manifest["serial"],
        digest=digest,
        files=len(files),
        bytes=sum(map(entry_bytes, files.values())),
        hashed=len(to_hash),
        left_over=left_over,
        extra=extra,
        before=_stamp_text(known) if changed else "",
        after=_stamp_text(new) if changed else "",
    )


def recognise(bundle: Bundle, *, stamp: Path, targets: Sequence[str] = (), release: str = "", trust: Trust | None = None) -> Outcome | None:
    """Return what :func:`verify` says, if it would read no file and note nothing: this machine has accepted just this, and nothing has changed since."""
    try:
        outcome = verify(bundle, stamp=stamp, targets=targets, release=release, trust=trust, check=True, read=False)
    except BundleError:
        return None
    noted = trust is None or trust.has_accepted(outcome.serial, outcome.digest)
    return outcome if noted and not outcome.changed else None


def _judged(bundle: Bundle, trust: Trust | None) -> tuple[dict[str, Any], str, Signer | None]:
    """Return the manifest, its digest and who signed it, once it is known that this one is accepted."""
    check_present(bundle)
    data = bundle.manifest.read_bytes()
    signer = trust.judge(bundle, data) if trust else None
    manifest, digest = _shaped(bundle, parse_json(data, bundle.manifest, BundleError)), sha256_bytes(data)
    if trust:
        trust.check_serial(bundle, manifest["serial"], digest)
    return manifest, digest, signer


def check_signed(bundle: Bundle, signers: str, names: Sequence[str]) -> None:
    """Refuse files that are used before the bundle is verified, unless a manifest that a trusted signer has signed says what they are.

    :param signers: lines as ssh-keygen(1) describes under ALLOWED SIGNERS; without any, anybody's files are accepted.
    :param names: the files, relative to the bundle.
    :raises BundleError: nobody trusted has signed the manifest, or files are missing, damaged, or not listed in it.
    """
    if not signers.strip():
        return
    check_present(bundle)
    data = bundle.manifest.read_bytes()
    signer_of(bundle, data, signers)
    files = _shaped(bundle, parse_json(data, bundle.manifest, BundleError))["files"]
    there = [name for name in names if (bundle.root / name).is_file()]
    missing = [name for name in names if name not in there]
    extra = [name for name in there if name not in files]
    damaged = [name for name in there if name in files and files[name].get("sha256") != sha256_file(bundle.root / name)]
    if missing or damaged or extra:
        raise _misfit(bundle, {"missing": missing, "damaged": damaged, "extra": extra})


def differences(
    bundle: Bundle, files: Mapping[str, Any], found: Mapping[str, Found], seen: Container[str], jobs: int
) -> tuple[list[str], list[str], list[str]]:
    """Compare what a manifest lists with what is there.

    :param found: what is there, as :func:`scan` says.
    :param seen: those that need not be read, if they have the manifest's size.
    :param jobs: how many files are hashed at a time; with 0 none is, and those that would have to be count as damaged.
    :returns: the paths that are missing, those that are damaged, and those that were read to know.
    """
    missing, damaged, to_hash = [], [], []
    for path, entry in files.items():
        file = found.get(path)
        if file is None:
            missing.append(path)
        elif file.link != entry.get("link") or (file.link is None and file.size != entry["size"]):
            damaged.append(path)
        elif file.link is None and path not in seen:
            to_hash.append(path)
    damaged += [path for path, digest in hash_files(bundle.root, to_hash, jobs) if digest != files[path]["sha256"]] if jobs else to_hash
    return missing, damaged, to_hash


def _misfit(bundle: Bundle, kinds: Mapping[str, Sequence[str]]) -> BundleError:
    lines = [f"The bundle {bundle.root} is not what its manifest says."]
    for kind, paths in kinds.items():
        if paths:
            lines.append(f"{len(paths)} {kind}: {', '.join(sorted(paths)[:NAMED])}{', …' if len(paths) > NAMED else ''}.")
    lines.append(
        "On a node, run the playbook rlinf.offline.push again, with rlinf_scrub=true where something is damaged; "
        "on the bastion, run rlinf.offline.download with rlinf_scrub=true, which takes out what is damaged, brings it again and seals it."
    )
    return BundleError("\n".join(lines), **{kind: {"count": len(paths), "first": sorted(paths)[:NAMED]} for kind, paths in kinds.items()})


def read_stamp(stamp: Path | None, bundle: Bundle, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what this machine noted when it verified this very bundle, or nothing: a stamp of another place or format is worth nothing.

    :param files: those of the manifest, whose names and digests are kept once.
    """
    if stamp is None or not stamp.is_file():
        return {}
    try:
        known = read_json(stamp, BundleError)
    except BundleError:
        return {}
    usable = not misfit(known, _STAMP) and known.get("format") == FORMAT and known["bundle"] == str(bundle.root.resolve())
    if not usable or not all(isinstance(entry, list) for kind in _NOTED for entry in known[kind].values()):
        return {}
    texts = {text: text for path, entry in files.items() for text in (path, entry.get("sha256"))}

    def once(said: Any) -> Any:
        return texts.get(said, said) if isinstance(said, str) else said

    return {**known, **{kind: {once(path): [*map(once, entry)] for path, entry in known[kind].items()} for kind in _NOTED}}


def _lasting(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stamp without times of change: where a directory was put back, each file has another, and is what it was."""
    noted = {kind: {path: [*entry[:2], *entry[3:]] for path, entry in stamp.get(kind, {}).items()} for kind in _NOTED}
    return {**stamp, **noted}


def _stamp_text(stamp: Mapping[str, Any]) -> str:
    return f"verified: serial {stamp['serial']}, manifest sha256:{stamp['manifest']}, {len(stamp['files'])} files\n" if stamp else ""


# -- pruning -------------------------------------------------------------------------------------------------------------------


def prune(bundle: Bundle, *, stamp: Path | None = None, former: bool = True, check: bool = False) -> Outcome:
    """Remove what lies in the bundle's folders and is not in its manifest, left-overs of cut-off writes included.

    With a stamp, only what is known to be of a former bundle is removed. What nobody knows stays where files are only ever taken by name;
    elsewhere, in a mirror too, where everything that is there counts, it is set aside below :attr:`Bundle.set_aside`.

    :param stamp: where this machine notes what it verified.
    :param former: with a stamp, remove files of former bundles also where files are only ever taken by name.
    :param check: only say what would be removed.
    :raises BundleError: there is no sealed bundle.
    """
    check_present(bundle)
    with contextlib.nullcontext() if check else exclusive(bundle.lock_file, f"the bundle {bundle.root}"):
        manifest = read_manifest(bundle)
        files = manifest["files"]
        noted = read_stamp(stamp, bundle, files)
        found, left_over = scan(bundle)
        extra = {path: file.size for path, file in found.items() if path not in files}
        unfinished = {path for path in extra if is_unfinished(path, files)}
        left_over = sorted([*left_over, *unfinished])
        extra = {path: size for path, size in extra.items() if path not in unfinished}
        if stamp is None:
            removed, aside = extra, {}
        else:
            known = _former(noted, found, extra)
            kept = {path for path in extra if _by_name(bundle, path) and not (former and path in known)}
            removed = {path: size for path, size in extra.items() if path not in kept and path in known}
            aside = {path: size for path, size in extra.items() if path not in kept and path not in removed}
        if not check:
            for path in aside:
                _set_aside(bundle, path)
            for path in [*removed, *left_over]:
                remove(bundle.root / path)
            _remove_emptied(bundle, [*removed, *aside, *left_over], files)
    changes = Difference(removed={**dict.fromkeys(left_over, 0), **removed, **aside})
    return Outcome(
        changed=bool(changes.removed),
        reason=_pruned(bundle, removed, aside, left_over) if changes.removed else "nothing but what the manifest lists",
        serial=manifest["serial"],
        digest=manifest_digest(bundle),
        files=len(files),
        bytes=sum(map(entry_bytes, files.values())),
        difference=changes,
        left_over=left_over,
        extra={path: size for path, size in extra.items() if path not in removed and path not in aside},
        before="".join(f"{path}\n" for path in sorted(changes.removed)),
    )


def _by_name(bundle: Bundle, path: str) -> bool:
    """Return whether a path lies in a folder whose files are only ever taken by name, so that one too many does no harm."""
    return path.split("/", 1)[0] in {folder.name for folder in bundle.by_name}


def _former(known: Mapping[str, Any], found: Mapping[str, Found], paths: Collection[str]) -> dict[str, Any]:
    """Return what a stamp knows of those of these files that are there as they were when they were verified."""
    there = [path for path in paths if path in found]
    seen = ((path, known[kind][path]) for kind in _NOTED if kind in known for path in there if path in known[kind])
    return {path: entry for path, entry in seen if entry[:2] == [*found[path].stat]}


def _set_aside(bundle: Bundle, path: str) -> None:
    place = bundle.set_aside / path
    place.parent.mkdir(parents=True, exist_ok=True)
    number = next(number for number in itertools.count() if not os.path.lexists(f"{place}.{number}"))
    checkpoint(f"set aside {path}")
    os.rename(bundle.root / path, f"{place}.{number}")


def _pruned(bundle: Bundle, removed: Mapping[str, int], aside: Mapping[str, int], left_over: Sequence[str]) -> str:
    said = f"{len(removed) + len(left_over)} removed ({size_text(sum(removed.values()))})"
    return f"{said}, {len(aside)} that no bundle has had set aside in {bundle.set_aside}" if aside else said


def _remove_emptied(bundle: Bundle, paths: Iterable[str], files: Iterable[str]) -> None:
    """Remove the directories that removing *paths* left empty, but none of a mirror that stays: git needs its empty ones."""
    kept = {mirror_of(path) for path in files} - {None}
    for path in sorted(paths, reverse=True):
        if mirror_of(path) in kept:
            continue
        for parent in (bundle.root / path).parents:
            if parent in (bundle.root, *bundle.folders) or any(parent.iterdir()):
                break
            parent.rmdir()
