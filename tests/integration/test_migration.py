"""A server that version 2 filled (``tests/data/schema_2``, made by its own code) is taken over at the first start, once."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from structlog.testing import capture_logs

from broker.db.client import connect
from broker.db.errors import MixedFleetStartError
from broker.jobs import JobStore
from broker.migration import prepare
from broker.settings import BrokerSettings
from broker.tenant_indexes import index_tenants
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION
from jobs.states import JobState
from penstock.server.valkey import binary
from tests.invariants import check_queues
from tests.support import eventually

pytestmark = pytest.mark.asyncio

DATA = Path(__file__).parents[1] / "data" / "schema_2"
MANIFEST: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
JOBS: dict[str, Any] = MANIFEST["jobs"]
LABELS = {job["spec"]["id"]: label for label, job in JOBS.items()}
CHANGED = {
    "phase",
    "state",
    "lane",
    "attempt",
    "history",
    "not_before_ms",
    "coalesced_with",
    "kind",
    "timings",
}
"""What a round of the reaper may change; of a job that has ended nothing of it changes."""


@pytest_asyncio.fixture
async def old(tmp_path: Path) -> AsyncIterator[JobStore]:
    """A server with the data of version 2, as it was left."""
    shutil.copy(DATA / "dump.rdb", tmp_path / "dump.rdb")
    socket = tmp_path / "valkey.sock"
    args = (
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--dir",
        str(tmp_path),
        "--save",
        "",
        "--loglevel",
        "warning",
    )
    server = await asyncio.create_subprocess_exec(str(binary()), *args)
    settings = BrokerSettings(redis_url=f"unix://{socket}", namespace=MANIFEST["namespace"], retention_s=4e9)
    store = JobStore(connect(settings.redis_url), settings)
    try:
        await eventually(lambda: _answers(store))
        yield store
    finally:
        await store.aclose()
        server.terminate()
        await server.wait()


async def _answers(store: JobStore) -> bool:
    """Whether the server has read its data: its socket is there before it listens."""
    try:
        return bool(await store.client.ping())
    except RedisError:
        return False


def bytes_of(told: Any) -> bytes | None:
    return None if told is None else base64.b64decode(told["base64"])


async def ids_in_order(store: JobStore, pool: str, lane: str, tenant: str) -> list[str]:
    found: list[Any] = await store.client.zrange(store.keys("backlog", pool, lane, tenant), 0, -1)
    return [LABELS.get(job_id, job_id) for job_id in found]


async def test_every_record_result_and_log_is_there(old: JobStore) -> None:
    await prepare(old)
    for label, told in JOBS.items():
        job_id, record = told["spec"]["id"], told["record"]
        job = await old.get(job_id)
        assert job is not None, label
        for name in ("endpoint", "model", "pool", "tenant", "metadata", "max_attempts", "stream"):
            assert getattr(job, name) == record[name], (label, name)
        for name in ("expires_at_ms", "timeout_ms", "queue_timeout_ms", "trace", "retry_of", "retried_as"):
            assert getattr(job, name) == record.get(name), (label, name)
        assert job.timings.queued_ms == record["timings"]["queued_ms"], label
        assert job.state.value == record["state"], label
        if job.state.terminal:
            assert job.attempt == record["attempt"], label
            assert job.timings.finished_ms == record["timings"]["finished_ms"], label
            assert type(job.phase).__name__ == record["kind"], label
        result = told.get("result", {})
        stored = await old.result(job_id)
        assert stored.status == result.get("status"), label
        assert stored.body == bytes_of(result.get("body")), label
        assert stored.partial == bytes_of(result.get("partial")), label
        log = [(eid, payload) for eid, payload in await old.log(job_id, "0-0")]
        assert log == [tuple(entry) for entry in told.get("log", [])], label
        spec = await old.respec(job_id, "job_new")
        assert spec is not None
        assert spec.body == bytes_of(told["spec"]["body"]), label


async def test_queued_jobs_keep_their_order_and_are_run(old: JobStore) -> None:
    await prepare(old)
    for pool, lanes in MANIFEST["queues"].items():
        for lane, tenants in lanes.items():
            for tenant, labels in tenants.items():
                here = [
                    label for label in await ids_in_order(old, pool, lane, tenant) if "follow" not in label
                ]
                assert here == labels, (pool, lane, tenant)
    await index_tenants(old)
    with Redis(
        unix_socket_path=old.client.connection_pool.connection_kwargs["path"], decode_responses=True
    ) as client:
        check_queues(client, old.keys)
    assert (await old.queues(["second"]))[0].paused
    await old.pause("second", paused=False)
    await old.heartbeat("w", first=True, info={"name": "w", "pool": "default", "capacity": 9})
    left = {label for label, job in JOBS.items() if job["record"]["state"] in {"queued", "running"}} - {
        "delayed_for_years"
    }

    async def all_ended() -> bool:
        await old.reap()
        for pool in MANIFEST["queues"]:
            while claims := await old.claim("w", pool=pool, room=9):
                for claim in claims:
                    assert await old.finish(claim, "w", JobState.SUCCEEDED, status=200, result=b"{}")
        states = [await old.get(JOBS[label]["spec"]["id"]) for label in left]
        return all(job is not None and job.state.terminal for job in states)

    await eventually(all_ended)
    for label, end in MANIFEST["ends"].items():
        job = await old.get(JOBS[label]["spec"]["id"])
        assert job is not None
        assert job.state.value == end, label
    assert (await old.queues(["default"]))[0].running == 0
    assert sum(lane.queued for lane in (await old.queues(["default"]))[0].lanes) == 0


async def test_nothing_of_the_earlier_version_is_left(old: JobStore) -> None:
    await prepare(old)
    known = (
        "job:",
        "log:",
        "idem:",
        "coalesce:",
        "followers:",
        "batch",
        "file",
        "pool",
        "ended:",
        "worker:",
        "tasks",
        "task:",
    )
    others = {
        "jobs",
        "dead",
        "deadlines",
        "delayed",
        "limits",
        "models",
        "reaper",
        "schema",
        "uncounted",
        "leases",
        "coordinators",
    }
    barred = {"workers", "paused"}
    found: list[Any] = await old.client.keys("*")
    for key in found:
        name = key.removeprefix(f"{MANIFEST['namespace']}:")
        assert name.startswith(known) or name in others | barred, key
        assert not key.startswith(f"{MANIFEST['namespace']}."), key
    # The earlier version's functions fail on these before they write.
    for command in (
        ("ZRANGEBYSCORE", old.keys.namespace + ":workers", "0", "1"),
        ("SISMEMBER", old.keys.namespace + ":paused", "default"),
    ):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await old.client.execute_command(*command)


async def test_several_processes_at_once_take_it_over_once(old: JobStore) -> None:
    await asyncio.gather(*(prepare(old) for _ in range(5)))
    depth = await old.depths(["default"])
    assert depth["default", Lane.REALTIME] == len(MANIFEST["queues"]["default"]["realtime"]["default"])
    await prepare(old)
    assert await old.depths(["default"]) == depth


async def test_a_take_over_that_was_cut_short_begins_anew(
    old: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("broker.migration._finish", killed)
        with pytest.raises(KeyboardInterrupt):
            await prepare(old)
    assert await old.client.get(old.keys("schema")) is None
    await prepare(old)
    await test_queued_jobs_keep_their_order_and_are_run(old)


async def test_a_mixed_fleet_is_refused_and_nothing_is_changed(old: JobStore) -> None:
    await _beat(old)
    before = sorted(await old.client.keys("*"))
    async with asyncio.TaskGroup() as group:
        beats = group.create_task(_keep_beating(old))
        with pytest.raises(MixedFleetStartError, match=r"worker.*Stop them, then start again"):
            await prepare(old)
        beats.cancel()
    assert sorted(await old.client.keys("*")) == before


async def test_an_api_of_the_earlier_version_is_seen_by_its_channel(old: JobStore) -> None:
    pubsub = old.client.pubsub()
    await pubsub.subscribe(old.keys("api_channel", "api-1"))
    with pytest.raises(MixedFleetStartError, match="api"):
        await prepare(old)
    await pubsub.aclose()


async def test_data_of_a_newer_version_is_refused(store: JobStore) -> None:
    await store.client.set(store.keys("schema"), SCHEMA_VERSION + 1)
    with pytest.raises(MixedFleetStartError, match=f"has version {SCHEMA_VERSION + 1}"):
        await prepare(store)


async def _beat(old: JobStore) -> None:
    """Prolong a lease, as a worker of the earlier version does."""
    await old.client.zadd(f"{old.keys.namespace}:workers", {"w-alive": await old.now_ms() + 60_000})


async def _keep_beating(old: JobStore) -> None:
    while True:
        await asyncio.sleep(0.1)
        await _beat(old)


async def test_the_lock_lasts_as_long_as_the_take_over(
    old: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it waits for the lease of a worker that has died, until the lock was prolonged."""
    monkeypatch.setattr("broker.migration._LOCK_MS", 4000)
    workers, lock = f"{old.keys.namespace}:workers", f"{old.keys('schema')}:lock"
    await old.client.zadd(workers, {"gone": await old.now_ms() + 60_000})
    left_ms = 0

    async def prolonged() -> bool:
        nonlocal left_ms
        before_ms, left_ms = left_ms, await old.client.pttl(lock)
        return left_ms > before_ms > 0

    with capture_logs() as lines:
        both = asyncio.gather(prepare(old), prepare(old))
        await eventually(prolonged)
        await old.client.zrem(workers, "gone")
        await both
    assert [line["event"] for line in lines] == ["migration_begun", "migration_done"]
    assert not await old.client.exists(lock)
