"""Taking the devices of one process: the engine sees them, and no others."""

from __future__ import annotations

import os

import structlog

from jobs.placement import Device
from workers.devices.layout import device_for, gpus_for, groups_for
from workers.devices.nvml import DeviceStartError, indices
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


def take_devices(settings: WorkerSettings) -> tuple[WorkerSettings, Device]:
    """Take the GPUs of this process, and hide the others from the engine.

    Returns:
        The settings with the indices of the GPUs, and the device that they make.

    Raises:
        DeviceStartError: they are missing, too small for the model, or enough for several workers.
    """
    groups = groups_for(settings, gpus_for(settings))
    if len(groups) != 1:
        msg = f"these settings make {len(groups)} workers, and this process is one: start them with `penstock worker run`"
        raise DeviceStartError(msg)
    (group,) = groups
    device = device_for(settings, group)
    if group and settings.engine == "vllm":
        os.environ["CUDA_VISIBLE_DEVICES"] = indices(group)
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's; CUDA's own puts the fastest first
    log.info("device", device=str(device), gpus=indices(group) or "none: this worker runs on the CPU")
    return settings.model_copy(update={"gpus": indices(group) or None}), device
