"""Metrics of a worker's engine, read at the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from jobs.facts import EngineStats
from monitoring.metrics.common import Asked, Family


class EngineGauges(Asked):
    """The engine's figures; one that it does not report has no series.

    Args:
        ask: returns the engine's state; called in the scrape's thread.
    """

    RUNNING = Family("penstock_engine_requests_running", "Requests in the engine's current batch.")
    WAITING = Family(
        "penstock_engine_requests_waiting", "Requests that the engine holds and has not scheduled."
    )
    KV_CACHE = Family("penstock_engine_kv_cache_usage_ratio", "Part of the KV cache that is in use, 0 to 1.")
    PREEMPTIONS = Family(
        "penstock_engine_preemptions",
        "Requests that the engine took out of its batch again for want of KV cache.",
        counter=True,
    )
    FAMILIES: ClassVar[tuple[Family, ...]] = (RUNNING, WAITING, KV_CACHE, PREEMPTIONS)

    def __init__(self, registry: CollectorRegistry, ask: Callable[[], EngineStats]) -> None:
        self._ask = ask
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Read the engine."""
        state = self._ask()
        said = (state.running, state.waiting, state.kv_cache_usage, state.preemptions)
        for family, value in zip(self.FAMILIES, said, strict=True):
            metric = family.metric()
            if value is not None:
                metric.add_metric([], value)
            yield metric
