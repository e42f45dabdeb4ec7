"""May this request enter the queue? The model, its endpoints, and a prompt that cannot fit. Pure.

The prompt check is a lower bound: no token of the vocabulary is longer than ``max_token_bytes``, so a text of
B bytes has at least ``B / max_token_bytes`` tokens. What passes may still be too long; the engine knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from api.catalogue import Model
from api.errors import ApiError, invalid


def named_model(body: Mapping[str, Any], param: str = "model") -> str:
    """Return the name of the model that a body asks for.

    Raises:
        ApiError: 400, it names none.
    """
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise invalid("name a model; GET /v1/models lists them", param)
    return name


def model_not_found(name: str) -> ApiError:
    """Make the 404 for a model that no worker ever served here."""
    message = f"the model {name!r} does not exist; GET /v1/models lists what there is"
    return ApiError(404, message, "model_not_found", param="model")


def check_endpoint(model: Model, endpoint: str) -> None:
    """Refuse what the model cannot do.

    Raises:
        ApiError: 400 ``unsupported``.
    """
    if model.endpoints and endpoint not in model.endpoints:
        message = f"the model {model.name!r} does not do {endpoint}; it does {', '.join(model.endpoints)}"
        raise invalid(message, "model", "unsupported")


def check_length(model: Model, body: Mapping[str, Any], size: int) -> None:
    """Refuse a prompt that cannot fit into the model's context.

    Args:
        model: the model.
        body: the parsed request.
        size: the request's bytes; a prompt is never larger, so a small one needs no closer look.

    Raises:
        ApiError: 400 ``context_length_exceeded``.
    """
    limit = model.max_model_len
    if limit is None or size <= limit or body.get("truncate_prompt_tokens") is not None:
        return
    for param, prompt in _prompts(body):
        tokens, exact = _least_tokens(prompt, model.max_token_bytes)
        if tokens > limit:
            count = f"{tokens}" if exact else f"at least {tokens}"
            message = (
                f"This model's maximum context length is {limit} tokens."
                f" However, your {param} has {count} tokens. Please shorten the {param}."
            )
            raise invalid(message, param, "context_length_exceeded")


def _prompts(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (field, prompt) for each prompt that must fit on its own."""
    messages = body.get("messages")
    if isinstance(messages, list):
        yield "messages", "".join(_texts(messages))
    for param in ("prompt", "input"):
        value = body.get(param)
        if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
            yield param, value
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str | list):
                    yield param, item


def _texts(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, dict) else part
                if isinstance(text, str):
                    yield text


def _least_tokens(prompt: Any, max_token_bytes: int | None) -> tuple[int, bool]:
    """Return how many tokens a prompt has at least, and whether that is the exact number."""
    if isinstance(prompt, list):
        return len(prompt), True
    return (-(-len(prompt.encode()) // max_token_bytes) if max_token_bytes else 0), False
