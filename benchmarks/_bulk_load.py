"""A saturating bulk load: asynchronous jobs in the lane ``bulk``, topped up so that it never runs out."""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from _calls import WORDS, Base, chat
from _client import Connection, drive

UNTRACED = "traceparent: 00-11111111111111111111111111111111-1111111111111111-00\r\n"
"""The caller decides that nothing of it is traced."""

_LOOK_EVERY_S = 0.5
MOST_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of bulk.

    Attributes:
        says: in words, for the page.
        words: of a prompt, fewest and most.
        spread: standard deviation of the logarithm of the lengths; their mean is 128 tokens, cut off at ``MOST_TOKENS``.
        depth: jobs kept waiting.
    """

    says: str
    words: tuple[int, int] = (8, 8)
    spread: float = 0.0
    depth: int = 2000

    def row(self, dice: random.Random) -> tuple[int, int]:
        """Return the words and the tokens of the next job."""
        tokens = dice.lognormvariate(math.log(128) - self.spread**2 / 2, self.spread)
        return dice.randint(*self.words), max(1, min(MOST_TOKENS, round(tokens)))


KINDS: dict[str, Kind] = {
    "equal": Kind("short prompts, 128 tokens each"),
    "lognormal": Kind(
        "prompts of 30 to 300 words, log-normal lengths of 128 tokens on average, at most 512",
        words=(30, 300),
        spread=0.8,
    ),
    "long": Kind("prompts of 2,000 tokens, 128 tokens each", words=(1520, 1520), depth=500),
}


async def ask(base: Base, path: str, method: str = "GET") -> Any:
    """Ask for a JSON page."""
    link = Connection(*base)
    reply = await link.request(method, path, b"", UNTRACED)
    link.close()
    return json.loads(reply.body)


class Feeder:
    """Keeps ``kind.depth`` jobs waiting in a lane.

    Attributes:
        least: the fewest that waited when it looked.
    """

    def __init__(self, base: Base, model: str, kind: Kind, seed: int, lane: str = "bulk") -> None:
        self._base, self._kind, self._lane = base, kind, lane
        self._bodies = self._make(model, random.Random(seed))
        self.least = kind.depth

    def _make(self, model: str, dice: random.Random) -> Iterator[bytes]:
        begun = dice.getrandbits(32)
        n = 0
        while True:
            words, tokens = self._kind.row(dice)
            text = " ".join([f"Row {begun:x} {n}", *dice.choices(WORDS, k=max(words - 3, 1))])
            yield json.dumps({"priority": self._lane, "input": chat(model, text, tokens)}).encode()
            n += 1

    async def fill(self, jobs: int) -> None:
        """Submit jobs as fast as they are taken."""
        bodies = [next(self._bodies) for _ in range(jobs)]
        await drive(self._base, "/v1/jobs", bodies, 16, UNTRACED)

    async def waiting(self) -> int:
        """Return how many jobs wait in the lane."""
        pools = (await ask(self._base, "/v1/queues"))["data"]
        return sum(lane["queued"] for pool in pools for lane in pool["lanes"] if lane["lane"] == self._lane)

    async def run(self) -> None:
        """Top up until cancelled, evenly over the time between two looks: a burst of submissions would be felt, too."""
        link, loop = Connection(*self._base), asyncio.get_running_loop()
        while True:
            began, queued = loop.time(), await self.waiting()
            self.least = min(self.least, queued)
            missing = max(self._kind.depth - queued, 0)
            for n in range(missing):
                reply = await link.request("POST", "/v1/jobs", next(self._bodies), UNTRACED)
                if reply.status >= 300:
                    raise RuntimeError(f"a bulk job was answered {reply.status}: {reply.body[:300]!r}")
                await asyncio.sleep(began + _LOOK_EVERY_S * (n + 1) / missing - loop.time())
            await asyncio.sleep(began + _LOOK_EVERY_S - loop.time())


async def clear(base: Base, lane: str = "bulk", rest_s: float = 4.0) -> None:
    """Purge a lane, and wait until the workers are idle. vLLM's processes spin for some seconds after that: ``rest_s``.

    With ``rest_s`` 0 it only purges.
    """
    for pool in (await ask(base, "/v1/queues"))["data"]:
        await ask(base, f"/v1/queues/{pool['pool']}/{lane}", "DELETE")
    if not rest_s:
        return
    while any(worker["running"] for worker in (await ask(base, "/v1/workers"))["data"]):  # noqa: ASYNC110
        await asyncio.sleep(0.3)
    await asyncio.sleep(rest_s)


@asynccontextmanager
async def bulk(
    base: Base, model: str, kind: Kind, seed: int, settle_s: float, rest_s: float = 4.0
) -> AsyncIterator[Feeder]:
    """Keep bulk running during the block; yields its :class:`Feeder`. ``rest_s``: see :func:`clear`."""
    feeder = Feeder(base, model, kind, seed)
    await feeder.fill(kind.depth)
    task = asyncio.create_task(feeder.run())
    try:
        await asyncio.sleep(settle_s)
        yield feeder
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await clear(base, rest_s=rest_s)
        print(f"bulk: fewest that waited: {feeder.least}", file=sys.stderr, flush=True)
