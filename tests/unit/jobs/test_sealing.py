"""The sealed form of bodies: bound to its job and place, readable with every key, and never garbage."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.sealing import DamagedError, Keyring, UnknownKeyError, is_sealed, seal, unseal

NONCE = bytes(range(12))


def line(name: str) -> str:
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}"


OLD, NEW = line("old"), line("new")
RING = Keyring.parse(NEW)


@given(body=st.binary(max_size=200), text=st.booleans())
def test_a_body_comes_back_as_it_was(body: bytes, text: bool) -> None:
    sealed = seal(RING, "job_1", "req", body, NONCE, text=text)
    assert is_sealed(sealed)
    assert sealed.isascii() or not text
    assert unseal(RING, "job_1", "req", sealed) == body


@pytest.mark.parametrize("body", [b"a prompt", b"a prompt.", b"a prompt.."])
@pytest.mark.parametrize("text", [False, True])
def test_a_change_of_any_byte_is_an_error(text: bool, body: bytes) -> None:
    sealed = seal(RING, "job_1", "req", body, NONCE, text=text)
    for place in range(1, len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((DamagedError, UnknownKeyError)):
            unseal(RING, "job_1", "req", bytes(changed))
    for length in range(1, len(sealed)):
        with pytest.raises(DamagedError):
            unseal(RING, "job_1", "req", sealed[:length])


def test_a_body_is_bound_to_its_job_and_field() -> None:
    sealed = seal(RING, "job_1", "result", b"x", NONCE)
    for job, name in (("job_2", "result"), ("job_1", "partial")):
        with pytest.raises(DamagedError, match=f"the {name} of {job} does not decrypt"):
            unseal(RING, job, name, sealed)


def test_after_a_rotation_both_keys_decrypt_and_the_first_encrypts() -> None:
    before = seal(Keyring.parse(OLD), "job_1", "req", b"x", NONCE)
    both = Keyring.parse(f"# the new one\n{NEW}\n\n{OLD}\n")
    assert both.first == "new"
    assert unseal(both, "job_1", "req", before) == b"x"
    with pytest.raises(UnknownKeyError, match="'old'"):
        unseal(RING, "job_1", "req", before)
    with pytest.raises(UnknownKeyError, match="'old'"):
        unseal(None, "job_1", "req", before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no key"),
        ("# nothing", "there is no key"),
        ("nocolon", "key 1 is not id:base64"),
        pytest.param(f"{NEW},with space:{'A' * 43}=", "key 2 is not id:base64", id="space"),
        ("k:SECRET!", "'k' is not base64"),
        (f"k:{base64.b64encode(b'SECRET').decode()}", "'k' has 6 bytes, not 32"),
        pytest.param(f"{NEW}\n{NEW}", "'new' is there twice", id="twice"),
    ],
)
def test_a_wrong_key_is_told_without_the_key(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        Keyring.parse(text)
    for secret in ("SECRET", base64.b64encode(b"SECRET").decode(), NEW.partition(":")[2]):
        assert secret not in str(told.value)
    assert NEW.partition(":")[2] not in repr(Keyring.parse(NEW))


def test_a_digest_needs_the_key() -> None:
    both = Keyring.parse(f"{NEW}\n{OLD}")
    assert both.digests(b"a") == (*RING.digests(b"a"), *Keyring.parse(OLD).digests(b"a"))
    assert len({*both.digests(b"a"), *both.digests(b"b")}) == 4
