"""Registration: a worker's record, its models and their aliases, in its pool."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from broker.db.errors import RegistrationRefusedError
from broker.jobs import JobStore
from jobs.placement import Device
from workers.engines.base import Engine, EngineStartError, ModelInfo
from workers.engines.counting import prompt_overhead
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

_ASK_AGAIN_S = 0.25
_DECLARATION_S = 15.0
"""How long a declaration may be in the way: one of earlier settings goes once an api process starts with the new ones."""

_OF_POOL = ("engine", "device", "devices", "device_memory_bytes", "capacity", "start_s")
"""What a worker's record says of each worker of its pool. It stays known after the last one has gone."""


def description(
    settings: WorkerSettings, engine: Engine, device: Device, capacity: int, bulk_capacity: int
) -> dict[str, Any]:
    """Return the part of a worker's record that never changes.

    Args:
        engine: started.
        bulk_capacity: bulk jobs of these at most.
    """
    version = settings.pool_version
    return {
        **({} if version is None else {"version_of": settings.pool.removesuffix(f"-{version}")}),
        "name": settings.node_name,
        "host": platform.node(),
        "pid": os.getpid(),
        "pool": settings.pool,
        "engine": engine.name,
        "device": device.name,
        "devices": device.count,
        "device_memory_bytes": device.memory_bytes,
        "models": [model.name for model in engine.models()],
        "aliases": list(settings.aliases),
        "capacity": capacity,
        **({} if settings.nodes is None else {"nodes": settings.nodes, "node_master": settings.node_master}),
        "bulk_capacity": bulk_capacity,
    }


async def register(
    store: JobStore, worker: str, info: Mapping[str, Any], engine: Engine, aliases: Sequence[str]
) -> None:
    """Register the worker with its models, and take the lease.

    A worker that was killed holds its lease for a while. So if another one is in the way, registration is retried until that
    worker's lease ends, and fails once its next heartbeat shows that it is alive. A declaration gets some seconds to go.

    Args:
        worker: its incarnation.
        info: its record, see :func:`description`.
        engine: started.
        aliases: further names of its one model.

    Raises:
        EngineStartError: another worker of the pool serves something else, a name means another model elsewhere, or the
            aliases are wrong.
        StoreUnavailableError: Redis cannot be reached.
    """
    models = engine.models()
    facts = {
        model.name: {
            "card": dict(model.card),
            "endpoints": list(model.endpoints),
            "max_model_len": model.max_model_len,
            "max_token_bytes": model.max_token_bytes,
            "max_output_tokens": model.max_output_tokens,
            "capabilities": model.capabilities.said(),
            "prompt_overhead": await prompt_overhead(engine, model),
            **{name: info[name] for name in _OF_POOL if name in info},
        }
        for model in models
    }
    meanings = aliased(models, aliases)
    leases: dict[str | None, float] = {}
    while True:
        try:
            await store.register(worker, info, facts, meanings)
        except RegistrationRefusedError as refused:
            if refused.worker not in leases:
                log.info("registration_waits", other=refused.worker, why=str(refused))
            if refused.worker is None:
                over = leases.setdefault(None, time.monotonic() + _DECLARATION_S) <= time.monotonic()
            else:
                over = leases.setdefault(refused.worker, refused.lease_end_ms) < refused.lease_end_ms
            if over:
                raise EngineStartError(str(refused)) from refused
            await asyncio.sleep(_ASK_AGAIN_S)
        else:
            await store.heartbeat(worker, first=True, info=info)
            return


def aliased(models: Sequence[ModelInfo], aliases: Sequence[str]) -> dict[str, str]:
    """Return the model that each alias means: the only one that is no adapter.

    Args:
        models: the engine's. A LoRA adapter names its base model as ``parent`` in its card.

    Raises:
        EngineStartError: there is not exactly one model, or an alias is the name of another.
    """
    if not aliases:
        return {}
    names = {model.name for model in models}
    bases = [model.name for model in models if not model.card.get("parent")]
    if len(bases) != 1:
        there = ", ".join(sorted(names)) or "none"
        msg = f"bad setting aliases: they need a worker with one model, and this one serves {there}; choose with model"
        raise EngineStartError(msg)
    taken = sorted(names.intersection(aliases) - {bases[0]})
    if taken:
        raise EngineStartError(
            f"bad setting aliases: {taken[0]!r} is the name of another model of this worker"
        )
    return {alias: bases[0] for alias in aliases if alias != bases[0]}
