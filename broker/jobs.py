"""The job store: each method is one atomic transition or one look-up, with types on both sides."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from broker.attempts import Attempts
from broker.db.errors import (
    BusyError,
    IdempotencyConflictError,
    InfeasibleError,
    QueueFullError,
    StoreUnavailableError,
    UnfinishedError,
)
from broker.db.faults import Faults
from broker.db.keys import Keys
from broker.db.runner import ScriptRunner
from broker.listing import JobListings
from broker.lookups import known
from broker.queues import QueueControl
from broker.registry import Registry
from broker.settings import BrokerSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.facts import Reaped
from jobs.model import SCHEMA_VERSION, JobSpec
from jobs.retry import RetryPolicy
from jobs.states import JobState

_pack = msgspec.msgpack.Encoder().encode
_REAP_STEP = 1000
_SPEC_FACTS = (
    *("id", "pool", "endpoint", "model", "stream", "tenant", "max_attempts", "expires_in_ms", "timeout_ms"),
    *("queue_timeout_ms", "sink", "retry_of", "affinity", "coalesce", "trace"),
)
"""The fields of a submission that the script gets as they are."""

_ACCEPT_WITHIN_MS = 4_000
"""Less than the time-out in ``broker/db/client.py``, after which a submission fails."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submission.

    Attributes:
        id: the job's id, or that of the earlier job if this is a replay.
        created_ms: when it was accepted.
        position: jobs before it, in its lane and those above; None for a replay.
        replayed: the idempotency key was used before, or the job to retry had been retried.
        eta_ms: estimated milliseconds until it starts; None: nothing was measured.
        run_ms: mean milliseconds of a run; None: nothing was measured.
    """

    id: str
    created_ms: int
    position: int | None
    replayed: bool
    eta_ms: int | None = None
    run_ms: int | None = None


class JobStore(JobListings, QueueControl, Registry, Attempts):
    """Jobs in Redis. One instance per event loop.

    Every method raises :class:`~broker.db.errors.StoreUnavailableError` if Redis cannot be reached, and
    :class:`~broker.db.errors.StoreFaultError` if a script or a command of ours is wrong.

    Args:
        on_fault: called for each fault.

    Attributes:
        retention_ms: how long finished jobs and idempotency keys are kept.
    """

    def __init__(
        self, client: Redis, settings: BrokerSettings, on_fault: Callable[[], None] = lambda: None
    ) -> None:
        self.client = client
        self.keys = Keys(settings.namespace)
        self._settings = settings
        self.retention_ms = int(settings.retention_s * 1000)
        self._lease_ttl_ms = int(settings.lease_ttl_s * 1000)
        self._retry = RetryPolicy(settings.retry_base_s, settings.retry_max_s)
        self.faults = Faults(on_fault)
        self.scripts = ScriptRunner(client, self.keys, self.faults)
        self._clock_offset_ms: int | None = None  # Redis's clock minus this process's

    # ---- the api -----------------------------------------------------------------------------------------------

    async def accept(self, spec: JobSpec) -> Accepted:
        """Create the job and queue it, or find it by its idempotency key or as the retry of ``spec.retry_of``.

        Nothing is written if it raises one of these:

        Raises:
            BusyError: reject mode, and no slot is free.
            InfeasibleError: it would miss its deadline, and the settings refuse such a job.
            UnfinishedError: the job to retry has not ended.
            LookupError: there is no job to retry.
            QueueFullError: the lane is full, or the tenant has reached its own bound.
            IdempotencyConflictError: the key belongs to another submission.
        """
        digest = ""
        if spec.idempotency_key is not None:
            facts = [spec.endpoint, spec.model, spec.lane, spec.stream, spec.max_attempts, spec.expires_in_ms]
            limits = [spec.timeout_ms, spec.queue_timeout_ms, spec.retry_of]
            wishes = [] if spec.placement is None else [str(spec.placement)]
            seed = json.dumps([*facts, *limits, dict(spec.metadata), *wishes])
            digest = hashlib.sha256(seed.encode() + spec.body).hexdigest()
        reply = await self._accept(spec, digest)
        if reply[0] not in {"accepted", "same"}:
            raise _refusal(spec, reply)
        position, eta_ms, run_ms = (known(number) for number in reply[3:])
        return Accepted(reply[1], reply[2], position, reply[0] == "same", eta_ms, run_ms)

    async def _accept(self, spec: JobSpec, digest: str) -> Any:
        """Run the script; Redis does not carry it out after this call has timed out."""
        facts = self._facts(spec, digest)
        give_up_at = _now_ms() + _ACCEPT_WITHIN_MS
        while True:
            if self._clock_offset_ms is not None:
                facts["not_after_ms"] = give_up_at + self._clock_offset_ms
            reply = await self.scripts.call("job/accept", _pack(facts), spec.body)
            if reply[0] == "accepted":
                self._clock_offset_ms = reply[2] - _now_ms()
            if reply[0] != "late":
                return reply
            self._clock_offset_ms = reply[1] - _now_ms()
            if _now_ms() > give_up_at:
                raise StoreUnavailableError("accept: Redis answered too late")

    def _facts(self, spec: JobSpec, digest: str) -> dict[str, Any]:
        """Return the arguments of the script, without those that are None."""
        s = self._settings
        facts = {name: getattr(spec, name) for name in _SPEC_FACTS} | {
            "lane": spec.lane.value,
            "meta": json.dumps(dict(spec.metadata)),
            "idem": spec.idempotency_key,
            "digest": digest,
            "retention_ms": self.retention_ms,
            "v": SCHEMA_VERSION,
            "queue_max": s.queue_max,
            "tenant_queue_max": s.tenant(spec.tenant).queue_max,
            "reject": s.queue_mode == "reject" or None,
            "batch": spec.metadata["batch"] if spec.endpoint == CHUNK_ENDPOINT else None,
            "feasible": s.infeasible_deadline == "refuse" or None,
        }
        return {name: value for name, value in facts.items() if value is not None}

    async def cancel(self, job_id: str) -> JobState | None:
        """Cancel a job. Return its state now (``running``: its worker has been told); None: no such job."""
        reply = await self.scripts.call("job/cancel", job_id, self.retention_ms)
        return None if reply is None else JobState(reply)

    async def watch(self, job_id: str, sink: str) -> JobState | None:
        """Publish the job's events to the api process ``sink`` from now on. Return its state; None: no such job."""
        reply = await self.scripts.call("job/watch", job_id, sink)
        return None if reply is None else JobState(reply)

    # ---- all processes -----------------------------------------------------------------------------------------

    async def reap(self) -> Reaped:
        """Run one round of the reaper. Any number of processes may do so."""
        s = self._settings
        times = (s.lease_ttl_s, s.requeue_grace_s, 5 * s.reap_interval_s)
        lease_ms, grace_ms, gap_ms = (int(x * 1000) for x in times)
        ageing_ms = int(s.ageing_s * 1000)
        reply = await self.scripts.call(
            "job/reap", lease_ms, grace_ms, _REAP_STEP, self.retention_ms, gap_ms, ageing_ms
        )
        *counts, requeued_ids, failed_ids = reply
        return Reaped(*counts, requeued_ids=tuple(requeued_ids), failed_ids=tuple(failed_ids))

    async def aclose(self) -> None:
        """Send pending calls and close the connections."""
        await self.scripts.aclose()
        await self.client.aclose()


class StorePart:
    """Batches, files and the like, over the connection and the scripts of a job store.

    Every method raises :class:`~broker.db.errors.StoreUnavailableError` if Redis cannot be reached.
    """

    def __init__(self, store: JobStore) -> None:
        self._store, self._keys, self._client = store, store.keys, store.client
        self._call, self._execute = store.scripts.call, store.execute


def _refusal(spec: JobSpec, reply: list[Any]) -> Exception:
    """Return the error for a job that was not accepted."""
    kind, fact, *more = reply
    refusals: dict[str, Callable[[], Exception]] = {
        "full": lambda: QueueFullError(fact, int(more[0])),
        "tenant_full": lambda: QueueFullError(fact, int(more[0]), spec.tenant),
        "busy": lambda: BusyError(fact, int(more[0])),
        "infeasible": lambda: InfeasibleError(int(fact), more[0]),
        "conflict": lambda: IdempotencyConflictError(fact),
        "unfinished": lambda: UnfinishedError(fact),
        "gone": lambda: LookupError(fact),
    }
    return refusals[kind]()


def _now_ms() -> int:
    """This process's monotonic clock."""
    return time.monotonic_ns() // 1_000_000
