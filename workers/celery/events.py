"""Celery's task events, for a bounded number of jobs per second. A job has all of its events or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LAST = frozenset({"task-succeeded", "task-failed", "task-revoked", "task-rejected", "task-retried"})
_ALWAYS = frozenset({"task-failed", "task-revoked"})


class BoundedEvents:
    """Replaces an event dispatcher's ``send``.

    A job is chosen when its message is received. Of other jobs only a bad end is sent. All other events pass.

    Args:
        gate: decides about one job; see :class:`monitoring.sampling.Gate`.
    """

    def __init__(self, send: Callable[..., Any], gate: Callable[[], bool]) -> None:
        self._send = send
        self._gate = gate
        self._chosen: set[str] = set()

    def __call__(self, type: str, *args: Any, **fields: Any) -> Any:  # noqa: A002 - the dispatcher's own name for it
        """Send an event, or drop it."""
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
