# SPDX-License-Identifier: GPL-3.0-or-later
"""References are found by meaning and rewritten by character, whatever a file looks like."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils._errors import PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._references import (
    Reference,
    decode,
    decode_toml,
    in_pyproject,
    in_requirements,
    near_requirements,
    rewrite,
    rewrite_pyproject,
    rewrite_requirements,
)

MIRROR = "file:///bundle/repos/h/o/n.git"


def only(text: str) -> Reference:
    found = in_requirements(text)
    assert len(found) == 1
    return found[0]


def led(references: list[Reference]) -> list[tuple[Reference, str]]:
    """Replace everything that is on the host github.com, owner haosulab."""
    return [
        (found, ("git+" if found.url.startswith("git+") else "") + MIRROR)
        for found in references
        if found.repository and found.repository.key == "github.com/haosulab/maniskill"
    ]


# -- one requirement -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key", "ref", "rewritten"),
    [
        ("n @ git+https://github.com/O/N.git", "github.com/o/n", None, "n @ X"),
        ("n@git+https://github.com/o/n", "github.com/o/n", None, "n@X"),
        ("n[a,b] @ git+https://h/o/n.git@v1 ; python_version < '3.11'", "h/o/n", "v1", "n[a,b] @ X@v1 ; python_version < '3.11'"),
        ("n @ git+https://h/o/n.git@v1;python_version<'3.11'", "h/o/n", "v1", "n @ X@v1;python_version<'3.11'"),
        ("n @ git+https://h/o/n@a/b#subdirectory=p&egg=n", "h/o/n", "a/b", "n @ X@a/b#subdirectory=p&egg=n"),
        ("git+https://h/o/n.git#egg=n@1", "h/o/n", None, "X#egg=n@1"),
        ("-e git+https://h/o/n.git@v1#egg=n", "h/o/n", "v1", "-e X@v1#egg=n"),
        ("-egit+https://h/o/n.git", "h/o/n", None, "-eX"),
        ("--editable=git+https://h/o/n.git", "h/o/n", None, "--editable=X"),
        ('-e "n @ git+https://h/o/n.git@v1"  # why', "h/o/n", "v1", '-e "n @ X@v1"  # why'),
        ("n @ git+ssh://git@h/o/n.git@v1", "h/o/n", "v1", "n @ X@v1"),
        ("n @ git+ssh://git@h:2222/o/n.git@v1", "h/o/n", "v1", "n @ X@v1"),
        ("n @ git+ssh://git@h:o/n.git@v1", "h/o/n", "v1", "n @ X@v1"),
        ("n @ git+git@h:o/n.git@v1", "h/o/n", "v1", "n @ X@v1"),
        ("n @ git+https://user:p@h/o/n.git", "h/o/n", None, "n @ X"),
        ("n @ git+https://${TOKEN}@h/o/n.git@v1", "h/o/n", "v1", "n @ X@v1"),
        ("n @ git+https://h/a/b/c/n.git@v1", "h/a/b/c/n", "v1", "n @ X@v1"),
        ("  n  @  git+https://h/o/n.git  ", "h/o/n", None, "  n  @  X  "),
        ("n @ git+https://h/o/n.git@", "h/o/n", "", "n @ X@"),
        ("n @ git+https://h/o/\\\nn.git@\\\nv1", "h/o/n", "v1", "n @ \\\nX@\\\nv1"),
        ("git+https://h/o/n.g\\\nit#egg=n", "h/o/n", None, "\\\nX#egg=n"),
        ("n @ git+https://h/o/n.git \\\r\n  --hash=sha256:00", "h/o/n", None, "n @ X \\\r\n  --hash=sha256:00"),
    ],
)
def test_a_git_reference_keeps_all_but_the_repository(line: str, key: str, ref: str | None, rewritten: str) -> None:
    found = only(line)
    assert (found.kind, found.repository and found.repository.key, found.ref) == ("git", key, ref)
    assert rewrite_requirements(line, [(found, "X")]) == rewritten


@pytest.mark.parametrize(
    "line", ["n @ git+https://h/n.git", "n @ git+https://${HOST}/o/n.git", "n @ git+https://h", "n @ git+https://[h/o/n"]
)
def test_a_git_url_that_names_no_repository_is_still_a_reference(line: str) -> None:
    assert (only(line).kind, only(line).repository) == ("git", None)


@pytest.mark.parametrize(
    ("line", "kind", "filename", "rewritten"),
    [
        ("https://h/p/n-1-py3-none-any.whl", "wheel", "n-1-py3-none-any.whl", "X"),
        ("n @ https://h/p/n-1%2Bcu12-py3-none-any.whl#sha256=00 ; a", "wheel", "n-1+cu12-py3-none-any.whl", "n @ X#sha256=00 ; a"),
        ("https://h/n-1-py3-none-any.whl[all]; python_version>'3'", "wheel", "n-1-py3-none-any.whl", "X[all]; python_version>'3'"),
        ("n @ https://[::1]/n-1-py3-none-any.whl", "wheel", "n-1-py3-none-any.whl", "n @ X"),
        ("n @ https://[::1/n-1-py3-none-any.whl", "other", "", "n @ X"),
        ("n @ https://h/n-1-py3-none-any.whl?raw=1", "wheel", "n-1-py3-none-any.whl", "n @ X"),
        ("n @ https://h/n-1.tar.gz", "other", "n-1.tar.gz", "n @ X"),
        ("n @ hg+https://h/o/n", "other", "n", "n @ X"),
        ("-r https://h/r.txt", "other", "r.txt", "-r X"),
        ("--constraint=https://h/c.whl", "other", "c.whl", "--constraint=X"),
    ],
)
def test_other_references(line: str, kind: str, filename: str, rewritten: str) -> None:
    found = only(line)
    assert (found.kind, found.filename, found.repository) == (kind, filename, None)
    assert rewrite(line, [(found, "X")]) == rewritten


@pytest.mark.parametrize(
    "text",
    [
        "",
        "numpy==1.0",
        "# n @ git+https://h/o/n.git",
        "numpy  # was git+https://h/o/n.git",
        "numpy \\\n  # git+https://h/o/n.git \\\n",
        "--extra-index-url https://h/simple",
        "-i https://h/simple",
        "--find-links=https://h/links",
        "-r other.txt",
        "-c ./c.txt",
        "-e .",
        "./n-1-py3-none-any.whl",
        "n @ file:///n-1-py3-none-any.whl",
        "n @ git+file:///o/n.git@v1",
        "git@h:o/n.git",
    ],
)
def test_what_is_no_remote_reference(text: str) -> None:
    assert in_requirements(text) == []


def test_a_comment_ends_a_continuation_as_it_does_for_pip() -> None:
    assert [found.line for found in in_requirements("a==1 \\\n# git+https://h/o/a \\\nn @ git+https://h/o/n.git\n")] == [3]


def test_lines_are_counted_from_one_where_the_url_begins() -> None:
    text = "a \\\n  @ git+https://h/o/a\n\n\r\nb @ git+https://h/o/b\n"
    assert [found.line for found in in_requirements(text)] == [2, 5]


# -- bytes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (b"a", "utf-8"),
        ("ä".encode(), "utf-8"),
        (b"\xe4", "latin-1"),
        (codecs.BOM_UTF8 + "ä".encode(), "utf-8"),
        (codecs.BOM_UTF16_LE + "ä".encode("utf-16-le"), "utf-16-le"),
        (codecs.BOM_UTF32_BE + "ä".encode("utf-32-be"), "utf-32-be"),
        ("# -*- coding: cp1251 -*-\nж".encode("cp1251"), "cp1251"),
        ("#!x\n# vim: set coding=koi8-r :\nж".encode("koi8-r"), "koi8-r"),
        (b"# coding: rot13\n\xe4", "latin-1"),
        (b"# coding: utf-16\n\xe4", "latin-1"),
        (b"# coding: no-such\na", "utf-8"),
        (b"a\nb\n# coding: cp1251\n\xe4", "latin-1"),
    ],
)
def test_a_text_is_decoded_as_pip_does_and_gives_its_bytes_back(data: bytes, codec: str) -> None:
    source = decode(data)
    assert source.codec == codec
    assert source.encode(source.text) == data


@given(st.binary())
def test_every_file_gives_its_bytes_back(data: bytes) -> None:
    source = decode(data)
    assert source.encode(rewrite(source.text, [])) == data
    in_requirements(source.text)


# -- pyproject.toml ------------------------------------------------------------------------------------------------------------


def test_every_place_of_a_pyproject_and_no_other() -> None:
    url = "git+https://github.com/haosulab/ManiSkill.git"
    text = f'''\
# "{url}"
"quoted = key # {url}" = "{url}"
[build-system]
requires = ["b @ {url}@1"]
[project]
description = """
{url}
"""
dependencies = ["d @ {url}@2", 'l @ {url}@3 ; sys_platform == "linux"', "e @ {url}@4 ; sys_platform == \\"linux\\"", # {url}
  """
  m @ {url}@5""", "plain"]
optional-dependencies.x = ["o @ {url}@6"]
[project.urls]
Source = "{url[4:]}"
[dependency-groups]
dev = ["g @ {url}@7", {{ include-group = "other" }}]
other = []
[tool.uv]
override-dependencies = ["v @ {url}@8"]
constraint-dependencies = ["c @ {url}@9"]
dev-dependencies = ["t @ {url}@10"]
build-constraint-dependencies = ["k @ {url}@11"]
[tool.uv.extra-build-dependencies]
z = ["y @ {url}@12", {{ requirement = "x @ {url}@13", match-runtime = true }}, {{ requirement = 1 }}]
[[tool.uv.dependency-metadata]]
name = "a"
requires-dist = ["r @ {url}@14"]
[[tool.uv.dependency-metadata]]
name = "{url}"
[tool.uv.sources]
s = {{ git = "{url[4:]}", rev = "15" }}
p = [{{ git = "{url[4:]}", tag = "16" }}, {{ git = "{url[4:]}", branch = "17", subdirectory = "x" }}, {{ git = '{url[4:]}' }}]
q.git = "{url[4:]}@18"
q.subdirectory = "{url[4:]}"
[[tool.uv.sources.o]]
git = """{url[4:]}"""
tag = '19'
[tool.uv.sources.z]
url = "https://h/w-1-py3-none-any.whl#sha256=00"
[tool.uv.sources.i]
index = "x"
[tool.other]
git = "{url}"
'''
    found = in_pyproject(text)
    asked = [*map(str, range(1, 16)), "refs/tags/16", "refs/heads/17", None, "18", "refs/tags/19", None]
    assert [reference.ref for reference in found] == asked
    result = rewrite_pyproject(text, led(found))
    lines = zip(text.splitlines(), result.splitlines(), strict=True)
    for old, new in lines:
        code, comment, rest = old.partition(" # ") if old.startswith("dependencies") else (old, "", "")
        stays = code.startswith(("#", '"quoted', "git+", "Source", "name", "q.sub", 'git = "git+'))
        led_code = code if stays else code.replace(url, f"git+{MIRROR}").replace(url[4:], MIRROR)
        assert new == led_code + comment + rest
    assert [reference.kind for reference in in_pyproject(result)] == ["wheel"]


def test_an_escaped_url_is_found_by_what_it_means() -> None:
    text = (
        '[build-system]\r\nrequires = ["n @ git+https\\u003a//h/o\\U0000002Fn.git@v1 ; a", """\\\n   m @ git+https://h/o/\\\r\n  m"""]\r\n'
    )
    found = in_pyproject(text)
    assert [(item.url, item.ref) for item in found] == [("git+https://h/o/n.git@v1", "v1"), ("git+https://h/o/m", None)]
    result = rewrite_pyproject(text, [(item, f"git+{MIRROR}") for item in found])
    assert result == f'[build-system]\r\nrequires = ["n @ git+{MIRROR}@v1 ; a", """\\\n   m @ \\\r\n  git+{MIRROR}"""]\r\n'


