# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the bundle that were damaged after it was sealed: every kind of file, in every way that a disk or a mistake does it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.faults.calls import Broken, Call, Outcome
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import Tree, must_be_right

REFUSED = (
    "verifying refuses, names the file and says what to do; an install fails with a clear word or is what an undisturbed one is, and no file "
    "under a final name is wrong"
)
BROUGHT = (
    "downloading again, by turns with rlinf_scrub=true and without reading everything, never seals what was damaged: it brings what was there, "
    "or says which file cannot be had again and what to do"
)

# every file below the bundle is of a kind; the first that matches its pattern is damaged
KINDS: Mapping[str, str] = {
    "manifest": "bundle.json",
    "signature": "bundle.json.sig",
    "record of downloads": "records/urls.json",
    "record of repositories": "records/repositories.json",
    "record of assets": "records/assets.json",
    "record of tools": "records/tools.json",
    "record of builds": "records/builds.json",
    "record of kernels": "records/kernels.json",
    "bill of materials": "records/sbom.cdx.json",
    "mirror's pack": "repos/**/*.pack",
    "mirror's index of a pack": "repos/**/*.idx",
    "mirror's refs": "repos/**/packed-refs",
    "mirror's HEAD": "repos/**/HEAD",
    "mirror's settings": "repos/**/config",
    "mirror's keeper of a folder": "repos/**/.keep",
    "wheel of the index": "wheelhouse/index/**/*.whl",
    "wheel built from git": "wheelhouse/git/**/*.whl",
    "wheel of the catalogue": "wheels/*.whl",
    "asset": "assets/.cache/**/*.model",
    "file of an unpacked asset": "assets/.sapien/**/*.so*",
    "pylock": "targets/*/*/pylock.*.toml",
    "lock": "targets/*/*/lock.json",
    "pins": "targets/*/*/pins.txt",
    "tools wheel": "tools/uv-*.whl",
    "wheel of a library": "tools/*.whl",
    "collection": "tools/*.tar.gz",
    "list of tools": "tools/runtime-requirements.txt",
    "interpreter": "interpreters/**/*.tar.gz",
    "system package": "apt/*/*/*.deb",
    "record of system packages": "apt/*/*/packages.json",
    "index of system packages": "apt/*/*/Packages",
    "description of system packages": "apt/*/*/Release",
}


