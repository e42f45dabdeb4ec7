"""Digests of requests: of the prefix that requests share, and of a whole request that an identical one may answer. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.errors import invalid
from jobs.determinism import is_deterministic

MIN_PREFIX = 256
"""Least characters of a shared prefix: a shorter one is computed faster than routed to a certain worker."""

_PROMPT_PREFIX = 1024
_canonical = msgspec.json.Encoder(order="deterministic").encode


def affinity_of(
    request: Mapping[str, Any],
    explicit: str | None = None,
    tenant: str | None = None,
    adapter: str | None = None,
) -> str | None:
    """Name what a request shares with others: they prefer the worker that has it.

    That is a prefix, which its prefix cache holds, or a LoRA adapter, which its engine has loaded.

    Args:
        request: the OpenAI request body.
        explicit: the client's own name for the prefix; None: ``prompt_cache_key`` of the body.
        tenant: with whose requests alone it shares a prefix; None: with those of every tenant.
        adapter: the model is this LoRA adapter. It counts more than a long prefix: a worker that lacks it has to load it.

    Returns:
        A short name; None: the request has no name, no adapter, no long first system message and no long prompt.
    """
    named = explicit or request.get("prompt_cache_key")
    if isinstance(named, str) and named:
        return _digest("named", named, tenant)
    if adapter is not None:
        return _digest("adapter", adapter)
    text = _system_text(request) or request.get("prompt")
    if not isinstance(text, str) or len(text) < MIN_PREFIX:
        return None
    return _digest("text", text[:_PROMPT_PREFIX] if "prompt" in request else text, tenant)


def coalescing_digest(endpoint: str, request: Mapping[str, Any], *, stream: bool) -> str:
    """Return a digest that only identical requests share.

    Raises:
        ApiError: 400, the request is streamed, or its answer may differ from run to run.
    """
    if stream:
        raise invalid("a streamed job cannot be coalesced; leave out stream or coalesce", "coalesce")
    if not is_deterministic(endpoint, request.get("temperature"), request.get("seed")):
        message = "only a deterministic request can be coalesced; set temperature to 0, or set a seed"
        raise invalid(message, "coalesce")
    return _digest(endpoint, _canonical(request))


def _system_text(request: Mapping[str, Any]) -> str | None:
    """Return the first system message, or Anthropic's ``system``; None: there is none."""
    content, messages = request.get("system"), request.get("messages")
    if content is None:
        if not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
            return None
        if messages[0].get("role") not in {"system", "developer"}:
            return None
        content = messages[0].get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _digest(kind: str, content: str | bytes, tenant: str | None = None) -> str:
    whose = "" if tenant is None else f"{tenant}\0"
    found = hashlib.blake2b(f"{kind}\0{whose}".encode(), digest_size=16)
    found.update(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    return found.hexdigest()
