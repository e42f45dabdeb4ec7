"""Webhook endpoints, for both clients: ``client.webhooks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, given, segment, with_json
from penstock.models import Page
from penstock.webhook_models import DeadLetter, Delivery, Sent, Webhook, WebhookDeleted, WebhookSecret

_PATH = "/v1/webhooks"


class Webhooks(Part[Driver]):
    """Endpoints that are told when jobs, batches and responses end. Every call raises PenstockError.

    A receiver checks what it gets with :func:`penstock.webhooks.unwrap`.
    """

    @Call
    def create(
        self, url: str, *, events: Sequence[str] | None = None, description: str | None = None
    ) -> Flow[Webhook]:
        """Make an endpoint, and return it with its secret, which no other answer has.

        If the answer is lost, the request is not repeated: look for the endpoint in the list, and rotate its secret.

        Args:
            url: where events are sent with POST.
            events: types (``job.failed``) or groups (``batch.*``); None: all.
            description: for people.

        Raises:
            BadRequestError: the address may not be used, or a type is unknown.
            ConflictError: there are ten (``too_many_webhooks``).
        """
        body = given(url=url, events=None if events is None else list(events), description=description)
        return self._fetch(replace(with_json("POST", _PATH, body), at_most_once=True), Webhook)

    @Iteration
    def list(
        self, *, tenant: str | None = None, limit: int | None = None, page_size: int = 100
    ) -> Items[Webhook]:
        """Iterate over the endpoints, newest first.

        Args:
            tenant: only those of this tenant, for a key with the scope ``admin``.
            limit: the most to return; None returns all.
            page_size: endpoints per request, 1 to 100.
        """
        return self._pages(_PATH, Page[Webhook], limit, page_size, tenant=tenant)

    @Call
    def get(self, webhook_id: str) -> Flow[Webhook]:
        """Return an endpoint, without its secret.

        Raises:
            NotFoundError: there is no such endpoint (``webhook_not_found``). The same below.
        """
        return self._fetch(Request("GET", _path(webhook_id)), Webhook)

    @Call
    def update(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        state: Literal["active", "disabled"] | None = None,
    ) -> Flow[Webhook]:
        """Change an endpoint, and return it. None: it stays. One that is enabled again gets what happened meanwhile."""
        body = given(
            url=url,
            events=None if events is None else [*events],
            description=description,
            state=state,
        )
        return self._fetch(with_json("PATCH", _path(webhook_id), body), Webhook)

    @Call
    def delete(self, webhook_id: str) -> Flow[WebhookDeleted]:
        """Delete an endpoint. What was not delivered goes with it."""
        return self._fetch(Request("DELETE", _path(webhook_id)), WebhookDeleted)

    @Call
    def rotate(self, webhook_id: str, overlap_s: int | None = None) -> Flow[Webhook]:
        """Give an endpoint a new secret, and return it with that.

        If the answer is lost, the request is not repeated: rotate again.

        Args:
            overlap_s: seconds for which each message has a signature of the old secret, too; None: a day.
        """
        request = with_json("POST", f"{_path(webhook_id)}/rotate", given(overlap_s=overlap_s))
        return self._fetch(replace(request, at_most_once=True), Webhook)

    @Call
    def secret(self) -> Flow[WebhookSecret]:
        """Return the secret that signs what the ``webhook_url`` of a job or a batch gets. Your tenant has one."""
        return self._fetch(Request("GET", f"{_PATH}/secret"), WebhookSecret)

    @Call
    def rotate_secret(self, overlap_s: int | None = None) -> Flow[WebhookSecret]:
        """Make a new one of these; as :meth:`rotate`."""
        request = with_json("POST", f"{_PATH}/secret/rotate", given(overlap_s=overlap_s))
        return self._fetch(replace(request, at_most_once=True), WebhookSecret)

    @Call
    def test(self, webhook_id: str) -> Flow[Sent]:
        """Send an event of the type ``ping``, whatever the endpoint subscribes to."""
        return self._fetch(Request("POST", f"{_path(webhook_id)}/test"), Sent)

    @Iteration
    def deliveries(
        self, webhook_id: str, *, limit: int | None = None, page_size: int = 100
    ) -> Items[Delivery]:
        """Iterate over tries to deliver, newest first, of the last 1,000 or so."""
        return self._pages(f"{_path(webhook_id)}/deliveries", Page[Delivery], limit, page_size)

    @Iteration
    def dead(self, webhook_id: str, *, limit: int | None = None, page_size: int = 100) -> Items[DeadLetter]:
        """Iterate over events that were given up, newest first."""
        return self._pages(f"{_path(webhook_id)}/dead", Page[DeadLetter], limit, page_size)

    @Call
    def resend(self, webhook_id: str, event_id: str) -> Flow[Sent]:
        """Send an event again that was tried or given up, under its own id.

        Raises:
            NotFoundError: neither list has it (``event_not_found``).
        """
        event = segment(event_id, "the event's id")
        return self._fetch(Request("POST", f"{_path(webhook_id)}/deliveries/{event}/resend"), Sent)


def _path(webhook_id: str) -> str:
    return f"{_PATH}/" + segment(webhook_id, "the webhook's id")
