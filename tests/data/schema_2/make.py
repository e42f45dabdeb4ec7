"""Makes ``dump.rdb`` and ``manifest.json``. It runs only on the code that wrote record version 2 (commit 8a25473).

It is kept so that the dump can be audited, and it is run by nobody: later code cannot write these structures. From the
root of a checkout of that commit, with these two files in this folder and a ``redis-server`` of the oldest supported
version (a newer server's file is refused by an older one)::

    python tests/data/schema_2/make.py /usr/bin/redis-server

Every key is written by the functions of the product. What must outlive the years has a retention of a century; what is
due "by then" has passed a few seconds after the dump was made.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE)]
socket.gethostname = lambda: "old-host"  # celery writes it into `origin`

import msgspec  # noqa: E402
from manifest import Labels, write_manifest  # noqa: E402
from redis import Redis  # noqa: E402

from broker.attempts import Claim  # noqa: E402
from broker.batch_chunks import ChunkSpec, ChunkStore  # noqa: E402
from broker.batch_steps import BatchSteps, encode_errors  # noqa: E402
from broker.batches import BatchSpec  # noqa: E402
from broker.celery.app import make_celery  # noqa: E402
from broker.celery.envelope import publish_envelope  # noqa: E402
from broker.db.client import connect  # noqa: E402
from broker.db.keys import Keys  # noqa: E402
from broker.files import FileStore  # noqa: E402
from broker.jobs import JobStore  # noqa: E402
from broker.settings import BrokerSettings, TenantSettings  # noqa: E402
from coordinator.submit import CHUNK_ATTEMPTS, job_id_of  # noqa: E402
from jobs.batch_model import Batch, Counts, File  # noqa: E402
from jobs.batch_rows import RowError, RowErrorCode  # noqa: E402
from jobs.batches import BatchStatus  # noqa: E402
from jobs.endpoints import CHAT, CHUNK_ENDPOINT, COMPLETIONS, EMBEDDINGS  # noqa: E402
from jobs.failures import FailureCode  # noqa: E402
from jobs.ids import BATCH_PREFIX, FILE_PREFIX, make_id, make_job_id  # noqa: E402
from jobs.lanes import Lane  # noqa: E402
from jobs.model import JobError, JobSpec, Usage  # noqa: E402
from jobs.placement import Placement  # noqa: E402
from jobs.states import JobState  # noqa: E402
from jobs.stream_chunks import Frames, Head, Text  # noqa: E402
from monitoring.trace_context import TraceContext  # noqa: E402
from tests.puppet import Puppet  # noqa: E402

CENTURY_S = 3_155_760_000.0
CENTURY_MS = int(CENTURY_S * 1000)
SOON_MS = 1_500
"""Not passed while the dump is made, and passed when anybody reads it."""

ENDS = {
    "running_past_deadline": "expired",
    "running_last_attempt": "failed",
    "running_to_cancel": "cancelled",
    "past_deadline": "expired",
    "past_queue_timeout": "expired",
}
"""The states in which jobs end when a reaper finds their workers lost and their time over; no other job has ended then."""

ODD = 'quote " backslash \\ tab \t NUL \\u0000 \u2028 \ufeff é 漢 🦀 @ID@ @QUEUE@ %s $1 '
TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True, state="vendor=1")


def now_ms() -> int:
    return int(time.time() * 1000)


def chat(text: str, **more: Any) -> bytes:
    said = {"model": "puppet", "messages": [{"role": "user", "content": text}], **more}
    return msgspec.json.encode(said)


class Worker(Puppet):
    """It pops from its own list first, as a worker does."""

    def queues(self) -> list[str]:
        return [self.store.keys("own_queue", self.pool, self.name), *super().queues()]


class Maker:
    """Jobs by label: accepts them, and keeps what was submitted for the manifest."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.labels = Labels()

    async def accept(self, label: str, *, store: JobStore | None = None, **given: Any) -> str:
        spec = JobSpec(
            **{
                "id": make_job_id(now_ms(), os.urandom(10)),
                "endpoint": CHAT,
                "model": "puppet",
                "body": chat(label),
                **given,
            }
        )
        accepted = await (store or self.store).accept(spec)
        assert accepted.id == spec.id, label
        self.labels.jobs[label] = spec
        return accepted.id

    async def run(self, worker: Worker, label: str, **given: Any) -> Claim:
        """Accept a job into an empty queue, and claim it as its Celery message is popped."""
        job = await self.accept(label, **given)
        claim = await worker.take()
        assert claim.id == job, label
        return claim


