"""Versions of pools and aliases of models as data in Redis: each method is one atomic change or one look-up."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from broker.db.calls.rollouts import AliasDrop, AliasSet, PoolForget, RolloutStep
from broker.jobs import StorePart
from jobs.access import Actor, encoded
from jobs.rollouts import Mode, Rollout, RolloutState, Version

_VERSIONS = ("current", "previous", "target")


class Rollouts(StorePart):
    """The records of the pools' versions."""

    async def get(self, pool: str) -> Rollout:
        """Read a pool's record; one without has itself as its only version. ``step`` is 0 then."""
        return _rollout(pool, await self._execute(self._client.hgetall(self._keys("rollout", pool))))

    async def all(self) -> list[Rollout]:
        """Read the records of all pools that have one, by name."""
        pools = sorted(await self.pools())
        pipe = self._client.pipeline(transaction=False)
        for pool in pools:
            pipe.hgetall(self._keys("rollout", pool))
        rows = await self._execute(pipe.execute()) if pools else []
        return [_rollout(pool, row) for pool, row in zip(pools, rows, strict=True) if row]

    async def pools(self) -> frozenset[str]:
        """Return the names of all pools."""
        return await self._store.all_pools()

    async def write(
        self,
        old: Rollout,
        new: Rollout,
        *,
        flip: bool = False,
        held: str | None = None,
        unheld: str | None = None,
        what: str | None = None,
        by: Actor | None = None,
    ) -> Rollout | None:
        """Replace a record, unless it was changed since it was read.

        Args:
            old: as it was read.
            flip: from now on jobs of the version before go to the current one. Those that wait are moved, by the reaper.
            held: the queue of this pool stays open although it has no live worker; ``unheld``: that is over.
            what: the act, for the audit stream, with who asked in ``by``.

        Returns:
            The record with its new step; None: somebody else has changed it.
        """
        now_ms = await self._store.now_ms()
        new = replace(new, since_ms=now_ms if new.state is not old.state else old.since_ms)
        begins = new.target if new.target != old.target else None
        heir = None if begins is None or begins.pool == old.current.pool else begins.pool
        before = new.previous.pool if flip and new.previous is not None else None
        if before == new.current.pool:  # its weights were replaced in place
            before = None
        call = RolloutStep(
            pool=old.pool,
            step=old.step,
            nonce=secrets.token_hex(8),
            fields=_fields(new),
            held=held,
            unheld=unheld,
            heir=heir,
            heir_of=heir and old.current.pool,
            from_pool=before,
            to=new.current.pool if before else None,
            what=what,
            details=_details(new) if what else None,
            by=encoded(by),
        )
        return replace(new, step=old.step + 1) if await self._call(call) else None

    async def keep(self, pool: str, keeper: str, ttl_ms: int) -> bool:
        """Take, or prolong, the right to carry out a pool's rollouts. False: another process has it."""
        key = self._keys("keeper", pool)
        if await self._execute(self._client.set(key, keeper, nx=True, px=ttl_ms)):
            return True
        if await self.keeper(pool) != keeper:
            return False
        await self._execute(self._client.pexpire(key, ttl_ms))
        return True

    async def leave(self, pool: str, keeper: str) -> None:
        """Give that right up."""
        if await self.keeper(pool) == keeper:
            await self._execute(self._client.delete(self._keys("keeper", pool)))

    async def keeper(self, pool: str) -> str | None:
        """Return the process that carries out a pool's rollouts; None: there is none."""
        keeper: str | None = await self._execute(self._client.get(self._keys("keeper", pool)))
        return keeper

    async def forget(self, pool: str) -> bool:
        """Forget what a replaced version served. False: a job or a worker is left there."""
        return await self._call(PoolForget(pool))

    async def facts(self, pool: str) -> dict[str, dict[str, Any]]:
        """Return the facts of the models that a pool's workers registered, by name."""
        return {one["name"]: one for one in await self._store.models() if one["pool"] == pool}

    async def live(self, pool: str) -> list[dict[str, Any]]:
        """Return the pool's live workers; see :meth:`broker.jobs.JobStore.workers`."""
        return [one for one in await self._store.workers() if one.get("pool") == pool]

    async def left(self, pool: str) -> int:
        """Count the jobs that wait or run in a pool."""
        counts = await self._execute(self._client.hgetall(self._keys("pool", pool)))
        names = ("active", "depth:", "attached:")
        return sum(max(0, int(float(n))) for name, n in counts.items() if name.startswith(names))

    async def held(self, pool: str) -> bool:
        """Whether a pool's queue stays open although it has no live worker; see :meth:`write`."""
        return bool(await self._execute(self._client.hexists(self._keys("pool", pool), "held")))

    async def aliases(self) -> dict[str, str]:
        """Return the aliases that operators have set: the model of each."""
        return await self._store.aliases()

    async def set_alias(self, alias: str, model: str, by: Actor | None = None) -> str:
        """Have an alias mean a model, whatever workers call it.

        Returns:
            ``changed``, ``same``, or ``model``: a model has it as its own name, so nothing was done.
        """
        return await self._call(AliasSet(alias, model, encoded(by)))

    async def drop_alias(self, alias: str, by: Actor | None = None) -> bool:
        """Remove an alias that was set here. Returns whether there was one."""
        return await self._call(AliasDrop(alias, encoded(by)))


def _fields(record: Rollout) -> dict[str, str]:
    fields = {
        "state": record.state.value,
        "mode": record.mode.value,
        "number": str(record.number),
        "message": record.message or "",
        "since": "" if record.since_ms is None else str(record.since_ms),
    }
    for name in _VERSIONS:
        version: Version | None = getattr(record, name)
        fields[name] = "" if version is None else json.dumps(version.written())
    return fields


def _rollout(pool: str, stored: Mapping[str, str]) -> Rollout:
    if not stored:
        return Rollout.fresh(pool)
    versions = {name: Version.read(json.loads(stored[name])) for name in _VERSIONS if name in stored}
    return Rollout(
        pool,
        versions["current"],
        step=int(stored["step"]),
        state=RolloutState(stored["state"]),
        mode=Mode(stored["mode"]),
        number=int(stored["number"]),
        previous=versions.get("previous"),
        target=versions.get("target"),
        message=stored.get("message"),
        since_ms=int(stored["since"]) if "since" in stored else None,
    )


def _details(record: Rollout) -> dict[str, Any]:
    wanted = record.target or record.current
    return {"mode": record.mode.value, "version": wanted.pool, "model": wanted.model}
