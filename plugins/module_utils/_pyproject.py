# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``pyproject.toml`` of projects that others wrote, as far as locking reads it."""

from __future__ import annotations

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit

_READ = {
    "build-system?": {"requires?": [str]},
    "dependency-groups?": dict,
    "tool?": {"uv?": {"default-groups?": (str, [str]), "dependency-metadata?": [dict]}},
}
# what a project builds with that names nothing (PEP 517); wheel for setuptools older than 70.1
_LEGACY_BACKEND = ["setuptools>=40.8.0", "wheel"]


def parse(content: bytes, where: str) -> tomlkit.TOMLDocument:
    """Return a ``pyproject.toml`` whose parts that are read have the types of PEP 518, PEP 735 and ``[tool.uv]``.

    :param where: the file, for the message.
    :raises LockError: it is no TOML, or such a part is of another type.
    """
    try:
        document = tomlkit.parse(content.decode("utf-8"))
        said = misfit(document.unwrap(), _READ)
    except (TOMLKitError, ValueError, RecursionError) as error:
        said = str(error)
    if said:
        raise LockError(f"{where} cannot be read: {said}. Its owner has to mend it; lock another version of the project.")
    return document


def requires(content: bytes | None, where: str) -> list[str]:
    """Return what building a project asks for (PEP 518); it need not have a ``pyproject.toml``.

    :raises LockError: as :func:`parse`.
    """
    if content is None:
        return list(_LEGACY_BACKEND)
    system: dict[str, list[str]] = parse(content, where).unwrap().get("build-system", {})
    return system.get("requires", list(_LEGACY_BACKEND))
