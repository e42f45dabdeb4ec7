"""Looks at the cluster and at Penstock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import httpx2
from lightkube import AsyncClient
from lightkube.generic_resource import GenericNamespacedResource, create_namespaced_resource

from deploy.operator.base import INSTANCE_LABEL
from deploy.operator.objects import FINGERPRINT
from deploy.operator.pool import GROUP, OWNER_LABEL, POOL_LABEL, ModelPool
from deploy.operator.seen import Fleet, Pod, Seen, Version
from penstock import AsyncPenstock, NotFoundError, PenstockError

DEPLOYMENT: Final = create_namespaced_resource("apps", "v1", "Deployment", "deployments")
CONFIG_MAP: Final = create_namespaced_resource("", "v1", "ConfigMap", "configmaps")
POD: Final = create_namespaced_resource("", "v1", "Pod", "pods")
SCALED_OBJECT: Final = create_namespaced_resource("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects")
MODEL_POOL: Final = create_namespaced_resource(GROUP, "v1alpha1", "ModelPool", "modelpools")

DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
LOWEST_COST: Final = "-2147483648"
MARK: Final = f"{GROUP}/goes-next"
_STUCK: Final = {("Progressing", "False"), ("ReplicaFailure", "True")}
"""Conditions of a Deployment: its time is over; or pods are refused, by a quota or Pod Security."""

_WORKERS: Final = {"app.kubernetes.io/component": "worker"}


class Looking:
    """Reads what is there.

    Args:
        kube: of the API server; ``penstock``: of the api.
        namespace: the operator's.
        instance: its release. Workers of another one have another Redis, so their pools are others.
    """

    def __init__(self, kube: AsyncClient, penstock: AsyncPenstock, namespace: str, instance: str) -> None:
        self._kube, self._penstock, self._namespace = kube, penstock, namespace
        self._instance = instance

    async def look(self, pool: ModelPool) -> Seen:
        """Return what is there of a pool.

        Raises:
            httpx2.HTTPError: the API server refuses, or does not answer.
        """
        ours = {OWNER_LABEL: pool.name}
        deployments = await self._list(DEPLOYMENT, _WORKERS)
        pods = await self._list(POD, ours)
        try:
            scaled = [one["metadata"]["labels"][POOL_LABEL] for one in await self._list(SCALED_OBJECT, ours)]
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != 404:  # without KEDA there is no such resource
                raise
            scaled = []
        fleet, trouble = None, ""
        try:
            fleet = await self.fleet(pool)
        except PenstockError as error:
            trouble = str(error)
        return Seen(
            tuple(version_of(one, pods) for one in deployments if _owned(one, pool)),
            tuple(_pod(one) for one in pods),
            frozenset(scaled),
            next((one["metadata"]["name"] for one in deployments if self._foreign(one, pool)), None),
            fleet,
            trouble,
        )

    async def fleet(self, pool: ModelPool) -> Fleet:
        """Return what Penstock says.

        Raises:
            PenstockError: it does not answer, or refuses the operator's key.
        """
        api = self._penstock
        try:
            serving = (await api.rollouts.get(pool.name)).current.pool
        except NotFoundError:  # no worker of it ever registered
            serving = pool.name
        adapters = pool.adapters or pool.status.get("adapters")
        return Fleet(
            serving,
            tuple(one for one in await api.workers.list() if pool.number_of(one.pool)),
            tuple(one for one in await api.pools.list() if pool.number_of(one.pool)),
            tuple(one for one in await api.pools.declared() if pool.number_of(one.id)),
            tuple([one async for one in api.adapters.list(pool=serving)]) if adapters else (),
        )

    def _foreign(self, one: Mapping[str, Any], pool: ModelPool) -> bool:
        labels = one["metadata"].get("labels", {})
        if labels.get(INSTANCE_LABEL, self._instance) != self._instance:
            return False
        served = labels.get(POOL_LABEL)
        return served is not None and pool.number_of(served) is not None and not _owned(one, pool)

    async def _list(
        self, kind: type[GenericNamespacedResource], labels: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        found = self._kube.list(kind, namespace=self._namespace, labels=dict(labels))
        return [dict(one) async for one in found]


def _owned(one: Mapping[str, Any], pool: ModelPool) -> bool:
    return any(ref["uid"] == pool.uid for ref in one["metadata"].get("ownerReferences", ()))


def version_of(one: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Version:
    """Return the version of a Deployment, of those whose labels name a pool. ``pods``: of all versions."""
    meta, spec, status = one["metadata"], one["spec"], one.get("status") or {}
    replicas, pool = int(spec.get("replicas", 1)), meta["labels"][POOL_LABEL]
    seen = status.get("observedGeneration", 0) >= meta["generation"]
    late = [
        cond.get("message", "")
        for cond in status.get("conditions", ())
        if (cond["type"], cond["status"]) in _STUCK
    ]
    waits = [_waits(pod) for pod in pods if pod["metadata"]["labels"].get(POOL_LABEL) == pool]
    return Version(
        pool,
        meta["name"],
        meta.get("annotations", {}).get(FINGERPRINT, ""),
        replicas,
        int(status.get("readyReplicas", 0)),
        seen and int(status.get("updatedReplicas", 0)) >= replicas,
        "; ".join(dict.fromkeys(filter(None, (*late, *waits)))) if late else None,
    )


def _pod(one: Mapping[str, Any]) -> Pod:
    meta = one["metadata"]
    return Pod(
        meta["name"],
        meta["labels"][POOL_LABEL],
        (one.get("status") or {}).get("podIP"),
        "deletionTimestamp" in meta,
        MARK in meta.get("annotations", {}),
    )


def _waits(pod: Mapping[str, Any]) -> str | None:
    """Return why a pod's container does not run; None: it does."""
    for one in (pod.get("status") or {}).get("containerStatuses", ()):
        if waiting := one.get("state", {}).get("waiting"):
            said = f"{waiting.get('reason', '')}: {waiting.get('message', '')}"
            return f"{pod['metadata']['name']}: {said}".rstrip(": ")
    return None
