"""What a tenant may do over HTTP: its lanes, its models, its state, its quotas; and that a change is felt at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tenants import TenantStore
from jobs.ids import FILE_PREFIX, make_id
from jobs.model import Usage
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
JOB: dict[str, Any] = {"endpoint": CHAT, "input": BODY}
TENANT = "/v1/admin/tenants/default"


@pytest_asyncio.fixture
async def http(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client
        await client.delete(TENANT)


async def given(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Set the tenant of all callers here."""
    answer = await http.patch(TENANT, json=fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_tenant_is_set_looked_at_and_reset(http: httpx.AsyncClient) -> None:
    fields = {
        "state": "active",
        "weight": 2.5,
        "models": [MODEL],
        "lanes": ["low", "bulk"],
        "tokens_per_day": 7,
        "retention_s": 0,
    }
    made = (await http.put("/v1/admin/tenants/acme", json=fields)).json()
    assert {name: made[name] for name in fields} == fields
    assert (made["id"], made["queue_max"]) == ("acme", None)
    assert made["used"] == {"tokens_today": 0, "storage_bytes": 0, "batches_open": 0}
    changed = (await http.patch("/v1/admin/tenants/acme", json={"models": None, "weight": 3})).json()
    assert (changed["models"], changed["weight"], changed["tokens_per_day"]) == (None, 3, 7)
    assert (await http.get("/v1/admin/tenants/acme")).json() == changed
    (listed,) = (await http.get("/v1/admin/tenants")).json()["data"]
    assert listed == changed | {"used": None}
    replaced = (await http.put("/v1/admin/tenants/acme", json={"queue_max": 5})).json()
    assert (replaced["queue_max"], replaced["weight"], replaced["lanes"]) == (5, 1, None)
    reset = (await http.delete("/v1/admin/tenants/acme")).json()
    assert reset["queue_max"] is None
    assert (await http.get("/v1/admin/tenants")).json()["data"] == []


@pytest.mark.parametrize(
    "fields",
    [{"weight": 0}, {"lanes": ["fast"]}, {"lanes": []}, {"tokens_per_day": 0}, {"rpm": 5}, {"state": "gone"}],
)
async def test_wrong_fields_are_named(http: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    answer = await http.patch("/v1/admin/tenants/acme", json=fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in fields
    assert (await http.get("/v1/admin/tenants")).json()["data"] == []


async def test_without_the_lane_realtime_there_are_no_calls(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await given(http, lanes=["low", "bulk"])
    assert refused(await http.post(CHAT, json=BODY)) == (403, "lane_not_allowed")
    assert refused(await http.post("/v1/jobs", json=JOB)) == (403, "lane_not_allowed")
    accepted = await http.post("/v1/jobs", json=JOB | {"priority": "low"})
    assert accepted.status_code == 202
    asked = {
        "input_file_id": make_id(FILE_PREFIX, 1, bytes(10)),
        "endpoint": CHAT,
        "completion_window": "24h",
        "priority": "high",
    }
    assert refused(await http.post("/v1/batches", json=asked)) == (403, "lane_not_allowed")


async def test_another_s_model_does_not_exist(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await puppet.live(aliases=["pet"])
    await given(http, models=["else"])
    assert refused(await http.post(CHAT, json=BODY)) == (404, "model_not_found")
    assert (await http.get("/v1/models")).json()["data"] == []
    assert refused(await http.get(f"/v1/models/{MODEL}")) == (404, "model_not_found")
    await given(http, models=["pet"])  # an alias stands for its model
    assert (await http.post("/v1/jobs", json=JOB)).status_code == 202
    assert {one["id"] for one in (await http.get("/v1/models")).json()["data"]} == {MODEL, "pet"}


async def test_a_right_may_name_an_alias_that_the_api_has_not_read_yet(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    assert (
        await http.post("/v1/jobs", json=JOB)
    ).status_code == 202  # now it knows the model, without the alias
    await puppet.live(aliases=["new"])
    await given(http, models=["new"])

    async def taken() -> bool:
        return (await http.post("/v1/jobs", json=JOB)).status_code == 202

    await eventually(taken)  # as after any miss


async def test_a_suspended_tenant_reads_and_submits_nothing(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job = (await http.post("/v1/jobs", json=JOB)).json()["id"]
    await given(http, state="suspended")
    assert refused(await http.post("/v1/jobs", json=JOB)) == (403, "tenant_suspended")
    assert refused(await http.post(CHAT, json=BODY)) == (403, "tenant_suspended")
    form: dict[str, Any] = {"files": {"file": ("x", b"{}")}, "data": {"purpose": "batch"}}
    assert refused(await http.post("/v1/files", **form)) == (403, "tenant_suspended")
    assert (await http.get(f"/v1/jobs/{job}")).json()["state"] == "queued"
    assert (await http.post(f"/v1/jobs/{job}/cancel")).json()["state"] == "cancelled"
    assert refused(await http.post(f"/v1/jobs/{job}/retry")) == (403, "tenant_suspended")


async def test_a_change_is_felt_by_another_api_without_a_restart(
    http: httpx.AsyncClient, broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    with ApiServer(broker_settings) as second:
        async with second.client() as other:
            assert (await other.post("/v1/jobs", json=JOB)).status_code == 202
            await given(http, state="suspended")

            async def felt() -> bool:
                return (await other.post("/v1/jobs", json=JOB)).status_code == 403

            await eventually(felt)


async def test_calls_say_what_is_left_of_the_minute(
    http: httpx.AsyncClient, api: ApiServer, puppet: Puppet
) -> None:
    assert not limits(await http.post("/v1/jobs", json=JOB))
    await puppet.take()
    await given(http, requests_per_minute=3, tokens_per_minute=1000)
    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    await puppet.succeed(await puppet.take(), b"{}", usage=Usage(1, 1, 2))
    said = limits(await asked)
    assert (said["limit-requests"], said["remaining-requests"], said["reset-requests"]) == ("3", "2", "20s")
    assert said["limit-tokens"] == "1000"
    assert 900 < int(said["remaining-tokens"]) < 1000
    accepted = await http.post("/v1/jobs", json=JOB, headers={"idempotency-key": "k"})
    assert limits(accepted)["remaining-requests"] == "1"
    again = await http.post("/v1/jobs", json=JOB, headers={"idempotency-key": "k"})
    assert limits(again)["remaining-requests"] == "1"
    client = openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0)
    async with client:
        create: Any = client.chat.completions.with_raw_response.create
        streamed = asyncio.create_task(create(stream=True, **BODY))
        await puppet.take()
        await puppet.succeed(await puppet.take(), b"{}")
        assert (await streamed).headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as error:
            await client.chat.completions.create(**BODY)
    assert (error.value.code, error.value.type) == ("rate_limit_exceeded", "requests")
    headers = error.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 20
    assert headers["x-ratelimit-remaining-requests"] == "0"


def limits(answer: httpx.Response) -> dict[str, str]:
    return {
        name.removeprefix("x-ratelimit-"): value
        for name, value in answer.headers.items()
        if name.startswith("x-ratelimit-")
    }


async def test_a_day_that_is_over_is_not_retried(
    http: httpx.AsyncClient, api: ApiServer, puppet: Puppet
) -> None:
    await given(http, tokens_per_day=5)
    answer = await http.post("/v1/jobs", json=JOB)
    assert refused(answer) == (429, "insufficient_quota")
    assert answer.json()["error"]["type"] == "insufficient_quota"
    assert (answer.headers["x-should-retry"], answer.headers.get("retry-after")) == ("false", None)
    before = await answered(http)
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none") as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**BODY)
    assert await answered(http) == before + 1


async def answered(http: httpx.AsyncClient) -> float:
    """Return how often this api has said that the quota is used up."""
    line = 'api_errors_total{code="insufficient_quota"} '
    text = (await http.get("/metrics")).text
    return float(text.partition(line)[2].partition("\n")[0])


async def test_a_call_that_hangs_up_gives_its_reservation_back(
    http: httpx.AsyncClient, api: ApiServer, store: JobStore, puppet: Puppet
) -> None:
    await given(http, tokens_per_day=1000)
    tenants = TenantStore(store)

    async def reserved() -> bool:
        return (await tenants.used("default")).tokens_today > 0

    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    await eventually(reserved)
    asked.cancel()

    async def given_back() -> bool:
        return not await reserved()

    await eventually(given_back)


def tenants_command(api: ApiServer, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock", "tenants", *words, "--url", api.url]
    return subprocess.run(command, check=False, text=True, capture_output=True)


async def test_the_command_sets_shows_lists_and_resets(http: httpx.AsyncClient, api: ApiServer) -> None:
    words = "--weight 3 --requests-per-minute 600 --lanes low,bulk --retention 7d --models m,n"
    made = await asyncio.to_thread(tenants_command, api, "set", "acme", *words.split(), "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["weight"], told["requests_per_minute"], told["retention_s"]) == (3, 600, 604_800)
    assert (told["lanes"], told["models"]) == (["low", "bulk"], ["m", "n"])
    changes = ("--requests-per-minute", "none", "--lanes", "all", "--tokens-per-day", "5000")
    assert (await asyncio.to_thread(tenants_command, api, "set", "acme", *changes)).returncode == 0
    shown = await asyncio.to_thread(tenants_command, api, "show", "acme", "--text")
    assert "5,000  (used 0)" in shown.stdout
    listed = await asyncio.to_thread(tenants_command, api, "list", "--json")
    one = json.loads(listed.stdout)
    assert (one["id"], one["requests_per_minute"], one["lanes"], one["weight"]) == ("acme", None, None, 3)
    assert "acme" in (await asyncio.to_thread(tenants_command, api, "list", "--text")).stdout
    assert (await asyncio.to_thread(tenants_command, api, "reset", "acme")).returncode == 0
    assert (await http.get("/v1/admin/tenants")).json()["data"] == []


@pytest.mark.parametrize("words", [(), ("--lanes", "fast"), ("--models", ","), ("--tokens-per-day", "-1")])
async def test_a_wrong_command_changes_nothing(
    http: httpx.AsyncClient, api: ApiServer, words: tuple[str, ...]
) -> None:
    assert (await asyncio.to_thread(tenants_command, api, "set", "acme", *words)).returncode == 2
    assert (await http.get("/v1/admin/tenants")).json()["data"] == []
