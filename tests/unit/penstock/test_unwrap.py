"""A receiver's check of a webhook, by three libraries: ours, Standard Webhooks' and OpenAI's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
import standardwebhooks

from jobs.webhooks import EVENT_TYPES, PING, Event, event_id, new_secret, payload
from penstock import WebhookSignatureError
from penstock.webhooks import unwrap

SECRET, OTHER = new_secret(bytes(32)), new_secret(bytes(range(32)))
EVENT = Event(event_id("job_1", "job.succeeded"), "job.succeeded", "job_1", 1_700_000_000_123)


def headers(body: bytes, *secrets: str, age: timedelta = timedelta()) -> dict[str, str]:
    """Return what is sent with a body: a signature by each secret."""
    at = datetime.now(UTC) - age
    signed = [standardwebhooks.Webhook(one).sign(EVENT.id, at, body.decode()) for one in secrets]
    return {
        "Webhook-Id": EVENT.id,
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": " ".join(signed),
    }


@pytest.mark.parametrize("kind", [*EVENT_TYPES, PING])
def test_each_event_is_read(kind: str) -> None:
    body = payload(Event(EVENT.id, kind, "object", EVENT.at_ms))
    got = unwrap(body, headers(body, SECRET), SECRET)
    assert (got.id, got.type, got.created_at, got.data.id) == (EVENT.id, kind, 1_700_000_000, "object")
    assert got.data.status == (kind.partition(".")[2] or None)


def test_either_secret_is_right_during_a_rotation() -> None:
    body = payload(EVENT)
    for secret in (SECRET, OTHER):
        assert unwrap(body.decode(), headers(body, SECRET, OTHER), secret).id == EVENT.id


@pytest.mark.parametrize(
    "wrong",
    ["secret", "body", "old", "new", "none"],
)
def test_what_is_not_ours_is_refused(wrong: str) -> None:
    body, sent, ages = payload(EVENT), payload(EVENT), {"old": 6, "new": -6}
    given = headers(body, OTHER if wrong == "secret" else SECRET, age=timedelta(minutes=ages.get(wrong, 0)))
    if wrong == "body":
        sent = sent.replace(b"succeeded", b"failed")
    if wrong == "none":
        given = {}
    with pytest.raises(WebhookSignatureError):
        unwrap(sent, given, SECRET)


def test_openais_library_reads_them() -> None:
    client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:1", webhook_secret=SECRET)
    for kind in (*EVENT_TYPES, PING):
        body = payload(Event(EVENT.id, kind, "object", EVENT.at_ms))
        got: Any = client.webhooks.unwrap(body, headers(body, SECRET))
        assert (got.id, got.type, got.data.id) == (EVENT.id, kind, "object")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, headers(body, OTHER))
