# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials: every file that somebody uses is in it once, as the official schema asks, and equal bundles have equal bills."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, json_bytes, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._mend import mend
from ansible_collections.rlinf.offline.plugins.module_utils._sbom import bill_of, licenses_of
from tests.support.kills import kill_points, killed_at
from tests.support.wheels import build_wheel
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]

COMMIT, FORK, DIGEST = "1" * 40, "2" * 40, "3" * 64
LOCK = f"targets/{COMMIT}/openvla"
INDEX = "https://index.example/packages"
SECRET = "s3cret"
GIT = f"wheelhouse/git/github.com/Example/Fork/{FORK}/cp311/fork-1.0-py3-none-any.whl"
SDIST = f"wheelhouse/sdist/{DIGEST}/cp311/built-2.0-py3-none-any.whl"
OVERLAY = "wheelhouse/overlay/0a/transformers-4.53.2-py3-none-any.whl"
SOURCE = f"wheelhouse/source/{DIGEST}/te-1.0.tar.gz"
BUILT = f"wheelhouse/built/{DIGEST}/te-1.0-py3-none-any.whl"
CATALOGUE = "wheels/flash_attn-2.7.4+cu12-py3-none-any.whl"
PYTHON = "interpreters/3.11.14/x86_64/cpython.tar.gz"
DEB = "apt/debian-12/amd64/git_1%3a2.39.5-0+deb12u2_amd64.deb"


def put(bundle: Bundle, path: str, content: bytes = b"") -> str:
    """Write a file of the bundle; return its digest."""
    place = bundle.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content or path.encode())
    return hashlib.sha256(place.read_bytes()).hexdigest()


def package(bundle: Bundle, name: str, version: str | None, kind: str, place: str, **source: Any) -> dict[str, Any]:
    digest = hashlib.sha256((bundle.root / place).read_bytes()).hexdigest() if (bundle.root / place).is_file() else put(bundle, place)
    return {"name": name, "version": version, "kind": kind, "source": source, "path": place, "sha256": digest, "size": 1, "served": False}


