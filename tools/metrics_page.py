"""The reference page on metrics, from the objects that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.markdown import code, generated, table

_UNITS = ("seconds", "bytes", "ratio", "celsius", "watts")


def unit_of(name: str) -> str:
    """Say the unit that a metric's name ends in; without one it counts."""
    return next((unit for unit in _UNITS if f"_{unit}" in name), "count")


def metrics_rows(metrics: Any) -> Iterator[tuple[str, ...]]:
    """Make a row of everything that an object of ``monitoring.metrics`` holds, and its parts hold."""
    from prometheus_client.metrics import MetricWrapperBase

    from monitoring.metrics.common import ReaperMetrics
    from monitoring.metrics.scaling import ScalingState
    from monitoring.metrics.webhooks import WebhookState

    for metric in vars(metrics).values():
        if isinstance(metric, ReaperMetrics | ScalingState | WebhookState):
            yield from metrics_rows(metric)
        if not isinstance(metric, MetricWrapperBase):
            continue
        kind = type(metric).__name__.lower()
        name = metric._name + ("_total" if kind == "counter" else "")  # noqa: SLF001 - there is no public way
        labels = ", ".join(code(label) for label in metric._labelnames)  # noqa: SLF001
        yield code(name), kind, unit_of(name), labels, metric._documentation  # noqa: SLF001


def metrics_table(metrics: Any) -> str:
    """Return a table of everything that an object of ``monitoring.metrics`` holds."""
    return table(_METRICS_HEADER, list(metrics_rows(metrics)))


def families_table(*collectors: Any) -> str:
    """Return a table of the families of collectors that are asked at the scrape."""
    rows = []
    for family in (family for collector in collectors for family in collector.FAMILIES):
        kind, name = ("counter", family.name + "_total") if family.counter else ("gauge", family.name)
        rows.append((code(name), kind, unit_of(name), ", ".join(map(code, family.labels)), family.meaning))
    return table(_METRICS_HEADER, rows)


_METRICS_HEADER = ("metric", "kind", "unit", "labels", "meaning")

_METRICS_INTRO = """\
Prometheus text format. The api serves its metrics at `/metrics` on its own port; each worker and each coordinator at
`/metrics` on `metrics_host`:`metrics_port`. `GET /v1/metrics/targets` lists these addresses for Prometheus. Every series
of a worker then has the labels `pool`, `worker`, `engine` and `host`; every series of a coordinator has `host`, and
the `job` `penstock-coordinator`: see
[watch it](../observe/watch.md#in-prometheus-and-grafana).

No label contains a job id. `tenant` has the first 100 names; all others are `other`. Series exist at 0 from
the start, so `rate` and `increase` see the first event; a worker learns its tenants when their jobs arrive.

A histogram `x` has the series `x_bucket`, `x_sum` and `x_count`."""

_API_METRICS_NOTE = """\
`endpoint` is a route's template (`/v1/jobs/{job_id}`), or `unmatched`; `status` is the HTTP status, or `499` if
the client disconnected before the answer. Each api process is a separate target with its own values: sum them.
`penstock_reaped_total` and `penstock_takeovers_total` are in every api and worker process, which share the work: sum
them too. `action`: `requeued` and `failed` (from a lost worker), `expired` (its
deadline passed: it ended in the queue, or its worker was notified), `due` (its next attempt is due), `aged` (it moved
up one lane), `retired` (its record was deleted after its retention)."""

_COORDINATOR_METRICS_NOTE = """\
A coordinator counts the chunks of batches that it has put into a queue, under the names under which an api counts its
clients' jobs: sum them over all processes. It has the disks' figures (below) and the `process_*` metrics too."""

_SHARED_METRICS_NOTE = """\
These are the same in every api process, as of its last look at Redis; a process that is cut off from Redis keeps its old
values. Take `max by (pool, lane) (… unless on (instance) penstock_redis_up == 0)`, as the recording rules do, never the
sum. If Redis's user may not run `INFO`, `penstock_redis_*` stays at 0, except `penstock_redis_up`.

`penstock_jobs_ended_without_worker_total` is counted in Redis when the job ends: take `max by (pool, lane, state, code)
(rate(…))`. `code` is a failed job's code, otherwise empty."""

_WORKER_METRICS_NOTE = """\
A job that no worker ended (cancelled or expired in its queue, failed because its worker was lost, answered together with
an identical job) is not in `penstock_jobs_total`, `penstock_job_failures_total` and `penstock_tenant_jobs_total`, but in
`penstock_jobs_ended_without_worker_total`, which every api process has. Together they are all ended jobs. The
recording rule `penstock:jobs_ended:rate5m` adds them."""

_ASKED_METRICS_NOTE = """\
The GPUs are those of `gpus`, otherwise all; several workers may report the same one: take `max by (uuid, gpu)`. Without
an NVIDIA driver there are no such series. A value that an engine does not report has no series either. The api also
has the disks' series.

In addition: the `process_*` and `python_*` metrics, and with the engine `vllm` all of vLLM's own (`vllm:*`)."""


def metrics_page() -> str:
    """Return the page on metrics."""
    from prometheus_client import CollectorRegistry

    from monitoring.metrics import (
        LATENCY_BUCKETS_S,
        AcceptedJobs,
        ApiMetrics,
        DataDisk,
        EngineGauges,
        Gpus,
        SharedState,
        WorkerMetrics,
    )

    buckets = ", ".join(f"{bound:g}" for bound in LATENCY_BUCKETS_S)
    return generated(
        "Metrics",
        "monitoring/metrics",
        _METRICS_INTRO,
        f"Buckets of the latencies, in seconds: {buckets}.",
        "## The api",
        metrics_table(ApiMetrics(CollectorRegistry())),
        _API_METRICS_NOTE,
        "## A coordinator",
        metrics_table(AcceptedJobs(CollectorRegistry())),
        _COORDINATOR_METRICS_NOTE,
        "## What every api process sees in Redis",
        metrics_table(SharedState(CollectorRegistry())),
        _SHARED_METRICS_NOTE,
        "## A worker",
        metrics_table(WorkerMetrics(CollectorRegistry())),
        _WORKER_METRICS_NOTE,
        "## A worker, asked at the scrape",
        families_table(EngineGauges, DataDisk, Gpus),
        _ASKED_METRICS_NOTE,
    )
