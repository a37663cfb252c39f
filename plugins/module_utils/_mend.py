# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking out of a bundle what is not what the manifest says, so that the next download or push brings it again. Standard library only.

Without this, a file that was damaged after it was sealed would be sealed as it is then, and a node would take it for right.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import (
    Difference,
    Found,
    Outcome,
    differences,
    entry_bytes,
    manifest_digest,
    mirror_of,
    read_manifest,
    scan,
    size_text,
)
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive, remove
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

# what never changes under its name; anything else a download that was cut off before it sealed may have written anew
_LASTING = re.compile(r"(wheelhouse|wheels|assets|interpreters)/|tools/.*\.whl\Z|apt/.*\.deb\Z")


def mend(bundle: Bundle, *, full: bool = False, jobs: int = 4, check: bool = False) -> Outcome:
    """Remove what was damaged since the bundle was sealed: files, and mirrors as a whole. A bundle that was never sealed is left alone.

    :param full: read every file, and judge by the manifest alone. Without it only what has another size or time than it was sealed with is
        looked at, and what a cut-off download may rightly have changed is left to the modules that wrote it; of mirrors, git says whether
        they are whole, which needs GitPython.
    :param jobs: how many files are hashed at a time.
    :param check: only say what would be removed.
    :raises BundleError: the manifest is damaged, or a record, which says what was seen at first and cannot be had again.
    """
    if not bundle.manifest.exists():
        return Outcome(False, "never sealed, nothing to compare with", 0, "", 0, 0)
    with contextlib.nullcontext() if check else exclusive(bundle.lock_file, f"the bundle {bundle.root}"):
        manifest = read_manifest(bundle)
        files: Mapping[str, Any] = manifest["files"]
        found, left_over = scan(bundle)
        seen = set() if full else {path for path, file in found.items() if files.get(path, {}).get("mtime_ns") == file.mtime_ns}
        missing, damaged, read = differences(bundle, files, found, seen, jobs)
        _refuse_records(bundle, missing, damaged if full else ())
        out = sorted({*_files(damaged, full=full), *_mirrors(bundle, [*missing, *damaged], full=full)})
        if not check:
            for path in out:
                remove(bundle.root / path)
    sizes = {path: _size(path, found) for path in out}
    return Outcome(
        changed=bool(out),
        reason=_reason(sizes) if out else "nothing is damaged",
        serial=manifest["serial"],
        digest=manifest_digest(bundle),
        files=len(files),
        bytes=sum(map(entry_bytes, files.values())),
        difference=Difference(removed=sizes),
        hashed=len(read),
        left_over=left_over,
        before="".join(f"{path}\n" for path in out),
    )


def _reason(sizes: Mapping[str, int]) -> str:
    said = f"{len(sizes)} damaged and taken out ({size_text(sum(sizes.values()))})"
    return f"{said}, among them {next(iter(sizes))}: the next download or push brings them again"


def _files(damaged: Collection[str], *, full: bool) -> Iterator[str]:
    for path in damaged:
        if mirror_of(path) is None and (full or _LASTING.match(path)):
            yield path


def _mirrors(bundle: Bundle, differing: Collection[str], *, full: bool) -> Iterator[str]:
    """Yield the mirrors of which a file is damaged or missing, by their paths in the bundle: git has no way to get one file of one again."""
    for mirror in sorted({mirror for path in differing if (mirror := mirror_of(path))}):
        if (bundle.repos / mirror).is_dir() and (full or not _whole(bundle, mirror)):
            yield f"{bundle.repos.name}/{mirror}"


def _whole(bundle: Bundle, mirror: str) -> bool:
    """Return whether every object of a mirror is there and is what its name says: it may have moved on since it was sealed.

    What a frozen commit is kept by says which it is; upstream's own refs are compared with upstream when the mirror is brought up to date.
    """
    # who only looks whether anything has changed needs none of this
    from ansible_collections.rlinf.offline.plugins.module_utils._git import session
    from ansible_collections.rlinf.offline.plugins.module_utils._mirror import FROZEN

    with session() as git:
        store = git.at(git_dir=bundle.repos / mirror)
        if store.run(["fsck", "--full", "--no-dangling", "--no-progress"], about=f"mirror {mirror}", check=False).status:
            return False
        listed = store.read("for-each-ref", "--format=%(objectname) %(refname)", about=f"mirror {mirror}")
    refs = [line.split(" ", 1) for line in listed.splitlines()]
    kept = [(commit, ref) for commit, ref in refs if not ref.startswith(("refs/heads/", "refs/tags/"))]
    return all(ref == f"{FROZEN}{commit}" for commit, ref in kept if len(ref.rpartition("/")[2]) == len(commit))


def _refuse_records(bundle: Bundle, missing: Collection[str], damaged: Collection[str]) -> None:
    # the bill of materials is made out of the rest
    made_anew = str(bundle.sbom.relative_to(bundle.root))
    records = sorted(path for path in {*missing, *damaged} if path.startswith(f"{bundle.records.name}/") and path != made_anew)
    if records:
        raise BundleError(
            f"{', '.join(records)} of the bundle {bundle.root} {'is' if len(records) == 1 else 'are'} not what was sealed, or not there, and "
            "cannot be had again: it says what upstream first served. On a node, remove it and run the playbook rlinf.offline.push. On the "
            "bastion, put back that of a copy of the bundle (a node has one). To trust what upstream serves now instead, write {} into it and run "
            "rlinf.offline.download without rlinf_scrub.",
            damaged={"count": len(records), "first": records},
        )


def _size(path: str, found: Mapping[str, Found]) -> int:
    return sum(file.size for name, file in found.items() if name == path or name.startswith(f"{path}/"))
