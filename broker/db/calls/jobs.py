"""The functions by which jobs are accepted, looked after and deleted: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from broker.db.calls.base import TOGETHER, WRITES, Answer, Call
from jobs.tenants import Rate


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
