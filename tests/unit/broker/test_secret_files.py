"""Settings from files, one value a file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic_settings import SettingsError

from api.settings import ApiSettings
from broker.db.urls import with_password
from broker.secret_files import CREDENTIALS_VARIABLE, DIR_VARIABLE, SecretFileStartError
from broker.settings import BrokerSettings
from penstock.server.errors import CommandFailed, starting
from penstock.server.settings import FlowerSettings, UpSettings
from tests.environment import clean
from tests.processes import ROOT
from workers.settings import WorkerSettings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of systemd's credentials."""
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(tmp_path))
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
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(secrets / "missing"))
    assert BrokerSettings().redis_password is None


def test_a_secret_of_the_container_is_read_too_and_systemds_comes_first(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = secrets / "run"
    folder.mkdir()
    monkeypatch.setenv(DIR_VARIABLE, str(folder))
    (folder / "penstock_namespace").write_text("of-the-container")
    assert BrokerSettings().namespace == "of-the-container"
    (secrets / "penstock_namespace").write_text("of-systemd")
    assert BrokerSettings().namespace == "of-systemd"


AS_NOBODY = """
import os, sys
os.setuid(65534)
from broker.settings import BrokerSettings
from penstock.server.errors import CommandFailed, starting
try:
    starting("api", lambda: print(BrokerSettings().namespace))
except CommandFailed as failed:
    print(failed.message)
"""


def as_nobody(folder: Path) -> str:
    """What a user reads from a folder who owns nothing; the modules are imported before that."""
    env = clean() | {DIR_VARIABLE: str(folder), "PYTHONPATH": str(ROOT)}
    code = "import api.settings, penstock.server.errors" + AS_NOBODY
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize(
    ("mode", "namespace"), [(0o751, "of-file"), (0o700, "penstock")], ids=["enter", "closed"]
)
def test_a_folder_that_this_user_cannot_list_is_no_error(mode: int, namespace: str) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # a folder whose parents everybody may enter
        folder = Path(name)
        (folder / "penstock_namespace").write_text("of-file")
        (folder / "somebody_elses").touch(0o600)
        folder.chmod(mode)
        assert as_nobody(folder) == namespace


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_file_that_this_user_cannot_read_is_named() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = folder / "penstock_namespace"
        file.write_text("of-file")
        file.chmod(0o600)
        assert as_nobody(folder) == (
            f"the secret file {file} cannot be read: Permission denied;"
            " let the user of this process read it, or remove it"
        )


def test_what_is_no_text_is_named_and_not_quoted(secrets: Path) -> None:
    (secrets / "penstock_namespace").write_bytes(b"hunter2\xff")
    with pytest.raises(SecretFileStartError, match=r"penstock_namespace is not text in UTF-8$"):
        BrokerSettings()
    (secrets / "penstock_namespace").unlink()
    (secrets / "penstock_namespace").mkdir()  # what Docker makes of a file that is not there
    with pytest.raises(SecretFileStartError, match=r"penstock_namespace cannot be read: Is a directory"):
        BrokerSettings()
    assert BrokerSettings(namespace="given").namespace == "given"  # its file is of no interest


def test_any_other_source_that_cannot_be_read_is_one_message() -> None:
    def read() -> None:
        raise SettingsError("no such source")

    with pytest.raises(CommandFailed, match="the settings cannot be read: no such source"):
        starting("api", read)


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
