"""What the operator can do. Each step may be repeated, and the next look finds what a step that was cut off left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from deploy.operator.pool import Adapter


@dataclass(frozen=True, slots=True)
class Apply:
    """Create objects, or make them as they should be. ``what``: for people, if that begins something."""

    objects: tuple[dict[str, Any], ...]
    what: str | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Give a Deployment so many replicas."""

    name: str
    replicas: int
    what: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Have Kubernetes delete a pod before its siblings, or take that back."""

    pod: str
    on: bool = True


@dataclass(frozen=True, slots=True)
class Drain:
    """Have a worker take no more jobs. ``worker``: its incarnation."""

    worker: str
    pod: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Have a version serve. ``pool``: of the ModelPool; ``to``: of the version."""

    pool: str
    to: str


@dataclass(frozen=True, slots=True)
class Declare:
    """Have requests for a pool's model queued although no worker of it is alive."""

    pool: str
    model: str
    aliases: tuple[str, ...] = ()
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class Undeclare:
    """Take that back."""

    pool: str


@dataclass(frozen=True, slots=True)
class Unscale:
    """Delete a ScaledObject: KEDA scales no more, and what it scaled stays."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete the Deployment and the ConfigMap of a version that has no pod left."""

    name: str


@dataclass(frozen=True, slots=True)
class AddAdapter:
    """Give a pool an adapter."""

    pool: str
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class PinAdapter:
    """Have workers keep an adapter of a pool loaded, or no longer."""

    pool: str
    name: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class RemoveAdapter:
    """Take it back."""

    pool: str
    name: str


AtPenstock: TypeAlias = Drain | Switch | Declare | Undeclare | AddAdapter | PinAdapter | RemoveAdapter
"""Steps that Penstock carries out; the cluster does the others."""

Step: TypeAlias = Apply | Scale | Mark | Unscale | Remove | AtPenstock
