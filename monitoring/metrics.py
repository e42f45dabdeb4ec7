"""Every metric of Penstock, each with its unit and a sentence. Series with labels start at 0.

Each process makes one :class:`ApiMetrics` or :class:`WorkerMetrics` on a registry of its choice; importing this module
registers nothing. No label holds a job id or any other unbounded value.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)

JOB_ENDS = ("succeeded", "failed", "cancelled", "expired")


REAPER_ACTIONS = ("requeued", "failed", "repushed", "expired", "retired", "due")


def reaped_counter(registry: CollectorRegistry) -> Counter:
    """Make the counter that every process with a reaper has."""
    counter = Counter(
        "penstock_reaped_total",
        "Jobs the reaper looked after, by what it did.",
        ["action"],
        registry=registry,
    )
    for action in REAPER_ACTIONS:
        counter.labels(action)
    return counter


class ApiMetrics:
    """What the api process measures.

    Args:
        registry: where to register.
        endpoints: the values of the ``endpoint`` label, so that they start at 0.
    """

    def __init__(self, registry: CollectorRegistry, endpoints: Iterable[str]) -> None:
        self.requests = Counter(
            "api_requests_total",
            "HTTP requests answered, by route and status code.",
            ["endpoint", "status"],
            registry=registry,
        )
        self.latency = Histogram(
            "api_request_latency_seconds",
            "Seconds from the arrival of a request to the end of its response.",
            ["endpoint"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.active = Gauge(
            "api_active_requests", "HTTP requests in progress, open streams included.", registry=registry
        )
        self.queue_depth = Gauge(
            "api_queue_depth", "Jobs waiting, by pool and lane.", ["pool", "lane"], registry=registry
        )
        self.accepted = Counter(
            "penstock_jobs_accepted_total", "Jobs accepted, by lane.", ["lane"], registry=registry
        )
        self.reaped = reaped_counter(registry)
        for endpoint in endpoints:
            self.requests.labels(endpoint, "200")
            self.latency.labels(endpoint)


class WorkerMetrics:
    """What a worker process measures; vLLM's own metrics stand beside these in the default registry."""

    def __init__(self, registry: CollectorRegistry, failure_codes: Iterable[str] = ()) -> None:
        self.jobs = Counter(
            "penstock_jobs_total", "Jobs this worker ended, by final state.", ["state"], registry=registry
        )
        self.failures = Counter(
            "penstock_job_failures_total", "Failed jobs, by failure code.", ["code"], registry=registry
        )
        self.running = Gauge("penstock_jobs_running", "Jobs on this worker's engine.", registry=registry)
        self.run_time = Histogram(
            "penstock_run_seconds",
            "Seconds from claim to end, by final state.",
            ["state"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.tokens = Counter(
            "penstock_tokens_total", "Tokens of finished jobs, by kind.", ["kind"], registry=registry
        )
        self.dropped = Counter(
            "penstock_messages_dropped_total",
            "Queue messages that gave no right to run, by reason.",
            ["reason"],
            registry=registry,
        )
        self.fenced = Counter(
            "penstock_fence_rejections_total",
            "Writes refused because the job was no longer this attempt's.",
            registry=registry,
        )
        self.given_back = Counter(
            "penstock_attempts_given_back_total",
            "Attempts that this worker ended without ending the job: drained, or to be tried again.",
            registry=registry,
        )
        self.bulk_limit = Gauge(
            "penstock_bulk_limit", "Bulk jobs that the lane controller allows at once.", registry=registry
        )
        self.beats = Counter("penstock_heartbeats_total", "Leases prolonged.", registry=registry)
        self.reaped = reaped_counter(registry)
        for code in failure_codes:
            self.failures.labels(code)
        for state in JOB_ENDS:
            self.jobs.labels(state)
            self.run_time.labels(state)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)
        for reason in ("running", "gone", "fenced", "delayed", "newer", "redis_unavailable", *JOB_ENDS):
            self.dropped.labels(reason)
