# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module does the same way: report its errors, and say when the node is not prepared yet. Standard library only."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import sanitize_keys

from ansible_collections.rlinf.offline.plugins.module_utils._activation import secret_values
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact, secrets

ON_BASTION = "Install the collection's requirements.txt into the Python that runs ansible-playbook, or set rlinf_bastion_python."
ON_NODE = "Run the playbook rlinf.offline.prepare for this node first."

NETWORK: dict[str, Any] = {
    "timeout": {"type": "int", "default": 120},
    "url_rewrites": {"type": "dict", "default": {}},
    "proxy": {"type": "str"},
    "ca_bundle": {"type": "path"},
}
"""The arguments of modules that use the network (fragment ``rlinf.offline.bundle.network``, class ``_network.Network``)."""
FETCH: dict[str, Any] = {"bundle_dir": {"type": "path", "required": True}, "jobs": {"type": "int", "default": 8}, **NETWORK}
"""Those of modules that fetch into a bundle (fragments ``rlinf.offline.bundle`` and ``rlinf.offline.bundle.fetch``)."""
INDEX: dict[str, Any] = {"index_url": {"type": "str"}}
"""That of modules that use a package index (fragment ``rlinf.offline.bundle.index``)."""
TARGET: dict[str, Any] = {
    "catalog": {"type": "dict"},
    "assets_dir": {"type": "path"},
    "home": {"type": "path"},
    "repo_paths": {"type": "dict", "default": {}},
    "leave_out": {"type": "list", "elements": "str", "default": []},
    "strict": {"type": "bool", "default": True},
    "allow_drift": {"type": "bool", "default": False},
}
"""Those of modules that put a target in place (fragment ``rlinf.offline.bundle.target``, class ``_target.Wanted``)."""

AIR_GAP = "RLINF_AIR_GAP"
"""Environment variable of a module: the folder for the records of what it tries to reach (``rlinf_air_gap``). Without it nothing is recorded."""


class Module(AnsibleModule):  # type: ignore[misc]
    """A module that shows no login of its arguments, whatever it answers or logs.

    Ansible looks through the arguments, answers what is wrong with them, and logs them while the module is made: logins are known before.
    """

    def _load_params(self) -> None:
        super()._load_params()
        self.no_log_values |= secrets(self.params) | secret_values(self.params.get("exports"))

    def _return_formatted(self, kwargs: dict[str, Any]) -> None:
        # Ansible masks values alone, and a prefix of url_rewrites is a key
        kwargs.setdefault("invocation", {"module_args": sanitize_keys(self.params, self.no_log_values)})
        super()._return_formatted(kwargs)


def finish(module: Module, work: Callable[[], dict[str, Any]], *, target: str = "") -> None:
    """Run *work* and leave with its result, or with the message of the error it raised.

    What the result holds under ``warnings`` is shown as such. Whoever may read what is made does not depend on who makes it: the umask is
    022, for git, uv and scripts as well.
    An :class:`OSError` (a full disk, a read-only file system, a lack of permission) is reported with the path it names.
    Any other exception is a defect: what it says is shown, its traceback where Ansible is asked for it, no login in either.

    :param target: what the record of the step is of, by default the argument of that name.
    """
    os.umask(0o022)
    try:
        watched = _watched(module, target)
        result = work()
    except OfflineError as error:
        module.fail_json(msg=str(error), **error.details)
    except OSError as error:
        where = error.filename or "the file system"
        module.fail_json(
            msg=f"{where}: {error.strerror or error}. Nothing half-written is left under a final name; mend this and run again."
        )
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        module.fail_json(
            msg=redact(
                f"{type(error).__name__}: {error} ({os.path.basename(at.filename)}, line {at.lineno}). This is a defect of rlinf.offline. "
                "Report it with its traceback, which ANSIBLE_DISPLAY_TRACEBACK=error shows (before ansible-core 2.19, -vvv)."
            ),
            exception=redact(traceback.format_exc()),
        )
    else:
        if watched:
            watched.say(changed=bool(result.get("changed")), digest=result.get("digest"))
        for warning in result.pop("warnings", ()):
            module.warn(warning)
        module.exit_json(**result)


def _watched(module: Module, target: str) -> Any:
    """Go on where nothing but this machine can be reached, and all that is tried is recorded, if that is asked for (``rlinf_air_gap``).

    A check changes nothing, and is not recorded.

    :raises AirGapError: the node does not allow it.
    """
    folder = os.environ.get(AIR_GAP)
    if not folder or module.check_mode:
        return None
    # nobody else shall wait for what it imports
    from ansible_collections.rlinf.offline.plugins.module_utils._egress import enter

    name = module._name.rpartition(".")[2]
    asked = {"target": target or module.params.get("target"), "state": module.params.get("state")}
    chosen = {key: value for key, value in asked.items() if value}
    return enter(Path(folder), " ".join([name, *chosen.values()]), module=name, **chosen)


def require(module: Module, libraries: Iterable[str], remedy: str) -> None:
    """Leave with a clear message unless all *libraries* (import names) are there.

    In check mode a node that is not prepared yet is no error: the module reports that it would run after prepare.

    :param remedy: what to do, a sentence.
    """
    missing = sorted(name for name in libraries if importlib.util.find_spec(name) is None)
    if not missing:
        return
    if module.check_mode:
        module.exit_json(changed=True, msg=f"would run after prepare: {', '.join(missing)} not there yet", after_prepare=True)
    module.fail_json(msg=f"The Python at {sys.executable} lacks {', '.join(missing)}. {remedy}")


@contextlib.contextmanager
def opened(module: Module) -> Iterator[Bundle]:
    """Give the bundle that ``bundle_dir`` names, for this process alone; a check only reads, and holds up nobody.

    :raises OfflineError: another process of this machine works on it.
    """
    bundle = Bundle(Path(module.params["bundle_dir"]).resolve())
    with contextlib.nullcontext() if module.check_mode else exclusive(bundle.lock_file, f"the bundle {bundle.root}"):
        yield bundle
