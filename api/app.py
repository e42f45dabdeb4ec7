"""The application: routes, errors, metrics, and the lifespan that keeps it company."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import errors, health, jobs_routes, openai_routes, retry_routes, workers_routes
from api.docs import describe
from api.jobs_schema import JobRequest
from api.measure import Measure
from api.openai_schema import SCHEMAS
from api.services import Services
from api.settings import ApiSettings
from api.upkeep import upkeep
from jobs.model import ENDPOINTS

DESCRIPTION = """One durable queue before your GPUs: OpenAI-compatible serving, asynchronous jobs, bulk runs.

Every error has OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

TAGS = [
    {
        "name": "openai",
        "description": "OpenAI-compatible endpoints. Each call runs as a job, before all others.",
    },
    {"name": "jobs", "description": "Submit now, fetch later; or follow the job's events."},
    {"name": "operations", "description": "Workers, health and metrics."},
]


def create_app(settings: ApiSettings) -> FastAPI:
    """Build the application. Nothing is connected before its lifespan starts.

    Args:
        settings: see :class:`ApiSettings`.
    """
    services = Services(settings, [*ENDPOINTS, "/v1/jobs", "/v1/jobs/{job_id}"])

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
    workers_routes.register(app.router, services)
    app.include_router(health.router)
    describe(app, [*SCHEMAS.values(), JobRequest])
    errors.install(app, settings)
    app.add_middleware(errors.Guard)
    app.add_middleware(Measure, metrics=services.metrics)  # the outermost
    return app


def _version() -> str:
    from penstock._version import __version__

    return __version__
