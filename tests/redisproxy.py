"""A proxy before a real Redis on a Unix socket, which loses answers on demand."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class RedisProxy:
    """Passes everything on until the block ends.

    ``lose``: while set, a command with these bytes in it reaches the server, and its connection is cut before the answer.
    ``lost`` counts them.

    Args:
        url: the server's.
        path: for the proxy's own socket.
    """

    def __init__(self, url: str, path: Path) -> None:
        self._target, self._path = urlsplit(url).path, path
        self.url = url.replace(self._target, str(path))
        self.lose: bytes | None = None
        self.lost = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._serves = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis proxy")

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connected, self._path)
        self._serves.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_unix_connection(self._target)
        back = asyncio.create_task(self._pass(behind, writer))
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                while data := await reader.read(65536):
                    losing = self.lose is not None and self.lose in data
                    if losing:
                        back.cancel()
                    ahead.write(data)
                    await ahead.drain()
                    if losing:
                        with suppress(asyncio.CancelledError):
                            await back
                        await behind.read(1)  # it has been carried out
                        self.lost += 1
                        return
        finally:
            back.cancel()
            writer.close()
            ahead.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._serves.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
