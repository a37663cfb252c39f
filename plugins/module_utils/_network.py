# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the network is reached, for git, requests and uv alike: proxy, rewrites, authorities, index, credentials, patience. Standard library only."""

from __future__ import annotations

import netrc
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._urls import HTTP_SCHEMES, Rewrites, check_url, redact, split

ATTEMPTS = 10
"""How often one is made again without progress before something is given up."""
LONGEST_PAUSE = 8.0
"""Seconds between two attempts at most, unless the server asks for more."""


@dataclass(frozen=True)
class Network:
    """How the network is reached.

    :param rewrites: prefixes of URLs that are reached elsewhere; records and messages keep the original.
    :param proxy: for http and https; those of the environment if not given. The environment's ``no_proxy`` counts in both cases.
    :param ca_bundle: a PEM file with the authorities that are trusted, in place of the system's.
    :param index_url: a package index, with credentials if it needs some.
    :param jobs: how many things are fetched at a time.
    :param timeout: seconds without progress, retries included, after which one thing is given up.
    :param backoff: seconds before the first retry, doubled before each further one.
    """

    rewrites: Rewrites = field(default_factory=Rewrites)
    proxy: str | None = None
    ca_bundle: Path | None = None
    index_url: str | None = None
    jobs: int = 8
    timeout: float = 120
    backoff: float = 0.5

    @classmethod
    def of(cls, params: Mapping[str, Any], variables: str = "rlinf_") -> Network:
        """Make it of a module's arguments (``_module.FETCH``, ``_module.INDEX``), those that the module has.

        :param variables: what the names of the variables begin with that say the proxy and the index; a node has its own.
        :raises CatalogError: one of them cannot be used.
        """
        proxy, index, bundle = (params.get(name) or None for name in ("proxy", "index_url", "ca_bundle"))
        if proxy and split(proxy).scheme not in HTTP_SCHEMES:
            raise CatalogError(
                f"{variables}proxy: {redact(proxy)!r} cannot be used by git, requests and uv alike. Give the URL of an HTTP proxy (http://host:port)."
            )
        for name, url in ((f"{variables}proxy", proxy), (f"{variables}index_url", index)):
            if url:
                check_url(url, name, HTTP_SCHEMES)
        if bundle and not Path(bundle).is_file():
            raise CatalogError(f"rlinf_ca_bundle: {bundle} is not there. Give the path of a PEM file on the machine that reads it.")
        given = {name: params[name] for name in ("jobs", "timeout") if params.get(name) is not None}
        return cls(Rewrites(params.get("url_rewrites")), proxy, Path(bundle).absolute() if bundle else None, index, **given)

    @property
    def proxies(self) -> dict[str, str]:
        """The proxy for ``http`` and ``https``, as far as there is one."""
        if self.proxy:
            return {"http": self.proxy, "https": self.proxy}
        found = _proxies_environment()
        return {scheme: found.get(scheme) or found["all"] for scheme in ("http", "https") if found.get(scheme) or found.get("all")}

    @property
    def no_proxy(self) -> str:
        """Hosts that are reached without a proxy, separated by commas."""
        return _proxies_environment().get("no", "")

    @property
    def authorities(self) -> Path | None:
        """The PEM file to trust in place of the system's, as given or as in the environment (SSL_CERT_FILE)."""
        return self.ca_bundle or (Path(os.environ["SSL_CERT_FILE"]) if os.environ.get("SSL_CERT_FILE") else None)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables from which any program knows the proxies and authorities.

        Names in both cases, since programs differ in which one they prefer.
        """
        proxies = {**{f"{scheme}_proxy": url for scheme, url in self.proxies.items()}, "no_proxy": self.no_proxy}
        told = {spelled: value for name, value in proxies.items() if value for spelled in (name, name.upper())}
        return {**told, **({"SSL_CERT_FILE": os.fspath(self.authorities)} if self.authorities else {})}

    @property
    def uv_variables(self) -> dict[str, str]:
        """Environment variables from which uv knows all that is here; of the rewrites it needs that of the index alone."""
        index = {"UV_DEFAULT_INDEX": self.rewrites.apply(self.index_url)} if self.index_url else {}
        patience = {"UV_HTTP_TIMEOUT": str(max(1, round(self.timeout))), "UV_CONCURRENT_DOWNLOADS": str(max(1, self.jobs))}
        return {**self.variables, **patience, **index}

    def login(self, url: str) -> tuple[str, str] | None:
        """Return the user and password for a URL that holds none: those of the index or of a rewrite, at the same origin only (RFC 6454).

        Where an origin has several, those of the URL that has most in common with *url* count.
        """
        asked = split(url)
        given = [split(known) for known in (self.index_url or "", *self.rewrites.prefixes.values())]
        known = [parts for parts in given if parts.username and _origin(parts) == _origin(asked)]
        if not known:
            return None
        best = max(known, key=lambda parts: len(os.path.commonpath([f"/{parts.path}", f"/{asked.path}"])))
        return unquote(best.username or ""), unquote(best.password or "")

    def credentials(self, url: str) -> tuple[str, str] | None:
        """Return the user and password for a URL, for a program that is told them: those in it, those of :meth:`login`, or of ``~/.netrc``."""
        parts = split(url)
        if parts.username:
            return unquote(parts.username), unquote(parts.password or "")
        known = self.login(url)
        if known:
            return known
        try:
            found = netrc.netrc().authenticators(parts.hostname or "")
        except (OSError, netrc.NetrcParseError):
            return None
        return (found[0], found[2] or "") if found else None

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, never quite the same ones."""
        return min(self.backoff * 2.0 ** (failures - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _origin(parts: Any) -> tuple[str, str, int]:
    usual = {"http": 80, "https": 443}
    return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or usual.get(parts.scheme.lower(), 0)


def _proxies_environment() -> dict[str, str]:
    # what follows brings http and ssl along, which is much for who reaches no network
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    from urllib.request import getproxies_environment

    return getproxies_environment()
