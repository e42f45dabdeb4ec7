"""Carries steps out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import httpx2
from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import GenericNamespacedResource
from lightkube.types import PatchType

from deploy.operator.looking import (
    CONFIG_MAP,
    DELETION_COST,
    DEPLOYMENT,
    LOWEST_COST,
    MARK,
    MODEL_POOL,
    POD,
    SCALED_OBJECT,
)
from deploy.operator.objects import MANAGER
from deploy.operator.steps import (
    AddAdapter,
    Apply,
    Declare,
    Drain,
    Mark,
    PinAdapter,
    Remove,
    RemoveAdapter,
    Scale,
    Step,
    Switch,
    Undeclare,
    Unscale,
)
from penstock import AsyncPenstock, NotFoundError, PenstockError

_KINDS: Final = {
    "ConfigMap": CONFIG_MAP,
    "Deployment": DEPLOYMENT,
    "ScaledObject": SCALED_OBJECT,
}


class StepError(Exception):
    """A step failed, and the next look tries again. ``reason``: a word for it; the message is the other side's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Acting:
    """Changes the cluster and Penstock. See :class:`deploy.operator.looking.Looking`."""

    def __init__(self, kube: AsyncClient, penstock: AsyncPenstock, namespace: str) -> None:
        self._kube, self._penstock, self._namespace = kube, penstock, namespace

    async def carry_out(self, step: Step) -> None:
        """Carry a step out. One that is done already changes nothing.

        Raises:
            StepError: it failed.
        """
        try:
            await self._do(step)
        except PenstockError as error:
            reason = {Switch: "VersionRefused", AddAdapter: "AdapterRefused", Declare: "NameRefused"}
            raise StepError(reason.get(type(step), "PenstockRefuses"), str(error)) from error
        except ApiError as error:
            raise StepError("ClusterRefuses", f"{_words(step)}: {error.status.message}") from error
        except httpx2.HTTPError as error:
            raise StepError("ClusterAway", f"{_words(step)}: {error!r}") from error

    async def _do(self, step: Step) -> None:
        match step:
            case Apply() | Scale() | Mark() | Unscale() | Remove():
                await self._in_cluster(step)
            case Drain() | Undeclare() | RemoveAdapter():
                with suppress(NotFoundError):  # it is gone already
                    await self._take_back(step)
            case _:
                await self._at_penstock(step)

    async def _in_cluster(self, step: Apply | Scale | Mark | Unscale | Remove) -> None:
        match step:
            case Apply(made):
                for one in made:
                    await self._apply(one)
            case Scale(name, replicas):
                await self._patch(DEPLOYMENT, name, {"spec": {"replicas": replicas}})
            case Mark(pod, on):
                notes = (
                    {DELETION_COST: LOWEST_COST, MARK: "true"} if on else {DELETION_COST: None, MARK: None}
                )
                await self._patch(POD, pod, {"metadata": {"annotations": notes}})
            case Unscale(name):
                await self._delete(SCALED_OBJECT, name)
            case Remove(name):
                await self._delete(CONFIG_MAP, name)
                await self._delete(DEPLOYMENT, name)  # last: by it the next look knows that something is left

    async def _apply(self, one: dict[str, Any]) -> None:
        kind = _KINDS[one["kind"]]
        try:
            await self._kube.apply(kind.from_dict(one), field_manager=MANAGER, force=True)
        except httpx2.HTTPStatusError as error:
            if kind is not SCALED_OBJECT or error.response.status_code != 404:
                raise
            raise StepError(
                "KedaMissing", "the cluster has no ScaledObjects: install KEDA, or give replicas"
            ) from error

    async def _at_penstock(self, step: Switch | Declare | AddAdapter | PinAdapter) -> None:
        api = self._penstock
        match step:
            case Switch(pool, to):
                await api.rollouts.switch(pool, to, drain=False)  # its pods drain as they end
            case Declare(pool, model, aliases, slots):
                await api.pools.declare(pool, model, aliases=aliases, slots=slots)
            case AddAdapter(pool, one):
                await api.adapters.add(one.name, one.source, pool=pool, tenant=one.tenant, pinned=one.pinned)
            case PinAdapter(pool, name, pinned):
                await api.adapters.pin(name, pool=pool, pinned=pinned)

    async def _take_back(self, step: Drain | Undeclare | RemoveAdapter) -> None:
        api = self._penstock
        match step:
            case Drain(worker):
                await api.workers.drain(worker)
            case Undeclare(pool):
                await api.pools.undeclare(pool)
            case RemoveAdapter(pool, name):
                await api.adapters.remove(name, pool=pool)

    async def report(self, name: str, status: Mapping[str, Any]) -> None:
        """Write the status of a ModelPool.

        Raises:
            httpx2.HTTPError: the API server refuses, or does not answer.
        """
        await self._patch(MODEL_POOL.Status, name, {"status": status})

    async def _patch(self, kind: Any, name: str, change: Mapping[str, Any]) -> None:
        try:
            await self._kube.patch(
                kind,
                name,
                dict(change),
                namespace=self._namespace,
                patch_type=PatchType.MERGE,
                field_manager=MANAGER,
            )
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != 404:  # it is gone: the next look sees that
                raise

    async def _delete(self, kind: type[GenericNamespacedResource], name: str) -> None:
        try:
            await self._kube.delete(kind, name, namespace=self._namespace)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != 404:
                raise


def _words(step: Step) -> str:
    return type(step).__name__.lower()
