"""Checks that a prompt fits into the model's context. A prompt that does not fit never enters the queue.

The size alone decides most requests, in either direction:

- *Certainly too long.* No token is longer than ``max_token_bytes``, so a text of B bytes has at least
  ``B / max_token_bytes`` tokens. Token ids are counted exactly.
- *Certainly short enough.* A token covers at least one byte of text, so a text of B bytes has at most B tokens, plus the
  special tokens and the template's own words around it, ``prompt_overhead``. A conversation has at most as many tokens as
  its JSON has bytes: the template's text around each message (about 5 tokens) is shorter than the JSON around it
  (``{"role":"user","content":""},`` is 29 bytes). Tools count twice, since templates write them with spaces and null
  fields. An image's base64 is no text: an image takes at most the model's ``image_tokens``. A tokenizer whose normalization
  lengthens text could break this bound; the engine then refuses the prompt.

In between, a live worker counts the tokens. Without an answer the request is accepted, and the engine decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from api.admission.media import NOTHING, Brought
from api.admission.media_rights import tokens_of
from api.http.bodies import Body
from api.http.errors import ApiError, invalid
from api.services import Services
from broker.models import Model
from jobs.endpoints import ENDPOINTS, MESSAGES, Endpoint
from jobs.lanes import Lane

_CODE = "context_length_exceeded"
_PROMPTS = ("prompt", "input")
_TRUNCATING = ("truncate_prompt_tokens", "max_tokens_per_query", "max_tokens_per_doc")


async def check_context(
    services: Services,
    model: Model,
    endpoint: str,
    request: Mapping[str, Any],
    body: Body,
    named: bytes,
    brought: Brought = NOTHING,
    lane: Lane = Lane.REALTIME,
) -> int | None:
    """Refuse a prompt that does not fit. A worker counts its tokens if its size does not decide, those of calls first.

    Args:
        named: the body for the model's engine.

    Returns:
        The prompt's tokens; None: they were not counted, or it has several prompts.

    Raises:
        ApiError: 400 ``context_length_exceeded``.
    """
    param = await body.run(check_length, model, endpoint, request, len(named), brought)
    limit = model.max_model_len
    if param is None or limit is None:
        return None
    workers = tuple(worker.incarnation for worker in services.catalogue.workers(model))
    tokens = await services.asker.count(workers, endpoint, named, lane.engine_priority)
    if tokens is not None and tokens > _longest(limit, endpoint):
        raise _too_long(limit, param, f"{tokens}")
    return tokens if param == "messages" or isinstance(request[param], str) else None


def check_length(
    model: Model, endpoint: str, body: Mapping[str, Any], size: int, brought: Brought = NOTHING
) -> str | None:
    """Decide by size.

    Args:
        size: the request's bytes. Its text is never larger, so a small request needs no closer look.
        brought: what it has beside text.

    Returns:
        None: the prompt fits, or no worker can count it. Otherwise the field whose tokens must be counted.

    Raises:
        ApiError: 400 ``context_length_exceeded``: the prompt cannot fit.
    """
    _check_output(model, endpoint, body)
    limit, one = model.max_model_len, ENDPOINTS[endpoint]
    if limit is None or one.tokenizer_only or any(body.get(field) is not None for field in _TRUNCATING):
        return None
    longest = _longest(limit, endpoint)
    # Of texts that are scored only the engine knows whether its model reads both at once.
    around = None if one.pairs else model.prompt_overhead
    text, media = size - brought.characters, tokens_of(model, brought)
    most = text * (2 if body.get("tools") else 1) + (model.prompt_overhead or 0)
    if media is not None and most + media <= longest:
        return None
    doubtful = None
    for param, prompt in _prompts(one, body):
        if isinstance(prompt, list):
            if len(prompt) > longest:
                raise _too_long(limit, param, f"{len(prompt)}")
            continue
        length = len(prompt)  # in characters: at most its bytes, and cheaper
        if model.max_token_bytes and length > longest * model.max_token_bytes:
            raise _too_long(limit, param, f"at least {-(-length // model.max_token_bytes)}")
        length = len(prompt.encode())
        least = -(-length // model.max_token_bytes) if model.max_token_bytes else 0
        if least > longest:
            raise _too_long(limit, param, f"at least {least}")
        if around is not None and (param == "messages" or length + around > longest):
            doubtful = param
    if media is None or not brought.inline or (doubtful == "messages" and not _countable(body["messages"])):
        return None  # only the engine knows
    return doubtful


def _longest(limit: int, endpoint: str) -> int:
    """Return the longest prompt in tokens: text generation needs room for one more."""
    return limit - 1 if ENDPOINTS[endpoint].limit_fields else limit


def _check_output(model: Model, endpoint: str, body: Mapping[str, Any]) -> None:
    """Refuse a request for more tokens than the engine ever generates."""
    most = model.max_output_tokens
    if most is None:
        return
    for param in ENDPOINTS[endpoint].limit_fields:
        asked = body.get(param)
        if asked is None:
            continue
        if isinstance(asked, int) and asked > most:
            message = f"{param} is {asked}, but the model's maximum context length is {most} tokens."
            raise invalid(f"{message} Please request fewer output tokens.", param, _CODE)
        return


def _too_long(limit: int, param: str, count: str) -> ApiError:
    have = "have" if param == "messages" else "has"
    rest = ", which leaves none for the answer" if count == f"{limit}" else ""
    message = (
        f"This model's maximum context length is {limit} tokens."
        f" However, your {param} {have} {count} tokens{rest}. Please shorten the {param}."
    )
    return invalid(message, param, _CODE)


def _prompts(endpoint: Endpoint, body: Mapping[str, Any]) -> Iterator[tuple[str, str | list[int]]]:
    """Yield (field, prompt) for each prompt that must fit on its own: its text, or its token ids."""
    messages = body.get("messages")
    if isinstance(messages, list):
        # Anthropic's system prompt is a field of its own.
        system = [{"content": body.get("system")}] if endpoint.path == MESSAGES else []
        yield "messages", "".join(_texts([*system, *messages]))
    for param in (*_PROMPTS, *chain(*endpoint.pairs)):
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


def _countable(messages: list[Any]) -> bool:
    """Whether a worker can count messages: they have text and images."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.keys().isdisjoint(("text", "image_url", "source")):
                    return False
    return True
