"""Reasoning in compact streams: vLLM's own parser of the request reads its text in the tap, and each delta has a channel.

Nothing here knows a model's marks. A delta is vLLM's ``DeltaMessage``; its JSON is vLLM's too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jobs.stream_chunks import Text
from workers.engines.vllm.compact import Forms, encode_str

_MARK = "\N{OPEN BOX}"


class DeltaForms:
    """The JSON of a parser's deltas with one text: it is always the same, but not for every parser.

    Attributes:
        now: the forms that streams begin with. A delta of another form is sent as a whole chunk, and is the form of the
            streams to come.
    """

    def __init__(self, delta: type[Any]) -> None:
        """Begin with the plainest ones.

        Args:
            delta: vLLM's ``DeltaMessage``.

        Raises:
            ValueError: this vLLM's has other members.
        """
        self._delta = delta
        self._known: dict[tuple[object, ...], tuple[str, str]] = {}
        self.now = Forms(self._cut(delta(content=_MARK)), self._cut(delta(reasoning=_MARK)))

    def of(self, delta: Any) -> tuple[bool, str, tuple[str, str]] | None:
        """Return whether a delta is reasoning, its text and its form; None: it is not one text."""
        content, reasoning = delta.content, delta.reasoning
        if type(delta) is not self._delta or delta.tool_calls or bool(content) is bool(reasoning):
            return None
        said = delta.model_fields_set
        key = (
            content is None,
            reasoning is None,
            bool(reasoning),
            "role" in said,
            *map(said.__contains__, _BOTH),
        )
        form = self._known.get(key)
        if form is None:
            form = self._known[key] = self._cut(delta.model_copy(update={_BOTH[bool(reasoning)]: _MARK}))
        reasons = bool(reasoning)
        if self.now[reasons] is not form:
            self.now = self.now._replace(**{_BOTH[reasons]: form})
        return reasons, reasoning or content, form

    @staticmethod
    def _cut(delta: Any) -> tuple[str, str]:
        before, mark, after = as_json(delta).partition(encode_str(_MARK).decode())
        if not mark or _MARK in after:
            raise ValueError(f"no delta with one text: {delta}")
        return before, after


_BOTH = ("content", "reasoning")
"""The members of a delta that are texts: in the order of :class:`Forms`."""


class Reader:
    """Splits the text of one request.

    Args:
        parser: vLLM's, of this request alone.
        request: the request that it parses for.
        forms: of this engine's deltas.
        counts: whether the usage chunk says how many tokens the reasoning has.
    """

    def __init__(self, parser: Any, request: Any, forms: DeltaForms, *, counts: bool) -> None:
        self._parser, self._request, self._forms, self._counts = parser, request, forms, counts
        self._tools = False
        self.forms = forms.now

    def delta(self, choice: Any, output: Any) -> Any:
        """Parse the next output. Returns vLLM's delta, or None if the parser holds the text back."""
        delta = self._parser.parse_delta(
            delta_text=choice.text,
            delta_token_ids=list(choice.token_ids),
            request=self._request,
            prompt_token_ids=output.prompt_token_ids,
            finished=choice.finish_reason is not None,
        )
        self._tools = self._tools or bool(delta is not None and delta.tool_calls)
        return delta

    def text(self, delta: Any) -> Text | None:
        """Return a delta as the text of a channel; None: the stream's head has no form for it."""
        found = self._forms.of(delta)
        if found is None:
            return None
        reasoning, text, form = found
        return Text(text, reasoning) if form == self.forms[reasoning] else None

    @staticmethod
    def json(delta: Any) -> str:
        """Return a delta as vLLM writes it."""
        return as_json(delta)

    def last(self, delta: Any) -> str:
        """Return the JSON of a stream's last delta, which may be None."""
        return "{}" if delta is None else as_json(delta)

    def finish_reason(self, reason: str) -> str:
        """Return the reason that the client gets: that of a request that calls tools has a name of its own."""
        return "tool_calls" if self._tools and reason == "stop" else reason

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int | None:
        """Count the tokens of the reasoning among all of the request."""
        return int(self._parser.count_reasoning_tokens(tuple(token_ids))) if self._counts else None


def as_json(delta: Any) -> str:
    """Write a delta as vLLM does."""
    text: str = delta.model_dump_json(exclude_unset=True)
    return text


_MAKE = "_make_parser"
"""vLLM's method that makes the parser of a request."""


def read_with_parsers(serving: Any, taps: Mapping[str, Any]) -> bool:
    """Have vLLM's chats give the tap of a request its parser.

    Args:
        serving: vLLM's handler of chats. A request whose id is in ``taps`` must have it in its body too.
        taps: see :func:`workers.engines.vllm.tap.tapped`.

    Returns:
        False: this vLLM parses otherwise, so that its own chunks must go to the client.
    """
    from vllm.entrypoints.generate.base.protocol import DeltaMessage

    make = getattr(serving, _MAKE, None)
    if make is None or not callable(getattr(serving.parser_cls, "parse_delta", None)):
        return False
    try:
        forms = DeltaForms(DeltaMessage)
    except ValueError:
        return False
    counts = bool(getattr(serving, "_include_reasoning_tokens_details", False))

    def make_parser(request: Any, tokenizer: Any, chat_template_kwargs: Any) -> Any:
        tap = taps.get(f"chatcmpl-{request.request_id}")
        if tap is not None:
            again = partial(make, request, tokenizer, chat_template_kwargs)
            tap.reads = lambda: Reader(again(), request, forms, counts=counts)
        return make(request, tokenizer, chat_template_kwargs)

    setattr(serving, _MAKE, make_parser)
    return True
