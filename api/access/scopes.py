"""Which scope each route needs. THE table: a route without a row stops the start."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.access.identity import identity_of
from api.http.errors import ApiError
from jobs.access import Scope
from jobs.endpoints import ENDPOINTS


class Needs(Enum):
    """What a route needs instead of a scope."""

    KEY = "any key"
    NOTHING = "no key"


_READ, _WRITE, _BATCHES, _FILES = Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.BATCHES, Scope.FILES
_ADMIN, _METRICS = Scope.ADMIN, Scope.METRICS

_CONSOLE = (
    "/console",
    "/console/audit",
    "/console/batches",
    "/console/batches/{batch_id}",
    "/console/dead",
    "/console/events",
    "/console/events",
    "/console/jobs",
    "/console/jobs/find",
    "/console/jobs/{job_id}",
    "/console/keys",
    "/console/login",
    "/console/playground",
    "/console/series",
    "/console/static/{version}/{name}",
    "/console/tenants",
    "/console/usage",
    "/console/usage.csv",
    "/console/workers",
)

ROUTES: Final[dict[tuple[str, str], Scope | Needs]] = {
    **{("POST", path): _WRITE for one in ENDPOINTS.values() for path in (one.path, *one.aliases)},
    ("GET", "/v1/responses/{response_id}"): _READ,
    ("DELETE", "/v1/responses/{response_id}"): _WRITE,
    ("POST", "/v1/responses/{response_id}/cancel"): _WRITE,
    ("POST", "/v1/responses/compact"): _WRITE,
    ("GET", "/v1/responses/{response_id}/input_items"): _READ,
    ("GET", "/v1/models"): Needs.KEY,
    ("GET", "/v1/models/{name:path}"): Needs.KEY,
    ("GET", "/v1/chat/completions"): _READ,
    ("GET", "/v1/chat/completions/{completion_id}"): _READ,
    ("POST", "/v1/chat/completions/{completion_id}"): _WRITE,
    ("DELETE", "/v1/chat/completions/{completion_id}"): _WRITE,
    ("GET", "/v1/chat/completions/{completion_id}/messages"): _READ,
    ("POST", "/v1/conversations"): _WRITE,
    ("GET", "/v1/conversations/{conversation_id}"): _READ,
    ("POST", "/v1/conversations/{conversation_id}"): _WRITE,
    ("DELETE", "/v1/conversations/{conversation_id}"): _WRITE,
    ("GET", "/v1/conversations/{conversation_id}/items"): _READ,
    ("POST", "/v1/conversations/{conversation_id}/items"): _WRITE,
    ("GET", "/v1/conversations/{conversation_id}/items/{item_id}"): _READ,
    ("DELETE", "/v1/conversations/{conversation_id}/items/{item_id}"): _WRITE,
    ("GET", "/v1/jobs"): _READ,
    ("POST", "/v1/jobs"): _WRITE,
    ("GET", "/v1/jobs/{job_id}"): _READ,
    ("PATCH", "/v1/jobs/{job_id}"): _WRITE,
    ("GET", "/v1/jobs/{job_id}/events"): _READ,
    ("GET", "/v1/jobs/{job_id}/stream"): _READ,
    ("GET", "/v1/jobs/{job_id}/input"): _READ,
    ("GET", "/v1/jobs/{job_id}/result"): _READ,
    ("POST", "/v1/jobs/{job_id}/cancel"): _WRITE,
    ("POST", "/v1/jobs/{job_id}/retry"): _WRITE,
    ("GET", "/v1/dead"): _READ,
    ("GET", "/v1/dead/groups"): _READ,
    ("POST", "/v1/dead/retry"): _WRITE,
    ("GET", "/v1/files"): _FILES,
    ("POST", "/v1/files"): _FILES,
    ("GET", "/v1/files/{file_id}"): _FILES,
    ("DELETE", "/v1/files/{file_id}"): _FILES,
    ("GET", "/v1/files/{file_id}/content"): _FILES,
    ("GET", "/v1/batches"): _BATCHES,
    ("POST", "/v1/batches"): _BATCHES,
    ("GET", "/v1/batches/{batch_id}"): _BATCHES,
    ("POST", "/v1/batches/{batch_id}/cancel"): _BATCHES,
    ("POST", "/v1/batches/{batch_id}/pause"): _BATCHES,
    ("POST", "/v1/batches/{batch_id}/resume"): _BATCHES,
    ("GET", "/v1/batches/{batch_id}/results"): _BATCHES,
    ("GET", "/v1/batches/{batch_id}/events"): _BATCHES,
    ("GET", "/v1/batches/{batch_id}/verify"): _BATCHES,
    ("POST", "/v1/batches/{batch_id}/retry"): _BATCHES,
    ("GET", "/v1/webhooks"): _READ,
    ("POST", "/v1/webhooks"): _WRITE,
    ("GET", "/v1/webhooks/secret"): _WRITE,
    ("POST", "/v1/webhooks/secret/rotate"): _WRITE,
    ("GET", "/v1/webhooks/{webhook_id}"): _READ,
    ("PATCH", "/v1/webhooks/{webhook_id}"): _WRITE,
    ("DELETE", "/v1/webhooks/{webhook_id}"): _WRITE,
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): _WRITE,
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): _READ,
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{event}/resend"): _WRITE,
    ("GET", "/v1/webhooks/{webhook_id}/dead"): _READ,
    ("POST", "/v1/webhooks/{webhook_id}/test"): _WRITE,
    ("GET", "/v1/admin/keys"): _ADMIN,
    ("POST", "/v1/admin/keys"): _ADMIN,
    ("GET", "/v1/admin/keys/{key_id}"): _ADMIN,
    ("POST", "/v1/admin/keys/{key_id}/rotate"): _ADMIN,
    ("DELETE", "/v1/admin/keys/{key_id}"): _ADMIN,
    ("GET", "/v1/admin/tenants"): _ADMIN,
    ("GET", "/v1/admin/tenants/{name}"): _ADMIN,
    ("PUT", "/v1/admin/tenants/{name}"): _ADMIN,
    ("PATCH", "/v1/admin/tenants/{name}"): _ADMIN,
    ("DELETE", "/v1/admin/tenants/{name}"): _ADMIN,
    ("GET", "/v1/admin/rollouts"): _ADMIN,
    ("GET", "/v1/admin/rollouts/{pool}"): _ADMIN,
    ("POST", "/v1/admin/rollouts/{pool}"): _ADMIN,
    ("POST", "/v1/admin/rollouts/{pool}/back"): _ADMIN,
    ("POST", "/v1/admin/rollouts/{pool}/abort"): _ADMIN,
    ("POST", "/v1/admin/rollouts/{pool}/switch"): _ADMIN,
    ("GET", "/v1/admin/pools"): _ADMIN,
    ("PUT", "/v1/admin/pools/{pool}"): _ADMIN,
    ("DELETE", "/v1/admin/pools/{pool}"): _ADMIN,
    ("GET", "/v1/admin/aliases"): _ADMIN,
    ("PUT", "/v1/admin/aliases/{alias:path}"): _ADMIN,
    ("DELETE", "/v1/admin/aliases/{alias:path}"): _ADMIN,
    ("GET", "/v1/admin/adapters"): _ADMIN,
    ("POST", "/v1/admin/adapters"): _ADMIN,
    ("GET", "/v1/admin/adapters/{pool}/{name:path}"): _ADMIN,
    ("PATCH", "/v1/admin/adapters/{pool}/{name:path}"): _ADMIN,
    ("DELETE", "/v1/admin/adapters/{pool}/{name:path}"): _ADMIN,
    ("GET", "/v1/me"): Needs.KEY,
    ("GET", "/v1/usage"): _READ,
    ("GET", "/v1/admin/audit"): _ADMIN,
    ("GET", "/v1/queues"): _READ,
    ("POST", "/v1/queues/{pool}/{action}"): _ADMIN,
    ("DELETE", "/v1/queues/{pool}/{lane}"): _ADMIN,
    ("GET", "/v1/autoscaling/{pool}"): _METRICS,
    ("GET", "/v1/workers"): _METRICS,
    ("POST", "/v1/workers/{name}/drain"): _ADMIN,
    ("GET", "/v1/metrics/targets"): Needs.NOTHING,
    ("GET", "/metrics"): Needs.NOTHING,  # series of tenants are for the scope `metrics`
    **{
        (method, path): Needs.NOTHING
        for method in ("GET", "HEAD")
        for path in ("/health", "/health/accepting", "/health/live", "/health/ready")
    },
    ("GET", "/"): Needs.NOTHING,
    # The console's pages ask the API with the credential of the session, and it checks that.
    **{("GET", path): Needs.NOTHING for path in _CONSOLE},
    ("POST", "/console/login"): Needs.NOTHING,
    ("POST", "/console/logout"): Needs.NOTHING,
    ("GET", "/docs"): Needs.NOTHING,
    ("GET", "/docs/{name}"): Needs.NOTHING,
}

KEYLESS_PATHS: Final = frozenset(path for (_, path), needs in ROUTES.items() if needs is Needs.NOTHING)
"""Paths that are answered without a key."""

_OUTSIDE: Final = frozenset(path for _, path in ROUTES if not path.startswith("/v1/")) - KEYLESS_PATHS
"""Paths outside ``/v1`` that need a key."""


def needs_key(path: str) -> bool:
    """Return whether a path is answered only to callers with a key, if there are keys."""
    return path in _OUTSIDE or (path.startswith("/v1/") and path not in KEYLESS_PATHS)


def scope_of(method: str, path: str) -> Scope | None:
    """Return the scope that an operation needs, by its path as the OpenAPI document writes it. None: it needs none."""
    needs = ROUTES.get((method, path)) or ROUTES[method, path.removesuffix("}") + ":path}"]
    return needs if isinstance(needs, Scope) else None


def require_scopes(routes: list[BaseRoute]) -> None:
    """Have every route check its caller.

    Raises:
        LookupError: a route has no row in the table, or a row no route.
    """
    unused = set(ROUTES)
    for route in routes:
        if not isinstance(route, APIRoute):
            continue
        needs = {place: ROUTES.get(place) for place in _places(route)}
        missing = [place for place, need in needs.items() if need is None]
        if missing:
            raise LookupError(f"no scope is named for {missing[0]}: add it to api/access/scopes.py")
        unused -= needs.keys()
        (need,) = set(needs.values())
        if isinstance(need, Scope):
            route.app = _Scoped(route.app, need)
    if unused:
        raise LookupError(f"there is no such route: {min(unused)}")


def _places(route: APIRoute) -> Iterator[tuple[str, str]]:
    return ((method, route.path) for method in route.methods)


class _Scoped:
    """A route that only callers with a scope reach."""

    def __init__(self, app: ASGIApp, needs: Scope) -> None:
        self._app, self._needs = app, needs

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Run the route.

        Raises:
            ApiError: 403, the caller's key lacks the scope.
        """
        if not identity_of(scope).may(self._needs):
            message = f"this key lacks the scope `{self._needs}`; ask an administrator for a key that has it"
            raise ApiError(403, message, "insufficient_scope")
        await self._app(scope, receive, send)
