"""Names of pools that scale from zero: one name means one model, whoever says so first. Real Valkey, real api."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog

from broker.adapters import Adapters
from broker.catalogue import Catalogue
from broker.db.errors import RegistrationRefusedError
from broker.declared import DeclaredPools
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from broker.settings import BrokerSettings
from jobs.declared import DeclaredPool
from tests.adapters import add, an_adapter
from tests.apiserver import ApiServer
from tests.integration.test_declared_pools import accepted, body, declare
from tests.processes import WorkerProcess
from tests.puppet import Puppet
from tests.support import eventually
from workers.engines.base import EngineStartError
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.engine import SimulatedEngine
from workers.process.registration import register

pytestmark = pytest.mark.asyncio


@pytest.fixture
def puppet(store: JobStore) -> Puppet:
    """A worker of the pool ``chat`` that is not there yet."""
    return Puppet(store, "late-1", "chat")


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[SimulatedEngine]:
    engine = SimulatedEngine(SimulatedSettings())
    await engine.start()
    yield engine
    await engine.stop()


async def test_of_two_declarations_at_once_one_gets_the_alias(store) -> None:
    declared = DeclaredPools(store)
    for turn in range(20):
        pools = [
            DeclaredPool(pool=f"{turn}-{n}", model=f"{turn}-m{n}", aliases=(f"{turn}",)) for n in range(4)
        ]
        answers = await asyncio.gather(*(declared.put(one) for one in pools))
        assert sorted(one.kind for one in answers) == ["changed", "name", "name", "name"]
        (winner,) = (pool for pool, one in zip(pools, answers, strict=True) if one.kind == "changed")
        assert {(one.pool, one.model) for one in answers if one.kind == "name"} == {
            (winner.pool, winner.model)
        }
    assert len(await declared.all()) == 20


async def test_a_name_of_a_pool_that_is_gone_can_be_taken(http, store) -> None:
    old = Puppet(store, "old-1", "old")
    await old.live("before", aliases=["quick"])
    names: dict[str, Any] = {"model": "m", "aliases": ["before", "quick"]}
    assert "force" not in (await declare(http, status=409, **names))["error"]["message"]
    assert (await declare(http, status=409, force=True, **names))["error"]["code"] == "name_taken"
    await store.bury(old.name)
    assert "`force` takes the name" in (await declare(http, status=409, **names))["error"]["message"]
    await declare(http, force=True, **names)
    for name in ("before", "quick"):
        assert (await accepted(http, name) or {}).get("pool") == "chat"
    listed = {one["id"]: one.get("root") for one in (await http.get("/v1/models")).json()["data"]}
    assert listed == {"m": None, "before": "m", "quick": "m"}


async def test_a_live_alias_comes_before_the_name_of_a_model_that_is_gone(http, store, puppet) -> None:
    old = Puppet(store, "old-1", "old")
    await old.live("before")
    await store.bury(old.name)
    await puppet.live("m", aliases=["before"])

    async def goes_to(pool: str) -> bool:
        return (await accepted(http, "before") or {}).get("pool") == pool

    await eventually(lambda: goes_to("chat"))
    await store.bury(puppet.name)
    await eventually(lambda: goes_to("old"))  # nobody takes calls: a model's own name comes first


async def test_versions_of_a_pool_may_have_the_names_of_the_one_before(http, store) -> None:
    await declare(http)
    new = Puppet(store, "new-1", "chat-v2")
    await new.live("m2", aliases=["m", "fast"], version_of="chat")
    rollouts = Rollouts(store)
    before = await rollouts.get("chat")
    assert await rollouts.write(before, before.switch("chat-v2"), flip=True)
    await declare(http, "chat-v2", model="m2", aliases=["m", "fast"])
    assert (await declare(http, "other", 409, model="x", aliases=["m"]))["error"]["code"] == "name_taken"


async def test_no_worker_takes_a_name_of_another_declared_pool(store) -> None:
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="m", aliases=("fast",)))
    for model, aliases in (("x", ["fast"]), ("fast", []), ("x", ["m"])):
        with pytest.raises(RegistrationRefusedError, match="in the pool 'chat', which is declared") as caught:
            await Puppet(store, "w", "other").live(model, aliases=aliases)
        assert caught.value.worker is None
    assert await store.models() == []
    await Puppet(store, "same", "other").live("m", aliases=["fast"])  # the same meaning
    await Puppet(store, "its-own", "chat").live("another", aliases=["fast2"])


async def test_no_adapter_takes_a_name_of_another_declared_pool(store) -> None:
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="m", aliases=("fast",)))
    await Puppet(store, "w", "other").live("base")
    assert await add(Adapters(store), an_adapter("fast", pool="other")) == "alias"
    assert await add(Adapters(store), an_adapter("m", pool="other")) == "model"


async def test_a_worker_waits_for_a_declaration_of_earlier_settings_to_go(
    store: JobStore, engine: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = DeclaredPools(store)
    await declared.take_over([DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True)])
    info = {"name": "w", "pool": "other", "models": ["simulated"]}
    waits = asyncio.create_task(register(store, "w", info, engine, ["fast"]))
    with structlog.testing.capture_logs() as logged:
        await eventually(lambda: any(one["event"] == "registration_waits" for one in logged))
    await declared.take_over([DeclaredPool(pool="chat", model="m", from_settings=True)])
    await asyncio.wait_for(waits, 10)
    assert [one["name"] for one in await store.models()] == ["simulated"]
    await store.bury("w")
    monkeypatch.setattr("workers.process.registration._DECLARATION_S", 0.0)
    await declared.take_over([DeclaredPool(pool="chat", model="m", aliases=("quick",), from_settings=True)])
    with pytest.raises(EngineStartError, match="'quick' means 'simulated' here, but 'm' in the pool 'chat'"):
        await register(store, "w", info, engine, ["quick"])


async def test_the_settings_take_no_name_of_an_operator_s_declaration(store) -> None:
    declared = DeclaredPools(store)
    await declared.put(DeclaredPool(pool="own", model="o", aliases=("fast",)))
    settings = [
        DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True),
        DeclaredPool(pool="more", model="n", from_settings=True),
    ]
    answer = await declared.take_over(settings)
    assert [(one.pool, one.name, one.model, one.declared) for one in answer.taken] == [
        ("chat", "fast", "o", "own")
    ]
    assert (answer.changed, answer.kept) == (["more"], [])
    await declared.remove("own")
    assert (await declared.take_over(settings)).changed == ["chat"]


async def test_the_settings_take_no_name_that_is_in_use(store, puppet) -> None:
    declared, rollouts = DeclaredPools(store), Rollouts(store)
    old = Puppet(store, "old-1", "old")
    await old.live("before", aliases=["fast"])
    assert await add(Adapters(store), an_adapter("sql", pool="old")) == "added"
    assert await rollouts.set_alias("quick", "before") == "changed"
    settings = [
        DeclaredPool(pool="adapter", model="a", aliases=("sql",), from_settings=True),
        DeclaredPool(pool="alias", model="quick", from_settings=True),
        DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True),
        DeclaredPool(pool="more", model="before", aliases=("fast",), from_settings=True),  # the same meaning
    ]
    for changed in (["more"], []):  # each start of an api process says the same
        answer = await declared.take_over(settings)
        assert sorted((one.pool, one.name, one.model, one.declared) for one in answer.taken) == [
            ("adapter", "sql", "sql", "old"),
            ("alias", "quick", "before", None),
            ("chat", "fast", "before", "old"),
        ]
        assert (answer.changed, answer.kept) == (changed, [])
    await Puppet(store, "old-2", "old").live("before", aliases=["fast"])
    await store.bury("old-1")
    await store.bury("old-2")
    settings.pop()
    answer = await declared.take_over(settings)  # the pool is gone, the alias is not
    assert [one.pool for one in answer.taken] == ["alias"]
    assert sorted(answer.changed) == ["adapter", "chat", "more"]


async def test_a_pool_of_the_settings_with_no_worker_keeps_its_adapters_names(store) -> None:
    declared = DeclaredPools(store)
    settings = [DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True)]
    await declared.take_over(settings)
    chat = Puppet(store, "chat-1", "chat")
    await chat.live("m", aliases=["fast"])
    assert await add(Adapters(store), an_adapter("sql", pool="chat")) == "added"
    await store.bury(chat.name)
    settings = [
        DeclaredPool(pool="chat", model="m", from_settings=True),
        DeclaredPool(pool="moved", model="n", aliases=("fast",), from_settings=True),
        DeclaredPool(pool="more", model="sql", from_settings=True),
    ]
    answer = await declared.take_over(settings)
    assert [(one.pool, one.name, one.declared) for one in answer.taken] == [("more", "sql", "chat")]
    assert sorted(answer.changed) == ["chat", "moved"]


@pytest.mark.parametrize("other", ["a", "z"])
async def test_an_alias_follows_the_declaration_not_the_pool_s_last_worker(store, puppet, other) -> None:
    """Whichever pool is read first."""
    declared, catalogue = DeclaredPools(store), Catalogue(store)
    await declared.put(DeclaredPool(pool="chat", model="m"))
    await puppet.live("m", aliases=["quick", "m-old"])
    await store.bury(puppet.name)
    await Puppet(store, "other-1", other).live("n")
    assert (await declared.put(DeclaredPool(pool="chat", model="n", aliases=("quick",)))).kind == "changed"
    await catalogue.refresh()
    assert (catalogue.real_name("quick"), catalogue.real_name("m-old")) == ("n", "m")


@pytest.mark.parametrize("lives", [False, True])
async def test_a_name_follows_its_declaration_whatever_the_last_worker_of_another_pool_had(
    http, store, puppet, lives
) -> None:
    declared, moved = DeclaredPools(store), Puppet(store, "moved-1", "moved")
    settings = [
        DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True),
        DeclaredPool(pool="moved", model="n", from_settings=True),
    ]
    await declared.take_over(settings)
    await puppet.live("m", aliases=["fast", "its-own"])
    await moved.live("n")
    await store.bury(puppet.name)
    if not lives:
        await store.bury(moved.name)

    async def means(alias: str, model: str) -> bool:
        listed = (await http.get("/v1/models")).json()["data"]
        return {one["id"]: one.get("root") for one in listed}.get(alias) == model

    await eventually(lambda: means("fast", "m"))
    settings = [
        DeclaredPool(pool="chat", model="m", from_settings=True),
        DeclaredPool(pool="moved", model="n", aliases=("fast",), from_settings=True),
    ]
    assert (await declared.take_over(settings)).taken == []
    await eventually(lambda: means("fast", "n"))
    assert (await accepted(http, "fast") or {}).get("pool") == "moved"
    assert await means("its-own", "m")  # nobody else has it


async def test_an_alias_that_overrides_a_declared_one_ends_no_declaration(store) -> None:
    declared, rollouts = DeclaredPools(store), Rollouts(store)
    settings = [DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True)]
    await declared.put(DeclaredPool(pool="own", model="o", aliases=("quick",)))
    await declared.take_over(settings)
    for alias in ("fast", "quick"):
        assert await rollouts.set_alias(alias, "other") == "changed"
    answer = await declared.take_over(settings)
    assert (answer.changed, answer.taken) == ([], [])
    assert (
        await declared.put(DeclaredPool(pool="own", model="o", aliases=("quick",), slots=8))
    ).kind == "changed"
    assert (await declared.put(DeclaredPool(pool="own", model="o2", aliases=("quick",)))).kind == "name"


async def test_declarations_of_older_data_do_not_shut_each_other_s_workers_out(store) -> None:
    for pool, model in (("p", "a"), ("q", "b")):
        text = json.dumps({"pool": pool, "model": model, "aliases": ["x"]})
        await store.client.hset(store.keys("declared"), pool, text)
    for pool, model, other, its in (("p", "a", "q", "b"), ("q", "b", "p", "a")):
        worker = Puppet(store, f"{pool}-1", pool)
        with structlog.testing.capture_logs() as logged:
            await worker.live(model, aliases=["x"])
        assert [one for one in logged if one["event"] == "name_declared_twice"] == [
            {
                "event": "name_declared_twice",
                "log_level": "warning",
                "pool": pool,
                "name": "x",
                "model": its,
                "other": other,
            }
        ]
        version = Puppet(store, f"{pool}-2", f"{pool}-next")
        await version.live(model, aliases=["x"], version_of=pool)
        # What the pool does not declare, or not so, is refused as before.
        for place, serves, alias in ((pool, model, its), ("third", "c", its)):
            with pytest.raises(RegistrationRefusedError, match="which is declared"):
                await Puppet(store, "third", place).live(serves, aliases=[alias])
        await store.bury(worker.name)
        await store.bury(version.name)


async def test_another_model_is_refused_while_jobs_wait_for_the_first(http, puppet) -> None:
    await declare(http)
    job = (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()
    await declare(http, slots=8)  # the same model
    refused = (await declare(http, status=409, model="n"))["error"]
    assert (refused["code"], refused["param"]) == ("jobs_waiting", "model")
    assert "1 jobs and 0 rows of batches wait in the pool 'chat' for 'm'" in refused["message"]
    assert (await declare(http, model="n", force=True))["model"] == "n"
    await puppet.live("n")
    claim = await puppet.take()
    assert claim.id == job["id"]  # its worker answers that it does not serve the model
    await puppet.succeed(claim)
    await declare(http, model="m")


async def test_a_forced_change_ends_the_jobs_of_the_model_before(
    http: httpx.AsyncClient, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    await declare(http)
    job = (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()
    await declare(http, model="simulated", force=True)
    worker = WorkerProcess(broker_settings, tmp_path / "log", pool="chat")
    try:
        ended = (await http.get(f"/v1/jobs/{job['id']}", params={"wait": 30})).json()
    finally:
        worker.close()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "model_not_found")


async def test_a_stored_declaration_that_cannot_be_read_stops_nothing(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared, file = DeclaredPools(store), tmp_path / "penstock.toml"
    await declared.put(DeclaredPool(pool="good", model="g"))
    bad = {"chat": "{", "slots": '{"pool": "slots", "model": "s", "slots": "many"}', "none": "null"}
    for pool, text in bad.items():
        await store.client.hset(store.keys("declared"), pool, text)
    file.write_text('[pools.chat]\nmodel = "m"\nscales_from_zero = true')
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(file))
    await Puppet(store, "w", "other").live("x")
    with ApiServer(broker_settings) as server:
        async with server.client() as client:
            assert (await client.get("/health/ready")).status_code == 200
            listed = [one["id"] for one in (await client.get("/v1/admin/pools")).json()["data"]]
            assert listed == ["chat", "good"]  # the settings' own is declared anew
            await declare(client, "slots", model="s", aliases=[])
            asked = {"model": "s", "input": body(model="s")}
            assert (await client.post("/v1/jobs", json=asked)).status_code == 202
            assert (await client.delete("/v1/admin/pools/none")).status_code == 404


async def test_an_alias_of_a_declared_pool_is_not_that_of_a_pool_that_is_gone(http, store, puppet) -> None:
    gone = Puppet(store, "old-1", "old")
    await gone.live("before", aliases=["fast"])
    await store.bury(gone.name)
    await puppet.live("m")
    await store.bury(puppet.name)
    await DeclaredPools(store).take_over(
        [DeclaredPool(pool="chat", model="m", aliases=("fast",), from_settings=True)]
    )

    async def goes_to_chat() -> bool:  # the api may know of the old pool, and not yet of the declaration
        return (await accepted(http, "fast") or {}).get("pool") == "chat"

    await eventually(goes_to_chat)
