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
from jobs.endpoints import (
    CHAT,
    CLASSIFY,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    ENDPOINTS,
    MESSAGES,
    POOLING,
    RERANK,
    RESPONSES,
    SCORE,
    TOKENIZE,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)

SCHEMAS: dict[str, type[BaseModel]] = {
    CHAT: ChatRequest,
    COMPLETIONS: CompletionRequest,
    EMBEDDINGS: EmbeddingRequest,
    RESPONSES: ResponsesRequest,
    MESSAGES: MessagesRequest,
    COUNT_TOKENS: CountTokensRequest,
    RERANK: RerankRequest,
    SCORE: ScoreRequest,
    CLASSIFY: ClassifyRequest,
    POOLING: PoolingRequest,
    TOKENIZE: TokenizeRequest,
    DETOKENIZE: DetokenizeRequest,
    TRANSCRIPTIONS: AudioRequest,
    TRANSLATIONS: AudioRequest,
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
    fields = ENDPOINTS[endpoint].prompt_fields
    if all(body.get(field) is None for field in fields):
        raise invalid(f"{fields[0]}: Field required", fields[0])
    return bool(getattr(request, "stream", None))
