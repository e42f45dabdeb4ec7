"""Facts that operators watch, read at one moment: queues, workers, Redis itself, and a round of the reaper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """The queues.

    Attributes:
        depths: jobs waiting, by (pool, lane).
        oldest_s: seconds since the longest waiting job entered its queue, by (pool, lane); absent if none waits.
        states: records held, by state.
        delayed: queued jobs that wait for their next attempt.
        dead: jobs that failed or expired and were not retried.
        batches: batches that have not ended.
        coordinators: coordinators that are alive.
        paused: whether a pool is paused, by pool.
        tenants: jobs waiting, by (pool, tenant).
        max_active: the setting, jobs of a pool on its engines at once; None: no limit.
        ended: jobs that ended without a worker, ever, by (pool, lane, state, failure code or the empty string).
    """

    depths: Mapping[tuple[str, str], int]
    oldest_s: Mapping[tuple[str, str], float]
    states: Mapping[str, int]
    delayed: int
    dead: int
    batches: int = 0
    coordinators: int = 0
    paused: Mapping[str, bool] = field(default_factory=dict)
    tenants: Mapping[tuple[str, str], int] = field(default_factory=dict)
    max_active: int | None = None
    ended: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One live worker, as its last heartbeat reported it.

    Attributes:
        incarnation: its name with a part that changes with every start.
        pool: whose lanes it serves.
        state: see :class:`jobs.worker_states.WorkerState`.
        active: jobs that it runs; of a batch, its rows on the engine.
        capacity: jobs that it may run at once.
    """

    incarnation: str
    pool: str
    state: str
    active: int
    capacity: int


@dataclass(frozen=True, slots=True)
class WebhookFacts:
    """Webhook endpoints and their outboxes.

    Attributes:
        active, disabled: endpoints by state, of the first thousand.
        overdue: endpoints that should have been served a minute ago, and that no coordinator has taken.
        pending: events that wait at these thousand, and at those of single jobs that are due first.
        oldest_s: seconds that the oldest of these waits at an active endpoint; 0: none waits.
        dead: dead letters that are kept.
        counts: what happened since ever: tries that ``delivered`` and ``failed``, and ``dead:<why>``.
    """

    active: int = 0
    disabled: int = 0
    overdue: int = 0
    pending: int = 0
    oldest_s: float = 0.0
    dead: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What ``INFO`` reports of Redis.

    Attributes:
        memory_used_bytes: memory that its data takes.
        memory_max_bytes: ``maxmemory``; 0: no limit.
        memory_system_bytes: memory of its machine; 0: not reported.
        aof_enabled: whether it writes an append-only file.
        aof_ok: the last write and the last rewrite of that file succeeded, or it is off.
        rdb_ok: the last snapshot succeeded.
        evicted: keys evicted for want of memory, since its start.
        uptime_s: seconds since its start.
    """

    memory_used_bytes: int
    memory_max_bytes: int
    memory_system_bytes: int
    aof_enabled: bool
    aof_ok: bool
    rdb_ok: bool
    clients: int
    evicted: int
    uptime_s: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round of the reaper did.

    Attributes:
        requeued: jobs taken from lost workers and queued again.
        failed: jobs taken from lost workers whose last attempt that was.
        expired: jobs past their deadline.
        retired: records past their retention.
        due: jobs whose next attempt became due.
        aged: jobs that moved up one lane.
        requeued_ids: the first ids of those.
        failed_ids: the first ids of those.
    """

    requeued: int
    failed: int
    expired: int
    retired: int
    due: int
    aged: int
    requeued_ids: tuple[str, ...] = field(default=(), kw_only=True)
    failed_ids: tuple[str, ...] = field(default=(), kw_only=True)

    def __add__(self, other: Reaped) -> Reaped:
        """Return what both did."""
        return Reaped(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )


class EnginePriority(StrEnum):
    """Whether an engine runs a request of a smaller priority number sooner."""

    WORKS = "works"
    IGNORED = "ignored"
    REFUSED = "refused"
    """The server refuses requests that have a priority, so they are sent without."""
    UNKNOWN = "unknown"
    """The server takes priorities, and does not say whether its scheduler follows them."""


@dataclass(frozen=True, slots=True)
class SpeculationStats:
    """How well an engine with speculative decoding guesses. Counts since the start.

    Attributes:
        drafts: guesses: one for each sequence and step.
        drafted: tokens that were guessed.
        accepted: those of them that became output. Each guess that was checked gives one token more.
    """

    drafts: int
    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's own signals. None: it does not report the figure.

    Attributes:
        running: requests in the current batch.
        waiting: requests it holds but has not scheduled.
        kv_cache_usage: 0.0 to 1.0.
        preemptions: requests that lost their place in the batch for lack of KV cache, since the start.
        generated: tokens generated since the start.
        evictions: bulk requests that made way in the batch for others, since the start; no ``preemptions``.
        step_s: what a step costs, in seconds, by part: ``base``, each ``decode``, each ``prompt_token``; empty if unknown.
        speculation: of speculative decoding; None: it has none.
    """

    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    preemptions: int | None = None
    generated: int | None = None
    evictions: int = 0
    step_s: Mapping[str, float] = field(default_factory=dict)
    speculation: SpeculationStats | None = None
