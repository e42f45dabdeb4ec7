"""Following jobs over connections that drop: each event exactly once, in order, to the end."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import AsyncPenstock, Penstock, Restarted, errors
from penstock._core.follow import Follower
from penstock._core.retry import RetryPolicy
from tests.unit.penstock.double import ID, answer, chunk, error, job

EVENTS = f"/v1/jobs/{ID}/events"


def test_a_whole_stream(server, client):
    server.happened("a", "b")
    events = list(client.jobs.events(ID))
    assert [event.type for event in events] == ["queued", "running", "chunk", "chunk", "succeeded"]
    assert [event.text for event in events] == ["", "", "a", "b", ""]
    assert events[-1].job is not None
    assert events[-1].job.usage.total_tokens == 44


@pytest.mark.parametrize("abort", [True, False], ids=["cut in an event", "ended early"])
def test_each_event_once_whatever_drops(server, client, abort):
    server.happened(*"abcdef")
    server.abort = abort
    server.cuts.extend([3, 0, 1, 2])
    events = list(client.jobs.events(ID))
    assert [event.id for event in events] == [event_id for event_id, _, _ in server.events]
    asked = [seen.headers.get("last-event-id") for seen in server.asked(EVENTS)]
    assert asked == [None, "2", "2", "3", "5"]


@pytest.mark.asyncio
async def test_each_event_once_async(server):
    server.happened(*"abcdef")
    server.cuts.extend([3, 0, 1, 2])
    async with AsyncPenstock(server.url) as client:
        events = [event async for event in client.jobs.events(ID)]
        assert [event.id for event in events] == [event_id for event_id, _, _ in server.events]
        assert [piece async for piece in client.stream(ID)] == list("abcdef")


def test_a_server_that_replays_all_does_not_repeat(server, client):
    server.happened(*"abc")
    server.ignore_cursor = True
    server.cuts.extend([3, 4])
    assert [event.id for event in client.jobs.events(ID)] == ["0", "1", "2", "3", "4", "5"]


def test_events_of_one_connection_may_share_an_id(server, client):
    server.happened()
    server.events[2:2] = [("1", "chunk", chunk("a")), ("1", "chunk", chunk("b"))]
    assert "".join(client.stream(ID)) == "ab"


def test_refusals_while_reopening_are_waited_out(server, client):
    server.happened("a")
    server.faults.extend(
        [(503, {}, error("redis_unavailable")), (429, {"retry-after": "0"}, error("queue_full"))]
    )
    assert list(client.stream(ID)) == ["a"]


def test_it_gives_up_when_nothing_new_comes(server):
    server.happened(*"abc")
    server.cuts.extend([2] + [0] * 20)
    with Penstock(server.url, max_reconnects=3) as client, pytest.raises(errors.APIConnectionError):
        list(client.jobs.events(ID))
    assert len(server.seen) == 5


def test_a_proxy_that_sends_a_comment_and_closes_is_given_up(server):
    server.events = []  # each connection brings a ping, and ends
    with Penstock(server.url, max_reconnects=3) as client, pytest.raises(errors.APIConnectionError):
        list(client.jobs.events(ID))
    assert len(server.seen) == 4


@pytest.mark.parametrize(("status", "kind"), [(404, errors.NotFoundError), (401, errors.AuthenticationError)])
def test_an_error_that_stays_is_raised_at_once(server, client, status, kind):
    server.faults.append((status, {}, error("x")))
    with pytest.raises(kind):
        next(client.jobs.events(ID))
    assert len(server.seen) == 1


def test_what_is_no_stream_is_said(server, client):
    server.faults.append((200, {}, {"status": "fine"}))
    with pytest.raises(errors.APIResponseError, match="no event stream or file, but application/json"):
        next(client.jobs.events(ID))


def test_a_resumed_stream_begins_behind_the_cursor(server, client):
    server.happened(*"abc")
    assert "".join(client.stream(ID, after="2")) == "bc"


def test_behind_the_last_event_there_is_nothing(server, client):
    server.faults.append((204, {}, ""))
    assert list(client.jobs.events(ID, after="9")) == []
    assert len(server.seen) == 1


def restarted(server):
    server.happened(*"ab")
    server.events[3:3] = [("2a", "restarted", {"state": "running", "attempt": 2})]
    server.events = [(str(n), kind, data) for n, (_, kind, data) in enumerate(server.events)]


def test_a_restart_raises_and_the_new_attempt_can_be_read(server, client):
    restarted(server)
    text = client.stream(ID)
    assert next(text) == "a"
    with pytest.raises(errors.StreamRestartedError) as caught:
        next(text)
    assert (caught.value.attempt, caught.value.job_id) == (2, ID)
    assert list(client.stream(ID, after=caught.value.event_id)) == ["b"]


def test_a_restart_is_marked_where_that_was_asked(server, client):
    restarted(server)
    assert list(client.stream(ID, on_restart="mark")) == ["a", Restarted(2, "3"), "b"]


def test_a_restart_before_any_text_is_none_of_the_readers_business(server, client):
    restarted(server)
    server.events = [event for event in server.events if event[2] != chunk("a")]
    assert list(client.stream(ID)) == ["b"]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("failed", errors.JobFailedError),
        ("cancelled", errors.JobCancelledError),
        ("expired", errors.JobExpiredError),
    ],
)
def test_text_ends_as_the_job_did(server, client, end, kind):
    server.happened("a", end=end)
    text = client.stream(ID)
    assert next(text) == "a"
    with pytest.raises(kind):
        next(text)
    assert [event.type for event in client.jobs.events(ID)][-1] == end


def test_a_job_without_deltas_gives_its_text_at_the_end(server, client):
    server.happened()
    server.events[-1] = ("2", "succeeded", job(state="succeeded", stream=False))
    server.job = job(state="succeeded", stream=False, result=answer("whole"))
    assert list(client.stream(ID)) == ["whole"]


@given(cuts=st.lists(st.integers(0, 900), max_size=12), piece=st.integers(1, 300))
def test_each_event_once_wherever_the_bytes_stop(cuts, piece):
    """Without a socket: every connection replays from the cursor and stops after any number of bytes."""
    sent = [(str(n), f"id: {n}\nevent: chunk\ndata: {{}}\n\n") for n in range(30)]
    sent.append(("30", "id: 30\nevent: succeeded\ndata: {}\n\n"))
    follower = Follower(ID, None, RetryPolicy(20))
    found: list[str] = []
    for cut in [*cuts, 10_000]:
        cursor = int(follower.request().headers.get("last-event-id", "-1"))
        stream = "".join(frame for event_id, frame in sent if int(event_id) > cursor).encode()[:cut]
        for start in range(0, len(stream), piece):
            found += [event.id for event in follower.feed(stream[start : start + piece])]
        if follower.done:
            break
        assert follower.dropped(None) > 0
    assert found == [event_id for event_id, _ in sent]


@pytest.mark.asyncio
async def test_leaving_early_closes_the_connection(server):
    server.happened("a", "b")
    async with AsyncPenstock(server.url) as client:
        async with aclosing(client.stream(ID)) as text:
            async for _ in text:
                break
        transport: Any = client._driver.http._transport
        assert transport._pool.connections == []
