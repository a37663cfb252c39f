# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""References to repositories and wheels in requirement files and pyproject.toml: found by meaning, rewritten by character.

A requirement file is read as pip reads it, a pyproject.toml as TOML, so that a URL in a comment or a description is none.
What is rewritten is the URL up to its ref, query or fragment, and not one character more.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId

GIT, WHEEL, OTHER = "git", "wheel", "other"

# those of UTF-32 first: the one of UTF-16-LE is a beginning of theirs
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODING = re.compile(rb"coding[:=]\s*([-\w.]+)")

# pip's own (pip._internal.req.req_file.COMMENT_RE)
_COMMENT = re.compile(r"(^|\s+)#.*$")
_REQUIREMENT_OPTION = re.compile(r"\s*(?:-e\s*=?|--editable[\s=])\s*")
_FILE_OPTION = re.compile(r"\s*(?:-[rc]\s*=?|--(?:requirement|constraint)[\s=])\s*")
# the "name[extras] @" of PEP 508, if there is one
_NAMED = re.compile(r"\s*(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[^\]]*\])?\s*@\s*)?")
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|git\+[^\s/:@]+@[^\s/:]+:)[^\s;]+")
# the variables that pip and uv fill in (pip._internal.req.req_file.ENV_VAR_RE)
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_USERINFO = re.compile(r"://[^/]*@")
_DIGEST = re.compile(r"(?:#|&|\s--hash[=\s])sha256[=:](?P<digest>[0-9A-Fa-f]+)")
# what a -r, -c or -e that leads to no URL leads to
_LOCAL = re.compile(r"""(?P<quote>['"])(?P<quoted>.+?)(?P=quote)|(?P<plain>[^\s'"#\[;]+)""")
_SCP_PORT = re.compile(r"ssh://(?P<address>[^/:]+:)(?P<path>(?!\d+(?:/|$))[^/].*)\Z", re.IGNORECASE)

# what may hold a quote or a number sign in TOML 1.0: comments, then the four kinds of strings, the longer delimiters first
_TOML_TOKEN = re.compile(
    r"""\#[^\n]*|\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""",
    re.DOTALL,
)
_TOML_CHARACTER = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\[ \t]*\r?\n\s*|\\(.)|(.)", re.DOTALL)
_TOO_MUCH = "rewriting its URLs would change more than these. Please report this file."
_TOML_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


@dataclass(frozen=True)
class Source:
    """The text of a file, and how its bytes were made."""

    text: str
    codec: str
    bom: bytes = b""

    def encode(self, text: str) -> bytes:
        """Return *text* as the bytes of such a file."""
        return self.bom + text.encode(self.codec)


