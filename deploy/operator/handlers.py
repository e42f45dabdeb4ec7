"""Connects the operator with kopf: a loop for each ModelPool, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import httpx2
import kopf

from deploy.operator.acting import StepError
from deploy.operator.pace import Pace, backed_off
from deploy.operator.pool import GROUP, OWNER_LABEL
from deploy.operator.reconciling import Reconciling, Tell
from deploy.operator.settings import OperatorSettings

log = logging.getLogger("penstock.operator")

WAITS = "its workers finish their jobs"
"""Why a ModelPool that is deleted is still there. kopf logs it as an error each time, which it is not."""

POOLS = (GROUP, "v1alpha1", "modelpools")


class Handlers:
    """What kopf calls."""

    def __init__(self, settings: OperatorSettings, reconciling: Reconciling) -> None:
        self._settings, self._reconciling = settings, reconciling
        self._specs: dict[str, tuple[str, int]] = {}
        self._woken: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def registry(self) -> kopf.OperatorRegistry:
        """Return them."""
        registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=registry)(_configure)
        kopf.on.login(registry=registry)(_log_in)
        kopf.daemon(*POOLS, registry=registry, id="loop")(self._run)
        kopf.on.event(*POOLS, registry=registry, id="spec")(self._changed)
        kopf.on.delete(*POOLS, registry=registry, id="end")(self._end)
        ours: dict[str, Any] = {"labels": {OWNER_LABEL: kopf.PRESENT}, "registry": registry}
        kopf.on.event("apps", "v1", "deployments", id="deployments", **ours)(self._touched)
        kopf.on.event("", "v1", "pods", id="pods", **ours)(self._touched)
        return registry

    async def _changed(self, name: str, meta: kopf.Meta, **_: Any) -> None:
        """Look at once at another spec. Another status is the operator's own, and would have it look for ever."""
        spec = (meta["uid"], meta["generation"])
        if self._specs.get(name) != spec:
            self._specs[name] = spec
            self._woken[name].set()

    async def _touched(self, labels: Mapping[str, str], **_: Any) -> None:
        self._woken[labels[OWNER_LABEL]].set()

    async def _run(
        self, *, body: kopf.Body, name: str, stopped: kopf.DaemonStopped, logger: kopf.Logger, **_: Any
    ) -> None:
        """Look at a pool for as long as it is there."""
        pace = Pace(self._settings.hurry_s, self._settings.look_every_s)
        while not stopped:
            self._woken[name].clear()
            found = None
            try:
                async with self._busy[name]:
                    if not stopped and "deletionTimestamp" not in body["metadata"]:
                        found = await self._reconciling.look(body, _teller(body))
            except httpx2.HTTPError as error:
                logger.warning("the API server does not answer as it should: %r", error)
            await self._pause(name, stopped, pace.after(found))

    async def _pause(self, name: str, stopped: kopf.DaemonStopped, time_s: float) -> None:
        """Wait for the next look: for a while, for a change of what belongs to the pool, or for its end."""
        least_s = self._settings.hurry_s
        await stopped.wait(least_s)  # many pods that change are one look
        if stopped or time_s <= least_s:
            return
        waits = [asyncio.ensure_future(self._woken[name].wait()), asyncio.ensure_future(_until(stopped))]
        try:
            await asyncio.wait(waits, timeout=time_s - least_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _end(self, *, body: kopf.Body, name: str, retry: int, **_: Any) -> None:
        """End a pool's workers. kopf repeats it until it returns, and lets the object go then."""
        later_s = backed_off(self._settings.hurry_s, self._settings.look_every_s, retry)
        async with self._busy[name]:
            try:
                done = await self._reconciling.end(body, _teller(body))
            except (StepError, httpx2.HTTPError) as error:
                raise kopf.TemporaryError(str(error), delay=later_s) from error
        if not done:
            raise kopf.TemporaryError(WAITS, delay=later_s)


async def _until(stopped: kopf.DaemonStopped) -> None:
    await stopped.wait()


def _teller(body: kopf.Body) -> Tell:
    def tell(kind: str, reason: str, message: str) -> None:
        log.info("%s: %s", reason, message, extra={"modelpool": body["metadata"]["name"]})
        kopf.event(body, type=kind, reason=reason, message=message)

    return tell


def _log_in(**given: Any) -> kopf.ConnectionInfo | None:
    """Return the way to the API server: the pod's service account, or else the kubeconfig of whoever tries it out."""
    return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)


def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    place = f"operator.{GROUP}"
    settings.persistence.finalizer = f"{place}/drains"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=place)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=place)
    settings.scanning.disabled = True  # the operator may not list CRDs
    settings.background.cancellation_polling = (
        1.0  # a look takes moments; kopf would ask for its end after a minute
    )
    settings.posting.loggers = False  # what kopf logs of its handlers is no event
