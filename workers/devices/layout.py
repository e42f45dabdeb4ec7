"""From a worker's settings to its device groups: one engine process for each."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jobs.placement import CPU, GB, Device
from workers.devices.nvml import (
    DeviceStartError,
    Gpu,
    Group,
    check_room,
    cut,
    device_of,
    look,
    visible,
    vllm_runs_on_cpu,
)
from workers.devices.weights import flag, weights_bytes
from workers.settings import WorkerSettings

VISIBLE = "CUDA_VISIBLE_DEVICES"

_SHARE = 0.9
"""vLLM's own ``gpu_memory_utilization``; later versions take a little more."""


def gpus_for(settings: WorkerSettings) -> tuple[Gpu, ...]:
    """Return the GPUs that workers with these settings may use.

    The simulated engine gets stand-ins for the GPUs that its settings name, so that a layout can be tried without them.

    Raises:
        DeviceStartError: the driver fails, or ``CUDA_VISIBLE_DEVICES`` cannot be read.
    """
    if settings.paced is not None:
        if settings.gpus is not None:
            raise DeviceStartError("a paced engine uses no GPU: leave out gpus (--gpus)")
        return ()
    if settings.placement == "external":
        if settings.gpus is not None or (settings.workers or 1) > 1:
            msg = "with placement external the engine's devices are not this machine's: leave out gpus and workers"
            raise DeviceStartError(msg)
        return ()
    if settings.engine == "vllm":
        return () if vllm_runs_on_cpu() else visible(look(), os.environ.get(VISIBLE))
    if settings.gpus is None or settings.gpus == "all":
        return ()
    if settings.engine == "openai":
        raise DeviceStartError("the engine openai uses no GPU of this machine: leave out gpus (--gpus)")
    return tuple(
        Gpu(int(word), settings.device or CPU, 0) for word in dict.fromkeys(settings.gpus.split(","))
    )


def groups_for(settings: WorkerSettings, gpus: Sequence[Gpu]) -> list[Group]:
    """Return the group of each worker process that these settings ask for; an empty one is the CPU. Pure, except that it
    reads the model's files.

    Raises:
        DeviceStartError: they are missing, or too small for the model.
    """
    size, copies = group_size(settings)
    if settings.paced is not None and size > 1:
        raise DeviceStartError(
            "a paced engine is one device: leave out tensor, pipeline and data parallelism, and choose a pace (paced) "
            "of the whole group"
        )
    nodes = settings.nodes or 1
    if size % nodes:
        msg = f"the engine has {size} devices, which {nodes} nodes cannot share"
        raise DeviceStartError(
            f"{msg}: tensor_parallel times the stages of its pipeline is a multiple of nodes"
        )
    if nodes > 1 and (settings.workers or 1) > 1:
        raise DeviceStartError("an engine on several machines is one worker: leave out workers")
    groups = cut(settings.gpus, size // nodes, gpus, settings.workers)
    if settings.engine == "vllm" and settings.model is not None and groups[0]:
        share = flag(settings.engine_args, "--gpu-memory-utilization")
        need = weights_bytes(settings.model, settings.engine_args)
        if need is not None and (draft := settings.draft_model) is not None:
            need += weights_bytes(draft) or 0
        for group in groups:
            check_room(settings.model, None if need is None else need // nodes, group, copies, _share(share))
    return groups


def group_size(settings: WorkerSettings) -> tuple[int, int]:
    """Return how many GPUs one engine needs, and how many copies of the model are on them.

    Raises:
        DeviceStartError: ``tensor_parallel`` and ``engine_args`` disagree.
    """
    args = settings.engine_args
    said = _count(flag(args, "--tensor-parallel-size", "-tp"))
    if said and settings.tensor_parallel and said != settings.tensor_parallel:
        msg = f"tensor_parallel is {settings.tensor_parallel}, but engine_args say --tensor-parallel-size={said}"
        raise DeviceStartError(msg)
    stages = _count(flag(args, "--pipeline-parallel-size", "-pp")) or 1
    copies = _count(flag(args, "--data-parallel-size", "-dp")) or 1
    return (settings.tensor_parallel or said or 1) * stages * copies, copies


def device_for(settings: WorkerSettings, group: Group) -> Device:
    """Return the device for the worker's record: those of all its nodes."""
    count, nodes = len(group) or 1, settings.nodes or 1
    if settings.placement == "external":
        count, nodes = group_size(settings)[0], 1
    if settings.device is not None or settings.device_memory_gb is not None:
        memory = None if settings.device_memory_gb is None else int(settings.device_memory_gb * GB)
        return Device(settings.device, memory, count * nodes)
    if settings.paced is not None:
        return Device(settings.paced_name)
    if settings.engine == "openai" or settings.placement == "external":
        return Device(count=count)  # elsewhere, and nobody names it
    here = device_of(group if settings.engine == "vllm" else ())
    memory = None if here.memory_bytes is None else here.memory_bytes * nodes
    return Device(here.name, memory, here.count * nodes)


def _count(text: str | None) -> int | None:
    """Read a flag's number; None if it is not one: vLLM's own refusal is better."""
    return int(text) if text is not None and text.isdecimal() else None


def _share(text: str | None) -> float:
    try:
        return _SHARE if text is None else float(text)
    except ValueError:
        return _SHARE  # vLLM refuses it
