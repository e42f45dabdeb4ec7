"""Committing a chunk's finished rows in small groups: parts in storage, durable, and then their count in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from broker.batch_chunks import ChunkSpec, ChunkStore, Go
from broker.claims import Claim
from broker.db.errors import StoreError, StoreUnavailableError
from jobs.batch_keys import part_key
from jobs.batch_model import Counts
from monitoring import failpoints
from storage import Storage, StorageError
from storage.parts import add

log = structlog.get_logger(__name__)

GROUP_ROWS = 64
GROUP_MOST_ROWS = 512
GROUP_S = 0.5
_RETRY_S = 1.0
_RETRY_MAX_S = 10.0


class ChunkGoneError(Exception):
    """The chunk is no longer this attempt's: its uncommitted rows are dropped."""


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """An output line.

    Attributes:
        line: its pieces, of which lines of identical rows share one.
        kind: ``ok`` or ``err``.
        usage: the tokens that its response states.
        ran_s: seconds that it was on the engine.
        shared: the run of an identical row answered it.
    """

    line: tuple[bytes, bytes]
    kind: str
    usage: Counts
    ran_s: float = 0.0
    shared: bool = False


class Committer:
    """Commits one chunk's rows, in groups of 64 to 512 or after half a second; one group at a time.

    Args:
        writer: the number under which this attempt's parts are kept.
        on_commit: called with the rows of each group that is committed.
        device_share: devices of this worker for each of its slots.
    """

    def __init__(
        self,
        storage: Storage,
        chunks: ChunkStore,
        spec: ChunkSpec,
        claim: Claim,
        writer: int,
        on_commit: Callable[[list[FinishedRow]], None],
        device_share: float,
    ) -> None:
        self._storage, self._chunks, self._spec, self._claim = storage, chunks, spec, claim
        self._writer = writer
        self._on_commit = on_commit
        self._device_share = device_share
        self._finished: list[FinishedRow] = []
        self._writing: list[FinishedRow] = []
        self._stored = False
        self._part = 1
        self._changed = asyncio.Event()
        self._committed = asyncio.Event()
        self._closing = False
        self.paused = False

    @property
    def uncommitted(self) -> int:
        """Rows that are finished and not committed."""
        return len(self._finished) + len(self._writing)

    def append(self, rows: list[FinishedRow]) -> None:
        """Add finished rows."""
        first = not self._finished
        self._finished += rows
        if first or len(self._finished) >= GROUP_ROWS:
            self._changed.set()

    async def below(self, most: int) -> None:
        """Return when fewer than ``most`` rows are uncommitted."""
        while self.uncommitted >= most:
            self._committed.clear()
            await self._committed.wait()

    def close(self) -> None:
        """Have :meth:`run` commit the rest and return."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Commit until closed. If storage or Redis fails, it waits and tries again.

        Raises:
            ChunkGoneError: another attempt has the chunk, or its batch has ended.
        """
        while self._finished or self._writing or not self._closing:
            await self._gather()
            if self._finished or self._writing:
                await self.flush()

    async def _gather(self) -> None:
        """Wait for a group."""
        while not self._closing and not self._writing and len(self._finished) < GROUP_ROWS:
            self._changed.clear()
            try:
                async with asyncio.timeout(GROUP_S if self._finished else None):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def flush(self) -> None:
        """Commit the finished rows now. A group that was interrupted comes first."""
        if not self._writing:
            self._writing, self._stored = self._finished[:GROUP_MOST_ROWS], False
            del self._finished[:GROUP_MOST_ROWS]
        if not self._stored:
            await self._store()
            self._stored = True
            failpoints.hit("bulk.after_part")
        parts = self._parts()
        go = await self._count(self._part + len(parts) - 1)
        if go is Go.GONE:
            raise ChunkGoneError
        self.paused = go is Go.PAUSED
        group, self._writing = self._writing, []
        self._part += len(parts)
        self._committed.set()
        self._on_commit(group)

    async def flush_all(self) -> None:
        """Commit all finished rows now."""
        while self.uncommitted:
            await self.flush()

    def _parts(self) -> list[tuple[str, bytes]]:
        """Return the group as parts, (kind, lines): each is one object with a number of its own.

        An object is there or not. A part of two could be adopted with one of them there, and the other would come late, from
        a writer that has lost the chunk, into a ledger whose rows were run again.
        """
        lines = {
            kind: b"".join(piece for row in self._writing if row.kind == kind for piece in row.line)
            for kind in ("err", "ok")
        }
        return [(kind, data) for kind, data in lines.items() if data]

    async def _store(self) -> None:
        pause_s = _RETRY_S
        while True:
            try:
                for part, (kind, data) in enumerate(self._parts(), self._part):
                    failpoints.hit("bulk.before_part")
                    key = part_key(self._spec.batch, self._spec.chunk, self._writer, part, kind)
                    await self._storage.put(key, data)
            except StorageError as error:
                log.warning(
                    "commit_waits_for_storage", batch=self._spec.batch, reason=error.reason, error=str(error)
                )
                await self._hold(error.reason)
                await asyncio.sleep(pause_s)
                pause_s = min(_RETRY_MAX_S, 2 * pause_s)
            else:
                return

    async def _hold(self, reason: str) -> None:
        try:
            await self._chunks.hold(self._spec.batch, reason)
        except StoreError as error:
            log.warning("batch_hold_not_noted", batch=self._spec.batch, error=str(error))

    async def _count(self, last: int) -> Go:
        rows = [
            Counts(completed=int(row.kind == "ok"), failed=int(row.kind == "err")) for row in self._writing
        ]
        new = add([*rows, *(row.usage for row in self._writing)])
        used = add([*rows, *(row.usage for row in self._writing if not row.shared)])
        device_us = round(sum(row.ran_s for row in self._writing) * self._device_share * 1e6)
        while True:
            try:
                return await self._chunks.commit(
                    self._spec, self._claim, self._writer, last, new, used, device_us
                )
            except StoreUnavailableError as error:
                log.warning("commit_delayed", batch=self._spec.batch, error=str(error))
                await asyncio.sleep(_RETRY_S)
