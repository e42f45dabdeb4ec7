"""Bounds of what constrains an answer: a schema whose grammar would not fit into the engine's memory. Pure: one rule.

An engine makes a grammar of a JSON schema before it runs the request, and some write out every item that an array must or
may have. With ``minItems: 10000000`` the process of vLLM's front takes more than a gigabyte, and with a thousand times that
it takes all that there is: the worker dies, and so does the next one. Strings, patterns and choices cost little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

MOST_ITEMS: Final = 100_000
"""Most items that an array of a schema may be asked to count. vLLM then takes 0.2 s and some 100 MB."""

_COUNTS: Final = ("minItems", "maxItems", "minContains", "maxContains")
_SCHEMAS: Final = ("response_format", "structured_outputs", "text", "output_config")
"""Fields of a request that hold a schema, somewhere."""


def countless(request: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the field of a request, and the keyword in it, that asks to count too many items; None: there is none.

    Tools count if the answer must follow the schemas of their arguments.
    """
    for field in _SCHEMAS:
        if (value := request.get(field)) and (keyword := _beyond(value)) is not None:
            return field, keyword
    tools = request.get("tools")
    if tools and (keyword := _beyond(tools if _forced(request) else _strict(tools))) is not None:
        return "tools", keyword
    return None


def holds_tools(request: Mapping[str, Any]) -> bool:
    """Return whether calls of a request's tools must follow their schemas: a call is forced, or a tool is strict."""
    tools = request.get("tools")
    return bool(tools) and (_forced(request) or bool(_strict(tools)))


def _forced(request: Mapping[str, Any]) -> bool:
    choice = request.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    return kind not in {None, "auto", "none"} if isinstance(kind, str | None) else True


def _strict(tools: Any) -> list[Any]:
    """Return the tools that hold the model to their schemas."""
    return [one for one in tools if _is_strict(one)] if isinstance(tools, list) else []


def _is_strict(tool: Any) -> bool:
    if not isinstance(tool, Mapping):
        return False
    function = tool.get("function")
    return bool(tool.get("strict") or (isinstance(function, Mapping) and function.get("strict")))


def _beyond(tree: Any) -> str | None:
    for one in _objects(tree):
        for keyword in _COUNTS:
            count = one.get(keyword)
            if isinstance(count, int | float) and count > MOST_ITEMS:
                return keyword
    return None


def _objects(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object of a JSON value, also of a schema that is written as a text."""
    rest = [tree]
    while rest:
        one = rest.pop()
        if isinstance(one, Mapping):
            yield one
            if isinstance(text := one.get("json"), str):
                rest.append(_read(text))
            rest.extend(one.values())
        elif isinstance(one, list | tuple):
            rest.extend(one)


def _read(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):  # the engine says what is wrong with it
        return None
