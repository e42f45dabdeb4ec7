"""Settings of the coordinator process. Same sources and rules as :class:`broker.settings.BrokerSettings`."""

from __future__ import annotations

from pydantic import Field

from broker.settings import MetricsSettings, Seconds


class CoordinatorSettings(MetricsSettings):
    """How batches are cut and driven, and how long they are kept."""

    batch_max_rows: int | None = Field(
        None, ge=1, description="A batch with more rows fails its validation; default: no limit."
    )
    batch_chunk_rows: int = Field(
        250, ge=1, le=100_000, description="Rows of a batch that are given to a worker at once, at least."
    )
    batch_retention_s: Seconds = Field(
        30 * 86_400.0,
        description="How long an ended batch can be looked up; its files have lifetimes of their own.",
    )
    batch_parts_retention_s: Seconds = Field(
        3600.0,
        description="How long after a batch's end a reader of `/results` can go on from where it was; "
        "then the pieces of which the output was made are deleted.",
    )
    batch_lease_s: Seconds = Field(
        10.0, description="When a coordinator dies, another takes over its batches after this time."
    )
    webhook_timeout_s: Seconds = Field(
        10.0,
        le=60.0,
        description="Longest time of one try to deliver a webhook, from the connection to the answer.",
    )
    webhook_disable_after_s: Seconds = Field(
        3 * 86_400.0,
        description="A webhook endpoint is disabled when each of its tries has failed for this long.",
    )
    webhook_endpoints_at_once: int = Field(
        64, ge=1, le=1000, description="Endpoints to which one coordinator delivers at once."
    )
    webhook_in_flight: int = Field(
        1,
        ge=1,
        le=64,
        description="Deliveries to one endpoint at once. 1: strictly in order. More, for slow receivers: they begin in"
        " order, and one that fails no longer holds those that began beside it.",
    )
