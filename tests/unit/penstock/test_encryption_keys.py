"""``penstock encryption new-key``, and what a start says of a wrong key."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from broker.settings import BrokerSettings
from jobs.sealing import Keyring
from penstock.cli.encryption import encryption
from penstock.server.errors import CommandFailed, starting


def new_key(*args: str) -> str:
    done = CliRunner().invoke(encryption, ["new-key", *args])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_new_key_is_a_line_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = new_key(), new_key("--id", "of-2026")
    assert Keyring.parse(one + other).keys[1][0] == "of-2026"
    monkeypatch.setenv("PENSTOCK_ENCRYPTION_KEYS", other + one)
    keyring = BrokerSettings().keyring
    assert keyring is not None
    assert keyring.first == "of-2026"
    assert BrokerSettings.model_fields["encryption_keys"].default is None


def test_an_id_that_no_setting_takes_is_refused() -> None:
    done = CliRunner().invoke(encryption, ["new-key", "--id", "a:b"])
    assert done.exit_code == 2
    assert "letters, digits, - and _" in done.output


def test_a_wrong_key_stops_the_start_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ENCRYPTION_KEYS", "k1:c2VjcmV0")
    with pytest.raises(CommandFailed) as told:
        starting("api", BrokerSettings)
    assert "bad setting encryption_keys" in told.value.message
    assert "'k1' has 6 bytes, not 32" in told.value.message
    assert "c2VjcmV0" not in told.value.message
