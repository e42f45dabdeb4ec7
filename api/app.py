"""The application: routes, errors, metrics, and the lifespan that keeps it company."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.access.authenticate import Keys
from api.admission.schema import SCHEMAS, STREAMING
from api.background import upkeep
from api.batches import extensions as batches_more
from api.batches import routes as batches_routes
from api.files import routes as files_routes
from api.http import errors
from api.http.openapi import describe
from api.jobs import retry as retry_routes
from api.jobs import routes as jobs_routes
from api.jobs.schema import JobRequest
from api.middleware.metrics import UNMATCHED, Measure
from api.middleware.trace import Trace
from api.openai import call as openai_routes
from api.operations import health
from api.operations import queues as queues_routes
from api.operations import targets as targets_route
from api.operations import workers as workers_routes
from api.services import Services
from api.settings import ApiSettings

DESCRIPTION = """One durable queue before your GPUs: OpenAI-compatible serving, asynchronous jobs, bulk runs.

Every error has OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

TAGS = [
    {
        "name": "openai",
        "description": "OpenAI-compatible endpoints. Each call runs as a job, before all others.",
    },
    {"name": "jobs", "description": "Submit now, fetch later; or follow the job's events."},
    {
        "name": "batches",
        "description": "OpenAI's Files and Batches: millions of requests from a file, each once.",
    },
    {"name": "operations", "description": "Queues, workers, health and metrics."},
]


def create_app(settings: ApiSettings) -> FastAPI:
    """Build the application. Nothing is connected before its lifespan starts.

    Args:
        settings: see :class:`ApiSettings`.
    """
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with upkeep(services):
            yield

    app = FastAPI(
        title="Penstock",
        description=DESCRIPTION,
        version=_version(),
        openapi_tags=TAGS,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.services = services
    # The OpenAI routes come first: the router tries one after the other.
    openai_routes.register(app.router, services)
    jobs_routes.register(app.router, services)
    retry_routes.register(app.router, services)
    files_routes.register(app.router, services)
    batches_routes.register(app.router, services)
    batches_more.register(app.router, services)
    workers_routes.register(app.router, services)
    queues_routes.register(app.router, services)
    targets_route.register(app.router, services)
    app.include_router(health.router)
    describe(app, [*SCHEMAS.values(), JobRequest])
    errors.install(app, services.metrics.errors)
    app.add_middleware(errors.Guard, count=services.metrics.errors)
    app.add_middleware(Keys, keys=settings.api_keys, count=services.metrics.errors)
    if services.tracer.enabled:
        app.add_middleware(Trace, tracer=services.tracer)
    paths = {getattr(route, "path", "") for route in app.routes}
    counted = sorted(path for path in paths if path.startswith(("/v1/", "/health/", "/metrics")))
    services.metrics.expect([*counted, UNMATCHED], streaming=STREAMING)
    app.add_middleware(Measure, metrics=services.metrics)  # the outermost
    return app


def _version() -> str:
    from penstock._version import __version__

    return __version__
