"""Rows of the operator's dashboard: how it is, the queue, the front."""

from __future__ import annotations

from tools.dashboards.panels import (
    AMBER,
    GREEN,
    POOL,
    RED,
    Row,
    ended,
    lines,
    number,
    quantiles,
    seen,
)

_API = '{job="penstock-api",instance=~"$instance"}'


STATE = Row(
    "Is it well?",
    (
        number(
            "Workers ready",
            "short",
            "Workers with a live lease that do not drain.",
            f'sum(penstock:workers:max{POOL[:-1]},state="ready"}})',
            (None, RED),
            (1, GREEN),
        ),
        number(
            "Jobs waiting",
            "short",
            "In every lane.",
            f"sum(penstock:queue_depth:max{POOL})",
            (None, GREEN),
            (1000, AMBER),
        ),
        number(
            "Oldest interactive job",
            "s",
            "Since it entered its queue; bulk does not count.",
            f'max(penstock:oldest_queued_age_seconds:max{POOL[:-1]},lane!="bulk"}})',
            (None, GREEN),
            (10, AMBER),
            (60, RED),
        ),
        number(
            "Saturation",
            "percentunit",
            "Jobs and rows of batches that run, of those that may, in the fullest pool.",
            f"max(penstock:saturation:ratio{POOL})",
            (None, GREEN),
            (0.9, AMBER),
        ),
        number(
            "First token, p99",
            "s",
            "At the api, queueing included, over 5 minutes.",
            "max(penstock:time_to_first_token_seconds:p99_5m)",
            (None, GREEN),
            (2, AMBER),
            (10, RED),
        ),
        number(
            "Server errors",
            "percentunit",
            "Answers with a status of 500 or above, over 5 minutes.",
            "penstock:server_errors:ratio_rate5m or vector(0)",
            (None, GREEN),
            (0.01, AMBER),
            (0.05, RED),
        ),
        number(
            "Redis",
            "short",
            "1 while every api process reaches it.",
            "min(penstock_redis_up)",
            (None, RED),
            (1, GREEN),
        ),
        number(
            "Alerts firing",
            "short",
            "Of Penstock's rules; docs/operate/runbooks.md has a section for each.",
            'count(ALERTS{alertstate="firing",alertname=~"Penstock.*"}) or vector(0)',
            (None, GREEN),
            (1, RED),
        ),
    ),
)

QUEUE = Row(
    "Queue",
    (
        lines(
            "Jobs waiting",
            "short",
            "By lane.",
            (f"sum by (lane) (penstock:queue_depth:max{POOL})", "{{lane}}"),
            stack=True,
        ),
        lines(
            "Oldest job's wait",
            "s",
            "Since the longest waiting job entered its queue, by lane.",
            (f"max by (lane) (penstock:oldest_queued_age_seconds:max{POOL})", "{{lane}}"),
        ),
        lines(
            "Queue wait",
            "s",
            "From acceptance to the first claim, by lane, over 5 minutes.",
            (f"max by (lane) (penstock:queue_wait_seconds:p99_5m{POOL})", "p99 {{lane}}"),
        ),
        lines(
            "In and out",
            "reqps",
            "Jobs accepted, and ended, in the queue too.",
            ("sum(rate(penstock_jobs_accepted_total[$__rate_interval]))", "accepted"),
            (ended("state", "penstock_jobs_total", POOL), "{{state}}"),
        ),
        lines(
            "Delayed and dead jobs",
            "short",
            "Delayed: they wait for the time of their next attempt. Dead: failed or expired, and not repeated.",
            (f"max({seen('penstock_jobs_delayed')})", "delayed"),
            (f"max({seen('penstock_jobs_dead')})", "dead"),
        ),
        lines(
            "Jobs held",
            "short",
            "Records in Redis, by state; finished ones stay for retention_s.",
            (f"max by (state) ({seen('penstock_jobs_held')})", "{{state}}"),
        ),
    ),
)

FRONT = Row(
    "Front",
    (
        lines(
            "Requests",
            "reqps",
            "Answers by status.",
            (f"sum by (status) (rate(api_requests_total{_API}[$__rate_interval]))", "{{status}}"),
            stack=True,
        ),
        lines(
            "Errors by code",
            "reqps",
            "The code in the answer's body, streams that ended badly included.",
            (f"sum by (code) (rate(api_errors_total{_API}[$__rate_interval])) > 0", "{{code}}"),
        ),
        lines(
            "Time to first token",
            "s",
            "Streamed calls, from arrival to the first chunk sent.",
            *quantiles("api_time_to_first_token_seconds", "", _API, ""),
        ),
        lines(
            "Latency",
            "s",
            "From a request's arrival to the end of its answer.",
            *quantiles(
                "api_request_latency_seconds",
                "endpoint",
                _API[:-1] + ',endpoint=~"/v1/(chat.*|completions|jobs)"}',
                "{{endpoint}}",
            ),
        ),
        lines(
            "Requests in progress",
            "short",
            "Open streams included, by api process.",
            (f"sum by (instance) (api_active_requests{_API})", "{{instance}}"),
        ),
        lines(
            "CPU of the api processes",
            "short",
            "Cores; at 1.0 a process is full: start another.",
            (
                f"sum by (instance) (rate(process_cpu_seconds_total{_API}[$__rate_interval]))",
                "{{instance}}",
            ),
            thresholds=((None, GREEN), (0.9, RED)),
        ),
    ),
)
