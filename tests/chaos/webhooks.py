"""Webhooks in the mix: an endpoint that gets every end, a receiver that dies at times, and what must have arrived."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.webhooks import Webhooks
from jobs.access import DEFAULT_TENANT
from jobs.webhooks import TO_NOBODY, event_id
from tests.chaos.ledger import TERMINAL, Ledger
from tests.chaos.stack import NAMESPACE, Stack
from tests.receivers import Got, Receiver, Reply
from tests.support import eventually, new_id

PATIENCE_S = 90.0
"""Until the last event has arrived: a failed try is followed by delays."""


class Hooked:
    """Use as ``async with`` around a round; then :meth:`check`.

    Args:
        stack: a stack that serves.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._up = AsyncExitStack()
        self._deaths = 0
        self._since_ms = 0
        self.receiver = Receiver(self._answer)

    async def __aenter__(self) -> Self:
        self._up.enter_context(self.receiver)
        settings = BrokerSettings(redis_url=self._stack.url, namespace=NAMESPACE)
        store = JobStore(connect(settings.redis_url), settings)
        self._up.push_async_callback(store.aclose)
        self._since_ms = await store.now_ms()
        self._hooks = Webhooks(store)
        ident = new_id().replace("job_", "wh_")
        endpoint, _ = await self._hooks.create(ident, tenant=DEFAULT_TENANT, url=self.receiver.url)
        self._endpoint = endpoint.id
        self._up.push_async_callback(self._hooks.delete, ident)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._up.aclose()

    def kill_receiver(self) -> None:
        """Have its next connection end without an answer to the request on it."""
        self._deaths += 1

    def _answer(self, _: Got) -> Reply:
        if self._deaths:
            self._deaths -= 1
            raise ConnectionResetError
        return Reply()

    async def check(self, ledger: Ledger) -> None:
        """Note what is wrong: each end must have arrived at least once, always under one id, and nothing else."""
        await eventually(self._delivered, PATIENCE_S)
        came: dict[tuple[str, str], list[str]] = defaultdict(list)
        for got in self.receiver.got:
            came[got.event["type"], got.event["data"]["id"]].append(got.id)
        ended = self._ended()
        for job, state in ended.items():
            ids = came.get((f"job.{state}", job), [])
            if set(ids) != {event_id(job, f"job.{state}")}:
                ledger.break_("each end arrives, under one id", job=job, state=state, ids=ids)
        for kind, job in came:
            if kind.startswith("job.") and job in ended and kind != f"job.{ended[job]}":
                ledger.break_("no end arrives that was none", job=job, state=ended[job], kind=kind)
        ledger.counts["webhooks"] += len(came)
        ledger.counts["webhooks_again"] += sum(len(ids) - 1 for ids in came.values())

    async def _delivered(self) -> bool:
        found = await self._hooks.get(self._endpoint)
        return found is not None and found.active and found.pending == 0

    def _ended(self) -> dict[str, str]:
        """Return the jobs since the beginning of whose ends webhooks are told, with their states."""
        keys = self._stack.keys
        with self._stack.admin(30.0) as client:
            ids: Any = client.zrangebyscore(keys("jobs"), self._since_ms, "+inf")
            records = {job: client.hmget(keys("job", job), ("state", "batch", "webhook")) for job in ids}
        return {
            job: state
            for job, (state, batch, webhook) in records.items()
            if state in TERMINAL and batch is None and webhook != TO_NOBODY
        }
