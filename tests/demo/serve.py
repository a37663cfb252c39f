# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the demo's world and serve it on loopback or another address until SIGTERM or SIGINT, for playbooks that are run by hand or by Molecule.

    python -m tests.demo.serve WORK [--host ADDRESS] [--log FILE]

``WORK/world.json`` appears when it serves: ``{"pid", "bastion": variables of the bastion, "common": variables of every host}``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from pathlib import Path

from tests.demo import world
from tests.demo.cycle import bastion_variables, can_compile, common_variables
from tests.support.upstream import Upstream


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="an empty or missing directory")
    parser.add_argument("--host", default="127.0.0.1", help="the address to serve at (default: loopback)")
    parser.add_argument("--log", type=Path, help="append every request to this file")
    options = parser.parse_args()
    work = options.work
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    built = world.build(work / "upstream", compiler=can_compile())
    with Upstream(built.root, host=options.host, log=options.log) as upstream:
        said = {"pid": os.getpid(), "bastion": bastion_variables(built, upstream.url), "common": common_variables(built)}
        part = work / "world.json.part"
        part.write_text(json.dumps(said), encoding="utf-8")
        part.replace(work / "world.json")
        ended.wait()


if __name__ == "__main__":
    main()