@dataclass(frozen=True)
class Reference:
    """A URL that something is installed from.

    :ivar kind: ``git``, ``wheel`` or ``other`` (an archive, a requirement file, another version control system).
    :ivar url: the whole URL as it is written, line continuations and escapes resolved.
    :ivar base: the beginning of it that names the repository or file, without ref and fragment; what is replaced.
    :ivar spans: where the characters of *base* are in the text, as start and end offsets, in order.
    :ivar line: the line in which it begins, from 1.
    :ivar repository: of a git reference, which one; None when the URL names none.
    :ivar ref: of a git reference, what is asked for, ``refs/tags/…`` or ``refs/heads/…`` where it says so; None means the default.
    :ivar digests: the SHA-256 that the file may have, of the fragment or of ``--hash``; none means any.
    """

    kind: str
    url: str
    base: str
    spans: tuple[tuple[int, int], ...]
    line: int
    repository: RepositoryId | None = None
    ref: str | None = None
    digests: frozenset[str] = frozenset()

    @property
    def filename(self) -> str:
        """The name of the file that the URL ends in, percent-decoded."""
        return _path(self.base).rpartition("/")[2]

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables on which it depends what is installed; credentials may be such, they change nothing."""
        return tuple(dict.fromkeys(_VARIABLE.findall(_USERINFO.sub("://", self.base) + (self.ref or ""))))

    def rewritten(self, base: str) -> str:
        """Return the whole URL with another *base*."""
        return base + self.url[len(self.base) :]


@dataclass(frozen=True)
class Nearby:
    """What a file leads to in the same checkout, relative to its own folder.

    :ivar files: the requirement files of ``-r`` and ``-c``.
    :ivar folders: those with a pyproject.toml of their own: of ``-e``, and uv's ``path`` sources.
    :ivar members: the patterns of uv's workspace, and which of them it leaves out.
    """

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Chars:
    """A text that was put together from pieces of another: where in that one each character stands, as start and end offset."""

    text: str
    places: Sequence[tuple[int, int]]

    @classmethod
    def plain(cls, text: str, pieces: Iterable[range]) -> _Chars:
        """Put together these pieces of *text*, in which each character stands for itself."""
        places = [(offset, offset + 1) for piece in pieces for offset in piece]
        return cls("".join(text[start] for start, _end in places), places)

    def spans(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Return where the characters from *start* to *end* come from, as few spans as possible."""
        found: list[tuple[int, int]] = []
        for first, last in self.places[start:end]:
            if found and found[-1][1] == first:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        return tuple(found)


def decode(data: bytes) -> Source:
    """Return the text of a requirement file, decoded as pip does it: by BOM, by a coding line (PEP 263), as UTF-8, else as Latin-1.

    A codec that would not give the same bytes back is passed over.
    """
    candidates = [(bom, codec) for bom, codec in _BOMS if data.startswith(bom)][:1]
    declared = [_CODING.search(line) for line in data.split(b"\n")[:2] if line.startswith(b"#")]
    candidates += [(b"", found[1].decode("ascii", "replace")) for found in declared if found] + [(b"", "utf-8")]
    for bom, codec in candidates:
        body = data[len(bom) :]
        try:
            text = body.decode(codec)
            if text.encode(codec) == body:
                return Source(text, codec, bom)
        except (LookupError, UnicodeError):
            continue
    return Source(data.decode("latin-1"), "latin-1")


def decode_toml(data: bytes) -> Source:
    """Return the text of a TOML file, which is UTF-8; a BOM is kept aside.

    :raises PatchError: it is not UTF-8.
    """
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    try:
        return Source(data[len(bom) :].decode("utf-8"), "utf-8", bom)
    except UnicodeDecodeError as error:
        raise PatchError(f"it is not UTF-8, as TOML must be ({error}).") from None


def in_requirements(text: str) -> list[Reference]:
    """Return the references in the text of a requirement file, in order (pip's requirements file format).

    URLs of ``-r`` and ``-c`` are among them, those of indexes are not.
    """
    return [reference for line in _logical_lines(text) for reference in _at_line(line, text)]


def near_requirements(text: str) -> Nearby:
    """Return what the text of a requirement file leads to."""
    found: dict[str, list[str]] = {"file": [], "folder": []}
    for line in _logical_lines(text):
        for kind, option in (("file", _FILE_OPTION), ("folder", _REQUIREMENT_OPTION)):
            start = option.match(line.text)
            place = _LOCAL.match(line.text, start.end()) if start else None
            if place and "://" not in line.text:
                found[kind].append(place["quoted"] or place["plain"])
    return Nearby(files=tuple(found["file"]), folders=tuple(found["folder"]))


def near_pyproject(text: str) -> Nearby:
    """Return what the text of a pyproject.toml leads to.

    :raises PatchError: it is no TOML.
    """
    uv = _at(_parse(text), "tool", "uv")
    sources = [entry.get("path") for entry in _sources(uv)]
    workspace = _at(uv, "workspace")
    return Nearby(folders=_texts(sources), members=_texts(_at(workspace, "members")), left_out=_texts(_at(workspace, "exclude")))


