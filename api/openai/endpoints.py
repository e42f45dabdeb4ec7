"""The OpenAI endpoints: the core's facts, the body and an example of each, and the routes made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import APIRouter
from pydantic import BaseModel

from api.admission.schema import CHAT_EXAMPLE, SCHEMAS
from api.http.asgi import add_raw_route
from api.http.openapi import body_docs, error_docs
from api.openai.call import OpenAICall
from api.services import Services
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, Endpoint


class OpenAIEndpoint(NamedTuple):
    """One endpoint.

    Attributes:
        core: its path, its task, whether it streams, and the form of its ids.
        schema: the model of its body.
        example: a body, for the OpenAPI document.
    """

    core: Endpoint
    schema: type[BaseModel]
    example: dict[str, Any]


_EXAMPLES: dict[str, dict[str, Any]] = {
    CHAT: CHAT_EXAMPLE,
    COMPLETIONS: {"model": "tiny-random", "prompt": "Once upon a time", "max_tokens": 32},
    EMBEDDINGS: {"model": "tiny-embed", "input": ["Hello", "World"]},
}

OPENAI_ENDPOINTS = tuple(
    OpenAIEndpoint(ENDPOINTS[path], schema, _EXAMPLES[path]) for path, schema in SCHEMAS.items()
)


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
