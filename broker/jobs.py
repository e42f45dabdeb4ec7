"""The job store: each method is one atomic transition or one look-up, with types on both sides."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter

import msgspec
from redis.asyncio import Redis

from broker.attempts import Attempts
from broker.db.calls import jobs as calls
from broker.db.errors import (
    BusyError,
    ConversationBusyError,
    IdempotencyConflictError,
    InfeasibleError,
    NoConversationError,
    OverQuotaError,
    QueueFullError,
    StoreUnavailableError,
    UnfinishedError,
)
from broker.db.faults import Faults
from broker.db.functions import Functions
from broker.db.keys import Keys
from broker.large_bodies import BodyStorage, LargeBodies, Stored
from broker.listing import JobListings
from broker.queues import QueueControl
from broker.records import Facts, encode_facts
from broker.registry import Registry
from broker.sealing import REQUEST, Sealer
from broker.settings import BrokerSettings
from jobs.access import Actor, encoded
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.facts import Reaped
from jobs.model import JobSpec
from jobs.outlook import start_after, start_ms
from jobs.references import upload_key
from jobs.retry import RetryPolicy
from jobs.states import JobState
from jobs.tenants import Rate, Rates

_REAP_STEP = 100
BYTES_PER_TOKEN = 4
"""Of a request, by which the tokens of its prompt are estimated."""

_KEPT = (
    "id",
    "pool",
    "tenant",
    "model",
    "sink",
    "owner",
    "retry_of",
    "affinity",
    "coalesce",
    "expires_in_ms",
    "queue_timeout_ms",
    "keep_ms",
    "key",
    "webhook",
)
"""The fields of a submission that the function gets as they are."""

_kept = attrgetter(*_KEPT)

_REFUSALS: Mapping[str, Callable[[str], Exception]] = {
    "conflict": IdempotencyConflictError,
    "unfinished": UnfinishedError,
    "gone": LookupError,
    "no_conversation": NoConversationError,
    "conversation_busy": ConversationBusyError,
}
"""The error of each refusal that names another object."""

_ACCEPT_WITHIN_MS = 4_000
"""Less than the time-out in ``broker/db/client.py``, after which a submission fails."""


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a submission.

    Attributes:
        id: the job's id, or that of the earlier job if this is a replay.
        created_ms: when it was accepted.
        replayed: the idempotency key was used before, or the job to retry had been retried.
        rates: what is left of the tenant's minute; None: it has no quota.
    """

    id: str
    created_ms: int
    replayed: bool
    rates: Rates | None = None


