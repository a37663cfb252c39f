# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The troubles that a user meets, each provoked through a playbook, and the text that answers it.

A playbook takes seconds to start, so that troubles of nodes share one run: each has a node of its own, and all are told together.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.playbooks import FOR_PROGRAMS, Said, environment, play
from tests.support.upstream import Fault, Upstream

COMMIT = "a" * 40
TARGET = {"python": "3.11", "steps": [{"uv_sync": []}]}
TORCH = "torch-2.6.0-py3-none-any.whl"
CUBLAS = "nvidia_cublas_cu12-12.4-py3-none-any.whl"
COMPARE = "Compare the nodes with what the bundle holds"
HELD_BACK = "Nothing was changed. Mend what the table above says, or leave those nodes out with --limit."


@dataclass
class Site:
    """A bastion and nodes on this machine, with a bundle that tests write."""

    root: Path
    targets: list[str] = field(default_factory=list)

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    def inventory(self, nodes: Mapping[str, Mapping[str, Any]] | None = None, **variables: Any) -> Path:
        """Write the inventory, with the variables of each node; all of them have those targets that tests have locked."""
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "rlinf_targets": "ours",
            "rlinf_catalog": {"targets": dict.fromkeys(self.targets or ["ours"], TARGET)},
            **variables,
        }
        bastion = {"rlinf_bundle_dir": str(self.bundle), "rlinf_prefix": str(self.root / "bastion")}
        place = {"rlinf_prefix": str(self.root / "{{ inventory_hostname }}"), "rlinf_bundle_dir": ""}
        hosts = {name: {**place, **own} for name, own in (nodes or {"gpu01": {}}).items()}
        groups = {"rlinf_bastion": {"hosts": {"bastion": bastion}}, "rlinf_nodes": {"hosts": hosts}}
        path = self.root / "inventory.yml"
        path.write_text(yaml.safe_dump({"all": {"vars": common, "children": groups}}, sort_keys=False))
        return path

    def fails(self, playbook: str, inventory: Path, *extra: str, env: Mapping[str, str] | None = None) -> Said:
        """Run a playbook that must fail, without a traceback, an error of a template, or a change."""
        before = self._files()
        said = play(inventory, f"rlinf.offline.{playbook}", *extra, env=env)
        output = said.output + said.errors
        assert said.status, output
        assert not any(word in output for word in ("Traceback", "while templating", "filter plugin", "Error while resolving")), output
        assert self._files() == before, output
        return said

    def _files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.relative_to(self.root).parts[0] != "ansible")

    def lock(self, target: str, *packages: Mapping[str, Any], size: int = 1000, **lock: Any) -> None:
        """Lock a target with these packages: a lock and a manifest, as far as a preflight reads them."""
        self.targets.append(target)
        folder = self.bundle / "targets" / COMMIT / target
        folder.mkdir(parents=True)
        number = len(self.targets)
        entries = [
            {"version": "1", "kind": "index", "size": size, "sha256": f"{number:032x}{index:032x}", **package}
            for index, package in enumerate(packages)
        ]
        text = {"python": "3.11", "platform": f"{platform.machine()}-manylinux_2_17", "packages": entries, **lock}
        (folder / "lock.json").write_text(json.dumps(text))
        files = {entry["path"]: {"size": 1000, "mtime_ns": 1, "sha256": entry["sha256"]} for entry in entries}
        manifest = self.bundle / "bundle.json"
        known = json.loads(manifest.read_text())["files"] if manifest.is_file() else {}
        repositories = {"github.com/RLinf/RLinf.git": {"url": "https://github.com/RLinf/RLinf.git", "commit": COMMIT}}
        manifest.write_text(json.dumps({"format": 1, "serial": 1, "tools": {}, "files": {**known, **files}, "repositories": repositories}))


def words(text: str) -> str:
    return " ".join(text.split())


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


# -- no local repositories -----------------------------------------------------------------------------------------------------


def test_no_bundle_at_all(site: Site) -> None:
    """An empty directory is none; and a node that is left out of the run is not spoken of."""
    site.bundle.mkdir()
    inventory = site.inventory({"gpu01": {}, "gpu02": {}}, ansible_connection="ssh")
    said = words(site.fails("site", inventory, "--limit", "gpu02", "--connection", "local", "-e", "ansible_connection=local").output)
    assert f"neither the bastion nor the node has one (looked in {site.bundle} and {site.root}/gpu02/bundle)" in said.replace('", " ', " ")
    assert "-> Run rlinf.offline.download, or correct" in said and "rlinf_bundle_dir." in said
    assert HELD_BACK in said and "gpu01" not in said and "PLAY [Bring" not in said


