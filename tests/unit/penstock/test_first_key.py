"""The pepper that ``penstock up`` makes, and the files of secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import ApiSettings
from penstock.cli._local import key_here
from penstock.server.first_key import PEPPER_FILE, KeyFileStartError, Secrets, kept_pepper


def test_a_laptop_gets_none(tmp_path: Path) -> None:
    assert Secrets.of(ApiSettings(), tmp_path) == Secrets(None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"require_keys": True}, {"api_keys": {"a": "b"}}])
def test_one_is_made_once_where_keys_are_required(given: dict[str, object], tmp_path: Path) -> None:
    api = ApiSettings(**given)  # type: ignore[arg-type]
    made = Secrets.of(api, tmp_path / "data")
    assert made.kept is not None
    assert made.pepper == made.kept.encode()
    assert len(made.kept) == 64
    assert made.kept not in repr(made)
    assert (tmp_path / "data" / PEPPER_FILE).stat().st_mode & 0o777 == 0o600
    assert Secrets.of(api, tmp_path / "data") == made
    assert Secrets.of(ApiSettings(), tmp_path / "data") == Secrets(None, made.kept), "keys can be made"


def test_a_setting_comes_first(tmp_path: Path) -> None:
    api = ApiSettings(require_keys=True, key_pepper="0123456789abcdef")
    assert Secrets.of(api, tmp_path) == Secrets(b"0123456789abcdef", None)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_stops_the_start_unseen(tmp_path: Path) -> None:
    (tmp_path / PEPPER_FILE).write_bytes(b"hunter\xff")
    with pytest.raises(KeyFileStartError, match="is damaged") as refused:
        kept_pepper(tmp_path)
    assert "hunter" not in str(refused.value)


def test_a_key_that_others_can_read_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path))
    assert key_here() is None
    file = tmp_path / "admin.key"
    file.write_text("psk_x\n")
    file.chmod(0o644)
    assert key_here() is None
    file.chmod(0o600)
    assert key_here() == "psk_x"
