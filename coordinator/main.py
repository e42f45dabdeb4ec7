"""The coordinator process, from settings to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import structlog
from prometheus_client import REGISTRY

from coordinator.loop import Coordinator
from coordinator.settings import CoordinatorSettings
from jobs.lanes import Lane
from monitoring import failpoints
from monitoring.logging import configure_logging, last_word
from monitoring.metrics import AcceptedJobs, DataDisk, serve_metrics, set_up
from storage import local_folders

log = structlog.get_logger(__name__)


END_S = 10.0
"""Longest time from the first signal to the end of the process."""


class CoordinatorStartError(Exception):
    """The coordinator cannot start. The message is for the operator."""


def run_coordinator(overrides: Mapping[str, Any]) -> None:
    """Run a coordinator until SIGINT or SIGTERM; it ends within ten seconds of it.

    Args:
        overrides: settings given on the command line, by name; the rest comes from the environment and the files.

    Raises:
        pydantic.ValidationError: a setting is wrong; its message names it.
        CoordinatorStartError: the metrics port cannot be listened on.
        MixedFleetStartError: another version of Penstock is on this Redis.
    """
    failpoints.arm_from_environment()
    settings = CoordinatorSettings(**overrides)
    configure_logging(settings.log_level, as_json=settings.log_json, service="coordinator")
    set_up(REGISTRY, "coordinator")
    metrics = AcceptedJobs(REGISTRY, list(Lane))
    DataDisk(REGISTRY, local_folders(settings))
    try:
        url = serve_metrics(
            REGISTRY, settings.metrics_host, settings.metrics_port, settings.metrics_advertise_host
        )
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise CoordinatorStartError(f"cannot serve /metrics on {where}: {error.strerror}") from error
    log.info("coordinator_starting", metrics_url=url)
    asyncio.run(_run(settings, metrics, url))
    log.info("coordinator_ended")


async def _run(settings: CoordinatorSettings, metrics: AcceptedJobs, url: str) -> None:
    coordinator = Coordinator(settings, metrics, url)
    end_on_signals(asyncio.get_running_loop(), coordinator.stop)
    await coordinator.run()


def end_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Have ``stop`` called on the loop at each signal that asks for an end; ten seconds after the first, end by force."""
    by_force = threading.Timer(END_S, _end_by_force)
    by_force.daemon = True
    signals = count()

    def on_signal(*_: object) -> None:
        if next(signals) == 0:  # a signal may interrupt this very function, and a thread starts once
            by_force.start()
        with suppress(RuntimeError):  # the loop is closed: the process ends anyway
            loop.call_soon_threadsafe(stop)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, on_signal)  # not the loop's handlers: those wait for a loop that hangs


def _end_by_force() -> None:
    """End the process. Something hangs, such as a disk; other coordinators continue when the leases have run out."""
    last_word(lambda: log.error("coordinator_ends_by_force", after_s=END_S))
    os._exit(1)
