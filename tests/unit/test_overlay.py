# SPDX-License-Identifier: GPL-3.0-or-later
"""A wheel with files of another copied over its package: what uv installs of it, what its RECORD says, and what is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._installed import damaged_files
from ansible_collections.rlinf.offline.plugins.module_utils._overlay import repack
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import check_whole
from tests.support.wheels import build_wheel

REPLACE = "donor/models/replace"
BASE = {
    "lib/__init__.py": "__version__ = '1.0'\n",
    "lib/models/gemma/modeling.py": "ORIGINAL = True\n",
    "lib/models/gemma/other.py": "KEPT = True\n",
}
DONOR = {
    "donor/__init__.py": "",
    f"{REPLACE}/models/gemma/modeling.py": "ORIGINAL = False\n",
    f"{REPLACE}/models/siglip/check.py": "HERE = True\n",
    f"{REPLACE}/added.py": "ADDED = True\n",
    f"{REPLACE}/.hidden": "stays behind\n",
    "donor/models/replacement.py": "is not below it\n",
}


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, Path]:
    scripts = {"lib-1.0.data/scripts/lib-run": b"#!python\nprint('runs')\n"}
    base = build_wheel(tmp_path / "index", "lib", "1.0", modules=BASE, requires=["six"], extra_files=scripts, entry_points="[x]\ny = lib\n")
    return base, build_wheel(tmp_path / "git", "donor", "2.0", modules=DONOR)


def overlaid(wheels: tuple[Path, Path], folder: Path, path: str = REPLACE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / wheels[0].name
    repack(*wheels, path, place)
    return place


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_files_are_changed_and_added_and_all_else_is_as_it_was(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    before = wheels[0].read_bytes(), wheels[1].read_bytes()
    made = content(overlaid(wheels, tmp_path / "overlay"))
    original = content(wheels[0])
    assert (wheels[0].read_bytes(), wheels[1].read_bytes()) == before
    assert {name for name in made if made[name] != original.get(name)} == {
        "lib/models/gemma/modeling.py",
        "lib/models/siglip/check.py",
        "lib/added.py",
        "lib-1.0.dist-info/RECORD",
    }
    assert set(original) <= set(made)
    assert made["lib/models/gemma/modeling.py"] == b"ORIGINAL = False\n"


def test_the_record_says_what_is_in_it(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    place = overlaid(wheels, tmp_path / "overlay")
    made = content(place)
    check_whole(place, wheels[0].name)
    rows = list(csv.reader(made["lib-1.0.dist-info/RECORD"].decode().splitlines()))
    assert [row[0] for row in rows] == list(made) and rows[-1] == ["lib-1.0.dist-info/RECORD", "", ""]
    for name, digest, size in rows[:-1]:
        encoded = base64.urlsafe_b64encode(hashlib.sha256(made[name]).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={encoded}", str(len(made[name])))


def test_equal_wheels_give_equal_bytes(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    assert overlaid(wheels, tmp_path / "one").read_bytes() == overlaid(wheels, tmp_path / "two").read_bytes()
    with zipfile.ZipFile(tmp_path / "one" / wheels[0].name) as archive:
        names = archive.namelist()
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.getinfo("lib-1.0.data/scripts/lib-run").external_attr >> 16 & 0o111
    info = [name.startswith("lib-1.0.dist-info/") for name in names]
    assert info == sorted(info) and names[-1] == "lib-1.0.dist-info/RECORD"


def test_uv_installs_it(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    """By an installer that checks every digest; what is installed is whole, and the other wheel of this name and version is another one."""
    place = overlaid(wheels, tmp_path / "overlay")
    uv = [str(Path(sys.executable).with_name("uv")), "--quiet", "--no-config", "--cache-dir", str(tmp_path / "cache"), "--offline"]
    found = {}
    for name, wheel in (("original", wheels[0]), ("overlaid", place)):
        venv = tmp_path / name
        subprocess.run([*uv, "venv", "--python", sys.executable, str(venv)], check=True)
        subprocess.run([*uv, "pip", "install", "--no-deps", "--python", str(venv), str(wheel)], check=True)
        ask = "import lib.models.gemma.modeling as m, importlib.util as u; print(m.ORIGINAL, bool(u.find_spec('lib.models.siglip')))"
        found[name] = subprocess.run([venv / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
        assert subprocess.run([venv / "bin" / "lib-run"], check=True, capture_output=True, text=True).stdout == "runs\n"
        assert not damaged_files(venv, {"lib": wheel}, 1)
    assert found == {"original": "True False", "overlaid": "False True"}


def test_a_wheel_may_keep_its_files_in_a_data_directory(tmp_path: Path) -> None:
    """What lies in ``.data/purelib`` comes to the same place (PEP 427)."""
    base = build_wheel(tmp_path, "lib", "1.0", modules={}, extra_files={"lib-1.0.data/purelib/lib/a.py": b"A = 1\n"})
    donor = build_wheel(tmp_path, "donor", "1.0", modules={}, extra_files={"donor-1.0.data/platlib/donor/replace/a.py": b"A = 2\n"})
    made = content(overlaid((base, donor), tmp_path / "overlay", "donor/replace"))
    assert made["lib-1.0.data/purelib/lib/a.py"] == b"A = 2\n" and "lib/a.py" not in made


def test_the_package_is_named_like_the_distribution_or_the_only_one(tmp_path: Path) -> None:
    donor = build_wheel(tmp_path, "donor", "1.0", modules={"donor/replace/a.py": "A = 2\n"})
    named = build_wheel(tmp_path, "big-lib", "1.0", modules={"big_lib/a.py": "", "tests/a.py": ""})
    assert "big_lib/a.py" in content(overlaid((named, donor), tmp_path / "one", "donor/replace"))
    only = build_wheel(tmp_path, "pyyaml", "1.0", modules={"yaml/a.py": "", "yaml.pth": ""})
    assert content(overlaid((only, donor), tmp_path / "two", "donor/replace"))["yaml/a.py"] == b"A = 2\n"
    two = build_wheel(tmp_path, "opencv", "1.0", modules={"cv2/a.py": "", "extra/a.py": ""})
    with pytest.raises(LockError, match=r"opencv-1\.0-\S+ has cv2, extra: which of them files are to be laid over cannot be told"):
        overlaid((two, donor), tmp_path / "three", "donor/replace")


def test_a_path_that_is_not_there_is_refused(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        LockError, match=r"donor-2\.0-py3-none-any\.whl has no files below donor/models/repl, which were to be laid over lib"
    ):
        overlaid(wheels, tmp_path / "overlay", "donor/models/repl")


def test_a_damaged_wheel_is_refused(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    wheels[1].write_bytes(wheels[1].read_bytes()[:-10])
    with pytest.raises(LockError, match=r"donor-2\.0-py3-none-any\.whl is damaged"):
        overlaid(wheels, tmp_path / "overlay")
