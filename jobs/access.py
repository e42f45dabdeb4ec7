"""Who calls, and what they may do: scopes, identities, and the form of an API key. Pure.

The form of a key follows GitHub's (https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/):
a prefix that scanners know, and a check sum by which a mistyped key is refused without a look-up.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import string
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DEFAULT_TENANT: Final = "default"
"""The tenant of every caller where no keys are required."""


class Scope(StrEnum):
    """What a key lets its holder do. ``admin`` includes all others, for every tenant."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    BATCHES = "batches"
    FILES = "files"
    METRICS = "metrics"
    ADMIN = "admin"


TENANT_SCOPES: Final = frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.BATCHES, Scope.FILES})
"""The scopes of a key that says nothing else."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller.

    Attributes:
        tenant: whose objects it makes.
        scopes: what it may do.
        key: id of the API key, or the issuer's name of the subject; None: no key is required.
        models: the models it may use, by name or alias; None: those of its tenant.
    """

    tenant: str
    scopes: frozenset[Scope]
    key: str | None = None
    models: frozenset[str] | None = None

    @property
    def admin(self) -> bool:
        """Whether it may see and change what belongs to any tenant."""
        return Scope.ADMIN in self.scopes

    @property
    def owner(self) -> str | None:
        """The tenant whose objects it may reach; None: every tenant's."""
        return None if self.admin else self.tenant

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope."""
        return self.admin or scope in self.scopes


KEYLESS: Final = Identity(DEFAULT_TENANT, frozenset(Scope))
"""Everybody, where no keys are required."""

NOBODY: Final = Identity("", frozenset())
"""A caller without a key, where keys are required: of the paths that need none."""


def owns(owner: str | None, tenant: str | None) -> bool:
    """Whether a caller may reach an object of ``tenant`` (None: it has none). ``owner``: see :attr:`Identity.owner`."""
    return owner is None or owner == tenant


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something administrative, as the audit stream names them.

    Attributes:
        key: id of the API key, or subject; None: no key was required.
        tenant: its tenant.
        address: where the request came from; empty: not over the network.
    """

    key: str | None
    tenant: str
    address: str = ""

    def encode(self) -> str:
        """Return it as the field ``by`` of a call: JSON without what is not known."""
        known = {"key": self.key, "tenant": self.tenant, "address": self.address}
        return json.dumps({name: value for name, value in known.items() if value})

    @classmethod
    def decode(cls, text: str) -> Actor:
        """Read what :meth:`encode` wrote."""
        known = json.loads(text)
        return cls(known.get("key"), known.get("tenant", DEFAULT_TENANT), known.get("address", ""))


def encoded(by: Actor | None) -> str | None:
    """Return an actor as the field ``by`` of a call; None: nobody asked, so nothing is noted."""
    return None if by is None else by.encode()


_LETTERS: Final = string.digits + string.ascii_letters
_PREFIX: Final = "psk"
_ID, _SECRET, _CHECK = 12, 32, 6


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its holder has it.

    Attributes:
        id: names it, and is no secret.
        secret: 32 letters and digits, 190 bits.
    """

    id: str
    secret: str

    def __str__(self) -> str:
        """Return the whole key: ``psk_<id>_<secret>_<check>``."""
        text = f"{_PREFIX}_{self.id}_{self.secret}"
        return f"{text}_{_check(text)}"

    def __repr__(self) -> str:
        return f"ApiKey({self.id!r})"

    def digest(self, pepper: bytes) -> str:
        """Return what is stored of it: HMAC-SHA256 under the pepper, in hexadecimal."""
        return hmac.digest(pepper, self.secret.encode(), "sha256").hex()

    @classmethod
    def new(cls, ident: str | None = None) -> ApiKey:
        """Draw a key. ``ident``: the id of an existing one that gets a new secret."""
        return cls(_draw(_ID) if ident is None else ident, _draw(_SECRET))

    @classmethod
    def parse(cls, text: str) -> ApiKey | None:
        """Read a key; None: it has another form, or a letter is wrong."""
        parts = text.split("_")
        lengths = (len(_PREFIX), _ID, _SECRET, _CHECK)
        if tuple(map(len, parts)) != lengths or parts[0] != _PREFIX or not text.isascii():
            return None
        told = hmac.compare_digest(parts[3], _check(text[: -_CHECK - 1]))
        return cls(parts[1], parts[2]) if told and text.replace("_", "").isalnum() else None


def given_key(text: str, pepper: bytes) -> ApiKey:
    """Return a key of any form, as an operator has chosen it: its id comes from its text, which is all secret.

    Ids stand in logs, and a chosen text may be short: without the pepper nobody can try texts against an id.
    """
    named = hmac.new(pepper, b"id of " + text.encode(), hashlib.sha256)
    return ApiKey(named.hexdigest()[:_ID], text)


def is_key_id(text: str) -> bool:
    """Whether a text has the form of a key's id."""
    return len(text) == _ID and text.isascii() and text.isalnum()


def _draw(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _check(text: str) -> str:
    """Return the CRC-32 of a text in base 62."""
    number, letters = zlib.crc32(text.encode()), ""
    for _ in range(_CHECK):
        number, rest = divmod(number, len(_LETTERS))
        letters = _LETTERS[rest] + letters
    return letters
