"""Batches of ``/v1/responses``: the openai SDK, a real api, real workers, simulated and before another server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from jobs.endpoints import USUAL_ENDPOINTS
from tests.batching import create, ended, lines
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

RESPONSES = "/v1/responses"


def asking(name: object, model: str = "simulated", **body: Any) -> dict[str, Any]:
    """Return a row; a field that is None is left out."""
    asked = {"model": model, "input": f"hi {name}", **body}
    asked = {field: value for field, value in asked.items() if value is not None}
    return {"custom_id": f"row-{name}", "method": "POST", "url": RESPONSES, "body": asked}


async def test_each_row_is_answered_with_a_response(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]
    rows = [asking(n, max_output_tokens=n + 1) for n in range(20)]
    rows += [asking("free"), asking("items", input=items, instructions="be brief", metadata={"a": "b"})]
    rows += [asking("no", background=False, stream=False), asking("empty", input=[])]
    batch = await ended(client, (await create(client, rows, endpoint=RESPONSES)).id)
    assert (batch.status, batch.endpoint, batch.request_counts.completed) == ("completed", RESPONSES, 23)
    found = {line["custom_id"]: line for line in await lines(client, batch.output_file_id)}
    answers = {
        name: Response.model_validate(line["response"]["body"], strict=True) for name, line in found.items()
    }
    assert len({answer.id for answer in answers.values()}) == 23
    for n in range(20):
        answer = answers[f"row-{n}"]
        assert answer.id.startswith(f"resp_{found[f'row-{n}']['id']}-")
        assert (answer.status, answer.max_output_tokens, answer.usage.output_tokens) == (
            "incomplete",
            n + 1,
            n + 1,
        )
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert len(answer.output_text.split()) == n + 1
    free, rich = answers["row-free"], answers["row-items"]
    assert (free.status, free.incomplete_details, free.output[0].status) == ("completed", None, "completed")
    assert (rich.instructions, rich.metadata, rich.previous_response_id) == ("be brief", {"a": "b"}, None)
    assert batch.usage.input_tokens == sum(answer.usage.input_tokens for answer in answers.values()) > 0
    assert batch.usage.output_tokens == sum(answer.usage.output_tokens for answer in answers.values())
    (refused,) = await lines(client, batch.error_file_id)
    assert (refused["custom_id"], refused["response"]["status_code"]) == ("row-empty", 400)


async def test_what_only_a_server_with_a_memory_could_do_is_refused_by_line(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    rows = [
        asking(1),
        asking(2, background=True),
        asking(3, previous_response_id="resp_1"),
        asking(4, stream=True),
        asking(5, input=None),
        asking(6, conversation="conv_1"),
    ]
    batch = await ended(client, (await create(client, rows, endpoint=RESPONSES)).id)
    assert batch.status == "failed"
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "invalid_request", "body.background"),
        (3, "invalid_request", "body.previous_response_id"),
        (4, "invalid_request", "body.stream"),
        (5, "invalid_request", "body.input"),
        (6, "invalid_request", "body.conversation"),
    ]


class _Upstream(BaseHTTPRequestHandler):
    """A server with one model, and with ``/v1/responses`` where its ``has_responses`` is true."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._say(200, {"object": "list", "data": [{"id": "theirs", "object": "model"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != RESPONSES or not self.server.has_responses:  # type: ignore[attr-defined]
            return self._say(404, {"error": {"message": "no such path", "type": "not_found"}})
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        return self._say(200, {"object": "response", "instructions": asked["input"], "usage": usage})

    def _say(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    server.daemon_threads = True
    server.has_responses = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


async def behind(upstream: ThreadingHTTPServer, work: Callable, **settings: Any) -> None:
    await work(
        engine="openai", openai_base_url=f"http://127.0.0.1:{upstream.server_address[1]}/v1", **settings
    )


async def test_another_server_that_has_it_is_asked(
    client: openai.AsyncOpenAI, work: Callable, upstream: ThreadingHTTPServer
) -> None:
    await behind(upstream, work, openai_endpoints=[*USUAL_ENDPOINTS, RESPONSES])
    rows = [asking(n, "theirs") for n in range(7)]
    batch = await ended(client, (await create(client, rows, endpoint=RESPONSES)).id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 7)
    output = await lines(client, batch.output_file_id)
    assert {line["response"]["body"]["instructions"] for line in output} == {f"hi {n}" for n in range(7)}
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (21, 14, 35)


async def test_an_engine_that_does_not_say_it_has_it_gets_no_row(
    client: openai.AsyncOpenAI, work: Callable, upstream: ThreadingHTTPServer
) -> None:
    await behind(upstream, work)
    batch = await ended(client, (await create(client, [asking(1, "theirs")], endpoint=RESPONSES)).id)
    assert batch.status == "failed"
    (error,) = batch.errors.data
    assert (error.code, error.line, error.param) == ("invalid_request", 1, "body.model")
    assert "does not do /v1/responses; it does /v1/chat/completions" in error.message


async def test_an_engine_that_says_nothing_is_tried_and_its_refusal_passed_on(
    client: openai.AsyncOpenAI, work: Callable, upstream: ThreadingHTTPServer
) -> None:
    upstream.has_responses = False  # type: ignore[attr-defined]
    await behind(upstream, work, openai_endpoints=[])
    rows = [asking(n, "theirs") for n in range(3)]
    batch = await ended(client, (await create(client, rows, endpoint=RESPONSES)).id)
    assert (batch.status, batch.request_counts.failed) == ("completed", 3)
    errors = await lines(client, batch.error_file_id)
    assert [line["response"]["status_code"] for line in errors] == [404] * 3
    assert errors[0]["response"]["body"]["error"]["message"] == "no such path"
