"""The registry: workers register their models and keep their leases; the api reads both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from broker.db.calls import workers as calls
from broker.db.calls.attempts import Disown
from broker.db.errors import RegistrationRefusedError
from broker.db.functions import drop_libraries
from broker.db.library import library
from broker.lookups import JobLookups
from jobs.access import Actor, encoded
from jobs.adapters import with_adapters
from jobs.declared import DeclaredPool
from jobs.poison import Remembered
from jobs.worker_states import WorkerState

log = structlog.get_logger(__name__)

DRAIN = "drain"
"""Takes the place of a job id in the order that tells a worker to drain."""

SWAP = "swap"
"""The same, in the order that tells a worker to look at its swap group."""


_DECLARED = msgspec.json.Decoder(DeclaredPool)

RELOAD = "reload"
"""The same of an order to load other weights: JSON with ``id``, ``model`` and ``drain_s``."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Some runs of jobs: how many, and how long they took in the mean."""

    mean_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Pools, by what is said of them.

    Attributes:
        paused: nothing is claimed from them.
        forward: their jobs go to another pool, by pool.
        held: their queue stays open without a live worker, as others are about to start.
    """

    paused: frozenset[str] = frozenset()
    forward: Mapping[str, str] = field(default_factory=dict)
    held: frozenset[str] = frozenset()


class Registry(JobLookups):
    """The models and the workers of every pool. Part of :class:`broker.jobs.JobStore`."""

    _lease_ttl_ms: int
    _unreadable: Mapping[str, str]
    retention_ms: int

    async def register(
        self,
        worker: str,
        info: Mapping[str, Any],
        models: Mapping[str, Mapping[str, Any]],
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Record a worker and the models of its pool, and take out its lease.

        The models replace those that the pool served before.

        Args:
            worker: the incarnation.
            info: its description, with ``name`` and ``pool``; ``version_of``: the pool whose version its pool is.
            models: facts by name: ``card``, ``endpoints``, ``device``, limits such as ``max_model_len``.
            aliases: further names, and the model of each.

        Raises:
            RegistrationRefusedError: a live worker of its pool serves other models, or the same with another
                ``max_model_len``; or a live worker or a declared pool uses one of these names for another model.
        """
        pool = info["pool"]
        names = {name: name for name in models} | dict(aliases or {})
        facts = {
            name: json.dumps(
                {**said, "pool": pool, "aliases": sorted(a for a, m in (aliases or {}).items() if m == name)}
            )
            for name, said in models.items()
        }
        serves = json.dumps(sorted([name, said.get("max_model_len")] for name, said in models.items()))
        call = calls.Register(
            worker=worker,
            ttl_ms=self._lease_ttl_ms,
            pool=pool,
            serves=serves,
            info=json.dumps(dict(info)),
            names=names,
            facts=facts,
            version_of=info.get("version_of"),
        )
        answer = await self.functions.call(call)
        if answer.kind == "ok":
            if answer.name:
                log.warning(
                    "name_declared_twice", pool=pool, name=answer.name, model=answer.model, other=answer.pool
                )
            return
        if answer.kind == "declared":
            message = (
                f"the name {answer.name!r} means {names[answer.name]!r} here, but {answer.model!r} in the pool "
                f"{answer.pool!r}, which is declared to scale from zero. Choose another name, or remove that declaration"
            )
            raise RegistrationRefusedError(message)
        its = json.loads(answer.info)
        who = f"the worker {its.get('name', answer.worker)}"
        if answer.kind == "pool":
            message = (
                f"the pool {pool!r} is served by {who}, which serves {_listed(answer.serves)}; this worker serves "
                f"{_listed(serves)}. Workers of one pool serve the same models: name another pool, or end that worker"
            )
        else:
            message = (
                f"the name {answer.name!r} means {names[answer.name]!r} here, but {answer.model!r} at {who} in the pool "
                f"{its.get('pool', 'default')!r}. Choose another alias, or end that worker"
            )
        raise RegistrationRefusedError(message, answer.worker, answer.lease_end)

    async def heartbeat(
        self,
        worker: str,
        *,
        first: bool = False,
        info: Mapping[str, Any] | None = None,
        running: int | None = None,
        run: Runs | None = None,
        bulk_run: Runs | None = None,
    ) -> calls.Beat:
        """Prolong a worker's lease.

        Args:
            worker: the incarnation.
            first: take the lease out.
            info: the worker's description; the queue uses ``pool``, ``capacity``, ``bulk_capacity`` and ``state`` of it, and
                of one that is not awake ``wake_ms``, the milliseconds until it probably is.
            running: jobs that the worker knows of as its own.
            run: of the jobs that ended here since the last heartbeat; ``bulk_run``: of those of the lane ``bulk``.

        Returns:
            Whether the lease is lost, and orders; with :data:`DRAIN` in place of a job's id: drain.
        """
        call = calls.Heartbeat(worker=worker, ttl_ms=self._lease_ttl_ms, first=first or None, running=running)
        if info:
            state, capacity = WorkerState.read(info.get("state")), info.get("capacity", 0)
            bulk = min(capacity, info.get("bulk_capacity", capacity))
            ready = state is WorkerState.READY
            call = msgspec.structs.replace(
                call,
                info=json.dumps(dict(info)),
                pool=info["pool"],
                slots=capacity if ready else 0,
                bulk_slots=bulk if ready else 0,
                asleep=f"{capacity} {bulk} {int(info.get('wake_ms') or 0)}" if state.comes_back else None,
                run_ms=run and run.mean_ms,
                runs=run and run.count,
                bulk_run_ms=bulk_run and bulk_run.mean_ms,
                bulk_runs=bulk_run and bulk_run.count,
            )
        return await self.functions.call(call)

    async def disown(self, worker: str, job_ids: Sequence[str]) -> None:
        """Give back jobs that count as this worker's, and that it does not know: the answer that named them was lost."""
        for job_id in job_ids:
            await self.functions.call(Disown(worker=worker, id=job_id, retention_ms=self.retention_ms))

    async def bury(self, worker: str) -> None:
        """End the lease of a worker that has ended. The next round of the reaper takes over the jobs that it left."""
        await self.functions.call(calls.Bury(worker=worker))

    async def drain(self, worker: str, timeout_s: float | None = None, *, by: Actor | None = None) -> bool:
        """Tell a worker incarnation to drain, within ``timeout_s`` seconds or its own setting. False: it is not alive."""
        call = calls.Drain(worker=worker, timeout_s=timeout_s, by=encoded(by))
        return await self.functions.call(call)

    async def reload(self, worker: str, ident: str, model: str, drain_s: float) -> bool:
        """Tell a worker to replace its weights; its record's ``weights`` will have the id. False: it is not alive.

        Args:
            ident: of this order, so that a repeated one is known.
            model: whose weights.
            drain_s: time for running jobs; then they are given back.
        """
        word = json.dumps({"id": ident, "model": model, "drain_s": drain_s})
        return await self.functions.call(calls.WorkerOrder(worker=worker, order=RELOAD, word=word))

    async def models(self) -> list[dict[str, Any]]:
        """Read the models that each pool serves, or served last: facts, with ``name``, ``pool`` and ``aliases``.

        ``created`` is when a model was first served, in seconds. A declared LoRA adapter has the facts of its base model,
        and ``adapter``: :class:`jobs.adapters.Offered`.
        """
        pipe = self.client.pipeline(transaction=False)
        for key in ("models", "adapted", "served"):
            pipe.hgetall(self.keys(key))
        rows, adapted, served = await self.execute(pipe.execute())
        found = []
        for row, text in sorted(rows.items()):
            facts = json.loads(text)
            found.append({**facts, "name": row.removeprefix(f"{facts['pool']} ")})
        offered = ((*row.split(" ", 1), json.loads(text)) for row, text in sorted(adapted.items()))
        return [
            facts | {"created": int(served.get(facts["name"], 0))} for facts in with_adapters(found, offered)
        ]

    async def declared(self) -> dict[str, DeclaredPool]:
        """Return the pools that scale from zero, by name, without records that cannot be read, which are logged once."""
        rows = await self.execute(self.client.hgetall(self.keys("declared")))
        found, unreadable = {}, {}
        for pool, text in rows.items():
            try:
                found[pool] = _DECLARED.decode(text)
            except msgspec.DecodeError as error:
                unreadable[pool] = str(error)
        for pool in unreadable.keys() - self._unreadable.keys():
            log.warning("declared_pool_unreadable", pool=pool, error=unreadable[pool])
        self._unreadable = unreadable
        return found

    async def aliases(self) -> dict[str, str]:
        """Return the aliases that operators have set as data: the model of each."""
        return dict(await self.execute(self.client.hgetall(self.keys("aliases"))))

    async def marks(self, pools: Sequence[str]) -> Marks:
        """Return which of these pools are paused, forward to another one, or stay open without a worker."""
        pipe = self.client.pipeline(transaction=False)
        for pool in pools:
            pipe.hmget(self.keys("pool", pool), "paused", "forward", "held")
        rows = await self.execute(pipe.execute()) if pools else []
        said = dict(zip(pools, rows, strict=True))
        return Marks(
            paused=frozenset(pool for pool, row in said.items() if row[0]),
            forward={pool: row[1] for pool, row in said.items() if row[1]},
            held=frozenset(pool for pool, row in said.items() if row[2]),
        )

    async def poisoned(self, pools: Sequence[str]) -> dict[str, dict[str, Remembered]]:
        """Return the kinds of requests that these pools refuse, by their digests; a pool without any is left out."""
        pipe = self.client.pipeline(transaction=False)
        for pool in pools:
            pipe.hgetall(self.keys("poison", pool))
        rows = await self.execute(pipe.execute()) if pools else []
        if not any(rows):
            return {}
        now = await self.now_ms()
        read = {
            pool: {digest: msgspec.json.decode(said, type=Remembered) for digest, said in row.items()}
            for pool, row in zip(pools, rows, strict=True)
            if row
        }
        return {
            pool: {d: one for d, one in kinds.items() if one.until_ms > now} for pool, kinds in read.items()
        }

    async def drop_unused_libraries(self) -> list[str]:
        """Delete the function libraries that workers of this namespace brought and that none of them calls any more.

        Returns:
            Their names. Each is deleted once: another namespace that calls it loads it again.
        """
        key = self.keys("libraries")
        unused = set(await self.execute(self.client.smembers(key))) - {library().name}
        if not unused:
            return []
        pipe = self.client.pipeline(transaction=False)
        for worker in await self.execute(self.client.zrange(self.keys("leases"), 0, -1)):
            pipe.hget(self.keys("worker", worker), "library")
        unused -= set(await self.execute(pipe.execute()))
        dropped = await self.execute(drop_libraries(self.client, sorted(unused)))
        if unused:
            await self.execute(self.client.srem(key, *unused))
        return list(dropped)

    async def forgotten(self) -> list[str]:
        """Return the incarnations that nobody has buried, and whose descriptions are gone: dead for ten leases or more."""
        names = await self.execute(self.client.zrange(self.keys("leases"), 0, -1))
        known = [await self.execute(self.client.exists(self.keys("worker", name))) for name in names]
        return [name for name, there in zip(names, known, strict=True) if not there]

    async def workers(self, *, ended: bool = False) -> list[dict[str, Any]]:
        """Read the description of every worker with a live lease (``name``, ``pool``, ``models``, ...).

        ``running`` is counted now; everything else is as of its last heartbeat.

        Args:
            ended: also those whose lease ran out, and that nobody has buried yet.
        """
        seconds, micros = await self.execute(self.client.time())
        since = "-inf" if ended else f"({seconds * 1000 + micros // 1000}"
        names = await self.execute(self.client.zrangebyscore(self.keys("leases"), since, "+inf"))
        if not names:
            return []
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.hget(self.keys("worker", name), "info")
            pipe.scard(self.keys("worker_jobs", name))
        replies = await self.execute(pipe.execute())
        return [
            json.loads(info) | {"incarnation": name, "running": running}
            for name, info, running in zip(names, replies[::2], replies[1::2], strict=True)
            if info
        ]


def _listed(serves: str) -> str:
    """Return words for the models of a pool: ``'a' (context of 4096 tokens)``."""
    models = [(name, limit) for name, limit in json.loads(serves)]
    parts = [f"{name!r}" + (f" (context of {limit} tokens)" if limit else "") for name, limit in models]
    return ", ".join(parts) or "no model"
