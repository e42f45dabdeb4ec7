"""Whatever dies while webhooks are delivered: each event arrives, and always under the same id."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.coordinators import Coordinators
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.webhooks import Webhooks
from jobs import webhook_backoff
from penstock.server.valkey import EmbeddedServer
from tests.coordinators import CoordinatorThread
from tests.integration.test_webhook_delivery import ALLOWED, emptied, endpoint_at, settled
from tests.processes import CoordinatorProcess
from tests.receivers import Got, Receiver, Reply
from tests.support import eventually

__all__ = ["emptied"]  # a fixture

pytestmark = pytest.mark.asyncio

QUICK: dict[str, Any] = {**ALLOWED, "webhook_timeout_s": 5.0}
EVENTS = 12


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A Redis of the test's own."""
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def once_each_in_order(ids: list[str], events: list[str | None], again: int) -> None:
    """Check that each event came, first in order, and at most ``again`` came twice."""
    assert list(dict.fromkeys(ids)) == events
    assert len(ids) - len(events) <= again


@pytest.mark.parametrize(("window", "again"), [("webhook.before_send", 0), ("webhook.after_send", 1)])
async def test_a_killed_coordinator_costs_one_repetition_at_most(
    store: JobStore,
    broker_settings: BrokerSettings,
    receiver: Receiver,
    tmp_path: Path,
    window: str,
    again: int,
) -> None:
    hooks = Webhooks(store)
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    events = [await hooks.test(endpoint) for _ in range(EVENTS)]
    first = CoordinatorProcess(broker_settings, tmp_path / "log", failpoints=f"{window}=kill@5", **QUICK)
    try:
        assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
        coordinators = Coordinators(store)
        for dead in await coordinators.alive():  # its lease is long: nobody on a busy machine may lose one
            assert await coordinators.bury(dead["id"])
        with CoordinatorThread(broker_settings, **QUICK):
            await settled(hooks, endpoint)
    finally:
        first.close()
    once_each_in_order(receiver.ids, events, again)
    assert len(receiver.ids) == len(events) + again  # the kill happened where it should


async def test_a_receiver_that_dies_with_a_request_gets_it_again(
    store: JobStore, broker_settings: BrokerSettings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_backoff, "DELAYS_S", (0.05,) * 5)
    hooks = Webhooks(store)

    def die_at_times(got: Got) -> Reply:
        if len(receiver.got) in {2, 3, 7}:
            raise ConnectionResetError  # the connection ends without an answer
        return Reply()

    receiver.answer = die_at_times
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    events = [await hooks.test(endpoint) for _ in range(EVENTS)]
    with CoordinatorThread(broker_settings, **QUICK):
        await settled(hooks, endpoint)
    once_each_in_order(receiver.ids, events, again=3)


async def test_a_killed_redis_costs_one_repetition_at_most(
    server: EmbeddedServer, receiver: Receiver
) -> None:
    """It is killed while a request is under way: the answer is noted when Redis is back, with what it has on disk."""
    settings = BrokerSettings(redis_url=server.url)
    store = JobStore(connect(server.url), settings)
    hooks = Webhooks(store)

    def kill_in_between(got: Got) -> Reply:
        if len(receiver.got) == 4:
            pid = server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        return Reply()

    receiver.answer = kill_in_between
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    events = [await hooks.test(endpoint) for _ in range(EVENTS)]
    with CoordinatorThread(settings, **QUICK):
        await eventually(lambda: server.pid is None)
        server.stop()
        server.start()
        await settled(hooks, endpoint)
    await store.aclose()
    once_each_in_order(receiver.ids, events, again=2)


async def test_a_full_redis_still_notes_what_was_delivered(
    server: EmbeddedServer, receiver: Receiver
) -> None:
    """Else each event would be sent again and again until there is memory."""
    settings = BrokerSettings(redis_url=server.url)
    store = JobStore(connect(server.url), settings)
    hooks = Webhooks(store)
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    over = threading.Event()

    def hold(_: Got) -> Reply:
        over.wait(60)
        return Reply()

    receiver.answer = hold
    try:
        with CoordinatorThread(settings, **QUICK | {"webhook_timeout_s": 60}):
            events = [await hooks.test(endpoint) for _ in range(EVENTS)]
            await eventually(lambda: receiver.got)
            await store.client.config_set("maxmemory", 1)
            over.set()
            await settled(hooks, endpoint)
    finally:
        await store.aclose()
    assert receiver.ids == events
