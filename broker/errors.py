"""What can go wrong between us and Redis."""

from __future__ import annotations


class BrokerError(Exception):
    """Base of the broker's errors."""


class StoreUnavailableError(BrokerError):
    """Redis could not be reached or could not write. Nothing can be said of what was asked for."""


class QueueFullError(BrokerError):
    """The lane already holds ``queue_max`` jobs."""

    def __init__(self, depth: int) -> None:
        super().__init__(f"the queue is full: {depth} jobs are waiting")
        self.depth = depth


class IdempotencyConflictError(BrokerError):
    """The idempotency key was used before, with another submission."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the idempotency key was used for another request, which is job {job_id}")
        self.job_id = job_id


class UnfinishedError(BrokerError):
    """Only a finished job can be repeated."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} is not finished; cancel it first, or wait for its end")
        self.job_id = job_id


class NewerRecordError(BrokerError):
    """A record was written by a newer version than this one can read."""
