# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a wheel fits a node, and which one would: the same rule where a node installs and where the bastion looks at a fleet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)\Z")
# how wheels that link against torch name what they were built with: 2.7.4.post1+cu12torch2.6cxx11abiFALSE
_BUILT_WITH = re.compile(r"cu(?P<cuda>\d\d)\d*torch(?P<torch>\d+\.\d+)")
_CUDA_PACKAGE = re.compile(r"nvidia-.+-cu(\d+)\Z")
# the major version of CUDA that a build names: 2.6.0+cu124
_CUDA_BUILD = re.compile(r"\+cu(\d\d)\d*\Z")


@dataclass(frozen=True)
class Misfit:
    """Why a wheel does not fit, and what would: both without the wheel's name, so that many can be told as one."""

    why: str
    remedy: str


def unfit(filename: str, name: str, tags: Collection[Tag], others: Iterable[str] = ()) -> Misfit | None:
    """Say why a wheel does not fit; None if it does.

    :param name: the normalized name of its package.
    :param tags: what the node takes (PEP 425, PEP 600), the best first; keys of a dict are looked up fastest.
    :param others: file names of wheels among which one may fit.
    """
    _name, version, _build, own = parse_wheel_filename(filename)
    if any(tag in tags for tag in own):
        return None
    if {tag.platform for tag in own} & {tag.platform for tag in tags}:
        why = f"for {' or '.join(sorted({f'{tag.interpreter}-{tag.abi}' for tag in own}))}"
    else:
        why = f"for {' or '.join(sorted({tag.platform for tag in own}))}" + _glibc(own, tags)
    # of several, one of the same version
    fitting = sorted((parse_wheel_filename(other)[1] == version, other) for other in others if _is_of(other, name, tags))
    best = next(iter(tags))
    remedy = (
        f"{fitting[-1][1]} would fit: lock the target for this Python and platform" if fitting else f"One for {best} or older would fit"
    )
    return Misfit(why, remedy)


def _glibc(own: Iterable[Tag], tags: Iterable[Tag]) -> str:
    """Say which glibc the node has, where it is that which is too old."""
    machines = {found[3] for tag in own if (found := _MANYLINUX.match(tag.platform))}
    known = [(int(found[1]), int(found[2])) for tag in tags if (found := _MANYLINUX.match(tag.platform)) and found[3] in machines]
    return ", and this node has glibc {}.{}".format(*max(known)) if known else ""


def _is_of(filename: str, name: str, tags: Collection[Tag]) -> bool:
    try:
        found, _version, _build, own = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    return found == name and any(tag in tags for tag in own)


def misbuilt(name: str, version: str | None, torch: str | None, cuda: Collection[str]) -> Misfit | None:
    """Say when a wheel was built for another torch or CUDA than those beside it; None if it says nothing, or agrees.

    :param torch: the version of torch.
    :param cuda: the major versions of CUDA, as :func:`cuda_majors` gives them.
    """
    built = _BUILT_WITH.search(version or "")
    if not built or not torch:
        return None
    have = f"torch {torch}" + (f" with CUDA {'/'.join(sorted(cuda))}" if cuda else "")
    if Version(torch).release[:2] == Version(built["torch"]).release[:2] and (not cuda or built["cuda"] in cuda):
        return None
    wanted = f"cu{'/'.join(sorted(cuda)) or built['cuda']}torch{'.'.join(map(str, Version(torch).release[:2]))}"
    return Misfit(
        f"built for torch {built['torch']} and CUDA {built['cuda']}, the lock holds {have}",
        f"A wheel of {name} with {wanted} in its version would fit",
    )


def cuda_majors(packages: Iterable[tuple[str, str | None]]) -> set[str]:
    """Return the major versions of CUDA that packages, as name and version, bring along or are builds of."""
    found = set()
    for name, version in packages:
        if match := _CUDA_PACKAGE.match(name) or _CUDA_BUILD.search(version or ""):
            found.add(match[1])
    return found
