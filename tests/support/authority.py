# SPDX-License-Identifier: GPL-3.0-or-later
"""An authority of one's own, as companies have it, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SHORT = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_authority(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Return the PEM file of an authority, and one with a certificate of its making for an address, and the key."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key, server, request = (folder / name for name in ("ca.pem", "ca.key", "server.pem", "server.csr"))
    _openssl("req", "-x509", *_SHORT, "-subj", "/CN=authority", "-keyout", ca_key, "-out", ca)
    key, names = folder / "server.key", folder / "names"
    _openssl("req", "-new", *_SHORT, "-subj", f"/CN={address}", "-keyout", key, "-out", request)
    names.write_text(f"subjectAltName=IP:{address}\n")
    _openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names, "-out", server
    )
    server.write_text(server.read_text() + key.read_text())
    return ca, server
