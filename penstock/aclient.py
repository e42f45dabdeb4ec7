"""The asynchronous client (asyncio): the methods of :class:`penstock.Penstock`, awaited.

Arguments, results and errors are documented there; this module says only what differs.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Literal, overload

from penstock._core import flows as flows
from penstock._core import protocol as protocol
from penstock._core.follow import Follower, TextStream
from penstock._core.paging import Pager
from penstock.models import Event, Health, Job, Model, Page, Placement, Priority, Restarted
from penstock.resources.batches import AsyncBatches
from penstock.resources.files import AsyncFiles
from penstock.resources.operations import AsyncOperations


class AsyncPenstock(AsyncOperations):
    """A client of one Penstock server for one event loop. Close it, or use it in an ``async with``.

    The arguments are those of :class:`penstock.Penstock`; ``http_client`` is an :class:`httpx.AsyncClient`.
    Close an iterator that you leave early (``contextlib.aclosing``), so that its connection goes at once.
    """

    @property
    def files(self) -> AsyncFiles:
        """Files: see :attr:`penstock.Penstock.files`."""
        return AsyncFiles(self)

    @property
    def batches(self) -> AsyncBatches:
        """Batches: see :attr:`penstock.Penstock.batches`."""
        return AsyncBatches(self)

    async def submit(
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
        """Submit a job: see :meth:`penstock.Penstock.submit`."""
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
        return await self._run(flows.fetch(request, Job, self._settings.calls))

    async def get(self, job_id: str, wait_s: float | None = None) -> Job:
        """Return the job: see :meth:`penstock.Penstock.get`."""
        return await self._run(flows.fetch(protocol.get(job_id, wait_s), Job, self._settings.calls))

    async def wait(self, job_id: str, timeout_s: float | None = None, *, check: bool = True) -> Job:
        """Wait until the job is over: see :meth:`penstock.Penstock.wait`."""
        return await self._run(
            flows.wait(job_id, timeout_s, check=check, policy=self._settings.follows, clock=time.monotonic)
        )

    async def result(self, job_id: str) -> dict[str, Any]:
        """Return the raw OpenAI response: see :meth:`penstock.Penstock.result`."""
        return await self._run(flows.result(job_id, self._settings.calls))

    async def cancel(self, job_id: str) -> Job:
        """Ask for the job's end: see :meth:`penstock.Penstock.cancel`."""
        return await self._run(flows.fetch(protocol.cancel(job_id), Job, self._settings.calls))

    async def list(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Job]:
        """Iterate over jobs, page by page: see :meth:`penstock.Penstock.list`."""
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
            for job in pager.take(await self._run(flows.fetch(request, Page, self._settings.calls))):
                yield job

    async def events(self, job_id: str, after: str | None = None) -> AsyncGenerator[Event]:
        """Follow the job: see :meth:`penstock.Penstock.events`."""
        events = self._tail(Follower(job_id, after, self._settings.follows))
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    @overload
    def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["raise"] = "raise"
    ) -> AsyncGenerator[str]: ...
    @overload
    def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["mark"]
    ) -> AsyncGenerator[str | Restarted]: ...
    async def stream(
        self, job_id: str, *, after: str | None = None, on_restart: Literal["raise", "mark"] = "raise"
    ) -> AsyncGenerator[str | Restarted]:
        """Iterate over the text as it is generated: see :meth:`penstock.Penstock.stream`."""
        text = TextStream(job_id, on_restart, resumed=after is not None)
        events = self.events(job_id, after)
        try:
            async for event in events:
                piece = text.take(event)
                if piece is not None:
                    yield piece
                elif event.terminal and event.data.get("stream") is False:
                    yield (await self.get(job_id)).text
        finally:
            await events.aclose()

    async def health(self) -> Health:
        """Return whether the server can run jobs now: see :meth:`penstock.Penstock.health`."""
        return await self._run(flows.health())

    async def models(self) -> tuple[Model, ...]:
        """Return the models served now: see :meth:`penstock.Penstock.models`."""
        return await self._run(flows.models(self._settings.calls))
