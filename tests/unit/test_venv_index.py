# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_venv with an index of the LAN: an upstream on loopback with a login, and one with a certificate of an authority made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.environments import Run, Site
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream
from tests.support.wheels import build_wheel, source_tree, write_tree
from tests.unit.conftest import ModuleFailed

PASSWORD = "hunter2%2Fx"


@pytest.fixture
def site(tmp_path: Path, run_module: Run) -> Site:
    return Site(tmp_path / "bundle", tmp_path / "prefix", run_module)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Upstream]:
    (tmp_path / "upstream" / "index").mkdir(parents=True)
    with Upstream(tmp_path / "upstream") as upstream:
        upstream.require_login("/", "node", "hunter2/x")
        yield upstream


def url(index: Upstream, login: str = f"node:{PASSWORD}@") -> str:
    return f"{index.url.replace('://', f'://{login}')}/simple/"


def from_index(site: Site, index: Upstream, *, archive: bool = True) -> Path:
    """Lock alpha and beta, which only the index has, shared, which the bundle has, and a wheel of a commit."""
    shared, commit = build_wheel(site.index, "shared", "1.0"), build_wheel(site.bundle / "wheelhouse" / "git" / "x", "of-a-commit", "1.0")
    wheels = [build_wheel(site.index, name, "1.0") for name in ("alpha", "beta")]
    lock = site.lock(shared, *wheels, archives=(commit,) if archive else ())
    site.tell(lock, served=[shared, *wheels])
    for wheel in wheels:
        shutil.move(wheel, index.root / "index" / wheel.name)
    # what the bundle has is not even asked for
    shutil.copy(shared, index.root / "index" / shared.name)
    return lock


