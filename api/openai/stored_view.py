"""Stored chat completions: their ids, and their JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from api.admission.stored import Metadata
from api.http.errors import ApiError
from api.http.pages import not_of_list
from api.http.shown import with_shown
from jobs.endpoints import CHAT, ENDPOINTS
from jobs.ids import is_job_id
from jobs.model import Job

_PREFIX = ENDPOINTS[CHAT].response_id.removesuffix("{}")


class ChatChange(BaseModel):
    """Body of ``POST /v1/chat/completions/{completion_id}``."""

    model_config = ConfigDict(extra="forbid")

    metadata: Metadata | None = Field(description="Up to 16 pairs of your own, in place of the old ones.")


class ChatDeleted(BaseModel):
    """Answer to a deletion."""

    id: str
    object: Literal["chat.completion.deleted"]
    deleted: bool


class ChatList(BaseModel):
    """A page of stored chat completions, or of the messages of one."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _Request(msgspec.Struct):
    messages: list[dict[str, Any]] = []


_read_request = msgspec.json.Decoder(_Request).decode


def chat_id(job_id: str) -> str:
    """Return the id of a job's chat completion."""
    return _PREFIX + job_id


def chat_not_found(ident: str) -> ApiError:
    """Make the 404 for a chat completion."""
    message = f"Chat completion with id '{ident[:64]}' not found."
    return ApiError(404, message, "chat_completion_not_found")


def job_id_of(ident: str) -> str:
    """Return the id of a chat completion's job.

    Raises:
        ApiError: 404, it has not the form of a chat completion's id.
    """
    job_id = ident.removeprefix(_PREFIX)
    if job_id == ident or not is_job_id(job_id):
        raise chat_not_found(ident)
    return job_id


def chat_view(job: Job, result: bytes) -> bytes:
    """Return a chat completion as it is read later: the engine's answer, with the metadata. ``result``: that answer."""
    return with_shown(result, {**job.shown, "id": chat_id(job.id), "metadata": dict(job.metadata)})


def chats_page(chats: Sequence[tuple[Job, bytes]], *, more: bool) -> bytes:
    """Return a page of chat completions. ``chats``: their jobs and the engine's answers."""
    ids = [chat_id(job.id) for job, _ in chats]
    page = {
        "object": "list",
        "data": [msgspec.Raw(chat_view(job, result)) for job, result in chats],
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": more,
    }
    return msgspec.json.encode(page)


def messages_of(job_id: str, request: bytes) -> list[dict[str, Any]]:
    """Return the messages of a chat completion's request, each with an id."""
    return [
        {**message, **_content(message.get("content")), "id": f"{chat_id(job_id)}-{place}"}
        for place, message in enumerate(_read_request(request).messages)
    ]


def _content(content: object) -> Mapping[str, Any]:
    if not isinstance(content, list):
        return {"content": content, "content_parts": None}
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return {"content": "".join(text for text in texts if isinstance(text, str)), "content_parts": content}


def messages_page(
    messages: Sequence[dict[str, Any]], *, after: str | None, limit: int, newest_first: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of messages, and whether more follow.

    Raises:
        ApiError: 400, ``after`` is the id of none.
    """
    ordered = list(reversed(messages)) if newest_first else list(messages)
    ids = [message["id"] for message in ordered]
    if after is not None and after not in ids:
        raise not_of_list(after, "a message")
    first = 0 if after is None else ids.index(after) + 1
    return ordered[first : first + limit], len(ordered) > first + limit
