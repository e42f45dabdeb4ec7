"""A coordinator delivers webhooks: in order, signed, again after failures, at least once whatever dies."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from standardwebhooks import Webhook as Verifier

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.webhooks import Webhooks
from jobs import webhook_backoff
from jobs.states import JobState
from tests.coordinators import CoordinatorThread
from tests.integration.test_fair_queue import W, alive, spec, take
from tests.receivers import Got, Receiver, Reply
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

ALLOWED: dict[str, Any] = {"webhook_allow_http": True, "webhook_allow_private": "127.0.0.0/8"}


@pytest.fixture
def hooks(store: JobStore) -> Webhooks:
    return Webhooks(store)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture
def coordinator(broker_settings: BrokerSettings) -> Iterator[CoordinatorThread]:
    with CoordinatorThread(broker_settings, **ALLOWED) as one:
        yield one


@pytest_asyncio.fixture(autouse=True)
async def emptied(store: JobStore) -> AsyncIterator[None]:
    """Endpoints last until they are deleted."""
    yield
    endpoints: Any = await store.client.zrange(store.keys("webhooks"), 0, -1)
    for endpoint in endpoints:
        await Webhooks(store).delete(endpoint)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed tries are tried again soon; there are three in all."""
    monkeypatch.setattr(webhook_backoff, "DELAYS_S", (0.05, 0.05))


async def endpoint_at(hooks: Webhooks, url: str, *events: str, tenant: str = "a") -> tuple[str, str]:
    """Make an endpoint; return its id and its secret."""
    endpoint, secret = await hooks.create(
        new_id().replace("job_", "wh_"), tenant=tenant, url=url, events=events
    )
    return endpoint.id, secret


async def succeed(store: JobStore, tenant: str = "a") -> str:
    """Run a job to its end; return its id."""
    job = spec(tenant)
    await store.accept(job)
    claim = await take(store)
    assert claim is not None
    assert await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}")
    return job.id


async def settled(hooks: Webhooks, endpoint: str) -> None:
    """Wait until nothing is left to deliver."""

    async def done() -> bool:
        found = await hooks.get(endpoint)
        return found is not None and found.pending == 0

    await eventually(done)


async def sent(hooks: Webhooks, endpoint: str) -> list[tuple[str, int, int | None]]:
    """Return the tries, the oldest first: event, number, status."""
    found = await hooks.tries(endpoint, limit=1000)
    assert found is not None
    return [(one.event.id, one.number, one.status) for one in reversed(found[0])]


async def test_the_end_of_a_job_arrives_signed(
    store: JobStore, hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread
) -> None:
    endpoint, secret = await endpoint_at(hooks, f"{receiver.url}/in?a=b")
    await alive(store)
    job = await succeed(store)
    await settled(hooks, endpoint)
    (got,) = receiver.got
    assert got.path == "/in?a=b"
    assert (got.event["type"], got.event["data"]["id"]) == ("job.succeeded", job)
    assert got.headers["content-type"] == "application/json"
    assert Verifier(secret).verify(got.body, dict(got.headers)) == got.event
    with openai.OpenAI(api_key="none", webhook_secret=secret) as client:
        client.webhooks.verify_signature(got.body, dict(got.headers))
    assert await sent(hooks, endpoint) == [(got.id, 1, 204)]


async def test_events_arrive_in_order_over_one_connection(
    store: JobStore, hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread
) -> None:
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    await alive(store)
    jobs = [await succeed(store) for _ in range(120)]
    await settled(hooks, endpoint)
    assert [got.event["data"]["id"] for got in receiver.got] == jobs
    assert len({got.peer for got in receiver.got}) == 1


@pytest.mark.usefixtures("brisk")
async def test_a_failed_event_holds_the_next_and_keeps_its_id(
    hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread
) -> None:
    receiver.answer = lambda _: Reply(500 if len(receiver.got) < 3 else 200, body=b"no" * 2000)
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    events = [await hooks.test(endpoint) for _ in range(2)]
    await settled(hooks, endpoint)
    assert receiver.ids == [events[0]] * 3 + [events[1]]
    assert len({got.body for got in receiver.got[:3]}) == 1
    assert await sent(hooks, endpoint) == [
        (events[0], 1, 500),
        (events[0], 2, 500),
        (events[0], 3, 200),
        (events[1], 1, 200),
    ]
    tries = await hooks.tries(endpoint, limit=1)
    assert tries is not None
    assert tries[0][0].answer == "no" * 1024


@pytest.mark.usefixtures("brisk")
async def test_an_event_that_fails_for_too_long_is_a_dead_letter(
    hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread
) -> None:
    receiver.answer = lambda got: Reply(400 if got.id == receiver.ids[0] else 200)
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    poison, following = [await hooks.test(endpoint) for _ in range(2)]
    await settled(hooks, endpoint)
    assert receiver.ids == [poison] * 3 + [following]
    dead = await hooks.dead(endpoint, limit=10)
    assert dead is not None
    assert [(one.event.id, one.why, one.tries) for one in dead[0]] == [(poison, "failed", 3)]
    receiver.answer = lambda _: Reply(200)
    assert poison is not None
    assert await hooks.resend(endpoint, poison)
    await settled(hooks, endpoint)
    assert receiver.ids[-1] == poison


async def test_a_receiver_that_says_when_is_left_alone_until_then(
    hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_backoff, "DELAYS_S", (0.01, 0.01))
    receiver.answer = lambda _: Reply(503, {"Retry-After": "1"}) if len(receiver.got) == 1 else Reply()
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    await hooks.test(endpoint)
    await settled(hooks, endpoint)
    first, second = receiver.got
    assert second.at - first.at >= 1.0


