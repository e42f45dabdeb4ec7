"""Tenants beside each other: what one may see and change of the other, which is nothing, and what an admin may."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.access import AccessStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import TENANT_SCOPES, ApiKey, Scope
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.ids import BATCH_PREFIX, FILE_PREFIX, make_id
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec
from jobs.states import JobState
from jobs.stream_chunks import Frames
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.coordinators import CoordinatorThread
from tests.puppet import MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

PEPPER = "a pepper of the tests"
INPUT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
IDS = re.compile(r"(job_|file-|batch_)[0-9a-f]{32}")


@pytest.fixture
def files_url(tmp_path: Path) -> str:
    return str(tmp_path / "files")


@pytest.fixture
def guarded(broker_settings: BrokerSettings, files_url: str) -> Iterator[ApiServer]:
    with server(broker_settings, files_url) as api:
        yield api


def server(base: BrokerSettings, files_url: str) -> ApiServer:
    return ApiServer(
        base, files_url=files_url, require_keys=True, key_pepper=PEPPER, tenants={"alice": {}, "bob": {}}
    )


async def bearer(store: JobStore, tenant: str, scopes: Collection[Scope] = TENANT_SCOPES) -> dict[str, str]:
    """Make a key; return the header that it goes into."""
    key = ApiKey.new()
    await AccessStore(store).create(key, PEPPER.encode(), tenant=tenant, scopes=scopes, name="a test's")
    return {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True)
class Callers:
    """The clients: two tenants, and an administrator of a third one."""

    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    admin: httpx.AsyncClient


@pytest_asyncio.fixture
async def callers(guarded: ApiServer, store: JobStore) -> AsyncIterator[Callers]:
    async with guarded.client() as alice, guarded.client() as bob, guarded.client() as admin:
        alice.headers.update(await bearer(store, "alice"))
        bob.headers.update(await bearer(store, "bob"))
        admin.headers.update(await bearer(store, "ops", [Scope.ADMIN]))
        yield Callers(alice, bob, admin)


async def submit(http: httpx.AsyncClient, key: str | None = None, **fields: Any) -> str:
    headers = {} if key is None else {"idempotency-key": key}
    got = await http.post("/v1/jobs", json={"input": INPUT, **fields}, headers=headers)
    assert got.status_code == 202, got.text
    return str(got.json()["id"])


async def upload(http: httpx.AsyncClient, purpose: str = "batch") -> str:
    data = jsonl([row(1, model=MODEL)])
    got = await http.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": purpose})
    assert got.status_code == 200, got.text
    return str(got.json()["id"])


async def make_batch(http: httpx.AsyncClient, file_id: str) -> httpx.Response:
    asked = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    return await http.post("/v1/batches", json=asked)


async def dead(store: JobStore, puppet: Puppet, http: httpx.AsyncClient) -> str:
    job_id = await submit(http)
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "no"))
    return job_id


async def state_of(store: JobStore, *ids: str) -> list[Any]:
    kinds = {"job_": "job", "file-": "file", "batch_": "batch"}
    keys = (store.keys(next(kind for start, kind in kinds.items() if i.startswith(start)), i) for i in ids)
    return [await store.client.hgetall(key) for key in keys]


def said(got: httpx.Response) -> tuple[int, str]:
    """Return an answer without the ids that it quotes."""
    return got.status_code, IDS.sub("ID", got.text)


OF_JOBS: list[Any] = [
    ("GET", "/v1/jobs/{}", None),
    ("GET", "/v1/jobs/{}?wait=1", None),
    ("GET", "/v1/jobs/{}/events", None),
    ("GET", "/v1/jobs/{}/events?after=1-1", None),
    ("GET", "/v1/jobs/{}/result", None),
    ("POST", "/v1/jobs/{}/cancel", None),
    ("PATCH", "/v1/jobs/{}", {"priority": "low"}),
    ("POST", "/v1/jobs/{}/retry", None),
    ("POST", "/v1/dead/retry", {"ids": ["{}"]}),
]
OF_FILES: list[Any] = [
    ("GET", "/v1/files/{}", None),
    ("GET", "/v1/files/{}/content", None),
    ("DELETE", "/v1/files/{}", None),
    (
        "POST",
        "/v1/batches",
        {"input_file_id": "{}", "endpoint": "/v1/completions", "completion_window": "24h"},
    ),
]
OF_BATCHES: list[Any] = [
    ("GET", "/v1/batches/{}", None),
    ("GET", "/v1/batches/{}/results", None),
    ("GET", "/v1/batches/{}/events", None),
    ("GET", "/v1/batches/{}/verify", None),
    ("POST", "/v1/batches/{}/pause", None),
    ("POST", "/v1/batches/{}/resume", None),
    ("POST", "/v1/batches/{}/cancel", None),
    ("POST", "/v1/batches/{}/retry", None),
]


async def ask(http: httpx.AsyncClient, what: tuple[str, str, Any], ident: Any) -> httpx.Response:
    method, path, body = what
    told = None if body is None else json.loads(json.dumps(body).replace("{}", ident))
    return await http.request(method, path.format(ident), json=told)


async def test_another_tenants_object_answers_as_one_that_does_not_exist(
    callers: Callers, store: JobStore, puppet: Puppet
) -> None:
    alice, bob = callers.alice, callers.bob
    ended, streamed = await submit(alice), await submit(alice, stream=True)
    await puppet.succeed(await puppet.take())
    await puppet.succeed(await puppet.take(), tail=[Frames(("{}",))])
    failed = await dead(store, puppet, alice)
    queued = await submit(alice)
    chunk = JobSpec(new_id(), CHUNK_ENDPOINT, MODEL, b"{}", tenant="bob", metadata={"batch": "batch_1"})
    await store.accept(chunk)
    file_id = await upload(alice)
    batch_id = (await make_batch(alice, file_id)).json()["id"]
    mine = [ended, streamed, failed, queued, chunk.id, file_id, batch_id]
    before = await state_of(store, *mine)
    none = {
        kind: make_id(kind, int(time.time() * 1000), os.urandom(10))
        for kind in ("job_", FILE_PREFIX, BATCH_PREFIX)
    }
    for ids, asked, kind in (
        ((ended, streamed, failed, queued, chunk.id), OF_JOBS, "job_"),
        ((file_id,), OF_FILES, FILE_PREFIX),
        ((batch_id,), OF_BATCHES, BATCH_PREFIX),
    ):
        for one in asked:
            missing = said(await ask(bob, one, none[kind]))
            assert missing[0] in {400, 404} or "not_found" in missing[1], one
            for ident in ids:
                assert said(await ask(bob, one, ident)) == missing, one
    assert await state_of(store, *mine) == before
    assert not [retried for told in before[:5] if (retried := told.get("retried_as"))]


async def test_its_tenant_and_an_admin_reach_an_object(
    callers: Callers, store: JobStore, puppet: Puppet
) -> None:
    for http in (callers.alice, callers.admin):
        ended, queued, file_id = await submit(callers.alice), await submit(callers.alice), None
        await puppet.succeed(await puppet.take())
        for path in ("", "?wait=1", "/result", "/events"):
            got = await http.get(f"/v1/jobs/{ended}{path}")
            assert got.status_code == 200, path
        assert (await http.patch(f"/v1/jobs/{queued}", json={"priority": "low"})).status_code == 200
        assert (await http.post(f"/v1/jobs/{queued}/cancel")).json()["state"] == "cancelled"
        again = (await http.post(f"/v1/jobs/{ended}/retry")).json()
        assert (await state_of(store, again["id"]))[0]["tenant"] == "alice"
        await store.cancel(again["id"])
        file_id = await upload(callers.alice)
        assert (await http.get(f"/v1/files/{file_id}/content")).status_code == 200
        batch = (await make_batch(http, file_id)).json()
        assert (await callers.admin.get(f"/v1/batches/{batch['id']}")).status_code == 200
        assert (await http.post(f"/v1/batches/{batch['id']}/pause")).json()["paused"] is True
        assert (await http.post(f"/v1/batches/{batch['id']}/cancel")).json()["status"] == "cancelling"
        assert (await http.delete(f"/v1/files/{file_id}")).json()["error"]["code"] == "file_in_use"


async def test_a_chunk_is_reached_by_an_admin_alone(callers: Callers, store: JobStore) -> None:
    chunk = JobSpec(new_id(), CHUNK_ENDPOINT, MODEL, b"{}", tenant="alice", metadata={"batch": "batch_1"})
    await store.accept(chunk)
    assert (await callers.alice.get(f"/v1/jobs/{chunk.id}")).status_code == 404
    assert (await callers.alice.post(f"/v1/jobs/{chunk.id}/cancel")).status_code == 404
    assert (await callers.alice.get("/v1/jobs")).json()["data"] == []
    assert [job["id"] for job in (await callers.admin.get("/v1/jobs")).json()["data"]] == [chunk.id]
    assert (await callers.admin.post(f"/v1/jobs/{chunk.id}/cancel")).json()["state"] == "cancelled"


async def pages(http: httpx.AsyncClient, path: str, by_id: bool = False) -> list[list[str]]:
    """Read a list two by two."""
    found: list[list[str]] = []
    after = ""
    while True:
        got = (await http.get(f"{path}?limit=2{after}")).json()
        found.append([one["id"] for one in got["data"]])
        if not got["has_more"]:
            return found
        after = f"&after={got['last_id'] if by_id else got['next_cursor']}"


async def test_lists_walk_ones_own_objects_alone(callers: Callers, store: JobStore, puppet: Puppet) -> None:
    """No page is empty because of others, and none says that more is there that is theirs."""
    failed = {http: [await dead(store, puppet, http)] for http in (callers.bob, callers.alice)}
    bobs = [failed[callers.bob][0], *[await submit(callers.bob) for _ in range(3)]]
    specs = (JobSpec(new_id(), "/v1/completions", MODEL, b"{}", tenant="alice") for _ in range(1_100))
    await asyncio.gather(*(store.accept(spec) for spec in specs))
    files = [await upload(callers.bob) for _ in range(3)]
    others = [await upload(callers.alice) for _ in range(3)]
    batches = [(await make_batch(callers.bob, one)).json()["id"] for one in files]
    for one in others:
        await make_batch(callers.alice, one)
    user_data = await upload(callers.bob, "user_data")

    def newest(ids: list[str]) -> list[list[str]]:
        turned = ids[::-1]
        return [turned[at : at + 2] for at in range(0, len(turned), 2)]

    assert await pages(callers.bob, "/v1/jobs") == newest(bobs)
    assert await pages(callers.bob, "/v1/dead") == [failed[callers.bob]]
    assert await pages(callers.alice, "/v1/dead") == [failed[callers.alice]]
    assert await pages(callers.bob, "/v1/batches", by_id=True) == newest(batches)
    assert await pages(callers.bob, "/v1/files", by_id=True) == newest([*files, user_data])
    purposes = (await callers.bob.get("/v1/files?purpose=user_data")).json()
    assert [one["id"] for one in purposes["data"]] == [user_data]
    assert len((await callers.admin.get("/v1/files")).json()["data"]) == 7
    assert len((await callers.admin.get("/v1/dead")).json()["data"]) == 2
    # The page after a file that is gone begins where that was; another's says nothing.
    await callers.bob.delete(f"/v1/files/{user_data}")
    assert (await callers.bob.get(f"/v1/files?limit=2&after={user_data}")).json()["data"][0]["id"] == files[2]
    retried = (await callers.bob.post("/v1/dead/retry", json={})).json()["data"]
    assert [one["id"] for one in retried] == failed[callers.bob]
    assert await pages(callers.bob, "/v1/dead") == [[]]
    assert await pages(callers.alice, "/v1/dead") == [failed[callers.alice]]
    for name in await store.client.smembers(store.keys("batches_active")):
        await callers.admin.post(f"/v1/batches/{name!s}/cancel")


async def test_who_retries_anothers_job_uses_a_key_of_their_own(callers: Callers, puppet: Puppet) -> None:
    """It was the job's tenant's, who then could not use it for something else."""
    job_id = await submit(callers.alice)
    await callers.alice.post(f"/v1/jobs/{job_id}/cancel")
    key = {"idempotency-key": "nightly"}
    assert (await callers.bob.post(f"/v1/jobs/{job_id}/retry", headers=key)).status_code == 404
    again = await callers.admin.post(f"/v1/jobs/{job_id}/retry", headers=key)
    assert again.status_code == 202
    fresh = await submit(callers.alice, "nightly")
    assert fresh not in {job_id, again.json()["id"]}
    assert (await callers.admin.post(f"/v1/jobs/{job_id}/retry", headers=key)).json()["id"] == again.json()[
        "id"
    ]


async def test_a_key_that_an_admin_of_the_tenant_used_names_no_other_tenants_job(store: JobStore) -> None:
    theirs = JobSpec(new_id(), "/v1/completions", MODEL, b"{}", tenant="alice")
    admins = JobSpec(
        new_id(), "/v1/completions", MODEL, b"{}", "default", tenant="alice", idempotency_key="k",
        idempotency_tenant="bob",
    )  # fmt: skip
    await store.accept(theirs)
    await store.accept(admins)
    plain = JobSpec(new_id(), "/v1/completions", MODEL, b"{}", tenant="bob", owner="bob", idempotency_key="k")
    with pytest.raises(Exception, match=r"was used for another request$"):
        await store.accept(plain)


async def test_what_races_with_a_change_reaches_nothing(
    callers: Callers, store: JobStore, puppet: Puppet
) -> None:
    """Bob aims at each of Alice's objects while it comes, changes and goes: nothing is checked first and done later."""
    jobs: list[str] = []
    files: list[str] = []
    over = asyncio.Event()
    answers: set[int] = set()

    async def attack() -> None:
        while not over.is_set():
            for ident in jobs[-3:]:
                for got in await asyncio.gather(
                    callers.bob.post(f"/v1/jobs/{ident}/cancel"),
                    callers.bob.post(f"/v1/jobs/{ident}/retry"),
                    callers.bob.patch(f"/v1/jobs/{ident}", json={"priority": "low"}),
                    callers.bob.get(f"/v1/jobs/{ident}/result"),
                ):
                    answers.add(got.status_code)
            for ident in files[-2:]:
                answers.add((await callers.bob.delete(f"/v1/files/{ident}")).status_code)
                answers.add((await make_batch(callers.bob, ident)).status_code)
            await asyncio.sleep(0)

    attackers = [asyncio.create_task(attack()) for _ in range(3)]
    for _ in range(15):
        jobs.append(await submit(callers.alice))
        files.append(await upload(callers.alice))
        await puppet.succeed(await puppet.take())
        assert (await callers.alice.delete(f"/v1/files/{files[-1]}")).status_code == 200
    over.set()
    await asyncio.gather(*attackers)
    assert answers == {404, 400}  # 400: the input file does not exist
    for told in await state_of(store, *jobs):
        assert (told["state"], told["lane"], told.get("retried_as")) == (
            JobState.SUCCEEDED,
            Lane.NORMAL,
            None,
        )
    assert await store.client.zcard(store.keys("batches")) == 0


