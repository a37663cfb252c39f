# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_interpreter_cache and rlinf_interpreter through their real main(), with an archive made of this interpreter."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Node
from ansible_collections.rlinf.offline.plugins.module_utils._node_info import find_pythons
from ansible_collections.rlinf.offline.plugins.module_utils._wishes import interpreters
from tests.support.environments import Site as Environments
from tests.support.interpreters import MINOR, VERSION, build_interpreter
from tests.support.upstream import Upstream
from tests.support.wheels import build_wheel, sha256
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
MACHINE = platform.machine()
FILE = f"cpython-{VERSION}-install_only.tar.gz"


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_interpreter(tmp_path_factory.mktemp("interpreter") / FILE)


@dataclass(frozen=True)
class Site:
    upstream: Upstream
    bundle: Path
    prefix: Path
    run_module: Run

    def cache(self, **options: Any) -> dict[str, Any]:
        entry = {
            "name": "cpython",
            "url": f"https://host.example/{FILE}",
            "python": VERSION,
            "machine": MACHINE,
            **options.pop("entry", {}),
        }
        rewrites = {"https://host.example/": f"{self.upstream.url}/"}
        arguments = {"bundle_dir": str(self.bundle), "interpreters": [entry], "url_rewrites": rewrites, "timeout": 20}
        return self.run_module("rlinf_interpreter_cache", arguments, **options)

    def seal(self) -> None:
        self.run_module("rlinf_bundle", {"bundle_dir": str(self.bundle), "state": "sealed"})

    def __call__(self, *pythons: str, **options: Any) -> dict[str, Any]:
        arguments = {"bundle_dir": str(self.bundle), "prefix": str(self.prefix), "pythons": list(pythons or [MINOR])}
        return self.run_module("rlinf_interpreter", arguments, **options)

    @property
    def place(self) -> Path:
        return self.bundle / "interpreters" / VERSION / MACHINE / FILE


@pytest.fixture
def site(tmp_path: Path, archive: Path, run_module: Run) -> Iterator[Site]:
    root = tmp_path / "upstream"
    root.mkdir()
    os.link(archive, root / FILE)
    with Upstream(root) as upstream:
        yield Site(upstream, tmp_path / "bundle", tmp_path / "prefix", run_module)


@pytest.fixture
def bundled(site: Site, archive: Path) -> Site:
    """A bundle that has the archive, sealed."""
    site.place.parent.mkdir(parents=True)
    os.link(archive, site.place)
    site.seal()
    return site


def test_an_archive_comes_once_into_the_bundle(site: Site, archive: Path, tree_hash: Callable[..., Any]) -> None:
    assert site.cache(check=True)["results"][0]["state"] == "missing" and not site.bundle.exists()
    assert site.cache()["results"][0]["sha256"] == sha256(archive) and sha256(site.place) == sha256(archive)
    before = tree_hash(site.bundle / "interpreters", mtimes=True)
    site.upstream.forget()
    assert not site.cache(check=True)["changed"] and not site.cache()["changed"] and not site.upstream.requests()
    assert tree_hash(site.bundle / "interpreters", mtimes=True) == before
    # a newer build of the same version takes its place
    os.link(archive, site.upstream.root / "newer.tar.gz")
    site.cache(entry={"url": "https://host.example/newer.tar.gz"})
    assert [path.name for path in site.place.parent.iterdir()] == ["newer.tar.gz"]


