# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_tools through its real main(), with the real uv and an index on loopback; and the collection's archive, installed from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._tools import Requirements, archive_bytes, collection_files
from tests.support.upstream import Upstream
from tests.support.wheels import build_sdist, build_wheel, sha256
from tests.unit.conftest import ModuleFailed

ROOT = Path(__file__).resolve().parents[2]
TreeHash = Callable[..., dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Site:
    """An index that has uv and tomlkit, and a bundle."""

    upstream: Upstream
    bundle: Path
    run_module: Callable[..., dict[str, Any]]

    def __call__(self, requirements: str, *, check: bool = False, diff: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {"bundle_dir": str(self.bundle), "requirements": requirements, "index_url": f"{self.upstream.url}/simple/", "timeout": 20}
        return self.run_module("rlinf_tools", {**given, **arguments}, check=check, diff=diff)

    @property
    def index(self) -> Path:
        return self.upstream.root / "index"


@pytest.fixture
def site(tmp_path: Path, run_module: Callable[..., dict[str, Any]]) -> Iterator[Site]:
    index = tmp_path / "upstream" / "index"
    for version in ("1.0", "2.0"):
        for tags in ("py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64", "py3-none-manylinux_2_39_x86_64", "py3-none-win_amd64"):
            build_wheel(index, "uv", version, tags=tags)
    build_wheel(index, "tomlkit", "0.13")
    build_sdist(index, "only-source", "1.0")
    with Upstream(tmp_path / "upstream") as upstream:
        yield Site(upstream, tmp_path / "bundle", run_module)


def names(bundle: Path) -> list[str]:
    return sorted(path.name for path in (bundle / "tools").glob("*.whl"))


def states(result: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {item["name"]: (item["changed"], item["state"]) for item in result["results"]}


UV = "uv-1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
TOMLKIT = "tomlkit-0.13-py3-none-any.whl"


def test_wheels_that_fit_the_nodes_come_once(site: Site, tree_hash: TreeHash) -> None:
    listed = "uv==1.0\ntomlkit==0.13  # and a comment\n"
    checked = site(listed, check=True, diff=True)
    assert checked["changed"] and states(checked)["uv==1.0"] == (True, "absent") and not site.bundle.exists()
    assert site(listed)["changed"]
    assert names(site.bundle) == [TOMLKIT, UV]
    # uv is taken out of its wheel: what is installed beside the modules does not name it
    wanted = f"tomlkit==0.13 --hash=sha256:{sha256(site.index / TOMLKIT)}\n"
    assert (site.bundle / "tools" / "runtime-requirements.txt").read_text() == wanted
    before = tree_hash(site.bundle / "tools", mtimes=True)
    site.upstream.forget()
    assert not site(listed, check=True)["changed"]
    assert not site(listed)["changed"]
    assert tree_hash(site.bundle / "tools", mtimes=True) == before
    assert site.upstream.requests() == []


def test_a_damaged_wheel_comes_again_and_another_version_replaces_it(site: Site) -> None:
    site("uv==1.0\n")
    (site.bundle / "tools" / UV).write_bytes(b"damaged")
    assert states(site("uv==1.0\n", check=True)) == {UV: (True, "absent")}
    assert site("uv==1.0\n")["changed"] and sha256(site.bundle / "tools" / UV) == sha256(site.index / UV)
    listed = site.bundle / "tools" / "runtime-requirements.txt"
    listed.write_bytes(b"PK\x9c no text")
    assert site("uv==1.0\n")["changed"] and listed.read_bytes() == b""
    assert site("uv==2.0\n")["changed"] and names(site.bundle) == [UV.replace("1.0", "2.0", 1)]


def test_a_digest_is_enforced_where_it_is_given(site: Site) -> None:
    right = f"tomlkit==0.13 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{sha256(site.index / TOMLKIT)}\n"
    assert site(right)["changed"]
    shutil.rmtree(site.bundle)
    with pytest.raises(ModuleFailed, match=f"{TOMLKIT} of the index has the sha256 .* not listed"):
        site(f"tomlkit==0.13 --hash=sha256:{'0' * 64}\n")
    assert names(site.bundle) == []


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ("uv==9.9\n", "asking the index for the nodes' tools: uv ended with status 1"),
        ("only-source==1.0\n", "only-source"),
        ("--index-url https://example.com/\n", "the option --index-url has no place there"),
        ("# nothing\n", "lists nothing"),
    ],
)
def test_what_cannot_be_had_is_named(site: Site, requirements: str, message: str) -> None:
    with pytest.raises(ModuleFailed, match=message):
        site(requirements)
    assert names(site.bundle) == []


def test_requirements_are_read_with_their_digests() -> None:
    parsed = Requirements.parse("# head\na==1 \\\n  --hash=sha256:" + "a" * 64 + "\n\nb>=2\n")
    assert parsed.lines == {"a==1": frozenset({"a" * 64}), "b>=2": frozenset()}
    with pytest.raises(CatalogError):
        Requirements.parse("")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what git tracks of this collection."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_the_archive_can_be_installed_and_makes_itself_again(checkout: Path, tmp_path: Path, site: Site) -> None:
    result = site("uv==1.0\n", collection_dir=str(checkout))
    assert states(result)["rlinf-offline.tar.gz"] == (True, "present")
    archive = site.bundle / "tools" / "rlinf-offline.tar.gz"
    galaxy = [
        sys.executable,
        "-m",
        "ansible",
        "galaxy",
        "collection",
        "install",
        "--offline",
        "--force",
        archive,
        "-p",
        tmp_path / "collections",
    ]
    subprocess.run(
        galaxy,
        check=True,
        capture_output=True,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)},
    )
    installed = tmp_path / "collections" / "ansible_collections" / "rlinf" / "offline"
    assert archive_bytes(collection_files(installed)) == archive.read_bytes()
    assert not site("uv==1.0\n", collection_dir=str(installed))["changed"]


def test_what_is_no_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not this collection"):
        collection_files(tmp_path)
