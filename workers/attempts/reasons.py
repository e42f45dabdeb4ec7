"""Why a running attempt is stopped: a closed set of reasons, and one table of their meaning."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobs.states import JobState


class StopReason(StrEnum):
    """Why an attempt is stopped before its engine has finished."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    TIMEOUT = "timeout"
    RELEASED = "released"
    ENGINE_DEAD = "engine_dead"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class StopRule:
    """The meaning of a reason.

    Attributes:
        ends_job: the state that the job ends in; None: the job goes on elsewhere.
        keeps_partial: the response as far as it went is kept.
        cancels_task: the engine's run is cancelled at once; otherwise the engine is first asked for what it has.
    """

    ends_job: JobState | None
    keeps_partial: bool
    cancels_task: bool


STOP_RULES: dict[StopReason, StopRule] = {
    StopReason.CANCELLED: StopRule(JobState.CANCELLED, keeps_partial=True, cancels_task=False),
    StopReason.EXPIRED: StopRule(JobState.EXPIRED, keeps_partial=True, cancels_task=False),
    StopReason.TIMEOUT: StopRule(JobState.FAILED, keeps_partial=True, cancels_task=False),
    StopReason.RELEASED: StopRule(None, keeps_partial=False, cancels_task=True),
    StopReason.ENGINE_DEAD: StopRule(None, keeps_partial=False, cancels_task=True),
    StopReason.FENCED: StopRule(None, keeps_partial=False, cancels_task=True),
}
