"""How many tokens a request says that it needs. A tenant's turn in the queue costs as many, by estimate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.endpoints import ENDPOINTS

_MOST = 2**31
"""More than any engine does for one request; a JSON number has no bound."""

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


def given_tokens(request: Mapping[str, Any]) -> int | None:
    """Return the tokens of prompts that came as token ids; None: the prompt is text."""
    prompts = [one for field in ("prompt", "input") for one in _prompts(request.get(field))]
    ids = [len(one) for one in prompts if isinstance(one, list) and one and isinstance(one[0], int)]
    return sum(ids) if ids else None


def _prompts(value: object) -> list[Any]:
    """Return the prompts of a field: a list of token ids is one."""
    several = isinstance(value, list) and value and isinstance(value[0], str | list)
    return list(value) if several and isinstance(value, list) else [value]


def _count(value: object) -> int | None:
    return (
        int(min(value, _MOST)) if isinstance(value, int) and value >= 0 else None
    )  # True is a 1 to the engine
