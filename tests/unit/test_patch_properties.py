# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated files: patched they ask for the same but for the URL, not another character changes, and they come back to the byte.

What they ask for is read by :mod:`tests.support.asked`, which shares nothing with the patcher. ``HYPOTHESIS_PROFILE=thorough`` looks longer.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._patch import patch, plan, restore
from ansible_collections.rlinf.offline.plugins.module_utils._references import (
    decode,
    in_pyproject,
    in_requirements,
    near_pyproject,
    near_requirements,
    rewrite_pyproject,
    rewrite_requirements,
)
from tests.support.asked import Address, Asked, by_pyproject, by_requirements
from tests.support.checkouts import BRANCH, TAG, WHEEL, WHEEL_URL, make_bundle, snapshot

TIMES = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 1
MIRROR = "github.com/haosulab/ManiSkill"


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Say how many examples a test takes in an ordinary run."""
    return settings(
        max_examples=number * TIMES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle") / "bundle"
    make_bundle(root, [f"{MIRROR}.git"])
    return root


# -- files that are valid by construction ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Url:
    """The part of a URL that is to be replaced: what it is, and what it is for in the bundle."""

    base: str
    kind: str


Parts = tuple["str | Url", ...]


def text_of(parts: Iterable[str | Url], bundle: Path | None = None) -> str:
    """Put a file together; with a bundle, as it is to be when it is patched."""
    new = {} if bundle is None else {
        "git": f"git+file://{bundle}/repos/{MIRROR}.git",
        "source": f"file://{bundle}/repos/{MIRROR}.git",
        "wheel": f"file://{bundle}/wheels/{WHEEL}",
    }  # fmt: skip
    return "".join(part if isinstance(part, str) else new.get(part.kind, part.base) for part in parts)


MINE = ("https://github.com/haosulab/ManiSkill", "https://GitHub.com/HaoSuLab/maniskill.git", "ssh://git@github.com/haosulab/ManiSkill.git")
WITH_USER = ("https://${TOKEN}@github.com/haosulab/ManiSkill.git", "https://u:p%40@github.com/haosulab/ManiSkill")
OTHERS = (
    "https://github.com/fork/ManiSkill.git",
    "https://github.com/haosulab/ManiSkill-extra.git",
    "https://github.com/haosulab/Mani",
    "https://gitlab.com/haosulab/ManiSkill",
    "https://github.com/more/haosulab/ManiSkill",
)
refs = st.sampled_from(["", f"@{TAG}", f"@{BRANCH}", "@main"])
fragments = st.sampled_from(["", "#subdirectory=pkg", "#egg=n&subdirectory=p/q"])
markers = st.sampled_from(["", " ; python_version < '3.12'", ' ; sys_platform == "linux" and extra == "x"'])
spaces = st.sampled_from(["", " ", "  ", "\t"])
names = st.sampled_from(["mani_skill", "mani_skill[all]", "m", "M.a-b[a,b]", "n[]"])
comments = st.sampled_from(["", "", "  # see git+https://github.com/haosulab/ManiSkill.git", " #", "\t# ä ж"])
plain = st.sampled_from(
    [
        "torch==2.6.0",
        'numpy>=1.0 ; python_version >= "3.10"',
        "a[b]==1,!=2",
        "local @ file:///srv/n-1-py3-none-any.whl",
        "x @ https://h/x-1.tar.gz",
    ]
)


@st.composite
def addresses(draw: st.DrawFn) -> Parts:
    """A URL of a requirement with all that belongs to it."""
    kind = draw(st.sampled_from(["mine", "mine", "user", "unknown ref", "other", "wheel", "other wheel"]))
    if kind == "wheel":
        return (Url(draw(st.sampled_from([WHEEL_URL, WHEEL_URL.replace("+", "%2B")])), "wheel"),)
    if kind == "other wheel":
        return ("https://h/n-1-py3-none-any.whl#sha256=00",)
    if kind == "other":
        return ("git+", draw(st.sampled_from(OTHERS)), draw(refs), draw(fragments))
    base = "git+" + draw(st.sampled_from(WITH_USER if kind == "user" else MINE))
    if kind == "unknown ref":
        return (base, draw(st.sampled_from(["@v9", "@${REF}", "@", "@--upload-pack=x"])), draw(fragments))
    return (Url(base, "git"), draw(refs), draw(fragments))


@st.composite
def requirements(draw: st.DrawFn) -> Parts:
    """A requirement by PEP 508."""
    if draw(st.booleans()):
        return (draw(plain),)
    return (draw(names), draw(spaces), "@", draw(spaces), *draw(addresses()), draw(markers))


@st.composite
def lines(draw: st.DrawFn) -> Parts:
    """A line of a requirement file, which may be a continued one."""
    shape = draw(st.sampled_from(["requirement", "requirement", "bare", "editable", "wrapped", "option"]))
    if shape == "option":
        return (
            draw(
                st.sampled_from(
                    [
                        "",
                        "   ",
                        "# a @ git+https://github.com/haosulab/ManiSkill",
                        "-r none.txt",
                        "-c ../none.txt",
                        "--pre",
                        "-e .[dev]",
                        "--extra-index-url https://${USER}:${TOKEN}@index.example/simple",
                        "a==1 \\\n  --hash=sha256:00 \\\n  --hash=sha256:11",
                    ]
                )
            ),
        )
    if shape == "requirement":
        return (draw(spaces), *draw(requirements()), draw(st.sampled_from(["", " \\\n  --hash=sha512:00"])), draw(comments))
    if shape == "bare":
        return (*draw(addresses()), draw(markers), draw(comments))
    option = draw(st.sampled_from(["-e ", "--editable ", "--editable=", "-e\t"]))
    if shape == "editable":
        return (option, Url("git+" + draw(st.sampled_from(MINE)), "git"), draw(refs), draw(fragments), draw(comments))
    # wrapped somewhere in the URL: the new one takes the place of its last piece
    base = "git+" + draw(st.sampled_from(MINE))
    cut = draw(st.integers(1, len(base) - 1))
    return ("w @ ", Url(base[:cut], "gone"), "\\\n", Url(base[cut:], "git"), draw(refs), " \\\n", draw(markers))


@dataclass(frozen=True)
class File:
    """A file: its parts, and how they become bytes."""

    parts: Parts
    end: str
    codec: str
    bom: bytes = b""

    def bytes(self, bundle: Path | None = None) -> bytes:
        # a wrapped URL that is replaced is gone from its first line
        parts = [part for part in self.parts if bundle is None or isinstance(part, str) or part.kind != "gone"]
        return self.bom + text_of(parts, bundle).replace("\n", self.end).encode(self.codec)


@st.composite
def requirement_files(draw: st.DrawFn) -> File:
    codec, bom, first = draw(
        st.sampled_from(
            [("utf-8", b"", "")] * 3
            + [
                ("utf-8", codecs.BOM_UTF8, ""),
                ("utf-16-le", codecs.BOM_UTF16_LE, ""),
                ("utf-32-be", codecs.BOM_UTF32_BE, ""),
                ("cp1251", b"", "# -*- coding: cp1251 -*-\n# ж\n"),
                ("latin-1", b"", "# \xe4\n"),
            ]
        )
    )
    items = draw(st.lists(lines(), max_size=6))
    parts = [part for item in items for part in (*item, "\n")][: None if draw(st.booleans()) else -1]
    if codec in ("cp1251", "latin-1"):
        parts = [part.replace("ä", "a").replace("ж", "z") if isinstance(part, str) else part for part in parts]
    return File((first, *parts), draw(st.sampled_from(["\n", "\r\n"])), codec, bom)


# -- TOML in every shape -----------------------------------------------------------------------------------------------------------


@st.composite
def strings(draw: st.DrawFn, parts: Parts) -> Parts:
    """A string in one of TOML's four ways; a basic one may have escapes, but in what is replaced."""
    text = text_of(parts)
    style = draw(st.sampled_from([style for style in ('"', "'", '"""', "'''") if not (style[0] == "'" and "'" in text)]))
    if style[0] == "'":
        return (style, *parts, style)
    at_sign = draw(st.sampled_from(["@", "\\u0040", "\\U00000040"]))
    written = [
        part.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("@", at_sign) if isinstance(part, str) else part
        for part in parts
    ]
    return (style, draw(st.sampled_from(["", "\\\n   "])) if style == '"""' else "", *written, style)


