"""Rows of the operator's dashboard: the GPUs and engines, the workers, Redis and the disk."""

from __future__ import annotations

from tools.dashboards.panels import (
    AMBER,
    GREEN,
    POOL,
    RED,
    Row,
    ended,
    lines,
    quantiles,
    seen,
)

_GPU = "{{host}} {{gpu}}"

ENGINES = Row(
    "GPUs and engines",
    (
        lines(
            "GPU utilisation",
            "percentunit",
            "Part of the time in which a kernel ran, by GPU.",
            (f"max by (host, gpu, uuid) (penstock_gpu_utilization_ratio{POOL})", _GPU),
            width=6,
        ),
        lines(
            "GPU memory",
            "percentunit",
            "Part that is in use, by every process. vLLM takes what it was given at its start, and keeps it.",
            (
                f"max by (host, gpu, uuid) (penstock_gpu_memory_used_bytes{POOL} / penstock_gpu_memory_total_bytes{POOL})",
                _GPU,
            ),
            width=6,
        ),
        lines(
            "GPU temperature",
            "celsius",
            "Of the die.",
            (f"max by (host, gpu, uuid) (penstock_gpu_temperature_celsius{POOL})", _GPU),
            thresholds=((None, GREEN), (88, RED)),
            width=6,
        ),
        lines(
            "KV cache",
            "percentunit",
            "Part that is in use, by worker.",
            (f"max by (pool, worker) (penstock_engine_kv_cache_usage_ratio{POOL})", "{{worker}}"),
            thresholds=((None, GREEN), (0.95, RED)),
            width=6,
        ),
    ),
)

WORKERS = Row(
    "Workers",
    (
        lines(
            "Paused pools",
            "short",
            "1 while a pool is paused.",
            (f"penstock:pool_paused:max{POOL}", "{{pool}}"),
        ),
        lines(
            "Workers",
            "short",
            "Leases alive, by pool and state.",
            (f"penstock:workers:max{POOL}", "{{pool}} {{state}}"),
        ),
        lines(
            "Saturation",
            "percentunit",
            "Jobs and rows of batches that run, of those that may, by pool.",
            (f"penstock:saturation:ratio{POOL}", "{{pool}}"),
            thresholds=((None, GREEN), (0.9, AMBER)),
        ),
        lines(
            "Running by lane",
            "short",
            "Jobs on the engines.",
            (f"sum by (lane) (penstock_jobs_running{POOL})", "{{lane}}"),
            stack=True,
        ),
        lines(
            "Bulk limit",
            "short",
            "What the lane controllers allow the bulk lane, and what it takes.",
            (f"sum(penstock_bulk_limit{POOL})", "limit"),
            (f'sum(penstock_jobs_running{POOL[:-1]},lane="bulk"}})', "jobs, a chunk is one"),
            (f"sum(penstock_batch_rows_running{POOL})", "rows of batches"),
        ),
        lines(
            "Bulk limit: reasons",
            "short",
            "Adjustments per second; every reason but open halves the limit.",
            (
                f"sum by (reason) (rate(penstock_bulk_limit_adjustments_total{POOL}[$__rate_interval]))",
                "{{reason}}",
            ),
        ),
        lines(
            "Run time",
            "s",
            "From claim to end.",
            *quantiles("penstock_run_seconds", "state", POOL, "{{state}}"),
        ),
        lines(
            "Failures by code",
            "reqps",
            "Failed jobs, those that died with their worker included.",
            (ended("code", "penstock_job_failures_total", POOL, ',state="failed"') + " > 0", "{{code}}"),
        ),
        lines(
            "Taken over, expired",
            "short",
            "What the reapers did within the last minutes.",
            ("sum(increase(penstock_takeovers_total[$__rate_interval]))", "taken over"),
            (
                'sum by (action) (increase(penstock_reaped_total{action=~"expired|due"}[$__rate_interval]))',
                "{{action}}",
            ),
        ),
        lines(
            "Attempts",
            "reqps",
            "By which attempt of its job it is, and those given back.",
            (f"sum by (number) (rate(penstock_attempts_total{POOL}[$__rate_interval]))", "{{number}}"),
            (f"sum(rate(penstock_attempts_given_back_total{POOL}[$__rate_interval]))", "given back"),
        ),
        lines(
            "Leases",
            "short",
            "Workers that came and went, heartbeats that Redis did not answer.",
            (f"max(increase(penstock_worker_joins_total{POOL}[$__rate_interval]))", "came"),
            (f"max(increase(penstock_worker_leaves_total{POOL}[$__rate_interval]))", "went"),
            (f"sum(increase(penstock_heartbeats_failed_total{POOL}[$__rate_interval]))", "heartbeats failed"),
        ),
        lines(
            "Fence rejections",
            "short",
            "Writes refused because others own the job, by worker.",
            (
                f"sum by (worker) (increase(penstock_fence_rejections_total{POOL}[$__rate_interval]))",
                "{{worker}}",
            ),
        ),
    ),
)

STORES = Row(
    "Redis and disk",
    (
        lines(
            "Redis memory",
            "bytes",
            "Used, maxmemory (0: no limit), and all of its machine's.",
            (f"max({seen('penstock_redis_memory_used_bytes')})", "used"),
            (f"max({seen('penstock_redis_memory_max_bytes')})", "maxmemory"),
            (f"max({seen('penstock_redis_memory_system_bytes')})", "machine"),
        ),
        lines(
            "Redis persistence",
            "short",
            "1: the last write went well.",
            (f"min by (kind) ({seen('penstock_redis_persistence_ok')})", "{{kind}}"),
            (f"min({seen('penstock_redis_aof_enabled')})", "aof enabled"),
            thresholds=((None, RED), (1, GREEN)),
        ),
        lines(
            "Redis connections and uptime",
            "short",
            "An uptime that falls is a restart.",
            (f"max({seen('penstock_redis_clients')})", "connections"),
            (f"max({seen('penstock_redis_uptime_seconds')})", "uptime, seconds"),
            log=True,
        ),
        lines(
            "Data disk",
            "percentunit",
            "Free part of the disks under the folders of data and of files.",
            ("penstock:data_disk_free:ratio", "{{instance}} {{folder}}"),
            thresholds=((None, RED), (0.1, GREEN)),
        ),
    ),
)
