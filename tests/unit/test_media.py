# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle on removable media, written and read back by the module's real main()."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle, _media, _progress
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._progress import FOLDER, Meter
from tests.support.kills import kill_points, killed_at
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
Hash = Callable[..., dict[str, tuple[str, ...]]]

LARGE = "wheelhouse/index/torch-2.6.0-cp311-cp311-linux_x86_64.whl"
LINK = "assets/.sapien/link"


@pytest.fixture
def bundle(tmp_path: Path, run_module: Run) -> Bundle:
    """A sealed bundle of 7 MB: a file larger than a volume, small ones, an empty one, a program and a link."""
    chance = random.Random(1)
    files = {
        LARGE: chance.randbytes(5_000_000),
        "wheels/apex-0.1-py3-none-any.whl": chance.randbytes(1_500_000),
        "assets/.sapien/physx.so": b"so" * 1000,
        "repos/github.com/RLinf/RLinf.git/refs/.keep": b"",
    }
    for name, content in files.items():
        path = tmp_path / "bundle" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    os.chmod(tmp_path / "bundle" / "assets/.sapien/physx.so", 0o755)
    (tmp_path / "bundle" / LINK).symlink_to("physx.so")
    run_module("rlinf_bundle", {"bundle_dir": str(tmp_path / "bundle"), "state": "sealed"})
    return Bundle(tmp_path / "bundle")


@pytest.fixture
def media(tmp_path: Path, bundle: Bundle, run_module: Run) -> Path:
    """Its volumes, of 3 MB."""
    run_module("rlinf_media", writing(bundle, tmp_path / "media"))
    return tmp_path / "media"


def writing(bundle: Bundle, place: Path, **more: Any) -> dict[str, Any]:
    return {"bundle_dir": str(bundle.root), "state": "written", "path": [str(place)], "volume_size": "3MB", **more}


def reading(place: Path, *sources: Path) -> dict[str, Any]:
    return {"bundle_dir": str(place), "state": "read", "path": [str(source) for source in sources]}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_read_is_what_was_written(bundle: Bundle, media: Path, tmp_path: Path, run_module: Run, tree_hash: Hash) -> None:
    copy = tmp_path / "copy"
    args = reading(copy, media)
    assert run_module("rlinf_media", args, check=True, diff=True)["done"] == [1, 2, 3]
    assert not copy.exists()
    done = run_module("rlinf_media", args, diff=True)
    assert done["changed"] and done["done"] == [1, 2, 3]
    verified = run_module("rlinf_bundle", {"bundle_dir": str(copy), "state": "verified", "full": True})
    assert verified["files"] == 5
    shutil.rmtree(copy / ".cache")
    (copy / ".lock").unlink()
    (bundle.root / ".lock").unlink()
    assert tree_hash(copy, mtimes=False) == tree_hash(bundle.root, mtimes=False)
    before = tree_hash(copy, mtimes=True)
    assert not run_module("rlinf_media", args, check=True)["changed"]
    assert not run_module("rlinf_media", args)["changed"]
    (copy / ".lock").unlink()
    assert tree_hash(copy, mtimes=True) == before


def test_a_volume_that_is_there_is_not_written_again(bundle: Bundle, tmp_path: Path, run_module: Run, tree_hash: Hash) -> None:
    place = tmp_path / "media"
    args = writing(bundle, place)
    assert run_module("rlinf_media", args, check=True)["done"] == [1, 2, 3] and not place.exists()
    assert run_module("rlinf_media", args)["done"] == [1, 2, 3]
    before = tree_hash(place, mtimes=True)
    assert not run_module("rlinf_media", args, check=True)["changed"]
    assert not run_module("rlinf_media", args)["changed"]
    assert tree_hash(place, mtimes=True) == before
    shutil.rmtree(place / "rlinf-002")
    assert run_module("rlinf_media", args)["done"] == [2]
    assert tree_hash(place) == tree_hash(place)


