"""Which endpoints vLLM's app serves with its model: those of its tasks that have a route and something behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jobs.endpoints import (
    CLASSIFY,
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
from workers.engines.vllm.inner_app import functions_at

BESIDE_CHAT = (RESPONSES, MESSAGES, COUNT_TOKENS)
"""What a model that chats may do too."""

OTHERS = (EMBEDDINGS, RERANK, SCORE, CLASSIFY, POOLING, TOKENIZE, DETOKENIZE, TRANSCRIPTIONS, TRANSLATIONS)
"""What does not answer a prompt."""

_HANDLERS = {
    MESSAGES: "anthropic_serving_messages",
    COUNT_TOKENS: "anthropic_serving_messages",
    EMBEDDINGS: "serving_embedding",
    RERANK: "serving_scores",
    SCORE: "serving_scores",
    CLASSIFY: "serving_classification",
    POOLING: "serving_pooling",
    TRANSCRIPTIONS: "openai_serving_transcription",
    TRANSLATIONS: "openai_serving_translation",
}
"""What answers an endpoint, on the state of the app. It is None if the model cannot do it, though there may be a route."""


def served(app: Any, paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of these endpoints that the app serves."""
    return tuple(
        path
        for path in paths
        if functions_at(app, ENDPOINTS[path].served_at)
        and getattr(app.state, _HANDLERS.get(path, ""), app) is not None
    )
