"""What a worker's engine says at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from monitoring.metrics.common import Asked, Family


class EngineState(Protocol):
    """As ``workers.engines.base.EngineStats``; None for what the engine does not say."""

    @property
    def running(self) -> int | None:
        """Requests in the current batch."""

    @property
    def waiting(self) -> int | None:
        """Requests that it holds and has not scheduled."""

    @property
    def kv_cache_usage(self) -> float | None:
        """0.0 to 1.0."""

    @property
    def preemptions(self) -> int | None:
        """So far."""


class EngineGauges(Asked):
    """Series of what the engine says; what it does not say has no series.

    Args:
        registry: where to register.
        ask: returns the engine's state; called in the thread of the scrape.
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

    def __init__(self, registry: CollectorRegistry, ask: Callable[[], EngineState]) -> None:
        self._ask = ask
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Ask the engine."""
        state = self._ask()
        said = (state.running, state.waiting, state.kv_cache_usage, state.preemptions)
        for family, value in zip(self.FAMILIES, said, strict=True):
            metric = family.metric()
            if value is not None:
                metric.add_metric([], value)
            yield metric
