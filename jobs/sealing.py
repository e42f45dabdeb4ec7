"""Encryption at rest: keys by id, and the sealed form of a request, a result or a chunk of a stream. Pure.

Everything is AES-256-GCM under a key derived, with HMAC-SHA256, for one object, or for the jobs of a quarter of an hour. So
a random nonce of 96 bits is enough, however much one key of the settings encrypts (NIST SP 800-38D, section 8.3).

A sealed body is ``_BINARY``, the length of the key's id, that id, the nonce, and the ciphertext with its tag. The associated
data are the job's id and the field, so that a body in the place of another one is an error. Where Redis's messages must be
text, it is ``_TEXT`` and the rest in base64. No body written without keys begins so: it is JSON, or a chunk.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from jobs.failures import FailureCode

Cipher: TypeAlias = Any
"""``AESGCM`` of ``cryptography``, which a process without keys does not load."""

NONCE_BYTES = 12
KEY_BYTES = 32
TAG_BYTES = 16

_BINARY, _TEXT = b"\x00psk", b"\x01psk"
TEXT_MARK = _TEXT.decode()
"""How a sealed text begins."""

_LATER_DIGITS = 25  # of an id: the lower 20 bits of its time, and what tells it from others of that time

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_FORM = "id:base64 of 32 bytes, one key a line"


class SealingError(Exception):
    """Encrypted data cannot be read. The message never has a key.

    Attributes:
        code: of the job that fails for it, and of the api's answer.
    """

    code = FailureCode.DECRYPTION_FAILED


class UnknownKeyError(SealingError):
    """The data is encrypted with a key that this process does not have."""

    code = FailureCode.ENCRYPTION_KEY_UNKNOWN

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"this is encrypted with the key {key_id!r}, which is not in encryption_keys here; add it, behind the first"
        )


class DamagedError(SealingError):
    """The data is not what was encrypted: it was changed, cut, or belongs elsewhere."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} does not decrypt: it was changed since it was written, or belongs elsewhere"
        )


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys by their ids. The first encrypts, all decrypt."""

    keys: tuple[tuple[str, bytes], ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read lines ``id:base64 of 32 bytes``; empty lines and comments (``#``) do not count. Commas may part keys, too.

        Raises:
            ValueError: a line is no key, an id is there twice, or there is no key. The message has no part of a key.
        """
        lines = [line.strip() for line in text.replace(",", "\n").splitlines()]
        keys: dict[str, bytes] = {}
        for place, line in enumerate((line for line in lines if line and not line.startswith("#")), 1):
            name, colon, secret = line.partition(":")
            if not colon or not _ID.match(name):
                raise ValueError(
                    f"key {place} is not {_FORM}; an id has letters, digits, - and _, 32 at most"
                )
            try:
                key = base64.b64decode(secret.strip(), validate=True)
            except (binascii.Error, ValueError):
                raise ValueError(f"the key {name!r} is not base64") from None
            if len(key) != KEY_BYTES:
                raise ValueError(f"the key {name!r} has {len(key)} bytes, not {KEY_BYTES}")
            if name in keys:
                raise ValueError(f"the key {name!r} is there twice")
            keys[name] = key
        if not keys:
            raise ValueError(f"there is no key; write {_FORM}")
        return cls(tuple(keys.items()))

    @property
    def first(self) -> str:
        """The id of the key that encrypts."""
        return self.keys[0][0]

    def cipher(self, key_id: str, label: bytes) -> Cipher:
        """Return the cipher for one object, or for some jobs.

        Args:
            key_id: of the key that its own key is derived from.
            label: what it is for, different for each.

        Raises:
            UnknownKeyError: there is no such key.
        """
        for name, key in self.keys:
            if name == key_id:
                return _derive(key, label)
        raise UnknownKeyError(key_id)

    def digests(self, text: bytes) -> tuple[str, ...]:
        """Return a digest of ``text`` by each key: without the key nobody can try which text it is of."""
        return tuple(hmac.digest(_label_key(key), text, "sha256").hex() for _, key in self.keys)


@lru_cache(maxsize=1024)
def _derive(key: bytes, label: bytes) -> Cipher:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hmac.digest(key, label, "sha256"))


@lru_cache(maxsize=16)
def _label_key(key: bytes) -> bytes:
    return hmac.digest(key, b"digest", "sha256")


def is_sealed(body: bytes) -> bool:
    """Whether a stored body is encrypted."""
    return body.startswith((_BINARY, _TEXT))


def seal(keyring: Keyring, job_id: str, name: str, body: bytes, nonce: bytes, *, text: bool = False) -> bytes:
    """Encrypt a body.

    Args:
        keyring: its first key encrypts.
        job_id: the job whose body it is.
        name: the field, or the place in a stream.
        body: what to encrypt.
        nonce: :data:`NONCE_BYTES` random bytes.
        text: the result is ASCII, a third longer.
    """
    key_id = keyring.first
    head = bytes((len(key_id),)) + key_id.encode() + nonce
    cipher = keyring.cipher(key_id, _label(job_id))
    sealed = head + cipher.encrypt(nonce, body, _bound(job_id, name))
    return _TEXT + base64.b64encode(sealed) if text else _BINARY + sealed


def unseal(keyring: Keyring | None, job_id: str, name: str, sealed: bytes) -> bytes:
    """Decrypt what :func:`seal` made for this job and field.

    Raises:
        UnknownKeyError: its key is not in the keyring.
        DamagedError: it is not what :func:`seal` made for this job and field.
    """
    what = f"the {name} of {job_id}"
    mark, rest = sealed[: len(_TEXT)], sealed[len(_TEXT) :]
    try:
        sealed = base64.b64decode(rest, validate=True) if mark == _TEXT else rest
    except (binascii.Error, ValueError):
        raise DamagedError(what) from None
    # The last letter of base64 may have bits that stand for nothing.
    if mark == _TEXT and base64.b64encode(sealed) != rest:
        raise DamagedError(what)
    start = 1 + sealed[0] if sealed else 1
    end = start + NONCE_BYTES
    key_id = sealed[1:start].decode("ascii", "replace")
    if not is_sealed(mark) or len(sealed) < end + TAG_BYTES or not _ID.match(key_id):
        raise DamagedError(what)
    if keyring is None:
        raise UnknownKeyError(key_id)
    cipher = keyring.cipher(key_id, _label(job_id))
    return opened(cipher, sealed[start:end], sealed[end:], _bound(job_id, name), what)


def opened(cipher: Cipher, nonce: bytes, data: bytes, bound: bytes, what: str) -> bytes:
    """Decrypt with one cipher. ``bound``: the associated data; ``what``: the words for it in the error.

    Raises:
        DamagedError: the data, the nonce or the associated data are not those of the encryption.
    """
    try:
        plain: bytes = cipher.decrypt(nonce, data, bound)
    except Exception as error:
        from cryptography.exceptions import InvalidTag  # here, as it takes its time at each call

        if isinstance(error, InvalidTag):
            raise DamagedError(what) from None
        raise
    return plain


def _label(job_id: str) -> bytes:
    """Return the label of the jobs whose ids were made in the same 2^20 ms: an id ends with 32 digits, first the time."""
    return b"job\0" + job_id[:-_LATER_DIGITS].encode()


def _bound(job_id: str, name: str) -> bytes:
    return f"{job_id}\0{name}".encode()
