"""Jobs, for both clients: ``client.jobs``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, Literal, Unpack, overload

from penstock._core import flows, follow, replies, requests
from penstock._core.flows import Flow, Items
from penstock._core.parts import AsyncPart, Call, Driver, Iteration, Part, SyncPart
from penstock._core.requests import Request
from penstock.errors import APIResponseError, ArgumentError, JobNotFinishedError
from penstock.models import Event, Job, JobRequest, Page, Priority, Restarted


class Jobs(Part[Driver]):
    """Submit jobs, follow them, read their results, cancel and retry them.

    Every call raises PenstockError; if the server does not know the id, that is a NotFoundError.
    """

    @Call
    def submit(
        self,
        input: Mapping[str, Any],  # noqa: A002  # the field's name on the wire
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **fields: Unpack[JobRequest],
    ) -> Flow[Job]:
        """Submit a job and return it: accepted and durable, and finished if that took no longer than ``wait_s``.

        Args:
            input: the raw OpenAI request body of the endpoint.
            wait_s: seconds to wait for the end, 0 to 300. A failed job is returned, not raised.
            idempotency_key: the same key gives the same job; None makes a fresh one.
            fields: see :class:`penstock.JobRequest`.

        Raises:
            BadRequestError: the submission is wrong, or its deadline cannot be met (``infeasible_deadline``).
            RateLimitedError: no room (``queue_full``, ``gpu_busy``), also after the client's own retries.
            ConflictError: the key was used with another body.
            ArgumentError: ``wait_s`` is out of range, or the body is not JSON.
            TypeError: a field does not exist, or an object in the body cannot be sent as JSON.
        """
        if unknown := fields.keys() - JobRequest.__annotations__.keys():
            raise TypeError(f"submit() has no field {', '.join(sorted(unknown))}")
        body = {"endpoint": "/v1/chat/completions", "input": input, **fields}
        body["coalesce"] = body.get("coalesce") or None
        wait = requests.wait_seconds(wait_s)
        headers = requests.idempotent(idempotency_key) | ({"prefer": f"wait={wait}"} if wait else {})
        request = requests.with_json("POST", "/v1/jobs", requests.given(**body), headers, wait)
        return self._fetch(request, Job)

    @Call
    def get(self, job_id: str, wait_s: float | None = None) -> Flow[Job]:
        """Return the job as it is now, or with ``wait_s`` (seconds, 0 to 300) at its end if that comes sooner."""
        return self._fetch(requests.get_job(job_id, wait_s), Job)

    @Call
    def wait(self, job_id: str, timeout_s: float | None = None, *, check: bool = True) -> Flow[Job]:
        """Wait until the job has ended and return it with its result.

        Args:
            timeout_s: seconds; None waits without a limit.
            check: raise if the job ended without a result; False returns it in every case.

        Raises:
            JobFailedError, JobCancelledError, JobExpiredError: the job ended so, and ``check`` is set.
            WaitTimeoutError: it has not ended after ``timeout_s``.
            PenstockError: any error of a call. An unreachable server is retried as for an event stream, but not
                after ``timeout_s``.
        """
        return flows.wait(job_id, timeout_s, check=check, policy=self._settings.follows)

    @Call
    def result(self, job_id: str) -> Flow[dict[str, Any]]:
        """Return the raw OpenAI response of a job that has succeeded.

        Raises:
            JobNotFinishedError: it is queued or running.
            JobFailedError, JobCancelledError, JobExpiredError: it has no result.
        """
        # Read from the job object: in the answer of /result, a failed job's own 503 looks like the server's.
        job = yield from self._fetch(requests.get_job(job_id), Job)
        if not job.done:
            raise JobNotFinishedError(f"{job_id} is {job.state} and has no result yet; use wait()", job=job)
        if error := replies.ended_error(job):
            raise error
        if job.result is None:
            raise APIResponseError(f"{job_id} succeeded, but its result is not stored any more")
        return job.result

    @Call
    def cancel(self, job_id: str) -> Flow[Job]:
        """Cancel the job and return it.

        A queued job ends at once, a running one within about a second. A finished one stays as it is.
        """
        return self._fetch(Request("POST", f"{requests.job_path(job_id)}/cancel"), Job)

    @Call
    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Flow[Job]:
        """Retry a finished job, however it ended: submit the same request as a new job and return that.

        The old job stays as it is; ``retry_of`` and ``retried_as`` lead from one to the other. A job is retried once:
        a second call returns the same new job. To run it a third time, retry the new job.

        Args:
            job_id: the finished job.
            idempotency_key: the same key gives the same new job; None makes a fresh one.

        Raises:
            ConflictError: it has not ended (``job_not_finished``).
        """
        headers = requests.idempotent(idempotency_key)
        return self._fetch(Request("POST", f"{requests.job_path(job_id)}/retry", headers=headers), Job)

    @Call
    def change(self, job_id: str, *, priority: Priority | None = None, top: bool = False) -> Flow[Job]:
        """Move a queued job to another lane, or to the head of its lane, and return it.

        Args:
            priority: its new lane; None keeps the lane.
            top: make it the next of its lane, before everybody else's jobs too.

        Raises:
            ConflictError: it is not queued any more (``job_not_queued``).
            BadRequestError: it is a synchronous call, or there is no such lane.
            ArgumentError: neither argument is given.
        """
        if priority is None and not top:
            raise ArgumentError("give priority, or top")
        body = requests.given(priority=priority, top=top or None)
        return self._fetch(requests.with_json("PATCH", requests.job_path(job_id), body), Job)

    @Iteration
    def list(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        priority: str | None = None,
        pool: str | None = None,
        tenant: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Items[Job]:
        """Iterate over jobs, newest first unless ``order`` is ``asc``. Pages are fetched when they are needed.

        Args:
            state: only jobs in this state.
            model: only jobs of this model.
            priority: only jobs of this lane.
            pool: only jobs of this pool.
            tenant: only jobs of this tenant; for administrators.
            created_after: only jobs created after this time, Unix seconds.
            created_before: only jobs created before this time, Unix seconds.
            order: ``desc`` or ``asc`` by creation.
            limit: the most jobs to return; None returns all.
            page_size: jobs per request, 1 to 100.
        """
        filters = {"state": state, "model": model, "priority": priority, "pool": pool, "tenant": tenant}
        created = {"created_after": created_after, "created_before": created_before, "order": order}
        return self._pages("/v1/jobs", Page[Job], limit, page_size, **filters, **created)

    @Iteration
    def events(self, job_id: str, after: str | None = None) -> Items[Event]:
        """Follow the job: its events so far, then the new ones up to its end, each event once.

        A dropped connection is reopened after the last event. Closing the iterator stops only the watching.

        Args:
            after: the :attr:`Event.id` to continue after; None starts at the beginning.

        Raises:
            APIConnectionError: the stream could not be reopened ``max_reconnects`` times in a row.
        """
        return flows.read(follow.Follower(job_id, after, self._settings.follows), lambda event: event)

    # A descriptor cannot carry overloads. The types of self choose the client.
    @overload
    def stream(
        self: SyncPart, job_id: str, *, after: str | None = None, on_restart: Literal["raise"] = "raise"
    ) -> Generator[str]: ...
    @overload
    def stream(
        self: SyncPart, job_id: str, *, after: str | None = None, on_restart: Literal["mark"]
    ) -> Generator[str | Restarted]: ...
    @overload
    def stream(
        self: AsyncPart, job_id: str, *, after: str | None = None, on_restart: Literal["raise"] = "raise"
    ) -> AsyncGenerator[str]: ...
    @overload
    def stream(
        self: AsyncPart, job_id: str, *, after: str | None = None, on_restart: Literal["mark"]
    ) -> AsyncGenerator[str | Restarted]: ...
    def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["raise", "mark"] = "raise"
    ) -> Any:
        """Iterate over the first choice's text as it is generated; :meth:`events` gives everything else.

        A job submitted without ``stream`` has no deltas: its whole text comes as one piece at its end.

        Args:
            after: an event id to continue after.
            on_restart: what to do when a worker was lost after text had been delivered, which is then void:
                ``raise`` a StreamRestartedError, or ``mark`` the place with a :class:`Restarted` and continue.

        Raises:
            StreamRestartedError: see ``on_restart``.
            JobFailedError, JobCancelledError, JobExpiredError: the job ended so.
            PenstockError: any error of :meth:`events`.
        """
        settings = self._settings
        text = follow.text(job_id, after, on_restart, calls=settings.calls, follows=settings.follows)
        return self._driver.iterate(text)
