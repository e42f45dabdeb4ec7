"""Metrics of GPUs from the NVIDIA driver (NVML). Without a driver there are no series, and no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pynvml
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from monitoring.metrics.common import Asked, Family

log = structlog.get_logger(__name__)

_LABELS = ("gpu", "uuid", "name")


def _gpu(name: str, meaning: str) -> Family:
    return Family(f"penstock_gpu_{name}", meaning, _LABELS)


class Gpus(Asked):
    """Utilisation, memory, temperature and power of GPUs, read at each scrape.

    Several workers may see the same GPU, so expressions take ``max by (uuid)``. A figure that a GPU does not report (such as
    power on some laptops) has no series.

    Args:
        indices: the driver's numbers of the GPUs; None: all of them.
        nvml: the driver's library.
    """

    UTILIZATION = _gpu(
        "utilization_ratio", "Part of the last moments in which a kernel ran on the GPU, 0 to 1."
    )
    MEMORY_USED = _gpu("memory_used_bytes", "Bytes of GPU memory in use, by every process.")
    MEMORY_TOTAL = _gpu("memory_total_bytes", "Bytes of GPU memory that there are.")
    TEMPERATURE = _gpu("temperature_celsius", "Degrees Celsius of the GPU's die.")
    POWER = _gpu("power_watts", "Watts that the GPU draws.")
    POWER_LIMIT = _gpu("power_limit_watts", "Watts that the GPU may draw.")
    FAMILIES: ClassVar[tuple[Family, ...]] = (
        UTILIZATION,
        MEMORY_USED,
        MEMORY_TOTAL,
        TEMPERATURE,
        POWER,
        POWER_LIMIT,
    )

    def __init__(
        self, registry: CollectorRegistry, indices: Sequence[int] | None = None, nvml: Any = pynvml
    ) -> None:
        self._nvml = nvml
        self._gpus: list[tuple[Any, list[str]]] = []
        self._silent: set[tuple[str, str]] = set()
        try:
            nvml.nvmlInit()
            for index in range(nvml.nvmlDeviceGetCount()) if indices is None else indices:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                names = (nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle))
                self._gpus.append((handle, [str(index), *map(_text, names)]))
        except nvml.NVMLError as error:
            log.info("no_gpu_metrics", reason=str(error))
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Read the driver."""
        nvml = self._nvml
        questions: dict[Family, Callable[[Any], float]] = {
            self.UTILIZATION: lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            self.MEMORY_USED: lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
            self.MEMORY_TOTAL: lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
            self.TEMPERATURE: lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            self.POWER: lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            self.POWER_LIMIT: lambda gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
        }
        for family, ask in questions.items():
            metric = family.metric()
            for handle, labels in self._gpus:
                try:
                    metric.add_metric(labels, ask(handle))
                except nvml.NVMLError as error:
                    if (family.name, labels[0]) not in self._silent:
                        self._silent.add((family.name, labels[0]))
                        log.info("gpu_does_not_say", metric=family.name, gpu=labels[0], reason=str(error))
            yield metric


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # bytes before nvidia-ml-py 12