def in_pyproject(text: str) -> list[Reference]:
    """Return the references in the text of a pyproject.toml, in order: PEP 508 strings where PEP 518, 621, 735 and uv have them, and uv's sources.

    :raises PatchError: it is no TOML.
    """
    document = _parse(text)
    tokens = [token for token in _toml_strings(text) if ":" in token.chars.text]
    # each string of interest is replaced by its number; where the numbers turn up tells which string is which value
    probe = text
    for number, token in reversed(list(enumerate(tokens))):
        probe = f'{probe[: token.start]}"{number}"{probe[token.end :]}'
    found = []
    places, labelled = list(_places(document)), [place.value for place in _places(_parse(probe))]
    if len(places) != len(labelled):
        raise PatchError("its keys are written in a way that this collection does not understand. Please report this file.")
    for place, label in zip(places, labelled, strict=True):
        if place.value != label:
            found += _at_place(place, tokens[int(label)].chars, text)
    return sorted(found, key=lambda reference: reference.spans)


def rewrite(text: str, replacements: Iterable[tuple[Reference, str]]) -> str:
    """Return *text* with the base of each reference replaced; not another character changes."""
    edits = []
    for reference, base in replacements:
        # in the last of its pieces: a fragment at the beginning of a continued line would be a comment
        edits += [(*span, "") for span in reference.spans[:-1]] + [(*reference.spans[-1], base)]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def rewrite_requirements(text: str, replacements: Sequence[tuple[Reference, str]]) -> str:
    """Return :func:`rewrite` of a requirement file, after making sure that pip would read the same lines but for these URLs.

    :raises PatchError: it would not.
    """
    result = rewrite(text, replacements)
    bases = {(reference.url, reference.ref): base for reference, base in replacements}
    wanted = [_led(line.text, _at_line(_plain(line.text), line.text), bases) for line in _logical_lines(text)]
    if [line.text for line in _logical_lines(result)] != wanted:
        raise PatchError(_TOO_MUCH)
    return result


def rewrite_pyproject(text: str, replacements: Sequence[tuple[Reference, str]]) -> str:
    """Return :func:`rewrite` of a pyproject.toml, after making sure that the document changed in these values alone.

    :raises PatchError: it did not.
    """
    result = rewrite(text, replacements)
    document = _parse(text)
    bases = {(reference.url, reference.ref): base for reference, base in replacements}
    for place in _places(document):
        place.container[place.key] = _led(place.value, _at_place(place, _plain(place.value), place.value), bases)
    if _parse(result) != document:
        raise PatchError(_TOO_MUCH)
    return result


def _led(text: str, references: Iterable[Reference], bases: Mapping[tuple[str, str | None], str]) -> str:
    """Return a text with those of its references replaced that have a new base."""
    keys = [(reference, (reference.url, reference.ref)) for reference in references]
    return rewrite(text, [(reference, bases[key]) for reference, key in keys if key in bases])


def _logical_lines(text: str) -> Iterator[_Chars]:
    """Yield the lines as pip joins them at a final backslash, without comments (pip._internal.req.req_file.preprocess)."""
    pending: list[range] = []
    position = 0
    for line in text.splitlines(keepends=True):
        body = line.splitlines()[0]
        comment = _COMMENT.match(body)
        if body.endswith("\\") and not comment:
            start = position + len(body) - len(body.lstrip("\\"))
            pending.append(range(start, start + len(body.strip("\\"))))
        else:
            # a line of its own that is a comment ends what was to be continued
            pieces = [*pending] if comment else [*pending, range(position, position + len(body))]
            yield _without_comment(text, pieces)
            pending = []
        position += len(line)
    if pending:
        yield _without_comment(text, pending)


def _without_comment(text: str, pieces: Iterable[range]) -> _Chars:
    joined = _Chars.plain(text, pieces)
    kept = _COMMENT.sub("", joined.text)
    return _Chars(kept, joined.places[: len(kept)])


