"""Names of settings that nobody knows are refused, with the one that was meant; all that we know are known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.server.errors import CommandFailed, starting
from penstock.server.names import NamesStartError, check_names
from penstock.server.settings import VARIABLES, fields
from tests.environment import clean
from tests.processes import ROOT

KUBERNETES = {
    "PENSTOCK_SERVICE_HOST": "10.0.0.1",
    "PENSTOCK_SERVICE_PORT": "8000",
    "PENSTOCK_SERVICE_PORT_HTTP": "8000",
    "PENSTOCK_PORT": "tcp://10.0.0.1:8000",
    "PENSTOCK_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "PENSTOCK_PORT_8000_TCP_PROTO": "tcp",
    "PENSTOCK_PORT_8000_TCP_PORT": "8000",
    "PENSTOCK_PORT_8000_TCP_ADDR": "10.0.0.1",
    "PENSTOCK_REDIS_MASTER_SERVICE_HOST": "10.0.0.2",
    "PENSTOCK_REDIS_MASTER_PORT": "tcp://10.0.0.2:6379",
    "PENSTOCK_METRICS_PORT": "tcp://10.0.0.3:9100",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - clean().keys():
        monkeypatch.delenv(name)
    monkeypatch.delenv("PENSTOCK_SETTINGS_FILE")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("PENSTOCK_MODLE", "did you mean PENSTOCK_MODEL?"),
        ("PENSTOCK_REDISURL", "did you mean PENSTOCK_REDIS_URL?"),
        ("PENSTOCK_BATCH_LEASE", "did you mean PENSTOCK_BATCH_LEASE_S?"),
        ("PENSTOCK_MAXWAIT_S", "did you mean PENSTOCK_MAX_WAIT_S?"),
        ("PENSTOCK_IMAGE", "docs/reference/configuration.md lists all of them"),
        ("PENSTOCK_VERSION", "docs/reference/configuration.md lists all of them"),
        ("PENSTOCK_QWQWQWQWQW", "docs/reference/configuration.md lists all of them"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch, name, advice):
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(CommandFailed) as refused:
        starting("flower", lambda: pytest.fail("it was started"))
    assert (
        refused.value.message
        == f"unknown environment variable {name}: {advice}; a variable of your own needs another prefix"
    )


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("PENSTOCK_MODLE", "")
    check_names()


def test_an_unknown_key_of_the_file_is_refused_with_the_nearest_name(elsewhere):
    (elsewhere / "penstock.toml").write_text(
        "modle = 'x'\nQUEUE_MAX = 3\nport = 8080\n[tenant.alice]\nweight = 2\n"
    )
    with pytest.raises(NamesStartError) as refused:
        check_names()
    assert str(refused.value) == (
        "penstock.toml: modle: there is no such setting: did you mean model?; "
        "penstock.toml: QUEUE_MAX: there is no such setting: did you mean queue_max?; "
        "penstock.toml: tenant: there is no such setting: did you mean tenants?"
    )


def test_every_setting_of_every_process_is_known_in_both(elsewhere, monkeypatch):
    for name in fields():
        monkeypatch.setenv(f"PENSTOCK_{name.upper()}", "x")
    for name in VARIABLES:
        monkeypatch.setenv(name, "penstock.toml")
    keys = "".join(f"{name} = 'x'\n" for name in fields() if name != "tenants")
    (elsewhere / "penstock.toml").write_text(
        f"{keys}[tenants.alice]\nweight = 2\n[pools.chat]\nmodel = 'x'\n"
    )
    check_names()


def test_what_kubernetes_sets_is_known(monkeypatch):
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    check_names()


@pytest.mark.parametrize("text", ["model = ", "model = '\xff'"])
def test_a_file_that_cannot_be_read_is_named(elsewhere, text):
    (elsewhere / "penstock.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(NamesStartError, match=r"^penstock.toml cannot be read: "):
        check_names()


def test_a_named_file_must_be_there(elsewhere, monkeypatch):
    check_names()
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", "other.toml")
    with pytest.raises(NamesStartError, match=r"^PENSTOCK_SETTINGS_FILE names other.toml, and there is no "):
        check_names()
    (elsewhere / "other.toml").write_text("modle = 'x'")
    with pytest.raises(NamesStartError, match=r"^other.toml: modle: "):
        check_names()


@pytest.mark.parametrize("command", ["up", "api", "coordinator", "worker run", "flower"])
def test_every_command_of_the_server_checks(tmp_path, command):
    env = clean() | {"PYTHONPATH": str(ROOT), "PENSTOCK_MODLE": "x"}
    del env["PENSTOCK_SETTINGS_FILE"]
    argv = [sys.executable, "-P", "-m", "penstock", *command.split()]
    ran = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    told = f"penstock {command.split()[0]}: unknown environment variable PENSTOCK_MODLE: did you mean PENSTOCK_MODEL?;"
    assert (ran.returncode, ran.stderr.startswith(told)) == (1, True), ran.stderr


def test_every_name_in_the_product_is_in_the_register():
    packages = (
        "api",
        "broker",
        "coordinator",
        "jobs",
        "monitoring",
        "penstock",
        "storage",
        "workers",
        "deploy",
        "tools",
    )
    files = [
        path
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".Dockerfile"}
    ]
    files += [ROOT / "docker-compose.yml", ROOT / ".env.example", ROOT / "Makefile"]
    assert len(files) > 100
    known = {f"PENSTOCK_{name.upper()}" for name in fields()} | VARIABLES.keys() | KUBERNETES.keys()
    for path in files:  # _PENSTOCK_COMPLETE is click's
        named = set(re.findall(r"(?<!_)PENSTOCK_[A-Z][A-Z0-9_]*[A-Z]", Path(path).read_text()))
        assert named <= known, path
