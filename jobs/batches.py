"""A batch's life as one table, and its rules: windows, promotion, how an input is cut into chunks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from jobs.lanes import Lane


class BatchStatus(StrEnum):
    """The status of a batch, in OpenAI's terms. The last four are terminal."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the batch is over."""
        return self in TERMINAL


class BatchEvent(StrEnum):
    """What can happen to a batch."""

    VALID = "valid"
    INVALID = "invalid"
    ALL_ROWS_DONE = "all_rows_done"
    FILES_WRITTEN = "files_written"
    WINDOW_CLOSED = "window_closed"
    CANCEL = "cancel"


TERMINAL = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})

TRANSITIONS: dict[tuple[BatchStatus, BatchEvent], BatchStatus] = {
    (BatchStatus.VALIDATING, BatchEvent.VALID): BatchStatus.IN_PROGRESS,
    (BatchStatus.VALIDATING, BatchEvent.INVALID): BatchStatus.FAILED,
    (BatchStatus.VALIDATING, BatchEvent.WINDOW_CLOSED): BatchStatus.EXPIRED,
    (BatchStatus.VALIDATING, BatchEvent.CANCEL): BatchStatus.CANCELLING,
    (BatchStatus.IN_PROGRESS, BatchEvent.ALL_ROWS_DONE): BatchStatus.FINALIZING,
    (BatchStatus.IN_PROGRESS, BatchEvent.WINDOW_CLOSED): BatchStatus.EXPIRED,
    (BatchStatus.IN_PROGRESS, BatchEvent.CANCEL): BatchStatus.CANCELLING,
    (BatchStatus.FINALIZING, BatchEvent.FILES_WRITTEN): BatchStatus.COMPLETED,
    (BatchStatus.CANCELLING, BatchEvent.FILES_WRITTEN): BatchStatus.CANCELLED,
}
"""A batch that expires is shown as ``in_progress`` until its files hold the finished rows, and then as ``expired``."""


class IllegalBatchTransitionError(Exception):
    """An event that cannot happen in the batch's present state."""

    def __init__(self, status: BatchStatus, event: BatchEvent) -> None:
        super().__init__(f"{event} cannot happen to a batch that is {status}")
        self.status = status
        self.event = event


def next_status(status: BatchStatus, event: BatchEvent) -> BatchStatus:
    """Return the status that ``event`` leads to from ``status``.

    Raises:
        IllegalBatchTransitionError: the pair is not in :data:`TRANSITIONS`.
    """
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalBatchTransitionError(status, event) from None


def mermaid() -> str:
    """Render the table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> validating: create"]
    lines += [f"    {status} --> {target}: {event}" for (status, event), target in TRANSITIONS.items()]
    lines += [f"    {status} --> [*]" for status in BatchStatus if status.terminal]
    return "\n".join(lines)


# ---- windows -----------------------------------------------------------------------------------------------------

_WINDOW = re.compile(r"([1-9][0-9]{0,8})([smhd])\Z")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_WINDOW_S = 365 * 86_400


def window_s(text: str) -> int:
    """Return a completion window, such as ``24h``, ``30m``, ``90s`` or ``7d``, in seconds.

    Raises:
        ValueError: it cannot be read, or is longer than a year.
    """
    found = _WINDOW.match(text)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        raise ValueError(
            "a completion window is a whole number and s, m, h or d, up to a year: 24h, 30m, 90s, 7d"
        )
    return seconds


# ---- promotion ---------------------------------------------------------------------------------------------------

_LADDER = (Lane.BULK, Lane.LOW, Lane.NORMAL, Lane.HIGH)
_STEPS = ((0.10, Lane.HIGH), (0.25, Lane.NORMAL), (0.50, Lane.LOW))
MARGIN = 1.25
"""A batch is in time if the rest of its window is this many times the estimate for the rest of its rows."""


def lane_for(priority: Lane, left_s: float, window: float, eta_s: float | None) -> Lane:
    """Return the lane for a batch's chunks now: its own, or a higher one if the window closes too soon.

    Args:
        priority: the lane that was asked for; the result is never lower.
        left_s: seconds until the window closes.
        window: the window's whole length in seconds.
        eta_s: seconds that the remaining rows need at the present rate; None: no rate is known.
    """
    if eta_s is not None and eta_s * MARGIN <= left_s:
        return priority
    promoted = next((lane for part, lane in _STEPS if left_s <= part * window), Lane.BULK)
    return max(priority, promoted, key=_LADDER.index)


# ---- chunks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an input file: ``rows`` lines from number ``first_line`` (from 1), ``length`` bytes from ``offset``.

    The range may hold empty lines, which have numbers but are not rows.
    """

    number: int
    offset: int
    length: int
    first_line: int
    rows: int


MOST_CHUNKS = 2000
"""About the most chunks of a batch, so that a batch of any size takes bounded memory in Redis."""


class Cutter:
    """Cuts an input into chunks in one pass and constant memory: when there are too many chunks, it joins neighbours.

    Args:
        rows: rows of a chunk at first; doubled with every joining.
        size: bytes after which a chunk ends early, at first; doubled too.
        most: see :data:`MOST_CHUNKS`.
    """

    def __init__(self, rows: int, size: int = 4 * 1024 * 1024, most: int = MOST_CHUNKS) -> None:
        self._rows, self._size, self._most = rows, size, most
        self._pieces: list[tuple[int, int, int, int]] = []  # offset, end, first line, rows
        self._open: tuple[int, int, int, int] | None = None

    def add(self, offset: int, end: int, line: int) -> None:
        """Add a row: line number ``line`` (from 1), bytes from ``offset`` up to ``end``."""
        start, _, first, rows = self._open or (offset, end, line, 0)
        self._open = (start, end, first, rows + 1)
        if rows + 1 >= self._rows or end - start >= self._size:
            self._pieces.append(self._open)
            self._open = None
            if len(self._pieces) >= 2 * self._most:
                self._join()

    def _join(self) -> None:
        pairs = zip(self._pieces[::2], self._pieces[1::2], strict=True)
        self._pieces = [(a[0], b[1], a[2], a[3] + b[3]) for a, b in pairs]
        self._rows, self._size = 2 * self._rows, 2 * self._size

    def chunks(self) -> list[Chunk]:
        """Return the chunks of all added rows."""
        pieces = [*self._pieces, *([self._open] if self._open else [])]
        return [Chunk(n, p[0], p[1] - p[0], p[2], p[3]) for n, p in enumerate(pieces)]


# ---- ledgers -----------------------------------------------------------------------------------------------------


def parse_ledger(text: str) -> list[tuple[int, int]]:
    """Read a chunk's ledger, ``1:5 3:12``: (writer, number of its last committed part), the latest writer last."""
    pairs = (entry.split(":") for entry in text.split())
    return [(int(writer), int(last)) for writer, last in pairs]


def new_writer(ledger: str, least: int) -> int:
    """Return the number of a chunk's next writer: at least ``least``, and larger than every number in the ledger.

    So no two writers share a number, even if a job is created again after its record has expired.
    """
    return max([least, *(writer + 1 for writer, _ in parse_ledger(ledger))])


def form_ledger(entries: Iterable[tuple[int, int]]) -> str:
    """Write what :func:`parse_ledger` reads."""
    return " ".join(f"{writer}:{last}" for writer, last in entries)
