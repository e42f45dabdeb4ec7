"""The job store: each method is one atomic transition or one look-up, with types on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import msgspec
from redis.asyncio import Redis

from broker.acceptance import Acceptance
from broker.attempts import Attempts
from broker.db.calls import jobs as calls
from broker.db.calls import reaping
from broker.db.faults import Faults
from broker.db.functions import Functions
from broker.db.keys import Keys
from broker.large_bodies import BodyStorage, LargeBodies
from broker.listing import JobListings
from broker.queues import QueueControl
from broker.registry import Registry
from broker.sealing import Sealer
from broker.settings import BrokerSettings
from jobs.access import Actor, encoded
from jobs.facts import Reaped
from jobs.retry import RetryPolicy
from jobs.states import JobState

_REAP_STEP = 100


class JobStore(JobListings, QueueControl, Registry, Attempts, Acceptance):
    """Jobs in Redis. One instance per event loop.

    Every method raises :class:`~broker.db.errors.StoreUnavailableError` if Redis cannot be reached, and
    :class:`~broker.db.errors.StoreFaultError` if a function or a command of ours is wrong.

    ``owner`` is the tenant that asks: another's job, or a chunk of a batch, does not exist for it. None: an admin asks, or a
    process of ours.

    Args:
        on_fault: called for each fault.
        bodies: where large bodies are; None: all are in Redis.

    Attributes:
        large: stores and opens bodies.
        retention_ms: how long finished jobs and idempotency keys are kept.
        sealer: encrypts bodies, if the settings have keys.
    """

    def __init__(
        self,
        client: Redis,
        settings: BrokerSettings,
        on_fault: Callable[[], None] = lambda: None,
        bodies: BodyStorage | None = None,
    ) -> None:
        self.client = client
        self.keys = Keys(settings.namespace)
        self._settings = settings
        self._unreadable = {}
        self.retention_ms = int(settings.retention_s * 1000)
        self._lease_ttl_ms = int(settings.lease_ttl_s * 1000)
        self._retry = RetryPolicy(settings.retry_base_s, settings.retry_max_s)
        self.faults = Faults(on_fault)
        self.functions = Functions(client, self.keys, self.faults)
        self.sealer = Sealer(settings.keyring)
        self.large = LargeBodies(client, self.keys, self.execute, self.sealer, settings.inline_bytes, bodies)

    # ---- the api -----------------------------------------------------------------------------------------------

    async def cancel(
        self, job_id: str, *, owner: str | None = None, by: Actor | None = None
    ) -> JobState | None:
        """Cancel a job. Return its state now (``running``: its worker has been told); None: no such job.

        Args:
            by: who asked, for the audit stream, if the job may be another's.
        """
        call = calls.Cancel(id=job_id, retention_ms=self.retention_ms, owner=owner, by=encoded(by))
        state = await self.functions.call(call)
        return None if state is None else JobState(state)

    async def drop_bodies(self, job_id: str, *, owner: str) -> bool:
        """Drop the bodies of an ended job whose result its owner has fetched, if it is kept for that alone.

        Args:
            owner: the tenant that has fetched it. Nobody but the job's owner changes anything.

        Returns:
            Whether they are dropped.
        """
        return await self.functions.call(calls.DropBodies(id=job_id, owner=owner))

    async def forget(
        self, job_id: str, *, owner: str | None = None, by: Actor | None = None
    ) -> JobState | None:
        """Delete an ended job. Return its state: one that has not ended stays; None: no such job.

        Args:
            by: who asked, for the audit stream, if the job may be another's.
        """
        state = await self.functions.call(calls.Forget(id=job_id, owner=owner, by=encoded(by)))
        return None if state is None else JobState(state)

    async def relabel(
        self,
        job_id: str,
        metadata: Mapping[str, str],
        *,
        owner: str | None = None,
        by: Actor | None = None,
    ) -> bool:
        """Replace a job's metadata. Returns whether there is such a job.

        Args:
            by: who asked, for the audit stream, if the job may be another's.
        """
        text = json.dumps(dict(metadata))
        return await self.functions.call(calls.Relabel(job_id, text, owner, encoded(by)))

    async def watch(self, job_id: str, sink: str, *, owner: str | None = None) -> JobState | None:
        """Publish the job's events to the api process ``sink`` from now on, too. Return its state; None: no such job."""
        state = await self.functions.call(calls.Watch(id=job_id, sink=sink, owner=owner))
        return None if state is None else JobState(state)

    # ---- all processes -----------------------------------------------------------------------------------------

    async def reap(self, interval_s: float = 0.0) -> Reaped:
        """Run one round of the reaper. Any number of processes may do so.

        Args:
            interval_s: of rounds; nothing is done if another process's was less than half of it ago.
        """
        s = self._settings
        call = reaping.Reap(
            lease_ttl_ms=self._lease_ttl_ms,
            interval_ms=int(interval_s * 1000),
            usual_gap_ms=int(5 * s.reap_interval_s * 1000),
            most=_REAP_STEP,
            retention_ms=self.retention_ms,
            ageing_ms=int(s.ageing_s * 1000),
        )
        answer = await self.functions.call(call)
        done = _reaped(answer)
        while answer.more:
            answer = await self.functions.call(msgspec.structs.replace(call, interval_ms=0))
            done += _reaped(answer)
        return done

    async def aclose(self) -> None:
        """Send pending calls and close the connections."""
        await self.functions.aclose()
        await self.client.aclose()


class StorePart:
    """Batches, files and the like, over the connection and the functions of a job store.

    Every method raises :class:`~broker.db.errors.StoreUnavailableError` if Redis cannot be reached.
    """

    def __init__(self, store: JobStore) -> None:
        self._store, self._keys, self._client = store, store.keys, store.client
        self._call, self._execute = store.functions.call, store.execute


def _reaped(answer: reaping.Reaped) -> Reaped:
    counts = (getattr(answer, name) for name in ("requeued", "failed", "expired", "retired", "due", "aged"))
    return Reaped(*counts, requeued_ids=tuple(answer.requeued_ids), failed_ids=tuple(answer.failed_ids))