async def finished(make: Maker, worker: Worker) -> None:
    """Make jobs that ended, in every way."""
    store, name = make.store, worker.name
    claim = await make.run(
        worker,
        "succeeded",
        body=chat(ODD),
        metadata={"run": "7", "ümlaut": ODD},
        tenant="alice",
        idempotency_key="succeeded-1",
        affinity="prefix-1",
        timeout_ms=60_000,
        max_attempts=5,
        expires_in_ms=CENTURY_MS,
        queue_timeout_ms=600_000,
        trace=TRACE.encode(),
    )
    await worker.succeed(
        claim, msgspec.json.encode({"choices": [{"message": {"content": ODD}}]}), usage=Usage(11, 7, 18)
    )

    claim = await make.run(worker, "streamed", stream=True, lane=Lane.REALTIME, sink="api-1")
    await store.watch(claim.id, "api-2")
    await worker.say(claim, Head(('{"delta":{"role":"assistant"}}',), '{"delta":{"content":', "}}"))
    await worker.say(claim, *(Text(f"{word} ") for word in ODD.split()))
    await worker.say(claim, Frames(('{"a":1}', '{"b":"\\n"}')))
    await worker.succeed(claim, b'{"whole":"text"}', tail=[Text("the end")], usage=Usage(3, 30, 33))

    await worker.succeed(await make.run(worker, "odd_result"), bytes(range(256)) + b"\xff\xfe" * 500)
    claim = await make.run(
        worker, "embeddings", endpoint=EMBEDDINGS, body=b'{"model":"puppet","input":["a"]}'
    )
    await worker.succeed(claim, b'{"data":[]}', usage=Usage(1, 0, 1))

    claim = await make.run(
        worker, "third_attempt", endpoint=COMPLETIONS, body=b'{"model":"puppet","prompt":"x"}'
    )
    for _ in range(2):
        await store.release(claim, name, "released")
        claim = await worker.take()
    await worker.succeed(claim)

    error = JobError(FailureCode.CONTEXT_LENGTH_EXCEEDED, f"too long: {ODD}", "messages")
    body = b'{"error":{"message":"too long"}}'
    await worker.fail(await make.run(worker, "failed", lane=Lane.HIGH), error, 400, body)
    await worker.fail(await make.run(worker, "failed_and_retried"), error, 400, body)

    claim = await make.run(worker, "failed_stream", stream=True)
    await worker.say(claim, Head((), "<", ">"), Text("half an ans"))
    broken = JobError(FailureCode.ENGINE_ERROR, "CUDA error")
    assert await store.finish(
        claim, name, JobState.FAILED, status=500, error=broken, partial=b'{"half":1}', usage=Usage(9, 4, 13)
    )
    claim = await make.run(worker, "poisoned")
    for _ in range(2):
        assert await store.release_from_dead_engine(claim, name, "the engine died")
        if (await store.get(claim.id)).state is JobState.QUEUED:
            claim = await worker.take()

    lost = Worker(store, "w-lost-1")
    await lost.live(capacity=4)
    await make.run(lost, "worker_lost", max_attempts=1)
    await store.bury(lost.name)
    assert (await store.reap()).failed == 1

    job = await make.accept("cancelled_in_queue", lane=Lane.LOW)
    assert await store.cancel(job) is JobState.CANCELLED
    claim = await make.run(worker, "cancelled_running")
    assert await store.cancel(claim.id) is JobState.RUNNING
    assert await store.finish(claim, name, JobState.CANCELLED, usage=Usage(5, 2, 7), partial=b'{"so far":1}')

    await make.accept("expired_in_queue", queue_timeout_ms=1)
    await make.accept("expired_at_deadline", expires_in_ms=1)
    await asyncio.sleep(0.01)
    assert (await store.reap()).expired == 2

    claim = await make.run(worker, "led", coalesce="sum-1", tenant="bob")
    await make.accept("followed", coalesce="sum-1", tenant="bob", lane=Lane.LOW)
    await worker.succeed(claim, b'{"shared":true}')


