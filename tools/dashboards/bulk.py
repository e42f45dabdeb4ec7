"""The dashboards of batches and tenants."""

from __future__ import annotations

from tools.dashboards.panels import (
    POOL,
    V_POOL,
    Board,
    Row,
    lines,
    ratio,
    seen,
)

WAITING_BY_TENANT = lines(
    "Waiting by tenant",
    "short",
    "Jobs, in all lanes.",
    (
        f"sum by (tenant) (max by (pool, tenant) ({seen('penstock_tenant_waiting_jobs' + POOL)}))",
        "{{tenant}}",
    ),
    stack=True,
)

ACCEPTED_BY_TENANT = lines(
    "Accepted by tenant",
    "reqps",
    "Jobs; a chunk of a batch is one.",
    ("sum by (tenant) (rate(penstock_tenant_jobs_accepted_total[$__rate_interval]))", "{{tenant}}"),
    stack=True,
)

BATCHES = Board(
    "penstock-batches",
    "Penstock: batches",
    "How fast bulk work goes, and what holds it back.",
    (V_POOL,),
    (
        Row(
            "Rows",
            (
                lines(
                    "Rows",
                    "rowsps",
                    "Rows per second written to disk, by outcome.",
                    (
                        f"sum by (outcome) (rate(penstock_batch_rows_total{POOL}[$__rate_interval]))",
                        "{{outcome}}",
                    ),
                    stack=True,
                ),
                lines(
                    "Batches",
                    "short",
                    "That have not ended.",
                    (f"max({seen('penstock_batches_active')})", "active"),
                ),
                lines(
                    "Rows, in all",
                    "short",
                    "Since the workers' starts.",
                    (f"sum by (outcome) (penstock_batch_rows_total{POOL})", "{{outcome}}"),
                ),
                lines(
                    "Bulk tokens",
                    "short",
                    "Tokens per second of finished bulk jobs, by kind.",
                    (
                        f'sum by (kind) (rate(penstock_tokens_total{POOL[:-1]},lane="bulk"}}[$__rate_interval]))',
                        "{{kind}}",
                    ),
                ),
            ),
        ),
        Row(
            "What holds it back",
            (
                lines(
                    "Bulk jobs",
                    "short",
                    "Waiting, running (a chunk is one), their rows on the engines, and what the lane controllers allow.",
                    (f'sum(penstock:queue_depth:max{POOL[:-1]},lane="bulk"}})', "waiting"),
                    (f'sum(penstock_jobs_running{POOL[:-1]},lane="bulk"}})', "running"),
                    (f"sum(penstock_batch_rows_running{POOL})", "rows"),
                    (f"sum(penstock_bulk_limit{POOL})", "limit"),
                ),
                lines(
                    "Reasons",
                    "short",
                    "The lane controllers' adjustments per second; every reason but open halves the limit.",
                    (
                        f"sum by (reason) (rate(penstock_bulk_limit_adjustments_total{POOL}[$__rate_interval]))",
                        "{{reason}}",
                    ),
                ),
                lines(
                    "Interactive work",
                    "short",
                    "Jobs of the other lanes on the engines.",
                    (f'sum by (lane) (penstock_jobs_running{POOL[:-1]},lane!="bulk"}})', "{{lane}}"),
                    stack=True,
                ),
                lines(
                    "Data disk",
                    "bytes",
                    "Bytes free under the folders of data and of files.",
                    ("min by (instance, folder) (penstock_data_disk_free_bytes)", "{{instance}} {{folder}}"),
                ),
            ),
        ),
        Row(
            "Webhooks",
            (
                lines(
                    "Tries",
                    "reqps",
                    "Tries to deliver an event per second, by result.",
                    (
                        "max by (result) (rate(penstock_webhook_tries_total[$__rate_interval]))",
                        "{{result}}",
                    ),
                ),
                lines(
                    "Events that wait",
                    "short",
                    "Not delivered yet; given up and kept.",
                    (f"max({seen('penstock_webhook_events_pending')})", "pending"),
                    (f"max({seen('penstock_webhook_dead_letters')})", "dead"),
                ),
                lines(
                    "Oldest event",
                    "s",
                    "How long the oldest event of an active endpoint waits.",
                    (f"max({seen('penstock_webhook_oldest_seconds')})", "oldest"),
                ),
                lines(
                    "Endpoints",
                    "short",
                    "By state; overdue: no coordinator has taken one that should have been served a minute ago.",
                    (f"max by (state) ({seen('penstock_webhooks')})", "{{state}}"),
                    (f"max({seen('penstock_webhooks_overdue')})", "overdue"),
                ),
            ),
        ),
    ),
)

TENANTS = Board(
    "penstock-tenants",
    "Penstock: tenants",
    "Who uses it. Tenants without a name in the configuration are one: other.",
    (V_POOL,),
    (
        Row(
            "Jobs",
            (
                WAITING_BY_TENANT,
                ACCEPTED_BY_TENANT,
                lines(
                    "Ended by tenant",
                    "reqps",
                    "Jobs that workers ended, by final state.",
                    (
                        f"sum by (tenant, state) (rate(penstock_tenant_jobs_total{POOL}[$__rate_interval])) > 0",
                        "{{tenant}} {{state}}",
                    ),
                ),
            ),
        ),
        Row(
            "Tokens",
            (
                lines(
                    "Tokens by tenant",
                    "short",
                    "Per second, of finished jobs.",
                    (
                        f"sum by (tenant, kind) (rate(penstock_tenant_tokens_total{POOL}[$__rate_interval])) > 0",
                        "{{tenant}} {{kind}}",
                    ),
                    stack=True,
                    width=12,
                ),
                lines(
                    "Share of the tokens",
                    "percentunit",
                    "Of finished jobs, prompt and completion together.",
                    (
                        ratio(
                            f"sum by (tenant) (rate(penstock_tenant_tokens_total{POOL}[$__rate_interval]))",
                            f"scalar(sum(rate(penstock_tenant_tokens_total{POOL}[$__rate_interval])) > 0)",
                        ),
                        "{{tenant}}",
                    ),
                    stack=True,
                    width=12,
                ),
            ),
        ),
        Row(
            "Usage of a day",
            (
                lines(
                    "Jobs in 24 h by tenant",
                    "short",
                    "Jobs that workers ended in the 24 hours before. `penstock usage` has the exact counts.",
                    (f"sum by (tenant) (increase(penstock_tenant_jobs_total{POOL}[24h])) > 0", "{{tenant}}"),
                    stack=True,
                    width=12,
                ),
                lines(
                    "Tokens in 24 h by tenant",
                    "short",
                    "Prompt and completion tokens, of jobs and rows of batches, in the 24 hours before.",
                    (
                        f"sum by (tenant, kind) (increase(penstock_tenant_tokens_total{POOL}[24h])) > 0",
                        "{{tenant}} {{kind}}",
                    ),
                    stack=True,
                    width=12,
                ),
            ),
        ),
    ),
)
