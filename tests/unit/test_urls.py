# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""URLs: which are allowed, which repository they name, and that no credential is ever shown."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._urls import (
    HTTP_SCHEMES,
    RepositoryId,
    Rewrites,
    check_url,
    redact,
    secrets,
    without_userinfo,
)

WORD = st.text("abcXYZ019._~-", min_size=1).filter(lambda text: text[0].isalnum() and not text.endswith(".git"))


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/RLinf/RLinf.git",
        "http://127.0.0.1:8080/a/b",
        "http://localhost/a/b",
        "ssh://git@github.com/RLinf/RLinf.git",
        "git@github.com:RLinf/RLinf.git",
        "github.com:RLinf/RLinf",
        "https://user:token@example.org/a/b.git",
        "https://example.org/flash_attn-2.7.4%2Bcu12-cp311-cp311-linux_x86_64.whl?x=1#sha256=0",
    ],
)
def test_allowed(url: str) -> None:
    assert check_url(url, "it") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "-oProxyCommand=touch",
        "--upload-pack=touch",
        "ext::sh -c touch",
        "ext::touch",
        "file:///etc/passwd",
        "/etc/passwd",
        "git://github.com/a/b",
        "http://mirror.example:8080/a/b",
        "http://127.0.0.1.evil.example/a/b",
        "https:///a/b",
        "https://-oProxyCommand=x/a/b",
        "ssh://-oProxyCommand@host/a/b",
        "ssh://%2doProxyCommand@host/a/b",
        "git@-oX:a/b",
        "https://user:pass%0aword@host/a/b",
        "https://user%0d@host/a/b",
        "https://a/b\x9bc",
        "https://g\u0456thub.com/a/b",
        "https://a/\u202eb",
        "gs://big_vision/x",
        "https://a/$(touch)",
        "https://a/${HOME}",
        "https://a/`id`",
        "https://a/b c",
        "https://a/b\nc",
        "https://a/b\\c",
        "https://a/{b}",
        "https://[::1/a/b",
        "javascript:alert(1)//",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(CatalogError):
        RepositoryId.parse(check_url(url, "wheel x"))


def test_files_come_by_http() -> None:
    for url in ("git@github.com:a/b.whl", "ssh://git@github.com/a/b.whl"):
        with pytest.raises(CatalogError, match="allowed are http, https"):
            check_url(url, "wheel x", HTTP_SCHEMES)


@given(st.text())
def test_any_text_is_allowed_or_refused_and_never_crashes(text: str) -> None:
    for url in (text, f"https://{text}", f"ssh://git@{text}", f"git@host:{text}"):
        try:
            check_url(url, "it")
            RepositoryId.parse(url)
        except CatalogError as error:
            assert str(error)
        else:
            assert not set(url) & set(" \n\t\0$`'\"\\<>|;{}")


# -- which repository ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/RLinf/openvla",
        "https://github.com/RLinf/openvla.git",
        "https://github.com/RLinf/openvla.git/",
        "https://GitHub.com/rlinf/OpenVLA",
        "https://user:token@github.com/RLinf/openvla",
        "https://github.com:443/RLinf/openvla",
        "ssh://git@github.com/RLinf/openvla.git",
        "git@github.com:RLinf/openvla.git",
        "git@github.com:/RLinf/openvla.git",
    ],
)
def test_one_repository_in_many_ways(url: str) -> None:
    assert RepositoryId.parse(url).key == "github.com/rlinf/openvla"


def test_other_repositories_are_others() -> None:
    """Faults 1 and 3 of the bash system: a prefix, and a fork of the same name."""
    keys = {
        RepositoryId.parse(f"https://{name}").key
        for name in (
            "github.com/moojink/openvla",
            "github.com/moojink/openvla-oft",
            "github.com/openvla/openvla",
            "gitlab.com/openvla/openvla",
            "git.example/openvla/openvla",
            "git.example/openvla/OpenVLA",
        )
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    "url", ["https://github.com/x", "https://github.com", "https://a/../b", "https://a/%2e%2e/b", "https://a/b/.git", "https://a//b"]
)
def test_no_repository(url: str) -> None:
    with pytest.raises(CatalogError, match="names no repository"):
        RepositoryId.parse(url)


