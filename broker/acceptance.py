"""Accepting a job: the submission as a call of the function, the errors of its refusals, and its time limit."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter

import msgspec

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
from broker.large_bodies import Stored
from broker.lookups import JobLookups
from broker.records import Facts, encode_facts
from broker.sealing import REQUEST
from broker.settings import BrokerSettings
from jobs.access import Actor, encoded
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.model import JobSpec
from jobs.outlook import start_after, start_ms
from jobs.references import upload_key
from jobs.tenants import Rates

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


class Acceptance(JobLookups):
    """The store's part that takes submissions.

    Attributes:
        retention_ms: see :class:`broker.jobs.JobStore`.
    """

    retention_ms: int
    _settings: BrokerSettings
    _clock_offset_ms: int | None = None  # Redis's clock minus this process's

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
            return BusyError(answer.count, int((facts.turn_ms or 0) / max(1, answer.count)))
        retry_ms = start_after(facts, math.ceil(answer.count / 8) - 1) or 0
        return QueueFullError(answer.count, retry_ms, spec.tenant if answer.kind == "tenant_full" else None)


def tokens_of(spec: JobSpec) -> int:
    """Return the tokens of a submission's prompt: counted, or estimated from its length."""
    return len(spec.body) // BYTES_PER_TOKEN if spec.prompt_tokens is None else spec.prompt_tokens


def _rates(answer: calls.Accepted) -> Rates | None:
    requests, tokens = answer.requests, answer.tokens
    if requests is None and tokens is None:
        return None
    return Rates(requests, tokens)


def _now_ms() -> int:
    """This process's monotonic clock."""
    return time.monotonic_ns() // 1_000_000
