"""The functions of batches and their chunks: see :mod:`broker.db.calls.base`.

A coordinator drives a batch under a lease, whose ``token`` it shows. A worker runs a chunk as a job, and shows which.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import WRITES, Answer, Call
from jobs.batch_model import Counts


class BatchCreated(Answer):
    """What became of a new batch.

    Attributes:
        kind: ``created``; ``same``: its key was used before, or the batch was retried before; or why it is refused:
            ``conflict`` (the key belongs to another), ``no_file``, ``over_quota``, ``gone`` or ``unfinished`` (the batch to
            retry).
        id: the batch's, or that of the other.
        purpose: of the input file; None: there is no such file.
        most: the batches that its tenant may have open, where it has as many.
    """

    kind: str
    id: str = ""
    purpose: str | None = None
    most: int = 0


class BatchCreate(Call[BatchCreated]):
    """Create a batch's record over a file, or find it by its idempotency key or as the retry of ``retry_of``.

    Attributes:
        idem: idempotency key, ``digest``: of the request.
        owner: the tenant that asks: another's file or batch is not there for it. None: an admin, or a process of ours.
        fields: further fields of the record.
    """

    flags = WRITES
    id: str
    tenant: str
    input_file_id: str
    window_ms: int
    fields: Mapping[str, str | int]
    digest: str
    idem_ttl_ms: int
    idem: str | None = None
    retry_of: str | None = None
    owner: str | None = None
    by: str | None = None


class BatchCancel(Call[str | None]):
    """Cancel a batch: it ends when its running rows have been stopped. Answers with its status; None: there is none.

    ``owner``: the tenant that asks: None is answered for another's. None: an admin.
    """

    batch: str
    owner: str | None = None
    by: str | None = None


class BatchWatch(Call[bool]):
    """Tell the api process ``sink`` of each change of a batch from now on. False: there is no such batch.

    ``owner``: as of :class:`BatchCancel`.
    """

    batch: str
    sink: str
    owner: str | None = None


class BatchPause(Call[str | None]):
    """Pause a batch (its running rows end, no more begin), or resume it. Answers with its status; None: there is none.

    ``owner``: as of :class:`BatchCancel`.
    """

    batch: str
    paused: bool
    owner: str | None = None
    by: str | None = None


class BatchHold(Call[bool]):
    """Note why an unfinished batch cannot proceed; None: it can. False: there is no such batch."""

    batch: str
    reason: str | None = None


class BatchLease(Call[bool]):
    """Take, prolong or (0 milliseconds) end the lease on a batch. False: another has it."""

    batch: str
    token: str
    ttl_ms: int


class BatchStep(Call[bool]):
    """Write fields of a batch, and move it to another status. False: the lease or the status is another.

    Attributes:
        was: its status, ``to``: the new one, or the same.
        ends: ``to`` is terminal.
        fields: '' removes a field.
    """

    batch: str
    token: str
    was: str
    to: str
    ends: bool
    fields: Mapping[str, str | int | float]
    retention_ms: int
    parts_retention_ms: int


class ChunkOpen(Call[bool]):
    """Note that a chunk is about to be submitted as a job. Rows that an earlier job of it committed stay.

    False: the lease is another's, the batch is not in progress, the chunk is done, or the tenant's quota of the day is used
    up, which the batch's record then says.
    """

    flags = WRITES
    batch: str
    token: str
    chunk: int
    job: str
    generation: int


class ChunkTake(Call[str | None]):
    """Begin a chunk: count the rows that earlier attempts left in storage. What they write from now on is in no ledger.

    Answers ``run``, ``paused``, ``done`` or ``gone`` (the chunk is not this attempt's); None: the ledger is not ``seen``.

    Attributes:
        ledger: of the parts that storage has.
        new: the rows among them that were not counted.
    """

    flags = WRITES
    batch: str
    chunk: int
    job: str
    attempt: int
    ledger: str
    seen: str
    new: Counts


class ChunkCommit(Call[str]):
    """Count the rows of parts in storage, once. Answers ``run``, ``paused`` or ``gone``.

    Attributes:
        writer: the number under which this attempt's parts are kept, ``last``: that of the latest part.
        used: as ``new``, without the tokens of rows that shared the run of an identical one.
        device_us: microseconds of device that the rows took.
    """

    flags = WRITES
    batch: str
    chunk: int
    job: str
    attempt: int
    writer: int
    last: int
    new: Counts
    used: Counts | None = None
    device_us: int | None = None


class ChunkEnd(Call[bool]):
    """End a chunk's job. False: this attempt does not own the chunk.

    Attributes:
        done: every row is committed; else a later job runs the rest.
    """

    batch: str
    chunk: int
    job: str
    attempt: int
    done: bool


class ChunkSettle(Call[bool]):
    """End a chunk whose remaining rows will never run; its last part holds them. False: the lease is another's."""

    batch: str
    token: str
    chunk: int
    ledger: str
    new: Counts
