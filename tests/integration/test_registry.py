"""Workers that register: one pool, one set of models; one name, one meaning."""

from __future__ import annotations

import pytest

from broker.db.errors import RegistrationRefusedError
from broker.jobs import JobStore
from tests.puppet import FACTS, Puppet

pytestmark = pytest.mark.asyncio


async def refused(puppet: Puppet, *args, **kwargs) -> str:
    before = await puppet.store.models()
    with pytest.raises(RegistrationRefusedError) as caught:
        await puppet.live(*args, **kwargs)
    assert await puppet.store.models() == before
    assert puppet.name not in {worker["incarnation"] for worker in await puppet.store.workers()}
    return str(caught.value)


async def test_a_pools_workers_serve_the_same(store: JobStore) -> None:
    await Puppet(store, "one").live("m")
    await Puppet(store, "two").live("m")
    said = await refused(Puppet(store, "three"), "other")
    assert said.startswith(
        "the pool 'default' is served by the worker one, which serves 'm' (context of 100 tokens); this worker "
        "serves 'other' (context of 100 tokens)."
    )
    said = await refused(Puppet(store, "three"), "m", facts=FACTS | {"max_model_len": 50})
    assert "this worker serves 'm' (context of 50 tokens)" in said
    await Puppet(store, "three", "another").live("m", facts=FACTS | {"max_model_len": 50})
    assert [(m["pool"], m["max_model_len"]) for m in await store.models()] == [
        ("another", 50),
        ("default", 100),
    ]


async def test_with_no_live_worker_left_a_pool_may_serve_something_else(store: JobStore) -> None:
    await Puppet(store, "one").live("m")
    await store.bury("one")
    await Puppet(store, "two").live("other")
    assert [m["name"] for m in await store.models()] == ["other"]


async def test_a_worker_that_has_not_beaten_yet_has_no_slots_and_harms_no_other(store: JobStore) -> None:
    await store.register("late", {"name": "late@host", "pool": "default"}, {"m": {}}, {})
    await store.heartbeat("early", first=True, info={"name": "early@host", "pool": "default", "capacity": 3})
    (view,) = await store.queues(["default"])
    assert view.slots == 3


@pytest.mark.parametrize("buried", [True, False])
async def test_a_dead_workers_slots_are_forgotten_though_its_description_is_gone(
    store: JobStore, buried: bool
) -> None:
    """After a long outage of everything the lease is there, and the description has expired."""
    await store.heartbeat("dead", first=True, info={"name": "dead@host", "pool": "default", "capacity": 3})
    await store.client.sadd(store.keys("pools"), "default")  # its registration did
    await store.client.delete(store.keys("worker", "dead"))
    if buried:
        await store.bury("dead")
    else:
        await store.client.zadd(store.keys("leases"), {"dead": 1})
        await store.reap()
    (view,) = await store.queues(["default"])
    assert view.slots == 0


async def test_the_same_worker_may_say_it_twice(store: JobStore) -> None:
    """The client library sends a call again when the connection breaks before the answer."""
    await Puppet(store, "one").live("m")
    await Puppet(store, "one").live("other")
    assert [m["name"] for m in await store.models()] == ["other"]


async def test_a_name_means_one_model(store: JobStore) -> None:
    await Puppet(store, "one", "a").live("m", aliases=["gpt-4o"])
    await Puppet(store, "two", "b").live("m", aliases=["gpt-4o", "fast"])
    said = await refused(Puppet(store, "three", "c"), "n", aliases=["gpt-4o"])
    assert said.startswith("the name 'gpt-4o' means 'n' here, but 'm' at the worker ")
    assert " in the pool 'a'" in said or " in the pool 'b'" in said
    assert "the name 'fast' means 'fast' here, but 'm'" in await refused(Puppet(store, "three", "c"), "fast")
    assert "the name 'm' means 'n' here, but 'm'" in await refused(
        Puppet(store, "three", "c"), "n", aliases=["m"]
    )
    assert {m["pool"]: m["aliases"] for m in await store.models()} == {
        "a": ["gpt-4o"],
        "b": ["fast", "gpt-4o"],
    }


async def test_running_jobs_are_counted_now(store: JobStore) -> None:
    await Puppet(store, "one").live(running=5)
    assert [worker["running"] for worker in await store.workers()] == [0]


async def test_a_lease_ends_to_the_millisecond(store: JobStore) -> None:
    await Puppet(store, "one").live("m")
    await store.client.zadd(store.keys("leases"), {"one": await store.now_ms()})
    assert await store.workers() == []
