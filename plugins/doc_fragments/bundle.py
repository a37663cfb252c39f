# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that work on a bundle, and of those that fetch."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  bundle_dir:
    description: The bundle's directory.
    type: path
    required: true
"""
    FETCH = r"""
options:
  jobs:
    description: How many items are fetched at a time.
    type: int
    default: 8
  timeout:
    description:
      - Seconds after which one item that makes no progress, retries included, is given up.
    type: int
    default: 120
  url_rewrites:
    description:
      - Prefixes of URLs that are reached elsewhere, such as a mirror of GitHub. Keys and values end in a slash.
      - What is recorded in the bundle is always the original URL.
    type: dict
    default: {}
  proxy:
    description: The proxy for HTTP and HTTPS, such as V(http://proxy.example:3128).
    type: str
"""
