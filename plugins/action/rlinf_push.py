# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Push a bundle from the machine that runs ansible-playbook to a node, with rsync over the connection that Ansible uses."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from ansible import constants
from ansible.errors import AnsibleActionFail

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import (
    check_signed,
    manifest_digest,
    read_manifest,
    signature_digest,
    size_text,
)
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive, sha256_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._progress import Meter
from ansible_collections.rlinf.offline.plugins.module_utils._push import (
    Seen,
    Ssh,
    Transfer,
    files_to_push,
    is_unfinished,
    look,
    rsync,
    run_rsync,
)
from ansible_collections.rlinf.offline.plugins.module_utils._swarm import keep_names, swarm_wheels
from ansible_collections.rlinf.offline.plugins.plugin_utils.working import Working

NAMED = 20
"""How many names of files a result holds of each kind."""


class ActionModule(Working):
    """Documented in plugins/modules/rlinf_push.py."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "src": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "bandwidth": {"type": "int", "default": 0},
        "targets": {"type": "list", "elements": "str", "default": []},
        "release": {"type": "str", "default": ""},
        "prune": {"type": "bool", "default": False},
        "verify": {
            "type": "dict",
            "options": {
                "stamp": {"type": "path", "required": True},
                "trusted_signers": {"type": "str", "default": ""},
                "allow_downgrade": {"type": "bool", "default": False},
                "jobs": {"type": "int", "default": 4},
            },
        },
        "accepted": {"type": "dict", "default": {}},
        "state": {"type": "str", "choices": ["pushed", "brought", "seen"], "default": "pushed"},
    }
    PLACE = "src"

    def work(self, arguments: dict[str, Any]) -> dict[str, Any]:
        bundle = Bundle(Path(arguments["src"]))
        if self._is_there(bundle, arguments):
            return self._kept(self._with(self._result(reason="everything is there"), "accepted", arguments["accepted"]))
        result = self._push(bundle, Path(arguments["dest"]), arguments)
        # in check mode a node that something would be sent to still has what it had
        settled = arguments["verify"] and arguments["state"] != "seen" and not (self._task.check_mode and result["changed"])
        return self._settle(result, arguments) if settled else result

    @staticmethod
    def _is_there(bundle: Bundle, arguments: dict[str, Any]) -> bool:
        """Return whether the node has accepted this very bundle, and nothing is to be removed."""
        known = arguments["accepted"]
        if not known or not arguments["verify"] or not bundle.manifest.is_file() or (known["extra"]["count"] and arguments["prune"]):
            return False
        return (known["digest"], known["signature"]) == (manifest_digest(bundle), signature_digest(bundle))

    def _settle(self, result: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """Take out what only a former bundle had or rsync could not end, and verify unless somebody else does, by the module that runs on the node."""
        common = {"bundle_dir": arguments["dest"], "stamp": arguments["verify"]["stamp"]}
        calls = {}
        if result["extra"]["count"] and (arguments["prune"] or not result["extra"]["by_name"]):
            calls["pruned"] = {**common, "state": "pruned", "former": arguments["prune"]}
        if arguments["state"] == "pushed":
            calls["accepted"] = {**common, **arguments["verify"], "targets": arguments["targets"], "release": arguments["release"]}
        for key, given in calls.items():
            said = self._execute_module("rlinf.offline.rlinf_bundle", given, task_vars=self.variables)
            if said.get("failed") or said.get("unreachable"):
                return {**result, **said}
            result = self._with(result, key, said)
        return self._kept(result) if "accepted" in result else result

    @staticmethod
    def _with(result: dict[str, Any], key: str, said: dict[str, Any]) -> dict[str, Any]:
        """Return the result with what a module said."""
        return {
            **result,
            "changed": result["changed"] or said["changed"],
            "diff": [*result.get("diff", []), *([said["diff"]] if "diff" in said else [])],
            "warnings": [*result.get("warnings", []), *said.get("warnings", [])],
            key: {name: value for name, value in said.items() if name not in ("diff", "warnings", "invocation")},
        }

    @staticmethod
    def _kept(result: dict[str, Any]) -> dict[str, Any]:
        """Return the result with a word on files that are not of the bundle."""
        kept = result["accepted"]["extra"]
        if kept["count"]:
            result["reason"] += f"; {kept['count']} files ({size_text(kept['bytes'])}) that are not of this bundle stay (rlinf_push_prune)"
        return result

    def _push(self, bundle: Bundle, destination: Path, arguments: dict[str, Any]) -> dict[str, Any]:
        check = bool(self._task.check_mode)
        here = bundle.manifest.is_file()
        local = self._connection.transport == "local"
        if local and os.path.realpath(bundle.root) == os.path.realpath(destination) and here:
            return self._result(reason="the bastion's own directory", shared=True)
        ssh = None if local else self._ssh()
        with nonce(bundle) as name:
            seen = self._look(look(destination, name, bundle, make=here and not check, pythons=arguments["state"] == "seen"))
        if seen.shared:
            return self._result(reason="node and bastion share the directory", shared=True)
        if not here:
            if seen.sealed:
                return self._result(reason=f"the node has a bundle of its own, and the bastion has none at {bundle.root}")
            raise BundleError(
                f"There is no bundle at {bundle.root}. Run the playbook rlinf.offline.download, or correct rlinf_bundle_dir of the bastion."
            )
        if not seen.rsync:
            raise BundleError(f"rsync is not there on {self._host}. Install rsync on the node.")
        files = read_manifest(bundle)["files"]
        names = files_to_push(bundle, files, arguments["targets"], arguments["release"])
        if arguments["state"] == "seen":
            return self._seen(seen, bundle, destination, names, ssh, arguments)
        last = [path.name for path in (bundle.signature, bundle.manifest) if path.is_file()]
        same = seen.same(bundle, [*names, *last])
        transfer = (
            Transfer() if same else self._copy(bundle, destination, names, ssh, arguments["bandwidth"], check, seen.lacks(bundle, names))
        )
        extra = sorted(set(seen.files) - {*files, bundle.signature.name, bundle.manifest.name})
        by_name = all(
            name.split("/", 1)[0] in {folder.name for folder in bundle.by_name} and not is_unfinished(name, files) for name in extra
        )
        return self._result(transfer, extra=extra, by_name=by_name, reason=self._reason(transfer, extra))

    def _seen(
        self, seen: Seen, bundle: Bundle, destination: Path, names: list[str], ssh: Ssh | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Say how much the node lacks, and how it takes part in a swarm; bring what it needs for that."""
        wheels = swarm_wheels(bundle)
        if arguments["verify"]:
            # they run on the node before it can verify the bundle
            check_signed(bundle, arguments["verify"]["trusted_signers"], [*wheels.values()])
        lacking = seen.lacks(bundle, names)
        found: dict[str, Any] = {"files": len(lacking), "bytes": sum(lacking.values())}
        reason = f"lacks {found['files']} files ({size_text(found['bytes'])})"
        python, wheel = next(((python, wheel) for python, wheel in wheels.items() if python in seen.pythons), ("", ""))
        why = "" if wheel else "the bundle has no libtorrent for a Python of it"
        if ssh is None or ssh.jumps():
            why = "it is reached through a jump host" if ssh else "it is not reached by ssh"
        if ssh is None or why:
            return {**self._result(reason=f"{reason}, and takes no part in a swarm: {why}"), "lacking": found}
        transfer = Transfer()
        if wheel in lacking and not self._task.check_mode:
            transfer = self._copy(bundle, destination, [wheel], ssh, arguments["bandwidth"], False, {wheel: lacking[wheel]}, manifest=False)
            del lacking[wheel]
        peer = {"python": seen.pythons[python], "destination": str(destination), "become": self._become_user()}
        found["names"] = keep_names(Path(constants.DEFAULT_LOCAL_TMP), lacking)
        return {**self._result(transfer, reason=reason), "lacking": found, "peer": {**peer, "ssh": asdict(ssh)}}

    @property
    def _host(self) -> str:
        return str(self._play_context.remote_addr)

    def _result(
        self, transfer: Transfer | None = None, *, reason: str, shared: bool = False, extra: list[str] | None = None, by_name: bool = True
    ) -> dict[str, Any]:
        transfer = transfer or Transfer()
        names = sorted(transfer.sent)
        result: dict[str, Any] = {
            "changed": bool(names),
            "reason": reason,
            "shared": shared,
            "files": len(names),
            "bytes": transfer.bytes,
            "seconds": round(transfer.seconds, 1),
            "first": names[:NAMED],
            "extra": {"count": len(extra or []), "first": (extra or [])[:NAMED], "by_name": by_name},
        }
        if self._task.diff and names:
            result["diff"] = [{"before": "", "after": "".join(f"{name} {transfer.sent[name]}\n" for name in names[:200])}]
        return result

    @staticmethod
    def _reason(transfer: Transfer, extra: list[str]) -> str:
        said = (
            f"{len(transfer.sent)} files ({size_text(transfer.bytes)}) were missing or differed" if transfer.sent else "everything is there"
        )
        return f"{said}; {len(extra)} are not of this bundle" if extra else said

    def _look(self, script: str) -> Seen:
        """Ask the node what it has, with one command over Ansible's own connection: an unreachable node is reported as any other."""
        said = self._low_level_execute_command(f"/bin/sh -c {shlex.quote(script)}", sudoable=True)
        if said["rc"]:
            raise BundleError(
                f"The directory of the bundle on {self._host} cannot be used: {said['stderr'].strip() or said['stdout'].strip()}"
            )
        return Seen.parse(said["stdout"].splitlines())

    def _copy(
        self,
        bundle: Bundle,
        destination: Path,
        names: list[str],
        ssh: Ssh | None,
        bandwidth: int,
        check: bool,
        lacking: Mapping[str, int],
        *,
        manifest: bool = True,
    ) -> Transfer:
        """Copy the files, then the signature, then the manifest: who reads it finds everything that it lists.

        :param lacking: those that the node has not, or otherwise, by size in bytes.
        """
        if not shutil.which("rsync"):
            raise BundleError("rsync is not there on the machine that runs ansible-playbook. Install rsync.")
        command = rsync(ssh, remote_program=self._remote_program(), bandwidth=bandwidth, check=check)
        place = ssh.place(str(destination)) if ssh else str(destination)
        with contextlib.nullcontext() if check else alone(bundle, f"{place} (port {ssh.port})" if ssh else place):
            files = run_rsync(command, names, bundle.root, place, Meter("push", self._host, sum(lacking.values())))
            if not manifest:
                return files
            sent, seconds = dict(files.sent), files.seconds
            for path in (bundle.signature, bundle.manifest):
                if path.is_file():
                    last = run_rsync(command, [path.name], bundle.root, place, Meter("push", self._host))
                    sent, seconds = {**sent, **last.sent}, seconds + last.seconds
            return Transfer(sent, seconds)

    def _ssh(self) -> Ssh:
        """Return how the connection plugin reaches the node, by its public options."""
        connection = self._connection
        if connection.transport != "ssh":
            raise AnsibleActionFail(
                f"The bundle is pushed by rsync over ssh, and the connection to {self._host} is {connection.transport}. "
                "Use the connection ssh or local, or carry the bundle there by other means."
            )
        if connection.get_option("password"):
            raise AnsibleActionFail(
                f"{self._host} is reached with a password, which rsync cannot use. Give a key (ansible_ssh_private_key_file) or use an ssh agent."
            )
        arguments = [
            word
            for option in ("ssh_args", "ssh_common_args", "ssh_extra_args")
            for word in shlex.split(connection.get_option(option) or "")
        ]
        return Ssh(
            host=connection.get_option("host") or self._host,
            executable=connection.get_option("ssh_executable") or "ssh",
            port=connection.get_option("port"),
            user=connection.get_option("remote_user"),
            private_key=connection.get_option("private_key_file"),
            arguments=arguments,
            check_host_key=bool(connection.get_option("host_key_checking")),
            timeout=connection.get_option("timeout"),
        )

    def _remote_program(self) -> str | None:
        """Return what runs rsync on the node as the user that the task becomes."""
        user = self._become_user()
        if user is None:
            return None
        return "sudo -n rsync" if user == "root" else f"sudo -n -u {shlex.quote(user)} rsync"

    def _become_user(self) -> str | None:
        """Return the user that the task becomes."""
        become = self._connection.become
        if become is None:
            return None
        if become.name.rpartition(".")[2] != "sudo":
            raise AnsibleActionFail(
                f"The bundle is pushed with become by sudo only, not by {become.name}. Push as a user who may write there."
            )
        return str(become.get_option("become_user") or "root")


@contextlib.contextmanager
def alone(bundle: Bundle, place: str) -> Iterator[None]:
    """Keep other pushes of this bundle to *place* off while the body runs: both would go on with the same partial files.

    Where it cannot be written beside the bundle nothing is held.

    :raises OfflineError: another process pushes there.
    """
    lock = bundle.cache / "push" / f"{sha256_bytes(place.encode())[:16]}.lock"
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(exclusive(lock, f"The bundle at {place}"))
        yield


@contextlib.contextmanager
def nonce(bundle: Bundle) -> Iterator[str]:
    """Have a file of a random name in the bundle's scratch space while the body runs: who sees it sees this very directory.

    Where it cannot be written the name alone is given: nothing is shared then, or nothing has to be copied anyway.
    """
    name = f"nonce-{secrets.token_hex(16)}"
    path = bundle.cache / name
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError:
        yield name
        return
    try:
        yield name
    finally:
        path.unlink(missing_ok=True)