def test_the_same_url_with_different_answers() -> None:
    text = '[tool.uv.sources]\na = { git = "https://h/o/n", rev = "1" }\nb = { git = "https://h/o/n", rev = "2" }\n'
    found = in_pyproject(text)
    assert rewrite_pyproject(text, [(found[1], "X")]) == text[::-1].replace("n/o/h//:sptth", "X", 1)[::-1]


def test_keys_that_look_like_references_are_none() -> None:
    text = 'project.optional-dependencies = { "a:b" = ["n @ git+https://h/o/n"], "git+https://h/o/k" = [] }\n"c:d".e = ":"\n'
    (found,) = in_pyproject(text)
    assert rewrite_pyproject(text, [(found, "X")]) == text.replace("git+https://h/o/n", "X")


@pytest.mark.parametrize(
    ("line", "digests"),
    [
        ("https://h/n-1-py3-none-any.whl#sha256=0Aa ; x", {"0aa"}),
        ("n @ https://h/n-1-py3-none-any.whl#egg=n&sha256=00", {"00"}),
        ("https://h/n-1-py3-none-any.whl \\\n  --hash=sha256:00 \\\n  --hash sha256:11 --hash=sha512:22", {"00", "11"}),
        ("https://h/n-1-py3-none-any.whl --hash=sha512:22", set()),
        ("n @ git+https://h/o/n@v1#sha256=00", set()),
    ],
)
def test_the_digests_that_are_asked_for(line: str, digests: set[str]) -> None:
    assert only(line).digests == digests


