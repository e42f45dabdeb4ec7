"""A short busy life with its errors and deaths: no log line and no answer holds a secret, a prompt, or another tenant."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from broker.db.keys import Keys
from jobs.access import ApiKey
from penstock.server.valkey import EmbeddedServer
from tests.batching import jsonl, row
from tests.namespaces import check_and_empty, new_namespace
from tests.processes import ApiProcess, CoordinatorProcess, WorkerProcess
from tests.security.identities import OPERATORS, Tenant
from tests.security.issuing import issue
from tests.security.objects import BATCH
from tests.security.world import GUARDED, Answer, World
from tests.support import free_port, wait_until

LOUD: dict[str, Any] = {"log_level": "debug", "log_json": True}
LEASE: dict[str, Any] = {
    "lease_ttl_s": 60.0,
    "heartbeat_s": 0.3,
    "reap_interval_s": 0.2,
    "retry_base_s": 0.05,
}
CHAT = "/v1/chat/completions"


class Life:
    """What the tenants do.

    Args:
        world: who hears what they are answered.
        folder: the logs.
        workers: two. They die on the way.
    """

    def __init__(self, world: World, folder: Path, workers: Sequence[WorkerProcess]) -> None:
        self.world, self.folder, self.workers = world, folder, workers
        self.answers: list[Answer] = []

    def say(self, who: str, method: str, url: str, **given: Any) -> Answer:
        got = self.world.ask(self.world.caller(who), method, url, **given)
        self.answers.append(got)
        return got

    def lead(self) -> None:
        """Let every tenant work, and all go wrong that can."""
        for who, tenant in (("bob", self.world.bob), ("alice", self.world.alice)):
            self.work(who, tenant)
            self.err(who, tenant)
        self.come_with_wrong_keys()
        self.reach_for_others()
        self.lose_a_worker()
        self.operate()

    def chat(self, tenant: Tenant, **more: Any) -> dict[str, Any]:
        return {
            "model": "simulated",
            "messages": [{"role": "user", "content": tenant.prompt}],
            "max_tokens": 4,
            "user": tenant.note,
            **more,
        }

    def work(self, who: str, tenant: Tenant) -> None:
        """Use each face once."""
        body = self.chat(tenant)
        assert self.say(who, "POST", CHAT, json=body).status == 200
        assert self.say(who, "POST", CHAT, json=body | {"stream": True}).status == 200
        named = {"idempotency-key": tenant.note}
        job = {"input": body, "metadata": {"note": tenant.note}, "affinity_key": tenant.note}
        done = self.say(who, "POST", "/v1/jobs?wait=10", json=job, headers=named)
        ident = json.loads(done.text)["id"]
        tenant.objects["job", "done"] = ident
        for path in ("", "/result", "/events"):
            assert self.say(who, "GET", f"/v1/jobs/{ident}{path}").status == 200
        rows = [row(1, tenant.prompt), row(2, tenant.prompt, max_tokens=tenant.prompt), tenant.prompt]
        sent = {"file": (f"{tenant.note}.jsonl", jsonl(rows[:2]))}
        file = json.loads(self.say(who, "POST", "/v1/files", files=sent, data={"purpose": "batch"}).text)
        bad = {"file": (f"{tenant.note}.jsonl", jsonl(rows))}
        broken = json.loads(self.say(who, "POST", "/v1/files", files=bad, data={"purpose": "batch"}).text)
        for one in (file, broken):
            body = BATCH | {"input_file_id": one["id"], "metadata": {"note": tenant.note}}
            batch = json.loads(self.say(who, "POST", "/v1/batches", json=body).text)["id"]
            wait_until(partial(self.ended, who, batch))
            self.say(who, "GET", f"/v1/batches/{batch}/results")
            self.say(who, "GET", f"/v1/batches/{batch}/verify")
            self.say(who, "POST", f"/v1/batches/{batch}/retry")

    def ended(self, who: str, batch: str) -> bool:
        got = json.loads(self.say(who, "GET", f"/v1/batches/{batch}").text)
        return got["status"] in {"completed", "failed"}

    def err(self, who: str, tenant: Tenant) -> None:
        """Send what is refused, and what fails."""
        body, mark = self.chat(tenant), tenant.prompt
        refused: list[dict[str, Any]] = [
            {"content": f'{{"model": "simulated", "messages": "{mark}"'.encode()},
            {"json": body | {"messages": [{"role": mark}]}},
            {"json": body | {"max_tokens": mark}},
            {"json": body | {"model": tenant.note}},
            {"json": body | {mark: mark}},
            {"json": body | {"messages": [{"role": "user", "content": mark * 40_000}]}},
        ]
        statuses = [self.say(who, "POST", CHAT, **given).status for given in refused]
        assert sum(status in {400, 404, 413} for status in statuses) >= 4
        assert self.say(who, "POST", "/v1/jobs", json={"input": body, "priority": mark}).status == 400
        assert self.say(who, "GET", f"/v1/jobs/{mark}").status == 404
        assert self.say(who, "GET", f"/v1/models/{mark}").status == 404
        assert self.say(who, "GET", f"/v1/{mark}", params={"prompt": mark}).status == 404
        assert self.say(who, "POST", "/v1/files", content=mark.encode()).status == 400
        self.say(who, "POST", "/v1/dead/retry", json={"limit": 1})
        failures = ("error", "die") if who == "alice" else ("error",)  # an engine's death ends its worker
        for failure in failures:
            job = {"input": body | {"simulate": failure}, "max_attempts": 1, "metadata": {"note": mark}}
            failed = json.loads(self.say(who, "POST", "/v1/jobs?wait=10", json=job).text)
            assert failed["state"] == "failed", failed
            self.wait_for_a_worker()

    def come_with_wrong_keys(self) -> None:
        """Show keys that open nothing, and good ones in the wrong places."""
        for name in ("garbage", "unknown", "expired", "revoked", "rotated out"):
            assert self.say(name, "GET", "/v1/jobs").status == 401
        good = self.world.caller("alice").key
        assert good is not None
        parsed = ApiKey.parse(good)
        assert parsed is not None
        for headers in (
            {"authorization": f"Basic {good}"},
            {"authorization": f"Bearer {good}x"},
            {"authorization": f"Bearer {ApiKey(parsed.id, ApiKey.new().secret)}"},
            {"x-api-key": f"{good}x"},
        ):
            assert self.say("none", "GET", "/v1/jobs", headers=headers).status == 401
        for path in (f"/v1/jobs/{good}", f"/v1/{good}", f"/v1/jobs?api_key={good}"):
            self.say("none", "GET", path)
            self.say("alice", "GET", path)

    def reach_for_others(self) -> None:
        """Ask for another's objects, and for what the key's scopes do not open."""
        (job,) = (self.world.alice.objects["job", "done"],)
        for path in ("", "/result", "/events"):
            assert self.say("bob", "GET", f"/v1/jobs/{job}{path}").status == 404
        assert self.say("bob", "POST", f"/v1/jobs/{job}/retry").status == 404
        assert self.say("bob", "POST", "/v1/queues/default/pause").status == 403

    def lose_a_worker(self) -> None:
        """Kill a worker under both tenants' jobs."""
        ids = [
            json.loads(self.say(who, "POST", "/v1/jobs", json=wish).text)["id"]
            for who, tenant in (("alice", self.world.alice), ("bob", self.world.bob))
            for wish in [{"input": self.chat(tenant, max_tokens=400), "max_attempts": 1}]
        ]
        wait_until(lambda: all(self.state(job) == "running" for job in ids))
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
            worker.wait()
        with Redis.from_url(self.world.base.redis_url) as client:  # their leases end: nobody waits for that
            leases = Keys(self.world.base.namespace)("leases")
            client.zadd(leases, dict.fromkeys(client.zrange(leases, 0, -1), 0), xx=True)
        wait_until(lambda: all(self.state(job) == "failed" for job in ids))

    def state(self, job: str) -> str:
        return str(json.loads(self.say("admin", "GET", f"/v1/jobs/{job}").text)["state"])

    def wait_for_a_worker(self) -> None:
        """Wait until calls are taken."""
        wait_until(lambda: self.world.http.get("/health/ready").status_code == 200)

    def operate(self) -> None:
        """Do as an administrator does."""
        for path in ("pause", "resume"):
            assert self.say("admin", "POST", f"/v1/queues/default/{path}").status == 200
        job = self.world.alice.objects["job", "done"]
        assert self.say("admin", "POST", f"/v1/jobs/{job}/cancel").status == 200
        self.say("admin", "DELETE", "/v1/queues/default/low")


