"""The registry: workers register their models and keep their leases; the api reads both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from broker.db.errors import RegistrationRefusedError
from broker.db.runner import ScriptRunner
from broker.lookups import JobLookups

DRAIN = "drain"
"""Takes the place of a job id in the order that tells a worker to drain."""


class Registry(JobLookups):
    """The models and the workers of every pool. Part of :class:`broker.jobs.JobStore`."""

    scripts: ScriptRunner
    _lease_ttl_ms: int

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
            info: its description, with ``name`` and ``pool``.
            models: facts by name: ``card``, ``endpoints``, ``device``, limits such as ``max_model_len``.
            aliases: further names, and the model of each.

        Raises:
            RegistrationRefusedError: a live worker of its pool serves other models, or the same with another
                ``max_model_len``; or a live worker of any pool uses one of these names for another model.
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
        reply = await self.scripts.call(
            "worker/register",
            worker,
            self._lease_ttl_ms,
            pool,
            serves,
            json.dumps(dict(info)),
            json.dumps(names),
            json.dumps(facts),
        )
        if reply[0] == "ok":
            return
        why, other, lease_end, said, its_serves, name, model = reply
        its = json.loads(said)
        who = f"the worker {its.get('name', other)}"
        if why == "pool":
            message = (
                f"the pool {pool!r} is served by {who}, which serves {_listed(its_serves)}; this worker serves "
                f"{_listed(serves)}. Workers of one pool serve the same models: name another pool, or end that worker"
            )
        else:
            message = (
                f"the name {name!r} means {names[name]!r} here, but {model!r} at {who} in the pool "
                f"{its.get('pool', 'default')!r}. Choose another alias, or end that worker"
            )
        raise RegistrationRefusedError(message, other, int(float(lease_end)))

    async def heartbeat(
        self, worker: str, *, first: bool = False, info: Mapping[str, Any] | None = None
    ) -> dict[str, str] | None:
        """Prolong a worker's lease.

        Args:
            worker: the incarnation.
            first: take the lease out.
            info: the worker's description; the queue uses ``pool``, ``name``, ``capacity``, ``bulk_capacity`` and
                ``state`` of it.

        Returns:
            The orders for it: jobs to abort, id to reason, and :data:`DRAIN` to seconds or the empty string. None: the
            lease is lost, so abort everything.
        """
        said = json.dumps(info) if info else ""
        facts = info or {}
        slots = 0 if facts.get("state") == "draining" else facts.get("capacity", 0)
        bulk_slots = min(slots, facts.get("bulk_capacity", slots))
        place = facts.get("pool", ""), facts.get("name", ""), slots, bulk_slots
        reply = await self.scripts.call(
            "worker/heartbeat", worker, self._lease_ttl_ms, int(first), said, *place
        )
        if reply[0] == 0:
            return None
        return dict(zip(reply[1::2], reply[2::2], strict=True))

    async def bury(self, worker: str) -> None:
        """End the lease of a worker that has ended. The next round of the reaper takes over the jobs that it left."""
        await self.scripts.call("worker/bury", worker)

    async def drain(self, worker: str, timeout_s: float | None = None) -> bool:
        """Tell a worker incarnation to drain, within ``timeout_s`` seconds or its own setting. False: it is not alive."""
        return bool(await self.scripts.call("worker/drain", worker, "" if timeout_s is None else timeout_s))

    async def models(self) -> list[dict[str, Any]]:
        """Read the models that each pool serves, or served last: facts, with ``name``, ``pool`` and ``aliases``."""
        rows = await self.execute(self.client.hgetall(self.keys("models")))
        found = []
        for field, text in sorted(rows.items()):
            facts = json.loads(text)
            pool = facts.setdefault("pool", "default")
            name = field.removeprefix(
                f"{pool} "
            )  # without it: as written before pools were part of the field
            found.append({"aliases": [], **facts, "name": name})
        return found

    async def paused(self) -> frozenset[str]:
        """Return the paused pools."""
        return frozenset(await self.execute(self.client.smembers(self.keys("paused"))))

    async def forgotten(self) -> list[str]:
        """Return the incarnations that nobody has buried, and whose descriptions are gone: dead for ten leases or more."""
        names = await self.execute(self.client.zrange(self.keys("workers"), 0, -1))
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
        names = await self.execute(self.client.zrangebyscore(self.keys("workers"), since, "+inf"))
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
