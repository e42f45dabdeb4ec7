"""Files and batches with both clients over a real socket, and the pieces behind them without one."""

from __future__ import annotations

import io
import json
import os
import threading
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import AsyncPenstock, Retry, errors
from penstock._core import batch_flows
from penstock._core.flows import Send, Sleep
from penstock._core.replies import Reply
from penstock._core.retry import RetryPolicy
from penstock._core.tails import BatchTail, Download
from penstock.batch_models import Batch
from tests.unit.penstock.double import error

ROWS = [{"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": {}} for n in range(5)]
INPUT = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def test_a_file_goes_up_and_comes_down_to_the_byte(server, client, tmp_path):
    content = os.urandom(200_000)
    (tmp_path / "in.jsonl").write_bytes(content)
    file = client.files.upload(tmp_path / "in.jsonl")
    assert (file.bytes, file.filename, file.purpose, file.expires_at) == (
        len(content),
        "in.jsonl",
        "batch",
        None,
    )
    sent = server.asked("/v1/files")[0]
    assert int(sent.headers["content-length"]) == len(sent.body)  # a file's length is known beforehand
    assert b"".join(client.files.content(file.id)) == content
    assert client.files.get(file.id) == file
    assert client.files.upload(io.BytesIO(b"x"), filename="other").filename == "other"
    assert [one.id for one in client.files.list(page_size=1)] == list(server.bulk.files)
    assert client.files.delete(file.id)
    with pytest.raises(errors.NotFoundError):
        client.files.get(file.id)


def test_an_upload_is_sent_again_whole_and_is_one_file(server, client):
    server.faults.append((503, {}, error("redis_unavailable")))
    file = client.files.upload(io.BytesIO(INPUT))
    first, second = server.asked("/v1/files")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert server.bulk.files == {file.id: INPUT}
    assert client.files.upload(io.BytesIO(INPUT), idempotency_key="k") == client.files.upload(
        io.BytesIO(INPUT), idempotency_key="k"
    )


def test_a_pipe_is_sent_once(server, client):
    def pipe(content):
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as out:
            out.write(content)
        return os.fdopen(reading, "rb")

    with pipe(INPUT) as file:
        assert server.bulk.files[client.files.upload(file).id] == INPUT
    server.faults.append((503, {}, error("redis_unavailable")))
    with pipe(INPUT) as file, pytest.raises(errors.ServerError):
        client.files.upload(file)
    assert len(server.asked("/v1/files")) == 2


def test_an_expiry_is_openais_form_field(server, client):
    client.files.upload(io.BytesIO(INPUT), expires_after_s=3600)
    body = server.asked("/v1/files")[0].body
    assert b'name="expires_after[anchor]"\r\n\r\ncreated_at\r\n' in body
    assert b'name="expires_after[seconds]"\r\n\r\n3600\r\n' in body


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_cut_download_goes_on_at_the_byte_that_is_missing(server, client, ignore_range):
    server.bulk.ignore_range = ignore_range
    file_id = server.bulk.add_file(INPUT)
    server.bulk.cuts = [50, 0, 60, len(INPUT), None]
    assert b"".join(client.files.content(file_id)) == INPUT
    asked = [seen.headers.get("range") for seen in server.seen]
    assert asked[:2] == [None, "bytes=50-"]
    assert b"".join(client.files.content(file_id, 10)) == INPUT[10:]


def test_a_batch_from_its_file_to_its_rows(server, client):
    server.bulk.pace = 2
    file = client.files.upload(io.BytesIO(INPUT))
    batch = client.batches.create(file.id, metadata={"run": "7"}, priority="low", completion_window="1h")
    sent = json.loads(server.asked("/v1/batches")[0].body)
    assert sent == {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "1h",
        "metadata": {"run": "7"},
        "priority": "low",
    }
    assert (batch.status, batch.request_counts.total, batch.done) == ("in_progress", 5, False)
    rows = list(client.batches.results(batch.id, follow=True))
    assert [row["custom_id"] for row in rows] == [row["custom_id"] for row in ROWS]
    ended = client.batches.wait(batch.id)
    assert (ended.status, ended.request_counts.completed, ended.usage.output_tokens) == ("completed", 5, 25)
    assert [row["custom_id"] for row in client.batches.results(batch.id, page_size=2)] == [
        "r0",
        "r1",
        "r2",
        "r3",
        "r4",
    ]
    found = client.batches.verify(batch.id)
    assert (found.ok, found.total, found.completed, found.failed) == (True, 5, 5, 0)
    assert (found.unknown, found.unreadable, found.examples) == (0, 0, ())


