"""The calls of those who run the queue, for both clients: dead jobs, retries, queues, workers.

Arguments, results and errors are documented at :class:`Operations`; :class:`AsyncOperations` is the same, awaited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from penstock._core import flows as flows
from penstock._core import ops_protocol as ops
from penstock._core.drivers import AsyncDriver, SyncDriver
from penstock._core.paging import Pager
from penstock.fleet_models import Pool, Pools, Purged, Worker, Workers
from penstock.models import Job, Page, Priority, RetryReport


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
        pager: Pager[Job] = Pager(
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

    def queues(self) -> tuple[Pool, ...]:
        """Return the pools with what waits in their lanes.

        Raises:
            NotFoundError: the server is too old to tell.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(ops.queues(), Pools, self._settings.calls)).data

    def pause(self, pool: str) -> Pool:
        """Let nothing more of a pool down to its workers, and return it. Jobs are accepted and wait; what runs goes on.

        Raises:
            NotFoundError: there is no such pool (``pool_not_found``).
            PenstockError: any other error of a call.
            ValueError: the name is empty.
        """
        return self._run(flows.fetch(ops.pause(pool, paused=True), Pool, self._settings.calls))

    def resume(self, pool: str) -> Pool:
        """Let a paused pool go on, and return it. Raises as :meth:`pause` does."""
        return self._run(flows.fetch(ops.pause(pool, paused=False), Pool, self._settings.calls))

    def purge(self, pool: str, lane: str) -> int:
        """Cancel every job that waits in a lane, and return how many that were. What runs goes on.

        Args:
            pool: its name.
            lane: ``realtime``, ``high``, ``normal``, ``low`` or ``bulk``.

        Raises:
            NotFoundError: there is no such pool (``pool_not_found``).
            BadRequestError: there is no such lane.
            PenstockError: any other error of a call.
            ValueError: a name is empty.
        """
        return self._run(flows.fetch(ops.purge(pool, lane), Purged, self._settings.calls)).cancelled

    def change(self, job_id: str, *, priority: Priority | None = None, top: bool = False) -> Job:
        """Move a queued job to another lane, or to the head of its lane, and return it.

        Args:
            job_id: the job.
            priority: the lane to wait in from now on; None leaves it where it is.
            top: make it the next of its lane, before everybody else's jobs too.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: it is not queued any more (``job_not_queued``).
            BadRequestError: it is a synchronous call, or the lane is none.
            PenstockError: any other error of a call.
            ValueError: nothing is to be changed.
        """
        return self._run(
            flows.fetch(ops.change(job_id, priority=priority, top=top), Job, self._settings.calls)
        )

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
        pager: Pager[Job] = Pager(
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

    async def queues(self) -> tuple[Pool, ...]:
        """Return the pools with what waits in their lanes: see :meth:`penstock.Penstock.queues`."""
        return (await self._run(flows.fetch(ops.queues(), Pools, self._settings.calls))).data

    async def pause(self, pool: str) -> Pool:
        """Let nothing more down to a pool's workers: see :meth:`penstock.Penstock.pause`."""
        return await self._run(flows.fetch(ops.pause(pool, paused=True), Pool, self._settings.calls))

    async def resume(self, pool: str) -> Pool:
        """Let a paused pool go on: see :meth:`penstock.Penstock.resume`."""
        return await self._run(flows.fetch(ops.pause(pool, paused=False), Pool, self._settings.calls))

    async def purge(self, pool: str, lane: str) -> int:
        """Cancel what waits in a lane: see :meth:`penstock.Penstock.purge`."""
        return (await self._run(flows.fetch(ops.purge(pool, lane), Purged, self._settings.calls))).cancelled

    async def change(self, job_id: str, *, priority: Priority | None = None, top: bool = False) -> Job:
        """Move a queued job: see :meth:`penstock.Penstock.change`."""
        request = ops.change(job_id, priority=priority, top=top)
        return await self._run(flows.fetch(request, Job, self._settings.calls))

    async def drain_worker(self, name: str, timeout_s: float | None = None) -> tuple[Worker, ...]:
        """Have a worker finish and end: see :meth:`penstock.Penstock.drain_worker`."""
        told = await self._run(flows.fetch(ops.drain_worker(name, timeout_s), Workers, self._settings.calls))
        return told.data
