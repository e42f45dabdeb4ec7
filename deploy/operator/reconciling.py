"""One look at a pool and what follows from it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from deploy.operator.acting import Acting, StepError
from deploy.operator.base import Base
from deploy.operator.looking import Looking
from deploy.operator.plan import Plan, ending, plan
from deploy.operator.pool import ModelPool
from deploy.operator.status import status
from deploy.operator.steps import AddAdapter, Apply, AtPenstock, Drain, Remove, Scale, Step, Switch

_AGAIN_S: Final = 300.0
"""An adapter that was refused is fetched again this long after: it may be gigabytes."""

Tell: TypeAlias = Callable[[str, str, str], None]
"""Makes an event of a ModelPool: its type (``Normal`` or ``Warning``), its reason, its message."""


class Reconciling:
    """Looks at a pool and does what is next. Between two looks it remembers only which adapters were refused just now.

    Args:
        base: what the chart says of all workers.
        release_after_s: a ModelPool that is deleted goes though Penstock does not answer, this long after.
    """

    def __init__(self, base: Base, looking: Looking, acting: Acting, release_after_s: float) -> None:
        self._base, self._looking, self._acting = base, looking, acting
        self._release_after_s = release_after_s
        self._refused: dict[object, tuple[float, StepError]] = {}

    async def look(self, body: Mapping[str, Any], tell: Tell) -> Plan:
        """Look at a pool, do what is next, report. Return what was next; of what failed, with the trouble.

        Raises:
            httpx2.HTTPError: the API server refuses, or does not answer.
        """
        pool = ModelPool.read(body)
        seen = await self._looking.look(pool)
        wanted = plan(self._base, pool, seen)
        for step in wanted.steps:
            error = await self._try(pool, step)
            if error is None:
                _tell(tell, step)
                continue
            wanted = Plan((), wanted.phase, wanted.message, error.reason, str(error))
            if not isinstance(step, AddAdapter):  # an adapter that is refused holds nothing up
                break
        said = status(pool, seen, wanted, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
        if said != pool.status:
            await self._acting.report(pool.name, said)
        if wanted.trouble is not None and wanted.trouble != _trouble(pool.status):
            tell("Warning", wanted.trouble, wanted.told)
        return wanted

    async def _try(self, pool: ModelPool, step: Step) -> StepError | None:
        """Carry a step out. Return why it failed; None: it did not."""
        place = (pool.uid, pool.generation, step.adapter.name) if isinstance(step, AddAdapter) else None
        if place in self._refused:
            at, error = self._refused[place]
            if time.monotonic() - at < _AGAIN_S:
                return error
        try:
            await self._acting.carry_out(step)
        except StepError as error:
            if place is not None:
                self._refused[place] = time.monotonic(), error
            return error
        return None

    async def end(self, body: Mapping[str, Any], tell: Tell) -> bool:
        """Do what is next to end a pool. Return whether nothing is left to do.

        Its workers end though Penstock does not answer. What it has of the pool is given up once the time for that is over.

        Raises:
            StepError: a step failed; the others were carried out.
            httpx2.HTTPError: the API server refuses, or does not answer.
        """
        pool = ModelPool.read(body)
        seen = await self._looking.look(pool)
        steps, done = ending(pool, seen)
        failed: StepError | None = None
        in_cluster = False
        for step in steps:
            in_cluster = in_cluster or not isinstance(step, AtPenstock)
            try:
                await self._acting.carry_out(step)
            except StepError as error:
                failed = error
            else:
                _tell(tell, step)
        if done and seen.fleet is not None:
            return True
        since = dt.datetime.fromisoformat(body["metadata"]["deletionTimestamp"])
        late = (dt.datetime.now(dt.UTC) - since).total_seconds() >= self._release_after_s
        if late and not in_cluster and not seen.pods and (seen.fleet is None or failed is not None):
            if seen.foreign is None:
                why = seen.trouble if failed is None else str(failed)
                told = (
                    f"Penstock may still have the pool {pool.name} as declared, and its adapters: `DELETE /v1/admin/pools/"
                    f"{pool.name}` removes it. It did not answer for {self._release_after_s:g} s: {why}"
                )
                tell("Warning", "LeftInPenstock", told)
            return True
        if failed is not None:
            raise failed
        return False


def _trouble(status: Mapping[str, Any]) -> str | None:
    said = (
        one for one in status.get("conditions", ()) if one["type"] == "Degraded" and one["status"] == "True"
    )
    return next((str(one["reason"]) for one in said), None)


def _tell(tell: Tell, step: Step) -> None:
    """Make an event of a step that begins something."""
    match step:
        case Apply(_, str(what)):
            tell("Normal", "Starting", what)
        case Scale(_, _, str(what)):
            tell("Normal", "Scaling", what)
        case Drain(_, pod):
            tell("Normal", "Draining", f"The worker of the pod {pod} takes no more jobs")
        case Switch(pool, to):
            tell("Normal", "Switched", f"Jobs of the pool {pool} go to its version {to}")
        case Remove(name):
            tell("Normal", "Removed", f"Removed the Deployment {name}, whose workers have ended")
        case _:
            pass