def test_volumes_keep_their_size_and_their_check_files_are_read_by_sha256sum(media: Path) -> None:
    volumes = sorted(media.iterdir())
    assert [volume.name for volume in volumes] == ["rlinf-001", "rlinf-002", "rlinf-003"]
    for volume in volumes:
        assert sum(path.stat().st_size for path in volume.rglob("*") if path.is_file()) <= 3 * 1024 * 1024
        done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=volume, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_one_medium_after_the_other(bundle: Bundle, tmp_path: Path, run_module: Run) -> None:
    """Written one by one, read in another order; what is missing is named each time, and nothing is sealed before the last."""
    place, copy = tmp_path / "stick", tmp_path / "copy"
    for number in (1, 2, 3):
        assert run_module("rlinf_media", writing(bundle, place / str(number), volumes=[number]))["done"] == [number]
    for number, missing in ((3, "1, 2 are still"), (1, "2 is still")):
        with pytest.raises(ModuleFailed, match=missing):
            run_module("rlinf_media", reading(copy, place / str(number)))
        assert not (copy / "bundle.json").exists()
    assert run_module("rlinf_media", reading(copy, place / "2" / "rlinf-002"))["done"] == [2]
    run_module("rlinf_bundle", {"bundle_dir": str(copy), "state": "verified", "full": True})
    assert not run_module("rlinf_media", reading(copy, place / "gone"))["changed"]


@pytest.mark.parametrize("what", ["data/000/000001", "volume.json", "bundle.json", "bundle.json.sig", "SHA256SUMS"])
def test_a_damaged_volume_is_named_and_the_others_are_kept(media: Path, bundle: Bundle, tmp_path: Path, run_module: Run, what: str) -> None:
    copy = tmp_path / "copy"
    if what == "bundle.json.sig":
        bundle.signature.write_bytes(b"stands in for a signature")
        run_module("rlinf_media", writing(bundle, media))
    flip(media / "rlinf-002" / what)
    with pytest.raises(ModuleFailed, match=r"rlinf-002 is damaged[^$]*Write this volume again[^$]*2 is still to be read"):
        run_module("rlinf_media", reading(copy, media))
    assert not (copy / "bundle.json").exists()
    shutil.rmtree(media / "rlinf-002")
    run_module("rlinf_media", writing(bundle, media))
    assert run_module("rlinf_media", reading(copy, media))["done"] == [2]
    for name in _bundle.read_manifest(bundle)["files"]:
        assert (copy / name).read_bytes() == (bundle.root / name).read_bytes()
    assert bundle.signature.exists() == (copy / "bundle.json.sig").exists()


def test_volumes_of_two_bundles_are_not_mixed(media: Path, bundle: Bundle, tmp_path: Path, run_module: Run) -> None:
    (bundle.root / "wheels" / "more.whl").write_bytes(b"more")
    run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"})
    run_module("rlinf_media", writing(bundle, tmp_path / "other"))
    shutil.copytree(tmp_path / "other" / "rlinf-003", media / "rlinf-004")
    with pytest.raises(ModuleFailed, match="are of different bundles"):
        run_module("rlinf_media", reading(tmp_path / "copy", media))


def test_a_newer_bundle_brings_only_what_is_new(media: Path, bundle: Bundle, tmp_path: Path, run_module: Run) -> None:
    copy = tmp_path / "copy"
    run_module("rlinf_media", reading(copy, media))
    (bundle.root / "wheels" / "more.whl").write_bytes(b"more")
    run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"})
    run_module("rlinf_media", writing(bundle, media))
    assert run_module("rlinf_media", reading(copy, media))["bytes"] == 4
    run_module("rlinf_bundle", {"bundle_dir": str(copy), "state": "verified", "full": True})


