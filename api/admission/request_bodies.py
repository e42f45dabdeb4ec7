"""THE table of bodies: the check of a request's types, by its endpoint."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from api.admission.audio_schema import AudioRequest
from api.admission.messages_schema import CountTokensRequest, MessagesRequest
from api.admission.pooling_schema import (
    ClassifyRequest,
    DetokenizeRequest,
    PoolingRequest,
    RerankRequest,
    ScoreRequest,
    TokenizeRequest,
)
from api.admission.responses_schema import ResponsesRequest
from api.admission.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from api.http.errors import invalid, validation_error
from jobs import endpoints as paths
from jobs.endpoints import ENDPOINTS, Endpoint

SCHEMAS: dict[str, type[BaseModel]] = {
    paths.CHAT: ChatRequest,
    paths.COMPLETIONS: CompletionRequest,
    paths.EMBEDDINGS: EmbeddingRequest,
    paths.RESPONSES: ResponsesRequest,
    paths.MESSAGES: MessagesRequest,
    paths.COUNT_TOKENS: CountTokensRequest,
    paths.RERANK: RerankRequest,
    paths.SCORE: ScoreRequest,
    paths.CLASSIFY: ClassifyRequest,
    paths.POOLING: PoolingRequest,
    paths.TOKENIZE: TokenizeRequest,
    paths.DETOKENIZE: DetokenizeRequest,
    paths.TRANSCRIPTIONS: AudioRequest,
    paths.TRANSLATIONS: AudioRequest,
}
"""The body of each endpoint."""

CHAT_EXAMPLE = {"model": "tiny-random", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
"""A chat request, for the OpenAPI document."""

_validators = {endpoint: TypeAdapter(model).validator for endpoint, model in SCHEMAS.items()}


def check_body(endpoint: str, body: dict[str, Any]) -> bool:
    """Check the types of a request's fields.

    Returns:
        Whether it asks for a stream, as the engine reads it: ``"false"`` and ``0`` do not.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        request = _validators[endpoint].validate_python(body)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None
    if missing := _missing(ENDPOINTS[endpoint], body):
        raise invalid(f"{missing}: Field required", missing)
    return bool(getattr(request, "stream", None))


def _missing(endpoint: Endpoint, body: dict[str, Any]) -> str | None:
    """Return a field that the request lacks; None: it has a prompt."""
    given = {field for field, value in body.items() if value is not None}
    if given.isdisjoint(endpoint.prompt_fields):
        return endpoint.prompt_fields[0]
    half = [second for first, second in endpoint.pairs if first in given]
    return half[0] if half and given.isdisjoint(half) else None
