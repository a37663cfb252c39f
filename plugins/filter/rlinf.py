# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles ask about catalogue, targets and nodes. The logic is in module_utils; here only names and errors are translated."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.vars import merge_hash

from ansible_collections.rlinf.offline.plugins.module_utils import _fit, _releases, _report, _report_info, _wishes
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import check_signed
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Target, extended, filled
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._node_info import default_prefix, home_directory
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform


def reported(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn our errors into Ansible's, message and all."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except OfflineError as error:
            raise AnsibleFilterError(str(error)) from error

    return wrapped


def rlinf_hosts(group: str) -> str:
    """Return the group that a play is for.

    What a play is for is evaluated in the process that all tasks' processes are copies of: these filters, and what they import, are there once
    for the whole run. Otherwise each task on each host would load them, which was a fifth of what a node cost this machine.
    """
    if not isinstance(group, str) or not group.strip():
        raise AnsibleFilterError("The group of the nodes (rlinf_nodes_group) is empty. Give its name, or leave it away for rlinf_nodes.")
    return group


def rlinf_extended(catalog: Mapping[str, Any]) -> dict[str, Any]:
    """Return the catalogue with what targets take over from others filled in."""
    return extended(catalog)


def rlinf_filled(catalog: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Return the catalogue with the settings that URLs of its wheels begin with, in braces, filled in."""
    return filled(catalog, values)


def rlinf_closure(
    catalog: Mapping[str, Any], targets: Sequence[str], leave_out: Sequence[str] = (), further: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the repositories, wheels and assets that targets name, and those named in *further*, as arguments of the modules."""
    return Catalog.parse(catalog).closure(targets, list(leave_out), list(further))


def rlinf_unclaimed(catalog: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the names of repositories, wheels and assets in *given*, a part of the catalogue, that no target has."""
    return Catalog.parse(catalog).unclaimed(given)


def rlinf_bundle_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a check of the bundle found as the lines of one table."""
    return _report.bundle_table(results)


def rlinf_mirrors(
    catalog: Mapping[str, Any], targets: Sequence[str], update: Sequence[str] = (), further: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the repositories to mirror, grouped by what is the same for all of a group: the cut-off, and whether frozen commits may move.

    A repository of several targets goes with the first of them that may move, or the first.
    """
    parsed = Catalog.parse(catalog)
    groups: dict[tuple[str | None, bool], list[Any]] = {}
    seen: set[str] = set()
    parsed.select(name for name in update if name not in parsed.releases)
    for target in sorted(parsed.select(targets), key=lambda item: item.name not in update):
        group = groups.setdefault((target.cut_off, target.name in update), [])
        group += [parsed.repositories[name] for name in dict.fromkeys(target.repositories) if name not in seen]
        seen.update(target.repositories)
    for name in further:
        _wishes.check_repository(parsed, name)
    named = [parsed.repositories[name] for name in dict.fromkeys(further) if name not in seen]
    if named:
        groups.setdefault((None, False), []).extend(named)
    return [
        {"cut_off": cut_off, "update": moves, "repos": [asdict(repository) for repository in group]}
        for (cut_off, moves), group in groups.items()
        if group
    ]


def rlinf_target_names(targets: str | Sequence[str], behavior: bool | str = False) -> list[str]:
    """Return the names of targets out of a list or a comma-separated string; with *behavior* openvla-oft is its BEHAVIOR-1K variant."""
    return _wishes.target_names(targets, behavior)


def rlinf_fleet_targets(hostvars: Mapping[str, Any], hosts: Sequence[str], targets: Any, behavior: bool | str = False) -> list[str]:
    """Return the names of all targets that any of *hosts* wants; a host that says nothing, or a fleet of none, wants *targets*."""
    wanted = [(hostvars[host].get("rlinf_targets", targets), hostvars[host].get("rlinf_enable_behavior", behavior)) for host in hosts]
    return list(dict.fromkeys(name for one, flag in wanted or [(targets, behavior)] for name in rlinf_target_names(one, flag)))


def rlinf_target_pythons(
    catalog: Mapping[str, Any], targets: Sequence[str], setting: str | Mapping[str, str], node: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the interpreter of each target, by version or path; where the host has one of the version, its path."""
    return {target.name: _python(target, setting, node) for target in _select(catalog, targets)}


def rlinf_pythons(
    catalog: Mapping[str, Any], targets: Sequence[str], setting: str | Mapping[str, str], node: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the interpreter of each target's version of Python, by version or path; where the host has one of the version, its path."""
    return {target.python: _python(target, setting, node) for target in _select(catalog, targets)}


def _python(target: Target, setting: str | Mapping[str, str], node: Mapping[str, Any] | None) -> str:
    wanted = _wishes.python_for(target, setting)
    found = _fit.interpreters(node, wanted) if node else []
    return found[0] if found else wanted


def rlinf_interpreters(
    catalog: Mapping[str, Any], targets: Sequence[str], chosen: str | Sequence[str], python: str | Mapping[str, str], platform: str
) -> list[dict[str, Any]]:
    """Return the interpreters that a bundle shall hold, as ``rlinf_interpreter_cache`` takes them.

    :param chosen: names of the catalogue, or ``auto`` for what the targets need where a node has none.
    :param python: ``rlinf_python``; *platform*: ``rlinf_platform``.
    """
    return _wishes.interpreters(Catalog.parse(catalog), targets, chosen, python, Platform.parse(platform).machine)


def rlinf_lacking_pythons(
    catalog: Mapping[str, Any], targets: Sequence[str], setting: str | Mapping[str, str], node: Mapping[str, Any]
) -> list[str]:
    """Return the versions of Python that targets need and a node lacks; an interpreter that the user names by its path is none."""
    wanted = dict.fromkeys(_wishes.python_for(target, setting) for target in _select(catalog, targets))
    return [version for version in wanted if not os.path.isabs(version) and not _fit.interpreters(node, version)]


def rlinf_local_prefix(prefix: str | None) -> str:
    """Return *prefix*, or where things lie by default on the machine that runs ansible-playbook."""
    return str(default_prefix(prefix or None, home_directory()))


def rlinf_faults(
    hostvars: Mapping[str, Any], hosts: Sequence[str], settings: Mapping[str, Any], catalog: Mapping[str, Any], fetch: bool = False
) -> list[str]:
    """Return what cannot be meant in the variables of *hosts*, each once with the hosts that it is about.

    A host that does not set one of the *settings* has the value there. With *fetch*, what the targets need can be fetched, too.
    """
    fleet = _fleet(hostvars, hosts, settings, catalog)
    found = [(host, str(wish)) for host, wish in fleet.items() if isinstance(wish, OfflineError)]
    if fetch and not found:
        wishes = [wish for wish in fleet.values() if isinstance(wish, _wishes.Wish)]
        targets = {target.name: target for wish in wishes for target in wish.targets}
        try:
            _releases.to_bring(wishes, settings, None)
            Platform.parse(settings["rlinf_platform"])
            wanted = Catalog.parse(_merged(catalog, settings["rlinf_catalog"]))
            wanted.closure(targets, _wishes.names(settings["rlinf_leave_out"], "rlinf_leave_out"))
        except OfflineError as error:
            return [str(error)]
    return _wishes.grouped(found)


def rlinf_misfits(
    hostvars: Mapping[str, Any],
    hosts: Sequence[str],
    settings: Mapping[str, Any],
    catalog: Mapping[str, Any],
    bundle_dir: str,
    connection: str = "ssh",
) -> list[dict[str, Any]]:
    """Return why nodes cannot take their targets out of the bundle at *bundle_dir* on this machine.

    What each node is and has was registered as ``__rlinf_node_info``. *connection* is that of a node whose inventory names none.
    """
    offers: dict[Any, _fit.Offer] = {}
    found: list[dict[str, Any]] = []
    for host, wish in _fleet(hostvars, hosts, settings, catalog).items():
        said = hostvars[host].get("__rlinf_node_info")
        if said is None:
            # its batch of the play comes later
            continue
        if "node" not in said:
            found += _fit.silent(host, str(said.get("msg", "")))
            continue
        if isinstance(wish, OfflineError):
            raise wish
        key = (id(wish.catalog), *(target.name for target in wish.targets))
        if key not in offers:
            offers[key] = _fit.offer(Path(bundle_dir), wish.targets, wish.catalog)
        remote = hostvars[host].get("ansible_connection", connection) != "local"
        found += _fit.rows(host, _fit.misfits(said["node"], offers[key], wish, remote=remote))
    return found


def _fleet(
    hostvars: Mapping[str, Any], hosts: Sequence[str], settings: Mapping[str, Any], catalog: Mapping[str, Any]
) -> dict[str, _wishes.Wish | OfflineError]:
    """Return what each host shall have, or what is wrong with it; hosts of one catalogue share it parsed."""
    catalogs: dict[str, Catalog | OfflineError] = {}
    fleet: dict[str, _wishes.Wish | OfflineError] = {}
    for host in hosts:
        variables = hostvars[host]
        values = {name: variables.get(name, value) for name, value in settings.items()}
        own = values["rlinf_catalog"]
        key = json.dumps(own, sort_keys=True, default=str)
        try:
            if key not in catalogs:
                catalogs[key] = Catalog.parse(_merged(catalog, own))
            known = catalogs[key]
            fleet[host] = known if isinstance(known, OfflineError) else _wishes.read(values, known)
        except OfflineError as error:
            catalogs.setdefault(key, error)
            fleet[host] = error
    return fleet


def _merged(catalog: Mapping[str, Any], own: Any) -> dict[str, Any]:
    """Return the built-in catalogue with what the inventory adds and changes, as the roles combine them."""
    if not isinstance(own, Mapping):
        raise CatalogError(f"rlinf_catalog must be a mapping with repositories, wheels, assets or targets; it is {own!r}.")
    merged: dict[str, Any] = merge_hash(dict(catalog), dict(own), recursive=True)
    return merged


def rlinf_system_packages(catalog: Mapping[str, Any], targets: Sequence[str], packages: Any) -> dict[str, list[str]]:
    """Return the system packages that a node with these targets shall have, by release; *packages* is what it shall have beside."""
    parsed = _part(catalog, targets)
    return _releases.packages_by_release(parsed, parsed.select(targets), _wishes.names(packages, "rlinf_system_packages"))


def rlinf_system_files(catalog: Mapping[str, Any], targets: Sequence[str]) -> dict[str, str]:
    """Return the configuration files of the system that targets need, path to text."""
    return _releases.files_of(_select(catalog, targets))


def rlinf_apt_releases(
    hostvars: Mapping[str, Any], hosts: Sequence[str], settings: Mapping[str, Any], catalog: Mapping[str, Any], survey: str = ""
) -> list[dict[str, Any]]:
    """Return the releases that a bundle for *hosts* shall hold system packages for, as arguments of rlinf_apt_cache.

    :param settings: as for rlinf_faults.
    :param survey: a file; its releases count where no host names any.
    """
    wishes = list(_fleet(hostvars, hosts, settings, catalog).values())
    for wish in wishes:
        if isinstance(wish, OfflineError):
            raise wish
    return _releases.to_bring([wish for wish in wishes if isinstance(wish, _wishes.Wish)], settings, Path(survey) if survey else None)


def rlinf_before_push(node: Mapping[str, Any], bundle_dir: str, state: str) -> list[str]:
    """Return the files of the bundle that a node needs before the rest can be pushed to it."""
    return _releases.before_push(Bundle(Path(bundle_dir)), node, state)


def rlinf_signed(names: Sequence[str], bundle_dir: str, signers: str) -> Sequence[str]:
    """Return these files of the bundle, which are used before it is verified, once it is known that a trusted signer's manifest lists them so."""
    check_signed(Bundle(Path(bundle_dir)), signers, names)
    return names


def rlinf_licences(catalog: Mapping[str, Any], targets: Sequence[str]) -> dict[str, str]:
    """Return what the user has to accept for these targets: variable to text."""
    return {variable: text for target in _select(catalog, targets) for variable, text in target.licences.items()}


def rlinf_unaccepted(
    hostvars: Mapping[str, Any], hosts: Sequence[str], settings: Mapping[str, Any], catalog: Mapping[str, Any]
) -> list[str]:
    """Return what the targets of *hosts* ask the user to accept, and was not accepted: each once, with the hosts that it is about.

    :param settings: as for rlinf_faults.
    """
    found = []
    for host, wish in _fleet(hostvars, hosts, settings, catalog).items():
        if isinstance(wish, OfflineError):
            raise wish
        asked = {variable: text for target in wish.targets for variable, text in target.licences.items()}
        found += [
            (
                host,
                f"{text} has to be accepted by whoever installs this. Read it; if you accept it, set {variable}: true. Nothing was changed.",
            )
            for variable, text in asked.items()
            if not boolean(hostvars[host].get(variable, False), strict=False)
        ]
    return _wishes.grouped(found)


def rlinf_misfit_table(misfits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the misfits of all nodes as the lines of one table."""
    return _fit.table(misfits)


def rlinf_programs(catalog: Mapping[str, Any], targets: Sequence[str]) -> list[str]:
    """Return the programs that a node needs to compile what is compiled there for these targets."""
    recipes = (recipe for target in _select(catalog, targets) for recipe in target.build_on_node.values())
    return sorted({program for recipe in recipes for program in recipe["needs"]})


def rlinf_states(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how many of a module's results are in which state, a line each."""
    return _report.states(results)


def rlinf_branches(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what became of the branches of a fork, a line each."""
    return _report.branches(results)


def rlinf_sources(placed: Mapping[str, Any], verified: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a target came from, out of what rlinf_target and rlinf_venv found."""
    return _report.sources(placed, verified)


def _select(catalog: Mapping[str, Any], targets: Sequence[str]) -> list[Target]:
    return _part(catalog, targets).select(targets)


def _part(catalog: Mapping[str, Any], targets: Sequence[str]) -> Catalog:
    """Return the catalogue with these targets alone, which takes a third of the time; whole if it lacks one, to say which there are."""
    known = catalog.get("targets")
    if isinstance(known, Mapping) and all(name in known for name in targets):
        return Catalog.parse({**catalog, "targets": {name: known[name] for name in targets}})
    return Catalog.parse(catalog)


def rlinf_report_nodes(hostvars: Mapping[str, Any], hosts: Sequence[str], targets: Any, behavior: bool | str = False) -> dict[str, Any]:
    """Return the arguments of rlinf_report that are what hosts have said, or why they did not."""
    found = {}
    for host in hosts:
        said, first = (hostvars[host].get(name) or {} for name in ("__rlinf_report_info", "__rlinf_node_info"))
        problem = next((str(answer["msg"]) for answer in (first, said) if answer.get("unreachable") or answer.get("failed")), "no answer")
        wanted = rlinf_fleet_targets(hostvars, [host], targets, behavior)
        node = {**first["node"], "targets": said["targets"]} if "targets" in said else None
        found[host] = {"wanted": wanted, "node": node, "problem": problem}
    return _report_info.share_packages(found)


class FilterModule:
    """The filters, by the names that templates use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (
            rlinf_extended,
            rlinf_filled,
            rlinf_hosts,
            rlinf_closure,
            rlinf_unclaimed,
            rlinf_bundle_table,
            rlinf_interpreters,
            rlinf_lacking_pythons,
            rlinf_mirrors,
            rlinf_target_names,
            rlinf_fleet_targets,
            rlinf_target_pythons,
            rlinf_pythons,
            rlinf_local_prefix,
            rlinf_faults,
            rlinf_misfits,
            rlinf_system_packages,
            rlinf_system_files,
            rlinf_apt_releases,
            rlinf_before_push,
            rlinf_signed,
            rlinf_licences,
            rlinf_unaccepted,
            rlinf_misfit_table,
            rlinf_programs,
            rlinf_report_nodes,
            rlinf_states,
            rlinf_branches,
            rlinf_sources,
        )
        return {function.__name__: reported(function) for function in functions}
