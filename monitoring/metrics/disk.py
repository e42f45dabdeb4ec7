"""The disks under a process's folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from monitoring.metrics.common import Asked, Family


class DataDisk(Asked):
    """Free and total bytes of the file systems of some folders (of a missing folder, the nearest existing parent).

    Args:
        folders: folders by the value of the label ``folder``.
    """

    FREE = Family(
        "penstock_data_disk_free_bytes",
        "Bytes that may still be written to the disk of the folder: `data`, or `files` where they are elsewhere.",
        ("folder",),
    )
    SIZE = Family("penstock_data_disk_size_bytes", "Bytes that the disk of the folder holds.", ("folder",))
    FAMILIES: ClassVar[tuple[Family, ...]] = (FREE, SIZE)

    def __init__(self, registry: CollectorRegistry, folders: Mapping[str, Path]) -> None:
        self._folders = {name: folder.absolute() for name, folder in folders.items()}
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Ask the file systems."""
        disks = {name: _disk(folder) for name, folder in self._folders.items()}
        for family in self.FAMILIES:
            metric = family.metric()
            for name, disk in disks.items():
                if disk is not None:
                    blocks = disk.f_bavail if family is self.FREE else disk.f_blocks
                    metric.add_metric([name], blocks * disk.f_frsize)
            yield metric


def _disk(folder: Path) -> os.statvfs_result | None:
    found = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return None if found is None else os.statvfs(found)
