"""LoRA adapters as data: declared for a pool, listed once a worker has them, gone when they are removed."""

from __future__ import annotations

import msgspec
import pytest

from broker.adapters import Adapters
from broker.jobs import JobStore
from jobs.access import Actor
from jobs.adapters import AdapterState
from tests.adapters import add, an_adapter
from tests.puppet import FACTS, MODEL, Puppet

pytestmark = pytest.mark.asyncio

BY = Actor("abcdefabcdef", "default")


@pytest.fixture
def adapters(store: JobStore) -> Adapters:
    return Adapters(store)


async def trash(store: JobStore) -> set[bytes | str]:
    return set(await store.client.smembers(store.keys("files_trash")))


async def announced(store: JobStore) -> int:
    return await store.client.zcard(store.keys("files_announced"))


async def row(store: JobStore, name: str = "sql") -> dict:
    (found,) = [one for one in await store.models() if one["name"] == name]
    return found


async def test_an_adapter_is_declared_once_and_replaced_by_other_files(
    adapters: Adapters, store: JobStore
) -> None:
    assert await adapters.version("default") is None
    await Puppet(store).live()
    assert await add(adapters, an_adapter(), by=BY) == "added"
    first = await adapters.version("default")
    (kept,) = await adapters.of("default")
    assert kept.created_ms > 0
    assert msgspec.structs.replace(kept, created_ms=0) == an_adapter()
    assert (await adapters.add(an_adapter(), "one", 10)).kind == "added"  # the call went out twice
    again = msgspec.structs.replace(an_adapter(), key="adapters/default/again")
    assert await add(adapters, again) == "same"
    assert await trash(store) == {"adapters/default/again"}
    assert await adapters.version("default") == first
    assert await adapters.pin("default", "sql", by=BY)
    assert await add(adapters, an_adapter(digest="d2"), by=BY) == "replaced"
    assert await trash(store) == {"adapters/default/again", "adapters/default/sql-d1"}
    assert await announced(store) == 0
    now = await adapters.get("default", "sql")
    assert now is not None
    assert now.pinned
    assert now.digest == "d2"
    assert await adapters.version("default") > first
    assert await adapters.remove("default", "sql", by=BY)
    assert not await adapters.remove("default", "sql", by=BY)
    assert await adapters.of("default") == []
    assert "adapters/default/sql-d2" in await trash(store)
    acts = [entry["what"] for _, entry in await store.client.xrange(store.keys("audit"))]
    assert acts == ["adapter.add", "adapter.pin", "adapter.replace", "adapter.remove"]


async def test_a_name_is_nobody_elses_and_a_pool_has_a_bound(adapters: Adapters, store: JobStore) -> None:
    await Puppet(store).live(aliases=["gpt-4o"])
    await Puppet(store, "other", "b").live()
    assert await add(adapters, an_adapter(MODEL)) == "model"
    assert await add(adapters, an_adapter("gpt-4o")) == "alias"
    assert await add(adapters, an_adapter(), most=1) == "added"
    assert await add(adapters, an_adapter("more"), most=1) == "full"
    assert await add(adapters, an_adapter(pool="b", digest="d2")) == "other"
    assert await add(adapters, an_adapter(pool="b")) == "added"
    assert [(one.pool, one.name) for one in await adapters.all()] == [("b", "sql"), ("default", "sql")]
    assert await announced(store) == 0


async def test_settings_are_taken_over_once_for_each_source(adapters: Adapters, store: JobStore) -> None:
    await Puppet(store).live()
    assert await adapters.taken_over("default", "sql") is None
    assert await add(adapters, an_adapter(), once=True) == "added"
    assert await adapters.taken_over("default", "sql") == "a folder"
    await adapters.remove("default", "sql")
    assert await add(adapters, an_adapter(digest="d2"), once=True) == "skipped"
    moved = msgspec.structs.replace(an_adapter(digest="d3"), source="another folder")
    assert await add(adapters, moved, once=True) == "added"


async def test_a_model_as_soon_as_one_worker_has_it(adapters: Adapters, store: JobStore) -> None:
    facts = FACTS | {"capabilities": {"tasks": ["generate"], "adapters": 4}}
    one, two = Puppet(store, "one"), Puppet(store, "two")
    await one.live(facts=facts)
    await add(adapters, an_adapter(tenant="acme"))
    (known,) = await adapters.of("default")
    found = await row(store)
    assert found["adapter"] == {"digest": "d1", "tenant": "acme"}
    assert found["max_model_len"] == 100
    assert found["capabilities"] == {"tasks": ["generate"], "adapter_of": MODEL}
    assert found["card"]["parent"] == MODEL
    assert await adapters.loaded("one", known)
    assert (await row(store))["adapter"]["ready"] is True
    assert (await row(store))["created"] > 0
    # A worker that registers forgets earlier models, but no declared adapters.
    await two.live(facts=facts)
    assert (await row(store))["adapter"]["ready"] is True
    reports = await adapters.reports(["one", "two"])
    assert reports["two"] == {}
    assert reports["one"]["sql"].state is AdapterState.LOADED
    await adapters.remove("default", "sql")
    assert [one["name"] for one in await store.models()] == [MODEL]
    assert not await adapters.stored("one", known)  # it was removed meanwhile
    assert (await adapters.reports(["one"]))["one"] == {}


async def test_broken_once_every_live_worker_has_failed(adapters: Adapters, store: JobStore) -> None:
    await Puppet(store, "one").live()
    await Puppet(store, "two").live()
    await add(adapters, an_adapter())
    (known,) = await adapters.of("default")
    await adapters.failed("one", known, "its rank is 16")
    assert (await row(store))["adapter"] == {"digest": "d1"}
    await adapters.failed("two", known, "its rank is 16")
    assert (await row(store))["adapter"] == {"digest": "d1", "broken": "its rank is 16"}
    again = msgspec.structs.replace(an_adapter(), key="adapters/default/again")
    assert await add(adapters, again) == "replaced"  # the object may be what was wrong
    assert (await row(store))["adapter"] == {"digest": "d1"}
    assert await trash(store) == {an_adapter().key}
    await adapters.stored("two", known)
    assert (await row(store))["adapter"] == {"digest": "d1", "ready": True}
    await add(adapters, an_adapter(digest="d2"))
    assert (await row(store))["adapter"] == {"digest": "d2", "ready": True}
    assert not await adapters.failed("one", known, "late")
    await adapters.dropped("two", "sql")
    assert await adapters.reports(["one", "two"]) == {"one": {}, "two": {}}


async def test_what_a_worker_said_goes_with_it(adapters: Adapters, store: JobStore) -> None:
    await Puppet(store, "one").live()
    await add(adapters, an_adapter())
    (known,) = await adapters.of("default")
    await adapters.loaded("one", known)
    beat = await store.heartbeat("one", info={"name": "one", "pool": "default"})
    assert beat.adapters == await adapters.version("default")
    await store.bury("one")
    assert await adapters.reports(["one"]) == {"one": {}}


async def test_a_pool_whose_workers_take_no_adapters_says_so(adapters: Adapters, store: JobStore) -> None:
    await Puppet(store, "one").live(facts=FACTS | {"capabilities": {"adapters": 0}})
    await add(adapters, an_adapter())
    offered = (await row(store))["adapter"]
    assert not offered["ready"]
    assert "adapters_max" in offered["broken"]
