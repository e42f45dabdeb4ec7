"""The wire models: what the server sends, frozen and typed.

Fields that this version does not know are kept (``model_extra``), so an older client can read a newer server.
Times are Unix seconds, durations say their unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

Priority: TypeAlias = Literal["high", "normal", "low", "bulk"]
"""The lanes a job may ask for, first served first."""

TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})
"""The states that never change again."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Usage(_Wire):
    """Token counts as the engine reported them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Timings(_Wire):
    """When things happened to a job. None: not yet, or never."""

    queued_at: float | None = None
    started_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    queue_ms: float | None = None
    total_ms: float | None = None
    tokens_per_s: float | None = None


class JobError(_Wire):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class Job(_Wire):
    """A job as the server shows it.

    Attributes:
        state: ``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled`` or ``expired``.
        attempt: number of the current or last attempt, 0 before the first.
        position: jobs before it, 0 is next; None unless queued.
        expires_at: end of its whole life; None where it has none.
        queue_timeout_s: the time it may wait for its start; None where it may wait for ever.
        timeout_s: the run time of one attempt; None where that is not bounded.
        not_before: when its next attempt is due, Unix seconds; None unless it is queued and waits for that.
        history: attempts that were given up.
        retry_of: the job that this one runs again; None where it is a first run.
        retried_as: the job that runs this one again; None where there is none.
        result: the raw OpenAI response; None until it succeeded, and in lists and events.
        partial: what a job that failed, expired or was cancelled had produced, as a raw OpenAI response whose
            ``finish_reason`` is ``abort`` or None; None where that is nothing, and in lists and events.
    """

    id: str
    state: str
    endpoint: str = "/v1/chat/completions"
    model: str = ""
    priority: str = "normal"
    stream: bool = False
    metadata: Mapping[str, str] = {}
    attempt: int = 0
    max_attempts: int = 1
    position: int | None = None
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
    links: Mapping[str, str] = {}
    result: dict[str, Any] | None = None
    partial: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the job is over, in whatever way."""
        return self.state in TERMINAL_STATES

    @property
    def text(self) -> str:
        """The first choice's text in :attr:`result`; empty where there is none (embeddings, tool calls)."""
        return _first_text(self.result or {}, "message")

    @property
    def partial_text(self) -> str:
        """The first choice's text in :attr:`partial`; empty where there is none."""
        return _first_text(self.partial or {}, "message")


class Event(_Wire):
    """One server-sent event of a job.

    Attributes:
        id: cursor; ``events(job_id, after=id)`` goes on behind it.
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
        """The first choice's text delta; empty for everything that carries none."""
        return _first_text(self.data, "delta") if self.type == "chunk" else ""


class Page(_Wire):
    """One page of a list. ``next_cursor`` is None on the last."""

    data: tuple[Job, ...]
    has_more: bool = False
    next_cursor: str | None = None


class RetryOutcome(_Wire):
    """What became of one job in a bulk retry: ``retried_as`` is the new job, or ``error`` says why there is none."""

    id: str
    retried_as: str | None = None
    error: JobError | None = None


class RetryReport(_Wire):
    """What a bulk retry did, job by job. ``has_more``: more dead jobs match than it was to take."""

    data: tuple[RetryOutcome, ...]
    has_more: bool = False


class Worker(_Wire):
    """A worker as it was at its last heartbeat.

    Attributes:
        id: this incarnation; a worker that was started again has another.
        name: its node name, such as ``gpu0@host``. Names need not be unique.
        state: ``ready``, or ``draining``: it finishes what it runs, takes nothing new, and ends.
        running: jobs it runs, of the ``capacity`` it may.
        engine_running: requests that its engine computes now; ``engine_waiting`` ones wait inside of it.
        kv_cache_usage: 0 to 1; None where the engine does not say.
    """

    id: str
    name: str
    state: str = "ready"
    host: str | None = None
    pid: int | None = None
    pool: str = "default"
    engine: str | None = None
    device: str | None = None
    models: tuple[str, ...] = ()
    running: int = 0
    capacity: int | None = None
    engine_running: int | None = None
    engine_waiting: int | None = None
    kv_cache_usage: float | None = None
    started_at: float | None = None
    metrics_url: str | None = None


class Workers(_Wire):
    """A list of workers."""

    data: tuple[Worker, ...]


class Model(_Wire):
    """A served model; ``id`` is the name to ask for."""

    id: str
    created: float | None = None
    owned_by: str | None = None
    max_model_len: int | None = None


class Health(_Wire):
    """Whether the server can take work: ``checks`` by name, ``missing`` names those that fail."""

    status: str
    checks: Mapping[str, str] = {}
    missing: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether jobs submitted now will be run."""
        return self.status == "ready"


@dataclass(frozen=True, slots=True)
class Restarted:
    """A mark in a text stream: all text before it is void, attempt number ``attempt`` begins anew."""

    attempt: int
    event_id: str


def _first_text(body: Mapping[str, Any], part: str) -> str:
    """Text of choice 0 of an OpenAI body; ``part`` is ``message`` (whole) or ``delta`` (chunk)."""
    for choice in body.get("choices") or ():
        if choice.get("index", 0) == 0:
            text = choice.get("text") or (choice.get(part) or {}).get("content")
            return text if isinstance(text, str) else ""
    return ""
