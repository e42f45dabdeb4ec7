"""The application: its routes, middleware, error handlers and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import Counter

from api.access.authenticate import Authenticate
from api.access.scopes import needs_key, require_scopes, scope_of
from api.admin import adapters as admin_adapters
from api.admin import aliases as admin_aliases
from api.admin import audit as admin_audit
from api.admin import keys as admin_keys
from api.admin import pools as admin_pools
from api.admin import rollouts as admin_rollouts
from api.admin import tenants as admin_tenants
from api.admin.adapter_schema import AdapterChange, AdapterRequest
from api.admin.key_schema import KeyRequest, RotateRequest
from api.admin.pool_schema import PoolRequest
from api.admin.rollout_schema import AliasRequest, BackRequest, RolloutRequest, SwitchRequest
from api.admin.tenant_schema import TenantFields
from api.admission.request_bodies import SCHEMAS
from api.background import run_background
from api.batches import events as batch_events
from api.batches import results as batch_results
from api.batches import routes as batches
from api.batches import tasks as batch_tasks
from api.batches.event_schema import BatchEvent
from api.console import routes as console
from api.console.door import Door
from api.conversations import routes as conversations
from api.conversations.schema import ConversationChange, ConversationRequest, ItemsRequest
from api.files import routes as files
from api.http.asgi import UNMATCHED, direct_routes
from api.http.handlers import handlers
from api.http.openapi import describe
from api.jobs import retry as jobs_retry
from api.jobs import routes as jobs
from api.jobs.event_schema import JobEvent
from api.jobs.schema import DeadRetryRequest, JobChange, JobRequest
from api.middleware.anthropic import AnthropicErrors
from api.middleware.guard import Guard
from api.middleware.hosts import ANY, Hosts
from api.middleware.metrics import RequestMetrics
from api.middleware.trace import Trace
from api.openai import audio as openai_audio
from api.openai import endpoints as openai
from api.openai import models as openai_models
from api.openai import stored as openai_chats
from api.openai.answer_schema import OutputEvent
from api.openai.stored_view import ChatChange
from api.operations import autoscaling, docs, health, home, me, queues, targets, usage, workers
from api.responses import routes as responses
from api.services import Services
from api.settings import ApiSettings
from api.webhooks import deliveries as webhook_deliveries
from api.webhooks import rotation as webhook_secrets
from api.webhooks import routes as webhooks
from api.webhooks.schema import SecretRotation, WebhookChange, WebhookRequest
from jobs.endpoints import STREAMING

DESCRIPTION = """One durable queue before your GPUs: OpenAI-compatible serving, asynchronous jobs, bulk runs.

Every error has OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.
Those of `/v1/messages` have Anthropic's."""

TAGS = [
    {
        "name": "openai",
        "description": "Endpoints of OpenAI, Anthropic and vLLM. Each call runs as a job, before all others.",
    },
    {"name": "jobs", "description": "Submit a job now and fetch its result later, or follow its events."},
    {
        "name": "batches",
        "description": "OpenAI's Files and Batches: millions of requests from a file, each answered once.",
    },
    {
        "name": "webhooks",
        "description": "Endpoints that are told when jobs, batches and responses end, by signed requests.",
    },
    {
        "name": "admin",
        "description": "API keys; tenants with shares, bounds and quotas; LoRA adapters; versions of models; audit.",
    },
    {"name": "operations", "description": "Queues, workers, usage, health and metrics."},
]

# The OpenAI routes come first: the router tries one after the other.
ROUTES = {
    "openai": (openai, openai_audio, responses, openai_models, openai_chats, conversations),
    "jobs": (jobs, jobs_retry),
    "batches": (files, batches, batch_results, batch_events, batch_tasks),
    "webhooks": (webhook_secrets, webhooks, webhook_deliveries),
    "admin": (
        admin_keys,
        admin_tenants,
        admin_adapters,
        admin_rollouts,
        admin_pools,
        admin_aliases,
        admin_audit,
    ),
    "operations": (me, workers, queues, autoscaling, usage, targets, health, home, docs),
    "console": (console,),
}
"""The modules that add routes, by their tag."""


def create_app(settings: ApiSettings, version: str = "dev") -> FastAPI:
    """Build the application. It connects to nothing before its lifespan starts.

    Raises:
        NoPepperStartError: keys are required, and there is no pepper for them.
        DeclaredPoolStartError: a pool of the settings that scales from zero does not say what it serves.
    """
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with run_background(services):
            yield

    app = FastAPI(
        title="Penstock",
        description=DESCRIPTION,
        version=version,
        openapi_tags=TAGS,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own pages need a CDN; see api/operations/docs.py
        redoc_url=None,
    )
    app.state.services = services
    for tag, modules in ROUTES.items():
        router = APIRouter(tags=[tag], default_response_class=Response)
        for module in modules:
            module.register(router, services)
        app.router.routes += router.routes
    require_scopes(app.router.routes)
    describe(
        app,
        [
            *SCHEMAS.values(),
            *(JobRequest, JobChange, DeadRetryRequest),
            *(KeyRequest, RotateRequest, TenantFields, AdapterRequest, AdapterChange),
            *(ConversationRequest, ConversationChange, ItemsRequest, ChatChange),
            workers.DrainRequest,
            *(RolloutRequest, BackRequest, SwitchRequest, AliasRequest, PoolRequest),
            *(WebhookRequest, WebhookChange, SecretRotation),
            *(JobEvent, BatchEvent, OutputEvent),
        ],
        needs_key=needs_key,
        scope_of=scope_of,
    )
    errors = services.metrics.errors
    answers = handlers(errors)
    for kind, handler in answers.items():
        app.add_exception_handler(kind, handler)
    # Each middleware wraps those before it.
    app.add_middleware(Guard, direct=direct_routes(app.router.routes), handlers=answers, count=errors)
    if services.doors is not None:
        app.add_middleware(Authenticate, doors=services.doors, count=errors)
    _limit_pages(app, settings, errors)
    if services.tracer.enabled:
        app.add_middleware(Trace, tracer=services.tracer)
    app.add_middleware(AnthropicErrors)
    paths = {getattr(route, "path", "") for route in app.routes}
    counted = sorted(
        path for path in paths if needs_key(path) or path.startswith(("/v1/", "/health", "/metrics"))
    )
    services.metrics.expect([*counted, UNMATCHED], streaming=STREAMING)
    app.add_middleware(Door, sessions=console.sessions(settings), origins=settings.page_origins, count=errors)
    app.add_middleware(RequestMetrics, metrics=services.metrics)
    return app


def _limit_pages(app: FastAPI, settings: ApiSettings, count: Counter) -> None:
    """Add the checks of ``Host`` and ``Origin``, and let the allowed pages read the answers (CORS)."""
    origins = settings.page_origins
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    # A foreign page has no key, so with keys the checks have nothing to add.
    default = {ANY} if settings.keys_required else set()
    app.add_middleware(
        Hosts,
        hosts=settings.allowed_hosts or default,
        origins=origins or default,
        count=count,
    )
