"""Every route of the OpenAPI document: the scope it needs, and the object that its path names.

A new route fails the tests here until it is in the tables below: a path that names an object needs a row in ``OBJECTS``,
and a request with a body needs one in ``BODIES``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import schemathesis

from api.access.scopes import ROUTES, Needs
from api.app import create_app
from api.settings import ApiSettings
from jobs.access import Scope

DOCUMENT: Final[dict[str, Any]] = create_app(ApiSettings()).openapi()

OBJECTS: Final = {
    "/v1/jobs/{job_id}": "job",
    "/v1/responses/{response_id}": "response",
    "/v1/files/{file_id}": "file",
    "/v1/batches/{batch_id}": "batch",
    "/v1/webhooks/{webhook_id}": "webhook",
    "/v1/conversations/{conversation_id}": "conversation",
    "/v1/chat/completions/{completion_id}": "chat",
    "/v1/models/{name}": "model",
    "/v1/workers/{name}": "worker",
    "/v1/queues/{pool}": "pool",
    "/v1/autoscaling/{pool}": "pool",
    "/v1/admin/keys/{key_id}": "key",
    "/v1/admin/tenants/{name}": "tenant",
    "/v1/admin/rollouts/{pool}": "pool",
    "/v1/admin/pools/{pool}": "pool",
    "/v1/admin/aliases/{alias}": "alias",
    "/v1/admin/adapters/{pool}": "adapter",
}
"""The kind of object that a path names, by the path up to its first parameter."""

MISSING: Final = {
    "job": f"job_{7:032x}",
    "response": f"resp_job_{7:032x}",
    "file": f"file-{7:032x}",
    "batch": f"batch_{7:032x}",
    "webhook": f"wh_{7:032x}",
    "conversation": f"conv_{7:032x}",
    "chat": f"chatcmpl-job_{7:032x}",
    "model": "no-such-model",
    "worker": "no-such-worker",
    "pool": "no-such-pool",
    "key": "7" * 12,
    "tenant": "no-such-tenant",
    "alias": "no-such-alias",
    "adapter": "no-such-pool",
}
"""An id of each kind that no object has."""

EVENT: Final = f"evt_{7:040x}"
"""An event that each webhook of the tests has given up."""

OTHER_PARAMETERS: Final = {"action": "pause", "lane": "low", "event": EVENT, "item_id": "kept", "name": "sql"}
"""Parameters of paths that name no object, with a value of each."""


@dataclass(frozen=True)
class Route:
    """An operation of the document.

    Attributes:
        needs: what its row in the table of scopes says.
        kind: of the object that its path names; None: it names none.
    """

    method: str
    path: str
    needs: Scope | Needs
    kind: str | None
    operation: Mapping[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def url(self, ident: str | None = None) -> str:
        """Return its path for an object; None: for one that does not exist."""
        given = dict(OTHER_PARAMETERS)
        if self.kind is not None:
            (first, *_) = re.findall(r"{(\w+)}", self.path)
            given[first] = MISSING[self.kind] if ident is None else ident
        return self.path.format(**given)

    @property
    def has_body(self) -> bool:
        return "requestBody" in self.operation


def _routes() -> list[Route]:
    table = {(method, re.sub(r":path}", "}", path)): needs for (method, path), needs in ROUTES.items()}
    found = []
    for path, operations in DOCUMENT["paths"].items():
        stem = re.match(r"[^{]*{\w+}", path)
        for method, operation in operations.items():
            kind = OBJECTS[stem[0]] if stem else None
            found.append(Route(method.upper(), path, table[method.upper(), path], kind, operation))
    return found


@cache
def operations() -> dict[str, Any]:
    """Return the operations of the document, as Schemathesis calls them; by the names of routes."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


ALL: Final = _routes()
GUARDED: Final = [route for route in ALL if route.needs is not Needs.NOTHING]
SCOPED: Final = [route for route in ALL if isinstance(route.needs, Scope)]
OF_TENANTS: Final = [
    route
    for route in SCOPED
    if route.kind in {"job", "response", "file", "batch", "conversation", "chat", "webhook"}
]
"""Those whose path names an object of a tenant."""

ADMINISTERED: Final = [route for route in SCOPED if route.kind in {"key", "tenant"}]
"""Those whose path names what belongs to a tenant, and which it cannot reach itself."""

BODIES: Final[dict[str, Mapping[str, Any]]] = {
    "PATCH /v1/jobs/{job_id}": {"json": {"priority": "low"}},
    "POST /v1/chat/completions/{completion_id}": {"json": {"metadata": {"topic": "x"}}},
    "POST /v1/conversations/{conversation_id}": {"json": {"metadata": {"topic": "x"}}},
    "POST /v1/conversations/{conversation_id}/items": {"json": {"items": [{"role": "user", "content": "x"}]}},
    "POST /v1/dead/retry": {"json": {}},
    "POST /v1/responses": {"json": {"model": "puppet", "input": "x"}},
    "POST /v1/batches": {"json": {"endpoint": "/v1/chat/completions", "completion_window": "24h"}},
    "PATCH /v1/webhooks/{webhook_id}": {"json": {"description": "changed"}},
    "POST /v1/webhooks/{webhook_id}/rotate": {"json": {"overlap_s": 60}},
    "POST /v1/admin/keys/{key_id}/rotate": {"json": {"overlap_s": 60}},
    "PUT /v1/admin/tenants/{name}": {"json": {"weight": 5}},
    "PATCH /v1/admin/tenants/{name}": {"json": {"weight": 5}},
    "POST /v1/admin/rollouts/{pool}": {"json": {"model": "m"}},
    "POST /v1/admin/rollouts/{pool}/switch": {"json": {"to": "other"}},
    "PUT /v1/admin/pools/{pool}": {"json": {"model": "m"}},
    "PUT /v1/admin/aliases/{alias}": {"json": {"model": "puppet"}},
    "PATCH /v1/admin/adapters/{pool}/{name}": {"json": {"pinned": True}},
}
"""A good body of each route with a body that names an object."""
