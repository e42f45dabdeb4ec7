"""Responses by another server behind a worker: its events, its own tools, and ids that are ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from jobs.endpoints import RESPONSES
from tests.apiserver import ApiServer
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work  # noqa: F401

pytestmark = pytest.mark.asyncio

WORDS = ("a", "b", "c")


def _response(status: str, text: str = "") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_u", "type": "message", "role": "assistant", "status": status, "content": [part]}
    return {
        "id": "resp_theirs",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "theirs",
        "output": [item] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6} if text else None,
    }


class _Upstream(BaseHTTPRequestHandler):
    """A server with one model; ``asked`` of its server holds the bodies that it got."""

    def do_GET(self) -> None:
        self._say(json.dumps({"object": "list", "data": [{"id": "theirs", "object": "model"}]}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        done = _response("completed", "".join(WORDS))
        if not asked.get("stream"):
            return self._say(json.dumps(done).encode())
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": _response("in_progress")},
            {"type": "response.in_progress", "response": _response("in_progress")},
            *(
                {"type": "response.output_text.delta", "delta": word, "item_id": "msg_u", "output_index": 0}
                for word in WORDS
            ),
            {"type": "response.completed", "response": done},
        ]
        told = (
            f"event: {event['type']}\ndata: {json.dumps(event | {'sequence_number': number})}\n\n"
            for number, event in enumerate(events)
        )
        return self._say("".join(told).encode(), "text/event-stream")

    def _say(self, data: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    server.daemon_threads = True
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


async def test_ids_are_ours_and_its_own_tools_pass(
    client: openai.AsyncOpenAI,  # noqa: F811
    api: ApiServer,  # noqa: F811
    work: Callable,  # noqa: F811
    upstream: ThreadingHTTPServer,
) -> None:
    url = f"http://127.0.0.1:{upstream.server_address[1]}/v1"
    await work(engine="openai", openai_base_url=url, openai_endpoints=[RESPONSES])
    tools: Any = [{"type": "web_search"}]
    whole = await client.responses.create(model="theirs", input="hi", tools=tools)
    assert whole.output_text == "abc"
    assert (await client.responses.retrieve(whole.id)).output_text == "abc"
    live = [event async for event in await client.responses.create(model="theirs", input="hi", stream=True)]
    assert [event.sequence_number for event in live] == list(range(6))
    end: Any = live[-1]
    assert end.response.id.startswith("resp_job_")
    stream = await client.responses.create(model="theirs", input="hi", stream=True, background=True)
    events: list[Any] = [event async for event in stream]
    name = events[0].response.id
    assert [event.sequence_number for event in events] == list(range(7))
    assert {event.response.id for event in events if hasattr(event, "response")} == {name}
    resumed = await client.responses.retrieve(name, stream=True, starting_after=3)
    assert [event async for event in resumed] == events[4:]
    asked = upstream.asked  # type: ignore[attr-defined]
    assert asked[0]["tools"] == tools
    assert all("background" not in body for body in asked)
