"""The types of OpenAI request bodies: a body with a wrong type never enters the queue.

The types are vLLM's own (0.32, ``vllm/entrypoints/openai/*/protocol.py``), in the same mode of pydantic (lax) and no
narrower: every body that the engine accepts must pass here. Unlisted fields are not checked. The engine checks values.
(msgspec's typed decoding also stops at the first error, but it refuses ``{"stream": "yes", "n": true}``.)

pydantic collects every error by default. Here each list stops at its first one, and each dict is counted before it is
checked, so that a body costs a few errors and not a million.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_TokenId = Annotated[int, Field(ge=0)]

MAX_MESSAGES = 2048
"""Most messages of a conversation: OpenAI's own limit. A template renders each."""

MAX_PARTS = 2048
"""Most parts of a message, and most calls in it: as many as messages."""

MAX_PROMPTS = 2048
"""Most prompts in one request: OpenAI's limit for embeddings. Each is a request of its own in the engine."""

MAX_TOOLS = 1024
"""Most tools. OpenAI takes 128; gateways that join the tools of many servers send more."""

MAX_STOPS = 1024
"""Most stop texts or stop token ids. The engine compares each of them with every token."""

MAX_BIASES = 1024
"""Most entries of ``logit_bias``. OpenAI takes 300."""

T = TypeVar("T")
LooseList = Annotated[list[T], Field(fail_fast=True)]
"""A list whose check stops at the first error."""


def at_most(limit: int) -> BeforeValidator:
    """Return a check of a dict's size that runs before the check of its items."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > limit:
            facts = {"limit": limit, "size": len(value)}
            message = "Dictionary should have at most {limit} items, not {size}"
            raise PydanticCustomError("too_long", message, facts)
        return value

    return BeforeValidator(check)


def few_inputs(value: Any) -> Any:
    """Check the number of a request's inputs. Token ids are one input."""
    if isinstance(value, list) and len(value) > MAX_PROMPTS and not isinstance(value[0], int):
        facts = {"limit": MAX_PROMPTS, "size": len(value)}
        raise PydanticCustomError("too_long", "List should have at most {limit} inputs, not {size}", facts)
    return value


_Tokens = Annotated[LooseList[_TokenId], Field(min_length=1)]


class Loose(BaseModel):
    """A body, or a part of one, of which only some fields are checked."""

    model_config = ConfigDict(extra="ignore")


class StreamOptions(Loose):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ResponseFormat(Loose):
    """The required form of the answer."""

    type: str
    json_schema: dict[str, Any] | None = None


class Message(Loose):
    """One message of a conversation."""

    role: str
    content: (
        str | Annotated[LooseList[dict[str, Any] | str], Field(max_length=MAX_PARTS)] | dict[str, Any] | None
    ) = None
    tool_calls: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_PARTS)] | None = None


class Function(Loose):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Loose):
    """A tool that the model may use."""

    type: Literal["function"] = "function"
    function: Function


class _Generation(Loose):
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
    stop: str | Annotated[LooseList[str], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[LooseList[int], Field(max_length=MAX_STOPS)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES), at_most(MAX_BIASES)] | None = None
    response_format: ResponseFormat | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None


class ChatRequest(_Generation):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[LooseList[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Annotated[LooseList[Tool], Field(max_length=MAX_TOOLS)] | None = None
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
        | _Tokens
        | Annotated[LooseList[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[LooseList[_Tokens], Field(min_length=1, max_length=MAX_PROMPTS)]
        | None
    ) = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


class EmbeddingRequest(Loose):
    """Body of ``POST /v1/embeddings``: ``input``, or vLLM's ``messages``."""

    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    input: Annotated[Any, BeforeValidator(few_inputs)] = Field(
        None, description="A text, token ids, or a list of either."
    )
    messages: Annotated[list[Any], Field(max_length=MAX_MESSAGES)] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None
