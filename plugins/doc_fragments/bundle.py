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
    NETWORK = r"""
options:
  timeout:
    description:
      - Seconds after which one item that makes no progress, retries included, is given up.
    type: int
    default: 120
  url_rewrites:
    description:
      - Prefixes of URLs that are reached elsewhere, such as a mirror of GitHub. Keys and values end in a slash.
      - A value may hold credentials, as in V(https://user:token@mirror.example/github/).
      - What is recorded in the bundle is always the original URL.
    type: dict
    default: {}
  proxy:
    description:
      - The proxy for HTTP and HTTPS, such as V(http://proxy.example:3128), with credentials if it asks for some.
      - Without it, the environment's (E(https_proxy) and the like). The hosts of E(no_proxy) are reached without one in both cases.
    type: str
  ca_bundle:
    description:
      - A PEM file with the authorities that vouch for whatever is reached, in place of those of the system. Without it, E(SSL_CERT_FILE).
      - Where hosts with public certificates are reached as well, it holds those authorities, too, as C(/etc/ssl/certs/ca-certificates.crt) does
        once the other authority was added to the system's.
    type: path
"""
    FETCH = r"""
options:
  jobs:
    description: How many items are fetched at a time.
    type: int
    default: 8
"""
    INDEX = r"""
options:
  index_url:
    description:
      - The package index, if it is not PyPI, such as V(https://mirror.example/simple/).
      - Credentials in it are given to that host alone, for the files that it serves as well.
    type: str
"""
    TARGET = r"""
options:
  assets_dir:
    description: Where assets lie, by default C(assets) below the prefix. With the bundle's own C(assets) they are used there and not copied.
    type: path
  home:
    description: The home that links are made in, by default that of the user who runs this.
    type: path
  repo_paths:
    description: Checkouts of other repositories that are there already, name to path. They are used as they are and never changed.
    type: dict
    default: {}
  leave_out:
    description: Names of assets and wheels of the catalogue that are not wanted.
    type: list
    elements: str
    default: []
  strict:
    description: Whether something that the bundle lacks is an error. Otherwise it is reported as a remote fallback.
    type: bool
    default: true
  allow_drift:
    description: Whether requirement files and working copies may differ from those that the bundle was made from.
    type: bool
    default: false
"""
