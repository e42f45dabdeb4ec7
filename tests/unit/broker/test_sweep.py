"""Libraries of functions that nobody uses any more."""

from __future__ import annotations

from typing import cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from broker.db.functions import drop_unused_libraries
from broker.db.library import PREFIX, library

pytestmark = pytest.mark.asyncio


class Server:
    """Lists libraries, some of which another process deletes meanwhile."""

    def __init__(self, gone: set[str], error: str = "Library not found") -> None:
        self.names = [library().name, f"{PREFIX}live", f"{PREFIX}old", f"{PREFIX}older"]
        self.gone, self.error = gone, error

    async def function_list(self, library: str) -> list[list[str]]:
        assert library == f"{PREFIX}*"
        return [["library_name", name, "engine", "LUA"] for name in self.names]

    async def function_delete(self, name: str) -> None:
        if name in self.gone:
            raise ResponseError(self.error)
        self.names.remove(name)


async def sweep(server: Server) -> list[str]:
    return await drop_unused_libraries(cast("Redis", server), {f"{PREFIX}live"})


async def test_what_another_process_has_deleted_is_no_fault() -> None:
    server = Server({f"{PREFIX}old"})
    assert await sweep(server) == [f"{PREFIX}older"]
    assert server.names == [library().name, f"{PREFIX}live", f"{PREFIX}old"]


async def test_any_other_refusal_is() -> None:
    with pytest.raises(ResponseError):
        await sweep(Server({f"{PREFIX}old"}, "NOPERM no"))
