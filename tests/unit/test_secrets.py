# SPDX-License-Identifier: GPL-3.0-or-later
"""Which parameters may hold a secret, and that none comes out of a module's result, however it ends."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.environments import Site
from tests.support.wheels import build_wheel
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("rlinf_*.py"))
SECRET = "s3cr3t-w0rd"

# what a login may stand in: _module.Module masks those of every URL in the arguments, the rest of the URL stays readable
URLS = frozenset(
    {
        *("index_url", "proxy", "url_rewrites", "repos.url", "wheels.url", "assets.url", "interpreters.url", "catalog"),
        *("releases.sources.url", "origin", "upstream", "fork_url", "upstream_url", "requirements", "control_requirements"),
    }
)
# whose names sound like a secret and are none: a package is taken by the key of its archive
HARMLESS = frozenset({"releases.sources.keyring", "signing_key", "trusted_signers"})
# mappings of anything: what is secret by its name is masked
NAMED = frozenset({"exports"})
# paths, names, what modules of this collection have said of nodes, and what is out of the catalogue, which is no place for secrets
PLAIN = frozenset({"files", "packages", "python", "pythons", "repo_paths", "nodes", "scripts.env"})
WORDS = ("url", "proxy", "pass", "token", "secret", "key", "login", "credential", "header", "auth")


def parameters(spec: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, option in spec.items():
        yield f"{above}{name}", option
        yield from parameters(option.get("options") or {}, f"{above}{name}.")


def specs() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for module in MODULES:
        loaded = importlib.import_module(f"ansible_collections.rlinf.offline.plugins.modules.{module}")
        for name, option in parameters(getattr(loaded, "ARGUMENTS", {})):
            yield module, name, option


def test_every_parameter_that_may_hold_a_secret_is_known() -> None:
    """Whoever adds one decides: a URL is masked by its login, anything else that is secret needs ``no_log: true``."""
    unknown = {
        f"{module}: {name}"
        for module, name, option in specs()
        if any(word in name.rpartition(".")[2] for word in WORDS) and name not in URLS | HARMLESS and not option.get("no_log")
    }
    assert not unknown


def test_every_mapping_of_anything_is_known() -> None:
    """What may stand in it no name of a parameter tells."""
    free = {
        (name, module)
        for module, name, option in specs()
        if "dict" in (option["type"], option.get("elements")) and not option.get("options")
    }
    assert {name for name, _module in free} == {"catalog", "url_rewrites"} | NAMED | PLAIN


def test_a_name_that_ansible_takes_for_a_secret_is_answered_for() -> None:
    """Ansible itself warns of such names where ``no_log`` is not set either way."""
    from ansible.module_utils.basic import PASSWORD_MATCH

    unset = {f"{module}: {name}" for module, name, option in specs() if PASSWORD_MATCH.search(name) and option.get("no_log") is None}
    assert not unset


def test_every_module_masks() -> None:
    """There is one class that does, of which every module is."""
    sources = {name: (PLUGINS / "modules" / f"{name}.py").read_text() for name in MODULES}
    assert not [name for name, source in sources.items() if "AnsibleModule" in source or ("def main" in source) != (" = Module(" in source)]


LOGIN = f"https://me:{SECRET}@127.0.0.1:1/x/y"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("rlinf_repo_mirror", {"repos": [{"name": "a", "url": f"{LOGIN}.git"}]}),
    ("rlinf_repo_mirror", {"repos": [{"name": "a", "url": f"ext::{LOGIN}"}]}),
    ("rlinf_repo_mirror", {"repos": [{"name": "a", "url": "https://h.example/a/b"}], "url_rewrites": {"https://h.example/": f"{LOGIN}/"}}),
    ("rlinf_repo_mirror", {"repos": [], "url_rewrites": {"https://h.example/": LOGIN}}),
    ("rlinf_wheel_cache", {"wheels": [{"name": "a", "url": f"{LOGIN}/a-1-py3-none-any.whl"}]}),
    ("rlinf_wheel_cache", {"wheels": [{"name": "a", "url": f"{LOGIN}/a.txt"}]}),
    ("rlinf_wheel_cache", {"wheels": [{"name": "a", "url": "https://h.example/a-1-py3-none-any.whl"}], "proxy": LOGIN}),
    ("rlinf_asset_cache", {"assets": [{"name": "a", "url": f"{LOGIN}/a.bin", "dest": "a.bin"}]}),
    ("rlinf_asset_cache", {"assets": [], "proxy": LOGIN.replace("https", "socks5")}),
    ("rlinf_tools", {"requirements": "x==1\n", "index_url": LOGIN, "platform": "nonsense", "collection_dir": "/"}),
]


CATALOG = {"repositories": {"a": {"url": LOGIN}}, "wheels": {}, "assets": {}, "targets": {}}
CASES += [
    ("rlinf_interpreter_cache", {"interpreters": [{"name": "a", "url": f"{LOGIN}/a.txt", "python": "3.11.14", "machine": "x86_64"}]}),
    ("rlinf_target_lock", {"catalog": CATALOG, "targets": ["a"]}),
    ("rlinf_target_lock", {"catalog": {}, "targets": ["a"], "index_url": LOGIN}),
    ("rlinf_bundle_check", {"catalog": CATALOG, "targets": ["a"]}),
    ("rlinf_bundle_check", {"catalog": {"repositories": {LOGIN: {}}}, "targets": ["a"], "proxy": LOGIN}),
    ("rlinf_target", {"catalog": CATALOG, "target": "a", "prefix": "/nowhere"}),
    ("rlinf_venv", {"catalog": CATALOG, "target": "a", "prefix": "/nowhere"}),
    (
        "rlinf_venv",
        {"lock": "/nowhere/pylock.toml", "target": "a", "prefix": "/nowhere", "package_source": "index", "index_url": LOGIN, "proxy": LOGIN},
    ),
    ("rlinf_branch_sync", {"origin": f"{LOGIN}.git", "upstream": f"{LOGIN}.git", "cache_dir": "cache"}),
    ("rlinf_branch_sync", {"origin": f"ext::{LOGIN}", "upstream": LOGIN, "cache_dir": "cache", "url_rewrites": {f"{LOGIN}/": f"{LOGIN}/"}}),
    ("rlinf_apt_cache", {"releases": [{"name": "ubuntu-22.04", "packages": ["a"], "sources": [
        {"mirror": "main", "url": LOGIN, "suites": ["jammy"], "components": ["main"], "keyring": "/nowhere"}]}]}),
    ("rlinf_adopt", {"src": "/nowhere", "catalog": CATALOG, "url_rewrites": {f"{LOGIN}/": f"{LOGIN}/"}}),
]  # fmt: skip


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH, in which a module writes what it would log into the file ``log``."""
    folder = tmp_path / "logged"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys, syslog\nsys.modules['systemd'] = None\n"
        f"syslog.syslog = lambda level, text: open({str(folder / 'log')!r}, 'a').write(text)\n"
    )
    return folder


