"""Usage is exact: its sums are the jobs' and the batches' own, whoever is killed meanwhile, and nothing counts twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest

from broker.batches import BatchStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.usage import Tally
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.model import Failed, Usage
from jobs.states import JobState
from tests.batching import create, row
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_batch_faults import QUICK, complete
from tests.integration.test_batch_sharing import same
from tests.integration.test_usage import tallies
from tests.integration.test_worker import chat, submit
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

WINDOWS = ("worker.before_finish=kill@40,bulk.after_part=kill@3", "worker.before_finish=kill@15")


@pytest.fixture
def broker_settings(broker_settings: BrokerSettings) -> BrokerSettings:
    """What workers have, too."""
    return broker_settings.model_copy(update=QUICK)


async def used_by_jobs(store: JobStore) -> Tally:
    """Add up what the records of ended jobs say, without those of chunks."""
    total, cursor = Tally(), None
    while True:
        page = await store.list_jobs(limit=100, cursor=cursor)
        for job in page.jobs:
            if job.endpoint == CHUNK_ENDPOINT:
                continue
            assert job.state.terminal
            usage = getattr(job.phase, "usage", None) or Usage(0, 0, 0)
            failed = int(isinstance(job.phase, Failed))
            total += Tally(1, failed, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        cursor = page.cursor
        if cursor is None:
            return total


async def test_sums_equal_the_jobs_own_usage_while_workers_are_killed(
    client: openai.AsyncOpenAI, store: JobStore, start_worker: Callable, work: Callable, files_url: str
) -> None:
    given = {**QUICK, "concurrency": 8, "simulated_inter_token_s": 0.002}
    dying = [
        start_worker(f"w{n}", files_url=files_url, failpoints=window, **given)
        for n, window in enumerate(WINDOWS)
    ]
    await eventually(lambda: all("worker_ready" in worker.log.read_text() for worker in dying))
    batch = await create(client, [row(f"b{n}", max_tokens=-1 if n % 9 == 8 else 8) for n in range(150)])
    for n in range(60):
        await submit(store, chat(f"job {n}", max_tokens=-1 if n % 10 == 9 else 1 + n % 7))
    for worker in dying:
        assert await asyncio.to_thread(worker.wait) < 0
    for worker in await store.workers(ended=True):
        await store.bury(worker["incarnation"])
    await work("w9", **given)
    done = await complete(client, batch.id, 150)

    async def idle() -> bool:
        return not any(
            [
                (await store.list_jobs(state=state, limit=1)).jobs
                for state in (JobState.QUEUED, JobState.RUNNING)
            ]
        )

    await eventually(idle)
    found = sum((await tallies(store)).values(), Tally())
    own = await used_by_jobs(store)
    assert own.requests == 60
    read = await BatchStore(store).get(batch.id)
    assert read is not None
    counts = read.counts
    assert (counts.completed + counts.failed, done.request_counts.total) == (150, 150)
    rows = Tally(
        150, counts.failed, counts.input_tokens, counts.cached_tokens, counts.output_tokens, rows=150
    )
    assert found.device_us > 0
    assert found == own + rows + Tally(device_us=found.device_us)


async def test_identical_rows_are_requests_without_tokens_of_their_own(
    client: openai.AsyncOpenAI, store: JobStore, work: Callable
) -> None:
    await work()
    batch = await create(client, [same(n) for n in range(6)])
    done = await complete(client, batch.id, 6)
    ((place, tally),) = (await tallies(store)).items()
    assert place == ("default", "-", "simulated")
    assert (tally.requests, tally.rows, tally.completion) == (6, 6, 4)
    assert (done.usage.output_tokens, done.usage.input_tokens) == (24, 6 * tally.prompt)
