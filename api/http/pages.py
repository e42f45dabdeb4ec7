"""Pages of a list: the list objects, and cursors that clients pass back unread."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel

from api.http.errors import ApiError, invalid

After = Annotated[str | None, Query(description="`next_cursor` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most objects in a page.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By creation time.")]


class ItemList(BaseModel):
    """A page of a response's or a conversation's items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def list_view(data: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return OpenAI's list object, which names its first and last object."""
    ids = [item["id"] for item in data]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": more}


def not_of_list(after: str, what: str) -> ApiError:
    """Make the 400 for an ``after`` that names nothing of a list. ``what``: what the list has, such as ``a file``."""
    message = f"after: {after[:64]!r} is not the id of {what} of this list; pass last_id of the previous page unchanged"
    return invalid(message, "after")


def cursor_view(data: Sequence[dict[str, Any]], cursor: str | None) -> dict[str, Any]:
    """Return a list object with a cursor. ``cursor``: the store's; None at the end of the list."""
    return {
        "object": "list",
        "data": data,
        "has_more": cursor is not None,
        "next_cursor": encode_cursor(cursor),
    }


def encode_cursor(cursor: str | None) -> str | None:
    """Make the store's cursor opaque."""
    return None if cursor is None else base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")


def decode_cursor(text: str | None) -> str | None:
    """Read the result of :func:`encode_cursor`.

    Raises:
        ApiError: 400, it is something else.
    """
    if text is None:
        return None
    try:
        cursor = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        int(cursor.partition("_")[0])
    except (binascii.Error, ValueError):
        raise invalid("after is not a cursor of this list; pass next_cursor unchanged", "after") from None
    return cursor
