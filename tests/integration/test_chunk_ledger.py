"""A chunk's parts and its ledger: what counts after a crash, a takeover, and from a worker that lost its lease."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from broker.batch_chunks import ChunkSpec, ChunkStore, Go
from broker.batch_steps import BatchSteps
from broker.batches import BatchSpec
from broker.claims import Claim
from broker.files import FileStore
from broker.jobs import JobStore
from broker.tenants import TenantStore
from coordinator.context import ChangedError, Context
from coordinator.outputs import settle
from coordinator.settings import CoordinatorSettings
from jobs.batch_keys import chunk_folder, part_key
from jobs.batch_lines import NeverRan, Response
from jobs.batch_model import Counts, File
from jobs.batch_rows import custom_id_of
from jobs.batches import BatchStatus, new_writer
from jobs.batches import Chunk as Piece
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.model import JobError, JobSpec
from monitoring.metrics import AcceptedJobs
from storage.base import ObjectInfo, read_all
from storage.local import LocalStorage
from storage.parts import committed_keys, recover
from tests.batching import jsonl, row
from tests.puppet import Puppet
from tests.support import new_id

pytestmark = pytest.mark.asyncio

TOKEN = "test"
BODY = b'{"usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}}'


class Chunk:
    """A batch of one chunk, in progress, submitted as a job."""

    def __init__(self, store: JobStore, storage: LocalStorage, puppet: Puppet) -> None:
        self.store, self.storage, self.puppet = store, storage, puppet
        self.batches, self.chunks = BatchSteps(store, 60.0, 60.0), ChunkStore(store)
        self.id = "batch_" + new_id().removeprefix("job_")
        self.spec = ChunkSpec(self.id, 0, 1, "files/x", 0, 100, 10, "/v1/chat/completions")
        self.job = new_id()
        self.writers: dict[Claim, int] = {}

    async def open(self) -> None:
        file = File("file-" + self.id.removeprefix("batch_"), 1, "x", "batch", "files/x", 0)
        await FileStore(self.store).create(file, expires_after_ms=60_000)
        spec = BatchSpec(self.id, file.id, file.key, "/v1/chat/completions", "1h", 3_600_000)
        batch, _ = await self.batches.create(spec)
        assert await self.batches.lease(self.id, TOKEN, 60)
        assert await self.batches.step(batch, TOKEN, BatchStatus.IN_PROGRESS, {"total": 10, "chunks": 1})
        assert await self.batches.open_chunk(self.id, TOKEN, 0, self.job, 1)
        await self.store.accept(self.job_spec())

    def job_spec(self) -> JobSpec:
        return JobSpec(self.job, CHUNK_ENDPOINT, "puppet", b"{}", metadata={"batch": self.id, "chunk": "0"})

    async def claim(self) -> Claim:
        return await self.puppet.take()

    async def take(self, claim: Claim) -> str:
        """Begin an attempt; return the ids of rows that need not run."""
        seen = await self.chunks.ledger(self.spec)
        assert seen is not None
        left = await recover(self.storage, self.id, 0, seen)
        writer = new_writer(left.ledger, self.spec.writer(claim.attempt))
        ledger = f"{left.ledger} {writer}:0".strip()
        self.writers[claim] = writer
        assert await self.chunks.take(self.spec, claim, ledger, seen, left.new) is Go.RUN
        return " ".join(sorted(left.ids))

    async def write(self, claim: Claim, part: int, ids: str, kind: str = "ok") -> None:
        key = part_key(self.id, 0, self.writers[claim], part, kind)
        status, body = (200, BODY) if kind == "ok" else (400, b'{"error": {}}')
        lines = (piece for i in ids.split() for piece in Response(status, body, i).line(i, i, i))
        await self.storage.put(key, b"".join(lines))

    async def commit(self, claim: Claim, part: int, rows: int, failed: int = 0) -> Go:
        new = Counts(completed=rows, failed=failed, input_tokens=2 * rows, output_tokens=3 * rows)
        return await self.chunks.commit(self.spec, claim, self.writers[claim], part, new)

    async def counts(self) -> Counts:
        batch = await self.batches.get(self.id)
        assert batch is not None
        return batch.counts

    async def lose(self, claim: Claim) -> None:
        """Have the job given back, as when its worker is lost."""
        await self.store.release(claim, self.puppet.name, "released")

    async def committed(self) -> int:
        return len(await self.keys())

    async def parts(self) -> list[ObjectInfo]:
        return await self.storage.list(chunk_folder(self.id, 0))

    async def keys(self) -> list[tuple[str, str, int]]:
        ledger = await self.chunks.ledger(self.spec)
        if ledger is None:
            _, done = await self.batches.chunks(self.id)
            ledger = done[0]
        return await committed_keys(self.storage, self.id, 0, ledger)

    async def rows(self) -> dict[str, str]:
        """Read the rows that are committed, with their kinds; none may be there twice."""
        found: dict[str, str] = {}
        for key, kind, _ in await self.keys():
            for line in (await read_all(self.storage, key)).splitlines():
                name = custom_id_of(line)
                assert name not in found
                found[name] = kind
        return found


@pytest_asyncio.fixture
async def chunk(store: JobStore, puppet: Puppet, tmp_path: Path) -> Chunk:
    chunk = Chunk(store, LocalStorage(tmp_path / "files"), puppet)
    await chunk.open()
    return chunk


async def test_a_part_that_was_written_and_not_counted_is_adopted_once(chunk: Chunk) -> None:
    first = await chunk.claim()
    assert await chunk.take(first) == ""
    await chunk.write(first, 1, "a b")
    assert await chunk.commit(first, 1, 2) is Go.RUN
    assert await chunk.commit(first, 1, 2) is Go.RUN  # the client library sent it twice
    await chunk.write(first, 2, "c")
    await chunk.lose(first)
    second = await chunk.claim()
    assert await chunk.take(second) == "a b c"
    counts = await chunk.counts()
    assert (counts.completed, counts.input_tokens, counts.output_tokens) == (3, 6, 9)
    assert await chunk.committed() == 2


async def test_tokens_of_rows_count_once_against_the_day(chunk: Chunk, store: JobStore) -> None:
    tenants = TenantStore(store)
    await tenants.change("default", {"tokens_per_day": 20})
    first = await chunk.claim()
    await chunk.take(first)
    await chunk.write(first, 1, "a b")
    for _ in range(2):
        assert await chunk.commit(first, 1, 2) is Go.RUN
    assert (await tenants.used("default")).tokens_today == 10
    await chunk.write(first, 2, "c d")  # and it dies before it counts them
    await chunk.lose(first)
    second = await chunk.claim()
    seen = await chunk.chunks.ledger(chunk.spec)
    assert seen is not None
    left = await recover(chunk.storage, chunk.id, 0, seen)
    for _ in range(2):
        go = await chunk.chunks.take(chunk.spec, second, f"{left.ledger} 9:0", seen, left.new)
        assert go is Go.PAUSED  # the day is over
    assert (await tenants.used("default")).tokens_today == 20
    batch = await chunk.batches.get(chunk.id)
    assert batch is not None
    assert batch.hold == "quota"


async def test_a_writer_that_lost_its_lease_writes_into_no_ledger(chunk: Chunk) -> None:
    first = await chunk.claim()
    await chunk.take(first)
    await chunk.lose(first)
    second = await chunk.claim()
    await chunk.take(second)
    await chunk.write(first, 1, "a b")  # it wakes up
    assert await chunk.commit(first, 1, 2) is Go.GONE
    await chunk.write(second, 1, "a")
    assert await chunk.commit(second, 1, 1) is Go.RUN
    await chunk.lose(second)
    third = await chunk.claim()
    assert await chunk.take(third) == "a"  # and not what the first one wrote after it had lost the chunk
    assert (await chunk.counts()).completed == 1
    assert await chunk.committed() == 1
    assert not await chunk.chunks.end(chunk.spec, second, done=True)
    assert await chunk.chunks.end(chunk.spec, third, done=True)
    assert await chunk.chunks.end(chunk.spec, third, done=True)
    assert await chunk.chunks.ledger(chunk.spec) is None


async def test_a_group_that_was_written_in_part_counts_in_part(chunk: Chunk) -> None:
    first = await chunk.claim()
    await chunk.take(first)
    await chunk.write(first, 1, "a", "err")
    await chunk.write(first, 2, "b c")
    assert await chunk.commit(first, 2, 2, failed=1) is Go.RUN
    assert await chunk.commit(first, 2, 2, failed=1) is Go.RUN  # the client library sent it twice
    await chunk.write(first, 3, "d", "err")
    await chunk.lose(first)
    second = await chunk.claim()
    assert await chunk.take(second) == "a b c d"
    await chunk.write(first, 4, "e f")  # the rest of the group, late
    await chunk.write(second, 1, "e f")
    assert await chunk.commit(second, 1, 2) is Go.RUN
    assert await chunk.rows() == {"a": "err", "b": "ok", "c": "ok", "d": "err", "e": "ok", "f": "ok"}
    counts = await chunk.counts()
    assert (counts.completed, counts.failed, counts.output_tokens) == (4, 2, 12)
    await chunk.lose(second)
    third = await chunk.claim()
    assert await chunk.take(third) == "a b c d e f"
    assert (await chunk.counts()).completed == 4


async def test_a_part_of_both_kinds_as_they_once_were_is_read(chunk: Chunk) -> None:
    first = await chunk.claim()
    await chunk.take(first)
    for part, ids in ((1, "a b"), (2, "c d")):
        for name, kind in zip(ids.split(), ("err", "ok"), strict=True):
            await chunk.write(first, part, name, kind)
    assert await chunk.commit(first, 1, 1, failed=1) is Go.RUN
    await chunk.lose(first)
    assert await chunk.take(await chunk.claim()) == "a b c d"
    assert await chunk.rows() == {"a": "err", "b": "ok", "c": "err", "d": "ok"}
    counts = await chunk.counts()
    assert (counts.completed, counts.failed) == (2, 2)


async def test_a_job_that_is_made_again_under_its_id_overwrites_nothing(chunk: Chunk) -> None:
    """Its record was forgotten: attempts count from 1 again."""
    first = await chunk.claim()
    await chunk.take(first)
    await chunk.write(first, 1, "a b")
    assert await chunk.commit(first, 1, 2) is Go.RUN
    await chunk.write(first, 2, "d")
    await chunk.puppet.fail(first, JobError(FailureCode.WORKER_LOST, "gone"))
    await chunk.store.client.delete(chunk.store.keys("job", chunk.job))
    assert await chunk.batches.open_chunk(chunk.id, TOKEN, 0, chunk.job, 1)
    await chunk.store.accept(chunk.job_spec())
    again = await chunk.claim()
    assert again.attempt == first.attempt
    assert await chunk.take(again) == "a b d"
    assert (await chunk.counts()).completed == 3
    await chunk.write(again, 1, "c", "err")
    assert await chunk.commit(again, 1, 0, failed=1) is Go.RUN
    assert await chunk.rows() == {"a": "ok", "b": "ok", "d": "ok", "c": "err"}


async def test_who_settles_without_the_lease_leaves_no_row_in_the_ledger(chunk: Chunk) -> None:
    """A coordinator that was frozen as it wrote down what never ran, and wakes when another has done so."""
    first = await chunk.claim()
    await chunk.take(first)
    await chunk.write(first, 1, "row-0", "err")
    assert await chunk.commit(first, 1, 0, failed=1) is Go.RUN
    await chunk.lose(first)
    data = jsonl(row(n) for n in range(3))
    await chunk.storage.put("files/x", data)
    batch, (opened, _) = await chunk.batches.get(chunk.id), await chunk.batches.chunks(chunk.id)
    assert batch is not None
    piece = Piece(0, 0, len(data), 1, 3)

    async def settled(token: str) -> None:
        metrics = AcceptedJobs(CollectorRegistry())
        context = Context.over(chunk.store, CoordinatorSettings(), token, metrics, chunk.storage)
        await settle(context, batch, piece, opened[0], NeverRan.CANCELLED)

    with pytest.raises(ChangedError):
        await settled("frozen")
    late = {info.key: await read_all(chunk.storage, info.key) for info in await chunk.parts()}
    await chunk.write(first, 2, "row-1")
    await settled(TOKEN)
    for key, data in late.items():
        await chunk.storage.put(key, data)
    assert await chunk.rows() == {"row-0": "err", "row-1": "ok", "row-2": "err"}
    counts = await chunk.counts()
    assert (counts.completed, counts.failed) == (1, 2)


async def test_a_paused_batch_says_so_with_the_next_commit(chunk: Chunk) -> None:
    claim = await chunk.claim()
    await chunk.take(claim)
    await chunk.batches.pause(chunk.id, paused=True)
    assert await chunk.commit(claim, 1, 1) is Go.PAUSED
    assert await chunk.chunks.end(chunk.spec, claim, done=False)
    opened, done = await chunk.batches.open_chunks(chunk.id)
    assert (opened[0].job, done) == ("", 0)


async def test_only_who_has_the_lease_moves_a_batch(chunk: Chunk) -> None:
    batch = await chunk.batches.get(chunk.id)
    assert batch is not None
    assert not await chunk.batches.lease(chunk.id, "other", 60)
    assert not await chunk.batches.step(batch, "other", BatchStatus.FINALIZING)
    assert not await chunk.batches.open_chunk(chunk.id, "other", 0, new_id(), 2)
    assert not await chunk.batches.settle_chunk(chunk.id, "other", 0, "", Counts(failed=10))
    assert await chunk.batches.lease(chunk.id, TOKEN, 0)
    assert await chunk.batches.lease(chunk.id, "other", 60)
    assert await chunk.batches.settle_chunk(chunk.id, "other", 0, "", Counts(failed=10))
    assert await chunk.batches.settle_chunk(chunk.id, "other", 0, "", Counts(failed=10))
    assert (await chunk.counts()).failed == 10
