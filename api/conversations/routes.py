"""The routes of the Conversations API that carry no prompts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.access.identity import actor_of, owner_of
from api.conversations.change import ConversationCalls
from api.conversations.context import (
    checked_id,
    conversation_not_found,
    found_conversation,
    keep_ms,
)
from api.conversations.items import found_item, page_of, whole_item
from api.conversations.schema import (
    EXAMPLE,
    ConversationChange,
    ConversationDeleted,
    ConversationObject,
    ConversationRequest,
    ItemsRequest,
)
from api.conversations.view import conversation_view
from api.http.asgi import add_raw_route, json_response
from api.http.body import control_body
from api.http.openapi import answers, body_docs, parameter
from api.http.pages import ItemList, Limit, Order, list_view
from api.responses.conversation import conversation_items, room_for_conversation
from api.services import Services

_ONE = "/v1/conversations/{conversation_id}"
_ITEM = "/v1/conversations/{conversation_id}/items/{item_id}"


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    calls = ConversationCalls(services)
    add_raw_route(
        router,
        "POST",
        "/v1/conversations",
        calls.create,
        name="create_conversation",
        operation_id="createConversation",
        summary="Create a conversation",
        description="Its items, and those of its responses, precede the input of each response in it.",
        responses=answers(ConversationObject, 400, 413, 503),
        openapi_extra=body_docs(ConversationRequest, EXAMPLE, required=False),
    )
    add_raw_route(
        router,
        "POST",
        f"{_ONE}/items",
        calls.add,
        name="create_items",
        operation_id="createConversationItems",
        summary="Add items to a conversation",
        description="At its end. At most 20 in a call.",
        responses=answers(ItemList, 400, 404, 413, 503),
        openapi_extra={
            **body_docs(ItemsRequest, EXAMPLE),
            "parameters": [parameter("path", "conversation_id")],
        },
    )
    _register_one(router, services)
    _register_items(router, services)


def _register_one(router: APIRouter, services: Services) -> None:
    @router.get(
        _ONE,
        operation_id="getConversation",
        summary="Get a conversation",
        responses=answers(ConversationObject, 404, 503),
    )
    async def get_conversation(conversation_id: str, request: Request) -> Response:
        """Without its items."""
        found = await found_conversation(services, conversation_id, owner_of(request.scope), items=False)
        return json_response(conversation_view(found.id, found.created_ms, found.metadata))

    @router.post(
        _ONE,
        operation_id="updateConversation",
        summary="Update a conversation",
        responses=answers(ConversationObject, 400, 404, 413, 503),
        openapi_extra=body_docs(ConversationChange, {"metadata": {"topic": "demo"}}),
    )
    async def update_conversation(
        conversation_id: str,
        change: Annotated[ConversationChange, control_body(ConversationChange)],
        request: Request,
    ) -> Response:
        """Replaces its metadata."""
        owner = owner_of(request.scope)
        found = await found_conversation(services, conversation_id, owner, items=False)
        metadata, keep = change.metadata or {}, await keep_ms(services, found.tenant)
        if not await services.conversations.update(found.id, metadata, owner=owner, keep_ms=keep):
            raise conversation_not_found(conversation_id)
        return json_response(conversation_view(found.id, found.created_ms, metadata))

    @router.delete(
        _ONE,
        operation_id="deleteConversation",
        summary="Delete a conversation",
        responses=answers(ConversationDeleted, 404, 503),
    )
    async def delete_conversation(conversation_id: str, request: Request) -> Response:
        """Its responses stay."""
        owner, by = owner_of(request.scope), actor_of(request.scope)
        if not await services.conversations.delete(checked_id(conversation_id), owner=owner, by=by):
            raise conversation_not_found(conversation_id)
        return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


def _register_items(router: APIRouter, services: Services) -> None:
    @router.get(
        f"{_ONE}/items",
        operation_id="listConversationItems",
        summary="List a conversation's items",
        responses=answers(ItemList, 400, 404, 413, 503),
    )
    async def list_items(
        conversation_id: str,
        request: Request,
        after: Annotated[str | None, Query(description="The last item's id of the previous page.")] = None,
        limit: Limit = 20,
        order: Order = "desc",
    ) -> Response:
        """Those that were added, and those of its responses."""
        owner = owner_of(request.scope)
        async with room_for_conversation(services, conversation_id, owner):
            found = await found_conversation(services, conversation_id, owner, items=True)
            items = await conversation_items(services, found)
            page, more = page_of(items, after=after, limit=limit, newest_first=order == "desc")
            return json_response(list_view([whole_item(item) for item in page], more=more))

    @router.get(
        _ITEM,
        operation_id="getConversationItem",
        summary="Get an item of a conversation",
        responses=answers(dict, 404, 413, 503),
    )
    async def get_item(conversation_id: str, item_id: str, request: Request) -> Response:
        """One that was added, or one of a response."""
        owner = owner_of(request.scope)
        async with room_for_conversation(services, conversation_id, owner):
            found = await found_conversation(services, conversation_id, owner, items=True)
            item = found_item(await conversation_items(services, found), item_id, found.id)
            return json_response(whole_item(item))

    @router.delete(
        _ITEM,
        operation_id="deleteConversationItem",
        summary="Delete an item of a conversation",
        responses=answers(ConversationObject, 404, 413, 503),
    )
    async def delete_item(conversation_id: str, item_id: str, request: Request) -> Response:
        """The next response does not see it. Answers with the conversation."""
        owner = owner_of(request.scope)
        async with room_for_conversation(services, conversation_id, owner):
            found = await found_conversation(services, conversation_id, owner, items=True)
            found_item(await conversation_items(services, found), item_id, found.id)
        keep = await keep_ms(services, found.tenant)
        if not await services.conversations.drop(found.id, item_id, owner=owner, keep_ms=keep):
            raise conversation_not_found(conversation_id)
        return json_response(conversation_view(found.id, found.created_ms, found.metadata))
