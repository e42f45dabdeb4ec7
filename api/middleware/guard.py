"""The way into the routes: those of a fixed path directly; and the last resort of a request that failed."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from fastapi import Request
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.asgi import Direct, shown_path
from api.http.errors import SERVER, ApiError
from api.http.handlers import Handler
from api.http.hangup import ClientGoneError

log = structlog.get_logger(__name__)


class Guard:
    """Calls direct routes, and the application for any other request (plain ASGI).

    On the way through FastAPI's router a call passes six layers, which cost it as much as its checks do.

    Args:
        direct: routes that are called without the application.
        handlers: what answers the exceptions of these, by their class; of other routes, the application answers them.
        count: answered errors by code. An unexpected exception is logged with its trace and answered 500.
    """

    def __init__(
        self, app: ASGIApp, direct: Direct, handlers: Mapping[type[Exception], Handler], count: Counter
    ) -> None:
        self._app, self._direct, self._handlers = app, direct, handlers
        self._count = count.labels("internal_error")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, app = False, self._app
        route = self._direct.get((scope["method"], scope["path"]))
        if route is not None:
            app = route.app
            scope["route"] = route

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watch)
        except ClientGoneError:
            return  # nobody reads an answer
        except Exception as error:
            handler = None if route is None or started else self._handler_of(error)
            if handler is not None:
                response = await handler(Request(scope), error)
                await response(scope, receive, send)
                return
            log.exception("unexpected_error", path=shown_path(scope))
            self._count.inc()
            if started:
                raise  # half an answer is sent: the server must cut the connection
            message = "Penstock itself failed; its log has the trace under unexpected_error"
            answer = ApiError(500, message, "internal_error", type_=SERVER)
            await answer.response()(scope, receive, send)

    def _handler_of(self, error: Exception) -> Handler | None:
        return next((self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers), None)
