"""What the console's tests share: browsers without JavaScript, signed in with keys of their own."""

from __future__ import annotations

from collections.abc import Collection

import httpx

from broker.access import AccessStore
from broker.jobs import JobStore
from jobs.access import TENANT_SCOPES, ApiKey, Scope

PEPPER = "a pepper of the tests"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MARK = {"x-penstock-console": "1"}
EVIL = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
PAUSE = "/console/api/v1/queues/default/pause"


async def key_of(store: JobStore, tenant: str, scopes: Collection[Scope] = TENANT_SCOPES) -> str:
    key = ApiKey.new()
    await AccessStore(store).create(key, PEPPER.encode(), tenant=tenant, scopes=scopes)
    return str(key)


def own(web: httpx.AsyncClient) -> dict[str, str]:
    """Return what a browser says of a form of our own page."""
    return {"origin": str(web.base_url).rstrip("/")}


async def sign_in(web: httpx.AsyncClient, key: str, then: str = "/console") -> httpx.Response:
    return await web.post("/console/login", data={"key": key, "next": then}, headers=own(web))


async def refuses_foreign_pages(client: httpx.AsyncClient) -> None:
    for headers in (
        EVIL | MARK,
        {"origin": "null"} | MARK,
        {"sec-fetch-site": "same-site"} | MARK,
        MARK,  # no browser sends a POST without an origin
        {"origin": str(client.base_url).rstrip("/")},  # what a form could send
    ):
        got = await client.post(PAUSE, headers=headers)
        assert (got.status_code, got.json()["error"]["code"]) == (403, "origin_not_allowed"), headers
    assert (await client.get("/console/api/v1/jobs", headers=EVIL)).status_code == 403
    assert (await client.get("/console/api/v1/jobs", headers={"sec-fetch-site": "none"})).status_code != 403
    assert (await client.get("/console/events?page=/console", headers=EVIL)).status_code == 403