def outcome(run_module: Run, module: str, arguments: dict[str, Any], logged: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Return what a module answers, well or ill, and what it logs."""
    try:
        result = run_module(module, arguments, env={"PYTHONPATH": str(logged)}, **options)
    except ModuleFailed as error:
        result = error.result
    return result, (logged / "log").read_text() if (logged / "log").exists() else ""


@pytest.mark.parametrize(("module", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_no_result_holds_a_secret(run_module: Run, tmp_path: Path, logged: Path, module: str, arguments: dict[str, Any]) -> None:
    spec = importlib.import_module(f"ansible_collections.rlinf.offline.plugins.modules.{module}").ARGUMENTS
    network = {"bundle_dir": str(tmp_path / "bundle"), "timeout": 1, "url_rewrites": {}}
    given = {**{name: value for name, value in network.items() if name in spec}, **arguments}
    given |= {name: str(tmp_path / "there" / str(given[name])) for name in ("cache_dir", "prefix") if name in given}
    for check in (True, False):
        result, log = outcome(run_module, module, given, logged, check=check, diff=True)
        assert SECRET not in json.dumps(result) and "Invoked with" in log and SECRET not in log, result
        assert "This is a defect" not in result.get("msg", ""), result
    held = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not held


CALLED = [module for module in MODULES if next((True for name, _parameter, _option in specs() if name == module), False)]


@pytest.mark.parametrize("module", CALLED)
def test_no_answer_to_wrong_arguments_holds_a_secret(run_module: Run, logged: Path, module: str) -> None:
    """Wherever a login stands, in what is no parameter, too."""
    spec: Mapping[str, Any] = importlib.import_module(f"ansible_collections.rlinf.offline.plugins.modules.{module}").ARGUMENTS

    def filled(options: Mapping[str, Any], **more: str) -> dict[str, Any]:
        return {name: value(option, **more) for name, option in options.items()} | more

    def value(option: Mapping[str, Any], **more: str) -> Any:
        one = filled(option["options"], **more) if option.get("options") else {LOGIN: LOGIN} if "dict" in option.values() else LOGIN
        return [one] if option["type"] == "list" else one

    # what has the wrong type, or is none of the choices, is answered first, then what is no parameter
    plain = {name: option for name, option in spec.items() if option["type"] in ("str", "path", "dict")}
    for arguments in (filled(spec, bogus="1"), filled(plain, bogus=LOGIN, **{LOGIN: LOGIN})):
        result, log = outcome(run_module, module, arguments, logged)
        assert result["failed"] and "invocation" in result and SECRET not in json.dumps(result) + log


def test_no_defect_shows_a_secret(run_module: Run, logged: Path, tmp_path: Path) -> None:
    """An exception that nobody expected is a failure of the module's own, not an end that Ansible shows as it is."""
    (tmp_path / "broken.py").write_text(
        "from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish\n"
        "module = Module({'url': {'type': 'str'}})\n"
        "finish(module, lambda: {}[module.params['url'] + ' https://of:another-w0rd@h.example/'])\n"
    )
    result, log = outcome(run_module, str(tmp_path / "broken"), {"url": LOGIN, "_ansible_tracebacks_for": ["error"]}, logged)
    assert result["msg"].startswith("KeyError: ") and "(broken.py, line 3). This is a defect of rlinf.offline." in result["msg"]
    assert "Traceback (most recent call last)" in result["exception"] and "KeyError" in result["exception"]
    assert not [word for word in (SECRET, "another-w0rd") if word in json.dumps(result) + log]


EXPORTS = {"WANDB_API_KEY": f"{SECRET}-1", "DB_PASSWORD": f"it's {SECRET}", "HF_TOKEN": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.mark.parametrize("mode", ["own", "existing"])
def test_exports_that_are_secret_by_their_names_are_not_shown(run_module: Run, logged: Path, tmp_path: Path, mode: str) -> None:
    """They are where activating needs them, and in no answer: neither the new one nor the one before."""
    site = Site(tmp_path / "bundle", tmp_path / "prefix", run_module)
    lock, environment = site.lock(build_wheel(site.index, "alpha", "1.0")), tmp_path / "mine"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    arguments = {
        "lock": str(lock),
        "target": "openvla",
        "prefix": str(site.prefix),
        "bundle_dir": str(site.bundle),
        "python": sys.executable,
    }
    arguments |= {"mode": mode, **({"path": str(environment)} if mode == "existing" else {})}
    for exports in (EXPORTS, {**EXPORTS, "WANDB_API_KEY": "another-w0rd"}):
        result, log = outcome(run_module, "rlinf_venv", {**arguments, "exports": exports}, logged, diff=True)
        assert result["changed"] and not [word for word in (SECRET, "another-w0rd") if word in json.dumps(result) + log]
        assert "WANDB_API_KEY" in json.dumps(result["diff"]) and "TOKENIZERS_PARALLELISM" in json.dumps(result["diff"])
        assert 'PARALLELISM=\\"false' in json.dumps(result["diff"]).replace("\\\\", "\\")
    script = ((environment if mode == "existing" else site.link) / "bin" / "activate").read_text()
    assert "export WANDB_API_KEY=another-w0rd\n" in script
