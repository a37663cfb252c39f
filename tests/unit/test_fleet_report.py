# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a fleet through the real main() of its modules, with generated nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_bytes, sha256_file, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._report_info import share_packages
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
TEMPLATE = Path(__file__).resolve().parents[2] / "roles" / "report" / "templates" / "report.html.j2"
MIRROR = "github.com/RLinf/LIBERO.git"
TARGETS = [f"target-{number}" for number in range(6)]
COMMIT = "c0" * 20
HOSTILE = '"><script>alert(1)</script>'


def package(name: str, version: str = "1.0") -> dict[str, Any]:
    return {"version": version, "sha256": sha256_bytes(f"{name} {version}".encode()), "kind": "wheels"}


def environment(*names: str, **changes: Any) -> dict[str, Any]:
    made = {"digest": "d" * 64, "created": 1, "seconds": 61.4, "python": "3.11.14", "damaged": [], "skipped": [], "remote": {}}
    made |= {"commit": COMMIT, "worktrees": {"LIBERO": "1" * 40, "RLinf": None}}
    return {**made, "packages": {name: package(name) for name in names}, **changes}


def node(targets: dict[str, Any]) -> dict[str, Any]:
    gpus = {"driver": "535.104.05", "cuda": "12.2", "devices": [{"name": "H100"}] * 8, "problem": None}
    bundle = {"serial": 3, "digest": "b" * 64, "verified": True}
    return {
        "prefix": "/opt/rlinf",
        "distribution": {"name": "A Linux"},
        "glibc": "2.35",
        "bundle": bundle,
        "gpus": gpus,
        "targets": targets,
    }


def lock_of(target: str, packages: list[dict[str, Any]]) -> dict[str, Any]:
    project = {"repository": "RLinf", "url": "https://github.com/RLinf/RLinf.git", "version": "main", "commit": COMMIT}
    closure = [*(package["path"] for package in packages), f"repos/{MIRROR}/"]
    about = {"target": target, "python": "3.11", "platform": "x86_64-unknown-linux-gnu", "definition": "0" * 64}
    return {**about, "project": project, "packages": packages, "build": [], "closure": closure}


@pytest.fixture
def arguments(tmp_path: Path, run_module: Run) -> dict[str, Any]:
    """A sealed bundle with a lock for each target, and no nodes yet."""
    bundle = tmp_path / "bundle"
    for target in TARGETS:
        (bundle / "targets" / COMMIT / target).mkdir(parents=True)
        packages = [
            {"name": name, **package(name), "kind": "index", "path": f"wheelhouse/index/{name}.whl", "size": 10, "source": {"url": url}}
            for name, url in (("torch", "https://user:secret@index.example/torch.whl"), ("six", "https://index.example/six.whl"))
        ]
        write_json(bundle / "targets" / COMMIT / target / "lock.json", lock_of(target, packages))
    files = {
        f"wheelhouse/index/{name}.whl": {"size": size, "sha256": "0" * 64, "mtime_ns": 1}
        for name, size in (("torch", 9_000_000), ("six", 12_000))
    }
    files |= {f"repos/{MIRROR}/objects/pack/{name}": {"size": 500, "sha256": "0" * 64, "mtime_ns": 1} for name in ("one.pack", "two.pack")}
    repository = {"url": "https://user:secret@github.com/RLinf/LIBERO.git", "version": "main", "commit": "1" * 40, "default_branch": "main"}
    (bundle / "records").mkdir()
    write_json(bundle / "records" / "repositories.json", {MIRROR: {**repository, "cut_off": None}})
    asset = {"url": "https://assets.example/bridge.zip", "sha256": "e" * 64, "strip": 0, "tree": "f" * 64}
    write_json(bundle / "records" / "assets.json", {"bridge": asset})
    run_module("rlinf_sbom", {"bundle_dir": str(bundle)})
    write_json(bundle / "bundle.json", {"format": 1, "serial": 3, "files": files, "repositories": {}})
    return {"path": str(tmp_path / "report"), "bundle_dir": str(bundle), "template": str(TEMPLATE), "nodes": {}}


