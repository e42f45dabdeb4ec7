"""The endpoints that calls, jobs and batch rows use: one table for the api, the coordinator and the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

JobEndpoint = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/score",
    "/v1/classify",
    "/v1/pooling",
    "/tokenize",
    "/detokenize",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
]
"""The paths that a client may call, or submit a job for."""

JOB_ENDPOINTS: Final[tuple[JobEndpoint, ...]] = get_args(JobEndpoint)

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
RERANK: Final = "/v1/rerank"
SCORE: Final = "/v1/score"
CLASSIFY: Final = "/v1/classify"
POOLING: Final = "/v1/pooling"
TOKENIZE: Final = "/tokenize"
DETOKENIZE: Final = "/detokenize"
TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"

CHUNK_ENDPOINT = "/v1/batches/chunk"
"""The endpoint of the internal job that runs a chunk of a batch. No client can submit it."""

StreamForm = Literal["chunks", "events"]
"""How an endpoint streams: ``chunks``: ``data:`` lines and ``[DONE]`` at the end, as OpenAI's completions; ``events``: each
with the name that is its ``type``, and an end of its own, as Responses and Anthropic's Messages."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of an endpoint.

    Attributes:
        task: its operation, named as OpenTelemetry's ``gen_ai.operation.name``.
        response_id: the form of a response's ``id``, from the job's id; empty: its responses have none.
        prompt_fields: fields of the body of which one is required. The usual one comes first.
        limit_fields: fields that limit the completion's tokens. The first one that is given counts.
        streams: how it sends its tokens while it generates; None: it cannot.
        engine_path: the path at vLLM's server, where that is another.
        rows: batches may have rows for it.
        multipart: its calls are forms with a file.
        aliases: further paths of the api at which clients look for it.
        pairs: fields of texts, and those of the texts that each of them meets: the model reads every pair.
        tokenizer_only: the model itself does not run: texts of any length are taken.
    """

    path: str
    task: str
    response_id: str
    prompt_fields: tuple[str, ...]
    limit_fields: tuple[str, ...] = ()
    streams: StreamForm | None = None
    engine_path: str = ""
    rows: bool = True
    multipart: bool = False
    aliases: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    tokenizer_only: bool = False

    @property
    def served_at(self) -> str:
        """The path at the engine's server."""
        return self.engine_path or self.path


_CHAT_LIMITS = ("max_completion_tokens", "max_tokens")
_SCORED = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))

ENDPOINTS: Final = {
    one.path: one
    for one in (
        Endpoint(CHAT, "chat", "chatcmpl-{}", ("messages",), _CHAT_LIMITS, "chunks"),
        Endpoint(
            COMPLETIONS, "text_completion", "cmpl-{}", ("prompt", "prompt_embeds"), ("max_tokens",), "chunks"
        ),
        Endpoint(EMBEDDINGS, "embeddings", "embd-{}", ("input", "messages")),
        Endpoint(RESPONSES, "chat", "resp_{}", ("input",), ("max_output_tokens",), "events"),
        Endpoint(MESSAGES, "chat", "chatcmpl-{}", ("messages",), ("max_tokens",), "events"),
        Endpoint(COUNT_TOKENS, "count_tokens", "", ("messages",), rows=False, tokenizer_only=True),
        Endpoint(
            RERANK,
            "rerank",
            "score-{}",
            ("query",),
            engine_path="/rerank",
            aliases=("/rerank", "/v2/rerank"),
            pairs=(("query", "documents"),),
        ),
        Endpoint(
            SCORE,
            "score",
            "score-{}",
            ("text_1", "queries", "data_1"),
            engine_path="/score",
            aliases=("/score",),
            pairs=_SCORED,
        ),
        Endpoint(
            CLASSIFY,
            "classify",
            "classify-{}",
            ("input", "messages"),
            engine_path="/classify",
            aliases=("/classify",),
        ),
        Endpoint(
            POOLING,
            "pooling",
            "pooling-{}",
            ("input", "messages", "data"),
            engine_path="/pooling",
            aliases=("/pooling",),
        ),
        Endpoint(TOKENIZE, "tokenize", "", ("prompt", "messages"), rows=False, tokenizer_only=True),
        Endpoint(DETOKENIZE, "detokenize", "", ("tokens",), rows=False, tokenizer_only=True),
        Endpoint(
            TRANSCRIPTIONS,
            "transcription",
            "",
            ("file",),
            ("max_completion_tokens",),
            "chunks",
            rows=False,
            multipart=True,
        ),
        Endpoint(
            TRANSLATIONS,
            "translation",
            "",
            ("file",),
            ("max_completion_tokens",),
            "chunks",
            rows=False,
            multipart=True,
        ),
    )
}
"""Every endpoint that an engine serves, by its path."""

USUAL_ENDPOINTS: Final = (CHAT, COMPLETIONS, EMBEDDINGS)
"""Those that nearly every OpenAI-compatible server has."""

BATCH_ENDPOINTS = tuple(path for path, one in ENDPOINTS.items() if one.rows)
"""The endpoints that the rows of a batch may call."""

STREAMING = tuple(path for path, one in ENDPOINTS.items() if one.streams)
"""The endpoints that can stream."""


def task_of(path: str) -> str:
    """Return the task of an endpoint for traces; the path itself for one that is not in the table."""
    return ENDPOINTS[path].task if path in ENDPOINTS else path
