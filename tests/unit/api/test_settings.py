"""The operators' settings of the queue, from each place where they may be set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings, ExposedStartError

NAMES = {
    "MAX_ACTIVE": "7",
    "QUEUE_MODE": "reject",
    "QUEUE_MAX": "11",
    "QUEUE_TIMEOUT_S": "13.5",
    "REQUEST_TIMEOUT_S": "17",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without settings, and none in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("PENSTOCK_") or name in NAMES:
            monkeypatch.delenv(name)
    return tmp_path


def found() -> tuple[object, ...]:
    s = ApiSettings()
    return s.max_active, s.queue_mode, s.queue_max, s.queue_timeout_s, s.request_timeout_s


GIVEN = (7, "reject", 11, 13.5, 17.0)


def test_without_any_the_queue_takes_what_comes():
    assert found() == (None, "queue", 1_000_000, 120.0, 600.0)


@pytest.mark.parametrize("prefix", ["", "PENSTOCK_"])
def test_by_environment(monkeypatch, prefix):
    for name, value in NAMES.items():
        monkeypatch.setenv(prefix + name, value)
    assert found() == GIVEN


@pytest.mark.parametrize("prefix", ["", "PENSTOCK_"])
def test_by_dotenv(elsewhere, prefix):
    (elsewhere / ".env").write_text("".join(f"{prefix}{name}={value}\n" for name, value in NAMES.items()))
    assert found() == GIVEN


def test_by_toml(elsewhere):
    (elsewhere / "penstock.toml").write_text(
        'max_active = 7\nqueue_mode = "reject"\nqueue_max = 11\nqueue_timeout_s = 13.5\nrequest_timeout_s = 17\n'
        "tenant_queue_max = 5\n[tenants.alice]\nweight = 3\n[tenants.bob]\nqueue_max = 9\nmax_active = 2\n"
        '[api_keys]\nalice = "sk-alice"\nbob = "sk-bob"\n'
    )
    assert found() == GIVEN
    s = ApiSettings()
    assert {name: key.get_secret_value() for name, key in s.api_keys.items()} == {
        "alice": "sk-alice",
        "bob": "sk-bob",
    }
    assert "sk-alice" not in repr(s)
    views = [s.tenant(name) for name in ("alice", "bob", "another")]
    assert [(t.weight, t.queue_max, t.max_active) for t in views] == [(3, 5, None), (1, 9, 2), (1, 5, None)]


def test_the_environment_goes_before_the_files(elsewhere, monkeypatch):
    (elsewhere / "penstock.toml").write_text("max_active = 1\nqueue_max = 1\n")
    (elsewhere / ".env").write_text("QUEUE_MAX=2\n")
    monkeypatch.setenv("MAX_ACTIVE", "3")
    s = ApiSettings()
    assert (s.max_active, s.queue_max) == (3, 2)
    (elsewhere / ".env").write_text("PENSTOCK_MAX_ACTIVE=2\n")
    assert ApiSettings().max_active == 3
    monkeypatch.setenv("PENSTOCK_MAX_ACTIVE", "4")
    assert ApiSettings().max_active == 4
    assert ApiSettings(max_active=5).max_active == 5


def test_keys_and_tenants_by_environment(monkeypatch):
    monkeypatch.setenv("PENSTOCK_API_KEYS", '{"alice": "sk-a"}')
    monkeypatch.setenv("PENSTOCK_TENANTS", '{"alice": {"weight": 2.5}}')
    s = ApiSettings()
    assert (s.api_keys["alice"].get_secret_value(), s.tenant("alice").weight) == ("sk-a", 2.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_ACTIVE", "0"),
        ("QUEUE_MODE", "drop"),
        ("QUEUE_MAX", "0"),
        ("QUEUE_TIMEOUT_S", "0"),
        ("REQUEST_TIMEOUT_S", "-1"),
        ("PENSTOCK_API_KEYS", '{"a b": "k"}'),
        ("PENSTOCK_API_KEYS", '{"a": ""}'),
        ("PENSTOCK_API_KEYS", '{"a": "k", "b": "k"}'),
        ("PENSTOCK_TENANTS", '{"a": {"weight": 0}}'),
        ("PENSTOCK_TENANTS", '{"a": {"wieght": 2}}'),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        ApiSettings()
    assert name.removeprefix("PENSTOCK_").lower() in str(refused.value).lower()
    assert '"k"' not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.7", "::1", "localhost"])
def test_a_keyless_api_serves_this_machine(host):
    ApiSettings(host=host).check_reach()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "gpu.example.com"])
def test_a_keyless_api_serves_others_only_if_told(host, monkeypatch):
    with pytest.raises(ExposedStartError, match="without-keys"):
        ApiSettings(host=host).check_reach()
    ApiSettings(host=host, without_keys=True).check_reach()
    ApiSettings(host=host, api_keys={"alice": "sk-alice"}).check_reach()
    monkeypatch.setenv("PENSTOCK_WITHOUT_KEYS", "true")
    ApiSettings(host=host).check_reach()


def test_lists_by_environment(monkeypatch, elsewhere):
    (elsewhere / "penstock.toml").write_text('allowed_hosts = ["x.example", "y.example"]\n')
    assert ApiSettings().allowed_hosts == ("x.example", "y.example")
    for text in ("a.example,b.example", '["a.example", "b.example"]'):
        monkeypatch.setenv("PENSTOCK_ALLOWED_HOSTS", text)
        assert ApiSettings().allowed_hosts == ("a.example", "b.example")
