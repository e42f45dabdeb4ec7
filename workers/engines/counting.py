"""The token count of a request's prompt, from a server's own ``/tokenize``.

Shared by the engines over vLLM's app, in this process or behind HTTP. vLLM (0.32) refuses for their length:

- a prompt longer than ``max_model_len``, and for text generation one of exactly that length, since it leaves no room for
  a token of output (``get_max_tokens``, then ``SamplingParams``); an embedding needs no such room;
- ``max_tokens`` greater than ``max_model_len`` by itself (``TokenizeParams``). The sum of both is *not* bounded: vLLM
  cuts ``max_tokens`` down to what is left.

``/tokenize`` puts a prompt together by the code that serves requests (``OnlineRenderer``), but takes fewer fields.
If a request has a field that may change the prompt and that ``/tokenize`` does not take, the count is None: no answer is
better than one that refuses a good request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeGuard

import msgspec
import structlog

from jobs.endpoints import CHAT, CLASSIFY, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, POOLING, TOKENIZE
from jobs.floats import read_float
from jobs.media_parts import media
from workers.engines.base import Engine, EngineDeadError, ModelInfo

log = structlog.get_logger(__name__)


Tokenize: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[int | None]]
"""Sends a body to ``/tokenize``, or to the path that counts Anthropic's prompts; returns the count, None without one."""

SPECIAL = 16
"""A text has at most this many tokens more than bytes: those that a tokenizer puts around it."""

_UNTOLD = ("truncate_prompt_tokens", "kv_transfer_params", "suffix", "prompt_embeds", "padding")
_TEMPLATE_FIELDS = ("documents", "reasoning_effort")
_COPIED = (
    *("model", "tools", "add_generation_prompt", "continue_final_message", "add_special_tokens"),
    *("chat_template", "chat_template_kwargs"),
)
_POOLED = (EMBEDDINGS, CLASSIFY, POOLING)
_PROMPT = {CHAT: "messages", COMPLETIONS: "prompt", **dict.fromkeys(_POOLED, "input")}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_HELLO = [{"role": "user", "content": "x"}]
_SHORTEST: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"messages": _HELLO}),
    (CHAT, {"messages": _HELLO, "tools": [_TOOL]}),
    (COMPLETIONS, {"prompt": "x"}),
    (EMBEDDINGS, {"input": "x"}),
    (CLASSIFY, {"input": "x"}),
    (POOLING, {"input": "x"}),
)

_decode = msgspec.json.Decoder(dict[str, Any], float_hook=read_float).decode
_encode = msgspec.json.Encoder().encode


class _Counted(msgspec.Struct):
    count: int | None = None
    input_tokens: int | None = None


_read = msgspec.json.Decoder(_Counted).decode


def read_count(status: int, body: bytes) -> int | None:
    """Read an answer to a question; None if it is a refusal, or not in vLLM's form."""
    if status != 200:
        return None
    try:
        counted = _read(body)
    except msgspec.DecodeError:
        return None
    return counted.input_tokens if counted.count is None else counted.count


def context_length(config: Any) -> int | None:
    """Read from vLLM's model configuration how long a prompt and its answer may be; None: no limit.

    An embedding model may cut long texts into pieces (``pooler_config.enable_chunked_processing``).
    """
    pooler = getattr(config, "pooler_config", None)
    length = int(config.max_model_len)
    longest: int | None = getattr(pooler, "max_embed_len", None)
    if getattr(pooler, "enable_chunked_processing", False):
        return longest
    return min(length, longest or length)


async def count_prompts(tokenize: Tokenize, endpoint: str, body: bytes) -> int | None:
    """Count the tokens of a request's longest prompt.

    Args:
        tokenize: the way to the server.
        endpoint: any.

    Returns:
        Tokens, before any truncation; None if they cannot be counted.
    """
    try:
        fields = _decode(body)
    except msgspec.DecodeError:
        return None
    if endpoint == MESSAGES:
        return await tokenize(COUNT_TOKENS, fields) if _countable(fields) else None
    found = questions(endpoint, fields)
    if found is None:
        return None
    longest, asked = found
    for size, question in sorted(asked, key=lambda item: -item[0]):
        if longest >= size + SPECIAL:
            break  # neither this nor a shorter one can have more
        count = await tokenize(TOKENIZE, question)
        if count is None:
            return None
        longest = max(longest, count)
    return longest


