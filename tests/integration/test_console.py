"""The console's frame where no keys are required: whose pages may use its addresses, and what its pages may load."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from api.console import assets
from jobs.access import Scope
from jobs.lanes import Lane
from tests.console import HTML, refuses_foreign_pages
from tests.puppet import Puppet
from tools import vendor

pytestmark = pytest.mark.asyncio


async def test_a_browser_is_led_to_the_console_and_a_program_is_not(http: httpx.AsyncClient) -> None:
    got = await http.get("/", headers=HTML)
    assert (got.status_code, got.headers["location"]) == (307, "console")
    facts = (await http.get("/")).json()
    assert (facts["name"], facts["links"]["console"]) == ("Penstock", "/console")


async def test_without_keys_there_is_nothing_to_sign_in_to(http: httpx.AsyncClient, puppet: Puppet) -> None:
    page = await http.get("/console")
    assert page.status_code == 200
    assert ">default</h2>" in page.text
    assert "set-cookie" not in page.headers
    assert (await http.get("/console/login")).headers["location"] == "../console"
    me = (await http.get("/v1/me")).json()
    assert me == {
        "object": "me",
        "tenant": "default",
        "key": None,
        "scopes": [scope.value for scope in Scope],
        "models": None,
        "lanes": [lane.value for lane in Lane],
        "keys_required": False,
    }


async def test_a_page_loads_only_what_this_server_sends(http: httpx.AsyncClient) -> None:
    page = await http.get("/console")
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'self'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert not re.search(
        r"<script(?! src=)|<style|\sstyle=|\son\w+=|(?:src|href)=\"(?:https?:)?//", page.text
    )
    total = 0
    for path in re.findall(r'(?:src|href)="(console/static/[^"]+)"', page.text):
        got = await http.get(f"/{path}", headers={"accept-encoding": "gzip"})
        assert got.status_code == 200, path
        assert "immutable" in got.headers["cache-control"]
        assert got.headers["x-content-type-options"] == "nosniff"
        total += len(assets.packed(path.rpartition("/")[2]))
    assert total < 64_000, f"{total} bytes, packed"
    every = sum(len(assets.packed(name)) for name in assets.names())
    assert every < 80_000, f"{every} bytes of all pages, packed"
    for name in ("none.js", "..%2frender.py", "../render.py", "VENDORED.json"):
        assert (await http.get(f"/console/static/x/{name}")).status_code == 404, name


async def test_open_pages_get_what_has_changed(http: httpx.AsyncClient, puppet: Puppet) -> None:
    events = []
    async with http.stream("GET", "/console/events", params={"page": "/console"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
            if len(events) == 1 and line.startswith("data: "):
                assert {"live_totals", "live_pools", "live_status"} == set(events[0])
                await puppet.store.pause("default", paused=True)
            if any("live_pools" in event for event in events[1:]):
                break
    assert "paused" in events[-1]["live_pools"]
    assert any("live_totals" in event for event in events[1:])
    assert (await http.get("/console/events?page=/console/none")).status_code == 404
    assert (await http.get("/console/events")).status_code == 404


async def test_the_files_of_others_are_those_of_the_list() -> None:
    assert [line for folder in vendor.FOLDERS for line in vendor.check(folder)] == []
    ours = {"console.js", "console.css", "logo.svg"}
    assert {one["file"] for one in vendor.listed(vendor.FOLDERS[0])} == {
        name for name in assets.names() if ".min." in name
    }
    assert ours <= assets.names()


async def test_a_foreign_page_can_use_nothing_of_it(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await refuses_foreign_pages(http)
    (pool,) = (await http.get("/v1/queues")).json()["data"]
    assert not pool["paused"]
