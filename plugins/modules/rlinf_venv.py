#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the environment of a target from a bundle, without network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_venv
short_description: Install the environment of a target from a bundle, without network
version_added: "0.1.0"
description:
  - Builds a virtual environment aside, out of a bundle's lock (PEP 751) and this node's editables, verifies it, and switches to it in one step.
  - A running job keeps the environment it has. Former environments are kept, so that the switch can be undone.
  - Or brings them into an environment that exists (O(mode=existing)), where nothing but the target's packages is touched.
  - With O(catalog) it first puts in place what the target needs beside its environment, as M(rlinf.offline.rlinf_target) does, and takes from
    there what that returns. Otherwise that is given.
  - Whether anything has to be done is found out by a fingerprint. Nothing of the user's uv, pip or git configuration is read, and no network is
    asked, unless O(package_source=index) lets packages of an index, which the bundle lacks, come from one, by the SHA-256 of the lock.
author: The rlinf.offline authors (@RLinf)
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.index
  - rlinf.offline.bundle.target
requirements:
  - GitPython, tomlkit and packaging, in the node's private runtime (see M(rlinf.offline.rlinf_runtime))
options:
  prefix:
    description:
      - Where everything of this collection lies on the node.
      - The environments are C(venvs/<target>-<digest>), C(venvs/<target>) links to the current one.
    type: path
    required: true
  target:
    description: The name of the target, which names the environment. This or O(targets) is needed.
    type: str
  targets:
    description:
      - Several targets instead of O(target), one after the other; for a node that costs less than a call for each. One that fails stops no other.
      - What is done in a call is recorded as one step (C(rlinf_air_gap)), which has to be of one target.
    type: list
    elements: str
  state:
    description:
      - V(present) has the environment of the lock current.
      - V(verified) hashes every installed file, compares the packages with the lock where O(lock) is given, and imports O(imports).
        What is found damaged is built anew by the next V(present).
      - V(rolled_back) has the environment current that the last switch took out of use. An existing environment has none to go back to.
      - V(withdrawn) takes the exports of the target, and what is written down of it, out of an existing environment. Its packages stay, since
        others may need them by now; C(former) of C(rlinf/<target>.json) says which versions were there before.
    type: str
    choices: [present, verified, rolled_back, withdrawn]
    default: present
  catalog:
    description:
      - The catalogue, with the keys C(repositories), C(wheels), C(assets) and C(targets).
      - With it, O(state=present) puts the target in place, and O(state=verified) fails if it is not. O(assets_dir), O(home), O(repo_paths),
        O(leave_out), O(strict) and O(allow_drift) say how. O(lock), O(editables), O(scripts) and O(imports) come from there, and O(exports)
        are added to those of the target.
    type: dict
  verify:
    description:
      - Whether O(state=present) verifies in the end, as O(state=verified) does, what it has made or found. In check mode it does where nothing would change.
    type: bool
    default: false
  lock:
    description: The pylock of the target in the bundle. This or O(catalog) is needed for O(state=present).
    type: path
  python:
    description:
      - The interpreter, by version (V(3.11)) or absolute path. Needed for O(state=present).
      - A version is looked for on PATH. None is ever downloaded.
      - With O(mode=existing) it is that of the environment, whatever is given.
    type: str
  pythons:
    description: O(python) of each of O(targets), by its name.
    type: dict
    default: {}
  mode:
    description:
      - V(own) has environments of this collection's own, built aside and switched to.
      - V(existing) uses the conda or virtual environment at O(path). Packages of the lock come into it; those that are there in another version
        or of another origin are replaced, as the diff shows beforehand; nothing else is touched. Exports go to C(etc/conda/activate.d) and
        C(deactivate.d), or into marked blocks of C(bin/activate). What was done is written down in C(rlinf/<target>.json) of the environment.
    type: str
    choices: [own, existing]
    default: own
  path:
    description: The environment, for O(mode=existing).
    type: path
  scripts:
    description:
      - What is run in the environment after its packages are installed, and before it is verified and switched to, in this order.
      - The environment's programs come first on PATH, and its exports are set. uv and pip find the wheels of the lock, and what building
        needs, and nothing else. What came from O(index_url) is there, but cannot be installed anew. There is nobody to answer a question.
      - A script that leaves other packages than the lock says, or damages files, is an error. So is one that fails; the end of what it said is
        in the message, all of it in C(state/logs/<target>/) below O(prefix).
      - They, and the files that their arguments name, are part of what makes an environment another one.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: How messages name it.
        type: str
        required: true
      cwd:
        description: The directory it runs in.
        type: path
        required: true
      argv:
        description: The program and its arguments. C({venv}) stands for the environment.
        type: list
        elements: str
        required: true
      env:
        description: Environment variables. C({venv}) stands for the environment.
        type: dict
        default: {}
      removes:
        description: Globs, below site-packages, of files and directories that it may delete. C(**) stands for any directories.
        type: list
        elements: str
        default: []
  skip_packages:
    description: Packages of the lock that are left out. One that no lock of the bundle has is an error.
    type: list
    elements: str
    default: []
  package_source:
    description:
      - V(bundle) takes everything from the bundle.
      - V(index) takes packages that an index serves, and the bundle lacks, from O(index_url). What was built from commits or sources comes from the
        bundle in any case.
    type: str
    choices: [bundle, index]
    default: bundle
  remote_fallback:
    description: Whether anything may really come from O(index_url). If not, what is missing is named, and nothing is changed.
    type: bool
    default: true
  editables:
    description:
      - Projects on this node that are installed editable, without their dependencies, which are in the lock.
      - What building them needs is taken from the bundle.
    type: list
    elements: dict
    default: []
    suboptions:
      package:
        description: The name of the distribution.
        type: str
        required: true
      path:
        description: The directory of its C(pyproject.toml) or C(setup.py).
        type: path
        required: true
  exports:
    description:
      - Environment variables that activating sets, and deactivating gives back.
      - A value is text, or a mapping with the key C(prepend), whose path is put before what the variable holds.
    type: dict
    default: {}
  imports:
    description: Modules that must be importable before the environment is switched to.
    type: list
    elements: str
    default: []
  gpu:
    description:
      - Whether verifying lets PyTorch of the environment compute on every GPU of the node, where the target has PyTorch.
      - V(auto) does where the node has NVIDIA GPUs and a driver; V(required) fails where it has none; V(ignored) never does.
    type: str
    choices: [auto, required, ignored]
    default: auto
  project_dir:
    description:
      - A checkout that gets a link C(.venv) to the environment, unless it has one or anything else of that name.
      - With O(catalog), a checkout of the project that is there already. It is used as it is and never changed otherwise. Without one, that of
        the target gets the link.
    type: path
  exact:
    description:
      - Whether a package that was added by hand has the environment built anew, and is an error for O(state=verified).
      - A package removed or replaced always has, and is.
    type: bool
    default: true
  keep:
    description:
      - How many environments of the target are kept, the current one included.
      - One that a running process uses is kept beyond that.
    type: int
    default: 2
