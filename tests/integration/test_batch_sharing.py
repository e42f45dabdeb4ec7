"""Identical rows of a batch share a run: each has a line of its own all the same, whatever fails under them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.model import Succeeded
from tests.apiserver import ApiServer
from tests.batching import create, ended, jsonl, lines, row, upload
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_batch_faults import QUICK, complete, starts
from tests.integration.test_claims import first_of
from tests.scraping import Scraped
from tests.support import eventually
from tests.upstream import Answer, Upstream
from workers.batches.commits import GROUP_MOST_ROWS

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

APART = {"batch_prefix_order": False, "batch_answer_identical_once": False}


@pytest.fixture
def broker_settings(broker_settings: BrokerSettings) -> BrokerSettings:
    """What workers have, too."""
    return broker_settings.model_copy(update=QUICK)


def same(name: object, number: int = 0, **body: Any) -> dict[str, Any]:
    """Return a row whose body is that of every row with this number."""
    return row(number, **{"temperature": 0, "max_tokens": 4, **body}) | {"custom_id": f"row-{name}"}


async def raw_lines(client: openai.AsyncOpenAI, batch: Any) -> list[str]:
    """Return the output lines as they are, without what is new in every batch, ordered by their rows."""
    read = [
        (await client.files.content(file)).read()
        for file in (batch.output_file_id, batch.error_file_id)
        if file
    ]
    text = re.sub(rb'"created":\d+', b'"created":0', b"".join(read)).replace(
        batch.id.removeprefix("batch_").encode(), b""
    )
    return sorted(text.decode().splitlines(), key=lambda line: str(json.loads(line)["custom_id"]))


async def test_identical_rows_run_once_and_each_has_its_line(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await work(simulated_journal=str(journal))
    rows = [*(same(n) for n in range(6)), row(6, max_tokens=4), row(6, max_tokens=4) | {"custom_id": "row-7"}]
    batch = await complete(client, (await create(client, rows)).id, 8)
    assert starts(journal) == 3
    told = await lines(client, batch.output_file_id)
    assert sorted(line["custom_id"] for line in told) == [f"row-{n}" for n in range(8)]
    ids = [(line["id"], line["response"]["request_id"], line["response"]["body"]["id"]) for line in told]
    assert all(len(set(column)) == 8 for column in zip(*ids, strict=True))
    assert all(line_id == request and f"-{line_id}-" in answer for line_id, request, answer in ids)
    usages = [line["response"]["body"]["usage"] for line in told]
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages) == 32
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)

    found = await Scraped.of(*(worker["metrics_url"] for worker in await store.workers()))
    assert found.sum("penstock_batch_rows_total", outcome="completed") == 8
    assert found.sum("penstock_batch_rows_shared_total") == 5
    assert found.sum("penstock_tenant_tokens_total", tenant="default", kind="completion") == 12
    chunks = [job.phase for job in (await store.list_jobs(limit=9)).jobs if job.endpoint == CHUNK_ENDPOINT]
    paid = [phase.usage for phase in chunks if isinstance(phase, Succeeded) and phase.usage is not None]
    assert [usage.completion_tokens for usage in paid] == [12]


async def test_rows_of_other_chunks_get_the_answer_of_the_one_that_ran(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await work(concurrency=1, simulated_journal=str(journal))
    rows = [same(n, n % 10) for n in range(40)]  # four chunks
    batch = await complete(client, (await create(client, rows)).id, 40)
    assert starts(journal) == 10
    told = {line["custom_id"]: line["response"] for line in await lines(client, batch.output_file_id)}
    for n in range(40):
        assert said(told[f"row-{n}"]) == said(told[f"row-{n % 10}"])
        assert told[f"row-{n}"]["request_id"] in told[f"row-{n}"]["body"]["id"]
    found = await Scraped.of(*(worker["metrics_url"] for worker in await store.workers()))
    assert found.sum("penstock_batch_rows_shared_total") == 30
    assert found.sum("penstock_tenant_tokens_total", tenant="default", kind="completion") == 40
    assert batch.usage.output_tokens == 160
    again = await complete(client, (await create(client, rows)).id, 40)  # another batch runs its own
    assert starts(journal) == 20
    assert again.usage.output_tokens == 160


class Held:
    """An upstream whose first answer to the row that several chunks have is held back.

    Attributes:
        asked: the users of the requests so far.
        first: the status of that answer.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.first = 200
        self.let_go = threading.Event()

    def __call__(self, body: dict[str, Any]) -> Answer:
        user = body["user"]
        self.asked.append(user)
        if user != "twin" or self.asked.count(user) > 1:
            return 200, "application/json", b'{"choices": []}'
        assert self.let_go.wait(60)
        return self.first, "application/json", b'{"choices": []}'

    def all_but_twins_ran(self) -> bool:
        return len(self.asked) - self.asked.count("twin") == 27

    @staticmethod
    def rows() -> list[dict[str, Any]]:
        """Rows of three chunks, each of which begins with the twin."""
        users = ["twin" if n % 10 == 0 else f"{n}" for n in range(30)]
        return [same(n, model="upstream", user=user) for n, user in enumerate(users)]


