"""From a stream's events to the complete answer: pure, for Responses and Anthropic's Messages.

Both name each event by its ``type`` and end by themselves. OpenAI's ``response.completed`` has the whole answer in it, so
that the deltas only count when a stream is stopped early; Anthropic's events are the answer in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from jobs.anthropic import STATUSES
from jobs.endpoints import MESSAGES, RESPONSES
from jobs.failures import FAILURES, code_for_status
from jobs.floats import read_float
from workers.engines.assemble import BadChunkError, StreamError

_decode = msgspec.json.Decoder(float_hook=read_float).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_STATUSES = STATUSES | {"invalid_prompt": 400, "rate_limit_exceeded": 429}
"""HTTP statuses by the names that OpenAI and Anthropic give to errors; any other is 500."""

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_PARTS = {"content_part": "content", "reasoning_part": "content", "reasoning_summary_part": "summary"}
"""Members of an item that are lists of parts, by the events of a part."""

_PART_TEXTS = {
    "output_text": ("content", "text"),
    "reasoning_text": ("content", "text"),
    "refusal": ("content", "refusal"),
    "reasoning_summary_text": ("summary", "text"),
}
_ITEM_TEXTS = {"function_call_arguments": "arguments", "custom_tool_call_input": "input"}
_BLOCK_TEXTS = {"text_delta": "text", "thinking_delta": "thinking"}


class _Text:
    """A text that grows: joined once, when it is encoded."""

    __slots__ = ("parts",)

    def __init__(self, begin: str) -> None:
        self.parts = [begin]

    def join(self) -> str:
        return "".join(self.parts)


_encode = msgspec.json.Encoder(enc_hook=_Text.join).encode


class EventAssembler(Protocol):
    """Collects the events of one stream.

    Attributes:
        finished: the stream's own end has come.
    """

    finished: bool

    def add(self, frame: str) -> bool:
        """Take the next event.

        Returns:
            Whether it belongs to the end of the whole answer.

        Raises:
            StreamError: it is an error.
            BadChunkError: it is not JSON, or no event of this kind of stream.
        """

    def result(self) -> bytes:
        """Write the complete answer, or the part so far if the stream was stopped. UTF-8 JSON."""


def assembler_for(path: str) -> EventAssembler:
    """Return what collects the events of an endpoint that streams events."""
    kinds: dict[str, Callable[[], EventAssembler]] = {RESPONSES: ResponseEvents, MESSAGES: MessageEvents}
    return kinds[path]()


def ended_early(answer: bytes) -> bytes:
    """Mark an answer of ``/v1/responses`` that was aborted: vLLM calls it completed. Other members keep their bytes."""
    members = _members(answer)
    members["status"] = msgspec.Raw(b'"cancelled"')
    return _encode(members)


class ResponseEvents:
    """The events of ``/v1/responses``; see :class:`EventAssembler`."""

    def __init__(self) -> None:
        self.finished = False
        self._whole = b""
        self._response: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}

    def add(self, frame: str) -> bool:
        """See the Protocol."""
        return _read(frame, self._add)

    def _add(self, event: dict[str, Any], frame: str) -> bool:
        kind: str = event["type"]
        if kind in _ENDS:
            self._response = dict(event["response"])
            self._whole = bytes(_members(frame)["response"])
            self.finished = True
        else:
            with suppress(
                LookupError, TypeError, AttributeError
            ):  # servers differ in them, and the end has it all
                self._grow(kind.removeprefix("response."), event)
        return self.finished

    def _grow(self, kind: str, event: dict[str, Any]) -> None:
        if "response" in event:
            self._response = dict(event["response"])
            return
        at, (name, _, what) = event["output_index"], kind.rpartition(".")
        if name == "output_item":
            self._items[at] = dict(event["item"])
        elif name in _PARTS:
            member = _PARTS[name]
            parts, index = self._items[at].get(member) or [], event[f"{member}_index"]
            self._items[at][member] = [*parts[:index], dict(event["part"]), *parts[index + 1 :]]
        elif what == "delta" and name in _PART_TEXTS:
            member, text = _PART_TEXTS[name]
            _grow_text(self._items[at][member][event[f"{member}_index"]], text, event["delta"])
        elif what == "delta" and name in _ITEM_TEXTS:
            _grow_text(self._items[at], _ITEM_TEXTS[name], event["delta"])

    def result(self) -> bytes:
        """See the Protocol."""
        if self._whole:
            return self._whole
        output = [item for _, item in sorted(self._items.items())]
        return _encode({**self._response, "output": output, "status": "cancelled"})


class MessageEvents:
    """The events of ``/v1/messages``; see :class:`EventAssembler`."""

    def __init__(self) -> None:
        self.finished = False
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, _Text] = {}

    def add(self, frame: str) -> bool:
        """See the Protocol."""
        return _read(frame, self._add)

    def _add(self, event: dict[str, Any], _: str) -> bool:
        kind = event["type"]
        if kind == "message_start":
            self._message = dict(event["message"])
            self._usage = dict(self._message.get("usage") or {})
        elif kind == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            self._grow(event["index"], event["delta"])
        elif kind == "message_delta":
            self._message |= event["delta"]
            self._usage |= {
                name: count for name, count in (event.get("usage") or {}).items() if count is not None
            }
        self.finished = self.finished or kind == "message_stop"
        return kind in {"message_delta", "message_stop"}

    def _grow(self, index: int, delta: dict[str, Any]) -> None:
        block, kind = self._blocks[index], delta["type"]
        if kind in _BLOCK_TEXTS:
            _grow_text(block, _BLOCK_TEXTS[kind], delta[_BLOCK_TEXTS[kind]])
        elif kind == "input_json_delta":
            _grow_text(self._inputs, index, delta["partial_json"])
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]

    def result(self) -> bytes:
        """See the Protocol. A tool's input that is not complete keeps the value that its block began with."""
        for index, text in self._inputs.items():
            with suppress(msgspec.DecodeError):
                self._blocks[index]["input"] = _decode(text.join())
        content = [block for _, block in sorted(self._blocks.items())]
        return _encode({**self._message, "content": content, "usage": self._usage})


