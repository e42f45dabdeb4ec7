"""The drivers carry out flows: one over httpx's client, one over its asynchronous client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import TypeVar

import httpx

from penstock._core.flows import Deliver, Flow, Items, Read, Send, Sleep, Step
from penstock._core.http import MAX_REDIRECTS, Settings, client_args, reply_of, too_many_redirects, translate
from penstock._core.replies import Reply
from penstock._core.requests import Request
from penstock.errors import PenstockError

T = TypeVar("T")
Outcome = Reply | PenstockError | None
"""What a step comes to; an error is thrown into the flow."""


class SyncDriver:
    """Carries out flows over httpx's client. One that the caller gives stays open; None makes one."""

    def __init__(self, settings: Settings, http: httpx.Client | None) -> None:
        self.settings = settings
        self.http = http or httpx.Client(**client_args(settings.ca_file))
        self._owns_http = http is None

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self.http.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry out a call and return its result."""
        with closing(flow), closing(_Exchange(self)) as exchange:
            try:
                step = next(flow)
                while True:
                    step = _resume(flow, exchange.carry_out(step))
            except StopIteration as stop:
                result: T = stop.value
                return result

    def iterate(self, items: Items[T]) -> Generator[T]:
        """Carry out an iteration and yield its items."""
        with closing(items), closing(_Exchange(self)) as exchange:
            try:
                step = next(items)
                while True:
                    if isinstance(step, Deliver):
                        yield step.item
                        step = next(items)
                    else:
                        step = _resume(items, exchange.carry_out(step))
            except StopIteration:
                return


class _Exchange:
    """Carries out the steps of one flow; it holds the answer that the flow reads from."""

    def __init__(self, driver: SyncDriver) -> None:
        self._driver = driver
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Sleep):
            self.close()
            time.sleep(step.seconds)
            return None
        try:
            if isinstance(step, Read):
                return Reply(0, {}, next(self._pieces, b""))
            self.close()
            stream = not isinstance(step, Send)
            response = self._send(step.request, stream=stream)
        except httpx.RequestError as exc:
            return translate(exc, self._driver.settings.url)
        except PenstockError as exc:
            return exc
        if stream:
            self._response, self._pieces = response, response.iter_bytes()
        return reply_of(response, whole=not stream)

    def _send(self, asked: Request, *, stream: bool) -> httpx.Response:
        http, settings, url = self._driver.http, self._driver.settings, None
        for _ in range(MAX_REDIRECTS + 1):
            request = http.build_request(**settings.args(asked, stream=stream, redirected=url))
            response = http.send(request, stream=stream, follow_redirects=False)
            if not response.has_redirect_location:
                return response
            response.close()
            url = settings.redirect(asked, response)
        raise too_many_redirects(asked)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


class AsyncDriver:
    """As :class:`SyncDriver`, over httpx's asynchronous client."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient | None) -> None:
        self.settings = settings
        self.http = http or httpx.AsyncClient(**client_args(settings.ca_file))
        self._owns_http = http is None

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self.http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Carry out a call and return its result."""
        with closing(flow):
            async with aclosing(_AsyncExchange(self)) as exchange:
                try:
                    step = next(flow)
                    while True:
                        step = _resume(flow, await exchange.carry_out(step))
                except StopIteration as stop:
                    result: T = stop.value
                    return result

    async def iterate(self, items: Items[T]) -> AsyncGenerator[T]:
        """Carry out an iteration and yield its items."""
        with closing(items):
            async with aclosing(_AsyncExchange(self)) as exchange:
                try:
                    step = next(items)
                    while True:
                        if isinstance(step, Deliver):
                            yield step.item
                            step = next(items)
                        else:
                            step = _resume(items, await exchange.carry_out(step))
                except StopIteration:
                    return


class _AsyncExchange:
    """As :class:`_Exchange`."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes]

    async def carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Sleep):
            await self.aclose()
            await asyncio.sleep(step.seconds)
            return None
        try:
            if isinstance(step, Read):
                return Reply(0, {}, await anext(self._pieces, b""))
            await self.aclose()
            stream = not isinstance(step, Send)
            response = await self._send(step.request, stream=stream)
        except httpx.RequestError as exc:
            return translate(exc, self._driver.settings.url)
        except PenstockError as exc:
            return exc
        if stream:
            self._response, self._pieces = response, response.aiter_bytes()
        return reply_of(response, whole=not stream)

    async def _send(self, asked: Request, *, stream: bool) -> httpx.Response:
        http, settings, url = self._driver.http, self._driver.settings, None
        for _ in range(MAX_REDIRECTS + 1):
            request = http.build_request(**settings.args(asked, stream=stream, redirected=url))
            response = await http.send(request, stream=stream, follow_redirects=False)
            if not response.has_redirect_location:
                return response
            await response.aclose()
            url = settings.redirect(asked, response)
        raise too_many_redirects(asked)

    async def aclose(self) -> None:
        if self._response is not None:
            response, self._response = self._response, None
            await response.aclose()


S = TypeVar("S")


def _resume(flow: Generator[S, Reply | None, object], outcome: Outcome) -> S:
    """Give a flow what its step came to, and return its next step."""
    return flow.throw(outcome) if isinstance(outcome, PenstockError) else flow.send(outcome)