def test_what_there_is_so_far_and_what_comes_behind_it(server, client):
    server.bulk.pace = 2
    batch_id = server.bulk.add_batch(ROWS)
    first = client.batches.result_page(batch_id)
    assert (first.lines.count(b"\n"), first.incomplete) == (2, True)
    second = client.batches.result_page(batch_id, first.next_cursor, limit=1)
    assert (json.loads(second.lines)["custom_id"], second.incomplete) == ("r2", True)


def test_the_acts(server, client):
    server.bulk.pace = 1
    batch_id = server.bulk.add_batch(ROWS)
    assert client.batches.pause(batch_id).paused
    assert not client.batches.resume(batch_id).paused
    server.faults.append((503, {}, error("redis_unavailable")))
    assert client.batches.cancel(batch_id).status == "cancelled"
    child = client.batches.retry(batch_id)
    assert (child.retry_of, client.batches.get(batch_id).retried_as) == (batch_id, child.id)
    assert server.seen[-2].headers["idempotency-key"]
    assert [one.id for one in client.batches.list(page_size=1)] == [batch_id, child.id]
    with pytest.raises(errors.NotFoundError):
        client.batches.get("batch_none")
    with pytest.raises(ValueError, match="the batch's id is empty"):
        client.batches.get(" ")
    with pytest.raises(ValueError, match="the file's id is empty"):
        client.files.get("")


def test_waiting_says_how_it_ended(server, client):
    server.bulk.pace = 1
    batch_id = server.bulk.add_batch(ROWS)
    with pytest.raises(errors.BatchWaitTimeoutError) as early:
        client.batches.wait(batch_id, timeout_s=0)
    assert early.value.batch.request_counts.completed == 1
    wrong = [{"code": "invalid_json_line", "message": "not JSON", "line": 3, "param": None}]
    server.bulk.runs[batch_id].fields["errors"] = {"object": "list", "data": wrong * 2}
    server.bulk.end(batch_id, "failed")
    with pytest.raises(
        errors.BatchEndedError, match=r"failed: line 3: invalid_json_line: not JSON \(and 1 more\)"
    ):
        client.batches.wait(batch_id)
    ended = client.batches.wait(batch_id, check=False)
    assert ended.errors.model_dump() == {"object": "list", "data": tuple(wrong * 2)}  # as the server sent it


def test_following_a_batch_over_dropped_connections(server, client):
    server.bulk.pace = 1
    server.bulk.cuts = [1, 0, 2]
    batch_id = server.bulk.add_batch(ROWS)
    server.faults.append((502, {}, "a proxy's page"))
    seen = list(client.batches.events(batch_id))
    assert [event.type for event in seen] == ["progress"] * 4 + ["completed"]
    assert [event.progress.request_counts.done for event in seen] == [1, 2, 3, 4, 5]
    assert (seen[0].progress.rows_per_s, seen[0].progress.eta_s) == (12.5, 3.0)
    with pytest.raises(errors.NotFoundError):
        list(client.batches.events("batch_none"))


@pytest.mark.asyncio
async def test_the_asynchronous_client_does_the_same(server):
    server.bulk.pace = 2
    async with AsyncPenstock(server.url) as client:
        file = await client.files.upload(io.BytesIO(INPUT))
        server.bulk.cuts = [50, None]
        assert b"".join([piece async for piece in client.files.content(file.id)]) == INPUT
        assert await client.files.get(file.id) == file
        batch = await client.batches.create(file.id)
        rows = [row async for row in client.batches.results(batch.id, follow=True)]
        assert [row["custom_id"] for row in rows] == ["r0", "r1", "r2", "r3", "r4"]
        assert (await client.batches.result_page(batch.id)).incomplete is False
        assert (await client.batches.wait(batch.id)).status == "completed"
        assert (await client.batches.get(batch.id)).done
        assert (await client.batches.verify(batch.id)).ok
        async with aclosing(client.batches.events(batch.id)) as events:
            assert [event.type async for event in events] == ["completed"]
        assert (await client.batches.retry(batch.id)).retry_of == batch.id
        other = server.bulk.add_batch(ROWS)
        assert (await client.batches.pause(other)).paused
        assert not (await client.batches.resume(other)).paused
        assert (await client.batches.cancel(other)).status == "cancelled"
        assert [one.id async for one in client.batches.list(page_size=2)] == list(server.bulk.runs)
        assert [one.id async for one in client.files.list(limit=1)] == [file.id]
        assert await client.files.delete(file.id)


