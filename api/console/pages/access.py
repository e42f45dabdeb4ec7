"""Keys, tenants and the audit stream, for administrators."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.inside import segment
from api.console.visit import Visit
from jobs.access import TENANT_SCOPES, Scope

_KEYS: Final = 50
_TENANTS: Final = 25
_ACTS: Final = 50


async def _keys(visit: Visit) -> dict[str, Any]:
    tenant = visit.query.get("tenant") or None
    found = await visit.get("/v1/admin/keys", tenant=tenant, after=visit.query.get("after"), limit=_KEYS)
    return {
        "keys": found["data"],
        "tenant": tenant,
        "next": found["last_id"] if found["has_more"] else None,
        "scopes": [(scope.value, scope in TENANT_SCOPES) for scope in Scope],
    }


async def _tenants(visit: Visit) -> dict[str, Any]:
    found = await visit.get("/v1/admin/tenants", after=visit.query.get("after"), limit=_TENANTS)
    asked = [visit.get(f"/v1/admin/tenants/{segment(one['id'])}") for one in found["data"]]
    return {
        "tenants": await asyncio.gather(*asked),
        "next": found["last_id"] if found["has_more"] else None,
    }


async def _audit(visit: Visit) -> dict[str, Any]:
    what, tenant = visit.query.get("what") or None, visit.query.get("tenant") or None
    after = visit.query.get("after")
    found = await visit.get("/v1/admin/audit", what=what, tenant=tenant, after=after, limit=_ACTS)
    return {
        "acts": found["data"],
        "what": what,
        "tenant": tenant,
        "next": found["next_cursor"] if found["has_more"] else None,
    }


def register(router: APIRouter, frame: Frame) -> None:
    """Add the pages."""
    for name, title, load in (
        ("keys", "API keys", _keys),
        ("tenants", "Tenants", _tenants),
        ("audit", "Audit", _audit),
    ):
        entry = Entry("Administer", name, "admin")
        frame.add(router, Page(f"/console/{name}", f"{name}.html", title, load, entry))
