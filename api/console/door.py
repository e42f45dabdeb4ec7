"""``/console/api/<path>``: the REST API for the console's scripts, with the credential of the session. Plain ASGI."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.console.origin import check_own
from api.console.session import Sessions
from api.http.asgi import replace_headers
from api.http.errors import ApiError

PREFIX: Final = "/console/api"
_OPEN: Final = ("/v1/", "/health")
_HEADERS: Final = [
    (
        b"content-security-policy",
        b"sandbox; default-src 'none'",
    ),  # a file that a client uploaded may be a page
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]
_DROPPED: Final = {b"authorization", b"cookie", b"x-api-key"}


class Door:
    """Passes calls of the console's pages on to the API as if their scripts had the credential, which they never see.

    Args:
        sessions: who is signed in; None: no keys are required, so nobody has to be.
        origins: further origins whose pages are ours, as browsers write them.
        count: answered errors by code.
    """

    def __init__(
        self, app: ASGIApp, sessions: Sessions | None, origins: Collection[str], count: Counter
    ) -> None:
        self._app, self._sessions, self._origins, self._count = app, sessions, origins, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        try:
            self._enter(scope)
        except ApiError as refusal:
            self._count.labels(refusal.code).inc()
            await refusal.response()(scope, receive, send)
            return

        async def harmless(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, harmless)

    def _enter(self, scope: Scope) -> None:
        """Make the request one of the API, in place: the layers around look at the same scope afterwards.

        Raises:
            ApiError: 403, it is not from our pages; 404, the path is none of the API.
        """
        check_own(scope, self._origins)
        path = scope["path"].removeprefix(PREFIX)
        if not path.startswith(_OPEN):
            raise ApiError(404, f"{PREFIX}/v1/... is the API for the console's scripts", "not_found")
        credential = None if self._sessions is None else self._sessions.of(scope)
        headers = [(name, value) for name, value in scope["headers"] if name not in _DROPPED]
        if credential is not None:
            headers.append((b"authorization", b"Bearer " + credential.encode("latin-1")))
        scope["path"] = path
        scope["raw_path"] = scope.get("raw_path", b"").removeprefix(PREFIX.encode())
        replace_headers(scope, headers)
