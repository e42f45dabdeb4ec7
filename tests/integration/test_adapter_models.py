"""LoRA adapters as models of the api: listed once a worker has them, requested by name, refused if none can load them."""

from __future__ import annotations

import httpx
import pytest

from broker.adapters import Adapters
from broker.catalogue import Catalogue
from broker.jobs import JobStore
from tests.adapters import add, an_adapter
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture
def adapters(store: JobStore) -> Adapters:
    return Adapters(store)


async def names(http: httpx.AsyncClient) -> list[str]:
    return [card["id"] for card in (await http.get("/v1/models")).json()["data"]]


async def submit(http: httpx.AsyncClient, model: str = "sql") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return await http.post("/v1/jobs", json={"input": body})


async def test_an_adapter_is_listed_with_its_parent_once_a_worker_has_it(
    http: httpx.AsyncClient, puppet: Puppet, adapters: Adapters
) -> None:
    await add(adapters, an_adapter())
    accepted = await submit(http)  # it waits in the queue while it loads
    assert accepted.status_code == 202, accepted.text
    claim = await puppet.take()
    assert (claim.id, claim.model) == (accepted.json()["id"], "sql")
    await puppet.succeed(claim)
    assert await names(http) == [MODEL]
    early = (await http.get("/v1/models/sql")).json()["error"]
    assert early["code"] == "model_not_found"
    assert "no worker has loaded yet" in early["message"]
    (known,) = await adapters.of("default")
    await adapters.loaded(puppet.name, known)

    async def listed() -> bool:
        return await names(http) == [MODEL, "sql"]

    await eventually(listed)
    card = (await http.get("/v1/models/sql")).json()
    assert (card["parent"], card["root"], card["max_model_len"]) == (MODEL, "sql", 100)
    assert card["penstock"]["capabilities"]["adapter_of"] == MODEL
    assert card["created"] > 0
    await adapters.remove("default", "sql")

    async def gone() -> bool:
        return (await submit(http)).status_code == 404

    await eventually(gone)
    assert await names(http) == [MODEL]


async def test_one_that_no_worker_can_load_is_refused_with_the_reason(
    http: httpx.AsyncClient, puppet: Puppet, adapters: Adapters
) -> None:
    await add(adapters, an_adapter())
    (known,) = await adapters.of("default")
    await adapters.failed(puppet.name, known, "its rank 64 is above 16")

    async def refused() -> httpx.Response | None:
        got = await submit(http)
        return got if got.status_code == 404 else None

    got = await eventually(refused)
    assert got.json()["error"]["code"] == "model_not_found"
    assert (
        "no worker of the pool 'default' can load: its rank 64 is above 16" in got.json()["error"]["message"]
    )
    assert (await http.get("/v1/models/sql")).json()["error"]["message"] == got.json()["error"]["message"]
    assert await names(http) == [MODEL]


async def test_an_adapter_of_a_tenant_is_nobody_elses(
    http: httpx.AsyncClient, puppet: Puppet, adapters: Adapters
) -> None:
    await add(adapters, an_adapter(tenant="acme"))
    await add(adapters, an_adapter("own", tenant="default"))
    for known in await adapters.of("default"):
        await adapters.loaded(puppet.name, known)
    assert (await submit(http, "own")).status_code == 202
    got = await submit(http, "sql")
    assert (got.status_code, got.json()["error"]["code"]) == (404, "model_not_found")
    assert got.json()["error"]["message"] == (await submit(http, "nothing")).json()["error"][
        "message"
    ].replace("nothing", "sql")
    assert (await http.get("/v1/models/sql")).status_code == 404
    assert await names(http) == [MODEL, "own"]
    await puppet.succeed(await puppet.take())


async def test_a_call_waits_only_if_the_base_model_is_alive(puppet: Puppet, adapters: Adapters) -> None:
    await add(adapters, an_adapter())
    catalogue = Catalogue(puppet.store)
    found = await catalogue.find("sql", live=True)
    assert found is not None
    assert (found.base, found.usable, catalogue.live(found)) == (MODEL, False, True)
    assert [worker.incarnation for worker in catalogue.workers(found)] == [puppet.name]
    await puppet.store.bury(puppet.name)
    await catalogue.refresh()
    assert not catalogue.live(found)
    await catalogue.aclose()
