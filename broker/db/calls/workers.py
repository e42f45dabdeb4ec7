"""The functions of workers: their registration and leases."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import Answer, Call


class Registered(Answer):
    """Whether a worker may serve its models.

    Attributes:
        kind: ``ok``; ``pool``: a live worker of its pool serves something else; ``name``: a name means another model there;
            ``declared``: the same in the declared pool ``pool``, which may have no worker.
        worker: that other worker, with the end of its lease, its description, and what it serves.
        name: the name, and the ``model`` that it means there. With ``ok``: its own pool declares the name too, so it may.
    """

    kind: str
    worker: str = ""
    lease_end: int = 0
    info: str = ""
    serves: str = ""
    name: str = ""
    model: str = ""
    pool: str = ""


class Register(Call[Registered]):
    """Register a worker and take out its lease.

    Attributes:
        serves: what must be equal in a pool, as text.
        info: its description, JSON.
        names: name or alias -> model.
        facts: model -> its facts, JSON.
        version_of: the pool whose version this pool is; it gets no jobs before it is said to serve.
    """

    worker: str
    ttl_ms: int
    pool: str
    serves: str
    info: str
    names: Mapping[str, str]
    facts: Mapping[str, str]
    version_of: str | None = None


class Beat(Answer):
    """The answer to a heartbeat.

    Attributes:
        lost: the lease is lost: abort everything and end.
        orders: jobs to abort, with the reason; ``drain`` with seconds or nothing.
        jobs: those that Redis counts as this worker's, if they are more than it says.
        adapters: the version of its pool's adapters; None: it never had any.
    """

    lost: bool = False
    orders: tuple[tuple[str, str], ...] = ()
    jobs: list[str] | None = None
    adapters: int | None = None


class Heartbeat(Call[Beat]):
    """Prolong a worker's lease; ``first``: take it out.

    Attributes:
        info: its description, JSON; None: as before, and so are its slots.
        slots: jobs that it takes at once now; ``bulk_slots``: of the lane ``bulk``.
        asleep: both once it is awake, and the milliseconds until then, separated by spaces; None: it is awake, or ends.
        running: jobs that it knows of.
        run_ms: mean run of the ``runs`` jobs that ended since the last heartbeat; ``bulk_run_ms``, ``bulk_runs``: of bulk.
    """

    worker: str
    ttl_ms: int
    first: bool | None = None
    info: str | None = None
    pool: str | None = None
    slots: int | None = None
    bulk_slots: int | None = None
    asleep: str | None = None
    running: int | None = None
    run_ms: float | None = None
    runs: int | None = None
    bulk_run_ms: float | None = None
    bulk_runs: int | None = None


class Bury(Call[bool]):
    """End the lease of a worker that has ended."""

    worker: str


class Drain(Call[bool]):
    """Tell a worker to drain. False: its lease is not alive."""

    worker: str
    timeout_s: float | None = None
    by: str | None = None


class WorkerOrder(Call[bool]):
    """Tell a worker something. False: its lease is not alive.

    Attributes:
        order: what; see :mod:`broker.registry`.
        word: the rest of it.
    """

    worker: str
    order: str
    word: str