def test_volumes_of_two_sizes_do_not_complete_each_other(bundle: Bundle, tmp_path: Path, run_module: Run) -> None:
    """Volume 1 of small ones and volume 2 of large ones leave a gap, which is noticed."""
    small, large, copy = tmp_path / "small", tmp_path / "large", tmp_path / "copy"
    (bundle.root / LARGE).unlink()
    for number in range(8):
        (bundle.root / "wheels" / f"{number}.whl").write_bytes(bytes([number]) * 1_000_000)
    run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"})
    run_module("rlinf_media", writing(bundle, small))
    run_module("rlinf_media", writing(bundle, large, volume_size="6MB"))
    with pytest.raises(ModuleFailed, match="are of different bundles, or were written with different sizes"):
        run_module("rlinf_media", reading(copy, small / "rlinf-001", large / "rlinf-002"))
    for volume in (small / "rlinf-001", large / "rlinf-002"):
        with pytest.raises(ModuleFailed, match="still to be read"):
            run_module("rlinf_media", reading(copy, volume))
    assert run_module("rlinf_media", reading(copy, large / "rlinf-001"))["volumes"] == 2
    run_module("rlinf_bundle", {"bundle_dir": str(copy), "state": "verified", "full": True})


def test_what_a_former_bundle_left_on_the_media_is_removed(media: Path, bundle: Bundle, tmp_path: Path, run_module: Run) -> None:
    """Of volumes alone: it fills the medium, and cannot be read beside the new one."""
    (media / "rlinf-notes").mkdir()
    (media / "rlinf-004.part").mkdir()
    (bundle.root / LARGE).write_bytes(b"small")
    run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"})
    for check in (True, False):
        done = run_module("rlinf_media", writing(bundle, media), check=check)
        assert done["removed"] == ["rlinf-001", "rlinf-002", "rlinf-003", "rlinf-004.part"] and done["done"] == [1]
    assert sorted(path.name for path in media.iterdir()) == ["rlinf-001", "rlinf-notes"]
    assert run_module("rlinf_media", reading(tmp_path / "copy", media))["done"] == [1]
    assert not run_module("rlinf_media", writing(bundle, media))["changed"]


def test_a_new_signature_is_carried(media: Path, bundle: Bundle, tmp_path: Path, run_module: Run) -> None:
    copy = tmp_path / "copy"
    run_module("rlinf_media", reading(copy, media))
    bundle.signature.write_bytes(b"stands in for a signature")
    run_module("rlinf_media", writing(bundle, media))
    for check in (True, False):
        done = run_module("rlinf_media", reading(copy, media), check=check)
        assert done["changed"] and done["bytes"] == 0
    assert (copy / "bundle.json.sig").read_bytes() == b"stands in for a signature"
    assert not run_module("rlinf_media", reading(copy, media))["changed"]


def test_only_the_volumes_of_what_is_lacking_are_needed(media: Path, tmp_path: Path, run_module: Run) -> None:
    """A file over two volumes is gone from a complete bundle, and there is one slot."""
    copy = tmp_path / "copy"
    run_module("rlinf_media", reading(copy, media))
    (copy / LARGE).unlink()
    with pytest.raises(ModuleFailed, match="Of 3 volumes 2 is still to be read") as failed:
        run_module("rlinf_media", reading(copy, media / "rlinf-001"))
    assert failed.value.result["missing"] == [2]
    assert run_module("rlinf_media", reading(copy, media / "rlinf-002"))["done"] == [2]
    run_module("rlinf_bundle", {"bundle_dir": str(copy), "state": "verified", "full": True})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"series": null, "cut": 1}'])
def test_notes_that_cannot_be_used_are_as_good_as_none(media: Path, tmp_path: Path, run_module: Run, content: str) -> None:
    notes = tmp_path / "copy" / ".cache" / "media.json"
    notes.parent.mkdir(parents=True)
    notes.write_text(content)
    assert run_module("rlinf_media", reading(tmp_path / "copy", media))["done"] == [1, 2, 3]
    assert not notes.exists()


def test_whenever_writing_is_killed_it_is_finished(bundle: Bundle, tmp_path: Path, tree_hash: Hash) -> None:
    place = tmp_path / "media"

    def work() -> object:
        return _media.write(bundle, place, 3 << 20)

    points = kill_points(work, tmp_path / "trace")
    whole = tree_hash(place)
    for number in points:
        shutil.rmtree(place)
        assert killed_at(number, work)
        assert all(_media.Volume.parse(folder) for folder in _media.volumes_in([place]))
        work()
        assert tree_hash(place) == whole