async def test_a_batchs_files_and_its_retry_are_its_tenants(
    callers: Callers, broker_settings: BrokerSettings, files_url: str, store: JobStore, puppet: Puppet
) -> None:
    with CoordinatorThread(broker_settings, files_url=files_url):
        wrong = jsonl([row(1, model="no such model")])
        sent = await callers.alice.post(
            "/v1/files", files={"file": ("in.jsonl", wrong)}, data={"purpose": "batch"}
        )
        made = (await make_batch(callers.alice, sent.json()["id"])).json()

        async def ended() -> Any:
            got = (await callers.alice.get(f"/v1/batches/{made['id']}")).json()
            return got if got["status"] in {"completed", "failed"} else None

        batch = await eventually(ended)
        assert batch["status"] in {"completed", "failed"}
        assert (await callers.bob.get(f"/v1/batches/{made['id']}/verify")).status_code == 404
        for ident in filter(None, (batch["output_file_id"], batch["error_file_id"])):
            assert (await callers.bob.get(f"/v1/files/{ident}/content")).status_code == 404
            assert (await callers.alice.get(f"/v1/files/{ident}/content")).status_code == 200
        assert (await callers.bob.get("/v1/files")).json()["data"] == []


async def test_other_tenants_are_shown_only_with_the_scope_metrics(
    callers: Callers, guarded: ApiServer, store: JobStore, puppet: Puppet
) -> None:
    await submit(callers.alice)
    await submit(callers.bob)
    seer = await bearer(store, "ops", [Scope.METRICS, Scope.JOBS_READ])
    wrong = {"authorization": "Bearer sk-other"}
    async with guarded.client() as nobody:
        shown = (await nobody.get("/metrics")).text
        assert "penstock_jobs_accepted_total{" in shown
        assert not re.search(r"tenant=|alice|bob", shown)
        assert "tenant=" not in (await nobody.get("/metrics", headers=wrong)).text
        assert "tenant=" not in (await callers.bob.get("/metrics")).text
        assert 'tenant="alice"' in (await nobody.get("/metrics", headers=seer)).text
        assert 'tenant="alice"' in (await callers.admin.get("/metrics")).text

        async def seen(http: httpx.AsyncClient, headers: dict[str, str] | None = None) -> set[str]:
            (pool,) = (await http.get("/v1/queues", headers=headers)).json()["data"]
            assert pool["queued"] == 2
            return {tenant["tenant"] for tenant in pool["tenants"]}

        assert await seen(callers.bob) == {"bob"}
        assert await seen(callers.admin) == await seen(nobody, seer) == {"alice", "bob"}