"""

EXAMPLES = r"""
- name: Install openvla
  rlinf.offline.rlinf_venv:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    target: openvla
    lock: /opt/rlinf/bundle/targets/0a1b2c3d4e5f60718293a4b5c6d7e8f901234567/openvla/pylock.openvla.toml
    python: "3.11"
    editables:
      - package: libero
        path: /opt/rlinf/src/LIBERO
    exports:
      NVIDIA_DRIVER_CAPABILITIES: all
      PYTHONPATH:
        prepend: /opt/rlinf/src/LIBERO
    imports: [torch, libero]

- name: Install openvla into the user's conda environment, what the bundle lacks from the index of the LAN
  rlinf.offline.rlinf_venv:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    target: openvla
    lock: /opt/rlinf/bundle/targets/0a1b2c3d4e5f60718293a4b5c6d7e8f901234567/openvla/pylock.openvla.toml
    mode: existing
    path: /home/alice/miniconda3/envs/rlinf
    package_source: index
    index_url: https://mirror.example/simple/
    ca_bundle: /etc/ssl/certs/example.pem

- name: Go back to the former environment
  rlinf.offline.rlinf_venv:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    target: openvla
    state: rolled_back
"""

RETURN = r"""
results:
  description:
    - What became of each target. C(name), C(changed), C(state) (that asked for, or V(failed)), C(reason), C(seconds), and whatever else is returned
      for one target, but for what is shown of all together.
  type: list
  elements: dict
  returned: with O(targets)
venv:
  description: The link to the current environment, or the existing one.
  type: str
  returned: success
  sample: /opt/rlinf/venvs/openvla
generation:
  description: The folder of the current environment; in check mode the one there would be, as far as its name is known.
  type: str
  returned: with O(mode=own)
  sample: openvla-3f2a9c01b7de
