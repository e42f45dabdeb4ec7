"""Libraries of functions that nobody uses any more."""

from __future__ import annotations

from typing import cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from broker.db.functions import drop_libraries

pytestmark = pytest.mark.asyncio


class Server:
    """Has libraries, some of which another process deletes meanwhile."""

    def __init__(self, gone: set[str], error: str = "Library not found") -> None:
        self.names = ["old", "older", "others"]
        self.gone, self.error = gone, error

    async def function_delete(self, name: str) -> None:
        if name in self.gone:
            raise ResponseError(self.error)
        self.names.remove(name)


async def sweep(server: Server) -> list[str]:
    return await drop_libraries(cast("Redis", server), ["old", "older"])


async def test_what_another_process_has_deleted_is_no_fault() -> None:
    server = Server({"old"})
    assert await sweep(server) == ["older"]
    assert server.names == ["old", "others"]


async def test_any_other_refusal_is() -> None:
    with pytest.raises(ResponseError):
        await sweep(Server({"old"}, "NOPERM no"))
