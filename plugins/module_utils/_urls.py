# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""URLs: what may be used, which repository one names, and how none leaks a credential. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError

REMOTE_SCHEMES = frozenset({"https", "ssh"})
"""Schemes of a repository. Plain ``http``, which anybody on the way can alter, is for this machine's own loopback alone."""
REWRITE_SCHEMES = REMOTE_SCHEMES | {"http", "file"}
"""Where a rewrite given by the operator may lead: who names a plain server there has decided to trust the way to it."""
HTTP_SCHEMES = frozenset({"https", "http"})
"""Those of a file: a wheel or an asset."""
# hosts that treat owner and name without regard to case
CASELESS_HOSTS = frozenset({"github.com", "gitlab.com", "huggingface.co", "bitbucket.org"})
_SCP = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9.-]+):(?!//)(?P<path>[^:\s]+)\Z")
# up to the last @ before the path: a password may hold one, and what is taken for the host would be shown
_USERINFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^/\s\"']+@")
_SECRET = re.compile(r"\b(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/\s:@\"']*)(:(?P<password>[^/\s\"']*))?@")
CREDENTIALS = (
    *("access_token", "api_key", "apikey", "auth_token", "job_token", "oauth_token", "password", "private_token", "token"),
    # URLs that are signed for a while: Azure, CloudFront, S3, Google
    *("sig", "signature", "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential", "x-goog-signature"),
)
"""Parameters of a query whose value lets whoever has it in."""
_PARAMETER = re.compile(rf"(?P<before>[?&;](?P<name>{'|'.join(CREDENTIALS)})=)(?P<value>[^&;#\s\"']+)", re.IGNORECASE)
# RFC 3986 knows no others; what is not ASCII may look like something else, and is written with percent signs
_UNSAFE = re.compile(r"[^\x21-\x7e]|[$`\\\"'<>|;{}]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9]+)?")
_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")
_PART = re.compile(r"[A-Za-z0-9_~][A-Za-z0-9._~-]*\Z")


def redact(text: str) -> str:
    """Return *text* with the user info of every URL in it, and the values of :data:`CREDENTIALS`, replaced by ``***``.

    ``git@`` is no secret and stays.
    """
    text = _USERINFO.sub(lambda found: found.group(0) if found.group(0).endswith("://git@") else f"{found['scheme']}***@", text)
    return _PARAMETER.sub(r"\g<before>***", text)


def secrets(value: Any) -> set[str]:
    """Return the passwords and tokens in the URLs anywhere in *value*, a text or a list or mapping of such, as written and as meant."""
    if isinstance(value, Mapping):
        return {found for part in (*value, *value.values()) for found in secrets(part)}
    if isinstance(value, (list, tuple)):
        return {found for part in value for found in secrets(part)}
    if not isinstance(value, str):
        return set()
    # the user of an SSH URL is part of the address
    told = {found["password"] or (found["user"] if found["scheme"].lower() != "ssh" else "") for found in _SECRET.finditer(value)}
    told |= {found["value"] for found in _PARAMETER.finditer(value)}
    return {text for secret in told for text in (secret, unquote(secret)) if secret}


def check_url(url: str, entry: str, schemes: frozenset[str] = REMOTE_SCHEMES) -> str:
    """Return *url* if it may be given to git, requests or uv.

    :param entry: the catalogue entry it comes from, for the message.
    :param schemes: those that are allowed; ``http`` to the loopback of this machine always is where ``https`` is.
    :raises CatalogError: it could be taken for an option, runs a command, holds characters that a shell or an environment
        expansion would touch, has a scheme that is not allowed, or a login among its parameters, which would be on record with it.
    """
    if url.startswith("-") or "::" in url.split("/", 1)[0] or _UNSAFE.search(url):
        raise CatalogError(
            f"{entry}: the URL {redact(url)!r} holds characters or a transport that are not allowed. Use a plain https:// or ssh URL."
        )
    if login := _PARAMETER.search(url):
        raise CatalogError(
            f"{entry}: {redact(url)!r} holds a login, its parameter {login['name']}, and would be on record with it. Take it out, and put the login "
            f"into rlinf_url_rewrites (https://user:token@host/) or ~/.netrc; a file behind a URL that is signed for a while, give under another."
        )
    scp = _SCP.match(url)
    if scp:
        scheme, user, host = "ssh", scp["user"] or "", scp["host"]
    else:
        parts = split(url)
        scheme, (userinfo, _ignored, _host), host = parts.scheme.lower(), parts.netloc.rpartition("@"), parts.hostname or ""
        user = unquote(userinfo)
    if scheme not in schemes and not (scheme == "http" and "https" in schemes and _LOOPBACK.fullmatch(host)):
        remedy = " A server that has no other is named in rlinf_url_rewrites." if scheme == "http" else ""
        raise CatalogError(
            f"{entry}: {redact(url)!r} has the scheme {scheme or 'none'!r}; allowed are {', '.join(sorted(schemes))}.{remedy}"
        )
    # ssh takes a host or user that begins with a dash for an option; a line end in a login would be a line of git's credential protocol
    if (host or scheme != "file") and (not _HOST.fullmatch(host) or user.startswith("-") or not user.isprintable()):
        raise CatalogError(f"{entry}: {redact(url)!r} has a host or user that cannot be one. Correct it.")
    return url


