# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue: what is taken, and that whatever is wrong is named by its entry."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils._apt import renamed
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import STEPS, Catalog, check_ref, check_relative, extended, filled
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._releases import packages_by_release
from tests.support.catalog import shipped

WHEEL = "https://github.com/o/r/releases/download/v1/flash_attn-2.7.4%2Bcu12-cp311-cp311-linux_x86_64.whl"
GOOD: dict[str, Any] = {
    "repositories": {
        "RLinf": {"url": "https://github.com/RLinf/RLinf.git", "version": "release/v0.1"},
        "LIBERO": {"url": "git@github.com:RLinf/LIBERO.git"},
        "SIM": {"url": "https://github.com/RLinf/SIM.git"},
        "tools": {"url": "https://github.com/RLinf/tools.git"},
    },
    "wheels": {
        "flash-attn": {"url": WHEEL, "python": "3.11"},
        # the variable before it is not set
        "unset": {"url": "/kit/kit-1-cp311-none-manylinux_2_34_x86_64.whl", "python": "3.11"},
    },
    "assets": {"physx": {"url": "https://example.org/x.zip", "dest": ".sapien/physx/1", "unpack": True}},
    "targets": {
        "openvla": {
            "project": "RLinf",
            "python": "3.11",
            "cut_off": "2025-12-23",
            "steps": [
                {"uv_sync": ["embodied"]},
                {"editable": "LIBERO"},
                {"requirements": ["requirements/a.txt", "six>=1"], "build_isolation": False, "env": {"X": "1"}},
                {"wheels": ["flash-attn"]},
                {"uninstall": ["pynvml"]},
                {"overlay": "transformers", "from": "openpi", "path": "openpi/replace"},
                {
                    "script": "SIM",
                    "run": ["./setup.sh", "--use-uv"],
                    "env": {"WHEELS": "{wheels}"},
                    "installs": [
                        {"package": "tools", "subdirectory": "bddl3"},
                        {"editable": "SIM", "subdirectory": "OmniGibson"},
                        {"editable": "SIM", "subdirectory": "joylo"},
                    ],
                    "removes": ["isaacsim/*/websockets"],
                },
            ],
            "metadata": [{"name": "engine-torch", "version": "2.1.0", "requires_dist": ["torch", "einops"]}],
            "build_on_node": {"Engine_Torch": {"needs": ["nvcc"], "env": {"FRAMEWORK": "pytorch"}}},
            "licences": {"rlinf_accept_eula": "the EULA"},
            "settings": {"rlinf_index": "the index that has them"},
            "assets": ["physx"],
            "exports": {"A": "{src}"},
            "files": {"{state}/x": "text"},
            "links": {".sapien": "{assets}/.sapien"},
            "imports": ["torch"],
        },
        "openpi": {
            "extends": "openvla",
            "steps": [{"uv_sync": []}, {"wheels": ["flash-attn", "unset"]}],
            "exports": {"A": None, "B": "1"},
            "metadata": None,
        },
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the good catalogue with one value replaced; *path* is dotted, numbers are places in lists."""
    data = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = data
    for parent in parents:
        place = place[parent]
    place[last] = value
    return data


def test_a_good_catalogue() -> None:
    catalog = Catalog.parse(GOOD)
    target = catalog.targets["openvla"]
    assert target.worktrees == ["RLinf", "LIBERO", "SIM"] and target.repositories == [*target.worktrees, "tools"]
    assert target.wheels == ["flash-attn"]
    assert catalog.wheels["flash-attn"].filename == "flash_attn-2.7.4+cu12-cp311-cp311-linux_x86_64.whl"
    assert [step.label for step in target.steps][2] == "requirements requirements/a.txt six>=1"
    assert [step.label for step in target.trace][5:] == [
        "overlay transformers",
        "script SIM",
        "package tools/bddl3",
        "editable SIM/OmniGibson",
        "editable SIM/joylo",
    ]
    assert target.build_on_node == {"engine-torch": {"needs": ["nvcc"], "env": {"FRAMEWORK": "pytorch"}}}
    assert catalog.repository_for("https://github.com/rlinf/libero") is catalog.repositories["LIBERO"]
    assert catalog.repository_for("https://github.com/other/LIBERO") is None


def test_the_shipped_catalogue_is_good() -> None:
    catalog = Catalog.parse(shipped("https://example.org/simple"))
    assert list(catalog.targets) == ["openvla", "openvla-oft", "openvla-oft-behavior", "openpi", "openpi-metaworld", "reason"]
    for name in catalog.targets:
        assert catalog.closure([name])["repositories"]


def test_isaac_sim_is_refused_without_its_index_and_only_then() -> None:
    catalog = Catalog.parse(shipped())
    assert catalog.closure([name for name in catalog.targets if name != "openvla-oft-behavior"])
    said = r"target openvla-oft-behavior: omniverse-kit \(and 25 more\) cannot be fetched, .* set rlinf_isaac_sim_index to the URL of NVIDIA's package index"
    with pytest.raises(CatalogError, match=said):
        catalog.closure(["openvla-oft-behavior"])
    wheels = Catalog.parse(shipped("https://lan/nvidia")).closure(["openvla-oft-behavior"])["wheels"]
    assert len(wheels) == 27
    assert wheels[25]["url"] == (
        "https://lan/nvidia/isaacsim-extscache-kit-sdk/isaacsim_extscache_kit_sdk-4.5.0.0-cp310-none-manylinux_2_34_x86_64.whl"
    )


def test_a_url_begins_with_a_setting_in_braces() -> None:
    entries = {"a": {"url": "{index}/a/b.whl"}, "b": {"url": "{other}/b.whl"}, "c": {"url": "https://host/{index}/c.whl"}, "d": {"size": 1}}
    found = filled({"wheels": entries, "assets": {"kept": 1}}, {"index": "https://lan/simple/"})
    assert found["wheels"] == {**entries, "a": {"url": "https://lan/simple/a/b.whl"}} and found["assets"] == {"kept": 1}
    assert filled({"wheels": entries}, {"index": ""})["wheels"]["a"] == {"url": "/a/b.whl"}


def test_a_target_takes_over_another_ones_keys() -> None:
    openvla, openpi = (Catalog.parse(GOOD).targets[name] for name in ("openvla", "openpi"))
    assert (openpi.python, openpi.assets, openpi.links) == (openvla.python, openvla.assets, openvla.links)
    # mappings key by key; null takes out; anything else takes the place of what was there
    assert openpi.exports == {"B": "1"} and openpi.metadata == () and [step.kind for step in openpi.steps] == ["uv_sync", "wheels"]
    assert openpi.name == "openpi" and openvla.exports == {"A": "{src}"}


def test_what_roles_read_of_a_target_holds_what_it_takes_over() -> None:
    data = extended(GOOD)
    assert data["targets"]["openpi"]["imports"] == ["torch"] and not {"extends", "metadata"} & set(data["targets"]["openpi"])
    assert Catalog.parse(data) == Catalog.parse(GOOD) and data["wheels"] is GOOD["wheels"]


def test_a_target_whose_wheel_is_for_another_python_is_refused_where_it_is_wanted() -> None:
    catalog = Catalog.parse(changed("targets/openpi/python", "3.10"))
    assert catalog.select(["openvla"])
    with pytest.raises(
        CatalogError, match=r"target openpi is for Python 3.10, but its wheel flash-attn is for 3.11\. Name the wheel that fits"
    ):
        catalog.select(["openpi"])


def test_targets_that_extend_each_other_are_refused_with_the_chain() -> None:
    for *chain, again in (["a", "a"], ["a", "b", "a"], ["a", "b", "c", "b"]):
        targets = {name: {"extends": base} for name, base in zip(chain, [*chain[1:], again], strict=True)}
        with pytest.raises(CatalogError, match=f"target {chain[-1]}: extends itself: {' -> '.join([*chain, again])}. Take one extends out"):
            Catalog.parse({"targets": targets})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("other", {}, "rlinf_catalog: unknown key other. Known: repositories, wheels"),
        ("repositories", ["x"], "rlinf_catalog.repositories must map names"),
        ("repositories/RLinf", None, "repository RLinf: must be a mapping"),
        ("repositories/-x", {"url": "https://a/b/c"}, "'-x' is not usable as a name"),
        ("repositories/RLinf/uri", "x", "repository RLinf: unknown key uri. Known: url, version"),
        ("repositories/RLinf/name", "other", "repository RLinf: unknown key name"),
        ("repositories/RLinf/url", "", "repository RLinf: url is missing"),
        ("repositories/RLinf/url", "ext::sh", "repository RLinf: the URL 'ext::sh'"),
        ("repositories/RLinf/version", 0.1, "repository RLinf: version must be text; put it in quotes"),
        ("repositories/RLinf/version", "--upload-pack=x", "is not the name of a branch, tag or commit"),
        ("repositories/RLinf/version", "a..b", "is not the name of a branch, tag or commit"),
        ("repositories/RLinf/lfs", "no", "repository RLinf: lfs must be true or false"),
        ("wheels/flash-attn/url", "https://example.org/x.zip", "'x.zip' is not the name of a wheel"),
        ("wheels/flash-attn/url", "git@example.org:a/x-1-py3-none-any.whl", "allowed are http, https"),
        ("wheels/flash-attn/sha256", "ABC", "wheel flash-attn: sha256 'ABC' is not 64"),
        ("assets/physx/dest", "../x", "asset physx: dest: '../x' must be a relative path"),
        ("assets/physx/dest", "/x", "must be a relative path"),
        ("assets/physx/dest", "~/x", "must be a relative path"),
        ("assets/physx/dest", None, "asset physx: dest is missing"),
        ("targets/openvla", [], "target openvla: must be a mapping"),
        ("targets/openvla/name", "x", "target openvla: unknown key name. Known: project"),
        ("targets/openvla/project", "Other", "there is no repository 'Other'"),
        ("targets/openvla/python", 3.1, "python must be a version like '3.11', in quotes; it is 3.1"),
        ("targets/openvla/python", "2.7", "python must be a version"),
        ("targets/openvla/steps", [], "steps must be a list of at least one step"),
        ("targets/openvla/steps", "uv_sync", "steps must be a list of at least one step"),
        ("targets/openvla/steps/0", {"uv_sync": [], "wheels": ["x"]}, "step 1: must have exactly one of"),
        ("targets/openvla/steps/0", {"pip": []}, "step 1: must have exactly one of uv_sync"),
        ("targets/openvla/steps/0", "uv_sync", "step 1: must have exactly one of"),
        ("targets/openvla/steps/0", {"uv_sync": "embodied"}, "step 1: uv_sync must be a list"),
        ("targets/openvla/steps/0", {"uv_sync": [5]}, "step 1: uv_sync must be a list of texts"),
        ("targets/openvla/steps/0", {"uv_sync": ["--all-extras"]}, "'--all-extras' is not usable as a name"),
        ("targets/openvla/steps/0", {"uv_sync": [], "env": {}}, r"step 1 \(uv_sync\): unknown option env. Known: none"),
        ("targets/openvla/steps/1", {"editable": ["LIBERO"]}, "step 2: editable must be a name"),
        ("targets/openvla/steps/1", {"editable": "libero"}, "there is no repository 'libero' in the catalogue"),
        ("targets/openvla/steps/3", {"wheels": ["apex"]}, "there is no wheel 'apex'"),
        ("targets/openvla/steps/2", {"requirements": ["-r evil"]}, "is an option, not a requirement"),
        ("targets/openvla/steps/2", {"requirements": [" --index-url=x"]}, "is an option, not a requirement"),
        ("targets/openvla/steps/2", {"requirements": ["-r a.txt"]}, "is an option, not a requirement"),
        ("targets/openvla/steps/2", {"requirements": ["six\n--index-url x"]}, "is not one requirement"),
        ("targets/openvla/steps/2", {"requirements": ["../a.txt"]}, "must be a relative path"),
        ("targets/openvla/steps/2", {"requirements": [None]}, "must be a list of texts"),
        ("targets/openvla/steps/2/build_isolation", "no", "step 3: build_isolation must be true or false"),
        ("targets/openvla/steps/2/env", {"X": 1}, "step 3: env: X must be text"),
        ("targets/openvla/steps/3", {"wheel": "flash-attn"}, "step 4: must have exactly one of"),
        ("targets/openvla/steps/1/subdirectory", "../x", "step 2: subdirectory: '../x' must be a relative path"),
        ("targets/openvla/steps/1/subdirectory", 5, "step 2: subdirectory must be text"),
        ("targets/openvla/steps/5", {"overlay": "transformers", "from": "openpi"}, r"step 6 \(overlay\): path is missing"),
        ("targets/openvla/steps/5/from", "--x", "step 6: from: '--x' is not usable as a name"),
        ("targets/openvla/steps/5/from", "Transformers", "overlay transformers: transformers cannot be overlaid by itself"),
        ("targets/openvla/steps/5/path", "/x", "step 6: path: '/x' must be a relative path"),
        ("targets/openvla/steps/0", {"overlay": "a", "from": "b", "path": "c"}, "overlay a: nothing is installed before it. Put it after"),
        ("targets/openvla/steps/6", {"overlay": "transformers", "from": "b", "path": "c"}, "transformers is overlaid already"),
        ("targets/openvla/steps/6", {"uninstall": ["OpenPi"]}, "uninstall OpenPi: OpenPi is needed by overlay transformers, an earlier step"),
        ("targets/openvla/steps/6", {"script": "SIM"}, r"step 7 \(script\): run is missing"),
        ("targets/openvla/steps/6/script", "other", "there is no repository 'other'"),
        ("targets/openvla/steps/6/run", [], "step 7: run must be a program and its arguments"),
        ("targets/openvla/steps/6/run", "./setup.sh", "step 7: run must be a list of texts"),
        ("targets/openvla/steps/6/env", {"A=B": "1"}, "step 7: env: 'A=B' is not the name of an environment variable"),
        ("targets/openvla/steps/6/removes", ["../x"], "step 7: removes: '../x' must be a relative path"),
        ("targets/openvla/steps/6/creates", "x", r"step 7 \(script\): unknown option creates"),
        ("targets/openvla/steps/6/installs", {}, "step 7: installs must be a list of steps"),
        ("targets/openvla/steps/6/installs/0", {"script": "SIM", "run": ["x"]}, "step 7: installs: step 1: a script cannot be inside"),
        ("targets/openvla/steps/6/installs/0/package", "other", "there is no repository 'other'"),
        ("targets/openvla/steps/6/installs/1/dependencies", "no", "installs: step 2: dependencies must be true or false"),
        ("targets/openvla/metadata", {}, "target openvla: metadata must be a list of mappings"),
        ("targets/openvla/metadata/0", {"name": "x"}, "metadata: 1: must have name, version and requires_dist, and nothing else"),
        ("targets/openvla/metadata/0/version", 2.1, "metadata: 1: 2.1 is not usable as a name"),
        ("targets/openvla/build_on_node/x y", {}, "build_on_node: 'x y' is not usable as a name"),
        ("targets/openvla/build_on_node/x", {"need": []}, "build_on_node: x: unknown key need. Known: needs, env"),
        ("targets/openvla/build_on_node/x", {"needs": ["/bin/x"]}, "build_on_node: x: '/bin/x' is not usable as a name"),
        ("targets/openvla/licences", {"a b": "x"}, "licences: 'a b' is not the name of a variable"),
        ("targets/openvla/licences", {"x": True}, "licences: x must be text"),
        ("targets/openpi/extends", "other", "target openpi: extends 'other', which is no target of the catalogue. Known: openpi, openvla"),
        ("targets/openpi/extends", ["openvla"], "target openpi: extends"),
        ("targets/openpi/extends", "openpi", "target openpi: extends itself: openpi -> openpi"),
        ("wheels/flash-attn/python", 3.1, "wheel flash-attn: python must be text"),
        ("wheels/flash-attn/python", "cp311", "wheel flash-attn: python must be a version like '3.11'"),
        ("targets/openvla/assets", "physx", "target openvla: assets must be a list of texts"),
        ("targets/openvla/assets", ["other"], "there is no asset 'other'"),
        ("targets/openvla/exports", ["A=1"], "target openvla: exports must be a mapping"),
        ("targets/openvla/files", {"x": 5}, "target openvla: files: x must be text"),
        ("targets/openvla/links", {"/etc": "x"}, "links: '/etc' must be a relative path"),
        ("targets/openvla/imports", {"torch": 1}, "imports must be a list of texts"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(path: str, value: Any, said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        Catalog.parse(changed(path, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from([*STEPS, "url", "steps", "env"]), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = [
    "repositories", "repositories/RLinf", "repositories/RLinf/url", "wheels/flash-attn", "wheels/flash-attn/url", "assets/physx", "targets",
    "targets/openvla", "targets/openvla/steps", "targets/openvla/steps/0", "targets/openvla/steps/2/requirements", "targets/openvla/assets",
    "targets/openvla/steps/5", "targets/openvla/steps/6", "targets/openvla/steps/6/run", "targets/openvla/steps/6/installs",
    "targets/openvla/steps/6/installs/1", "targets/openvla/metadata", "targets/openvla/metadata/0", "targets/openvla/build_on_node",
    "targets/openvla/build_on_node/Engine_Torch", "targets/openvla/licences", "targets/openpi", "targets/openpi/extends",
    "targets/openvla/links", "targets/openvla/files", "targets/openvla/exports", "targets/openvla/imports", "targets/openvla/python",
]  # fmt: skip


@settings(max_examples=300)
@given(st.sampled_from(PLACES), JSON)
def test_any_value_anywhere_is_taken_or_refused(path: str, value: Any) -> None:
    """Never another exception, which would be a traceback for the user."""
    try:
        Catalog.parse(changed(path, value))
    except CatalogError as error:
        assert str(error)


# -- choosing ------------------------------------------------------------------------------------------------------------------


def test_the_closure_of_targets() -> None:
    catalog = Catalog.parse(GOOD)
    found = catalog.closure(["openvla", "openvla"])
    assert [entry["name"] for entry in found["repositories"]] == ["RLinf", "LIBERO", "SIM", "tools"]
    assert found["assets"] == [
        {"name": "physx", "url": "https://example.org/x.zip", "dest": ".sapien/physx/1", "sha256": None, "unpack": True, "strip": False}
    ]
    left = catalog.closure(["openvla"], ["physx", "flash-attn"])
    assert left["assets"] == left["wheels"] == [] and left["repositories"] == found["repositories"]


def test_a_url_without_a_host_matters_to_who_wants_it() -> None:
    """Its variable is not set; the target says which that is, and to what it must be set."""
    catalog = Catalog.parse(GOOD)
    assert catalog.closure(["openvla"])["wheels"]
    said = r"target openpi: unset cannot be fetched, since the URL '/kit/kit-1-\S+whl' has no host. For this target, set rlinf_index to the index"
    with pytest.raises(CatalogError, match=said):
        catalog.closure(["openvla", "openpi"])
    assert [entry["name"] for entry in catalog.closure(["openpi"], ["unset"])["wheels"]] == ["flash-attn"]


def test_unknown_names_are_named_with_those_that_there_are() -> None:
    catalog = Catalog.parse(GOOD)
    with pytest.raises(CatalogError, match=r"There is no target 'gr00t'\. Known targets: openpi, openvla"):
        catalog.select(["gr00t"])
    with pytest.raises(CatalogError, match="rlinf_leave_out: 'LIBERO' is neither"):
        catalog.closure(["openvla"], ["LIBERO"])


@given(st.text())
def test_what_is_taken_for_a_path_stays_below(text: str) -> None:
    try:
        check_relative(text, "it")
    except CatalogError:
        return
    place = Path("/base") / text
    assert place.is_relative_to("/base") and ".." not in place.parts and place != Path("/base")


@given(st.text())
def test_what_is_taken_for_a_ref_is_no_option_and_no_range(text: str) -> None:
    try:
        check_ref(text, "it")
    except CatalogError:
        return
    assert not text.startswith("-") and not set(text) & set(" ~^:?*[\\\n\0@{") and ".." not in text


# -- releases of distributions, and what targets need of them


RELEASE = {"suites": {"debian": ["bookworm"]}, "components": ["main"], "keyring": "/usr/share/keyrings/debian.gpg"}


def test_a_release_says_where_its_packages_are() -> None:
    release = Catalog.parse({"releases": {"debian-12": {**RELEASE, "renames": {"libfoo": "libfoo2", "libbar": ""}}}}).releases["debian-12"]
    assert release.suites == {"debian": ("bookworm",)} and renamed(["libbar", "libfoo", "git"], release.renames) == ["git", "libfoo2"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (["bookworm"], "release debian-12 must be a mapping"),
        ({**RELEASE, "mirror": "x"}, "release debian-12: unknown key mirror. Known: suites, components, keyring, renames."),
        ({**RELEASE, "keyring": None}, "release debian-12: keyring is missing."),
        ({**RELEASE, "keyring": "debian.gpg"}, "release debian-12: keyring: 'debian.gpg' must be an absolute path"),
        ({**RELEASE, "keyring": 1}, "release debian-12: keyring must be text"),
        ({**RELEASE, "suites": ["bookworm"]}, "release debian-12: suites must be a mapping"),
        ({**RELEASE, "suites": {"debian": "bookworm"}}, "release debian-12: suites: debian must be a list of texts"),
        ({**RELEASE, "suites": {"debian": ["[trusted=yes]"]}}, "release debian-12: suites: debian must be a list of names"),
        ({**RELEASE, "components": []}, "release debian-12: components is missing"),
        ({**RELEASE, "renames": {"--purge": "x"}}, "release debian-12: renames: '--purge' is not the name of a package"),
        ({**RELEASE, "renames": {"libfoo": 2}}, "release debian-12: renames: libfoo must be text"),
    ],
)
def test_a_release_that_cannot_be_meant(entry: Any, text: str) -> None:
    with pytest.raises(CatalogError, match=re.escape(text)):
        Catalog.parse({"releases": {"debian-12": entry}})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"system_packages": "git"}, "target t: system_packages must be a list of texts"),
        ({"system_packages": ["-o", "git"]}, "target t: system_packages: '-o' is not the name of a package"),
        ({"system_files": {"etc/x": ""}}, "target t: system_files: 'etc/x' must be an absolute path"),
        ({"system_files": {"/etc/../x": ""}}, "target t: system_files: '/etc/../x' must be an absolute path"),
        ({"system_files": {"/etc/x": {}}}, "target t: system_files: /etc/x must be text"),
    ],
)
def test_what_a_target_needs_of_the_system_is_checked(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(CatalogError, match=re.escape(text)):
        Catalog.parse(
            {
                "repositories": {"RLinf": {"url": "https://github.com/RLinf/RLinf.git"}},
                "targets": {"t": {"python": "3.11", "steps": [{"uv_sync": []}], **keys}},
            }
        )


def test_only_who_renders_gets_what_rendering_needs() -> None:
    """The union of upstream's sys_deps.sh and what every node has; a reason without Mesa, and compilers only where something is compiled."""
    catalog = Catalog.parse(shipped())
    for target in catalog.targets.values():
        packages = packages_by_release(catalog, [target], ["git"])
        renders = target.name != "reason"
        assert ("libegl1" in packages["debian-12"]) is renders and bool(target.system_files) is renders
        assert ("build-essential" in packages["ubuntu-22.04"]) is bool(target.build_on_node)
        assert set(packages) == {"", "debian-12", "ubuntu-22.04"} and all("git" in names for names in packages.values())
    assert all(json.loads(text)["file_format_version"] == "1.0.0" for text in catalog.targets["openvla"].system_files.values())
