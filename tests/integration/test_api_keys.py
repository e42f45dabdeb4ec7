"""API keys: who gets in, as whom, and what stays open; with the openai SDK, our SDK and our command."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from broker.settings import BrokerSettings
from penstock import AuthenticationError, Penstock
from tests.apiserver import ApiServer
from tests.processes import ROOT
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PEPPER = "a pepper of the tests"
KEYS = {"alice": "sk-alice", "bob": "sk-bob"}
COMPLETION = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
        ],
    }
).encode()


@pytest.fixture
def guarded(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(
        broker_settings, api_keys=KEYS, key_pepper=PEPPER, tenants={"bob": {"queue_max": 1}}
    ) as server:
        yield server


@pytest_asyncio.fixture
async def http(guarded: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with guarded.client() as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def sdk(api: ApiServer, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0, timeout=20)


async def tenants(http: httpx.AsyncClient) -> dict[str, int]:
    (pool,) = (await http.get("/v1/queues", headers=bearer("sk-alice"))).json()["data"]
    return {tenant["tenant"]: tenant["queued"] for tenant in pool["tenants"]}


@pytest.mark.parametrize(
    "headers", [{}, bearer("sk-other"), {"authorization": "Bearer"}, {"authorization": "Basic sk-alice"}]
)
async def test_without_a_known_key_nothing_of_v1_answers(
    http: httpx.AsyncClient, puppet: Puppet, headers: dict[str, str]
) -> None:
    for method, path in (
        ("POST", CHAT),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/models"),
        ("GET", "/v1/queues"),
        ("GET", "/v1/files"),
        ("POST", "/v1/queues/default/pause"),
        ("GET", "/v1/none"),
    ):
        got = await http.request(method, path, headers=headers, json=BODY if method == "POST" else None)
        error = got.json()["error"]
        assert (got.status_code, error["code"], error["type"]) == (
            401,
            "invalid_api_key",
            "invalid_request_error",
        )
        assert got.headers["www-authenticate"] == "Bearer"
        assert ("provide an API key" in error["message"]) is (not headers)
        assert "sk-" not in error["message"]
    assert await puppet.waiting() == 0


async def test_health_metrics_and_their_discovery_need_no_key(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    async def ready() -> bool:
        return (await http.get("/health/ready")).status_code == 200

    await eventually(ready)
    for path in (
        "/",
        "/health",
        "/health/live",
        "/metrics",
        "/v1/metrics/targets",
        "/docs",
        "/openapi.json",
    ):
        got = await http.get(path, headers={"accept": "text/html"}, follow_redirects=True)
        assert got.status_code == 200, path
        assert path == "/metrics" or MODEL not in got.text, path
    await http.get("/v1/models")
    text = (await http.get("/metrics")).text
    assert 'api_errors_total{code="invalid_api_key"} 1.0' in text
    assert 'api_requests_total{endpoint="unmatched",status="401"} 1.0' in text


async def test_the_openai_sdk_meets_its_own_errors(guarded: ApiServer, puppet: Puppet) -> None:
    async with sdk(guarded, "sk-wrong") as client:
        for stream in (False, True):
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.chat.completions.create(**BODY, stream=stream)
            assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with sdk(guarded, "sk-alice") as client:
        asked = asyncio.create_task(client.chat.completions.create(**BODY))
        await puppet.succeed(await puppet.take(), COMPLETION)
        assert (await asked).choices[0].message.content == "hello"


async def test_a_key_names_its_tenant_and_brings_its_bounds(http: httpx.AsyncClient, puppet: Puppet) -> None:
    for key, status in (("sk-alice", 202), ("sk-alice", 202), ("sk-bob", 202), ("sk-bob", 429)):
        got = await http.post("/v1/jobs", json={"input": BODY}, headers=bearer(key))
        assert got.status_code == status
    error = got.json()["error"]
    wait = got.headers["retry-after"]
    assert error["code"] == "queue_full"
    assert error["message"] == f"Queue full: 1 job is waiting for bob; retry in {wait} s"
    assert 1 <= int(wait) <= 120
    assert await tenants(http) == {"alice": 2, "bob": 1}


async def test_a_retried_job_stays_its_tenants(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job = (await http.post("/v1/jobs", json={"input": BODY}, headers=bearer("sk-alice"))).json()
    await http.post(f"/v1/jobs/{job['id']}/cancel", headers=bearer("sk-alice"))
    again = await http.post(f"/v1/jobs/{job['id']}/retry", headers=bearer("sk-alice"))
    assert again.status_code == 202
    assert await tenants(http) == {"alice": 1}


async def test_idempotency_keys_are_each_tenants_own(http: httpx.AsyncClient, puppet: Puppet) -> None:
    made = []
    for key in ("sk-alice", "sk-bob", "sk-alice"):
        headers = bearer(key) | {"idempotency-key": "same"}
        made.append((await http.post("/v1/jobs", json={"input": BODY}, headers=headers)).json()["id"])
    assert made[0] == made[2] != made[1]


async def test_the_sdk_and_the_command_bring_a_key(guarded: ApiServer, puppet: Puppet) -> None:
    def submit() -> str:
        with Penstock(guarded.url, api_key="sk-alice") as client:
            job = client.submit(BODY, priority="low")
            assert [tenant.tenant for tenant in client.pools.list()[0].tenants] == ["alice"]
            return job.id

    job_id = await asyncio.to_thread(submit)

    def refused() -> None:
        with Penstock(guarded.url) as client, pytest.raises(AuthenticationError) as error:
            client.jobs.get(job_id)
        assert error.value.code == "invalid_api_key"

    await asyncio.to_thread(refused)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}

    async def command(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "penstock", "--url", guarded.url, *args]
        return await asyncio.to_thread(
            subprocess.run,
            argv,
            env=env | {"PYTHONPATH": str(ROOT)} | more,
            capture_output=True,
            text=True,
            check=False,
        )

    done = await command("jobs", "move", job_id, "--priority", "high", PENSTOCK_API_KEY="sk-alice")
    assert (done.returncode, json.loads(done.stdout)["priority"]) == (0, "high")
    done = await command("--api-key", "sk-wrong", "queue", "list")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("penstock: 401 invalid_api_key: ")