def refuse_userinfo(url: str, entry: str) -> str:
    """Return *url* if it holds no login; the user of an SSH URL is part of the address.

    For URLs that others wrote: a login there is not ours to use, and ``https://known.example@elsewhere.example/`` is made to mislead.

    :raises CatalogError: it holds one.
    """
    if without_userinfo(url) != url:
        raise CatalogError(f"{entry}: {redact(url)!r} holds a user or password. Credentials belong into rlinf_url_rewrites or ~/.netrc.")
    return url


def split(url: str) -> SplitResult:
    """Return the parts of a URL.

    :raises CatalogError: it is none, its host or port included.
    """
    try:
        parts = urlsplit(url)
        # they are looked at when they are asked for
        _ignored = parts.hostname, parts.port
        return parts
    except ValueError as error:
        raise CatalogError(f"{redact(url)!r} is no URL ({error}). Correct it.") from None


@dataclass(frozen=True)
class RepositoryId:
    """Which repository a URL names, however it is written: host, owner (may hold slashes) and name without ``.git``."""

    host: str
    owner: str
    name: str

    @classmethod
    def parse(cls, url: str) -> RepositoryId:
        """Take apart an https, ssh or scp-like URL; a ``git+`` prefix, ``@ref`` and fragment must be off already.

        :raises CatalogError: there is no host, owner or name in it.
        """
        scp = _SCP.match(url)
        if scp:
            host, path = scp["host"], scp["path"]
        else:
            parts = split(url)
            host, path = parts.hostname or "", unquote(parts.path)
        owner, _ignored, name = path.strip("/").rpartition("/")
        name = name.removesuffix(".git")
        pieces = [host.lower(), *owner.split("/"), name]
        if not all(_PART.match(piece) for piece in pieces):
            raise CatalogError(f"{redact(url)!r} names no repository: a URL like https://host/owner/name.git is needed.")
        return cls(host.lower(), owner, name)

    @property
    def key(self) -> str:
        """What two URLs of one repository have in common; lower case where the host does not care."""
        text = f"{self.host}/{self.owner}/{self.name}"
        return text.lower() if self.host in CASELESS_HOSTS else text

    @property
    def mirror(self) -> str:
        """Where its mirror lies under the bundle's ``repos/``."""
        return f"{self.host}/{self.owner}/{self.name}.git"


class Rewrites:
    """Prefixes of URLs that are reached elsewhere: mirrors of GitHub or Hugging Face, or a stand-in in a test.

    The longest matching prefix wins, as with git's ``url.<base>.insteadOf``.
    """

    def __init__(self, prefixes: Mapping[str, str] | None = None) -> None:
        for prefix, replacement in (prefixes or {}).items():
            for text in (prefix, replacement):
                check_url(text, "rlinf_url_rewrites", REWRITE_SCHEMES)
                if not text.endswith(("/", ":")):
                    raise CatalogError(
                        f"rlinf_url_rewrites: {redact(text)!r} must end with a slash, since it is a prefix: otherwise other hosts match too."
                    )
        self.prefixes = dict(prefixes or {})

    def apply(self, url: str) -> str:
        """Return where *url* is really fetched from. Credentials in it are for its own host, and stay behind where it is another."""
        plain = without_userinfo(url)
        matching = [prefix for prefix in self.prefixes if plain.startswith(prefix)]
        if not matching:
            return url
        longest = max(matching, key=len)
        return self.prefixes[longest] + plain[len(longest) :]

    @property
    def git_config(self) -> list[tuple[str, str]]:
        """The same rules for git, as configuration keys and values, without user info."""
        return [(f"url.{without_userinfo(replacement)}.insteadOf", prefix) for prefix, replacement in sorted(self.prefixes.items())]


def without_userinfo(url: str) -> str:
    """Return *url* without user and password, for records and manifests; of an SSH URL only the password goes, its user is part of the address."""
    if _SCP.match(url):
        return url
    parts = split(url)
    user, at, host = parts.netloc.rpartition("@")
    kept = f"{user.partition(':')[0]}{at}" if parts.scheme == "ssh" else ""
    return urlunsplit(parts._replace(netloc=f"{kept}{host}"))
