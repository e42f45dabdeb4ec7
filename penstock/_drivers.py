"""What carries the flows out: one driver over httpx's client, one over its asynchronous client."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self, TypeVar

import httpx

from penstock import _http as http
from penstock._flows import Flow, Send, Step

T = TypeVar("T")


class SyncDriver:
    """Settings, connections and the carrying out of flows; the arguments are :class:`penstock.Penstock`'s."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        max_reconnects: int = 10,
        http_client: httpx.Client | None = None,
    ) -> None:
        self._settings = http.Settings.resolve(base_url, api_key, timeout, max_retries, max_reconnects)
        self._owns_http = http_client is None
        self._http = http_client or httpx.Client(**http.client_args())

    @property
    def base_url(self) -> str:
        """The server's address as it is used."""
        return self._settings.url

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        """Carry out a flow's steps."""
        try:
            step: Step = next(flow)
            while True:
                if not isinstance(step, Send):
                    time.sleep(step.seconds)
                    step = flow.send(None)
                    continue
                try:
                    request = self._http.build_request(**self._settings.args(step.request))
                    response = self._http.send(request)
                except httpx.RequestError as exc:
                    error = http.translate(exc, self._settings.url)
                    error.__cause__ = exc
                    step = flow.throw(error)
                else:
                    step = flow.send(http.reply_of(response))
        except StopIteration as stop:
            value: T = stop.value
            return value


class AsyncDriver:
    """As :class:`SyncDriver`, for one event loop."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        max_reconnects: int = 10,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._settings = http.Settings.resolve(base_url, api_key, timeout, max_retries, max_reconnects)
        self._owns_http = http_client is None
        self._http = http_client or httpx.AsyncClient(**http.client_args())

    @property
    def base_url(self) -> str:
        """The server's address as it is used."""
        return self._settings.url

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        """Carry out a flow's steps."""
        try:
            step: Step = next(flow)
            while True:
                if not isinstance(step, Send):
                    await asyncio.sleep(step.seconds)
                    step = flow.send(None)
                    continue
                try:
                    request = self._http.build_request(**self._settings.args(step.request))
                    response = await self._http.send(request)
                except httpx.RequestError as exc:
                    error = http.translate(exc, self._settings.url)
                    error.__cause__ = exc
                    step = flow.throw(error)
                else:
                    step = flow.send(http.reply_of(response))
        except StopIteration as stop:
            value: T = stop.value
            return value
