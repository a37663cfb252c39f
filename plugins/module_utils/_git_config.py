# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""git's settings as text, above all those that lead every host to the bundle's mirrors. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

PROTECTED = (
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", os.devnull),
    ("core.excludesFile", os.devnull),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    # takes away every helper that was named before
    ("credential.helper", ""),
)
"""What a repository's own settings must not override, whoever calls git."""

# ways to write the URL of a host; user info other than these two cannot be foreseen in a prefix
_FORMS = ("https://{host}/", "http://{host}/", "git://{host}/", "ssh://git@{host}/", "ssh://{host}/", "git@{host}:", "https://git@{host}/")


def config_text(settings: Iterable[tuple[str, str]]) -> str:
    """Return a configuration file of these keys and values, in this order (syntax: git-config(1)).

    :param settings: keys as ``section.name`` or ``section.sub.section.name``; a key may come more than once.
    """
    lines, section = [], ""
    for key, value in settings:
        head, _ignored, name = key.rpartition(".")
        first, _ignored, rest = head.partition(".")
        wanted = f"[{first} {_quoted(rest)}]" if rest else f"[{first}]"
        if wanted != section:
            lines.append(wanted)
            section = wanted
        lines.append(f"\t{name} = {_quoted(value)}")
    return "".join(f"{line}\n" for line in lines)


def redirect_settings(repos: Path) -> list[tuple[str, str]]:
    """Return the settings that lead every host which has a mirror under *repos* there, and nowhere else.

    A rule is for a whole host: git compares prefixes, and that of one repository would fit ``openvla-oft`` for ``openvla`` too.
    """
    settings = [
        # the bundle may belong to another user, and git's file transport asks about that
        ("safe.directory", "*"),
        # otherwise submodules may not come from files (CVE-2022-39253)
        ("protocol.file.allow", "always"),
    ]
    for folder in sorted(path for path in repos.iterdir() if path.is_dir()) if repos.is_dir() else ():
        settings += [(f"url.file://{repos}/{folder.name}/.insteadOf", form.format(host=folder.name)) for form in _FORMS]
    return settings


def redirect_config(repos: Path) -> str:
    """Return :func:`redirect_settings` as the text of a configuration file, to be used as GIT_CONFIG_GLOBAL.

    :param repos: the bundle's ``repos/``, absolute.
    """
    return config_text(redirect_settings(repos))


def overriding(settings: Sequence[tuple[str, str]], first: int = 0) -> dict[str, str]:
    """Return the variables that set what no file can set otherwise (git-config(1), GIT_CONFIG_COUNT), numbered from *first*."""
    keys = {f"GIT_CONFIG_KEY_{number}": key for number, (key, _value) in enumerate(settings, first)}
    values = {f"GIT_CONFIG_VALUE_{number}": value for number, (_key, value) in enumerate(settings, first)}
    return {**keys, **values, "GIT_CONFIG_COUNT": str(first + len(settings))}


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
