"""Reading one answer: when its text came, its tokens, its error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from penstock._core.sse import SSEParser
from penstock.bench.figures import Call

_ERROR_BYTES = 64 * 1024
_BODY_BYTES = 64 * 1024**2


class Reader:
    """Takes the pieces of an answer's body.

    Args:
        call: gets what is found.
        streamed: server-sent events are expected.
        clock: monotonic seconds.
    """

    def __init__(self, call: Call, *, streamed: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self._call = call
        self._clock = clock
        self._streamed = streamed
        self._parser = SSEParser()
        self._body = bytearray()
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        room = (_ERROR_BYTES if self._streamed else _BODY_BYTES) - len(self._body)
        self._body += data[: max(room, 0)]  # of a stream: it may be an error instead
        if not self._streamed:
            return
        now = self._clock()
        for event in self._parser.feed(data):
            if event.data == "[DONE]":
                self._over = True
            else:
                self._event(_object(event.data), now)

    def _event(self, event: Mapping[str, Any], now: float) -> None:
        call = self._call
        if isinstance(error := event.get("error"), dict):
            call.code, call.message = _code(error, 500), str(error.get("message"))
            return
        self._count(event)
        if not _has_text(event):
            return
        if call.first is None:
            call.first = now
        else:
            call.gaps.append(now - (call.last or now))
        call.last = now
        call.pieces += 1

    def end(self, status: int) -> None:
        """Take the answer's end: its status, and of a whole answer its tokens."""
        call = self._call
        call.ended = self._clock()
        if call.code:
            return
        if status >= 300:
            body = _object(self._body)
            found = body.get("error")
            error = found if isinstance(found, dict) else body
            call.code = _code(error, status)
            text = error.get("message") or bytes(self._body[:200]).decode(errors="replace")
            call.message = f"{status}: {text}"
        elif not self._streamed:
            self._count(_object(self._body))
        elif not self._over:
            call.code, call.message = "cut", "the stream ended before its end"

    def _count(self, event: Mapping[str, Any]) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            call = self._call
            prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
            call.prompt_tokens = prompt if isinstance(prompt, int) else call.prompt_tokens
            call.tokens = made if isinstance(made, int) else call.tokens


def _object(data: str | bytes | bytearray) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _has_text(event: Mapping[str, Any]) -> bool:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or choice.get("message") or choice
        if any(
            delta.get(name) for name in ("content", "reasoning", "reasoning_content", "text", "tool_calls")
        ):
            return True
    return False


def _code(error: Mapping[str, Any], status: int) -> str:
    code = error.get("code") or error.get("type")
    return f"{status} {code}" if isinstance(code, str) else str(status)
