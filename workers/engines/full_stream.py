"""For engines over an OpenAI server: reading usage, and streaming by the server's own chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from jobs.answers import json_or_failure
from jobs.model import Usage
from jobs.stream_chunks import Frames
from workers.engines.assemble import Assembler, BadChunkError, SseReader, StreamError
from workers.engines.base import Emit, EngineDeadError, Final


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    input_tokens: int = 0  # these two are the words of /v1/responses, and Anthropic's
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None  # Anthropic counts these two apart from its input_tokens
    cache_creation_input_tokens: int | None = None
    total_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    object: str = ""
    status: str | None = None
    error: dict[str, Any] | None = None


_read = msgspec.json.Decoder(_Body).decode
_read_response = msgspec.json.Decoder(_Response).decode


def read_usage(body: bytes) -> Usage | None:
    """Return the token counts of a response; None if it has none."""
    try:
        usage = _read(body).usage
    except msgspec.DecodeError:
        return None
    if usage is None:
        return None
    cached = usage.cache_read_input_tokens or 0
    prompt = usage.prompt_tokens or usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0)
    completion = usage.completion_tokens or usage.output_tokens
    details = usage.prompt_tokens_details or usage.input_tokens_details or _Details(cached)
    return Usage(prompt, completion, usage.total_tokens or prompt + completion, details.cached_tokens or 0)


def whole(status: int, body: bytes) -> Final:
    """Make the end of a run from a complete answer. One that is not JSON becomes an error that quotes it."""
    # int: vLLM gives some as members of HTTPStatus.
    status, body = json_or_failure(int(status), body)
    if status == 200 and (refusal := failed_response(body)) is not None:
        return Final(500, refusal, None)
    return Final(status, body, read_usage(body) if status == 200 else None)


def failed_response(body: bytes) -> bytes | None:
    """Return the error of a response (``/v1/responses``) that failed, as an OpenAI error body; None: it is no such."""
    if b'"failed"' not in body:  # in a text the quotes are escaped
        return None
    try:
        response = _read_response(body)
    except msgspec.DecodeError:
        return None
    if response.object != "response" or response.status != "failed":
        return None
    error = response.error or {}
    message = str(error.get("message") or "the engine could not make the response")
    return msgspec.json.encode(
        {"error": {"message": message, "type": "server_error", "param": None, "code": error.get("code")}}
    )


async def relay(
    parts: AsyncIterator[bytes],
    emit: Emit,
    *,
    chat: bool,
    hide_usage: bool,
    ask_usage: Callable[[], Usage | None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Final:
    """Pass a server's stream on, chunk by chunk and verbatim, and put the complete response together.

    Args:
        parts: the bytes of the answer, cut anywhere.
        chat: chat completions; otherwise completions.
        hide_usage: the client did not ask for the usage chunk: keep its numbers, drop it.
        ask_usage: called at the end if no chunk had the token counts.
        stopped: whether the stream was ended on purpose; then the response so far is the end.

    Returns:
        The end. An error inside the stream is the end with the error's status; it is not emitted.

    Raises:
        EngineDeadError: the stream broke off, or has a chunk that is not OpenAI's.
    """
    reader, assembler = SseReader(), Assembler(chat=chat)
    try:
        async for part in parts:
            frames = tuple(frame for frame in reader.feed(part) if not (assembler.add(frame) and hide_usage))
            if frames:
                emit(Frames(frames))
    except StreamError as error:
        return Final(error.status, error.body, None)
    except BadChunkError as error:
        raise EngineDeadError(f"the server sent a bad chunk: {error}") from error
    if not assembler.finished and not stopped():
        raise EngineDeadError("the server's stream broke off")
    if assembler.usage is None and ask_usage is not None and (usage := ask_usage()) is not None:
        assembler.set_usage(usage)
    return Final(200, assembler.result(), assembler.usage)
