"""The calls of the Conversations API whose bodies are prompts, as plain ASGI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from api.access.identity import identity_of, owner_of
from api.admission.rights import check_active
from api.conversations.context import checked_id, conversation_not_found, found_conversation, keep_ms
from api.conversations.items import stored_item, unique
from api.conversations.schema import ConversationRequest, ItemsRequest
from api.conversations.view import conversation_view
from api.http.asgi import reply
from api.http.body import parse_object, validate
from api.http.pages import list_view
from api.responses.conversation import conversation_items, room_for_conversation
from api.services import Services
from jobs.ids import CONVERSATION_PREFIX

M = TypeVar("M", bound=BaseModel)


class ConversationCalls:
    """``POST /v1/conversations`` and ``POST /v1/conversations/{conversation_id}/items``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/conversations``.

        Raises:
            ApiError: the body is refused, or its tenant is suspended.
            ConversationFullError: the items are too large.
        """
        services, tenant = self._services, identity_of(scope).tenant
        request, items = await self._read(ConversationRequest, scope, receive)
        await check_active(services, tenant)
        made = await services.conversations.create(
            services.new_id(CONVERSATION_PREFIX),
            tenant,
            request.metadata or {},
            items,
            keep_ms=await keep_ms(services, tenant),
        )
        view = conversation_view(made.id, made.created_ms, made.metadata)
        await reply(send, 200, msgspec.json.encode(view))

    async def add(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/conversations/{conversation_id}/items``.

        Raises:
            ApiError: the body is refused, its tenant is suspended, or there is no such conversation.
            ConversationFullError: too many calls, or too many bytes, were added.
        """
        services, owner = self._services, owner_of(scope)
        ident = checked_id(scope["path_params"]["conversation_id"])
        _, items = await self._read(ItemsRequest, scope, receive)
        async with room_for_conversation(services, ident, owner):
            conversation = await found_conversation(services, ident, owner, items=True)
            await check_active(services, conversation.tenant)
            unique(items, [item["id"] for item in await conversation_items(services, conversation)])
        keep = await keep_ms(services, conversation.tenant)
        if not await services.conversations.add(conversation.id, items, owner=owner, keep_ms=keep):
            raise conversation_not_found(conversation.id)
        await reply(send, 200, msgspec.json.encode(list_view(items, more=False)))

    async def _read(
        self, model: type[M], scope: Scope, receive: Receive
    ) -> tuple[M, Sequence[dict[str, Any]]]:
        services = self._services
        with await services.bodies.read(scope, receive) as body:
            request = await body.run(lambda data: validate(model, parse_object(data or b"{}")), body.data)
        items = [stored_item(item, services.new_id) for item in getattr(request, "items", None) or ()]
        unique(items)
        return request, items
