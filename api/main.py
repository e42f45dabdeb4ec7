"""The api process."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import structlog
import uvicorn

from api.app import create_app
from api.connections.limits import Limits
from api.connections.protocol import BoundedProtocol
from api.connections.server import CUT_S, DrainingServer
from api.connections.tls import Tls, TlsFiles
from api.services import Services
from api.settings import ApiSettings
from broker.db.client import connect
from broker.db.errors import StoreError
from broker.jobs import JobStore
from broker.migration import check
from monitoring import failpoints
from monitoring.logging import configure_logging

log = structlog.get_logger(__name__)

SPARE_FILES = 512
"""Open files beside the clients' connections: Redis, storage, logs."""

_CHECK_S = 2.0


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
        NoPepperStartError: keys are required, and there is no pepper for them.
        DeclaredPoolStartError: a pool of the settings that scales from zero does not say what it serves.
        MixedFleetStartError: another version of Penstock is on this Redis.
        TlsStartError: the files of TLS cannot be used.
        SystemExit: the process cannot listen on the address.
    """
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    failpoints.arm_from_environment()
    settings = ApiSettings(**{**(overrides or {}), **given})
    settings.pepper()  # one that is missing stops the start here
    configure_logging(settings.log_level, as_json=settings.log_json, service="api")
    _allow_files(settings.max_connections)
    log.info("api_starting", host=settings.host, port=settings.port, tls=settings.tls_cert_file is not None)
    asyncio.run(_check_version(settings))
    server = make_server(settings, version)
    server.config.load()
    gc.collect()
    gc.freeze()  # a full collection over all imported objects stops every request for 90 ms, every 2,000 requests
    server.run()


async def _check_version(settings: ApiSettings) -> None:
    """Refuse to start beside another version. If Redis is away, the background tasks find out."""
    store = JobStore(connect(settings.redis_url, retries=0, timeout_s=_CHECK_S), settings)
    try:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_CHECK_S):
                await check(store)
    finally:
        await store.aclose()


def make_server(settings: ApiSettings, version: str = "dev") -> DrainingServer:
    """Return the server for these settings."""
    app = create_app(settings, version)
    services: Services = app.state.services
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=_protocol(settings, services),
        ws="none",
        lifespan="on",
        log_config=None,  # its records go through our handlers
        access_log=False,  # the metrics count requests; a line for each costs more than the request
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=CUT_S,  # after the server's own wait
        timeout_keep_alive=75,  # above the idle limits of common proxies, which reuse connections
    )

    def stopping() -> None:
        services.readiness.stopping = True

    return DrainingServer(
        config,
        grace_s=settings.shutdown_grace_s,
        delay_s=settings.shutdown_delay_s,
        stopping=stopping,
        tls=_tls(settings),
    )


def _tls(settings: ApiSettings) -> Tls | None:
    cert = settings.tls_cert_file
    if cert is None:
        return None
    return Tls(TlsFiles(cert, settings.tls_key_file or cert, settings.tls_client_ca_file))


def _protocol(settings: ApiSettings, services: Services) -> type[asyncio.Protocol]:
    """Return what makes a connection's protocol, as uvicorn calls it."""
    limits = Limits(
        max_connections=settings.max_connections,
        max_head_bytes=settings.max_head_bytes,
        head_timeout_s=settings.head_timeout_s,
        read_timeout_s=settings.read_timeout_s,
        write_timeout_s=settings.write_timeout_s,
        min_bytes_per_s=settings.min_bytes_per_s,
    )

    def count(code: str) -> None:
        services.metrics.errors.labels(code).inc()

    return cast("type[asyncio.Protocol]", partial(BoundedProtocol, limits=limits, count=count))


def _allow_files(connections: int) -> None:
    """Raise the bound on open files, a kernel's default from another time, to what the connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < needed:
        log.warning("open_files_limit_low", limit=wanted, needed=needed)
