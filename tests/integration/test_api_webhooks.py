"""``/v1/webhooks``, and ``webhook_url`` of jobs and batches."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from broker.batch_steps import BatchSteps
from broker.files import FileStore
from broker.jobs import JobStore
from broker.webhooks import Webhooks
from jobs.batch_model import File
from jobs.batches import BatchStatus
from jobs.endpoints import CHAT, RESPONSES
from jobs.webhooks import event_id
from penstock import AsyncPenstock, NotFoundError
from penstock.cli.main import cli
from tests.apiserver import ApiServer
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

HOOKS = "/v1/webhooks"
URL = "https://hooks.example.com/penstock"


async def make(http: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    got = await http.post(HOOKS, json={"url": URL, **more})
    assert got.status_code == 201, got.text
    return dict(got.json())


async def outbox(store: JobStore, endpoint: str) -> list[dict[str, str]]:
    """Return what waits for an endpoint."""
    entries: Any = await store.client.xrange(store.keys("webhook_outbox", endpoint))
    return [entry for _, entry in entries]


def refusal(got: httpx.Response) -> tuple[int, str, str | None]:
    error = got.json()["error"]
    return got.status_code, error["code"], error["param"]


async def test_a_webhook_is_made_looked_at_changed_and_deleted(http: httpx.AsyncClient) -> None:
    got = await http.post(HOOKS, json={"url": URL, "events": ["job.failed", "job.*"], "description": "ops"})
    assert (got.status_code, got.headers["cache-control"]) == (201, "no-store")
    made = got.json()
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made == {
        "id": made["id"],
        "object": "webhook",
        "tenant": "default",
        "url": URL,
        "events": ["job.*"],
        "description": "ops",
        "state": "active",
        "disabled_reason": None,
        "created_at": made["created_at"],
        "overlap_until": None,
        "pending": 0,
        "dead": 0,
    }
    path = f"{HOOKS}/{made['id']}"
    assert (await http.get(path)).json() == made
    assert (await http.get(HOOKS)).json()["data"] == [made]
    changed = await http.patch(path, json={"events": ["*"], "state": "disabled"})
    assert changed.json() == made | {"events": ["*"], "state": "disabled"}
    assert (await http.delete(path)).json() == {"id": made["id"], "object": "webhook", "deleted": True}
    for gone in (await http.get(path), await http.delete(path), await http.patch(path, json={"url": URL})):
        assert refusal(gone) == (404, "webhook_not_found", "webhook_id")
    assert secret not in gone.text


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_request", "url"),
        ({"url": "hooks.example.com"}, "invalid_value", "url"),
        ({"url": "http://hooks.example.com"}, "invalid_value", "url"),
        ({"url": "https://user:word@hooks.example.com"}, "invalid_value", "url"),
        ({"url": "https://10.0.0.1/"}, "invalid_value", "url"),
        ({"url": "https://localhost/"}, "invalid_value", "url"),
        ({"url": "https://[::1]/"}, "invalid_value", "url"),
        ({"url": "https://169.254.169.254/latest"}, "invalid_value", "url"),
        ({"url": URL, "events": ["job.done"]}, "invalid_request", "events"),
        ({"url": URL, "events": []}, "invalid_request", "events"),
        ({"url": URL, "secret": "mine"}, "invalid_request", "secret"),
    ],
)
async def test_what_cannot_be_kept_is_refused_with_its_name(
    http: httpx.AsyncClient, body: dict[str, Any], code: str, param: str
) -> None:
    assert refusal(await http.post(HOOKS, json=body)) == (400, code, param)
    assert (await http.get(HOOKS)).json()["data"] == []


async def test_a_change_is_checked_too(http: httpx.AsyncClient) -> None:
    path = f"{HOOKS}/{(await make(http))['id']}"
    assert refusal(await http.patch(path, json={"url": "https://127.0.0.1"})) == (400, "invalid_value", "url")
    assert refusal(await http.patch(path, json={}))[0] == 400
    assert (await http.get(path)).json()["url"] == URL


async def test_the_eleventh_is_refused(http: httpx.AsyncClient) -> None:
    made = [await make(http) for _ in range(10)]
    assert refusal(await http.post(HOOKS, json={"url": URL})) == (409, "too_many_webhooks", None)
    first = (await http.get(HOOKS, params={"limit": 4})).json()
    rest = (await http.get(HOOKS, params={"limit": 10, "after": first["last_id"]})).json()
    assert first["has_more"]
    assert not rest["has_more"]
    ids = [one["id"] for one in first["data"] + rest["data"]]
    assert sorted(ids) == sorted(one["id"] for one in made)
    assert refusal(await http.get(HOOKS, params={"after": "wh_1"})) == (400, "invalid_request", "after")


async def test_a_rotation_gives_a_new_secret(http: httpx.AsyncClient, store: JobStore) -> None:
    made = await make(http)
    path = f"{HOOKS}/{made['id']}/rotate"
    second = (await http.post(path)).json()
    assert second["overlap_until"] is not None
    secrets = await Webhooks(store).signing_secrets(made["id"], "default")
    assert secrets == (second["secret"], made["secret"])
    third = (await http.post(path, json={"overlap_s": 0})).json()
    assert third["overlap_until"] is None
    assert await Webhooks(store).signing_secrets(made["id"], "default") == (third["secret"],)


async def test_a_tenants_secret_stays_until_it_is_rotated(http: httpx.AsyncClient, store: JobStore) -> None:
    path = f"{HOOKS}/secret"
    first = (await http.get(path)).json()
    assert (await http.get(path)).json() == first
    second = (await http.post(f"{path}/rotate", json={"overlap_s": 60})).json()
    assert (await http.get(path)).json() == second
    job = f"whe_{new_id()}"
    assert await Webhooks(store).signing_secrets(job, "default") == (second["secret"], first["secret"])


async def test_a_test_sends_a_ping(http: httpx.AsyncClient, store: JobStore) -> None:
    made = await make(http, events=["batch.failed"])
    got = await http.post(f"{HOOKS}/{made['id']}/test")
    sent = got.json()
    assert (got.status_code, sent["object"], sent["webhook_id"]) == (202, "webhook.event", made["id"])
    assert (await http.get(f"{HOOKS}/{made['id']}")).json()["pending"] == 1
    (entry,) = await outbox(store, made["id"])
    assert (entry["event"], entry["type"]) == (sent["id"], "ping")


async def test_what_was_sent_is_shown_and_sent_again(http: httpx.AsyncClient, store: JobStore) -> None:
    made = await make(http)
    path = f"{HOOKS}/{made['id']}"
    for number in (1, 2):
        entry: dict[Any, Any] = {
            "event": f"evt_{number}",
            "type": "job.failed",
            "object": "job_1",
            "at": 1500,
        }
        entry |= {"n": number, "status": 503 if number == 1 else 204, "error": "", "ms": 12, "answer": "busy"}
        await store.client.xadd(store.keys("webhook_tries", made["id"]), entry)
    first = (await http.get(f"{path}/deliveries", params={"limit": 1})).json()
    assert first["has_more"]
    (newest,) = first["data"]
    assert newest == {
        "id": newest["id"],
        "object": "webhook.delivery",
        "event": {"id": "evt_2", "type": "job.failed", "object_id": "job_1", "created_at": 1.5},
        "attempt": 2,
        "at": newest["at"],
        "delivered": True,
        "status": 204,
        "error": None,
        "took_ms": 12,
        "answer": "busy",
    }
    (oldest,) = (await http.get(f"{path}/deliveries", params={"after": newest["id"]})).json()["data"]
    assert (oldest["event"]["id"], oldest["delivered"]) == ("evt_1", False)
    letter: dict[Any, Any] = {
        "event": "evt_0",
        "type": "job.failed",
        "object": "job_0",
        "at": 1,
        "why": "failed",
    }
    await store.client.xadd(store.keys("webhook_dead", made["id"]), letter | {"tries": 14})
    (dead,) = (await http.get(f"{path}/dead")).json()["data"]
    assert (dead["event"]["id"], dead["reason"], dead["attempts"]) == ("evt_0", "failed", 14)
    for event in ("evt_1", "evt_0"):
        assert (await http.post(f"{path}/deliveries/{event}/resend")).status_code == 202
    assert (await http.get(path)).json() == {name: one for name, one in made.items() if name != "secret"} | {
        "pending": 2
    }
    missing = await http.post(f"{path}/deliveries/evt_9/resend")
    assert refusal(missing) == (404, "event_not_found", "event")
    assert refusal(await http.get(f"{path}/deliveries", params={"after": "x"}))[0] == 400


async def test_a_job_with_a_webhook_url_tells_it_of_its_end(
    http: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    body = {"input": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}, "webhook_url": URL}

    async def accepted() -> httpx.Response | None:
        got = await http.post("/v1/jobs", json=body)
        return got if got.status_code == 202 else None

    job = (await eventually(accepted)).json()
    assert job["webhook_url"] == URL
    await puppet.succeed(await puppet.take())
    assert (await http.get(f"/v1/jobs/{job['id']}")).json()["webhook_url"] == URL
    own = (await http.get(f"{HOOKS}/whe_{job['id']}")).json()
    assert (own["url"], own["events"], own["pending"]) == (URL, ["*"], 1)
    (entry,) = await outbox(store, own["id"])
    assert (entry["event"], entry["object"]) == (event_id(job["id"], "job.succeeded"), job["id"])
    assert (await http.get(f"{HOOKS}/{own['id']}/deliveries")).json()["data"] == []
    again = (await http.post(f"/v1/jobs/{job['id']}/retry")).json()
    assert again["webhook_url"] == URL
    await puppet.succeed(await puppet.take())


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches"])
async def test_a_webhook_url_is_checked(http: httpx.AsyncClient, puppet: Puppet, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/jobs": {"input": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}},
        "/v1/batches": {
            "endpoint": CHAT,
            "input_file_id": f"file-{7:032x}",
            "completion_window": "24h",
        },
    }
    for url in ("https://10.1.2.3/", "ftp://x", "http://hooks.example.com"):
        got = await http.post(path, json=bodies[path] | {"webhook_url": url})
        assert refusal(got) == (400, "invalid_value", "webhook_url")


async def test_a_batch_with_a_webhook_url_tells_it_of_its_end(
    http: httpx.AsyncClient, store: JobStore
) -> None:
    file = File(f"file-{new_id().removeprefix('job_')}", 1, "x.jsonl", "batch", "x", 0)
    await FileStore(store).create(file, expires_after_ms=None)
    body = {"endpoint": CHAT, "input_file_id": file.id, "completion_window": "24h", "webhook_url": URL}
    made = (await http.post("/v1/batches", json=body)).json()
    assert made["webhook_url"] == URL
    steps = BatchSteps(store, 60, 60)
    batch = await steps.get(made["id"])
    assert batch is not None
    await steps.lease(batch.id, "token", 60)
    assert await steps.step(batch, "token", BatchStatus.FAILED)
    (entry,) = await outbox(store, f"whe_{batch.id}")
    assert (entry["type"], entry["object"]) == ("batch.failed", batch.id)


async def test_the_sdk_does_all_of_it(api: ApiServer, store: JobStore) -> None:
    async with AsyncPenstock(api.url, api_key="none") as client:
        hooks = client.webhooks
        made = await hooks.create(URL, events=["job.*"], description="ops")
        assert (made.secret or "").startswith("whsec_")
        assert await hooks.get(made.id) == made.model_copy(update={"secret": None})
        off = await hooks.update(made.id, state="disabled")
        assert [one async for one in hooks.list(page_size=1)] == [off]
        rotated = await hooks.rotate(made.id, overlap_s=0)
        assert rotated.secret not in {made.secret, None}
        assert (await hooks.rotate_secret(5)).secret == (await hooks.secret()).secret
        sent = await hooks.test(made.id)
        entry: dict[Any, Any] = {"event": sent.id, "type": "ping", "object": made.id, "at": 1000, "n": 1}
        entry |= {"status": "", "error": "refused", "ms": 3, "answer": ""}
        await store.client.xadd(store.keys("webhook_tries", made.id), entry)
        (tried,) = [one async for one in hooks.deliveries(made.id)]
        assert (tried.event.id, tried.event.type, tried.error, tried.delivered) == (
            sent.id,
            "ping",
            "refused",
            False,
        )
        assert [one async for one in hooks.dead(made.id)] == []
        assert (await hooks.resend(made.id, sent.id)).webhook_id == made.id
        assert (await hooks.get(made.id)).pending == 2
        assert (await hooks.delete(made.id)).deleted
        with pytest.raises(NotFoundError):
            await hooks.get(made.id)


async def test_the_command_does_all_of_it(api: ApiServer, store: JobStore) -> None:
    def command(*args: str) -> str:
        done = CliRunner().invoke(cli, ["--url", api.url, "webhooks", *args], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        # The api, in a thread of this process, logs to the same place.
        return "\n".join(
            line for line in done.stdout.splitlines() if not re.match(r"\d{4}-\d\d-\d\d .*\[", line)
        )

    async def run(*args: str) -> str:
        return await asyncio.to_thread(command, *args)

    made = json.loads(await run("create", URL, "--events", "job.*,batch.failed", "--json"))
    hook = made["id"]
    assert (await run("create", URL, "--text")).startswith("whsec_")
    assert json.loads(await run("show", hook, "--json"))["events"] == ["batch.failed", "job.*"]
    assert json.loads(await run("update", hook, "--state", "disabled", "--json"))["state"] == "disabled"
    assert hook in await run("list", "--all", "--text")
    assert (await run("rotate", hook, "--overlap", "0", "--text")).startswith("whsec_")
    assert await run("secret", "--text") == await run("secret", "--text") != ""
    event = await run("test", hook, "--text")
    letter: dict[Any, Any] = {
        "event": event,
        "type": "ping",
        "object": hook,
        "at": 1,
        "why": "failed",
        "tries": 3,
    }
    await store.client.xadd(store.keys("webhook_dead", hook), letter)
    assert await run("deliveries", hook, "--json") == ""
    assert json.loads(await run("deliveries", hook, "--dead", "--json"))["event"]["id"] == event
    assert await run("resend", hook, event, "--text") == event
    assert (await run("delete", hook, "--text")) == f"{hook} deleted"


async def test_a_call_is_its_callers_and_no_webhooks(http: httpx.AsyncClient, puppet: Puppet) -> None:
    hook = f"{HOOKS}/{(await make(http))['id']}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

    async def known() -> bool:
        return bool((await http.get("/v1/models")).json()["data"])

    await eventually(known)
    for path, more in ((CHAT, {}), ("/v1/jobs", {"input": body})):
        asked = asyncio.create_task(http.post(path, json=more or body, headers={"prefer": "wait=20"}))
        await puppet.succeed(await puppet.take())
        assert (await asked).status_code == 200
        assert (await http.get(hook)).json()["pending"] == (path != CHAT)


async def test_a_background_response_tells_the_address_in_its_header(
    http: httpx.AsyncClient, store: JobStore
) -> None:
    puppet = Puppet(store)
    await puppet.live(facts=FACTS | {"endpoints": [RESPONSES]})
    body = {"model": MODEL, "input": "hi", "background": True}

    async def known() -> bool:
        return bool((await http.get("/v1/models")).json()["data"])

    await eventually(known)
    refused = await http.post(RESPONSES, json=body, headers={"x-penstock-webhook": "https://10.0.0.1/"})
    assert refusal(refused) == (400, "invalid_value", "x-penstock-webhook")
    made = (await http.post(RESPONSES, json=body, headers={"x-penstock-webhook": URL})).json()
    claim = await puppet.take()
    await puppet.succeed(claim, b'{"id":"x","object":"response","status":"incomplete","output":[]}')
    told = await outbox(store, f"whe_{claim.id}")
    assert [(one["type"], one["object"]) for one in told] == [
        ("job.succeeded", claim.id),
        ("response.incomplete", made["id"]),
    ]
