"""Settings that every process shares.

A process reads them once, at its start, and passes them on. The sources, first wins: the command line, the environment
(``PENSTOCK_*``), secret files (:mod:`broker.secret_files`), ``penstock.toml``. Nothing reads ``.env``: that file is for
compose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from broker.db.urls import check_url, with_password
from broker.secret_files import SecretFiles
from broker.sources import JSON_TABLE, PREFIX, CommaList, Environment, OneName, named, settings_file
from jobs.addresses import Allowed
from jobs.names import LOG_LEVEL, NAME, WEB_ADDRESS
from jobs.sealing import Keyring

Seconds = Annotated[float, Field(gt=0)]
TenantName = Annotated[str, Field(pattern=NAME)]


class TenantSettings(BaseModel):
    """The share and the bounds of one tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(
        1.0, ge=0.001, le=1000, description="Its share of a lane, relative to the other tenants' weights."
    )
    queue_max: int | None = Field(None, ge=1, description="Overrides `tenant_queue_max` for this tenant.")
    max_active: int | None = Field(None, ge=1, description="Overrides `tenant_max_active` for this tenant.")


class BrokerSettings(BaseSettings):
    """Where Redis is, and how jobs are kept in it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",  # the settings of other processes; `penstock.server.names` refuses unknown names
        frozen=True,
        env_ignore_empty=True,
        enable_decoding=False,  # the fields read their own text, so that a bad one is a validation error
        populate_by_name=True,
        hide_input_in_errors=True,  # it may hold passwords and keys
    )

    redis_password: SecretStr | None = Field(
        None,
        description="The password for a `redis_url` that has none, which keeps it out of the address; best in a file.",
    )

    redis_url: str = Field(  # behind its password, which it takes in
        "redis://127.0.0.1:6379/0",
        description="Redis or Valkey: redis://, rediss://, unix://, sentinel:// or rediss+sentinel:// address.",
        repr=False,  # it may hold a password
        validate_default=True,
    )

    @field_validator("redis_url")
    @classmethod
    def _with_password(cls, url: str, info: ValidationInfo) -> str:
        check_url(url)
        password = info.data.get("redis_password")
        return with_password(url, password.get_secret_value()) if password else url

    namespace: str = Field(
        "penstock",
        pattern=NAME,
        description="Prefix of every key, channel and queue name.",
    )
    lease_ttl_s: Seconds = Field(
        15.0, description="A worker without a heartbeat for this long loses its jobs to other workers."
    )
    heartbeat_s: Seconds = Field(
        3.0, description="How often a worker sends a heartbeat, which prolongs its lease."
    )
    reap_interval_s: Seconds = Field(
        1.0, description="How often each process runs the reaper, which finds lost jobs."
    )
    retry_base_s: Seconds = Field(
        1.0,
        description="Delay before the second attempt of a job whose engine failed; doubles with each attempt, with jitter.",
    )
    retry_max_s: Seconds = Field(60.0, description="Longest delay between attempts.")
    retention_s: Seconds = Field(86_400.0, description="How long a finished job and its result are kept.")
    unstored_s: Seconds = Field(
        300.0,
        le=86_400,
        description="How long the result of a job with `store: false` is kept if nobody fetches it.",
    )
    adapter_max_bytes: int = Field(
        2 * 1024**3, ge=1024, description="Bytes of the files of a LoRA adapter; a larger one is refused."
    )
    adapters_per_pool: int = Field(
        500, ge=1, le=100_000, description="LoRA adapters that a pool may have; further ones are refused."
    )
    queue_max: int = Field(
        1_000_000,
        ge=1,
        validation_alias=named("queue_max"),
        description="Jobs that may wait in one lane; further ones are answered 429 `queue_full`.",
    )
    max_active: int | None = Field(
        None,
        ge=1,
        validation_alias=named("max_active"),
        description="Jobs of one pool on its engines at once, even if its workers have more slots; default: no such limit.",
    )
    queue_mode: Literal["queue", "reject"] = Field(
        "queue",
        validation_alias=named("queue_mode"),
        description="queue: a job that cannot start at once waits. reject: it is answered 429 `gpu_busy`, except in `bulk`.",
    )
    infeasible_deadline: Literal["warn", "refuse"] = Field(
        "warn",
        description="A job that by estimate misses its deadline is accepted with a warning (warn) or answered 400 (refuse).",
    )
    turns: Literal["tokens", "jobs"] = Field(
        "tokens",
        description="What a tenant's turn costs: `tokens`: its job's prompt and completion tokens, by estimate and"
        " corrected at its end, so that weights share the engines' work; `jobs`: 1, so that weights share numbers of jobs.",
    )
    ageing_s: float = Field(
        600.0, ge=0, description="Jobs that waited this long in `low` or `normal` move up one lane; 0: never."
    )
    tenant_queue_max: int | None = Field(
        None,
        ge=1,
        description="Jobs of one tenant that may wait in a pool, unless the tenant has a bound of its own; further ones are"
        " answered 429.",
    )
    tenant_max_active: int | None = Field(
        None,
        ge=1,
        description="Jobs of one tenant on a pool's engines at once, unless the tenant has a bound of its own; further ones"
        " wait.",
    )
    tenants: Annotated[dict[TenantName, TenantSettings], JSON_TABLE] = Field(
        {},
        description="Weights and bounds with which tenants begin, for example `[tenants.alice]` with `weight = 3` in"
        " `penstock.toml`. Each tenant is taken over once; change it later with `penstock tenants set`.",
    )

    shared_prefix_cache: bool = Field(
        default=False,
        description="Let tenants share the engines' prefix caches. Common prompts are then computed once, but by its time "
        "to the first token a tenant can find out what another asked. False: each tenant has its own `cache_salt`.",
    )

    audit_retention_days: int = Field(
        400, ge=1, le=36_500, description="How long entries of the audit stream are kept."
    )
    audit_max_entries: int = Field(
        100_000,
        ge=100,
        le=10_000_000,
        description="Most entries of the audit stream, about 250 bytes each in Redis; the oldest leave first.",
    )
    usage_retention_days: int = Field(
        400,
        ge=63,
        le=36_500,
        description="How long the usage of a day is kept; after 62 days without its keys.",
    )
    usage_rows_max: int = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="Most rows of usage a day, one for each tenant, key and model, about 110 bytes each in Redis; further"
        " ones are counted under the key `other`. 0: no usage is counted.",
    )

    encryption_keys: SecretStr | None = Field(
        None,
        description="Keys that encrypt requests, results and files at rest: lines of `id:base64 of 32 bytes`, as"
        " `penstock encryption new-key` prints them; best in a file. The first encrypts, all decrypt. Every process needs"
        " the same. Default: no encryption.",
    )

    @field_validator("encryption_keys")
    @classmethod
    def _readable_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None:
            Keyring.parse(keys.get_secret_value())
        return keys

    @property
    def keyring(self) -> Keyring | None:
        """The keys of encryption at rest; None: there is no encryption."""
        return (
            None if self.encryption_keys is None else Keyring.parse(self.encryption_keys.get_secret_value())
        )

    max_result_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="A job whose response is larger fails with `result_too_large`."
    )
    image_max_bytes: int = Field(
        20 * 1024**2,
        ge=1024,
        description="A larger image in a request is refused: 400; 413 of a file that the request names. A worker has it in"
        " memory while the request runs, a third larger. The api and the workers need the same.",
    )
    request_images_max_bytes: int = Field(
        64 * 1024**2,
        ge=1024,
        description="The files that a request names as images may have this many bytes together; a file counts at each place"
        " that names it. Beyond it: 413. The api and the workers need the same.",
    )
    image_max_pixels: int = Field(
        64 * 1024**2,
        ge=1024,
        description="An image of more pixels is refused: 400. It takes three bytes a pixel while it is read. The api and the"
        " workers need the same.",
    )
    request_images_max: int = Field(
        64,
        ge=1,
        le=1024,
        description="Most images, audio clips and videos of one request together; then 400. A model may take fewer. The api"
        " and the workers need the same.",
    )
    inline_bytes: int = Field(
        256 * 1024,
        ge=1024,
        le=1024**3,
        description="A request or a result above this size is kept in the storage of files, and Redis has a reference. It is"
        " kept in Redis if a worker of its pool has another storage than the api.",
    )
    data_dir: Path = Field(
        Path(".penstock"), description="Directory of the embedded Valkey, files, logs and the tiny model."
    )
    files_url: str | None = Field(
        None,
        description="Where files and batches are stored: a directory, or s3://bucket/prefix. Every process needs the same. "
        "Default: `files` in `data_dir`.",
    )

    @field_validator("files_url")
    @classmethod
    def _known_storage(cls, url: str | None) -> str | None:
        """Refuse an address of no storage: it would become a folder of that name, another one for each process."""
        scheme, found, rest = (url or "/").partition("://")
        if url == "" or (found and (scheme != "s3" or rest.startswith("/") or not rest)):
            msg = "neither a directory, such as /srv/penstock, nor s3://bucket/prefix"
            raise ValueError(msg)
        return url

    files_s3_endpoint: str | None = Field(
        None,
        description="Address of an S3-compatible server; default: Amazon's. Credentials come from the `AWS_*` variables.",
    )
    files_s3_region: str | None = Field(None, description="Its region.")
    files_timeout_s: Seconds = Field(
        20.0, description="Longest wait for one answer of the S3 server, including retries."
    )
    webhook_allow_private: CommaList = Field(
        (),
        description="Networks to which webhooks may go although they are not public, such as `10.1.0.0/16,192.168.1.7`;"
        " `all`: every private network and this machine, but no metadata service of a cloud. Default: public addresses"
        " alone.",
    )
    webhook_allow_http: bool = Field(
        default=False, description="Let webhooks go to `http://` addresses, which anyone on the way can read."
    )

    @field_validator("webhook_allow_private")
    @classmethod
    def _readable_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        Allowed.parse(networks)
        return networks

    @property
    def webhook_networks(self) -> Allowed:
        """The networks of `webhook_allow_private`."""
        return Allowed.parse(self.webhook_allow_private)

    task_events: bool = Field(
        default=True, description="Send Celery task events, which Flower shows; see `task_events_max_per_s`."
    )
    task_events_max_per_s: float = Field(
        50.0,
        ge=0.0,
        description="Most jobs per second and worker whose events are sent; of further jobs Flower sees failures alone. "
        "0: no limit.",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=WEB_ADDRESS,
        description="Collector that receives traces as OTLP over HTTP, such as http://collector:4318; default: no traces. "
        "OpenTelemetry's own variables (`OTEL_*`) work too.",
    )
    trace_ratio: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="Share of new traces that is recorded, 0 to 1. A caller's own decision (`traceparent`) overrides it.",
    )
    trace_max_per_s: float = Field(
        20.0,
        ge=0.0,
        description="Most new traces recorded per second and api process, to bound their cost under load; 0: no limit.",
    )
    log_level: str = Field("info", pattern=LOG_LEVEL, description="Lowest level that is logged.")
    log_max_bytes: int = Field(
        16 * 1024 * 1024,
        ge=64 * 1024,
        description="A log file of `penstock up` that is larger is set aside as `NAME.log.1` while its process runs.",
    )
    log_backups: int = Field(
        3, ge=0, le=1000, description="Log files of each process that are set aside; older ones are deleted."
    )
    log_json: bool = Field(default=False, description="Write log lines as JSON instead of text.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put secret files after the environment, and ``penstock.toml`` last."""
        # Ours are instead of the first and the last, and nothing is instead of the other.
        del env_settings, dotenv_settings, file_secret_settings
        return (
            init_settings,
            OneName(settings_cls, Environment(settings_cls)),
            SecretFiles(settings_cls),
            TomlConfigSettingsSource(settings_cls, settings_file()),
        )


class MetricsSettings(BrokerSettings):
    """Where a process without an HTTP server of its own serves its metrics."""

    metrics_host: str = Field("127.0.0.1", description="Where /metrics listens.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Its port; 0: a free one, which is logged.")
    metrics_advertise_host: str | None = Field(
        None,
        description="The host under which Prometheus finds it (`GET /v1/metrics/targets`); default: `metrics_host`, or "
        "the machine's name if that is 0.0.0.0.",
    )
