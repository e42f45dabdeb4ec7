"""One attempt at a job on this worker, and its outcome. The runner alone changes an attempt; the others read it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from broker.claims import Claim
from jobs.states import JobState
from workers.attempts.reasons import StopReason
from workers.attempts.spans import NO_SPANS, AttemptSpans
from workers.attempts.stream import StreamBuffer
from workers.engines.base import Final


@dataclass(slots=True)
class Attempt:
    """A claimed job that runs here.

    Attributes:
        claim: the right to run it.
        buffer: chunks of its stream that are not written yet.
        stop: why it was stopped; None while it was not.
        abort: the task that asks the engine to end the run early.
        suspect: the request, if an engine died under it before.
        on_engine: the engine has, or had, the request.
        began_s: time of its claim, on a monotonic clock.
        first_s: time of its stream's first chunk; 0.0 before that.
    """

    claim: Claim
    buffer: StreamBuffer
    stop: StopReason | None = None
    task: asyncio.Task[Final] | None = None
    abort: asyncio.Task[None] | None = None
    on_engine: bool = False
    suspect: bytes = b""
    spans: AttemptSpans = NO_SPANS
    began_s: float = field(default_factory=time.monotonic)
    first_s: float = 0.0

    def reaches_engine(self) -> None:
        """Note that the engine gets the request."""
        self.on_engine = True

    def stopped(self) -> StopReason | None:
        """Return ``stop``, which any await may change."""
        return self.stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt.

    Attributes:
        state: the terminal state that the attempt gave its job; None: it gave none.
        reason: the failure code, or the stop reason.
    """

    state: JobState | None
    reason: str | None = None