digest:
  description: The SHA-256 of lock, interpreter, exports and scripts.
  type: str
  returned: success, for one target
reason:
  description: Why something was, or would be, done.
  type: str
  returned: success
  sample: other packages
packages:
  description: The packages that come, go and change, with their lines before and after.
  type: dict
  returned: success
  contains:
    added:
      description: Packages that were not there, C(name) and C(after).
      type: list
      elements: dict
    removed:
      description: Packages that are there no longer, C(name) and C(before).
      type: list
      elements: dict
    changed:
      description: Packages of another version or of other content, C(name), C(before) and C(after).
      type: list
      elements: dict
remote:
  description: What comes from the index, C(name), C(version), C(file) and C(from), whose credentials are masked.
  type: list
  elements: dict
  returned: O(state=present)
messages:
  description: The same, a line for each, as C(colour), C(text) and C(kind).
  type: list
  elements: dict
  returned: O(state=present)
built:
  description: Sources that were, or would be, built on this node, C(name) and C(version).
  type: list
  elements: dict
  returned: O(state=present)
skipped_packages:
  description: Packages of the lock that were left out by O(skip_packages).
  type: list
  elements: str
  returned: O(state=present)
removed:
  description: Folders of environments that were, or would be, removed.
  type: list
  elements: str
  returned: O(state=present) with O(mode=own)
after_push:
  description: In check mode, that the bundle or a working copy is not there yet, so that what would be done is known only later.
  type: bool
  returned: in check mode, if one of them is not there
placed:
  description: What RV(rlinf.offline.rlinf_target#module:results) and the other values of that module say, its messages and warnings apart.
  type: dict
  returned: with O(catalog)
verified:
  description: How many packages were verified.
  type: int
  returned: O(state=verified) or O(verify=true)
installed:
  description: The packages, C(name), C(version) and C(source), which is the path of the wheel in the bundle or of the editable, or the
    index.
  type: list
  elements: dict
  returned: O(state=verified) or O(verify=true)
gpu:
  description:
    - What PyTorch of the environment did on the GPUs. C(state) is V(computed), V(no GPU), V(no torch), V(without CUDA) or V(ignored).
    - C(torch) and C(cuda) are its versions, C(devices) the C(index), C(name) and C(compute) capability of each GPU that computed rightly.
  type: dict
  returned: O(state=verified) or O(verify=true)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._activation import shown_script
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._gpu_check import AUTO, CHOICES
from ansible_collections.rlinf.offline.plugins.module_utils._items import answer, attempt
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import INDEX, NETWORK, ON_NODE, TARGET, Module, finish, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_python, find_uv, offline_environment

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "prefix": {"type": "path", "required": True},
    "target": {"type": "str"},
    "targets": {"type": "list", "elements": "str"},
    "state": {"type": "str", "choices": ["present", "verified", "rolled_back", "withdrawn"], "default": "present"},
    "lock": {"type": "path"},
    "python": {"type": "str"},
    "pythons": {"type": "dict", "default": {}},
    "mode": {"type": "str", "choices": ["own", "existing"], "default": "own"},
    "path": {"type": "path"},
    "editables": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"package": {"type": "str", "required": True}, "path": {"type": "path", "required": True}},
    },
    "scripts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "cwd": {"type": "path", "required": True},
            "argv": {"type": "list", "elements": "str", "required": True},
            "env": {"type": "dict", "default": {}},
            "removes": {"type": "list", "elements": "str", "default": []},
        },
    },
    "exports": {"type": "dict", "default": {}},
    "imports": {"type": "list", "elements": "str", "default": []},
    "gpu": {"type": "str", "choices": list(CHOICES), "default": AUTO},
    "skip_packages": {"type": "list", "elements": "str", "default": []},
    "package_source": {"type": "str", "choices": ["bundle", "index"], "default": "bundle"},
    "remote_fallback": {"type": "bool", "default": True},
    **NETWORK,
    **INDEX,
    **TARGET,
    "project_dir": {"type": "path"},
    "exact": {"type": "bool", "default": True},
    "verify": {"type": "bool", "default": False},
    "keep": {"type": "int", "default": 2},
}


