"""How many tokens a request says that it needs. A tenant's turn in the queue costs as many, by estimate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker.acceptance import BYTES_PER_TOKEN
from jobs.endpoints import ENDPOINTS

_MOST = 2**31
"""More than any engine does for one request; a JSON number has no bound."""

_TOKENIZER_SHARE = 100
"""How much less a token costs where the model does not run."""

_MOST_EACH = 1024
"""Answers to one prompt. A job's cost moves its tenant's turn, and so its lane's: an absurd number would, for good."""


def most_tokens(endpoint: str, request: Mapping[str, Any]) -> int | None:
    """Return the most tokens that each answer may have; 0: the endpoint generates none, None: the request does not say."""
    limits = ENDPOINTS[endpoint].limit_fields
    if not limits:
        return 0
    return next((count for field in limits if (count := _count(request.get(field))) is not None), None)


def answers_of(request: Mapping[str, Any]) -> int:
    """Return how many answers the engine generates: to each prompt ``n``, or the ``best_of`` of which it keeps ``n``."""
    each = max(_count(request.get("n")) or 1, _count(request.get("best_of")) or 1)
    return min(each, _MOST_EACH) * len(_prompts(request.get("prompt")))


def given_tokens(endpoint: str, request: Mapping[str, Any], size: int) -> int | None:
    """Return the tokens that a request makes the model read, as far as it says so.

    Args:
        size: the request's bytes.

    Returns:
        The number of its token ids; for texts that are scored an estimate, since a query is read with each document; for
        work of the tokenizer alone a small share. None: the length of the body is the best estimate.
    """
    one = ENDPOINTS[endpoint]
    if one.tokenizer_only:
        return 1 + size // BYTES_PER_TOKEN // _TOKENIZER_SHARE
    if one.pairs:
        return (size + _read_again(request, one.pairs)) // BYTES_PER_TOKEN
    prompts = [one for field in ("prompt", "input") for one in _prompts(request.get(field))]
    ids = [len(one) for one in prompts if isinstance(one, list) and one and isinstance(one[0], int)]
    return sum(ids) if ids else None


def _read_again(request: Mapping[str, Any], pairs: tuple[tuple[str, str], ...]) -> int:
    """Return the bytes of a text that meets several others, for each but the first of them."""
    for fields in pairs:
        sides = [texts_of(request.get(field)) for field in fields]
        fewer, more = sorted(sides, key=len)
        if len(fewer) == 1 < len(more):
            return len(msgspec.json.encode(fewer[0])) * (len(more) - 1)
    return 0


def texts_of(value: object) -> list[Any]:
    """Return the texts of a field that holds one or several; none if it is missing."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _prompts(value: object) -> list[Any]:
    """Return the prompts of a field: a list of token ids is one."""
    several = isinstance(value, list) and value and isinstance(value[0], str | list)
    return list(value) if several and isinstance(value, list) else [value]


def _count(value: object) -> int | None:
    return (
        int(min(value, _MOST)) if isinstance(value, int) and value >= 0 else None
    )  # True is a 1 to the engine
