"""Helpers around vLLM's own endpoint functions: bodies in and out, logs, start errors. They import no vLLM."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobs.floats import read_float
from jobs.model import Usage
from monitoring.logging import vllm_logging_config

_decode = msgspec.json.Decoder(float_hook=read_float).decode


@contextlib.contextmanager
def otel_environment(*, traced: bool) -> Iterator[None]:
    """Have vLLM, and the processes it starts meanwhile, send their spans over HTTP, as a service of its own name."""
    wanted = (
        {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": "vllm"} if traced else {}
    )
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def use_our_log_form(level: str, *, as_json: bool) -> None:
    """Give vLLM's own records, here and in the processes it starts, our form, unless the environment sets another.

    To be called before vLLM is imported.
    """
    if {"VLLM_LOGGING_CONFIG_PATH", "VLLM_CONFIGURE_LOGGING"} & os.environ.keys():
        return
    handle, path = tempfile.mkstemp(prefix="penstock-vllm-", suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(vllm_logging_config(level, as_json=as_json, service="vllm"), file)
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = path
    atexit.register(_forget, path, os.getpid())


def _forget(path: str, owner: int) -> None:
    if os.getpid() == owner:  # not a process that was forked from us
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()


def parse_body(raw: bytes) -> dict[str, Any] | None:
    """Read a body as FastAPI would; None: it is wrong, and the app's own refusal says how."""
    try:
        body = _decode(raw)
    except msgspec.DecodeError:
        try:
            body = json.loads(raw)  # takes a little more, such as NaN
        except ValueError:
            return None
    return body if isinstance(body, dict) else None


def own_response(request_id: str) -> dict[str, Any]:
    """Return fields for a request of ``/v1/responses``: its response's id, and that vLLM need not keep the response."""
    return {"request_id": f"resp_{request_id}", "store": False}


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
    """Return the longest token of a vocabulary in UTF-8 bytes, or a little more; None if that is no bound."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    written = backend.to_str() if backend is not None else ""
    if "ByteLevel" not in written and '"byte_fallback":true' not in written:
        return None  # one token may stand for any length of unknown text
    # A byte-level vocabulary writes each byte as a character of one or two bytes, so this errs upwards, as it may.
    return max((len(token.encode()) for token in tokenizer.get_vocab()), default=None)