def main() -> None:
    module = Module(
        ARGUMENTS,
        required_if=[("state", "present", ("lock", "catalog"), True)],
        required_one_of=[("target", "targets")],
        mutually_exclusive=[("target", "targets")],
        supports_check_mode=True,
    )
    require(module, ["git", "packaging", "tomlkit"], ON_NODE)
    states = {"present": present, "verified": verified, "rolled_back": rolled_back, "withdrawn": withdrawn}
    if module.params["mode"] == "existing":
        states |= {"present": present_in_existing, "verified": verified_in_existing, "rolled_back": refused}
    work = states[module.params["state"]]
    if module.params["catalog"] is not None and module.params["state"] in ("present", "verified"):
        work = partial(with_target, work=work)
    if targets := module.params["targets"]:
        work = partial(for_each, work=work)
    finish(module, lambda: work(module), target=" ".join(targets or [module.params["target"]]))


@dataclass(frozen=True)
class Answer:
    """What became of one target of several."""

    json: dict[str, Any]
    diff: dict[str, str] = field(default_factory=dict)


def for_each(module: Module, work: Callable[[Module], dict[str, Any]]) -> dict[str, Any]:
    """Do *work* for one target after the other.

    :raises OfflineError: some failed; each is named, and what became of all is among the details.
    """
    params = module.params
    shown: dict[str, list[Any]] = {"diff": [], "messages": [], "warnings": []}

    def one(name: str) -> Answer:
        module.params = {**params, "target": name, "python": params["pythons"].get(name, params["python"])}
        try:
            said = work(module)
        finally:
            # what is said of the call is what it was called with
            module.params = params
        for key, all_of_them in shown.items():
            found = said.pop(key, [])
            all_of_them += found if isinstance(found, list) else [found]
        return Answer({"name": name, "state": params["state"], **said})

    outcomes = [attempt(name, partial(one, name)) for name in params["targets"]]
    together: dict[str, Any] = {key: found for key, found in shown.items() if found}
    if len(outcomes) == 1 and "digest" in outcomes[0].json:
        # of which its record is (rlinf_air_gap)
        together["digest"] = outcomes[0].json["digest"]
    try:
        return {**answer(outcomes, "targets", diff=False), **together}
    except OfflineError as error:
        error.details.update(together)
        raise


def with_target(module: Module, work: Callable[[Module], dict[str, Any]]) -> dict[str, Any]:
    """Have what the target needs beside its environment in place, and do *work* with what comes out of it.

    :raises OfflineError: it cannot be put in place, or is not, and shall only be verified.
    """
    from ansible_collections.rlinf.offline.plugins.module_utils._target import Wanted, placed

    params, verifying = module.params, module.params["state"] == "verified"
    found = placed(Wanted.of(params), check=module.check_mode or verifying)
    if verifying and found["changed"]:
        found["changed"] = False
        absent = [result["path"] for result in found["results"] if result["changed"]] or ["what the node remembers of it"]
        reason = f"{params['target']} is not in place: {'; '.join(absent)}. Run the playbook rlinf.offline.install."
        if not module.check_mode:
            raise OfflineError(reason)
        answer: dict[str, Any] = {"changed": False, "reason": reason}
    else:
        come = {name: found[name] for name in ("lock", "editables", "scripts", "imports", "project_dir")}
        module.params = {**params, **come, "exports": {**found["exports"], **params["exports"]}}
        try:
            answer = work(module)
        finally:
            # what is said of the call is what it was called with
            module.params = params
    diffs = [answer["diff"]] if isinstance(answer.get("diff"), dict) else answer.get("diff", [])
    return {
        **answer,
        "changed": found["changed"] or answer["changed"],
        "messages": [*found.pop("messages"), *answer.get("messages", [])],
        "warnings": [*found.pop("warnings"), *answer.get("warnings", [])],
        **({"diff": [found["diff"], *diffs]} if module._diff else {}),
        "placed": {key: value for key, value in found.items() if key != "diff"},
    }


def installer_of(module: Module) -> Any:
    """Return what installs for the target that the arguments name."""
    from ansible_collections.rlinf.offline.plugins.module_utils._install import Installer

    params = module.params
    node = Node(Path(params["prefix"]).absolute())
    config = node.uv_config if node.uv_config.is_file() else None
    git_config = node.git_config if node.git_config.is_file() else None
    uv = Uv(find_uv(prefix=node.prefix), offline_environment(node.cache, git_config, config))
    return Installer(node, Bundle(Path(params["bundle_dir"]).absolute()), params["target"], uv)


def venv_of(module: Module) -> Any:
    """Return the environments that the arguments speak of."""
    from ansible_collections.rlinf.offline.plugins.module_utils._venv import Venv

    params, installer = module.params, installer_of(module)
    project = Path(params["project_dir"]).absolute() if params["project_dir"] else None
    return Venv(installer.node, installer.bundle, installer.target, installer.uv, project, params["keep"])


