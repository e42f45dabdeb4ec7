"""The last resort: an unexpected exception is logged with its trace and answered 500."""

from __future__ import annotations

import structlog
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.asgi import ClientGoneError, shown_path
from api.http.errors import SERVER, ApiError

log = structlog.get_logger(__name__)


class Guard:
    """Wraps the application (plain ASGI)."""

    def __init__(self, app: ASGIApp, count: Counter) -> None:
        self._app = app
        self._count = count.labels("internal_error")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientGoneError:
            return  # nobody reads an answer
        except Exception:
            log.exception("unexpected_error", path=shown_path(scope))
            self._count.inc()
            if started:
                raise  # half an answer is sent: the server must cut the connection
            message = "Penstock itself failed; its log has the trace under unexpected_error"
            answer = ApiError(500, message, "internal_error", type_=SERVER)
            await answer.response()(scope, receive, send)