async def test_lists_have_what_was_made_before_there_were_indexes(
    broker_settings: BrokerSettings, files_url: str, store: JobStore, puppet: Puppet
) -> None:
    alice = await bearer(store, "alice")
    with server(broker_settings, files_url) as api:
        async with api.client() as http:
            http.headers.update(alice)
            failed, job_id = await dead(store, puppet, http), await submit(http)
            file_id = await upload(http)
            batch_id = (await make_batch(http, file_id)).json()["id"]
    chunk = {"batch": batch_id}
    await store.accept(JobSpec(new_id(), CHUNK_ENDPOINT, MODEL, b"{}", tenant="alice", metadata=chunk))
    own = [store.keys(name, "alice") for name in ("jobs_of", "dead_of", "files_of", "batches_of")]
    own.append(store.keys("files_of_purpose", "alice", "batch"))
    kept = {key: await store.client.zrange(key, 0, -1, withscores=True) for key in own}
    assert all(kept.values())

    async def indexed() -> bool:
        return {key: await store.client.zrange(key, 0, -1, withscores=True) for key in own} == kept

    await store.client.delete(*own)
    await store.client.hdel(store.keys("access"), "indexes")
    with server(broker_settings, files_url) as api:
        async with api.client() as http:
            http.headers.update(alice)
            await eventually(indexed)
            assert [job["id"] for job in (await http.get("/v1/jobs")).json()["data"]] == [job_id, failed]
            assert [job["id"] for job in (await http.get("/v1/dead")).json()["data"]] == [failed]


async def test_a_file_without_a_tenant_is_the_default_ones(
    broker_settings: BrokerSettings, files_url: str, store: JobStore
) -> None:
    """It is older than tenants."""
    with ApiServer(broker_settings, files_url=files_url) as api:
        async with api.client() as http:
            file_id = await upload(http)
    of_default = [store.keys("files_of", "default"), store.keys("files_of_purpose", "default", "batch")]
    await store.client.hdel(store.keys("file", file_id), "tenant")
    await store.client.delete(*of_default)
    await store.client.hdel(store.keys("access"), "indexes")
    default = await bearer(store, "default")
    with server(broker_settings, files_url) as api:
        async with api.client() as http:
            http.headers.update(default)

            async def listed() -> bool:
                return [one["id"] for one in (await http.get("/v1/files")).json()["data"]] == [file_id]

            await eventually(listed)
            assert (await http.get(f"/v1/files/{file_id}")).status_code == 200
