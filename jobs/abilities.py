"""What a request asks of a model besides plain text, and the first of it that the model cannot do. Pure.

The api asks before it accepts a call or a job, the coordinator for the rows of a batch, the worker before it hands a request
to an engine that would not survive it. A model whose engine does not say what it can do is asked for anything.

Options that an engine may leave aside do not count: a ``reasoning_effort`` for a model that does not reason is a hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, COMPLETIONS, ENDPOINTS, MESSAGES, RESPONSES
from jobs.grammars import MOST_ITEMS, countless
from jobs.speculation import limit_of

GENERATING: Final = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
"""The endpoints that sample text."""


class Lack(NamedTuple):
    """What a model lacks for a request.

    Attributes:
        param: the field of the request that asks for it.
        sentence: for the client: what the model cannot do, and what to do.
    """

    param: str
    sentence: str


def lack(able: Capabilities, endpoint: str, request: Mapping[str, Any]) -> Lack | None:
    """Return the first thing that a request asks for and the model does not have; None: it has all, as far as it says.

    Args:
        able: what its engine says of it.
        endpoint: one of :data:`jobs.endpoints.ENDPOINTS`.
        request: the parsed body.
    """
    checks: tuple[Callable[[Capabilities, str, Mapping[str, Any]], Lack | None], ...] = (_media,)
    if endpoint in GENERATING:
        checks = (_media, _structured, _tools, _thinking, *_FATAL)
    return next((found for check in checks if (found := check(able, endpoint, request)) is not None), None)


def fatal(able: Capabilities, endpoint: str, request: Mapping[str, Any]) -> Lack | None:
    """Return the first thing of a request that the model's engine would die of; None: it survives it, as far as is known.

    A part of :func:`lack`. A worker asks again, as the request may have been accepted for an engine with other options.
    """
    if endpoint not in GENERATING:
        return None
    return next((found for check in _FATAL if (found := check(able, endpoint, request)) is not None), None)


def asks(body: bytes) -> bool:
    """Return whether a body's bytes may ask for anything that :func:`lack` looks at. It costs a fraction of reading them."""
    return _any_mark(body) is not None


_MEDIA: Final = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "image_pil": "images",
    "image_embeds": "images",
    "input_audio": "audios",
    "audio_url": "audios",
    "audio_embeds": "audios",
    "video_url": "videos",
}
"""By the type of a part of a message (or its field, if it names no type), the capability that it needs."""

_FIELDS: Final = {
    path: ("messages", "input", *(field for pair in one.pairs for field in pair))
    for path, one in ENDPOINTS.items()
}
"""By endpoint, the fields whose parts may be media."""

_NAMES: Final = {"images": "images", "audios": "audio", "videos": "video"}


def _media(able: Capabilities, endpoint: str, request: Mapping[str, Any]) -> Lack | None:
    if able.images != 0 and able.audios != 0 and able.videos != 0:  # it takes all, or does not say
        return None
    for param in _FIELDS[endpoint]:
        given = request.get(param)
        if isinstance(given, list):  # most messages are plain texts, and this is on the way of every call
            given = [one for one in given if not (type(one) is dict and type(one.get("content")) is str)]
        for part in _parts(given) if given else ():
            need = _need(part)
            if need is not None and getattr(able, need) == 0:
                return Lack(param, f"it takes no {_NAMES[need]}; leave them out, or use a model that does")
    return None


def _need(part: Mapping[str, Any]) -> str | None:
    """Return the capability that a part of a message needs; None: it is text, or unknown."""
    kind = part.get("type")
    if kind is None:
        kind = next((field for field in part if field in _MEDIA), None)
    if kind == "file" and isinstance(file := part.get("file"), Mapping) and "file_id" in file:
        return "images"  # a file of ours is shown as one
    return _MEDIA.get(kind) if isinstance(kind, str) else None


_DEPTH: Final = 3
"""Lists in lists that are looked at: messages, their parts, and the parts of a tool's result."""


def _parts(items: Any, depth: int = _DEPTH) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of messages that are objects."""
    if isinstance(items, Mapping):  # one of the texts that are scored may be {"content": [...]}
        items = (items,)
    if not isinstance(items, list | tuple) or not depth:
        return
    for item in items:
        if isinstance(item, Mapping):
            yield item
            for field in ("content", "output"):
                inner = item.get(field)
                if isinstance(inner, list):
                    yield from _parts(inner, depth - 1)


_FORMS: Final = frozenset({"json_object", "json_schema", "structural_tag"})


def _structured(able: Capabilities, _: str, request: Mapping[str, Any]) -> Lack | None:
    if able.structured_output is not False:
        return None
    for param, path in (("response_format", ()), ("text", ("format",)), ("output_config", ("format",))):
        value = request.get(param)
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and value.get("type") in _FORMS:
            return Lack(param, "it has no structured output; ask for the form in the prompt")
    if request.get("structured_outputs"):
        return Lack("structured_outputs", "it has no structured output; ask for the form in the prompt")
    return None


def _tools(able: Capabilities, _: str, request: Mapping[str, Any]) -> Lack | None:
    if able.tool_parser is not None or not able.tasks or not request.get("tools"):
        return None
    choice = request.get("tool_choice")
    if choice == "none" or (isinstance(choice, Mapping) and choice.get("type") == "none"):
        return None
    told = (
        'its engine has no parser of tool calls, so it would answer with their raw text; send tool_choice "none", or use a '
        "model whose operator has set one (tool_parser)"
    )
    return Lack("tools", told)


def _thinking(able: Capabilities, _: str, request: Mapping[str, Any]) -> Lack | None:
    param = "thinking_token_budget"
    if able.reasoning_parser is not None or not able.tasks or request.get(param) is None:
        return None
    return Lack(
        param, "its engine has no parser of reasoning, which a budget of it takes; leave the field out"
    )


def _speculation(able: Capabilities, _: str, request: Mapping[str, Any]) -> Lack | None:
    if able.speculation is None or (param := limit_of(request)) is None:
        return None
    told = f"it runs with speculative decoding ({able.speculation}), which does not take {param}; leave the field out"
    return Lack(param, told)


def _grammar(_: Capabilities, __: str, request: Mapping[str, Any]) -> Lack | None:
    if (found := countless(request)) is None:
        return None
    param, keyword = found
    told = (
        f"its engine would write out every item of an array with this {keyword}; ask for {MOST_ITEMS} at most"
    )
    return Lack(param, told)


_FATAL: Final = (_speculation, _grammar)

_any_mark = re.compile(
    rb"image|audio|video|file_id|tool|format|structured_outputs|output_config|thinking_token_budget|min_p|"
    rb"logit_bias|\\u00"
).search
"""A word of a field or a type above; or an escape, behind which one could hide."""
