"""How jobs ended: the last event of a job's log, and the same from its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from broker.records import decode_error, decode_usage, encode_error, encode_usage
from jobs.model import Expired, Failed, Job, JobError, Queued, Running, Timings, Usage
from jobs.states import JobState


class Ending(msgspec.Struct, frozen=True):
    """How a job ended, as in its last event.

    Attributes:
        state: a terminal state.
        status: HTTP status for a synchronous caller; None: the engine gave none.
        attempt: the last attempt's number.
        usage: token counts; None: there are none.
        error: of a failed job.
        in_queue: it expired because its ``queue_timeout_s`` passed, not its deadline.
        result: the raw response or error body; empty: there is none, or it was not sent.
        once: its bodies are dropped after a fetch; known of an end that was read from the record, as is ``shown``.
    """

    state: JobState
    status: int | None
    attempt: int
    timings: Timings
    usage: Usage | None
    error: JobError | None
    in_queue: bool = False
    result: bytes = b""
    once: bool = False
    shown: Mapping[str, Any] = msgspec.field(default_factory=dict)


class _End(msgspec.Struct):
    """The header of an end event, as a function or :func:`ending_payload` writes it."""

    state: JobState
    attempt: int
    created: int
    finished: int
    started: int | None = None
    first: int | None = None
    status: int | str | None = None
    usage: str | None = None
    error: str | None = None
    in_queue: bool | None = None


_read_end = msgspec.json.Decoder(_End).decode


def decode_ending(payload: str) -> Ending:
    """Read the payload of an end event: ``e``, a JSON header, and, when published, a newline and the result."""
    header, _, result = payload[1:].partition("\n")
    end = _read_end(header)
    return Ending(
        end.state,
        None if end.status is None else int(end.status),
        end.attempt,
        Timings(end.created, end.started, end.first, end.finished),
        decode_usage(end.usage),
        decode_error(end.error),
        end.in_queue is True,
        result.encode(),
    )


def ending_of(job: Job, status: int | None, result: bytes) -> Ending:
    """Return how a finished job ended, from its record."""
    error = job.phase.error if isinstance(job.phase, Failed) else None
    in_queue = isinstance(job.phase, Expired) and job.phase.in_queue
    return Ending(
        job.state,
        status,
        job.attempt,
        job.timings,
        usage_of(job),
        error,
        in_queue,
        result,
        job.once,
        job.shown,
    )


def usage_of(job: Job) -> Usage | None:
    """Return a finished job's token counts, including those of a partial response."""
    return None if isinstance(job.phase, Queued | Running) else job.phase.usage


def ending_payload(job: Job) -> str:
    """Return the end event of a finished job whose log has none."""
    t = job.timings
    failed = job.phase if isinstance(job.phase, Failed) else None
    head = {
        "state": JobState(job.state).value,
        "status": failed.status if failed else None,
        "attempt": job.attempt,
        "created": t.queued_ms,
        "started": t.started_ms,
        "first": t.first_token_ms,
        "finished": t.finished_ms,
        "usage": encode_usage(usage_of(job)),
        "in_queue": True if isinstance(job.phase, Expired) and job.phase.in_queue else None,
        "error": encode_error(failed.error) if failed else None,
    }
    return "e" + json.dumps(head)
