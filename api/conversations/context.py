"""A conversation and its items, as a caller may see them."""

from __future__ import annotations

from api.http.errors import ApiError
from api.services import Services
from broker.conversations import Conversation
from jobs.ids import is_conversation_id


def conversation_not_found(conversation_id: str) -> ApiError:
    """Make the 404 for a conversation."""
    return ApiError(
        404, f"Conversation with id '{conversation_id[:64]}' not found.", "conversation_not_found"
    )


def checked_id(conversation_id: str) -> str:
    """Return the id.

    Raises:
        ApiError: 404, it has not the form of a conversation's id.
    """
    if not is_conversation_id(conversation_id):
        raise conversation_not_found(conversation_id)
    return conversation_id


async def found_conversation(
    services: Services, conversation_id: str, owner: str | None, *, items: bool
) -> Conversation:
    """Read a conversation. ``items``: whether with what its client added; if so, wait for room before.

    Raises:
        ApiError: 404, it does not exist, or is another tenant's.
    """
    found = await services.conversations.get(checked_id(conversation_id), owner=owner, items=items)
    if found is None:
        raise conversation_not_found(conversation_id)
    return found


async def keep_ms(services: Services, tenant: str) -> int | None:
    """Return how long a tenant's conversations are kept since their last use; None: as the settings say."""
    retention_ms = (await services.known_tenants.get(tenant)).retention_ms
    return int(services.settings.unstored_s * 1000) if retention_ms == 0 else retention_ms
