# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``records/sbom.cdx.json``: a bundle's bill of materials, CycloneDX 1.6 (ECMA-424), out of what its records and locks say.

A component is known (``bom-ref``) by its path in the bundle. A target depends on the components in its closure, the bundle on its targets
and on what no target claims. Equal bundles give equal bytes: no date, and a serial number out of the content.
"""

from __future__ import annotations

import contextlib
import email
import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from ansible_collections.rlinf.offline.plugins.module_utils._apt import PACKAGES, RECORD
from ansible_collections.rlinf.offline.plugins.module_utils._archive import DAMAGED
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import Found, read_manifest, scan
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, read_json, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._frozen import read_records
from ansible_collections.rlinf.offline.plugins.module_utils._installed import normalize
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import lies_in, read_locks, read_record
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, without_userinfo

NAME = "rlinf.offline"
BUNDLE_REF = "bundle"
KITS = {"tools": "tools", "control": "tools/control", "swarm": "tools/swarm"}
"""The records of wheels that travel together, and where these lie."""
# what somebody uses; the rest of a bundle says where it lies, or what it is
_CARRIED = re.compile(r"(?:wheels|wheelhouse|assets|interpreters)/|tools/.*\.(?:whl|tar\.gz)\Z|apt/.*\.deb\Z")
_LICENSE_TEXT = 80
"""A longer text of a wheel's licence field is no name."""

Component = dict[str, Any]


@dataclass(frozen=True)
class Bill:
    """A bill of materials, which is made anew whenever it is asked for: that of a hundred thousand files has as many kilobytes.

    :param pieces: gives its content, one piece after the other.
    :param sha256: of the content, and its *size* in bytes.
    :param components: how many it has.
    """

    pieces: Callable[[], Iterator[bytes]]
    sha256: str
    size: int
    components: int

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces())


def bill_of(bundle: Bundle) -> Bill:
    """Return the bill of materials of what is in a bundle.

    :raises BundleError: a record, a lock or the manifest is damaged, or something lies there that cannot be in a bundle.
    """
    found, _left_over = scan(bundle)
    targets, seen = _targets(bundle), _seen(bundle)
    listed: dict[str, Component] = {}
    for component in (*_repositories(bundle), *_packages(bundle, seen), *_tools(bundle), *_system_packages(bundle), *_unpacked(bundle)):
        listed.setdefault(component["bom-ref"], component)
    # of a hundred thousand files in no record only what tells them apart is kept; their components are made as they are written
    further = dict(_further(bundle, found, listed, seen))
    names = sorted([*listed, *further])
    licenses = {path: licenses_of(bundle.root / path) for path in names if path.endswith(".whl") and path in found}
    del found
    claimed = {ref: [path for path in names if lies_in(path, closure)] for ref, (_component, closure) in targets.items()}
    unclaimed = set(names) - {path for paths in claimed.values() for path in paths}

    def components() -> Iterator[Component]:
        yield from (component for component, _closure in targets.values())
        for path in names:
            component = listed.get(path) or _file(path, *further[path])
            yield {**component, "licenses": licenses[path]} if licenses.get(path) else component

    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"bom-ref": BUNDLE_REF, "type": "application", "name": f"{NAME} bundle"},
            "tools": {"components": [{"type": "application", "name": NAME}]},
        },
        "dependencies": [
            {"ref": BUNDLE_REF, "dependsOn": sorted([*targets, *unclaimed])},
            *({"ref": ref, "dependsOn": paths} for ref, paths in claimed.items()),
        ],
    }
    anonymous, _size = _digest(_pieces(body, components()))
    body["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{NAME} {anonymous}')}"
    return Bill(lambda: _pieces(body, components()), *_digest(_pieces(body, components())), len(targets) + len(names))


def _digest(pieces: Iterable[bytes]) -> tuple[str, int]:
    """Return the SHA-256 of a content, and its bytes."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def _pieces(body: Mapping[str, Any], components: Iterable[Component]) -> Iterator[bytes]:
    """Yield the canonical JSON of a bill, as :func:`._files.json_bytes` writes it, one component after the other."""
    marked = b'"components": ['
    # in no text, since its quotation marks would be written otherwise; what follows in the bill are other keys
    before, _mark, after = json_bytes({**body, "components": []}).partition(marked)
    yield before + marked
    between = b""
    for component in components:
        text = json.dumps(component, indent=2, sort_keys=True, ensure_ascii=False).replace("\n", "\n    ")
        yield between + b"\n    " + text.encode()
        between = b","
    yield (b"\n  " if between else b"") + after


def listed(bundle: Bundle) -> list[dict[str, Any]]:
    """Return everything that the bill of materials of a bundle lists but its targets: where it came from, and which targets have it.

    :returns: by ``path`` in the bundle, mappings of that, ``name``, ``version``, ``kind``, ``origin`` (a URL without a login, or the file at
        a mirror of system packages; empty if nothing recorded it) and ``targets``. Nothing if the bundle has no bill of materials.
    :raises BundleError: it is damaged.
    """
    bill = read_record(bundle, bundle.sbom.name)
    with _reading(bundle.sbom):
        components = {component["bom-ref"]: component for component in bill.get("components", ())}
        targets: dict[str, list[str]] = {ref: [] for ref in components}
        for dependency in bill.get("dependencies", ()):
            for ref in dependency["dependsOn"] if dependency["ref"] in components else ():
                targets[ref].append(components[dependency["ref"]]["name"])
        return [
            {
                "path": ref,
                "name": component["name"],
                "version": component.get("version", ""),
                **_kind_and_origin(component),
                "targets": sorted(set(targets[ref])),
            }
            for ref, component in sorted(components.items())
            if component["type"] != "application"
        ]


def _kind_and_origin(component: Component) -> dict[str, str]:
    properties = {item["name"].removeprefix(f"{NAME}:"): item["value"] for item in component.get("properties", ())}
    # what lies under other files has come from somewhere itself
    origin = next(iter(component.get("pedigree", {}).get("ancestors", ())), component)
    url = next((reference["url"] for reference in origin.get("externalReferences", ())), "")
    return {"kind": properties.get("kind", "repository"), "origin": url or "/".join(filter(None, map(properties.get, ("mirror", "path"))))}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """:raises BundleError: what is read of this record lacks something, or is something else."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is damaged: what it lists cannot be read ({type(error).__name__}: {error}). Take it from a copy of the bundle, or remove "
            "it and run the playbook rlinf.offline.download again."
        ) from None


