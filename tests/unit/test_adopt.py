# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_adopt: a directory as the bash system leaves it, sound and with every kind of damage, and the download that follows."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _adopt, _whole
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from tests.support.kills import killed_at
from tests.support.origins import Origin, git
from tests.support.upstream import Upstream
from tests.support.wheels import build_wheel, sha256
from tests.unit.conftest import ModuleFailed

GITHUB = "https://github.com/"
RELEASES = "o/r/releases/download/v1"
FLASH = "flash_attn-2.7.4.post1+cu12-cp311-cp311-linux_x86_64.whl"
OWNERS = {"openvla": "openvla", "openvla-oft": "moojink"}
ROBOT = ".maniskill/data/robots/widowx"
PHYSX = ".sapien/physx/105.1"
MODEL = ".cache/openpi/big_vision/tokenizer.model"
RunModule = Callable[..., dict[str, Any]]
TreeHash = Callable[..., dict[str, tuple[str, ...]]]


def field_of(number: int, data: bytes) -> bytes:
    """One length-delimited field of protobuf."""
    return bytes([number << 3 | 2, len(data)]) + data


TOKENIZER = b"".join(field_of(1, f"piece {number}".encode()) for number in range(20)) + field_of(2, b"\x18\x01") + field_of(3, b"nmt")
# a header, one section of 16 bytes and the table that names it: as much as an ELF file needs to have an end
LIBRARY = (
    b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 80, 0, 64, 56, 0, 64, 2, 1) + bytes(16)
    + bytes(64) + struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, 16, 0, 0, 1, 0)
)  # fmt: skip
TREES = {
    ROBOT: {
        "wx250s.urdf": b"<robot><link/></robot>",
        "meshes/base.stl": bytes(80) + struct.pack("<I", 2) + bytes(100),
        "README": b"read\n",
    },
    PHYSX: {"libPhysXGpu_64.so": LIBRARY},
}


@dataclass
class Site:
    """An upstream, and the directory of the bash system that was filled from it."""

    upstream: Upstream
    origins: dict[str, Origin]
    old: Path
    bundle: Path
    catalog: dict[str, Any]
    module: RunModule

    @property
    def rewrites(self) -> dict[str, str]:
        return {GITHUB: f"{self.upstream.url}/git/github.com/"}

    def adopt(self, *, check: bool = False, **args: Any) -> dict[str, Any]:
        given = {"bundle_dir": str(self.bundle), "src": str(self.old), "catalog": self.catalog, "url_rewrites": self.rewrites, **args}
        return self.module("rlinf_adopt", given, check=check, diff=True)

    def look(self, *, check: bool) -> dict[str, dict[str, Any]]:
        """Do the same in this process, which is faster."""
        catalog, rewrites = Catalog.parse(self.catalog), Rewrites(self.rewrites)
        return {item.name: item.json for item in _adopt.adopt(Bundle(self.bundle), self.old, catalog, rewrites=rewrites, check=check)}

    def fetch(self, what: str, *, check: bool = False) -> dict[str, Any]:
        """Let the module of the download bring everything of a kind."""
        entries = [{"name": name, **entry} for name, entry in self.catalog[what].items()]
        name = {"repositories": "rlinf_repo_mirror", "wheels": "rlinf_wheel_cache", "assets": "rlinf_asset_cache"}[what]
        key = "repos" if what == "repositories" else what
        return self.module(name, {"bundle_dir": str(self.bundle), key: entries, "url_rewrites": self.rewrites, "timeout": 20}, check=check)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def states(result: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["state"] for item in result["results"]}


