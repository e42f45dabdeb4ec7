"""A prompt that is too long by one token is refused at the door, by a real worker's count, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from broker.db.client import connect
from broker.db.keys import Keys
from broker.events.hub import EventHub
from broker.events.subscriber import Subscriber
from broker.events.token_counts import MAX_BYTES, CountClient, CountRequest, CountServer
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from tests.apiserver import ApiServer
from tests.processes import WorkerProcess
from tests.support import eventually

pytestmark = pytest.mark.asyncio

LIMIT = 200
BULK = Lane.BULK.engine_priority
JOBS, CHAT, TEXT, EMBED = "/v1/jobs", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

FRAME = len('[{"role":"user","content":""}]')
"""Bytes that the simulated engine counts around a message's text; a token is four bytes."""


def chat(tokens: int) -> dict[str, Any]:
    return {"model": "simulated", "messages": [{"role": "user", "content": "x" * (4 * tokens - FRAME)}]}


def text(tokens: int) -> dict[str, Any]:
    return {"model": "simulated", "prompt": "x" * (4 * tokens - 2)}


def embed(tokens: int) -> dict[str, Any]:
    return {"model": "simulated", "input": ["short", "x" * (4 * tokens - 2)]}


@pytest.fixture
def worker(broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[WorkerProcess]:
    # A test stops it for a while: its lease must not end meanwhile.
    worker = WorkerProcess(broker_settings, tmp_path / "w.log", simulated_max_model_len=LIMIT, lease_ttl_s=60)
    yield worker
    worker.close()


@asynccontextmanager
async def serving(
    broker_settings: BrokerSettings, worker: WorkerProcess, count_timeout_s: float
) -> AsyncIterator[httpx.AsyncClient]:
    """An api that knows the worker, which listens."""
    with ApiServer(broker_settings, count_timeout_s=count_timeout_s) as server:
        async with server.client() as client:

            async def ready() -> bool:
                assert worker.process.poll() is None, worker.log.read_text()
                return worker.is_ready() and (await client.get("/health/ready")).status_code == 200

            await eventually(ready)
            yield client


@pytest_asyncio.fixture
async def http(broker_settings: BrokerSettings, worker: WorkerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(broker_settings, worker, count_timeout_s=30) as client:
        yield client


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send JSON without the spaces that Python's encoder would put into the prompt's frame."""
    return await http.post(path, content=httpx.Request("POST", "http://x", json=body).content)


async def test_one_token_decides(http: httpx.AsyncClient) -> None:
    for path, make, longest, param in (
        (CHAT, chat, LIMIT - 1, "messages"),
        (TEXT, text, LIMIT - 1, "prompt"),
        (EMBED, embed, LIMIT, "input"),
    ):
        for way in ("sync", "stream", "job"):
            more = {"stream": True} if way == "stream" else {}
            fits, over = make(longest) | more, make(longest + 1) | more
            where = JOBS if way == "job" else path
            wrap = (lambda b, p=path: {"endpoint": p, "input": b}) if way == "job" else (lambda b: b)
            before = (await http.get(JOBS)).json()["data"]
            refused = await post(http, where, wrap(over))
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["param"]) == (
                400,
                "context_length_exceeded",
                param,
            )
            assert f"{longest + 1} tokens" in error["message"]
            assert (await http.get(JOBS)).json()["data"] == before
            taken = await post(http, where, wrap(fits))
            assert taken.status_code == (202 if way == "job" else 200), taken.text
            if way == "job":
                job = (await http.get(taken.headers["location"], params={"wait": 10})).json()
                assert job["state"] == "succeeded"


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        (CHAT, chat(LIMIT - 1), LIMIT - 1),
        (TEXT, text(LIMIT - 1), LIMIT - 1),
        (TEXT, text(2), None),  # its size decides, so nobody counts
        (EMBED, embed(LIMIT), None),  # the count is that of its longest prompt
    ],
)
async def test_tokens_that_were_counted_are_the_jobs(
    http: httpx.AsyncClient, store: JobStore, path: str, body: dict[str, Any], tokens: int | None
) -> None:
    job = (await post(http, JOBS, {"endpoint": path, "input": body})).json()
    facts: Any = await store.client.hget(store.keys("job", job["id"]), "facts")
    assert json.loads(facts).get("prompt_tokens") == tokens
    await http.get(job["links"]["status_url"], params={"wait": 10})


async def test_too_much_output_is_refused(http: httpx.AsyncClient) -> None:
    for path, body, param in ((CHAT, chat(20), "max_completion_tokens"), (TEXT, text(20), "max_tokens")):
        got = await post(http, path, body | {param: LIMIT + 1})
        error = got.json()["error"]
        assert (got.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        whole = await post(http, path, body | {param: LIMIT})
        assert whole.json()["usage"]["completion_tokens"] == LIMIT - 20  # what is left
    assert len((await http.get(JOBS)).json()["data"]) == 2


async def test_without_an_answer_the_engine_decides(
    broker_settings: BrokerSettings, http: httpx.AsyncClient, worker: WorkerProcess
) -> None:
    async with serving(broker_settings, worker, count_timeout_s=0.5) as impatient:
        worker.signal(signal.SIGSTOP)
        got = await post(impatient, JOBS, {"endpoint": TEXT, "input": text(LIMIT)})
    assert got.status_code == 202, got.text
    worker.signal(signal.SIGCONT)
    job = (await http.get(got.headers["location"], params={"wait": 60})).json()
    assert (job["state"], job["error"]["code"]) == ("failed", "context_length_exceeded")
    assert (await post(http, JOBS, {"endpoint": TEXT, "input": text(LIMIT)})).status_code == 400


class Pair:
    """An asker and an answerer, on the two channels that an api and a worker have."""

    def __init__(self, client: Redis, keys: Keys, hub: EventHub) -> None:
        self.asker = CountClient(client, hub, keys, patience_s=20)
        self.impatient = CountClient(client, hub, keys, patience_s=0.3)
        self.answerer = CountServer(client, keys, self._count)
        self.asked: list[tuple[str, bytes]] = []
        self.priorities: list[int] = []
        self.says: Any = 7
        self.all_gave_up = asyncio.Event()

    async def _count(self, endpoint: str, body: bytes, priority: int) -> int | None:
        self.asked.append((endpoint, body))
        self.priorities.append(priority)
        if isinstance(self.says, Exception):
            raise self.says
        if self.says == "nothing":
            try:
                await asyncio.Event().wait()
            finally:
                await self.all_gave_up.wait()  # keep the place, however late the others begin to wait for it
        return self.says

    def take(self, message: list[str]) -> None:
        question = CountRequest.decode(message)
        assert question is not None
        self.answerer.take(question)


@pytest_asyncio.fixture
async def pair(store: JobStore, broker_settings: BrokerSettings) -> AsyncIterator[Pair]:
    hub = EventHub(store, connect(broker_settings.redis_url, text=False), "api-1")
    await hub.start()
    pair = Pair(store.client, store.keys, hub)
    control = Subscriber(
        connect(broker_settings.redis_url, text=False),
        store.keys("ctl_channel", "w"),
        pair.take,
        lambda: None,
    )
    await control.start()
    yield pair
    await control.stop()
    await pair.answerer.stop()
    await hub.stop()


async def test_a_question_finds_who_listens(pair: Pair, store: JobStore) -> None:
    body = '{"prompt": "é\\u0000"}'.encode()
    for says in (7, 0, None):
        pair.says = says
        assert await pair.asker.count(["dead", "w", "gone"], TEXT, body) == says
    assert pair.asked == [(TEXT, body)] * 3
    assert await pair.asker.count([], TEXT, body) is None
    assert await pair.asker.count(["dead"], TEXT, body) is None
    assert len(pair.asked) == 3
    assert [key async for key in store.client.scan_iter(f"{store.keys.namespace}:*count*")] == []


async def test_no_number_is_none(pair: Pair) -> None:
    pair.says = RuntimeError("the tokenizer broke")
    assert await pair.asker.count(["w"], TEXT, b"{}") is None
    pair.says = "nothing"

    async def gave_up_and_all_places_are_taken() -> bool:
        many = await asyncio.gather(*(pair.impatient.count(["w"], TEXT, b"{}") for _ in range(6)))
        assert many == [None] * 6
        return len(pair.answerer._tasks) == 4

    await eventually(
        gave_up_and_all_places_are_taken
    )  # on a busy machine a question may come when it is late already
    assert len(pair.asked) == 5  # the others found no free place in time
    pair.all_gave_up.set()
    pair.says = 3
    assert await pair.asker.count(["w"], TEXT, b"{}") == 3


async def test_bulk_takes_one_place_and_no_call_waits_for_it(pair: Pair) -> None:
    pair.says = "nothing"
    bulk = [asyncio.create_task(pair.asker.count(["w"], TEXT, b"{}", BULK)) for _ in range(6)]
    await eventually(lambda: len(pair.answerer._tasks) == 6 and pair.asked)
    calls = [asyncio.create_task(pair.asker.count(["w"], TEXT, b"{}")) for _ in range(4)]
    await eventually(lambda: len(pair.asked) == 5)
    assert pair.priorities == [BULK, 0, 0, 0, 0]
    for task in (*bulk, *calls):
        task.cancel()
    await asyncio.gather(*bulk, *calls, return_exceptions=True)
    pair.all_gave_up.set()


async def test_large_bodies(pair: Pair) -> None:
    assert await pair.asker.count(["w"], TEXT, b"x" * MAX_BYTES) == 7
    assert await pair.asker.count(["w"], TEXT, b"x" * (MAX_BYTES + 1)) is None
    assert len(pair.asked) == 1


async def test_other_commands_are_no_questions() -> None:
    assert CountRequest.decode(["job_1", "cancelled"]) is None
    assert CountRequest.decode(["drain", "30"]) is None
