"""What all pools of a release have in common: the chart renders it from the same template as its own workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

INSTANCE_LABEL = "app.kubernetes.io/instance"


@dataclass(frozen=True, slots=True)
class Base:
    """The part of a worker that a ModelPool does not name.

    Attributes:
        release: before the names of objects.
        images: by kind of worker: ``gpu``, ``cpu``, and ``light`` without vLLM.
        secret: has ``hf_token``, and what the engine ``openai`` needs.
        drain_s: how long running jobs get; ``start_s``: how long a model may take to load.
        shm_size: of ``/dev/shm``.
        settings: keys of penstock.toml above the tables.
        target: queued and running jobs over slots that a worker should have, if a pool names none.
        deployment: a Deployment of the chart, of a pool that says nothing but its name.
        scaling_deployment: the same of a pool that scales; ``scaled_object``: its ScaledObject.
    """

    release: str
    images: Mapping[str, str]
    secret: str
    drain_s: int
    start_s: int
    shm_size: str
    settings: Mapping[str, Any]
    target: float
    deployment: Mapping[str, Any]
    scaling_deployment: Mapping[str, Any]
    scaled_object: Mapping[str, Any]

    @property
    def instance(self) -> str:
        """The release, as its objects are labelled with it."""
        return str(self.deployment["metadata"]["labels"][INSTANCE_LABEL])


def read_base(path: Path) -> Base:
    """Read the file that the chart wrote.

    Raises:
        ValueError: it is not such a file. The message says what is wrong.
    """
    try:
        said = yaml.safe_load(path.read_text())
        worker = said["worker"]
        return Base(
            said["release"],
            said["images"],
            said["secret"],
            int(worker["drainSeconds"]),
            int(worker["startSeconds"]),
            str(worker["shmSize"]),
            said["settings"] or {},
            float(said["target"]),
            said["deployment"],
            said["scalingDeployment"],
            said["scaledObject"],
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what the chart writes for the operator: {error!r}") from error