@pytest.mark.parametrize(
    ("member", "said"),
    [("python/../../evil", "leads out of the archive"), ("python/bin/other", f"holds no bin/python{MINOR} below its top folder")],
)
def test_what_is_no_interpreter_is_refused(site: Site, member: str, said: str) -> None:
    (site.upstream.root / FILE).unlink()
    with tarfile.open(site.upstream.root / FILE, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(ModuleFailed, match=said):
        site.cache()
    assert not site.place.exists()


def test_quad(bundled: Site, tree_hash: Callable[..., Any]) -> None:
    would = bundled(check=True, diff=True)
    assert would["changed"] and would["results"][0]["state"] == "missing" and not bundled.prefix.exists()
    did = bundled(diff=True)
    assert did["changed"] and did["diff"] == would["diff"]
    (python,) = did["pythons"]
    said = subprocess.run([python["path"], "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(Path(python["path"]).parents[1]) and str(bundled.prefix) in said
    before = tree_hash(bundled.prefix, mtimes=True)
    assert not bundled(check=True)["changed"] and not bundled(VERSION)["changed"]
    assert tree_hash(bundled.prefix, mtimes=True) == before
    # whoever looks for interpreters finds it, last
    found = find_pythons([MINOR], Path("/nowhere"), node=Node(bundled.prefix))
    assert found[-1]["path"] == python["path"] and found[-1]["version"] == VERSION and not found[-1]["virtual"]


def small(site: Site, folder: Path, program: str) -> None:
    """Seal a bundle in which a script stands in for an interpreter: what it prints is its version."""
    script = folder / "script"
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    site.place.parent.mkdir(parents=True)
    with tarfile.open(site.place, "w:gz") as archive:
        archive.add(script, f"python/bin/python{MINOR}")
    site.seal()


def test_what_was_cut_off_is_unpacked_again(site: Site, tmp_path: Path) -> None:
    small(site, tmp_path, f"echo '\"{VERSION}\"'")
    for point in range(1, 100):
        shutil.rmtree(site.prefix, ignore_errors=True)
        try:
            site(env={"RLINF_FAULT_AT": str(point)})
            break
        except subprocess.CalledProcessError as error:
            assert error.returncode == -9
        # nothing under its name is unfinished, and the next run makes it good
        assert all((folder / "rlinf.json").is_file() for folder in (site.prefix / "interpreters").glob("cpython-*"))
        (python,) = site()["pythons"]
        assert Path(python["path"]).exists() and not list((site.prefix / "interpreters").glob(".*"))
    else:
        pytest.fail("the module never ran to its end")
    assert point > 3


def test_one_that_was_moved_is_noticed(bundled: Site, tmp_path: Path) -> None:
    """The environment that stands on it says so when it is verified, and is made anew with where it is now."""
    (python,) = bundled()["pythons"]
    environments = Environments(tmp_path / "other-bundle", tmp_path / "other", bundled.run_module)
    lock = environments.lock(build_wheel(environments.index, "alpha", "1.0"))
    environments(lock, python=python["path"])
    assert not environments(lock, python=python["path"])["changed"]
    moved = tmp_path / "moved"
    Path(python["path"]).parents[1].rename(moved)
    with pytest.raises(ModuleFailed, match=re.escape(f"its interpreter {python['path']} is not there any more")):
        environments(state="verified", python=sys.executable)
    assert environments(lock, python=str(moved / "bin" / f"python{MINOR}"))["changed"]
    assert environments.imports("import alpha, sys; print(sys.base_prefix)") == str(moved)


def test_what_the_bundle_lacks_is_named(bundled: Site) -> None:
    with pytest.raises(ModuleFailed) as caught:
        bundled("3.1")
    assert f"No Python 3.1 is on this node, and none for {MACHINE} in the bundle, which has {VERSION} ({MACHINE})" in str(caught.value)
    assert "rlinf_interpreters: auto" in str(caught.value) and not bundled.prefix.exists()


def test_a_damaged_archive_is_not_unpacked(bundled: Site) -> None:
    content = bytearray(bundled.place.read_bytes())
    content[len(content) // 2] ^= 1
    bundled.place.unlink()
    bundled.place.write_bytes(content)
    with pytest.raises(ModuleFailed, match="is missing or damaged"):
        bundled()
    assert not list((bundled.prefix / "interpreters").iterdir())


@pytest.mark.parametrize(("program", "said"), [("exit 1", "does not run on this node"), ("echo '\"3.1.4\"'", r"is Python 3\.1\.4, not")])
def test_one_that_does_not_run_here_is_not_kept(site: Site, tmp_path: Path, program: str, said: str) -> None:
    small(site, tmp_path, program)
    with pytest.raises(ModuleFailed, match=said):
        site()
    assert not list((site.prefix / "interpreters").iterdir())


ENTRY = {"url": "https://host.example/a.tar.gz", "python": "3.11.14", "machine": "x86_64"}
REPOSITORIES = {"RLinf": {"url": "https://git.example/RLinf/RLinf.git"}}
TARGETS = {"one": {"python": "3.11", "steps": [{"requirements": ["a"]}]}, "two": {"python": "3.10", "steps": [{"requirements": ["a"]}]}}


def test_auto_takes_the_newest_that_each_target_needs() -> None:
    known = {"old": {**ENTRY, "python": "3.11.9"}, "new": ENTRY, "arm": {**ENTRY, "machine": "aarch64", "python": "3.11.15"}}
    catalog = Catalog.parse({"repositories": REPOSITORIES, "targets": TARGETS, "interpreters": known})
    assert [item["name"] for item in interpreters(catalog, ["one"], "auto", "", "x86_64")] == ["new"]
    assert [item["name"] for item in interpreters(catalog, ["one"], "auto", "3.11.9", "x86_64")] == ["old"]
    assert interpreters(catalog, ["one"], "auto", "/usr/bin/python3.11", "x86_64") == []
    assert [item["name"] for item in interpreters(catalog, ["one"], ["arm"], "", "x86_64")] == ["arm"]
    with pytest.raises(CatalogError, match=r"the catalogue has no Python 3\.10 for x86_64"):
        interpreters(catalog, ["one", "two"], "auto", "", "x86_64")
    with pytest.raises(CatalogError, match="there is no interpreter 'arms' in the catalogue"):
        interpreters(catalog, ["one"], ["arms"], "", "x86_64")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"python": "3.11"}, "python must be its full version"),
        ({"machine": ""}, "machine must be said"),
        ({"url": "https://host.example/a.whl"}, "is no .tar.gz"),
        ({"url": "ext::sh"}, "interpreter bad"),
        ({"sha256": "0"}, "interpreter bad"),
        ({"size": 1}, "unknown key size"),
    ],
)
def test_a_bad_entry_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        Catalog.parse({"repositories": REPOSITORIES, "targets": {}, "interpreters": {"bad": {**ENTRY, **entry}}})


def test_the_manifest_covers_it(bundled: Site) -> None:
    listed = json.loads((bundled.bundle / "bundle.json").read_text())["files"]
    assert listed[f"interpreters/{VERSION}/{MACHINE}/{FILE}"]["sha256"] == sha256(bundled.place)


def test_a_check_of_the_bundle_looks_at_it(bundled: Site) -> None:
    arguments = {"bundle_dir": str(bundled.bundle), "catalog": {"repositories": REPOSITORIES, "targets": {}}, "targets": []}

    def found() -> dict[str, str]:
        results = bundled.run_module("rlinf_bundle_check", arguments)["results"]
        return {f"{result['kind']} {result['name']}": result["state"] for result in results}

    assert found()[f"interpreter {VERSION}/{MACHINE}"] == "present"
    bundled.place.unlink()
    assert found()[f"interpreter {VERSION}/{MACHINE}"] == "damaged"
