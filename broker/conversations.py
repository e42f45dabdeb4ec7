"""Conversations: their records, and what their clients added. The items of a response are in the record of its job."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from broker.db.calls.conversations import (
    ConversationChange,
    ConversationCreate,
    ConversationDelete,
    ConversationFold,
)
from broker.db.errors import ConversationBusyError, ConversationFullError
from broker.jobs import JobStore, StorePart
from jobs.access import Actor, encoded, owns
from jobs.model import Place

_ITEMS = "items"
_FIELDS = ("tenant", "created", "metadata", "last", "dropped", "turn", "first", "next")
_encode = msgspec.json.Encoder().encode
_decode_items = msgspec.json.Decoder(list[dict[str, Any]]).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation.

    Attributes:
        created_ms: Unix milliseconds of the server's clock.
        last: the job of its last response, which has its items up to there; None: it has none.
        added: items that its client added since.
        dropped: ids of items that were deleted.
        turn: see :class:`jobs.model.Place`. ``parts``: the same.
    """

    id: str
    tenant: str
    created_ms: int
    metadata: Mapping[str, str]
    last: str | None
    added: Sequence[dict[str, Any]]
    dropped: frozenset[str]
    turn: int
    parts: int

    @property
    def place(self) -> Place:
        """Where a job begins that has all of these items."""
        return Place(self.id, self.turn, self.parts)


class ConversationStore(StorePart):
    """Conversations. ``owner``: the tenant that asks: another's does not exist for it. None: an admin, or a process.

    ``keep_ms``: how long its tenant's objects are kept since their last use; None: as the settings say.

    Args:
        most_bytes: of the items that a conversation's own record has; more could not be continued.
    """

    def __init__(self, store: JobStore, most_bytes: int) -> None:
        super().__init__(store)
        self._most_bytes = most_bytes

    async def create(
        self,
        ident: str,
        tenant: str,
        metadata: Mapping[str, str],
        items: Sequence[dict[str, Any]],
        *,
        keep_ms: int | None = None,
    ) -> Conversation:
        """Create a conversation with its first items.

        Raises:
            ConversationFullError: they are too large.
        """
        text = _encode(metadata).decode()
        call = ConversationCreate(ident, tenant, text, self._store.retention_ms, keep_ms)
        created_ms = await self._call(call, *await self._sealed(ident, items))
        return Conversation(
            ident, tenant, created_ms, metadata, None, items, frozenset(), 0, 1 if items else 0
        )

    async def get(
        self, conversation_id: str, *, owner: str | None = None, items: bool = True
    ) -> Conversation | None:
        """Read a conversation; None: there is no such one.

        Args:
            items: whether to read what its client added; else ``added`` is empty.

        Raises:
            SealingError: its items are encrypted and cannot be read.
        """
        key = self._keys("conversation", conversation_id)
        if items:
            found = await self._execute(self._client.hgetall(key))
        else:
            values = await self._execute(self._client.hmget(key, list(_FIELDS)))
            found = {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}
        if not found or not owns(owner, found["tenant"]):
            return None
        added: list[dict[str, Any]] = []
        for n in range(int(found["first"]), int(found["next"])) if items else ():
            blob = await self._store.sealer.open(conversation_id, _ITEMS, found[f"items:{n}"].encode())
            added += _decode_items(blob or b"[]")
        return Conversation(
            id=conversation_id,
            tenant=found["tenant"],
            created_ms=int(found["created"]),
            metadata=_decode_metadata(found["metadata"]),
            last=found.get("last"),
            added=added,
            dropped=frozenset(found.get("dropped", "").split()),
            turn=int(found["turn"]),
            parts=int(found["next"]),
        )

    async def size(self, conversation_id: str, *, owner: str | None = None) -> tuple[str | None, int]:
        """Return the job of its last response, and the bytes of the items that its client added since."""
        fields = ["tenant", "last", "bytes"]
        found = self._client.hmget(self._keys("conversation", conversation_id), fields)
        tenant, last, size = await self._execute(found)
        return (last, int(size or 0)) if tenant is not None and owns(owner, tenant) else (None, 0)

    async def update(
        self,
        conversation_id: str,
        metadata: Mapping[str, str],
        *,
        owner: str | None = None,
        keep_ms: int | None = None,
    ) -> bool:
        """Replace its metadata. Returns whether there is such a conversation."""
        call = self._change(conversation_id, keep_ms, metadata=_encode(metadata).decode(), owner=owner)
        return await self._call(call) == "done"

    async def add(
        self,
        conversation_id: str,
        items: Sequence[dict[str, Any]],
        *,
        owner: str | None = None,
        keep_ms: int | None = None,
    ) -> bool:
        """Add items at its end. Returns whether there is such a conversation.

        Raises:
            ConversationFullError: too many calls, or too many bytes, were added since its last response.
        """
        call = self._change(conversation_id, keep_ms, owner=owner)
        answer = await self._call(call, *await self._sealed(conversation_id, items))
        if answer == "full":
            raise ConversationFullError(
                f"since the last response, 1,000 calls or {self._most_bytes} bytes (setting max_body_bytes) of items were"
                " added; make a response, or create another conversation"
            )
        return answer == "done"

    async def drop(
        self,
        conversation_id: str,
        item_id: str,
        *,
        owner: str | None = None,
        keep_ms: int | None = None,
    ) -> bool:
        """Delete an item. Returns whether there is such a conversation."""
        call = self._change(conversation_id, keep_ms, drop=item_id, owner=owner)
        return await self._call(call) == "done"

    async def fold(
        self, place: Place, items: Sequence[dict[str, Any]], *, owner: str | None = None
    ) -> bool | None:
        """Put all items into the conversation's own record, as the record of its last response is about to go.

        Args:
            place: as the conversation was read.
            items: all of them.

        Returns:
            Whether it still was as it was read; None: there is no such conversation.

        Raises:
            ConversationBusyError: a response continues it now.
            ConversationFullError: the items are too large.
        """
        call = ConversationFold(place.id, place.turn, place.parts, owner)
        answer = await self._call(call, *await self._sealed(place.id, items))
        if answer == "busy":
            raise ConversationBusyError(place.id)
        return None if answer == "gone" else answer == "done"

    async def delete(
        self, conversation_id: str, *, owner: str | None = None, by: Actor | None = None
    ) -> bool:
        """Delete a conversation; its responses stay. Returns whether there was one.

        Args:
            by: who asked, for the audit stream, if it may be another's.
        """
        return await self._call(ConversationDelete(conversation_id, owner, encoded(by)))

    async def _sealed(self, conversation_id: str, items: Sequence[dict[str, Any]]) -> tuple[bytes, ...]:
        if not items:
            return ()
        blob = await self._store.sealer.seal(conversation_id, _ITEMS, _encode(items))
        if len(blob) > self._most_bytes:
            raise ConversationFullError(
                f"the items take {len(blob)} bytes, more than the {self._most_bytes} (setting max_body_bytes) of a"
                " conversation"
            )
        return (blob,)

    def _change(
        self,
        conversation_id: str,
        keep_ms: int | None,
        *,
        owner: str | None,
        metadata: str | None = None,
        drop: str | None = None,
    ) -> ConversationChange:
        store = self._store
        nonce = secrets.token_hex(8)
        return ConversationChange(
            conversation_id, store.retention_ms, self._most_bytes, nonce, keep_ms, metadata, drop, owner
        )
