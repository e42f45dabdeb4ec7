"""The GPUs of a worker, as its record shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from prometheus_client.core import Metric

log = structlog.get_logger(__name__)

_GPU_FIELDS = {
    "penstock_gpu_utilization_ratio": "utilization",
    "penstock_gpu_memory_used_bytes": "memory_used_bytes",
    "penstock_gpu_memory_total_bytes": "memory_total_bytes",
    "penstock_gpu_temperature_celsius": "temperature_c",
    "penstock_gpu_power_watts": "power_w",
}
"""The metrics of a GPU, and their names in ``GET /v1/workers``."""


def gpu_facts(families: Iterable[Metric]) -> list[dict[str, Any]]:
    """Return one object per GPU, as ``GET /v1/workers`` shows it, from its metrics."""
    found: dict[str, dict[str, Any]] = {}
    for family in families:
        field = _GPU_FIELDS.get(family.name)
        for sample in family.samples if field is not None else ():
            labels = sample.labels
            gpu = found.setdefault(
                labels["gpu"],
                {"index": int(labels["gpu"]), "uuid": labels["uuid"], "name": labels["name"]}
                | dict.fromkeys(_GPU_FIELDS.values()),
            )
            gpu[str(field)] = int(sample.value) if str(field).endswith("_bytes") else sample.value
    return list(found.values())


class GpuWatch:
    """Reads a worker's GPUs regularly, in a thread: a driver that hangs must not cost the worker its lease.

    Attributes:
        facts: as of the last read; see :func:`gpu_facts`.
        collect: the source of the metrics; until it is set there are none.
    """

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.collect: Callable[[], Iterable[Metric]] = tuple

    async def run(self, interval_s: float) -> None:
        """Read every ``interval_s`` seconds, until cancelled."""
        while True:
            try:
                self.facts = await asyncio.to_thread(lambda: gpu_facts(self.collect()))
            except Exception:  # a driver's failure is no reason for a worker to end
                log.exception("gpus_not_read")
                self.facts = []
            await asyncio.sleep(interval_s)
