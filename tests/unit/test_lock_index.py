# SPDX-License-Identifier: GPL-3.0-or-later
"""What an index can tell of upload times: judged by a real one, with and without them, behind a login, and dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher
from ansible_collections.rlinf.offline.plugins.module_utils._index import tells_upload_times
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from tests.support.upstream import Fault, Upstream
from tests.support.wheels import build_wheel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build_wheel(tmp_path / "index", "wheel", "0.45")
    return tmp_path


@pytest.fixture
def index(root: Path) -> Iterator[Upstream]:
    with Upstream(root) as running:
        yield running


def asked(url: str) -> bool | None:
    return tells_upload_times(Fetcher(Network(index_url=url, timeout=5)), url)


def test_an_index_that_says_when_files_were_uploaded(index: Upstream):
    assert asked(f"{index.url}/simple/") is True
    assert asked(f"{index.url}/simple") is True
    assert [request.path for request in index.requests()][:2] == ["/simple/setuptools/", "/simple/wheel/"], "the first that it knows counts"


def test_an_index_that_does_not(root: Path):
    with Upstream(root, upload_times=False) as mirror:
        assert asked(f"{mirror.url}/simple/") is False


@pytest.mark.parametrize(
    "fault",
    [
        Fault(body=b"<html><a href='wheel-0.45-py3-none-any.whl'>wheel</a></html>"),
        Fault(body=b"not JSON", headers={"Content-Type": "application/vnd.pypi.simple.v1+json"}),
        Fault(body=b"[]", headers={"Content-Type": "application/vnd.pypi.simple.v1+json"}),
    ],
)
def test_a_page_that_cannot_say_it(index: Upstream, fault: Fault):
    index.always("/simple/*", fault)
    assert asked(f"{index.url}/simple/") is False


def test_credentials_of_the_index_are_used(index: Upstream):
    index.require_login("/simple/", "user", "secret")
    assert asked(f"{index.url}/simple/") is None
    assert asked(f"{index.url.replace('://', '://user:secret@')}/simple/") is True


def test_nothing_is_known_of_an_index_that_does_not_answer():
    assert asked("http://127.0.0.1:9/simple/") is None


def test_nothing_is_known_of_an_index_that_has_none_of_the_usual_packages(index: Upstream):
    index.always("/simple/*", Fault(status=404))
    assert asked(f"{index.url}/simple/") is None
