"""The OpenAI endpoints against a real api, a real Valkey and a worker on strings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from jobs.failures import FailureCode
from jobs.model import JobError, Usage
from jobs.states import JobState
from jobs.stream_chunks import Frames, Head, Text
from tests.apiserver import ApiServer
from tests.puppet import CARD, MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
HEAD = Head(
    (
        '{"id":"x","object":"o","created":1,"model":"m","choices":[{"delta":{"role":"a"},"finish_reason":null}]}',
    ),
    '{"id":"x","choices":[{"delta":{"content":',
    '},"finish_reason":null}]}',
)
CLOSING = '{"id":"x","choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]}'


async def frames(response: httpx.Response) -> list[Any]:
    """Read a whole stream: each frame parsed, ``[DONE]`` as text."""
    found: list[Any] = []
    text = (await response.aread()).decode()
    for frame in text.split("\n\n")[:-1]:  # httpx's own lines also end at U+2028, which JSON may hold
        data = frame.removeprefix("data: ")
        assert data != frame
        found.append(data if data == "[DONE]" else json.loads(data))
    return found


async def test_a_whole_response_is_passed_on_to_the_letter(http: httpx.AsyncClient, puppet: Puppet) -> None:
    raw = (
        b'{ "model":"puppet", "messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9"}],'
        b' "seed": 12345678901234567}'
    )
    asked = asyncio.create_task(http.post(CHAT, content=raw))
    claim = await puppet.take()
    assert claim.body == raw
    assert (claim.endpoint, claim.lane, claim.stream) == (CHAT, "realtime", False)
    await puppet.succeed(claim, b'{"x": 1.50,"y":"\xc3\xa9"}')
    got = await asked
    assert (got.status_code, got.content) == (200, b'{"x": 1.50,"y":"\xc3\xa9"}')
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-penstock-job-id"] == claim.id
    assert int(got.headers["x-penstock-queue-ms"]) <= int(got.headers["x-penstock-total-ms"])


async def test_the_engines_refusal_is_passed_on(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    body = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'
    await puppet.fail(await puppet.take(), JobError(FailureCode.INVALID_REQUEST, "no"), 400, body)
    got = await asked
    assert (got.status_code, got.content) == (400, body)


async def test_a_failure_without_a_body_is_told_from_the_table(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_UNAVAILABLE, "gone"))
    got = await asked
    assert got.status_code == 503
    assert got.headers["retry-after"]
    expected = {"message": "gone", "type": "server_error", "param": None, "code": "engine_unavailable"}
    assert got.json() == {"error": expected}


async def test_cancelled_and_expired_calls_say_so(http: httpx.AsyncClient, puppet: Puppet) -> None:
    for state, status, code in (
        (JobState.CANCELLED, 409, "job_cancelled"),
        (JobState.EXPIRED, 504, "expired"),
    ):
        asked = asyncio.create_task(http.post(CHAT, json=BODY))
        await puppet.store.finish(await puppet.take(), puppet.name, state)
        got = await asked
        assert (got.status_code, got.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "end",
    [
        JobState.CANCELLED,
        JobState.EXPIRED,
        FailureCode.POISONED,
        FailureCode.TIMEOUT,
        FailureCode.RESULT_TOO_LARGE,
    ],
)
async def test_the_openai_sdk_does_not_repeat_what_would_end_the_same(
    api: ApiServer, puppet: Puppet, end: JobState | FailureCode
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", timeout=20) as client:
        assert client.max_retries == 2
        asked = asyncio.create_task(client.chat.completions.create(**BODY))
        claim = await puppet.take()
        if isinstance(end, JobState):
            await puppet.store.finish(claim, puppet.name, end)
        else:
            await puppet.fail(claim, JobError(end, "no"))
        with pytest.raises(openai.APIStatusError) as refused:
            await asked
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert await puppet.waiting() == 0


async def test_the_openai_sdk_repeats_what_may_end_better(api: ApiServer, puppet: Puppet) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", timeout=20) as client:
        asked = asyncio.create_task(client.chat.completions.create(**BODY))
        await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "it broke"))
        await puppet.succeed(await puppet.take(), b'{"id": "second"}')
        assert (await asked).id == "second"


async def test_a_compact_stream_is_rendered(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async with asyncio.timeout(20):
        text = 'a"\\\n\u2028é😀'

        async def work() -> None:
            claim = await puppet.take()
            assert claim.stream
            await puppet.say(claim, HEAD, Text(text))
            await puppet.say(claim, Text("b"))
            await puppet.succeed(claim, tail=[Frames((CLOSING,))], usage=Usage(3, 2, 5))

        worker = asyncio.create_task(work())
        async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as got:
            assert got.headers["content-type"].startswith("text/event-stream")
            assert got.headers["x-penstock-job-id"].startswith("job_")
            said = await frames(got)
        await worker
    assert said[0]["choices"][0]["delta"] == {"role": "a"}
    assert [f["choices"][0]["delta"]["content"] for f in said[1:-1]] == [text, "b", "!"]
    assert said[-2]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    facts = said[-2]["penstock"]
    assert facts["job_id"] == got.headers["x-penstock-job-id"]
    assert facts["queue_ms"] <= facts["ttft_ms"] <= facts["total_ms"]
    assert said[-1] == "[DONE]"


async def test_a_full_stream_does_not_lag(http: httpx.AsyncClient, puppet: Puppet) -> None:
    usage = '{"id":"x","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
    asked = http.build_request("POST", CHAT, json=BODY | {"stream": True})
    sending = asyncio.create_task(http.send(asked, stream=True))
    claim = await puppet.take()
    await puppet.say(
        claim, Frames(('{"id":"x","choices":[{"delta":{"content":"1"},"finish_reason":null}]}',))
    )
    got = await sending
    lines = got.aiter_lines()
    first = await anext(lines)  # it is here before anything follows it
    assert '"1"' in first
    await puppet.say(claim, Frames((CLOSING,)))
    await puppet.succeed(claim, tail=[Frames((usage,))], usage=Usage(9, 1, 10))
    rest = [json.loads(line[6:]) async for line in lines if line and "[DONE]" not in line]
    assert "penstock" not in rest[0]
    assert rest[1]["usage"]["total_tokens"] == 10
    assert rest[1]["penstock"]["job_id"] == claim.id
    await got.aclose()


async def test_a_refusal_before_the_first_chunk_is_a_plain_error(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
    body = b'{"error":{"message":"too long"}}'
    await puppet.fail(
        await puppet.take(), JobError(FailureCode.CONTEXT_LENGTH_EXCEEDED, "too long"), 400, body
    )
    got = await asked
    assert (got.status_code, got.content, got.headers["content-type"]) == (400, body, "application/json")


async def test_a_failure_after_the_head_is_a_frame(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async def work() -> None:
        claim = await puppet.take()
        await puppet.say(claim, HEAD, Text("a"))
        await puppet.fail(claim, JobError(FailureCode.ENGINE_ERROR, "it broke"))

    worker = asyncio.create_task(work())
    async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as got:
        said = await frames(got)
    await worker
    assert said[-1]["error"]["code"] == "engine_error"


async def test_a_stream_restarted_before_its_first_chunk_goes_on(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    async def work() -> None:
        first = await puppet.take()
        await puppet.store.release(first, puppet.name, "released")
        again = await puppet.take()
        assert again.attempt == 2
        await puppet.say(again, HEAD, Text("a"))
        await puppet.succeed(again, tail=[Frames((CLOSING,))])

    worker = asyncio.create_task(work())
    async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as got:
        said = await frames(got)
    await worker
    assert said[-1] == "[DONE]"
    assert len(said) == 4


async def test_a_stream_restarted_after_a_chunk_ends_with_worker_lost(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    ids = []

    async def work() -> None:
        first = await puppet.take()
        ids.append(first.id)
        await puppet.say(first, HEAD, Text("a"))
        await puppet.store.release(first, puppet.name, "released")
        await puppet.take()

    worker = asyncio.create_task(work())
    async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as got:
        said = await frames(got)
    await worker
    assert said[-1]["error"]["code"] == "worker_lost"

    async def told() -> bool:
        return (await puppet.beat()).get(ids[0]) == "cancelled"

    await eventually(told)  # nobody listens any more, so the second attempt is cancelled


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_cancels(http: httpx.AsyncClient, puppet: Puppet, stream: bool) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": stream}))
    claim = await puppet.take()
    if stream:
        await puppet.say(claim, HEAD, Text("a"))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    async def told() -> bool:
        return (await puppet.beat()).get(claim.id) == "cancelled"

    await eventually(told)
    await puppet.store.finish(claim, puppet.name, JobState.CANCELLED)


async def test_hanging_up_while_queued_cancels_at_once(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY))

    async def queued() -> str | None:
        jobs = (await puppet.store.list_jobs(state=JobState.QUEUED)).jobs
        return jobs[0].id if jobs else None

    job_id = await eventually(queued)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    async def cancelled() -> bool:
        job = await puppet.store.get(job_id)
        return job is not None and job.state is JobState.CANCELLED

    await eventually(cancelled)


async def test_many_clients_that_leave_at_any_moment_leave_nothing_behind(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    ran = 0

    async def known() -> bool:
        return bool((await http.get("/v1/models")).json()["data"])

    async def work() -> None:
        nonlocal ran
        while True:
            claim = await puppet.take()
            ran += 1
            if claim.stream:
                await puppet.say(claim, HEAD, Text("a"))
            await puppet.store.finish(claim, puppet.name, JobState.SUCCEEDED, status=200, result=b"{}")

    async def call(number: int) -> None:
        body = json.dumps(BODY | {"stream": number % 2 == 0}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.port)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[: len(body) - number % 3])
        patience_s = 20 if number % 30 == 9 else number % 10 / 200  # ten send all and stay for an answer
        await asyncio.wait({asyncio.ensure_future(reader.read(1 + number % 7))}, timeout=patience_s)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    await eventually(known)
    worker = asyncio.create_task(work())
    await asyncio.gather(*(call(number) for number in range(300)))

    async def quiet() -> bool:
        queued = await puppet.store.list_jobs(state=JobState.QUEUED)
        running = await puppet.store.list_jobs(state=JobState.RUNNING)
        idle = not api.services.hub._inboxes and api.services.metrics.active._value.get() == 0
        return idle and not queued.jobs and not running.jobs

    await eventually(quiet)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert ran >= 10


async def test_a_reader_that_does_not_keep_up_gets_everything_from_the_log(
    broker_settings: Any, store: Any, puppet: Puppet
) -> None:
    count = 1500
    with ApiServer(broker_settings, inbox_limit=16) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.settings.port, limit=4096)
        body = json.dumps(BODY | {"stream": True}).encode()
        request = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(request.encode() + body)
        claim = await puppet.take()
        await puppet.say(claim, HEAD)
        for start in range(0, count, 100):
            await puppet.say(claim, *(Text(f"<{n}>" + "." * 2000) for n in range(start, start + 100)))
        await puppet.succeed(claim, tail=[Frames((CLOSING,))])
        said = (await reader.read(-1)).decode()  # only now is anything read
        writer.close()
        await writer.wait_closed()
    places = [said.find(f"<{n}>") for n in range(count)]
    assert -1 not in places
    assert places == sorted(places)
    assert all(said.count(f"<{n}>") == 1 for n in range(0, count, 97))
    assert "[DONE]" in said


async def test_models(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await http.get("/v1/models")).json()["data"]
        return found

    (card,) = await eventually(listed)
    endpoints = ["/v1/chat/completions", "/v1/completions"]  # all that this worker says of what it can do
    assert card == CARD | {"created": card["created"], "penstock": {"endpoints": endpoints}}
    assert (await http.get(f"/v1/models/{MODEL}")).json() == card
    missing = await http.get("/v1/models/org/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_without_a_live_worker_a_call_is_refused_and_a_job_is_taken(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    await puppet.store.bury(puppet.name)
    assert (await http.get("/health/ready")).status_code == 503  # the api has looked
    accepting = await http.get("/health/accepting")
    assert (accepting.status_code, accepting.json()["status"]) == (200, "ready")
    assert "worker" not in accepting.json()["checks"]
    got = await http.post(CHAT, json=BODY)
    assert (got.status_code, got.json()["error"]["code"]) == (503, "no_worker")
    assert 1 <= int(got.headers["retry-after"]) <= 120
    assert await puppet.waiting() == 0
    assert (await http.post("/v1/jobs", json={"input": BODY})).status_code == 202
