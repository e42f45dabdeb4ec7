"""The errors of the broker."""

from __future__ import annotations

from jobs.tenants import Rates


class BrokerError(Exception):
    """Base of the broker's errors."""


class StoreError(BrokerError):
    """A command of Redis failed. It may or may not have been carried out."""


class StoreUnavailableError(StoreError):
    """Redis could not be reached or could not write, which time mends: the call may be repeated."""


class StoreFaultError(StoreError):
    """Redis refused a command because of the command or the data, as a defect of Penstock does. Do not repeat the call.

    It was logged and counted where it was raised.

    Args:
        command: the function, or the method that sent the command.
        why: Redis's words.
    """

    def __init__(self, command: str, why: str) -> None:
        super().__init__(f"Redis refuses {command}: {why}")
        self.command = command


class QueueFullError(BrokerError):
    """The lane already holds ``queue_max`` jobs, or the tenant its own bound.

    Args:
        depth: jobs that wait there.
        retry_ms: estimated milliseconds until an eighth of them has started; 0: nothing was measured.
        tenant: the tenant whose bound it is; None: the lane's bound.
    """

    def __init__(self, depth: int, retry_ms: int = 0, tenant: str | None = None) -> None:
        super().__init__(f"the queue is full: {depth} jobs are waiting")
        self.depth = depth
        self.retry_ms = retry_ms
        self.tenant = tenant


class OverQuotaError(BrokerError):
    """The tenant has used up a quota.

    Args:
        over: the quota: ``requests`` or ``tokens`` (of a minute), ``day`` (tokens), ``storage`` (bytes) or ``batches``.
        most: its limit.
        asked: what the refused call would use of it.
        wait_ms: milliseconds until it would fit; None: it never does, or not before something else ends.
        rates: what is left of the tenant's minute.
    """

    def __init__(
        self, over: str, most: int, asked: int, wait_ms: int | None = None, rates: Rates | None = None
    ) -> None:
        super().__init__(f"the tenant's quota ({over}, {most}) does not allow {asked} more")
        self.over = over
        self.most = most
        self.asked = asked
        self.wait_ms = wait_ms
        self.rates = rates


class BusyError(BrokerError):
    """Reject mode: every slot is taken, so the job is not queued.

    Args:
        active: jobs running or about to.
        retry_ms: estimated milliseconds until the next of them ends; 0: nothing was measured.
    """

    def __init__(self, active: int, retry_ms: int = 0) -> None:
        super().__init__(f"the GPU is busy: {active} jobs are running")
        self.active = active
        self.retry_ms = retry_ms


class InfeasibleError(BrokerError):
    """The job would not end, or not start, in time.

    Args:
        estimate_ms: milliseconds until then, by estimate.
        limit: the limit that it would exceed: ``expires_in_s`` or ``queue_timeout_s``.
    """

    def __init__(self, estimate_ms: int, limit: str = "expires_in_s") -> None:
        super().__init__(f"it would take about {estimate_ms / 1000:.1f} s")
        self.estimate_ms = estimate_ms
        self.limit = limit


class IdempotencyConflictError(BrokerError):
    """The idempotency key was used before, for another submission. ``job_id``: what that made; empty: it is another's."""

    def __init__(self, job_id: str) -> None:
        created = f", which created {job_id}" if job_id else ""
        super().__init__(f"the idempotency key was used for another request{created}")
        self.job_id = job_id


class UnfinishedError(BrokerError):
    """Only a finished job can be retried."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} is not finished; cancel it first, or wait for its end")
        self.job_id = job_id


class BodyGoneError(BrokerError):
    """A job's request was dropped, as it was kept until its result was fetched."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the request of {job_id} was dropped when its result was fetched (store: false)")


class NewerRecordError(BrokerError):
    """A record was written by a newer version than this one can read."""


class MixedFleetStartError(BrokerError):
    """Processes of an earlier version work on this server, or a newer version wrote its data."""


class NoConversationError(BrokerError):
    """There is no such conversation of the tenant."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation with id '{conversation_id}' not found.")
        self.conversation_id = conversation_id


class ConversationBusyError(BrokerError):
    """Another response of the conversation has not ended, or it changed while this one was made. ``by``: the job."""

    def __init__(self, by: str) -> None:
        super().__init__(
            "Another process is currently operating on this conversation. Please retry in a few seconds."
        )
        self.by = by


class ConversationFullError(BrokerError):
    """Too many items, or too large ones, were added to the conversation since its last response."""


class FileInUseError(BrokerError):
    """A batch that has not ended reads the file."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"{file_id} is the input of a batch that has not ended; cancel that first")
        self.file_id = file_id


class NoInputFileError(BrokerError):
    """There is no such file, or its purpose is not ``batch``."""

    def __init__(self, file_id: str, purpose: str | None) -> None:
        other = f"the purpose of {file_id!r} is {purpose!r}, not 'batch'"
        super().__init__(f"there is no file {file_id!r}" if purpose is None else other)
        self.purpose = purpose


class BatchUnfinishedError(BrokerError):
    """Only an ended batch can be retried or verified."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"{batch_id} has not ended")
        self.batch_id = batch_id


class KeyInactiveError(BrokerError):
    """The API key was revoked, or has expired."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"the key {key_id} was revoked or has expired; make another")


class FileGoneError(BrokerError):
    """A file that the call needs was deleted or has expired."""


class TooManyWebhooksError(BrokerError):
    """The tenant has as many webhook endpoints as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"a tenant has {most} webhook endpoints at most")
        self.most = most


class NoCoordinatorError(BrokerError):
    """No coordinator is alive to perform the task. Nothing was written."""


class RegistrationRefusedError(Exception):
    """A worker may not serve its models, because of another live worker or a declaration. The api never gets this error.

    Attributes:
        worker: the other worker's incarnation; None: a pool that is declared has one of its names.
        lease_end_ms: when that lease ends without a further heartbeat.
    """

    def __init__(self, message: str, worker: str | None = None, lease_end_ms: int = 0) -> None:
        super().__init__(message)
        self.worker = worker
        self.lease_end_ms = lease_end_ms