def holds(root: Path, *texts: str) -> list[Path]:
    """Return the files below a folder in which one of the texts is."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and any(text.encode() in path.read_bytes() for text in texts)
    ]


def test_quad_and_what_is_said(site: Site, index: Upstream) -> None:
    lock, arguments = from_index(site, index), {"package_source": "index", "index_url": url(index)}
    would = site(lock, check=True, **arguments)
    masked = f"{index.url.replace('://', '://***@')}/simple/"
    assert would["remote"] == [
        {"name": name, "version": "1.0", "file": f"{name}-1.0-py3-none-any.whl", "from": masked} for name in ("alpha", "beta")
    ]
    assert not site.prefix.exists() and index.requests() == []
    did = site(lock, **arguments)
    assert did["changed"] and did["remote"] == would["remote"]
    assert did["messages"][0] == {
        "kind": "remote_package",
        "colour": "yellow",
        "text": f"[local-deps] remote fallback for alpha-1.0-py3-none-any.whl from {masked}",
    }
    assert site.imports("import alpha, beta, shared, of_a_commit; print(alpha.__version__)") == "1.0"
    assert not index.requests("/simple/shared/") and not index.requests("/simple/of-a-commit/")
    index.forget()
    for again in (site(lock, check=True, **arguments), site(lock, **arguments), site(lock)):
        assert not again["changed"] and again["remote"] == [] and again["messages"] == []
    assert index.requests() == []
    found = site(lock, state="verified")
    assert {package["name"]: package["source"] for package in found["installed"]} == {
        "alpha": f"{index.url}/simple/",
        "beta": f"{index.url}/simple/",
        "of-a-commit": "wheelhouse/git/x/of_a_commit-1.0-py3-none-any.whl",
        "shared": "wheelhouse/index/shared-1.0-py3-none-any.whl",
    }
    assert "hunter2" not in str((would, did, found)) and holds(site.prefix, "hunter2") == []


def test_through_a_proxy_that_wants_a_login(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "open" / "index").mkdir(parents=True)
    with Upstream(tmp_path / "open") as index:
        host, port = index.url.partition("://")[2].rsplit(":", 1)
        with Proxy("someone:pa55", to=(host, int(port))) as proxy:
            lock = from_index(site, index)
            did = site(lock, package_source="index", index_url="http://index.invalid/simple/", proxy=proxy.url)
    assert did["changed"] and "index.invalid:80" in proxy.asked
    assert "pa55" not in str(did) and holds(site.prefix, "pa55") == []


def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(site: Site, index: Upstream) -> None:
    with pytest.raises(ModuleFailed, match="rlinf_node_proxy"):
        site(from_index(site, index), package_source="index", index_url=url(index), proxy="socks5://127.0.0.1:1")
    assert not site.prefix.exists()


def test_without_the_fallback_every_missing_file_is_named(site: Site, index: Upstream) -> None:
    lock = from_index(site, index)
    for arguments, remedy in (
        ({}, "Run the playbook push"),
        ({"package_source": "index", "index_url": url(index), "remote_fallback": False}, "rlinf_remote_fallback is false"),
    ):
        for check in (True, False):
            with pytest.raises(ModuleFailed) as caught:
                site(lock, check=check, **arguments)
            message = str(caught.value)
            assert (
                "lacks 2 of 4 files" in message and "alpha-1.0-py3-none-any.whl, beta-1.0-py3-none-any.whl" in message and remedy in message
            )
            assert caught.value.result["missing"] == ["alpha-1.0-py3-none-any.whl", "beta-1.0-py3-none-any.whl"]
            assert "hunter2" not in str(caught.value.result)
    assert not site.prefix.exists() and index.requests() == []
    with pytest.raises(ModuleFailed, match=r"none is named\. Set rlinf_node_index_url"):
        site(lock, package_source="index")


def test_what_was_built_of_a_commit_never_comes_from_an_index(site: Site, index: Upstream) -> None:
    lock = from_index(site, index)
    wheel = next((site.bundle / "wheelhouse" / "git").rglob("*.whl"))
    shutil.move(wheel, index.root / "index" / wheel.name)
    with pytest.raises(ModuleFailed, match=r"lacks 1 of 4 files.*an index has not what was built.*\(of_a_commit-1\.0-py3-none-any\.whl\)"):
        site(lock, package_source="index", index_url=url(index))
    assert not site.prefix.exists() and index.requests() == []


def test_other_content_than_locked_or_nothing_at_all(site: Site, index: Upstream) -> None:
    site(site.lock(build_wheel(site.index, "former", "1.0"), name="former"))
    former = site.link.resolve()
    lock, arguments = from_index(site, index), {"package_source": "index", "index_url": url(index)}
    build_wheel(index.root / "index", "alpha", "1.0", modules={"alpha.py": "other = 1\n"})
    with pytest.raises(ModuleFailed, match=r"(?s)installing 2 packages of openvla from http://\*\*\*@127\.0\.0\.1.*alpha"):
        site(lock, **arguments)
    (index.root / "index" / "alpha-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModuleFailed, match=r"(?s)installing 2 packages.*alpha"):
        site(lock, **arguments)
    with pytest.raises(ModuleFailed, match=r"(?s)installing 2 packages") as caught:
        site(lock, **{**arguments, "index_url": url(index, "node:wrong-secret@")})
    assert "wrong-secret" not in str(caught.value.result) and holds(site.prefix, "wrong-secret", "hunter2") == []
    assert site.link.resolve() == former


def test_damage_of_what_came_from_an_index_is_found(site: Site, index: Upstream) -> None:
    lock, arguments = from_index(site, index), {"package_source": "index", "index_url": url(index)}
    site(lock, **arguments)
    folder = next(site.link.resolve().glob("lib/*/site-packages"))
    (folder / "alpha.py").write_text("changed = 1\n")
    with pytest.raises(ModuleFailed, match=r"damaged files of 1 packages \(alpha: alpha.py\)"):
        site(lock, state="verified")
    assert site(lock, **arguments)["reason"] == "found damaged: alpha" and site(lock, state="verified")["verified"] == 4
    metadata = next(site.link.resolve().glob("lib/*/site-packages/beta-1.0.dist-info/METADATA"))
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    with pytest.raises(ModuleFailed, match="damaged files of 1 packages"):
        site(lock, state="verified")


def test_a_login_from_netrc(site: Site, index: Upstream, tmp_path: Path) -> None:
    write_tree(tmp_path / "home", {".netrc": "machine 127.0.0.1 login node password hunter2/x\n"})
    (tmp_path / "home" / ".netrc").chmod(0o600)
    result = site(from_index(site, index), package_source="index", index_url=url(index, ""), env={"HOME": str(tmp_path / "home")})
    assert result["changed"] and len(result["remote"]) == 2 and holds(site.prefix, "hunter2") == []


def test_what_building_an_editable_needs_comes_from_the_index_too(site: Site, index: Upstream, tmp_path: Path) -> None:
    tool = build_wheel(site.index, "build-tool", "1.0")
    editable = write_tree(tmp_path / "src", source_tree("edit", "0.1", build_requires=["build-tool"]))
    lock = site.lock(build_wheel(site.index, "shared", "1.0"))
    site.tell(lock, served=[tool], build=[tool])
    shutil.move(tool, index.root / "index" / tool.name)
    # a newer one, which the lock does not have, is not taken
    build_wheel(index.root / "index", "build-tool", "2.0")
    arguments: dict[str, Any] = {"editables": [{"package": "edit", "path": str(editable)}]}
    with pytest.raises(ModuleFailed, match=r"lacks 1 of 1 files.*build_tool"):
        site(lock, **arguments)
    result = site(lock, **arguments, package_source="index", index_url=url(index))
    assert [package["file"] for package in result["remote"]] == [tool.name] and site.imports(
        "import edit; print(edit.__version__)"
    ) == "0.1"
    assert index.requests(f"/index/{tool.name}") and not index.requests("/index/build_tool-2.0*.whl")


def test_an_authority_of_ones_own(site: Site, tmp_path: Path) -> None:
    authority, key, certificate = (tmp_path / name for name in ("authority.pem", "server.key", "server.pem"))
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=Authority", "-days", "2",
            "-keyout", tmp_path / "authority.key", "-out", authority)  # fmt: skip
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=index", "-keyout", key,
            "-out", tmp_path / "request")  # fmt: skip
    (tmp_path / "extensions").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", tmp_path / "request", "-CA", authority, "-CAkey", tmp_path / "authority.key", "-CAcreateserial", "-days", "2",
            "-extfile", tmp_path / "extensions", "-out", certificate)  # fmt: skip
    (tmp_path / "upstream" / "index").mkdir(parents=True)
    upstream = Upstream(tmp_path / "upstream")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    upstream._server.socket = context.wrap_socket(upstream._server.socket, server_side=True)
    upstream.url = upstream.url.replace("http://", "https://")
    with upstream:
        lock = from_index(site, upstream)
        arguments = {"package_source": "index", "index_url": f"{upstream.url}/simple/"}
        with pytest.raises(ModuleFailed, match=r"(?s)installing 2 packages.*certificate"):
            site(lock, **arguments)
        assert site(lock, **arguments, ca_bundle=str(authority))["changed"]
        assert site.imports("import alpha, beta; print(beta.__version__)") == "1.0"


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
