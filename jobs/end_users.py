"""Where requests name end users: ``safety_identifier``, and Anthropic's ``metadata.user_id``. Pure.

They are made for the operator of a service, and are often mail addresses, so no engine gets them in clear.
"""

from __future__ import annotations

from typing import Final

import msgspec

from jobs.endpoints import COUNT_TOKENS, MESSAGES

SAFETY_IDENTIFIER: Final = "safety_identifier"
USER_ID: Final = "user_id"
"""The member of ``metadata`` in requests of :data:`ANTHROPICS`."""

ANTHROPICS: Final = frozenset({MESSAGES, COUNT_TOKENS})

_METADATA: Final = "metadata"
_SAFETY_MARK, _USER_MARK = SAFETY_IDENTIFIER.encode(), USER_ID.encode()

_read = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def without_end_users(endpoint: str, body: bytes) -> bytes:
    """Return a request without the names of end users. One that has none, or cannot be read, stays as it is."""
    in_metadata = endpoint in ANTHROPICS and _USER_MARK in body
    if not in_metadata and _SAFETY_MARK not in body:
        return body
    try:
        members = _read(body)
    except (msgspec.DecodeError, RecursionError):
        return body  # the engine says what is wrong with it
    named = members.pop(SAFETY_IDENTIFIER, None) is not None
    if in_metadata and _METADATA in members:
        try:
            metadata = _read(members[_METADATA])
        except msgspec.DecodeError:  # it is no object
            metadata = {}
        if metadata.pop(USER_ID, None) is not None:
            named, members[_METADATA] = True, msgspec.Raw(_encode(metadata))
    return _encode(members) if named else body
