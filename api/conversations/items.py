"""Items of a conversation, as they are stored and shown: each has an id, and a message has a list of parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from api.http.errors import ApiError, invalid
from api.http.pages import not_of_list

MOST_ITEMS = 20
"""In one call: OpenAI's limit."""

_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}\Z")
_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "reasoning": "rs_",
}
_STATED = {"message", "function_call", "function_call_output"}
"""Types of items with a status."""


def stored_item(item: dict[str, Any], new_id: Callable[[str], str]) -> dict[str, Any]:
    """Return an item that a client gives, as it is stored: with an id, its type, its status, and a list as its content.

    Args:
        item: in any of the forms that OpenAI takes.
        new_id: makes an id with a prefix.

    Raises:
        ApiError: 400, it has no type and is no message, it refers to another item, or its id is none.
    """
    kind = item.get("type", "message" if "role" in item else None)
    if not isinstance(kind, str) or not kind:
        raise invalid("an item needs a `type`, such as `message`", "items", "invalid_value")
    if kind == "item_reference":
        message = "items of the type `item_reference` are not supported; send the item itself"
        raise invalid(message, "items", "invalid_value")
    given = item.get("id")
    if given is not None and not (isinstance(given, str) and _ID.match(given)):
        raise invalid(
            "an item's id has 1 to 64 letters, digits, `_` and `-`; leave it out to get one",
            "items",
            "invalid_value",
        )
    if kind == "message" and not (
        isinstance(item.get("role"), str) and isinstance(item.get("content"), str | list)
    ):
        message = "a message needs a `role`, and a text or a list as its `content`"
        raise invalid(message, "items", "invalid_value")
    return {**whole_item(item), "id": given or new_id(_PREFIXES.get(kind, "item_"))}


def whole_item(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item with what OpenAI's clients may leave out: its type, its status, and a list as a message's content."""
    kind = item.get("type") or "message"
    whole = {**item, "type": kind}
    if kind in _STATED:
        whole["status"] = item.get("status") or "completed"
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        answered = {"type": "output_text", "text": content, "annotations": [], "logprobs": []}
        asked = {"type": "input_text", "text": content}
        whole["content"] = [answered if item.get("role") == "assistant" else asked]
    return whole


def unique(items: Sequence[dict[str, Any]], known: Collection[str] = ()) -> None:
    """Refuse an id that another item has.

    Args:
        known: ids that are taken.

    Raises:
        ApiError: 400.
    """
    seen = set(known)
    for item in items:
        if item["id"] in seen:
            raise invalid(
                f"Item with id '{item['id']}' is already in the conversation.", "items", "invalid_value"
            )
        seen.add(item["id"])


def page_of(
    items: Sequence[dict[str, Any]], *, after: str | None, limit: int, newest_first: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of items, which come in their order, and whether more follow.

    Args:
        after: id of the item before it; None: from the start.

    Raises:
        ApiError: 400, ``after`` is no item of these.
    """
    ordered = list(reversed(items)) if newest_first else list(items)
    first = 0
    if after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise not_of_list(after, "an item")
        first = places[0] + 1
    return ordered[first : first + limit], len(ordered) > first + limit


def found_item(items: Sequence[dict[str, Any]], item_id: str, conversation_id: str) -> dict[str, Any]:
    """Return the item with an id.

    Raises:
        ApiError: 404.
    """
    for item in items:
        if item["id"] == item_id:
            return item
    message = f"Item with id '{item_id[:64]}' not found in conversation with id '{conversation_id}'."
    raise ApiError(404, message, "item_not_found")
