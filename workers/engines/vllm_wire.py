"""What passes between a job and vLLM's own endpoint functions, and what is said when they do not start. No vLLM in here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from jobs.model import Usage

_decode = msgspec.json.Decoder().decode


def parse_body(raw: bytes) -> dict[str, Any] | None:
    """Read a body as FastAPI would; None where the app is to say what is wrong with it."""
    try:
        body = _decode(raw)
    except msgspec.DecodeError:
        try:
            body = json.loads(raw)  # takes a little more, such as NaN
        except ValueError:
            return None
    return body if isinstance(body, dict) else None


def usage_beside(raw_request: Any) -> Usage | None:
    """Read the usage that vLLM leaves on the request for its middlewares."""
    metadata = getattr(raw_request.state, "request_metadata", None)
    usage = getattr(metadata, "final_usage_info", None)
    if usage is None:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, usage.total_tokens)


def as_bytes(part: Any) -> bytes:
    """Return a part of a response's body."""
    return part.encode() if isinstance(part, str) else bytes(part)


async def closing(parts: Any) -> AsyncIterator[bytes]:
    """Iterate over a response's body, and close it at once when the reader stops early: that aborts the
    request.
    """
    async with contextlib.aclosing(parts):
        async for part in parts:
            yield as_bytes(part)


def explain(error: Exception) -> str:
    """Say in one line why vLLM did not start."""
    text = " ".join(str(error).split()) or type(error).__name__
    low = text.lower()
    if "out of memory" in low or "no available memory" in low or "free memory" in low:
        return f"vLLM ran out of memory: {text}; lower gpu_memory_utilization, max_model_len or max_num_seqs"
    if "engine core initialization failed" in low:
        return (
            "vLLM's engine process did not start; its log above has the cause. Out of memory? Lower "
            "gpu_memory_utilization (or kv_cache_memory_bytes), max_model_len or max_num_seqs"
        )
    return f"vLLM did not start: {text[:600]}"


def max_token_bytes(tokenizer: Any) -> int | None:
    """Return the longest token of a vocabulary in UTF-8 bytes, or a little more; None where that says nothing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    written = backend.to_str() if backend is not None else ""
    if "ByteLevel" not in written and '"byte_fallback":true' not in written:
        return None  # one token may stand for any length of unknown text
    # A byte-level vocabulary writes each byte as a character of one or two bytes, so this errs upwards, as it may.
    return max((len(token.encode()) for token in tokenizer.get_vocab()), default=None)