@st.composite
def arrays(draw: st.DrawFn) -> Parts:
    """An array of requirements, on one line or several, with comments and a last comma or without."""
    items = [draw(strings(item)) for item in draw(st.lists(requirements(), max_size=3))]
    if draw(st.booleans()):
        return ("[", *(part for number, item in enumerate(items) for part in ((", ",) if number else ()) + item), "]")
    comment = draw(comments)
    last = draw(st.sampled_from([",", ""]))
    return (
        f"[{comment}\n",
        *(part for number, item in enumerate(items) for part in ("  ", *item, "," if number + 1 < len(items) else last, comment, "\n")),
        "]",
    )


@st.composite
def sources(draw: st.DrawFn) -> list[tuple[str, Parts]]:
    """The key and value pairs of an entry of uv's sources."""
    shape = draw(st.sampled_from(["git", "git", "other", "url", "index"]))
    if shape == "index":
        return [("index", ('"x"',))]
    if shape == "url":
        return [("url", draw(strings((Url(WHEEL_URL, "wheel"),))))]
    base: Parts = (Url(draw(st.sampled_from(MINE)), "source"),) if shape == "git" else (draw(st.sampled_from(OTHERS)),)
    ref = draw(st.sampled_from([None, ("tag", TAG), ("branch", BRANCH), ("rev", TAG)]))
    more = [("subdirectory", ('"https://github.com/haosulab/ManiSkill"',))] if draw(st.booleans()) else []
    pairs = [("git", draw(strings(base))), *([(ref[0], draw(strings((ref[1],))))] if ref else []), *more]
    return draw(st.permutations(pairs))


