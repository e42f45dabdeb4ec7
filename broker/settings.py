"""Settings that every process shares. Read once at the process root from (first wins): the command line, the
environment (``PENSTOCK_*``), ``.env``, ``penstock.toml``; then passed on, never looked up again.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from broker.urls import celery_url

Seconds = Annotated[float, Field(gt=0)]


class BrokerSettings(BaseSettings):
    """Where Redis is and how jobs live in it."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_",
        env_file=".env",
        toml_file="penstock.toml",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis or Valkey: redis://, rediss://, unix:// or sentinel:// address.",
    )

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        celery_url(url)
        return url

    namespace: str = Field(
        "penstock",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Prefix of every key, channel and queue name.",
    )
    lease_ttl_s: Seconds = Field(15.0, description="A worker not heard of for this long has lost its jobs.")
    heartbeat_s: Seconds = Field(3.0, description="How often a worker prolongs its lease.")
    reap_interval_s: Seconds = Field(1.0, description="How often each process looks for lost jobs.")
    requeue_grace_s: Seconds = Field(
        2.0, description="A queued job whose message is missing this long gets a new one."
    )
    retry_base_s: Seconds = Field(
        1.0,
        description="Wait before the second attempt of a job whose engine failed; doubles with each, with jitter.",
    )
    retry_max_s: Seconds = Field(60.0, description="Longest wait between attempts.")
    retention_s: Seconds = Field(86_400.0, description="How long a finished job and its result are kept.")
    queue_max: int = Field(
        1_000_000, ge=1, description="Jobs that may wait in one lane; more are answered 429."
    )
    max_result_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="A larger engine response fails its job with result_too_large."
    )
    task_events: bool = Field(
        default=True, description="Celery task events, which Flower shows; they cost about 0.3 ms CPU a job."
    )
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Least level that is logged."
    )
    log_json: bool = Field(default=False, description="Log lines as JSON rather than for reading.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put ``penstock.toml`` last, behind the environment."""
        return (
            init_settings,
            env_settings,
            dotenv_settings,
            file_secret_settings,
            TomlConfigSettingsSource(settings_cls),
        )
