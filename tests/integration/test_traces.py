"""One trace per job, as a real OTLP receiver sees it: real api, real worker, simulated engine."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from redis import Redis

from broker.db.keys import Keys
from broker.records import decode_facts
from broker.settings import BrokerSettings
from monitoring.trace_context import TraceContext
from tests.apiserver import ApiServer
from tests.batching import row
from tests.coordinators import CoordinatorThread
from tests.integration.test_worker import at_work
from tests.otlp import OtlpReceiver, SpanSeen
from tests.processes import WorkerProcess
from tests.support import eventually

pytestmark = pytest.mark.asyncio

MARK = "XYZZY-do-not-tell"
CHAT = {"model": "simulated", "messages": [{"role": "user", "content": f"say {MARK}"}], "max_tokens": 4}


@pytest.fixture
def otlp(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def traced_api(broker_settings: BrokerSettings, otlp: OtlpReceiver) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, otlp_endpoint=otlp.url) as server:
        yield server


@pytest.fixture
def start_worker(
    broker_settings: BrokerSettings, tmp_path: Path, otlp: OtlpReceiver
) -> Iterator[Callable[..., WorkerProcess]]:
    workers: list[WorkerProcess] = []

    def start(name: str = "w1", **overrides) -> WorkerProcess:
        given = {"otlp_endpoint": otlp.url, **overrides}
        workers.append(WorkerProcess(broker_settings, tmp_path / f"{name}.log", name, **given))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest_asyncio.fixture
async def http(traced_api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with traced_api.client() as client:
        yield client


async def ready(http: httpx.AsyncClient) -> None:
    async def answers() -> bool:
        return (await http.get("/health/ready")).status_code == 200

    await eventually(answers)


async def whole_trace(otlp: OtlpReceiver, trace_id: str, *names: str) -> dict[str, SpanSeen]:
    """The trace's spans by name, once all of these are there."""
    await eventually(lambda: set(names) <= {span.name for span in otlp.trace(trace_id)})
    spans = otlp.trace(trace_id)
    assert len({span.span_id for span in spans}) == len(spans)
    return {span.name: span for span in spans}


async def begun_by(otlp: OtlpReceiver, trace_id: str, word: str) -> SpanSeen:
    """The trace's span whose name begins with a word, once it is there."""
    return await eventually(
        lambda: next((span for span in otlp.trace(trace_id) if span.name.startswith(f"{word} ")), None)
    )


async def test_one_trace_from_the_request_to_the_finish(
    broker_settings: BrokerSettings, otlp: OtlpReceiver, start_worker, http: httpx.AsyncClient
) -> None:
    start_worker()
    await ready(http)
    caller = TraceContext.new(sampled=True)
    headers = {"traceparent": caller.parent, "tracestate": "vendor=1", "user-agent": "test/1"}
    done = await http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers)
    assert done.status_code == 200
    job_id = done.headers["x-penstock-job-id"]
    queue = Keys(broker_settings.namespace)("queue", "default", "realtime")
    names: tuple[str, ...] = (
        "POST /v1/chat/completions",
        f"send {queue}",
        f"wait {queue}",
        f"process {queue}",
        "claim",
    )
    names = (*names, "chat simulated", "finish", "stream")
    spans = await whole_trace(otlp, caller.trace_id, *names)
    assert set(spans) == set(names)

    server = spans["POST /v1/chat/completions"]
    told = TraceContext.read(done.headers["traceresponse"])
    assert (told.trace_id, told.span_id, told.sampled) == (caller.trace_id, server.span_id, True)
    assert (server.parent_id, server.kind, server.service) == (caller.span_id, "SERVER", "penstock-api")
    assert server.state == "vendor=1"
    assert (
        server.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "user_agent.original": "test/1",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "simulated",
            "gen_ai.usage.output_tokens": 4,
            "penstock.job.id": job_id,
            "penstock.job.state": "succeeded",
        }.items()
    )

    send, process = spans[f"send {queue}"], spans[f"process {queue}"]
    assert (send.parent_id, send.kind) == (server.span_id, "PRODUCER")
    assert spans["stream"].parent_id == server.span_id
    assert send.attributes["messaging.message.id"] == job_id
    assert send.attributes["messaging.destination.name"] == queue
    assert (process.parent_id, process.kind, process.service) == (send.span_id, "CONSUMER", "penstock-worker")
    assert process.state == "vendor=1"
    assert (
        process.attributes.items()
        >= {
            "penstock.job.attempt": 1,
            "penstock.attempt.outcome": "succeeded",
            "messaging.operation.type": "process",
        }.items()
    )
    assert process.attributes["penstock.worker"].startswith("w1@")
    assert spans[f"wait {queue}"].parent_id == send.span_id
    engine = spans["chat simulated"]
    assert (engine.parent_id, engine.kind) == (process.span_id, "CLIENT")
    assert {spans["claim"].parent_id, spans["finish"].parent_id} == {process.span_id}
    assert "first_token" in engine.events
    assert engine.attributes["gen_ai.usage.output_tokens"] == 4

    # One after the other, as it was.
    assert spans["claim"].end_ns <= engine.start_ns <= engine.end_ns <= spans["finish"].start_ns
    assert server.start_ns <= send.start_ns <= send.end_ns
    assert process.start_ns <= process.end_ns
    assert not any(span.error for span in spans.values())
    assert not any(MARK.encode() in body for body in otlp.bodies)


