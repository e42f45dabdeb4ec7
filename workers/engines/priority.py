"""A request's priority in its body, and the log line about an engine without priorities."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from jobs.facts import EnginePriority
from jobs.floats import read_float

log = structlog.get_logger(__name__)

_SHORT_BYTES = 32
"""A body so short may be ``{ }``, to which nothing can be appended with a comma."""

_MAYBE = (b'"priority"', b"\\u00")
"""A body with neither has no priority of its own: the second may be a letter of the name, escaped."""

_ADVICE = {
    EnginePriority.IGNORED: "start the engine with --scheduling-policy=priority (vLLM), or "
    "--enable-priority-scheduling (SGLang); until then a call waits behind bulk that the engine holds",
    EnginePriority.REFUSED: "requests are sent without a priority; start the server with priorities "
    "(vLLM: --scheduling-policy=priority), or lower --concurrency, so that less bulk waits in it",
    EnginePriority.UNKNOWN: "make sure that the server was started with priorities (vLLM: --scheduling-policy=priority, "
    "SGLang: --enable-priority-scheduling)",
}

_decode = msgspec.json.Decoder(float_hook=read_float).decode
_encode = msgspec.json.Encoder().encode


def with_priority(body: bytes, priority: int | None) -> bytes:
    """Return a request's body with our priority in place of the client's.

    Args:
        body: JSON; one that is no object, or wrong, is returned as it is.
        priority: None removes the field.
    """
    text = body.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return body
    if len(text) >= _SHORT_BYTES and not any(part in text for part in _MAYBE):
        # A copy of the bytes: a body with images has megabytes, and takes long to decode.
        return body if priority is None else b'%b,"priority":%d}' % (text[:-1], priority)
    try:
        fields: dict[str, Any] = _decode(text)
    except msgspec.DecodeError:
        return body  # the server says what is wrong with it
    if priority is not None:
        fields["priority"] = priority
    elif "priority" in fields:
        del fields["priority"]
    else:
        return body
    return bytes(_encode(fields))


def report_priority(engine: str, state: EnginePriority) -> None:
    """Log that an engine does not follow priorities, or may not, and what to do about it."""
    if state is EnginePriority.UNKNOWN:
        log.info("engine_priority_unknown", engine=engine, advice=_ADVICE[state])
    elif state is not EnginePriority.WORKS:
        log.warning("engine_priority_without_effect", engine=engine, state=state.value, advice=_ADVICE[state])
