"""Compact streams: which requests are plain enough, and the chunk templates learned from the server itself.

Pure. No shape of a chunk is written here: :class:`Shapes` turns chunks that the server sent for probe
requests into templates, and fails if they are not as plain as the compact path needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from jobs.stream_chunks import Frames, Head

_SAMPLING_FIELDS = """
model max_tokens max_completion_tokens temperature top_p top_k min_p seed stop stop_token_ids
frequency_penalty presence_penalty repetition_penalty ignore_eos min_tokens user stream response_format
logit_bias metadata store service_tier priority request_id session_id skip_special_tokens
spaces_between_special_tokens include_stop_str_in_output bad_words allowed_token_ids structured_outputs
cache_salt safety_identifier prompt_cache_key truncate_prompt_tokens
"""

_SAMPLING = frozenset(_SAMPLING_FIELDS.split())
_CHAT = _SAMPLING | {"messages", "chat_template_kwargs", "reasoning_effort"}
_COMPLETION = _SAMPLING | {"prompt"}
_PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "top_logprobs": (0, None),
    "echo": (False, None),
    "tools": (None,),
    "tool_choice": ("none", None),
    "suffix": (None,),
    "use_beam_search": (False,),
    "return_token_ids": (False, None),
    "include_reasoning": (True,),
}

_LOGPROBS = {True: (False, None), False: (None,)}
"""Values of ``logprobs`` that ask for none, by whether it is a chat: in completions it counts the tokens, and 0 asks for
those of the chosen tokens alone."""

encode_str = msgspec.json.Encoder().encode


def plain(body: Mapping[str, Any], *, chat: bool) -> bool | None:
    """Judge whether a request may be streamed compactly.

    Returns:
        None if not; otherwise whether the client asked for the usage chunk.
    """
    known = _CHAT if chat else _COMPLETION
    usage = False
    for key, value in body.items():
        if key in known:
            continue
        if key == "stream_options":
            if value is None:
                continue
            if not isinstance(value, dict) or set(value) - {"include_usage"}:
                return None
            usage = value.get("include_usage", False)
            if not isinstance(usage, bool):
                return None
        else:
            values = _LOGPROBS[chat] if key == "logprobs" else _PLAIN_VALUES.get(key, ())
            if not any(value is one or value == one for one in values):
                return None
    if not chat:
        prompt = body.get("prompt")
        token_ids = isinstance(prompt, list) and bool(prompt) and all(type(item) is int for item in prompt)
        if not isinstance(prompt, str) and not token_ids:
            return None
    return usage


class _Template:
    """A JSON text with holes."""

    def __init__(self, chunk: str, holes: Mapping[str, tuple[str | int, ...]]) -> None:
        """Cut ``chunk`` at the values that the paths in ``holes`` lead to.

        Raises:
            ValueError: a path leads nowhere, or the chunk is not JSON as compact as its own dump.
        """
        tree = json.loads(chunk)
        if _dump(tree) != chunk:
            raise ValueError("the chunk does not survive a round trip")
        marks = {}
        for name, path in holes.items():
            at = tree
            for step in path[:-1]:
                at = at[step]
            if path[-1] not in at:
                raise ValueError(f"the chunk has no {path}")
            at[path[-1]] = marks[name] = f"\N{OPEN BOX}{name}\N{OPEN BOX}"
        text = _dump(tree)
        self.names = sorted(marks, key=lambda name: text.index(_dump(marks[name])))
        self.parts = []
        for name in self.names:
            before, text = text.split(_dump(marks[name]))
            self.parts.append(before)
        self.parts.append(text)

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with JSON values in its holes."""
        out = [self.parts[0]]
        for name, part in zip(self.names, self.parts[1:], strict=True):
            out += (values[name], part)
        return "".join(out)

    def around(self, hole: str, values: Mapping[str, str]) -> tuple[str, str]:
        """Return the text before and after one hole, the others filled."""
        mark = "\N{OPEN BOX}"
        before, after = self.fill({**values, hole: mark}).split(mark)
        return before, after


