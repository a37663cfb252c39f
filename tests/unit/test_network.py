# SPDX-License-Identifier: GPL-3.0-or-later
"""One network for git, requests and uv: whatever it takes to reach a server, each of them does it alike, and no credential comes out."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from tests.support.authority import make_authority
from tests.support.origins import Origin
from tests.support.proxy import Proxy
from tests.support.upstream import SIMPLE_JSON, Fault, Upstream
from tests.support.wheels import build_wheel, sha256
from tests.unit.conftest import ModuleFailed

GITHUB = "https://github.com/"
NOWHERE = "http://never.invalid/"
WHEEL = "apex-0.1-cp311-cp311-linux_x86_64.whl"
TOOL = "tomlkit-0.13-py3-none-any.whl"
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass(frozen=True)
class Site:
    """What the upstream holds for each of the three: a repository, a wheel of a release, and a package of an index."""

    folder: Path
    run: Run

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def root(self) -> Path:
        return self.folder / "upstream"

    def by_git(self, base: str, env: Mapping[str, str], **network: Any) -> dict[str, Any]:
        repos = [{"name": "name", "url": f"{GITHUB}owner/name.git"}]
        return self._call("rlinf_repo_mirror", env, {"repos": repos, "url_rewrites": {GITHUB: f"{base}git/github.com/"}, **network})

    def by_requests(self, base: str, env: Mapping[str, str], **network: Any) -> dict[str, Any]:
        wheels = [{"name": "apex", "url": f"{GITHUB}owner/releases/{WHEEL}"}]
        return self._call("rlinf_wheel_cache", env, {"wheels": wheels, "url_rewrites": {GITHUB: f"{base}git/github.com/"}, **network})

    def by_uv(self, base: str, env: Mapping[str, str], **network: Any) -> dict[str, Any]:
        """uv asks the index, and requests fetches what it names."""
        return self._call("rlinf_tools", env, {"requirements": "tomlkit==0.13\n", "index_url": f"{base}simple/", **network})

    def _call(self, module: str, env: Mapping[str, str], args: dict[str, Any]) -> dict[str, Any]:
        given = {"bundle_dir": str(self.bundle), "timeout": 20, **args}
        return self.run(module, given, diff=True, env={"HOME": str(self.folder / "home"), **env})

    def everything(self, base: str, env: Mapping[str, str] | None = None, **network: Any) -> str:
        """Fetch by each; return all that the modules said."""
        return json.dumps([fetch(base, env or {}, **network) for fetch in (self.by_git, self.by_requests, self.by_uv)])

    def refusals(self, base: str, env: Mapping[str, str] | None = None, **network: Any) -> list[str]:
        """Return what each says when it fails."""
        said = []
        for fetch in (self.by_git, self.by_requests, self.by_uv):
            with pytest.raises(ModuleFailed) as failed:
                fetch(base, env or {}, **{"timeout": 2, **network})
            said.append(json.dumps(failed.value.result))
        return said

    def assert_complete(self) -> None:
        assert (self.bundle / "repos/github.com/owner/name.git/HEAD").is_file()
        assert sha256(self.bundle / "wheels" / WHEEL) == sha256(self.root / "git/github.com/owner/releases" / WHEEL)
        assert sha256(self.bundle / "tools" / TOOL) == sha256(self.root / "index" / TOOL)


@pytest.fixture
def site(tmp_path: Path, run_module: Run) -> Site:
    (tmp_path / "home").mkdir()
    build_wheel(tmp_path / "upstream/index", "tomlkit", "0.13")
    build_wheel(tmp_path / "upstream/git/github.com/owner/releases", "apex", "0.1", tags="cp311-cp311-linux_x86_64")
    Origin(tmp_path / "upstream", "github.com/owner/name.git").commit(file="one\n")
    return Site(tmp_path, run_module)


@pytest.fixture
def upstream(site: Site) -> Iterator[Upstream]:
    with Upstream(site.root, relative_links=True) as server:
        yield server


def address(upstream: Upstream) -> tuple[str, int]:
    host, _colon, port = upstream.url.rpartition("/")[2].partition(":")
    return host, int(port)


# -- proxies


def test_a_proxy_that_wants_a_login_leads_everywhere(site: Site, upstream: Upstream) -> None:
    with Proxy("someone:pa55%40word".replace("%40", "@"), to=address(upstream)) as proxy:
        given = f"http://someone:pa55%40word@{proxy.address}"
        said = site.everything(NOWHERE, proxy=given)
        site.assert_complete()
        assert set(proxy.asked) == {"never.invalid:80"}
        shutil.rmtree(site.bundle)
        refused = site.refusals(NOWHERE, proxy=f"http://someone:wr0ng@{proxy.address}")
    assert "rlinf_proxy" in refused[0] and "rlinf_proxy" in refused[1] and "407" in refused[2]
    assert not [word for word in ("pa55", "wr0ng") if word in "".join([said, *refused])]


def test_the_environments_proxy_counts_where_none_is_given(site: Site, upstream: Upstream) -> None:
    with Proxy(to=address(upstream)) as proxy:
        site.everything(NOWHERE, {"http_proxy": proxy.url, "HTTP_PROXY": "http://127.0.0.1:1"})
        site.assert_complete()
        assert set(proxy.asked) == {"never.invalid:80"}


def test_what_no_proxy_names_is_reached_without_one(site: Site, upstream: Upstream) -> None:
    site.everything(f"{upstream.url}/", {"no_proxy": "elsewhere.invalid,127.0.0.1"}, proxy="http://127.0.0.1:1")
    site.assert_complete()


# -- authorities


def test_authorities_of_ones_own(site: Site, tmp_path: Path) -> None:
    authority, certificate = make_authority(tmp_path / "authority")
    with Upstream(site.root, certificate=certificate) as upstream, Proxy() as proxy:
        refused = site.refusals(f"{upstream.url}/")
        assert "rlinf_ca_bundle" in refused[0] and "rlinf_ca_bundle" in refused[1] and "UnknownIssuer" in refused[2]
        # the proxy is asked for a tunnel, and does not see what goes through it
        site.everything(f"{upstream.url}/", ca_bundle=str(authority), proxy=proxy.url)
        site.assert_complete()
        assert set(proxy.asked) == {upstream.url.rpartition("/")[2]}
        shutil.rmtree(site.bundle)
        site.everything(f"{upstream.url}/", {"SSL_CERT_FILE": str(authority)})
        site.assert_complete()


# -- credentials


def listing(folder: Path, *names: str) -> Path:
    """Make programs of these names that write down their arguments, as a process list would show them, and then are the real ones."""
    folder.mkdir()
    for name in names:
        program = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        stand_in = folder / name
        stand_in.write_text(f'#!/bin/sh\necho "$0 $*" >> "{folder}/arguments"\nexec "{program}" "$@"\n')
        stand_in.chmod(0o755)
    return folder / "arguments"


def test_credentials_in_urls_go_to_their_origin_and_come_out_nowhere(site: Site, upstream: Upstream, tmp_path: Path) -> None:
    upstream.require_login("/", "someone", "hidden/word")
    with pytest.raises(ModuleFailed, match=r"asks for credentials \(401\)"):
        site.by_requests(f"{upstream.url}/", {})
    arguments = listing(tmp_path / "bin", "git", "uv")
    base = f"{upstream.url}/".replace("://", "://someone:hidden%2Fword@")
    env = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    said = json.dumps([site.by_git(base, env), site.by_requests(base, env), site.by_uv(base, env, uv=str(tmp_path / "bin/uv"))])
    site.assert_complete()
    upstream.always("*", Fault(status=403))
    shutil.rmtree(site.bundle / "wheels")
    for fetch in (site.by_git, site.by_requests):
        with pytest.raises(ModuleFailed) as failed:
            fetch(base, env)
        said += json.dumps(failed.value.result)
    for path in site.bundle.rglob("*"):
        said += path.read_bytes().decode("latin-1") if path.is_file() else ""
    listed = arguments.read_text()
    assert "ls-remote" in listed and "pip compile" in listed
    assert "hidden" not in said + listed and "someone" not in listed


@pytest.mark.parametrize("same", [True, False], ids=["same origin", "another"])
def test_only_the_indexs_own_origin_gets_its_credentials(site: Site, upstream: Upstream, same: bool) -> None:
    upstream.require_login("/simple/", "someone", "hidden-word")
    with Upstream(site.root) as elsewhere:
        files = upstream if same else elsewhere
        entry = {"filename": TOOL, "url": f"{files.url}/index/{TOOL}", "hashes": {"sha256": sha256(site.root / "index" / TOOL)}}
        page = json.dumps({"meta": {"api-version": "1.1"}, "name": "tomlkit", "files": [entry]}).encode()
        upstream.always("/simple/tomlkit/", Fault(body=page, headers={"Content-Type": SIMPLE_JSON}))
        site.by_uv(f"{upstream.url}/".replace("://", "://someone:hidden-word@"), {})
        asked = files.requests(f"/index/{TOOL}")
    assert sha256(site.bundle / "tools" / TOOL) == sha256(site.root / "index" / TOOL)
    assert asked and all(("authorization" in request.headers) is same for request in asked if request.status == 200)


def test_a_login_from_netrc(site: Site, upstream: Upstream) -> None:
    upstream.require_login("/", "someone", "hidden-word")
    netrc = site.folder / "home/.netrc"
    netrc.write_text("machine 127.0.0.1 login someone password hidden-word\n")
    netrc.chmod(0o600)
    assert "hidden-word" not in site.everything(f"{upstream.url}/")
    site.assert_complete()


# -- indexes


@pytest.mark.parametrize("as_json", [True, False], ids=["PEP 691", "PEP 503"])
@pytest.mark.parametrize("relative_links", [True, False], ids=["relative", "absolute"])
def test_every_kind_of_index(site: Site, as_json: bool, relative_links: bool) -> None:
    with Upstream(site.root, as_json=as_json, relative_links=relative_links) as upstream:
        site.by_uv(f"{upstream.url}/", {})
    assert sha256(site.bundle / "tools" / TOOL) == sha256(site.root / "index" / TOOL)


def test_without_digests_of_the_index_it_is_what_uv_saw(site: Site, upstream: Upstream) -> None:
    page = f'<!DOCTYPE html><html><body><a href="../../index/{TOOL}">{TOOL}</a></body></html>'.encode()
    upstream.always("/simple/tomlkit/", Fault(body=page, headers={"Content-Type": "text/html"}))
    site.by_uv(f"{upstream.url}/", {})
    assert sha256(site.bundle / "tools" / TOOL) == sha256(site.root / "index" / TOOL)


# -- the settings themselves


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"proxy": "socks5://127.0.0.1:1080"}, "URL of an HTTP proxy"),
        ({"proxy": "proxy.example:3128"}, "URL of an HTTP proxy"),
        ({"proxy": "http://me:se$cret@proxy.example:3128"}, r"rlinf_proxy: the URL 'http://\*\*\*@"),
        ({"index_url": "file:///srv/index"}, "rlinf_index_url"),
        ({"ca_bundle": "/nowhere.pem"}, "rlinf_ca_bundle: /nowhere.pem is not there"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(params: dict[str, Any], words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        Network.of(params)


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("https://index.example/packages/a.whl", ("reader", "a/b")),
        ("https://INDEX.example:443/packages/a.whl", ("reader", "a/b")),
        ("https://index.example/github/owner/name", ("mirror", "")),
        ("http://index.example/packages/a.whl", None),
        ("https://index.example:8443/packages/a.whl", None),
        ("https://index.example.com/packages/a.whl", None),
        ("https://files.index.example/a.whl", None),
    ],
)
def test_credentials_are_for_an_origin(url: str, login: tuple[str, str] | None) -> None:
    rewrites = Rewrites({GITHUB: "https://mirror@index.example/github/"})
    assert Network(rewrites, index_url="https://reader:a%2Fb@index.example/simple/").login(url) == login
