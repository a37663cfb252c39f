# SPDX-License-Identifier: GPL-3.0-or-later
"""What a checkout refers to is led to the bundle's own mirrors and wheels, and to nothing that is merely called the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError, PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._journal import Journal
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._patch import Plan, patch, plan, restore
from tests.support.checkouts import BRANCH, PYPROJECT, REQUIREMENTS, TAG, WHEEL, WHEEL_URL, make_bundle, make_checkout, snapshot, status
from tests.support.kills import killed_at
from tests.support.origins import git


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle") / "bundle"
    make_bundle(root)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "project")


def planned(bundle: Path, tmp_path: Path, text: str, name: str = "requirements/a.txt") -> Plan:
    project = tmp_path / "one"
    shutil.rmtree(project, ignore_errors=True)
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / "requirements").mkdir(exist_ok=True)
    (project / name).write_text(text, encoding="utf-8")
    return plan(project, bundle)


def mirror(bundle: Path, name: str) -> str:
    return f"file://{bundle}/repos/{name}.git"


# -- what is led, and what is not ----------------------------------------------------------------------------------------------


def test_rlinf_as_it_is(bundle: Path, project: Path) -> None:
    found = plan(project, bundle)
    assert {(item.file, item.line): item.replacement for item in found.references} == {
        ("requirements/embodied/envs/maniskill.txt", 2): f"git+{mirror(bundle, 'github.com/haosulab/ManiSkill')}@{TAG}",
        ("requirements/embodied/models/openpi.txt", 2): f"git+{mirror(bundle, 'github.com/RLinf/openpi')}",
        ("requirements/embodied/models/openvla.txt", 1): f"git+{mirror(bundle, 'github.com/openvla/openvla')}",
        ("requirements/embodied/models/openvla_oft.txt", 1): f"git+{mirror(bundle, 'github.com/moojink/openvla-oft')}",
        ("pyproject.toml", 8): f"git+{mirror(bundle, 'github.com/RLinf/latex2sympy2')}",
    }
    assert found.fallbacks == ()
    assert [message.text for message in found.messages][:2] == [
        f"[local-deps] using local repo ManiSkill -> {bundle}/repos/github.com/haosulab/ManiSkill.git in requirements/embodied/envs/maniskill.txt",
        f"[local-deps] using local repo openpi -> {bundle}/repos/github.com/RLinf/openpi.git in requirements/embodied/models/openpi.txt",
    ]
    assert {message.colour for message in found.messages} == {"green"}


@pytest.mark.parametrize(
    ("url", "name", "tail"),
    [
        ("git+https://github.com/moojink/openvla-oft.git", "github.com/moojink/openvla-oft", ""),
        ("git+https://GitHub.com/MooJink/OpenVLA-OFT", "github.com/moojink/openvla-oft", ""),
        ("git+ssh://git@github.com/openvla/openvla@main", "github.com/openvla/openvla", "@main"),
        ("git+ssh://git@github.com:openvla/openvla.git", "github.com/openvla/openvla", ""),
        (f"git+https://github.com/RLinf/LIBERO.git@{BRANCH}#subdirectory=x", "github.com/RLinf/LIBERO", f"@{BRANCH}#subdirectory=x"),
        ("git+https://token@github.com/RLinf/LIBERO.git", "github.com/RLinf/LIBERO", ""),
        ("git+https://gitlab.example/group/sub/tool", "gitlab.example/group/sub/tool", ""),
    ],
)
def test_a_repository_is_known_however_its_url_is_written(bundle: Path, tmp_path: Path, url: str, name: str, tail: str) -> None:
    (found,) = planned(bundle, tmp_path, f"n @ {url}").references
    assert found.replacement == f"git+{mirror(bundle, name)}{tail}"


def test_a_commit_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    commit = git("rev-parse", "HEAD", cwd=bundle / "repos/github.com/RLinf/LIBERO.git")
    url = "n @ git+https://github.com/RLinf/LIBERO@"
    assert [bool(planned(bundle, tmp_path, url + ref).fallbacks) for ref in (commit, commit[:10], "0" * 40)] == [False, False, True]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("git+https://github.com/fork/openvla.git", "remote fallback for repo openvla (not referenced) in requirements/a.txt"),
        ("git+https://gitlab.com/openvla/openvla.git", "remote fallback for repo openvla (not referenced) in requirements/a.txt"),
        ("git+https://github.com/openvla/openvla-oft", "remote fallback for repo openvla-oft (not referenced) in requirements/a.txt"),
        ("git+https://gitlab.example/Group/sub/tool", "remote fallback for repo tool (not referenced) in requirements/a.txt"),
        ("git+https://u:secret@h/o/n.git@v1", "remote fallback for repo n (not referenced) in requirements/a.txt"),
        (
            "git+https://u:secret@github.com/openvla/openvla@v9#egg=x",
            "remote fallback for git+https://***@github.com/openvla/openvla@v9#egg=x in requirements/a.txt",
        ),
        ("git+https://github.com/openvla/openvla@", "remote fallback for git+https://github.com/openvla/openvla@ in requirements/a.txt"),
        (
            "git+https://github.com/openvla/openvla@--x",
            "remote fallback for git+https://github.com/openvla/openvla@--x in requirements/a.txt",
        ),
        (
            "git+https://github.com/openvla/openvla@HEAD~1",
            "remote fallback for git+https://github.com/openvla/openvla@HEAD~1 in requirements/a.txt",
        ),
        ("git+https://${HOST}/o/n", "remote fallback for git+https://${HOST}/o/n in requirements/a.txt"),
        (
            "git+https://github.com/openvla/openvla@${REF}",
            "remote fallback for git+https://github.com/openvla/openvla@${REF} in requirements/a.txt",
        ),
        ("https://h/n-1.tar.gz", "remote fallback for https://h/n-1.tar.gz in requirements/a.txt"),
        ("https://h/n-1-py3-none-any.whl", "remote wheel fallback https://h/n-1-py3-none-any.whl in requirements/a.txt"),
    ],
)
def test_what_the_bundle_does_not_have_is_said(bundle: Path, tmp_path: Path, url: str, message: str) -> None:
    found = planned(bundle, tmp_path, f"n @ {url}")
    assert [(item.colour, item.text) for item in found.messages] == [("yellow", f"[local-deps] {message}")]
    assert found.changes == () and len(found.fallbacks) == 1 and found.fallbacks[0].reason
    assert "secret" not in str(found.references)


def test_a_wheel_that_the_manifest_does_not_list_is_not_referred_to(bundle: Path, tmp_path: Path) -> None:
    sealed = Bundle(tmp_path / "sealed")
    shutil.copytree(bundle, sealed.root, symlinks=True)
    url = "n @ https://h/n-1-py3-none-any.whl"
    for listed in (True, False):
        (sealed.wheels / "n-1-py3-none-any.whl").unlink(missing_ok=True)
        if listed:
            (sealed.wheels / "n-1-py3-none-any.whl").write_bytes(b"a wheel")
        _bundle.seal(sealed)
        (sealed.wheels / "n-1-py3-none-any.whl").write_bytes(b"a wheel")
        assert bool(planned(sealed.root, tmp_path, url).fallbacks) is not listed


def test_the_refs_of_sources_are_looked_for_as_what_they_are(bundle: Path, tmp_path: Path) -> None:
    git_url = 'git = "https://github.com/openvla/openvla"'
    entries = [f'tag = "{TAG}"', f'branch = "{BRANCH}"', f'tag = "{BRANCH}"', f'branch = "{TAG}"', f'rev = "{TAG}"']
    sources = "".join(f"s{number} = {{ {git_url}, {entry} }}\n" for number, entry in enumerate(entries))
    found = planned(bundle, tmp_path, f"[tool.uv.sources]\n{sources}", "pyproject.toml")
    assert [item.replacement is not None for item in found.references] == [True, True, False, False, True]
    (change, _lock) = found.changes
    assert change.after and change.after.decode().count(f'git = "{mirror(bundle, "github.com/openvla/openvla")}"') == 3


def test_a_wheel_is_known_by_its_url(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    make_bundle(bundle, (), {WHEEL: b"a wheel", "empty-1-py3-none-any.whl": b""})
    local = f"file://{bundle}/wheels/{WHEEL}"
    url, escaped = WHEEL_URL, WHEEL_URL.replace("+", "%2B")
    lines = (
        url,
        escaped,
        f"{url}#sha256={hashlib.sha256(b'a wheel').hexdigest()}",
        f"{url}#sha256=00",
        f"{url} --hash=sha256:00 --hash=sha256:AA",
        "https://fork.example/" + WHEEL,
        f"https://${{MIRROR}}/{WHEEL}",
        "https://h/empty-1-py3-none-any.whl",
    )

    def answers() -> list[str | None]:
        return [planned(bundle, tmp_path, f"flash-attn @ {line}").references[0].replacement for line in lines]

    # without records, as in a bundle that was adopted, the name decides, and the digest if one is asked for
    assert answers() == [local, local, f"{local}#sha256={hashlib.sha256(b'a wheel').hexdigest()}", None, None, local, None, None]
    (bundle / "records").mkdir()
    (bundle / "records/urls.json").write_text(json.dumps({url: {"sha256": "aa", "size": 7}}), encoding="utf-8")
    assert answers() == [local, local, None, None, local, None, None, None]
    (message,) = planned(bundle, tmp_path, url).messages
    assert message.text == f"[local-deps] using local wheel {bundle}/wheels/{WHEEL} in requirements/a.txt"


def test_a_variable_is_named_unless_it_is_a_credential(bundle: Path, tmp_path: Path) -> None:
    """What host, owner, name or ref are is filled in by pip and uv; user and password change nothing."""
    text = (
        "a @ git+https://${USER}:${TOKEN}@github.com/openvla/openvla@main\n"
        "b @ git+https://${TOKEN}@github.com/${OWNER}/openvla@${REF}\n"
        "c @ https://h/${V_1}/n-1-py3-none-any.whl\n"
    )
    first, second, third = planned(bundle, tmp_path, text).references
    assert first.replacement == f"git+{mirror(bundle, 'github.com/openvla/openvla')}@main"
    assert [item.reason for item in (second, third)] == [
        "what it names is known only when ${OWNER}, ${REF} is filled in",
        "what it names is known only when ${V_1} is filled in",
    ]


def test_a_message_comes_once_for_each_file(bundle: Path, tmp_path: Path) -> None:
    line = "n @ git+https://github.com/openvla/openvla\n"
    found = planned(bundle, tmp_path, line * 2)
    assert len(found.messages) == 1 and len(found.references) == 2


@pytest.mark.parametrize("name", ["with space", "a@b", "a#b", "a${HOME}b", "a;b", "ä'\"b"])
def test_a_bundle_may_lie_anywhere(tmp_path: Path, name: str) -> None:
    """git itself clones what is written, after an installer took the ref off."""
    bundle = tmp_path / name
    make_bundle(bundle, ["github.com/openvla/openvla.git"])
    (found,) = planned(bundle, tmp_path, f"openvla @ git+https://github.com/openvla/openvla@{TAG}").references
    url, at, ref = str(found.replacement).removeprefix("git+").rpartition("@")
    assert (at, ref) == ("@", TAG) and not set(url) & set(" #$;'\"@")
    git("clone", "--quiet", "--branch", ref, url, tmp_path / "clone", cwd=tmp_path)


def test_a_bundle_that_holds_nothing_names_the_remedy(project: Path, tmp_path: Path) -> None:
    for text in ("missing", "empty"):
        with pytest.raises(BundleError, match=rf"No local repositories found: .* is {text}\. .*rlinf\.offline\.download"):
            plan(project, tmp_path / "bundle")
        (tmp_path / "bundle").mkdir(exist_ok=True)


def test_a_project_must_be_one(bundle: Path, project: Path, tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="neither requirements/ nor pyproject"):
        plan(tmp_path, bundle)
    with pytest.raises(PatchError, match="absent is not there"):
        plan(project, bundle, worktrees=[tmp_path / "absent"])


def test_a_file_that_cannot_be_understood_is_named(bundle: Path, project: Path, tmp_path: Path) -> None:
    (project / "pyproject.toml").write_text("[project", encoding="utf-8")
    before = snapshot(project)
    with pytest.raises(PatchError, match=r"pyproject\.toml: .*Nothing was changed"):
        patch(project, bundle, tmp_path / "state")
    assert snapshot(project) == before


def test_only_some_files(bundle: Path, project: Path) -> None:
    found = plan(project, bundle, files=["requirements/embodied/models/openvla.txt"])
    assert [item.file for item in found.references] == ["requirements/embodied/models/openvla.txt"]


def test_links_out_of_the_project_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    text = "openvla @ git+https://github.com/openvla/openvla\n"
    outside = make_checkout(tmp_path / "outside", {"requirements/x.txt": text, "pyproject.toml": PYPROJECT})
    project = make_checkout(tmp_path / "project", {"requirements/real.txt": text, "shared/deep.txt": text})
    (project / "requirements/file.txt").symlink_to(outside / "requirements/x.txt")
    (project / "requirements/folder").symlink_to(outside / "requirements")
    (project / "requirements/twin.txt").symlink_to("real.txt")
    (project / "requirements/inside.txt").symlink_to("../shared/deep.txt")
    (project / "requirements/pipe.txt").symlink_to("/dev/null")
    (project / "pyproject.toml").symlink_to(outside / "pyproject.toml")
    before = snapshot(outside)
    patched = patch(project, bundle, tmp_path / "state")
    assert sorted(item["name"] for item in patched.results) == ["requirements/real.txt", "shared/deep.txt"]
    assert (project / "requirements/twin.txt").is_symlink() and (project / "requirements/inside.txt").is_symlink()
    assert snapshot(outside) == before


OPENVLA = "openvla @ git+https://github.com/openvla/openvla\n"
DEPENDS = f'[project]\nname = "x"\ndependencies = ["{OPENVLA.strip()}"]\n'


def test_what_files_lead_to_is_patched_too(bundle: Path, tmp_path: Path) -> None:
    """By -r, -c and -e, by uv's workspace and its path sources: inside the checkout, each once, however they go round."""
    files = {
        "requirements/a.txt": "-r ../more/base.in\n--constraint 'sub dir/c.in'\n-e ../pkg[x] # why\n-r a.txt\n-r ${SET}.txt\n-r none.txt\n",
        "requirements/sub dir/c.in": OPENVLA,
        "more/base.in": "-r ../../outside/o.txt\n-c ../requirements/a.txt\n-r https://h/r.txt\n" + OPENVLA,
        "pkg/pyproject.toml": DEPENDS,
        "pyproject.toml": """
[tool.uv.workspace]
members = ["packages/*", "", "/absolute", 1]
exclude = ["packages/out"]
[tool.uv.sources]
one = { path = "vendored", editable = true }
two = [{ path = "two.whl" }, { workspace = true }]
""",
        "packages/in/pyproject.toml": DEPENDS,
        "packages/out/pyproject.toml": DEPENDS,
        "packages/none/setup.py": "",
        "vendored/pyproject.toml": DEPENDS,
        "nowhere/pyproject.toml": DEPENDS,
        "uv.lock": "a lock",
        "packages/in/uv.lock": "not of the workspace",
    }
    make_checkout(tmp_path / "outside", {"o.txt": OPENVLA})
    project, state = make_checkout(tmp_path / "project", files), tmp_path / "state"
    before = snapshot(project)
    patched = patch(project, bundle, state)
    assert {item["name"]: item["state"] for item in patched.results} == {
        "more/base.in": "patched",
        "requirements/sub dir/c.in": "patched",
        "packages/in/pyproject.toml": "patched",
        "pkg/pyproject.toml": "patched",
        "vendored/pyproject.toml": "patched",
        "uv.lock": "aside",
    }
    # a target is judged by what its own files lead to
    assert [item.file for item in plan(project, bundle, files=["pyproject.toml"], state_dir=state).references] == [
        "packages/in/pyproject.toml",
        "vendored/pyproject.toml",
    ]
    assert [item.text.partition(" backup ")[0] for item in restore(project, state, purge=True).messages].count(
        "[local-deps] restoring repo pyproject"
    ) == 3
    assert snapshot(project) == before


