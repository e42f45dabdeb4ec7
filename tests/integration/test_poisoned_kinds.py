"""A kind of requests that killed two engines is refused, and so kills no third one; until an operator or time allows it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from broker.jobs import JobStore
from jobs.endpoints import CHAT
from jobs.poison import MOST_KINDS, REMEMBERED_MS, Kind, kind_of
from jobs.states import JobState
from tests.puppet import FACTS, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

MODEL, POOL = "fragile", "fragile-pool"
SAY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
DEADLY = {**SAY, "min_p": 0.5, "bad_words": ["a"]}


async def convict(http: httpx.AsyncClient, store: JobStore, kind: Kind | None) -> str:
    """Let two engines die of a job; return its id."""
    worker = Puppet(store, "fragile-1", POOL)
    await worker.live(MODEL, facts={**FACTS, "endpoints": [CHAT]})
    made = await http.post("/v1/jobs", json={"endpoint": CHAT, "input": DEADLY})
    assert made.status_code == 202, made.text
    for state in (JobState.QUEUED, JobState.FAILED):
        claim = await worker.take()
        assert await store.release_from_dead_engine(claim, worker.name, "it died", kind) is state
    return str(made.json()["id"])


async def test_the_third_client_is_refused_and_others_are_not(
    http: httpx.AsyncClient, store: JobStore
) -> None:
    job = await convict(http, store, kind_of(CHAT, MODEL, DEADLY))
    (kinds,) = (await store.poisoned([POOL, "default"])).values()
    (known,) = kinds.values()
    assert (known.members, known.job) == (("bad_words", "min_p"), job)
    assert 0 < await store.client.pttl(store.keys("poison", POOL)) <= REMEMBERED_MS

    asked: dict[str, Any] = {**DEADLY, "messages": [{"role": "user", "content": "other words"}]}

    async def refused() -> httpx.Response | None:
        answer = await http.post("/v1/jobs", json={"endpoint": CHAT, "input": asked})
        return answer if answer.status_code == 400 else None

    error = (await eventually(refused)).json()["error"]
    assert error["code"] == "poisoned_kind"
    assert f"penstock queue unpoison {POOL}" in error["message"]
    call = await http.post(CHAT, json=asked)
    assert (call.status_code, call.json()["error"]["param"]) == (400, "bad_words")
    for other in (SAY, {**SAY, "min_p": 0.5}):
        made = await http.post("/v1/jobs", json={"endpoint": CHAT, "input": other})
        assert made.status_code == 202, made.text

    cleared = await http.post(f"/v1/queues/{POOL}/unpoison")
    assert (cleared.status_code, cleared.json()["pool"]) == (200, POOL)
    assert (await http.post("/v1/jobs", json={"endpoint": CHAT, "input": asked})).status_code == 202
    assert await store.unpoison(POOL) == 0


async def test_a_job_of_no_kind_leaves_nothing(http: httpx.AsyncClient, store: JobStore) -> None:
    await convict(http, store, None)
    assert await store.poisoned([POOL]) == {}


async def test_a_pool_remembers_so_many_kinds_and_no_more(http: httpx.AsyncClient, store: JobStore) -> None:
    key = store.keys("poison", POOL)
    old: dict[Any, Any] = {
        f"{n:016x}": f'{{"until_ms":{10**15 + n},"members":["a"],"job":"j"}}' for n in range(MOST_KINDS)
    }
    await store.client.hset(key, mapping=old)
    await convict(http, store, Kind("f" * 16, ("a",)))
    kinds = set(await store.client.hkeys(key))
    assert kinds == {*list(old)[1:], "f" * 16}
    await store.client.hset(key, "e" * 16, '{"until_ms":1,"members":["a"],"job":"j"}')
    assert "e" * 16 not in (await store.poisoned([POOL]))[POOL], "its time is over"
