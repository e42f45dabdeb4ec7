"""The models that pools serve, and the workers that serve them, as Redis has them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from jobs import capabilities
from jobs.adapters import Offered
from jobs.capabilities import Capabilities
from jobs.declared import DeclaredPool
from jobs.placement import Device
from jobs.worker_states import WorkerState


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one pool serves it, by its workers' registration.

    Attributes:
        name: the engine's name for it.
        pool: the pool whose workers serve it.
        card: its entry in ``GET /v1/models``.
        created: when it was first served, in seconds; 0: unknown.
        endpoints: the endpoints that it supports; empty: unknown.
        max_model_len: context length in tokens; None: unknown.
        max_token_bytes: UTF-8 bytes of the longest token; None: unknown.
        max_output_tokens: most completion tokens that a request may ask for; None: unknown.
        prompt_overhead: most tokens added around a prompt; None: its workers cannot count tokens.
        aliases: its further names.
        device: the device of the worker that registered it.
        engine: that worker's kind of engine; None: it did not say.
        capabilities: what it can do.
        capacity: jobs that a worker with it runs at once; None: unknown.
        start_s: how long its engine took to start; None: unknown.
        adapter: what is known of it, if it is a LoRA adapter that an operator has declared; None: it is none.
    """

    name: str
    pool: str = "default"
    card: Mapping[str, Any] = field(default_factory=dict)
    created: int = 0
    endpoints: tuple[str, ...] = ()
    max_model_len: int | None = None
    max_token_bytes: int | None = None
    max_output_tokens: int | None = None
    prompt_overhead: int | None = None
    aliases: tuple[str, ...] = ()
    device: Device = field(default_factory=Device)
    engine: str | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)
    capacity: int | None = None
    start_s: float | None = None
    adapter: Offered | None = None

    @property
    def base(self) -> str:
        """The name of the model that workers register for it: an adapter's base, else its own."""
        return (self.capabilities.adapter_of or self.name) if self.adapter else self.name

    @property
    def broken(self) -> str | None:
        """Why no live worker of its pool can load it; None: it is no adapter, or one can, or has not tried."""
        return None if self.adapter is None else self.adapter.broken

    @property
    def usable(self) -> bool:
        """Whether it may be listed: a declared adapter is as soon as a worker has it, and while it is not broken."""
        return self.adapter is None or (self.adapter.ready and self.broken is None)

    def open_to(self, tenant: str) -> bool:
        """Whether a tenant may know of it: an adapter may belong to one."""
        return self.adapter is None or self.adapter.of(tenant)


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A live worker, as its last heartbeat said."""

    incarnation: str
    pool: str
    device: Device
    capacity: int
    running: int
    state: WorkerState
    shares_storage: bool


def with_heirs(declared: Mapping[str, DeclaredPool], forward: Mapping[str, str]) -> dict[str, DeclaredPool]:
    """Add the pools to which declared ones forward: a new version scales from zero as the one before it did."""
    found = dict(declared)
    for pool, one in sorted(declared.items()):
        way = [pool]
        while (to := forward.get(way[-1])) is not None and to not in way:
            way.append(to)
        found.setdefault(way[-1], one)
    return found


def declare(
    models: dict[str, dict[str, Model]], declared: Mapping[str, DeclaredPool], served: Collection[str]
) -> frozenset[tuple[str, str]]:
    """Add the models of pools that scale from zero, and return them all as (pool, model).

    A model that workers of the pool have registered stays as they did, with all that is known of it. Another one that the
    pool has registered is not what its next worker will serve.

    Args:
        models: by name and pool; changed.
        declared: by pool. What was declared of another pool, which forwards to this one, says less than what this one's
            workers have registered.
        served: pools with a live worker, which serves what it registered and nothing else.
    """
    scaling = set()
    for pool, one in declared.items():
        registered = {by_pool[pool].base for by_pool in models.values() if pool in by_pool}
        if one.model in registered or (registered and one.pool != pool):
            scaling |= {(pool, name) for name in registered}
        elif pool not in served:
            scaling.add((pool, one.model))
            model = Model(one.model, pool, aliases=one.aliases, device=one.runs_on)
            models.setdefault(one.model, {})[pool] = model
    return frozenset(scaling)


def read_model(facts: Mapping[str, Any]) -> Model:
    """Read what the workers of a pool have registered of a model."""
    return Model(
        name=facts["name"],
        pool=facts["pool"],
        card=facts.get("card") or {},
        created=facts.get("created") or 0,
        endpoints=tuple(facts.get("endpoints") or ()),
        max_model_len=facts.get("max_model_len"),
        max_token_bytes=facts.get("max_token_bytes"),
        max_output_tokens=facts.get("max_output_tokens"),
        prompt_overhead=facts.get("prompt_overhead"),
        aliases=tuple(facts.get("aliases") or ()),
        device=_device(facts),
        engine=facts.get("engine"),
        capabilities=capabilities.read(facts.get("capabilities")),
        capacity=facts.get("capacity"),
        start_s=facts.get("start_s"),
        adapter=msgspec.convert(facts["adapter"], Offered) if "adapter" in facts else None,
    )


def read_worker(said: Mapping[str, Any]) -> KnownWorker:
    """Read what a worker's last heartbeat said."""
    return KnownWorker(
        said["incarnation"],
        said.get("pool", "default"),
        _device(said),
        said.get("capacity") or 0,
        said.get("running") or 0,
        WorkerState.read(said.get("state")),
        said.get("shares_storage") is True,
    )


def _device(said: Mapping[str, Any]) -> Device:
    return Device(said.get("device"), said.get("device_memory_bytes"), said.get("devices") or 1)
