"""API keys in Redis: what is stored, who is let in, and how soon every api process knows of a change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog

from api.access import known_keys
from api.access.given import GivenKeys
from api.access.known_keys import KnownKeys
from api.access.known_tenants import KnownTenants
from broker.access import TAKEN_OVER_SCOPES, AccessStore
from broker.db.calls.access import KeyFound
from broker.db.errors import KeyInactiveError
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tenants import TenantStore
from jobs.access import TENANT_SCOPES, ApiKey, Identity, Scope, given_key
from jobs.tenants import Tenant
from tests.apiserver import ApiServer
from tests.oidcissuer import AUDIENCE, OidcIssuer
from tests.redisproxy import RedisProxy
from tests.support import eventually

pytestmark = pytest.mark.asyncio

PEPPER = b"a pepper of the tests"


def known_to_nobody(store: JobStore, access: AccessStore, **more: Any) -> KnownKeys:
    """Return the memory of a process that has just begun."""
    return KnownKeys(access, PEPPER, GivenKeys(access, {}, PEPPER), KnownTenants(TenantStore(store)), **more)


@pytest.fixture
def access(store: JobStore) -> AccessStore:
    return AccessStore(store)


@pytest.fixture
def servers(broker_settings: BrokerSettings) -> Iterator[tuple[ApiServer, ApiServer]]:
    """Two api processes' worth of servers, which share nothing but Redis."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                ApiServer(
                    broker_settings,
                    require_keys=True,
                    key_pepper=PEPPER.decode(),
                    failed_keys_per_minute=10_000,
                )
            )
            for _ in range(2)
        )
        yield one, two


