"""Sampling options that an engine with speculative decoding cannot follow, by its method. Pure: one table.

With vLLM 0.32 a draft is accepted or not by the target's own distribution, for which some options have no code: it refuses
them, or ignores them. A method that is not in the table is taken to be like a draft model. ``top_k`` is not in the table:
vLLM dies of it, and :mod:`workers.engines.vllm.worker_hooks` mends that, as many models have it in their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_SAMPLED: Final = ("min_p",)
"""Fields that matter only while tokens are drawn: at temperature 0 the best token is taken."""

_ALWAYS: Final = ("logit_bias",)

LIMITS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "ngram": (_SAMPLED, _ALWAYS),
    "draft_model": (_SAMPLED, (*_ALWAYS, "allowed_token_ids")),
}
"""By method: fields that it does not take in a sampled request, and those that it takes in none."""

_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {"min_p": (0,)}
"""Values that leave a field without effect, besides null and an empty one."""


def limit_of(method: str, request: Mapping[str, Any]) -> str | None:
    """Return the field of a request that this method of speculation does not take; None: it takes them all.

    Args:
        method: the engine's name of it, such as ``ngram``.
        request: a body of an endpoint that generates.
    """
    sampled, always = LIMITS.get(method, LIMITS["draft_model"])
    fields = always if request.get("temperature") == 0 else (*sampled, *always)
    return next((field for field in fields if _acts(field, request.get(field))), None)


def _acts(field: str, value: Any) -> bool:
    return bool(value) and value not in _NOTHING.get(field, ())
