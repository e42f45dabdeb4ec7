"""A response in a conversation: what it continues, and what it leaves behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from api.http.errors import ApiError, invalid
from api.responses.history import Item, items_of, room_for
from api.services import Services
from broker.conversations import Conversation
from broker.db.errors import ConversationBusyError, NoConversationError
from jobs.ids import is_conversation_id
from jobs.model import Place


class Continued(NamedTuple):
    """What a response in a conversation begins with.

    Attributes:
        place: for the job: :attr:`jobs.model.JobSpec.conversation`.
        items: they precede its own input.
    """

    place: Place
    items: list[Item]


def conversation_id_of(given: object, previous_response_id: object) -> str | None:
    """Read the member ``conversation`` of a response's body: an id, or an object with one; None: it has none.

    Raises:
        ApiError: 400, it is neither, or the body names a previous response too.
    """
    if given is None:
        return None
    if previous_response_id is not None:
        message = (
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'; send one of them."
        )
        raise invalid(message, "previous_response_id", "mutually_exclusive_parameters")
    ident = given.get("id") if isinstance(given, dict) else given
    if not isinstance(ident, str):
        raise invalid(
            "conversation: give its id, or an object with its `id`", "conversation", "invalid_value"
        )
    return ident


async def continued(services: Services, conversation_id: str, tenant: str, *, store: bool) -> Continued:
    """Read the conversation that a response is to continue.

    Args:
        tenant: whose it must be.
        store: whether the response is stored.

    Raises:
        ApiError: 400, the response is not stored: its items would not be there for the next one.
        NoConversationError: this tenant has no such conversation.
        SealingError: an item is encrypted and cannot be read.
    """
    if not store or (await services.known_tenants.get(tenant)).retention_ms == 0:
        message = "a response in a conversation must be stored; leave out `store: false` or `conversation`"
        raise invalid(message, "conversation")
    found = None
    if is_conversation_id(conversation_id):
        found = await services.conversations.get(conversation_id, owner=tenant)
    if found is None:
        raise NoConversationError(conversation_id[:64])
    return Continued(found.place, await conversation_items(services, found))


@asynccontextmanager
async def room_for_conversation(
    services: Services, conversation_id: str, owner: str | None
) -> AsyncIterator[None]:
    """Wait for room to have a conversation's items in memory: see :func:`api.responses.history.room_for`.

    Raises:
        ApiError: 413, its last response is larger than a request may be.
    """
    last, size = None, 0
    if is_conversation_id(conversation_id):
        last, size = await services.conversations.size(conversation_id, owner=owner)
    async with room_for(services, last, owner, more=size):
        yield


async def conversation_items(services: Services, conversation: Conversation) -> list[Item]:
    """Return all items of a conversation, in their order: those of its last response, and those that were added since.

    Raises:
        ApiError: 410, the record of its last response is gone.
        SealingError: an item is encrypted and cannot be read.
    """
    items: list[Item] = []
    if conversation.last is not None:
        job = await services.store.get(conversation.last, position=False, owner=conversation.tenant)
        try:
            items = await items_of(services, job) if job is not None else _lost(conversation)
        except LookupError:
            items = _lost(conversation)
    return [item for item in [*items, *conversation.added] if item["id"] not in conversation.dropped]


def _lost(conversation: Conversation) -> list[Item]:
    message = f"the last response of the conversation '{conversation.id}' is no longer stored; create another conversation"
    raise ApiError(410, message, "result_gone", param="conversation")


async def leave_conversations(services: Services, job_id: str, conversation_id: str, tenant: str) -> None:
    """Have a conversation keep its items itself, if this job's record has them: the record is about to be deleted.

    Raises:
        ApiError: 409, another response continues the conversation now; 413, the record is too large for that.
        ConversationFullError: the items are too large: the conversation must be deleted first.
    """
    while True:
        if (await services.conversations.size(conversation_id, owner=tenant))[0] != job_id:
            return
        try:
            async with room_for_conversation(services, conversation_id, tenant):
                folded = await _fold(services, job_id, conversation_id, tenant)
        except ConversationBusyError:
            message = (
                f"another response of the conversation {conversation_id!r} has not ended, and continues this one;"
                " wait for it, or cancel it first"
            )
            raise ApiError(409, message, "conversation_locked") from None
        if folded is not False:
            return


async def _fold(services: Services, job_id: str, conversation_id: str, tenant: str) -> bool | None:
    found = await services.conversations.get(conversation_id, owner=tenant)
    if found is None or found.last != job_id:
        return None
    items = await conversation_items(services, found)
    return await services.conversations.fold(found.place, items, owner=tenant)