# -- a clone that is refused ---------------------------------------------------------------------------------------------------


def test_a_clone_that_is_refused(site: Site, upstream: Upstream) -> None:
    """By HTTP (status 401) and by SSH (a stand-in for ssh, which says what GitHub says)."""
    upstream.always("/git/*/info/refs", Fault(status=401))
    ssh = site.root / "ssh"
    ssh.write_text("#!/bin/sh\necho 'git@git.example: Permission denied (publickey).' >&2\nexit 255\n")
    ssh.chmod(0o755)
    urls = {"secret": "https://git.example/team/secret.git", "keyed": "git@git.example:team/keyed.git"}
    catalog = {"repositories": {"RLinf": {"url": urls["secret"]}, "keyed": {"url": urls["keyed"]}}, "targets": {"ours": TARGET}}
    rewrites = {"https://git.example/": f"{upstream.url}/git/git.example/"}
    inventory = site.inventory(rlinf_catalog=catalog, rlinf_url_rewrites=rewrites, rlinf_mirror_repositories=["keyed"])
    path = f"{site.root}:{environment(site.root, {})['PATH']}"
    said = words(play(inventory, "rlinf.offline.download", env={"PATH": path}).output)
    for url in urls.values():
        assert url in said
    assert said.count("The repository may be private") >= 2 and "an SSH URL" in said and "a token" in said


# -- nodes that do not fit -----------------------------------------------------------------------------------------------------

FITTING = "flash_attn-2.7-cp311-cp311-manylinux_2_17_x86_64.whl"
UNFIT = {
    "flash_attn-2.7-cp310-cp310-linux_x86_64.whl": ("for cp310-cp310", f"{FITTING} would fit"),
    "apex-0.1-cp311-cp311t-linux_x86_64.whl": ("for cp311-cp311t", "apex-0.1-cp311-cp311-linux_x86_64.whl would fit"),
    "isaacsim-4.5-cp311-none-manylinux_2_99_x86_64.whl": ("for manylinux_2_99_x86_64, and this node has glibc 2.", "One for cp311-cp311"),
    "robots-1-cp311-cp311-win_amd64.whl": ("for win_amd64", "One for cp311-cp311"),
    "a-2.7+cu12torch2.5cxx11abiFALSE-py3-none-any.whl": (
        "built for torch 2.5 and CUDA 12, the lock holds torch 2.6.0 with CUDA 12",
        "A wheel of a with cu12torch2.6 in its version would fit",
    ),
    "b-2.7+cu11torch2.6cxx11abiFALSE-py3-none-any.whl": (
        "built for torch 2.6 and CUDA 11, the lock holds torch 2.6.0 with CUDA 12",
        "A wheel of b with cu12torch2.6 in its version would fit",
    ),
}


