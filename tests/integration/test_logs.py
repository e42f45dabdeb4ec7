"""What real processes log: one form, the ids in every line, and nothing of what people ask or are answered."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from monitoring.events import EVENTS
from monitoring.logging import FIRST
from monitoring.trace_context import TraceContext
from tests.environment import clean
from tests.processes import ROOT, ApiProcess, WorkerProcess
from tests.support import eventually, free_port

pytestmark = pytest.mark.asyncio

MARK = "XYZZYsecret"
CHAT = {"model": "simulated", "messages": [{"role": "user", "content": f"say {MARK}"}], "max_tokens": 12}
_RUN = "import sys, json; from api.main import run_api; run_api(overrides=json.loads(sys.argv[1]))"
LOUD: dict[str, Any] = {"log_level": "debug", "log_json": True}


@pytest_asyncio.fixture
async def stack(
    broker_settings: BrokerSettings, tmp_path: Path
) -> AsyncIterator[tuple[httpx.AsyncClient, Path, Path]]:
    """An api and a worker, each a process of its own, that say all there is to say."""
    port = free_port()
    given = {
        "redis_url": broker_settings.redis_url,
        "namespace": broker_settings.namespace,
        "port": port,
        **LOUD,
    }
    log = tmp_path / "api.log"
    with log.open("wb") as out:
        argv = [sys.executable, "-c", _RUN, json.dumps(given)]
        api = subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=out, env=clean(), start_new_session=True)
    worker = WorkerProcess(broker_settings, tmp_path / "worker.log", **LOUD, retry_base_s=0.05)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as http:

            async def ready() -> bool:
                try:
                    return (await http.get("/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready)
            yield http, log, worker.log
    finally:
        worker.close()
        api.send_signal(signal.SIGTERM)
        try:
            api.wait(20)
        finally:
            api.kill()


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]  # all of it is JSON, or this fails


async def test_lines_have_one_form_and_the_ids_and_no_prompts(stack) -> None:
    http, api_log, worker_log = stack
    said: list[str] = []
    caller = TraceContext.new(sampled=True)
    headers = {"traceparent": caller.parent}
    whole = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
    said.append(whole.json()["choices"][0]["message"]["content"])
    traced = whole.headers["x-penstock-job-id"]
    streamed = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert streamed.status_code == 200
    done = await http.post("/v1/jobs?wait=10", json={"input": CHAT, "metadata": {"note": MARK}})
    assert done.json()["state"] == "succeeded"
    failed = await http.post(
        "/v1/jobs?wait=10", json={"input": CHAT | {"simulate": "error"}, "max_attempts": 2}
    )
    assert failed.json()["state"] == "failed"
    refusals = [
        await http.post(
            "/v1/chat/completions", content=b'{"model": "simulated", "messages": "' + MARK.encode() + b'"'
        ),
        await http.post("/v1/chat/completions", json=CHAT | {"messages": [{"role": MARK}]}),
        await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": f"{MARK}"}),
        await http.post(
            "/v1/chat/completions", json=CHAT | {"messages": [{"role": "user", "content": MARK * 40_000}]}
        ),
        await http.post("/v1/completions", json={"model": "simulated", "prompt": [MARK, {"no": MARK}]}),
        await http.post("/v1/jobs", json={"input": CHAT, "priority": MARK}),
    ]
    assert sum(answer.status_code == 400 for answer in refusals) >= 4
    for path in (f"/v1/jobs/{MARK}", f"/v1/{MARK}", f"/v1/jobs?after={MARK}"):
        assert (await http.get(path)).status_code in {400, 404}
    await http.post(f"/v1/jobs/{done.json()['id']}/retry")

    ended = {"job_finished", "job_failed"}
    await eventually(lambda: sum(line["event"] in ended for line in read(worker_log)) >= 5)
    for log, service in ((api_log, "api"), (worker_log, "worker")):
        text = log.read_text()
        assert MARK not in text
        assert not any(words in text for words in said)
        for line in read(log):
            assert line["service"] == service
            assert [name for name in line if name in FIRST] == [name for name in FIRST if name in line]
            assert {"timestamp", "level", "event", "logger"} <= set(line)
            ours = line["logger"].partition(".")[0] in {"api", "broker", "jobs", "monitoring", "workers"}
            assert not ours or line["event"] in EVENTS
    loggers = {line["logger"].partition(".")[0] for log in (api_log, worker_log) for line in read(log)}
    assert {"uvicorn", "celery"} <= loggers

    def of(log: Path, job_id: str) -> dict[str, dict[str, Any]]:
        return {line["event"]: line for line in read(log) if line.get("job_id") == job_id}

    assert set(of(api_log, traced)) == {"job_accepted", "job_ended"}
    assert set(of(worker_log, traced)) == {"job_claimed", "job_finished"}
    for line in (*of(api_log, traced).values(), *of(worker_log, traced).values()):
        assert line["trace_id"] == caller.trace_id
    life = of(worker_log, failed.json()["id"])
    assert {"job_claimed", "attempt_given_up", "job_failed"} <= set(life)
    assert (life["job_failed"]["level"], life["job_failed"]["code"]) == ("info", "engine_error")


async def test_what_an_operator_asks_for_is_one_line_each(stack) -> None:
    http, api_log, worker_log = stack
    (worker,) = (await http.get("/v1/workers")).json()["data"]
    caller = TraceContext.new(sampled=True)
    http.headers["traceparent"] = caller.parent
    assert (await http.post("/v1/queues/default/pause")).status_code == 200
    first, second, _ = [
        (await http.post("/v1/jobs", json={"input": CHAT, "priority": lane})).json()["id"]
        for lane in ("normal", "normal", "low")
    ]
    assert (await http.patch(f"/v1/jobs/{first}", json={"priority": "high", "top": True})).status_code == 200
    assert (await http.post(f"/v1/jobs/{second}/cancel")).status_code == 200
    assert (await http.delete("/v1/queues/default/low")).json()["cancelled"] == 1
    again = (await http.post(f"/v1/jobs/{second}/retry")).json()["id"]
    assert (await http.post("/v1/queues/default/resume")).status_code == 200
    drained = await http.post(f"/v1/workers/{worker['name']}/drain", json={"timeout_s": 5})
    assert drained.status_code == 202
    want = {
        "pool_paused": {"pool": "default", "changed": True},
        "job_moved": {"job_id": first, "lane": "high", "top": True},
        "cancel_asked": {"job_id": second, "state": "cancelled"},
        "job_retried": {"job_id": second, "retried_as": again},
        "lane_purged": {"pool": "default", "lane": "low", "cancelled": 1},
        "pool_resumed": {"pool": "default", "changed": True},
        "drain_asked": {"workers": [worker["id"]], "timeout_s": 5.0},
    }
    told = {line["event"]: line for line in read(api_log) if line["event"] in want}
    for event, fields in want.items():
        line = told[event]
        assert {name: line[name] for name in fields} == fields
        assert (line["level"], line["tenant"]) == ("info", "default")
        assert line["trace_id"] == caller.trace_id
    await eventually(lambda: any(line["event"] == "draining" for line in read(worker_log)))


async def test_the_reaper_names_the_jobs_of_a_lost_worker(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path
) -> None:
    lease: dict[str, Any] = {"lease_ttl_s": 60.0, "reap_interval_s": 0.2}
    api = ApiProcess(broker_settings, tmp_path / "api.log", free_port(), log_json=True, reap_interval_s=0.2)
    worker = WorkerProcess(broker_settings, tmp_path / "worker.log", simulated_inter_token_s=0.05, **lease)
    try:
        await api.ready()
        async with httpx.AsyncClient(base_url=api.url, timeout=20.0) as http:

            async def state(job: str) -> str:
                return str((await http.get(f"/v1/jobs/{job}")).json()["state"])

            async def served() -> bool:
                return (await http.get("/health/ready")).status_code == 200

            async def both_run() -> bool:
                return {await state(job) for job in (lost, failed)} == {"running"}

            await eventually(served)
            wish = {"input": CHAT | {"max_tokens": 4000}}
            lost = (await http.post("/v1/jobs", json=wish)).json()["id"]
            failed = (await http.post("/v1/jobs", json=wish | {"max_attempts": 1})).json()["id"]
            await eventually(both_run)
            worker.signal(signal.SIGKILL)
            await asyncio.to_thread(worker.wait)
            (incarnation,) = [one["incarnation"] for one in await store.workers(ended=True)]
            await store.bury(incarnation)
            await eventually(lambda: any(line["event"] == "reaped" for line in read(api.log)))
            (line,) = [line for line in read(api.log) if line["event"] == "reaped"]
            assert (line["requeued_jobs"], line["failed_jobs"]) == ([lost], [failed])
    finally:
        worker.close()
        api.close()
