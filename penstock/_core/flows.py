"""A call, step by step, without I/O: generators that the drivers of both clients carry out.

A flow yields steps. The driver answers :class:`Send`, :class:`Open` and :class:`Read` with a reply, or throws the
connection's error into the flow. It answers :class:`Sleep` and :class:`Deliver` with None. The flow's return value is
the call's result. So retries, long polls and deadlines exist once, and are tested without a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

from pydantic import BaseModel

from penstock._core import replies, requests
from penstock._core.replies import Reply
from penstock._core.requests import Request
from penstock._core.retry import Retries, RetryPolicy, is_refusal, is_transient, may_have_arrived
from penstock._core.tails import Tail
from penstock.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    PenstockError,
    WaitTimeoutError,
)
from penstock.models import Job, Page

LONG_POLL_S = 60.0
"""Length of one long poll: shorter than the idle limits of common proxies."""

MIN_POLL_S = 0.25
"""Pause after a poll that the server answered at once although it was asked to wait."""

GRACE_S = 1.0
"""How long after a deadline an answer still counts: the server ends a long poll just then."""

T = TypeVar("T")
U = TypeVar("U")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request and answer with the whole reply, whatever its status."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send this request and answer with the status and the headers; :class:`Read` gives the body."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Answer with the next bytes of what was opened last; an empty body is its end."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Deliver(Generic[T]):
    """Give this item to the caller."""

    item: T


Step: TypeAlias = Send | Open | Read | Sleep
Flow: TypeAlias = Generator[Step, Reply | None, T]
Items: TypeAlias = Generator[Step | Deliver[T], Reply | None, None]


def call(request: Request, policy: RetryPolicy, deadline: float | None = None) -> Flow[Reply]:
    """Send until the answer is a success, or an error that another try cannot change.

    Most requests of the contract may be repeated: GETs and actions as they are, and what creates something because of
    its idempotency key. The exceptions are :meth:`penstock._core.requests.Request.repeatable`'s.

    Args:
        request: what to send.
        policy: the bounds of the retries.
        deadline: on the policy's clock: the last try begins then at the latest, and none takes much longer.

    Raises:
        APIConnectionError: no answer, also after the policy's retries.
        APIStatusError: an error status, also after the policy's retries.
    """
    retries = Retries(policy, str(request), deadline)
    unsure = False
    while True:
        error: PenstockError
        if deadline is not None:
            request = replace(request, max_s=max(deadline - policy.clock(), 0.0) + GRACE_S)
        try:
            reply = yield from answer(Send(request))
        except APIConnectionError as exc:
            error = exc
        else:
            if 200 <= reply.status < 300:
                return reply
            error = replies.status_error(reply)
        if unsure and isinstance(error, APIStatusError) and error.status in {404, 409}:
            error.add_note("an earlier try, whose answer was lost, may have succeeded")
        unsure = unsure or (request.method != "GET" and may_have_arrived(error))
        if not request.repeatable(error):
            if request.at_most_once and not is_refusal(error):
                error.add_note(f"{request} may have been carried out, so it was not sent again")
            raise error
        yield Sleep(retries.pause_s(error))


def fetch(request: Request, model: type[M], policy: RetryPolicy, deadline: float | None = None) -> Flow[M]:
    """:func:`call`, and read the reply as ``model``. Raises also APIResponseError."""
    return replies.parse((yield from call(request, policy, deadline)), model)


def pages(
    path: str,
    filters: dict[str, str],
    page: type[Page[T]],
    *,
    limit: int | None,
    page_size: int,
    policy: RetryPolicy,
) -> Items[T]:
    """Deliver the items of a list, and fetch each page when it is needed.

    Args:
        path: of the list.
        filters: query parameters of every page.
        page: the model of one page.
        limit: the most items to deliver; None delivers all.
        page_size: items per request, 1 to 100.
        policy: for each request.
    """
    left, after = limit, None
    while left is None or left > 0:
        size = page_size if left is None else min(page_size, left)
        request = Request("GET", path, filters | requests.query(limit=size, after=after))
        got = yield from fetch(request, page, policy)
        for item in got.data[:left]:
            yield Deliver(item)
        after = got.cursor
        if not got.has_more or after is None:
            return
        left = None if left is None else left - len(got.data)


def read(tail: Tail[T], take: Callable[[T], U | None]) -> Items[U]:
    """Deliver a streamed answer to its end, over as many connections as that needs.

    Args:
        tail: says what to ask for and when to stop.
        take: turns what the tail gives into what is delivered; None delivers nothing.

    Raises:
        PenstockError: the connection's error, if another try cannot help or too many brought nothing.
    """
    while True:
        error: PenstockError | None = None
        tail.connecting()
        try:
            head = yield from answer(Open(tail.request()))
            if tail.opened(head):
                while body := (yield from answer(Read())).body:
                    for found in tail.feed(body):
                        item = take(found)
                        if item is not None:
                            yield Deliver(item)
                    if tail.done:
                        return
                tail.ended()
                if tail.done:
                    return
            else:
                error = yield from _not_a_stream(head)
        except (APIConnectionError, APIResponseError) as exc:
            error = exc
        yield Sleep(tail.dropped(error))


def wait(job_id: str, timeout_s: float | None, *, check: bool, policy: RetryPolicy) -> Flow[Job]:
    """Poll, each time as long as the server allows, until the job has ended.

    Args:
        job_id: the job.
        timeout_s: None waits without a limit.
        check: raise if the job ended without a result.
        policy: for each poll.

    Raises:
        WaitTimeoutError: the job has not ended after ``timeout_s``, as far as the server said.
        JobEndedError: it ended without a result and ``check`` is set.
        PenstockError: the error of a poll. After ``timeout_s``, only if the server never answered.
    """
    deadline = None if timeout_s is None else policy.clock() + timeout_s
    job: Job | None = None
    while True:
        began = policy.clock()
        left_s = LONG_POLL_S if deadline is None else max(deadline - began, 0.0)
        # Whole seconds, as the contract counts; 0.05 makes up for the time since the deadline was set.
        # A rest below a second is slept.
        poll_s = int(min(left_s + 0.05, LONG_POLL_S))
        try:
            job = yield from fetch(requests.get_job(job_id, poll_s), Job, policy, deadline)
        except PenstockError as exc:
            if job is None or deadline is None or policy.clock() < deadline or not is_transient(exc):
                raise
            raise WaitTimeoutError(f"{job_id} was {job.state} when last seen: {exc}", job=job) from exc
        if job.done:
            error = replies.ended_error(job) if check else None
            if error is not None:
                raise error
            return job
        now = policy.clock()
        if deadline is not None and now >= deadline:
            raise WaitTimeoutError(f"{job_id} is still {job.state} after {timeout_s:g} s", job=job)
        if now - began < MIN_POLL_S:
            yield Sleep(MIN_POLL_S if deadline is None else min(MIN_POLL_S, deadline - now))


def answer(step: Send | Open | Read) -> Flow[Reply]:
    """Yield a step that has a reply, and return the reply."""
    reply = yield step
    if reply is None:
        raise AssertionError("this step is answered with a Reply")
    return reply


def _not_a_stream(head: Reply) -> Flow[PenstockError]:
    """Return the error for an answer that is not the stream that was asked for."""
    if 200 <= head.status < 300:
        kind = head.headers.get("content-type", "an unknown type")
        what = f"the answer is no event stream or file, but {kind}: is this a Penstock server's address?"
        return replies.unexpected(head, what)
    body = b""
    while piece := (yield from answer(Read())).body:
        body += piece
    return replies.status_error(Reply(head.status, head.headers, body))
