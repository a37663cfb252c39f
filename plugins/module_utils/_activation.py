# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What activating an environment sets besides PATH: its exports. Standard library only.

An export is a text, or ``{"prepend": path}``, which puts a path before what a variable holds already. In ``bin/activate`` of a virtual
environment they are marked blocks, one that sets and, in the function ``deactivate``, one that gives back; a conda environment has
folders for such scripts, ``etc/conda/activate.d`` and ``deactivate.d``.
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
# WANDB_API_KEY, HF_TOKEN; not TOKENIZERS_PARALLELISM
_SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN)$|PASSWORD|PASSWD|SECRET", re.IGNORECASE)
_SHORTEST = 6
"""Characters: what is shorter than this is a switch (``1``, ``true``), which may stand anywhere, and no secret."""
HIDDEN = "********"
_EXPORT = re.compile(r"""^(\s*export (?P<name>\w+)=)(?:'[^']*'|"[^"]*"|[^\s'"])+""", re.MULTILINE)


def check_exports(exports: Mapping[str, Any]) -> None:
    """:raises VenvError: a name is no variable's or is activation's own, or a value is neither a text nor ``{"prepend": path}``."""
    for name, value in exports.items():
        if not _VARIABLE.match(name) or name in _OWN:
            raise VenvError(f"exports: {name!r} cannot be set by an environment.")
        text = value.get("prepend") if isinstance(value, Mapping) and set(value) == {"prepend"} else value
        if not isinstance(text, str) or "\0" in text:
            raise VenvError(f"exports: {name} must be text (in quotes), or a mapping with the single key 'prepend' and a path.")


def secret_values(exports: Any) -> set[str]:
    """Return the values of those exports that a secret is in by their names, as they are and as a shell has them.

    :param exports: whatever was given as such.
    """
    named = exports.items() if isinstance(exports, Mapping) else ()
    values = [value for name, value in named if _SECRET.search(name) and isinstance(value, str) and len(value) >= _SHORTEST]
    return {text for value in values for text in (value, shlex.quote(value))}


def shown_exports(exports: Mapping[str, Any]) -> dict[str, Any]:
    """Return exports as a diff may show them: without what is secret by its name."""
    return {name: HIDDEN if _SECRET.search(name) else value for name, value in exports.items()}


def shown_script(script: str) -> str:
    """Return an ``activate`` script as a diff may show it."""
    return _EXPORT.sub(lambda found: f"{found[1]}{HIDDEN}" if _SECRET.search(found["name"]) else found[0], script)


def activated(environment: Path, exports: Mapping[str, Any], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that a program started in the activated environment has besides those of *base* (by default, of this process)."""
    base = os.environ if base is None else base
    found = {"VIRTUAL_ENV": os.fspath(environment), "PATH": f"{environment / 'bin'}:{base.get('PATH', os.defpath)}"}
    for name, value in exports.items():
        found[name] = value["prepend"] if isinstance(value, Mapping) else value
    return found


def setting(target: str, exports: Mapping[str, Any]) -> str:
    """Return lines for sh, bash and zsh that set the exports of a target and keep what the variables held."""
    mark = _mark(target)
    keep = "".join(f'if [ -n "${{{name}+_}}" ] ; then\n    {mark}_OLD_{name}="${name}"\nfi\n' for name in exports)
    assign = "".join(f"export {name}={_value(name, value)}\n" for name, value in exports.items())
    return f"{keep}{assign}{mark}=1\n"


def giving_back(target: str, exports: Mapping[str, Any]) -> str:
    """Return lines that undo those of :func:`setting`, if they were run."""
    mark = _mark(target)
    restore = "".join(
        f'    if [ -n "${{{mark}_OLD_{name}+_}}" ] ; then\n        export {name}="${mark}_OLD_{name}"\n        unset {mark}_OLD_{name}\n'
        f"    else\n        unset {name}\n    fi\n"
        for name in exports
    )
    return f'if [ -n "${{{mark}:-}}" ] ; then\n{restore}    unset {mark}\nfi\n'


def switching(script: Path, environments: Path) -> str:
    """Return a script for bash and zsh, ``source SCRIPT TARGET``, that leaves the active environment and activates a target's.

    :param script: where it will lie, for its usage.
    :param environments: the directory that has an environment, or a link to one, for each target.
    """
    return f"""\
# written by rlinf.offline
if [ -n "${{1:-}}" ] && [ -f {shlex.quote(str(environments))}/"$1"/bin/activate ] ; then
    if typeset -f deactivate > /dev/null ; then
        deactivate
    fi
    . {shlex.quote(str(environments))}/"$1"/bin/activate
else
    {{
        echo "Usage: source "{shlex.quote(str(script))}" TARGET, where TARGET is one of:"
        ls {shlex.quote(str(environments))} 2> /dev/null | grep -v -e '-[0-9a-f]\\{{12\\}}$'
    }} >&2
    false
fi
"""


def with_exports(activate: str, target: str, exports: Mapping[str, Any]) -> str:
    """Return an ``activate`` script that also sets the exports of a target, in marked blocks; those of other targets stay as they are.

    :param activate: the script as it is.
    """
    begin, end = _marks(target)
    assign = f"{begin}{setting(target, exports)}{end}" if exports else ""
    undo = f"{begin}{giving_back(target, exports)}{end}" if exports and _DEACTIVATE in activate else ""
    if assign in activate and undo in activate and activate.count(begin) == bool(assign) + bool(undo):
        return activate
    plain = without_exports(activate, target).replace(_DEACTIVATE, _DEACTIVATE + undo, 1)
    return f"{plain}{'' if plain.endswith(chr(10)) else chr(10)}{assign}"


def without_exports(activate: str, target: str) -> str:
    """Return an ``activate`` script without the blocks of a target."""
    begin, end = map(re.escape, _marks(target))
    return re.sub(f"^{begin}.*?^{end}", "", activate, flags=re.DOTALL | re.MULTILINE)


def _marks(target: str) -> tuple[str, str]:
    return f"# >>> rlinf.offline {target} >>>\n", f"# <<< rlinf.offline {target} <<<\n"


def _mark(target: str) -> str:
    """Return the beginning of the names of the variables that a target's blocks keep things in."""
    return f"_RLINF_{re.sub('[^A-Za-z0-9]', '_', target).upper()}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f'{shlex.quote(value["prepend"])}"${{{name}:+:${name}}}"'
    return shlex.quote(value)
