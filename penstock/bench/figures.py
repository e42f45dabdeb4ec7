"""What callers saw, added up while the load runs. Its size does not grow with the number of calls. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from penstock.bench.histogram import Histogram

_MOST_SLICES = 600
_MOST_CODES = 50
OTHER = "other"


@dataclass(slots=True)
class Call:
    """One call as its caller saw it. Times are seconds on one monotonic clock; None: it did not come to that.

    Attributes:
        sent: when its first byte was sent, a new connection included.
        due: when it was to be sent; None: as soon as its caller could.
        first: when the first text came.
        gaps: between two pieces of text.
        ended: when its last byte came, or it failed.
        code: why it failed; empty: it did not.
        message: in words.
        prompt_tokens, tokens: as the server counts; None: it did not say.
        pieces: of text.
    """

    sent: float
    due: float | None = None
    first: float | None = None
    last: float | None = None
    gaps: list[float] = field(default_factory=list)
    ended: float = 0.0
    code: str = ""
    message: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    pieces: int = 0

    @property
    def start(self) -> float:
        """When its caller wanted it. Its latencies count from here: a caller feels the time before it was sent, too."""
        return self.sent if self.due is None else self.due


@dataclass(slots=True)
class Slice:
    """A slice of time: the calls that ended in it, and the tokens that came."""

    calls: int = 0
    errors: int = 0
    tokens: float = 0.0


class Figures:
    """The sums of a run.

    Latencies are of the calls that were due while it was measured. Rates are of what was done in that time: of each call
    the part that lay in it, and of a stream the pieces that came in it.

    Attributes:
        since, until: when measuring began and ended; None: it has not.
        cpu_share: the part of a core that the client itself used; None: not known yet.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.until: float | None = None
        self.cpu_share: float | None = None
        self.sent = self.good = self.in_flight = self.unsent = self.interrupted = 0
        self.done = self.prompt_tokens = self.tokens = 0.0
        self._tokens = self._pieces = 0
        self.counted = True
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.first = Histogram()
        self.gap = Histogram()
        self.per_token = Histogram()
        self.whole = Histogram()
        self.service = Histogram()
        self.late = Histogram()
        self.slice_s = 0.5
        self.slices: list[Slice] = []

    def add(self, call: Call) -> None:
        """Take a call that has ended."""
        if self.since is None:
            return
        tokens = call.pieces if call.tokens is None else call.tokens
        if self._measured(call.ended):
            part = self._slice(call.ended)
            part.errors += bool(call.code)
            part.calls += not call.code
        if not call.code:
            self._count(call, tokens)
        if not self._measured(call.start):
            return
        self.sent += 1
        if call.due is not None:
            self.late.add(max(call.sent - call.due, 0.0))
        if call.code:
            self.fail(call.code, call.message)
            return
        self.good += 1
        self.whole.add(call.ended - call.start)
        self.service.add(call.ended - call.sent)
        if call.first is None:
            return
        self.first.add(call.first - call.start)
        for gap in call.gaps:
            self.gap.add(gap)
        if tokens > 1 and call.last is not None and call.pieces > 1:
            self.per_token.add((call.last - call.first) / (tokens - 1))

    def fail(self, code: str, message: str) -> None:
        """Count an error."""
        if code not in self.errors and len(self.errors) >= _MOST_CODES:
            code = OTHER
        self.errors[code] += 1
        self.examples.setdefault(code, message[:300])

    def interrupt(self, call: Call) -> None:
        """Take a call that was given up: the text that had come of it counts, at the tokens of the others' pieces."""
        self.interrupted += 1
        if self.since is not None:
            self._came(call, self._tokens / self._pieces if self._pieces else 1.0)

    def _measured(self, at: float) -> bool:
        return self.since is not None and at >= self.since and (self.until is None or at <= self.until)

    def _count(self, call: Call, tokens: int) -> None:
        """Count the part of a call that lay in the measured time. Whole calls would leave out those at its edges."""
        assert self.since is not None  # noqa: S101 - add() asked
        until = call.ended if self.until is None else min(call.ended, self.until)
        inside = until - max(call.sent, self.since)
        if inside < 0:
            return
        share = inside / (call.ended - call.sent) if call.ended > call.sent else 1.0
        self.done += share
        self.prompt_tokens += share * (call.prompt_tokens or 0)
        self.counted = self.counted and call.tokens is not None
        if call.first is None:
            self._slice(until).tokens += share * tokens
            self.tokens += share * tokens
        else:
            self._tokens += tokens
            self._pieces += len(call.gaps) + 1
            self._came(call, tokens / (len(call.gaps) + 1))

    def _came(self, call: Call, each: float) -> None:
        """Count the pieces of a stream when they came, at ``each`` tokens."""
        if call.first is None:
            return
        for at in accumulate(call.gaps, initial=call.first):
            if self._measured(at):
                self._slice(at).tokens += each
                self.tokens += each

    def _slice(self, at: float) -> Slice:
        assert self.since is not None  # noqa: S101 - add() asked
        number = int((at - self.since) / self.slice_s)
        while number >= _MOST_SLICES:
            self._halve()
            number = int((at - self.since) / self.slice_s)
        self.slices += [Slice() for _ in range(number + 1 - len(self.slices))]
        return self.slices[number]

    def _halve(self) -> None:
        """Make slices twice as long, so that a long run has as many as a short one."""
        pairs = [self.slices[at : at + 2] for at in range(0, len(self.slices), 2)]
        self.slices = [
            Slice(sum(s.calls for s in two), sum(s.errors for s in two), sum(s.tokens for s in two))
            for two in pairs
        ]
        self.slice_s *= 2

    def seconds(self, now: float) -> float:
        """Return how long it has been measured."""
        return (
            0.0 if self.since is None else max((now if self.until is None else self.until) - self.since, 1e-9)
        )

    def rate(self, amount: float, now: float) -> float:
        """Return an amount a second."""
        seconds = self.seconds(now)
        return amount / seconds if seconds else 0.0

    def series(self, name: str, now: float) -> Sequence[float]:
        """Return ``calls``, ``errors`` or ``tokens`` a second, slice by slice; the last one may be shorter."""
        seconds, found = self.seconds(now), []
        for at, part in enumerate(self.slices):
            length = min(self.slice_s, seconds - at * self.slice_s)
            if length > 0.2 * self.slice_s:
                found.append(getattr(part, name) / length)
        return found

    def as_json(self, now: float) -> dict[str, Any]:
        """Return all of it; times in milliseconds."""
        return {
            "seconds": round(self.seconds(now), 3),
            "requests": {
                "sent": self.sent,
                "succeeded": self.good,
                "failed": sum(self.errors.values()),
                "interrupted": self.interrupted,
                "not_sent": self.unsent,
            },
            "errors": {
                code: {"count": count, "example": self.examples[code]}
                for code, count in self.errors.most_common()
            },
            "rates": {
                "requests_per_s": round(self.rate(self.done, now), 3),
                "output_tokens_per_s": round(self.rate(self.tokens, now), 3),
                "prompt_tokens_per_s": round(self.rate(self.prompt_tokens, now), 3),
            },
            "tokens_counted_by": "server" if self.counted and self.done else "pieces",
            "ttft_ms": self.first.as_json(),
            "inter_token_ms": self.gap.as_json(),
            "time_per_output_token_ms": self.per_token.as_json(),
            "end_to_end_ms": self.whole.as_json(),
            "service_ms": self.service.as_json(),
            "client": {
                "cpu_share": None if self.cpu_share is None else round(self.cpu_share, 3),
                "sent_late_ms_p99": self.late.as_json()["p99"],
            },
            "timeline": {
                "slice_s": self.slice_s,
                **{
                    f"{name}_per_s": [round(one, 2) for one in self.series(name, now)]
                    for name in ("calls", "errors", "tokens")
                },
            },
        }
