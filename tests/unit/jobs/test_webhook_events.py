"""Webhooks: subscriptions, ids, payloads and secrets."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from jobs.batches import BatchStatus
from jobs.states import JobState
from jobs.webhooks import (
    EVENT_GROUPS,
    EVENT_TYPES,
    PING,
    RESPONSE_ENDS,
    Event,
    event_id,
    is_incomplete,
    new_secret,
    payload,
    response_id,
    subscription,
    wants,
)


def test_every_end_has_a_type() -> None:
    assert {f"job.{state}" for state in JobState if state.terminal} < {*EVENT_TYPES}
    assert {f"batch.{status}" for status in BatchStatus if status.terminal} < {*EVENT_TYPES}
    assert {state for state in JobState if state.terminal} == set(RESPONSE_ENDS)
    assert {"response.incomplete", "response.failed", "response.completed"} < {*EVENT_TYPES}
    assert EVENT_GROUPS == ("job.*", "batch.*", "response.*", "webhook.*")


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ([], ("*",)),
        (["job.failed", "*"], ("*",)),
        (["job.failed", "job.*", "batch.completed"], ("batch.completed", "job.*")),
        (["job.failed", "job.failed"], ("job.failed",)),
    ],
)
def test_a_subscription_is_kept_in_its_shortest_form(names: list[str], kept: tuple[str, ...]) -> None:
    assert subscription(names) == kept


@pytest.mark.parametrize("name", ["job", "job.", "job.done", "*.failed", "", PING])
def test_an_unknown_type_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="no type of event"):
        subscription([name])


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_a_type_is_in_its_group_alone(kind: str) -> None:
    groups = [group for group in EVENT_GROUPS if wants([group], kind)]
    assert groups == [kind.split(".", maxsplit=1)[0] + ".*"]
    assert wants(["*"], kind)
    assert wants([kind], kind)
    assert not wants([other for other in EVENT_TYPES if other != kind], kind)


def test_an_event_has_one_id() -> None:
    digest = hashlib.sha1(b"job_1 job.failed", usedforsecurity=False).hexdigest()
    assert event_id("job_1", "job.failed") == f"evt_{digest}"
    ids = {event_id(job, kind) for job in ("job_1", "job_2") for kind in EVENT_TYPES}
    assert len(ids) == 2 * len(EVENT_TYPES)


def test_a_payload_has_openais_form() -> None:
    event = Event("evt_1", "response.completed", response_id("job_1"), 1_700_000_000_999)
    assert json.loads(payload(event)) == {
        "id": "evt_1",
        "object": "event",
        "created_at": 1_700_000_000,
        "type": "response.completed",
        "data": {"id": "resp_job_1", "status": "completed"},
    }
    assert json.loads(payload(Event("evt_2", PING, "wh_1", 0)))["data"] == {"id": "wh_1"}
    assert payload(event) == payload(event)


@pytest.mark.parametrize(
    ("endpoint", "answer", "found"),
    [
        ("/v1/responses", b'{"status": "incomplete"}', True),
        ("/v1/responses", b'{"status": "completed"}', False),
        ("/v1/responses", b'["incomplete"]', False),
        ("/v1/responses", b"incomplete", False),
        ("/v1/responses", b"", False),
        ("/v1/responses", b'{"status": "\xff"}', False),
        ("/v1/responses", b'{"output": [{"status": "incomplete"}], "status": "completed"}', False),
        ("/v1/chat/completions", b'{"status": "incomplete"}', False),
    ],
)
def test_a_response_at_a_limit_is_incomplete(endpoint: str, answer: bytes, *, found: bool) -> None:
    assert is_incomplete(endpoint, answer) is found


def test_a_secret_is_one_of_standard_webhooks() -> None:
    mark, _, text = new_secret(bytes(range(40))).partition("_")
    assert (mark, base64.b64decode(text)) == ("whsec", bytes(range(32)))
    with pytest.raises(ValueError, match="32 random bytes"):
        new_secret(b"short")