@pytest.fixture
def held() -> Iterator[tuple[Held, str]]:
    answer = Held()
    with Upstream(answer) as upstream:
        yield answer, upstream.url
        answer.let_go.set()


@pytest.mark.parametrize(("status", "runs"), [(200, 1), (400, 3)])
async def test_a_row_waits_for_its_twin_that_runs_in_another_chunk_without_a_slot(
    client: openai.AsyncOpenAI, work: Callable, held: tuple[Held, str], status: int, runs: int
) -> None:
    """If the twin fails, the row runs itself."""
    upstream, url = held
    upstream.first = status
    await work(engine="openai", openai_base_url=url, concurrency=2, bulk_reserve=0.0)
    batch = await create(client, Held.rows())
    await eventually(upstream.all_but_twins_ran)
    assert upstream.asked.count("twin") == 1
    upstream.let_go.set()
    done = await complete(client, batch.id, 30)
    assert upstream.asked.count("twin") == runs
    assert done.request_counts.failed == (status != 200)


async def test_a_row_runs_itself_if_its_twin_in_another_chunk_is_stopped(
    client: openai.AsyncOpenAI, work: Callable, held: tuple[Held, str], store: JobStore
) -> None:
    upstream, url = held
    await work(engine="openai", openai_base_url=url, concurrency=2, bulk_reserve=0.0)
    batch = await create(client, Held.rows())
    await eventually(upstream.all_but_twins_ran)
    running = [job for job in (await store.list_jobs(limit=9)).jobs if job.metadata["chunk"] == "0"]
    await store.cancel(running[0].id)
    done = await complete(client, batch.id, 30)
    assert done.request_counts.completed == 30
    assert not upstream.let_go.is_set()


def said(response: dict[str, Any]) -> str:
    return str(response["body"]["choices"][0]["message"]["content"])


async def test_the_settings_change_no_byte_of_an_output(
    client: openai.AsyncOpenAI, work: Callable, tmp_path: Path
) -> None:
    rows = [same(n, n % 7, max_tokens=-1 if n % 7 == 3 else 5) for n in range(60)]
    rows += [row(n, max_tokens=3) for n in range(100, 120)]
    file = await upload(client, jsonl(rows))
    given = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    outputs, ran = [], []
    for name, settings in (("on", {}), ("off", APART)):
        journal = tmp_path / name
        worker = await work(name, **settings, simulated_journal=str(journal))
        batch = await client.batches.create(**given)  # type: ignore[arg-type]
        outputs.append(await raw_lines(client, await complete(client, batch.id, 80)))
        ran.append(starts(journal))
        worker.process.terminate()
        assert await asyncio.to_thread(worker.wait) == 0
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 80
    assert ran[1] == 80
    assert ran[0] < 60


async def test_rows_run_in_the_order_of_their_prompts(
    client: openai.AsyncOpenAI, work: Callable, tmp_path: Path
) -> None:
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> Answer:
        asked.append(body["messages"][0]["content"])
        return 200, "application/json", b"{}"

    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url, concurrency=1)
        rows = [row(n, text="ab"[n % 2], model="upstream") for n in range(10)]
        await complete(client, (await create(client, rows)).id, 10)
    assert asked == [f"{text} {n}" for text in "ab" for n in range(10) if "ab"[n % 2] == text]


