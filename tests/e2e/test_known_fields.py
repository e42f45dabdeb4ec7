"""No field of vLLM's own requests is told to its caller as unknown."""

from __future__ import annotations

import importlib

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

REQUESTS: dict[str, tuple[str, str]] = {
    CHAT: ("openai.chat_completion", "ChatCompletionRequest"),
    COMPLETIONS: ("openai.completion", "CompletionRequest"),
    RESPONSES: ("openai.responses", "ResponsesRequest"),
    MESSAGES: ("anthropic", "AnthropicMessagesRequest"),
    COUNT_TOKENS: ("anthropic", "AnthropicCountTokensRequest"),
    EMBEDDINGS: ("pooling.embed", "EmbeddingChatRequest EmbeddingCompletionRequest"),
    CLASSIFY: ("pooling.classify", "ClassificationChatRequest ClassificationCompletionRequest"),
    POOLING: ("pooling.pooling", "PoolingChatRequest PoolingCompletionRequest IOProcessorRequest"),
    RERANK: ("pooling.scoring", "RerankRequest"),
    SCORE: (
        "pooling.scoring",
        "ScoreTextRequest ScoreDataRequest ScoreQueriesDocumentsRequest ScoreQueriesItemsRequest",
    ),
    TOKENIZE: ("serve.tokenize", "TokenizeChatRequest TokenizeCompletionRequest"),
    DETOKENIZE: ("serve.tokenize", "DetokenizeRequest"),
    TRANSCRIPTIONS: ("speech_to_text.transcription", "TranscriptionRequest"),
    TRANSLATIONS: ("speech_to_text.translation", "TranslationRequest"),
}
"""Packages below ``vllm.entrypoints``, and the classes of their ``protocol``."""


@pytest.mark.parametrize("endpoint", KNOWN_FIELDS)
def test_vllms_fields_are_known(endpoint: str) -> None:
    package, names = REQUESTS[endpoint]
    protocol = importlib.import_module(f"vllm.entrypoints.{package}.protocol")
    for name in names.split():
        fields = getattr(protocol, name).model_fields
        aliases = {field.alias for field in fields.values() if field.alias is not None}
        assert {*fields, *aliases} - KNOWN_FIELDS[endpoint] == set(), name
