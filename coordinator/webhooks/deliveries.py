"""The endpoints to which this coordinator delivers: taken with a lease when something is due, given back after a turn."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from broker.db.errors import StoreError, StoreUnavailableError
from broker.webhook_outbox import Outbox
from coordinator.context import Context

if TYPE_CHECKING:
    from coordinator.webhooks.delivery import Delivery
    from coordinator.webhooks.guard import Guard

log = structlog.get_logger(__name__)

AT_ONCE = 250
"""Endpoints that one look may take up or put off."""

BUSY_S = 1.0
"""Rest of an endpoint whose tenant has its share of the deliveries already."""

TROUBLE_S = 30.0
"""Rest of an endpoint after an error of our own."""


class Deliveries:
    """Delivers to a bounded number of endpoints at once, at most half of them one tenant's: its receivers may be slow.

    Args:
        look_again: has :meth:`look` called soon. There is room again.
    """

    def __init__(self, context: Context, look_again: Callable[[], None]) -> None:
        self._context = context
        self._look_again = look_again
        self._guard: Guard | None = None
        self._deliveries: dict[str, Delivery] = {}
        self._of_tenant: Counter[str] = Counter()
        self._came_back = False  # an endpoint is due again whose turn is not quite over
        self.running: set[asyncio.Task[None]] = set()
        self.closed = False

    async def look(self) -> None:
        """Take the endpoints for which something is due; nothing more once it is ``closed``."""
        seen = 0
        while (room := self._room()) > 0 and seen < AT_ONCE:
            due = await self._context.outbox.due(room)
            self._came_back |= any(endpoint in self._deliveries for endpoint in due)
            await asyncio.gather(*(self._take_up(one) for one in due if one not in self._deliveries))
            if len(due) < room:
                return
            seen += len(due)

    def _room(self) -> int:
        return 0 if self.closed else self._context.settings.webhook_endpoints_at_once - len(self.running)

    async def _take_up(self, endpoint: str) -> None:
        outbox = await self._context.outbox.take(endpoint)
        if outbox is None:
            return
        most = math.ceil(self._context.settings.webhook_endpoints_at_once / 2)
        if self.closed or self._of_tenant[outbox.tenant] >= most:
            await self._context.outbox.leave(endpoint, 0 if self.closed else BUSY_S)
        else:
            self._begin(endpoint, outbox)

    def stop(self) -> None:
        """Begin nothing more; the tries under way finish."""
        self.closed = True
        for delivery in self._deliveries.values():
            delivery.stop()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._guard is not None:
            await self._guard.aclose()

    def _begin(self, endpoint: str, outbox: Outbox) -> None:
        # Late, as a coordinator without webhooks does without their libraries.
        from coordinator.webhooks.delivery import Delivery
        from coordinator.webhooks.guard import Guard

        if self._guard is None:
            s = self._context.settings
            self._guard = Guard(
                s.webhook_networks,
                allow_http=s.webhook_allow_http,
                timeout_s=s.webhook_timeout_s,
                connections=s.webhook_endpoints_at_once * s.webhook_in_flight,
            )
        delivery = self._deliveries[endpoint] = Delivery(self._context, self._guard, endpoint, outbox)
        self._of_tenant[outbox.tenant] += 1
        task = asyncio.create_task(self._deliver(endpoint, delivery), name=f"deliver to {endpoint}")
        self.running.add(task)
        task.add_done_callback(lambda task: self._over(task, outbox.tenant))

    def _over(self, task: asyncio.Task[None], tenant: str) -> None:
        if self._room() <= 0 or self._came_back:
            self._came_back = False
            self._look_again()
        self.running.discard(task)
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]

    async def _deliver(self, endpoint: str, delivery: Delivery) -> None:
        """Have one turn, and give the outbox back."""
        wait_s: float | None = 0.0
        try:
            wait_s = await delivery.run()
        except StoreUnavailableError as error:
            log.debug("webhook_waits_for_redis", webhook=endpoint, error=str(error))
        except Exception:
            log.exception("webhook_delivery_failed", webhook=endpoint)
            wait_s = TROUBLE_S
        finally:
            del self._deliveries[endpoint]
            if wait_s is not None:
                with suppress(StoreError):  # it is taken again when its lease has run out
                    await self._context.outbox.leave(endpoint, wait_s)