def inline(pairs: Sequence[tuple[str, Parts]]) -> Parts:
    """Write an inline table."""
    return ("{ ", *(part for number, (key, value) in enumerate(pairs) for part in (", " if number else "", f"{key} = ", *value)), " }")


@st.composite
def tables(draw: st.DrawFn, path: str, keys: Sequence[tuple[str, Parts]]) -> tuple[Parts, Parts]:
    """A table by dotted keys or as an inline table, which go before all headers, or with a header."""
    shape = draw(st.sampled_from(["dotted", "inline", "header"]))
    if shape == "header":
        return (), (f"[{path}]{draw(comments)}\n", *(part for key, value in keys for part in (f"{key} = ", *value, draw(comments), "\n")))
    if shape == "inline":
        return (f"{path} = ", *inline(keys), "\n"), ()
    return tuple(part for key, value in keys for part in (f"{path}.{key} = ", *value, "\n")), ()


@st.composite
def source_tables(draw: st.DrawFn) -> tuple[Parts, Parts]:
    """Some entries of uv's sources: as inline tables, dotted keys, tables and arrays of tables."""
    parts: list[str | Url] = []
    tail: list[str | Url] = []
    for number in range(draw(st.integers(0, 3))):
        entry, name = draw(sources()), draw(st.sampled_from(["s", '"s.x:"', "'s='"])).replace("s", f"s{number}")
        pairs = [part for key, value in entry for part in (f"{key} = ", *value, "\n")]
        shape = draw(st.sampled_from(["inline", "list", "dotted", "table", "array"]))
        if shape == "inline":
            parts += [f"{name} = ", *inline(entry), "\n"]
        elif shape == "list":
            parts += [f"{name} = [", *inline(entry), ", ", *inline(draw(sources())), "]\n"]
        elif shape == "dotted":
            parts += [part for key, value in entry for part in (f"{name}.{key} = ", *value, "\n")]
        elif shape == "table":
            tail += [f"[tool.uv.sources.{name}]\n", *pairs]
        else:
            tail += [f"[[tool.uv.sources.{name}]]\n", *pairs, f"[[tool.uv.sources.{name}]]\nindex = 'x'\n"]
    return (), ("[tool.uv.sources]\n", *parts, *tail)


