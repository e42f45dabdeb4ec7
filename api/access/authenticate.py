"""Who calls: the tenant behind an API key. Plain ASGI, before everything but the metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from prometheus_client import Counter
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.asgi import header
from api.http.errors import ApiError

DEFAULT = "default"
"""The tenant of every caller where no keys are set."""

_OPEN = frozenset({"/v1/metrics/targets"})
"""What needs no key: as open as the metrics whose addresses it lists, so that Prometheus needs none."""

_SCOPE = "penstock.tenant"


def tenant_of(scope: Scope) -> str:
    """Return the tenant that a request is for."""
    return str(scope.get(_SCOPE, DEFAULT))


class Keys:
    """Lets calls of ``/v1`` through that carry one of the keys; without keys, every call.

    Args:
        app: what comes next.
        keys: by the tenant's name.
        count: answered errors by code.
    """

    def __init__(self, app: ASGIApp, keys: Mapping[str, SecretStr], count: Counter) -> None:
        self._app = app
        self._count = count
        # Looked up by digest, so that the time it takes says nothing of how far a guess was right.
        self._tenants = {_digest(key.get_secret_value().encode()): name for name, key in keys.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 401."""
        path = scope.get("path", "")
        if self._tenants and scope["type"] == "http" and path.startswith("/v1/") and path not in _OPEN:
            tenant = self._tenants.get(_digest(_bearer(scope)))
            if tenant is None:
                refusal = _refusal(scope)
                self._count.labels(refusal.code).inc()
                await refusal.response()(scope, receive, send)
                return
            scope[_SCOPE] = tenant
        await self._app(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _bearer(scope: Scope) -> bytes:
    scheme, _, key = (header(scope, b"authorization") or b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _refusal(scope: Scope) -> ApiError:
    given = header(scope, b"authorization") is not None
    message = (
        "Incorrect API key provided"
        if given
        else "You didn't provide an API key; send it as a bearer token: Authorization: Bearer YOUR_KEY"
    )
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, message, "invalid_api_key", headers=headers)
