# SPDX-License-Identifier: GPL-3.0-or-later
"""Which parameters may hold a secret, and that none comes out of a module's result, however it ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
MODULES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "plugins" / "modules").glob("rlinf_*.py"))
SECRET = "s3cr3t-w0rd"

# what a login may stand in: finish() masks those of every URL in the arguments, the rest of the URL stays readable
URLS = frozenset(
    {
        *("index_url", "proxy", "url_rewrites", "repos.url", "wheels.url", "assets.url", "interpreters.url", "catalog"),
        *("releases.sources.url", "origin", "upstream", "fork_url", "upstream_url", "requirements", "control_requirements"),
    }
)
# whose names sound like a secret and are none: a package is taken by the key of its archive
HARMLESS = frozenset({"releases.sources.keyring", "signing_key", "trusted_signers"})
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


def test_a_name_that_ansible_takes_for_a_secret_is_answered_for() -> None:
    """Ansible itself warns of such names where ``no_log`` is not set either way."""
    from ansible.module_utils.basic import PASSWORD_MATCH

    unset = {f"{module}: {name}" for module, name, option in specs() if PASSWORD_MATCH.search(name) and option.get("no_log") is None}
    assert not unset


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


@pytest.mark.parametrize(("module", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_no_result_holds_a_secret(run_module: Run, tmp_path: Path, module: str, arguments: dict[str, Any]) -> None:
    network = {"bundle_dir": str(tmp_path / "bundle"), "timeout": 1, "url_rewrites": {}}
    for check in (True, False):
        try:
            result = run_module(module, {**network, **arguments}, check=check, diff=True)
        except ModuleFailed as error:
            result = error.result
        assert SECRET not in str(result), result
    held = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not held
