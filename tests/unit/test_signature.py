# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles that are signed with a real ssh-keygen, and machines that accept them or do not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Trust
from tests.support.kills import kill_points, killed_at
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
WHO = "release@example.org"


def new_key(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path, *options], check=True)
    return path


def line_of(key: Path, options: str = "") -> str:
    """Return the line of ALLOWED SIGNERS that trusts a key."""
    return " ".join(filter(None, [WHO, options, *key.with_name(f"{key.name}.pub").read_text(encoding="utf-8").split()[:2]])) + "\n"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_key(tmp_path_factory.mktemp("keys") / "key")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_key(tmp_path_factory.mktemp("keys") / "other")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = Bundle(tmp_path / "bundle")
    add(bundle, "first.whl")
    return bundle


def add(bundle: Bundle, name: str) -> None:
    bundle.wheels.mkdir(parents=True, exist_ok=True)
    (bundle.wheels / name).write_bytes(name.encode())


def seal(run: Run, bundle: Bundle, key: Path | None, **options: Any) -> dict[str, Any]:
    return run("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed", "signing_key": str(key) if key else None}, **options)


def verify(run: Run, bundle: Bundle, signers: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    options = {"check": more.pop("check", False)}
    arguments = {"bundle_dir": str(bundle.root), "stamp": str(tmp_path / "state" / "bundle.json"), "trusted_signers": signers, **more}
    return run("rlinf_bundle", arguments, **options)


def test_quad(run_module: Run, bundle: Bundle, key: Path, tmp_path: Path) -> None:
    assert seal(run_module, bundle, key, check=True)["changed"] and not bundle.signature.exists()
    did = seal(run_module, bundle, key)
    assert did["changed"] and "signed by SHA256:" in did["reason"]
    before = bundle.signature.read_bytes()
    assert not seal(run_module, bundle, key, check=True)["changed"]
    assert not seal(run_module, bundle, key)["changed"] and bundle.signature.read_bytes() == before
    # a node: check, apply, check, apply
    signers = line_of(key)
    assert verify(run_module, bundle, signers, tmp_path, check=True)["changed"] and not (tmp_path / "state").exists()
    assert verify(run_module, bundle, signers, tmp_path)["changed"]
    stamp = json.loads((tmp_path / "state" / "bundle.json").read_text())
    assert stamp["signed_by"][0] == WHO and stamp["signed_by"][1].startswith("SHA256:")
    assert json.loads((tmp_path / "state" / "accepted.json").read_text()) == {"serial": 1, "manifest": stamp["manifest"]}
    for check in (True, False):
        assert not verify(run_module, bundle, signers, tmp_path, check=check)["changed"]


def test_a_bundle_sealed_before_is_signed_when_a_key_comes_or_changes(run_module: Run, bundle: Bundle, key: Path, other: Path) -> None:
    seal(run_module, bundle, None)
    manifest = bundle.manifest.read_bytes()
    for one in (key, other):
        assert seal(run_module, bundle, one)["changed"]
        assert not seal(run_module, bundle, one)["changed"]
    assert bundle.manifest.read_bytes() == manifest
    # without a key what is right stays, and what is of another manifest goes
    assert not seal(run_module, bundle, None)["changed"] and bundle.signature.exists()
    add(bundle, "second.whl")
    assert "the signature was of another manifest, and is removed" in seal(run_module, bundle, None)["reason"]
    assert not bundle.signature.exists()


def test_who_is_not_trusted_is_refused_before_anything_is_read(
    run_module: Run, bundle: Bundle, key: Path, other: Path, tmp_path: Path
) -> None:
    seal(run_module, bundle, None)
    signers = line_of(key)

    def refused(lines: str = signers) -> str:
        with pytest.raises(ModuleFailed) as caught:
            verify(run_module, bundle, lines, tmp_path)
        assert "rlinf_trusted_signers" in str(caught.value)
        assert [path.name for path in (tmp_path / "state").iterdir()] == [".bundle.json.lock"]
        return str(caught.value)

    assert "is not signed" in refused()
    seal(run_module, bundle, other)
    assert "is signed by the key SHA256:" in refused()
    # the right key, for something else
    bundle.signature.unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "file", bundle.manifest], check=True, capture_output=True)
    assert "is not what was signed" in refused()
    bundle.signature.unlink()
    seal(run_module, bundle, key)
    # what the line itself says is ssh-keygen's to judge
    assert "is signed by the key" in refused(line_of(key, 'namespaces="git"'))
    assert "is signed by the key" in refused(line_of(key, 'valid-before="20200101"'))
    assert verify(run_module, bundle, line_of(other) + line_of(key, 'namespaces="rlinf.offline"'), tmp_path)["changed"]


