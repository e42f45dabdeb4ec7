"""Following a job: every event once, wherever a reader left off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from api.jobs.event_schema import JobEvent
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.stream_chunks import Frames, Head, Text
from penstock._core.sse import ServerSentEvent, SSEParser
from tests.documented import assert_documented
from tests.puppet import MODEL, Puppet

pytestmark = pytest.mark.asyncio

INPUT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
HEAD = Head(('{"n":"first"}', '{"n":"second"}'), '{"text":', "}")


async def start(http: httpx.AsyncClient, *, stream: bool = True) -> str:
    got = await http.post("/v1/jobs", json={"input": INPUT, "stream": stream})
    return str(got.json()["id"])


async def read(
    http: httpx.AsyncClient, job_id: str, after: str = "", most: int = 10_000
) -> list[ServerSentEvent]:
    """Read events until the end of the stream, or ``most`` of them."""
    parser, found = SSEParser(after), []
    headers = {"last-event-id": after} if after else {}
    async with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as got:
        if got.status_code == 204:
            return []
        assert got.status_code == 200, await got.aread()
        async for data in got.aiter_bytes():
            found += parser.feed(data)
            if len(found) >= most:
                return found[:most]
    return found


async def script(puppet: Puppet) -> None:
    """A streamed job that is released after a few chunks, and then runs to its end."""
    claim = await puppet.take()
    await puppet.say(claim, HEAD, Text("a"))
    await puppet.say(claim, Frames(('{"n":"x"}', '{"n":"y"}', '{"n":"z"}')))
    await puppet.store.release(claim, puppet.name, "released")
    claim = await puppet.take()
    await puppet.say(claim, HEAD, Text('b"\u2028'))
    await puppet.say(claim, *(Text(f"{n} ") for n in range(20)))
    await puppet.succeed(claim, b'{"secret":1}', tail=[Frames(('{"n":"last"}',))])


def text(events: list[ServerSentEvent]) -> str:
    return "".join(json.loads(e.data).get("text", "") for e in events if e.event == "chunk")


async def test_live_events(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    reading = asyncio.create_task(read(http, job_id))
    await script(puppet)
    events = await reading
    kinds = [e.event for e in events if e.event != "chunk"]
    assert kinds == ["queued", "running", "queued", "restarted", "succeeded"]
    assert json.loads(events[0].data) == {"id": job_id, "state": "queued", "attempt": 0}
    restarted = next(json.loads(e.data) for e in events if e.event == "restarted")
    assert restarted == {"id": job_id, "state": "running", "attempt": 2, "worker": puppet.name}
    assert text(events) == 'ab"\u2028' + "".join(f"{n} " for n in range(20))
    names = [json.loads(e.data).get("n") for e in events if e.event == "chunk"]
    assert [n for n in names if n] == ["first", "second", "x", "y", "z", "first", "second", "last"]
    ids = [e.id for e in events]
    assert len(set(ids)) == len(ids)
    job = json.loads(events[-1].data)
    assert (job["id"], job["state"], job["result"]) == (job_id, "succeeded", None)
    assert_documented(JobEvent, *({"event": e.event, "id": e.id, "data": json.loads(e.data)} for e in events))


async def test_resuming_anywhere_gives_the_rest_exactly_once(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    await script(puppet)
    everything = await read(http, job_id)
    said = text(everything)
    plain = [(e.event, e.data) for e in everything if '"text"' not in e.data]
    for place, event in enumerate(everything):
        head = everything[: place + 1]
        rest = await read(http, job_id, event.id)
        assert text(head) + text(rest) == said
        assert [(e.event, e.data) for e in head + rest if '"text"' not in e.data] == plain


async def test_cutting_a_live_stream_again_and_again(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    working = asyncio.create_task(script(puppet))
    events: list[ServerSentEvent] = []
    while not events or events[-1].event != "succeeded":
        events += await read(http, job_id, events[-1].id if events else "", most=1)
    await working
    assert text(events) == 'ab"\u2028' + "".join(f"{n} " for n in range(20))


async def test_after_the_end_there_is_nothing_more(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    await script(puppet)
    last = (await read(http, job_id))[-1]
    got = await http.get(f"/v1/jobs/{job_id}/events", params={"after": last.id})
    assert (got.status_code, got.content) == (204, b"")
    assert await read(http, job_id, "99-0") == []  # an id from nowhere: no end is waited for


async def test_events_of_a_job_that_does_not_stream(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http, stream=False)
    reading = asyncio.create_task(read(http, job_id))
    claim = await puppet.take()
    await puppet.fail(claim, JobError(FailureCode.ENGINE_ERROR, "broken"))
    events = await reading
    assert [e.event for e in events][-1] == "failed"
    assert json.loads(events[-1].data)["error"]["code"] == "engine_error"
    assert [e.event for e in await read(http, job_id)] == ["queued", "running", "failed"]


async def test_an_idle_stream_pings(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    async with asyncio.timeout(10), http.stream("GET", f"/v1/jobs/{job_id}/events") as got:
        seen = b""
        async for data in got.aiter_bytes():
            seen += data
            if seen.count(b": ping\n\n") == 2:
                break


async def test_watching_and_leaving_does_not_cancel(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    await read(http, job_id, most=1)
    claim = await puppet.take()
    assert await puppet.beat() == {}
    await puppet.succeed(claim)


@pytest.mark.parametrize(
    "wrong", ["x", "1", "1-", "1-2.", "1-2.x", "1-0.1", "-1-2", "1-2-3", "9" * 40 + "-1"]
)
async def test_a_wrong_cursor_is_refused(http: httpx.AsyncClient, puppet: Puppet, wrong: str) -> None:
    job_id = await start(http)
    asks: list[dict[str, Any]] = [{"headers": {"last-event-id": wrong}}, {"params": {"after": wrong}}]
    for ask in asks:
        got = await http.get(f"/v1/jobs/{job_id}/events", **ask)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "invalid_request")