def test_whenever_reading_is_killed_what_was_read_before_is_kept(bundle: Bundle, media: Path, tmp_path: Path) -> None:
    """Of one slot: the volumes before are not there any more."""
    copy = Bundle(tmp_path / "copy")

    def work() -> object:
        return _media.read(copy, [media / "rlinf-003"])

    def before() -> None:
        shutil.rmtree(copy.root, ignore_errors=True)
        for number in (1, 2):
            with pytest.raises(OfflineError, match="still to be read"):
                _media.read(copy, [media / f"rlinf-00{number}"])

    before()
    points = kill_points(work, tmp_path / "trace")
    trace = (tmp_path / "trace").read_text()
    assert " truncate " in trace and " link link\n" in trace
    for number in points:
        before()
        assert killed_at(number, work)
        work()
        assert _bundle.read_manifest(copy) == _bundle.read_manifest(bundle)
        assert (copy.root / LARGE).read_bytes() == (bundle.root / LARGE).read_bytes()
        assert os.readlink(copy.root / LINK) == "physx.so" and not list(copy.cache.iterdir())


@pytest.mark.parametrize(
    ("path", "target"), [("../out", ""), ("/etc/out", ""), ("bundle.json", ""), ("other/file", ""), ("assets/link", "../../out")]
)
def test_a_volume_that_leads_out_of_the_bundle_is_refused(media: Path, tmp_path: Path, run_module: Run, path: str, target: str) -> None:
    place = media / "rlinf-001" / "volume.json"
    said = json.loads(place.read_text())
    if target:
        said["links"] = {path: target}
    else:
        said["parts"][0]["path"] = path
    old, new = _media.sha256_bytes(place.read_bytes()), _media.json_bytes(said)
    place.write_bytes(new)
    sums = media / "rlinf-001" / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, _media.sha256_bytes(new)))
    with pytest.raises(ModuleFailed, match=r"no place in a bundle|leads out of its folder"):
        run_module("rlinf_media", reading(tmp_path / "copy", media))
    assert not (tmp_path / "out").exists() and not (tmp_path / "copy" / "bundle.json").exists()


@pytest.mark.parametrize(("size", "said"), [("1 KB", "too small"), ("many", "is no size")])
def test_a_size_that_cannot_be(bundle: Bundle, tmp_path: Path, run_module: Run, size: str, said: str) -> None:
    with pytest.raises(ModuleFailed, match=said):
        run_module("rlinf_media", writing(bundle, tmp_path / "media", volume_size=size))
    assert not (tmp_path / "media").exists()


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 20_000), max_size=8), st.integers(600, 30_000))
def test_every_byte_is_in_one_part(sizes: dict[str, int], room: int) -> None:
    volumes = _media.plan({path: (size, 0o644) for path, size in sizes.items()}, room)
    parts = sorted((part.path, part.offset, part.size) for volume in volumes for part in volume)
    assert all(sum(part.size for part in volume) <= room for volume in volumes)
    for path, size in sizes.items():
        end = 0
        for _path, offset, count in (part for part in parts if part[0] == path):
            assert offset == end and (count or not size)
            end += count
        assert end == size and any(part[0] == path for part in parts)
    starts = [(volume[0].path, volume[0].offset) if volume else ("", 0) for volume in volumes]
    found = _media.Volume(Path("v"), "", 1, starts, {}, frozenset(), [], {}, {})
    for path, size in sizes.items():
        there = {n: (sum(part.size for part in volume if part.path == path)) for n, volume in enumerate(volumes, 1)}
        held = {n: end - begin for n, begin, end in found.holders(path, size)}
        assert held == {n: count for n, count in there.items() if count or (not size and any(part.path == path for part in volumes[n - 1]))}


_ON_A_SMALL_DISK = """
import shutil, sys
from pathlib import Path
from ansible_collections.rlinf.offline.plugins.module_utils import _media
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
bundle, media, small = Bundle(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])

def says(work):
    try:
        return str(work())
    except OfflineError as error:
        return str(error)

"""


