"""The tenant behind an API key. Plain ASGI, before everything but metrics and traces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from prometheus_client import Counter
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access.identity import put_identity
from api.access.scopes import KEYLESS_PATHS
from api.http.asgi import header
from api.http.errors import ApiError
from jobs.access import NOBODY, Identity
from jobs.access import Scope as Right


class Authenticate:
    """Requires a tenant's key for every call of ``/v1``. Without keys it lets every call through."""

    def __init__(self, app: ASGIApp, keys: Mapping[str, SecretStr], count: Counter) -> None:
        self._app = app
        self._count = count
        # Looked up by digest, so that its time does not reveal how much of a guess was right.
        self._tenants = {_digest(key.get_secret_value().encode()): name for name, key in keys.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 401."""
        path = scope.get("path", "")
        if self._tenants and scope["type"] == "http":
            tenant = self._tenants.get(_digest(_bearer(scope)))
            if tenant is not None:
                put_identity(scope, Identity(tenant, frozenset(Right) - {Right.ADMIN}))
            elif path.startswith("/v1/") and path not in KEYLESS_PATHS:
                refusal = _refusal(scope)
                self._count.labels(refusal.code).inc()
                await refusal.response()(scope, receive, send)
                return
            else:
                put_identity(scope, NOBODY)
        await self._app(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _bearer(scope: Scope) -> bytes:
    scheme, _, key = (header(scope, b"authorization") or b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _refusal(scope: Scope) -> ApiError:
    given = header(scope, b"authorization") is not None
    message = (
        "Incorrect API key provided; check the header Authorization: Bearer YOUR_KEY"
        if given
        else "You didn't provide an API key; send it as a bearer token: Authorization: Bearer YOUR_KEY"
    )
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, message, "invalid_api_key", headers=headers)
