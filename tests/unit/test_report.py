# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown of where a target came from."""

from __future__ import annotations

from ansible_collections.rlinf.offline.plugins.module_utils._report import sources

PLACES = {
    "openvla": "wheelhouse/git/github.com/openvla/openvla/abc/openvla-0.0.3-py3-none-any.whl",
    "flash-attn": "wheels/flash_attn-2.7.4-cp311-cp311-linux_x86_64.whl",
    "transformers": "wheelhouse/overlay/0a/transformers-4.53.2-py3-none-any.whl",
    "torch": "wheelhouse/index/torch-2.6.0-cp311-cp311-manylinux1_x86_64.whl",
    "te-here": "/opt/rlinf/state/built/0a/torch-2.6.0/te_here-1-cp311-cp311-linux_x86_64.whl",
    "te-there": "wheelhouse/built/0a/torch-2.6.0/te_there-1-cp311-cp311-linux_x86_64.whl",
    "six": "https://mirror.example/simple/",
    "libero": "/opt/rlinf/src/LIBERO",
}


def test_every_package_is_in_its_place() -> None:
    installed = [{"name": name, "version": "1", "source": source} for name, source in PLACES.items()]
    shown = sources({"results": []}, {"installed": installed})
    assert shown["local repositories, installed from a commit"] == ["openvla 1"]
    assert [line.partition(" ")[0] for line in shown["local wheels"]] == ["flash-attn", "transformers"]
    assert shown["packages of the index, out of the bundle"] == 1
    assert [line.partition(" ")[0] for line in shown["built on a node"]] == ["te-here", "te-there"]
    assert shown["remote fallbacks"] == ["package six 1 from https://mirror.example/simple/"]
    assert shown["local repositories, installed editable"] == ["libero -> /opt/rlinf/src/LIBERO"]
    assert shown["versions"] == dict.fromkeys(("openvla", "flash-attn", "transformers", "torch", "te-here", "te-there"), "1")