async def running(make: Maker, worker: Worker, buried: Worker) -> None:
    """Make jobs that run on workers whose leases are long over when the dump is read."""
    store = make.store
    claim = await make.run(
        worker, "running", affinity="prefix-1", idempotency_key="running-1", expires_in_ms=CENTURY_MS
    )
    claim = await make.run(
        worker, "running_stream", stream=True, lane=Lane.REALTIME, sink="api-1", timeout_ms=5000
    )
    await worker.say(claim, Head((), "<", ">"), *(Text(f"{n} ") for n in range(5)))
    claim = await make.run(worker, "running_to_cancel")
    assert await store.cancel(claim.id) is JobState.RUNNING
    await make.run(worker, "running_last_attempt", max_attempts=1)
    await make.run(worker, "running_past_deadline", expires_in_ms=SOON_MS)
    claim = await make.run(worker, "running_killed_an_engine", tenant="carol")
    assert await store.release_from_dead_engine(claim, worker.name, "the engine died") is JobState.QUEUED
    await worker.take()
    await make.run(worker, "running_leader", coalesce="sum-2", tenant="bob")
    await make.accept("follower_of_running", coalesce="sum-2", tenant="bob")
    await make.run(buried, "running_on_buried", tenant="dave")


async def delayed(make: Maker, worker: Worker, patient: JobStore) -> None:
    """Make jobs that wait for their next attempt: due in fifty years, and due by the time the dump is read."""
    error = JobError(FailureCode.ENGINE_UNAVAILABLE, "restarting")
    claim = await make.run(worker, "delayed_for_years", lane=Lane.HIGH, idempotency_key="delayed-1")
    assert await patient.retry_later(claim, worker.name, error, 0.0, status=503) is JobState.QUEUED
    claim = await make.run(worker, "delayed_and_due")
    assert await make.store.retry_later(claim, worker.name, error, 1.0, status=503) is JobState.QUEUED


