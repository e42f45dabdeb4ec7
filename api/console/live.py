"""``GET /console/events``: the parts of a page that have changed, while somebody looks at it. Server-Sent Events."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.types import Receive, Scope, Send

from api.console.frame import Frame, Page
from api.console.origin import check_own
from api.console.visit import Refused, Visit
from api.http.asgi import add_raw_route
from api.http.errors import ApiError
from api.http.hangup import until_hangup
from api.http.pings import pings
from api.http.sse import HEADERS

PERIOD_S: Final = 2.0
_SHARE: Final = 50
"""The more pages are open, and the longer they take, the less often each is made: together they get a fiftieth of it."""

_LONGEST_PAUSE_S: Final = 60.0
_LONGEST_S: Final = 15 * 60.0
"""Then the browser connects anew, so that no stream outlives its session by more."""


class Live:
    """The route, as an ASGI application. The page opens it with its own address, and closes it while it is hidden."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts, and then those that have changed.

        Raises:
            ApiError: 404, there is no such page; 403, another page asks.
            ClientGoneError: the page was closed.
        """
        check_own(scope, self._frame.services.settings.page_origins)
        request = Request(scope)
        url = request.query_params.get("page", "")
        found = self._frame.find(url.partition("?")[0])
        if found is None:
            raise ApiError(404, "there is no such page", "not_found")
        page, params = found
        with until_hangup(scope):
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            async with pings(send, self._frame.services.settings.sse_ping_s) as beat:
                self._open += 1
                try:
                    visit = self._frame.visit(request, url, params, anew=True)
                    await self._follow(page, visit, beat, send)
                finally:
                    self._open -= 1
        await send({"type": "http.response.body", "body": b""})

    async def _follow(self, page: Page, visit: Visit, beat: asyncio.Event, send: Send) -> None:
        sent: dict[str, str] = {}
        sampled = self._frame.services.samples.version
        until = time.monotonic() + _LONGEST_S
        while time.monotonic() < until and not self._frame.services.readiness.stopping:
            began = time.perf_counter()
            pause_s = PERIOD_S
            try:
                parts = await self._parts(page, visit)
                spent_s = time.perf_counter() - began
                pause_s = min(_LONGEST_PAUSE_S, max(PERIOD_S, _SHARE * self._open * spent_s))
            except Refused as refused:
                sent.clear()  # once it works again, the page is told so
                await self._tell(
                    send, beat, "refused", {"status": refused.status, "message": refused.message}
                )
                if refused.status in {401, 403, 404}:
                    return
                parts = await self._status()
            changed = {name: html for name, html in parts.items() if sent.get(name) != html}
            if changed:
                sent |= changed
                await self._tell(send, beat, "parts", changed)
            if (version := self._frame.services.samples.version) != sampled:
                sampled = version
                await self._tell(send, beat, "samples", {"version": version})
            await asyncio.sleep(pause_s)

    async def _status(self) -> dict[str, str]:
        return self._frame.templates.parts("_status.html", {"missing": await self._frame.missing()})

    async def _parts(self, page: Page, visit: Visit) -> dict[str, str]:
        data = await self._frame.data(page, visit)
        templates = self._frame.templates
        return await self._status() | templates.parts(page.template, data)

    async def _tell(self, send: Send, beat: asyncio.Event, event: str, value: object) -> None:
        beat.set()
        body = b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(value))
        await send({"type": "http.response.body", "body": body, "more_body": True})


def register(router: APIRouter, frame: Frame) -> None:
    """Add the route."""
    add_raw_route(router, "GET", "/console/events", Live(frame), include_in_schema=False)
