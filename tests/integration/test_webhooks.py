"""Webhook endpoints in Redis, and what the scripts that end things write to their outboxes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from broker.batch_steps import BatchSteps
from broker.batches import BatchSpec
from broker.db.client import connect
from broker.db.errors import TooManyWebhooksError
from broker.files import FileStore
from broker.jobs import JobStore
from broker.observe import Observer
from broker.settings import BrokerSettings
from broker.webhook_outbox import Outcome, Result, WebhookOutbox
from broker.webhooks import Webhooks
from jobs.access import Actor
from jobs.batch_model import File
from jobs.batches import BatchStatus
from jobs.endpoints import RESPONSES
from jobs.facts import WebhookFacts
from jobs.failures import FailureCode
from jobs.model import JobError, JobSpec
from jobs.states import JobState
from jobs.webhooks import MOST_ENDPOINTS, event_id
from tests.encryption import key_line
from tests.integration.test_fair_queue import W, alive, spec, take
from tests.support import new_id

pytestmark = pytest.mark.asyncio

URL = "https://example.com/hooks"
ME = Actor("k3y", "a", "10.0.0.9")


@pytest.fixture
def hooks(store: JobStore) -> Webhooks:
    return Webhooks(store)


def new_hook_id() -> str:
    return new_id().replace("job_", "wh_")


async def made(hooks: Webhooks, *events: str, tenant: str = "a", **more: Any) -> str:
    endpoint, _ = await hooks.create(new_hook_id(), tenant=tenant, url=URL, events=events, **more)
    return endpoint.id


async def outbox(store: JobStore, endpoint: str) -> list[tuple[str, str]]:
    """Return what waits for an endpoint: (type, object), and check the ids."""
    entries: Any = await store.client.xrange(store.keys("webhook_outbox", endpoint))
    for _, entry in entries:
        assert entry["event"] == event_id(entry["object"], entry["type"])
        assert abs(int(entry["at"]) - await store.now_ms()) < 60_000
    return [(entry["type"], entry["object"]) for _, entry in entries]


async def due(store: JobStore) -> set[str]:
    return {*await store.client.zrange(store.keys("webhooks_due"), 0, -1)}


async def run(
    store: JobStore, job: JobSpec, state: JobState = JobState.SUCCEEDED, result: bytes = b"{}"
) -> None:
    await store.accept(job)
    claim = await take(store)
    assert claim is not None
    error = JobError(FailureCode.INTERNAL, "no") if state is JobState.FAILED else None
    assert await store.finish(claim, W, state, status=200, result=result, error=error)


async def test_each_end_of_a_job_is_in_the_outboxes_of_who_wants_it(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    every, failed, jobs = [
        await made(hooks, *events) for events in ((), ("job.failed",), ("job.*", "batch.*"))
    ]
    other, batches = await made(hooks, tenant="b"), await made(hooks, "batch.*")
    ended = []
    for state in (JobState.SUCCEEDED, JobState.FAILED):
        job = spec()
        await run(store, job, state)
        ended.append((f"job.{state}", job.id))
    cancelled, expired = spec(), spec(expires_in_ms=1)
    await store.accept(cancelled)
    for _ in range(2):
        await store.cancel(cancelled.id)
    await store.accept(expired)
    await asyncio.sleep(0.002)
    await store.reap()
    ended += [("job.cancelled", cancelled.id), ("job.expired", expired.id)]
    assert await outbox(store, every) == ended
    assert await outbox(store, jobs) == ended
    assert await outbox(store, failed) == [ended[1]]
    assert (await outbox(store, other), await outbox(store, batches)) == ([], [])
    assert await due(store) == {every, failed, jobs}


@pytest.mark.parametrize(
    ("state", "result", "kind"),
    [
        (JobState.SUCCEEDED, b'{"status":"completed"}', "response.completed"),
        (JobState.SUCCEEDED, b'{"status":"incomplete"}', "response.incomplete"),
        (JobState.FAILED, b"{}", "response.failed"),
    ],
)
async def test_a_response_has_events_of_its_own(
    store: JobStore, hooks: Webhooks, state: JobState, result: bytes, kind: str
) -> None:
    await alive(store)
    every, responses = await made(hooks), await made(hooks, "response.*")
    job = spec(endpoint=RESPONSES)
    await run(store, job, state, result)
    assert await outbox(store, every) == [(f"job.{state}", job.id), (kind, f"resp_{job.id}")]
    assert await outbox(store, responses) == [(kind, f"resp_{job.id}")]


async def test_a_call_whose_caller_waits_tells_nothing(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    call = spec(live=True)
    await run(store, call)
    assert (
        await store.client.hget(store.keys("job", call.id), "webhook") is None
    )  # nobody listens: no byte more
    endpoint = await made(hooks)
    for call in (spec(live=True), spec(live=True, endpoint=RESPONSES)):
        await run(store, call)
        job = await store.get(call.id)
        assert job is not None
        assert job.webhook is None
    assert await outbox(store, endpoint) == []
    assert await due(store) == set()


async def test_jobs_that_end_with_another_tell_of_themselves(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    endpoint = await made(hooks)
    jobs = [spec(endpoint=RESPONSES, coalesce="same") for _ in range(2)]
    await store.accept(jobs[0])
    claim = await take(store)
    assert claim is not None
    await store.accept(jobs[1])
    await store.finish(claim, W, JobState.SUCCEEDED, result=b'{"status":"incomplete"}')
    assert await outbox(store, endpoint) == [
        (kind, form.format(job.id))
        for job in jobs
        for kind, form in (("job.succeeded", "{}"), ("response.incomplete", "resp_{}"))
    ]


async def test_a_lost_attempt_tells_nothing(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    endpoint = await made(hooks)
    job = spec()
    await store.accept(job)
    claim = await take(store)
    assert claim is not None
    await store.release(claim, W, "drained")
    assert await outbox(store, endpoint) == []
    again = await take(store)
    assert again is not None
    for _ in range(2):  # the client library may send it twice
        await store.finish(again, W, JobState.SUCCEEDED)
    assert await outbox(store, endpoint) == [("job.succeeded", job.id)]


async def test_a_batch_tells_of_its_end_and_its_chunks_do_not(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    every, completed = await made(hooks), await made(hooks, "batch.completed")
    chunk = spec(endpoint="/v1/batches/chunk", metadata={"batch": "batch_1"})
    await run(store, chunk)
    file = File(f"file-{new_id()}", 1, "x.jsonl", "batch", f"x-{new_id()}", 0, tenant="a")
    await FileStore(store).create(file, expires_after_ms=None)
    steps, batch_id, token = BatchSteps(store, 60.0, 60.0), f"batch_{new_id()}", "t"
    batch, _ = await steps.create(
        BatchSpec(batch_id, file.id, file.key, "/v1/chat/completions", "24h", 86_400_000, tenant="a")
    )
    assert await steps.lease(batch_id, token, 10)
    assert await steps.step(batch, token, BatchStatus.FAILED)
    assert await outbox(store, every) == [("batch.failed", batch_id)]
    assert await outbox(store, completed) == []


async def test_a_url_of_one_job_makes_an_endpoint_of_its_end(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    job = spec(webhook=URL)
    await run(store, job)
    own = await hooks.get(f"whe_{job.id}")
    assert own is not None
    assert (own.tenant, own.url, own.active, own.pending) == ("a", URL, True, 1)
    assert await outbox(store, own.id) == [("job.succeeded", job.id)]
    assert await due(store) == {own.id}
    for key in ("webhook", "webhook_outbox"):
        assert 0 < await store.client.pttl(store.keys(key, own.id)) <= 172_800_000
    assert (await hooks.page(after=None, limit=9))[0] == []
    secret = await hooks.tenant_secret("a")
    assert await hooks.signing_secrets(own.id, "a") == (secret,) == (await hooks.tenant_secret("a"),)


async def test_where_nobody_listens_nothing_is_written(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    gone = await made(hooks)
    assert await store.client.hget(store.keys("limits"), "webhooks") == "1"
    await store.set_limits()  # as each start of an api does
    assert await store.client.hget(store.keys("limits"), "webhooks") == "1"
    assert await hooks.delete(gone)
    assert await store.client.hget(store.keys("limits"), "webhooks") is None
    await run(store, spec())
    assert await due(store) == set()
    assert [key async for key in store.client.scan_iter(f"{store.keys.namespace}:webhook*")] == []


async def test_a_coordinator_is_told_at_once(
    store: JobStore, hooks: Webhooks, broker_settings: BrokerSettings
) -> None:
    await alive(store)
    endpoint = await made(hooks)
    client = connect(broker_settings.redis_url, text=False)
    async with client, client.pubsub() as pubsub:
        await pubsub.subscribe(store.keys("look_channel"))
        await pubsub.get_message(timeout=5)  # the answer to that
        for _ in range(2):  # of the second it knows when it has delivered the first
            await run(store, spec())
        heard = []
        while message := await pubsub.get_message(timeout=0.5):
            heard.append(message["data"])
    assert [msgspec.msgpack.decode(one) for one in heard] == [[endpoint]]


async def test_a_disabled_endpoint_keeps_what_happens_until_it_is_enabled(
    store: JobStore, hooks: Webhooks
) -> None:
    await alive(store)
    endpoint = await made(hooks)
    job = spec()
    assert await hooks.update(endpoint, {"active": False})
    await run(store, job)
    assert await due(store) == set()
    assert await hooks.update(
        endpoint, {"active": True, "url": f"{URL}/2", "events": ["job.*"], "description": "x"}
    )
    changed = await hooks.get(endpoint)
    assert changed is not None
    assert (changed.url, changed.events, changed.description) == (f"{URL}/2", ("job.*",), "x")
    assert (changed.active, changed.pending) == (True, 1)
    assert await outbox(store, endpoint) == [("job.succeeded", job.id)]
    assert await due(store) == {endpoint}


async def test_a_failed_try_holds_what_follows(store: JobStore, hooks: Webhooks) -> None:
    await alive(store)
    endpoint = await made(hooks)
    later = await store.now_ms() + 60_000
    await store.client.zadd(store.keys("webhooks_due"), {endpoint: later})
    await run(store, spec())
    assert await store.client.zscore(store.keys("webhooks_due"), endpoint) == later


async def test_a_full_outbox_gives_up_its_oldest_events(store: JobStore, hooks: Webhooks) -> None:
    endpoint = await made(hooks)
    fill = (
        "for n = 1, 100000 do redis.call('XADD', KEYS[1], '*', 'event', 'evt_' .. n, 'type', 'job.failed',"
        " 'object', 'job_' .. n, 'at', n) end"
    )
    await store.client.eval(fill, 1, store.keys("webhook_outbox", endpoint))
    await hooks.test(endpoint)
    record = await hooks.get(endpoint)
    assert record is not None
    assert (record.pending, record.dead) == (100_000, 1)
    letters, more = await hooks.dead(endpoint, limit=5) or ([], True)
    assert [
        (one.event.id, one.event.object_id, one.event.at_ms, one.why, one.tries, more) for one in letters
    ] == [("evt_1", "job_1", 1, "overflow", 0, False)]
    assert await store.client.hgetall(store.keys("webhook_counts")) == {"dead:overflow": "1"}
    assert await hooks.resend(endpoint, "evt_1")
    letters, _ = await hooks.dead(endpoint, limit=5) or ([], True)
    assert [one.event.id for one in letters] == ["evt_2"]


async def test_what_was_tried_can_be_read_and_sent_again(store: JobStore, hooks: Webhooks) -> None:
    endpoint, other = await made(hooks), await made(hooks)
    for n in (1, 2, 3):
        entry: dict[Any, Any] = {
            "event": f"evt_{n}",
            "type": "job.failed",
            "object": f"job_{n}",
            "at": n,
            "n": 1,
        }
        entry |= {
            "status": 500 if n < 3 else "",
            "error": "" if n < 3 else "timeout",
            "ms": 7,
            "answer": "no",
        }
        await store.client.xadd(store.keys("webhook_tries", endpoint), entry)
    tries, more = await hooks.tries(endpoint, limit=2, owner="a") or ([], False)
    assert [(one.event.id, one.status, one.error, one.took_ms, one.answer) for one in tries] == [
        ("evt_3", None, "timeout", 7, "no"),
        ("evt_2", 500, "", 7, "no"),
    ]
    rest, last = await hooks.tries(endpoint, limit=2, after=tries[-1].id) or ([], True)
    assert ([one.event.id for one in rest], more, last) == (["evt_1"], True, False)
    assert await hooks.tries(endpoint, limit=2, owner="b") is None
    assert await hooks.resend(endpoint, "evt_1")
    assert not await hooks.resend(endpoint, "evt_9")
    assert not await hooks.resend(endpoint, "evt_1", owner="b")
    assert not await hooks.resend(other, "evt_1")
    entries: Any = await store.client.xrange(store.keys("webhook_outbox", endpoint))
    assert [entry for _, entry in entries] == [
        {"event": "evt_1", "type": "job.failed", "object": "job_1", "at": "1"}
    ]


async def test_a_ping_comes_unasked(store: JobStore, hooks: Webhooks) -> None:
    endpoint = await made(hooks, "batch.failed")
    event = await hooks.test(endpoint)
    entries: Any = await store.client.xrange(store.keys("webhook_outbox", endpoint))
    assert [(entry["event"], entry["type"], entry["object"]) for _, entry in entries] == [
        (event, "ping", endpoint)
    ]
    assert await hooks.test(endpoint, owner="b") is None
    assert await due(store) == {endpoint}


async def test_another_tenants_endpoint_does_not_exist(hooks: Webhooks) -> None:
    endpoint = await made(hooks)
    assert await hooks.get(endpoint, owner="b") is None
    assert await hooks.rotate(endpoint, overlap_ms=0, owner="b") is None
    assert not await hooks.update(endpoint, {"active": False}, owner="b")
    assert not await hooks.delete(endpoint, owner="b")
    assert (await hooks.page(after=None, limit=9, owner="b"))[0] == []
    found = await hooks.get(endpoint, owner="a")
    assert found is not None
    assert (found.active, (await hooks.page(after=None, limit=9, owner="a"))[0]) == (True, [found])


async def test_a_tenant_has_a_bounded_number_of_endpoints(hooks: Webhooks) -> None:
    made_ = [await made(hooks) for _ in range(MOST_ENDPOINTS)]
    with pytest.raises(TooManyWebhooksError):
        await made(hooks)
    await made(hooks, tenant="b")
    assert await hooks.delete(made_[0])
    await made(hooks)
    whole, _ = await hooks.page(after=None, limit=20, owner="a")
    assert whole == sorted(whole, key=lambda one: (one.created_ms, one.id), reverse=True)
    page, more = await hooks.page(after=whole[1].id, limit=3, owner="a")
    assert (page, more, len(whole)) == (whole[2:5], True, MOST_ENDPOINTS)


async def test_a_rotated_secret_signs_beside_the_new_one_for_a_while(hooks: Webhooks) -> None:
    endpoint, first = await hooks.create(new_hook_id(), tenant="a", url=URL)
    second = await hooks.rotate(endpoint.id, overlap_ms=60_000)
    assert await hooks.signing_secrets(endpoint.id, "a") == (second, first)
    third = await hooks.rotate(endpoint.id, overlap_ms=0)
    assert await hooks.signing_secrets(endpoint.id, "a") == (third,)
    assert first.startswith("whsec_")
    assert len({first, second, third}) == 3
    await hooks.delete(endpoint.id)
    assert await hooks.signing_secrets(endpoint.id, "a") == ()


async def test_secrets_are_sealed_where_bodies_are(store: JobStore, broker_settings: BrokerSettings) -> None:
    sealed = JobStore(
        store.client, broker_settings.model_copy(update={"encryption_keys": SecretStr(key_line())})
    )
    hooks = Webhooks(sealed)
    endpoint, secret = await hooks.create(new_hook_id(), tenant="a", url=URL)
    stored = await store.client.hget(store.keys("webhook", endpoint.id), "secret") or ""
    assert stored
    assert secret not in str(stored)
    assert await hooks.signing_secrets(endpoint.id, "a") == (secret,)
    of_all = await hooks.tenant_secret("a")
    assert of_all not in str(await store.client.hgetall(store.keys("webhook", "whs_a")))
    assert await hooks.signing_secrets(f"whe_{new_id()}", "a") == (of_all,)


async def test_changes_are_in_the_audit_stream(store: JobStore, hooks: Webhooks) -> None:
    endpoint = await made(hooks, by=ME)
    for _ in range(2):  # the second changes nothing
        await hooks.update(endpoint, {"active": False}, by=ME)
    await hooks.rotate(endpoint, overlap_ms=1000, by=ME)
    for _ in range(2):
        await hooks.delete(endpoint, by=ME)
    acts: Any = await store.client.xrange(store.keys("audit"))
    assert [(act["what"], act["on"], Actor.decode(act["by"])) for _, act in acts] == [
        (f"webhook.{verb}", f"webhook {endpoint}", ME) for verb in ("create", "set", "rotate", "delete")
    ]


async def test_operators_see_what_waits(store: JobStore, hooks: Webhooks) -> None:
    observer = Observer(store)
    assert await observer.webhooks() == WebhookFacts()
    await alive(store)
    active, disabled = await made(hooks), await made(hooks, tenant="b")
    await hooks.update(disabled, {"active": False})
    for tenant in ("a", "b"):
        await run(store, spec(tenant))
    await run(store, spec(webhook=URL))
    await store.client.xadd(store.keys("webhook_dead", disabled), {"why": "failed"})
    await store.client.hset(store.keys("webhook_counts"), "delivered", "3")
    seen = await observer.webhooks()
    assert (seen.active, seen.disabled, seen.pending, seen.dead, seen.overdue) == (1, 1, 4, 1, 0)
    assert seen.counts == {"delivered": 3}
    assert 0 <= seen.oldest_s < 60
    await store.client.zadd(store.keys("webhooks_due"), {active: await store.now_ms() - 61_000})
    assert (await observer.webhooks()).overdue == 1


async def test_the_endpoint_of_one_job_goes_when_it_has_what_it_gets(
    store: JobStore, hooks: Webhooks
) -> None:
    await alive(store)
    outbox_ = WebhookOutbox(store, "me", 60.0, 60.0)
    job = spec(webhook=URL)
    await run(store, job)
    own, kept = f"whe_{job.id}", await made(hooks)
    await hooks.test(kept)
    for endpoint in (own, kept):
        assert await outbox_.take(endpoint)
        found = await outbox_.next(endpoint)
        assert found is not None
        await outbox_.tried(endpoint, found.entries[0], Result(Outcome.DELIVERED, 204, 3))
        assert await outbox_.next(endpoint) is None
    for key in ("webhook", "webhook_tries"):
        assert 0 < await store.client.pttl(store.keys(key, own)) <= 600_000
        assert await store.client.pttl(store.keys(key, kept)) == -1
    assert await due(store) == set()
