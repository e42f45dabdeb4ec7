"""What the operator sees of a pool, in the cluster and in Penstock. It is read anew each time."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from penstock.adapter_models import Adapter
from penstock.fleet_models import DeclaredPool, Pool, Worker


@dataclass(frozen=True, slots=True)
class Version:
    """The Deployment of a version of the model.

    Attributes:
        pool: the pool of its workers: that of the ModelPool, or ``<name>-v<number>``.
        name: of the Deployment.
        fingerprint: see :attr:`deploy.operator.pool.ModelPool.fingerprint`.
        replicas: that it should have.
        ready: pods that are ready.
        settled: all pods are of its newest template.
        stuck: why its pods do not become ready, as Kubernetes says it; None: they may.
    """

    pool: str
    name: str
    fingerprint: str
    replicas: int = 1
    ready: int = 0
    settled: bool = True
    stuck: str | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a version.

    Attributes:
        pool: of its version.
        address: its IP; None: it has none yet.
        leaving: it is being deleted.
        marked: the operator has chosen it as the next to go.
    """

    name: str
    pool: str
    address: str | None = None
    leaving: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """What Penstock says.

    Attributes:
        serving: the pool of the version that serves.
        workers: live ones of the pool's versions; ``queues``: of the same.
        declared: pools that scale from zero, of the same.
        adapters: that the pool has.
    """

    serving: str
    workers: tuple[Worker, ...] = ()
    queues: tuple[Pool, ...] = ()
    declared: tuple[DeclaredPool, ...] = ()
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """All of it.

    Attributes:
        versions: the Deployments that belong to the ModelPool.
        pods: of all versions.
        scaled: versions (by pool) that have a ScaledObject.
        foreign: the name of a Deployment of somebody else that serves the pool; None: there is none.
        fleet: None: Penstock does not answer; ``trouble`` says why.
    """

    versions: tuple[Version, ...] = ()
    pods: tuple[Pod, ...] = ()
    scaled: frozenset[str] = frozenset()
    foreign: str | None = None
    fleet: Fleet | None = None
    trouble: str = ""

    def of(self, pool: str) -> Version | None:
        """Return the version whose workers are in a pool."""
        return next((one for one in self.versions if one.pool == pool), None)


def address_of(worker: Worker) -> str | None:
    """Return the address of a worker's pod: that of its metrics."""
    return None if worker.metrics_url is None else urlsplit(worker.metrics_url).hostname
