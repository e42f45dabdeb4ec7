"""LoRA adapters as data in Redis: what operators declare for a pool, and what its workers say of it."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from broker.db.calls.adapters import AdapterAdd, AdapterPin, AdapterRemove, AdapterReport, Added
from broker.jobs import StorePart
from jobs.access import Actor, encoded
from jobs.adapter_files import AdapterFacts, KeptAdapter
from jobs.adapters import Adapter, AdapterState, Report
from jobs.ids import make_id

CHANGED = "adapters"
"""The order on a worker's control channel that its pool's adapters have changed; with it comes the new version."""

_OWN = ":"
"""With this begin the fields of a pool's hash that are no adapters."""

_MOST_VERSIONS = 100

_REPORTS = msgspec.json.Decoder(Report)
_RECORDS = msgspec.json.Decoder(Adapter)


class Adapters(StorePart):
    """The adapters of every pool."""

    async def announce(self, adapter_id: str, key: str) -> None:
        """Note that an adapter's object is about to be stored. One that then gets no record is deleted later."""
        await self._store.large.announce(adapter_id, key)

    async def add(
        self, adapter: Adapter, announced: str, most: int, *, once: bool = False, by: Actor | None = None
    ) -> Added:
        """Declare an adapter whose object is in storage, or replace its files. Its workers learn it at once.

        An object that the record does not take over is deleted.

        Args:
            adapter: its ``created_ms`` and ``pinned`` are ignored: a replaced one stays pinned.
            announced: the id of :meth:`announce`.
            most: adapters that the pool may have.
            once: from settings: nothing happens if this source was taken over before.
            by: who asked, for the audit stream; None: a process of ours. The same below.
        """
        call = AdapterAdd(
            pool=adapter.pool,
            name=adapter.name,
            record=msgspec.json.encode(adapter).decode(),
            key=adapter.key,
            digest=adapter.digest,
            source=adapter.source,
            announced=announced,
            most=most,
            tenant=adapter.tenant,
            once=once or None,
            by=encoded(by),
        )
        return await self._call(call)

    async def declare(
        self,
        name: str,
        pool: str,
        source: str,
        facts: AdapterFacts,
        write: Callable[[str], Awaitable[KeptAdapter]],
        *,
        most: int,
        tenant: str | None = None,
        once: bool = False,
        by: Actor | None = None,
    ) -> Added:
        """Store an adapter's files as an object of its own, and declare it; see :meth:`add`.

        Args:
            facts: of the files, which were checked.
            write: writes the files as the object of this key.
        """
        ident = make_id("adapter-", time.time_ns() // 1_000_000, os.urandom(10))
        key = f"adapters/{pool}/{ident}"
        await self.announce(ident, key)
        kept = await write(key)
        adapter = Adapter(
            name=name,
            pool=pool,
            source=source,
            key=key,
            digest=kept.digest,
            size_bytes=kept.size,
            rank=facts.rank,
            base=facts.base,
            tenant=tenant,
        )
        return await self.add(adapter, ident, most, once=once, by=by)

    async def taken_over(self, pool: str, name: str) -> str | None:
        """Return the source of the adapter that was taken over from settings under this name; None: none was."""
        taken: str | None = await self._execute(
            self._client.hget(self._keys("adapters", pool), f":taken:{name}")
        )
        return taken

    async def remove(self, pool: str, name: str, *, by: Actor | None = None) -> bool:
        """Forget an adapter and delete its object. Returns whether there was one."""
        return await self._call(AdapterRemove(pool, name, encoded(by)))

    async def pin(self, pool: str, name: str, *, pinned: bool = True, by: Actor | None = None) -> bool:
        """Have workers keep an adapter loaded, or no longer. Returns whether there is such an adapter."""
        return await self._call(AdapterPin(pool, name, pinned, encoded(by)))

    async def get(self, pool: str, name: str) -> Adapter | None:
        """Read an adapter's record; None: there is none."""
        text = (
            None
            if name.startswith(_OWN)
            else await self._execute(self._client.hget(self._keys("adapters", pool), name))
        )
        return None if text is None else _RECORDS.decode(text)

    async def home(self, pool: str) -> str:
        """Return the version of a pool that serves: whose adapters count. Mostly that is the pool itself."""
        for _ in range(_MOST_VERSIONS):
            to = await self._execute(self._client.hget(self._keys("pool", pool), "forward"))
            if to is None:
                break
            pool = to
        return pool

    async def of(self, pool: str) -> list[Adapter]:
        """Return a pool's adapters, by name."""
        rows: Mapping[str, str] = await self._execute(self._client.hgetall(self._keys("adapters", pool)))
        return [_RECORDS.decode(text) for name, text in sorted(rows.items()) if not name.startswith(_OWN)]

    async def all(self) -> list[Adapter]:
        """Return the adapters of all pools that serve, by pool and name."""
        pools = sorted(await self._execute(self._client.smembers(self._keys("pools"))))
        return [adapter for pool in pools if await self.home(pool) == pool for adapter in await self.of(pool)]

    async def version(self, pool: str) -> int | None:
        """Return a number that every change of the pool's adapters raises; None: it never had one.

        The answer to a heartbeat has it, too (:class:`broker.db.calls.workers.Beat`), and a change sends it to the pool's
        workers at once: the order :data:`CHANGED` on their control channels.
        """
        text = await self._execute(self._client.hget(self._keys("adapters", pool), ":version"))
        return None if text is None else int(text)

    # ---- what workers say ---------------------------------------------------------------------------------------------

    async def loaded(self, worker: str, adapter: Adapter) -> bool:
        """Note that a worker's engine has an adapter. It is listed as a model from now on.

        Args:
            worker: the incarnation. The same below.
            adapter: the record that the worker read; of it, ``digest`` counts.

        Returns:
            False: it was removed, or has other files now, so the worker drops this version. The same below.
        """
        return await self._report(worker, adapter, AdapterState.LOADED)

    async def stored(self, worker: str, adapter: Adapter) -> bool:
        """Note that a worker has a checked copy of an adapter, but not in its engine. It is listed as well."""
        return await self._report(worker, adapter, AdapterState.STORED)

    async def failed(self, worker: str, adapter: Adapter, reason: str) -> bool:
        """Note that a worker cannot load an adapter. Once none can, requests for it are refused with the reason."""
        return await self._report(worker, adapter, AdapterState.FAILED, reason or "unknown")

    async def dropped(self, worker: str, name: str) -> None:
        """Note that a worker has nothing of an adapter any more."""
        await self._execute(self._client.hdel(self._keys("worker_adapters", worker), name))

    async def _report(
        self, worker: str, adapter: Adapter, state: AdapterState, reason: str | None = None
    ) -> bool:
        return await self._call(
            AdapterReport(worker, adapter.pool, adapter.name, adapter.digest, state.value, reason)
        )

    async def reports(self, workers: Sequence[str]) -> dict[str, dict[str, Report]]:
        """Return what workers say of adapters: by incarnation, by the adapter's name."""
        pipe = self._client.pipeline(transaction=False)
        for worker in workers:
            pipe.hgetall(self._keys("worker_adapters", worker))
        rows = await self._execute(pipe.execute()) if workers else []
        return {
            worker: {name: _REPORTS.decode(text) for name, text in said.items()}
            for worker, said in zip(workers, rows, strict=True)
        }
