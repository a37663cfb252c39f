# SPDX-License-Identifier: GPL-3.0-or-later
"""A few trials of every class of faults; ``make faults`` takes all of them, and ``docs/reliability.md`` is what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import run
from tests.faults.actions import actions
from tests.faults.clocks import clocks
from tests.faults.disks import disks
from tests.faults.kills import kills, one
from tests.faults.pairs import pairs
from tests.faults.resumes import resumes
from tests.faults.rot import KINDS, files_of_kinds, rot
from tests.faults.scene import Scene, scene
from tests.faults.servers import servers
from tests.faults.tally import Tally
from tests.faults.worlds import in_parallel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if os.geteuid():
        raise PermissionError("File systems and hosts are made for it, which needs root: sudo make integration")
    with scene(tmp_path_factory.mktemp("f") / "w", changed=False) as made:
        yield made


def _of(made: Scene, *modules: str) -> Scene:
    """Return the scene with the calls of some modules alone, which need nothing of the others."""
    return replace(made, plays=[(name, [call for call in calls if call.module in modules]) for name, calls in made.plays])


# what a process of its own does, since disks are mounted over what is there, and what is done to the upstream, which is of this one
APART: dict[str, Callable[[Scene], Iterable[Tally]]] = {
    "kill": lambda made: kills(_of(made, "rlinf_repo_mirror", "rlinf_wheel_cache", "rlinf_asset_cache"), 2),
    "disk": lambda made: disks(_of(made, "rlinf_wheel_cache"), 1),
    "rot": lambda made: rot(made, 1),
    "pair": lambda made: pairs(_of(made, "rlinf_wheel_cache", "rlinf_asset_cache"), 1),
    "clock": lambda made: clocks(_of(made, "rlinf_wheel_cache", "rlinf_asset_cache"), 1),
}
HERE: dict[str, Callable[[Scene], Iterable[Tally]]] = {
    "server": lambda made: servers(_of(made, "rlinf_wheel_cache")),
    "resume": lambda made: resumes(_of(made, "rlinf_wheel_cache"), 1),
    "action": lambda made: actions(made.work / "a", 1, ["rlinf_collect"]),
}


@pytest.mark.parametrize("name", [*APART, *HERE])
def test_nothing_is_lost(installed: Scene, name: str) -> None:
    installed.restore("nothing")
    if name in APART:
        found = in_parallel(installed, 1, lambda _share: APART[name](installed))
    else:
        found = list({tally.name: tally for tally in HERE[name](installed)}.values())
    assert found and all(tally.trials for tally in found)
    assert [lost for tally in found for lost in tally.lost] == []


def test_a_call_that_is_not_killed_is_no_trial(installed: Scene) -> None:
    installed.restore("nothing")
    installed.save("before")
    call = next(call for call in installed.calls if call.module == "rlinf_wheel_cache")
    tally = Tally("killed", "", "kill")
    with tally.trial("point 1000000"):
        one(installed, call, 10**6, {}, {})
    assert (tally.trials, tally.lost, tally.untried) == (0, [], ["point 1000000"])


def test_every_file_of_a_bundle_is_of_a_kind(tmp_path: Path) -> None:
    for pattern in KINDS.values():
        path = tmp_path / pattern.replace("**", "a").replace("*", "a")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert files_of_kinds(tmp_path).keys() == KINDS.keys()
    (tmp_path / "records" / "new.json").write_text("{}")
    with pytest.raises(LookupError, match=r"of what kind these are: records/new\.json"):
        files_of_kinds(tmp_path)
    (tmp_path / "records" / "new.json").rename(tmp_path / "records" / "kernels.json.part")
    (tmp_path / "records" / "kernels.json").unlink()
    with pytest.raises(LookupError, match="has no record of kernels"):
        files_of_kinds(tmp_path)


def test_every_class_is_tried() -> None:
    """But for nodes that are rebooted, which takes a minute for each: other tests have hosts, and ``make faults`` reboots them."""
    assert {*APART, *HERE} == {*run.ALL} - {"reboot"}