def test_a_lock_that_git_tracks_comes_back(bundle: Path, tmp_path: Path) -> None:
    project, state = make_checkout(tmp_path / "project", {"pyproject.toml": PYPROJECT, "uv.lock": "a lock\n"}), tmp_path / "state"
    before = snapshot(project)
    patch(project, bundle, state)
    assert status(project).splitlines() == [" M pyproject.toml", " D uv.lock"]
    # uv makes another one meanwhile
    (project / "uv.lock").write_text(f"source = '{bundle.as_uri()}/repos/x'\n", encoding="utf-8")
    assert status(project).splitlines() == [" M pyproject.toml", " M uv.lock"]
    restore(project, state)
    assert status(project) == "" and (project / "uv.lock.patched").is_file()
    restore(project, state, purge=True)
    assert snapshot(project) == before


# -- patched and back ----------------------------------------------------------------------------------------------------------


def test_there_and_back(bundle: Path, project: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (project / "uv.lock").write_text("a lock", encoding="utf-8")
    before = snapshot(project)
    assert patch(project, bundle, state).changed
    assert not (project / "uv.lock").exists()
    untouched = "requirements/reason/megatron.txt"
    assert snapshot(project)[untouched] == before[untouched]
    text = (project / "requirements/embodied/models/openpi.txt").read_bytes().decode()
    assert text == f"# the model\r\nopenpi @ git+{mirror(bundle, 'github.com/RLinf/openpi')}\r\n"
    assert status(project).splitlines() == [f" M {name}" for name in sorted([*REQUIREMENTS, "pyproject.toml"]) if name != untouched]
    again = patch(project, bundle, state)
    assert not again.changed and again.diff == []
    # whoever asks for a plan is told of the originals
    assert plan(project, bundle, state_dir=state).messages == again.messages == patch(project, bundle, state, check=True).messages
    restored = restore(project, state)
    assert [message.text for message in restored.messages] == [
        *(
            f"[local-deps] restoring requirements backup {name}.backup -> {name}"
            for name in sorted(REQUIREMENTS)
            if name != untouched
        ),
        "[local-deps] restoring main pyproject backup pyproject.toml.backup -> pyproject.toml",
        "[local-deps] restoring uv.lock backup uv.lock.backup -> uv.lock",
    ]  # fmt: skip
    assert {message.colour for message in restored.messages} == {"cyan"}
    now = snapshot(project)
    assert {name: now[name] for name in before if not name.startswith(".git/")} == {
        name: what for name, what in before.items() if not name.startswith(".git/")
    }
    assert status(project) == ""
    assert (project / "pyproject.toml.patched").is_file()
    assert restore(project, state, purge=True).changed
    assert snapshot(project) == before


def test_another_bundle_restores_first(bundle: Path, project: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    other = tmp_path / "other"
    make_bundle(other, ["github.com/openvla/openvla.git"])
    before = snapshot(project)
    patch(project, bundle, state)
    moved = patch(project, other, state)
    assert moved.changed and {message.colour for message in moved.messages} == {"cyan", "green", "yellow"}
    assert [item["name"] for item in moved.results] == ["requirements/embodied/models/openvla.txt"]
    assert (project / "pyproject.toml").read_text() == PYPROJECT
    restore(project, state, purge=True)
    assert snapshot(project) == before


def test_nothing_to_replace_writes_nothing(bundle: Path, tmp_path: Path) -> None:
    project = make_checkout(
        tmp_path / "project", {"requirements/a.txt": "numpy", "pyproject.toml": "[project]\nname = 'a'", "uv.lock": "x"}
    )
    before = snapshot(project)
    assert not patch(project, bundle, tmp_path / "state").changed
    assert snapshot(project) == before
    assert not Journal(tmp_path / "state", project).folder.exists()


def test_worktrees_are_patched_too(bundle: Path, project: Path, tmp_path: Path) -> None:
    """One is a worktree of another repository, whose .git is a file."""
    text = '[project]\nname = "x"\ndependencies = ["dlimp @ git+https://github.com/moojink/dlimp_openvla"]'
    source = make_checkout(tmp_path / "source", {"pyproject.toml": text})
    tree = tmp_path / "trees" / "openvla"
    git("worktree", "add", "--quiet", "--detach", tree, cwd=source)
    without = make_checkout(tmp_path / "libero", {"setup.py": ""})
    before, state = snapshot(tree), tmp_path / "state"
    patched = patch(project, bundle, state, worktrees=[tree, without, tree, project])
    message = f"[local-deps] using local repo dlimp_openvla -> {bundle}/repos/github.com/moojink/dlimp_openvla.git in {tree}/pyproject.toml"
    assert [item.text for item in patched.messages].count(message) == 1
    assert status(tree) == " M pyproject.toml"
    assert "*.backup" in (source / ".git/info/exclude").read_text()
    restored = restore(project, state, purge=True)
    lines = [item.text for item in restored.messages]
    assert f"[local-deps] restoring repo pyproject backup {tree}/pyproject.toml.backup -> {tree}/pyproject.toml" in lines
    assert snapshot(tree) == before and status(tree) == ""
    assert "*.backup" not in (source / ".git/info/exclude").read_text()


def test_a_project_without_git(bundle: Path, project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".git")
    before = snapshot(project)
    assert patch(project, bundle, tmp_path / "state").changed
    restore(project, tmp_path / "state", purge=True)
    assert snapshot(project) == before


def test_strict_names_everything_before_anything_is_written(bundle: Path, project: Path, tmp_path: Path) -> None:
    (project / "requirements/a.txt").write_text("a @ git+https://h/o/a@v1\nb @ https://u:secret@h/b-1.zip\n", encoding="utf-8")
    before = snapshot(project)
    with pytest.raises(PatchError) as caught:
        patch(project, bundle, tmp_path / "state", strict=True)
    said = str(caught.value)
    assert "requirements/a.txt:1: git+https://h/o/a@v1: the bundle has no mirror h/o/a.git\n" in said
    assert "requirements/a.txt:2: https://***@h/b-1.zip: " in said and "rlinf.offline.download" in said
    assert [message["kind"] for message in caught.value.details["messages"]].count("remote_repo") == 1
    assert snapshot(project) == before


def test_an_edited_file_is_refused_and_the_next_patch_too(bundle: Path, project: Path, tmp_path: Path) -> None:
    state, edited = tmp_path / "state", project / "requirements/embodied/models/openvla.txt"
    patch(project, bundle, state)
    with edited.open("a", encoding="utf-8") as stream:
        stream.write("\nmine==1\n")
    for attempt in (lambda: restore(project, state, purge=True), lambda: patch(project, bundle, state)):
        with pytest.raises(PatchError, match=rf"1 of \d patched files cannot be restored.*\n{edited} was edited") as caught:
            attempt()
        assert caught.value.details["results"]
    assert edited.read_text().endswith("mine==1\n")
    assert (project / "pyproject.toml").read_text() == PYPROJECT


def test_an_error_while_writing_puts_everything_back(bundle: Path, project: Path, tmp_path: Path) -> None:
    before = snapshot(project)
    # a folder of this name makes the last write fail
    (project / "uv.lock").mkdir()
    with pytest.raises((OSError, PatchError)):
        patch(project, bundle, tmp_path / "state")
    (project / "uv.lock").rmdir()
    assert {name: what for name, what in snapshot(project).items() if not name.endswith((".patched", "exclude"))} == {
        name: what for name, what in before.items() if not name.endswith("exclude")
    }


def test_check_mode_writes_nothing_and_foresees(bundle: Path, project: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    before = snapshot(project)
    foreseen = patch(project, bundle, state, check=True)
    assert foreseen.changed and foreseen.diff and snapshot(project) == before and not state.exists()
    assert patch(project, bundle, state) == foreseen
    patched = snapshot(project)
    foreseen = restore(project, state, purge=True, check=True)
    assert snapshot(project) == patched
    done = restore(project, state, purge=True)
    assert done == foreseen and done.changed
    assert snapshot(project) == before
    assert not restore(project, state, purge=True, check=True).changed and not restore(project, state, purge=True).changed


def test_another_run_is_kept_off(bundle: Path, project: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Journal(state, project).held():
        for attempt in (lambda: patch(project, bundle, state), lambda: restore(project, state)):
            with pytest.raises(OfflineError, match="in use by process"):
                attempt()


def test_every_project_that_has_a_journal_is_restored(bundle: Path, tmp_path: Path) -> None:
    """Wherever a run was killed; one that is refused holds up no other, and one whose checkout is gone is forgotten."""
    state = tmp_path / "state"
    assert not restore(None, state).changed
    projects = [make_checkout(tmp_path / name) for name in ("a", "b", "c", "d")]
    before = [snapshot(project) for project in projects]
    for project in projects[:3]:
        patch(project, bundle, state)
    edited = projects[0] / "pyproject.toml"
    edited.write_text("mine", encoding="utf-8")
    shutil.rmtree(projects[2])
    foreseen = []
    for check in (True, False):
        with pytest.raises(PatchError, match=rf"^1 of 15 patched files cannot be restored.*\n{edited} was edited") as caught:
            restore(None, state, purge=True, check=check)
        foreseen.append(caught.value.details)
    assert foreseen[0] == foreseen[1] and foreseen[0]["counts"] == {"restored": 9, "refused": 1, "kept": 5, "absent": 9}
    assert [snapshot(project) for project in projects[1:2]] == before[1:2]
    # what was used is gone although one file is refused, and git still ignores the backup of that one
    assert not list(projects[0].rglob("*.patched")) and status(projects[0]) == " M pyproject.toml"
    edited.with_name("pyproject.toml.backup").rename(edited)
    done = restore(None, state, purge=True)
    assert done.changed and [item["name"] for item in done.results] == [str(edited)]
    assert snapshot(projects[0]) == before[0] and not list(state.glob("journals/*/"))
    assert not restore(None, state, purge=True).changed


# -- killed --------------------------------------------------------------------------------------------------------------------


def copies(pristine: Path, place: Path) -> Iterator[int]:
    """Count from 1, with a fresh copy of *pristine* in *place* each time."""
    for number in range(1, 1000):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(pristine, place, symlinks=True)
        yield number
    raise AssertionError("it never ends")


@pytest.mark.parametrize("restoring", [False, True])
def test_a_kill_at_any_step_then_restored(bundle: Path, tmp_path: Path, restoring: bool) -> None:
    """Patching is killed at each of its steps, then restoring at each of its own; bytes, modes, times and `git status` come back every time."""
    files = {name: REQUIREMENTS[name] for name in ("requirements/embodied/envs/maniskill.txt", "requirements/embodied/models/openpi.txt")}
    place, pristine = tmp_path / "place", tmp_path / "pristine"
    (place / "state").mkdir(parents=True)
    project, state = make_checkout(place / "project", {**files, "pyproject.toml": PYPROJECT, "uv.lock": "a lock"}), place / "state"
    before = snapshot(project)
    if restoring:
        patch(project, bundle, state)
    shutil.copytree(place, pristine, symlinks=True)
    killed = 0
    for number in copies(pristine, place):
        work = (lambda: restore(project, state, purge=True)) if restoring else (lambda: patch(project, bundle, state))
        if not killed_at(number, work):
            break
        killed += 1
        restore(project, state)
        assert status(project) == ""
        assert not [name for name in snapshot(project) if name.endswith((".tmp", ".backup"))]
        restore(project, state, purge=True)
        assert snapshot(project) == before
        assert not list(state.glob("journals/*/"))
    assert killed > 30


def test_patching_over_what_a_killed_run_left(bundle: Path, tmp_path: Path) -> None:
    place, pristine = tmp_path / "place", tmp_path / "pristine"
    (place / "state").mkdir(parents=True)
    name = "requirements/embodied/models/openvla.txt"
    project, state = make_checkout(place / "project", {name: REQUIREMENTS[name]}), place / "state"
    before = snapshot(project)
    shutil.copytree(place, pristine, symlinks=True)
    for number in copies(pristine, place):
        if not killed_at(number, lambda: patch(project, bundle, state)):
            break
        patch(project, bundle, state)
        assert not patch(project, bundle, state).changed
        assert (project / name).read_text() == f"openvla @ git+{mirror(bundle, 'github.com/openvla/openvla')}"
        restore(project, state, purge=True)
        assert snapshot(project) == before
