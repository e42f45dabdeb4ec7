"""Outboxes of webhooks: who may empty one, in which order, and what becomes of an event after a try."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.coordinators import Coordinators
from broker.jobs import JobStore
from broker.webhook_outbox import Entry, Hold, Outcome, Result, WebhookOutbox
from broker.webhooks import Webhooks
from jobs.webhooks import DISABLED
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

URL = "https://example.com/hooks"
LEASE_S = 20.0
DAYS_S = 3 * 86_400.0
DONE = Result(Outcome.DELIVERED, 200, 5, answer="ok")
FAILED = Result(Outcome.FAILED, None, 5, "the receiver cannot be reached")


@pytest.fixture
def hooks(store: JobStore) -> Webhooks:
    return Webhooks(store)


@pytest.fixture
def outbox(store: JobStore) -> WebhookOutbox:
    return WebhookOutbox(store, "me", LEASE_S, DAYS_S)


async def endpoint_with(hooks: Webhooks, events: int, tenant: str = "a") -> str:
    """Make an endpoint that is to get some events."""
    endpoint, _ = await hooks.create(new_id().replace("job_", "wh_"), tenant=tenant, url=URL)
    for _ in range(events):
        await hooks.test(endpoint.id)
    return endpoint.id


async def first(outbox: WebhookOutbox, endpoint: str) -> Entry:
    found = await outbox.next(endpoint)
    assert found is not None
    return found.entries[0]


async def pending(hooks: Webhooks, endpoint: str) -> int:
    found = await hooks.get(endpoint)
    assert found is not None
    return found.pending


async def test_an_outbox_is_emptied_in_order(hooks: Webhooks, outbox: WebhookOutbox) -> None:
    endpoint = await endpoint_with(hooks, 3)
    assert await outbox.due(10) == [endpoint]
    found = await outbox.take(endpoint)
    assert found is not None
    assert found == await outbox.next(endpoint)
    assert (found.url, found.tenant, len(found.entries)) == (URL, "a", 3)
    for entry, hold in zip(found.entries, (Hold.HELD, Hold.HELD, Hold.EMPTY), strict=True):
        assert entry.tries == 0
        assert (await first(outbox, endpoint)).id == entry.id
        assert await outbox.tried(endpoint, entry, DONE) is hold
    assert await outbox.next(endpoint) is None
    assert (await outbox.due(10), await pending(hooks, endpoint)) == ([], 0)
    tries = await hooks.tries(endpoint, limit=10)
    assert tries is not None
    assert [(one.number, one.status, one.answer, one.took_ms) for one in tries[0]] == [(1, 200, "ok", 5)] * 3


async def test_one_coordinator_has_an_outbox(store: JobStore, hooks: Webhooks, outbox: WebhookOutbox) -> None:
    other = WebhookOutbox(store, "other", LEASE_S, DAYS_S)
    endpoint = await endpoint_with(hooks, 1)
    taken = await asyncio.gather(outbox.take(endpoint), other.take(endpoint))
    assert [found is None for found in taken].count(True) == 1
    mine, others = (outbox, other) if await outbox.next(endpoint) else (other, outbox)
    assert await others.due(10) == []
    assert await others.next(endpoint) is None
    assert not await others.leave(endpoint)
    assert await mine.leave(endpoint)
    assert await others.due(10) == [endpoint]
    assert await others.take(endpoint)


async def test_another_takes_over_when_a_lease_has_run_out(store: JobStore, hooks: Webhooks) -> None:
    brief, other = (
        WebhookOutbox(store, "brief", LEASE_S, DAYS_S),
        WebhookOutbox(store, "other", LEASE_S, DAYS_S),
    )
    endpoint = await endpoint_with(hooks, 2)
    assert await brief.take(endpoint)
    entry = await first(brief, endpoint)
    assert not await other.take(endpoint)
    await store.client.zadd(store.keys("webhooks_due"), {endpoint: 1})  # its time has come, and
    await store.client.pexpire(store.keys("webhook_lease", endpoint), 1)
    await eventually(lambda: other.take(endpoint))
    assert (await first(other, endpoint)).id == entry.id
    # What the first had sent counts, and is not sent again.
    assert await brief.tried(endpoint, entry, DONE) is Hold.LOST
    assert (await first(other, endpoint)).id != entry.id
    assert await brief.next(endpoint) is None


async def test_the_outboxes_of_a_coordinator_that_ended_are_free(
    store: JobStore, hooks: Webhooks, outbox: WebhookOutbox
) -> None:
    endpoint = await endpoint_with(hooks, 1)
    assert await outbox.take(endpoint)
    assert await outbox.due(10) == []
    assert await Coordinators(store).bury("me") == 1
    assert await outbox.due(10) == [endpoint]


async def test_a_failed_try_holds_what_follows(
    store: JobStore, hooks: Webhooks, outbox: WebhookOutbox
) -> None:
    endpoint = await endpoint_with(hooks, 2)
    assert await outbox.take(endpoint)
    entry = await first(outbox, endpoint)
    for number in (1, 2):
        entry = await first(outbox, endpoint)
        assert entry.tries == number - 1
        assert await outbox.tried(endpoint, entry, FAILED) is Hold.HELD
        assert await outbox.tried(endpoint, entry, FAILED) is Hold.HELD  # sent twice, counted once
    assert (await first(outbox, endpoint)).tries == 2
    assert await outbox.leave(endpoint, 60)
    assert await outbox.due(10) == []
    await hooks.test(endpoint)  # a further event changes nothing
    assert not await outbox.take(endpoint)
    await store.client.zadd(store.keys("webhooks_due"), {endpoint: 1})  # a minute later
    assert await outbox.take(endpoint)
    again = await first(outbox, endpoint)
    assert (again.id, again.event, again.tries) == (entry.id, entry.event, 2)
    tries = await hooks.tries(endpoint, limit=10)
    assert tries is not None
    assert [(one.number, one.error) for one in tries[0]] == [(2, FAILED.error), (1, FAILED.error)]


async def test_a_dead_letter_can_be_sent_again(hooks: Webhooks, outbox: WebhookOutbox) -> None:
    endpoint = await endpoint_with(hooks, 2)
    assert await outbox.take(endpoint)
    entry = await first(outbox, endpoint)
    assert await outbox.tried(endpoint, entry, Result(Outcome.DEAD, 500, 1)) is Hold.HELD
    dead = await hooks.dead(endpoint, limit=10)
    assert dead is not None
    assert [(one.event, one.why, one.tries) for one in dead[0]] == [(entry.event, "failed", 1)]
    following = await first(outbox, endpoint)
    assert following.id != entry.id
    assert await outbox.tried(endpoint, following, DONE) is Hold.EMPTY
    assert await hooks.resend(endpoint, entry.event.id)
    assert await outbox.take(endpoint)
    again = await first(outbox, endpoint)
    assert (again.event, again.tries) == (entry.event, 0)
    assert await hooks.dead(endpoint, limit=10) == ([], False)


async def test_an_endpoint_that_fails_for_days_is_disabled(store: JobStore, hooks: Webhooks) -> None:
    endpoint, other, foreign = [await endpoint_with(hooks, 0, tenant) for tenant in ("a", "a", "b")]
    for times in (1, 2):  # it may happen again, and is another event
        outbox = WebhookOutbox(store, "me", LEASE_S, 0.05)
        await hooks.test(endpoint)
        assert await outbox.take(endpoint)
        assert await outbox.tried(endpoint, await first(outbox, endpoint), FAILED) is Hold.HELD
        await asyncio.sleep(0.06)
        assert await outbox.tried(endpoint, await first(outbox, endpoint), FAILED) is Hold.DISABLED
        now = await hooks.get(endpoint)
        assert now is not None
        assert (now.active, now.reason, now.pending) == (False, "failing", times)
        await hooks.test(endpoint)  # it is kept
        assert await outbox.due(10) == [other]
        assert await outbox.next(endpoint) is None
        assert (await pending(hooks, endpoint), await pending(hooks, foreign)) == (times + 1, 0)
        told: Any = await store.client.xrange(store.keys("webhook_outbox", other))
        assert len({fields["event"] for _, fields in told}) == times
        assert {(fields["type"], fields["object"]) for _, fields in told} == {(DISABLED, endpoint)}
        assert await hooks.update(endpoint, {"active": True})
        assert await outbox.take(endpoint)
        entry = await first(outbox, endpoint)
        assert entry.tries == 0
        assert await outbox.tried(endpoint, entry, DONE) is Hold.HELD
        assert await outbox.leave(endpoint)


async def test_a_success_ends_the_time_of_failure(store: JobStore, hooks: Webhooks) -> None:
    outbox = WebhookOutbox(store, "me", LEASE_S, 0.05)
    endpoint = await endpoint_with(hooks, 3)
    assert await outbox.take(endpoint)
    assert await outbox.tried(endpoint, await first(outbox, endpoint), FAILED) is Hold.HELD
    await asyncio.sleep(0.06)
    assert await outbox.tried(endpoint, await first(outbox, endpoint), DONE) is Hold.HELD
    assert await outbox.tried(endpoint, await first(outbox, endpoint), FAILED) is Hold.HELD


async def test_a_receiver_that_is_gone_gets_no_more(hooks: Webhooks, outbox: WebhookOutbox) -> None:
    endpoint = await endpoint_with(hooks, 1)
    assert await outbox.take(endpoint)
    entry = await first(outbox, endpoint)
    assert await outbox.tried(endpoint, entry, Result(Outcome.GONE, 410, 1)) is Hold.DISABLED
    now = await hooks.get(endpoint)
    assert now is not None
    assert (now.active, now.reason, now.pending) == (False, "gone", 1)


async def test_an_endpoint_that_somebody_disables_gets_nothing_more(
    hooks: Webhooks, outbox: WebhookOutbox
) -> None:
    endpoint = await endpoint_with(hooks, 3)
    assert await outbox.take(endpoint)
    entry = await first(outbox, endpoint)
    assert await hooks.update(endpoint, {"active": False})
    assert await outbox.tried(endpoint, entry, DONE) is Hold.LOST  # it was under way
    assert (await outbox.next(endpoint), await outbox.due(10)) == (None, [])
    assert await pending(hooks, endpoint) == 2
    assert await hooks.update(endpoint, {"active": True})
    assert await outbox.take(endpoint)


async def test_a_deleted_endpoint_leaves_nothing(
    store: JobStore, hooks: Webhooks, outbox: WebhookOutbox
) -> None:
    endpoint = await endpoint_with(hooks, 2)
    assert await outbox.take(endpoint)
    entry = await first(outbox, endpoint)
    assert await hooks.delete(endpoint)
    assert await outbox.tried(endpoint, entry, DONE) is Hold.LOST
    assert await outbox.next(endpoint) is None
    assert not await outbox.leave(endpoint)
    assert await store.client.keys(store.keys("webhook", f"{endpoint}*")) == []


async def test_an_endpoint_that_is_gone_is_not_due(store: JobStore, outbox: WebhookOutbox) -> None:
    """The one of a single job has a lifetime, which ends whatever is in its outbox."""
    await store.client.zadd(store.keys("webhooks_due"), {"whe_gone": 1})
    assert await outbox.due(10) == ["whe_gone"]
    assert not await outbox.take("whe_gone")
    assert await outbox.due(10) == []


async def test_tries_are_bounded(store: JobStore, hooks: Webhooks, outbox: WebhookOutbox) -> None:
    endpoint = await endpoint_with(hooks, 1)
    assert await outbox.take(endpoint)
    key = store.keys("webhook_tries", endpoint)
    pipe = store.client.pipeline(transaction=False)
    for _ in range(1200):
        pipe.xadd(key, {"x": "y"})
    await pipe.execute()
    assert await outbox.tried(endpoint, await first(outbox, endpoint), DONE) is Hold.EMPTY
    assert 1000 <= await store.client.xlen(key) < 1200