async def queued(make: Maker) -> None:
    """Fill the pool ``default``: windows, backlogs, a tenant at its bound, an own list, a leader with followers."""
    store = make.store
    await make.accept("prefers_a_node", affinity="prefix-1", tenant="dave")
    for n, tenant in itertools.product(range(6), ("alice", "bob", "carol")):
        await make.accept(
            f"normal_{tenant}_{n}", tenant=tenant, body=chat(f"{tenant} {n} {ODD}"), metadata={"n": str(n)}
        )
    for n in range(2):
        await make.accept(f"realtime_{n}", lane=Lane.REALTIME, stream=True, sink="api-2")
        await make.accept(f"high_{n}", lane=Lane.HIGH, tenant="bob", stream=True)
    for n in range(5):
        await make.accept(f"low_{n}", lane=Lane.LOW, tenant=("alice", "erin")[n % 2])
    for n in range(6):
        await make.accept(f"bulk_{n}", lane=Lane.BULK, tenant="erin")
    await make.accept("to_the_top", tenant="bob")
    assert await store.move(make.labels.id("to_the_top"), top=True) is JobState.QUEUED
    await make.accept("moved_to_low", tenant="bob")
    assert await store.move(make.labels.id("moved_to_low"), Lane.LOW) is JobState.QUEUED
    await make.accept(
        "with_everything",
        tenant="alice",
        body=chat("x" * 2000),
        stream=True,
        metadata={f"key {n}": f"value {n}" for n in range(16)},
        idempotency_key="everything-1",
        affinity="prefix-2",
        coalesce="sum-3",
        expires_in_ms=CENTURY_MS,
        queue_timeout_ms=CENTURY_MS // 2,
        timeout_ms=30_000,
        max_attempts=7,
        sink="api-1",
        trace=TRACE.encode(),
        placement=Placement("h100", 80),
    )
    await make.accept("past_deadline", expires_in_ms=SOON_MS, tenant="bob")
    await make.accept("past_queue_timeout", queue_timeout_ms=SOON_MS, tenant="bob")
    await make.accept("leader", coalesce="sum-4", tenant="bob")
    for n in range(3):
        await make.accept(
            f"follower_{n}", coalesce="sum-4", tenant="bob", lane=Lane.LOW, idempotency_key=f"follower-{n}"
        )
    await make.accept("the_retry", retry_of=make.labels.id("failed_and_retried"))


async def second_pool(make: Maker) -> None:
    """Make a paused pool with jobs from before and after the pause."""
    worker = Worker(make.store, "w-second-1", "second")
    await worker.live("other", capacity=2)
    for n in range(3):
        await make.accept(f"second_{n}", pool="second", model="other", tenant="alice")
    assert await make.store.pause("second", paused=True)
    for n in range(3, 5):
        await make.accept(f"second_{n}", pool="second", model="other", tenant="bob")


