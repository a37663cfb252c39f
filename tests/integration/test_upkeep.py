# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping a bundle: what the old system has is adopted, a dependency is one more entry, an update is another download, and a look finds damage."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.demo.cycle import Cycle
from tests.integration.conftest import tree
from tests.support.modes import modes, others_may_write
from tests.support.origins import Origin, git
from tests.support.playbooks import command
from tests.support.wheels import build_wheel

TARGET = "small"
EXTRA = "extra-1.0-py3-none-any.whl"
CHECK = ("-e", "rlinf_check_only=true")


class Bastion:
    """A cycle whose inventory adds a repository, a wheel and an asset of the user's own, and names the old system's directory."""

    def __init__(self, cycle: Cycle, work: Path) -> None:
        self.cycle = cycle
        self.bundle = cycle.bundle
        self.own = Origin(cycle.world.root, "github.com/me/tools.git")
        self.own.commit(file="one\n")
        release = cycle.world.root / "git/github.com/me/tools/releases/download/v1"
        build_wheel(release, "extra", "1.0")
        (release / "weights.bin").write_bytes(os.urandom(2000))
        self.old = work / "repos"
        self.old.mkdir()
        libero = cycle.world.root / "git/github.com/RLinf/LIBERO.git"
        git("clone", "--quiet", libero, self.old / "LIBERO", cwd=work)
        git("remote", "set-url", "origin", "https://github.com/RLinf/LIBERO.git", cwd=self.old / "LIBERO")
        base = "https://github.com/me/tools"
        entries = {
            "repositories": {"my-tools": {"url": f"{base}.git"}},
            "wheels": {"extra": {"url": f"{base}/releases/download/v1/{EXTRA}"}},
            "assets": {"weights": {"url": f"{base}/releases/download/v1/weights.bin", "dest": "weights/weights.bin"}},
            "targets": {
                TARGET: {
                    "python": cycle.world.python,
                    "steps": [
                        {"requirements": ["filelock", "tqdm"]},
                        {"package": "latex2sympy2", "dependencies": False},
                        {"worktree": "LIBERO"},
                    ],
                    "assets": ["maniskill-widowx250s"],
                }
            },
        }
        inventory = yaml.safe_load(cycle.inventory.read_text(encoding="utf-8"))
        catalog = inventory["all"]["vars"]["rlinf_catalog"]
        for kind, added in entries.items():
            catalog[kind] = {**catalog.get(kind, {}), **added}
        inventory["all"]["vars"]["rlinf_adopt_dir"] = str(self.old)
        cycle.inventory.write_text(yaml.safe_dump(inventory, sort_keys=False), encoding="utf-8")

    def check(self) -> dict[str, tuple[str, str]]:
        """Run the look and return state and what is to be fetched of each thing, by name; the last line is under the empty name."""
        output = self.cycle.play("download", *CHECK).output
        said = json.loads(re.search(r'"msg": (\[.*?\n    \])', output, re.DOTALL)[1])  # type: ignore[index]
        rows = [re.split(r" {2,}", line) for line in said[1:-1]]
        return {**{row[1]: (row[2], row[3]) for row in rows}, "": ("", said[-1])}


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    work = tmp_path_factory.mktemp("upkeep")
    with Cycle(work / "cycle", targets=[TARGET], compiler=False) as cycle:
        yield Bastion(cycle, work)


@pytest.fixture(scope="module")
def downloaded(bastion: Bastion) -> str:
    """Look at the empty machine first, then download; return what Ansible said."""
    assert not bastion.bundle.exists()
    empty = bastion.check()
    assert not bastion.bundle.exists()
    assert {state for name, (state, _size) in empty.items() if name} == {"missing"}
    assert empty["weights"] == ("missing", "2.0 kB")
    assert (empty["tools"][1], empty[TARGET][1]) == ("unknown", "unknown")
    return bastion.cycle.play("download").output


def test_a_dependency_is_one_more_entry(bastion: Bastion, downloaded: str) -> None:
    assert (bastion.bundle / "wheels" / EXTRA).is_file()
    assert (bastion.bundle / "assets/weights/weights.bin").stat().st_size == 2000
    mirror = bastion.bundle / "repos/github.com/me/tools.git"
    assert git("rev-parse", "HEAD", cwd=mirror) == bastion.own.head
    assert {f"wheels/{EXTRA}", "assets/weights/weights.bin"} <= set(bastion.cycle.manifest()["files"])


