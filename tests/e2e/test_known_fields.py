"""No field of vLLM's own requests is told to its caller as unknown."""

from __future__ import annotations

import importlib

import pytest

from jobs import endpoints as paths
from jobs.known_fields import KNOWN_FIELDS

REQUESTS: dict[str, tuple[str, str]] = {
    paths.CHAT: ("openai.chat_completion", "ChatCompletionRequest"),
    paths.COMPLETIONS: ("openai.completion", "CompletionRequest"),
    paths.RESPONSES: ("openai.responses", "ResponsesRequest"),
    paths.MESSAGES: ("anthropic", "AnthropicMessagesRequest"),
    paths.COUNT_TOKENS: ("anthropic", "AnthropicCountTokensRequest"),
    paths.EMBEDDINGS: ("pooling.embed", "EmbeddingChatRequest EmbeddingCompletionRequest"),
    paths.CLASSIFY: ("pooling.classify", "ClassificationChatRequest ClassificationCompletionRequest"),
    paths.POOLING: ("pooling.pooling", "PoolingChatRequest PoolingCompletionRequest IOProcessorRequest"),
    paths.RERANK: ("pooling.scoring", "RerankRequest"),
    paths.SCORE: (
        "pooling.scoring",
        "ScoreTextRequest ScoreDataRequest ScoreQueriesDocumentsRequest ScoreQueriesItemsRequest",
    ),
    paths.TOKENIZE: ("serve.tokenize", "TokenizeChatRequest TokenizeCompletionRequest"),
    paths.DETOKENIZE: ("serve.tokenize", "DetokenizeRequest"),
    paths.TRANSCRIPTIONS: ("speech_to_text.transcription", "TranscriptionRequest"),
    paths.TRANSLATIONS: ("speech_to_text.translation", "TranslationRequest"),
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