class Batches:
    """Batches in every status, driven as the coordinator and the workers do."""

    token = "coordinator-1"

    def __init__(self, make: Maker, worker: Worker) -> None:
        self.make, self.worker = make, worker
        self.files = FileStore(make.store)
        self.steps = BatchSteps(make.store, CENTURY_S, CENTURY_S)
        self.chunks = ChunkStore(make.store)

    async def file(self, label: str, purpose: str = "batch", *, expires_ms: int | None = None) -> str:
        ident = make_id(FILE_PREFIX, now_ms(), os.urandom(10))
        file = File(ident, 123, f"{label} é.jsonl", purpose, f"objects/{label}", 0)
        await self.files.announce(ident, file.key)
        await self.files.create(
            file, expires_after_ms=expires_ms, idempotency_key=f"file-{label}", digest="d"
        )
        self.make.labels.files[label] = ident
        return ident

    async def create(self, label: str, *, chunks: int = 0, **given: Any) -> Batch:
        """Create a batch; with chunks its input has been read, and it is in progress."""
        ident = make_id(BATCH_PREFIX, now_ms(), os.urandom(10))
        source = await self.file(f"input of {label}")
        asked = {
            "id": ident,
            "input_file_id": source,
            "input_key": f"objects/input of {label}",
            "endpoint": CHAT,
            "window": "365d",
            "window_ms": CENTURY_MS,
            "metadata": {"batch": label},
            "idempotency_key": f"batch-{label}",
            "digest": "d",
            "trace": TRACE.encode(),
        }
        batch, earlier = await self.steps.create(BatchSpec(**asked | given))
        assert not earlier
        self.make.labels.batches[label] = ident
        if chunks:
            fields = {"model": "puppet", "plan": "plan-1", "total": 10 * chunks, "chunks": chunks}
            await self.step(batch, BatchStatus.IN_PROGRESS, fields)
        return await self.steps.get(ident)

    async def step(self, batch: Batch, to: BatchStatus | None, fields: dict[str, Any] | None = None) -> Batch:
        assert await self.steps.lease(batch.id, self.token, 60)
        assert await self.steps.step(batch, self.token, to, fields)
        return await self.steps.get(batch.id)

    async def submit(self, batch: Batch, n: int, *, job: bool = True) -> ChunkSpec:
        """Note a chunk as open and submit its job; without the job, as if the coordinator died in between."""
        assert await self.steps.lease(batch.id, self.token, 60)
        ident = job_id_of(batch, n, 1)
        assert await self.steps.open_chunk(batch.id, self.token, n, ident, 1)
        spec = ChunkSpec(batch.id, n, 1, batch.input_key, 100 * n, 100, 10, CHAT, batch.trace)
        if job:
            await self.make.accept(
                f"chunk {n} of {batch.metadata['batch']}",
                id=ident,
                endpoint=CHUNK_ENDPOINT,
                body=msgspec.json.encode(spec),
                lane=Lane(batch.lane),
                tenant=batch.tenant,
                metadata={"batch": batch.id, "chunk": str(n)},
                max_attempts=CHUNK_ATTEMPTS,
            )
        return spec

    async def take(self, batch: Batch, n: int) -> tuple[ChunkSpec, Claim]:
        """Let the worker run a chunk up to its seventh row."""
        spec = await self.submit(batch, n)
        claim = await self.worker.take()
        await self.chunks.take(spec, claim, "", "", Counts())
        await self.chunks.commit(spec, claim, spec.writer(1), 1, Counts(0, 4, 1, 40, 80))
        await self.chunks.commit(spec, claim, spec.writer(1), 2, Counts(0, 2, 0, 20, 40, 3, 5))
        return spec, claim

    async def done(self, batch: Batch, n: int) -> None:
        spec, claim = await self.take(batch, n)
        await self.chunks.commit(spec, claim, spec.writer(1), 3, Counts(0, 3, 0, 30, 60))
        assert await self.chunks.end(spec, claim, done=True)
        await self.worker.succeed(claim, b"")

    async def made(self) -> None:
        """Make the batches that leave no job in the queue."""
        await self.create("validating", tenant="alice", output_after_ms=CENTURY_MS)
        batch = await self.create("refused")
        errors = encode_errors([RowError(RowErrorCode.INVALID_JSON_LINE, "not JSON", line=3)])
        await self.step(batch, BatchStatus.FAILED, {"errors": errors})
        for label, last in (("completed", BatchStatus.COMPLETED), ("expired", BatchStatus.EXPIRED)):
            batch = await self.create(label, chunks=1)
            await self.done(batch, 0)
            batch = await self.steps.get(batch.id)
            output = await self.file(f"output of {label}", "batch_output")
            if last is BatchStatus.COMPLETED:
                batch = await self.step(batch, BatchStatus.FINALIZING)
            await self.step(batch, last, {"output_file_id": output})
        await self.create("retry", retry_of=self.make.labels.batches["completed"])
        batch = await self.create("finalizing", chunks=1)
        await self.done(batch, 0)
        await self.step(await self.steps.get(batch.id), BatchStatus.FINALIZING)
        batch = await self.create("cancelled", chunks=2)
        await self.steps.cancel(batch.id)
        await self.step(await self.steps.get(batch.id), BatchStatus.CANCELLED)
        batch = await self.create("paused", chunks=3, priority=Lane.LOW)
        await self.done(batch, 0)
        await self.steps.pause(batch.id, paused=True)
        await self.steps.hold(batch.id, "the storage is full")
        await self.file("of a user", "user_data", expires_ms=CENTURY_MS)
        await self.files.announce(make_id(FILE_PREFIX, now_ms(), os.urandom(10)), "objects/announced")
        await self.files.discard(["objects/rubbish"])

    async def under_way(self) -> list[Batch]:
        """Make the batches with chunks on a worker; return them, for :meth:`submitted`."""
        first = await self.create("in_progress", chunks=5, tenant="erin")
        await self.done(first, 0)
        await self.take(first, 1)
        second = await self.create("cancelling", chunks=3)
        await self.take(second, 0)
        return [first, second]

    async def submitted(self, first: Batch, second: Batch) -> None:
        """Queue further chunks."""
        await self.submit(first, 2)
        await self.submit(first, 3, job=False)
        await self.submit(second, 1)
        await self.steps.cancel(second.id)


