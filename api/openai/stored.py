"""The routes of stored chat completions: jobs of ``/v1/chat/completions``, read later."""

from __future__ import annotations

import asyncio
import itertools
import re
from contextlib import nullcontext
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from api.access.identity import actor_of, owner_of, tenant_of
from api.http.asgi import add_raw_route, json_response, reply
from api.http.bodies import SMALL_BYTES
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.job_end import answer
from api.http.openapi import answers, body_docs, error_docs, parameter, streamed
from api.http.pages import Limit, Order, list_view, not_of_list
from api.http.strict import shaped_whole
from api.openai.answer_schema import ChatCompletion, ChatCompletionEvent
from api.openai.resume import PLACE, resume, starting_after
from api.openai.stored_view import (
    ChatChange,
    ChatDeleted,
    ChatList,
    chat_not_found,
    chat_view,
    chats_page,
    job_id_of,
    messages_of,
    messages_page,
)
from api.services import Services
from broker.endings import ending_of
from broker.listing import Page
from broker.sealing import RESULT
from jobs.endpoints import CHAT
from jobs.model import Job
from jobs.states import JobState

log = structlog.get_logger(__name__)

_ONE = f"{CHAT}/{{completion_id}}"
_JSON = "application/json"
_PAGE_BYTES = 16 * 1024 * 1024
"""Of the results on a page, which are in memory together. One that is larger is alone on its page."""
_PAIR = re.compile(r"metadata\[(.{1,64})\]\Z")


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    _register_reads(router, services)
    _register_changes(router, services)


def _register_reads(router: APIRouter, services: Services) -> None:
    @router.get(
        CHAT,
        operation_id="listChatCompletions",
        summary="List stored chat completions",
        responses=answers(ChatList, 400, 503),
    )
    async def list_chats(
        request: Request,
        after: Annotated[str | None, Query(description="The last id of the previous page.")] = None,
        limit: Limit = 20,
        model: Annotated[str | None, Query(description="Only of this model.")] = None,
        order: Order = "asc",
    ) -> Response:
        """Those that were asked for with `store: true`. `metadata[key]=value` filters by metadata. A page ends at 16 MiB."""
        page = await services.store.list_chats(
            owner=tenant_of(request.scope),
            model=None if model is None else services.catalogue.real_name(model),
            metadata=_pairs(request.query_params),
            limit=limit,
            after=None if after is None else _place(after),
            newest_first=order == "desc",
        )
        return Response(await _page(services, page), media_type=_JSON)

    add_raw_route(
        router,
        "GET",
        _ONE,
        GetChat(services),
        name="get_chat_completion",
        operation_id="getChatCompletion",
        summary="Get a chat completion",
        description="One that was asked for with `store: true`, or that a job made. With `stream=true`: its stream.",
        responses={
            200: {
                "model": ChatCompletion,
                "content": streamed(ChatCompletionEvent),
                "description": "The chat completion, with its metadata; or its stream.",
            },
            **error_docs(400, 404, 409, 410, 503, 504),
        },
        openapi_extra={
            "parameters": [
                parameter("path", "completion_id"),
                parameter("query", "stream", type="boolean"),
                *PLACE,
            ]
        },
    )

    @router.get(
        f"{_ONE}/messages",
        operation_id="listChatCompletionMessages",
        summary="List a chat completion's messages",
        responses=answers(ChatList, 400, 404, 503),
    )
    async def list_messages(
        completion_id: str,
        request: Request,
        after: Annotated[str | None, Query(description="The last id of the previous page.")] = None,
        limit: Limit = 20,
        order: Order = "asc",
    ) -> Response:
        """The messages of its request."""
        job = await _found(services, completion_id, owner_of(request.scope))
        body = await services.store.request(job.id, owner=job.tenant)
        if body is None:
            raise chat_not_found(completion_id)
        messages = await services.bodies.run(len(body), messages_of, job.id, body)
        page, more = messages_page(messages, after=after, limit=limit, newest_first=order == "desc")
        return json_response(list_view(page, more=more))


def _place(after: str) -> str:
    try:
        return job_id_of(after)
    except ApiError:
        raise not_of_list(after, "a chat completion") from None


