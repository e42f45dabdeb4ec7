"""The Celery side of a worker: one task, our pool, and signals that only ever drain."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any

import structlog
from celery import Celery
from celery.signals import worker_ready
from celery.worker import state as worker_state
from celery.worker.control import Panel

from broker.celery.app import TASK_NAME
from broker.db.keys import Keys
from jobs.lanes import Lane
from workers.celery.pool import loop_pool
from workers.process.loop import EngineHost
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


def register_task(app: Celery, host: EngineHost) -> None:
    """Register the task that runs a job: task id and argument are the job's id."""

    @app.task(name=TASK_NAME)
    def run(job_id: str) -> None:
        """Stand for the job in Celery's registry; :class:`workers.celery.pool.LoopPool` runs it."""
        raise RuntimeError(f"job {job_id} can be run by Penstock's own pool only")

    def revoke(_state: Any, task_id: str | list[str], **_: Any) -> dict[str, str]:
        """Cancel jobs: what Flower's Revoke and Terminate, and ``app.control.revoke``, do here."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        states = {job_id: host.cancel_job(job_id) for job_id in ids}
        log.info("revoked", jobs=states)
        return {"ok": f"cancel asked for: {states}"}

    revoke_info = Panel.meta["revoke"]
    Panel.register(
        revoke,
        name="revoke",
        type="control",
        visible=True,
        default_timeout=revoke_info.default_timeout,
        help=revoke_info.help,
        signature=revoke_info.signature,
        args=revoke_info.args,
        variadic=revoke_info.variadic,
    )


def quiet_celery() -> None:
    """Keep Celery's two lines per task out of the log: ours say what became of each job."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


class CeleryWorker:
    """Runs Celery's worker in the main thread until a signal, or :meth:`die`.

    Args:
        app: the application, with the task registered.
        host: the started engine host.
        settings: the worker's settings.
        capacity: jobs at once.
    """

    def __init__(self, app: Celery, host: EngineHost, settings: WorkerSettings, capacity: int) -> None:
        self._host = host
        self._drain_timeout_s = settings.drain_timeout_s
        self._signals = 0
        self._dead: str | None = None
        self._worker = app.Worker(
            pool=loop_pool(host, Keys(settings.namespace)("queue", settings.pool, Lane.BULK)),
            concurrency=capacity,
            hostname=settings.node_name,
            task_events=settings.task_events,
            without_gossip=True,
            without_mingle=True,
            loglevel=settings.log_level.upper(),
            quiet=True,
        )

    def run(self) -> int:
        """Work until told to stop. Returns the exit status: 0 after a drain, 1 when the worker had to end."""
        # A Python-heavy engine front in another thread starves Celery's consumer at the default 5 ms.
        sys.setswitchinterval(0.0005)
        worker_ready.connect(self._take_signals, weak=False)
        self._worker.start()
        if self._dead:
            log.error("worker_ended", reason=self._dead)
        return 1 if self._dead else 0

    def die(self, reason: str) -> None:
        """End as soon as the running tasks have returned. Callable from any thread."""
        self._dead = reason
        self._stop(1)

    def drain(self, timeout_s: float | None = None) -> None:
        """Stop claiming, give running jobs ``timeout_s`` seconds (by default the setting), give back the rest, end with 0.

        Callable from any thread.
        """
        timeout_s = self._drain_timeout_s if timeout_s is None else timeout_s
        log.info("draining", timeout_s=timeout_s)
        self._host.drain(timeout_s)
        self._stop(0)

    def _stop(self, status: int) -> None:
        worker_state.should_stop = status
        pool = getattr(self._worker, "pool", None)
        if pool is not None:  # otherwise it has not begun to take messages
            pool.wake()

    def _take_signals(self, **_: Any) -> None:
        log.info(
            "worker_ready",
            worker=self._host.worker,
            capacity=self._worker.concurrency,
            metrics=self._host.info["metrics_url"],
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
            signal.signal(signal.SIGINT, self._on_signal)

    def ignore_signals(self) -> None:
        """It is over: a signal that comes while the interpreter ends, which gives each its default, must not end it."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        """First: stop claiming and drain. Second: give back what still runs, now."""
        self._signals += 1
        log.info("signal", signal=signal.Signals(signum).name)
        self.drain(None if self._signals == 1 else 0.0)
