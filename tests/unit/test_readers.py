# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a reader is given, it gives a result or an error of its own, never another exception.

Requirement and pyproject files have theirs in ``test_patch_properties``, whole archives in ``test_archive``. By default few examples are
tried; ``RLINF_EXAMPLES=5000 pytest tests/unit/test_readers.py`` tries more, and what it finds becomes an ``@example``.
"""

from __future__ import annotations

import copy
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _air_gap, _apt_resolve, _bundle, _fit, _frozen, _pylock, _target, _wheel
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._effective import effective_lock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Records
from ansible_collections.rlinf.offline.plugins.module_utils._journal import Journal
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._mend import mend
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_lock, read_locks
from ansible_collections.rlinf.offline.plugins.module_utils._releases import before_push
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Trust
from ansible_collections.rlinf.offline.plugins.module_utils._submodules import resolve_relative
from ansible_collections.rlinf.offline.plugins.module_utils._survey import Survey, surveyed_releases, surveyed_states
from ansible_collections.rlinf.offline.plugins.module_utils._urls import (
    RepositoryId,
    Rewrites,
    check_url,
    redact,
    secrets,
    without_userinfo,
)
from tests.support.catalog import shipped

EXAMPLES = int(os.environ.get("RLINF_EXAMPLES", "60"))
trials = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
# the same ones every time, unless more are asked for
trials = trials if "RLINF_EXAMPLES" in os.environ else settings(trials, derandomize=True, database=None)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["..", "/", "-x", "\0", "a" * 64])
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)
URLS = st.text(max_size=60) | st.builds(
    "{}{}{}".format,
    st.sampled_from(["https://", "ssh://", "git@h:", "ext::", "-", "file://", "http://[", "//"]),
    st.text(max_size=20),
    st.text("/:@%[]?#.0a-", max_size=20),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


@st.composite
def altered(draw: st.DrawFn, document: Any) -> Any:
    """A document of which one or two places hold anything, or nothing any more."""
    made = copy.deepcopy(document)
    for _number in range(draw(st.integers(1, 2))):
        *above, last = (None, *draw(st.sampled_from(places(made))))
        if not above:
            return draw(ANYTHING)
        holder = made
        for key in above[1:]:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(ANYTHING)
    return made


def answers(read: Callable[[], object]) -> None:
    """It gives a result, or says what is wrong in words of its own."""
    try:
        read()
    except OfflineError as error:
        assert str(error)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = Bundle(tmp_path_factory.mktemp("bundle"))
    made.records.mkdir()
    made.repos.mkdir()
    return made


# -- URLs and how the network is reached


@trials
@given(URLS, URLS)
@example("https://[::1/a", "../..")
@example("https://h:99999999/a/b", "./")
@example("https://h:x/a/b", "../x")
@example("https://\u2100/a/b", "")
def test_urls(one: str, other: str) -> None:
    for read in (
        lambda: check_url(one, "it"),
        lambda: RepositoryId.parse(one),
        lambda: without_userinfo(one),
        lambda: resolve_relative(one, other),
        lambda: Rewrites({one: other}).apply(one),
        lambda: Network.of({"proxy": one, "index_url": other}).credentials(one),
        lambda: redact(one),
        lambda: secrets([one, {other: one}]),
    ):
        answers(read)


# -- files that this collection wrote, and somebody else then


MANIFEST = {
    "format": 1,
    "serial": 1,
    "created": "2025-01-01T00:00:00Z",
    "tools": {"uv": "1"},
    "files": {"wheels/a": {"size": 1, "sha256": "0" * 64, "mtime_ns": 1, "origin": "x"}},
    "repositories": {},
}
RECORDS = {"https://h.example/a": {"sha256": "0" * 64, "size": 1, "etag": None, "last_modified": None}}
FROZEN = {
    "h.example/a/b.git": {
        "url": "https://h.example/a/b.git",
        "version": None,
        "commit": "0" * 40,
        "default_branch": "main",
        "cut_off": None,
    }
}
NODE = {
    "release": "debian-12",
    "architecture": "amd64",
    "packages": "0" * 64,
    "node": {"glibc": "2.36", "gpus": {"devices": [], "driver": None}, "pythons": [{"version": "3.11"}]},
}
SURVEY = {"format": 1, "nodes": {"gpu1": NODE}, "states": {"0" * 64: "Package: a\n"}}


def as_json(document: Any) -> st.SearchStrategy[bytes]:
    return altered(document).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")) | st.binary(max_size=40)


def with_files(**files: Any) -> bytes:
    return json.dumps({**MANIFEST, "files": files}).encode()


@trials
@given(as_json(MANIFEST))
@example(json.dumps({**MANIFEST, "serial": "x"}).encode())
@example(json.dumps({key: value for key, value in MANIFEST.items() if key != "serial"}).encode())
@example(with_files(**{"wheels/a": 1}))
@example(with_files(**{"wheels/a": {}}))
@example(with_files(**{"wheels/a": {"size": 1}}))
@example(with_files(**{"wheels/a": {"size": 1, "sha256": "0", "mtime_ns": 1, "link": "b"}}))
def test_the_manifest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    made = Bundle(tmp_path_factory.mktemp("sealed"))
    made.wheels.mkdir()
    for name in ("a", "b"):
        (made.wheels / name).write_text("x")

    def again() -> None:
        made.manifest.write_bytes(content)

    stamp = made.root.parent / "stamp.json"
    for read in (
        lambda: _bundle.read_manifest(made),
        lambda: _bundle.verify(made),
        lambda: _bundle.verify(made, stamp=stamp),
        lambda: _bundle.prune(made, check=True),
        lambda: mend(made, check=True),
        lambda: mend(made, full=True),
        lambda: _bundle.seal(made),
        lambda: _fit.offer(made.root, [TARGET], CATALOG),
    ):
        again()
        answers(read)


@pytest.mark.parametrize("path", ["../x.git/HEAD", "repos/../../x.git/HEAD", "/x.git/HEAD", "wheels//a", "wheels/./a", "wheels/", ""])
def test_a_manifest_names_nothing_outside_of_the_bundle(tmp_path: Path, path: str) -> None:
    """Whoever removes what is damaged would remove it there."""
    made = Bundle(tmp_path / "bundle")
    other = tmp_path / "x.git"
    other.mkdir()
    made.repos.mkdir(parents=True)
    made.manifest.write_bytes(with_files(**{path: {"size": 1, "sha256": "0" * 64, "mtime_ns": 1, "origin": None}}))
    with pytest.raises(BundleError, match="is no path in it"):
        mend(made, full=True)
    assert other.is_dir()


STAMP = {
    "format": 1,
    "manifest": "0" * 64,
    "serial": 1,
    "signed_by": None,
    "files": {"wheels/a": [1, 1, 1, "0" * 64]},
    "former": {"wheels/b": [1, 1, 1, "0" * 64]},
}


@trials
@given(altered(STAMP))
@example({**{key: value for key, value in STAMP.items() if key != "serial"}, "files": {}, "former": {}})
def test_what_was_verified(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    made = Bundle(tmp_path_factory.mktemp("stamped"))
    made.wheels.mkdir()
    (made.wheels / "a").write_text("x")
    _bundle.seal(made)
    stamp = made.root.parent / "stamp.json"
    named = {**document, "bundle": str(made.root.resolve())} if isinstance(document, dict) else document
    for read in (lambda: _bundle.prune(made, stamp=stamp), lambda: _bundle.verify(made, stamp=stamp)):
        stamp.write_bytes(json.dumps(named).encode("utf-8", "surrogatepass"))
        read()
    assert not _bundle.verify(made, stamp=stamp).changed


SOURCED = {"packages": [{"path": "wheels/a", "source": {"url": "https://h.example/a", "commit": None, "subdirectory": None}}], "build": []}
ASSET = {"data": {"url": "https://h.example/d.tar.gz", "sha256": None, "strip": False, "tree": "0"}}


@trials
@given(as_json(RECORDS), as_json(FROZEN), as_json(ASSET), as_json(SOURCED))
@example(b'{"u": 1}', b"{}", b"{}", json.dumps({"packages": [{"path": "wheels/a"}]}).encode())
@example(b'{"u": {"sha256": [], "size": 1}}', b"{}", b"{}", json.dumps(SOURCED).encode())
@example(b"{}", b'{"h/a/b.git": {}}', b"{}", json.dumps(SOURCED).encode())
@example(b"{}", b"{}", b'{"a": {}}', json.dumps(SOURCED).encode())
@example(b"{}", b"{}", b'{"a": 1}', json.dumps(SOURCED).encode())
def test_where_a_sealed_file_came_from(bundle: Bundle, urls: bytes, repositories: bytes, assets: bytes, lock: bytes) -> None:
    contents = {"urls.json": urls, "repositories.json": repositories, "assets.json": assets}
    place = bundle.targets / "commit" / "sealed" / "lock.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(lock)
    for name, content in contents.items():
        (bundle.records / name).write_bytes(content)
    bundle.manifest.unlink(missing_ok=True)
    answers(lambda: _bundle.seal(bundle))
    place.unlink()
    for name in contents:
        (bundle.records / name).unlink()


@trials
@given(as_json(RECORDS))
def test_records_of_what_was_fetched(bundle: Bundle, content: bytes) -> None:
    (bundle.records / "urls.json").write_bytes(content)
    answers(lambda: Records.of(bundle).get("https://h.example/a"))


@trials
@given(as_json(FROZEN))
@example(b"null")
@example(b'{"h.example/a/b.git": null}')
@example(b'{"h.example/a/b.git": {}}')
def test_records_of_repositories(bundle: Bundle, content: bytes) -> None:
    (bundle.records / "repositories.json").write_bytes(content)
    answers(lambda: [(record["commit"], record["version"], record["cut_off"]) for record in _frozen.read_records(bundle).values()])


@trials
@given(as_json(SURVEY))
def test_a_survey(bundle: Bundle, content: bytes) -> None:
    place = bundle.records / "survey.json"
    place.write_bytes(content)
    answers(lambda: Survey.read(place).lines())
    answers(lambda: surveyed_releases(place, "amd64"))
    answers(lambda: surveyed_states(place, "debian-12", "amd64"))


# -- what others wrote


PYLOCK = {
    "lock-version": "1.0",
    "created-by": "x",
    "packages": [
        {
            "name": "a",
            "version": "1",
            "wheels": [{"url": "https://h.example/a-1-py3-none-any.whl", "size": 1, "hashes": {"sha256": "0" * 64}}],
            "sdist": {"name": "a-1.tar.gz", "url": "https://h.example/a-1.tar.gz", "hashes": {"sha256": "0" * 64}},
        }
    ],
}


def as_toml(value: Any) -> bytes:
    try:
        return tomlkit.dumps(value).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError, tomlkit.exceptions.TOMLKitError):
        return b"lock-version = '1.0'\npackages = 1\n"


@trials
@given(altered(PYLOCK).map(as_toml) | st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
@example(b"lock-version = '1.0'\npackages = 1\n")
@example(b"lock-version = '1.0'\n[[packages]]\nname = 'a'\nsdist = 1\n")
def test_a_pylock(bundle: Bundle, content: bytes) -> None:
    place = bundle.records / "pylock.toml"
    place.write_bytes(content)
    answers(lambda: [_pylock.offered(package) for package in _pylock.read(place).get("packages", ())])


CATALOG = yaml.safe_load((Path(__file__).resolve().parents[2] / "roles" / "common" / "vars" / "main.yml").read_text())
SHIPPED = next(value for value in CATALOG.values() if isinstance(value, dict) and "targets" in value)
SMALL = {kind: dict(list(entries.items())[:3]) for kind, entries in SHIPPED.items() if isinstance(entries, dict) and kind != "targets"}
SMALL["targets"] = {name: SHIPPED["targets"][name] for name in list(SHIPPED["targets"])[:2]}


@trials
@given(altered(SMALL) | altered(SHIPPED))
@example({"interpreters": {"a": {"url": "https://h.example/a.tar.gz", "python": None, "machine": "x86_64"}}})
@example({5: {}})
def test_the_catalogue(document: Any) -> None:
    if isinstance(document, dict):
        answers(lambda: Catalog.parse(document))


@trials
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(["'http://m/pool/a_1_all.deb' a_1_all.deb 12 SHA256:00", "'x", "a b c d", "''  ", "Inst a (1 x [all])"])
    ).map("\n".join)
)
def test_what_apt_says(said: str) -> None:
    answers(lambda: [(deb.package, deb.version, deb.place) for deb in _apt_resolve.debs(said)])


ROWS = [
    "a.py,sha256=AAAA,1",
    "a.py,,",
    "../a,sha256=x,1",
    '"',
    "a.py,md5=x,1",
    "d-1.dist-info/RECORD,,",
    "a.py,sha256=\u00e9,1",
    "a.py,sha256,",
    "\0",
    "\r",
]


@trials
@given(st.lists(st.sampled_from(ROWS), max_size=5).map("\n".join) | st.text(max_size=60), st.data())
def test_a_wheel(bundle: Bundle, record: str, data: st.DataObject) -> None:
    place = bundle.records / "d-1-py3-none-any.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", "x = 1\n" * 9)
        archive.writestr("d-1.dist-info/RECORD", record.encode("utf-8", "replace"))
        archive.writestr("d-1.dist-info/WHEEL", "")
        archive.writestr(
            "d-1.dist-info/METADATA",
            data.draw(st.sampled_from(["", "Name: d\nVersion: 1\n", "Name: \xff\nVersion: 1.x\n", "Version: 1\n"])),
        )
    content = bytearray(place.read_bytes())
    for _number in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    place.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    answers(lambda: _wheel.check_record(place, content=True))
    answers(lambda: _wheel.check_whole(place, place.name))


ACCEPTED = {"serial": 3, "manifest": "0" * 64}


@trials
@given(as_json(ACCEPTED))
@example(b"null")
@example(b"{}")
@example(b'{"serial": "3", "manifest": null}')
@example(b"[" * 100_000)
def test_what_was_accepted_last(bundle: Bundle, content: bytes) -> None:
    trust = Trust("", bundle.records / "accepted.json")
    trust.accepted.write_bytes(content)
    answers(lambda: trust.check_serial(bundle, 4, "0" * 64))


PATCHED = {
    "path": "/project/requirements.txt",
    "kind": "requirements",
    "mode": 0o644,
    "mtime_ns": 1,
    "uid": 0,
    "gid": 0,
    "original": "0" * 64,
    "patched": "1" * 64,
}
JOURNAL = {"format": 1, "project": "/project", "bundle_url": "file:///b", "files": [PATCHED], "used": ["/project/a"], "excludes": [PATCHED]}


@trials
@given(as_json(JOURNAL))
@example(b'{"format": 1}')
@example(json.dumps({**JOURNAL, "files": [{**PATCHED, "mode": "x"}]}).encode())
@example(json.dumps({**JOURNAL, "project": None}).encode())
@example(json.dumps({**JOURNAL, "used": ["a\0"]}).encode())
def test_a_journal(bundle: Bundle, content: bytes) -> None:
    journal = Journal(bundle.root, Path("/project"))
    journal.folder.mkdir(parents=True, exist_ok=True)
    journal.file.write_bytes(content)
    answers(journal.read)
    answers(lambda: Journal.every(bundle.root))


CATALOG = Catalog.parse(shipped())
TARGET = next(iter(CATALOG.targets.values()))
LOCK = {
    "format": 1,
    "target": "t",
    "python": "3.11",
    "platform": "x86_64-manylinux_2_31",
    "project": {"repository": "RLinf", "commit": "c"},
    "packages": [
        {"name": "a", "version": "1", "kind": "source", "path": "wheelhouse/a.whl", "sha256": "0" * 64, "size": 1, "served": True},
        {"name": "b", "version": None, "kind": "git", "path": "wheelhouse/b", "sha256": "1" * 64, "size": 2},
    ],
    "build": [{"name": "c", "version": "1", "path": "wheelhouse/c.whl", "sha256": "2" * 64, "size": 3}],
    "build_on_node": {"a": {"needs": ["nvcc"], "env": {"A": "1"}}},
    "closure": ["wheelhouse/a"],
    "editables": [{"package": "p", "repository": "r", "subdirectory": None}],
}


@trials
@given(as_json(LOCK))
@example(b"[" * 100_000)
def test_locks_of_a_bundle(bundle: Bundle, content: bytes) -> None:
    place = bundle.targets / "commit" / "target" / "lock.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    place.with_name("pylock.target.toml").write_text('lock-version = "1.0"\ncreated-by = "x"\n', encoding="utf-8")
    answers(lambda: list(read_locks(bundle)))
    answers(lambda: files_for(bundle, ["wheelhouse/a", "targets/x"], ["target"], "debian-12/amd64"))
    answers(lambda: effective_lock(bundle, place.with_name("pylock.target.toml"), []))
    answers(lambda: _fit._need(TARGET, read_lock(place), CATALOG, {}, {}))


PACKAGES = {
    "format": 1,
    "release": "debian-12",
    "architecture": "amd64",
    "definition": "d",
    "index": "0" * 64,
    "packages": ["rsync"],
    "before_push": ["rsync_1_amd64.deb"],
    "files": [
        {"package": "rsync", "filename": "rsync_1_amd64.deb", "size": 1, "installed": 1, "sha256": "0" * 64, "mirror": "m", "path": "p"}
    ],
}


@trials
@given(as_json(PACKAGES))
@example(b"[" * 100_000)
def test_what_a_repository_of_system_packages_holds(bundle: Bundle, content: bytes) -> None:
    place = bundle.apt("debian-12", "amd64") / "packages.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    node = {"uid": 0, "tools": {"rsync": None}, "system": {"release": "debian-12", "architecture": "amd64"}}
    answers(lambda: before_push(bundle, node, "present"))
    answers(lambda: _fit._repositories(bundle))


STATE = {
    "format": 1,
    "target": "t",
    "commit": "c",
    "worktrees": {"r": {"path": "/r", "commit": "c"}},
    "assets": ["a"],
    "links": {"/l": "/a"},
}


@trials
@given(as_json(STATE))
@example(b"[" * 100_000)
def test_what_a_node_remembers_of_a_target(bundle: Bundle, content: bytes) -> None:
    place = bundle.root / "state.json"
    place.write_bytes(content)
    answers(lambda: _target._read_state(place))


ATTEMPTS = {
    "step": "s",
    "attempts": [
        {"program": "uv", "pid": 1, "command": "uv", "call": "connect", "family": "inet", "address": "192.0.2.1", "port": 443, "count": 2}
    ],
    "left": [{"program": "uv", "pid": 1, "command": "uv"}],
    "started": "2026-01-01",
    "ended": "2026-01-01",
    "recorded": True,
    "canary": True,
}


@trials
@given(as_json(ATTEMPTS))
@example(b"[" * 100_000)
def test_what_an_install_has_tried_to_reach(bundle: Bundle, content: bytes) -> None:
    node = Node(bundle.root / "prefix")
    node.air_gap.mkdir(parents=True, exist_ok=True)
    for name in ("1.json", "2.part"):
        (node.air_gap / name).write_bytes(content)
        answers(lambda: _air_gap.judge(node, {"target": "0"}))
        (node.air_gap / name).unlink()


def test_a_shape_names_what_does_not_fit() -> None:
    shape = {"a": [{"b": (str, type(None))}], "c?": {str: int}, "d?": bool}
    assert misfit({"a": [{"b": "x"}, {"b": None}], "c": {"k": 1}, "d": True, "more": 1}, shape) == ""
    assert misfit({"a": [{"b": "x"}, {"b": 1}]}, shape) == "a[1].b is not text"
    assert misfit({"a": [{}]}, shape) == "a[0].b is missing"
    assert misfit({"a": [], "c": {"k": True}}, shape) == "c.k is not a number"
    assert misfit([], shape) == "what it holds is not a mapping"
    assert misfit({"a": {}}, shape) == "a is not a list" and misfit({}, shape) == "a is missing"
