"""vLLM's ``cache_salt``: requests find each other's prefixes in the engine's cache only if they have the same.

A cached prefix answers sooner, so by its timing a tenant could learn what another one asked. Each tenant therefore has
salts of its own, and no request of another makes one of them: the tenant is in front, and its name has no colon.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

from jobs.access import DEFAULT_TENANT
from jobs.floats import read_float

FIELD: Final = "cache_salt"

_SHORT_BYTES = 32
"""A body so short may be ``{ }``, to which nothing can be appended with a comma."""

_MAYBE = (b'"cache_salt"', b"\\u00")
"""A body with neither has no salt of its own: the second may be a letter of the name, escaped."""

_decode = msgspec.json.Decoder(float_hook=read_float).decode
_encode = msgspec.json.Encoder().encode


def salt_of(tenant: str, own: object) -> Any:
    """Return the salt of a request, up to 97 characters (vLLM takes 128); None: it has none.

    The default tenant has none, so that without tenants requests are as their clients made them.

    Args:
        own: the client's; None: it gave none. A wrong one is returned as it is, for the engine to refuse.
    """
    if own is None:
        return None if tenant == DEFAULT_TENANT else f"{tenant}:"
    if not isinstance(own, str) or not own:
        return own
    return f"{tenant}:{hashlib.sha256(own.encode(errors='surrogatepass')).hexdigest()[:32]}"


def salted(fields: dict[str, Any], tenant: str | None) -> dict[str, Any]:
    """Return a request's fields with its tenant's salt; None: as they are."""
    own = fields.get(FIELD)
    salt = own if tenant is None else salt_of(tenant, own)
    return fields if salt == own else {**fields, FIELD: salt}


def with_salt(body: bytes, tenant: str | None) -> tuple[bytes, bool]:
    """Return a request's body with its tenant's salt, and whether the salt is ours alone: the client gave none.

    Args:
        body: JSON; one that is no object, or wrong, is returned as it is.
        tenant: None: the body stays as it is.
    """
    text = body.strip()
    if tenant is None or not (text.startswith(b"{") and text.endswith(b"}")):
        return body, False
    if len(text) >= _SHORT_BYTES and not any(part in text for part in _MAYBE):
        # A copy of the bytes: a body with images has megabytes, and takes long to decode.
        salt = salt_of(tenant, None)
        return (body, False) if salt is None else (b'%b,"cache_salt":%b}' % (text[:-1], _encode(salt)), True)
    try:
        fields: dict[str, Any] = _decode(text)
    except msgspec.DecodeError:
        return body, False  # the server says what is wrong with it
    given = salted(fields, tenant)
    return (body, False) if given is fields else (bytes(_encode(given)), fields.get(FIELD) is None)


def blames_salt(status: int, body: bytes) -> bool:
    """Return whether a server's answer may be a refusal of the field: it may also quote the client's own words."""
    return status in {400, 403, 422} and re.search(rb"\bcache_salt\b", body) is not None
