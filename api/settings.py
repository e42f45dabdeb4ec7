"""Settings of the api process. Same sources and rules as :class:`broker.settings.BrokerSettings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from api.http.addresses import is_loopback, is_safe_url
from broker.settings import BrokerSettings, Seconds, TenantName
from broker.sources import JSON_TABLE, PAIRS, CommaList, check_sendable, named
from jobs.names import WEB_ADDRESS

_PEPPER_BYTES = 16


class NoPepperStartError(Exception):
    """The api requires keys, but there is no pepper for them. The message says what to do."""


class Price(BaseModel):
    """What a model costs: per million tokens, and per hour of device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: float = Field(0.0, ge=0, description="A million prompt tokens.")
    cached: float | None = Field(
        None, ge=0, description="A million prompt tokens that a cache held; default: as `prompt`."
    )
    completion: float = Field(0.0, ge=0, description="A million completion tokens.")
    gpu_hour: float = Field(0.0, ge=0, description="An hour of device.")


class TlsSettings(BrokerSettings):
    """TLS of the api."""

    tls_cert_file: Path | None = Field(
        None,
        description="PEM file with the api's certificate and its chain; then it serves https, from TLS 1.2 on. Changed files"
        " are read within seconds. Default: plain http.",
    )
    tls_key_file: Path | None = Field(
        None, description="PEM file with its private key, without a password. Default: in `tls_cert_file`."
    )
    tls_client_ca_file: Path | None = Field(
        None,
        description="PEM file with the authorities whose certificates clients must show (mutual TLS), for `/health` and"
        " `/metrics` too. Default: clients need none.",
    )

    @field_validator("tls_key_file", "tls_client_ca_file")
    @classmethod
    def _needs_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("tls_cert_file") is None:
            raise ValueError("there is no tls_cert_file; name the certificate too")
        return path

    @property
    def scheme(self) -> str:
        """What an address of the api begins with."""
        return "http" if self.tls_cert_file is None else "https"


