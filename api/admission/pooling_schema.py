"""The types of bodies of endpoints that generate no text; see :mod:`api.admission.schema` for the rules.

No narrower than vLLM's own (0.32, ``vllm/entrypoints/pooling/*/protocol.py`` and ``serve/tokenize/protocol.py``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from api.admission.schema import MAX_MESSAGES, MAX_PROMPTS, MAX_TOOLS, Loose, LooseList, few_inputs

MAX_TOKEN_IDS = 2_000_000
"""Most token ids to turn into text: more than any model's context."""


class _Named(Loose):
    model: str | None = Field(None, description="A served model or an alias; see GET /v1/models.")
    user: str | None = None


_Text = str | dict[str, Any]
"""A text, or vLLM's ``{"content": [...]}`` with parts as in chat."""

_Texts = _Text | Annotated[LooseList[_Text], Field(max_length=MAX_PROMPTS)]
_Truncation = Annotated[int, Field(ge=-1)]


class _Scoring(_Named):
    truncate_prompt_tokens: _Truncation | None = None
    max_tokens_per_query: int | None = None
    max_tokens_per_doc: int | None = None
    instruction: str | None = None


class RerankRequest(_Scoring):
    """Body of ``POST /v1/rerank``, as Jina's and Cohere's."""

    query: _Text = Field(description="What the documents should answer.")
    documents: _Texts = Field(description=f"At most {MAX_PROMPTS}.")
    top_n: Annotated[int, Field(ge=0)] | None = Field(None, description="Answer the best ones only; 0: all.")


class ScoreRequest(_Scoring):
    """Body of ``POST /v1/score``. Each text of one field meets the text at its place in the other, or one meets all."""

    text_1: _Texts | None = Field(None, description="With `text_2`.")
    text_2: _Texts | None = None
    queries: _Texts | None = Field(None, description="With `documents` or `items`.")
    documents: _Texts | None = None
    items: _Texts | None = None
    data_1: _Texts | None = Field(None, description="With `data_2`.")
    data_2: _Texts | None = None


class _Inputs(_Named):
    input: Annotated[Any, BeforeValidator(few_inputs)] = Field(
        None, description="A text, token ids, or a list of either."
    )
    messages: Annotated[list[Any], Field(max_length=MAX_MESSAGES)] | None = None
    truncate_prompt_tokens: _Truncation | None = None
    use_activation: bool | None = None


class ClassifyRequest(_Inputs):
    """Body of ``POST /v1/classify``: ``input``, or vLLM's ``messages``."""


class PoolingRequest(_Inputs):
    """Body of ``POST /v1/pooling``: what vLLM's pooler makes of each input."""

    data: Any = Field(None, description="For a model with an IO processor of its own, instead of `input`.")
    task: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


class TokenizeRequest(_Named):
    """Body of ``POST /tokenize``: ``prompt``, or ``messages`` as in chat."""

    prompt: str | None = None
    messages: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(_Named):
    """Body of ``POST /detokenize``: the text of token ids."""

    tokens: Annotated[LooseList[Annotated[int, Field(ge=0)]], Field(max_length=MAX_TOKEN_IDS)]
