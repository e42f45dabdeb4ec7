"""Which jobs' Celery events are sent: all of a job's or none, and of so many jobs a second that watching stays cheap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LAST = frozenset({"task-succeeded", "task-failed", "task-revoked", "task-rejected", "task-retried"})
_ALWAYS = frozenset({"task-failed", "task-revoked"})


class BoundedEvents:
    """Stands before an event dispatcher's ``send``.

    A job is chosen when its message is received. Of one that was not, only a bad end is told. All else passes.

    Args:
        send: the dispatcher's.
        gate: decides about one job; see :class:`monitoring.sampling.Gate`.
    """

    def __init__(self, send: Callable[..., Any], gate: Callable[[], bool]) -> None:
        self._send = send
        self._gate = gate
        self._chosen: set[str] = set()

    def __call__(self, type: str, *args: Any, **fields: Any) -> Any:  # noqa: A002 - the dispatcher's own name for it
        """Send an event, or do not."""
        if not type.startswith("task-"):
            return self._send(type, *args, **fields)
        job_id = fields.get("uuid", "")
        if type == "task-received" and self._gate():
            self._chosen.add(job_id)
        if job_id not in self._chosen and type not in _ALWAYS:
            return None
        if type in _LAST:
            self._chosen.discard(job_id)
        return self._send(type, *args, **fields)
