"""The pages for people and for those who watch the server: what it is, whether a model is loaded, and the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import httpx
import pytest

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

FLOWER = "http://127.0.0.1:5555/?a&b"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}  # as browsers ask


@pytest.fixture
def with_flower(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, flower_url=FLOWER) as server:
        yield server


async def test_health_is_200_while_a_model_is_loaded(http: httpx.AsyncClient, store: JobStore) -> None:
    got = await http.get("/health")
    assert (got.status_code, got.json()["status"], got.json()["models"]) == (503, "not_ready", [])
    assert got.json()["missing"] == ["worker"]
    await Puppet(store).live()

    async def healthy() -> bool:
        return (await http.get("/health")).status_code == 200

    await eventually(healthy)
    found = (await http.get("/health")).json()
    assert (found["status"], found["models"]) == ("ready", [MODEL])
    assert set(found["checks"].values()) == {"ok"}
    assert {"redis", "schema", "worker"} <= set(found["checks"])


async def test_the_front_page(with_flower: ApiServer, store: JobStore) -> None:
    async with with_flower.client(follow_redirects=True) as http:
        page = await http.get("/", headers=HTML)
        assert page.url.path == "/console"
        assert page.headers["content-type"].startswith("text/html")
        assert "Not ready" in page.text
        assert "worker: none is alive" in page.text
        await Puppet(store).live()

        async def ready() -> bool:
            return (await http.get("/")).json()["status"] == "ready"

        await eventually(ready)
        page = await http.get("/", headers=HTML)
        assert "Not ready" not in page.text
        assert 'href="http://127.0.0.1:5555/?a&amp;b"' in page.text
        for link in set(re.findall(r'href="([^":#]+)"', page.text)):
            assert (await http.get(f"/{unescape(link)}")).status_code == 200, link
        facts = (await http.get("/", headers={"accept": "application/json"})).json()
        assert (facts["name"], facts["models"], facts["links"]["flower"]) == ("Penstock", [MODEL], FLOWER)
        for name, path in facts["links"].items():
            assert name == "flower" or (await http.get(path)).status_code == 200, path


async def test_the_reference_needs_no_other_server(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"(?:https?:)?//\w", page.text)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(found) == 3
    for path in found:
        got = await http.get(f"/{path}")
        assert got.status_code == 200, path
        assert len(got.content) > 100
    assert (await http.get("/docs/other.js")).status_code == 404
    assert (await http.get("/redoc")).status_code == 404


async def test_many_who_ask_whether_it_is_ready_share_one_look(tmp_path: Path) -> None:
    """On a server of their own: others ask, too."""
    with EmbeddedServer(tmp_path) as server:
        settings = BrokerSettings(redis_url=server.url)
        store = JobStore(connect(server.url), settings)
        await Puppet(store).live()
        with ApiServer(settings, catalogue_refresh_s=3600, reap_interval_s=3600) as api:
            await share_one_look(api, store)
        await store.aclose()


async def share_one_look(api: ApiServer, store: JobStore) -> None:
    async with api.client() as http:

        async def asked() -> int:
            return int((await store.client.info("commandstats"))["cmdstat_hgetall"]["calls"])

        await http.get("/health")
        before = await asked()
        for _ in range(100):  # one after the other: those who ask at once shared a look before
            for path in ("/health/ready", "/health", "/"):
                await http.get(path)
        assert await asked() - before < 300  # 300 looks are 600 at least