async def test_a_job_that_nobody_waits_for_is_one_trace_too(
    otlp: OtlpReceiver, start_worker, http: httpx.AsyncClient
) -> None:
    start_worker()
    await ready(http)
    accepted = await http.post("/v1/jobs", json={"input": CHAT})
    told = TraceContext.read(accepted.headers["traceresponse"])
    names = {span.name.partition(" ")[0] for span in otlp.trace(told.trace_id)}
    expected = {"POST", "send", "wait", "process", "claim", "chat", "finish"}

    def complete() -> bool:
        nonlocal names
        names = {span.name.partition(" ")[0] for span in otlp.trace(told.trace_id)}
        return names >= expected

    await eventually(complete)
    assert names == expected


async def test_what_the_caller_does_not_want_recorded_is_not(
    broker_settings: BrokerSettings, otlp: OtlpReceiver, start_worker, http: httpx.AsyncClient
) -> None:
    start_worker()
    await ready(http)
    quiet, loud = TraceContext.new(sampled=False), TraceContext.new(sampled=True)
    for caller in (quiet, loud):
        done = await http.post("/v1/chat/completions", json=CHAT, headers={"traceparent": caller.parent})
        assert done.status_code == 200
        told = TraceContext.read(done.headers["traceresponse"])
        assert (told.trace_id, told.sampled) == (caller.trace_id, caller.sampled)
        with Redis.from_url(broker_settings.redis_url) as client:
            key = Keys(broker_settings.namespace)("job", done.headers["x-penstock-job-id"])
            # Carried on all the same, for the logs and for engines with traces of their own.
            stored = TraceContext.decode(decode_facts(client.hget(key, "facts")).trace)
        assert (stored.trace_id, stored.sampled) == (caller.trace_id, caller.sampled)
    await whole_trace(otlp, loud.trace_id, "finish")
    assert otlp.trace(quiet.trace_id) == []


async def test_a_takeover_is_a_second_attempt_in_the_same_trace(
    otlp: OtlpReceiver, start_worker, http: httpx.AsyncClient, store
) -> None:
    first = start_worker("w1", simulated_inter_token_s=0.5, drain_timeout_s=0.1)
    await ready(http)
    accepted = await http.post("/v1/jobs", json={"input": CHAT | {"max_tokens": 60}})
    trace_id = TraceContext.read(accepted.headers["traceresponse"]).trace_id
    job_id = accepted.json()["id"]

    async def running() -> bool:
        return (await http.get(f"/v1/jobs/{job_id}")).json()["state"] == "running"

    await eventually(running)
    await at_work(store, job_id)
    first.signal(signal.SIGTERM)  # drains, and gives back what is not done in time
    await asyncio.to_thread(first.wait)
    start_worker("w2")

    def attempts() -> list[SpanSeen]:
        return [span for span in otlp.trace(trace_id) if span.name.startswith("process ")]

    await eventually(lambda: len(attempts()) == 2)
    one, two = attempts()
    assert [span.attributes["penstock.job.attempt"] for span in (one, two)] == [1, 2]
    assert one.attributes["penstock.attempt.outcome"] == "released"
    assert "released" in one.events
    assert two.attributes["penstock.attempt.outcome"] == "succeeded"
    assert two.events["restarted"] == {"penstock.job.attempt": 2}
    assert one.attributes["penstock.worker"] != two.attributes["penstock.worker"]
    assert one.parent_id == two.parent_id
    waits = [span for span in otlp.trace(trace_id) if span.name.startswith("wait ")]
    assert len(waits) == 2
    assert waits[1].start_ns >= one.start_ns


