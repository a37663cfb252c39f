# SPDX-License-Identifier: GPL-3.0-or-later
"""A small installation whose every step can be taken again: a bastion, a node and a target that has one of each kind of thing.

The target is installed, and then changed, so that every module is seen making something and replacing it.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import platform
import random
import subprocess
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.demo.cycle import NODE, ROOT, Cycle, base_python
from tests.faults.calls import Broken, Call, Outcome, adopt_orphans, record, run_call, wait_for_orphans
from tests.faults.trees import Tree, copy, must_equal, tree
from tests.support.apt_archive import Archive, Key, build_deb
from tests.support.interpreters import VERSION
from tests.support.origins import Origin

TARGET = "tiny"
PROMISED = ("bundle", NODE, "home")
"""The directories that belong to what is promised: the bastion's, the node's, the user's."""
INTERPRETER = "https://github.com/pythons/releases/cpython-install_only.tar.gz"
OLD_SYSTEM: dict[str, Any] = {
    "repositories": {"openvla": {"url": "https://github.com/openvla/openvla.git"}},
    "assets": {"one": {"url": "https://github.com/one/one.bin", "dest": "one.bin"}},
    "wheels": {},
    "targets": {},
}
"""The catalogue of what the bash system has downloaded here."""
PACKAGES: dict[str, dict[str, str]] = {
    "base-files": {"Essential": "yes"},
    "libc6": {"Priority": "required"},
    "libegl1": {"Depends": "libc6"},
}
"""The packages of a distribution."""
# unshare(2)
_NEW_NETWORK = 0x40000000


def catalog(click: str) -> dict[str, Any]:
    """Return what the inventory adds to the catalogue: a target with one of each, and with this version of click."""
    return {
        "targets": {
            TARGET: {
                "python": VERSION.rpartition(".")[0],
                "cut_off": "2025-12-23T00:00:00Z",
                "steps": [
                    {"requirements": [f"click=={click}", "einops==0.8.1"]},
                    {"package": "latex2sympy2", "dependencies": False},
                    {"editable": "LIBERO", "dependencies": False},
                    {"wheels": ["apex-cp311"], "dependencies": False},
                ],
                "assets": ["sapien-physx", "openpi-tokenizer"],
                "exports": {"CLICK": click},
                "files": {"{state}/tiny/settings.yaml": f"click: {click}\n"},
                "links": {".sapien": "{assets}/.sapien"},
                "imports": ["click", "einops"],
            }
        }
    }


