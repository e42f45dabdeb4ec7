"""Metrics of what is in Redis: the same in every api process, so expressions take ``max by`` over the api processes.

The api reads the facts (:mod:`jobs.facts`) every ``catalogue_refresh_s`` and hands them over.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from jobs.facts import QueueFacts, RedisFacts, WorkerFacts
from jobs.worker_states import WorkerState
from monitoring.metrics.common import TenantNames
from monitoring.metrics.scaling import ScalingState
from monitoring.metrics.webhooks import WebhookState

UNATTENDED_ENDS = (("cancelled", ""), ("expired", ""), ("failed", "worker_lost"))
"""State and code of jobs that end without a worker; other codes come from an identical job that ran."""


class SharedState:
    """Gauges of the contents of Redis, and counters of workers that joined and left.

    Args:
        tenants: tenants whose waiting jobs are counted by name.

    Attributes:
        scaling: those of autoscaling; ``webhooks``: of webhooks.
    """

    def __init__(self, registry: CollectorRegistry, tenants: TenantNames | None = None) -> None:
        self._tenants = TenantNames() if tenants is None else tenants
        self._max_active: int | None = None
        self._counted: dict[tuple[str, str, str, str], int] = {}
        self._make_queues(registry)
        self._make_pools(registry)
        self._make_redis(registry)
        self.scaling = ScalingState(registry)
        self.webhooks = WebhookState(registry)
        self._seen: dict[str, str] | None = None
        self._pools: set[str] = set()

    def _make_queues(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.queue_depth = gauge("api_queue_depth", "Jobs waiting, by pool and lane.", ["pool", "lane"])
        self.oldest = gauge(
            "penstock_oldest_queued_age_seconds",
            "Seconds since the longest waiting job entered its queue, by pool and lane; 0 where none waits.",
            ["pool", "lane"],
        )
        self.jobs_held = gauge(
            "penstock_jobs_held",
            "Jobs whose records Redis holds, by state; finished ones are held for `retention_s`.",
            ["state"],
        )
        self.delayed = gauge(
            "penstock_jobs_delayed", "Queued jobs that wait for the time of their next attempt."
        )
        self.dead = gauge("penstock_jobs_dead", "Jobs that failed or expired and were not repeated.")
        self.tenant_waiting = gauge(
            "penstock_tenant_waiting_jobs",
            "Jobs waiting in all lanes, by pool and tenant.",
            ["pool", "tenant"],
        )
        self.batches = gauge("penstock_batches_active", "Batches that have not ended.")
        self.coordinators = gauge(
            "penstock_coordinators", "Coordinators that are alive; without one no batch advances."
        )
        self.ended = counter(
            "penstock_jobs_ended_without_worker_total",
            "Jobs that no worker ended: cancelled or expired in the queue, lost with their worker, or as an identical job.",
            ["pool", "lane", "state", "code"],
        )

    def _make_pools(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.paused = gauge("penstock_pool_paused", "1 while the pool is paused, else 0.", ["pool"])
        self.workers = gauge(
            "penstock_workers", "Workers whose lease is alive, by pool and state.", ["pool", "state"]
        )
        self.active = gauge(
            "penstock_pool_active_jobs",
            "Jobs that the pool's live workers run, as of their last heartbeats; of batches, the rows on the engines.",
            ["pool"],
        )
        self.capacity = gauge(
            "penstock_pool_capacity_jobs",
            "Jobs that the pool may run at once: what its workers take (only ready ones take any), or `max_active` if less.",
            ["pool"],
        )
        self.joined = counter(
            "penstock_worker_joins_total",
            "Worker incarnations that this api process saw take out a lease.",
            ["pool"],
        )
        self.left = counter(
            "penstock_worker_leaves_total",
            "Worker incarnations that this api process saw lose or end their lease.",
            ["pool"],
        )

    def _make_redis(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self.redis_up = gauge(
            "penstock_redis_up",
            "1 if the last look into Redis went well, else 0; then the other figures are from before.",
        )
        self.memory_used = gauge(
            "penstock_redis_memory_used_bytes", "Bytes of memory that Redis's data takes."
        )
        self.memory_max = gauge(
            "penstock_redis_memory_max_bytes", "Redis's `maxmemory` in bytes; 0 means no limit."
        )
        self.memory_system = gauge(
            "penstock_redis_memory_system_bytes",
            "Bytes of memory of the machine that Redis runs on; 0 where Redis does not say.",
        )
        self.aof_enabled = gauge(
            "penstock_redis_aof_enabled", "1 if Redis writes an append-only file, else 0."
        )
        self.persistence_ok = gauge(
            "penstock_redis_persistence_ok",
            "1 if the last write of this kind to Redis's disk went well, else 0; `aof` is 1 where it is off.",
            ["kind"],
        )
        self.clients = gauge("penstock_redis_clients", "Connections that Redis has.")
        self.evicted = gauge(
            "penstock_redis_evicted_keys",
            "Keys that Redis threw away for want of memory since its start; any is data loss.",
        )
        self.uptime = gauge("penstock_redis_uptime_seconds", "Seconds since Redis's start.")
        for kind in ("aof", "rdb"):
            self.persistence_ok.labels(kind)

    def take_queues(self, facts: QueueFacts) -> None:
        """Take the facts of the queues."""
        for (pool, lane), depth in facts.depths.items():
            self.queue_depth.labels(pool, lane).set(depth)
            self.oldest.labels(pool, lane).set(max(0.0, facts.oldest_s.get((pool, lane), 0.0)))
        for name, held in facts.states.items():
            self.jobs_held.labels(name).set(held)
        self.delayed.set(facts.delayed)
        self.dead.set(facts.dead)
        self.batches.set(facts.batches)
        self.coordinators.set(facts.coordinators)
        self._max_active = facts.max_active
        for pool, paused in facts.paused.items():
            self.paused.labels(pool).set(paused)
            waiting = Tally(dict.fromkeys(self._tenants, 0))
            for (place, tenant), jobs in facts.tenants.items():
                if place == pool:
                    waiting[self._tenants.label(tenant)] += jobs
            for name, jobs in waiting.items():
                self.tenant_waiting.labels(pool, name).set(jobs)
        self._take_ends(facts)

    def _take_ends(self, facts: QueueFacts) -> None:
        """Add the ends since the last time; a Redis that came back empty starts at 0."""
        at_0 = {(*place, *end): 0 for place in facts.depths for end in UNATTENDED_ENDS}
        for labels, jobs in (at_0 | dict(facts.ended)).items():
            before = self._counted.get(labels, 0)
            self.ended.labels(*labels).inc(jobs - before if jobs >= before else jobs)
            self._counted[labels] = jobs

    def take_workers(self, workers: Iterable[WorkerFacts], pools: Iterable[str]) -> None:
        """Take the live workers.

        Args:
            workers: every worker with a live lease.
            pools: every known pool, so that the series of a pool without workers are 0.
        """
        workers = list(workers)
        self._pools |= {*pools, *(worker.pool for worker in workers)}
        alive = Tally((worker.pool, worker.state) for worker in workers)
        for pool in self._pools:
            mine = [worker for worker in workers if worker.pool == pool]
            for state in WorkerState:
                self.workers.labels(pool, state).set(alive[pool, state])
            self.active.labels(pool).set(sum(worker.active for worker in mine))
            capacity = sum(worker.capacity for worker in mine if worker.state == WorkerState.READY)
            self.capacity.labels(pool).set(min(capacity, self._max_active or capacity))
            self.joined.labels(pool)
            self.left.labels(pool)
        now = {worker.incarnation: worker.pool for worker in workers}
        if self._seen is not None:  # workers present at this process's first look did not join now
            for incarnation in now.keys() - self._seen.keys():
                self.joined.labels(now[incarnation]).inc()
            for incarnation in self._seen.keys() - now.keys():
                self.left.labels(self._seen[incarnation]).inc()
        self._seen = now

    def take_redis(self, facts: RedisFacts) -> None:
        """Take Redis's own figures."""
        self.memory_used.set(facts.memory_used_bytes)
        self.memory_max.set(facts.memory_max_bytes)
        self.memory_system.set(facts.memory_system_bytes)
        self.aof_enabled.set(facts.aof_enabled)
        self.persistence_ok.labels("aof").set(facts.aof_ok)
        self.persistence_ok.labels("rdb").set(facts.rdb_ok)
        self.clients.set(facts.clients)
        self.evicted.set(facts.evicted)
        self.uptime.set(facts.uptime_s)
