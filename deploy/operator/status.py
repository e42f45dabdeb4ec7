"""The status of a ModelPool: conditions and numbers, from leases and queues. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.operator.plan import Plan
from deploy.operator.pool import ModelPool
from deploy.operator.seen import Fleet, Seen
from penstock.fleet_models import Worker


def status(pool: ModelPool, seen: Seen, plan: Plan, now: str) -> dict[str, Any]:
    """Return the status.

    Args:
        now: RFC 3339, for conditions that change.
    """
    said = _numbers(pool, seen)
    before = {one["type"]: one for one in pool.status.get("conditions", ())}
    conditions = [
        _ready(pool, seen),
        ("Progressing", "True" if plan.phase else "False", plan.phase or "Settled", plan.message),
        ("Degraded", "True" if plan.trouble else "False", plan.trouble or "AllIsWell", plan.told),
    ]
    said["conditions"] = [_condition(pool, before, one, now) for one in conditions]
    said["observedGeneration"] = pool.generation
    return said


def _numbers(pool: ModelPool, seen: Seen) -> dict[str, Any]:
    fleet = seen.fleet
    if fleet is None:  # what was known stays
        return dict(pool.status)
    current = seen.of(fleet.serving)
    oldest = [lane.oldest_s for queue in fleet.queues for lane in queue.lanes if lane.oldest_s is not None]
    desired = pool.replicas if pool.scaling is None else 0 if current is None else current.replicas
    return {
        "version": fleet.serving,
        "ready": len(_ready_workers(fleet)),
        "desired": desired,
        "queued": sum(one.queued for one in fleet.queues),
        "running": sum(one.running for one in fleet.queues),
        "oldestSeconds": int(max(oldest, default=0)),
        "tokensPerSecond": round(sum(one.tokens_per_s or 0 for one in fleet.workers)),
        "adapters": sorted({one.name for one in fleet.adapters} & _managed(pool)),
    }


def _managed(pool: ModelPool) -> set[str]:
    return {one.name for one in pool.adapters} | set(pool.status.get("adapters", ()))


def _ready_workers(fleet: Fleet) -> list[Worker]:
    return [one for one in fleet.workers if one.pool == fleet.serving and one.state != "draining"]


def _ready(pool: ModelPool, seen: Seen) -> tuple[str, str, str, str]:
    fleet = seen.fleet
    if fleet is None:
        return "Ready", "Unknown", "PenstockAway", seen.trouble
    ready = len(_ready_workers(fleet))
    if ready:
        return "Ready", "True", "WorkersReady", f"{ready} workers take jobs"
    scaling = pool.scaling
    if scaling is not None and scaling.least == 0:
        return "Ready", "True", "Asleep", "no worker runs, and the first job starts one"
    if scaling is None and pool.replicas == 0:
        return "Ready", "False", "ScaledToZero", "spec.replicas is 0, so jobs wait"
    return "Ready", "False", "NoWorker", "no worker has its model loaded yet, so jobs wait"


def _condition(
    pool: ModelPool, before: Mapping[str, Mapping[str, Any]], said: tuple[str, str, str, str], now: str
) -> dict[str, Any]:
    kind, state, reason, message = said
    old = before.get(kind, {})
    return {
        "type": kind,
        "status": state,
        "reason": reason,
        "message": message,
        "observedGeneration": pool.generation,
        "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == state else now,
    }
