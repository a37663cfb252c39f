# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a package index can tell: many mirrors do not say when a file was uploaded, and uv then finds nothing older than a cut-off."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher

_JSON = "application/vnd.pypi.simple.v1+json"
_ANY = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
USUAL = ("setuptools", "wheel", "pip", "packaging")
"""Packages that hardly any index lacks."""


def tells_upload_times(fetcher: Fetcher, index_url: str, packages: Iterable[str] = USUAL) -> bool | None:
    """Return whether an index says when its files were uploaded (PEP 700), which only its JSON pages can (PEP 691).

    :param index_url: its root, as ``https://host/simple/``, credentials included.
    :param packages: normalized names; the first that the index knows is judged by.
    :returns: None if it knows none of them, or cannot be asked.
    """
    for package in packages:
        page = fetcher.page(f"{index_url.rstrip('/')}/{quote(package)}/", _ANY)
        if page is None:
            continue
        if page.headers.get("Content-Type", "").partition(";")[0].strip().lower() != _JSON:
            return False
        try:
            files = json.loads(page.content).get("files", [])
        except (ValueError, AttributeError):
            return False
        if files:
            return all(isinstance(file, dict) and file.get("upload-time") for file in files)
    return None
