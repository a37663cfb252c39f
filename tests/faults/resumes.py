# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that changes upstream while a part of it is here already."""

from __future__ import annotations

import email.utils
import os
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.calls import Broken, Call
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import must_be_right
from tests.support.upstream import Fault

PROMISE = "what is there in the end is the new file, byte for byte: at once, or after an error that says so and one more run"
_FETCHING = {"rlinf_wheel_cache": "wheels", "rlinf_asset_cache": "assets", "rlinf_interpreter_cache": "interpreters"}
_LATER = 10**10
# seconds that a server is given which has no time
_PATIENCE = 2


@dataclass(frozen=True)
class Change:
    """What happens to a file while a part of it is here.

    :param then: changes the file on the server, which has this path; or the part, in the second.
    :param answer: how the server answers from then on.
    :param lying: whether nothing but the content tells that it is another file.
    """

    name: str
    then: Callable[[Path, Path], object]
    answer: Callable[[Mapping[str, str]], Fault] = lambda _headers: Fault()
    lying: bool = False


def _rewritten(path: Path, _part: Path) -> None:
    """Give the file another content of the same length: what it was, and a bit of its end in another case."""
    _other(path)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + _LATER))


def _other(path: Path) -> None:
    """Repack an archive, whose members stay what they are, or turn the bytes of any other file around."""
    if not zipfile.is_zipfile(path):
        path.write_bytes(path.read_bytes()[::-1] if path.suffix == ".model" else path.read_bytes() + b"\0")
        return
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, content in members:
            archive.writestr(replace_time(info), content, compress_type=zipfile.ZIP_STORED)


def replace_time(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Return what describes a member, with another date."""
    changed = zipfile.ZipInfo(info.filename, (2001, 1, 1, 0, 0, 0))
    changed.external_attr = info.external_attr
    return changed


def _touched(path: Path, _part: Path) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + _LATER))


def _part_rotten(_path: Path, part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def _part_longer(path: Path, part: Path) -> None:
    part.write_bytes(path.read_bytes() + b"more")


def _same(headers: Mapping[str, str]) -> Fault:
    return Fault(headers=dict(headers))


CHANGES: Sequence[Change] = (
    Change("another content, and the server says so", _rewritten),
    Change("another content, and the server has no ETag", _rewritten, lambda _headers: Fault(headers={"ETag": None})),
    Change(
        "another content, and the server has neither ETag nor Last-Modified",
        _rewritten,
        lambda _headers: Fault(headers={"ETag": None, "Last-Modified": None}),
    ),
    Change("another content under the same ETag and Last-Modified", _rewritten, _same, lying=True),
    Change("the same content under another ETag and Last-Modified", _touched),
    Change(
        "the same content, and the server can send no part",
        lambda _path, _part: None,
        lambda _headers: Fault(headers={"Accept-Ranges": None}),
    ),
    Change("the part that is here has lost a bit", _part_rotten, lying=True),
    Change("the part that is here is longer than the file", _part_longer),
)


def resumes(scene: Scene, sample: int | None) -> Iterator[Tally]:
    """Let everything that is fetched break off, change, and be fetched again.

    :param sample: how many trials of each change at most.
    """
    chance = random.Random(0)
    for change in CHANGES:
        tally = Tally(f"between two resumes: {change.name}", PROMISE, "resume")
        for call in [call for call in scene.first("download") if call.module in _FETCHING]:
            for entry in call.args[_FETCHING[call.module]][:sample]:
                path = scene.cycle.world.file(entry["url"])
                # of a plain file nothing but a digest would tell, and a first download has none
                if change.lying and path.suffix == ".model":
                    continue
                one = replace(call, args={**call.args, _FETCHING[call.module]: [entry]})
                kept, status = path.read_bytes(), path.stat()
                with tally.trial(f"{call.module} {entry['name']}"):
                    try:
                        _changed(scene, one, path, change, chance)
                    finally:
                        scene.cycle.upstream.sound()
                        path.write_bytes(kept)
                        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        yield tally


def _changed(scene: Scene, call: Call, path: Path, change: Change, chance: random.Random) -> None:
    """:raises Broken: what is there in the end is not what the server has."""
    upstream = scene.cycle.upstream
    served = f"/{path.relative_to(upstream.root)}"
    scene.restore("nothing")
    upstream.script(served, Fault(cut=chance.randrange(1, path.stat().st_size)))
    upstream.always(served, Fault(status=503))
    outcome = scene.call(replace(call, args={**call.args, "timeout": _PATIENCE}))
    if not outcome.failed:
        raise Broken("it did not break off")
    upstream.sound()
    (part,) = [found for found in scene.cycle.bundle.rglob("*.part") if found.is_file()]
    said = path.stat()
    headers = {"ETag": f'"{said.st_mtime_ns:x}-{said.st_size:x}"', "Last-Modified": email.utils.formatdate(said.st_mtime, usegmt=True)}
    change.then(path, part)
    scene.save("broken off")
    fault = change.answer(headers)
    upstream.always(served, fault)
    scene.restore("nothing")
    scene.must(call)
    wanted = scene.tree()
    scene.restore("broken off")
    outcome = scene.call(call)
    must_be_right(scene.tree(), {}, wanted)
    if outcome.failed:
        if not outcome.clear:
            raise Broken(f"the error is not clear: {outcome.message or outcome.errors}")
        scene.must(call)
    scene.expect(wanted, "what is there is another than what the server has")
