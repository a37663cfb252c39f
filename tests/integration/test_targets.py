# SPDX-License-Identifier: GPL-3.0-or-later
"""The targets that take more than packages: a script of upstream, files laid over others, a compiler on the node, an environment of the user's."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.demo.cycle import Cycle, PlayFailed, base_python
from tests.integration.conftest import tree

BEHAVIOR, METAWORLD, REASON = TARGETS = ("openvla-oft-behavior", "openpi-metaworld", "reason")


def versions(twice: Any, target: str) -> dict[str, str]:
    return {package["name"]: package["version"] for package in twice.cycle.lock(target)["packages"]}


def compilations(cycle: Cycle) -> int:
    """Return how often the CUDA compiler has compiled something."""
    return [call != "--version" for call in (cycle.toolkit / "calls").read_text(encoding="utf-8").splitlines()].count(True)


def kinds(twice: Any, target: str) -> dict[str, str]:
    return {package["name"]: package["kind"] for package in twice.cycle.lock(target)["packages"]}


def test_the_second_run_changes_nothing(twice):
    twice.assert_unchanged()


def test_only_the_download_uses_the_network(twice):
    twice.assert_offline()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_what_is_locked_and_bundled(twice, target):
    twice.assert_locked(target, {"joylo": "3.7.1", "omnigibson": "3.7.1"} if target == BEHAVIOR else {})
    twice.assert_of_the_bundle(target)


# -- openvla-oft-behavior --------------------------------------------------------------------------------------------------------------


def test_behavior_holds_what_its_last_steps_pin(twice):
    found = versions(twice, BEHAVIOR)
    wanted = {
        "torch": "2.5.1",
        "torchvision": "0.20.1",
        "torchaudio": "2.5.1",
        "click": "8.2.1",
        "protobuf": "3.20.3",
        "ml-dtypes": "0.5.3",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["flash-attn"].startswith("2.7.4.post1+cu12torch2.5") and "pynvml" not in found
    assert (found["cffi"], found["bddl"]) == ("1.17.1", "3.7.1") and kinds(twice, BEHAVIOR)["bddl"] == "git"
    assert sum(name.startswith(("isaacsim", "omniverse")) for name in found) == 26


def test_behaviors_script_has_run_and_deleted_what_is_in_the_way(twice):
    site = next((twice.cycle.prefix(BEHAVIOR) / "venvs" / BEHAVIOR / "lib").glob("python3.*/site-packages"))
    assert [path.name for path in site.glob("isaacsim/extscache/*/pip_prebundle/*")] == ["packaging"]
    assert (site / "cffi-1.17.1.dist-info" / "INSTALLER").read_text(encoding="utf-8").strip() == "pip"
    log = next((twice.cycle.prefix(BEHAVIOR) / "state" / "logs" / BEHAVIOR).glob("script-*.log")).read_text(encoding="utf-8")
    assert "Isaac Sim is there already" in log


def test_isaac_sim_asks_nothing_on_an_activated_node(twice):
    code = "import isaacsim, omnigibson, joylo, torch; print(torch.__version__, omnigibson.__version__)"
    assert twice.activated(BEHAVIOR, code) == "2.5.1 3.7.1\n"


def test_isaac_sim_is_refused_to_whoever_has_not_accepted_its_licence(twice):
    before = tree(twice.cycle.bundle / "targets")
    for play in ("download", "preflight"):
        with pytest.raises(PlayFailed, match="rlinf_accept_nvidia_eula"):
            twice.cycle.play(play, "-e", "rlinf_accept_nvidia_eula=false")
    assert tree(twice.cycle.bundle / "targets") == before


# -- openpi ----------------------------------------------------------------------------------------------------------------------------


def test_openpi_lays_its_files_over_transformers(twice):
    code = "import transformers.models.gemma.modeling_gemma as m, transformers.models.siglip.check as c; print(m.KNOWS_ADARMS, c.check())"
    assert twice.cycle.node_python(METAWORLD, code) == "True True\n"
    assert kinds(twice, METAWORLD)["transformers"] == "overlay"


def test_openpis_client_lies_in_a_subdirectory_and_lerobot_at_a_commit_that_no_ref_names(twice):
    git = twice.cycle.lock(METAWORLD)["git"]
    assert git["openpi-client"]["subdirectory"] == "packages/openpi-client" and git["openpi-client"]["commit"] == git["openpi"]["commit"]
    assert git["lerobot"]["commit"] == twice.cycle.world.commit("huggingface/lerobot", "main~1")


def test_pointers_of_lfs_stay_what_they_are(twice):
    code = "import lerobot, pathlib; print(pathlib.Path(lerobot.__file__).with_name('policy.safetensors').read_text().split()[1])"
    assert twice.cycle.node_python(METAWORLD, code) == "https://git-lfs.github.com/spec/v1\n"


def test_the_order_of_steps_decides_which_gymnasium_there_is(twice):
    brought = [pins["gymnasium"] for pins in (step["pins"] for step in twice.cycle.lock(METAWORLD)["steps"]) if "gymnasium" in pins]
    assert brought == ["0.29.1", "1.2.3"]
    assert "libero" not in {item["package"] for item in twice.cycle.lock(METAWORLD)["editables"]}


def test_openpi_finds_its_tokenizer_where_its_variable_says(twice):
    code = "import os; print(len(open(os.environ['OPENPI_DATA_HOME'] + '/big_vision/paligemma_tokenizer.model', 'rb').read()))"
    assert twice.activated(METAWORLD, code) == "16384\n"


# -- reason ----------------------------------------------------------------------------------------------------------------------------


def test_reason_has_megatron_on_its_path_and_what_the_node_has_compiled_once(twice):
    code = "import megatron.core, transformer_engine_torch as t; print(megatron.core.__version__, t.answer())"
    assert twice.activated(REASON, code) == "0.13.0 2\n"
    assert kinds(twice, REASON)["transformer-engine-torch"] == "source" and kinds(twice, REASON)["apex"] == "wheel"
    assert compilations(twice.cycle) == 1


def test_what_one_node_has_compiled_the_others_get_with_the_bundle(twice):
    cycle = twice.cycle
    serial = cycle.manifest()["serial"]
    assert cycle.play("collect").changed and cycle.play("collect").changed == 0
    (wheel,) = (cycle.bundle / "wheelhouse" / "built").rglob("*.whl")
    assert cycle.manifest()["serial"] == serial + 1 and str(wheel.relative_to(cycle.bundle)) in cycle.manifest()["files"]
    prefix = cycle.work / "gpu02"
    node = {"rlinf_prefix": str(prefix), "rlinf_bundle_dir": str(cycle.bundle), "rlinf_targets": [REASON]}
    inventory = cycle.write_inventory("compiled", {"gpu02": node})
    cycle.play("site", inventory=inventory)
    assert cycle.node_python(REASON, "import transformer_engine_torch as t; print(t.answer())", prefix=prefix) == "2\n"
    assert compilations(cycle) == 1 and not list((prefix / "state").glob("built/*"))


def test_into_an_existing_environment_comes_the_target_and_nothing_else_is_touched(twice):
    cycle = twice.cycle
    venv, prefix = cycle.work / "mine", cycle.work / "gpu03"
    subprocess.run([base_python(), "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python3.*/site-packages"))
    own = site / "mine-1.0.dist-info"
    own.mkdir()
    (own / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (site / "mine.py").write_text("ANSWER = 1\n", encoding="utf-8")
    before = {path: what for path, what in tree(venv).items() if path != "bin/activate"}
    node = {"rlinf_prefix": str(prefix), "rlinf_bundle_dir": str(cycle.bundle), "rlinf_targets": ["reason"]}
    node |= {"rlinf_venv_mode": "existing", "rlinf_venv_path": str(venv), "rlinf_skip_packages": ["transformer-engine-torch"]}
    inventory = cycle.write_inventory("existing", {"gpu03": node})
    cycle.play("prepare", inventory=inventory)
    said = cycle.play("install", inventory=inventory)
    assert said.changed and cycle.play("install", inventory=inventory).changed == 0
    after = tree(venv)
    assert {path: after[path] for path in before} == before
    command = ["bash", "-euc", '. "$0/bin/activate" && python -c "$1"', str(venv)]
    code = "import mine, megatron.core, vllm, importlib.util as u; print(mine.ANSWER, u.find_spec('transformer_engine_torch'))"
    done = subprocess.run([*command, code], env=cycle.environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "1 None\n"
