"""Empties the outbox of one endpoint, in order, for one turn."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from broker.db.errors import StoreUnavailableError
from broker.webhook_outbox import Entry, Hold, Outbox, Outcome, Result
from coordinator.context import Context
from coordinator.webhooks.guard import Guard
from coordinator.webhooks.sender import send
from monitoring import failpoints

log = structlog.get_logger(__name__)

TURN_S = 10.0
"""After that others have their turn; an endpoint with a backlog has its next one at once if nobody waits."""

REDIS_RETRY_S = 1.0


class Delivery:
    """One turn of one endpoint.

    Args:
        outbox: what it is to get first. The coordinator has its outbox.
    """

    def __init__(self, context: Context, guard: Guard, endpoint: str, outbox: Outbox) -> None:
        self._context, self._guard, self._endpoint = context, guard, endpoint
        self._first = outbox
        self._in_flight = context.settings.webhook_in_flight
        self._secrets: tuple[str, ...] = ()
        self._wait_s = 0.0
        self._held = True
        self._going = True
        self._over_at = asyncio.get_running_loop().time() + TURN_S

    def _goes_on(self) -> bool:
        return self._going and asyncio.get_running_loop().time() < self._over_at

    def stop(self) -> None:
        """Have :meth:`run` return when the tries under way are over."""
        self._going = False

    async def run(self) -> float | None:
        """Deliver until the outbox is empty, a try fails, or the turn is over.

        Returns:
            The seconds until the outbox is due again; None: it is not this coordinator's any more.
        """
        found: Outbox | None = self._first
        self._secrets = await self._context.webhooks.signing_secrets(self._endpoint, self._first.tenant)
        if not self._secrets:
            raise LookupError(f"{self._endpoint} has no secret")
        while found is not None:
            await self._send_all(found.url, found.entries)
            if not self._goes_on():
                return self._wait_s if self._held else None
            found = await self._context.outbox.next(self._endpoint)
        return None

    async def _send_all(self, url: str, entries: tuple[Entry, ...]) -> None:
        """Send entries in order, some at once if the settings say so. None begins after a failure or the end of the turn."""
        left = deque(entries)
        under_way: set[asyncio.Task[None]] = set()
        # What has failed before is tried alone: others have waited for it.
        most = self._in_flight if not entries[0].tries else 1
        try:
            while (left and self._goes_on()) or under_way:
                while left and len(under_way) < most and self._goes_on():
                    under_way.add(asyncio.create_task(self._send(url, left.popleft())))
                if not under_way:
                    return
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in under_way:
                task.cancel()

    async def _send(self, url: str, entry: Entry) -> None:
        failpoints.hit("webhook.before_send")
        result, wait_s = await send(self._guard, url, self._secrets, entry)
        failpoints.hit("webhook.after_send")
        hold = await self._note(entry, result)
        said = {"webhook": self._endpoint, "event_id": entry.event.id, "tries": entry.tries + 1}
        if result.outcome is Outcome.DELIVERED:
            log.debug("webhook_delivered", **said, took_ms=result.took_ms)
        elif result.outcome is Outcome.DEAD:
            log.warning("webhook_given_up", **said, status=result.status, error=result.error)
        else:
            log.info("webhook_failed", **said, status=result.status, error=result.error, wait_s=round(wait_s))
        if result.outcome is Outcome.FAILED:
            self._wait_s = max(self._wait_s, wait_s)
            self._going = False
        if hold is not Hold.HELD:
            self._held = self._going = False
        if hold is Hold.DISABLED:
            log.warning("webhook_disabled", webhook=self._endpoint, status=result.status, error=result.error)

    async def _note(self, entry: Entry, result: Result) -> Hold:
        """Record a try. While Redis is away nobody else can take the outbox, and what was delivered is not sent again."""
        while True:
            try:
                return await self._context.outbox.tried(self._endpoint, entry, result)
            except StoreUnavailableError as error:
                log.debug("webhook_waits_for_redis", webhook=self._endpoint, error=str(error))
                await asyncio.sleep(REDIS_RETRY_S)
