"""Reads the facts that operators watch: the queues, the workers and Redis itself. No transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import ResponseError

from broker.db.faults import is_fault
from broker.jobs import StorePart
from jobs.facts import QueueFacts, RedisFacts, WorkerFacts
from jobs.lanes import Lane
from jobs.states import JobState

log = structlog.get_logger(__name__)


class Observer(StorePart):
    """Reads the facts of one namespace. Every method raises ``StoreUnavailableError`` if Redis cannot be reached."""

    _info_allowed = True

    async def queues(self, pools: Sequence[str]) -> QueueFacts:
        """Read the queues of these pools, and the counts of all jobs."""
        wanted = [(pool, lane.value) for pool in pools for lane in Lane]
        states = list(JobState)
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.zcard(self._keys("delayed"))
        pipe.zcard(self._keys("dead"))
        pipe.scard(self._keys("batches_active"))
        pipe.zcard(self._keys("coordinators"))
        pipe.smembers(self._keys("paused"))
        pipe.hget(self._keys("limits"), "max_active")
        pipe.hgetall(self._keys("ended"))
        for state in states:
            pipe.zcard(self._keys("by_state", state.value))
        for pool, lane in wanted:
            queued = self._keys("queued", self._keys("queue", pool, lane))
            pipe.zcard(queued)
            pipe.zrange(queued, 0, 0, withscores=True)
        for pool in pools:
            pipe.hgetall(self._keys("waiting", pool))
        replies = await self._execute(pipe.execute())
        (seconds, micros), delayed, dead, batches, alive, paused, most, ended, *rest = replies
        now_s = int(seconds) + int(micros) / 1e6
        held = dict(zip((state.value for state in states), rest[: len(states)], strict=True))
        by_lane, by_pool = rest[len(states) : -len(pools) or None], rest[len(rest) - len(pools) :]
        first = zip(wanted, by_lane[1::2], strict=True)
        tenants = zip(pools, by_pool, strict=True)
        return QueueFacts(
            depths=dict(zip(wanted, by_lane[::2], strict=True)),
            oldest_s={place: now_s - float(rows[0][1]) / 1000 for place, rows in first if rows},
            states=held,
            delayed=delayed,
            dead=dead,
            batches=batches,
            coordinators=alive,
            paused={pool: pool in paused for pool in pools},
            tenants={(pool, name): int(jobs) for pool, row in tenants for name, jobs in row.items()},
            max_active=int(most) if most else None,
            ended={_place(name): int(jobs) for name, jobs in ended.items()},
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
