"""Dead jobs, for both clients: ``client.dead``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, given, with_json
from penstock.errors import ArgumentError
from penstock.models import DeadGroups, Job, Page, RetryReport

MAX_BULK = 1000
"""The most jobs that one request retries."""


class Dead(Part[Driver]):
    """The jobs that failed or expired and were not retried yet: list them, retry them.

    Every call raises PenstockError.
    """

    @Iteration
    def list(
        self,
        *,
        code: str | None = None,
        model: str | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Items[Job]:
        """Iterate over the dead jobs: ``failed`` or ``expired``, and not retried yet; newest end first.

        Args:
            code: only jobs that failed with this code, such as ``worker_lost``, or ``expired``.
            model: only jobs of this model.
            limit: the most jobs to return; None returns all.
            page_size: jobs per request, 1 to 100.
        """
        return self._pages("/v1/dead", Page[Job], limit, page_size, code=code, model=model)

    @Call
    def groups(self) -> Flow[DeadGroups]:
        """Count the latest 1,000 dead jobs by failure code and model, the largest group first.

        Raises:
            NotFoundError: the server is too old for this call.
        """
        return self._fetch(Request("GET", "/v1/dead/groups"), DeadGroups)

    @Call
    def retry(
        self,
        job_ids: Iterable[str] | None = None,
        *,
        code: str | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> Flow[RetryReport]:
        """Retry many dead jobs in one request. A job that cannot be retried is an outcome with its error, not raised.

        With filters the request is not repeated if its answer is lost; with ids it is, because a job is retried once.

        Args:
            job_ids: which ones, at most 1,000; None takes those that match.
            code: only jobs that failed with this code, or ``expired``.
            model: only jobs of this model.
            limit: the most jobs to retry, 1 to 1,000; None leaves it to the server (100).

        Raises:
            ArgumentError: both ids and filters are given, an id is empty, or a number is out of range.
        """
        body = given(code=code, model=model, limit=limit)
        if job_ids is not None:
            if body:
                raise ArgumentError("give either job ids or code, model and limit")
            ids = (job_ids,) if isinstance(job_ids, str) else tuple(job_ids)
            if not 1 <= len(ids) <= MAX_BULK or not all(job_id.strip() for job_id in ids):
                raise ArgumentError(f"give 1 to {MAX_BULK} job ids, none of them empty")
            body = {"ids": ids}
        if limit is not None and not 1 <= limit <= MAX_BULK:
            raise ArgumentError(f"limit must be 1 to {MAX_BULK}")
        request = with_json("POST", "/v1/dead/retry", body)
        # With filters, the second would take the next jobs that match.
        return self._fetch(replace(request, at_most_once=job_ids is None), RetryReport)