def index(bundle: Bundle, name: str, version: str) -> dict[str, Any]:
    wheel = build_wheel(bundle.index, name, version)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    url = f"https://someone:{SECRET}@index.example/packages/{wheel.name}"
    return package(bundle, name, version, "index", str(wheel.relative_to(bundle.root)), url=url, sha256=digest, size=1)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with one of everything."""
    bundle = Bundle(tmp_path / "bundle")
    bundle.index.mkdir(parents=True)
    bundle.records.mkdir()
    git = {"url": "git@github.com:Example/Fork.git", "commit": FORK, "subdirectory": "python"}
    ordinary = index(bundle, "some-package", "1.0")
    original = {
        **package(bundle, "transformers", "4.53.2", "index", OVERLAY, url=f"{INDEX}/transformers.whl", sha256=DIGEST),
        "sha256": DIGEST,
    }
    packages = [
        ordinary,
        package(bundle, "fork", "1.0", "git", GIT, **git),
        package(
            bundle, "built", "2.0", "sdist", SDIST, url=f"{INDEX}/built-2.0.tar.gz", sha256=DIGEST, size=1, filename="built-2.0.tar.gz"
        ),
        package(bundle, "transformers", "4.53.2", "overlay", OVERLAY, package=original, donor="fork", path="fork/replace"),
        package(bundle, "te", "1.0", "source", SOURCE, url=f"{INDEX}/te-1.0.tar.gz", sha256=DIGEST, size=1),
        package(bundle, "flash-attn", "2.7.4+cu12", "wheel", CATALOGUE),
    ]
    project = {"repository": "RLinf", "mirror": "github.com/RLinf/RLinf.git", "version": "v1", "commit": COMMIT}
    lock = {
        "target": "openvla",
        "project": {**project, "url": f"https://{SECRET}@github.com/RLinf/RLinf.git"},
        "python": "3.11",
        "platform": "x86_64-manylinux_2_31",
        "definition": DIGEST,
        "packages": packages,
        "build": [],
        "closure": [
            f"{LOCK}/",
            "repos/github.com/RLinf/RLinf.git/",
            "assets/.maniskill/data",
            f"wheelhouse/built/{DIGEST}/",
            *(item["path"] for item in packages),
        ],
    }
    (bundle.root / LOCK).mkdir(parents=True)
    write_json(bundle.root / LOCK / "lock.json", lock)
    frozen = {"version": "v1", "default_branch": "main", "cut_off": None}
    records = {
        "github.com/RLinf/RLinf.git": {**frozen, "url": "https://github.com/RLinf/RLinf.git", "commit": COMMIT},
        "git.example/group/Further.git": {**frozen, "url": "ssh://git@git.example/group/Further.git", "commit": FORK},
    }
    write_json(bundle.records / "repositories.json", records)
    put(bundle, "repos/github.com/RLinf/RLinf.git/HEAD")
    asset = {"url": f"https://{SECRET}@hub.example/bridge.zip", "sha256": DIGEST, "strip": False, "tree": DIGEST}
    write_json(bundle.records / "assets.json", {".maniskill/data": asset})
    put(bundle, "assets/.maniskill/data/one.urdf")
    seen = {
        "https://hub.example/tokenizer.model": put(bundle, "assets/.cache/tokenizer.model"),
        "https://github.com/example/flash_attn.whl": packages[-1]["sha256"],
    }
    rest = {"size": 1, "etag": None, "last_modified": None}
    write_json(bundle.records / "urls.json", {url: {"sha256": digest, **rest} for url, digest in seen.items()})
    for path in (PYTHON, BUILT, "tools/rlinf-offline.tar.gz", "tools/requirements.txt"):
        put(bundle, path)
    tool = {
        "name": "GitPython",
        "version": "3.2.1",
        "filename": "gitpython-3.2.1-py3-none-any.whl",
        "url": f"{INDEX}/gitpython.whl",
        "size": 1,
    }
    tool["sha256"] = put(bundle, f"tools/{tool['filename']}")
    write_json(bundle.records / "tools.json", {"format": 1, "chosen_by": DIGEST, "wheels": {"3.10": [tool]}})
    deb = {
        "package": "git",
        "filename": Path(DEB).name,
        "mirror": "debian",
        "path": "pool/g/git.deb",
        "sha256": put(bundle, DEB),
        "size": 1,
        "installed": 1,
    }
    record = {
        "release": "debian-12",
        "architecture": "amd64",
        "definition": DIGEST,
        "index": DIGEST,
        "packages": ["git"],
        "before_push": [],
    }
    write_json(bundle.root / DEB.rpartition("/")[0] / "packages.json", {**record, "files": [deb]})
    return bundle


def bill(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bill_of(bundle).content)
    return found


def components(bundle: Bundle) -> dict[str, dict[str, Any]]:
    return {component["bom-ref"]: component for component in bill(bundle)["components"]}


def test_the_official_schema_takes_it(bundle: Bundle) -> None:
    content = bill_of(bundle).content.decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content) is None
    # what it would not take: the validator looks at the formats of addresses, too
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.replace("ssh://git@github.com/", "git@github.com:")) is not None


def test_every_file_that_somebody_uses_is_in_it_with_its_digest(bundle: Bundle) -> None:
    found = components(bundle)
    used = [path for path in bundle.root.rglob("*") if path.suffix in (".whl", ".gz", ".deb", ".model")]
    assert len(used) == 12
    for path in used:
        (digest,) = found[str(path.relative_to(bundle.root))]["hashes"]
        assert digest == {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_package_urls_are_canonical(bundle: Bundle) -> None:
    found = {ref: component["purl"] for ref, component in components(bundle).items() if "purl" in component}
    assert {text: PackageURL.from_string(text).to_string() for text in found.values()} == {text: text for text in found.values()}
    assert found["wheelhouse/index/some_package-1.0-py3-none-any.whl"] == "pkg:pypi/some-package@1.0"
    assert found[GIT] == f"pkg:github/example/fork@{FORK}#python"
    assert found[SDIST] == "pkg:pypi/built@2.0"
    assert found["repos/github.com/RLinf/RLinf.git"] == f"pkg:github/rlinf/rlinf@{COMMIT}"
    assert found["repos/git.example/group/Further.git"] == (
        f"pkg:generic/Further@{FORK}?vcs_url=git%2Bssh://git%40git.example/group/Further.git%40{FORK}"
    )
    assert found[DEB] == "pkg:deb/debian/git@1:2.39.5-0%2Bdeb12u2?arch=amd64&distro=debian-12"
    assert found[CATALOGUE].startswith("pkg:generic/flash-attn@2.7.4%2Bcu12?checksum=sha256:")
    assert found[PYTHON].startswith("pkg:generic/cpython@3.11.14?checksum=sha256:")


def test_it_says_where_things_came_from_and_what_they_were_built_from(bundle: Bundle) -> None:
    found = components(bundle)
    assert found[SDIST]["externalReferences"] == [
        {"type": "source-distribution", "url": f"{INDEX}/built-2.0.tar.gz", "hashes": [{"alg": "SHA-256", "content": DIGEST}]}
    ]
    assert found[GIT]["externalReferences"] == [
        {"type": "vcs", "url": "ssh://git@github.com/Example/Fork.git", "comment": f"commit {FORK}"}
    ]
    (original,) = found[OVERLAY]["pedigree"]["ancestors"]
    assert (original["purl"], original["hashes"]) == ("pkg:pypi/transformers@4.53.2", [{"alg": "SHA-256", "content": DIGEST}])
    assert found["assets/.maniskill/data"]["externalReferences"][0]["url"] == "https://hub.example/bridge.zip"
    assert found["assets/.cache/tokenizer.model"]["externalReferences"][0]["url"] == "https://hub.example/tokenizer.model"
    assert found[CATALOGUE]["externalReferences"][0]["url"] == "https://github.com/example/flash_attn.whl"
    assert SECRET not in bill_of(bundle).content.decode()


def test_a_target_depends_on_its_closure_and_the_bundle_on_the_rest(bundle: Bundle) -> None:
    found = {entry["ref"]: entry["dependsOn"] for entry in bill(bundle)["dependencies"]}
    assert found[LOCK] == sorted(
        [
            "assets/.maniskill/data",
            "repos/github.com/RLinf/RLinf.git",
            "wheelhouse/index/some_package-1.0-py3-none-any.whl",
            *(GIT, SDIST, OVERLAY, SOURCE, BUILT, CATALOGUE),
        ]
    )
    tools = ["tools/gitpython-3.2.1-py3-none-any.whl", "tools/rlinf-offline.tar.gz"]
    assert found["bundle"] == sorted([LOCK, DEB, PYTHON, *tools, "assets/.cache/tokenizer.model", "repos/git.example/group/Further.git"])


def test_equal_bundles_have_equal_bills(bundle: Bundle, tmp_path: Path) -> None:
    first = bill_of(bundle).content
    copy = Bundle(tmp_path / "elsewhere")
    shutil.copytree(bundle.root, copy.root, copy_function=shutil.copyfile)
    _bundle.seal(copy)
    assert bill_of(copy).content == first
    # it is written piece by piece
    assert json_bytes(json.loads(first)) == first and bill_of(copy).components == len(json.loads(first)["components"])
    put(copy, PYTHON, b"another")
    other = json.loads(bill_of(copy).content)
    assert other["serialNumber"] != json.loads(first)["serialNumber"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other", [{"expression": "MIT OR Apache-2.0", "acknowledgement": "declared"}]),
        (
            "License: a text\nClassifier: License :: OSI Approved :: MIT License\nClassifier: Topic :: Games",
            [{"license": {"name": "MIT License", "acknowledgement": "declared"}}],
        ),
        ("License: BSD", [{"license": {"name": "BSD", "acknowledgement": "declared"}}]),
        (f"License: {'long ' * 50}", []),
        ("License: UNKNOWN", []),
    ],
)
def test_licences_are_those_that_a_wheel_declares(tmp_path: Path, headers: str, expected: list[dict[str, Any]]) -> None:
    wheel = tmp_path / "one-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "one-1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: one\nVersion: 1.0\n{headers}\n\nLicense: none of it\n"
        )
    assert list(licenses_of(wheel)) == expected
    wheel.write_bytes(wheel.read_bytes()[:-30])
    assert list(licenses_of(wheel)) == []


# -- the module ------------------------------------------------------------------------------------------------------------------------


def test_check_write_check_write(run_module: Run, bundle: Bundle, tree_hash: Callable[..., Any]) -> None:
    arguments = {"bundle_dir": str(bundle.root)}
    before = tree_hash(bundle.root)
    would = run_module("rlinf_sbom", arguments, check=True, diff=True)
    assert would["changed"] and f"{SDIST} pkg:pypi/built@2.0\n" in would["diff"]["after"] and would["diff"]["before"] == ""
    assert tree_hash(bundle.root) == before
    made = run_module("rlinf_sbom", arguments)
    assert made["changed"] and made["sha256"] == would["sha256"] and made["components"] == len(components(bundle))
    assert bundle.sbom.stat().st_size == made["bytes"]
    after, written = tree_hash(bundle.root), bundle.sbom.stat().st_mtime_ns
    for check in (True, False):
        assert not run_module("rlinf_sbom", arguments, check=check)["changed"]
    assert tree_hash(bundle.root) == after and bundle.sbom.stat().st_mtime_ns == written
    put(bundle, PYTHON, b"another")
    moved = run_module("rlinf_sbom", arguments, diff=True)["diff"]
    assert moved["before"] != moved["after"]


def test_the_manifest_covers_it_and_sealing_does_not_move_it(bundle: Bundle) -> None:
    atomic_write(bundle.sbom, bill_of(bundle).content)
    _bundle.seal(bundle)
    assert "records/sbom.cdx.json" in _bundle.read_manifest(bundle)["files"]
    assert bill_of(bundle).content == bundle.sbom.read_bytes()
    assert not _bundle.seal(bundle).changed


def test_a_damaged_one_is_made_again(run_module: Run, bundle: Bundle) -> None:
    run_module("rlinf_sbom", {"bundle_dir": str(bundle.root)})
    _bundle.seal(bundle)
    sealed = bundle.sbom.read_bytes()
    status = bundle.sbom.stat()
    bundle.sbom.write_bytes(sealed.replace(b"CycloneDX", b"CycloneDY"))
    os.utime(bundle.sbom, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert mend(bundle, full=True).changed and not bundle.sbom.exists()
    assert run_module("rlinf_sbom", {"bundle_dir": str(bundle.root)})["changed"]
    assert bundle.sbom.read_bytes() == sealed


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (f"{LOCK}/lock.json", "{}"),
        (f"{LOCK}/lock.json", "[1]"),
        ("records/tools.json", '{"wheels": {"3.10": [{}]}}'),
        ("records/assets.json", '{"one": 1}'),
        ("records/repositories.json", "nothing"),
        ("records/urls.json", "[1]"),
        ("apt/debian-12/amd64/packages.json", '{"release": "debian-12", "files": [{"filename": "git.deb"}]}'),
    ],
)
def test_a_damaged_record_is_named_and_nothing_is_written(run_module: Run, bundle: Bundle, path: str, damage: str) -> None:
    (bundle.root / path).write_text(damage, encoding="utf-8")
    with pytest.raises(ModuleFailed, match=f"{path} is damaged"):
        run_module("rlinf_sbom", {"bundle_dir": str(bundle.root)})
    assert not bundle.sbom.exists()


def test_without_a_bundle_it_says_what_to_do(run_module: Run, tmp_path: Path) -> None:
    arguments = {"bundle_dir": str(tmp_path / "none")}
    with pytest.raises(ModuleFailed, match=r"There is no bundle: .*rlinf\.offline\.download"):
        run_module("rlinf_sbom", arguments)
    assert run_module("rlinf_sbom", arguments, check=True)["changed"]
    assert not (tmp_path / "none").exists()


def test_killed_anywhere_there_is_the_former_one_or_the_new(bundle: Bundle, tmp_path: Path) -> None:
    bundle.sbom.write_bytes(b"former")

    def write() -> None:
        atomic_write(bundle.sbom, bill_of(bundle).content)

    wanted = bill_of(bundle).content
    points = kill_points(write, tmp_path / "trace")
    assert len(points) >= 2
    for point in points:
        bundle.sbom.write_bytes(b"former")
        assert killed_at(point, write)
        assert bundle.sbom.read_bytes() in (b"former", wanted)
        # what it left is neither sealed nor in the way
        assert bill_of(bundle).content == wanted
        write()
        assert bundle.sbom.read_bytes() == wanted
