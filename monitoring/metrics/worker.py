"""Metrics of one worker. vLLM's own metrics are in the default registry."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.metrics.common import LATENCY_BUCKETS_S, Children, ReaperMetrics, TenantNames, store_faults

JOB_ENDS = ("succeeded", "failed", "cancelled", "expired")
TOKEN_KINDS = ("prompt", "completion")
BATCH_ROW_OUTCOMES = ("completed", "failed")
ADAPTER_LOADS = ("loaded", "broken")
ATTEMPT_NUMBERS = ("1", "2", "3+")
SWAP_PHASES = ("drain", "sleep", "wait", "wake")

QUEUE_BUCKETS_S = (
    *(0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 1800.0, 7200.0, 43_200.0),
)
INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
MARGIN_BUCKETS_S = (0.0, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)


class WorkerMetrics:
    """Metrics of a worker process.

    Args:
        failure_codes: the values of the label ``code``.
        limit_reasons: the lane controller's reasons.
        tenants: tenants whose jobs are counted by name.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        failure_codes: Iterable[str] = (),
        *,
        lanes: Iterable[str] = (),
        limit_reasons: Iterable[str] = (),
        tenants: TenantNames | None = None,
    ) -> None:
        self.tenants = TenantNames() if tenants is None else tenants
        self._make_outcomes(registry)
        self._make_times(registry)
        self._make_own(registry)
        self._make_adapters(registry)
        self.reaper = ReaperMetrics(registry)
        self.store_faults = store_faults(registry)
        self._tokens = Children(self.tokens)
        self._tenant_tokens = Children(self.tenant_tokens)
        self._start_lanes(lanes)
        self._start_tenants()
        for counter, values in (
            (self.failures, failure_codes),
            (self.attempts, ATTEMPT_NUMBERS),
            (self.bulk_limits, limit_reasons),
            (self.batch_rows, BATCH_ROW_OUTCOMES),
            (self.run_time, JOB_ENDS),
            (self.swap_time, SWAP_PHASES),
            (self.adapter_loads, ADAPTER_LOADS),
        ):
            for value in values:
                counter.labels(value)

    def count_tokens(self, lane: str, tenant: str, prompt: int, completion: int) -> None:
        """Count the tokens of a job that has ended, or of committed rows of a batch."""
        name = self.tenants.label(tenant)
        for kind, tokens in (("prompt", prompt), ("completion", completion)):
            self._tokens[kind, lane].inc(tokens)
            self._tenant_tokens[name, kind].inc(tokens)

    def _start_lanes(self, lanes: Iterable[str]) -> None:
        for lane in lanes:
            self.running.labels(lane)
            for kind in TOKEN_KINDS:
                self.tokens.labels(kind, lane)
            for timer in (self.queue_wait, self.first_token, self.inter_token, self.margin):
                timer.labels(lane)
            for state in JOB_ENDS:
                self.jobs.labels(state, lane)

    def _start_tenants(self) -> None:
        for tenant in self.tenants:
            for state in JOB_ENDS:
                self.tenant_jobs.labels(tenant, state)
            for kind in TOKEN_KINDS:
                self.tenant_tokens.labels(tenant, kind)

    def _make_outcomes(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self.jobs = counter(
            "penstock_jobs_total", "Jobs this worker ended, by final state and lane.", ["state", "lane"]
        )
        self.failures = counter("penstock_job_failures_total", "Failed jobs, by failure code.", ["code"])
        self.tokens = counter(
            "penstock_tokens_total",
            "Tokens of finished jobs, and of committed rows of batches, by kind and lane.",
            ["kind", "lane"],
        )
        self.tenant_jobs = counter(
            "penstock_tenant_jobs_total",
            "Jobs this worker ended, by tenant and final state.",
            ["tenant", "state"],
        )
        self.tenant_tokens = counter(
            "penstock_tenant_tokens_total", "The same, by tenant and kind.", ["tenant", "kind"]
        )
        self.attempts = counter(
            "penstock_attempts_total", "Attempts begun, by which attempt of its job it is.", ["number"]
        )
        self.fenced = counter(
            "penstock_fence_rejections_total", "Writes refused because the job was no longer this attempt's."
        )
        self.given_back = counter(
            "penstock_attempts_given_back_total",
            "Attempts that this worker ended without ending the job: drained, or to be tried again.",
        )
        self.batch_rows = counter(
            "penstock_batch_rows_total", "Rows of batches written to disk, by outcome.", ["outcome"]
        )
        self.batch_rows_shared = counter(
            "penstock_batch_rows_shared_total",
            "Of these, rows that did not run: the run of an identical row answered them.",
        )

    def _make_times(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, registry=registry)
        self.run_time = histogram(
            "penstock_run_seconds",
            "Seconds from claim to end, by final state.",
            ["state"],
            buckets=LATENCY_BUCKETS_S,
        )
        self.queue_wait = histogram(
            "penstock_queue_wait_seconds",
            "Seconds from a job's acceptance to its first claim, by lane.",
            ["lane"],
            buckets=QUEUE_BUCKETS_S,
        )
        self.first_token = histogram(
            "penstock_time_to_first_token_seconds",
            "Seconds from the claim of a streamed job to its first chunk, by lane; the wait in the queue is not in it.",
            ["lane"],
            buckets=LATENCY_BUCKETS_S,
        )
        self.inter_token = histogram(
            "penstock_inter_token_seconds",
            "Mean seconds between the tokens of a streamed job, observed once for each job, by lane.",
            ["lane"],
            buckets=INTER_TOKEN_BUCKETS_S,
        )
        self.margin = histogram(
            "penstock_deadline_margin_seconds",
            "Seconds that were left of a job's life when it ended, by lane; jobs without a deadline do not count.",
            ["lane"],
            buckets=MARGIN_BUCKETS_S,
        )

    def _make_own(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.running = gauge("penstock_jobs_running", "Jobs on this worker's engine, by lane.", ["lane"])
        self.capacity = gauge("penstock_capacity_jobs", "Jobs that this worker may run at once.")
        self.rows_running = gauge("penstock_batch_rows_running", "Rows of batches on this worker's engine.")
        self.bulk_limit = gauge("penstock_bulk_limit", "Bulk jobs that the lane controller allows at once.")
        self.bulk_pace = gauge(
            "penstock_bulk_pace", "Bulk jobs and rows a second that this worker lets onto its engine at most."
        )
        self.bulk_limits = counter(
            "penstock_bulk_limit_adjustments_total",
            "Adjustments of the lane controller, by reason: `open` raises the limit; `kv_cache` and `preempted` halve it,"
            " and do so again once bulk has come down to it.",
            ["reason"],
        )
        self.swaps = counter(
            "penstock_swaps_total", "Times that this worker's model was loaded again after a sleep."
        )
        self.swap_time = Histogram(
            "penstock_swap_seconds",
            "Seconds of a swap, by phase: `drain` (running jobs end), `sleep` (the devices are freed), `wait` (the model "
            "before makes way), `wake` (the model is loaded).",
            ["phase"],
            buckets=QUEUE_BUCKETS_S,
            registry=registry,
        )
        self.beats = counter("penstock_heartbeats_total", "Leases prolonged.")
        self.beats_failed = counter(
            "penstock_heartbeats_failed_total",
            "Heartbeats that Redis did not answer; the lease goes on until it ends.",
        )

    def _make_adapters(self, registry: CollectorRegistry) -> None:
        self.adapters_loaded = Gauge(
            "penstock_adapters_loaded", "LoRA adapters in this worker's engine.", registry=registry
        )
        self.adapter_loads = Counter(
            "penstock_adapter_loads_total",
            "Loads of LoRA adapters into the engine, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.adapter_load_time = Histogram(
            "penstock_adapter_load_seconds",
            "Seconds in which the engine loaded and tried a LoRA adapter; the copy of its files is not in it.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.adapter_evictions = Counter(
            "penstock_adapter_evictions_total",
            "LoRA adapters that left the engine: others needed their place, or they were removed or replaced.",
            registry=registry,
        )
