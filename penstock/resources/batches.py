"""Batches, for both clients: ``client.batches``.

Arguments, results and errors are documented at :class:`Batches`; :class:`AsyncBatches` is the same, awaited.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from typing import Any, Literal

from penstock._core import batch_flows as batch_flows
from penstock._core import batch_protocol as protocol
from penstock._core import flows as flows
from penstock._core.drivers import AsyncPart, SyncPart
from penstock._core.paging import Pager
from penstock._core.tails import BatchTail
from penstock.batch_models import Batch, BatchEvent, BatchPage, ResultPage, Verification
from penstock.models import Priority


class Batches(SyncPart):
    """``client.batches``. Every method but :meth:`events` and :meth:`results` is one request, or a loop of them."""

    def create(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Create a batch of the rows in an uploaded file and return it; the server checks the rows after that.

        Args:
            input_file_id: from :meth:`penstock.resources.files.Files.upload`.
            endpoint: the endpoint of all rows.
            completion_window: time to its end, past which it expires: ``24h``, ``30m``, ``7d``.
            metadata: at most 16 string pairs of your own.
            priority: the lane of its rows; None is ``bulk``.
            idempotency_key: the same key gives the same batch; None makes a fresh one.

        Raises:
            BadRequestError: an argument is wrong; ``param`` says which.
            NotFoundError: there is no such file.
            PenstockError: any other error of a call.
        """
        request = protocol.create(
            input_file_id=input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            priority=priority,
            idempotency_key=idempotency_key,
        )
        return self._run(flows.fetch(request, Batch, self._settings.calls))

    def get(self, batch_id: str) -> Batch:
        """Return the batch as it is now.

        Raises:
            NotFoundError: there is no such batch.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.batch(batch_id), Batch, self._settings.calls))

    def list(
        self, *, order: Literal["asc", "desc"] | None = None, limit: int | None = None, page_size: int = 100
    ) -> Iterator[Batch]:
        """Iterate over the batches, newest first unless ``order`` is ``asc``.

        Args:
            order: ``desc`` or ``asc`` by creation.
            limit: stop after so many; None goes through all.
            page_size: batches per request, 1 to 100.

        Raises:
            PenstockError: any error of a call, while iterating.
        """
        pager: Pager[Batch] = Pager(
            lambda size, after: protocol.batches_page(order=order, limit=size, after=after), limit, page_size
        )
        while (request := pager.request()) is not None:
            yield from pager.take(self._run(flows.fetch(request, BatchPage, self._settings.calls)))

    def wait(self, batch_id: str, timeout_s: float | None = None, *, check: bool = True) -> Batch:
        """Wait until the batch is over and return it. Rows of it may have failed all the same.

        Args:
            batch_id: the batch.
            timeout_s: seconds; None waits for ever.
            check: raise where it ended otherwise than ``completed``; False returns it all the same.

        Raises:
            BatchEndedError: it failed, expired or was cancelled, and ``check`` is set.
            BatchWaitTimeoutError: it is not over yet.
            PenstockError: any error of a call.
        """
        flow = batch_flows.wait(
            batch_id, timeout_s, check=check, policy=self._settings.follows, clock=time.monotonic
        )
        return self._run(flow)

    def events(self, batch_id: str) -> Generator[BatchEvent]:
        """Follow the batch: how far it is, again and again, and at last the event that names its final status.

        A dropped connection is reopened. Closing the iterator merely stops watching.

        Raises:
            NotFoundError: there is no such batch.
            APIConnectionError: the stream could not be reopened ``max_reconnects`` times in a row.
            PenstockError: any other error of a call.
        """
        yield from self._tail(BatchTail(batch_id, self._settings.follows))

    def result_page(self, batch_id: str, after: str | None = None, limit: int | None = None) -> ResultPage:
        """Return rows that are committed, successful ones and failed ones, as they were committed.

        Args:
            batch_id: the batch, over or not.
            after: :attr:`ResultPage.next_cursor` of the page before; None begins with the first row.
            limit: rows at most; None leaves it to the server.

        Raises:
            NotFoundError: there is no such batch.
            PenstockError: any other error of a call.
        """
        return self._run(batch_flows.result_page(batch_id, after, limit, self._settings.calls))

    def results(
        self, batch_id: str, *, follow: bool = False, page_size: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Iterate over the rows that are committed, each once, page by page.

        A row has ``custom_id``, ``response`` with ``status_code`` and ``body``, or ``error`` where it never ran.

        Args:
            batch_id: the batch, over or not.
            follow: wait for the rows that are still to come, to the end of the batch.
            page_size: rows per request; None leaves it to the server.

        Raises:
            PenstockError: any error of a call, while iterating.
        """
        fetch = batch_flows.next_results if follow else batch_flows.result_page
        after: str | None = None
        while True:
            page = self._run(fetch(batch_id, after, page_size, self._settings.follows))
            if not page.lines:
                return
            yield from protocol.rows(page)
            after = page.next_cursor

    def cancel(self, batch_id: str) -> Batch:
        """Ask for the batch's end and return it; what was done by then stays in its files.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it is over already.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.act(batch_id, "cancel"), Batch, self._settings.calls))

    def pause(self, batch_id: str) -> Batch:
        """Let the batch begin nothing new; what it has begun is finished. Errors as of :meth:`cancel`."""
        return self._run(flows.fetch(protocol.act(batch_id, "pause"), Batch, self._settings.calls))

    def resume(self, batch_id: str) -> Batch:
        """Let a paused batch go on. Errors as of :meth:`cancel`."""
        return self._run(flows.fetch(protocol.act(batch_id, "resume"), Batch, self._settings.calls))

    def retry(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Run the failed rows of a batch again, as a batch of their own, which is returned.

        Args:
            batch_id: a batch that is over.
            idempotency_key: the same key gives the same new batch; None makes a fresh one.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it is not over, or no row of it failed.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.retry(batch_id, idempotency_key), Batch, self._settings.calls))

    def verify(self, batch_id: str) -> Verification:
        """Have the server check the batch's files: each row of the input answered once, in one file or the other.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it is not over.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.verify(batch_id), Verification, self._settings.calls))


