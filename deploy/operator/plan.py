"""What to do next for a pool. Pure: from what is asked for and what is there to steps.

A ModelPool has one Deployment for each version of its model. One version serves; Penstock's rollout record names it. Another
model is another version: its workers start beside the old ones, then it serves, then the old ones drain and go.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.operator import objects
from deploy.operator.base import Base
from deploy.operator.checks import wrong
from deploy.operator.declaring import declarations
from deploy.operator.pool import ModelPool
from deploy.operator.seen import Fleet, Pod, Seen, Version, address_of
from deploy.operator.steps import (
    AddAdapter,
    Apply,
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
from penstock.fleet_models import Worker


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and how far it is.

    Attributes:
        steps: in this order. The rest waits for the next look if one fails.
        phase: a word for what goes on; None: all is as it should be.
        message: the same as a sentence.
        trouble: a word for what somebody has to see to; None: nothing.
        told: the same as a sentence, which says what to do.
    """

    steps: tuple[Step, ...] = ()
    phase: str | None = None
    message: str = ""
    trouble: str | None = None
    told: str = ""


def plan(base: Base, pool: ModelPool, seen: Seen) -> Plan:
    """Return what to do next."""
    if seen.foreign is not None:
        told = f"the Deployment {seen.foreign} serves the pool {pool.name} already: remove it, or choose another name"
        return Plan(trouble="PoolTaken", told=told)
    if (problem := wrong(pool.settings)) is not None:
        told = f"nothing is changed until spec.settings is corrected: {problem}"
        return Plan(trouble="SettingsRefused", told=told)
    fleet = seen.fleet
    if fleet is None:
        told = f"Penstock does not answer, so nothing is changed until it does: {seen.trouble}"
        return Plan(trouble="PenstockAway", told=told)
    if pool.number_of(fleet.serving) is None:
        told = (
            f"jobs of the pool {pool.name} go to the pool {fleet.serving}, whose workers are not this operator's: "
            f"return with `penstock rollout switch {pool.name} --to {pool.name}`"
        )
        return Plan(trouble="ServedElsewhere", told=told)
    return _Planner(base, pool, seen, fleet).plan()


def ending(pool: ModelPool, seen: Seen) -> tuple[tuple[Step, ...], bool]:
    """Return what to do for a ModelPool that is being deleted, and whether nothing is left to do.

    Its pods drain as they end; jobs that still wait stay until their time is over. Kubernetes deletes the objects.
    One that was refused, because its pool is somebody else's, leaves the other's declaration.
    """
    ours = {one.pool for one in seen.versions}
    declared = () if seen.fleet is None else seen.fleet.declared
    if seen.foreign is not None:
        declared = tuple(one for one in declared if one.id in ours)
    steps: list[Step] = [Undeclare(one.id) for one in declared]
    there = (
        {one.name for one in seen.fleet.adapters}
        if seen.fleet is not None and seen.foreign is None
        else set()
    )
    steps += [RemoveAdapter(pool.name, name) for name in pool.status.get("adapters", ()) if name in there]
    steps += [Unscale(one.name) for one in seen.versions if one.pool in seen.scaled]
    steps += [
        Scale(one.name, 0, f"Draining the workers of {one.pool}") for one in seen.versions if one.replicas > 0
    ]
    return tuple(steps), not steps and not seen.pods


