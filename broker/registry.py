"""Who serves what: workers register their pool's models, and the front reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from broker.db.errors import RegistrationRefusedError
from broker.db.runner import ScriptRunner
from broker.lookups import JobLookups


class Registry(JobLookups):
    """The workers and the models of every pool. Part of :class:`broker.jobs.JobStore`."""

    scripts: ScriptRunner
    _lease_ttl_ms: int

    async def register(
        self,
        worker: str,
        info: Mapping[str, Any],
        models: Mapping[str, Mapping[str, Any]],
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Record what a worker is and what its pool serves, and take out its lease.

        The models replace what the pool served before.

        Args:
            worker: the incarnation.
            info: what it says of itself, with ``name`` and ``pool``.
            models: name to facts: ``card``, ``endpoints``, ``device``, limits such as ``max_model_len``.
            aliases: further names, and the model that each means.

        Raises:
            RegistrationRefusedError: a live worker of its pool serves other models, or the same with another
                ``max_model_len``; or a live worker of any pool serves another model by one of these names.
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

    async def models(self) -> list[dict[str, Any]]:
        """Read what every pool serves, or served last: facts, with ``name``, ``pool`` and ``aliases``."""
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
        """Read which pools are paused."""
        return frozenset(await self.execute(self.client.smembers(self.keys("paused"))))

    async def workers(self) -> list[dict[str, Any]]:
        """Read what every worker with a live lease says of itself (``name``, ``pool``, ``models``, ...).

        ``running`` is counted now; all else is as of its last heartbeat.
        """
        seconds, _ = await self.execute(self.client.time())
        names = await self.execute(self.client.zrangebyscore(self.keys("workers"), seconds * 1000, "+inf"))
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
    """Say what a pool serves: ``'a' (context of 4096 tokens)``."""
    models = [(name, limit) for name, limit in json.loads(serves)]
    parts = [f"{name!r}" + (f" (context of {limit} tokens)" if limit else "") for name, limit in models]
    return ", ".join(parts) or "no model"