def _flip(path: Path, chance: random.Random, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _truncate(path: Path, chance: random.Random, _other: Path) -> None:
    os.truncate(path, chance.randrange(1, max(2, path.stat().st_size)))


def _replace(path: Path, _chance: random.Random, other: Path) -> None:
    shutil.copy(other, path)


def _empty(path: Path, _chance: random.Random, _other: Path) -> None:
    os.truncate(path, 0)


def _remove(path: Path, _chance: random.Random, _other: Path) -> None:
    path.unlink()


Damage = Callable[[Path, random.Random, Path], None]
# a flipped bit comes twice: the disk's, which leaves the times as they are, and anybody else's
DAMAGES: Sequence[tuple[str, Damage, bool]] = (
    ("bit flipped by the disk", _flip, True),
    ("bit flipped", _flip, False),
    ("truncated", _truncate, False),
    ("replaced by another file", _replace, False),
    ("emptied", _empty, False),
    ("removed", _remove, False),
)


def rot(scene: Scene, sample: int | None, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Damage every kind of file in every way, then verify, install and download again.

    :param sample: how many trials at most, at random by a fixed seed; by default all.
    """
    download, install = scene.first("download"), scene.first("prepare", "install")
    for call in [*download, *scene.first("push", "prepare")]:
        scene.must(call)
    before = scene.tree()
    scene.save("before")
    for call in install:
        scene.must(call)
    after = scene.tree()
    scene.restore("before")
    kinds = files_of_kinds(scene.cycle.bundle)
    # cut short in one of the two ways, by turns
    turns = (_truncate, _empty)
    trials = [
        (kind, *damage)
        for number, (kind, files) in enumerate(kinds.items())
        for damage in DAMAGES
        # an empty file has nothing to lose but itself
        if damage[1] is not turns[number % 2] and (files[0].stat().st_size or damage[1] in (_replace, _remove))
    ]
    if sample:
        trials = random.Random(0).sample(trials, min(sample, len(trials)))
    tallies = {name: Tally(f"a bundle's file {name}", f"{REFUSED}; {BROUGHT}", "rot") for name, _how, _quiet in DAMAGES}
    for number, (kind, name, how, quiet) in [*enumerate(trials)][share[0] :: share[1]]:
        with tallies[name].trial(kind):
            try:
                # without reading everything nobody can know of what a disk did; of the rest, every other trial does
                _Rotten(scene, kind, how, quiet, before, after).trial(download, install, full=quiet or number % 2 == 0)
            finally:
                scene.restore("before", closely=quiet)
    yield from (tally for tally in tallies.values() if tally.trials)


def files_of_kinds(root: Path) -> dict[str, list[Path]]:
    """Return the files of each kind in a bundle.

    :raises LookupError: it has none of a kind, or a file that is of none: name its kind in :data:`KINDS`.
    """
    kinds = {kind: sorted(path for path in root.glob(pattern) if path.is_file()) for kind, pattern in KINDS.items()}
    bundle = Bundle(root)
    whole = {path for folder in bundle.folders for path in folder.rglob("*") if path.is_file()} | {bundle.manifest, bundle.signature}
    without = [kind for kind, files in kinds.items() if not files]
    unnamed = sorted(str(path.relative_to(root)) for path in whole.difference(*kinds.values()))
    if without:
        raise LookupError(f"the bundle has no {', '.join(without)}")
    if unnamed:
        raise LookupError(f"nobody has said of what kind these are: {', '.join(unnamed)}")
    return kinds


class _Rotten:
    """One file, damaged in one way."""

    def __init__(self, scene: Scene, kind: str, how: Damage, quiet: bool, before: Tree, after: Tree) -> None:
        self.scene, self.how, self.quiet, self.before, self.after = scene, how, quiet, before, after
        self.kind, self.root = kind, scene.cycle.bundle
        self.path = files_of_kinds(self.root)[kind][0]
        self.name = str(self.path.relative_to(self.root))

    def damage(self) -> None:
        status = self.path.stat()
        os.chmod(self.path, 0o644)
        others = sorted(path for path in self.path.parent.iterdir() if path.is_file() and path != self.path)
        self.how(self.path, random.Random(self.name), others[0] if others else self.root / "bundle.json")
        if self.quiet:
            os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))
        if self.path.exists():
            os.chmod(self.path, status.st_mode & 0o7777)

    def trial(self, download: Sequence[Call], install: Sequence[Call], *, full: bool) -> None:
        """:raises Broken: a promise does not hold."""
        self.damage()
        self._verified()
        self._installed(install)
        self.scene.restore("before", closely=self.quiet)
        self.damage()
        self._downloaded(download, full)

    def _verified(self) -> None:
        given = {"bundle_dir": str(self.root), "state": "verified", "full": self.quiet}
        given["stamp"] = str(self.scene.work / "gpu01" / "state" / "bundle.json")
        given["trusted_signers"] = f"bastion {self.scene.cycle.key.with_suffix('.pub').read_text(encoding='utf-8')}"
        outcome = self._try(Call("rlinf_bundle", "gpu01", given))
        if not outcome.failed:
            raise Broken("it was verified")
        self._named(outcome)

    def _installed(self, install: Sequence[Call]) -> None:
        for call in install:
            outcome = self._try(call)
            if outcome.failed:
                must_be_right(self._others(), self._others(self.before), self._others(self.after))
                return
        now, wanted = self._others(), self._others(self.after)
        # which notes what of the bundle was there: a node that does not need the file misses nothing
        stamp = "gpu01/state/bundle.json"
        different = [path for path in sorted({*now, *wanted} - {stamp}) if now.get(path) != wanted.get(path)]
        if different:
            raise Broken(f"it was installed otherwise: {', '.join(different[:5])}")

    def _others(self, tree: Tree | None = None) -> Tree:
        """Return what is on the node."""
        return {path: entry for path, entry in (self.scene.tree() if tree is None else tree).items() if not path.startswith("bundle/")}

    def _downloaded(self, download: Sequence[Call], full: bool) -> None:
        for call in download:
            mended = call.module == "rlinf_bundle" and call.args["state"] == "mended"
            outcome = self._try(replace(call, args={**call.args, "full": full}) if mended else call)
            if outcome.failed:
                self._named(outcome)
                return
        self.scene.expect(self.before, f"after downloading again {'with rlinf_scrub ' if full else ''}the bundle is another")

    def _try(self, call: Call) -> Outcome:
        outcome = self.scene.call(call)
        if outcome.status and not (outcome.failed and outcome.clear):
            raise Broken(f"{call.module} ended with {outcome.status}: {outcome.message} {outcome.errors}")
        return outcome

    def _named(self, outcome: Outcome) -> None:
        """:raises Broken: the message does not name the file, or what it belongs to."""
        names = (self.path.name, *(parent.name for parent in self.path.parents if parent.name.endswith(".git")))
        if not any(name in outcome.message for name in names):
            raise Broken(f"the error does not name it: {outcome.message}")