class JobStore(JobListings, QueueControl, Registry, Attempts):
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
        self.retention_ms = int(settings.retention_s * 1000)
        self._lease_ttl_ms = int(settings.lease_ttl_s * 1000)
        self._retry = RetryPolicy(settings.retry_base_s, settings.retry_max_s)
        self.faults = Faults(on_fault)
        self.functions = Functions(client, self.keys, self.faults)
        self.sealer = Sealer(settings.keyring)
        self.large = LargeBodies(client, self.keys, self.execute, self.sealer, settings.inline_bytes, bodies)
        self._clock_offset_ms: int | None = None  # Redis's clock minus this process's

    # ---- the api -----------------------------------------------------------------------------------------------

    async def accept(self, spec: JobSpec, *, by: Actor | None = None, in_storage: bool = False) -> Accepted:
        """Create the job and queue it, or find it by its idempotency key or as the retry of ``spec.retry_of``.

        Nothing is written if it raises one of these.

        Args:
            by: who asked for a retry, for the audit stream, if the job may be another's.
            in_storage: a large body may go into the storage: every worker of its pool can read it there.

        Raises:
            BusyError: reject mode, and no slot is free.
            InfeasibleError: it would miss its deadline, and the settings refuse such a job.
            UnfinishedError: the job to retry has not ended.
            LookupError: there is no job to retry.
            QueueFullError: the lane is full, or the tenant has reached its own bound.
            OverQuotaError: the tenant has used up a quota.
            NoConversationError: the tenant has no such conversation.
            ConversationBusyError: another job of the conversation has not ended, or it has changed since it was read.
            IdempotencyConflictError: the key belongs to another submission.
        """
        digest = ""
        if spec.idempotency_key is not None:
            facts = [spec.endpoint, spec.model, spec.lane, spec.stream, spec.max_attempts, spec.expires_in_ms]
            limits = [spec.timeout_ms, spec.queue_timeout_ms, spec.retry_of]
            wishes = [] if spec.placement is None else [str(spec.placement)]
            wishes += [] if spec.webhook is None else [spec.webhook]
            seed = json.dumps([*facts, *limits, dict(spec.metadata), *wishes])
            sent = spec.body if spec.asked is None else spec.asked.encode()
            digest = hashlib.sha256(seed.encode() + sent).hexdigest()
        if self._settings.infeasible_deadline == "refuse":
            await self._check_deadlines(spec)
        body = await self.large.store(spec.id, REQUEST, spec.body, here=not in_storage)
        if spec.upload is not None:
            body = replace(body, keys=(*body.keys, upload_key(spec.id)))
            if spec.retry_of is not None:
                await self.large.copy(spec.id, upload_key(spec.retry_of), upload_key(spec.id))
        for stored in self.sealer.digests(digest):
            answer = await self._accept(spec, stored, body, by)
            if answer.kind != "conflict":
                break
        if answer.kind != "accepted":
            await self.large.drop(spec.id, body)
        if answer.kind not in {"accepted", "same"}:
            raise await self._refusal(spec, answer)
        return Accepted(answer.id, answer.at, answer.kind == "same", _rates(answer))

    async def _accept(self, spec: JobSpec, digest: str, body: Stored, by: Actor | None) -> calls.Accepted:
        """Call the function; Redis does not carry it out after this call has timed out."""
        blobs = encode_facts(Facts.of(spec)), body.blob
        call = self._call_for(spec, digest)
        call.by, call.objects = encoded(by), list(body.keys) or None
        give_up_at = _now_ms() + _ACCEPT_WITHIN_MS
        while True:
            if self._clock_offset_ms is not None:
                call.not_after = give_up_at + self._clock_offset_ms
            answer = await self.functions.call(call, *blobs)
            if answer.kind == "accepted":
                self._clock_offset_ms = answer.at - _now_ms()
            if answer.kind != "late":
                return answer
            self._clock_offset_ms = answer.at - _now_ms()
            if _now_ms() > give_up_at:
                raise StoreUnavailableError("accept: Redis answered too late")

    def _call_for(self, spec: JobSpec, digest: str) -> calls.Accept:
        s = self._settings
        return calls.Accept(
            **dict(zip(_KEPT, _kept(spec), strict=True)),
            lane=spec.lane.value,
            tokens=tokens_of(spec),
            most_tokens=spec.max_tokens,
            rows=spec.answers,
            queue_max=s.queue_max,
            tenant_queue_max=s.tenant_queue_max,
            reject=s.queue_mode == "reject" or None,
            retention_ms=self.retention_ms,
            stream=spec.stream or None,
            once=spec.once or None,
            listed=spec.listed or None,
            live=spec.live or None,
            batch=spec.metadata["batch"] if spec.endpoint == CHUNK_ENDPOINT else None,
            conversation=None if spec.conversation is None else spec.conversation.id,
            conversation_turn=None if spec.conversation is None else spec.conversation.turn,
            conversation_parts=None if spec.conversation is None else spec.conversation.parts,
            idem=spec.idempotency_key,
            idem_tenant=spec.idempotency_tenant,
            digest=digest or None,
        )

    async def _check_deadlines(self, spec: JobSpec) -> None:
        """Raise InfeasibleError for a job that would miss a time limit."""
        if spec.expires_in_ms is None and spec.queue_timeout_ms is None:
            return
        facts = await self.look_ahead(spec.pool, spec.lane, spec.tenant)
        starts_ms = start_ms(facts)
        if starts_ms is None:
            return
        ends_ms = starts_ms + int(facts.mean_run_ms or 0)
        if spec.queue_timeout_ms is not None and starts_ms > spec.queue_timeout_ms:
            raise InfeasibleError(starts_ms, "queue_timeout_s")
        if spec.expires_in_ms is not None and ends_ms > spec.expires_in_ms:
            raise InfeasibleError(ends_ms, "expires_in_s")

    async def _refusal(self, spec: JobSpec, answer: calls.Accepted) -> Exception:
        """Return the error for a job that was not accepted."""
        if answer.kind in _REFUSALS:
            return _REFUSALS[answer.kind](answer.id)
        if answer.kind == "over_quota":
            return OverQuotaError(answer.over, answer.most, answer.asked, answer.wait, _rates(answer))
        facts = await self.look_ahead(spec.pool, spec.lane, spec.tenant, position=False)
        if answer.kind == "busy":
            return BusyError(answer.count, int((facts.run_ms or 0) / max(1, answer.count)))
        retry_ms = start_after(facts, math.ceil(answer.count / 8) - 1) or 0
        return QueueFullError(answer.count, retry_ms, spec.tenant if answer.kind == "tenant_full" else None)

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
        call = calls.Reap(
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


def tokens_of(spec: JobSpec) -> int:
    """Return the tokens of a submission's prompt: counted, or estimated from its length."""
    return len(spec.body) // BYTES_PER_TOKEN if spec.prompt_tokens is None else spec.prompt_tokens


def _reaped(answer: calls.Reaped) -> Reaped:
    counts = (getattr(answer, name) for name in ("requeued", "failed", "expired", "retired", "due", "aged"))
    return Reaped(*counts, requeued_ids=tuple(answer.requeued_ids), failed_ids=tuple(answer.failed_ids))


def _rates(answer: calls.Accepted) -> Rates | None:
    requests, tokens = answer.requests, answer.tokens
    if requests is None and tokens is None:
        return None
    return Rates(requests and Rate(*requests), tokens and Rate(*tokens))


def _now_ms() -> int:
    """This process's monotonic clock."""
    return time.monotonic_ns() // 1_000_000
