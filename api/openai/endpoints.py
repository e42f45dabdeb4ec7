"""The table of the OpenAI endpoints: the core's facts, the body and an example of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from api.admission.schema import CHAT_EXAMPLE, SCHEMAS
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
