# SPDX-License-Identifier: GPL-3.0-or-later
"""Which system packages the roles ask for: what nodes want, by the names of their releases, and from which mirrors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.rlinf.offline.plugins.filter.rlinf import FilterModule
from ansible_collections.rlinf.offline.plugins.module_utils import _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._survey import Survey
from tests.support.catalog import shipped

FILTERS = FilterModule().filters()
SETTINGS: dict[str, Any] = {
    "rlinf_apt_mirrors": {"ubuntu": "https://mirror.example/ubuntu"},
    "rlinf_catalog": {},
    "rlinf_enable_behavior": False,
    "rlinf_leave_out": [],
    "rlinf_mirror_repositories": [],
    "rlinf_platform": "x86_64-manylinux_2_31",
    "rlinf_python": "",
    "rlinf_releases": ["ubuntu-22.04"],
    "rlinf_skip_packages": [],
    "rlinf_system_packages": ["git"],
    "rlinf_system_packages_state": "auto",
    "rlinf_targets": ["reason"],
    "rlinf_update": [],
    "rlinf_venv_mode": "own",
    "rlinf_venv_path": "",
}


def releases(hosts: dict[str, dict[str, Any]], survey: str = "", **settings: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = FILTERS["rlinf_apt_releases"](hosts, list(hosts), {**SETTINGS, **settings}, shipped(), survey)
    return found


def test_a_bundle_holds_what_any_node_wants() -> None:
    """One that is to be left alone adds nothing; another release comes with whoever names it, by the names that it has there."""
    trixie = {
        "suites": {"debian": ["trixie"]},
        "components": ["main"],
        "keyring": "/k.gpg",
        "renames": {"libgl1-mesa-glx": "libgl1", "curl": ""},
    }
    nodes = {
        "plain": {"rlinf_system_packages": "git, curl"},
        "alone": {"rlinf_system_packages": ["mine"], "rlinf_system_packages_state": "ignored"},
        "other": {
            "rlinf_targets": ["openvla"],
            "rlinf_system_packages": ["curl"],
            "rlinf_catalog": {"releases": {"debian-13": trixie}},
            "rlinf_releases": ["debian-13"],
        },
    }
    jammy, debian = releases(nodes)
    assert (jammy["name"], jammy["architecture"], debian["name"]) == ("ubuntu-22.04", "amd64", "debian-13")
    assert {"build-essential", "curl", "git", "libegl1", "libgl1-mesa-glx"} < set(jammy["packages"]) and "mine" not in jammy["packages"]
    assert {"libgl1", "libegl1"} < set(debian["packages"]) and not {"curl", "git", "libgl1-mesa-glx"} & set(debian["packages"])
    (source,) = jammy["sources"]
    assert source["url"] == "https://mirror.example/ubuntu" and source["suites"] == ["jammy", "jammy-updates", "jammy-security"]
    assert debian["sources"][0]["url"] is None


def test_without_any_named_those_of_a_survey_count(tmp_path: Path) -> None:
    systems: dict[str, dict[str, Any]] = {
        "a": {"release": "debian-12", "architecture": "amd64", "state": "Package: a\n"},
        "b": {"release": "rocky-9", "architecture": None, "state": None},
        "c": {"release": "ubuntu-22.04", "architecture": "arm64", "state": "Package: a\n"},
        "d": {"release": "gentoo-1", "architecture": "amd64", "state": "Package: a\n"},
    }
    survey = tmp_path / "survey.json"
    assert releases({"node": {}}, str(survey), rlinf_releases=[]) == []
    survey.write_bytes(Survey({}, {}).with_nodes({host: {"system": system} for host, system in systems.items()}).content)
    assert [release["name"] for release in releases({"node": {}}, str(survey), rlinf_releases=[])] == ["debian-12"]
    assert [release["name"] for release in releases({"node": {}}, str(survey))] == ["ubuntu-22.04"]
    assert [r["architecture"] for r in releases({"node": {}}, str(survey), rlinf_releases=[], rlinf_platform="aarch64-manylinux_2_31")] == [
        "arm64"
    ]


PACKAGES = {"release": "debian-12", "architecture": "amd64", "definition": "0", "index": "0", "files": []}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rlinf_apt_mirrors": ["https://mirror.example"]}, "rlinf_apt_mirrors must map names of mirrors to URLs"),
        ({"rlinf_apt_mirrors": {"ubuntu": "file:///srv"}}, "rlinf_apt_mirrors: ubuntu: 'file:///srv' has the scheme"),
        ({"rlinf_platform": "ppc64le-manylinux_2_31"}, "rlinf_platform"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_fetched(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(AnsibleFilterError, match=text):
        releases({"node": {}}, **settings)
    (fault,) = FILTERS["rlinf_faults"]({"node": {}}, ["node"], {**SETTINGS, **settings}, shipped(), True)
    assert text in fault


@pytest.mark.parametrize(
    ("changes", "state", "comes"),
    [
        ({}, "auto", True),
        ({"uid": 1000}, "auto", False),
        ({"uid": 1000}, "present", True),
        ({}, "checked", False),
        ({}, "ignored", False),
        ({"tools": {"rsync": {"path": "/usr/bin/rsync"}}}, "present", False),
        ({"system": {"release": "rocky-9", "architecture": None}}, "present", False),
        ({"system": {"release": "ubuntu-22.04", "architecture": "amd64"}}, "present", False),
    ],
)
def test_rsync_comes_before_the_bundle_where_it_is_not(tmp_path: Path, changes: dict[str, Any], state: str, comes: bool) -> None:
    folder = tmp_path / "apt" / "debian-12" / "amd64"
    folder.mkdir(parents=True)
    (folder / "packages.json").write_text(json.dumps({**PACKAGES, "packages": ["git", "rsync"], "before_push": ["rsync_3_amd64.deb"]}))
    node = {"uid": 0, "tools": {"rsync": None}, "system": {"release": "debian-12", "architecture": "amd64"}, **changes}
    found = FILTERS["rlinf_before_push"](node, str(tmp_path), state)
    wanted = [f"apt/debian-12/amd64/{name}" for name in ("rsync_3_amd64.deb", "Packages", "Release", "packages.json")]
    assert found == (wanted if comes else [])


def test_what_comes_before_the_bundle_is_judged_where_signers_are_trusted(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "bundle")
    folder = bundle.apt("debian-12", "amd64")
    names = [str((folder / name).relative_to(bundle.root)) for name in ("rsync_3_amd64.deb", "packages.json")]
    folder.mkdir(parents=True)
    for name in names:
        (bundle.root / name).write_text(name)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers = f"me {key.with_name('key.pub').read_text()}"

    def signed(trusted: str = signers, given: list[str] = names) -> Any:
        return FILTERS["rlinf_signed"](given, str(bundle.root), trusted)

    _bundle.seal(bundle)
    assert signed("") == names
    with pytest.raises(AnsibleFilterError, match="is not signed, and only what a trusted signer has signed is accepted"):
        signed()
    _bundle.seal(bundle, key=key)
    assert signed() == names
    # anything else may be as it likes here: it is verified on the node
    (folder / "other.deb").write_text("other")
    assert signed() == names
    with pytest.raises(AnsibleFilterError, match=r"1 extra: apt/debian-12/amd64/other\.deb"):
        signed(given=[*names, "apt/debian-12/amd64/other.deb"])
    (folder / "rsync_3_amd64.deb").write_text("RSYNC".ljust(len(names[0])))
    with pytest.raises(AnsibleFilterError, match=r"1 damaged: apt/debian-12/amd64/rsync_3_amd64\.deb"):
        signed()
    (folder / "rsync_3_amd64.deb").unlink()
    with pytest.raises(AnsibleFilterError, match=r"1 missing: apt/debian-12/amd64/rsync_3_amd64\.deb"):
        signed()
    assert signed("") == names