def _seen(bundle: Bundle) -> dict[str, str]:
    """Return by their digests the URLs that files were downloaded from."""
    urls = read_record(bundle, "urls.json")
    with _reading(bundle.records / "urls.json"):
        return {record["sha256"]: url for url, record in sorted(urls.items())}


# -- components ----------------------------------------------------------------------------------------------------------------


def _component(ref: str, name: str, version: str | None = None, *, kind: str = "library", **more: Any) -> Component:
    """Return a component; of *more*, what is empty is left out. ``sha256`` becomes its digest, ``properties`` may be a mapping."""
    component: Component = {"type": kind, "name": name, "bom-ref": ref, "version": version, **more}
    if digest := component.pop("sha256", None):
        component["hashes"] = _hashes(digest)
    if properties := component.pop("properties", None):
        component["properties"] = [{"name": f"{NAME}:{key}", "value": str(value)} for key, value in sorted(properties.items()) if value]
    return {key: value for key, value in component.items() if value}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _reference(kind: str, url: str | None, *, sha256: str | None = None, comment: str | None = None) -> list[dict[str, Any]]:
    """Return where something came from, without a login, or nothing if that is not known."""
    if not url:
        return []
    reference: dict[str, Any] = {"type": kind, "url": _uri(url)}
    if sha256:
        reference["hashes"] = _hashes(sha256)
    if comment:
        reference["comment"] = comment
    return [reference]


def _uri(url: str) -> str:
    """Return a URL without a login; what ssh and git write as ``user@host:path`` is none."""
    plain = without_userinfo(url)
    return plain if "://" in plain else "ssh://" + plain.replace(":", "/", 1)


def purl(kind: str, name: str, version: str | None = None, *, namespace: str = "", subpath: str = "", **qualifiers: str | None) -> str:
    """Return a package URL (ECMA-427, the purl specification).

    :param namespace: may hold slashes.
    :param qualifiers: what is empty is left out.
    """
    parts = [kind, *namespace.split("/"), name]
    text = "pkg:" + "/".join(quote(part, safe=".-_~") for part in parts if part)
    if version:
        text += f"@{quote(version, safe='.-_~:')}"
    asked = [f"{key}={quote(value, safe='.-_~:/')}" for key, value in sorted(qualifiers.items()) if value]
    return text + (f"?{'&'.join(asked)}" if asked else "") + (f"#{subpath}" if subpath else "")


