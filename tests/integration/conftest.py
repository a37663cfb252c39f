# SPDX-License-Identifier: GPL-3.0-or-later
"""What integration tests take over from the unit tests: running a module by its real main()."""

from __future__ import annotations

from tests.unit.conftest import run_module as run_module
