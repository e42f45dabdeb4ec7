"""What can go wrong between us and Redis."""

from __future__ import annotations


class BrokerError(Exception):
    """Base of the broker's errors."""


class StoreUnavailableError(BrokerError):
    """Redis could not be reached or could not write. Nothing can be said of what was asked for."""


class QueueFullError(BrokerError):
    """The lane already holds ``queue_max`` jobs, or the tenant its own bound.

    Args:
        depth: jobs that wait there.
        retry_ms: milliseconds until an eighth of them has started, by what was measured; 0 where nothing was.
        tenant: whose bound it is; None for the lane's.
    """

    def __init__(self, depth: int, retry_ms: int = 0, tenant: str | None = None) -> None:
        super().__init__(f"the queue is full: {depth} jobs are waiting")
        self.depth = depth
        self.retry_ms = retry_ms
        self.tenant = tenant


class BusyError(BrokerError):
    """Reject mode: every slot is taken, and nothing is let into the queue.

    Args:
        active: jobs running or about to.
        retry_ms: milliseconds until the next of them ends, by what was measured; 0 where nothing was.
    """

    def __init__(self, active: int, retry_ms: int = 0) -> None:
        super().__init__(f"the GPU is busy: {active} jobs are running")
        self.active = active
        self.retry_ms = retry_ms


class InfeasibleError(BrokerError):
    """The job would not be done, or started, in time.

    Args:
        estimate_ms: milliseconds that it would take.
        limit: the limit that it would miss: ``expires_in_s`` or ``queue_timeout_s``.
    """

    def __init__(self, estimate_ms: int, limit: str = "expires_in_s") -> None:
        super().__init__(f"it would take about {estimate_ms / 1000:.1f} s")
        self.estimate_ms = estimate_ms
        self.limit = limit


class IdempotencyConflictError(BrokerError):
    """The idempotency key was used before, with another submission."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the idempotency key was used for another request, which made {job_id}")
        self.job_id = job_id


class UnfinishedError(BrokerError):
    """Only a finished job can be repeated."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} is not finished; cancel it first, or wait for its end")
        self.job_id = job_id


class NewerRecordError(BrokerError):
    """A record was written by a newer version than this one can read."""


class FileInUseError(BrokerError):
    """A batch that has not ended reads the file."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"{file_id} is the input of a batch that has not ended; cancel that first")
        self.file_id = file_id


class NoInputFileError(BrokerError):
    """There is no file of this id, or it is no batch's input."""

    def __init__(self, file_id: str, purpose: str | None) -> None:
        told = "there is no file" if purpose is None else f"its purpose is {purpose!r}, not 'batch':"
        super().__init__(f"{told} {file_id!r}")
        self.purpose = purpose


class BatchUnfinishedError(BrokerError):
    """Only an ended batch's rows can be repeated or checked."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"{batch_id} has not ended")
        self.batch_id = batch_id


class FileGoneError(BrokerError):
    """A file that the call needs was deleted or has expired."""


class NoCoordinatorError(BrokerError):
    """No coordinator is alive, so nobody would perform the task. Nothing was written."""


class RegistrationRefusedError(Exception):
    """A worker may not serve what it serves, because of another that is alive. The front never meets this.

    Attributes:
        worker: the other's incarnation.
        lease_end_ms: when its lease ends, unless it beats again.
    """

    def __init__(self, message: str, worker: str, lease_end_ms: int) -> None:
        super().__init__(message)
        self.worker = worker
        self.lease_end_ms = lease_end_ms
