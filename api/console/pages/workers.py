"""Workers and GPUs: what each does, by pool; drains; and the rollouts under way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.visit import Visit

Worker = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Figures of all workers together. None: no worker reports it.

    Attributes:
        states: how many are in each state.
        kv_cache_usage: the mean, 0.0 to 1.0.
        utilization: of the GPUs, the mean, 0.0 to 1.0.
    """

    workers: int
    states: Mapping[str, int]
    running: int
    capacity: int
    tokens_per_s: float
    kv_cache_usage: float | None
    gpus: int
    utilization: float | None
    memory_used: int
    memory_total: int

    @property
    def words(self) -> str:
        """The states in words: ``3 ready, 1 draining``."""
        return (
            ", ".join(f"{count} {state}" for state, count in sorted(self.states.items())) or "none is alive"
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool's workers, by name. ``models``: what they serve, with the aliases of their names."""

    name: str
    models: Sequence[str]
    aliases: Sequence[str]
    workers: Sequence[Worker]


def fleet(workers: Sequence[Worker]) -> Fleet:
    """Add the workers up."""
    gpus = [gpu for worker in workers for gpu in worker["gpus"]]
    states: dict[str, int] = {}
    for worker in workers:
        states[worker["state"]] = states.get(worker["state"], 0) + 1
    return Fleet(
        len(workers),
        states,
        sum(worker["running"] for worker in workers),
        sum(worker["capacity"] or 0 for worker in workers),
        sum(worker["tokens_per_s"] or 0.0 for worker in workers),
        _mean([worker["kv_cache_usage"] for worker in workers]),
        len(gpus),
        _mean([gpu["utilization"] for gpu in gpus]),
        sum(gpu["memory_used_bytes"] or 0 for gpu in gpus),
        sum(gpu["memory_total_bytes"] or 0 for gpu in gpus),
    )


def by_pool(workers: Sequence[Worker]) -> list[Pool]:
    """Return the pools, by name."""
    found: dict[str, list[Worker]] = {}
    for worker in sorted(workers, key=lambda one: (one["name"], one["id"])):
        found.setdefault(worker["pool"], []).append(worker)
    return [
        Pool(name, _together(members, "models"), _together(members, "aliases"), members)
        for name, members in sorted(found.items())
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _together(workers: Sequence[Worker], field: str) -> list[str]:
    return sorted({one for worker in workers for one in worker[field]})


async def _load(visit: Visit) -> dict[str, Any]:
    now = time.time()
    workers = [
        one | {"up_s": max(0.0, now - one["started_at"]) if one["started_at"] else None}
        for one in (await visit.get("/v1/workers"))["data"]
    ]
    rollouts = (await visit.get("/v1/admin/rollouts"))["data"] if visit.may("admin") else []
    return {"fleet": fleet(workers), "pools": by_pool(workers), "rollouts": rollouts}


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page."""
    entry = Entry("Operate", "workers", "metrics")
    frame.add(router, Page("/console/workers", "workers.html", "Workers", _load, entry))
