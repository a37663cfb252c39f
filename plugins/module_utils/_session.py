# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolving one target: with the network open, mirroring what git asks for, and again offline through the mirrors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout, _index, _mirror
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher, Records
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._frozen import read_records
from ansible_collections.rlinf.offline.plugins.module_utils._gather import Gatherer, build_requires
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import redirect_config
from ansible_collections.rlinf.offline.plugins.module_utils._package import Package
from ansible_collections.rlinf.offline.plugins.module_utils._resolve import (
    MissingMirror,
    Pin,
    Resolution,
    Resolver,
    add_metadata,
    drop_git_cache,
    write_settings,
)
from ansible_collections.rlinf.offline.plugins.module_utils._shipped import Shipped, files_digest
from ansible_collections.rlinf.offline.plugins.module_utils._submodules import check_submodules
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, redact, without_userinfo
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_python, find_uv, isolated_environment

if TYPE_CHECKING:
    from ansible_collections.rlinf.offline.plugins.module_utils._lock import Locker

MOST_MIRRORS = 50
"""Repositories that one target may bring in by nested git dependencies; more is taken for a loop."""


class Session:
    """The scratch space, the checkouts and the two uvs (online, offline) of locking one target.

    :param definition: the digest of the target's entry.
    :param pins: pins of the target that are known beforehand; the first that are of this very definition and project count.
    :raises LockError: there is no interpreter for the target, or the index can serve no cut-off and there are no pins in its place.
    """

    def __init__(self, locker: Locker, target: Target, definition: str, pins: Sequence[Shipped]) -> None:
        self.locker, self.target = locker, target
        self.bundle, self.settings = locker.bundle, locker.settings
        self.fetcher = Fetcher(self.settings.network, records=Records.of(self.bundle))
        self.root = self.bundle.cache / "lock" / target.name
        self.online_folder = self.root / "outside"
        self.git_config = self.root / "gitconfig"
        self.uv_cache = self.bundle.cache / "uv"
        remove(self.root)
        self.online_folder.mkdir(parents=True)
        self.checkouts: dict[str, Path] = {}
        self.commits: dict[str, tuple[str, str]] = {}
        self.check_out()
        self.files = requirement_files(self.checkouts[target.project])
        self.pins = self._fitting(definition, pins)
        path = find_uv(self.settings.uv)
        self.online = Uv(path, self._environment())
        self.offline = Uv(path, {**self.online.env, "UV_OFFLINE": "1"})
        wanted = self.settings.pythons.get(target.python, target.python)
        interpreter = find_python(wanted, self.online)
        if ".".join(str(part) for part in interpreter.minor) != ".".join(target.python.split(".")[:2]):
            raise LockError(
                f"target {target.name} is for Python {target.python}, but {interpreter.path} is {interpreter.version}. Give another one by rlinf_python."
            )
        self.python = interpreter.path
        self.write_git_config()
        write_settings(self.online_folder, target)

    def _fitting(self, definition: str, pins: Sequence[Shipped]) -> Shipped | None:
        """Return the pins if they are of this target, and make sure that nothing newer than the cut-off is taken without them.

        :raises LockError: neither they nor the index can do that.
        """
        there = (definition, files_digest(self.files), str(self.settings.platform), self.settings.torch_backend)
        misfits = [known.mismatch(*there) for known in pins]
        fitting = next((known for known, misfit in zip(pins, misfits, strict=True) if not misfit), None)
        self.cut_off = self.target.cut_off
        index = self.settings.network.index_url
        if not (index and self.cut_off) or _index.tells_upload_times(self.fetcher, index) is not False:
            return fitting
        if fitting is None:
            lack = "no pins of it ship with the collection"
            if misfits:
                lack = f"the pins of it that ship with the collection are of another state of {misfits[0]}"
            raise LockError(
                f"target {self.target.name}: the index {redact(index)} does not say when files were uploaded (PEP 700), so that what there was at the "
                f"cut-off {self.cut_off} cannot be told, and {lack}. Set rlinf_index_url to an index that does, PyPI's own does; or give the "
                f"target an empty cut_off in rlinf_catalog, to take the newest packages."
            )
        self.cut_off = None
        return fitting

    def _environment(self) -> dict[str, str]:
        """uv's variables: the project's own settings apply, the user's do not; git sees the bundle's mirrors and nothing else."""
        env = isolated_environment(self.uv_cache, self.git_config)
        env.pop("UV_NO_CONFIG", None)
        env |= {"XDG_CONFIG_HOME": str(self.root / "none"), "XDG_CONFIG_DIRS": str(self.root / "none"), "GIT_ALLOW_PROTOCOL": "file"}
        if self.cut_off:
            env["UV_EXCLUDE_NEWER"] = self.cut_off
        if self.pins and self.pins.build:
            listed = self.root / "build-constraints.txt"
            listed.write_text("".join(f"{line}\n" for line in self.pins.build_constraints), encoding="utf-8")
            env["UV_BUILD_CONSTRAINT"] = str(listed)
        return env | self.settings.network.uv_variables

    def write_git_config(self) -> None:
        self.git_config.write_text(redirect_config(self.bundle.repos), encoding="utf-8")

    def check_out(self) -> None:
        """Put fresh checkouts of the target's repositories in place, at their frozen commits."""
        records = read_records(self.bundle)
        for name in self.target.repositories:
            repository = self.locker.catalog.repositories[name]
            record = records.get(repository.id.mirror)
            if record is None:
                raise LockError(f"target {self.target.name}: the bundle has no mirror of {name}. Mirror it with rlinf_repo_mirror first.")
            tree = self.root / "src" / name
            remove(tree)
            tree.parent.mkdir(parents=True, exist_ok=True)
            _checkout.checkout(self.bundle.repos / repository.id.mirror, record["commit"], tree, origin_url=repository.url)
            self.checkouts[name], self.commits[name] = tree, (repository.url, record["commit"])
        check_submodules(self.bundle.repos, [self.commits[step.value] for step in self.target.trace if step.kind == "package"])

    # -- resolving -------------------------------------------------------------------------------------------------------------

    def resolve_open(self) -> Resolution:
        """Resolve with the index open; a repository that git asks for and the bundle lacks is mirrored, and the step tried again."""
        asked: set[tuple[str, str | None]] = set()
        done: dict[int, dict[str, Pin]] = {}
        resolver = self._resolver(self.online)
        while True:
            try:
                found = resolver.resolve(done)
                # which commits a requirement file's branches and tags mean is known only now
                check_submodules(self.bundle.repos, [pin.git[:2] for pin in found.pins.values() if pin.git])
                return found
            except MissingMirror as missing:
                key = RepositoryId.parse(missing.url).key, missing.commit
                if key in asked or len(asked) >= MOST_MIRRORS:
                    raise LockError(
                        f"target {self.target.name}: {missing} Mirroring it did not help; is its URL written in another way somewhere?"
                    ) from None
                asked.add(key)
                self.mirror(missing.url, missing.commit)
                self.write_git_config()

    def mirror(self, url: str, commit: str | None) -> None:
        """Mirror a repository that locking found, as its catalogue entry says if there is one, or one more *commit* of it."""
        self.locker.progress(f"{self.target.name}: mirroring {commit or ''} {url}")
        plain = without_userinfo(url)
        repository = self.locker.catalog.repository_for(plain) or Repository(RepositoryId.parse(plain).name, plain)
        if commit:
            _mirror.ensure_commit(self.bundle, repository.url, commit, self.settings.network)
        else:
            _mirror.mirror_one(self.bundle, repository, self.settings.network, cut_off=self.target.cut_off)

    def resolve_closed(self) -> Resolution:
        """Resolve once more in fresh checkouts, without the network, git's caches dropped: only the mirrors can answer."""
        drop_git_cache(self.uv_cache)
        self.check_out()
        return self._resolver(self.offline).resolve()

    def _resolver(self, uv: Uv) -> Resolver:
        add_metadata(self.checkouts[self.target.project], self.target)
        labels = [step.label for step in self.target.trace]
        return Resolver(
            uv=uv,
            bundle=self.bundle,
            target=self.target,
            python=self.python,
            platform=self.settings.platform,
            torch_backend=self.settings.torch_backend,
            checkouts=self.checkouts,
            commits=self.commits,
            wheels=self._wheels(),
            leave_out=self.settings.leave_out,
            scratch=self.root / "step",
            constraints=dict(enumerate(self.pins.constraints(labels))) if self.pins else {},
        )

    def _wheels(self) -> dict[str, Path]:
        wheels = {}
        for name in self.target.wheels:
            if name in self.settings.leave_out:
                continue
            wheels[name] = self.bundle.wheels / self.locker.catalog.wheels[name].filename
            if not wheels[name].is_file():
                raise LockError(
                    f"target {self.target.name}: the wheel {name} is not in the bundle. Fetch it with rlinf_wheel_cache first, or name it in rlinf_leave_out."
                )
        return wheels

    # -- what is built ---------------------------------------------------------------------------------------------------------

    def on_node(self, resolution: Resolution) -> set[str]:
        """Return the packages whose source nodes build.

        :raises LockError: one is not there, or does not come from an index.
        """
        for name in self.target.build_on_node:
            pin = resolution.pins.get(name)
            if pin is None or pin.url:
                found = "no step installs it" if pin is None else f"it comes from {redact(pin.short)}"
                raise LockError(
                    f"target {self.target.name}: build_on_node names {name}, but {found}. Only what an index serves can be built on a node."
                )
        return set(self.target.build_on_node)

    def build_pins(self, resolution: Resolution, packages: Sequence[Package]) -> Iterator[Pin]:
        """Yield pins of what building the editables and the sources on a node needs.

        A source is built beside the target's packages, so these are what its requirements are pinned to.
        """
        sources = [package for package in packages if package.kind == "source"]
        wanted = {line for package in sources for line in package.source["build_requires"]}
        for editable in resolution.editables:
            wanted |= {*build_requires(self.checkouts[editable.repository] / (editable.subdirectory or "") / "pyproject.toml"), "wheel"}
        constraints = [pin.requirement for pin in resolution.pins.values() if not pin.url] if sources else []
        if wanted:
            yield from self._build_pins(sorted(wanted), constraints, "resolving what building the editables and sources needs")

    def _build_pins(self, wanted: Sequence[str], constraints: Sequence[str], what: str) -> Iterator[Pin]:
        listed, output, bounds = (self.online_folder / name for name in ("build.in", "build.txt", "build-constraints.txt"))
        for path, lines in ((listed, wanted), (bounds, [*constraints, *(self.pins.build_constraints if self.pins else ())])):
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        options: list[str | Path] = [
            "--quiet",
            "--no-annotate",
            "--no-header",
            "--python",
            self.python,
            "--python-version",
            self.target.python,
        ]
        options += ["--python-platform", str(self.settings.platform), "--constraint", bounds]
        if self.settings.torch_backend != "pypi":
            options += ["--torch-backend", self.settings.torch_backend]
        self.online.run(["pip", "compile", *options, listed, "--output-file", output], what=what, cwd=self.online_folder)
        for line in output.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith(("#", "-")):
                yield Pin.parse(line.strip())

    def gatherer(self) -> Gatherer:
        return Gatherer(
            self.bundle,
            self.online,
            self.python,
            ".".join(self.target.python.split(".")[:2]),
            self.settings.platform,
            self.fetcher,
            self.root / "gather",
            self.locker.progress,
            self.pins.sha256 if self.pins else {},
        )

    def close(self) -> None:
        """Remove the scratch space; uv's cache stays, since the next target has much in common."""
        remove(self.root)


def requirement_files(project: Path) -> dict[str, str]:
    """Return the digest of every file of a checkout that decides what is installed, by relative path."""
    files = sorted([*project.glob("requirements/**/*.txt"), *project.glob("pyproject.toml")])
    return {str(path.relative_to(project)): sha256_file(path) for path in files}
