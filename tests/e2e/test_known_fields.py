"""No field of vLLM's own requests is told to its caller as unknown."""

from __future__ import annotations

from importlib import import_module

import pytest

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

OPENAI = "vllm.entrypoints.openai"
POOLED = "vllm.entrypoints.pooling"
SPEECH = "vllm.entrypoints.speech_to_text"
REQUESTS: dict[str, tuple[str, str]] = {
    CHAT: (f"{OPENAI}.chat_completion", "ChatCompletionRequest"),
    COMPLETIONS: (f"{OPENAI}.completion", "CompletionRequest"),
    RESPONSES: (f"{OPENAI}.responses", "ResponsesRequest"),
    MESSAGES: ("vllm.entrypoints.anthropic", "AnthropicMessagesRequest"),
    COUNT_TOKENS: ("vllm.entrypoints.anthropic", "AnthropicCountTokensRequest"),
    EMBEDDINGS: (f"{POOLED}.embed", "EmbeddingChatRequest EmbeddingCompletionRequest"),
    CLASSIFY: (f"{POOLED}.classify", "ClassificationChatRequest ClassificationCompletionRequest"),
    POOLING: (f"{POOLED}.pooling", "PoolingChatRequest PoolingCompletionRequest IOProcessorRequest"),
    RERANK: (f"{POOLED}.scoring", "RerankRequest"),
    SCORE: (
        f"{POOLED}.scoring",
        "ScoreTextRequest ScoreDataRequest ScoreQueriesDocumentsRequest ScoreQueriesItemsRequest",
    ),
    TOKENIZE: ("vllm.entrypoints.serve.tokenize", "TokenizeChatRequest TokenizeCompletionRequest"),
    DETOKENIZE: ("vllm.entrypoints.serve.tokenize", "DetokenizeRequest"),
    TRANSCRIPTIONS: (f"{SPEECH}.transcription", "TranscriptionRequest"),
    TRANSLATIONS: (f"{SPEECH}.translation", "TranslationRequest"),
}
"""By endpoint, the package whose module ``protocol`` has vLLM's requests, and their classes."""


@pytest.mark.parametrize("endpoint", KNOWN_FIELDS)
def test_vllms_fields_are_known(endpoint: str) -> None:
    package, classes = REQUESTS[endpoint]
    protocol = import_module(f"{package}.protocol")
    for name in classes.split():
        fields = getattr(protocol, name).model_fields
        aliases = {field.alias for field in fields.values() if field.alias is not None}
        assert {*fields, *aliases} - KNOWN_FIELDS[endpoint] == set(), name
