"""The audit stream: who did what, written by the script that did it, once, and kept for its time."""

from __future__ import annotations

from typing import Any

import pytest

from broker.audit import Act, AuditStream, Filter
from broker.batches import BatchSpec, BatchStore
from broker.files import FileStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import Actor
from jobs.batch_model import File
from jobs.lanes import Lane
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, limited, spec, take
from tests.support import new_id

pytestmark = pytest.mark.asyncio

ADMIN = Actor("k3y", "ops", "10.0.0.9")


async def acts(store: JobStore, **wanted: Any) -> list[Act]:
    """Return the entries, the oldest first."""
    found, cursor = await AuditStream(store).page(Filter(**wanted), limit=1000, newest_first=False)
    assert cursor is None
    return found


def told(act: Act) -> tuple[object, ...]:
    assert act.by == ADMIN
    return act.what, act.kind, act.on, dict(act.details)


async def test_each_act_on_what_is_common_is_noted_if_it_changed_something(store: JobStore) -> None:
    await alive(store)
    for paused in (True, True, False, False):
        await store.pause("default", paused=paused, by=ADMIN)
    for _ in range(130):
        await store.accept(spec(lane=Lane.LOW))
    assert await store.purge("default", Lane.LOW, by=ADMIN) == 130
    assert await store.purge("default", Lane.LOW, by=ADMIN) == 0
    for timeout_s in (5.0, 5.0, 7.0):
        assert await store.drain(W, timeout_s, by=ADMIN)
    assert not await store.drain("nobody", by=ADMIN)
    assert [told(act) for act in await acts(store)] == [
        ("pool.pause", "pool", "default", {}),
        ("pool.resume", "pool", "default", {}),
        ("lane.purge", "lane", "default low", {"waiting": 130}),
        ("worker.drain", "worker", W, {"timeout_s": 5}),
        ("worker.drain", "worker", W, {"timeout_s": 7}),
    ]


async def test_our_own_processes_leave_no_entry(store: JobStore) -> None:
    await alive(store)
    job = await store.accept(spec(tenant="alice"))
    await store.pause("default", paused=True)
    await store.move(job.id, Lane.HIGH)
    await store.cancel(job.id)
    await store.accept(spec(tenant="alice", retry_of=job.id))
    await store.drain(W)
    assert await acts(store) == []


async def test_acts_on_jobs_are_noted_if_they_are_of_another_tenant(store: JobStore) -> None:
    await alive(store)
    queued, running, own = (spec(tenant=name) for name in ("alice", "alice", "ops"))
    await store.accept(running)
    assert await take(store)
    await store.accept(queued)
    await store.accept(own)
    for job in (queued, own):
        assert await store.move(job.id, Lane.HIGH, by=ADMIN) is JobState.QUEUED
        assert await store.move(job.id, Lane.HIGH, by=ADMIN) is JobState.QUEUED  # it is there
    for job in (queued, running, own):
        for _ in range(2):
            await store.cancel(job.id, by=ADMIN)
    again = [spec(tenant="alice", retry_of=queued.id), spec(tenant="ops", retry_of=own.id)]
    for job in again:
        for _ in range(2):
            await store.accept(job, by=ADMIN)
    assert [told(act) for act in await acts(store)] == [
        ("job.move", "job", queued.id, {"tenant": "alice", "from": "normal", "to": "high"}),
        ("job.cancel", "job", queued.id, {"tenant": "alice", "state": "queued"}),
        ("job.cancel", "job", running.id, {"tenant": "alice", "state": "running"}),
        ("job.retry", "job", queued.id, {"tenant": "alice", "retried_as": again[0].id}),
    ]


async def test_acts_on_batches_and_files_are_noted_if_they_are_of_another_tenant(store: JobStore) -> None:
    files, batches = FileStore(store), BatchStore(store)
    for tenant in ("alice", "ops"):
        file = File(f"file-{new_id()}", 1, "x.jsonl", "batch", f"x-{new_id()}", 0, tenant=tenant)
        await files.create(file, expires_after_ms=None)
        batch = f"batch_{new_id()}"
        await batches.create(
            BatchSpec(batch, file.id, file.key, "/v1/chat/completions", "24h", 86_400_000, tenant=tenant)
        )
        for paused in (True, True, False):
            await batches.pause(batch, paused=paused, by=ADMIN)
        for _ in range(2):
            await batches.cancel(batch, by=ADMIN)
        spare = File(f"file-{new_id()}", 1, "x.jsonl", "batch", f"x-{new_id()}", 0, tenant=tenant)
        await files.create(spare, expires_after_ms=None)
        for _ in range(2):
            await files.delete(spare.id, by=ADMIN)
        if tenant == "alice":
            expected = [
                *(
                    (f"batch.{verb}", "batch", batch, {"tenant": "alice"})
                    for verb in ("pause", "resume", "cancel")
                ),
                ("file.delete", "file", spare.id, {"tenant": "alice"}),
            ]
    assert [told(act) for act in await acts(store)] == expected


async def test_entries_are_kept_for_their_time_and_up_to_their_number(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    day = 86_400_000
    now = await store.now_ms()
    ages = [30 * day + 5_000, 30 * day - 60_000, *range(150, 0, -1)]
    for age in ages:
        entry: dict[Any, Any] = {"what": "pool.pause", "by": ADMIN.encode(), "on": "pool p", "details": "{}"}
        await store.client.xadd(store.keys("audit"), entry, id=f"{now - age}-1")
    await store.reap()
    assert len(await acts(store)) == 152  # no api has said how long
    await limited(store, broker_settings, audit_retention_days=30)
    await store.reap()
    assert len(await acts(store)) == 151
    await limited(store, broker_settings, audit_retention_days=30, audit_max_entries=100)
    await store.reap()
    assert [act.at_ms for act in await acts(store)] == [now - age for age in range(100, 0, -1)]


async def test_pages_follow_each_other_and_filters_choose(store: JobStore) -> None:
    now = await store.now_ms()
    for i in range(1_300):
        who = Actor(None, "ops" if i % 2 else "alice")
        entry: dict[Any, Any] = {
            "what": f"pool.{'pause' if i % 3 else 'resume'}",
            "by": who.encode(),
            "on": f"pool {i}",
            "details": "{}",
        }
        await store.client.xadd(store.keys("audit"), entry, id=f"{now + i}-1")
    stream = AuditStream(store)
    for newest_first in (True, False):
        seen, cursor = [], None
        while True:
            wanted = Filter(what="pool.pause", tenant="ops", since_ms=now + 10, until_ms=now + 1_200)
            found, cursor = await stream.page(wanted, limit=90, after=cursor, newest_first=newest_first)
            assert len(found) <= 90
            seen += [int(act.on) for act in found]
            if cursor is None:
                break
        expected = [i for i in range(10, 1_200) if i % 2 and i % 3]
        assert seen == (expected[::-1] if newest_first else expected)
    assert len((await stream.page(Filter(what="pool"), limit=1_300))[0]) == 1_300
    assert (await stream.page(Filter(what="po"), limit=10)) == ([], None)
    assert await stream.page(Filter(until_ms=0), limit=10) == ([], None)
    assert (await stream.page(Filter(until_ms=now + 1), limit=10))[0][0].on == "0"
    for wrong in ("$", "0-0", f"{2**64}-0", f"1-{2**64}", "1", ""):
        with pytest.raises(ValueError, match="not a cursor"):
            await stream.page(Filter(), limit=1, after=wrong)