@st.composite
def pyprojects(draw: st.DrawFn) -> File:
    described = ("description", ('"""\nsee git+https://github.com/haosulab/ManiSkill.git # and\n"""',))
    blocks = [
        draw(tables("build-system", [("requires", draw(arrays()))])),
        draw(
            tables(
                "project",
                [
                    ("name", ('"x"',)),
                    described,
                    ("dependencies", draw(arrays())),
                    ("optional-dependencies", inline([("a", draw(arrays()))])),
                ],
            )
        ),
        draw(tables("dependency-groups", [("dev", draw(arrays())), ('"d.e"', draw(arrays()))])),
        draw(
            tables(
                "tool.other", [("url", ('"git+https://github.com/haosulab/ManiSkill"',)), ("dependencies", ('["a @ git+https://h/o/n"]',))]
            )
        ),
    ]
    # keys under one table, in one way
    overrides = [("override-dependencies", draw(arrays())), ("constraint-dependencies", draw(arrays()))]
    blocks += [((), ("[tool.uv]\n", *(part for key, value in overrides for part in (f"{key} = ", *value, "\n")))), draw(source_tables())]
    heads, tails = ([part for block in blocks for part in block[side]] for side in (0, 1))
    return File((*heads, *tails), draw(st.sampled_from(["\n", "\r\n"])), "utf-8", draw(st.sampled_from([b"", b"", codecs.BOM_UTF8])))


# -- what must hold ----------------------------------------------------------------------------------------------------------------


def same_but_for_urls(before: Asked, after: Asked, bundle: Path) -> None:
    """Judge a patched file by what it asks for, address by address."""
    assert after.rest == before.rest
    for old, new in zip(before.addresses, after.addresses, strict=True):
        mine = old.place.lower() == MIRROR.lower() and old.ref.rpartition(" ")[2] in ("", TAG, BRANCH, "main") and not old.url.endswith("@")
        if old.git and mine and not old.url.partition("#")[0].endswith("@"):
            assert (new.local, "/" + new.place, new.ref, new.rest) == (True, f"{bundle}/repos/{MIRROR}", old.ref, old.rest)
        elif old.place == Address.of(WHEEL_URL).place:
            assert (new.local, "/" + new.place, new.rest) == (True, f"{bundle}/wheels/{WHEEL}", old.rest)
        else:
            assert new == old


def written(root: Path, files: dict[str, bytes]) -> Path:
    """Write a project, each file with a mode and a time of its own."""
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod((0o644, 0o600, 0o755)[number % 3])
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    return root


@examples(40)
@given(requirement_files())
def test_a_requirement_file_asks_for_the_same(bundle: Path, file: File) -> None:
    with TemporaryDirectory() as folder:
        project = written(Path(folder), {"requirements/a.txt": file.bytes()})
        done = plan(project, bundle)
    after = done.changes[0].after if done.changes else file.bytes()
    assert after == file.bytes(bundle)
    before, patched = (decode(data).text for data in (file.bytes(), after or b""))
    same_but_for_urls(by_requirements(before), by_requirements(patched), bundle)


@examples(40)
@given(pyprojects())
def test_a_pyproject_asks_for_the_same(bundle: Path, file: File) -> None:
    with TemporaryDirectory() as folder:
        project = written(Path(folder), {"pyproject.toml": file.bytes()})
        done = plan(project, bundle)
    after = done.changes[0].after if done.changes else file.bytes()
    assert after == file.bytes(bundle)
    before, patched = (data.decode("utf-8-sig") for data in (file.bytes(), after or b""))
    same_but_for_urls(by_pyproject(before), by_pyproject(patched), bundle)