def _plain(text: str) -> _Chars:
    return _Chars.plain(text, [range(len(text))])


def _at_line(line: _Chars, text: str) -> list[Reference]:
    """Return the reference in a line of a requirement file, if there is one."""
    file = _FILE_OPTION.match(line.text)
    option = file or _REQUIREMENT_OPTION.match(line.text)
    if not option and line.text.lstrip().startswith("-"):
        return []
    return _in_requirement(line, option.end() if option else 0, text, file=bool(file))


def _at_place(place: _Place, chars: _Chars, text: str) -> list[Reference]:
    """Return the reference in a value of a document, if there is one; *chars* is the value as it stands in *text*."""
    if place.role == "requirement":
        return _in_requirement(chars, 0, text)
    return _reference(chars, 0, chars.text, text, source=place.container if place.role == "git" else None)


def _in_requirement(chars: _Chars, start: int, text: str, *, file: bool = False) -> list[Reference]:
    """Return the reference in ``name[extras] @ URL ; marker`` (PEP 508) or in a bare URL, if there is one.

    :param file: whether it is that of a requirement file.
    """
    quote = chars.text[start : start + 1]
    quoted = quote in ("'", '"') and quote != ""
    named = _NAMED.match(chars.text, start + quoted)
    found = _URL.match(chars.text, named.end()) if named else None
    if not found:
        return []
    url = found[0].partition(quote)[0] if quoted else found[0]
    return _reference(chars, found.start(), url, text, file=file)


def _reference(
    chars: _Chars, begin: int, url: str, text: str, *, source: Mapping[str, Any] | None = None, file: bool = False
) -> list[Reference]:
    """Return the reference that *url* is, unless it is local.

    :param begin: where it begins in *chars*.
    :param source: the entry of ``tool.uv.sources`` whose ``git`` it is: there it has no ``git+``, and the ref stands beside it.
    """
    scheme = url.partition(":")[0].lower()
    prefixed = scheme.startswith("git+")
    if scheme in ("file", "git+file") or ("://" not in url and not prefixed):
        return []
    repository, ref, kind, end = None, None, OTHER, len(url)
    if not file and (prefixed or source is not None):
        kind = GIT
        end, ref = _split_ref(url)
        repository = _repository(url[:end][4:] if prefixed else url[:end])
        ref = _source_ref(source) if source is not None and ref is None else ref
    elif not file and scheme in ("http", "https", "ftp"):
        end = _first(url, "#")
        # extras may follow the URL of a requirement without a name
        end = _first(url, "[", url.rfind("/", 0, end), end)
        kind = WHEEL if _path(url[:end]).endswith(".whl") else OTHER
    spans = chars.spans(begin, begin + end)
    digests = frozenset(found["digest"].lower() for found in _DIGEST.finditer(chars.text, begin + end)) if kind == WHEEL else frozenset()
    return [Reference(kind, url, url[:end], spans, text.count("\n", 0, spans[0][0]) + 1, repository, ref, digests)]


def _path(url: str) -> str:
    """Return the path of a URL, percent-decoded; nothing if it is no URL."""
    try:
        return unquote(urlsplit(url).path)
    except ValueError:
        return ""


def _first(text: str, characters: str, start: int = 0, end: int | None = None) -> int:
    """Return where the first of *characters* is in a part of *text*, or the end of that part."""
    end = len(text) if end is None else end
    return next((index for index in range(max(start, 0), end) if text[index] in characters), end)


def _split_ref(url: str) -> tuple[int, str | None]:
    """Return where the part of a git URL ends that names the repository, and the ref after it: what follows the last ``@`` of the path."""
    end = _first(url, "#?")
    path = _first(url, "/", url.find("://") + 3, end) if "://" in url else _first(url, ":", 0, end)
    at = url.rfind("@", path, end)
    return (end, None) if at < 0 else (at, url[at + 1 : end])


