"""Kinds of requests that kill engines: the shape of a request without its texts, and what is remembered of one. Pure.

A job that was convicted (:data:`jobs.retry.MAX_KILLS` deaths) is one of a kind: its endpoint, its model, and its unusual
members with their types and the size of their numbers, at any depth. Names and texts that a client chooses do not count, so
another schema of the same form is of the same kind, and a schema with other keywords is not. A request without any unusual
member is of no kind: to refuse it would be to refuse everybody.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

REMEMBERED_MS: Final = 6 * 3600 * 1000
"""How long a kind is refused after the last engine died of it."""

MOST_KINDS: Final = 32
"""Most kinds that a pool remembers. The one that ends first makes room."""

_USUAL_MEMBERS = """
model messages prompt input system instructions query documents text_1 text_2 file background stream stream_options
max_tokens max_completion_tokens max_output_tokens temperature top_p truncate_prompt_tokens encoding_format
user metadata store service_tier safety_identifier prompt_cache_key priority request_id
"""
_USUAL: Final = frozenset(_USUAL_MEMBERS.split())
"""Members that most requests have. They make no kind."""

_WORDS: Final = frozenset({"type", "tool_choice", "reasoning_effort", "_backend", "format"})
"""Members whose text is a word of the protocol."""

_NAMES: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "logit_bias"})
"""Members whose own members have names that a client chooses."""

_DEPTH: Final = 24
_encode = msgspec.json.Encoder(order="deterministic").encode


class Kind(msgspec.Struct, frozen=True):
    """A kind of requests.

    Attributes:
        digest: stands for it in Redis; 16 hexadecimal digits.
        members: its unusual members, for people.
    """

    digest: str
    members: tuple[str, ...]


class Remembered(msgspec.Struct, frozen=True):
    """A kind that a pool refuses.

    Attributes:
        until_ms: until when.
        members: see :class:`Kind`.
        job: the last job that was convicted of it.
    """

    until_ms: int
    members: tuple[str, ...]
    job: str


def kind_of(endpoint: str, model: str, request: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a request; None: nothing in it is unusual."""
    unusual = {name: value for name, value in request.items() if name not in _USUAL and value is not None}
    if not unusual:
        return None
    shape = [endpoint, model, {name: _shape(name, value, _DEPTH) for name, value in unusual.items()}]
    return Kind(hashlib.sha256(_encode(shape)).hexdigest()[:16], tuple(sorted(unusual)))


def _shape(name: str, value: Any, depth: int) -> Any:
    """Return what kind of value a member has."""
    if isinstance(value, bool) or value is None or not depth:
        return value if depth else "deep"
    if isinstance(value, int | float):
        return ["number", _size(value), value < 0]
    if isinstance(value, str):
        return value[:32] if name in _WORDS else "text"
    if isinstance(value, Mapping):
        if name in _NAMES:
            return _several(value.values(), depth)
        return {str(key): _shape(str(key), one, depth - 1) for key, one in value.items()}
    return _several(value, depth)


def _size(value: float) -> int:
    """Return the size of a number, in steps of about ten."""
    if isinstance(value, int):
        return value.bit_length() // 3
    return math.frexp(value)[1] // 3 if math.isfinite(value) else -1000


def _several(values: Any, depth: int) -> list[Any]:
    """Return the different kinds of values in a list, or of members with chosen names, and how many there are about."""
    kinds = sorted({_encode(_shape("", one, depth - 1)).decode() for one in values})
    return [*kinds, len(str(len(values)))]