def questions(endpoint: str, body: Mapping[str, Any]) -> tuple[int, list[tuple[int, dict[str, Any]]]] | None:
    """Return the questions to ask ``/tokenize`` about a request.

    Returns:
        The length of the longest prompt that is token ids already, and for each other one its size in bytes (0 for a
        chat) and the body to send; None if the prompt cannot be counted.
    """
    if any(body.get(field) is not None for field in _UNTOLD) or endpoint not in _PROMPT:
        return None
    if endpoint == CHAT or (endpoint in _POOLED and body.get("messages") is not None):
        chat = _chat(body, generation_prompt=endpoint == CHAT)
        return None if chat is None else (0, [(0, chat)])
    value = body.get(_PROMPT[endpoint])
    prompts = value if isinstance(value, list) and not _is_ids(value) else [value]
    longest = 0
    texts = []
    common = {key: body[key] for key in ("model", "add_special_tokens") if body.get(key) is not None}
    for prompt in prompts:
        if isinstance(prompt, str):
            texts.append((len(prompt.encode()), {**common, "prompt": prompt}))
        elif _is_ids(prompt):
            longest = max(longest, len(prompt))
        else:
            return None
    return longest, texts


def _is_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _chat(body: Mapping[str, Any], *, generation_prompt: bool) -> dict[str, Any] | None:
    """Return the question about a conversation; None if it cannot be asked."""
    if not _countable(body):
        return None
    if body.get("tools") and body.get("tool_choice") == "none":
        return None  # a server's flag decides whether the template sees the tools
    question = {key: body[key] for key in _COPIED if body.get(key) is not None}
    question["messages"] = [_message(message) for message in body["messages"]]
    question.setdefault("add_generation_prompt", generation_prompt)
    more = {key: body[key] for key in _TEMPLATE_FIELDS if body.get(key) is not None}
    if more:
        given = question.get("chat_template_kwargs") or {}
        if "reasoning_effort" in more and "enable_thinking" not in given:
            more["enable_thinking"] = more["reasoning_effort"] != "none"
        question["chat_template_kwargs"] = {**given, **more}
    return question


def _countable(body: Mapping[str, Any]) -> bool:
    """Whether a conversation has only texts, and images that it brings itself: a server would fetch others once more."""
    messages = body.get("messages")
    return isinstance(messages, list) and all(map(_is_plain, messages))


def _is_plain(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(
            isinstance(part, str) or (isinstance(part, dict) and _is_counted(part)) for part in content
        )
    return content is None or isinstance(content, str)


def _is_counted(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    if kind in _IMAGE_PARTS:
        found = next(media({"messages": [{"content": [part]}]}), None)
        return found is not None and (found.url is None or found.url[:5].lower() == "data:")
    return kind in _TEXT_PARTS


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Rename the field that ``/v1/chat/completions`` renames before it uses the template."""
    if "reasoning_content" not in message:
        return message
    renamed = {key: value for key, value in message.items() if key != "reasoning_content"}
    if renamed.get("reasoning") is None and message["reasoning_content"] is not None:
        renamed["reasoning"] = message["reasoning_content"]
    return renamed


async def prompt_overhead(engine: Engine, model: ModelInfo) -> int | None:
    """Count the tokens around a prompt: special ones, the template's own words, its introduction of tools.

    Returns:
        Tokens of the longest of the shortest possible requests; None if the engine cannot count.
    """
    counts = []
    for endpoint, body in _SHORTEST:
        if endpoint in model.endpoints:
            try:
                counts.append(await engine.count(endpoint, _encode({"model": model.name, **body})))
            except EngineDeadError as error:
                log.warning("prompts_not_counted", model=model.name, error=str(error))
                return None
    return max((count for count in counts if count is not None), default=None)
