"""The routes of Responses: creating, getting, following, cancelling and deleting one, and its input items."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from api.access.identity import actor_of, owner_of, tenant_of
from api.admission.responses_schema import ResponsesRequest
from api.fetched import drop_fetched
from api.http.asgi import add_raw_route, json_response, reply
from api.http.errors import ApiError, invalid
from api.http.idempotency import key_parameter
from api.http.job_end import timing_headers
from api.http.openapi import answers, body_docs, error_docs, parameter, streamed
from api.http.pages import ItemList, Limit, list_view, not_of_list
from api.http.waiting import wait_for_end
from api.middleware.trace import asked_by
from api.openai.answer_schema import ResponseDeleted, ResponseEvent, ResponseObject
from api.responses.conversation import leave_conversations
from api.responses.create import CreateResponse
from api.responses.history import input_items_of, room_for
from api.responses.stream import Reader, frames_for
from api.responses.view import checked_job_id, found_response, response_not_found, response_view
from api.services import Services
from broker.sealing import REQUEST
from jobs.endpoints import RESPONSES

log = structlog.get_logger(__name__)

CANCEL_WAIT_S = 3.0
"""How long a cancellation waits for the worker, which stops a response within a second."""

_EXAMPLE = {"model": "tiny-random", "input": "Hello", "max_output_tokens": 32}
_ANSWER: dict[str, Any] = {"model": ResponseObject, "content": streamed(ResponseEvent)}


class GetResponse:
    """``GET /v1/responses/{response_id}``, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the response, or with its stream.

        Raises:
            ApiError: 404, or 400 for a wrong query, or for the stream of a response that has none.
            ClientGoneError: the reader left.
        """
        services, owner, ident = self._services, owner_of(scope), scope["path_params"]["response_id"]
        stream, after = _asked(scope)
        job_id = checked_job_id(ident)
        with services.hub.inbox(job_id) as inbox:
            job, stored = await found_response(services, ident, owner)
            ended = job.state.terminal
            if stream and not job.stream:
                message = (
                    "only a response that was created with stream: true has a stream; get it without stream"
                )
                raise invalid(message, "stream")
            if stream:
                frames = await frames_for(services, job, after)
                await Reader(services, job_id, owner, inbox).send(frames, scope, send)
                ended = frames.over
            else:
                body = await response_view(services, job, stored)
                await reply(send, 200, body, timing_headers(job_id))
        if job.once and ended:
            await drop_fetched(services, job_id, tenant_of(scope))


def _asked(scope: Scope) -> tuple[bool, int]:
    """Read a query: whether a stream is wanted, and the number of its last event that the reader has; -1: none."""
    query = QueryParams(scope.get("query_string", b""))
    stream = query.get("stream", "false").lower()
    if stream not in {"true", "false", "1", "0"}:
        raise invalid("stream must be true or false", "stream")
    after = query.get("starting_after", "")
    if after and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise invalid("starting_after must be the sequence_number of an event", "starting_after")
    return stream in {"true", "1"}, int(after) if after else -1


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    _register_raw(router, services)
    _register_compact(router)

    @router.post(
        "/v1/responses/{response_id}/cancel",
        operation_id="cancelResponse",
        summary="Cancel a background response",
        responses=answers(ResponseObject, 400, 404, 503),
    )
    async def cancel_response(response_id: str, request: Request) -> Response:
        """Answers with the response, as it is after that. One that has ended does not change."""
        owner, job_id = owner_of(request.scope), checked_job_id(response_id)
        with services.hub.inbox(job_id) as inbox:
            job, stored = await found_response(services, response_id, owner)
            if not job.shown.get("background"):
                raise invalid("Cannot cancel a synchronous response.", "response_id")
            if not job.state.terminal:
                await services.store.watch(job_id, services.process, owner=owner)
                await services.store.cancel(job_id, owner=owner, by=actor_of(request.scope))
                log.info("cancel_asked", job_id=job_id, state=job.state.value, tenant=asked_by(request.scope))
                await wait_for_end(services.hub, job_id, inbox, CANCEL_WAIT_S, request.scope)
                job, stored = await found_response(services, response_id, owner)
        return Response(await response_view(services, job, stored), media_type="application/json")

    @router.delete(
        "/v1/responses/{response_id}",
        operation_id="deleteResponse",
        summary="Delete a response",
        responses=answers(ResponseDeleted, 400, 404, 409, 413, 503),
    )
    async def delete_response(response_id: str, request: Request) -> Response:
        """Its record is gone at once. One that runs must be cancelled first."""
        await _delete(services, response_id, request.scope)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    @router.get(
        "/v1/responses/{response_id}/input_items",
        operation_id="listResponseInputItems",
        summary="List a response's input items",
        responses=answers(ItemList, 400, 404, 413, 503),
    )
    async def list_input_items(
        response_id: str,
        request: Request,
        limit: Limit = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="By their place in the input.")] = "desc",
        after: Annotated[str | None, Query(description="`last_id` of the previous page.")] = None,
    ) -> Response:
        """Its whole context: the items of the responses that it continues come first."""
        job, _ = await found_response(services, response_id, owner_of(request.scope))
        async with room_for(services, job.id, job.tenant, names=[REQUEST]):
            try:
                items = await input_items_of(services, job)
            except LookupError:
                raise response_not_found(response_id) from None
            return json_response(_page(items, limit, after, newest_first=order == "desc"))


async def _delete(services: Services, ident: str, scope: Scope) -> None:
    owner, job_id = owner_of(scope), checked_job_id(ident)
    job, _ = await found_response(services, ident, owner)
    if not job.state.terminal:  # even if it ends now: its conversation would not have kept its items
        message = f"the response {ident!r} has not ended; cancel it first, or wait for it"
        raise ApiError(409, message, "job_not_finished")
    if "conversation" in job.shown:
        await leave_conversations(services, job_id, job.shown["conversation"]["id"], job.tenant)
    if await services.store.forget(job_id, owner=owner, by=actor_of(scope)) is None:
        raise response_not_found(ident)
    log.info("job_deleted", job_id=job_id, tenant=asked_by(scope))


def _page(
    items: list[dict[str, Any]], limit: int, after: str | None, *, newest_first: bool
) -> dict[str, Any]:
    items = list(reversed(items)) if newest_first else items
    begin = 0
    if after is not None:
        begin = next((place for place, item in enumerate(items, 1) if item["id"] == after), 0)
        if not begin:
            raise not_of_list(after, "an item")
    return list_view(items[begin : begin + limit], more=len(items) > begin + limit)


def _register_compact(router: APIRouter) -> None:
    @router.post(
        "/v1/responses/compact",
        operation_id="compactResponse",
        summary="Compact a response: not supported",
        responses=error_docs(404),
    )
    async def compact() -> Response:
        """404, as of a path that does not exist: it would count as a response's id, of which there is no POST."""
        message = "responses are not compacted here; send fewer items, or continue from an earlier response"
        raise ApiError(404, message, "not_found")


