"""What Redis refuses for good: told from an absent Redis, counted, logged with its command, and not retried for ever."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from kombu import Queue
from kombu.utils.json import dumps

from broker.celery.app import make_celery
from broker.celery.claimer import Claimer, Room
from broker.celery.envelope import learn_envelope
from broker.celery.transport import CLAIMER
from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.db.faults import Faults
from broker.events.hub import parse_cursor
from broker.jobs import JobStore
from broker.sealing import Sealer
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.states import JobState
from tests.integration.test_worker import chat, ended, ready, running, start_worker, submit
from tests.processes import ApiProcess, WorkerProcess
from tests.scraping import Scraped
from tests.support import eventually, free_port, new_id

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

Ready = Callable[..., Awaitable[WorkerProcess]]


async def spoil(store: JobStore, key: str) -> None:
    """Give a key another type, as a defect or a foreign program would."""
    await store.client.delete(key)
    await store.client.set(key, "not what it was")


def is_500(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


async def test_the_api_answers_500_and_says_which_command(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path
) -> None:
    api = ApiProcess(broker_settings, tmp_path / "api.log", free_port())
    try:
        await api.ready()
        async with httpx.AsyncClient(base_url=api.url, timeout=20.0) as http:
            job_id = new_id()
            key = store.keys("job", job_id)
            await spoil(store, key)
            assert is_500(await http.get(f"/v1/jobs/{job_id}"))
            assert is_500(await http.post(f"/v1/jobs/{job_id}/cancel"))
            assert is_500(await http.get(f"/v1/jobs/{job_id}", params={"wait": 5}))
            metrics = await Scraped.of(f"{api.url}/metrics")
            assert metrics.sum("penstock_store_faults_total") == 3
            assert metrics.sum("penstock_redis_up") == 1
            said = [line for line in api.log.read_text().splitlines() if "store_fault" in line]
            commands = set(re.findall(r" command=(\S+)", "\n".join(said)))
            assert commands == {"JobLookups.get_with_result", "cancel", "watch"}
            assert all("WRONGTYPE" in line for line in said)
            await store.client.delete(key)
    finally:
        api.close()


async def test_readiness_tells_a_refusal_from_an_absent_redis(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path
) -> None:
    api = ApiProcess(broker_settings, tmp_path / "api.log", free_port())
    try:
        await api.ready()
        await spoil(store, store.keys("leases"))
        async with httpx.AsyncClient(base_url=api.url, timeout=20.0) as http:
            answer = await http.get("/health/ready")
        assert (answer.status_code, answer.json()["checks"]["redis"]) == (503, "refuses a command")
        await store.client.delete(store.keys("leases"))
    finally:
        api.close()


async def test_an_end_that_redis_refuses_holds_no_slot(store: JobStore, ready: Ready) -> None:
    """A job that can neither end nor be given back ends its worker, which gives back the others; another goes on."""
    first = await ready("w1", concurrency=1, simulated_inter_token_s=0.02)
    spoiled, waiting = await submit(store, chat(max_tokens=150)), await submit(store)
    await running(store, spoiled)
    await spoil(store, store.keys("job", spoiled))
    await eventually(lambda: first.process.poll() is not None)
    assert first.process.returncode == 1
    assert re.search(r"store_fault.* command=finish", first.log.read_text())
    second = await ready("w2", reap_interval_s=0.1)
    assert (await ended(store, waiting)).state is JobState.SUCCEEDED
    await eventually(lambda: store_is_clean(store))
    assert second.process.poll() is None
    await forget(store, spoiled)


async def test_chunks_that_redis_refuses_hinder_no_other_stream(store: JobStore, ready: Ready) -> None:
    worker = await ready(simulated_inter_token_s=0.02)
    # The first does not come to its end, which would be its worker's.
    spoiled, other = [await submit(store, chat(max_tokens=tokens), stream=True) for tokens in (4000, 60)]
    for job_id in (spoiled, other):
        await running(store, job_id)
    await spoil(store, store.keys("job", spoiled))
    assert (await ended(store, other)).state is JobState.SUCCEEDED
    worker.close()
    events = await store.log(other, "0-0")
    assert [parse_cursor(eid)[1] for eid, _ in events][2:-1] == list(range(1, len(events) - 2))
    text = "".join(payload[1:] for _, payload in events if payload[0] == "t")
    whole = json.loads((await store.result(other)).body or b"")["choices"][0]["message"]["content"]
    assert whole.startswith(text)
    assert len(text) > len(whole) / 2
    await forget(store, spoiled)


async def test_a_worker_whose_pool_cannot_be_read_ends(store: JobStore, ready: Ready) -> None:
    worker = await ready()
    await spoil(store, store.keys("pool", "default"))
    await eventually(lambda: worker.process.poll() is not None)
    assert worker.process.returncode == 1
    said = worker.log.read_text()
    assert re.search(r"store_fault.* command=claim", said), said
    await store.client.delete(store.keys("pool", "default"))


async def test_a_claim_that_redis_refuses_is_counted(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await store.heartbeat("w", first=True)
    await spoil(store, store.keys("pool", "default"))
    counted: list[None] = []
    faults = Faults(lambda: counted.append(None))
    lane = store.keys("queue", "default", Lane.NORMAL)

    def ask() -> None:
        with make_celery(broker_settings.redis_url, broker_settings.namespace, faults=faults) as app:
            app.conf.broker_transport_options[CLAIMER] = Claimer(
                "w",
                keys=store.keys,
                pool="default",
                message=learn_envelope(app).message,
                retention_ms=1000,
                sealer=Sealer(None),
                room=lambda: Room(1, 1, 1, 1.0),
                give_back=lambda _: None,
            )
            asked = Queue(lane, routing_key=lane, no_declare=True)
            with app.connection_for_read() as connection, connection.Consumer([asked]):
                assert '"penstock_faults": []' in dumps(connection.info())  # as `inspect stats` and Flower do
                connection.drain_events(timeout=5)  # loads the library, if nobody has
                connection.drain_events(timeout=5)

    with pytest.raises(StoreFaultError, match="claim"):
        await asyncio.to_thread(ask)
    assert len(counted) == 1
    await store.client.delete(store.keys("pool", "default"))


async def test_a_worker_whose_heartbeat_is_refused_ends(store: JobStore, ready: Ready) -> None:
    worker = await ready(heartbeat_s=0.2)
    (incarnation,) = [said["incarnation"] for said in await store.workers()]
    orders = store.keys("worker_orders", incarnation)
    await spoil(store, orders)
    await eventually(lambda: worker.process.poll() is not None)
    assert worker.process.returncode == 1
    assert re.search(r"store_fault.* command=heartbeat", worker.log.read_text())
    await store.client.delete(orders)


async def test_a_spoiled_record_of_a_lost_worker_costs_the_reaper_one_round(store: JobStore) -> None:
    await store.heartbeat("w", first=True)
    spoiled = await submit(store)
    assert [claim.id for claim in await store.claim("w")] == [spoiled]
    await spoil(store, store.keys("job", spoiled))
    await store.bury("w")

    async def reaped() -> bool:
        with suppress(StoreFaultError):
            await store.reap()
        return not await store.client.exists(store.keys("worker_jobs", "w"))

    await eventually(reaped)
    await store.reap()
    assert await store.workers() == []
    await forget(store, spoiled)


async def test_a_queued_job_whose_record_is_lost_does_not_stop_the_reaper(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    ageing = JobStore(store.client, broker_settings.model_copy(update={"ageing_s": 0.01}))
    await ageing.set_limits()
    lost, other = await submit(store), await submit(store)
    record = await store.client.dump(store.keys("job", lost))
    await store.client.delete(store.keys("job", lost))

    async def aged() -> bool:
        await ageing.reap()
        job = await store.get(other)
        return job is not None and job.lane is Lane.HIGH

    await eventually(aged)
    assert record is not None
    await store.client.restore(store.keys("job", lost), 0, record)
    for job_id in (lost, other):
        assert await store.cancel(job_id) is JobState.CANCELLED


async def test_a_cancellation_that_nobody_asked_for_is_a_broken_connection(store: JobStore) -> None:
    """redis-py has let one escape; it must not end the loop that sent the command. One that was asked for goes on."""

    async def escaped() -> None:
        raise asyncio.CancelledError

    with pytest.raises(StoreUnavailableError, match="interrupted"):
        await store.execute(escaped())
    asked = asyncio.create_task(store.execute(asyncio.sleep(60)))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def store_is_clean(store: JobStore) -> bool:
    """Whether a round of the reaper meets no fault."""
    try:
        await store.reap()
    except StoreFaultError:
        return False
    return True


async def forget(store: JobStore, job_id: str) -> None:
    """Remove what a spoiled job left behind; nothing else runs."""
    counts = [store.keys(name, "default") for name in ("pool", "active", "active_bulk")]
    await store.client.delete(store.keys("job", job_id), store.keys("log", job_id), *counts)
    for key in (store.keys("jobs"), store.keys("jobs_of", "default"), store.keys("deadlines")):
        await store.client.zrem(key, job_id)
    async for key in store.client.scan_iter(
        store.keys("worker_jobs", "*")
    ):  # also of a worker that has ended over it
        await store.client.srem(key, job_id)