def _dump(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


class Forms(NamedTuple):
    """The JSON of a delta before and after the string of its one text, by channel."""

    content: tuple[str, str]
    reasoning: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended: the last delta and the engine's reasons; token counts of the whole request.

    Attributes:
        delta: the last text or, if a parser reads the stream, the JSON of the last delta.
        reasoning_tokens: of the completion's tokens; None: no parser of reasoning counts them.
    """

    delta: str
    finish_reason: str
    stop_reason: int | str | None
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None = None


class Shapes:
    """The chunks of one endpoint, as learned, for streams with or without the usage chunk.

    Attributes:
        parsed: a parser of vLLM's reads the text of these streams, so that a delta may say more than its text.
    """

    def __init__(
        self,
        chat: bool,  # noqa: FBT001
        probes: Sequence[Sequence[str]],
        *,
        usage: bool,
        parsed: bool = False,
    ) -> None:
        """Learn from two probe streams: one that ended by length with text, one that ended by a stop token
        with none.

        Raises:
            ValueError: the chunks are not as expected.
            LookupError: likewise.
        """
        by_length, by_stop = probes
        self.parsed = parsed
        delta: tuple[str | int, ...] = ("choices", 0, "delta")
        content = delta if parsed else (*delta, "content") if chat else ("choices", 0, "text")
        base: dict[str, tuple[str | int, ...]] = {"id": ("id",), "created": ("created",), "model": ("model",)}
        end: dict[str, tuple[str | int, ...]] = {
            **base,
            "finish": ("choices", 0, "finish_reason"),
            "stop": ("choices", 0, "stop_reason"),
        }
        frames, ends = list(by_length), list(by_stop)
        self._usage = self._learn_usage(frames, base) if usage else None
        if usage:
            ends.pop()
        self._first = _Template(frames.pop(0), base) if chat else None
        self._last = _Template(frames.pop(), {**end, "text": content})
        texts = {_Template(frame, {**base, "text": content}).fill(_BLANK) for frame in frames}
        if len(texts) != 1:
            raise ValueError("text chunks differ in more than their text")
        self._text = _Template(frames[0], {**base, "text": content})
        empty = json.loads(ends[-1])["choices"][0]
        has_text = parsed or ("content" in empty["delta"] if chat else "text" in empty)
        self._last_empty = _Template(ends[-1], {**end, "text": content} if has_text else end)
        self.model = json.dumps(json.loads(frames[0])["model"], ensure_ascii=False)

    def _learn_usage(self, frames: list[str], base: dict[str, tuple[str | int, ...]]) -> _Template:
        frame = frames.pop()
        holes: dict[str, tuple[str | int, ...]] = {name: ("usage", name) for name in _COUNTS}
        tree = json.loads(frame)
        usage, details = tree["usage"], "completion_tokens_details"
        if self.parsed and set(usage.get(details, ())) == {"reasoning_tokens"}:
            del usage[details]
            holes["reasoning_tokens"] = ("usage", details, "reasoning_tokens")
        if set(usage) != set(_COUNTS) or tree["choices"] or "metrics" in tree:
            raise ValueError("the usage chunk says more than token counts")
        return _Template(frame, {**base, **holes})

    def head(self, values: Mapping[str, str], forms: Forms | None = None) -> Head:
        """Render the opening chunks.

        Args:
            values: JSON of id, created and model.
            forms: those of the stream's deltas, if a parser reads it.
        """
        before, after = self._text.around("text", values)
        first = (self._first.fill(values),) if self._first else ()
        if forms is None:
            return Head(first, before, after)
        (pre, post), (reasoning_pre, reasoning_post) = forms.content, forms.reasoning
        return Head(
            first, before + pre, post + after, reasoning=(before + reasoning_pre, reasoning_post + after)
        )

    def chunk(self, values: Mapping[str, str], delta: str) -> Frames:
        """Render the chunk of a delta, given as JSON, of a stream that a parser reads."""
        return Frames((self._text.fill({**values, "text": delta}),))

    def tail(self, values: Mapping[str, str], end: Ending) -> Frames:
        """Render the closing chunks."""
        last = self._last if end.delta else self._last_empty
        filled = {
            **values,
            "text": end.delta if self.parsed else json.dumps(end.delta, ensure_ascii=False),
            "finish": json.dumps(end.finish_reason),
            "stop": json.dumps(end.stop_reason, ensure_ascii=False),
        }
        frames = [last.fill(filled)]
        if self._usage is not None:
            counts = {
                "prompt_tokens": str(end.prompt_tokens),
                "completion_tokens": str(end.completion_tokens),
                "total_tokens": str(end.prompt_tokens + end.completion_tokens),
                "reasoning_tokens": str(end.reasoning_tokens),
            }
            frames.append(self._usage.fill({**values, **counts}))
        return Frames(tuple(frames))


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_BLANK = {"id": '""', "created": "0", "model": '""', "text": '""'}
