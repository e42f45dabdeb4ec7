"""Every metric is there from the start, labels stay few, and a GPU's figures are told as the driver tells them."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from jobs.facts import (
    EnginePriority,
    EngineStats,
    QueueFacts,
    Reaped,
    SpeculationStats,
    WebhookFacts,
    WorkerFacts,
)
from jobs.failures import FailureCode
from jobs.lanes import Lane
from monitoring.metrics import (
    ApiMetrics,
    DataDisk,
    EngineGauges,
    Gpus,
    SharedState,
    TenantNames,
    WorkerMetrics,
    set_up,
)
from tests.gpus import TwoGpus
from workers.admission.policy import LimitReason


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, /, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_workers_series_are_there_at_0(registry: CollectorRegistry) -> None:
    WorkerMetrics(
        registry,
        list(FailureCode),
        lanes=list(Lane),
        limit_reasons=list(LimitReason),
        tenants=TenantNames(["research"]),
    )
    for metric in registry.collect():
        assert metric.samples, f"{metric.name} has no series before its first event"
        assert metric.documentation.endswith("."), metric.name
    assert value(registry, "penstock_jobs_total", state="expired", lane="bulk") == 0
    assert value(registry, "penstock_job_failures_total", code="poisoned") == 0
    assert value(registry, "penstock_queue_wait_seconds_count", lane="realtime") == 0
    assert value(registry, "penstock_bulk_limit_adjustments_total", reason="kv_cache") == 0
    assert value(registry, "penstock_tenant_tokens_total", tenant="other", kind="prompt") == 0
    assert value(registry, "penstock_batch_rows_total", outcome="failed") == 0


def test_an_apis_series_are_there_at_0(registry: CollectorRegistry) -> None:
    metrics = ApiMetrics(
        registry, lanes=list(Lane), error_codes=["queue_full"], tenants=TenantNames(["research"])
    )
    metrics.expect(["/v1/jobs"], streaming=["/v1/completions"])
    for metric in registry.collect():
        assert metric.samples, f"{metric.name} has no series before its first event"
    assert value(registry, "api_requests_total", endpoint="/v1/jobs", status="429") == 0
    assert value(registry, "api_errors_total", code="queue_full") == 0
    assert value(registry, "api_time_to_first_token_seconds_count", endpoint="/v1/completions") == 0


def test_tenants_above_the_limit_share_a_label(registry: CollectorRegistry) -> None:
    metrics = ApiMetrics(registry, tenants=TenantNames(["research"], limit=1))
    for tenant in ("research", "a", "b", "c"):
        metrics.count_accepted("normal", tenant)
    assert value(registry, "penstock_tenant_jobs_accepted_total", tenant="research") == 1
    assert value(registry, "penstock_tenant_jobs_accepted_total", tenant="other") == 3
    assert value(registry, "penstock_tenant_jobs_accepted_total", tenant="a") is None


def test_the_first_few_names_have_labels() -> None:
    names = TenantNames(limit=2)
    assert [names.label(f"t{n % 4}") for n in range(8)] == ["t0", "t1", "other", "other"] * 2
    assert list(names) == ["other", "t0", "t1"]


def test_takeovers_are_what_the_reaper_took_from_lost_workers(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry)
    metrics.reaper.count(Reaped(requeued=2, failed=1, expired=4, retired=7, due=0, aged=0))
    assert value(registry, "penstock_takeovers_total") == 3
    assert value(registry, "penstock_reaped_total", action="expired") == 4


def test_pools_without_a_worker_say_0_and_comings_and_goings_are_counted(registry: CollectorRegistry) -> None:
    seen = SharedState(registry)
    one, two = WorkerFacts("w-1", "default", "ready", 3, 8), WorkerFacts("w-2", "default", "draining", 1, 8)
    seen.take_workers([one], ["default", "big"])
    assert value(registry, "penstock_workers", pool="big", state="ready") == 0
    assert value(registry, "penstock_worker_joins_total", pool="default") == 0
    seen.take_workers([one, two], ["default"])
    assert value(registry, "penstock_worker_joins_total", pool="default") == 1
    assert value(registry, "penstock_pool_active_jobs", pool="default") == 4
    assert value(registry, "penstock_pool_capacity_jobs", pool="default") == 8
    seen.take_workers([], [])
    assert value(registry, "penstock_workers", pool="default", state="ready") == 0
    assert value(registry, "penstock_worker_leaves_total", pool="default") == 2


def test_a_pools_limit_is_the_setting_where_that_is_less(registry: CollectorRegistry) -> None:
    seen = SharedState(registry, TenantNames(["research"], limit=1))
    tenants = {("default", "research"): 2, ("default", "a"): 3, ("default", "b"): 4}
    seen.take_queues(QueueFacts({}, {}, {}, 0, 0, paused={"default": True}, tenants=tenants, max_active=5))
    seen.take_workers([WorkerFacts("w-1", "default", "ready", 3, 8)], ["default"])
    assert value(registry, "penstock_pool_capacity_jobs", pool="default") == 5
    assert value(registry, "penstock_pool_paused", pool="default") == 1
    assert value(registry, "penstock_tenant_waiting_jobs", pool="default", tenant="research") == 2
    assert value(registry, "penstock_tenant_waiting_jobs", pool="default", tenant="other") == 7


def test_an_empty_queue_has_no_age(registry: CollectorRegistry) -> None:
    seen = SharedState(registry)
    place = ("default", "bulk")
    seen.take_queues(QueueFacts({place: 1}, {place: 12.5}, {"queued": 1}, 0, 0))
    assert value(registry, "penstock_oldest_queued_age_seconds", pool="default", lane="bulk") == 12.5
    seen.take_queues(QueueFacts({place: 0}, {}, {"queued": 0}, 0, 0))
    assert value(registry, "penstock_oldest_queued_age_seconds", pool="default", lane="bulk") == 0


def test_ends_without_a_worker_are_counted_on_from_0_where_redis_came_back_empty(
    registry: CollectorRegistry,
) -> None:
    seen = SharedState(registry)
    depths = {("default", "bulk"): 0}
    lost = ("default", "bulk", "failed", "worker_lost")

    def counted() -> float | None:
        labels = dict(zip(("pool", "lane", "state", "code"), lost, strict=True))
        return value(registry, "penstock_jobs_ended_without_worker_total", **labels)

    for held, told in (
        ({}, 0),
        ({lost: 4}, 4),
        ({lost: 4}, 4),
        ({lost: 6}, 6),
        ({lost: 1}, 7),
        ({}, 7),
        ({lost: 2}, 9),
    ):
        seen.take_queues(QueueFacts(depths, {}, {}, 0, 0, ended=held))
        assert counted() == told


def test_what_an_engine_does_not_say_has_no_series(registry: CollectorRegistry) -> None:
    EngineGauges(registry, lambda: EngineStats(running=4), lambda: EnginePriority.IGNORED)
    assert value(registry, "penstock_engine_requests_running") == 4
    assert value(registry, "penstock_engine_kv_cache_usage_ratio") is None
    assert value(registry, "penstock_spec_drafts_total") is None


def test_an_engine_that_speculates_says_how_well_it_guesses(registry: CollectorRegistry) -> None:
    stats = EngineStats(speculation=SpeculationStats(drafts=10, drafted=40, accepted=25))
    EngineGauges(registry, lambda: stats, lambda: EnginePriority.WORKS)
    names = ("drafts", "drafted_tokens", "accepted_tokens")
    assert [value(registry, f"penstock_spec_{name}_total") for name in names] == [10, 40, 25]


@pytest.mark.parametrize("now", EnginePriority)
def test_the_state_of_an_engines_priorities_is_the_one_series_at_1(
    registry: CollectorRegistry, now: EnginePriority
) -> None:
    EngineGauges(registry, EngineStats, lambda: now)
    states = {one: value(registry, "penstock_engine_priority", state=one.value) for one in EnginePriority}
    assert states == {one: float(one is now) for one in EnginePriority}


def test_the_disk_of_a_folder_that_is_yet_to_be_made(registry: CollectorRegistry, tmp_path: Path) -> None:
    DataDisk(registry, {"data": tmp_path / "not" / "there", "files": Path("/proc/self")})
    free, size = (
        value(registry, "penstock_data_disk_free_bytes", folder="data"),
        value(registry, "penstock_data_disk_size_bytes", folder="data"),
    )
    assert value(registry, "penstock_data_disk_size_bytes", folder="files") != size
    assert free
    assert size
    assert 0 < free <= size


def test_build_info_and_no_created_series(registry: CollectorRegistry) -> None:
    set_up(registry, "api")
    ApiMetrics(registry, lanes=["bulk"])
    text = generate_latest(registry).decode()
    assert 'penstock_build_info{component="api"' in text
    assert "_created" not in text


def test_without_a_driver_there_is_no_series_and_no_error(registry: CollectorRegistry) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        expected = 0
    else:
        expected = pynvml.nvmlDeviceGetCount()
    Gpus(registry)
    memory = next(m for m in registry.collect() if m.name == "penstock_gpu_memory_total_bytes")
    assert len(memory.samples) == expected


def test_a_gpus_figures_in_the_units_of_their_names(registry: CollectorRegistry) -> None:
    Gpus(registry, nvml=TwoGpus())
    first = {"gpu": "0", "uuid": "GPU-0", "name": "H100"}
    assert value(registry, "penstock_gpu_utilization_ratio", **first) == 0.93
    assert value(registry, "penstock_gpu_memory_used_bytes", **first) == 70 << 30
    assert value(registry, "penstock_gpu_temperature_celsius", **first) == 61
    assert value(registry, "penstock_gpu_power_watts", **first) == 543.21
    second = {"gpu": "1", "uuid": "GPU-1", "name": "H100"}
    assert value(registry, "penstock_gpu_power_watts", **second) is None
    assert value(registry, "penstock_gpu_power_limit_watts", **second) == 700


def test_only_the_workers_own_gpus(registry: CollectorRegistry) -> None:
    Gpus(registry, [1], nvml=TwoGpus())
    memory = next(m for m in registry.collect() if m.name == "penstock_gpu_memory_total_bytes")
    assert [sample.labels["gpu"] for sample in memory.samples] == ["1"]


def test_webhooks_are_counted_on_from_0_where_redis_came_back_empty(registry: CollectorRegistry) -> None:
    seen = SharedState(registry).webhooks
    assert value(registry, "penstock_webhook_tries_total", result="failed") == 0
    seen.take(WebhookFacts(2, 1, 1, 40, 12.5, 7, {"delivered": 5, "failed": 3, "dead:overflow": 2}))
    assert value(registry, "penstock_webhooks", state="active") == 2
    assert value(registry, "penstock_webhooks", state="disabled") == 1
    assert value(registry, "penstock_webhooks_overdue") == 1
    assert value(registry, "penstock_webhook_events_pending") == 40
    assert value(registry, "penstock_webhook_oldest_seconds") == 12.5
    assert value(registry, "penstock_webhook_dead_letters") == 7
    seen.take(WebhookFacts(counts={"delivered": 9, "failed": 3, "dead:overflow": 2}))
    seen.take(WebhookFacts(counts={"delivered": 1}))
    assert value(registry, "penstock_webhook_tries_total", result="delivered") == 10
    assert value(registry, "penstock_webhook_tries_total", result="failed") == 3
    assert value(registry, "penstock_webhook_events_given_up_total", reason="overflow") == 2
    assert value(registry, "penstock_webhook_oldest_seconds") == 0