def test_everything_that_does_not_fit_is_told_together(site: Site) -> None:
    """What the wheels, the machine, the compiler, the room, driver, GPU and interpreter of each node lack; and nothing is changed."""
    site.lock("unfit", *map(wheel, UNFIT), wheel(TORCH), wheel(CUBLAS), wheel(FITTING, name="other"))
    kernels = site.bundle / "records" / "kernels.json"
    kernels.parent.mkdir()
    kernels.write_text(json.dumps({f"wheelhouse/index/{TORCH}": {"sha256": "0", "code": ["9.0", "9.0+PTX"]}}))
    site.lock("newer", platform=f"{platform.machine()}-manylinux_2_99")
    source = {"name": "engine", "kind": "source", "path": "wheelhouse/source/1/engine-1.tar.gz"}
    site.lock("compiled", source, build_on_node={"engine": {"needs": ["a-compiler", "sh"]}})
    site.lock("large", wheel("large-1-py3-none-any.whl"), size=10**16)
    site.targets.append("unlocked")
    catalog = {"targets": dict.fromkeys(site.targets, TARGET)}
    catalog["targets"]["compiled"] = {**TARGET, "build_on_node": {"engine": {"needs": ["a-compiler", "sh"]}}}
    python = {"rlinf_python": {"newer": "/nowhere/python3.11"}, "rlinf_skip_packages": "engin"}
    nodes: dict[str, dict[str, Any]] = {
        "gpu-unfit": {"rlinf_targets": ["unfit"]},
        "gpu-rest": {"rlinf_targets": site.targets[1:], **python},
        "gpu-python": {"rlinf_targets": [], "ansible_python_interpreter": "/nowhere/python3"},
        "gpu-gone": {"rlinf_targets": [], "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9},
    }
    driver = site.root / "nvidia-smi"  # a stand-in: a driver of before CUDA 12
    driver.write_text('#!/bin/sh\nif [ "$1" ]; then echo "0, NVIDIA A100, 81920, 515.65.01, 8.0"; else echo "CUDA Version: 11.7"; fi\n')
    driver.chmod(0o755)
    path = f"{site.root}:{environment(site.root, {})['PATH']}"
    said = site.fails("site", site.inventory(nodes, rlinf_catalog=catalog), env={**FOR_PROGRAMS, "PATH": path})

    told: dict[str, dict[str, tuple[str, str]]] = {}
    rows = next(result for host in nodes if (result := said.results(host).get(COMPARE)))["ansible_facts"]["__rlinf_misfits"]
    for row in rows:
        key = row["found"].partition(":")[0] if row["what"].startswith("wheel") else row["what"]
        told.setdefault(row["node"], {})[key] = (row["found"], row["remedy"])

    unfit = told["gpu-unfit"]
    for filename, (found, remedy) in UNFIT.items():
        assert unfit[filename][0].startswith(f"{filename}: {found}") and unfit[filename][1].startswith(remedy)
    assert unfit["NVIDIA driver"] == ("515.65.01", "Builds for CUDA 12 need 525.60.13 or newer: install such a driver.")
    assert unfit["GPU for unfit"] == (
        f"NVIDIA A100 has compute capability 8.0; {TORCH} holds code for 9.0, 9.0+PTX",
        "Lock a PyTorch for an older CUDA (rlinf_torch_backend, or another version of the project), or leave this node out.",
    )
    assert set(unfit) == {*UNFIT, "NVIDIA driver", "GPU for unfit"}
    rest = told["gpu-rest"]
    assert rest["target unlocked"] == (
        f"the bundle {site.bundle} has no lock of it",
        "Name it in rlinf_targets and run rlinf.offline.download.",
    )
    assert rest["glibc"][0].endswith("but newer needs 2.99") and "rlinf_platform" in rest["glibc"][1]
    assert rest["engine for compiled"] == (
        "is compiled on a node, and a-compiler is not there",
        "Install on a node that has it and run rlinf.offline.collect; or install the CUDA toolkit; or set rlinf_skip_packages: [engine].",
    )
    assert "packages 32000000.0 GB" in rest["disk"][0] and rest["disk"][1] == "Make room, or set rlinf_prefix."
    assert rest["Python /nowhere/python3.11"][1] == "Correct rlinf_python."
    assert rest["rlinf_skip_packages"][0] == "engin is in no lock of the bundle"
    assert len(rest) == 6
    # whoever could not be asked is named, and holds back no one
    assert told["gpu-python"]["connection"][0].startswith("could not be asked") and "gpu-gone" in told
    assert all(not row["fatal"] for row in rows if row["what"] == "connection")
    assert any(result.get("msg") == HELD_BACK for host in nodes for result in said.results(host).values())


# -- entries that cannot be used -----------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-repository": ({"targets": {"ours": {**TARGET, "project": "Nowhere"}}}, "target ours: there is no repository 'Nowhere'"),
    "option-for-ref": (
        {"repositories": {"evil": {"url": "https://h/o/n.git", "version": "--upload-pack=x"}}},
        "repository evil: '--upload",
    ),
    "transport": ({"repositories": {"evil": {"url": "ext::sh -c id"}}}, "repository evil: "),
    "option-for-url": ({"repositories": {"evil": {"url": "--upload-pack=x"}}}, "repository evil: "),
    "no-wheel": ({"wheels": {"evil": {"url": "https://h/x.zip"}}}, "wheel evil: 'x.zip' is not the name of a wheel"),
    "unknown-key": ({"targets": {"ours": {**TARGET, "stepz": []}}}, "target ours: unknown key stepz"),
    "a-cycle": (
        {"targets": {"ours": {"extends": "theirs"}, "theirs": {"extends": "ours"}}},
        "target theirs: extends itself: ours -> theirs -> ours",
    ),
}
MEANT: dict[str, tuple[dict[str, Any], str]] = {
    "no-target": ({"rlinf_targets": "openvl"}, "rlinf_targets: There is no target 'openvl'. Did you mean 'openvla'? Known targets: "),
    "no-names": (
        {"rlinf_targets": {"openvla": True}},
        "rlinf_targets must be a list of names, or a string with commas; it is {'openvla': True}",
    ),
    "no-python": ({"rlinf_python": "python3.11"}, "rlinf_python: 'python3.11' is neither a version of Python, like '3.11' in quotes, nor"),
    "a-float": ({"rlinf_python": 3.1}, "rlinf_python: 3.1 is neither a version of Python"),
    "no-minor": ({"rlinf_python": {"3.7": "/usr/bin/python3"}}, "rlinf_python: '3.7' is neither a target nor a minor version"),
    "other-minor": ({"rlinf_python": "3.10"}, "rlinf_python: 3.10 is not the Python 3.11 that target ours is locked for"),
    "no-asset": ({"rlinf_leave_out": ["nothing"]}, "rlinf_leave_out: 'nothing' is neither a wheel nor an asset"),
    "no-update": ({"rlinf_update": ["our"]}, "rlinf_update: There is no target 'our'. Did you mean 'ours'?"),
    "no-mirror": ({"rlinf_mirror_repositories": ["nothing"]}, "rlinf_mirror_repositories: there is no repository 'nothing'"),
    "no-release": (
        {"rlinf_releases": ["ubuntu-20.04"]},
        "rlinf_releases: there is no release 'ubuntu-20.04' in the catalogue; it knows debian-12",
    ),
    "no-package": ({"rlinf_system_packages": ["git", "-o"]}, "rlinf_system_packages: '-o' is not the name of a package"),
    "no-state": (
        {"rlinf_system_packages_state": "latest"},
        "rlinf_system_packages_state: 'latest' is none of auto, present, checked, ignored",
    ),
    "no-path": ({"rlinf_venv_mode": "existing"}, "rlinf_venv_mode is existing, so rlinf_venv_path must name the environment"),
}