@pytest_asyncio.fixture
async def clients(
    servers: tuple[ApiServer, ApiServer],
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    async with servers[0].client() as one, servers[1].client() as two:
        yield one, two


def bearer(key: object) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def status(client: httpx.AsyncClient, key: object, path: str = "/v1/jobs") -> int:
    return (await client.get(path, headers=bearer(key))).status_code


async def create(access: AccessStore, **more: Any) -> ApiKey:
    key = ApiKey.new()
    await access.create(key, PEPPER, **{"tenant": "alice", "scopes": TENANT_SCOPES, **more})
    return key


async def test_redis_has_a_digest_and_no_secret(access: AccessStore, store: JobStore) -> None:
    key = await create(access, name="ci", models=["b", "a,c"], expires_in_ms=60_000)
    record = await access.get(key.id)
    assert record is not None
    assert (record.tenant, record.name, record.scopes) == ("alice", "ci", TENANT_SCOPES)
    assert record.models == frozenset({"a,c", "b"})
    assert record.expires_ms == record.created_ms + 60_000
    assert (record.used_ms, record.overlap_ms, record.revoked) == (None, None, False)
    stored = await store.client.hgetall(store.keys("key", key.id))
    assert stored["digest"] == key.digest(PEPPER) != key.digest(b"another pepper")
    assert key.secret not in str(stored)


async def test_a_repeated_call_does_no_more(access: AccessStore) -> None:
    key = await create(access)
    await access.create(key, PEPPER, tenant="alice", scopes=TENANT_SCOPES)
    with pytest.raises(ValueError, match="there is a key"):
        await access.create(ApiKey.new(key.id), PEPPER, tenant="bob", scopes=TENANT_SCOPES)
    new = ApiKey.new(key.id)
    await access.rotate(new, PEPPER, overlap_ms=60_000)
    await access.rotate(new, PEPPER, overlap_ms=60_000)
    found = await access.find(key.id)
    assert (found.digest, found.digest2) == (new.digest(PEPPER), key.digest(PEPPER))


async def test_every_change_raises_the_version(access: AccessStore) -> None:
    versions = [(await access.version())[0]]

    async def raised() -> bool:
        versions.append((await access.version())[0])
        return versions[-1] > versions[-2]

    key = await create(access)
    assert await raised()
    await access.rotate(ApiKey.new(key.id), PEPPER, overlap_ms=0)
    assert await raised()
    await access.used([key.id])
    assert not await raised()
    assert await access.revoke(key.id)
    assert await raised()
    assert await access.revoke(key.id)
    assert not await raised()
    assert not await access.revoke("nosuchkey123")
    with pytest.raises(KeyInactiveError):
        await access.rotate(ApiKey.new(key.id), PEPPER, overlap_ms=0)
    with pytest.raises(LookupError):
        await access.rotate(ApiKey.new(), PEPPER, overlap_ms=0)


async def test_lists_are_paged_newest_first(access: AccessStore) -> None:
    made = [(await create(access, tenant=tenant)).id for tenant in ("alice", "bob", "alice", "alice")]

    async def pages(tenant: str | None) -> list[str]:
        ids, after, more = [], None, True
        while more:
            found, more = await access.page(tenant=tenant, after=after, limit=2)
            ids += [record.id for record in found]
            after = ids[-1]
        return ids

    everyone = await pages(None)
    assert sorted(everyone) == sorted(made)
    assert set(await pages("alice")) == {made[0], made[2], made[3]}
    assert await pages("bob") == [made[1]]
    with pytest.raises(LookupError):
        await access.page(tenant="bob", after=made[0], limit=2)
    assert await access.page(tenant="nobody", after=None, limit=2) == ([], False)


async def test_a_revoked_key_lets_nobody_into_any_process_within_two_seconds(
    access: AccessStore, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    key = await create(access)
    for client in clients:
        assert await status(client, key) == 200
    await access.revoke(key.id)
    revoked_at = time.monotonic()

    async def refused(client: httpx.AsyncClient) -> bool:
        began_at = time.monotonic()
        code = await status(client, key)
        assert code == 401 or began_at - revoked_at < 2.0, "whoever comes two seconds later"
        return code == 401

    for client in clients:
        await eventually(partial(refused, client))


async def test_after_a_rotation_both_secrets_are_right(
    access: AccessStore, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    key = await create(access)
    assert [await status(client, key) for client in clients] == [200, 200]
    new = ApiKey.new(key.id)
    await access.rotate(new, PEPPER, overlap_ms=60_000)
    for client in clients:
        assert [await status(client, one) for one in (new, key)] == [200, 200], "at once"
    newest = ApiKey.new(key.id)
    await access.rotate(newest, PEPPER, overlap_ms=0)

    async def only_the_newest() -> bool:
        return [await status(clients[1], one) for one in (key, new, newest)] == [401, 401, 200]

    await eventually(only_the_newest)


async def test_the_older_secret_goes_when_its_time_is_over(access: AccessStore, store: JobStore) -> None:
    now = 1000.0
    keys = known_to_nobody(store, access, clock=lambda: now)
    old = await create(access)
    new = ApiKey.new(old.id)
    await access.rotate(new, PEPPER, overlap_ms=1000)
    who = [await keys.look_up(str(one)) for one in (old, new)]
    assert (
        who
        == [keys.recall(str(old)), keys.recall(str(new))]
        == [Identity("alice", TENANT_SCOPES, old.id)] * 2
    )
    now += 1.1
    assert keys.recall(str(old)) is None
    assert not keys.has_seen(str(old))
    assert keys.recall(str(new)) == who[1]
    now += known_keys.FRESH_S
    assert keys.recall(str(new)) is None, "Redis has not confirmed it for too long"
    assert keys.has_seen(str(new))


async def test_what_a_process_remembers_of_a_key_is_neither_its_secret_nor_what_redis_has(
    access: AccessStore, store: JobStore
) -> None:
    key = await create(access)
    one, other = known_to_nobody(store, access), known_to_nobody(store, access)
    for keys in (one, other):
        assert await keys.look_up(str(key)) == keys.recall(str(key))
    names = [name for keys in (one, other) for name in keys._keys]
    assert len({*names}) == 2, "each process has names of its own"
    held = f"{names} {[*one._keys.values()]}"
    assert key.secret not in held
    assert key.digest(PEPPER) not in held


async def test_a_key_that_became_wrong_is_forgotten(access: AccessStore, store: JobStore) -> None:
    keys = known_to_nobody(store, access)
    key = await create(access)
    await keys.look_up(str(key))
    assert keys.has_seen(str(key))
    await access.revoke(key.id)
    assert await keys.look_up(str(key)) is known_keys.Wrong.KEY
    assert not keys.has_seen(str(key))
    assert keys.recall(str(key)) is None


async def test_a_look_up_brings_the_tenant_with_it(access: AccessStore, store: JobStore) -> None:
    tenants = TenantStore(store)
    known = KnownTenants(tenants)
    keys = KnownKeys(access, PEPPER, GivenKeys(access, {}, PEPPER), known)
    await tenants.change("alice", {"requests_per_minute": 5, "models": ["m"]})
    key, other = await create(access), await create(access, tenant="bob")
    for one in (key, other):
        await keys.look_up(str(one))
    before = await store.client.info("commandstats")
    assert await known.get("alice") == Tenant("alice", requests_per_minute=5, models=("m",))
    assert await known.get("bob") == Tenant("bob")
    after = await store.client.info("commandstats")
    assert after["cmdstat_hgetall"]["calls"] == before["cmdstat_hgetall"]["calls"], "it knows them"


async def test_a_tenant_that_changed_during_the_look_up_of_its_key_is_read_again(
    access: AccessStore, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = TenantStore(store)
    known = KnownTenants(tenants)
    keys = KnownKeys(access, PEPPER, GivenKeys(access, {}, PEPPER), known)
    key, find = await create(access), access.find

    async def overtaken(key_id: str) -> KeyFound:
        found = await find(key_id)
        await tenants.change("alice", {"weight": 2})
        known.forget()
        return found

    monkeypatch.setattr(access, "find", overtaken)
    await keys.look_up(str(key))
    assert (await known.get("alice")).weight == 2


async def test_a_late_answer_is_asked_for_again(
    access: AccessStore, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was held up, not Redis: a good key is not refused."""
    monkeypatch.setattr(known_keys, "FRESH_S", 1.0)
    find, asked = access.find, 0

    async def late_once(key_id: str) -> KeyFound:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.sleep(30)
        return await find(key_id)

    key = await create(access)
    monkeypatch.setattr(access, "find", late_once)
    assert isinstance(await known_to_nobody(store, access).look_up(str(key)), Identity)
    assert asked > 1


async def test_an_expired_key_says_so_only_with_the_right_secret(
    access: AccessStore, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    key = await create(access, expires_in_ms=1)
    wrong = ApiKey.new(key.id)

    async def message(one: ApiKey) -> tuple[int, str, str]:
        got = await clients[0].get("/v1/jobs", headers=bearer(one))
        error = got.json()["error"]
        return got.status_code, error["code"], error["message"].partition(";")[0]

    async def expired() -> bool:
        return await message(key) == (401, "invalid_api_key", "this API key or token has expired")

    await eventually(expired)
    assert await message(wrong) == (401, "invalid_api_key", "Incorrect API key provided")
    assert await message(wrong) == await message(ApiKey.new())


async def test_scopes_and_the_tenant_are_the_keys(
    access: AccessStore, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    key = await create(access, scopes=[Scope.JOBS_READ])
    assert await status(clients[0], key) == 200
    assert await status(clients[0], key, "/v1/files") == 403
    assert await status(clients[0], key, "/v1/models") == 200


async def test_tries_from_an_address_are_bounded_but_not_for_who_was_let_in(
    access: AccessStore, clients: tuple[httpx.AsyncClient, ...], broker_settings: BrokerSettings
) -> None:
    key, late = await create(access), await create(access)
    given: dict[str, Any] = {"require_keys": True, "key_pepper": PEPPER.decode()}
    with ApiServer(broker_settings, failed_keys_per_minute=5, **given) as server:
        async with server.client() as client:
            await _fail_too_often(access, client, key, late)
    assert await status(clients[0], late) == 200, "each process counts for itself"


async def _fail_too_often(access: AccessStore, client: httpx.AsyncClient, key: ApiKey, late: ApiKey) -> None:
    assert await status(client, key) == 200
    for wrong in (ApiKey.new(), "garbage", str(key)[:-1] + "~", ApiKey.new(key.id), "~"):
        assert await status(client, wrong) == 401
    got = await client.get("/v1/jobs", headers=bearer(ApiKey.new()))
    error = got.json()["error"]
    assert (got.status_code, error["code"], error["type"]) == (429, "too_many_attempts", "rate_limit_error")
    assert 1 <= int(got.headers["retry-after"]) <= 12
    assert await status(client, "garbage") == 429
    assert await status(client, late) == 429
    assert await status(client, key) == 200
    await access.rotate(ApiKey.new(key.id), PEPPER, overlap_ms=60_000)  # now it must be looked up again
    assert await status(client, key) == 200
    assert (await client.get("/v1/jobs")).status_code == 401, "no key is no try"
    assert (await client.get("/health/live", headers=bearer("garbage"))).status_code == 200


async def test_garbage_needs_no_look_up(
    access: AccessStore, servers: tuple[ApiServer, ApiServer], clients: tuple[httpx.AsyncClient, ...]
) -> None:
    store: AccessStore = servers[0].services.access
    asked: list[str] = []
    find = store.find

    async def noted(key_id: str) -> KeyFound:
        asked.append(key_id)
        return await find(key_id)

    store.find = noted  # type: ignore[method-assign]
    good = await create(access)
    for text in ("sk-alice", str(good)[:-1], "psk_x", "é"):
        await clients[0].get("/v1/jobs", headers={b"authorization": f"Bearer {text}".encode()})
    assert asked == []
    for _ in range(3):
        assert await status(clients[0], good) == 200
    assert asked == [good.id]


async def test_the_last_use_is_noted_once_in_a_while(
    access: AccessStore, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    key = await create(access)
    assert await status(clients[0], key) == 200

    async def used_ms() -> int | None:
        record = await access.get(key.id)
        return None if record is None else record.used_ms

    first = await eventually(used_ms)
    assert await status(clients[1], key) == 200
    await access.used([key.id])
    assert await used_ms() == first


async def test_without_redis_no_key_is_right_after_two_seconds(
    access: AccessStore, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    key = await create(access)
    with RedisProxy(broker_settings.redis_url, tmp_path / "redis") as proxy:
        base = broker_settings.model_copy(update={"redis_url": proxy.url})
        with ApiServer(base, require_keys=True, key_pepper=PEPPER.decode()) as server:
            async with server.client() as client:
                assert await status(client, key, "/v1/models") == 200
                proxy.lose = b""  # every command

                async def refused() -> httpx.Response | None:
                    got = await client.get("/v1/models", headers=bearer(key))
                    return got if got.status_code == 503 else None

                got = await eventually(refused)
                assert got.json()["error"]["code"] == "redis_unavailable"
                proxy.lose = None

                async def back() -> bool:
                    return await status(client, key, "/v1/models") == 200

                await eventually(back)


async def test_keys_of_the_setting_are_taken_over_once(
    access: AccessStore, broker_settings: BrokerSettings
) -> None:
    settings = {"key_pepper": PEPPER.decode(), "api_keys": {"alice": "sk-alice", "bob": "sk-bob"}}
    alice = given_key("sk-alice", PEPPER)
    with structlog.testing.capture_logs() as lines, ApiServer(broker_settings, **settings) as server:
        async with server.client() as client:
            assert await status(client, "sk-alice") == 200
            assert await status(client, "sk-bob", "/v1/workers") == 200
            drain = await client.post("/v1/queues/default/pause", headers=bearer("sk-bob"))
            assert drain.status_code == 403, "they are no administrator's"
            assert await status(client, "sk-eve") == 401
    assert "api_keys_taken_over" in {line["event"] for line in lines}
    record = await access.get(alice.id)
    assert record is not None
    assert (record.tenant, record.scopes) == ("alice", TAKEN_OVER_SCOPES)
    await access.revoke(given_key("sk-bob", PEPPER).id)
    settings["api_keys"] = {"eve": "sk-eve", "bob": "sk-bob"}
    with structlog.testing.capture_logs() as lines, ApiServer(broker_settings, **settings) as server:
        async with server.client() as client:
            assert await status(client, "sk-alice") == 200
            assert await status(client, "sk-bob") == 401
            assert await status(client, "sk-eve") == 401
    warned = {line["event"]: line for line in lines if line["event"].startswith("api_keys")}
    assert warned["api_keys_ignored"]["tenants"] == ["eve"]
    assert warned["api_keys_still_valid"]["keys"] == [alice.id]
    assert "sk-" not in str(warned)


async def test_a_key_of_the_setting_can_be_rotated_into_one_of_ours(
    access: AccessStore, broker_settings: BrokerSettings
) -> None:
    old = given_key("sk-alice", PEPPER)
    new = ApiKey.new(old.id)
    with ApiServer(broker_settings, key_pepper=PEPPER.decode(), api_keys={"alice": "sk-alice"}) as server:
        await access.rotate(new, PEPPER, overlap_ms=60_000)
        async with server.client() as client:
            assert await asyncio.gather(*(status(client, one) for one in ("sk-alice", new))) == [200, 200]
            assert await status(client, ApiKey(old.id, "sk-alice")) == 401, (
                "its text is no secret of a psk key"
            )


async def test_a_bounded_number_of_keys_is_remembered(access: AccessStore, store: JobStore) -> None:
    keys = known_to_nobody(store, access, most=2)
    made = [await create(access) for _ in range(3)]
    for key in made:
        await keys.look_up(str(key))
    newest = ApiKey.new()
    await keys.look_up(str(newest))  # there is none: nothing to remember
    assert [keys.recall(str(key)) is None for key in made] == [True, False, False]


async def test_a_token_of_the_issuer_lets_its_tenant_in(broker_settings: BrokerSettings) -> None:
    with OidcIssuer() as issuer:
        issuer.add_key("k1", "RS256")
        given: dict[str, Any] = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
        with ApiServer(broker_settings, key_pepper=PEPPER.decode(), **given) as server:
            async with server.client() as client:
                assert await status(client, issuer.token("k1")) == 200
                assert await status(client, issuer.token("k1"), "/v1/files") == 403
                assert await status(client, issuer.token("k1", aud="another")) == 401
                assert (await client.get("/v1/jobs")).status_code == 401
                expired = issuer.token("k1", exp=int(time.time()) - 3600)
                got = await client.get("/v1/jobs", headers=bearer(expired))
                assert "has expired" in got.json()["error"]["message"]
                got = await client.get("/v1/jobs", headers=bearer(issuer.token("k1", tenant=None)))
                assert "names no tenant" in got.json()["error"]["message"]


async def test_an_issuer_that_is_away_is_503(broker_settings: BrokerSettings) -> None:
    with OidcIssuer() as issuer:
        issuer.add_key("k1", "ES256")
        issuer.away = True
        given: dict[str, Any] = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
        with ApiServer(broker_settings, key_pepper=PEPPER.decode(), **given) as server:
            async with server.client() as client:
                got = await client.get("/v1/jobs", headers=bearer(issuer.token("k1")))
                assert (got.status_code, got.json()["error"]["code"]) == (503, "issuer_unavailable")
                assert 1 <= int(got.headers["retry-after"]) <= 120
