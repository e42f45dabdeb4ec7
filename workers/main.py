"""The worker process, from settings to exit status."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from prometheus_client import REGISTRY, start_http_server

from broker.celery_app import make_celery
from broker.envelope import greet
from broker.errors import StoreUnavailableError
from broker.keys import Keys
from jobs.failures import FailureCode
from monitoring import failpoints
from monitoring.logging import configure_logging
from monitoring.metrics import WorkerMetrics
from workers.celery_worker import CeleryWorker, quiet_celery, register_task
from workers.choose import engine_for
from workers.engines.base import EngineStartError
from workers.host import EngineHost
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class WorkerStartError(Exception):
    """The worker cannot start. The message is for the operator."""


def run_worker(overrides: dict[str, Any]) -> None:
    """Run a worker until it is told to stop.

    Args:
        overrides: settings given on the command line, by name; the rest comes from the environment and the files.

    Raises:
        pydantic.ValidationError: a bad setting.
        WorkerStartError: Redis or the metrics port is not to be had.
        EngineStartError: the engine cannot load.
        SystemExit: the worker ended; status 0 after a drain.
    """
    failpoints.arm_from_environment()
    settings = WorkerSettings(**overrides)
    configure_logging(settings.log_level, as_json=settings.log_json)
    quiet_celery()
    if settings.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpus
    app = make_celery(settings.redis_url, settings.namespace, settings.pool, task_events=settings.task_events)
    try:
        greet(app, settings.redis_url, Keys(settings.namespace))
    except StoreUnavailableError as error:
        raise WorkerStartError(str(error)) from error
    metrics = WorkerMetrics(REGISTRY, [code.value for code in FailureCode])
    worker: CeleryWorker | None = None

    orders: deque[Callable[[CeleryWorker], None]] = deque()

    def obey(order: Callable[[CeleryWorker], None] | None = None) -> None:
        """Carry orders out, of whichever thread: at once, or as soon as there is a worker to carry them out."""
        if order is not None:
            orders.append(order)
        while worker is not None and orders:
            with suppress(IndexError):  # the other thread took it
                orders.popleft()(worker)

    host = EngineHost(
        settings,
        engine_for(settings),
        metrics,
        on_dead=lambda reason: obey(lambda one: one.die(reason)),
        on_drain=lambda timeout_s: obey(lambda one: one.drain(timeout_s)),
    )
    log.info("engine_starting", engine=settings.engine, model=settings.model)
    status = 1
    try:
        host.start(lambda: {"metrics_url": _serve_metrics(settings)})
        register_task(app, host)
        failpoints.hit("worker.before_consume")
        worker = CeleryWorker(app, host, settings, settings.concurrency or host.engine.capacity())
        obey()
        gc.collect()
        gc.freeze()
        status = worker.run()
    finally:
        host.stop()
    raise SystemExit(status)


def _serve_metrics(settings: WorkerSettings) -> str:
    """Serve /metrics in a thread, and return its address. Called after the engine's start: vLLM forks on CPU."""
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host)
    except OSError as error:
        msg = f"cannot serve /metrics on {settings.metrics_host}:{settings.metrics_port}: {error.strerror}"
        raise WorkerStartError(msg) from error
    return f"http://{settings.metrics_host}:{server.server_port}/metrics"


__all__ = ["EngineStartError", "WorkerStartError", "run_worker"]