def on_a_small_disk(bundle: Bundle, media: Path, place: Path, size: str, script: str) -> list[str]:
    """Return what a script says that finds a file system of that size as ``small``, the bundle, and its volumes in ``media``."""
    place.mkdir()
    inside = 'mount -t tmpfs -o "size=$1" small "$2" && shift 2 && exec "$@"'
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c", inside, "sh", size, place]
    command = [*namespace, sys.executable, "-c", _ON_A_SMALL_DISK + script, bundle.root, media, place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_medium_without_room_is_refused_before_anything_is_removed(bundle: Bundle, media: Path, tmp_path: Path) -> None:
    """It holds the first and the third, but not all three, and now one of a former bundle."""
    said = on_a_small_disk(
        bundle,
        media,
        tmp_path / "stick",
        "5000k",
        """
shutil.copytree(media / "rlinf-001", small / "rlinf-001")
(small / "rlinf-001" / "volume.json").write_bytes(b"of a former bundle")
for check in (True, False):
    print(says(lambda: _media.write(bundle, small, 3 << 20, check=check)))
print(sorted(path.name for path in small.rglob("volume.json")), (small / "rlinf-001" / "volume.json").read_bytes())
(small / "somebody's").write_bytes(bytes(1_000_000))
print(_media.write(bundle, small, 3 << 20, volumes=[1, 3]).done)
print(sorted(path.name for path in small.iterdir()))
""",
    )
    for line in said[:2]:
        found = re.search(r"has no room: (\d+) bytes are needed, and (\d+) are free", line)
        assert found
        needed, free = map(int, found.groups())
        assert needed > 6_500_000 and 5_000_000 < free <= 5_120_000
        assert line.startswith(str(tmp_path / "stick")) and "rlinf_media_volumes" in line
    assert said[2:] == ["['volume.json'] b'of a former bundle'", "[1, 3]", "['rlinf-001', 'rlinf-003', \"somebody's\"]"]


def test_a_bundle_without_room_is_refused_before_anything_is_read(bundle: Bundle, media: Path, tmp_path: Path) -> None:
    """One volume after the other is taken, if there is room for it."""
    said = on_a_small_disk(
        bundle,
        media,
        tmp_path / "disk",
        "5000k",
        """
copy = Bundle(small / "copy")
print(says(lambda: _media.read(copy, [media], check=True)))
print(says(lambda: _media.read(copy, [media])), copy.root.exists())
copy.root.mkdir()
for number in (1, 2, 3):
    print(says(lambda: _media.read(copy, [media / f"rlinf-00{number}"])))
""",
    )
    assert all("has no room: " in said[number] and "rlinf_bundle_dir" in said[number] for number in (0, 1, 3)) and said[1].endswith("False")
    assert "2, 3 are still to be read" in said[2] and "2 is still to be read" in said[4]


def test_how_far_media_have_come_is_told(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str, int, int | None]] = []
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(Meter, "_write", lambda self, *, ended: heard.append((self.kind, self.label, self.done, self.total)))
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    _media.write(bundle, tmp_path / "media", 3 << 20)
    _media.read(Bundle(tmp_path / "copy"), [tmp_path / "media"])
    whole = sum(entry.get("size", 0) for entry in _bundle.read_manifest(bundle)["files"].values())
    for kind, label in (("write", f"to {tmp_path / 'media'}"), ("read", f"from {tmp_path / 'media'}")):
        steps = [done for *about, done, total in heard if (about, total) == ([kind, label], whole)]
        assert steps[0] == 0 and steps[-1] == whole and steps == sorted(steps) and len(set(steps)) > 3


def test_no_directory_of_a_volume_has_more_names_than_fat32_takes() -> None:
    (volume,) = _media.plan({f"assets/{number}": (1, 0o644) for number in range(70_000)}, 1 << 30)
    folders = Counter(part.file.rpartition("/")[0] for part in volume)
    assert len({part.file for part in volume}) == 70_000 and max(folders.values()) <= 65_534
    assert all(part.size <= _media.LARGEST for parts in _media.plan({"wheels/x": (10 << 30, 0o644)}, 20 << 30) for part in parts)
