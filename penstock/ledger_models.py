"""The wire models of what is recorded of use: usage by day or month, and the audit stream. Times are Unix seconds."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from penstock.models import Wire


class UsageResult(Wire):
    """What a group used in a bucket; what it is not grouped by is None.

    Attributes:
        key: id of the API key; ``-``: none was required; ``*``: of a day that is kept without keys; ``other``.
        key_name: the name that the key has now, if it has one and the caller has the scope ``admin``.
        requests: jobs and rows of batches that ended; ``failures`` failed or expired, ``batch_rows`` were rows.
        input_cached_tokens: those of the input tokens that an engine's cache held.
        gpu_seconds: run time, times the devices of its worker, divided by the worker's slots.
        cost: by the server's prices; None: no model of the group has one.
    """

    tenant: str | None = None
    key: str | None = None
    key_name: str | None = None
    model: str | None = None
    requests: int = 0
    failures: int = 0
    batch_rows: int = 0
    input_tokens: int = 0
    input_cached_tokens: int = 0
    output_tokens: int = 0
    gpu_seconds: float = 0.0
    cost: float | None = None


class UsageBucket(Wire):
    """A day or a month of UTC."""

    start_time: int
    end_time: int
    results: tuple[UsageResult, ...] = ()


class UsagePage(Wire):
    """Buckets in the order of time; ``next_page``: where the next page starts, None on the last."""

    data: tuple[UsageBucket, ...] = ()
    next_page: int | None = None


class Actor(Wire):
    """Who acted. ``key``: id of the API key; None: no key was required. ``key_name``: its name now, if it has one."""

    key: str | None = None
    key_name: str | None = None
    tenant: str
    address: str | None = None


class Act(Wire):
    """An administrative act that changed something.

    Attributes:
        what: ``pool.pause``, ``key.revoke``, ...; ``kind`` of the object: ``pool``, ``on``: its id.
        details: what else is known; ``tenant``, if the object belongs to one.
    """

    id: str
    created_at: float
    what: str
    kind: str
    on: str
    by: Actor
    details: dict[str, Any] = Field(default_factory=dict)