class _Planner:
    def __init__(self, base: Base, pool: ModelPool, seen: Seen, fleet: Fleet) -> None:
        self._base, self._pool, self._seen, self._fleet = base, pool, seen, fleet
        self._steps: list[Step] = []

    def plan(self) -> Plan:
        self._steps += declarations(self._pool, self._seen, self._fleet)
        current = self._seen.of(self._fleet.serving)
        wanted = self._pool.fingerprint
        target = next((one for one in self._seen.versions if one.fingerprint == wanted), None)
        if current is None and target is None:
            said = self._begin()
        elif current is not None and current.fingerprint == wanted:
            said = self._keep(current)
        else:
            said = self._roll(current, target)
        self._adapters()
        return Plan(tuple(self._steps), said.phase, said.message, said.trouble, said.told)

    def _apply(self, version: str, what: str | None = None) -> None:
        """Make a version's objects as they should be. ``what``: it is new, for people."""
        settings = objects.config_map(self._base, self._pool, version)
        deployment = objects.deployment(self._base, self._pool, version)
        # By the Deployment the next look knows of a version, so it comes first; new pods of it must read new settings.
        self._steps.append(Apply((settings, deployment) if what is None else (deployment, settings), what))

    def _begin(self) -> Plan:
        """Start the first version's workers."""
        serving, pool = self._fleet.serving, self._pool
        self._apply(serving, f"Starting workers of {serving} with {pool.model or pool.engine}")
        count = pool.replicas if pool.scaling is None else max(1, pool.scaling.least)
        self._steps.append(Scale(objects.name_of(self._base, serving), count))
        return Plan(phase="Starting", message=f"workers of {serving} start")

    def _keep(self, current: Version) -> Plan:
        """The version that serves is the one that is asked for."""
        self._apply(current.pool)
        scaling = self._pool.scaling
        wanted = current.replicas
        if scaling is not None:
            self._steps.append(Apply((objects.scaled_object(self._base, self._pool, current.pool),)))
        else:
            wanted = self._pool.replicas
            if current.pool in self._seen.scaled:
                self._steps.append(Unscale(current.name))
            self._size(current, wanted)
        left = self._retire(keep={current.pool})
        if current.stuck is not None:
            return Plan(
                phase="Starting", message=current.stuck, trouble="WorkersNotReady", told=current.stuck
            )
        if left:
            return Plan(phase="Draining", message=f"workers of {', '.join(left)} finish their jobs")
        if current.replicas > wanted:
            return Plan(phase="ScalingDown", message=f"{current.replicas} workers become {wanted}")
        if current.ready < wanted or not current.settled:
            return Plan(phase="Starting", message=f"{current.ready} of {wanted} workers are ready")
        return Plan()

    def _size(self, current: Version, wanted: int) -> None:
        pods = [one for one in self._seen.pods if one.pool == current.pool and not one.leaving]
        if current.replicas > wanted:
            self._shrink(current, pods, wanted)
            return
        if len(pods) == current.replicas:  # no pod that was chosen is about to go
            self._steps += [Mark(one.name, on=False) for one in pods if one.marked]
        if current.replicas < wanted:
            self._steps.append(Scale(current.name, wanted, f"Scaling {current.pool} up to {wanted} workers"))

    def _shrink(self, current: Version, pods: list[Pod], wanted: int) -> None:
        """Drain the least busy workers, and have Kubernetes delete their pods."""
        workers = self._by_address(current.pool)

        def busy(pod: Pod) -> tuple[bool, int, str]:
            worker = workers.get(pod.address or "")
            return not pod.marked, -1 if worker is None else worker.active, pod.name

        goers = sorted(pods, key=busy)[: max(0, len(pods) - wanted)]
        self._steps += [Mark(one.name) for one in goers if not one.marked]
        for pod in goers:
            worker = workers.get(pod.address or "")
            if worker is not None and worker.state != "draining":
                self._steps.append(Drain(worker.id, pod.name))
        self._steps.append(Scale(current.name, wanted, f"Scaling {current.pool} down to {wanted} workers"))

    def _by_address(self, pool: str) -> dict[str, Worker]:
        found = ((address_of(one), one) for one in self._fleet.workers if one.pool == pool)
        return {address: worker for address, worker in found if address is not None}

    def _roll(self, current: Version | None, target: Version | None) -> Plan:
        """Start another version beside the one that serves, and have it serve once all of its workers are ready."""
        if current is not None and not self._pool.surge and self._clear(current):
            return Plan(phase="RollingOut", message=f"workers of {current.pool} end before new ones start")
        count = 1 if current is None else current.replicas
        if self._pool.scaling is None and (current is None or not self._pool.surge):
            count = self._pool.replicas
        count = max(1, count)
        if target is None:
            version = self._next()
            what = f"Starting {count} workers of the new version {version} with {self._pool.model}"
            self._apply(version, what)
            self._steps.append(Scale(objects.name_of(self._base, version), count))
            self._retire(keep={self._fleet.serving, version})
            return Plan(phase="RollingOut", message=f"workers of the new version {version} start")
        self._retire(keep={self._fleet.serving, target.pool})
        self._apply(target.pool)
        if target.replicas < count:
            self._steps.append(Scale(target.name, count))
        alive = sum(one.pool == target.pool and one.state == "ready" for one in self._fleet.workers)
        if target.replicas >= count and min(target.ready, alive) >= target.replicas and target.settled:
            self._steps.append(Switch(self._pool.name, target.pool))
            return Plan(phase="RollingOut", message=f"the version {target.pool} is ready, and serves next")
        ready, all_ = min(target.ready, alive), max(count, target.replicas)
        said = f"{ready} of {all_} workers of the new version {target.pool} are ready"
        if target.stuck is not None:
            before = "serves on" if self._pool.surge else "starts again if you set spec back"
            told = (
                f"the new version {target.pool} does not start, and the one before {before}: {target.stuck}"
            )
            return Plan(phase="RollingOut", message=said, trouble="VersionNotReady", told=told)
        return Plan(phase="RollingOut", message=said)

    def _clear(self, current: Version) -> bool:
        """End the workers of the version that serves. Return whether some are left."""
        if current.pool in self._seen.scaled:
            self._steps.append(Unscale(current.name))
        if current.replicas > 0:
            self._steps.append(Scale(current.name, 0, f"Draining the workers of {current.pool}"))
            return True
        return any(one.pool == current.pool for one in self._seen.pods)

    def _next(self) -> str:
        taken = {one.pool for one in self._seen.versions} | {one.pool for one in self._fleet.workers}
        numbers = [self._pool.number_of(one) or 1 for one in taken | {self._fleet.serving}]
        return f"{self._pool.name}-v{max(numbers) + 1}"

    def _retire(self, keep: set[str]) -> list[str]:
        """End the workers of other versions, then remove what is left of them. Return those that have not ended."""
        left = []
        for one in self._seen.versions:
            if one.pool in keep:
                continue
            left.append(one.pool)
            if one.pool in self._seen.scaled:
                self._steps.append(Unscale(one.name))
            if one.replicas > 0:
                self._steps.append(Scale(one.name, 0, f"Draining the workers of {one.pool}"))
            elif not any(pod.pool == one.pool for pod in self._seen.pods):
                self._steps.append(Remove(one.name))
        return left

    def _adapters(self) -> None:
        there = {one.name: one for one in self._fleet.adapters}
        asked = {one.name: one for one in self._pool.adapters}
        alive = any(one.pool == self._fleet.serving for one in self._fleet.workers)
        for name in self._pool.status.get("adapters", ()):
            if name not in asked and name in there:
                self._steps.append(RemoveAdapter(self._pool.name, name))
        for name, one in asked.items():
            known = there.get(name)
            if known is not None and (known.source, known.tenant) == (one.source, one.tenant):
                if known.pinned != one.pinned:
                    self._steps.append(PinAdapter(self._pool.name, name, one.pinned))
            elif alive:  # it is checked against the model that the pool has registered
                self._steps.append(AddAdapter(self._pool.name, one))
