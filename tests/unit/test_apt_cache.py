# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages in the bundle: apt resolves in a private root, against an archive in Ubuntu's form."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _apt_resolve
from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from tests.support.apt_archive import Archive, Key, build_deb
from tests.support.authority import make_authority
from tests.support.proxy import Proxy
from tests.support.upstream import Fault, Upstream
from tests.unit.conftest import ModuleFailed


class World:
    """An archive with what a minimal system has, and what is asked for."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "packages"
        self.folder.mkdir()
        self.key = Key.make(tmp_path)
        self.archive = Archive(tmp_path / "served" / "ubuntu", self.key)
        essential = {"Essential": "yes", "Priority": "required"}
        self.base = [
            build_deb(self.folder, "base-files", "12", essential),
            build_deb(self.folder, "libc6", "2.35", {"Priority": "required"}),
        ]
        self.wanted = build_deb(self.folder, "libegl1", "1:1.4-1", {"Depends": "libglvnd0 (>= 1.4), libc6 (>= 2.35)"})
        self.needed = build_deb(self.folder, "libglvnd0", "1.4-1")
        self.archive.publish("jammy", [*self.base, self.wanted, build_deb(self.folder, "recommended", "1")])
        self.archive.publish("jammy", [self.needed], component="universe")
        self.archive.publish("jammy-updates", [])
        self.bundle = tmp_path / "bundle"

    def arguments(self, url: str, *packages: str, **changes: object) -> dict[str, object]:
        source = {
            "mirror": "ubuntu",
            "url": f"{url}/ubuntu",
            "suites": ["jammy", "jammy-updates"],
            "components": ["main", "universe"],
            "keyring": str(self.key.keyring),
        }
        release = {"name": "ubuntu-22.04", "sources": [source], "packages": list(packages or ["libegl1"]), **changes}
        return {"bundle_dir": str(self.bundle), "releases": [release], "timeout": 20}

    @property
    def repository(self) -> Path:
        return self.bundle / "apt" / "ubuntu-22.04" / "amd64"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def upstream(tmp_path: Path, world: World) -> Iterator[Upstream]:
    with Upstream(tmp_path / "served") as server:
        yield server


def test_quad(world: World, upstream: Upstream, run_module, tree_hash) -> None:
    """Check, apply, check, apply: what is lacking comes, dependencies of another component too; later the network is not asked."""
    arguments = world.arguments(upstream.url)
    would = run_module("rlinf_apt_cache", arguments, check=True, diff=True)
    assert would["changed"] and would["results"][0]["state"] == "missing"
    assert not world.bundle.exists()
    done = run_module("rlinf_apt_cache", arguments, diff=True)
    assert done["changed"] and done["diff"] == would["diff"]
    assert sorted(path.name for path in world.repository.glob("*.deb")) == ["libegl1_1%3a1.4-1_all.deb", "libglvnd0_1.4-1_all.deb"]
    before, asked = tree_hash(world.bundle), len(upstream.requests("*"))
    again = [run_module("rlinf_apt_cache", arguments, check=check) for check in (True, False)]
    assert [answer["changed"] for answer in again] == [False, False]
    assert tree_hash(world.bundle) == before and len(upstream.requests("*")) == asked


def test_the_repository_says_what_the_signed_lists_said(world: World, upstream: Upstream, run_module) -> None:
    run_module("rlinf_apt_cache", world.arguments(upstream.url))
    packages = (world.repository / "Packages").read_text()
    for path in world.repository.glob("*.deb"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"SHA256: {digest}\n" in packages and f"Filename: ./{path.name}\n" in packages
    record = json.loads((world.repository / "packages.json").read_text())
    assert record["packages"] == ["libegl1"] and len(record["files"]) == 2
    assert hashlib.sha256(packages.encode()).hexdigest() in (world.repository / "Release").read_text()


def state(*there: str) -> str:
    """Return the package state of a node that has these, as dpkg writes it."""
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        for name, version in (item.split() for item in there)
    )


STATES = [state("libc6 2.35", "libglvnd0 1.4-1"), state("libc6 2.35", "libglvnd0 1.4-1", "libegl1 1:1.4-1")]


def test_what_real_nodes_have_is_not_brought(world: World, upstream: Upstream, run_module, tmp_path: Path) -> None:
    """With package states of nodes, the union of what they lack comes, and what all of them have does not."""
    for number, text in enumerate(STATES):
        (tmp_path / f"status-{number}").write_text(text)
    states = [str(tmp_path / f"status-{number}") for number in range(len(STATES))]
    run_module("rlinf_apt_cache", world.arguments(upstream.url, states=states))
    assert [path.name for path in world.repository.glob("*.deb")] == ["libegl1_1%3a1.4-1_all.deb"]


def test_a_survey_counts_for_the_releases_of_its_nodes(world: World, upstream: Upstream, run_module, tmp_path: Path) -> None:
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in STATES]
    nodes = {f"gpu{digest[:2]}": {"release": "ubuntu-22.04", "architecture": "amd64", "packages": digest, "node": {}} for digest in digests}
    nodes |= {
        "other": {"release": "debian-12", "architecture": "amd64", "packages": hashlib.sha256(b"").hexdigest(), "node": {}},
        "no dpkg": {"release": "rocky-9", "architecture": None, "packages": None, "node": {}},
    }
    survey = tmp_path / "survey.json"
    survey.write_text(
        json.dumps(
            {"format": 1, "nodes": nodes, "states": {**dict(zip(digests, STATES, strict=True)), hashlib.sha256(b"").hexdigest(): ""}}
        )
    )
    arguments = {**world.arguments(upstream.url), "survey": str(survey)}
    run_module("rlinf_apt_cache", arguments)
    assert [path.name for path in world.repository.glob("*.deb")] == ["libegl1_1%3a1.4-1_all.deb"]
    survey.write_text("{}")
    assert "is not what rlinf.offline.survey of this version writes" in expect(run_module, arguments)


def test_another_mirror_has_the_same_files(world: World, upstream: Upstream, run_module, tmp_path: Path) -> None:
    """Which mirror is asked decides nothing: what is there stays, and what is missing comes from the one that is named now."""
    run_module("rlinf_apt_cache", world.arguments(upstream.url))
    (world.repository / "libglvnd0_1.4-1_all.deb").unlink()
    with Upstream(tmp_path / "served") as other:
        upstream.forget()
        assert run_module("rlinf_apt_cache", world.arguments(other.url))["results"][0]["reason"] == "1 missing files"
        assert [request.path for request in other.requests()] == ["/ubuntu/pool/libglvnd0_1.4-1_all.deb"] and not upstream.requests()


def test_a_mirror_that_nobody_named(world: World, upstream: Upstream, run_module) -> None:
    arguments = world.arguments(upstream.url)
    arguments["releases"][0]["sources"][0] |= {"mirror": "nobodys-archive", "url": None}  # type: ignore[index]
    assert "rlinf_apt_mirrors: {nobodys-archive: URL}" in expect(run_module, arguments)


def test_rewrites_and_logins_are_apts_too(world: World, upstream: Upstream, run_module) -> None:
    """apt fetches the lists where everything else is fetched, and no credential comes out."""
    upstream.require_login("/", "someone", "hidden-word")
    reached = upstream.url.replace("://", "://someone:hidden-word@")
    arguments = {**world.arguments("https://archive.invalid"), "url_rewrites": {"https://archive.invalid/": f"{reached}/"}}
    said = json.dumps(run_module("rlinf_apt_cache", arguments, diff=True))
    assert any(request.path == "/ubuntu/dists/jammy/InRelease" for request in upstream.requests())
    held = b"".join(path.read_bytes() for path in world.bundle.rglob("*") if path.is_file())
    assert "hidden-word" not in said and b"hidden-word" not in held and upstream.url.encode() not in held


def test_proxy_and_authorities_are_apts_too(world: World, run_module, tmp_path: Path) -> None:
    authority, certificate = make_authority(tmp_path / "authority")
    with Upstream(tmp_path / "served", certificate=certificate) as upstream, Proxy("someone:hidden-word") as proxy:
        arguments = world.arguments(upstream.url)
        run_module("rlinf_apt_cache", {**arguments, "proxy": proxy.url, "ca_bundle": str(authority)})
        assert set(proxy.asked) == {upstream.url.rpartition("/")[2]} and len(proxy.asked) > 1


def test_a_missing_file_comes_again_and_a_moved_version_only_when_asked(world: World, upstream: Upstream, run_module) -> None:
    arguments = world.arguments(upstream.url)
    run_module("rlinf_apt_cache", arguments)
    place = world.repository / "libglvnd0_1.4-1_all.deb"
    content = place.read_bytes()
    place.unlink()
    newer = build_deb(world.folder, "libglvnd0", "1.4-2")
    world.archive.publish("jammy-updates", [newer])
    assert run_module("rlinf_apt_cache", arguments)["results"][0]["reason"] == "1 missing files"
    assert place.read_bytes() == content
    trace = world.folder / "trace"
    assert run_module("rlinf_apt_cache", {**arguments, "update": ["ubuntu-22.04"]}, env={TRACE: str(trace)})["changed"]
    assert f"remove {place.name}\n" in trace.read_text()
    assert not place.exists() and (world.repository / "libglvnd0_1.4-2_all.deb").is_file()
    # indexes that are not of the record, as a run leaves them that was cut off between the two
    (world.repository / "Packages").write_text("")
    mended = run_module("rlinf_apt_cache", arguments)
    assert mended["changed"] and mended["results"][0]["reason"] == "resolved again, the same"
    assert "libglvnd0" in (world.repository / "Packages").read_text()


def expect(run_module, arguments: dict[str, object]) -> str:
    """Run the module, which must fail, and return its message."""
    with pytest.raises(ModuleFailed) as failure:
        run_module("rlinf_apt_cache", arguments)
    return str(failure.value.result["msg"])


def test_a_package_that_is_nowhere(world: World, upstream: Upstream, run_module) -> None:
    said = expect(run_module, world.arguments(upstream.url, "libegl1", "libnowhere"))
    assert "ubuntu-22.04" in said and "libnowhere is in no source of this release" in said and "rlinf_system_packages" in said
    assert not world.repository.exists()


def test_a_wrong_signature(world: World, upstream: Upstream, run_module, tmp_path: Path) -> None:
    other = Key.make(tmp_path, "other")
    arguments = world.arguments(upstream.url)
    arguments["releases"][0]["sources"][0]["keyring"] = str(other.keyring)  # type: ignore[index]
    assert "the signature of a Release file is not one of its keyring's" in expect(run_module, arguments)
    assert not world.repository.exists()


@pytest.mark.parametrize("status", [429, 503])
def test_a_mirror_that_has_no_time_is_asked_again(world: World, upstream: Upstream, run_module, status: int) -> None:
    upstream.script("*/InRelease", Fault(status=status))
    run_module("rlinf_apt_cache", world.arguments(upstream.url))
    assert world.repository.exists()


def test_a_mirror_that_never_has_time(world: World, upstream: Upstream, run_module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_apt_resolve, "BUSY", 2)
    upstream.script("*", *[Fault(status=503)] * 100)
    assert "a mirror has no time for it (503  Service Unavailable)" in expect(run_module, world.arguments(upstream.url))
    assert not world.repository.exists()


def test_an_expired_release(world: World, upstream: Upstream, run_module) -> None:
    world.archive.publish("jammy-updates", [], valid_for=datetime.timedelta(days=-1))
    assert "The mirror is out of date, or this machine's clock is wrong" in expect(run_module, world.arguments(upstream.url))


@pytest.mark.parametrize("damage", ["replaced", "missing"])
def test_a_file_that_is_not_what_the_lists_say(world: World, upstream: Upstream, run_module, damage: str) -> None:
    """What the mirror does not have as the signed list says never enters the bundle."""
    place = world.archive.root / "pool" / world.needed.name
    if damage == "missing":
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:-1] + b"x")
    said = expect(run_module, world.arguments(upstream.url))
    assert "1 of 2 packages could not be fetched" in said and "libglvnd0_1.4-1_all.deb" in said
    assert not (world.repository / "libglvnd0_1.4-1_all.deb").exists() and not (world.repository / "packages.json").exists()


def test_a_missing_keyring(world: World, upstream: Upstream, run_module, tmp_path: Path) -> None:
    arguments = world.arguments(upstream.url)
    arguments["releases"][0]["sources"][0]["keyring"] = str(tmp_path / "none.gpg")  # type: ignore[index]
    assert "ubuntu-keyring" in expect(run_module, arguments)


def test_a_conflict(world: World, upstream: Upstream, run_module) -> None:
    broken = build_deb(world.folder, "broken", "1", {"Depends": "libc6 (>= 3)"})
    world.archive.publish("jammy-updates", [broken])
    said = expect(run_module, world.arguments(upstream.url, "broken"))
    assert "the packages cannot be installed together" in said and "broken : Depends: libc6 (>= 3)" in said


def test_one_release_fails_the_other_comes(world: World, upstream: Upstream, run_module) -> None:
    arguments = world.arguments(upstream.url)
    bad = {**arguments["releases"][0], "name": "debian-12", "packages": ["libnowhere"]}  # type: ignore[index]
    said = expect(run_module, {**arguments, "releases": [bad, arguments["releases"][0]]})  # type: ignore[index]
    assert "1 of 2 releases failed" in said and (world.repository / "packages.json").is_file()


@pytest.mark.parametrize("name", ["Packages", "Release"])
@pytest.mark.parametrize("content", ["", "Suite: another\n"])
def test_an_index_that_was_damaged_is_written_again(world: World, upstream: Upstream, run_module, name: str, content: str) -> None:
    run_module("rlinf_apt_cache", world.arguments(upstream.url))
    whole = (world.repository / name).read_bytes()
    (world.repository / name).write_text(content)
    assert run_module("rlinf_apt_cache", world.arguments(upstream.url))["changed"]
    assert (world.repository / name).read_bytes() == whole
    assert not run_module("rlinf_apt_cache", world.arguments(upstream.url))["changed"]