def test_what_a_requirement_file_leads_to() -> None:
    text = "-r a.txt\n-ca.txt # c\n--requirement='b c.txt'\n-r https://h/x.txt\n-e .[dev]\n-e ./p#egg=p\n-e git+https://h/o/n\n--editable q\n./no\n-r\n"
    near = near_requirements(text)
    assert near.files == ("a.txt", "a.txt", "b c.txt") and near.folders == (".", "./p", "q")


def test_a_document_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(PatchError, match="nested"):
        in_pyproject("a = " + "[" * 5000 + "]" * 5000)


@pytest.mark.parametrize("text", ["a = ", "[a\n", 'a = "b\n', "= 1", "a = 1\na = 2\n"])
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(PatchError, match="not valid TOML"):
        in_pyproject(text)


def test_a_pyproject_that_is_not_utf8_is_refused_and_a_bom_is_kept() -> None:
    with pytest.raises(PatchError, match="UTF-8"):
        decode_toml(b'a = "\xe4"')
    source = decode_toml(codecs.BOM_UTF8 + b"a = 1")
    assert source.encode(source.text) == codecs.BOM_UTF8 + b"a = 1"


@pytest.mark.parametrize(
    "text",
    [
        'project = "x"',
        "project = []",
        "tool.uv = 1",
        "tool.uv.sources = [1]",
        "tool.uv.sources.x = 1",
        "project.dependencies = [1, []]",
        "[[tool]]",
    ],
)
def test_a_document_of_another_shape_has_no_references(text: str) -> None:
    assert in_pyproject(text) == []
