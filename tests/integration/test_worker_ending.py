"""Every way to end a worker is one path, and ends in time: signals, Celery's shutdown, with Redis there and away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.celery.app import make_celery
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.states import JobState
from penstock.server.valkey import EmbeddedServer
from tests.integration.test_worker import at_work, begun, chat, read, ready, running, start_worker, submit
from tests.pace import Pace
from tests.processes import WorkerProcess
from tests.support import eventually, freeze

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

IN_TIME_S = 2.0
LONG = chat(max_tokens=2000)
SLOW: dict[str, Any] = {"simulated_inter_token_s": 0.05}


async def ends(worker: WorkerProcess, deadline_s: float, status: int = 0) -> None:
    """See that it ends by itself within two seconds of its deadline."""
    pace = Pace()
    got = await asyncio.to_thread(worker.wait, deadline_s + 20)
    assert got == status, worker.log.read_text()
    assert pace.took_s < deadline_s + pace.stretch(IN_TIME_S), worker.log.read_text()


async def reasons(store: JobStore, job_id: str) -> tuple[JobState, list[str]]:
    job = await read(store, job_id)
    return job.state, [attempt.reason for attempt in job.history]


async def test_celerys_shutdown_is_our_drain(store: JobStore, ready, broker_settings: BrokerSettings) -> None:
    worker = await ready(**SLOW, drain_timeout_s=1.0)
    app = make_celery(broker_settings.redis_url, broker_settings.namespace)
    long = await submit(store, LONG, max_attempts=1)
    short = await submit(store, chat(max_tokens=6))
    for job_id in (long, short):
        await begun(store, job_id)
    await at_work(store, long, short)
    replies = await asyncio.to_thread(app.control.broadcast, "shutdown", reply=True, limit=1, timeout=20)
    assert "drains" in str(replies)
    await ends(worker, 1.0)
    assert await reasons(store, short) == (JobState.SUCCEEDED, [])
    assert await reasons(store, long) == (JobState.QUEUED, ["released"])
    assert await store.workers() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
async def test_every_signal_is_a_drain(store: JobStore, ready, signum: signal.Signals) -> None:
    worker = await ready(**SLOW, drain_timeout_s=0.3)
    long = await submit(store, LONG, max_attempts=1)
    await running(store, long)
    await at_work(store, long)
    worker.signal(signum)
    await ends(worker, 0.3)
    assert await reasons(store, long) == (JobState.QUEUED, ["released"])
    assert await store.workers() == []


async def test_a_second_signal_gives_back_what_runs_now(store: JobStore, ready) -> None:
    worker = await ready(**SLOW, drain_timeout_s=60.0)
    long = await submit(store, LONG, max_attempts=1)
    await running(store, long)
    await at_work(store, long)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)  # another one, since the system may merge two of a kind
    await ends(worker, 0.0)
    assert await reasons(store, long) == (JobState.QUEUED, ["released"])


class Site:
    """A Redis of the test's own, which it may take away, and a worker with one long job."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedServer(folder)
        self.server.start()
        assert self.server.pid is not None
        self.pid = self.server.pid
        self.settings = BrokerSettings(redis_url=self.server.url)
        self.worker = WorkerProcess(self.settings, folder / "w1.log", drain_timeout_s=1.0, **SLOW)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.worker.close()
    with suppress(ProcessLookupError):
        os.kill(site.pid, signal.SIGCONT)
    site.server.stop()


@pytest_asyncio.fixture
async def busy(site: Site) -> AsyncIterator[Site]:
    """A site whose worker runs a job."""
    store = JobStore(connect(site.server.url), site.settings)
    job_id = await submit(store, LONG)
    await running(store, job_id)
    await at_work(store, job_id)
    await store.aclose()
    yield site


async def test_a_drain_ends_in_time_though_redis_is_gone(busy: Site) -> None:
    busy.kill()
    busy.worker.signal(signal.SIGTERM)
    await ends(busy.worker, 1.0)
    assert "jobs_abandoned" in busy.worker.log.read_text()


async def test_a_drain_ends_in_time_though_redis_is_silent(busy: Site) -> None:
    """It answers nothing, so whoever asks it hangs: Celery, too."""
    freeze(busy.pid)
    busy.worker.signal(signal.SIGTERM)
    await ends(busy.worker, 1.0)


async def test_an_idle_worker_ends_though_redis_is_gone(site: Site) -> None:
    await eventually(lambda: "worker_ready" in site.worker.log.read_text())
    site.kill()
    site.worker.signal(signal.SIGTERM)
    await ends(site.worker, 1.0)


WEDGED = {"lease_ttl_s": 1.0, "heartbeat_s": 0.1, "reap_interval_s": 0.1}


async def test_a_drain_ends_in_time_though_the_loop_is_wedged(store: JobStore, ready) -> None:
    wedge = "worker.before_beat=sleep:60@10"
    worker = await ready(**SLOW, drain_timeout_s=1.0, heartbeat_s=0.1, failpoints=wedge)
    await eventually(lambda: "failpoint worker.before_beat" in worker.log.read_text(), 60)
    worker.signal(signal.SIGTERM)
    await ends(worker, 1.0)


@pytest.mark.full
@pytest.mark.parametrize(
    ("action", "sign"),
    [("sleep:60", "loop_stalled"), ("wedge", "Timeout (0:00:10)")],
)
async def test_a_worker_whose_loop_is_wedged_ends_by_itself(
    store: JobStore, ready, action: str, sign: str
) -> None:
    """Its jobs run elsewhere meanwhile. With ``wedge``, no thread of it can run Python."""
    worker = await ready(**SLOW, **WEDGED, failpoints=f"worker.before_beat={action}@20")
    job_id = await submit(store, chat(max_tokens=1000))
    await running(store, job_id)
    await ready("w2", **SLOW, reap_interval_s=0.1)
    await eventually(lambda: "failpoint worker.before_beat" in worker.log.read_text())
    assert await asyncio.to_thread(worker.wait) == 1
    text = worker.log.read_text()
    assert sign in text
    assert "in keep" in text  # the heartbeat, where it hangs

    async def moved_on() -> bool:
        return await reasons(store, job_id) == (JobState.RUNNING, ["worker_lost"])

    await eventually(moved_on, 40)


async def test_a_worker_that_loses_its_heartbeat_ends_and_gives_its_jobs_back(store: JobStore, ready) -> None:
    job_id = await submit(store, LONG, max_attempts=1)
    # Six seconds after the first beat; by then the job runs on a busy machine, too.
    worker = await ready(**SLOW, heartbeat_s=0.2, failpoints="worker.before_beat=raise@30")
    await eventually(lambda: "failpoint worker.before_beat" in worker.log.read_text())
    await ends(worker, 1.0, status=1)
    assert "the heartbeat ended" in worker.log.read_text()
    assert await reasons(store, job_id) == (JobState.QUEUED, ["released"])
    assert await store.workers() == []
