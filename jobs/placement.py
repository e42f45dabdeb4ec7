"""Which pool a job goes to, by the device it asks for, the devices of each pool, and how busy each pool is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

GB = 1_000_000_000
"""Bytes of one GB of device memory, as vendors count: an "80GB" card has 80 of them."""

CPU = "cpu"
"""The device of a worker that uses no GPU."""

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Device:
    """The device, or group of devices, that a worker's engine runs on.

    Attributes:
        name: the driver's name for it, such as ``NVIDIA H100 80GB HBM3``; ``cpu``; None: unknown.
        memory_bytes: memory of the whole group; None: unknown.
        count: devices in the group.
    """

    name: str | None = None
    memory_bytes: int | None = None
    count: int = 1

    def __str__(self) -> str:
        """Return words for a sentence: ``2 x NVIDIA L4, 48.3 GB``."""
        times = f"{self.count} x " if self.count > 1 else ""
        size = "" if self.memory_bytes is None else f", {self.memory_bytes / GB:.1f} GB"
        return f"{times}{self.name or 'unknown device'}{size}"


@dataclass(frozen=True, slots=True)
class Placement:
    """The device that a job asks for.

    Attributes:
        device: words of the device's name, in any order and case: ``h100``, ``H100 80GB``, ``cpu``. None: any.
        min_memory_gb: memory of the device group, in 10^9 bytes. None: any.
    """

    device: str | None = None
    min_memory_gb: float | None = None

    def __str__(self) -> str:
        """Return words for a sentence."""
        wishes = [f"a device like {self.device!r}"] if self.device is not None else []
        if self.min_memory_gb is not None:
            wishes.append(f"at least {self.min_memory_gb:g} GB of device memory")
        return " with ".join(wishes) or "any device"

    def met_by(self, device: Device) -> bool:
        """Whether a device meets the request; a device of unknown name or memory does not."""
        if self.device is not None and not _words(self.device) <= _words(device.name or ""):
            return False
        return self.min_memory_gb is None or (device.memory_bytes or 0) >= self.min_memory_gb * GB


@dataclass(frozen=True, slots=True)
class Offer:
    """A pool that serves the wanted model.

    Attributes:
        devices: those of its live workers; without any, the last known.
        live: whether a live worker takes jobs, now or once its model is awake.
        scales: a worker is started for what is queued.
        paused: an operator has paused it, so no job is dispatched.
        capacity: jobs that its live workers run at once; none while their model sleeps.
        load: jobs that they run, and jobs that wait for them.
    """

    pool: str
    devices: tuple[Device, ...] = ()
    live: bool = False
    scales: bool = False
    paused: bool = False
    capacity: int = 0
    load: int = 0

    @property
    def free(self) -> int:
        """Free slots; negative if jobs wait."""
        return self.capacity - self.load


def rank(offers: Iterable[Offer], placement: Placement | None = None) -> list[Offer]:
    """Order the pools for a job: those with a live worker first, then those that scale from zero; paused ones later; then by
    free slots, then by name.

    Args:
        placement: the device it asks for. Every worker of a pool must meet it, since any of them may take the job.

    Returns:
        The pools that meet the placement, the best first.
    """
    fitting = [
        offer
        for offer in offers
        if placement is None or (offer.devices and all(map(placement.met_by, offer.devices)))
    ]
    return sorted(
        fitting, key=lambda offer: (not offer.live, not offer.scales, offer.paused, -offer.free, offer.pool)
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