def _commit_purl(url: str, commit: str, subdirectory: str | None = None) -> str:
    """Return the package URL of a repository at a commit."""
    repository = RepositoryId.parse(url)
    if repository.host == "github.com":
        return purl("github", repository.name.lower(), commit, namespace=repository.owner.lower(), subpath=subdirectory or "")
    return purl("generic", repository.name, commit, vcs_url=f"git+{_uri(url)}@{commit}", subpath=subdirectory or "")


def _repositories(bundle: Bundle) -> Iterator[Component]:
    for mirror, record in sorted(read_records(bundle).items()):
        owner, _slash, name = mirror.removesuffix(".git").partition("/")[2].rpartition("/")
        yield _component(
            f"{bundle.repos.name}/{mirror}",
            name,
            record["commit"],
            group=owner,
            purl=_commit_purl(record["url"], record["commit"]),
            externalReferences=_reference("vcs", record["url"], comment=f"commit {record['commit']}"),
            properties={"ref": record["version"]},
        )


def _targets(bundle: Bundle) -> dict[str, tuple[Component, frozenset[str]]]:
    """Return each target as a component with what it needs of the bundle."""
    found = {}
    for path, lock in read_locks(bundle):
        with _reading(path):
            project = lock["project"]
            ref = str(path.parent.relative_to(bundle.root))
            component = _component(
                ref,
                lock["target"],
                project["commit"],
                kind="application",
                group=project["repository"],
                externalReferences=_reference("vcs", project["url"], comment=f"commit {project['commit']}"),
                properties={"definition": lock["definition"], "platform": lock["platform"], "python": lock["python"]},
            )
            found[ref] = component, frozenset(entry.rstrip("/") for entry in lock["closure"]) - {ref}
    return found


def _packages(bundle: Bundle, seen: Mapping[str, str]) -> Iterator[Component]:
    for path, lock in read_locks(bundle):
        with _reading(path):
            for package in (*lock["packages"], *lock["build"]):
                yield _package(package, seen)


def _package(package: Mapping[str, Any], seen: Mapping[str, str]) -> Component:
    """Return one file of a lock as a component, with what it is or was built from."""
    name, version, kind, source = (package[key] for key in ("name", "version", "kind", "source"))
    more: dict[str, Any] = {"purl": purl("pypi", normalize(name), version)}
    if kind == "git":
        more["purl"] = _commit_purl(source["url"], source["commit"], source["subdirectory"])
        more["externalReferences"] = _reference("vcs", source["url"], comment=f"commit {source['commit']}")
    elif kind == "overlay":
        original = {key: value for key, value in _package(source["package"], seen).items() if key not in ("bom-ref", "properties")}
        notes = f"the files of {source['donor']} below {source['path']} lie over it"
        more["pedigree"] = {"ancestors": [original], "notes": notes}
    elif kind == "wheel":
        url = seen.get(package["sha256"])
        more["purl"] = _file_purl(normalize(name), version, url, package["sha256"])
        more["externalReferences"] = _reference("distribution", url, sha256=package["sha256"])
    else:
        # an sdist is there itself where nodes build it, or was built
        found_as = "distribution" if kind == "index" else "source-distribution"
        more["externalReferences"] = _reference(found_as, source["url"], sha256=source.get("sha256") or package["sha256"])
    return _component(package["path"], name, version, sha256=package["sha256"], properties={"kind": kind}, **more)


def _file_purl(name: str, version: str | None, url: str | None, sha256: str) -> str:
    """Return the package URL of a file that no index and no repository has."""
    return purl("generic", name, version, checksum=f"sha256:{sha256}", download_url=without_userinfo(url) if url else None)


def _tools(bundle: Bundle) -> Iterator[Component]:
    for kit, folder in KITS.items():
        record = read_record(bundle, f"{kit}.json")
        with _reading(bundle.records / f"{kit}.json"):
            for wheel in (wheel for wheels in record.get("wheels", {}).values() for wheel in wheels):
                yield _component(
                    f"{folder}/{wheel['filename']}",
                    wheel["name"],
                    wheel["version"],
                    sha256=wheel["sha256"],
                    purl=purl("pypi", normalize(wheel["name"]), wheel["version"]),
                    externalReferences=_reference("distribution", wheel["url"], sha256=wheel["sha256"]),
                    properties={"kind": kit},
                )


