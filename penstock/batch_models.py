"""The wire models of files and batches: OpenAI's objects, and what Penstock adds to them.

Times are Unix seconds, and durations say their unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import field_validator

from penstock.models import Wire

FINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
"""The statuses of a batch that never change again."""


class File(Wire):
    """A file that the server keeps.

    Attributes:
        bytes: its size.
        purpose: ``batch`` for an input, ``batch_output`` for an output of a batch.
        expires_at: when the server deletes it; None if it is kept until somebody deletes it.
    """

    id: str
    bytes: int = 0
    created_at: float | None = None
    filename: str = ""
    purpose: str = ""
    status: str | None = None
    expires_at: float | None = None


class Deleted(Wire):
    """The answer to a deletion."""

    id: str
    deleted: bool = False


class RequestCounts(Wire):
    """Rows of a batch: all of them, those with a successful response, those without."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Rows that have ended, successful or not."""
        return self.completed + self.failed


class BatchUsage(Wire):
    """Tokens of all rows together, named as in OpenAI's batch object."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class Progress(Wire):
    """The progress of a batch.

    Attributes:
        rows_per_s: its present rate, as ``tokens_per_s`` is; None if not known yet.
        eta_s: seconds to its end at this rate; None if not known.
        pause_reason: why it is paused, such as a full disk; None unless ``paused``.
    """

    status: str | None = None
    request_counts: RequestCounts | None = None
    rows_per_s: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None
    paused: bool = False
    pause_reason: str | None = None
    usage: BatchUsage | None = None


class BatchError(Wire):
    """A fault of a batch's input. ``line`` counts from 1; None if it is about the whole file."""

    code: str | None = None
    message: str = ""
    param: str | None = None
    line: int | None = None


class BatchWarning(Wire):
    """A field of a batch's rows that the server does not know, with the first line that has it."""

    code: str
    message: str = ""
    param: str | None = None
    line: int | None = None


class BatchErrors(Wire):
    """The faults of a batch's input: a whole list, not a page of one."""

    data: tuple[BatchError, ...] = ()


class Batch(Wire):
    """A batch as the server shows it.

    Attributes:
        status: ``validating``, ``in_progress``, ``finalizing``, ``cancelling``, or an end: ``completed``,
            ``failed`` (a wrong input), ``expired``, ``cancelled``.
        output_file_id: rows with a successful response; None until the end, or if there are none.
        error_file_id: the other rows; None as above.
        errors: the faults of the input of a batch that ``failed``.
        warnings: unknown fields in the rows, such as ``max_token``; the batch runs all the same.
        progress: rates and remaining time; None if the server does not say.
        paused: no further row starts until it is resumed; ``pause_reason`` says why.
        retry_of: the batch whose failed rows this one retries; ``retried_as``: the batch that retries this one's.
        webhook_url: where its end is told, beside the webhooks of its tenant; None: nowhere else.
    """

    id: str
    status: str
    endpoint: str = ""
    model: str | None = None
    input_file_id: str | None = None
    completion_window: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: BatchErrors | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: Mapping[str, str] | None = None
    created_at: float | None = None
    in_progress_at: float | None = None
    expires_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    progress: Progress | None = None
    paused: bool = False
    pause_reason: str | None = None
    priority: str | None = None
    retry_of: str | None = None
    retried_as: str | None = None
    webhook_url: str | None = None
    warnings: tuple[BatchWarning, ...] = ()
    usage: BatchUsage | None = None

    @field_validator("request_counts", mode="before")
    @classmethod
    def _no_counts_yet(cls, value: object) -> object:
        return {} if value is None else value

    @property
    def done(self) -> bool:
        """Whether the batch has ended, in whatever way."""
        return self.status in FINAL_STATUSES

    @property
    def ended_at(self) -> float | None:
        """When it ended; None before that."""
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at


class BatchEvent(Wire):
    """One event of a batch: ``progress``, or its final status, after which nothing follows."""

    id: str = ""
    type: str
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """Whether this is the last event."""
        return self.type in FINAL_STATUSES

    @property
    def progress(self) -> Progress:
        """The event's figures."""
        return Progress.model_validate(self.data)


class Verification(Wire):
    """The result of the server's check of a batch's files.

    Attributes:
        ok: every row of the input has exactly one row in the output or in the error file.
        duplicates: rows whose id already has a row; ``missing``: input rows without one; ``unknown``: rows whose id is
            not in the input.
        unreadable: lines that are not JSON, or have no ``custom_id``.
        examples: the places of some of these.
    """

    ok: bool
    total: int = 0
    completed: int = 0
    failed: int = 0
    duplicates: int = 0
    missing: int = 0
    unknown: int = 0
    unreadable: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultPage:
    """Rows that are committed so far.

    Attributes:
        lines: the rows after the cursor that was asked for, as JSON Lines; ends with a newline unless empty.
        next_cursor: ask for the rows after it next; None if there are no rows yet.
        incomplete: more rows will follow, now or later.
    """

    lines: bytes
    next_cursor: str | None
    incomplete: bool
