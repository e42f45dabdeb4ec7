"""Interactive calls: streamed chats that arrive at random, whatever the server does, and what their callers saw."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _client import Connection, percentile

Base = tuple[str, int]
TEXT = "the river turns a wheel and its water goes on down to sea while they look at stone bridge"
WORDS = TEXT.split()
_TEXT = re.compile(rb'"content":"[^"]')  # a part of the answer with text; it may hold several chunks
_WALL_S = time.time() - time.perf_counter()


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When calls come, and how long they are.

    Attributes:
        rate: calls per second (Poisson).
        calls: how many.
        words: of each prompt.
        tokens: of each answer.
        burst_s: None is a steady rate. Otherwise the rate holds for this many seconds, then ``idle_rate`` for ``idle_s``.
    """

    rate: float
    calls: int
    words: int = 300
    tokens: int = 24
    burst_s: float | None = None
    idle_s: float = 0.0
    idle_rate: float = 1.0

    def seconds(self) -> float:
        """Return about how long it takes until the last call has come."""
        if self.burst_s is None:
            return self.calls / self.rate
        per_cycle = self.rate * self.burst_s + self.idle_rate * self.idle_s
        return self.calls / per_cycle * (self.burst_s + self.idle_s)

    def times(self, seed: int) -> list[tuple[float, bool]]:
        """Return the second of each call, and whether it is in a burst; the same for the same seed."""
        dice, at, found = random.Random(seed), 0.0, []
        while len(found) < self.calls:
            at += dice.expovariate(self.rate)
            busy = self.burst_s is None or at % (self.burst_s + self.idle_s) < self.burst_s
            if (
                busy or dice.random() < self.idle_rate / self.rate
            ):  # thinning: the quiet part of the same process
                found.append((at, busy))
        return found


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its caller saw it. ``at_s``: since the spell began; ``late_s``: by how much the client sent it late."""

    at_s: float
    late_s: float
    busy: bool
    trace: str
    sent_ns: int
    first_ns: int
    ttft_ms: float
    gaps_ms: tuple[float, ...]
    prompt: int
    completion: int


def chat(model: str, text: str, tokens: int, **extra: Any) -> dict[str, Any]:
    """Return a request of exactly ``tokens`` tokens."""
    messages = [{"role": "user", "content": text}]
    fixed = {"model": model, "messages": messages, "max_tokens": tokens}
    return fixed | {"ignore_eos": True, "temperature": 0} | extra


class Caller:
    """Makes calls to one server.

    Args:
        base: its host and port.
        model: the name that it serves.
    """

    def __init__(self, base: Base, model: str) -> None:
        self._base, self._model = base, model
        self._idle: list[Connection] = []
        self._round = 0

    async def make(self, arrivals: Arrivals, seed: int) -> list[Call]:
        """Make the calls; the same seed makes the same calls at the same times. No prompt is one of an earlier round."""
        self._round += 1
        dice = random.Random(seed)
        bodies = []
        for n in range(arrivals.calls):
            words = " ".join(dice.choices(WORDS, k=max(arrivals.words - 4, 1)))
            text = f"{self._round:04d} {n:06d} {words}"
            bodies.append(json.dumps(chat(self._model, text, arrivals.tokens, stream=True)).encode())
        loop = asyncio.get_running_loop()
        start, tasks = loop.time(), []
        for (at, busy), body in zip(arrivals.times(seed), bodies, strict=True):
            await asyncio.sleep(start + at - loop.time())
            tasks.append(loop.create_task(self._call(at, loop.time() - start - at, body, busy=busy)))
        return await asyncio.gather(*tasks)

    async def _call(self, at_s: float, late_s: float, body: bytes, *, busy: bool) -> Call:
        link = self._idle.pop() if self._idle else Connection(*self._base)
        trace = secrets.token_hex(16)
        header = f"traceparent: 00-{trace}-{secrets.token_hex(8)}-01\r\n"
        reply = await link.request("POST", "/v1/chat/completions", body, header)
        if reply.status != 200 or b"[DONE]" not in reply.body:
            raise RuntimeError(f"a call was answered {reply.status}: {reply.body[-300:]!r}")
        self._idle.append(link)
        times = [at for at, part in reply.chunks if _TEXT.search(part)]
        usage = json.loads(reply.body.split(b"data: ")[-2])["usage"]
        sent = reply.sent_at + _WALL_S
        return Call(
            at_s=at_s,
            late_s=late_s,
            busy=busy,
            trace=trace,
            sent_ns=int(sent * 1e9),
            first_ns=int((sent + times[0]) * 1e9),
            ttft_ms=times[0] * 1000,
            gaps_ms=tuple((b - a) * 1000 for a, b in itertools.pairwise(times)),
            prompt=usage["prompt_tokens"],
            completion=usage["completion_tokens"],
        )


def quantiles(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentiles."""
    return {f"p{q}": round(percentile(list(values), q / 100), digits) for q in (50, 95, 99)}


def seen(calls: Sequence[Call]) -> dict[str, Any]:
    """Summarise what callers saw; of bursts only the calls within them."""
    counted = [one for one in calls if one.busy]
    return {
        "calls": len(counted),
        "ttft_ms": quantiles([one.ttft_ms for one in counted]),
        "gap_ms": quantiles([gap for one in counted for gap in one.gaps_ms]),
        "prompt_tokens": round(sum(one.prompt for one in counted) / len(counted), 1),
        "sent_late_ms_p99": round(percentile([one.late_s * 1000 for one in counted], 0.99), 1),
    }