@pytest.fixture(scope="module")
def life(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A life that was led, with the logs of its processes, which have ended."""
    base, folder = new_namespace(valkey), tmp_path_factory.mktemp("life")
    keys = asyncio.run(issue(base))
    files = {**LOUD, **LEASE, "files_url": str(folder / "files")}
    with ExitStack() as stack:

        def worker(name: str) -> WorkerProcess:
            return WorkerProcess(base, folder / f"{name}.log", name, simulated_inter_token_s=0.02, **files)

        api = ApiProcess(base, folder / "api.log", free_port(), max_wait_s=10, **GUARDED, **files)
        coordinator = CoordinatorProcess(base, folder / "coordinator.log", **files)
        first, second = worker("w1"), worker("w2")
        for one in (api, coordinator, first, second):
            stack.callback(one.close)
        asyncio.run(api.ready())
        world = World(api.url, base, keys)
        stack.callback(world.http.close)
        wait_until(lambda: first.is_ready() and second.is_ready())
        found = Life(world, folder, (first, second))
        found.wait_for_a_worker()
        found.lead()
        for one in (api, coordinator):
            one.signal(signal.SIGTERM)
            assert one.wait() == 0
        yield found
    check_and_empty(base)


def lines(life: Life) -> Iterator[tuple[str, str]]:
    """Return each line of every log."""
    for log in sorted(life.folder.glob("*.log")):
        text = log.read_text()
        assert len(text.splitlines()) > 5, log
        yield from ((log.stem, line) for line in text.splitlines())


def test_no_log_line_holds_a_secret(life: Life) -> None:
    found = [one for one in lines(life) if any(secret in one[1] for secret in life.world.secrets)]
    assert found == []


def test_no_log_line_holds_what_was_asked_or_answered(life: Life) -> None:
    words = [mark for one in life.world.tenants.values() for mark in (one.prompt, one.answer, one.note)]
    answers = [
        json.loads(got.text) for got in life.answers if got.headers["content-type"] == "application/json"
    ]
    said = {one["choices"][0]["message"]["content"] for one in answers if "choices" in one}
    assert said
    assert [one for one in lines(life) if any(word in one[1] for word in [*words, *said])] == []


def test_a_line_names_one_tenant_at_most(life: Life) -> None:
    names = [*life.world.tenants, OPERATORS]
    found = [one for one in lines(life) if sum(name in one[1] for name in names) > 1]
    assert found == []


def test_the_life_had_its_errors(life: Life) -> None:
    """The searches above must have had something to find."""
    statuses = {got.status for got in life.answers}
    assert {200, 202, 400, 401, 403, 404} <= statuses
    events = {json.loads(line)["event"] for _, line in lines(life) if line.startswith("{")}
    assert {"request_refused", "job_accepted", "job_failed", "reaped", "batch_moved"} <= events