@examples(12)
@given(st.lists(requirement_files(), max_size=2), pyprojects(), st.sampled_from([None, b"", b"a lock\n"]))
def test_patched_twice_and_back(bundle: Path, texts: list[File], main: File, lock: bytes | None) -> None:
    with TemporaryDirectory() as folder:
        files = {f"requirements/{number}/r.txt": file for number, file in enumerate(texts)} | {"pyproject.toml": main}
        project, state = Path(folder, "project"), Path(folder, "state")
        written(project, {name: file.bytes() for name, file in files.items()} | ({} if lock is None else {"uv.lock": lock}))
        pristine = snapshot(project)
        done = patch(project, bundle, state)
        assert {name: (project / name).read_bytes() for name in files} == {name: file.bytes(bundle) for name, file in files.items()}
        assert not done.changed or not (project / "uv.lock").exists()
        once = snapshot(project)
        assert not patch(project, bundle, state).changed and snapshot(project) == once
        restore(project, state, purge=True)
        assert snapshot(project) == pristine


# -- files of any content ----------------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        *"ab \t#\\\n\r;@[]'\"=-${}:/.,\x0b\x0c\x85\u2028é\x00",
        "git+https://",
        "https://",
        "h/o/n",
        MINE[0],
        "git+" + MINE[0],
        "[::1",
        ".whl",
        "n @ ",
        "-e ",
        "-r ",
        "-c ",
        "--hash=sha256:",
        "\r\n",
        "\\\n",
        "${A}",
        "file://",
        "git+ssh://git@h:",
        "@v1",
        "#egg=",
        "\ufeff",
    ]
)
toml_pieces = st.sampled_from(
    [
        *"[]{}=,.\"'#\\\n ",
        "\r\n",
        "[[",
        "]]",
        '"""',
        "'''",
        "project",
        "dependencies",
        "tool.uv.sources",
        "git",
        "url",
        "build-system",
        "requires",
        f'"{MINE[0]}"',
        f"'n @ git+{MINE[0]}'",
        "[project]\ndependencies = [",
        "[tool.uv.sources]\n",
        f'a = {{ git = "{MINE[0]}" }}\n',
        '"a:b"',
        'requires = ["',
        "[tool.uv.workspace]\nmembers = [",
        "\\u003a",
        "1",
        "true",
        "\x00",
    ]
)


@examples(150)
@given(st.lists(pieces, max_size=20).map("".join))
def test_any_text_is_a_requirement_file(text: str) -> None:
    found = in_requirements(text)
    near_requirements(text)
    for reference in found:
        assert "".join(text[start:end] for start, end in reference.spans) == reference.base and reference.variables is not None
    replaced = [(item, "file:///x") for item in found if item.kind != "other"]
    try:
        result = rewrite_requirements(text, replaced)
    except PatchError:
        return
    left = [item.url for item in found if item.kind == "other"]
    assert [item.url for item in in_requirements(result)] == left


@examples(150)
@given(st.lists(toml_pieces, max_size=20).map("".join))
def test_any_text_is_a_pyproject_or_refused(text: str) -> None:
    try:
        found = in_pyproject(text)
        near_pyproject(text)
        result = rewrite_pyproject(text, [(item, "file:///x") for item in found])
    except PatchError:
        return
    assert in_pyproject(result) == []


@examples(15)
@given(
    st.dictionaries(
        st.sampled_from(["requirements/a.txt", "requirements/b.txt", "pyproject.toml"]),
        st.binary(max_size=200) | st.lists(pieces | toml_pieces, max_size=20).map(lambda items: "".join(items).encode()),
        min_size=1,
    )
)
def test_any_bytes_come_back(bundle: Path, files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        project, state = written(Path(folder, "project"), files), Path(folder, "state")
        pristine = snapshot(project)
        try:
            patch(project, bundle, state)
        except OfflineError as error:
            assert "Nothing was changed" in str(error) and snapshot(project) == pristine
        restore(project, state, purge=True)
        assert snapshot(project) == pristine
