"""What carries the flows out: one driver over httpx's client, one over its asynchronous client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Self, TypeVar

import httpx

from penstock._core import http as http
from penstock._core.flows import Flow, Send, Step
from penstock._core.tails import Tail
from penstock.errors import PenstockError

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

    def _tail(self, tail: Tail[T]) -> Generator[T]:
        """Read a streamed answer to its end, over as many connections as that takes."""
        while True:
            error: PenstockError | None = None
            request = self._http.build_request(**self._settings.args(tail.request(), stream=True))
            try:
                response = self._http.send(request, stream=True)
                try:
                    if tail.opened(http.head_of(response)):
                        for data in response.iter_bytes():
                            yield from tail.feed(data)
                            if tail.done:
                                return
                        tail.ended()
                        if tail.done:
                            return
                    else:
                        response.read()
                        error = http.not_a_stream(response)
                finally:
                    response.close()
            except httpx.RequestError as exc:
                error = http.translate(exc, self._settings.url)
                error.__cause__ = exc
            time.sleep(tail.dropped(error))


class SyncPart:
    """A part of a client that is reached through an attribute of it, such as ``client.files``."""

    def __init__(self, driver: SyncDriver) -> None:
        self._settings = driver._settings  # noqa: SLF001 - it is a piece of the driver, put elsewhere
        self._run = driver._run  # noqa: SLF001 - likewise
        self._tail = driver._tail  # noqa: SLF001 - likewise


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

    async def _tail(self, tail: Tail[T]) -> AsyncGenerator[T]:
        """Read a streamed answer to its end, over as many connections as that takes."""
        while True:
            error: PenstockError | None = None
            request = self._http.build_request(**self._settings.args(tail.request(), stream=True))
            try:
                response = await self._http.send(request, stream=True)
                try:
                    if tail.opened(http.head_of(response)):
                        async for data in response.aiter_bytes():
                            for item in tail.feed(data):
                                yield item
                            if tail.done:
                                return
                        tail.ended()
                        if tail.done:
                            return
                    else:
                        await response.aread()
                        error = http.not_a_stream(response)
                finally:
                    await response.aclose()
            except httpx.RequestError as exc:
                error = http.translate(exc, self._settings.url)
                error.__cause__ = exc
            await asyncio.sleep(tail.dropped(error))


class AsyncPart:
    """As :class:`SyncPart`."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._settings = driver._settings  # noqa: SLF001 - it is a piece of the driver, put elsewhere
        self._run = driver._run  # noqa: SLF001 - likewise
        self._tail = driver._tail  # noqa: SLF001 - likewise
