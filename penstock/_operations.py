"""The calls of those who run the queue, for both clients: dead jobs, retries, workers.

Arguments, results and errors are documented at :class:`Operations`; :class:`AsyncOperations` is the same, awaited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from penstock import _flows as flows
from penstock import _ops_protocol as ops
from penstock._drivers import AsyncDriver, SyncDriver
from penstock._paging import Pager
from penstock.models import Job, Page, RetryReport, Worker, Workers


class Operations(SyncDriver):
    """Part of :class:`penstock.Penstock`."""

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Run a job again that is over, however it ended: as a new job with the same request, which is returned.

        The old job stays as it is; ``retry_of`` and ``retried_as`` lead from one to the other. A job is run again
        once: a second call returns the same new job, and a third run is the retry of that one.

        Args:
            job_id: the job to run again.
            idempotency_key: the same key gives the same new job; None makes a fresh one.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: it is not over (``job_not_finished``).
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(ops.retry(job_id, idempotency_key), Job, self._settings.calls))

    def list_dead(
        self,
        *,
        code: str | None = None,
        model: str | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Iterator[Job]:
        """Iterate over the dead jobs: ``failed`` or ``expired``, and not run again yet; newest end first.

        Args:
            code: only jobs that failed with this code, such as ``worker_lost``.
            model: only jobs of this model.
            limit: stop after so many; None goes through all.
            page_size: jobs per request, 1 to 100.

        Raises:
            PenstockError: any error of a call, while iterating.
        """
        pager = Pager(
            lambda size, after: ops.dead_page(code=code, model=model, limit=size, after=after),
            limit,
            page_size,
        )
        while (request := pager.request()) is not None:
            yield from pager.take(self._run(flows.fetch(request, Page, self._settings.calls)))

    def retry_dead(
        self,
        job_ids: Iterable[str] | None = None,
        *,
        code: str | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> RetryReport:
        """Run many dead jobs again, in one request. One that cannot be is an outcome with its error, no exception.

        Args:
            job_ids: which ones, at most 1,000; None takes those that match.
            code: only jobs that failed with this code.
            model: only jobs of this model.
            limit: at most so many, 1 to 1,000; None leaves it to the server (100).

        Raises:
            PenstockError: any error of the call.
            ValueError: jobs are named and filters are given too, or a number is out of range.
        """
        request = ops.retry_dead(job_ids, code=code, model=model, limit=limit)
        return self._run(flows.fetch(request, RetryReport, self._settings.calls))

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that are alive.

        Raises:
            PenstockError: any error of a call.
        """
        return self._run(flows.fetch(ops.workers(), Workers, self._settings.calls)).data

    def drain_worker(self, name: str, timeout_s: float | None = None) -> tuple[Worker, ...]:
        """Have a worker finish what it runs, give back the rest, and end. Returns at once, with who was told.

        Args:
            name: a worker's name, which means all of this name, or an incarnation's id.
            timeout_s: seconds that running jobs may take, 0 for none; None is the worker's own
                ``drain_timeout_s``.

        Raises:
            NotFoundError: no live worker has this name (``worker_not_found``).
            PenstockError: any other error of a call.
            ValueError: the name is empty or the time below 0.
        """
        return self._run(flows.fetch(ops.drain_worker(name, timeout_s), Workers, self._settings.calls)).data


class AsyncOperations(AsyncDriver):
    """Part of :class:`penstock.AsyncPenstock`."""

    async def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Run a job again: see :meth:`penstock.Penstock.retry`."""
        return await self._run(flows.fetch(ops.retry(job_id, idempotency_key), Job, self._settings.calls))

    async def list_dead(
        self,
        *,
        code: str | None = None,
        model: str | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Job]:
        """Iterate over the dead jobs: see :meth:`penstock.Penstock.list_dead`."""
        pager = Pager(
            lambda size, after: ops.dead_page(code=code, model=model, limit=size, after=after),
            limit,
            page_size,
        )
        while (request := pager.request()) is not None:
            for job in pager.take(await self._run(flows.fetch(request, Page, self._settings.calls))):
                yield job

    async def retry_dead(
        self,
        job_ids: Iterable[str] | None = None,
        *,
        code: str | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> RetryReport:
        """Run many dead jobs again: see :meth:`penstock.Penstock.retry_dead`."""
        request = ops.retry_dead(job_ids, code=code, model=model, limit=limit)
        return await self._run(flows.fetch(request, RetryReport, self._settings.calls))

    async def workers(self) -> tuple[Worker, ...]:
        """Return the workers that are alive: see :meth:`penstock.Penstock.workers`."""
        return (await self._run(flows.fetch(ops.workers(), Workers, self._settings.calls))).data

    async def drain_worker(self, name: str, timeout_s: float | None = None) -> tuple[Worker, ...]:
        """Have a worker finish and end: see :meth:`penstock.Penstock.drain_worker`."""
        told = await self._run(flows.fetch(ops.drain_worker(name, timeout_s), Workers, self._settings.calls))
        return told.data