async def test_a_cancel_is_an_event_on_the_attempt_and_a_link_to_the_request(
    otlp: OtlpReceiver, start_worker, http: httpx.AsyncClient
) -> None:
    start_worker(simulated_inter_token_s=0.2)
    await ready(http)
    accepted = await http.post("/v1/jobs", json={"input": CHAT | {"max_tokens": 1000}})
    trace_id = TraceContext.read(accepted.headers["traceresponse"]).trace_id
    job_id = accepted.json()["id"]

    async def running() -> bool:
        return (await http.get(f"/v1/jobs/{job_id}")).json()["state"] == "running"

    await eventually(running)
    asked = await http.post(f"/v1/jobs/{job_id}/cancel")
    request = TraceContext.read(asked.headers["traceresponse"])
    spans = await whole_trace(otlp, trace_id, "cancel", "finish")
    process = await begun_by(otlp, trace_id, "process")
    assert process.attributes["penstock.attempt.outcome"] == "cancelled"
    assert "cancelled" in process.events
    assert spans["cancel"].links == ((request.trace_id, request.span_id),)
    assert spans["cancel"].trace_id != request.trace_id


async def test_a_repetition_links_to_the_job_that_it_repeats(
    otlp: OtlpReceiver, start_worker, http: httpx.AsyncClient
) -> None:
    start_worker()
    await ready(http)
    body = {"input": CHAT | {"simulate": "error"}, "max_attempts": 1}
    failed = await http.post("/v1/jobs?wait=10", json=body)
    assert failed.json()["state"] == "failed"
    first = TraceContext.read(failed.headers["traceresponse"]).trace_id
    again = await http.post(f"/v1/jobs/{failed.json()['id']}/retry")
    second = TraceContext.read(again.headers["traceresponse"]).trace_id
    await begun_by(otlp, second, "process")
    send = await begun_by(otlp, second, "send")
    assert [trace_id for trace_id, _ in send.links] == [first]
    process = await begun_by(otlp, first, "process")
    assert process.error
    assert process.attributes["error.type"] == "engine_error"


async def test_off_means_off_but_a_callers_trace_goes_through(
    broker_settings: BrokerSettings, otlp: OtlpReceiver, start_worker
) -> None:
    worker = start_worker(otlp_endpoint=None, log_level="debug", log_json=True)
    caller = TraceContext.new(sampled=True)
    with ApiServer(broker_settings) as api:
        async with api.client() as http:
            await ready(http)
            done = await http.post("/v1/chat/completions", json=CHAT, headers={"traceparent": caller.parent})
    assert done.status_code == 200
    assert "traceresponse" not in done.headers
    assert otlp.bodies == []
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    claimed = next(line for line in lines if line["event"] == "job_claimed")
    assert claimed["trace_id"] == caller.trace_id


async def test_a_batchs_rows_are_traces_of_their_own_linked_to_their_chunk(
    broker_settings: BrokerSettings, otlp: OtlpReceiver, start_worker, tmp_path: Path
) -> None:
    files = str(tmp_path / "files")
    start_worker(files_url=files, trace_max_per_s=0.0)
    with (
        CoordinatorThread(broker_settings, files_url=files),
        ApiServer(broker_settings, otlp_endpoint=otlp.url, files_url=files) as server,
    ):
        async with server.client() as http:
            await ready(http)
            given = "\n".join(json.dumps(row(n, max_tokens=3)) for n in range(5)).encode()
            sent = await http.post(
                "/v1/files", files={"file": ("in.jsonl", given)}, data={"purpose": "batch"}
            )
            body = {
                "input_file_id": sent.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
            caller = TraceContext.new(sampled=True)
            asked = await http.post("/v1/batches", json=body, headers=caller.headers())
            batch = asked.json()

            async def completed() -> bool:
                return (await http.get(f"/v1/batches/{batch['id']}")).json()["status"] == "completed"

            await eventually(completed)
    await eventually(lambda: sum(span.name == "row" for span in otlp.spans) == 5)
    await eventually(lambda: any(span.name.startswith("process ") for span in otlp.spans))
    chunk = next(span for span in otlp.spans if span.name.startswith("process "))
    assert [trace_id for trace_id, _ in chunk.links] == [caller.trace_id]
    rows = [span for span in otlp.spans if span.name == "row"]
    assert {trace_id for span in rows for trace_id, _ in span.links} == {chunk.trace_id}
    assert all(len(span.links) == 1 for span in rows)
    assert len({span.trace_id for span in rows} | {chunk.trace_id}) == 6
    assert len({span.attributes["penstock.batch.row"] for span in rows}) == 5
    assert {span.attributes["gen_ai.usage.output_tokens"] for span in rows} == {3}