class AsyncBatches(AsyncPart):
    """As :class:`Batches`, for one event loop."""

    async def create(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Create a batch: see :meth:`Batches.create`."""
        request = protocol.create(
            input_file_id=input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            priority=priority,
            idempotency_key=idempotency_key,
        )
        return await self._run(flows.fetch(request, Batch, self._settings.calls))

    async def get(self, batch_id: str) -> Batch:
        """Return the batch as it is now: see :meth:`Batches.get`."""
        return await self._run(flows.fetch(protocol.batch(batch_id), Batch, self._settings.calls))

    async def list(
        self, *, order: Literal["asc", "desc"] | None = None, limit: int | None = None, page_size: int = 100
    ) -> AsyncIterator[Batch]:
        """Iterate over the batches: see :meth:`Batches.list`."""
        pager: Pager[Batch] = Pager(
            lambda size, after: protocol.batches_page(order=order, limit=size, after=after), limit, page_size
        )
        while (request := pager.request()) is not None:
            page = await self._run(flows.fetch(request, BatchPage, self._settings.calls))
            for batch in pager.take(page):
                yield batch

    async def wait(self, batch_id: str, timeout_s: float | None = None, *, check: bool = True) -> Batch:
        """Wait until the batch is over: see :meth:`Batches.wait`."""
        flow = batch_flows.wait(
            batch_id, timeout_s, check=check, policy=self._settings.follows, clock=time.monotonic
        )
        return await self._run(flow)

    async def events(self, batch_id: str) -> AsyncGenerator[BatchEvent]:
        """Follow the batch: see :meth:`Batches.events`."""
        events = self._tail(BatchTail(batch_id, self._settings.follows))
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def result_page(
        self, batch_id: str, after: str | None = None, limit: int | None = None
    ) -> ResultPage:
        """Return rows that are committed: see :meth:`Batches.result_page`."""
        return await self._run(batch_flows.result_page(batch_id, after, limit, self._settings.calls))

    async def results(
        self, batch_id: str, *, follow: bool = False, page_size: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Iterate over the rows that are committed: see :meth:`Batches.results`."""
        fetch = batch_flows.next_results if follow else batch_flows.result_page
        after: str | None = None
        while True:
            page = await self._run(fetch(batch_id, after, page_size, self._settings.follows))
            if not page.lines:
                return
            for row in protocol.rows(page):
                yield row
            after = page.next_cursor

    async def cancel(self, batch_id: str) -> Batch:
        """Ask for the batch's end: see :meth:`Batches.cancel`."""
        return await self._run(flows.fetch(protocol.act(batch_id, "cancel"), Batch, self._settings.calls))

    async def pause(self, batch_id: str) -> Batch:
        """Let the batch begin nothing new: see :meth:`Batches.pause`."""
        return await self._run(flows.fetch(protocol.act(batch_id, "pause"), Batch, self._settings.calls))

    async def resume(self, batch_id: str) -> Batch:
        """Let a paused batch go on: see :meth:`Batches.resume`."""
        return await self._run(flows.fetch(protocol.act(batch_id, "resume"), Batch, self._settings.calls))

    async def retry(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Run the failed rows of a batch again: see :meth:`Batches.retry`."""
        request = protocol.retry(batch_id, idempotency_key)
        return await self._run(flows.fetch(request, Batch, self._settings.calls))

    async def verify(self, batch_id: str) -> Verification:
        """Have the server check the batch's files: see :meth:`Batches.verify`."""
        return await self._run(flows.fetch(protocol.verify(batch_id), Verification, self._settings.calls))
