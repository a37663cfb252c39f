# SPDX-License-Identifier: GPL-3.0-or-later
"""The troubles that a user meets, each provoked through a playbook, and the text that answers it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.playbooks import Said, play
from tests.support.upstream import Fault, Upstream

COMMIT = "a" * 40
TARGET = {"python": "3.11", "steps": [{"uv_sync": []}]}
TORCH = "torch-2.6.0-py3-none-any.whl"


@dataclass
class Site:
    """A bastion and a node on this machine, with a bundle that tests write."""

    root: Path

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    def inventory(self, **variables: Any) -> Path:
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "rlinf_targets": ["ours"],
            "rlinf_catalog": {"targets": {"ours": TARGET}},
            **variables,
        }
        bastion = {"rlinf_bundle_dir": str(self.bundle), "rlinf_prefix": str(self.root / "bastion")}
        node = {"rlinf_prefix": str(self.root / "node"), "rlinf_bundle_dir": str(self.root / "node" / "bundle")}
        groups = {"rlinf_bastion": {"hosts": {"bastion": bastion}}, "rlinf_nodes": {"hosts": {"gpu01": node}}}
        path = self.root / "inventory.yml"
        path.write_text(yaml.safe_dump({"all": {"vars": common, "children": groups}}))
        return path

    def fails(self, playbook: str, **variables: Any) -> str:
        """Run a playbook that must fail, without a traceback and without a change; return what it said on one line."""
        before = sorted(path for path in self.root.rglob("*") if "ansible" not in path.relative_to(self.root).parts[:1])
        said: Said = play(self.inventory(**variables), f"rlinf.offline.{playbook}")
        output = said.output + said.errors
        assert said.status and "Traceback" not in output, output
        after = sorted(path for path in self.root.rglob("*") if "ansible" not in path.relative_to(self.root).parts[:1])
        assert set(after) - set(before) <= {self.root / "inventory.yml"}, output
        return " ".join(output.split())

    def seal(self, *packages: Mapping[str, Any], size: int = 1000, **lock: Any) -> None:
        """Write a bundle whose target holds these packages: a manifest and a lock, as far as a preflight reads them."""
        folder = self.bundle / "targets" / COMMIT / "ours"
        folder.mkdir(parents=True)
        entries = [
            {"version": "1", "kind": "index", "size": size, "sha256": "1" * 64, "path": f"wheelhouse/index/{package['name']}", **package}
            for package in packages
        ]
        text = {"python": "3.11", "platform": f"{platform.machine()}-manylinux_2_17", "packages": entries, **lock}
        (folder / "lock.json").write_text(json.dumps(text))
        files = {entry["path"]: {"size": size, "sha256": entry["sha256"]} for entry in entries}
        repositories = {"github.com/RLinf/RLinf.git": {"url": "https://github.com/RLinf/RLinf.git", "commit": COMMIT}}
        manifest = {"format": 1, "serial": 1, "tools": {}, "files": files, "repositories": repositories}
        (self.bundle / "bundle.json").write_text(json.dumps(manifest))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    (tmp_path / "served").mkdir()
    with Upstream(tmp_path / "served") as server:
        yield server


def wheel(filename: str, **more: Any) -> dict[str, Any]:
    name, version = filename.split("-")[:2]
    return {"name": name.replace("_", "-"), "version": version, "path": f"wheelhouse/index/{filename}", **more}


def test_no_bundle(site: Site) -> None:
    said = site.fails("preflight")
    assert "neither the bastion nor the node has one" in said and "Run rlinf.offline.download" in said and "Nothing was changed" in said


def test_no_lock_of_the_target(site: Site) -> None:
    site.seal()
    (site.bundle / "targets" / COMMIT / "ours" / "lock.json").unlink()
    assert "has no lock of it" in site.fails("preflight")


def test_a_clone_that_is_refused(site: Site, upstream: Upstream) -> None:
    upstream.always("/git/*/info/refs", Fault(status=401))
    repository = {"url": "https://git.example/team/private.git"}
    catalog = {"repositories": {"RLinf": repository}, "targets": {"ours": TARGET}}
    rewrites = {"https://git.example/": f"{upstream.url}/git/git.example/"}
    said = " ".join(play(site.inventory(rlinf_catalog=catalog, rlinf_url_rewrites=rewrites), "rlinf.offline.download").output.split())
    assert "The repository may be private" in said and "SSH URL" in said and "a token" in said


MISFITS = {
    "flash_attn-2.7-cp310-cp310-linux_x86_64.whl": "for cp310-cp310",
    "apex-0.1-cp311-cp311t-linux_x86_64.whl": "for cp311-cp311t",
    "isaacsim-4.5-cp311-none-manylinux_2_99_x86_64.whl": "for manylinux_2_99_x86_64, and this node has glibc",
    "a-2.7+cu12torch2.5cxx11abiFALSE-py3-none-any.whl": "built for torch 2.5 and CUDA 12, the lock holds torch 2.6.0",
    "b-2.7+cu11torch2.6cxx11abiFALSE-py3-none-any.whl": "built for torch 2.6 and CUDA 11",
}


def test_wheels_that_do_not_fit(site: Site) -> None:
    """Every one is named with what is wrong with it, and with the wheel that would fit, where the bundle has it."""
    fitting = wheel("flash_attn-2.7-cp311-cp311-manylinux_2_17_x86_64.whl", name="other")
    site.seal(*map(wheel, MISFITS), wheel(TORCH), wheel("nvidia_cublas_cu12-12.4-py3-none-any.whl"), fitting)
    said = site.fails("preflight")
    for filename, found in MISFITS.items():
        assert f"{filename}: {found}" in said
    assert "flash_attn-2.7-cp311-cp311-manylinux_2_17_x86_64.whl would fit" in said and "Nothing was changed" in said


def test_a_machine_too_old(site: Site) -> None:
    site.seal(platform=f"{platform.machine()}-manylinux_2_99")
    said = site.fails("preflight")
    assert "but ours needs 2.99" in said and "rlinf_platform" in said


def test_a_compiler_that_is_not_there(site: Site) -> None:
    source = {"name": "engine", "kind": "source", "path": "wheelhouse/source/1/engine-1.tar.gz"}
    site.seal(source, build_on_node={"engine": {"needs": ["a-compiler-that-is-nowhere"]}})
    said = site.fails("preflight")
    assert "engine for ours" in said and "takes a-compiler-that-is-nowhere" in said
    assert "rlinf.offline.collect" in said and "CUDA toolkit" in said and "rlinf_skip_packages: [engine]" in said


def test_too_little_room(site: Site) -> None:
    site.seal(wheel(TORCH), size=10**16)
    said = site.fails("preflight")
    assert "disk" in said and "about" in said and "needed" in said and "Make room, or set rlinf_prefix." in said


ENTRIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown repository": ("download", {"targets": {"ours": {**TARGET, "project": "Nowhere"}}}, "there is no repository 'Nowhere'"),
    "option for a ref": (
        "download",
        {"repositories": {"evil": {"url": "https://h/o/n.git", "version": "--upload-pack=x"}}},
        "repository evil",
    ),
    "transport": ("preflight", {"repositories": {"evil": {"url": "ext::sh -c id"}}}, "repository evil"),
    "no wheel": ("preflight", {"wheels": {"evil": {"url": "https://h/x.zip"}}}, "wheel evil: 'x.zip' is not the name of a wheel"),
    "unknown key": ("preflight", {"targets": {"ours": {**TARGET, "stepz": []}}}, "target ours: unknown key stepz"),
    "a cycle": ("download", {"targets": {"ours": {"extends": "theirs"}, "theirs": {"extends": "ours"}}}, "ours"),
    "a licence": (
        "download",
        {"targets": {"ours": {**TARGET, "licences": {"rlinf_accept_it": "Its licence"}}}},
        "set rlinf_accept_it: true",
    ),
    "a licence on a node": (
        "preflight",
        {"targets": {"ours": {**TARGET, "licences": {"rlinf_accept_it": "Its licence"}}}},
        "Its licence has",
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_bad_entry_is_refused_before_anything(site: Site, entry: str) -> None:
    """Neither bastion nor node is changed, and the message names the entry."""
    playbook, catalog, text = ENTRIES[entry]
    said = site.fails(playbook, rlinf_catalog={"targets": {"ours": TARGET}, **catalog})
    assert text in said


def test_a_target_that_is_none(site: Site) -> None:
    assert "There is no target 'openvl'. Known targets: " in site.fails("preflight", rlinf_targets="openvl")


def test_an_unreachable_node_holds_back_no_other(site: Site) -> None:
    """The table names both: the one that could not be asked, and what is wrong with the other."""
    site.seal(wheel(TORCH), size=10**16)
    inventory = site.inventory()
    data = yaml.safe_load(inventory.read_text())
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_common_args": "-o BatchMode=yes"}
    data["all"]["children"]["rlinf_nodes"]["hosts"]["gpu02"] = gone
    inventory.write_text(yaml.safe_dump(data))
    said = play(inventory, "rlinf.offline.preflight", env={"HOME": os.environ.get("HOME", "/")})
    output = " ".join(said.output.split())
    assert "gpu02 connection could not be asked" in output and "gpu01 disk" in output
