"""Settings of the api process. Same sources and rules as :class:`broker.settings.BrokerSettings`."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from broker.settings import BrokerSettings, Seconds, TenantName, named


class ApiSettings(BrokerSettings):
    """Where the api listens, and the bounds it puts on requests."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8080, ge=0, le=65_535, description="TCP port to listen on; 0 picks a free one.")
    default_model: str | None = Field(
        None,
        description="The model, or an alias of one, for requests that name none; without it they are refused.",
    )
    max_body_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="A larger request body is answered 413."
    )
    max_body_items: int = Field(
        262_144,
        ge=1024,
        description="A request body with more JSON items (elements of arrays and members of objects, at all levels) is "
        "answered 400; an array or object counts 4. A prompt of token ids has an item per token.",
    )
    bodies_memory_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory for the request bodies above 64 KiB that are being read and checked; further ones wait. "
        "It is at least `max_body_bytes`.",
    )
    body_timeout_s: Seconds = Field(
        60.0, description="How long a request body above 64 KiB may take to arrive; then 408 `body_timeout`."
    )
    file_max_bytes: int = Field(
        16 * 1024**3, ge=1024, description="A larger upload to /v1/files is answered 413."
    )
    file_retention_s: Seconds = Field(
        30 * 86_400.0, description="How long a batch's input is kept if its upload does not say."
    )
    max_wait_s: Seconds = Field(
        300.0, description="Longest wait for a job's end that one request may ask for."
    )
    request_timeout_s: Seconds = Field(
        600.0,
        validation_alias=named("request_timeout_s"),
        description="Longest duration of a call to an OpenAI endpoint, queueing included; then 504.",
    )
    sse_ping_s: Seconds = Field(
        15.0, description="An idle job event stream gets a comment this often, so that proxies keep it open."
    )
    inbox_limit: int = Field(
        4096,
        ge=16,
        description="Events buffered for a slow reader; one that is further behind continues from the job's log.",
    )
    count_timeout_s: Seconds = Field(
        1.0,
        description="How long a worker may take to count the tokens of a prompt that may be too long; "
        "after that the request is accepted, and its engine decides.",
    )
    catalogue_refresh_s: Seconds = Field(
        1.0, description="Interval between two look-ups of the models and live workers."
    )
    queue_timeout_s: Seconds = Field(
        120.0,
        validation_alias=named("queue_timeout_s"),
        description="How long a call to an OpenAI endpoint may wait for its start; then 503 `queue_timeout`.",
    )
    api_keys: dict[TenantName, SecretStr] = Field(
        {},
        description="API keys by the name of their tenant. With any, every call of `/v1` needs one of them.",
    )
    shutdown_grace_s: int = Field(
        5, ge=0, description="On SIGTERM, how long open requests may continue; then they are cut off."
    )

    @field_validator("api_keys")
    @classmethod
    def _distinct(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        given = [key.get_secret_value() for key in keys.values()]
        if len(set(given)) < len(given) or not all(given):
            raise ValueError("each tenant needs a key of its own, and none may be empty")
        return keys
