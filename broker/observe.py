"""Reads the facts that operators watch: the queues, the workers and Redis itself. No transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import ResponseError

from broker.db.faults import is_fault
from broker.jobs import StorePart
from broker.queues import PoolView
from jobs.facts import QueueFacts, RedisFacts, WebhookFacts, WorkerFacts
from jobs.states import JobState

log = structlog.get_logger(__name__)

_MOST_WEBHOOKS = 1000
_OVERDUE_MS = 60_000


class Observer(StorePart):
    """Reads the facts of one namespace. Every method raises ``StoreUnavailableError`` if Redis cannot be reached."""

    _info_allowed = True

    async def queues(self, views: Sequence[PoolView]) -> QueueFacts:
        """Read the counts of all jobs, and put them together with those of the pools."""
        ended = [state for state in JobState if state.terminal]
        pipe = self._client.pipeline(transaction=False)
        pipe.zcard(self._keys("delayed"))
        pipe.zcard(self._keys("dead"))
        pipe.scard(self._keys("batches_active"))
        pipe.zcard(self._keys("coordinators"))
        pipe.hgetall(self._keys("uncounted"))
        for state in ended:
            pipe.zcard(self._keys("ended", state.value))
        delayed, dead, batches, alive, uncounted, *counts = await self._execute(pipe.execute())
        lanes = {(view.pool, lane.lane.value): lane for view in views for lane in view.lanes}
        states = dict(zip((state.value for state in ended), counts, strict=True))
        states[JobState.QUEUED.value] = delayed + sum(lane.queued for lane in lanes.values())
        states[JobState.RUNNING.value] = sum(view.running for view in views)
        return QueueFacts(
            depths={place: lane.queued for place, lane in lanes.items()},
            oldest_s={
                place: lane.oldest_ms / 1000 for place, lane in lanes.items() if lane.oldest_ms is not None
            },
            states=states,
            delayed=delayed,
            dead=dead,
            batches=batches,
            coordinators=alive,
            paused={view.pool: view.paused for view in views},
            tenants={
                (view.pool, one.tenant): one.queued for view in views for one in view.tenants if one.queued
            },
            max_active=views[0].max_active if views else None,
            ended={_place(name): int(jobs) for name, jobs in uncounted.items()},
        )

    async def webhooks(self) -> WebhookFacts:
        """Read the endpoints of webhooks, a thousand at most, and their outboxes."""
        keys, now_ms = self._keys, await self._store.now_ms()
        pipe = self._client.pipeline(transaction=False)
        pipe.zrange(keys("webhooks"), 0, _MOST_WEBHOOKS - 1)
        pipe.zrange(keys("webhooks_due"), 0, _MOST_WEBHOOKS - 1)
        pipe.zcount(keys("webhooks_due"), "-inf", now_ms - _OVERDUE_MS)
        pipe.hgetall(keys("webhook_counts"))
        known, due, overdue, counts = await self._execute(pipe.execute())
        counted = {name: int(count) for name, count in counts.items()}
        ids = list(dict.fromkeys([*known, *due]))[:_MOST_WEBHOOKS]
        if not ids:
            return WebhookFacts(counts=counted)
        pipe = self._client.pipeline(transaction=False)
        for ident in ids:
            pipe.hget(keys("webhook", ident), "state")
            pipe.xlen(keys("webhook_outbox", ident))
            pipe.xlen(keys("webhook_dead", ident))
            pipe.xrange(keys("webhook_outbox", ident), count=1)
        found = iter(await self._execute(pipe.execute()))
        rows = list(zip(ids, found, found, found, found, strict=False))
        listed = set(known)
        states = [state for ident, state, *_ in rows if ident in listed]
        active = [
            int(first[0][0].partition("-")[0]) for _, state, *_, first in rows if first and state == "active"
        ]
        return WebhookFacts(
            active=states.count("active"),
            disabled=states.count("disabled"),
            overdue=overdue,
            pending=sum(waiting for _, _, waiting, _, _ in rows),
            oldest_s=max(0, now_ms - min(active, default=now_ms)) / 1000,
            dead=sum(dead for *_, dead, _ in rows),
            counts=counted,
        )

    async def redis(self) -> RedisFacts | None:
        """Read Redis's own figures. None: an ACL forbids ``INFO`` to this user."""
        if not self._info_allowed:
            return None
        try:
            info: Mapping[str, Any] = await self._execute(self._info())
        except _InfoForbiddenError as error:
            log.warning("no_redis_metrics", error=str(error))
            self._info_allowed = False
            return None
        ok = "ok"
        aof_on = bool(info.get("aof_enabled"))
        aof_ok = info.get("aof_last_write_status") == ok == info.get("aof_last_bgrewrite_status")
        return RedisFacts(
            memory_used_bytes=int(info.get("used_memory", 0)),
            memory_max_bytes=int(info.get("maxmemory", 0)),
            memory_system_bytes=int(info.get("total_system_memory", 0)),
            aof_enabled=aof_on,
            aof_ok=aof_ok or not aof_on,
            rdb_ok=info.get("rdb_last_bgsave_status") == ok,
            clients=int(info.get("connected_clients", 0)),
            evicted=int(info.get("evicted_keys", 0)),
            uptime_s=int(info.get("uptime_in_seconds", 0)),
        )

    async def _info(self) -> Mapping[str, Any]:
        """Return the reply to ``INFO``.

        Raises:
            _InfoForbiddenError: Redis refuses it for good. A refusal that passes, as of a busy server, is Redis's error.
        """
        try:
            return await self._client.info()
        except ResponseError as error:
            if is_fault(error):
                raise _InfoForbiddenError(str(error)) from error
            raise


class _InfoForbiddenError(Exception):
    """Redis does not give its figures to this user."""


def worker_facts(said: Mapping[str, Any]) -> WorkerFacts:
    """Return the facts of a live worker.

    Args:
        said: one of :meth:`broker.jobs.JobStore.workers`. A worker of an earlier version does not count its batches' rows.
    """
    jobs = (said.get("running") or 0) - (said.get("chunks") or 0)
    return WorkerFacts(
        said["incarnation"],
        said.get("pool", "default"),
        said.get("state", "ready"),
        max(0, jobs) + (said.get("rows") or 0),
        said.get("capacity") or 0,
    )


def _place(name: str) -> tuple[str, str, str, str]:
    """Read a field name of the key ``ended``."""
    pool, lane, state, code = name.split(" ")
    return pool, lane, state, code
