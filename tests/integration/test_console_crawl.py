"""Everything that a page of the console offers works for who sees it: each link leads to a page, each button is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tenants import TenantStore
from jobs.access import Scope
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.console import MARK, PEPPER, key_of, own, sign_in
from tests.coordinators import CoordinatorThread
from tests.puppet import MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

JOB = {"input": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}}
ENDED = {"completed", "failed", "expired", "cancelled"}
LINK = re.compile(r'<a\b[^>]*?\bhref="([^"]*)"')
ACT = re.compile(r'<(?:button|form)\b[^>]*?\bdata-act="(\w+) ([^"]+)"[^>]*>')
BODY = re.compile(r'data-body="([^"]*)"')
OPTION = re.compile(r"<option>(\w+)</option>")
WAYS = {
    "jobs": [Scope.JOBS_READ, Scope.JOBS_WRITE],
    "reads": [Scope.JOBS_READ],
    "writes": [Scope.JOBS_WRITE],
    "batches": [Scope.BATCHES],
    "batches and jobs": [Scope.BATCHES, Scope.JOBS_READ],
    "files": [Scope.FILES],
    "metrics": [Scope.METRICS],
    "team": [Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.BATCHES, Scope.FILES],
    "admin": [Scope.ADMIN],
}


class Act(NamedTuple):
    """A button or form that calls the API."""

    method: str
    path: str
    bodies: tuple[str | None, ...]


class Crawler:
    """Follows every link from the start on, as one visitor."""

    def __init__(self, web: httpx.AsyncClient, *, sees_files: bool = True) -> None:
        self._web, self._sees_files = web, sees_files
        self.pages: dict[str, str] = {}

    async def crawl(self, start: str = "/console") -> None:
        """Look at every page that is linked; fail for one that does not work."""
        left = [start]
        while left:
            path = left.pop()
            if path in self.pages:
                continue
            got = await self._web.get(path, follow_redirects=True)
            assert got.status_code == 200, (path, got.status_code, got.text[:2000])
            html = got.text if got.headers["content-type"].startswith("text/html") else ""
            self.pages[path] = html
            if got.url.path.startswith("/console"):
                left += self._links(str(got.url), html)

    def _links(self, base: str, html: str) -> Iterator[str]:
        for href in LINK.findall(html):
            url = urlsplit(urljoin(base, unescape(href)))
            assert url.netloc == urlsplit(base).netloc, href
            yield url.path + (f"?{url.query}" if url.query else "")

    async def press(self, skip: Collection[str] = ()) -> set[str]:
        """Press each kind of button once, on pages as they are then; return the kinds."""
        done: set[str] = set()
        for path in list(self.pages):
            while (act := await self._next(path, done)) is not None:
                kind = kind_of(act)
                done.add(kind)
                if any(word in act.path for word in skip):
                    continue
                for body in act.bodies:
                    headers = own(self._web) | MARK | {"content-type": "application/json"}
                    got = await self._web.request(
                        act.method, f"/console/api{act.path}", content=body, headers=headers
                    )
                    assert got.status_code < 400 or self._unseen(got), (path, act, got.text)
        return done

    def _unseen(self, refused: httpx.Response) -> bool:
        """Say whether a file is gone that this visitor may not see, so that no page could know."""
        return not self._sees_files and refused.json()["error"]["code"] == "file_gone"

    async def _next(self, path: str, done: set[str]) -> Act | None:
        html = (await self._web.get(path, follow_redirects=True)).text
        return next((act for act in acts(html) if kind_of(act) not in done), None)


def acts(html: str) -> Iterator[Act]:
    for found in ACT.finditer(html):
        method, path = found[1], unescape(found[2])
        body = BODY.search(found[0])
        if found[0].startswith("<form"):
            form = html[found.end() : html.index("</form>", found.end())]
            yield Act(method, path, tuple(json.dumps({"priority": lane}) for lane in OPTION.findall(form)))
        else:
            yield Act(method, path, (None if body is None else unescape(body[1]),))


def kind_of(act: Act) -> str:
    """Name a kind of button: its call without the ids."""
    top = "/top" if act.bodies[0] and "top" in act.bodies[0] else ""
    return re.sub(r"(job|batch)_[0-9a-f]+", "ID", f"{act.method} {act.path}") + top


@pytest.fixture
def keyed(broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(
        broker_settings, require_keys=True, key_pepper=PEPPER, files_url=str(tmp_path / "files")
    ) as server:
        yield server


@asynccontextmanager
async def visitor(
    api: ApiServer, store: JobStore, tenant: str, scopes: Collection[Scope]
) -> AsyncIterator[httpx.AsyncClient]:
    key = await key_of(store, tenant, scopes)
    async with api.client() as client:
        assert (await sign_in(client, key)).status_code == 303
        yield client


@asynccontextmanager
async def filled(api: ApiServer, store: JobStore, puppet: Puppet, tenant: str) -> AsyncIterator[None]:
    """Give a tenant a job in each state, jobs whose others are gone, a chunk of a batch, and batches. A coordinator runs."""
    key = await key_of(store, tenant, WAYS["team"])
    async with api.client(headers={"authorization": f"Bearer {key}"}) as http:

        async def submit(**more: Any) -> str:
            return str((await http.post("/v1/jobs", json=JOB | more)).raise_for_status().json()["id"])

        async def fail(**more: Any) -> str:
            job_id = await submit(**more)
            await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "it broke"))
            return job_id

        await submit()
        await puppet.succeed(await puppet.take(), b'{"choices":[]}')
        for _ in range(2):
            await fail()
        await fail(store=False)  # its first visitor takes its request away
        retried = await fail()
        await http.post(f"/v1/jobs/{retried}/retry")
        await puppet.succeed(await puppet.take())
        await store.forget(retried)  # its time is over; the job that retried it names it
        once = await submit(store=False)
        await puppet.succeed(await puppet.take())
        await http.get(f"/v1/jobs/{once}/result")
        cancelled = await submit()
        await http.post(f"/v1/jobs/{cancelled}/cancel")
        rows = [row(n, model=MODEL) for n in range(2)]
        batch = await make_batch(http, jsonl(rows))
        broken = await make_batch(http, b"[1]\n")
        facts = {"batch": batch, "chunk": "0"}
        await store.accept(JobSpec(new_id(), CHUNK_ENDPOINT, MODEL, b"{}", metadata=facts, tenant=tenant))
        await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "it broke"))
        stopped = await make_batch(http, jsonl(rows))
        with CoordinatorThread(api.settings, files_url=api.settings.files_url):
            await until(http, broken, ENDED)
            await until(http, stopped, {"in_progress"})
            await http.post(f"/v1/batches/{stopped}/cancel")
            ended = await until(http, stopped, ENDED)
            assert ended["request_counts"]["failed"] == len(rows)  # so that their retry is offered
            await http.delete(f"/v1/files/{ended['input_file_id']}")
            for lane in ("high", "normal", "bulk"):
                await submit(priority=lane)
            yield


async def make_batch(http: httpx.AsyncClient, data: bytes) -> str:
    file = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("rows.jsonl", data)})
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = await http.post("/v1/batches", json=asked | {"input_file_id": file.json()["id"]})
    return str(made.raise_for_status().json()["id"])


async def until(http: httpx.AsyncClient, batch_id: str, states: Collection[str]) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        batch: dict[str, Any] = (await http.get(f"/v1/batches/{batch_id}")).json()
        return batch if batch["status"] in states else None

    return await eventually(there)


async def test_every_link_and_button_works_for_who_sees_it(
    keyed: ApiServer, store: JobStore, puppet: Puppet
) -> None:
    async with filled(keyed, store, puppet, "alice"):
        seen: dict[str, set[str]] = {}
        for name, scopes in WAYS.items():
            async with visitor(keyed, store, "root" if name == "admin" else "alice", scopes) as web:
                crawler = Crawler(web, sees_files=bool({Scope.FILES, Scope.ADMIN} & set(scopes)))
                if name in {"files", "writes"}:  # no page shows these what they have
                    assert (await web.get("/console")).status_code in {303, 403}
                    continue
                await crawler.crawl()
                skip = ("/v1/admin/keys", "/drain", "/purge") if name == "admin" else ()
                seen[name] = await crawler.press(skip)
                assert len(crawler.pages) > 2, name
        assert not any("jobs" in act for act in seen["batches"] | seen["metrics"] | seen["reads"])
        assert {"PATCH /v1/jobs/ID", "PATCH /v1/jobs/ID/top", "POST /v1/jobs/ID/cancel"} <= seen["jobs"]
        assert "POST /v1/jobs/ID/retry" in seen["jobs"]
        assert any("/pause" in act for act in seen["batches"])
        assert any("/drain" in act for act in seen["admin"])


async def test_a_team_with_few_lanes_is_offered_no_others(
    keyed: ApiServer, store: JobStore, puppet: Puppet
) -> None:
    async with filled(keyed, store, puppet, "alice"):
        await TenantStore(store).change("alice", {"lanes": [Lane.NORMAL, Lane.HIGH]})
        async with visitor(keyed, store, "alice", WAYS["team"]) as web:

            async def known() -> bool:
                return (await web.get("/console/api/v1/me")).json()["lanes"] == ["high", "normal"]

            await eventually(known)
            crawler = Crawler(web)
            await crawler.crawl()
            await crawler.press()
            assert "/console/playground" not in crawler.pages


async def test_who_is_not_signed_in_is_led_to_the_door(keyed: ApiServer) -> None:
    async with keyed.client() as web:
        for path in ("/console", "/console/jobs", "/console/keys"):
            got = await web.get(path)
            assert (got.status_code, "login?next=" in got.headers["location"]) == (303, True), path


async def test_every_link_and_button_works_where_no_keys_are_required(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    job_id = (await http.post("/v1/jobs", json=JOB)).json()["id"]
    await http.post("/v1/jobs", json=JOB | {"priority": "low"})
    crawler = Crawler(http)
    await crawler.crawl()
    assert f"/console/jobs/{job_id}" in crawler.pages
    await crawler.press(("/drain",))