def _register_raw(router: APIRouter, services: Services) -> None:
    add_raw_route(
        router,
        "POST",
        RESPONSES,
        CreateResponse(services),
        name="create_response",
        operation_id="createResponse",
        summary="OpenAI responses",
        description=f"{ResponsesRequest.__doc__} Requests and responses are vLLM's own; unlisted fields are passed on."
        " With `background: true` the answer comes at once, and the response survives any crash.",
        responses={200: _ANSWER, **error_docs(400, 404, 409, 413, 429, 500, 503, 504)},
        openapi_extra={**body_docs(ResponsesRequest, _EXAMPLE), "parameters": [key_parameter("response")]},
    )
    after = "`sequence_number` of the last event that you have."
    add_raw_route(
        router,
        "GET",
        "/v1/responses/{response_id}",
        GetResponse(services),
        name="get_response",
        operation_id="getResponse",
        summary="Get a response",
        description="In any state; with `stream=true` its events, from its first or after `starting_after`.",
        responses={200: _ANSWER, **error_docs(400, 404, 503)},
        openapi_extra={
            "parameters": [
                parameter("path", "response_id"),
                parameter("query", "stream", "Answer with its events.", type="boolean"),
                parameter("query", "starting_after", after, type="integer", minimum=0),
                parameter("query", "include", "Accepted; what there is, is always there."),
            ]
        },
    )
