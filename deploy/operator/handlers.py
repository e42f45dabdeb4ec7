"""Connects the operator with kopf: a loop for each ModelPool, and its end."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import httpx2
import kopf
from lightkube import ApiError

from deploy.operator.acting import Acting, StepError
from deploy.operator.base import Base
from deploy.operator.looking import Looking
from deploy.operator.plan import Plan, ending, plan
from deploy.operator.pool import GROUP, OWNER_LABEL, ModelPool
from deploy.operator.settings import OperatorSettings
from deploy.operator.status import status
from deploy.operator.steps import Apply, Drain, Remove, Scale, Step, Switch

POOLS = (GROUP, "v1alpha1", "modelpools")
_TRIES = 3


class Operator:
    """Looks at a pool and does what is next, again and again. It remembers nothing between two looks.

    Args:
        base: what the chart says of all workers.
    """

    def __init__(self, settings: OperatorSettings, base: Base, looking: Looking, acting: Acting) -> None:
        self._settings, self._base, self._looking, self._acting = settings, base, looking, acting
        self._woken: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def registry(self) -> kopf.OperatorRegistry:
        """Return what kopf calls."""
        registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=registry)(_configure)
        kopf.daemon(*POOLS, registry=registry, id="loop", initial_delay=0)(self._run)
        kopf.on.event(*POOLS, registry=registry, id="spec")(self._changed)
        kopf.on.delete(*POOLS, registry=registry, id="end")(self._end)
        ours: dict[str, Any] = {"labels": {OWNER_LABEL: kopf.PRESENT}, "registry": registry}
        kopf.on.event("apps", "v1", "deployments", id="deployments", **ours)(self._touched)
        kopf.on.event("", "v1", "pods", id="pods", **ours)(self._touched)
        return registry

    async def _changed(self, name: str, **_: Any) -> None:
        self._woken[name].set()

    async def _touched(self, labels: Mapping[str, str], **_: Any) -> None:
        self._woken[labels[OWNER_LABEL]].set()

    async def _run(
        self, *, body: kopf.Body, name: str, stopped: kopf.DaemonStopped, logger: Any, **_: Any
    ) -> None:
        """Look at a pool for as long as it is there."""
        while not stopped:
            self._woken[name].clear()
            pause_s = self._settings.hurry_s
            try:
                async with self._busy[name]:
                    if not stopped and "deletionTimestamp" not in body["metadata"]:
                        pause_s = await self.look(body)
            except (ApiError, httpx2.HTTPError) as error:
                logger.warning("the API server does not answer as it should: %r", error)
            await self._pause(name, pause_s, stopped)

    async def _pause(self, name: str, pause_s: float, stopped: kopf.DaemonStopped) -> None:
        waits = [asyncio.create_task(self._woken[name].wait()), asyncio.create_task(stopped.wait())]
        try:
            await asyncio.wait(waits, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def look(self, body: Mapping[str, Any]) -> float:
        """Look at a pool, do what is next, report. Return the seconds until the next look.

        Raises:
            ApiError: the API server refuses.
            httpx2.HTTPError: it does not answer.
        """
        pool = ModelPool.read(body)
        seen = await self._looking.look(pool)
        wanted = plan(self._base, pool, seen)
        for step in wanted.steps:
            try:
                await self._acting.carry_out(step)
            except StepError as error:
                wanted = Plan((), wanted.phase, wanted.message, error.reason, str(error))
                break
            _tell(body, step)
        said = status(pool, seen, wanted, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
        if said != pool.status:
            await self._acting.report(pool.name, said)
        if wanted.trouble is not None and _trouble(pool.status) != wanted.trouble:
            kopf.warn(body, reason=wanted.trouble, message=wanted.told)
        return self._settings.look_every_s if wanted.phase is None else self._settings.hurry_s

    async def _end(self, *, body: kopf.Body, name: str, meta: kopf.Meta, **_: Any) -> None:
        """End a pool's workers; kopf repeats it until it returns, and lets the object go then."""
        async with self._busy[name]:
            seen = await self._looking.look(ModelPool.read(body))
            since = dt.datetime.fromisoformat(meta["deletionTimestamp"])
            late = (dt.datetime.now(dt.UTC) - since).total_seconds() >= self._settings.release_after_s
            steps, done = ending(seen)
            for step in steps:
                try:
                    await self._acting.carry_out(step)
                except StepError as error:
                    raise kopf.TemporaryError(str(error), delay=self._settings.hurry_s) from error
                _tell(body, step)
            if not done or (seen.fleet is None and not late):
                raise kopf.TemporaryError("workers finish their jobs", delay=self._settings.hurry_s)


def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.persistence.finalizer = f"operator.{GROUP}/drains"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"operator.{GROUP}")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"operator.{GROUP}")
    settings.scanning.disabled = True  # it may not list CRDs, and needs not
    settings.posting.enabled = True
    settings.posting.level = 100  # events are those of _tell; what kopf logs is no event


def _trouble(status: Mapping[str, Any]) -> str | None:
    found = (
        one for one in status.get("conditions", ()) if one["type"] == "Degraded" and one["status"] == "True"
    )
    return next((str(one["reason"]) for one in found), None)


def _tell(body: Mapping[str, Any], step: Step) -> None:
    """Make an event of a step that begins something."""
    match step:
        case Apply(_, str(what)):
            kopf.info(body, reason="Starting", message=what)
        case Scale(_, _, str(what)):
            kopf.info(body, reason="Scaling", message=what)
        case Drain(_, pod):
            kopf.info(body, reason="Draining", message=f"The worker of the pod {pod} takes no more jobs")
        case Switch(pool, to):
            kopf.info(body, reason="Switched", message=f"Jobs of the pool {pool} go to its version {to}")
        case Remove(name):
            kopf.info(
                body, reason="Removed", message=f"Removed the Deployment {name}, whose workers have ended"
            )
