"""The api process."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import structlog
import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from monitoring import failpoints
from monitoring.logging import configure_logging

log = structlog.get_logger(__name__)


def run_api(
    *,
    host: str | None = None,
    port: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    version: str = "dev",
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: overrides the setting of that name; None: no override.
        port: as ``host``.
        overrides: further settings by name. They override the environment and every file.
        version: Penstock's, for the OpenAPI document.

    Raises:
        pydantic.ValidationError: a setting is wrong; the message names it.
        ExposedStartError: others reach the address, and there are no API keys.
        SystemExit: the process cannot listen on the address.
    """
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    failpoints.arm_from_environment()
    settings = ApiSettings(**{**(overrides or {}), **given})
    settings.check_reach()
    configure_logging(settings.log_level, as_json=settings.log_json, service="api")
    log.info("api_starting", host=settings.host, port=settings.port)
    config = server_config(settings, version)
    config.load()
    gc.collect()
    gc.freeze()  # a full collection over all imported objects stops every request for 90 ms, every 2,000 requests
    uvicorn.Server(config).run()


def server_config(settings: ApiSettings, version: str = "dev") -> uvicorn.Config:
    """Return uvicorn's configuration for these settings."""
    return uvicorn.Config(
        create_app(settings, version),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,  # its records go through our handlers
        access_log=False,  # the metrics count requests; a line for each costs more than the request
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        timeout_keep_alive=75,  # above the idle limits of common proxies, which reuse connections
    )
