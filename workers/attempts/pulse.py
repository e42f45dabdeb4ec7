"""What a worker did since its last heartbeat, as rates: what `penstock top` shows of it."""

from __future__ import annotations

import asyncio
import time
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
"""The metrics of a GPU, and what ``GET /v1/workers`` calls them."""


def gpu_facts(families: Iterable[Metric]) -> list[dict[str, Any]]:
    """Return one object per GPU, as ``GET /v1/workers`` shows it, from what is scraped of them."""
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
    """Asks for a worker's GPUs now and then, off the loop: a driver that hangs must not cost the worker its lease.

    Attributes:
        facts: what was said last; see :func:`gpu_facts`.
    """

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self._collect: Callable[[], Iterable[Metric]] = tuple

    def look_at(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Say where the figures come from; nowhere until then."""
        self._collect = collect

    async def run(self, interval_s: float) -> None:
        """Ask every so often, until cancelled."""
        while True:
            try:
                self.facts = await asyncio.to_thread(lambda: gpu_facts(self._collect()))
            except Exception:  # a driver's whims are no reason for a worker to end
                log.exception("gpus_not_read")
                self.facts = []
            await asyncio.sleep(interval_s)


class Pulse:
    """Counts jobs, waits and tokens between two beats.

    Args:
        clock: seconds, forward only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._generated: int | None = None
        self._jobs = 0
        self._tokens = 0
        self._waits = 0
        self._waited_ms = 0

    def claimed(self, waited_ms: int | None) -> None:
        """Count an attempt that begins. ``waited_ms``: what its job waited for it; None: not known."""
        if waited_ms is not None:
            self._waits += 1
            self._waited_ms += waited_ms

    def ended(self) -> None:
        """Count a job that ended here."""
        self._jobs += 1

    def answered(self, tokens: int) -> None:
        """Count the completion tokens of a run that has ended."""
        self._tokens += tokens

    def read(self, generated: int | None) -> dict[str, float | None]:
        """Return the rates since the last call, and begin anew.

        Args:
            generated: tokens that the engine has generated since its start; None: it does not say. Then the tokens of runs
                that ended count instead, which come in one lump per run.

        Returns:
            ``tokens_per_s``, ``jobs_per_s``, and ``wait_ms``, the mean wait of the attempts that began; None where none did.
        """
        now = self._clock()
        passed = max(now - self._since, 0.001)
        tokens = self._tokens if generated is None else max(generated - (self._generated or 0), 0)
        wait = self._waited_ms / self._waits if self._waits else None
        rates = {
            "tokens_per_s": round(tokens / passed, 1),
            "jobs_per_s": round(self._jobs / passed, 2),
            "wait_ms": None if wait is None else round(wait, 1),
        }
        self._since, self._generated = now, generated
        self._jobs = self._tokens = self._waits = self._waited_ms = 0
        return rates
