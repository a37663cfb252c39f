# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documented in plugins/modules/rlinf_venv.py: this shows its messages."""

from __future__ import annotations

from ansible_collections.rlinf.offline.plugins.plugin_utils.messages import Telling


class ActionModule(Telling):
    """Run the module, and show its messages."""
