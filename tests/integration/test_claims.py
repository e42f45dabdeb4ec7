"""From Redis's answer to Celery's delivery: no claim is lost, no worker sleeps beside work, and one job wakes one worker."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue
from redis.asyncio import Redis

from broker.celery.app import TASK_NAME, make_celery
from broker.celery.claimer import Claimer, Room
from broker.celery.envelope import learn_envelope
from broker.celery.transport import CLAIMER
from broker.jobs import JobStore
from broker.sealing import Sealer
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.model import Succeeded
from jobs.states import JobState
from tests.integration.test_worker import chat, ended, read, ready, running, start_worker, submit
from tests.pace import Pace
from tests.redisproxy import RedisProxy
from tests.support import eventually, new_id

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

LEASE: dict[str, Any] = {"lease_ttl_s": 60.0, "heartbeat_s": 0.3, "reap_interval_s": 0.2}
"""A lease that a busy machine cannot outlast: who was killed is buried instead."""


async def reasons(store: JobStore, job_id: str) -> list[str]:
    return [attempt.reason for attempt in (await read(store, job_id)).history]


async def functions_called(client: Redis) -> int:
    """How many functions the server has run."""
    return int((await client.info("commandstats")).get("cmdstat_fcall", {"calls": 0})["calls"])


async def test_a_worker_that_dies_with_a_claim_loses_it_with_its_lease(store: JobStore, ready) -> None:
    """Redis has answered, and Celery has no message yet."""
    first = await ready("w1", failpoints="worker.claimed=kill", **LEASE)
    job_id = await submit(store)
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    assert (await read(store, job_id)).state is JobState.RUNNING
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    await ready("w2", **LEASE)
    job = await ended(store, job_id)
    assert isinstance(job.phase, Succeeded)
    assert [attempt.reason for attempt in job.history] == ["worker_lost"]


async def test_a_worker_that_dies_with_many_claims_holds_up_nobody(store: JobStore, ready) -> None:
    """The other jobs of its lane do not wait for its lease."""
    first = await ready("w1", failpoints="worker.claimed=kill", **LEASE)
    await store.pause("default", paused=True)
    lost = [await submit(store, chat(f"{n}")) for n in range(40)]
    await store.pause("default", paused=False)
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    taken = [job_id for job_id in lost if (await read(store, job_id)).state is JobState.RUNNING]
    assert len(taken) == 32
    await ready("w2", **LEASE)
    pace = Pace()
    for job_id in [*(job_id for job_id in lost if job_id not in taken), await submit(store)]:
        assert (await ended(store, job_id)).state is JobState.SUCCEEDED
    assert pace.allows(2.0), pace
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    for job_id in taken:
        assert (await ended(store, job_id)).state is JobState.SUCCEEDED


def first_of(workers: list[dict[str, Any]], name: str) -> str:
    (found,) = [str(one["incarnation"]) for one in workers if one["name"].startswith(f"{name}@")]
    return found


@pytest.mark.parametrize("heartbeat_s", [0.1, 30.0])
async def test_an_answer_that_was_lost_is_asked_for_again(
    store: JobStore, ready, broker_settings: BrokerSettings, tmp_path: Path, heartbeat_s: float
) -> None:
    """By a call with the same token, unless the heartbeats have given the jobs back before."""
    with RedisProxy(broker_settings.redis_url, tmp_path / "p") as proxy:
        worker = await ready(redis_url=proxy.url, concurrency=4, heartbeat_s=heartbeat_s, lease_ttl_s=120.0)
        proxy.lose = b"claim_"
        ids = [await submit(store, chat(f"{n}", max_tokens=3)) for n in range(6)]
        await running(
            store, ids[0]
        )  # an idle worker asks once a second: what is lost first may be an empty answer
        await eventually(lambda: proxy.lost >= 1)
        proxy.lose = None
        for job_id in ids:
            job = await ended(store, job_id)
            assert isinstance(job.phase, Succeeded)
            assert heartbeat_s < 1 or await reasons(store, job_id) == []
            assert {*await reasons(store, job_id)} <= {"not_delivered"}
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0


async def test_heartbeats_find_what_a_worker_does_not_know(store: JobStore, ready) -> None:
    """Nobody asks again for this claim. What the worker runs it keeps."""
    await ready(concurrency=1, heartbeat_s=0.2, simulated_inter_token_s=0.05)
    (worker,) = [one["incarnation"] for one in await store.workers()]
    long = await submit(store, chat(max_tokens=2000))
    await running(store, long)
    stray = await submit(store, chat(max_tokens=1), max_attempts=1)
    assert [claim.id for claim in await store.claim(worker)] == [stray]

    async def given_back() -> bool:
        return await reasons(store, stray) == ["not_delivered"]

    await eventually(given_back)
    assert (await read(store, stray)).state is JobState.QUEUED
    assert (await read(store, long)).state is JobState.RUNNING
    await store.cancel(long)
    assert (await ended(store, stray)).state is JobState.SUCCEEDED
    assert await reasons(store, long) == []


async def test_a_drain_gives_back_what_was_claimed_and_never_arrived(
    store: JobStore, ready, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    """At no cost, though the worker never heard of it."""
    with RedisProxy(broker_settings.redis_url, tmp_path / "p") as proxy:
        worker = await ready(redis_url=proxy.url, heartbeat_s=30.0, lease_ttl_s=120.0)
        proxy.lose = b"claim_"
        job_id = await submit(store, chat(max_tokens=3), max_attempts=1)
        await running(
            store, job_id
        )  # an idle worker asks once a second: what is lost first may be an empty answer
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0
    assert (await read(store, job_id)).state is JobState.QUEUED
    assert await reasons(store, job_id) == ["not_delivered"]


async def test_a_drain_takes_no_bell_with_it(store: JobStore, ready) -> None:
    """The bell of a job that comes while an idle worker ends wakes another."""
    worker = await ready(heartbeat_s=30.0, lease_ttl_s=120.0)

    async def sleeps() -> bool:
        return int((await store.client.info("clients"))["blocked_clients"]) > 0

    await eventually(sleeps)
    worker.signal(signal.SIGTERM)
    await eventually(lambda: "draining" in worker.log.read_text())
    job_id = await submit(store)
    assert await asyncio.to_thread(worker.wait) == 0
    assert (await read(store, job_id)).state is JobState.QUEUED
    assert await store.client.llen(store.keys("bell", "default")) == 1


async def test_what_celery_does_not_deliver_is_given_back(store: JobStore, ready) -> None:
    """An error on the way ends the worker; the job runs elsewhere, at no cost."""
    worker = await ready("w1", failpoints="worker.claimed=raise@3")
    await store.pause("default", paused=True)
    ids = [await submit(store, chat(f"{n}", max_tokens=3), max_attempts=1) for n in range(6)]
    await store.pause("default", paused=False)
    assert await asyncio.to_thread(worker.wait) == 1
    assert "claims_not_delivered" in worker.log.read_text()
    await ready("w2")
    for job_id in ids:
        assert (await ended(store, job_id)).state is JobState.SUCCEEDED
    told = [await reasons(store, job_id) for job_id in ids]
    assert told == [[]] * 2 + [["not_delivered"]] * 4


async def test_no_command_of_celerys_holds_a_claim(
    store: JobStore, ready, broker_settings: BrokerSettings
) -> None:
    """A rate limit, a list of its own of revoked tasks, a queue that it no longer consumes."""
    await ready(heartbeat_s=30.0, lease_ttl_s=120.0)
    app = make_celery(broker_settings.redis_url, broker_settings.namespace)
    revoked = new_id()
    lane = store.keys("queue", "default", Lane.NORMAL)

    def command() -> None:
        tell = partial(app.control.broadcast, reply=True, limit=1, timeout=20)
        assert "rate limit set" in str(tell("rate_limit", {"task_name": TASK_NAME, "rate_limit": "1/h"}))
        assert "cancel asked for" in str(tell("terminate", {"task_id": revoked, "signal": "TERM"}))
        assert "no longer consuming" in str(tell("cancel_consumer", {"queue": lane}))

    await asyncio.to_thread(command)
    for job_id in [await submit(store, id=revoked), *[await submit(store, chat(f"{n}")) for n in range(3)]]:
        assert (await ended(store, job_id)).state is JobState.SUCCEEDED
        assert await reasons(store, job_id) == []


async def test_one_job_wakes_one_worker(store: JobStore, ready) -> None:
    """Many are idle and few jobs come: no worker sleeps beside work, and the others sleep on."""
    workers = 6
    for n in range(workers):
        await ready(f"w{n}", concurrency=2, heartbeat_s=30.0, lease_ttl_s=120.0, reap_interval_s=30.0)
    pace, calls = Pace(), await functions_called(store.client)
    jobs = 20
    waits = []
    for n in range(jobs):
        job = await ended(store, await submit(store, chat(f"{n}", max_tokens=1)))
        assert job.state is JobState.SUCCEEDED
        waits.append(job.timings.queue_ms)
    assert (
        sorted(waits)[jobs // 2] < 500
    )  # a bell woke a worker, and not the claim that each makes once a second
    # A job is an accept, a finish, and a claim or two; besides, each idle worker claims once a second.
    most = jobs * 4 + workers * (pace.took_s + 1)
    assert await functions_called(store.client) - calls < most


async def test_no_worker_sleeps_beside_work(store: JobStore, ready) -> None:
    """A burst finds every worker's slots, and then each job the one slot that is left."""
    for n in range(3):
        await ready(f"w{n}", concurrency=2, simulated_inter_token_s=0.02)
    pace = Pace()
    long = [await submit(store, chat(f"{n}", max_tokens=5000)) for n in range(5)]
    for job_id in long:
        await running(store, job_id)
    waits = [(await read(store, job_id)).timings.queue_ms for job_id in long]
    for n in range(10):
        job = await ended(store, await submit(store, chat(f"short {n}", max_tokens=1)))
        waits.append(job.timings.queue_ms)
    # They wait for no claim that a worker makes once a second: half a second in the mean.
    assert sorted(waits)[len(waits) // 2] < 250 * pace.stretch(1), waits
    for job_id in long:
        await store.cancel(job_id)
        await ended(store, job_id)


async def test_a_worker_without_room_for_bulk_leaves_bulk_its_bell(store: JobStore, ready) -> None:
    """One worker has all the bulk it may have; the other takes the next bulk job at once."""
    await ready("w1", concurrency=2, bulk_reserve=0.5, simulated_inter_token_s=0.05)
    first = await submit(store, chat(max_tokens=2000), lane=Lane.BULK)
    await running(store, first)
    await ready("w2", concurrency=2, bulk_reserve=0.5, simulated_inter_token_s=0.05)

    async def both_wait() -> bool:
        return int((await store.client.info("clients"))["blocked_clients"]) >= 2

    pace, waits = Pace(), []
    for _ in range(5):
        await eventually(both_wait)
        second = await submit(store, chat(max_tokens=2000), lane=Lane.BULK)
        await running(store, second)
        await store.cancel(second)
        waits.append((await ended(store, second)).timings.queue_ms)
    # Without its bell it would be the claim that a worker makes once a second: half a second in the mean.
    assert sorted(waits)[2] < 250 * pace.stretch(1), waits
    await store.cancel(first)
    await ended(store, first)


async def test_an_empty_queue_costs_a_claim_a_second(store: JobStore, ready) -> None:
    """Also where the bell rings without work."""
    await ready(heartbeat_s=30.0, lease_ttl_s=120.0, reap_interval_s=30.0)
    calls = await functions_called(store.client)
    pace, bell = Pace(), store.keys("bell", "default")
    while pace.took_s < 2.0:
        await store.client.lpush(bell, 1)
        await asyncio.sleep(0.001)
    claims = await functions_called(store.client) - calls
    assert claims < 20 + 25 * pace.took_s
    assert claims >= 1
    await store.client.delete(bell)


async def test_a_server_that_lost_the_functions_gets_them_again(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """As a new master has none, or one that was emptied. The worker's own connections load them."""
    await store.heartbeat("w", first=True)
    job_id = await submit(store)
    await store.client.function_flush()
    got: list[str] = []

    def claim() -> None:
        with make_celery(broker_settings.redis_url, broker_settings.namespace) as app:
            app.conf.broker_transport_options[CLAIMER] = claimer = Claimer(
                "w",
                keys=store.keys,
                pool="default",
                message=learn_envelope(app).message,
                retention_ms=1000,
                sealer=Sealer(None),
                room=lambda: Room(1, 1, 1, 1.0),
                give_back=lambda _: None,
            )

            def take(_body: Any, message: Any) -> None:
                got.append(claimer.take(message.headers["id"]).id)

            lane = store.keys("queue", "default", Lane.NORMAL)
            asked = Queue(lane, routing_key=lane, no_declare=True)
            with app.connection_for_read() as connection, connection.Consumer([asked], callbacks=[take]):
                while not got:
                    connection.drain_events(timeout=5)

    await asyncio.to_thread(claim)
    assert got == [job_id]
    assert len(await store.client.function_list()) == 1
    assert await store.cancel(job_id) is JobState.RUNNING
    await store.disown("w", [job_id])
    await store.bury("w")