def _system_packages(bundle: Bundle) -> Iterator[Component]:
    for path in sorted((bundle.root / "apt").glob(f"*/*/{RECORD}")):
        record = read_json(path, BundleError, PACKAGES)
        with _reading(path):
            for file in record["files"]:
                # as apt names files: a colon in a version is written %3a
                name, version, architecture = unquote(file["filename"].removesuffix(".deb")).split("_")
                vendor, _dash, _release = record["release"].partition("-")
                yield _component(
                    str((path.parent / file["filename"]).relative_to(bundle.root)),
                    name,
                    version,
                    sha256=file["sha256"],
                    purl=purl("deb", name, version, namespace=vendor, arch=architecture, distro=record["release"]),
                    properties={"kind": "system", "mirror": file["mirror"], "path": file["path"]},
                )


def _unpacked(bundle: Bundle) -> Iterator[Component]:
    """Yield the assets that were archives: their digest is the archive's, which the bundle does not hold any more."""
    assets = read_record(bundle, "assets.json")
    with _reading(bundle.records / "assets.json"):
        for dest, record in sorted(assets.items()):
            yield _component(
                f"{bundle.assets.name}/{dest}",
                dest,
                kind="data",
                externalReferences=_reference("distribution", record["url"], sha256=record["sha256"]),
                properties={"kind": "asset", "tree-sha256": record["tree"]},
            )


def _further(
    bundle: Bundle, found: Mapping[str, Found], listed: Mapping[str, Component], seen: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yield what else is carried and no record lists: prebuilt wheels, files of assets, interpreters, what nodes built, left-overs of old locks.

    :returns: the path, and the digest and URL that :func:`_file` takes.
    """
    manifest: Mapping[str, Any] = read_manifest(bundle)["files"] if bundle.manifest.exists() else {}
    known = frozenset(listed)
    for path, file in sorted(found.items()):
        if not _CARRIED.match(path) or file.link is not None or lies_in(path, known):
            continue
        sealed = manifest.get(path, {})
        same = (sealed.get("size"), sealed.get("mtime_ns")) == file.stat
        digest = sealed["sha256"] if same else sha256_file(bundle.root / path)
        yield path, (digest, seen.get(digest))


def _file(path: str, sha256: str, url: str | None) -> Component:
    """Return a file as a component, by what its name says."""
    top, *_between, filename = PurePosixPath(path).parts
    kind, name, version = "file", filename, None
    properties = {"kind": "file"}
    if filename.endswith(".whl"):
        kind, (name, version) = "library", filename.split("-")[:2]
        name, properties["kind"] = normalize(name), "wheel"
    elif top == "interpreters":
        kind, name, version = "platform", "cpython", PurePosixPath(path).parts[1]
        properties = {"kind": "interpreter", "machine": PurePosixPath(path).parts[2]}
    elif top == "assets":
        kind, name, properties["kind"] = "data", path.partition("/")[2], "asset"
    return _component(
        path,
        name,
        version,
        kind=kind,
        sha256=sha256,
        purl=_file_purl(filename if version is None else name, version, url, sha256),
        externalReferences=_reference("distribution", url, sha256=sha256),
        properties=properties,
    )


# -- licences ------------------------------------------------------------------------------------------------------------------


def licenses_of(wheel: Path) -> Sequence[Mapping[str, Any]]:
    """Return the licences that a wheel's metadata declares, as CycloneDX has them: an SPDX expression (PEP 639), or names.

    Without an expression, the names are those of its classifiers, or its licence field, if that is no text of a licence. A wheel that is
    damaged is others' to judge; it declares nothing.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            metadata = email.message_from_bytes(archive.read(name).partition(b"\n\n")[0])
    except (*DAMAGED, StopIteration, OSError):
        return ()
    if expression := str(metadata.get("License-Expression", "")).strip():
        return ({"expression": expression, "acknowledgement": "declared"},)
    names = _license_names(metadata.get_all("Classifier", []), str(metadata.get("License", "")).strip())
    return [{"license": {"name": name, "acknowledgement": "declared"}} for name in names]


def _license_names(classifiers: Iterable[Any], field: str) -> list[str]:
    parts = (str(text).split(" :: ") for text in classifiers)
    names = sorted({part[-1].strip() for part in parts if part[0] == "License" and len(part) > 1} - {"OSI Approved"})
    short = field and field != "UNKNOWN" and "\n" not in field and len(field) <= _LICENSE_TEXT
    return names or ([field] if short else [])
