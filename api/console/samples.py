"""The last hour of each pool, for the charts: a ring of samples in this process."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Final

from jobs.facts import QueueFacts

PERIOD_S: Final = 10.0
POINTS: Final = 360
_MOST_POOLS: Final = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """A pool at one time. ``jobs_per_s`` and ``tokens_per_s``: as its workers reported them."""

    at: int
    queued: int
    running: int
    slots: int
    jobs_per_s: float
    tokens_per_s: float


NAMES: Final = tuple(Sample.__dataclass_fields__)


class Samples:
    """Keeps a sample of every pool each :data:`PERIOD_S`, for an hour. Of more than 64 pools, the latest seen are kept.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._pools: OrderedDict[str, deque[Sample]] = OrderedDict()
        self._taken_at = 0.0

    @property
    def version(self) -> int:
        """It changes with every sample."""
        return int(self._taken_at)

    def take(self, queues: QueueFacts, workers: Iterable[Mapping[str, Any]]) -> None:
        """Take a sample, if it is time.

        Args:
            queues: what the process has just read for its metrics.
            workers: the live workers, as their heartbeats say.
        """
        now = self._clock()
        if now - self._taken_at < PERIOD_S:
            return
        self._taken_at = now
        queued: dict[str, int] = {}
        for (pool, _), waiting in queues.depths.items():
            queued[pool] = queued.get(pool, 0) + waiting
        said: dict[str, list[Mapping[str, Any]]] = {pool: [] for pool in queued}
        for worker in workers:
            said.setdefault(worker.get("pool", "default"), []).append(worker)
        for pool, here in said.items():
            self._note(pool, Sample(int(now), queued.get(pool, 0), *_sums(here)))

    def of(self, pool: str, after: int = 0) -> dict[str, list[float]]:
        """Return a pool's samples as columns by name. ``after``: only later ones, in Unix seconds."""
        rows = [astuple(one) for one in self._pools.get(pool, ()) if one.at > after]
        return dict(
            zip(NAMES, map(list, zip(*rows, strict=True)) if rows else [[] for _ in NAMES], strict=True)
        )

    def _note(self, pool: str, sample: Sample) -> None:
        ring = self._pools.setdefault(pool, deque(maxlen=POINTS))
        ring.append(sample)
        self._pools.move_to_end(pool)
        if len(self._pools) > _MOST_POOLS:
            self._pools.popitem(last=False)


def _sums(workers: Iterable[Mapping[str, Any]]) -> tuple[int, int, float, float]:
    running = slots = 0
    jobs = tokens = 0.0
    for worker in workers:
        running += worker.get("running") or 0
        slots += worker.get("capacity") or 0
        jobs += worker.get("jobs_per_s") or 0.0
        tokens += worker.get("tokens_per_s") or 0.0
    return running, slots, round(jobs, 2), round(tokens, 1)
