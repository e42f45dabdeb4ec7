"""One streamed answer of a model: its text, its reasoning, its tokens and its times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.cli._table import span


@dataclass(slots=True)
class Answer:
    """What came of an answer so far.

    Attributes:
        text, reasoning: pieces, in their order.
        usage: the server's count of tokens; None: it said none.
        finish: why it ended, such as ``stop`` or ``length``; None: it has not, or nobody says.
        first_s: seconds to the first token; None: none came.
        took_s: seconds from the request to the end.
    """

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    usage: Mapping[str, Any] | None = None
    finish: str | None = None
    first_s: float | None = None
    took_s: float = 0.0

    def read(self, chunks: Iterable[Mapping[str, Any]], show: Callable[[str, bool], None]) -> None:
        """Read an answer to its end. What came until an exception is kept.

        Args:
            chunks: of a chat completion.
            show: is called with each piece, and whether it is reasoning.
        """
        began = time.perf_counter()
        try:
            for chunk in chunks:
                self._take(chunk, time.perf_counter() - began, show)
        finally:
            self.took_s = time.perf_counter() - began

    def _take(self, chunk: Mapping[str, Any], at_s: float, show: Callable[[str, bool], None]) -> None:
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage = usage
        choice: Mapping[str, Any] = next(
            (one for one in chunk.get("choices") or () if one.get("index", 0) == 0), {}
        )
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or choice.get("message") or {}  # the latter: an engine that cannot stream
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        for pieces, piece in ((self.reasoning, thought), (self.text, delta.get("content"))):
            if isinstance(piece, str) and piece:
                self.first_s = at_s if self.first_s is None else self.first_s
                pieces.append(piece)
                show(piece, pieces is self.reasoning)

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second from the first one on; None: it is not known."""
        made = int((self.usage or {}).get("completion_tokens") or 0)
        if self.first_s is None or made < 2 or self.took_s <= self.first_s:
            return None
        return (made - 1) / (self.took_s - self.first_s)

    def summary(self) -> str:
        """Say its tokens and times in one line."""
        usage, rate = self.usage, self.tokens_per_s
        cached = ((usage or {}).get("prompt_tokens_details") or {}).get("cached_tokens")
        parts = (
            f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
            if usage
            else None,
            f"{cached} from the cache" if cached else None,
            None if self.first_s is None else f"first token after {span(self.first_s)}",
            None if rate is None else f"{rate:.1f} tok/s",
            f"{span(self.took_s)} in all",
            None if self.finish in {None, "stop"} else f"ended by {self.finish}",
        )
        return " · ".join(filter(None, parts))

    def as_json(self, model: str) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "model": model,
            "content": "".join(self.text),
            "reasoning": "".join(self.reasoning) or None,
            "finish_reason": self.finish,
            "usage": self.usage,
            "timings": {
                "first_token_s": None if self.first_s is None else round(self.first_s, 4),
                "total_s": round(self.took_s, 4),
                "tokens_per_s": None if self.tokens_per_s is None else round(self.tokens_per_s, 2),
            },
        }
