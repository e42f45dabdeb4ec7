"""The conformance vectors of ``clients/vectors``, on the Python SDK; the TypeScript SDK runs the same."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Generator
from typing import Any

import pytest
import standardwebhooks.webhooks

from penstock import Event, Restarted, WebhookSignatureError, errors
from penstock._core.sse import SSEParser
from penstock.webhooks import unwrap
from tests.clients.virtual import Answer, Streamed, VirtualClient, virtual
from tests.processes import ROOT

__all__ = ["virtual"]  # a fixture

ID = "job_00000000000000000000000000000001"
Vector = dict[str, Any]


def load(name: str) -> list[Any]:
    """Return the vectors of a file as parameters, named as they are."""
    found = json.loads((ROOT / "clients" / "vectors" / f"{name}.json").read_text())
    return [pytest.param(one, id=one["name"]) for one in found]


def check_error(error: BaseException, kind: str, **members: Any) -> None:
    """See that an error is of the class of this name, and has these members."""
    assert isinstance(error, getattr(errors, kind)), repr(error)
    for name, value in members.items():
        assert getattr(error, name) == value, name


def check_pauses(client: VirtualClient, outcome: Vector) -> None:
    """See that the pause after each try is within its bounds."""
    seen = client.driver.seen
    for place, (least, most) in enumerate(outcome.get("pauses_s", [])):
        assert least - 1e-6 <= seen[place + 1].at - seen[place].at <= most + 1e-6


@pytest.mark.parametrize("vector", load("sse"))
def test_sse(vector: Vector) -> None:
    data = base64.b64decode(vector["base64"]) if "base64" in vector else vector["stream"].encode()
    cuts = [[data], [bytes([one]) for one in data]]
    cuts += [[data[:n], data[n:]] for n in range(len(data) + 1)]
    for parts in cuts:
        parser = SSEParser()
        events = [event for part in parts for event in parser.feed(part)]
        assert [{"event": e.event, "data": e.data, "id": e.id} for e in events] == vector["events"]
        assert (parser.last_id, parser.retry_ms) == (vector["last_id"], vector.get("retry_ms"))
        assert parser.comments == vector.get("comments", parser.comments)


def frame(event: Vector) -> bytes:
    """Return an event as the server sends it."""
    data = json.dumps(event["data"], ensure_ascii=False, separators=(",", ":"))
    return f"id: {event['id']}\nevent: {event['event']}\ndata: {data}\n\n".encode()


def connect(vector: Vector, how: Vector, last_id: str | None) -> Answer:
    """Return what the server answers to one connection, as the vector says that it goes."""
    if "fault" in how or "status" in how:
        return how
    after = None if how.get("ignores_cursor") else last_id
    ids = [event["id"] for event in vector["log"]]
    if after == ids[-1]:
        return {"status": 204}
    events = vector["log"][ids.index(after) + 1 if after else 0 :][: how.get("events")]
    whole = how.get("prefix", "").encode() + b"".join(map(frame, events))
    cut = ("bytes" in how or "events" in how) and how.get("end") != "close"
    return Streamed(whole[: how.get("bytes")], cut, how.get("lasts_s", 0.0))


def shown(item: str | Event | Restarted) -> object:
    """Return an item of a stream as the vectors write it."""
    if isinstance(item, Event):
        return [item.id, item.type]
    return {"restarted": item.attempt, "event_id": item.event_id} if isinstance(item, Restarted) else item


def run_stream(virtual: Callable[..., VirtualClient], vector: Vector, connections: list[Vector]) -> None:
    """Read a stream over these connections, and compare."""
    asked: list[str | None] = []

    def answer(request: Any) -> Answer:
        if not request.path.endswith("/events"):
            return {"status": 200, "body": vector["job"]}
        asked.append(request.headers.get("last-event-id"))
        return connect(
            vector, connections[len(asked) - 1] if len(asked) <= len(connections) else {}, asked[-1]
        )

    client, outcome = virtual(answer), vector["outcome"]
    after, items = vector.get("after"), []
    if vector["call"] == "events":
        stream: Any = client.jobs.events(ID, after)
    else:
        stream = client.stream(ID, after=after, on_restart=vector.get("on_restart", "raise"))
    error = None
    try:
        for item in stream:
            items.append(shown(item))  # noqa: PERF401 - what came before an error counts
    except errors.PenstockError as exc:
        error = exc
    if error is not None and "error" not in outcome:
        raise error
    if "error" in outcome:
        check_error(error, **outcome["error"])
    assert items == outcome["items"]
    if "cut_anywhere" not in vector:
        assert asked == outcome.get("last_event_ids", asked)
    check_pauses(client, outcome)


@pytest.mark.parametrize("vector", load("streams"))
def test_streams(virtual: Callable[..., VirtualClient], vector: Vector) -> None:
    if "cut_anywhere" not in vector:
        run_stream(virtual, vector, vector.get("connections", []))
        return
    for n in range(len(b"".join(map(frame, vector["log"]))) + 1):
        run_stream(virtual, vector, [{"bytes": n}])


CALLS: dict[str, Callable[[VirtualClient, Vector], Any]] = {
    "get_job": lambda client, _: client.jobs.get(ID),
    "submit_job": lambda client, v: client.submit({"messages": []}, idempotency_key=v.get("idempotency_key")),
    "cancel_job": lambda client, _: client.jobs.cancel(ID),
    "retry_job": lambda client, _: client.jobs.retry(ID),
    "job_result": lambda client, _: client.jobs.result(ID),
    "wait_job": lambda client, v: client.wait(ID, v.get("timeout_s"), check=v.get("check", True)),
    "list_jobs": lambda client, _: client.jobs.list(),
    "create_batch": lambda client, _: client.batches.create("file_1"),
    "wait_batch": lambda client, v: client.batches.wait("batch_1", v.get("timeout_s")),
    "batch_results": lambda client, _: client.batches.results("batch_1"),
    "follow_results": lambda client, _: client.batches.results("batch_1", follow=True),
    "purge_lane": lambda client, _: client.pools.purge("p", "low"),
    "drain_worker": lambda client, _: client.workers.drain("w"),
    "retry_dead": lambda client, _: client.dead.retry(limit=5),
    "retry_dead_ids": lambda client, _: client.dead.retry([ID]),
    "create_webhook": lambda client, _: client.webhooks.create("https://example.com/"),
}


def called(client: VirtualClient, vector: Vector) -> tuple[Any, list[str]]:
    """Make a vector's call; return its value, or the ids of the items that it iterated over, up to an error."""
    items: list[str] = []
    got = CALLS[vector["call"]](client, vector)
    if not isinstance(got, Generator):
        return got, items
    try:
        for item in got:
            items.append(item["custom_id"] if isinstance(item, dict) else item.id)  # noqa: PERF401 - as above
    except errors.PenstockError as exc:
        return exc, items
    return None, items


