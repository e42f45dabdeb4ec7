"""The OpenAI endpoints: the core's facts, the body and an example of each, and the routes made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import APIRouter
from pydantic import BaseModel

from api.admission.request_bodies import CHAT_EXAMPLE, SCHEMAS
from api.http.asgi import add_raw_route
from api.http.idempotency import key_parameter
from api.http.openapi import body_docs, error_docs, streamed
from api.openai.answer_schema import ANSWERS, EVENTS
from api.openai.call import OpenAICall
from api.services import Services
from jobs import endpoints as paths
from jobs.endpoints import ENDPOINTS, Endpoint


class OpenAIEndpoint(NamedTuple):
    """One endpoint.

    Attributes:
        core: its path, its task, whether it streams, and the form of its ids.
        schema: the model of its body.
        operation: the id of its operation, for the OpenAPI document.
        example: a body, for the OpenAPI document.
    """

    core: Endpoint
    schema: type[BaseModel]
    operation: str
    example: dict[str, Any]


_ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    paths.CHAT: ("createChatCompletion", CHAT_EXAMPLE),
    paths.COMPLETIONS: (
        "createCompletion",
        {"model": "tiny-random", "prompt": "Once upon a time", "max_tokens": 32},
    ),
    paths.EMBEDDINGS: ("createEmbedding", {"model": "tiny-embed", "input": ["Hello", "World"]}),
    paths.MESSAGES: (
        "createMessage",
        {"model": "tiny-random", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32},
    ),
    paths.COUNT_TOKENS: (
        "countMessageTokens",
        {"model": "tiny-random", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    paths.RERANK: (
        "createRerank",
        {"model": "tiny-rerank", "query": "What is a penstock?", "documents": ["A pipe.", "A bird."]},
    ),
    paths.SCORE: (
        "createScore",
        {"model": "tiny-rerank", "text_1": "What is a penstock?", "text_2": ["A pipe.", "A bird."]},
    ),
    paths.CLASSIFY: ("createClassification", {"model": "tiny-classify", "input": ["A pipe.", "A bird."]}),
    paths.POOLING: ("createPooling", {"model": "tiny-embed", "input": "Hello"}),
    paths.TOKENIZE: ("tokenize", {"model": "tiny-random", "prompt": "Hello"}),
    paths.DETOKENIZE: ("detokenize", {"model": "tiny-random", "tokens": [1, 2, 3]}),
}
"""The id of each endpoint's operation, and an example of its body."""

_OPENAIS = {paths.CHAT, paths.COMPLETIONS, paths.EMBEDDINGS, paths.RESPONSES}

OPENAI_ENDPOINTS = tuple(
    OpenAIEndpoint(ENDPOINTS[path], schema, *_ROUTES[path])
    for path, schema in SCHEMAS.items()
    if not ENDPOINTS[path].multipart and path != paths.RESPONSES  # it has routes of its own: api/responses/
)


def register(router: APIRouter, services: Services) -> None:
    """Add a route for each endpoint."""
    for core, schema, operation, example in OPENAI_ENDPOINTS:
        call = OpenAICall(services, core)
        answered: dict[str, Any] = {"model": ANSWERS.get(core.path, dict[str, Any])}
        if core.streams:
            answered["content"] = streamed(EVENTS[core.path])
        for number, path in enumerate((core.path, *core.aliases)):
            add_raw_route(
                router,
                "POST",
                path,
                call,
                name=path.rsplit("/", 1)[-1],
                operation_id=f"{operation}Alias{number}" if number else operation,
                summary=_summary(core) if path == core.path else f"As {core.path}",
                description=f"{schema.__doc__} Requests and responses are vLLM's own; unlisted fields are passed on.",
                responses={200: answered, **error_docs(400, 404, 409, 413, 429, 500, 503, 504)},
                openapi_extra={**body_docs(schema, example), "parameters": [key_parameter("answer")]},
            )


def _summary(endpoint: Endpoint) -> str:
    name = endpoint.path.removeprefix("/v1/")
    if endpoint.path in _OPENAIS:
        return f"OpenAI {name}"
    return (
        f"Anthropic {name}"
        if endpoint.path in {paths.MESSAGES, paths.COUNT_TOKENS}
        else f"vLLM {name.strip('/')}"
    )
