"""The functions of attempts, for the workers: a claim, its stream, and its ends. See :mod:`broker.db.calls.base`."""

from __future__ import annotations

from broker.db.calls.base import TOGETHER, WRITES, Answer, Call


class ClaimedJob(Answer):
    """A job that the worker now runs. Its facts and its request are the next two blobs.

    Attributes:
        attempt: its number, from 1.
        kills: attempts of this job under which the engine died.
        releases: attempts of this job that a worker gave back at no cost.
        waited_ms: time in its queue.
        age_ms: time since its acceptance.
        left_ms: time until its deadline; None: it has none.
        leads: identical jobs may have joined it, which end with it.
    """

    id: str
    attempt: int
    lane: str
    tenant: str
    waited_ms: int
    age_ms: int
    kills: int = 0
    releases: int = 0
    stream: bool = False
    left_ms: int | None = None
    leads: bool = False


class Claimed(Answer):
    """The jobs that a worker got.

    Attributes:
        jobs: the order is that in which they were next.
        fenced: the worker's lease has ended, so it gets nothing.
        ask_again_ms: a job was left to another worker for so long; None: wait for the bell.
        left: the pool's queue has more, for this worker or for others.
    """

    jobs: tuple[ClaimedJob, ...] = ()
    fenced: bool = False
    ask_again_ms: int | None = None
    left: bool = False


class Claim(Call[Claimed]):
    """Take the next jobs of a pool, for a worker whose lease is alive.

    Attributes:
        room: most jobs; of these, ``bulk_room``: most of the lane ``bulk``, ``suspects``: most under which an engine died.
        chunk_lanes: from how many lanes, the highest first, it may take a chunk of a batch.
        version: newest version of a record that the worker can read.
        token: drawn for this call. ``again``: the answer to the call with this token was lost, give it once more.
    """

    worker: str
    pool: str
    room: int
    bulk_room: int
    suspects: int
    chunk_lanes: int
    version: int
    retention_ms: int
    token: str
    again: bool | None = None


class Append(Call[list[str]]):
    """Log and publish chunks of running jobs: the blobs, one for each entry. Answers with the ids that it refused.

    Attributes:
        entries: id, attempt and sequence number of each, one after the other: a list for each takes Lua twice the time.
    """

    flags = WRITES
    entries: list[str | int]


class Finish(Call[bool]):
    """End an attempt and its job. Blobs: result and partial result (each may be empty), and the last chunks of its stream.

    False: the job is not running with this attempt; nothing was written.

    Attributes:
        event: what happened, one of :class:`jobs.states.JobEvent`.
        tokens: prompt and completion tokens that it used; None: not known.
        completion: completion tokens of one of its answers; None: not known.
        tail: sequence numbers of the chunks.
        device_us: microseconds of device that the attempt took; None: not known.
        objects: keys of its results that are in the storage.
        incomplete: its answer is a response that reached a limit.
        leads: see :class:`ClaimedJob`; a hundred may end with it, so it shares no command.
    """

    flags = WRITES
    together = TOGETHER
    id: str
    attempt: int
    worker: str
    event: str
    model: str
    retention_ms: int
    tail: list[int]
    status: int | None = None
    usage: str | None = None
    tokens: int | None = None
    completion: int | None = None
    error: str | None = None
    device_us: int | None = None
    objects: list[str] | None = None
    incomplete: bool | None = None
    leads: bool | None = None

    def alone(self) -> bool:
        """See :class:`Call`."""
        return bool(self.leads)


class Release(Call[str | None]):
    """Give a running job back to its queue. Blob: the result (or empty), if it fails.

    Answers with its state now, or None: it is not running with this attempt.

    Attributes:
        kind: ``back``: at no cost (a drain); ``retry``: the attempt failed and may succeed after ``delay_ms``; ``kill``: the
            engine died under it.
        device_us, objects: see :class:`Finish`. The objects count if the job fails.
        poison: of a kill: the digest and the members of the request's kind (:mod:`jobs.poison`), which is remembered if the
            job counts as the cause.
        poison_ms, most_poison: how long a kind is remembered, and how many are.
    """

    id: str
    attempt: int
    worker: str
    kind: str
    reason: str
    max_attempts: int
    max_kills: int
    retention_ms: int
    delay_ms: int
    code: str | None = None
    status: int | None = None
    device_us: int | None = None
    objects: list[str] | None = None
    poison: tuple[str, tuple[str, ...]] | None = None
    poison_ms: int | None = None
    most_poison: int | None = None


class Disown(Call[bool]):
    """Give back a job that counts as a worker's, and that it does not know. False: it is not running there."""

    worker: str
    id: str
    retention_ms: int