async def test_410_disables_the_endpoint(
    hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread
) -> None:
    receiver.answer = lambda got: Reply(410 if got.path == "/a" else 200)
    endpoint, _ = await endpoint_at(hooks, f"{receiver.url}/a")
    await endpoint_at(hooks, f"{receiver.url}/b")
    await hooks.test(endpoint)
    await eventually(lambda: len(receiver.got) == 2)
    told = receiver.got[1]
    assert (told.path, told.event["type"], told.event["data"]["id"]) == ("/b", "webhook.disabled", endpoint)
    now = await hooks.get(endpoint)
    assert now is not None
    assert (now.active, now.reason, now.pending) == (False, "gone", 1)


async def test_slow_receivers_of_one_tenant_hold_no_other_tenant(
    hooks: Webhooks, receiver: Receiver, broker_settings: BrokerSettings
) -> None:
    """A tenant has half of the deliveries at most; the rest of its endpoints wait."""
    over = threading.Event()
    waited: list[bool] = []

    def answer(got: Got) -> Reply:
        if got.path == "/slow":
            waited.append(over.wait(60))
        return Reply()

    receiver.answer = answer
    with CoordinatorThread(broker_settings, **ALLOWED, webhook_endpoints_at_once=4, webhook_timeout_s=30):
        slow = [(await endpoint_at(hooks, f"{receiver.url}/slow", tenant="a"))[0] for _ in range(6)]
        for endpoint in slow:
            await hooks.test(endpoint)
        await eventually(lambda: len(receiver.got) >= 2)
        good, _ = await endpoint_at(hooks, f"{receiver.url}/good", tenant="b")
        for _ in range(20):
            await hooks.test(good)
        await settled(hooks, good)
        assert [got.path for got in receiver.got].count("/slow") == 2
        over.set()
        for endpoint in slow:
            await settled(hooks, endpoint)
    assert waited == [True] * 6


async def test_an_address_that_is_not_allowed_gets_nothing(
    hooks: Webhooks, receiver: Receiver, broker_settings: BrokerSettings
) -> None:
    with CoordinatorThread(broker_settings, webhook_allow_http=True):
        endpoint, _ = await endpoint_at(hooks, f"http://localhost:{receiver.port}/")
        await hooks.test(endpoint)

        async def tried() -> Any:
            return (await hooks.tries(endpoint, limit=1) or ((), False))[0]

        (one,) = await eventually(tried)
    assert (one.status, one.number, receiver.got) == (None, 1, [])
    assert "loopback" in one.error
    assert "webhook_allow_private" in one.error


async def test_both_secrets_sign_after_a_rotation(
    hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread
) -> None:
    endpoint, old = await endpoint_at(hooks, receiver.url)
    new = await hooks.rotate(endpoint, overlap_ms=60_000)
    assert new is not None
    await hooks.test(endpoint)
    await settled(hooks, endpoint)
    (got,) = receiver.got
    for secret in (old, new):
        Verifier(secret).verify(got.body, dict(got.headers))


async def test_a_window_lets_a_slow_receiver_keep_pace(
    hooks: Webhooks, receiver: Receiver, broker_settings: BrokerSettings
) -> None:
    """Several are under way at once, they begin in order, and what fails is tried again before what comes later."""
    at_once: list[int] = []
    open_now: set[str] = set()
    full = threading.Event()

    def answer(got: Got) -> Reply:
        open_now.add(got.id)
        at_once.append(len(open_now))
        if len(open_now) == 4:
            full.set()
        full.wait(60)
        time.sleep(0.05)
        open_now.discard(got.id)
        return Reply()

    receiver.answer = answer
    with CoordinatorThread(broker_settings, **ALLOWED, webhook_in_flight=4):
        endpoint, _ = await endpoint_at(hooks, receiver.url)
        events = [await hooks.test(endpoint) for _ in range(24)]
        await settled(hooks, endpoint)
    assert sorted(receiver.ids) == sorted(map(str, events))
    assert max(at_once) == 4
    assert all(abs(receiver.ids.index(str(event)) - n) <= 4 for n, event in enumerate(events))


async def test_a_coordinator_that_stops_gives_its_outboxes_back(
    hooks: Webhooks, receiver: Receiver, broker_settings: BrokerSettings
) -> None:
    receiver.answer = lambda _: Reply(delay_s=0.1)
    endpoint, _ = await endpoint_at(hooks, receiver.url)
    events = [await hooks.test(endpoint) for _ in range(60)]
    with CoordinatorThread(broker_settings, **ALLOWED, batch_lease_s=600):  # nobody waits for its end
        await eventually(lambda: len(receiver.got) >= 2)
    assert len(receiver.got) < 60
    receiver.answer = lambda _: Reply()
    with CoordinatorThread(broker_settings, **ALLOWED):
        await settled(hooks, endpoint)
    assert receiver.ids == events  # the try under way was finished, so that nothing came twice


async def test_an_endpoint_gets_its_own_tenants_events(
    hooks: Webhooks, receiver: Receiver, coordinator: CoordinatorThread, store: JobStore
) -> None:
    mine, _ = await endpoint_at(hooks, f"{receiver.url}/a", tenant="a")
    await endpoint_at(hooks, f"{receiver.url}/b", tenant="b")
    await alive(store)
    await succeed(store, "a")
    await settled(hooks, mine)
    assert [got.path for got in receiver.got] == ["/a"]
