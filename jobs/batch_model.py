"""Files and batches, as read from the store. Times are Unix milliseconds of the Redis server's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.access import DEFAULT_TENANT
from jobs.batch_rows import RowError
from jobs.batches import BatchStatus
from jobs.lanes import Lane


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file, or an output of a batch.

    Attributes:
        id: see :func:`jobs.ids.make_id`.
        filename: the client's name for it.
        purpose: OpenAI's term, such as ``batch``.
        key: its object in storage.
        created_ms: when its upload was complete.
        expires_ms: when it is deleted; None: never.
        tenant: whose it is.
    """

    id: str
    size: int
    filename: str
    purpose: str
    key: str
    created_ms: int
    expires_ms: int | None = None
    tenant: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows and tokens. ``total`` is 0 until the input has been read."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, without its chunks.

    Attributes:
        id: see :func:`jobs.ids.make_id`.
        endpoint: the endpoint of every row.
        input_file_id: the file with its rows.
        input_key: the input's object in storage.
        window: the completion window, as the client wrote it.
        expires_ms: when the window closes.
        priority: the lane that was asked for.
        lane: the lane its chunks are submitted in now.
        counts: committed rows and their tokens.
        times: when each status was reached, in milliseconds.
        output_after_ms: retention of its output files; None: until they are deleted.
        model: the model of every row; None until the input has been read.
        output_file_id: rows that succeeded; None: none, or not yet.
        error_file_id: rows that did not.
        errors: why the input was refused.
        strict: a row with an unknown field is refused.
        unknown_fields: names in the rows' bodies that the endpoint does not have, each with the first line that has it.
        paused: by a client.
        hold: why it cannot proceed; None: it can.
        closing: the terminal status that it is on its way to, out of ``validating`` or ``in_progress``.
        rows_per_s: recent rate; None: unknown.
        tokens_per_s: recent rate of completion tokens; None: unknown.
        retry_of: the batch whose failed rows these are.
        trace: trace context of the request that created it (``TraceContext.encode``).
        retried_as: the batch that retries this one's failed rows.
        webhook: URL that is told of its end, beside its tenant's endpoints; None: no such.
        plan: the name of its plan in storage.
        chunks: number of its chunks; 0 until the input has been read.
        next_chunk: the first chunk that was never submitted.
        revision: rises with each change of its record.
    """

    id: str
    status: BatchStatus
    endpoint: str
    input_file_id: str
    input_key: str
    window: str
    window_ms: int
    created_ms: int
    expires_ms: int
    priority: Lane
    lane: Lane
    tenant: str
    counts: Counts
    times: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] | None = None
    output_after_ms: int | None = None
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[RowError, ...] = ()
    strict: bool = False
    unknown_fields: tuple[tuple[str, int], ...] = ()
    paused: bool = False
    hold: str | None = None
    closing: str | None = None
    rows_per_s: float | None = None
    tokens_per_s: float | None = None
    retry_of: str | None = None
    trace: str | None = None
    retried_as: str | None = None
    webhook: str | None = None
    plan: str = "plan"
    chunks: int = 0
    next_chunk: int = 0
    revision: int = 0

    @property
    def eta_s(self) -> float | None:
        """Seconds until its rows are done, at the recent rate; None: unknown."""
        if self.status.terminal or not self.rows_per_s or not self.counts.total:
            return None
        left = self.counts.total - self.counts.completed - self.counts.failed
        return left / self.rows_per_s
