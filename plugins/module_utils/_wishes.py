# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host shall have, read out of its variables and checked: targets, interpreters, what is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.rlinf.offline.plugins.module_utils._apt import check_names
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError

SYSTEM_STATES = ("auto", "present", "checked", "ignored")
"""What ``rlinf_system_packages_state`` may be."""
SHOWN = 3
"""How many hosts of a fleet a message names."""
_VERSION = re.compile(r"3\.\d{1,2}(\.\d{1,2})?\Z")


@dataclass(frozen=True)
class Wish:
    """What one host shall have.

    :param python: ``rlinf_python``, see :func:`python_for`.
    :param skip: packages that it does without.
    :param environment: the one that exists already and is installed into; empty means one of our own.
    :param releases: of distributions, that the bundle shall hold system packages for.
    :param system_packages: what it shall have of its distribution, beside what its targets name.
    :param system_state: ``rlinf_system_packages_state``.
    """

    catalog: Catalog
    targets: tuple[Target, ...]
    python: str | Mapping[str, str] = ""
    skip: tuple[str, ...] = ()
    environment: str = ""
    releases: tuple[str, ...] = ()
    system_packages: tuple[str, ...] = ()
    system_state: str = "auto"

    def interpreter(self, target: Target) -> str:
        """Return the interpreter of a target, a version or an absolute path."""
        return os.path.join(self.environment, "bin", "python") if self.environment else python_for(target, self.python)


def read(values: Mapping[str, Any], catalog: Catalog) -> Wish:
    """Read the variables of a host.

    :param values: ``rlinf_*`` -> value.
    :raises CatalogError: one of them names what is not there, or is of a kind that cannot be meant; it is named.
    """
    targets = _naming("rlinf_targets", catalog.select, target_names(values["rlinf_targets"], values["rlinf_enable_behavior"]))
    update = names(values["rlinf_update"], "rlinf_update")
    _naming("rlinf_update", catalog.select, [name for name in update if name not in catalog.releases])
    releases = names(values["rlinf_releases"], "rlinf_releases")
    _check_releases(catalog, releases)
    system_packages = names(values["rlinf_system_packages"], "rlinf_system_packages")
    check_names(system_packages)
    catalog.closure((), names(values["rlinf_leave_out"], "rlinf_leave_out"))
    for name in names(values["rlinf_mirror_repositories"], "rlinf_mirror_repositories"):
        check_repository(catalog, name)
    if boolean(values.get("rlinf_air_gap", False), strict=False) and values.get("rlinf_package_source") == "index":
        raise CatalogError(
            "rlinf_air_gap shows that an install reaches nothing, and with rlinf_package_source: index it reaches an index. Take one of the two out."
        )
    environment = ""
    if values["rlinf_venv_mode"] == "existing":
        environment = str(values["rlinf_venv_path"] or "")
        if not environment:
            raise CatalogError("rlinf_venv_mode is existing, so rlinf_venv_path must name the environment. Set it, or take the mode out.")
    else:
        _check_python(values["rlinf_python"], targets, catalog)
    return Wish(
        catalog,
        tuple(targets),
        values["rlinf_python"],
        tuple(names(values["rlinf_skip_packages"], "rlinf_skip_packages")),
        environment,
        tuple(releases),
        tuple(system_packages),
        _choice("rlinf_system_packages_state", values["rlinf_system_packages_state"], SYSTEM_STATES),
    )


