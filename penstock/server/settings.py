"""The settings of ``penstock up``, and the register of every setting and variable of Penstock."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo

from api.settings import ApiSettings, TlsSettings
from broker.secret_files import DIR_VARIABLE
from broker.settings import BrokerSettings, Seconds
from broker.sources import FILE_VARIABLE
from coordinator.settings import CoordinatorSettings
from workers.settings import WorkerSettings

Layer: TypeAlias = type[BrokerSettings]


class UpSettings(WorkerSettings, TlsSettings):
    """Everything on one machine. The api and the workers read the rest of their settings themselves."""

    host: str = Field("127.0.0.1", description="Where the api listens.")
    port: int = Field(8080, ge=0, le=65535, description="The api's port; 0: a free one.")
    require_keys: bool = Field(default=False, description="Require an API key for every call of `/v1`.")
    without_keys: bool = Field(
        default=False, description="Let the api listen on an address that others reach without API keys."
    )
    flower: bool = Field(default=True, description="Run Flower too.")
    flower_port: int = Field(5555, ge=0, le=65535, description="Flower's port, on 127.0.0.1; 0: a free one.")

    profile: Literal["edge"] | None = Field(
        None,
        description="Defaults for a kind of machine. edge: little memory; see [edge](../use/edge.md).",
    )
    coordinator_in_api: bool = Field(
        default=False, description="Run the coordinator in the api's process, which saves the memory of one."
    )
    rollout_drain_s: Seconds = Field(
        600.0,
        description="Time for the running jobs of a version of a model that was replaced; then they go to the new one.",
    )
    as_configured: bool = Field(
        default=False,
        description="Return to the models that the settings name, whatever rollouts began since.",
    )

    @property
    def own_redis(self) -> bool:
        """Whether no server was named, so that the embedded one is started."""
        return "redis_url" not in self.model_fields_set


class FlowerSettings(BrokerSettings):
    """The queue's settings, and Flower's login."""

    flower_basic_auth: SecretStr | None = Field(
        None, description="Flower's logins, `user:password`, separated by commas."
    )


LAYERS: tuple[Layer, ...] = (UpSettings, ApiSettings, CoordinatorSettings, FlowerSettings)
"""They have every setting: those of a worker are in the first, those of every process in each."""

VARIABLES = {
    FILE_VARIABLE: (
        "every process of the server",
        "the settings file; default: `penstock.toml` in the current folder",
    ),
    DIR_VARIABLE: (
        "every process of the server",
        "the folder of secret files; default: `/run/secrets`",
    ),
    "PENSTOCK_URL": (
        "the SDK, the client commands",
        "the server's address: see [scripts](../use/scripts-and-errors.md)",
    ),
    "PENSTOCK_SERVER": (
        "the client commands",
        "a server by its name in the file of [servers](../use/servers.md)",
    ),
    "PENSTOCK_SERVERS_FILE": (
        "the client commands",
        "the file of [servers](../use/servers.md); default: `~/.config/penstock/servers.toml`, or in `XDG_CONFIG_HOME`",
    ),
    "PENSTOCK_API_KEY": (
        "the SDK, the client commands",
        "sent as a bearer token; needed if the server requires API keys",
    ),
    "PENSTOCK_CA_FILE": (
        "the SDK, the client commands",
        "PEM file with authorities to trust besides the usual ones, for a server with a certificate of your own",
    ),
    "PENSTOCK_CLIENT_CERT_FILE": (
        "the SDK, the client commands",
        "PEM file with the client's certificate and key, for a server with `tls_client_ca_file`",
    ),
    "PENSTOCK_CLIENT_MODEL": (
        "`penstock submit`, `penstock chat`, `penstock batch`",
        "the served model to use if the command names none",
    ),
    "PENSTOCK_FLAVOUR": (
        "`make`",
        "`cpu`, `gpu` or `client`: what to install; default: by the NVIDIA driver",
    ),
    "PENSTOCK_OPEN_WEBUI": (
        "`make test-open-webui`",
        "the environment of Open WebUI; default: `.venv-open-webui`",
    ),
    "PENSTOCK_FAILPOINTS": (
        "every process of the server",
        "faults for tests: see `monitoring/failpoints.py`",
    ),
}
"""Variables that are no settings: who reads each, and what it means. The reference page is made from this."""


def fields() -> dict[str, FieldInfo]:
    """Return every setting of every process by name."""
    return {name: field for layer in LAYERS for name, field in layer.model_fields.items()}