class ApiSettings(TlsSettings):
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
        524_288,
        ge=1024,
        description="A request body with more JSON items (elements of arrays and members of objects, at all levels) is "
        "answered 400. An array or object counts 8, and each string one more, also a member's name. A prompt of token ids "
        "has an item per token.",
    )
    bodies_memory_bytes: int = Field(
        24 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory for the request bodies above 64 KiB that are being read and checked, beside the eldest of them; "
        "further bytes wait for up to 30 s, then 503 `body_memory_full`. The check of a body, and its way to Redis, take up "
        "to five times its size for a moment.",
    )
    file_max_bytes: int = Field(
        16 * 1024**3, ge=1024, description="A larger upload to /v1/files is answered 413."
    )
    audio_max_bytes: int = Field(
        25 * 1024**2,
        ge=1024,
        description="A larger file is refused by /v1/audio: 413, and by its jobs. A worker has it in memory while it runs.",
    )
    file_retention_s: Seconds = Field(
        30 * 86_400.0, description="How long a batch's input is kept if its upload does not say."
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Connections open at once; a further one is answered 503 and closed, except for `/health` and the paths "
        "below it.",
    )
    max_head_bytes: int = Field(
        65_536,
        ge=4096,
        le=16 * 1024 * 1024,
        description="Largest URL and headers of one request together; then 414 or 431.",
    )
    head_timeout_s: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="How long the URL and headers of a request may take to arrive, and the first request on a connection to "
        "begin; then 408.",
    )
    read_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Longest pause of a client that sends a body; then 408."
    )
    write_timeout_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="Longest pause of a client that reads an answer, a stream or a download; then it is cut off.",
    )
    min_bytes_per_s: int = Field(
        1024,
        ge=1,
        le=1024 * 1024,
        description="Slowest rate at which a client may send a body or read an answer, after a first `read_timeout_s` or "
        "`write_timeout_s`.",
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
        15.0,
        description="A silent stream gets a comment this often, so that proxies keep it open. One that waits in the queue"
        " gets its head with the first: until then a refusal has its HTTP status, afterwards it is an event.",
    )
    openai_strict: bool = Field(
        default=False,
        description="Answers of `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses` and"
        " `/v1/messages` have no null in a member in which OpenAI's (Anthropic's) specification knows none, and every member"
        " that it requires. For clients that check answers against it. Default: as vLLM writes them.",
    )
    inbox_limit: int = Field(
        4096,
        ge=16,
        description="Events buffered for a slow reader; one that is further behind continues from the job's log.",
    )
    inbox_max_bytes: int = Field(
        1024 * 1024,
        ge=64 * 1024,
        description="Bytes of events buffered for a slow reader; one that is further behind continues from the job's log.",
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
    api_keys: Annotated[dict[TenantName, SecretStr], PAIRS] = Field(
        {},
        description="API keys of an earlier version, by the name of their tenant. Redis takes them over once, with every "
        "scope but `admin`; later changes of this setting have no effect. Use `penstock keys create`.",
    )
    require_keys: bool = Field(
        default=False,
        description="Require an API key for every call of `/v1`. An api that other machines reach, or that has `api_keys` "
        "or an `oidc_issuer`, requires them anyway; see `without_keys`.",
    )
    prices: Annotated[dict[str, Price], JSON_TABLE] = Field(
        {},
        description="Prices by model, for the costs in `GET /v1/usage`, in the currency of your choice: for example"
        ' `[prices."Qwen/Qwen2.5-7B-Instruct"]` with `prompt = 0.1`, `cached = 0.05`, `completion = 0.4` (a million tokens)'
        " and `gpu_hour = 2.5` in `penstock.toml`. Default: no costs.",
    )
    without_keys: bool = Field(
        default=False,
        description="Listen on an address that other machines reach without requiring API keys. Everyone who reaches it may "
        "then run jobs and operate the queue. It has no effect with `require_keys`, `api_keys` or `oidc_issuer`.",
    )
    key_pepper: SecretStr | None = Field(
        None,
        description="A secret of at least 16 bytes, the same for every api process: Redis holds API keys as digests under "
        "it. Best in a file. If it changes, no key is right any more. `penstock up` makes one.",
    )
    failed_keys_per_minute: int = Field(
        30,
        ge=1,
        le=1_000_000,
        description="Calls with a wrong API key from one address in a minute, for each api process; then 429 "
        "`too_many_attempts`. A proxy counts as one address.",
    )
    oidc_issuer: str | None = Field(
        None,
        description="Address of an OIDC issuer, as its tokens name it (`iss`). Its tokens let callers in beside API keys. "
        "https, or http on this machine.",
    )
    oidc_audience: str | None = Field(
        None,
        min_length=1,
        validate_default=True,
        description="Whom a token must be for (`aud`): this server's name at the issuer. Needed with `oidc_issuer`.",
    )
    oidc_tenant_claim: str = Field(
        "tenant", min_length=1, description="The claim of a token that names the tenant."
    )
    oidc_scopes_claim: str = Field(
        "scope",
        min_length=1,
        description="The claim that names the scopes: words of a text, or a list; each may begin with `penstock:`.",
    )
    oidc_leeway_s: float = Field(
        30.0, ge=0, le=600, description="How far the clocks of the issuer and of the api may differ."
    )
    oidc_max_stale_s: float = Field(
        3600.0,
        ge=0,
        le=7 * 86_400,
        description="How long the issuer's keys are used while it cannot be reached; then 503 `issuer_unavailable`.",
    )
    allowed_hosts: CommaList = Field(
        (),
        description="Names by which clients call this server (header `Host`), with commas between them. Addresses, names "
        "without a dot, and names under `.localhost`, `.local`, `.internal`, `.home.arpa` and `.svc` are always accepted. "
        "Default: no further name, or every name (`*`) if API keys are required.",
    )
    webhook_hosts: CommaList = Field(
        ("*",),
        description="Hosts to which clients may have webhooks sent, such as `hooks.example.com,*.example.org`, with commas"
        " between them; `*`: every public one; empty: none. It is read when an endpoint is made or changed, and a job or a"
        " batch is submitted.",
    )
    allowed_origins: CommaList = Field(
        (),
        description="Origins of web pages that may call this server from a browser, such as `https://chat.example`, with "
        "commas between them; `*`: every page. Default: only its own pages, or every page if API keys are required.",
    )
    flower_url: str | None = Field(
        None,
        pattern=WEB_ADDRESS,
        description="Where Flower is, for a link in the console; `penstock up` sets it.",
    )
    shutdown_grace_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="On SIGTERM, how long open calls may continue; then they are cut off. `/health/ready` is 503 from the "
        "start, and the port stays open. Followers of events are not waited for. `penstock up`: 5 if not given.",
    )
    shutdown_delay_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="On SIGTERM, how long the port stays open at least, so that load balancers see `/health/ready` fail.",
    )

    @field_validator("api_keys")
    @classmethod
    def _sendable_and_distinct(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for tenant, key in keys.items():
            check_sendable(key.get_secret_value(), f"the key of {tenant}")
        if len({key.get_secret_value() for key in keys.values()}) < len(keys):
            raise ValueError("two tenants have the same key; each needs one of its own")
        return keys

    @field_validator("oidc_issuer")
    @classmethod
    def _safe(cls, url: str | None) -> str | None:
        if url is not None and not is_safe_url(url):
            raise ValueError("write https://HOST/PATH, or http:// for an issuer on this machine")
        return url

    @field_validator("oidc_audience")
    @classmethod
    def _of_an_issuer(cls, audience: str | None, info: ValidationInfo) -> str | None:
        if audience is None and info.data.get("oidc_issuer") is not None:
            raise ValueError(
                "with oidc_issuer it is needed: a token for another server must let nobody in here"
            )
        return audience

    @field_validator("key_pepper")
    @classmethod
    def _long(cls, pepper: SecretStr | None) -> SecretStr | None:
        if pepper is not None and len(pepper.get_secret_value().encode()) < _PEPPER_BYTES:
            raise ValueError(
                f"it is shorter than {_PEPPER_BYTES} bytes; make one with `openssl rand -hex 32`"
            )
        return pepper

    @property
    def keys_required(self) -> bool:
        """Whether every call of ``/v1`` needs an API key."""
        if self.require_keys or self.api_keys or self.oidc_issuer:
            return True
        return not (self.without_keys or is_loopback(self.host))

    @property
    def page_origins(self) -> frozenset[str]:
        """The setting ``allowed_origins`` as browsers write origins: in lower case, without a slash at the end."""
        return frozenset(origin.lower().rstrip("/") for origin in self.allowed_origins)

    def pepper(self) -> bytes | None:
        """The secret under which keys are digested; None: this api neither makes nor knows keys.

        Raises:
            NoPepperStartError: keys are required.
        """
        if self.key_pepper is not None:
            return self.key_pepper.get_secret_value().encode()
        if self.keys_required:
            raise NoPepperStartError(self._why())
        return None

    def _why(self) -> str:
        make = "make one with `openssl rand -hex 32`, and set it as key_pepper (PENSTOCK_KEY_PEPPER, or the secret file "
        make += "penstock_key_pepper), the same for every api process"
        if self.require_keys or self.api_keys or self.oidc_issuer:
            return f"API keys are required, and there is no pepper for them: {make}"
        place = self.host or "every address"
        return (
            f"on {place} other machines reach the api, so it requires API keys, and there is no pepper for them: {make}; "
            "or listen on 127.0.0.1; or let everyone there run jobs and operate the queue with --without-keys "
            "(PENSTOCK_WITHOUT_KEYS=true)"
        )
