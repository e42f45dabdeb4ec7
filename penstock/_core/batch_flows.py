"""What the longer calls about batches do, step by step: see ``_flows``."""

from __future__ import annotations

from collections.abc import Callable

from penstock._core import batch_protocol as protocol
from penstock._core import flows as flows
from penstock._core.flows import Flow, Sleep
from penstock._core.retry import RetryPolicy
from penstock.batch_models import Batch, ResultPage
from penstock.errors import BatchEndedError, BatchWaitTimeoutError

FIRST_LOOK_S = 0.25
LAST_LOOK_S = 5.0
"""Pauses between two looks at a batch grow from the first to the last: a long one is not asked about all the time."""


def result_page(batch_id: str, after: str | None, limit: int | None, policy: RetryPolicy) -> Flow[ResultPage]:
    """Fetch one page of results."""
    reply = yield from flows.call(protocol.results(batch_id, after, limit), policy)
    return protocol.result_page(reply, after)


def next_results(
    batch_id: str, after: str | None, limit: int | None, policy: RetryPolicy
) -> Flow[ResultPage]:
    """Fetch the next page that has rows, waiting for it; or, at the end, one that has none and is complete."""
    tried = 0
    while True:
        page = yield from result_page(batch_id, after, limit, policy)
        if page.lines or not page.incomplete:
            return page
        yield Sleep(look_s(tried))
        tried += 1


def wait(
    batch_id: str, timeout_s: float | None, *, check: bool, policy: RetryPolicy, clock: Callable[[], float]
) -> Flow[Batch]:
    """Look until the batch is over.

    Args:
        batch_id: the batch.
        timeout_s: None waits for ever.
        check: raise where it ended otherwise than ``completed``.
        policy: for each look.
        clock: monotonic seconds.

    Raises:
        BatchWaitTimeoutError: it is not over after ``timeout_s``.
        BatchEndedError: it is over, not completed, and ``check`` is set.
    """
    deadline = None if timeout_s is None else clock() + timeout_s
    tried = 0
    while True:
        batch = yield from flows.fetch(protocol.batch(batch_id), Batch, policy)
        if batch.done:
            if check and batch.status != "completed":
                raise BatchEndedError(ended(batch), batch=batch)
            return batch
        left_s = None if deadline is None else deadline - clock()
        if left_s is not None and left_s <= 0:
            msg = f"{batch_id} is still {batch.status} after {timeout_s:g} s"
            raise BatchWaitTimeoutError(msg, batch=batch)
        pause_s = look_s(tried)
        yield Sleep(pause_s if left_s is None else min(pause_s, left_s))
        tried += 1


def look_s(tried: int) -> float:
    """Return the pause after ``tried`` looks that brought nothing."""
    return min(FIRST_LOOK_S * 1.5 ** min(tried, 32), LAST_LOOK_S)


def ended(batch: Batch) -> str:
    """Return in words how a batch ended, with the first thing that was wrong with its input."""
    found = batch.errors.data if batch.errors else ()
    if not found:
        return f"{batch.id} is {batch.status}"
    where = f"line {found[0].line}: " if found[0].line is not None else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{batch.id} {batch.status}: {where}{found[0].code}: {found[0].message}{more}"
