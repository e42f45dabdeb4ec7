"""Which models there are, in which pools, and who is alive to run them, as last heard from Redis."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.jobs import JobStore
from jobs.placement import Device, Offer, Placement, rank

MIN_GAP_S = 0.2
"""Least time between looks because of a miss: requests for an unknown model shall be no load on Redis."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one pool serves it, in the words of its workers.

    Attributes:
        name: what its engine calls it.
        pool: whose workers serve it.
        card: its entry in ``GET /v1/models``.
        endpoints: what it can do; empty where the worker did not say.
        max_model_len: context length in tokens; None where unknown.
        max_token_bytes: UTF-8 bytes of the longest token; None where unknown.
        max_output_tokens: most completion tokens that a request may ask for; None where unknown.
        prompt_overhead: tokens that stand around a prompt at most; None where its workers cannot count tokens.
        aliases: its further names.
        device: what the worker that registered it runs on.
    """

    name: str
    pool: str = "default"
    card: Mapping[str, Any] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    max_model_len: int | None = None
    max_token_bytes: int | None = None
    max_output_tokens: int | None = None
    prompt_overhead: int | None = None
    aliases: tuple[str, ...] = ()
    device: Device = field(default_factory=Device)


@dataclass(frozen=True, slots=True)
class _Worker:
    incarnation: str
    pool: str
    device: Device
    capacity: int
    running: int
    draining: bool


class Catalogue:
    """A cached view of models and workers; whoever starts the api refreshes it.

    Args:
        store: of this process.
        default_model: stands first in the list; None: by name.
    """

    def __init__(self, store: JobStore, default_model: str | None = None) -> None:
        self._store = store
        self._default = default_model
        self._models: dict[str, dict[str, Model]] = {}
        self._aliases: dict[str, str] = {}
        self._live: dict[tuple[str, str], tuple[_Worker, ...]] = {}
        self._queued: dict[str, int] = {}
        self._paused: frozenset[str] = frozenset()
        self._sent: Counter[str] = Counter()
        self._pools: tuple[str, ...] = ()
        self._alive: tuple[dict[str, Any], ...] = ()
        self._read_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._reading = False

    @property
    def pools(self) -> tuple[str, ...]:
        """Every known pool."""
        return self._pools

    @property
    def alive(self) -> tuple[Mapping[str, Any], ...]:
        """What the workers alive at the last look said of themselves; see :meth:`broker.jobs.JobStore.workers`."""
        return self._alive

    @property
    def has_worker(self) -> bool:
        """Whether any worker was alive at the last look."""
        return bool(self._live)

    @property
    def empty(self) -> bool:
        """Whether no worker ever said what it serves: the first may still be loading its model."""
        return not self._models

    def live(self, model: Model) -> bool:
        """Whether a worker of the model's pool was alive at the last look."""
        return (model.pool, model.name) in self._live

    def workers(self, model: Model) -> tuple[str, ...]:
        """Return the incarnations of the workers of the model's pool at the last look."""
        return tuple(worker.incarnation for worker in self._live.get((model.pool, model.name), ()))

    def listed(self) -> list[tuple[str, Model]]:
        """Return the names that may be asked for, each with its model: the default first, then models, then aliases.

        Those of live workers; where none lives, every known one.
        """
        models = {name: self.ranked(name)[0] for name in self._models}
        live = {name: model for name, model in models.items() if self.live(model)}
        shown = live or models
        names = [*sorted(shown), *(alias for alias, name in sorted(self._aliases.items()) if name in shown)]
        names.sort(key=lambda name: name != self._default)
        return [(name, shown[self.real_name(name)]) for name in names]

    def real_name(self, name: str) -> str:
        """Return the model's own name where ``name`` is an alias, else ``name``."""
        return name if name in self._models else self._aliases.get(name, name)

    async def find(
        self, name: str, *, live: bool = False, placement: Placement | None = None
    ) -> Model | None:
        """Return a model by its name or an alias, in the pool that is to be asked first.

        Looks again where it is not known (or, with ``live``, has no live worker).

        Returns:
            None: no pool serves it, or none that meets the placement; :meth:`devices` tells them apart.

        Raises:
            StoreUnavailableError: it had to look, and Redis is away.
        """
        found = self.ranked(name, placement)
        if not found or (live and not self.live(found[0])):
            await self._look(pause_s=MIN_GAP_S - self._age_s())
            found = self.ranked(name, placement)
        return found[0] if found else None

    def ranked(self, name: str, placement: Placement | None = None) -> list[Model]:
        """Return a model in each pool that may have a job for it, the best first; see :func:`jobs.placement.rank`.

        As of the last look.
        """
        real = self.real_name(name)
        pools = self._models.get(real, {})
        if len(pools) == 1 and placement is None:
            return list(pools.values())
        return [pools[offer.pool] for offer in rank(self._offers(real), placement)]

    def book(self, model: Model) -> None:
        """Count one job more in the model's pool until the next look, so that many at once do not take one pool."""
        self._sent[model.pool] += 1

    def devices(self, name: str) -> dict[str, tuple[Device, ...]]:
        """Return which pools serve a model, by name or alias, and on what."""
        return {offer.pool: offer.devices for offer in self._offers(self.real_name(name))}

    def _offers(self, name: str) -> list[Offer]:
        offers = []
        for pool, model in self._models.get(name, {}).items():
            alive = self._live.get((pool, name), ())
            ready = [worker for worker in alive if not worker.draining]
            offers.append(
                Offer(
                    pool,
                    tuple(dict.fromkeys(worker.device for worker in ready or alive)) or (model.device,),
                    live=bool(ready),
                    paused=pool in self._paused,
                    capacity=sum(worker.capacity for worker in ready),
                    load=sum(worker.running for worker in ready)
                    + self._queued.get(pool, 0)
                    + self._sent[pool],
                )
            )
        return offers

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Look again, unless the last look is younger than ``max_age_s``.

        Raises:
            StoreUnavailableError: Redis is away; what was known stays.
        """
        if self._age_s() >= max_age_s:
            await self._look()

    def _age_s(self) -> float:
        return time.monotonic() - self._read_at

    async def _look(self, pause_s: float = 0.0) -> None:
        """Look; concurrent calls share one look, the first of them says after which pause.

        A look that was reading already does not count: it may have read before what is looked for was there.
        """
        if self._reading and self._looking is not None:
            await asyncio.shield(self._looking)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._read(pause_s), name="catalogue")
        await asyncio.shield(self._looking)

    async def aclose(self) -> None:
        """End the look that is under way; a moment's patience, as a cut connection is not closed cleanly."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=1.0)
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _read(self, pause_s: float) -> None:
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        self._reading = True
        try:
            await self._read_now()
        finally:
            self._reading = False

    async def _read_now(self) -> None:
        before = self._sent.copy()
        rows, workers = await asyncio.gather(self._store.models(), self._store.workers())
        models: dict[str, dict[str, Model]] = {}
        for facts in rows:
            models.setdefault(facts["name"], {})[facts["pool"]] = _model(facts)
        # Only where there is a choice does it matter how many wait.
        rivals = sorted({pool for pools in models.values() if len(pools) > 1 for pool in pools})
        depths = await self._store.depths(rivals)
        self._paused = await self._store.paused() if rivals else frozenset()
        self._queued = {
            pool: sum(depth for (of, _), depth in depths.items() if of == pool) for pool in rivals
        }
        self._sent -= before
        self._models = models
        self._aliases = {
            alias: m.name for pools in models.values() for m in pools.values() for alias in m.aliases
        }
        live: dict[tuple[str, str], tuple[_Worker, ...]] = {}
        for said in workers:
            worker = _worker(said)
            for name in said.get("models", ()):
                live[worker.pool, name] = (*live.get((worker.pool, name), ()), worker)
        self._live = live
        self._alive = tuple(workers)
        pools = {facts["pool"] for facts in rows} | {said.get("pool", "default") for said in workers}
        self._pools = tuple(sorted(pools)) or ("default",)
        self._read_at = time.monotonic()


def _model(facts: Mapping[str, Any]) -> Model:
    return Model(
        name=facts["name"],
        pool=facts["pool"],
        card=facts.get("card") or {},
        endpoints=tuple(facts.get("endpoints") or ()),
        max_model_len=facts.get("max_model_len"),
        max_token_bytes=facts.get("max_token_bytes"),
        max_output_tokens=facts.get("max_output_tokens"),
        prompt_overhead=facts.get("prompt_overhead"),
        aliases=tuple(facts.get("aliases") or ()),
        device=_device(facts),
    )


def _worker(said: Mapping[str, Any]) -> _Worker:
    return _Worker(
        said["incarnation"],
        said.get("pool", "default"),
        _device(said),
        said.get("capacity") or 0,
        said.get("running") or 0,
        said.get("state") == "draining",
    )


def _device(said: Mapping[str, Any]) -> Device:
    return Device(said.get("device"), said.get("device_memory_bytes"), said.get("devices") or 1)
