"""Batches, for both clients: ``client.batches``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from penstock._core import batch_flows, flows
from penstock._core.batch_flows import batch_path
from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, given, idempotent, with_json
from penstock._core.tails import BatchTail
from penstock.batch_models import Batch, BatchEvent, ResultPage, Verification
from penstock.models import Page, Priority

VERIFYING_S = 3600.0
"""How long the server may take to check a batch's files from the first row to the last."""


class Batches(Part[Driver]):
    """Create batches, follow them, read their results; pause, cancel, retry and verify them.

    Every call raises PenstockError; if the server does not know the id, that is a NotFoundError.
    """

    @Call
    def create(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Batch]:
        """Create a batch of the rows in an uploaded file and return it. The server checks the rows afterwards.

        Args:
            input_file_id: from ``client.files.upload``.
            endpoint: the endpoint of all rows.
            completion_window: time after which it expires: ``24h``, ``30m``, ``7d``.
            metadata: at most 16 string pairs of your own.
            priority: the lane of its rows; None is ``bulk``.
            webhook_url: where its end is told, beside the webhooks of your tenant.
            idempotency_key: the same key gives the same batch; None makes a fresh one.

        Raises:
            BadRequestError: an argument is wrong; ``param`` says which.
        """
        body = given(
            input_file_id=input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            priority=priority,
            webhook_url=webhook_url,
        )
        return self._fetch(with_json("POST", "/v1/batches", body, idempotent(idempotency_key)), Batch)

    @Call
    def get(self, batch_id: str) -> Flow[Batch]:
        """Return the batch as it is now."""
        return self._fetch(Request("GET", batch_path(batch_id)), Batch)

    @Iteration
    def list(
        self, *, order: Literal["asc", "desc"] | None = None, limit: int | None = None, page_size: int = 100
    ) -> Items[Batch]:
        """Iterate over the batches, newest first unless ``order`` is ``asc``.

        Args:
            order: ``desc`` or ``asc`` by creation.
            limit: the most batches to return; None returns all.
            page_size: batches per request, 1 to 100.
        """
        return self._pages("/v1/batches", Page[Batch], limit, page_size, order=order)

    @Call
    def wait(self, batch_id: str, timeout_s: float | None = None, *, check: bool = True) -> Flow[Batch]:
        """Wait until the batch has ended and return it. Some of its rows may have failed even if it is ``completed``.

        Args:
            timeout_s: seconds; None waits without a limit.
            check: raise if it ended as anything but ``completed``; False returns it in every case.

        Raises:
            BatchEndedError: it failed, expired or was cancelled, and ``check`` is set.
            BatchWaitTimeoutError: it has not ended after ``timeout_s``.
            PenstockError: as of :meth:`penstock.resources.jobs.Jobs.wait`.
        """
        return batch_flows.wait(batch_id, timeout_s, check=check, policy=self._settings.follows)

    @Iteration
    def events(self, batch_id: str) -> Items[BatchEvent]:
        """Follow the batch: its progress again and again, and at last the event with its final status.

        A dropped connection is reopened. Closing the iterator stops only the watching.

        Raises:
            APIConnectionError: the stream could not be reopened ``max_reconnects`` times in a row.
        """
        return flows.read(BatchTail(batch_id, self._settings.follows), lambda event: event)

    @Call
    def result_page(
        self, batch_id: str, after: str | None = None, limit: int | None = None
    ) -> Flow[ResultPage]:
        """Return committed rows, successful and failed ones, in the order in which they were committed.

        Args:
            batch_id: the batch, ended or not.
            after: :attr:`ResultPage.next_cursor` of the page before; None begins with the first row.
            limit: the most rows; None leaves it to the server.
        """
        return batch_flows.result_page(batch_id, after, limit, self._settings.calls)

    @Iteration
    def results(
        self, batch_id: str, *, follow: bool = False, page_size: int | None = None
    ) -> Items[dict[str, Any]]:
        """Iterate over the committed rows, each once, page by page.

        A row has ``custom_id``, and ``response`` with ``status_code`` and ``body``, or ``error`` if it never ran.

        Args:
            batch_id: the batch, ended or not.
            follow: wait for the rows that are not done yet, to the end of the batch.
            page_size: rows per request; None leaves it to the server.
        """
        follows = self._settings.follows
        return batch_flows.results(
            batch_id, batch_flows.rows, follow=follow, page_size=page_size, policy=follows
        )

    @Iteration
    def result_pages(
        self,
        batch_id: str,
        *,
        after: str | None = None,
        follow: bool = False,
        page_size: int | None = None,
    ) -> Items[ResultPage]:
        """Iterate over the committed rows page by page, as :meth:`results` does, in a way that can be resumed.

        Args:
            batch_id: the batch, ended or not.
            after: :attr:`ResultPage.next_cursor` of the last page that you have; None begins with the first row.
            follow: wait for the rows that are not done yet, to the end of the batch.
            page_size: rows per request; None leaves it to the server.
        """
        follows = self._settings.follows
        return batch_flows.results(
            batch_id, lambda page: (page,), after=after, follow=follow, page_size=page_size, policy=follows
        )

    @Call
    def cancel(self, batch_id: str) -> Flow[Batch]:
        """Cancel the batch and return it. The rows done by then stay in its files.

        Raises:
            ConflictError: it has already ended.
        """
        return self._act(batch_id, "cancel")

    @Call
    def pause(self, batch_id: str) -> Flow[Batch]:
        """Start no further rows of the batch; those that run finish. Raises as :meth:`cancel` does."""
        return self._act(batch_id, "pause")

    @Call
    def resume(self, batch_id: str) -> Flow[Batch]:
        """Continue a paused batch. Raises as :meth:`cancel` does."""
        return self._act(batch_id, "resume")

    @Call
    def retry(self, batch_id: str, *, idempotency_key: str | None = None) -> Flow[Batch]:
        """Retry the failed rows of a batch as a new batch, and return that.

        Args:
            batch_id: a batch that has ended.
            idempotency_key: the same key gives the same new batch; None makes a fresh one.

        Raises:
            ConflictError: it has not ended, or none of its rows failed.
        """
        headers = idempotent(idempotency_key)
        return self._fetch(Request("POST", f"{batch_path(batch_id)}/retry", headers=headers), Batch)

    @Call
    def verify(self, batch_id: str) -> Flow[Verification]:
        """Have the server check the batch's files: each input row is answered once, in one file or the other.

        Raises:
            ConflictError: it has not ended.
        """
        request = Request("GET", f"{batch_path(batch_id)}/verify", extra_timeout_s=VERIFYING_S)
        return self._fetch(request, Verification)

    def _act(self, batch_id: str, action: str) -> Flow[Batch]:
        return self._fetch(Request("POST", f"{batch_path(batch_id)}/{action}"), Batch)
