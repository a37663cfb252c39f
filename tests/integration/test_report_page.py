# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's page in a real browser: headless Chromium runs its script, on its own and with somebody who filters and sorts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._report_info import share_packages
from tests.unit.test_fleet_report import TARGETS, arguments, environment, node

__all__ = ["arguments"]

# of the first eight bytes of a PNG file (ISO 15948)
_PNG = b"\x89PNG\r\n\x1a\n"
# who types into the filter of the nodes, and then sorts by their names, down
_SOMEBODY = """<script>
const box = document.querySelector('input[data-table="nodes"]');
box.value = 'gpu19';
box.dispatchEvent(new Event('input'));
const head = document.querySelector('#nodes th button');
head.click();
head.click();
</script>"""


def browser(page: Path, *options: str) -> str:
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={page.parent}/profile"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def shown(dom: str) -> list[str]:
    """Return the names in the rows of the nodes' table that are not hidden, from top to bottom."""
    body = re.search(r'<table id="nodes">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL)
    assert body
    rows = re.findall(r"<tr([^>]*)>(.*?)</tr>", body[1], re.DOTALL)
    return [found[0] for attributes, row in rows if "hidden" not in attributes and (found := re.search(r"gpu\d+", row))]


@pytest.fixture
def page(arguments: dict[str, Any], run_module: Callable[..., dict[str, Any]]) -> Path:
    nodes: dict[str, Any] = {
        f"gpu{number:03}": {"wanted": TARGETS, "node": node({name: environment("torch", "six") for name in TARGETS})}
        for number in range(200)
    }
    nodes["gpu150"] = {"wanted": TARGETS, "node": None, "problem": "no route to host"}
    run_module("rlinf_report", {**arguments, **share_packages(nodes)})
    return Path(arguments["path"]) / "report.html"


def test_200_nodes_in_a_browser(page: Path) -> None:
    dom = browser(page, "--dump-dom")
    names = shown(dom)
    # failures first, then by name
    assert names == ["gpu150", *(f"gpu{number:03}" for number in range(200) if number != 150)]
    assert "200 of 200" in dom
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{_SOMEBODY}</body>"), encoding="utf-8")
    dom = browser(page, "--dump-dom")
    assert shown(dom) == [f"gpu{number}" for number in range(199, 189, -1)] and "10 of 200" in dom


@pytest.mark.parametrize("options", [["--window-size=1280,1400"], ["--window-size=420,900"], ["--blink-settings=preferredColorScheme=0"]])
def test_it_can_be_drawn(page: Path, options: list[str]) -> None:
    picture = page.parent / "page.png"
    browser(page, *options, f"--screenshot={picture}")
    # nothing but one colour would be a few kilobytes
    assert picture.read_bytes().startswith(_PNG) and picture.stat().st_size > 30_000
