"""Celery's remote control commands, as Flower's buttons send them, in Penstock's terms.

Celery's own ``revoke`` and ``terminate`` would keep a list of jobs that their worker does not run: each would be claimed and
given back again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.control import Panel

log = structlog.get_logger(__name__)


def replace_commands(cancel: Callable[[str], str], drain: Callable[[], None]) -> None:
    """Have ``revoke`` and ``terminate`` cancel jobs, and ``shutdown`` drain the worker.

    Args:
        cancel: cancels a job, wherever it is, and returns its state.
        drain: begins the drain; returns at once.
    """

    def revoke(_state: Any, task_id: str | list[str], **_: Any) -> dict[str, str]:
        """Cancel jobs."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        states = {job_id: cancel(job_id) for job_id in ids}
        log.info("revoked", jobs=states)
        return {"ok": f"cancel asked for: {states}"}

    def terminate(state: Any, signal: str, task_id: str | list[str], **_: Any) -> dict[str, str]:  # noqa: ARG001
        """Cancel jobs."""
        return revoke(state, task_id)

    def shutdown(_state: Any, **_: Any) -> dict[str, str]:
        """Drain the worker: Celery's own way would not wait for its jobs, and would not give them back."""
        drain()
        return {"ok": "the worker drains, and then ends"}

    for command in (revoke, terminate, shutdown):
        replaced = Panel.meta[command.__name__]
        Panel.register(
            command,
            name=command.__name__,
            type=replaced.type,
            visible=True,
            default_timeout=replaced.default_timeout,
            help=replaced.help,
            signature=replaced.signature,
            args=replaced.args,
            variadic=replaced.variadic,
        )
