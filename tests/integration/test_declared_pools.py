"""Pools that scale from zero: requests wait for a worker that is not there yet. Real Valkey, real api, a late worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.audit import AuditStream, Filter
from broker.declared import DeclaredPools, declared_in_settings
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from broker.settings import BrokerSettings
from jobs.declared import DeclaredPool, DeclaredPoolStartError
from jobs.stream_chunks import Frames
from penstock import AsyncPenstock
from penstock.errors import NotFoundError
from tests.apiserver import ApiServer
from tests.puppet import FACTS, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
RESULT = json.dumps({"id": "x", "object": "chat.completion", "choices": []}).encode()


@pytest.fixture(scope="module")
def shared_api(valkey) -> Iterator[ApiServer]:
    from tests.namespaces import new_namespace

    with ApiServer(new_namespace(valkey), sse_ping_s=0.2, queue_timeout_s=60) as server:
        yield server


@pytest.fixture
def puppet(store: JobStore) -> Puppet:
    """A worker of the pool ``chat`` that is not there yet."""
    return Puppet(store, "late-1", "chat")


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}


async def declare(http: httpx.AsyncClient, pool: str = "chat", status: int = 200, **fields: Any) -> Any:
    got = await http.put(f"/v1/admin/pools/{pool}", json={"model": "m", "aliases": ["fast"], **fields})
    assert got.status_code == status, got.text
    return got.json()


async def queued(http: httpx.AsyncClient, pool: str = "chat", jobs: int = 1) -> None:
    """Wait until jobs are in a pool's queue."""

    async def there() -> bool:
        pools = (await http.get("/v1/queues")).json()["data"]
        return any(one["pool"] == pool and one["queued"] == jobs for one in pools)

    await eventually(there)


async def test_without_a_declaration_everything_is_refused(http) -> None:
    for path, asked in ((CHAT, body()), ("/v1/jobs", {"model": "m", "input": body()})):
        got = await http.post(path, json=asked)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "no_worker")
    assert (await http.get("/health/ready")).json()["checks"]["worker"] == "none is alive"


async def test_a_call_waits_for_the_first_worker(http, puppet) -> None:
    await declare(http)
    call = asyncio.create_task(http.post(CHAT, json=body(model="fast")))
    await queued(http)
    await puppet.live("m", capacity=4)
    claim = await puppet.take()
    assert json.loads(claim.body)["model"] == "m"
    await puppet.succeed(claim, RESULT)
    got = await call
    assert (got.status_code, got.json()["object"]) == (200, "chat.completion")


async def test_a_stream_waits_with_comments(http, puppet) -> None:
    await declare(http)
    async with http.stream(
        "POST", "/v1/completions", json={"model": "m", "prompt": "x", "stream": True}
    ) as got:
        assert got.status_code == 200  # the head came with the first comment, while nobody was there
        await puppet.live("m")
        claim = await puppet.take()
        await puppet.say(claim, Frames(('{"choices":[]}',)))
        await puppet.succeed(claim, RESULT)
        lines = [line async for line in got.aiter_lines() if line]
    assert lines[0].startswith(":")
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/responses", {"model": "m", "input": "x", "background": True}),
        ("/v1/jobs", {"model": "m", "input": {"messages": [{"role": "user", "content": "x"}]}}),
        ("/v1/jobs", {"model": "fast", "input": {"prompt": "x"}, "endpoint": "/v1/completions"}),
    ],
)
async def test_every_face_queues(http, puppet, path, asked) -> None:
    await declare(http)
    got = await http.post(path, json=asked)
    assert got.status_code in {200, 202}, got.text
    await puppet.live("m", facts=FACTS | {"endpoints": []})
    assert (await puppet.take()).id in got.text


async def test_its_time_limit_ends_a_wait(http, broker_settings, store) -> None:
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="m"))
    with ApiServer(broker_settings, queue_timeout_s=0.3) as hasty:
        async with hasty.client() as client:
            got = await client.post(CHAT, json=body())
            error = got.json()["error"]
            assert (got.status_code, error["code"]) == (503, "queue_timeout")
            assert "no worker of its pool has started yet" in error["message"]
            assert got.headers["retry-after"] == "5"
    job = (await http.post("/v1/jobs", json={"model": "m", "input": body(), "queue_timeout_s": 0.3})).json()
    ended = (await http.get(f"/v1/jobs/{job['id']}", params={"wait": 10})).json()
    assert ended["state"] == "expired"


