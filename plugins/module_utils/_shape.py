# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file that this collection wrote must look like, so that a damaged one is said to be that. Standard library only.

A shape is a type; a tuple of shapes, one of which is enough; ``[shape]``, a list of such; ``{key: shape}``, a mapping that has these keys, a key
that ends with ``?`` being one that may be missing; ``{str: shape}``, a mapping of whatever keys to such.
"""

from __future__ import annotations

from typing import Any

_NAMES = {str: "text", int: "a number", bool: "true or false", list: "a list", dict: "a mapping", type(None): "nothing"}


def misfit(value: Any, shape: Any, where: str = "") -> str:
    """Return what of a value is not of a shape, in words, or nothing.

    :param where: how the value is reached, ``packages[3].name``.
    """
    if isinstance(shape, tuple):
        found = [misfit(value, one, where) for one in shape]
        return "" if "" in found else found[0]
    if isinstance(shape, type):
        fits = isinstance(value, shape) and (shape in (bool, object) or not isinstance(value, bool))
        return "" if fits else f"{where or 'what it holds'} is not {_NAMES[shape]}"
    if isinstance(shape, list):
        inner = misfit(value, list, where)
        return inner or _first(misfit(item, shape[0], f"{where}[{number}]") for number, item in enumerate(value))
    inner = misfit(value, dict, where)
    if inner:
        return inner
    if str in shape:
        return _first(misfit(item, shape[str], _below(where, key)) for key, item in value.items())
    return _first(_key(value, key, inner_shape, where) for key, inner_shape in shape.items())


def _key(value: dict[str, Any], key: str, shape: Any, where: str) -> str:
    name = key.removesuffix("?")
    if name not in value:
        return "" if name != key else f"{_below(where, name)} is missing"
    return misfit(value[name], shape, _below(where, name))


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _first(found: Any) -> str:
    return next((said for said in found if said), "")
