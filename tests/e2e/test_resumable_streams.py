"""``GET /v1/jobs/{id}/stream`` with both engines: cut after each event, live and later. Nothing is lost or comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from penstock._core.sse import ServerSentEvent, SSEParser
from tests.e2e.stacks import Stack

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 24}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 24},
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "Tell me a story", "max_output_tokens": 24},
}

engines = pytest.mark.parametrize(
    "name",
    [
        pytest.param("stack", marks=pytest.mark.xdist_group("stack"), id="simulated"),
        pytest.param("vllm_stack", marks=pytest.mark.xdist_group("vllm"), id="vLLM"),
    ],
)


@pytest.fixture
def http(name: str, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    stack: Stack = request.getfixturevalue(name)
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client


def read(http: httpx.Client, job_id: str, after: str = "", most: int = 10_000) -> list[ServerSentEvent]:
    """Read events until the end of the stream, or ``most`` of them."""
    parser = SSEParser(after)
    found: list[ServerSentEvent] = []
    params = {"starting_after": after} if after else {}
    with http.stream("GET", f"/v1/jobs/{job_id}/stream", params=params) as got:
        assert got.status_code == 200, got.read()
        for data in got.iter_bytes():
            found += parser.feed(data)
            if len(found) >= most:
                return found[:most]
    return found


@engines
@pytest.mark.parametrize("endpoint", ASKED)
def test_a_stream_is_cut_at_every_event(http: httpx.Client, name: str, endpoint: str) -> None:
    model = "simulated" if name == "stack" else "tiny-random"
    job = {
        "endpoint": endpoint,
        "input": {"model": model, "temperature": 0, **ASKED[endpoint]},
        "stream": True,
    }
    got = http.post("/v1/jobs", json=job)
    assert got.status_code == 202, got.text
    job_id = got.json()["id"]
    live: list[ServerSentEvent] = []
    while new := read(http, job_id, live[-1].id if live else "", most=1):
        live += new
    whole = read(http, job_id)
    ids = [int(event.id) for event in live]
    assert ids == sorted(set(ids))
    assert (ids[0], ids[-1]) == (1, int(whole[-1].id))
    assert len(ids) > 3
    assert len(whole) <= len(live)  # a replay may join texts
    for place, event in enumerate(whole):
        assert read(http, job_id, event.id) == whole[place + 1 :]