def _repository(address: str) -> RepositoryId | None:
    """Return which repository a URL without ``git+`` and ref names; ``ssh://git@host:owner/name`` is read as pip's users mean it."""
    scp = _SCP_PORT.match(address)
    try:
        return RepositoryId.parse(scp["address"] + scp["path"] if scp else address)
    except (CatalogError, ValueError):
        return None


def _source_ref(source: Mapping[str, Any]) -> str | None:
    for key, prefix in (("rev", ""), ("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if isinstance(source.get(key), str):
            return f"{prefix}{source[key]}"
    return None


@dataclass(frozen=True)
class _Token:
    """A string in the source of a TOML document: its offsets, quotes included, and its characters."""

    start: int
    end: int
    chars: _Chars


def _toml_strings(text: str) -> Iterator[_Token]:
    for token in _TOML_TOKEN.finditer(text):
        if token[0].startswith("#"):
            continue
        width = 3 if token[0][:3] in ('"""', "'''") and len(token[0]) >= 6 else 1
        start, end = token.start() + width, token.end() - width
        if token[0][0] == "'":
            chars = _Chars.plain(text, [range(start, end)])
        else:
            decoded = [(_decoded(part), part.span()) for part in _TOML_CHARACTER.finditer(text, start, end)]
            kept = [(character, span) for character, span in decoded if character]
            chars = _Chars("".join(character for character, _ignored in kept), [span for _ignored, span in kept])
        yield _Token(token.start(), token.end(), chars)


def _decoded(part: re.Match[str]) -> str:
    """Return the character that a piece of a basic string stands for; none for a line-ending backslash."""
    short, long, escape, plain = part.groups()
    if short or long:
        return chr(int(short or long, 16))
    return _TOML_ESCAPES.get(escape, escape) if escape else plain or ""


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomlkit.parse(text).unwrap()
    except (TOMLKitError, ValueError) as error:
        raise PatchError(f"it is not valid TOML: {error}.") from None
    except RecursionError:
        raise PatchError("it is nested too deeply to be read.") from None


@dataclass(frozen=True)
class _Place:
    """A value of a document that may hold a reference, and what it is: ``requirement``, ``git`` or ``url``."""

    container: Any
    key: Any
    role: str

    @property
    def value(self) -> str:
        return str(self.container[self.key])


def _places(document: dict[str, Any]) -> Iterator[_Place]:
    """Yield the places of references, in an order that depends on the structure of the document alone."""
    uv = _at(document, "tool", "uv")
    lists = [
        _at(document, "build-system", "requires"),
        _at(document, "project", "dependencies"),
        *_values(_at(document, "project", "optional-dependencies")),
        *_values(_at(document, "dependency-groups")),
        *(_at(uv, f"{kind}dependencies") for kind in ("override-", "constraint-", "build-constraint-", "dev-")),
        *_values(_at(uv, "extra-build-dependencies")),
        *(_at(entry, "requires-dist") for entry in _tables(_at(uv, "dependency-metadata"))),
    ]
    for items in lists:
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, str):
                yield _Place(items, index, "requirement")
            elif isinstance(_at(item, "requirement"), str):
                # of extra-build-dependencies: a table that says more of it
                yield _Place(item, "requirement", "requirement")
    for entry in _sources(uv):
        for role in ("git", "url"):
            if isinstance(entry.get(role), str):
                yield _Place(entry, role, role)


def _sources(uv: Any) -> Iterator[dict[str, Any]]:
    """Yield the entries of ``tool.uv.sources``; a package may have several, each with a marker of its own."""
    for source in _values(_at(uv, "sources")):
        yield from _tables(source if isinstance(source, list) else [source])


def _at(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _values(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else []


def _tables(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _texts(items: Any) -> tuple[str, ...]:
    return tuple(item for item in items if isinstance(item, str)) if isinstance(items, list) else ()
