"""Examples and error descriptions for the generated schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people.")
    type: str = Field(description="OpenAI's class of the error.", examples=["invalid_request_error"])
    param: str | None = Field(None, description="The request field it is about.", examples=["model"])
    code: str = Field(description="For programs.", examples=["model_not_found"])


class ErrorBody(BaseModel):
    """Body of every answer that is not a success."""

    error: ErrorDetail


_ERRORS = {
    400: "The request is wrong: `invalid_json`, `invalid_encoding`, `invalid_request`,"
    " `context_length_exceeded`, `unsupported`, `infeasible_deadline`,"
    " `no_such_device`.",
    401: "No API key, or a wrong one: `invalid_api_key`.",
    404: "There is no such thing: `model_not_found`, `job_not_found`, `worker_not_found`, `pool_not_found`,"
    " `file_not_found`, `batch_not_found`, `not_found`.",
    409: "It cannot be done now: `idempotency_conflict`, `job_not_finished`, `job_not_queued`, `job_cancelled`,"
    " `file_in_use`, `batch_not_finished`, `batch_finished`, `nothing_to_retry`.",
    410: "It is gone: `cursor_expired`, `file_gone`, `storage_object_missing`.",
    413: "The body is too large: `body_too_large`, `file_too_large`.",
    416: "The range lies behind the end: `range_not_satisfiable`.",
    429: "Too much at once: `queue_full`, `gpu_busy`. Has `Retry-After`.",
    500: "It failed here: `engine_error`, `internal_error`.",
    503: "Not now: `redis_unavailable`, `storage_unavailable`, `no_worker`, `queue_timeout`, `worker_lost`,"
    " `engine_unavailable`. Has `Retry-After`.",
    504: "Too late: `timeout`, `expired`.",
    507: "There is no room for files: `storage_full`.",
}


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses`` for these statuses."""
    return {status: {"model": ErrorBody, "description": _ERRORS[status]} for status in statuses}


REF = "#/components/schemas/{model}"


def body_docs(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's ``openapi_extra`` for a body that FastAPI does not read; see :func:`describe`."""
    content = {"schema": {"$ref": REF.format(model=model.__name__)}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def describe(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> None:
    """Have the generated schema define the models of :func:`body_docs`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            _, defined = models_json_schema([(model, "validation") for model in bodies], ref_template=REF)
            schema["components"]["schemas"] |= defined["$defs"]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


_CHAT = {"model": "tiny-random", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}

EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": {"model": "tiny-random", "prompt": "Once upon a time", "max_tokens": 32},
    "/v1/embeddings": {"model": "tiny-embed", "input": ["Hello", "World"]},
}
"""A request of each endpoint."""

JOB_REQUEST: dict[str, Any] = {
    "endpoint": "/v1/chat/completions",
    "input": _CHAT,
    "priority": "normal",
    "metadata": {"project": "demo"},
}

_PATHS = {
    "status_url": "",
    "events_url": "/events",
    "cancel_url": "/cancel",
    "result_url": "/result",
}

JOB: dict[str, Any] = {
    "id": "job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
    "object": "job",
    "state": "succeeded",
    "endpoint": "/v1/chat/completions",
    "model": "tiny-random",
    "pool": "default",
    "priority": "normal",
    "stream": False,
    "metadata": {"project": "demo"},
    "attempt": 1,
    "max_attempts": 3,
    "position": None,
    "created_at": 1795416551.123,
    "expires_at": None,
    "queue_timeout_s": None,
    "timeout_s": None,
    "not_before": None,
    "retry_of": None,
    "retried_as": None,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "timings": {
        "queued_at": 1795416551.123,
        "started_at": 1795416551.13,
        "first_token_at": None,
        "finished_at": 1795416551.9,
        "queue_ms": 7,
        "total_ms": 777,
        "tokens_per_s": 41.5,
    },
    "usage": {"prompt_tokens": 12, "completion_tokens": 32, "total_tokens": 44},
    "error": None,
    "cancel_requested": False,
    "worker": "gpu0@host",
    "history": [],
    "links": {k: f"/v1/jobs/job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b{path}" for k, path in _PATHS.items()},
    "result": {
        "id": "chatcmpl-job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
        "object": "chat.completion",
        "choices": [],
    },
    "partial": None,
}
"""A job object."""
