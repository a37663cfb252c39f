# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a reader is given, it gives a result or an error of its own, never another exception.

Requirement and pyproject files have theirs in ``test_patch_properties``, whole archives in ``test_archive``. By default few examples are
tried; ``RLINF_EXAMPLES=5000 pytest tests/unit/test_readers.py`` tries more, and what it finds becomes an ``@example``.
"""

from __future__ import annotations

import copy
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import (
    _air_gap,
    _apt_resolve,
    _bundle,
    _fit,
    _frozen,
    _gather,
    _install,
    _lock,
    _patch,
    _pylock,
    _reset,
    _target,
    _wheel,
    _worktrees,
)
from ansible_collections.rlinf.offline.plugins.module_utils._cache import AssetCache
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset, Catalog, Repository
from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, effective_lock
from ansible_collections.rlinf.offline.plugins.module_utils._effective import Package as EffectivePackage
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, LockError, OfflineError, TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._existing import Existing
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher, Records
from ansible_collections.rlinf.offline.plugins.module_utils._files import switch_link
from ansible_collections.rlinf.offline.plugins.module_utils._git import session
from ansible_collections.rlinf.offline.plugins.module_utils._install import Installer, Wanted
from ansible_collections.rlinf.offline.plugins.module_utils._journal import Journal
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._mend import mend
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_lock, read_locks
from ansible_collections.rlinf.offline.plugins.module_utils._releases import before_push
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit
from ansible_collections.rlinf.offline.plugins.module_utils._shipped import Shipped
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Trust
from ansible_collections.rlinf.offline.plugins.module_utils._submodules import resolve_relative
from ansible_collections.rlinf.offline.plugins.module_utils._survey import Survey, surveyed_releases, surveyed_states
from ansible_collections.rlinf.offline.plugins.module_utils._swarm import swarm_wheels
from ansible_collections.rlinf.offline.plugins.module_utils._urls import (
    RepositoryId,
    Rewrites,
    check_url,
    redact,
    secrets,
    without_userinfo,
)
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Interpreter, Uv
from ansible_collections.rlinf.offline.plugins.module_utils._venv import Venv
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


PYPROJECT = {
    "build-system": {"requires": ["setuptools"], "build-backend": "x"},
    "dependency-groups": {"dev": ["a"]},
    "tool": {"uv": {"default-groups": ["dev"], "dependency-metadata": [{"name": "a"}]}},
}


@trials
@given(altered(PYPROJECT).map(as_toml) | st.binary(max_size=60), st.integers(0, 2**64), st.integers(0, 400))
@example(b"build-system = 1", 0, 0)
@example(b"build-system = {requires = 5}", 0, 0)
@example(b"[", 0, 0)
@example(b"\x00\x00", 65536, 267)
def test_a_pyproject_and_the_sdist_that_holds_it(bundle: Bundle, content: bytes, noise: int, place: int) -> None:
    pyproject = bundle.records / "pyproject.toml"
    pyproject.write_bytes(content)
    answers(lambda: sorted(_gather.build_requires(pyproject)))
    made = {"a-1.tar.gz": io.BytesIO(), "a-1.zip": io.BytesIO()}
    with (
        tarfile.open(fileobj=made["a-1.tar.gz"], mode="w:gz") as packed,
        zipfile.ZipFile(made["a-1.zip"], "w", zipfile.ZIP_DEFLATED) as zipped,
    ):
        packed.add(pyproject, "a-1/pyproject.toml")
        zipped.write(pyproject, "a-1/pyproject.toml")
    for name, stream in made.items():
        data = stream.getvalue()
        at = place % len(data)
        sdist = bundle.records / name
        sdist.write_bytes(data if not noise else data[:at] + noise.to_bytes(9, "big") + data[at + 9 :])
        answers(lambda sdist=sdist: _gather.check_sdist(sdist))
        answers(lambda sdist=sdist: sorted(_gather.sdist_content(sdist).build_requires))


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
@example(b'{"python": "3.11", "packages": []}')
def test_locks_of_a_bundle(bundle: Bundle, content: bytes) -> None:
    place = bundle.targets / "commit" / TARGET.name / "lock.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    place.with_name("pylock.target.toml").write_text('lock-version = "1.0"\ncreated-by = "x"\n', encoding="utf-8")
    answers(lambda: list(read_locks(bundle)))
    answers(lambda: files_for(bundle, ["wheelhouse/a", "targets/x"], [TARGET.name], "debian-12/amd64"))
    answers(lambda: effective_lock(bundle, place.with_name("pylock.target.toml"), []))
    manifest = {"repositories": {CATALOG.repositories[TARGET.project].id.mirror: {"commit": "commit"}}}
    answers(lambda: _fit._need(TARGET, _fit._lock(bundle, manifest, TARGET, CATALOG) or {}, CATALOG, {}, {}))


WHOLE = {
    **LOCK,
    "definition": "0" * 64,
    "torch_backend": "pypi",
    "cut_off": None,
    "steps": [{"name": "s", "pins": {"a": "1"}}],
    "files": {"pyproject.toml": "0" * 64},
    "git": {"b": {"url": "https://h.example/o/b.git", "commit": "c", "subdirectory": None}},
    "pins": ["a==1"],
    "left_out": [],
    "packages": [
        {**item, "served": False, "source": source}
        for item, source in zip(
            LOCK["packages"],
            [
                {"url": "https://h.example/a.tar.gz", "sha256": "0" * 64, "size": 1},
                {"url": "https://h.example/o/b.git", "commit": "c", "subdirectory": None},
            ],
            strict=True,
        )
    ],
    "build": [],
}


@trials
@given(as_json(WHOLE))
@example(json.dumps({**WHOLE, "packages": [{**WHOLE["packages"][0], "source": {}}]}).encode())
@example(json.dumps({**WHOLE, "project": {}}).encode())
def test_a_lock_that_is_kept(bundle: Bundle, content: bytes) -> None:
    place = bundle.records / "lock.json"
    place.write_bytes(content)
    locker = _lock.Locker(bundle, CATALOG, _lock.Settings(platform=_wheel.Platform.parse("x86_64-manylinux_2_31")))

    def read() -> None:
        lock = read_lock(place, LockError, _lock._WHOLE)
        locker._known(TARGET, lock, check=True)
        Shipped.of_lock(lock)

    answers(read)
    answers(lambda: [item["subdirectory"] for item in read_lock(place, TargetError, _target._LOCK)["editables"]])


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


ASSETS = {"data": {"url": "https://h.example/d.tar.gz", "sha256": "0" * 64, "strip": False, "tree": "0" * 64}}


@trials
@given(as_json(ASSETS))
@example(b'{"data": {}}')
def test_what_assets_were_unpacked_from(bundle: Bundle, content: bytes) -> None:
    bundle.assets.joinpath("data").mkdir(parents=True, exist_ok=True)
    (bundle.records / "assets.json").write_bytes(content)
    entry = Asset("data", "https://h.example/d.tar.gz", "data", unpack=True)

    def read() -> None:
        cache = AssetCache(bundle, Fetcher(Network()))
        problem = cache._problem(entry, cache._archive(entry))
        assert problem and cache._before(entry, problem)

    answers(read)


@trials
@given(as_json(RECORDS))
@example(b"[]")
@example(b'{"https://h.example/a.whl": {}}')
@example(b'{"https://h.example/a.whl": 1}')
def test_which_wheels_a_bundle_has_copies_of(bundle: Bundle, content: bytes) -> None:
    (bundle.records / "urls.json").write_bytes(content)
    with session() as git:
        answers(lambda: _patch._Local(bundle, git))


REPOSITORY = Repository("r", "https://h.example/o/r.git")
NOTE = {"format": 1, "repository": REPOSITORY.id.key, "commit": "0" * 40, "moving": "1" * 40}
SCRIPTED = {"kept": {"a": "0" * 64}, "done": {"a": "0" * 64}}


@trials
@given(as_json(NOTE), as_json(SCRIPTED))
@example(b"{}", b"{}")
@example(b"[]", b"[]")
@example(b"1", b"1")
def test_notes_in_a_working_copy(bundle: Bundle, note: bytes, scripted: bytes) -> None:
    place = bundle.root / "copy"
    (place / ".git").mkdir(parents=True, exist_ok=True)
    (place / _worktrees.NOTE).write_bytes(note)
    (place / _worktrees.SCRIPTED).write_bytes(scripted)
    answers(lambda: _worktrees.plan(_worktrees.Worktree(bundle, REPOSITORY, "0" * 40, place)))
    answers(lambda: _worktrees.by_scripts(place, ["a"]))
    answers(lambda: _reset.loss(place))


ENVIRONMENT = {
    "format": 1,
    "target": "t",
    "digest": "0" * 64,
    "python": {"version": "3.11.9", "executable": "/usr/bin/python3.11"},
    "exports": {"A": "1", "PATH": {"prepend": "/x"}},
    "scripts": [{"name": "s", "cwd": "/", "argv": ["sh"], "env": {}, "removes": [], "files": {}}],
    "removes": ["x/*"],
    "skipped": [],
    "packages": {"a": {"name": "a", "version": "1", "shown": "a==1"}},
    "remote": {"a": "https://h.example"},
    "fingerprints": {"a": [1, 2]},
    "created": 1,
    "previous": "t-111111111111",
    "damaged": ["a"],
}
UV = Uv(Path("/nowhere/uv"), {})


@trials
@given(as_json(ENVIRONMENT))
@example(b"{}")
@example(b"[]")
@example(b'{"created": "x"}')
@example(b'{"created": 1}')
def test_stamps_of_environments(bundle: Bundle, content: bytes) -> None:
    node = Node(bundle.root / "prefix")
    venv = Venv(node, bundle, "t", UV)
    for name in ("t-000000000000", "t-111111111111"):
        (node.venvs / name).mkdir(parents=True, exist_ok=True)
        (node.venvs / name / "rlinf.json").write_bytes(content)
    switch_link(venv.link, "t-000000000000")
    interpreter = Interpreter(Path("python"), Path("/usr/bin/python3.11"), "3.11.9")
    answers(lambda: venv.plan(Wanted(EffectiveLock("==3.11.*", ()), interpreter)))
    answers(lambda: venv.verify(None, [], exact=True, mark=False))
    answers(venv.previous)
    answers(lambda: venv.generations.removable(1, None))
    answers(lambda: _air_gap.digests(node, ["t"], None))


@trials
@given(as_json({**ENVIRONMENT, "former": {"a": None}}))
@example(b"{}")
def test_what_is_written_down_in_an_existing_environment(bundle: Bundle, content: bytes) -> None:
    place = bundle.root / "existing"
    (place / "rlinf").mkdir(parents=True, exist_ok=True)
    (place / "lib/python3.11/site-packages").mkdir(parents=True, exist_ok=True)
    (place / "bin").mkdir(exist_ok=True)
    for name in ("t", "other"):
        (place / "rlinf" / f"{name}.json").write_bytes(content)
    existing = Existing(Installer(Node(bundle.root / "prefix"), bundle, "t", UV), place)
    packages = {"a": {"shown": "a==2"}}
    answers(lambda: existing._to_install(EffectiveLock("==3.11.*", ()), {}, replace(existing).known))
    answers(lambda: existing._refuse_rivals(packages))
    answers(lambda: replace(existing).verify(None, [], mark=False))
    answers(lambda: replace(existing).withdraw(check=True))


@trials
@given(as_json({"url": "file:///x", "dir_info": {"editable": True}}))
@example(b"[]")
@example(b"[" * 100_000)
def test_where_an_installed_package_says_that_it_came_from(bundle: Bundle, content: bytes) -> None:
    (bundle.records / "direct_url.json").write_bytes(content)
    package = EffectivePackage("a", None, "editable", Path("/y"))
    assert _install._wrong_editable(package, bundle.records) == "a is not the editable at /y"


PINS = {
    "definition": "0" * 64,
    "project": "0" * 64,
    "python": "3.11",
    "platform": "x86_64-manylinux_2_31",
    "torch_backend": "pypi",
    "cut_off": None,
    "steps": [{"name": "s", "pins": {"a": "1"}}],
    "sha256": {"a": "0" * 64},
    "build": {"b": "1"},
}


@trials
@given(as_json(PINS))
@example(json.dumps({**PINS, "steps": [1]}).encode())
def test_pins_that_ship(bundle: Bundle, content: bytes) -> None:
    place = bundle.records / "pins.json"
    place.write_bytes(content)
    answers(lambda: (Shipped.read(place).constraints(["s"]), Shipped.read(place).build_constraints, Shipped.read(place).json))


@trials
@given(as_json({"wheels": {"3.11": [{"filename": "a.whl"}]}}))
@example(b'{"wheels": {"3.11": [{}]}}')
def test_wheels_of_a_swarm(bundle: Bundle, content: bytes) -> None:
    (bundle.records / "swarm.json").write_bytes(content)
    answers(lambda: swarm_wheels(bundle))


def test_a_shape_names_what_does_not_fit() -> None:
    shape = {"a": [{"b": (str, type(None))}], "c?": {str: int}, "d?": bool}
    assert misfit({"a": [{"b": "x"}, {"b": None}], "c": {"k": 1}, "d": True, "more": 1}, shape) == ""
    assert misfit({"a": [{"b": "x"}, {"b": 1}]}, shape) == "a[1].b is not text"
    assert misfit({"a": [{}]}, shape) == "a[0].b is missing"
    assert misfit({"a": [], "c": {"k": True}}, shape) == "c.k is not a number"
    assert misfit([], shape) == "what it holds is not a mapping"
    assert misfit({"a": {}}, shape) == "a is not a list" and misfit({}, shape) == "a is missing"
