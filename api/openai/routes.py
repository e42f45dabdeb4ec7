"""The OpenAI endpoints' routes, made from their table."""

from __future__ import annotations

from fastapi import APIRouter

from api.http.asgi import add_raw_route
from api.http.openapi import body_docs, error_docs
from api.openai.call import OpenAICall
from api.openai.endpoints import OPENAI_ENDPOINTS
from api.services import Services


def register(router: APIRouter, services: Services) -> None:
    """Add a route for each endpoint."""
    for core, schema, example in OPENAI_ENDPOINTS:
        add_raw_route(
            router,
            "POST",
            core.path,
            OpenAICall(services, core),
            name=core.path.rsplit("/", 1)[-1],
            summary=f"OpenAI {core.path.removeprefix('/v1/')}",
            description=f"{schema.__doc__} Requests and responses are vLLM's own; unlisted fields are passed on.",
            responses=error_docs(400, 404, 413, 429, 500, 503, 504),
            openapi_extra=body_docs(schema, example),
        )
