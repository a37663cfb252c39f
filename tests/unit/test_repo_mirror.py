# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_repo_mirror as Ansible runs it: quad, diff, results of those that fail beside those that don't."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import Origin, git
from tests.support.upstream import Upstream
from tests.unit.conftest import ModuleFailed

GITHUB = "https://github.com/"
RunModule = Callable[..., dict[str, Any]]
TreeHash = Callable[..., dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Site:
    """An upstream with two repositories, and a bundle."""

    upstream: Upstream
    bundle: Path
    origins: dict[str, Origin]
    run: RunModule

    @property
    def rewrites(self) -> dict[str, str]:
        return {GITHUB: f"{self.upstream.url}/git/github.com/"}

    def mirror(
        self, *names: str, check: bool = False, diff: bool = False, more: list[dict[str, Any]] | None = None, **args: Any
    ) -> dict[str, Any]:
        repos = [{"name": name, "url": self.origins[name].url} for name in names or self.origins] + (more or [])
        given = {"bundle_dir": str(self.bundle), "repos": repos, "timeout": 5, "url_rewrites": self.rewrites, **args}
        return self.run("rlinf_repo_mirror", given, check=check, diff=diff)


@pytest.fixture
def site(tmp_path: Path, run_module: RunModule) -> Iterator[Site]:
    (tmp_path / "upstream" / "git").mkdir(parents=True)
    with Upstream(tmp_path / "upstream") as upstream:
        origins = {
            "openvla": Origin(upstream.root, "github.com/openvla/openvla.git", "main"),
            "openvla-oft": Origin(upstream.root, "github.com/moojink/openvla-oft.git", "master"),
        }
        for origin in origins.values():
            origin.commit(file="one\n")
        yield Site(upstream, tmp_path / "bundle", origins, run_module)


def told(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(item["name"], item["changed"], item["state"], item["commit"]) for item in result["results"]]


def test_quad(site: Site, tree_hash: TreeHash) -> None:
    heads = {name: origin.head for name, origin in site.origins.items()}
    first = site.mirror(check=True)
    assert not site.bundle.exists()
    assert told(first) == [(name, True, "absent", head) for name, head in heads.items()]
    second = site.mirror()
    assert told(second) == [(name, True, "mirrored", head) for name, head in heads.items()]
    # whoever holds the lock file writes its pid there
    (site.bundle / ".lock").unlink()
    before = tree_hash(site.bundle, mtimes=True)
    for check in (True, False):
        again = site.mirror(check=check)
        assert again["changed"] is False
        assert told(again) == [(name, False, "mirrored", head) for name, head in heads.items()]
        (site.bundle / ".lock").unlink(missing_ok=True)
        assert tree_hash(site.bundle, mtimes=True) == before


def test_quad_of_an_update(site: Site, tree_hash: TreeHash) -> None:
    site.mirror()
    old = site.origins["openvla"].head
    new = site.origins["openvla"].commit(file="two\n")
    before = tree_hash(site.bundle, mtimes=True)
    check = site.mirror(check=True, update=True, diff=True)
    assert tree_hash(site.bundle, mtimes=True) == before
    applied = site.mirror(update=True, diff=True)
    for result in (check, applied):
        assert [(item["name"], item["changed"], item["old_commit"], item["commit"]) for item in result["results"]] == [
            ("openvla", True, old, new),
            ("openvla-oft", False, *[site.origins["openvla-oft"].head] * 2),
        ]
        header = f"openvla ({GITHUB}openvla/openvla.git)"
        assert result["diff"] == [{"before_header": header, "after_header": header, "before": f"{old}\n", "after": f"{new}\n"}]
    assert site.mirror(check=True, update=True)["changed"] is False
    assert site.mirror(update=True)["changed"] is False


def test_check_mode_says_what_only_fetching_tells(site: Site) -> None:
    result = site.mirror(check=True, diff=True, cut_off="2025-06-01")
    assert [item["commit"] for item in result["results"]] == ["", ""]
    assert result["diff"][0]["after"] == "known when it is fetched\n"


def test_check_mode_fails_where_applying_would(site: Site) -> None:
    more = [{"name": "gone", "url": f"{GITHUB}openvla/gone.git"}, {"name": "tag", "url": f"{GITHUB}openvla/openvla", "version": "v9"}]
    with pytest.raises(ModuleFailed) as failed:
        site.mirror("openvla-oft", check=True, more=more)
    assert [item.get("problem") for item in failed.value.result["results"]] == [None, "repository", "ref"]
    assert not site.bundle.exists()


def test_those_that_fail_are_named_and_the_others_are_there(site: Site, tmp_path: Path) -> None:
    site.upstream.require_login("/git/github.com/private/", "me", "secret")
    Origin(site.upstream.root, "github.com/private/code.git").commit()
    with Upstream(tmp_path / "nothing") as stopped:
        dead = stopped.url
    (site.bundle / "repos" / "github.com" / "some" / "folder.git").mkdir(parents=True)
    more = [
        {"name": "no-ref", "url": f"{GITHUB}moojink/openvla-oft.git", "version": "main"},
        {"name": "no-host", "url": "https://dead.example/owner/name.git"},
        {"name": "no-login", "url": f"{GITHUB}private/code.git"},
        {"name": "no-mirror", "url": f"{GITHUB}some/folder.git"},
    ]
    with pytest.raises(ModuleFailed) as failed:
        site.mirror("openvla", more=more, url_rewrites={**site.rewrites, "https://dead.example/": f"{dead}/"})
    result = failed.value.result
    assert [(item["name"], item["state"], item.get("problem")) for item in result["results"]] == [
        ("openvla", "mirrored", None),
        ("no-ref", "failed", "ref"),
        ("no-host", "failed", "unreachable"),
        ("no-login", "failed", "credentials"),
        ("no-mirror", "failed", "foreign"),
    ]
    assert result["msg"].startswith("4 of 5 repositories failed:\n")
    assert all(f"repository {item['name']} " in result["msg"] for item in more)
    assert "may be private" in result["msg"]
    assert "token" in result["msg"]
    assert result["changed"] is True
    mirror = site.bundle / "repos" / "github.com" / "openvla" / "openvla.git"
    assert git("rev-parse", "HEAD", cwd=mirror) == site.origins["openvla"].head


def test_no_credential_comes_out(site: Site) -> None:
    site.upstream.require_login("/git/", "somebody", "pa55word")
    authority = site.upstream.url.partition("://")[2]
    rewrites = {GITHUB: f"http://somebody:pa55word@{authority}/git/github.com/"}
    assert "pa55word" not in json.dumps(site.mirror(url_rewrites=rewrites, diff=True))
    more = [{"name": "other", "url": "https://t0k3n@127.0.0.1:1/owner/name.git"}]
    with pytest.raises(ModuleFailed) as failed:
        site.mirror(more=more, url_rewrites=rewrites)
    said = json.dumps(failed.value.result)
    assert "pa55word" not in said
    assert "t0k3n" not in said
    assert "127.0.0.1:1" in said


def test_submodules_are_told(site: Site) -> None:
    inner, outer = site.origins["openvla"], site.origins["openvla-oft"]
    outer.submodule("vla", "../../openvla/openvla.git", inner.head)
    outer.commit()
    result = site.mirror(repos=[{"name": "oft", "url": outer.url, "submodules": True}])
    assert result["results"][0]["submodules"] == [
        {"path": "vla", "url": inner.url, "mirror": "github.com/openvla/openvla.git", "commit": inner.head}
    ]


def test_one_at_a_time_works_on_a_bundle(site: Site) -> None:
    site.bundle.mkdir()
    with open(site.bundle / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ModuleFailed, match="is in use"):
            site.mirror()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"repos": [{"name": "a", "url": "file:///srv/a/b"}]}, "has the scheme 'file'"),
        ({"repos": [{"name": "a", "url": f"{GITHUB}a/b", "version": "--upload-pack=id"}]}, "is not the name of a branch"),
        (
            {"repos": [{"name": "a", "url": f"{GITHUB}a/b"}, {"name": "b", "url": "git@github.com:A/B.git"}]},
            "repositories a and b are the same",
        ),
        ({"url_rewrites": {"https://github.com": "http://x/"}}, "must end with a slash"),
        ({"cut_off": "soon"}, "neither a date"),
    ],
)
def test_arguments_that_cannot_be_used(site: Site, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ModuleFailed, match=words):
        site.mirror(**args)


def test_an_empty_list_is_nothing_to_do(site: Site) -> None:
    result = site.mirror(repos=[])
    assert (result["changed"], result["results"]) == (False, [])
