"""Metrics by which autoscalers decide. Part of :class:`monitoring.metrics.SharedState`."""

from __future__ import annotations

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

    def take(self, pool: str, backlog: Backlog, replica: Replica, *, declared: bool) -> None:
        """Take the backlog of a pool, whose next worker would be ``replica``. ``declared``: it scales from zero."""
        self._declared.labels(pool).set(declared)
        self._backlog.labels(pool).set(backlog.value)
        self._oldest.labels(pool).set(backlog.oldest_s)
        self._replicas.labels(pool).set(by_deadline(backlog, replica))
