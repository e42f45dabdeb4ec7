"""The types of bodies of endpoints that generate no text; see :mod:`api.admission.schema` for the rules."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.admission.schema import MAX_MESSAGES, MAX_PROMPTS, Loose, LooseList


class _Named(Loose):
    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    user: str | None = None


_Documents = str | dict[str, Any] | Annotated[LooseList[Any], Field(max_length=MAX_PROMPTS)]


class RerankRequest(_Named):
    """Body of ``POST /v1/rerank``, as Jina's and Cohere's."""

    query: str | dict[str, Any]
    documents: _Documents
    top_n: int | None = None


class ScoreRequest(_Named):
    """Body of ``POST /v1/score``."""

    queries: _Documents | None = None
    documents: _Documents | None = None
    text_1: _Documents | None = None
    text_2: _Documents | None = None


class ClassifyRequest(_Named):
    """Body of ``POST /v1/classify``."""

    input: _Documents | None = None
    messages: Annotated[list[Any], Field(max_length=MAX_MESSAGES)] | None = None


class PoolingRequest(_Named):
    """Body of ``POST /v1/pooling``."""

    input: _Documents | None = None
    messages: Annotated[list[Any], Field(max_length=MAX_MESSAGES)] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


class TokenizeRequest(_Named):
    """Body of ``POST /tokenize``, vLLM's."""

    prompt: str | None = None
    messages: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(_Named):
    """Body of ``POST /detokenize``, vLLM's."""

    tokens: LooseList[int]
