"""Two tenants and an administrator beside one api, each with objects of every kind; and an ear for what it tells whom."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import ApiKey, Scope
from jobs.endpoints import CHAT, COMPLETIONS, RESPONSES
from tests.apiserver import ApiServer
from tests.coordinators import CoordinatorThread
from tests.processes import WorkerProcess
from tests.puppet import FACTS, Puppet
from tests.security.identities import ALICE, BOB, WANTED, Tenant, bearer
from tests.security.issuing import PEPPER, secrets_of
from tests.security.objects import BATCH, Maker
from tests.security.routes import BODIES, Route
from tests.support import eventually, wait_until

GUARDED: dict[str, Any] = {"require_keys": True, "key_pepper": PEPPER, "failed_keys_per_minute": 1_000_000}
"""Settings of an api that requires keys, and lets the tests come with wrong ones."""

_ANTHROPICS = {"authentication_error": "invalid_api_key", "permission_error": "insufficient_scope"}
"""The code that Anthropic's type of an error stands for."""

_REQUEST_ID = re.compile(r'"request_id":"[^"]*"')

POOL = "strings"
"""Where jobs run as the tests say."""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        sees: the tenants whose words may stand in the answer.
        counts_tenants: the names of all may; it has the scope ``metrics``.
    """

    name: str
    key: str | None
    sees: tuple[str, ...]
    counts_tenants: bool


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def code(self) -> str | None:
        """The error's code; None: no error."""
        body = httpx.Response(self.status, text=self.text).json()
        if body.get("type") == "error":  # Anthropic's, which have no codes
            kind = str(body["error"]["type"])
            return _ANTHROPICS.get(kind, kind)
        error = body.get("error")
        return None if error is None else str(error["code"])

    def without(self, ident: str = "") -> Answer:
        """Return it with an id, and what differs between any two calls, taken out."""
        changing = {"date", "x-request-id", "request-id", "openai-processing-ms", "traceparent"}
        kept = {
            name: "" if name.startswith("x-ratelimit") else _cut(value, ident)
            for name, value in self.headers.items()
            if name not in changing
        }
        return Answer(self.status, kept, _cut(_REQUEST_ID.sub("", self.text), ident))


_DRIVEN = {b"rows_per_s", b"tokens_per_s", b"lane", b"revision"}
"""Fields of a batch that its coordinator changes while it runs."""


def _unmoved(client: Redis, key: bytes) -> Any:
    """Return what a key holds, without what changes by itself."""
    if client.type(key) == b"hash" and b":batch:" in key:
        return {name: value for name, value in client.hgetall(key).items() if name not in _DRIVEN}
    return client.dump(key)