def _grow_text(holder: dict[Any, Any], name: Any, delta: str) -> None:
    held = holder.get(name)
    if not isinstance(held, _Text):
        held = holder[name] = _Text(held or "")
    held.parts.append(delta)


def _read(frame: str, take: Callable[[dict[str, Any], str], bool]) -> bool:
    """Decode an event and hand it on; an error event is raised."""
    try:
        event = _decode(frame)
        if event.get("type", "error") == "error":
            raise _error(event, frame)
        return take(event, frame)
    except msgspec.DecodeError as error:
        raise BadChunkError(f"it is not JSON: {frame[:100]!r}") from error
    except (TypeError, AttributeError, ValueError, LookupError, RecursionError) as error:
        raise BadChunkError(f"it is no event of this stream: {frame[:100]!r}") from error


def _error(event: dict[str, Any], frame: str) -> Exception:
    """Read an error event: Anthropic's and vLLM's have a member ``error``, in OpenAI's the event itself is the error."""
    told = event.get("error", event)
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        return BadChunkError(f"it is no event of this stream: {frame[:100]!r}")
    given = [value for value in (told.get("code"), told.get("type")) if value is not None]
    status = next((value for value in given if isinstance(value, int) and value >= 400), None)
    if status is None:
        status = next((_STATUSES[value] for value in given if value in _STATUSES), 500)
    if told is not event:
        return StreamError(frame.encode(), status)
    kind = FAILURES[code_for_status(status)].error_type
    body = {"message": told["message"], "type": kind, "param": told.get("param"), "code": told.get("code")}
    return StreamError(_encode({"error": body}), status)
