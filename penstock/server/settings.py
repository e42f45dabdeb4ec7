"""Settings of ``penstock up``: the worker's, and where to serve."""

from __future__ import annotations

from pydantic import Field

from workers.settings import WorkerSettings


class UpSettings(WorkerSettings):
    """Everything on one machine. The api and the workers read the rest of their settings themselves."""

    host: str = Field("127.0.0.1", description="Where the api listens.")
    port: int = Field(8080, ge=0, le=65535, description="The api's port; 0: a free one.")
    flower: bool = Field(default=True, description="Run Flower too.")
    flower_port: int = Field(5555, ge=0, le=65535, description="Flower's port, on 127.0.0.1; 0: a free one.")

    @property
    def own_redis(self) -> bool:
        """Whether no server was named, so that the embedded one is started."""
        return "redis_url" not in self.model_fields_set
