"""No field of vLLM's own requests is told to its caller as unknown."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.classify.protocol import (
    ClassificationChatRequest,
    ClassificationCompletionRequest,
)
from vllm.entrypoints.pooling.embed.protocol import EmbeddingChatRequest, EmbeddingCompletionRequest
from vllm.entrypoints.pooling.pooling.protocol import (
    IOProcessorRequest,
    PoolingChatRequest,
    PoolingCompletionRequest,
)
from vllm.entrypoints.pooling.scoring.protocol import (
    RerankRequest,
    ScoreDataRequest,
    ScoreQueriesDocumentsRequest,
    ScoreQueriesItemsRequest,
    ScoreTextRequest,
)
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from vllm.entrypoints.speech_to_text.transcription.protocol import TranscriptionRequest
from vllm.entrypoints.speech_to_text.translation.protocol import TranslationRequest

from api.admission.known_fields import KNOWN_FIELDS
from jobs.endpoints import (
    CHAT,
    CLASSIFY,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    MESSAGES,
    POOLING,
    RERANK,
    RESPONSES,
    SCORE,
    TOKENIZE,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)

REQUESTS: dict[str, tuple[type[BaseModel], ...]] = {
    CHAT: (ChatCompletionRequest,),
    COMPLETIONS: (CompletionRequest,),
    RESPONSES: (ResponsesRequest,),
    MESSAGES: (AnthropicMessagesRequest,),
    COUNT_TOKENS: (AnthropicCountTokensRequest,),
    EMBEDDINGS: (EmbeddingChatRequest, EmbeddingCompletionRequest),
    CLASSIFY: (ClassificationChatRequest, ClassificationCompletionRequest),
    POOLING: (PoolingChatRequest, PoolingCompletionRequest, IOProcessorRequest),
    RERANK: (RerankRequest,),
    SCORE: (ScoreTextRequest, ScoreDataRequest, ScoreQueriesDocumentsRequest, ScoreQueriesItemsRequest),
    TOKENIZE: (TokenizeChatRequest, TokenizeCompletionRequest),
    DETOKENIZE: (DetokenizeRequest,),
    TRANSCRIPTIONS: (TranscriptionRequest,),
    TRANSLATIONS: (TranslationRequest,),
}


@pytest.mark.parametrize("endpoint", KNOWN_FIELDS)
def test_vllms_fields_are_known(endpoint: str) -> None:
    for request in REQUESTS[endpoint]:
        aliases = {field.alias for field in request.model_fields.values() if field.alias is not None}
        assert {*request.model_fields, *aliases} - KNOWN_FIELDS[endpoint] == set(), request.__name__
