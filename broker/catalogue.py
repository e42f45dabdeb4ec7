"""A cached view of the models, their pools and the live workers in Redis."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from broker.jobs import JobStore
from broker.models import KnownWorker, Model, declare, read_model, read_worker, with_heirs
from broker.registry import Marks
from jobs.declared import DeclaredPool
from jobs.placement import Device, Offer, Placement, rank
from jobs.poison import Remembered
from jobs.scaling import Replica
from jobs.worker_states import WorkerState

MIN_GAP_S = 0.2
"""Shortest time between refreshes after a miss, so that requests for unknown models do not load Redis."""


class Catalogue:
    """The cached view. Its owner refreshes it.

    Args:
        default_model: comes first in the list; None: by name.

    Attributes:
        pools: every pool with a worker, a registered model, a declaration or a job that waits.
        alive: the live workers at the last refresh; see :meth:`broker.jobs.JobStore.workers`.
    """

    def __init__(self, store: JobStore, default_model: str | None = None) -> None:
        self._store = store
        self._default = default_model
        self._models: dict[str, dict[str, Model]] = {}
        self._aliases: dict[str, str] = {}
        self._poisoned: dict[str, dict[str, Remembered]] = {}
        self._live: dict[tuple[str, str], tuple[KnownWorker, ...]] = {}
        self._declared: Mapping[str, DeclaredPool] = {}
        self._scaling: frozenset[tuple[str, str]] = frozenset()
        self._sharing: dict[str, bool] = {}
        self._queued: dict[str, int] = {}
        self._marks = Marks()
        self._sent: Counter[str] = Counter()
        self.pools: tuple[str, ...] = ()
        self.alive: tuple[Mapping[str, Any], ...] = ()
        self._read_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._reading = False

    @property
    def has_worker(self) -> bool:
        """Whether any worker was alive at the last refresh, or one starts for what is queued."""
        return bool(self._live) or bool(self._marks.held) or bool(self._scaling)

    @property
    def empty(self) -> bool:
        """Whether no worker ever registered: the first may still be loading its model."""
        return not self._models

    def live(self, model: Model) -> bool:
        """Whether a worker of the model's pool was alive at the last refresh, or is about to start for its open queue."""
        return (model.pool, model.base) in self._live or model.pool in self._marks.held

    def open(self, model: Model) -> bool:
        """Whether its pool takes calls, whose callers wait: a worker is alive, or the pool scales from zero."""
        return self.live(model) or (model.pool, model.base) in self._scaling

    def has_workers(self, pool: str) -> bool:
        """Whether a worker of a pool was alive at the last refresh."""
        return pool in self._sharing

    def asleep(self, model: Model) -> bool:
        """Whether its pool has no live worker, and one is started for what waits."""
        return self.open(model) and not self.live(model)

    def of_pool(self, pool: str) -> Model | None:
        """Return a pool's own model, which is no adapter; None: no worker of it ever registered one."""
        found = (one for pools in self._models.values() for one in pools.values() if one.pool == pool)
        return next((one for one in found if one.capabilities.adapter_of is None), None)

    def home(self, name: str) -> str | None:
        """Return the pool that jobs for a model go to now; None: no pool has it."""
        return next((model.pool for model in self.ranked(name)), None)

    def declares(self, pool: str) -> bool:
        """Whether a pool scales from zero, as settings or an operator said."""
        return pool in self._declared

    def replica(self, pool: str) -> Replica:
        """Return what one more worker of a pool brings: as declared, as the live ones are, or as the last one was."""
        one, model = self._declared.get(pool), self.of_pool(pool)
        alive = [said.get("capacity") or 0 for said in self.alive if said.get("pool", "default") == pool]
        slots = (one and one.slots) or max(alive, default=0) or (model and model.capacity)
        return Replica(slots or None, (model and model.start_s) or 0.0)

    def poisoned(self, model: Model) -> Mapping[str, Remembered]:
        """Return the kinds of requests that killed engines of the model's pool, by digest, at the last refresh."""
        return self._poisoned.get(model.pool, {})

    def shares_storage(self, pool: str) -> bool:
        """Whether all workers of a pool had the api's storage at the last refresh; without a worker: False."""
        return self._sharing.get(pool, False)

    def workers(self, model: Model) -> tuple[KnownWorker, ...]:
        """Return the workers of the model's pool that were alive at the last refresh."""
        return self._live.get((model.pool, model.base), ())

    def listed(self) -> list[tuple[str, Model]]:
        """Return the names that a request may use, each with its model: the default first, then models, adapters, aliases.

        They are the names of the models that take calls; without any, all known names. A declared adapter is among them once
        a worker has it.
        """
        ranked = {name: [one for one in self.ranked(name) if one.usable] for name in self._models}
        models = {name: found[0] for name, found in ranked.items() if found}
        shown = {name: model for name, model in models.items() if self.open(model)} or models
        own = sorted(shown, key=lambda name: (shown[name].adapter is not None, name))
        aliases = (alias for alias, name in sorted(self._aliases.items()) if name in shown)
        names = [*own, *(alias for alias in aliases if alias not in shown)]
        names.sort(key=lambda name: name != self._default)
        return [(name, shown[self.real_name(name)]) for name in names]

    def open_to(self, name: str, tenant: str) -> bool:
        """Whether a tenant may know of a name. Of one that is not known it may."""
        pools = self._models.get(self.real_name(name), {})
        return not pools or any(model.open_to(tenant) for model in pools.values())

    def real_name(self, name: str) -> str:
        """Return the model's own name if ``name`` is an alias, else ``name``. Operators' aliases come before workers'.

        A model's own name comes before an alias, unless the model takes no calls, and the other one does.
        """
        alias = self._aliases.get(name)
        if alias is None or (
            name in self._models and (self._takes_calls(name) or not self._takes_calls(alias))
        ):
            return name
        return alias

    def _takes_calls(self, model: str) -> bool:
        return any(map(self.open, self._models.get(model, {}).values()))

    async def find(
        self, name: str, *, live: bool = False, placement: Placement | None = None
    ) -> Model | None:
        """Return a model by its name or an alias, in the best pool for it.

        Refreshes if the model is unknown (or, with ``live``, its pool takes no calls).

        Returns:
            None: no pool serves it, or none that meets the placement (then :meth:`devices` is not empty).

        Raises:
            StoreUnavailableError: it had to refresh, and Redis cannot be reached.
        """
        found = self.ranked(name, placement)
        if not found or (live and not self.open(found[0])):
            await self._refresh(pause_s=MIN_GAP_S - self._age_s())
            found = self.ranked(name, placement)
        return found[0] if found else None

    def ranked(self, name: str, placement: Placement | None = None) -> list[Model]:
        """Return a model in each pool that may run a job for it, the best first; see :func:`jobs.placement.rank`.

        As of the last refresh.
        """
        real = self.real_name(name)
        pools = self._models.get(real, {})
        if len(pools) == 1 and placement is None:
            return list(pools.values())
        return [pools[offer.pool] for offer in rank(self._offers(real), placement)]

    def book(self, model: Model) -> None:
        """Count one more job in the model's pool until the next refresh, so that a burst does not go to one pool."""
        self._sent[model.pool] += 1

    def devices(self, name: str) -> dict[str, tuple[Device, ...]]:
        """Return the pools that serve a model, by name or alias, and their devices."""
        return {offer.pool: offer.devices for offer in self._offers(self.real_name(name))}

    def _offers(self, name: str) -> list[Offer]:
        offers = []
        pools = self._models.get(name, {})
        serving = {pool: model for pool, model in pools.items() if pool not in self._marks.forward}
        for pool, model in (serving or pools).items():
            alive = self._live.get((pool, model.base), ())
            staying = [worker for worker in alive if worker.state is not WorkerState.DRAINING]
            ready = [worker for worker in staying if worker.state is WorkerState.READY]
            offers.append(
                Offer(
                    pool,
                    tuple(dict.fromkeys(worker.device for worker in staying or alive)) or (model.device,),
                    live=bool(staying),
                    scales=(pool, model.base) in self._scaling,
                    paused=pool in self._marks.paused,
                    capacity=sum(worker.capacity for worker in ready),
                    load=sum(worker.running for worker in staying)
                    + self._queued.get(pool, 0)
                    + self._sent[pool],
                )
            )
        return offers

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Read Redis again, unless the last refresh is younger than ``max_age_s``.

        Raises:
            StoreUnavailableError: Redis cannot be reached; the old view stays.
        """
        if self._age_s() >= max_age_s:
            await self._refresh()

    def _age_s(self) -> float:
        return time.monotonic() - self._read_at

    async def _refresh(self, pause_s: float = 0.0) -> None:
        """Refresh after a pause. Concurrent calls share one refresh, with the pause of the first.

        A refresh that is already reading does not count: it may have read before the wanted model was there.
        """
        if self._reading and self._refreshing is not None:
            await asyncio.shield(self._refreshing)
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read(pause_s), name="catalogue")
        await asyncio.shield(self._refreshing)

    async def aclose(self) -> None:
        """End the refresh under way. It gets a second to finish, as an aborted connection is not closed cleanly."""
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing}, timeout=1.0)
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

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
        workers = await self._store.workers()
        rows = await self._store.models()  # afterwards: so the models of every live worker are among them
        models: dict[str, dict[str, Model]] = {}
        for facts in rows:
            models.setdefault(facts["name"], {})[facts["pool"]] = read_model(facts)
        given = await self._store.aliases()
        declared = await self._store.declared()
        served = {said.get("pool", "default") for said in workers}
        everything = await self._store.all_pools()
        if declared:
            self._marks = await self._store.marks(sorted(everything))
            declared = with_heirs(declared, self._marks.forward)
        known = {facts["pool"] for facts in rows} | served | declared.keys()
        scaling = declare(models, declared, served)
        self._poisoned = await self._store.poisoned(sorted({facts["pool"] for facts in rows}))
        # The number of waiting jobs, and which pool forwards to which, matter only if a model has several pools.
        rivals = sorted({pool for pools in models.values() if len(pools) > 1 for pool in pools})
        others = everything - known
        depths = await self._store.depths([*rivals, *sorted(others)])
        if not declared:
            unserved = {pool for pools in models.values() for pool in pools} - served
            self._marks = await self._store.marks(sorted(unserved.union(rivals)))
        self._queued = {
            pool: sum(depth for (of, _), depth in depths.items() if of == pool) for pool in rivals
        }
        self._sent -= before
        self._models = models
        self._declared, self._scaling = declared, scaling
        registered = [(a, m) for pools in models.values() for m in pools.values() for a in m.aliases]
        serving = served | self._marks.held
        # A pool without a worker has the aliases that it declares. Those of its last worker count if nobody else has them.
        asleep = {pool for pool, one in declared.items() if one.pool == pool} - serving
        heard = serving | declared.keys() - asleep
        self._aliases = {
            **{alias: m.name for alias, m in registered if m.pool not in heard | asleep},
            **{alias: m.name for alias, m in registered if m.pool in asleep},
            **{alias: one.model for one in declared.values() for alias in one.aliases if one.model in models},
            **{alias: m.name for alias, m in registered if m.pool in heard},
            **given,
        }
        live: dict[tuple[str, str], tuple[KnownWorker, ...]] = {}
        sharing: dict[str, bool] = {}
        for said in workers:
            worker = read_worker(said)
            sharing[worker.pool] = worker.shares_storage and sharing.get(worker.pool, True)
            for name in said.get("models", ()):
                live[worker.pool, name] = (*live.get((worker.pool, name), ()), worker)
        self._live = live
        self._sharing = sharing
        self.alive = tuple(workers)
        # Jobs may wait where nothing is left but they: the pool's declaration was removed before a worker came.
        waiting = {pool for (pool, _), depth in depths.items() if depth and pool in others}
        self.pools = tuple(sorted(known | waiting)) or ("default",)
        self._read_at = time.monotonic()
