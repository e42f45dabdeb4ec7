"""Encodes and decodes the fields of job records: from a stored record to a :class:`jobs.model.Job`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from broker.db.errors import NewerRecordError
from jobs.failures import FAILURES, FailureCode
from jobs.lanes import Lane
from jobs.model import (
    SCHEMA_VERSION,
    Attempt,
    Cancelled,
    Expired,
    Failed,
    Job,
    JobError,
    JobSpec,
    Phase,
    Queued,
    Running,
    Succeeded,
    Timings,
    Usage,
)
from jobs.states import JobState
from jobs.webhooks import TO_NOBODY

_NAMES = """
v state pool lane tenant stream facts created started first finished attempt exp cancel hist worker status usage
error in_queue retried_as due leader result_of keep once webhook labels
"""
FIELDS = tuple(_NAMES.split())
"""The fields that :func:`to_job` reads, in the order of their values."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a record that no transition looks at, kept as one field. See :class:`jobs.model.JobSpec`."""

    endpoint: str
    model: str
    max_attempts: int
    metadata: dict[str, str] = {}
    timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    retry_of: str | None = None
    trace: str | None = None
    affinity: str | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    answers: int = 1
    shown: dict[str, Any] = {}
    upload: str | None = None

    @classmethod
    def of(cls, spec: JobSpec) -> Facts:
        """Return the facts of a submission."""
        told = dict(zip(_TOLD, _told(spec), strict=True))
        return cls(**told, metadata=dict(spec.metadata), shown=dict(spec.shown))


_TOLD = tuple(name for name in Facts.__struct_fields__ if name not in {"metadata", "shown"})
_told = attrgetter(*_TOLD)


encode_facts = msgspec.json.Encoder().encode
decode_facts = msgspec.json.Decoder(Facts).decode


class _Usage(msgspec.Struct):
    p: int
    c: int
    t: int
    h: int = 0


_read_usage = msgspec.json.Decoder(_Usage).decode


def encode_usage(usage: Usage | None) -> str | None:
    """Write token counts as one field."""
    if usage is None:
        return None
    cached = f',"h":{usage.cached_tokens}' if usage.cached_tokens else ""
    return f'{{"p":{usage.prompt_tokens},"c":{usage.completion_tokens},"t":{usage.total_tokens}{cached}}}'


def decode_usage(text: str | None) -> Usage | None:
    """Read what :func:`encode_usage` wrote."""
    if not text:
        return None
    u = _read_usage(text)
    return Usage(u.p, u.c, u.t, u.h)


def encode_error(error: JobError | None) -> str | None:
    """Write a failure as one field."""
    if error is None:
        return None
    return json.dumps({"code": error.code, "message": error.message, "param": error.param})


def decode_error(text: str | None) -> JobError | None:
    """Read what :func:`encode_error` or a function wrote. A code that this version does not know is ``internal_error``."""
    if not text:
        return None
    e = json.loads(text)
    code = FailureCode(e["code"]) if e["code"] in FAILURES else FailureCode.INTERNAL
    return JobError(code, e["message"], e.get("param"))


def to_job(job_id: str, values: Sequence[str | None]) -> Job | None:
    """Build a job from the values of :data:`FIELDS`, without its position; None: there is no record.

    Raises:
        NewerRecordError: a newer version of Penstock wrote it.
    """
    f: Mapping[str, Any] = dict(zip(FIELDS, values, strict=True))
    if f["state"] is None:
        return None
    if f["v"] is not None and int(f["v"]) > SCHEMA_VERSION:
        msg = (
            f"job {job_id} has record version {f['v']}; this version of Penstock reads up to {SCHEMA_VERSION}"
        )
        raise NewerRecordError(msg)
    state, facts = JobState(f["state"]), decode_facts(f["facts"])
    return Job(
        id=job_id,
        state=state,
        phase=_phase(state, f),
        endpoint=facts.endpoint,
        model=facts.model,
        pool=f["pool"],
        lane=Lane(f["lane"]),
        stream=f["stream"] is not None,
        tenant=f["tenant"],
        metadata=json.loads(f["labels"]) if f["labels"] else facts.metadata,
        timings=Timings(int(f["created"]), _int(f["started"]), _int(f["first"]), _int(f["finished"])),
        attempt=int(f["attempt"] or 0),
        max_attempts=facts.max_attempts,
        expires_at_ms=_int(f["exp"]),
        timeout_ms=facts.timeout_ms,
        queue_timeout_ms=facts.queue_timeout_ms,
        retry_of=facts.retry_of,
        retried_as=f["retried_as"],
        not_before_ms=_int(f["due"]) if state is JobState.QUEUED else None,
        coalesced_with=f["leader"] or f["result_of"],
        cancel_requested=f["cancel"] is not None or state is JobState.CANCELLED,
        trace=facts.trace,
        keep_ms=_int(f["keep"]),
        once=f["once"] is not None,
        shown=facts.shown,
        webhook=None if f["webhook"] == TO_NOBODY else f["webhook"],
        history=tuple(Attempt(**a) for a in json.loads(f["hist"])) if f["hist"] else (),
    )


def _int(text: str | int | None) -> int | None:
    return None if text is None else int(text)


def _phase(state: JobState, f: Mapping[str, Any]) -> Phase:
    match state:
        case JobState.QUEUED:
            return Queued()
        case JobState.RUNNING:
            return Running(f["worker"])
        case JobState.SUCCEEDED:
            return Succeeded(decode_usage(f["usage"]), f["worker"])
        case JobState.CANCELLED:
            return Cancelled(decode_usage(f["usage"]))
        case JobState.EXPIRED:
            return Expired(f["in_queue"] is not None, decode_usage(f["usage"]))
        case _:
            error = decode_error(f["error"]) or JobError(FailureCode.INTERNAL, "no reason was recorded")
            status = _int(f["status"]) or FAILURES[error.code].http_status
            return Failed(error, status, decode_usage(f["usage"]))
