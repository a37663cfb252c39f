#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what a node is and has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_node_info
short_description: Say what a node is and has, for a preflight
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Returns where things will lie on the node, its system, interpreters, tools, GPUs and room, and the state of its bundle.
  - Changes nothing. What is absent, broken or too slow is a finding, not a failure.
  - Needs nothing but the standard library of Python.
extends_documentation_fragment:
  - rlinf.offline.attributes
attributes:
  diff_mode:
    support: none
    details: There is nothing to compare, since nothing changes.
options:
  prefix:
    description:
      - Where things are installed. V(~) is the user's home.
      - By default V(/opt/rlinf) for root, else V($XDG_DATA_HOME/rlinf) or V(~/.local/share/rlinf).
    type: str
  bundle_dir:
    description: The bundle's directory, by default C(bundle) below the prefix.
    type: str
  assets_dir:
    description: Where assets are put, by default C(assets) below the prefix.
    type: str
  environment:
    description: An environment that exists already and is installed into.
    type: str
  pythons:
    description: Versions of Python to look for, such as V(3.11) or V(3.11.14), and absolute paths of interpreters to ask.
    type: list
    elements: str
    default: []
  programs:
    description: Names of programs to look for, beside those that are always looked for.
    type: list
    elements: str
    default: []
  packages:
    description: The system packages that shall be there, a list for each release such as V(debian-12). Under an empty name are those of any other.
    type: dict
    default: {}
  package_state:
    description: Whether to return the state of every system package, from which apt can resolve on another machine.
    type: bool
    default: false
  files:
    description: Absolute paths of configuration files of the system that shall be there.
    type: list
    elements: str
    default: []
  targets:
    description: The targets of the node, for which alone its bundle must be whole.
    type: list
    elements: str
    default: []
  trusted_signers:
    description: Who must have signed its bundle; see M(rlinf.offline.rlinf_bundle).
    type: str
    default: ""
  allow_downgrade:
    description: Accept an older bundle, too.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at the node
  rlinf.offline.rlinf_node_info:
    pythons: ["3.11", "3.10"]
  register: __info

- name: Name the driver
  ansible.builtin.debug:
    var: __info.node.gpus.driver
"""

RETURN = r"""
node:
  description: What the node is and has.
  returned: always
  type: dict
  contains:
    user:
      description: The user that Ansible works as.
      type: str
    uid:
      description: Its number.
      type: int
    home:
      description: Its home directory.
      type: str
    prefix:
      description: Where things are installed, absolute.
      type: str
    bundle_dir:
      description: The bundle's directory, absolute.
      type: str
    python:
      description: The interpreter that ran this module.
      type: str
    environments:
      description: The targets that have a finished environment.
      type: list
      elements: str
    unpacked:
      description: The first 12 digits of the SHA-256 of each file that finished environments were made from.
      type: list
      elements: str
    built:
      description: The SHA-256 of each source that this node has built a wheel from.
      type: list
      elements: str
    journals:
      description: The journals of patched files that were not put back yet, as after an install that was killed.
      type: list
      elements: str
    runtime:
      description:
        - The interpreter of the private environment (C(python)), whether it is there (C(present)), and whether M(rlinf.offline.rlinf_runtime)
          would find nothing to do with the bundle as it is (C(ready)).
      type: dict
    architecture:
      description: The machine, as C(uname -m) says.
      type: str
    kernel:
      description: The kernel's release.
      type: str
    glibc:
      description: The version of glibc, none with another C library.
      type: str
    distribution:
      description: Its C(id), C(version) and C(name).
      type: dict
    system:
      description:
        - C(release) such as V(debian-12), and C(architecture) in Debian's words, none where there is no dpkg.
        - C(missing) names the packages asked for that are not installed, C(absent) the O(files) that are not there. C(cut_off) says whether an
          installation by M(rlinf.offline.rlinf_apt_install) did not come to its end. Or a C(problem).
        - C(state) is what dpkg says of every package, with O(package_state=true).
      type: dict
    container:
      description: What kind of container this is in, such as V(docker), as far as that can be told cheaply.
      type: str
    bundle:
      description:
        - Whether a bundle is C(present), C(sealed) and C(verified) by this node, its C(serial), and the C(digest) of its manifest.
        - How many C(files) and C(bytes) of one are there, sealed or not. Or a C(problem).
        - C(accepted) is what M(rlinf.offline.rlinf_bundle) says of it and the digest of its C(signature), if this node has verified just it for
          O(targets) and O(trusted_signers), and no file has another size or time since. Without reading any file.
      type: dict
    gpus:
      description:
        - C(devices) with C(index), C(name), C(memory) in MiB, C(compute), the compute capability such as V(9.0), and C(mig), whether the GPU is
          split into instances; the version of the C(driver), and the newest C(cuda) that it runs.
        - C(on_bus) is how many NVIDIA GPUs the PCI bus has, whether there is a driver or not.
        - C(problem) says why C(nvidia-smi) told nothing. The driver's version is then what the kernel has loaded.
      type: dict
    pythons:
      description: C(path), C(version), C(headers), C(implementation) and C(virtual) of each interpreter found, PATH first, or its C(problem).
      type: list
      elements: dict
    tools:
      description: C(path) and C(version) of git, rsync, ssh, tar, nvcc, g++ and the programs asked for, or none.
      type: dict
    paths:
      description:
        - For C(prefix), C(bundle), C(assets), C(home), C(system) (C(/usr)) and C(environment) the free bytes and inodes, device, mount, type
          and whether it is writable.
        - Of a path that is not there yet, the nearest directory that is counts.
      type: dict
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish
from ansible_collections.rlinf.offline.plugins.module_utils._node_info import gather

ARGUMENTS: dict[str, Any] = {
    "prefix": {"type": "str"},
    "bundle_dir": {"type": "str"},
    "assets_dir": {"type": "str"},
    "environment": {"type": "str"},
    "pythons": {"type": "list", "elements": "str", "default": []},
    "programs": {"type": "list", "elements": "str", "default": []},
    "packages": {"type": "dict", "default": {}},
    "package_state": {"type": "bool", "default": False},
    "files": {"type": "list", "elements": "str", "default": []},
    "targets": {"type": "list", "elements": "str", "default": []},
    "trusted_signers": {"type": "str", "default": ""},
    "allow_downgrade": {"type": "bool", "default": False},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: {"changed": False, "node": gather(**module.params)})


if __name__ == "__main__":
    main()