async def test_it_is_listed_and_the_server_is_ready(http, store, puppet) -> None:
    await declare(http)
    listed = {one["id"]: one for one in (await http.get("/v1/models")).json()["data"]}
    assert listed["m"]["penstock"]["state"] == "asleep"
    assert listed["fast"]["root"] == "m"
    ready = await http.get("/health")
    assert (ready.status_code, ready.json()["models"]) == (200, ["m", "fast"])
    (pool,) = [one for one in (await http.get("/v1/queues")).json()["data"] if one["pool"] == "chat"]
    assert (pool["slots"], pool["queued"], pool["running"]) == (0, 0, 0)
    await puppet.live("m")
    await eventually(lambda: _state(http, None))


async def _state(http: httpx.AsyncClient, state: str | None) -> bool:
    card = (await http.get("/v1/models/m")).json()
    return card.get("penstock", {}).get("state") == state


async def test_what_a_worker_registered_counts_and_stays(http, store, puppet) -> None:
    await declare(http)
    await puppet.live("m")
    await eventually(lambda: _state(http, None))
    await store.bury(puppet.name)
    await eventually(lambda: _state(http, "asleep"))
    got = await http.post(CHAT, json=body(messages=[{"role": "user", "content": "x" * 404}]))
    assert got.json()["error"]["code"] == "context_length_exceeded"  # the model has 100 tokens
    call = asyncio.create_task(http.post(CHAT, json=body()))
    await queued(http)
    again = Puppet(store, "late-2", "chat")
    await again.live("m")
    await again.succeed(await again.take(), RESULT)
    assert (await call).status_code == 200


async def test_the_start_of_a_job_is_estimated_by_the_last_worker_s_start(
    http, store, puppet, broker_settings
) -> None:
    await declare(http)

    async def estimate() -> float | None:
        got = await http.post("/v1/jobs", json={"model": "m", "input": body(), "expires_in_s": 20})
        assert got.status_code == 202, got.text
        return got.json()["eta_s"]

    assert await estimate() is None
    await puppet.live("m", capacity=2, bulk_capacity=2, start_s=30.5)
    await puppet.succeed(await puppet.take())
    await store.bury(puppet.name)
    assert await estimate() == 30.5
    with ApiServer(
        broker_settings, infeasible_deadline="refuse"
    ) as strict:  # it starts the worker all the same
        async with strict.client() as client:
            asked = {"model": "m", "input": body(), "expires_in_s": 20}
            assert (await client.post("/v1/jobs", json=asked)).status_code == 202


