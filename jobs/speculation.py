"""Sampling options that an engine with speculative decoding cannot follow. Pure: one table.

vLLM 0.32 refuses them, whatever its method. It also ends at a sampled ``top_k``, and on a CPU loses ``allowed_token_ids``,
``top_p`` and ``temperature``; :mod:`workers.engines.vllm.worker_hooks` mends these, as many models have them in their
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_SAMPLED: Final = ("min_p",)
"""Fields that matter only while tokens are drawn: at temperature 0 the best token is taken."""

_ALWAYS: Final = ("logit_bias",)

_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {"min_p": (0,)}
"""Values that leave a field without effect, besides null and an empty one."""


def limit_of(request: Mapping[str, Any]) -> str | None:
    """Return the field of a request that speculation does not take; None: it takes them all.

    Args:
        request: a body of an endpoint that generates.
    """
    fields = _ALWAYS if request.get("temperature") == 0 else (*_SAMPLED, *_ALWAYS)
    return next((field for field in fields if _acts(field, request.get(field))), None)


def _acts(field: str, value: Any) -> bool:
    return bool(value) and value not in _NOTHING.get(field, ())