def existing_of(module: Module) -> Any:
    """Return the existing environment that the arguments name."""
    from ansible_collections.rlinf.offline.plugins.module_utils._existing import Existing

    if not module.params["path"]:
        raise OfflineError("An existing environment is asked for (rlinf_venv_mode), and none is named. Set rlinf_venv_path.")
    return Existing(installer_of(module), Path(module.params["path"]).absolute())


def lock_of(module: Module) -> Any:
    """Return the lock that the arguments name, or None."""
    from ansible_collections.rlinf.offline.plugins.module_utils._effective import effective_lock

    params = module.params
    if not params["lock"]:
        return None
    bundle = Bundle(Path(params["bundle_dir"]).absolute())
    return effective_lock(bundle, Path(params["lock"]).absolute(), params["editables"], params["skip_packages"])


def wanted_of(module: Module, python: str, uv: Uv) -> Any:
    """Return what the arguments want an environment to be."""
    from ansible_collections.rlinf.offline.plugins.module_utils._install import Wanted
    from ansible_collections.rlinf.offline.plugins.module_utils._scripts import Script
    from ansible_collections.rlinf.offline.plugins.module_utils._supply import Policy

    params = module.params
    if params["package_source"] == "index" and not params["index_url"]:
        raise OfflineError(
            "Packages may come from an index (rlinf_package_source), and none is named. Set rlinf_node_index_url to that of the LAN."
        )
    network = Network.of(params, "rlinf_node_") if params["package_source"] == "index" else Network()
    policy = Policy(network, params["remote_fallback"])
    scripts = tuple(Script.parse(script) for script in params["scripts"])
    return Wanted(
        lock_of(module), find_python(python, uv), params["exports"], params["imports"], params["exact"], scripts=scripts, policy=policy
    )


def not_there(module: Module) -> list[str]:
    """Return what the arguments name and an earlier task of a first run, in check mode, did not put in place."""
    params = module.params
    paths = [params["lock"], *(editable["path"] for editable in params["editables"]), *(script["cwd"] for script in params["scripts"])]
    return [path for path in paths if not Path(path).exists()] if module.check_mode else []


def present(module: Module) -> dict[str, Any]:
    """Have the environment of the lock current."""
    if missing := not_there(module):
        return {"changed": True, "reason": f"would install when it is there: {', '.join(missing)}", "after_push": True}
    venv = venv_of(module)
    if not module.params["python"]:
        raise OfflineError("python is needed to make an environment. Give a version, or the path of an interpreter.")
    wanted = wanted_of(module, module.params["python"], venv.uv)
    plan = venv.plan(wanted)
    generation = plan.ready.name if plan.ready else venv.generations.place(plan.digest).name
    if plan.changed and not module.check_mode:
        plan, built = venv.apply(wanted)
        generation = built.name
    return {
        **_outcome(plan, wanted, venv.link),
        "generation": generation,
        "removed": [path.name for path in plan.removable],
        **_diff(module, plan.before, plan.after, venv, plan.current.name if plan.current else "none", generation),
        **(_evidence(_verify_own(module, venv)) if _to_verify(module, plan) else {}),
    }


def present_in_existing(module: Module) -> dict[str, Any]:
    """Have the target in an existing environment."""
    if missing := not_there(module):
        return {"changed": True, "reason": f"would install when it is there: {', '.join(missing)}", "after_push": True}
    existing = existing_of(module)
    existing.check()
    wanted = wanted_of(module, str(existing.python), existing.installer.uv)
    plan = existing.plan(wanted)
    if plan.changed and not module.check_mode:
        plan = existing.apply(wanted)
    return {
        **_outcome(plan, wanted, existing.path),
        "warnings": list(plan.warnings),
        **_existing_diff(module, plan, existing.path),
        **(_evidence(_verify_existing(module, existing)) if _to_verify(module, plan) else {}),
    }


def _to_verify(module: Module, plan: Any) -> bool:
    """Return whether what is there now is what was asked for, and shall be verified."""
    return module.params["verify"] and not (module.check_mode and plan.changed)


