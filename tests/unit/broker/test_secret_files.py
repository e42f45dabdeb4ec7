"""Settings from files, one value a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import ApiSettings
from broker.db.urls import with_password
from broker.secret_files import VARIABLE
from broker.settings import BrokerSettings
from penstock.server.settings import FlowerSettings, UpSettings
from workers.settings import WorkerSettings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of systemd's credentials; the only one that a test may set."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_password_completes_the_address(secrets: Path) -> None:
    (secrets / "penstock_redis_password").write_text("p@ss/word\n")
    settings = BrokerSettings(redis_url="redis://api@queue:6379/0")
    assert settings.redis_url == "redis://api:p%40ss%2Fword@queue:6379/0"
    assert "p@ss/word" not in repr(settings.redis_password)


def test_a_password_completes_the_default_address_which_stays_the_default(secrets: Path) -> None:
    (secrets / "penstock_redis_password").write_text("pw\n")
    settings = UpSettings()
    assert settings.redis_url == "redis://:pw@127.0.0.1:6379/0"
    assert settings.own_redis  # naming no server still means the embedded one


def test_api_keys_login_and_upstream_key_come_from_files(secrets: Path) -> None:
    (secrets / "penstock_api_keys").write_text('{"alice": "key-of-alice"}\n')
    (secrets / "penstock_flower_basic_auth").write_text("operator:correct-horse\n")
    (secrets / "penstock_openai_api_key").write_text("sk-upstream\n")
    assert ApiSettings().api_keys["alice"].get_secret_value() == "key-of-alice"
    assert FlowerSettings().flower_basic_auth.get_secret_value() == "operator:correct-horse"
    assert WorkerSettings().openai_api_key == "sk-upstream"


def test_an_empty_file_counts_as_missing(secrets: Path) -> None:
    (secrets / "penstock_api_keys").write_text("\n")
    (secrets / "penstock_redis_password").write_text("")
    assert ApiSettings(redis_url="redis://queue:6379/0").redis_url == "redis://queue:6379/0"
    assert ApiSettings().api_keys == {}


def test_the_environment_comes_before_a_file_and_a_file_before_the_settings_file(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "penstock.toml").write_text('redis_password = "of-toml"\nqueue_max = 7\n')
    (secrets / "penstock_redis_password").write_text("of-file")
    (secrets / "penstock_queue_max").write_text("9")
    assert BrokerSettings().redis_password.get_secret_value() == "of-file"
    assert BrokerSettings().queue_max == 9
    monkeypatch.setenv("PENSTOCK_REDIS_PASSWORD", "of-environment")
    assert BrokerSettings().redis_password.get_secret_value() == "of-environment"


def test_without_a_folder_there_is_nothing_to_read(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(secrets / "missing"))
    assert BrokerSettings().redis_password is None


@pytest.mark.parametrize(
    ("url", "completed"),
    [
        ("redis://queue:6379/0", "redis://:pw@queue:6379/0"),
        (
            "rediss://api@[::1]:6380/1?ssl_cert_reqs=required",
            "rediss://api:pw@[::1]:6380/1?ssl_cert_reqs=required",
        ),
        ("sentinel://a:1,b:2/main", "sentinel://:pw@a:1,b:2/main"),
        ("redis://:own@queue:6379/0", "redis://:own@queue:6379/0"),
        ("unix:///run/valkey.sock?db=0", "unix:///run/valkey.sock?db=0"),
    ],
)
def test_an_address_gets_a_password_if_it_has_none(url: str, completed: str) -> None:
    assert with_password(url, "pw") == completed