async def test_undeclared_it_refuses_calls_and_its_jobs_stay(http, puppet) -> None:
    await declare(http)
    job = (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()
    removed = await http.delete("/v1/admin/pools/chat")
    assert (removed.status_code, removed.json()["model"]) == (200, "m")
    assert (await http.post(CHAT, json=body())).status_code == 503
    assert (await http.delete("/v1/admin/pools/chat")).json()["error"]["code"] == "pool_not_found"
    await puppet.live("m")
    assert (await puppet.take()).id == job["id"]


async def test_what_waits_in_an_undeclared_pool_is_seen_and_can_be_ended(http) -> None:
    await declare(http)
    job = (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()
    await http.delete("/v1/admin/pools/chat")
    await queued(http)
    assert (await http.get("/v1/autoscaling/chat")).json()["value"] == 1
    assert (await http.delete(f"/v1/queues/chat/{job['priority']}")).status_code == 200
    assert (await http.get(f"/v1/jobs/{job['id']}")).json()["state"] == "cancelled"

    async def gone() -> bool:
        return all(one["pool"] != "chat" for one in (await http.get("/v1/queues")).json()["data"])

    await eventually(gone)


async def test_a_new_version_scales_from_zero_as_the_one_before(
    http: httpx.AsyncClient, store: JobStore, broker_settings: BrokerSettings
) -> None:
    await declare(http)
    old, new = Puppet(store, "old-1", "chat"), Puppet(store, "new-1", "chat-v2")
    await old.live("m")
    await new.live("m", version_of="chat")
    rollouts = Rollouts(store)
    before = await rollouts.get("chat")
    assert await rollouts.write(before, before.switch("chat-v2"), flip=True)
    await store.bury(old.name)
    await store.bury(new.name)
    with ApiServer(broker_settings, queue_mode="reject") as strict:
        async with strict.client() as client:
            await eventually(lambda: _state(client, "asleep"))
            call = asyncio.create_task(client.post(CHAT, json=body(model="fast")))
            await queued(client, "chat-v2")
            assert (await client.get("/v1/autoscaling/chat-v2")).json()["value"] == 1
            await new.live("m")
            await new.succeed(await new.take(), RESULT)
            assert (await call).status_code == 200


async def test_another_model_is_not_left_to_the_workers_of_the_first(http, store, puppet) -> None:
    await declare(http)
    await puppet.live("m")
    await declare(http, model="n", aliases=[])
    assert (await http.post(CHAT, json=body(model="n"))).json()["error"]["code"] == "model_not_found"
    await store.bury(puppet.name)
    job = await eventually(lambda: accepted(http, "n"))
    assert job["pool"] == "chat"
    assert (await http.post(CHAT, json=body())).json()["error"]["code"] == "no_worker"


async def accepted(http: httpx.AsyncClient, model: str) -> dict[str, Any] | None:
    got = await http.post("/v1/jobs", json={"model": model, "input": {"messages": body()["messages"]}})
    return got.json() if got.status_code == 202 else None


async def test_names_and_places(http, store) -> None:
    await declare(http)
    taken = await declare(http, "other", 409, model="x", aliases=["fast"])
    assert (taken["error"]["code"], taken["error"]["param"]) == ("name_taken", "aliases")
    assert (await declare(http, "other", 409, model="fast"))["error"]["param"] == "model"
    await declare(http, "big", model="m", aliases=[], device="NVIDIA H100", device_memory_gb=80, slots=4)
    placed = {"model": "m", "input": body(), "placement": {"min_memory_gb": 70}}
    assert (await http.post("/v1/jobs", json=placed)).json()["pool"] == "big"
    listed = (await http.get("/v1/admin/pools")).json()["data"]
    assert [(one["id"], one["slots"], one["from_settings"]) for one in listed] == [
        ("big", 4, False),
        ("chat", None, False),
    ]
    # A pool that nobody starts workers for comes after one that scales.
    dead = Puppet(store, "dead-1", "aaa")
    await dead.live("m")
    await store.bury(dead.name)
    await eventually(lambda: _in_pool(http, "big", "chat"))


async def test_a_declared_name_stays_taken_when_a_worker_has_come(http, puppet) -> None:
    await declare(http)
    await puppet.live("m")  # without the declared alias
    assert (await declare(http, "other", 409, model="x", aliases=["fast"]))["error"]["param"] == "aliases"
    assert (await declare(http, "other", 409, model="fast", aliases=[]))["error"]["param"] == "model"
    assert (await http.put("/v1/admin/aliases/quick", json={"model": "m"})).status_code == 200
    assert (await declare(http, "other", 409, model="x", aliases=["quick"]))["error"]["code"] == "name_taken"
    await declare(http, "other", model="m", aliases=["quick"])  # the same meaning


async def _in_pool(http: httpx.AsyncClient, *pools: str) -> bool:
    return (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()["pool"] in pools


async def test_by_the_sdk(api) -> None:
    async with AsyncPenstock(api.url) as client:
        made = await client.pools.declare("chat", "m", aliases=["fast"], slots=8)
        assert (made.id, made.model, made.aliases, made.slots) == ("chat", "m", ("fast",), 8)
        assert await client.pools.declared() == (made,)
        (pool,) = [one for one in await client.pools.list() if one.pool == "chat"]
        assert (pool.slots, pool.queued) == (0, 0)
        assert (await client.pools.autoscaling("chat")).slots_per_replica == 8
        assert (await client.pools.autoscaling("chat", target=2.5)).value == 0
        assert await client.pools.undeclare("chat") == made
        with pytest.raises(NotFoundError):
            await client.pools.undeclare("chat")


async def test_a_restart_of_the_api_keeps_what_was_declared_and_what_waits(
    broker_settings, store, puppet
) -> None:
    with ApiServer(broker_settings) as first:
        async with first.client() as http:
            await declare(http, slots=4)
            job = (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()
    with ApiServer(broker_settings) as second:
        async with second.client() as http:
            seen = (await http.get("/v1/autoscaling/chat")).json()
            assert (seen["queued"], seen["slots_per_replica"]) == (1, 4)
            call = asyncio.create_task(http.post(CHAT, json=body(model="fast")))
            await queued(http, jobs=2)
            await puppet.live("m")
            claims = [await puppet.take(), await puppet.take()]
            assert job["id"] in {claim.id for claim in claims}
            for claim in claims:
                await puppet.succeed(claim, RESULT)
            assert (await call).status_code == 200


async def test_the_command_line_shows_it(http, api) -> None:
    await declare(http)
    await http.post("/v1/jobs", json={"model": "m", "input": body()})
    command = [sys.executable, "-m", "penstock", "queue", "list", "--json"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"PENSTOCK_URL": api.url},
        timeout=60,
    )
    shown = {one["pool"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert (shown["chat"]["queued"], shown["chat"]["slots"]) == (1, 0)


async def test_each_change_is_in_the_audit_stream_once(http, store) -> None:
    from jobs.access import Actor

    admin, declared = Actor("k3y", "ops", "10.0.0.9"), DeclaredPools(store)
    one = DeclaredPool(pool="chat", model="m")
    assert (await declared.put(one, admin)).kind == "changed"
    assert (await declared.put(one, admin)).kind == "same"
    assert await declared.remove("chat", admin)
    assert not await declared.remove("chat", admin)
    acts, _ = await AuditStream(store).page(Filter(), limit=10, newest_first=False)
    assert [(act.what, act.on, dict(act.details)) for act in acts] == [
        ("pool.declare", "chat", {"model": "m"}),
        ("pool.undeclare", "chat", {}),
    ]


async def test_reject_mode_queues_what_starts_the_first_worker(http, broker_settings, store) -> None:
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="m"))
    with ApiServer(broker_settings, queue_mode="reject") as strict:
        async with strict.client() as client:
            assert (await client.post("/v1/jobs", json={"model": "m", "input": body()})).status_code == 202
            worker = Puppet(store, "late-1", "chat")
            await worker.live("m", capacity=1)
            await worker.take()
            got = await client.post("/v1/jobs", json={"model": "m", "input": body()})
            assert got.json()["error"]["code"] == "gpu_busy"


async def test_a_start_follows_the_settings_and_leaves_what_operators_declared(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared, file = DeclaredPools(store), tmp_path / "penstock.toml"
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(file))

    async def stored() -> dict[str, tuple[str, bool]]:
        return {one.pool: (one.model, one.from_settings) for one in await declared.all()}

    async def started(*tables: str) -> dict[str, tuple[str, bool]]:
        file.write_text("\n".join(tables))
        await declared.take_over(declared_in_settings() or ())
        return await stored()

    chat, more = '[pools.chat]\nmodel = "m"\nscales_from_zero = true', '[pools.more]\nmodel = "n"'
    file.write_text(f"{chat}\n{more}")
    with ApiServer(broker_settings) as server:
        async with server.client() as client:
            assert (await client.get("/v1/models/m")).json()["penstock"]["state"] == "asleep"
    assert await stored() == {"chat": ("m", True)}
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(tmp_path / "none.toml"))
    with ApiServer(broker_settings) as server:  # it knows nothing of the pools that others declare
        async with server.client() as client:
            assert (await client.get("/health")).json()["models"] == ["m"]
    assert await stored() == {"chat": ("m", True)}
    monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(file))
    assert await started(chat.replace('"m"', '"m2"'), more) == {"chat": ("m2", True)}
    await declared.put(DeclaredPool(pool="own", model="o"))
    await declared.put(DeclaredPool(pool="chat", model="by hand"))
    assert await started(chat, more + "\nscales_from_zero = true") == {
        "own": ("o", False),
        "chat": ("by hand", False),
        "more": ("n", True),
    }
    assert await started() == {"own": ("o", False), "chat": ("by hand", False)}
    file.write_text("[pools.x]\nscales_from_zero = true")
    with pytest.raises(DeclaredPoolStartError, match=r"penstock\.toml: \[pools\.x\] scales_from_zero"):
        declared_in_settings()
