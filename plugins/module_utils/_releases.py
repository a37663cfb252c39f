# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages as the roles ask for them: what a node shall have, and what a bundle shall hold for which releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._apt import BEFORE_PUSH, INDEXES, PACKAGES, RECORD, installs, renamed
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Release, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError, CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._survey import surveyed_releases
from ansible_collections.rlinf.offline.plugins.module_utils._urls import HTTP_SCHEMES, check_url
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform
from ansible_collections.rlinf.offline.plugins.module_utils._wishes import Wish

# machine, as a platform names it -> architecture, as Debian does
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def packages_of(targets: Iterable[Target], further: Iterable[str]) -> list[str]:
    """Return the packages that targets need, and those named beside, as the lists call them."""
    return sorted({*further, *(name for target in targets for name in target.system_packages)})


def packages_by_release(catalog: Catalog, targets: Iterable[Target], further: Iterable[str]) -> dict[str, list[str]]:
    """Return :func:`packages_of` as each release of the catalogue calls them; under an empty name, as any other release might."""
    wanted = packages_of(targets, further)
    return {"": wanted, **{name: renamed(wanted, release.renames) for name, release in catalog.releases.items()}}


def files_of(targets: Iterable[Target]) -> dict[str, str]:
    """Return the configuration files of the system that targets need, path to text."""
    return {path: text for target in targets for path, text in target.system_files.items()}


def to_bring(wishes: Sequence[Wish], settings: Mapping[str, Any], survey: Path | None) -> list[dict[str, Any]]:
    """Return the releases that a bundle shall hold packages for, as ``rlinf_apt_cache`` takes them.

    :param wishes: of all nodes; one whose packages are nobody's business adds none.
    :param settings: ``rlinf_apt_mirrors`` and ``rlinf_platform``.
    :param survey: the file of playbook survey, if there is one: its releases count where no node's ``rlinf_releases`` names any.
    :raises OfflineError: a mirror or the survey is none, or the platform has no packages.
    """
    asked = list(dict.fromkeys(name for wish in wishes for name in wish.releases))
    if not asked and not (survey and survey.is_file()):
        return []
    architecture, mirrors = _architecture(settings["rlinf_platform"]), _mirrors(settings["rlinf_apt_mirrors"])
    releases = []
    for name in asked or surveyed_releases(survey, architecture):  # type: ignore[arg-type]
        found = [(wish, wish.catalog.releases[name]) for wish in wishes if name in wish.catalog.releases and wish.system_state != "ignored"]
        wanted = {called for wish, release in found for called in renamed(packages_of(wish.targets, wish.system_packages), release.renames)}
        if wanted:
            sources = _sources(found[0][1], mirrors)
            releases.append({"name": name, "architecture": architecture, "sources": sources, "packages": sorted(wanted)})
    return releases


def before_push(bundle: Bundle, node: Mapping[str, Any], state: str) -> list[str]:
    """Return the files of a bundle that a node needs before the rest can be pushed, relative to the bundle; none where it needs none.

    :param node: what ``rlinf_node_info`` found there.
    :param state: its ``rlinf_system_packages_state``.
    """
    system = node["system"]
    if node["tools"].get(BEFORE_PUSH) or not system["architecture"] or not installs(state, node["uid"]):
        return []
    folder = bundle.apt(system["release"], system["architecture"])
    if not (folder / RECORD).is_file():
        return []
    record = read_json(folder / RECORD, AptError, PACKAGES)
    files = [*record["before_push"], *INDEXES] if BEFORE_PUSH in record["packages"] else []
    return [str((folder / name).relative_to(bundle.root)) for name in files]


def _sources(release: Release, mirrors: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "mirror": mirror,
            "url": mirrors.get(mirror),
            "suites": list(suites),
            "components": list(release.components),
            "keyring": release.keyring,
        }
        for mirror, suites in release.suites.items()
    ]


def _mirrors(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(url, str) for url in value.values()):
        raise CatalogError(f"rlinf_apt_mirrors must map names of mirrors to URLs, such as {{debian: URL}}; it is {value!r}.")
    return {name: check_url(url, f"rlinf_apt_mirrors: {name}", HTTP_SCHEMES) for name, url in value.items()}


def _architecture(platform: str) -> str:
    machine = Platform.parse(platform).machine
    if machine not in _ARCHITECTURES:
        raise CatalogError(f"rlinf_platform: for {machine} no system packages are known; set rlinf_releases: [].")
    return _ARCHITECTURES[machine]
