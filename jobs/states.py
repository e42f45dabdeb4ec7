"""A job's life as one table: every legal (state, event) pair and the state it leads to.

:data:`TRANSITIONS` is what executes: :mod:`broker.db.library` renders it for the Lua functions, which carry the transitions
out atomically. A pair that is not in the table is illegal. The diagram in ``docs/architecture.md`` is generated from it.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """The state of a job. The last four are terminal: a job in one of them never changes again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether the job is over."""
        return self in TERMINAL


class JobEvent(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RELEASE = "release"
    LOSE = "lose"
    RETRY = "retry"
    GIVE_UP = "give_up"
    SHARE = "share"
    SHARE_FAILURE = "share_failure"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.QUEUED, JobEvent.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobEvent.EXPIRE): JobState.EXPIRED,
    (JobState.QUEUED, JobEvent.SHARE): JobState.SUCCEEDED,
    (JobState.QUEUED, JobEvent.SHARE_FAILURE): JobState.FAILED,
    (JobState.RUNNING, JobEvent.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.EXPIRE): JobState.EXPIRED,
    (JobState.RUNNING, JobEvent.RELEASE): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.LOSE): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.RETRY): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.GIVE_UP): JobState.FAILED,
}


def mermaid() -> str:
    """Render the table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> queued: accept"]
    lines += [f"    {state} --> {target}: {event}" for (state, event), target in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in JobState if state.terminal]
    return "\n".join(lines)
