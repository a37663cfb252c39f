# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions that do their work on the machine that runs ansible-playbook."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError


class Working(ActionBase):  # type: ignore[misc]
    """Checks the arguments, does the work, and reports its errors as a module's are.

    :cvar ARGUMENTS: as of a module.
    :cvar PLACE: the argument that an error of the system is about, where it names no file.
    """

    TRANSFERS_FILES = False
    ARGUMENTS: ClassVar[dict[str, Any]]
    PLACE: ClassVar[str]
    variables: dict[str, Any]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.variables = task_vars or {}
        _spec, arguments = self.validate_argument_spec(self.ARGUMENTS)
        # as of a module: who may read what is made does not depend on who makes it
        umask = os.umask(0o022)
        try:
            return self.work(arguments)
        except OfflineError as error:
            return {"failed": True, "msg": str(error), **error.details}
        except OSError as error:
            return {
                "failed": True,
                "msg": f"{error.filename or arguments[self.PLACE]}: {error.strerror or error}. Mend this and run again.",
            }
        finally:
            os.umask(umask)

    def work(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do the work and return its result."""
        raise NotImplementedError
