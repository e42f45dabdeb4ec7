"""The answers of the OpenAI, Anthropic and vLLM endpoints, for the OpenAPI document. Nothing is checked against them.

The engine makes these answers, so a model here names the members that a client can rely on, and allows all others. A stream
is described by one of its events: the fields that Server-Sent Events have, with the JSON of ``data`` written out.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from api.http.openapi import ErrorBody
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class AnswerUsage(_Open):
    """Token counts as the engine reported them."""

    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class CallFacts(_Open):
    """Penstock's own facts of a call, in the last chunk of its stream."""

    job_id: str
    queue_ms: int | None
    ttft_ms: int | None
    total_ms: int | None
    tokens_per_s: float | None


class ChatMessage(_Open):
    """What the model answered."""

    role: str
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(_Open):
    """One answer of a chat completion."""

    index: int
    message: ChatMessage
    finish_reason: str | None


class ChatCompletion(_Open):
    """A chat completion, as OpenAI's."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: AnswerUsage | None = None


class ChatDelta(_Open):
    """What a chunk adds to an answer."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChunkChoice(_Open):
    """One answer of a chat completion, in a chunk of its stream."""

    index: int
    delta: ChatDelta
    finish_reason: str | None = None


class ChatCompletionChunk(_Open):
    """A chunk of a chat completion's stream, as OpenAI's."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: AnswerUsage | None = None
    penstock: CallFacts | None = Field(None, description="In the last chunk.")


class CompletionChoice(_Open):
    """One answer of a completion, or what a chunk adds to it."""

    index: int
    text: str
    finish_reason: str | None = None


class Completion(_Open):
    """A completion, or a chunk of its stream, as OpenAI's."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: AnswerUsage | None = None
    penstock: CallFacts | None = Field(None, description="In the last chunk of a stream.")


class EmbeddingObject(_Open):
    """One embedding. A string is base64, for `encoding_format: base64`."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(_Open):
    """The embeddings, in the order of the input."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingObject]
    usage: AnswerUsage | None = None


class MessageObject(_Open):
    """A message, as Anthropic's."""

    id: str
    type: Literal["message"]
    role: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None


class ResponseObject(_Open):
    """A response, as OpenAI's."""

    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[dict[str, Any]]


class ResponseDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["response"]
    deleted: bool


class ModelObject(_Open):
    """A model, as OpenAI's."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str | None = Field(None, description="Of an alias: the model's own name.")
    parent: str | None = Field(None, description="Of a LoRA adapter: its base model.")
    penstock: dict[str, Any] | None = Field(None, description="Its endpoints and capabilities.")


class ModelList(BaseModel):
    """The models that a caller may use."""

    object: Literal["list"]
    data: list[ModelObject]


class ChatCompletionEvent(BaseModel):
    """One event of a chat completion's stream. The last one's data is `[DONE]`; a stream that fails ends with an error."""

    id: str | None = Field(None, description="Where the stream can be resumed; of a followed stream only.")
    data: ChatCompletionChunk | ErrorBody | Literal["[DONE]"]


class CompletionEvent(BaseModel):
    """One event of a completion's stream. The last one's data is `[DONE]`; a stream that fails ends with an error."""

    id: str | None = Field(None, description="Where the stream can be resumed; of a followed stream only.")
    data: Completion | ErrorBody | Literal["[DONE]"]


class MessageEventData(_Open):
    """The data of an event of a message's stream, as Anthropic's."""

    type: str


class MessageEvent(BaseModel):
    """One event of a message's stream: `message_start`, `content_block_delta`, ..., `message_stop`, or `error`."""

    id: str | None = Field(None, description="Where the stream can be resumed; of a followed stream only.")
    event: str = Field(description="The data's `type`.")
    data: MessageEventData


class ResponseEventData(_Open):
    """The data of an event of a response's stream, as OpenAI's."""

    type: str
    sequence_number: int
    response: ResponseObject | None = None


class ResponseEvent(BaseModel):
    """One event of a response's stream: `response.created`, `response.output_text.delta`, ..., `response.completed`."""

    id: str | None = Field(None, description="Where the stream can be resumed; of a followed stream only.")
    event: str = Field(description="The data's `type`.")
    data: ResponseEventData


class OutputEvent(RootModel[ChatCompletionEvent | CompletionEvent | MessageEvent | ResponseEvent]):
    """One event of a job's stream, in the form of the job's endpoint."""


ANSWERS: dict[str, type[BaseModel]] = {
    CHAT: ChatCompletion,
    COMPLETIONS: Completion,
    EMBEDDINGS: EmbeddingList,
    MESSAGES: MessageObject,
    RESPONSES: ResponseObject,
}
"""What an endpoint answers, by its path."""

EVENTS: dict[str, type[BaseModel]] = {
    CHAT: ChatCompletionEvent,
    COMPLETIONS: CompletionEvent,
    MESSAGES: MessageEvent,
    RESPONSES: ResponseEvent,
}
"""One event of an endpoint's stream, by its path."""
