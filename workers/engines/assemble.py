"""From a stream's chunks to the complete response: pure, for any OpenAI-compatible server."""

from __future__ import annotations

from typing import Any

import msgspec

from jobs.model import Usage

_TOP_SKIPPED = frozenset({"choices", "object", "usage"})
_CHOICE_SKIPPED = frozenset({"index", "delta", "text", "logprobs"})
_SET_ONCE = frozenset({"role", "id", "type", "name"})
"""Strings that name something: if a server repeats one, it does not grow."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Longest line of a stream. A server that sends no line end must not fill this process's memory."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class StreamError(Exception):
    """The server reported an error inside the stream.

    Attributes:
        body: the OpenAI error body, UTF-8 JSON.
        status: its ``code`` where that is an HTTP status of 400 or more, otherwise 500.
    """

    def __init__(self, body: bytes, status: int) -> None:
        super().__init__(body.decode(errors="replace"))
        self.body = body
        self.status = status


class BadChunkError(Exception):
    """The server sent what is no chunk: not UTF-8, not JSON, too long, or not an object like OpenAI's."""


class SseReader:
    """Cuts a byte stream into the ``data:`` payloads of server-sent events (WHATWG HTML, section 9.2).

    OpenAI-compatible servers write one ``data:`` line per event; comments, other fields and ``[DONE]`` are
    dropped.
    """

    def __init__(self) -> None:
        self._rest = bytearray()  # it grows in place: a long line comes in many pieces

    def feed(self, data: bytes) -> list[str]:
        """Return the payloads that ``data`` completes.

        Raises:
            BadChunkError: one is not UTF-8, or too long.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest + lines[0])
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > MAX_EVENT_BYTES:
            raise BadChunkError(f"a line has more than {MAX_EVENT_BYTES} bytes")
        out = []
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload and payload != b"[DONE]":
                    try:
                        out.append(payload.decode())
                    except UnicodeDecodeError as error:
                        raise BadChunkError(f"it is not UTF-8: {payload[:100]!r}") from error
        return out


class Assembler:
    """Collects the chunks of one stream.

    Args:
        chat: chat completions; otherwise completions.
    """

    def __init__(self, *, chat: bool) -> None:
        self.usage: Usage | None = None
        self._chat = chat
        self._top: dict[str, Any] = {}
        self._usage: Any = None
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, frame: str) -> bool:
        """Take the next chunk.

        Returns:
            Whether it carries only usage (its ``choices`` are empty).

        Raises:
            StreamError: it is an error body.
            BadChunkError: it is not JSON, or not an object like OpenAI's.
        """
        try:
            return self._add(_decode(frame), frame)
        except msgspec.DecodeError as error:
            raise BadChunkError(f"it is not JSON: {frame[:100]!r}") from error
        except (TypeError, AttributeError, ValueError) as error:
            raise BadChunkError(f"it is not like OpenAI's: {frame[:100]!r}") from error

    def _add(self, chunk: Any, frame: str) -> bool:
        if "error" in chunk and "choices" not in chunk:
            error = chunk["error"]
            code = error.get("code") if isinstance(error, dict) else None
            raise StreamError(frame.encode(), code if isinstance(code, int) and code >= 400 else 500)
        for key, value in chunk.items():
            if key not in _TOP_SKIPPED and (value is not None or key not in self._top):
                self._top[key] = value
        if chunk.get("usage"):
            self._usage = chunk["usage"]
            self.usage = usage_of(self._usage)
        for choice in chunk.get("choices") or ():
            self._add_choice(choice)
        return not chunk.get("choices")

    def _add_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        held = self._choices.setdefault(index, {"index": index})
        if self._chat:
            _merge_delta(held.setdefault("message", {}), choice.get("delta") or {})
        else:
            held["text"] = held.get("text", "") + (choice.get("text") or "")
        _merge_lists(held, "logprobs", choice.get("logprobs"))
        for key, value in choice.items():
            if key in _CHOICE_SKIPPED:
                continue
            if isinstance(value, list) and isinstance(held.get(key), list):
                held[key] = held[key] + value
            elif value is not None or key not in held:
                held[key] = value

    @property
    def finished(self) -> bool:
        """Whether every choice seen so far was finished, and there is one."""
        return bool(self._choices) and all(held.get("finish_reason") for held in self._choices.values())

    def set_usage(self, usage: Usage) -> None:
        """Set token counts that came outside the stream."""
        self.usage = usage
        self._usage = {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.total_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    def result(self) -> bytes:
        """Write the complete response as UTF-8 JSON."""
        choices = []
        for _, held in sorted(self._choices.items()):
            choice = dict(held)
            if self._chat:
                choice["message"] = _message(held["message"])
            choices.append(choice)
        top = dict(self._top)
        head = {key: top.pop(key) for key in ("id",) if key in top}
        kind = "chat.completion" if self._chat else "text_completion"
        return _encode({**head, "object": kind, **top, "choices": choices, "usage": self._usage})


def usage_of(usage: dict[str, Any]) -> Usage:
    """Read an OpenAI usage object; counts it lacks are 0."""
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(prompt, completion, usage.get("total_tokens") or prompt + completion, cached)


def _merge_delta(held: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta's fields: strings grow, tool calls merge by index, other lists are joined, the rest is
    replaced.
    """
    for key, value in delta.items():
        old = held.get(key)
        if key == "tool_calls":
            calls = held.setdefault(key, {})
            for place, call in enumerate(value or ()):
                _merge_delta(calls.setdefault(call.get("index", place), {}), call)
        elif isinstance(value, str) and isinstance(old, str):
            if key not in _SET_ONCE:
                held[key] = old + value
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge_delta(old, value)
        elif isinstance(value, dict):
            held[key] = {}
            _merge_delta(held[key], value)
        elif isinstance(value, list) and isinstance(old, list):
            held[key] = old + value
        elif value is not None or key not in held:
            held[key] = value


def _merge_lists(held: dict[str, Any], key: str, value: dict[str, Any] | None) -> None:
    """Join the lists inside ``value`` (log-probabilities) to those already held."""
    if not isinstance(value, dict) or not isinstance(held.get(key), dict):
        if value is not None or key not in held:
            held[key] = value
        return
    old = held[key]
    for name, items in value.items():
        old[name] = (
            old[name] + items if isinstance(items, list) and isinstance(old.get(name), list) else items
        )


def _message(held: dict[str, Any]) -> dict[str, Any]:
    """Shape a finished message: role first, content present, tool calls as a list without their stream
    index.
    """
    message = {"role": held.get("role", "assistant"), "content": held.get("content"), **held}
    calls = held.get("tool_calls")
    if calls:
        message["tool_calls"] = [
            {key: value for key, value in call.items() if key != "index"} for _, call in sorted(calls.items())
        ]
        message["content"] = message["content"] or None
    else:
        message.pop("tool_calls", None)
        message["content"] = message["content"] or ("" if not held.get("reasoning") else None)
    return message
