"""A job that is cancelled, or runs out of its time, frees the engine within a second, by the engine's own count."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from jobs.endpoints import CHAT, MESSAGES, RESPONSES
from tests.e2e.stacks import Stack
from tests.pace import Pace
from tests.scraping import Scraped
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = [{"role": "user", "content": "Hello"}]
LONG = {
    "format": {"type": "json_schema", "schema": {"type": "array", "items": {"enum": ["a"]}, "minItems": 3500}}
}
"""Messages know no ``ignore_eos``: so that the model may not stop."""
INPUTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 3500, "ignore_eos": True},
    RESPONSES: {"input": "Hello", "max_output_tokens": 3500, "ignore_eos": True},
    MESSAGES: {"messages": HELLO, "max_tokens": 3500, "output_config": LONG},
}
KINDS = [
    *((path, stream, {}) for path in INPUTS for stream in (False, True)),
    *((CHAT, stream, {"n": 2}) for stream in (False, True)),
]


@pytest.fixture(
    params=[
        pytest.param("stack", marks=pytest.mark.xdist_group("stack")),
        pytest.param("vllm_stack", marks=pytest.mark.xdist_group("vllm")),
    ]
)
def some_stack(request: pytest.FixtureRequest) -> Stack:
    """The simulated engine and vLLM in turn."""
    made: Stack = request.getfixturevalue(request.param)
    return made


class Engine:
    """The engine of a stack, seen from outside."""

    def __init__(self, http: httpx.AsyncClient, worker: str) -> None:
        self._http, self._worker = http, worker

    @classmethod
    async def of(cls, http: httpx.AsyncClient) -> Engine:
        """Find the only worker."""
        groups = (await http.get("/v1/metrics/targets")).json()
        (worker,) = [group for group in groups if "worker" in group["labels"]]
        return cls(http, f"http://{worker['targets'][0]}/metrics")

    async def counts(self) -> float:
        """Return how many requests it says that it has."""
        scraped = await Scraped.of(self._worker)
        return scraped.sum("penstock_engine_requests_running") + scraped.sum(
            "penstock_engine_requests_waiting"
        )

    async def busy(self) -> bool:
        """Whether it has any."""
        return await self.counts() > 0

    async def idle(self) -> bool:
        """Whether it has none."""
        return await self.counts() == 0


async def submitted(
    http: httpx.AsyncClient, path: str, *, stream: bool, timeout_s: float | None = None, **more: Any
) -> str:
    model = (await http.get("/v1/models")).json()["data"][0]["id"]
    body = {
        "model": model,
        **INPUTS[path],
        "stream": stream,
        **more,
    }
    asked = {"endpoint": path, "input": body, **({} if timeout_s is None else {"timeout_s": timeout_s})}
    got = await http.post("/v1/jobs", json=asked)
    assert got.status_code == 202, got.text
    ident: str = got.json()["id"]
    return ident


async def ended(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Wait for a job's end; return it."""

    async def over() -> dict[str, Any] | None:
        job: dict[str, Any] = (await http.get(f"/v1/jobs/{job_id}")).json()
        return job if job["state"] not in {"queued", "running"} else None

    job: dict[str, Any] = await eventually(over)
    return job


@pytest.mark.parametrize(("path", "stream", "more"), KINDS, ids=json.dumps)
async def test_a_cancelled_job_frees_the_engine(
    some_stack: Stack, path: str, stream: bool, more: dict[str, Any]
) -> None:
    async with httpx.AsyncClient(base_url=some_stack.url) as http:
        engine = await Engine.of(http)
        if more and "simulated" in (await http.get("/v1/models")).text:
            return  # it has one choice only
        await eventually(engine.idle)
        job_id = await submitted(http, path, stream=stream, **more)
        await eventually(engine.busy)
        pace = Pace()
        assert (await http.post(f"/v1/jobs/{job_id}/cancel")).status_code < 300
        await eventually(engine.idle)
        assert pace.allows(1), pace
        assert (await ended(http, job_id))[
            "state"
        ] == "cancelled"  # the engine is free before the end is written


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_came_within_the_time_is_kept(some_stack: Stack, path: str, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=some_stack.url) as http:
        engine = await Engine.of(http)
        job_id = await submitted(http, path, stream=stream, timeout_s=1.5)
        job = await ended(http, job_id)
        pace = Pace()
        await eventually(engine.idle)
        assert pace.allows(1), pace
        assert (job["state"], job["error"]["code"]) == ("failed", "timeout")
        partial = job["partial"]
        blocks = partial["output"][0]["content"] if path == RESPONSES else partial["content"]
        assert blocks[0]["text"]
        assert partial.get("status", "cancelled") == "cancelled"
