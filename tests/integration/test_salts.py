"""A worker tells its engine whose request it is, of jobs and of a batch's rows, so that no other finds the prefix again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from broker.batches import BatchSpec, BatchStore
from broker.jobs import JobStore
from jobs.batch_keys import file_key
from jobs.ids import BATCH_PREFIX, make_id
from jobs.model import JobSpec
from tests.batching import ended, jsonl, row, upload
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.support import eventually, new_id
from tests.upstream import Answer, Upstream

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
TOLD = json.dumps(
    {
        "object": "chat.completion",
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
).encode()


@pytest.mark.parametrize("shared", [False, True])
async def test_the_engine_gets_the_salt_of_a_jobs_and_a_rows_tenant(
    client: openai.AsyncOpenAI,
    store: JobStore,
    work: Callable,
    shared: bool,
) -> None:
    salts: dict[str, Any] = {}

    def answer(body: dict[str, Any]) -> Answer:
        salts[body["messages"][0]["content"]] = body.get("cache_salt")
        return 200, "application/json", TOLD

    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url, shared_prefix_cache=shared)
        for tenant in ("alice", "default"):
            body = {"model": "upstream", "messages": [{"role": "user", "content": f"job of {tenant}"}]}
            job = JobSpec(new_id(), CHAT, "upstream", json.dumps(body).encode(), tenant=tenant)
            await store.accept(job)
        file_id = await upload(client, jsonl([row("alice", "row of", model="upstream")]))
        batch = BatchSpec(
            id=make_id(BATCH_PREFIX, time.time_ns() // 1_000_000, os.urandom(10)),
            input_file_id=file_id,
            input_key=file_key(file_id),
            endpoint=CHAT,
            window="24h",
            window_ms=86_400_000,
            tenant="alice",
        )
        await BatchStore(store).create(batch)
        assert (await ended(client, batch.id)).status == "completed"
        await eventually(lambda: len(salts) == 3)
    alices = None if shared else "alice:"
    assert salts == {"job of alice": alices, "job of default": None, "row of alice": alices}
