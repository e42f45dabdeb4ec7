"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Literal, overload

from penstock._core import flows as flows
from penstock._core import protocol as protocol
from penstock._core.follow import Follower, TextStream
from penstock._core.paging import Pager
from penstock.models import Event, Health, Job, Model, Page, Placement, Priority, Restarted
from penstock.resources.batches import Batches
from penstock.resources.files import Files
from penstock.resources.operations import Operations


class Penstock(Operations):
    """A client of one Penstock server. Safe to share between threads; close it, or use it in a ``with``.

    Every call is retried on connection errors and on 408, 429, 502, 503 and 504, with backoff and after the
    server's Retry-After; a submission carries an idempotency key, so that it is never run twice.

    Args:
        base_url: the server's address; None takes ``PENSTOCK_URL``, or else ``http://127.0.0.1:8080``.
        api_key: sent as a bearer token; None takes ``PENSTOCK_API_KEY``, or else sends none.
        timeout: seconds without any answer before a try is given up; waits asked of the server come on top.
        max_retries: further tries of one call.
        max_reconnects: tries in a row that bring nothing new, to reopen an event stream or go on waiting.
        http_client: an httpx client of your own (proxies, certificates); it is not closed here.

    Raises:
        ValueError: an argument is out of range.
    """

    @property
    def files(self) -> Files:
        """Files: upload, list, read, delete."""
        return Files(self)

    @property
    def batches(self) -> Batches:
        """Batches: create, follow, read their results, pause, cancel, retry, verify."""
        return Batches(self)

    def submit(
        self,
        input: Mapping[str, Any],  # noqa: A002  # the field's name on the wire
        *,
        model: str | None = None,
        endpoint: str = "/v1/chat/completions",
        priority: Priority | None = None,
        placement: Placement | None = None,
        stream: bool | None = None,
        metadata: Mapping[str, str] | None = None,
        expires_in_s: float | None = None,
        queue_timeout_s: float | None = None,
        timeout_s: float | None = None,
        max_attempts: int | None = None,
        affinity_key: str | None = None,
        coalesce: bool = False,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job and return it: accepted and durable, and finished where that came within ``wait_s``.

        Args:
            input: the raw OpenAI request body of the endpoint.
            model: the served name; None takes the body's.
            endpoint: ``/v1/chat/completions``, ``/v1/completions`` or ``/v1/embeddings``.
            priority: ``high``, ``normal`` (the server's default), ``low`` or ``bulk``.
            placement: which device it must run on; None is any that serves the model.
            stream: keep and publish deltas while it runs; None takes the body's.
            metadata: at most 16 string pairs of your own.
            expires_in_s: whole life in seconds, past which the job is ``expired``; None is no deadline.
            queue_timeout_s: seconds to its first start, past which it is ``expired``; None is no bound.
            timeout_s: run time of one attempt in seconds, past which it is ``failed`` with ``timeout``.
            max_attempts: attempts when workers are lost, 1 to 10; None leaves it to the server.
            affinity_key: jobs with the same key prefer the worker that ran one last, whose prefix cache is warm;
                None leaves it to the body's ``prompt_cache_key``, or else to a long system message or prompt.
            coalesce: where an identical job of yours is under way, share its run; ``coalesced_with`` names it. The
                request must be deterministic (``temperature`` 0, a ``seed``, or embeddings) and not streamed.
            wait_s: seconds to wait for the end, 0 to 300. A failed job is returned, not raised.
            idempotency_key: the same key gives the same job; None makes a fresh one.

        Raises:
            BadRequestError: the submission is wrong, or its deadline cannot be met (``infeasible_deadline``).
            RateLimitedError: no room (``queue_full``, ``gpu_busy``), also after the client's own retries.
            ConflictError: the key was used with another body.
            PenstockError: any other error of a call.
            ValueError: ``wait_s`` is out of range, or the body is not JSON.
        """
        request = protocol.submit(
            input,
            model=model,
            endpoint=endpoint,
            priority=priority,
            placement=placement,
            stream=stream,
            metadata=metadata,
            expires_in_s=expires_in_s,
            queue_timeout_s=queue_timeout_s,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
            affinity_key=affinity_key,
            coalesce=coalesce,
            wait_s=wait_s,
            idempotency_key=idempotency_key,
        )
        return self._run(flows.fetch(request, Job, self._settings.calls))

    def get(self, job_id: str, wait_s: float | None = None) -> Job:
        """Return the job as it is now, or, with ``wait_s`` (seconds, 0 to 300), at its end if sooner.

        Raises:
            NotFoundError: there is no such job.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.get(job_id, wait_s), Job, self._settings.calls))

    def wait(self, job_id: str, timeout_s: float | None = None, *, check: bool = True) -> Job:
        """Wait until the job is over and return it with its result.

        Args:
            job_id: the job.
            timeout_s: seconds; None waits for ever.
            check: raise where the job ended without a result; False returns it all the same.

        Raises:
            JobFailedError, JobCancelledError, JobExpiredError: so it ended, and ``check`` is set.
            WaitTimeoutError: it is not over yet.
            PenstockError: any error of a call; a server that is away is waited for as an event stream is.
        """
        return self._run(
            flows.wait(job_id, timeout_s, check=check, policy=self._settings.follows, clock=time.monotonic)
        )

    def result(self, job_id: str) -> dict[str, Any]:
        """Return the raw OpenAI response of a job that has succeeded.

        Raises:
            JobNotFinishedError: it is queued or running.
            JobFailedError, JobCancelledError, JobExpiredError: it has no result.
            PenstockError: any other error of a call.
        """
        return self._run(flows.result(job_id, self._settings.calls))

    def cancel(self, job_id: str) -> Job:
        """Ask for the job's end and return it.

        A queued job ends at once, a running one within about a second; a finished one is left alone.

        Raises:
            NotFoundError: there is no such job.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.cancel(job_id), Job, self._settings.calls))

    def list(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Iterator[Job]:
        """Iterate over jobs, newest first unless ``order`` is ``asc``, fetching pages as they are needed.

        Args:
            state: only jobs in this state.
            model: only jobs of this model.
            created_after: only jobs created after this time, Unix seconds.
            created_before: only jobs created before this time, Unix seconds.
            order: ``desc`` or ``asc`` by creation.
            limit: stop after so many; None goes through all.
            page_size: jobs per request, 1 to 100.

        Raises:
            PenstockError: any error of a call, while iterating.
        """
        pager: Pager[Job] = Pager(
            lambda size, after: protocol.jobs_page(
                state=state,
                model=model,
                created_after=created_after,
                created_before=created_before,
                order=order,
                limit=size,
                after=after,
            ),
            limit,
            page_size,
        )
        while (request := pager.request()) is not None:
            yield from pager.take(self._run(flows.fetch(request, Page, self._settings.calls)))

    def events(self, job_id: str, after: str | None = None) -> Generator[Event]:
        """Follow the job: what has happened so far, then what happens, up to its end, each event once.

        A dropped connection is reopened behind the last event. Closing the iterator merely stops watching.

        Args:
            job_id: the job.
            after: an :attr:`Event.id` to go on behind; None starts at the beginning.

        Raises:
            NotFoundError: there is no such job.
            APIConnectionError: the stream could not be reopened ``max_reconnects`` times in a row.
            PenstockError: any other error of a call.
        """
        yield from self._tail(Follower(job_id, after, self._settings.follows))

    @overload
    def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["raise"] = "raise"
    ) -> Generator[str]: ...
    @overload
    def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["mark"]
    ) -> Generator[str | Restarted]: ...
    def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["raise", "mark"] = "raise"
    ) -> Generator[str | Restarted]:
        """Iterate over the first choice's text as it is generated; for all else see :meth:`events`.

        A job submitted without ``stream`` has no deltas: its whole text comes as one piece at its end.

        Args:
            job_id: the job.
            after: an event id to go on behind.
            on_restart: what to do when a worker was lost after text had been delivered, which is void then:
                ``raise`` a StreamRestartedError, or ``mark`` the place with a :class:`Restarted` and go on.

        Raises:
            StreamRestartedError: see ``on_restart``.
            JobFailedError, JobCancelledError, JobExpiredError: so it ended.
            PenstockError: any error of :meth:`events`.
        """
        text = TextStream(job_id, on_restart, resumed=after is not None)
        for event in self.events(job_id, after):
            piece = text.take(event)
            if piece is not None:
                yield piece
            elif event.terminal and event.data.get("stream") is False:
                yield self.get(job_id).text

    def health(self) -> Health:
        """Return whether the server can run jobs now; not being ready is no error.

        Raises:
            APIConnectionError: no answer.
            APIStatusError, APIResponseError: the answer is not a health report.
        """
        return self._run(flows.health())

    def models(self) -> tuple[Model, ...]:
        """Return the models served now.

        Raises:
            PenstockError: any error of a call.
        """
        return self._run(flows.models(self._settings.calls))
