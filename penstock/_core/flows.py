"""What a call does, step by step, without doing it: generators that both clients drive.

A flow yields :class:`Send` or :class:`Sleep`. The driver answers a Send with its reply (or throws the
connection's error into the flow) and a Sleep with None; the flow's return value is the call's result. So
retries, long polls and their deadlines exist once, and are tested without a socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel

from penstock._core import protocol as protocol
from penstock._core.protocol import Reply, Request
from penstock._core.retry import RetryPolicy
from penstock.errors import (
    APIConnectionError,
    APIResponseError,
    JobNotFinishedError,
    PenstockError,
    WaitTimeoutError,
)
from penstock.models import Health, Job, Model

LONG_POLL_S = 60.0
"""Length of one long poll: shorter than the idle limits of common proxies."""

MIN_POLL_S = 0.25
"""Pause after a poll that the server answered at once although asked to wait."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request and answer with its reply, whatever its status."""

    request: Request


@dataclass(frozen=True, slots=True)
class Sleep:
    """Pause."""

    seconds: float


T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Step: TypeAlias = Send | Sleep
Flow: TypeAlias = Generator[Step, Reply | None, T]


def call(request: Request, policy: RetryPolicy) -> Flow[Reply]:
    """Send until there is a success, or an error that another try cannot mend.

    Every request of the contract may be repeated: GETs, cancel, and what creates because of its idempotency key.
    The exception is an upload that is read from a pipe.

    Raises:
        APIConnectionError: no answer, also after the policy's retries.
        APIStatusError: an error status, also after the policy's retries.
    """
    tried = 0
    while True:
        error: PenstockError
        try:
            reply = yield from _send(request)
        except APIConnectionError as exc:
            error = exc
        else:
            if 200 <= reply.status < 300:
                return reply
            error = protocol.status_error(reply)
        delay_s = policy.delay_s(error, tried) if request.repeatable else None
        if delay_s is None:
            raise error
        tried += 1
        yield Sleep(delay_s)


def fetch(request: Request, model: type[M], policy: RetryPolicy) -> Flow[M]:
    """:func:`call`, and read the reply as ``model``. Raises also APIResponseError."""
    return protocol.parse((yield from call(request, policy)), model)


def wait(
    job_id: str, timeout_s: float | None, *, check: bool, policy: RetryPolicy, clock: Callable[[], float]
) -> Flow[Job]:
    """Poll, each time as long as the server lets us, until the job is over.

    Args:
        job_id: the job.
        timeout_s: None waits for ever.
        check: raise where the job ended without a result.
        policy: for each poll.
        clock: monotonic seconds.

    Raises:
        WaitTimeoutError: the job is not over after ``timeout_s``.
        JobEndedError: it ended without a result and ``check`` is set.
    """
    deadline = None if timeout_s is None else clock() + timeout_s
    while True:
        began = clock()
        left_s = LONG_POLL_S if deadline is None else max(deadline - began, 0.0)
        # Whole seconds, as the contract counts; 0.05 makes up for the time since the deadline was set.
        # A rest below a second is slept.
        poll_s = int(min(left_s + 0.05, LONG_POLL_S))
        job = yield from fetch(protocol.get(job_id, poll_s), Job, policy)
        if job.done:
            error = protocol.ended_error(job) if check else None
            if error is not None:
                raise error
            return job
        now = clock()
        if deadline is not None and now >= deadline:
            msg = f"{job_id} is still {job.state} after {timeout_s:g} s"
            raise WaitTimeoutError(msg, job=job)
        if now - began < MIN_POLL_S:
            yield Sleep(MIN_POLL_S if deadline is None else min(MIN_POLL_S, deadline - now))


def result(job_id: str, policy: RetryPolicy) -> Flow[dict[str, Any]]:
    """Fetch the raw OpenAI response.

    Read from the job object, not from ``/result``, where a failed job's own 503 looks like the server's.

    Raises:
        JobNotFinishedError: the job is queued or running.
        JobEndedError: it ended without a result.
    """
    job = yield from fetch(protocol.get(job_id), Job, policy)
    if not job.done:
        msg = f"{job_id} is {job.state}; wait() waits for its end"
        raise JobNotFinishedError(msg, job=job)
    error = protocol.ended_error(job)
    if error is not None:
        raise error
    if job.result is None:
        msg = f"{job_id} succeeded, but the server's answer has no result"
        raise APIResponseError(msg)
    return job.result


def health() -> Flow[Health]:
    """Ask once, without retries: "not ready" is an answer here."""
    reply = yield from _send(Request("GET", "/health/ready"))
    if reply.status in {200, 503} and b'"status"' in reply.body:
        return protocol.parse(reply, Health)
    if reply.status == 200:
        msg = "the server's health answer has no status: is this the address of a Penstock server?"
        raise APIResponseError(msg)
    raise protocol.status_error(reply)


def models(policy: RetryPolicy) -> Flow[tuple[Model, ...]]:
    """List the served models. Raises APIResponseError where the answer is not such a list."""
    reply = yield from call(Request("GET", "/v1/models"), policy)
    try:
        return tuple(Model.model_validate(item) for item in json.loads(reply.body)["data"])
    except (ValueError, KeyError, TypeError) as exc:  # pydantic's ValidationError is a ValueError
        msg = "the server's answer is not a list of models"
        raise APIResponseError(msg) from exc


def _send(request: Request) -> Flow[Reply]:
    reply = yield Send(request)
    if reply is None:
        msg = "a Send is answered with a Reply"
        raise AssertionError(msg)
    return reply
