"""OpenAI's service tiers, and the names of end users."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from api.admission.end_users import digest_of
from broker.access import AccessStore
from broker.jobs import JobStore
from broker.registry import Runs
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.model import JobSpec
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import new_id

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
TENANT = "/v1/admin/tenants/default"


@pytest_asyncio.fixture
async def http(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client
        await client.delete(TENANT)


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("asked", "lane", "told"),
    [
        ("auto", "realtime", "default"),
        ("default", "realtime", "default"),
        ("priority", "realtime", "priority"),
        ("flex", "low", "flex"),
    ],
)
async def test_a_tier_chooses_the_lane_and_is_told(
    http: httpx.AsyncClient, puppet: Puppet, asked: str, lane: str, told: str
) -> None:
    call = asyncio.create_task(http.post(CHAT, json=BODY | {"service_tier": asked}))
    claim = await puppet.take()
    assert claim.lane == lane
    await puppet.succeed(claim, b'{"id":"x","service_tier":null}')
    assert (await call).json() == {"id": "x", "service_tier": told}


async def test_an_answer_to_a_call_without_a_tier_keeps_its_bytes(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    call = asyncio.create_task(http.post(CHAT, json=BODY | {"service_tier": None}))
    await puppet.succeed(await puppet.take(), b'{"service_tier" : null}')
    assert (await call).content == b'{"service_tier" : null}'


@pytest.mark.parametrize("tier", ["fast", "", 7, ["flex"]])
async def test_other_tiers_are_refused(http: httpx.AsyncClient, puppet: Puppet, tier: object) -> None:
    got = await http.post(CHAT, json=BODY | {"service_tier": tier})
    assert refused(got) == (400, "invalid_value")
    assert got.json()["error"]["param"] == "service_tier"
    assert await puppet.waiting() == 0


async def test_tiers_are_rights_of_tenants(http: httpx.AsyncClient, puppet: Puppet) -> None:
    assert (await http.patch(TENANT, json={"lanes": ["realtime", "normal"]})).status_code == 200
    for tier, param in (("priority", "service_tier"), ("flex", "priority")):
        got = await http.post(CHAT, json=BODY | {"service_tier": tier})
        assert refused(got) == (403, "lane_not_allowed")
        assert got.json()["error"]["param"] == param
    await http.patch(TENANT, json={"lanes": ["low"]})
    assert refused(await http.post(CHAT, json=BODY)) == (403, "lane_not_allowed")
    call = asyncio.create_task(http.post(CHAT, json=BODY | {"service_tier": "flex"}))
    await puppet.succeed(await puppet.take())
    assert (await call).status_code == 200


async def test_flex_is_refused_while_others_wait(broker_settings: BrokerSettings, store: JobStore) -> None:
    puppet = Puppet(store)
    await puppet.live(capacity=1)
    said = {"name": puppet.name, "pool": puppet.pool, "models": [MODEL], "capacity": 1}
    await store.heartbeat(puppet.name, info=said, run=Runs(7_000, 1))
    await store.accept(JobSpec(new_id(), CHAT, MODEL, b"{}", lane=Lane.HIGH))
    busy = await puppet.take()
    settings: list[dict[str, Any]] = [
        {"queue_timeout_s": 0.2, "reap_interval_s": 0.05},
        {"queue_mode": "reject"},
        {"queue_timeout_s": 1, "infeasible_deadline": "refuse"},
    ]
    for given in settings:
        with ApiServer(broker_settings, **given) as api:
            async with api.client() as client:
                for stream in (False, True):
                    got = await client.post(CHAT, json=BODY | {"service_tier": "flex", "stream": stream})
                    assert refused(got) == (429, "resource_unavailable")
                    assert got.json()["error"]["type"] == "rate_limit_error"
                    assert int(got.headers["retry-after"]) >= 1
    await puppet.succeed(busy)


async def test_no_record_has_a_safety_identifier_in_clear(http: httpx.AsyncClient, puppet: Puppet) -> None:
    found = []
    for name in ("ann@example.com", "ann@example.com", "bob@example.com"):
        call = asyncio.create_task(http.post(CHAT, json=BODY | {"safety_identifier": name, "user": "u"}))
        claim = await puppet.take()
        await puppet.succeed(claim)
        assert (await call).status_code == 200
        sent = json.loads(claim.body)
        job = (await http.get(f"/v1/jobs/{claim.id}")).json()
        assert job["metadata"] == {"safety_identifier": sent["safety_identifier"]}
        assert sent == BODY | {"safety_identifier": sent["safety_identifier"], "user": "u"}
        assert "@" not in sent["safety_identifier"]
        found.append(sent["safety_identifier"])
    assert found[0] == found[1] != found[2]


async def test_without_a_pepper_all_apis_digest_under_one_random_key(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    digests = []
    for _ in range(2):
        with ApiServer(broker_settings) as api:
            async with api.client() as client:
                call = asyncio.create_task(client.post(CHAT, json=BODY | {"safety_identifier": "ann"}))
                claim = await puppet.take()
                await puppet.succeed(claim)
                assert (await call).status_code == 200
        digests.append(json.loads(claim.body)["safety_identifier"])
    access = AccessStore(puppet.store)
    key = await access.user_key(b"another")
    assert len(key) == 32
    assert digests == [digest_of(key, "default", "ann")] * 2
    await puppet.store.client.hdel(puppet.store.keys("access"), "user_key")
    assert await access.user_key(b"another") == b"another"


async def test_a_user_is_noted_as_a_digest_and_goes_to_the_engine(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    raw = json.dumps(BODY | {"user": "ann@example.com"}).encode()
    call = asyncio.create_task(http.post(CHAT, content=raw))
    claim = await puppet.take()
    await puppet.succeed(claim)
    await call
    assert claim.body == raw
    digest = (await http.get(f"/v1/jobs/{claim.id}")).json()["metadata"]["safety_identifier"]
    call = asyncio.create_task(http.post(CHAT, json=BODY | {"safety_identifier": "ann@example.com"}))
    claim = await puppet.take()
    await puppet.succeed(claim)
    await call
    assert json.loads(claim.body)["safety_identifier"] == digest


async def test_a_job_keeps_its_own_note_of_an_end_user(http: httpx.AsyncClient, puppet: Puppet) -> None:
    full = {f"k{n}": "v" for n in range(16)}
    for metadata in ({"safety_identifier": "mine"}, full):
        body = {"input": BODY | {"safety_identifier": "ann"}, "metadata": metadata}
        made = (await http.post("/v1/jobs", json=body)).json()
        assert made["metadata"] == metadata
        assert b'"ann"' not in (await puppet.take()).body
