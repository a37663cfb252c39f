# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What activating an environment sets besides PATH: its exports. Standard library only.

An export is a text, or ``{"prepend": path}``, which puts a path before what a variable holds already.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# activating sets these itself
_OWN = frozenset({"PATH", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME", "PS1"})
_DEACTIVATE = "deactivate () {\n"


def check_exports(exports: Mapping[str, Any]) -> None:
    """:raises VenvError: a name is no variable's or is activation's own, or a value is neither a text nor ``{"prepend": path}``."""
    for name, value in exports.items():
        if not _VARIABLE.match(name) or name in _OWN:
            raise VenvError(f"exports: {name!r} cannot be set by an environment.")
        text = value.get("prepend") if isinstance(value, Mapping) and set(value) == {"prepend"} else value
        if not isinstance(text, str) or "\0" in text:
            raise VenvError(f"exports: {name} must be text (in quotes), or a mapping with the single key 'prepend' and a path.")


def activated(environment: Path, exports: Mapping[str, Any], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that a program started in the activated environment has besides those of *base* (by default, of this process)."""
    base = os.environ if base is None else base
    found = {"VIRTUAL_ENV": os.fspath(environment), "PATH": f"{environment / 'bin'}:{base.get('PATH', os.defpath)}"}
    for name, value in exports.items():
        found[name] = value["prepend"] if isinstance(value, Mapping) else value
    return found


def exports_script(activate: str, exports: Mapping[str, Any]) -> str:
    """Return an ``activate`` script for sh, bash and zsh that also sets the exports, and gives back the former values when deactivated.

    :param activate: the script as uv wrote it.
    """
    if not exports:
        return activate
    undo = "    if command -v _rlinf_undo_exports >/dev/null 2>&1 ; then\n        _rlinf_undo_exports\n    fi\n"
    activate = activate.replace(_DEACTIVATE, _DEACTIVATE + undo, 1)
    restore = "".join(
        f'    if [ -n "${{_RLINF_OLD_{name}+_}}" ] ; then\n        export {name}="$_RLINF_OLD_{name}"\n        unset _RLINF_OLD_{name}\n'
        f"    else\n        unset {name}\n    fi\n"
        for name in exports
    )
    keep = "".join(f'if [ -n "${{{name}+_}}" ] ; then\n    _RLINF_OLD_{name}="${name}"\nfi\n' for name in exports)
    assign = "".join(f"export {name}={_value(name, value)}\n" for name, value in exports.items())
    return (
        f"{activate.rstrip()}\n\n# rlinf.offline: what programs of this environment need besides\n{keep}{assign}"
        f"_rlinf_undo_exports () {{\n{restore}    unset -f _rlinf_undo_exports\n}}\n"
    )


def _value(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f'{shlex.quote(value["prepend"])}"${{{name}:+:${name}}}"'
    return shlex.quote(value)