def _choice(variable: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise CatalogError(f"{variable}: {value!r} is none of {', '.join(known)}.")
    return str(value)


def _naming(variable: str, function: Callable[[Iterable[str]], list[Target]], given: Sequence[str]) -> list[Target]:
    try:
        return function(given)
    except CatalogError as error:
        raise CatalogError(f"{variable}: {error}") from None


def names(value: Any, variable: str) -> list[str]:
    """Return names out of a list or a string with commas, each once.

    :raises CatalogError: it is neither.
    """
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise CatalogError(f"{variable} must be a list of names, or a string with commas; it is {value!r}. Correct it in the inventory.")
    return list(dict.fromkeys(name.strip() for name in listed if name.strip()))


def target_names(value: Any, behavior: bool | str = False, variable: str = "rlinf_targets") -> list[str]:
    """Return the names of targets; with *behavior* openvla-oft is its BEHAVIOR-1K variant."""
    enabled = boolean(behavior, strict=False)  # a word, where it is given on the command line
    found = ("openvla-oft-behavior" if enabled and name == "openvla-oft" else name for name in names(value, variable))
    return list(dict.fromkeys(found))


def check_repository(catalog: Catalog, name: str) -> None:
    """:raises CatalogError: the catalogue has no such repository to mirror."""
    if name not in catalog.repositories:
        raise CatalogError(
            f"rlinf_mirror_repositories: there is no repository {name!r} in the catalogue. Add it to rlinf_catalog, or correct the name."
        )


def _check_releases(catalog: Catalog, releases: Iterable[str]) -> None:
    """:raises CatalogError: the catalogue does not know one of these releases of distributions."""
    for name in releases:
        if name not in catalog.releases:
            raise CatalogError(
                f"rlinf_releases: there is no release {name!r} in the catalogue; it knows {', '.join(sorted(catalog.releases)) or 'none'}. "
                "Correct the name, or add where its packages are to rlinf_catalog (releases)."
            )


# -- interpreters --------------------------------------------------------------------------------------------------------------


def python_for(target: Target, setting: str | Mapping[str, str]) -> str:
    """Return the interpreter that the user wants for a target, a version or a path: for it by name, by its minor version, or for all.

    :param setting: ``rlinf_python``: a version, a path, or a mapping of targets or minor versions to such.
    """
    if isinstance(setting, Mapping):
        return str(setting.get(target.name) or setting.get(minor(target.python)) or target.python)
    return str(setting or target.python)


def interpreters(
    catalog: Catalog, targets: Iterable[str], chosen: Any, setting: str | Mapping[str, str], machine: str
) -> list[dict[str, Any]]:
    """Return the interpreters of the catalogue that are named, or with ``auto`` those that the targets need, as module arguments.

    :raises CatalogError: there is none of a name, or none that fits a target.
    """
    known = catalog.interpreters
    if chosen != "auto":
        unknown = [name for name in names(chosen, "rlinf_interpreters") if name not in known]
        if unknown:
            raise CatalogError(
                f"rlinf_interpreters: there is no interpreter {unknown[0]!r} in the catalogue. Known: {', '.join(sorted(known)) or 'none'}; or auto."
            )
        wanted = [known[name] for name in names(chosen, "rlinf_interpreters")]
        return [asdict(entry) for entry in wanted]
    found = {}
    for version in dict.fromkeys(python_for(target, setting) for target in catalog.select(targets)):
        if os.path.isabs(version):
            continue
        fitting = [entry for entry in known.values() if entry.machine == machine and f"{entry.python}.".startswith(f"{version}.")]
        if not fitting:
            raise CatalogError(
                f"rlinf_interpreters: the catalogue has no Python {version} for {machine}. Add it to rlinf_catalog (interpreters), or name others."
            )
        best = max(fitting, key=lambda entry: tuple(map(int, entry.python.split("."))))
        found[best.name] = asdict(best)
    return list(found.values())


def minor(version: str) -> str:
    """Return a version of Python without its third number."""
    return ".".join(version.split(".")[:2])


def _check_python(setting: Any, targets: Iterable[Target], catalog: Catalog) -> None:
    """Refuse what is neither a version nor a path, and a version that a target is not made for."""
    keys = {*catalog.targets, *(minor(target.python) for target in catalog.targets.values())}
    if isinstance(setting, Mapping):
        unknown = [key for key in setting if key not in keys]
        if unknown:
            raise CatalogError(
                f"rlinf_python: {unknown[0]!r} is neither a target nor a minor version of one, in quotes. Known: {', '.join(sorted(keys))}."
            )
    for value in setting.values() if isinstance(setting, Mapping) else [setting]:
        # YAML reads 3.10 without quotes as 3.1
        if value and not (str(value) != "3.1" and _VERSION.match(str(value))) and not os.path.isabs(str(value)):
            raise CatalogError(
                f"rlinf_python: {value!r} is neither a version of Python, like '3.11' in quotes, nor an absolute path. Correct it in the inventory."
            )
    for target in targets:
        wanted = python_for(target, setting)
        if not os.path.isabs(wanted) and minor(wanted) != minor(target.python):
            raise CatalogError(
                f"rlinf_python: {wanted} is not the Python {target.python} that target {target.name} is locked for. "
                f"Take it out, or give each its own: {{{minor(target.python)!r}: VERSION OR PATH}}."
            )


# -- a fleet -------------------------------------------------------------------------------------------------------------------


def grouped(messages: Iterable[tuple[str, str]]) -> list[str]:
    """Return each message once, led by the hosts that it is about.

    :param messages: host and message.
    """
    hosts: dict[str, list[str]] = {}
    for host, message in messages:
        hosts.setdefault(message, []).append(host)
    return [f"{some(told)}: {message}" for message, told in hosts.items()]


def some(hosts: Sequence[str]) -> str:
    """Return the names of some hosts, and how many more there are."""
    more = f" and {len(hosts) - SHOWN} more" if len(hosts) > SHOWN else ""
    return ", ".join(hosts[:SHOWN]) + more
