"""How busy this worker is, as an annotation of its own pod: when a pool shrinks, the least busy worker is ended first.

Kubernetes chooses among ready pods of a ReplicaSet by ``controller.kubernetes.io/pod-deletion-cost``, the lowest first
(Kubernetes, "ReplicaSet", pod deletion cost). It asks to change the annotation seldom, so the number has steps of ten.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import httpx
import structlog

log = structlog.get_logger(__name__)

ANNOTATION: Final = "controller.kubernetes.io/pod-deletion-cost"
LEAVING: Final = -1
"""The cost of a worker that drains: it ends anyway."""

EVERY_S: Final = 10.0
"""Least time between two changes."""

_TIMEOUT_S = 5.0
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server of the cluster, as a pod finds it.

    Attributes:
        url: its address.
        token: the file with the account's token, which Kubernetes replaces from time to time.
        ca: the file with the authorities of its certificate.
    """

    url: str
    token: Path = field(default=_ACCOUNT / "token")
    ca: Path | None = field(default=_ACCOUNT / "ca.crt")

    @classmethod
    def found(cls) -> Self:
        """Return the cluster that this process runs in, by the variables that Kubernetes sets."""
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT_HTTPS', '443')}")


def cost_of(running: int, capacity: int) -> int:
    """Return the cost of ending a worker: the share of its slots in use in percent, rounded up to tens.

    Args:
        running: jobs and rows on its engine.
        capacity: as many as it may run.
    """
    return min(100, 10 * math.ceil(10 * running / max(1, capacity)))


class PodCost:
    """Keeps the annotation of a pod.

    Args:
        pod: the pod, as ``namespace/name``.
        cost: returns what ending the worker costs now, see :func:`cost_of`.
    """

    def __init__(self, pod: str, cost: Callable[[], int], cluster: Cluster) -> None:
        namespace, _, name = pod.partition("/")
        self._path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        self._cost, self._cluster = cost, cluster
        self._told: int | None = None
        self._failing = False

    async def run(self, every_s: float = EVERY_S) -> None:
        """Say each change, until cancelled. A cluster that does not answer is asked again: the worker works without it."""
        while True:
            cost = self._cost()
            if cost != self._told:
                try:
                    await self._tell(cost)
                except (httpx.HTTPError, OSError, ValueError) as error:
                    if not self._failing:
                        log.warning("pod_cost_not_told", error=str(error) or type(error).__name__)
                    self._failing = True
                else:
                    self._told, self._failing = cost, False
            await asyncio.sleep(every_s)

    async def _tell(self, cost: int) -> None:
        """Patch the pod.

        Raises:
            httpx.HTTPError: the server does not answer, or refuses it.
            OSError: the account's files cannot be read.
        """
        token = await asyncio.to_thread(self._cluster.token.read_text)
        ca = self._cluster.ca
        verify = await asyncio.to_thread(ssl.create_default_context, cafile=ca) if ca else True
        headers = {
            "authorization": f"Bearer {token.strip()}",
            "content-type": "application/merge-patch+json",
        }
        async with httpx.AsyncClient(base_url=self._cluster.url, verify=verify, timeout=_TIMEOUT_S) as http:
            patch = {"metadata": {"annotations": {ANNOTATION: str(cost)}}}
            (await http.patch(self._path, json=patch, headers=headers)).raise_for_status()
