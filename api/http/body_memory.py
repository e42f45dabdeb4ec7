"""The memory of the large bodies that one process reads and checks at once.

Memory is taken as bytes arrive, so a client that announces much and sends little holds little. When it is short, these rules
keep it moving. The eldest body has memory of its own, so that bodies never wait for each other in a circle. A body that
waits too long is refused, and so is one whose client sends slowly while others wait: both give back what they hold. The
last quarter is for bodies of ordinary size, so that a prompt passes uploads.
"""

from __future__ import annotations

import asyncio

from api.http.body import BodyReader
from api.http.errors import RETRY_WORKER_S, SERVER, ApiError

ORDINARY_BYTES = 1024 * 1024
"""A body up to this size may take the last quarter of the memory."""

WAIT_S = 30.0
"""How long a body waits for memory."""

SHORT_BYTES_PER_S = 64 * 1024
"""Slowest rate of a client while others wait for memory: half a megabit a second."""

_LOOK_S = 1.0


class Share:
    """One body's part of the memory.

    Args:
        limit: ends its reading.

    Attributes:
        held: its bytes.
        arrived: those of them that came since the last look.
        wants: bytes that it asks for.
        room: done when it has them; None if it does not wait.
        whole: whether it has arrived.
    """

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.held = self.arrived = self.wants = 0
        self.room: asyncio.Future[None] | None = None
        self.whole = False
        self.limit = limit


class BodyMemory:
    """Bytes that bodies hold at once.

    Args:
        limit: the most of all bodies but the eldest.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shares: dict[Share, None] = {}  # the eldest first
        self._held = 0
        self._looks = False

    async def read(self, reader: BodyReader) -> Share:
        """Read the rest of a body, and take memory for all of it.

        Returns:
            What :meth:`give_back` wants.

        Raises:
            ApiError: 413, it is too large; 503, memory is short, and it waited too long or came too slowly.
            ClientGoneError: the client hung up first.
        """
        limit = asyncio.timeout(None)
        share = Share(limit)
        self._shares[share] = None
        try:
            async with limit:
                await self._take(share, reader.size, reader)
                while not reader.complete:
                    before = reader.size
                    await reader.read(before)
                    await self._take(share, reader.size - before, reader)
        except TimeoutError:
            raise _short() from None
        finally:
            share.whole = reader.complete and share.held == reader.size
            if not share.whole:
                self.give_back(share)
        return share

    def give_back(self, share: Share) -> None:
        """Give back all that a body holds."""
        del self._shares[share]
        self._held -= share.held
        self._serve()

    async def _take(self, share: Share, size: int, reader: BodyReader) -> None:
        share.wants = size
        if self._fits(share):
            self._grant(share)
            return
        loop = asyncio.get_running_loop()
        share.room = loop.create_future()
        share.limit.reschedule(loop.time() + WAIT_S)
        if not self._looks:
            self._begin_look()
        await reader.listen_until(share.room)
        share.room = None
        share.limit.reschedule(None)

    def _fits(self, share: Share) -> bool:
        eldest = next(iter(self._shares))
        if share is eldest:
            return True
        ordinary = share.held + share.wants <= ORDINARY_BYTES
        most = self._limit if ordinary else self._limit * 3 // 4
        return self._held - eldest.held + share.wants <= most

    def _grant(self, share: Share) -> None:
        share.held += share.wants
        share.arrived += share.wants
        self._held += share.wants
        share.wants = 0

    def _serve(self) -> None:
        for share in list(self._shares):
            if share.room is not None and not share.room.done() and self._fits(share):
                self._grant(share)
                share.arrived += int(SHORT_BYTES_PER_S * _LOOK_S)  # it could not send meanwhile
                share.room.set_result(None)

    def _begin_look(self) -> None:
        self._looks = True
        for share in self._shares:
            share.arrived = 0
        loop = asyncio.get_running_loop()
        loop.call_later(_LOOK_S, self._end_look, loop.time() + _LOOK_S)

    def _end_look(self, due: float) -> None:
        """Refuse bodies that came too slowly while others waited."""
        loop = asyncio.get_running_loop()
        self._looks = False
        if all(share.room is None for share in self._shares):
            return
        if loop.time() - due < _LOOK_S:  # else this process was frozen, and read nothing
            for share in self._shares:
                slow = share.arrived < SHORT_BYTES_PER_S * _LOOK_S
                if slow and share.room is None and not share.whole:
                    share.limit.reschedule(0)
        self._begin_look()


def _short() -> ApiError:
    message = (
        "the server reads as many large requests as fit into its memory (setting bodies_memory_bytes), and this one waited"
        " too long or came too slowly; retry shortly"
    )
    close = {"connection": "close"}  # more of the body may follow
    return ApiError(
        503, message, "body_memory_full", type_=SERVER, retry_after_s=RETRY_WORKER_S, headers=close
    )
