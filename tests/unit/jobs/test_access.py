"""The form of API keys, and what an identity may do."""

from __future__ import annotations

import pytest

from jobs.access import KEYLESS, TENANT_SCOPES, ApiKey, Identity, Scope, given_key


def test_a_key_is_read_as_it_was_written() -> None:
    key = ApiKey.new()
    assert ApiKey.parse(str(key)) == key
    assert str(key).startswith(f"psk_{key.id}_")
    assert ApiKey.new(key.id).id == key.id
    assert ApiKey.new().secret != key.secret


@pytest.mark.parametrize("place", range(4, 55))
def test_a_wrong_letter_is_seen_without_a_look_up(place: int) -> None:
    text = str(ApiKey("abcdefGHIJ12", "0" * 32))
    other = "Z" if text[place] != "Z" else "Y"
    assert ApiKey.parse(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize(
    "text", ["", "psk", "psk___", "sk-1234", "psk_é" + "a" * 11 + "_" + "b" * 32 + "_" + "c" * 6]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert ApiKey.parse(text) is None


def test_what_is_stored_and_shown_tells_nothing_of_the_secret() -> None:
    key = ApiKey.new()
    assert key.secret not in repr(key)
    assert key.digest(b"one") != key.digest(b"two")
    assert key.secret not in key.digest(b"one")


def test_an_admin_may_do_everything_to_everyones() -> None:
    tenant = Identity("alice", TENANT_SCOPES, "id")
    admin = Identity("ops", frozenset({Scope.ADMIN}), "id")
    assert (tenant.owner, admin.owner, KEYLESS.owner) == ("alice", None, None)
    assert tenant.may(Scope.FILES)
    assert not tenant.may(Scope.METRICS)
    assert all(admin.may(scope) for scope in Scope)


def test_an_id_of_a_chosen_key_is_no_check_of_guesses() -> None:
    assert given_key("a-secret", b"one").id != given_key("a-secret", b"two").id
    assert given_key("a-secret", b"one") == given_key("a-secret", b"one")
