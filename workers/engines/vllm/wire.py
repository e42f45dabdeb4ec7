"""Helpers around vLLM's own endpoint functions: bodies in and out, logs. They import no vLLM."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobs.floats import read_float
from jobs.model import Usage
from monitoring.logging import vllm_logging_config
from workers.engines.vllm import scratch

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

    To be called before vLLM is imported. Errors are written to a file too, for :func:`logged_errors`, which this empties.
    """
    if (errors := _errors_file()) is not None:
        errors.write_text("")
        return
    if {_LOG_FORM, "VLLM_CONFIGURE_LOGGING"} & os.environ.keys():
        return
    folder = scratch.folder()
    form = vllm_logging_config(level, as_json=as_json, service="vllm")
    form["handlers"]["errors"] = {
        "class": "workers.engines.vllm.start_errors.FirstErrors",
        "path": str(folder / _ERRORS),
    }
    form["loggers"]["vllm"]["handlers"].append("errors")
    (folder / "logging.json").write_text(json.dumps(form))
    (folder / _ERRORS).write_text("")
    os.environ[_LOG_FORM] = str(folder / "logging.json")


def logged_errors() -> list[str]:
    """Return the errors that vLLM's processes have logged since the last start, oldest first, one line each."""
    errors = _errors_file()
    return [] if errors is None else errors.read_text(errors="replace").splitlines()


_LOG_FORM = "VLLM_LOGGING_CONFIG_PATH"
_ERRORS = "errors.txt"


def _errors_file() -> Path | None:
    """Return the file of errors beside our configuration; None if the configuration is not ours."""
    folder = Path(os.environ.get(_LOG_FORM, "")).parent
    ours = folder.name.startswith(scratch.PREFIX) and (folder / _ERRORS).exists()
    return folder / _ERRORS if ours else None


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
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, usage.total_tokens, cached)


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


def max_token_bytes(tokenizer: Any) -> int | None:
    """Return the longest token of a vocabulary in UTF-8 bytes, or a little more; None if that is no bound."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    written = backend.to_str() if backend is not None else ""
    if "ByteLevel" not in written and '"byte_fallback":true' not in written:
        return None  # one token may stand for any length of unknown text
    # A byte-level vocabulary writes each byte as a character of one or two bytes, so this errs upwards, as it may.
    return max((len(token.encode()) for token in tokenizer.get_vocab()), default=None)
