"""Coordinators as processes: several of them, none of them, and those that die in the middle of something."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from broker.coordinators import Coordinators
from broker.db.calls.tasks import TakenTask, TaskAsk, TaskTake
from broker.db.client import connect
from broker.db.errors import NoCoordinatorError
from broker.events.subscriber import Subscriber
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tasks import Answer, TaskKind, TaskStore
from coordinator.tasks import Tasks
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.batching import create, ended, row
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import client, files_url, ready, start_worker, work
from tests.pace import Pace
from tests.processes import CoordinatorProcess
from tests.support import eventually, frozen

__all__ = ["client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

LEASE_S = 2.0


@pytest.fixture
def api(broker_settings: BrokerSettings, files_url: str) -> Iterator[ApiServer]:
    """An api without a coordinator."""
    with ApiServer(broker_settings, files_url=files_url) as server:
        yield server


@pytest.fixture
def coordinator(broker_settings: BrokerSettings, files_url: str) -> Callable[[], CoordinatorThread]:
    """Make a coordinator in a thread."""
    given = {"files_url": files_url, "batch_chunk_rows": 10, "batch_lease_s": LEASE_S}
    return lambda: CoordinatorThread(broker_settings, **given)


@pytest.fixture
def process(
    broker_settings: BrokerSettings, files_url: str, tmp_path: Path
) -> Iterator[Callable[..., CoordinatorProcess]]:
    """Start a coordinator process."""
    started: list[CoordinatorProcess] = []

    def start(failpoints: str = "", **settings: Any) -> CoordinatorProcess:
        given = {"files_url": files_url, "batch_chunk_rows": 10, "batch_lease_s": LEASE_S, **settings}
        log = tmp_path / f"coordinator-{len(started)}.log"
        started.append(CoordinatorProcess(broker_settings, log, failpoints=failpoints, **given))
        return started[-1]

    yield start
    for one in started:
        one.close()


async def half_failed(client: openai.AsyncOpenAI) -> Any:
    """Return an ended batch of which every second row failed."""
    rows = [row(n, max_tokens=-1 if n % 2 else 2) for n in range(20)]
    return await ended(client, (await create(client, rows)).id)


async def test_several_share_the_batches_and_submit_each_chunk_once(
    client: openai.AsyncOpenAI, work: Callable, coordinator: Callable
) -> None:
    await work(concurrency=32)
    with coordinator() as one, coordinator() as two, coordinator() as three:
        batches = [await create(client, [row(n, max_tokens=2) for n in range(20)]) for _ in range(6)]
        for batch in batches:
            assert (await ended(client, batch.id)).request_counts.completed == 20
        chunks = [each.metrics.accepted.labels("bulk")._value.get() for each in (one, two, three)]
        assert sum(chunks) == 12


async def test_none_is_said_at_once(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, coordinator
) -> None:
    await work()
    with coordinator():
        batch = await half_failed(client)
    async with api.client() as http:
        for method, path in (("GET", "verify"), ("POST", "retry")):
            answer = await http.request(method, f"/v1/batches/{batch.id}/{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_coordinator")
            assert "penstock coordinator" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) >= 1
        waiting = await create(client, [row(1)])
        assert (await client.batches.retrieve(waiting.id)).status == "validating"
        with coordinator():
            assert (await ended(client, waiting.id)).status == "completed"
            assert (await http.get(f"/v1/batches/{batch.id}/verify")).json()["ok"]


@pytest.mark.parametrize("window", ["bulk.after_plan", "bulk.after_files"])
async def test_sigkill_in_the_middle_of_a_batch(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, coordinator, process, window: str
) -> None:
    await work()
    first = process(f"{window}=kill")
    batch = await create(client, [row(n, max_tokens=2) for n in range(30)])
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    with coordinator():
        assert (await ended(client, batch.id)).request_counts.completed == 30
        async with api.client() as http:
            proof = (await http.get(f"/v1/batches/{batch.id}/verify")).json()
        assert (proof["ok"], proof["total"]) == (True, 30)


async def test_sigkill_in_the_middle_of_a_verification(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator, process
) -> None:
    """Two callers wait for one task, which a second coordinator takes over."""
    await work()
    with coordinator():
        batch = await half_failed(client)
    first = process("coordinator.before_answer=kill")
    await first.ready(store)
    async with api.client() as http:
        asked = [asyncio.create_task(http.get(f"/v1/batches/{batch.id}/verify")) for _ in range(2)]
        assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
        with coordinator():
            one, two = [answer.json() for answer in await asyncio.gather(*asked)]
    assert one == two
    assert (one["ok"], one["total"], one["failed"]) == (True, 20, 10)
    assert await store.client.hget(store.keys("task", "verify", batch.id), "attempt") == "2"
    assert await store.client.zcard(store.keys("tasks")) == 0


@pytest.mark.parametrize("window", ["coordinator.before_child", "coordinator.before_answer"])
async def test_sigkill_in_the_middle_of_a_retry(
    client: openai.AsyncOpenAI,
    api: ApiServer,
    work: Callable,
    store: JobStore,
    coordinator,
    process,
    window: str,
) -> None:
    """One batch and one file come of it."""
    await work()
    with coordinator():
        batch = await half_failed(client)
    first = process(f"{window}=kill")
    await first.ready(store)
    async with api.client() as http:
        asked = [asyncio.create_task(http.post(f"/v1/batches/{batch.id}/retry")) for _ in range(3)]
        assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
        with coordinator():
            children = [answer.json() for answer in await asyncio.gather(*asked)]
            assert len({child["id"] for child in children}) == 1
            assert (await ended(client, children[0]["id"])).request_counts.total == 10
            assert (await http.post(f"/v1/batches/{batch.id}/retry")).json()["id"] == children[0]["id"]
    assert len([one async for one in client.batches.list()]) == 2
    inputs = [file.id async for file in client.files.list(purpose="batch")]
    assert sorted(inputs) == sorted([batch.input_file_id, children[0]["input_file_id"]])


async def test_a_task_that_vanished_is_asked_for_again(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator
) -> None:
    """Its answer is kept for a minute; an api that cannot reach Redis for longer finds nothing."""
    await work()
    with coordinator():
        batch = await half_failed(client)
    await Coordinators(store).beat({"id": "takes nothing"}, 60)
    task = store.keys("task", "verify", batch.id)
    async with api.client() as http:
        asked = asyncio.create_task(http.get(f"/v1/batches/{batch.id}/verify"))
        await eventually(lambda: store.client.exists(task))
        assert await store.client.delete(task, store.keys("tasks")) == 2
        await eventually(lambda: store.client.exists(task))
        with coordinator():
            assert (await asked).json()["ok"]


async def test_the_last_one_dies_while_callers_wait(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator, process
) -> None:
    await work()
    with coordinator():
        batch = await half_failed(client)
    first = process("coordinator.before_answer=kill")
    await first.ready(store)
    async with api.client() as http:
        answer = await http.get(f"/v1/batches/{batch.id}/verify")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_coordinator")
        with coordinator():

            async def verified() -> bool:
                return (await http.get(f"/v1/batches/{batch.id}/verify")).status_code == 200

            await eventually(verified)


async def test_a_verification_that_kills_every_coordinator_is_given_up(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator
) -> None:
    await work()
    with coordinator():
        batch = await half_failed(client)
    await Coordinators(store).beat({"id": "dies"}, 60)
    async with api.client() as http:
        asked = asyncio.create_task(http.get(f"/v1/batches/{batch.id}/verify"))
        for _ in range(5):
            assert await eventually(lambda: TaskStore(store).take(0.001))
        with coordinator():
            answer = await asked
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


async def test_a_caller_who_hangs_up_waits_no_longer(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator
) -> None:
    await work()
    with coordinator():
        batch = await half_failed(client)
    await Coordinators(store).beat({"id": "takes nothing"}, 60)
    async with api.client() as http:
        asking = asyncio.create_task(http.get(f"/v1/batches/{batch.id}/verify"))
        await eventually(lambda: bool(api.services.hub._inboxes))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: not api.services.hub._inboxes)
        await Coordinators(store).beat({"id": "takes nothing"}, 0)
        with coordinator():  # what was asked for is done all the same
            await eventually(lambda: TaskStore(store).answer(TaskKind.VERIFY, batch.id, 0))


async def test_sigterm_gives_batches_to_others_at_once(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore, coordinator, process
) -> None:
    await work(concurrency=4, simulated_inter_token_s=0.02)
    first = process(batch_lease_s=120.0)
    await first.ready(store)
    batch = await create(client, [row(n, max_tokens=5) for n in range(60)])

    async def some() -> bool:
        counts = (await client.batches.retrieve(batch.id)).request_counts
        return bool(counts and counts.completed)

    await eventually(some)
    first.process.terminate()
    assert await asyncio.to_thread(first.wait, 12) == 0
    assert await store.client.get(store.keys("batch_lease", batch.id)) is None
    assert await Coordinators(store).alive() == []
    with coordinator():
        assert (await ended(client, batch.id)).request_counts.completed == 60


async def test_the_leases_of_one_that_was_killed_end_when_its_supervisor_says_so(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator, process
) -> None:
    await work(simulated_inter_token_s=0.02)
    with coordinator():
        batch = await half_failed(client)
    first = process("coordinator.before_answer=kill", batch_lease_s=120.0)
    await first.ready(store)
    (info,) = await Coordinators(store).alive()
    driven = await create(client, [row(1, max_tokens=1000)])
    lease = store.keys("batch_lease", driven.id)
    await eventually(lambda: store.client.exists(lease))
    async with api.client() as http:
        asked = asyncio.create_task(http.get(f"/v1/batches/{batch.id}/verify"))
        assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
        assert await TaskStore(store).take(60) is None
        assert await Coordinators(store).bury("another") == 0
        assert await Coordinators(store).bury(info["id"]) == 2
        assert await store.client.exists(lease) == 0
        with coordinator():
            assert (await asked).json()["ok"]
            await client.batches.cancel(driven.id)
            assert (await ended(client, driven.id)).status == "cancelled"
    assert await store.client.hget(store.keys("task", "verify", batch.id), "attempt") == "2"


async def test_a_look_that_fails_ends_no_coordinator(
    client: openai.AsyncOpenAI, work: Callable, coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = Tasks.look

    async def failing_at_first(tasks: Tasks) -> None:
        nonlocal looks
        looks += 1
        if looks <= 2:
            raise ValueError("a task of a kind that this version does not know")
        await look(tasks)

    monkeypatch.setattr(Tasks, "look", failing_at_first)
    await work()
    with coordinator():
        assert (await half_failed(client)).status == "completed"
        await eventually(lambda: looks > 2)


async def test_prometheus_finds_it_while_it_is_alive(
    client: openai.AsyncOpenAI, api: ApiServer, store: JobStore, process
) -> None:
    first = process()
    await first.ready(store)
    async with api.client() as http:
        (group,) = (await http.get("/v1/metrics/targets")).json()
        assert group["labels"]["job"] == "penstock-coordinator"
        text = (await http.get(f"http://{group['targets'][0]}/metrics")).text
        assert 'penstock_jobs_accepted_total{lane="bulk"} 0.0' in text
        assert 'component="coordinator"' in text
        first.close()

        async def gone() -> bool:
            return (await http.get("/v1/metrics/targets")).json() == []

        await eventually(gone)


async def test_the_bell_rings_for_what_a_caller_changes(
    client: openai.AsyncOpenAI,
    api: ApiServer,
    store: JobStore,
    broker_settings: BrokerSettings,
    puppet: object,
) -> None:
    rung: list[str] = []
    redis = connect(broker_settings.redis_url, text=False)
    bell = Subscriber(redis, store.keys("look_channel"), rung.extend, rung.clear)
    await bell.start()
    try:
        batch = await create(client, [row(1, model="puppet")])
        await eventually(lambda: rung == [batch.id])
        async with api.client() as http:
            for action in ("pause", "resume", "cancel"):
                rung.clear()
                assert (await http.post(f"/v1/batches/{batch.id}/{action}")).status_code == 200
                await eventually(lambda: rung == [batch.id])
    finally:
        await bell.stop()


async def test_a_task_that_is_taken_twice_by_one_call_is_taken_once(store: JobStore) -> None:
    """The client library sends a call again after a broken connection."""
    await Coordinators(store).beat({"id": "one"}, 60)
    run = await TaskStore(store).ask(TaskKind.VERIFY, "batch_1", {}, "api")
    take = TaskTake(kind="verify", batch="batch_1", taking="a call", lease_ms=60_000, coordinator="me")
    first, repeated = [await store.functions.call(take) for _ in "12"]
    assert first == repeated == TakenTask(run=run, attempt=1, deaths=0, args="{}")
    assert await store.functions.call(msgspec.structs.replace(take, taking="another call")) is None


async def test_a_task_that_only_a_later_version_knows_is_left_to_it(store: JobStore) -> None:
    await Coordinators(store).beat({"id": "one"}, 60)
    later = store.keys("task", "polish", "batch_1")
    await store.functions.call(TaskAsk(kind="polish", batch="batch_1", sink="api", args="{}", ttl_ms=60_000))
    await TaskStore(store).ask(TaskKind.VERIFY, "batch_1", {}, "api")
    task = await TaskStore(store).take(60)
    assert task is not None
    assert task.kind is TaskKind.VERIFY
    assert await TaskStore(store).take(60) is None
    assert await store.client.hget(later, "attempt") == "0"


async def test_coordinators_that_end_in_order_do_not_condemn_a_task(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator
) -> None:
    await work()
    with coordinator():
        batch = await half_failed(client)
    await Coordinators(store).beat({"id": "ends"}, 60)
    async with api.client() as http:
        asked = asyncio.create_task(http.get(f"/v1/batches/{batch.id}/verify"))
        for _ in range(6):
            task = await eventually(lambda: TaskStore(store).take(60))
            assert await TaskStore(store).keep(task, 0)
        with coordinator():
            assert (await asked).json()["ok"]


async def test_a_cancel_in_the_last_turn_is_followed_at_once(
    client: openai.AsyncOpenAI, work: Callable, process
) -> None:
    """The coordinator has read the batch as in progress, and finds it cancelled when it has seen that all rows are done."""
    await work()
    first = process("bulk.before_turn=stop@3", batch_lease_s=300.0)
    batch = await create(client, [row(n, max_tokens=2) for n in range(10)])

    async def all_done() -> bool:
        counts = (await client.batches.retrieve(batch.id)).request_counts
        return bool(counts and counts.completed == 10)

    await eventually(lambda: frozen(first.process.pid))
    await eventually(all_done)
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    first.signal(signal.SIGCONT)
    over = await ended(client, batch.id)
    assert (over.status, over.request_counts.completed) == ("cancelled", 10)
    assert "batch_driver_failed" not in first.log.read_text()


async def test_a_frozen_coordinator_cannot_change_the_plan_of_another(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore, coordinator, process
) -> None:
    await work(concurrency=1, simulated_inter_token_s=0.02)
    first = process("bulk.before_plan=stop", batch_chunk_rows=3)
    await first.ready(store)
    batch = await create(client, [row(n, max_tokens=10) for n in range(40)])
    await eventually(lambda: frozen(first.process.pid))
    with coordinator():

        async def begun() -> bool:
            return (await client.batches.retrieve(batch.id)).status == "in_progress"

        await eventually(begun)
        first.signal(signal.SIGCONT)
        await eventually(lambda: "batch_lease_lost" in first.log.read_text())
        first.close()
    assert (await client.batches.retrieve(batch.id)).status == "in_progress"
    with coordinator():
        assert (await ended(client, batch.id)).request_counts.completed == 40
        async with api.client() as http:
            assert (await http.get(f"/v1/batches/{batch.id}/verify")).json()["ok"]


@pytest.mark.full
async def test_it_ends_in_time_though_its_loop_hangs(client: openai.AsyncOpenAI, process) -> None:
    hangs = process("bulk.before_turn=sleep:60")
    await create(client, [row(1)])
    await eventually(lambda: "failpoint bulk.before_turn" in hangs.log.read_text())
    asked = Pace()
    hangs.signal(signal.SIGTERM)
    assert await asyncio.to_thread(hangs.wait, 30) == 1
    assert asked.took_s < asked.stretch(12.0)
    assert "coordinator_ends_by_force" in hangs.log.read_text()


@pytest.mark.parametrize("gone", [signal.SIGKILL, signal.SIGSTOP])
async def test_it_ends_in_time_though_redis_is_away(tmp_path: Path, gone: signal.Signals) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    settings = BrokerSettings(redis_url=server.url)
    one = CoordinatorProcess(settings, tmp_path / "one.log", files_url=str(tmp_path / "files"))
    try:
        store = JobStore(connect(server.url), settings)
        await one.ready(store)
        await store.aclose()
        assert server.pid is not None
        os.kill(server.pid, gone)
        await eventually(lambda: "coordinator_waits_for_redis" in one.log.read_text(), timeout_s=30)
        asked = Pace()
        one.signal(signal.SIGTERM)
        assert await asyncio.to_thread(one.wait, 30) == 0, one.log.read_text()
        assert asked.took_s < asked.stretch(10.0), one.log.read_text()
    finally:
        one.close()
        with suppress(ProcessLookupError):
            os.kill(server.pid or 0, signal.SIGCONT)
        server.stop()


async def test_only_the_latest_attempt_answers(store: JobStore) -> None:
    tasks = TaskStore(store)
    with pytest.raises(NoCoordinatorError):
        await tasks.ask(TaskKind.VERIFY, "batch_1", {}, "api")
    await Coordinators(store).beat({"id": "one"}, 60)
    run = await tasks.ask(TaskKind.VERIFY, "batch_1", {"n": 1}, "api")
    assert await tasks.ask(TaskKind.VERIFY, "batch_1", {"n": 2}, "other") == run
    slow = await tasks.take(0.05)
    assert slow is not None
    assert (slow.args, slow.run, slow.attempt, slow.deaths) == ({"n": 1}, run, 1, 0)
    second = await eventually(lambda: tasks.take(60))
    assert (second.attempt, second.deaths) == (2, 1)
    assert not await tasks.keep(slow, 60)
    assert not await tasks.end(slow, Answer({"by": "slow"}))
    assert await tasks.answer(TaskKind.VERIFY, "batch_1", run) is None
    assert await tasks.take(60) is None
    assert await tasks.keep(second, 0)
    third = await tasks.take(60)
    assert third is not None
    assert (third.attempt, third.deaths) == (3, 1)
    assert await tasks.end(third, Answer({}, "file_gone", "gone"))
    assert await tasks.answer(TaskKind.VERIFY, "batch_1", run) == Answer({}, "file_gone", "gone")
    assert 0 < await store.client.pttl(store.keys("task", "verify", "batch_1")) <= 60_000
    later = await tasks.ask(TaskKind.VERIFY, "batch_1", {}, "api")
    assert later > run
    assert await tasks.answer(TaskKind.VERIFY, "batch_1", later) is None
