"""The OpenAI endpoints that jobs and batch rows call: one table for the api, the coordinator and the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

JobEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
"""The paths that a client may call, or submit a job for."""

CHAT: JobEndpoint
COMPLETIONS: JobEndpoint
EMBEDDINGS: JobEndpoint
JOB_ENDPOINTS: tuple[JobEndpoint, JobEndpoint, JobEndpoint] = get_args(JobEndpoint)
CHAT, COMPLETIONS, EMBEDDINGS = JOB_ENDPOINTS

RESPONSES = "/v1/responses"
"""An endpoint of batch rows only."""

CHUNK_ENDPOINT = "/v1/batches/chunk"
"""The endpoint of the internal job that runs a chunk of a batch. No client can submit it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of an endpoint.

    Attributes:
        task: its operation, named as OpenTelemetry's ``gen_ai.operation.name``.
        response_id: the form of a response's ``id``, from the job's id.
        prompt_fields: fields of the body of which one is required. The usual one comes first.
        limit_fields: fields that limit the completion's tokens. The first one that is given counts.
        streams: whether it can send its tokens while it generates.
    """

    path: str
    task: str
    response_id: str
    prompt_fields: tuple[str, ...]
    limit_fields: tuple[str, ...] = ()
    streams: bool = False


_CHAT_LIMITS = ("max_completion_tokens", "max_tokens")

ENDPOINTS = {
    one.path: one
    for one in (
        Endpoint(CHAT, "chat", "chatcmpl-{}", ("messages",), _CHAT_LIMITS, streams=True),
        Endpoint(
            COMPLETIONS,
            "text_completion",
            "cmpl-{}",
            ("prompt", "prompt_embeds"),
            ("max_tokens",),
            streams=True,
        ),
        Endpoint(EMBEDDINGS, "embeddings", "embd-{}", ("input", "messages")),
        Endpoint(RESPONSES, RESPONSES, "resp_{}", ("input",), ("max_output_tokens",)),
    )
}
"""Every endpoint that an engine serves, by its path."""

BATCH_ENDPOINTS = tuple(ENDPOINTS)
"""The endpoints that the rows of a batch may call."""

STREAMING = tuple(path for path, one in ENDPOINTS.items() if one.streams)
"""The endpoints that can stream."""


def task_of(path: str) -> str:
    """Return the task of an endpoint for traces; the path itself for one that is not in the table."""
    return ENDPOINTS[path].task if path in ENDPOINTS else path
