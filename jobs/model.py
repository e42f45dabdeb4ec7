"""A job: the submission that is accepted, and the record that is read back, with one payload per state.

All times are Unix milliseconds of the Redis server's clock; all durations say their unit in their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.placement import Placement
from jobs.states import JobState

SCHEMA_VERSION = 3
"""Version of the stored record. A reader refuses a newer one. Older ones are rewritten once, at the first start
(:mod:`broker.migration`)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a conversation a job begins.

    Attributes:
        id: the conversation's.
        turn: counts what changed its items; the job is refused if it is another by then.
        parts: those that its client had added; the job has them.
    """

    id: str
    turn: int
    parts: int


class JobSpec(msgspec.Struct, frozen=True):
    """A validated submission, ready to be accepted. A struct: each call makes one, of some forty fields.

    Attributes:
        id: see :func:`jobs.ids.make_job_id`.
        endpoint: one of :data:`jobs.endpoints.JOB_ENDPOINTS`, or ``CHUNK_ENDPOINT``.
        body: the raw OpenAI request body, UTF-8 JSON, passed to the engine as it came.
        stream: deltas are logged and published while it runs.
        metadata: up to 16 string pairs of the client's own.
        max_attempts: lost attempts (with their worker, or by a retryable failure) after which it fails.
        expires_in_ms: time from acceptance to its deadline; None: no deadline.
        queue_timeout_ms: time from acceptance to its first start, after which it expires; None: no limit.
        timeout_ms: run time of one attempt, after which it fails with ``timeout``; None: no limit.
        retry_of: the finished job that this one retries.
        idempotency_key: a client's key for this submission; None: every submission is a new job.
        idempotency_tenant: whose key that is; None: the job's tenant's.
        owner: the tenant that submits it, whose jobs alone it may name; None: an admin, or a process of ours.
        sink: id of the api process that wants this job's events; None: no process does.
        affinity: names the prefix that it shares with other jobs, which one worker should run; None: no prefix.
        coalesce: digest of a deterministic request, which an identical one under way may answer; None: never.
        trace: trace context of its attempts (``TraceContext.encode``); None: no trace.
        placement: the device that was asked for. It has chosen the pool; here it only tells submissions apart.
        prompt_tokens: of its prompt; None: to be estimated from the length of the body.
        max_tokens: the most that each answer may have; None: it does not say.
        answers: how many answers it generates: choices, or rows of a chunk.
        keep_ms: how long its record is kept after its end; None: as the settings say. Such a job shares no run.
        once: its request, result and log are dropped as soon as its owner has fetched the result.
        key: id of the API key that its use is counted to; None: no key was required.
        shown: members that its answer shows, in place of the engine's own: JSON-able.
        conversation: the conversation that its answer continues, as it was read; None: no conversation.
        webhook: URL that is told of its end, beside its tenant's endpoints; None: no such.
        listed: it is a stored chat completion, and listed as one.
        asked: digest of the request as its client sent it, if items were put before it; None: the body is as it was sent.
        upload: name of the file that came with its call and lies in the storage (:func:`jobs.references.upload_key`); None:
            no file did.
        live: its caller waits for the answer, so no webhook is told of its end, and its idempotency key is free again if it
            does not start in time.
    """

    id: str
    endpoint: str
    model: str
    body: bytes
    pool: str = "default"
    lane: Lane = Lane.NORMAL
    stream: bool = False
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    tenant: str = "default"
    max_attempts: int = 3
    expires_in_ms: int | None = None
    queue_timeout_ms: int | None = None
    timeout_ms: int | None = None
    retry_of: str | None = None
    idempotency_key: str | None = None
    idempotency_tenant: str | None = None
    owner: str | None = None
    sink: str | None = None
    affinity: str | None = None
    coalesce: str | None = None
    trace: str | None = None
    placement: Placement | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    answers: int = 1
    keep_ms: int | None = None
    once: bool = False
    key: str | None = None
    shown: Mapping[str, Any] = msgspec.field(default_factory=dict)
    conversation: Place | None = None
    webhook: str | None = None
    listed: bool = False
    asked: str | None = None
    upload: str | None = None
    live: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts, as the engine reported them. ``cached_tokens``: those of the prompt that a cache held."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """The times of a job's life. None: not yet, or never."""

    queued_ms: int
    started_ms: int | None = None
    first_token_ms: int | None = None
    finished_ms: int | None = None

    @property
    def queue_ms(self) -> int | None:
        """Milliseconds from acceptance to the start of the last attempt."""
        return None if self.started_ms is None else self.started_ms - self.queued_ms

    @property
    def total_ms(self) -> int | None:
        """Milliseconds from acceptance to the end."""
        return None if self.finished_ms is None else self.finished_ms - self.queued_ms

    def tokens_per_s(self, usage: Usage | None) -> float | None:
        """Completion tokens per second from the start of the run to its end; None: not known yet."""
        if usage is None or self.started_ms is None or self.finished_ms is None:
            return None
        return round(usage.completion_tokens / max(self.finished_ms - self.started_ms, 1) * 1000, 2)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed. Crosses processes as code and message, never as an exception."""

    code: FailureCode
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An ended attempt that did not finish the job.

    Attributes:
        attempt: its number, from 1.
        worker: the worker incarnation that ran it.
        reason: ``released`` or a failure code such as ``worker_lost``.
    """

    attempt: int
    worker: str
    reason: str
    ended_ms: int


@dataclass(frozen=True, slots=True)
class Queued:
    """Waiting.

    Attributes:
        position: jobs before it in its pool, 0 is next; None: not read, or unknown.
        eta_ms: estimated milliseconds until it starts; None: nothing was measured.
    """

    position: int | None = None
    eta_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """On a worker's engine."""

    worker: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Done: the engine's response is stored."""

    usage: Usage | None
    worker: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Ended without a result. ``status``: the HTTP status for a synchronous caller; ``usage``: of a partial result."""

    error: JobError
    status: int
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Ended by its client."""

    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Too late: its deadline passed before its end, or (``in_queue``) its ``queue_timeout_ms`` before its start."""

    in_queue: bool = False
    usage: Usage | None = None


Phase: TypeAlias = Queued | Running | Succeeded | Failed | Cancelled | Expired


@dataclass(frozen=True, slots=True)
class Job:
    """A job as read from the store, without its request and result bodies.

    ``attempt`` is the number of the current or last attempt, 0 before the first claim. ``not_before_ms``: it is queued, and
    its next attempt is due then. ``coalesced_with``: an identical job, whose end it shares. Other fields as in
    :class:`JobSpec`.
    """

    id: str
    state: JobState
    phase: Phase
    endpoint: str
    model: str
    pool: str
    lane: Lane
    stream: bool
    tenant: str
    metadata: Mapping[str, str]
    timings: Timings
    attempt: int
    max_attempts: int
    expires_at_ms: int | None = None
    queue_timeout_ms: int | None = None
    timeout_ms: int | None = None
    retry_of: str | None = None
    retried_as: str | None = None
    not_before_ms: int | None = None
    coalesced_with: str | None = None
    cancel_requested: bool = False
    trace: str | None = None
    keep_ms: int | None = None
    once: bool = False
    shown: Mapping[str, Any] = field(default_factory=dict)
    webhook: str | None = None
    history: tuple[Attempt, ...] = ()

    def is_of(self, owner: str | None) -> bool:
        """Whether a caller may reach this job; chunks are their batch's, and no tenant's.

        Args:
            owner: the tenant that asks; None: an admin, or a process of ours.
        """
        return owner is None or (owner == self.tenant and self.endpoint != CHUNK_ENDPOINT)