@pytest.mark.parametrize("playbook", ["preflight", "download"])
def test_a_bad_entry_is_refused_before_anything(site: Site, playbook: str) -> None:
    """All are named with the node that has them, in one error, before bastion or node are looked at."""
    nodes = {name: {"rlinf_catalog": {"targets": {"ours": TARGET}, **catalog}} for name, (catalog, _text) in BAD.items()}
    nodes |= {name: variables for name, (variables, _text) in MEANT.items()}
    said = site.fails(playbook, site.inventory(nodes, rlinf_catalog={"targets": {"ours": TARGET}}), env=FOR_PROGRAMS)
    host = "bastion" if playbook == "download" else next(iter(nodes))
    results = said.results(host)
    lines = {
        node: text for node, _colon, text in (line.partition(": ") for line in results["Refuse what cannot be meant"]["msg"].split("\n"))
    }
    for name, (_given, text) in {**BAD, **MEANT}.items():
        # what another node says word for word is told with it
        own = next((line for nodes_, line in lines.items() if name in nodes_.split(", ")), "")
        assert own.startswith(text), (name, own)
    assert "Find out what the host is and has" not in results


@pytest.mark.parametrize("playbook", ["preflight", "download"])
def test_what_was_not_accepted_is_asked_for(site: Site, playbook: str) -> None:
    catalog = {"targets": {"ours": {**TARGET, "licences": {"rlinf_accept_it": "Its licence"}}}}
    said = words(site.fails(playbook, site.inventory(rlinf_catalog=catalog)).output)
    assert "Its licence has to be accepted by whoever installs this." in said and "set rlinf_accept_it: true" in said


def test_what_cannot_be_fetched_is_refused_before_anything(site: Site) -> None:
    url = "/kit/kit-1-py3-none-any.whl"
    target = {"python": "3.11", "steps": [{"wheels": ["kit"]}], "settings": {"rlinf_index": "the URL of its index"}}
    inventory = site.inventory(rlinf_catalog={"targets": {"ours": target}, "wheels": {"kit": {"url": url}}})
    said = words(site.fails("download", inventory).output)
    assert f"target ours: kit cannot be fetched, since the URL '{url}' has no host. For this target, set rlinf_index to the URL of" in said
