# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which submodules a commit has, where they are and at which commit (gitmodules(5))."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import check_relative
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, GitError
from ansible_collections.rlinf.offline.plugins.module_utils._git import Git, session
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, check_url, refuse_userinfo, without_userinfo


@dataclass(frozen=True)
class Submodule:
    """A submodule: its path in the tree, its URL, its mirror under ``repos/``, and the commit it is pinned to."""

    path: str
    url: str
    mirror: str
    commit: str


def read_submodules(store: Git, commit: str, url: str) -> list[Submodule]:
    """Return the submodules of a commit, by path.

    :param url: the repository's own URL, for submodules whose URL is relative.
    :raises GitError: an entry cannot be understood.
    :raises CatalogError: a URL is not allowed.
    """
    about = f"the submodules of {without_userinfo(url)}"
    pinned, links = {}, set()
    for line in store.read("ls-tree", "-r", "-z", commit, about=about).split("\0"):
        head, _ignored, path = line.partition("\t")
        if head.startswith("160000 "):
            pinned[path] = head.split()[2]
        elif head.startswith("120000 "):
            links.add(path.casefold())
    listed = (
        store.test("config", "--blob", f"{commit}:.gitmodules", "--null", "--get-regexp", r"^submodule\..*\.(path|url)$")
        if pinned
        else None
    )
    entries: dict[str, dict[str, str]] = {}
    for item in (listed or "").split("\0"):
        key, _ignored, value = item.partition("\n")
        if key:
            entries.setdefault(key.split(".", 1)[1].rpartition(".")[0], {})[key.rpartition(".")[2]] = value
    found = []
    for name, entry in entries.items():
        path = entry.get("path", "")
        if path in pinned and entry.get("url"):
            what = f"submodule {path!r} of {without_userinfo(url)}"
            for text in (name, path):
                _check_place(text, what)
            if any(parent.as_posix().casefold() in links for parent in PurePosixPath(path).parents):
                raise CatalogError(f"{what} lies below a link, by which it would lead elsewhere. Its owner has to mend it.")
            # its parent's own login is not upstream's to spend on another repository
            target = resolve_relative(without_userinfo(url), refuse_userinfo(entry["url"], what) if "://" in entry["url"] else entry["url"])
            found.append(Submodule(path, check_url(target, what), RepositoryId.parse(target).mirror, pinned[path]))
    return sorted(found, key=lambda submodule: submodule.path)


def check_submodules(repos: Path, commits: Iterable[tuple[str, str]]) -> None:
    """Refuse commits of mirrors with submodules that pass no gate of ours: uv brings all that a commit names, asked or not.

    :param repos: a bundle's ``repos/``.
    :param commits: URL and commit of each.
    :raises OfflineError: as :func:`read_submodules`.
    """
    with session() as git:
        for url, commit in commits:
            read_submodules(git.at(git_dir=repos / RepositoryId.parse(url).mirror), commit, url)


def _check_place(text: str, what: str) -> None:
    """Refuse a name or path under which git would put something else than a submodule's files (CVE-2018-11235, CVE-2019-1387, CVE-2025-48384).

    :raises CatalogError: it goes up, could be taken for an option, holds control characters, or is git's own folder in any spelling.
    """
    check_relative(text, what)
    parts = [part.casefold().rstrip(". ") for part in text.split("/")]
    if text.startswith("-") or not text.isprintable() or "\\" in text or ":" in text or {".git", "git~1"} & set(parts):
        raise CatalogError(f"{what}: {text!r} is no place for a submodule. Its owner has to mend it.")


def resolve_relative(base: str, url: str) -> str:
    """Return the URL of a submodule; one that begins with ``./`` or ``../`` starts from its parent's, as git-submodule(1) says.

    :raises GitError: it goes up too far.
    """
    if not url.startswith(("./", "../")):
        return url
    rest, place, separator = url, base.rstrip("/"), "/"
    while rest.startswith(("./", "../")):
        if rest.startswith("../"):
            separator = "/" if "/" in place.partition("://")[2] or ("://" not in place and "/" in place) else ":"
            if "://" in place and separator == ":":
                raise GitError(f"the submodule URL {url!r} goes up too far from {without_userinfo(base)}.", problem="other")
            place, cut, _ignored = place.rpartition(separator)
            if not cut:
                raise GitError(f"the submodule URL {url!r} goes up too far from {without_userinfo(base)}.", problem="other")
        rest = rest.partition("/")[2]
    return f"{place}{separator}{rest.rstrip('/')}"
