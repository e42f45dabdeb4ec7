"""The functions of jobs: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from typing import Final

from broker.db.calls.base import WRITES, Answer, Call
from jobs.tenants import Rate

TOGETHER: Final = 16
"""Jobs that one command accepts or ends. It holds the server up by less than a millisecond."""


class Accepted(Answer):
    """What became of a submission.

    Attributes:
        kind: ``accepted``, ``same`` (it was used before), or why it is refused: ``conflict``, ``full``, ``tenant_full``,
            ``busy``, ``unfinished``, ``gone``, ``late``, ``over_quota``, ``no_conversation``, ``conversation_busy``.
        id: the job's, or that of the other job.
        at: when the job was accepted; ``late``, ``over_quota``: the server's time.
        count: jobs that wait there (``full``, ``tenant_full``), or run (``busy``).
        requests: the limit of the tenant's minute, what is left of it, and milliseconds until all of it is left; None: it
            has no such quota. ``tokens``: the same.
        over: the quota that refuses it: ``requests`` or ``tokens`` of a minute, or ``day``. ``most``: its limit, ``asked``:
            the tokens that the job would reserve, ``wait``: milliseconds until it fits; None: it never does, or not today.
    """

    kind: str
    id: str = ""
    at: int = 0
    count: int = 0
    requests: Rate | None = None
    tokens: Rate | None = None
    over: str = ""
    most: int = 0
    asked: int = 0
    wait: int | None = None


class Accept(Call[Accepted]):
    """Create a job's record and queue it: all or nothing. Blobs: its facts (:mod:`broker.records`), its request.

    Attributes:
        tokens: of its prompt, counted or estimated.
        most_tokens: the most that it may generate; None: it does not say.
        rows: how many answers it generates.
        idem: idempotency key, ``digest``: of the submission, ``idem_tenant``: whose key it is; None: the job's tenant's.
        owner: the tenant that asks; None: an admin, or a process of ours.
        keep_ms: how long its record is kept after its end; None: ``retention_ms``. Such a job shares no run.
        once: drop its bodies when its owner has its result.
        not_after: refuse it as ``late`` after this moment.
        tenant_queue_max: its tenant's jobs that may wait in the pool, if the tenant's record does not say.
        reject: refuse it as ``busy`` if no slot is free.
        key: id of the API key that its use is counted to.
        conversation: the one that it continues; refused as ``no_conversation`` if it is not the tenant's, as
            ``conversation_busy`` while another job of it has not ended, or if it is not as it was read.
        conversation_turn: as it was read. ``conversation_parts``: the same.
        webhook: URL that is told of its end. ``live``: no webhook is told of it, and its key is free again
            if the key's job did not start in time.
        listed: note it among its tenant's stored chat completions.
        objects: keys of its bodies that are in the storage.
    """

    flags = WRITES
    together = TOGETHER
    id: str
    pool: str
    lane: str
    tenant: str
    model: str
    tokens: int
    rows: int
    queue_max: int
    retention_ms: int
    most_tokens: int | None = None
    stream: bool | None = None
    sink: str | None = None
    batch: str | None = None
    affinity: str | None = None
    coalesce: str | None = None
    idem: str | None = None
    digest: str | None = None
    idem_tenant: str | None = None
    owner: str | None = None
    retry_of: str | None = None
    expires_in_ms: int | None = None
    queue_timeout_ms: int | None = None
    tenant_queue_max: int | None = None
    keep_ms: int | None = None
    once: bool | None = None
    reject: bool | None = None
    not_after: int | None = None
    by: str | None = None
    key: str | None = None
    conversation: str | None = None
    conversation_turn: int | None = None
    conversation_parts: int | None = None
    webhook: str | None = None
    listed: bool | None = None
    live: bool | None = None
    objects: list[str] | None = None


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
    """

    jobs: tuple[ClaimedJob, ...] = ()
    fenced: bool = False
    ask_again_ms: int | None = None


class Claim(Call[Claimed]):
    """Take the next jobs of a pool, for a worker whose lease is alive.

    Attributes:
        room: most jobs; of these, ``bulk_room``: most of the lane ``bulk``, ``suspects``: most under which an engine died.
        version: newest version of a record that the worker can read.
        token: drawn for this call. ``again``: the answer to the call with this token was lost, give it once more.
    """

    worker: str
    pool: str
    room: int
    bulk_room: int
    suspects: int
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


class Cancel(Call[str | None]):
    """Cancel a job: a queued one now, a running one when its worker, which is told, has stopped it. Answers its state.

    Attributes:
        owner: the tenant that asks: None is answered for another's. None: an admin, or a process of ours.
    """

    id: str
    retention_ms: int
    owner: str | None = None
    by: str | None = None


class DropBodies(Call[bool]):
    """Drop request, result and log of an ended job that is kept for one fetch. False: it is not such a job, or not theirs.

    Attributes:
        owner: the tenant that has fetched its result; never None, as an administrator's look is no fetch.
    """

    id: str
    owner: str


class Forget(Call[str | None]):
    """Delete an ended job: its record, its log and its entries in the indexes.

    Answers with its state: one that has not ended stays. None: no such job; a chunk of a batch is none.
    ``owner``: as of :class:`Cancel`.
    """

    id: str
    owner: str | None = None
    by: str | None = None


class Relabel(Call[bool]):
    """Replace a job's metadata. False: there is no such job. ``owner``: as of :class:`Cancel`.

    Attributes:
        metadata: JSON.
    """

    flags = WRITES
    id: str
    metadata: str
    owner: str | None = None
    by: str | None = None


class Watch(Call[str | None]):
    """Send a job's events to an api process, too. Answers with its state. ``owner``: as of :class:`Cancel`."""

    id: str
    sink: str
    owner: str | None = None


class Move(Call[str | None]):
    """Change the lane of a queued job, or (``top``) make it the next of its lane. Answers with its state.

    ``owner``: as of :class:`Cancel`.
    """

    id: str
    lane: str | None = None
    top: bool | None = None
    owner: str | None = None
    by: str | None = None


class Adopt(Call[bool]):
    """Put a job into this version's queue and indexes, as its record says (:mod:`broker.migration`)."""

    id: str


class Reaped(Answer):
    """What a round of the reaper did; see :class:`jobs.facts.Reaped`.

    Attributes:
        ran: whether it did anything; else another process's round was just before.
        more: work is left over, so call again at once.
    """

    ran: bool = False
    more: bool = False
    requeued: int = 0
    failed: int = 0
    expired: int = 0
    retired: int = 0
    due: int = 0
    aged: int = 0
    requeued_ids: tuple[str, ...] = ()
    failed_ids: tuple[str, ...] = ()


class Reap(Call[Reaped]):
    """One round of the reaper. Any number of processes may run it.

    Attributes:
        lease_ttl_ms: of a worker that did not say.
        interval_ms: of rounds; nothing is done if another round was less than half of it ago.
        usual_gap_ms: between rounds on a busy machine.
        most: steps of each kind in this call.
        ageing_ms: until a job moves up one lane; 0: never. Used until an api has stored its own.
    """

    lease_ttl_ms: int
    interval_ms: int
    usual_gap_ms: int
    most: int
    retention_ms: int
    ageing_ms: int
