"""The metrics and rates of a worker's attempts. All of it costs about 25 microseconds a job."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.claims import Claim
from broker.registry import Runs
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from jobs.states import JobState
from monitoring.metrics import Children, WorkerMetrics
from workers.attempts.attempt import Attempt, Outcome
from workers.engines.base import Final


class Pulse:
    """Counts jobs, waits and tokens between two heartbeats, as `penstock top` shows them.

    Args:
        clock: seconds, forward only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._generated: int | None = None
        self._jobs = 0
        self._tokens = 0
        self._waits = 0
        self._waited_ms = 0

    def claimed(self, waited_ms: int | None) -> None:
        """Count an attempt that begins. ``waited_ms``: how long its job was queued; None: not known."""
        if waited_ms is not None:
            self._waits += 1
            self._waited_ms += waited_ms

    def ended(self) -> None:
        """Count a job that ended here."""
        self._jobs += 1

    def answered(self, tokens: int) -> None:
        """Count the completion tokens of a run that has ended."""
        self._tokens += tokens

    def read(self, generated: int | None) -> dict[str, float | None]:
        """Return the rates since the last call, and start again from zero.

        Args:
            generated: tokens that the engine has generated since its start; None: it does not say. Then the tokens of runs
                that ended count instead, all at the end of their run.

        Returns:
            ``tokens_per_s``, ``jobs_per_s``, and ``wait_ms``, the mean wait of the attempts that began; None if none did.
            The first count of an engine gives no ``tokens_per_s``: it has the tokens of the warm-up.
        """
        now = self._clock()
        passed = max(now - self._since, 0.001)
        tokens = self._tokens_since(generated)
        wait = self._waited_ms / self._waits if self._waits else None
        rates = {
            "tokens_per_s": None if tokens is None else round(tokens / passed, 1),
            "jobs_per_s": round(self._jobs / passed, 2),
            "wait_ms": None if wait is None else round(wait, 1),
        }
        self._since, self._generated = now, generated
        self._jobs = self._tokens = self._waits = self._waited_ms = 0
        return rates

    def _tokens_since(self, generated: int | None) -> int | None:
        if generated is None:
            return self._tokens
        return None if self._generated is None else max(generated - self._generated, 0)


class RunMeans:
    """The mean runs of jobs that ended between two heartbeats, which the estimates of starts are made from.

    Chunks of batches do not count: their runs tell nothing about a job's.
    """

    def __init__(self) -> None:
        self._sums = _no_runs()

    def ended(self, claim: Claim, ran_s: float) -> None:
        """Count a job that ended here."""
        if claim.endpoint != CHUNK_ENDPOINT:
            of = self._sums[claim.lane is Lane.BULK]
            of[0] += 1
            of[1] += ran_s * 1000

    def read(self) -> tuple[Runs | None, Runs | None]:
        """Return the runs since the last call, of the other lanes and of bulk; None: there were none."""
        found = [Runs(total / count, int(count)) if count else None for count, total in self._sums.values()]
        self._sums = _no_runs()
        return found[0], found[1]


def _no_runs() -> dict[bool, list[float]]:
    return {False: [0, 0.0], True: [0, 0.0]}  # by whether they are bulk: number, milliseconds


class Accounts:
    """Counts and times attempts.

    Attributes:
        pulse: the rates since the last heartbeat.
        runs: the mean runs since then.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self.pulse = Pulse()
        self.runs = RunMeans()
        self._metrics = metrics
        self._running = Children(metrics.running)
        self._attempts = Children(metrics.attempts)
        self._queue_wait = Children(metrics.queue_wait)
        self._first_token = Children(metrics.first_token)
        self._inter_token = Children(metrics.inter_token)
        self._margin = Children(metrics.margin)
        self._run_time = Children(metrics.run_time)
        self._jobs = Children(metrics.jobs)
        self._tenant_jobs = Children(metrics.tenant_jobs)

    def begin(self, attempt: Attempt) -> None:
        """Count an attempt that was just claimed."""
        claim = attempt.claim
        self.pulse.claimed(claim.waited_ms)
        self._running[(claim.lane,)].inc()
        if claim.attempt == 1 and claim.age_ms is not None:
            self._queue_wait[(claim.lane,)].observe(claim.age_ms / 1000)
        self._attempts[(str(claim.attempt) if claim.attempt < 3 else "3+",)].inc()

    def answered(self, attempt: Attempt, final: Final) -> None:
        """Count and time the tokens of an attempt whose engine has just answered."""
        tokens = final.usage.completion_tokens if final.usage is not None else 0
        self.pulse.answered(tokens)
        if not attempt.first_s:
            return
        lane = attempt.claim.lane
        self._first_token[(lane,)].observe(attempt.first_s - attempt.began_s)
        if tokens > 1:
            self._inter_token[(lane,)].observe((time.monotonic() - attempt.first_s) / (tokens - 1))

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Count the outcome of an attempt."""
        claim, metrics = attempt.claim, self._metrics
        self._running[(claim.lane,)].dec()
        if outcome.state is None:
            return
        self.pulse.ended()
        ran_s = time.monotonic() - attempt.began_s
        self.runs.ended(claim, ran_s)
        self._jobs[outcome.state, claim.lane].inc()
        self._run_time[(outcome.state,)].observe(ran_s)
        self._tenant_jobs[metrics.tenants.label(claim.tenant), outcome.state].inc()
        if claim.left_ms is not None:
            self._margin[(claim.lane,)].observe(claim.left_ms / 1000 - ran_s)
        if outcome.state is JobState.FAILED:
            metrics.failures.labels(outcome.reason).inc()
