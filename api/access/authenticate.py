"""Who calls: noted with each request before its route sees it. Plain ASGI, before everything but metrics and traces."""

from __future__ import annotations

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access.doors import Doors, no_key
from api.access.identity import put_identity
from api.access.scopes import needs_key
from api.http.asgi import header
from api.http.errors import ApiError
from jobs.access import NOBODY


class Authenticate:
    """Requires credentials for every path that needs a key. Another path is told who calls if the caller says so.

    Args:
        doors: who gets in.
        count: answered errors by code.
    """

    def __init__(self, app: ASGIApp, doors: Doors, count: Counter) -> None:
        self._app, self._doors, self._count = app, doors, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 401, 429 or 503."""
        if scope["type"] == "http":
            path = scope["path"]
            try:
                token = _token(scope)
                identity = self._doors.recall(token) or await self._doors.identify(token, _address(scope))
            except ApiError as refusal:
                if needs_key(path):
                    self._count.labels(refusal.code).inc()
                    await refusal.response()(scope, receive, send)
                    return
                identity = NOBODY
            put_identity(scope, identity)
        await self._app(scope, receive, send)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _token(scope: Scope) -> str:
    """Return the credentials: a bearer token, or what Anthropic's clients send as ``x-api-key``; empty in any other form.

    Raises:
        ApiError: 401, there are none.
    """
    given = header(scope, b"authorization")
    if given is None:
        own = header(scope, b"x-api-key")
        if own is None:
            raise no_key()
        return own.decode("latin-1").strip()
    scheme, _, token = given.decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