def _outcome(plan: Any, wanted: Any, place: Path) -> dict[str, Any]:
    """Return what is said of a plan, whichever kind of environment it is for."""
    from ansible_collections.rlinf.offline.plugins.module_utils._install import package_changes

    supply = plan.supply
    return {
        "changed": plan.changed,
        "venv": str(place),
        "digest": plan.digest,
        "reason": plan.reason,
        "packages": package_changes(plan.before, plan.after),
        "remote": supply.reported if supply else [],
        "messages": supply.messages if supply else [],
        "built": [{"name": package.name, "version": package.version} for package in supply.to_build] if supply else [],
        "skipped_packages": list(wanted.lock.skipped),
    }


def verified(module: Module) -> dict[str, Any]:
    """Hash the current environment; nothing but a note of damage is written."""
    venv = venv_of(module)
    found = _verify_own(module, venv)
    return {**_unchanged(found, venv.link), "generation": found["generation"]}


def verified_in_existing(module: Module) -> dict[str, Any]:
    """Hash the target's packages in an existing environment; nothing but a note of damage is written."""
    existing = existing_of(module)
    return _unchanged(_verify_existing(module, existing), existing.path)


def _verify_own(module: Module, venv: Any) -> dict[str, Any]:
    params = module.params
    mark = not module.check_mode
    found: dict[str, Any] = venv.verify(lock_of(module), params["imports"], exact=params["exact"], mark=mark, gpu=params["gpu"])
    return found


def _verify_existing(module: Module, existing: Any) -> dict[str, Any]:
    params = module.params
    found: dict[str, Any] = existing.verify(lock_of(module), params["imports"], mark=not module.check_mode, gpu=params["gpu"])
    return found


def _unchanged(found: dict[str, Any], place: Path) -> dict[str, Any]:
    return {
        "changed": False,
        "venv": str(place),
        "reason": "verified",
        "packages": {"added": [], "removed": [], "changed": []},
        "digest": found["digest"],
        **_evidence(found),
    }


def _evidence(found: dict[str, Any]) -> dict[str, Any]:
    return {"verified": len(found["packages"]), "installed": found["packages"], "gpu": found["gpu"]}


def rolled_back(module: Module) -> dict[str, Any]:
    """Have the former environment current."""
    from ansible_collections.rlinf.offline.plugins.module_utils._install import package_changes
    from ansible_collections.rlinf.offline.plugins.module_utils._venv import describe

    venv = venv_of(module)
    current, former = venv.previous() if module.check_mode else venv.roll_back()
    now = former or current
    before, after = describe(current), describe(now)
    return {
        "changed": former is not None,
        "venv": str(venv.link),
        "generation": now.name,
        "digest": now.digest,
        "reason": f"back from {current.name}" if former else f"already back from {current.stamp['rolled_back_from']}",
        "packages": package_changes(before, after),
        **_diff(module, before, after, venv, current.name, now.name),
    }


def refused(module: Module) -> dict[str, Any]:
    """Say why there is no way back in an existing environment."""
    raise OfflineError(
        f"{module.params['path']} is an existing environment (rlinf_venv_mode), which is changed in place: there is no former one to go back to. "
        f"The key former in rlinf/{module.params['target']}.json there says which versions were replaced; a copy made before installing is the way back."
    )


def withdrawn(module: Module) -> dict[str, Any]:
    """Take the target out of an existing environment, its packages apart."""
    if module.params["mode"] != "existing":
        raise OfflineError(
            "state withdrawn is for mode existing. An environment of this collection's own is a folder below venvs/; remove it."
        )
    existing = existing_of(module)
    plan = existing.withdraw(check=module.check_mode)
    answer = {"changed": plan.changed, "venv": str(existing.path), "digest": plan.digest, "reason": plan.reason}
    return {**answer, "packages": {"added": [], "removed": [], "changed": []}, **_existing_diff(module, plan, existing.path)}


def _existing_diff(module: Module, plan: Any, path: Path) -> dict[str, Any]:
    """Return the packages, and the files of activation, before and after."""
    if not module._diff:
        return {}
    found = [{"before": plan.before, "after": plan.after, "before_header": str(path), "after_header": str(path)}]
    found += [
        {"before": shown_script(before or ""), "after": shown_script(after or ""), "before_header": str(file), "after_header": str(file)}
        for file, (before, after) in plan.exports.items()
    ]
    return {"diff": found}


def _diff(module: Module, before: str, after: str, venv: Any, current: str, generation: str) -> dict[str, Any]:
    if not module._diff:
        return {}
    return {
        "diff": {
            "before": before,
            "after": after,
            "before_header": f"{venv.link} -> {current}",
            "after_header": f"{venv.link} -> {generation}",
        }
    }


if __name__ == "__main__":
    main()
