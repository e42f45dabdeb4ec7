"""The longer calls about batches, step by step, as in ``flows``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from penstock._core import flows
from penstock._core.flows import Deliver, Flow, Items, Sleep
from penstock._core.replies import Reply, unexpected
from penstock._core.requests import Request, query, segment
from penstock._core.retry import RetryPolicy, is_transient
from penstock.batch_models import Batch, ResultPage
from penstock.errors import APIResponseError, BatchEndedError, BatchWaitTimeoutError, PenstockError

T = TypeVar("T")

FIRST_LOOK_S = 0.25
LAST_LOOK_S = 5.0
"""Pauses between two looks at a batch grow from the first to the last, so that a long one is not asked all the time."""


def batch_path(batch_id: str) -> str:
    """Return a batch's path. Raises ArgumentError if the id is empty."""
    return "/v1/batches/" + segment(batch_id, "the batch's id")


def result_page(batch_id: str, after: str | None, limit: int | None, policy: RetryPolicy) -> Flow[ResultPage]:
    """Fetch one page of results."""
    path, headers = f"{batch_path(batch_id)}/results", {"accept": "application/jsonl"}
    request = Request("GET", path, query(after=after, limit=limit), headers=headers)
    return read_page((yield from flows.call(request, policy)), after)


def read_page(reply: Reply, after: str | None) -> ResultPage:
    """Read a page of results that was asked for after this cursor.

    Raises:
        APIResponseError: rows without a new cursor (they would come again and again), or a row cut short.
    """
    lines = reply.body
    cursor = reply.headers.get("x-next-cursor") or None
    if "x-incomplete" not in reply.headers:
        what = "the server's answer is no page of a batch's results: is this a Penstock server's address?"
        raise unexpected(reply, what)
    if lines and (not lines.endswith(b"\n") or cursor in {None, after}):
        raise unexpected(reply, "a page of results has a row that is cut short, or no cursor after its rows")
    return ResultPage(lines, cursor or after, reply.headers["x-incomplete"].lower() == "true")


def rows(page: ResultPage) -> list[dict[str, Any]]:
    """Read a page's rows. Raises APIResponseError if one is not a JSON object."""
    found = []
    for line in page.lines.split(b"\n"):  # bytes.splitlines would also cut at a bare carriage return
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise APIResponseError(
                f"a row of the results is not a JSON object: {line[:200].decode(errors='replace')}"
            )
        found.append(row)
    return found


def results(
    batch_id: str,
    take: Callable[[ResultPage], Iterable[T]],
    *,
    after: str | None = None,
    follow: bool,
    page_size: int | None,
    policy: RetryPolicy,
) -> Items[T]:
    """Deliver what ``take`` makes of each page of committed rows; with ``follow`` to the end of the batch."""
    tried = 0
    while True:
        page = yield from result_page(batch_id, after, page_size, policy)
        if page.lines:
            for item in take(page):
                yield Deliver(item)
            after, tried = page.next_cursor, 0
        elif follow and page.incomplete:
            yield Sleep(look_s(tried))
            tried += 1
        else:
            return


def wait(batch_id: str, timeout_s: float | None, *, check: bool, policy: RetryPolicy) -> Flow[Batch]:
    """Look until the batch has ended.

    Args:
        batch_id: the batch.
        timeout_s: None waits without a limit.
        check: raise if it ended as anything but ``completed``.
        policy: for each look.

    Raises:
        BatchWaitTimeoutError: it has not ended after ``timeout_s``, as far as the server said.
        BatchEndedError: it has ended, but not as ``completed``, and ``check`` is set.
        PenstockError: the error of a look. After ``timeout_s``, only if the server never answered.
    """
    deadline = None if timeout_s is None else policy.clock() + timeout_s
    batch: Batch | None = None
    tried = 0
    while True:
        try:
            batch = yield from flows.fetch(Request("GET", batch_path(batch_id)), Batch, policy, deadline)
        except PenstockError as exc:
            if batch is None or deadline is None or policy.clock() < deadline or not is_transient(exc):
                raise
            last_seen = f"{batch_id} was {batch.status} when last seen: {exc}"
            raise BatchWaitTimeoutError(last_seen, batch=batch) from exc
        if batch.done:
            if check and batch.status != "completed":
                raise BatchEndedError(ended(batch), batch=batch)
            return batch
        left_s = None if deadline is None else deadline - policy.clock()
        if left_s is not None and left_s <= 0:
            raise BatchWaitTimeoutError(
                f"{batch_id} is still {batch.status} after {timeout_s:g} s", batch=batch
            )
        pause_s = look_s(tried)
        yield Sleep(pause_s if left_s is None else min(pause_s, left_s))
        tried += 1


def look_s(tried: int) -> float:
    """Return the pause after ``tried`` looks that brought nothing."""
    return min(FIRST_LOOK_S * 1.5 ** min(tried, 32), LAST_LOOK_S)


def ended(batch: Batch) -> str:
    """Return in words how a batch ended, with the first fault of its input."""
    found = batch.errors.data if batch.errors else ()
    if not found:
        return f"{batch.id} is {batch.status}"
    where = f"line {found[0].line}: " if found[0].line is not None else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{batch.id} {batch.status}: {where}{found[0].code}: {found[0].message}{more}"