class Tags(HTMLParser):
    """Collects the tags of a page, and what it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "action", "data")]


def test_quad(arguments: dict[str, Any], run_module: Run, tree_hash: Callable[..., Any]) -> None:
    nodes = {"a": {"wanted": TARGETS[:1], "node": node({TARGETS[0]: environment("torch", "six")})}}
    arguments = {**arguments, **share_packages(nodes)}
    folder = Path(arguments["path"])
    would = run_module("rlinf_report", arguments, check=True, diff=True)
    assert would["changed"] and "a target-0: installed" in would["diff"]["after"] and not folder.exists()
    assert run_module("rlinf_report", arguments)["changed"]
    before = tree_hash(folder, mtimes=True)
    assert not run_module("rlinf_report", arguments, check=True)["changed"]
    assert not run_module("rlinf_report", arguments)["changed"]
    assert tree_hash(folder, mtimes=True) == before and len(before) == 2


def test_states_with_the_worst_first(arguments: dict[str, Any], run_module: Run) -> None:
    first = TARGETS[0]
    others = {
        "installed": environment("torch", "six"),
        "skipping": environment("torch", skipped=["six"]),
        "other": environment("torch", "six", "more"),
        "damaged": environment("torch", "six", damaged=["torch"]),
        "stampless": {"problem": "its stamp is not there"},
    }
    nodes: dict[str, Any] = {name: {"wanted": [first], "node": node({first: found})} for name, found in others.items()}
    nodes["bare"] = {"wanted": [first], "node": node({})}
    nodes["unasked"] = {"wanted": [], "node": node({first: environment("torch", "six")})}
    nodes["gone"] = {"wanted": [first], "node": None, "problem": "no route to host"}
    run_module("rlinf_report", {**arguments, **share_packages(nodes)})
    report = json.loads((Path(arguments["path"]) / "report.json").read_text())
    assert [(row["host"], row["targets"][first]["state"]) for row in report["nodes"]] == [
        ("gone", "unreachable"),
        ("damaged", "damaged"),
        ("stampless", "damaged"),
        ("bare", "missing"),
        ("other", "other lock"),
        ("installed", "installed"),
        ("skipping", "installed"),
        ("unasked", "not asked for"),
    ]
    assert [row["targets"][first]["seconds"] for row in report["nodes"]] == [None, 61.4, None, None, 61.4, 61.4, 61.4, 61.4]
    assert report["nodes"][4]["targets"][first]["reason"] == "differs in more"
    assert report["bundle"]["bytes"] == 9_013_000 and "secret" not in json.dumps(report)


def test_200_nodes_of_6_targets_and_hostile_names(arguments: dict[str, Any], run_module: Run) -> None:
    nodes: dict[str, Any] = {
        f"gpu{number:03}": {"wanted": TARGETS, "node": node({name: environment("torch", "six") for name in TARGETS})}
        for number in range(199)
    }
    nodes[HOSTILE] = {"wanted": [HOSTILE], "node": node({HOSTILE: environment(HOSTILE, python=HOSTILE)})}
    assert run_module("rlinf_report", {**arguments, **share_packages(nodes)})["counts"]["installed"] == 199 * 6 + 1
    text = (Path(arguments["path"]) / "report.html").read_text()
    page = Tags(text)
    assert page.tags.count("script") == 1 and HOSTILE not in text and page.loaded == []
    # nodes, durations, two packages, a repository and an asset of the bundle, two repositories on the nodes
    assert page.tags.count("tr") == (1 + 200) + (1 + 7) + (1 + 4) + (1 + 2)
    assert text.count("built in 61 s") == 199 * 6 + 1
    assert len(text) < 2_000_000


def test_what_is_told_of_a_target_on_a_node(arguments: dict[str, Any], run_module: Run) -> None:
    """Versions, commit and digests in its cell, and what came from an index once for all nodes that took it."""
    taken = {"six": "https://index.lan/simple"}
    nodes = {name: {"wanted": TARGETS[:1], "node": node({TARGETS[0]: environment("torch", "six", remote=taken)})} for name in ("a", "b")}
    nodes["c"] = {"wanted": TARGETS[:1], "node": node({TARGETS[0]: environment("torch", "six", "more", seconds=10.0, worktrees={})})}
    run_module("rlinf_report", {**arguments, **share_packages(nodes)})
    report = json.loads((Path(arguments["path"]) / "report.json").read_text())
    cells = {row["host"]: row["targets"][TARGETS[0]] for row in report["nodes"]}
    lock = sha256_file(Path(arguments["bundle_dir"], "targets", COMMIT, TARGETS[0], "lock.json"))
    assert cells["a"]["lock"] == lock and (cells["c"]["lock"], cells["c"]["digest"]) == ("", "d" * 64)
    assert cells["a"]["versions"] == {"torch": "1.0"} and cells["a"]["commit"] == COMMIT
    both = {"targets": TARGETS[:1], "nodes": ["a", "b"]}
    assert report["remote"] == [{"name": "six", "version": "1.0", "origin": "https://index.lan/simple", **both}]
    assert report["worktrees"] == [
        {"name": "LIBERO", "version": "1" * 40, "origin": "", **both},
        {"name": "RLinf", "version": "", "origin": "", **both},
    ]
    took = {"target": TARGETS[0], "nodes": 3, "shortest": 10.0, "median": 61.4, "longest": 61.4, "slowest": "b"}
    assert report["durations"] == [took]
    text = (Path(arguments["path"]) / "report.html").read_text()
    cell = text[text.index('<th scope="row">c</th>') :].partition("</small>")[0]
    assert all(said in cell for said in ("other lock", "d" * 12, "torch 1.0", COMMIT[:12])) and text.count("1 from an index") == 2
    assert "Taken from an index" in text and "a checkout of their own" in text


def test_where_everything_came_from(arguments: dict[str, Any], run_module: Run) -> None:
    """Repositories and assets as well as packages, a directory with the bytes of its files."""
    run_module("rlinf_report", arguments)
    found = json.loads((Path(arguments["path"]) / "report.json").read_text())["dependencies"]
    assert [(entry["name"], entry["version"], entry["kind"], entry["origin"], entry["bytes"], entry["targets"]) for entry in found] == [
        ("bridge", "", "asset", "https://assets.example/bridge.zip", 0, []),
        ("LIBERO", "1" * 40, "repository", "https://github.com/RLinf/LIBERO.git", 1000, TARGETS),
        ("six", "1.0", "index", "https://index.example/six.whl", 12_000, TARGETS),
        ("torch", "1.0", "index", "https://index.example/torch.whl", 9_000_000, TARGETS),
    ]
    (Path(arguments["bundle_dir"]) / "records" / "sbom.cdx.json").write_text('{"components": [1]}')
    with pytest.raises(ModuleFailed, match=r"sbom\.cdx\.json is damaged"):
        run_module("rlinf_report", arguments)


def test_what_many_nodes_have_alike_is_passed_once() -> None:
    alike, other = environment(*(f"package-{number}" for number in range(280))), environment("six")
    nodes = {f"gpu{number:03}": {"wanted": [], "node": node({"a": alike, "b": alike})} for number in range(200)}
    nodes |= {"other": {"wanted": [], "node": node({"a": other, "b": {"problem": "no stamp"}})}, "gone": {"wanted": [], "node": None}}
    given = share_packages(nodes)
    assert sorted(map(len, given["packages"].values())) == [1, 280]
    shared = given["nodes"]["gpu199"]["node"]["targets"]["b"]["packages"]
    assert given["packages"][shared] == alike["packages"] and nodes["gpu199"]["node"]["targets"]["b"] is alike
    assert given["nodes"]["other"]["node"]["targets"]["b"] == {"problem": "no stamp"} and given["nodes"]["gone"]["node"] is None


def test_a_damaged_bundle_is_named(arguments: dict[str, Any], run_module: Run) -> None:
    (Path(arguments["bundle_dir"]) / "bundle.json").write_text("{")
    with pytest.raises(ModuleFailed, match=r"bundle\.json"):
        run_module("rlinf_report", arguments)


def test_what_a_node_says(tmp_path: Path, run_module: Run) -> None:
    venvs = tmp_path / "venvs"
    (venvs / "tiny-0123456789ab").mkdir(parents=True)
    (venvs / "broken-0123456789ab").mkdir()
    (venvs / "other-0123456789ab").mkdir()
    for name in ("tiny", "broken", "other"):
        os.symlink(f"{name}-0123456789ab", venvs / name)
    stamp = {**environment("six"), "created": 5 * 10**9, "python": {"version": "3.11.14", "executable": "/python"}}
    write_json(venvs / "tiny" / "rlinf.json", stamp)
    write_json(venvs / "broken" / "rlinf.json", {**stamp, "packages": ["six"]})
    (tmp_path / "state" / "targets").mkdir(parents=True)
    copies = {"RLinf": {"path": "/home/me/RLinf", "commit": None}, "LIBERO": {"path": "/opt/rlinf/src/LIBERO", "commit": "1" * 40}}
    write_json(tmp_path / "state" / "targets" / "tiny.json", {"format": 1, "target": "tiny", "commit": COMMIT, "worktrees": copies})
    found = run_module("rlinf_report_info", {"prefix": str(tmp_path)})["targets"]
    assert found["tiny"] == environment("six", created=5)
    assert all("problem" in found[name] for name in ("broken", "other"))
