"""Sends one event to one endpoint, signed as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from broker.webhook_outbox import Entry, Outcome, Result
from coordinator.webhooks.guard import Answer, Guard
from jobs.webhook_backoff import delay_s, retry_after_s
from jobs.webhooks import payload

GONE = 410
"""The receiver wants no more events."""

SAYS_WHEN = frozenset({429, 503})
"""Answers whose ``Retry-After`` counts."""


async def send(guard: Guard, url: str, secrets: Sequence[str], entry: Entry) -> tuple[Result, float]:
    """Send an event once.

    Args:
        secrets: each makes a signature; a receiver may know any of them.

    Returns:
        How it went, and the seconds until the next try; 0: there is none.
    """
    body, now = payload(entry.event), datetime.now(UTC)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": entry.event.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign(entry.event.id, now, body.decode()) for secret in secrets
        ),
    }
    answer = await guard.post(url, body, headers)
    return _result(answer, entry.tries + 1)


def _result(answer: Answer, tries: int) -> tuple[Result, float]:
    wait_s = 0.0
    if answer.status is not None and 200 <= answer.status < 300:
        outcome = Outcome.DELIVERED
    elif answer.status == GONE:
        outcome = Outcome.GONE
    else:
        asked = answer.retry_after if answer.status in SAYS_WHEN else None
        wait = delay_s(tries, random.random(), retry_after_s(asked, time.time()))
        outcome, wait_s = (Outcome.DEAD, 0.0) if wait is None else (Outcome.FAILED, wait)
    error, text = ("", answer.body) if answer.status is not None else (answer.body, "")
    return Result(outcome, answer.status, answer.ms, error, text), wait_s
