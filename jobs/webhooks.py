"""Webhooks: types of events, who subscribes to what, ids and payloads. Pure.

An endpoint gets events of its tenant by the names of their types; ``job.*`` is all types of jobs, ``*`` is all. The form of
secrets and of signatures is that of Standard Webhooks (https://www.standardwebhooks.com), that of payloads OpenAI's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from jobs.batches import BatchStatus
from jobs.endpoints import ENDPOINTS, RESPONSES
from jobs.ids import is_batch_id, is_job_id
from jobs.states import JobState

ALL: Final = "*"
PING: Final = "ping"
DISABLED: Final = "webhook.disabled"

RESPONSE_ENDS: Final = {
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
    JobState.CANCELLED: "cancelled",
}
"""The status of a response by the state of its job. One that reached a limit succeeds, and is :data:`INCOMPLETE`."""

INCOMPLETE: Final = "incomplete"

EVENT_TYPES: Final = (
    *(f"job.{state.value}" for state in JobState if state.terminal),
    *(f"batch.{status.value}" for status in BatchStatus if status.terminal),
    *(f"response.{status}" for status in dict.fromkeys([*RESPONSE_ENDS.values(), INCOMPLETE])),
    DISABLED,
)
"""Every type that an endpoint can subscribe to. :data:`PING` comes unasked, from a test."""

EVENT_GROUPS: Final = tuple(dict.fromkeys(f"{kind.partition('.')[0]}.*" for kind in EVENT_TYPES))

ENDPOINT_PREFIX: Final = "wh_"
OF_ONE_PREFIX: Final = "whe_"
"""Of the endpoint of one job or batch, before the object's id."""

TENANT_PREFIX: Final = "whs_"
"""Of the record with a tenant's secret, before the tenant's name."""

_ENDPOINT: Final = re.compile(r"wh_[0-9a-f]{32}\Z")

TO_NOBODY: Final = "-"
"""In a job's record, in place of a URL: its caller waits for the answer."""

MOST_ENDPOINTS: Final = 10
"""Endpoints of a tenant."""

_MARK: Final = "whsec_"
_SECRET_BYTES: Final = 32


class _Response(msgspec.Struct):
    """The member of a response that says how it ended; the rest, which may be megabytes, is passed over."""

    status: str = ""


_status_of = msgspec.json.Decoder(_Response).decode


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object.

    Attributes:
        id: the same however often it is sent.
        kind: one of :data:`EVENT_TYPES`, or :data:`PING`.
        object_id: of the job, the batch, the response or the endpoint.
        at_ms: when it happened.
    """

    id: str
    kind: str
    object_id: str
    at_ms: int


def subscription(names: Collection[str]) -> tuple[str, ...]:
    """Return the types and groups of a subscription, sorted, without what others include; no name: all.

    Raises:
        ValueError: a name is neither a type nor a group.
    """
    for name in names:
        if name not in {ALL, *EVENT_TYPES, *EVENT_GROUPS}:
            known = ", ".join((ALL, *EVENT_GROUPS, *EVENT_TYPES))
            raise ValueError(f"{name[:64]!r} is no type of event; the types are {known}")
    if not names or ALL in names:
        return (ALL,)
    return tuple(sorted(name for name in set(names) if name in EVENT_GROUPS or _group(name) not in names))


def wants(events: Iterable[str], kind: str) -> bool:
    """Whether a subscription includes a type. The same rule is in ``broker/lua/2_webhook.lua``."""
    return bool({ALL, kind, _group(kind)} & {*events})


def is_webhook_id(text: str) -> bool:
    """Whether a text has the form of an endpoint's id (no look-up)."""
    if text.startswith(OF_ONE_PREFIX):
        of = text.removeprefix(OF_ONE_PREFIX)
        return is_job_id(of) or is_batch_id(of)
    return _ENDPOINT.match(text) is not None


def event_id(object_id: str, kind: str) -> str:
    """Return the id of an event: an object has an event of one type once. The same rule is in ``2_webhook.lua``."""
    return "evt_" + hashlib.sha1(f"{object_id} {kind}".encode(), usedforsecurity=False).hexdigest()


def response_id(job_id: str) -> str:
    """Return the id of the response that a job makes."""
    return ENDPOINTS[RESPONSES].response_id.format(job_id)


def payload(event: Event) -> bytes:
    """Return the body that an endpoint gets: the same bytes at each try."""
    data = {"id": event.object_id}
    status = event.kind.partition(".")[2]
    if status:
        data["status"] = status
    body = {
        "id": event.id,
        "object": "event",
        "created_at": event.at_ms // 1000,
        "type": event.kind,
        "data": data,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def is_incomplete(endpoint: str, answer: bytes) -> bool:
    """Whether an engine's answer is a response that reached a limit."""
    if endpoint != RESPONSES:
        return False
    try:
        return _status_of(answer).status == INCOMPLETE
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def new_secret(entropy: bytes) -> str:
    """Return a secret of Standard Webhooks.

    Args:
        entropy: at least 32 random bytes.

    Raises:
        ValueError: too little entropy.
    """
    if len(entropy) < _SECRET_BYTES:
        raise ValueError(f"a secret needs {_SECRET_BYTES} random bytes")
    return _MARK + base64.b64encode(entropy[:_SECRET_BYTES]).decode()


def _group(kind: str) -> str:
    return f"{kind.partition('.')[0]}.*"
