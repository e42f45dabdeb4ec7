"""The worker process, from settings to exit status."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from prometheus_client import REGISTRY

from broker.celery.app import make_celery
from broker.db.client import connect, ping
from broker.db.errors import StoreError
from broker.db.faults import Faults
from broker.jobs import JobStore
from broker.migration import prepare
from jobs.failures import FailureCode
from jobs.lanes import Lane
from monitoring import failpoints
from monitoring.logging import configure_logging
from monitoring.metrics import DataDisk, EngineGauges, Gpus, WorkerMetrics, serve_metrics, set_up
from storage import local_folders
from workers.admission.policy import LimitReason
from workers.celery.app import CeleryWorker, quiet_celery, register_task
from workers.celery.control import replace_commands
from workers.devices.pools import worker_settings
from workers.devices.taking import take_devices
from workers.engines.factory import engine_for
from workers.garbage import collect_seldom
from workers.process.host import EngineHost
from workers.process.signals import drain_on_signals, ignore_signals
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class WorkerStartError(Exception):
    """The worker cannot start. The message is for the operator."""


def run_worker(overrides: dict[str, Any]) -> None:
    """Run a worker until it ends.

    Args:
        overrides: settings given on the command line, by name; the rest comes from the environment and the files.

    Raises:
        pydantic.ValidationError: a bad setting.
        PoolsStartError: a bad table in ``penstock.toml``.
        DeviceStartError: its devices are not available.
        WorkerStartError: Redis or the metrics port is not available.
        MixedFleetStartError: another version of Penstock is on this Redis.
        EngineStartError: the engine cannot load.
        SystemExit: the worker ended; status 0 after a drain.
    """
    failpoints.arm_from_environment()
    settings = worker_settings(overrides)
    configure_logging(settings.log_level, as_json=settings.log_json, service="worker")
    quiet_celery()
    settings, device = take_devices(settings)
    set_up(REGISTRY, "worker")
    metrics = WorkerMetrics(REGISTRY, list(FailureCode), lanes=list(Lane), limit_reasons=list(LimitReason))
    faults = Faults(metrics.store_faults.inc)
    app = make_celery(
        settings.redis_url,
        settings.namespace,
        settings.pool,
        task_events=settings.task_events,
        faults=faults,
    )
    try:
        ping(settings.redis_url)
        asyncio.run(_prepare(settings, faults))
    except StoreError as error:
        raise WorkerStartError(str(error)) from error
    DataDisk(REGISTRY, local_folders(settings))
    host = EngineHost(settings, engine_for(settings), device, metrics)
    log.info("engine_starting", engine=settings.engine, model=settings.model)
    try:
        host.start(lambda: {"metrics_url": _serve_metrics(settings, host)})
        drain_on_signals(host.ending)
        register_task(app)
        replace_commands(host.cancel, host.ending.drain)
        failpoints.hit("worker.before_consume")
        worker = _celery_worker(app, settings, host)
        host.watch(worker)
        host.ending.on_begin(worker.stop)
        collect_seldom()
        worker.run()
        host.ending.stopped_claiming()
    finally:
        status = host.ending.finish()
        ignore_signals()
    raise SystemExit(status)


async def _prepare(settings: WorkerSettings, faults: Faults) -> None:
    store = JobStore(connect(settings.redis_url), settings, faults.count)
    try:
        await prepare(store)
    finally:
        await store.aclose()


def _celery_worker(app: Any, settings: WorkerSettings, host: EngineHost) -> CeleryWorker:
    capacity = settings.concurrency or host.engine.capacity()
    ready = {"worker": host.worker, "capacity": capacity, "metrics": host.info["metrics_url"]}
    return CeleryWorker(
        app,
        settings,
        host.worker,
        capacity,
        gate=host.gate,
        quarantine=host.quarantine,
        submit=host.submit,
        give_back=host.give_back,
        on_ready=lambda: log.info("worker_ready", **ready),
        on_stop=host.ending.stopped_claiming,
    )


def _serve_metrics(settings: WorkerSettings, host: EngineHost) -> str:
    """Serve /metrics in a thread, and return its address. Called after the engine's start: vLLM forks on CPU."""
    EngineGauges(REGISTRY, host.engine.stats, host.engine.priority)
    gpus = Gpus(
        REGISTRY, None if settings.gpus is None else [int(index) for index in settings.gpus.split(",")]
    )
    host.gpus.collect = gpus.collect
    address, port = settings.metrics_host, settings.metrics_port
    try:
        return serve_metrics(REGISTRY, address, port, settings.metrics_advertise_host)
    except OSError as error:
        raise WorkerStartError(f"cannot serve /metrics on {address}:{port}: {error.strerror}") from error
