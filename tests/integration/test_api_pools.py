"""Which pool a request goes to, by model, alias, default and placement: a real api, and workers on strings."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from broker.catalogue import Catalogue
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.pictures import data_uri, picture, shows
from tests.puppet import FACTS, Puppet

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
H100 = {"device": "NVIDIA H100 80GB HBM3", "devices": 1, "device_memory_bytes": 85_520_809_984}
L4: dict[str, Any] = {"device": "NVIDIA L4", "devices": 2, "device_memory_bytes": 48_305_799_168}


@pytest.fixture
def api(broker_settings):
    with ApiServer(broker_settings, default_model="fast", catalogue_refresh_s=30.0) as server:
        yield server


@pytest_asyncio.fixture
async def fleet(store: JobStore, api: ApiServer) -> dict[str, Puppet]:
    """The model ``m`` in two pools, the model ``n`` in a third."""
    big, small, other = (
        Puppet(store, "big-1", "big"),
        Puppet(store, "small-1", "small"),
        Puppet(store, "o-1", "other"),
    )
    await big.live("m", aliases=["fast"], facts=FACTS | H100, capacity=4, **H100)
    await small.live("m", aliases=["fast"], facts=FACTS | L4 | {"max_model_len": 20}, capacity=8, **L4)
    await other.live("n", facts=FACTS | {"device": "cpu", "device_memory_bytes": 8 * 10**9}, capacity=4)
    return {"big": big, "small": small, "other": other}


async def submit(http: httpx.AsyncClient, status: int = 202, **fields: Any) -> dict[str, Any]:
    got = await http.post("/v1/jobs", json={"input": {"messages": MESSAGES}, **fields})
    assert got.status_code == status, got.text
    return got.json()


async def test_each_model_has_its_pool(http, fleet) -> None:
    job = await submit(http, model="n")
    assert (job["model"], job["pool"]) == ("n", "other")
    assert (await fleet["other"].take()).id == job["id"]


async def test_the_freest_pool_gets_the_job_and_many_at_once_are_spread(http, fleet) -> None:
    pools = [(await submit(http, model="m"))["pool"] for _ in range(8)]
    # 8 slots in one and 4 in the other; all between two looks at Redis.
    assert pools[:5] == ["small", "small", "small", "small", "big"]
    assert sorted(pools) == ["big"] * 2 + ["small"] * 6


async def test_what_waits_and_runs_counts(http, fleet) -> None:
    for _ in range(6):
        await submit(http, model="m", placement={"device": "l4"})
    await look(http)
    assert (await submit(http, model="m"))["pool"] == "big"
    for _ in range(6):
        await fleet["small"].take()
    await look(http)
    assert (await submit(http, model="m"))["pool"] == "big"


async def look(http: httpx.AsyncClient) -> None:
    """Have the api look at Redis now, as it does for a model that it does not know."""
    await submit(http, 404, model="nobody's")


async def test_a_paused_pool_gets_what_no_other_can_do(http, fleet, store) -> None:
    await store.pause("small", paused=True)
    await look(http)
    assert [(await submit(http, model="m"))["pool"] for _ in range(5)] == ["big"] * 5
    assert (await submit(http, model="m", placement={"device": "l4"}))["pool"] == "small"


@pytest.mark.parametrize(
    ("placement", "pool"),
    [
        ({"device": "h100"}, "big"),
        ({"device": "L4"}, "small"),
        ({"min_memory_gb": 40}, "small"),
        ({"min_memory_gb": 50}, "big"),
        ({"device": "nvidia", "min_memory_gb": 85}, "big"),
    ],
)
async def test_a_placement_chooses_the_pool(http, fleet, placement, pool) -> None:
    job = await submit(http, model="fast", placement=placement)
    assert (job["pool"], job["model"]) == (pool, "m")
    assert (await fleet[pool].take()).id == job["id"]


@pytest.mark.parametrize(("said", "status"), [("image/jpeg", 202), ("image/png", 400)])
async def test_a_picture_is_decoded_once_whatever_pools_its_model_has(
    http, fleet, monkeypatch: pytest.MonkeyPatch, said: str, status: int
) -> None:
    decoded = []
    convert = msgspec.convert

    def counted(data: Any, kind: Any) -> Any:
        if kind is bytes:
            decoded.append(data)
        return convert(data, kind)

    monkeypatch.setattr("api.admission.media.msgspec.convert", counted)
    asked = {"messages": shows(data_uri(picture(form="JPEG"), said))}
    await submit(http, status, model="m", input=asked)
    assert len(decoded) == 1


async def test_a_placement_that_nobody_meets_is_told_what_there_is(http, fleet) -> None:
    got = await submit(http, 400, model="m", placement={"device": "b200", "min_memory_gb": 150})
    error = got["error"]
    assert (error["code"], error["param"], error["type"]) == (
        "no_such_device",
        "placement",
        "invalid_request_error",
    )
    assert error["message"] == (
        "no pool that serves the model 'm' has a device like 'b200' with at least 150 GB of device memory; "
        "its pools have big: NVIDIA H100 80GB HBM3, 85.5 GB; small: 2 x NVIDIA L4, 48.3 GB"
    )
    assert (await submit(http, 404, model="zzz", placement={"device": "b200"}))["error"][
        "code"
    ] == "model_not_found"


@pytest.mark.parametrize(
    "placement",
    [{}, {"device": ""}, {"device": "--"}, {"gpu": 1}, {"min_memory_gb": 0}, {"device": 5}, "h100"],
)
async def test_a_placement_that_means_nothing_is_refused(http, fleet, placement) -> None:
    error = (await submit(http, 400, model="m", placement=placement))["error"]
    assert error["param"] == "placement"


async def test_a_placement_is_part_of_what_an_idempotency_key_stands_for(http, fleet) -> None:
    async def send(**fields: Any) -> int:
        body = {"input": {"messages": MESSAGES}, "model": "m", **fields}
        return (await http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})).status_code

    assert await send(placement={"device": "l4"}) == 202
    assert await send(placement={"device": "L4"}) == 409
    assert await send(placement={"device": "l4"}) == 202
    assert await send() == 409


async def test_a_live_pool_comes_before_a_dead_one_and_a_dead_one_is_known_by_its_last_device(
    http, fleet, store
) -> None:
    await store.bury("small-1")
    await store.bury("big-1")
    await look(http)
    assert (await submit(http, model="m"))["pool"] == "big"  # by name
    assert (await submit(http, model="m", placement={"device": "l4"}))["pool"] == "small"
    await Puppet(store, "small-2", "small").live("m", facts=FACTS | L4, capacity=1, **L4)
    await look(http)
    assert (await submit(http, model="m"))["pool"] == "small"


async def test_what_one_pool_cannot_do_another_may(http, fleet) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 60}]}  # at least 75 tokens
    job = await submit(http, model="m", input=long)
    assert job["pool"] == "big"  # although the other has more room: its context has 20 tokens
    error = (await submit(http, 400, model="m", input=long, placement={"device": "l4"}))["error"]
    assert error["code"] == "context_length_exceeded"


async def test_an_alias_becomes_the_real_name_on_its_way(http, fleet) -> None:
    job = await submit(http, model="fast")
    claim = await fleet[job["pool"]].take()
    assert claim.model == "m"
    assert claim.body == b'{"messages":[{"role":"user","content":"hi"}],"model":"m"}'
    listed = (await http.get("/v1/jobs", params={"model": "fast"})).json()["data"]
    assert [one["id"] for one in listed] == [job["id"]]


async def test_an_openai_call_by_alias_and_one_without_a_model(http, fleet) -> None:
    raw = b'{"messages": [{"role":"user", "content":"caf\\u00e9"}], "model": "fast", "temperature": 1.50}'
    for body in (raw, raw.replace(b', "model": "fast"', b"")):
        asked = asyncio.create_task(http.post(CHAT, content=body))
        claim = await fleet["small"].take()
        assert claim.model == "m"
        assert b'"model":"m"' in claim.body
        assert b'"content":"caf\\u00e9"}]' in claim.body
        assert b"1.50" in claim.body  # to the letter, the model aside
        await fleet["small"].succeed(claim, b'{"model":"m"}')
        assert (await asked).json() == {"model": "m"}  # as the engine says


async def test_models_are_listed_with_their_aliases_the_default_first(http, fleet) -> None:
    await look(http)
    cards = (await http.get("/v1/models")).json()["data"]
    assert [(card["id"], card.get("root")) for card in cards] == [("fast", "m"), ("m", None), ("n", None)]
    assert (await http.get("/v1/models/fast")).json()["root"] == "m"


async def test_a_default_that_nobody_serves_is_said_to_be_the_servers(broker_settings, store) -> None:
    await Puppet(store, "o-1", "other").live("n")
    with ApiServer(broker_settings, default_model="gone") as server:
        async with server.client() as http:
            got = await http.post(CHAT, json={"messages": MESSAGES})
    assert got.status_code == 404
    assert got.json()["error"]["message"].startswith("the default model (setting default_model) 'gone'")


async def test_workers_say_what_they_run_on(http, fleet) -> None:
    listed = {worker["id"]: worker for worker in (await http.get("/v1/workers")).json()["data"]}
    small = listed["small-1"]
    assert (small["device"], small["devices"], small["device_memory_bytes"]) == tuple(L4.values())


async def test_before_the_first_worker_has_registered_callers_are_told_to_come_again(
    broker_settings: BrokerSettings,
) -> None:
    with ApiServer(broker_settings) as api:
        async with api.client() as client:
            call = {"model": "m", "messages": MESSAGES}
            for path, body in ((CHAT, call), ("/v1/jobs", {"input": call})):
                got = await client.post(path, json=body)
                assert (got.status_code, got.json()["error"]["code"]) == (503, "no_worker"), got.text
                assert int(got.headers["retry-after"]) >= 1


class Registering(JobStore):
    """A store at which a worker registers just before its live workers are read."""

    newcomer: Puppet | None = None

    async def workers(self, *, ended: bool = False) -> list[dict[str, Any]]:
        if self.newcomer is not None:
            await self.newcomer.live("late")
        return await super().workers(ended=ended)


async def test_the_models_of_every_worker_that_is_seen_are_known(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    view = Registering(store.client, broker_settings)
    view.newcomer = Puppet(store, "late-1", "late")
    catalogue = Catalogue(view)
    await catalogue.refresh()
    assert [worker["name"] for worker in catalogue.alive] == ["late-1"]
    assert [name for name, _ in catalogue.listed()] == ["late"]