def test_one_client_serves_many_threads(server, client):
    server.bulk.pace = 1
    ids = [server.bulk.add_batch(ROWS) for _ in range(4)]
    found = {}
    threads = [
        threading.Thread(
            target=lambda one=one: found.update({one: list(client.batches.results(one, follow=True))})
        )
        for one in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one: len(rows) for one, rows in found.items()} == dict.fromkeys(ids, 5)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({"x-incomplete": "true", "x-next-cursor": "7"}, b'{"custom_id": "a"}'),
        ({"x-incomplete": "true"}, b"{}\n"),
        ({"x-incomplete": "true", "x-next-cursor": "6"}, b"{}\n"),
    ],
)
def test_a_page_that_would_lose_or_repeat_rows_is_refused(headers, body):
    with pytest.raises(errors.APIResponseError):
        batch_flows.read_page(Reply(200, headers, body), "6")


def test_a_row_that_is_no_object_is_refused():
    page = batch_flows.read_page(Reply(200, {"x-incomplete": "false", "x-next-cursor": "1"}, b"[1]\n"), None)
    with pytest.raises(errors.APIResponseError, match=r"\[1\]"):
        batch_flows.rows(page)


def test_the_pauses_of_waiting_grow_and_keep_the_deadline():
    now = [0.0]
    flow = batch_flows.wait("b", 20, check=True, policy=RetryPolicy(0, clock=lambda: now[0]))
    running = Reply(200, {}, Batch(id="b", status="in_progress").model_dump_json().encode())
    pauses = []

    def drive():
        step = next(flow)
        while True:
            if isinstance(step, Sleep):
                pauses.append(step.seconds)
                now[0] += step.seconds
                step = flow.send(None)
            else:
                assert isinstance(step, Send)
                step = flow.send(running)

    with pytest.raises(errors.BatchWaitTimeoutError, match="still in_progress after 20 s"):
        drive()
    assert sum(pauses) == pytest.approx(20)
    assert pauses[:-1] == sorted(pauses[:-1])
    assert max(pauses) <= batch_flows.LAST_LOOK_S


@settings(max_examples=40)
@given(st.binary(max_size=60), st.integers(0, 60), st.lists(st.integers(0, 30), max_size=6), st.booleans())
def test_a_download_gives_each_byte_once_however_it_is_cut(content, offset, cuts, ranges):
    offset = min(offset, len(content))
    tail = Download("file-1", offset, RetryPolicy(50, rand=lambda: 0.0))
    got = b""
    for cut in [*cuts, None]:
        asked = tail.request().headers.get("range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
        if asked and ranges and start >= len(content):
            head = Reply(416, {"content-range": f"bytes */{len(content)}"}, b"")
        elif asked and ranges:
            head = Reply(206, {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, b"")
        else:
            head = Reply(200, {}, b"")
        assert tail.opened(head)
        end = len(content) if cut is None else min(start + cut, len(content))
        got += b"".join(tail.feed(content[start:end]))
        if tail.done:
            break
        if cut is None:
            tail.ended()
        else:
            tail.dropped(errors.APIConnectionError("cut"))
    assert tail.done
    assert got == content[offset:]


SNAPSHOT = b'event: in_progress\ndata: {"n": 1}\n\n'


@pytest.mark.parametrize(
    "brings", [b"", b": ping\n\n", SNAPSHOT], ids=["nothing", "a comment", "the same snapshot"]
)
def test_connections_that_bring_nothing_new_are_counted_and_waited_for(brings):
    now = 0.0
    tail = BatchTail("b", RetryPolicy(4, rand=lambda: 1.0, clock=lambda: now))
    tail.feed(SNAPSHOT)
    tail.dropped(None)
    pauses = []

    def connect() -> None:
        nonlocal now
        tail.connecting()
        tail.request()
        tail.feed(brings)
        now += 0.1
        pauses.append(tail.dropped(None))

    for _ in range(4):
        connect()
    assert pauses == [0.5, 1, 2, 4]
    with pytest.raises(errors.APIConnectionError, match="the event stream of b ended too early"):
        connect()


def test_a_long_connection_with_pings_counts_as_good():
    now = 0.0
    told: list[Retry] = []
    tail = BatchTail("b", RetryPolicy(3, on_retry=told.append, clock=lambda: now))
    for _ in range(10):
        tail.connecting()
        tail.request()
        tail.feed(b": ping\n\n")
        now += 30.0  # a proxy with a limit on connections, before a batch that waits
        assert tail.dropped(None) <= 0.5
    assert told == []
