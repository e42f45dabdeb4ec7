"""Tenants as data: their records, what the functions read of them, and the settings that are taken over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.access.known_tenants import KnownTenants
from broker.audit import AuditStream, Filter
from broker.db.errors import QueueFullError
from broker.jobs import JobStore
from broker.settings import TenantSettings
from broker.tenants import TenantStore
from jobs.access import Actor
from jobs.lanes import Lane
from jobs.tenants import Tenant, TenantState
from tests.integration.test_fair_queue import alive, spec, take

pytestmark = pytest.mark.asyncio

WHOLE = Tenant(
    "acme",
    state=TenantState.SUSPENDED,
    weight=0.3,
    queue_max=1,
    max_active=2,
    models=("m", "alias"),
    lanes=(Lane.LOW, Lane.BULK),
    requests_per_minute=3,
    tokens_per_minute=4,
    tokens_per_day=5,
    storage_bytes=6,
    batches_open=7,
    retention_ms=0,
)


@pytest.fixture
def tenants(store: JobStore) -> TenantStore:
    return TenantStore(store)


async def version(store: JobStore) -> int:
    return int(await store.client.hget(store.keys("access"), "version") or 0)


async def test_a_record_comes_back_as_it_was_put(tenants: TenantStore, store: JobStore) -> None:
    assert await tenants.get("acme") == Tenant("acme")
    assert await tenants.put(WHOLE)
    assert await tenants.get("acme") == WHOLE
    made = await version(store)
    assert (await tenants.names(), made > 0) == (["acme"], True)
    assert not await tenants.put(WHOLE)
    assert await version(store) == made
    assert await tenants.reset("acme")
    assert (await tenants.get("acme"), await tenants.names()) == (Tenant("acme"), [])
    assert await version(store) > made
    assert not await tenants.reset("acme")
    assert await store.client.hget(store.keys("limits"), "by_tenant") is None


async def test_changes_are_in_the_audit_stream(tenants: TenantStore, store: JobStore) -> None:
    by = Actor("key", "boss", "10.0.0.1")
    for _ in range(2):  # the second changes nothing
        await tenants.change("acme", {"weight": 2}, by)
    for _ in range(2):
        await tenants.reset("acme", by)
    acts: Any = await store.client.xrange(store.keys("audit"))
    assert [(act["what"], act["on"], Actor.decode(act["by"])) for _, act in acts] == [
        ("tenant.set", "tenant acme", by),
        ("tenant.reset", "tenant acme", by),
    ]


async def test_an_act_names_the_fields_as_the_api_does(tenants: TenantStore, store: JobStore) -> None:
    changes = {"weight": 2, "tokens_per_minute": 5, "storage_bytes": 7}
    await tenants.change("acme", changes, Actor("key", "boss", "10.0.0.1"))
    (act,), _ = await AuditStream(store).page(Filter(), limit=10)
    assert act.details == {name: str(value) for name, value in changes.items()}


async def test_a_change_leaves_the_other_fields(tenants: TenantStore) -> None:
    await tenants.put(WHOLE)
    await tenants.change("acme", {"weight": 2, "models": None, "state": None})
    changed = await tenants.get("acme")
    assert (changed.weight, changed.models, changed.state) == (2, None, TenantState.ACTIVE)
    assert (changed.lanes, changed.tokens_per_day) == (WHOLE.lanes, 5)


async def test_pages_are_in_the_order_of_names(tenants: TenantStore) -> None:
    for name in ("b", "c", "a"):
        await tenants.change(name, {"weight": 2})
    first, more = await tenants.page(None, 2)
    assert ([one.name for one in first], more) == (["a", "b"], True)
    rest, more = await tenants.page("b", 2)
    assert ([one.name for one in rest], more) == (["c"], False)


async def test_settings_are_taken_over_once(tenants: TenantStore) -> None:
    given = {"acme": TenantSettings(weight=3), "late": TenantSettings(queue_max=9)}
    assert await tenants.take_over(given) == (["acme", "late"], [])
    assert (await tenants.get("acme")).weight == 3
    await tenants.change("acme", {"weight": 5})
    await tenants.reset("late")
    assert await tenants.take_over(given) == ([], ["acme", "late"])
    assert (await tenants.get("acme")).weight == 5
    assert await tenants.names() == ["acme"]


async def test_a_record_that_is_there_is_not_overwritten_by_settings(tenants: TenantStore) -> None:
    await tenants.change("acme", {"weight": 5})
    assert await tenants.take_over({"acme": TenantSettings(weight=3)}) == ([], ["acme"])
    assert (await tenants.get("acme")).weight == 5


async def test_a_changed_bound_is_effective_with_the_next_call(tenants: TenantStore, store: JobStore) -> None:
    await store.set_limits()
    await tenants.change("a", {"queue_max": 1})
    await store.accept(spec())
    with pytest.raises(QueueFullError):
        await store.accept(spec())
    await store.accept(spec("b"))
    await tenants.change("a", {"queue_max": 2})
    await store.accept(spec())


async def test_an_api_that_starts_leaves_the_tenants_alone(tenants: TenantStore, store: JobStore) -> None:
    await tenants.change("a", {"queue_max": 1})
    await store.set_limits()
    await store.accept(spec())
    with pytest.raises(QueueFullError):
        await store.accept(spec())


async def test_a_raised_bound_wakes_who_waits_for_it(tenants: TenantStore, store: JobStore) -> None:
    await store.set_limits()
    await alive(store)
    await tenants.change("a", {"max_active": 1})
    first, _ = await store.accept(spec()), await store.accept(spec())
    assert (await take(store)).id == first.id
    assert await take(store) is None
    await tenants.change("a", {"max_active": 2})
    assert await take(store)


async def test_a_process_forgets_what_it_knows_also_of_a_read_under_way(tenants: TenantStore) -> None:
    known = KnownTenants(tenants)
    assert await known.get("a") == Tenant("a")
    await tenants.change("a", {"weight": 2})
    assert await known.get("a") == Tenant("a")
    known.forget()
    assert (await known.get("a")).weight == 2
    reading = asyncio.create_task(known.get("b"))
    await asyncio.sleep(0)  # it has begun
    known.forget()
    assert await reading == Tenant("b")
    await tenants.change("b", {"weight": 3})
    assert (await known.get("b")).weight == 3