@given(st.from_regex(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", fullmatch=True), st.lists(WORD, min_size=1, max_size=3), WORD)
def test_a_mirror_stays_below_where_mirrors_are(host: str, owner: list[str], name: str) -> None:
    mirror = RepositoryId.parse(f"https://{host}/{'/'.join(owner)}/{name}").mirror
    assert mirror.endswith(".git") and ".." not in mirror.split("/") and not mirror.startswith(("/", "-", "."))
    assert RepositoryId.parse(f"git@{host}:{'/'.join(owner)}/{name}.git").mirror == mirror


# -- credentials ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clone of https://user:t0ken@host/a failed", "clone of https://***@host/a failed"),
        ("git+https://t0ken@host/a", "git+https://***@host/a"),
        ("https://user:t0@ken@host/a", "https://***@host/a"),
        ("'https://u:t0ken@h/a' and \"http://u:t0ken@h/b\"", "'https://***@h/a' and \"http://***@h/b\""),
        ("ssh://git@host/a", "ssh://git@host/a"),
        ("git@host:a/b", "git@host:a/b"),
        ("https://host/a@v1.0", "https://host/a@v1.0"),
        ("mail a@b.example", "mail a@b.example"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert redact(text) == shown and redact(shown) == shown


@given(st.text("abc0.-_~%!$&()*+,;=:@", min_size=1))
def test_no_password_is_ever_shown(password: str) -> None:
    """Whatever git or requests would take for the host, nothing of what is before it appears."""
    url = f"https://user:SECRET{password}@host.example/a/b"
    assert "SECRET" not in redact(f"fatal: unable to access '{url}': 403")
    assert urlsplit(redact(url)).hostname == "host.example"
    assert any(found.startswith("SECRET") for found in secrets({"x": [url]}))
    assert "SECRET" not in without_userinfo(url)


def test_secrets_are_found_anywhere() -> None:
    assert secrets({"a": ["https://u:one@h/"], "https://two@h/": ({"b": "x http://u:three@h y"}, 5, None)}) == {"one", "two", "three"}
    assert secrets("https://host/a@b") == set()
    assert secrets(["ssh://git@host/a", "ssh://me:word@host/a", "socks5://u:p%2Fq@host"]) == {"word", "p%2Fq", "p/q"}


def test_records_hold_no_user() -> None:
    assert without_userinfo("https://u:p@host:8443/a?b#c") == "https://host:8443/a?b#c"
    assert without_userinfo("git@host:a/b") == "git@host:a/b"
    assert without_userinfo("ssh://git:p@host/a") == "ssh://git@host/a"


# -- rewrites ------------------------------------------------------------------------------------------------------------------


def test_the_longest_prefix_wins() -> None:
    rewrites = Rewrites({"https://github.com/": "https://mirror.example/gh/", "https://github.com/RLinf/": "file:///srv/rlinf/"})
    assert rewrites.apply("https://github.com/a/b.git") == "https://mirror.example/gh/a/b.git"
    assert rewrites.apply("https://github.com/RLinf/b.git") == "file:///srv/rlinf/b.git"
    assert rewrites.apply("https://github.community/a") == "https://github.community/a"
    assert ("url.https://mirror.example/gh/.insteadOf", "https://github.com/") in rewrites.git_config


def test_credentials_stay_with_their_own_host() -> None:
    rewrites = Rewrites({"https://github.com/": "https://mirror.example/gh/"})
    assert rewrites.apply("https://token@github.com/a/b.whl") == "https://mirror.example/gh/a/b.whl"
    assert rewrites.apply("https://token@host.example/b.whl") == "https://token@host.example/b.whl"


def test_a_prefix_of_a_host_is_refused() -> None:
    """git compares prefixes, so that github.com would be one of github.community too."""
    for rules in ({"https://github.com": "https://m/"}, {"https://github.com/": "https://m"}, {"https://github.com/": "ext::sh/"}):
        with pytest.raises(CatalogError, match="rlinf_url_rewrites"):
            Rewrites(rules)


@pytest.mark.parametrize("name", ["private_token", "X-Amz-Signature", "access_token", "sig"])
def test_a_login_among_the_parameters_is_masked_and_refused(name: str) -> None:
    url = f"https://h.example/a.whl?x=1&{name}=s3cr%2Ft&y=2"
    assert redact(f"see {url} there") == f"see https://h.example/a.whl?x=1&{name}=***&y=2 there"
    assert secrets({"url": [url]}) == {"s3cr%2Ft", "s3cr/t"}
    with pytest.raises(CatalogError, match=rf"wheel a: .*parameter {name}.*rlinf_url_rewrites .*netrc") as failure:
        check_url(url, "wheel a", frozenset({"https"}))
    assert "s3cr" not in str(failure.value)


def test_other_parameters_stay_as_they_are() -> None:
    url = "https://h.example/a.whl?download=true&tokenizer=1#sha256=00"
    assert (redact(url), secrets(url), check_url(url, "wheel a")) == (url, set(), url)
