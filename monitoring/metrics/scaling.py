"""Metrics by which autoscalers decide. Part of :class:`monitoring.metrics.SharedState`."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from jobs.scaling import Backlog, Replica, by_deadline


class ScalingState:
    """Gauges of the work of each pool; the same numbers as ``GET /v1/autoscaling/{pool}`` answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._backlog = Gauge(
            "penstock_pool_backlog_jobs",
            "Jobs that wait or run, by pool; of batches, all rows that are not done.",
            ["pool"],
            registry=registry,
        )
        self._oldest = Gauge(
            "penstock_pool_oldest_seconds",
            "Seconds that the longest waiting job of the pool has waited; 0 if none waits.",
            ["pool"],
            registry=registry,
        )
        self._replicas = Gauge(
            "penstock_pool_deadline_replicas",
            "Workers with which what waits starts before the first deadline of its lane, by pool; 0 while nothing waits.",
            ["pool"],
            registry=registry,
        )

        self._declared = Gauge(
            "penstock_pool_scales_from_zero",
            "1 if the pool was declared: its requests are queued while it has no worker, which something starts; else 0.",
            ["pool"],
            registry=registry,
        )

        self._known: set[str] = set()

    def take(self, pools: Iterable[tuple[str, Backlog, Replica, bool]]) -> None:
        """Take every pool: its name, its work, what one more worker brings, and whether it was declared.

        A pool that is not among them has no series any more: an autoscaler must not act on what is not so.
        """
        seen = set()
        for pool, backlog, replica, declared in pools:
            seen.add(pool)
            self._backlog.labels(pool).set(backlog.value)
            self._oldest.labels(pool).set(backlog.oldest_s)
            self._replicas.labels(pool).set(by_deadline(backlog, replica))
            self._declared.labels(pool).set(declared)
        for pool in self._known - seen:
            for gauge in (self._backlog, self._oldest, self._replicas, self._declared):
                gauge.remove(pool)
        self._known = seen
