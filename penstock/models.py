"""The wire models of jobs and models. Times are Unix seconds, durations say their unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict

from penstock._core.texts import delta_of, text_of

T = TypeVar("T")


class Wire(BaseModel):
    """What the server sends, frozen and typed.

    Fields that this version does not know are kept (``model_extra``), so an older client can read a newer server.
    """

    model_config = ConfigDict(frozen=True, extra="allow")


Priority: TypeAlias = Literal["high", "normal", "low", "bulk"]
"""The lanes that a job may ask for, in the order in which they are served."""


class Placement(TypedDict, total=False):
    """Requirements on the device that a job runs on: either or both.

    ``device`` is words of its name, such as ``h100`` or ``cpu``. ``min_memory_gb`` is in 10^9 bytes, of all devices of one
    engine together.
    """

    device: str
    min_memory_gb: float


class JobRequest(TypedDict, total=False):
    """The fields of a job beside its input. A field that is absent or None is left to the server.

    Attributes:
        model: the served name; otherwise the input's own.
        endpoint: ``/v1/chat/completions`` (the default), or another that the model does, such as ``/v1/rerank``.
        priority: ``high``, ``normal`` (the server's default), ``low`` or ``bulk``.
        placement: the device that it must run on; otherwise any that serves the model.
        stream: keep and publish deltas while it runs; otherwise the input's own.
        metadata: at most 16 string pairs of your own.
        expires_in_s: whole life in seconds; a job that takes longer becomes ``expired``.
        queue_timeout_s: seconds to its first start; a job that waits longer becomes ``expired``.
        timeout_s: run time of one attempt in seconds; one that takes longer fails with ``timeout``.
        max_attempts: attempts when workers are lost, 1 to 10.
        affinity_key: jobs with the same key prefer the worker that ran one last, because its prefix cache is warm. The
            server otherwise uses the input's ``prompt_cache_key``, or a long system message or prompt.
        coalesce: share the run of an identical job of yours that is under way; ``Job.coalesced_with`` names it. The
            request must be deterministic (``temperature`` 0, a ``seed``, or one that generates nothing) and not streamed.
        store: False: the server drops request and result as soon as you have fetched the result, or after some minutes.
        webhook_url: where its end is told, beside the webhooks of your tenant; see ``client.webhooks.secret``.
    """

    model: str | None
    endpoint: str
    priority: Priority | None
    placement: Placement | None
    stream: bool | None
    metadata: Mapping[str, str] | None
    expires_in_s: float | None
    queue_timeout_s: float | None
    timeout_s: float | None
    max_attempts: int | None
    affinity_key: str | None
    coalesce: bool
    store: bool | None
    webhook_url: str | None


TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})
"""The states that never change again."""


class Usage(Wire):
    """Token counts as the engine reported them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Timings(Wire):
    """When things happened to a job. None: not yet, or never."""

    queued_at: float | None = None
    started_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    queue_ms: float | None = None
    total_ms: float | None = None
    tokens_per_s: float | None = None


class JobError(Wire):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobWarning(Wire):
    """A warning to the submitter: ``infeasible_deadline`` (it is estimated to take ``estimate_s``), ``unknown_field``."""

    code: str
    message: str
    param: str | None = None
    estimate_s: float | None = None


class Job(Wire):
    """A job as the server shows it.

    Attributes:
        state: ``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled`` or ``expired``.
        model: its own name, also where an alias was asked for.
        tenant: whose it is; None from a server that is too old to say.
        pool: whose workers run it.
        store: False: its request and result are deleted once its result was fetched; after that it cannot be retried.
        attempt: number of the current or last attempt, 0 before the first.
        position: jobs before it, 0 is next; None unless queued.
        eta_s: seconds until it starts, estimated from its pool's rate; None unless queued and measured.
        expires_at: end of its whole life; None if it has no limit.
        queue_timeout_s: the time it may wait for its start; None if that has no limit.
        timeout_s: the run time of one attempt; None if that has no limit.
        not_before: when its next attempt is due, Unix seconds; None unless it waits for a retry.
        history: earlier attempts that were given up.
        retry_of: the job that this one retries; None for a first run.
        retried_as: the job that retries this one; None if there is none.
        coalesced_with: the identical job whose run it shares; None if it runs itself.
        webhook_url: where its end is told, beside the webhooks of its tenant; None: nowhere else.
        warnings: only in the answer to the submission.
        trace_id: the trace of its attempts; None if there is none.
        result: the raw OpenAI response; None until it succeeded, and in lists and events.
        partial: what a job that failed, expired or was cancelled had produced, as a raw OpenAI response whose
            ``finish_reason`` is ``abort`` or None; None if there is none, and in lists and events.
    """

    id: str
    state: str
    endpoint: str = "/v1/chat/completions"
    model: str = ""
    tenant: str | None = None
    pool: str | None = None
    priority: str = "normal"
    stream: bool = False
    store: bool = True
    metadata: Mapping[str, str] = {}
    attempt: int = 0
    max_attempts: int = 1
    position: int | None = None
    eta_s: float | None = None
    created_at: float | None = None
    expires_at: float | None = None
    queue_timeout_s: float | None = None
    timeout_s: float | None = None
    not_before: float | None = None
    timings: Timings = Timings()
    usage: Usage | None = None
    error: JobError | None = None
    cancel_requested: bool = False
    worker: str | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    retry_of: str | None = None
    retried_as: str | None = None
    coalesced_with: str | None = None
    webhook_url: str | None = None
    warnings: tuple[JobWarning, ...] = ()
    trace_id: str | None = None
    links: Mapping[str, str] = {}
    result: dict[str, Any] | None = None
    partial: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.state in TERMINAL_STATES

    @property
    def text(self) -> str:
        """The first choice's text in :attr:`result`, or its output's; empty if there is none (embeddings, tool calls)."""
        return text_of(self.result or {})

    @property
    def partial_text(self) -> str:
        """The first choice's text in :attr:`partial`; empty if there is none."""
        return text_of(self.partial or {})


class Event(Wire):
    """One server-sent event of a job.

    Attributes:
        id: cursor; ``events(job_id, after=id)`` continues after it.
        type: ``queued``, ``running``, ``restarted``, ``chunk`` or a terminal state.
        data: the payload: an OpenAI stream chunk for ``chunk``, the job object at the end.
    """

    id: str
    type: str
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """Whether this is the job's last event."""
        return self.type in TERMINAL_STATES

    @property
    def job(self) -> Job | None:
        """The job as it ended; None unless :attr:`terminal`."""
        return Job.model_validate(self.data) if self.terminal else None

    @property
    def text(self) -> str:
        """The first choice's text delta; empty for events without one."""
        return delta_of(self.data) if self.type == "chunk" else ""


class Page(Wire, Generic[T]):
    """One page of a list. OpenAI's lists of files and batches name the cursor ``last_id``."""

    data: tuple[T, ...]
    has_more: bool = False
    next_cursor: str | None = None
    last_id: str | None = None

    @property
    def cursor(self) -> str | None:
        """Where the next page begins; None on the last."""
        return self.next_cursor or self.last_id


class RetryOutcome(Wire):
    """The outcome for one job of a bulk retry: ``retried_as`` is the new job, or ``error`` says why there is none."""

    id: str
    retried_as: str | None = None
    error: JobError | None = None


class RetryReport(Wire):
    """The outcome of a bulk retry, job by job. ``has_more``: more dead jobs match than the limit."""

    data: tuple[RetryOutcome, ...]
    has_more: bool = False


class DeadGroup(Wire):
    """Dead jobs of a model that ended for the same reason: ``code`` is a failure code or ``expired``."""

    code: str
    model: str
    jobs: int
    latest_at: float | None = None


class DeadGroups(Wire):
    """The groups of dead jobs. ``has_more``: there are dead jobs that were not counted."""

    data: tuple[DeadGroup, ...]
    has_more: bool = False


class Model(Wire):
    """A served model; ``id`` is the name to ask for. ``root`` of an alias is the model's own name."""

    id: str
    created: float | None = None
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None


class Health(Wire):
    """Whether the server can take work: ``checks`` by name, ``missing`` names those that fail."""

    status: str
    checks: Mapping[str, str] = {}
    missing: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether jobs submitted now can run."""
        return self.status == "ready"


@dataclass(frozen=True, slots=True)
class Restarted:
    """A mark in a text stream: all text before it is void, and attempt number ``attempt`` starts over."""

    attempt: int
    event_id: str
