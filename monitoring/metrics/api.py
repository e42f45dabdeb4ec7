"""Metrics of one api process."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.metrics.common import LATENCY_BUCKETS_S, AcceptedJobs, ReaperMetrics, TenantNames

STATUSES = (
    *("200", "202", "206", "400", "401", "403", "404", "405", "408", "409", "410", "413"),
    *("414", "416", "429", "431", "499"),
    *("500", "503", "504", "507"),
)
"""The statuses that every route's counter has from the start; others appear when they occur."""


class ApiMetrics(AcceptedJobs):
    """Metrics of the api process.

    Args:
        error_codes: the values of the label ``code``.
        tenants: tenants whose jobs are counted by name.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        lanes: Iterable[str] = (),
        error_codes: Iterable[str] = (),
        tenants: TenantNames | None = None,
    ) -> None:
        super().__init__(registry, lanes, tenants)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.requests = counter(
            "api_requests_total", "HTTP requests answered, by route and status code.", ["endpoint", "status"]
        )
        self.latency = histogram(
            "api_request_latency_seconds",
            "Seconds from the arrival of a request to the end of its response.",
            ["endpoint"],
            buckets=LATENCY_BUCKETS_S,
        )
        self.first_token = histogram(
            "api_time_to_first_token_seconds",
            "Seconds from the arrival of a streamed call to the first chunk that is sent to its client, queueing included.",
            ["endpoint"],
            buckets=LATENCY_BUCKETS_S,
        )
        self.active = gauge("api_active_requests", "HTTP requests in progress, open streams included.")
        self.errors = counter(
            "api_errors_total",
            "Errors answered, by the code in their body; those that end a stream included.",
            ["code"],
        )
        self.reaper = ReaperMetrics(registry)
        for code in error_codes:
            self.errors.labels(code)

    def expect(self, endpoints: Iterable[str], streaming: Iterable[str] = ()) -> None:
        """Start the series of these routes at 0.

        Args:
            endpoints: route templates.
            streaming: those among them that stream tokens.
        """
        for endpoint in endpoints:
            self.latency.labels(endpoint)
            for status in STATUSES:
                self.requests.labels(endpoint, status)
        for endpoint in streaming:
            self.first_token.labels(endpoint)