async def test_what_says_nothing_of_the_request_fails_the_row_that_ran_alone(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    """A server is at fault three times, which is as often as a row is tried, and then answers."""
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> Answer:
        asked.append(body["user"])
        if body["user"] == "wrong":
            return 400, "application/json", b'{"error": {"message": "no"}}'
        bad = asked.count("good") <= 3
        return (500, "application/json", b"{}") if bad else (200, "application/json", b'{"choices": []}')

    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url, concurrency=1)
        rows = [same(n, model="upstream", user="good" if n < 5 else "wrong") for n in range(10)]
        batch = await complete(client, (await create(client, rows)).id, 10)
    assert Counter(asked) == {"good": 3 + 1, "wrong": 1}  # and the answer for the three others
    assert batch.request_counts.to_dict() == {"total": 10, "completed": 4, "failed": 6}
    failed = {line["custom_id"] for line in await lines(client, batch.error_file_id)}
    assert failed == {"row-0", *(f"row-{n}" for n in range(5, 10))}


async def test_our_own_fault_under_one_of_them_is_not_the_others(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work(failpoints="bulk.after_row=raise@1", concurrency=4)
    batch = await complete(client, (await create(client, [same(n) for n in range(8)])).id, 8)
    assert batch.request_counts.to_dict() == {"total": 8, "completed": 7, "failed": 1}


async def test_a_request_under_which_engines_die_convicts_its_like(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    rows = [*(same(n, simulate="die") for n in range(5)), *(row(n, max_tokens=5) for n in range(10, 15))]
    lives = 1
    worker = await work("w1", **QUICK, concurrency=4)
    batch = await create(client, rows)
    while (await client.batches.retrieve(batch.id)).status != "completed":
        if worker.process.poll() is not None:
            lives += 1
            assert lives < 6
            worker = await work(f"w{lives}", **QUICK, concurrency=4)
        await asyncio.sleep(0.05)
    done = await complete(client, batch.id, 10)
    errors = await lines(client, done.error_file_id)
    assert {line["custom_id"] for line in errors} == {f"row-{n}" for n in range(5)}
    assert {line["response"]["body"]["error"]["code"] for line in errors} == {"poisoned"}


@pytest.mark.parametrize("window", ["bulk.after_part=kill@2", "bulk.after_row=kill@9"])
async def test_a_worker_killed_among_identical_rows_leaves_each_one_line(
    client: openai.AsyncOpenAI,
    start_worker: Callable,
    work: Callable,
    store: JobStore,
    files_url: str,
    window: str,
) -> None:
    given = {**QUICK, "concurrency": 4, "simulated_inter_token_s": 0.02}
    first = start_worker("w1", files_url=files_url, failpoints=window, **given)
    await eventually(lambda: "worker_ready" in first.log.read_text())
    rows = [same(n, n % 40, max_tokens=-1 if n % 40 == 7 else 5) for n in range(120)]
    batch = await create(client, rows)
    assert await asyncio.to_thread(first.wait) < 0
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    await work("w2", **given)
    done = await complete(client, batch.id, 120)
    assert done.request_counts.to_dict() == {"total": 120, "completed": 117, "failed": 3}


async def test_a_cancelled_batch_has_a_line_for_each_of_them(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await work(concurrency=4, simulated_inter_token_s=1.0, simulated_journal=str(journal))
    created = await create(client, [same(n, n % 2, max_tokens=100) for n in range(10)])
    await eventually(lambda: journal.exists() and starts(journal) == 2)
    await client.batches.cancel(created.id)
    batch = await ended(client, created.id)
    assert batch.status == "cancelled"
    assert len(await lines(client, batch.error_file_id)) == 10
    async with api.client() as http:
        assert (await http.get(f"/v1/batches/{batch.id}/verify")).json()["ok"]


class TestLargeChunks:
    @pytest.fixture
    def api(self, broker_settings: BrokerSettings, files_url: str):
        with (
            CoordinatorThread(broker_settings, files_url=files_url, batch_chunk_rows=2000),
            ApiServer(broker_settings, files_url=files_url) as server,
        ):
            yield server

    async def test_a_window_is_planned_at_a_time_and_a_part_is_bounded(
        self, client: openai.AsyncOpenAI, work: Callable, files_url: str, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        await work(simulated_journal=str(journal))
        batch = await complete(client, (await create(client, [same(n) for n in range(1500)])).id, 1500)
        assert starts(journal) <= 2  # of a window of 1,024 rows; the rest may have its answer already
        parts = [
            path.read_bytes().count(b"\n") for path in Path(files_url).glob(f"batches/{batch.id}/parts/*/*")
        ]
        assert sum(parts) == 1500
        assert max(parts) == GROUP_MOST_ROWS
