"""A batch over an OpenAI-compatible server whose answers are not always JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.apiserver import ApiServer
from tests.batching import create, ended, lines, row
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.support import eventually
from tests.upstream import Answer, Upstream

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

HTML = b"<html>\n<head><title>sorry</title></head>\n</html>\n"
ANSWERS: dict[str, Answer] = {
    "plain": (500, "text/plain", b"Internal Server Error"),
    "busy": (429, "text/html", HTML),
    "large": (413, "text/html", HTML),
    "portal": (200, "text/html", HTML),
    "empty": (200, "application/json", b""),
    "torn": (200, "application/json", b'{"choices": ['),
    "latin": (400, "application/json", b'{"error": {"message": "\xe4"}}'),
}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def answer(body: dict[str, Any]) -> Answer:
    found = ANSWERS.get(body["user"])
    told = {"object": "chat.completion", "choices": [], "usage": USAGE}
    return found or (200, "application/json", json.dumps(told, indent=1).encode())


async def test_answers_that_are_not_json_become_error_lines(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url, concurrency=8)
        rows = [row(name, model="upstream", user=name) for name in [*ANSWERS, "good", "fine"]]
        batch = await ended(client, (await create(client, rows)).id)
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (2, len(ANSWERS))
        told = {line["custom_id"]: line["response"] for line in await lines(client, batch.error_file_id)}
        for name, (status, _, body) in ANSWERS.items():
            assert told[f"row-{name}"]["status_code"] == (status if status >= 400 else 502)
            error = told[f"row-{name}"]["body"]["error"]
            assert f"status {status}" in error["message"]
            assert body[:20].decode(errors="replace") in error["message"]
        assert len(await lines(client, batch.output_file_id)) == 2
        async with api.client() as http:
            assert (await http.get(f"/v1/batches/{batch.id}/verify")).json()["ok"]
            again = await http.post(f"/v1/batches/{batch.id}/retry")
            assert again.status_code == 200, again.text
        sent = await lines(client, again.json()["input_file_id"])
        assert {line["custom_id"] for line in sent} == {f"row-{name}" for name in ANSWERS}


async def test_a_batch_with_such_answers_is_cancelled_with_what_was_done(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    """Its parts are read again when it is settled."""
    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url, concurrency=4)
        rows = [row(n, model="upstream", user="large" if n % 2 else "good") for n in range(200)]
        created = await create(client, rows)

        async def some_failed() -> bool:
            return bool((await client.batches.retrieve(created.id)).request_counts.failed)

        await eventually(some_failed)
        await client.batches.cancel(created.id)
        batch = await ended(client, created.id)
        assert batch.status in {"cancelled", "completed"}
        seen = await lines(client, batch.output_file_id) + await lines(client, batch.error_file_id)
        assert len({line["custom_id"] for line in seen}) == len(seen) == 200


async def test_token_counts_that_no_counter_holds_do_not_stop_a_batch(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    absurd = {"prompt_tokens": 10**30, "completion_tokens": -5, "total_tokens": 10**30}
    told = json.dumps({"object": "chat.completion", "choices": [], "usage": absurd}).encode()
    with Upstream(lambda _: (200, "application/json", told)) as upstream:
        worker = await work(engine="openai", openai_base_url=upstream.url, concurrency=8)
        batch = await ended(client, (await create(client, [row(1, model="upstream")])).id)
        assert (batch.status, batch.request_counts.completed) == ("completed", 1)
        assert "commit_delayed" not in worker.log.read_text()