def one(result: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [item for item in result["results"] if item["name"] == name]
    return dict(found)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream and the old directory, made once and copied for each test."""
    place = tmp_path_factory.mktemp("made")
    root, old = place / "upstream", place / "repos"
    releases = root / "git/github.com" / RELEASES
    old.mkdir()
    (root / "git").mkdir(parents=True)
    for name, owner, branch in zip(OWNERS, OWNERS.values(), ("main", "master"), strict=True):
        origin = Origin(root, f"github.com/{owner}/{name}.git", branch)
        origin.commit(**{"README.md": f"{name}\n"})
        origin.git("tag", "v1")
        origin.git("branch", "feature/x")
        origin.publish()
        git("clone", "--quiet", origin.bare, old / name, cwd=old)
        git("remote", "set-url", "origin", origin.url, cwd=old / name)
    shutil.copy2(
        build_wheel(releases, "flash-attn", "2.7.4.post1+cu12", tags="cp311-cp311-linux_x86_64"), write(old / "wheels", {"x": b""})
    )
    for dest, files in TREES.items():
        write(old / "assets" / dest, files)
        with zipfile.ZipFile(releases / f"{Path(dest).name}.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    write(old, {MODEL: TOKENIZER})
    write(releases, {"tokenizer.model": TOKENIZER})
    return place


@pytest.fixture
def site(made: Path, tmp_path: Path, run_module: RunModule) -> Iterator[Site]:
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    root, old, base = tmp_path / "upstream", tmp_path / "repos", f"{GITHUB}{RELEASES}"
    origins = {name: Origin.copied(root, f"github.com/{owner}/{name}.git") for name, owner in OWNERS.items()}
    catalog = {
        "repositories": {name: {"url": origin.url} for name, origin in origins.items()},
        "wheels": {"flash": {"url": f"{base}/{FLASH}"}},
        "assets": {
            "robot": {"url": f"{base}/widowx.zip", "dest": ROBOT, "unpack": True},
            "physx": {"url": f"{base}/105.1.zip", "dest": PHYSX, "unpack": True},
            "tokenizer": {"url": f"{base}/tokenizer.model", "dest": MODEL},
        },
    }
    with Upstream(root) as upstream:
        yield Site(upstream, origins, old, tmp_path / "bundle", catalog, run_module)


def test_quad_and_the_download_after_it(site: Site, tmp_path: Path, tree_hash: TreeHash) -> None:
    before, old = tree_hash(tmp_path), tree_hash(site.old, mtimes=True)
    planned = site.adopt(check=True)
    assert tree_hash(tmp_path) == before
    done = site.adopt()
    expected = {"openvla": "adopted", "openvla-oft": "adopted"} | dict.fromkeys(("flash", "robot", "physx", "tokenizer"), "unverified")
    assert states(planned) == states(done) == expected
    assert [item["reason"] for item in planned["results"]] == [item["reason"] for item in done["results"]]
    assert planned["diff"] == done["diff"]
    assert one(done, "physx")["reason"].startswith("1 files, of which 1 say themselves that they are whole; whether a file is missing")
    assert "asset robot" in json.dumps(done["warnings"])

    def kept() -> dict[str, object]:
        return {name: value for name, value in tree_hash(site.bundle, mtimes=True).items() if name != ".lock"}

    after = kept()
    assert not [name for name in after if name.endswith((".part", ".tmp", ".old"))]
    for check in (True, False):
        again = site.adopt(check=check)
        assert (again["changed"], again["diff"], set(states(again).values())) == (False, [], {"present"})
    assert kept() == after
    assert tree_hash(site.old, mtimes=True) == old

    # nothing depends on the old directory, and nothing is fetched but what is new
    shutil.rmtree(site.old)
    site.upstream.forget()
    for what in ("wheels", "assets"):
        assert site.fetch(what, check=True)["changed"] is False
        assert site.fetch(what)["changed"] is False
    assert site.upstream.requests() == []
    mirrored = site.fetch("repositories")
    assert {item["name"]: item["reason"] for item in mirrored["results"]} == dict.fromkeys(
        site.origins, "a commit that is asked for is missing"
    )
    assert site.upstream.requests("*/git-upload-pack")
    for name, origin in site.origins.items():
        mirror = site.bundle / "repos" / origin.url.removeprefix("https://")
        assert not (mirror / "objects/info/alternates").exists()
        assert git("fsck", "--full", "--strict", cwd=mirror) == ""
        listed = "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags"
        assert git(*listed, cwd=mirror) == git(*listed, cwd=origin.bare)
        assert git("rev-parse", "HEAD", cwd=mirror) == origin.head, name
    assert site.module("rlinf_bundle", {"bundle_dir": str(site.bundle), "state": "sealed"})["changed"]


def test_only_the_difference_is_fetched(site: Site) -> None:
    origin = site.origins["openvla"]
    origin.commit(big="big\n")
    git("fetch", "--quiet", origin.bare, "+refs/heads/*:refs/remotes/origin/*", cwd=site.old / "openvla")
    site.adopt()
    new = origin.commit(small="1\n")
    # upstream itself no longer has what the clone had: it cannot be asked for
    blob = git("rev-parse", f"{new}:big", cwd=origin.bare)
    (origin.bare / "objects" / blob[:2] / blob[2:]).unlink()
    assert [item["commit"] for item in site.fetch("repositories")["results"]] == [new, site.origins["openvla-oft"].head]
    assert git("show", f"{new}:big", cwd=site.bundle / "repos/github.com/openvla/openvla.git") == "big"


def damaged_objects(place: Path) -> None:
    for path in (place / ".git/objects").rglob("*"):
        if path.is_file() and len(path.parent.name) == 2:
            content = path.read_bytes()
            path.unlink()  # it is the same file as upstream's
            path.write_bytes(content[:-4])


@pytest.mark.parametrize(
    ("damage", "state", "words"),
    [
        (damaged_objects, "refused", "openvla"),
        (
            lambda place: shutil.rmtree(place / ".git/refs/remotes") or (place / ".git/packed-refs").unlink(),
            "refused",
            "was never finished",
        ),
        (lambda place: write(place / ".git", {"shallow": f"{git('rev-parse', 'HEAD', cwd=place)}\n".encode()}), "refused", "shallow"),
        (
            lambda place: git("remote", "set-url", "origin", f"{GITHUB}someone/openvla.git", cwd=place),
            "left",
            "someone/openvla.git, which is no",
        ),
        (lambda place: git("remote", "remove", "origin", cwd=place), "left", "its origin is not set"),
        (lambda place: shutil.rmtree(place / ".git"), "left", "it is no git repository"),
    ],
    ids=["damaged", "interrupted", "shallow", "a fork of the same name", "no origin", "no repository"],
)
def test_clones_that_do_not_serve(site: Site, damage: Callable[[Path], object], state: str, words: str, tree_hash: TreeHash) -> None:
    shutil.rmtree(site.old / "assets")
    damage(site.old / "openvla")
    before = tree_hash(site.old, mtimes=True)
    for check in (True, False):
        found = site.look(check=check)
        assert (found["openvla"]["state"], found["openvla-oft"]["state"]) == (state, "adopted")
        assert words in found["openvla"]["reason"]
    assert not list(site.bundle.glob("repos/github.com/openvla/*"))
    assert tree_hash(site.old, mtimes=True) == before
    # and the download goes on
    assert {item["state"] for item in site.fetch("repositories")["results"]} == {"mirrored"}


@pytest.mark.parametrize("url", ["git@github.com:OpenVLA/openvla.git", "ssh://git@github.com/openvla/openvla", "http-mirror"])
def test_a_clone_is_known_by_its_whole_url_however_it_is_written(site: Site, url: str) -> None:
    url = f"{site.rewrites[GITHUB]}openvla/openvla.git" if url == "http-mirror" else url
    git("remote", "set-url", "origin", url, cwd=site.old / "openvla")
    (site.old / "openvla").rename(site.old / "whatever")
    assert one(site.adopt(), "openvla")["source"] == str(site.old / "whatever")


def test_a_bare_clone_with_alternates_becomes_a_mirror_of_its_own(site: Site) -> None:
    origin = site.origins["openvla"]
    shutil.rmtree(site.old / "openvla")
    git("clone", "--quiet", "--bare", "--shared", origin.bare, site.old / "openvla.git", cwd=site.old)
    git("remote", "set-url", "origin", origin.url, cwd=site.old / "openvla.git")
    assert states(site.adopt())["openvla"] == "adopted"
    mirror = site.bundle / "repos/github.com/openvla/openvla.git"
    assert not (mirror / "objects/info/alternates").exists()
    assert git("rev-parse", "HEAD", cwd=mirror) == origin.head
    shutil.rmtree(origin.bare)
    assert git("fsck", "--full", cwd=mirror) == ""


def repack(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a wheel anew, each member as *change* gives it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "it is empty (0 bytes)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cut off or damaged"),
        (lambda path: path.write_bytes(b"<html>"), "cut off or damaged"),
        (flip, "damaged"),
        (lambda path: repack(path, lambda name, data: None if name.endswith("/RECORD") else data), "has no RECORD"),
        (lambda path: repack(path, lambda name, data: data + b"#" if name.endswith(".py") else data), "is not what its RECORD says"),
        (lambda path: repack(path, lambda name, data: None if name.endswith(".py") else data), "which its RECORD lists"),
        (lambda path: repack(path, lambda name, data: None if name.endswith("/WHEEL") else data), "METADATA and WHEEL are not both in it"),
        (
            lambda path: repack(path, lambda name, data: data.replace(b"2.7.4", b"2.7.3") if name.endswith("/METADATA") else data),
            "which is not what its name says",
        ),
    ],
    ids=["empty", "cut off", "web page", "bit", "no RECORD", "edited", "member gone", "no WHEEL", "another version"],
)
def test_wheels_that_do_not_serve(site: Site, damage: Callable[[Path], object], words: str) -> None:
    for name in ("assets", "openvla", "openvla-oft"):
        shutil.rmtree(site.old / name)
    damage(site.old / "wheels" / FLASH)
    for check in (True, False):
        found = site.look(check=check)["flash"]
        assert (found["state"], found["changed"]) == ("refused", False)
        assert words in found["reason"]
    assert not (site.bundle / "wheels").exists()


def test_a_known_digest_decides(site: Site) -> None:
    right = sha256(site.old / "wheels" / FLASH)
    site.catalog["wheels"]["flash"]["sha256"] = right
    site.catalog["assets"]["tokenizer"]["sha256"] = "0" * 64
    site.catalog["assets"]["robot"]["sha256"] = "0" * 64
    write(site.old / "wheels", {"other-1.0-py3-none-any.whl": b"1"})
    for check in (True, False):
        done = site.adopt(check=check, leave_out=["physx"])
        kinds = {"flash": "adopted", "other-1.0-py3-none-any.whl": "left", "robot": "refused", "tokenizer": "refused"}
        assert {name: state for name, state in states(done).items() if not name.startswith("openvla")} == kinds
    assert "what was unpacked cannot be compared with that" in one(done, "robot")["reason"]
    assert one(done, "tokenizer")["reason"].startswith("its sha256 is ")


def test_an_adopted_file_is_what_is_enforced(site: Site) -> None:
    site.adopt()
    (site.bundle / "wheels" / FLASH).unlink()
    served = site.upstream.root / "git/github.com" / RELEASES / FLASH
    repack(served, lambda name, data: data)
    with pytest.raises(ModuleFailed, match="has changed since it was first downloaded"):
        site.fetch("wheels")
    # a digest that is given later is what counts, for what was unpacked as well
    site.catalog["assets"]["robot"]["sha256"] = sha256(served.with_name("widowx.zip"))
    [robot] = [item for item in site.fetch("assets")["results"] if item["name"] == "robot"]
    assert "comes from another archive" in robot["reason"]


@pytest.mark.parametrize(
    ("asset", "name", "content", "words"),
    [
        ("robot", "wx250s.urdf", b"", "wx250s.urdf: it is empty"),
        ("robot", "wx250s.urdf", b"<robot><li", "wx250s.urdf: it is cut off or damaged"),
        ("robot", "meshes/base.stl", TREES[ROBOT]["meshes/base.stl"][:-1], "meshes/base.stl: it is cut off"),
        ("robot", "README", b"", "README: it is empty"),
        ("physx", "libPhysXGpu_64.so", LIBRARY[:-1], "libPhysXGpu_64.so: it is cut off"),
        ("physx", "libPhysXGpu_64.so", LIBRARY[:70], "it is cut off"),
        ("physx", "libPhysXGpu_64.so", b"\x7fELF", "it is cut off"),
        ("tokenizer", "", TOKENIZER[:-1], "it is cut off or damaged: its last part ends at"),
        ("tokenizer", "", TOKENIZER[: TOKENIZER.index(b"piece 7") - 2], "it lacks a part"),
        ("tokenizer", "", b"", "it is empty"),
    ],
)
def test_assets_that_do_not_serve(site: Site, asset: str, name: str, content: bytes, words: str) -> None:
    for folder in ("openvla", "openvla-oft"):
        shutil.rmtree(site.old / folder)
    place = site.old / MODEL if asset == "tokenizer" else site.old / "assets" / {"robot": ROBOT, "physx": PHYSX}[asset] / name
    place.write_bytes(content)
    for check in (True, False):
        found = site.look(check=check)[asset]
        assert found["state"] == "refused"
        assert words in found["reason"]


def test_what_was_refused_is_fetched(site: Site) -> None:
    for place in (site.old / "wheels" / FLASH, site.old / "assets" / ROBOT / "wx250s.urdf", site.old / MODEL):
        place.write_bytes(b"")
    done = site.adopt()
    refused = [name for name, state in states(done).items() if state == "refused"]
    assert refused == ["flash", "robot", "tokenizer"]
    assert all(name in json.dumps(done["warnings"]) for name in refused)
    assert [item["changed"] for item in site.fetch("wheels")["results"]] == [True]
    assert {item["name"]: item["changed"] for item in site.fetch("assets")["results"]} == {
        name: name in refused for name in ("robot", "physx", "tokenizer")
    }
    # now their digests are on record
    assert {state for name, state in states(site.adopt()).items()} == {"present"}


@pytest.mark.parametrize("link", ["/etc/passwd", "../../../../../wheels"])
def test_a_tree_whose_links_lead_out_is_refused(site: Site, link: str) -> None:
    (site.old / "assets" / ROBOT / "link").symlink_to(link)
    assert site.look(check=False)["robot"]["reason"] == "link is a link that leads out of it"


def test_formats_that_tell_their_end(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(20) + b"IEND\xaeB`\x82"
    samples = {
        "a.glb": struct.pack("<4sII", b"glTF", 2, 40) + bytes(28),
        "a.png": png,
        "a.jpg": b"\xff\xd8" + bytes(50) + b"\xff\xd9",
        "a.json": b'{"a": [1, 2]}',
        "a.stl": b"solid x\n facet\nendsolid x",
        "libx.so.5": LIBRARY,
    }
    for name, content in samples.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert _whole.check(path), name
        path.write_bytes(content[:-4])
        with pytest.raises(ArchiveError, match="cut off or damaged"):
            _whole.check(path)
    (tmp_path / "some.bin").write_bytes(b"1")
    assert _whole.check(tmp_path / "some.bin") is False
    (tmp_path / "__init__.py").touch()
    assert _whole.check(tmp_path / "__init__.py")


def test_killed_anywhere_the_next_run_comes_to_the_same(site: Site, tree_hash: TreeHash) -> None:
    catalog = Catalog.parse({**site.catalog, "repositories": {"openvla": site.catalog["repositories"]["openvla"]}})

    def work(bundle: Path) -> list[_adopt.Adopted]:
        return _adopt.adopt(Bundle(bundle), site.old, catalog)

    def content(bundle: Path) -> dict[str, tuple[str, ...]]:
        return {name: value for name, value in tree_hash(bundle).items() if "/objects/pack/" not in name and name != ".lock"}

    whole = site.bundle.with_name("whole")
    work(whole)
    number = 1
    while killed_at(number, lambda: work(site.bundle)):
        assert not [path for path in (site.bundle / "wheels").glob("*.whl") if sha256(path) != sha256(site.old / "wheels" / FLASH)]
        assert {item.state for item in work(site.bundle) if item.name != "openvla-oft"} <= {"present", "adopted", "unverified"}
        assert content(site.bundle) == content(whole)
        shutil.rmtree(site.bundle)
        number += 1
    assert number > 10


@pytest.mark.parametrize(("make", "words"), [("missing", "there is no directory"), ("bundle", "is the bundle itself")])
def test_directories_that_are_none(site: Site, make: str, words: str) -> None:
    with pytest.raises(ModuleFailed, match=words):
        site.adopt(src=str(site.old / "nothing" if make == "missing" else site.old), bundle_dir=str(site.old))


def test_a_directory_with_nothing_of_use_is_a_warning(site: Site, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = site.adopt(src=str(tmp_path / "empty"))
    assert (result["changed"], result["results"]) == (False, [])
    assert "holds no clone, wheel or asset of the catalogue" in json.dumps(result["warnings"])