@dataclass
class Scene:
    """The installation below *work*, and the calls that made it.

    :param plays: those of the first installation, then those that change it, in order: the name of each playbook, and the calls it made.
    """

    cycle: Cycle
    plays: list[tuple[str, list[Call]]] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return [call for _name, calls in self.plays for call in calls]

    def first(self, *names: str) -> list[Call]:
        """Return the calls of playbooks in their first run."""
        plays = dict(reversed(self.plays))
        return [call for name in names for call in plays[name]]

    @property
    def work(self) -> Path:
        return self.cycle.work

    @property
    def scratch(self) -> Path:
        """A directory beside what is promised."""
        return self.work / "scratch"

    def places(self) -> Iterator[Path]:
        for name in PROMISED:
            place = self.work / name
            place.mkdir(exist_ok=True)
            yield place

    def save(self, name: str) -> None:
        """Keep everything that is promised, to be put back by :meth:`restore`."""
        copy(self.places(), self.scratch / name)

    def restore(self, name: str, *, closely: bool = False) -> None:
        """Put back what was kept; *closely* also what has the size and the times of before, and other content."""
        copy([self.scratch / name / place for place in PROMISED], self.work, closely=closely)

    def tree(self) -> Tree:
        return {f"{place.name}/{path}": entry for place in self.places() for path, entry in tree(place).items()}

    def call(self, call: Call, **options: Any) -> Outcome:
        """Make a call: the bastion's with network, the node's in a namespace that has none."""
        before = self.offline(call, options.pop("before", None))
        return run_call(call, self.scratch, self.cycle.environment(), before=before, **options)

    def offline(self, call: Call, then: Callable[[], object] | None = None) -> Callable[[], None]:
        """Return what a process does before it makes a call: the node's goes off the network, and *then* follows."""

        def before() -> None:
            if not call.online and ctypes.CDLL(None).unshare(_NEW_NETWORK):
                raise OSError("a network namespace cannot be made")
            if then:
                then()

        return before

    def must(self, call: Call, **options: Any) -> Outcome:
        """Make a call that has to succeed.

        :raises Broken: it did not.
        """
        outcome = self.call(call, **options)
        wait_for_orphans()
        if outcome.status or outcome.failed:
            raise Broken(f"{call.module} failed: {outcome.message or outcome.errors}")
        return outcome

    def expect(self, wanted: Tree, what: str) -> None:
        """:raises Broken: the tree is another."""
        must_equal(self.tree(), wanted, what)

    def imports(self) -> None:
        """:raises Broken: there is an environment, and what a job imports from it is not there."""
        python = self.work / NODE / "venvs" / TARGET / "bin" / "python"
        if python.exists():
            done = subprocess.run([python, "-c", "import click, einops"], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Broken(f"the environment that jobs use does not import: {done.stderr.strip().splitlines()[-1]}")


@contextmanager
def scene(work: Path, *, changed: bool = True) -> Iterator[Scene]:
    """Install and change the target by playbooks, note the calls, and begin from nothing again.

    :param changed: whether it is changed, too, rolled back and put back, or installed alone.
    """
    adopt_orphans()
    with Cycle(work, targets={NODE: [TARGET]}, push=False, compiler=False) as cycle:
        nodes = {NODE: {"rlinf_targets": [TARGET], "rlinf_prefix": str(work / NODE), "rlinf_bundle_dir": str(cycle.bundle)}}
        write_interpreter(cycle.world.file(INTERPRETER))
        write_old_system(cycle)
        fork = write_fork(cycle)
        (cycle.home / "notes.txt").write_text("the user's\n", encoding="utf-8")
        made = Scene(cycle)
        made.scratch.mkdir()
        made.save("nothing")
        release = write_distribution(cycle)
        for name, click in (("first", "8.2.1"), ("second", "8.3.1"))[: 2 if changed else 1]:
            cycle.inventory = cycle.write_inventory(name, nodes, catalog(click))
            for play, *extra in (("download", "-e", f"rlinf_update={TARGET}"), ("push",), ("prepare",), ("install",), ("verify",)):
                made.plays.append((play, _with_others(cycle, release, play, record(cycle, (play, *extra)))))
        if changed:
            made.plays += [(play, record(cycle, (play,))) for play in ("rollback", "restore")]
            merged = [call.args["catalog"] for call in made.calls if call.module == "rlinf_venv" and "catalog" in call.args][-1]
            made.plays += [("by hand", _by_hand(cycle, fork, merged))]
        made.restore("nothing")
        preload()
        yield made


def _with_others(cycle: Cycle, release: dict[str, Any], play: str, calls: list[Call]) -> list[Call]:
    """Return the calls of a play, and those that it would make if this machine had no such interpreter, and the node asked for packages."""
    if play == "prepare":
        given = {"prefix": str(cycle.work / NODE), "bundle_dir": str(cycle.bundle), "pythons": [VERSION]}
        return [Call("rlinf_interpreter", NODE, given), *calls]
    if play != "download":
        return calls
    # the bill of materials names it
    bill = next(call for call in calls if call.module == "rlinf_sbom")
    fetch = next(call for call in calls if call.module == "rlinf_asset_cache")
    interpreter = {"name": "own", "url": INTERPRETER, "python": VERSION, "machine": platform.machine()}
    given = {**{key: value for key, value in fetch.args.items() if key != "assets"}, "interpreters": [interpreter]}
    place = calls.index(bill)
    packages = {"bundle_dir": str(cycle.bundle), "releases": [release], "timeout": 20}
    others = [Call("rlinf_interpreter_cache", bill.host, given), Call("rlinf_apt_cache", bill.host, packages)]
    return [*calls[:place], *others, *calls[place:]]


def _by_hand(cycle: Cycle, fork: dict[str, Any], merged: dict[str, Any]) -> list[Call]:
    """Return calls that none of these plays makes, and users do.

    :param fork: what :func:`write_fork` says.
    :param merged: the catalogue as the changed installation has it.
    """
    node, stick, home = cycle.work / NODE, cycle.home / "stick", cycle.home
    bundle = {"bundle_dir": str(cycle.bundle)}
    # of few files, each of which has its points; one of them is cut into volumes
    small = {"bundle_dir": str(home / "small" / "bundle")}
    patch = {"state_dir": str(node / "state"), "project_dir": str(node / "src" / "RLinf"), **bundle}
    seen = {"system": {"release": "ubuntu-22.04", "architecture": "amd64", "state": "Package: libc6\n"}}
    report = {
        "path": str(home / "report"),
        "bundle_dir": str(cycle.work / "no bundle"),
        "template": str(ROOT / "roles" / "report" / "templates" / "report.html.j2"),
    }
    branches = {"follow": ["main"], "branches": [{"name": "work", "base": "main"}], "committer": "Me <me@example.invalid>"}
    return [
        Call("rlinf_bundle", "bastion", {**bundle, "state": "pruned"}),
        Call(
            "rlinf_target", NODE, {**bundle, "target": TARGET, "catalog": merged, "prefix": str(node / "other"), "home": str(node / "home")}
        ),
        *(Call("rlinf_req_patch", NODE, {**patch, "state": state}) for state in ("patched", "restored")),
        Call("rlinf_air_gap", NODE, {"prefix": str(node)}),
        Call("rlinf_adopt", "bastion", {**small, "src": str(home / "old"), "catalog": OLD_SYSTEM}),
        Call("rlinf_bundle", "bastion", {**small, "state": "sealed"}),
        Call("rlinf_media", "bastion", {**small, "state": "written", "path": [str(stick)], "volume_size": "3 MB"}),
        Call("rlinf_media", NODE, {"bundle_dir": str(node / "carried" / "bundle"), "state": "read", "path": [str(stick)]}),
        Call("rlinf_branch_sync", "bastion", {**fork, **branches, "cache_dir": str(home / "cache"), "timeout": 20}),
        Call("rlinf_survey", "bastion", {"path": str(home / "survey.json"), "nodes": {NODE: seen}}),
        Call("rlinf_report", "bastion", {**report, "nodes": {NODE: {"wanted": [TARGET], "node": None, "problem": "no answer"}}}),
    ]


def write_distribution(cycle: Cycle) -> dict[str, Any]:
    """Write a distribution's archive; return what rlinf_apt_cache brings of it."""
    key = Key.make(cycle.work / "key")
    archive = Archive(cycle.world.root / "ubuntu", key)
    archive.publish("jammy", [build_deb(cycle.work / "packages", name, "1", fields) for name, fields in PACKAGES.items()])
    source = {
        "mirror": "ubuntu",
        "url": f"{cycle.upstream.url}/ubuntu",
        "suites": ["jammy"],
        "components": ["main"],
        "keyring": str(key.keyring),
    }
    return {"name": "ubuntu-22.04", "sources": [source], "packages": ["libegl1"]}


def write_fork(cycle: Cycle) -> dict[str, Any]:
    """Write a repository and the user's fork of it, which is behind; return how rlinf_branch_sync finds them."""
    theirs, fork = Origin(cycle.work / "theirs", "github.com/theirs/small.git"), Origin(cycle.home / "mine", "git.example/me/small.git")
    theirs.commit(README="one\n")
    fork.git("pull", "--quiet", theirs.bare, "main")
    fork.git("checkout", "--quiet", "-b", "work")
    fork.commit(mine="1\n")
    theirs.commit(README="two\n")
    places = {
        origin.url.removesuffix(name): origin.bare.as_uri().removesuffix(name)
        for origin, name in ((theirs, "theirs/small.git"), (fork, "me/small.git"))
    }
    return {"origin": fork.url, "upstream": theirs.url, "url_rewrites": places}


def write_old_system(cycle: Cycle) -> None:
    """Write what the bash system would have downloaded: a clone and an asset."""
    old, [(name, repository)] = cycle.home / "old", OLD_SYSTEM["repositories"].items()
    origin = cycle.world.root / "git" / repository["url"].removeprefix("https://")
    subprocess.run(["git", "clone", "--quiet", origin, old / name], check=True)
    subprocess.run(["git", "-C", old / name, "remote", "set-url", "origin", repository["url"]], check=True)
    (old / "assets").mkdir()
    (old / "assets" / "one.bin").write_bytes(random.Random(0).randbytes(4_000_000))


def write_interpreter(path: Path) -> None:
    """Write what stands in for an interpreter's archive: a program that starts the one of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = f'#!/bin/sh\nexec {base_python()} "$@"\n'.encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, mode, content in ((f"bin/python{VERSION.rpartition('.')[0]}", 0o755, program), ("lib/README", 0o644, b"a stand-in\n")):
            member = tarfile.TarInfo(f"python/{name}")
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))


def preload() -> None:
    """Import what modules import, so that the children of this process need not."""
    for path in sorted((ROOT / "plugins" / "module_utils").glob("_*.py")):
        importlib.import_module(f"ansible_collections.rlinf.offline.plugins.module_utils.{path.stem}")
    # a child that has become another user may not be able to read the files of this interpreter
    sysconfig.get_config_vars()