class World:
    """An api with tenants.

    Args:
        url: where it is.
        base: its Redis and namespace.
        keys: of each name in ``WANTED``, and of some more who have none of these.
    """

    def __init__(self, url: str, base: BrokerSettings, keys: Mapping[str, str | None]) -> None:
        self.url, self.base = url, base
        self._callers = {name: _caller(name, key) for name, key in keys.items()}
        self.alice, self.bob = _tenant(ALICE, keys["alice"]), _tenant(BOB, keys["bob"])
        self.tenants = {tenant.name: tenant for tenant in (self.alice, self.bob)}
        self.secrets = {PEPPER, *secrets_of(keys)}
        self.http = httpx.Client(base_url=url, timeout=20.0)

    def caller(self, name: str) -> Caller:
        """Return who has the key of this name."""
        return self._callers[name]

    def body(self, route: Route) -> dict[str, Any]:
        """Return a body that the route takes, as arguments of a request."""
        body = dict(BODIES.get(str(route), {}))
        if str(route) == "POST /v1/batches":
            return {"json": BATCH | {"input_file_id": self.bob.objects["file", "unused"]}}
        return body

    def records(self) -> dict[str, Any]:
        """Read whatever Redis holds under an id of the first tenant's objects."""
        with Redis.from_url(self.base.redis_url) as client:
            ids = {ident.removeprefix("chatcmpl-") for ident in self.alice.objects.values()}
            names = (key for key in client.scan_iter(f"{self.base.namespace}*", 1000))
            found = {key for key in names if not ids.isdisjoint(key.decode().split(":"))}
            return {key: _unmoved(client, key) for key in sorted(found)}

    def ask(self, caller: Caller, method: str, url: str, **given: Any) -> Answer:
        """Send a request, and fail if the answer tells its caller what is none of their business."""
        headers = {**bearer(caller.key), **given.pop("headers", {})}
        with self.http.stream(method, url, headers=headers, **given) as got:
            if got.headers.get("content-type", "").startswith("text/event-stream"):
                text = next(got.iter_text())  # a job that runs has no last event
            else:
                got.read()
                text = got.text
        answer = Answer(got.status_code, dict(got.headers), text)
        sent = f"{method} {url} {given}"
        relayed = (
            answer.status == 503 or "x-penstock-job-id" in answer.headers
        )  # no worker; an engine's own error
        assert answer.status < 500 or relayed, f"{caller.name}: {sent}: {answer}"
        found = self.leaks(caller, f"{answer.headers} {text}", sent)
        assert not found, f"{caller.name} learns {found} by {sent}: {answer}"
        return answer

    def leaks(self, caller: Caller, answer: str, sent: str) -> list[str]:
        """Return what an answer says of others, or of keys, that its request did not say."""
        words = [mark for name, one in self.tenants.items() if name not in caller.sees for mark in one.marks]
        if caller.counts_tenants:
            words = [word for word in words if word not in self.tenants]
        return [word for word in [*words, *self.secrets] if word in answer and word not in sent]


def _caller(name: str, key: str | None) -> Caller:
    wanted = WANTED.get(name, WANTED["bob"])
    return Caller(name, key, wanted.sees if key else (), bool(key) and Scope.METRICS in wanted.scopes)


def _tenant(name: str, key: str | None) -> Tenant:
    assert key is not None
    parsed = ApiKey.parse(key)
    assert parsed is not None
    prompt, answer, note = (f"{kind}-{secrets.token_hex(6)}" for kind in ("prompt", "answer", "note"))
    objects = {("key", "good"): parsed.id, ("tenant", "set"): name}
    return Tenant(name, key, prompt, answer, note, objects)


@contextmanager
def build(base: BrokerSettings, folder: Path, keys: Mapping[str, str | None]) -> Iterator[World]:
    """Start everything and make the objects."""
    files: dict[str, Any] = {"files_url": str(folder / "files")}
    with ExitStack() as stack:
        stack.enter_context(CoordinatorThread(base, **files))
        given = {**GUARDED, **files, "queue_timeout_s": 0.5, "max_wait_s": 1}
        api = stack.enter_context(ApiServer(base, **given))
        worker = WorkerProcess(base, folder / "worker.log", **files)
        stack.callback(worker.close)
        world = World(api.url, base, keys)
        stack.callback(world.http.close)
        wait_until(worker.is_ready)
        asyncio.run(_make_objects(world))
        yield world


async def _make_objects(world: World) -> None:
    base = world.base
    settings = BrokerSettings(redis_url=base.redis_url, namespace=base.namespace, lease_ttl_s=3600)
    store = JobStore(connect(base.redis_url), settings)
    puppet = Puppet(store, pool=POOL)
    await puppet.live(facts={**FACTS, "endpoints": [CHAT, COMPLETIONS, RESPONSES]})
    try:
        async with httpx.AsyncClient(base_url=world.url, timeout=20.0) as http:

            async def known() -> bool:
                got = await http.get("/v1/models", headers=bearer(world.alice.key))
                return len(got.json()["data"]) == 2

            await eventually(known)
            admin = bearer(world.caller("admin").key)
            for tenant in world.tenants.values():
                url = f"/v1/admin/tenants/{tenant.name}"
                assert (await http.put(url, json={"weight": 2}, headers=admin)).status_code == 200
            makers = [Maker(http, puppet, tenant) for tenant in world.tenants.values()]
            for maker in makers:
                await maker.all()
            for maker in makers:
                await maker.queued()
    finally:
        await store.aclose()


def _cut(text: str, ident: str) -> str:
    return text.replace(ident, "ID") if ident else text