def test_the_old_system_is_adopted_before_anything_is_fetched(bastion: Bastion, downloaded: str) -> None:
    assert re.search(r'"adopted: \d+ \(', downloaded)
    assert "not mirrored before" not in str([line for line in downloaded.splitlines() if "LIBERO" in line])


def test_what_is_there_is_said_without_network_and_without_a_change(bastion: Bastion, downloaded: str) -> None:
    places = (bastion.bundle, bastion.cycle.home, bastion.old)
    before = [tree(place) for place in places]
    bastion.cycle.upstream.forget()
    found = bastion.check()
    assert {row for name, row in found.items() if name} == {("present", "-")}
    assert found[""][1] == f"{len(found) - 1} present, 0 missing, 0 damaged; a download would fetch 0 B."
    assert bastion.cycle.upstream.requests() == []
    assert [tree(place) for place in places] == before


def test_cron_makes_what_a_user_makes(bastion: Bastion, downloaded: str) -> None:
    """Without a terminal, HOME, a user's name or a locale, under an umask that lets nobody read: the same bundle and node, for all to read."""
    cycle, inventory = bastion.cycle, bastion.cycle.work / "cron.yml"
    bundle, prefix = cycle.work / "bundle-of-cron", cycle.work / "prefix-of-cron"
    given = yaml.safe_load(cycle.inventory.read_text(encoding="utf-8"))
    groups = given["all"]["children"]
    groups["rlinf_bastion"]["hosts"]["bastion"]["rlinf_bundle_dir"] = str(bundle)
    groups["rlinf_nodes"]["hosts"]["gpu01"]["rlinf_prefix"] = str(prefix)
    inventory.write_text(yaml.safe_dump(given), encoding="utf-8")
    environment = {name: value for name, value in cycle.environment().items() if name == "PATH" or name.startswith("ANSIBLE_")}
    for playbook in ("download", "site"):
        words = command(inventory, f"rlinf.offline.{playbook}")
        done = subprocess.run(
            words,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            umask=0o077,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    cycle.play("site")
    assert modes(bundle) == modes(bastion.bundle)
    assert modes(prefix) == modes(cycle.work / "gpu01")
    assert not others_may_write(modes(prefix))


def flip(path: Path) -> bytes:
    """Change a bit of a file so that neither its size nor its date tell; return what it was."""
    status, content = path.stat(), path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return content


def test_damage_that_size_and_date_hide_is_found(bastion: Bastion, downloaded: str) -> None:
    lock = bastion.cycle.lock(TARGET)
    package, gone = lock["packages"][:2]
    places = [
        next((bastion.bundle / "repos/github.com/me/tools.git/objects/pack").glob("*.pack")),
        bastion.bundle / "wheels" / EXTRA,
        bastion.bundle / "assets/weights/weights.bin",
        bastion.bundle / package["path"],
        next((bastion.bundle / "tools").rglob("*.whl")),
    ]
    tree_asset = next(path for path in sorted((bastion.bundle / "assets/.maniskill").rglob("*")) if path.is_file())
    places.append(tree_asset)
    whole = {path: flip(path) for path in places}
    whole[bastion.bundle / gone["path"]] = (bastion.bundle / gone["path"]).read_bytes()
    (bastion.bundle / gone["path"]).unlink()
    found = bastion.check()
    damaged = {name for name, (state, _size) in found.items() if state == "damaged"}
    assert damaged == {"tools", "my-tools", "extra", "weights", "maniskill-widowx250s", TARGET}
    assert found["weights"] == ("damaged", "2.0 kB")
    assert found["LIBERO"] == ("present", "-")
    for path, content in whole.items():
        path.write_bytes(content)


def test_an_update_is_another_download(bastion: Bastion, downloaded: str) -> None:
    mirror = bastion.bundle / "repos/github.com/me/tools.git"
    old, new = bastion.own.head, bastion.own.commit(file="two\n")
    bastion.cycle.play("download")
    # the mirror has it; the frozen commit stays until it may move
    assert git("rev-parse", "main", cwd=mirror) == new
    assert git("rev-parse", "HEAD", cwd=mirror) == old
