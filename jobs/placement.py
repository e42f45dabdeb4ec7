"""Which pool a job goes to: what it asks of the device, what each pool has, and how busy each is. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

GB = 1_000_000_000
"""Bytes in the GB of a device's memory, as on its box: 80 GB fit on an "80GB" card."""

CPU = "cpu"
"""The device of a worker that uses no GPU."""

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Device:
    """What a worker's engine runs on.

    Attributes:
        name: as its driver says it, for example ``NVIDIA H100 80GB HBM3``; ``cpu``; None where nobody knows.
        memory_bytes: of all devices of the group together; None where nobody knows.
        count: devices in the group.
    """

    name: str | None = None
    memory_bytes: int | None = None
    count: int = 1

    def __str__(self) -> str:
        """Say it in a sentence: ``2 x NVIDIA L4, 48.3 GB``."""
        times = f"{self.count} x " if self.count > 1 else ""
        size = "" if self.memory_bytes is None else f", {self.memory_bytes / GB:.1f} GB"
        return f"{times}{self.name or 'unknown device'}{size}"


@dataclass(frozen=True, slots=True)
class Placement:
    """What a job asks of the device that it runs on.

    Attributes:
        device: words of the device's name, in any order and case: ``h100``, ``H100 80GB``, ``cpu``. None: any.
        min_memory_gb: memory of the device group, in 10^9 bytes. None: any.
    """

    device: str | None = None
    min_memory_gb: float | None = None

    def __str__(self) -> str:
        """Say it in a sentence."""
        wishes = [f"a device like {self.device!r}"] if self.device is not None else []
        if self.min_memory_gb is not None:
            wishes.append(f"at least {self.min_memory_gb:g} GB of device memory")
        return " with ".join(wishes) or "any device"

    def met_by(self, device: Device) -> bool:
        """Whether a device is what was asked for; one of which nobody knows the name or memory is not."""
        if self.device is not None and not _words(self.device) <= _words(device.name or ""):
            return False
        return self.min_memory_gb is None or (device.memory_bytes or 0) >= self.min_memory_gb * GB


@dataclass(frozen=True, slots=True)
class Offer:
    """A pool that serves the wanted model.

    Attributes:
        pool: its name.
        devices: those of its live workers; while none lives, the last one's that is known.
        live: whether a worker lives that takes jobs.
        paused: an operator lets nothing down to its workers now.
        capacity: jobs that its live workers run at once.
        load: jobs that they run or that wait for them.
    """

    pool: str
    devices: tuple[Device, ...] = ()
    live: bool = False
    paused: bool = False
    capacity: int = 0
    load: int = 0

    @property
    def free(self) -> int:
        """Slots that are free; below zero where jobs wait."""
        return self.capacity - self.load


def rank(offers: Iterable[Offer], placement: Placement | None = None) -> list[Offer]:
    """Order the pools that may have a job: with a live worker first, the paused behind, then by free slots, then by name.

    Args:
        offers: the pools that serve its model.
        placement: what it asks for. A pool meets it only with every one of its workers, since any of them may take
            the job.

    Returns:
        Those that meet the placement, the best first; empty where none does.
    """
    fitting = [
        offer
        for offer in offers
        if placement is None or (offer.devices and all(map(placement.met_by, offer.devices)))
    ]
    return sorted(fitting, key=lambda offer: (not offer.live, offer.paused, -offer.free, offer.pool))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
