"""The functions of the coordinators and of the tasks that they are asked for: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from broker.db.calls.base import WRITES, Answer, Call


class TaskAsk(Call[int | None]):
    """Ask for a task, or join the callers of one without an answer.

    Answers with its run; None: no coordinator is alive; 0: there is no such batch for ``owner``.

    Attributes:
        owner: the tenant that asks; None: an admin.
        sink: the api process to which the answer is published.
        args: JSON.
    """

    flags = WRITES
    kind: str
    batch: str
    sink: str
    args: str
    ttl_ms: int
    owner: str | None = None


class TakenTask(Answer):
    """A task, see :class:`broker.tasks.Task`; ``args`` is JSON."""

    run: int
    attempt: int
    deaths: int
    args: str


class TaskTake(Call[TakenTask | None]):
    """Take a task that no coordinator has, or the lease on which ran out. None: it is done, or another has it.

    Attributes:
        taking: drawn for this call, so that its repetition is recognised.
    """

    kind: str
    batch: str
    taking: str
    lease_ms: int
    coordinator: str


class TaskKeep(Call[bool]):
    """Prolong the lease on a task; 0 milliseconds give it back. False: it is no longer this attempt's."""

    kind: str
    batch: str
    run: int
    attempt: int
    lease_ms: int


class TaskEnd(Call[bool]):
    """Write and publish a task's answer. False: it is no longer this attempt's, or has an answer."""

    kind: str
    batch: str
    run: int
    attempt: int
    answer: str
    ttl_ms: int


class CoordinatorBeat(Call[bool]):
    """Prolong a coordinator's lease; 0 milliseconds end it. ``info``: what it says of itself."""

    info: str
    ttl_ms: int


class CoordinatorBury(Call[int]):
    """End the leases on batches and tasks of a coordinator that has ended, so that others take them up at once.

    Answers how many it had.
    """

    coordinator: str
