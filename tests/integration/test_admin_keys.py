"""``/v1/admin/keys``, and the SDK's and the command's way to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.access import AccessStore
from broker.audit import AuditStream, Filter
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import ApiKey, Scope
from penstock import AsyncPenstock, ConflictError, NotFoundError, Penstock, PermissionDeniedError
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.namespaces import new_namespace
from tests.processes import ROOT
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

PEPPER = "a pepper of the tests"
KEYS = "/v1/admin/keys"


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer) -> Iterator[ApiServer]:
    with ApiServer(new_namespace(valkey), require_keys=True, key_pepper=PEPPER) as server:
        yield server


@pytest_asyncio.fixture
async def admin(store: JobStore) -> ApiKey:
    key = ApiKey.new()
    await AccessStore(store).create(key, PEPPER.encode(), tenant="ops", scopes=[Scope.ADMIN], name="first")
    return key


@pytest_asyncio.fixture
async def http(api: ApiServer, admin: ApiKey) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        client.headers.update(bearer(admin))
        yield client


def bearer(key: object) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_key_is_shown_once_and_lets_its_holder_in(http: httpx.AsyncClient) -> None:
    asked = {"tenant": "alice", "name": "ci", "expires_in_s": 3600, "models": ["b", "a"]}
    got = await http.post(KEYS, json=asked)
    made = got.json()
    assert (got.status_code, got.headers["cache-control"]) == (201, "no-store")
    assert ApiKey.parse(made["key"]) is not None
    assert made["key"].split("_")[1] == made["id"]
    assert made["scopes"] == ["batches", "files", "jobs:read", "jobs:write"]
    assert made["expires_at"] == made["created_at"] + 3600
    kept = {name: value for name, value in made.items() if name != "key"}
    assert (await http.get(f"{KEYS}/{made['id']}")).json() == kept
    assert kept["models"] == ["a", "b"]
    assert kept["state"] == "active"
    assert (await http.get("/v1/jobs", headers=bearer(made["key"]))).status_code == 200
    assert (await http.get(KEYS, headers=bearer(made["key"]))).status_code == 403


async def test_no_answer_has_a_digest_or_a_secret(
    http: httpx.AsyncClient, store: JobStore, admin: ApiKey
) -> None:
    made = (await http.post(KEYS, json={"tenant": "alice"})).json()
    key = ApiKey.parse(made["key"])
    assert key is not None
    record = await store.client.hgetall(store.keys("key", key.id))
    hidden = [str(record["digest"]), key.secret, admin.secret]
    texts = [(await http.get(path)).text for path in (KEYS, f"{KEYS}/{key.id}", f"{KEYS}?tenant=alice")]
    texts.append((await http.request("DELETE", f"{KEYS}/{key.id}")).text)
    assert not [secret for secret in hidden for text in texts if secret in text]


async def test_lists_by_tenant_and_pages(http: httpx.AsyncClient) -> None:
    made = [
        (await http.post(KEYS, json={"tenant": tenant})).json()["id"] for tenant in ("alice", "bob", "alice")
    ]
    page = (await http.get(KEYS, params={"limit": 3})).json()
    assert (len(page["data"]), page["has_more"]) == (3, True)
    rest = (await http.get(KEYS, params={"after": page["last_id"]})).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert {one["id"] for one in page["data"] + rest["data"]} >= set(made)
    of_bob = (await http.get(KEYS, params={"tenant": "bob"})).json()["data"]
    assert [one["id"] for one in of_bob] == [made[1]]
    for after in ("x", "nosuchkey123"):
        got = await http.get(KEYS, params={"after": after})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "after")


async def test_rotating_and_revoking(http: httpx.AsyncClient) -> None:
    made = (await http.post(KEYS, json={"tenant": "alice"})).json()
    turned = (await http.post(f"{KEYS}/{made['id']}/rotate", json={"overlap_s": 600})).json()
    assert turned["id"] == made["id"]
    assert turned["key"] != made["key"]
    assert turned["overlap_until"] > turned["created_at"] + 590
    for key in (made["key"], turned["key"]):
        assert (await http.get("/v1/models", headers=bearer(key))).status_code == 200
    gone = await http.request("DELETE", f"{KEYS}/{made['id']}")
    assert (gone.status_code, gone.json()["state"], gone.json()["overlap_until"]) == (200, "revoked", None)

    async def refused() -> bool:
        return (await http.get("/v1/models", headers=bearer(turned["key"]))).status_code == 401

    await eventually(refused)
    again = await http.post(f"{KEYS}/{made['id']}/rotate")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "key_inactive")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "a", "scopes": ["root"]}, "scopes"),
        ({"tenant": "a", "scopes": []}, "scopes"),
        ({"tenant": "a", "models": []}, "models"),
        ({"tenant": "a", "expires_in_s": 0}, "expires_in_s"),
        ({"tenant": "a", "key": "psk_mine"}, "key"),
    ],
)
async def test_a_bad_request_is_named(http: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    got = await http.post(KEYS, json=body)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("key_id", ["nosuchkey123", "x", "..%2F", "a" * 300])
async def test_an_unknown_key_is_404(http: httpx.AsyncClient, key_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
        got = await http.request(method, f"{KEYS}/{key_id}{path}")
        assert got.status_code == 404
        assert got.json()["error"]["code"] in {"key_not_found", "not_found"}


async def test_a_keyless_server_without_a_pepper_makes_no_key(broker_settings: BrokerSettings) -> None:
    with ApiServer(broker_settings) as server:
        async with server.client() as client:
            got = await client.post(KEYS, json={"tenant": "alice"})
            assert (got.status_code, got.json()["error"]["code"]) == (409, "no_pepper")
            assert (await client.get(KEYS)).json()["data"] == []


async def test_the_sdk_does_the_same(api: ApiServer, admin: ApiKey) -> None:
    def act() -> None:
        with Penstock(api.url, api_key=str(admin)) as client:
            made = client.keys.create("alice", scopes=["jobs:read"], name="x", expires_in_s=60)
            assert made.key is not None
            assert client.keys.get(made.id).key is None
            assert [key.id for key in client.keys.list(tenant="alice")] == [made.id]
            turned = client.keys.rotate(made.id, 60)
            assert turned.key != made.key
            with Penstock(api.url, api_key=turned.key) as other, pytest.raises(PermissionDeniedError):
                other.keys.get(made.id)
            assert client.keys.revoke(made.id).state == "revoked"
            with pytest.raises(ConflictError):
                client.keys.rotate(made.id)
            with pytest.raises(NotFoundError):
                client.keys.get("nosuchkey123")

    await asyncio.to_thread(act)
    async with AsyncPenstock(api.url, api_key=str(admin)) as client:
        made = await client.keys.create("bob")
        assert [key.id async for key in client.keys.list(tenant="bob")] == [made.id]


async def test_the_command_over_the_api_and_direct(
    api: ApiServer, admin: ApiKey, broker_settings: BrokerSettings, tmp_path: Any
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    env["PYTHONPATH"] = str(ROOT)
    over_api = {"PENSTOCK_URL": api.url, "PENSTOCK_API_KEY": str(admin)}
    direct = {
        "PENSTOCK_REDIS_URL": broker_settings.redis_url,
        "PENSTOCK_NAMESPACE": broker_settings.namespace,
        "PENSTOCK_KEY_PEPPER": PEPPER,
    }

    async def command(more: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "penstock", "keys", *args]
        return await asyncio.to_thread(
            subprocess.run, argv, cwd=tmp_path, env=env | more, capture_output=True, text=True, check=False
        )

    async with api.client() as http:
        for more, flags in ((over_api, ()), (direct, ("--direct",))):
            create = ("create", "--tenant", "alice", "--scopes", "jobs:read,files", "--expires", "90d")
            done = await command(more, *create, "--models", "m1,m2", "--json", *flags)
            made = json.loads(done.stdout)
            assert (done.returncode, made["scopes"]) == (0, ["files", "jobs:read"])
            assert made["models"] == ["m1", "m2"]
            assert (await http.get("/v1/jobs", headers=bearer(made["key"]))).status_code == 200
            done = await command(more, "rotate", made["id"], "--overlap", "0", "--text", *flags)
            assert done.stdout.startswith(f"psk_{made['id']}_"), "alone on stdout, for scripts"
            key = done.stdout.strip()
            assert (await http.get("/v1/jobs", headers=bearer(key))).status_code == 200
            done = await command(more, "list", "--tenant", "alice", "--json", *flags)
            assert json.loads(done.stdout.splitlines()[0])["id"] == made["id"]
            done = await command(more, "revoke", made["id"], "nosuchkey123", *flags)
            assert done.returncode == 4
            assert json.loads(done.stdout)["state"] == "revoked"
            assert "key_not_found" in done.stderr
    done = await command({}, "create", "--direct", "--tenant", "alice")
    assert done.returncode == 1
    assert "openssl rand -hex 32" in done.stderr
    done = await command(over_api, "create", "--tenant", "alice", "--scopes", "root")
    assert done.returncode == 2


async def test_a_key_for_some_models_knows_no_other(http: httpx.AsyncClient, store: JobStore) -> None:
    await Puppet(store).live()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

    async def answers(models: list[str]) -> tuple[list[str], list[int]]:
        key = (await http.post(KEYS, json={"tenant": "alice", "models": models})).json()["key"]
        listed = (await http.get("/v1/models", headers=bearer(key))).json()["data"]
        asked = [
            await http.get(f"/v1/models/{MODEL}", headers=bearer(key)),
            await http.post("/v1/jobs", json={"input": body}, headers=bearer(key)),
            await http.post("/v1/batches", json={}, headers=bearer(key)),
        ]
        if asked[1].status_code == 404:
            assert asked[1].json()["error"]["code"] == "model_not_found"
        return [one["id"] for one in listed], [one.status_code for one in asked]

    assert await answers(["other"]) == ([], [404, 404, 403])
    listed, statuses = await answers([MODEL, "other"])
    assert MODEL in listed
    assert statuses == [200, 202, 403]


async def test_every_act_is_in_the_audit_stream(
    http: httpx.AsyncClient, store: JobStore, admin: ApiKey
) -> None:
    made = (await http.post(KEYS, json={"tenant": "alice"})).json()["id"]
    await http.post(f"{KEYS}/{made}/rotate")
    await http.request("DELETE", f"{KEYS}/{made}")
    await http.request("DELETE", f"{KEYS}/{made}")  # it was already
    acts, _ = await AuditStream(store).page(Filter(what="key"), limit=10, newest_first=False)
    assert [(act.what, act.on, act.details["tenant"]) for act in acts] == [
        ("key.create", made, "alice"),
        ("key.rotate", made, "alice"),
        ("key.revoke", made, "alice"),
    ]
    assert {(act.by.key, act.by.address) for act in acts} == {(admin.id, "127.0.0.1")}
