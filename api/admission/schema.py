"""The types of OpenAI request bodies: a body with a wrong type never enters the queue.

The types are vLLM's own (0.32, ``vllm/entrypoints/openai/*/protocol.py``), in the same mode of pydantic (lax) and no
narrower: every body that the engine accepts must pass here. Unlisted fields are not checked. The engine checks values.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from api.http.errors import invalid, validation_error
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS

_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_TokenId = Annotated[int, Field(ge=0)]
_NOT_EMPTY = Field(min_length=1)


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")


class StreamOptions(_Loose):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ResponseFormat(_Loose):
    """The required form of the answer."""

    type: str
    json_schema: dict[str, Any] | None = None


class Message(_Loose):
    """One message of a conversation."""

    role: str
    content: str | list[dict[str, Any] | str] | dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Function(_Loose):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Loose):
    """A tool that the model may use."""

    type: Literal["function"] = "function"
    function: Function


class _Generation(_Loose):
    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    stream: bool | None = Field(None, description="Answer with Server-Sent Events while it generates.")
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    n: int | None = None
    seed: _Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None


class ChatRequest(_Generation):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], _NOT_EMPTY]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionRequest(_Generation):
    """Body of ``POST /v1/completions``."""

    prompt: (
        str
        | Annotated[list[_TokenId], _NOT_EMPTY]
        | Annotated[list[str], _NOT_EMPTY]
        | Annotated[list[Annotated[list[_TokenId], _NOT_EMPTY]], _NOT_EMPTY]
        | None
    ) = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


class EmbeddingRequest(_Loose):
    """Body of ``POST /v1/embeddings``: ``input``, or vLLM's ``messages``."""

    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    input: Any = Field(None, description="A text, token ids, or a list of either.")
    messages: list[Any] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None


SCHEMAS: dict[str, type[BaseModel]] = {
    CHAT: ChatRequest,
    COMPLETIONS: CompletionRequest,
    EMBEDDINGS: EmbeddingRequest,
}
"""The body of each endpoint."""

CHAT_EXAMPLE = {"model": "tiny-random", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
"""A chat request, for the OpenAPI document."""

_validators = {endpoint: TypeAdapter(model).validator for endpoint, model in SCHEMAS.items()}


def check_body(endpoint: str, body: dict[str, Any]) -> None:
    """Check the types of a request's fields.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        _validators[endpoint].validate_python(body)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None
    fields = ENDPOINTS[endpoint].prompt_fields
    if all(body.get(field) is None for field in fields):
        raise invalid(f"{fields[0]}: Field required", fields[0])