@pytest.mark.parametrize("vector", load("calls"))
def test_calls(virtual: Callable[..., VirtualClient], vector: Vector) -> None:
    answers, outcome = iter(vector["answers"]), vector["outcome"]
    bounds = {name: vector[name] for name in ("max_retries", "max_retry_s") if name in vector}
    client = virtual(lambda _: next(answers), **bounds)
    try:
        value, items = called(client, vector)
    except errors.PenstockError as exc:
        value, items = exc, []
    seen = client.driver.seen
    if isinstance(value, errors.PenstockError) and "error" not in outcome:
        raise value
    if "error" in outcome:
        check_error(value, **outcome["error"])
    elif isinstance(outcome.get("value"), dict):
        for name, member in outcome["value"].items():
            assert (value[name] if isinstance(value, dict) else getattr(value, name)) == member
    else:
        assert value == outcome.get("value")
    assert items == outcome.get("items", [])
    assert len(seen) == outcome["tries"]
    check_pauses(client, outcome)
    if "queries" in outcome:
        assert [one.query for one in seen] == outcome["queries"]
    else:
        assert all(one.sent == seen[0].sent for one in seen)
    key, expected = seen[0].request.headers.get("idempotency-key"), outcome.get("idempotency_key")
    assert expected is None or key == expected or (key is not None) is expected


@pytest.mark.parametrize("vector", load("webhooks"))
def test_webhooks(monkeypatch: pytest.MonkeyPatch, vector: Vector) -> None:
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(vector["now"], tz)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Clock)  # the library takes no time
    if vector["type"] is None:
        with pytest.raises(WebhookSignatureError):
            unwrap(vector["body"], vector["headers"], vector["secret"])
    else:
        assert unwrap(vector["body"], vector["headers"], vector["secret"]).type == vector["type"]
