"""A real worker process (real Celery, simulated engine) against a real Valkey."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from celery.events.state import State

from broker.celery.app import make_celery
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import Failed, Job, JobSpec, Running, Succeeded
from jobs.states import JobState
from tests.pace import Pace
from tests.processes import WorkerProcess
from tests.scraping import Scraped
from tests.support import eventually, new_id, wait_until

pytestmark = pytest.mark.asyncio


@pytest.fixture
def start_worker(broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    workers: list[WorkerProcess] = []

    def start(name: str = "w1", **overrides) -> WorkerProcess:
        worker = WorkerProcess(broker_settings, tmp_path / f"{name}.log", name, **overrides)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.close()


@pytest_asyncio.fixture
async def ready(store: JobStore, start_worker) -> AsyncIterator[Callable]:
    async def start(name: str = "w1", **overrides) -> WorkerProcess:
        worker = start_worker(name, **overrides)
        await eventually(lambda: worker.is_ready() or worker.process.poll() is not None)
        assert worker.is_ready(), worker.log.read_text()  # it may have taken a job since, and died of it
        return worker

    yield start


def chat(text: str = "hi", **body) -> bytes:
    return json.dumps(
        {"model": "simulated", "messages": [{"role": "user", "content": text}], **body}
    ).encode()


async def submit(store: JobStore, body: bytes | None = None, **changes) -> str:
    spec = JobSpec(
        **{"id": new_id(), "endpoint": "/v1/chat/completions", "model": "simulated", "body": body or chat()}
        | changes
    )
    return (await store.accept(spec)).id


async def read(store: JobStore, job_id: str) -> Job:
    job = await store.get(job_id)
    assert job is not None
    return job


async def ended(store: JobStore, job_id: str, timeout_s: float = 20.0) -> Job:
    async def terminal() -> Job | None:
        job = await read(store, job_id)
        return job if job.state.terminal else None

    return await eventually(terminal, timeout_s)


async def running(store: JobStore, job_id: str) -> None:
    async def is_running() -> bool:
        return (await read(store, job_id)).state is JobState.RUNNING

    await eventually(is_running)


async def begun(store: JobStore, job_id: str) -> None:
    """Wait until a short job runs: on a busy machine, it may have ended."""

    async def is_begun() -> bool:
        return (await read(store, job_id)).state is not JobState.QUEUED

    await eventually(is_begun)


async def at_work(store: JobStore, *jobs: str) -> None:
    """Wait until all of these jobs that have not ended are on their worker's hands, which has no others.

    A job is ``running`` from its claim on. A worker that ends before the claim has reached it gives the job back as one that
    was not delivered.
    """

    async def all_begun() -> bool:
        scraped = await Scraped.of(*(worker["metrics_url"] for worker in await store.workers()))
        left = [job_id for job_id in jobs if not (await read(store, job_id)).state.terminal]
        return scraped.sum("penstock_jobs_running") >= len(left)

    await eventually(all_begun)


async def test_jobs_of_every_lane_run_once_and_answer_their_own_prompt(
    store: JobStore, ready, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await ready(simulated_journal=str(journal))
    ids = {}
    for n in range(200):
        lane = list(Lane)[n % 5]
        ids[await submit(store, chat(f"prompt {n}", max_tokens=n % 7 + 1), lane=lane, stream=n % 2 == 0)] = n
    for job_id, n in ids.items():
        job = await ended(store, job_id)
        assert isinstance(job.phase, Succeeded)
        assert job.phase.usage.completion_tokens == n % 7 + 1
        result = json.loads((await store.result(job_id)).body)
        assert result["id"] == f"chatcmpl-{job_id}"
    starts = [json.loads(line) for line in journal.read_text().splitlines()]
    ran = [line for line in starts if "start" in line.values()]
    assert len(ran) == 200


async def test_an_engine_refusal_is_the_jobs_failure(store: JobStore, ready) -> None:
    await ready()
    job = await ended(store, await submit(store, b'{"model": "simulated", "messages": 7, "max_tokens": "x"}'))
    assert isinstance(job.phase, Failed)
    assert job.phase.error.code is FailureCode.INVALID_REQUEST
    assert job.phase.status == 400
    assert json.loads((await store.result(job.id)).body)["error"]["message"]


async def test_cancel_stops_a_running_job_within_a_second(store: JobStore, ready) -> None:
    await ready(simulated_inter_token_s=0.05)
    job_id = await submit(store, chat(max_tokens=2000), stream=True)

    async def has_tokens() -> int:
        return len([p for _, p in await store.log(job_id, "1-0") if p[0] == "t"])

    await eventually(has_tokens)
    pace = Pace()
    assert await store.cancel(job_id) is JobState.RUNNING
    assert (await ended(store, job_id)).state is JobState.CANCELLED
    assert pace.allows(1.0), pace
    assert await has_tokens() >= 1
    other = await ended(store, await submit(store, chat(max_tokens=1)))
    assert other.state is JobState.SUCCEEDED


async def test_celerys_revoke_is_our_cancel(store: JobStore, ready, broker_settings: BrokerSettings) -> None:
    await ready(simulated_inter_token_s=0.05)
    app = make_celery(broker_settings.redis_url, broker_settings.namespace)
    job_id = await submit(store, chat(max_tokens=2000))
    await running(store, job_id)
    ask = partial(app.control.revoke, job_id, terminate=True, reply=True, limit=1, timeout=20)
    replies = await asyncio.to_thread(ask)
    assert "running" in str(replies)
    assert (await ended(store, job_id)).state is JobState.CANCELLED


async def test_expiry_ends_a_running_job(store: JobStore, ready) -> None:
    await ready(simulated_inter_token_s=0.05, reap_interval_s=0.1)
    job_id = await submit(store, chat(max_tokens=2000), expires_in_ms=800)
    assert (await ended(store, job_id)).state is JobState.EXPIRED


async def test_sigterm_lets_short_jobs_end_and_gives_back_the_long(store: JobStore, ready) -> None:
    worker = await ready(simulated_inter_token_s=0.05, drain_timeout_s=2.0)
    long = await submit(store, chat(max_tokens=2000), max_attempts=1)
    short = await submit(store, chat(max_tokens=10))
    for job_id in (long, short):
        await begun(store, job_id)
    await at_work(store, long, short)
    pace = Pace()
    worker.signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait) == 0
    assert pace.allows(2.0 + 2.0), pace
    assert (await read(store, short)).state is JobState.SUCCEEDED
    job = await read(store, long)
    assert (job.state, [a.reason for a in job.history]) == (JobState.QUEUED, ["released"])
    assert await store.workers() == []


async def test_signals_in_a_storm_end_a_worker_as_one_does(store: JobStore, ready) -> None:
    worker = await ready(simulated_inter_token_s=0.05, drain_timeout_s=1.0)
    long = await submit(store, chat(max_tokens=2000), max_attempts=1)
    await running(store, long)
    await at_work(store, long)

    def storm() -> int:
        while True:
            try:
                worker.signal(signal.SIGTERM)
                return worker.wait(0.01)
            except subprocess.TimeoutExpired:
                continue

    assert await asyncio.to_thread(storm) == 0, worker.log.read_text()
    job = await read(store, long)
    assert (job.state, [a.reason for a in job.history]) == (JobState.QUEUED, ["released"])
    assert await store.workers() == []


async def test_a_killed_workers_jobs_move_to_another(store: JobStore, ready) -> None:
    lease = {"lease_ttl_s": 1.5, "heartbeat_s": 0.3, "reap_interval_s": 0.2}
    first = await ready("w1", simulated_inter_token_s=5.0, **lease)  # they do not end before it does
    jobs = [await submit(store, chat(f"{n}", max_tokens=40)) for n in range(8)]
    for job_id in jobs:
        await running(store, job_id)
    await ready("w2", reap_interval_s=0.2)
    first.signal(signal.SIGKILL)
    pace = Pace()
    for job_id in jobs:
        job = await ended(store, job_id)
        assert job.state is JobState.SUCCEEDED
        assert [a.reason for a in job.history] == ["worker_lost"]
        assert "w2@" in job.phase.worker
    assert pace.allows(1.5 + 2.0 + 2.0), pace


async def test_a_frozen_worker_writes_nothing_when_it_wakes_and_ends(store: JobStore, ready) -> None:
    lease = {"lease_ttl_s": 1.0, "heartbeat_s": 0.2, "reap_interval_s": 0.2}
    first = await ready("w1", simulated_inter_token_s=0.5, **lease)
    job_id = await submit(store, chat(max_tokens=60), stream=True)
    await running(store, job_id)
    await ready("w2", reap_interval_s=0.2)
    first.signal(signal.SIGSTOP)
    job = await ended(store, job_id)
    before = await store.client.hgetall(store.keys("job", job_id)), await store.log(job_id, "0-0")
    first.signal(signal.SIGCONT)
    assert await asyncio.to_thread(first.wait) != 0
    assert (await store.client.hgetall(store.keys("job", job_id)), await store.log(job_id, "0-0")) == before
    assert job.attempt == 2


async def test_events_speak_of_jobs(store: JobStore, ready, broker_settings: BrokerSettings) -> None:
    app = make_celery(broker_settings.redis_url, broker_settings.namespace)
    state: Any = State()
    stop = threading.Event()

    def receive() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": state.event})
            while not stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.3, wakeup=False)
                except TimeoutError:
                    continue

    listener = threading.Thread(target=receive)
    listener.start()
    try:
        await ready(simulated_inter_token_s=0.02)
        good = await submit(store, chat(max_tokens=2))
        bad = await submit(store, b'{"model": "simulated", "messages": 7, "max_tokens": "x"}')
        gone = await submit(store, chat(max_tokens=2000))
        await running(store, gone)
        await store.cancel(gone)
        want = {good: "SUCCESS", bad: "FAILURE", gone: "REVOKED"}
        await eventually(lambda: {i: t.state for i, t in state.tasks.items() if i in want} == want)
        assert FailureCode.INVALID_REQUEST in state.tasks[bad].exception
    finally:
        stop.set()
        listener.join(10)


async def test_metrics_tell_what_ran(store: JobStore, ready) -> None:
    await ready()
    for _ in range(3):
        await ended(store, await submit(store, chat(max_tokens=5)))
    (worker,) = await store.workers()

    def scrape() -> str:
        asks = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        with urllib.request.urlopen(urllib.request.Request(worker["metrics_url"], headers=asks)) as answer:
            assert answer.headers["content-type"].startswith(
                "text/plain"
            )  # where vLLM's names keep their colon
            return answer.read().decode()

    async def counted() -> str | None:  # a job's end is written a moment before
        text = await asyncio.to_thread(scrape)
        return text if 'penstock_jobs_total{lane="normal",state="succeeded"} 3.0' in text else None

    text = await eventually(counted)
    assert 'penstock_jobs_total{lane="normal",state="failed"} 0.0' in text
    assert 'penstock_tokens_total{kind="completion",lane="normal"} 15.0' in text


async def test_start_failures_are_one_line(start_worker, tmp_path: Path) -> None:
    away = start_worker("away", redis_url="redis://127.0.0.1:1/0")
    assert await asyncio.to_thread(away.wait) == 1
    assert "cannot reach Redis at redis://127.0.0.1:1/0" in away.log.read_text()
    assert wait_until(lambda: away.process.returncode == 1)


async def test_a_queued_job_waits_for_a_worker(store: JobStore, ready) -> None:
    job_id = await submit(store)
    await ready()
    job = await ended(store, job_id)
    assert isinstance(job.phase, Succeeded)
    assert not isinstance(job.phase, Running)
