"""What the attempts of a worker add to its metrics. All of it costs about 25 microseconds a job."""

from __future__ import annotations

import time

from broker.attempts import Claim
from jobs.states import JobState
from monitoring.metrics import Children, WorkerMetrics
from workers.attempts.endings import Outcome, Run
from workers.batches.commits import FinishedRow
from workers.engines.base import Final


class Accounts:
    """Counts and times attempts.

    Args:
        metrics: the worker's metrics.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
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

    def begin(self, run: Run) -> None:
        """Count an attempt that was just claimed."""
        claim = run.claim
        self._running[(claim.lane,)].inc()
        if claim.attempt == 1 and claim.age_ms is not None:
            self._queue_wait[(claim.lane,)].observe(claim.age_ms / 1000)
        self._attempts[(str(claim.attempt) if claim.attempt < 3 else "3+",)].inc()

    def streamed(self, run: Run, final: Final) -> None:
        """Time the tokens of an attempt that its engine has just ended."""
        if not run.first_s:
            return
        lane = run.claim.lane
        self._first_token[(lane,)].observe(run.first_s - run.began_s)
        tokens = final.usage.completion_tokens if final.usage is not None else 0
        if tokens > 1:
            self._inter_token[(lane,)].observe((time.monotonic() - run.first_s) / (tokens - 1))

    def end(self, run: Run, outcome: Outcome) -> None:
        """Count what became of an attempt."""
        claim, metrics = run.claim, self._metrics
        self._running[(claim.lane,)].dec()
        if outcome.state is None:
            return
        ran_s = time.monotonic() - run.began_s
        self._jobs[outcome.state, claim.lane].inc()
        self._run_time[(outcome.state,)].observe(ran_s)
        self._tenant_jobs[metrics.tenants.label(claim.tenant), outcome.state].inc()
        if claim.left_ms is not None:
            self._margin[(claim.lane,)].observe(claim.left_ms / 1000 - ran_s)
        if outcome.state is JobState.FAILED:
            metrics.failures.labels(outcome.reason).inc()


def count_rows(metrics: WorkerMetrics, claim: Claim, rows: list[FinishedRow]) -> None:
    """Count rows of a chunk that were committed, and their tokens, which are its tenant's."""
    failed = sum(row.kind == "err" for row in rows)
    metrics.batch_rows.labels("completed").inc(len(rows) - failed)
    metrics.batch_rows.labels("failed").inc(failed)
    prompt, completion = (
        sum(row.usage.input_tokens for row in rows),
        sum(row.usage.output_tokens for row in rows),
    )
    metrics.count_tokens(claim.lane, claim.tenant, prompt, completion)
