"""The operator's settings, from its environment. The SDK reads its way to Penstock from ``PENSTOCK_URL`` and the like."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class OperatorSettings(BaseSettings):
    """``OPERATOR_<NAME>`` in the environment, as the chart sets them."""

    model_config = SettingsConfigDict(env_prefix="OPERATOR_", frozen=True)

    namespace: str = Field(min_length=1, description="Whose ModelPools it makes; its own.")
    base_file: Path = Field(
        Path("/etc/penstock-operator/base.yaml"), description="What the chart says of all workers."
    )
    look_every_s: float = Field(
        10.0, gt=0, le=3600, description="Seconds between two looks at a pool at which nothing is to do."
    )
    hurry_s: float = Field(
        1.0,
        gt=0,
        le=3600,
        description="The same while something goes on, longer each time nothing changed; and the least after a change.",
    )
    release_after_s: float = Field(
        120.0,
        ge=0,
        description="A ModelPool that is deleted goes though Penstock does not answer, this long after.",
    )
    health_port: int = Field(
        8081, ge=0, le=65535, description="Port of the liveness probe; 0: there is none."
    )
