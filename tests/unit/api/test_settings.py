"""The operators' settings of the queue, from each place where they may be set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.app import create_app
from api.settings import ApiSettings, NoPepperStartError
from penstock.server.errors import CommandFailed, starting
from penstock.server.settings import UpSettings
from workers.settings import WorkerSettings

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


DEFAULTS = (None, "queue", 1_000_000, 120.0, 600.0)
GIVEN = (7, "reject", 11, 13.5, 17.0)


def test_without_any_the_queue_takes_what_comes():
    assert found() == DEFAULTS


@pytest.mark.parametrize("prefix", ["", "PENSTOCK_"])
def test_by_environment(monkeypatch, prefix):
    for name, value in NAMES.items():
        monkeypatch.setenv(prefix + name, value)
    assert found() == GIVEN


@pytest.mark.parametrize("prefix", ["", "PENSTOCK_"])
def test_the_dotenv_of_compose_is_not_read(elsewhere, prefix):
    (elsewhere / ".env").write_text("".join(f"{prefix}{name}={value}\n" for name, value in NAMES.items()))
    assert found() == DEFAULTS


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
    assert {name: (t.weight, t.queue_max, t.max_active) for name, t in s.tenants.items()} == {
        "alice": (3, None, None),
        "bob": (1, 9, 2),
    }
    assert s.tenant_queue_max == 5


def test_the_environment_goes_before_the_file(elsewhere, monkeypatch):
    (elsewhere / "penstock.toml").write_text("max_active = 1\nqueue_max = 1\n")
    monkeypatch.setenv("MAX_ACTIVE", "3")
    s = ApiSettings()
    assert (s.max_active, s.queue_max) == (3, 1)
    monkeypatch.setenv("PENSTOCK_MAX_ACTIVE", "4")
    assert ApiSettings().max_active == 4
    assert ApiSettings(max_active=5).max_active == 5


def test_another_file_may_be_named(elsewhere, monkeypatch):
    (elsewhere / "penstock.toml").write_text("max_active = 1\n")
    (elsewhere / "other.toml").write_text("max_active = 2\n")
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", "other.toml")
    assert ApiSettings().max_active == 2
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", os.devnull)
    assert ApiSettings().max_active is None


def test_keys_and_tenants_by_environment(monkeypatch):
    monkeypatch.setenv("PENSTOCK_API_KEYS", '{"alice": "sk-a"}')
    monkeypatch.setenv("PENSTOCK_TENANTS", '{"alice": {"weight": 2.5}}')
    s = ApiSettings()
    assert (s.api_keys["alice"].get_secret_value(), s.tenants["alice"].weight) == ("sk-a", 2.5)


def keys():
    return {tenant: key.get_secret_value() for tenant, key in ApiSettings().api_keys.items()}


@pytest.mark.parametrize(
    "text",
    ["alice=sk-a,bob=sk-b", " alice = sk-a , bob = sk-b ,", '{"alice": "sk-a", "bob": "sk-b"}'],
)
def test_keys_are_pairs_or_json(monkeypatch, text):
    monkeypatch.setenv("PENSTOCK_API_KEYS", text)
    assert keys() == {"alice": "sk-a", "bob": "sk-b"}


def test_a_key_may_end_with_the_padding_of_base64(monkeypatch):
    monkeypatch.setenv("PENSTOCK_API_KEYS", "alice=c2s=")
    assert keys() == {"alice": "c2s="}


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("--max-model-len=8192", ("--max-model-len=8192",)),
        ("--seed 1 --chat-template='a b.jinja'", ("--seed", "1", "--chat-template=a b.jinja")),
        ('["--max-model-len=8192", "--seed=1"]', ("--max-model-len=8192", "--seed=1")),
        ('--override={"a":1}', ("--override={a:1}",)),
    ],
)
def test_the_engines_flags_are_words_of_a_shell_or_json(monkeypatch, text, args):
    monkeypatch.setenv("PENSTOCK_ENGINE_ARGS", text)
    assert WorkerSettings().engine_args == args


@pytest.mark.parametrize("text", ["gpt-4o,fast", "gpt-4o, fast,", '["gpt-4o", "fast"]'])
def test_other_lists_are_separated_by_commas_or_json(elsewhere, monkeypatch, text):
    monkeypatch.setenv("PENSTOCK_ALIASES", text)
    assert WorkerSettings().aliases == ("gpt-4o", "fast")
    monkeypatch.setenv("PENSTOCK_OPENAI_ENDPOINTS", "/v1/chat/completions,/v1/responses")
    assert WorkerSettings().openai_endpoints == ("/v1/chat/completions", "/v1/responses")
    monkeypatch.delenv("PENSTOCK_ALIASES")
    (elsewhere / "penstock.toml").write_text('aliases = "gpt-4o,fast"\n')
    assert WorkerSettings().aliases == ("gpt-4o", "fast")


def test_what_kubernetes_sets_for_services_is_no_setting(monkeypatch):
    for name in ("PENSTOCK", "PENSTOCK_METRICS", "PENSTOCK_FLOWER", "PENSTOCK_API"):
        monkeypatch.setenv(f"{name}_PORT", "tcp://10.0.0.1:8080")
    assert (UpSettings().port, UpSettings().metrics_port, UpSettings().flower_port) == (8080, 0, 5555)
    assert ApiSettings().port == 8080
    monkeypatch.setenv("PENSTOCK_PORT", "8181")
    assert ApiSettings().port == 8181


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (ApiSettings, "API_KEYS", '{"a": "hunter2", "b": "hunter2"}'),
        (ApiSettings, "API_KEYS", "a=hunter2,b=hunter2"),
        (ApiSettings, "API_KEYS", "a=hunter2,hunter3"),
        (ApiSettings, "API_KEYS", "a=hunter2,a=hunter3"),
        (ApiSettings, "API_KEYS", '{"a": "hunter2"'),
        (ApiSettings, "API_KEYS", '{"a": ["hunter2"]}'),
        (ApiSettings, "API_KEYS", '{"a": "hunter2\\n"}'),
        (ApiSettings, "API_KEYS", '{"a": "hunter\u00e9"}'),
        (WorkerSettings, "OPENAI_API_KEY", "hunter2\n"),
        (WorkerSettings, "ENGINE_ARGS", "--hf-token='hunter2"),
        (WorkerSettings, "ENGINE_ARGS", '["--hf-token=hunter2"'),
        (ApiSettings, "TENANTS", "alice=hunter2"),
        (ApiSettings, "REDIS_URL", "hunter2@host:6379"),
        (ApiSettings, "REDIS_URL", "hunter2"),
        (ApiSettings, "REDIS_URL", "http://:hunter2@host"),
        (ApiSettings, "REDIS_URL", "redis://:hunter2/x@host:6379/0"),
        (ApiSettings, "REDIS_URL", "redis://:hunter2]@host/0"),
        (ApiSettings, "REDIS_URL", "redis://:hunter2\u2100@host/0"),
        (ApiSettings, "REDIS_URL", "sentinel://:hunter2/x@host:1/m"),
        (ApiSettings, "REDIS_URL", "sentinel://host:hunter2/m"),
        (ApiSettings, "REDIS_URL", "sentinel://:hunter2@host"),
        (ApiSettings, "OTLP_ENDPOINT", "user:hunter2@host"),
    ],
)
def test_no_message_has_a_secret(monkeypatch, layer, name, value):
    monkeypatch.setenv(f"PENSTOCK_{name}", value)
    with pytest.raises(CommandFailed) as refused:
        starting("api", layer)
    assert refused.value.message.startswith(f"bad setting {name.lower()} (PENSTOCK_{name}): ")
    assert "hunter" not in refused.value.message
    with pytest.raises(ValidationError) as raw:
        layer()
    assert "hunter" not in str(raw.value)


def test_no_repr_has_a_secret(monkeypatch):
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "redis://:hunter2@host/0")
    monkeypatch.setenv("PENSTOCK_API_KEYS", "a=hunter2")
    monkeypatch.setenv("PENSTOCK_OPENAI_API_KEY", "hunter2")
    assert "hunter" not in f"{ApiSettings()!r} {WorkerSettings()!r} {ApiSettings()}"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("QUEUE_MAX", "0", "'0'"), ("LOG_LEVEL", "loud", "'loud'"), ("QUEUE_MODE", "drop", "'drop'")],
)
def test_a_bad_number_or_choice_is_quoted(monkeypatch, name, value, shown):
    monkeypatch.setenv(f"PENSTOCK_{name}", value)
    with pytest.raises(CommandFailed) as refused:
        starting("api", ApiSettings)
    assert refused.value.message.startswith(f"bad setting {name.lower()} (PENSTOCK_{name}): ")
    assert refused.value.message.endswith(f" (it is {shown})")


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
        ("PENSTOCK_TENANTS", '{"a": {"weight": 0.0001}}'),
        ("PENSTOCK_TENANTS", '{"a": {"wieght": 2}}'),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        ApiSettings()
    assert name.removeprefix("PENSTOCK_").lower() in str(refused.value).lower()
    assert '"k"' not in str(refused.value)


PEPPER = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.7", "::1", "localhost"])
def test_this_machine_needs_no_keys(host):
    assert not ApiSettings(host=host).keys_required
    assert ApiSettings(host=host).pepper() is None
    assert ApiSettings(host=host, require_keys=True, without_keys=True, key_pepper=PEPPER).keys_required


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "gpu.example.com"])
def test_other_machines_need_keys_unless_told_otherwise(host, monkeypatch):
    assert ApiSettings(host=host).keys_required
    with pytest.raises(NoPepperStartError, match="without-keys"):
        ApiSettings(host=host).pepper()
    assert ApiSettings(host=host, key_pepper=PEPPER).pepper() == PEPPER.encode()
    assert not ApiSettings(host=host, without_keys=True).keys_required
    assert ApiSettings(host=host, without_keys=True, api_keys={"alice": "sk-alice"}).keys_required
    monkeypatch.setenv("PENSTOCK_WITHOUT_KEYS", "true")
    assert ApiSettings(host=host).pepper() is None


@pytest.mark.parametrize("given", [{"require_keys": True}, {"api_keys": {"alice": "sk-alice"}}])
def test_keys_need_a_pepper(given):
    with pytest.raises(NoPepperStartError, match="openssl rand -hex 32") as refused:
        ApiSettings(**given).pepper()
    assert "sk-alice" not in str(refused.value)
    with pytest.raises(NoPepperStartError):
        create_app(ApiSettings(**given))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"oidc_issuer": "https://id.example"}, "oidc_audience"),
        ({"oidc_issuer": "http://id.example", "oidc_audience": "a"}, "oidc_issuer"),
        ({"oidc_issuer": "id.example", "oidc_audience": "a"}, "oidc_issuer"),
        ({"oidc_issuer": "https://[", "oidc_audience": "a"}, "oidc_issuer"),
    ],
)
def test_an_issuer_is_reached_safely_and_has_an_audience(given, field):
    with pytest.raises(ValidationError) as refused:
        ApiSettings(**given)
    assert {error["loc"][0] for error in refused.value.errors()} == {field}
    good = ApiSettings(oidc_issuer="https://id.example/realm", oidc_audience="penstock")
    assert good.keys_required


def test_a_short_pepper_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("PENSTOCK_KEY_PEPPER", "hunter2")
    with pytest.raises(ValidationError, match="shorter than 16 bytes") as refused:
        ApiSettings()
    assert "hunter" not in str(refused.value)


def test_lists_by_environment(monkeypatch, elsewhere):
    (elsewhere / "penstock.toml").write_text('allowed_hosts = ["x.example", "y.example"]\n')
    assert ApiSettings().allowed_hosts == ("x.example", "y.example")
    for text in ("a.example,b.example", '["a.example", "b.example"]'):
        monkeypatch.setenv("PENSTOCK_ALLOWED_HOSTS", text)
        assert ApiSettings().allowed_hosts == ("a.example", "b.example")
