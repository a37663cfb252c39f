# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exceptions of this collection: each message says what happened, where, and what to do next."""

from __future__ import annotations

from typing import Any


class OfflineError(Exception):
    """A failure that the user can act on.

    :param message: one or more sentences, the remedy last.
    :param details: further values for the module's result, free of secrets.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class CatalogError(OfflineError):
    """An entry of the catalogue or an argument cannot be used; the message names it."""


class ProcessError(OfflineError):
    """A program ended badly, ran out of time or is not there."""


class GitError(OfflineError):
    """A repository could not be reached, read or brought to the version asked for."""


class FetchError(OfflineError):
    """A file could not be downloaded whole."""


class ArchiveError(OfflineError):
    """An archive is damaged or holds a member that must not be unpacked."""


class BundleError(OfflineError):
    """The bundle is missing, incomplete or damaged."""


class LockError(OfflineError):
    """A target could not be resolved or its files could not be gathered."""


class PatchError(OfflineError):
    """A requirement or pyproject file cannot be patched or restored safely."""


class VenvError(OfflineError):
    """An environment could not be built, verified or switched."""


class TargetError(OfflineError):
    """Worktrees, assets or exports of a target cannot be put in place."""


class AptError(OfflineError):
    """System packages cannot be resolved, brought or installed."""


class AirGapError(OfflineError):
    """Work cannot be kept off the network, or what it tried cannot be shown."""