def settings(url: str, **more: Any) -> BrokerSettings:
    tenants = {"alice": TenantSettings(weight=3), "carol": TenantSettings(weight=0.5, max_active=2)}
    common = {"max_active": 26, "tenant_max_active": 20, "ageing_s": 900, "tenants": tenants}
    return BrokerSettings(redis_url=url, retention_s=CENTURY_S, lease_ttl_s=3, **common | more)


async def fill(url: str, version: str) -> None:
    """Fill the server, and write the manifest."""
    asked = settings(url)
    store = JobStore(connect(url), asked)
    # Not before the reaper: it would move them as due. A century's half, before jitter's half.
    patient = JobStore(store.client, settings(url, retry_base_s=CENTURY_S, retry_max_s=CENTURY_S))
    brief = JobStore(store.client, settings(url, retry_base_s=SOON_MS / 1000, retry_max_s=SOON_MS / 1000))
    make = Maker(brief)
    keys = Keys(asked.namespace)
    worker, buried = Worker(brief, "w-old-1"), Worker(brief, "w-old-2")
    with Redis.from_url(url) as client:
        publish_envelope(make_celery(url, asked.namespace), client, keys)
        await store.set_limits()
        await worker.live(aliases=["marionette"], capacity=16, bulk_capacity=12, node="w-old-1")
        await buried.live(capacity=16, bulk_capacity=12)
        batches = Batches(make, worker)
        await finished(make, worker)
        await batches.made()
        opened = await batches.under_way()
        await running(make, worker, buried)
        ending = [await make.run(worker, f"ended_last_{n}", metadata={"n": str(n)}) for n in range(2)]
        await delayed(make, worker, patient)
        await queued(make)
        await second_pool(make)
        # An api that starts now changes `origin` and `reply_to`: messages of two envelopes are in the lists from here on.
        os.getpid = lambda: 4321
        publish_envelope(make_celery(url, asked.namespace), client, keys)
        await batches.submitted(*opened)
        for n in range(2):
            await make.accept(f"after_the_second_envelope_{n}", lane=Lane.HIGH, tenant="dave")
        for claim in ending:  # in their places others are dispatched, with the new message
            await worker.succeed(claim)
        # A worker died between its pop and its claim.
        make.labels.popped = await Worker(brief, "w-old-3").pop()
        await store.bury(buried.name)
        await write_manifest(
            HERE / "manifest.json", brief, batches.steps, batches.files, make.labels, ENDS, version
        )
    await store.aclose()


@contextmanager
def server(binary: str, folder: Path) -> Iterator[str]:
    """Run the server; its data is in ``dump.rdb`` afterwards."""
    sock = folder / "redis.sock"
    options = {"port": "0", "unixsocket": str(sock), "dir": str(folder), "save": "", "appendonly": "no"}
    argv = [binary, *itertools.chain.from_iterable((f"--{name}", value) for name, value in options.items())]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        url = f"unix://{sock}?db=0"
        while not sock.exists():
            assert process.poll() is None, "the server did not start"
            time.sleep(0.05)
        try:
            yield url
            with closing(Redis.from_url(url)) as client:
                client.save()
        finally:
            process.terminate()


def main(binary: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server(binary, folder) as url:
            with closing(Redis.from_url(url, decode_responses=True)) as client:
                version = client.info("server")["redis_version"]
            asyncio.run(asyncio.wait_for(fill(url, version), 60))
        shutil.copyfile(folder / "dump.rdb", HERE / "dump.rdb")


if __name__ == "__main__":
    main(*sys.argv[1:])
