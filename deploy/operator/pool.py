"""A ModelPool: what its spec asks for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

GROUP: Final = "penstock.dev"
API_VERSION: Final = f"{GROUP}/v1alpha1"
KIND: Final = "ModelPool"
OWNER_LABEL: Final = f"{GROUP}/modelpool"
POOL_LABEL: Final = f"{GROUP}/pool"
_NUMBER: Final = re.compile(r"-v([1-9][0-9]{0,5})\Z")


@dataclass(frozen=True, slots=True)
class Scaling:
    """How KEDA scales a pool.

    Attributes:
        least: workers at least; 0: the pool sleeps while it has no job.
        most: workers at most.
        slots: jobs that one worker runs at once.
        target: queued and running jobs over slots that a worker should have; None: as the chart says.
        deadlines: more workers come when a deadline is near.
        max_wait_s: the oldest job should wait no longer; None: it may.
    """

    least: int
    most: int
    slots: int
    target: float | None = None
    deadlines: bool = True
    max_wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that the pool has. ``source``: as in ``POST /v1/admin/adapters``."""

    name: str
    source: str
    pinned: bool = False
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class ModelPool:
    """A ModelPool, as it is in the cluster.

    Attributes:
        name: the pool's, which is that of its first version.
        spec: as it is; :mod:`deploy.operator.objects` reads the parts of the pod.
        status: as the operator wrote it last.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Mapping[str, Any]
    status: Mapping[str, Any]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> ModelPool:
        """Return what a body of the API server says. The server has checked it by the CRD."""
        meta = body["metadata"]
        return cls(
            meta["name"],
            meta["namespace"],
            meta["uid"],
            int(meta["generation"]),
            body["spec"],
            body.get("status") or {},
        )

    @property
    def model(self) -> str | None:
        """The model; None: the simulated engine has none."""
        return self.spec.get("model")

    @property
    def served_name(self) -> str:
        """The name that clients use. It stays when the model changes, so it is not the model's."""
        return str(self.spec.get("servedModelName") or self.name)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further names."""
        return tuple(self.spec.get("aliases", ()))

    @property
    def engine(self) -> str:
        """The engine's name."""
        return str(self.spec.get("engine", "vllm"))

    @property
    def gpus(self) -> int:
        """A worker's GPUs."""
        return int(self.spec.get("device", {}).get("gpus", 1))

    @property
    def gpu_resource(self) -> str:
        """What Kubernetes calls a GPU."""
        return str(self.spec.get("device", {}).get("resource", "nvidia.com/gpu"))

    @property
    def replicas(self) -> int:
        """Workers, if KEDA does not scale the pool."""
        return int(self.spec.get("replicas", 1))

    @property
    def scaling(self) -> Scaling | None:
        """How KEDA scales the pool; None: it does not."""
        given = self.spec.get("scaling")
        if given is None:
            return None
        return Scaling(
            int(given.get("min", 1)),
            int(given["max"]),
            int(given["slots"]),
            given.get("target"),
            bool(given.get("deadlines", True)),
            given.get("maxWaitSeconds"),
        )

    @property
    def surge(self) -> bool:
        """Whether the workers of a new version start beside the old ones. They need free GPUs for that."""
        return bool(self.spec.get("surge", True))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Further keys of its table in the settings file."""
        found: Mapping[str, Any] = self.spec.get("settings", {})
        return found

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that the pool should have."""
        return tuple(
            Adapter(one["name"], one["source"], bool(one.get("pinned", False)), one.get("tenant"))
            for one in self.spec.get("adapters", ())
        )

    @property
    def fingerprint(self) -> str:
        """Stands for all that makes another version of the model: a change starts workers of a pool of their own."""
        said = [
            self.model,
            self.served_name,
            self.engine,
            self.spec.get("engineArgs", []),
            self.spec.get("version"),
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def number_of(self, version: str) -> int | None:
        """Return the number of a version by the name of its pool; the first is 1. None: it is none of this ModelPool."""
        if version == self.name:
            return 1
        found = _NUMBER.search(version)
        return int(found[1]) if found and version[: found.start()] == self.name else None

    def owner(self) -> dict[str, Any]:
        """Return the reference by which Kubernetes deletes what belongs to it."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
