"""The Celery side of a worker: one task that stands for every job, and Celery's worker with our pool and consumer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery
from celery.apps.worker import install_cry_handler  # type: ignore[attr-defined]
from celery.signals import worker_ready
from celery.worker import state as worker_state

from broker.celery.app import TASK_NAME
from broker.celery.claimer import Claimer, Room
from broker.celery.envelope import learn_envelope
from broker.celery.transport import CLAIMER
from broker.db.keys import Keys
from broker.sealing import Sealer
from monitoring.sampling import Gate as EventGate
from workers.admission.gate import Gate
from workers.attempts.quarantine import Quarantine
from workers.celery.consumer import bounded_consumer
from workers.celery.pool import Submit, loop_pool, room_for
from workers.settings import WorkerSettings


def register_task(app: Celery) -> None:
    """Register the task that runs a job: task id and argument are the job's id."""

    @app.task(name=TASK_NAME)
    def run(job_id: str) -> None:
        """Stand for the job in Celery's registry; :class:`workers.celery.pool.LoopPool` runs it."""
        raise RuntimeError(f"job {job_id} can be run by Penstock's own pool only")


def quiet_celery() -> None:
    """Keep Celery's two lines per task out of the log, which has our own line for each job."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


class CeleryWorker:
    """Celery's worker in the main thread.

    Args:
        app: the application, with the task registered.
        worker: this worker's incarnation, whose lease is alive.
        capacity: jobs that it runs at once.
        gate, quarantine: say what more may be claimed.
        submit: runs a claimed job.
        give_back: gets the jobs of claims that Celery did not deliver.
        on_ready: called once it claims.
        on_stop: called when nothing is claimed any more, whatever the reason.

    Attributes:
        claimer: asks for jobs.
    """

    def __init__(
        self,
        app: Celery,
        settings: WorkerSettings,
        worker: str,
        capacity: int,
        *,
        gate: Gate,
        quarantine: Quarantine,
        submit: Submit,
        give_back: Callable[[Sequence[str]], None],
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._on_ready, self._gate, self._quarantine = on_ready, gate, quarantine
        self.claimer = Claimer(
            worker,
            keys=Keys(settings.namespace),
            pool=settings.pool,
            message=learn_envelope(app).message,
            retention_ms=int(settings.retention_s * 1000),
            sealer=Sealer(settings.keyring),
            room=self._room,
            give_back=give_back,
        )
        app.conf.broker_transport_options[CLAIMER] = self.claimer
        # Signals are the process's, see workers/main.py. Celery would install handlers that bypass the drain.
        quiet = {"install_platform_tweaks": lambda *_: install_cry_handler()}
        self._worker = type("Worker", (app.Worker,), quiet)(
            pool=loop_pool(submit, self.claimer, gate, quarantine, on_stop),
            consumer_cls=bounded_consumer(EventGate(1.0, settings.task_events_max_per_s)),
            concurrency=capacity,
            hostname=settings.node_name,
            task_events=settings.task_events,
            without_gossip=True,
            without_mingle=True,
            loglevel=settings.log_level.upper(),
            quiet=True,
        )

    def run(self) -> None:
        """Claim until :meth:`stop`, and return when every job has ended here."""
        # A Python-heavy engine front in another thread starves Celery's consumer at the default 5 ms.
        sys.setswitchinterval(0.0005)
        worker_ready.connect(self._ready, weak=False)
        self._worker.start()

    @property
    def rests(self) -> int:
        """See :attr:`broker.celery.claimer.Claimer.rests`. From any thread."""
        return self.claimer.rests

    def wake(self) -> None:
        """Have Celery's loop look at the gate now. From any thread; no effect before it claims."""
        pool = getattr(self._worker, "pool", None)
        if pool is not None:
            pool.wake()

    def undelivered(self) -> frozenset[str]:
        """Return the jobs whose claims are on their way to ``submit``. From any thread."""
        return self.claimer.ids()

    def _room(self) -> Room:
        self._worker.pool.settle()  # what has ended makes room
        return room_for(self._gate, self._quarantine)

    def _ready(self, **_: Any) -> None:
        self._on_ready()

    def stop(self) -> None:
        """Claim no more. Callable from any thread, and from signal handlers."""
        worker_state.should_stop = 0
        self.wake()
