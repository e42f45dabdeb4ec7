"""A real api in a thread: uvicorn on a loopback port, as ``penstock api`` runs it."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from types import TracebackType
from typing import Any, Self

import httpx

from api.main import make_server
from api.settings import ApiSettings
from broker.settings import BrokerSettings
from tests.support import free_port, wait_until


class ApiServer:
    """Serves until the block ends.

    Args:
        base: where Redis is.
        settings: further settings of the api.
    """

    def __init__(self, base: BrokerSettings, **settings: Any) -> None:
        self._data = tempfile.TemporaryDirectory(prefix="penstock-api-")
        given = {
            "catalogue_refresh_s": 0.1,
            "shutdown_grace_s": 1,
            "port": free_port(),
            "data_dir": self._data.name,
            **settings,
        }
        self.settings = ApiSettings(redis_url=base.redis_url, namespace=base.namespace, **given)
        self.url = f"{self.settings.scheme}://127.0.0.1:{self.settings.port}"
        self._server = make_server(self.settings)
        self._thread = threading.Thread(target=self._server.run, name="api")

    @property
    def services(self) -> Any:
        """The application's services, for a look inside."""
        return self._server.config.app.state.services

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._data.cleanup()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves."""
        (loop,) = {server.get_loop() for server in self._server.servers}
        return loop

    def renew(self) -> None:
        """Begin anew after its namespace was emptied: publish the limits, forget the workers."""
        asyncio.run_coroutine_threadsafe(self._renew(), self.loop).result(20)

    async def _renew(self) -> None:
        await self.services.store.set_limits()
        await self.services.catalogue.refresh()

    def stop(self) -> None:
        """Do as SIGTERM does."""
        self._server.should_exit = True

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Make a client; close it after use. ``options``: httpx's."""
        return httpx.AsyncClient(base_url=self.url, timeout=20.0, **options)