def _register_changes(router: APIRouter, services: Services) -> None:
    @router.post(
        _ONE,
        operation_id="updateChatCompletion",
        summary="Update a chat completion",
        responses={
            200: {"model": ChatCompletion, "description": "The chat completion."},
            **error_docs(400, 404, 409, 413, 503),
        },
        openapi_extra=body_docs(ChatChange, {"metadata": {"topic": "demo"}}),
    )
    async def update_chat(
        completion_id: str,
        change: Annotated[ChatChange, control_body(ChatChange)],
        request: Request,
    ) -> Response:
        """Replaces its metadata."""
        owner, by = owner_of(request.scope), actor_of(request.scope)
        job = await _found(services, completion_id, owner)
        if not await services.store.relabel(job.id, change.metadata or {}, owner=owner, by=by):
            raise chat_not_found(completion_id)
        status, body = await _chat(services, completion_id, owner)
        return Response(body, status, media_type=_JSON)

    @router.delete(
        _ONE,
        operation_id="deleteChatCompletion",
        summary="Delete a chat completion",
        responses=answers(ChatDeleted, 404, 409, 503),
    )
    async def delete_chat(completion_id: str, request: Request) -> Response:
        """Its job is deleted with it. One that has not ended is not deleted: cancel its job first."""
        owner, by = owner_of(request.scope), actor_of(request.scope)
        job = await _found(services, completion_id, owner)
        state = await services.store.forget(job.id, owner=owner, by=by)
        if state is None:
            raise chat_not_found(completion_id)
        if not state.terminal:
            raise _unfinished(job)
        return json_response({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


class GetChat:
    """``GET /v1/chat/completions/{completion_id}``, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a chat completion, or with its stream.

        Raises:
            ApiError: 404; 409, it has not ended; 400, it does not stream.
        """
        ident, owner = scope["path_params"]["completion_id"], owner_of(scope)
        if QueryParams(scope.get("query_string", b"")).get("stream", "").lower() in {"true", "1"}:
            after = starting_after(scope)
            job = await _found(self._services, ident, owner)
            await resume(self._services, job, owner, after, scope, send)
            return
        await reply(send, *await _chat(self._services, ident, owner))


async def _found(services: Services, ident: str, owner: str | None) -> Job:
    """Read the job of a chat completion. One that is kept for one fetch alone is not stored.

    Raises:
        ApiError: 404.
    """
    job = await services.store.get(job_id_of(ident), position=False, owner=owner)
    if job is None or job.endpoint != CHAT or job.once:
        raise chat_not_found(ident)
    return job


async def _page(services: Services, page: Page) -> bytes:
    """Return a page of chat completions, shorter than it was asked for if they are large."""
    sizes = await asyncio.gather(
        *(services.store.body_bytes(job.id, RESULT, owner=job.tenant) for job in page.jobs)
    )
    sums = list(itertools.accumulate(sizes))
    fit = max(1, sum(size <= _PAGE_BYTES for size in sums))
    size = sums[fit - 1] if len(sums) >= fit else 0
    more = page.cursor is not None or fit < len(sums)
    async with services.large_bodies if size > SMALL_BYTES else nullcontext():
        chats = [  # one after the other
            (job, await services.bodies.run(len(body), _shaped, services, body))
            for job in page.jobs[:fit]
            if (body := (await services.store.result(job.id, owner=job.tenant)).body)
        ]
        return await services.bodies.run(size, chats_page, chats, more=more)


async def _chat(services: Services, ident: str, owner: str | None) -> tuple[int, bytes]:
    """Return the status and the body that answer with a chat completion; of one that failed, its error.

    Raises:
        ApiError: 404; 409, it has not ended.
    """
    job, stored = await services.store.get_with_result(job_id_of(ident), position=False, owner=owner)
    if job is None or stored is None or job.endpoint != CHAT or job.once:
        raise chat_not_found(ident)
    if not job.state.terminal:
        raise _unfinished(job)
    status, body, _ = answer(job.id, ending_of(job, stored.status, stored.body or b""))
    done = job.state is JobState.SUCCEEDED and stored.body
    return status, chat_view(job, _shaped(services, body)) if done else body


def _shaped(services: Services, body: bytes) -> bytes:
    return shaped_whole(CHAT, body) if services.settings.openai_strict else body


def _unfinished(job: Job) -> ApiError:
    message = f"the chat completion has not ended; its job is {job.id}"
    return ApiError(409, message, "job_not_finished")


def _pairs(query: QueryParams) -> dict[str, str]:
    """Read the parameters ``metadata[key]=value``."""
    found = ((_PAIR.match(name), value) for name, value in query.multi_items())
    return {match[1]: value for match, value in found if match}
