"""The worker's side of a batch: take a chunk, commit its rows, end it. Fenced by the chunk's job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from broker.claims import Claim
from broker.db.calls.batches import BatchHold, ChunkCommit, ChunkEnd, ChunkTake
from broker.jobs import StorePart
from jobs.batch_model import Counts


class Go(StrEnum):
    """The next step of a chunk's worker."""

    RUN = "run"
    PAUSED = "paused"
    DONE = "done"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """The body of a chunk's job.

    Attributes:
        generation: how often the chunk was submitted, from 1.
        input_key: the input's object in storage.
        offset: where its first line starts, in bytes.
        rows: number of its requests.
        endpoint: the endpoint of every row.
        trace: the batch's trace context, to which the chunk's own traces link.
    """

    batch: str
    chunk: int
    generation: int
    input_key: str
    offset: int
    length: int
    rows: int
    endpoint: str
    trace: str | None = None

    def writer(self, attempt: int) -> int:
        """Return the writer number of an attempt's parts; see :func:`jobs.batches.new_writer`."""
        return self.generation * 100_000 + min(attempt, 99_999)


class ChunkStore(StorePart):
    """One chunk's transitions, as its worker carries them out."""

    async def ledger(self, spec: ChunkSpec) -> str | None:
        """Return the ledger of a chunk's committed parts; None: the chunk is done, or unknown."""
        raw = await self._execute(self._client.hget(self._keys("batch_open", spec.batch), str(spec.chunk)))
        return None if raw is None else str(json.loads(raw)["ledger"])

    async def take(self, spec: ChunkSpec, claim: Claim, ledger: str, seen: str, new: Counts) -> Go | None:
        """Begin a chunk: its ledger becomes ``ledger``, and ``new`` rows are counted. None: the ledger is not ``seen``."""
        reply = await self._call(ChunkTake(*_owner(spec, claim), ledger=ledger, seen=seen, new=new))
        return None if reply is None else Go(reply)

    async def commit(
        self,
        spec: ChunkSpec,
        claim: Claim,
        writer: int,
        last: int,
        new: Counts,
        used: Counts | None = None,
        device_us: int | None = None,
    ) -> Go:
        """Count the rows of a writer's parts in storage since the last commit.

        Args:
            last: the latest part.
            new: the rows and their tokens.
            used: the same, without the tokens of rows that shared a run; None: none did.
            device_us: microseconds of device that they took; None: not known.
        """
        call = ChunkCommit(
            *_owner(spec, claim), writer=writer, last=last, new=new, used=used, device_us=device_us
        )
        return Go(await self._call(call))

    async def end(self, spec: ChunkSpec, claim: Claim, *, done: bool) -> bool:
        """End a chunk: ``done``, or a later job runs the rest. False: this attempt no longer owns it."""
        return await self._call(ChunkEnd(*_owner(spec, claim), done=done))

    async def hold(self, batch: str, reason: str) -> None:
        """Note why a batch cannot proceed; the next commit removes the note."""
        await self._call(BatchHold(batch, reason))


def _owner(spec: ChunkSpec, claim: Claim) -> tuple[str, int, str, int]:
    """Return whose chunk it must be for a call to have an effect."""
    return spec.batch, spec.chunk, claim.id, claim.attempt
