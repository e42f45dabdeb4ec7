"""The console's pages of jobs: what they ask, what they show, and that nothing that a client wrote is more than text."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import TENANT_SCOPES, Scope
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.model import JobError, JobSpec
from penstock import AsyncPenstock
from tests.apiserver import ApiServer
from tests.console import PEPPER, key_of, sign_in
from tests.puppet import MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

HOSTILE = (
    "<script>window.hurt=1</script>",
    '"><img src=x onerror="window.hurt=1">',
    "{{ 7 * 7 }}{% raw %}",
    "' hx-get='/console/api/v1/jobs' hx-trigger='load",
    "</code></pre><iframe src=javascript:window.hurt=1>",
    "${window.hurt=1}",
)
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": " ".join(HOSTILE)}}],
}


async def submit(http: httpx.AsyncClient, text: str = "hi", **more: Any) -> str:
    body = {"input": {"model": MODEL, "messages": [{"role": "user", "content": text}]}} | more
    got = await http.post("/v1/jobs", json=body)
    return str(got.raise_for_status().json()["id"])


async def kill(http: httpx.AsyncClient, puppet: Puppet, code: FailureCode, message: str = "it broke") -> str:
    job_id = await submit(http)
    await puppet.fail(await puppet.take(), JobError(code, message))
    return job_id


async def test_the_list_is_filtered_by_its_address(http: httpx.AsyncClient, puppet: Puppet) -> None:
    done = await submit(http, priority="high")
    await puppet.succeed(await puppet.take())
    waiting = [await submit(http, priority=lane) for lane in ("low", "bulk")]

    async def shown(query: str) -> set[str]:
        page = await http.get(f"/console/jobs{query}")
        assert page.status_code == 200, page.text
        return set(re.findall(r'id="row-(job_\w+)"', page.text))

    assert await shown("") == {done, *waiting}
    assert await shown("?state=succeeded") == {done}
    assert await shown("?state=queued&priority=bulk") == {waiting[1]}
    assert await shown("?pool=default&tenant=default&since=hour") == {done, *waiting}
    assert await shown("?pool=other") == await shown("?tenant=other") == await shown("?model=other") == set()
    page = await http.get("/console/jobs?state=queued")
    assert "<option selected>queued</option>" in page.text
    for wrong in ("state=none", "priority=none", "after=zz"):
        page = await http.get(f"/console/jobs?{wrong}")
        assert (page.status_code, "Status 400" in page.text) == (400, True), wrong


async def test_older_jobs_are_pages_on(http: httpx.AsyncClient, puppet: Puppet) -> None:
    ids = [await submit(http) for _ in range(30)]
    first = await http.get("/console/jobs?state=queued")
    older = re.search(r'href="\.\./(console/jobs\?[^"]+)" rel="next"', first.text)
    assert older is not None
    assert "state=queued" in older[1]
    second = await http.get("/" + unescape(older[1]))
    found = [set(re.findall(r'id="row-(job_\w+)"', page.text)) for page in (first, second)]
    assert (len(found[0]), found[0] | found[1]) == (25, set(ids))
    assert ">Newest</a>" in second.text
    assert 'rel="next"' not in second.text


async def test_the_dead_are_counted_by_code_and_model(http: httpx.AsyncClient, puppet: Puppet) -> None:
    lost = [await kill(http, puppet, FailureCode.WORKER_LOST) for _ in range(3)]
    await kill(http, puppet, FailureCode.TIMEOUT)
    expired = await submit(http, queue_timeout_s=0.05)

    async def is_over() -> bool:
        return (await http.get(f"/v1/jobs/{expired}")).json()["state"] == "expired"

    await eventually(is_over)
    got = (await http.get("/v1/dead/groups")).json()
    assert not got["has_more"]
    assert {(one["code"], one["model"]): one["jobs"] for one in got["data"]} == {
        ("worker_lost", MODEL): 3,
        ("timeout", MODEL): 1,
        ("expired", MODEL): 1,
    }
    assert got["data"][0]["code"] == "worker_lost"
    (only,) = (await http.get("/v1/dead?code=expired")).json()["data"]
    assert only["id"] == expired
    page = await http.get("/console/dead?code=worker_lost&model=puppet")
    assert set(re.findall(r'id="row-(job_\w+)"', page.text)) == set(lost)
    bodies = [json.loads(unescape(body)) for body in re.findall(r'data-body="([^"]+)"', page.text)]
    assert {"code": "worker_lost", "model": MODEL, "limit": 3} in bodies
    assert "Retry 3 jobs of puppet that ended with worker_lost?" in page.text
    retried = (await http.post("/v1/dead/retry", json={"code": "expired"})).json()["data"]
    assert [one["id"] for one in retried] == [expired]
    assert retried[0]["error"] is None


async def test_no_retry_is_offered_of_a_job_that_keeps_no_request(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    kept = await kill(http, puppet, FailureCode.TIMEOUT)
    once = await submit(http, store=False)
    await puppet.fail(await puppet.take(), JobError(FailureCode.TIMEOUT, "too long"))
    page = (await http.get("/console/dead")).text
    assert set(re.findall(r'id="row-(job_\w+)"', page)) == {kept, once}
    assert re.findall(r"/v1/jobs/(job_\w+)/retry", page) == [kept]
    assert f"/v1/jobs/{kept}/retry" in (await http.get(f"/console/jobs/{kept}")).text
    assert "/retry" not in (await http.get(f"/console/jobs/{once}")).text


async def test_our_client_asks_the_same(api: ApiServer, http: httpx.AsyncClient, puppet: Puppet) -> None:
    dead = await kill(http, puppet, FailureCode.TIMEOUT)
    low = await submit(http, priority="low")
    async with AsyncPenstock(api.url) as client:
        found = [job.id async for job in client.jobs.list(priority="low", pool="default", tenant="default")]
        assert found == [low]
        job = await client.jobs.get(dead)
        assert job.tenant == "default"
        groups = await client.dead.groups()
    assert [(one.code, one.model, one.jobs) for one in groups.data] == [("timeout", MODEL, 1)]


async def test_a_job_is_shown_whole_and_a_long_one_cut(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await submit(http, "Why is the sky blue?", metadata={"project": "demo"})
    page = await http.get(f"/console/jobs/{job_id}")
    assert ">Cancel<" in page.text
    assert ">Move<" in page.text
    assert "Why is the sky blue?" in page.text
    await puppet.succeed(await puppet.take(), json.dumps(ANSWER | {"filler": "x" * 60_000}).encode())
    page = await http.get(f"/console/jobs/{job_id}")
    assert ">Retry<" in page.text
    assert "It is long" in page.text
    assert len(page.text) < 200_000
    assert 'data-live="off"' in page.text
    whole = await http.get(f"/console/api/v1/jobs/{job_id}/result")
    assert len(whole.content) > 60_000
    long_id = await submit(http)
    await puppet.succeed(await puppet.take(), json.dumps(ANSWER | {"filler": "x" * 33 * 2**20}).encode())
    page = await http.get(f"/console/jobs/{long_id}")
    assert (page.status_code, "It is long" in page.text, len(page.text) < 200_000) == (200, True, True)
    for ident in (job_id, f"resp_{job_id}", f" chatcmpl-{job_id} "):
        got = await http.get("/console/jobs/find", params={"id": ident}, follow_redirects=True)
        assert got.url.path == f"/console/jobs/{job_id}", ident
    for odd in ("//evil.example", "../../v1/jobs", "https://evil.example"):
        got = await http.get("/console/jobs/find", params={"id": odd}, follow_redirects=True)
        assert (got.url.host, got.status_code) == ("127.0.0.1", 404), odd
    assert (await http.get("/console/jobs/none")).status_code == 404


async def test_a_chunk_is_its_batchs_and_is_not_retried(
    http: httpx.AsyncClient, puppet: Puppet, store: JobStore
) -> None:
    batch = {"batch": "batch_1", "chunk": "0"}
    accepted = await store.accept(JobSpec(new_id(), CHUNK_ENDPOINT, MODEL, b"{}", metadata=batch))
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "it broke"))
    page = (await http.get(f"/console/jobs/{accepted.id}")).text
    assert 'href="../../console/batches/batch_1"' in page
    assert "/retry" not in page
    assert "<h2>Request" not in page
    assert "<h2>Result" not in page
    refused = await http.post(f"/v1/jobs/{accepted.id}/retry")
    assert refused.status_code == 400
    assert "POST /v1/batches/batch_1/retry" in refused.json()["error"]["message"]
    (row,) = (await http.post("/v1/dead/retry", json={"ids": [accepted.id]})).json()["data"]
    assert (row["retried_as"], row["error"]["code"]) == (None, "invalid_request")


async def test_a_request_is_not_read_again_while_its_page_is_open(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    job_id = await submit(http, "a long prompt")

    async def reads() -> float:
        lines = (await http.get("/metrics")).text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("api_requests_total{") and "/v1/jobs/{job_id}/input" in line
        )

    before = await reads()
    assert "a long prompt" in (await http.get(f"/console/jobs/{job_id}")).text
    assert await reads() == before + 1
    async with http.stream("GET", "/console/events", params={"page": f"/console/jobs/{job_id}"}) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                assert "live_job" in line
                break
    assert await reads() == before + 1


async def test_a_request_is_read_by_its_owner(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await submit(http, "a prompt", store=False)
    got = await http.get(f"/v1/jobs/{job_id}/input")
    assert got.json() == {"model": MODEL, "messages": [{"role": "user", "content": "a prompt"}]}
    await puppet.succeed(await puppet.take())
    assert (await http.get(f"/v1/jobs/{job_id}/result")).status_code == 200

    async def dropped() -> bool:
        return (await http.get(f"/v1/jobs/{job_id}/input")).status_code in {404, 410}

    await eventually(dropped)


async def test_what_clients_write_is_text(http: httpx.AsyncClient, puppet: Puppet) -> None:
    text = " ".join(HOSTILE)
    done = await submit(http, text, metadata={HOSTILE[1][:60]: text[:400]})
    await puppet.succeed(await puppet.take(), json.dumps(ANSWER).encode())
    dead = await submit(http, text)
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, text))
    for path in (f"/console/jobs/{done}", f"/console/jobs/{dead}", "/console/jobs", "/console/dead"):
        page = await http.get(path)
        assert page.status_code == 200
        assert not re.search(
            r"<script(?! src=\"[./]*console/)|<iframe|<img (?!src=\"[./]*console/)", page.text
        ), path
        assert not re.search(r"<[^>]*\s(?:onerror|onload|hx-trigger=['\"]load)", page.text), path
    page = await http.get(f"/console/jobs/{done}")
    for one in HOSTILE:
        assert one in unescape(page.text), one
    for path in (
        "/console/jobs?model=",
        "/console/jobs?tenant=",
        "/console/dead?model=",
        "/console/login?next=",
    ):
        page = await http.get(path + HOSTILE[1], follow_redirects=True)
        assert HOSTILE[1] not in page.text, path


@pytest.fixture
def keyed(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, require_keys=True, key_pepper=PEPPER) as server:
        yield server


@pytest_asyncio.fixture
async def alice(keyed: ApiServer, store: JobStore) -> AsyncIterator[httpx.AsyncClient]:
    async with signed_in(keyed, store, "alice") as client:
        yield client


@asynccontextmanager
async def signed_in(
    api: ApiServer, store: JobStore, tenant: str, *more: Scope
) -> AsyncIterator[httpx.AsyncClient]:
    key = await key_of(store, tenant, [*TENANT_SCOPES, *more])
    async with api.client(headers={"authorization": f"Bearer {key}"}) as client:
        assert (await sign_in(client, key)).status_code == 303
        yield client


async def test_another_tenants_jobs_do_not_exist(
    keyed: ApiServer, alice: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    job_id = await submit(alice, "a secret of orchids")
    assert "a secret of orchids" in (await alice.get(f"/console/jobs/{job_id}")).text
    async with signed_in(keyed, store, "bob") as bob:
        for path in (
            f"/console/jobs/{job_id}",
            f"/console/api/v1/jobs/{job_id}/input",
            f"/v1/jobs/{job_id}/input",
        ):
            got = await bob.get(path)
            assert got.status_code == 404, path
            assert "orchids" not in got.text
        for path in ("/console/jobs", "/console/dead", "/console/jobs?tenant=alice"):
            assert job_id not in (await bob.get(path)).text
        async with bob.stream("GET", "/console/events", params={"page": f"/console/jobs/{job_id}"}) as stream:
            text = "".join([part async for part in stream.aiter_text()])
        assert '"status":404' in text
        assert "orchids" not in text
    async with signed_in(keyed, store, "root", Scope.ADMIN) as root:
        page = await root.get("/console/jobs?tenant=alice")
        assert f"row-{job_id}" in page.text
        assert job_id not in (await root.get("/console/jobs?tenant=bob")).text