def test_any_changed_byte_is_refused(run_module: Run, bundle: Bundle, key: Path, tmp_path: Path) -> None:
    seal(run_module, bundle, key)
    signers = line_of(key)
    trust = Trust(signers, tmp_path / "state" / "accepted.json")
    for path in (bundle.manifest, bundle.signature):
        whole = path.read_bytes()
        # the first, the last, and some of every part between; bytes that are no text among them
        places = sorted({0, 1, len(whole) - 2, *range(5, len(whole) - 1, max(1, len(whole) // 8))})
        for place in places:
            for flip in (0x01, 0x80):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
                with pytest.raises(BundleError, match=r"is not what was signed|is signed by the key"):
                    _bundle.verify(bundle, trust=trust)
        for cut in (b"", whole[: len(whole) // 2]):
            path.write_bytes(cut)
            with pytest.raises(BundleError, match=r"is not what was signed|is signed by the key"):
                _bundle.verify(bundle, trust=trust)
        path.write_bytes(whole)
    assert verify(run_module, bundle, signers, tmp_path)["changed"]
    # one signature covers every byte: what the manifest lists is compared with it
    (bundle.wheels / "first.whl").write_bytes(b"FIRST.whl")
    with pytest.raises(ModuleFailed, match="1 damaged"):
        verify(run_module, bundle, signers, tmp_path, full=True)


def test_the_serial_goes_back_only_when_it_is_meant(run_module: Run, bundle: Bundle, key: Path, tmp_path: Path) -> None:
    seal(run_module, bundle, key)
    old = bundle.manifest.read_bytes(), bundle.signature.read_bytes()
    add(bundle, "second.whl")
    seal(run_module, bundle, key)
    signers = line_of(key)
    verify(run_module, bundle, signers, tmp_path)
    (bundle.wheels / "second.whl").unlink()
    bundle.manifest.write_bytes(old[0])
    bundle.signature.write_bytes(old[1])
    # a lost stamp forgets nothing
    (tmp_path / "state" / "bundle.json").unlink()
    with pytest.raises(ModuleFailed, match=r"serial 1, is older than the one that was accepted here last, serial 2.*rlinf_allow_downgrade"):
        verify(run_module, bundle, signers, tmp_path)
    assert verify(run_module, bundle, signers, tmp_path, allow_downgrade=True)["changed"]
    assert json.loads((tmp_path / "state" / "accepted.json").read_text())["serial"] == 1
    # of one serial there is one bundle
    forged = json.loads(old[0]) | {"created": "2020-01-01T00:00:00+00:00"}
    bundle.manifest.write_text(json.dumps(forged))
    bundle.signature.unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "rlinf.offline", bundle.manifest], check=True, capture_output=True)
    with pytest.raises(ModuleFailed, match="serial 1, is another than the one that was accepted here last"):
        verify(run_module, bundle, signers, tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path, "is not there. Make one with ssh-keygen -t ed25519"),
        (lambda path: path.write_text("no key") and path, "is no key that ssh-keygen reads"),
        (lambda path: new_key(path, "-N", "secret"), "could not be signed with"),
    ],
)
def test_a_key_that_does_not_serve_is_named(
    run_module: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], said: str
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(ModuleFailed, match=said) as caught:
        seal(run_module, bundle, make(tmp_path / "key"))
    assert "rlinf_signing_key" in str(caught.value)
    assert not bundle.signature.exists()


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Iterator[dict[str, str]]:
    socket = tmp_path_factory.mktemp("a") / "s"
    running = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert running.poll() is None
        env = {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", key], env={**os.environ, **env}, check=True)
        yield env
    finally:
        running.terminate()
        running.wait()


def test_an_agent_may_hold_the_key(run_module: Run, bundle: Bundle, key: Path, agent: dict[str, str], tmp_path: Path) -> None:
    public = tmp_path / "release.pub"
    public.write_bytes(key.with_name("key.pub").read_bytes())
    assert seal(run_module, bundle, public, env=agent)["changed"]
    assert verify(run_module, bundle, line_of(key), tmp_path)["changed"]


def test_killed_anywhere_the_next_sealing_signs(bundle: Bundle, key: Path, tmp_path: Path) -> None:
    trust = Trust(line_of(key), tmp_path / "accepted.json")
    _bundle.seal(bundle, key=key)
    add(bundle, "second.whl")
    kept = {path: path.read_bytes() for path in (bundle.manifest, bundle.signature)}

    def again() -> None:
        for path, content in kept.items():
            path.write_bytes(content)

    points = kill_points(lambda: _bundle.seal(bundle, key=key), tmp_path / "trace")
    assert len(points) > 5
    for point in points:
        again()
        assert killed_at(point, lambda: _bundle.seal(bundle, key=key))
        # a manifest without its signature is refused, and never another one accepted
        try:
            serial = _bundle.verify(bundle, trust=trust, check=True).serial
        except BundleError:
            serial = None
        assert serial in (None, 2)
        _bundle.seal(bundle, key=key)
        assert _bundle.verify(bundle, trust=trust, check=True).serial == 2
